/*
 * endpoint.c: reads and writes the state of a receiver of events. In the publisher's worker, as ourselves, in short
 * transactions of its own.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/pg_prng.h"
#include "utils/builtins.h"

#include "outbox/endpoint.h"
#include "outbox/hand.h"
#include "server/wake.h"
#include "server/xact.h"

/* Until the first probe; it doubles with each that fails, up to the longest. A tenth more at random. */
#define FIRST_PROBE_MS 5000
#define LONGEST_PROBE_MS 300000
#define MOST_DOUBLINGS 10

static const char load_sql[] =
    "SELECT paused_at, stopped_at, probe_at FROM apapacho_jobs.outbox_endpoint WHERE name = 'default'";

/* One that somebody else is just changing stays as that leaves it: nothing is waited for with events on their way. */
static const char open_sql[] =
    "UPDATE apapacho_jobs.outbox_endpoint AS e SET open_since = COALESCE(e.open_since, pg_catalog.clock_timestamp()),"
    " failed_probes = n.failed_probes, last_error = $5,"
    " probe_at = CASE WHEN e.open_since IS NOT NULL AND NOT $6 THEN e.probe_at ELSE pg_catalog.clock_timestamp()"
    "  + LEAST($1 * 2 ^ LEAST(n.failed_probes, $2), $3) * $4 * pg_catalog.make_interval(secs => 0.001) END"
    " FROM (SELECT o.name, CASE WHEN o.open_since IS NULL THEN 0 WHEN $6 THEN o.failed_probes + 1 ELSE o.failed_probes "
    "END"
    "  AS failed_probes, o.open_since IS NULL AS opens FROM apapacho_jobs.outbox_endpoint AS o WHERE o.name = 'default'"
    "  FOR UPDATE SKIP LOCKED) AS n WHERE e.name = n.name RETURNING e.probe_at, n.opens";

static const char close_sql[] =
    "UPDATE apapacho_jobs.outbox_endpoint AS e SET open_since = NULL, probe_at = NULL, failed_probes = 0, last_error = "
    "NULL"
    " FROM (SELECT o.name FROM apapacho_jobs.outbox_endpoint AS o WHERE o.name = 'default' AND o.open_since IS NOT NULL"
    "  FOR UPDATE SKIP LOCKED) AS n WHERE e.name = n.name";

static const char stop_sql[] =
    "UPDATE apapacho_jobs.outbox_endpoint AS e SET stopped_at = pg_catalog.clock_timestamp(), open_since = NULL,"
    " probe_at = NULL, failed_probes = 0, last_error = $1"
    " FROM (SELECT o.name FROM apapacho_jobs.outbox_endpoint AS o WHERE o.name = 'default' FOR UPDATE SKIP LOCKED) AS n"
    " WHERE e.name = n.name";

void
endpoint_load(Endpoint *endpoint, bool probe_now)
{
    MemoryContext caller = CurrentMemoryContext;

    endpoint->state = ENDPOINT_CLOSED;
    endpoint->probe_at = 0;
    xact_begin("apapacho_jobs: looking whether events may be sent");
    if (spi_run(load_sql, 0, NULL, NULL, NULL, true, 1) == 1) {
        endpoint->probe_at = spi_time(0, 3);
        if (!spi_is_null(0, 1))
            endpoint->state = ENDPOINT_PAUSED;
        else if (!spi_is_null(0, 2))
            endpoint->state = ENDPOINT_STOPPED;
        else if (endpoint->probe_at != 0)
            endpoint->state =
                probe_now || endpoint->probe_at <= GetCurrentTimestamp() ? ENDPOINT_PROBING : ENDPOINT_OPEN;
    }
    xact_commit();
    MemoryContextSwitchTo(caller);
}

void
endpoint_opened(Endpoint *endpoint, const char *error)
{
    Oid types[] = {INT4OID, INT4OID, INT4OID, FLOAT8OID, TEXTOID, BOOLOID};
    Datum values[6];
    MemoryContext caller = CurrentMemoryContext;
    bool opens = false;

    xact_begin("apapacho_jobs: opening the circuit breaker of an endpoint");
    values[0] = Int32GetDatum(FIRST_PROBE_MS);
    values[1] = Int32GetDatum(MOST_DOUBLINGS);
    values[2] = Int32GetDatum(LONGEST_PROBE_MS);
    values[3] = Float8GetDatum(1 + pg_prng_double(&pg_global_prng_state) / 10);
    values[4] = CStringGetTextDatum(error);
    values[5] = BoolGetDatum(endpoint->state == ENDPOINT_PROBING);
    endpoint->probe_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), FIRST_PROBE_MS);
    if (spi_run(open_sql, lengthof(types), types, values, NULL, false, 0) == 1) {
        bool is_null;

        endpoint->probe_at = spi_time(0, 1);
        opens = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &is_null));
    }
    xact_commit();
    MemoryContextSwitchTo(caller);
    endpoint->state = ENDPOINT_OPEN;
    if (opens)
        ereport(WARNING, (errcode(ERRCODE_CONNECTION_FAILURE),
                          errmsg("the webhook receiver failed %d times in a row, no more events are sent for now: %s",
                                 ENDPOINT_FAILURES, error),
                          errdetail("It is tried with one event from time to time, and goes on when that succeeds."),
                          errhint("apapacho_outbox_resume() makes it go on at once.")));
}

void
endpoint_closed(Endpoint *endpoint)
{
    MemoryContext caller = CurrentMemoryContext;

    xact_begin("apapacho_jobs: closing the circuit breaker of an endpoint");
    (void)spi_run(close_sql, 0, NULL, NULL, NULL, false, 0);
    xact_commit();
    MemoryContextSwitchTo(caller);
    endpoint->state = ENDPOINT_CLOSED;
    endpoint->probe_at = 0;
    ereport(LOG, (errmsg("the webhook receiver is back, events are sent again")));
}

void
endpoint_stopped(Endpoint *endpoint, const char *error)
{
    Oid type = TEXTOID;
    Datum value;
    MemoryContext caller = CurrentMemoryContext;

    xact_begin("apapacho_jobs: stopping an endpoint");
    value = CStringGetTextDatum(error);
    (void)spi_run(stop_sql, 1, &type, &value, NULL, false, 0);
    xact_commit();
    MemoryContextSwitchTo(caller);
    endpoint->state = ENDPOINT_STOPPED;
    ereport(WARNING, (errcode(ERRCODE_CONNECTION_FAILURE),
                      errmsg("the webhook receiver says that it is gone for good, no more events are sent: %s", error),
                      errhint("apapacho_outbox_resume() makes it go on.")));
}
