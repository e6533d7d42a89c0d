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

/* Whole characters of UTF-8 and no control characters */
static bool
is_clean_text(const char *text)
{
    const unsigned char *c = (const unsigned char *)text;

    for (; *c != '\0'; c++) {
        if (*c >= 0xc2 && *c <= 0xdf && (c[1] & 0xc0) == 0x80) {
            c++;
        } else if (*c < 0x20 || *c >= 0x7f) {
            return false;
        }
    }
    return true;
}

static void
check_description(const char *text, CronLanguage language)
{
    char whole[CRON_DESCRIPTION_SIZE];
    char part[CRON_DESCRIPTION_SIZE];
    size_t size = strlen(text) * 3 % 100 + 1;

    require(cron_describe(text, language, whole, sizeof(whole), NULL), "what is accepted is described", text);
    require(whole[0] != '\0' && strlen(whole) < sizeof(whole) - 100, "a description is never cut", text);
    require(is_clean_text(whole), "a description is clean UTF-8", text);
    memset(part, 'x', sizeof(part));
    require(cron_describe(text, language, part, size, NULL) && part[size] == 'x', "a short buffer does not overflow",
            text);
    require(is_clean_text(part) && strncmp(part, whole, strlen(part)) == 0 &&
                (strlen(part) + 2 >= size || strcmp(part, whole) == 0),
            "a short buffer is filled with the start of the description", text);
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
        char words[8];

        check_error(&error, text);
        require(!cron_describe(text, CRON_ENGLISH, words, sizeof(words), NULL) && words[0] == '\0',
                "what is refused is not described", text);
        free(text);
        return 0;
    }

    check_description(text, CRON_ENGLISH);
    check_description(text, CRON_SPANISH);
    require(!cron_is_fixed(&schedule) || schedule.kind == CRON_KIND_FIELDS, "only fields are fixed", text);
    if (schedule.kind == CRON_KIND_REBOOT) {
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
