/*
 * webhook.c: the publisher `webhook`: drives the delivery engines from the worker of the job `outbox`.
 *
 * Each endpoint has an engine of its own, and with it connections, limits, TLS files and rules for addresses that no
 * other one shares. While events are on their way there is no transaction, no snapshot and no lock. The engines and the
 * wait event set belong to the process; webhook_close() frees them, also when the process exits in the middle of a run.
 * The engine's code never raises errors, and nothing here does while it holds something of the engine's that nobody
 * else knows of.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "pgstat.h"
#include "portability/instr_time.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/memutils.h"

#include "lib/delivery/engine.h"
#include "lib/delivery/url.h"
#include "lib/delivery/verdict.h"
#include "outbox/attempt.h"
#include "outbox/request.h"
#include "outbox/webhook.h"
#include "server/compat.h"
#include "server/counters.h"
#include "server/delivery_settings.h"
#include "server/settings.h"

#define CONNECT_TIMEOUT_MS 10000
#define MAX_RESPONSE_BYTES 65536
#define RATE_BURST_PART 20 /* of what a second allows may be sent at once */
#define RESPONSE_EXCERPT_BYTES 1024
#define MAX_HOST_SIZE 300

/* An endpoint that events are being sent to. */
typedef struct Receiver {
    Endpoint *endpoint;
    RequestKeys keys;
    OutboxCounters *counters;
    uint32 in_flight; /* as it is counted there */
    double rate;      /* requests a second; 0: no limit */
    double allowance; /* requests that may be sent by it, as of rate_ms */
    double rate_ms;
    DeliveryEngine *engine; /* NULL: it cannot be used */
    bool is_signalled;      /* the network has something for it */
} Receiver;

typedef struct Webhook {
    MemoryContext context; /* NULL: not open */
    MemoryContext request; /* reset for each request */
    char *source;          /* of CloudEvents; empty: none */
    int count;
    Receiver receivers[OUTBOX_MOST_ENDPOINTS]; /* by their numbers in the set */
    WaitEventSet *wait_set;
} Webhook;

static Webhook webhook;

/* Brings the count of what is in flight up to date. */
static void
count_in_flight(Receiver *receiver)
{
    uint32 in_flight = receiver->engine == NULL ? 0 : (uint32)delivery_engine_in_flight(receiver->engine);

    if (receiver->counters != NULL && in_flight != receiver->in_flight)
        (void)pg_atomic_fetch_add_u32(&receiver->counters->in_flight, (int32)(in_flight - receiver->in_flight));
    receiver->in_flight = in_flight;
}

void
webhook_close(void)
{
    for (int i = 0; i < webhook.count; i++) {
        Receiver *receiver = &webhook.receivers[i];

        if (receiver->engine != NULL)
            delivery_engine_destroy(receiver->engine);
        receiver->engine = NULL;
        count_in_flight(receiver);
        request_keys_wipe(&receiver->keys);
    }
    webhook.count = 0;
    if (webhook.wait_set != NULL)
        FreeWaitEventSet(webhook.wait_set);
    webhook.wait_set = NULL;
    if (webhook.context != NULL)
        MemoryContextDelete(webhook.context);
    webhook.context = webhook.request = NULL;
}

static void
close_at_exit(int code, Datum argument)
{
    webhook_close();
}

/* What the administrator has allowed; of the default endpoint, whose URL is a setting, what that itself names. */
static AddressPolicy
address_policy(const Endpoint *endpoint)
{
    AddressPolicy policy = {.allowed = *setting_allowed_addresses};
    char host[MAX_HOST_SIZE];

    if (endpoint->is_trusted && delivery_url_host(endpoint->url, host, sizeof(host)))
        address_policy_allow_host(&policy, host);
    return policy;
}

static DeliveryEngine *
create_engine(const Endpoint *endpoint, char *error, size_t error_size)
{
    AddressPolicy policy = address_policy(endpoint);
    DeliveryOptions options = {
        .max_in_flight = endpoint->concurrency,
        .connect_timeout_ms = Min(endpoint->timeout_ms, CONNECT_TIMEOUT_MS),
        .total_timeout_ms = endpoint->timeout_ms,
        .max_response_bytes = MAX_RESPONSE_BYTES,
        .user_agent = "apapacho_jobs/" APAPACHO_VERSION,
        .verify_tls = true,
        .excerpt_bytes = RESPONSE_EXCERPT_BYTES,
        .fail_on_client_error = setting_outbox_fail_on_client_error,
        .addresses = &policy,
        .ca_file = endpoint->ca_file,
        .client_cert = endpoint->client_cert,
        .client_key = endpoint->client_key,
        .http2 = setting_outbox_http2,
    };

    return delivery_engine_create(&options, error, error_size);
}

/* Makes an endpoint's engine ready. An ERROR for the default one, a problem for any other. */
static void
open_receiver(Receiver *receiver, Endpoint *endpoint, int parts)
{
    bool is_default = strcmp(endpoint->name, OUTBOX_DEFAULT_ENDPOINT) == 0;
    char error[256] = "";

    *receiver = (Receiver){.endpoint = endpoint, .rate = (double)endpoint->rate_limit / parts};
    receiver->counters = counters_of_endpoint(endpoint->name, true);
    if (endpoint->problem != NULL)
        return;
    if (!request_keys_open(&receiver->keys, endpoint, error, sizeof(error))) {
        if (is_default)
            ereport(ERROR,
                    (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("the webhook secret cannot be used: %s", error),
                     errhint("Set apapacho_jobs.outbox_webhook_secret or apapacho_jobs.outbox_webhook_secret_file.")));
        endpoint->problem = psprintf("its secret cannot be used: %s", error);
        return;
    }
    receiver->engine = create_engine(endpoint, error, sizeof(error));
    if (receiver->engine == NULL && is_default)
        ereport(ERROR,
                (errcode(ERRCODE_SYSTEM_ERROR), errmsg("could not start the webhook delivery engine: %s", error)));
    if (receiver->engine == NULL)
        endpoint->problem = psprintf("its delivery engine could not be started: %s", error);
}

static void
open_wait_set(void)
{
    webhook.wait_set = compat_create_wait_event_set(webhook.count + 2);
    AddWaitEventToSet(webhook.wait_set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
    AddWaitEventToSet(webhook.wait_set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
    for (int i = 0; i < webhook.count; i++) {
        Receiver *receiver = &webhook.receivers[i];

        if (receiver->engine != NULL)
            AddWaitEventToSet(webhook.wait_set, WL_SOCKET_READABLE, delivery_engine_fd(receiver->engine), NULL,
                              receiver);
    }
}

void
webhook_open(EndpointSet *endpoints, int parts)
{
    static bool registered = false;
    MemoryContext before;

    webhook_close();
    if (!registered) {
        before_shmem_exit(close_at_exit, (Datum)0);
        registered = true;
    }
    webhook.context = AllocSetContextCreate(TopMemoryContext, "outbox webhook", ALLOCSET_SMALL_SIZES);
    webhook.request = AllocSetContextCreate(webhook.context, "outbox request", ALLOCSET_SMALL_SIZES);
    webhook.source = MemoryContextStrdup(webhook.context, setting_outbox_cloudevents_source);
    before = MemoryContextSwitchTo(endpoints->context);
    while (webhook.count < endpoints->count) {
        webhook.count++; /* first: whatever happens, it is closed */
        open_receiver(&webhook.receivers[webhook.count - 1], endpoints->all[webhook.count - 1], parts);
    }
    MemoryContextSwitchTo(before);
    open_wait_set();
}

/* Puts an event on its way, or notes why it cannot be sent. */
static void
send_target(OutboxHand *hand, Receiver *receiver, OutboxTarget *target)
{
    DeliveryHeader headers[REQUEST_MOST_HEADERS];
    DeliveryRequest request;
    bool is_final = false;
    char error[256] = "";
    MemoryContext before;

    request_keys_expire(&receiver->keys, receiver->endpoint);
    if (target->event->problem != NULL) {
        outbox_failed(hand, target, target->event->problem, true);
        return;
    }
    MemoryContextReset(webhook.request);
    before = MemoryContextSwitchTo(webhook.request);
    if (!request_build(target->event, receiver->endpoint, &receiver->keys, webhook.source, headers, &request, &is_final,
                       error, sizeof(error)))
        outbox_failed(hand, target, error, is_final);
    else {
        request.tag = target;
        if (!delivery_engine_submit(receiver->engine, &request, error, sizeof(error))) {
            free(request.body);
            outbox_failed(hand, target, error, false);
        }
    }
    MemoryContextSwitchTo(before);
}

int
webhook_in_flight(void)
{
    int in_flight = 0;

    for (int i = 0; i < webhook.count; i++) {
        if (webhook.receivers[i].engine != NULL)
            in_flight += delivery_engine_in_flight(webhook.receivers[i].engine);
    }
    return in_flight;
}

/* Milliseconds until the rate allows another request; 0: it does. */
static long
until_rate_allows(Receiver *receiver)
{
    instr_time now;
    double passed;

    if (receiver->rate == 0)
        return 0;
    INSTR_TIME_SET_CURRENT(now);
    passed = INSTR_TIME_GET_MILLISEC(now) - receiver->rate_ms;
    receiver->rate_ms += passed;
    receiver->allowance =
        Min(receiver->allowance + passed * receiver->rate / 1000, Max(receiver->rate / RATE_BURST_PART, 1));
    return receiver->allowance >= 1 ? 0 : (long)((1 - receiver->allowance) * 1000 / receiver->rate) + 1;
}

bool
webhook_has_room(int endpoint)
{
    Receiver *receiver = &webhook.receivers[endpoint];

    return receiver->engine != NULL && delivery_engine_in_flight(receiver->engine) < receiver->endpoint->concurrency &&
           until_rate_allows(receiver) == 0;
}

void
webhook_send_ready(OutboxHand *hand)
{
    OutboxTarget *target;

    for (int i = 0; i < webhook.count; i++) {
        while (webhook_has_room(i) && (target = hand_take_ready(hand, i)) != NULL) {
            send_target(hand, &webhook.receivers[i], target);
            webhook.receivers[i].allowance -= 1;
        }
    }
}

/* Whether a receiver is there and copes, whatever it thinks of the event. */
static bool
shows_receiver(const DeliveryResult *result)
{
    return result->delivered || (result->error_class == DELIVERY_ERROR_HTTP_STATUS && result->http_status < 500 &&
                                 delivery_verdict(result->http_status, true).retryable == false);
}

static void
take_result(OutboxHand *hand, Receiver *receiver, const DeliveryResult *result)
{
    OutboxTarget *target = result->tag;
    Endpoint *endpoint = receiver->endpoint;

    endpoint_note(endpoint, shows_receiver(result), result->gone);
    counters_add(receiver->counters, result->delivered ? DELIVERY_ERROR_NONE : result->error_class,
                 result->timings.total_us, result->reused_connection);
    if (result->gone) { /* which says nothing about the event */
        strlcpy(endpoint->last_error, result->error, sizeof(endpoint->last_error));
        hand_put_off(hand, target);
        return;
    }
    attempt_note(hand, target, result);
    if (result->delivered) {
        outbox_delivered(hand, target);
        return;
    }
    target->retry_after_s = result->retry_after_s;
    outbox_failed(hand, target, result->error, !result->retryable);
}

void
webhook_run(OutboxHand *hand)
{
    DeliveryResult result;

    for (int i = 0; i < webhook.count; i++) {
        Receiver *receiver = &webhook.receivers[i];

        if (receiver->engine == NULL || (!receiver->is_signalled && delivery_engine_in_flight(receiver->engine) == 0))
            continue;
        receiver->is_signalled = false;
        delivery_engine_run(receiver->engine);
        while (delivery_engine_next_result(receiver->engine, &result))
            take_result(hand, receiver, &result);
        count_in_flight(receiver);
    }
}

void
webhook_wait(const OutboxHand *hand, long timeout_ms)
{
    WaitEvent events[OUTBOX_MOST_ENDPOINTS + 2];
    int count;

    for (int i = 0; i < webhook.count; i++) {
        Receiver *receiver = &webhook.receivers[i];
        long timeout = receiver->engine == NULL ? -1 : delivery_engine_timeout_ms(receiver->engine);
        long until_rate = hand->queues[i].ready_count == 0 ? 0 : until_rate_allows(receiver);

        if (timeout >= 0)
            timeout_ms = Min(timeout_ms, timeout);
        if (until_rate > 0)
            timeout_ms = Min(timeout_ms, until_rate);
    }
    count = WaitEventSetWait(webhook.wait_set, timeout_ms, events, webhook.count + 2, PG_WAIT_EXTENSION);
    for (int i = 0; i < count; i++) {
        if (events[i].events & WL_LATCH_SET)
            ResetLatch(MyLatch);
        else if (events[i].user_data != NULL)
            ((Receiver *)events[i].user_data)->is_signalled = true;
    }
}
