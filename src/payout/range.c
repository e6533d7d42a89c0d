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

/* The batch at hand; arrays and strings in `memory`. */
typedef struct Batch {
    PayRange *range;
    MemoryContext memory;
    char **ids;
    Timestamp *sinces; /* beside the ids */
    char **later;      /* who has been left for another transaction, for this one had items enough */
    Timestamp *later_since;
    int later_count;
    double seen_creators; /* in the last transactions, each counting half of the one after it */
    double seen_items;    /* of these creators */
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

/* Copies who was left for later; they count once the transaction is committed. */
static void
copy_later(Batch *batch, const PayFigures *figures)
{
    MemoryContext before = MemoryContextSwitchTo(batch->memory);

    for (int i = 0; i < figures->later_count; i++) {
        batch->later[batch->later_count + i] = pstrdup(figures->later[i]);
        batch->later_since[batch->later_count + i] = figures->later_since[i];
    }
    MemoryContextSwitchTo(before);
}

/* Of the ids, who has been looked at in this transaction: moves them to the beginning of a copy; their number. */
static int
leave_out_later(char **looked_at, char **ids, int count, const PayFigures *figures)
{
    int kept = 0;

    for (int i = 0; i < count; i++) {
        bool is_later = false;

        for (int k = 0; k < figures->later_count && !is_later; k++)
            is_later = strcmp(ids[i], figures->later[k]) == 0;
        if (!is_later)
            looked_at[kept++] = ids[i];
    }
    return kept;
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
    if (!range->everybody) {
        char **looked_at = palloc(sizeof(char *) * Max(count, 1));

        payout_looked_at(looked_at, leave_out_later(looked_at, ids, count, &figures));
    }
    copy_later(batch, &figures);
    run_as_end(&saved);
    xact_commit();
    range->locked = range->takes_lock;
    range->created += figures.created;
    batch->later_count += figures.later_count;
    batch->seen_creators = batch->seen_creators / 2 + count - figures.later_count;
    batch->seen_items = batch->seen_items / 2 + figures.items;
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
    xact_flush_later();
    xact_commit();
    range->locked = range->takes_lock;
}

/* The next creators; their number. */
static int
next_creators(Batch *batch, int most)
{
    PayRange *range = batch->range;
    RunAs saved;
    int count;

    if (range->everybody)
        payout_range_begin(range, "finding creators to pay", &saved);
    else
        xact_begin("finding creators to pay");
    count = payout_next_creators(range, most, batch->memory, &batch->ids, &batch->sinces);
    if (range->everybody)
        run_as_end(&saved);
    xact_commit();
    MemoryContextSwitchTo(batch->memory);
    batch->later = palloc(sizeof(char *) * Max(count, 1));
    batch->later_since = palloc(sizeof(Timestamp) * Max(count, 1));
    return count;
}

/*
 * How many creators to try in a transaction: some fewer than seem to have all the items that it may have, since whoever
 * has to be left for another one has been decided in vain.
 */
static int
creators_to_try(const Batch *batch)
{
    double fitting = 0.95 * PAYOUT_MOST_ITEMS * batch->seen_creators / Max(batch->seen_items, 1);

    if (batch->seen_creators < 1)
        return setting_payout_batch_size;
    return (int)Max(1, Min(fitting, setting_payout_batch_size));
}

/* Pays them, in several transactions if they have many items; false when the run was told to stop in between. */
static bool
pay_batch(const PayoutWork *work, Batch *batch, int count)
{
    int done = 0;

    while (done < count) {
        int tried = Min(creators_to_try(batch), count - done);
        int left;

        batch->later_count = 0;
        batch->range->errors += payout_divide(work, batch->ids + done, tried);
        left = batch->later_count;
        done += tried - left;
        memcpy(batch->ids + done, batch->later, sizeof(char *) * left);
        memcpy(batch->sinces + done, batch->later_since, sizeof(Timestamp) * left);
        if (done < count && job_should_stop(batch->range->run))
            return false;
    }
    return true;
}

void
payout_pay_range(PayRange *range, void (*report)(const PayRange *range, void *state), void *state)
{
    Batch batch = {
        .range = range,
        .memory = AllocSetContextCreate(range->run->context, "apapacho_jobs payout batch", ALLOCSET_DEFAULT_SIZES),
    };
    PayoutWork work = {
        .step = pay_in_transaction,
        .state = &batch,
        .memory = batch.memory,
        .failure = "could not calculate the payout of creator",
        .failed = keep_error,
    };

    while (!job_should_stop(range->run)) {
        int count = next_creators(&batch, creators_to_try(&batch));
        char *last;

        if (count == 0)
            break;
        last = batch.ids[count - 1];
        if (!pay_batch(&work, &batch, count))
            break;
        range->after = MemoryContextStrdup(range->run->context, last);
        range->looked_at += count;
        MemoryContextSwitchTo(range->run->context);
        MemoryContextReset(batch.memory);
        report(range, state);
    }
    MemoryContextSwitchTo(range->run->context); /* it may be in the one that goes */
    MemoryContextDelete(batch.memory);
}
