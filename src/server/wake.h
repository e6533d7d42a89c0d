/*
 * wake.h: how a commit that added outbox events wakes a publisher of its database: a flag in the scheduler's slot of
 * shared memory, and a latch.
 *
 * The flag is set by whoever has committed such events, and taken by a publisher right before it looks for events, so
 * that none is overlooked: either its snapshot has them, or the flag is set again. Whoever sets it first since then
 * also sets the latch of the publisher that waits for it, or else of the scheduler, which starts one.
 */
#ifndef APAPACHO_WAKE_H
#define APAPACHO_WAKE_H

#include "postgres.h"

#include "utils/timestamp.h"

/* There are new events in this database. Never fails: fit for the end of a commit. */
void wake_publisher(void);

/* Whether there have been new events since the flag was taken last. */
bool wake_is_pending(void);

/* The same, and takes the flag. */
bool wake_take(void);

/* From here on this process is the one that is woken; wake_unlisten() hands a flag that is still set to the scheduler.
 */
void wake_listen(void);
void wake_unlisten(void);

/*
 * Something will be due at that time: the scheduler sets the flag then. Only the earliest is kept; wake_forget_due()
 * forgets it. wake_due_at(): that time; 0: none.
 */
void wake_note_due(TimestampTz at);
void wake_forget_due(void);
TimestampTz wake_due_at(void);

/* No publisher is to be started by commits before that time: it would get nowhere. 0: no such time. */
void wake_hold(TimestampTz until);
TimestampTz wake_held_until(void);

#endif
