/*
 * dispatch.h: runs on their way, in shared memory: requested, queued, started, waited for. See README.md for the
 * states.
 */
#ifndef APAPACHO_DISPATCH_H
#define APAPACHO_DISPATCH_H

#include "postgres.h"

#include "server/shared.h"

typedef struct RunRequest {
    Oid database;
    JobId job;
    JobTrigger trigger;
    int64 id;         /* a run id taken beforehand, or 0: the worker takes one */
    Oid requested_by; /* InvalidOid: the scheduler */
    TimestampTz scheduled_for;
    const char *arguments; /* "" or a JSON object, less than RUN_ARGUMENTS_SIZE bytes */
    bool wait;             /* the caller will call dispatch_wait() */
} RunRequest;

/* A run as its requester or its worker refers to it. */
typedef struct RunTicket {
    int slot;
    uint64 sequence;
    int64 id; /* 0 when the worker has not taken one yet */
} RunTicket;

typedef enum RequestResult {
    REQUEST_STARTED,   /* a worker has been asked for */
    REQUEST_QUEUED,    /* by hand: waits for the present run to end (or joined one that does) */
    REQUEST_OVERLAP,   /* the job is at work (scheduled), or another run with other arguments is queued (by hand) */
    REQUEST_NO_WORKER, /* no background worker was free */
    REQUEST_NO_SLOT,   /* more runs than shared memory has room for */
    REQUEST_RELEASED   /* the database is being dropped or moved */
} RequestResult;

/* Asks for a run. At most one run of a job is at work in a database, and at most one queued behind it. */
RequestResult dispatch_request(const RunRequest *request, RunTicket *ticket);

/*
 * Waits until the run has ended and copies its outcome and id. To be called with a ticket that was requested with
 * `wait`. Interruptible: an ERROR in here (a cancelled statement) leaves the run alone. ERROR also when the run waits
 * for a lock that this very transaction holds.
 */
void dispatch_wait(RunTicket *ticket, RunOutcome *outcome);

/* In the worker: takes the run over (false: it is no longer wanted); from then on its exit ends the run in any case. */
bool dispatch_attach(int slot, uint64 sequence);

/* In the worker: the run's id is known. */
void dispatch_set_id(int slot, int64 id);

/*
 * In the worker: the run has ended and is recorded. If another run of the same job is queued, it becomes this worker's:
 * returns its slot, else -1 (the worker has nothing left to do). With `take` false a queued run is given to a new
 * worker.
 */
int dispatch_finish(int slot, const RunOutcome *outcome, bool take);

/* Starts the queued runs of a database whose job is not at work; from its scheduler, at every step. */
void dispatch_start_queued(Oid database);

/* Ends the queued runs of a database that has been dropped. */
void dispatch_forget(Oid database);

/* A run of the database has ended and the history does not say so: its scheduler is to see to that. */
void dispatch_report_lost(Oid database);

/* Ids of the runs at work in a database; false when one of them has no id yet. `ids` has room for MAX_RUNS. */
bool dispatch_active_ids(Oid database, int64 *ids, int *count);

/* The id of the run of a job that is at work, or queued; 0: none, or not known yet. */
bool dispatch_executing(Oid database, JobId job, int64 *id);

/* Sends SIGTERM to the workers that are at work in a database. */
void dispatch_terminate(Oid database);

/* Whether any run is at work in a database, or about to be. */
bool dispatch_any(Oid database);

#endif
