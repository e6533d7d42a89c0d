/*
 * request.c: makes the HTTP requests by which events go to endpoints. In a publisher, outside of any transaction.
 * Raises no errors but for want of memory, and not while it holds anything that is not palloc'ed.
 */
#include "postgres.h"

#include <time.h>

#include "utils/timestamp.h"

#include "outbox/request.h"

#define MAX_HEADER_VALUE 4096

void
request_keys_wipe(RequestKeys *keys)
{
    while (keys->count > 0)
        signing_keys_wipe(&keys->keys[--keys->count]);
}

/* Derives the keys of a secret, and wipes it. NULL is nothing. */
static bool
open_key(RequestKeys *keys, char **secret, char *error, size_t error_size)
{
    bool usable;

    if (*secret == NULL)
        return true;
    usable = signing_keys_init(&keys->keys[keys->count], *secret, error, error_size);
    explicit_bzero(*secret, strlen(*secret));
    pfree(*secret);
    *secret = NULL;
    keys->count += usable;
    return usable;
}

bool
request_keys_open(RequestKeys *keys, Endpoint *endpoint, char *error, size_t error_size)
{
    if (!open_key(keys, &endpoint->secret, error, error_size))
        return false;
    return keys->count == 0 || open_key(keys, &endpoint->previous_secret, error, error_size);
}

void
request_keys_expire(RequestKeys *keys, const Endpoint *endpoint)
{
    if (keys->count > 1 && endpoint->previous_secret_until != 0 &&
        endpoint->previous_secret_until <= GetCurrentTimestamp())
        signing_keys_wipe(&keys->keys[--keys->count]);
}

/*
 * The event's headers, in the current context; the signatures are added by the caller. Returns their number, or -1 when
 * a value is too long for a header.
 */
static int
describe_event(const OutboxEvent *event, const char *source, int64 now, DeliveryHeader *headers)
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
    if (source[0] != '\0') {
        const MessageFields *message = &event->message;
        size_t size =
            CLOUDEVENTS_BUFFER_SIZE(strlen(message->id) + strlen(message->type) + strlen(message->aggregate_type) +
                                    strlen(message->aggregate_id) + strlen(source) + 100);
        int added = cloudevents_headers(message, source, headers + count, palloc(size), size);

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
sign(const DeliveryRequest *request, const MessageLayout *layout, const RequestKeys *keys, int64 now,
     DeliveryHeader *headers, int *count)
{
    static char standard[REQUEST_MOST_KEYS * SIGNATURE_STANDARD_SIZE];
    static char legacy[SIGNATURE_LEGACY_SIZE];

    if (keys->count == 0)
        return true;
    if (!signature_header(keys->keys, keys->count, headers[0].value, now, request->body, request->body_length, standard,
                          sizeof(standard)))
        return false;
    headers[(*count)++] = (DeliveryHeader){"webhook-signature", standard};
    if (keys->keys[0].asymmetric != NULL)
        return true; /* nobody could verify the other one */
    if (!signature_legacy(&keys->keys[0], request->body + layout->payload_offset, layout->payload_length, legacy))
        return false;
    headers[(*count)++] = (DeliveryHeader){"X-Webhook-Signature", legacy};
    return true;
}

bool
request_build(const OutboxEvent *event, const Endpoint *endpoint, const RequestKeys *keys, const char *source,
              DeliveryHeader *headers, DeliveryRequest *request, MessageLayout *layout, bool *is_final, char *error,
              size_t error_size)
{
    int64 now = (int64)time(NULL);
    int count = describe_event(event, source, now, headers);

    *is_final = count < 0;
    if (count < 0) {
        strlcpy(error, "the event's id or type is too long for a header", error_size);
        return false;
    }
    for (int i = 0; i < endpoint->header_count; i++)
        headers[count++] = endpoint->headers[i];
    *request = (DeliveryRequest){.url = endpoint->url, .headers = headers};
    request->body = message_build(&event->message, layout);
    if (request->body == NULL) {
        strlcpy(error, "out of memory", error_size);
        return false;
    }
    request->body_length = layout->body_length;
    if (source[0] != '\0') { /* CloudEvents in binary mode: the payload alone */
        memmove(request->body, request->body + layout->payload_offset, layout->payload_length);
        request->body_length = layout->payload_length;
        layout->payload_offset = 0;
    }
    if (!sign(request, layout, keys, now, headers, &count)) {
        free(request->body);
        request->body = NULL;
        strlcpy(error, "could not sign the event", error_size);
        return false;
    }
    request->header_count = count;
    return true;
}
