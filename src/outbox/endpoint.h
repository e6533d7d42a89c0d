/*
 * endpoint.h: the receivers of events. The one named "default" is what the settings say; others are rows of the table
 * outbox_endpoint, which also has the state of each: paused by hand, stopped since it is gone, or left alone for a
 * while since it failed again and again (a circuit breaker). The state is written when it changes and read with every
 * claim, so that all publishers go by it.
 */
#ifndef APAPACHO_OUTBOX_ENDPOINT_H
#define APAPACHO_OUTBOX_ENDPOINT_H

#include "postgres.h"

#include "utils/timestamp.h"

#include "lib/delivery/engine.h"

#define OUTBOX_MOST_ENDPOINTS 32
#define OUTBOX_DEFAULT_ENDPOINT "default"

/* So many failures in a row that are the receiver's (it is not there, or overloaded) open the breaker. */
#define ENDPOINT_FAILURES 20

/* Headers of an endpoint's own. */
#define ENDPOINT_MOST_HEADERS 20

typedef enum EndpointState {
    ENDPOINT_CLOSED,  /* all is well */
    ENDPOINT_PROBING, /* it failed: one event is tried */
    ENDPOINT_OPEN,    /* it failed: nothing is sent until `probe_at` */
    ENDPOINT_PAUSED,  /* apapacho_outbox_pause() */
    ENDPOINT_STOPPED  /* it said 410 Gone */
} EndpointState;

typedef struct Endpoint {
    /* what it is; texts may be NULL where there is nothing to say */
    char *name;
    char *url;
    char *secret;                      /* wiped once the keys are derived */
    char *previous_secret;             /* the same */
    TimestampTz previous_secret_until; /* 0: no end */
    char *problem;                     /* why it cannot be used at all */
    char *types;                       /* a regular expression that its events' types match; NULL: all events */
    int rate_limit;                    /* requests a second; 0: no limit */
    int concurrency;
    int timeout_ms;
    DeliveryHeader headers[ENDPOINT_MOST_HEADERS];
    int header_count;
    char *ca_file;
    char *client_cert;
    char *client_key;
    bool is_trusted; /* its URL may name addresses that are not public */

    /* how it is */
    EndpointState state;
    TimestampTz probe_at;
    int failures;         /* in a row, since it last answered as one that is there */
    int64 answers;        /* that show that it is there */
    bool is_gone;         /* it says so */
    bool is_behind;       /* events that it is to have have been passed over: only claims of all see to it */
    char last_error[256]; /* of the latest failure; "" */
} Endpoint;

typedef struct EndpointSet {
    MemoryContext context;
    int count;
    Endpoint *all[OUTBOX_MOST_ENDPOINTS];
    bool is_simple; /* only the default one, which gets all events, and nothing is left of others */
    char *version;  /* of the definitions */
} EndpointSet;

/*
 * Reads them (in a transaction of its own): those that events go to, in the order of their names, the default one
 * first; ERROR when there is none. `console`: the default one alone, without the settings of webhooks. `probe_now`: one
 * whose breaker is open is probed whatever the time.
 */
EndpointSet *endpoints_load(MemoryContext parent, bool console, bool probe_now);

/*
 * Reads the state of each anew, within a transaction. False: definitions have changed since the set was loaded.
 * `usable` is set when one that could not be used can be now.
 */
bool endpoints_refresh(EndpointSet *set, bool *usable);

/* Whether events may be sent there; whether to any of them. */
bool endpoint_is_usable(const Endpoint *endpoint);
bool endpoints_usable(const EndpointSet *set);

/* When the first one whose breaker is open is to be probed; 0: none is. */
TimestampTz endpoints_next_probe(const EndpointSet *set);

/* Notes what an outcome says about the receiver: it is there, it is not (or cannot cope), it is gone for good. */
void endpoint_note(Endpoint *endpoint, bool there, bool gone);

/* Each writes the state in a transaction of its own, logs it, and changes *endpoint. */
void endpoint_opened(Endpoint *endpoint);
void endpoint_closed(Endpoint *endpoint);
void endpoint_stopped(Endpoint *endpoint);

#endif
