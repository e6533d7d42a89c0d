/*
 * cleanup.c: the job `cleanup`: deletes what nobody needs any more: events that were published long ago, retries of
 * events that need none, finished runs of the history.
 *
 * Runs in a background worker, in many short transactions. Each batch is looked up along the index ("publishedAt",
 * "createdAt") from where the last one ended, so that it does not walk over what was deleted before.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "datatype/timestamp.h"
#include "storage/lmgr.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "outbox/attempt.h"
#include "outbox/hand.h"
#include "outbox/outbox.h"
#include "server/delivery_settings.h"
#include "server/settings.h"
#include "server/user_tables.h"
#include "server/xact.h"

#define BATCH_ROWS 5000
#define DEFAULT_DAYS 30
#define MAX_DAYS 36500

/* Where a batch of deleted events has ended. Those that were published at one time may be very many. */
typedef struct Place {
    Timestamp published_at;
    Timestamp created_at;
} Place;

/* The next rows to delete and the times of the last of them. */
static const char find_sql[] =
    "SELECT pg_catalog.array_agg(e.ctid), (pg_catalog.array_agg(e.\"publishedAt\"))[pg_catalog.count(*)],"
    " (pg_catalog.array_agg(e.\"createdAt\"))[pg_catalog.count(*)] FROM"
    " (SELECT ctid, \"publishedAt\", \"createdAt\" FROM %s WHERE (\"publishedAt\", \"createdAt\") >= ($1, $2)"
    "  AND \"publishedAt\" < $3 ORDER BY \"publishedAt\", \"createdAt\" LIMIT $4) e";

/* With the condition again: rows may have moved, and partitions use the same places. */
static const char delete_sql[] = "DELETE FROM %s e WHERE e.ctid = ANY ($1) AND e.\"publishedAt\" < $2";

/* Retries whose event is gone or done with; found as the owner of the events, deleted as ourselves. */
static const char find_retries_sql[] =
    "SELECT pg_catalog.array_agg(DISTINCT r.event_id) FROM apapacho_jobs.outbox_waiting r WHERE NOT EXISTS"
    " (SELECT FROM %s e WHERE e.id = r.event_id AND e.\"publishedAt\" IS NULL"
    "  AND (e.\"retryCount\" < $1 OR r.failed_at IS NOT NULL))";

static const char delete_retries_sql[] = "DELETE FROM apapacho_jobs.outbox_retry WHERE event_id = ANY ($1)";

/* Old runs of the history, by the settings of the scheduler's room. */
static const char history_sql[] = "SELECT apapacho_jobs.prune_history($1)";

/* Deletes a batch of events; *since moves on to its last one. Returns the number of events deleted. */
static uint64
delete_events(Place *since, Timestamp before)
{
    Oid types[] = {TIMESTAMPOID, TIMESTAMPOID, TIMESTAMPOID, INT4OID};
    Datum values[] = {TimestampGetDatum(since->published_at), TimestampGetDatum(since->created_at),
                      TimestampGetDatum(before), Int32GetDatum(BATCH_ROWS)};
    Oid delete_types[] = {TIDARRAYOID, TIMESTAMPOID};
    Datum delete_values[] = {(Datum)0, TimestampGetDatum(before)};
    uint64 deleted = 0;
    char *table;
    RunAs saved;
    int level;

    xact_begin("apapacho_jobs: deleting old outbox events");
    run_as(&saved, user_table_check(TABLE_OUTBOX_EVENT));
    table = user_table_name(TABLE_OUTBOX_EVENT);
    level = outbox_plan_by_index();
    (void)spi_run(psprintf(find_sql, table), 4, types, values, NULL, true, 1);
    AtEOXact_GUC(true, level);
    if (!spi_is_null(0, 1)) {
        bool is_null;

        delete_values[0] = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &is_null);
        since->published_at =
            DatumGetTimestamp(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &is_null));
        since->created_at = DatumGetTimestamp(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 3, &is_null));
        deleted = spi_run(psprintf(delete_sql, table), 2, delete_types, delete_values, NULL, false, 0);
    }
    run_as_end(&saved);
    xact_commit();
    return deleted;
}

static void
delete_retries(void)
{
    Oid types[] = {INT4OID, TEXTARRAYOID};
    Datum most = Int32GetDatum(setting_outbox_max_retries);
    RunAs saved;
    Datum ids;
    bool none;

    xact_begin("apapacho_jobs: deleting old outbox retries");
    run_as(&saved, user_table_check(TABLE_OUTBOX_EVENT));
    (void)spi_run(psprintf(find_retries_sql, user_table_name(TABLE_OUTBOX_EVENT)), 1, types, &most, NULL, true, 1);
    ids = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &none);
    run_as_end(&saved);
    if (!none)
        (void)spi_run(delete_retries_sql, 1, &types[1], &ids, NULL, false, 0);
    xact_commit();
}

/* Empties a bucket of attempts all of which are old enough, unless somebody is reading it just now. */
static void
empty_bucket(int bucket)
{
    static const char sql[] = "SELECT (pg_catalog.max(at) OPERATOR(pg_catalog.<) $2)::integer"
                              " FROM apapacho_jobs.outbox_attempt WHERE bucket OPERATOR(pg_catalog.=) $1";
    Oid types[] = {INT2OID, TIMESTAMPTZOID};
    Datum values[] = {Int16GetDatum((int16)bucket),
                      TimestampTzGetDatum(GetCurrentTimestamp() - setting_outbox_attempts_days * USECS_PER_DAY)};
    char *table = psprintf("outbox_attempt_%d", bucket);

    xact_begin("apapacho_jobs: emptying a part of the log of attempts");
    (void)spi_run(sql, 2, types, values, NULL, true, 1);
    if (spi_int64(0, 1) == 1 &&
        ConditionalLockRelationOid(get_relname_relid(table, get_namespace_oid("apapacho_jobs", false)),
                                   AccessExclusiveLock))
        (void)spi_run(psprintf("TRUNCATE apapacho_jobs.%s", table), 0, NULL, NULL, NULL, false, 0);
    xact_commit();
}

/* Attempts that are older than whole buckets can be: the setting has been changed. Returns how many were deleted. */
static uint64
delete_attempts(void)
{
    static const char sql[] =
        "DELETE FROM apapacho_jobs.outbox_attempt AS a USING (SELECT o.tableoid, o.ctid FROM "
        "apapacho_jobs.outbox_attempt AS o"
        " WHERE o.at OPERATOR(pg_catalog.<) $1 ORDER BY o.at LIMIT $2) AS old"
        " WHERE a.tableoid OPERATOR(pg_catalog.=) old.tableoid AND a.ctid OPERATOR(pg_catalog.=) old.ctid";
    Oid types[] = {TIMESTAMPTZOID, INT4OID};
    int days = setting_outbox_attempts_days + attempt_bucket_days();
    Datum values[] = {TimestampTzGetDatum(GetCurrentTimestamp() - days * USECS_PER_DAY), Int32GetDatum(BATCH_ROWS)};
    uint64 deleted;

    xact_begin("apapacho_jobs: deleting old attempts");
    deleted = spi_run(sql, 2, types, values, NULL, false, 0);
    xact_commit();
    return deleted;
}

static void
clean_attempts(const JobRun *run)
{
    if (setting_outbox_attempts_days == 0)
        return;
    for (int bucket = 0; bucket < ATTEMPT_BUCKETS && !job_should_stop(run); bucket++)
        empty_bucket(bucket);
    while (!job_should_stop(run) && delete_attempts() == BATCH_ROWS)
        ;
}

static int64
delete_runs(void)
{
    Oid types[] = {INT4OID};
    Datum values[] = {Int32GetDatum(BATCH_ROWS)};
    int64 deleted;

    xact_begin("apapacho_jobs: deleting old runs");
    (void)spi_run(history_sql, 1, types, values, NULL, false, 1);
    deleted = spi_int64(0, 1);
    xact_commit();
    return deleted;
}

/* The argument `days`. */
static int64
days_asked_for(const JobRun *run)
{
    int64 days = job_argument_int(run, "days", DEFAULT_DAYS);

    if (days < 0 || days > MAX_DAYS)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("the number of days must be between 0 and %d, not " INT64_FORMAT, MAX_DAYS, days)));
    return days;
}

char *
outbox_cleanup_run(JobRun *run)
{
    int64 days = days_asked_for(run);
    TimestampTz now = GetCurrentTimestamp();
    Place since = {DT_NOBEGIN, DT_NOBEGIN};
    uint64 total = 0;
    uint64 deleted;
    MemoryContext before;
    char *result;

    while (!job_should_stop(run) && delete_runs() == BATCH_ROWS)
        ;
    while (!job_should_stop(run) && (deleted = delete_events(&since, now - days * USECS_PER_DAY)) > 0) {
        total += deleted;
        job_progress((int64)total, -1, "events deleted");
    }
    clean_attempts(run);
    delete_retries();

    ereport(LOG, (errmsg_internal("[Job:Cleanup] Limpiados " UINT64_FORMAT " eventos", total)));
    before = MemoryContextSwitchTo(run->context);
    result = psprintf("{\"deleted\": " UINT64_FORMAT "}", total);
    MemoryContextSwitchTo(before);
    return result;
}
