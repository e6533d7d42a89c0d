/*
 * shared.h: the extension's shared memory: which schedulers there are and which runs are on their way.
 *
 * Everything is guarded by shared->lock unless a comment says otherwise. Nothing here survives a crash of the server:
 * what must survive is in tables. No process's own pointer is kept: processes are named by their number in the process
 * array.
 */
#ifndef APAPACHO_SHARED_H
#define APAPACHO_SHARED_H

#include "postgres.h"

#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "storage/dsm_impl.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "utils/timestamp.h"

#include "server/counters.h"
#include "server/job.h"

#define MAX_SCHEDULERS 64   /* databases served at once */
#define MAX_RUNS 512        /* runs queued, at work, or finished and not yet taken note of */
#define RESERVED_RUNS 128   /* of these, for built-in jobs */
#define MAX_RUNS_OF_ONE 256 /* of these, for the jobs of one owner */
#define MAX_RELEASED 8      /* databases that are being dropped or moved at once */
#define MAX_POKES 32        /* databases that changed and that the launcher has not looked at yet */
#define MAX_SEATS 128       /* publishers at work, in all databases */
#define RUN_ARGUMENTS_SIZE 256
#define RUN_STATUS_SIZE 16
#define RUN_RESULT_SIZE 2048
#define RUN_MESSAGE_SIZE 512

#define NO_PROCESS (-1)

/* The states of a scheduler; launcher.c and scheduler.c say who makes which change. */
typedef enum SchedulerState {
    SCHEDULER_FREE,
    SCHEDULER_STARTING, /* the launcher has asked for the process */
    SCHEDULER_RUNNING,  /* the process has attached */
    SCHEDULER_ABSENT,   /* it ended: the extension is not installed in the database */
    SCHEDULER_ENDED     /* it ended for another reason */
} SchedulerState;

/* The scheduler of one database. */
typedef struct SchedulerSlot {
    SchedulerState state;
    Oid database; /* set by the launcher, as launched_at */
    TimestampTz launched_at;
    int process;  /* the scheduler's number in the process array, or NO_PROCESS; set by the scheduler */
    bool ready;   /* the schedules are in force */
    bool poked;   /* shared_poke() named the database since the launcher asked for the process */
    bool was_off; /* apapacho_jobs.enabled was off before; set by the launcher, cleared by the scheduler when it has
                     noted it */
    /* What the scheduler is to look at; set by others, cleared by it. */
    bool jobs_changed;                 /* rows of apapacho_jobs.job */
    bool settings_changed;             /* settings of the database or of a role */
    bool lost_runs;                    /* a worker ended without recording its run */
    bool retries_changed;              /* a run has failed and is to be tried again */
    TimestampTz history_blocked_until; /* the history is locked: until then nobody tries to write it */
    int ended_runs;                    /* workers have written so many rows since the scheduler last looked */
    /* wake.c's */
    pg_atomic_uint32 new_events; /* outbox events have been committed since a publisher last looked; without the lock */
    int publisher;               /* the process that waits for that, or NO_PROCESS; read without the lock */
    TimestampTz publisher_held_until;
    TimestampTz publisher_due_at; /* when an event or an endpoint is to be tried again; 0: none */
} SchedulerSlot;

/* The states of a run; dispatch.c makes every change of state. */
typedef enum RunState {
    RUN_FREE,
    RUN_QUEUED,   /* waits for the job's present run to end, or for a worker */
    RUN_STARTING, /* a worker has been asked for */
    RUN_RUNNING,  /* a worker is at it */
    RUN_FINISHED  /* its outcome is waited for, or has yet to be written into the history */
} RunState;

/* How a run ended. Texts that do not fit are cut (a result is left out): the history has them whole. */
typedef struct RunOutcome {
    char status[RUN_STATUS_SIZE];
    char result[RUN_RESULT_SIZE]; /* the job's figures, a JSON object, or "" */
    int sqlstate;                 /* packed as by MAKE_SQLSTATE; 0: no error */
    char message[RUN_MESSAGE_SIZE];
    char detail[RUN_MESSAGE_SIZE];
    char hint[RUN_MESSAGE_SIZE];
} RunOutcome;

/* What is to be run, for whom and under which rules: fixed when the run is asked for. */
typedef struct RunSpec {
    int64 id;  /* apapacho_jobs.run.id */
    int64 job; /* apapacho_jobs.job.id; the built-in jobs' are JobId + 1 */
    char name[NAMEDATALEN];
    Oid database;     /* the job's and its history's */
    Oid run_database; /* the one that the worker connects to */
    Oid role;         /* whom the command runs as; InvalidOid: a built-in job, as ourselves */
    Oid owner;        /* the job's */
    Oid extension;    /* the one that the job is of: made anew, it is another */
    JobTrigger trigger;
    Oid requested_by; /* by hand: who; else InvalidOid */
    TimestampTz scheduled_for;
    int pass;    /* how often the clock had been set back */
    int attempt; /* from 1 */
    int retries; /* further attempts that are allowed in all */
    int64 retry_delay_ms;
    int64 retry_delay_max_ms;
    int64 timeout_ms;                   /* 0: none */
    int encoding;                       /* of the job's database, which these texts and the history are in */
    dsm_handle command;                 /* for another database: the command's text, pinned; else DSM_HANDLE_INVALID */
    char arguments[RUN_ARGUMENTS_SIZE]; /* "" or a JSON object */
} RunSpec;

/* How far a run is, as its job says. */
typedef struct RunProgress {
    bool known;
    int64 done;
    int64 total; /* -1: not known */
    char message[128];
} RunProgress;

typedef struct RunSlot {
    RunState state;
    uint64 sequence; /* tells this use of the slot from earlier ones */
    RunSpec spec;
    TimestampTz requested_at;
    TimestampTz state_since;
    TimestampTz started_at; /* when the job itself began; 0: not yet. Set by the worker */
    bool cancel_requested;  /* apapacho_cancel_run() */
    bool unrecorded;        /* FINISHED: the history does not know the outcome yet; the scheduler sees to it */
    bool wake_scheduler;    /* it waits for the end of this run */
    bool idle;              /* it has done its work and waits for more of it; set by the worker */
    bool leave_idleness;    /* it is not to wait for more: another run or the worker is wanted */
    int waiters;            /* backends that wait for the outcome */
    pid_t pid;              /* the worker's; FINISHED: it may be gone */
    int process;
    RunProgress progress;              /* written by the worker */
    bool helpers_to_end;               /* they are to send what they have in hand and end; set by the worker */
    pg_atomic_uint64 helped_delivered; /* what the helpers of an outbox run have added to it (outbox/helpers.c) */
    pg_atomic_uint64 helped_failed;

    RunOutcome outcome;        /* for those who wait; whole in the history */
    ConditionVariable changed; /* broadcast at every change of state; has a lock of its own */
} RunSlot;

/* A publisher that is alive: seats.c's. */
typedef struct PublisherSeat {
    Oid database;                /* InvalidOid: free. Read without the lock, as the next one and the last two are */
    int process;                 /* its number in the process array */
    int weight;                  /* of so many parts it is: a run and its helpers */
    pg_atomic_uint64 slots;      /* which are to be its own */
    pg_atomic_uint32 new_events; /* as a scheduler's */
} PublisherSeat;

typedef struct SharedState {
    LWLock *lock;
    int launcher;  /* the launcher's process, or NO_PROCESS */
    bool poke_all; /* more databases changed than fit into pokes */
    bool was_off;  /* apapacho_jobs.enabled is off, or was until now; the launcher's, which may be started anew */
    int poke_count;
    Oid pokes[MAX_POKES];
    Oid released[MAX_RELEASED]; /* databases that are dropped or moved, or lose the extension: no scheduler, no run */
    uint64 last_sequence;       /* of RunSlot.sequence */
    TimestampTz
        no_sync_wait_until; /* a synchronous standby was waited for in vain; read and written without the lock */
    uint64 jobs_generation; /* how often rows of apapacho_jobs.job have changed, in any database */
    SchedulerSlot schedulers[MAX_SCHEDULERS];
    RunSlot runs[MAX_RUNS];
    PublisherSeat seats[MAX_SEATS];
    OutboxCounters counters[MAX_COUNTERS];
} SharedState;

extern SharedState *shared;

/* The run that this process, a worker, is at; else NULL. */
extern RunSlot *shared_my_run;

/* Installs the shared memory hooks; from _PG_init at preload. */
void shared_init(void);

/* Sets the latch of a process that is named by its number; NO_PROCESS is nothing. A spurious wake-up is harmless. */
void shared_wake(int process);

/* Copies a text (NULL is ""); what does not fit is cut between two characters. */
void shared_copy_text(char *to, size_t size, const char *from);

/* Replaces every byte that is not ASCII by a question mark: for a text that goes to a database of another encoding. */
void shared_make_ascii(char *text);

/* Makes the launcher look which databases there are. */
void shared_wake_launcher(void);

/* Tells the launcher (and that database's scheduler, if any) that the extension or the database came or went. */
void shared_poke(Oid database);

/*
 * From shared_release() to shared_unrelease() no process of ours may enter the database. False: another backend has
 * already released it, or too many databases are released. shared_is_released() is to be called under shared->lock.
 */
bool shared_release(Oid database);
void shared_unrelease(Oid database);
bool shared_is_released(Oid database);

#endif
