/*
 * next.c
 *
 * Finds the next instant at which a cron schedule fires in a time zone, clock changes included.
 *
 * Two kinds of time meet here. An "instant" is seconds since 1970 UTC. A "wall" is what the zone's
 * clock shows, counted in the same way as if the clock were UTC's: wall = instant + offset. The
 * calendar search knows walls only; the rest of the file carries walls over to instants.
 *
 * Runs in: any process, see cron.h. Allocates nothing; the civil-date arithmetic is its own.
 */
#include "cron.h"

#include <stddef.h>

#define SECONDS_PER_MINUTE 60
#define SECONDS_PER_HOUR 3600
#define SECONDS_PER_DAY 86400
#define MINUTES_PER_HOUR 60
#define MINUTES_PER_DAY 1440

/* 0001-01-01 00:00:00 and 9999-12-31 23:59:59, UTC */
#define FIRST_INSTANT INT64_C(-62135596800)
#define LAST_INSTANT INT64_C(253402300799)

/*
 * How far ahead to look: 29 February falls on a given weekday every 28 years, or 40 where the turn
 * of a century without a leap day comes between.
 */
#define SEARCH_DAYS (41 * 366)

/* Offsets stay below a day, so two offsets of a zone, or two walls, differ by less than this. */
#define CHANGE_REACH (INT64_C(2) * SECONDS_PER_DAY)

/* Offsets are sampled at this distance; no zone has ever changed its clock twice within 3 days. */
#define SAMPLE_SPAN (INT64_C(12) * SECONDS_PER_HOUR)

#define LARGEST_OFFSET (SECONDS_PER_DAY - 1)

typedef struct CivilDate {
    int64_t year;
    int month; /* 1-12 */
    int day;   /* 1-31 */
} CivilDate;

static int64_t
floor_divide(int64_t dividend, int64_t divisor)
{
    int64_t quotient = dividend / divisor;

    return (dividend % divisor < 0) ? quotient - 1 : quotient;
}

static bool
is_leap_year(int64_t year)
{
    return year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
}

static int
days_in_month(int64_t year, int month)
{
    static const int lengths[12] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};

    return (month == 2 && is_leap_year(year)) ? 29 : lengths[month - 1];
}

/* Days from 1970-01-01 to 1 January of a year, in the proleptic Gregorian calendar. */
static int64_t
days_before_year(int64_t year)
{
    int64_t past = year - 1;

    return past * 365 + floor_divide(past, 4) - floor_divide(past, 100) + floor_divide(past, 400) - 719162;
}

static CivilDate
civil_date(int64_t day)
{
    CivilDate date;
    int64_t rest;

    /* 146097 days are 400 years; the estimate is at most one year off */
    date.year = 1970 + floor_divide(day * 400, 146097);
    while (days_before_year(date.year) > day) {
        date.year--;
    }
    while (days_before_year(date.year + 1) <= day) {
        date.year++;
    }
    rest = day - days_before_year(date.year);
    date.month = 1;
    while (rest >= days_in_month(date.year, date.month)) {
        rest -= days_in_month(date.year, date.month);
        date.month++;
    }
    date.day = (int)rest + 1;
    return date;
}

/* vixie's rule: where one of the two fields starts with '*' both must match, else either one. */
static bool
day_matches(const CronSchedule *schedule, CivilDate date, int weekday)
{
    bool last = schedule->last_day && date.day == days_in_month(date.year, date.month);
    bool by_month = last || ((schedule->days >> date.day) & 1) != 0;
    bool by_week = ((schedule->weekdays >> weekday) & 1) != 0;

    return (schedule->day_star || schedule->weekday_star) ? (by_month && by_week) : (by_month || by_week);
}

/* The first matching day at or after `day`, both counted from 1970-01-01. */
static bool
next_matching_day(const CronSchedule *schedule, int64_t day, int64_t last_day, int64_t *result)
{
    CivilDate date = civil_date(day);

    while (day <= last_day) {
        int length = days_in_month(date.year, date.month);

        if (((schedule->months >> date.month) & 1) == 0) {
            day += length - date.day + 1;
            date.day = length + 1;
        }
        for (; date.day <= length; date.day++, day++) {
            /* 1970-01-01 was a Thursday */
            int weekday = (int)((day + 4) - 7 * floor_divide(day + 4, 7));

            if (day_matches(schedule, date, weekday)) {
                *result = day;
                return day <= last_day;
            }
        }
        date.day = 1;
        date.month++;
        if (date.month > 12) {
            date.month = 1;
            date.year++;
        }
    }
    return false;
}

/* The first matching minute of a day at or after `minute` (0-1439); -1 when the day has no more. */
static int
next_matching_minute(const CronSchedule *schedule, int minute)
{
    int hour = minute / MINUTES_PER_HOUR;
    int within = minute % MINUTES_PER_HOUR;

    for (; hour < 24; hour++, within = 0) {
        if (((schedule->hours >> hour) & 1) == 0) {
            continue;
        }
        for (; within < MINUTES_PER_HOUR; within++) {
            if (((schedule->minutes >> within) & 1) != 0) {
                return hour * MINUTES_PER_HOUR + within;
            }
        }
    }
    return -1;
}

/* The first matching wall at or after `wall`, on a day up to last_day; false when there is none. */
static bool
next_matching_wall(const CronSchedule *schedule, int64_t wall, int64_t last_day, int64_t *result)
{
    int64_t minutes = floor_divide(wall + SECONDS_PER_MINUTE - 1, SECONDS_PER_MINUTE);
    int64_t day = floor_divide(minutes, MINUTES_PER_DAY);
    int minute = (int)(minutes - day * MINUTES_PER_DAY);

    for (;;) {
        int64_t matching_day;
        int matching_minute;

        if (!next_matching_day(schedule, day, last_day, &matching_day)) {
            return false;
        }
        matching_minute = next_matching_minute(schedule, matching_day == day ? minute : 0);
        if (matching_minute >= 0) {
            *result = matching_day * SECONDS_PER_DAY + matching_minute * SECONDS_PER_MINUTE;
            return true;
        }
        if (matching_day > day) {
            return false; /* no minute at all is set: not a schedule that cron_parse made */
        }
        day++;
        minute = 0;
    }
}

static int64_t
offset_at(const CronZone *zone, int64_t instant)
{
    int32_t offset;

    if (zone == NULL || zone->utc_offset == NULL) {
        return 0;
    }
    offset = zone->utc_offset(zone->context, instant);
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
cron_next(const CronSchedule *schedule, const CronZone *zone, int64_t after, int64_t *next)
{
    int64_t last_day;
    int64_t found;
    bool exists = false;

    if (after < FIRST_INSTANT || after > LAST_INSTANT) {
        return false;
    }

    last_day = floor_divide(after, SECONDS_PER_DAY) + SEARCH_DAYS;
    if (last_day > LAST_INSTANT / SECONDS_PER_DAY + 1) {
        last_day = LAST_INSTANT / SECONDS_PER_DAY + 1;
    }
    switch (schedule->kind) {
    case CRON_KIND_INTERVAL:
        found = after + schedule->interval_seconds;
        exists = schedule->interval_seconds > 0;
        break;
    case CRON_KIND_FIELDS:
        if (schedule->minute_star || schedule->hour_star) {
            exists = next_wildcard(schedule, zone, after, last_day, &found);
        } else {
            exists = next_fixed(schedule, zone, after, last_day, &found);
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
