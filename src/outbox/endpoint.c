/*
 * endpoint.c: judges receivers of events, and writes their state. In a publisher, as ourselves, in short transactions
 * of its own.
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

/* One that somebody else is just changing stays as that leaves it: nothing is waited for with events on their way. */
static const char open_sql[] =
    "UPDATE apapacho_jobs.outbox_endpoint AS e SET open_since = COALESCE(e.open_since, pg_catalog.clock_timestamp()),"
    " failed_probes = n.failed_probes, last_error = $5,"
    " probe_at = CASE WHEN e.open_since IS NOT NULL AND NOT $6 THEN e.probe_at ELSE pg_catalog.clock_timestamp()"
    "  + LEAST($1 * 2 ^ LEAST(n.failed_probes, $2), $3) * $4 * pg_catalog.make_interval(secs => 0.001) END"
    " FROM (SELECT o.name, CASE WHEN o.open_since IS NULL THEN 0 WHEN $6 THEN o.failed_probes + 1 ELSE o.failed_probes "
    "END"
    "  AS failed_probes, o.open_since IS NULL AS opens FROM apapacho_jobs.outbox_endpoint AS o WHERE o.name = $7"
    "  FOR UPDATE SKIP LOCKED) AS n WHERE e.name = n.name RETURNING e.probe_at, n.opens";

static const char close_sql[] =
    "UPDATE apapacho_jobs.outbox_endpoint AS e SET open_since = NULL, probe_at = NULL, failed_probes = 0, last_error = "
    "NULL"
    " FROM (SELECT o.name FROM apapacho_jobs.outbox_endpoint AS o WHERE o.name = $1 AND o.open_since IS NOT NULL"
    "  FOR UPDATE SKIP LOCKED) AS n WHERE e.name = n.name";

static const char stop_sql[] =
    "UPDATE apapacho_jobs.outbox_endpoint AS e SET stopped_at = pg_catalog.clock_timestamp(), open_since = NULL,"
    " probe_at = NULL, failed_probes = 0, last_error = $1"
    " FROM (SELECT o.name FROM apapacho_jobs.outbox_endpoint AS o WHERE o.name = $2 FOR UPDATE SKIP LOCKED) AS n"
    " WHERE e.name = n.name";

/* How a receiver is called in messages. */
static const char *
described(const Endpoint *endpoint)
{
    return strcmp(endpoint->name, OUTBOX_DEFAULT_ENDPOINT) == 0
               ? "the webhook receiver"
               : psprintf("the webhook receiver \"%s\"", outbox_printable(endpoint->name));
}

/* apapacho_outbox_resume() with what it needs to know. */
static const char *
resuming(const Endpoint *endpoint)
{
    return strcmp(endpoint->name, OUTBOX_DEFAULT_ENDPOINT) == 0
               ? "apapacho_outbox_resume()"
               : psprintf("apapacho_outbox_resume('%s')", outbox_printable(endpoint->name));
}

void
endpoint_note(Endpoint *endpoint, bool there, bool gone)
{
    endpoint->failures = there ? 0 : endpoint->failures + 1;
    endpoint->answers += there;
    endpoint->is_gone = endpoint->is_gone || gone;
}

void
endpoint_opened(Endpoint *endpoint)
{
    Oid types[] = {INT4OID, INT4OID, INT4OID, FLOAT8OID, TEXTOID, BOOLOID, TEXTOID};
    Datum values[7];
    const char *error = endpoint->problem != NULL ? endpoint->problem : endpoint->last_error;
    MemoryContext caller = CurrentMemoryContext;
    bool opens = false;

    xact_begin("apapacho_jobs: opening the circuit breaker of an endpoint");
    values[0] = Int32GetDatum(FIRST_PROBE_MS);
    values[1] = Int32GetDatum(MOST_DOUBLINGS);
    values[2] = Int32GetDatum(LONGEST_PROBE_MS);
    values[3] = Float8GetDatum(1 + pg_prng_double(&pg_global_prng_state) / 10);
    values[4] = CStringGetTextDatum(error);
    values[5] = BoolGetDatum(endpoint->state == ENDPOINT_PROBING);
    values[6] = CStringGetTextDatum(endpoint->name);
    endpoint->probe_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), FIRST_PROBE_MS);
    if (spi_run(open_sql, lengthof(types), types, values, NULL, false, 0) == 1) {
        bool is_null;

        endpoint->probe_at = spi_time(0, 1);
        opens = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &is_null));
    }
    xact_commit();
    MemoryContextSwitchTo(caller);
    endpoint->state = ENDPOINT_OPEN;
    endpoint->failures = 0;
    if (opens && endpoint->problem != NULL)
        ereport(WARNING,
                (errcode(ERRCODE_CONFIG_FILE_ERROR), errmsg("%s cannot be sent events: %s", described(endpoint), error),
                 errdetail("It is looked at again from time to time."),
                 errhint("%s makes it go on at once.", resuming(endpoint))));
    else if (opens)
        ereport(WARNING, (errcode(ERRCODE_CONNECTION_FAILURE),
                          errmsg("%s failed %d times in a row, no more events are sent for now: %s",
                                 described(endpoint), ENDPOINT_FAILURES, error),
                          errdetail("It is tried with one event from time to time, and goes on when that succeeds."),
                          errhint("%s makes it go on at once.", resuming(endpoint))));
}

void
endpoint_closed(Endpoint *endpoint)
{
    Oid type = TEXTOID;
    Datum value;
    MemoryContext caller = CurrentMemoryContext;

    xact_begin("apapacho_jobs: closing the circuit breaker of an endpoint");
    value = CStringGetTextDatum(endpoint->name);
    (void)spi_run(close_sql, 1, &type, &value, NULL, false, 0);
    xact_commit();
    MemoryContextSwitchTo(caller);
    endpoint->state = ENDPOINT_CLOSED;
    endpoint->probe_at = 0;
    ereport(LOG, (errmsg("%s is back, events are sent again", described(endpoint))));
}

void
endpoint_stopped(Endpoint *endpoint)
{
    Oid types[] = {TEXTOID, TEXTOID};
    Datum values[2];
    MemoryContext caller = CurrentMemoryContext;

    xact_begin("apapacho_jobs: stopping an endpoint");
    values[0] = CStringGetTextDatum(endpoint->last_error);
    values[1] = CStringGetTextDatum(endpoint->name);
    (void)spi_run(stop_sql, 2, types, values, NULL, false, 0);
    xact_commit();
    MemoryContextSwitchTo(caller);
    endpoint->state = ENDPOINT_STOPPED;
    ereport(WARNING, (errcode(ERRCODE_CONNECTION_FAILURE),
                      errmsg("%s says that it is gone for good, no more events are sent: %s", described(endpoint),
                             endpoint->last_error),
                      errhint("%s makes it go on.", resuming(endpoint))));
}
