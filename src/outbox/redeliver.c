/*
 * redeliver.c: the SQL function that sends published events once more, at a rate. In the backend that calls it.
 *
 * The events become pending again, each with a row in the retries' table that says when its turn is: what the publisher
 * does with that is nothing special, aggregates keep their order, and a crash loses nothing.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "utils/builtins.h"

#include "outbox/outbox.h"
#include "server/compat.h"
#include "server/extension.h"
#include "server/user_tables.h"
#include "server/xact.h"

PG_FUNCTION_INFO_V1(apapacho_redeliver);

#define LONGEST_S 3600

/* In the order in which they were published. $1: an id, or null; $2: the time; $3: a LIKE pattern, or null; $4: at
 * most. */
static const char pending_sql[] =
    "WITH chosen AS MATERIALIZED (SELECT e.id, e.\"publishedAt\" AS at FROM %1$s e"
    "  WHERE e.\"publishedAt\" IS NOT NULL AND ($1 IS NULL OR e.id = $1)"
    "  AND ($2 IS NULL OR e.\"publishedAt\" >= ($2 AT TIME ZONE 'UTC')) AND ($3 IS NULL OR e.\"eventType\" LIKE $3)"
    "  ORDER BY e.\"publishedAt\", e.\"createdAt\" LIMIT $4),"
    " made AS (UPDATE %1$s AS e SET \"publishedAt\" = NULL, \"retryCount\" = 0, \"lastError\" = NULL FROM chosen AS c"
    "  WHERE e.id = c.id AND e.\"publishedAt\" IS NOT NULL"
    "  RETURNING e.id, e.\"aggregateType\" AS type, e.\"aggregateId\" AS aggregate, c.at, e.\"createdAt\" AS created,"
    "  e.\"eventType\" AS event_type)"
    " SELECT pg_catalog.array_agg(m.id ORDER BY m.at, m.created), pg_catalog.array_agg(m.type ORDER BY m.at, "
    "m.created),"
    " pg_catalog.array_agg(m.aggregate ORDER BY m.at, m.created), pg_catalog.count(*),"
    " pg_catalog.array_agg(m.event_type ORDER BY m.at, m.created) FROM made AS m";

/* $4: how many a second; $5: the events' types; $6: an endpoint, null: all that they are for. */
static const char turns_sql[] =
    "INSERT INTO apapacho_jobs.outbox_retry AS r (event_id, aggregate_type, aggregate_id, attempts, next_attempt_at,"
    " endpoint)"
    " SELECT f.id, f.type, f.aggregate, 0,"
    " pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => (f.n - 1) / $4), p.name"
    " FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3), pg_catalog.unnest($5))"
    " WITH ORDINALITY AS f (id, type, aggregate, event_type, n)"
    " JOIN apapacho_jobs.outbox_endpoint AS p ON CASE WHEN $6 IS NOT NULL THEN p.name = $6"
    "  ELSE p.event_types IS NULL OR EXISTS (SELECT FROM pg_catalog.unnest(p.event_types) AS t (pattern)"
    "   WHERE f.event_type LIKE apapacho_jobs.like_pattern(t.pattern)) END"
    " ON CONFLICT (event_id, endpoint) DO UPDATE SET attempts = 0, next_attempt_at = excluded.next_attempt_at,"
    " failed_at = NULL";

/*
 * apapacho_jobs.redeliver(event_id text, since timestamptz, pattern text, most integer, rate double precision,
 * endpoint text): how many events will be sent again.
 */
Datum
apapacho_redeliver(PG_FUNCTION_ARGS)
{
    Oid types[] = {TEXTOID, TIMESTAMPTZOID, TEXTOID, INT4OID};
    Oid turn_types[] = {TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, FLOAT8OID, TEXTARRAYOID, TEXTOID};
    Datum values[4];
    Datum turns[6];
    char nulls[5] = "    ";
    char turn_nulls[7] = "      ";
    bool is_null;
    char *table;
    RunAs saved;
    int64 count;

    for (int i = 0; i < 4; i++) {
        values[i] = PG_ARGISNULL(i) ? (Datum)0 : PG_GETARG_DATUM(i);
        nulls[i] = PG_ARGISNULL(i) ? 'n' : ' ';
    }
    if (PG_ARGISNULL(4) || !(PG_GETARG_FLOAT8(4) > 0))
        ereport(ERROR,
                (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("the rate must be more than 0 events a second")));
    if (PG_ARGISNULL(3) || PG_GETARG_INT32(3) < 1)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("the number of events must be at least 1")));
    if (PG_GETARG_INT32(3) / PG_GETARG_FLOAT8(4) > LONGEST_S)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("%d events at that rate would take longer than an hour", PG_GETARG_INT32(3)),
                        errdetail("Until they are sent, new events of the same aggregates wait behind them."),
                        errhint("Send fewer at a time, or more a second.")));
    extension_require();
    if (SPI_connect() != SPI_OK_CONNECT)
        elog(ERROR, "could not connect to SPI");
    run_as(&saved, user_table_check(TABLE_OUTBOX_EVENT));
    table = user_table_name(TABLE_OUTBOX_EVENT);
    (void)spi_run(psprintf(pending_sql, table), 4, types, values, nulls, false, 1);
    count = spi_int64(0, 4);
    for (int i = 0; i < 3; i++)
        turns[i] = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, i + 1, &is_null);
    turns[3] = PG_GETARG_DATUM(4);
    turns[4] = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 5, &is_null);
    turns[5] = PG_ARGISNULL(5) ? (Datum)0 : PG_GETARG_DATUM(5);
    turn_nulls[5] = PG_ARGISNULL(5) ? 'n' : ' ';
    run_as_end(&saved);
    if (count > 0) {
        run_as(&saved, extension_owner());
        (void)spi_run(turns_sql, 6, turn_types, turns, turn_nulls, false, 0);
        run_as_end(&saved);
        outbox_wake_at_commit();
    }
    SPI_finish();
    PG_RETURN_INT64(count);
}
