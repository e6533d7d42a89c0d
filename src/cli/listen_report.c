/*
 * Deliveries for people, and for programs. Runs in the daemon's threads: what belongs together is written in one piece.
 */
#include "listen.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "json.h"
#include "message.h"
#include "pretty.h"
#include "printable.h"

static const char *
verdict_of(const Listen *listen, const Delivery *delivery)
{
    if (delivery->too_large)
        return "TOO LARGE";
    if (!listen->has_keys)
        return "signatures not checked";
    if (!delivery->standard_there && !delivery->legacy_there)
        return "NOT SIGNED";
    if (delivery->standard_there && delivery->legacy_there && delivery->standard != SIGNATURE_VALID &&
        !delivery->legacy_ok)
        return "both signatures INVALID";
    if (delivery->standard_there && delivery->standard == SIGNATURE_BAD_TIMESTAMP)
        return "standard signature INVALID (timestamp)";
    if (delivery->standard_there && delivery->standard != SIGNATURE_VALID)
        return "standard signature INVALID";
    if (delivery->legacy_there && !delivery->legacy_ok)
        return "legacy signature INVALID";
    if (delivery->standard_there && delivery->legacy_there)
        return "both signatures valid";
    return delivery->standard_there ? "standard signature valid" : "legacy signature valid";
}

static void
add_slice(Text *text, Slice slice)
{
    char *copy;

    if (slice.data == NULL || slice.length == 0)
        return;
    copy = strndup(slice.data, slice.length);
    text_add_printable(text, copy != NULL ? copy : "");
    free(copy);
}

static void
add_name(Text *text, const Delivery *delivery)
{
    const EventBody *event = &delivery->event;
    const char *type = MHD_lookup_connection_value(delivery->connection, MHD_HEADER_KIND, "Content-Type");

    if (event->type.length > 0) {
        add_slice(text, event->type);
    } else {
        if (delivery->too_large)
            text_add(text, "too many bytes of ");
        else
            text_format(text, "%zu bytes of ", delivery->length);
        text_add_printable(text, type != NULL ? type : "no type");
    }
    if (event->aggregate_type.length > 0 || event->aggregate_id.length > 0) {
        text_add(text, "  ");
        add_slice(text, event->aggregate_type);
        /* ce-subject has the type in it */
        if (delivery->is_event)
            text_add(text, "/");
        else if (event->aggregate_type.length > 0)
            text_add(text, " ");
        add_slice(text, event->aggregate_id);
    }
    if (event->id.length > 0) {
        text_add(text, "  evt ");
        add_slice(text, event->id);
    }
}

static void
add_for_people(Text *text, const Listen *listen, const Delivery *delivery, const char *answer)
{
    const char *plain = colour(stdout, COLOUR_PLAIN);
    time_t now = time(NULL);
    struct tm local;
    char clock[16] = "";

    if (localtime_r(&now, &local) != NULL)
        strftime(clock, sizeof clock, "%H:%M:%S", &local);
    text_format(text, "%s%s%s %s%s%s ", colour(stdout, delivery->accepted ? COLOUR_GREEN : COLOUR_RED),
                delivery->accepted ? "✔" : "✘", plain, colour(stdout, COLOUR_DIM), clock, plain);
    add_name(text, delivery);
    text_format(text, "  %s%s%s  answered %s\n", colour(stdout, delivery->accepted ? COLOUR_PLAIN : COLOUR_RED),
                verdict_of(listen, delivery), plain, answer);
    if (listen->output == OUTPUT_BODIES && delivery->event.payload.length > 0)
        pretty_add(text, delivery->event.payload.data, delivery->event.payload.length, "    ");
}

static void
add_header(Text *text, const Delivery *delivery, const char *key, const char *name)
{
    const char *value = MHD_lookup_connection_value(delivery->connection, MHD_HEADER_KIND, name);

    text_format(text, ", \"%s\": ", key);
    if (value != NULL)
        json_add_string(text, value);
    else
        text_add(text, "null");
}

/* A line; everything in it comes as strings, for the body need not be JSON. */
static void
add_json(Text *text, const Listen *listen, const Delivery *delivery, const char *answer)
{
    char clock[32] = "";
    time_t now = time(NULL);
    struct tm utc;
    char *body = strndup(delivery->body, delivery->length);

    if (gmtime_r(&now, &utc) != NULL)
        strftime(clock, sizeof clock, "%Y-%m-%dT%H:%M:%SZ", &utc);
    text_format(text, "{\"receivedAt\": \"%s\", \"accepted\": %s, \"verdict\": \"%s\", \"answered\": \"%s\"", clock,
                delivery->accepted ? "true" : "false", verdict_of(listen, delivery), answer);
    add_header(text, delivery, "id", "webhook-id");
    add_header(text, delivery, "type", "X-Event-Type");
    add_header(text, delivery, "aggregateType", "X-Aggregate-Type");
    text_add(text, ", \"body\": ");
    json_add_string(text, body != NULL ? body : "");
    text_add(text, "}\n");
    free(body);
}

/* The line for programs, in one write so that a reader never sees half of it. */
static void
write_log(const Listen *listen, const Delivery *delivery, const char *answer)
{
    const Slice fields[] = {delivery->event.id, delivery->event.type, delivery->event.aggregate_type,
                            delivery->event.aggregate_id};
    Text line = {0};

    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        add_slice(&line, fields[i]);
        text_add(&line, "\t");
    }
    text_format(&line, "%d\t%d\t%s\n", delivery->standard_there && delivery->standard == SIGNATURE_VALID,
                delivery->legacy_there && delivery->legacy_ok, answer);
    if (write(listen->log_fd, line.data, line.length) != (ssize_t)line.length)
        message_error("could not write the log: %s", strerror(errno));
    text_free(&line);
}

void
listen_report(const Listen *listen, const Delivery *delivery, const char *answer)
{
    Text text = {0};

    if (listen->output == OUTPUT_JSON)
        add_json(&text, listen, delivery, answer);
    else if (listen->output != OUTPUT_NONE)
        add_for_people(&text, listen, delivery, answer);
    if (text.length > 0) {
        fwrite(text.data, 1, text.length, stdout);
        fflush(stdout);
    }
    text_free(&text);
    if (listen->log_fd >= 0)
        write_log(listen, delivery, answer);
}
