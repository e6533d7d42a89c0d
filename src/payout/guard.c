/*
 * guard.c: the guards on "PayoutItem", "Transaction" and "Creator": a transaction is in one live payout at most, and
 * who has to be looked at again is remembered.
 *
 * Runs in every backend that writes these tables, as triggers; what they read and write they do as the owner of
 * "Payout", whoever sets them off. Locks: the payouts of the items, FOR SHARE, so that their status stays as it is.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "payout/internal.h"
#include "server/compat.h"

PG_FUNCTION_INFO_V1(apapacho_guard_items);
PG_FUNCTION_INFO_V1(apapacho_guard_discovery);

bool payout_paying = false;

#define CHUNK_ROWS 10000 /* items that are dealt with at once */

static const char lock_payouts_sql[] =
    "SELECT l.id, l.holds, l.sent FROM (SELECT DISTINCT u.id FROM pg_catalog.unnest($1) AS u (id) ORDER BY u.id) AS d"
    " CROSS JOIN LATERAL (SELECT p.\"id\" AS id, {holds} AS holds, p.\"status\"::text = 'SENT' AS sent"
    "  FROM {Payout} AS p WHERE p.\"id\" = d.id FOR SHARE OF p) AS l ORDER BY l.id COLLATE \"C\"";

/* The shape of this and the next ones allows of lookups by index only, whatever the planner thinks of the tables. */
static const char release_sql[] =
    "DELETE FROM apapacho_jobs.payout_claim AS c USING (SELECT l.tid FROM"
    "  ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) AS u (t, p) CROSS JOIN LATERAL"
    "   (SELECT k.ctid AS tid FROM apapacho_jobs.payout_claim AS k WHERE k.transaction_id = u.t COLLATE \"C\""
    "     AND k.payout_id = u.p OFFSET 0) AS l) AS d WHERE c.ctid = d.tid RETURNING c.transaction_id";

/* Where the tables had a transaction in two live payouts before there were guards, the other one has it from now on. */
static const char inherit_sql[] =
    "INSERT INTO apapacho_jobs.payout_claim (transaction_id, payout_id)"
    " SELECT u.t, l.id FROM (SELECT DISTINCT u.t FROM pg_catalog.unnest($1) AS u (t)) AS u CROSS JOIN LATERAL"
    "  (SELECT p.\"id\" FROM {PayoutItem} AS i CROSS JOIN LATERAL (SELECT p.\"id\", p.\"createdAt\" FROM {Payout} AS p"
    "    WHERE p.\"id\" = i.\"payoutId\" AND {holds} OFFSET 0) AS p WHERE i.\"transactionId\" = u.t"
    "   ORDER BY p.\"createdAt\", p.\"id\" LIMIT 1) AS l ON CONFLICT DO NOTHING";

static const char creators_of_sql[] =
    "SELECT DISTINCT l.creator FROM pg_catalog.unnest($1) AS u (id) CROSS JOIN LATERAL"
    " (SELECT p.\"creatorId\" AS creator FROM {Payout} AS p WHERE p.\"id\" = u.id OFFSET 0) AS l";

static const Oid one_array[] = {TEXTARRAYOID};
static const Oid two_arrays[] = {TEXTARRAYOID, TEXTARRAYOID};

void
payout_guard_begin(TriggerData *trigger, PayoutGuard *guard)
{
    Relation relation = trigger->tg_relation;
    Oid namespace_id = RelationGetNamespace(relation);
    Oid payout;
    HeapTuple class;

    guard->relation = relation;
    guard->schema = get_namespace_name(namespace_id);
    payout = get_relname_relid("Payout", namespace_id);
    class = OidIsValid(payout) ? SearchSysCache1(RELOID, ObjectIdGetDatum(payout)) : NULL;
    if (!HeapTupleIsValid(class))
        ereport(ERROR,
                (errcode(ERRCODE_UNDEFINED_TABLE),
                 errmsg("table %s does not exist", quote_qualified_identifier(guard->schema, "Payout")),
                 errdetail("The guards of apapacho_jobs on table \"%s\" need it.", RelationGetRelationName(relation))));
    payout_connect_spi();
    run_as(&guard->saved, ((Form_pg_class)GETSTRUCT(class))->relowner);
    ReleaseSysCache(class);
    payout_plan_by_index();
}

void
payout_guard_end(const PayoutGuard *guard)
{
    run_as_end(&guard->saved);
    SPI_finish();
}

char *
payout_column_text(HeapTuple tuple, TupleDesc shape, const char *column)
{
    int number = SPI_fnumber(shape, column);
    Oid type = number > 0 ? SPI_gettypeid(shape, number) : InvalidOid;
    bool is_null;
    Datum value;

    if (type != TEXTOID && type != VARCHAROID && !(OidIsValid(type) && get_typtype(type) == TYPTYPE_ENUM))
        ereport(ERROR, (errcode(ERRCODE_DATATYPE_MISMATCH),
                        errmsg("a guard of apapacho_jobs finds no text in column \"%s\"", column),
                        errhint("Give the table the columns that apapacho_create_tables() would give it.")));
    value = heap_getattr(tuple, number, shape, &is_null);
    if (is_null)
        return NULL;
    return type == TEXTOID || type == VARCHAROID ? TextDatumGetCString(value) : SPI_getvalue(tuple, shape, number);
}

void
payout_each_row(Tuplestorestate *rows, TupleDesc shape, void (*visit)(void *state, HeapTuple tuple, TupleDesc shape),
                void *state)
{
    TupleTableSlot *slot = MakeSingleTupleTableSlot(shape, &TTSOpsMinimalTuple);
    int pointer = tuplestore_alloc_read_pointer(rows, EXEC_FLAG_REWIND); /* others read it too */

    tuplestore_select_read_pointer(rows, pointer);
    tuplestore_rescan(rows);
    while (tuplestore_gettupleslot(rows, true, false, slot)) {
        bool should_free;
        HeapTuple tuple = ExecFetchSlotHeapTuple(slot, false, &should_free);

        visit(state, tuple, shape);
        if (should_free)
            heap_freetuple(tuple);
        tuplestore_select_read_pointer(rows, pointer);
    }
    ExecDropSingleTupleTableSlot(slot);
}

/* Items: which transaction in which payout. */
typedef struct Items {
    const PayoutGuard *guard;
    void (*deal_with)(struct Items *items); /* those at hand */
    bool changes;                           /* of what there was before: not allowed in payouts that are SENT */
    int count;
    char *transactions[CHUNK_ROWS];
    char *payouts[CHUNK_ROWS];
    MemoryContext chunk; /* of the strings */
} Items;

static int
compare_ids(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Locks the payouts; returns the ids of those that hold their items, sorted; their number in *count. */
static char **
lock_payouts(const Items *items, int *count)
{
    Datum value = payout_text_array(unconstify(Items *, items)->payouts, items->count);
    uint64 rows = payout_run_kept(items->guard->schema, lock_payouts_sql, 1, one_array, &value, NULL);
    char **holding = palloc(sizeof(char *) * Max(rows, 1));
    bool is_null;

    *count = 0;
    for (uint64 row = 0; row < rows; row++) {
        HeapTuple tuple = SPI_tuptable->vals[row];

        if (items->changes && DatumGetBool(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 3, &is_null)))
            ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                            errmsg("items of payout \"%s\" cannot be changed", spi_text(row, 1)),
                            errdetail("The payout is SENT.")));
        if (DatumGetBool(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 2, &is_null)))
            holding[(*count)++] = spi_text(row, 1);
    }
    qsort(holding, *count, sizeof(char *), compare_ids);
    return holding;
}

void
payout_inherit_claims(const PayoutGuard *guard)
{
    uint64 rows = SPI_processed;
    char **transactions = palloc(sizeof(char *) * Max(rows, 1));
    Datum value;

    if (rows == 0)
        return;
    for (uint64 row = 0; row < rows; row++)
        transactions[row] = spi_text(row, 1);
    value = payout_text_array(transactions, (int)rows);
    (void)payout_run_kept(guard->schema, inherit_sql, 1, one_array, &value, NULL);
}

/* The creators of these payouts are to be looked at; a run that writes their payouts is doing so. */
static void
mark_creators(const PayoutGuard *guard, Datum payouts, Timestamp since)
{
    uint64 rows;

    if (payout_paying)
        return;
    rows = payout_run_kept(guard->schema, creators_of_sql, 1, one_array, &payouts, NULL);
    for (uint64 row = 0; row < rows; row++)
        payout_mark_dirty(spi_text(row, 1), since);
}

static void
claim_items(Items *items)
{
    int holding_count;
    char **holding = lock_payouts(items, &holding_count);
    int kept = 0;

    for (int i = 0; i < items->count; i++) {
        if (bsearch(&items->payouts[i], holding, holding_count, sizeof(char *), compare_ids) == NULL)
            continue;
        items->transactions[kept] = items->transactions[i];
        items->payouts[kept++] = items->payouts[i];
    }
    if (kept == 0)
        return;
    payout_insert_claims(items->transactions, items->payouts, kept);
    if (!payout_paying)
        mark_creators(items->guard, payout_text_array(items->payouts, kept), DT_NOEND);
}

static void
release_items(Items *items)
{
    int holding_count;
    Datum values[2];

    (void)lock_payouts(items, &holding_count);
    values[0] = payout_text_array(items->transactions, items->count);
    values[1] = payout_text_array(items->payouts, items->count);
    if (payout_run_kept(items->guard->schema, release_sql, 2, two_arrays, values, NULL) == 0)
        return;
    mark_creators(items->guard, values[1], DT_NOBEGIN);
}

/* After all else: what was released may be in another payout already. */
static void
inherit_items(Items *items)
{
    Datum value = payout_text_array(items->transactions, items->count);

    (void)payout_run_kept(items->guard->schema, inherit_sql, 1, one_array, &value, NULL);
}

static void
flush_items(Items *items)
{
    MemoryContext before = MemoryContextSwitchTo(items->chunk);

    if (items->count > 0) {
        items->deal_with(items);
    }
    items->count = 0;
    MemoryContextSwitchTo(before);
    MemoryContextReset(items->chunk);
}

static void
add_item(void *state, HeapTuple tuple, TupleDesc shape)
{
    Items *items = state;
    MemoryContext before = MemoryContextSwitchTo(items->chunk);

    items->transactions[items->count] = payout_column_text(tuple, shape, "transactionId");
    items->payouts[items->count++] = payout_column_text(tuple, shape, "payoutId");
    MemoryContextSwitchTo(before);
    if (items->count == CHUNK_ROWS)
        flush_items(items);
}

static void
guard_items(const PayoutGuard *guard, Tuplestorestate *rows, void (*deal_with)(Items *items), bool changes)
{
    Items *items;

    if (rows == NULL || tuplestore_tuple_count(rows) == 0)
        return;
    items = palloc0(sizeof(Items));
    items->guard = guard;
    items->deal_with = deal_with;
    items->changes = changes;
    items->chunk = AllocSetContextCreate(CurrentMemoryContext, "apapacho_jobs items", ALLOCSET_DEFAULT_SIZES);
    payout_each_row(rows, RelationGetDescr(guard->relation), add_item, items);
    flush_items(items);
    MemoryContextDelete(items->chunk);
    pfree(items);
}

/* Statement trigger on "PayoutItem", after INSERT, UPDATE, DELETE with transition tables. */
Datum
apapacho_guard_items(PG_FUNCTION_ARGS)
{
    TriggerData *trigger = (TriggerData *)fcinfo->context;
    PayoutGuard guard;

    if (!CALLED_AS_TRIGGER(fcinfo) || TRIGGER_FIRED_FOR_ROW(trigger->tg_event) ||
        TRIGGER_FIRED_BEFORE(trigger->tg_event))
        elog(ERROR, "apapacho_guard_items must be called as a statement trigger after the event");
    payout_guard_begin(trigger, &guard);
    guard_items(&guard, trigger->tg_oldtable, release_items, true);
    guard_items(&guard, trigger->tg_newtable, claim_items, TRIGGER_FIRED_BY_UPDATE(trigger->tg_event));
    guard_items(&guard, trigger->tg_oldtable, inherit_items, false);
    payout_guard_end(&guard);
    return PointerGetDatum(NULL);
}

void
payout_mark_dirty(const char *creator_id, Timestamp since)
{
    Relation relation;

    if (payout_paying)
        return;
    relation =
        table_open(get_relname_relid("payout_dirty", get_namespace_oid("apapacho_jobs", false)), RowExclusiveLock);
    if (creator_id != NULL && RelationGetNumberOfBlocks(relation) < PAYOUT_DIRTY_BLOCKS) {
        TupleTableSlot *slot = table_slot_create(relation, NULL);

        ExecClearTuple(slot);
        slot->tts_values[0] = CStringGetTextDatum(creator_id);
        slot->tts_values[1] = TimestampGetDatum(since);
        slot->tts_isnull[0] = slot->tts_isnull[1] = false;
        ExecStoreVirtualTuple(slot);
        simple_table_tuple_insert(relation, slot); /* there is no index, no trigger */
        ExecDropSingleTupleTableSlot(slot);
    }
    table_close(relation, NoLock);
}

static void
mark_transaction(HeapTuple tuple, TupleDesc shape)
{
    int number = SPI_fnumber(shape, "occurredAt");
    bool is_null = true;
    Datum occurred_at = (Datum)0;

    if (number > 0 && SPI_gettypeid(shape, number) == TIMESTAMPOID)
        occurred_at = heap_getattr(tuple, number, shape, &is_null);
    payout_mark_dirty(payout_column_text(tuple, shape, "creatorId"),
                      is_null ? DT_NOBEGIN : DatumGetTimestamp(occurred_at));
}

/* Row trigger on "Transaction" (after INSERT, UPDATE, DELETE) and "Creator" (after UPDATE). */
Datum
apapacho_guard_discovery(PG_FUNCTION_ARGS)
{
    TriggerData *trigger = (TriggerData *)fcinfo->context;
    TupleDesc shape;

    if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_FOR_ROW(trigger->tg_event) ||
        TRIGGER_FIRED_BEFORE(trigger->tg_event))
        elog(ERROR, "apapacho_guard_discovery must be called as a row trigger after the event");
    shape = RelationGetDescr(trigger->tg_relation);
    if (strcmp(trigger->tg_trigger->tgname, "apapacho_creator_change") == 0) {
        payout_mark_dirty(payout_column_text(trigger->tg_newtuple, shape, "id"), DT_NOBEGIN);
    } else {
        mark_transaction(trigger->tg_trigtuple, shape);
        if (TRIGGER_FIRED_BY_UPDATE(trigger->tg_event))
            mark_transaction(trigger->tg_newtuple, shape);
    }
    return PointerGetDatum(NULL);
}
