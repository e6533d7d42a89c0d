/*
 * helpers.h: further publishers, in background workers of their own, that a run of the outbox starts when there is a
 * lot to do (apapacho_jobs.outbox_workers). Each has a part of the slots (share.h). They belong to the run: they end
 * when there is nothing left for them, when the run ends, and with its process.
 */
#ifndef APAPACHO_OUTBOX_HELPERS_H
#define APAPACHO_OUTBOX_HELPERS_H

#include "postgres.h"

#include "server/job.h"

#define OUTBOX_MOST_WORKERS 16

/* Starts up to `count` of them for the slots of the run's seat, number 1 … of count + 1 parts. Returns how many came: 0
 * when no background worker is free. */
int helpers_start(const JobRun *run, int seat, int count);

/* Whether helper number `part` is there (or about to be); whether any is. */
bool helpers_has(int part);
bool helpers_any(void);

/* Asks them to send what they have in hand and to end. */
void helpers_ask_to_end(void);

/* In a helper: whether it has been asked to end. */
bool helpers_asked_to_end(void);

/* Cuts them off, and waits until they have ended. Harmless when there are none. */
void helpers_stop(void);

/* What the helpers of this process's run have done so far. */
void helpers_totals(int64 *delivered, int64 *failed);

#endif
