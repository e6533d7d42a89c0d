/*
 * webhook.h: the publisher `webhook`: posts events, many at once, each aggregate's in their order (spec section 6).
 */
#ifndef APAPACHO_OUTBOX_WEBHOOK_H
#define APAPACHO_OUTBOX_WEBHOOK_H

#include "outbox/hand.h"

/*
 * Makes the delivery engine ready with the settings of this moment: URL, secret, concurrency, timeout. Outside of any
 * transaction. `parts`: so many publishers divide the rate that is allowed. ERROR when there is no URL or the secret
 * cannot be used. To be followed by webhook_close() in any case.
 */
void webhook_open(int parts);

/* Puts ready events on their way while there is room for them. */
void webhook_send_ready(OutboxHand *hand);

/* Does what the network is ready for, and notes the outcomes. */
void webhook_run(OutboxHand *hand);

/* How many events are on their way; whether there is room for another one. */
int webhook_in_flight(void);
bool webhook_has_room(void);

/* Waits for the network or the process's latch, but no longer than so long. */
void webhook_wait(long timeout_ms);

/* Ends what is in flight, wipes the secret, frees everything. Harmless when nothing is open; also called at process
 * exit. */
void webhook_close(void);

#endif
