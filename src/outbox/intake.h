/*
 * intake.h: what a publisher takes on.
 */
#ifndef APAPACHO_OUTBOX_INTAKE_H
#define APAPACHO_OUTBOX_INTAKE_H

#include "outbox/publisher.h"

/* Takes more events into the hand, after recording what is noted. Returns how many. */
int intake_claim(Publisher *publisher);

/* Whether to take on more now, while events are on their way. */
bool intake_wants_more(const Publisher *publisher);

/* How long to wait for the network until more is to be taken on; `longest` at most, milliseconds. */
long intake_patience(const Publisher *publisher, long longest);

/* With nothing in hand: divides the slots and starts helpers. */
void intake_start_helpers(Publisher *publisher);

/* When an event that waits for another attempt will be due, after the last claim of all events; 0: there is none. */
TimestampTz intake_next_retry(const Publisher *publisher);

/* When all events are to be looked at again, by publisher_clock_ms(), where claims pass over many; 0: each time. */
double intake_whole_claim_due(const Publisher *publisher);

/* Tells how far the run is, its helpers included. */
void intake_report_progress(const OutboxHand *hand);

#endif
