/*
 * webhook.h: the publisher `webhook`: posts events, many at once, each aggregate's in their order (spec section 6).
 */
#ifndef APAPACHO_OUTBOX_WEBHOOK_H
#define APAPACHO_OUTBOX_WEBHOOK_H

#include "outbox/batch.h"
#include "server/job.h"

/*
 * Makes the delivery engine ready with the settings of this moment: URL, secret, concurrency, timeout. Outside of any
 * transaction. ERROR when there is no URL or the secret cannot be used. To be followed by webhook_close() in any case.
 */
void webhook_open(void);

/*
 * Sends the batch and records the outcomes as they come. Returns when every event that could be sent has its outcome;
 * the successors of events that failed stay as they were claimed. Earlier when the run should stop (*stopped is set
 * then): what is on its way is waited for, nothing else is begun.
 */
void webhook_publish(OutboxBatch *batch, const JobRun *run, bool *stopped);

/* Ends what is in flight, wipes the secret, frees everything. Harmless when nothing is open; also called at process
 * exit. */
void webhook_close(void);

#endif
