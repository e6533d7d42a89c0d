/*
 * ledger.c: rows on their way into the history; see ledger.h. Runs in a scheduler, which owns the memory.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"

#include "scheduler/dispatch.h"
#include "scheduler/ledger.h"
#include "server/xact.h"

#define MOST_ROWS 10000 /* about 10 MB */
#define BLOCKED_MS 2000
#define WRITE_AT_ONCE 500 /* in one transaction */

static MemoryContext context;
static List *rows = NIL; /* of RunRecord, oldest first */
static TimestampTz blocked_until = 0;
static int written = 0;

static char *
copy(const char *text)
{
    return text != NULL ? pstrdup(text) : NULL;
}

static void
free_row(RunRecord *row)
{
    pfree((void *)row->status);
    if (row->result != NULL)
        pfree((void *)row->result);
    if (row->error != NULL)
        pfree((void *)row->error);
    pfree(row);
}

static void
drop_row(void)
{
    free_row(linitial(rows));
    rows = list_delete_first(rows);
}

/* The oldest row cannot be kept any longer. */
static void
give_up_row(void)
{
    const RunRecord *row = linitial(rows);

    ereport(WARNING, (errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
                      errmsg("run %lld of job \"%s\" is lost to the history", (long long)row->spec.id, row->spec.name),
                      errdetail("It cannot be written, or more than %d rows wait to be written.", MOST_ROWS),
                      errhint("See who locks or has changed the table apapacho_jobs.run.")));
    drop_row();
}

/* Errors that the next try may be without: of resources, and whatever has to do with other sessions. */
static bool
is_temporary(int sqlstate)
{
    return sqlstate == ERRCODE_LOCK_NOT_AVAILABLE || sqlstate == ERRCODE_QUERY_CANCELED ||
           ERRCODE_TO_CATEGORY(sqlstate) == ERRCODE_TRANSACTION_ROLLBACK ||
           ERRCODE_TO_CATEGORY(sqlstate) == ERRCODE_INSUFFICIENT_RESOURCES ||
           ERRCODE_TO_CATEGORY(sqlstate) == ERRCODE_OPERATOR_INTERVENTION ||
           ERRCODE_TO_CATEGORY(sqlstate) == ERRCODE_SYSTEM_ERROR;
}

void
ledger_add(const RunRecord *record)
{
    MemoryContext caller;
    RunRecord *row;

    if (context == NULL)
        context = AllocSetContextCreate(TopMemoryContext, "apapacho_jobs ledger", ALLOCSET_DEFAULT_SIZES);
    if (list_length(rows) >= MOST_ROWS)
        give_up_row();
    caller = MemoryContextSwitchTo(context);
    row = palloc(sizeof(RunRecord));
    *row = *record;
    row->status = copy(record->status);
    row->result = copy(record->result);
    row->error = copy(record->error);
    rows = lappend(rows, row);
    MemoryContextSwitchTo(caller);
}

/* Writes up to `most` rows in a transaction. Returns how many. */
static int
write_rows(int most)
{
    ListCell *cell;
    int count = 0;

    xact_begin("writing the history of runs");
    foreach (cell, rows) {
        const RunRecord *row = lfirst(cell);

        if (count == most)
            break;
        if (row->finished_at != 0)
            history_upsert(row);
        else
            (void)history_insert(row); /* its worker may have written more meanwhile */
        count++;
    }
    xact_commit();
    return count;
}

void
ledger_notify(const RunRecord *record)
{
    MemoryContext caller = CurrentMemoryContext;

    PG_TRY();
    {
        history_notify(record);
    }
    PG_CATCH();
    {
        MemoryContextSwitchTo(caller);
        EmitErrorReport();
        FlushErrorState();
        xact_abort();
    }
    PG_END_TRY();
    MemoryContextSwitchTo(caller);
}

TimestampTz
ledger_flush(TimestampTz now)
{
    MemoryContext caller = CurrentMemoryContext;
    volatile int most = WRITE_AT_ONCE;

    while (rows != NIL) {
        volatile int count = 0;

        if (ledger_is_blocked(now))
            return blocked_until;
        PG_TRY();
        {
            count = write_rows(most);
        }
        PG_CATCH();
        {
            bool temporary = is_temporary(geterrcode());

            MemoryContextSwitchTo(caller);
            EmitErrorReport();
            FlushErrorState();
            xact_abort();
            if (temporary)
                ledger_note_blocked(now);
            else if (most == 1)
                give_up_row();
            most = 1; /* one that cannot be written must not hold up the others */
        }
        PG_END_TRY();
        MemoryContextSwitchTo(caller);
        written += count;
        for (int i = 0; i < count; i++) {
            ledger_notify(linitial(rows));
            drop_row();
        }
    }
    return 0;
}

bool
ledger_is_empty(void)
{
    return rows == NIL;
}

bool
ledger_is_blocked(TimestampTz now)
{
    return now < blocked_until && blocked_until - now <= BLOCKED_MS * INT64CONST(1000);
}

void
ledger_note_blocked(TimestampTz now)
{
    blocked_until = TimestampTzPlusMilliseconds(now, BLOCKED_MS);
    dispatch_note_history_blocked(MyDatabaseId);
}

int
ledger_take_written(void)
{
    int count = written;

    written = 0;
    return count;
}

void
ledger_count_written(int count)
{
    written += count;
}
