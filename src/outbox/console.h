/*
 * console.h: the publisher `console`, for trying things out: an event is a line in the server log.
 */
#ifndef APAPACHO_OUTBOX_CONSOLE_H
#define APAPACHO_OUTBOX_CONSOLE_H

#include "outbox/hand.h"

/* What is said of an event: printable ASCII, palloc'ed in the current context. */
char *console_line(const OutboxEvent *event);

/* Logs every event that is ready, never with its payload, and notes it as delivered. Outside of any transaction. */
void console_publish(OutboxHand *hand);

#endif
