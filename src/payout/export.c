/*
 * export.c: payment files: what a bank is told to pay. Collects payouts and their creators' bank accounts from the
 * user's tables, has files made of them (export.sql, which knows the layouts and the reasons why a payout is left out),
 * and makes the payouts PENDING, in the caller's transaction.
 *
 * Runs in the backends of those who call the SQL functions: as the owner of each of the user's tables, and as the
 * extension's owner on the files, which nobody else may read. Locks the files' table (so that there is one export at a
 * time), then the payouts' rows in the order of their ids.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "payout/export.h"
#include "payout/internal.h"
#include "server/compat.h"
#include "server/extension.h"
#include "server/ids.h"
#include "server/settings.h"
#include "server/user_tables.h"

PG_FUNCTION_INFO_V1(apapacho_payout_export);
PG_FUNCTION_INFO_V1(apapacho_payout_export_check);

#define CHUNK 1000 /* payouts that are read at a time */
#define CHECK_COLUMNS 6

/* The columns of "CreatorBankAccount" that are read, and what they must be: 't'ext, 'b'oolean, time 's'tamp. */
static const struct {
    const char *name;
    char kind;
} account_columns[] = {
    {"id", 't'},          {"creatorId", 't'},     {"bankCode", 't'},          {"bankName", 't'},
    {"accountType", 't'}, {"accountNumber", 't'}, {"accountHolderName", 't'}, {"accountHolderRut", 't'},
    {"isDefault", 'b'},   {"isVerified", 'b'},    {"deletedAt", 's'},
};

static const char ready_sql[] =
    "SELECT ARRAY(SELECT p.\"id\"::text FROM {Payout} AS p WHERE p.\"status\" IN ('CALCULATED'::{PayoutStatus},"
    " 'PENDING'::{PayoutStatus}) ORDER BY p.\"id\" COLLATE \"C\")";

static const char lock_sql[] =
    "SELECT p.\"id\" FROM {Payout} AS p WHERE p.\"id\" = ANY ($1) ORDER BY p.\"id\" COLLATE \"C\" FOR UPDATE";

/* In a statement of its own, after the lock: it sees what was committed while the lock was waited for. */
static const char payouts_sql[] =
    "SELECT COALESCE(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('id', p.\"id\", 'creator', p.\"creatorId\","
    "  'amount', p.\"payoutAmount\", 'adjustments', p.\"adjustmentsTotal\", 'currency', p.\"currency\","
    "  'status', p.\"status\", 'retries', p.\"retryCount\", 'next', p.\"nextRetryAt\", 'from', p.\"periodStart\","
    "  'until', p.\"periodEnd\", 'items', s.amount, 'reversed', s.reversed,"
    "  'creator_status', (SELECT c.\"status\" FROM {Creator} AS c WHERE c.\"id\" = p.\"creatorId\"))), '[]')"
    " FROM {Payout} AS p CROSS JOIN LATERAL (SELECT COALESCE(pg_catalog.sum(i.\"amount\"), 0) AS amount,"
    "  pg_catalog.count(*) FILTER (WHERE (SELECT t.\"status\"::text FROM {Transaction} AS t"
    "   WHERE t.\"id\" = i.\"transactionId\") IS DISTINCT FROM 'SUCCEEDED') AS reversed"
    "  FROM {PayoutItem} AS i WHERE i.\"payoutId\" = p.\"id\") AS s"
    " WHERE p.\"id\" = ANY ($1)";

static const char accounts_sql[] =
    "SELECT COALESCE(pg_catalog.jsonb_agg(pg_catalog.to_jsonb(a)), '[]') FROM"
    " (SELECT b.\"creatorId\" AS creator, pg_catalog.count(*) FILTER (WHERE b.\"isDefault\") AS defaults,"
    "   pg_catalog.count(*) FILTER (WHERE b.\"isDefault\" AND b.\"isVerified\") AS usable,"
    "   (pg_catalog.array_agg(pg_catalog.jsonb_build_object('id', b.\"id\", 'bank_code', b.\"bankCode\"::text,"
    "     'bank_name', b.\"bankName\"::text, 'account_type', b.\"accountType\"::text,"
    "     'account_number', b.\"accountNumber\"::text, 'holder_name', b.\"accountHolderName\"::text,"
    "     'rut', b.\"accountHolderRut\"::text) ORDER BY b.\"id\")"
    "    FILTER (WHERE b.\"isDefault\" AND b.\"isVerified\"))[1] AS account"
    "  FROM {CreatorBankAccount} AS b WHERE b.\"deletedAt\" IS NULL AND b.\"creatorId\" = ANY"
    "   (SELECT x.payout ->> 'creator' FROM pg_catalog.jsonb_array_elements($1) AS x (payout))"
    "  GROUP BY b.\"creatorId\") AS a";

static const char submit_sql[] = "UPDATE {Payout} AS p SET \"status\" = 'PENDING'::{PayoutStatus}, \"updatedAt\" = $2"
                                 " WHERE p.\"id\" = ANY ($1) AND p.\"status\" = 'CALCULATED'::{PayoutStatus}";

static const char event_sql[] =
    "INSERT INTO {OutboxEvent} (\"id\", \"aggregateType\", \"aggregateId\", \"eventType\", \"payload\", \"createdAt\")"
    " SELECT e.id, 'Payout', e.payout_id, 'PayoutSubmitted', pg_catalog.jsonb_build_object('eventId', e.id,"
    "  'eventType', 'PayoutSubmitted', 'occurredAt', " ISO_TIME(
        "$2") ", 'payoutId', e.payout_id, 'creatorId', e.creator_id,"
              "  'amount', e.amount, 'fileId', $3), $2"
              " FROM (SELECT apapacho_jobs.uuid_v7() AS id, p.\"id\" AS payout_id, p.\"creatorId\" AS creator_id,"
              "  p.\"payoutAmount\" AS amount FROM {Payout} AS p WHERE p.\"id\" = ANY ($1)) AS e";

static const char live_files_sql[] = "SELECT ARRAY(SELECT f.id FROM apapacho_jobs.payout_file AS f"
                                     " WHERE f.run_id = $1 AND f.format = $2 AND f.status = 'LIVE')";

/* An export at work. */
typedef struct Export {
    MemoryContext memory; /* what lasts as long as the export */
    Datum run;            /* text */
    char run_null;        /* 'n': whatever is ready */
    Datum format;         /* text */
    Datum pay_on;         /* date */
    Datum *ids;           /* of payouts, text, in order */
    int count;
    char file_id[UUID_TEXT_SIZE]; /* the file that is being filled */
    int room;                     /* payments that it may still have; 0: there is none */
    ArrayBuildState *files;       /* those that have been made */
    char *last_file;              /* the last of them; NULL */
    int64 left_out;
} Export;

Datum
payout_file_statement(const char *sql, int count, Oid *types, Datum *values, const char *nulls, bool read_only,
                      MemoryContext memory, bool *is_null)
{
    MemoryContext before;
    Datum value = (Datum)0;
    RunAs saved;

    run_as(&saved, extension_owner());
    if (spi_run(sql, count, types, values, nulls, read_only, 0) != 1)
        elog(ERROR, "one row was expected");
    value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, is_null);
    if (!*is_null) {
        int16 length;
        bool by_value;

        get_typlenbyval(SPI_gettypeid(SPI_tuptable->tupdesc, 1), &length, &by_value);
        before = MemoryContextSwitchTo(memory);
        value = datumCopy(value, by_value, length);
        MemoryContextSwitchTo(before);
    }
    SPI_freetuptable(SPI_tuptable);
    run_as_end(&saved);
    return value;
}

void
payout_file_return(FunctionCallInfo fcinfo, const char *sql, int count, Oid *types, Datum *values, const char *nulls,
                   bool read_only)
{
    ReturnSetInfo *info = (ReturnSetInfo *)fcinfo->resultinfo;
    int columns = info->setDesc->natts;
    Datum *row = palloc(sizeof(Datum) * columns);
    bool *row_nulls = palloc(sizeof(bool) * columns);
    RunAs saved;

    run_as(&saved, extension_owner());
    (void)spi_run(sql, count, types, values, nulls, read_only, 0);
    for (uint64 i = 0; i < SPI_processed; i++) {
        heap_deform_tuple(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, row, row_nulls);
        tuplestore_putvalues(info->setResult, info->setDesc, row, row_nulls);
    }
    SPI_freetuptable(SPI_tuptable);
    run_as_end(&saved);
}

/* Makes sure that "CreatorBankAccount" is there and as we need it, to the end of the transaction; its owner. */
static Oid
check_accounts(void)
{
    const char *name = user_type_name("CreatorBankAccount"); /* the name of anything in that schema */
    Oid namespace_id = get_namespace_oid(setting_schema, true);
    Oid relation = OidIsValid(namespace_id) ? get_relname_relid("CreatorBankAccount", namespace_id) : InvalidOid;
    Relation opened = OidIsValid(relation) ? try_table_open(relation, AccessShareLock) : NULL;
    Oid owner;

    if (opened == NULL)
        ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE), errmsg("table %s does not exist", name),
                        errdetail("Payment files need the creators' bank accounts."),
                        errhint("Run SELECT apapacho_create_tables(), or set apapacho_jobs.schema to the schema where "
                                "the tables are.")));
    if (opened->rd_rel->relkind != RELKIND_RELATION && opened->rd_rel->relkind != RELKIND_PARTITIONED_TABLE)
        ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE), errmsg("%s is not an ordinary table", name),
                        errhint("Views and foreign tables cannot take the place of the backend's tables.")));
    for (int i = 0; i < lengthof(account_columns); i++) {
        AttrNumber number = get_attnum(relation, account_columns[i].name);
        Oid type = number != InvalidAttrNumber ? get_atttype(relation, number) : InvalidOid;
        char kind = account_columns[i].kind;

        if (!OidIsValid(type))
            ereport(ERROR, (errcode(ERRCODE_UNDEFINED_COLUMN),
                            errmsg("column \"%s\" of table %s does not exist", account_columns[i].name, name),
                            errhint("The table must have the columns that apapacho_create_tables() would give it.")));
        if (!(kind == 't' && (type == TEXTOID || type == VARCHAROID || get_typtype(type) == TYPTYPE_ENUM)) &&
            !(kind == 'b' && type == BOOLOID) && !(kind == 's' && (type == TIMESTAMPOID || type == TIMESTAMPTZOID)))
            ereport(ERROR, (errcode(ERRCODE_DATATYPE_MISMATCH),
                            errmsg("column \"%s\" of table %s is of type %s", account_columns[i].name, name,
                                   format_type_be(type)),
                            errhint("The table must have the columns that apapacho_create_tables() would give it.")));
    }
    owner = opened->rd_rel->relowner;
    table_close(opened, NoLock); /* the lock stays to the end of the transaction */
    return owner;
}

/* The first value of a statement's only row, not null, copied to `memory`. */
static Datum
take_value(const char *sql, int count, Oid *types, Datum *values, bool read_only, MemoryContext memory)
{
    MemoryContext before;
    bool is_null;
    Datum value;

    if (spi_run(sql, count, types, values, NULL, read_only, 0) != 1)
        elog(ERROR, "one row was expected");
    value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &is_null);
    Assert(!is_null);
    before = MemoryContextSwitchTo(memory);
    value = datumCopy(value, false, -1);
    MemoryContextSwitchTo(before);
    SPI_freetuptable(SPI_tuptable);
    return value;
}

/* Reads payouts (a text[]) and their creators' accounts as jsonb, for payout_file_judge(); `lock`: to be paid. */
static void
read_payouts(Datum ids, bool lock, MemoryContext memory, Datum *payouts, Datum *accounts)
{
    Oid type = TEXTARRAYOID;
    Oid accounts_owner = check_accounts();
    RunAs saved;

    payout_run_as(&saved);
    if (lock) {
        (void)spi_run(payout_sql(lock_sql), 1, &type, &ids, NULL, false, 0);
        SPI_freetuptable(SPI_tuptable);
    }
    *payouts = take_value(payout_sql(payouts_sql), 1, &type, &ids, !lock, memory);
    run_as_end(&saved);

    type = JSONBOID;
    run_as(&saved, accounts_owner);
    *accounts = take_value(payout_sql(accounts_sql), 1, &type, payouts, !lock, memory);
    run_as_end(&saved);
}

/* Finds the payouts that are not final, as a text[]. */
static Datum
read_ready(bool read_only, MemoryContext memory)
{
    RunAs saved;
    Datum ids;

    payout_run_as(&saved);
    ids = take_value(payout_sql(ready_sql), 0, NULL, NULL, read_only, memory);
    run_as_end(&saved);
    return ids;
}

static Datum
text_array(Datum *elements, int count)
{
    return PointerGetDatum(construct_array(elements, count, TEXTOID, -1, false, TYPALIGN_INT));
}

static void
open_file(Export *export)
{
    Oid types[] = {TEXTOID, TEXTOID, TEXTOID, DATEOID};
    char nulls[] = {' ', export->run_null, ' ', ' '};
    Datum values[4];
    bool is_null;

    uuid_v7(export->file_id);
    values[0] = CStringGetTextDatum(export->file_id);
    values[1] = export->run;
    values[2] = export->format;
    values[3] = export->pay_on;
    export->room = DatumGetInt32(payout_file_statement("SELECT apapacho_jobs.payout_file_open($1, $2, $3, $4)", 4,
                                                       types, values, nulls, false, export->memory, &is_null));
}

static void
close_file(Export *export)
{
    Oid types[] = {TEXTOID, TEXTOID};
    char nulls[] = {' ', export->last_file != NULL ? ' ' : 'n'};
    Datum values[2];
    bool is_null;

    values[0] = CStringGetTextDatum(export->file_id);
    values[1] = export->last_file != NULL ? CStringGetTextDatum(export->last_file) : (Datum)0;
    if (DatumGetBool(payout_file_statement("SELECT apapacho_jobs.payout_file_close($1, $2)", 2, types, values, nulls,
                                           false, export->memory, &is_null))) {
        export->files = accumArrayResult(export->files, values[0], false, TEXTOID, export->memory);
        export->last_file = MemoryContextStrdup(export->memory, export->file_id);
    }
    export->room = 0;
}

/* Makes payouts PENDING, with an event each. ids: a text[] of `count`, of payouts that are locked. */
static void
submit(Export *export, Datum ids, int count)
{
    Oid types[] = {TEXTARRAYOID, TIMESTAMPOID, TEXTOID};
    Datum values[3];
    TimestampTz now = GetCurrentTimestamp(); /* by the clock, now that the rows are locked */
    RunAs saved;

    values[0] = ids;
    values[1] = TimestampGetDatum(now - now % 1000);
    values[2] = CStringGetTextDatum(export->file_id);
    payout_run_as(&saved);
    if (spi_run(payout_sql(submit_sql), 2, types, values, NULL, false, 0) != count ||
        spi_run(payout_sql(event_sql), 3, types, values, NULL, false, 0) != count)
        ereport(ERROR,
                (errcode(ERRCODE_TRIGGERED_ACTION_EXCEPTION), errmsg("payouts could not be changed"),
                 errdetail("A trigger, rule or policy of the tables kept the rows of %d payouts from being written.",
                           count)));
    run_as_end(&saved);
}

/* Puts a few payouts into the file that is being filled; no more than it has room for. */
static void
add_payouts(Export *export, Datum *elements, int count)
{
    Oid types[] = {TEXTOID, JSONBOID, JSONBOID};
    MemoryContext memory = AllocSetContextCreate(export->memory, "payment file", ALLOCSET_DEFAULT_SIZES);
    MemoryContext before = MemoryContextSwitchTo(memory);
    Datum values[3];
    Datum submitted;
    bool is_null;
    int number;
    RunAs saved;

    values[0] = CStringGetTextDatum(export->file_id);
    read_payouts(text_array(elements, count), true, memory, &values[1], &values[2]);
    run_as(&saved, extension_owner());
    if (spi_run("SELECT a.submitted, a.taken, a.left_out FROM apapacho_jobs.payout_file_add($1, $2, $3) AS a", 3, types,
                values, NULL, false, 0) != 1)
        elog(ERROR, "one row was expected");
    export->room -= (int)spi_int64(0, 2);
    export->left_out += spi_int64(0, 3);
    submitted = datumCopy(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &is_null), false, -1);
    SPI_freetuptable(SPI_tuptable);
    run_as_end(&saved);
    number = ArrayGetNItems(ARR_NDIM(DatumGetArrayTypeP(submitted)), ARR_DIMS(DatumGetArrayTypeP(submitted)));
    if (number > 0)
        submit(export, submitted, number);
    MemoryContextSwitchTo(before);
    MemoryContextDelete(memory);
}

/* Makes as many files as it takes of the payouts. */
static void
make_files(Export *export)
{
    for (int next = 0; next < export->count;) {
        int count = export->count - next;

        CHECK_FOR_INTERRUPTS();
        if (export->room == 0)
            open_file(export);
        count = Min(count, Min(CHUNK, export->room));
        add_payouts(export, export->ids + next, count);
        next += count;
        if (export->room == 0 || next == export->count)
            close_file(export);
    }
}

/* Says what the caller would not see in the result; an error when the result is empty. */
static void
tell_what_is_left_out(const Export *export, bool nothing)
{
    if (export->left_out == 0)
        return;
    if (nothing)
        ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                        errmsg("no payout can be paid by a file: " INT64_FORMAT " were left out", export->left_out),
                        errhint("SELECT * FROM apapacho_payout_export_check(run, format) WHERE NOT ready says why.")));
    ereport(WARNING, (errcode(ERRCODE_WARNING), errmsg(INT64_FORMAT " payouts were left out", export->left_out),
                      errhint("SELECT * FROM apapacho_payout_export_check(run, format) WHERE NOT ready says why.")));
}

/* The arguments run (may be null) and format. */
static void
read_arguments(FunctionCallInfo fcinfo, Export *export)
{
    memset(export, 0, sizeof(Export));
    export->memory = CurrentMemoryContext;
    export->run_null = PG_ARGISNULL(0) ? 'n' : ' ';
    export->run = PG_ARGISNULL(0) ? (Datum)0 : CStringGetTextDatum(payout_text_argument(fcinfo, 0, "run"));
    export->format = CStringGetTextDatum(payout_text_argument(fcinfo, 1, "format"));
}

static void
split_ids(Export *export, Datum ids)
{
    MemoryContext before = MemoryContextSwitchTo(export->memory);

    deconstruct_array(DatumGetArrayTypeP(ids), TEXTOID, -1, false, TYPALIGN_INT, &export->ids, NULL, &export->count);
    MemoryContextSwitchTo(before);
}

/* apapacho_payout_export(run, format, supplement, pay_on) */
Datum
apapacho_payout_export(PG_FUNCTION_ARGS)
{
    Oid types[] = {TEXTOID, TEXTOID, BOOLOID};
    Datum values[3];
    char nulls[] = {' ', ' ', ' '};
    Export export;
    Datum ids;
    bool is_null;

    read_arguments(fcinfo, &export);
    InitMaterializedSRF(fcinfo, 0);
    if (IsolationUsesXactSnapshot())
        ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                        errmsg("payment files cannot be made in a transaction of isolation level %s",
                               XactIsoLevel == XACT_SERIALIZABLE ? "serializable" : "repeatable read"),
                        errdetail("Its snapshot may be older than a file that already has the same payouts."),
                        errhint("Use a transaction of isolation level read committed.")));
    payout_connect_spi();
    payout_require_guards(true);
    (void)check_accounts();

    types[0] = DATEOID;
    values[0] = PG_GETARG_DATUM(3);
    nulls[0] = PG_ARGISNULL(3) ? 'n' : ' ';
    export.pay_on = payout_file_statement("SELECT apapacho_jobs.payout_file_date($1)", 1, types, values, nulls, false,
                                          export.memory, &is_null);
    types[0] = TEXTOID;
    values[0] = export.run;
    values[1] = export.format;
    values[2] = BoolGetDatum(!PG_ARGISNULL(2) && PG_GETARG_BOOL(2));
    nulls[0] = export.run_null;
    ids = payout_file_statement("SELECT apapacho_jobs.payout_file_begin($1, $2, $3)", 3, types, values, nulls, false,
                                export.memory, &is_null);
    if (!is_null) {
        split_ids(&export, export.run_null == 'n' ? read_ready(false, export.memory) : ids);
        make_files(&export);
        ForceSyncCommit(); /* the content is handed out as soon as this has committed: it must be on disk by then */
    }
    if (export.run_null != 'n')
        ids = payout_file_statement(live_files_sql, 2, types, values, NULL, false, export.memory, &is_null);
    else if (export.files != NULL)
        ids = makeArrayResult(export.files, export.memory);
    else
        ids = PointerGetDatum(construct_empty_array(TEXTOID));
    types[0] = TEXTARRAYOID;
    payout_file_return(fcinfo, "SELECT * FROM apapacho_jobs.payout_file_rows($1)", 1, types, &ids, NULL, false);
    payout_file_warn(ids, false);
    tell_what_is_left_out(&export, tuplestore_tuple_count(((ReturnSetInfo *)fcinfo->resultinfo)->setResult) == 0);
    SPI_finish();
    return (Datum)0;
}

/* apapacho_payout_export_check(run, format) */
Datum
apapacho_payout_export_check(PG_FUNCTION_ARGS)
{
    Oid types[] = {TEXTOID, JSONBOID, JSONBOID};
    Datum values[3];
    Export export;
    Datum ids;
    bool is_null;

    read_arguments(fcinfo, &export);
    InitMaterializedSRF(fcinfo, 0);
    payout_connect_spi();
    (void)check_accounts();
    ids = export.run_null == 'n' ? read_ready(true, export.memory)
                                 : payout_file_statement("SELECT apapacho_jobs.payout_file_payouts($1)", 1, types,
                                                         &export.run, NULL, true, export.memory, &is_null);
    split_ids(&export, ids);
    values[0] = export.format;
    for (int next = 0; next == 0 || next < export.count; next += CHUNK) {
        int count = Min(export.count - next, CHUNK);
        MemoryContext memory = AllocSetContextCreate(export.memory, "payment file", ALLOCSET_DEFAULT_SIZES);
        MemoryContext before = MemoryContextSwitchTo(memory);

        CHECK_FOR_INTERRUPTS();
        read_payouts(text_array(export.ids + next, count), false, memory, &values[1], &values[2]);
        payout_file_return(fcinfo,
                           "SELECT j.payout_id, j.creator_id, j.amount, j.reason IS NULL, j.reason, j.detail"
                           " FROM apapacho_jobs.payout_file_judge($1, pg_catalog.jsonb_build_object('pay_date',"
                           " apapacho_jobs.payout_file_date(NULL), 'created_at', LOCALTIMESTAMP, 'run', NULL,"
                           " 'file_id', '', 'file_number', 0), 1, $2, $3) AS j",
                           3, types, values, NULL, true);
        MemoryContextSwitchTo(before);
        MemoryContextDelete(memory);
    }
    SPI_finish();
    return (Datum)0;
}
