/*
 * What a delivery is, and whether its signatures are right: the customer's side of spec section 6. Runs in the daemon's
 * threads; everything belongs to the delivery.
 */
#include "listen.h"

#include <string.h>
#include <time.h>

static const char *
header_of(const Delivery *delivery, const char *name)
{
    return MHD_lookup_connection_value(delivery->connection, MHD_HEADER_KIND, name);
}

static Slice
slice_of(const char *text)
{
    return (Slice){text, text != NULL ? strlen(text) : 0};
}

/* The body is an event; or the payload alone, with all else in headers (CloudEvents in binary mode); or anything. */
static void
identify(Delivery *delivery)
{
    EventBody *event = &delivery->event;

    delivery->is_event = event_body_parse(delivery->body, delivery->length, event);
    if (delivery->is_event)
        return;
    event->id = slice_of(header_of(delivery, header_of(delivery, "ce-id") != NULL ? "ce-id" : "webhook-id"));
    event->type = slice_of(header_of(delivery, header_of(delivery, "ce-type") != NULL ? "ce-type" : "X-Event-Type"));
    event->aggregate_type = slice_of(header_of(delivery, "X-Aggregate-Type"));
    event->aggregate_id = slice_of(header_of(delivery, "ce-subject"));
    event->payload = (Slice){delivery->body, delivery->length};
}

/* Every signature that is there must be right, and one must be there. A public key can verify the standard's only. */
void
listen_judge(const Listen *listen, Delivery *delivery)
{
    const char *id = header_of(delivery, "webhook-id");
    const char *timestamp = header_of(delivery, "webhook-timestamp");
    const char *standard = header_of(delivery, "webhook-signature");
    const char *legacy = header_of(delivery, "X-Webhook-Signature");

    identify(delivery);
    delivery->standard_there = standard != NULL;
    delivery->legacy_there = legacy != NULL && (!listen->has_keys || listen->keys.legacy != NULL);
    delivery->standard = SIGNATURE_INVALID;
    delivery->accepted = true;
    if (!listen->has_keys)
        return;
    if (standard != NULL)
        delivery->standard = signature_standard_verify(
            &listen->keys, id != NULL ? id : "", timestamp != NULL ? timestamp : "", delivery->body, delivery->length,
            standard, (int64_t)time(NULL), listen->tolerance);
    if (delivery->legacy_there)
        delivery->legacy_ok = signature_legacy_verify(&listen->keys, delivery->event.payload.data,
                                                      delivery->event.payload.length, legacy) == SIGNATURE_VALID;
    delivery->accepted = (delivery->standard_there || delivery->legacy_there) &&
                         (!delivery->standard_there || delivery->standard == SIGNATURE_VALID) &&
                         (!delivery->legacy_there || delivery->legacy_ok);
}
