/*
 * dispatch.c: runs in shared memory, as seen by those who ask for them: schedulers and backends that run jobs by hand.
 * Asks the postmaster for workers. The states are run_slots.c's.
 */
#include "postgres.h"

#include <signal.h>

#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "storage/dsm.h"
#include "storage/ipc.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

#include "scheduler/dispatch.h"
#include "scheduler/history.h"
#include "scheduler/run_slots.h"
#include "scheduler/worker.h"
#include "server/compat.h"

#define PATIENCE_MS 2000    /* with which a run by hand waits for a background worker, */
#define PATIENCE_TICK_MS 50 /* looking so often */
#define HISTORY_BLOCKED_MS 2000
#define WAIT_TICK_MS 1000 /* how often a waiting backend looks for trouble */

/* Asks the postmaster for the worker of a run in state STARTING; without shared->lock. */
static bool
register_worker(int slot, uint64 sequence, const char *name)
{
    BackgroundWorker worker;

    memset(&worker, 0, sizeof(worker));
    worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
    worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
    worker.bgw_restart_time = BGW_NEVER_RESTART;
    worker.bgw_main_arg = Int32GetDatum(slot);
    snprintf(worker.bgw_name, BGW_MAXLEN, "apapacho_jobs worker: %s", name);
    strlcpy(worker.bgw_type, "apapacho_jobs worker", BGW_MAXLEN);
    strlcpy(worker.bgw_library_name, "apapacho_jobs", sizeof(worker.bgw_library_name));
    strlcpy(worker.bgw_function_name, "apapacho_worker_main", BGW_MAXLEN);
    memcpy(worker.bgw_extra, &sequence, sizeof(sequence));
    return RegisterDynamicBackgroundWorker(&worker, NULL);
}

/* Others wait for a run's end, or for its worker: it is not to wait for more work. */
static void
end_idleness(RunSlot *run)
{
    run->leave_idleness = true;
    if (run->idle)
        shared_wake(run->process);
}

bool
dispatch_start_queued(char *starved)
{
    for (;;) {
        char name[NAMEDATALEN];
        char shown[NAMEDATALEN];
        uint64 sequence = 0;
        int64 job = 0;
        int slot;

        LWLockAcquire(shared->lock, LW_EXCLUSIVE);
        run_reap_starting();
        slot = run_find_startable();
        if (slot >= 0) {
            sequence = shared->runs[slot].sequence;
            strlcpy(name, shared->runs[slot].spec.name, sizeof(name));
            job = shared->runs[slot].spec.job;
            run_set_state(&shared->runs[slot], RUN_STARTING);
        }
        LWLockRelease(shared->lock);
        if (slot < 0)
            return false;
        /* everybody can see it: users' jobs go by their number */
        if (job_is_builtin(job))
            strlcpy(shown, job_definitions[job - 1].long_name, sizeof(shown));
        else
            snprintf(shown, sizeof(shown), "job %lld", (long long)job);
        if (!register_worker(slot, sequence, shown)) {
            RunSlot *run = &shared->runs[slot];
            SchedulerSlot *scheduler;

            LWLockAcquire(shared->lock, LW_EXCLUSIVE);
            if (run->sequence == sequence && run->state == RUN_STARTING)
                run_set_state(run, RUN_QUEUED);
            for (int i = 0; i < MAX_RUNS; i++) {
                if (shared->runs[i].state == RUN_RUNNING && shared->runs[i].idle)
                    end_idleness(&shared->runs[i]);
            }
            scheduler = scheduler_find(run->spec.database);
            if (scheduler != NULL && scheduler->process != MY_PROC_NUMBER)
                shared_wake(scheduler->process); /* which tries again in a while */
            LWLockRelease(shared->lock);
            if (starved != NULL)
                strlcpy(starved, name, NAMEDATALEN);
            return true;
        }
    }
}

/* A run by hand: joins the one that is queued, or is queued itself. */
static RequestResult
request_by_hand(const RunSpec *spec, int *slot)
{
    int queued = run_find(spec->database, spec->job, true);

    if (queued >= 0) {
        *slot = queued;
        return strcmp(shared->runs[queued].spec.arguments, spec->arguments) == 0 ? REQUEST_QUEUED : REQUEST_OVERLAP;
    }
    *slot = run_allocate(spec);
    return *slot >= 0 ? REQUEST_QUEUED : REQUEST_NO_SLOT;
}

/* No worker was to be had for a run by hand that nobody but its caller waits for: it is not to start later. */
static bool
give_up(int slot, uint64 sequence, bool wait)
{
    RunSlot *run = &shared->runs[slot];
    bool given_up;

    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    given_up = run->sequence == sequence && run->state == RUN_QUEUED && run->waiters <= (wait ? 1 : 0) &&
               run_find(run->spec.database, run->spec.job, false) < 0;
    if (given_up) {
        run->waiters = 0;
        run_set_state(run, RUN_FREE);
    }
    LWLockRelease(shared->lock);
    return given_up;
}

/* Ends the waiting of one backend, at exit and on error too. */
static void
stop_waiting(int code, Datum arg)
{
    RunSlot *run = &shared->runs[DatumGetInt32(arg)];

    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    run->waiters--;
    if (run->waiters == 0 && run->state == RUN_FINISHED && !run->unrecorded)
        run_set_state(run, RUN_FREE);
    LWLockRelease(shared->lock);
}

/*
 * By hand: a worker was not to be had at once, perhaps since others are just leaving. Tries again for a while. Whether
 * the run is on its way then. Interruptible: the run stays queued.
 */
static bool
look_for_worker(int slot, uint64 sequence)
{
    const RunSlot *run = &shared->runs[slot];

    for (int waited = 0; waited < PATIENCE_MS; waited += PATIENCE_TICK_MS) {
        bool queued;

        (void)WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, PATIENCE_TICK_MS, PG_WAIT_EXTENSION);
        ResetLatch(MyLatch);
        CHECK_FOR_INTERRUPTS();
        (void)dispatch_start_queued(NULL);
        LWLockAcquire(shared->lock, LW_SHARED);
        queued = run->sequence == sequence && run->state == RUN_QUEUED;
        LWLockRelease(shared->lock);
        if (!queued)
            return true;
    }
    return false;
}

static bool
find_worker(int slot, uint64 sequence, bool wait)
{
    volatile bool found;

    if (!wait)
        return look_for_worker(slot, sequence);
    PG_ENSURE_ERROR_CLEANUP(stop_waiting, Int32GetDatum(slot));
    {
        found = look_for_worker(slot, sequence);
    }
    PG_END_ENSURE_ERROR_CLEANUP(stop_waiting, Int32GetDatum(slot));
    return found;
}

RequestResult
dispatch_request(const RunSpec *spec, bool wait, RunTicket *ticket)
{
    RequestResult result = REQUEST_QUEUED;
    int slot = -1;
    bool starved;

    Assert(strlen(spec->arguments) < RUN_ARGUMENTS_SIZE);
    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    run_reap_starting();
    if (shared_is_released(spec->database) || shared_is_released(spec->run_database))
        result = REQUEST_RELEASED;
    else if (spec->trigger == JOB_TRIGGER_MANUAL)
        result = request_by_hand(spec, &slot);
    else if (run_find(spec->database, spec->job, true) >= 0)
        result = REQUEST_OVERLAP;
    else if ((slot = run_allocate(spec)) < 0)
        result = REQUEST_NO_SLOT;
    if (result == REQUEST_QUEUED) {
        int active = run_find(spec->database, spec->job, false);

        if (active >= 0)
            end_idleness(&shared->runs[active]);
        ticket->slot = slot;
        ticket->sequence = shared->runs[slot].sequence;
        ticket->id = shared->runs[slot].spec.id;
        if (wait)
            shared->runs[slot].waiters++;
    }
    LWLockRelease(shared->lock);
    if (result != REQUEST_QUEUED)
        return result;

    starved = dispatch_start_queued(NULL);
    if (starved && spec->trigger == JOB_TRIGGER_MANUAL && ticket->id == spec->id &&
        !find_worker(slot, ticket->sequence, wait) && give_up(slot, ticket->sequence, wait))
        return REQUEST_NO_WORKER;

    LWLockAcquire(shared->lock, LW_SHARED);
    if (ticket->id == spec->id &&
        !(shared->runs[slot].sequence == ticket->sequence && shared->runs[slot].state == RUN_QUEUED))
        result = REQUEST_STARTED;
    LWLockRelease(shared->lock);
    return result;
}

void
dispatch_look(Oid database, int64 job, bool wake, JobRuns *runs)
{
    int active;

    memset(runs, 0, sizeof(*runs));
    LWLockAcquire(shared->lock, wake ? LW_EXCLUSIVE : LW_SHARED);
    active = run_find(database, job, false);
    if (active >= 0) {
        RunSlot *run = &shared->runs[active];

        runs->active = true;
        runs->active_id = run->spec.id;
        runs->scheduled_for = run->spec.scheduled_for;
        runs->started_at = run->started_at;
        runs->progress = run->progress;
        runs->idle = run->idle;
        if (wake) {
            run->wake_scheduler = true;
            end_idleness(run);
        }
    }
    for (int i = 0; i < MAX_RUNS; i++) {
        RunSlot *run = &shared->runs[i];

        if (run->state != RUN_QUEUED || run->spec.database != database || run->spec.job != job)
            continue;
        if (wake)
            run->wake_scheduler = true;
        runs->queued++;
        if (runs->queued_id == 0 || run->spec.id < runs->queued_id) {
            runs->queued_id = run->spec.id;
            runs->queued_by_hand = run->spec.trigger == JOB_TRIGGER_MANUAL;
            runs->queued_since = run->requested_at;
        }
    }
    LWLockRelease(shared->lock);
}

bool
dispatch_withdraw(Oid database, int64 id, RunSpec *spec)
{
    dsm_handle command = DSM_HANDLE_INVALID;
    bool withdrawn;
    int slot;

    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    slot = run_find_id(database, id);
    withdrawn = slot >= 0 && shared->runs[slot].state == RUN_QUEUED;
    if (withdrawn) {
        *spec = shared->runs[slot].spec;
        command = spec->command;
        run_end_with_error(&shared->runs[slot], STATUS_NO_WORKER, ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
                           "no background worker was free for the run", false);
    }
    LWLockRelease(shared->lock);
    run_release_command(command);
    return withdrawn;
}

bool
dispatch_cancel(Oid database, int64 id)
{
    dsm_handle command = DSM_HANDLE_INVALID;
    int slot;

    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    slot = run_find_id(database, id);
    if (slot >= 0) {
        RunSlot *run = &shared->runs[slot];

        run->cancel_requested = true;
        if (run->state == RUN_QUEUED) {
            command = run->spec.command;
            run_end_with_error(run, STATUS_CANCELLED, ERRCODE_QUERY_CANCELED, "the run was cancelled before it began",
                               true);
        } else if (run->state == RUN_RUNNING)
            kill(run->pid, SIGINT);
    }
    LWLockRelease(shared->lock);
    run_release_command(command);
    return slot >= 0;
}

void
dispatch_wake_worker(Oid database, int64 job)
{
    int active;

    LWLockAcquire(shared->lock, LW_SHARED);
    active = run_find(database, job, false);
    if (active >= 0)
        shared_wake(shared->runs[active].process);
    LWLockRelease(shared->lock);
}

void
dispatch_forget(Oid database)
{
    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    for (int i = 0; i < MAX_RUNS; i++) {
        RunSlot *run = &shared->runs[i];

        if (run->spec.database != database)
            continue;
        if (run->state == RUN_QUEUED)
            run_end_with_error(run, STATUS_INTERRUPTED, ERRCODE_OBJECT_IN_USE,
                               "the extension or its database has been dropped", false);
        else if (run->state == RUN_FINISHED) {
            run->unrecorded = false;
            if (run->waiters == 0)
                run_set_state(run, RUN_FREE);
        }
    }
    LWLockRelease(shared->lock);
}

int
dispatch_active_ids(Oid database, int64 *ids)
{
    int count = 0;

    LWLockAcquire(shared->lock, LW_SHARED);
    for (int i = 0; i < MAX_RUNS; i++) {
        RunSlot *run = &shared->runs[i];

        if (run->spec.database == database && run->state != RUN_FREE && (run->state != RUN_FINISHED || run->unrecorded))
            ids[count++] = run->spec.id;
    }
    LWLockRelease(shared->lock);
    return count;
}

bool
dispatch_take_unrecorded(Oid database, UnrecordedRun *taken)
{
    bool found = false;

    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    for (int i = 0; i < MAX_RUNS && !found; i++) {
        RunSlot *run = &shared->runs[i];

        if (run->state != RUN_FINISHED || !run->unrecorded || run->spec.database != database)
            continue;
        found = true;
        taken->spec = run->spec;
        taken->started_at = run->started_at;
        taken->finished_at = run->state_since;
        taken->pid = run->pid;
        taken->outcome = run->outcome;
        run->unrecorded = false;
        if (run->waiters == 0)
            run_set_state(run, RUN_FREE);
    }
    LWLockRelease(shared->lock);
    return found;
}

void
dispatch_note_history_blocked(Oid database)
{
    SchedulerSlot *scheduler;

    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    scheduler = scheduler_find(database);
    if (scheduler != NULL)
        scheduler->history_blocked_until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), HISTORY_BLOCKED_MS);
    LWLockRelease(shared->lock);
}

bool
dispatch_history_is_blocked(Oid database)
{
    SchedulerSlot *scheduler;
    TimestampTz now = GetCurrentTimestamp();
    bool blocked;

    LWLockAcquire(shared->lock, LW_SHARED);
    scheduler = scheduler_find(database);
    /* not for longer, should the clock have been set back */
    blocked = scheduler != NULL && now < scheduler->history_blocked_until &&
              scheduler->history_blocked_until - now <= HISTORY_BLOCKED_MS * INT64CONST(1000);
    LWLockRelease(shared->lock);
    return blocked;
}

void
dispatch_report_lost(Oid database)
{
    SchedulerSlot *scheduler;

    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    scheduler = scheduler_find(database);
    if (scheduler != NULL) {
        scheduler->lost_runs = true;
        shared_wake(scheduler->process);
    }
    LWLockRelease(shared->lock);
}

/* The worker that must get on for the run to end: its own, or that of the run it is queued behind; 0: none. */
static pid_t
blocking_worker(const RunSlot *run)
{
    int active;

    if (run->state != RUN_QUEUED)
        return run->state == RUN_FINISHED ? 0 : run->pid;
    active = run_find(run->spec.database, run->spec.job, false);
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
    if (worker == MyProcPid)
        ereport(ERROR,
                (errcode(ERRCODE_T_R_DEADLOCK_DETECTED), errmsg("a run of the job cannot wait for another run of it"),
                 errhint("Run it without waiting: apapacho_run_job(job, wait => false).")));
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
            pid_t worker;

            LWLockAcquire(shared->lock, LW_SHARED);
            Assert(run->sequence == ticket->sequence);
            finished = run->state == RUN_FINISHED;
            worker = blocking_worker(run);
            ticket->id = run->spec.id;
            if (finished)
                *outcome = run->outcome;
            LWLockRelease(shared->lock);
            if (finished)
                break;
            if (worker == MyProcPid)
                check_blocked_by_us(worker);
            if (ConditionVariableTimedSleep(&run->changed, WAIT_TICK_MS, PG_WAIT_EXTENSION)) {
                check_blocked_by_us(worker);
                (void)dispatch_start_queued(NULL);
            }
        }
        ConditionVariableCancelSleep();
    }
    PG_END_ENSURE_ERROR_CLEANUP(stop_waiting, Int32GetDatum(ticket->slot));
    stop_waiting(0, Int32GetDatum(ticket->slot));
}

void
dispatch_terminate(Oid database)
{
    LWLockAcquire(shared->lock, LW_SHARED);
    for (int i = 0; i < MAX_RUNS; i++) {
        if (shared->runs[i].spec.run_database == database && shared->runs[i].state == RUN_RUNNING)
            kill(shared->runs[i].pid, SIGTERM);
    }
    LWLockRelease(shared->lock);
}

bool
dispatch_any_queued(Oid database)
{
    bool any = false;

    LWLockAcquire(shared->lock, LW_SHARED);
    for (int i = 0; i < MAX_RUNS; i++)
        any = any || (shared->runs[i].state == RUN_QUEUED && shared->runs[i].spec.database == database);
    LWLockRelease(shared->lock);
    return any;
}

bool
dispatch_any(Oid database)
{
    bool any = false;

    LWLockAcquire(shared->lock, LW_SHARED);
    for (int i = 0; i < MAX_RUNS; i++)
        any = any || (shared->runs[i].spec.run_database == database && run_is_active(&shared->runs[i]));
    LWLockRelease(shared->lock);
    return any;
}
