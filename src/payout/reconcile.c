/*
 * reconcile.c: apapacho_payout_reconcile(): every difference between transactions, payouts, items, claims, adjustments,
 * ledger and events. Writes nothing.
 *
 * Runs in backends, as the owner of "Payout". Each check is one query over all payouts; those of the ledger are left
 * out where there is none in use.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "payout/internal.h"
#include "server/compat.h"
#include "server/settings.h"

PG_FUNCTION_INFO_V1(apapacho_payout_reconcile);

#define COLUMNS 5

/* For sorting and hashing, each; more where it is set to more. */
#define LEAST_WORK_MEM_KB 65536

/* What the adjustments of a transaction should add up to; null: that is not decided. k: what holds it. */
#define TARGET                                                                                                         \
    "CASE WHEN k.amount IS NULL THEN 0 WHEN t.\"status\"::text = ANY ('{REFUNDED,CHARGEDBACK}') THEN -k.amount"        \
    " WHEN t.\"status\"::text = 'SUCCEEDED' THEN 0 END"

#define EVENT_COUNTS                                                                                                   \
    "(SELECT e.\"aggregateId\" AS id, e.\"eventType\" AS type, pg_catalog.count(*) AS n FROM {OutboxEvent} AS e"       \
    " WHERE e.\"aggregateType\" = 'Payout' GROUP BY 1, 2)"

typedef struct Check {
    const char *kind; /* LEDGER...: needs the tables of the ledger, in use; TOTALS, ITEMS: the rows begin with theirs */
    const char *sql;  /* creator, payout, transaction, detail; $1: events since then (UTC) */
} Check;

static const Check checks[] = {
    {"TWO_LIVE_PAYOUTS", "SELECT pg_catalog.min(p.\"creatorId\"), pg_catalog.min(p.\"id\"), i.\"transactionId\","
                         " 'in ' || pg_catalog.string_agg(p.\"id\", ', ' ORDER BY p.\"id\") FROM {PayoutItem} AS i"
                         " JOIN {Payout} AS p ON p.\"id\" = i.\"payoutId\" WHERE {holds} GROUP BY i.\"transactionId\""
                         " HAVING pg_catalog.count(*) > 1"},
    {"CLAIM_MISSING", "SELECT p.\"creatorId\", p.\"id\", i.\"transactionId\", 'the item has no claim'"
                      " FROM {PayoutItem} AS i JOIN {Payout} AS p ON p.\"id\" = i.\"payoutId\" WHERE {holds} AND NOT"
                      " EXISTS (SELECT FROM apapacho_jobs.payout_claim AS k"
                      " WHERE k.transaction_id = i.\"transactionId\" COLLATE \"C\" AND k.payout_id = p.\"id\")"},
    {"CLAIM_WITHOUT_ITEM",
     "SELECT NULL, k.payout_id, k.transaction_id, 'no payout that holds its items has one of this transaction'"
     " FROM apapacho_jobs.payout_claim AS k WHERE NOT EXISTS (SELECT FROM {PayoutItem} AS i JOIN {Payout} AS p"
     " ON p.\"id\" = i.\"payoutId\" WHERE {holds} AND i.\"transactionId\" = k.transaction_id"
     " COLLATE pg_catalog.\"default\""
     " AND i.\"payoutId\" = k.payout_id)"},
    {"TOTALS" /* of payouts and what is in them, joined once */,
     "SELECT c.kind, p.\"creatorId\", p.\"id\", NULL, c.detail FROM {Payout} AS p LEFT JOIN"
     " (SELECT i.\"payoutId\" AS id, pg_catalog.sum(i.\"amount\") AS amount, pg_catalog.sum(t.\"grossAmount\") AS "
     "gross,"
     "   pg_catalog.sum(t.\"platformFeeAmount\") AS fee FROM {PayoutItem} AS i"
     "  LEFT JOIN {Transaction} AS t ON t.\"id\" = i.\"transactionId\" GROUP BY 1) AS i ON i.id = p.\"id\""
     " CROSS JOIN LATERAL (VALUES"
     "  ('AMOUNT', pg_catalog.format('payoutAmount %s, items %s, adjustments %s', p.\"payoutAmount\", i.amount,"
     "    p.\"adjustmentsTotal\"), p.\"payoutAmount\" <> COALESCE(i.amount, 0) + p.\"adjustmentsTotal\"),"
     "  ('GROSS_TOTAL', pg_catalog.format('grossTotal %s, transactions %s', p.\"grossTotal\", COALESCE(i.gross, 0)),"
     "   p.\"grossTotal\" <> COALESCE(i.gross, 0)),"
     "  ('FEE_TOTAL', pg_catalog.format('platformFeeTotal %s, transactions %s', p.\"platformFeeTotal\","
     "    COALESCE(i.fee, 0)), p.\"platformFeeTotal\" <> COALESCE(i.fee, 0))) AS c (kind, detail, found)"
     " WHERE (p.\"payoutAmount\" <> COALESCE(i.amount, 0) + p.\"adjustmentsTotal\""
     "  OR p.\"grossTotal\" <> COALESCE(i.gross, 0) OR p.\"platformFeeTotal\" <> COALESCE(i.fee, 0)) AND c.found"},
    {"ITEMS" /* and their transactions, joined once */,
     "SELECT c.kind, c.creator, x.payout, x.transaction, c.detail FROM (SELECT i.\"payoutId\" AS payout,"
     "   i.\"transactionId\" AS transaction, i.\"amount\" AS amount, t.\"creatorPayableAmount\" AS payable,"
     "   t.\"creatorId\" AS creator, p.\"creatorId\" AS payout_creator, t.\"currency\" AS currency,"
     "   p.\"currency\" AS payout_currency, t.\"status\"::text AS status, {holds} AS holds, {recallable} AS recallable"
     "  FROM {PayoutItem} AS i JOIN {Payout} AS p ON p.\"id\" = i.\"payoutId\""
     "  JOIN {Transaction} AS t ON t.\"id\" = i.\"transactionId\""
     "  WHERE i.\"amount\" <> t.\"creatorPayableAmount\" OR p.\"creatorId\" <> t.\"creatorId\""
     "   OR p.\"currency\" <> t.\"currency\" OR t.\"status\"::text <> 'SUCCEEDED') AS x CROSS JOIN LATERAL (VALUES"
     "  ('ITEM_AMOUNT', x.creator, pg_catalog.format('item %s, transaction %s', x.amount, x.payable),"
     "   x.holds AND x.amount <> x.payable),"
     "  ('ITEM_CREATOR', x.payout_creator, 'the transaction is of creator ' || x.creator,"
     "   x.payout_creator <> x.creator),"
     "  ('CURRENCY', x.payout_creator, pg_catalog.format('payout in %s, transaction in %s', x.payout_currency,"
     "    x.currency), x.holds AND x.payout_currency <> x.currency),"
     "  ('REVERSED_ITEM', x.payout_creator, 'the transaction is ' || x.status || ': the next run recalls it',"
     "   x.recallable AND x.status <> 'SUCCEEDED')) AS c (kind, creator, detail, found) WHERE c.found"},
    {"ADJUSTMENTS_TOTAL",
     "SELECT p.\"creatorId\", p.\"id\", NULL, pg_catalog.format('adjustmentsTotal %s, adjustments %s',"
     " p.\"adjustmentsTotal\", COALESCE(a.amount, 0)) FROM {Payout} AS p LEFT JOIN"
     " (SELECT i.payout_id AS id, pg_catalog.sum(a.amount) AS amount FROM apapacho_jobs.payout_adjustment_item AS i"
     "  JOIN apapacho_jobs.payout_adjustment AS a ON a.id = i.adjustment_id GROUP BY 1) AS a ON a.id = p.\"id\""
     " WHERE p.\"adjustmentsTotal\" <> COALESCE(a.amount, 0)"},
    {"NOT_POSITIVE", "SELECT p.\"creatorId\", p.\"id\", NULL, 'payoutAmount ' || p.\"payoutAmount\" FROM {Payout} AS p"
                     " WHERE {holds} AND p.\"payoutAmount\" <= 0"},
    {"REVERSAL", "SELECT t.\"creatorId\", k.payout_id, t.\"id\", pg_catalog.format('the transaction is %s, adjustments"
                 " %s instead of %s', t.\"status\", COALESCE(n.net, 0), " TARGET ")"
                 " FROM (SELECT t.\"id\" AS id FROM {Transaction} AS t"
                 "   WHERE t.\"status\"::text = ANY ('{REFUNDED,CHARGEDBACK}') UNION"
                 "  SELECT a.transaction_id FROM apapacho_jobs.payout_adjustment AS a"
                 "   WHERE a.transaction_id IS NOT NULL) AS c LEFT JOIN {Transaction} AS t ON t.\"id\" = c.id"
                 " LEFT JOIN (SELECT i.\"transactionId\" AS id, p.\"id\" AS payout_id, i.\"amount\" AS amount FROM"
                 "   apapacho_jobs.payout_claim AS k JOIN {PayoutItem} AS i ON i.\"payoutId\" = k.payout_id"
                 "    AND i.\"transactionId\" = k.transaction_id COLLATE pg_catalog.\"default\""
                 "   JOIN {Payout} AS p ON p.\"id\" = k.payout_id"
                 "   WHERE NOT {recallable}) AS k ON k.id = c.id"
                 " LEFT JOIN (SELECT a.transaction_id AS id, pg_catalog.sum(a.amount) AS net"
                 "   FROM apapacho_jobs.payout_adjustment AS a GROUP BY 1) AS n ON n.id = c.id"
                 " WHERE t.\"id\" IS NULL OR COALESCE(n.net, 0) <> " TARGET},
    {"ADJUSTMENT_HELD",
     "SELECT a.creator_id, COALESCE(a.payout_id, i.payout_id), a.transaction_id,"
     " pg_catalog.format('adjustment %s: held by %s, is in %s', a.id, a.payout_id, i.payout_id)"
     " FROM apapacho_jobs.payout_adjustment AS a FULL JOIN (SELECT i.adjustment_id, i.payout_id"
     "  FROM apapacho_jobs.payout_adjustment_item AS i JOIN {Payout} AS p ON p.\"id\" = i.payout_id WHERE {holds})"
     " AS i ON i.adjustment_id = a.id AND i.payout_id = a.payout_id"
     " WHERE (a.payout_id IS NOT NULL AND i.payout_id IS NULL) OR (a.id IS NULL AND i.payout_id IS NOT NULL)"},
    {"ADJUSTMENT_CREATOR", "SELECT p.\"creatorId\", p.\"id\", a.transaction_id, pg_catalog.format('adjustment %s is of"
                           " creator %s', a.id, a.creator_id) FROM apapacho_jobs.payout_adjustment_item AS i"
                           " JOIN apapacho_jobs.payout_adjustment AS a ON a.id = i.adjustment_id"
                           " JOIN {Payout} AS p ON p.\"id\" = i.payout_id WHERE p.\"creatorId\" <> a.creator_id"},
    {"ADJUSTMENT_CREATOR", "SELECT a.creator_id, a.payout_id, t.\"id\", pg_catalog.format('adjustment %s is of creator"
                           " %s, the transaction of %s', a.id, a.creator_id, t.\"creatorId\")"
                           " FROM apapacho_jobs.payout_adjustment AS a JOIN {Transaction} AS t"
                           " ON t.\"id\" = a.transaction_id WHERE t.\"creatorId\" <> a.creator_id"},
    {"PAYOUT_MISSING", "SELECT NULL, o.payout_id, NULL, 'was made by a run, and sent; it is gone' FROM"
                       " apapacho_jobs.payout_origin AS o WHERE NOT EXISTS (SELECT FROM {Payout} AS p WHERE p.\"id\" ="
                       " o.payout_id) AND EXISTS (SELECT FROM apapacho_jobs.payout_transition AS l"
                       " WHERE l.payout_id = o.payout_id AND l.to_status = 'SENT')"},
    {"STATUS", "SELECT p.\"creatorId\", p.\"id\", NULL, pg_catalog.format('is %s, but the last change known was to"
               " %s', p.\"status\", l.to_status) FROM {Payout} AS p JOIN (SELECT DISTINCT ON (l.payout_id) l.payout_id,"
               "  l.to_status FROM apapacho_jobs.payout_transition AS l ORDER BY l.payout_id, l.id DESC) AS l"
               " ON l.payout_id = p.\"id\" WHERE l.to_status <> p.\"status\"::text"},
    {"STATUS", "SELECT p.\"creatorId\", p.\"id\", NULL, 'is ' || p.\"status\" || ' without a change known' FROM"
               " {Payout} AS p JOIN apapacho_jobs.payout_origin AS o ON o.payout_id = p.\"id\""
               " WHERE p.\"status\"::text <> 'CALCULATED' AND NOT EXISTS"
               " (SELECT FROM apapacho_jobs.payout_transition AS l WHERE l.payout_id = p.\"id\")"},
    {"SENT_WITHOUT_TIME", "SELECT p.\"creatorId\", p.\"id\", NULL, '\"sentAt\" is null' FROM {Payout} AS p"
                          " WHERE p.\"status\"::text = 'SENT' AND p.\"sentAt\" IS NULL"},
    {"RETRY_COUNT", "SELECT p.\"creatorId\", p.\"id\", NULL, pg_catalog.format('is %s after %s failures', p.\"status\","
                    " p.\"retryCount\") FROM {Payout} AS p WHERE p.\"status\"::text = ANY ('{CALCULATED,PENDING}')"
                    " AND p.\"retryCount\" >= " MAX_FAILURES_TEXT
                    /* somebody may have taken it up again: that is written down */
                    " AND (SELECT l.from_status FROM apapacho_jobs.payout_transition AS l WHERE l.payout_id = p.\"id\""
                    "  ORDER BY l.id DESC LIMIT 1) IS DISTINCT FROM 'FAILED'"},
    {"PERIOD", "SELECT p.\"creatorId\", p.\"id\", NULL, pg_catalog.format('from %s to %s, after one to %s',"
               " p.\"periodStart\", p.\"periodEnd\", p.before) FROM (SELECT p.*, pg_catalog.lag(p.\"periodEnd\")"
               "  OVER (PARTITION BY p.\"creatorId\" ORDER BY p.\"periodEnd\", p.\"id\") AS before FROM {Payout} AS p"
               "  WHERE {holds}) AS p JOIN apapacho_jobs.payout_origin AS o ON o.payout_id = p.\"id\""
               " WHERE p.\"periodStart\" > p.\"periodEnd\" OR p.\"periodStart\" < p.before"},
    {"EVENT_CALCULATED",
     "SELECT p.\"creatorId\", p.\"id\", NULL, COALESCE(e.n, 0) || ' events PayoutCalculated' FROM {Payout} AS p"
     " JOIN apapacho_jobs.payout_origin AS o ON o.payout_id = p.\"id\" LEFT JOIN " EVENT_COUNTS
     " AS e ON e.id = p.\"id\" AND e.type = 'PayoutCalculated'"
     " WHERE p.\"createdAt\" >= $1 AND COALESCE(e.n, 0) <> 1"},
    {"EVENT", "SELECT p.\"creatorId\", p.\"id\", NULL, pg_catalog.format('%s events %s, %s changes', COALESCE(e.n, 0),"
              " COALESCE(e.type, l.event), COALESCE(l.n, 0)) FROM (SELECT l.payout_id AS id, l.event,"
              "  pg_catalog.count(*) AS n, pg_catalog.min(l.at) AS at FROM apapacho_jobs.payout_transition AS l"
              "  WHERE l.event IS NOT NULL GROUP BY 1, 2) AS l FULL JOIN " EVENT_COUNTS
              " AS e ON e.id = l.id AND e.type = l.event JOIN {Payout} AS p ON p.\"id\" = COALESCE(l.id, e.id)"
              " WHERE COALESCE(e.type, l.event) = ANY ('{PayoutSent,PayoutFailed,PayoutCancelled}')"
              " AND EXISTS (SELECT FROM apapacho_jobs.payout_origin AS o WHERE o.payout_id = p.\"id\")"
              " AND COALESCE(e.n, 0) <> COALESCE(l.n, 0) AND p.\"createdAt\" >= $1"},
    {"EVENT_AMOUNT",
     "SELECT p.\"creatorId\", p.\"id\", NULL, pg_catalog.format('payoutAmount %s, event %s', p.\"payoutAmount\","
     " e.\"payload\" OPERATOR(pg_catalog.#>>) '{payout,payoutAmount}') FROM {Payout} AS p"
     " JOIN apapacho_jobs.payout_origin AS o ON o.payout_id = p.\"id\" JOIN {OutboxEvent} AS e"
     " ON e.\"aggregateType\" = 'Payout' AND e.\"aggregateId\" = p.\"id\" AND e.\"eventType\" = 'PayoutCalculated'"
     " WHERE p.\"payoutAmount\"::text IS DISTINCT FROM"
     "  (e.\"payload\" OPERATOR(pg_catalog.#>>) '{payout,payoutAmount}')"},
    {"LEDGER_UNBALANCED",
     "SELECT pg_catalog.min(e.\"creatorId\"), e.\"payoutId\", e.\"transactionId\", pg_catalog.format("
     "'debit %s, credit %s: %s', pg_catalog.sum(e.\"debit\"), pg_catalog.sum(e.\"credit\"), e.\"description\")"
     " FROM {LedgerEntry} AS e WHERE e.\"description\" LIKE 'payout %'"
     " GROUP BY e.\"payoutId\", e.\"transactionId\", e.\"description\""
     " HAVING pg_catalog.sum(e.\"debit\") <> pg_catalog.sum(e.\"credit\")"},
    {"LEDGER",
     "SELECT p.\"creatorId\", p.\"id\", NULL, pg_catalog.format('is %s: CREATOR_PAYABLE %s, PAYOUT_PENDING %s,"
     " CASH_PROCESSOR_CLEARING %s', p.\"status\", COALESCE(e.payable, 0), COALESCE(e.pending, 0), COALESCE(e.cash, 0))"
     " FROM (SELECT p.*, CASE WHEN {holds} THEN GREATEST(p.\"payoutAmount\", 0) ELSE 0 END AS held FROM {Payout} AS p)"
     " AS p LEFT JOIN (SELECT e.\"payoutId\" AS id, pg_catalog.sum(e.\"debit\" - e.\"credit\")"
     "  FILTER (WHERE a.\"code\" = 'CREATOR_PAYABLE') AS payable, pg_catalog.sum(e.\"credit\" - e.\"debit\") FILTER"
     "  (WHERE a.\"code\" = 'PAYOUT_PENDING') AS pending, pg_catalog.sum(e.\"credit\" - e.\"debit\") FILTER"
     "  (WHERE a.\"code\" = 'CASH_PROCESSOR_CLEARING') AS cash FROM {LedgerEntry} AS e JOIN {LedgerAccount} AS a"
     "  ON a.\"id\" = e.\"accountId\" WHERE e.\"payoutId\" IS NOT NULL GROUP BY 1) AS e ON e.id = p.\"id\""
     " WHERE (e.id IS NOT NULL OR p.\"createdAt\" >= (SELECT s.installed_at AT TIME ZONE 'UTC'"
     "  FROM apapacho_jobs.payout_state AS s)) AND (COALESCE(e.payable, 0) <> p.held OR COALESCE(e.pending, 0) <>"
     "  CASE p.\"status\"::text WHEN 'SENT' THEN 0 ELSE p.held END OR COALESCE(e.cash, 0) <>"
     "  CASE p.\"status\"::text WHEN 'SENT' THEN p.held ELSE 0 END)"},
    {"LEDGER_CREATOR", "SELECT DISTINCT p.\"creatorId\", p.\"id\", NULL, 'entries are of creator ' || e.\"creatorId\""
                       " FROM {LedgerEntry} AS e JOIN {Payout} AS p ON p.\"id\" = e.\"payoutId\""
                       " WHERE e.\"description\" LIKE 'payout %' AND e.\"creatorId\" <> p.\"creatorId\""},
    {"LEDGER_ADJUSTMENT",
     "SELECT a.creator_id, NULL, a.transaction_id, pg_catalog.format('adjustment %s of %s: CREATOR_PAYABLE %s', a.id,"
     " a.amount, COALESCE(e.amount, 0)) FROM apapacho_jobs.payout_adjustment AS a LEFT JOIN"
     " (SELECT e.\"description\" AS description, pg_catalog.sum(e.\"credit\" - e.\"debit\") AS amount"
     "  FROM {LedgerEntry} AS e JOIN {LedgerAccount} AS c ON c.\"id\" = e.\"accountId\""
     "  WHERE c.\"code\" = 'CREATOR_PAYABLE' AND e.\"description\" LIKE 'payout adjustment %' GROUP BY 1) AS e"
     " ON e.description = 'payout adjustment ' || a.id WHERE COALESCE(e.amount, 0) <> a.amount"},
};

/* The rows of one check go to the result. */
static void
do_check(const Check *check, Datum events_since, ReturnSetInfo *info)
{
    Oid type = TIMESTAMPOID;
    uint64 rows = spi_run(payout_sql(check->sql), 1, &type, &events_since, NULL, true, 0);
    int missing = COLUMNS - SPI_tuptable->tupdesc->natts; /* the kind, where the check has only one */

    for (uint64 i = 0; i < rows; i++) {
        Datum row[COLUMNS] = {CStringGetTextDatum(check->kind)};
        bool row_nulls[COLUMNS] = {false};

        for (int column = missing; column < COLUMNS; column++) {
            char *text = spi_text(i, column + 1 - missing);

            row_nulls[column] = text == NULL;
            row[column] = text != NULL ? CStringGetTextDatum(text) : (Datum)0;
        }
        tuplestore_putvalues(info->setResult, info->setDesc, row, row_nulls);
    }
    SPI_freetuptable(SPI_tuptable);
}

/*
 * Until AtEOXact_GUC(true, the result) plans are for whole tables: right after a large run the planner knows little of
 * them, and would look millions of transactions up one by one.
 */
static int
plan_for_whole_tables(void)
{
    int level = NewGUCNestLevel();

    (void)set_config_option("enable_nestloop", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
    (void)set_config_option("jit", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
    if (work_mem < LEAST_WORK_MEM_KB)
        (void)set_config_option("work_mem", psprintf("%d", LEAST_WORK_MEM_KB), PGC_USERSET, PGC_S_SESSION,
                                GUC_ACTION_SAVE, true, 0, false);
    return level;
}

static bool
ledger_in_use(void)
{
    Oid namespace_id = get_namespace_oid(setting_schema, false);

    return OidIsValid(get_relname_relid("LedgerAccount", namespace_id)) &&
           OidIsValid(get_relname_relid("LedgerEntry", namespace_id)) &&
           spi_run(payout_sql("SELECT FROM {LedgerAccount} AS a LIMIT 1"), 0, NULL, NULL, NULL, true, 1) > 0;
}

/* apapacho_payout_reconcile(events_since) */
Datum
apapacho_payout_reconcile(PG_FUNCTION_ARGS)
{
    ReturnSetInfo *info = (ReturnSetInfo *)fcinfo->resultinfo;
    TimestampTz since =
        PG_ARGISNULL(0) ? GetCurrentStatementStartTimestamp() - 30 * USECS_PER_DAY : PG_GETARG_TIMESTAMPTZ(0);
    bool has_ledger;
    RunAs saved;
    int level;

    InitMaterializedSRF(fcinfo, 0);
    payout_connect_spi();
    payout_require_guards(false);
    run_as(&saved, payout_check_tables());
    has_ledger = ledger_in_use();
    level = plan_for_whole_tables();
    for (int i = 0; i < lengthof(checks); i++) {
        /* both types count from the same moment, in UTC */
        if (has_ledger || strncmp(checks[i].kind, "LEDGER", strlen("LEDGER")) != 0)
            do_check(&checks[i], TimestampGetDatum(since), info);
    }
    AtEOXact_GUC(true, level);
    run_as_end(&saved);
    SPI_finish();
    return (Datum)0;
}
