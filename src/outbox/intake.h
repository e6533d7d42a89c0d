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

/* Whether the slots that are to be the publisher's are others than those of its last claim. */
bool intake_share_has_changed(const Publisher *publisher);

/*
 * Whether it has slots that are to be others': it takes no more events, and lets go of them at the claim after the last
 * event in hand is gone.
 */
bool intake_must_let_go(const Publisher *publisher);

/* Whether there are some that others are about to let go of: it is worth to look again and again. */
bool intake_misses_share(const Publisher *publisher);

/* When an event that waits for another attempt will be due, after the last claim; 0: there is none. */
TimestampTz intake_next_retry(const Publisher *publisher);

/* Tells how far the run is, its helpers included. */
void intake_report_progress(const OutboxHand *hand);

#endif
