/*
 * history.h: apapacho_jobs.run, a row for every run.
 *
 * A row is inserted as `running` when the run starts and updated when it ends; a row that still says so although nobody
 * works at it is the trace of a crash, which history_mark_lost() turns into `crashed`. Each function is a transaction
 * of its own unless it says otherwise.
 */
#ifndef APAPACHO_HISTORY_H
#define APAPACHO_HISTORY_H

#include "postgres.h"

#include "server/shared.h"

#define STATUS_SUCCEEDED "succeeded"
#define STATUS_FAILED "failed"           /* the job raised an error */
#define STATUS_CANCELLED "cancelled"     /* pg_cancel_backend() */
#define STATUS_INTERRUPTED "interrupted" /* shutdown, pg_terminate_backend(), DROP DATABASE, enabled = off */
#define STATUS_CRASHED "crashed"         /* the run's process ended without a word */
#define STATUS_SKIPPED "skipped"         /* the job's previous run was still at work */
#define STATUS_NO_WORKER "no_worker"     /* no background worker was free */

/* A new run id. No transaction of its own: any will do. */
int64 history_next_id(void);

/* Inserts the row of a run that starts now. */
void history_start(const RunSlot *run);

/* Writes how a run ended; `result` is a JSON object or NULL, `message` NULL when all went well. */
void history_finish(int64 id, const char *status, const char *result, int sqlstate, const char *message);

/* Inserts the row of a scheduled run that did not take place, and why. */
void history_not_run(JobId job, TimestampTz scheduled_for, const char *status, const char *message);

/*
 * Marks rows as `crashed` that say `running` although no worker is at them. False when that cannot be told just now (a
 * worker is about to start): call it again soon.
 */
bool history_mark_lost(void);

/* A job whose latest run was cut off, by a crash or a shutdown, and is to be taken up again. */
typedef struct CutOffRun {
    JobId job;
    TimestampTz scheduled_for;
    char arguments[RUN_ARGUMENTS_SIZE];
} CutOffRun;

/* Finds these; at most one for a job. Returns how many. A run that crashed while taking up another is left to its
 * schedule. */
int history_cut_off_runs(CutOffRun runs[JOB_COUNT]);

#endif
