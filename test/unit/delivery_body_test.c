/*
 * Unit tests of the receiver's side of a webhook's body: it finds what message_build has put there, and refuses the
 * rest.
 *
 * A plain program of one process.
 */
#include <stdlib.h>
#include <string.h>

#include "body.h"
#include "message.h"
#include "unit.h"

static bool
is(Slice slice, const char *text)
{
    return slice.data != NULL && slice.length == strlen(text) && memcmp(slice.data, text, slice.length) == 0;
}

static void
test_round_trip(void)
{
    const MessageFields fields = {"e\"1",
                                  "Pago\n",
                                  "Pedido",
                                  "p\\7",
                                  "{\"a\": [1, {\"}\": \"]\\\"\"}], \"b\" : null}",
                                  "2026-01-01T00:00:00.000Z"};
    MessageLayout layout;
    char *body = message_build(&fields, &layout);
    EventBody event;

    CHECK(event_body_parse(body, layout.body_length, &event));
    CHECK(is(event.id, "e\\\"1"));
    CHECK(is(event.type, "Pago\\n"));
    CHECK(is(event.aggregate_type, "Pedido"));
    CHECK(is(event.aggregate_id, "p\\\\7"));
    CHECK(event.payload.data == body + layout.payload_offset && event.payload.length == layout.payload_length);
    /* Cut off anywhere it is none. */
    for (size_t length = 0; length < layout.body_length; length++) {
        char *cut = malloc(length > 0 ? length : 1);

        memcpy(cut, body, length);
        CHECK(!event_body_parse(cut, length, &event));
        free(cut);
    }
    free(body);
}

static void
test_layouts(void)
{
    static const char spaced[] = " { \"payload\" : [1, 2] , \"x\":{\"id\":\"no\"},\r\n\t\"aggregateId\":\"a\", "
                                 "\"aggregateType\": \"A\",\"type\":\"T\",\"id\":\"i\" } ";
    static const char *const wrong[] = {
        "",
        "null",
        "[]",
        "{}",
        "{\"id\":\"i\",\"type\":\"T\",\"aggregateType\":\"A\",\"aggregateId\":\"a\"}",
        "{\"id\":1,\"type\":\"T\",\"aggregateType\":\"A\",\"aggregateId\":\"a\",\"payload\":1}",
        "{\"id\":\"i\",\"type\":\"T\",\"aggregateType\":\"A\",\"aggregateId\":\"a\",\"payload\":}",
        "{\"id\":\"i\",\"type\":\"T\",\"aggregateType\":\"A\",\"aggregateId\":\"a\",\"payload\":[1}",
        "{\"id\":\"i\" \"type\":\"T\",\"aggregateType\":\"A\",\"aggregateId\":\"a\",\"payload\":1}",
        "{id:\"i\",\"type\":\"T\",\"aggregateType\":\"A\",\"aggregateId\":\"a\",\"payload\":1}",
    };
    EventBody event;

    CHECK(event_body_parse(spaced, sizeof spaced - 1, &event));
    CHECK(is(event.id, "i") && is(event.type, "T") && is(event.payload, "[1, 2]"));
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        CHECK(!event_body_parse(wrong[i], strlen(wrong[i]), &event));
}

int
main(void)
{
    test_round_trip();
    test_layouts();
    return unit_report();
}
