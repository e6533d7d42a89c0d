/*
 * monitor.c: the SQL functions that the outbox's views stand on: what publishers have counted, and what is in the
 * table.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"

#include "outbox/attempt.h"
#include "server/compat.h"
#include "server/counters.h"
#include "server/settings.h"
#include "server/user_tables.h"
#include "server/xact.h"

PG_FUNCTION_INFO_V1(apapacho_outbox_counters);
PG_FUNCTION_INFO_V1(apapacho_outbox_outcomes);
PG_FUNCTION_INFO_V1(apapacho_outbox_latency);
PG_FUNCTION_INFO_V1(apapacho_outbox_backlog);

/* Along the index ("publishedAt", "createdAt"): what is pending, and the last minute. */
static const char backlog_sql[] =
    "SELECT p.pending, p.retrying, p.failed, p.oldest AT TIME ZONE 'UTC',"
    " (SELECT pg_catalog.count(*) FROM %1$s e WHERE e.\"publishedAt\""
    "  > (pg_catalog.statement_timestamp() AT TIME ZONE 'UTC') - '1 min'::interval)"
    " FROM (SELECT pg_catalog.count(*) FILTER (WHERE e.\"retryCount\" < $1) AS pending,"
    "  pg_catalog.count(*) FILTER (WHERE e.\"retryCount\" BETWEEN 1 AND $1 - 1) AS retrying,"
    "  pg_catalog.count(*) FILTER (WHERE e.\"retryCount\" >= $1) AS failed,"
    "  pg_catalog.min(e.\"createdAt\") FILTER (WHERE e.\"retryCount\" < $1) AS oldest"
    "  FROM %1$s e WHERE e.\"publishedAt\" IS NULL) p";

static TupleDesc
result_type(FunctionCallInfo fcinfo)
{
    TupleDesc description;

    if (get_call_result_type(fcinfo, NULL, &description) != TYPEFUNC_COMPOSITE)
        elog(ERROR, "the function does not return a record");
    return BlessTupleDesc(description);
}

/* The counters of the endpoint that is the argument; NULL: nothing has been counted. */
static OutboxCounters *
counters_argument(FunctionCallInfo fcinfo)
{
    return counters_of_endpoint(text_to_cstring(PG_GETARG_TEXT_PP(0)), false);
}

/*
 * apapacho_jobs.outbox_counters(endpoint, OUT since, attempts, delivered, reused_connections, in_flight,
 * delivered_last_minute, mean_ms)
 */
Datum
apapacho_outbox_counters(PG_FUNCTION_ARGS)
{
    TupleDesc description = result_type(fcinfo);
    OutboxCounters *counters = counters_argument(fcinfo);
    uint64 attempts = 0;
    Datum values[7];
    bool nulls[7] = {false};

    if (counters == NULL)
        PG_RETURN_NULL();
    for (int i = 0; i < COUNTER_CLASSES; i++)
        attempts += pg_atomic_read_u64(&counters->outcomes[i]);
    values[0] = TimestampTzGetDatum(counters->since);
    values[1] = Int64GetDatum((int64)attempts);
    values[2] = Int64GetDatum((int64)pg_atomic_read_u64(&counters->outcomes[0]));
    values[3] = Int64GetDatum((int64)pg_atomic_read_u64(&counters->reused_connections));
    values[4] = Int32GetDatum((int32)pg_atomic_read_u32(&counters->in_flight));
    values[5] = Int64GetDatum(counters_last_minute(counters));
    nulls[6] = attempts == 0;
    values[6] =
        Float8GetDatum(attempts == 0 ? 0 : (double)pg_atomic_read_u64(&counters->took_us) / 1000 / (double)attempts);
    PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(description, values, nulls)));
}

/* apapacho_jobs.outbox_outcomes(endpoint): a row (outcome text, attempts bigint) for each class. */
Datum
apapacho_outbox_outcomes(PG_FUNCTION_ARGS)
{
    ReturnSetInfo *info = (ReturnSetInfo *)fcinfo->resultinfo;
    OutboxCounters *counters = counters_argument(fcinfo);

    InitMaterializedSRF(fcinfo, 0);
    for (int i = 0; counters != NULL && i < COUNTER_CLASSES; i++) {
        Datum values[2] = {CStringGetTextDatum(i == 0 ? "delivered" : attempt_class_name(i)),
                           Int64GetDatum((int64)pg_atomic_read_u64(&counters->outcomes[i]))};
        bool nulls[2] = {false};

        tuplestore_putvalues(info->setResult, info->setDesc, values, nulls);
    }
    return (Datum)0;
}

/* apapacho_jobs.outbox_latency(endpoint): a row (up_to_ms double precision, attempts bigint) for each bucket. */
Datum
apapacho_outbox_latency(PG_FUNCTION_ARGS)
{
    ReturnSetInfo *info = (ReturnSetInfo *)fcinfo->resultinfo;
    OutboxCounters *counters = counters_argument(fcinfo);

    InitMaterializedSRF(fcinfo, 0);
    for (int i = 0; counters != NULL && i < COUNTER_BUCKETS; i++) {
        Datum values[2] = {Float8GetDatum(counter_bucket_ms(i)),
                           Int64GetDatum((int64)pg_atomic_read_u64(&counters->took[i]))};
        bool nulls[2] = {counter_bucket_ms(i) < 0, false};

        tuplestore_putvalues(info->setResult, info->setDesc, values, nulls);
    }
    return (Datum)0;
}

/* apapacho_jobs.outbox_backlog(OUT pending, retrying, failed, oldest_pending, delivered_last_minute) */
Datum
apapacho_outbox_backlog(PG_FUNCTION_ARGS)
{
    TupleDesc description = result_type(fcinfo);
    Oid type = INT4OID;
    Datum most = Int32GetDatum(setting_outbox_max_retries);
    Datum values[5];
    bool nulls[5];
    RunAs saved;

    if (SPI_connect() != SPI_OK_CONNECT)
        elog(ERROR, "could not connect to SPI");
    run_as(&saved, user_table_check(TABLE_OUTBOX_EVENT));
    (void)spi_run(psprintf(backlog_sql, user_table_name(TABLE_OUTBOX_EVENT)), 1, &type, &most, NULL, true, 1);
    run_as_end(&saved);
    for (int i = 0; i < 5; i++)
        values[i] = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, i + 1, &nulls[i]);
    SPI_finish(); /* all are passed by value */
    PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(description, values, nulls)));
}
