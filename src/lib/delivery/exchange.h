/*
 * What the server and a publisher on another machine (`apapacho-jobs outbox start`) say to each other: the server says
 * which requests are to be sent, the program what came of them. A message is a row of numbers and texts, in network
 * byte order, that goes as a bytea through a CALL (outbox/remote.c).
 *
 * Pure computation, in both processes. What is read comes from elsewhere: every length is checked, and a reader that
 * has failed once gives zeroes and empty texts from then on.
 */
#ifndef APAPACHO_DELIVERY_EXCHANGE_H
#define APAPACHO_DELIVERY_EXCHANGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine.h"

/* Changes with the form of any message. */
#define EXCHANGE_VERSION 1

/* Of a call: nothing else is to be begun. */
#define EXCHANGE_DRAIN 1

/* Of an answer: the publisher is to be opened anew once nothing is on its way; there is more to send. */
#define EXCHANGE_REOPEN 1
#define EXCHANGE_MORE 2

typedef struct ExchangeWriter {
    char *data; /* malloc'ed; freed by exchange_free */
    size_t length;
    size_t capacity;
    bool failed; /* no memory: the message is of no use */
} ExchangeWriter;

typedef struct ExchangeReader {
    const char *at;
    size_t left;
    bool failed;
} ExchangeReader;

void exchange_reset(ExchangeWriter *writer);
void exchange_free(ExchangeWriter *writer);

void exchange_put_number(ExchangeWriter *writer, int64_t number);
void exchange_put_bytes(ExchangeWriter *writer, const char *bytes, size_t length);
void exchange_put_text(ExchangeWriter *writer, const char *text); /* NULL is "" */

/* Adds what another message has. */
void exchange_append(ExchangeWriter *writer, const ExchangeWriter *other);

/* Writes a number where exchange_put_number() has written one, at that offset. */
void exchange_set_number(ExchangeWriter *writer, size_t offset, int64_t number);

/* A number outside of the bounds is a failure; the lower bound is given then. */
int64_t exchange_get_number(ExchangeReader *reader, int64_t lowest, int64_t highest);

/* They point into the message; a text ends with NUL and has none inside. */
const char *exchange_get_bytes(ExchangeReader *reader, size_t *length);
const char *exchange_get_text(ExchangeReader *reader);

/* Whether all was read, and nothing failed. */
bool exchange_is_complete(const ExchangeReader *reader);

/* What came of a request that the server knows by its ticket. Its `tag` is not sent. */
void exchange_put_result(ExchangeWriter *writer, int64_t ticket, const DeliveryResult *result);

/* Texts are printable ASCII then, and numbers within what they mean, whoever has written them. */
int64_t exchange_get_result(ExchangeReader *reader, DeliveryResult *result);

/* One that was not sent; `exchange_get_result` says so by a NULL tag, and a tag that is not NULL for all others. */
void exchange_put_returned(ExchangeWriter *writer, int64_t ticket);

#endif
