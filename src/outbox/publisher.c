/*
 * publisher.c: the job `outbox`: claims, publishes and records until nothing is due, and then waits a while for commits
 * that bring more.
 *
 * Runs in a background worker. Every claim looks from the oldest pending event on: only so do events that were
 * committed late, and those that had to wait for another, keep their place before the later ones of their aggregate
 * that are not in hand yet.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "portability/instr_time.h"
#include "utils/json.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "outbox/console.h"
#include "outbox/endpoint.h"
#include "outbox/hand.h"
#include "outbox/helpers.h"
#include "outbox/outbox.h"
#include "outbox/publisher.h"
#include "outbox/share.h"
#include "outbox/webhook.h"
#include "server/session.h"
#include "server/settings.h"
#include "server/wake.h"
#include "server/xact.h"

/* For so long no commit starts another run when one has failed. */
#define FAILED_RUN_MS 60000

/* So often it is looked whether the receiver has been paused meanwhile. */
#define ENDPOINT_INTERVAL_MS 1000

/*
 * Outcomes are recorded when there are this many, or after this time: a crash repeats no more than these and what was
 * in flight.
 */
#define RECORD_EVENTS 200
#define RECORD_INTERVAL_MS 250

/* So often a publisher that only waits for its helpers looks for more to do. */
#define HELPERS_TICK_MS 100

/* A publisher that has nothing to do waits so long for commits. */
#define IDLE_MS 10000

/* New events are looked for while others are on their way, but not for more than this part of the time. */
#define CLAIM_TIME_PART 4

/* A claim that takes longer, in all and for each event, passes over many: others begin further on, but for this part of
 * the time. */
#define SLOW_CLAIM_MS 5
#define SLOW_EVENT_MS 0.05
#define WHOLE_CLAIM_PART 20

/* How far clocks of those who write "createdAt" may be behind ours. */
#define CLOCK_SKEW_S 5

typedef struct Publisher {
    const JobRun *run;
    PublisherType type;
    OutboxHand *hand;
    Endpoint endpoint;
    double endpoint_at; /* when it was looked at last, by clock_ms() */
    int64 left;         /* events that may still be claimed */
    bool stopped;       /* nothing else is to be begun */
    int part;           /* of the slots: number part of parts; the helpers have the others */
    int parts;
    bool wants_help;        /* there is a lot to do: helpers are to be started when nothing is in hand */
    TimestampTz retry_at;   /* when the first event that waits is to be tried again; 0: none */
    TimestampTz claimed_at; /* when it last looked for events */
    bool exhausted;         /* the last claim found less than it might have */
    double recorded_at;     /* when outcomes were recorded last, by clock_ms() */
    Timestamp position;     /* events up to there need not be looked at again for now; DT_NOBEGIN: they do */
    double whole_claim_at;  /* when all was looked at last, by clock_ms(), */
    double whole_claim_ms;  /* and how long that took */
    bool slow;              /* it passed over many events */
    double next_claim_at;   /* not before, unless there is nothing else to do */
} Publisher;

/* Milliseconds of a clock that only goes forward. */
static double
clock_ms(void)
{
    instr_time now;

    INSTR_TIME_SET_CURRENT(now);
    return INSTR_TIME_GET_MILLISEC(now);
}

static void
record(Publisher *publisher)
{
    outbox_record(publisher->hand);
    MemoryContextSwitchTo(publisher->run->context);
    publisher->recorded_at = clock_ms();
}

/*
 * What was delivered comes again: the table does not take the mark (a trigger of the user's suppresses the UPDATE).
 * Going on would send the same events for ever.
 */
static void
check_marked(Publisher *publisher)
{
    if (!publisher->hand->sent_again || publisher->stopped)
        return;
    publisher->stopped = true;
    ereport(WARNING,
            (errcode(ERRCODE_TRIGGERED_ACTION_EXCEPTION), errmsg("published outbox events could not be marked as such"),
             errhint("Check that no trigger on the table suppresses updates.")));
}

/* How many more events may be taken into the hand. */
static int
room(const Publisher *publisher)
{
    const OutboxHand *hand = publisher->hand;

    if (hand->bytes >= OUTBOX_HAND_BYTES)
        return 0;
    return (int)Min(Min(setting_outbox_batch_size, OUTBOX_HAND_EVENTS - hand->count), publisher->left);
}

static void
report_progress(const OutboxHand *hand)
{
    int64 delivered;
    int64 failed;

    helpers_totals(&delivered, &failed);
    job_progress(delivered + failed + hand->delivered_count + hand->failed_count, -1, "events");
}

/* Takes the slots that are this publisher's: its part, and those of helpers that have ended. */
static void
take_share(Publisher *publisher)
{
    bool alone = true;

    share_take(publisher->part, publisher->parts);
    if (publisher->part > 0)
        return;
    for (int part = 1; part < publisher->parts; part++) {
        if (helpers_has(part))
            alone = false;
        else
            share_take(part, publisher->parts);
    }
    if (alone)
        publisher->parts = 1;
}

/* A full batch was found: others are to help. */
static bool
needs_help(const Publisher *publisher)
{
    return setting_outbox_workers > 1 && publisher->part == 0 && publisher->parts == 1 &&
           publisher->type == PUBLISHER_WEBHOOK && publisher->left > OUTBOX_HAND_EVENTS &&
           publisher->endpoint.state == ENDPOINT_CLOSED && !publisher->stopped;
}

/* With nothing in hand: divides the slots. */
static void
start_helpers(Publisher *publisher)
{
    int count = Min(setting_outbox_workers, OUTBOX_MOST_WORKERS) - 1;

    publisher->wants_help = false;
    if (count < 1 || publisher->stopped)
        return;
    publisher->parts = count + 1;
    share_keep(0, publisher->parts); /* first: they look at once */
    if (helpers_start(publisher->run, count) == 0)
        publisher->parts = 1;
}

/* Whether events that were passed over may be due by now, or it is time to see about that. */
static bool
must_look_at_all(const Publisher *publisher)
{
    if (publisher->position == DT_NOBEGIN || publisher->hand->has_followers)
        return true;
    if (publisher->retry_at != 0 && publisher->retry_at <= publisher->claimed_at)
        return true;
    return clock_ms() - publisher->whole_claim_at > publisher->whole_claim_ms * WHOLE_CLAIM_PART;
}

/*
 * Claims from the oldest pending event on. Where that is slow, since many wait there for a retry, or for another one of
 * their aggregate, most claims begin where the last one ended, less what open transactions may still add before that.
 */
static int
claim_from_position(Publisher *publisher, int limit, bool *more)
{
    bool slow = publisher->slow;
    TimestampTz oldest_writer = slow ? outbox_oldest_writer() : DT_NOBEGIN; /* before the claim's snapshot */
    bool all = !slow || must_look_at_all(publisher);
    Timestamp from = all ? DT_NOBEGIN : publisher->position;
    double started_at = clock_ms();
    Timestamp seen;
    int count;

    if (all)
        publisher->hand->has_followers = false;
    count = outbox_claim(publisher->hand, limit, from, &seen, more);
    if (all) {
        publisher->whole_claim_at = clock_ms();
        publisher->whole_claim_ms = clock_ms() - started_at;
        publisher->slow =
            publisher->whole_claim_ms > SLOW_CLAIM_MS && publisher->whole_claim_ms > SLOW_EVENT_MS * count;
    }
    publisher->position =
        oldest_writer == DT_NOBEGIN ? DT_NOBEGIN : Min(seen, oldest_writer - CLOCK_SKEW_S * USECS_PER_SEC);
    if (count == 0 && !all) {
        publisher->position = DT_NOBEGIN; /* nothing left but perhaps there */
        return claim_from_position(publisher, limit, more);
    }
    return count;
}

/* Takes more events into the hand. Returns how many. */
static int
claim(Publisher *publisher)
{
    OutboxHand *hand = publisher->hand;
    double started_at;
    bool more;
    int limit;
    int count;
    int held;

    record(publisher);
    limit = publisher->endpoint.state == ENDPOINT_PROBING ? Min(room(publisher), 1 - hand->count) : room(publisher);
    if (publisher->stopped || limit <= 0)
        return 0;
    held = share_count();
    take_share(publisher);
    if (share_count() > held)
        publisher->position = DT_NOBEGIN; /* others' events are ours now */
    if (share_is_empty())
        return 0; /* others see to all of them */
    if (publisher->part == 0)
        (void)wake_take();
    started_at = clock_ms();
    publisher->claimed_at = GetCurrentTimestamp();
    count = claim_from_position(publisher, limit, &more);
    MemoryContextSwitchTo(publisher->run->context);
    publisher->next_claim_at = clock_ms() + (clock_ms() - started_at) * CLAIM_TIME_PART;
    publisher->left -= count;
    publisher->exhausted = !more;
    check_marked(publisher);
    publisher->wants_help = publisher->wants_help || (!publisher->exhausted && needs_help(publisher));
    report_progress(hand);
    return count;
}

/* Whether there may be more to take on, while some events are still in hand. */
static bool
has_more(const Publisher *publisher)
{
    const OutboxHand *hand = publisher->hand;

    if (publisher->stopped || publisher->wants_help || job_is_to_end_soon() ||
        room(publisher) < Min(setting_outbox_batch_size, publisher->left) / 2 + 1)
        return false;
    if (!publisher->exhausted || hand->has_followers)
        return true;
    return publisher->run->trigger != JOB_TRIGGER_MANUAL &&
           (wake_is_pending() || (publisher->retry_at != 0 && publisher->retry_at <= GetCurrentTimestamp()));
}

static bool
wants_more(const Publisher *publisher)
{
    return publisher->hand->ready_count == 0 && webhook_has_room() && clock_ms() >= publisher->next_claim_at &&
           has_more(publisher);
}

/* How long to wait for the network: until something else is to be done. */
static long
patience(const Publisher *publisher)
{
    double until_claim = publisher->next_claim_at - clock_ms();

    if (!webhook_has_room() || until_claim > RECORD_INTERVAL_MS || !has_more(publisher))
        return RECORD_INTERVAL_MS;
    return Max((long)until_claim, 0) + 1;
}

/* When an event that waits for another attempt will be due; 0: there is none. */
static TimestampTz
next_retry(const Publisher *publisher)
{
    Oid type = TIMESTAMPTZOID;
    Datum since =
        TimestampTzGetDatum(publisher->claimed_at); /* what was due then and is still there is not to be had */
    TimestampTz next;

    xact_begin("apapacho_jobs: looking when events are tried again");
    (void)spi_run("SELECT pg_catalog.min(next_attempt_at) FROM apapacho_jobs.outbox_retry"
                  " WHERE next_attempt_at OPERATOR(pg_catalog.>) $1",
                  1, &type, &since, NULL, true, 1);
    next = spi_time(0, 1);
    xact_commit();
    return next;
}

/* Looks from time to time whether the receiver has been paused, and for events that are to be tried again. */
static void
check_endpoint(Publisher *publisher)
{
    Endpoint seen;

    if (clock_ms() - publisher->endpoint_at < ENDPOINT_INTERVAL_MS)
        return;
    publisher->endpoint_at = clock_ms();
    publisher->retry_at = next_retry(publisher);
    endpoint_load(&seen, false);
    MemoryContextSwitchTo(publisher->run->context);
    if (seen.state == ENDPOINT_PAUSED || seen.state == ENDPOINT_STOPPED) {
        publisher->endpoint = seen;
        publisher->stopped = true;
    }
}

/* What the latest outcomes say about the receiver. */
static void
judge_endpoint(Publisher *publisher)
{
    OutboxHand *hand = publisher->hand;
    Endpoint *endpoint = &publisher->endpoint;

    if (hand->receiver_gone && endpoint->state != ENDPOINT_STOPPED)
        endpoint_stopped(endpoint, hand->last_error);
    else if (endpoint->state == ENDPOINT_PROBING && hand->receiver_failures > 0)
        endpoint_opened(endpoint, hand->last_error);
    else if (endpoint->state == ENDPOINT_PROBING && hand->delivered_count + hand->failed_count > 0)
        endpoint_closed(endpoint);
    else if (endpoint->state == ENDPOINT_CLOSED && hand->receiver_failures >= ENDPOINT_FAILURES)
        endpoint_opened(endpoint, hand->last_error);
    MemoryContextSwitchTo(publisher->run->context);
}

static void
note_stop(Publisher *publisher)
{
    publisher->stopped = publisher->stopped || job_should_stop(publisher->run);
    if (publisher->type == PUBLISHER_WEBHOOK) {
        judge_endpoint(publisher);
        check_endpoint(publisher);
        publisher->stopped = publisher->stopped || (publisher->endpoint.state != ENDPOINT_CLOSED &&
                                                    publisher->endpoint.state != ENDPOINT_PROBING);
    }
    if (publisher->stopped)
        hand_put_back_ready(publisher->hand);
}

static void
record_in_between(Publisher *publisher)
{
    if (publisher->hand->finished_count >= RECORD_EVENTS ||
        (publisher->hand->finished_count > 0 && clock_ms() - publisher->recorded_at >= RECORD_INTERVAL_MS))
        record(publisher);
}

/* Sends what is in hand and what comes to it, until nothing is left there. */
static void
send_all(Publisher *publisher)
{
    OutboxHand *hand = publisher->hand;

    if (publisher->type == PUBLISHER_CONSOLE) {
        console_publish(hand);
        note_stop(publisher);
        return;
    }
    for (;;) {
        outbox_check_interrupts(hand);
        note_stop(publisher);
        if (wants_more(publisher))
            (void)claim(publisher);
        webhook_send_ready(hand);
        webhook_run(hand);
        record_in_between(publisher);
        if (hand->ready_count == 0 && webhook_in_flight() == 0)
            break;
        if (hand->ready_count == 0 || !webhook_has_room())
            webhook_wait(patience(publisher));
    }
}

/* There is nothing left but what the helpers are at. */
static void
wait_for_helpers(Publisher *publisher)
{
    outbox_check_interrupts(publisher->hand);
    note_stop(publisher);
    if (publisher->stopped)
        helpers_stop();
    else
        webhook_wait(HELPERS_TICK_MS); /* their ends wake us */
    report_progress(publisher->hand);
}

/* Publishes until a claim finds nothing. */
static void
publish_due(Publisher *publisher)
{
    publisher->recorded_at = clock_ms();
    while (publisher->left > 0) {
        if (publisher->run->trigger != JOB_TRIGGER_MANUAL && job_is_to_end_soon())
            publisher->stopped = true; /* what is left is the next run's */
        if (publisher->wants_help)
            start_helpers(publisher);
        if (claim(publisher) > 0)
            send_all(publisher);
        else if (publisher->part == 0 && helpers_any())
            wait_for_helpers(publisher);
        else if (publisher->parts == 1 || publisher->part > 0 || publisher->stopped)
            break;
    }
    record(publisher);
    if (publisher->type == PUBLISHER_WEBHOOK)
        judge_endpoint(publisher);
}

/* Whether more events may come soon, by commits that this process can wait for. */
static bool
may_wait(const Publisher *publisher)
{
    return setting_outbox_wake_on_commit && publisher->run->trigger != JOB_TRIGGER_MANUAL && !publisher->stopped &&
           publisher->hand->claimed_count > 0;
}

/* Waits for a commit, or until an event is to be tried again. False: none came in time, or the run is to end. */
static bool
wait_for_commit(Publisher *publisher)
{
    TimestampTz retry_at = publisher->retry_at = next_retry(publisher);
    double started_at = clock_ms();

    MemoryContextSwitchTo(publisher->run->context);
    for (;;) {
        double left = started_at + IDLE_MS - clock_ms();
        long until_retry = retry_at == 0 ? IDLE_MS : TimestampDifferenceMilliseconds(GetCurrentTimestamp(), retry_at);

        wake_listen(); /* each time: the scheduler may be another one by now */
        if (wake_is_pending() || until_retry == 0)
            return true;
        if (left <= 0 || !job_wait_idle((long)Min(left, until_retry) + 1))
            return false;
    }
}

/*
 * Tells the scheduler when to start the next run: for what is left over at once, for what is to be tried again later,
 * for a receiver that cannot have anything when it may.
 */
static void
plan_next_run(const Publisher *publisher)
{
    Endpoint endpoint = publisher->endpoint;

    if (endpoint.state == ENDPOINT_PAUSED || endpoint.state == ENDPOINT_STOPPED) {
        wake_hold(DT_NOEND); /* apapacho_outbox_resume() ends that; just now it may have done so */
        if (!session_terminating)
            endpoint_load(&endpoint, false);
    }
    if (endpoint.state == ENDPOINT_CLOSED || endpoint.state == ENDPOINT_PROBING) {
        TimestampTz retry_at = session_terminating ? 0 : next_retry(publisher); /* the next scheduler looks by itself */

        wake_hold(publisher->hand->sent_again ? TimestampTzPlusMilliseconds(GetCurrentTimestamp(), FAILED_RUN_MS) : 0);
        if (retry_at != 0)
            wake_note_due(retry_at);
    } else if (endpoint.state == ENDPOINT_OPEN) {
        wake_hold(endpoint.probe_at);
        wake_note_due(endpoint.probe_at);
    }
    if (publisher->left == 0 || publisher->stopped)
        wake_publisher();
}

static void
publish_and_wait(Publisher *publisher)
{
    if (setting_outbox_wake_on_commit)
        wake_listen();
    do
        publish_due(publisher);
    while (may_wait(publisher) && wait_for_commit(publisher));
}

/* Whether anything may be sent; if not, the result says why. */
static bool
is_open_for_events(Publisher *publisher)
{
    static const char *const reasons[] = {
        [ENDPOINT_OPEN] = "the webhook receiver failed again and again, and is left alone for a while",
        [ENDPOINT_PAUSED] = "the webhook endpoint is paused, until apapacho_outbox_resume()",
        [ENDPOINT_STOPPED] = "the webhook receiver has said that it is gone; apapacho_outbox_resume() tries it again"};
    OutboxHand *hand = publisher->hand;

    endpoint_load(&publisher->endpoint, publisher->run->trigger == JOB_TRIGGER_MANUAL);
    publisher->endpoint_at = clock_ms();
    if (publisher->endpoint.state == ENDPOINT_CLOSED || publisher->endpoint.state == ENDPOINT_PROBING)
        return true;
    hand->errors[hand->error_count++] = pstrdup(reasons[publisher->endpoint.state]);
    return false;
}

/* Everything is let go of, whatever happened. */
static void
close_publisher(void)
{
    helpers_stop();
    webhook_close();
    share_release();
    wake_unlisten();
    outbox_ignore_own_commits(false);
}

static char *
totals_json(const OutboxHand *hand, int64 delivered, int64 failed, MemoryContext context)
{
    MemoryContext before = MemoryContextSwitchTo(context);
    StringInfoData json;

    initStringInfo(&json);
    appendStringInfo(&json, "{\"processed\": " INT64_FORMAT ", \"failed\": " INT64_FORMAT ", \"errors\": [", delivered,
                     failed);
    for (int i = 0; i < hand->error_count; i++) {
        if (i > 0)
            appendStringInfoString(&json, ", ");
        escape_json(&json, hand->errors[i]);
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
    /* a reload may change the type in the middle of the run */
    Publisher publisher = {.run = run,
                           .type = setting_outbox_publisher_type,
                           .left = events_asked_for(run),
                           .parts = 1,
                           .position = DT_NOBEGIN};
    int64 delivered;
    int64 failed;
    OutboxHand *hand = publisher.hand = hand_create(run->context);

    outbox_ignore_own_commits(true);
    PG_TRY();
    {
        if (publisher.type == PUBLISHER_CONSOLE)
            publish_and_wait(&publisher);
        else if (is_open_for_events(&publisher)) {
            webhook_open();
            publish_and_wait(&publisher);
        }
        plan_next_run(&publisher);
    }
    PG_CATCH();
    {
        wake_hold(TimestampTzPlusMilliseconds(GetCurrentTimestamp(), FAILED_RUN_MS));
        wake_publisher(); /* the flag may have been taken */
        close_publisher();
        PG_RE_THROW();
    }
    PG_END_TRY();
    close_publisher();

    helpers_totals(&delivered, &failed);
    delivered += hand->delivered_count;
    failed += hand->failed_count;
    if (delivered > 0 || failed > 0)
        ereport(LOG, (errmsg_internal("[Job:Outbox] Procesados: " INT64_FORMAT ", Fallidos: " INT64_FORMAT, delivered,
                                      failed)));
    return totals_json(hand, delivered, failed, run->context);
}

void
publisher_help(const JobRun *run, int part, int parts, int64 *delivered, int64 *failed)
{
    Publisher publisher = {.run = run,
                           .type = PUBLISHER_WEBHOOK,
                           .left = PG_INT64_MAX,
                           .part = part,
                           .parts = parts,
                           .position = DT_NOBEGIN};
    OutboxHand *hand = publisher.hand = hand_create(run->context);

    outbox_ignore_own_commits(true);
    PG_TRY();
    {
        if (is_open_for_events(&publisher)) {
            webhook_open();
            publish_due(&publisher);
        }
    }
    PG_FINALLY();
    {
        webhook_close();
        share_release();
        *delivered += hand->delivered_count;
        *failed += hand->failed_count;
    }
    PG_END_TRY();
}
