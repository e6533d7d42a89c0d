/*
 * plans.c: the jobs of a scheduler's database: when each is due, and what is done about it. Runs in a scheduler, which
 * owns the memory: one context for the jobs as they were read last, one for each step.
 *
 * A step decides for each job by due_step() and by what is on its way in shared memory, writes all that down in one
 * transaction (claims.c), and only then moves its own memory on and dispatches the runs. A run is taken a little before
 * it is due, so that its worker is connected by then; whether the job's previous run overlaps is looked at when the
 * time has come. What earlier runs and schedulers have left behind is left_over.c's matter.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "postmaster/postmaster.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "scheduler/claims.h"
#include "scheduler/dispatch.h"
#include "scheduler/ledger.h"
#include "scheduler/left_over.h"
#include "scheduler/plans.h"
#include "scheduler/work.h"
#include "server/extension.h"
#include "server/settings.h"
#include "server/xact.h"

#define LEAD_MS 250       /* a run is taken so long before it is due */
#define RETRY_MS 1000     /* until what could not be done is tried again */
#define SOON_MS 20        /* until what is left over from this step is done */
#define NO_WORKER_MS 200  /* the same for a background worker */
#define MOST_DECISIONS 50 /* for one job in one step: a long time that was missed takes several */
#define MOST_SLOTS 20000  /* for all jobs in one step, and a few for each: some 50 ms */
#define PRUNE_ROWS 1000   /* the history is pruned after so many new rows, */
#define PRUNE_MS 3600000  /* or so long */
#define PRUNE_BATCH 2000
#define PRUNE_SPACE_MS 400 /* not when a job is to be looked at sooner */

#define LEAD (LEAD_MS * INT64CONST(1000))

static SchedulerSlot *slot;
static MemoryContext plans_context;
static List *jobs = NIL;    /* of Job */
static List *plans = NIL;   /* of JobPlan: those that are scheduled */
static List *retries = NIL; /* of PendingRetry, in retries_context */
static MemoryContext retries_context;

/* What is to be looked at, besides the time. */
static bool read_jobs = true;
static bool read_retries = true;
static bool warned_no_worker = false;

static int64 slots_left; /* that this step may still settle: long times that were missed must not hold up other jobs */

static int unpruned = PRUNE_ROWS;
static TimestampTz pruned_at = 0;

void
plans_init(SchedulerSlot *scheduler)
{
    slot = scheduler;
}

void
plans_note_reload(void)
{
    read_jobs = true;
}

const Job *
plans_find_job(int64 id)
{
    ListCell *cell;

    foreach (cell, jobs) {
        const Job *job = lfirst(cell);

        if (job->id == id)
            return job;
    }
    return NULL;
}

JobPlan *
plans_find(int64 job)
{
    ListCell *cell;

    foreach (cell, plans) {
        JobPlan *plan = lfirst(cell);

        if (plan->job->id == job)
            return plan;
    }
    return NULL;
}

/* Takes what others have set in shared memory. */
static void
take_flags(void)
{
    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    read_jobs = read_jobs || slot->jobs_changed;
    read_retries = read_retries || slot->retries_changed;
    if (slot->lost_runs)
        left_over_note_lost();
    slot->jobs_changed = slot->retries_changed = slot->lost_runs = false;
    unpruned += slot->ended_runs;
    slot->ended_runs = 0;
    LWLockRelease(shared->lock);
}

/* The expression and the zone that a job is scheduled by. False: it has none, or one that is of no use. */
static bool
find_schedule(const Job *job, TimestampTz now, DueRule *rule, const char **text)
{
    CronError error;

    *text = job->builtin ? setting_cron_text((JobId)(job->id - 1)) : job->schedule;
    if ((*text)[0] == '\0')
        return false;
    if (!cron_parse(*text, &rule->schedule, &error)) {
        ereport(WARNING, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                          errmsg("job \"%s\" is not scheduled: its schedule \"%s\" is invalid", job->name, *text),
                          errdetail("At position %d: %s.", error.position + 1, error.message)));
        return false;
    }
    rule->zone = job->time_zone != NULL ? pg_tzset(job->time_zone) : setting_timezone();
    if (rule->zone == NULL) {
        ereport(WARNING,
                (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                 errmsg("job \"%s\" is not scheduled: its time zone \"%s\" is not known", job->name, job->time_zone)));
        return false;
    }
    if (!due_ever(rule, now)) {
        ereport(WARNING, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                          errmsg("job \"%s\" is not scheduled: its schedule \"%s\" never fires in time zone \"%s\"",
                                 job->name, *text, pg_get_timezone_name(rule->zone)),
                          errdetail("The clock jumps over each of its times.")));
        return false;
    }
    return true;
}

/* A slot that is still to come has been taken already: what follows begins after it. */
static bool
taken_early(const DueState *due, TimestampTz now)
{
    return due->settled > now && due->settled <= now + LEAD;
}

/*
 * Makes the plan of a job, in `context`: goes on where job_state says, if it is for the same schedule; else begins now.
 * NULL: the job is not scheduled.
 */
static JobPlan *
make_plan(const Job *job, TimestampTz now, MemoryContext context)
{
    JobPlan *plan = MemoryContextAllocZero(context, sizeof(JobPlan));
    const char *text;
    const char *zone;
    bool changed = false;

    plan->job = job;
    if (!find_schedule(job, now, &plan->rule, &text)) {
        history_delete_state(job->id);
        return NULL;
    }
    zone = pg_get_timezone_name(plan->rule.zone);
    plan->rule.server_start = PgStartTime;
    plan->rule.misfire = job->misfire;
    plan->rule.misfire_window = job->misfire_window;
    if (!history_read_state(job->id, &plan->state, context) || strcmp(plan->state.schedule, text) != 0 ||
        strcmp(plan->state.zone, zone) != 0) {
        plan->state.schedule = MemoryContextStrdup(context, text);
        plan->state.zone = MemoryContextStrdup(context, zone);
        if (plan->rule.schedule.kind == CRON_KIND_REBOOT)
            plan->state.due.settled = PgStartTime;
        else if (!taken_early(&plan->state.due, now))
            plan->state.due.settled = now;
        plan->state.off_since = 0;
        changed = true;
    }
    if ((job->paused || slot->was_off) && plan->state.off_since == 0) {
        plan->state.off_since = now;
        changed = true;
    }
    if (changed)
        history_write_state(job->id, &plan->state);
    plan->after = plan->state;
    return plan;
}

/* Whether a run that was taken for the one does what the other says. Commands for this database are read when it
 * begins. */
static bool
is_same_work(const Job *one, const Job *other)
{
    if (one->owner != other->owner || one->run_as != other->run_as ||
        (one->database == NULL) != (other->database == NULL))
        return false;
    return one->database == NULL ||
           (strcmp(one->database, other->database) == 0 && strcmp(one->command, other->command) == 0);
}

/* A job is not what it was: a run that was taken before its time, or is queued, and does not fit any more is called
 * off. */
static void
call_off(const JobPlan *before, TimestampTz now)
{
    const JobPlan *plan = plans_find(before->job->id);
    JobRuns runs;
    bool same_work = plan != NULL && is_same_work(plan->job, before->job);

    if (same_work && plan->job->paused == before->job->paused &&
        strcmp(plan->state.schedule, before->state.schedule) == 0 && strcmp(plan->state.zone, before->state.zone) == 0)
        return;
    dispatch_look(MyDatabaseId, before->job->id, false, &runs);
    if (!same_work && runs.queued > 0)
        (void)dispatch_cancel(MyDatabaseId, runs.queued_id);
    if (!runs.active || runs.started_at != 0 || runs.scheduled_for <= now)
        return;
    if (!same_work || plan->job->paused || due_next(&plan->rule, now) != runs.scheduled_for)
        (void)dispatch_cancel(MyDatabaseId, runs.active_id);
}

/* Reads the jobs anew. */
static void
reload(TimestampTz now)
{
    MemoryContext caller = CurrentMemoryContext;
    MemoryContext context = AllocSetContextCreate(TopMemoryContext, "apapacho_jobs plans", ALLOCSET_DEFAULT_SIZES);
    List *before = plans;
    List *made = NIL;
    List *read;
    ListCell *cell;
    int64 *ids;
    int count = 0;

    MemoryContextSetParent(context, caller); /* goes with the step if this fails */
    xact_begin("reading the jobs");
    read = job_table_read(context);
    ids = MemoryContextAlloc(context, sizeof(int64) * (list_length(read) + 1));
    foreach (cell, read) {
        const Job *job = lfirst(cell);
        JobPlan *plan = make_plan(job, now, context);

        MemoryContextSwitchTo(context); /* SPI leaves its own */
        if (plan != NULL)
            made = lappend(made, plan);
        ids[count++] = job->id;
    }
    history_delete_other_states(ids, count);
    xact_commit();
    MemoryContextSwitchTo(caller);

    MemoryContextSetParent(context, TopMemoryContext);
    jobs = read;
    plans = made;
    read_jobs = false;
    foreach (cell, before)
        call_off(lfirst(cell), now);
    if (plans_context != NULL)
        MemoryContextDelete(plans_context);
    plans_context = context;
    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    slot->ready = true;
    slot->was_off = false;
    LWLockRelease(shared->lock);
}

/* The runs to be tried again are read anew. */
static void
reload_retries(TimestampTz now)
{
    MemoryContext caller = CurrentMemoryContext;

    if (retries_context == NULL)
        retries_context = AllocSetContextCreate(TopMemoryContext, "apapacho_jobs retries", ALLOCSET_DEFAULT_SIZES);
    retries = NIL;
    MemoryContextReset(retries_context);
    xact_begin("reading the runs to be tried again");
    retries = history_pending_retries(retries_context);
    xact_commit();
    MemoryContextSwitchTo(caller);
    read_retries = false;
}

static void
note_earliest(TimestampTz *next, TimestampTz at)
{
    if (at != 0 && (*next == 0 || at < *next))
        *next = at;
}

/* A run waits for a background worker: says so, once. */
static void
warn_no_worker(const char *name)
{
    if (warned_no_worker)
        return;
    warned_no_worker = true;
    ereport(WARNING, (errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
                      errmsg("job \"%s\" is due, but no background worker is free", name),
                      errdetail("It is tried again until the next time that the job is due."),
                      errhint("Increase apapacho_jobs.max_workers, max_worker_processes, or both.")));
}

/* An earlier run of the job still waits for a background worker: its time is over. */
static void
give_up_queued(int64 id)
{
    RunRecord record = {0};

    if (!dispatch_withdraw(MyDatabaseId, id, &record.spec))
        return;
    warn_no_worker(record.spec.name);
    record.status = STATUS_NO_WORKER;
    record.finished_at = GetCurrentTimestamp();
    record.error = "no background worker was free";
    record.sqlstate = ERRCODE_CONFIGURATION_LIMIT_EXCEEDED;
    ledger_add(&record);
}

typedef enum Verdict { VERDICT_RUN, VERDICT_SKIP, VERDICT_OVERTAKEN, VERDICT_WAIT } Verdict;

/*
 * The slot is due and other runs of the job are on their way. It overlaps when the previous run was at work at the
 * slot's time; one that began later, since it was late itself, is waited for, until the next slot is due.
 */
static Verdict
judge_overlap(JobPlan *plan, TimestampTz due, TimestampTz now, JobRuns *runs, const char **why)
{
    int64 ahead = now - GetCurrentTimestamp(); /* of the time of day, in tests */
    TimestampTz following;
    bool late; /* the active run began, or will, after the slot's time: it did not overlap */

    if (!runs->active) {
        if (runs->queued_by_hand) {
            *why = "a run by hand was waiting to begin";
            return VERDICT_SKIP;
        }
        if (plan->rule.misfire == MISFIRE_ALL || due <= runs->queued_since + ahead) {
            plan->look_at = TimestampTzPlusMilliseconds(now, RETRY_MS);
            return VERDICT_WAIT;
        }
        give_up_queued(runs->queued_id);
        return VERDICT_RUN;
    }
    *why = "the job's previous run was still at work";
    late = runs->started_at == 0 || runs->started_at + ahead > due;
    if (plan->rule.misfire == MISFIRE_ALL && late) {
        plan->look_at = TimestampTzPlusMilliseconds(now, RETRY_MS);
        return VERDICT_WAIT;
    }
    if (plan->job->overlap == OVERLAP_QUEUE && runs->queued == 0)
        return VERDICT_RUN;
    if (runs->queued > 0) {
        *why = "another run of the job was queued already";
        return VERDICT_SKIP;
    }
    if (!late)
        return VERDICT_SKIP;
    following = due_next(&plan->rule, due);
    if (following != 0 && following <= now)
        return VERDICT_OVERTAKEN;
    plan->look_at = following != 0 && following > now ? following : TimestampTzPlusMilliseconds(now, RETRY_MS);
    return VERDICT_WAIT;
}

/* The slot is to run. Returns whether that has been decided. */
static bool
decide_run(JobPlan *plan, const Due *due, TimestampTz now, Claims *claims)
{
    const char *why;
    JobRuns runs;

    dispatch_look(MyDatabaseId, plan->job->id, due->first <= now, &runs);
    if (runs.active || runs.queued > 0) {
        if (due->first > now) {
            plan->look_at = due->first;
            return false;
        }
        if (runs.idle) { /* it has been told to end */
            plan->waits = true;
            plan->look_at = TimestampTzPlusMilliseconds(now, RETRY_MS);
            return false;
        }
        switch (judge_overlap(plan, due->first, now, &runs, &why)) {
        case VERDICT_WAIT:
            plan->waits = true;
            return false;
        case VERDICT_SKIP:
            claims_add_slots(claims, plan->job, due, plan->after.due.pass, STATUS_SKIPPED, why);
            return true;
        case VERDICT_OVERTAKEN:
            if (plan->rule.misfire == MISFIRE_SKIP)
                claims_add_slots(claims, plan->job, due, plan->after.due.pass, STATUS_MISSED,
                                 "the job's runs were late, and its next time had come");
            else
                claims_add_slots(claims, plan->job, due, plan->after.due.pass, STATUS_COALESCED, NULL);
            return true;
        case VERDICT_RUN:
            break;
        }
    }
    claims_add_run(claims, plan->job, JOB_TRIGGER_SCHEDULE, due->first, plan->after.due.pass, 1, "");
    claims->cleared_jobs = lappend(claims->cleared_jobs, (void *)&plan->job->id);
    plan->runs = true;
    return true;
}

/* What is to be done for a job now; plan->after says where that leaves it. */
static void
decide(JobPlan *plan, TimestampTz now, Claims *claims)
{
    plan->after = plan->state;
    plan->runs = false;
    plan->look_at = 0;
    plan->decided_most = plan->waits = false;
    plan->rule.paused = plan->state.off_since != 0;
    if (plan->job->paused)
        return; /* what comes meanwhile is settled when it is resumed */
    for (int i = 0; i < MOST_DECISIONS && !plan->runs && (i == 0 || slots_left > 0); i++) {
        int most = (int)Max(Min(slots_left, DUE_MOST_SLOTS), 10);
        Due due = due_step(&plan->rule, &plan->after.due, now, LEAD, most);

        slots_left -= due.count;

        switch (due.kind) {
        case DUE_NOTHING:
            plan->after.off_since = 0;
            if (plan->rule.paused) {
                plan->rule.paused = false; /* and once more: with the lead */
                continue;
            }
            if (due.first != 0)
                plan->look_at = due.first - LEAD;
            return;
        case DUE_RUN:
            if (!decide_run(plan, &due, now, claims))
                return;
            break;
        case DUE_MISSED:
            claims_add_slots(claims, plan->job, &due, plan->after.due.pass, STATUS_MISSED,
                             "the scheduler was not at work at the time");
            break;
        case DUE_COALESCED:
            claims_add_slots(claims, plan->job, &due, plan->after.due.pass, STATUS_COALESCED, NULL);
            break;
        case DUE_PAUSED:
            claims_add_slots(claims, plan->job, &due, plan->after.due.pass, STATUS_PAUSED, NULL);
            break;
        }
        plan->after.due.settled = due.last;
    }
    plan->decided_most = true;
}

/* The runs to be tried again whose time has come. */
static void
decide_retries(TimestampTz now, Claims *claims, TimestampTz *next)
{
    ListCell *cell;

    foreach (cell, retries) {
        PendingRetry *retry = lfirst(cell);
        const Job *job = plans_find_job(retry->spec.job);
        JobPlan *plan = plans_find(retry->spec.job);
        JobRuns runs;

        if (job == NULL) {
            claims->cleared = lappend(claims->cleared, &retry->spec.id);
            read_retries = true;
            continue;
        }
        if (job->paused || (plan != NULL && plan->runs))
            continue;
        if (retry->at > now) {
            note_earliest(next, retry->at);
            continue;
        }
        dispatch_look(MyDatabaseId, retry->spec.job, true, &runs);
        if (runs.active || runs.queued > 0) {
            note_earliest(next, TimestampTzPlusMilliseconds(now, RETRY_MS));
            continue;
        }
        claims->cleared = lappend(claims->cleared, &retry->spec.id);
        claims_add_run(claims, job, JOB_TRIGGER_RETRY, retry->spec.scheduled_for, retry->spec.pass,
                       retry->spec.attempt + 1, retry->spec.arguments);
        read_retries = true;
        if (plan != NULL)
            plan->runs = true; /* another one of the job waits for the next step */
    }
}

/* Decides, writes, and then dispatches. */
static void
take_due(TimestampTz now, TimestampTz *next)
{
    static TimestampTz last = 0;
    bool set_back = now < last;
    Claims claims = {0};
    ListCell *cell;

    last = now;
    slots_left = MOST_SLOTS;
    foreach (cell, plans) {
        JobPlan *plan = lfirst(cell);

        plan->runs = false;
        if (plan->settled && !set_back && (plan->look_at == 0 || now < plan->look_at)) {
            note_earliest(next, plan->look_at);
            continue;
        }
        decide(plan, now, &claims);
        plan->changed = plan->after.due.settled != plan->state.due.settled ||
                        plan->after.due.pass != plan->state.due.pass || plan->after.off_since != plan->state.off_since;
        if (plan->changed) {
            StateChange *change = palloc(sizeof(StateChange));

            change->job = plan->job->id;
            change->state = &plan->after;
            claims.states = lappend(claims.states, change);
        }
        plan->settled = !plan->changed && !plan->decided_most && !plan->waits;
        note_earliest(next, plan->decided_most ? now : plan->look_at);
    }
    decide_retries(now, &claims, next);
    if (retries == NIL && !read_retries)
        claims.cleared_jobs = NIL;
    if (!claims_any(&claims))
        return;

    claims_write(&claims, now);
    foreach (cell, plans) {
        JobPlan *plan = lfirst(cell);

        if (plan->changed)
            plan->state = plan->after;
    }
    if (claims.cleared != NIL || claims.cleared_jobs != NIL)
        retries = NIL; /* read anew when the history tells of these; while it is locked they must not be taken again */
    if (claims.cleared_jobs != NIL || claims.cleared != NIL)
        read_retries = true;
    left_over_dispatch(&claims);
}

static void
settle_left_over(TimestampTz now)
{
    read_retries = left_over_settle(now) || read_retries;
}

static void
prune(TimestampTz now)
{
    MemoryContext step = CurrentMemoryContext;
    int64 deleted;

    unpruned += ledger_take_written();
    if (ledger_is_blocked(now) ||
        (unpruned < PRUNE_ROWS && pruned_at != 0 && !TimestampDifferenceExceeds(pruned_at, now, PRUNE_MS)))
        return;
    xact_begin("pruning the history");
    deleted = history_prune(PRUNE_BATCH);
    xact_commit();
    MemoryContextSwitchTo(step);
    unpruned = deleted == PRUNE_BATCH ? PRUNE_ROWS : 0; /* there is more: in the next step */
    pruned_at = now;
}

/* A part of the step that another session's lock keeps from being done: it is done later, and the rest now. */
static void
unless_locked(void (*part)(TimestampTz now), TimestampTz now)
{
    MemoryContext step = CurrentMemoryContext;

    if (ledger_is_blocked(now))
        return;
    PG_TRY();
    {
        part(now);
    }
    PG_CATCH();
    {
        if (geterrcode() != ERRCODE_LOCK_NOT_AVAILABLE && geterrcode() != ERRCODE_QUERY_CANCELED)
            PG_RE_THROW();
        MemoryContextSwitchTo(step);
        EmitErrorReport();
        FlushErrorState();
        xact_abort();
        ledger_note_blocked(now);
    }
    PG_END_TRY();
    MemoryContextSwitchTo(step);
}

TimestampTz
plans_step(TimestampTz now)
{
    TimestampTz next = 0;
    char starved[NAMEDATALEN];

    take_flags();
    if (read_jobs)
        unless_locked(reload, now);
    read_retries = left_over_collect() || read_retries;
    (void)ledger_flush(now);
    if (read_retries && ledger_is_empty())
        unless_locked(reload_retries, now);
    if (left_over_any())
        unless_locked(settle_left_over, now); /* what was cut off goes on before the next slot is taken */
    take_due(now, &next);
    note_earliest(&next, work_step(plans_find(WORK_JOB) != NULL ? plans_find(WORK_JOB)->job : NULL, now));
    note_earliest(&next, ledger_flush(now));
    if (next == 0 || next > now + PRUNE_SPACE_MS * INT64CONST(1000) || unpruned > 10 * PRUNE_ROWS)
        unless_locked(prune, now);
    if (dispatch_start_queued(starved)) {
        warn_no_worker(starved);
        note_earliest(&next, TimestampTzPlusMilliseconds(now, NO_WORKER_MS));
    } else if (warned_no_worker && !dispatch_any_queued(MyDatabaseId))
        warned_no_worker = false;
    if (read_jobs || left_over_any() || ((read_retries || unpruned >= PRUNE_ROWS) && ledger_is_blocked(now)))
        note_earliest(&next, TimestampTzPlusMilliseconds(now, RETRY_MS));
    else if (read_retries || unpruned >= PRUNE_ROWS)
        note_earliest(&next, TimestampTzPlusMilliseconds(now, SOON_MS));
    return next;
}
