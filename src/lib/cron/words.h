/*
 * words.h
 *
 * The words of descriptions in each language, and the writing of lists. Of this room only.
 *
 * Both languages put the parts of a description in the same order, so that a language is one table of words;
 * where a blank or a comma stands is in the words, but for the lists.
 */
#ifndef APAPACHO_CRON_WORDS_H
#define APAPACHO_CRON_WORDS_H

#include "cron.h"

typedef enum CronUnit { CRON_SECOND, CRON_MINUTE, CRON_HOUR, CRON_DAY, CRON_UNIT_COUNT } CronUnit;

/* The weeks of "d#n", and the last one */
#define CRON_LAST_WEEK 5
#define CRON_WEEK_COUNT 6

typedef struct CronWords {
    /* lists and ranges */
    const char *and_word;
    const char *or_word;
    const char *or_before_o; /* before a number that begins with the sound of an o */
    const char *to;
    const char *range_in_or; /* before a range of numbers in an or-list */

    /* "every 5 minutes" */
    const char *every;
    const char *unit[CRON_UNIT_COUNT];
    const char *units[CRON_UNIT_COUNT];
    const char *from_value[CRON_UNIT_COUNT]; /* "every 7 minutes from minute 3 to 59" */
    const char *to_value;

    /* kinds without fields */
    const char *from_previous;
    const char *reboot;

    /* times of day */
    const char *at;
    const char *at_one; /* before hours that are all 1 */
    const char *from_time;
    const char *to_time;
    const char *and_from_time;
    const char *at_value[CRON_UNIT_COUNT]; /* "every hour at minute 5" */
    const char *at_values[CRON_UNIT_COUNT];
    const char *of_every[CRON_UNIT_COUNT]; /* what every one of the unit has: "at minutes 5 and 35 of every hour" */
    const char *of_the_minute;
    const char *of_hour;
    const char *of_hours;
    const char *during_hours;
    const char *whenever_minute;
    const char *and_the_hour;

    /* days */
    const char *every_day;
    const char *on; /* before each day that has no other preposition */
    const char *day;
    const char *days;
    const char *last_day;
    const char *before_last; /* "the day that is 3 days before the last day" */
    const char *before_last_several;
    const char *day_before_last;
    const char *days_before_last;
    const char *nearest;
    const char *nearest_several;
    const char *last_working_day;
    const char *the; /* before "first Monday" */
    const char *week[CRON_WEEK_COUNT];
    const char *on_weekdays; /* before a list of weekdays */
    const char *weekday_range;
    const char *if_weekday_range;
    const char *weekday[7];         /* from Sunday */
    const char *weekday_several[7]; /* all of them, as in "los sábados" */
    const char *only_if;
    const char *and_also;
    const char *of_the_month;

    /* months */
    const char *on_date; /* "on 1 January" */
    const char *date_month;
    const char *of_months;
    const char *in_months;
    const char *from_month;
    const char *to_month;
    const char *month[12];
} CronWords;

const CronWords *cron_words(CronLanguage language);

/* Writes into a buffer as far as it goes; what is too long is cut to whole characters. */
typedef struct CronWriter {
    char *buffer;
    size_t size;
    size_t length;
    bool full;
    const CronWords *words;
} CronWriter;

void cron_write(CronWriter *writer, const char *text);
void cron_write_number(CronWriter *writer, int number);

/* "09:30", and with a second from 0 on "09:30:15"; -1 for none */
void cron_write_time(CronWriter *writer, int hour, int minute, int second);

/* Whether what has been said so far goes on after a blank, or needs a comma. */
typedef enum CronFlow { CRON_FLOW_BLANK, CRON_FLOW_COMMA } CronFlow;

void cron_write_flow(CronWriter *writer, CronFlow flow);

/* What stands before element `index` of `count`: nothing, a comma, or the last one's "and" or "or". */
void cron_write_separator(CronWriter *writer, int index, int count, const char *last);

/* Writes a set of numbers as a list, with runs of three and more as ranges: "0, 5 and 10 to 20". */
void cron_write_numbers(CronWriter *writer, uint64_t bits);
void cron_write_numbers_or(CronWriter *writer, uint64_t bits);

/* "every minute", "every 5 minutes" */
void cron_write_every(CronWriter *writer, int count, CronUnit unit);

/* "every 7 minutes from minute 0 to 56", if the values are a progression of four or more; else false and nothing. */
bool cron_write_progression(CronWriter *writer, uint64_t values, CronUnit unit);

/* The seconds, minutes and hours of a schedule (describe_times.c) */
CronFlow cron_write_time_of_day(CronWriter *writer, const CronSchedule *schedule);

int cron_count(uint64_t bits);

/* Whether a set of the values 0 to size - 1 is one run, which may go on from the highest to the lowest. */
bool cron_is_run(uint64_t bits, int size, int *first, int *length);

/* Whether a set has two values or more, each `step` after the one before. */
bool cron_is_progression(uint64_t bits, int *first, int *step, int *last);

#endif
