/*
 * commit.c: wakes a publisher when a transaction that has added outbox events commits.
 *
 * In every backend, at the end of each transaction; it costs those that have not written to the table a look into the
 * backend's own table of locks. Whether rows were added is told by the statistics that the transaction has gathered, so
 * that there is no trigger on the user's table. What cannot wake waits for the schedule: COMMIT PREPARED, rows that
 * arrive by logical replication with track_counts off, a transaction of another server.
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "utils/rel.h"
#include "utils/relcache.h"

#include "outbox/outbox.h"
#include "server/compat.h"
#include "server/seats.h"
#include "server/settings.h"
#include "server/user_tables.h"
#include "server/wake.h"

PG_FUNCTION_INFO_V1(apapacho_wake_publisher);

static bool ignored = false; /* this process is a publisher: what it writes tells it nothing new */
static bool added = false;   /* events, by the transaction that is about to commit */
static bool resumed = false; /* by this transaction: there may be events that can be sent now */

/* Whether this transaction has added rows to the events' table. */
static bool
has_added_events(void)
{
    Oid table = user_table_oid(TABLE_OUTBOX_EVENT);
    Relation relation;
    bool found;

    if (!OidIsValid(table) || !compat_holds_lock(table, RowExclusiveLock))
        return false;
    relation = RelationIdGetRelation(table); /* it is locked */
    if (relation == NULL)
        return false;
    if (relation->rd_rel->relkind != RELKIND_RELATION || relation->pgstat_info == NULL)
        found = true; /* nobody counts: perhaps */
    else
        found = relation->pgstat_info->trans != NULL && relation->pgstat_info->trans->tuples_inserted > 0;
    RelationClose(relation);
    return found;
}

static void
on_transaction_end(XactEvent event, void *argument)
{
    switch (event) {
    case XACT_EVENT_PRE_COMMIT:
        added = setting_outbox_wake_on_commit && !ignored && (setting_enabled || seats_any()) &&
                TransactionIdIsValid(GetTopTransactionIdIfAny()) && has_added_events();
        break;
    case XACT_EVENT_COMMIT:
        if (resumed)
            wake_hold(0);
        if (added || resumed)
            wake_publisher();
        added = resumed = false;
        break;
    case XACT_EVENT_ABORT:
    case XACT_EVENT_PREPARE:
        added = resumed = false;
        break;
    default:
        break;
    }
}

void
outbox_watch_commits(void)
{
    RegisterXactCallback(on_transaction_end, NULL);
}

void
outbox_ignore_own_commits(bool ignore)
{
    ignored = ignore;
}

void
outbox_wake_at_commit(void)
{
    resumed = true;
}

/* apapacho_jobs.wake_publisher(): when this transaction commits. */
Datum
apapacho_wake_publisher(PG_FUNCTION_ARGS)
{
    outbox_wake_at_commit();
    PG_RETURN_VOID();
}
