/*
 * sql.c: the payout room's SQL texts: names in braces are replaced, statements of the guards are planned once.
 *
 * Runs in workers and in every backend that writes the user's tables (guards). The kept plans belong to the process.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/snapmgr.h"

#include "payout/internal.h"
#include "server/compat.h"
#include "server/settings.h"

/* Whether a payout `p` holds its transactions and adjustments. payout_level() says the same. */
static const char holds_sql[] =
    "(p.\"status\"::text = ANY ('{CALCULATED,PENDING,SENT}') OR (p.\"status\"::text = 'FAILED'"
    " AND p.\"nextRetryAt\" IS NOT NULL AND p.\"retryCount\" < " MAX_FAILURES_TEXT "))";

/* Whether it can be recalled: nobody may be transferring it. */
static const char recallable_sql[] =
    "(p.\"status\"::text = 'CALCULATED' OR (p.\"status\"::text = ANY ('{PENDING,FAILED}') AND p.\"nextRetryAt\" IS NOT"
    " NULL AND (p.\"status\"::text = 'PENDING' OR p.\"retryCount\" < " MAX_FAILURES_TEXT ")))";

static const struct {
    const char *name;
    const char *text;
} fragments[] = {
    {"holds", holds_sql},
    {"recallable", recallable_sql},
    {"creators", payout_creators_sql},
    {"eligible", payout_eligible_sql},
    {"held", payout_held_sql},
};

/* A statement that is kept: its text (a constant), and the schema of the tables in it. */
typedef struct KeptKey {
    const char *text;
    char schema[NAMEDATALEN];
} KeptKey;

typedef struct KeptPlan {
    KeptKey key;
    SPIPlanPtr plan;
} KeptPlan;

static HTAB *kept_plans = NULL;

static void
append_sql(StringInfo out, const char *schema, const char *text)
{
    const char *open;

    while ((open = strchr(text, '{')) != NULL) {
        const char *close = strchr(open, '}');
        const char *name = pnstrdup(open + 1, close - open - 1);
        bool is_fragment = false;

        /* a brace within quotes is an array's */
        if (open > text && open[-1] == '\'') {
            appendBinaryStringInfo(out, text, close + 1 - text);
            text = close + 1;
            continue;
        }
        appendBinaryStringInfo(out, text, open - text);
        for (int i = 0; i < lengthof(fragments); i++) {
            if (strcmp(name, fragments[i].name) == 0) {
                append_sql(out, schema, fragments[i].text);
                is_fragment = true;
            }
        }
        if (!is_fragment)
            appendStringInfoString(out, quote_qualified_identifier(schema, name));
        text = close + 1;
    }
    appendStringInfoString(out, text);
}

char *
payout_sql_in(const char *schema, const char *text)
{
    StringInfoData out;

    initStringInfo(&out);
    append_sql(&out, schema, text);
    return out.data;
}

char *
payout_sql(const char *text)
{
    return payout_sql_in(setting_schema, text);
}

void
payout_plan_by_index(void)
{
    static const struct {
        const char *name;
        const char *value;
    } planner[] = {
        {"enable_hashjoin", "off"},
        {"enable_mergejoin", "off"},
        {"enable_seqscan", "off"},
        {"enable_bitmapscan", "off"},
        {"enable_memoize", "off"},       /* no key comes twice */
        {"enable_indexonlyscan", "off"}, /* would read all of ("payoutId", "transactionId") for one transaction */
        {"jit", "off"},
        {"max_parallel_workers_per_gather", "0"},
    };

    for (int i = 0; i < lengthof(planner); i++)
        (void)set_config_option(planner[i].name, planner[i].value, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0,
                                false);
}

uint64
payout_run_kept(const char *schema, const char *text, int count, const Oid *types, Datum *values, const char *nulls)
{
    KeptKey key;
    KeptPlan *kept;
    bool found;
    int status;

    if (kept_plans == NULL) {
        HASHCTL control = {.keysize = sizeof(KeptKey), .entrysize = sizeof(KeptPlan)};

        kept_plans = hash_create("apapacho_jobs payout plans", 32, &control, HASH_ELEM | HASH_BLOBS);
    }
    memset(&key, 0, sizeof(key));
    key.text = text;
    strlcpy(key.schema, schema, sizeof(key.schema));
    kept = hash_search(kept_plans, &key, HASH_ENTER, &found);
    if (!found)
        kept->plan = NULL;
    if (kept->plan == NULL) {
        SPIPlanPtr made =
            SPI_prepare_cursor(payout_sql_in(schema, text), count, unconstify(Oid *, types), CURSOR_OPT_GENERIC_PLAN);

        if (made == NULL || SPI_keepplan(made) != 0)
            elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
        kept->plan = made;
    }
    /*
     * Guards go by what is committed by now, whatever the isolation level of the transaction: a payout that has been
     * cancelled since its snapshot is cancelled.
     */
    status = SPI_execute_snapshot(kept->plan, values, nulls,
                                  IsolationUsesXactSnapshot() ? GetLatestSnapshot() : InvalidSnapshot, InvalidSnapshot,
                                  false, true, 0);
    if (status < 0)
        elog(ERROR, "SPI_execute_snapshot failed: %s", SPI_result_code_string(status));
    return SPI_processed;
}

Datum
payout_text_array(char **elements, int count)
{
    Datum *values = palloc(sizeof(Datum) * Max(count, 1));
    bool *nulls = palloc(sizeof(bool) * Max(count, 1));
    int lower_bound = 1;

    for (int i = 0; i < count; i++) {
        nulls[i] = elements[i] == NULL;
        values[i] = nulls[i] ? (Datum)0 : CStringGetTextDatum(elements[i]);
    }
    return PointerGetDatum(
        construct_md_array(values, nulls, 1, &count, &lower_bound, TEXTOID, -1, false, TYPALIGN_INT));
}

Datum
payout_bigint_array(const int64 *elements, int count)
{
    Datum *values = palloc(sizeof(Datum) * Max(count, 1));

    for (int i = 0; i < count; i++)
        values[i] = Int64GetDatum(elements[i]);
    return PointerGetDatum(construct_array(values, count, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}
