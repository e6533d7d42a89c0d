/*
 * range.c: pays the creators of a range of ids, batch after batch, each a transaction of its own. When a batch fails
 * its transaction is undone and its halves are tried, down to the creators who cannot be paid (divide.c).
 *
 * Runs in the worker of the job `payout` and in its helpers (shares.c). A batch's ids live in a memory context that is
 * emptied after it. The worker holds the lock of calculations while it is at work, for itself and its helpers.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/lock.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "payout/internal.h"
#include "server/compat.h"
#include "server/settings.h"
#include "server/user_tables.h"

/* The batch at hand. */
typedef struct Batch {
    PayRange *range;
    char **ids;
    Timestamp *sinces; /* beside the ids */
} Batch;

/* The lock of calculations. It stands for the table "Payout" as it is now. */
void
payout_lock_tag(LOCKTAG *tag)
{
    Oid table = get_relname_relid("Payout", get_namespace_oid(setting_schema, true));

    SET_LOCKTAG_OBJECT(*tag, MyDatabaseId, RelationRelationId, table, 1);
}

/* Waits for its turn, in a transaction that holds nothing else and no snapshot. */
void
payout_range_lock(PayRange *range)
{
    if (range->locked || !range->takes_lock)
        return;
    pgstat_report_activity(STATE_RUNNING, "waiting for another payout calculation");
    StartTransactionCommand();
    (void)LockAcquire(&range->lock, ExclusiveLock, true, false);
    CommitTransactionCommand();
    range->locked = true;
    pgstat_report_activity(STATE_IDLE, NULL);
}

void
payout_range_begin(const PayRange *range, const char *activity, RunAs *saved)
{
    LOCKTAG tag;

    xact_begin(activity);
    payout_run_as(saved);
    payout_lock_tag(&tag);
    if (memcmp(&tag, &range->lock, sizeof(tag)) != 0)
        ereport(ERROR, (errcode(ERRCODE_OBJECT_IN_USE),
                        errmsg("table %s was replaced during the payout calculation", user_table_name(TABLE_PAYOUT)),
                        errhint("Run the job again.")));
}

/* Pays creators in a transaction of their own; counts them once it is committed. A PayoutStep. */
static void
pay_in_transaction(void *state, char **ids, int count)
{
    Batch *batch = state;
    PayRange *range = batch->range;
    PayFigures figures;
    RunAs saved;

    payout_range_lock(range);
    range->locked = false; /* if it fails: an abort releases the session's locks too */
    payout_range_begin(range, "calculating payouts", &saved);
    payout_pay(&range->rules, range->run_id, ids, count > 0 ? batch->sinces + (ids - batch->ids) : NULL, count,
               &figures);
    if (!range->everybody)
        payout_looked_at(ids, count);
    run_as_end(&saved);
    xact_commit();
    range->locked = range->takes_lock;
    range->created += figures.created;
}

/* A creator who cannot be paid: the reason is kept, and the next run tries again. */
static void
keep_error(void *state, char *id, const ErrorData *error)
{
    PayRange *range = ((Batch *)state)->range;
    RunAs saved;

    payout_range_lock(range);
    range->locked = false;
    payout_range_begin(range, "keeping why a payout could not be calculated", &saved);
    payout_keep_error(&range->rules, range->run_id, id, error);
    if (!range->everybody)
        payout_looked_at(&id, 1);
    run_as_end(&saved);
    xact_commit();
    range->locked = range->takes_lock;
}

/* The next creators, in `memory`; their number. */
static int
next_creators(Batch *batch, MemoryContext memory)
{
    PayRange *range = batch->range;
    RunAs saved;
    int count;

    if (range->everybody)
        payout_range_begin(range, "finding creators to pay", &saved);
    else
        xact_begin("finding creators to pay");
    count = payout_next_creators(range, setting_payout_batch_size, memory, &batch->ids, &batch->sinces);
    if (range->everybody)
        run_as_end(&saved);
    xact_commit();
    return count;
}

void
payout_pay_range(PayRange *range, void (*report)(const PayRange *range, void *state), void *state)
{
    MemoryContext memory =
        AllocSetContextCreate(range->run->context, "apapacho_jobs payout batch", ALLOCSET_DEFAULT_SIZES);
    Batch batch = {.range = range};
    PayoutWork work = {
        .step = pay_in_transaction,
        .state = &batch,
        .memory = memory,
        .failure = "could not calculate the payout of creator",
        .failed = keep_error,
    };

    while (!job_should_stop(range->run)) {
        int count = next_creators(&batch, memory);

        if (count == 0)
            break;
        MemoryContextSwitchTo(memory);
        range->errors += payout_divide(&work, batch.ids, count);
        range->after = MemoryContextStrdup(range->run->context, batch.ids[count - 1]);
        range->looked_at += count;
        MemoryContextSwitchTo(range->run->context);
        MemoryContextReset(memory);
        report(range, state);
    }
    MemoryContextDelete(memory);
}
