/*
 * user_tables.h: the user's tables (spec section 4): their names in the configured schema, and whether they are what we
 * need.
 */
#ifndef APAPACHO_USER_TABLES_H
#define APAPACHO_USER_TABLES_H

#include "postgres.h"

typedef enum UserTable {
    TABLE_OUTBOX_EVENT,
    TABLE_FEE_SCHEDULE,
    TABLE_TRANSACTION,
    TABLE_PAYOUT,
    TABLE_PAYOUT_ITEM,
    TABLE_CREATOR,
    USER_TABLE_COUNT
} UserTable;

/* The table's quoted and qualified name, e.g. "public"."OutboxEvent", for SQL text; palloc'ed. No check is made. */
char *user_table_name(UserTable table);

/* The quoted and qualified name of a type in the same schema, e.g. "public"."PayoutStatus"; palloc'ed. */
char *user_type_name(const char *type);

/* Whatever has the table's name in the configured schema; InvalidOid: nothing. Within a transaction. */
Oid user_table_oid(UserTable table);

/*
 * Makes sure, within the current transaction, that the table exists, is an ordinary or partitioned table (not a view,
 * through which its owner could run code as us) and has the columns that we use; locks it in AccessShareLock to the end
 * of the transaction so that it stays so. Returns its owner, for run_as(). ERROR undefined_table / undefined_column /
 * wrong_object_type with the hint otherwise; datatype_mismatch when a column is of another type.
 */
Oid user_table_check(UserTable table);

#endif
