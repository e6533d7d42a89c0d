/*
 * The HTTP delivery engine: many POST requests at once, on libcurl's multi interface.
 *
 * Runs in the publisher's worker (and in the companion program), in one thread; an engine belongs to the process that
 * created it, lives outside of any transaction and is freed by one function. It never blocks and never longjmps: the
 * caller waits for delivery_engine_fd() (level triggered) for at most delivery_engine_timeout_ms(), calls
 * delivery_engine_run() and then takes the results.
 *
 * What counts as delivered: a complete answer with a 2xx status, or one whose body is longer than max_response_bytes
 * (the rest is not read and the connection is closed; the status line has said all that matters). A 2xx answer that
 * breaks off or is not complete at the deadline is a failure.
 */
#ifndef APAPACHO_DELIVERY_ENGINE_H
#define APAPACHO_DELIVERY_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "address.h"
#include "url.h"

/* The most requests that an engine may be asked to have in flight. */
#define DELIVERY_MAX_IN_FLIGHT 10000

/* An answer's header lines in all, in bytes; more is DELIVERY_ERROR_TOO_LARGE. */
#define DELIVERY_MAX_HEADER_BYTES 65536

/* The most of an answer's body that a result can carry. */
#define DELIVERY_EXCERPT_MAX 1024

typedef struct DeliveryEngine DeliveryEngine;

/* How an engine works; copied by delivery_engine_create, with all that it points to. Members from excerpt_bytes on may
 * be left zero. */
typedef struct DeliveryOptions {
    int max_in_flight;         /* 1 … DELIVERY_MAX_IN_FLIGHT; also the limit of connections, per host and kept open */
    long connect_timeout_ms;   /* > 0: name lookup, TCP and TLS */
    long total_timeout_ms;     /* > 0: from submission to the last byte of the answer */
    size_t max_response_bytes; /* of the answer's body */
    const char *user_agent;    /* NULL: no User-Agent header */
    bool verify_tls;           /* check certificate and host name */
    const char *ca_file;       /* PEM file of trusted authorities; NULL: the system's */

    size_t excerpt_bytes;           /* of the answer's body in a result; 0: none, DELIVERY_EXCERPT_MAX at most */
    bool fail_on_client_error;      /* 4xx other than 408, 425 and 429 is not to be retried (see verdict.h) */
    const AddressPolicy *addresses; /* checked for each connection; NULL: anything goes */
    const char *client_cert;        /* PEM file of the client's certificate (chain); NULL: none */
    const char *client_key;         /* PEM file of its key; NULL: in client_cert's file */
    bool http2;                     /* offer HTTP/2 to https servers, and share connections; false: HTTP/1.1 only */
} DeliveryOptions;

/* The TLS files of one request, in place of all three of the engine's; NULL members as in DeliveryOptions. */
typedef struct DeliveryTls {
    const char *ca_file;
    const char *client_cert;
    const char *client_key;
} DeliveryTls;

typedef struct DeliveryHeader {
    const char *name;  /* an RFC 9110 token */
    const char *value; /* no control characters; may be empty */
} DeliveryHeader;

/* One POST. Everything but the body is copied. */
typedef struct DeliveryRequest {
    const char *url;
    const DeliveryHeader *headers; /* must include Content-Type */
    int header_count;
    char *body; /* malloc'ed; the engine takes it over and frees it, and sets this pointer to NULL */
    size_t body_length;
    void *tag;              /* comes back in the result */
    const DeliveryTls *tls; /* NULL: as the engine */
} DeliveryRequest;

typedef enum DeliveryErrorClass {
    DELIVERY_ERROR_NONE,
    DELIVERY_ERROR_RESOLVE,     /* the host name has no address */
    DELIVERY_ERROR_CONNECT,     /* refused, unreachable */
    DELIVERY_ERROR_TLS,         /* handshake, certificate */
    DELIVERY_ERROR_TIMEOUT,     /* connect or total */
    DELIVERY_ERROR_PROTOCOL,    /* not HTTP, or broken off */
    DELIVERY_ERROR_HTTP_STATUS, /* a complete answer other than 2xx; redirects are not followed */
    DELIVERY_ERROR_TOO_LARGE,   /* endless header lines */
    DELIVERY_ERROR_OTHER,       /* out of memory and the like, on our side */
    DELIVERY_ERROR_BLOCKED,     /* no connection was tried: the policy allows none of the host's addresses */
} DeliveryErrorClass;

/*
 * Where a transfer's time went, in microseconds, phase by phase. 0: the phase did not happen or was not completed; a
 * connection that is used again has no lookup, connect and tls. What is missing from the sum of the phases was spent
 * waiting for our own turn, sending, reading the body, or in a phase that did not end.
 */
typedef struct DeliveryTimings {
    int64_t lookup_us;     /* the name lookup */
    int64_t connect_us;    /* TCP */
    int64_t tls_us;        /* the TLS handshake */
    int64_t first_byte_us; /* from the moment the request could be sent to the answer's first byte */
    int64_t total_us;      /* from submission to the end, by our own clock */
} DeliveryTimings;

typedef struct DeliveryResult {
    void *tag;
    bool delivered;
    bool retryable;   /* for failures; see verdict.h for those with a status, true for all others */
    long http_status; /* the final status, also of an answer that broke off; 0: none came */
    DeliveryErrorClass error_class;
    char error[256]; /* empty when delivered; else one line of printable ASCII without the URL's credentials and the
                      * request's body, with at most 100 bytes of the answer's text */
    long total_ms;   /* from submission to the end */

    bool gone;              /* 410: the receiver wants nothing any more */
    bool reused_connection; /* an earlier request had opened it */
    long retry_after_s; /* what Retry-After asked for, 0 … DELIVERY_RETRY_AFTER_MAX; -1: nothing that can be read */
    DeliveryTimings timings;
    char peer[ADDRESS_TEXT_SIZE]; /* "address:port" of the connection, or of the last one that was tried; or empty */
    char excerpt[DELIVERY_EXCERPT_MAX + 1]; /* the body's beginning as printable ASCII, excerpt_bytes at most */
} DeliveryResult;

/*
 * A new engine; NULL with one line in error. Calls curl_global_init: to be used after fork, in the worker itself, never
 * in the postmaster.
 */
DeliveryEngine *delivery_engine_create(const DeliveryOptions *options, char *error, size_t error_size);

/* Aborts what is in flight without results, and frees everything. NULL is fine. Does not wait for name lookups. */
void delivery_engine_destroy(DeliveryEngine *engine);

/* The epoll descriptor to wait for: readable when delivery_engine_run has something to do. Stays the same for life. */
int delivery_engine_fd(const DeliveryEngine *engine);

/* How many milliseconds the caller may wait for the descriptor at most; 0: not at all; -1: no limit. */
long delivery_engine_timeout_ms(DeliveryEngine *engine);

/*
 * Queues a request; the work is done by the next delivery_engine_run. False, with one line in error and nothing taken
 * over: max_in_flight requests are in flight already (compare delivery_engine_in_flight), the URL or a header is not
 * acceptable, or memory ran out.
 */
bool delivery_engine_submit(DeliveryEngine *engine, DeliveryRequest *request, char *error, size_t error_size);

/* Does all work that is ready and never blocks. */
void delivery_engine_run(DeliveryEngine *engine);

/* The next finished request's result, in the order in which they finished; false: none is waiting. */
bool delivery_engine_next_result(DeliveryEngine *engine, DeliveryResult *result);

/* Requests that were submitted and whose result has not been taken yet. */
int delivery_engine_in_flight(const DeliveryEngine *engine);

#endif
