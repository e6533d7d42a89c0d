/*
 * run_slots.c: the runs in shared memory and their states; every change of state is made here, under shared->lock,
 * which is never held over anything that can fail or wait. Called by dispatch.c (who asks for runs) and
 * dispatch_worker.c (who does them), in backends, schedulers and workers.
 *
 * A run is owned by its requester until a worker has attached, then by that worker until it ends; what has ended is
 * kept for as long as somebody waits for it or the history does not tell of it.
 *
 *     FREE -> QUEUED -> STARTING (worker asked for) -> RUNNING (attached) -> FINISHED (waited for, unrecorded) -> FREE
 *     QUEUED -> RUNNING: by a worker that has just ended another run
 *     STARTING or RUNNING -> QUEUED: the worker was not to be had, or left before the job began
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/dsm.h"

#include "scheduler/history.h"
#include "scheduler/run_slots.h"
#include "server/settings.h"

#define RESERVED_PROCESSES 5      /* launcher, scheduler, built-in jobs */
#define STARTING_TIMEOUT_MS 15000 /* a worker that has not attached by then never will */

bool
run_is_active(const RunSlot *run)
{
    return run->state == RUN_STARTING || run->state == RUN_RUNNING;
}

/* The slot of a job's run that is at work (or the first one queued); -1: none. */
int
run_find(Oid database, int64 job, bool queued)
{
    int found = -1;

    for (int i = 0; i < MAX_RUNS; i++) {
        RunSlot *run = &shared->runs[i];

        if (!(queued ? run->state == RUN_QUEUED : run_is_active(run)) || run->spec.database != database ||
            run->spec.job != job)
            continue;
        if (found < 0 || run->sequence < shared->runs[found].sequence)
            found = i;
    }
    return found;
}

/* The slot of a run that is queued or at work; -1: none. */
int
run_find_id(Oid database, int64 id)
{
    for (int i = 0; i < MAX_RUNS; i++) {
        RunSlot *run = &shared->runs[i];

        if ((run->state == RUN_QUEUED || run_is_active(run)) && run->spec.id == id && run->spec.database == database)
            return i;
    }
    return -1;
}

void
run_set_state(RunSlot *run, RunState state)
{
    switch (state) {
    case RUN_QUEUED:
        Assert(run->state == RUN_FREE || run_is_active(run));
        break;
    case RUN_STARTING:
        Assert(run->state == RUN_QUEUED);
        break;
    case RUN_RUNNING:
        Assert(run->state == RUN_STARTING || run->state == RUN_QUEUED);
        break;
    case RUN_FINISHED:
        Assert(run_is_active(run) || run->state == RUN_QUEUED);
        break;
    case RUN_FREE:
        break;
    }
    run->state = state;
    run->state_since = GetCurrentTimestamp();
    ConditionVariableBroadcast(&run->changed);
}

SchedulerSlot *
scheduler_find(Oid database)
{
    for (int i = 0; i < MAX_SCHEDULERS; i++) {
        SchedulerSlot *scheduler = &shared->schedulers[i];

        if (scheduler->state == SCHEDULER_RUNNING && scheduler->database == database)
            return scheduler;
    }
    return NULL;
}

/* Whether there are outbox events that the run which ends now has not seen. */
static bool
is_publisher_missing(const RunSlot *run, SchedulerSlot *scheduler)
{
    return run->spec.job == JOB_OUTBOX + 1 && pg_atomic_read_u32(&scheduler->new_events) != 0;
}

/*
 * The run is over: keeps it for those who wait and, with `unrecorded`, for its scheduler to write down; else frees the
 * slot. Where there is no scheduler just now, the next one does.
 */
void
run_end(RunSlot *run, const RunOutcome *outcome, bool unrecorded)
{
    SchedulerSlot *scheduler = scheduler_find(run->spec.database);

    if (scheduler != NULL && scheduler->publisher == run->process)
        scheduler->publisher = NO_PROCESS; /* it should have said so itself */
    run->process = NO_PROCESS;
    run->progress.known = false;
    run->unrecorded = unrecorded;
    if (scheduler != NULL && (unrecorded || run->wake_scheduler || is_publisher_missing(run, scheduler)))
        shared_wake(scheduler->process);
    if (run->waiters > 0 || run->unrecorded) {
        run->outcome = *outcome;
        if (run->spec.encoding != GetDatabaseEncoding()) {
            shared_make_ascii(run->outcome.message);
            shared_make_ascii(run->outcome.detail);
            shared_make_ascii(run->outcome.hint);
        }
        run_set_state(run, RUN_FINISHED);
    } else
        run_set_state(run, RUN_FREE);
}

void
run_end_with_error(RunSlot *run, const char *status, int sqlstate, const char *message, bool unrecorded)
{
    RunOutcome outcome = {0};

    strlcpy(outcome.status, status, sizeof(outcome.status));
    shared_copy_text(outcome.message, sizeof(outcome.message), message);
    outcome.sqlstate = sqlstate;
    run_end(run, &outcome, unrecorded);
}

/* Lets go of the text of a command for another database; without shared->lock. */
void
run_release_command(dsm_handle command)
{
    if (command != DSM_HANDLE_INVALID)
        dsm_unpin_segment(command);
}

/* A free slot; if there is none, one that is kept for a scheduler which may never come; -1: all are taken. */
static int
find_free(void)
{
    int kept = -1;

    for (int i = 0; i < MAX_RUNS; i++) {
        RunSlot *run = &shared->runs[i];

        if (run->state == RUN_FREE)
            return i;
        if (kept < 0 && run->state == RUN_FINISHED && run->waiters == 0 && scheduler_find(run->spec.database) == NULL)
            kept = i;
    }
    if (kept >= 0)
        run_set_state(&shared->runs[kept], RUN_FREE);
    return kept;
}

/* Whether a user's job may have one more run on its way: no role may keep the others' jobs, or ours, from theirs. */
static bool
is_within_share(const RunSpec *spec)
{
    int all = 0;
    int own = 0;

    for (int i = 0; i < MAX_RUNS; i++) {
        const RunSlot *run = &shared->runs[i];

        if (run->state == RUN_FREE || job_is_builtin(run->spec.job))
            continue;
        all++;
        own += run->spec.owner == spec->owner;
    }
    return all < MAX_RUNS - RESERVED_RUNS && own < MAX_RUNS_OF_ONE;
}

/* A free slot, made into a queued run; -1: all are taken. */
int
run_allocate(const RunSpec *spec)
{
    int slot = job_is_builtin(spec->job) || is_within_share(spec) ? find_free() : -1;

    if (slot >= 0) {
        RunSlot *run = &shared->runs[slot];

        run->sequence = ++shared->last_sequence;
        run->spec = *spec;
        run->requested_at = GetCurrentTimestamp();
        run->started_at = 0;
        run->cancel_requested = run->unrecorded = run->wake_scheduler = false;
        run->idle = run->leave_idleness = run->helpers_to_end = false;
        run->waiters = 0;
        run->pid = 0;
        run->process = NO_PROCESS;
        memset(&run->progress, 0, sizeof(run->progress));
        pg_atomic_write_u64(&run->helped_delivered, 0);
        pg_atomic_write_u64(&run->helped_failed, 0);
        memset(&run->outcome, 0, sizeof(run->outcome));
        run_set_state(run, RUN_QUEUED);
    }
    return slot;
}

/* Under shared->lock: workers that were asked for long ago and never came will not come any more. */
void
run_reap_starting(void)
{
    TimestampTz now = GetCurrentTimestamp();

    for (int i = 0; i < MAX_RUNS; i++) {
        RunSlot *run = &shared->runs[i];

        if (run->state != RUN_STARTING || !TimestampDifferenceExceeds(run->state_since, now, STARTING_TIMEOUT_MS))
            continue;
        if (!job_trigger_has_slot(run->spec.trigger))
            run_end_with_error(run, STATUS_NO_WORKER, ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
                               "the run's background worker did not start", true);
        else
            run_set_state(run, RUN_QUEUED);
    }
}

/* How many runs of users' jobs may be at work: some processes are left to the built-in jobs, whatever the setting. */
static int
most_workers(void)
{
    return Min(setting_max_workers, Max(1, max_worker_processes - RESERVED_PROCESSES));
}

/* Whether an owner's runs have so many of the workers that the next one is to be left to others who wait. */
static bool
has_most_workers(Oid owner)
{
    int at_work = 0;
    bool others = false;

    for (int i = 0; i < MAX_RUNS; i++) {
        const RunSlot *run = &shared->runs[i];

        if (job_is_builtin(run->spec.job))
            continue;
        at_work += run_is_active(run) && run->spec.owner == owner;
        others = others || (run->state == RUN_QUEUED && run->spec.owner != owner);
    }
    return others && at_work >= Max(1, most_workers() * 3 / 4);
}

/* Whether a queued run may start now, worker or not. */
static bool
may_start(const RunSlot *run, int users_at_work)
{
    if (shared_is_released(run->spec.database) || shared_is_released(run->spec.run_database))
        return false;
    if (!job_is_builtin(run->spec.job) && (users_at_work >= most_workers() || has_most_workers(run->spec.owner)))
        return false;
    return run_find(run->spec.database, run->spec.job, false) < 0;
}

/* The run that has been queued longest of those that may start; -1: none. */
int
run_find_startable(void)
{
    int users_at_work = 0;
    bool any = false;
    uint64 tried = 0;

    for (int i = 0; i < MAX_RUNS; i++) {
        if (run_is_active(&shared->runs[i]) && !job_is_builtin(shared->runs[i].spec.job))
            users_at_work++;
        any = any || shared->runs[i].state == RUN_QUEUED;
    }
    while (any) {
        int first = -1;

        for (int i = 0; i < MAX_RUNS; i++) {
            RunSlot *run = &shared->runs[i];

            if (run->state != RUN_QUEUED || run->sequence <= tried)
                continue;
            if (users_at_work >= most_workers() && !job_is_builtin(run->spec.job))
                continue;
            if (first < 0 || run->sequence < shared->runs[first].sequence)
                first = i;
        }
        if (first < 0 || may_start(&shared->runs[first], users_at_work))
            return first;
        tried = shared->runs[first].sequence;
    }
    return -1;
}
