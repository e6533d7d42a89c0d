/*
 * cron_walk.h
 *
 * The naive evaluator that cron_test.c compares cron_next with. It shares nothing with
 * src/lib/cron: an expression is made up as sets of allowed values together with its text (so the
 * parser is tested too), and its fires are found by walking through real time minute by minute with
 * libc's localtime_r, the way vixie cron's daemon experiences a clock change.
 *
 * Include it from one .c file, with _DEFAULT_SOURCE defined. The zone is the one in TZ.
 */
#ifndef APAPACHO_CRON_WALK_H
#define APAPACHO_CRON_WALK_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define WALK_DAYS 14
#define WALK_LEAD_DAYS 2 /* walked only to know which times the clock has shown already */
#define WALK_MINUTES (WALK_DAYS * 1440)

typedef struct WalkExpression {
    char text[256];
    bool allowed[5][64]; /* minute, hour, day, month (1-12), weekday (0-7, 7 not folded) */
    bool star[5];
    bool last_day;
} WalkExpression;

typedef struct WalkMinute {
    int64_t wall; /* what the clock shows, as if it were UTC */
    int field[5];
    bool last_day;
} WalkMinute;

static WalkMinute walk_minutes[WALK_MINUTES];
static int64_t walk_start; /* the instant of walk_minutes[0] */
static int64_t walk_fires[WALK_MINUTES];
static uint64_t walk_seed = UINT64_C(0x9e3779b97f4a7c15);

/* xorshift64*: 0 to limit - 1, the same sequence in every run */
static int64_t
walk_random(int64_t limit)
{
    walk_seed ^= walk_seed >> 12;
    walk_seed ^= walk_seed << 25;
    walk_seed ^= walk_seed >> 27;
    return (int64_t)((walk_seed * UINT64_C(2685821657736338717)) >> 33) % limit;
}

/* Writes a value as a number or, for months and weekdays, now and then as a name. */
static void
walk_write_value(char *text, size_t size, int field, int value)
{
    static const char *const months[] = {"jan", "Feb", "MAR", "apr", "mAy", "jun",
                                         "jul", "aug", "Sep", "oct", "nov", "DEC"};
    static const char *const weekdays[] = {"Sun", "mon", "TUE", "wed", "thu", "fri", "sat"};

    if (field == 3 && walk_random(3) == 0) {
        snprintf(text, size, "%s", months[value - 1]);
    } else if (field == 4 && value < 7 && walk_random(3) == 0) {
        snprintf(text, size, "%s", weekdays[value]);
    } else {
        snprintf(text, size, "%d", value);
    }
}

/* Makes up one element of a list and allows its values; star_percent is the chance of a "*". */
static void
walk_make_element(WalkExpression *expression, int field, int star_percent, char *text, size_t size)
{
    static const int lows[5] = {0, 0, 1, 1, 0};
    static const int highs[5] = {59, 23, 31, 12, 7};
    int span = highs[field] - lows[field] + 1;
    int first = lows[field];
    int last = highs[field];
    int step = 1;
    int value;
    char a[8];
    char b[8];
    size_t used;

    if (walk_random(100) < star_percent) {
        used = (size_t)snprintf(text, size, "*");
    } else {
        first = lows[field] + (int)walk_random(span);
        last = walk_random(2) == 0 ? first : first + (int)walk_random(highs[field] - first + 1);
        walk_write_value(a, sizeof(a), field, first);
        walk_write_value(b, sizeof(b), field, last);
        used = (size_t)snprintf(text, size, first == last ? "%s" : "%s-%s", a, b);
    }
    if (first != last && walk_random(3) == 0) {
        step = 1 + (int)walk_random(highs[field]);
        snprintf(text + used, size - used, "/%d", step);
    }
    for (value = first; value <= last; value += step) {
        expression->allowed[field][value] = true;
    }
}

static void
walk_make_expression(WalkExpression *expression)
{
    static const int star_percents[5] = {25, 35, 50, 80, 55};
    size_t used = 0;
    int field;

    memset(expression, 0, sizeof(*expression));
    for (field = 0; field < 5; field++) {
        int elements = walk_random(3) == 0 ? 1 + (int)walk_random(3) : 1;
        size_t begin = used;

        if (field == 2 && walk_random(12) == 0) {
            expression->last_day = true;
            expression->text[used++] = '$';
            elements = 0;
        }
        while (elements-- > 0) {
            char element[24];

            walk_make_element(expression, field, star_percents[field], element, sizeof(element));
            used += (size_t)snprintf(expression->text + used, sizeof(expression->text) - used, "%s%s", element,
                                     elements > 0 ? "," : "");
        }
        expression->star[field] = expression->text[begin] == '*';
        expression->text[used++] = field < 4 ? ' ' : '\0';
    }
}

static void
walk_read_clock(const struct tm *shown, WalkMinute *minute)
{
    struct tm copy = *shown;
    struct tm tomorrow;
    time_t later;

    copy.tm_isdst = 0;
    minute->wall = (int64_t)timegm(&copy);
    later = (time_t)minute->wall + 86400;
    gmtime_r(&later, &tomorrow);
    minute->last_day = tomorrow.tm_mday == 1;
    minute->field[0] = shown->tm_min;
    minute->field[1] = shown->tm_hour;
    minute->field[2] = shown->tm_mday;
    minute->field[3] = shown->tm_mon + 1;
    minute->field[4] = shown->tm_wday;
}

/* Writes down what the clock shows in each minute of WALK_DAYS from an instant on. */
static void
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

static bool
walk_matches(const WalkExpression *expression, const WalkMinute *minute)
{
    bool day = expression->allowed[2][minute->field[2]] || (expression->last_day && minute->last_day);
    bool weekday = expression->allowed[4][minute->field[4]] || (minute->field[4] == 0 && expression->allowed[4][7]);

    if (!expression->allowed[0][minute->field[0]] || !expression->allowed[1][minute->field[1]] ||
        !expression->allowed[3][minute->field[3]]) {
        return false;
    }
    if (expression->star[2] || expression->star[4]) {
        return day && weekday;
    }
    return day || weekday;
}

/* True if a time that the clock has jumped over, or shows now, is one of the expression's. */
static bool
walk_catches_up(const WalkExpression *expression, int64_t latest, const WalkMinute *now)
{
    int64_t wall;

    for (wall = latest + 60; wall < now->wall; wall += 60) {
        time_t missed_time = (time_t)wall;
        struct tm shown;
        WalkMinute missed;

        gmtime_r(&missed_time, &shown);
        walk_read_clock(&shown, &missed);
        if (walk_matches(expression, &missed)) {
            return true;
        }
    }
    return walk_matches(expression, now);
}

/* Fills walk_fires with the fires in the days that were prepared, the lead apart; their number. */
static int
walk_run(const WalkExpression *expression)
{
    bool wildcard = expression->star[0] || expression->star[1];
    int64_t latest = walk_minutes[0].wall;
    int count = 0;
    int i;

    for (i = 1; i < WALK_MINUTES; i++) {
        const WalkMinute *now = &walk_minutes[i];
        bool fires =
            wildcard ? walk_matches(expression, now) : now->wall > latest && walk_catches_up(expression, latest, now);

        if (now->wall > latest) {
            latest = now->wall;
        }
        if (fires && i >= WALK_LEAD_DAYS * 1440) {
            walk_fires[count++] = walk_start + (int64_t)i * 60;
        }
    }
    return count;
}

#endif
