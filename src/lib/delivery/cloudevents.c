/*
 * CloudEvents headers, percent-encoded into a buffer of the caller's. Pure computation in whatever process delivers;
 * owns no memory.
 */
#include "cloudevents.h"

#include <stdbool.h>

typedef struct Buffer {
    char *bytes;
    size_t size;
    size_t length;
    bool full;
} Buffer;

static void
put(Buffer *buffer, char c)
{
    if (buffer->length < buffer->size)
        buffer->bytes[buffer->length++] = c;
    else
        buffer->full = true;
}

static void
put_encoded(Buffer *buffer, const char *text)
{
    static const char hex[] = "0123456789ABCDEF";

    for (; *text != '\0'; text++) {
        unsigned char c = (unsigned char)*text;

        if (c > ' ' && c < 0x7f && c != '"' && c != '%') {
            put(buffer, *text);
        } else {
            put(buffer, '%');
            put(buffer, hex[c >> 4]);
            put(buffer, hex[c & 15]);
        }
    }
}

static bool
is_missing(const char *text)
{
    return text == NULL || *text == '\0';
}

int
cloudevents_headers(const MessageFields *fields, const char *source, DeliveryHeader headers[CLOUDEVENTS_MAX_HEADERS],
                    char *buffer, size_t size)
{
    bool has_subject = !is_missing(fields->aggregate_type) && !is_missing(fields->aggregate_id);
    /* Each value: its texts, with a slash between two. */
    const struct {
        const char *name;
        const char *first;
        const char *second;
    } attributes[CLOUDEVENTS_MAX_HEADERS] = {
        {"ce-specversion", "1.0", NULL},
        {"ce-id", fields->id, NULL},
        {"ce-source", source, NULL},
        {"ce-type", fields->type, NULL},
        {"ce-subject", has_subject ? fields->aggregate_type : NULL, fields->aggregate_id},
        {"ce-time", fields->occurred_at, NULL},
    };
    Buffer out = {buffer, size, 0, false};
    int count = 0;

    if (is_missing(fields->id) || is_missing(source) || is_missing(fields->type))
        return -1;
    for (int i = 0; i < CLOUDEVENTS_MAX_HEADERS && !out.full; i++) {
        if (is_missing(attributes[i].first))
            continue;
        headers[count++] = (DeliveryHeader){attributes[i].name, buffer + out.length};
        put_encoded(&out, attributes[i].first);
        if (attributes[i].second != NULL) {
            put(&out, '/');
            put_encoded(&out, attributes[i].second);
        }
        put(&out, '\0');
    }
    return out.full ? -1 : count;
}
