/*
 * ledger.c: rows on their way into the history; see ledger.h. Runs in a scheduler, which owns the memory.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"

#include "scheduler/ledger.h"
#include "server/xact.h"

#define MOST_ROWS 10000 /* about 10 MB */
#define BLOCKED_MS 2000
#define WRITE_AT_ONCE 500

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
    if (row->result != NULL)
        pfree((void *)row->result);
    if (row->error != NULL)
        pfree((void *)row->error);
    pfree(row);
}

void
ledger_add(const RunRecord *record)
{
    MemoryContext caller;
    RunRecord *row;

    if (context == NULL)
        context = AllocSetContextCreate(TopMemoryContext, "apapacho_jobs ledger", ALLOCSET_DEFAULT_SIZES);
    if (list_length(rows) >= MOST_ROWS) {
        ereport(WARNING, (errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
                          errmsg("run %lld of job \"%s\" is lost to the history: more than %d rows wait to be written",
                                 (long long)((RunRecord *)linitial(rows))->spec.id,
                                 ((RunRecord *)linitial(rows))->spec.name, MOST_ROWS),
                          errhint("See who locks the table apapacho_jobs.run.")));
        free_row(linitial(rows));
        rows = list_delete_first(rows);
    }
    caller = MemoryContextSwitchTo(context);
    row = palloc(sizeof(RunRecord));
    *row = *record;
    row->result = copy(record->result);
    row->error = copy(record->error);
    rows = lappend(rows, row);
    MemoryContextSwitchTo(caller);
}

/* One transaction's worth. */
static int
write_rows(void)
{
    ListCell *cell;
    int count = 0;

    xact_begin("writing the history of runs");
    foreach (cell, rows) {
        const RunRecord *row = lfirst(cell);

        if (count == WRITE_AT_ONCE)
            break;
        if (row->finished_at != 0)
            history_finish(row);
        else
            history_upsert(row);
        count++;
    }
    xact_commit();
    return count;
}

TimestampTz
ledger_flush(TimestampTz now)
{
    MemoryContext caller = CurrentMemoryContext;

    while (rows != NIL) {
        volatile int count = 0;
        volatile bool failed = false;

        if (ledger_is_blocked(now))
            return blocked_until;
        PG_TRY();
        {
            count = write_rows();
        }
        PG_CATCH();
        {
            MemoryContextSwitchTo(caller);
            EmitErrorReport();
            FlushErrorState();
            xact_abort();
            failed = true;
        }
        PG_END_TRY();
        MemoryContextSwitchTo(caller);
        if (failed) {
            ledger_note_blocked(now);
            continue;
        }
        written += count;
        for (int i = 0; i < count; i++) {
            free_row(linitial(rows));
            rows = list_delete_first(rows);
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
