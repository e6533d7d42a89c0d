/*
 * receiver.c: what is the same of an endpoint whoever sends the requests. In a publisher.
 */
#include "postgres.h"

#include "portability/instr_time.h"

#include "lib/delivery/verdict.h"
#include "outbox/attempt.h"
#include "outbox/receiver.h"
#include "server/seats.h"

#define RATE_BURST_PART 20    /* of what a second allows may be sent at once */
#define RATE_DIVIDED_MS 100.0 /* so often it is looked with how many others the rate is to be divided */

void
receiver_open(Receiver *receiver, Endpoint *endpoint, ReceiverShare share)
{
    char error[256] = "";

    *receiver = (Receiver){.endpoint = endpoint, .seat = share.seat, .parts = share.parts};
    receiver->counters = counters_of_endpoint(endpoint->name, true);
    if (endpoint->problem != NULL || request_keys_open(&receiver->keys, endpoint, error, sizeof(error)))
        return;
    if (strcmp(endpoint->name, OUTBOX_DEFAULT_ENDPOINT) == 0)
        ereport(ERROR,
                (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("the webhook secret cannot be used: %s", error),
                 errhint("Set apapacho_jobs.outbox_webhook_secret or apapacho_jobs.outbox_webhook_secret_file.")));
    endpoint->problem = psprintf("its secret cannot be used: %s", error);
}

void
receiver_close(Receiver *receiver)
{
    receiver_count_in_flight(receiver, 0);
    request_keys_wipe(&receiver->keys);
}

/* The rate that is left to this publisher. */
static void
divide_rate(Receiver *receiver, double now_ms)
{
    if (receiver->divided_ms != 0 && now_ms - receiver->divided_ms < RATE_DIVIDED_MS)
        return;
    receiver->divided_ms = now_ms;
    receiver->rate = (double)receiver->endpoint->rate_limit / (receiver->parts + seats_others(receiver->seat));
}

long
receiver_until_rate_allows(Receiver *receiver)
{
    instr_time now;
    double passed;

    if (receiver->endpoint->rate_limit == 0)
        return 0;
    INSTR_TIME_SET_CURRENT(now);
    divide_rate(receiver, INSTR_TIME_GET_MILLISEC(now));
    passed = INSTR_TIME_GET_MILLISEC(now) - receiver->rate_ms;
    receiver->rate_ms += passed;
    receiver->allowance =
        Min(receiver->allowance + passed * receiver->rate / 1000, Max(receiver->rate / RATE_BURST_PART, 1));
    return receiver->allowance >= 1 ? 0 : (long)((1 - receiver->allowance) * 1000 / receiver->rate) + 1;
}

void
receiver_spend(Receiver *receiver)
{
    receiver->allowance -= 1;
}

void
receiver_count_in_flight(Receiver *receiver, int in_flight)
{
    if (receiver->counters != NULL && (uint32)in_flight != receiver->in_flight)
        (void)pg_atomic_fetch_add_u32(&receiver->counters->in_flight, (int32)((uint32)in_flight - receiver->in_flight));
    receiver->in_flight = (uint32)in_flight;
}

/* Whether a receiver is there and copes, whatever it thinks of the event. */
static bool
shows_receiver(const DeliveryResult *result)
{
    return result->delivered || (result->error_class == DELIVERY_ERROR_HTTP_STATUS && result->http_status < 500 &&
                                 delivery_verdict(result->http_status, true).retryable == false);
}

void
receiver_take_result(Receiver *receiver, OutboxHand *hand, OutboxTarget *target, const DeliveryResult *result)
{
    Endpoint *endpoint = receiver->endpoint;

    endpoint_note(endpoint, shows_receiver(result), result->gone);
    counters_add(receiver->counters, result->delivered ? DELIVERY_ERROR_NONE : result->error_class,
                 result->timings.total_us, result->reused_connection);
    if (result->gone) { /* which says nothing about the event */
        strlcpy(endpoint->last_error, result->error, sizeof(endpoint->last_error));
        hand_put_off(hand, target);
        return;
    }
    attempt_note(hand, target, result);
    if (result->delivered) {
        outbox_delivered(hand, target);
        return;
    }
    target->retry_after_s = result->retry_after_s;
    outbox_failed(hand, target, result->error, !result->retryable);
}
