/*
 * events.c: the SQL functions that write and read outbox events: emit, stats, events, retry_failed.
 *
 * Run in the backend of whoever calls them. emit is a producer's hot path and inserts as the caller. The others act as
 * the owner of the table, so that a role needs no more than EXECUTE to use them.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "outbox/outbox.h"
#include "server/compat.h"
#include "server/extension.h"
#include "server/ids.h"
#include "server/settings.h"
#include "server/user_tables.h"
#include "server/xact.h"

PG_FUNCTION_INFO_V1(apapacho_outbox_emit);
PG_FUNCTION_INFO_V1(apapacho_outbox_stats);
PG_FUNCTION_INFO_V1(apapacho_outbox_events);
PG_FUNCTION_INFO_V1(apapacho_outbox_retry_failed);

#define EMIT_COLUMNS 6

static const char emit_sql[] =
    "INSERT INTO %s (id, \"aggregateType\", \"aggregateId\", \"eventType\", payload, \"createdAt\")"
    " VALUES ($1, $2, $3, $4, $5, $6)";

static const char stats_sql[] =
    "SELECT pg_catalog.jsonb_build_object('total', s.total, 'pending', s.pending, 'published', s.published,"
    " 'failed', s.failed, 'retrying', s.retrying,"
    " 'oldestPendingAt', pg_catalog.to_char(s.oldest, 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"'),"
    " 'oldestPendingSeconds', GREATEST(0, pg_catalog.floor(EXTRACT(epoch FROM"
    "  (pg_catalog.statement_timestamp() AT TIME ZONE 'UTC') - s.oldest)))::bigint)"
    " FROM (SELECT pg_catalog.count(*) AS total, pg_catalog.count(e.\"publishedAt\") AS published,"
    "  pg_catalog.count(*) FILTER (WHERE e.\"publishedAt\" IS NULL AND e.\"retryCount\" < $1) AS pending,"
    "  pg_catalog.count(*) FILTER (WHERE e.\"publishedAt\" IS NULL AND e.\"retryCount\" >= $1) AS failed,"
    "  pg_catalog.count(*) FILTER (WHERE e.\"publishedAt\" IS NULL AND e.\"retryCount\" > 0"
    "   AND e.\"retryCount\" < $1) AS retrying,"
    "  pg_catalog.min(e.\"createdAt\") FILTER (WHERE e.\"publishedAt\" IS NULL AND e.\"retryCount\" < $1) AS oldest"
    "  FROM %s e) s";

/* What the statuses of apapacho_outbox_events mean, and an order that the backend's index has where it can. */
static const struct {
    const char *name;
    const char *condition;
    const char *order;
} statuses[] = {
    {"pending", "e.\"publishedAt\" IS NULL AND e.\"retryCount\" < $1",
     "e.\"publishedAt\" DESC, e.\"createdAt\" DESC, e.id DESC"},
    {"published", "e.\"publishedAt\" IS NOT NULL AND $1 IS NOT NULL", "e.\"createdAt\" DESC, e.id DESC"},
    {"failed", "e.\"publishedAt\" IS NULL AND e.\"retryCount\" >= $1",
     "e.\"publishedAt\" DESC, e.\"createdAt\" DESC, e.id DESC"},
    {"all", "$1 IS NOT NULL", "e.\"createdAt\" DESC, e.id DESC"},
};

static const char events_sql[] =
    "SELECT e.id, e.\"aggregateType\", e.\"aggregateId\", e.\"eventType\", e.\"retryCount\", e.\"lastError\","
    " e.\"createdAt\", e.\"publishedAt\" FROM %s e WHERE %s ORDER BY %s LIMIT $2 OFFSET $3";

static const char retry_failed_sql[] = "UPDATE %s AS e SET \"retryCount\" = 0, \"lastError\" = NULL"
                                       " WHERE e.\"publishedAt\" IS NULL AND e.\"retryCount\" >= $1";

/* They stay, and their aggregates' order with them. */
static const char hasten_retries_sql[] =
    "UPDATE apapacho_jobs.outbox_retry SET next_attempt_at = pg_catalog.clock_timestamp(),"
    " attempts = CASE WHEN failed_at IS NULL THEN attempts ELSE 0 END, failed_at = NULL"
    " WHERE next_attempt_at OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp()";

static void
connect_spi(void)
{
    if (SPI_connect() != SPI_OK_CONNECT)
        elog(ERROR, "could not connect to SPI");
}

/* The statement of apapacho_outbox_emit for the schema that is set; kept from call to call. */
static SPIPlanPtr
emit_plan(void)
{
    static SPIPlanPtr plan = NULL;
    static char *plan_schema = NULL;
    Oid types[EMIT_COLUMNS] = {TEXTOID, TEXTOID, TEXTOID, TEXTOID, JSONBOID, TIMESTAMPOID};
    SPIPlanPtr made;
    char *schema;

    if (plan != NULL) {
        if (strcmp(plan_schema, setting_schema) == 0 && SPI_plan_is_valid(plan))
            return plan;
        SPI_freeplan(plan);
        pfree(plan_schema);
        plan = NULL;
        plan_schema = NULL;
    }
    (void)user_table_check(TABLE_OUTBOX_EVENT);
    made = SPI_prepare(psprintf(emit_sql, user_table_name(TABLE_OUTBOX_EVENT)), EMIT_COLUMNS, types);
    if (made == NULL)
        elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
    schema = MemoryContextStrdup(TopMemoryContext, setting_schema);
    SPI_keepplan(made);
    plan_schema = schema;
    plan = made;
    return plan;
}

/* The argument as text that is there and is not empty; else an ERROR that names it. */
static text *
required_text(FunctionCallInfo fcinfo, int number, const char *name)
{
    text *value = PG_ARGISNULL(number) ? NULL : PG_GETARG_TEXT_PP(number);

    if (value == NULL)
        ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("argument \"%s\" must not be null", name)));
    if (VARSIZE_ANY_EXHDR(value) == 0)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("argument \"%s\" must not be empty", name)));
    return value;
}

/*
 * apapacho_outbox_emit(aggregate_type, aggregate_id, event_type, payload): the new event's id. "createdAt" is the
 * moment of the call, not the transaction's start, so that the events of one transaction keep their order.
 */
Datum
apapacho_outbox_emit(PG_FUNCTION_ARGS)
{
    char id[UUID_TEXT_SIZE];
    Datum values[EMIT_COLUMNS];
    Timestamp now;
    text *result;
    int status;

    values[1] = PointerGetDatum(required_text(fcinfo, 0, "aggregate_type"));
    values[2] = PointerGetDatum(required_text(fcinfo, 1, "aggregate_id"));
    values[3] = PointerGetDatum(required_text(fcinfo, 2, "event_type"));
    if (PG_ARGISNULL(3))
        ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("argument \"%s\" must not be null", "payload"),
                        errhint("Leave it out for an empty object, or give 'null'::jsonb.")));
    values[4] = PG_GETARG_DATUM(3);

    uuid_v7(id);
    now = GetCurrentTimestamp(); /* in UTC, both types count the same microseconds */
    values[5] = TimestampGetDatum(now - now % 1000);
    result = cstring_to_text_with_len(id, UUID_TEXT_SIZE - 1);
    values[0] = PointerGetDatum(result);

    connect_spi();
    status = SPI_execute_plan(emit_plan(), values, NULL, false, 0);
    if (status != SPI_OK_INSERT)
        elog(ERROR, "could not insert the event: %s", SPI_result_code_string(status));
    SPI_finish();
    PG_RETURN_TEXT_P(result);
}

/* apapacho_outbox_stats() */
Datum
apapacho_outbox_stats(PG_FUNCTION_ARGS)
{
    MemoryContext caller = CurrentMemoryContext;
    Oid type = INT4OID;
    Datum value = Int32GetDatum(setting_outbox_max_retries);
    MemoryContext before;
    RunAs saved;
    bool is_null;
    Datum result;

    connect_spi();
    run_as(&saved, user_table_check(TABLE_OUTBOX_EVENT));
    (void)spi_run(psprintf(stats_sql, user_table_name(TABLE_OUTBOX_EVENT)), 1, &type, &value, NULL, true, 1);
    run_as_end(&saved);
    result = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &is_null);
    before = MemoryContextSwitchTo(caller);
    result = datumCopy(result, false, -1);
    MemoryContextSwitchTo(before);
    SPI_finish();
    PG_RETURN_DATUM(result);
}

/* The index in statuses, or an ERROR that lists them. */
static int
status_by_name(const char *name)
{
    for (int i = 0; i < lengthof(statuses); i++) {
        if (strcmp(name, statuses[i].name) == 0)
            return i;
    }
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("unknown status \"%s\" of outbox events", name),
                    errhint("The statuses are pending, published, failed and all.")));
}

/* The argument as a count, which may be null. */
static Datum
count_argument(FunctionCallInfo fcinfo, int number, const char *name, char *null)
{
    *null = PG_ARGISNULL(number) ? 'n' : ' ';
    if (PG_ARGISNULL(number))
        return (Datum)0;
    if (PG_GETARG_INT32(number) < 0)
        ereport(ERROR,
                (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("argument \"%s\" must not be negative", name)));
    return Int64GetDatum(PG_GETARG_INT32(number));
}

/* apapacho_outbox_events(status, limit, offset): a null limit is none. */
Datum
apapacho_outbox_events(PG_FUNCTION_ARGS)
{
    ReturnSetInfo *info = (ReturnSetInfo *)fcinfo->resultinfo;
    Oid types[3] = {INT4OID, INT8OID, INT8OID};
    Datum values[3];
    char nulls[4] = "   ";
    Datum row[8];
    bool row_nulls[8];
    RunAs saved;
    int status = status_by_name(PG_ARGISNULL(0) ? "" : text_to_cstring(PG_GETARG_TEXT_PP(0)));

    values[0] = Int32GetDatum(setting_outbox_max_retries);
    values[1] = count_argument(fcinfo, 1, "limit", &nulls[1]);
    values[2] = count_argument(fcinfo, 2, "offset", &nulls[2]);
    InitMaterializedSRF(fcinfo, 0);

    connect_spi();
    run_as(&saved, user_table_check(TABLE_OUTBOX_EVENT));
    (void)spi_run(
        psprintf(events_sql, user_table_name(TABLE_OUTBOX_EVENT), statuses[status].condition, statuses[status].order),
        3, types, values, nulls, true, 0);
    run_as_end(&saved);
    for (uint64 i = 0; i < SPI_processed; i++) {
        heap_deform_tuple(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, row, row_nulls);
        tuplestore_putvalues(info->setResult, info->setDesc, row, row_nulls);
    }
    SPI_finish();
    return (Datum)0;
}

/*
 * apapacho_outbox_retry_failed(): the number of events that are pending again, with all their attempts before them.
 * What waits for a retry is due at once.
 */
Datum
apapacho_outbox_retry_failed(PG_FUNCTION_ARGS)
{
    Oid type = INT4OID;
    Datum most = Int32GetDatum(setting_outbox_max_retries);
    RunAs saved;
    uint64 count;

    connect_spi();
    run_as(&saved, user_table_check(TABLE_OUTBOX_EVENT));
    count = spi_run(psprintf(retry_failed_sql, user_table_name(TABLE_OUTBOX_EVENT)), 1, &type, &most, NULL, false, 0);
    run_as_end(&saved);
    run_as(&saved, extension_owner());
    (void)spi_run(hasten_retries_sql, 0, NULL, NULL, NULL, false, 0);
    run_as_end(&saved);
    SPI_finish();
    outbox_wake_at_commit();
    PG_RETURN_INT64((int64)count);
}
