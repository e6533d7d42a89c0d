/*
 * Unit tests of the retry schedule's text form, its delays, Retry-After, and the verdicts on status codes.
 *
 * A plain program of one process. The expected seconds were computed by the date command.
 */
#include <stdint.h>
#include <string.h>

#include "retry.h"
#include "unit.h"
#include "verdict.h"

/* ---- The schedule ---- */

static void
test_schedules(void)
{
    DeliveryRetrySchedule schedule;
    char error[128] = "";
    char text[1024] = "";

    CHECK(delivery_retry_schedule_parse(DELIVERY_RETRY_DEFAULT_SCHEDULE, &schedule, error, sizeof error));
    CHECK(schedule.count == DELIVERY_RETRY_ATTEMPTS - 1);
    for (int failed = 0; failed < 15; failed++)
        CHECK(delivery_retry_schedule_delay_ms(&schedule, failed, 12345) == delivery_retry_delay_ms(failed, 12345));
    CHECK(delivery_retry_schedule_parse(" 1ms,2 s\t,\n3m , 4min,5h,30d ", &schedule, error, sizeof error));
    CHECK(schedule.count == 6);
    CHECK(schedule.delays_ms[0] == 1 && schedule.delays_ms[1] == 2000 && schedule.delays_ms[2] == 180000);
    CHECK(schedule.delays_ms[3] == 240000 && schedule.delays_ms[4] == 18000000);
    CHECK(schedule.delays_ms[5] == DELIVERY_RETRY_MAX_DELAY_MS);
    CHECK(delivery_retry_schedule_parse("000000000000000000000000000007s", &schedule, error, sizeof error));
    CHECK(schedule.count == 1 && schedule.delays_ms[0] == 7000);
    for (int i = 0; i < DELIVERY_RETRY_MAX_DELAYS; i++)
        strcat(text, i == 0 ? "1s" : ", 1s");
    CHECK(delivery_retry_schedule_parse(text, &schedule, error, sizeof error));
    CHECK(schedule.count == DELIVERY_RETRY_MAX_DELAYS);
    strcat(text, ", 1s");
    CHECK(!delivery_retry_schedule_parse(text, &schedule, error, sizeof error) && schedule.count == 0);
    CHECK_STR(error, "expected no more than 64 delays at character 257");
}

static void
test_bad_schedules(void)
{
    static const struct {
        const char *text;
        const char *error;
    } cases[] = {
        {"", "expected a whole number at character 1, where the text ends"},
        {"  ", "expected a whole number at character 3, where the text ends"},
        {"5s,", "expected a whole number at character 4, where the text ends"},
        {",5s", "expected a whole number at character 1"},
        {"5s,,5m", "expected a whole number at character 4"},
        {"-5s", "expected a whole number at character 1"},
        {"5", "expected one of the units ms, s, m, min, h, d at character 2, where the text ends"},
        {"5, 6s", "expected one of the units ms, s, m, min, h, d at character 2"},
        {"5S", "expected one of the units ms, s, m, min, h, d at character 2"},
        {"5 sec", "expected one of the units ms, s, m, min, h, d at character 3"},
        {"1.5h", "expected one of the units ms, s, m, min, h, d at character 2"},
        {"5s 6s", "expected a comma or the end at character 4"},
        {"5s;6s", "expected a comma or the end at character 3"},
        {"1s, 0s", "expected a delay from 1 ms to 30 d at character 5"},
        {"31d", "expected a delay from 1 ms to 30 d at character 1"},
        {"2592000001ms", "expected a delay from 1 ms to 30 d at character 1"},
        {"99999999999999999999999999999999d", "expected a delay from 1 ms to 30 d at character 1"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        DeliveryRetrySchedule schedule = {.count = 9};
        char error[128] = "";

        CHECK(!delivery_retry_schedule_parse(cases[i].text, &schedule, error, sizeof error));
        CHECK_STR(error, cases[i].error);
        CHECK(schedule.count == 0);
        CHECK(delivery_retry_schedule_delay_ms(&schedule, 3, 1) == 0);
    }
}

static void
test_delays(void)
{
    const int64_t half_hour = 1800 * 1000;
    DeliveryRetrySchedule schedule;
    char error[128] = "";

    CHECK(delivery_retry_schedule_parse("1ms, 10s, 1h", &schedule, error, sizeof error));
    CHECK(delivery_retry_schedule_delay_ms(&schedule, -1, UINT32_MAX) == 0);
    CHECK(delivery_retry_schedule_delay_ms(&schedule, 0, UINT32_MAX) == 0);
    CHECK(delivery_retry_schedule_delay_ms(&schedule, 1, 0) == 1);
    CHECK(delivery_retry_schedule_delay_ms(&schedule, 2, 0) == 10000);
    CHECK(delivery_retry_schedule_delay_ms(&schedule, 2, UINT32_C(1) << 31) == 15000);
    CHECK(delivery_retry_schedule_delay_ms(&schedule, 2, UINT32_MAX) == 19999);
    CHECK(delivery_retry_schedule_delay_ms(&schedule, 3, UINT32_C(1) << 31) == 2 * half_hour + half_hour / 2);
    CHECK(delivery_retry_schedule_delay_ms(&schedule, 4, 0) == 2 * half_hour);
    CHECK(delivery_retry_schedule_delay_ms(&schedule, INT32_MAX, UINT32_MAX) == 3 * half_hour - 1);
}

/* ---- Retry-After ---- */

/* 2026-11-24 02:40:00 UTC */
#define NOW INT64_C(1795488000)

static void
check_retry_after(const char *value, int64_t now, int64_t expected)
{
    int64_t seconds = -7;

    if (!CHECK(delivery_retry_after_parse(value, now, &seconds)) || !CHECK(seconds == expected))
        printf("    \"%s\": %lld, expected %lld\n", value, (long long)seconds, (long long)expected);
}

static void
test_retry_after(void)
{
    check_retry_after("0", NOW, 0);
    check_retry_after("120", NOW, 120);
    check_retry_after(" \t007 ", NOW, 7);
    check_retry_after("2147483646", NOW, 2147483646);
    check_retry_after("2147483648", NOW, INT32_MAX);
    check_retry_after("99999999999999999999999999999999999999999999999999999999999999", NOW, INT32_MAX);
    /* RFC 9110's own example in its three forms. */
    check_retry_after("Sun, 06 Nov 1994 08:49:37 GMT", 784111700, 77);
    check_retry_after("Sunday, 06-Nov-94 08:49:37 GMT", 784111700, 77);
    check_retry_after("Sun Nov  6 08:49:37 1994", 784111700, 77);
    check_retry_after("Sun Nov 06 08:49:37 1994", 784111700, 77);
    check_retry_after("  Sun, 06 Nov 1994 08:49:37 GMT\t", 784111700, 77);
    check_retry_after("Sun, 06 Nov 1994 08:49:37 GMT", NOW, 0);
    check_retry_after("Tue, 24 Nov 2026 02:41:00 GMT", NOW, 60);
    check_retry_after("Mon, 24 Nov 2026 02:41:60 GMT", NOW, 120); /* a leap second; and it is a Tuesday */
    check_retry_after("Thu, 29 Feb 2024 12:00:00 GMT", 1709200000, 8000);
    check_retry_after("Tue, 29 Feb 2000 00:00:00 GMT", 951782399, 1);
    check_retry_after("Fri, 31 Dec 9999 23:59:59 GMT", NOW, INT32_MAX);
    check_retry_after("Mon, 01 Jan 0001 00:00:00 GMT", NOW, 0);
    /* Two digits: no more than 50 years ahead, else in the past. */
    check_retry_after("Tuesday, 24-Nov-26 03:00:00 GMT", NOW, 1200);
    check_retry_after("Friday, 24-Nov-34 02:40:00 GMT", NOW, 252460800);
    check_retry_after("Friday, 01-Jan-99 00:00:00 GMT", NOW, 0);
}

static void
test_bad_retry_after(void)
{
    static const char *const values[] = {
        "",
        " ",
        "-1",
        "+1",
        "1.5",
        "1e3",
        "0x10",
        "1 2",
        "1,2",
        "12s",
        "soon",
        "Sun, 06 Nov 1994 08:49:37",
        "Sun, 06 Nov 1994 08:49:37 UTC",
        "Sun, 06 Nov 1994 08:49:37 GMT+1",
        "Sun, 06 Nov 1994 08:49:37 +0000",
        "sun, 06 nov 1994 08:49:37 gmt",
        "Son, 06 Nov 1994 08:49:37 GMT",
        "Sun, 6 Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 94 08:49:37 GMT",
        "Sun, 31 Nov 2026 08:49:37 GMT",
        "Sun, 29 Feb 2026 08:49:37 GMT",
        "Thu, 29 Feb 2100 08:49:37 GMT",
        "Sun, 00 Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 0000 08:49:37 GMT",
        "Sun, 06 Nov 1994 24:00:00 GMT",
        "Sun, 06 Nov 1994 08:60:00 GMT",
        "Sun, 06 Nov 1994 08:49:61 GMT",
        "Sun, 06 Nov 1994  08:49:37 GMT",
        "Sunday, 06-Nov-1994 08:49:37 GMT",
        "Sun, 06-Nov-94 08:49:37 GMT",
        "Sun Nov 6 08:49:37 1994",
        "Sun Nov  6 08:49:37 1994 GMT",
        "2026-11-24T02:40:00Z",
    };

    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        int64_t seconds = -7;

        if (!CHECK(!delivery_retry_after_parse(values[i], NOW, &seconds)) || !CHECK(seconds == -7))
            printf("    \"%s\"\n", values[i]);
    }
}

/* ---- Verdicts ---- */

static void
check_verdict(long status, bool strict, bool retryable)
{
    DeliveryVerdict verdict = delivery_verdict(status, strict);

    if (!CHECK(!verdict.delivered) || !CHECK(verdict.retryable == retryable) || !CHECK(verdict.gone == (status == 410)))
        printf("    %ld, strict %d\n", status, strict);
    CHECK(verdict.error_class == (status < 200 ? DELIVERY_ERROR_PROTOCOL : DELIVERY_ERROR_HTTP_STATUS));
}

static void
test_verdicts(void)
{
    static const long always[] = {101, 300, 301, 302, 304, 307, 308, 399, 408, 425, 429, 500, 501, 503, 599, 600, 999};
    static const long by_setting[] = {400, 401, 403, 404, 405, 409, 411, 413, 418, 422, 451, 499};

    for (long status = 200; status < 300; status++) {
        DeliveryVerdict verdict = delivery_verdict(status, status % 2 == 0);

        CHECK(verdict.delivered && !verdict.retryable && !verdict.gone && verdict.error_class == DELIVERY_ERROR_NONE);
    }
    for (size_t i = 0; i < sizeof always / sizeof *always; i++) {
        check_verdict(always[i], false, true);
        check_verdict(always[i], true, true);
    }
    for (size_t i = 0; i < sizeof by_setting / sizeof *by_setting; i++) {
        check_verdict(by_setting[i], false, true);
        check_verdict(by_setting[i], true, false);
    }
    check_verdict(410, false, false);
    check_verdict(410, true, false);
}

int
main(void)
{
    test_schedules();
    test_bad_schedules();
    test_delays();
    test_retry_after();
    test_bad_retry_after();
    test_verdicts();
    return unit_report();
}
