/*
 * webhook.c: the publisher `webhook`: drives the delivery engine from the worker of the job `outbox`.
 *
 * While events are on their way there is no transaction, no snapshot and no lock. The engine and the wait event set
 * belong to the process (there is one at a time); webhook_close() frees them, also when the process exits in the middle
 * of a run. The engine's code never raises errors, and nothing here does while it holds something of the engine's that
 * nobody else knows of.
 */
#include "postgres.h"

#include <time.h>

#include "miscadmin.h"
#include "pgstat.h"
#include "portability/instr_time.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/memutils.h"

#include "lib/delivery/cloudevents.h"
#include "lib/delivery/engine.h"
#include "lib/delivery/signature.h"
#include "lib/delivery/url.h"
#include "lib/delivery/verdict.h"
#include "outbox/attempt.h"
#include "outbox/webhook.h"
#include "server/compat.h"
#include "server/counters.h"
#include "server/delivery_settings.h"
#include "server/settings.h"

#define CONNECT_TIMEOUT_MS 10000
#define MAX_RESPONSE_BYTES 65536
#define MAX_HEADER_VALUE 4096
#define RATE_BURST_PART 20 /* of what a second allows may be sent at once */
#define RESPONSE_EXCERPT_BYTES 1024
#define MAX_HOST_SIZE 300

/* Of a request: ours, traceparent, CloudEvents', signatures. */
#define MOST_HEADERS (9 + CLOUDEVENTS_MAX_HEADERS)

/* Secrets that are in use at a time. */
#define MOST_KEYS 2

typedef struct Webhook {
    MemoryContext context; /* of the URL; NULL: not open */
    MemoryContext request; /* reset for each request */
    char *url;
    char *source; /* of CloudEvents; empty: none */
    int concurrency;
    SigningKeys keys[MOST_KEYS]; /* the secret's, then the older one's */
    int key_count;
    OutboxCounters *counters; /* of the database */
    uint32 in_flight;         /* as it is counted there */
    double rate;              /* requests a second; 0: no limit */
    double allowance;         /* requests that may be sent by it, as of rate_ms */
    double rate_ms;
    DeliveryEngine *engine;
    WaitEventSet *wait_set;
} Webhook;

static Webhook webhook;

/* Brings the count of what is in flight up to date. */
static void
count_in_flight(void)
{
    uint32 in_flight = webhook.engine == NULL ? 0 : (uint32)delivery_engine_in_flight(webhook.engine);

    if (webhook.counters != NULL && in_flight != webhook.in_flight)
        (void)pg_atomic_fetch_add_u32(&webhook.counters->in_flight, (int32)(in_flight - webhook.in_flight));
    webhook.in_flight = in_flight;
}

void
webhook_close(void)
{
    if (webhook.engine != NULL)
        delivery_engine_destroy(webhook.engine);
    webhook.engine = NULL;
    count_in_flight();
    webhook.counters = NULL;
    if (webhook.wait_set != NULL)
        FreeWaitEventSet(webhook.wait_set);
    webhook.wait_set = NULL;
    while (webhook.key_count > 0)
        signing_keys_wipe(&webhook.keys[--webhook.key_count]);
    if (webhook.context != NULL)
        MemoryContextDelete(webhook.context);
    webhook.context = webhook.request = NULL;
    webhook.url = NULL;
}

static void
close_at_exit(int code, Datum argument)
{
    webhook_close();
}

/* Derives the keys of a secret, and wipes it. NULL is nothing. */
static void
open_key(char *secret)
{
    char error[256];
    bool usable;

    if (secret == NULL)
        return;
    usable = signing_keys_init(&webhook.keys[webhook.key_count], secret, error, sizeof(error));
    explicit_bzero(secret, strlen(secret));
    pfree(secret);
    if (!usable)
        ereport(ERROR,
                (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("the webhook secret cannot be used: %s", error),
                 errhint("Set apapacho_jobs.outbox_webhook_secret or apapacho_jobs.outbox_webhook_secret_file.")));
    webhook.key_count++;
}

static void
open_keys(void)
{
    open_key(setting_webhook_secret());
    if (webhook.key_count > 0)
        open_key(setting_previous_webhook_secret());
}

/* What the administrator has allowed, and what the URL itself names. */
static AddressPolicy
address_policy(void)
{
    AddressPolicy policy = {.allowed = *setting_allowed_addresses};
    char host[MAX_HOST_SIZE];

    if (delivery_url_host(webhook.url, host, sizeof(host)))
        address_policy_allow_host(&policy, host);
    return policy;
}

static const char *
text_or_none(const char *text)
{
    return text[0] == '\0' ? NULL : text;
}

static void
open_engine(void)
{
    AddressPolicy policy = address_policy();
    DeliveryOptions options = {
        .max_in_flight = webhook.concurrency,
        .connect_timeout_ms = Min(setting_outbox_timeout, CONNECT_TIMEOUT_MS),
        .total_timeout_ms = setting_outbox_timeout,
        .max_response_bytes = MAX_RESPONSE_BYTES,
        .user_agent = "apapacho_jobs/" APAPACHO_VERSION,
        .verify_tls = true,
        .excerpt_bytes = RESPONSE_EXCERPT_BYTES,
        .fail_on_client_error = setting_outbox_fail_on_client_error,
        .addresses = &policy,
        .ca_file = text_or_none(setting_outbox_ca_file),
        .client_cert = text_or_none(setting_outbox_client_cert),
        .client_key = text_or_none(setting_outbox_client_key),
    };
    char error[256];

    webhook.engine = delivery_engine_create(&options, error, sizeof(error));
    if (webhook.engine == NULL)
        ereport(ERROR,
                (errcode(ERRCODE_SYSTEM_ERROR), errmsg("could not start the webhook delivery engine: %s", error)));
    webhook.wait_set = compat_create_wait_event_set(3);
    AddWaitEventToSet(webhook.wait_set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
    AddWaitEventToSet(webhook.wait_set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
    AddWaitEventToSet(webhook.wait_set, WL_SOCKET_READABLE, delivery_engine_fd(webhook.engine), NULL, NULL);
}

void
webhook_open(int parts)
{
    static bool registered = false;
    MemoryContext before;

    webhook_close();
    if (setting_outbox_webhook_url[0] == '\0')
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("the outbox publisher is \"webhook\", but there is no webhook URL"),
                        errhint("Set apapacho_jobs.outbox_webhook_url, or apapacho_jobs.outbox_publisher_type to "
                                "\"console\".")));
    if (!registered) {
        before_shmem_exit(close_at_exit, (Datum)0);
        registered = true;
    }
    webhook.context = AllocSetContextCreate(TopMemoryContext, "outbox webhook", ALLOCSET_SMALL_SIZES);
    webhook.request = AllocSetContextCreate(webhook.context, "outbox request", ALLOCSET_SMALL_SIZES);
    webhook.url = MemoryContextStrdup(webhook.context, setting_outbox_webhook_url);
    webhook.source = MemoryContextStrdup(webhook.context, setting_outbox_cloudevents_source);
    webhook.counters = counters_of_database();
    webhook.rate = (double)setting_outbox_rate_limit / parts;
    webhook.allowance = webhook.rate_ms = 0;
    webhook.concurrency = setting_outbox_concurrency;
    before = MemoryContextSwitchTo(webhook.context);
    open_keys();
    open_engine();
    MemoryContextSwitchTo(before);
}

/*
 * The event's headers, in the current context; the signatures are added by the caller. Returns their number, or -1 when
 * a value is too long for a header.
 */
static int
describe_event(const OutboxEvent *event, int64 now, DeliveryHeader *headers)
{
    const char *id = outbox_printable(event->message.id);
    int count = 0;

    headers[count++] = (DeliveryHeader){"webhook-id", id};
    headers[count++] = (DeliveryHeader){"webhook-timestamp", psprintf(INT64_FORMAT, now)};
    headers[count++] = (DeliveryHeader){"Content-Type", "application/json"};
    headers[count++] = (DeliveryHeader){"X-Event-Type", outbox_printable(event->message.type)};
    headers[count++] = (DeliveryHeader){"X-Aggregate-Type", outbox_printable(event->message.aggregate_type)};
    headers[count++] = (DeliveryHeader){"X-Event-Id", id};
    if (event->traceparent != NULL)
        headers[count++] = (DeliveryHeader){"traceparent", event->traceparent};
    if (webhook.source[0] != '\0') {
        const MessageFields *message = &event->message;
        size_t size =
            CLOUDEVENTS_BUFFER_SIZE(strlen(message->id) + strlen(message->type) + strlen(message->aggregate_type) +
                                    strlen(message->aggregate_id) + strlen(webhook.source) + 100);
        int added = cloudevents_headers(message, webhook.source, headers + count, palloc(size), size);

        if (added < 0)
            return -1;
        count += added;
    }
    for (int i = 0; i < count; i++) {
        if (strlen(headers[i].value) > MAX_HEADER_VALUE)
            return -1;
    }
    return count;
}

/* Adds the signatures of a body; false: OpenSSL has failed. */
static bool
sign(const DeliveryRequest *request, const MessageLayout *layout, int64 now, DeliveryHeader *headers, int *count)
{
    static char standard[MOST_KEYS * SIGNATURE_STANDARD_SIZE];
    static char legacy[SIGNATURE_LEGACY_SIZE];

    if (webhook.key_count == 0)
        return true;
    if (!signature_header(webhook.keys, webhook.key_count, headers[0].value, now, request->body, request->body_length,
                          standard, sizeof(standard)))
        return false;
    headers[(*count)++] = (DeliveryHeader){"webhook-signature", standard};
    if (webhook.keys[0].asymmetric != NULL)
        return true; /* nobody could verify the other one */
    if (!signature_legacy(&webhook.keys[0], request->body + layout->payload_offset, layout->payload_length, legacy))
        return false;
    headers[(*count)++] = (DeliveryHeader){"X-Webhook-Signature", legacy};
    return true;
}

/* Signs the body and submits it. False with the reason in error. No errors are raised in here. */
static bool
submit_body(OutboxEvent *event, DeliveryHeader *headers, int count, int64 now, char *error, size_t error_size)
{
    MessageLayout layout;
    DeliveryRequest request = {.url = webhook.url, .headers = headers, .tag = event};
    bool submitted = false;

    request.body = message_build(&event->message, &layout);
    if (request.body == NULL) {
        strlcpy(error, "out of memory", error_size);
        return false;
    }
    request.body_length = layout.body_length;
    if (webhook.source[0] != '\0') { /* CloudEvents in binary mode: the payload alone */
        memmove(request.body, request.body + layout.payload_offset, layout.payload_length);
        request.body_length = layout.payload_length;
        layout.payload_offset = 0;
    }
    if (!sign(&request, &layout, now, headers, &count))
        strlcpy(error, "could not sign the event", error_size);
    else {
        request.header_count = count;
        submitted = delivery_engine_submit(webhook.engine, &request, error, error_size);
    }
    if (!submitted)
        free(request.body);
    return submitted;
}

/* Puts an event on its way, or notes why it cannot be sent. */
static void
send_event(OutboxHand *hand, OutboxEvent *event)
{
    DeliveryHeader headers[MOST_HEADERS];
    int64 now = (int64)time(NULL);
    char error[256] = "";
    MemoryContext before;
    int count;

    if (webhook.key_count > 1 && setting_previous_secret_until != 0 &&
        setting_previous_secret_until <= GetCurrentTimestamp())
        signing_keys_wipe(&webhook.keys[--webhook.key_count]); /* it has expired meanwhile */
    if (event->problem != NULL) {
        outbox_failed(hand, event, event->problem, true);
        return;
    }
    MemoryContextReset(webhook.request);
    before = MemoryContextSwitchTo(webhook.request);
    count = describe_event(event, now, headers);
    if (count < 0)
        outbox_failed(hand, event, "the event's id or type is too long for a header", true);
    else if (!submit_body(event, headers, count, now, error, sizeof(error)))
        outbox_failed(hand, event, error, false);
    MemoryContextSwitchTo(before);
}

int
webhook_in_flight(void)
{
    return delivery_engine_in_flight(webhook.engine);
}

/* Milliseconds until the rate allows another request; 0: it does. */
static long
until_rate_allows(void)
{
    instr_time now;
    double passed;

    if (webhook.rate == 0)
        return 0;
    INSTR_TIME_SET_CURRENT(now);
    passed = INSTR_TIME_GET_MILLISEC(now) - webhook.rate_ms;
    webhook.rate_ms += passed;
    webhook.allowance = Min(webhook.allowance + passed * webhook.rate / 1000, Max(webhook.rate / RATE_BURST_PART, 1));
    return webhook.allowance >= 1 ? 0 : (long)((1 - webhook.allowance) * 1000 / webhook.rate) + 1;
}

bool
webhook_has_room(void)
{
    return delivery_engine_in_flight(webhook.engine) < webhook.concurrency && until_rate_allows() == 0;
}

void
webhook_send_ready(OutboxHand *hand)
{
    OutboxEvent *event;

    while (webhook_has_room() && (event = hand_take_ready(hand)) != NULL) {
        send_event(hand, event);
        webhook.allowance -= 1;
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
take_result(OutboxHand *hand, const DeliveryResult *result)
{
    OutboxEvent *event = result->tag;

    hand_note_receiver(hand, shows_receiver(result), result->gone);
    counters_add(webhook.counters, result->delivered ? DELIVERY_ERROR_NONE : result->error_class,
                 result->timings.total_us, result->reused_connection);
    if (result->gone) { /* which says nothing about the event */
        strlcpy(hand->last_error, result->error, sizeof(hand->last_error));
        hand_put_back(hand, event);
        return;
    }
    attempt_note(hand, event, result);
    if (result->delivered) {
        outbox_delivered(hand, event);
        return;
    }
    event->retry_after_s = result->retry_after_s;
    outbox_failed(hand, event, result->error, !result->retryable);
}

void
webhook_run(OutboxHand *hand)
{
    DeliveryResult result;

    delivery_engine_run(webhook.engine);
    while (delivery_engine_next_result(webhook.engine, &result))
        take_result(hand, &result);
    count_in_flight();
}

void
webhook_wait(long timeout_ms)
{
    long timeout = delivery_engine_timeout_ms(webhook.engine);
    long until_rate = until_rate_allows();
    WaitEvent event;

    if (until_rate > 0)
        timeout_ms = Min(timeout_ms, until_rate);

    if (timeout < 0 || timeout > timeout_ms)
        timeout = timeout_ms;
    if (WaitEventSetWait(webhook.wait_set, timeout, &event, 1, PG_WAIT_EXTENSION) == 1 && (event.events & WL_LATCH_SET))
        ResetLatch(MyLatch);
}
