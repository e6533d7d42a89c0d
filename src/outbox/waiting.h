/*
 * waiting.h: what waits for a retry, in memory, for a claim that looks at all pending events: it asks of each of them
 * whether it waits, and whether an earlier one of its aggregate does.
 *
 * That is what the claim's statement asks outbox_retry, row by row, where that is too large to be read (claim.c): at
 * five times the price, which 100,000 events that are stuck behind one make a second of every claim.
 */
#ifndef APAPACHO_OUTBOX_WAITING_H
#define APAPACHO_OUTBOX_WAITING_H

#include "postgres.h"

#include "utils/timestamp.h"

/* outbox_retry is read as long as it has no more pages: some ten thousand rows, and a few megabytes. */
#define WAITING_MOST_PAGES 256

typedef struct Waiting Waiting;

typedef enum WaitingState {
    WAITING_NOT,       /* it has not been tried */
    WAITING_LATER,     /* it waits for its time */
    WAITING_DUE,       /* its time has come */
    WAITING_FOR_OTHERS /* another endpoint than the default one is to have it now */
} WaitingState;

/*
 * Reads it, in the snapshot of the transaction at hand, as the owner of the events' table, which is named. Lives in the
 * current memory context.
 */
Waiting *waiting_read(const char *events);

WaitingState waiting_state(const Waiting *waiting, const char *id);

/*
 * Whether a pending event of that aggregate waits that is to go before one created at that time. `id`: of an event that
 * is itself in outbox_retry; NULL: it is not. One that has failed for good, or is gone, holds up nobody.
 */
bool waiting_is_before(const Waiting *waiting, const char *aggregate_type, const char *aggregate_id,
                       Timestamp created_at, const char *id);

#endif
