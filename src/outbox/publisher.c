/*
 * publisher.c: the job `outbox`: claims, publishes and records until nothing is due, and then waits a while for commits
 * that bring more.
 *
 * Runs in a background worker; helpers of it in others. A loop of named steps: what is to be sent next is intake.c's
 * matter, how is webhook.c's or console.c's.
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "portability/instr_time.h"
#include "storage/latch.h"
#include "utils/json.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "outbox/console.h"
#include "outbox/endpoint.h"
#include "outbox/hand.h"
#include "outbox/helpers.h"
#include "outbox/intake.h"
#include "outbox/outbox.h"
#include "outbox/publisher.h"
#include "outbox/share.h"
#include "outbox/watch.h"
#include "outbox/webhook.h"
#include "server/delivery_settings.h"
#include "server/seats.h"
#include "server/session.h"
#include "server/settings.h"
#include "server/wake.h"
#include "server/xact.h"

/* For so long no commit starts another run when one has failed. */
#define FAILED_RUN_MS 60000

/*
 * Outcomes are recorded when there are this many, or after this time: a crash repeats no more than these and what was
 * in flight.
 */
#define RECORD_EVENTS 200
#define RECORD_INTERVAL_MS 250

/* So often a publisher that only waits for its helpers looks for more to do. */
#define HELPERS_TICK_MS 100
#define HELPERS_LONGEST_TICK_MS 1000 /* where looking takes long */

/* So often a publisher looks whether others have let go of what is to be its own. */
#define SHARE_TICK_MS 20

/* A publisher that has nothing to do waits so long for commits. */
#define IDLE_MS 10000

double
publisher_clock_ms(void)
{
    instr_time now;

    INSTR_TIME_SET_CURRENT(now);
    return INSTR_TIME_GET_MILLISEC(now);
}

void
publisher_record(Publisher *publisher)
{
    outbox_record(publisher->hand);
    MemoryContextSwitchTo(publisher->run->context);
    publisher->recorded_at = publisher_clock_ms();
}

static void
note_stop(Publisher *publisher)
{
    OutboxHand *hand = publisher->hand;

    publisher->stopped =
        publisher->stopped || job_should_stop(publisher->run) || (publisher->part > 0 && helpers_asked_to_end());
    if (publisher->type == PUBLISHER_WEBHOOK) {
        watch_endpoints(publisher);
        publisher->stopped = publisher->stopped || !endpoints_usable(hand->endpoints);
    }
    if (publisher->stopped || intake_must_let_go(publisher))
        watch_put_off_all(publisher);
}

void
publisher_record_in_between(Publisher *publisher)
{
    if (publisher->hand->finished_count >= RECORD_EVENTS ||
        (publisher->hand->finished_count > 0 && publisher_clock_ms() - publisher->recorded_at >= RECORD_INTERVAL_MS))
        publisher_record(publisher);
}

/* Whether something is ready that could be sent now. */
static bool
can_send(const OutboxHand *hand)
{
    for (int i = 0; hand->ready_count > 0 && i < hand->endpoints->count; i++) {
        if (hand->queues[i].ready_count > 0 && webhook_has_room(i))
            return true;
    }
    return false;
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
        if (intake_wants_more(publisher))
            (void)intake_claim(publisher);
        webhook_send_ready(hand);
        webhook_run(hand);
        publisher_record_in_between(publisher);
        if (hand->ready_count == 0 && webhook_in_flight() == 0)
            break;
        if (!can_send(hand))
            webhook_wait(hand, intake_patience(publisher, RECORD_INTERVAL_MS));
    }
}

/* There is nothing left but what the helpers are at. */
static void
wait_for_helpers(Publisher *publisher)
{
    double until_claim;

    outbox_check_interrupts(publisher->hand);
    note_stop(publisher);
    if (publisher->stopped)
        helpers_ask_to_end();
    until_claim = publisher->next_claim_at - publisher_clock_ms();
    webhook_wait(publisher->hand,
                 (long)Max(HELPERS_TICK_MS, Min(until_claim, HELPERS_LONGEST_TICK_MS))); /* their ends wake us */
    intake_report_progress(publisher->hand);
}

/* Others are about to let go of slots that are to be this publisher's. */
static void
wait_for_share(Publisher *publisher)
{
    (void)WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, SHARE_TICK_MS, PG_WAIT_EXTENSION);
    ResetLatch(MyLatch);
    outbox_check_interrupts(publisher->hand);
    note_stop(publisher);
}

/* Publishes until a claim finds nothing. */
static void
publish_due(Publisher *publisher)
{
    publisher->recorded_at = publisher_clock_ms();
    while (publisher->left > 0) {
        if (publisher->run->trigger != JOB_TRIGGER_MANUAL && job_is_to_end_soon())
            publisher->stopped = true; /* what is left is the next run's */
        if (publisher->wants_help)
            intake_start_helpers(publisher);
        if (intake_claim(publisher) > 0)
            send_all(publisher);
        else if (publisher->part == 0 && helpers_any())
            wait_for_helpers(publisher);
        else if (!publisher->stopped && intake_misses_share(publisher))
            wait_for_share(publisher);
        else if (publisher->parts == 1 || publisher->part > 0 || publisher->stopped)
            break;
    }
    publisher_record(publisher);
    if (publisher->type == PUBLISHER_WEBHOOK)
        watch_judge(publisher);
}

/* Whether more events may come soon, by commits that this process can wait for. */
static bool
may_wait(const Publisher *publisher)
{
    return setting_outbox_wake_on_commit && publisher->run->trigger != JOB_TRIGGER_MANUAL && !publisher->stopped &&
           (publisher->hand->claimed_count > 0 || seats_others(publisher->seat) > 0);
}

/* Waits for a commit, or until an event or an endpoint is to be tried again. False: none came in time, or the run is to
 * end. */
static bool
wait_for_commit(Publisher *publisher)
{
    double idle_until = publisher_clock_ms() + IDLE_MS;

    publisher->retry_at = intake_next_retry(publisher);
    MemoryContextSwitchTo(publisher->run->context);
    for (;;) {
        double look_at = intake_next_look(publisher, IDLE_MS);
        double now = publisher_clock_ms();

        wake_listen(); /* each time: the scheduler may be another one by now */
        if (wake_is_pending() || intake_share_has_changed(publisher) || look_at <= now)
            return true;
        if (!publisher->has_passed_over)
            look_at = Min(look_at, idle_until);
        if (look_at <= now || !job_wait_idle((long)(look_at - now) + 1))
            return false;
    }
}

/* Whether no endpoint can have anything. A resume that has come just now is seen. */
static bool
is_nobody_there(const Publisher *publisher)
{
    EndpointSet *endpoints = publisher->hand->endpoints;
    TimestampTz probe_at = endpoints_next_probe(endpoints);
    bool usable = false;
    bool outdated;

    if (endpoints_usable(endpoints))
        return false;
    wake_hold(probe_at != 0 ? probe_at : DT_NOEND); /* first: apapacho_outbox_resume() ends that */
    if (session_terminating)
        return true;
    xact_begin("apapacho_jobs: looking whether events may be sent");
    outdated = !endpoints_refresh(endpoints, &usable);
    xact_commit();
    MemoryContextSwitchTo(publisher->run->context);
    return !outdated && !endpoints_usable(endpoints);
}

/*
 * Tells the scheduler when to start the next run: for what is left over at once, for what is to be tried again later,
 * for receivers that cannot have anything when they may.
 */
static void
plan_next_run(const Publisher *publisher)
{
    TimestampTz probe_at;

    if (!is_nobody_there(publisher)) {
        TimestampTz retry_at =
            session_terminating ? 0 : intake_next_retry(publisher); /* the next scheduler looks by itself */

        MemoryContextSwitchTo(publisher->run->context);
        wake_hold(publisher->hand->sent_again ? TimestampTzPlusMilliseconds(GetCurrentTimestamp(), FAILED_RUN_MS) : 0);
        if (retry_at != 0)
            wake_note_due(retry_at);
    }
    probe_at = endpoints_next_probe(publisher->hand->endpoints);
    if (probe_at != 0)
        wake_note_due(probe_at);
    if (publisher->left == 0 || publisher->stopped || publisher->has_passed_over)
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

/* Loads the endpoints and opens their engines. */
static void
open_endpoints(Publisher *publisher, int parts)
{
    bool console = publisher->type == PUBLISHER_CONSOLE;
    EndpointSet *endpoints =
        endpoints_load(publisher->run->context, console, publisher->run->trigger == JOB_TRIGGER_MANUAL);

    MemoryContextSwitchTo(publisher->run->context);
    publisher->hand = hand_create(publisher->run->context, endpoints);
    publisher->endpoints_at = publisher_clock_ms();
    if (console)
        return;
    webhook_open(endpoints, (ReceiverShare){.seat = publisher->seat, .parts = parts});
    watch_problems(publisher);
}

/* Whether anything may be sent; if not, the result says why. */
static bool
is_open_for_events(Publisher *publisher)
{
    static const char *const reasons[] = {
        [ENDPOINT_CLOSED] = "",
        [ENDPOINT_PROBING] = "",
        [ENDPOINT_OPEN] = "the webhook receiver failed again and again, and is left alone for a while",
        [ENDPOINT_PAUSED] = "the webhook endpoint is paused, until apapacho_outbox_resume()",
        [ENDPOINT_STOPPED] = "the webhook receiver has said that it is gone; apapacho_outbox_resume() tries it again"};
    OutboxHand *hand = publisher->hand;

    for (int i = 0; i < hand->endpoints->count && hand->error_count < OUTBOX_REPORTED_ERRORS; i++) {
        const Endpoint *endpoint = hand->endpoints->all[i];

        if (endpoint_is_usable(endpoint))
            continue;
        if (strcmp(endpoint->name, OUTBOX_DEFAULT_ENDPOINT) == 0)
            hand->errors[hand->error_count++] = MemoryContextStrdup(hand->context, reasons[endpoint->state]);
        else
            hand->errors[hand->error_count++] =
                psprintf("%.100s: %.200s", outbox_printable(endpoint->name),
                         endpoint->problem != NULL ? endpoint->problem : reasons[endpoint->state]);
    }
    return endpoints_usable(hand->endpoints);
}

/* Everything is let go of, whatever happened. */
static void
close_publisher(void)
{
    helpers_stop();
    webhook_close();
    share_release();
    seat_leave();
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
                           .seat = NO_SEAT,
                           .parts = 1,
                           .has_room = webhook_has_room,
                           .position = DT_NOBEGIN};
    int64 delivered;
    int64 failed;

    outbox_ignore_own_commits(true);
    PG_TRY();
    {
        publisher.seat = seat_take(1);
        open_endpoints(&publisher, setting_outbox_workers);
        if (is_open_for_events(&publisher))
            publish_and_wait(&publisher);
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
    delivered += publisher.hand->delivered_count;
    failed += publisher.hand->failed_count;
    if (delivered > 0 || failed > 0)
        ereport(LOG, (errmsg_internal("[Job:Outbox] Procesados: " INT64_FORMAT ", Fallidos: " INT64_FORMAT, delivered,
                                      failed)));
    return totals_json(publisher.hand, delivered, failed, run->context);
}

void
publisher_help(const JobRun *run, int seat, int part, int parts, int64 *delivered, int64 *failed)
{
    Publisher publisher = {.run = run,
                           .type = PUBLISHER_WEBHOOK,
                           .left = PG_INT64_MAX,
                           .seat = seat,
                           .part = part,
                           .parts = parts,
                           .has_room = webhook_has_room,
                           .position = DT_NOBEGIN};

    outbox_ignore_own_commits(true);
    PG_TRY();
    {
        open_endpoints(&publisher, parts);
        if (is_open_for_events(&publisher))
            publish_due(&publisher);
    }
    PG_FINALLY();
    {
        webhook_close();
        share_release();
        if (publisher.hand != NULL) {
            *delivered += publisher.hand->delivered_count;
            *failed += publisher.hand->failed_count;
        }
    }
    PG_END_TRY();
}
