/*
 * job.h: what a job is to the rest of the server: a name, a schedule and a function that does one run of it.
 *
 * The features (outbox, payout) implement the functions; server/entry.c lists them in the table; the scheduler runs
 * them in background workers. Features know nothing of the scheduler, nor of each other.
 */
#ifndef APAPACHO_JOB_H
#define APAPACHO_JOB_H

#include "postgres.h"

#include "utils/timestamp.h"

/*
 * The built-in jobs, in the order of the seed's status document; they index job_definitions. In tables and shared
 * memory a job goes by its id in apapacho_jobs.job: these have the first ones.
 */
typedef enum JobId { JOB_OUTBOX, JOB_PAYOUT, JOB_CLEANUP, JOB_RETRY, JOB_COUNT } JobId;

static inline bool
job_is_builtin(int64 job)
{
    return job >= 1 && job <= JOB_COUNT;
}

typedef enum JobTrigger {
    JOB_TRIGGER_SCHEDULE,
    JOB_TRIGGER_MANUAL,
    JOB_TRIGGER_RECOVERY, /* goes on with a run that a crash or a shutdown cut off */
    JOB_TRIGGER_RETRY,    /* another attempt after a failure */
    JOB_TRIGGER_WORK      /* there is work: a commit has brought some, or some has come due (wake.h) */
} JobTrigger;

/* Whether a run by that trigger stands for a scheduled time, which must not be lost. */
static inline bool
job_trigger_has_slot(JobTrigger trigger)
{
    return trigger != JOB_TRIGGER_MANUAL && trigger != JOB_TRIGGER_WORK;
}

/* One run of a job, as the job's function sees it. */
typedef struct JobRun {
    int64 id; /* apapacho_jobs.run.id */
    JobTrigger trigger;
    const char *arguments; /* a JSON object, e.g. {"batchSize": 50}; "" when there are none */
    MemoryContext context; /* lives as long as the run; the result is allocated here */
} JobRun;

/*
 * Does one run: called in a worker outside of any transaction; opens and commits its own (server/xact.h). Returns the
 * job's figures as the text of a JSON object, allocated in run->context. Failure is an ERROR, which the worker records.
 */
typedef char *(*JobFunction)(JobRun *run);

typedef struct JobDefinition {
    const char *name;      /* `outbox` */
    const char *long_name; /* `outboxPublisher` */
    JobFunction function;
} JobDefinition;

extern const JobDefinition job_definitions[JOB_COUNT];

/*
 * Whether a run should end early, at its next clean point: a scheduled one when the jobs have been switched off
 * meanwhile. Also takes up a configuration reload. Call it between batches, outside of a transaction.
 */
bool job_should_stop(const JobRun *run);

/*
 * Whether job_should_stop() has told this run to end early: it is recorded as interrupted and taken up when the jobs
 * are switched on again. job_begin() is the worker's, before each run.
 */
bool job_was_stopped(void);
void job_begin(void);

/*
 * Whether a run that might go on for long should come to its end when that is convenient: another run of the job is
 * waiting, or the settings have changed since it began.
 */
bool job_is_to_end_soon(void);

/*
 * For a run that has done its work and would take on more: waits until the process's latch is set, or so long. False:
 * the run is to end now, since job_is_to_end_soon(), or the process is told to go. While it waits the job does not
 * count as executing. Outside of a transaction.
 */
bool job_wait_idle(long timeout_ms);

/*
 * Tells how far the run is, for the status functions: `total` is -1 when it is not known, `message` may be NULL.
 * Outside of a worker it does nothing.
 */
void job_progress(int64 done, int64 total, const char *message);

/* An integer argument of the run, or `otherwise` when it is not given. */
int64 job_argument_int(const JobRun *run, const char *key, int64 otherwise);

#endif
