/*
 * What an answer's status means for a delivery. Pure computation, in whatever process delivers.
 */
#ifndef APAPACHO_DELIVERY_VERDICT_H
#define APAPACHO_DELIVERY_VERDICT_H

#include <stdbool.h>

#include "engine.h"

typedef struct DeliveryVerdict {
    bool delivered;
    bool retryable; /* for failures */
    bool gone;      /* the receiver wants nothing any more */
    DeliveryErrorClass error_class;
} DeliveryVerdict;

/*
 * The verdict on a complete answer (RFC 9110 section 15, Standard Webhooks "Response status codes"): 2xx is delivered.
 * 3xx, 408, 425, 429, 5xx and whatever has no meaning are failures to be retried (a redirect is never followed: the
 * receiver's owner has to change the URL). 410 is neither retried nor is anything else to be sent there. Other 4xx are
 * retried as well, as many of them go away when the receiver is repaired, unless fail_on_client_error.
 */
DeliveryVerdict delivery_verdict(long status, bool fail_on_client_error);

#endif
