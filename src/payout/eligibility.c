/*
 * eligibility.c: the rules of payouts: which transactions of a creator are eligible and whether they are paid. The
 * calculation, the preview and the answer for one creator all take their SQL text from here, so that they cannot
 * disagree.
 *
 * Runs in workers (calculation) and in the backends of those who call the SQL functions. Locks nothing but the tables,
 * against being altered.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "payout/internal.h"
#include "server/compat.h"
#include "server/settings.h"
#include "server/user_tables.h"

PG_FUNCTION_INFO_V1(apapacho_payout_eligibility);
PG_FUNCTION_INFO_V1(apapacho_payout_preview);

/* Numeric constants: the limits of the columns that the sums are written to. */
#define BIGINT_RANGE "(-9223372036854775808) AND 9223372036854775807"
#define IN_RANGE(expression) expression " BETWEEN " BIGINT_RANGE
#define AMOUNTS_IN_RANGE                                                                                               \
    IN_RANGE("y.total")                                                                                                \
    " AND " IN_RANGE("y.payable") " AND " IN_RANGE("y.adjustments") " AND " IN_RANGE("y.gross") " AND " IN_RANGE(      \
        "y.fee")

const char payout_eligible_sql[] = "t.\"currency\" = 'CLP' AND t.\"occurredAt\" <= $3";
const char payout_held_sql[] = "t.\"currency\" = 'CLP' AND t.\"occurredAt\" > $3";

/*
 * The payouts of creator `c` that hold something: `recalled` are those that will be cancelled because an item is
 * reversed, and do not count; `last_end` is when the period of the latest of the others ends.
 */
#define PAYOUTS                                                                                                        \
    "(SELECT pg_catalog.max(q.period_end) FILTER (WHERE NOT q.recalled) AS last_end,"                                  \
    "  COALESCE(pg_catalog.array_agg(q.id) FILTER (WHERE q.recalled), ARRAY[]::text[]) AS recalled"                    \
    "  FROM (SELECT p.\"id\" AS id, p.\"periodEnd\" AS period_end, {recallable} AND EXISTS"                            \
    "    (SELECT FROM {PayoutItem} AS i WHERE i.\"payoutId\" = p.\"id\" AND (SELECT t.\"status\"::text FROM"           \
    "     {Transaction} AS t WHERE t.\"id\" = i.\"transactionId\") <> 'SUCCEEDED' OFFSET 0) AS recalled"               \
    "   FROM {Payout} AS p WHERE p.\"creatorId\" = c.\"id\" AND {holds}) AS q) AS h"

/*
 * The transactions of `c` since then, with the payout that holds each. Of what is reversed and was paid, `fresh` is
 * what has not been adjusted yet. Each OFFSET 0 has what is below computed once for a row.
 */
#define TRANSACTIONS                                                                                                   \
    "(SELECT pg_catalog.count(*) FILTER (WHERE t.is_unpaid) AS unpaid,"                                                \
    "  pg_catalog.count(*) FILTER (WHERE t.is_eligible) AS eligible,"                                                  \
    "  COALESCE(pg_catalog.sum(t.\"grossAmount\") FILTER (WHERE t.is_eligible), 0) AS gross,"                          \
    "  COALESCE(pg_catalog.sum(t.\"platformFeeAmount\") FILTER (WHERE t.is_eligible), 0) AS fee,"                      \
    "  COALESCE(pg_catalog.sum(t.\"creatorPayableAmount\") FILTER (WHERE t.is_eligible), 0) AS payable,"               \
    "  pg_catalog.count(*) FILTER (WHERE t.is_held) AS held,"                                                          \
    "  COALESCE(pg_catalog.sum(t.\"creatorPayableAmount\") FILTER (WHERE t.is_held), 0) AS held_amount,"               \
    "  pg_catalog.min(t.\"occurredAt\") FILTER (WHERE t.is_held) AS oldest_held,"                                      \
    "  pg_catalog.min(t.\"occurredAt\") FILTER (WHERE t.is_unpaid) AS oldest,"                                         \
    "  pg_catalog.min(t.\"occurredAt\") FILTER (WHERE t.is_unpaid AND NOT t.is_eligible) AS oldest_left,"              \
    "  pg_catalog.max(t.\"occurredAt\") FILTER (WHERE t.payout_id IS NOT NULL) AS latest_claimed,"                     \
    "  COALESCE(pg_catalog.sum(CASE WHEN t.is_reversed THEN (SELECT -i.\"amount\" FROM {PayoutItem} AS i"              \
    "    WHERE i.\"payoutId\" = t.payout_id AND i.\"transactionId\" = t.\"id\" AND NOT EXISTS"                         \
    "     (SELECT FROM apapacho_jobs.payout_adjustment AS a WHERE a.transaction_id = t.\"id\")) END), 0) AS fresh"     \
    "  FROM (SELECT t.*, t.\"status\" = 'SUCCEEDED' AND t.payout_id IS NULL AS is_unpaid,"                             \
    "     t.\"status\" = 'SUCCEEDED' AND t.payout_id IS NULL AND {eligible} AS is_eligible,"                           \
    "     t.\"status\" = 'SUCCEEDED' AND t.payout_id IS NULL AND {held} AS is_held,"                                   \
    "     t.\"status\" <> 'SUCCEEDED' AND t.payout_id IS NOT NULL"                                                     \
    "      AND t.\"status\"::text = ANY ('{REFUNDED,CHARGEDBACK}') AS is_reversed"                                     \
    "    FROM (SELECT t.\"id\", t.\"status\", t.\"currency\", t.\"occurredAt\", t.\"grossAmount\","                    \
    "      t.\"platformFeeAmount\", t.\"creatorPayableAmount\","                                                       \
    "      (SELECT k.payout_id FROM apapacho_jobs.payout_claim AS k WHERE k.transaction_id = t.\"id\" COLLATE \"C\""   \
    "       AND k.payout_id <> ALL (h.recalled)) AS payout_id"                                                         \
    "     FROM {Transaction} AS t WHERE t.\"creatorId\" = c.\"id\" AND t.\"occurredAt\" >= w.since OFFSET 0) AS t"     \
    "    OFFSET 0) AS t)"                                                                                              \
    " AS f"

/*
 * The adjustments of `c`: what is open, or was carried by a payout that is recalled; and what has to be corrected in
 * those of a transaction, for it is not (or no longer) as they say.
 */
#define ADJUSTMENTS                                                                                                    \
    "(SELECT COALESCE(pg_catalog.sum(g.open), 0) AS open, COALESCE(pg_catalog.sum(g.correction), 0) AS correction,"    \
    "  COALESCE(pg_catalog.bool_or(g.correction <> 0), false) AS is_wrong"                                             \
    "  FROM (SELECT n.open, CASE WHEN n.transaction_id IS NULL OR (k.amount IS NOT NULL AND k.status = 'DISPUTED')"    \
    "     THEN 0 WHEN k.amount IS NOT NULL AND k.status = ANY ('{REFUNDED,CHARGEDBACK}') THEN -k.amount - n.net"       \
    "     ELSE -n.net END AS correction"                                                                               \
    "   FROM (SELECT a.transaction_id, pg_catalog.sum(a.amount) AS net, COALESCE(pg_catalog.sum(a.amount)"             \
    "      FILTER (WHERE a.payout_id IS NULL OR a.payout_id = ANY (h.recalled)), 0) AS open"                           \
    "     FROM apapacho_jobs.payout_adjustment AS a WHERE a.creator_id = c.\"id\" GROUP BY a.transaction_id) AS n"     \
    "    LEFT JOIN LATERAL (SELECT t.\"status\"::text AS status, (SELECT i.\"amount\" FROM"                            \
    "       apapacho_jobs.payout_claim AS k JOIN {PayoutItem} AS i ON i.\"payoutId\" = k.payout_id"                    \
    "        AND i.\"transactionId\" = t.\"id\""                                                                       \
    "       WHERE k.transaction_id = t.\"id\" COLLATE \"C\" AND k.payout_id <> ALL (h.recalled)) AS amount"            \
    "     FROM {Transaction} AS t WHERE t.\"id\" = n.transaction_id) AS k ON true) AS g) AS b"

/*
 * A row for each creator: creator_id, since (as it was given), unpaid (transactions SUCCEEDED and held by no payout),
 * eligible, gross, fee, payable, held, held_amount (numbers and sums, numeric), adjustments (what is open once
 * reversals are dealt with), total, next_release_at, last_end, needs_sweep (reversals are still to be dealt with),
 * oldest and oldest_left (the first unpaid transaction, and the first that is not eligible), is_mixed (a payout holds
 * one that is as late as the first unpaid one), reason (a code; null when the creator would be paid) and next_at (when
 * that may be another).
 *
 * All are subqueries for each creator: they can only be computed along indexes.
 */
const char payout_creators_sql[] =
    "SELECT y.*, CASE WHEN y.reason = 'NOT_DUE' THEN $8 ELSE y.next_release_at END AS next_at"
    " FROM (SELECT y.*,"
    "  CASE WHEN y.status = 'SUSPENDED' THEN 'SUSPENDED' WHEN y.status IS DISTINCT FROM 'ACTIVE' THEN 'NOT_VERIFIED'"
    "   WHEN y.total < 0 THEN 'NEGATIVE_BALANCE'"
    "   WHEN y.eligible = 0 AND y.adjustments = 0 AND y.held = 0 AND y.unpaid > 0 THEN 'CURRENCY'"
    "   WHEN y.eligible = 0 AND y.adjustments = 0 THEN 'HOLD'"
    "   WHEN y.total < $4 OR y.total <= 0 THEN 'BELOW_MINIMUM'"
    "   WHEN NOT (" AMOUNTS_IN_RANGE ") THEN 'ERROR'"
    "   WHEN y.last_end >= $7 AND NOT $9 THEN 'NOT_DUE' END AS reason"
    "  FROM (SELECT c.\"id\" AS creator_id, w.since, c.\"status\"::text AS status, f.unpaid, f.eligible, f.gross, "
    "f.fee,"
    "    f.payable, f.held, f.held_amount, f.oldest, f.oldest_left, h.last_end,"
    "    COALESCE(f.latest_claimed >= f.oldest, false) AS is_mixed,"
    "    b.open + b.correction + f.fresh AS adjustments, f.payable + b.open + b.correction + f.fresh AS total,"
    "    pg_catalog.cardinality(h.recalled) > 0 OR b.is_wrong OR f.fresh <> 0 AS needs_sweep,"
    "    ((f.oldest_held AT TIME ZONE 'UTC' AT TIME ZONE $6) + pg_catalog.make_interval(days => $5))"
    "     AT TIME ZONE $6 AT TIME ZONE 'UTC' AS next_release_at"
    "   FROM (SELECT u.id, u.since FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) AS u (id, since)"
    "     UNION ALL SELECT a.\"id\", '-infinity' FROM {Creator} AS a WHERE $1 IS NULL) AS w"
    "    CROSS JOIN LATERAL (SELECT a.\"id\", a.\"status\" FROM {Creator} AS a WHERE a.\"id\" = w.id OFFSET 0) AS c"
    "    CROSS JOIN LATERAL " PAYOUTS " CROSS JOIN LATERAL " TRANSACTIONS " CROSS JOIN LATERAL " ADJUSTMENTS ""
    "   OFFSET 0) AS y) AS y";

/* $1: now, $2: zone. */
static const char rules_sql[] =
    "SELECT f.\"id\", f.\"holdDays\", f.\"minPayoutClp\", f.\"payoutFrequency\"::text,"
    " ((($1 AT TIME ZONE 'UTC' AT TIME ZONE $2) - pg_catalog.make_interval(days => f.\"holdDays\"))"
    "  AT TIME ZONE $2 AT TIME ZONE 'UTC'), d.period_start, d.period_end"
    " FROM (SELECT * FROM {FeeSchedule} AS f WHERE f.\"effectiveFrom\" <= $1"
    "   ORDER BY f.\"effectiveFrom\" DESC, f.\"id\" DESC LIMIT 1) AS f"
    "  CROSS JOIN LATERAL apapacho_jobs.payout_period(f.\"payoutFrequency\"::text, $1, $2) AS d";

static const char eligibility_sql[] =
    "SELECT y.reason, y.gross::text, y.fee::text, y.payable::text, y.eligible, y.held, " ISO_TIME(
        "y.next_release_at") ", y.adjustments::text, y.total::text, " ISO_TIME("y.next_at") " FROM ({creators}) AS y";

/* An amount that no bigint can hold is null, as is what would be paid of it: the run reports that creator as an error.
 */
static const char preview_sql[] = "SELECT y.creator_id, y.reason IS NULL, y.reason, y.eligible, CASE WHEN " IN_RANGE(
    "y.payable") " THEN y.payable::bigint END, CASE WHEN " IN_RANGE("y.held_amount") " THEN y.held_amount::bigint END,"
                                                                                     " y.next_release_at, CASE "
                                                                                     "WHEN " IN_RANGE(
                                                                                         "y.adjustments") " THEN "
                                                                                                          "y."
                                                                                                          "adjustments:"
                                                                                                          ":bigint END,"
                                                                                                          " CASE WHEN "
                                                                                                          "y.reason IS "
                                                                                                          "NULL THEN "
                                                                                                          "y.total::"
                                                                                                          "bigint END, "
                                                                                                          "y.next_at"
                                                                                                          " FROM "
                                                                                                          "({creators})"
                                                                                                          " AS y WHERE "
                                                                                                          "y.unpaid > "
                                                                                                          "0 OR "
                                                                                                          "y."
                                                                                                          "adjustments "
                                                                                                          "<> 0 ORDER "
                                                                                                          "BY "
                                                                                                          "y.creator_"
                                                                                                          "id";

#define PREVIEW_COLUMNS 10

Timestamp
payout_now(void)
{
    /* as UTC: both types count from the same moment */
    Timestamp now = GetCurrentStatementStartTimestamp() + (int64)setting_clock_offset * USECS_PER_SEC;

    return now - now % 1000;
}

Oid
payout_check_tables(void)
{
    Oid owner = InvalidOid;

    for (int table = 0; table < USER_TABLE_COUNT; table++) {
        Oid table_owner = user_table_check((UserTable)table);

        if (table == TABLE_PAYOUT)
            owner = table_owner;
    }
    return owner;
}

void
payout_run_as(RunAs *saved)
{
    run_as(saved, payout_check_tables());
    payout_plan_by_index();
}

static Timestamp
spi_timestamp(int column)
{
    bool is_null;

    return DatumGetTimestamp(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, column, &is_null));
}

void
payout_read_rules(PayoutRules *rules, bool forced)
{
    Oid types[] = {TIMESTAMPOID, TEXTOID};
    Datum values[2];

    rules->now = payout_now();
    rules->zone = pstrdup(pg_get_timezone_name(setting_timezone()));
    rules->forced = forced;
    values[0] = TimestampGetDatum(rules->now);
    values[1] = CStringGetTextDatum(rules->zone);
    if (spi_run(payout_sql(rules_sql), 2, types, values, NULL, true, 1) == 0)
        ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE), errmsg("no fee schedule is in force"),
                        errhint("Insert a row into %s whose \"effectiveFrom\" (UTC) has come.",
                                user_table_name(TABLE_FEE_SCHEDULE))));
    rules->fee_schedule = spi_text(0, 1);
    rules->hold_days = (int32)spi_int64(0, 2);
    rules->min_payout = spi_int64(0, 3);
    rules->frequency = spi_text(0, 4);
    rules->cutoff = spi_timestamp(5);
    rules->period_start = spi_timestamp(6);
    rules->period_end = spi_timestamp(7);
}

void
payout_rule_parameters(const PayoutRules *rules, char **ids, const Timestamp *sinces, int count, Oid *types,
                       Datum *values, char *nulls)
{
    static const Oid parameter_types[RULE_PARAMETERS] = {
        TEXTARRAYOID, TIMESTAMPARRAYOID, TIMESTAMPOID, INT8OID, INT4OID, TEXTOID, TIMESTAMPOID, TIMESTAMPOID, BOOLOID};
    Datum *since_values = palloc(sizeof(Datum) * Max(count, 1));

    memcpy(types, parameter_types, sizeof(parameter_types));
    memset(nulls, ' ', RULE_PARAMETERS);
    for (int i = 0; i < count; i++)
        since_values[i] = TimestampGetDatum(sinces != NULL ? sinces[i] : DT_NOBEGIN);
    if (ids == NULL)
        nulls[0] = nulls[1] = 'n';
    values[0] = ids != NULL ? payout_text_array(ids, count) : (Datum)0;
    values[1] = PointerGetDatum(
        construct_array(since_values, count, TIMESTAMPOID, sizeof(Timestamp), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
    values[2] = TimestampGetDatum(rules->cutoff);
    values[3] = Int64GetDatum(rules->min_payout);
    values[4] = Int32GetDatum(rules->hold_days);
    values[5] = CStringGetTextDatum(rules->zone);
    values[6] = TimestampGetDatum(rules->period_start);
    values[7] = TimestampGetDatum(rules->period_end);
    values[8] = BoolGetDatum(rules->forced);
}

/* The sentence for a reason's code, in the backend's words where it has any. */
static char *
reason_sentence(const char *code, const char *total, int64 min_payout)
{
    char *text;

    if (strcmp(code, "SUSPENDED") == 0)
        text = "El creador está suspendido";
    else if (strcmp(code, "NOT_VERIFIED") == 0)
        text = "El creador no está verificado";
    else if (strcmp(code, "CURRENCY") == 0)
        text = "No hay transacciones en CLP";
    else if (strcmp(code, "HOLD") == 0)
        text = "No hay transacciones con hold liberado";
    else if (strcmp(code, "BELOW_MINIMUM") == 0)
        text = psprintf("Monto %s es menor al mínimo " INT64_FORMAT, total, Max(min_payout, 1));
    else if (strcmp(code, "NEGATIVE_BALANCE") == 0)
        text = psprintf("El saldo es negativo: %s", total);
    else if (strcmp(code, "NOT_DUE") == 0)
        text = "Ya tiene un payout en este período";
    else
        text = psprintf("Monto %s fuera de rango", total);
    return pg_any_to_server(text, strlen(text), PG_UTF8);
}

void
payout_eligibility(const PayoutRules *rules, const char *creator_id, bool anew, Eligibility *result)
{
    Oid types[RULE_PARAMETERS];
    Datum values[RULE_PARAMETERS];
    char nulls[RULE_PARAMETERS];
    char *id = pstrdup(creator_id);

    payout_rule_parameters(rules, &id, NULL, 1, types, values, nulls);
    if (spi_run(payout_sql(eligibility_sql), RULE_PARAMETERS, types, values, nulls, !anew, 1) == 0)
        ereport(ERROR, (errcode(ERRCODE_NO_DATA_FOUND), errmsg("creator \"%s\" does not exist", creator_id),
                        errhint("Creators are named by their \"id\" in %s.", user_table_name(TABLE_CREATOR))));
    result->reason_code = spi_text(0, 1);
    result->gross = spi_text(0, 2);
    result->fee = spi_text(0, 3);
    result->payable = spi_text(0, 4);
    result->eligible = spi_int64(0, 5);
    result->held = spi_int64(0, 6);
    result->next_release_at = spi_text(0, 7);
    result->adjustments = spi_text(0, 8);
    result->payout_amount = spi_text(0, 9);
    result->next_at = spi_text(0, 10);
    result->reason = NULL;
    if (result->reason_code != NULL)
        result->reason = reason_sentence(result->reason_code, result->payout_amount, rules->min_payout);
}

char *
payout_text_argument(FunctionCallInfo fcinfo, int number, const char *name)
{
    char *value;

    if (PG_ARGISNULL(number))
        ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("argument \"%s\" must not be null", name)));
    value = text_to_cstring(PG_GETARG_TEXT_PP(number));
    if (value[0] == '\0')
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("argument \"%s\" must not be empty", name)));
    return value;
}

void
payout_connect_spi(void)
{
    if (SPI_connect() != SPI_OK_CONNECT)
        elog(ERROR, "could not connect to SPI");
}

void
payout_json_text(StringInfo out, const char *key, const char *value)
{
    appendStringInfo(out, "%s\"%s\": ", out->len > 1 ? ", " : "", key);
    if (value != NULL)
        escape_json(out, value);
    else
        appendStringInfoString(out, "null");
}

/* apapacho_payout_eligibility(creator_id) */
Datum
apapacho_payout_eligibility(PG_FUNCTION_ARGS)
{
    MemoryContext caller = CurrentMemoryContext;
    char *creator_id = payout_text_argument(fcinfo, 0, "creator_id");
    StringInfoData json;
    PayoutRules rules;
    Eligibility found;
    RunAs saved;

    payout_connect_spi();
    payout_require_guards(false);
    payout_run_as(&saved);
    payout_read_rules(&rules, false);
    payout_eligibility(&rules, creator_id, false, &found);
    run_as_end(&saved);

    MemoryContextSwitchTo(caller);
    initStringInfo(&json);
    appendStringInfoChar(&json, '{');
    payout_json_text(&json, "creatorId", creator_id);
    appendStringInfo(&json, ", \"canCreatePayout\": %s", found.reason_code == NULL ? "true" : "false");
    payout_json_text(&json, "reasonCode", found.reason_code);
    payout_json_text(&json, "reason", found.reason);
    appendStringInfo(&json,
                     ", \"totals\": {\"grossTotal\": %s, \"platformFeeTotal\": %s, \"creatorPayableTotal\": %s}"
                     ", \"eligibleTransactionsCount\": " INT64_FORMAT ", \"pendingHoldCount\": " INT64_FORMAT,
                     found.gross, found.fee, found.payable, found.eligible, found.held);
    payout_json_text(&json, "nextReleaseAt", found.next_release_at);
    appendStringInfo(&json, ", \"adjustmentsTotal\": %s, \"payoutAmount\": %s", found.adjustments, found.payout_amount);
    payout_json_text(&json, "nextAt", found.next_at);
    appendStringInfoChar(&json, '}');
    SPI_finish();
    PG_RETURN_DATUM(DirectFunctionCall1(jsonb_in, CStringGetDatum(json.data)));
}

/* apapacho_payout_preview(forced): what a run that started now would do, a row for each creator that it would count. */
Datum
apapacho_payout_preview(PG_FUNCTION_ARGS)
{
    ReturnSetInfo *info = (ReturnSetInfo *)fcinfo->resultinfo;
    Oid types[RULE_PARAMETERS];
    Datum values[RULE_PARAMETERS];
    char nulls[RULE_PARAMETERS];
    Datum row[PREVIEW_COLUMNS];
    bool row_nulls[PREVIEW_COLUMNS];
    PayoutRules rules;
    RunAs saved;

    InitMaterializedSRF(fcinfo, 0);
    payout_connect_spi();
    payout_require_guards(false);
    payout_run_as(&saved);
    payout_read_rules(&rules, PG_GETARG_BOOL(0));
    payout_rule_parameters(&rules, NULL, NULL, 0, types, values, nulls);
    (void)spi_run(payout_sql(preview_sql), RULE_PARAMETERS, types, values, nulls, true, 0);
    for (uint64 i = 0; i < SPI_processed; i++) {
        heap_deform_tuple(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, row, row_nulls);
        tuplestore_putvalues(info->setResult, info->setDesc, row, row_nulls);
    }
    run_as_end(&saved);
    SPI_finish();
    return (Datum)0;
}
