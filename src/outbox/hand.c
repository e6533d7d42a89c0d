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

/* What is in hand of an aggregate at an endpoint. */
typedef struct AggregateQueue {
    uint64 key;
    OutboxTarget *last; /* the latest one that was taken; NULL: it has left */
    int waiting;        /* targets that a later claim or another attempt is to see to: nothing may pass them */
} AggregateQueue;

OutboxHand *
hand_create(MemoryContext parent, EndpointSet *endpoints)
{
    MemoryContext context = AllocSetContextCreate(parent, "outbox hand", ALLOCSET_DEFAULT_SIZES);
    OutboxHand *hand = MemoryContextAllocZero(context, sizeof(OutboxHand));
    HASHCTL ids = {.keysize = sizeof(uint64), .entrysize = sizeof(HandId), .hcxt = context};
    HASHCTL unmarked = {.keysize = sizeof(uint64), .entrysize = sizeof(HandId), .hcxt = context};
    HASHCTL aggregates = {.keysize = sizeof(uint64), .entrysize = sizeof(AggregateQueue), .hcxt = context};

    hand->context = context;
    hand->endpoints = endpoints;
    hand->ordered = setting_outbox_order != OUTBOX_ORDER_NONE;
    hand->scratch = AllocSetContextCreate(context, "outbox scratch", ALLOCSET_SMALL_SIZES);
    hand->ids = hash_create("outbox events", 1024, &ids, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
    hand->unmarked = hash_create("outbox events not marked", 64, &unmarked, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
    hand->aggregates = hash_create("outbox aggregates", 1024, &aggregates, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
    hand->followers_since = DT_NOEND;
    hand->finished = MemoryContextAlloc(context, sizeof(OutboxEvent *) * (OUTBOX_HAND_EVENTS + 1000));
    for (int i = 0; i < OUTBOX_MOST_ENDPOINTS; i++)
        dlist_init(&hand->queues[i].ready);
    return hand;
}

bool
hand_has(const OutboxHand *hand, const char *id)
{
    uint64 hash = outbox_hash(id);

    return hash_search(hand->ids, &hash, HASH_FIND, NULL) != NULL;
}

static void
make_ready(OutboxHand *hand, OutboxTarget *target)
{
    HandQueue *queue = &hand->queues[target->endpoint];

    dlist_push_tail(&queue->ready, &target->ready);
    queue->ready_count++;
    hand->ready_count++;
}

/* The queue of an event's aggregate at an endpoint; NULL: there is none (and `enter` is false), or no order is kept. */
static AggregateQueue *
aggregate_queue(const OutboxHand *hand, const OutboxTarget *target, bool enter)
{
    uint64 key = hash_combine64(target->event->aggregate, (uint64)target->endpoint);
    AggregateQueue *queue;
    bool found;

    if (!hand->ordered)
        return NULL;
    queue = hash_search(hand->aggregates, &key, enter ? HASH_ENTER : HASH_FIND, &found);
    if (enter && !found) {
        queue->last = NULL;
        queue->waiting = 0;
    }
    return queue;
}

/* Whether later events of the aggregate have to wait for it at that endpoint. */
static bool
is_waiting(const OutboxTarget *target)
{
    return target->state == OUTBOX_LAGGING || (target->state == OUTBOX_FAILED && !target->is_final);
}

/* A target is not on its way any more. */
static void
settle(OutboxHand *hand, OutboxTarget *target, OutboxTargetState state)
{
    HandQueue *queue = &hand->queues[target->endpoint];
    AggregateQueue *aggregate = aggregate_queue(hand, target, true);

    target->state = state;
    target->event->open--;
    target->event->was_tried = target->event->was_tried || state != OUTBOX_LAGGING;
    queue->count--;
    queue->bytes -= target->event->bytes;
    if (aggregate != NULL && is_waiting(target))
        aggregate->waiting++;
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
    free_text(event->traceparent);
    for (int i = 0; i < event->target_count; i++) {
        free_text(event->targets[i].error);
        attempt_free(event->targets[i].attempt);
    }
    pfree(event);
}

/* The event leaves the hand. */
static void
drop(OutboxHand *hand, OutboxEvent *event)
{
    uint64 hash = outbox_hash(event->id);

    for (int i = 0; i < event->target_count; i++) {
        OutboxTarget *target = &event->targets[i];
        AggregateQueue *queue = aggregate_queue(hand, target, false);

        if (queue == NULL)
            continue;
        if (queue->last == target)
            queue->last = NULL;
        queue->waiting -= is_waiting(target);
        if (queue->last == NULL && queue->waiting <= 0)
            (void)hash_search(hand->aggregates, &queue->key, HASH_REMOVE, NULL);
    }
    (void)hash_search(hand->ids, &hash, HASH_REMOVE, NULL);
    hand->count--;
    hand->bytes -= event->bytes;
    outbox_event_free(event);
}

bool
outbox_event_is_left(const OutboxEvent *event)
{
    for (int i = 0; i < event->target_count; i++) {
        if (event->targets[i].state == OUTBOX_CLAIMED || is_waiting(&event->targets[i]))
            return true;
    }
    return false;
}

bool
outbox_event_has_failed(const OutboxEvent *event)
{
    for (int i = 0; i < event->target_count; i++) {
        if (event->targets[i].state == OUTBOX_FAILED && event->targets[i].is_final)
            return true;
    }
    return event->has_failed;
}

/* None of the event's targets is on its way any more: what became of it is to be recorded, or it leaves the hand. */
static void
finish(OutboxHand *hand, OutboxEvent *event)
{
    bool failed = false;

    if (!event->was_tried && event->target_count > 0) {
        drop(hand, event);
        return;
    }
    for (int i = 0; i < event->target_count; i++)
        failed = failed || event->targets[i].state == OUTBOX_FAILED;
    hand->failed_count += failed;
    hand->delivered_count += !failed && !outbox_event_is_left(event) && !outbox_event_has_failed(event);
    hand->finished[hand->finished_count++] = event;
}

/* Takes a target of an event that has come into the hand, or leaves it for later. */
static void
add_target(OutboxHand *hand, OutboxTarget *target)
{
    HandQueue *queue = &hand->queues[target->endpoint];
    AggregateQueue *aggregate = aggregate_queue(hand, target, true);
    OutboxTarget *before = aggregate != NULL ? aggregate->last : NULL;

    if (target->state == OUTBOX_CLAIMED && queue->room <= 0) {
        queue->was_put_off = true;
        target->state = OUTBOX_LAGGING;
    }
    if (aggregate != NULL && aggregate->waiting > 0)
        target->state = OUTBOX_LAGGING;
    if (target->state != OUTBOX_CLAIMED) {
        if (aggregate != NULL)
            aggregate->waiting++;
        return;
    }
    target->event->open++;
    queue->room--;
    queue->count++;
    queue->bytes += target->event->bytes;
    if (before != NULL && before->state == OUTBOX_CLAIMED)
        before->successor = target;
    else
        make_ready(hand, target);
    if (aggregate != NULL)
        aggregate->last = target;
}

bool
hand_add(OutboxHand *hand, OutboxEvent *event)
{
    uint64 hash = outbox_hash(event->id);

    hand->count++;
    hand->bytes += event->bytes;
    hand->sent_again = hand->sent_again || hash_search(hand->unmarked, &hash, HASH_FIND, NULL) != NULL;
    (void)hash_search(hand->ids, &hash, HASH_ENTER, NULL);
    for (int i = 0; i < event->target_count; i++)
        add_target(hand, &event->targets[i]);
    if (event->open == 0 && event->target_count > 0) {
        drop(hand, event);
        return false;
    }
    hand->claimed_count++;
    if (event->open == 0)
        finish(hand, event); /* nobody is to have it */
    return true;
}

OutboxTarget *
hand_take_ready(OutboxHand *hand, int endpoint)
{
    HandQueue *queue = &hand->queues[endpoint];

    if (dlist_is_empty(&queue->ready))
        return NULL;
    queue->ready_count--;
    hand->ready_count--;
    return dlist_container(OutboxTarget, ready, dlist_pop_head_node(&queue->ready));
}

void
hand_put_off(OutboxHand *hand, OutboxTarget *target)
{
    while (target != NULL) {
        OutboxTarget *successor = target->successor;

        target->successor = NULL;
        settle(hand, target, OUTBOX_LAGGING);
        if (target->event->open == 0)
            finish(hand, target->event);
        target = successor;
    }
}

void
hand_put_off_ready(OutboxHand *hand, int endpoint)
{
    OutboxTarget *target;

    while ((target = hand_take_ready(hand, endpoint)) != NULL) {
        hand->endpoints->all[endpoint]->is_behind = true;
        hand_put_off(hand, target);
    }
}

void
hand_drop_finished(OutboxHand *hand, bool all_marked)
{
    for (int i = 0; i < hand->finished_count; i++) {
        OutboxEvent *event = hand->finished[i];
        uint64 hash = outbox_hash(event->id);
        bool is_left = outbox_event_is_left(event);

        if (!all_marked && !event->has_rows && !is_left && hash_get_num_entries(hand->unmarked) < MOST_UNMARKED)
            (void)hash_search(hand->unmarked, &hash, HASH_ENTER, NULL);
        if (event->has_rows || outbox_event_has_failed(event)) {
            hand->has_followers = true;
            hand->followers_since = Min(hand->followers_since, event->created_at);
        }
        drop(hand, event);
    }
    hand->finished_count = 0;
}

void
outbox_delivered(OutboxHand *hand, OutboxTarget *target)
{
    OutboxTarget *successor = target->successor;

    target->successor = NULL;
    settle(hand, target, OUTBOX_DELIVERED);
    if (successor != NULL)
        make_ready(hand, successor);
    if (target->event->open == 0)
        finish(hand, target->event);
}

static void
note_error(OutboxHand *hand, const OutboxTarget *target)
{
    Endpoint *endpoint = hand->endpoints->all[target->endpoint];
    MemoryContext before;

    strlcpy(endpoint->last_error, target->error, sizeof(endpoint->last_error));
    if (hand->error_count >= OUTBOX_REPORTED_ERRORS)
        return;
    before = MemoryContextSwitchTo(hand->context);
    hand->errors[hand->error_count++] =
        psprintf("%.100s: %.200s", outbox_printable(target->event->id), outbox_printable(target->error));
    MemoryContextSwitchTo(before);
}

void
hand_note_unrecorded(OutboxHand *hand, OutboxEvent *event, const char *error)
{
    if (!outbox_event_is_left(event) && !outbox_event_has_failed(event)) {
        hand->delivered_count--;
        hand->failed_count++;
    }
    for (int i = 0; i < event->target_count; i++) {
        OutboxTarget *target = &event->targets[i];
        AggregateQueue *queue = aggregate_queue(hand, target, true);

        if (queue != NULL && !is_waiting(target))
            queue->waiting++;
        target->state = OUTBOX_FAILED;
        target->is_final = false;
        free_text(target->error);
        target->error = MemoryContextStrdup(hand->context, error);
        note_error(hand, target);
    }
}

void
outbox_failed(OutboxHand *hand, OutboxTarget *target, const char *error, bool is_final)
{
    size_t length = strnlen(error, SHORT_ERROR_BYTES);
    OutboxTarget *successor = target->successor;

    target->successor = NULL;
    target->is_final = is_final || target->attempts + 1 >= setting_outbox_max_retries;
    target->error = MemoryContextAlloc(hand->context, length + 1);
    memcpy(target->error, error, length);
    target->error[length] = '\0';
    settle(hand, target, OUTBOX_FAILED);
    note_error(hand, target);
    if (target->event->open == 0)
        finish(hand, target->event);
    hand_put_off(hand, successor);
}
