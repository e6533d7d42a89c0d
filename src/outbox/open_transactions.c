/*
 * open_transactions.c: which transactions may still add events that are older than those that have been seen. In a
 * publisher.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/array.h"

#include "outbox/hand.h"
#include "server/xact.h"

static const char list_sql[] =
    "SELECT pg_catalog.array_agg(a.pid), pg_catalog.array_agg(a.xact_start),"
    " COALESCE(pg_catalog.bool_or(a.state OPERATOR(pg_catalog.=) 'disabled'), false)"
    "  OR EXISTS (SELECT FROM pg_catalog.pg_prepared_xacts AS p WHERE p.database OPERATOR(pg_catalog.=)"
    "   pg_catalog.current_database())"
    " FROM pg_catalog.pg_stat_activity AS a WHERE a.datid OPERATOR(pg_catalog.=) (SELECT d.oid"
    "  FROM pg_catalog.pg_database AS d WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database())"
    " AND a.pid OPERATOR(pg_catalog.<>) pg_catalog.pg_backend_pid()"
    " AND (a.xact_start IS NOT NULL OR a.state OPERATOR(pg_catalog.=) 'disabled')";

static int
row_array(int column, Oid type, int length, char align, Datum **elements, bool **nulls)
{
    bool is_null;
    Datum value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, column, &is_null);
    int count = 0;

    if (!is_null)
        deconstruct_array(DatumGetArrayTypeP(value), type, length, true, align, elements, nulls, &count);
    return count;
}

void
outbox_list_transactions(OpenTransactions *list)
{
    MemoryContext caller = CurrentMemoryContext;
    Datum *pids = NULL;
    Datum *starts = NULL;
    bool *no_pids;
    bool *no_starts = NULL;
    bool is_null;
    int count;

    list->count = 0;
    list->at = GetCurrentTimestamp();
    xact_begin("apapacho_jobs: looking for open transactions");
    (void)spi_run(list_sql, 0, NULL, NULL, NULL, true, 1);
    count = row_array(1, INT4OID, sizeof(int32), TYPALIGN_INT, &pids, &no_pids);
    (void)row_array(2, TIMESTAMPTZOID, sizeof(TimestampTz), TYPALIGN_DOUBLE, &starts, &no_starts);
    list->known = count <= OUTBOX_MOST_TRANSACTIONS &&
                  !DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 3, &is_null));
    for (int i = 0; list->known && i < count; i++) {
        if (no_starts[i])
            continue;
        list->pids[list->count] = DatumGetInt32(pids[i]);
        list->started_at[list->count++] = DatumGetTimestampTz(starts[i]);
    }
    xact_commit();
    MemoryContextSwitchTo(caller);
}

static bool
has(const OpenTransactions *list, int pid, TimestampTz started_at)
{
    for (int i = 0; i < list->count; i++) {
        if (list->pids[i] == pid && list->started_at[i] == started_at)
            return true;
    }
    return false;
}

TimestampTz
outbox_oldest_ended(const OpenTransactions *before, const OpenTransactions *now)
{
    TimestampTz oldest = before->at;

    if (!before->known || !now->known)
        return DT_NOBEGIN;
    for (int i = 0; i < before->count; i++) {
        if (before->started_at[i] < oldest && !has(now, before->pids[i], before->started_at[i]))
            oldest = before->started_at[i];
    }
    return oldest;
}
