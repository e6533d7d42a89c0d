/*
 * Messages between the server and publishers on other machines. Nothing is kept between calls but what is in the
 * caller's writer or reader.
 */
#include "exchange.h"

#include <stdlib.h>
#include <string.h>

#include "retry.h"

#define NUMBER_SIZE 8
#define FIRST_CAPACITY 4096

/* What an outcome begins with. */
#define RETURNED 0
#define SENT 1

/* ---- Writing ---- */

void
exchange_reset(ExchangeWriter *writer)
{
    writer->length = 0;
    writer->failed = false;
}

void
exchange_free(ExchangeWriter *writer)
{
    free(writer->data);
    *writer = (ExchangeWriter){0};
}

/* Room for so many more bytes; NULL: there is none. */
static char *
extend(ExchangeWriter *writer, size_t size)
{
    size_t wanted = writer->length + size;
    char *place;

    if (writer->failed || wanted < size) {
        writer->failed = true;
        return NULL;
    }
    if (wanted > writer->capacity) {
        size_t capacity = writer->capacity == 0 ? FIRST_CAPACITY : writer->capacity;
        char *data;

        while (capacity < wanted)
            capacity = capacity > SIZE_MAX / 2 ? wanted : capacity * 2;
        data = realloc(writer->data, capacity);
        if (data == NULL) {
            writer->failed = true;
            return NULL;
        }
        writer->data = data;
        writer->capacity = capacity;
    }
    place = writer->data + writer->length;
    writer->length = wanted;
    return place;
}

static void
write_number(char *place, int64_t number)
{
    uint64_t bits = (uint64_t)number;

    for (int i = 0; i < NUMBER_SIZE; i++)
        place[i] = (char)(bits >> (8 * (NUMBER_SIZE - 1 - i)) & 0xff);
}

void
exchange_put_number(ExchangeWriter *writer, int64_t number)
{
    char *place = extend(writer, NUMBER_SIZE);

    if (place != NULL)
        write_number(place, number);
}

void
exchange_set_number(ExchangeWriter *writer, size_t offset, int64_t number)
{
    if (!writer->failed && offset + NUMBER_SIZE <= writer->length)
        write_number(writer->data + offset, number);
}

void
exchange_put_bytes(ExchangeWriter *writer, const char *bytes, size_t length)
{
    char *place;

    exchange_put_number(writer, (int64_t)length);
    place = extend(writer, length);
    if (place != NULL && length > 0)
        memcpy(place, bytes, length);
}

void
exchange_append(ExchangeWriter *writer, const ExchangeWriter *other)
{
    char *place = extend(writer, other->length);

    writer->failed = writer->failed || other->failed;
    if (place != NULL && other->length > 0)
        memcpy(place, other->data, other->length);
}

void
exchange_put_text(ExchangeWriter *writer, const char *text)
{
    if (text == NULL)
        text = "";
    exchange_put_bytes(writer, text, strlen(text) + 1);
}

/* ---- Reading ---- */

static const char *
take(ExchangeReader *reader, size_t size)
{
    const char *place = reader->at;

    if (reader->failed || size > reader->left) {
        reader->failed = true;
        return NULL;
    }
    reader->at += size;
    reader->left -= size;
    return place;
}

int64_t
exchange_get_number(ExchangeReader *reader, int64_t lowest, int64_t highest)
{
    const char *place = take(reader, NUMBER_SIZE);
    uint64_t bits = 0;
    int64_t number;

    for (int i = 0; place != NULL && i < NUMBER_SIZE; i++)
        bits = bits << 8 | (unsigned char)place[i];
    number = (int64_t)bits;
    if (place == NULL || number < lowest || number > highest) {
        reader->failed = true;
        return lowest;
    }
    return number;
}

const char *
exchange_get_bytes(ExchangeReader *reader, size_t *length)
{
    const char *place;

    *length = (size_t)exchange_get_number(reader, 0, INT64_MAX);
    place = take(reader, *length);
    if (place == NULL)
        *length = 0;
    return place != NULL ? place : "";
}

const char *
exchange_get_text(ExchangeReader *reader)
{
    size_t length;
    const char *text = exchange_get_bytes(reader, &length);

    if (length == 0 || memchr(text, '\0', length) != text + length - 1) {
        reader->failed = true;
        return "";
    }
    return text;
}

bool
exchange_is_complete(const ExchangeReader *reader)
{
    return !reader->failed && reader->left == 0;
}

/* ---- Outcomes ---- */

void
exchange_put_returned(ExchangeWriter *writer, int64_t ticket)
{
    exchange_put_number(writer, ticket);
    exchange_put_number(writer, RETURNED);
}

void
exchange_put_result(ExchangeWriter *writer, int64_t ticket, const DeliveryResult *result)
{
    const DeliveryTimings *timings = &result->timings;

    exchange_put_number(writer, ticket);
    exchange_put_number(writer, SENT);
    exchange_put_number(writer, result->delivered);
    exchange_put_number(writer, result->retryable);
    exchange_put_number(writer, result->gone);
    exchange_put_number(writer, result->reused_connection);
    exchange_put_number(writer, result->http_status);
    exchange_put_number(writer, result->error_class);
    exchange_put_number(writer, result->total_ms);
    exchange_put_number(writer, result->retry_after_s);
    exchange_put_number(writer, timings->lookup_us);
    exchange_put_number(writer, timings->connect_us);
    exchange_put_number(writer, timings->tls_us);
    exchange_put_number(writer, timings->first_byte_us);
    exchange_put_number(writer, timings->total_us);
    exchange_put_text(writer, result->error);
    exchange_put_text(writer, result->peer);
    exchange_put_text(writer, result->excerpt);
}

/* Copies a text that is to be printable ASCII. */
static void
read_printable(ExchangeReader *reader, char *to, size_t size)
{
    const char *text = exchange_get_text(reader);
    size_t length = strnlen(text, size - 1);

    for (size_t i = 0; i < length; i++)
        to[i] = text[i] >= ' ' && text[i] <= '~' ? text[i] : '?';
    to[length] = '\0';
}

static bool
read_bool(ExchangeReader *reader)
{
    return exchange_get_number(reader, 0, 1) == 1;
}

int64_t
exchange_get_result(ExchangeReader *reader, DeliveryResult *result)
{
    static char sent;
    int64_t ticket = exchange_get_number(reader, 0, INT64_MAX);
    DeliveryTimings *timings = &result->timings;

    *result = (DeliveryResult){0};
    if (exchange_get_number(reader, RETURNED, SENT) == RETURNED)
        return ticket;
    result->tag = &sent;
    result->delivered = read_bool(reader);
    result->retryable = read_bool(reader);
    result->gone = read_bool(reader);
    result->reused_connection = read_bool(reader);
    result->http_status = (long)exchange_get_number(reader, 0, 999);
    result->error_class = (DeliveryErrorClass)exchange_get_number(reader, DELIVERY_ERROR_NONE, DELIVERY_ERROR_BLOCKED);
    result->total_ms = (long)exchange_get_number(reader, 0, INT32_MAX);
    result->retry_after_s = (long)exchange_get_number(reader, -1, DELIVERY_RETRY_AFTER_MAX);
    timings->lookup_us = exchange_get_number(reader, 0, INT64_MAX / 1000);
    timings->connect_us = exchange_get_number(reader, 0, INT64_MAX / 1000);
    timings->tls_us = exchange_get_number(reader, 0, INT64_MAX / 1000);
    timings->first_byte_us = exchange_get_number(reader, 0, INT64_MAX / 1000);
    timings->total_us = exchange_get_number(reader, 0, INT64_MAX / 1000);
    read_printable(reader, result->error, sizeof result->error);
    read_printable(reader, result->peer, sizeof result->peer);
    read_printable(reader, result->excerpt, sizeof result->excerpt);
    if (!result->delivered && result->error_class == DELIVERY_ERROR_NONE)
        reader->failed = true;
    return ticket;
}
