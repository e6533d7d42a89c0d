/*
 * The JSON body of a webhook delivery (spec section 6).
 *
 * Runs in the publisher's worker and in the companion program, once per event and attempt. Pure computation; the
 * buffer that is returned belongs to the caller.
 */
#ifndef APAPACHO_DELIVERY_MESSAGE_H
#define APAPACHO_DELIVERY_MESSAGE_H

#include <stddef.h>

/* An outbox event as it is to be sent. All texts are UTF-8; a NULL is sent as JSON's null. */
typedef struct MessageFields {
    const char *id;
    const char *type;
    const char *aggregate_type;
    const char *aggregate_id;
    const char *payload;     /* valid JSON, e.g. PostgreSQL's text output of a jsonb */
    const char *occurred_at; /* ISO 8601, UTC with Z */
} MessageFields;

/* Where things are in the buffer that message_build returned; lengths in bytes. */
typedef struct MessageLayout {
    size_t body_length;
    size_t payload_offset; /* the payload's own bytes within the body: what the older signature covers */
    size_t payload_length;
} MessageLayout;

/*
 * Builds {"id":…,"type":…,"aggregateType":…,"aggregateId":…,"payload":…,"occurredAt":…}: compact, keys in this order,
 * texts escaped as JSON.stringify and PostgreSQL's to_json do. The payload is only made compact: white space outside of
 * its strings goes, everything else (order of keys, digits of numbers, escapes) stays byte for byte.
 * Returns a malloc'ed, NUL-terminated buffer and fills *layout; NULL when memory runs out. A payload that is not valid
 * JSON gives a body that is not either, and nothing worse.
 */
char *message_build(const MessageFields *fields, MessageLayout *layout);

#endif
