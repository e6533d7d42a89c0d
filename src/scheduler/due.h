/*
 * due.h: when a job is due. The clock that it is asked with is injectable; the step from "until then, now" to "due" is
 * a pure function.
 */
#ifndef APAPACHO_DUE_H
#define APAPACHO_DUE_H

#include "postgres.h"

#include "pgtime.h"
#include "utils/timestamp.h"

#include "lib/cron/cron.h"
#include "scheduler/job_table.h"

/* The scheduler's clock: the time of day, moved by apapacho_jobs.debug_clock_offset (a test's means to be at another
 * time). */
TimestampTz clock_now(void);

/* Defines that setting; from _PG_init. */
void clock_define_setting(void);

/* What says when a job is due. */
typedef struct DueRule {
    CronSchedule schedule;
    pg_tz *zone;
    TimestampTz server_start; /* what @reboot means */
    MisfirePolicy misfire;
    int64 misfire_window; /* microseconds */
    bool paused;
} DueRule;

/* A job's place in time: every scheduled time (slot) up to `settled` has been dealt with. */
typedef struct DueState {
    TimestampTz settled;
    int pass; /* how often the clock has been set back so far that times come again */
} DueState;

typedef enum DueKind {
    DUE_NOTHING,   /* none is due; the next is `first` (0: none) */
    DUE_RUN,       /* the slot `first` is to run */
    DUE_MISSED,    /* the slots from first to last are not made up for */
    DUE_COALESCED, /* these are made up for by the run of a later one */
    DUE_PAUSED     /* these came while the job was paused */
} DueKind;

typedef struct Due {
    DueKind kind;
    TimestampTz first;
    TimestampTz last;
    int64 count; /* slots from first to last */
} Due;

/* A slot that is found at most this late is run as if it were in time, whatever the policy on misfires. */
#define DUE_GRACE (INT64CONST(10) * USECS_PER_SEC)

/* Slots in one Due at most, as a rule: a long downtime of a job that is due every second takes several. */
#define DUE_MOST_SLOTS 10000

/*
 * Whether there is a time at which the rule fires, from `now` on. In a zone that changes its clock a schedule of fields
 * can choose nothing but times that the clock jumps over: "30 2 ..." with a wildcard, on the day of the change alone.
 */
bool due_ever(const DueRule *rule, TimestampTz now);

/* ERROR invalid_parameter_value if there is none from now on. `expression` is what the schedule was read from. */
void due_require_ever(const DueRule *rule, const char *expression);

/* The first slot after `after`; 0: none. */
TimestampTz due_next(const DueRule *rule, TimestampTz after);

/* The first slot that is neither settled nor past at `now`; 0: none. */
TimestampTz due_upcoming(const DueRule *rule, TimestampTz settled, TimestampTz now);

/*
 * What is to be done next at `now`. At most `most` slots in one Due. Slots that begin within `lead` microseconds count
 * as due: a DUE_RUN may so be early, and whoever does it waits. The caller does it and sets state->settled to `last`;
 * then asks again, until nothing is due.
 *
 * Where the clock has been set back, a slot that has been settled does not come again. But when that would be more than
 * one slot, the job does not stand still until they are over: its time begins anew at `now`, in the next pass, which
 * *state then says.
 */
Due due_step(const DueRule *rule, DueState *state, TimestampTz now, int64 lead, int most);

#endif
