/*
 * transitions.c: the guards on "Payout": which status may follow which, and what goes with a change, whoever makes it:
 * transactions and adjustments are held or released, the ledger is posted, the change is written down.
 *
 * Runs in every backend that writes the table, as triggers, as the table's owner.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/rel.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "payout/internal.h"
#include "server/compat.h"

PG_FUNCTION_INFO_V1(apapacho_guard_payouts);
PG_FUNCTION_INFO_V1(apapacho_guard_payout_change);
PG_FUNCTION_INFO_V1(apapacho_guard_truncate);

/* A row of "Payout", as far as the guards go by it. */
typedef struct PayoutRow {
    char *id;
    char *creator;
    char *currency;
    char *status;
    char *reference;
    int64 amount;
    int64 failures;
    bool has_next_retry;
    PayoutLevel level;
} PayoutRow;

static const char release_claims_sql[] =
    "DELETE FROM apapacho_jobs.payout_claim AS c WHERE c.payout_id = $1 AND c.transaction_id = ANY (ARRAY"
    " (SELECT i.\"transactionId\" COLLATE \"C\" FROM {PayoutItem} AS i WHERE i.\"payoutId\" = $1))"
    " RETURNING c.transaction_id";
static const char claim_again_sql[] = "INSERT INTO apapacho_jobs.payout_claim (transaction_id, payout_id)"
                                      " SELECT i.\"transactionId\", $1 FROM {PayoutItem} AS i WHERE i.\"payoutId\" = "
                                      "$1 ORDER BY i.\"transactionId\" COLLATE \"C\"";
static const char release_adjustments_sql[] =
    "UPDATE apapacho_jobs.payout_adjustment AS a SET payout_id = NULL WHERE a.payout_id = $1";
static const char hold_adjustments_sql[] =
    "UPDATE apapacho_jobs.payout_adjustment AS a SET payout_id = $1 WHERE a.payout_id IS NULL AND a.id = ANY (ARRAY"
    " (SELECT i.adjustment_id FROM apapacho_jobs.payout_adjustment_item AS i WHERE i.payout_id = $1))";
static const char count_adjustments_sql[] =
    "SELECT pg_catalog.count(*) FROM apapacho_jobs.payout_adjustment_item AS i WHERE i.payout_id = $1";
static const char log_sql[] =
    "INSERT INTO apapacho_jobs.payout_transition (payout_id, from_status, to_status, reference, event)"
    " VALUES ($1, $2, $3, $4, $5)";
static const char forget_sql[] = "DELETE FROM apapacho_jobs.payout_adjustment_item AS i WHERE i.payout_id = $1";
static const char forget_origin_sql[] = "DELETE FROM apapacho_jobs.payout_origin AS o WHERE o.payout_id = $1";
static const char rename_sql[] =
    "UPDATE apapacho_jobs.payout_adjustment AS a SET payout_id = $2 WHERE a.payout_id = $1";
static const char rename_items_sql[] =
    "UPDATE apapacho_jobs.payout_adjustment_item AS i SET payout_id = $2 WHERE i.payout_id = $1";
static const char rename_origin_sql[] =
    "UPDATE apapacho_jobs.payout_origin AS o SET payout_id = $2 WHERE o.payout_id = $1";
static const char sent_sql[] =
    "SELECT pg_catalog.count(*) FROM (SELECT FROM {Payout} AS p WHERE p.\"status\"::text = 'SENT' LIMIT 1) AS s";
static const char adjusted_sql[] =
    "SELECT pg_catalog.count(*) FROM (SELECT FROM apapacho_jobs.payout_adjustment AS a LIMIT 1) AS a";

static const Oid text_types[] = {TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID};

const char *payout_announcing = NULL;

PayoutLevel
payout_level(const char *status, int64 retry_count, bool has_next_retry)
{
    if (strcmp(status, "SENT") == 0)
        return LEVEL_SENT;
    if (strcmp(status, "CALCULATED") == 0 || strcmp(status, "PENDING") == 0)
        return LEVEL_HOLDING;
    if (strcmp(status, "FAILED") == 0 && has_next_retry && retry_count < MAX_FAILURES)
        return LEVEL_HOLDING;
    return LEVEL_NONE;
}

static int64
column_int(HeapTuple tuple, TupleDesc shape, const char *column)
{
    int number = SPI_fnumber(shape, column);
    bool is_null = true;
    Datum value = (Datum)0;
    Oid type = number > 0 ? SPI_gettypeid(shape, number) : InvalidOid;

    if (type != INT8OID && type != INT4OID)
        ereport(ERROR, (errcode(ERRCODE_DATATYPE_MISMATCH),
                        errmsg("a guard of apapacho_jobs finds no number in column \"%s\"", column),
                        errhint("Give the table the columns that apapacho_create_tables() would give it.")));
    value = heap_getattr(tuple, number, shape, &is_null);
    if (is_null)
        return 0;
    return type == INT8OID ? DatumGetInt64(value) : DatumGetInt32(value);
}

static bool
column_is_null(HeapTuple tuple, TupleDesc shape, const char *column)
{
    int number = SPI_fnumber(shape, column);

    return number <= 0 || heap_attisnull(tuple, number, shape);
}

static void
read_row(HeapTuple tuple, TupleDesc shape, PayoutRow *row)
{
    row->id = payout_column_text(tuple, shape, "id");
    row->creator = payout_column_text(tuple, shape, "creatorId");
    row->currency = payout_column_text(tuple, shape, "currency");
    row->status = payout_column_text(tuple, shape, "status");
    row->reference = payout_column_text(tuple, shape, "providerTransferId");
    row->amount = column_int(tuple, shape, "payoutAmount");
    if (row->id == NULL || row->status == NULL)
        ereport(ERROR, (errcode(ERRCODE_NOT_NULL_VIOLATION), errmsg("a payout has no id or no status")));
    row->failures = column_int(tuple, shape, "retryCount");
    row->has_next_retry = !column_is_null(tuple, shape, "nextRetryAt");
    row->level = payout_level(row->status, row->failures, row->has_next_retry);
}

/* Ledger entries that are due. */
typedef struct Lines {
    LedgerLine *lines;
    int count;
    int capacity;
} Lines;

static void
add_line(Lines *lines, const PayoutRow *row, bool exists, LedgerAccount debit, LedgerAccount credit,
         const char *description)
{
    if (lines->count == lines->capacity) {
        lines->capacity = Max(16, lines->capacity * 2);
        lines->lines = lines->lines == NULL ? palloc(sizeof(LedgerLine) * lines->capacity)
                                            : repalloc(lines->lines, sizeof(LedgerLine) * lines->capacity);
    }
    lines->lines[lines->count++] = (LedgerLine){
        .payout_id = exists ? row->id : NULL,
        .creator_id = row->creator,
        .currency = row->currency,
        .debit = debit,
        .credit = credit,
        .amount = row->amount,
        .description = description,
    };
}

/* From one level to another: nothing, held, sent. `exists`: the row can still be referred to. */
static void
add_lines(Lines *lines, const PayoutRow *row, PayoutLevel from, PayoutLevel to, bool exists)
{
    if (from == LEVEL_NONE && to != LEVEL_NONE)
        add_line(lines, row, exists, LEDGER_CREATOR_PAYABLE, LEDGER_PAYOUT_PENDING, "payout calculated");
    if (from != LEVEL_SENT && to == LEVEL_SENT)
        add_line(lines, row, exists, LEDGER_PAYOUT_PENDING, LEDGER_CASH, "payout sent");
    if (from == LEVEL_HOLDING && to == LEVEL_NONE)
        add_line(lines, row, exists, LEDGER_PAYOUT_PENDING, LEDGER_CREATOR_PAYABLE,
                 exists ? "payout reversed" : psprintf("payout %s deleted", row->id));
}

static uint64
run_for(const PayoutGuard *guard, const char *sql, const char *payout_id)
{
    Datum value = CStringGetTextDatum(payout_id);

    return payout_run_kept(guard->schema, sql, 1, text_types, &value, NULL);
}

/* Rows that were inserted or deleted by one statement. */
typedef struct Rows {
    const PayoutGuard *guard;
    bool deleted;
    Lines lines;
} Rows;

static void
visit_row(void *state, HeapTuple tuple, TupleDesc shape)
{
    Rows *rows = state;
    PayoutRow row;

    read_row(tuple, shape, &row);
    if (!rows->deleted) {
        add_lines(&rows->lines, &row, LEVEL_NONE, row.level, true);
        payout_mark_dirty(row.creator, DT_NOEND);
        return;
    }
    if (row.level == LEVEL_SENT)
        ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                        errmsg("payout \"%s\" cannot be deleted", row.id), errdetail("It is SENT.")));
    add_lines(&rows->lines, &row, row.level, LEVEL_NONE, false);
    (void)run_for(rows->guard, release_adjustments_sql, row.id);
    (void)run_for(rows->guard, forget_sql, row.id);
    (void)run_for(rows->guard, forget_origin_sql, row.id);
    payout_mark_dirty(row.creator, DT_NOBEGIN);
}

/* Statement trigger on "Payout", after INSERT and DELETE with transition tables. */
Datum
apapacho_guard_payouts(PG_FUNCTION_ARGS)
{
    TriggerData *trigger = (TriggerData *)fcinfo->context;
    PayoutGuard guard;
    Rows rows = {.guard = &guard};
    Tuplestorestate *store;

    if (!CALLED_AS_TRIGGER(fcinfo) || TRIGGER_FIRED_FOR_ROW(trigger->tg_event) ||
        TRIGGER_FIRED_BEFORE(trigger->tg_event))
        elog(ERROR, "apapacho_guard_payouts must be called as a statement trigger after the event");
    rows.deleted = TRIGGER_FIRED_BY_DELETE(trigger->tg_event);
    store = rows.deleted ? trigger->tg_oldtable : trigger->tg_newtable;
    if (store == NULL || tuplestore_tuple_count(store) == 0)
        return PointerGetDatum(NULL);
    payout_guard_begin(trigger, &guard);
    payout_each_row(store, RelationGetDescr(guard.relation), visit_row, &rows);
    payout_ledger_post(guard.schema, rows.lines.lines, rows.lines.count);
    payout_guard_end(&guard);
    return PointerGetDatum(NULL);
}

/* Whether that change of status is allowed, to anybody. */
static bool
is_allowed(const char *from, const char *to)
{
    static const char *const allowed[][2] = {
        {"CALCULATED", "PENDING"},   {"CALCULATED", "SENT"}, {"CALCULATED", "FAILED"},
        {"CALCULATED", "CANCELLED"}, {"PENDING", "SENT"},    {"PENDING", "FAILED"},
        {"PENDING", "CANCELLED"},    {"FAILED", "PENDING"},  {"FAILED", "CANCELLED"},
    };

    for (int i = 0; i < lengthof(allowed); i++) {
        if (strcmp(from, allowed[i][0]) == 0 && strcmp(to, allowed[i][1]) == 0)
            return true;
    }
    return strcmp(from, to) == 0;
}

static void
check_change(TriggerData *trigger, TupleDesc shape, const PayoutRow *before, const PayoutRow *after)
{
    static const char *const fixed[] = {"id",         "creatorId",        "periodStart",      "periodEnd",   "currency",
                                        "grossTotal", "platformFeeTotal", "adjustmentsTotal", "payoutAmount"};

    if (!is_allowed(before->status, after->status))
        ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                        errmsg("payout \"%s\" is %s and cannot become %s", before->id, before->status, after->status)));
    for (int i = 0; before->level == LEVEL_SENT && i < lengthof(fixed); i++) {
        int number = SPI_fnumber(shape, fixed[i]);
        bool null_before;
        bool null_after;
        Datum value_before = number > 0 ? heap_getattr(trigger->tg_trigtuple, number, shape, &null_before) : (Datum)0;
        Datum value_after = number > 0 ? heap_getattr(trigger->tg_newtuple, number, shape, &null_after) : (Datum)0;

        if (number <= 0)
            continue;
        if (null_before != null_after ||
            (!null_before && !datum_image_eq(value_before, value_after, TupleDescAttr(shape, number - 1)->attbyval,
                                             TupleDescAttr(shape, number - 1)->attlen)))
            ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                            errmsg("\"%s\" of payout \"%s\" cannot be changed", fixed[i], before->id),
                            errdetail("The payout is SENT.")));
    }
}

/* What the payout held becomes free, or is taken again: all of it, or the change fails. */
static void
change_holding(const PayoutGuard *guard, const PayoutRow *before, const PayoutRow *after)
{
    if (before->level != LEVEL_NONE && after->level == LEVEL_NONE) {
        (void)run_for(guard, release_claims_sql, after->id);
        payout_inherit_claims(guard);
        (void)run_for(guard, release_adjustments_sql, after->id);
    } else if (before->level == LEVEL_NONE && after->level != LEVEL_NONE) {
        uint64 held;

        (void)run_for(guard, claim_again_sql, after->id);
        held = run_for(guard, hold_adjustments_sql, after->id);
        (void)run_for(guard, count_adjustments_sql, after->id);
        if (held != (uint64)spi_int64(0, 1))
            ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                            errmsg("payout \"%s\" cannot become %s again", after->id, after->status),
                            errdetail("An adjustment that it carries is in another payout by now.")));
    }
}

static void
rename_payout(const PayoutGuard *guard, const PayoutRow *before, const PayoutRow *after)
{
    static const char *const statements[] = {rename_sql, rename_items_sql, rename_origin_sql};
    Datum values[] = {CStringGetTextDatum(before->id), CStringGetTextDatum(after->id)};

    for (int i = 0; i < lengthof(statements); i++)
        (void)payout_run_kept(guard->schema, statements[i], 2, text_types, values, NULL);
}

static void
log_change(const PayoutGuard *guard, const PayoutRow *before, const PayoutRow *after)
{
    const char *text[] = {after->id, before->status, after->status, after->reference, payout_announcing};
    Datum values[lengthof(text)];
    char nulls[lengthof(text)];

    for (int i = 0; i < lengthof(text); i++) {
        nulls[i] = text[i] != NULL ? ' ' : 'n';
        values[i] = text[i] != NULL ? CStringGetTextDatum(text[i]) : (Datum)0;
    }
    (void)payout_run_kept(guard->schema, log_sql, lengthof(text), text_types, values, nulls);
}

/* Row trigger on "Payout", after UPDATE. */
Datum
apapacho_guard_payout_change(PG_FUNCTION_ARGS)
{
    TriggerData *trigger = (TriggerData *)fcinfo->context;
    TupleDesc shape;
    PayoutRow before;
    PayoutRow after;
    PayoutGuard guard;
    Lines lines = {.lines = NULL};

    if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_FOR_ROW(trigger->tg_event) ||
        TRIGGER_FIRED_BEFORE(trigger->tg_event) || !TRIGGER_FIRED_BY_UPDATE(trigger->tg_event))
        elog(ERROR, "apapacho_guard_payout_change must be called as a row trigger after UPDATE");
    shape = RelationGetDescr(trigger->tg_relation);
    read_row(trigger->tg_trigtuple, shape, &before);
    read_row(trigger->tg_newtuple, shape, &after);
    check_change(trigger, shape, &before, &after);

    payout_guard_begin(trigger, &guard);
    if (strcmp(before.id, after.id) != 0)
        rename_payout(&guard, &before, &after);
    change_holding(&guard, &before, &after);
    if (strcmp(before.status, after.status) != 0 || before.failures < after.failures)
        log_change(&guard, &before, &after);
    /* it may hold other things now, or can be recalled, or no longer */
    if (strcmp(before.status, after.status) != 0 || before.has_next_retry != after.has_next_retry)
        payout_mark_dirty(after.creator, DT_NOBEGIN);
    if (before.level == LEVEL_HOLDING && after.level != LEVEL_NONE && before.amount != after.amount) {
        /* the amount that was posted, out and in again */
        before.id = after.id;
        add_lines(&lines, &before, LEVEL_HOLDING, LEVEL_NONE, true);
        add_lines(&lines, &after, LEVEL_NONE, after.level, true);
    } else {
        if (after.level == LEVEL_NONE)
            after.amount = before.amount;
        add_lines(&lines, &after, before.level, after.level, true);
    }
    payout_ledger_post(guard.schema, lines.lines, lines.count);
    payout_guard_end(&guard);
    return PointerGetDatum(NULL);
}

/* Statement trigger on "Payout" and "PayoutItem", before TRUNCATE. */
Datum
apapacho_guard_truncate(PG_FUNCTION_ARGS)
{
    static const char *const emptied[] = {
        "DELETE FROM apapacho_jobs.payout_claim",      "DELETE FROM apapacho_jobs.payout_adjustment_item",
        "DELETE FROM apapacho_jobs.payout_reason",     "DELETE FROM apapacho_jobs.payout_origin",
        "DELETE FROM apapacho_jobs.payout_transition", "DELETE FROM apapacho_jobs.payout_report",
        "DELETE FROM apapacho_jobs.payout_todo",       "UPDATE apapacho_jobs.payout_state SET full_at = NULL",
    };
    TriggerData *trigger = (TriggerData *)fcinfo->context;
    PayoutGuard guard;
    bool refused;

    if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_BY_TRUNCATE(trigger->tg_event))
        elog(ERROR, "apapacho_guard_truncate must be called as a trigger before TRUNCATE");
    payout_guard_begin(trigger, &guard);
    (void)payout_run_kept(guard.schema, sent_sql, 0, NULL, NULL, NULL);
    refused = spi_int64(0, 1) > 0;
    (void)payout_run_kept(guard.schema, adjusted_sql, 0, NULL, NULL, NULL);
    if (refused || spi_int64(0, 1) > 0)
        ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                        errmsg("table \"%s\" cannot be truncated", RelationGetRelationName(guard.relation)),
                        errdetail(refused ? "There are payouts that are SENT."
                                          : "There are adjustments, which say what creators owe or are owed.")));
    /* what is left of a truncation of "PayoutItem" alone are payouts without items: nothing that holds anything */
    for (int i = 0; i < lengthof(emptied); i++)
        (void)payout_run_kept(guard.schema, emptied[i], 0, NULL, NULL, NULL);
    payout_guard_end(&guard);
    return PointerGetDatum(NULL);
}
