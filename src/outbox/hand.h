/*
 * hand.h: the events that a publisher has in hand, from the claim to the record.
 *
 * A publisher's run has one hand. Events come by claims and leave one by one, each with its memory, so that what a slow
 * receiver keeps waiting holds up nothing else. All of it lives outside of transactions.
 *
 * An event in hand is on its way (or about to be) until it is delivered, has failed, or is put back, which is to leave
 * it in the table as it was. Those of one aggregate follow each other: an event is ready when its predecessor in hand
 * was delivered; when that failed, it is put back.
 */
#ifndef APAPACHO_OUTBOX_HAND_H
#define APAPACHO_OUTBOX_HAND_H

#include "postgres.h"

#include "lib/ilist.h"
#include "storage/itemptr.h"
#include "utils/hsearch.h"
#include "utils/timestamp.h"

#include "lib/delivery/message.h"

/* What a hand holds at most: payload bytes at which a claim stops, and events. */
#define OUTBOX_HAND_BYTES (16 * 1024 * 1024)
#define OUTBOX_HAND_EVENTS 10000

/* Few and short: a run's result is handed on in shared memory. */
#define OUTBOX_REPORTED_ERRORS 3

typedef enum OutboxEventState {
    OUTBOX_CLAIMED, /* not tried, or on its way; stays as it is in the table */
    OUTBOX_DELIVERED,
    OUTBOX_FAILED
} OutboxEventState;

typedef struct OutboxAttempt OutboxAttempt;

typedef struct OutboxEvent {
    OutboxEventState state;
    char *id; /* in the database's encoding, for SQL and the log */
    char *aggregate_type;
    char *aggregate_id;
    char *type;
    uint64 aggregate; /* a hash of type and id; two aggregates that share it go out one after the other, which harms
                         nobody */
    Timestamp created_at;
    int retry_count; /* attempts that failed before this one */
    bool has_retry_row;
    ItemPointerData place;         /* where the row was when it was claimed */
    MessageFields message;         /* the same in UTF-8, with payload and time, for the wire */
    const char *problem;           /* why it cannot be sent at all; NULL: it can */
    struct OutboxEvent *successor; /* the next one of the aggregate in hand */
    dlist_node ready;              /* in the hand's queue, while it is ready and not yet taken */
    size_t bytes;                  /* of its texts */
    const char *traceparent;       /* W3C Trace Context, from the payload; NULL: none */
    OutboxAttempt *attempt;        /* what is to be logged of the attempt; NULL: nothing (attempt.h) */
    long retry_after_s;            /* of a failed event: how long the receiver wants to be left alone; -1: not said */
    bool is_final;                 /* failed for good */
    char *error;                   /* of a failed event: one short printable line */
} OutboxEvent;

typedef struct OutboxHand {
    MemoryContext context; /* everything that is in hand */
    MemoryContext scratch; /* may be reset at any time */
    HTAB *ids;             /* the events in hand, by a hash of their ids */
    HTAB *unmarked;        /* events that were delivered, but perhaps not marked as such; by a hash of their ids */
    HTAB *tails;           /* of each aggregate the last one in hand */
    int count;
    size_t bytes;
    dlist_head ready; /* may be sent now */
    int ready_count;
    OutboxEvent **finished; /* whose outcome has not been recorded yet */
    int finished_count;

    /* In the whole run */
    int64 claimed_count;
    int64 delivered_count;
    int64 failed_count;
    bool sent_again;    /* what was delivered has been claimed again */
    bool has_followers; /* events may be due that were not when the others were claimed: their predecessor is done with
                         */
    int receiver_failures;  /* in a row, since the receiver last answered as one that is there */
    int64 receiver_answers; /* that show that it is there */
    bool receiver_gone;     /* it says so */
    char last_error[256];   /* of the latest failure; "" */
    char *errors[OUTBOX_REPORTED_ERRORS];
    int error_count;
} OutboxHand;

OutboxHand *hand_create(MemoryContext parent);

/* Whether the event of that id is in hand. */
bool hand_has(const OutboxHand *hand, const char *id);

/* Takes an event, which is allocated in the hand's context as its texts are, into the hand. In their order. */
void hand_add(OutboxHand *hand, OutboxEvent *event);

/* Frees an event that is not in hand. */
void outbox_event_free(OutboxEvent *event);

/* The event that has been ready longest, which is not ready any more then; NULL: none. */
OutboxEvent *hand_take_ready(OutboxHand *hand);

/* Puts back an event that was on its way, and what would follow it: the table keeps it as it was. */
void hand_put_back(OutboxHand *hand, OutboxEvent *event);

/* Puts back all that is ready and what would follow it: nothing else is to be sent. */
void hand_put_back_ready(OutboxHand *hand);

/*
 * The outcome of every event in `finished` has been recorded: they leave the hand. `all_marked`: no delivered one was
 * missing in the table; otherwise `sent_again` is set when one of them is claimed once more, since it would be for
 * ever.
 */
void hand_drop_finished(OutboxHand *hand, bool all_marked);

/* Notes an outcome; `error` is copied. `is_final`: no other attempt is to be made, whatever the settings say. */
void outbox_delivered(OutboxHand *hand, OutboxEvent *event);
void outbox_failed(OutboxHand *hand, OutboxEvent *event, const char *error, bool is_final);

/* The outcome of an event, noted before, could not be recorded: it counts as failed, and not for good. */
void hand_note_unrecorded(OutboxHand *hand, OutboxEvent *event, const char *error);

/* Notes what an outcome says about the receiver: it is there, it is not (or cannot cope), it is gone for good. */
void hand_note_receiver(OutboxHand *hand, bool there, bool gone);

/*
 * Reads up to `limit` due events (in one transaction of its own, which has ended on return) into the hand: pending, not
 * in hand, not waiting for a retry, and with no earlier event of their aggregate waiting for one. Those from `from` on
 * (by "createdAt", DT_NOBEGIN: all). All outcomes must have been recorded. Returns how many there were; *more: there
 * may be more of them; *seen: whatever was to be seen up to that time has been.
 */
int outbox_claim(OutboxHand *hand, int limit, Timestamp from, Timestamp *seen, bool *more);

/*
 * When the oldest transaction of this database that is open began, the present if there is none: what is committed
 * after this and has a default "createdAt" is not older. DT_NOBEGIN: that cannot be told, there are prepared ones.
 */
TimestampTz outbox_oldest_writer(void);

/*
 * Writes the noted outcomes down in one transaction of its own; when there are none, does nothing. When the run is
 * cancelled (a shutdown is that too) in the middle of it, it is done again, waiting for locks no more than a moment,
 * before the ERROR goes on: what was delivered is not to be sent again.
 */
void outbox_record(OutboxHand *hand);

/* CHECK_FOR_INTERRUPTS() with events in hand: a cancellation is obeyed after the noted outcomes are written down. */
void outbox_check_interrupts(OutboxHand *hand);

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
