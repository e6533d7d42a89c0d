/*
 * publisher.c: the job `outbox`: claims, publishes and records, batch after batch, until nothing is due.
 *
 * Runs in a background worker. Every claim looks from the oldest pending event on: only so do events that were
 * committed late, and those that had to wait for another, keep their place before the later ones of their aggregate.
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "utils/json.h"
#include "utils/memutils.h"

#include "outbox/batch.h"
#include "outbox/console.h"
#include "outbox/outbox.h"
#include "outbox/webhook.h"
#include "server/settings.h"

/* Few and short: a run's result is handed on in shared memory. */
#define REPORTED_ERRORS 3

/* A run ends when a whole batch, and at least this many events in a row, failed: the receiver is not there. */
#define FAILURES_TO_GIVE_UP 10

typedef struct Totals {
    int64 processed;
    int64 failed;
    int64 failures_in_a_row; /* in batches without a success */
    char *errors[REPORTED_ERRORS];
    int error_count;
} Totals;

static void
add_up(Totals *totals, const OutboxBatch *batch, MemoryContext context)
{
    MemoryContext before = MemoryContextSwitchTo(context);

    totals->processed += batch->delivered_count;
    totals->failed += batch->failed_count;
    totals->failures_in_a_row = batch->delivered_count > 0 ? 0 : totals->failures_in_a_row + batch->failed_count;
    for (int i = 0; i < batch->count && totals->error_count < REPORTED_ERRORS; i++) {
        if (batch->events[i].state == OUTBOX_FAILED)
            totals->errors[totals->error_count++] = psprintf("%.100s: %.200s", outbox_printable(batch->events[i].id),
                                                             outbox_printable(batch->events[i].error));
    }
    MemoryContextSwitchTo(before);
}

/*
 * When not one of the outcomes could be written (a trigger of the user's that suppresses the UPDATE; or all the events
 * were deleted meanwhile), going on might send the same events for ever.
 */
static void
check_recorded(const OutboxBatch *batch, bool *stopped)
{
    int outcomes = batch->delivered_count + batch->failed_count;

    if (outcomes == 0 || batch->recorded_count > 0)
        return;
    *stopped = true;
    ereport(WARNING, (errcode(ERRCODE_TRIGGERED_ACTION_EXCEPTION),
                      errmsg("none of %d published outbox events could be marked as such", outcomes),
                      errhint("Check that no trigger on the table suppresses updates.")));
}

/* Publishes up to `limit` events. Returns how many were claimed. */
static int
publish_batch(const JobRun *run, PublisherType publisher, int limit, Totals *totals, bool *stopped)
{
    MemoryContext context = AllocSetContextCreate(run->context, "outbox batch", ALLOCSET_DEFAULT_SIZES);
    OutboxBatch *batch = outbox_claim(context, limit);
    int count = batch->count;

    if (count > 0) {
        if (publisher == PUBLISHER_CONSOLE) {
            console_publish(batch);
            outbox_record(batch);
        } else {
            webhook_publish(batch, run, stopped);
        }
        add_up(totals, batch, run->context);
        check_recorded(batch, stopped);
        job_progress(totals->processed + totals->failed, -1, "events");
    }
    MemoryContextDelete(context);
    return count;
}

/* At most `most` events in all. */
static void
publish_due(const JobRun *run, PublisherType publisher, int64 most, Totals *totals)
{
    bool stopped = false;

    while (most > 0 && !stopped && !job_should_stop(run)) {
        int limit = (int)Min(Min((int64)setting_outbox_batch_size, OUTBOX_CLAIM_EVENTS), most);
        int count = publish_batch(run, publisher, limit, totals, &stopped);

        if (count == 0 || totals->failures_in_a_row >= FAILURES_TO_GIVE_UP)
            break;
        most -= count;
    }
}

static char *
totals_json(const Totals *totals, MemoryContext context)
{
    MemoryContext before = MemoryContextSwitchTo(context);
    StringInfoData json;

    initStringInfo(&json);
    appendStringInfo(&json, "{\"processed\": " INT64_FORMAT ", \"failed\": " INT64_FORMAT ", \"errors\": [",
                     totals->processed, totals->failed);
    for (int i = 0; i < totals->error_count; i++) {
        if (i > 0)
            appendStringInfoString(&json, ", ");
        escape_json(&json, totals->errors[i]);
    }
    appendStringInfoString(&json, "]}");
    MemoryContextSwitchTo(before);
    return json.data;
}

/* The argument batchSize; all there are when it is not given. */
static int64
events_asked_for(const JobRun *run)
{
    int64 asked = job_argument_int(run, "batchSize", PG_INT64_MAX);

    if (asked < 1)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("the batch size must be at least 1, not " INT64_FORMAT, asked)));
    return asked;
}

char *
outbox_publish_run(JobRun *run)
{
    Totals totals = {0};
    int64 most = events_asked_for(run);
    PublisherType publisher = setting_outbox_publisher_type; /* a reload may change it in the middle of the run */

    PG_TRY();
    {
        if (publisher == PUBLISHER_WEBHOOK)
            webhook_open();
        publish_due(run, publisher, most, &totals);
    }
    PG_FINALLY();
    {
        webhook_close();
    }
    PG_END_TRY();

    if (totals.processed > 0 || totals.failed > 0)
        ereport(LOG, (errmsg_internal("[Job:Outbox] Procesados: " INT64_FORMAT ", Fallidos: " INT64_FORMAT,
                                      totals.processed, totals.failed)));
    return totals_json(&totals, run->context);
}
