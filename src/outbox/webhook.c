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
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/memutils.h"

#include "lib/delivery/engine.h"
#include "lib/delivery/signature.h"
#include "outbox/webhook.h"
#include "server/compat.h"
#include "server/settings.h"

#define CONNECT_TIMEOUT_MS 10000
#define MAX_RESPONSE_BYTES 65536
#define MAX_HEADER_VALUE 4096

typedef struct Webhook {
    MemoryContext context; /* of the URL; NULL: not open */
    MemoryContext request; /* reset for each request */
    char *url;
    int concurrency;
    bool is_signed;
    SigningKeys keys;
    DeliveryEngine *engine;
    WaitEventSet *wait_set;
} Webhook;

static Webhook webhook;

void
webhook_close(void)
{
    if (webhook.engine != NULL)
        delivery_engine_destroy(webhook.engine);
    webhook.engine = NULL;
    if (webhook.wait_set != NULL)
        FreeWaitEventSet(webhook.wait_set);
    webhook.wait_set = NULL;
    signing_keys_wipe(&webhook.keys);
    webhook.is_signed = false;
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

static void
open_keys(void)
{
    char *secret = setting_webhook_secret();
    char error[256];

    if (secret == NULL)
        return;
    webhook.is_signed = signing_keys_init(&webhook.keys, secret, error, sizeof(error));
    explicit_bzero(secret, strlen(secret));
    pfree(secret);
    if (!webhook.is_signed)
        ereport(ERROR,
                (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("the webhook secret cannot be used: %s", error),
                 errhint("Set apapacho_jobs.outbox_webhook_secret or apapacho_jobs.outbox_webhook_secret_file.")));
}

static void
open_engine(void)
{
    DeliveryOptions options = {
        .max_in_flight = webhook.concurrency,
        .connect_timeout_ms = Min(setting_outbox_timeout, CONNECT_TIMEOUT_MS),
        .total_timeout_ms = setting_outbox_timeout,
        .max_response_bytes = MAX_RESPONSE_BYTES,
        .user_agent = "apapacho_jobs/" APAPACHO_VERSION,
        .verify_tls = true,
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
webhook_open(void)
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
    for (int i = 0; i < count; i++) {
        if (strlen(headers[i].value) > MAX_HEADER_VALUE)
            return -1;
    }
    return count;
}

/* Signs the body and submits it. False with the reason in error. No errors are raised in here. */
static bool
submit_body(OutboxEvent *event, DeliveryHeader *headers, int count, int64 now, char *error, size_t error_size)
{
    char standard[SIGNATURE_STANDARD_SIZE];
    char legacy[SIGNATURE_LEGACY_SIZE];
    MessageLayout layout;
    DeliveryRequest request = {.url = webhook.url, .headers = headers, .tag = event};
    bool submitted;

    request.body = message_build(&event->message, &layout);
    if (request.body == NULL) {
        strlcpy(error, "out of memory", error_size);
        return false;
    }
    request.body_length = layout.body_length;
    if (webhook.is_signed) {
        if (!signature_standard(&webhook.keys, headers[0].value, now, request.body, layout.body_length, standard) ||
            !signature_legacy(&webhook.keys, request.body + layout.payload_offset, layout.payload_length, legacy)) {
            free(request.body);
            strlcpy(error, "could not sign the event", error_size);
            return false;
        }
        headers[count++] = (DeliveryHeader){"webhook-signature", standard};
        headers[count++] = (DeliveryHeader){"X-Webhook-Signature", legacy};
    }
    request.header_count = count;
    submitted = delivery_engine_submit(webhook.engine, &request, error, error_size);
    if (!submitted)
        free(request.body);
    return submitted;
}

/* Puts an event on its way, or notes why it cannot be sent. */
static void
send_event(OutboxHand *hand, OutboxEvent *event)
{
    DeliveryHeader headers[8];
    int64 now = (int64)time(NULL);
    char error[256] = "";
    MemoryContext before;
    int count;

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

bool
webhook_has_room(void)
{
    return delivery_engine_in_flight(webhook.engine) < webhook.concurrency;
}

void
webhook_send_ready(OutboxHand *hand)
{
    OutboxEvent *event;

    while (webhook_has_room() && (event = hand_take_ready(hand)) != NULL)
        send_event(hand, event);
}

/* Whether a receiver is there and copes, whatever it thinks of the event. */
static bool
shows_receiver(const DeliveryResult *result)
{
    long status = result->http_status;

    if (result->delivered)
        return true;
    return result->error_class == DELIVERY_ERROR_HTTP_STATUS && status < 500 && status != 408 && status != 425 &&
           status != 429;
}

void
webhook_run(OutboxHand *hand)
{
    DeliveryResult result;

    delivery_engine_run(webhook.engine);
    while (delivery_engine_next_result(webhook.engine, &result)) {
        hand_note_receiver(hand, shows_receiver(&result), result.http_status == 410);
        if (result.delivered)
            outbox_delivered(hand, result.tag);
        else
            outbox_failed(hand, result.tag, result.error, false);
    }
}

void
webhook_wait(long timeout_ms)
{
    long timeout = delivery_engine_timeout_ms(webhook.engine);
    WaitEvent event;

    if (timeout < 0 || timeout > timeout_ms)
        timeout = timeout_ms;
    if (WaitEventSetWait(webhook.wait_set, timeout, &event, 1, PG_WAIT_EXTENSION) == 1 && (event.events & WL_LATCH_SET))
        ResetLatch(MyLatch);
}
