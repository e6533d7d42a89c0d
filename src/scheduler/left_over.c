/*
 * left_over.c: runs that earlier ones and other processes have left behind: taken but not begun, cut off by a crash or
 * a shutdown, ended without a record. Runs in a scheduler, as a part of its step (plans.c).
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/timestamp.h"

#include "scheduler/claims.h"
#include "scheduler/dispatch.h"
#include "scheduler/ledger.h"
#include "scheduler/left_over.h"
#include "scheduler/plans.h"
#include "server/extension.h"
#include "server/xact.h"

static bool check_lost = true;      /* at the start: runs that a crash left behind */
static bool check_queued = true;    /* runs that are taken, but not in shared memory */
static bool take_up_cut_off = true; /* at the start: the built-in jobs' runs that were cut off go on */
static bool any_retry = false;      /* since that was asked for last a run has ended that may be to be tried again */

static bool
take_any_retry(void)
{
    bool any = any_retry;

    any_retry = false;
    return any;
}

void
left_over_note_lost(void)
{
    check_lost = true;
}

bool
left_over_any(void)
{
    return check_lost || check_queued || take_up_cut_off;
}

void
left_over_dispatch(const Claims *claims)
{
    bool before = check_queued;

    check_queued = true;
    if (claims_dispatch(claims))
        check_queued = before;
}

/* Whether the next slot of a run's job has come, so that the run is not wanted any more. */
static bool
is_overtaken(const RunSpec *spec, TimestampTz now)
{
    const JobPlan *plan = plans_find(spec->job);
    TimestampTz following;

    if (spec->trigger != JOB_TRIGGER_SCHEDULE || plan == NULL || plan->rule.misfire == MISFIRE_ALL)
        return false;
    following = due_next(&plan->rule, spec->scheduled_for);
    return following != 0 && following <= now;
}

/*
 * A run that was taken and has not begun is late, the server was stopped perhaps: whether the job's policy on misfires
 * lets it run. Else what its slot ends as.
 */
static bool
may_be_late(const RunSpec *spec, const Job *job, TimestampTz now, RunRecord *record)
{
    const JobPlan *plan = plans_find(spec->job);
    int64 late = now - spec->scheduled_for;
    TimestampTz next;

    if (spec->trigger != JOB_TRIGGER_SCHEDULE || late <= DUE_GRACE)
        return true;
    if (job->misfire == MISFIRE_ONCE) {
        if (plan == NULL || job->paused || plan->state.off_since != 0)
            return true;
        next = due_next(&plan->rule, plan->state.due.settled);
        record->status = STATUS_COALESCED; /* if a later one is due by now, that runs for all */
        return next == 0 || next > now;
    }
    record->status = STATUS_MISSED;
    record->error = "the scheduler was not at work at the time";
    return job->misfire == MISFIRE_ALL && late <= job->misfire_window;
}

/* Dispatches runs that were taken by an earlier scheduler, or when there was no room. */
static void
take_up_queued(TimestampTz now)
{
    static bool first = true; /* those of an earlier scheduler, which are wanted in any case */
    bool full = false;
    MemoryContext step = CurrentMemoryContext;
    List *runs;
    ListCell *cell;

    xact_begin("looking for runs that have not begun");
    runs = history_queued_runs(step);
    xact_commit();
    MemoryContextSwitchTo(step);
    check_queued = false;
    foreach (cell, runs) {
        RunSpec *spec = lfirst(cell);
        const Job *job = plans_find_job(spec->job);
        RunRecord record = {
            .spec = *spec, .finished_at = GetCurrentTimestamp(), .sqlstate = ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE};
        RequestResult result;
        RunTicket ticket;

        if (job == NULL) {
            record.status = STATUS_CANCELLED;
            record.error = "the job is not scheduled any more";
            ledger_add(&record);
            continue;
        }
        if (!first && is_overtaken(spec, now)) {
            record.status = STATUS_NO_WORKER;
            record.error = "too many runs were on their way until the job was due again";
            record.sqlstate = ERRCODE_CONFIGURATION_LIMIT_EXCEEDED;
            ledger_add(&record);
            continue;
        }
        if (!may_be_late(spec, job, now, &record)) {
            ledger_add(&record);
            continue;
        }
        claims_fill_spec(spec, job);
        if (full)
            continue;
        result = dispatch_request(spec, false, &ticket);
        full = result == REQUEST_NO_SLOT && !job->builtin; /* an overlap: it is tried again */
        check_queued = check_queued || (result != REQUEST_STARTED && result != REQUEST_QUEUED);
    }
    first = false;
}

/* Goes on with the built-in jobs whose latest run was cut off by a crash or a shutdown. */
static void
take_up_cut_off_runs(TimestampTz now)
{
    MemoryContext step = CurrentMemoryContext;
    Claims claims = {0};
    List *runs;
    ListCell *cell;

    xact_begin("looking for runs that were cut off");
    runs = history_cut_off_runs(step);
    xact_commit();
    MemoryContextSwitchTo(step);
    foreach (cell, runs) {
        RunSpec *spec = lfirst(cell);
        const Job *job = plans_find_job(spec->job);

        if (job != NULL)
            claims_add_run(&claims, job, JOB_TRIGGER_RECOVERY, spec->scheduled_for, spec->pass, spec->attempt,
                           spec->arguments);
    }
    if (claims_any(&claims)) {
        claims_write(&claims, now);
        take_up_cut_off = false;
        left_over_dispatch(&claims);
    }
    take_up_cut_off = false;
}

bool
left_over_collect(void)
{
    UnrecordedRun run;

    while (dispatch_take_unrecorded(MyDatabaseId, &run)) {
        RunRecord record = {
            .spec = run.spec, .started_at = run.started_at, .finished_at = run.finished_at, .pid = run.pid};

        if (run.spec.extension != extension_last_seen())
            continue; /* it was an earlier extension's */
        record.status = run.outcome.status;
        record.result = run.outcome.result;
        record.sqlstate = run.outcome.sqlstate;
        record.error = run.outcome.message[0] != '\0' ? run.outcome.message : NULL;
        record.retry_at = history_retry_at(&run.spec, run.outcome.status, run.finished_at);
        any_retry = any_retry || record.retry_at != 0;
        ledger_add(&record);
    }
    return take_any_retry();
}

bool
left_over_settle(TimestampTz now)
{
    MemoryContext step = CurrentMemoryContext;

    if (check_lost && ledger_is_empty() && !ledger_is_blocked(now)) {
        List *lost;
        ListCell *cell;

        xact_begin("looking for lost runs");
        lost = history_mark_lost(step);
        xact_commit();
        MemoryContextSwitchTo(step);
        check_lost = false;
        any_retry = true;
        foreach (cell, lost)
            ledger_notify(lfirst(cell));
    }
    if (!check_lost && check_queued)
        take_up_queued(now);
    if (!check_lost && take_up_cut_off)
        take_up_cut_off_runs(now);
    return take_any_retry();
}
