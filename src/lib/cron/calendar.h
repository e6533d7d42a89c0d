/*
 * calendar.h
 *
 * The days of the calendar, and which of them a schedule's date fields choose. Of this room only.
 *
 * A "day" is counted from 1970-01-01, in the proleptic Gregorian calendar.
 */
#ifndef APAPACHO_CRON_CALENDAR_H
#define APAPACHO_CRON_CALENDAR_H

#include "cron.h"

#define CRON_ALL_DAYS UINT32_C(0xfffffffe)
#define CRON_ALL_MONTHS UINT32_C(0x1ffe)
#define CRON_ALL_WEEKDAYS UINT32_C(0x7f)

/* The quotient rounded down; the divisor is positive. */
int64_t cron_floor_divide(int64_t dividend, int64_t divisor);

/* The lowest value in a set that has one. */
static inline int
cron_lowest(uint64_t bits)
{
    return __builtin_ctzll(bits);
}

/* The first day at or after `day` and up to last_day that the schedule's date fields choose; false when there is none.
 */
bool cron_next_day(const CronSchedule *schedule, int64_t day, int64_t last_day, int64_t *result);

/*
 * The widest distance in days between two dates in a row that the schedule chooses, over the 400 years
 * after which the calendar repeats itself. It is exact when it exceeds two years, otherwise some number of
 * two years or less. 0 when the schedule chooses no date at all.
 */
int cron_widest_gap(const CronSchedule *schedule);

#endif
