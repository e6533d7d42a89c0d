/*
 * counters.c: counters in shared memory. Written by publishers and read by status functions, without a lock.
 */
#include "postgres.h"

#include <time.h>

#include "miscadmin.h"

#include "server/counters.h"
#include "server/shared.h"

static const double bounds_ms[COUNTER_BUCKETS - 1] = {1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000};

static void
reset(OutboxCounters *counters)
{
    counters->since = GetCurrentTimestamp();
    for (int i = 0; i < COUNTER_CLASSES; i++)
        pg_atomic_init_u64(&counters->outcomes[i], 0);
    for (int i = 0; i < COUNTER_BUCKETS; i++)
        pg_atomic_init_u64(&counters->took[i], 0);
    for (int i = 0; i < COUNTER_SECONDS; i++)
        pg_atomic_init_u64(&counters->seconds[i], 0);
    pg_atomic_init_u64(&counters->took_us, 0);
    pg_atomic_init_u64(&counters->reused_connections, 0);
    pg_atomic_init_u32(&counters->in_flight, 0);
}

/* Under the lock. */
static OutboxCounters *
find(Oid database, const char *endpoint)
{
    for (int i = 0; i < MAX_COUNTERS; i++) {
        OutboxCounters *counters = &shared->counters[i];

        if (counters->database == database &&
            (database == InvalidOid || strncmp(counters->endpoint, endpoint, NAMEDATALEN - 1) == 0))
            return counters;
    }
    return NULL;
}

OutboxCounters *
counters_of_endpoint(const char *name, bool create)
{
    OutboxCounters *found;

    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    found = find(MyDatabaseId, name);
    if (found == NULL && create && (found = find(InvalidOid, NULL)) != NULL) {
        reset(found);
        strlcpy(found->endpoint, name, NAMEDATALEN);
        found->database = MyDatabaseId;
    }
    LWLockRelease(shared->lock);
    return found;
}

void
counters_forget(const char *name)
{
    OutboxCounters *found;

    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    found = find(MyDatabaseId, name);
    if (found != NULL)
        found->database = InvalidOid;
    LWLockRelease(shared->lock);
}

/* Counts a delivery in its second. A race between two publishers at the turn of a second may lose some: no harm. */
static void
count_second(OutboxCounters *counters)
{
    uint64 second = (uint64)time(NULL);
    pg_atomic_uint64 *slot = &counters->seconds[second % COUNTER_SECONDS];
    uint64 value = pg_atomic_read_u64(slot);

    if (value >> 32 != second)
        pg_atomic_write_u64(slot, (second << 32) + 1);
    else
        pg_atomic_fetch_add_u64(slot, 1);
}

int64
counters_last_minute(const OutboxCounters *counters)
{
    uint64 now = (uint64)time(NULL);
    int64 sum = 0;

    for (int i = 0; i < COUNTER_SECONDS; i++) {
        uint64 value = pg_atomic_read_u64((pg_atomic_uint64 *)&counters->seconds[i]);

        if ((value >> 32) + 60 > now)
            sum += (int64)(value & 0xffffffff);
    }
    return sum;
}

double
counter_bucket_ms(int bucket)
{
    return bucket < COUNTER_BUCKETS - 1 ? bounds_ms[bucket] : -1;
}

void
counters_add(OutboxCounters *counters, int error_class, int64 took_us, bool reused_connection)
{
    int bucket = 0;

    if (counters == NULL)
        return;
    while (bucket < COUNTER_BUCKETS - 1 && took_us > bounds_ms[bucket] * 1000)
        bucket++;
    pg_atomic_fetch_add_u64(&counters->outcomes[error_class], 1);
    pg_atomic_fetch_add_u64(&counters->took[bucket], 1);
    pg_atomic_fetch_add_u64(&counters->took_us, took_us);
    if (reused_connection)
        pg_atomic_fetch_add_u64(&counters->reused_connections, 1);
    if (error_class == 0)
        count_second(counters);
}
