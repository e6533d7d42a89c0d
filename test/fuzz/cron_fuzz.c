/*
 * cron_fuzz.c
 *
 * libFuzzer target for src/lib/cron: any bytes are parsed, and what is accepted must keep the
 * library's promises. Build with clang -fsanitize=fuzzer,address,undefined.
 */
#include "../../src/lib/cron/cron.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define SECONDS_PER_DAY INT64_C(86400)

static void
require(bool holds, const char *promise, const char *text)
{
    if (!holds) {
        fprintf(stderr, "broken promise: %s\nexpression: \"%s\"\n", promise, text);
        abort();
    }
}

/* An hour back and forth every hundred days, 2:30 behind UTC otherwise. */
static int32_t
changing_offset(void *context, int64_t utc)
{
    (void)context;
    return -9000 + ((utc / (SECONDS_PER_DAY * 100)) % 2 == 0 ? 3600 : 0);
}

static void
check_error(const CronError *error, const char *text)
{
    size_t length = strlen(error->message);
    size_t i;

    require(error->position >= 0 && (size_t)error->position <= strlen(text), "an error's position is in the text",
            text);
    require(strncmp(error->message, error->field, strlen(error->field)) == 0,
            "an error's message begins with the field's name", text);
    require(length > 0 && length < sizeof(error->message) - 1, "an error's message is whole", text);
    for (i = 0; i < length; i++) {
        require(error->message[i] >= 0x20 && error->message[i] < 0x7f, "an error's message is printable ASCII", text);
    }
}

static void
check_next(const CronSchedule *schedule, const CronZone *zone, int64_t after, const char *text)
{
    int64_t next;
    int64_t again;

    if (!cron_next(schedule, zone, after, &next)) {
        /* in the zone with gaps a wildcard can, for once, find nothing but them */
        require(zone != NULL, "an accepted expression has a next run", text);
        return;
    }
    require(next > after, "the next run is after the instant asked for", text);
    require(zone != NULL || next - after <= CRON_WIDEST_GAP * SECONDS_PER_DAY, "the next run comes within eight years",
            text);
    require(cron_next(schedule, zone, next - 1, &again) && again == next,
            "the run is still the next one a second before it", text);
    require(cron_next(schedule, zone, after + (next - after) / 2, &again) && again == next,
            "the run is the next one halfway to it", text);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    /* 2026, just before the leap year that 2100 is not, a clock change of changing_offset, 1901 */
    static const int64_t instants[] = {1767225600, 4076092740, 1727999999, -2177452801};
    static const CronZone changing = {changing_offset, NULL};
    CronSchedule schedule;
    CronError error;
    char *text = malloc(size + 1);
    size_t i;

    if (text == NULL) {
        return 0;
    }
    if (size > 0) {
        memcpy(text, data, size);
    }
    text[size] = '\0';

    if (!cron_parse(text, &schedule, &error)) {
        check_error(&error, text);
    } else if (schedule.kind == CRON_KIND_REBOOT) {
        int64_t next;

        require(!cron_next(&schedule, NULL, 0, &next), "@reboot never fires by the clock", text);
    } else if (schedule.kind == CRON_KIND_INTERVAL) {
        int64_t next;

        require(schedule.interval_seconds >= 1 && schedule.interval_seconds <= CRON_INTERVAL_MAX,
                "an interval is 1 second to 366 days", text);
        require(cron_next(&schedule, NULL, 0, &next) && next == schedule.interval_seconds,
                "an interval counts from the instant asked for", text);
    } else {
        for (i = 0; i < sizeof(instants) / sizeof(instants[0]); i++) {
            check_next(&schedule, NULL, instants[i], text);
            check_next(&schedule, &changing, instants[i], text);
        }
    }
    free(text);
    return 0;
}
