/*
 * request.h: the HTTP request by which an event goes to an endpoint: headers, body, signatures (spec section 6).
 */
#ifndef APAPACHO_OUTBOX_REQUEST_H
#define APAPACHO_OUTBOX_REQUEST_H

#include "lib/delivery/cloudevents.h"
#include "lib/delivery/engine.h"
#include "lib/delivery/signature.h"
#include "outbox/hand.h"

/* Of a request: ours, traceparent, CloudEvents', signatures, the endpoint's own. */
#define REQUEST_MOST_HEADERS (9 + CLOUDEVENTS_MAX_HEADERS + ENDPOINT_MOST_HEADERS)

/* Secrets that are in use at a time. */
#define REQUEST_MOST_KEYS 2

/* What an endpoint's events are signed with: the secret's keys, then the older one's. */
typedef struct RequestKeys {
    int count;
    SigningKeys keys[REQUEST_MOST_KEYS];
} RequestKeys;

/* Derives the keys of an endpoint's secrets, and wipes these. False with the reason, which never has any of them. */
bool request_keys_open(RequestKeys *keys, Endpoint *endpoint, char *error, size_t error_size);
void request_keys_wipe(RequestKeys *keys);

/* Wipes the older one once its time is over. */
void request_keys_expire(RequestKeys *keys, const Endpoint *endpoint);

/*
 * Makes a request of an event, signed now. `headers` has room for REQUEST_MOST_HEADERS; they and what they hold live in
 * the current context, the body is malloc'ed. `source`: of CloudEvents; "": none. False with the reason; `is_final`: it
 * will never do. `layout` says where in the body the payload is.
 */
bool request_build(const OutboxEvent *event, const Endpoint *endpoint, const RequestKeys *keys, const char *source,
                   DeliveryHeader *headers, DeliveryRequest *request, MessageLayout *layout, bool *is_final,
                   char *error, size_t error_size);

#endif
