/*
 * hand.c: the events that a publisher has in hand: which may be sent now, which has to wait for which, and when their
 * memory can go. Runs in a publisher, outside of transactions; everything belongs to the hand.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "utils/memutils.h"

#include "outbox/attempt.h"
#include "outbox/hand.h"
#include "server/delivery_settings.h"
#include "server/settings.h"

#define SHORT_ERROR_BYTES 500
#define MOST_UNMARKED 100000 /* somebody else deletes or publishes them as they go out: no more are kept track of */

typedef struct HandId {
    uint64 hash; /* of the id; an event that shares it with another one waits until that has gone */
} HandId;

typedef struct AggregateTail {
    uint64 aggregate;
    OutboxEvent *last;
} AggregateTail;

static uint64
hash_text(const char *text)
{
    return hash_bytes_extended((const unsigned char *)text, (int)strlen(text), 0);
}

OutboxHand *
hand_create(MemoryContext parent)
{
    MemoryContext context = AllocSetContextCreate(parent, "outbox hand", ALLOCSET_DEFAULT_SIZES);
    OutboxHand *hand = MemoryContextAllocZero(context, sizeof(OutboxHand));
    HASHCTL ids = {.keysize = sizeof(uint64), .entrysize = sizeof(HandId), .hcxt = context};
    HASHCTL unmarked = {.keysize = sizeof(uint64), .entrysize = sizeof(HandId), .hcxt = context};
    HASHCTL tails = {.keysize = sizeof(uint64), .entrysize = sizeof(AggregateTail), .hcxt = context};

    hand->context = context;
    hand->scratch = AllocSetContextCreate(context, "outbox scratch", ALLOCSET_SMALL_SIZES);
    hand->ids = hash_create("outbox events", 1024, &ids, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
    hand->unmarked = hash_create("outbox events not marked", 64, &unmarked, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
    hand->tails = hash_create("outbox aggregates", 1024, &tails, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
    hand->finished = MemoryContextAlloc(context, sizeof(OutboxEvent *) * (OUTBOX_HAND_EVENTS + 1000));
    dlist_init(&hand->ready);
    return hand;
}

bool
hand_has(const OutboxHand *hand, const char *id)
{
    uint64 hash = hash_text(id);

    return hash_search(hand->ids, &hash, HASH_FIND, NULL) != NULL;
}

static void
make_ready(OutboxHand *hand, OutboxEvent *event)
{
    dlist_push_tail(&hand->ready, &event->ready);
    hand->ready_count++;
}

static void
free_text(const char *text)
{
    if (text != NULL)
        pfree((char *)text);
}

void
outbox_event_free(OutboxEvent *event)
{
    MessageFields *message = &event->message;

    /* the wire's texts are the database's where that is in UTF-8 */
    if (message->id != event->id)
        free_text(message->id);
    if (message->type != event->type)
        free_text(message->type);
    if (message->aggregate_type != event->aggregate_type)
        free_text(message->aggregate_type);
    if (message->aggregate_id != event->aggregate_id)
        free_text(message->aggregate_id);
    free_text(message->payload);
    free_text(message->occurred_at);
    free_text(event->id);
    free_text(event->type);
    free_text(event->aggregate_type);
    free_text(event->aggregate_id);
    free_text(event->error);
    free_text(event->traceparent);
    attempt_free(event->attempt);
    pfree(event);
}

/* The event leaves the hand. */
static void
drop(OutboxHand *hand, OutboxEvent *event)
{
    uint64 hash = hash_text(event->id);
    AggregateTail *tail = hash_search(hand->tails, &event->aggregate, HASH_FIND, NULL);

    (void)hash_search(hand->ids, &hash, HASH_REMOVE, NULL);
    if (tail != NULL && tail->last == event)
        (void)hash_search(hand->tails, &event->aggregate, HASH_REMOVE, NULL);
    hand->count--;
    hand->bytes -= event->bytes;
    outbox_event_free(event);
}

void
hand_add(OutboxHand *hand, OutboxEvent *event)
{
    uint64 hash = hash_text(event->id);
    AggregateTail *tail;
    bool found;

    hand->count++;
    hand->claimed_count++;
    hand->bytes += event->bytes;
    hand->sent_again = hand->sent_again || hash_search(hand->unmarked, &hash, HASH_FIND, NULL) != NULL;
    (void)hash_search(hand->ids, &hash, HASH_ENTER, &found);
    if (setting_outbox_order == OUTBOX_ORDER_NONE) {
        make_ready(hand, event);
        return;
    }
    tail = hash_search(hand->tails, &event->aggregate, HASH_ENTER, &found);
    if (found && tail->last->state == OUTBOX_CLAIMED)
        tail->last->successor = event;
    else
        make_ready(hand, event);
    tail->last = event;
}

OutboxEvent *
hand_take_ready(OutboxHand *hand)
{
    if (dlist_is_empty(&hand->ready))
        return NULL;
    hand->ready_count--;
    return dlist_container(OutboxEvent, ready, dlist_pop_head_node(&hand->ready));
}

void
hand_put_back(OutboxHand *hand, OutboxEvent *event)
{
    while (event != NULL) {
        OutboxEvent *successor = event->successor;

        drop(hand, event);
        event = successor;
    }
}

void
hand_put_back_ready(OutboxHand *hand)
{
    OutboxEvent *event;

    while ((event = hand_take_ready(hand)) != NULL)
        hand_put_back(hand, event);
}

void
hand_drop_finished(OutboxHand *hand, bool all_marked)
{
    for (int i = 0; i < hand->finished_count; i++) {
        OutboxEvent *event = hand->finished[i];
        uint64 hash = hash_text(event->id);

        if (!all_marked && !event->has_retry_row && (event->state == OUTBOX_DELIVERED || event->is_final) &&
            hash_get_num_entries(hand->unmarked) < MOST_UNMARKED)
            (void)hash_search(hand->unmarked, &hash, HASH_ENTER, NULL);
        hand->has_followers = hand->has_followers || event->is_final || event->has_retry_row;
        drop(hand, event);
    }
    hand->finished_count = 0;
}

void
outbox_delivered(OutboxHand *hand, OutboxEvent *event)
{
    event->state = OUTBOX_DELIVERED;
    hand->finished[hand->finished_count++] = event;
    hand->delivered_count++;
    if (event->successor != NULL)
        make_ready(hand, event->successor);
    event->successor = NULL;
}

void
hand_note_receiver(OutboxHand *hand, bool there, bool gone)
{
    hand->receiver_failures = there ? 0 : hand->receiver_failures + 1;
    hand->receiver_answers += there;
    hand->receiver_gone = hand->receiver_gone || gone;
}

static void
note_error(OutboxHand *hand, const OutboxEvent *event)
{
    MemoryContext before;

    strlcpy(hand->last_error, event->error, sizeof(hand->last_error));
    if (hand->error_count >= OUTBOX_REPORTED_ERRORS)
        return;
    before = MemoryContextSwitchTo(hand->context);
    hand->errors[hand->error_count++] =
        psprintf("%.100s: %.200s", outbox_printable(event->id), outbox_printable(event->error));
    MemoryContextSwitchTo(before);
}

void
hand_note_unrecorded(OutboxHand *hand, OutboxEvent *event, const char *error)
{
    if (event->state == OUTBOX_DELIVERED) {
        hand->delivered_count--;
        hand->failed_count++;
    }
    event->state = OUTBOX_FAILED;
    event->is_final = false;
    free_text(event->error);
    event->error = MemoryContextStrdup(hand->context, error);
    note_error(hand, event);
}

void
outbox_failed(OutboxHand *hand, OutboxEvent *event, const char *error, bool is_final)
{
    size_t length = strnlen(error, SHORT_ERROR_BYTES);

    event->state = OUTBOX_FAILED;
    event->is_final = is_final || event->retry_count + 1 >= setting_outbox_max_retries;
    event->error = MemoryContextAlloc(hand->context, length + 1);
    memcpy(event->error, error, length);
    event->error[length] = '\0';
    hand->finished[hand->finished_count++] = event;
    hand->failed_count++;
    note_error(hand, event);
    hand_put_back(hand, event->successor);
    event->successor = NULL;
}
