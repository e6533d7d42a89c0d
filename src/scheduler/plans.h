/*
 * plans.h: the jobs of a scheduler's database: when each is due, and what is done about it.
 */
#ifndef APAPACHO_PLANS_H
#define APAPACHO_PLANS_H

#include "postgres.h"

#include "scheduler/due.h"
#include "scheduler/history.h"
#include "scheduler/job_table.h"
#include "server/shared.h"

/* What a job is to do, in the memory of the scheduler. */
typedef struct JobPlan {
    const Job *job;
    DueRule rule;
    JobState state;
    JobState after;      /* the same, as decided in this step */
    bool changed;        /* they differ */
    bool runs;           /* a run has been decided on in this step */
    bool decided_most;   /* there is more to decide: look again at once */
    bool waits;          /* for the end of a run, which wakes the scheduler */
    TimestampTz look_at; /* when to look again; 0: not by itself */
    bool settled;        /* nothing is to be done before that */
} JobPlan;

/* From the scheduler's start: `slot` is its own. */
void plans_init(SchedulerSlot *slot);

/* The configuration has been reloaded: schedules and zones may have changed. */
void plans_note_reload(void);

/*
 * One look at everything: what has ended is written down, what is due is taken (history and job_state, one
 * transaction) and dispatched. Returns when to look again, by clock_now(); 0: not before something changes. Errors are
 * raised; what had been decided is then decided again.
 */
TimestampTz plans_step(TimestampTz now);

/* A job of this database as it was read last; NULL: there is none. The plan of one that is scheduled. */
const Job *plans_find_job(int64 id);
JobPlan *plans_find(int64 job);

#endif
