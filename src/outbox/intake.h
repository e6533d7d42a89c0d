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

/* When an event that waits for another attempt will be due, after the last claim of all events; 0: there is none. */
TimestampTz intake_next_retry(const Publisher *publisher);

/* When all events are to be looked at again, by publisher_clock_ms(), where claims pass over many; 0: each time. */
double intake_whole_claim_due(const Publisher *publisher);

/*
 * When there may be something to look at though no commit has come, by publisher_clock_ms(), `longest` milliseconds
 * from now if nothing else is known: an event or an endpoint is to be tried again, or what was passed over is to be
 * looked at.
 */
double intake_next_look(const Publisher *publisher, double longest);

/* Tells how far the run is, its helpers included. */
void intake_report_progress(const OutboxHand *hand);

#endif
