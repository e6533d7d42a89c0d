/*
 * counters.h: what publishers count, in shared memory, for each endpoint of each database. They begin at zero when the
 * server starts.
 */
#ifndef APAPACHO_COUNTERS_H
#define APAPACHO_COUNTERS_H

#include "postgres.h"

#include "port/atomics.h"
#include "utils/timestamp.h"

#define COUNTER_CLASSES 10 /* as DeliveryErrorClass; the first one counts deliveries */
#define COUNTER_BUCKETS 14 /* of the time that deliveries took */

#define COUNTER_SECONDS 64 /* a ring, for the last minute */
#define MAX_COUNTERS 256

typedef struct OutboxCounters {
    Oid database; /* InvalidOid: free. Set under shared->lock, as the next two */
    char endpoint[NAMEDATALEN];
    TimestampTz since;
    pg_atomic_uint64 outcomes[COUNTER_CLASSES];
    pg_atomic_uint64 took[COUNTER_BUCKETS]; /* each: longer than the one before, up to counter_bucket_ms(i) */
    pg_atomic_uint64 took_us;               /* in all */
    pg_atomic_uint64 reused_connections;
    pg_atomic_uint32 in_flight;
    pg_atomic_uint64 seconds[COUNTER_SECONDS]; /* deliveries in a second (low half) since 1970 (high half) */
} OutboxCounters;

/* The counters of an endpoint of the connected database. NULL: it has none yet, or (`create`) there are too many. */
OutboxCounters *counters_of_endpoint(const char *name, bool create);

/* An endpoint is gone: its counters are free for another one. */
void counters_forget(const char *name);

/* Deliveries of the last minute. */
int64 counters_last_minute(const OutboxCounters *counters);

/* The upper bound of a bucket in milliseconds; the last one has none: -1. */
double counter_bucket_ms(int bucket);

/* Counts an attempt that has ended. */
void counters_add(OutboxCounters *counters, int error_class, int64 took_us, bool reused_connection);

#endif
