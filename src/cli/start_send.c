/*
 * What `outbox start` does with the server's requests: an engine for each endpoint, as in the server's own publisher.
 */
#include "start.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/delivery/address.h"
#include "lib/delivery/url.h"
#include "message.h"

/* As the server's publisher has it (outbox/webhook.c). */
#define CONNECT_TIMEOUT_MS 10000
#define MAX_RESPONSE_BYTES 65536
#define MAX_HOST_SIZE 300

#define MOST_HEADERS 100
#define CONSOLE_LINES 1000 /* in an answer */
#define MOST_WARNINGS 3
#define PACE_MS 20

struct Parcel {
    Parcel *next;
    int64_t ticket;
    Route *route;
    char *texts; /* of the headers */
    DeliveryHeader *headers;
    int header_count;
    char *body; /* NULL once it is on its way */
    size_t body_length;
    size_t payload_offset;
    size_t payload_length;
};

static void
free_parcel(Parcel *parcel)
{
    free(parcel->texts);
    free(parcel->headers);
    free(parcel->body);
    free(parcel);
}

/* ---- Opening ---- */

/* A file that the server's settings name, and that is to be on this machine; NULL: none is named. */
static bool
find_file(const char *endpoint, const char *what, const char **path)
{
    if (**path == '\0')
        *path = NULL;
    if (*path == NULL || access(*path, R_OK) == 0)
        return true;
    message_error("endpoint \"%s\": the %s \"%s\" cannot be read on this machine", endpoint, what, *path);
    message_hint("Files that the server's settings name are read where the requests are made.");
    return false;
}

/* What the server says of all of them. */
typedef struct Manner {
    bool fail_on_client_error;
    bool http2;
    AddressList allowed;
} Manner;

static bool
open_route(Route *route, const Manner *manner, const Overrides *overrides, ExchangeReader *reader)
{
    bool is_default;
    AddressPolicy policy = {.allowed = manner->allowed};
    DeliveryOptions options = {.max_response_bytes = MAX_RESPONSE_BYTES,
                               .user_agent = "apapacho_jobs/" APAPACHO_VERSION,
                               .verify_tls = true,
                               .excerpt_bytes = DELIVERY_EXCERPT_MAX,
                               .fail_on_client_error = manner->fail_on_client_error,
                               .addresses = &policy,
                               .http2 = manner->http2};
    char host[MAX_HOST_SIZE];
    char error[256] = "";

    route->last = &route->first;
    route->name = copy_string(exchange_get_text(reader));
    route->url = copy_string(exchange_get_text(reader));
    options.total_timeout_ms = (long)exchange_get_number(reader, 1, INT32_MAX);
    options.max_in_flight = route->concurrency = (int)exchange_get_number(reader, 1, DELIVERY_MAX_IN_FLIGHT);
    options.connect_timeout_ms =
        options.total_timeout_ms < CONNECT_TIMEOUT_MS ? options.total_timeout_ms : CONNECT_TIMEOUT_MS;
    options.ca_file = exchange_get_text(reader);
    options.client_cert = exchange_get_text(reader);
    options.client_key = exchange_get_text(reader);
    is_default = strcmp(route->name, "default") == 0;
    if (is_default && overrides->url != NULL) {
        free(route->url);
        route->url = copy_string(overrides->url);
    }
    route->signs = is_default && overrides->has_secret;
    if (exchange_get_number(reader, 0, 1) == 1 && delivery_url_host(route->url, host, sizeof host))
        address_policy_allow_host(&policy, host);
    if (reader->failed || !find_file(route->name, "file of authorities", &options.ca_file) ||
        !find_file(route->name, "certificate", &options.client_cert) ||
        !find_file(route->name, "key", &options.client_key))
        return false;
    route->engine = delivery_engine_create(&options, error, sizeof error);
    if (route->engine == NULL)
        message_error("endpoint \"%s\": could not start the delivery engine: %s", route->name, error);
    return route->engine != NULL;
}

bool
sender_open(Sender *sender, const Overrides *overrides, const char *answer, size_t length)
{
    ExchangeReader reader = {.at = answer, .left = length};
    Manner manner = {0};
    char error[256];
    bool ready = true;
    int count;

    sender_close(sender);
    sender->keys = &overrides->keys;
    sender->console = exchange_get_number(&reader, 0, 1) == 1;
    manner.fail_on_client_error = exchange_get_number(&reader, 0, 1) == 1;
    manner.http2 = exchange_get_number(&reader, 0, 1) == 1;
    if (!address_list_parse(exchange_get_text(&reader), &manner.allowed, error, sizeof error))
        reader.failed = true;
    count = (int)exchange_get_number(&reader, 1, START_MOST_ENDPOINTS);
    if (sender->console) {
        sender->routes[0] = (Route){.name = copy_string("default"), .url = copy_string("")};
        sender->routes[0].last = &sender->routes[0].first;
        sender->count = 1;
        return !reader.failed;
    }
    while (ready && !reader.failed && sender->count < count) {
        sender->routes[sender->count] = (Route){0};
        ready = open_route(&sender->routes[sender->count++], &manner, overrides, &reader);
    }
    if (reader.failed || (ready && !exchange_is_complete(&reader)))
        message_error("the server's answer cannot be read");
    return ready && exchange_is_complete(&reader);
}

/* Takes the first request that is not on its way; NULL: there is none. */
static Parcel *
take_queued(Route *route)
{
    Parcel *parcel = route->first;

    if (parcel == NULL)
        return NULL;
    route->first = parcel->next;
    if (route->first == NULL)
        route->last = &route->first;
    route->queued--;
    return parcel;
}

void
sender_close(Sender *sender)
{
    for (int i = 0; i < sender->count; i++) {
        Route *route = &sender->routes[i];

        if (route->engine != NULL)
            delivery_engine_destroy(route->engine);
        for (Parcel *parcel; (parcel = take_queued(route)) != NULL;)
            free_parcel(parcel);
        free(route->name);
        free(route->url);
    }
    exchange_free(&sender->outcomes);
    *sender = (Sender){0};
}

/* ---- Taking requests ---- */

/* Headers, with room for the signatures. */
static bool
read_headers(Parcel *parcel, ExchangeReader *reader)
{
    int count = (int)exchange_get_number(reader, 0, MOST_HEADERS);
    const char *from = reader->at;
    size_t size;

    parcel->headers = allocate(sizeof(DeliveryHeader) * (size_t)(count + 2));
    for (int i = 0; i < count; i++) {
        parcel->headers[i].name = exchange_get_text(reader);
        parcel->headers[i].value = exchange_get_text(reader);
    }
    if (reader->failed)
        return false;
    parcel->header_count = count;
    size = (size_t)(reader->at - from);
    parcel->texts = allocate(size + 1);
    memcpy(parcel->texts, from, size);
    for (int i = 0; i < count; i++) {
        parcel->headers[i].name = parcel->texts + (parcel->headers[i].name - from);
        parcel->headers[i].value = parcel->texts + (parcel->headers[i].value - from);
    }
    return true;
}

static bool
read_parcel(Sender *sender, ExchangeReader *reader)
{
    Parcel *parcel = allocate(sizeof *parcel);
    const char *body;
    int endpoint;

    *parcel = (Parcel){.ticket = exchange_get_number(reader, 1, INT64_MAX)};
    endpoint = (int)exchange_get_number(reader, 0, sender->count - 1);
    if (!read_headers(parcel, reader)) {
        free_parcel(parcel);
        return false;
    }
    parcel->payload_offset = (size_t)exchange_get_number(reader, 0, INT32_MAX);
    parcel->payload_length = (size_t)exchange_get_number(reader, 0, INT32_MAX);
    body = exchange_get_bytes(reader, &parcel->body_length);
    if (reader->failed || parcel->payload_offset + parcel->payload_length > parcel->body_length) {
        free_parcel(parcel);
        return false;
    }
    parcel->body = allocate(parcel->body_length + 1);
    memcpy(parcel->body, body, parcel->body_length);
    parcel->body[parcel->body_length] = '\0';
    parcel->route = &sender->routes[endpoint];
    *parcel->route->last = parcel;
    parcel->route->last = &parcel->next;
    parcel->route->queued++;
    return true;
}

bool
sender_take(Sender *sender, ExchangeReader *answer, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        if (!read_parcel(sender, answer))
            return false;
    }
    return exchange_is_complete(answer);
}

/* ---- Outcomes ---- */

static void
note_outcome(Sender *sender)
{
    if (sender->outcome_count++ == 0)
        sender->outcomes_since = start_clock_ms();
}

static const char *
header_of(const Parcel *parcel, const char *name)
{
    for (int i = 0; i < parcel->header_count; i++) {
        if (strcmp(parcel->headers[i].name, name) == 0)
            return parcel->headers[i].value;
    }
    return "";
}

/* Of many failures only the first are told; the server keeps them all (outbox_attempt). */
static void
warn_of_failure(Sender *sender, const Parcel *parcel, const char *error)
{
    const char *name = parcel->route->name;

    if (sender->warnings++ >= MOST_WARNINGS)
        return;
    if (strcmp(name, "default") == 0)
        message_warning("event %s was not delivered: %s", header_of(parcel, "webhook-id"), error);
    else
        message_warning("event %s was not delivered to \"%s\": %s", header_of(parcel, "webhook-id"), name, error);
}

static void
note_result(Sender *sender, Parcel *parcel, const DeliveryResult *result)
{
    exchange_put_result(&sender->outcomes, parcel->ticket, result);
    note_outcome(sender);
    parcel->route->completed++;
    if (!result->delivered)
        warn_of_failure(sender, parcel, result->error);
    free_parcel(parcel);
}

void
sender_return_queued(Sender *sender)
{
    for (int i = 0; i < sender->count; i++) {
        for (Parcel *parcel; (parcel = take_queued(&sender->routes[i])) != NULL;) {
            exchange_put_returned(&sender->outcomes, parcel->ticket);
            note_outcome(sender);
            free_parcel(parcel);
        }
    }
}

void
sender_outcomes_sent(Sender *sender)
{
    exchange_reset(&sender->outcomes);
    sender->outcome_count = 0;
}

/* ---- Sending ---- */

/* Signs by the environment's secret; false: OpenSSL has failed. */
static bool
sign(Parcel *parcel, const SigningKeys *keys, char standard[SIGNATURE_STANDARD_SIZE],
     char legacy[SIGNATURE_LEGACY_SIZE])
{
    int64_t timestamp = strtoll(header_of(parcel, "webhook-timestamp"), NULL, 10);

    if (!signature_header(keys, 1, header_of(parcel, "webhook-id"), timestamp, parcel->body, parcel->body_length,
                          standard, SIGNATURE_STANDARD_SIZE))
        return false;
    parcel->headers[parcel->header_count++] = (DeliveryHeader){"webhook-signature", standard};
    if (keys->asymmetric != NULL)
        return true;
    if (!signature_legacy(keys, parcel->body + parcel->payload_offset, parcel->payload_length, legacy))
        return false;
    parcel->headers[parcel->header_count++] = (DeliveryHeader){"X-Webhook-Signature", legacy};
    return true;
}

/* What never got as far as the network is no matter of the receiver's. */
static void
note_own_failure(Sender *sender, Parcel *parcel, const char *error)
{
    DeliveryResult result = {
        .retryable = true, .error_class = DELIVERY_ERROR_OTHER, .retry_after_s = -1, .tag = parcel};

    snprintf(result.error, sizeof result.error, "%s", error);
    note_result(sender, parcel, &result);
}

static void
submit(Sender *sender, Parcel *parcel)
{
    Route *route = parcel->route;
    char standard[SIGNATURE_STANDARD_SIZE];
    char legacy[SIGNATURE_LEGACY_SIZE];
    char error[256] = "";
    DeliveryRequest request;

    if (route->signs && !sign(parcel, sender->keys, standard, legacy)) {
        note_own_failure(sender, parcel, "could not sign the event");
        return;
    }
    request = (DeliveryRequest){.url = route->url,
                                .headers = parcel->headers,
                                .header_count = parcel->header_count,
                                .body = parcel->body,
                                .body_length = parcel->body_length,
                                .tag = parcel};
    if (!delivery_engine_submit(route->engine, &request, error, sizeof error)) {
        note_own_failure(sender, parcel, error);
        return;
    }
    parcel->body = NULL;
}

static void
print_line(Sender *sender, Parcel *parcel)
{
    DeliveryResult result = {.delivered = true, .retry_after_s = -1, .tag = parcel};

    puts(parcel->body);
    note_result(sender, parcel, &result);
}

void
sender_submit(Sender *sender)
{
    for (int i = 0; i < sender->count; i++) {
        Route *route = &sender->routes[i];

        while (route->first != NULL &&
               (sender->console || delivery_engine_in_flight(route->engine) < route->concurrency)) {
            if (sender->console)
                print_line(sender, take_queued(route));
            else
                submit(sender, take_queued(route));
        }
    }
    if (sender->console)
        fflush(stdout);
}

void
sender_run(Sender *sender)
{
    DeliveryResult result;

    for (int i = 0; i < sender->count && !sender->console; i++) {
        delivery_engine_run(sender->routes[i].engine);
        while (delivery_engine_next_result(sender->routes[i].engine, &result))
            note_result(sender, result.tag, &result);
    }
}

/* ---- How much there is ---- */

static int
in_flight(const Route *route)
{
    return route->engine != NULL ? delivery_engine_in_flight(route->engine) : 0;
}

int
sender_in_flight(const Sender *sender)
{
    int count = 0;

    for (int i = 0; i < sender->count; i++)
        count += in_flight(&sender->routes[i]);
    return count;
}

int
sender_queued(const Sender *sender)
{
    int count = 0;

    for (int i = 0; i < sender->count; i++)
        count += sender->routes[i].queued;
    return count;
}

/* Besides what can be on its way at once an endpoint is given what it does in PACE_MS, so that calls are few and there
 * is always something for a receiver that is fast, and nothing waits for one that is slow. */
void
sender_pace(Sender *sender)
{
    int64_t now = start_clock_ms();

    for (int i = 0; i < sender->count; i++) {
        Route *route = &sender->routes[i];
        int64_t passed = now - route->paced_ms;
        int64_t pace;

        if (passed < PACE_MS)
            continue;
        pace = route->completed * PACE_MS / passed;
        route->ahead = (int)(pace < route->concurrency ? pace : route->concurrency);
        route->completed = 0;
        route->paced_ms = now;
    }
}

bool
sender_is_hungry(const Sender *sender)
{
    for (int i = 0; i < sender->count; i++) {
        const Route *route = &sender->routes[i];

        if (sender->console || (route->queued <= route->ahead / 2 && sender_wants(sender, i) > 0))
            return true;
    }
    return false;
}

int
sender_wants(const Sender *sender, int endpoint)
{
    const Route *route = &sender->routes[endpoint];
    int wants = route->concurrency + route->ahead - in_flight(route) - route->queued;

    if (sender->console)
        return CONSOLE_LINES;
    return wants > 0 ? wants : 0;
}

int
sender_poll(Sender *sender, struct pollfd *descriptors, long *timeout_ms)
{
    int count = 0;

    for (int i = 0; i < sender->count && !sender->console; i++) {
        DeliveryEngine *engine = sender->routes[i].engine;
        long timeout = delivery_engine_timeout_ms(engine);

        descriptors[count++] = (struct pollfd){.fd = delivery_engine_fd(engine), .events = POLLIN};
        if (timeout >= 0 && timeout < *timeout_ms)
            *timeout_ms = timeout;
    }
    return count;
}

void
sender_warn_again(Sender *sender)
{
    sender->warnings = 0;
}
