/*
 * install.c: creates the guards on the user's tables, repairs them, and sees that they are there.
 *
 * Runs in workers and backends. The triggers are made as the extension's owner, what they stand on is rebuilt as the
 * owner of "Payout". Locks the four tables against writers until the end of the transaction.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/tuplestore.h"

#include "payout/internal.h"
#include "server/compat.h"
#include "server/extension.h"
#include "server/settings.h"
#include "server/user_tables.h"

PG_FUNCTION_INFO_V1(apapacho_payout_install_guards);
PG_FUNCTION_INFO_V1(apapacho_install_missing_guards);

#define WATCHED_COLUMNS                                                                                                \
    "\"status\", \"creatorId\", \"currency\", \"grossAmount\", \"platformFeeAmount\", \"creatorPayableAmount\", "      \
    "\"occurredAt\""

static const struct {
    const char *table;
    const char *name;
    const char *event;
    const char *manner;
    const char *function;
    bool guards_money; /* else it only helps to find what has changed */
} triggers[] = {
    {"PayoutItem", "apapacho_claim_insert", "AFTER INSERT", "REFERENCING NEW TABLE AS added FOR EACH STATEMENT",
     "guard_items", true},
    {"PayoutItem", "apapacho_claim_update", "AFTER UPDATE",
     "REFERENCING OLD TABLE AS removed NEW TABLE AS added FOR EACH STATEMENT", "guard_items", true},
    {"PayoutItem", "apapacho_claim_delete", "AFTER DELETE", "REFERENCING OLD TABLE AS removed FOR EACH STATEMENT",
     "guard_items", true},
    {"PayoutItem", "apapacho_no_truncate", "BEFORE TRUNCATE", "FOR EACH STATEMENT", "guard_truncate", true},
    {"Payout", "apapacho_payout_insert", "AFTER INSERT", "REFERENCING NEW TABLE AS added FOR EACH STATEMENT",
     "guard_payouts", true},
    {"Payout", "apapacho_payout_update", "AFTER UPDATE", "FOR EACH ROW", "guard_payout_change", true},
    {"Payout", "apapacho_payout_delete", "AFTER DELETE", "REFERENCING OLD TABLE AS removed FOR EACH STATEMENT",
     "guard_payouts", true},
    {"Payout", "apapacho_no_truncate", "BEFORE TRUNCATE", "FOR EACH STATEMENT", "guard_truncate", true},
    {"Transaction", "apapacho_transaction_insert", "AFTER INSERT", "FOR EACH ROW", "guard_discovery", false},
    {"Transaction", "apapacho_transaction_change", "AFTER UPDATE OF " WATCHED_COLUMNS, "FOR EACH ROW",
     "guard_discovery", false},
    {"Transaction", "apapacho_transaction_delete", "AFTER DELETE", "FOR EACH ROW", "guard_discovery", false},
    {"Creator", "apapacho_creator_change", "AFTER UPDATE OF \"status\"", "FOR EACH ROW", "guard_discovery", false},
};

/* Our tables that the owner of "Payout" reads and writes. */
static const char *const granted_tables[] = {
    "payout_claim",      "payout_transition",      "payout_report", "payout_state",  "payout_dirty",  "payout_todo",
    "payout_adjustment", "payout_adjustment_item", "payout_run",    "payout_origin", "payout_reason", "payout_balance",
};

static const char found_sql[] =
    "SELECT c.relname::text, t.tgname::text, p.proname::text FROM pg_catalog.pg_trigger AS t"
    " JOIN pg_catalog.pg_class AS c ON c.oid = t.tgrelid JOIN pg_catalog.pg_proc AS p ON p.oid = t.tgfoid"
    " JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace"
    " JOIN pg_catalog.pg_namespace AS m ON m.oid = p.pronamespace"
    " WHERE n.nspname::text = $1 AND m.nspname = 'apapacho_jobs' AND t.tgenabled = 'A' AND NOT t.tgisinternal";

static const char state_sql[] = "SELECT 1 FROM apapacho_jobs.payout_state";

/* What is rebuilt from the user's tables, in this order; as the owner of "Payout". */
static const char *const rebuilding[] = {
    "DELETE FROM apapacho_jobs.payout_claim",
    "INSERT INTO apapacho_jobs.payout_claim (transaction_id, payout_id)"
    " SELECT DISTINCT ON (i.\"transactionId\") i.\"transactionId\", p.\"id\""
    " FROM {PayoutItem} AS i JOIN {Payout} AS p ON p.\"id\" = i.\"payoutId\" WHERE {holds}"
    " ORDER BY i.\"transactionId\", (p.\"status\"::text = 'SENT') DESC, p.\"createdAt\", p.\"id\"",
    "UPDATE apapacho_jobs.payout_adjustment AS a SET payout_id = NULL WHERE a.payout_id IS NOT NULL"
    " AND NOT EXISTS (SELECT FROM {Payout} AS p WHERE p.\"id\" = a.payout_id AND {holds})",
    "UPDATE apapacho_jobs.payout_adjustment AS a SET payout_id = i.payout_id"
    " FROM apapacho_jobs.payout_adjustment_item AS i JOIN {Payout} AS p ON p.\"id\" = i.payout_id"
    " WHERE a.id = i.adjustment_id AND a.payout_id IS NULL AND {holds}",
    "DELETE FROM apapacho_jobs.payout_dirty",
    "DELETE FROM apapacho_jobs.payout_todo",
    "INSERT INTO apapacho_jobs.payout_state (installed_at) VALUES (pg_catalog.now())"
    " ON CONFLICT (singleton) DO UPDATE SET full_at = NULL",
};

static const char conflicts_sql[] =
    "SELECT pg_catalog.format('is in payout %s, which has the claim, and in this one', c.payout_id),"
    "  c.transaction_id, p.\"id\""
    " FROM {PayoutItem} AS i JOIN {Payout} AS p ON p.\"id\" = i.\"payoutId\""
    " JOIN apapacho_jobs.payout_claim AS c ON c.transaction_id = i.\"transactionId\" COLLATE \"C\""
    " WHERE {holds} AND c.payout_id <> p.\"id\" ORDER BY 2, 3";

/* Payouts on their way that the ledger does not know. */
static const char unposted_sql[] =
    "SELECT p.\"id\", p.\"creatorId\", p.\"currency\", p.\"payoutAmount\" FROM {Payout} AS p"
    " WHERE {holds} AND p.\"status\"::text <> 'SENT'"
    "  AND NOT EXISTS (SELECT FROM {LedgerEntry} AS e WHERE e.\"payoutId\" = p.\"id\")";

/* What is missing, as text for a message: the name of a trigger, or of the table that is not granted; NULL: nothing. */
static const char *
find_missing(bool guards_money, Oid owner)
{
    Oid type = TEXTOID;
    Datum schema = CStringGetTextDatum(setting_schema);
    uint64 rows = spi_run(found_sql, 1, &type, &schema, NULL, true, 0);

    for (int i = 0; i < lengthof(triggers); i++) {
        bool found = false;

        if (triggers[i].guards_money != guards_money)
            continue;
        for (uint64 row = 0; row < rows && !found; row++)
            found = strcmp(spi_text(row, 1), triggers[i].table) == 0 &&
                    strcmp(spi_text(row, 2), triggers[i].name) == 0 &&
                    strcmp(spi_text(row, 3), triggers[i].function) == 0;
        if (!found)
            return psprintf("trigger %s on table %s is missing or is not enabled always", triggers[i].name,
                            quote_qualified_identifier(setting_schema, triggers[i].table));
    }
    for (int i = 0; guards_money && i < lengthof(granted_tables); i++) {
        Oid table = get_relname_relid(granted_tables[i], get_namespace_oid("apapacho_jobs", false));
        AclMode needed = ACL_SELECT | ACL_INSERT | ACL_UPDATE | ACL_DELETE;

        if (pg_class_aclmask(table, owner, needed, ACLMASK_ALL) != needed)
            return psprintf("role %s lacks privileges on table apapacho_jobs.%s", GetUserNameFromId(owner, false),
                            granted_tables[i]);
    }
    return NULL;
}

bool
payout_discovery_guarded(void)
{
    return find_missing(false, InvalidOid) == NULL;
}

static void
execute(const char *sql)
{
    int status = SPI_execute(sql, false, 0);

    if (status < 0)
        elog(ERROR, "SPI_execute failed: %s", SPI_result_code_string(status));
}

static void
create_triggers(Oid owner)
{
    char *owner_name = GetUserNameFromId(owner, false);
    RunAs saved;

    run_as(&saved, extension_owner());
    execute(payout_sql("LOCK TABLE {Creator}, {Transaction}, {Payout}, {PayoutItem} IN SHARE ROW EXCLUSIVE MODE"));
    for (int i = 0; i < lengthof(triggers); i++) {
        char *table = quote_qualified_identifier(setting_schema, triggers[i].table);

        execute(psprintf("CREATE OR REPLACE TRIGGER %s %s ON %s %s EXECUTE FUNCTION apapacho_jobs.%s()",
                         triggers[i].name, triggers[i].event, table, triggers[i].manner, triggers[i].function));
        execute(psprintf("ALTER TABLE %s ENABLE ALWAYS TRIGGER %s", table, triggers[i].name));
        execute(psprintf("ALTER TRIGGER %s ON %s DEPENDS ON EXTENSION apapacho_jobs", triggers[i].name, table));
    }
    for (int i = 0; i < lengthof(granted_tables); i++)
        execute(psprintf("GRANT SELECT, INSERT, UPDATE, DELETE ON apapacho_jobs.%s TO %s", granted_tables[i],
                         quote_identifier(owner_name)));
    run_as_end(&saved);
}

static void
post_missing_entries(void)
{
    Oid namespace_id = get_namespace_oid(setting_schema, false);
    LedgerLine *lines;
    uint64 rows;

    if (!OidIsValid(get_relname_relid("LedgerEntry", namespace_id)))
        return;
    rows = spi_run(payout_sql(unposted_sql), 0, NULL, NULL, NULL, false, 0);
    lines = palloc0(sizeof(LedgerLine) * Max(rows, 1));
    for (uint64 row = 0; row < rows; row++)
        lines[row] = (LedgerLine){
            .payout_id = spi_text(row, 1),
            .creator_id = spi_text(row, 2),
            .currency = spi_text(row, 3),
            .amount = spi_int64(row, 4),
            .debit = LEDGER_CREATOR_PAYABLE,
            .credit = LEDGER_PAYOUT_PENDING,
            .description = "payout calculated",
        };
    payout_ledger_post(setting_schema, lines, (int)rows);
}

/* Makes all that is missing, as it should be. The conflicts found are in SPI_tuptable, their number is returned. */
static uint64
install(Oid owner)
{
    RunAs saved;
    uint64 conflicts;

    create_triggers(owner);
    run_as(&saved, owner);
    for (int i = 0; i < lengthof(rebuilding); i++)
        execute(payout_sql(rebuilding[i]));
    post_missing_entries();
    conflicts = spi_run(payout_sql(conflicts_sql), 0, NULL, NULL, NULL, false, 0);
    run_as_end(&saved);
    return conflicts;
}

static bool
ever_installed(void)
{
    RunAs saved;
    bool found;

    run_as(&saved, extension_owner());
    found = spi_run(state_sql, 0, NULL, NULL, NULL, true, 1) > 0;
    run_as_end(&saved);
    return found;
}

void
payout_require_guards(bool may_install)
{
    Oid owner = payout_check_tables();
    const char *missing = find_missing(true, owner);

    if (missing == NULL && ever_installed())
        return;
    if (may_install && !ever_installed()) {
        uint64 conflicts = install(owner);

        if (conflicts > 0)
            ereport(WARNING, (errcode(ERRCODE_DATA_CORRUPTED),
                              errmsg("%llu items of payouts are of transactions that are in another live payout too",
                                     (unsigned long long)conflicts),
                              errhint("SELECT * FROM apapacho_payout_install_guards() lists them.")));
        return;
    }
    ereport(ERROR,
            (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
             errmsg("payouts are not guarded: %s", missing != NULL ? missing : "apapacho_jobs.payout_state is empty"),
             errhint("Run SELECT * FROM apapacho_payout_install_guards(), which repairs it and lists "
                     "what contradicts itself.")));
}

static void
check_caller(Oid owner)
{
    if (!superuser() && !has_privs_of_role(GetUserId(), owner) && GetUserId() != extension_owner())
        ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
                        errmsg("must be owner of table %s", user_table_name(TABLE_PAYOUT))));
}

/* apapacho_payout_install_guards(): installs them anew, returns what contradicts itself. */
Datum
apapacho_payout_install_guards(PG_FUNCTION_ARGS)
{
    ReturnSetInfo *info = (ReturnSetInfo *)fcinfo->resultinfo;
    uint64 conflicts;
    Oid owner;

    InitMaterializedSRF(fcinfo, 0);
    payout_connect_spi();
    owner = payout_check_tables();
    check_caller(owner);
    conflicts = install(owner);
    for (uint64 i = 0; i < conflicts; i++) {
        Datum row[3];
        bool row_nulls[3];

        for (int column = 0; column < 3; column++)
            row[column] = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, column + 1, &row_nulls[column]);
        tuplestore_putvalues(info->setResult, info->setDesc, row, row_nulls);
    }
    SPI_finish();
    return (Datum)0;
}

/*
 * apapacho_jobs.install_missing_guards(): installs them where the tables are there and some guard is missing; whether
 * it did. For those who may: false for others, as for tables that are not as they should be.
 */
Datum
apapacho_install_missing_guards(PG_FUNCTION_ARGS)
{
    bool installed = false;
    Oid owner;

    for (int table = 0; table < USER_TABLE_COUNT; table++) {
        if (!OidIsValid(user_table_oid((UserTable)table)))
            PG_RETURN_BOOL(false);
    }
    payout_connect_spi();
    owner = payout_check_tables();
    if ((superuser() || has_privs_of_role(GetUserId(), owner)) &&
        (find_missing(true, owner) != NULL || find_missing(false, owner) != NULL || !ever_installed())) {
        (void)install(owner);
        installed = true;
    }
    SPI_finish();
    PG_RETURN_BOOL(installed);
}
