/*
 * console.h: the publisher `console`, for trying things out: an event is a line in the server log.
 */
#ifndef APAPACHO_OUTBOX_CONSOLE_H
#define APAPACHO_OUTBOX_CONSOLE_H

#include "outbox/batch.h"

/* Logs every event of the batch, never with its payload, and notes them as delivered. Outside of any transaction. */
void console_publish(OutboxBatch *batch);

#endif
