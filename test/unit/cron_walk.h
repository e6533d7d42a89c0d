/*
 * cron_walk.h
 *
 * The naive evaluator that cron_test.c compares the library with. It shares nothing with src/lib/cron: an
 * expression is made up as sets of allowed values together with its text (so the parser is tested too), and
 * its fires are found by walking through real time minute by minute with libc's localtime_r, the way vixie
 * cron's daemon experiences a clock change. The days that depend on the month are looked for among all of its
 * days, each time.
 *
 * Include it from one .c file of a program, with _DEFAULT_SOURCE defined. The zone is the one in TZ.
 */
#ifndef APAPACHO_CRON_WALK_H
#define APAPACHO_CRON_WALK_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define WALK_DAYS 14
#define WALK_LEAD_DAYS 2 /* walked only to know which times the clock has shown already */
#define WALK_MINUTES (WALK_DAYS * 1440)

enum { WALK_SECOND, WALK_MINUTE, WALK_HOUR, WALK_DAY, WALK_MONTH, WALK_WEEKDAY, WALK_FIELDS };

typedef struct WalkExpression {
    char text[512];
    bool allowed[WALK_FIELDS][64]; /* month 1-12; weekday 0-7, 7 not folded */
    bool star[WALK_FIELDS];
    bool before_last[31]; /* L-n */
    bool nearest[32];     /* nW; 0 is LW */
    bool nth[8][7];       /* d#n; 6 is dL */
} WalkExpression;

typedef struct WalkMinute {
    int64_t wall; /* what the clock shows, as if it were UTC */
    int field[WALK_FIELDS];
    int month_length;
} WalkMinute;

static WalkMinute walk_minutes[WALK_MINUTES];
static int64_t walk_start; /* the instant of walk_minutes[0] */
static int64_t walk_fires[WALK_MINUTES * 60];
static uint64_t walk_seed = UINT64_C(0x9e3779b97f4a7c15);

/* xorshift64*: 0 to limit - 1, the same sequence in every run */
static inline int64_t
walk_random(int64_t limit)
{
    walk_seed ^= walk_seed >> 12;
    walk_seed ^= walk_seed << 25;
    walk_seed ^= walk_seed >> 27;
    return (int64_t)((walk_seed * UINT64_C(2685821657736338717)) >> 33) % limit;
}

/* ---- making an expression up ---- */

static const int walk_lows[WALK_FIELDS] = {0, 0, 0, 1, 1, 0};
static const int walk_highs[WALK_FIELDS] = {59, 59, 23, 31, 12, 7};

/* Writes a value as a number or, for months and weekdays, now and then as a name, short or long. */
static inline void
walk_write_value(char *text, size_t size, int field, int value)
{
    static const char *const months[] = {"January", "FEBRUARY", "march",     "April",   "mAy",      "june",
                                         "july",    "August",   "SEPTEMBER", "october", "november", "December"};
    static const char *const weekdays[] = {"Sunday",   "monday", "TUESDAY", "wednesday",
                                           "thursday", "friDAY", "saturday"};
    int length = walk_random(2) == 0 ? 3 : 9;

    if (field == WALK_MONTH && walk_random(3) == 0) {
        snprintf(text, size, "%.*s", length, months[value - 1]);
    } else if (field == WALK_WEEKDAY && value < 7 && walk_random(3) == 0) {
        snprintf(text, size, "%.*s", length, weekdays[value]);
    } else {
        snprintf(text, size, walk_random(8) == 0 ? "%02d" : "%d", value);
    }
}

/* Allows every step-th value on the way from first to last, which goes on at the field's lowest after its highest. */
static inline void
walk_allow(WalkExpression *expression, int field, int first, int last, int step)
{
    bool round = first > last;
    int value;
    int way = 0;

    if (round && field == WALK_WEEKDAY && first == 7) {
        first = 0;
    }
    for (value = first;; way++) {
        if (way % step == 0) {
            expression->allowed[field][value] = true;
        }
        if (value == last) {
            break;
        }
        value++;
        if (round && value > (field == WALK_WEEKDAY ? 6 : walk_highs[field])) {
            value = walk_lows[field];
        }
    }
}

/* One of the days that depend on the month; false when the field has none. */
static inline bool
walk_make_special(WalkExpression *expression, int field, char *text, size_t size)
{
    int value = (int)walk_random(31);
    char weekday[16];

    if (field == WALK_DAY && walk_random(2) == 0) {
        expression->before_last[value] = true;
        snprintf(text, size, value == 0 ? (walk_random(2) == 0 ? "L" : "$") : "L-%d", value);
        return true;
    }
    if (field == WALK_DAY) {
        expression->nearest[value] = true;
        snprintf(text, size, value == 0 ? "LW" : "%dW", value);
        return true;
    }
    if (field == WALK_WEEKDAY) {
        int week = 1 + (int)walk_random(6);

        value %= 8;
        expression->nth[value][week] = true;
        walk_write_value(weekday, sizeof(weekday), field, value);
        snprintf(text, size, week == 6 ? "%sL" : "%s#%d", weekday, week);
        return true;
    }
    return false;
}

/* Makes up one element of a list and allows its values; star_percent is the chance of a "*". */
static inline void
walk_make_element(WalkExpression *expression, int field, int star_percent, char *text, size_t size)
{
    int low = walk_lows[field];
    int high = walk_highs[field];
    int first = low + (int)walk_random(high - low + 1);
    int last = first;
    int step = 1;
    char a[16];
    char b[16];
    size_t used;

    if (walk_random(100) < star_percent) {
        first = low;
        last = high;
        used = (size_t)snprintf(text, size, "*");
    } else if (walk_random(6) == 0 && walk_make_special(expression, field, text, size)) {
        return;
    } else {
        walk_write_value(a, sizeof(a), field, first);
        used = (size_t)snprintf(text, size, "%s", a);
        if (walk_random(8) == 0) {
            step = 1 + (int)walk_random(high);
            snprintf(text + used, size - used, "/%d", step);
            walk_allow(expression, field, first, field == WALK_WEEKDAY && first < 7 ? 6 : high, step);
            return;
        }
        if (walk_random(2) == 0) {
            last = low + (int)walk_random(high - low + 1);
            walk_write_value(b, sizeof(b), field, last);
            used += (size_t)snprintf(text + used, size - used, "-%s", b);
        }
    }
    if (used > 0 && (text[0] == '*' || strchr(text, '-') != NULL) && walk_random(3) == 0) {
        step = 1 + (int)walk_random(high);
        snprintf(text + used, size - used, "/%d", step);
    }
    walk_allow(expression, field, first, last, step);
}

static inline void
walk_make_expression(WalkExpression *expression)
{
    static const int star_percents[WALK_FIELDS] = {15, 25, 35, 50, 80, 55};
    size_t used = 0;
    int field = walk_random(4) == 0 ? WALK_SECOND : WALK_MINUTE;

    memset(expression, 0, sizeof(*expression));
    expression->allowed[WALK_SECOND][0] = field == WALK_MINUTE;
    for (; field < WALK_FIELDS; field++) {
        int elements = walk_random(3) == 0 ? 1 + (int)walk_random(3) : 1;
        size_t begin = used;

        if ((field == WALK_DAY || field == WALK_WEEKDAY) && walk_random(10) == 0) {
            expression->text[used++] = '?';
            walk_allow(expression, field, walk_lows[field], walk_highs[field], 1);
            elements = 0;
        }
        while (elements-- > 0) {
            char element[40];

            walk_make_element(expression, field, star_percents[field], element, sizeof(element));
            used += (size_t)snprintf(expression->text + used, sizeof(expression->text) - used, "%s%s", element,
                                     elements > 0 ? "," : "");
        }
        expression->star[field] = expression->text[begin] == '*' || expression->text[begin] == '?';
        expression->text[used++] = field < WALK_WEEKDAY ? ' ' : '\0';
    }
}

/* ---- matching ---- */

static inline bool
walk_is_working_day(const WalkMinute *now, int day)
{
    int weekday = (now->field[WALK_WEEKDAY] + day - now->field[WALK_DAY] + 35) % 7;

    return weekday != 0 && weekday != 6;
}

/* Whether today is, of the month's working days, the one with the least distance to a day. */
static inline bool
walk_is_nearest(const WalkMinute *now, int day)
{
    int best = 0;
    int other;

    if (day > now->month_length) {
        return false;
    }
    for (other = 1; other <= now->month_length; other++) {
        if (walk_is_working_day(now, other) && (best == 0 || abs(other - day) < abs(best - day))) {
            best = other;
        }
    }
    return best == now->field[WALK_DAY];
}

static inline bool
walk_matches_day(const WalkExpression *expression, const WalkMinute *now)
{
    int today = now->field[WALK_DAY];
    int weekday = now->field[WALK_WEEKDAY];
    bool by_month = expression->allowed[WALK_DAY][today];
    bool by_week = false;
    int i;

    for (i = 0; i <= 30; i++) {
        by_month = by_month || (expression->before_last[i] && today + i == now->month_length) ||
                   (expression->nearest[i] && walk_is_nearest(now, i == 0 ? now->month_length : i));
    }
    for (i = 0; i <= 7; i++) {
        if (i % 7 == weekday) {
            by_week = by_week || expression->allowed[WALK_WEEKDAY][i] || expression->nth[i][(today - 1) / 7 + 1] ||
                      (expression->nth[i][6] && today + 7 > now->month_length);
        }
    }
    if (expression->star[WALK_DAY] || expression->star[WALK_WEEKDAY]) {
        return by_month && by_week;
    }
    return by_month || by_week;
}

/* Whether month and time of day match; seconds apart. */
static inline bool
walk_matches_time(const WalkExpression *expression, const WalkMinute *now)
{
    return expression->allowed[WALK_MINUTE][now->field[WALK_MINUTE]] &&
           expression->allowed[WALK_HOUR][now->field[WALK_HOUR]] &&
           expression->allowed[WALK_MONTH][now->field[WALK_MONTH]];
}

/* The widest gap in days between two matching dates of 400 years and the first of the next; 0 for no date at all. */
static inline int
walk_widest_gap(const WalkExpression *expression)
{
    static const int lengths[] = {0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    int first = -1;
    int latest = 0;
    int widest = 0;
    int number = 0;
    WalkMinute day;
    int year;

    memset(&day, 0, sizeof(day));
    day.field[WALK_WEEKDAY] = 6; /* 1 January 2000 */
    for (year = 2000; year < 2400; year++) {
        for (day.field[WALK_MONTH] = 1; day.field[WALK_MONTH] <= 12; day.field[WALK_MONTH]++) {
            bool leap = year % 400 == 0 || (year % 4 == 0 && year % 100 != 0);

            day.month_length = lengths[day.field[WALK_MONTH]] + (day.field[WALK_MONTH] == 2 && leap);
            for (day.field[WALK_DAY] = 1; day.field[WALK_DAY] <= day.month_length; day.field[WALK_DAY]++) {
                if (expression->allowed[WALK_MONTH][day.field[WALK_MONTH]] && walk_matches_day(expression, &day)) {
                    widest = first >= 0 && number - latest > widest ? number - latest : widest;
                    first = first < 0 ? number : first;
                    latest = number;
                }
                day.field[WALK_WEEKDAY] = (day.field[WALK_WEEKDAY] + 1) % 7;
                number++;
            }
        }
    }
    if (first < 0) {
        return 0;
    }
    return first + number - latest > widest ? first + number - latest : widest;
}

/* ---- walking ---- */

static inline void
walk_read_clock(const struct tm *shown, WalkMinute *minute)
{
    struct tm copy = *shown;
    struct tm last = {.tm_year = shown->tm_year, .tm_mon = shown->tm_mon + 1};

    copy.tm_isdst = 0;
    minute->wall = (int64_t)timegm(&copy);
    (void)timegm(&last); /* day 0 of the next month */
    minute->month_length = last.tm_mday;
    minute->field[WALK_SECOND] = shown->tm_sec;
    minute->field[WALK_MINUTE] = shown->tm_min;
    minute->field[WALK_HOUR] = shown->tm_hour;
    minute->field[WALK_DAY] = shown->tm_mday;
    minute->field[WALK_MONTH] = shown->tm_mon + 1;
    minute->field[WALK_WEEKDAY] = shown->tm_wday;
}

/* Writes down what the clock shows in each minute of WALK_DAYS from an instant on. */
static inline void
walk_prepare(int64_t start)
{
    int i;

    walk_start = start - start % 60;
    for (i = 0; i < WALK_MINUTES; i++) {
        time_t instant = (time_t)(walk_start + (int64_t)i * 60);
        struct tm shown;

        localtime_r(&instant, &shown);
        walk_read_clock(&shown, &walk_minutes[i]);
    }
}

/* True if a minute that the clock has jumped over is one of the expression's. */
static inline bool
walk_catches_up(const WalkExpression *expression, int64_t latest, const WalkMinute *now)
{
    int64_t wall;

    for (wall = latest + 60; wall < now->wall; wall += 60) {
        time_t missed_time = (time_t)wall;
        struct tm shown;
        WalkMinute missed;

        gmtime_r(&missed_time, &shown);
        walk_read_clock(&shown, &missed);
        if (walk_matches_time(expression, &missed) && walk_matches_day(expression, &missed)) {
            return true;
        }
    }
    return false;
}

/* Fills walk_fires with the fires in the days that were prepared, the lead apart; their number. */
static inline int
walk_run(const WalkExpression *expression)
{
    bool wildcard = expression->star[WALK_MINUTE] || expression->star[WALK_HOUR];
    int64_t latest = walk_minutes[0].wall;
    bool day_matches = walk_matches_day(expression, &walk_minutes[0]);
    int count = 0;
    int i;

    for (i = 1; i < WALK_MINUTES; i++) {
        const WalkMinute *now = &walk_minutes[i];
        bool late = !wildcard && walk_catches_up(expression, latest, now);
        bool matches;
        int second;

        if (now->wall / 86400 != now[-1].wall / 86400) {
            day_matches = walk_matches_day(expression, now);
        }
        matches = (wildcard || now->wall > latest) && day_matches && walk_matches_time(expression, now);

        if (now->wall > latest) {
            latest = now->wall;
        }
        for (second = 0; second < 60 && (matches || late) && i >= WALK_LEAD_DAYS * 1440; second++) {
            if ((matches && expression->allowed[WALK_SECOND][second]) || (late && second == 0)) {
                walk_fires[count++] = walk_start + (int64_t)i * 60 + second;
            }
        }
    }
    return count;
}

#endif
