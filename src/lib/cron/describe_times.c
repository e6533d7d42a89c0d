/*
 * describe_times.c
 *
 * Says the seconds, minutes and hours of a schedule in words.
 *
 * The forms keep schedules of different meaning apart. A fixed one tells times ("at ...", and "every hour from
 * ... to ..."), a wildcard one tells what the clock shows ("every ... minutes", "whenever ..."). So 0,30 and
 * star/30 in the minutes of 9-17 differ in words, as they do on the day of a clock change.
 *
 * Runs in: any process, see cron.h. Writes into the caller's buffer only.
 */
#include "calendar.h"
#include "words.h"

/* So many times of a day are listed one by one, or any number where the minute is a single one. */
#define MOST_TIMES 6

/* Times at so many hours in a row are told as a range. */
#define SHORTEST_SPAN 4

#define ALL_HOURS UINT32_C(0xffffff)

/* The step of a set that goes all the way round 0 to size - 1, as that of 0, 15, 30, 45 does; 0 if it has none. */
static int
round_step(uint64_t values, int size)
{
    int first;
    int step;
    int last;

    if (!cron_is_progression(values, &first, &step, &last) || first != 0 || last + step != size) {
        return 0;
    }
    return step;
}

/* "at minute 5", "at minutes 5, 10 and 20 to 25" */
static void
write_values(CronWriter *writer, uint64_t values, CronUnit unit)
{
    cron_write(writer, cron_count(values) == 1 ? writer->words->at_value[unit] : writer->words->at_values[unit]);
    cron_write_numbers(writer, values);
}

/* "at 09:00, 09:30 and 17:00": every one of the times */
static void
write_times(CronWriter *writer, const CronSchedule *schedule, int second)
{
    int count = cron_count(schedule->hours) * cron_count(schedule->minutes);
    int index = 0;
    uint64_t hours;
    uint64_t minutes;

    cron_write(writer, schedule->hours == UINT32_C(1) << 1 ? writer->words->at_one : writer->words->at);
    for (hours = schedule->hours; hours != 0; hours &= hours - 1) {
        for (minutes = schedule->minutes; minutes != 0; minutes &= minutes - 1) {
            cron_write_separator(writer, index++, count, writer->words->and_word);
            cron_write_time(writer, cron_lowest(hours), cron_lowest(minutes), second);
        }
    }
}

/* The times of a fixed schedule. *seconds_said: with them its only second. */
static CronFlow
write_fixed_times(CronWriter *writer, const CronSchedule *schedule, bool *seconds_said)
{
    int hours = cron_count(schedule->hours);
    int minutes = cron_count(schedule->minutes);
    int minute = cron_lowest(schedule->minutes);
    int second = schedule->seconds != 1 && cron_count(schedule->seconds) == 1 ? cron_lowest(schedule->seconds) : -1;
    int first;
    int length;

    *seconds_said = second >= 0;
    if (minutes == 1 && hours >= SHORTEST_SPAN && cron_is_run(schedule->hours, 24, &first, &length)) {
        cron_write_every(writer, 1, CRON_HOUR);
        cron_write(writer, writer->words->from_time);
        cron_write_time(writer, first, minute, second);
        cron_write(writer, writer->words->to_time);
        cron_write_time(writer, (first + length - 1) % 24, minute, second);
        return CRON_FLOW_COMMA;
    }
    if (minutes == 1 || hours * minutes <= MOST_TIMES) {
        write_times(writer, schedule, second);
        return CRON_FLOW_BLANK;
    }
    *seconds_said = false;
    write_values(writer, schedule->minutes, CRON_MINUTE);
    cron_write(writer, hours == 1 ? writer->words->of_hour : writer->words->of_hours);
    cron_write_numbers(writer, schedule->hours);
    return CRON_FLOW_COMMA;
}

/*
 * " from 09:00 to 12:59 and from 15:00 to 17:59": the hours in which something happens all the time; with
 * `seconds`, up to the last second of them. More than two spans are a list of hours.
 */
static CronFlow
write_spans(CronWriter *writer, uint32_t hours, bool seconds)
{
    const CronWords *words = writer->words;
    uint32_t starts = hours & ~((hours << 1) | (hours >> 23));
    int spans = cron_count(starts);
    int index = 0;

    if (hours == ALL_HOURS) {
        return CRON_FLOW_BLANK;
    }
    if (spans > 2) {
        cron_write(writer, words->during_hours);
        cron_write_numbers(writer, hours);
        return CRON_FLOW_COMMA;
    }
    for (; starts != 0; starts &= starts - 1) {
        int first = cron_lowest(starts);
        int last = first;

        while (((hours >> ((last + 1) % 24)) & 1) != 0) {
            last = (last + 1) % 24;
        }
        cron_write(writer, index++ == 0 ? words->from_time : words->and_from_time);
        cron_write_time(writer, first, 0, seconds ? 0 : -1);
        cron_write(writer, words->to_time);
        cron_write_time(writer, last, 59, seconds ? 59 : -1);
    }
    return CRON_FLOW_COMMA;
}

/* "whenever the minute is 0, 7 or 30 and the hour is 9 to 17" */
static CronFlow
write_whenever(CronWriter *writer, const CronSchedule *schedule)
{
    cron_write(writer, writer->words->whenever_minute);
    cron_write_numbers_or(writer, schedule->minutes);
    cron_write(writer, writer->words->and_the_hour);
    cron_write_numbers_or(writer, schedule->hours);
    return CRON_FLOW_COMMA;
}

/* A wildcard's hours where the minute is a single one */
static CronFlow
write_hours(CronWriter *writer, const CronSchedule *schedule)
{
    int minute = cron_lowest(schedule->minutes);
    int first;
    int step;
    int last;

    if (schedule->hours == ALL_HOURS) {
        cron_write_every(writer, 1, CRON_HOUR);
        if (minute != 0) {
            cron_write(writer, " ");
            write_values(writer, schedule->minutes, CRON_MINUTE);
        }
        return CRON_FLOW_BLANK;
    }
    if (minute == 0 && round_step(schedule->hours, 24) > 0) {
        cron_write_every(writer, round_step(schedule->hours, 24), CRON_HOUR);
        return CRON_FLOW_BLANK;
    }
    if (cron_count(schedule->hours) > 2 && cron_is_progression(schedule->hours, &first, &step, &last) && step > 1) {
        cron_write_every(writer, step, CRON_HOUR);
        cron_write(writer, writer->words->from_time);
        cron_write_time(writer, first, minute, -1);
        cron_write(writer, writer->words->to_time);
        cron_write_time(writer, last, minute, -1);
        return CRON_FLOW_COMMA;
    }
    return write_whenever(writer, schedule);
}

/* A wildcard's minutes, several but not every so many all the way round, and hours */
static CronFlow
write_minutes(CronWriter *writer, const CronSchedule *schedule)
{
    bool all_hours = schedule->hours == ALL_HOURS;

    if (cron_write_progression(writer, schedule->minutes, CRON_MINUTE)) {
        cron_write(writer, writer->words->of_every[CRON_HOUR]);
        (void)write_spans(writer, schedule->hours, false);
        return CRON_FLOW_COMMA;
    }
    if (all_hours) {
        write_values(writer, schedule->minutes, CRON_MINUTE);
        cron_write(writer, writer->words->of_every[CRON_HOUR]);
        return CRON_FLOW_BLANK;
    }
    return write_whenever(writer, schedule);
}

/* The times of a schedule with a wildcard. *seconds_said: with them its seconds. */
static CronFlow
write_wildcard_times(CronWriter *writer, const CronSchedule *schedule, bool *seconds_said)
{
    int second_step = round_step(schedule->seconds, 60);
    int minute_step = round_step(schedule->minutes, 60);

    *seconds_said = minute_step == 1;
    if (minute_step == 1 && second_step > 0) {
        cron_write_every(writer, second_step, CRON_SECOND);
        return write_spans(writer, schedule->hours, true);
    }
    if (minute_step == 1 && schedule->hours == ALL_HOURS &&
        cron_write_progression(writer, schedule->seconds, CRON_SECOND)) {
        cron_write(writer, writer->words->of_every[CRON_MINUTE]);
        return CRON_FLOW_COMMA;
    }

    *seconds_said = false;
    if (minute_step > 0) {
        cron_write_every(writer, minute_step, CRON_MINUTE);
        return write_spans(writer, schedule->hours, false);
    }
    return cron_count(schedule->minutes) == 1 ? write_hours(writer, schedule) : write_minutes(writer, schedule);
}

/* ", at second 15", ", every 10 seconds of the minute" */
static CronFlow
write_seconds(CronWriter *writer, uint64_t seconds)
{
    int step = round_step(seconds, 60);

    cron_write(writer, ", ");
    if (step > 0) {
        cron_write_every(writer, step, CRON_SECOND);
        cron_write(writer, writer->words->of_the_minute);
    } else if (!cron_write_progression(writer, seconds, CRON_SECOND)) {
        write_values(writer, seconds, CRON_SECOND);
    }
    return CRON_FLOW_COMMA;
}

CronFlow
cron_write_time_of_day(CronWriter *writer, const CronSchedule *schedule)
{
    bool seconds_said;
    CronFlow flow = cron_is_fixed(schedule) ? write_fixed_times(writer, schedule, &seconds_said)
                                            : write_wildcard_times(writer, schedule, &seconds_said);

    return seconds_said || schedule->seconds == 1 ? flow : write_seconds(writer, schedule->seconds);
}
