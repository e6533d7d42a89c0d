/*
 * scheduler.c: starts the jobs of one database when they are due.
 *
 * One process for each served database, started by the launcher, connected as the bootstrap superuser. It sleeps until
 * a job is due or something changes, and never does a job itself. Its transactions are short and give up rather than
 * wait for a lock.
 */
#include "postgres.h"

#include "access/xact.h"
#include "commands/dbcommands.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "utils/memutils.h"

#include "scheduler/dispatch.h"
#include "scheduler/due.h"
#include "scheduler/history.h"
#include "scheduler/process.h"
#include "scheduler/scheduler.h"
#include "server/extension.h"
#include "server/session.h"
#include "server/settings.h"
#include "server/shared.h"
#include "server/xact.h"

#define UNSETTLED_RETRY_MS 1000
#define NO_WORKER_RETRY_MS 5000
#define LOCK_TIMEOUT "1s"

typedef struct JobPlan {
    char cron[CRON_TEXT_SIZE]; /* the expression that `due` is meant for */
    pg_tz *zone;
    DueState due;
    TimestampTz waiting; /* a run that was due then and has not had a worker yet; 0: none */
    TimestampTz try_at;  /* when to ask for a worker again */
    bool warned;
} JobPlan;

static SchedulerSlot *slot;
static SchedulerState end_state = SCHEDULER_ENDED;
static JobPlan plans[JOB_COUNT];
static bool check_lost_runs = true; /* at the start: runs that a crash left behind */
static bool take_up_cut_off = true; /* at the start: runs that were cut off go on */

static void
detach(int code, Datum arg)
{
    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    slot->state = end_state;
    slot->process = NO_PROCESS;
    slot->ready = false;
    shared_wake(shared->launcher);
    LWLockRelease(shared->lock);
}

/* Takes the slot that the launcher made for this process; false: it has given up waiting. */
static bool
attach(int number, Oid database)
{
    bool wanted;

    slot = &shared->schedulers[number];
    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    wanted = slot->state == SCHEDULER_STARTING && slot->database == database;
    if (wanted) {
        slot->state = SCHEDULER_RUNNING;
        slot->process = MY_PROC_NUMBER;
        shared_wake(shared->launcher); /* it starts few at a time */
    }
    LWLockRelease(shared->lock);
    if (wanted)
        before_shmem_exit(detach, (Datum)0);
    return wanted;
}

/* Whether there is still something to do for this process: it ends when not. */
static bool
is_needed(void)
{
    bool released;
    bool installed;
    bool served;

    LWLockAcquire(shared->lock, LW_SHARED);
    released = shared_is_released(MyDatabaseId);
    LWLockRelease(shared->lock);
    if (released || !setting_enabled)
        return false;

    xact_begin("looking for the extension");
    installed = extension_installed();
    served = setting_serves_database(get_database_name(MyDatabaseId));
    xact_commit();
    if (!installed)
        end_state = SCHEDULER_ABSENT;
    return installed && served;
}

/* Publishes the schedule of a job for the status functions. */
static void
publish(JobId job)
{
    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    strlcpy(slot->jobs[job].cron, plans[job].cron, sizeof(slot->jobs[job].cron));
    slot->jobs[job].next_run = plans[job].due.next;
    slot->ready = true;
    LWLockRelease(shared->lock);
}

/* Asks for a run of a job. False: not now, for want of a worker. */
static bool
start_run(JobId job, JobTrigger trigger, TimestampTz scheduled_for, const char *arguments)
{
    RunRequest request = {
        .database = MyDatabaseId,
        .job = job,
        .trigger = trigger,
        .scheduled_for = scheduled_for,
        .arguments = arguments,
    };
    RunTicket ticket;

    switch (dispatch_request(&request, &ticket)) {
    case REQUEST_STARTED:
    case REQUEST_QUEUED:
    case REQUEST_RELEASED:
        return true;
    case REQUEST_OVERLAP:
        history_not_run(job, scheduled_for, STATUS_SKIPPED, "the job's previous run was still at work");
        return true;
    case REQUEST_NO_WORKER:
    case REQUEST_NO_SLOT:
        return false;
    }
    return false;
}

/* A run has come due; the one before it, if it still waits for a worker, is given up. */
static void
set_waiting(JobId job, JobPlan *plan, TimestampTz due, TimestampTz now)
{
    TimestampTz given_up = plan->waiting;

    plan->waiting = due;
    plan->try_at = now;
    if (given_up != 0)
        history_not_run(job, given_up, STATUS_NO_WORKER, "no background worker was free");
}

/* Starts the run that is due, if a worker is to be had. */
static void
start_waiting(JobId job, JobPlan *plan, TimestampTz now)
{
    if (start_run(job, JOB_TRIGGER_SCHEDULE, plan->waiting, "")) {
        plan->waiting = 0;
        plan->warned = false;
        return;
    }
    plan->try_at = TimestampTzPlusMilliseconds(now, NO_WORKER_RETRY_MS);
    if (plan->warned)
        return;
    plan->warned = true;
    ereport(WARNING, (errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
                      errmsg("job \"%s\" is due, but no background worker is free", job_definitions[job].name),
                      errdetail("It is tried again until the next time that the job is due."),
                      errhint("Increase max_worker_processes.")));
}

/* Takes the schedule that the settings give the job now. */
static void
update_plan(JobId job, JobPlan *plan)
{
    if (strcmp(plan->cron, setting_cron_text(job)) == 0 && plan->zone == setting_timezone())
        return;
    memset(plan, 0, sizeof(*plan));
    strlcpy(plan->cron, setting_cron_text(job), sizeof(plan->cron));
    plan->zone = setting_timezone();
}

/* A run whose worker was lost before it began. */
static TimestampTz
take_not_begun(JobId job)
{
    TimestampTz due;

    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    due = slot->jobs[job].not_begun;
    slot->jobs[job].not_begun = 0;
    LWLockRelease(shared->lock);
    return due;
}

/* Looks at one job; starts it when it is due. Returns when it wants to be looked at again; 0: not by itself. */
static TimestampTz
step_job(JobId job, TimestampTz now)
{
    JobPlan *plan = &plans[job];
    const CronSchedule *schedule = setting_cron(job);
    TimestampTz previous = plan->due.next;
    TimestampTz not_begun = take_not_begun(job);
    TimestampTz due = 0;

    update_plan(job, plan);
    if (schedule != NULL)
        due = due_step(schedule, plan->zone, now, &plan->due);
    if (!slot->ready || plan->due.next != previous || strcmp(slot->jobs[job].cron, plan->cron) != 0)
        publish(job);
    if (due == 0)
        due = not_begun;
    if (due != 0)
        set_waiting(job, plan, due, now);
    if (plan->waiting != 0 && plan->try_at <= now)
        start_waiting(job, plan, now);
    if (plan->waiting != 0)
        return plan->due.next != 0 ? Min(plan->due.next, plan->try_at) : plan->try_at;
    return plan->due.next;
}

/* Corrects the history of runs whose process is gone. Returns whether it could. */
static bool
settle_lost_runs(void)
{
    LWLockAcquire(shared->lock, LW_EXCLUSIVE);
    check_lost_runs = check_lost_runs || slot->lost_runs;
    slot->lost_runs = false;
    LWLockRelease(shared->lock);

    if (check_lost_runs && history_mark_lost())
        check_lost_runs = false;
    return !check_lost_runs;
}

/* Goes on with the jobs whose latest run was cut off by a crash or a shutdown; tried again while no worker is free. */
static void
take_up_cut_off_runs(void)
{
    CutOffRun runs[JOB_COUNT];
    int count = history_cut_off_runs(runs);

    take_up_cut_off = false;
    for (int i = 0; i < count; i++) {
        if (!start_run(runs[i].job, JOB_TRIGGER_RECOVERY, runs[i].scheduled_for, runs[i].arguments))
            take_up_cut_off = true;
    }
}

/* One look at everything. Returns when to look again, by the clock; 0: when something changes. */
static TimestampTz
step(TimestampTz now)
{
    TimestampTz next = 0;

    dispatch_start_queued(MyDatabaseId);
    for (int job = 0; job < JOB_COUNT; job++) {
        TimestampTz at = step_job((JobId)job, now);

        if (at != 0 && (next == 0 || at < next))
            next = at;
    }
    if (settle_lost_runs() && take_up_cut_off)
        take_up_cut_off_runs();
    if (check_lost_runs || take_up_cut_off) {
        TimestampTz soon = TimestampTzPlusMilliseconds(now, UNSETTLED_RETRY_MS);

        next = next == 0 ? soon : Min(next, soon);
    }
    return next;
}

/* The same, surviving errors: a locked or damaged table delays what is recorded, never the other jobs. */
static TimestampTz
guarded_step(TimestampTz now, MemoryContext context)
{
    volatile TimestampTz next = TimestampTzPlusMilliseconds(now, 1000);

    PG_TRY();
    {
        next = step(now);
    }
    PG_CATCH();
    {
        MemoryContextSwitchTo(context);
        EmitErrorReport();
        FlushErrorState();
        xact_abort();
    }
    PG_END_TRY();
    return next;
}

void
apapacho_scheduler_main(Datum argument)
{
    MemoryContext context;
    Oid database;

    memcpy(&database, MyBgworkerEntry->bgw_extra, sizeof(database));
    process_setup();
    if (!attach(DatumGetInt32(argument), database))
        proc_exit(0);
    session_start(database, LOCK_TIMEOUT);
    context = AllocSetContextCreate(TopMemoryContext, "apapacho_jobs cycle", ALLOCSET_DEFAULT_SIZES);
    MemoryContextSwitchTo(context);

    while (!process_should_exit() && is_needed()) {
        TimestampTz now = clock_now();
        TimestampTz next = guarded_step(now, context);

        process_sleep(clock_now(), next);
        (void)process_reload();
        MemoryContextSwitchTo(context);
        MemoryContextReset(context);
    }
    proc_exit(0);
}
