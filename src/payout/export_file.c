/*
 * export_file.c: what becomes of a payment file: read again, cancelled, or paid by the bank as a whole.
 *
 * Runs in the backends of those who call the SQL functions; as export.c, which makes the files.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"

#include "payout/export.h"
#include "payout/internal.h"
#include "server/compat.h"
#include "server/extension.h"

PG_FUNCTION_INFO_V1(apapacho_payout_file);
PG_FUNCTION_INFO_V1(apapacho_payout_file_cancel);
PG_FUNCTION_INFO_V1(apapacho_payout_file_mark_sent);

/* state.c */
extern Datum apapacho_payout_mark_sent(PG_FUNCTION_ARGS);

static const char file_sql[] = "SELECT f.status, f.cancel_reason FROM apapacho_jobs.payout_file AS f WHERE f.id = $1";

static const char items_sql[] = "SELECT i.payout_id, i.line, i.attempt FROM apapacho_jobs.payout_file_item AS i"
                                " WHERE i.file_id = $1 AND i.live ORDER BY i.payout_id COLLATE \"C\"";

static const char cancel_sql[] =
    "WITH items AS (UPDATE apapacho_jobs.payout_file_item AS i SET live = false WHERE i.file_id = $1 AND i.live)"
    " UPDATE apapacho_jobs.payout_file AS f SET status = 'CANCELLED', cancelled_at = pg_catalog.now(),"
    "  cancelled_by = session_user, cancel_reason = $2 WHERE f.id = $1";

/* The payouts as they are, locked; those that are gone are missing. */
static const char lock_sql[] =
    "SELECT p.\"id\", p.\"status\"::text, p.\"retryCount\", p.\"nextRetryAt\" IS NULL FROM {Payout} AS p"
    " WHERE p.\"id\" = ANY ($1) ORDER BY p.\"id\" COLLATE \"C\" FOR UPDATE";

static const char live_items_sql[] =
    "SELECT ARRAY(SELECT i.payout_id FROM apapacho_jobs.payout_file_item AS i"
    " JOIN apapacho_jobs.payout_file AS f ON f.id = i.file_id WHERE f.id = ANY ($1) AND f.status = 'LIVE' AND i.live)";

static const char ended_sql[] =
    "SELECT pg_catalog.count(*) FROM pg_catalog.unnest($1) AS x (id) WHERE NOT EXISTS (SELECT FROM {Payout} AS p"
    " WHERE p.\"id\" = x.id AND p.\"status\"::text IN ('CALCULATED', 'PENDING', 'SENT'))";

typedef struct FileItem {
    char *payout_id;
    int64 line;
    int64 attempt;
    char *status; /* of the payout; NULL: it is gone */
    bool on_its_way;
} FileItem;

/* A file that is about to change: locked, with its items and their payouts, which are locked too. */
typedef struct PaymentFile {
    MemoryContext memory;
    char *id;
    char *status;
    char *reason; /* why it was cancelled */
    FileItem *items;
    int count;
} PaymentFile;

/* Reads the file and its items, as the extension's owner. */
static void
read_file(PaymentFile *file)
{
    Oid type = TEXTOID;
    Datum id = CStringGetTextDatum(file->id);
    MemoryContext before;
    RunAs saved;

    run_as(&saved, extension_owner());
    (void)spi_run("LOCK TABLE apapacho_jobs.payout_file IN SHARE ROW EXCLUSIVE MODE", 0, NULL, NULL, NULL, false, 0);
    if (spi_run(file_sql, 1, &type, &id, NULL, false, 0) == 0)
        ereport(ERROR, (errcode(ERRCODE_NO_DATA_FOUND), errmsg("payment file \"%s\" does not exist", file->id),
                        errhint("Files are rows of apapacho_jobs.payout_files.")));
    before = MemoryContextSwitchTo(file->memory);
    file->status = spi_text(0, 1);
    file->reason = spi_text(0, 2);
    MemoryContextSwitchTo(before);
    file->count = (int)spi_run(items_sql, 1, &type, &id, NULL, false, 0);
    before = MemoryContextSwitchTo(file->memory);
    file->items = palloc0(sizeof(FileItem) * Max(file->count, 1));
    for (int i = 0; i < file->count; i++) {
        file->items[i].payout_id = spi_text(i, 1);
        file->items[i].line = spi_int64(i, 2);
        file->items[i].attempt = spi_int64(i, 3);
    }
    MemoryContextSwitchTo(before);
    run_as_end(&saved);
}

/* Locks the payouts and reads what they are, as their owner. */
static void
read_states(PaymentFile *file)
{
    Oid type = TEXTARRAYOID;
    MemoryContext before = MemoryContextSwitchTo(file->memory);
    Datum *ids = palloc(sizeof(Datum) * Max(file->count, 1));
    Datum array;
    RunAs saved;
    uint64 rows;
    int item = 0;

    for (int i = 0; i < file->count; i++)
        ids[i] = CStringGetTextDatum(file->items[i].payout_id);
    array = PointerGetDatum(construct_array(ids, file->count, TEXTOID, -1, false, TYPALIGN_INT));
    payout_run_as(&saved);
    rows = spi_run(payout_sql(lock_sql), 1, &type, &array, NULL, false, 0);
    for (uint64 row = 0; row < rows; row++) {
        char *id = spi_text(row, 1);
        bool is_null;

        /* both are in the order of their bytes */
        while (item < file->count && strcmp(file->items[item].payout_id, id) != 0)
            item++;
        if (item == file->count)
            elog(ERROR, "payouts are not in order");
        file->items[item].status = spi_text(row, 2);
        file->items[item].on_its_way =
            spi_int64(row, 3) == file->items[item].attempt &&
            DatumGetBool(SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, 4, &is_null)) &&
            (strcmp(file->items[item].status, "PENDING") == 0 || strcmp(file->items[item].status, "CALCULATED") == 0);
    }
    run_as_end(&saved);
    MemoryContextSwitchTo(before);
}

static void
begin_change(FunctionCallInfo fcinfo, PaymentFile *file)
{
    memset(file, 0, sizeof(PaymentFile));
    file->memory = CurrentMemoryContext;
    file->id = payout_text_argument(fcinfo, 0, "file");
    payout_connect_spi();
    read_file(file);
}

void
payout_file_warn(Datum ids, bool read_only)
{
    Oid type = TEXTARRAYOID;
    bool is_null;
    Datum payouts =
        payout_file_statement(live_items_sql, 1, &type, &ids, NULL, read_only, CurrentMemoryContext, &is_null);
    RunAs saved;
    int64 ended;

    payout_run_as(&saved);
    (void)spi_run(payout_sql(ended_sql), 1, &type, &payouts, NULL, read_only, 1);
    ended = spi_int64(0, 1);
    run_as_end(&saved);
    if (ended > 0)
        ereport(WARNING, (errcode(ERRCODE_WARNING),
                          errmsg(INT64_FORMAT " payouts of the file have been cancelled or have failed since", ended),
                          errdetail("What they were to pay may be paid again."),
                          errhint("If no bank has got the file, cancel it with apapacho_payout_file_cancel() and make "
                                  "another one.")));
}

/* apapacho_payout_file(file) */
Datum
apapacho_payout_file(PG_FUNCTION_ARGS)
{
    ReturnSetInfo *info = (ReturnSetInfo *)fcinfo->resultinfo;
    char *id = payout_text_argument(fcinfo, 0, "file");
    Oid type = TEXTARRAYOID;
    Datum ids = CStringGetTextDatum(id);

    ids = PointerGetDatum(construct_array(&ids, 1, TEXTOID, -1, false, TYPALIGN_INT));
    InitMaterializedSRF(fcinfo, 0);
    payout_connect_spi();
    payout_file_return(fcinfo, "SELECT * FROM apapacho_jobs.payout_file_rows($1)", 1, &type, &ids, NULL, true);
    if (tuplestore_tuple_count(info->setResult) == 0)
        ereport(ERROR, (errcode(ERRCODE_NO_DATA_FOUND), errmsg("payment file \"%s\" does not exist", id),
                        errhint("Files are rows of apapacho_jobs.payout_files.")));
    payout_file_warn(ids, true);
    SPI_finish();
    return (Datum)0;
}

/* apapacho_payout_file_cancel(file, reason): its payouts stay PENDING, and can go into another file. */
Datum
apapacho_payout_file_cancel(PG_FUNCTION_ARGS)
{
    char *reason = payout_text_argument(fcinfo, 1, "reason");
    Oid types[] = {TEXTOID, TEXTOID};
    Datum values[2];
    PaymentFile file;
    StringInfoData json;
    RunAs saved;
    int sent = 0;

    begin_change(fcinfo, &file);
    if (strcmp(file.status, "CANCELLED") == 0 && (file.reason == NULL || strcmp(file.reason, reason) != 0))
        ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                        errmsg("payment file \"%s\" has been cancelled for another reason", file.id)));
    read_states(&file);
    for (int i = 0; i < file.count; i++)
        sent += file.items[i].status != NULL && strcmp(file.items[i].status, "SENT") == 0;
    if (sent > 0)
        ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                        errmsg("payment file \"%s\" cannot be cancelled", file.id),
                        errdetail("%d of its payouts have been sent.", sent),
                        errhint("Report the others one by one, with apapacho_payout_mark_failed().")));
    if (strcmp(file.status, "LIVE") == 0) {
        values[0] = CStringGetTextDatum(file.id);
        values[1] = CStringGetTextDatum(reason);
        run_as(&saved, extension_owner());
        if (spi_run(cancel_sql, 2, types, values, NULL, false, 0) != 1)
            elog(ERROR, "payment file \"%s\" has vanished", file.id);
        run_as_end(&saved);
    }
    MemoryContextSwitchTo(file.memory);
    initStringInfo(&json);
    appendStringInfoChar(&json, '{');
    payout_json_text(&json, "fileId", file.id);
    payout_json_text(&json, "status", "CANCELLED");
    appendStringInfo(&json, ", \"released\": %d}", file.count);
    SPI_finish();
    PG_RETURN_DATUM(DirectFunctionCall1(jsonb_in, CStringGetDatum(json.data)));
}

/* Marks those as sent that are on their way, and says what became of the others. */
static int
mark_items_sent(const PaymentFile *file, const char *reference, int *already, StringInfo others)
{
    MemoryContext memory = AllocSetContextCreate(file->memory, "payment file", ALLOCSET_DEFAULT_SIZES);
    int sent = 0;

    for (int i = 0; i < file->count; i++) {
        const FileItem *item = &file->items[i];

        CHECK_FOR_INTERRUPTS();
        if (item->on_its_way) {
            MemoryContext before = MemoryContextSwitchTo(memory);

            (void)DirectFunctionCall2(apapacho_payout_mark_sent, CStringGetTextDatum(item->payout_id),
                                      CStringGetTextDatum(psprintf("%s/" INT64_FORMAT, reference, item->line)));
            MemoryContextSwitchTo(before);
            MemoryContextReset(memory);
            sent++;
        } else if (item->status != NULL && strcmp(item->status, "SENT") == 0) {
            (*already)++;
        } else {
            StringInfoData entry;

            initStringInfo(&entry);
            appendStringInfoChar(&entry, '{');
            payout_json_text(&entry, "payoutId", item->payout_id);
            payout_json_text(&entry, "status", item->status);
            appendStringInfo(others, "%s%s}", others->len > 0 ? ", " : "", entry.data);
        }
    }
    MemoryContextDelete(memory);
    return sent;
}

/* apapacho_payout_file_mark_sent(file, reference) */
Datum
apapacho_payout_file_mark_sent(PG_FUNCTION_ARGS)
{
    char *reference = payout_text_argument(fcinfo, 1, "reference");
    PaymentFile file;
    StringInfoData json;
    StringInfoData others;
    int already = 0;
    int sent;

    begin_change(fcinfo, &file);
    if (strcmp(file.status, "LIVE") != 0)
        ereport(ERROR,
                (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE), errmsg("payment file \"%s\" is cancelled", file.id),
                 errhint("If the bank has paid it after all, report each payout with apapacho_payout_mark_sent().")));
    read_states(&file);
    MemoryContextSwitchTo(file.memory);
    initStringInfo(&others);
    sent = mark_items_sent(&file, reference, &already, &others);
    initStringInfo(&json);
    appendStringInfoChar(&json, '{');
    payout_json_text(&json, "fileId", file.id);
    appendStringInfo(&json, ", \"sent\": %d, \"alreadySent\": %d, \"others\": [%s]}", sent, already, others.data);
    SPI_finish();
    PG_RETURN_DATUM(DirectFunctionCall1(jsonb_in, CStringGetDatum(json.data)));
}
