/*
 * When a failed delivery is tried again: a schedule of delays that can be set, by default the one that the Standard
 * Webhooks specification recommends ("Deliverability and reliability"), and what a receiver asks for by Retry-After.
 * Pure computation, in whatever process delivers; the clock and the random number are the caller's, nothing is
 * allocated.
 */
#ifndef APAPACHO_DELIVERY_RETRY_H
#define APAPACHO_DELIVERY_RETRY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The default: the first attempt at once, the tenth 75 h 35 min 5 s later at the earliest. */
#define DELIVERY_RETRY_DEFAULT_SCHEDULE "5s, 5m, 30m, 2h, 5h, 10h, 14h, 20h, 24h"

/* The number of attempts of the default schedule. */
#define DELIVERY_RETRY_ATTEMPTS 10

#define DELIVERY_RETRY_MAX_DELAYS 64
#define DELIVERY_RETRY_MAX_DELAY_MS (INT64_C(30) * 24 * 3600 * 1000)

/* The most that jitter adds to a delay. */
#define DELIVERY_RETRY_MAX_JITTER_MS (INT64_C(30) * 60 * 1000)

/* Where delivery_retry_after_parse stops counting. */
#define DELIVERY_RETRY_AFTER_MAX INT32_MAX

/* The delays between attempts, the first after the first failure. At least one, once it was parsed. */
typedef struct DeliveryRetrySchedule {
    int count;
    int64_t delays_ms[DELIVERY_RETRY_MAX_DELAYS];
} DeliveryRetrySchedule;

/*
 * Parses a list such as "5s, 5m, 30m, 2h": 1 to DELIVERY_RETRY_MAX_DELAYS whole numbers, each followed by its unit (ms,
 * s, m or min, h, d; lower case), separated by commas, with blanks wherever they help; every delay from 1 ms to 30 d.
 * False with one line in error, which says what was expected and at which character (from 1), and *schedule empty.
 */
bool delivery_retry_schedule_parse(const char *text, DeliveryRetrySchedule *schedule, char *error, size_t size);

/*
 * The delay in milliseconds between a failed attempt and the next one, after failed_attempts (>= 1) failures in all;
 * the schedule's last delay repeats for ever. On top of the scheduled delay comes a jitter, in proportion to random
 * (0 … UINT32_MAX): from nothing to the delay once more, 30 minutes at most, so that what failed together does not come
 * back together. Never less than scheduled: the schedule's sum is a promise. 0 for failed_attempts < 1: a first attempt
 * is due at once; 0 as well for an empty schedule.
 */
int64_t delivery_retry_schedule_delay_ms(const DeliveryRetrySchedule *schedule, int failed_attempts, uint32_t random);

/* The same with the default schedule. */
int64_t delivery_retry_delay_ms(int failed_attempts, uint32_t random);

/*
 * The value of a Retry-After header (RFC 9110 section 10.2.3): seconds as digits, or an HTTP-date in any of its three
 * forms (section 5.6.7), with blanks around. now_s: the time, in seconds since 1970 UTC. Sets *seconds to how long to
 * wait from now: 0 for a date in the past, DELIVERY_RETRY_AFTER_MAX at most. False, and *seconds as it was, for
 * anything else: signs, fractions, dates that do not exist, texts. A day's name is only checked to be one.
 */
bool delivery_retry_after_parse(const char *value, int64_t now_s, int64_t *seconds);

#endif
