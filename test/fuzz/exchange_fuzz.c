/*
 * libFuzzer over the messages of publishers on other machines, which the server reads: whatever comes is refused within
 * its bounds, and what is accepted is written the same again.
 *
 * One process, in libFuzzer's loop. The input is a row of outcomes.
 */
#include <stdlib.h>
#include <string.h>

#include "exchange.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
require(bool holds)
{
    if (!holds)
        abort();
}

static void
require_printable(const char *text, size_t size)
{
    require(strlen(text) < size);
    for (; *text != '\0'; text++)
        require(*text >= ' ' && *text <= '~');
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ExchangeReader reader = {.at = (const char *)data, .left = size};
    ExchangeWriter writer = {0};

    while (!reader.failed && reader.left > 0) {
        DeliveryResult result;
        DeliveryResult again;
        int64_t ticket = exchange_get_result(&reader, &result);
        ExchangeReader written;

        require_printable(result.error, sizeof result.error);
        require_printable(result.peer, sizeof result.peer);
        require_printable(result.excerpt, sizeof result.excerpt);
        require(result.error_class <= DELIVERY_ERROR_BLOCKED && result.http_status >= 0 && result.http_status <= 999);
        if (reader.failed || result.tag == NULL)
            continue;
        exchange_reset(&writer);
        exchange_put_result(&writer, ticket, &result);
        written = (ExchangeReader){.at = writer.data, .left = writer.length};
        require(exchange_get_result(&written, &again) == ticket && exchange_is_complete(&written));
        require(strcmp(result.error, again.error) == 0 && result.retry_after_s == again.retry_after_s);
    }
    exchange_free(&writer);
    return 0;
}
