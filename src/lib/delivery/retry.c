/*
 * The Standard Webhooks retry schedule as a table. Pure computation, in whatever process delivers; owns no memory.
 */
#include "retry.h"

#define SECOND INT64_C(1000)
#define MINUTE (60 * SECOND)
#define HOUR (60 * MINUTE)

/* Jitter: at most a tenth of the delay. */
#define JITTER_DIVISOR 10

int64_t
delivery_retry_delay_ms(int failed_attempts, uint32_t random)
{
    static const int64_t delays[DELIVERY_RETRY_ATTEMPTS - 1] = {
        5 * SECOND, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR,
    };
    int64_t delay;

    if (failed_attempts < 1)
        return 0;
    delay = delays[(failed_attempts < DELIVERY_RETRY_ATTEMPTS ? failed_attempts : DELIVERY_RETRY_ATTEMPTS - 1) - 1];
    /* At most 8.64e6 * 2^32, far below 2^63. */
    return delay + (delay / JITTER_DIVISOR * random >> 32);
}
