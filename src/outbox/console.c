/*
 * console.c: the publisher `console`. Runs in the worker of the job `outbox`.
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "outbox/console.h"

char *
console_line(const OutboxEvent *event)
{
    return psprintf("[Outbox] %s %s/%s id=%s", outbox_printable(event->type), outbox_printable(event->aggregate_type),
                    outbox_printable(event->aggregate_id), outbox_printable(event->id));
}

void
console_publish(OutboxHand *hand)
{
    OutboxTarget *target;

    while ((target = hand_take_ready(hand, 0)) != NULL) {
        MemoryContext before = MemoryContextSwitchTo(hand->scratch);

        outbox_check_interrupts(hand);
        ereport(LOG, (errmsg_internal("%s", console_line(target->event)), errhidestmt(true), errhidecontext(true)));
        MemoryContextSwitchTo(before);
        MemoryContextReset(hand->scratch);
        outbox_delivered(hand, target);
    }
}
