/*
 * dispatch.c: the one place that changes the state of a run in shared memory, and asks the postmaster for its worker.
 *
 * Called by backends that run jobs by hand, by schedulers and by workers. Every change is made under shared->lock,
 * which is never held over anything that can fail or wait. A run is owned by its requester until a worker has attached,
 * then by that worker until it ends; what has ended is kept for as long as somebody waits for it.
 *
 *     FREE -> STARTING (worker asked for) -> RUNNING (attached) -> FINISHED (waited for) -> FREE
 *     FREE -> QUEUED (the job is at work) -> RUNNING by the same worker, or STARTING by whoever notices that there is
 * none
 */
#include "postgres.h"

#include <signal.h>

#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

#include "scheduler/dispatch.h"
#include "scheduler/worker.h"
#include "server/compat.h"

#define STARTING_TIMEOUT_MS 15000 /* a worker that has not attached by then never will */
#define WAIT_TICK_MS 1000         /* how often a waiting backend looks for trouble */

static int attached_slot = -1; /* the run that this process, a worker, is at; -1: none */

static bool
is_active(const RunSlot *run)
{
    return run->state == RUN_STARTING || run->state == RUN_RUNNING;
}

/* The slot of a job's run that is at work (or queued); -1: none. */
static int
find_run(Oid database, JobId job, bool queued)
{
    for (int i = 0; i < MAX_RUNS; i++) {
        RunSlot *run = &shared->runs[i];

        if (run->database == database && run->job == job && (queued ? run->state == RUN_QUEUED : is_active(run)))
            return i;
    }
    return -1;
}

static void
set_state(RunSlot *run, RunState state)
{
    switch (state) {
    case RUN_QUEUED:
        Assert(run->state == RUN_FREE);
        break;
    case RUN_STARTING:
        Assert(run->state == RUN_FREE || run->state == RUN_QUEUED);
        break;
    case RUN_RUNNING:
        Assert(run->state == RUN_STARTING || run->state == RUN_QUEUED);
        break;
    case RUN_FINISHED:
        Assert(is_active(run) || run->state == RUN_QUEUED);
        break;
    case RUN_FREE:
        break;
    }
    run->state = state;
    run->state_since = GetCurrentTimestamp();
    ConditionVariableBroadcast(&run->changed);
}

static SchedulerSlot *
find_scheduler(Oid database)
{
    for (int i = 0; i < MAX_SCHEDULERS; i++) {
        SchedulerSlot *scheduler = &shared->schedulers[i];

        if (scheduler->state == SCHEDULER_RUNNING && scheduler->database == database)
            return scheduler;
    }
    return NULL;
}

/* A scheduled run ends before it has so much as an id: its scheduler is to ask for it again. */
static void
report_not_begun(const RunSlot *run)
{
    SchedulerSlot *scheduler = find_scheduler(run->database);

    if (run->trigger == JOB_TRIGGER_MANUAL || run->id != 0 || scheduler == NULL)
        return;
    scheduler->jobs[run->job].not_begun = run->scheduled_for;
    shared_wake(scheduler->process);
}

/* The run is over: keeps it for those who wait, else frees the slot. */
static void
end_run(RunSlot *run, const RunOutcome *outcome)
{
    run->pid = 0;
    run->process = NO_PROCESS;
    if (run->waiters > 0) {
        run->outcome = *outcome;
        set_state(run, RUN_FINISHED);
    } else
        set_state(run, RUN_FREE);
}

static void
end_run_with_error(RunSlot *run, const char *status, int sqlstate, const char *message)
{
    RunOutcome outcome = {0};

    strlcpy(outcome.status, status, sizeof(outcome.status));
    strlcpy(outcome.message, message, sizeof(outcome.message));
    outcome.sqlstate = sqlstate;
    end_run(run, &outcome);
}

/* A free slot, made into a run in `state`; -1: all are taken. */
static int
allocate(const RunRequest *request, RunState state)
{
    for (int i = 0; i < MAX_RUNS; i++) {
        RunSlot *run = &shared->runs[i];

        if (run->state != RUN_FREE)
            continue;
        run->sequence = ++shared->last_sequence;
        run->id = request->id;
        run->database = request->database;
        run->job = request->job;
        run->trigger = request->trigger;
        run->requested_by = request->requested_by;
        run->scheduled_for = request->scheduled_for;
        run->waiters = 0;
        run->pid = 0;
        run->process = NO_PROCESS;
        strlcpy(run->arguments, request->arguments, sizeof(run->arguments));
        memset(&run->outcome, 0, sizeof(run->outcome));
        set_state(run, state);
        return i;
    }
    return -1;
}

/* Asks the postmaster for the worker of a run in state STARTING; without shared->lock. */
static bool
register_worker(int slot, uint64 sequence, JobId job)
{
    BackgroundWorker worker;

    memset(&worker, 0, sizeof(worker));
    worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
    worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
    worker.bgw_restart_time = BGW_NEVER_RESTART;
    worker.bgw_main_arg = Int32GetDatum(slot);
    snprintf(worker.bgw_name, BGW_MAXLEN, "apapacho_jobs worker: %s", job_definitions[job].long_name);
    strlcpy(worker.bgw_type, "apapacho_jobs worker", BGW_MAXLEN);
    strlcpy(worker.bgw_library_name, "apapacho_jobs", sizeof(worker.bgw_library_name));
    strlcpy(worker.bgw_function_name, "apapacho_worker_main", BGW_MAXLEN);
    memcpy(worker.bgw_extra, &sequence, sizeof(sequence));
    return RegisterDynamicBackgroundWorker(&worker, NULL);
}

/* Frees a run whose worker could not be had; tells those who wait. */
static void
starting_failed(int slot, uint64 sequence)
{
    RunSlot *run = &shared->runs[slot];

    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    if (run->sequence == sequence && run->state == RUN_STARTING)
        end_run_with_error(run, "no_worker", ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
                           "no background worker was free for the run");
    LWLockRelease(shared->lock);
}

/* Under shared->lock: workers that were asked for long ago and never came will not come any more. */
static void
reap_starting(Oid database)
{
    for (int i = 0; i < MAX_RUNS; i++) {
        RunSlot *run = &shared->runs[i];

        if (run->database == database && run->state == RUN_STARTING &&
            TimestampDifferenceExceeds(run->state_since, GetCurrentTimestamp(), STARTING_TIMEOUT_MS)) {
            report_not_begun(run);
            end_run_with_error(run, "no_worker", ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
                               "the run's background worker did not start");
        }
    }
}

/* If a run of the job is queued and none is at work, starts it. */
static void
start_queued(Oid database, JobId job)
{
    int slot = -1;
    uint64 sequence = 0;

    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    reap_starting(database);
    if (find_run(database, job, false) < 0 && !shared_is_released(database))
        slot = find_run(database, job, true);
    if (slot >= 0) {
        sequence = shared->runs[slot].sequence;
        set_state(&shared->runs[slot], RUN_STARTING);
    }
    LWLockRelease(shared->lock);
    if (slot >= 0 && !register_worker(slot, sequence, job))
        starting_failed(slot, sequence);
}

RequestResult
dispatch_request(const RunRequest *request, RunTicket *ticket)
{
    RequestResult result;
    int slot = -1;
    int active;
    int queued;

    Assert(strlen(request->arguments) < RUN_ARGUMENTS_SIZE);
    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    reap_starting(request->database);
    active = find_run(request->database, request->job, false);
    queued = find_run(request->database, request->job, true);
    if (shared_is_released(request->database))
        result = REQUEST_RELEASED;
    else if (active < 0 && queued < 0) {
        slot = allocate(request, RUN_STARTING);
        result = slot >= 0 ? REQUEST_STARTED : REQUEST_NO_SLOT;
    } else if (request->trigger != JOB_TRIGGER_MANUAL)
        result = REQUEST_OVERLAP;
    else if (queued < 0) {
        slot = allocate(request, RUN_QUEUED);
        result = slot >= 0 ? REQUEST_QUEUED : REQUEST_NO_SLOT;
    } else if (strcmp(shared->runs[queued].arguments, request->arguments) == 0) {
        slot = queued;
        result = REQUEST_QUEUED;
    } else
        result = REQUEST_OVERLAP;
    if (slot >= 0) {
        ticket->slot = slot;
        ticket->sequence = shared->runs[slot].sequence;
        ticket->id = shared->runs[slot].id;
        if (request->wait)
            shared->runs[slot].waiters++;
    }
    LWLockRelease(shared->lock);

    if (result == REQUEST_STARTED && !register_worker(slot, ticket->sequence, request->job)) {
        LWLockAcquire(shared->lock, LW_EXCLUSIVE);
        if (request->wait)
            shared->runs[slot].waiters--;
        LWLockRelease(shared->lock);
        starting_failed(slot, ticket->sequence);
        result = REQUEST_NO_WORKER;
    } else if (active < 0 && queued >= 0)
        start_queued(request->database, request->job); /* it lost the worker that it was to follow */
    return result;
}

void
dispatch_start_queued(Oid database)
{
    for (int job = 0; job < JOB_COUNT; job++)
        start_queued(database, (JobId)job);
}

void
dispatch_forget(Oid database)
{
    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    for (int i = 0; i < MAX_RUNS; i++) {
        RunSlot *run = &shared->runs[i];

        if (run->database == database && run->state == RUN_QUEUED)
            end_run_with_error(run, "interrupted", ERRCODE_OBJECT_IN_USE, "the database has been dropped");
    }
    LWLockRelease(shared->lock);
}

/* Under shared->lock. */
static void
report_lost(Oid database)
{
    SchedulerSlot *scheduler = find_scheduler(database);

    if (scheduler != NULL) {
        scheduler->lost_runs = true;
        shared_wake(scheduler->process);
    }
}

void
dispatch_report_lost(Oid database)
{
    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    report_lost(database);
    LWLockRelease(shared->lock);
}

/* Ends the waiting of one backend, at exit and on error too. */
static void
stop_waiting(int code, Datum arg)
{
    RunSlot *run = &shared->runs[DatumGetInt32(arg)];

    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    run->waiters--;
    if (run->waiters == 0 && run->state == RUN_FINISHED)
        set_state(run, RUN_FREE);
    LWLockRelease(shared->lock);
}

/* The worker that must get on for the run to end: its own, or that of the run it is queued behind; 0: none. */
static pid_t
blocking_worker(const RunSlot *run)
{
    int active;

    if (run->state != RUN_QUEUED)
        return run->pid;
    active = find_run(run->database, run->job, false);
    return active >= 0 ? shared->runs[active].pid : 0;
}

/* The worker may need what this transaction has locked, and would wait for ever: that is a deadlock nobody else sees.
 */
static void
check_blocked_by_us(pid_t worker)
{
    ArrayType *pids;
    int32 *values;

    if (worker == 0)
        return;
    pids = DatumGetArrayTypeP(DirectFunctionCall1(pg_blocking_pids, Int32GetDatum(worker)));
    values = (int32 *)ARR_DATA_PTR(pids);
    for (int i = 0; i < ArrayGetNItems(ARR_NDIM(pids), ARR_DIMS(pids)); i++) {
        if (values[i] == MyProcPid)
            ereport(ERROR,
                    (errcode(ERRCODE_T_R_DEADLOCK_DETECTED),
                     errmsg("the run waits for a lock that this transaction holds"),
                     errhint("Commit first, or run the job without waiting: apapacho_run_job(job, wait => false).")));
    }
}

void
dispatch_wait(RunTicket *ticket, RunOutcome *outcome)
{
    RunSlot *run = &shared->runs[ticket->slot];

    PG_ENSURE_ERROR_CLEANUP(stop_waiting, Int32GetDatum(ticket->slot));
    {
        ConditionVariablePrepareToSleep(&run->changed);
        for (;;) {
            bool finished;
            JobId job;
            pid_t worker;

            LWLockAcquire(shared->lock, LW_SHARED);
            Assert(run->sequence == ticket->sequence);
            finished = run->state == RUN_FINISHED;
            job = run->job;
            worker = blocking_worker(run);
            ticket->id = run->id;
            if (finished)
                *outcome = run->outcome;
            LWLockRelease(shared->lock);
            if (finished)
                break;
            if (ConditionVariableTimedSleep(&run->changed, WAIT_TICK_MS, PG_WAIT_EXTENSION)) {
                check_blocked_by_us(worker);
                start_queued(MyDatabaseId, job);
            }
        }
        ConditionVariableCancelSleep();
    }
    PG_END_ENSURE_ERROR_CLEANUP(stop_waiting, Int32GetDatum(ticket->slot));
    stop_waiting(0, Int32GetDatum(ticket->slot));
}

/* The worker exits in the middle of its run (FATAL): the run is over, and its history is for the scheduler to correct.
 */
static void
worker_exit(int code, Datum arg)
{
    RunSlot *run;
    Oid database;
    JobId job;

    if (attached_slot < 0)
        return;
    run = &shared->runs[attached_slot];
    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    database = run->database;
    job = run->job;
    report_not_begun(run);
    end_run_with_error(run, "crashed", ERRCODE_INTERNAL_ERROR, "the run's worker ended without reporting");
    report_lost(database);
    LWLockRelease(shared->lock);
    attached_slot = -1;
    start_queued(database, job);
}

bool
dispatch_attach(int slot, uint64 sequence)
{
    RunSlot *run = &shared->runs[slot];
    bool wanted;

    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    wanted = run->state == RUN_STARTING && run->sequence == sequence;
    if (wanted && shared_is_released(run->database)) {
        wanted = false;
        end_run_with_error(run, "interrupted", ERRCODE_OBJECT_IN_USE, "the database is being dropped or moved");
    }
    if (wanted) {
        run->pid = MyProcPid;
        run->process = MY_PROC_NUMBER;
        attached_slot = slot;
        set_state(run, RUN_RUNNING);
    }
    LWLockRelease(shared->lock);
    if (wanted)
        before_shmem_exit(worker_exit, (Datum)0);
    return wanted;
}

void
dispatch_set_id(int slot, int64 id)
{
    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    shared->runs[slot].id = id;
    LWLockRelease(shared->lock);
}

int
dispatch_finish(int slot, const RunOutcome *outcome, bool take)
{
    RunSlot *run = &shared->runs[slot];
    Oid database;
    JobId job;
    int next;

    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    Assert(attached_slot == slot && run->state == RUN_RUNNING);
    database = run->database;
    job = run->job;
    end_run(run, outcome);
    next = take && !shared_is_released(database) ? find_run(database, job, true) : -1;
    attached_slot = next;
    if (next >= 0) {
        run = &shared->runs[next];
        run->pid = MyProcPid;
        run->process = MY_PROC_NUMBER;
        set_state(run, RUN_RUNNING);
    }
    LWLockRelease(shared->lock);
    if (next < 0)
        start_queued(database, job);
    return next;
}

bool
dispatch_active_ids(Oid database, int64 *ids, int *count)
{
    bool complete = true;

    *count = 0;
    LWLockAcquire(shared->lock, LW_SHARED);
    for (int i = 0; i < MAX_RUNS; i++) {
        RunSlot *run = &shared->runs[i];

        if (run->database != database || run->state == RUN_FREE || run->state == RUN_FINISHED)
            continue;
        /* an id taken beforehand (by hand) counts before its worker has come: it may insert the row at any moment */
        if (run->id != 0)
            ids[(*count)++] = run->id;
        else if (run->state == RUN_RUNNING)
            complete = false;
    }
    LWLockRelease(shared->lock);
    return complete;
}

bool
dispatch_executing(Oid database, JobId job, int64 *id)
{
    int slot;

    LWLockAcquire(shared->lock, LW_SHARED);
    slot = find_run(database, job, false);
    *id = slot >= 0 ? shared->runs[slot].id : 0;
    LWLockRelease(shared->lock);
    return slot >= 0;
}

void
dispatch_terminate(Oid database)
{
    LWLockAcquire(shared->lock, LW_SHARED);
    for (int i = 0; i < MAX_RUNS; i++) {
        if (shared->runs[i].database == database && shared->runs[i].state == RUN_RUNNING)
            kill(shared->runs[i].pid, SIGTERM);
    }
    LWLockRelease(shared->lock);
}

bool
dispatch_any(Oid database)
{
    bool any = false;

    LWLockAcquire(shared->lock, LW_SHARED);
    for (int i = 0; i < MAX_RUNS; i++)
        any = any || (shared->runs[i].database == database && is_active(&shared->runs[i]));
    LWLockRelease(shared->lock);
    return any;
}
