/*
 * calculation.c: the job `payout` and apapacho_payout_create(): make payouts of the creators' eligible transactions.
 *
 * The job runs in a background worker: batches of creators in the order of their ids, each one transaction and one
 * statement. When a batch fails its transaction is undone and its halves are tried, down to the creators who cannot be
 * paid. A batch's ids live in a memory context that is emptied after it. apapacho_payout_create() does the same
 * statement for one creator in its caller's transaction.
 *
 * Locks: one calculation at a time in a database, by a heavyweight lock that belongs to the session (job) or to the
 * transaction (function, whose payout nobody else can see before it commits). The statement locks the transactions that
 * it pays FOR SHARE: a refund that comes at the same time is either seen and left out, or waits for the end of the
 * batch.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "payout/internal.h"
#include "payout/payout.h"
#include "server/compat.h"
#include "server/settings.h"
#include "server/user_tables.h"

PG_FUNCTION_INFO_V1(apapacho_payout_create);

/* A run of the job. */
typedef struct Calculation {
    JobRun *run;
    PayRange range; /* the creators that are not left to helpers; its figures become those of all */
    int64 to_look_at;
    int64 skipped;
} Calculation;

static const char completed_sql[] =
    "INSERT INTO {OutboxEvent} (\"id\", \"aggregateType\", \"aggregateId\", \"eventType\", \"payload\", \"createdAt\")"
    " SELECT e.id, 'System', 'payout-calculation-job', 'PayoutCalculationJobCompleted', pg_catalog.jsonb_build_object("
    "  'eventId', e.id, 'eventType', 'PayoutCalculationJobCompleted', 'occurredAt', " ISO_TIME(
        "$1") ","
              "  'result', pg_catalog.jsonb_build_object('created', $2, 'skipped', $3, 'errors', $4)), $1"
              " FROM (SELECT apapacho_jobs.uuid_v7() AS id) AS e";

static void
find_lock(Calculation *calculation)
{
    xact_begin("finding the payout tables");
    (void)user_table_check(TABLE_PAYOUT);
    payout_lock_tag(&calculation->range.lock);
    xact_commit();
}

/* Begins the run: the rules, frozen, and whom to look at. */
static void
begin_run(Calculation *calculation)
{
    bool forced = job_argument_int(calculation->run, "forced", 0) != 0;
    PayoutRules *rules = &calculation->range.rules;
    MemoryContext before = CurrentMemoryContext;
    RunAs saved;

    xact_begin("checking the guards of payouts");
    payout_require_guards(true);
    xact_commit();

    payout_range_begin(&calculation->range, "reading the fee schedule", &saved);
    payout_read_rules(rules, forced);
    rules->fee_schedule = MemoryContextStrdup(calculation->run->context, rules->fee_schedule);
    rules->frequency = MemoryContextStrdup(calculation->run->context, rules->frequency);
    rules->zone = MemoryContextStrdup(calculation->run->context, rules->zone);
    run_as_end(&saved);
    xact_commit();

    calculation->to_look_at = payout_discover(rules, &calculation->range.everybody);
    payout_range_begin(&calculation->range, "beginning the payout calculation", &saved);
    calculation->range.run_id = MemoryContextStrdup(
        calculation->run->context, payout_begin_run(rules, calculation->run->id, calculation->range.everybody));
    run_as_end(&saved);
    xact_commit();
    MemoryContextSwitchTo(before);
}

/* Ends it: figures, what the next run can go by, and reasons that are too old to be kept (with the history). */
static void
end_run(Calculation *calculation)
{
    static const char skipped_sql[] =
        "SELECT pg_catalog.count(*) FROM apapacho_jobs.payout_reason AS n WHERE n.until_run IS NULL"
        " AND n.reason <> 'ERROR' AND NOT (n.paid AND n.from_run = $1)";
    static const char prune_sql[] =
        "DELETE FROM apapacho_jobs.payout_reason AS n WHERE n.until_run <= (SELECT pg_catalog.max(r.id COLLATE \"C\")"
        " FROM apapacho_jobs.payout_run AS r WHERE r.started_at < pg_catalog.now() - pg_catalog.make_interval("
        "  days => NULLIF(pg_catalog.current_setting('apapacho_jobs.history_days')::integer, 0)))";
    static const char created_sql[] =
        "SELECT pg_catalog.count(*) FROM apapacho_jobs.payout_origin AS o WHERE o.run_id = $1";
    static const char end_sql[] =
        "UPDATE apapacho_jobs.payout_run SET finished_at = pg_catalog.clock_timestamp(), created = $2, skipped = $3,"
        " errors = $4 WHERE id = $1";
    Oid types[] = {TEXTOID, INT8OID, INT8OID, INT8OID};
    Datum values[4];

    xact_begin("ending the payout calculation");
    if (!job_was_stopped())
        payout_discovered(&calculation->range.rules, calculation->range.everybody, calculation->range.run_id);
    values[0] = CStringGetTextDatum(calculation->range.run_id);
    (void)spi_run(skipped_sql, 1, types, values, NULL, false, 0);
    calculation->skipped = spi_int64(0, 1);
    (void)spi_run(created_sql, 1, types, values, NULL, false, 0);
    calculation->range.created = spi_int64(0, 1);
    values[1] = Int64GetDatum(calculation->range.created);
    values[2] = Int64GetDatum(calculation->skipped);
    values[3] = Int64GetDatum(calculation->range.errors);
    (void)spi_run(end_sql, 4, types, values, NULL, false, 0);
    (void)spi_run(prune_sql, 0, NULL, NULL, NULL, false, 0);
    xact_commit();
}

/* Emits the event about the run, and logs it. */
static void
report_completion(const Calculation *calculation)
{
    Oid types[] = {TIMESTAMPOID, INT8OID, INT8OID, INT8OID};
    Datum values[4];
    RunAs saved;

    payout_range_begin(&calculation->range, "completing the payout calculation", &saved);
    values[0] = TimestampGetDatum(payout_now());
    values[1] = Int64GetDatum(calculation->range.created);
    values[2] = Int64GetDatum(calculation->skipped);
    values[3] = Int64GetDatum(calculation->range.errors);
    if (spi_run(payout_sql(completed_sql), 4, types, values, NULL, false, 0) != 1)
        ereport(ERROR, (errcode(ERRCODE_TRIGGERED_ACTION_EXCEPTION),
                        errmsg("the event of the completed calculation could not be written"),
                        errdetail("A trigger or rule of the table kept the row from being written.")));
    run_as_end(&saved);
    xact_commit();
    ereport(LOG, (errmsg_internal("[Job:Payout] Completado - Creados: " INT64_FORMAT ", Omitidos: " INT64_FORMAT
                                  ", Errores: " INT64_FORMAT,
                                  calculation->range.created, calculation->skipped, calculation->range.errors),
                  errhidestmt(true), errhidecontext(true)));
}

char *
payout_calculate_run(JobRun *run)
{
    Calculation *calculation = MemoryContextAllocZero(run->context, sizeof(Calculation));

    calculation->run = run;
    calculation->range.run = run;
    calculation->range.takes_lock = true;
    find_lock(calculation);
    payout_range_lock(&calculation->range);
    PG_TRY();
    {
        begin_run(calculation);
        payout_share_out(&calculation->range, calculation->to_look_at);
        end_run(calculation);
        if (!job_was_stopped())
            report_completion(calculation);
    }
    PG_FINALLY();
    {
        if (calculation->range.locked)
            (void)LockRelease(&calculation->range.lock, ExclusiveLock, true);
    }
    PG_END_TRY();

    MemoryContextSwitchTo(run->context);
    return psprintf("{\"created\": " INT64_FORMAT ", \"skipped\": " INT64_FORMAT ", \"errors\": " INT64_FORMAT
                    ", \"payoutRun\": \"%s\"}",
                    calculation->range.created, calculation->skipped, calculation->range.errors,
                    calculation->range.run_id);
}

/* Takes the lock of calculations for the caller's transaction, or fails at once. */
static void
lock_for_transaction(void)
{
    LOCKTAG tag;

    if (IsolationUsesXactSnapshot())
        ereport(ERROR,
                (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                 errmsg("payouts cannot be created in a transaction of isolation level %s",
                        XactIsoLevel == XACT_SERIALIZABLE ? "serializable" : "repeatable read"),
                 errdetail("Its snapshot may be older than a payout that already includes the same transactions."),
                 errhint("Use a transaction of isolation level read committed.")));
    payout_lock_tag(&tag);
    if (LockAcquire(&tag, ExclusiveLock, false, true) == LOCKACQUIRE_NOT_AVAIL)
        ereport(ERROR,
                (errcode(ERRCODE_OBJECT_IN_USE), errmsg("another payout calculation is running in this database"),
                 errhint("Try again when it has ended.")));
}

/* apapacho_payout_create(creator_id, forced): {"success", "payoutId", "reason", "reasonCode"}. */
Datum
apapacho_payout_create(PG_FUNCTION_ARGS)
{
    MemoryContext caller = CurrentMemoryContext;
    char *creator_id = payout_text_argument(fcinfo, 0, "creator_id");
    bool forced = !PG_ARGISNULL(1) && PG_GETARG_BOOL(1);
    Eligibility found = {.reason_code = NULL};
    PayFigures figures;
    StringInfoData json;
    PayoutRules rules;
    RunAs saved;

    payout_connect_spi();
    payout_require_guards(true);
    payout_run_as(&saved);
    lock_for_transaction();
    payout_read_rules(&rules, forced);
    payout_eligibility(&rules, creator_id, false, &found); /* which is an error when there is no such creator */
    payout_pay(&rules, payout_begin_run(&rules, 0, false), &creator_id, NULL, 1, &figures);
    if (figures.payout_id == NULL)
        payout_eligibility(&rules, creator_id, true, &found);
    run_as_end(&saved);

    MemoryContextSwitchTo(caller);
    initStringInfo(&json);
    appendStringInfo(&json, "{\"success\": %s", figures.payout_id != NULL ? "true" : "false");
    payout_json_text(&json, "payoutId", figures.payout_id);
    payout_json_text(&json, "reason", figures.payout_id != NULL ? NULL : found.reason);
    payout_json_text(&json, "reasonCode", figures.payout_id != NULL ? NULL : found.reason_code);
    appendStringInfoChar(&json, '}');
    SPI_finish();
    PG_RETURN_DATUM(DirectFunctionCall1(jsonb_in, CStringGetDatum(json.data)));
}
