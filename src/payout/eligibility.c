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
#include "utils/builtins.h"
#include "utils/guc.h"
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

/*
 * OFFSET 0 and the scalar subquery keep the planner from making a join of this: with statistics from before the run it
 * would walk through all payouts for each transaction.
 */
static const char unpaid_sql[] =
    "t.\"status\"::text = 'SUCCEEDED' AND NOT EXISTS"
    " (SELECT FROM {PayoutItem} AS i WHERE i.\"transactionId\" = t.\"id\""
    "  AND (SELECT p.\"status\" FROM {Payout} AS p WHERE p.\"id\" = i.\"payoutId\")"
    "   IN ('CALCULATED'::{PayoutStatus}, 'PENDING'::{PayoutStatus}, 'SENT'::{PayoutStatus}) OFFSET 0)";

static const char eligible_sql[] = "t.\"currency\" = 'CLP' AND t.\"occurredAt\" <= $3";
static const char held_sql[] = "t.\"currency\" = 'CLP' AND t.\"occurredAt\" > $3";

/* The aggregates are a subquery for each creator: it can only be computed along the index on ("creatorId",
 * "occurredAt"). */
static const char creators_sql[] =
    "SELECT c.\"id\" AS creator_id, f.unpaid, f.eligible, f.gross, f.fee, f.payable, f.held, f.held_amount,"
    " ((f.oldest_held AT TIME ZONE 'UTC' AT TIME ZONE $6) + pg_catalog.make_interval(days => $5))"
    "  AT TIME ZONE $6 AT TIME ZONE 'UTC' AS next_release_at,"
    " CASE WHEN c.\"status\" = 'SUSPENDED'::{CreatorStatus} THEN 'SUSPENDED'"
    "  WHEN c.\"status\" IS DISTINCT FROM 'ACTIVE'::{CreatorStatus} THEN 'NOT_VERIFIED'"
    "  WHEN f.eligible = 0 AND f.held = 0 AND f.unpaid > 0 THEN 'CURRENCY'"
    "  WHEN f.eligible = 0 THEN 'HOLD'"
    "  WHEN f.payable < $4 OR f.payable <= 0 THEN 'BELOW_MINIMUM'"
    "  WHEN f.payable NOT BETWEEN " BIGINT_RANGE " OR f.gross NOT BETWEEN " BIGINT_RANGE
    "   OR f.fee NOT BETWEEN " BIGINT_RANGE " THEN 'ERROR' END AS reason"
    " FROM {Creator} AS c CROSS JOIN LATERAL"
    " (SELECT pg_catalog.count(*) AS unpaid,"
    "  pg_catalog.count(*) FILTER (WHERE {eligible}) AS eligible,"
    "  COALESCE(pg_catalog.sum(t.\"grossAmount\") FILTER (WHERE {eligible}), 0) AS gross,"
    "  COALESCE(pg_catalog.sum(t.\"platformFeeAmount\") FILTER (WHERE {eligible}), 0) AS fee,"
    "  COALESCE(pg_catalog.sum(t.\"creatorPayableAmount\") FILTER (WHERE {eligible}), 0) AS payable,"
    "  pg_catalog.count(*) FILTER (WHERE {held}) AS held,"
    "  COALESCE(pg_catalog.sum(t.\"creatorPayableAmount\") FILTER (WHERE {held}), 0) AS held_amount,"
    "  pg_catalog.min(t.\"occurredAt\") FILTER (WHERE {held}) AS oldest_held"
    "  FROM {Transaction} AS t WHERE t.\"creatorId\" = c.\"id\" AND {unpaid}) AS f"
    " WHERE ($1 IS NULL OR c.\"id\" >= $1) AND ($2 IS NULL OR c.\"id\" <= $2)";

/* $1: now, $2: zone. */
static const char rules_sql[] =
    "SELECT f.\"holdDays\", f.\"minPayoutClp\","
    " ((($1 AT TIME ZONE 'UTC' AT TIME ZONE $2) - pg_catalog.make_interval(days => f.\"holdDays\"))"
    "  AT TIME ZONE $2 AT TIME ZONE 'UTC')"
    " FROM {FeeSchedule} AS f WHERE f.\"effectiveFrom\" <= $1 ORDER BY f.\"effectiveFrom\" DESC, f.\"id\" DESC LIMIT 1";

static const char eligibility_sql[] =
    "SELECT y.reason, y.gross::text, y.fee::text, y.payable::text, y.eligible, y.held, " ISO_TIME(
        "y.next_release_at") " FROM ({creators}) AS y";

/* An amount that no bigint can hold is null, as is what would be paid of it: the run reports that creator as an error.
 */
static const char preview_sql[] =
    "SELECT y.creator_id, y.reason IS NULL, y.reason, y.eligible,"
    " CASE WHEN y.payable BETWEEN " BIGINT_RANGE " THEN y.payable::bigint END,"
    " CASE WHEN y.held_amount BETWEEN " BIGINT_RANGE " THEN y.held_amount::bigint END, y.next_release_at"
    " FROM ({creators}) AS y WHERE y.unpaid > 0 ORDER BY y.creator_id";

#define PREVIEW_COLUMNS 7

static const struct {
    const char *name;
    UserTable table;
} table_names[] = {
    {"Creator", TABLE_CREATOR}, {"FeeSchedule", TABLE_FEE_SCHEDULE}, {"OutboxEvent", TABLE_OUTBOX_EVENT},
    {"Payout", TABLE_PAYOUT},   {"PayoutItem", TABLE_PAYOUT_ITEM},   {"Transaction", TABLE_TRANSACTION},
};

static const struct {
    const char *name;
    const char *text;
} fragments[] = {
    {"creators", creators_sql},
    {"eligible", eligible_sql},
    {"held", held_sql},
    {"unpaid", unpaid_sql},
};

static void append_sql(StringInfo out, const char *text);

/* What stands for a name in braces: a table, a part of the rules (which has names in itself), or else a type. */
static void
append_name(StringInfo out, const char *name)
{
    for (int i = 0; i < lengthof(table_names); i++) {
        if (strcmp(name, table_names[i].name) == 0) {
            appendStringInfoString(out, user_table_name(table_names[i].table));
            return;
        }
    }
    for (int i = 0; i < lengthof(fragments); i++) {
        if (strcmp(name, fragments[i].name) == 0) {
            append_sql(out, fragments[i].text);
            return;
        }
    }
    appendStringInfoString(out, user_type_name(name));
}

static void
append_sql(StringInfo out, const char *text)
{
    const char *open;

    while ((open = strchr(text, '{')) != NULL) {
        const char *close = strchr(open, '}');

        Assert(close != NULL);
        appendBinaryStringInfo(out, text, open - text);
        append_name(out, pnstrdup(open + 1, close - open - 1));
        text = close + 1;
    }
    appendStringInfoString(out, text);
}

char *
payout_sql(const char *text)
{
    StringInfoData out;

    initStringInfo(&out);
    append_sql(&out, text);
    return out.data;
}

Timestamp
payout_now(void)
{
    Timestamp now = GetCurrentStatementStartTimestamp(); /* as UTC: both types count from the same moment */

    return now - now % 1000;
}

void
payout_run_as(RunAs *saved)
{
    static const struct {
        const char *name;
        const char *value;
    } planner[] = {
        {"enable_hashjoin", "off"},
        {"enable_mergejoin", "off"},
        {"enable_seqscan", "off"},
        {"enable_bitmapscan", "off"},
        {"enable_indexonlyscan", "off"}, /* would read all of ("payoutId", "transactionId") for one transaction */
        {"jit", "off"},
        {"max_parallel_workers_per_gather", "0"},
    };
    Oid owner = InvalidOid;

    for (int i = 0; i < lengthof(table_names); i++) {
        Oid table_owner = user_table_check(table_names[i].table);

        if (table_names[i].table == TABLE_PAYOUT)
            owner = table_owner;
    }
    run_as(saved, owner);
    for (int i = 0; i < lengthof(planner); i++)
        (void)set_config_option(planner[i].name, planner[i].value, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0,
                                false);
}

void
payout_read_rules(PayoutRules *rules)
{
    Oid types[] = {TIMESTAMPOID, TEXTOID};
    Datum values[2];
    bool is_null;

    rules->now = payout_now();
    rules->zone = pg_get_timezone_name(setting_timezone());
    values[0] = TimestampGetDatum(rules->now);
    values[1] = CStringGetTextDatum(rules->zone);
    if (spi_run(payout_sql(rules_sql), 2, types, values, NULL, true, 1) == 0)
        ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE), errmsg("no fee schedule is in force"),
                        errhint("Insert a row into %s whose \"effectiveFrom\" (UTC) has come.",
                                user_table_name(TABLE_FEE_SCHEDULE))));
    rules->hold_days = (int32)spi_int64(0, 1);
    rules->min_payout = spi_int64(0, 2);
    rules->cutoff = DatumGetTimestamp(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 3, &is_null));
}

void
payout_rule_parameters(const PayoutRules *rules, const char *first, const char *last, Oid *types, Datum *values,
                       char *nulls)
{
    static const Oid parameter_types[RULE_PARAMETERS] = {TEXTOID, TEXTOID, TIMESTAMPOID, INT8OID, INT4OID, TEXTOID};

    memcpy(types, parameter_types, sizeof(parameter_types));
    memset(nulls, ' ', RULE_PARAMETERS);
    values[0] = first != NULL ? CStringGetTextDatum(first) : (Datum)0;
    nulls[0] = first != NULL ? ' ' : 'n';
    values[1] = last != NULL ? CStringGetTextDatum(last) : (Datum)0;
    nulls[1] = last != NULL ? ' ' : 'n';
    values[2] = TimestampGetDatum(rules->cutoff);
    values[3] = Int64GetDatum(rules->min_payout);
    values[4] = Int32GetDatum(rules->hold_days);
    values[5] = CStringGetTextDatum(rules->zone);
}

/* The sentence for a reason's code, in the backend's words where it has any. */
static char *
reason_sentence(const char *code, const char *payable, int64 min_payout)
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
        text = psprintf("Monto %s es menor al mínimo " INT64_FORMAT, payable, Max(min_payout, 1));
    else
        text = psprintf("Monto %s fuera de rango", payable);
    return pg_any_to_server(text, strlen(text), PG_UTF8);
}

void
payout_eligibility(const PayoutRules *rules, const char *creator_id, Eligibility *result)
{
    Oid types[RULE_PARAMETERS];
    Datum values[RULE_PARAMETERS];
    char nulls[RULE_PARAMETERS];

    payout_rule_parameters(rules, creator_id, creator_id, types, values, nulls);
    if (spi_run(payout_sql(eligibility_sql), RULE_PARAMETERS, types, values, nulls, true, 1) == 0)
        ereport(ERROR, (errcode(ERRCODE_NO_DATA_FOUND), errmsg("creator \"%s\" does not exist", creator_id),
                        errhint("Creators are named by their \"id\" in %s.", user_table_name(TABLE_CREATOR))));
    result->reason_code = spi_text(0, 1);
    result->gross = spi_text(0, 2);
    result->fee = spi_text(0, 3);
    result->payable = spi_text(0, 4);
    result->eligible = spi_int64(0, 5);
    result->held = spi_int64(0, 6);
    result->next_release_at = spi_text(0, 7);
    result->reason = NULL;
    if (result->reason_code != NULL)
        result->reason = reason_sentence(result->reason_code, result->payable, rules->min_payout);
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
    payout_run_as(&saved);
    payout_read_rules(&rules);
    payout_eligibility(&rules, creator_id, &found);
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
    appendStringInfoChar(&json, '}');
    SPI_finish();
    PG_RETURN_DATUM(DirectFunctionCall1(jsonb_in, CStringGetDatum(json.data)));
}

/* apapacho_payout_preview(): what a run that started now would do, a row for each creator that it would count. */
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
    payout_run_as(&saved);
    payout_read_rules(&rules);
    payout_rule_parameters(&rules, NULL, NULL, types, values, nulls);
    (void)spi_run(payout_sql(preview_sql), RULE_PARAMETERS, types, values, nulls, true, 0);
    for (uint64 i = 0; i < SPI_processed; i++) {
        heap_deform_tuple(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, row, row_nulls);
        tuplestore_putvalues(info->setResult, info->setDesc, row, row_nulls);
    }
    run_as_end(&saved);
    SPI_finish();
    return (Datum)0;
}
