/*
 * due.c: when a job is due; joins the cron library (seconds since 1970, a zone as a function) with PostgreSQL's times
 * and zones.
 */
#include "postgres.h"

#include <limits.h>

#include "datatype/timestamp.h"
#include "utils/guc.h"

#include "scheduler/due.h"

#define EPOCH_SECONDS ((int64)(POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * SECS_PER_DAY)

static int clock_offset; /* seconds */

TimestampTz
clock_now(void)
{
    return GetCurrentTimestamp() + (int64)clock_offset * USECS_PER_SEC;
}

void
clock_define_setting(void)
{
    DefineCustomIntVariable("apapacho_jobs.debug_clock_offset",
                            "Seconds by which the schedulers' clock is ahead of the time of day, for tests.", NULL,
                            &clock_offset, 0, INT_MIN, INT_MAX, PGC_SIGHUP,
                            GUC_UNIT_S | GUC_NOT_IN_SAMPLE | GUC_NO_SHOW_ALL, NULL, NULL, NULL);
}

static int32_t
utc_offset(void *context, int64_t utc)
{
    pg_time_t time = utc;
    struct pg_tm *local = pg_localtime(&time, (pg_tz *)context);

    return local != NULL ? (int32_t)local->tm_gmtoff : 0;
}

/* Rounds towards the past, so that a time within a second lies behind that second's start. */
static int64
to_unix_seconds(TimestampTz time)
{
    int64 seconds = time / USECS_PER_SEC;

    if (time % USECS_PER_SEC < 0)
        seconds--;
    return seconds + EPOCH_SECONDS;
}

TimestampTz
due_next(const CronSchedule *schedule, pg_tz *zone, TimestampTz after)
{
    CronZone cron_zone = {.utc_offset = utc_offset, .context = zone};
    int64_t next;

    if (!cron_next(schedule, &cron_zone, to_unix_seconds(after), &next))
        return 0;
    return (next - EPOCH_SECONDS) * USECS_PER_SEC;
}

TimestampTz
due_step(const CronSchedule *schedule, pg_tz *zone, TimestampTz now, DueState *state)
{
    TimestampTz due = 0;

    if (state->seen == 0 || now < state->seen - USECS_PER_SEC)
        state->next = due_next(schedule, zone, now);
    else if (state->next != 0 && now >= state->next) {
        due = state->next;
        state->next = due_next(schedule, zone, now);
    }
    state->seen = now;
    return due;
}
