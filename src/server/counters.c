/*
 * counters.c: counters in shared memory. Written by publishers and read by status functions, without a lock.
 */
#include "postgres.h"

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
    pg_atomic_init_u64(&counters->took_us, 0);
    pg_atomic_init_u64(&counters->reused_connections, 0);
    pg_atomic_init_u32(&counters->in_flight, 0);
}

OutboxCounters *
counters_of_database(void)
{
    OutboxCounters *found = NULL;

    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    for (int i = 0; i < MAX_SCHEDULERS && found == NULL; i++) {
        OutboxCounters *counters = &shared->counters[i];

        if (counters->database == MyDatabaseId)
            found = counters;
        else if (counters->database == InvalidOid) {
            reset(counters);
            counters->database = MyDatabaseId;
            found = counters;
        }
    }
    LWLockRelease(shared->lock);
    return found;
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
}
