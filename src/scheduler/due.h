/*
 * due.h: when a job is due. The clock that it is asked with is injectable; the step itself is a pure function.
 */
#ifndef APAPACHO_DUE_H
#define APAPACHO_DUE_H

#include "postgres.h"

#include "pgtime.h"
#include "utils/timestamp.h"

#include "lib/cron/cron.h"

/* The scheduler's clock: the time of day, moved by apapacho_jobs.debug_clock_offset (a test's means to be at another
 * time). */
TimestampTz clock_now(void);

/* Defines that setting; from _PG_init. */
void clock_define_setting(void);

/* A job's place in time. All zero: it has just been scheduled. */
typedef struct DueState {
    TimestampTz next; /* the next time that it is due; 0: none */
    TimestampTz seen; /* the clock when that was last looked at */
} DueState;

/* The first fire after `after`; 0: none (or a schedule without times of its own, as @reboot). */
TimestampTz due_next(const CronSchedule *schedule, pg_tz *zone, TimestampTz after);

/*
 * One step: the clock says `now`. If the job has come due, returns the time that it was due at, else 0; *state moves
 * on. Times that passed unseen (a busy machine, a clock set forward) count as one run, due at the first of them. When
 * the clock has been set back, the next time is found anew from where the clock is now.
 */
TimestampTz due_step(const CronSchedule *schedule, pg_tz *zone, TimestampTz now, DueState *state);

#endif
