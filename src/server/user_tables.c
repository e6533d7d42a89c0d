/*
 * user_tables.c: finds the user's tables and checks that they are what we need. The list of columns below is the only
 * place that says which ones these are. Runs in workers and in backends that call our functions, within a transaction.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "server/compat.h"
#include "server/settings.h"
#include "server/user_tables.h"

PG_FUNCTION_INFO_V1(apapacho_check_user_tables);

/* What a column must hold. Types of the user's making are out: their functions would be theirs too. */
typedef enum ColumnKind {
    KIND_TEXT, /* text or varchar */
    KIND_INT,
    KIND_BIGINT,
    KIND_TIMESTAMP, /* without time zone */
    KIND_JSONB,
    KIND_ENUM
} ColumnKind;

typedef struct ColumnShape {
    const char *name;
    ColumnKind kind;
} ColumnShape;

typedef struct TableShape {
    const char *name;
    ColumnShape columns[20]; /* those that we read or write; ends with NULL */
} TableShape;

static const char *const kind_names[] = {
    [KIND_TEXT] = "text",     [KIND_INT] = "integer",
    [KIND_BIGINT] = "bigint", [KIND_TIMESTAMP] = "timestamp without time zone",
    [KIND_JSONB] = "jsonb",   [KIND_ENUM] = "an enum",
};

static const TableShape shapes[USER_TABLE_COUNT] = {
    [TABLE_OUTBOX_EVENT] = {"OutboxEvent",
                            {{"id", KIND_TEXT},
                             {"aggregateType", KIND_TEXT},
                             {"aggregateId", KIND_TEXT},
                             {"eventType", KIND_TEXT},
                             {"payload", KIND_JSONB},
                             {"createdAt", KIND_TIMESTAMP},
                             {"publishedAt", KIND_TIMESTAMP},
                             {"retryCount", KIND_INT},
                             {"lastError", KIND_TEXT}}},
    [TABLE_FEE_SCHEDULE] = {"FeeSchedule",
                            {{"id", KIND_TEXT},
                             {"effectiveFrom", KIND_TIMESTAMP},
                             {"holdDays", KIND_INT},
                             {"minPayoutClp", KIND_BIGINT},
                             {"payoutFrequency", KIND_ENUM}}},
    [TABLE_TRANSACTION] = {"Transaction",
                           {{"id", KIND_TEXT},
                            {"creatorId", KIND_TEXT},
                            {"currency", KIND_TEXT},
                            {"grossAmount", KIND_BIGINT},
                            {"platformFeeAmount", KIND_BIGINT},
                            {"creatorPayableAmount", KIND_BIGINT},
                            {"status", KIND_ENUM},
                            {"occurredAt", KIND_TIMESTAMP}}},
    [TABLE_PAYOUT] = {"Payout",
                      {{"id", KIND_TEXT},
                       {"creatorId", KIND_TEXT},
                       {"periodStart", KIND_TIMESTAMP},
                       {"periodEnd", KIND_TIMESTAMP},
                       {"currency", KIND_TEXT},
                       {"grossTotal", KIND_BIGINT},
                       {"platformFeeTotal", KIND_BIGINT},
                       {"adjustmentsTotal", KIND_BIGINT},
                       {"payoutAmount", KIND_BIGINT},
                       {"status", KIND_ENUM},
                       {"sentAt", KIND_TIMESTAMP},
                       {"failedAt", KIND_TIMESTAMP},
                       {"failureReason", KIND_TEXT},
                       {"retryCount", KIND_INT},
                       {"nextRetryAt", KIND_TIMESTAMP},
                       {"providerTransferId", KIND_TEXT},
                       {"createdAt", KIND_TIMESTAMP},
                       {"updatedAt", KIND_TIMESTAMP}}},
    [TABLE_PAYOUT_ITEM] = {"PayoutItem",
                           {{"id", KIND_TEXT},
                            {"payoutId", KIND_TEXT},
                            {"transactionId", KIND_TEXT},
                            {"amount", KIND_BIGINT},
                            {"createdAt", KIND_TIMESTAMP}}},
    [TABLE_CREATOR] = {"Creator", {{"id", KIND_TEXT}, {"status", KIND_ENUM}}},
};

static char *
qualified_name(const char *name)
{
    return quote_qualified_identifier(setting_schema, name);
}

char *
user_table_name(UserTable table)
{
    return qualified_name(shapes[table].name);
}

char *
user_type_name(const char *type)
{
    return qualified_name(type);
}

static bool
is_of_kind(Oid type, ColumnKind kind)
{
    switch (kind) {
    case KIND_TEXT:
        return type == TEXTOID || type == VARCHAROID;
    case KIND_INT:
        return type == INT4OID;
    case KIND_BIGINT:
        return type == INT8OID;
    case KIND_TIMESTAMP:
        return type == TIMESTAMPOID;
    case KIND_JSONB:
        return type == JSONBOID;
    case KIND_ENUM:
        return get_typtype(type) == TYPTYPE_ENUM;
    }
    return false;
}

static void
check_columns(Oid relation, const TableShape *shape)
{
    for (int i = 0; i < lengthof(shape->columns) && shape->columns[i].name != NULL; i++) {
        const ColumnShape *column = &shape->columns[i];
        AttrNumber number = get_attnum(relation, column->name);
        Oid type;

        if (number == InvalidAttrNumber)
            ereport(ERROR,
                    (errcode(ERRCODE_UNDEFINED_COLUMN),
                     errmsg("column \"%s\" of table %s does not exist", column->name, qualified_name(shape->name)),
                     errhint("The table must have the columns that apapacho_create_tables() would give it; "
                             "or set apapacho_jobs.schema to the schema of the right tables.")));
        type = get_atttype(relation, number);
        if (!is_of_kind(type, column->kind))
            ereport(ERROR, (errcode(ERRCODE_DATATYPE_MISMATCH),
                            errmsg("column \"%s\" of table %s is of type %s, not %s", column->name,
                                   qualified_name(shape->name), format_type_be(type), kind_names[column->kind]),
                            errhint("The table must have the columns that apapacho_create_tables() would give it; "
                                    "or set apapacho_jobs.schema to the schema of the right tables.")));
    }
}

Oid
user_table_oid(UserTable table)
{
    Oid namespace_id = get_namespace_oid(setting_schema, true);

    return OidIsValid(namespace_id) ? get_relname_relid(shapes[table].name, namespace_id) : InvalidOid;
}

Oid
user_table_check(UserTable table)
{
    const TableShape *shape = &shapes[table];
    Oid relation = user_table_oid(table);
    Relation opened = NULL;
    Oid owner;

    if (OidIsValid(relation))
        opened = try_table_open(relation, AccessShareLock);
    if (opened == NULL)
        ereport(ERROR,
                (errcode(ERRCODE_UNDEFINED_TABLE), errmsg("table %s does not exist", qualified_name(shape->name)),
                 errhint("Run SELECT apapacho_create_tables(), or set apapacho_jobs.schema to the schema where "
                         "the tables are.")));
    if (opened->rd_rel->relkind != RELKIND_RELATION && opened->rd_rel->relkind != RELKIND_PARTITIONED_TABLE)
        ereport(ERROR,
                (errcode(ERRCODE_WRONG_OBJECT_TYPE), errmsg("%s is not an ordinary table", qualified_name(shape->name)),
                 errhint("Views and foreign tables cannot take the place of the backend's tables.")));
    check_columns(relation, shape);
    owner = opened->rd_rel->relowner;
    table_close(opened, NoLock); /* the lock stays to the end of the transaction */
    return owner;
}

/* apapacho_jobs.check_user_tables(): ERROR as above for the first table that is not as we need it. */
Datum
apapacho_check_user_tables(PG_FUNCTION_ARGS)
{
    for (int table = 0; table < USER_TABLE_COUNT; table++)
        (void)user_table_check((UserTable)table);
    PG_RETURN_VOID();
}
