/*
 * describe.c
 *
 * Says a cron expression in words. What is said is the schedule and not how it was written: the times
 * (describe_times.c), then the days, then the months, each in the form that fits it best.
 *
 * Runs in: any process, see cron.h. Writes into the caller's buffer only.
 */
#include "calendar.h"
#include "words.h"

/* Weekdays and months in a row are told as a range from so many on. */
#define SHORTEST_RANGE 3

/* Which of the two day fields matter, and how; both false: every day. */
typedef struct DayRule {
    bool by_month;
    bool by_week;
    bool both;      /* a day must match both, where both matter; else either is enough */
    bool of_months; /* the days are said to be "of January", and the months need no words of their own */
} DayRule;

static bool
is_month_range(uint32_t months)
{
    int first;
    int length;

    return cron_is_run(months >> 1, 12, &first, &length) && length >= SHORTEST_RANGE;
}

static DayRule
day_rule(const CronSchedule *schedule)
{
    bool any_in_month = schedule->days == CRON_ALL_DAYS;
    bool any_in_week = schedule->weekdays == CRON_ALL_WEEKDAYS;
    DayRule rule = {.both = schedule->day_star || schedule->weekday_star};

    if (rule.both) {
        rule.by_month = !any_in_month;
        rule.by_week = !any_in_week;
    } else {
        rule.by_month = rule.by_week = !any_in_month && !any_in_week;
    }
    if (!is_month_range(schedule->months)) {
        rule.of_months = rule.by_month != rule.by_week && (rule.by_month || schedule->weekdays == 0);
    }
    return rule;
}

static void
write_month_list(CronWriter *writer, uint32_t months)
{
    int count = cron_count(months);
    int index = 0;

    for (; months != 0; months &= months - 1) {
        cron_write_separator(writer, index++, count, writer->words->and_word);
        cron_write(writer, writer->words->month[cron_lowest(months) - 1]);
    }
}

/* " of the month", or of which months */
static void
write_of_month(CronWriter *writer, const CronSchedule *schedule, const DayRule *rule)
{
    if (rule->of_months) {
        cron_write(writer, writer->words->of_months);
        write_month_list(writer, schedule->months);
    } else {
        cron_write(writer, writer->words->of_the_month);
    }
}

/* "on days 1 and 15, on the last day and on the weekday nearest day 20" */
static void
write_days_of_month(CronWriter *writer, const CronSchedule *schedule)
{
    const CronWords *words = writer->words;
    uint32_t before_last = schedule->days_to_last & ~UINT32_C(1);
    uint32_t nearest = schedule->nearest & ~UINT32_C(1);
    int count = (schedule->days != 0) + (schedule->days_to_last & 1) + (before_last != 0) + (schedule->nearest & 1) +
                (nearest != 0);
    int index = 0;

    if (schedule->days != 0) {
        index++;
        if (!cron_write_progression(writer, schedule->days, CRON_DAY)) {
            cron_write(writer, words->on);
            cron_write(writer, cron_count(schedule->days) == 1 ? words->day : words->days);
            cron_write_numbers(writer, schedule->days);
        }
    }
    if ((schedule->days_to_last & 1) != 0) {
        cron_write_separator(writer, index++, count, words->and_word);
        cron_write(writer, words->on);
        cron_write(writer, words->last_day);
    }
    if (before_last != 0) {
        cron_write_separator(writer, index++, count, words->and_word);
        cron_write(writer, words->on);
        cron_write(writer, cron_count(before_last) == 1 ? words->before_last : words->before_last_several);
        cron_write_numbers(writer, before_last);
        cron_write(writer, before_last == UINT32_C(1) << 1 ? words->day_before_last : words->days_before_last);
    }
    if ((schedule->nearest & 1) != 0) {
        cron_write_separator(writer, index++, count, words->and_word);
        cron_write(writer, words->on);
        cron_write(writer, words->last_working_day);
    }
    if (nearest != 0) {
        cron_write_separator(writer, index++, count, words->and_word);
        cron_write(writer, words->on);
        cron_write(writer, cron_count(nearest) == 1 ? words->nearest : words->nearest_several);
        cron_write_numbers(writer, nearest);
    }
}

/* The weeks of a weekday in "d#n" and "dL": bit n - 1, and bit CRON_LAST_WEEK */
static uint32_t
weeks_of(const CronSchedule *schedule, int weekday)
{
    uint32_t weeks = 0;
    int week;

    if (((schedule->weekdays >> weekday) & 1) != 0) {
        return 0; /* every one of them anyway */
    }
    for (week = 0; week < CRON_LAST_WEEK; week++) {
        weeks |= (uint32_t)((schedule->nth_weekdays >> (7 * week + weekday)) & 1) << week;
    }
    return weeks | ((schedule->last_weekdays >> weekday) & 1) << CRON_LAST_WEEK;
}

/* "on Monday and Friday", "Monday to Friday"; in an or-list "Monday or Friday" */
static void
write_weekdays(CronWriter *writer, uint32_t weekdays, bool or_list)
{
    const CronWords *words = writer->words;
    int count = cron_count(weekdays);
    int index = 0;
    int first;
    int length;
    int i;

    if (cron_is_run(weekdays, 7, &first, &length) && length >= SHORTEST_RANGE) {
        cron_write(writer, or_list ? words->if_weekday_range : words->weekday_range);
        cron_write(writer, words->weekday[first]);
        cron_write(writer, words->to);
        cron_write(writer, words->weekday[(first + length - 1) % 7]);
        return;
    }
    cron_write(writer, or_list ? "" : words->on_weekdays);
    for (i = 1; i <= 7; i++) {
        if (((weekdays >> (i % 7)) & 1) != 0) {
            cron_write_separator(writer, index++, count, or_list ? words->or_word : words->and_word);
            cron_write(writer, (or_list ? words->weekday : words->weekday_several)[i % 7]);
        }
    }
}

/* "on Monday and on the first and third Friday of the month"; in an or-list for "only if it is ..." */
static void
write_days_of_week(CronWriter *writer, const CronSchedule *schedule, const DayRule *rule, bool or_list)
{
    const CronWords *words = writer->words;
    const char *last_word = or_list ? words->or_word : words->and_word;
    int count = schedule->weekdays != 0;
    int index = 0;
    int i;

    for (i = 0; i < 7; i++) {
        count += weeks_of(schedule, i) != 0;
    }
    if (schedule->weekdays != 0) {
        index++;
        write_weekdays(writer, schedule->weekdays, or_list);
    }
    for (i = 1; i <= 7; i++) {
        uint32_t weeks = weeks_of(schedule, i % 7);
        int week_count = cron_count(weeks);
        int week_index = 0;

        if (weeks == 0) {
            continue;
        }
        cron_write_separator(writer, index++, count, last_word);
        cron_write(writer, or_list ? "" : words->on);
        cron_write(writer, words->the);
        for (; weeks != 0; weeks &= weeks - 1) {
            cron_write_separator(writer, week_index++, week_count, last_word);
            cron_write(writer, words->week[cron_lowest(weeks)]);
        }
        cron_write(writer, " ");
        cron_write(writer, words->weekday[i % 7]);
    }
    if (index > (schedule->weekdays != 0)) {
        write_of_month(writer, schedule, rule);
    }
}

static CronFlow
write_days(CronWriter *writer, const CronSchedule *schedule, const DayRule *rule, CronFlow flow)
{
    const CronWords *words = writer->words;
    int first;
    int length;

    if (!rule->by_month && !rule->by_week) {
        if (cron_is_fixed(schedule)) {
            cron_write_flow(writer, flow);
            cron_write(writer, words->every_day);
        }
        return flow;
    }
    if (!rule->by_month) {
        bool range = cron_is_run(schedule->weekdays, 7, &first, &length) && length >= SHORTEST_RANGE;

        cron_write_flow(writer, range ? CRON_FLOW_COMMA : flow);
        write_days_of_week(writer, schedule, rule, false);
        return range || schedule->nth_weekdays != 0 || schedule->last_weekdays != 0 ? CRON_FLOW_COMMA : flow;
    }

    cron_write_flow(writer, flow);
    if (rule->of_months && cron_count(schedule->months) == 1 && cron_count(schedule->days) == 1 &&
        schedule->days_to_last == 0 && schedule->nearest == 0) {
        cron_write(writer, words->on_date);
        cron_write_numbers(writer, schedule->days);
        cron_write(writer, words->date_month);
        write_month_list(writer, schedule->months);
        return CRON_FLOW_COMMA;
    }
    write_days_of_month(writer, schedule);
    write_of_month(writer, schedule, rule);
    if (rule->by_week) {
        cron_write(writer, rule->both ? words->only_if : words->and_also);
        write_days_of_week(writer, schedule, rule, rule->both);
    }
    return CRON_FLOW_COMMA;
}

static void
write_months(CronWriter *writer, uint32_t months, CronFlow flow)
{
    const CronWords *words = writer->words;
    int first;
    int length;

    cron_write_flow(writer, flow);
    if (is_month_range(months)) {
        (void)cron_is_run(months >> 1, 12, &first, &length);
        cron_write(writer, words->from_month);
        cron_write(writer, words->month[first]);
        cron_write(writer, words->to_month);
        cron_write(writer, words->month[(first + length - 1) % 12]);
    } else {
        cron_write(writer, words->in_months);
        write_month_list(writer, months);
    }
}

static void
write_fields(CronWriter *writer, const CronSchedule *schedule)
{
    DayRule rule = day_rule(schedule);
    CronFlow flow = cron_write_time_of_day(writer, schedule);

    flow = write_days(writer, schedule, &rule, flow);
    if (!rule.of_months && schedule->months != CRON_ALL_MONTHS) {
        write_months(writer, schedule->months, flow);
    }
}

/* "every 5 minutes, counted from the previous run" */
static void
write_interval(CronWriter *writer, int seconds)
{
    static const int lengths[CRON_UNIT_COUNT] = {1, 60, 3600, 86400};
    int counts[CRON_UNIT_COUNT];
    int parts = 0;
    int index = 0;
    int unit;

    for (unit = CRON_DAY; unit >= CRON_SECOND; unit--) {
        counts[unit] = seconds / lengths[unit];
        seconds %= lengths[unit];
        parts += counts[unit] > 0;
    }
    for (unit = CRON_DAY; unit >= CRON_SECOND; unit--) {
        if (counts[unit] == 0) {
            continue;
        }
        if (parts == 1) {
            cron_write_every(writer, counts[unit], (CronUnit)unit);
            break;
        }
        cron_write(writer, index == 0 ? writer->words->every : "");
        cron_write_separator(writer, index++, parts, writer->words->and_word);
        cron_write_number(writer, counts[unit]);
        cron_write(writer, " ");
        cron_write(writer, (counts[unit] == 1 ? writer->words->unit : writer->words->units)[unit]);
    }
    cron_write(writer, writer->words->from_previous);
}

bool
cron_describe(const char *text, CronLanguage language, char *buffer, size_t size, CronError *error)
{
    CronWriter writer = {.buffer = buffer, .size = size, .full = size == 0, .words = cron_words(language)};
    CronSchedule schedule;

    cron_write(&writer, "");
    if (!cron_parse(text, &schedule, error)) {
        return false;
    }
    switch (schedule.kind) {
    case CRON_KIND_FIELDS:
        write_fields(&writer, &schedule);
        break;
    case CRON_KIND_INTERVAL:
        write_interval(&writer, schedule.interval_seconds);
        break;
    case CRON_KIND_REBOOT:
        cron_write(&writer, writer.words->reboot);
        break;
    }
    return true;
}
