/*
 * endpoint.h: the state of a receiver of events: paused by hand, stopped since it is gone, or left alone for a while
 * since it failed again and again (a circuit breaker). It is kept in the table outbox_endpoint, which is written when
 * it changes and read when a publisher begins, so that all publishers go by it.
 */
#ifndef APAPACHO_OUTBOX_ENDPOINT_H
#define APAPACHO_OUTBOX_ENDPOINT_H

#include "postgres.h"

#include "utils/timestamp.h"

/* So many failures in a row that are the receiver's (it is not there, or overloaded) open the breaker. */
#define ENDPOINT_FAILURES 20

typedef enum EndpointState {
    ENDPOINT_CLOSED,  /* all is well */
    ENDPOINT_PROBING, /* it failed: one event is tried */
    ENDPOINT_OPEN,    /* it failed: nothing is sent until `probe_at` */
    ENDPOINT_PAUSED,  /* apapacho_outbox_pause() */
    ENDPOINT_STOPPED  /* it said 410 Gone */
} EndpointState;

typedef struct Endpoint {
    EndpointState state;
    TimestampTz probe_at;
} Endpoint;

/* Reads the state, in a transaction of its own. `probe_now`: one that is open is probed whatever the time. */
void endpoint_load(Endpoint *endpoint, bool probe_now);

/* Each writes the state in a transaction of its own, logs it, and changes *endpoint. `error`: what the receiver did
 * last. */
void endpoint_opened(Endpoint *endpoint, const char *error);
void endpoint_closed(Endpoint *endpoint);
void endpoint_stopped(Endpoint *endpoint, const char *error);

#endif
