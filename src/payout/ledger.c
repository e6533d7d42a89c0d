/*
 * ledger.c: entries in the user's ledger, where there is one: pairs of a debit and a credit, in the transaction of what
 * they are about.
 *
 * Runs in workers and in every backend that writes "Payout" (guards), as the owner of that table.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "payout/internal.h"
#include "server/xact.h"

static const char *const account_codes[LEDGER_ACCOUNTS] = {
    [LEDGER_CREATOR_PAYABLE] = "CREATOR_PAYABLE", [LEDGER_PAYOUT_PENDING] = "PAYOUT_PENDING",
    [LEDGER_CASH] = "CASH_PROCESSOR_CLEARING",    [LEDGER_REFUND_EXPENSE] = "REFUND_EXPENSE",
    [LEDGER_CHARGEBACK_LOSS] = "CHARGEBACK_LOSS",
};

static const char accounts_sql[] = "SELECT a.\"code\", a.\"id\" FROM {LedgerAccount} AS a";

/* $1 payouts, $2 transactions, $3 creators, $4 accounts to debit, $5 to credit, $6 amounts, $7 descriptions, $8
 * currencies, $9 now. */
static const char post_sql[] =
    "INSERT INTO {LedgerEntry} (\"id\", \"transactionId\", \"payoutId\", \"accountId\", \"creatorId\", \"currency\","
    " \"debit\", \"credit\", \"description\", \"createdAt\")"
    " SELECT apapacho_jobs.uuid_v7(), u.transaction_id, u.payout_id, s.account_id, u.creator_id, u.currency, s.debit,"
    "  s.credit, u.description, $9"
    " FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3), pg_catalog.unnest($4),"
    "  pg_catalog.unnest($5), pg_catalog.unnest($6), pg_catalog.unnest($7), pg_catalog.unnest($8))"
    "  AS u (payout_id, transaction_id, creator_id, debit_id, credit_id, amount, description, currency)"
    " CROSS JOIN LATERAL (VALUES (u.debit_id, u.amount, 0::bigint), (u.credit_id, 0::bigint, u.amount))"
    "  AS s (account_id, debit, credit)";

#define POST_PARAMETERS 9

static const Oid post_types[POST_PARAMETERS] = {TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID,
                                                INT8ARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TIMESTAMPOID};

/* The ids of the accounts; false when there is no ledger in use. ERROR when some that we need are missing. */
static bool
find_accounts(const char *schema, char *ids[LEDGER_ACCOUNTS])
{
    Oid namespace_id = get_namespace_oid(schema, true);
    uint64 rows;

    if (!OidIsValid(get_relname_relid("LedgerAccount", namespace_id)) ||
        !OidIsValid(get_relname_relid("LedgerEntry", namespace_id)))
        return false;
    rows = payout_run_kept(schema, accounts_sql, 0, NULL, NULL, NULL);
    if (rows == 0)
        return false;
    for (int account = 0; account < LEDGER_ACCOUNTS; account++) {
        ids[account] = NULL;
        for (uint64 row = 0; row < rows; row++) {
            char *code = spi_text(row, 1);

            if (code != NULL && strcmp(code, account_codes[account]) == 0)
                ids[account] = spi_text(row, 2);
        }
        if (ids[account] == NULL)
            ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                            errmsg("table %s has no account \"%s\"",
                                   quote_qualified_identifier(schema, "LedgerAccount"), account_codes[account]),
                            errhint("Insert it; or delete all accounts, if there is to be no ledger.")));
    }
    return true;
}

void
payout_ledger_post(const char *schema, const LedgerLine *lines, int count)
{
    char *ids[LEDGER_ACCOUNTS];
    char **text[7];
    int64 *amounts;
    Datum values[POST_PARAMETERS];
    int posted = 0;

    if (count == 0 || !find_accounts(schema, ids))
        return;
    for (int i = 0; i < lengthof(text); i++)
        text[i] = palloc(sizeof(char *) * count);
    amounts = palloc(sizeof(int64) * count);
    for (int i = 0; i < count; i++) {
        const LedgerLine *line = &lines[i];

        if (line->amount <= 0)
            continue;
        text[0][posted] = unconstify(char *, line->payout_id);
        text[1][posted] = unconstify(char *, line->transaction_id);
        text[2][posted] = unconstify(char *, line->creator_id);
        text[3][posted] = ids[line->debit];
        text[4][posted] = ids[line->credit];
        text[5][posted] = unconstify(char *, line->description);
        text[6][posted] = unconstify(char *, line->currency);
        amounts[posted++] = line->amount;
    }
    if (posted == 0)
        return;
    for (int i = 0; i < 5; i++)
        values[i] = payout_text_array(text[i], posted);
    values[5] = payout_bigint_array(amounts, posted);
    values[6] = payout_text_array(text[5], posted);
    values[7] = payout_text_array(text[6], posted);
    values[8] = TimestampGetDatum(payout_now());
    if (payout_run_kept(schema, post_sql, POST_PARAMETERS, post_types, values, NULL) != 2 * (uint64)posted)
        ereport(ERROR, (errcode(ERRCODE_TRIGGERED_ACTION_EXCEPTION), errmsg("ledger entries could not be written"),
                        errdetail("A trigger or rule of the table kept a row from being written.")));
}
