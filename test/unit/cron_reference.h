/*
 * cron_reference.h
 *
 * A second reading of cron expressions, to compare src/lib/cron with: from the text to the instants
 * at which it fires.
 *
 * Why: written from the grammar's description alone, without a look at the library, and naive on
 * purpose: a table of every day of the 400-year cycle, lists of booleans, and loops over days, hours,
 * minutes and seconds. There are two evaluators: reference_fires works on the periods in which the zone's
 * offset stays the same; reference_walk asks libc for the clock at every single second, is much
 * slower, and checks the first.
 *
 * Runs in: unit tests, one thread. Memory: the caller's structs, and static tables. The zone is TZ's.
 */
#ifndef APAPACHO_CRON_REFERENCE_H
#define APAPACHO_CRON_REFERENCE_H

#include <ctype.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#define REFERENCE_TEXT_MAX 999
#define REFERENCE_CYCLE_DAYS 146097 /* 400 years */
#define REFERENCE_WIDEST_GAP 2922   /* days between two matching dates: eight years */
#define REFERENCE_DAY_OF_2000 10957 /* 2000-01-01, a Saturday, in days since 1970 */
#define REFERENCE_PERIODS_MAX 200

typedef enum ReferenceVerdict { REFERENCE_ACCEPTED, REFERENCE_NOT_UNDERSTOOD, REFERENCE_TOO_SELDOM } ReferenceVerdict;
typedef enum ReferenceKind { REFERENCE_CLOCK, REFERENCE_INTERVAL, REFERENCE_NEVER } ReferenceKind;

typedef struct ReferenceSchedule {
    ReferenceKind kind;
    int64_t interval; /* seconds */
    bool fixed;       /* neither minute nor hour starts with a star */
    bool second[60], minute[60], hour[24], month[13];
    bool day[32];         /* 1-31 */
    bool before_last[31]; /* [0] is L, [n] is L-n */
    bool nearest[32];     /* nW; [0] tells whether there is any */
    bool last_workday;    /* LW */
    bool weekday[7];      /* from Sunday */
    bool nth[7][6];       /* [d][n] is d#n, n from 1 */
    bool last[7];         /* dL */
    bool days_meet;       /* a day must match both fields of days */
} ReferenceSchedule;

/* A stretch of time in which the zone's offset stays the same; times in seconds since 1970 UTC. */
typedef struct ReferencePeriod {
    int64_t start, end; /* end is not part of it */
    int64_t offset;
    int64_t shown; /* wall time, one past the latest that the clock had shown before start */
} ReferencePeriod;

typedef struct ReferenceZone {
    const char *name;
    int64_t start, end;
    ReferencePeriod periods[REFERENCE_PERIODS_MAX];
    int count;
} ReferenceZone;

typedef struct ReferenceDay {
    int year, month, day, weekday, length; /* length of the month */
} ReferenceDay;

/* ---- the text ---- */

typedef struct ReferenceField {
    int lowest, highest; /* as they may be written */
    int size;            /* how many different values, for wrapping */
    const char *const *names;
    int first_name; /* the value of names[0] */
} ReferenceField;

static const char *const reference_months[] = {"january",  "february", "march",  "april",     "may",
                                               "june",     "july",     "august", "september", "october",
                                               "november", "december", NULL};
static const char *const reference_weekdays[] = {"sunday",   "monday", "tuesday",  "wednesday",
                                                 "thursday", "friday", "saturday", NULL};

static const ReferenceField reference_second = {0, 59, 60, NULL, 0};
static const ReferenceField reference_minute = {0, 59, 60, NULL, 0};
static const ReferenceField reference_hour = {0, 23, 24, NULL, 0};
static const ReferenceField reference_day_of_month = {1, 31, 31, NULL, 0};
static const ReferenceField reference_month = {1, 12, 12, reference_months, 1};
static const ReferenceField reference_day_of_week = {0, 7, 7, reference_weekdays, 0};

/* Reads digits; a number too large to be of use stays too large. False where there is no digit. */
static bool
reference_number(const char **text, int64_t *number)
{
    if (!isdigit((unsigned char)**text))
        return false;
    for (*number = 0; isdigit((unsigned char)**text); (*text)++)
        if (*number < 1000000000)
            *number = *number * 10 + (**text - '0');
    return true;
}

/* Whether the word of this length is the name, in full or its first three letters, in any case. */
static bool
reference_is_name(const char *word, size_t length, const char *name)
{
    return (length == 3 || length == strlen(name)) && strncasecmp(word, name, length) == 0;
}

/* Reads a value of the field, a number in its range or a name. An L behind a name is left. */
static bool
reference_value(const ReferenceField *field, const char **text, int *value)
{
    size_t letters = 0;
    int64_t number;

    if (reference_number(text, &number)) {
        *value = (int)number;
        return number >= field->lowest && number <= field->highest;
    }
    while (isalpha((unsigned char)(*text)[letters]))
        letters++;
    for (int shorter = 0; field->names != NULL && shorter < 2 && letters >= 3; shorter++, letters--) {
        for (int i = 0; field->names[i] != NULL; i++) {
            if (reference_is_name(*text, letters, field->names[i])) {
                *value = field->first_name + i;
                *text += letters;
                return true;
            }
        }
        if (tolower((unsigned char)(*text)[letters - 1]) != 'l')
            return false;
    }
    return false;
}

/* Reads "/n" if the text goes on so; else the step is 1. */
static bool
reference_step(const ReferenceField *field, const char **text, int *step)
{
    int64_t number;

    *step = 1;
    if (**text != '/')
        return true;
    ++*text;
    if (!reference_number(text, &number) || number < 1 || number > field->highest)
        return false;
    *step = (int)number;
    return true;
}

/* Every step-th value from the one to the other, on past the highest where they are in the wrong order. */
static void
reference_range(const ReferenceField *field, int from, int to, int step, bool *values)
{
    if (from > to)
        to += field->size;
    for (int value = from; value <= to; value += step)
        values[field->lowest + (value - field->lowest) % field->size] = true;
}

/* An element of any field: * and v, each with what may follow it. */
static bool
reference_element(const ReferenceField *field, const char *text, bool *values)
{
    bool weekday = field == &reference_day_of_week;
    int from = field->lowest;
    int to = field->highest;
    int step;

    if (*text == '*') {
        text++;
    } else {
        if (!reference_value(field, &text, &from))
            return false;
        if (*text == '-') {
            text++;
            if (!reference_value(field, &text, &to))
                return false;
            if (weekday && from == 7 && to != 7)
                from = 0;
        } else if (*text != '/') {
            to = from;
        } else if (weekday) {
            to = from == 7 ? 7 : 6;
        }
    }
    if (!reference_step(field, &text, &step) || *text != '\0')
        return false;
    reference_range(field, from, to, step, values);
    return true;
}

/* An element that only day-of-month has. */
static bool
reference_day_element(const char *text, ReferenceSchedule *schedule)
{
    int64_t number;

    if (strcmp(text, "$") == 0 || strcasecmp(text, "L") == 0)
        return schedule->before_last[0] = true;
    if (strcasecmp(text, "LW") == 0)
        return schedule->last_workday = true;
    if (strncasecmp(text, "L-", 2) == 0) {
        text += 2;
        if (!reference_number(&text, &number) || *text != '\0' || number < 1 || number > 30)
            return false;
        return schedule->before_last[number] = true;
    }
    if (!reference_number(&text, &number) || strcasecmp(text, "W") != 0 || number < 1 || number > 31)
        return false;
    schedule->nearest[0] = true;
    return schedule->nearest[number] = true;
}

/* An element that only day-of-week has. */
static bool
reference_weekday_element(const char *text, ReferenceSchedule *schedule)
{
    int64_t number;
    int weekday;

    if (!reference_value(&reference_day_of_week, &text, &weekday))
        return false;
    if (strcasecmp(text, "L") == 0)
        return schedule->last[weekday % 7] = true;
    if (*text++ != '#' || !reference_number(&text, &number) || *text != '\0' || number < 1 || number > 5)
        return false;
    return schedule->nth[weekday % 7][number] = true;
}

/* A list; *star tells whether it starts with one. Writes on the text. */
static bool
reference_list(const ReferenceField *field, char *text, ReferenceSchedule *schedule, bool *values, bool *star)
{
    bool has_days = field == &reference_day_of_month || field == &reference_day_of_week;
    char *element;

    *star = *text == '*';
    if (has_days && strcmp(text, "?") == 0) {
        *star = true;
        reference_range(field, field->lowest, field->highest, 1, values);
        return true;
    }
    while ((element = strsep(&text, ",")) != NULL) {
        if (reference_element(field, element, values))
            continue;
        if (field == &reference_day_of_month && reference_day_element(element, schedule))
            continue;
        if (field == &reference_day_of_week && reference_weekday_element(element, schedule))
            continue;
        return false;
    }
    return true;
}

/* Five or six fields. */
static bool
reference_fields(char **words, int count, ReferenceSchedule *schedule)
{
    bool star[6];

    if (count == 6) {
        if (!reference_list(&reference_second, *words++, schedule, schedule->second, &star[0]))
            return false;
    } else {
        schedule->second[0] = true;
    }
    if (!reference_list(&reference_minute, words[0], schedule, schedule->minute, &star[1]) ||
        !reference_list(&reference_hour, words[1], schedule, schedule->hour, &star[2]) ||
        !reference_list(&reference_day_of_month, words[2], schedule, schedule->day, &star[3]) ||
        !reference_list(&reference_month, words[3], schedule, schedule->month, &star[4]) ||
        !reference_list(&reference_day_of_week, words[4], schedule, schedule->weekday, &star[5]))
        return false;
    schedule->kind = REFERENCE_CLOCK;
    schedule->fixed = !star[1] && !star[2];
    schedule->days_meet = star[3] || star[5];
    return true;
}

/* The duration of @every. */
static bool
reference_duration(const char *text, int64_t *seconds)
{
    static const char units[] = "dhms";
    static const int64_t sizes[] = {86400, 3600, 60, 1};
    int unit = 0;
    int64_t number;

    *seconds = 0;
    while (*text != '\0') {
        if (!reference_number(&text, &number))
            return false;
        while (unit < 4 && units[unit] != *text)
            unit++;
        if (unit == 4)
            return false;
        *seconds += number * sizes[unit++];
        text++;
    }
    return *seconds >= 1 && *seconds <= 366 * 86400;
}

/* The forms that are not fields: @names, @every, N seconds (the blank may be missing, as in pg_cron). */
static bool
reference_words(char **words, int count, ReferenceSchedule *schedule)
{
    static const char *const names[][2] = {
        {"@yearly", "0 0 1 1 *"}, {"@annually", "0 0 1 1 *"}, {"@monthly", "0 0 1 * *"}, {"@weekly", "0 0 * * 0"},
        {"@daily", "0 0 * * *"},  {"@midnight", "0 0 * * *"}, {"@hourly", "0 * * * *"},
    };
    const char *rest;

    schedule->kind = REFERENCE_NEVER;
    if (count == 1 && (strcmp(words[0], "@reboot") == 0 || strcmp(words[0], "@restart") == 0))
        return true;
    for (size_t i = 0; count == 1 && i < sizeof(names) / sizeof(names[0]); i++) {
        if (strcmp(words[0], names[i][0]) == 0) {
            char copy[16];
            char *left = strcpy(copy, names[i][1]);
            char *fields[5];

            for (int field = 0; field < 5; field++)
                fields[field] = strsep(&left, " ");
            return reference_fields(fields, 5, schedule);
        }
    }
    schedule->kind = REFERENCE_INTERVAL;
    if (count == 2 && strcmp(words[0], "@every") == 0)
        return reference_duration(words[1], &schedule->interval);
    rest = words[0];
    if (!reference_number(&rest, &schedule->interval) || schedule->interval < 1 || schedule->interval > 59)
        return false;
    if (count == 2 && *rest == '\0')
        rest = words[1];
    else if (count != 1)
        return false;
    return strcasecmp(rest, "second") == 0 || strcasecmp(rest, "seconds") == 0;
}

/* ---- days ---- */

/* The days of the 400-year cycle from 2000-01-01, counted one by one. */
static const ReferenceDay *
reference_days(void)
{
    static const int lengths[] = {0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    static ReferenceDay days[REFERENCE_CYCLE_DAYS];

    if (days[0].year == 0) {
        ReferenceDay day = {2000, 1, 1, 6, 31};

        for (int i = 0; i < REFERENCE_CYCLE_DAYS; i++) {
            bool leap = (day.year % 4 == 0 && day.year % 100 != 0) || day.year % 400 == 0;

            day.length = lengths[day.month] + (day.month == 2 && leap ? 1 : 0);
            days[i] = day;
            day.weekday = (day.weekday + 1) % 7;
            if (++day.day > day.length) {
                day.day = 1;
                if (++day.month > 12) {
                    day.month = 1;
                    day.year++;
                }
            }
        }
    }
    return days;
}

/* The day on which nW falls in the date's month, which has a day n: the closest from Monday to Friday. */
static int
reference_nearest(const ReferenceDay *date, int n)
{
    static const int tries[] = {0, -1, 1, -2, 2};

    for (int i = 0; i < 5; i++) {
        int day = n + tries[i];
        int weekday = (date->weekday + day - date->day + 70) % 7;

        if (day >= 1 && day <= date->length && weekday >= 1 && weekday <= 5)
            return day;
    }
    return 0;
}

static bool
reference_day_of_month_matches(const ReferenceSchedule *schedule, const ReferenceDay *date)
{
    int left = date->length - date->day;

    if (schedule->day[date->day] || schedule->before_last[left])
        return true;
    if (schedule->last_workday && date->weekday >= 1 && date->weekday <= 5 &&
        (left == 0 || (date->weekday == 5 && left <= 2)))
        return true;
    for (int n = 1; n <= date->length && schedule->nearest[0]; n++)
        if (schedule->nearest[n] && reference_nearest(date, n) == date->day)
            return true;
    return false;
}

static bool
reference_date_matches(const ReferenceSchedule *schedule, const ReferenceDay *date)
{
    bool day, weekday;

    if (!schedule->month[date->month])
        return false;
    day = reference_day_of_month_matches(schedule, date);
    weekday = schedule->weekday[date->weekday] || schedule->nth[date->weekday][(date->day + 6) / 7] ||
              (schedule->last[date->weekday] && date->day + 7 > date->length);
    return schedule->days_meet ? day && weekday : day || weekday;
}

static bool
reference_too_seldom(const ReferenceSchedule *schedule)
{
    const ReferenceDay *days = reference_days();
    int first = -1, last = -1;

    for (int i = 0; i < REFERENCE_CYCLE_DAYS; i++) {
        if (!reference_date_matches(schedule, &days[i]))
            continue;
        if (first < 0)
            first = i;
        else if (i - last > REFERENCE_WIDEST_GAP)
            return true;
        last = i;
    }
    return first < 0 || first + REFERENCE_CYCLE_DAYS - last > REFERENCE_WIDEST_GAP;
}

/* Reads an expression. The schedule is of use only when the verdict is REFERENCE_ACCEPTED. */
static ReferenceVerdict
reference_parse(const char *text, ReferenceSchedule *schedule)
{
    char copy[REFERENCE_TEXT_MAX + 1];
    char *words[7];
    char *rest = copy;
    char *word;
    int count = 0;
    bool understood;

    memset(schedule, 0, sizeof(*schedule));
    if (strlen(text) > REFERENCE_TEXT_MAX)
        return REFERENCE_NOT_UNDERSTOOD;
    strcpy(copy, text);
    while ((word = strsep(&rest, " \t")) != NULL) {
        if (*word == '\0')
            continue;
        if (count == 7)
            return REFERENCE_NOT_UNDERSTOOD;
        words[count++] = word;
    }
    if (count == 0)
        return REFERENCE_NOT_UNDERSTOOD;
    understood =
        count == 5 || count == 6 ? reference_fields(words, count, schedule) : reference_words(words, count, schedule);
    if (!understood)
        return REFERENCE_NOT_UNDERSTOOD;
    if (schedule->kind == REFERENCE_CLOCK && reference_too_seldom(schedule))
        return REFERENCE_TOO_SELDOM;
    return REFERENCE_ACCEPTED;
}

/* ---- instants ---- */

static int64_t
reference_offset(int64_t utc)
{
    time_t instant = (time_t)utc;
    struct tm clock;

    localtime_r(&instant, &clock);
    return clock.tm_gmtoff;
}

/* Learns TZ's clock from start to end, by asking libc at every hour and halving where it changed. */
static void
reference_learn_zone(ReferenceZone *zone, const char *name, int64_t start, int64_t end)
{
    ReferencePeriod *period = zone->periods;
    int64_t shown;

    zone->name = name;
    zone->start = start;
    zone->end = end;
    *period = (ReferencePeriod){start, end, reference_offset(start), start + reference_offset(start)};
    shown = period->shown;
    for (int64_t hour = start + 3600; hour <= end; hour += 3600) {
        int64_t same = hour - 3600;
        int64_t other = hour;

        if (reference_offset(hour) == period->offset)
            continue;
        while (other - same > 1) {
            int64_t middle = same + (other - same) / 2;

            if (reference_offset(middle) == period->offset)
                same = middle;
            else
                other = middle;
        }
        period->end = other;
        if (other + period->offset > shown)
            shown = other + period->offset;
        if (period == &zone->periods[REFERENCE_PERIODS_MAX - 1])
            abort();
        *++period = (ReferencePeriod){other, end, reference_offset(other), shown};
    }
    zone->count = (int)(period - zone->periods) + 1;
}

/* The first written wall time from `from` on and before `to`; `to` when there is none. */
static int64_t
reference_next_written(const ReferenceSchedule *schedule, int64_t from, int64_t to)
{
    const ReferenceDay *days = reference_days();

    for (int64_t day = from / 86400; day * 86400 < to; day++) {
        if (!reference_date_matches(schedule, &days[day - REFERENCE_DAY_OF_2000]))
            continue;
        for (int hour = 0; hour < 24; hour++) {
            int64_t hour_start = day * 86400 + hour * 3600;

            if (!schedule->hour[hour] || hour_start + 3600 <= from)
                continue;
            for (int minute = 0; minute < 60; minute++) {
                int64_t minute_start = hour_start + minute * 60;

                if (!schedule->minute[minute] || minute_start + 60 <= from)
                    continue;
                for (int second = 0; second < 60; second++)
                    if (schedule->second[second] && minute_start + second >= from)
                        return minute_start + second < to ? minute_start + second : to;
            }
        }
    }
    return to;
}

/* Fills in the fires after an instant and before the zone's end, `limit` at most. Returns how many. */
static int
reference_fires(const ReferenceSchedule *schedule, const ReferenceZone *zone, int64_t after, int64_t *fires, int limit)
{
    int count = 0;

    if (schedule->kind == REFERENCE_NEVER)
        return 0;
    if (schedule->kind == REFERENCE_INTERVAL) {
        for (int64_t fire = after + schedule->interval; count < limit && fire < zone->end; fire += schedule->interval)
            fires[count++] = fire;
        return count;
    }
    for (const ReferencePeriod *period = zone->periods; period < zone->periods + zone->count; period++) {
        int64_t from = period->start + period->offset;
        int64_t to = period->end + period->offset;

        if (period->end - 1 <= after)
            continue;
        if (schedule->fixed && from > period->shown && period->start > after && count < limit &&
            reference_next_written(schedule, period->shown, from) < from)
            fires[count++] = period->start;
        if (schedule->fixed && from < period->shown)
            from = period->shown;
        if (from < after + 1 + period->offset)
            from = after + 1 + period->offset;
        for (int64_t wall = from; count < limit && (wall = reference_next_written(schedule, wall, to)) < to; wall++)
            if (count == 0 || fires[count - 1] != wall - period->offset)
                fires[count++] = wall - period->offset;
    }
    return count;
}

/* Whether the schedule is written for this reading of a clock. */
static bool
reference_clock_matches(const ReferenceSchedule *schedule, const struct tm *clock)
{
    struct tm month_end = {.tm_year = clock->tm_year, .tm_mon = clock->tm_mon + 1, .tm_mday = 0};
    ReferenceDay date = {clock->tm_year + 1900, clock->tm_mon + 1, clock->tm_mday, clock->tm_wday, 0};

    if (!schedule->second[clock->tm_sec] || !schedule->minute[clock->tm_min] || !schedule->hour[clock->tm_hour])
        return false;
    timegm(&month_end);
    date.length = month_end.tm_mday;
    return reference_date_matches(schedule, &date);
}

/*
 * As reference_fires, but second by second, from `start` to before `end`; only for REFERENCE_CLOCK.
 * The clock must not have been set back within the day before start.
 */
static int
reference_walk(const ReferenceSchedule *schedule, int64_t start, int64_t end, int64_t *fires, int limit)
{
    int count = 0;
    time_t shown = (time_t)(start - 1 + reference_offset(start - 1));

    for (time_t instant = (time_t)start; instant < end && count < limit; instant++) {
        struct tm clock;
        time_t wall;
        bool fire;

        localtime_r(&instant, &clock);
        fire = reference_clock_matches(schedule, &clock);
        wall = instant + clock.tm_gmtoff;
        for (time_t jumped = shown + 1; schedule->fixed && jumped < wall; jumped++) {
            struct tm skipped;

            gmtime_r(&jumped, &skipped);
            if (reference_clock_matches(schedule, &skipped))
                fire = true;
        }
        if (schedule->fixed && wall <= shown)
            fire = false;
        if (wall > shown)
            shown = wall;
        if (fire)
            fires[count++] = instant;
    }
    return count;
}

#endif
