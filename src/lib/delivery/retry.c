/*
 * The schedule of retries: its text form, and the delay with jitter. Pure computation, in whatever process delivers;
 * owns no memory. Retry-After is in retry_after.c.
 */
#include "retry.h"

#include <stdio.h>
#include <string.h>

#define SECOND INT64_C(1000)
#define MINUTE (60 * SECOND)
#define HOUR (60 * MINUTE)
#define DAY (24 * HOUR)

/* The default as numbers; a test compares it with its text. */
static const DeliveryRetrySchedule default_schedule = {
    .count = DELIVERY_RETRY_ATTEMPTS - 1,
    .delays_ms = {5 * SECOND, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR},
};

static const char *
skip_blanks(const char *c)
{
    return c + strspn(c, " \t\r\n");
}

/* The milliseconds of the unit that a word of this length is; 0: none. */
static int64_t
unit_ms(const char *word, size_t length)
{
    static const struct {
        const char *name;
        int64_t ms;
    } units[] = {{"ms", 1}, {"s", SECOND}, {"m", MINUTE}, {"min", MINUTE}, {"h", HOUR}, {"d", DAY}};

    for (size_t i = 0; i < sizeof units / sizeof *units; i++)
        if (strlen(units[i].name) == length && memcmp(units[i].name, word, length) == 0)
            return units[i].ms;
    return 0;
}

/* Reads one delay; returns what is wrong, with *c where, or NULL with *c after it. */
static const char *
parse_delay(const char **c, int64_t *delay_ms)
{
    const char *start = *c;
    const char *word;
    size_t digits = strspn(start, "0123456789");
    size_t letters;
    int64_t number = 0;
    int64_t unit;

    if (digits == 0)
        return "expected a whole number";
    for (size_t i = 0; i < digits && number <= DELIVERY_RETRY_MAX_DELAY_MS; i++)
        number = number * 10 + (start[i] - '0');
    word = skip_blanks(start + digits);
    letters = strspn(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ");
    unit = unit_ms(word, letters);
    if (unit == 0) {
        *c = word;
        return "expected one of the units ms, s, m, min, h, d";
    }
    if (number == 0 || number > DELIVERY_RETRY_MAX_DELAY_MS / unit)
        return "expected a delay from 1 ms to 30 d";
    *delay_ms = number * unit;
    *c = word + letters;
    return NULL;
}

bool
delivery_retry_schedule_parse(const char *text, DeliveryRetrySchedule *schedule, char *error, size_t size)
{
    const char *c = skip_blanks(text);
    const char *wrong = NULL;

    schedule->count = 0;
    while (wrong == NULL) {
        if (schedule->count == DELIVERY_RETRY_MAX_DELAYS) {
            wrong = "expected no more than 64 delays";
            break;
        }
        wrong = parse_delay(&c, &schedule->delays_ms[schedule->count]);
        if (wrong != NULL)
            break;
        schedule->count++;
        c = skip_blanks(c);
        if (*c == '\0')
            return true;
        if (*c != ',')
            wrong = "expected a comma or the end";
        else
            c = skip_blanks(c + 1);
    }
    schedule->count = 0;
    snprintf(error, size, "%s at character %zu%s", wrong, (size_t)(c - text) + 1,
             *c == '\0' ? ", where the text ends" : "");
    return false;
}

int64_t
delivery_retry_schedule_delay_ms(const DeliveryRetrySchedule *schedule, int failed_attempts, uint32_t random)
{
    int64_t delay;
    int64_t jitter;

    if (failed_attempts < 1 || schedule->count < 1)
        return 0;
    delay = schedule->delays_ms[(failed_attempts < schedule->count ? failed_attempts : schedule->count) - 1];
    jitter = delay < DELIVERY_RETRY_MAX_JITTER_MS ? delay : DELIVERY_RETRY_MAX_JITTER_MS;
    /* At most 1.8e6 * 2^32, far below 2^63. */
    return delay + (jitter * random >> 32);
}

int64_t
delivery_retry_delay_ms(int failed_attempts, uint32_t random)
{
    return delivery_retry_schedule_delay_ms(&default_schedule, failed_attempts, random);
}
