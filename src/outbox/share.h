/*
 * share.h: which events are this publisher's. Every aggregate belongs to one of OUTBOX_SLOTS slots, by a hash of its
 * type and id, and a slot to the publisher that holds its advisory lock. So no event is with two publishers at a time,
 * whatever processes or machines they are on, and what a crashed one held is free at once.
 *
 * The locks are session locks, seen in pg_locks as advisory ones with classid OUTBOX_SLOT_CLASS, the slot as objid, and
 * objsubid OUTBOX_SLOT_KIND, which pg_advisory_lock() cannot take: no other role can keep events from being published.
 * A session that may execute it takes them by apapacho_jobs.lock_outbox_slots(). An aggregate's slot in SQL:
 * hashtextextended("aggregateType" || '/' || "aggregateId", 0) & 63.
 */
#ifndef APAPACHO_OUTBOX_SHARE_H
#define APAPACHO_OUTBOX_SHARE_H

#include "postgres.h"

#define OUTBOX_SLOTS 64
#define OUTBOX_SLOT_CLASS 1634758007
#define OUTBOX_SLOT_KIND 3

/* Those of a set of slots (a bit for each) that are part number `part` (from 0) of `parts`: every so many-th. */
uint64 share_part(uint64 slots, int part, int parts);

/*
 * Takes what is free of a set of slots, within any state but a failed transaction. What is held already stays held.
 */
void share_take(uint64 slots);

/* Lets go of all slots but these. No event of another slot may be in hand. */
void share_keep(uint64 slots);
void share_release(void);

/* Which slots are held. */
uint64 share_held(void);

/* How many slots are held; whether none, or all are. */
int share_count(void);
bool share_is_empty(void);
bool share_is_whole(void);

/* The numbers of the slots that are held, an integer[], in the current context. */
Datum share_slots(void);

#endif
