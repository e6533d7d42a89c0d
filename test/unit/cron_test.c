/*
 * cron_test.c
 *
 * Tests of src/lib/cron: the grammar and its errors, the next run and clock changes as tables, and
 * a comparison with a second, naive evaluator that walks through real time minute by minute.
 *
 * A stand-alone program; the zones are libc's (TZ is set to the one under test).
 */
#define _DEFAULT_SOURCE
#include "../../src/lib/cron/cron.h"
#include "cron_walk.h"
#include "unit.h"

#include <stdlib.h>
#include <time.h>

#define LENGTH(array) (sizeof(array) / sizeof((array)[0]))

static int32_t
libc_offset(void *context, int64_t utc)
{
    time_t instant = (time_t)utc;
    struct tm local;

    (void)context;
    localtime_r(&instant, &local);
    return (int32_t)local.tm_gmtoff;
}

static const CronZone libc_zone = {libc_offset, NULL};

static void
use_zone(const char *name)
{
    setenv("TZ", name, 1);
    tzset();
}

/* "2024-09-08 04:00" or "... 04:00:00", in UTC */
static int64_t
utc(const char *text)
{
    struct tm tm = {0};

    if (sscanf(text, "%d-%d-%d %d:%d:%d", &tm.tm_year, &tm.tm_mon, &tm.tm_mday, &tm.tm_hour, &tm.tm_min, &tm.tm_sec) <
        5) {
        printf("bad time in a test: %s\n", text);
        exit(2);
    }
    tm.tm_year -= 1900;
    tm.tm_mon -= 1;
    return (int64_t)timegm(&tm);
}

static const char *
show(int64_t instant, char *buffer, size_t size)
{
    time_t value = (time_t)instant;
    struct tm tm;

    gmtime_r(&value, &tm);
    strftime(buffer, size, "%Y-%m-%d %H:%M:%S", &tm);
    return buffer;
}

/* ---- grammar ---- */

#define ALL_MINUTES ((UINT64_C(1) << 60) - 1)
#define ALL_HOURS UINT32_C(0xffffff)
#define ALL_DAYS UINT32_C(0xfffffffe)
#define ALL_MONTHS UINT32_C(0x1ffe)
#define ALL_WEEKDAYS UINT32_C(0x7f)
#define BIT(value) (UINT64_C(1) << (value))

/* Parses what must be accepted; all zeroes when it is not. */
static CronSchedule
parsed(const char *text)
{
    CronSchedule schedule;
    CronError error = {0};

    memset(&schedule, 0, sizeof(schedule));
    if (!CHECK(cron_parse(text, &schedule, &error))) {
        printf("    %s: at %d: %s\n", text, error.position, error.message);
    }
    return schedule;
}

static void
test_field_values(void)
{
    static const struct {
        const char *text;
        uint64_t minutes;
        uint32_t hours, days, months, weekdays;
        const char *stars; /* which of m, h, d, w */
    } cases[] = {
        {"* * * * *", ALL_MINUTES, ALL_HOURS, ALL_DAYS, ALL_MONTHS, ALL_WEEKDAYS, "mhdw"},
        {" \t0\t2  * *\t0 \t", 1, 4, ALL_DAYS, ALL_MONTHS, 1, "d"},
        {"0 3 1 1 1", 1, 8, 2, 2, 2, ""},
        {"59 23 31 12 6", BIT(59), BIT(23), BIT(31), BIT(12), BIT(6), ""},
        {"007 03 09 010 06", BIT(7), BIT(3), BIT(9), BIT(10), BIT(6), ""},
        {"1,3,3,5-7 0 1 1 1", BIT(1) | BIT(3) | BIT(5) | BIT(6) | BIT(7), 1, 2, 2, 2, ""},
        {"*/20 */12 */10 */5 */2", 1 | BIT(20) | BIT(40), 1 | BIT(12), BIT(1) | BIT(11) | BIT(21) | BIT(31),
         BIT(1) | BIT(6) | BIT(11), BIT(0) | BIT(2) | BIT(4) | BIT(6), "mhdw"},
        {"1-9/2 0-23/23 5-5 2-2/1 1-7/3", BIT(1) | BIT(3) | BIT(5) | BIT(7) | BIT(9), 1 | BIT(23), BIT(5), BIT(2),
         BIT(1) | BIT(4) | BIT(0), ""},
        {"*/59 */23 */31 */12 */6", 1 | BIT(59), 1 | BIT(23), BIT(1), BIT(1), 1 | BIT(6), "mhdw"},
        {"5-9/59 0 1 1 1", BIT(5), 1, 2, 2, 2, ""},
        {"*,5 0 1,* * 1,*", ALL_MINUTES, 1, ALL_DAYS, ALL_MONTHS, ALL_WEEKDAYS, "m"},
        {"0 0 * * 7", 1, 1, ALL_DAYS, ALL_MONTHS, 1, "d"},
        {"0 0 * * */7", 1, 1, ALL_DAYS, ALL_MONTHS, 1, "dw"},
        {"0 0 * * 5-7", 1, 1, ALL_DAYS, ALL_MONTHS, BIT(5) | BIT(6) | BIT(0), "d"},
        {"0 0 * * 0-7", 1, 1, ALL_DAYS, ALL_MONTHS, ALL_WEEKDAYS, "d"},
        {"0 0 1 JAN,mar-May sUn,Tue-thu", 1, 1, 2, BIT(1) | BIT(3) | BIT(4) | BIT(5), BIT(0) | BIT(2) | BIT(3) | BIT(4),
         ""},
        {"0 0 1 feb-12/5 mon-7/2", 1, 1, 2, BIT(2) | BIT(7) | BIT(12), BIT(1) | BIT(3) | BIT(5) | BIT(0), ""},
        {"0 0 29 2 *", 1, 1, BIT(29), BIT(2), ALL_WEEKDAYS, "w"},
        {"0 0 31 2 1", 1, 1, BIT(31), BIT(2), BIT(1), ""},
        {"0 0 30-31 2,4 *", 1, 1, BIT(30) | BIT(31), BIT(2) | BIT(4), ALL_WEEKDAYS, "w"},
        {"0 0 ? * ?", 1, 1, ALL_DAYS, ALL_MONTHS, ALL_WEEKDAYS, "dw"},
        {"30-10/20 22-2/2 30-2 11-2 6-1", BIT(30) | BIT(50) | BIT(10), BIT(22) | BIT(0) | BIT(2),
         BIT(30) | BIT(31) | BIT(1) | BIT(2), BIT(11) | BIT(12) | BIT(1) | BIT(2), BIT(6) | BIT(0) | BIT(1), ""},
        {"50/4 20/3 28/2 oct/1 thu/2", BIT(50) | BIT(54) | BIT(58), BIT(20) | BIT(23), BIT(28) | BIT(30),
         BIT(10) | BIT(11) | BIT(12), BIT(4) | BIT(6), ""},
        {"@yearly", 1, 1, 2, 2, ALL_WEEKDAYS, "w"},
        {"@annually", 1, 1, 2, 2, ALL_WEEKDAYS, "w"},
        {"@monthly", 1, 1, 2, ALL_MONTHS, ALL_WEEKDAYS, "w"},
        {"@weekly", 1, 1, ALL_DAYS, ALL_MONTHS, 1, "d"},
        {"@daily", 1, 1, ALL_DAYS, ALL_MONTHS, ALL_WEEKDAYS, "dw"},
        {" @midnight\t", 1, 1, ALL_DAYS, ALL_MONTHS, ALL_WEEKDAYS, "dw"},
        {"@hourly", 1, ALL_HOURS, ALL_DAYS, ALL_MONTHS, ALL_WEEKDAYS, "hdw"},
    };
    size_t i;

    for (i = 0; i < LENGTH(cases); i++) {
        CronSchedule schedule = parsed(cases[i].text);

        if (!CHECK(schedule.kind == CRON_KIND_FIELDS && schedule.interval_seconds == 0 && schedule.seconds == 1 &&
                   schedule.minutes == cases[i].minutes && schedule.hours == cases[i].hours &&
                   schedule.days == cases[i].days && schedule.months == cases[i].months &&
                   schedule.weekdays == cases[i].weekdays && schedule.nth_weekdays == 0 &&
                   schedule.last_weekdays == 0 && schedule.days_to_last == 0 && schedule.nearest == 0 &&
                   schedule.minute_star == (strchr(cases[i].stars, 'm') != NULL) &&
                   schedule.hour_star == (strchr(cases[i].stars, 'h') != NULL) &&
                   schedule.day_star == (strchr(cases[i].stars, 'd') != NULL) &&
                   schedule.weekday_star == (strchr(cases[i].stars, 'w') != NULL))) {
            printf("    %s\n", cases[i].text);
        }
    }
}

/* Days that differ from month to month; the other fields are "0 0 ... * ..." */
static void
test_special_days(void)
{
    static const struct {
        const char *text;
        uint32_t days, weekdays, days_to_last, nearest, last_weekdays;
        uint64_t nth_weekdays;
    } cases[] = {
        {"0 0 $ * *", 0, ALL_WEEKDAYS, 1, 0, 0, 0},
        {"0 0 l * ?", 0, ALL_WEEKDAYS, 1, 0, 0, 0},
        {"0 0 1,15-16,L * *", BIT(1) | BIT(15) | BIT(16), ALL_WEEKDAYS, 1, 0, 0, 0},
        {"0 0 $,L-1,l-30,L-07 * *", 0, ALL_WEEKDAYS, 1 | BIT(1) | BIT(30) | BIT(7), 0, 0, 0},
        {"0 0 LW,1w,031W,2 * *", BIT(2), ALL_WEEKDAYS, 0, 1 | BIT(1) | BIT(31), 0, 0},
        {"0 0 lw * 5", 0, BIT(5), 0, 1, 0, 0},
        {"0 0 * * 5L", ALL_DAYS, 0, 0, 0, BIT(5), 0},
        {"0 0 * * fril,SUNDAYL,7L,monL", ALL_DAYS, 0, 0, 0, BIT(5) | BIT(0) | BIT(1), 0},
        {"0 0 * * 5#2", ALL_DAYS, 0, 0, 0, 0, BIT(7 + 5)},
        {"0 0 1W * 7#1,sat#5,Wednesday#3,1,2L", 0, BIT(1), 0, BIT(1), BIT(2), BIT(0) | BIT(28 + 6) | BIT(14 + 3)},
    };
    size_t i;

    for (i = 0; i < LENGTH(cases); i++) {
        CronSchedule schedule = parsed(cases[i].text);

        if (!CHECK(schedule.days == cases[i].days && schedule.weekdays == cases[i].weekdays &&
                   schedule.days_to_last == cases[i].days_to_last && schedule.nearest == cases[i].nearest &&
                   schedule.last_weekdays == cases[i].last_weekdays && schedule.nth_weekdays == cases[i].nth_weekdays &&
                   schedule.months == ALL_MONTHS)) {
            printf("    %s\n", cases[i].text);
        }
    }
}

/* Two ways to write the same; the second column is the plainest. */
static void
test_same_meaning(void)
{
    static const char *const cases[][2] = {
        {"0 */5 * * * *", "*/5 * * * *"},
        {"0 0 1 january,SEPTEMBER-December monday-Friday", "0 0 1 1,9-12 1-5"},
        {"0 0 * may-july thursday", "0 0 * 5,6,7 4"},
        {"0 0 * * fri-sun", "0 0 * * 5-7"},
        {"0 0 * * 5-0", "0 0 * * 0,5,6"},
        {"0 0 * * fri-mon", "0 0 * * 0,1,5,6"},
        {"0 0 * * 5-1/2", "0 0 * * 5,7"},
        {"0 0 * * fri-tue/3", "0 0 * * 5,1"},
        {"0 0 * * 7-2", "0 0 * * 0,1,2"},
        {"0 0 * * 7-2/2", "0 0 * * 0,2"},
        {"0 0 * * 7-0", "0 0 * * 0"},
        {"0 0 * * 7-7", "0 0 * * 0"},
        {"0 0 * * 7-7/2", "0 0 * * 0"},
        {"0 0 * * 6-7/2", "0 0 * * 6"},
        {"0 0 * * 7-6", "0 0 * * 0-6"},
        {"0 0 * * 0-7", "0 0 * * 0-6"},
        {"0 0 * * sun/2", "0 0 * * 0,2,4,6"},
        {"0 0 * * 7/2", "0 0 * * 0"},
        {"0 0 * * 0/7", "0 0 * * 0"},
        {"0 0 31-1,20/31 nov-jan/2 *", "0 0 1,20,31 1,11 *"},
        {"5/30,7 23-0 * * *", "5,7,35 0,23 * * *"},
        {"@every 90s", "@every 1m30s"},
        {"@every \t 007s ", "7 seconds"},
        {"@every 0d0h0m59s", "59 seconds"},
        {"@every 1d1h1m1s", "@every 90061s"},
        {"@every 366d", "@every 31622400s"},
        {"@every 8784h", "@every 527040m"},
    };
    static const char *const others[][2] = {
        {"*/5 * * * *", "0/5 * * * *"}, /* the star matters on the day of a clock change */
        {"0 0 * * 0", "0 0 ? * */7"},
        {"*/5 * * * *", "@every 5m"},
        {"1 0 0 * * *", "0 0 * * *"},
    };
    size_t i;

    for (i = 0; i < LENGTH(cases); i++) {
        CronSchedule first = parsed(cases[i][0]);
        CronSchedule second = parsed(cases[i][1]);

        if (!CHECK(memcmp(&first, &second, sizeof(first)) == 0)) {
            printf("    %s is not %s\n", cases[i][0], cases[i][1]);
        }
    }
    for (i = 0; i < LENGTH(others); i++) {
        CronSchedule first = parsed(others[i][0]);
        CronSchedule second = parsed(others[i][1]);

        CHECK(memcmp(&first, &second, sizeof(first)) != 0);
    }
}

static void
test_seconds(void)
{
    CHECK(parsed("* * * * * *").seconds == ALL_MINUTES);
    CHECK(parsed("*/15 * * * * *").seconds == (1 | BIT(15) | BIT(30) | BIT(45)));
    CHECK(parsed("59 1 2 3 4 5").seconds == BIT(59));
    CHECK(parsed("58-1 1 2 3 4 5").seconds == (BIT(58) | BIT(59) | BIT(0) | BIT(1)));
    CHECK(parsed("59 1 2 3 4 5").minutes == BIT(1) && parsed("59 1 2 3 4 5").weekdays == BIT(5));
    CHECK(!parsed("* 1 2 * * *").minute_star && parsed("* 1 * * * *").hour_star);
}

static void
test_accessors(void)
{
    static const struct {
        const char *text;
        bool fixed;
    } cases[] = {
        {"0 2 * * 0", true},       {"* * * * *", false},    {"0 * * * *", false},      {"* 2 * * *", false},
        {"0-59 0-23 * * *", true}, {"5,* 2 * * *", true},   {"*/59 2 * * *", false},   {"* 0 2 * * *", true},
        {"30 0 2 * * *", true},    {"30 * * * * *", false}, {"0,30 * * * * *", false}, {"30 seconds", false},
        {"@every 5m", false},      {"@reboot", false},      {"@daily", true},          {"@hourly", false},
    };
    size_t i;

    for (i = 0; i < LENGTH(cases); i++) {
        CronSchedule schedule = parsed(cases[i].text);

        if (!CHECK(cron_is_fixed(&schedule) == cases[i].fixed)) {
            printf("    %s\n", cases[i].text);
        }
    }
}

static void
test_other_kinds(void)
{
    static const struct {
        const char *text;
        int seconds; /* 0: at server start */
    } cases[] = {
        {"1 second", 1},
        {"1 seconds", 1},
        {" 30 sEcOnDs ", 30},
        {"17  seconds\t", 17},
        {"59 seconds", 59},
        {"2 second", 2},
        {"5seconds", 5},
        {"007\tSECONDS", 7},
        {"  @reboot  ", 0},
        {"@restart", 0},
        {"@every 1s", 1},
        {"@every\t5m ", 300},
        {"@every 1h30m", 5400},
        {"@every 1d", 86400},
        {"@every 366d", CRON_INTERVAL_MAX},
        {"@every 365d24h", CRON_INTERVAL_MAX},
        {"@every 90m", 5400},
        {"@every 00000000000000000002h", 7200},
        {"@every 31622400s", CRON_INTERVAL_MAX},
        {"@every 1d2s", 86402},
    };
    size_t i;

    for (i = 0; i < LENGTH(cases); i++) {
        CronSchedule schedule = parsed(cases[i].text);
        int64_t next = 5;

        CHECK(schedule.kind == (cases[i].seconds > 0 ? CRON_KIND_INTERVAL : CRON_KIND_REBOOT));
        CHECK(schedule.interval_seconds == cases[i].seconds);
        CHECK(schedule.seconds == 0 && schedule.minutes == 0 && schedule.days == 0 && !schedule.minute_star);
        CHECK(cron_next(&schedule, NULL, 1000, &next) == (cases[i].seconds > 0));
        CHECK(next == (cases[i].seconds > 0 ? 1000 + cases[i].seconds : 5));
    }
}

static const struct {
    const char *text;
    int position;
    const char *field;
    const char *message;
} error_cases[] = {
    {"", 0, "expression", "expression: empty, expected five or six fields, an @name or \"N seconds\""},
    {" \t ", 3, "expression", "expression: empty, expected five or six fields, an @name or \"N seconds\""},
    {"61 * * * *", 0, "minute", "minute field: value 61 is out of range 0-59"},
    {"* 24 * * *", 2, "hour", "hour field: value 24 is out of range 0-23"},
    {"* * 0 * *", 4, "day-of-month", "day-of-month field: value 0 is out of range 1-31"},
    {"* * 1-32 * *", 6, "day-of-month", "day-of-month field: value 32 is out of range 1-31"},
    {"* * * 13 *", 6, "month", "month field: value 13 is out of range 1-12"},
    {"* * * 0 *", 6, "month", "month field: value 0 is out of range 1-12"},
    {"* * * * 8", 8, "day-of-week", "day-of-week field: value 8 is out of range 0-7"},
    {"99999999999999999999 * * * *", 0, "minute", "minute field: value 99999999999999999999 is out of range 0-59"},
    {"4294967296 * * * *", 0, "minute", "minute field: value 4294967296 is out of range 0-59"},
    {"1,999999999999999999999999999999 * * * *", 2, "minute",
     "minute field: value 999999999999999999999999... is out of range 0-59"},
    {"*/5000000000 * * * *", 2, "minute", "minute field: step 5000000000 is out of range 1-59"},
    {"* * * *", 7, "day-of-week",
     "day-of-week field: missing, expected five fields: minute hour day-of-month month day-of-week, "
     "or six with the second first"},
    {"5 ", 2, "hour",
     "hour field: missing, expected five fields: minute hour day-of-month month day-of-week, "
     "or six with the second first"},
    {"0 0 $", 5, "month",
     "month field: missing, expected five fields: minute hour day-of-month month day-of-week, "
     "or six with the second first"},
    {"* * * * * * *", 12, "expression", "expression: expected end of text after the sixth field, found \"*\""},
    {"0 0 * * * mon root  ", 14, "expression",
     "expression: expected end of text after the sixth field, found \"root\""},
    {"0 0 * * * root", 10, "day-of-week",
     "day-of-week field: unknown name \"root\", expected \"*\", a number 0-7 or a name sun-sat "
     "(six fields: second first)"},
    {"0 2 * * 0 *", 8, "month", "month field: value 0 is out of range 1-12 (six fields: second first)"},
    {"60 2 * * 1 *", 0, "second", "second field: value 60 is out of range 0-59 (six fields: second first)"},
    {"0 */60 * * * *", 4, "minute", "minute field: step 60 is out of range 1-59 (six fields: second first)"},
    {"0 0 24 * * *", 4, "hour", "hour field: value 24 is out of range 0-23 (six fields: second first)"},
    {"0 0 * * *\xc3\xa9", 9, "day-of-week", "day-of-week field: expected \",\" or a blank, found byte 0xc3"},
    {"5x * * * *", 1, "minute", "minute field: expected \",\", \"-\", \"/\" or a blank after value 5, found \"x\""},
    {"1-5x * * * *", 3, "minute", "minute field: expected \",\", \"/\" or a blank after value 5, found \"x\""},
    {"*/5x * * * *", 3, "minute", "minute field: expected \",\" or a blank after step 5, found \"x\""},
    {"0x10 * * * *", 1, "minute", "minute field: expected \",\", \"-\", \"/\" or a blank after value 0, found \"x10\""},
    {"*5 * * * *", 1, "minute", "minute field: expected \",\" or a blank, found \"5\""},
    {"*-5 * * * *", 1, "minute", "minute field: expected \",\" or a blank, found \"-\""},
    {"** * * * *", 1, "minute", "minute field: expected \",\" or a blank, found \"*\""},
    {"1-5-9 * * * *", 3, "minute", "minute field: expected \",\" or a blank, found \"-\""},
    {"*/5/2 * * * *", 3, "minute", "minute field: expected \",\" or a blank, found \"/\""},
    {"5.5 * * * *", 1, "minute", "minute field: expected \",\" or a blank, found \".\""},
    {"5;6 * * * *", 1, "minute", "minute field: expected \",\" or a blank, found \";\""},
    {"1,,2 * * * *", 2, "minute", "minute field: expected \"*\" or a number 0-59, found \",\""},
    {",1 * * * *", 0, "minute", "minute field: expected \"*\" or a number 0-59, found \",\""},
    {"1, * * * *", 2, "minute", "minute field: expected \"*\" or a number 0-59, found a blank"},
    {"0 0 * * 1,", 10, "day-of-week",
     "day-of-week field: expected \"*\", a number 0-7 or a name sun-sat, found end of text"},
    {"1- * * * *", 2, "minute", "minute field: expected \"*\" or a number 0-59, found a blank"},
    {"-1 * * * *", 0, "minute", "minute field: expected \"*\" or a number 0-59, found \"-\""},
    {"-1 seconds", 0, "minute", "minute field: expected \"*\" or a number 0-59, found \"-\""},
    {"? * * * *", 0, "minute", "minute field: expected \"*\" or a number 0-59, found \"?\""},
    {"L 0 1 * *", 0, "minute", "minute field: expected \"*\" or a number 0-59, found \"L\""},
    {"0 0 W * *", 4, "day-of-month", "day-of-month field: expected \"*\", \"L\" or a number 1-31, found \"W\""},
    {"0 0 1,LX * *", 6, "day-of-month", "day-of-month field: expected \"*\", \"L\" or a number 1-31, found \"LX\""},
    {"0 0 L3 * *", 4, "day-of-month", "day-of-month field: expected \"*\", \"L\" or a number 1-31, found \"L3\""},
    {"0 0 mon * *", 4, "day-of-month", "day-of-month field: expected \"*\", \"L\" or a number 1-31, found \"mon\""},
    {"0 0 L- * *", 6, "day-of-month", "day-of-month field: expected a number of days 1-30 after \"-\", found a blank"},
    {"0 0 L-0 * *", 6, "day-of-month", "day-of-month field: number of days 0 is out of range 1-30"},
    {"0 0 L-31 * *", 6, "day-of-month", "day-of-month field: number of days 31 is out of range 1-30"},
    {"0 0 L-3W * *", 7, "day-of-month",
     "day-of-month field: expected \",\" or a blank after number of days 3, found \"W\""},
    {"0 0 LW-3 * *", 6, "day-of-month", "day-of-month field: expected \",\" or a blank, found \"-\""},
    {"0 0 L/2 * *", 5, "day-of-month", "day-of-month field: expected \",\" or a blank, found \"/\""},
    {"0 0 1-L * *", 6, "day-of-month", "day-of-month field: expected \"*\", \"L\" or a number 1-31, found \"L\""},
    {"0 0 0W * *", 4, "day-of-month", "day-of-month field: value 0 is out of range 1-31"},
    {"0 0 15WW * *", 6, "day-of-month",
     "day-of-month field: expected \",\", \"-\", \"/\", \"W\" or a blank after value 15, found \"WW\""},
    {"0 0 1-15W * *", 8, "day-of-month",
     "day-of-month field: expected \",\", \"/\" or a blank after value 15, found \"W\""},
    {"0 0 15W-20 * *", 7, "day-of-month", "day-of-month field: expected \",\" or a blank, found \"-\""},
    {"0 0 15L * *", 6, "day-of-month",
     "day-of-month field: expected \",\", \"-\", \"/\", \"W\" or a blank after value 15, found \"L\""},
    {"0 0 15#2 * *", 6, "day-of-month", "day-of-month field: expected \",\" or a blank, found \"#\""},
    {"0 5W 1 * *", 3, "hour", "hour field: expected \",\", \"-\", \"/\" or a blank after value 5, found \"W\""},
    {"0 0 * * L", 8, "day-of-week", "day-of-week field: expected a day before \"L\", such as 5L or friL"},
    {"0 0 * * 1,l", 10, "day-of-week", "day-of-week field: expected a day before \"L\", such as 5L or friL"},
    {"0 0 * * 5W", 9, "day-of-week",
     "day-of-week field: expected \",\", \"-\", \"/\", \"#\", \"L\" or a blank after value 5, found \"W\""},
    {"0 0 * * 8L", 8, "day-of-week", "day-of-week field: value 8 is out of range 0-7"},
    {"0 0 * * mon-friL", 15, "day-of-week",
     "day-of-week field: expected \",\", \"/\" or a blank after value fri, found \"L\""},
    {"0 0 * * friL#2", 12, "day-of-week", "day-of-week field: expected \",\" or a blank, found \"#\""},
    {"0 0 * * 5#", 10, "day-of-week", "day-of-week field: expected a week 1-5 after \"#\", found end of text"},
    {"0 0 * * 5#6", 10, "day-of-week", "day-of-week field: week 6 is out of range 1-5"},
    {"0 0 * * fri#0", 12, "day-of-week", "day-of-week field: week 0 is out of range 1-5"},
    {"0 0 * * 5#2L", 11, "day-of-week", "day-of-week field: expected \",\" or a blank after week 2, found \"L\""},
    {"0 0 * * 1-5#2", 11, "day-of-week", "day-of-week field: expected \",\" or a blank, found \"#\""},
    {"0 0 * * 5#2/2", 11, "day-of-week", "day-of-week field: expected \",\" or a blank, found \"/\""},
    {"0 0 * 5#2 *", 7, "month", "month field: expected \",\" or a blank, found \"#\""},
    {"0 0 ?,1 * *", 5, "day-of-month", "day-of-month field: \"?\" stands alone, found \",\" after it"},
    {"0 0 1 * ?/2", 9, "day-of-week", "day-of-week field: \"?\" stands alone, found \"/\" after it"},
    {"0 0 1 * 1,?", 10, "day-of-week", "day-of-week field: \"?\" stands alone in its field"},
    {"0 0 1 ? *", 6, "month", "month field: expected \"*\", a number 1-12 or a name jan-dec, found \"?\""},
    {"? 0 0 1 * *", 0, "second",
     "second field: expected \"*\" or a number 0-59, found \"?\" (six fields: second first)"},
    {"*/0 * * * *", 2, "minute", "minute field: step 0 is out of range 1-59"},
    {"*/60 * * * *", 2, "minute", "minute field: step 60 is out of range 1-59"},
    {"0 1-5/24 * * *", 6, "hour", "hour field: step 24 is out of range 1-23"},
    {"0 0 */32 * *", 6, "day-of-month", "day-of-month field: step 32 is out of range 1-31"},
    {"*/ * * * *", 2, "minute", "minute field: expected a step 1-59 after \"/\", found a blank"},
    {"*/-1 * * * *", 2, "minute", "minute field: expected a step 1-59 after \"/\", found \"-\""},
    {"0 0 1 */feb *", 8, "month", "month field: expected a step 1-12 after \"/\", found \"feb\""},
    {"5/60 * * * *", 2, "minute", "minute field: step 60 is out of range 1-59"},
    {"0 22-2/24 * * *", 7, "hour", "hour field: step 24 is out of range 1-23"},
    {"0 0 * * 1/8", 10, "day-of-week", "day-of-week field: step 8 is out of range 1-7"},
    {"5/10-20 * * * *", 4, "minute", "minute field: expected \",\" or a blank, found \"-\""},
    {"0 0 1 foo *", 6, "month", "month field: unknown name \"foo\", expected \"*\", a number 1-12 or a name jan-dec"},
    {"0 0 1 sept *", 6, "month", "month field: unknown name \"sept\", expected \"*\", a number 1-12 or a name jan-dec"},
    {"0 0 1 januaryl *", 6, "month",
     "month field: unknown name \"januaryl\", expected \"*\", a number 1-12 or a name jan-dec"},
    {"0 0 1 * tuesd", 8, "day-of-week",
     "day-of-week field: unknown name \"tuesd\", expected \"*\", a number 0-7 or a name sun-sat"},
    {"0 0 1 * 1,mondays", 10, "day-of-week",
     "day-of-week field: unknown name \"mondays\", expected \"*\", a number 0-7 or a name sun-sat"},
    {"0 0 1 * mo", 8, "day-of-week",
     "day-of-week field: unknown name \"mo\", expected \"*\", a number 0-7 or a name sun-sat"},
    {"mon 0 1 * *", 0, "minute", "minute field: expected \"*\" or a number 0-59, found \"mon\""},
    {"0 0 $foo * *", 5, "day-of-month", "day-of-month field: expected \",\" or a blank after day $, found \"foo\""},
    {"0 0 $-3 * *", 5, "day-of-month", "day-of-month field: expected \",\" or a blank, found \"-\""},
    {"0 0 $W * *", 5, "day-of-month", "day-of-month field: expected \",\" or a blank after day $, found \"W\""},
    {"$ 0 1 * *", 0, "minute", "minute field: expected \"*\" or a number 0-59, found \"$\""},
    {"0 0 31 2 *", 4, "day-of-month",
     "day-of-month field: this would never fire, expected a day that exists in the months and weekdays chosen"},
    {" 0 0  30 2 *", 6, "day-of-month",
     "day-of-month field: this would never fire, expected a day that exists in the months and weekdays chosen"},
    {"0 0 31 2,4,6,9,11 */2", 4, "day-of-month",
     "day-of-month field: this would never fire, expected a day that exists in the months and weekdays chosen"},
    {"0 0 30W 2 *", 4, "day-of-month",
     "day-of-month field: this would never fire, expected a day that exists in the months and weekdays chosen"},
    {"0 0 L-30 4,6 ?", 4, "day-of-month",
     "day-of-month field: this would never fire, expected a day that exists in the months and weekdays chosen"},
    {"0 0 L-29,31 2 ?", 4, "day-of-month",
     "day-of-month field: this would never fire, expected a day that exists in the months and weekdays chosen"},
    {"1 0 0 30 FEBRUARY *", 6, "day-of-month",
     "day-of-month field: this would never fire, expected a day that exists in the months and weekdays chosen"},
    {"0 0 15W * */6", 4, "day-of-month",
     "day-of-month field: this would never fire, expected a day that exists in the months and weekdays chosen"},
    {"0 0 29 2 */7", 4, "day-of-month",
     "day-of-month field: such days are up to 40 years apart in the months and weekdays chosen, "
     "expected at most 8 years"},
    {"0 0 29 9 */7", 4, "day-of-month",
     "day-of-month field: such days are up to 12 years apart in the months and weekdays chosen, "
     "expected at most 8 years"},
    {" 0  0 ? feb mon#5", 12, "day-of-week",
     "day-of-week field: such days are up to 40 years apart in the months and weekdays chosen, "
     "expected at most 8 years"},
    {"0 0 L-28 2 */7", 4, "day-of-month",
     "day-of-month field: such days are up to 40 years apart in the months and weekdays chosen, "
     "expected at most 8 years"},
    {"0 0 1 1 */7", 4, "day-of-month",
     "day-of-month field: such days are up to 11 years apart in the months and weekdays chosen, "
     "expected at most 8 years"},
    {"0 seconds", 0, "interval",
     "interval: value 0 is out of range 1-59 seconds; \"@every 90s\" or the like can be longer"},
    {"60 seconds", 0, "interval",
     "interval: value 60 is out of range 1-59 seconds; \"@every 90s\" or the like can be longer"},
    {" 10000000000 seconds", 1, "interval",
     "interval: value 10000000000 is out of range 1-59 seconds; \"@every 90s\" or the like can be longer"},
    {"5 secondc", 2, "interval", "interval: unknown unit \"secondc\", expected \"seconds\""},
    {"5 minutes", 2, "interval", "interval: unknown unit \"minutes\", expected \"seconds\""},
    {"5s", 1, "interval", "interval: unknown unit \"s\", expected \"seconds\""},
    {"50 seconds c", 11, "interval", "interval: expected end of text after \"seconds\", found \"c\""},
    {"5 seconds, ", 9, "interval", "interval: expected end of text after \"seconds\", found \",\""},
    {"@restar", 0, "expression",
     "expression: unknown name \"@restar\", expected @yearly, @annually, @monthly, @weekly, @daily, "
     "@midnight, @hourly, @every or @reboot"},
    {" @Daily", 1, "expression",
     "expression: unknown name \"@Daily\", expected @yearly, @annually, @monthly, @weekly, @daily, "
     "@midnight, @hourly, @every or @reboot"},
    {"@daily 5", 7, "expression", "expression: expected end of text after @daily, found \"5\""},
    {"@reboot, ", 7, "expression", "expression: expected end of text after @reboot, found \",\""},
    {"@every", 6, "interval", "interval: expected a duration such as 90s, 5m or 1d12h, found end of text"},
    {"@every x", 7, "interval", "interval: expected a duration such as 90s, 5m or 1d12h, found \"x\""},
    {"@every -5m", 7, "interval", "interval: expected a duration such as 90s, 5m or 1d12h, found \"-\""},
    {"@every 5", 8, "interval", "interval: expected a unit d, h, m or s after 5, found end of text"},
    {"@every 5 m", 8, "interval", "interval: expected a unit d, h, m or s after 5, found a blank"},
    {"@every 5M", 8, "interval", "interval: expected a unit d, h, m or s after 5, found \"M\""},
    {"@every 5min", 9, "interval", "interval: expected a duration such as 90s, 5m or 1d12h, found \"in\""},
    {"@every 1.5h", 8, "interval", "interval: expected a unit d, h, m or s after 1, found \".\""},
    {"@every 5m1h", 10, "interval",
     "interval: unexpected unit \"h\", expected each of d, h, m and s at most once and in this order"},
    {"@every 5m5m", 10, "interval",
     "interval: unexpected unit \"m\", expected each of d, h, m and s at most once and in this order"},
    {"@every 1h 30m", 10, "interval", "interval: expected end of text after the duration, found \"30m\""},
    {"@every 0s", 7, "interval", "interval: the duration is out of range 1 second to 366 days"},
    {"@every 366d1s", 7, "interval", "interval: the duration is out of range 1 second to 366 days"},
    {"@every 31622401s", 7, "interval", "interval: the duration is out of range 1 second to 366 days"},
    {"@every 99999999999999999999999999d", 7, "interval",
     "interval: the duration is out of range 1 second to 366 days"},
    {"@every5m", 0, "expression",
     "expression: unknown name \"@every5m\", expected @yearly, @annually, @monthly, @weekly, @daily, "
     "@midnight, @hourly, @every or @reboot"},
    {"@Every 5m", 0, "expression",
     "expression: unknown name \"@Every\", expected @yearly, @annually, @monthly, @weekly, @daily, "
     "@midnight, @hourly, @every or @reboot"},
    {"0 0 * * *\n", 9, "expression", "expression: control character 0x0a is not allowed"},
    {"* *\x7f * * *", 3, "expression", "expression: control character 0x7f is not allowed"},
    {"* * * * \x01", 8, "expression", "expression: control character 0x01 is not allowed"},
};

static void
test_errors(void)
{
    size_t i;

    for (i = 0; i < LENGTH(error_cases); i++) {
        CronSchedule schedule;
        CronSchedule untouched;
        CronError error = {-1, NULL, ""};

        memset(&schedule, 0x5a, sizeof(schedule));
        memset(&untouched, 0x5a, sizeof(untouched));
        if (!CHECK(!cron_parse(error_cases[i].text, &schedule, &error))) {
            printf("    accepted: %s\n", error_cases[i].text);
            continue;
        }
        CHECK_STR(error.message, error_cases[i].message);
        CHECK_STR(error.field, error_cases[i].field);
        CHECK(memcmp(&schedule, &untouched, sizeof(schedule)) == 0);
        if (!CHECK(error.position == error_cases[i].position)) {
            printf("    \"%s\": position %d, expected %d\n", error_cases[i].text, error.position,
                   error_cases[i].position);
        }
        CHECK(!cron_parse(error_cases[i].text, &schedule, NULL));
    }
}

static void
test_length_limit(void)
{
    char text[CRON_TEXT_MAX + 2];
    CronSchedule schedule;
    CronError error;

    memset(text, ' ', sizeof(text));
    memcpy(text, "* * * * *", 9);
    text[CRON_TEXT_MAX + 1] = '\0';
    CHECK(!cron_parse(text, &schedule, &error));
    CHECK(error.position == CRON_TEXT_MAX);
    CHECK_STR(error.message, "expression: longer than 999 bytes");
    text[CRON_TEXT_MAX] = '\0';
    CHECK(cron_parse(text, &schedule, &error));
}

/* ---- next run ---- */

typedef struct NextCase {
    const char *zone;
    const char *text;
    const char *after;    /* UTC */
    const char *fires[4]; /* UTC, in order; fewer than four: the rest is not looked at */
} NextCase;

static void
run_next_cases(const NextCase *cases, size_t count)
{
    size_t i;

    for (i = 0; i < count; i++) {
        CronSchedule schedule;
        int64_t after = utc(cases[i].after);
        size_t fire;

        use_zone(cases[i].zone);
        if (!CHECK(cron_parse(cases[i].text, &schedule, NULL))) {
            printf("    %s\n", cases[i].text);
            continue;
        }
        for (fire = 0; fire < LENGTH(cases[i].fires) && cases[i].fires[fire] != NULL; fire++) {
            int64_t next = 0;
            char buffer[32];

            if (!CHECK(cron_next(&schedule, &libc_zone, after, &next) && next == utc(cases[i].fires[fire]))) {
                printf("    %s, %s after %s: %s, expected %s\n", cases[i].zone, cases[i].text, cases[i].after,
                       show(next, buffer, sizeof(buffer)), cases[i].fires[fire]);
            }
            after = utc(cases[i].fires[fire]);
        }
    }
}

static void
test_calendar(void)
{
    static const NextCase cases[] = {
        {"UTC", "* * * * *", "2024-01-01 00:00:00", {"2024-01-01 00:01", "2024-01-01 00:02"}},
        {"UTC", "* * * * *", "2024-01-01 00:00:59", {"2024-01-01 00:01"}},
        {"UTC", "* * * * *", "2023-12-31 23:59:59", {"2024-01-01 00:00"}},
        {"UTC", "*/15 9-10 * * *", "2024-01-01 10:30", {"2024-01-01 10:45", "2024-01-02 09:00"}},
        {"UTC", "0 2 * * 0", "2024-02-25 02:00", {"2024-03-03 02:00", "2024-03-10 02:00"}},
        {"UTC", "0 0 29 2 *", "2023-01-01 00:00", {"2024-02-29 00:00", "2028-02-29 00:00"}},
        {"UTC", "0 0 29 2 *", "2096-02-29 00:00", {"2104-02-29 00:00"}},
        {"UTC", "0 0 29 2 *", "1896-02-29 00:00", {"1904-02-29 00:00"}},
        {"UTC", "0 0 29W 2 *", "2095-01-01 00:00", {"2096-02-29 00:00", "2104-02-29 00:00"}},
        {"UTC", "0 0 31 * *", "2024-01-31 00:00", {"2024-03-31 00:00", "2024-05-31 00:00"}},
        {"UTC", "0 0 31 2 1", "2024-02-26 00:00", {"2025-02-03 00:00", "2025-02-10 00:00"}},
        {"UTC",
         "0 0 13 * 5",
         "2024-09-12 00:00",
         {"2024-09-13 00:00", "2024-09-20 00:00", "2024-09-27 00:00", "2024-10-04 00:00"}},
        {"UTC", "0 0 */2 * 1", "2024-04-01 00:00", {"2024-04-15 00:00", "2024-04-29 00:00"}},
        {"UTC", "0 0 1-7 * */7", "2024-04-01 00:00", {"2024-04-07 00:00", "2024-05-05 00:00"}},
        {"UTC",
         "0 12 $ * *",
         "2024-01-31 12:00",
         {"2024-02-29 12:00", "2024-03-31 12:00", "2024-04-30 12:00", "2024-05-31 12:00"}},
        {"UTC", "0 12 $ 2 *", "2100-01-01 00:00", {"2100-02-28 12:00", "2101-02-28 12:00"}},
        {"UTC", "0 0 $ * 1", "2024-02-20 00:00", {"2024-02-26 00:00", "2024-02-29 00:00", "2024-03-04 00:00"}},
        {"UTC", "0 0 $ * */7", "2024-02-20 00:00", {"2024-03-31 00:00", "2024-06-30 00:00"}},
        /* 31 August 2024 is a Saturday, 1 September and 1 December are Sundays, 1 June and 1 February 2025 Saturdays */
        {"UTC",
         "0 9 L-1,L-30 * *",
         "2024-02-01 00:00",
         {"2024-02-28 09:00", "2024-03-01 09:00", "2024-03-30 09:00", "2024-04-29 09:00"}},
        {"UTC", "0 9 L-29 * *", "2024-02-02 00:00", {"2024-03-02 09:00", "2024-04-01 09:00", "2024-05-02 09:00"}},
        {"UTC",
         "0 0 LW * *",
         "2024-05-01 00:00",
         {"2024-05-31 00:00", "2024-06-28 00:00", "2024-07-31 00:00", "2024-08-30 00:00"}},
        {"UTC",
         "0 0 1W * *",
         "2024-05-02 00:00",
         {"2024-06-03 00:00", "2024-07-01 00:00", "2024-08-01 00:00", "2024-09-02 00:00"}},
        {"UTC", "0 0 15W 6,9,12 *", "2024-01-01 00:00", {"2024-06-14 00:00", "2024-09-16 00:00", "2024-12-16 00:00"}},
        {"UTC",
         "0 0 31W * *",
         "2024-01-31 00:00",
         {"2024-03-29 00:00", "2024-05-31 00:00", "2024-07-31 00:00", "2024-08-30 00:00"}},
        {"UTC", "0 0 30W 6 *", "2024-01-01 00:00", {"2024-06-28 00:00", "2025-06-30 00:00"}},
        {"UTC", "0 0 28W 2 *", "2026-01-01 00:00", {"2026-02-27 00:00", "2027-02-26 00:00", "2028-02-28 00:00"}},
        {"UTC",
         "0 0 1,15,L,LW * ?",
         "2024-08-01 00:00",
         {"2024-08-15 00:00", "2024-08-30 00:00", "2024-08-31 00:00", "2024-09-01 00:00"}},
        {"UTC", "0 0 * * 5#2", "2024-09-01 00:00", {"2024-09-13 00:00", "2024-10-11 00:00"}},
        {"UTC", "0 0 * * sun#1", "2024-08-05 00:00", {"2024-09-01 00:00", "2024-10-06 00:00"}},
        {"UTC", "0 0 ? * 5#5", "2024-09-01 00:00", {"2024-11-29 00:00", "2025-01-31 00:00"}},
        {"UTC", "0 0 * * friL", "2024-08-01 00:00", {"2024-08-30 00:00", "2024-09-27 00:00", "2024-10-25 00:00"}},
        {"UTC",
         "0 0 * 2 saturdayL,0L",
         "2026-01-01 00:00",
         {"2026-02-22 00:00", "2026-02-28 00:00", "2027-02-27 00:00", "2027-02-28 00:00"}},
        {"UTC",
         "0 0 13 * 1,5#2,3L",
         "2024-09-10 00:00",
         {"2024-09-13 00:00", "2024-09-16 00:00", "2024-09-23 00:00", "2024-09-25 00:00"}},
        {"UTC", "0 0 */2 * 5#2", "2024-08-01 00:00", {"2024-08-09 00:00", "2024-09-13 00:00", "2024-10-11 00:00"}},
        {"UTC", "0 0 LW * */5", "2024-08-01 00:00", {"2024-08-30 00:00", "2024-11-29 00:00", "2025-01-31 00:00"}},
        {"UTC",
         "0 22-2/2 * * *",
         "2024-01-01 01:00",
         {"2024-01-01 02:00", "2024-01-01 22:00", "2024-01-02 00:00", "2024-01-02 02:00"}},
        {"UTC",
         "*/7 * * * * *",
         "2024-01-01 00:00:50",
         {"2024-01-01 00:00:56", "2024-01-01 00:01:00", "2024-01-01 00:01:07"}},
        {"UTC", "59 59 23 31 12 *", "2024-01-01 00:00", {"2024-12-31 23:59:59", "2025-12-31 23:59:59"}},
        {"UTC",
         "10,50 0,30 6 * * 1",
         "2024-01-01 06:00:30",
         {"2024-01-01 06:00:50", "2024-01-01 06:30:10", "2024-01-01 06:30:50", "2024-01-08 06:00:10"}},
        {"UTC", "@yearly", "2024-01-01 00:00", {"2025-01-01 00:00", "2026-01-01 00:00"}},
        {"UTC", "@weekly", "2024-01-01 00:00", {"2024-01-07 00:00", "2024-01-14 00:00"}},
        {"UTC", "59 23 31 12 *", "1969-12-31 23:58", {"1969-12-31 23:59", "1970-12-31 23:59"}},
        {"UTC", "0 0 1 1 *", "1600-01-02 00:00", {"1601-01-01 00:00"}},
        {"Asia/Kathmandu", "0 0 * * *", "2024-01-01 00:00", {"2024-01-01 18:15"}},
        {"Asia/Kathmandu", "*/30 * * * *", "2024-01-01 00:00", {"2024-01-01 00:15", "2024-01-01 00:45"}},
        {"America/Santiago", "0 2 * * 0", "2024-01-07 04:00", {"2024-01-07 05:00", "2024-01-14 05:00"}},
        {"Pacific/Kiritimati", "0 0 1 1 *", "2023-06-01 00:00", {"2023-12-31 10:00"}},
    };

    run_next_cases(cases, LENGTH(cases));
}

static void
test_clock_changes(void)
{
    static const NextCase cases[] = {
        /* Santiago, 8 September 2024: 00:00 becomes 01:00 at 04:00 UTC */
        {"America/Santiago", "@daily", "2024-09-07 04:00", {"2024-09-08 04:00", "2024-09-09 03:00"}},
        {"America/Santiago", "30 0 * * *", "2024-09-07 05:00", {"2024-09-08 04:00", "2024-09-09 03:30"}},
        {"America/Santiago",
         "0,20,40 0,1 8 9 *",
         "2024-09-01 00:00",
         {"2024-09-08 04:00", "2024-09-08 04:20", "2024-09-08 04:40", "2025-09-08 03:00"}},
        {"America/Santiago", "*/30 0 * * *", "2024-09-07 04:30", {"2024-09-09 03:00"}},
        {"America/Santiago",
         "@hourly",
         "2024-09-08 02:30",
         {"2024-09-08 03:00", "2024-09-08 04:00", "2024-09-08 05:00"}},
        /* ... and only its Sunday has the gap */
        {"America/Santiago", "0 0 * * 0", "2024-09-02 00:00", {"2024-09-08 04:00", "2024-09-15 03:00"}},
        /* Santiago, 6 April 2024: 24:00 becomes 23:00 at 03:00 UTC on the 7th */
        {"America/Santiago", "30 23 * * *", "2024-04-06 03:00", {"2024-04-07 02:30", "2024-04-08 03:30"}},
        {"America/Santiago", "30 23 * * *", "2024-04-07 03:10", {"2024-04-08 03:30"}},
        {"America/Santiago",
         "*/30 23 * * *",
         "2024-04-07 01:30",
         {"2024-04-07 02:00", "2024-04-07 02:30", "2024-04-07 03:00", "2024-04-07 03:30"}},
        {"America/Santiago", "@daily", "2024-04-06 03:00", {"2024-04-07 04:00", "2024-04-08 04:00"}},
        {"America/Santiago",
         "@hourly",
         "2024-04-07 01:30",
         {"2024-04-07 02:00", "2024-04-07 03:00", "2024-04-07 04:00"}},
        /* Berlin, 31 March 2024: 02:00 becomes 03:00 at 01:00 UTC */
        {"Europe/Berlin", "30 2 * * *", "2024-03-30 02:00", {"2024-03-31 01:00", "2024-04-01 00:30"}},
        {"Europe/Berlin",
         "30 2,3 * * *",
         "2024-03-30 03:00",
         {"2024-03-31 01:00", "2024-03-31 01:30", "2024-04-01 00:30"}},
        {"Europe/Berlin", "0 3 * * *", "2024-03-30 02:00", {"2024-03-31 01:00", "2024-04-01 01:00"}},
        {"Europe/Berlin", "15 * * * *", "2024-03-30 23:30", {"2024-03-31 00:15", "2024-03-31 01:15"}},
        {"Europe/Berlin", "*/20 2 * * *", "2024-03-30 02:00", {"2024-04-01 00:00"}},
        {"Europe/Berlin",
         "*/20 30 2 * * *",
         "2024-03-30 01:30:20",
         {"2024-03-30 01:30:40", "2024-03-31 01:00:00", "2024-04-01 00:30:00", "2024-04-01 00:30:20"}},
        {"Europe/Berlin", "45 59 1,2 * * *", "2024-03-31 00:00", {"2024-03-31 00:59:45", "2024-03-31 01:00:00"}},
        {"Europe/Berlin",
         "*/30 59 * * * *",
         "2024-03-31 00:59:00",
         {"2024-03-31 00:59:30", "2024-03-31 01:59:00", "2024-03-31 01:59:30"}},
        {"Europe/Berlin", "0 2 L 3 *", "2024-01-01 00:00", {"2024-03-31 01:00", "2025-03-31 00:00"}},
        {"Europe/Berlin", "30 2 * 3 sunL", "2024-01-01 00:00", {"2024-03-31 01:00", "2025-03-30 01:00"}},
        /* Berlin, 27 October 2024: 03:00 becomes 02:00 at 01:00 UTC */
        {"Europe/Berlin", "30 2 * * *", "2024-10-26 02:00", {"2024-10-27 00:30", "2024-10-28 01:30"}},
        {"Europe/Berlin", "0,30 2 * * *", "2024-10-27 00:15", {"2024-10-27 00:30", "2024-10-28 01:00"}},
        {"Europe/Berlin",
         "*/30 2 * * *",
         "2024-10-26 23:59",
         {"2024-10-27 00:00", "2024-10-27 00:30", "2024-10-27 01:00", "2024-10-27 01:30"}},
        {"Europe/Berlin",
         "15,45 30 2 * * *",
         "2024-10-27 00:30:20",
         {"2024-10-27 00:30:45", "2024-10-28 01:30:15", "2024-10-28 01:30:45"}},
        {"Europe/Berlin",
         "15 30 */2 * * *",
         "2024-10-27 00:00:00",
         {"2024-10-27 00:30:15", "2024-10-27 01:30:15", "2024-10-27 03:30:15"}},
        {"Europe/Berlin", "30 2 27 10 *", "2024-10-27 00:30", {"2025-10-27 01:30"}},
        /* Lord Howe, 6 October 2024: 02:00 becomes 02:30 at 15:30 UTC on the 5th */
        {"Australia/Lord_Howe", "15 2 * * *", "2024-10-05 00:00", {"2024-10-05 15:30", "2024-10-06 15:15"}},
        {"Australia/Lord_Howe",
         "15,30,45 2 * * *",
         "2024-10-05 00:00",
         {"2024-10-05 15:30", "2024-10-05 15:45", "2024-10-06 15:15"}},
        {"Australia/Lord_Howe",
         "*/15 * * * *",
         "2024-10-05 15:14",
         {"2024-10-05 15:15", "2024-10-05 15:30", "2024-10-05 15:45"}},
        /* Lord Howe, 7 April 2024: 02:00 becomes 01:30 at 15:00 UTC on the 6th */
        {"Australia/Lord_Howe", "45 1 * * *", "2024-04-06 00:00", {"2024-04-06 14:45", "2024-04-07 15:15"}},
        {"Australia/Lord_Howe",
         "45 * * * *",
         "2024-04-06 14:00",
         {"2024-04-06 14:45", "2024-04-06 15:15", "2024-04-06 16:15"}},
        /* Samoa had no 30 December 2011; the fixed time moves to the day after */
        {"Pacific/Apia", "0 6 * * *", "2011-12-29 17:00", {"2011-12-30 10:00", "2011-12-30 16:00", "2011-12-31 16:00"}},
        {"Pacific/Apia", "0 */6 30 12 *", "2011-12-29 17:00", {"2012-12-29 10:00"}},
        /* Kwajalein had most of 30 September 1969 twice: 11 hours ahead became 12 behind */
        {"Pacific/Kwajalein", "0 6 * * *", "1969-09-29 12:00", {"1969-09-29 19:00", "1969-10-01 18:00"}},
        {"Pacific/Kwajalein",
         "0 */12 * * *",
         "1969-09-29 12:00",
         {"1969-09-29 13:00", "1969-09-30 01:00", "1969-10-01 00:00", "1969-10-01 12:00"}},
        /* local mean time: 4:42:45 behind UTC */
        {"America/Santiago", "*/30 * * * *", "1880-01-01 00:00", {"1880-01-01 00:12:45"}},
    };

    run_next_cases(cases, LENGTH(cases));
}

static int32_t
wild_offset(void *context, int64_t instant)
{
    return instant % 2 == 0 ? *(int32_t *)context : -*(int32_t *)context;
}

static void
test_limits(void)
{
    static const int64_t first = INT64_C(-62135596800);
    static const int64_t last = INT64_C(253402300799);
    static int32_t extremes[] = {86400, INT32_MAX, 50400, 0};
    CronSchedule minutely;
    CronSchedule yearly;
    CronSchedule never_in_berlin;
    CronSchedule interval;
    CronZone nowhere = {NULL, NULL};
    int64_t next = 7;
    size_t i;

    CHECK(cron_parse("* * * * *", &minutely, NULL) && cron_parse("@yearly", &yearly, NULL));
    CHECK(cron_parse("59 seconds", &interval, NULL));

    CHECK(!cron_next(&minutely, NULL, INT64_MIN, &next));
    CHECK(!cron_next(&minutely, NULL, INT64_MAX, &next));
    CHECK(!cron_next(&interval, NULL, INT64_MAX, &next));
    CHECK(!cron_next(&interval, NULL, last, &next));
    CHECK(!cron_next(&yearly, NULL, first - 1, &next));
    CHECK(!cron_next(&yearly, NULL, last + 1, &next));
    CHECK(!cron_next(&yearly, NULL, last - 1, &next));
    CHECK(!cron_next(&minutely, NULL, last, &next));
    CHECK(!cron_next(&minutely, NULL, last - 59, &next) && next == 7);
    CHECK(cron_next(&minutely, NULL, last - 60, &next) && next == last - 59);
    CHECK(cron_next(&minutely, NULL, first, &next) && next == first + 60);
    CHECK(cron_next(&yearly, NULL, first, &next) && next == first + INT64_C(365) * 86400);
    CHECK(cron_next(&yearly, &nowhere, 0, &next) && next == INT64_C(365) * 86400);
    CHECK(cron_next(&interval, NULL, last - 59, &next) && next == last);

    /* 2:00 on the last Sunday of March is always jumped over: the wildcard never sees it */
    use_zone("Europe/Berlin");
    CHECK(cron_parse("* 2 25-31 3 */7", &never_in_berlin, NULL));
    CHECK(!cron_next(&never_in_berlin, &libc_zone, utc("2024-01-01 00:00"), &next));
    CHECK(cron_next(&never_in_berlin, NULL, utc("2024-01-01 00:00"), &next) && next == utc("2024-03-31 02:00"));

    /* a zone gone mad must neither overflow nor hang */
    for (i = 0; i < LENGTH(extremes); i++) {
        CronZone mad = {wild_offset, &extremes[i]};

        CHECK(!cron_next(&yearly, &mad, last, &next) || next <= last);
        CHECK(!cron_next(&minutely, &mad, last - 60, &next) || next <= last);
        CHECK(cron_next(&minutely, &mad, first, &next) && next > first);
        CHECK(cron_next(&yearly, &mad, first, &next) && next > first);
        CHECK(cron_next(&yearly, &mad, 0, &next) && next > 0);
    }
}

/* ---- comparison with the naive evaluator ---- */

/* The first instant from `from` on, an hour's precision, at which the zone's offset differs. */
static int64_t
next_clock_change(int64_t from)
{
    int32_t offset = libc_offset(NULL, from);
    int hour;

    for (hour = 0; hour < 366 * 24; hour++) {
        if (libc_offset(NULL, from + hour * INT64_C(3600)) != offset) {
            break;
        }
    }
    return from + hour * INT64_C(3600);
}

/* cron_next from an instant must give the first walked fire after it, or one beyond the walk. */
static bool
agrees_with_walk(const CronSchedule *schedule, int64_t after, int count, int64_t *expected)
{
    int64_t end = walk_start + INT64_C(60) * WALK_MINUTES;
    int64_t next = end;
    int i = 0;
    int high = count;

    while (i < high) {
        int middle = i + (high - i) / 2;

        if (walk_fires[middle] <= after) {
            i = middle + 1;
        } else {
            high = middle;
        }
    }
    *expected = i < count ? walk_fires[i] : end;
    if (!cron_next(schedule, &libc_zone, after, &next)) {
        return i == count; /* a wildcard whose every candidate is in a gap */
    }
    return i < count ? next == walk_fires[i] : next >= end;
}

static void
compare_expression(const char *zone, int64_t focus)
{
    WalkExpression expression;
    CronSchedule schedule;
    CronError error = {0, NULL, ""};
    int64_t first = walk_start + INT64_C(86400) * WALK_LEAD_DAYS;
    int64_t after = focus - walk_random(7200);
    int64_t expected = 0;
    int count;
    int probe;

    walk_make_expression(&expression);
    if (!cron_parse(expression.text, &schedule, &error)) {
        if (!CHECK(strstr(error.message, "never fire") != NULL || strstr(error.message, "at most 8 years") != NULL) ||
            !CHECK((walk_widest_gap(&expression) == 0) == (strstr(error.message, "never fire") != NULL)) ||
            !CHECK(walk_widest_gap(&expression) == 0 || walk_widest_gap(&expression) > CRON_WIDEST_GAP)) {
            printf("    %s: %s\n", expression.text, error.message);
        }
        return;
    }
    if (walk_random(20) == 0) {
        int gap = walk_widest_gap(&expression);

        if (!CHECK(gap > 0 && gap <= CRON_WIDEST_GAP)) {
            printf("    %s: dates %d days apart are accepted\n", expression.text, gap);
        }
    }

    count = walk_run(&expression);
    for (probe = 0; probe < 24; probe++) {
        if (!agrees_with_walk(&schedule, after, count, &expected)) {
            char from[32];
            char to[32];

            CHECK(!"cron_next agrees with the walk");
            printf("    %s, %s after %s: expected %s\n", zone, expression.text, show(after, from, sizeof(from)),
                   show(expected, to, sizeof(to)));
            return;
        }
        /* from fire to fire at first, then from anywhere */
        after = probe < 10 && expected < walk_start + INT64_C(60) * WALK_MINUTES
                    ? expected
                    : first + walk_random(INT64_C(86400) * (WALK_DAYS - WALK_LEAD_DAYS));
    }
    CHECK(true);
}

static void
test_against_walk(void)
{
    static const char *const zones[] = {"America/Santiago", "Europe/Berlin", "Australia/Lord_Howe", "UTC"};
    int64_t begin = utc("2020-01-01 00:00");
    int64_t span = utc("2040-01-01 00:00") - begin;
    size_t i;
    int window;
    int expression;

    for (i = 0; i < LENGTH(zones); i++) {
        use_zone(zones[i]);
        CHECK((next_clock_change(begin) < begin + INT64_C(366) * 86400) == (i < 3));
        for (window = 0; window < 30; window++) {
            int64_t focus = begin + walk_random(span);

            if (window % 3 != 0) {
                focus = next_clock_change(focus);
            }
            walk_prepare(focus - INT64_C(86400) * (WALK_DAYS / 2) - walk_random(86400));
            for (expression = 0; expression < 40; expression++) {
                compare_expression(zones[i], focus);
            }
        }
    }
}

int
main(void)
{
    test_field_values();
    test_special_days();
    test_same_meaning();
    test_seconds();
    test_accessors();
    test_other_kinds();
    test_errors();
    test_length_limit();
    test_calendar();
    test_clock_changes();
    test_limits();
    test_against_walk();
    return unit_report();
}
