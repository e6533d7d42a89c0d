/*
 * dispatch_worker.c: runs in shared memory, as seen by the worker that does them: taking one over, ending it, going on
 * with the next; and what becomes of a run whose worker exits.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/ipc.h"

#include "scheduler/dispatch.h"
#include "scheduler/history.h"
#include "scheduler/run_slots.h"
#include "server/compat.h"
#include "server/session.h"

#define ENDED_RUNS_TO_WAKE 1000 /* the scheduler then prunes the history */

static int attached_slot = -1; /* the run that this process, a worker, is at; -1: none */
static int fatal_sqlstate;     /* of the FATAL error that this process ends by; 0: none */
static char fatal_message[RUN_MESSAGE_SIZE];

void
dispatch_note_fatal(int sqlstate, const char *message)
{
    fatal_sqlstate = sqlstate;
    shared_copy_text(fatal_message, sizeof(fatal_message), message);
}

/*
 * The worker exits in the middle of its run, by a FATAL error. A run that had not begun yet is queued again if the
 * process was only told to go; else it is over, and its history is for the scheduler to write.
 */
static void
worker_exit(int code, Datum arg)
{
    bool told_to_go = fatal_sqlstate == 0 || fatal_sqlstate == ERRCODE_ADMIN_SHUTDOWN;
    dsm_handle command = DSM_HANDLE_INVALID;
    RunSlot *run;

    if (attached_slot < 0)
        return;
    run = &shared->runs[attached_slot];
    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    if (run->started_at == 0 && told_to_go && job_trigger_has_slot(run->spec.trigger) && !run->cancel_requested) {
        run->pid = 0;
        run->process = NO_PROCESS;
        run_set_state(run, RUN_QUEUED);
    } else {
        command = run->spec.command;
        if (run->started_at == 0 && told_to_go && run->cancel_requested) /* it came while the process was connecting */
            run_end_with_error(run, STATUS_CANCELLED, ERRCODE_QUERY_CANCELED, "the run was cancelled before it began",
                               true);
        else if (!told_to_go)
            run_end_with_error(run, fatal_sqlstate == ERRCODE_QUERY_CANCELED ? STATUS_TIMED_OUT : STATUS_FAILED,
                               fatal_sqlstate, fatal_message, true);
        else if (fatal_sqlstate != 0)
            run_end_with_error(run, STATUS_INTERRUPTED, fatal_sqlstate, fatal_message, true);
        else if (session_terminating)
            run_end_with_error(run, STATUS_INTERRUPTED, ERRCODE_ADMIN_SHUTDOWN,
                               "the run was cut off by a shutdown of the server or an administrator's command", true);
        else
            run_end_with_error(run, STATUS_CRASHED, ERRCODE_INTERNAL_ERROR, "the run's worker ended without reporting",
                               true);
    }
    LWLockRelease(shared->lock);
    attached_slot = -1;
    shared_my_run = NULL;
    run_release_command(command);
    (void)dispatch_start_queued(NULL);
}

bool
dispatch_attach(int slot, uint64 sequence)
{
    RunSlot *run = &shared->runs[slot];
    bool wanted;

    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    wanted = run->state == RUN_STARTING && run->sequence == sequence;
    if (wanted && (shared_is_released(run->spec.database) || shared_is_released(run->spec.run_database))) {
        wanted = false;
        if (!job_trigger_has_slot(run->spec.trigger))
            run_end_with_error(run, STATUS_INTERRUPTED, ERRCODE_OBJECT_IN_USE, "the database is being dropped or moved",
                               true);
        else
            run_set_state(run, RUN_QUEUED);
    }
    if (wanted) {
        run->pid = MyProcPid;
        run->process = MY_PROC_NUMBER;
        attached_slot = slot;
        shared_my_run = run;
        run_set_state(run, RUN_RUNNING);
    }
    LWLockRelease(shared->lock);
    if (wanted)
        before_shmem_exit(worker_exit, (Datum)0);
    return wanted;
}

void
dispatch_begin(int slot, TimestampTz now)
{
    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    shared->runs[slot].started_at = now;
    LWLockRelease(shared->lock);
}

/* Whether a worker that is connected for one run can do another. Not for another owner: no reset is complete. */
static bool
same_session(const RunSpec *one, const RunSpec *other)
{
    return one->run_database == other->run_database && one->role == other->role && one->owner == other->owner;
}

int
dispatch_finish(int slot, const RunOutcome *outcome, bool recorded, bool retry, bool take)
{
    RunSlot *run = &shared->runs[slot];
    dsm_handle command = run->spec.command;
    RunSpec done = run->spec;
    SchedulerSlot *scheduler;
    int next = -1;

    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    Assert(attached_slot == slot && run->state == RUN_RUNNING);
    run_end(run, outcome, !recorded);
    scheduler = scheduler_find(done.database);
    if (scheduler != NULL) {
        scheduler->ended_runs++;
        scheduler->retries_changed = scheduler->retries_changed || retry;
        if (retry || scheduler->ended_runs >= ENDED_RUNS_TO_WAKE)
            shared_wake(scheduler->process);
    }
    if (take) {
        next = run_find_startable();
        if (next >= 0 && !same_session(&done, &shared->runs[next].spec))
            next = -1;
    }
    attached_slot = next;
    shared_my_run = next >= 0 ? &shared->runs[next] : NULL;
    if (next >= 0) {
        run = &shared->runs[next];
        run->pid = MyProcPid;
        run->process = MY_PROC_NUMBER;
        run_set_state(run, RUN_RUNNING);
    }
    LWLockRelease(shared->lock);
    run_release_command(command);
    if (next < 0)
        (void)dispatch_start_queued(NULL);
    return next;
}
