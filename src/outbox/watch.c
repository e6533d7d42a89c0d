/*
 * watch.c: judges endpoints by what came of their requests, and looks how they are by now. In a publisher.
 */
#include "postgres.h"

#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "outbox/intake.h"
#include "outbox/watch.h"
#include "server/xact.h"

/* So often it is looked whether an endpoint has been paused meanwhile. */
#define ENDPOINTS_INTERVAL_MS 1000

void
watch_problems(Publisher *publisher)
{
    EndpointSet *endpoints = publisher->hand->endpoints;

    for (int i = 0; i < endpoints->count; i++) {
        Endpoint *endpoint = endpoints->all[i];

        if (endpoint->problem != NULL && (endpoint->state == ENDPOINT_CLOSED || endpoint->state == ENDPOINT_PROBING))
            endpoint_opened(endpoint);
    }
    MemoryContextSwitchTo(publisher->run->context);
}

/* Looks from time to time how the endpoints are, and for events that are to be tried again. */
static void
look_again(Publisher *publisher)
{
    bool usable = false;

    if (publisher_clock_ms() - publisher->endpoints_at < ENDPOINTS_INTERVAL_MS)
        return;
    publisher_record(publisher); /* a cancellation in here must not lose it */
    publisher->endpoints_at = publisher_clock_ms();
    publisher->retry_at = intake_next_retry(publisher);
    xact_begin("apapacho_jobs: looking whether events may be sent");
    if (!endpoints_refresh(publisher->hand->endpoints, &usable))
        publisher->stopped = true; /* the next run has the new ones */
    xact_commit();
    MemoryContextSwitchTo(publisher->run->context);
    if (usable)
        publisher->position = DT_NOBEGIN;
}

/* The receiver is gone, by its own word; the run's result says so too. */
static void
stop_endpoint(Publisher *publisher, Endpoint *endpoint)
{
    OutboxHand *hand = publisher->hand;

    endpoint_stopped(endpoint);
    endpoint->is_gone = false;
    if (hand->error_count < OUTBOX_REPORTED_ERRORS)
        hand->errors[hand->error_count++] = MemoryContextStrdup(hand->context, endpoint->last_error);
}

/* What the latest outcomes say about a receiver. */
static void
judge_endpoint(Publisher *publisher, Endpoint *endpoint)
{
    bool is_probing = endpoint->state == ENDPOINT_PROBING;

    if (!endpoint->is_gone && endpoint->failures < (is_probing ? 1 : ENDPOINT_FAILURES) &&
        !(is_probing && endpoint->answers > 0))
        return;
    publisher_record(publisher); /* a cancellation in here must not lose it */
    if (endpoint->is_gone && endpoint->state != ENDPOINT_STOPPED)
        stop_endpoint(publisher, endpoint);
    else if (is_probing && endpoint->failures > 0)
        endpoint_opened(endpoint);
    else if (is_probing) {
        endpoint_closed(endpoint);
        publisher->position = DT_NOBEGIN;
    } else if (endpoint->state == ENDPOINT_CLOSED && endpoint->failures >= ENDPOINT_FAILURES)
        endpoint_opened(endpoint);
    MemoryContextSwitchTo(publisher->run->context);
}

void
watch_judge(Publisher *publisher)
{
    OutboxHand *hand = publisher->hand;

    for (int i = 0; i < hand->endpoints->count; i++) {
        judge_endpoint(publisher, hand->endpoints->all[i]);
        if (!endpoint_is_usable(hand->endpoints->all[i]))
            hand_put_off_ready(hand, i);
    }
}

void
watch_endpoints(Publisher *publisher)
{
    watch_judge(publisher);
    look_again(publisher);
    watch_judge(publisher);
}

void
watch_put_off_all(Publisher *publisher)
{
    for (int i = 0; i < publisher->hand->endpoints->count; i++)
        hand_put_off_ready(publisher->hand, i);
}
