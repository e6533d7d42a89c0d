/*
 * intake.c: what a publisher takes on: when, how much, of which slots, and where its claims begin.
 *
 * Runs in a publisher. Every claim looks from the oldest pending event on: only so do events that were
 * committed late, and those that had to wait for another, keep their place before the later ones of their aggregate
 * that are not in hand yet. Where that would walk over many, most claims begin further on.
 */
#include "postgres.h"

#include "catalog/pg_type.h"

#include "outbox/helpers.h"
#include "outbox/intake.h"
#include "outbox/share.h"
#include "server/seats.h"
#include "server/settings.h"
#include "server/wake.h"
#include "server/xact.h"

/* New events are looked for while others are on their way, but not for more than this part of the time. */
#define CLAIM_TIME_PART 4

/* Helpers are for so many events in a row; when none could be started, it is tried again after so long. */
#define WORTH_HELP 1000
#define NO_HELP_MS 10000

/* A claim that takes longer, in all and for each event, passes over many: others begin further on, but for this part of
 * the time; CLAIM_TIME_PART when something there may be due. So do those that follow one which left a backlog behind:
 * where an old snapshot is held somewhere each would walk over all rows that have been published since. */
#define SLOW_CLAIM_MS 5
#define SLOW_EVENT_MS 0.05
#define WHOLE_CLAIM_PART 20

/* When the publishers have changed the others let go of slots within so long; those that somebody else has are not
 * waited for. */
#define SHARE_PATIENCE_MS 3000

/* How far clocks of those who write "createdAt" may be behind ours. */
#define CLOCK_SKEW_S 5

/*
 * What was delivered comes again: the table does not take the mark (a trigger of the user's suppresses the UPDATE).
 * Going on would send the same events for ever.
 */
static void
check_marked(Publisher *publisher)
{
    if (!publisher->hand->sent_again || publisher->stopped)
        return;
    publisher->stopped = true;
    ereport(WARNING,
            (errcode(ERRCODE_TRIGGERED_ACTION_EXCEPTION), errmsg("published outbox events could not be marked as such"),
             errhint("Check that no trigger on the table suppresses updates.")));
}

/* So many targets and bytes of an endpoint may be in hand, so that one that is slow leaves room for the others. */
static int
fair_share(const OutboxHand *hand, int of)
{
    return of / hand->endpoints->count;
}

/* How many more of an endpoint's targets may be taken. One that has been full gets none until half of them have left.
 */
static int
endpoint_room(const OutboxHand *hand, int number)
{
    const Endpoint *endpoint = hand->endpoints->all[number];
    const HandQueue *queue = &hand->queues[number];
    int most = fair_share(hand, OUTBOX_HAND_EVENTS);

    if (!endpoint_is_usable(endpoint))
        return 0;
    if (endpoint->state == ENDPOINT_PROBING)
        return queue->count == 0 ? 1 : 0;
    if (queue->bytes >= (size_t)fair_share(hand, OUTBOX_HAND_BYTES) ||
        (queue->count > most / 2 && most < OUTBOX_HAND_EVENTS))
        return 0;
    return most - queue->count;
}

/*
 * Says how much each endpoint may get by the next claim; the sum. In a claim that does not look at all events those get
 * nothing of whose events some have been passed over: they would get later ones first.
 */
static int
set_rooms(OutboxHand *hand, bool all)
{
    int64 sum = 0;

    for (int i = 0; i < hand->endpoints->count; i++) {
        HandQueue *queue = &hand->queues[i];

        queue->room = !all && hand->endpoints->all[i]->is_behind ? 0 : endpoint_room(hand, i);
        queue->was_put_off = queue->room == 0;
        sum += queue->room;
    }
    return (int)Min(sum, PG_INT32_MAX);
}

/* After a claim: whether events of an endpoint's were passed over that it might have got otherwise. */
static void
note_behind(OutboxHand *hand, bool all)
{
    for (int i = 0; i < hand->endpoints->count; i++) {
        Endpoint *endpoint = hand->endpoints->all[i];

        endpoint->is_behind = hand->queues[i].was_put_off || (endpoint->is_behind && !all);
    }
}

/* How many more events may be taken into the hand. */
static int
room(const Publisher *publisher)
{
    const OutboxHand *hand = publisher->hand;

    if (hand->bytes >= OUTBOX_HAND_BYTES)
        return 0;
    return (int)Min(Min(setting_outbox_batch_size, OUTBOX_HAND_EVENTS - hand->count), publisher->left);
}

void
intake_report_progress(const OutboxHand *hand)
{
    int64 delivered;
    int64 failed;

    helpers_totals(&delivered, &failed);
    job_progress(delivered + failed + hand->delivered_count + hand->failed_count, -1, "events");
}

/* The slots that are to be this publisher's: its part of the seat's, and those of helpers that have ended. */
static uint64
own_slots(const Publisher *publisher)
{
    uint64 slots = seat_slots(publisher->seat);
    uint64 own = share_part(slots, publisher->part, publisher->parts);

    for (int part = 1; publisher->part == 0 && part < publisher->parts; part++) {
        if (!helpers_has(part))
            own |= share_part(slots, part, publisher->parts);
    }
    return own;
}

bool
intake_share_has_changed(const Publisher *publisher)
{
    return own_slots(publisher) != publisher->own_slots;
}

bool
intake_must_let_go(const Publisher *publisher)
{
    return (share_held() & ~own_slots(publisher)) != 0;
}

bool
intake_misses_share(const Publisher *publisher)
{
    return (publisher->own_slots & ~share_held()) != 0 && publisher_clock_ms() < publisher->share_until;
}

/* Takes the slots that are to be this publisher's, and lets go of all others, unless events of those may be in hand. */
static void
take_share(Publisher *publisher)
{
    uint64 own = own_slots(publisher);

    if (publisher->part == 0 && publisher->parts > 1 && !helpers_any()) {
        publisher->parts = 1;
        seat_set_weight(1);
        own = own_slots(publisher);
    }
    if (own != publisher->own_slots && seats_others(publisher->seat) > 0)
        publisher->share_until = publisher_clock_ms() + SHARE_PATIENCE_MS;
    publisher->own_slots = own;
    if ((share_held() & ~own) != 0 && publisher->hand->count == 0) {
        share_keep(own);
        publisher->position = DT_NOBEGIN; /* what was in hand of its own has been put off */
    }
    share_take(own);
}

/* Whether every endpoint takes events. */
static bool
all_well(const OutboxHand *hand)
{
    for (int i = 0; i < hand->endpoints->count; i++) {
        if (hand->endpoints->all[i]->state != ENDPOINT_CLOSED || hand->endpoints->all[i]->problem != NULL)
            return false;
    }
    return true;
}

/* A full batch was found: others are to help. */
static bool
needs_help(const Publisher *publisher)
{
    return setting_outbox_workers > 1 && !publisher->is_remote && publisher->part == 0 && publisher->parts == 1 &&
           publisher->type == PUBLISHER_WEBHOOK && publisher->left > PG_INT64_MAX / 2 &&
           publisher->hand->claimed_count - publisher->helped_at >= WORTH_HELP &&
           publisher_clock_ms() >= publisher->next_help_at && !publisher->stopped && all_well(publisher->hand);
}

void
intake_start_helpers(Publisher *publisher)
{
    int count = Min(setting_outbox_workers, OUTBOX_MOST_WORKERS) - 1;

    publisher->wants_help = false;
    if (count < 1 || publisher->stopped)
        return;
    publisher_record(publisher); /* before another one may claim these */
    Assert(publisher->hand->count == 0);
    publisher->parts = count + 1;
    seat_set_weight(publisher->parts);
    share_keep(share_part(seat_slots(publisher->seat), 0, publisher->parts)); /* first: they look at once */
    publisher->helped_at = publisher->hand->claimed_count;
    if (helpers_start(publisher->run, publisher->seat, count) == 0) {
        publisher->parts = 1;
        seat_set_weight(1);
        publisher->next_help_at = publisher_clock_ms() + NO_HELP_MS;
    }
}

/* Whether it is the end of the run when there is nothing else; if not, what was passed over can be looked at later. */
static bool
is_last_look(const Publisher *publisher)
{
    return !setting_outbox_wake_on_commit || publisher->run->trigger == JOB_TRIGGER_MANUAL;
}

double
intake_whole_claim_due(const Publisher *publisher)
{
    bool may_be_due =
        publisher->hand->has_followers || (publisher->retry_at != 0 && publisher->retry_at <= GetCurrentTimestamp());

    if (!publisher->skips || publisher->position == DT_NOBEGIN)
        return 0;
    return publisher->whole_claim_at + publisher->whole_claim_ms * (may_be_due ? CLAIM_TIME_PART : WHOLE_CLAIM_PART);
}

/* Whether it is time to look at what claims pass over. */
static bool
must_look_at_all(const Publisher *publisher)
{
    return publisher_clock_ms() >= intake_whole_claim_due(publisher);
}

/*
 * Moves the position back to where transactions that have ended since the last claim may have added events. Those that
 * are still open do no harm yet, however old they are. To be called before the claim's snapshot.
 */
static void
heed_late_events(Publisher *publisher, OpenTransactions *now)
{
    TimestampTz oldest;

    outbox_list_transactions(now);
    if (publisher->position == DT_NOBEGIN)
        return;
    oldest = outbox_oldest_ended(&publisher->open, now);
    publisher->position =
        oldest == DT_NOBEGIN ? DT_NOBEGIN : Min(publisher->position, oldest - CLOCK_SKEW_S * USECS_PER_SEC);
}

/* What a claim of all events has told: how long it takes, and whether others are to begin further on. */
static void
note_whole_claim(Publisher *publisher, double started_at, const OutboxClaim *claim)
{
    publisher->whole_claim_at = publisher_clock_ms();
    publisher->whole_claim_ms = publisher->whole_claim_at - started_at;
    publisher->skips = claim->more || (publisher->whole_claim_ms > SLOW_CLAIM_MS &&
                                       publisher->whole_claim_ms > SLOW_EVENT_MS * claim->count);
}

/*
 * No endpoint can have anything, as far as is known: looks how they are by now. A claim does that too, but there is
 * none where there is no room; and what a resume has told has been taken (wake_take()). Returns whether one can be
 * used.
 */
static bool
look_whether_usable(Publisher *publisher)
{
    EndpointSet *endpoints = publisher->hand->endpoints;
    bool usable = false;

    if (endpoints_usable(endpoints))
        return false;
    xact_begin("apapacho_jobs: looking whether events may be sent");
    publisher->stopped = !endpoints_refresh(endpoints, &usable) || publisher->stopped;
    xact_commit();
    MemoryContextSwitchTo(publisher->run->context);
    return endpoints_usable(endpoints) && !publisher->stopped;
}

/*
 * Claims from the oldest pending event on. Where that is slow, since many wait there for a retry, or for another one of
 * their aggregate, most claims begin where the last one ended, less what transactions may have added before that.
 */
static int
claim_from_position(Publisher *publisher, int limit_asked, bool *more)
{
    static OpenTransactions now;
    OutboxHand *hand = publisher->hand;
    double started_at = publisher_clock_ms();
    OutboxClaim claim;
    bool all;
    int limit;

    now.known = false;
    if (publisher->skips || publisher->whole_claim_at == 0)
        heed_late_events(publisher, &now);
    all = must_look_at_all(publisher);
    if (all) {
        hand->has_followers = false;
        publisher->claimed_at = GetCurrentTimestamp();
    }
    limit = Min(limit_asked, set_rooms(hand, all));
    if (limit == 0 && look_whether_usable(publisher)) {
        publisher->position = DT_NOBEGIN;
        return claim_from_position(publisher, limit_asked, more);
    }
    if (publisher->stopped || (limit == 0 && all)) {
        publisher->has_passed_over = false; /* nothing could be had by looking again, until an endpoint has room */
        return 0;
    }
    if (limit == 0) {
        publisher->position = DT_NOBEGIN; /* all endpoints are behind */
        return claim_from_position(publisher, limit_asked, more);
    }
    /* What held up its aggregate's later events has left outbox_retry: none may overtake those that were passed over.
     */
    claim = outbox_claim(hand, limit, all ? DT_NOBEGIN : Min(publisher->position, hand->followers_since));
    hand->followers_since = DT_NOEND;
    note_behind(hand, all);
    *more = claim.more;
    publisher->stopped = publisher->stopped || claim.outdated;
    if (all)
        note_whole_claim(publisher, started_at, &claim);
    publisher->has_passed_over = !all;
    publisher->open = now;
    publisher->position =
        now.known && !claim.is_usable_again ? Min(claim.seen, now.at - CLOCK_SKEW_S * USECS_PER_SEC) : DT_NOBEGIN;
    if (claim.count == 0 && !publisher->stopped &&
        (claim.is_usable_again || (!all && (is_last_look(publisher) || must_look_at_all(publisher))))) {
        publisher->position = DT_NOBEGIN; /* nothing left but perhaps there */
        return claim_from_position(publisher, limit_asked, more);
    }
    return claim.count;
}

int
intake_claim(Publisher *publisher)
{
    OutboxHand *hand = publisher->hand;
    double started_at;
    bool more = false;
    int limit;
    int count;
    int held;

    publisher_record(publisher);
    limit = room(publisher);
    if (publisher->stopped || limit <= 0)
        return 0;
    held = share_count();
    take_share(publisher);
    if (share_count() > held)
        publisher->position = DT_NOBEGIN; /* others' events are ours now */
    if (share_is_empty() || intake_must_let_go(publisher))
        return 0; /* others see to all of them; or the events in hand have to go first */
    if (publisher->is_remote)
        (void)seat_take_events(publisher->seat);
    else if (publisher->part == 0)
        (void)wake_take();
    started_at = publisher_clock_ms();
    count = claim_from_position(publisher, limit, &more);
    MemoryContextSwitchTo(publisher->run->context);
    publisher->next_claim_at = publisher_clock_ms() + (publisher_clock_ms() - started_at) * CLAIM_TIME_PART;
    publisher->left -= count;
    publisher->exhausted = !more;
    if (publisher->exhausted)
        publisher->helped_at = hand->claimed_count;
    check_marked(publisher);
    publisher->wants_help = publisher->wants_help || (!publisher->exhausted && needs_help(publisher));
    intake_report_progress(hand);
    return count;
}

/* Whether there is an endpoint of whose events some have been passed over, but that could have them now. */
static bool
is_any_behind(const OutboxHand *hand)
{
    for (int i = 0; i < hand->endpoints->count; i++) {
        if (hand->endpoints->all[i]->is_behind && endpoint_room(hand, i) > 0)
            return true;
    }
    return false;
}

/* Whether events have been committed since the last claim. */
static bool
has_new_events(const Publisher *publisher)
{
    return publisher->is_remote ? seat_has_events(publisher->seat) : wake_is_pending();
}

/* Whether there may be more to take on, while some events are still in hand. */
static bool
has_more(const Publisher *publisher)
{
    const OutboxHand *hand = publisher->hand;

    if (publisher->stopped || publisher->wants_help || job_is_to_end_soon() || intake_must_let_go(publisher) ||
        room(publisher) < Min(setting_outbox_batch_size, publisher->left) / 2 + 1)
        return false;
    if (!publisher->exhausted || (hand->has_followers && must_look_at_all(publisher)) || is_any_behind(hand))
        return true;
    return publisher->run->trigger != JOB_TRIGGER_MANUAL &&
           (has_new_events(publisher) ||
            (publisher->retry_at != 0 && publisher->retry_at <= GetCurrentTimestamp() && must_look_at_all(publisher)));
}

/* Whether there is an endpoint that has nothing to send, but could. */
static bool
is_any_idle(const Publisher *publisher)
{
    const OutboxHand *hand = publisher->hand;

    for (int i = 0; i < hand->endpoints->count; i++) {
        if (hand->queues[i].ready_count == 0 && endpoint_room(hand, i) > 0 && publisher->has_room(i))
            return true;
    }
    return false;
}

bool
intake_wants_more(const Publisher *publisher)
{
    return publisher_clock_ms() >= publisher->next_claim_at && is_any_idle(publisher) && has_more(publisher);
}

long
intake_patience(const Publisher *publisher, long longest)
{
    double until_claim = publisher->next_claim_at - publisher_clock_ms();

    if (!is_any_idle(publisher) || until_claim > longest || !has_more(publisher))
        return longest;
    return Max((long)until_claim, 0) + 1;
}

/* Milliseconds until then; 0: it is past; `longest` when there is no such time. */
static double
until_time(TimestampTz time, double longest)
{
    return time == 0 ? longest : (double)TimestampDifferenceMilliseconds(GetCurrentTimestamp(), time);
}

double
intake_next_look(const Publisher *publisher, double longest)
{
    double now = publisher_clock_ms();
    double until_retry = until_time(publisher->retry_at, longest);
    double until_probe = until_time(endpoints_next_probe(publisher->hand->endpoints), longest);

    if (!publisher->has_passed_over)
        return now + Min(until_retry, until_probe);
    /* A retry is found by a claim of all events only; once it is due that comes sooner. */
    if (until_retry == 0)
        until_retry = until_probe;
    return Min(now + Min(until_retry, until_probe), intake_whole_claim_due(publisher));
}

TimestampTz
intake_next_retry(const Publisher *publisher)
{
    Oid type = TIMESTAMPTZOID;
    Datum since =
        TimestampTzGetDatum(publisher->claimed_at); /* what was due then and is still there is not to be had */
    TimestampTz next;

    xact_begin("apapacho_jobs: looking when events are tried again");
    (void)spi_run("SELECT pg_catalog.min(next_attempt_at) FROM apapacho_jobs.outbox_retry"
                  " WHERE next_attempt_at OPERATOR(pg_catalog.>) $1 AND failed_at IS NULL",
                  1, &type, &since, NULL, true, 1);
    next = spi_time(0, 1);
    xact_commit();
    return next;
}
