/*
 * seats.c: who publishes, and which slots are whose. In publishers; seats_note_events() in every backend.
 *
 * Seats are written under shared->lock. What a publisher should have is read without it, as it is in one word, and so
 * is whether there are any by whoever commits: a seat that is just being taken looks at the table afterwards.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "storage/ipc.h"

#include "server/compat.h"
#include "server/seats.h"
#include "server/shared.h"

static int my_seat = NO_SEAT;

static bool
is_ours(const PublisherSeat *seat)
{
    return seat->database == MyDatabaseId;
}

static int
slots_of(const PublisherSeat *seat)
{
    return pg_popcount64(pg_atomic_read_u64((pg_atomic_uint64 *)&seat->slots));
}

static void
add_slots(PublisherSeat *seat, uint64 slots)
{
    pg_atomic_write_u64(&seat->slots, pg_atomic_read_u64(&seat->slots) | slots);
}

/*
 * The seat of our database that has the fewest slots for its weight, or the most. Of equals the first, or the last.
 */
static PublisherSeat *
find_extreme(bool most)
{
    PublisherSeat *found = NULL;

    for (int i = 0; i < MAX_SEATS; i++) {
        PublisherSeat *seat = &shared->seats[i];
        int difference;

        if (!is_ours(seat))
            continue;
        if (found == NULL) {
            found = seat;
            continue;
        }
        difference = slots_of(seat) * found->weight - slots_of(found) * seat->weight;
        if (most ? difference >= 0 : difference < 0)
            found = seat;
    }
    return found;
}

/* Divides the slots anew; each publisher looks at what it should have. The lock is held. */
static void
divide(void)
{
    uint64 taken = 0;

    for (int i = 0; i < MAX_SEATS; i++) {
        if (is_ours(&shared->seats[i]))
            taken |= pg_atomic_read_u64(&shared->seats[i].slots);
    }
    for (uint64 left = ~taken; left != 0; left &= left - 1) {
        PublisherSeat *seat = find_extreme(false);

        if (seat == NULL)
            return;
        add_slots(seat, left & -left);
    }
    for (;;) {
        PublisherSeat *from = find_extreme(true);
        PublisherSeat *to = find_extreme(false);
        uint64 slots;

        if (from == NULL || (slots_of(to) + 1) * from->weight >= slots_of(from) * to->weight)
            break;
        slots = pg_atomic_read_u64(&from->slots);
        pg_atomic_write_u64(&from->slots, slots & (slots - 1));
        add_slots(to, slots & -slots);
    }
    for (int i = 0; i < MAX_SEATS; i++) {
        if (is_ours(&shared->seats[i]))
            shared_wake(shared->seats[i].process);
    }
}

static void
free_seat(PublisherSeat *seat)
{
    seat->database = InvalidOid;
    seat->process = NO_PROCESS;
    pg_atomic_write_u64(&seat->slots, 0);
}

void
seat_leave(void)
{
    if (my_seat == NO_SEAT)
        return;
    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    free_seat(&shared->seats[my_seat]);
    divide();
    LWLockRelease(shared->lock);
    my_seat = NO_SEAT;
}

static void
leave_at_exit(int code, Datum argument)
{
    seat_leave();
}

int
seat_take(int weight)
{
    static bool registered = false;

    Assert(my_seat == NO_SEAT);
    if (!registered)
        on_shmem_exit(leave_at_exit, (Datum)0); /* the locks are free by then */
    registered = true;
    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    for (int i = 0; i < MAX_SEATS && my_seat == NO_SEAT; i++) {
        PublisherSeat *seat = &shared->seats[i];

        if (OidIsValid(seat->database))
            continue;
        my_seat = i;
        seat->database = MyDatabaseId;
        seat->process = MY_PROC_NUMBER;
        seat->weight = weight;
        pg_atomic_write_u32(&seat->new_events, 1);
        divide();
    }
    LWLockRelease(shared->lock);
    return my_seat;
}

void
seat_set_weight(int weight)
{
    if (my_seat == NO_SEAT || shared->seats[my_seat].weight == weight)
        return;
    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    shared->seats[my_seat].weight = weight;
    divide();
    LWLockRelease(shared->lock);
}

uint64
seat_slots(int seat)
{
    return seat == NO_SEAT ? ALL_SLOTS : pg_atomic_read_u64(&shared->seats[seat].slots);
}

int
seats_others(int seat)
{
    int weight = 0;

    LWLockAcquire(shared->lock, LW_SHARED);
    for (int i = 0; i < MAX_SEATS; i++) {
        if (i != seat && is_ours(&shared->seats[i]))
            weight += shared->seats[i].weight;
    }
    LWLockRelease(shared->lock);
    return weight;
}

bool
seats_any(void)
{
    for (int i = 0; i < MAX_SEATS; i++) {
        if (is_ours(&shared->seats[i]))
            return true;
    }
    return false;
}

void
seats_note_events(void)
{
    for (int i = 0; i < MAX_SEATS; i++) {
        PublisherSeat *seat = &shared->seats[i];

        if (is_ours(seat) && pg_atomic_exchange_u32(&seat->new_events, 1) == 0)
            shared_wake(seat->process);
    }
}

bool
seat_has_events(int seat)
{
    return seat != NO_SEAT && pg_atomic_read_u32(&shared->seats[seat].new_events) != 0;
}

bool
seat_take_events(int seat)
{
    return seat != NO_SEAT && pg_atomic_exchange_u32(&shared->seats[seat].new_events, 0) != 0;
}
