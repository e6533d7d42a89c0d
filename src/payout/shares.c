/*
 * shares.c: has a calculation with many creators done by several processes, each of which pays a range of their ids.
 *
 * The worker of the run starts helpers, tells them by rows of apapacho_jobs.payout_share what to do, pays a range of
 * its own, waits for them, and does itself what a helper has not come to the end of. Nothing depends on a helper: each
 * batch is a transaction of its own, and a creator who has been paid is not due again.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/procsignal.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/wait_event.h"

#include "payout/internal.h"
#include "server/compat.h"
#include "server/ids.h"
#include "server/session.h"
#include "server/settings.h"

#define MOST_PARTS 16
#define WORTH_BATCHES 10 /* so many batches of creators are worth a helper */
#define REPORT_MS 1000

/* What a helper is told, in bgw_extra; the rest is in its row. */
typedef struct HelperSpec {
    Oid database;
    int part;
    int64 run;
    JobTrigger trigger;
    bool everybody;
    char run_id[UUID_TEXT_SIZE];
} HelperSpec;

StaticAssertDecl(sizeof(HelperSpec) <= BGW_EXTRALEN, "a helper's instructions must fit");

PGDLLEXPORT void apapacho_payout_helper_main(Datum argument);

static BackgroundWorkerHandle *helpers[MOST_PARTS]; /* in the worker: by part; NULL: none */

static const char forget_sql[] = "DELETE FROM apapacho_jobs.payout_share";
static const char share_sql[] =
    "INSERT INTO apapacho_jobs.payout_share (part, run_id, after_id, until_id) VALUES ($1, $2, $3, $4)";
static const char read_sql[] =
    "SELECT s.after_id, s.until_id FROM apapacho_jobs.payout_share AS s WHERE s.part = $1 AND s.run_id = $2";
static const char report_sql[] =
    "UPDATE apapacho_jobs.payout_share SET looked_at = $3, errors = $4, after_id = $5, done = $6"
    " WHERE part = $1 AND run_id = $2";
static const char progress_sql[] = "SELECT COALESCE(pg_catalog.sum(s.looked_at), 0)::bigint FROM"
                                   " apapacho_jobs.payout_share AS s";
static const char result_sql[] =
    "SELECT s.after_id, s.until_id, s.errors, s.done::integer, s.looked_at FROM apapacho_jobs.payout_share AS s"
    " WHERE s.part = $1";

static Datum
text_or_null(const char *text, char *is_null)
{
    *is_null = text != NULL ? ' ' : 'n';
    return text != NULL ? CStringGetTextDatum(text) : (Datum)0;
}

static void
stop_at_exit(int code, Datum argument)
{
    for (int part = 0; part < MOST_PARTS; part++) {
        if (helpers[part] != NULL)
            TerminateBackgroundWorker(helpers[part]);
    }
}

static BackgroundWorkerHandle *
start(const HelperSpec *spec)
{
    BackgroundWorkerHandle *handle;
    BackgroundWorker worker;

    memset(&worker, 0, sizeof(worker));
    worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
    worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
    worker.bgw_restart_time = BGW_NEVER_RESTART;
    worker.bgw_notify_pid = MyProcPid;
    strlcpy(worker.bgw_name, "apapacho_jobs payout helper", BGW_MAXLEN);
    strlcpy(worker.bgw_type, "apapacho_jobs payout helper", BGW_MAXLEN);
    strlcpy(worker.bgw_library_name, "apapacho_jobs", sizeof(worker.bgw_library_name));
    strlcpy(worker.bgw_function_name, "apapacho_payout_helper_main", BGW_MAXLEN);
    memcpy(worker.bgw_extra, spec, sizeof(*spec));
    return RegisterDynamicBackgroundWorker(&worker, &handle) ? handle : NULL;
}

static bool
any_at_work(void)
{
    bool any = false;
    pid_t pid;

    for (int part = 0; part < MOST_PARTS; part++)
        any = any || (helpers[part] != NULL && GetBackgroundWorkerPid(helpers[part], &pid) != BGWH_STOPPED);
    return any;
}

/* Writes down what the helpers are to do: the first range, up to range->after by then, is the worker's own. */
static void
write_shares(PayRange *range, int parts, int64 to_look_at)
{
    MemoryContext context = range->run->context;
    char *bounds[MOST_PARTS];
    RunAs saved;

    payout_range_begin(range, "dividing the creators among helpers", &saved);
    for (int part = 1; part < parts; part++)
        bounds[part] = payout_nth_creator(range->everybody, to_look_at * part / parts);
    run_as_end(&saved);
    (void)spi_run(forget_sql, 0, NULL, NULL, NULL, false, 0);
    for (int part = 1; part < parts; part++) {
        Oid types[] = {INT4OID, TEXTOID, TEXTOID, TEXTOID};
        Datum values[4] = {Int32GetDatum(part), CStringGetTextDatum(range->run_id)};
        char nulls[4] = {' ', ' '};

        values[2] = text_or_null(bounds[part], &nulls[2]);
        values[3] = text_or_null(part + 1 < parts ? bounds[part + 1] : NULL, &nulls[3]);
        (void)spi_run(share_sql, 4, types, values, nulls, false, 0);
    }
    if (bounds[1] != NULL)
        range->until = MemoryContextStrdup(context, bounds[1]);
    xact_commit();
}

static void
start_helpers(const PayRange *range, int parts)
{
    static bool registered = false;
    HelperSpec spec = {
        .database = MyDatabaseId, .run = range->run->id, .trigger = range->run->trigger, .everybody = range->everybody};
    MemoryContext before = MemoryContextSwitchTo(TopMemoryContext);

    if (!registered)
        before_shmem_exit(stop_at_exit, (Datum)0);
    registered = true;
    strlcpy(spec.run_id, range->run_id, sizeof(spec.run_id));
    for (spec.part = 1; spec.part < parts; spec.part++)
        helpers[spec.part] = start(&spec);
    MemoryContextSwitchTo(before);
}

/* Ends all helpers and forgets them. */
static void
stop_helpers(void)
{
    HOLD_CANCEL_INTERRUPTS(); /* it is an end already */
    while (any_at_work()) {
        stop_at_exit(0, (Datum)0);
        (void)WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, REPORT_MS, PG_WAIT_EXTENSION);
        ResetLatch(MyLatch);
        if (ProcSignalBarrierPending)
            ProcessProcSignalBarrier();
        if (ProcDiePending)
            break; /* it will be done at exit */
    }
    RESUME_CANCEL_INTERRUPTS();
    for (int part = 0; part < MOST_PARTS && !ProcDiePending; part++) {
        if (helpers[part] != NULL)
            pfree(helpers[part]);
        helpers[part] = NULL;
    }
}

static void
report_progress(const PayRange *range, void *state)
{
    int64 done = range->looked_at;

    if (any_at_work()) {
        xact_begin("looking how far the helpers are");
        (void)spi_run(progress_sql, 0, NULL, NULL, NULL, true, 1);
        done += spi_int64(0, 1);
        xact_commit();
    }
    job_progress(done, Max(*(int64 *)state, done), "creators");
}

static void
wait_for_helpers(const PayRange *range, int64 to_look_at)
{
    while (any_at_work()) {
        if (job_should_stop(range->run))
            break;
        (void)WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, REPORT_MS, PG_WAIT_EXTENSION);
        ResetLatch(MyLatch);
        report_progress(range, &to_look_at);
    }
}

/* Adds up what the helpers have done, and does what they have not. */
static void
finish_shares(PayRange *range, int parts, int64 to_look_at)
{
    for (int part = 1; part < parts; part++) {
        Oid type = INT4OID;
        Datum value = Int32GetDatum(part);
        bool done;

        xact_begin("looking what the helpers have done");
        (void)spi_run(result_sql, 1, &type, &value, NULL, true, 1);
        range->errors += spi_int64(0, 3);
        range->looked_at += spi_int64(0, 5);
        done = spi_int64(0, 4) != 0;
        MemoryContextSwitchTo(range->run->context);
        range->after = spi_text(0, 1);
        range->until = spi_text(0, 2);
        xact_commit();
        MemoryContextSwitchTo(range->run->context);
        if (!done)
            payout_pay_range(range, report_progress, &to_look_at);
    }
    xact_begin("forgetting the helpers");
    (void)spi_run(forget_sql, 0, NULL, NULL, NULL, false, 0);
    xact_commit();
}

static void
pay_with_helpers(PayRange *range, int parts, int64 to_look_at)
{
    write_shares(range, parts, to_look_at);
    PG_TRY();
    {
        start_helpers(range, parts);
        payout_pay_range(range, report_progress, &to_look_at);
        wait_for_helpers(range, to_look_at);
    }
    PG_FINALLY();
    {
        stop_helpers();
    }
    PG_END_TRY();
    if (!job_was_stopped())
        finish_shares(range, parts, to_look_at);
}

void
payout_share_out(PayRange *range, int64 to_look_at)
{
    int64 worth = to_look_at / ((int64)setting_payout_batch_size * WORTH_BATCHES);
    int parts = (int)Min(setting_payout_workers, worth);

    if (parts > 1)
        pay_with_helpers(range, parts, to_look_at);
    else
        payout_pay_range(range, report_progress, &to_look_at);
}

/* In a helper: how far it is, in its row. */
static void
report_share(const PayRange *range, int part, bool done)
{
    Oid types[] = {INT4OID, TEXTOID, INT8OID, INT8OID, TEXTOID, BOOLOID};
    Datum values[6] = {Int32GetDatum(part), CStringGetTextDatum(range->run_id), Int64GetDatum(range->looked_at),
                       Int64GetDatum(range->errors)};
    char nulls[6] = {' ', ' ', ' ', ' ', ' ', ' '};

    xact_begin("telling how far it is");
    xact_flush_later();
    values[4] = text_or_null(range->after, &nulls[4]);
    values[5] = BoolGetDatum(done);
    (void)spi_run(report_sql, 6, types, values, nulls, false, 0);
    xact_commit();
}

static void
report_batch(const PayRange *range, void *state)
{
    report_share(range, *(int *)state, false);
}

/* In a helper: its range and the rules. False when the run has ended meanwhile. */
static bool
read_share(const HelperSpec *spec, PayRange *range)
{
    MemoryContext context = range->run->context;
    Oid types[] = {INT4OID, TEXTOID};
    Datum values[2] = {Int32GetDatum(spec->part)};
    bool found;

    xact_begin("reading what is to be done");
    values[1] = CStringGetTextDatum(spec->run_id);
    found = spi_run(read_sql, 2, types, values, NULL, true, 1) == 1;
    if (found) {
        MemoryContextSwitchTo(context);
        range->after = spi_text(0, 1);
        range->until = spi_text(0, 2);
        range->run_id = pstrdup(spec->run_id);
        payout_read_run(spec->run_id, &range->rules);
        range->rules.fee_schedule = MemoryContextStrdup(context, range->rules.fee_schedule);
        range->rules.frequency = MemoryContextStrdup(context, range->rules.frequency);
        range->rules.zone = MemoryContextStrdup(context, range->rules.zone);
        payout_lock_tag(&range->lock);
    }
    xact_commit();
    return found;
}

void
apapacho_payout_helper_main(Datum argument)
{
    MemoryContext context;
    HelperSpec spec;
    JobRun run;
    PayRange range = {.takes_lock = false};

    memcpy(&spec, MyBgworkerEntry->bgw_extra, sizeof(spec));
    pqsignal(SIGHUP, SignalHandlerForConfigReload);
    pqsignal(SIGTERM, die);
    BackgroundWorkerUnblockSignals();
    session_start(spec.database, InvalidOid, "0");
    context = AllocSetContextCreate(TopMemoryContext, "apapacho_jobs payout helper", ALLOCSET_DEFAULT_SIZES);
    run = (JobRun){.id = spec.run, .trigger = spec.trigger, .arguments = "", .context = context};
    range.run = &run;
    range.everybody = spec.everybody;
    job_begin();
    PG_TRY();
    {
        if (read_share(&spec, &range)) {
            MemoryContextSwitchTo(context);
            payout_pay_range(&range, report_batch, &spec.part);
            if (!job_was_stopped())
                report_share(&range, spec.part, true);
        }
    }
    PG_CATCH();
    {
        MemoryContextSwitchTo(context);
        EmitErrorReport(); /* the run does it itself, and ends by it */
        FlushErrorState();
        xact_abort();
    }
    PG_END_TRY();
    proc_exit(0);
}
