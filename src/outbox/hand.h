/*
 * hand.h: the events that a publisher has in hand, from the claim to the record.
 *
 * A publisher's run has one hand. Events come by claims and leave one by one, each with its memory, so that what a slow
 * receiver keeps waiting holds up nothing else. All of it lives outside of transactions.
 *
 * An event has targets: the endpoints that are still to have it. A target is on its way (or about to be) until the
 * event is delivered there, has failed there, or is put off, which is to leave it for a later claim. Those of one
 * aggregate at one endpoint follow each other: a target is ready when its predecessor in hand was delivered; when that
 * failed or was put off, it is put off too. An event leaves the hand when none of its targets is on its way any more
 * and what became of them is recorded; one that was put off everywhere stays in the table as it was.
 */
#ifndef APAPACHO_OUTBOX_HAND_H
#define APAPACHO_OUTBOX_HAND_H

#include "postgres.h"

#include "common/hashfn.h"
#include "lib/ilist.h"
#include "storage/itemptr.h"
#include "utils/hsearch.h"
#include "utils/timestamp.h"

#include "lib/delivery/message.h"
#include "outbox/endpoint.h"

/* What a hand holds at most: payload bytes at which a claim stops, and events. */
#define OUTBOX_HAND_BYTES (16 * 1024 * 1024)
#define OUTBOX_HAND_EVENTS 10000

/* Few and short: a run's result is handed on in shared memory. */
#define OUTBOX_REPORTED_ERRORS 3

typedef enum OutboxTargetState {
    OUTBOX_LAGGING, /* not to be sent now: left for a later claim */
    OUTBOX_CLAIMED, /* to be sent, or on its way */
    OUTBOX_DELIVERED,
    OUTBOX_FAILED
} OutboxTargetState;

/* Events and aggregates are told apart by hashes: of an event's id, of an aggregate's type and id. */
static inline uint64
outbox_hash(const char *text)
{
    return hash_bytes_extended((const unsigned char *)text, (int)strlen(text), 0);
}

static inline uint64
outbox_hash_aggregate(const char *type, const char *id)
{
    return hash_combine64(outbox_hash(type), outbox_hash(id));
}

typedef struct OutboxAttempt OutboxAttempt;
typedef struct OutboxEvent OutboxEvent;

/* An event at one of the endpoints that are still to have it. */
typedef struct OutboxTarget {
    OutboxEvent *event;
    int endpoint; /* its number in the hand's set */
    OutboxTargetState state;
    bool has_row;                   /* in outbox_retry */
    int attempts;                   /* that failed before this one */
    struct OutboxTarget *successor; /* the next one of the aggregate in hand, at the same endpoint */
    dlist_node ready;               /* in the endpoint's queue, while it is ready and not yet taken */
    OutboxAttempt *attempt;         /* what is to be logged of the attempt; NULL: nothing (attempt.h) */
    long retry_after_s;             /* of a failure: how long the receiver wants to be left alone; -1: not said */
    bool is_final;                  /* failed for good */
    char *error;                    /* of a failure: one short printable line */
} OutboxTarget;

struct OutboxEvent {
    char *id; /* in the database's encoding, for SQL and the log */
    char *aggregate_type;
    char *aggregate_id;
    char *type;
    uint64 aggregate; /* a hash of type and id; two aggregates that share it go out one after the other, which harms
                         nobody */
    Timestamp created_at;
    int retry_count;         /* as the table has it */
    bool has_rows;           /* in outbox_retry: what those do not name has been delivered */
    bool has_failed;         /* for good, at another endpoint */
    bool was_tried;          /* a target has been delivered, or has failed */
    ItemPointerData place;   /* where the row was when it was claimed */
    MessageFields message;   /* the same in UTF-8, with payload and time, for the wire */
    const char *problem;     /* why it cannot be sent at all; NULL: it can */
    size_t bytes;            /* of its texts */
    const char *traceparent; /* W3C Trace Context, from the payload; NULL: none */
    int open;                /* targets that are to be sent or on their way */
    int target_count;
    OutboxTarget targets[FLEXIBLE_ARRAY_MEMBER];
};

/* What is to go to an endpoint. */
typedef struct HandQueue {
    dlist_head ready; /* targets that may be sent now */
    int ready_count;
    int count; /* targets in hand that are to be sent or on their way; and their bytes */
    size_t bytes;
    int room;         /* so many more may come; set before a claim */
    bool was_put_off; /* since it was last set to false a target was put off for want of room */
} HandQueue;

typedef struct OutboxHand {
    MemoryContext context; /* everything that is in hand */
    MemoryContext scratch; /* may be reset at any time */
    EndpointSet *endpoints;
    bool ordered;     /* apapacho_jobs.outbox_order when it was made */
    HTAB *ids;        /* the events in hand, by a hash of their ids */
    HTAB *unmarked;   /* events that were delivered, but perhaps not marked as such; by a hash of their ids */
    HTAB *aggregates; /* what is in hand of each aggregate at each endpoint */
    int count;
    size_t bytes;
    HandQueue queues[OUTBOX_MOST_ENDPOINTS]; /* by the endpoint's number */
    int ready_count;                         /* in all of them */
    OutboxEvent **finished;                  /* whose outcome has not been recorded yet */
    int finished_count;

    /* In the whole run */
    int64 claimed_count;
    int64 delivered_count; /* events that all of their endpoints have */
    int64 failed_count;    /* events of which an attempt failed */
    bool sent_again;       /* what was delivered has been claimed again */
    bool has_followers; /* events may be due that were not when the others were claimed: their predecessor is done with
                         */
    Timestamp followers_since; /* which are not older than this, and are to go before later ones; DT_NOEND: none since
                                  the last claim */
    char *errors[OUTBOX_REPORTED_ERRORS];
    int error_count;
} OutboxHand;

/* A hand for what goes to the endpoints of a set. */
OutboxHand *hand_create(MemoryContext parent, EndpointSet *endpoints);

/* Whether the event of that id is in hand. */
bool hand_has(const OutboxHand *hand, const char *id);

/*
 * Takes an event, which is allocated in the hand's context as its texts are, into the hand. In their order. Of its
 * targets those that are OUTBOX_CLAIMED are to be sent; they become OUTBOX_LAGGING where there is no room. Returns
 * whether anything of it is to be done; otherwise it has left the hand already.
 */
bool hand_add(OutboxHand *hand, OutboxEvent *event);

/* Frees an event that is not in hand. */
void outbox_event_free(OutboxEvent *event);

/* The target at an endpoint that has been ready longest, which is not ready any more then; NULL: none. */
OutboxTarget *hand_take_ready(OutboxHand *hand, int endpoint);

/* Puts off a target that was on its way, and what would follow it. */
void hand_put_off(OutboxHand *hand, OutboxTarget *target);

/* Puts off all that is ready for an endpoint, and what would follow it: nothing else is to be sent there. */
void hand_put_off_ready(OutboxHand *hand, int endpoint);

/*
 * The outcome of every event in `finished` has been recorded: they leave the hand. `all_marked`: no delivered one was
 * missing in the table; otherwise `sent_again` is set when one of them is claimed once more, since it would be for
 * ever.
 */
void hand_drop_finished(OutboxHand *hand, bool all_marked);

/* Notes an outcome; `error` is copied. `is_final`: no other attempt is to be made, whatever the settings say. */
void outbox_delivered(OutboxHand *hand, OutboxTarget *target);
void outbox_failed(OutboxHand *hand, OutboxTarget *target, const char *error, bool is_final);

/* The outcome of an event, noted before, could not be recorded: it counts as failed, and not for good. */
void hand_note_unrecorded(OutboxHand *hand, OutboxEvent *event, const char *error);

/* What is left of an event whose targets are all done with: whether an endpoint is still to have it, or one never will.
 * Neither: it is published. */
bool outbox_event_is_left(const OutboxEvent *event);
bool outbox_event_has_failed(const OutboxEvent *event);

/* What a claim has found. */
typedef struct OutboxClaim {
    int count;            /* of events that are in hand now */
    bool more;            /* there may be others */
    Timestamp seen;       /* whatever was to be seen up to that time has been */
    bool is_usable_again; /* an endpoint that could not be used can be now; not in this claim */
    bool outdated;        /* the endpoints have changed: nothing was taken, the set is to be loaded anew */
} OutboxClaim;

/*
 * Reads up to `limit` due events (in one transaction of its own, which has ended on return) into the hand: pending, not
 * in hand, and for an endpoint that has room due: not waiting there for a retry, and with no earlier event of their
 * aggregate waiting there. Those from `from` on (by "createdAt", DT_NOBEGIN: all). All outcomes must have been
 * recorded. The state of the endpoints is read too.
 */
OutboxClaim outbox_claim(OutboxHand *hand, int limit, Timestamp from);

#define OUTBOX_MOST_TRANSACTIONS 1000

/* The transactions of this database that were open at some time, but for our own. */
typedef struct OpenTransactions {
    bool known; /* false: they cannot be told (some are prepared, or hidden, or there are too many) */
    TimestampTz at;
    int count;
    int pids[OUTBOX_MOST_TRANSACTIONS];
    TimestampTz started_at[OUTBOX_MOST_TRANSACTIONS];
} OpenTransactions;

void outbox_list_transactions(OpenTransactions *list);

/*
 * What has been committed between two lists, and has a default "createdAt", is not older than this (as long as the
 * clocks agree): when the oldest of the transactions began that have ended since the first one was made, or when it was
 * made. DT_NOBEGIN: that cannot be told.
 */
TimestampTz outbox_oldest_ended(const OpenTransactions *before, const OpenTransactions *now);

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
