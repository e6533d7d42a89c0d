/*
 * plans.h: the jobs of a scheduler's database: when each is due, and what is done about it.
 */
#ifndef APAPACHO_PLANS_H
#define APAPACHO_PLANS_H

#include "postgres.h"

#include "server/shared.h"

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

#endif
