/*
 * statement.c: a creator's account: what transactions and adjustments have brought, what payouts have taken, and what
 * is still owed after each of them.
 *
 * Runs in the backends of those who call the SQL function: as the extension's owner on the adjustments, as the owner of
 * "Payout" on the user's tables. Locks nothing but the tables, against being altered.
 *
 * A payout takes its amount when it is SENT; until then what is in it is owed. A transaction that is reversed brings
 * nothing, unless a payout that is SENT or in flight holds it (src/payout/README.md): then the adjustment takes it
 * back.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/tuplestore.h"

#include "payout/export.h"
#include "payout/internal.h"
#include "server/compat.h"
#include "server/user_tables.h"

PG_FUNCTION_INFO_V1(apapacho_payout_statement);

#define STATEMENT_COLUMNS 8

static const char adjustments_sql[] =
    "SELECT COALESCE(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('id', a.id, 'kind', a.kind, 'amount', a.amount,"
    "  'transaction', a.transaction_id, 'payout', a.payout_id, 'description', a.description,"
    "  'at', (a.created_at AT TIME ZONE 'UTC')::timestamp(3))), '[]')"
    " FROM apapacho_jobs.payout_adjustment AS a WHERE a.creator_id = $1";

static const char creator_sql[] = "SELECT 1 FROM {Creator} AS c WHERE c.\"id\" = $1";

/* h: the payout that holds a transaction; if there are several, one that has paid it. */
static const char transactions_sql[] =
    "SELECT t.\"occurredAt\" AS at, 1 AS rank, 'TRANSACTION' AS kind, t.\"id\"::text AS id, h.id::text AS payout_id,"
    " t.\"status\"::text AS status, CASE WHEN t.\"currency\" <> 'CLP' THEN 0"
    "  WHEN t.\"status\"::text IN ('SUCCEEDED', 'DISPUTED') OR h.paid THEN COALESCE(h.amount, "
    "t.\"creatorPayableAmount\")"
    "  ELSE 0 END::numeric AS amount, CASE WHEN t.\"currency\" <> 'CLP'"
    "   THEN pg_catalog.format('%s %s, which payouts do not pay', t.\"creatorPayableAmount\", t.\"currency\")"
    "  WHEN t.\"status\"::text IN ('SUCCEEDED', 'DISPUTED') OR h.paid THEN NULL"
    "  ELSE pg_catalog.format('%s, reversed before it was paid', t.\"creatorPayableAmount\") END AS description"
    " FROM {Transaction} AS t LEFT JOIN LATERAL (SELECT p.\"id\" AS id, i.\"amount\" AS amount,"
    "   p.\"status\"::text = 'SENT' OR (p.\"status\"::text = 'PENDING' AND p.\"nextRetryAt\" IS NULL) AS paid"
    "  FROM {PayoutItem} AS i JOIN {Payout} AS p ON p.\"id\" = i.\"payoutId\" WHERE i.\"transactionId\" = t.\"id\""
    "   AND (p.\"status\"::text IN ('CALCULATED', 'PENDING', 'SENT')"
    "    OR (p.\"status\"::text = 'FAILED' AND p.\"nextRetryAt\" IS NOT NULL AND p.\"retryCount\" < 3))"
    "  ORDER BY (p.\"status\"::text = 'SENT') DESC, p.\"createdAt\", p.\"id\" LIMIT 1) AS h ON true"
    " WHERE t.\"creatorId\" = $1";

static const char adjusted_sql[] =
    "SELECT a.at, 2, 'ADJUSTMENT', a.id, a.payout, a.kind, a.amount,"
    " pg_catalog.concat_ws(': ', 'transaction ' || a.transaction, a.description)"
    " FROM pg_catalog.jsonb_to_recordset($4)"
    "  AS a (id text, kind text, amount numeric, transaction text, payout text, description text, at timestamp)";

/* What a payout was adjusted by without there being an adjustment of ours: by the backend, or by hand. */
static const char stated_sql[] =
    "SELECT COALESCE(p.\"sentAt\", p.\"createdAt\"), 2, 'ADJUSTMENT', NULL, p.\"id\"::text, 'STATED', "
    "p.\"adjustmentsTotal\" - s.amount,"
    " 'stated by the payout'"
    " FROM {Payout} AS p CROSS JOIN LATERAL (SELECT COALESCE(pg_catalog.sum(a.amount), 0) AS amount"
    "  FROM pg_catalog.jsonb_to_recordset($4) AS a (payout text, amount numeric) WHERE a.payout = p.\"id\") AS s"
    " WHERE p.\"creatorId\" = $1 AND p.\"status\"::text = 'SENT' AND p.\"currency\" = 'CLP'"
    "  AND p.\"adjustmentsTotal\" <> s.amount";

static const char payouts_sql[] =
    "SELECT COALESCE(CASE p.\"status\"::text WHEN 'SENT' THEN p.\"sentAt\" END, p.\"createdAt\"), 3, 'PAYOUT',"
    " p.\"id\"::text, p.\"id\"::text, p.\"status\"::text,"
    " CASE WHEN p.\"status\"::text = 'SENT' AND p.\"currency\" = 'CLP' THEN -p.\"payoutAmount\" ELSE 0 END::numeric,"
    " CASE WHEN p.\"status\"::text = 'SENT' AND p.\"currency\" = 'CLP' THEN 'transfer ' || p.\"providerTransferId\""
    "  WHEN p.\"status\"::text = 'SENT' THEN pg_catalog.format('%s %s', p.\"payoutAmount\", p.\"currency\")"
    "  ELSE pg_catalog.concat_ws(': ', pg_catalog.format('%s, not sent', p.\"payoutAmount\"), p.\"failureReason\") END"
    " FROM {Payout} AS p WHERE p.\"creatorId\" = $1";

/* %s: the queries above. $2 and $3: from and up to when. */
static const char statement_sql[] =
    "WITH lines AS MATERIALIZED (SELECT l.*, pg_catalog.sum(l.amount)"
    "  OVER (ORDER BY l.at, l.rank, l.id, l.payout_id ROWS UNBOUNDED PRECEDING) AS balance"
    "  FROM (%s UNION ALL %s UNION ALL %s UNION ALL %s) AS l)"
    " SELECT r.at, r.kind, r.id, r.payout_id, r.status, r.amount, r.balance, r.description FROM ("
    "  SELECT $2 AS at, 0 AS part, 0 AS rank, 'OPENING' AS kind, NULL AS id, NULL AS payout_id, NULL AS status,"
    "   NULL::numeric AS amount, COALESCE(pg_catalog.sum(l.amount), 0) AS balance, NULL AS description"
    "  FROM lines AS l WHERE l.at < $2"
    "  UNION ALL SELECT l.at, 1, l.rank, l.kind, l.id, l.payout_id, l.status, l.amount, l.balance, l.description"
    "  FROM lines AS l WHERE ($2 IS NULL OR l.at >= $2) AND ($3 IS NULL OR l.at < $3)"
    "  UNION ALL SELECT $3, 2, 0, 'CLOSING', NULL, NULL, NULL, NULL, COALESCE(pg_catalog.sum(l.amount), 0), NULL"
    "  FROM lines AS l WHERE $3 IS NULL OR l.at < $3) AS r ORDER BY r.part, r.at, r.rank, r.id, r.payout_id";

/* apapacho_payout_statement(creator_id, since, until) */
Datum
apapacho_payout_statement(PG_FUNCTION_ARGS)
{
    ReturnSetInfo *info = (ReturnSetInfo *)fcinfo->resultinfo;
    char *creator_id = payout_text_argument(fcinfo, 0, "creator_id");
    Oid types[] = {TEXTOID, TIMESTAMPOID, TIMESTAMPOID, JSONBOID};
    char nulls[] = {' ', PG_ARGISNULL(1) ? 'n' : ' ', PG_ARGISNULL(2) ? 'n' : ' ', ' '};
    Datum values[4];
    Datum row[STATEMENT_COLUMNS];
    bool row_nulls[STATEMENT_COLUMNS];
    bool is_null;
    RunAs saved;

    values[0] = CStringGetTextDatum(creator_id);
    values[1] = PG_GETARG_DATUM(1);
    values[2] = PG_GETARG_DATUM(2);
    InitMaterializedSRF(fcinfo, 0);
    payout_connect_spi();
    values[3] = payout_file_statement(adjustments_sql, 1, types, values, NULL, true, CurrentMemoryContext, &is_null);
    payout_run_as(&saved);
    if (spi_run(payout_sql(creator_sql), 1, types, values, NULL, true, 1) == 0)
        ereport(ERROR, (errcode(ERRCODE_NO_DATA_FOUND), errmsg("creator \"%s\" does not exist", creator_id),
                        errhint("Creators are named by their \"id\" in %s.", user_table_name(TABLE_CREATOR))));
    (void)spi_run(psprintf(statement_sql, payout_sql(transactions_sql), adjusted_sql, payout_sql(stated_sql),
                           payout_sql(payouts_sql)),
                  4, types, values, nulls, true, 0);
    for (uint64 i = 0; i < SPI_processed; i++) {
        heap_deform_tuple(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, row, row_nulls);
        tuplestore_putvalues(info->setResult, info->setDesc, row, row_nulls);
    }
    run_as_end(&saved);
    SPI_finish();
    return (Datum)0;
}
