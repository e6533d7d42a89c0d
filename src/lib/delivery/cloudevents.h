/*
 * An outbox event's metadata as the headers of a CloudEvents 1.0 message in the binary content mode of the HTTP
 * protocol binding. Pure computation, in whatever process delivers; the texts are in the caller's buffer.
 */
#ifndef APAPACHO_DELIVERY_CLOUDEVENTS_H
#define APAPACHO_DELIVERY_CLOUDEVENTS_H

#include <stddef.h>

#include "engine.h"
#include "message.h"

/* The most headers that cloudevents_headers makes. */
#define CLOUDEVENTS_MAX_HEADERS 6

/* A buffer of this size is enough for texts of this many bytes in all (fields and source). */
#define CLOUDEVENTS_BUFFER_SIZE(bytes) ((bytes)*3 + 16)

/*
 * Fills headers with ce-specversion, ce-id, ce-source, ce-type, and ce-subject and ce-time where the event has them:
 *
 *   id       fields->id; not empty
 *   source   source, a URI reference that names the context of the events; with id, unique; not empty
 *   type     fields->type; not empty
 *   subject  fields->aggregate_type "/" fields->aggregate_id, when both are there
 *   time     fields->occurred_at, when it is there
 *
 * Values are percent-encoded by section 3.1.3.2 of the binding: blanks, double quotes, percent signs and all that is
 * not printable ASCII, byte by byte, in upper case. (ce-datacontenttype is not a header: Content-Type says it.) The
 * values point into buffer, the names to constants. In binary mode the body is the event's data alone; fields->payload
 * is not looked at. Returns the number of headers; -1 when a required text is missing or buffer is too small.
 */
int cloudevents_headers(const MessageFields *fields, const char *source,
                        DeliveryHeader headers[CLOUDEVENTS_MAX_HEADERS], char *buffer, size_t size);

#endif
