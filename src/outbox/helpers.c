/*
 * helpers.c: starts and ends the helpers of a run (in the worker of the run), and is their main function.
 */
#include "postgres.h"

#include <time.h>

#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/procsignal.h"
#include "tcop/tcopprot.h"
#include "utils/memutils.h"
#include "utils/wait_event.h"

#include "outbox/helpers.h"
#include "outbox/publisher.h"
#include "server/compat.h"
#include "server/session.h"
#include "server/shared.h"
#include "server/xact.h"

#define STOP_TICK_MS 1000
#define RECORDING_SECONDS 2

/* What a helper is told, in bgw_extra. */
typedef struct HelperSpec {
    Oid database;
    int slot; /* of the run */
    int seat; /* the same */
    int part;
    int parts;
    uint64 sequence;
    int64 run;
    JobTrigger trigger;
} HelperSpec;

StaticAssertDecl(sizeof(HelperSpec) <= BGW_EXTRALEN, "a helper's instructions must fit");

PGDLLEXPORT void apapacho_publisher_main(Datum argument);

static HelperSpec helper;                                    /* in a helper: its own */
static BackgroundWorkerHandle *helpers[OUTBOX_MOST_WORKERS]; /* by their part; NULL: none */

static void
stop_at_exit(int code, Datum argument)
{
    for (int part = 1; part < OUTBOX_MOST_WORKERS; part++) {
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
    strlcpy(worker.bgw_name, "apapacho_jobs publisher", BGW_MAXLEN);
    strlcpy(worker.bgw_type, "apapacho_jobs publisher", BGW_MAXLEN);
    strlcpy(worker.bgw_library_name, "apapacho_jobs", sizeof(worker.bgw_library_name));
    strlcpy(worker.bgw_function_name, "apapacho_publisher_main", BGW_MAXLEN);
    memcpy(worker.bgw_extra, spec, sizeof(*spec));
    return RegisterDynamicBackgroundWorker(&worker, &handle) ? handle : NULL;
}

int
helpers_start(const JobRun *run, int seat, int count)
{
    static bool registered = false;
    HelperSpec spec = {
        .database = MyDatabaseId, .seat = seat, .parts = count + 1, .run = run->id, .trigger = run->trigger};
    MemoryContext before;
    int started = 0;

    Assert(!helpers_any());
    if (shared_my_run == NULL)
        return 0;
    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    shared_my_run->helpers_to_end = false;
    LWLockRelease(shared->lock);
    if (!registered)
        before_shmem_exit(stop_at_exit, (Datum)0);
    registered = true;
    spec.slot = (int)(shared_my_run - shared->runs);
    spec.sequence = shared_my_run->sequence;
    before = MemoryContextSwitchTo(TopMemoryContext);
    for (spec.part = 1; spec.part <= count; spec.part++) {
        helpers[spec.part] = start(&spec);
        started += helpers[spec.part] != NULL;
    }
    MemoryContextSwitchTo(before);
    return started;
}

bool
helpers_has(int part)
{
    pid_t pid;

    if (helpers[part] == NULL)
        return false;
    if (GetBackgroundWorkerPid(helpers[part], &pid) != BGWH_STOPPED)
        return true;
    pfree(helpers[part]);
    helpers[part] = NULL;
    return false;
}

bool
helpers_any(void)
{
    bool any = false;

    for (int part = 1; part < OUTBOX_MOST_WORKERS; part++)
        any = helpers_has(part) || any;
    return any;
}

void
helpers_ask_to_end(void)
{
    if (shared_my_run == NULL)
        return;
    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    shared_my_run->helpers_to_end = true;
    LWLockRelease(shared->lock);
}

bool
helpers_asked_to_end(void)
{
    const RunSlot *run = &shared->runs[helper.slot];
    bool asked;

    LWLockAcquire(shared->lock, LW_SHARED);
    asked = run->sequence != helper.sequence || run->state != RUN_RUNNING || run->helpers_to_end;
    LWLockRelease(shared->lock);
    return asked;
}

void
helpers_stop(void)
{
    HOLD_CANCEL_INTERRUPTS(); /* it is an end already */
    while (helpers_any()) {
        stop_at_exit(0, (Datum)0); /* each time: one that swallows a cancellation is ended at last */
        (void)WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, STOP_TICK_MS, PG_WAIT_EXTENSION);
        ResetLatch(MyLatch);
        if (ProcSignalBarrierPending)
            ProcessProcSignalBarrier();
        if (ProcDiePending)
            break; /* it will be done at exit */
    }
    RESUME_CANCEL_INTERRUPTS();
}

void
helpers_totals(int64 *delivered, int64 *failed)
{
    *delivered = shared_my_run == NULL ? 0 : (int64)pg_atomic_read_u64(&shared_my_run->helped_delivered);
    *failed = shared_my_run == NULL ? 0 : (int64)pg_atomic_read_u64(&shared_my_run->helped_failed);
}

/*
 * As for a cancellation: what is known is recorded before the process ends. For a while a second signal, from the run
 * that ends too, changes nothing.
 */
static void
handle_terminate(SIGNAL_ARGS)
{
    static volatile time_t since;
    int saved_errno = errno;

    if (session_terminating) {
        if (time(NULL) - since >= RECORDING_SECONDS)
            die(postgres_signal_arg);
    } else {
        since = time(NULL);
        session_terminating = true;
        InterruptPending = true;
        QueryCancelPending = true;
        SetLatch(MyLatch);
    }
    errno = saved_errno;
}

/* What has been done goes to the run, if that is still the one. */
static void
add_to_run(const HelperSpec *spec, int64 delivered, int64 failed)
{
    RunSlot *run = &shared->runs[spec->slot];

    LWLockAcquire(shared->lock, LW_SHARED);
    if (run->sequence == spec->sequence && run->state == RUN_RUNNING) {
        pg_atomic_fetch_add_u64(&run->helped_delivered, delivered);
        pg_atomic_fetch_add_u64(&run->helped_failed, failed);
    }
    LWLockRelease(shared->lock);
}

void
apapacho_publisher_main(Datum argument)
{
    MemoryContext context;
    JobRun run;
    int64 delivered = 0;
    int64 failed = 0;

    memcpy(&helper, MyBgworkerEntry->bgw_extra, sizeof(helper));
    pqsignal(SIGHUP, SignalHandlerForConfigReload);
    pqsignal(SIGTERM, handle_terminate);
    BackgroundWorkerUnblockSignals();
    session_start(helper.database, InvalidOid, "0");
    context = AllocSetContextCreate(TopMemoryContext, "apapacho_jobs publisher", ALLOCSET_DEFAULT_SIZES);
    run = (JobRun){.id = helper.run, .trigger = helper.trigger, .arguments = "", .context = context};
    MemoryContextSwitchTo(context);
    PG_TRY();
    {
        publisher_help(&run, helper.seat, helper.part, helper.parts, &delivered, &failed);
    }
    PG_CATCH();
    {
        MemoryContextSwitchTo(context);
        if (!session_terminating)
            EmitErrorReport();
        FlushErrorState();
        xact_abort();
    }
    PG_END_TRY();
    add_to_run(&helper, delivered, failed);
    proc_exit(0); /* lets go of the slots */
}
