/*
 * scheduler.c: starts the jobs of one database when they are due.
 *
 * One process for each served database, started by the launcher, connected as the bootstrap superuser. It sleeps until a job is due or
 * something changes, and never does a job itself. Its transactions are short and give up rather than wait for a lock.
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

#define LOST_RUNS_RETRY_MS 500
#define LOCK_TIMEOUT "1s"

typedef struct JobPlan {
    char cron[CRON_TEXT_SIZE];  /* the expression that `due` is meant for */
    pg_tz *zone;
    DueState due;
} JobPlan;

static SchedulerSlot *slot;
static SchedulerState end_state = SCHEDULER_ENDED;
static JobPlan plans[JOB_COUNT];
static bool check_lost_runs = true;     /* at the start: runs that a crash left behind */
static bool take_up_cut_off = true;     /* at the start: runs that were cut off go on */

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
    }
    LWLockRelease(shared->lock);
    if (wanted)
        before_shmem_exit(detach, (Datum) 0);
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

/* Starts a run of a job. What did not come about is recorded as such. */
static void
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
            return;
        case REQUEST_OVERLAP:
            history_not_run(job, scheduled_for, STATUS_SKIPPED, "the job's previous run was still at work");
            return;
        case REQUEST_NO_WORKER:
        case REQUEST_NO_SLOT:
            ereport(WARNING,
                    (errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
                     errmsg("job \"%s\" could not be started: no background worker is free",
                            job_definitions[job].name),
                     errhint("Increase max_worker_processes.")));
            history_not_run(job, scheduled_for, STATUS_NO_WORKER, "no background worker was free");
            return;
    }
}

/* Looks at one job; starts it when it is due. Returns when it wants to be looked at again; 0: not by itself. */
static TimestampTz
step_job(JobId job, TimestampTz now)
{
    JobPlan *plan = &plans[job];
    const CronSchedule *schedule = setting_cron(job);
    TimestampTz previous = plan->due.next;
    TimestampTz due = 0;

    if (strcmp(plan->cron, setting_cron_text(job)) != 0 || plan->zone != setting_timezone()) {
        memset(plan, 0, sizeof(*plan));
        strlcpy(plan->cron, setting_cron_text(job), sizeof(plan->cron));
        plan->zone = setting_timezone();
    }
    if (schedule != NULL)
        due = due_step(schedule, plan->zone, now, &plan->due);
    if (!slot->ready || plan->due.next != previous || strcmp(slot->jobs[job].cron, plan->cron) != 0)
        publish(job);
    if (due != 0)
        start_run(job, JOB_TRIGGER_SCHEDULE, due, "");
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

/* Goes on with the jobs whose latest run was cut off by a crash or a shutdown. */
static void
take_up_cut_off_runs(void)
{
    CutOffRun runs[JOB_COUNT];
    int count = history_cut_off_runs(runs);

    take_up_cut_off = false;
    for (int i = 0; i < count; i++)
        start_run(runs[i].job, JOB_TRIGGER_RECOVERY, runs[i].scheduled_for, runs[i].arguments);
}

/* One look at everything. Returns when to look again, by the clock; 0: when something changes. */
static TimestampTz
step(TimestampTz now)
{
    TimestampTz next = 0;

    for (int job = 0; job < JOB_COUNT; job++) {
        TimestampTz at = step_job((JobId) job, now);

        if (at != 0 && (next == 0 || at < next))
            next = at;
    }
    if (!settle_lost_runs()) {
        TimestampTz soon = TimestampTzPlusMilliseconds(now, LOST_RUNS_RETRY_MS);

        next = next == 0 ? soon : Min(next, soon);
    } else if (take_up_cut_off)
        take_up_cut_off_runs();
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
        (void) process_reload();
        MemoryContextSwitchTo(context);
        MemoryContextReset(context);
    }
    proc_exit(0);
}
