/*
 * due.c: when a job is due; joins the cron library (seconds since 1970, a zone as a function) with PostgreSQL's times
 * and zones.
 */
#include "postgres.h"

#include <limits.h>

#include "datatype/timestamp.h"
#include "utils/guc.h"

#include "scheduler/due.h"
#include "server/settings.h"

#define EPOCH_SECONDS ((int64)(POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * SECS_PER_DAY)

TimestampTz
clock_now(void)
{
    return GetCurrentTimestamp() + (int64)setting_clock_offset * USECS_PER_SEC;
}

void
clock_define_setting(void)
{
    DefineCustomIntVariable(
        "apapacho_jobs.debug_clock_offset",
        "Seconds by which the clock of schedulers and payouts is ahead of the time of day, for tests.", NULL,
        &setting_clock_offset, 0, INT_MIN, INT_MAX, PGC_SIGHUP, GUC_UNIT_S | GUC_NOT_IN_SAMPLE | GUC_NO_SHOW_ALL, NULL,
        NULL, NULL);
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
due_next(const DueRule *rule, TimestampTz after)
{
    CronZone cron_zone = {.utc_offset = utc_offset, .context = rule->zone};
    int64_t next;

    if (rule->schedule.kind == CRON_KIND_REBOOT)
        return after != rule->server_start ? rule->server_start : 0; /* also when the clock is behind the last start */
    if (!cron_next(&rule->schedule, &cron_zone, to_unix_seconds(after), &next))
        return 0;
    return (next - EPOCH_SECONDS) * USECS_PER_SEC;
}

bool
due_ever(const DueRule *rule, TimestampTz now)
{
    return rule->schedule.kind != CRON_KIND_FIELDS || due_next(rule, now) != 0;
}

void
due_require_ever(const DueRule *rule, const char *expression)
{
    if (!due_ever(rule, clock_now()))
        ereport(ERROR,
                (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                 errmsg("cron expression \"%s\" never fires in time zone \"%s\"", expression,
                        pg_get_timezone_name(rule->zone)),
                 errdetail("The clock jumps over each of its times."),
                 errhint("Without \"*\" in the minute and hour fields, such times are made up for after the jump.")));
}

TimestampTz
due_upcoming(const DueRule *rule, TimestampTz settled, TimestampTz now)
{
    TimestampTz next = due_next(rule, settled);

    if (next == 0 || next > now)
        return next;
    if (rule->schedule.kind == CRON_KIND_INTERVAL) {
        int64 interval = rule->schedule.interval_seconds * USECS_PER_SEC;

        /* the same beat, from where it would have been */
        return next + (now - next + interval) / interval * interval;
    }
    return due_next(rule, now);
}

/* The slots after state->settled that are not after `until`, the first of which is given. */
static Due
slots_until(const DueRule *rule, DueKind kind, TimestampTz first, TimestampTz until, int most)
{
    Due due = {.kind = kind, .first = first, .last = first, .count = 1};
    TimestampTz next;

    while (due.count < most && (next = due_next(rule, due.last)) != 0 && next <= until) {
        due.last = next;
        due.count++;
    }
    return due;
}

/*
 * Whether the clock has been set back so far that more than one settled slot is to come again; or, of an interval,
 * whose times are nobody's but the previous run's, as far as the interval is long.
 */
static bool
time_comes_again(const DueRule *rule, TimestampTz settled, TimestampTz now)
{
    TimestampTz first;
    TimestampTz second;

    if (settled <= now || rule->schedule.kind == CRON_KIND_REBOOT)
        return false;
    if (rule->schedule.kind == CRON_KIND_INTERVAL)
        return settled - now >= rule->schedule.interval_seconds * USECS_PER_SEC;
    first = due_next(rule, now);
    second = first != 0 ? due_next(rule, first) : 0;
    return second != 0 && second <= settled;
}

/* The slot `first` was not met in time. */
static Due
misfired(const DueRule *rule, TimestampTz first, TimestampTz now, int most)
{
    Due due;
    TimestampTz next;

    switch (rule->misfire) {
    case MISFIRE_SKIP:
        return slots_until(rule, DUE_MISSED, first, now - DUE_GRACE - 1, most);
    case MISFIRE_ALL:
        if (now - first > rule->misfire_window)
            return slots_until(rule, DUE_MISSED, first, now - rule->misfire_window - 1, most);
        return (Due){.kind = DUE_RUN, .first = first, .last = first, .count = 1};
    case MISFIRE_ONCE:
        break;
    }

    /* The latest of them stands for all; or, where there is one in time, that. */
    due = slots_until(rule, DUE_COALESCED, first, now - DUE_GRACE - 1, most);
    next = due_next(rule, due.last);
    if (next != 0 && next <= now)
        return due;
    if (due.count == 1)
        due.kind = DUE_RUN;
    else {
        TimestampTz latest = due.last;

        due = slots_until(rule, DUE_COALESCED, first, latest - 1, most);
    }
    return due;
}

Due
due_step(const DueRule *rule, DueState *state, TimestampTz now, int64 lead, int most)
{
    TimestampTz first;

    if (time_comes_again(rule, state->settled, now + lead)) {
        state->settled = now;
        state->pass++;
    }
    first = due_next(rule, state->settled);
    if (rule->schedule.kind == CRON_KIND_REBOOT && first != 0 && !rule->paused)
        return (Due){.kind = DUE_RUN, .first = first, .last = first, .count = 1};
    if (first == 0 || first > now + (rule->paused ? 0 : lead))
        return (Due){.kind = DUE_NOTHING, .first = first};
    if (rule->paused)
        return slots_until(rule, DUE_PAUSED, first, now, most);
    if (now - first > DUE_GRACE)
        return misfired(rule, first, now, most);
    return (Due){.kind = DUE_RUN, .first = first, .last = first, .count = 1};
}
