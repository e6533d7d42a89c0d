/*
 * retry.c: the job `retry`: takes up payouts whose transfer failed and is due to be tried again, by an event that the one who makes
 * transfers listens to; and the list of those that are due.
 *
 * The job runs in a background worker, in transactions of BATCH_ROWS payouts. Rows that somebody else has locked (a transfer
 * being reported just now) are left for the next run.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "payout/internal.h"
#include "payout/payout.h"
#include "server/compat.h"

PG_FUNCTION_INFO_V1(apapacho_payout_pending_retry);

#define BATCH_ROWS 1000
#define PENDING_COLUMNS 5

#define IS_DUE "p.\"status\" = 'PENDING'::{PayoutStatus} AND p.\"nextRetryAt\" <= $1"

static const char count_sql[] = "SELECT pg_catalog.count(*) FROM {Payout} AS p WHERE " IS_DUE;

/* $1: those due by then are taken up, $2: now, $3: at most so many. */
static const char request_sql[] =
    "WITH due AS MATERIALIZED ("
    "  SELECT p.\"id\" AS id, p.\"creatorId\" AS creator_id, p.\"payoutAmount\" AS amount, p.\"retryCount\" AS retry_count,"
    "   apapacho_jobs.uuid_v7() AS event_id"
    "  FROM {Payout} AS p WHERE " IS_DUE " ORDER BY p.\"nextRetryAt\" LIMIT $3 FOR UPDATE SKIP LOCKED),"
    " taken AS ("
    "  UPDATE {Payout} AS p SET \"nextRetryAt\" = NULL, \"updatedAt\" = $2 FROM due AS d WHERE p.\"id\" = d.id),"
    " event AS ("
    "  INSERT INTO {OutboxEvent} (\"id\", \"aggregateType\", \"aggregateId\", \"eventType\", \"payload\", \"createdAt\")"
    "  SELECT d.event_id, 'Payout', d.id, 'PayoutRetryRequested', pg_catalog.jsonb_build_object("
    "   'eventId', d.event_id, 'eventType', 'PayoutRetryRequested', 'occurredAt', " ISO_TIME("$2") ", 'payoutId', d.id,"
    "   'creatorId', d.creator_id, 'amount', d.amount, 'retryCount', d.retry_count), $2 FROM due AS d)"
    " SELECT pg_catalog.count(*) FROM due";

static const char pending_sql[] =
    "SELECT p.\"id\", p.\"creatorId\", p.\"payoutAmount\", p.\"retryCount\", p.\"nextRetryAt\" FROM {Payout} AS p WHERE " IS_DUE
    " ORDER BY p.\"nextRetryAt\", p.\"id\"";

/* The number of payouts that are due; *now is the time of which that is true. */
static int64
count_due(Timestamp *now)
{
    Oid type = TIMESTAMPOID;
    Datum value;
    int64 count;
    RunAs saved;

    xact_begin("counting payouts to be retried");
    *now = payout_now();
    value = TimestampGetDatum(*now);
    payout_run_as(&saved);
    (void) spi_run(payout_sql(count_sql), 1, &type, &value, NULL, true, 1);
    count = spi_int64(0, 1);
    run_as_end(&saved);
    xact_commit();
    return count;
}

/* Takes up one batch; returns the number of payouts in it. */
static int64
request_batch(Timestamp due_by)
{
    Oid types[] = {TIMESTAMPOID, TIMESTAMPOID, INT4OID};
    Datum values[3];
    int64 count;
    RunAs saved;

    xact_begin("requesting payout retries");
    values[0] = TimestampGetDatum(due_by);
    values[1] = TimestampGetDatum(payout_now());
    values[2] = Int32GetDatum(BATCH_ROWS);
    payout_run_as(&saved);
    (void) spi_run(payout_sql(request_sql), 3, types, values, NULL, false, 0);
    count = spi_int64(0, 1);
    run_as_end(&saved);
    xact_commit();
    return count;
}

char *
payout_retry_run(JobRun *run)
{
    int64 requested = 0;
    int64 batch = BATCH_ROWS;
    Timestamp due_by;
    int64 pending = count_due(&due_by);

    while (batch == BATCH_ROWS && !job_should_stop(run)) {
        batch = request_batch(due_by);
        requested += batch;
    }
    if (pending > 0)
        ereport(LOG,
                (errmsg_internal("[Job:Retry] " INT64_FORMAT " payouts pendientes de reintento", pending),
                 errhidestmt(true), errhidecontext(true)));
    MemoryContextSwitchTo(run->context);
    return psprintf("{\"pending\": " INT64_FORMAT ", \"requested\": " INT64_FORMAT "}", pending, requested);
}

/* apapacho_payout_pending_retry() */
Datum
apapacho_payout_pending_retry(PG_FUNCTION_ARGS)
{
    ReturnSetInfo *info = (ReturnSetInfo *) fcinfo->resultinfo;
    Oid type = TIMESTAMPOID;
    Datum value = TimestampGetDatum(payout_now());
    Datum row[PENDING_COLUMNS];
    bool row_nulls[PENDING_COLUMNS];
    RunAs saved;

    InitMaterializedSRF(fcinfo, 0);
    payout_connect_spi();
    payout_run_as(&saved);
    (void) spi_run(payout_sql(pending_sql), 1, &type, &value, NULL, true, 0);
    for (uint64 i = 0; i < SPI_processed; i++) {
        heap_deform_tuple(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, row, row_nulls);
        tuplestore_putvalues(info->setResult, info->setDesc, row, row_nulls);
    }
    run_as_end(&saved);
    SPI_finish();
    return (Datum) 0;
}
