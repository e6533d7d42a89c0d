/*
 * claims.h: runs and slots that a scheduler takes: written into the history and job_state in one transaction, and only
 * then dispatched. A slot that the history has already, since another server ran it, is not run.
 */
#ifndef APAPACHO_CLAIMS_H
#define APAPACHO_CLAIMS_H

#include "postgres.h"

#include "scheduler/history.h"
#include "scheduler/job_table.h"

/* A place in time to be written for a job. */
typedef struct StateChange {
    int64 job;
    const JobState *state;
} StateChange;

/* What one step has decided. Everything in it is allocated in the memory context of the step. */
typedef struct Claims {
    List *rows;           /* of Claim */
    List *states;         /* of StateChange */
    List *settled_states; /* of int64 *: jobs without a schedule, whose state is to go */
    List *cleared;        /* of int64 *: runs that are not tried again any more */
    List *cleared_jobs;   /* of int64 *: jobs none of whose runs is */
} Claims;

/* Fills in what the job says about its runs: role, database, limits. */
void claims_fill_spec(RunSpec *spec, const Job *job);

/*
 * Adds a run of the job, to be dispatched; or, with a status other than `queued`, a row for slots without a run
 * (`message` may be NULL).
 */
void claims_add_run(Claims *claims, const Job *job, JobTrigger trigger, TimestampTz scheduled_for, int pass,
                    int attempt, const char *arguments);
void claims_add_slots(Claims *claims, const Job *job, const Due *due, int pass, const char *status,
                      const char *message);

bool claims_any(const Claims *claims);

/* Writes them all. An ERROR leaves everything as it was. While the history is locked its rows go to the ledger. */
void claims_write(Claims *claims, TimestampTz now);

/* Dispatches the runs. False: some could not be, and are in the history as queued. */
bool claims_dispatch(const Claims *claims);

/*
 * A segment with the text of a command for another database, which the run that it is given to lets go of;
 * DSM_HANDLE_INVALID for a job whose command is read from the table, and where no segment is to be had.
 */
dsm_handle claims_command(const Job *job);

#endif
