/*
 * webhook.h: the publisher `webhook`: posts events, many at once, each aggregate's in their order (spec section 6).
 */
#ifndef APAPACHO_OUTBOX_WEBHOOK_H
#define APAPACHO_OUTBOX_WEBHOOK_H

#include "outbox/hand.h"
#include "outbox/receiver.h"

/*
 * Makes a delivery engine ready for each endpoint of the set, which must live until webhook_close(). Outside of any
 * transaction. ERROR when the default endpoint cannot be
 * used; what is wrong with another one is noted as its problem. To be followed by webhook_close() in any case.
 */
void webhook_open(EndpointSet *endpoints, ReceiverShare share);

/* Puts what is ready on its way while there is room for it. */
void webhook_send_ready(OutboxHand *hand);

/* Does what the network is ready for, and notes the outcomes. */
void webhook_run(OutboxHand *hand);

/* How many requests are on their way; whether an endpoint has room for another one. */
int webhook_in_flight(void);
bool webhook_has_room(int endpoint);

/* Waits for the network or the process's latch, but no longer than so long. */
void webhook_wait(const OutboxHand *hand, long timeout_ms);

/* Ends what is in flight, wipes the secrets, frees everything. Harmless when nothing is open; also called at process
 * exit. */
void webhook_close(void);

#endif
