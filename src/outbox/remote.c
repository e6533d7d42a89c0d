/*
 * remote.c: publishers on other machines. Runs in the backend of a session that `apapacho-jobs outbox start` has
 * opened.
 *
 * All that a publisher decides is decided here, as in a run of the job `outbox` and by the same code: which events are
 * due, in which order, to which endpoints, what an answer means, when to try again. The program only sends. It calls
 * publisher_step() again and again: each call tells what came of earlier requests and takes the next ones; when there
 * are none, it waits a while for commits. Claims and records are transactions of their own in between, so what a call
 * has recorded is durable, and a wait holds no snapshot.
 *
 * What is in hand lives in TopMemoryContext from call to call. The slots (share.h) are the session's: when the program
 * dies, or its machine does and the server notices, they are free.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "outbox/intake.h"
#include "outbox/outbox.h"
#include "outbox/remote.h"
#include "outbox/share.h"
#include "outbox/watch.h"
#include "server/compat.h"
#include "server/delivery_settings.h"
#include "server/seats.h"
#include "server/settings.h"
#include "server/user_tables.h"
#include "server/xact.h"

PG_FUNCTION_INFO_V1(apapacho_publisher_open);
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

/* When the session ends in between: no lock is waited for longer than this until what is known is recorded. */
#define LAST_LOCK_TIMEOUT "1s"

#define ACTIVITY "apapacho_jobs: publishing by a program elsewhere"

/* In place of a URL that only the program knows. */
#define UNKNOWN_URL "http://publisher.invalid/"

/* The arguments of publisher_open(). */
enum { ARG_VERSION, ARG_TYPE, ARG_OWN_URL, ARG_OWN_SECRET, ARG_BATCH_SIZE, ARG_MAX_RETRIES };

RemotePublisher remote;
static ExchangeWriter answer; /* malloc'ed, used again by each call */

/* ---- Life ---- */

/* Lets go of everything. Outside of a transaction or not. */
static void
close_remote(void)
{
    for (int i = 0; i < remote.receiver_count; i++)
        receiver_close(&remote.receivers[i]);
    share_release();
    seat_leave();
    if (remote.context != NULL)
        MemoryContextDelete(remote.context);
    memset(&remote, 0, sizeof(remote));
}

/* For this session only, whatever its role may set. */
static void
override(const char *name, const char *value)
{
    (void)set_config_option(name, value, PGC_SUSET, PGC_S_SESSION, GUC_ACTION_SET, true, 0, false);
}

/* What the program has told is not to be sent again. As temporary tables are dropped at this point; an ERROR ends it.
 */
static void
record_at_exit(void)
{
    AbortOutOfAnyTransaction();
    override("lock_timeout", LAST_LOCK_TIMEOUT);
    xact_enter_exit();
    outbox_record(remote.publisher.hand);
}

static void
close_at_exit(int code, Datum argument)
{
    int receivers = remote.receiver_count;
    bool noted = remote.context != NULL && !remote.broken && remote.publisher.hand != NULL &&
                 remote.publisher.hand->finished_count > 0;

    remote.receiver_count = 0;
    remote.broken = true; /* first: it is done once */
    for (int i = 0; i < receivers; i++)
        receiver_close(&remote.receivers[i]); /* the locks and the seat are let go of by themselves, in that order */
    if (noted)
        record_at_exit();
}

/* An error has come: nothing is in hand any more. The slots stay until the program has heard of it. */
static void
break_remote(void)
{
    for (int i = 0; i < remote.receiver_count; i++)
        receiver_close(&remote.receivers[i]);
    remote.receiver_count = 0;
    remote.broken = true;
}

/* What the program's environment says otherwise. */
static void
apply_overrides(FunctionCallInfo fcinfo)
{
    if (!PG_ARGISNULL(ARG_TYPE))
        override("apapacho_jobs.outbox_publisher_type", text_to_cstring(PG_GETARG_TEXT_PP(ARG_TYPE)));
    if (!PG_ARGISNULL(ARG_OWN_URL) && PG_GETARG_BOOL(ARG_OWN_URL))
        override("apapacho_jobs.outbox_webhook_url", UNKNOWN_URL);
    if (!PG_ARGISNULL(ARG_BATCH_SIZE))
        override("apapacho_jobs.outbox_batch_size", psprintf("%d", PG_GETARG_INT32(ARG_BATCH_SIZE)));
    if (!PG_ARGISNULL(ARG_MAX_RETRIES))
        override("apapacho_jobs.outbox_max_retries", psprintf("%d", PG_GETARG_INT32(ARG_MAX_RETRIES)));
}

static void
forget_secret(char **secret)
{
    if (*secret == NULL)
        return;
    explicit_bzero(*secret, strlen(*secret));
    pfree(*secret);
    *secret = NULL;
}

static void
open_receivers(EndpointSet *endpoints)
{
    MemoryContext before = MemoryContextSwitchTo(endpoints->context);

    for (int i = 0; i < endpoints->count; i++) {
        Endpoint *endpoint = endpoints->all[i];

        if (remote.own_secret && strcmp(endpoint->name, OUTBOX_DEFAULT_ENDPOINT) == 0) {
            forget_secret(&endpoint->secret);
            forget_secret(&endpoint->previous_secret);
        }
        remote.receiver_count++; /* first: whatever happens, it is closed */
        receiver_open(&remote.receivers[i], endpoint, (ReceiverShare){.seat = remote.publisher.seat, .parts = 1});
    }
    MemoryContextSwitchTo(before);
}

static void
take_seat(void)
{
    remote.publisher.seat = seat_take(1);
    if (remote.publisher.seat == NO_SEAT)
        ereport(ERROR, (errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED), errmsg("there are too many publishers")));
}

/* So that the program hears of it at once. */
static void
check_table(void)
{
    xact_begin("apapacho_jobs: looking whether there are events");
    (void)user_table_check(TABLE_OUTBOX_EVENT);
    xact_commit();
}

static void
open_remote(void)
{
    HASHCTL tickets = {.keysize = sizeof(int64), .entrysize = sizeof(int64) + sizeof(OutboxTarget *)};
    bool console = setting_outbox_publisher_type == PUBLISHER_CONSOLE;
    EndpointSet *endpoints;

    tickets.hcxt = remote.context;
    remote.settings_at = PgReloadTime;
    remote.source = MemoryContextStrdup(remote.context, setting_outbox_cloudevents_source);
    remote.tickets = hash_create("outbox tickets", 256, &tickets, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
    remote.run = (JobRun){.trigger = JOB_TRIGGER_WORK, .arguments = "", .context = remote.scratch};
    remote.publisher = (Publisher){.run = &remote.run,
                                   .type = setting_outbox_publisher_type,
                                   .left = PG_INT64_MAX,
                                   .seat = NO_SEAT,
                                   .is_remote = true,
                                   .parts = 1,
                                   .has_room = remote_has_room,
                                   .position = DT_NOBEGIN};
    check_table();
    endpoints = endpoints_load(remote.context, console, false);
    remote.publisher.hand = hand_create(remote.context, endpoints);
    remote.publisher.endpoints_at = remote.publisher.recorded_at = publisher_clock_ms();
    take_seat();
    if (!console) {
        open_receivers(endpoints);
        watch_problems(&remote.publisher);
    }
}

/* ---- A call ---- */

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
    if (publisher->retry_at != 0)
        wait = Min(wait, TimestampDifferenceMilliseconds(GetCurrentTimestamp(), publisher->retry_at) + 1);
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

    exchange_set_number(&answer, 0,
                        (remote.publisher.stopped ? EXCHANGE_REOPEN : 0) | (has_more(count) ? EXCHANGE_MORE : 0));
    exchange_set_number(&answer, 8, is_at_rest());
    exchange_set_number(&answer, 16, hand->delivered_count);
    exchange_set_number(&answer, 24, hand->failed_count);
    exchange_set_number(&answer, 32, count);
}

static void
step(ExchangeReader *call)
{
    double until = remote_read_call(call) + publisher_clock_ms();
    int count = 0;

    exchange_reset(&answer);
    for (int i = 0; i < 5; i++)
        exchange_put_number(&answer, 0); /* put_summary() */
    for (;;) {
        long left;

        outbox_check_interrupts(remote.publisher.hand);
        note_stop();
        if (is_claim_due())
            claim();
        count += remote_hand_out(&answer);
        record();
        left = (long)(until - publisher_clock_ms());
        if (count > 0 || remote.draining || remote.publisher.stopped || left <= 0 || ConfigReloadPending ||
            !wait_a_while(patience(left)))
            break;
    }
    put_summary(count);
}

/* ---- The procedures ---- */

/* The value of the procedure's only OUT argument. */
static Datum
answer_record(FunctionCallInfo fcinfo)
{
    bytea *value = palloc(answer.length + VARHDRSZ);
    Datum values[] = {PointerGetDatum(value)};
    bool nulls[] = {false};
    TupleDesc columns;

    if (answer.failed)
        ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
    SET_VARSIZE(value, answer.length + VARHDRSZ);
    memcpy(VARDATA(value), answer.data, answer.length);
    if (get_call_result_type(fcinfo, NULL, &columns) != TYPEFUNC_COMPOSITE)
        elog(ERROR, "the procedure's result is no record");
    return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(columns), values, nulls));
}

static void
put_endpoint(const Endpoint *endpoint)
{
    exchange_put_text(&answer, endpoint->name);
    exchange_put_text(&answer, endpoint->url);
    exchange_put_number(&answer, endpoint->timeout_ms);
    exchange_put_number(&answer, endpoint->concurrency);
    exchange_put_text(&answer, endpoint->ca_file);
    exchange_put_text(&answer, endpoint->client_cert);
    exchange_put_text(&answer, endpoint->client_key);
    exchange_put_number(&answer, endpoint->is_trusted);
}

static void
describe_publisher(void)
{
    const EndpointSet *endpoints = remote.publisher.hand->endpoints;

    exchange_reset(&answer);
    exchange_put_number(&answer, remote.publisher.type == PUBLISHER_CONSOLE);
    exchange_put_number(&answer, setting_outbox_fail_on_client_error);
    exchange_put_number(&answer, setting_outbox_http2);
    exchange_put_text(&answer, GetConfigOption("apapacho_jobs.outbox_allowed_addresses", false, false));
    exchange_put_number(&answer, endpoints->count);
    for (int i = 0; i < endpoints->count; i++)
        put_endpoint(endpoints->all[i]);
}

static void
check_version(FunctionCallInfo fcinfo)
{
    if (!PG_ARGISNULL(ARG_VERSION) && PG_GETARG_INT32(ARG_VERSION) == EXCHANGE_VERSION)
        return;
    ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                    errmsg("the publisher and the extension do not speak the same version of their protocol"),
                    errdetail("The extension speaks version %d.", EXCHANGE_VERSION),
                    errhint("Install the program of the same release as the extension.")));
}

/* apapacho_jobs.publisher_open(version, publisher_type, own_url, own_secret, batch_size, max_retries, OUT answer) */
Datum
apapacho_publisher_open(PG_FUNCTION_ARGS)
{
    static bool registered = false;
    MemoryContext caller = CurrentMemoryContext;

    xact_require_call(fcinfo);
    check_version(fcinfo);
    if (RecoveryInProgress())
        ereport(ERROR, (errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
                        errmsg("a standby cannot publish: what becomes of the events could not be recorded")));
    if (!registered)
        before_shmem_exit(close_at_exit, (Datum)0);
    registered = true;
    close_remote();
    apply_overrides(fcinfo);
    remote.context = AllocSetContextCreate(TopMemoryContext, "outbox publisher", ALLOCSET_DEFAULT_SIZES);
    remote.scratch = AllocSetContextCreate(remote.context, "outbox call", ALLOCSET_DEFAULT_SIZES);
    remote.own_secret = !PG_ARGISNULL(ARG_OWN_SECRET) && PG_GETARG_BOOL(ARG_OWN_SECRET);
    xact_leave_call();
    PG_TRY();
    {
        MemoryContextSwitchTo(remote.scratch);
        open_remote();
        describe_publisher();
    }
    PG_CATCH();
    {
        xact_abandon_call();
        close_remote();
        PG_RE_THROW();
    }
    PG_END_TRY();
    xact_return_to_call();
    MemoryContextSwitchTo(caller);
    return answer_record(fcinfo);
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
        break_remote();
        PG_RE_THROW();
    }
    PG_END_TRY();
    outbox_ignore_own_commits(false);
    xact_return_to_call();
    MemoryContextSwitchTo(caller);
    return answer_record(fcinfo);
}
