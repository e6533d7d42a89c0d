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

#include "storage/condition_variable.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "utils/timestamp.h"

#include "server/job.h"

#define MAX_SCHEDULERS 64 /* databases served at once */
#define MAX_RUNS 128      /* runs queued, at work, or finished and waited for */
#define MAX_RELEASED 8    /* databases that are being dropped or moved at once */
#define MAX_POKES 32      /* databases that changed and that the launcher has not looked at yet */
#define CRON_TEXT_SIZE 256
#define RUN_ARGUMENTS_SIZE 256
#define RUN_STATUS_SIZE 16
#define RUN_RESULT_SIZE 2048
#define RUN_MESSAGE_SIZE 512

#define NO_PROCESS (-1)

/* The schedule of one job as its scheduler has it in force; written by that scheduler. */
typedef struct ScheduledJob {
    char cron[CRON_TEXT_SIZE]; /* "" when disabled */
    TimestampTz next_run;      /* 0: none */
    TimestampTz not_begun;     /* when a run was due whose worker never began it; set by those who notice, 0: none */
} ScheduledJob;

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
    int process;    /* the scheduler's number in the process array, or NO_PROCESS; set by the scheduler */
    bool ready;     /* the schedules below are in force */
    bool poked;     /* shared_poke() named the database since the launcher asked for the process */
    bool lost_runs; /* a worker ended without recording its run; set by workers, cleared by the scheduler */
    ScheduledJob jobs[JOB_COUNT];
} SchedulerSlot;

/* The states of a run; dispatch.c makes every change of state. */
typedef enum RunState {
    RUN_FREE,
    RUN_QUEUED,   /* waits for the job's present run to end */
    RUN_STARTING, /* a worker has been asked for */
    RUN_RUNNING,  /* a worker is at it */
    RUN_FINISHED  /* its outcome is waited for */
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

typedef struct RunSlot {
    RunState state;
    uint64 sequence; /* tells this use of the slot from earlier ones */
    int64 id;        /* apapacho_jobs.run.id; 0 until the worker has taken one */
    Oid database;
    JobId job;
    JobTrigger trigger;
    Oid requested_by; /* InvalidOid: the scheduler */
    TimestampTz scheduled_for;
    TimestampTz state_since;
    int waiters; /* backends that wait for the outcome */
    pid_t pid;   /* the worker's */
    int process;
    char arguments[RUN_ARGUMENTS_SIZE];

    RunOutcome outcome;        /* for those who wait; whole in the history */
    ConditionVariable changed; /* broadcast at every change of state; has a lock of its own */
} RunSlot;

typedef struct SharedState {
    LWLock *lock;
    int launcher;  /* the launcher's process, or NO_PROCESS */
    bool poke_all; /* more databases changed than fit into pokes */
    int poke_count;
    Oid pokes[MAX_POKES];
    Oid released[MAX_RELEASED]; /* databases that are being dropped or moved: no scheduler for them, no run in them */
    uint64 last_sequence;       /* of RunSlot.sequence */
    SchedulerSlot schedulers[MAX_SCHEDULERS];
    RunSlot runs[MAX_RUNS];
} SharedState;

extern SharedState *shared;

/* Installs the shared memory hooks; from _PG_init at preload. */
void shared_init(void);

/* Sets the latch of a process that is named by its number; NO_PROCESS is nothing. A spurious wake-up is harmless. */
void shared_wake(int process);

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
