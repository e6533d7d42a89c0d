/*
 * calendar.c
 *
 * Which days a schedule's date fields choose: a month at a time, as a set of bits. The months repeat
 * themselves in few kinds (a length, and the weekday of the first), so nothing here walks day by day.
 *
 * Runs in: any process, see cron.h. Allocates nothing; the civil-date arithmetic is its own.
 */
#include "calendar.h"

#define YEARS_IN_CYCLE 400
#define DAYS_IN_CYCLE 146097
#define KINDS_OF_YEAR 14

#define SATURDAY 6

/* Seven bits, repeated five times */
#define EVERY_WEEK UINT64_C(0x10204081)

typedef struct Month {
    int64_t year;
    bool leap;
    int month;   /* 1-12 */
    int64_t day; /* of its first */
} Month;

int64_t
cron_floor_divide(int64_t dividend, int64_t divisor)
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
days_in_month(bool leap, int month)
{
    static const int lengths[12] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};

    return (month == 2 && leap) ? 29 : lengths[month - 1];
}

/* Days from 1970-01-01 to 1 January of a year. */
static int64_t
days_before_year(int64_t year)
{
    int64_t past = year - 1;

    return past * 365 + cron_floor_divide(past, 4) - cron_floor_divide(past, 100) + cron_floor_divide(past, 400) -
           719162;
}

/* 0 is Sunday; 1970-01-01 was a Thursday. */
static int
weekday_of(int64_t day)
{
    return (int)((day + 4) - 7 * cron_floor_divide(day + 4, 7));
}

static void
next_month(Month *month)
{
    month->day += days_in_month(month->leap, month->month);
    if (++month->month > 12) {
        month->month = 1;
        month->year++;
        month->leap = is_leap_year(month->year);
    }
}

static Month
month_of(int64_t day)
{
    Month month = {.month = 1};

    /* The estimate is at most one year off. */
    month.year = 1970 + cron_floor_divide(day * YEARS_IN_CYCLE, DAYS_IN_CYCLE);
    while (days_before_year(month.year) > day) {
        month.year--;
    }
    while (days_before_year(month.year + 1) <= day) {
        month.year++;
    }
    month.leap = is_leap_year(month.year);
    month.day = days_before_year(month.year);
    while (day - month.day >= days_in_month(month.leap, month.month)) {
        next_month(&month);
    }
    return month;
}

/* Turns a set of weekdays so that bit 0 is `weekday`. */
static uint64_t
week_from(uint64_t weekdays, int weekday)
{
    return ((weekdays >> weekday) | (weekdays << (7 - weekday))) & 0x7f;
}

/* The day Monday to Friday that is nearest to a day, within the month; `first` is the weekday of day 1. */
static int
nearest_working_day(int day, int length, int first)
{
    int weekday = (first + day - 1) % 7;

    if (weekday == SATURDAY) {
        return day > 1 ? day - 1 : day + 2;
    }
    if (weekday == 0) {
        return day < length ? day + 1 : day - 2;
    }
    return day;
}

/* What the day-of-month field chooses in a month of this length whose first is this weekday: bit N is day N. */
static uint64_t
days_by_month(const CronSchedule *schedule, int length, int first)
{
    uint64_t chosen = schedule->days;
    uint64_t rest;

    for (rest = schedule->days_to_last; rest != 0; rest &= rest - 1) {
        int before = cron_lowest(rest);

        if (before < length) {
            chosen |= UINT64_C(1) << (length - before);
        }
    }
    for (rest = schedule->nearest; rest != 0; rest &= rest - 1) {
        int day = cron_lowest(rest) == 0 ? length : cron_lowest(rest);

        if (day <= length) {
            chosen |= UINT64_C(1) << nearest_working_day(day, length, first);
        }
    }
    return chosen;
}

/* The same for the day-of-week field. */
static uint64_t
days_by_week(const CronSchedule *schedule, int length, int first)
{
    uint64_t chosen = (week_from(schedule->weekdays, first) * EVERY_WEEK) << 1;
    int week;

    if (schedule->nth_weekdays != 0) {
        for (week = 0; week < 5; week++) {
            chosen |= week_from((schedule->nth_weekdays >> (7 * week)) & 0x7f, first) << (7 * week + 1);
        }
    }
    return chosen | week_from(schedule->last_weekdays, (first + length - 7) % 7) << (length - 6);
}

/* vixie's rule: where one of the two fields starts with '*' both must match, else either one. */
static uint32_t
days_chosen(const CronSchedule *schedule, int length, int first)
{
    uint64_t existing = (UINT64_C(2) << length) - 2;
    uint64_t by_month = days_by_month(schedule, length, first);
    uint64_t by_week = days_by_week(schedule, length, first);
    bool both = schedule->day_star || schedule->weekday_star;

    return (uint32_t)((both ? by_month & by_week : by_month | by_week) & existing);
}

bool
cron_next_day(const CronSchedule *schedule, int64_t day, int64_t last_day, int64_t *result)
{
    Month month = month_of(day);
    uint32_t to_come = UINT32_MAX << (day - month.day + 1);

    while (month.day <= last_day) {
        if (((schedule->months >> month.month) & 1) != 0) {
            int length = days_in_month(month.leap, month.month);
            uint32_t chosen = days_chosen(schedule, length, weekday_of(month.day)) & to_come;

            if (chosen != 0) {
                *result = month.day + cron_lowest(chosen) - 1;
                return *result <= last_day;
            }
        }
        next_month(&month);
        to_come = UINT32_MAX;
    }
    return false;
}

/* The days that are chosen in a month of a year that begins on a weekday; `before` is how many the year has before it.
 */
static uint32_t
days_in_year(const CronSchedule *schedule, bool leap, int first_weekday, int month, int before)
{
    if (((schedule->months >> month) & 1) == 0) {
        return 0;
    }
    return days_chosen(schedule, days_in_month(leap, month), (first_weekday + before) % 7);
}

/* The first and the last day that is chosen in a year of a kind, counted from its 1 January; false when none is. */
static bool
ends_of_year(const CronSchedule *schedule, bool leap, int first_weekday, int *first, int *last)
{
    uint32_t chosen = 0;
    int before = 0;
    int month;

    for (month = 1; month <= 12; month++) {
        chosen = days_in_year(schedule, leap, first_weekday, month, before);
        if (chosen != 0) {
            break;
        }
        before += days_in_month(leap, month);
    }
    if (chosen == 0) {
        *first = -1;
        return false;
    }
    *first = before + cron_lowest(chosen) - 1;

    before = leap ? 366 : 365;
    for (month = 12; month >= 1; month--) {
        before -= days_in_month(leap, month);
        chosen = days_in_year(schedule, leap, first_weekday, month, before);
        if (chosen != 0) {
            break;
        }
    }
    *last = before + 30 - __builtin_clz(chosen);
    return true;
}

int
cron_widest_gap(const CronSchedule *schedule)
{
    int first[KINDS_OF_YEAR];
    int last[KINDS_OF_YEAR];
    int kind;
    int years_with = 0;
    int64_t start;
    int64_t earliest = -1;
    int64_t latest = 0;
    int64_t widest = 0;
    int64_t year;

    for (kind = 0; kind < KINDS_OF_YEAR; kind++) {
        if (ends_of_year(schedule, kind >= 7, kind % 7, &first[kind], &last[kind])) {
            years_with++;
        }
    }
    if (years_with == 0 || years_with == KINDS_OF_YEAR) {
        return years_with == 0 ? 0 : 2 * 366;
    }

    start = days_before_year(2000);
    for (year = 2000; year < 2000 + YEARS_IN_CYCLE; year++) {
        bool leap = is_leap_year(year);

        kind = weekday_of(start) + (leap ? 7 : 0);
        if (first[kind] >= 0) {
            if (earliest < 0) {
                earliest = start + first[kind];
            } else if (start + first[kind] - latest > widest) {
                widest = start + first[kind] - latest;
            }
            latest = start + last[kind];
        }
        start += leap ? 366 : 365;
    }
    if (earliest + DAYS_IN_CYCLE - latest > widest) {
        widest = earliest + DAYS_IN_CYCLE - latest;
    }
    return (int)widest;
}
