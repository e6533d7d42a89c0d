/*
 * left_over.h: runs that earlier ones and other processes have left behind. Parts of a scheduler's step.
 */
#ifndef APAPACHO_LEFT_OVER_H
#define APAPACHO_LEFT_OVER_H

#include "postgres.h"

#include "utils/timestamp.h"

#include "scheduler/claims.h"

/* Runs may have lost their process: the history is to be corrected. */
void left_over_note_lost(void);

/* Whether there is, or may be, something to settle. */
bool left_over_any(void);

/* What ended without being written down, by a worker that could not, goes into the ledger. Whether any is to be tried
 * again. */
bool left_over_collect(void);

/*
 * Corrects the history of runs whose process is gone; then what they left can be taken up, and what was taken and has
 * not begun is dispatched. Whether any may be to be tried again.
 */
bool left_over_settle(TimestampTz now);

/* Dispatches what has been claimed. What cannot be, also for an ERROR on the way, is found as queued in the history. */
void left_over_dispatch(const Claims *claims);

#endif
