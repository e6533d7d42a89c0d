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
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/memutils.h"

#include "lib/delivery/engine.h"
#include "lib/delivery/url.h"
#include "outbox/receiver.h"
#include "outbox/webhook.h"
#include "server/compat.h"
#include "server/delivery_settings.h"
#include "server/settings.h"

#define CONNECT_TIMEOUT_MS 10000
#define MAX_RESPONSE_BYTES 65536
#define RESPONSE_EXCERPT_BYTES 1024
#define MAX_HOST_SIZE 300

/* An endpoint with its engine. */
typedef struct Route {
    Receiver receiver;
    DeliveryEngine *engine; /* NULL: it cannot be used */
    bool is_signalled;      /* the network has something for it */
} Route;

typedef struct Webhook {
    MemoryContext context; /* NULL: not open */
    MemoryContext request; /* reset for each request */
    char *source;          /* of CloudEvents; empty: none */
    int count;
    Route routes[OUTBOX_MOST_ENDPOINTS]; /* by their numbers in the set */
    WaitEventSet *wait_set;
} Webhook;

static Webhook webhook;

void
webhook_close(void)
{
    for (int i = 0; i < webhook.count; i++) {
        Route *route = &webhook.routes[i];

        if (route->engine != NULL)
            delivery_engine_destroy(route->engine);
        route->engine = NULL;
        receiver_close(&route->receiver);
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
open_route(Route *route, Endpoint *endpoint, ReceiverShare share)
{
    char error[256] = "";

    route->engine = NULL;
    route->is_signalled = false;
    receiver_open(&route->receiver, endpoint, share);
    if (endpoint->problem != NULL)
        return;
    route->engine = create_engine(endpoint, error, sizeof(error));
    if (route->engine == NULL && strcmp(endpoint->name, OUTBOX_DEFAULT_ENDPOINT) == 0)
        ereport(ERROR,
                (errcode(ERRCODE_SYSTEM_ERROR), errmsg("could not start the webhook delivery engine: %s", error)));
    if (route->engine == NULL)
        endpoint->problem = psprintf("its delivery engine could not be started: %s", error);
}

static void
open_wait_set(void)
{
    webhook.wait_set = compat_create_wait_event_set(webhook.count + 2);
    AddWaitEventToSet(webhook.wait_set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
    AddWaitEventToSet(webhook.wait_set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
    for (int i = 0; i < webhook.count; i++) {
        Route *route = &webhook.routes[i];

        if (route->engine != NULL)
            AddWaitEventToSet(webhook.wait_set, WL_SOCKET_READABLE, delivery_engine_fd(route->engine), NULL, route);
    }
}

void
webhook_open(EndpointSet *endpoints, ReceiverShare share)
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
        open_route(&webhook.routes[webhook.count - 1], endpoints->all[webhook.count - 1], share);
    }
    MemoryContextSwitchTo(before);
    open_wait_set();
}

/* Puts an event on its way, or notes why it cannot be sent. */
static void
send_target(OutboxHand *hand, Route *route, OutboxTarget *target)
{
    Receiver *receiver = &route->receiver;
    DeliveryHeader headers[REQUEST_MOST_HEADERS];
    DeliveryRequest request;
    MessageLayout layout;
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
    if (!request_build(target->event, receiver->endpoint, &receiver->keys, webhook.source, headers, &request, &layout,
                       &is_final, error, sizeof(error)))
        outbox_failed(hand, target, error, is_final);
    else {
        request.tag = target;
        if (!delivery_engine_submit(route->engine, &request, error, sizeof(error))) {
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
        if (webhook.routes[i].engine != NULL)
            in_flight += delivery_engine_in_flight(webhook.routes[i].engine);
    }
    return in_flight;
}

bool
webhook_has_room(int endpoint)
{
    Route *route = &webhook.routes[endpoint];

    return route->engine != NULL && delivery_engine_in_flight(route->engine) < route->receiver.endpoint->concurrency &&
           receiver_until_rate_allows(&route->receiver) == 0;
}

void
webhook_send_ready(OutboxHand *hand)
{
    OutboxTarget *target;

    for (int i = 0; i < webhook.count; i++) {
        while (webhook_has_room(i) && (target = hand_take_ready(hand, i)) != NULL) {
            send_target(hand, &webhook.routes[i], target);
            receiver_spend(&webhook.routes[i].receiver);
        }
    }
}

void
webhook_run(OutboxHand *hand)
{
    DeliveryResult result;

    for (int i = 0; i < webhook.count; i++) {
        Route *route = &webhook.routes[i];

        if (route->engine == NULL || (!route->is_signalled && delivery_engine_in_flight(route->engine) == 0))
            continue;
        route->is_signalled = false;
        delivery_engine_run(route->engine);
        while (delivery_engine_next_result(route->engine, &result))
            receiver_take_result(&route->receiver, hand, result.tag, &result);
        receiver_count_in_flight(&route->receiver, delivery_engine_in_flight(route->engine));
    }
}

void
webhook_wait(const OutboxHand *hand, long timeout_ms)
{
    WaitEvent events[OUTBOX_MOST_ENDPOINTS + 2];
    int count;

    for (int i = 0; i < webhook.count; i++) {
        Route *route = &webhook.routes[i];
        long timeout = route->engine == NULL ? -1 : delivery_engine_timeout_ms(route->engine);
        long until_rate = hand->queues[i].ready_count == 0 ? 0 : receiver_until_rate_allows(&route->receiver);

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
            ((Route *)events[i].user_data)->is_signalled = true;
    }
}
