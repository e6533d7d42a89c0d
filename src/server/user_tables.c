/*
 * user_tables.c: finds the user's tables and checks that they are what we need. The list of columns below is the only
 * place that says which ones these are. Runs in workers and in backends that call our functions, within a transaction.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "fmgr.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "server/compat.h"
#include "server/settings.h"
#include "server/user_tables.h"

PG_FUNCTION_INFO_V1(apapacho_check_user_tables);

typedef struct TableShape {
    const char *name;
    const char *columns[20];    /* those that we read or write; ends with NULL */
} TableShape;

static const TableShape shapes[USER_TABLE_COUNT] = {
    [TABLE_OUTBOX_EVENT] = {"OutboxEvent",
        {"id", "aggregateType", "aggregateId", "eventType", "payload", "createdAt", "publishedAt",
         "retryCount", "lastError"}},
    [TABLE_FEE_SCHEDULE] = {"FeeSchedule",
        {"id", "effectiveFrom", "holdDays", "minPayoutClp", "payoutFrequency"}},
    [TABLE_TRANSACTION] = {"Transaction",
        {"id", "creatorId", "currency", "grossAmount", "platformFeeAmount", "creatorPayableAmount",
         "status", "occurredAt"}},
    [TABLE_PAYOUT] = {"Payout",
        {"id", "creatorId", "periodStart", "periodEnd", "currency", "grossTotal", "platformFeeTotal",
         "adjustmentsTotal", "payoutAmount", "status", "sentAt", "failedAt", "failureReason",
         "retryCount", "nextRetryAt", "providerTransferId", "createdAt", "updatedAt"}},
    [TABLE_PAYOUT_ITEM] = {"PayoutItem",
        {"id", "payoutId", "transactionId", "amount", "createdAt"}},
    [TABLE_CREATOR] = {"Creator",
        {"id", "status"}},
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

static void
check_columns(Oid relation, const TableShape *shape)
{
    for (int i = 0; i < lengthof(shape->columns) && shape->columns[i] != NULL; i++) {
        if (get_attnum(relation, shape->columns[i]) == InvalidAttrNumber)
            ereport(ERROR,
                    (errcode(ERRCODE_UNDEFINED_COLUMN),
                     errmsg("column \"%s\" of table %s does not exist", shape->columns[i],
                            qualified_name(shape->name)),
                     errhint("The table must have the columns that apapacho_create_tables() would give it; "
                             "or set apapacho_jobs.schema to the schema of the right tables.")));
    }
}

Oid
user_table_check(UserTable table)
{
    const TableShape *shape = &shapes[table];
    Oid namespace_id = get_namespace_oid(setting_schema, true);
    Oid relation = OidIsValid(namespace_id) ? get_relname_relid(shape->name, namespace_id) : InvalidOid;
    Relation opened = NULL;
    Oid owner;

    if (OidIsValid(relation))
        opened = try_table_open(relation, AccessShareLock);
    if (opened == NULL)
        ereport(ERROR,
                (errcode(ERRCODE_UNDEFINED_TABLE),
                 errmsg("table %s does not exist", qualified_name(shape->name)),
                 errhint("Run SELECT apapacho_create_tables(), or set apapacho_jobs.schema to the schema where "
                         "the tables are.")));
    if (opened->rd_rel->relkind != RELKIND_RELATION &&
        opened->rd_rel->relkind != RELKIND_PARTITIONED_TABLE)
        ereport(ERROR,
                (errcode(ERRCODE_WRONG_OBJECT_TYPE),
                 errmsg("%s is not an ordinary table", qualified_name(shape->name)),
                 errhint("Views and foreign tables cannot take the place of the backend's tables.")));
    check_columns(relation, shape);
    owner = opened->rd_rel->relowner;
    table_close(opened, NoLock);        /* the lock stays to the end of the transaction */
    return owner;
}

/* apapacho_jobs.check_user_tables(): ERROR as above for the first table that is not as we need it. */
Datum
apapacho_check_user_tables(PG_FUNCTION_ARGS)
{
    for (int table = 0; table < USER_TABLE_COUNT; table++)
        (void) user_table_check((UserTable) table);
    PG_RETURN_VOID();
}
