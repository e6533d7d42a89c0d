/*
 * One POST of the delivery engine: its curl handle, what is read of the answer, and the result. Internal to
 * src/lib/delivery; engine.c drives transfers and owns them.
 */
#ifndef APAPACHO_DELIVERY_TRANSFER_H
#define APAPACHO_DELIVERY_TRANSFER_H

#include <stdint.h>

#include <curl/curl.h>

#include "engine.h"
#include "sockets.h"

/* Of the answer's body and of the status line's reason, in a result's error. */
#define TRANSFER_EXCERPT_BYTES 100
#define TRANSFER_REASON_BYTES 60

/* A Retry-After value that is longer cannot be a good one. */
#define TRANSFER_RETRY_AFTER_BYTES 63

typedef struct Transfer {
    CURL *easy;                     /* used for one request after another; NULL until the first one */
    const DeliveryOptions *options; /* the engine's */
    SocketSet *sockets;             /* the engine's */
    char *url;                      /* that the handle is set to; NULL: none yet */
    char *tls;                      /* the names of the request's own TLS files that it is set to; NULL: the engine's */

    /* the request */
    struct curl_slist *headers; /* one block of memory with all lines */
    char *body;
    int64_t started_us; /* monotonic clock */
    int64_t deadline_us;

    /* the connections that curl asked for */
    int opened;
    char blocked[128]; /* the first address that the policy refused, and why; empty: none */

    /* the answer as far as it was read */
    size_t header_bytes;
    size_t body_bytes;
    bool headers_too_large;
    bool body_cut; /* longer than max_response_bytes: the rest was refused */
    size_t reason_length;
    char reason[TRANSFER_REASON_BYTES + 1];
    size_t retry_after_length;
    char retry_after[TRANSFER_RETRY_AFTER_BYTES + 1];
    size_t excerpt_length; /* of result.excerpt, which keeps TRANSFER_EXCERPT_BYTES at least until the end */
    char curl_error[CURL_ERROR_SIZE];

    DeliveryResult result;
    struct Transfer *previous; /* links of the engine's lists */
    struct Transfer *next;
} Transfer;

/* ---- transfer.c: the request ---- */

/*
 * Makes the handle with all that is the same for every request. options must live as long as the transfer, sockets as
 * long as the multi handle. False with one line in error; nothing is kept then.
 */
bool transfer_open(Transfer *transfer, const DeliveryOptions *options, SocketSet *sockets, char *error,
                   size_t error_size);

/* Sets up the next request and takes its body over. False with one line in error; nothing was taken over then. */
bool transfer_prepare(Transfer *transfer, DeliveryRequest *request, char *error, size_t error_size);

/* Lets go of the request's body and headers, when the handle does not need them any more. */
void transfer_release(Transfer *transfer);

/* Frees the handle and what belongs to a request that is still there. */
void transfer_close(Transfer *transfer);

/* ---- answer.c: what came back ---- */

/* CURLOPT_HEADERFUNCTION and CURLOPT_WRITEFUNCTION; context is the Transfer. */
size_t transfer_read_header(char *line, size_t size, size_t count, void *context);
size_t transfer_read_body(char *bytes, size_t size, size_t count, void *context);

/* Forgets the answer of the request before. */
void transfer_expect_answer(Transfer *transfer, void *tag);

/* Fills in the result from what curl said (before the handle leaves the multi handle or after), and lets go of the
 * request. */
void transfer_finish(Transfer *transfer, CURLcode code, int64_t now_us);

/* The same for a transfer that had to be given up for a reason of our own. */
void transfer_give_up(Transfer *transfer, const char *reason, int64_t now_us);

#endif
