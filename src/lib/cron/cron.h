/*
 * cron.h
 *
 * Cron expressions: read one, find the next instant at which it fires, say it in words.
 *
 * Why: the jobs' schedules are settings in pg_cron's notation and more. The server checks them when
 * they are set, the scheduler asks for the next run, and the companion program shows both.
 *
 * Runs in: any process (postmaster, backends, workers, apapacho-jobs). Plain C11, reentrant: no
 * globals, no allocation, no clock, no time functions of libc.
 * Memory: every struct here is plain data and belongs to the caller.
 */
#ifndef APAPACHO_CRON_H
#define APAPACHO_CRON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Longest text that cron_parse reads, in bytes without the terminator (pg_cron's own limit). */
#define CRON_TEXT_MAX 999

/* Longest interval, in seconds: 366 days. */
#define CRON_INTERVAL_MAX 31622400

/* Two dates of an accepted schedule that follow each other are at most so many days apart: eight years. */
#define CRON_WIDEST_GAP 2922

typedef enum CronKind {
    CRON_KIND_FIELDS,   /* five or six fields, or an @name that stands for them */
    CRON_KIND_INTERVAL, /* "N seconds" or "@every DURATION" */
    CRON_KIND_REBOOT    /* once when the server starts; never by the clock */
} CronKind;

/*
 * A parsed schedule. No pointers: copy it with memcpy, keep it in a GUC's "extra". Bytes that the
 * kind does not use are zero, so two schedules with the same meaning bits compare equal by memcmp.
 */
typedef struct CronSchedule {
    CronKind kind;
    int32_t interval_seconds; /* CRON_KIND_INTERVAL: 1 to CRON_INTERVAL_MAX */

    /* CRON_KIND_FIELDS: bit N is value N */
    uint64_t seconds;  /* 0-59; bit 0 alone for five fields */
    uint64_t minutes;  /* 0-59 */
    uint32_t hours;    /* 0-23 */
    uint32_t days;     /* 1-31 */
    uint32_t months;   /* 1-12 */
    uint32_t weekdays; /* 0-6 from Sunday; a written 7 is bit 0 */

    /* days that are not the same ones in every month */
    uint64_t nth_weekdays;  /* "d#n": bit 7 * (n - 1) + d */
    uint32_t last_weekdays; /* "dL": bit d */
    uint32_t days_to_last;  /* bit N: N days before the last one; "L" and "$" are bit 0 */
    uint32_t nearest;       /* bit N: "NW", the Monday-Friday day nearest to day N; "LW" is bit 0 */

    /* the field starts with '*', "*" and a step included, or is "?" */
    bool minute_star;
    bool hour_star;
    bool day_star;
    bool weekday_star;
} CronSchedule;

typedef struct CronError {
    int position;      /* byte offset into the text, from 0; the text's length at its end */
    const char *field; /* "second", "minute", "hour", "day-of-month", "month", "day-of-week", "interval" or
                        * "expression"; a constant */
    char message[192]; /* one lower-case fragment in ASCII that begins with the field, such as
                        * minute field: value 61 is out of range 0-59 */
} CronError;

/*
 * A time zone as a function of the instant, so that the library needs no zone database of its own.
 * utc_offset returns the seconds east of UTC that are in force at utc (seconds since 1970 UTC). It
 * is asked about instants up to four days outside the years 1 to 9999. Offsets of a day or more are
 * cut to just below a day.
 */
typedef struct CronZone {
    int32_t (*utc_offset)(void *context, int64_t utc);
    void *context;
} CronZone;

/*
 * Reads an expression: five fields, six with the second first, an @name, "@every DURATION" or
 * "N seconds"; the grammar is in README.md. Leading and trailing blanks are fine. An expression that
 * could never fire is refused, and so is one with two dates in a row that are more than
 * CRON_WIDEST_GAP days apart.
 * Returns true and fills *schedule; or false, leaves *schedule alone and fills *error, which may be
 * NULL.
 */
bool cron_parse(const char *text, CronSchedule *schedule, CronError *error);

/*
 * Finds the first fire strictly after `after`; both are seconds since 1970 UTC. A NULL zone is UTC.
 *
 * Clock changes follow vixie cron: a fixed schedule (cron_is_fixed) fires once per written time: at
 * the first instant after the gap when the clock jumps over it, on the first occurrence when the
 * clock repeats it. Times that meet in one instant are one fire. Any other schedule follows the
 * clock as it stands: in both passes of a repeated hour, and not at all for the times in a gap.
 *
 * An interval is counted from `after`. Returns false and leaves *next alone when there is no fire:
 * CRON_KIND_REBOOT; `after` or the fire outside the years 1 to 9999 UTC; or none within 41 years,
 * which happens only where every candidate lies in a clock change's gap. In UTC a fire comes within
 * CRON_WIDEST_GAP days.
 */
bool cron_next(const CronSchedule *schedule, const CronZone *zone, int64_t after, int64_t *next);

/*
 * Whether each written time fires exactly once however the clock is changed: fields of which neither
 * the minute nor the hour starts with '*'. The seconds play no part in it. False for the other kinds.
 */
bool cron_is_fixed(const CronSchedule *schedule);

typedef enum CronLanguage { CRON_ENGLISH, CRON_SPANISH } CronLanguage;

/* Holds the words of any accepted expression, with the terminator. */
#define CRON_DESCRIPTION_SIZE 2048

/*
 * Says an expression in words, such as "at 02:00 on Sunday" or "a las 02:00 los domingos": one phrase in
 * UTF-8, to stand within a sentence. Expressions that fire at different times, be it on the day of a clock
 * change only, have different words.
 * Returns true and fills the buffer of `size` bytes, cut to whole characters if it is shorter than
 * CRON_DESCRIPTION_SIZE; or false, leaves an empty text and fills *error, which may be NULL, when cron_parse
 * refuses the expression.
 */
bool cron_describe(const char *text, CronLanguage language, char *buffer, size_t size, CronError *error);

#endif
