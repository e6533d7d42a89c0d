/*
 * share.c: the advisory locks of a publisher. They belong to the session: an error or the end of a transaction leaves
 * them, the end of the process does not.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "storage/lock.h"
#include "utils/array.h"

#include "outbox/share.h"
#include "server/compat.h"

PG_FUNCTION_INFO_V1(apapacho_lock_slots);
PG_FUNCTION_INFO_V1(apapacho_unlock_slots);

static uint64 held = 0;

StaticAssertDecl(OUTBOX_SLOTS == 64, "there is a bit for each slot");

static LOCKTAG
slot_tag(int slot)
{
    LOCKTAG tag;

    SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, OUTBOX_SLOT_CLASS, slot, OUTBOX_SLOT_KIND);
    return tag;
}

uint64
share_part(uint64 slots, int part, int parts)
{
    uint64 own = 0;
    int number = 0;

    for (uint64 left = slots; left != 0; left &= left - 1) {
        if (number++ % parts == part)
            own |= left & -left;
    }
    return own;
}

void
share_take(uint64 slots)
{
    for (uint64 left = slots; left != 0; left &= left - 1) {
        LOCKTAG tag = slot_tag(pg_rightmost_one_pos64(left));
        uint64 slot = left & -left;

        if ((held & slot) != 0 && !compat_holds_lock_tag(&tag, ExclusiveLock))
            held &= ~slot; /* code of the user's has called pg_advisory_unlock_all() */
        if ((held & slot) == 0 && LockAcquire(&tag, ExclusiveLock, true, true) != LOCKACQUIRE_NOT_AVAIL)
            held |= slot;
    }
}

void
share_keep(uint64 slots)
{
    for (uint64 left = held & ~slots; left != 0; left &= left - 1) {
        LOCKTAG tag = slot_tag(pg_rightmost_one_pos64(left));

        (void)LockRelease(&tag, ExclusiveLock, true);
    }
    held &= slots;
}

void
share_release(void)
{
    share_keep(0);
}

uint64
share_held(void)
{
    return held;
}

int
share_count(void)
{
    return pg_popcount64(held);
}

bool
share_is_empty(void)
{
    return held == 0;
}

bool
share_is_whole(void)
{
    return ~held == 0;
}

Datum
share_slots(void)
{
    Datum slots[OUTBOX_SLOTS];
    int count = 0;

    for (uint64 left = held; left != 0; left &= left - 1)
        slots[count++] = Int32GetDatum(pg_rightmost_one_pos64(left));
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
    share_take(share_part(~(uint64)0, part, parts));
    PG_RETURN_INT32(share_count());
}

/* apapacho_jobs.unlock_outbox_slots() */
Datum
apapacho_unlock_slots(PG_FUNCTION_ARGS)
{
    share_release();
    PG_RETURN_VOID();
}
