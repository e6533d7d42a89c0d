/*
 * remote.c: publishers on other machines: what a call does. Runs in the backend of a session that `apapacho-jobs outbox
 * start` has opened (remote_open.c).
 *
 * All that a publisher decides is decided here, as in a run of the job `outbox` and by the same code: which events are
 * due, in which order, to which endpoints, what an answer means, when to try again. The program only sends. It calls
 * publisher_step() again and again: each call tells what came of earlier requests and takes the next ones; when there
 * are none, it waits a while for commits. Claims and records are transactions of their own in between, so what a call
 * has recorded is durable, and a wait holds no snapshot.
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "outbox/intake.h"
#include "outbox/outbox.h"
#include "outbox/remote.h"
#include "outbox/share.h"
#include "outbox/watch.h"
#include "server/compat.h"
#include "server/settings.h"
#include "server/xact.h"

PG_FUNCTION_INFO_V1(apapacho_publisher_step);

/* So often it looks for events that no commit has told of; more often where commits tell nothing, or where others have
 * slots that are to be its own, and even more often where these are about to let go of them. */
#define IDLE_LOOK_MS 10000
#define TICK_MS 1000
#define SHARE_TICK_MS 20

/* So often it is looked whether the program is still there. */
#define ALIVE_MS 250

/* Outcomes are recorded at the latest after so long. */
#define RECORD_MS 250

#define ACTIVITY "apapacho_jobs: publishing by a program elsewhere"

RemotePublisher remote;
ExchangeWriter remote_answer; /* malloc'ed, used again by each call */

static void
note_stop(void)
{
    Publisher *publisher = &remote.publisher;

    if (publisher->type == PUBLISHER_WEBHOOK)
        watch_endpoints(publisher);
    publisher->stopped = publisher->stopped || remote.settings_at != PgReloadTime;
    if (publisher->stopped || remote.draining || intake_must_let_go(publisher))
        watch_put_off_all(publisher);
}

/* Whether others have slots that are to be this publisher's. */
static bool
lacks_slots(const Publisher *publisher)
{
    return (publisher->own_slots & ~share_held()) != 0;
}

/* After so long it is looked for events whatever is known. */
static double
longest_rest(const Publisher *publisher)
{
    if (intake_misses_share(publisher))
        return SHARE_TICK_MS;
    if (lacks_slots(publisher) || !setting_outbox_wake_on_commit)
        return TICK_MS;
    return IDLE_LOOK_MS;
}

/* Whether to look for events now. */
static bool
is_claim_due(void)
{
    Publisher *publisher = &remote.publisher;
    OutboxHand *hand = publisher->hand;

    if (publisher->stopped || remote.draining)
        return false;
    if (intake_share_has_changed(publisher) || (intake_must_let_go(publisher) && hand->count == hand->finished_count) ||
        publisher_clock_ms() - remote.claimed_at >= longest_rest(publisher))
        return true;
    if (publisher->has_passed_over && publisher_clock_ms() >= intake_whole_claim_due(publisher))
        return true;
    return !share_is_empty() && intake_wants_more(publisher);
}

/* Going on would send the same events for ever: the program comes again after a while. */
static void
check_marked(void)
{
    if (remote.publisher.hand->sent_again)
        ereport(ERROR, (errcode(ERRCODE_TRIGGERED_ACTION_EXCEPTION),
                        errmsg("published outbox events could not be marked as such, and would be sent for ever"),
                        errhint("Check that no trigger on the table suppresses updates.")));
}

static void
claim(void)
{
    Publisher *publisher = &remote.publisher;

    (void)intake_claim(publisher);
    check_marked();
    if (publisher->retry_at != 0 && publisher->retry_at <= GetCurrentTimestamp()) {
        publisher->retry_at = intake_next_retry(publisher);
        MemoryContextSwitchTo(remote.scratch);
    }
    remote.claimed_at = publisher_clock_ms();
}

/* What is known is written down from time to time, and at once when there may be no later. */
static void
record(void)
{
    if (remote.draining || remote.publisher.stopped)
        publisher_record(&remote.publisher);
    else
        publisher_record_in_between(&remote.publisher);
}

/* How long to wait at most, milliseconds, when it is to last no longer than `longest`. */
static long
patience(long longest)
{
    const Publisher *publisher = &remote.publisher;
    const OutboxHand *hand = publisher->hand;
    long wait = Min(longest, TICK_MS);

    if (!share_is_empty())
        wait = intake_patience(publisher, wait);
    if (hand->finished_count > 0)
        wait = Min(wait, (long)Max(publisher->recorded_at + RECORD_MS - publisher_clock_ms(), 0) + 1);
    wait = Min(wait, (long)Max(intake_next_look(publisher, longest) - publisher_clock_ms(), SHARE_TICK_MS));
    if (intake_misses_share(publisher))
        wait = Min(wait, SHARE_TICK_MS);
    for (int i = 0; i < remote.receiver_count; i++) {
        if (hand->queues[i].ready_count > 0 && remote.wants[i] > 0)
            wait = Min(wait, receiver_until_rate_allows(&remote.receivers[i]) + 1);
    }
    return wait;
}

/* Waits for commits, or until something is to be done. False: the program is gone. */
static bool
wait_a_while(long timeout_ms)
{
    pgstat_report_activity(STATE_RUNNING, ACTIVITY ", waiting for events");
    (void)WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, Min(timeout_ms, ALIVE_MS),
                    PG_WAIT_EXTENSION);
    ResetLatch(MyLatch);
    return pq_check_connection();
}

/* Whether everything that was begun is recorded. */
static bool
is_at_rest(void)
{
    return remote.out_count == 0 && remote.publisher.hand->finished_count == 0;
}

/* Whether the program would get more by asking at once: only what it wanted, or the answer's size, has kept it short.
 */
static bool
has_more(int count)
{
    const OutboxHand *hand = remote.publisher.hand;

    for (int i = 0; count > 0 && i < hand->endpoints->count; i++) {
        if (hand->queues[i].ready_count > 0 && (remote.wants[i] == 0 || remote_has_room(i)))
            return true;
    }
    return false;
}

/* What the answer says besides the requests. */
static void
put_summary(int count)
{
    const OutboxHand *hand = remote.publisher.hand;

    exchange_set_number(&remote_answer, 0,
                        (remote.publisher.stopped ? EXCHANGE_REOPEN : 0) | (has_more(count) ? EXCHANGE_MORE : 0));
    exchange_set_number(&remote_answer, 8, is_at_rest());
    exchange_set_number(&remote_answer, 16, hand->delivered_count);
    exchange_set_number(&remote_answer, 24, hand->failed_count);
    exchange_set_number(&remote_answer, 32, count);
}

static void
step(ExchangeReader *call)
{
    double until = remote_read_call(call) + publisher_clock_ms();
    int count = 0;

    exchange_reset(&remote_answer);
    for (int i = 0; i < 5; i++)
        exchange_put_number(&remote_answer, 0); /* put_summary() */
    for (;;) {
        long left;

        outbox_check_interrupts(remote.publisher.hand);
        note_stop();
        if (is_claim_due())
            claim();
        count += remote_hand_out(&remote_answer);
        record();
        left = (long)(until - publisher_clock_ms());
        if (count > 0 || remote.draining || remote.publisher.stopped || left <= 0 || ConfigReloadPending ||
            !wait_a_while(patience(left)))
            break;
    }
    put_summary(count);
}

Datum
remote_answer_value(FunctionCallInfo fcinfo)
{
    bytea *value = palloc(remote_answer.length + VARHDRSZ);
    Datum values[] = {PointerGetDatum(value)};
    bool nulls[] = {false};
    TupleDesc columns;

    if (remote_answer.failed)
        ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
    SET_VARSIZE(value, remote_answer.length + VARHDRSZ);
    memcpy(VARDATA(value), remote_answer.data, remote_answer.length);
    if (get_call_result_type(fcinfo, NULL, &columns) != TYPEFUNC_COMPOSITE)
        elog(ERROR, "the procedure's result is no record");
    return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(columns), values, nulls));
}

/* apapacho_jobs.publisher_step(call bytea, OUT answer bytea) */
Datum
apapacho_publisher_step(PG_FUNCTION_ARGS)
{
    MemoryContext caller = CurrentMemoryContext;
    ExchangeReader call;
    bytea *bytes;

    xact_require_call(fcinfo);
    if (remote.context == NULL || remote.broken || PG_ARGISNULL(0))
        ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE), errmsg("this session has no publisher"),
                        errhint("Call publisher_open first.")));
    bytes = PG_GETARG_BYTEA_PP(0);
    call = (ExchangeReader){.at = VARDATA_ANY(bytes), .left = VARSIZE_ANY_EXHDR(bytes)};
    xact_leave_call();
    outbox_ignore_own_commits(true);
    PG_TRY();
    {
        MemoryContextReset(remote.scratch);
        MemoryContextSwitchTo(remote.scratch);
        step(&call);
    }
    PG_CATCH();
    {
        outbox_ignore_own_commits(false);
        xact_abandon_call();
        remote_break();
        PG_RE_THROW();
    }
    PG_END_TRY();
    outbox_ignore_own_commits(false);
    xact_return_to_call();
    MemoryContextSwitchTo(caller);
    return remote_answer_value(fcinfo);
}
