/*
 * history.h: apapacho_jobs.run, a row for every run and for every scheduled time that had none; and
 * apapacho_jobs.job_state, up to when each job's times have been dealt with.
 *
 * Which status follows which is drawn in README.md. The functions are called in a transaction of the caller's
 * (xact_begin) unless they say otherwise.
 */
#ifndef APAPACHO_HISTORY_H
#define APAPACHO_HISTORY_H

#include "postgres.h"

#include "nodes/pg_list.h"

#include "scheduler/due.h"
#include "server/shared.h"

#define STATUS_QUEUED "queued"   /* the slot is taken, the run has not begun */
#define STATUS_RUNNING "running" /* a worker is at it */
#define STATUS_SUCCEEDED "succeeded"
#define STATUS_FAILED "failed"           /* the job raised an error */
#define STATUS_TIMED_OUT "timed_out"     /* it took longer than the job's timeout */
#define STATUS_CANCELLED "cancelled"     /* apapacho_cancel_run(), pg_cancel_backend() */
#define STATUS_INTERRUPTED "interrupted" /* shutdown, pg_terminate_backend(), DROP DATABASE, enabled = off */
#define STATUS_CRASHED "crashed"         /* the run's process ended without a word */
#define STATUS_SKIPPED "skipped"         /* the job's previous run was at work */
#define STATUS_MISSED "missed"           /* nobody was there to run it, and the policy is not to make up for it */
#define STATUS_COALESCED "coalesced"     /* the run of a later slot stands for it */
#define STATUS_PAUSED "paused"           /* the job was paused, or the schedules were off */
#define STATUS_NO_WORKER "no_worker"     /* no background worker was free until the next slot */

/* A row of the history. Texts are NULL where there is nothing to say. */
typedef struct RunRecord {
    RunSpec spec;
    TimestampTz scheduled_until; /* the last slot of the row; 0: scheduled_for */
    int64 slots;                 /* how many; 0: one */
    const char *status;
    TimestampTz started_at; /* 0: never */
    TimestampTz finished_at;
    const char *result; /* a JSON object */
    int sqlstate;
    const char *error;
    int pid;
    TimestampTz retry_at; /* 0: no further attempt */
} RunRecord;

/* A new run id. No transaction of its own: any will do. */
int64 history_next_id(void);

/* Inserts a row; false: the slot is in the history already (another server ran it), and nothing is to be done. */
bool history_insert(const RunRecord *record);

/* Inserts the row or brings it up to date. */
void history_upsert(const RunRecord *record);

/* Writes that a run has started; inserts the row if there is none (by hand). */
void history_start(const RunSpec *spec, TimestampTz started_at);

/*
 * Notifies of a failure, if it is one and the settings ask for it: in a transaction of its own, after the row has been
 * committed, since NOTIFY takes a lock that others may hold for long. An ERROR is for the caller to swallow.
 */
void history_notify(const RunRecord *record);

/*
 * When a run that ended with this status is to be tried again: by the job's rules with exponential backoff, half of it
 * at random; 0: not at all.
 */
TimestampTz history_retry_at(const RunSpec *spec, const char *status, TimestampTz now);

/*
 * Marks rows as `crashed` that say `running` although nobody is at them (in shared memory). Returns what is to be
 * notified of once that is committed: a list of RunRecord in `context`.
 */
List *history_mark_lost(MemoryContext context);

/*
 * Runs that are to be dispatched although no slot comes due: those taken but not begun (`queued`, and not in shared
 * memory); and the built-in jobs' that were cut off and go on as a recovery. For users' jobs the policies of the job
 * are for the caller to fill in. A list of RunSpec in `context`.
 */
List *history_queued_runs(MemoryContext context);
List *history_cut_off_runs(MemoryContext context);

/* A run that failed and is to be tried again. */
typedef struct PendingRetry {
    RunSpec spec; /* of the failed attempt */
    TimestampTz at;
} PendingRetry;

List *history_pending_retries(MemoryContext context);

/* The retry has been taken up, or is not wanted any more. */
void history_clear_retry(int64 id);
void history_clear_job_retries(int64 job);

/* Deletes what the settings do not keep, at most `batch` rows. Returns how many. */
int64 history_prune(int batch);

/* Where a job stands in time, as the table has it. */
typedef struct JobState {
    char *schedule; /* the expression and the zone that `due` is meant for */
    char *zone;
    DueState due;
    TimestampTz off_since; /* the schedules have been switched off since then; 0: no */
} JobState;

/* False: there is no row. Texts are allocated in `context`. */
bool history_read_state(int64 job, JobState *state, MemoryContext context);
void history_write_state(int64 job, const JobState *state);
void history_delete_state(int64 job);
void history_delete_other_states(const int64 *jobs, int count);

/* The schedules are being switched off: what comes due from `now` on is not missed. A transaction of its own. */
void history_switch_off(TimestampTz now);

#endif
