/*
 * The policy on status codes, in one place. Pure computation; the engine asks it for every complete answer.
 */
#include "verdict.h"

/* The client errors that speak of now and not of the request. */
static bool
is_passing(long status)
{
    return status == 408 || status == 425 || status == 429;
}

DeliveryVerdict
delivery_verdict(long status, bool fail_on_client_error)
{
    DeliveryVerdict verdict = {.retryable = true, .error_class = DELIVERY_ERROR_HTTP_STATUS};

    if (status >= 200 && status < 300)
        return (DeliveryVerdict){.delivered = true};
    if (status < 200)
        verdict.error_class = DELIVERY_ERROR_PROTOCOL; /* a provisional answer is not one (101 without being asked) */
    else if (status == 410)
        verdict = (DeliveryVerdict){.gone = true, .error_class = DELIVERY_ERROR_HTTP_STATUS};
    else if (status >= 400 && status < 500 && !is_passing(status))
        verdict.retryable = !fail_on_client_error;
    return verdict;
}
