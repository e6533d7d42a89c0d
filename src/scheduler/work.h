/*
 * work.h: the scheduler's part in publishing outbox events at once.
 */
#ifndef APAPACHO_WORK_H
#define APAPACHO_WORK_H

#include "postgres.h"

#include "utils/timestamp.h"

#include "scheduler/job_table.h"

/* The id of the job that is woken. */
#define WORK_JOB (JOB_OUTBOX + 1)

/*
 * Has outbox events published now that commits have brought or that have come due: by the publisher that is at work,
 * which is told to look again, or else by a run of its own. That is not a scheduled time's; if it is lost the next of
 * these makes up for it. `job`: the outbox; NULL: it is not scheduled. Returns when to look again, by the steps' clock;
 * 0: when woken.
 */
TimestampTz work_step(const Job *job, TimestampTz now);

#endif
