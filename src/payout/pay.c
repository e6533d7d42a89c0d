/*
 * pay.c: pays a batch of creators in the transaction at hand: decides, locks what is to be paid and sums it up again,
 * writes payouts, items and events, and keeps the reasons of those who are not paid.
 *
 * Runs in workers (the job `payout`) and in backends (apapacho_payout_create), as the owner of "Payout". Locks: the
 * transactions that are paid FOR SHARE, so that a refund at the same time is either seen or waits for the end of the
 * batch; the adjustments FOR UPDATE. Memory is that of one batch, in the caller's context.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "payout/internal.h"
#include "server/compat.h"
#include "server/ids.h"
#include "server/settings.h"

#define MOST_PASSES 4 /* until what others change meanwhile has settled */
#define PAY_PARAMETERS (RULE_PARAMETERS + 4)
#define FEW 16 /* creators for whom a statement takes longer to be planned than to be done */

/* The payload of the event of a payout `y`, spec section 5. */
#define EVENT                                                                                                          \
    "pg_catalog.jsonb_build_object("                                                                                   \
    "   'eventId', y.event_id, 'eventType', 'PayoutCalculated', 'occurredAt', " ISO_TIME(                              \
        "$11") ","                                                                                                     \
               "   'payout', pg_catalog.jsonb_build_object('id', y.payout_id, 'creatorId', y.creator_id,"              \
               "    'periodStart', " ISO_TIME("y.period_start") ", 'periodEnd', " ISO_TIME(                            \
                   "y.period_end") ","                                                                                 \
                                   "    'currency', 'CLP', 'grossTotal', y.gross_total, 'platformFeeTotal', "          \
                                   "y.fee_total,"                                                                      \
                                   "    'adjustmentsTotal', y.carried, 'payoutAmount', y.amount),"                     \
                                   "   'config', pg_catalog.jsonb_build_object('minPayoutClp', $4, 'holdDays', $5),"   \
                                   "   'includedTransactionIds', pg_catalog.to_jsonb(y.ids), 'excludedReason', NULL)"

/*
 * $1 to $9: the rules ({creators}), $10 the end of the period, $11 now, $12 the run, $13 how many items those may have
 * whom the creators that come after are left for later.
 */
static const char pay_sql[] =
    "WITH creator AS MATERIALIZED (SELECT y.*, y.is_payable AND pg_catalog.sum(CASE WHEN y.is_payable THEN y.eligible "
    "END)"
    "   OVER (ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) >= $13 AS is_later"
    "  FROM (SELECT y.*, y.reason IS NULL OR y.reason = 'ERROR' AS is_payable FROM ({creators}) AS y) AS y),"
    " decided AS MATERIALIZED ("
    "  SELECT y.*, s.*, j.*, (s.sum + j.carried)::bigint AS amount, apapacho_jobs.uuid_v7() AS payout_id,"
    "   apapacho_jobs.uuid_v7() AS event_id, COALESCE(y.last_end, s.first_at, $10) AS period_start,"
    "   GREATEST($10, y.last_end) AS period_end,"
    "   COALESCE(s.sum + j.carried >= $4 AND s.sum + j.carried > 0, false) AS is_paid"
    "  FROM (SELECT y.*, y.is_payable AND NOT y.needs_sweep AND y.is_later IS NOT TRUE AS is_summed FROM creator AS y) "
    "AS y"
    "   LEFT JOIN LATERAL ("
    "   SELECT COALESCE(pg_catalog.sum(l.gross), 0)::bigint AS gross_total,"
    "    COALESCE(pg_catalog.sum(l.fee), 0)::bigint AS fee_total, COALESCE(pg_catalog.sum(l.amount), 0) AS sum,"
    "    pg_catalog.min(l.occurred_at) AS first_at, COALESCE(pg_catalog.array_agg(l.id), ARRAY[]::text[]) AS ids,"
    "    pg_catalog.array_agg(l.amount) AS amounts"
    "   FROM (SELECT t.\"id\" AS id, t.\"grossAmount\" AS gross, t.\"platformFeeAmount\" AS fee,"
    "     t.\"creatorPayableAmount\" AS amount, t.\"occurredAt\" AS occurred_at"
    "     FROM {Transaction} AS t WHERE t.\"creatorId\" = y.creator_id AND {eligible} AND t.\"occurredAt\" >= y.oldest"
    "      AND t.\"status\"::text = 'SUCCEEDED' AND (NOT y.is_mixed OR NOT EXISTS (SELECT FROM "
    "apapacho_jobs.payout_claim"
    "       AS k WHERE k.transaction_id = t.\"id\" COLLATE \"C\" OFFSET 0))"
    "     ORDER BY t.\"occurredAt\" FOR SHARE OF t) AS l"
    "   WHERE y.is_summed HAVING y.is_summed) AS s ON true"
    "   LEFT JOIN LATERAL ("
    "   SELECT COALESCE(pg_catalog.sum(l.amount), 0)::bigint AS carried, pg_catalog.array_agg(l.id) AS adjustment_ids"
    "   FROM (SELECT a.id, a.amount FROM apapacho_jobs.payout_adjustment AS a WHERE a.creator_id = y.creator_id"
    "     AND a.payout_id IS NULL AND s.sum IS NOT NULL ORDER BY a.id FOR UPDATE OF a) AS l) AS j ON true),"
    " payout AS ("
    "  INSERT INTO {Payout} (\"id\", \"creatorId\", \"periodStart\", \"periodEnd\", \"currency\", \"grossTotal\","
    "   \"platformFeeTotal\", \"adjustmentsTotal\", \"payoutAmount\", \"status\", \"createdAt\", \"updatedAt\")"
    "  SELECT y.payout_id, y.creator_id, y.period_start, y.period_end, 'CLP', y.gross_total, y.fee_total, y.carried,"
    "   y.amount, 'CALCULATED'::{PayoutStatus}, $11, $11 FROM decided AS y WHERE y.is_paid RETURNING 1),"
    " item AS ("
    "  INSERT INTO {PayoutItem} (\"id\", \"payoutId\", \"transactionId\", \"amount\", \"createdAt\")"
    "  SELECT apapacho_jobs.uuid_v7(), y.payout_id, u.id, u.amount, $11"
    "  FROM decided AS y CROSS JOIN LATERAL"
    "   ROWS FROM (pg_catalog.unnest(y.ids), pg_catalog.unnest(y.amounts)) AS u (id, amount)"
    "  WHERE y.is_paid RETURNING 1),"
    " carried AS ("
    "  UPDATE apapacho_jobs.payout_adjustment AS a SET payout_id = c.payout_id FROM ("
    "   SELECT y.payout_id, l.tid FROM decided AS y CROSS JOIN LATERAL pg_catalog.unnest(y.adjustment_ids) AS u (id)"
    "    CROSS JOIN LATERAL (SELECT a.ctid AS tid FROM apapacho_jobs.payout_adjustment AS a WHERE a.id = u.id OFFSET 0)"
    "    AS l WHERE y.is_paid) AS c WHERE a.ctid = c.tid),"
    " carried_item AS ("
    "  INSERT INTO apapacho_jobs.payout_adjustment_item (payout_id, adjustment_id)"
    "  SELECT y.payout_id, u.id FROM decided AS y CROSS JOIN LATERAL pg_catalog.unnest(y.adjustment_ids) AS u (id)"
    "  WHERE y.is_paid),"
    " origin AS ("
    "  INSERT INTO apapacho_jobs.payout_origin (payout_id, run_id) SELECT y.payout_id, $12 FROM decided AS y"
    "  WHERE y.is_paid),"
    " event AS ("
    "  INSERT INTO {OutboxEvent} (\"id\", \"aggregateType\", \"aggregateId\", \"eventType\", \"payload\", "
    "\"createdAt\")"
    "  SELECT y.event_id, 'Payout', y.payout_id, 'PayoutCalculated', " EVENT ", $11"
    "  FROM decided AS y WHERE y.is_paid RETURNING 1)"
    " SELECT y.creator_id, y.reason, y.needs_sweep, CASE WHEN y.is_paid THEN y.payout_id END, y.unpaid, y.eligible,"
    "  y.payable::text, y.held, y.held_amount::text, y.adjustments::text, y.next_at, y.next_release_at, y.oldest,"
    "  y.oldest_left, c.paid OPERATOR(pg_catalog.<>) (SELECT pg_catalog.count(*) FROM payout)"
    "   OR c.paid OPERATOR(pg_catalog.<>) (SELECT pg_catalog.count(*) FROM event)"
    "   OR c.items OPERATOR(pg_catalog.<>) (SELECT pg_catalog.count(*) FROM item), y.is_later, y.since"
    " FROM decided AS y CROSS JOIN (SELECT pg_catalog.count(*) AS paid,"
    "  COALESCE(pg_catalog.sum(pg_catalog.cardinality(d.ids)), 0) AS items FROM decided AS d WHERE d.is_paid) AS c";

/* What is known of a creator after a pass, as payout_reason keeps it. */
typedef struct Finding {
    char *creator_id;
    char *reason; /* NULL: nothing is left */
    bool paid;
    int64 transactions;
    char *amount;
    int64 held;
    char *held_amount;
    char *adjustments;
    Timestamp next_at; /* DT_NOEND: none */
    Timestamp look_at;
    Timestamp since;
    char *sqlstate;
    char *message;
} Finding;

#define KEEP_PARAMETERS 14

/* $1 to $13: the members of Finding, arrays; $14: the run. */
#define FINDINGS                                                                                                       \
    "ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3), pg_catalog.unnest($4),"           \
    "  pg_catalog.unnest($5), pg_catalog.unnest($6), pg_catalog.unnest($7), pg_catalog.unnest($8),"                    \
    "  pg_catalog.unnest($9), pg_catalog.unnest($10), pg_catalog.unnest($11), pg_catalog.unnest($12),"                 \
    "  pg_catalog.unnest($13)) AS u (creator_id, reason, paid, transactions, amount, held, held_amount, adjustments,"  \
    "  next_at, look_at, since, sqlstate, message)"

#define COMPARED(alias)                                                                                                \
    "(" alias ".reason, " alias ".paid, " alias ".transactions, " alias ".amount::numeric, " alias ".held, " alias     \
    ".held_amount::numeric, " alias ".adjustments::numeric, " alias ".next_at, " alias ".look_at, " alias              \
    ".since, " alias ".sqlstate, " alias ".message)"

/* Whether there is a row already, and whether it says the same. In the order of the findings. */
static const char compare_sql[] =
    "SELECT n.creator_id IS NOT NULL, NOT u.paid AND NOT n.paid AND " COMPARED("n") " IS NOT DISTINCT FROM " COMPARED(
        "u") " FROM (SELECT u.*, pg_catalog.row_number() OVER () AS number FROM " FINDINGS
             " OFFSET 0) AS u LEFT JOIN LATERAL (SELECT n.* FROM apapacho_jobs.payout_reason AS n"
             "  WHERE n.creator_id = u.creator_id AND n.until_run IS NULL OFFSET 0) AS n ON true ORDER BY u.number";

static const char close_sql[] = "UPDATE apapacho_jobs.payout_reason AS n SET until_run = $2"
                                " WHERE n.creator_id = ANY ($1) AND n.until_run IS NULL";

static const char open_sql[] =
    "INSERT INTO apapacho_jobs.payout_reason (creator_id, from_run, paid, reason, transactions, amount, held,"
    " held_amount, adjustments, next_at, look_at, since, sqlstate, message)"
    " SELECT u.creator_id, $14, u.paid, u.reason, u.transactions, u.amount::numeric, u.held, u.held_amount::numeric,"
    "  u.adjustments::numeric,"
    "  u.next_at, u.look_at, u.since, u.sqlstate, u.message FROM " FINDINGS;

static const char begin_run_sql[] = "INSERT INTO apapacho_jobs.payout_run (id, job_run_id, at, cutoff, "
                                    "fee_schedule_id, hold_days, min_payout, frequency,"
                                    " period_start, period_end, time_zone, forced, complete)"
                                    " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)";

/* Does a statement for so many creators: with a plan that is kept, if they are few, as those who cannot be paid are. */
static uint64
run_for_creators(int count, const char *sql, int parameters, Oid *types, Datum *values, const char *nulls)
{
    if (count <= FEW)
        return payout_run_kept(setting_schema, sql, parameters, types, values, nulls);
    return spi_run(payout_sql(sql), parameters, types, values, nulls, false, 0);
}

static Datum
array_of_datums(Datum *values, bool *nulls, int count, Oid type, int width, bool by_value, char align)
{
    int lower_bound = 1;

    return PointerGetDatum(construct_md_array(values, nulls, 1, &count, &lower_bound, type, width, by_value, align));
}

static Datum
time_value(Timestamp time, bool *is_null)
{
    *is_null = time == DT_NOEND;
    return TimestampGetDatum(time);
}

/* The findings as the parameters of close_sql and open_sql. */
static void
finding_parameters(const Finding *findings, int count, Oid *types, Datum *values)
{
    static const Oid text_columns[] = {1, 2, 5, 7, 8, 12, 13};
    char **text = palloc(sizeof(char *) * count);
    int64 *numbers = palloc(sizeof(int64) * count);
    Datum *datums = palloc(sizeof(Datum) * count);
    bool *nulls = palloc0(sizeof(bool) * count);

    for (int column = 0; column < lengthof(text_columns); column++) {
        int number = text_columns[column];

        for (int i = 0; i < count; i++) {
            const Finding *f = &findings[i];
            char *columns[] = {f->creator_id,  f->reason, NULL, NULL, f->amount,   NULL,      f->held_amount,
                               f->adjustments, NULL,      NULL, NULL, f->sqlstate, f->message};

            text[i] = columns[number - 1];
        }
        types[number - 1] = TEXTARRAYOID;
        values[number - 1] = payout_text_array(text, count);
    }
    for (int i = 0; i < count; i++)
        datums[i] = BoolGetDatum(findings[i].paid);
    types[2] = BOOLARRAYOID;
    values[2] = array_of_datums(datums, nulls, count, BOOLOID, 1, true, TYPALIGN_CHAR);
    for (int column = 3; column <= 5; column += 2) {
        for (int i = 0; i < count; i++)
            numbers[i] = column == 3 ? findings[i].transactions : findings[i].held;
        types[column] = INT8ARRAYOID;
        values[column] = payout_bigint_array(numbers, count);
    }
    for (int column = 8; column <= 10; column++) {
        for (int i = 0; i < count; i++) {
            const Finding *f = &findings[i];

            datums[i] = time_value(column == 8 ? f->next_at : column == 9 ? f->look_at : f->since, &nulls[i]);
            if (column == 10)
                nulls[i] = false;
        }
        types[column] = TIMESTAMPARRAYOID;
        values[column] =
            array_of_datums(datums, nulls, count, TIMESTAMPOID, sizeof(Timestamp), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE);
    }
}

static bool row_bool(uint64 row, int column);

/* Ends the rows that no longer hold and moves the findings that need a new one to the beginning; their number. */
static int
close_rows(const char *run_id, Finding *findings, int count)
{
    Oid types[KEEP_PARAMETERS];
    Datum values[KEEP_PARAMETERS];
    char **closed = palloc(sizeof(char *) * count);
    int closed_count = 0;
    int opened = 0;

    finding_parameters(findings, count, types, values);
    (void)run_for_creators(count, compare_sql, KEEP_PARAMETERS - 1, types, values, NULL);
    for (int i = 0; i < count; i++) {
        bool exists = row_bool(i, 1);

        if (exists && findings[i].reason != NULL && row_bool(i, 2))
            continue;
        if (exists)
            closed[closed_count++] = findings[i].creator_id;
        if (findings[i].reason != NULL)
            findings[opened++] = findings[i];
    }
    if (closed_count > 0) {
        Oid close_types[] = {TEXTARRAYOID, TEXTOID};
        Datum close_values[] = {payout_text_array(closed, closed_count), CStringGetTextDatum(run_id)};

        (void)run_for_creators(closed_count, close_sql, 2, close_types, close_values, NULL);
    }
    return opened;
}

/* Keeps what was found; the array is used up. */
static void
keep_findings(const char *run_id, Finding *findings, int count)
{
    Oid types[KEEP_PARAMETERS];
    Datum values[KEEP_PARAMETERS];

    if (count > 0)
        count = close_rows(run_id, findings, count);
    if (count == 0)
        return;
    finding_parameters(findings, count, types, values);
    types[KEEP_PARAMETERS - 1] = TEXTOID;
    values[KEEP_PARAMETERS - 1] = CStringGetTextDatum(run_id);
    (void)run_for_creators(count, open_sql, KEEP_PARAMETERS, types, values, NULL);
}

static Timestamp
row_time(uint64 row, int column, Timestamp otherwise)
{
    bool is_null;
    Datum value = SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, &is_null);

    return is_null ? otherwise : DatumGetTimestamp(value);
}

static bool
row_bool(uint64 row, int column)
{
    bool is_null;

    return DatumGetBool(SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, &is_null));
}

/* What a row of pay_sql says of a creator who has been dealt with. */
static void
read_finding(uint64 row, Finding *found)
{
    int64 unpaid = spi_int64(row, 5);
    int64 eligible = spi_int64(row, 6);
    Timestamp next_release = row_time(row, 12, DT_NOEND);

    memset(found, 0, sizeof(*found));
    found->creator_id = spi_text(row, 1);
    found->paid = !spi_is_null(row, 4);
    found->held = spi_int64(row, 8);
    found->held_amount = spi_text(row, 9);
    found->look_at = next_release;
    if (found->paid) {
        /* what is left */
        found->reason = found->held > 0 ? "HOLD" : unpaid > eligible ? "CURRENCY" : NULL;
        found->amount = found->adjustments = "0";
        found->next_at = next_release;
        found->since = row_time(row, 14, DT_NOEND);
        return;
    }
    found->transactions = eligible;
    found->amount = spi_text(row, 7);
    found->adjustments = spi_text(row, 10);
    found->next_at = row_time(row, 11, DT_NOEND);
    found->look_at = Min(found->look_at, found->next_at);
    found->since = row_time(row, 13, DT_NOEND);
    if (unpaid > 0 || strcmp(found->adjustments, "0") != 0)
        found->reason = spi_text(row, 2);
}

/* One pass over some creators. Those who need another one are left at the beginning of `ids`; their number is returned,
 * with whether they need a sweep before. */
static int
pay_once(const PayoutRules *rules, const char *run_id, char **ids, const Timestamp *sinces, int count,
         PayFigures *figures, bool *sweep)
{
    Oid types[PAY_PARAMETERS];
    Datum values[PAY_PARAMETERS];
    char nulls[PAY_PARAMETERS];
    Finding *findings = palloc(sizeof(Finding) * Max(count, 1));
    int found = 0;
    int again = 0;
    uint64 rows;

    payout_rule_parameters(rules, ids, sinces, count, types, values, nulls);
    types[RULE_PARAMETERS] = types[RULE_PARAMETERS + 1] = TIMESTAMPOID;
    types[RULE_PARAMETERS + 2] = TEXTOID;
    types[RULE_PARAMETERS + 3] = INT4OID;
    memset(nulls + RULE_PARAMETERS, ' ', PAY_PARAMETERS - RULE_PARAMETERS);
    values[RULE_PARAMETERS] = TimestampGetDatum(rules->now);
    values[RULE_PARAMETERS + 1] = TimestampGetDatum(payout_now());
    values[RULE_PARAMETERS + 2] = CStringGetTextDatum(run_id);
    values[RULE_PARAMETERS + 3] = Int32GetDatum(PAYOUT_MOST_ITEMS);
    rows = run_for_creators(count, pay_sql, PAY_PARAMETERS, types, values, nulls);
    *sweep = false;
    if (rows > 0 && row_bool(0, 15))
        ereport(ERROR, (errcode(ERRCODE_TRIGGERED_ACTION_EXCEPTION),
                        errmsg("a payout, its items or its event could not be written"),
                        errdetail("A trigger or rule of the tables kept a row from being written.")));
    for (uint64 row = 0; row < rows; row++) {
        bool is_paid = !spi_is_null(row, 4);

        if (row_bool(row, 16)) {
            figures->later[figures->later_count] = spi_text(row, 1);
            figures->later_since[figures->later_count++] = row_time(row, 17, DT_NOBEGIN);
            continue;
        }
        if (row_bool(row, 3) || (!is_paid && spi_is_null(row, 2))) {
            /* to be swept first; or what it was to be paid has changed meanwhile */
            *sweep = *sweep || row_bool(row, 3);
            ids[again++] = spi_text(row, 1);
            continue;
        }
        read_finding(row, &findings[found]);
        if (is_paid)
            figures->items += spi_int64(row, 6);
        if (is_paid && figures->created++ == 0)
            figures->payout_id = spi_text(row, 4);
        if (!is_paid && figures->reason == NULL)
            figures->reason = spi_text(row, 2);
        found++;
    }
    keep_findings(run_id, findings, found);
    return again;
}

/* Passes over the creators until all have been dealt with. */
static void
pay_all(const PayoutRules *rules, const char *run_id, char **ids, const Timestamp *sinces, int count,
        PayFigures *figures)
{
    char **left = palloc(sizeof(char *) * Max(count, 1));
    bool sweep;

    memcpy(left, ids, sizeof(char *) * count);
    count = pay_once(rules, run_id, left, sinces, count, figures, &sweep);
    for (int pass = 2; count > 0; pass++) {
        if (pass > MOST_PASSES)
            ereport(ERROR,
                    (errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
                     errmsg("transactions of creator \"%s\" changed while the payout was being created", left[0]),
                     errhint("Try again.")));
        if (sweep)
            payout_sweep(left, count);
        count = pay_once(rules, run_id, left, NULL, count, figures, &sweep);
    }
}

void
payout_pay(const PayoutRules *rules, const char *run_id, char **ids, const Timestamp *sinces, int count,
           PayFigures *figures)
{
    memset(figures, 0, sizeof(*figures));
    figures->later = palloc(sizeof(char *) * Max(count, 1));
    figures->later_since = palloc(sizeof(Timestamp) * Max(count, 1));
    PG_TRY();
    {
        payout_paying = true;
        pay_all(rules, run_id, ids, sinces, count, figures);
    }
    PG_FINALLY();
    {
        payout_paying = false;
        payout_announcing = NULL;
    }
    PG_END_TRY();
}

void
payout_keep_error(const PayoutRules *rules, const char *run_id, char *id, const ErrorData *error)
{
    static const char look_sql[] =
        "SELECT y.creator_id, y.reason, false, NULL::text, y.unpaid, y.eligible, y.payable::text, y.held,"
        " y.held_amount::text, y.adjustments::text, y.next_at, y.next_release_at, y.oldest, y.oldest_left"
        " FROM ({creators}) AS y";
    Oid types[RULE_PARAMETERS];
    Datum values[RULE_PARAMETERS];
    char nulls[RULE_PARAMETERS];
    Finding found;

    payout_rule_parameters(rules, &id, NULL, 1, types, values, nulls);
    if (run_for_creators(1, look_sql, RULE_PARAMETERS, types, values, nulls) == 0)
        return;
    read_finding(0, &found);
    found.reason = "ERROR";
    found.next_at = DT_NOEND;
    found.look_at = DT_NOBEGIN; /* the next run tries again */
    found.since = DT_NOBEGIN;
    found.sqlstate = pstrdup(unpack_sql_state(error->sqlerrcode));
    found.message = error->message;
    keep_findings(run_id, &found, 1);
}

char *
payout_begin_run(const PayoutRules *rules, int64 job_run, bool complete)
{
    Oid types[] = {TEXTOID, INT8OID,      TIMESTAMPOID, TIMESTAMPOID, TEXTOID, INT4OID, INT8OID,
                   TEXTOID, TIMESTAMPOID, TIMESTAMPOID, TEXTOID,      BOOLOID, BOOLOID};
    char nulls[lengthof(types)];
    Datum values[lengthof(types)];
    char *id = palloc(UUID_TEXT_SIZE);

    memset(nulls, ' ', sizeof(nulls));
    uuid_v7(id);
    values[0] = CStringGetTextDatum(id);
    values[1] = Int64GetDatum(job_run);
    if (job_run == 0)
        nulls[1] = 'n';
    values[2] = TimestampGetDatum(rules->now);
    values[3] = TimestampGetDatum(rules->cutoff);
    values[4] = CStringGetTextDatum(rules->fee_schedule);
    values[5] = Int32GetDatum(rules->hold_days);
    values[6] = Int64GetDatum(rules->min_payout);
    values[7] = CStringGetTextDatum(rules->frequency);
    values[8] = TimestampGetDatum(rules->period_start);
    values[9] = TimestampGetDatum(rules->period_end);
    values[10] = CStringGetTextDatum(rules->zone);
    values[11] = BoolGetDatum(rules->forced);
    values[12] = BoolGetDatum(complete);
    (void)spi_run(begin_run_sql, lengthof(types), types, values, nulls, false, 0);
    return id;
}

void
payout_read_run(const char *run_id, PayoutRules *rules)
{
    static const char read_sql[] = "SELECT r.at, r.cutoff, r.fee_schedule_id, r.hold_days, r.min_payout, r.frequency, "
                                   "r.period_start, r.period_end,"
                                   " r.time_zone, r.forced FROM apapacho_jobs.payout_run AS r WHERE r.id = $1";
    Oid type = TEXTOID;
    Datum value = CStringGetTextDatum(run_id);

    if (spi_run(read_sql, 1, &type, &value, NULL, true, 1) != 1)
        elog(ERROR, "payout run \"%s\" does not exist", run_id);
    rules->now = row_time(0, 1, 0);
    rules->cutoff = row_time(0, 2, 0);
    rules->fee_schedule = spi_text(0, 3);
    rules->hold_days = (int32)spi_int64(0, 4);
    rules->min_payout = spi_int64(0, 5);
    rules->frequency = spi_text(0, 6);
    rules->period_start = row_time(0, 7, 0);
    rules->period_end = row_time(0, 8, 0);
    rules->zone = spi_text(0, 9);
    rules->forced = row_bool(0, 10);
}
