/*
 * One POST of the delivery engine: its curl handle, what is read of the answer, and the verdict. Internal to
 * src/lib/delivery; engine.c drives transfers and owns them.
 */
#ifndef APAPACHO_DELIVERY_TRANSFER_H
#define APAPACHO_DELIVERY_TRANSFER_H

#include <stdint.h>

#include <curl/curl.h>

#include "engine.h"

#define TRANSFER_EXCERPT_BYTES 100
#define TRANSFER_REASON_BYTES 60

typedef struct Transfer {
    CURL *easy; /* configured once, used for one request after another; NULL until the first one */

    /* the request */
    struct curl_slist *headers;
    char *body;
    int64_t started_ms; /* monotonic clock */
    int64_t deadline_ms;

    /* the answer as far as it was read */
    size_t max_response_bytes;
    size_t header_bytes;
    size_t body_bytes;
    bool headers_too_large;
    bool body_cut; /* longer than max_response_bytes: the rest was refused */
    size_t reason_length;
    char reason[TRANSFER_REASON_BYTES + 1];
    size_t excerpt_length;
    char excerpt[TRANSFER_EXCERPT_BYTES + 1];
    char curl_error[CURL_ERROR_SIZE];

    DeliveryResult result;
    struct Transfer *previous; /* links of the engine's lists */
    struct Transfer *next;
} Transfer;

/* Makes the handle with all that is the same for every request. False with one line in error; nothing is kept then. */
bool transfer_open(Transfer *transfer, const DeliveryOptions *options, char *error, size_t error_size);

/* Sets up the next request and takes its body over. False with one line in error; nothing was taken over then. */
bool transfer_prepare(Transfer *transfer, DeliveryRequest *request, char *error, size_t error_size);

/* Fills in the result from what curl said (before the handle leaves the multi handle or after), and lets go of the
 * request. */
void transfer_finish(Transfer *transfer, CURLcode code, int64_t now_ms);

/* The same for a transfer that had to be given up for a reason of our own. */
void transfer_give_up(Transfer *transfer, const char *reason, int64_t now_ms);

/* Frees the handle and what belongs to a request that is still there. */
void transfer_close(Transfer *transfer);

#endif
