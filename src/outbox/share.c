/*
 * share.c: the advisory locks of a publisher. They belong to the session: an error or the end of a transaction leaves
 * them, the end of the process does not.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/array.h"

#include "outbox/share.h"
#include "server/compat.h"

PG_FUNCTION_INFO_V1(apapacho_lock_slots);
PG_FUNCTION_INFO_V1(apapacho_unlock_slots);

static bool held[OUTBOX_SLOTS];
static int held_count = 0;

static LOCKTAG
slot_tag(int slot)
{
    LOCKTAG tag;

    SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, OUTBOX_SLOT_CLASS, slot, OUTBOX_SLOT_KIND);
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

        if (held[slot] && !compat_holds_lock_tag(&tag, ExclusiveLock)) {
            held[slot] = false; /* code of the user's has called pg_advisory_unlock_all() */
            held_count--;
        }
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

/* apapacho_jobs.lock_outbox_slots(part integer, parts integer): how many slots the session holds then. */
Datum
apapacho_lock_slots(PG_FUNCTION_ARGS)
{
    int part = PG_GETARG_INT32(0);
    int parts = PG_GETARG_INT32(1);

    if (parts < 1 || parts > OUTBOX_SLOTS || part < 0 || part >= parts)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("there is no part %d of %d of the outbox's slots", part, parts),
                        errdetail("There are %d slots; parts are numbered from 0.", OUTBOX_SLOTS)));
    share_take(part, parts);
    PG_RETURN_INT32(share_count());
}

/* apapacho_jobs.unlock_outbox_slots() */
Datum
apapacho_unlock_slots(PG_FUNCTION_ARGS)
{
    share_release();
    PG_RETURN_VOID();
}
