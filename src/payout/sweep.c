/*
 * sweep.c: reversals. What is in a payout that can be recalled and has been reversed since: the payout is cancelled, to
 * be calculated anew. What was paid, or may be on its way: an adjustment of the creator's next payout. Goes by what the
 * tables say now, so it can be done at any time and as often as one likes.
 *
 * Runs in workers and backends, within the transaction that pays the creators anew, as the owner of "Payout". Locks:
 * the payouts, FOR UPDATE; the transactions, FOR SHARE.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "payout/internal.h"
#include "server/compat.h"
#include "server/settings.h"
#include "server/user_tables.h"

PG_FUNCTION_INFO_V1(apapacho_payout_adjust);

#define RECALL_REASON "reversed transaction"

/* $1: creators, $2: now. */
static const char recall_sql[] =
    "WITH recalled AS MATERIALIZED ("
    "  SELECT p.\"id\" AS id FROM {Payout} AS p WHERE p.\"creatorId\" = ANY ($1) AND {recallable} AND EXISTS"
    "   (SELECT FROM {PayoutItem} AS i WHERE i.\"payoutId\" = p.\"id\" AND (SELECT t.\"status\"::text FROM"
    "    {Transaction} AS t WHERE t.\"id\" = i.\"transactionId\") <> 'SUCCEEDED' OFFSET 0)"
    "  ORDER BY p.\"id\" FOR UPDATE OF p),"
    " cancelled AS ("
    "  UPDATE {Payout} AS p SET \"status\" = 'CANCELLED'::{PayoutStatus}, \"failureReason\" = '" RECALL_REASON
    "', \"nextRetryAt\" = NULL, \"updatedAt\" = $2 FROM recalled AS r WHERE p.\"id\" = r.id"
    "  RETURNING p.\"id\" AS id, p.\"creatorId\" AS creator_id, p.\"payoutAmount\" AS amount,"
    "   apapacho_jobs.uuid_v7() AS event_id),"
    " event AS ("
    "  INSERT INTO {OutboxEvent} (\"id\", \"aggregateType\", \"aggregateId\", \"eventType\", \"payload\","
    "   \"createdAt\")"
    "  SELECT d.event_id, 'Payout', d.id, 'PayoutCancelled', pg_catalog.jsonb_build_object('eventId', d.event_id,"
    "   'eventType', 'PayoutCancelled', 'occurredAt', " ISO_TIME(
        "$2") ", 'payoutId', d.id, 'creatorId', d.creator_id,"
              "   'amount', d.amount, 'reason', '" RECALL_REASON "'), $2 FROM cancelled AS d RETURNING 1)"
              " SELECT (SELECT pg_catalog.count(*) FROM recalled) OPERATOR(pg_catalog.=) (SELECT pg_catalog.count(*) "
              "FROM event)";

/* The same targets as in {creators} (eligibility.c), on rows that are locked. $1: creators. */
static const char adjust_sql[] =
    "WITH candidate AS MATERIALIZED ("
    "  SELECT t.\"id\" AS id FROM pg_catalog.unnest($1) AS u (id) CROSS JOIN LATERAL"
    "   (SELECT t.\"id\" FROM {Transaction} AS t WHERE t.\"creatorId\" = u.id"
    "     AND t.\"status\"::text = ANY ('{REFUNDED,CHARGEDBACK}') AND EXISTS (SELECT FROM apapacho_jobs.payout_claim AS"
    "     k WHERE k.transaction_id = t.\"id\" COLLATE \"C\" OFFSET 0) OFFSET 0) AS t"
    "  UNION"
    "  SELECT a.transaction_id FROM apapacho_jobs.payout_adjustment AS a WHERE a.creator_id = ANY ($1)"
    "   AND a.transaction_id IS NOT NULL),"
    " locked AS MATERIALIZED ("
    "  SELECT l.* FROM (SELECT c.id FROM candidate AS c ORDER BY c.id) AS c CROSS JOIN LATERAL"
    "   (SELECT t.\"id\" AS id, t.\"creatorId\" AS creator_id, t.\"status\"::text AS status FROM {Transaction} AS t"
    "    WHERE t.\"id\" = c.id FOR SHARE OF t) AS l),"
    " correction AS MATERIALIZED ("
    "  SELECT l.*, k.payout_id, n.number,"
    "   CASE WHEN k.amount IS NOT NULL AND l.status = 'DISPUTED' THEN 0"
    "    WHEN k.amount IS NOT NULL AND l.status = ANY ('{REFUNDED,CHARGEDBACK}') THEN -k.amount - n.net"
    "    ELSE -n.net END AS amount"
    "  FROM locked AS l LEFT JOIN LATERAL"
    "   (SELECT k.payout_id, i.\"amount\" AS amount FROM apapacho_jobs.payout_claim AS k JOIN {PayoutItem} AS i"
    "     ON i.\"payoutId\" = k.payout_id AND i.\"transactionId\" = l.id"
    "    WHERE k.transaction_id = l.id COLLATE \"C\") AS k ON true"
    "   CROSS JOIN LATERAL (SELECT COALESCE(pg_catalog.sum(a.amount), 0) AS net,"
    "     COALESCE(pg_catalog.max(a.number), 0) + 1 AS number"
    "    FROM apapacho_jobs.payout_adjustment AS a WHERE a.transaction_id = l.id) AS n)"
    " INSERT INTO apapacho_jobs.payout_adjustment AS n (id, creator_id, transaction_id, number, kind, amount,"
    "  origin_payout_id)"
    " SELECT apapacho_jobs.uuid_v7(), c.creator_id, c.id, c.number, CASE WHEN c.amount > 0 THEN 'REINSTATED'"
    "   WHEN c.status = 'CHARGEDBACK' THEN 'CHARGEBACK' ELSE 'REFUND' END, c.amount::bigint, c.payout_id"
    "  FROM correction AS c WHERE c.amount <> 0 ORDER BY c.id"
    " RETURNING n.id, n.creator_id, n.transaction_id, n.amount, n.kind = 'CHARGEBACK' OR (n.amount > 0 AND"
    "  (SELECT b.kind FROM apapacho_jobs.payout_adjustment AS b WHERE b.transaction_id = n.transaction_id"
    "    AND b.amount < 0 ORDER BY b.number DESC LIMIT 1) = 'CHARGEBACK')";

static void
recall_payouts(char **ids, int count)
{
    Oid types[] = {TEXTARRAYOID, TIMESTAMPOID};
    Datum values[] = {payout_text_array(ids, count), TimestampGetDatum(payout_now())};
    bool is_null;

    payout_announcing = "PayoutCancelled";
    (void)spi_run(payout_sql(recall_sql), 2, types, values, NULL, false, 0);
    payout_announcing = NULL;
    if (!DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &is_null)))
        ereport(ERROR, (errcode(ERRCODE_TRIGGERED_ACTION_EXCEPTION), errmsg("a payout could not be cancelled"),
                        errdetail("A trigger, rule or policy of the tables kept a row from being written.")));
}

LedgerLine
payout_adjustment_line(const char *id, const char *creator_id, const char *transaction_id, int64 amount,
                       bool is_chargeback)
{
    LedgerAccount other = is_chargeback ? LEDGER_CHARGEBACK_LOSS : LEDGER_REFUND_EXPENSE;

    return (LedgerLine){
        .transaction_id = transaction_id,
        .creator_id = creator_id,
        .currency = "CLP",
        .description = psprintf("payout adjustment %s", id),
        .debit = amount < 0 ? LEDGER_CREATOR_PAYABLE : other,
        .credit = amount < 0 ? other : LEDGER_CREATOR_PAYABLE,
        .amount = amount < 0 ? -amount : amount,
    };
}

void
payout_sweep(char **ids, int count)
{
    Oid type = TEXTARRAYOID;
    Datum value = payout_text_array(ids, count);
    LedgerLine *lines;
    uint64 rows;

    recall_payouts(ids, count);
    rows = spi_run(payout_sql(adjust_sql), 1, &type, &value, NULL, false, 0);
    lines = palloc(sizeof(LedgerLine) * Max(rows, 1));
    for (uint64 row = 0; row < rows; row++) {
        bool is_null;
        Datum is_chargeback = SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, 5, &is_null);

        lines[row] = payout_adjustment_line(spi_text(row, 1), spi_text(row, 2), spi_text(row, 3), spi_int64(row, 4),
                                            !is_null && DatumGetBool(is_chargeback));
    }
    payout_ledger_post(setting_schema, lines, (int)rows);
}

/* apapacho_payout_adjust(creator_id, amount, description): the id of the adjustment. */
Datum
apapacho_payout_adjust(PG_FUNCTION_ARGS)
{
    static const char adjust_by_hand_sql[] =
        "INSERT INTO apapacho_jobs.payout_adjustment (id, creator_id, kind, amount, description)"
        " SELECT apapacho_jobs.uuid_v7(), c.\"id\", 'MANUAL', $2, $3 FROM {Creator} AS c WHERE c.\"id\" = $1"
        " RETURNING id";
    MemoryContext caller = CurrentMemoryContext;
    char *creator_id = payout_text_argument(fcinfo, 0, "creator_id");
    char *description = payout_text_argument(fcinfo, 2, "description");
    Oid types[] = {TEXTOID, INT8OID, TEXTOID};
    Datum values[3];
    LedgerLine line;
    text *result;
    RunAs saved;

    if (PG_ARGISNULL(1) || PG_GETARG_INT64(1) == 0)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("argument \"amount\" must be a number other than 0")));
    payout_connect_spi();
    payout_require_guards(true);
    payout_run_as(&saved);
    values[0] = CStringGetTextDatum(creator_id);
    values[1] = PG_GETARG_DATUM(1);
    values[2] = CStringGetTextDatum(description);
    if (spi_run(payout_sql(adjust_by_hand_sql), 3, types, values, NULL, false, 0) == 0)
        ereport(ERROR, (errcode(ERRCODE_NO_DATA_FOUND), errmsg("creator \"%s\" does not exist", creator_id),
                        errhint("Creators are named by their \"id\" in %s.", user_table_name(TABLE_CREATOR))));
    result = MemoryContextAlloc(caller, VARHDRSZ + strlen(spi_text(0, 1)));
    SET_VARSIZE(result, VARHDRSZ + strlen(spi_text(0, 1)));
    memcpy(VARDATA(result), spi_text(0, 1), strlen(spi_text(0, 1)));
    line = payout_adjustment_line(spi_text(0, 1), creator_id, NULL, PG_GETARG_INT64(1), false);
    payout_ledger_post(setting_schema, &line, 1);
    payout_mark_dirty(creator_id, DT_NOEND);
    run_as_end(&saved);
    SPI_finish();
    PG_RETURN_TEXT_P(result);
}
