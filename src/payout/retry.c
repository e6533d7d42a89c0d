/*
 * retry.c: the job `retry`: takes up payouts whose transfer failed and is due to be tried again, by an event that the
 * one who makes transfers listens to; and the list of those that are due.
 *
 * The job runs in a background worker, in transactions of BATCH_ROWS payouts (divide.c deals with errors). Rows that
 * somebody else has locked (a transfer being reported just now) are left for the next run.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "payout/internal.h"
#include "payout/payout.h"
#include "server/compat.h"

PG_FUNCTION_INFO_V1(apapacho_payout_pending_retry);

#define BATCH_ROWS 1000
#define PENDING_COLUMNS 5

/* A run of the job. */
typedef struct Retry {
    JobRun *run;
    Timestamp due_by;
    MemoryContext batch; /* of the ids at hand; emptied between batches */
    char *last_id;       /* of the batch before; NULL at first */
    int64 requested;
    int64 errors;
} Retry;

#define IS_DUE "p.\"status\" = 'PENDING'::{PayoutStatus} AND p.\"nextRetryAt\" <= $1"

static const char count_sql[] = "SELECT pg_catalog.count(*) FROM {Payout} AS p WHERE " IS_DUE;

/* The next ones in the order of their ids. $1: due by then, $2: after this id (null: from the first), $3: at most so
 * many. */
static const char next_sql[] =
    "SELECT p.\"id\" FROM {Payout} AS p WHERE " IS_DUE " AND ($2 IS NULL OR p.\"id\" > $2) ORDER BY p.\"id\" LIMIT $3";

/* $1: those due by then are taken up, $2: now, $3: if they are among these. */
static const char request_sql[] =
    "WITH due AS MATERIALIZED ("
    "  SELECT p.\"id\" AS id, p.\"creatorId\" AS creator_id, p.\"payoutAmount\" AS amount, p.\"retryCount\" AS "
    "retry_count,"
    "   apapacho_jobs.uuid_v7() AS event_id"
    "  FROM {Payout} AS p WHERE " IS_DUE " AND p.\"id\" = ANY ($3) ORDER BY p.\"id\" FOR UPDATE SKIP LOCKED),"
    " taken AS ("
    "  UPDATE {Payout} AS p SET \"nextRetryAt\" = NULL, \"updatedAt\" = $2 FROM due AS d WHERE p.\"id\" = d.id"
    "  RETURNING d.*),"
    " event AS ("
    "  INSERT INTO {OutboxEvent} (\"id\", \"aggregateType\", \"aggregateId\", \"eventType\", \"payload\", "
    "\"createdAt\")"
    "  SELECT d.event_id, 'Payout', d.id, 'PayoutRetryRequested', pg_catalog.jsonb_build_object("
    "   'eventId', d.event_id, 'eventType', 'PayoutRetryRequested', 'occurredAt', " ISO_TIME(
        "$2") ", 'payoutId', d.id,"
              "   'creatorId', d.creator_id, 'amount', d.amount, 'retryCount', d.retry_count), $2 FROM taken AS d)"
              " SELECT pg_catalog.count(*) FROM taken";

static const char pending_sql[] =
    "SELECT p.\"id\", p.\"creatorId\", p.\"payoutAmount\", p.\"retryCount\", p.\"nextRetryAt\" FROM {Payout} AS p "
    "WHERE " IS_DUE " ORDER BY p.\"nextRetryAt\", p.\"id\"";

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
    (void)spi_run(payout_sql(count_sql), 1, &type, &value, NULL, true, 1);
    count = spi_int64(0, 1);
    run_as_end(&saved);
    xact_commit();
    return count;
}

/* The ids of the next payouts, in the batch's memory; their number in *count. */
static char **
next_due(Retry *retry, int *count)
{
    Oid types[] = {TIMESTAMPOID, TEXTOID, INT4OID};
    Datum values[] = {TimestampGetDatum(retry->due_by), (Datum)0, Int32GetDatum(BATCH_ROWS)};
    char nulls[] = {' ', 'n', ' '};
    char **ids;
    RunAs saved;

    xact_begin("finding payouts to be retried");
    payout_run_as(&saved);
    if (retry->last_id != NULL) {
        values[1] = CStringGetTextDatum(retry->last_id);
        nulls[1] = ' ';
    }
    *count = (int)spi_run(payout_sql(next_sql), 3, types, values, nulls, true, 0);
    MemoryContextSwitchTo(retry->batch);
    ids = palloc(sizeof(char *) * Max(*count, 1));
    for (int i = 0; i < *count; i++)
        ids[i] = spi_text(i, 1);
    run_as_end(&saved);
    xact_commit();
    return ids;
}

/* Takes up those of the payouts that are still due and that nobody has locked. A PayoutStep. */
static void
request_retries(void *state, char **ids, int count)
{
    Retry *retry = state;
    Oid types[] = {TIMESTAMPOID, TIMESTAMPOID, TEXTARRAYOID};
    Datum values[3];
    Datum *elements;
    int64 requested;
    RunAs saved;

    xact_begin("requesting payout retries");
    elements = palloc(sizeof(Datum) * Max(count, 1));
    for (int i = 0; i < count; i++)
        elements[i] = CStringGetTextDatum(ids[i]);
    values[0] = TimestampGetDatum(retry->due_by);
    values[1] = TimestampGetDatum(payout_now());
    values[2] = PointerGetDatum(construct_array(elements, count, TEXTOID, -1, false, TYPALIGN_INT));
    payout_run_as(&saved);
    (void)spi_run(payout_sql(request_sql), 3, types, values, NULL, false, 0);
    requested = spi_int64(0, 1);
    run_as_end(&saved);
    xact_commit();
    retry->requested += requested;
}

/* Takes up all that are due, in the order of their ids. */
static void
request_all(Retry *retry)
{
    PayoutWork work = {
        .step = request_retries,
        .state = retry,
        .memory = retry->batch,
        .failure = "could not request the retry of payout",
    };
    int count = BATCH_ROWS;

    while (count == BATCH_ROWS && !job_should_stop(retry->run)) {
        char **ids = next_due(retry, &count);

        MemoryContextSwitchTo(retry->batch);
        if (count > 0) {
            retry->errors += payout_divide(&work, ids, count);
            retry->last_id = MemoryContextStrdup(retry->run->context, ids[count - 1]);
        }
        MemoryContextSwitchTo(retry->run->context);
        MemoryContextReset(retry->batch);
    }
}

char *
payout_retry_run(JobRun *run)
{
    Retry retry = {.run = run};
    int64 pending = count_due(&retry.due_by);

    retry.batch = AllocSetContextCreate(run->context, "apapacho_jobs retry batch", ALLOCSET_DEFAULT_SIZES);
    if (pending > 0) {
        request_all(&retry);
        ereport(LOG, (errmsg_internal("[Job:Retry] " INT64_FORMAT " payouts pendientes de reintento", pending),
                      errhidestmt(true), errhidecontext(true)));
    }
    MemoryContextSwitchTo(run->context);
    return psprintf("{\"pending\": " INT64_FORMAT ", \"requested\": " INT64_FORMAT ", \"errors\": " INT64_FORMAT "}",
                    pending, retry.requested, retry.errors);
}

/* apapacho_payout_pending_retry() */
Datum
apapacho_payout_pending_retry(PG_FUNCTION_ARGS)
{
    ReturnSetInfo *info = (ReturnSetInfo *)fcinfo->resultinfo;
    Oid type = TIMESTAMPOID;
    Datum value = TimestampGetDatum(payout_now());
    Datum row[PENDING_COLUMNS];
    bool row_nulls[PENDING_COLUMNS];
    RunAs saved;

    InitMaterializedSRF(fcinfo, 0);
    payout_connect_spi();
    payout_run_as(&saved);
    (void)spi_run(payout_sql(pending_sql), 1, &type, &value, NULL, true, 0);
    for (uint64 i = 0; i < SPI_processed; i++) {
        heap_deform_tuple(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, row, row_nulls);
        tuplestore_putvalues(info->setResult, info->setDesc, row, row_nulls);
    }
    run_as_end(&saved);
    SPI_finish();
    return (Datum)0;
}
