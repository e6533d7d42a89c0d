/*
 * The parts of `outbox start`, a publisher that is not in the server: what is to be sent and when is the server's
 * matter (its procedures publisher_open and publisher_step), how is the delivery engine's, one for each endpoint, as
 * in the server. All of it belongs to the main thread.
 */
#ifndef APAPACHO_CLI_START_H
#define APAPACHO_CLI_START_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

#include <poll.h>

#include "lib/delivery/exchange.h"
#include "lib/delivery/signature.h"
#include "session.h"

#define START_MOST_ENDPOINTS 32

int64_t start_clock_ms(void);

/* ---- What the environment says otherwise than the server's settings: start_environment.c ---- */

typedef struct Overrides {
    const char *publisher_type; /* NULL: as the server, as all others */
    const char *url;
    const char *batch_size;
    const char *max_retries;
    bool has_secret;
    SigningKeys keys;
} Overrides;

/* False: a variable cannot be used, and said so, without its value where that is a secret. */
bool overrides_read(Overrides *overrides);
void overrides_free(Overrides *overrides);

/* ---- Sending: start_send.c ---- */

/* A request from the server until its outcome is noted. */
typedef struct Parcel Parcel;

typedef struct Route {
    char *name;
    char *url;
    DeliveryEngine *engine;
    int concurrency;
    Parcel *first; /* of those that are not on their way yet */
    Parcel **last;
    int queued;
    int completed; /* since paced_ms */
    int64_t paced_ms;
    int ahead;  /* so many more than can be on their way are asked for */
    bool signs; /* by the environment's secret */
} Route;

typedef struct Sender {
    bool console;
    int count;
    Route routes[START_MOST_ENDPOINTS];
    const SigningKeys *keys;
    ExchangeWriter outcomes; /* that the server is to be told */
    int outcome_count;
    int64_t outcomes_since; /* when the first of them came */
    int warnings;           /* about failed requests, since sender_warn_again() */
} Sender;

/* Makes what publisher_open() has answered ready. False: this machine cannot, and said why. */
bool sender_open(Sender *sender, const Overrides *overrides, const char *answer, size_t length);

/* Ends all that is on its way, and frees everything. Harmless when it is not open. */
void sender_close(Sender *sender);

/* Takes so many requests of an answer of publisher_step(). False: it cannot be read. */
bool sender_take(Sender *sender, ExchangeReader *answer, int64_t count);

/* Notes from time to time how fast the receivers are. */
void sender_pace(Sender *sender);

/* Puts requests on their way while there is room for them. */
void sender_submit(Sender *sender);

/* Does what the network is ready for; outcomes are noted. */
void sender_run(Sender *sender);

/* What is not on its way goes back to the server. */
void sender_return_queued(Sender *sender);

int sender_in_flight(const Sender *sender);
int sender_queued(const Sender *sender);

/* Whether an endpoint would have room for a request that it has not got, or will have soon. */
bool sender_is_hungry(const Sender *sender);

/* How many requests an endpoint is to be given by the next call. */
int sender_wants(const Sender *sender, int endpoint);

/* The outcomes are the server's now. */
void sender_outcomes_sent(Sender *sender);

/* Descriptors to wait for, START_MOST_ENDPOINTS at most; *timeout_ms is lowered to what the engines need. */
int sender_poll(Sender *sender, struct pollfd *descriptors, long *timeout_ms);

void sender_warn_again(Sender *sender);

/* ---- The server: start_channel.c ---- */

/* The connection, and the call that it is at. */
typedef struct Channel {
    ConnInfo *info;
    Session session;
    bool pending; /* a call has not been answered yet */
    bool is_full; /* the network has not taken all of it */
    long wait_ms; /* so long the server may take its time with it */
} Channel;

/* What an answer of publisher_step() says besides its requests. */
typedef struct StepAnswer {
    PGresult *result; /* the message's memory */
    ExchangeReader requests;
    int64_t flags;
    bool at_rest; /* all that was begun is recorded */
    int64_t delivered;
    int64_t failed;
    int64_t count;
} StepAnswer;

/* How libpq is to notice a server that is gone, unless the user says otherwise. */
void channel_set_defaults(ConnInfo *info);

/* Connects and opens the publisher; *result has its answer. False: *failure says why, and nothing is left open. */
bool channel_open(Channel *channel, const Overrides *overrides, PGresult **result, Failure *failure);

/* Opens the publisher of the connection anew. */
bool channel_reopen(Channel *channel, const Overrides *overrides, PGresult **result, Failure *failure);

/* Sends a call; false: the connection is lost. */
bool channel_send(Channel *channel, const ExchangeWriter *call, long wait_ms, Failure *failure);

/* Takes what has come. False: *failure. `answer->result` is NULL while there is no answer yet. */
bool channel_take(Channel *channel, StepAnswer *answer, Failure *failure);

void channel_close(Channel *channel);

#endif
