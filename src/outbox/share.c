/*
 * share.c: the advisory locks of a publisher. They belong to the session: an error or the end of a transaction leaves
 * them, the end of the process does not.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/array.h"

#include "outbox/share.h"

static bool held[OUTBOX_SLOTS];
static int held_count = 0;

static LOCKTAG
slot_tag(int slot)
{
    LOCKTAG tag;

    SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, OUTBOX_SLOT_CLASS, slot, 2); /* as pg_advisory_lock(int, int) does */
    return tag;
}

static void
release_slot(int slot)
{
    LOCKTAG tag = slot_tag(slot);

    (void)LockRelease(&tag, ExclusiveLock, true);
    held[slot] = false;
    held_count--;
}

void
share_take(int part, int parts)
{
    for (int slot = part; slot < OUTBOX_SLOTS; slot += parts) {
        LOCKTAG tag = slot_tag(slot);

        if (held[slot] || LockAcquire(&tag, ExclusiveLock, true, true) == LOCKACQUIRE_NOT_AVAIL)
            continue;
        held[slot] = true;
        held_count++;
    }
}

void
share_keep(int part, int parts)
{
    for (int slot = 0; slot < OUTBOX_SLOTS; slot++) {
        if (held[slot] && slot % parts != part)
            release_slot(slot);
    }
}

void
share_release(void)
{
    for (int slot = 0; slot < OUTBOX_SLOTS; slot++) {
        if (held[slot])
            release_slot(slot);
    }
}

int
share_count(void)
{
    return held_count;
}

bool
share_is_empty(void)
{
    return held_count == 0;
}

bool
share_is_whole(void)
{
    return held_count == OUTBOX_SLOTS;
}

Datum
share_slots(void)
{
    Datum slots[OUTBOX_SLOTS];
    int count = 0;

    for (int slot = 0; slot < OUTBOX_SLOTS; slot++) {
        if (held[slot])
            slots[count++] = Int32GetDatum(slot);
    }
    return PointerGetDatum(construct_array(slots, count, INT4OID, sizeof(int32), true, TYPALIGN_INT));
}
