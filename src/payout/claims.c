/*
 * claims.c: writes apapacho_jobs.payout_claim, a row for each item of a live payout: the table's unique index is what
 * keeps a transaction from being in two.
 *
 * Runs in every backend that inserts items (guard.c). Goes by the table and its indexes directly: a row costs half of
 * what it costs an INSERT of arrays, and there is one for each item. All indexes: REINDEX CONCURRENTLY makes another
 * one beside the unique index, which takes its place. Whoever claims the same transactions at the same
 * time does so in the same order, so that one waits for the other and neither for both.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "executor/executor.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "payout/internal.h"
#include "server/compat.h"

#define ROWS_AT_ONCE 500 /* which share their WAL */

typedef struct Claim {
    char *transaction;
    char *payout;
} Claim;

static Oid
own_relation(const char *name)
{
    return get_relname_relid(name, get_namespace_oid("apapacho_jobs", false));
}

static int
compare_claims(const void *a, const void *b)
{
    return strcmp(((const Claim *)a)->transaction, ((const Claim *)b)->transaction);
}

static void
fill_slot(TupleTableSlot *slot, const Claim *claim)
{
    ExecClearTuple(slot);
    slot->tts_values[0] = CStringGetTextDatum(claim->transaction);
    slot->tts_values[1] = CStringGetTextDatum(claim->payout);
    slot->tts_isnull[0] = slot->tts_isnull[1] = false;
    ExecStoreVirtualTuple(slot);
}

/* Writes them, in that order; waits for whoever is claiming one of them; ERROR 23505 when one is claimed. */
static void
insert_claims(Relation table, const Claim *claims, int count)
{
    EState *state = CreateExecutorState();
    ResultRelInfo *target = makeNode(ResultRelInfo);
    TupleTableSlot *slots[ROWS_AT_ONCE];
    int slot_count = Min(count, ROWS_AT_ONCE);

    InitResultRelInfo(target, table, 0, NULL, 0);
    ExecOpenIndices(target, false);
    for (int i = 0; i < slot_count; i++)
        slots[i] = table_slot_create(table, NULL);
    for (int first = 0; first < count; first += slot_count) {
        int rows = Min(slot_count, count - first);

        for (int i = 0; i < rows; i++)
            fill_slot(slots[i], &claims[first + i]);
        table_multi_insert(table, slots, rows, GetCurrentCommandId(true), 0, NULL);
        for (int i = 0; i < rows; i++) {
            compat_insert_index_tuples(target, slots[i], state);
            ResetPerTupleExprContext(state);
        }
    }
    for (int i = 0; i < slot_count; i++)
        ExecDropSingleTupleTableSlot(slots[i]);
    ExecCloseIndices(target);
    FreeExecutorState(state);
}

void
payout_insert_claims(char **transactions, char **payouts, int count)
{
    Claim *claims = palloc(sizeof(Claim) * count);
    Relation table;

    for (int i = 0; i < count; i++)
        claims[i] = (Claim){.transaction = transactions[i], .payout = payouts[i]};
    qsort(claims, count, sizeof(Claim), compare_claims);
    table = table_open(own_relation("payout_claim"), RowExclusiveLock);
    insert_claims(table, claims, count);
    table_close(table, NoLock);
    CommandCounterIncrement();
    pfree(claims);
}
