/*
 * watch.h: what a publisher makes of how its endpoints are.
 */
#ifndef APAPACHO_OUTBOX_WATCH_H
#define APAPACHO_OUTBOX_WATCH_H

#include "outbox/publisher.h"

/* Notes in their state that endpoints which were just opened have a problem. */
void watch_problems(Publisher *publisher);

/* Judges all endpoints by the latest outcomes, and leaves those alone that are not to be sent anything. */
void watch_judge(Publisher *publisher);

/* Looks from time to time how they are by now, and for events that are to be tried again; judges them too. */
void watch_endpoints(Publisher *publisher);

/* Leaves all that is not on its way yet to later claims. */
void watch_put_off_all(Publisher *publisher);

#endif
