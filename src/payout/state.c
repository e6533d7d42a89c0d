/*
 * state.c: what becomes of a payout: sent, failed or cancelled. The one place that changes a payout's status; each
 * change goes with its event, in the caller's transaction.
 *
 * Runs in the backends of those who call the SQL functions, as the owner of the tables. The payout's row is locked from
 * the check of its present state to the end of the caller's transaction.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/timestamp.h"

#include "payout/internal.h"
#include "server/compat.h"
#include "server/settings.h"
#include "server/ids.h"
#include "server/user_tables.h"

PG_FUNCTION_INFO_V1(apapacho_payout_mark_sent);
PG_FUNCTION_INFO_V1(apapacho_payout_mark_failed);
PG_FUNCTION_INFO_V1(apapacho_payout_mark_cancelled);

#define RETRY_INTERVAL (24 * USECS_PER_HOUR)

static const char lock_sql[] = "SELECT p.\"status\"::text, p.\"retryCount\", p.\"providerTransferId\","
                               " p.\"failureReason\" FROM {Payout} AS p WHERE p.\"id\" = $1 FOR UPDATE";

/* What has been reported of a transfer; true: for the first time. */
static const char report_sql[] =
    "INSERT INTO apapacho_jobs.payout_report (payout_id, reference, outcome) VALUES ($1, $2, $3)"
    " ON CONFLICT DO NOTHING";

static const char sent_sql[] =
    "UPDATE {Payout} AS p SET \"status\" = 'SENT'::{PayoutStatus}, \"sentAt\" = $2, \"providerTransferId\" = $3,"
    " \"nextRetryAt\" = NULL, \"updatedAt\" = $2 WHERE p.\"id\" = $1";

static const char failed_sql[] =
    "UPDATE {Payout} AS p SET \"status\" = $4::{PayoutStatus}, \"failedAt\" = $2, \"failureReason\" = $3,"
    " \"retryCount\" = $5, \"nextRetryAt\" = $6, \"updatedAt\" = $2 WHERE p.\"id\" = $1";

static const char cancelled_sql[] =
    "UPDATE {Payout} AS p SET \"status\" = 'CANCELLED'::{PayoutStatus}, \"failureReason\" = $3, \"nextRetryAt\" = NULL,"
    " \"updatedAt\" = $2 WHERE p.\"id\" = $1";

/* An event's payload is what all events have and what this one adds, from the payout as it is after the change. */
static const char event_sql[] =
    "INSERT INTO {OutboxEvent} (\"id\", \"aggregateType\", \"aggregateId\", \"eventType\", \"payload\", \"createdAt\")"
    " SELECT $2, 'Payout', p.\"id\", $3, pg_catalog.jsonb_build_object('eventId', $2, 'eventType', $3,"
    "  'occurredAt', " ISO_TIME(
        "$4") ", 'payoutId', p.\"id\", 'creatorId', p.\"creatorId\", 'amount', p.\"payoutAmount\")"
              "  OPERATOR(pg_catalog.||) pg_catalog.jsonb_build_object(%s), $4 FROM {Payout} AS p WHERE p.\"id\" = $1";

static const char sent_payload[] =
    "'providerTransferId', p.\"providerTransferId\", 'sentAt', " ISO_TIME("p.\"sentAt\"");

static const char failed_payload[] =
    "'failureReason', p.\"failureReason\", 'retryCount', p.\"retryCount\", 'nextRetryAt', " ISO_TIME(
        "p.\"nextRetryAt\"");

static const char cancelled_payload[] = "'reason', p.\"failureReason\"";

static const char state_sql[] =
    "SELECT pg_catalog.jsonb_build_object('payoutId', p.\"id\", 'creatorId', p.\"creatorId\", 'status', p.\"status\","
    " 'payoutAmount', p.\"payoutAmount\", 'retryCount', p.\"retryCount\", 'nextRetryAt', " ISO_TIME(
        "p.\"nextRetryAt\"") ","
                             " 'sentAt', " ISO_TIME(
                                 "p.\"sentAt\"") ", 'providerTransferId', p.\"providerTransferId\","
                                                 " 'failedAt', " ISO_TIME(
                                                     "p.\"failedAt\"") ", 'failureReason', p.\"failureReason\")"
                                                                       " FROM {Payout} AS p WHERE p.\"id\" = $1";

/* A payout that is about to change: its arguments and its present state. */
typedef struct Change {
    MemoryContext caller;
    RunAs saved;
    char *payout_id;
    char *detail; /* the second argument: transfer id or reason */
    Timestamp now;
    char *status;
    int32 retry_count;
    char *transfer_id;
    char *failure_reason;
} Change;

/* Reads the arguments, becomes the owner of the tables and locks the payout. */
static void
begin_change(FunctionCallInfo fcinfo, const char *detail_name, Change *change)
{
    Oid type = TEXTOID;
    Datum value;

    change->caller = CurrentMemoryContext;
    change->payout_id = payout_text_argument(fcinfo, 0, "payout_id");
    change->detail = payout_text_argument(fcinfo, 1, detail_name);
    payout_connect_spi();
    payout_require_guards(true);
    payout_run_as(&change->saved);
    value = CStringGetTextDatum(change->payout_id);
    if (spi_run(payout_sql(lock_sql), 1, &type, &value, NULL, false, 1) == 0)
        ereport(ERROR, (errcode(ERRCODE_NO_DATA_FOUND), errmsg("payout \"%s\" does not exist", change->payout_id),
                        errhint("Payouts are named by their \"id\" in %s.", user_table_name(TABLE_PAYOUT))));
    change->status = spi_text(0, 1);
    change->retry_count = (int32)spi_int64(0, 2);
    change->transfer_id = spi_text(0, 3);
    change->failure_reason = spi_text(0, 4);
    /* The clock, once the row is locked: a long statement must not date its change, and the event, before an earlier
     * one. */
    change->now = GetCurrentTimestamp() + (int64)setting_clock_offset * USECS_PER_SEC;
    change->now -= change->now % 1000;
}

/* Only a payout that is on its way can change: ERROR when it has come to an end. */
static void
require_open(const Change *change, const char *mark)
{
    if (strcmp(change->status, "CALCULATED") != 0 && strcmp(change->status, "PENDING") != 0)
        ereport(ERROR,
                (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                 errmsg("payout \"%s\" is %s and cannot be marked as %s", change->payout_id, change->status, mark),
                 errdetail("Only payouts that are CALCULATED or PENDING can be.")));
}

/* Whether that is reported of that transfer for the first time. */
static bool
report(const Change *change, const char *reference, const char *outcome)
{
    Oid types[] = {TEXTOID, TEXTOID, TEXTOID};
    Datum values[] = {CStringGetTextDatum(change->payout_id), CStringGetTextDatum(reference),
                      CStringGetTextDatum(outcome)};

    return spi_run(report_sql, 3, types, values, NULL, false, 0) > 0;
}

/* Does the update and emits its event. The statement's first three parameters are the payout's id, now, and the detail.
 */
static void
apply_change(const Change *change, const char *update, int count, Oid *types, Datum *values, const char *nulls,
             const char *event_type, const char *payload)
{
    Oid event_types[] = {TEXTOID, TEXTOID, TEXTOID, TIMESTAMPOID};
    Datum event_values[4];
    char event_id[UUID_TEXT_SIZE];
    volatile bool changed = false;

    types[0] = TEXTOID;
    types[1] = TIMESTAMPOID;
    types[2] = TEXTOID;
    values[0] = CStringGetTextDatum(change->payout_id);
    values[1] = TimestampGetDatum(change->now);
    values[2] = CStringGetTextDatum(change->detail);
    uuid_v7(event_id);
    event_values[0] = values[0];
    event_values[1] = CStringGetTextDatum(event_id);
    event_values[2] = CStringGetTextDatum(event_type);
    event_values[3] = values[1];
    PG_TRY();
    {
        payout_announcing = event_type;
        changed = spi_run(payout_sql(update), count, types, values, nulls, false, 0) == 1;
    }
    PG_FINALLY();
    {
        payout_announcing = NULL;
    }
    PG_END_TRY();
    if (!changed ||
        spi_run(payout_sql(psprintf(event_sql, payload)), 4, event_types, event_values, NULL, false, 0) != 1)
        ereport(ERROR, (errcode(ERRCODE_TRIGGERED_ACTION_EXCEPTION),
                        errmsg("payout \"%s\" could not be changed", change->payout_id),
                        errdetail("A trigger, rule or policy of the tables kept the row from being written.")));
}

/* The payout as it is now, as jsonb of the caller's. */
static Datum
end_change(const Change *change)
{
    Oid type = TEXTOID;
    Datum value = CStringGetTextDatum(change->payout_id);
    MemoryContext before;
    bool is_null;
    Datum result;

    /* in the transaction's snapshot of now, which has our own changes */
    if (spi_run(payout_sql(state_sql), 1, &type, &value, NULL, false, 1) != 1)
        elog(ERROR, "payout \"%s\" has vanished", change->payout_id);
    before = MemoryContextSwitchTo(change->caller);
    result = datumCopy(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &is_null), false, -1);
    MemoryContextSwitchTo(before);
    run_as_end(&change->saved);
    SPI_finish();
    return result;
}

/* apapacho_payout_mark_sent(payout_id, provider_transfer_id); a second report of the same transfer changes nothing. */
Datum
apapacho_payout_mark_sent(PG_FUNCTION_ARGS)
{
    Oid types[3];
    Datum values[3];
    Change change;

    begin_change(fcinfo, "provider_transfer_id", &change);
    if (strcmp(change.status, "SENT") == 0 && change.transfer_id != NULL &&
        strcmp(change.transfer_id, change.detail) == 0)
        PG_RETURN_DATUM(end_change(&change));
    require_open(&change, "sent");
    (void)report(&change, change.detail, "SENT");
    apply_change(&change, sent_sql, 3, types, values, NULL, "PayoutSent", sent_payload);
    PG_RETURN_DATUM(end_change(&change));
}

/*
 * apapacho_payout_mark_failed(payout_id, reason, reference, terminal); a second report of the same reference changes
 * nothing, however late it comes.
 */
Datum
apapacho_payout_mark_failed(PG_FUNCTION_ARGS)
{
    Oid types[6] = {0, 0, 0, TEXTOID, INT4OID, TIMESTAMPOID};
    Datum values[6];
    char *reference = PG_ARGISNULL(2) ? NULL : payout_text_argument(fcinfo, 2, "reference");
    bool final;
    Change change;

    begin_change(fcinfo, "reason", &change);
    if (reference != NULL && !report(&change, reference, "FAILED"))
        PG_RETURN_DATUM(end_change(&change));
    require_open(&change, "failed");
    final = change.retry_count + 1 >= MAX_FAILURES || (!PG_ARGISNULL(3) && PG_GETARG_BOOL(3));
    values[3] = CStringGetTextDatum(final ? "FAILED" : "PENDING");
    values[4] = Int32GetDatum(change.retry_count + 1);
    values[5] = TimestampGetDatum(change.now + RETRY_INTERVAL);
    apply_change(&change, failed_sql, 6, types, values, final ? "     n" : NULL, "PayoutFailed", failed_payload);
    PG_RETURN_DATUM(end_change(&change));
}

/* apapacho_payout_mark_cancelled(payout_id, reason): what it holds is free for the next payout; once. */
Datum
apapacho_payout_mark_cancelled(PG_FUNCTION_ARGS)
{
    Oid types[3];
    Datum values[3];
    Change change;

    begin_change(fcinfo, "reason", &change);
    if (strcmp(change.status, "CANCELLED") == 0 && change.failure_reason != NULL &&
        strcmp(change.failure_reason, change.detail) == 0)
        PG_RETURN_DATUM(end_change(&change));
    require_open(&change, "cancelled");
    apply_change(&change, cancelled_sql, 3, types, values, NULL, "PayoutCancelled", cancelled_payload);
    PG_RETURN_DATUM(end_change(&change));
}
