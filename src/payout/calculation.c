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

#define PAY_PARAMETERS (RULE_PARAMETERS + 2)

/* A run of the job. */
typedef struct Calculation {
    JobRun *run;
    LOCKTAG lock;
    bool locked; /* whether we hold it; the end of a failed transaction takes it away */
    PayoutRules rules;
    MemoryContext batch; /* of the ids at hand; emptied between batches */
    char *last_id;       /* of the batch before, in run->context; NULL at first */
    int64 created;
    int64 skipped;
    int64 errors;
} Calculation;

static const char next_creators_sql[] =
    "SELECT c.\"id\" FROM {Creator} AS c WHERE $1 IS NULL OR c.\"id\" > $1 ORDER BY c.\"id\" LIMIT $2";

/*
 * Pays a range of creators. $1 to $6: the rules ({creators}), $7 the end of the period, $8 now. The creators who will
 * be paid are decided on first, so that nobody else's transactions are locked; what is locked is then summed up again,
 * for some of it may have changed.
 */
static const char pay_sql[] =
    "WITH creator AS MATERIALIZED ({creators}),"
    " payable AS MATERIALIZED ("
    "  SELECT apapacho_jobs.uuid_v7() AS payout_id, apapacho_jobs.uuid_v7() AS event_id, y.creator_id, s.*"
    "  FROM creator AS y CROSS JOIN LATERAL ("
    "   SELECT pg_catalog.sum(l.gross)::bigint AS gross, pg_catalog.sum(l.fee)::bigint AS fee,"
    "    pg_catalog.sum(l.amount)::bigint AS amount, pg_catalog.min(l.occurred_at) AS period_start,"
    "    pg_catalog.array_agg(l.id) AS ids, pg_catalog.array_agg(l.amount) AS amounts"
    "   FROM (SELECT t.\"id\" AS id, t.\"grossAmount\" AS gross, t.\"platformFeeAmount\" AS fee,"
    "     t.\"creatorPayableAmount\" AS amount, t.\"occurredAt\" AS occurred_at"
    "     FROM {Transaction} AS t WHERE t.\"creatorId\" = y.creator_id AND {eligible} AND {unpaid}"
    "     ORDER BY t.\"occurredAt\" FOR SHARE OF t) AS l"
    "   HAVING pg_catalog.sum(l.amount) >= $4 AND pg_catalog.sum(l.amount) > 0) AS s"
    "  WHERE y.reason IS NULL OR y.reason = 'ERROR'),"
    " payout AS ("
    "  INSERT INTO {Payout} (\"id\", \"creatorId\", \"periodStart\", \"periodEnd\", \"currency\", \"grossTotal\","
    "   \"platformFeeTotal\", \"adjustmentsTotal\", \"payoutAmount\", \"status\", \"createdAt\", \"updatedAt\")"
    "  SELECT y.payout_id, y.creator_id, y.period_start, $7, 'CLP', y.gross, y.fee, 0, y.amount,"
    "   'CALCULATED'::{PayoutStatus}, $8, $8 FROM payable AS y RETURNING 1),"
    " item AS ("
    "  INSERT INTO {PayoutItem} (\"id\", \"payoutId\", \"transactionId\", \"amount\", \"createdAt\")"
    "  SELECT apapacho_jobs.uuid_v7(), y.payout_id, u.id, u.amount, $8"
    "  FROM payable AS y CROSS JOIN LATERAL"
    "   ROWS FROM (pg_catalog.unnest(y.ids), pg_catalog.unnest(y.amounts)) AS u (id, amount) RETURNING 1),"
    " event AS ("
    "  INSERT INTO {OutboxEvent} (\"id\", \"aggregateType\", \"aggregateId\", \"eventType\", \"payload\", "
    "\"createdAt\")"
    "  SELECT y.event_id, 'Payout', y.payout_id, 'PayoutCalculated', pg_catalog.jsonb_build_object("
    "   'eventId', y.event_id, 'eventType', 'PayoutCalculated', 'occurredAt', " ISO_TIME(
        "$8") ","
              "   'payout', pg_catalog.jsonb_build_object('id', y.payout_id, 'creatorId', y.creator_id,"
              "    'periodStart', " ISO_TIME("y.period_start") ", 'periodEnd', " ISO_TIME(
                  "$7") ", 'currency', 'CLP',"
                        "    'grossTotal', y.gross, 'platformFeeTotal', y.fee, 'adjustmentsTotal', 0, 'payoutAmount', "
                        "y.amount),"
                        "   'config', pg_catalog.jsonb_build_object('minPayoutClp', $4, 'holdDays', $5),"
                        "   'includedTransactionIds', pg_catalog.to_jsonb(y.ids), 'excludedReason', NULL), $8 FROM "
                        "payable AS y RETURNING 1)"
                        " SELECT (SELECT pg_catalog.count(*) FROM creator AS c WHERE c.unpaid > 0), (SELECT "
                        "pg_catalog.count(*) FROM payable),"
                        "  (SELECT pg_catalog.min(y.payout_id) FROM payable AS y),"
                        "  (SELECT pg_catalog.count(*) FROM payable) OPERATOR(pg_catalog.<>) (SELECT "
                        "pg_catalog.count(*) FROM payout)"
                        "  OR (SELECT pg_catalog.count(*) FROM payable) OPERATOR(pg_catalog.<>) (SELECT "
                        "pg_catalog.count(*) FROM event)"
                        "  OR (SELECT COALESCE(pg_catalog.sum(pg_catalog.cardinality(y.ids)), 0) FROM payable AS y)"
                        "   OPERATOR(pg_catalog.<>) (SELECT pg_catalog.count(*) FROM item)";

static const char completed_sql[] =
    "INSERT INTO {OutboxEvent} (\"id\", \"aggregateType\", \"aggregateId\", \"eventType\", \"payload\", \"createdAt\")"
    " SELECT e.id, 'System', 'payout-calculation-job', 'PayoutCalculationJobCompleted', pg_catalog.jsonb_build_object("
    "  'eventId', e.id, 'eventType', 'PayoutCalculationJobCompleted', 'occurredAt', " ISO_TIME(
        "$1") ","
              "  'result', pg_catalog.jsonb_build_object('created', $2, 'skipped', $3, 'errors', $4)), $1"
              " FROM (SELECT apapacho_jobs.uuid_v7() AS id) AS e";

/* The lock of calculations. It stands for the table "Payout" as it is now. */
static void
make_lock_tag(LOCKTAG *tag)
{
    Oid table = get_relname_relid("Payout", get_namespace_oid(setting_schema, true));

    SET_LOCKTAG_OBJECT(*tag, MyDatabaseId, RelationRelationId, table, 1);
}

static void
find_lock(Calculation *calculation)
{
    xact_begin("finding the payout tables");
    (void)user_table_check(TABLE_PAYOUT);
    make_lock_tag(&calculation->lock);
    xact_commit();
}

/* Waits for its turn, in a transaction that holds nothing else and no snapshot. */
static void
lock_for_session(Calculation *calculation)
{
    pgstat_report_activity(STATE_RUNNING, "waiting for another payout calculation");
    StartTransactionCommand();
    (void)LockAcquire(&calculation->lock, ExclusiveLock, true, false);
    CommitTransactionCommand();
    calculation->locked = true;
    pgstat_report_activity(STATE_IDLE, NULL);
}

/* Begins a transaction of the run as the tables' owner. */
static void
begin_step(const Calculation *calculation, const char *activity, RunAs *saved)
{
    LOCKTAG tag;

    xact_begin(activity);
    payout_run_as(saved);
    make_lock_tag(&tag);
    if (memcmp(&tag, &calculation->lock, sizeof(tag)) != 0)
        ereport(ERROR, (errcode(ERRCODE_OBJECT_IN_USE),
                        errmsg("table %s was replaced during the payout calculation", user_table_name(TABLE_PAYOUT)),
                        errhint("Run the job again.")));
}

/* Pays a range of creators in the transaction at hand. The result is in SPI_tuptable: creators with unpaid
 * transactions, payouts, an id. */
static void
pay_creators(const PayoutRules *rules, const char *first, const char *last)
{
    Oid types[PAY_PARAMETERS];
    Datum values[PAY_PARAMETERS];
    char nulls[PAY_PARAMETERS];
    bool is_null;

    payout_rule_parameters(rules, first, last, types, values, nulls);
    for (int i = RULE_PARAMETERS; i < PAY_PARAMETERS; i++) {
        types[i] = TIMESTAMPOID;
        nulls[i] = ' ';
    }
    values[RULE_PARAMETERS] = TimestampGetDatum(rules->now);
    values[RULE_PARAMETERS + 1] = TimestampGetDatum(payout_now());
    (void)spi_run(payout_sql(pay_sql), PAY_PARAMETERS, types, values, nulls, false, 0);
    if (DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 4, &is_null)))
        ereport(ERROR, (errcode(ERRCODE_TRIGGERED_ACTION_EXCEPTION),
                        errmsg("a payout, its items or its event could not be written"),
                        errdetail("A trigger or rule of the tables kept a row from being written.")));
}

/* Pays creators in a transaction of their own; counts them once it is committed. A PayoutStep. */
static void
pay_in_transaction(void *state, char **ids, int count)
{
    Calculation *calculation = state;
    int64 considered;
    int64 created;
    RunAs saved;

    if (!calculation->locked)
        lock_for_session(calculation);
    calculation->locked = false; /* if it fails: an abort releases the session's locks too */
    begin_step(calculation, "calculating payouts", &saved);
    if (count > 0)
        pay_creators(&calculation->rules, ids[0], ids[count - 1]);
    else
        pay_creators(&calculation->rules, "1", "0"); /* a range that no id is in */
    considered = spi_int64(0, 1);
    created = spi_int64(0, 2);
    run_as_end(&saved);
    xact_commit();
    calculation->locked = true;
    calculation->created += created;
    calculation->skipped += considered - created;
}

/* The ids of the next creators, in the batch's memory; their number in *count. */
static char **
next_creators(Calculation *calculation, int *count)
{
    Oid types[] = {TEXTOID, INT4OID};
    Datum values[2] = {(Datum)0, Int32GetDatum(setting_payout_batch_size)};
    char nulls[2] = {'n', ' '};
    char **ids;
    RunAs saved;

    begin_step(calculation, "finding creators to pay", &saved);
    if (calculation->last_id != NULL) {
        values[0] = CStringGetTextDatum(calculation->last_id);
        nulls[0] = ' ';
    }
    *count = (int)spi_run(payout_sql(next_creators_sql), 2, types, values, nulls, true, 0);
    MemoryContextSwitchTo(calculation->batch);
    ids = palloc(sizeof(char *) * Max(*count, 1));
    for (int i = 0; i < *count; i++)
        ids[i] = spi_text(i, 1);
    run_as_end(&saved);
    xact_commit();
    return ids;
}

static void
pay_everybody(Calculation *calculation)
{
    PayoutWork work = {
        .step = pay_in_transaction,
        .state = calculation,
        .memory = calculation->batch,
        .failure = "could not calculate the payout of creator",
    };

    while (!job_should_stop(calculation->run)) {
        int count;
        char **ids = next_creators(calculation, &count);

        if (count == 0)
            break;
        MemoryContextSwitchTo(calculation->batch);
        calculation->errors += payout_divide(&work, ids, count);
        if (calculation->last_id != NULL)
            pfree(calculation->last_id);
        calculation->last_id = MemoryContextStrdup(calculation->run->context, ids[count - 1]);
        MemoryContextSwitchTo(calculation->run->context);
        MemoryContextReset(calculation->batch);
        job_progress(calculation->created + calculation->skipped + calculation->errors, -1, "creators");
    }
}

/* Emits the event about the run, and logs it. */
static void
report_completion(const Calculation *calculation)
{
    Oid types[] = {TIMESTAMPOID, INT8OID, INT8OID, INT8OID};
    Datum values[4];
    RunAs saved;

    begin_step(calculation, "completing the payout calculation", &saved);
    values[0] = TimestampGetDatum(payout_now());
    values[1] = Int64GetDatum(calculation->created);
    values[2] = Int64GetDatum(calculation->skipped);
    values[3] = Int64GetDatum(calculation->errors);
    if (spi_run(payout_sql(completed_sql), 4, types, values, NULL, false, 0) != 1)
        ereport(ERROR, (errcode(ERRCODE_TRIGGERED_ACTION_EXCEPTION),
                        errmsg("the event of the completed calculation could not be written"),
                        errdetail("A trigger or rule of the table kept the row from being written.")));
    run_as_end(&saved);
    xact_commit();
    ereport(LOG, (errmsg_internal("[Job:Payout] Completado - Creados: " INT64_FORMAT ", Omitidos: " INT64_FORMAT
                                  ", Errores: " INT64_FORMAT,
                                  calculation->created, calculation->skipped, calculation->errors),
                  errhidestmt(true), errhidecontext(true)));
}

char *
payout_calculate_run(JobRun *run)
{
    Calculation *calculation = MemoryContextAllocZero(run->context, sizeof(Calculation));
    RunAs saved;

    calculation->run = run;
    calculation->batch = AllocSetContextCreate(run->context, "apapacho_jobs payout batch", ALLOCSET_DEFAULT_SIZES);
    find_lock(calculation);
    lock_for_session(calculation);
    PG_TRY();
    {
        begin_step(calculation, "reading the fee schedule", &saved);
        payout_read_rules(&calculation->rules);
        run_as_end(&saved);
        xact_commit();
        pay_everybody(calculation);
        if (!job_was_stopped())
            report_completion(calculation);
    }
    PG_FINALLY();
    {
        if (calculation->locked)
            (void)LockRelease(&calculation->lock, ExclusiveLock, true);
    }
    PG_END_TRY();

    MemoryContextSwitchTo(run->context);
    return psprintf("{\"created\": " INT64_FORMAT ", \"skipped\": " INT64_FORMAT ", \"errors\": " INT64_FORMAT "}",
                    calculation->created, calculation->skipped, calculation->errors);
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
    make_lock_tag(&tag);
    if (LockAcquire(&tag, ExclusiveLock, false, true) == LOCKACQUIRE_NOT_AVAIL)
        ereport(ERROR,
                (errcode(ERRCODE_OBJECT_IN_USE), errmsg("another payout calculation is running in this database"),
                 errhint("Try again when it has ended.")));
}

/* apapacho_payout_create(creator_id): {"success", "payoutId", "reason", "reasonCode"}. */
Datum
apapacho_payout_create(PG_FUNCTION_ARGS)
{
    MemoryContext caller = CurrentMemoryContext;
    char *creator_id = payout_text_argument(fcinfo, 0, "creator_id");
    Eligibility found = {.reason_code = NULL};
    char *payout_id = NULL;
    StringInfoData json;
    PayoutRules rules;
    RunAs saved;

    payout_connect_spi();
    payout_run_as(&saved);
    lock_for_transaction();
    payout_read_rules(&rules);
    payout_eligibility(&rules, creator_id, &found);
    if (found.reason_code == NULL || strcmp(found.reason_code, "ERROR") == 0) {
        pay_creators(&rules, creator_id, creator_id);
        payout_id = spi_text(0, 3);
        if (payout_id == NULL)
            ereport(ERROR,
                    (errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
                     errmsg("transactions of creator \"%s\" changed while the payout was being created", creator_id),
                     errhint("Try again.")));
    }
    run_as_end(&saved);

    MemoryContextSwitchTo(caller);
    initStringInfo(&json);
    appendStringInfo(&json, "{\"success\": %s", payout_id != NULL ? "true" : "false");
    payout_json_text(&json, "payoutId", payout_id);
    payout_json_text(&json, "reason", found.reason);
    payout_json_text(&json, "reasonCode", found.reason_code);
    appendStringInfoChar(&json, '}');
    SPI_finish();
    PG_RETURN_DATUM(DirectFunctionCall1(jsonb_in, CStringGetDatum(json.data)));
}
