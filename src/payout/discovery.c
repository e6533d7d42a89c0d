/*
 * discovery.c: whom a run of the calculation has to look at: everybody, or only those for whom something may have
 * changed since the last run. The reasons of all others still hold.
 *
 * Runs in the worker of the job `payout`. Works on tables of ours only, as the superuser that the worker is; creators
 * are listed as the owner of the tables.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "payout/internal.h"
#include "server/compat.h"
#include "server/settings.h"

#define COMPLETE_AFTER_DAYS "30" /* a complete run finds what the guards may have missed */

/* $1: the rules as text; $2: blocks that payout_dirty may have. */
static const char state_sql[] =
    "SELECT s.rules = $1 AND s.full_at > pg_catalog.now() - interval '" COMPLETE_AFTER_DAYS " days'"
    " AND pg_catalog.pg_relation_size('apapacho_jobs.payout_dirty')"
    "  < $2 * pg_catalog.current_setting('block_size')::bigint FROM apapacho_jobs.payout_state AS s";

static const char *const begin_complete[] = {
    "DELETE FROM apapacho_jobs.payout_todo",
    "UPDATE apapacho_jobs.payout_state SET full_at = NULL",
};

/* $1: now, $2: whether everybody is due. */
static const char fill_sql[] =
    "WITH dirty AS (DELETE FROM apapacho_jobs.payout_dirty AS d RETURNING d.creator_id, d.since)"
    " INSERT INTO apapacho_jobs.payout_todo AS t (creator_id, since)"
    " SELECT d.creator_id, pg_catalog.min(d.since) FROM (SELECT d.creator_id, d.since FROM dirty AS d UNION ALL"
    "   SELECT n.creator_id, n.since FROM apapacho_jobs.payout_reason AS n"
    "    WHERE n.until_run IS NULL AND (n.look_at <= $1 OR ($2 AND n.reason = 'NOT_DUE'))) AS d"
    "  GROUP BY d.creator_id"
    " ON CONFLICT (creator_id) DO UPDATE SET since = LEAST(t.since, excluded.since)";

static const char count_todo_sql[] = "SELECT pg_catalog.count(*) FROM apapacho_jobs.payout_todo";
static const char count_creators_sql[] = "SELECT pg_catalog.count(*) FROM {Creator}";

/* $1: after, $2: most, $3: until. */
static const char next_creators_sql[] =
    "SELECT c.\"id\", '-infinity'::timestamp FROM {Creator} AS c WHERE ($1 IS NULL OR c.\"id\" > $1)"
    "  AND ($3 IS NULL OR c.\"id\" <= $3) ORDER BY c.\"id\" LIMIT $2";
static const char next_todo_sql[] =
    "SELECT t.creator_id, LEAST(t.since, (SELECT n.since FROM apapacho_jobs.payout_reason AS n"
    "   WHERE n.creator_id = t.creator_id AND n.until_run IS NULL))"
    " FROM apapacho_jobs.payout_todo AS t WHERE ($1 IS NULL OR t.creator_id > $1)"
    "  AND ($3 IS NULL OR t.creator_id <= $3) ORDER BY t.creator_id LIMIT $2";

/* $1: so many come before it. */
static const char nth_creator_sql[] = "SELECT c.\"id\" FROM {Creator} AS c ORDER BY c.\"id\" OFFSET $1 LIMIT 1";
static const char nth_todo_sql[] =
    "SELECT t.creator_id FROM apapacho_jobs.payout_todo AS t ORDER BY t.creator_id OFFSET $1 LIMIT 1";

static const char looked_at_sql[] = "DELETE FROM apapacho_jobs.payout_todo AS t WHERE t.creator_id = ANY ($1)";

static const char complete_sql[] = "UPDATE apapacho_jobs.payout_state SET full_at = pg_catalog.now(), rules = $1";
static const char vanished_sql[] =
    "UPDATE apapacho_jobs.payout_reason AS n SET until_run = $1 WHERE n.until_run IS NULL"
    " AND NOT EXISTS (SELECT FROM {Creator} AS c WHERE c.\"id\" = n.creator_id)";

static char *
rules_text(const PayoutRules *rules)
{
    return psprintf("%s %s %d " INT64_FORMAT " %s %s", setting_schema, rules->fee_schedule, rules->hold_days,
                    rules->min_payout, rules->frequency, rules->zone);
}

/* Whether what is known from the last run can be gone by. */
static bool
can_go_on(const PayoutRules *rules)
{
    Oid types[] = {TEXTOID, INT8OID};
    Datum values[] = {CStringGetTextDatum(rules_text(rules)), Int64GetDatum(PAYOUT_DIRTY_BLOCKS)};
    bool is_null;
    Datum value;

    if (!payout_discovery_guarded() || spi_run(state_sql, 2, types, values, NULL, true, 1) == 0)
        return false;
    value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &is_null);
    return !is_null && DatumGetBool(value);
}

static int64
count_creators(void)
{
    RunAs saved;
    int64 count;

    payout_run_as(&saved);
    (void)spi_run(payout_sql(count_creators_sql), 0, NULL, NULL, NULL, true, 1);
    count = spi_int64(0, 1);
    run_as_end(&saved);
    return count;
}

/*
 * Forgets whom to look at, of what is committed. There may be millions: at once, unless somebody is just now adding to
 * it, who must not be kept waiting.
 */
static void
forget_dirty(void)
{
    Oid table = get_relname_relid("payout_dirty", get_namespace_oid("apapacho_jobs", false));
    const char *sql = ConditionalLockRelationOid(table, AccessExclusiveLock) ? "TRUNCATE apapacho_jobs.payout_dirty"
                                                                             : "DELETE FROM apapacho_jobs.payout_dirty";

    (void)spi_run(sql, 0, NULL, NULL, NULL, false, 0);
}

int64
payout_discover(const PayoutRules *rules, bool *everybody)
{
    int64 count;

    xact_begin("finding out whom to look at");
    *everybody = !can_go_on(rules);
    if (*everybody) {
        count = count_creators();
        for (int i = 0; i < lengthof(begin_complete); i++)
            (void)spi_run(begin_complete[i], 0, NULL, NULL, NULL, false, 0);
        forget_dirty();
    } else {
        Oid types[] = {TIMESTAMPOID, BOOLOID};
        Datum values[] = {TimestampGetDatum(rules->now), BoolGetDatum(rules->forced)};

        (void)spi_run(fill_sql, 2, types, values, NULL, false, 0);
        (void)spi_run(count_todo_sql, 0, NULL, NULL, NULL, false, 1);
        count = spi_int64(0, 1);
    }
    xact_commit();
    return count;
}

char *
payout_nth_creator(bool everybody, int64 number)
{
    Oid type = INT8OID;
    Datum value = Int64GetDatum(number);

    return spi_run(everybody ? payout_sql(nth_creator_sql) : nth_todo_sql, 1, &type, &value, NULL, true, 1) > 0
               ? spi_text(0, 1)
               : NULL;
}

int
payout_next_creators(const PayRange *range, int most, MemoryContext memory, char ***ids, Timestamp **sinces)
{
    Oid types[] = {TEXTOID, INT4OID, TEXTOID};
    Datum values[] = {range->after != NULL ? CStringGetTextDatum(range->after) : (Datum)0, Int32GetDatum(most),
                      range->until != NULL ? CStringGetTextDatum(range->until) : (Datum)0};
    char nulls[] = {range->after != NULL ? ' ' : 'n', ' ', range->until != NULL ? ' ' : 'n'};
    const char *sql = range->everybody ? payout_sql(next_creators_sql) : next_todo_sql;
    int count = (int)spi_run(sql, 3, types, values, nulls, true, 0);
    MemoryContext before = MemoryContextSwitchTo(memory);

    *ids = palloc(sizeof(char *) * Max(count, 1));
    *sinces = palloc(sizeof(Timestamp) * Max(count, 1));
    for (int i = 0; i < count; i++) {
        bool is_null;

        (*ids)[i] = spi_text(i, 1);
        (*sinces)[i] = DatumGetTimestamp(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 2, &is_null));
    }
    MemoryContextSwitchTo(before);
    return count;
}

void
payout_looked_at(char **ids, int count)
{
    Oid type = TEXTARRAYOID;
    Datum value = payout_text_array(ids, count);

    (void)spi_run(looked_at_sql, 1, &type, &value, NULL, false, 0);
}

void
payout_discovered(const PayoutRules *rules, bool everybody, const char *run_id)
{
    Oid type = TEXTOID;
    Datum value = CStringGetTextDatum(rules_text(rules));
    RunAs saved;

    if (!everybody)
        return;
    (void)spi_run(complete_sql, 1, &type, &value, NULL, false, 0);
    run_as(&saved, payout_check_tables());
    value = CStringGetTextDatum(run_id);
    (void)spi_run(payout_sql(vanished_sql), 1, &type, &value, NULL, false, 0);
    run_as_end(&saved);
}
