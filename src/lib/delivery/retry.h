/*
 * When a failed delivery is tried again: the schedule that the Standard Webhooks specification recommends
 * ("Deliverability and reliability"). Pure computation, in whatever process delivers; the clock and the random number
 * are the caller's.
 */
#ifndef APAPACHO_DELIVERY_RETRY_H
#define APAPACHO_DELIVERY_RETRY_H

#include <stdint.h>

/* The number of attempts of the recommended schedule: the first at once, the last about 75 hours later. */
#define DELIVERY_RETRY_ATTEMPTS 10

/*
 * The delay in milliseconds between a failed attempt and the next one, after failed_attempts (>= 1) failures in all:
 * 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 14 h, 20 h, 24 h, and 24 h ever after. On top comes a jitter of up to 10 % of
 * the delay, in proportion to random (0 … UINT32_MAX), so that events that failed together do not come back together;
 * it never shortens the delay. 0 for failed_attempts < 1: a first attempt is due at once.
 */
int64_t delivery_retry_delay_ms(int failed_attempts, uint32_t random);

#endif
