/*
 * remote_requests.c: hands requests to a program elsewhere, and takes what came of them. In the session's backend,
 * outside of any transaction.
 */
#include "postgres.h"

#include "outbox/console.h"
#include "outbox/remote.h"
#include "outbox/request.h"

/* An answer ends with the request that reaches this, which keeps it in memory on its way. A longer body is refused. */
#define ANSWER_BYTES (1024 * 1024)
#define MOST_BODY_BYTES (256 * 1024 * 1024)

#define MOST_WAIT_MS 5000
#define MOST_OUTCOMES (OUTBOX_MOST_ENDPOINTS * DELIVERY_MAX_IN_FLIGHT)

/* A target that is with the program. */
typedef struct Ticket {
    int64 number;
    OutboxTarget *target;
} Ticket;

static void
refuse(const char *what)
{
    ereport(ERROR, (errcode(ERRCODE_PROTOCOL_VIOLATION), errmsg("a publisher's call cannot be read: %s", what),
                    errhint("The program must be of the extension's version.")));
}

/* What became of a target. */
static void
take_outcome(OutboxTarget *target, const DeliveryResult *result)
{
    OutboxHand *hand = remote.publisher.hand;

    if (result->tag == NULL) {
        hand->endpoints->all[target->endpoint]->is_behind = true;
        hand_put_off(hand, target);
    } else if (remote.publisher.type == PUBLISHER_CONSOLE)
        outbox_delivered(hand, target);
    else
        receiver_take_result(&remote.receivers[target->endpoint], hand, target, result);
}

static void
take_outcomes(ExchangeReader *call)
{
    int64 count = exchange_get_number(call, 0, MOST_OUTCOMES);

    for (int64 i = 0; i < count; i++) {
        DeliveryResult result;
        int64 number = exchange_get_result(call, &result);
        OutboxTarget *target;
        Ticket *ticket;

        if (call->failed)
            refuse("an outcome is not complete");
        ticket = hash_search(remote.tickets, &number, HASH_FIND, NULL);
        if (ticket == NULL)
            refuse("an outcome is of no request");
        target = ticket->target;
        (void)hash_search(remote.tickets, &number, HASH_REMOVE, NULL);
        remote.out[target->endpoint]--;
        remote.out_count--;
        take_outcome(target, &result);
    }
}

int
remote_read_call(ExchangeReader *call)
{
    int64 flags = exchange_get_number(call, 0, EXCHANGE_DRAIN);
    int wait_ms = (int)exchange_get_number(call, 0, MOST_WAIT_MS);
    int count = remote.publisher.hand->endpoints->count;

    if (exchange_get_number(call, count, count) != count || call->failed)
        refuse("it is of other endpoints");
    for (int i = 0; i < count; i++)
        remote.wants[i] = (int)exchange_get_number(call, 0, DELIVERY_MAX_IN_FLIGHT);
    remote.draining = flags == EXCHANGE_DRAIN;
    take_outcomes(call);
    if (!exchange_is_complete(call))
        refuse("it does not end where it should");
    return wait_ms;
}

bool
remote_has_room(int endpoint)
{
    return remote.wants[endpoint] > 0 &&
           (remote.publisher.type == PUBLISHER_CONSOLE || receiver_until_rate_allows(&remote.receivers[endpoint]) == 0);
}

/* What comes before the headers and the body. */
static void
put_ticket(ExchangeWriter *answer, OutboxTarget *target)
{
    int64 number = ++remote.last_ticket;
    Ticket *ticket = hash_search(remote.tickets, &number, HASH_ENTER, NULL);

    ticket->target = target;
    remote.out[target->endpoint]++;
    remote.out_count++;
    exchange_put_number(answer, number);
    exchange_put_number(answer, target->endpoint);
}

static void
put_request(ExchangeWriter *answer, OutboxTarget *target, const DeliveryRequest *request, const MessageLayout *layout)
{
    put_ticket(answer, target);
    exchange_put_number(answer, request->header_count);
    for (int i = 0; i < request->header_count; i++) {
        exchange_put_text(answer, request->headers[i].name);
        exchange_put_text(answer, request->headers[i].value);
    }
    exchange_put_number(answer, (int64)layout->payload_offset);
    exchange_put_number(answer, (int64)layout->payload_length);
    exchange_put_bytes(answer, request->body, request->body_length);
}

/* A line for the program to print. */
static void
hand_out_line(ExchangeWriter *answer, OutboxTarget *target)
{
    char *line = console_line(target->event);

    put_ticket(answer, target);
    exchange_put_number(answer, 0);
    exchange_put_number(answer, 0);
    exchange_put_number(answer, 0);
    exchange_put_bytes(answer, line, strlen(line));
}

/* Adds a request to the answer; false: it cannot be sent, which has been noted. */
static bool
hand_out_request(ExchangeWriter *answer, OutboxTarget *target)
{
    Receiver *receiver = &remote.receivers[target->endpoint];
    OutboxHand *hand = remote.publisher.hand;
    DeliveryHeader headers[REQUEST_MOST_HEADERS];
    DeliveryRequest request;
    MessageLayout layout;
    bool is_final = true;
    char error[256] = "";

    request_keys_expire(&receiver->keys, receiver->endpoint);
    receiver_spend(receiver);
    if (target->event->problem != NULL)
        strlcpy(error, target->event->problem, sizeof(error));
    else if (target->event->bytes > MOST_BODY_BYTES)
        strlcpy(error, "the event is too long for a publisher on another machine", sizeof(error));
    else if (request_build(target->event, receiver->endpoint, &receiver->keys, remote.source, headers, &request,
                           &layout, &is_final, error, sizeof(error))) {
        put_request(answer, target, &request, &layout);
        free(request.body);
        return true;
    }
    outbox_failed(hand, target, error, is_final);
    return false;
}

int
remote_hand_out(ExchangeWriter *answer)
{
    OutboxHand *hand = remote.publisher.hand;
    OutboxTarget *target;
    int count = 0;

    for (int i = 0; i < hand->endpoints->count; i++) {
        while (answer->length < ANSWER_BYTES && remote_has_room(i) && (target = hand_take_ready(hand, i)) != NULL) {
            if (remote.publisher.type == PUBLISHER_CONSOLE)
                hand_out_line(answer, target);
            else if (!hand_out_request(answer, target))
                continue;
            remote.wants[i]--;
            count++;
        }
        if (remote.publisher.type == PUBLISHER_WEBHOOK)
            receiver_count_in_flight(&remote.receivers[i], remote.out[i]);
    }
    if (answer->failed)
        ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
    return count;
}
