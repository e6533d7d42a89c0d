/*
 * waiting.c: what waits for a retry, in memory. See waiting.h.
 *
 * Runs in a publisher, in the transaction of a claim. Events and aggregates are told apart by the hashes of
 * hand.h.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"

#include "outbox/hand.h"
#include "outbox/waiting.h"
#include "server/settings.h"

#define FETCH_ROWS 1000

typedef struct WaitingEvent {
    uint64 id; /* a hash */
    WaitingState state;
} WaitingEvent;

typedef struct WaitingAggregate {
    uint64 aggregate;   /* a hash */
    Timestamp first_at; /* of those of its events that are pending and wait */
    char *first_id;
} WaitingAggregate;

struct Waiting {
    HTAB *events;
    HTAB *aggregates;
};

enum { COL_ID = 1, COL_ENDPOINT, COL_IS_DUE, COL_AGGREGATE_TYPE, COL_AGGREGATE_ID, COL_CREATED_AT };

/* %s: the events; $1: how often they are tried. */
static const char read_sql[] =
    "SELECT w.event_id, w.endpoint, w.next_attempt_at <= pg_catalog.statement_timestamp(), w.aggregate_type,"
    " w.aggregate_id, x.\"createdAt\" FROM apapacho_jobs.outbox_waiting w LEFT JOIN %s x ON x.id = w.event_id"
    " AND x.\"publishedAt\" IS NULL AND x.\"retryCount\" < $1";

static void
note_event(Waiting *waiting, const char *id, const char *endpoint, bool is_due)
{
    uint64 hash = outbox_hash(id);
    bool found;
    WaitingEvent *event = hash_search(waiting->events, &hash, HASH_ENTER, &found);

    if (!found)
        event->state = WAITING_LATER;
    if (is_due && event->state != WAITING_FOR_OTHERS)
        event->state = strcmp(endpoint, OUTBOX_DEFAULT_ENDPOINT) == 0 ? WAITING_DUE : WAITING_FOR_OTHERS;
}

static bool
is_earlier(Timestamp at, const char *id, Timestamp than, const char *than_id)
{
    return at < than || (at == than && strcmp(id, than_id) < 0);
}

static void
note_aggregate(Waiting *waiting, const char *type, const char *id, Timestamp created_at, char *event_id)
{
    uint64 hash = outbox_hash_aggregate(type, id);
    bool found;
    WaitingAggregate *aggregate = hash_search(waiting->aggregates, &hash, HASH_ENTER, &found);

    if (found && !is_earlier(created_at, event_id, aggregate->first_at, aggregate->first_id))
        return;
    aggregate->first_at = created_at;
    aggregate->first_id = event_id;
}

static void
note_row(Waiting *waiting, HeapTuple row, TupleDesc columns)
{
    bool is_null;
    bool is_due = DatumGetBool(SPI_getbinval(row, columns, COL_IS_DUE, &is_null));
    Datum created_at;
    char *id = SPI_getvalue(row, columns, COL_ID);

    note_event(waiting, id, SPI_getvalue(row, columns, COL_ENDPOINT), is_due && !is_null);
    created_at = SPI_getbinval(row, columns, COL_CREATED_AT, &is_null);
    if (!is_null)
        note_aggregate(waiting, SPI_getvalue(row, columns, COL_AGGREGATE_TYPE),
                       SPI_getvalue(row, columns, COL_AGGREGATE_ID), DatumGetTimestamp(created_at), id);
}

Waiting *
waiting_read(const char *events)
{
    HASHCTL event_table = {.keysize = sizeof(uint64), .entrysize = sizeof(WaitingEvent), .hcxt = CurrentMemoryContext};
    HASHCTL aggregate_table = {
        .keysize = sizeof(uint64), .entrysize = sizeof(WaitingAggregate), .hcxt = CurrentMemoryContext};
    Waiting *waiting = palloc(sizeof(Waiting));
    Oid type = INT4OID;
    Datum most_tries = Int32GetDatum(setting_outbox_max_retries);
    Portal cursor;

    waiting->events = hash_create("waiting events", 256, &event_table, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
    waiting->aggregates =
        hash_create("waiting aggregates", 256, &aggregate_table, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
    cursor = SPI_cursor_open_with_args(NULL, psprintf(read_sql, events), 1, &type, &most_tries, NULL, true,
                                       CURSOR_OPT_NO_SCROLL);
    do {
        SPI_cursor_fetch(cursor, true, FETCH_ROWS);
        for (uint64 i = 0; i < SPI_processed; i++)
            note_row(waiting, SPI_tuptable->vals[i], SPI_tuptable->tupdesc);
        SPI_freetuptable(SPI_tuptable);
    } while (SPI_processed > 0);
    SPI_cursor_close(cursor);
    return waiting;
}

WaitingState
waiting_state(const Waiting *waiting, const char *id)
{
    uint64 hash = outbox_hash(id);
    WaitingEvent *event = hash_search(waiting->events, &hash, HASH_FIND, NULL);

    return event != NULL ? event->state : WAITING_NOT;
}

bool
waiting_is_before(const Waiting *waiting, const char *aggregate_type, const char *aggregate_id, Timestamp created_at,
                  const char *id)
{
    uint64 hash = outbox_hash_aggregate(aggregate_type, aggregate_id);
    WaitingAggregate *aggregate = hash_search(waiting->aggregates, &hash, HASH_FIND, NULL);

    if (aggregate == NULL)
        return false;
    if (id == NULL)
        return aggregate->first_at <= created_at;
    return is_earlier(aggregate->first_at, aggregate->first_id, created_at, id);
}
