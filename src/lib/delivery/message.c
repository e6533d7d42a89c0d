/*
 * Builds the JSON body of a webhook delivery in one allocation: a first pass measures, a second one writes, through
 * the same functions. Pure computation in whatever process delivers; the caller owns the result.
 */
#include "message.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Counts bytes, and stores them as well once there is a buffer. */
typedef struct Writer {
    char *buffer; /* NULL while measuring */
    size_t length;
} Writer;

static void
put(Writer *writer, const char *bytes, size_t count)
{
    if (writer->buffer != NULL)
        memcpy(writer->buffer + writer->length, bytes, count);
    writer->length += count;
}

static void
put_text(Writer *writer, const char *text)
{
    put(writer, text, strlen(text));
}

/* The letter of JSON's two-character escapes (RFC 8259 section 7), or 0. */
static char
short_escape(unsigned char c)
{
    switch (c) {
    case '"':
    case '\\':
        return (char)c;
    case '\b':
        return 'b';
    case '\f':
        return 'f';
    case '\n':
        return 'n';
    case '\r':
        return 'r';
    case '\t':
        return 't';
    default:
        return 0;
    }
}

/* A JSON string, or null. */
static void
put_string(Writer *writer, const char *text)
{
    static const char hex[] = "0123456789abcdef";
    const char *plain = text; /* start of what needs no escape and is not written yet */

    if (text == NULL) {
        put_text(writer, "null");
        return;
    }
    put(writer, "\"", 1);
    for (; *text != '\0'; text++) {
        unsigned char c = (unsigned char)*text;
        char letter;

        if (c >= ' ' && c != '"' && c != '\\')
            continue;
        put(writer, plain, (size_t)(text - plain));
        plain = text + 1;
        letter = short_escape(c);
        if (letter != 0)
            put(writer, (const char[]){'\\', letter}, 2);
        else
            put(writer, (const char[]){'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15]}, 6);
    }
    put(writer, plain, (size_t)(text - plain));
    put(writer, "\"", 1);
}

/* JSON without the white space between its tokens. */
static void
put_compact(Writer *writer, const char *json)
{
    const char *kept = json; /* start of what is to be kept and not written yet */
    bool in_string = false;

    for (; *json != '\0'; json++) {
        if (in_string) {
            if (*json == '\\' && json[1] != '\0')
                json++;
            else if (*json == '"')
                in_string = false;
        } else if (*json == '"') {
            in_string = true;
        } else if (*json == ' ' || *json == '\t' || *json == '\n' || *json == '\r') {
            put(writer, kept, (size_t)(json - kept));
            kept = json + 1;
        }
    }
    put(writer, kept, (size_t)(json - kept));
}

static void
put_message(Writer *writer, const MessageFields *fields, MessageLayout *layout)
{
    put_text(writer, "{\"id\":");
    put_string(writer, fields->id);
    put_text(writer, ",\"type\":");
    put_string(writer, fields->type);
    put_text(writer, ",\"aggregateType\":");
    put_string(writer, fields->aggregate_type);
    put_text(writer, ",\"aggregateId\":");
    put_string(writer, fields->aggregate_id);
    put_text(writer, ",\"payload\":");
    layout->payload_offset = writer->length;
    put_compact(writer, fields->payload != NULL ? fields->payload : "null");
    layout->payload_length = writer->length - layout->payload_offset;
    put_text(writer, ",\"occurredAt\":");
    put_string(writer, fields->occurred_at);
    put_text(writer, "}");
    layout->body_length = writer->length;
}

char *
message_build(const MessageFields *fields, MessageLayout *layout)
{
    Writer writer = {NULL, 0};

    put_message(&writer, fields, layout);
    writer.buffer = malloc(writer.length + 1);
    if (writer.buffer == NULL)
        return NULL;
    writer.length = 0;
    put_message(&writer, fields, layout);
    writer.buffer[writer.length] = '\0';
    return writer.buffer;
}
