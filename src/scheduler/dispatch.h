/*
 * dispatch.h: runs on their way, in shared memory: requested, queued, started, waited for. See README.md for the
 * states.
 */
#ifndef APAPACHO_DISPATCH_H
#define APAPACHO_DISPATCH_H

#include "postgres.h"

#include "server/shared.h"

/* A run as its requester or its worker refers to it. */
typedef struct RunTicket {
    int slot;
    uint64 sequence;
    int64 id;
} RunTicket;

typedef enum RequestResult {
    REQUEST_STARTED,   /* a worker has been asked for */
    REQUEST_QUEUED,    /* waits for the job's present run to end (or joined one that does), or for a worker */
    REQUEST_OVERLAP,   /* another run is queued; by hand: one with other arguments */
    REQUEST_NO_WORKER, /* by hand: no background worker was free */
    REQUEST_NO_SLOT,   /* more runs than shared memory has room for */
    REQUEST_RELEASED   /* the database is being dropped or moved */
} RequestResult;

/*
 * Asks for a run. At most one run of a job is at work in a database, and one is queued. One by hand that finds a queued
 * one joins it. `wait`: the caller will
 * call dispatch_wait().
 */
RequestResult dispatch_request(const RunSpec *spec, bool wait, RunTicket *ticket);

/*
 * Waits until the run has ended and copies its outcome and id. To be called with a ticket that was requested with
 * `wait`. Interruptible: an ERROR in here (a cancelled statement) leaves the run alone. ERROR also when the run waits
 * for a lock that this very transaction holds.
 */
void dispatch_wait(RunTicket *ticket, RunOutcome *outcome);

/* What there is of a job in a database. */
typedef struct JobRuns {
    bool active; /* a run is at work, or its worker is on its way */
    bool idle;   /* the active one only waits for more to do */
    int64 active_id;
    TimestampTz scheduled_for; /* of the active one */
    TimestampTz started_at;    /* when it began; 0: it has not */
    int queued;
    int64 queued_id; /* of the first queued one */
    bool queued_by_hand;
    TimestampTz queued_since;
    RunProgress progress;
} JobRuns;

/*
 * Looks; with `wake` the database's scheduler is woken when these runs end, and the active one ends as soon as it has
 * done its work.
 */
void dispatch_look(Oid database, int64 job, bool wake, JobRuns *runs);

/*
 * Starts what is queued in any database and may start: its job is not at work, and a worker is to be had. Returns
 * whether something could start if only a background worker were free (try again soon), and in `starved`, of
 * NAMEDATALEN bytes unless NULL, which job's.
 */
bool dispatch_start_queued(char *starved);

/* Takes a queued run back, which then will not start; false: it is not queued any more. */
bool dispatch_withdraw(Oid database, int64 id, RunSpec *spec);

/* Ends a queued run as cancelled, or tells the worker that is at it to end; false: the run is neither. */
bool dispatch_cancel(Oid database, int64 id);

/* Wakes the worker that is at a run of the job, if there is one. */
void dispatch_wake_worker(Oid database, int64 job);

/* Ends the queued runs of a database that, or whose extension, has been dropped; nothing is written down any more. */
void dispatch_forget(Oid database);

/* Ids of the runs queued or at work in a database. `ids` has room for MAX_RUNS. Returns how many. */
int dispatch_active_ids(Oid database, int64 *ids);

/* A run that has ended and that the history does not know of. */
typedef struct UnrecordedRun {
    RunTicket ticket;
    RunSpec spec;
    TimestampTz started_at;
    TimestampTz finished_at;
    pid_t pid; /* the worker's; 0: there was none */
    RunOutcome outcome;
} UnrecordedRun;

/* In the scheduler: the next such run of its database; false: none. It is the caller's from then on. */
bool dispatch_take_unrecorded(Oid database, UnrecordedRun *run);

/*
 * The history of a database has been found locked: for a while, its workers leave their rows to the scheduler, which
 * keeps them in memory. dispatch_history_is_blocked() says whether that is so.
 */
void dispatch_note_history_blocked(Oid database);
bool dispatch_history_is_blocked(Oid database);

/* Sends SIGTERM to the workers that are at work in a database. */
void dispatch_terminate(Oid database);

/* Whether any run of a database's jobs waits to begin. */
bool dispatch_any_queued(Oid database);

/* Whether any run is at work in a database, or about to be. */
bool dispatch_any(Oid database);

/*
 * The worker's side. dispatch_attach() takes the run over (false: it is no longer wanted); from then on the process's
 * exit ends the run in any case. dispatch_begin(): the job itself begins now. dispatch_finish(): the run has ended;
 * `recorded` says whether the history knows. If the next run that is to start can be done by this process too (same
 * database, same role, and `take`), it becomes this worker's: returns its slot, else -1: the process is to exit.
 */
bool dispatch_attach(int slot, uint64 sequence);
void dispatch_begin(int slot, TimestampTz now);
int dispatch_finish(int slot, const RunOutcome *outcome, bool recorded, bool retry, bool take);

/* In the worker, before it exits by a FATAL error: what that said. */
void dispatch_note_fatal(int sqlstate, const char *message);

/* Tells the scheduler of a database to look at its history: a run has ended that it does not tell of rightly. */
void dispatch_report_lost(Oid database);

#endif
