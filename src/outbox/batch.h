/*
 * batch.h: the events that a publisher's run has in hand, from the claim to the record.
 *
 * A batch lives in a memory context of its own, outside of any transaction; publisher.c makes it and deletes it. The
 * publishers (console, webhook) only move events from OUTBOX_CLAIMED to another state, by outbox_delivered() and
 * outbox_failed(); outbox_record() writes down what has happened since the last time.
 */
#ifndef APAPACHO_OUTBOX_BATCH_H
#define APAPACHO_OUTBOX_BATCH_H

#include "postgres.h"

#include "storage/itemptr.h"
#include "utils/timestamp.h"

#include "lib/delivery/message.h"

/* Sizes of a claim: payload bytes at which it stops, and events at which it stops whatever was asked for. */
#define OUTBOX_CLAIM_BYTES (16 * 1024 * 1024)
#define OUTBOX_CLAIM_EVENTS 10000

typedef enum OutboxEventState {
    OUTBOX_CLAIMED, /* not tried, or on its way; stays as it is in the table */
    OUTBOX_DELIVERED,
    OUTBOX_FAILED
} OutboxEventState;

typedef struct OutboxEvent {
    OutboxEventState state;
    char *id; /* in the database's encoding, for SQL and the log */
    char *aggregate_type;
    char *aggregate_id;
    char *type;
    Timestamp created_at;
    int retry_count; /* attempts that failed before this one */
    bool has_retry_row;
    ItemPointerData place; /* where the row was when it was claimed */
    MessageFields message; /* the same in UTF-8, with payload and time, for the wire */
    const char *problem;   /* why it cannot be sent at all; NULL: it can */
    int successor;         /* the next event of the same aggregate in the batch, -1: none */
    bool is_first;         /* of its aggregate in the batch */
    bool is_final;         /* failed for good */
    char *error;           /* of a failed event: one short printable line */
} OutboxEvent;

typedef struct OutboxBatch {
    MemoryContext context;
    OutboxEvent *events; /* in the order in which they are to go out */
    int count;
    int *finished; /* the events (their indexes) whose outcome has not been recorded yet */
    int finished_count;
    int delivered_count; /* in the whole batch, recorded or not */
    int failed_count;
    int recorded_count; /* rows that were changed by that */
} OutboxBatch;

/*
 * Reads up to `limit` due events (in one transaction of its own, which has ended on return): pending, not waiting for a
 * retry, and with no earlier event of their aggregate waiting for one. Allocated in `context`. count may be 0.
 */
OutboxBatch *outbox_claim(MemoryContext context, int limit);

/* Notes an outcome; `error` is copied. `is_final`: no other attempt is to be made, whatever the settings say. */
void outbox_delivered(OutboxBatch *batch, int index);
void outbox_failed(OutboxBatch *batch, int index, const char *error, bool is_final);

/*
 * Writes the noted outcomes down in one transaction of its own; when there are none, does nothing. When the run is
 * cancelled (a shutdown is that too) in the middle of it, it is done again, waiting for locks no more than a moment,
 * before the ERROR goes on: what was delivered is not to be sent again.
 */
void outbox_record(OutboxBatch *batch);

/* CHECK_FOR_INTERRUPTS() with a batch in hand: a cancellation is obeyed after the noted outcomes are written down. */
void outbox_check_interrupts(OutboxBatch *batch);

/*
 * Until AtEOXact_GUC(true, the result) the planner walks indexes where there are any: the tables' statistics are not to
 * be relied upon, since an outbox is empty at one moment and full at the next. Not around statements that fire triggers
 * of the user's.
 */
int outbox_plan_by_index(void);

/*
 * Text that is safe in a header's value and in a log line: bytes outside of printable ASCII, and blanks at either end,
 * are percent-encoded; all else (% too) stays as it is. Palloc'ed in the current context.
 */
char *outbox_printable(const char *text);

#endif
