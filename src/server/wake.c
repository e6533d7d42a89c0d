/*
 * wake.c: the flag by which commits wake publishers. In every backend (setting it), in schedulers and publishers.
 *
 * The slot of the database is looked for without the lock, since every commit that adds events passes here: what a
 * slot that changes at this moment can cause is an event that waits for the next schedule, or a wake-up for nothing.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "port/atomics.h"

#include "server/compat.h"
#include "server/seats.h"
#include "server/shared.h"
#include "server/wake.h"

static SchedulerSlot *
find_slot(void)
{
    static int last = 0; /* where it was */

    if (shared->schedulers[last].database == MyDatabaseId && shared->schedulers[last].state == SCHEDULER_RUNNING)
        return &shared->schedulers[last];
    for (int i = 0; i < MAX_SCHEDULERS; i++) {
        if (shared->schedulers[i].database == MyDatabaseId && shared->schedulers[i].state == SCHEDULER_RUNNING) {
            last = i;
            return &shared->schedulers[i];
        }
    }
    return NULL;
}

/* The latch of whoever sees to new events. */
static void
wake_someone(const SchedulerSlot *slot)
{
    int publisher = slot->publisher;

    shared_wake(publisher != NO_PROCESS ? publisher : slot->process);
}

void
wake_publisher(void)
{
    SchedulerSlot *slot = find_slot();

    if (slot != NULL && pg_atomic_exchange_u32(&slot->new_events, 1) == 0)
        wake_someone(slot);
    seats_note_events();
}

bool
wake_is_pending(void)
{
    SchedulerSlot *slot = find_slot();

    return slot != NULL && pg_atomic_read_u32(&slot->new_events) != 0;
}

bool
wake_take(void)
{
    SchedulerSlot *slot = find_slot();

    return slot != NULL && pg_atomic_exchange_u32(&slot->new_events, 0) != 0;
}

void
wake_listen(void)
{
    SchedulerSlot *slot;

    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    slot = find_slot();
    if (slot != NULL)
        slot->publisher = MY_PROC_NUMBER;
    LWLockRelease(shared->lock);
}

void
wake_unlisten(void)
{
    SchedulerSlot *slot;

    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    slot = find_slot();
    if (slot != NULL && slot->publisher == MY_PROC_NUMBER) {
        slot->publisher = NO_PROCESS;
        pg_memory_barrier();
        if (pg_atomic_read_u32(&slot->new_events) != 0)
            wake_someone(slot);
    }
    LWLockRelease(shared->lock);
}

void
wake_note_due(TimestampTz at)
{
    SchedulerSlot *slot;

    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    slot = find_slot();
    if (slot != NULL && (slot->publisher_due_at == 0 || at < slot->publisher_due_at)) {
        slot->publisher_due_at = at;
        shared_wake(slot->process);
    }
    LWLockRelease(shared->lock);
}

void
wake_forget_due(void)
{
    SchedulerSlot *slot;

    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    slot = find_slot();
    if (slot != NULL)
        slot->publisher_due_at = 0;
    LWLockRelease(shared->lock);
}

TimestampTz
wake_due_at(void)
{
    TimestampTz at = 0;
    SchedulerSlot *slot;

    LWLockAcquire(shared->lock, LW_SHARED);
    slot = find_slot();
    if (slot != NULL)
        at = slot->publisher_due_at;
    LWLockRelease(shared->lock);
    return at;
}

void
wake_hold(TimestampTz until)
{
    SchedulerSlot *slot;

    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    slot = find_slot();
    if (slot != NULL) {
        slot->publisher_held_until = until;
        shared_wake(slot->process);
    }
    LWLockRelease(shared->lock);
}

TimestampTz
wake_held_until(void)
{
    TimestampTz until = 0;
    SchedulerSlot *slot;

    LWLockAcquire(shared->lock, LW_SHARED);
    slot = find_slot();
    if (slot != NULL)
        until = slot->publisher_held_until;
    LWLockRelease(shared->lock);
    return until;
}
