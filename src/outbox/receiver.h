/*
 * receiver.h: an endpoint that events are being sent to, by an engine of this process's or by a program elsewhere: its
 * keys, the rate that it is allowed, what is counted of it, and what its answers mean.
 */
#ifndef APAPACHO_OUTBOX_RECEIVER_H
#define APAPACHO_OUTBOX_RECEIVER_H

#include "outbox/hand.h"
#include "outbox/request.h"
#include "server/counters.h"

typedef struct Receiver {
    Endpoint *endpoint;
    RequestKeys keys;
    OutboxCounters *counters;
    uint32 in_flight; /* as it is counted there */
    int seat;         /* of the publisher, which is */
    int parts;        /* of so many parts, among which it divides its rate */
    double rate;      /* requests a second, as of divided_ms; 0: no limit */
    double divided_ms;
    double allowance; /* requests that may be sent by it, as of rate_ms */
    double rate_ms;
} Receiver;

/* Who sends: see Receiver. */
typedef struct ReceiverShare {
    int seat;
    int parts;
} ReceiverShare;

/*
 * Makes it ready. ERROR when the default endpoint cannot be used; what is wrong with another one is noted as its
 * problem. To be followed by receiver_close(), which wipes the keys.
 */
void receiver_open(Receiver *receiver, Endpoint *endpoint, ReceiverShare share);
void receiver_close(Receiver *receiver);

/* Milliseconds until the rate allows another request; 0: it does. receiver_spend() takes one. */
long receiver_until_rate_allows(Receiver *receiver);
void receiver_spend(Receiver *receiver);

/* So many requests are on their way now. */
void receiver_count_in_flight(Receiver *receiver, int in_flight);

/* Notes what came of a target's request. */
void receiver_take_result(Receiver *receiver, OutboxHand *hand, OutboxTarget *target, const DeliveryResult *result);

#endif
