/*
 * Finds the fields of a webhook's JSON body as they stand there, byte for byte: the receiver's side. Works on the
 * memory of its caller; nothing is copied or allocated.
 */
#ifndef APAPACHO_DELIVERY_BODY_H
#define APAPACHO_DELIVERY_BODY_H

#include <stdbool.h>
#include <stddef.h>

/* A piece of the body. */
typedef struct Slice {
    const char *data;
    size_t length;
} Slice;

typedef struct EventBody {
    Slice id; /* strings: without their quotes, escapes as they stand */
    Slice type;
    Slice aggregate_type;
    Slice aggregate_id;
    Slice payload; /* the raw JSON value */
} EventBody;

/* Takes a body apart. False when it is not an object with these five members; *event is then incomplete. */
bool event_body_parse(const char *body, size_t length, EventBody *event);

#endif
