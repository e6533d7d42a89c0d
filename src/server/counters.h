/*
 * counters.h: what publishers count, in shared memory, for each database. They begin at zero when the server starts.
 */
#ifndef APAPACHO_COUNTERS_H
#define APAPACHO_COUNTERS_H

#include "postgres.h"

#include "port/atomics.h"
#include "utils/timestamp.h"

#define COUNTER_CLASSES 10 /* as DeliveryErrorClass; the first one counts deliveries */
#define COUNTER_BUCKETS 14 /* of the time that deliveries took */

typedef struct OutboxCounters {
    Oid database; /* InvalidOid: free. Set under shared->lock, once */
    TimestampTz since;
    pg_atomic_uint64 outcomes[COUNTER_CLASSES];
    pg_atomic_uint64 took[COUNTER_BUCKETS]; /* each: longer than the one before, up to counter_bucket_ms(i) */
    pg_atomic_uint64 took_us;               /* in all */
    pg_atomic_uint64 reused_connections;
    pg_atomic_uint32 in_flight;
} OutboxCounters;

/* The connected database's counters; NULL: there are too many databases. */
OutboxCounters *counters_of_database(void);

/* The upper bound of a bucket in milliseconds; the last one has none: -1. */
double counter_bucket_ms(int bucket);

/* Counts an attempt that has ended. */
void counters_add(OutboxCounters *counters, int error_class, int64 took_us, bool reused_connection);

#endif
