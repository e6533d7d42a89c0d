/*
 * console.c: the publisher `console`. Runs in the worker of the job `outbox`.
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "outbox/console.h"

void
console_publish(OutboxBatch *batch)
{
    MemoryContext before = MemoryContextSwitchTo(batch->context);

    for (int i = 0; i < batch->count; i++) {
        const OutboxEvent *event = &batch->events[i];

        outbox_check_interrupts(batch);
        ereport(LOG, (errmsg_internal("[Outbox] %s %s/%s id=%s", outbox_printable(event->type),
                                      outbox_printable(event->aggregate_type), outbox_printable(event->aggregate_id),
                                      outbox_printable(event->id)),
                      errhidestmt(true), errhidecontext(true)));
        outbox_delivered(batch, i);
    }
    MemoryContextSwitchTo(before);
}
