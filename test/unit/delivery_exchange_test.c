/*
 * Unit tests of the messages between the server and publishers on other machines: what is written is read again, and
 * whatever else comes is refused within its bounds.
 *
 * A plain program of one process; the sanitizers see reads beyond a message, which is copied to be as long as it says.
 */
#include <stdlib.h>
#include <string.h>

#include "exchange.h"
#include "unit.h"

static const DeliveryResult failure = {
    .retryable = true,
    .http_status = 503,
    .error_class = DELIVERY_ERROR_HTTP_STATUS,
    .error = "answered 503: busy",
    .total_ms = 17,
    .reused_connection = true,
    .retry_after_s = 120,
    .timings = {.lookup_us = 1, .connect_us = 2, .tls_us = 3, .first_byte_us = 4, .total_us = 17003},
    .peer = "192.0.2.1:443",
    .excerpt = "busy",
};

static ExchangeReader
reader_of(const ExchangeWriter *writer)
{
    return (ExchangeReader){.at = writer->data, .left = writer->length};
}

static void
test_values(void)
{
    static const int64_t numbers[] = {0, 1, -1, 255, 256, INT64_MAX, INT64_MIN};
    ExchangeWriter writer = {0};
    ExchangeReader reader;
    const char *bytes;
    size_t length;

    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        exchange_put_number(&writer, numbers[i]);
    exchange_put_text(&writer, "año");
    exchange_put_text(&writer, NULL);
    exchange_put_bytes(&writer, "a\0b", 3);
    exchange_set_number(&writer, 8, 7);
    reader = reader_of(&writer);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        CHECK(exchange_get_number(&reader, INT64_MIN, INT64_MAX) == (i == 1 ? 7 : numbers[i]));
    CHECK_STR(exchange_get_text(&reader), "año");
    CHECK_STR(exchange_get_text(&reader), "");
    CHECK(!exchange_is_complete(&reader));
    bytes = exchange_get_bytes(&reader, &length);
    CHECK(length == 3 && memcmp(bytes, "a\0b", 3) == 0);
    CHECK(exchange_is_complete(&reader));
    exchange_free(&writer);
}

static void
test_bounds(void)
{
    ExchangeWriter writer = {0};
    ExchangeReader reader;
    size_t length;

    exchange_put_number(&writer, 11);
    reader = reader_of(&writer);
    CHECK(exchange_get_number(&reader, 0, 10) == 0 && reader.failed);
    reader = reader_of(&writer);
    CHECK(exchange_get_number(&reader, 12, 20) == 12 && reader.failed);
    reader = reader_of(&writer);
    CHECK_STR(exchange_get_bytes(&reader, &length), "");
    CHECK(length == 0 && reader.failed);
    /* from then on nothing is read */
    reader = (ExchangeReader){.at = writer.data, .left = writer.length, .failed = true};
    CHECK(exchange_get_number(&reader, 0, 20) == 0);

    exchange_reset(&writer);
    exchange_put_bytes(&writer, "abc", 3); /* no NUL at its end */
    reader = reader_of(&writer);
    CHECK_STR(exchange_get_text(&reader), "");
    CHECK(reader.failed);
    exchange_reset(&writer);
    exchange_put_bytes(&writer, "a\0b", 4); /* one inside */
    reader = reader_of(&writer);
    CHECK_STR(exchange_get_text(&reader), "");
    CHECK(reader.failed);
    exchange_reset(&writer);
    exchange_put_number(&writer, -1); /* a length */
    reader = reader_of(&writer);
    CHECK_STR(exchange_get_bytes(&reader, &length), "");
    CHECK(reader.failed);
    exchange_free(&writer);
}

static void
test_results(void)
{
    ExchangeWriter writer = {0};
    ExchangeWriter all = {0};
    DeliveryResult result;
    ExchangeReader reader;

    exchange_put_result(&writer, 42, &failure);
    exchange_put_returned(&writer, 43);
    exchange_put_result(&writer, 44, &(DeliveryResult){.delivered = true, .http_status = 204, .retry_after_s = -1});
    exchange_append(&all, &writer);
    reader = reader_of(&all);
    CHECK(exchange_get_result(&reader, &result) == 42 && result.tag != NULL);
    CHECK(!result.delivered && result.retryable && !result.gone && result.reused_connection);
    CHECK(result.http_status == 503 && result.error_class == DELIVERY_ERROR_HTTP_STATUS && result.total_ms == 17);
    CHECK(result.retry_after_s == 120 && memcmp(&result.timings, &failure.timings, sizeof result.timings) == 0);
    CHECK_STR(result.error, failure.error);
    CHECK_STR(result.peer, failure.peer);
    CHECK_STR(result.excerpt, failure.excerpt);
    CHECK(exchange_get_result(&reader, &result) == 43 && result.tag == NULL);
    CHECK(exchange_get_result(&reader, &result) == 44 && result.delivered && result.retry_after_s == -1);
    CHECK(exchange_is_complete(&reader));
    exchange_free(&writer);
    exchange_free(&all);
}

/* Texts become printable ASCII and are cut; a failure needs a reason. */
static void
test_unsound_results(void)
{
    ExchangeWriter writer = {0};
    DeliveryResult result = failure;
    DeliveryResult read;
    ExchangeReader reader;

    memset(result.error, 'x', sizeof result.error - 1);
    result.error[sizeof result.error - 1] = '\0';
    memcpy(result.error, "a\n\xc3\xb1", 4);
    exchange_put_result(&writer, 1, &result);
    reader = reader_of(&writer);
    exchange_get_result(&reader, &read);
    CHECK(exchange_is_complete(&reader) && strncmp(read.error, "a???xxx", 7) == 0 && strlen(read.error) == 255);

    exchange_reset(&writer);
    result.error_class = DELIVERY_ERROR_NONE;
    exchange_put_result(&writer, 1, &result);
    reader = reader_of(&writer);
    exchange_get_result(&reader, &read);
    CHECK(reader.failed);
    exchange_free(&writer);
}

/* No beginning of a message is a message, nor is one of which a byte was changed read beyond its end. */
static void
test_cut_and_changed(void)
{
    ExchangeWriter writer = {0};
    unsigned seed = 1;

    exchange_put_result(&writer, 42, &failure);
    for (size_t length = 0; length < writer.length; length++) {
        char *copy = malloc(length + 1);
        ExchangeReader reader = {.at = copy, .left = length};
        DeliveryResult result;

        memcpy(copy, writer.data, length);
        exchange_get_result(&reader, &result);
        CHECK(reader.failed);
        free(copy);
    }
    for (int i = 0; i < 20000; i++) {
        char *copy = malloc(writer.length);
        ExchangeReader reader = {.at = copy, .left = writer.length};
        DeliveryResult result;

        memcpy(copy, writer.data, writer.length);
        seed = seed * 1664525 + 1013904223;
        copy[(seed >> 8) % writer.length] = (char)(seed >> 24);
        exchange_get_result(&reader, &result);
        if (result.error_class > DELIVERY_ERROR_BLOCKED || strlen(result.error) >= sizeof result.error)
            CHECK(false);
        free(copy);
    }
    exchange_free(&writer);
}

int
main(void)
{
    test_values();
    test_bounds();
    test_results();
    test_unsound_results();
    test_cut_and_changed();
    return unit_report();
}
