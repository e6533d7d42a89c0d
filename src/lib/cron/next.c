/*
 * next.c
 *
 * Finds the next instant at which a cron schedule fires in a time zone, clock changes included.
 *
 * Two kinds of time meet here. An "instant" is seconds since 1970 UTC. A "wall" is what the zone's
 * clock shows, counted in the same way as if the clock were UTC's: wall = instant + offset. The
 * calendar search knows walls only; the rest of the file carries walls over to instants.
 *
 * Runs in: any process, see cron.h. Allocates nothing.
 */
#include "calendar.h"

#include <stddef.h>

#define SECONDS_PER_MINUTE 60
#define SECONDS_PER_HOUR 3600
#define SECONDS_PER_DAY 86400
#define MINUTES_PER_HOUR 60

/* 0001-01-01 00:00:00 and 9999-12-31 23:59:59, UTC */
#define FIRST_INSTANT INT64_C(-62135596800)
#define LAST_INSTANT INT64_C(253402300799)

/*
 * How far ahead to look. Dates recur within eight years (CRON_WIDEST_GAP), but in a zone all of a wildcard's
 * candidates can lie in the gaps of clock changes for longer than that.
 */
#define SEARCH_DAYS (41 * 366)

/* Offsets stay below a day, so two offsets of a zone, or two walls, differ by less than this. */
#define CHANGE_REACH (INT64_C(2) * SECONDS_PER_DAY)

/* Offsets are sampled at this distance; no zone has ever changed its clock twice within 3 days. */
#define SAMPLE_SPAN SECONDS_PER_DAY

#define LARGEST_OFFSET (SECONDS_PER_DAY - 1)

/* The first set value at or after `value`; -1 when there is none. */
static int
next_value(uint64_t bits, int value)
{
    uint64_t to_come = value < 64 ? bits >> value : 0;

    return to_come != 0 ? value + cron_lowest(to_come) : -1;
}

/* The first matching time of a day at or after `time`, in seconds; -1 when the day has no more. */
static int
next_time(const CronSchedule *schedule, int time)
{
    int hour = time / SECONDS_PER_HOUR;
    int minute = time / SECONDS_PER_MINUTE % MINUTES_PER_HOUR;
    int second = time % SECONDS_PER_MINUTE;

    if (((schedule->hours >> hour) & 1) != 0) {
        if (((schedule->minutes >> minute) & 1) != 0) {
            second = next_value(schedule->seconds, second);
            if (second >= 0) {
                return hour * SECONDS_PER_HOUR + minute * SECONDS_PER_MINUTE + second;
            }
        }
        minute = next_value(schedule->minutes, minute + 1);
        if (minute >= 0) {
            return hour * SECONDS_PER_HOUR + minute * SECONDS_PER_MINUTE + cron_lowest(schedule->seconds);
        }
    }
    hour = next_value(schedule->hours, hour + 1);
    if (hour < 0) {
        return -1;
    }
    return hour * SECONDS_PER_HOUR + cron_lowest(schedule->minutes) * SECONDS_PER_MINUTE +
           cron_lowest(schedule->seconds);
}

/* The first matching wall at or after `wall`, on a day up to last_day; false when there is none. */
static bool
next_matching_wall(const CronSchedule *schedule, int64_t wall, int64_t last_day, int64_t *result)
{
    int64_t day = cron_floor_divide(wall, SECONDS_PER_DAY);
    int time = next_time(schedule, (int)(wall - day * SECONDS_PER_DAY));
    int64_t matching_day;

    if (!cron_next_day(schedule, time >= 0 ? day : day + 1, last_day, &matching_day)) {
        return false;
    }
    *result = matching_day * SECONDS_PER_DAY + (matching_day == day ? time : next_time(schedule, 0));
    return true;
}

static int64_t
offset_at(const CronZone *zone, int64_t instant)
{
    int32_t offset = zone->utc_offset(zone->context, instant);

    if (offset > LARGEST_OFFSET) {
        return LARGEST_OFFSET;
    }
    return offset < -LARGEST_OFFSET ? -LARGEST_OFFSET : offset;
}

/*
 * Finds the first instant in (from, to] whose offset differs from the one at `from`. False when the
 * clock is not changed there, and when to <= from.
 */
static bool
first_change(const CronZone *zone, int64_t from, int64_t to, int64_t *change)
{
    int64_t offset = offset_at(zone, from);

    while (from < to) {
        int64_t sample = to - from > SAMPLE_SPAN ? from + SAMPLE_SPAN : to;

        if (offset_at(zone, sample) != offset) {
            while (sample - from > 1) {
                int64_t middle = from + (sample - from) / 2;

                if (offset_at(zone, middle) != offset) {
                    sample = middle;
                } else {
                    from = middle;
                }
            }
            *change = sample;
            return true;
        }
        from = sample;
    }
    return false;
}

/* The latest wall that the zone's clock has shown up to an instant; walls before it are repeats. */
static int64_t
latest_wall_shown(const CronZone *zone, int64_t instant)
{
    int64_t from = instant - CHANGE_REACH;
    int64_t latest = instant + offset_at(zone, instant);
    int64_t change;

    while (first_change(zone, from, instant, &change)) {
        int64_t before = change - 1 + offset_at(zone, change - 1);

        if (before > latest) {
            latest = before;
        }
        from = change;
    }
    return latest;
}

/* The first instant at which the zone's clock shows `wall` or, where it jumps over that, more. */
static int64_t
instant_reaching(const CronZone *zone, int64_t wall)
{
    int64_t instant = wall - CHANGE_REACH;

    for (;;) {
        int64_t target = wall - offset_at(zone, instant);

        if (target <= instant) {
            return instant;
        }
        if (!first_change(zone, instant, target, &instant)) {
            return target;
        }
    }
}

/* Fixed minute and hour: each wall once, where the clock first reaches it. */
static bool
next_fixed(const CronSchedule *schedule, const CronZone *zone, int64_t after, int64_t last_day, int64_t *next)
{
    int64_t wall;

    if (!next_matching_wall(schedule, latest_wall_shown(zone, after) + 1, last_day, &wall)) {
        return false;
    }
    *next = instant_reaching(zone, wall);
    return true;
}

/*
 * A wildcard in minute or hour: whenever the clock shows a matching wall. Walks from one clock
 * change to the next as long as a change could matter: near the start, where the clock may repeat
 * walls that are already past, and near the wall that is to come, which may be jumped over.
 */
static bool
next_wildcard(const CronSchedule *schedule, const CronZone *zone, int64_t after, int64_t last_day, int64_t *next)
{
    int64_t instant = after + 1;

    for (;;) {
        int64_t offset = offset_at(zone, instant);
        int64_t wall;
        int64_t target;
        int64_t watched;

        if (!next_matching_wall(schedule, instant + offset, last_day, &wall)) {
            return false;
        }
        target = wall - offset;
        watched = target - instant > CHANGE_REACH ? instant + CHANGE_REACH : target;
        if (first_change(zone, instant, watched, &instant)) {
            continue;
        }
        if (watched == target) {
            *next = target;
            return true;
        }
        instant = target - watched > CHANGE_REACH ? target - CHANGE_REACH : watched;
    }
}

bool
cron_is_fixed(const CronSchedule *schedule)
{
    return schedule->kind == CRON_KIND_FIELDS && !schedule->minute_star && !schedule->hour_star;
}

bool
cron_next(const CronSchedule *schedule, const CronZone *zone, int64_t after, int64_t *next)
{
    int64_t last_day;
    int64_t found;
    bool exists = false;

    if (after < FIRST_INSTANT || after > LAST_INSTANT) {
        return false;
    }
    if (schedule->kind == CRON_KIND_FIELDS &&
        (schedule->seconds == 0 || schedule->minutes == 0 || schedule->hours == 0)) {
        return false; /* not a schedule that cron_parse made */
    }

    last_day = cron_floor_divide(after, SECONDS_PER_DAY) + SEARCH_DAYS;
    if (last_day > LAST_INSTANT / SECONDS_PER_DAY + 1) {
        last_day = LAST_INSTANT / SECONDS_PER_DAY + 1;
    }
    switch (schedule->kind) {
    case CRON_KIND_INTERVAL:
        found = after + schedule->interval_seconds;
        exists = schedule->interval_seconds > 0;
        break;
    case CRON_KIND_FIELDS:
        if (zone == NULL || zone->utc_offset == NULL) {
            exists = next_matching_wall(schedule, after + 1, last_day, &found);
        } else if (cron_is_fixed(schedule)) {
            exists = next_fixed(schedule, zone, after, last_day, &found);
        } else {
            exists = next_wildcard(schedule, zone, after, last_day, &found);
        }
        break;
    case CRON_KIND_REBOOT:
        break;
    }
    if (!exists || found > LAST_INSTANT) {
        return false;
    }
    *next = found;
    return true;
}
