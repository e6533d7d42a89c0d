/*
 * claim.c: which events go out next, in which order.
 *
 * Runs in the worker of the job `outbox`, in a short transaction of its own; no row is locked, since an aggregate is
 * with one publisher at a time. The claim walks the index ("publishedAt", "createdAt"), so that it never sorts the
 * backlog.
 *
 * Where there is more than the default endpoint an event is claimed for those of its endpoints that are to have it now.
 * Which are to have it at all: those that its rows in outbox_retry name; where there is none it has not been tried, and
 * all whose filter fits are.
 *
 * Order: by "createdAt". Events of the same millisecond go out as they stand in the table, which is as they were
 * inserted but for free space that is used again; so those whose ids say more (version 7 uuids, ours) go by their ids.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/transam.h"
#include "access/xlog.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "outbox/hand.h"
#include "outbox/share.h"
#include "outbox/waiting.h"
#include "server/delivery_settings.h"
#include "server/settings.h"
#include "server/user_tables.h"
#include "server/xact.h"

#define FETCH_ROWS 64

/* How far beyond the limit a claim looks for events of the same millisecond as its last one. */
#define TIE_ROWS 100

/* The columns of the claim. */
enum {
    COL_ID = 1,
    COL_AGGREGATE_TYPE,
    COL_AGGREGATE_ID,
    COL_TYPE,
    COL_PAYLOAD,
    COL_CREATED_AT,
    COL_RETRY_COUNT,
    COL_PLACE,
    COL_WRITER,
    COL_HAS_ROWS,
    /* of the simple claim */
    COL_ROW_ENDPOINT,
    /* of the others */
    COL_HAS_FAILED = COL_ROW_ENDPOINT,
    COL_ENDPOINTS,
    COL_DUE,
    COL_ATTEMPTS,
    COL_ROWS
};

#define EVENT_COLUMNS                                                                                                  \
    "SELECT e.id, e.\"aggregateType\", e.\"aggregateId\", e.\"eventType\", e.payload, e.\"createdAt\","                \
    " e.\"retryCount\", e.ctid, e.xmin, "

/* The default endpoint alone. %1$s: the events. An event that has failed for good, or is gone, holds up nobody. */
static const char claim_sql[] =
    EVENT_COLUMNS "own.event_id IS NOT NULL, own.endpoint"
                  " FROM %1$s e LEFT JOIN apapacho_jobs.outbox_waiting own ON own.event_id = e.id"
                  " WHERE e.\"publishedAt\" IS NULL AND e.\"createdAt\" >= $3 AND e.\"retryCount\" < $1 %2$s"
                  " AND (own.event_id IS NULL OR own.next_attempt_at <= pg_catalog.statement_timestamp())"
                  " %3$s"
                  " ORDER BY e.\"publishedAt\", e.\"createdAt\" LIMIT $2";

/* The same where nothing waits for a retry at all, or where that is in memory (waiting.h). */
static const char untried_sql[] =
    EVENT_COLUMNS "false, NULL::text FROM %1$s e"
                  " WHERE e.\"publishedAt\" IS NULL AND e.\"createdAt\" >= $3 AND e.\"retryCount\" < $1 %2$s"
                  " ORDER BY e.\"publishedAt\", e.\"createdAt\" LIMIT $2";

/* Those whose aggregate has no earlier event that waits. */
static const char order_sql[] =
    "AND NOT EXISTS (SELECT FROM apapacho_jobs.outbox_waiting r JOIN %1$s x ON x.id = r.event_id"
    "  WHERE r.aggregate_type = e.\"aggregateType\" AND r.aggregate_id = e.\"aggregateId\""
    "  AND r.event_id <> e.id AND x.\"publishedAt\" IS NULL AND x.\"retryCount\" < $1"
    "  AND (x.\"createdAt\" < e.\"createdAt\""
    "   OR x.\"createdAt\" = e.\"createdAt\" AND (own.event_id IS NULL OR x.id < e.id)))";

/*
 * The same for a claim that does not look at all events: of an aggregate of which something waits it takes nothing,
 * also nothing whose time has come, for it may have passed over what is to go before that.
 */
static const char strict_order_sql[] =
    "AND own.event_id IS NULL AND NOT EXISTS (SELECT FROM apapacho_jobs.outbox_waiting r"
    "  WHERE r.aggregate_type = e.\"aggregateType\" AND r.aggregate_id = e.\"aggregateId\")";

/*
 * Several endpoints: $6 their names, $7 whether there is room, $8 the expressions that types are to match. An event's
 * endpoints are listed with whether they are to have it now. %3$s: what holds it up there.
 */
static const char several_sql[] = EVENT_COLUMNS
    "t.has_rows, t.has_failed, t.endpoints, t.due, t.attempts, t.rows"
    " FROM %1$s e CROSS JOIN LATERAL ("
    "  SELECT pg_catalog.bool_or(s.has_rows) AS has_rows, pg_catalog.bool_or(s.has_failed) AS has_failed,"
    "   pg_catalog.array_agg(s.number - 1) FILTER (WHERE s.is_left) AS endpoints,"
    "   pg_catalog.array_agg(s.is_due) FILTER (WHERE s.is_left) AS due,"
    "   pg_catalog.array_agg(s.attempts) FILTER (WHERE s.is_left) AS attempts,"
    "   pg_catalog.array_agg(s.has_row) FILTER (WHERE s.is_left) AS rows,"
    "   pg_catalog.bool_or(s.is_left) AS any_left, pg_catalog.bool_or(s.is_left AND s.is_due) AS any_due"
    "  FROM (SELECT l.has_rows, l.has_failed, p.number::integer AS number, own.event_id IS NOT NULL AS has_row,"
    "    COALESCE(own.attempts, e.\"retryCount\") AS attempts,"
    "    CASE WHEN l.has_rows THEN own.event_id IS NOT NULL AND own.failed_at IS NULL"
    "     ELSE p.types IS NULL OR e.\"eventType\" COLLATE \"C\" ~ p.types END AS is_left,"
    "    p.has_room AND (own.event_id IS NULL OR own.next_attempt_at <= pg_catalog.statement_timestamp())"
    "     %3$s AS is_due"
    "   FROM (SELECT pg_catalog.count(*) > 0 AS has_rows, pg_catalog.count(w.failed_at) > 0 AS has_failed"
    "     FROM apapacho_jobs.outbox_waiting w WHERE w.event_id = e.id) l"
    "    CROSS JOIN ROWS FROM (pg_catalog.unnest($6), pg_catalog.unnest($7), pg_catalog.unnest($8)) WITH ORDINALITY"
    "     AS p (name, has_room, types, number)"
    "    LEFT JOIN apapacho_jobs.outbox_waiting own ON own.event_id = e.id AND own.endpoint = p.name) s) t"
    " WHERE e.\"publishedAt\" IS NULL AND e.\"createdAt\" >= $3 AND e.\"retryCount\" < $1 %2$s"
    " AND (t.any_due OR NOT t.any_left)"
    " ORDER BY e.\"publishedAt\", e.\"createdAt\" LIMIT $2";

/* What waits for its time at the endpoint. What is due there and earlier is found before, and sent before. */
static const char several_order_sql[] =
    "AND NOT EXISTS (SELECT FROM apapacho_jobs.outbox_waiting r JOIN %1$s x ON x.id = r.event_id"
    "  WHERE r.aggregate_type = e.\"aggregateType\" AND r.aggregate_id = e.\"aggregateId\" AND r.endpoint = p.name"
    "  AND r.event_id <> e.id AND r.failed_at IS NULL AND r.next_attempt_at > pg_catalog.statement_timestamp()"
    "  AND x.\"publishedAt\" IS NULL AND x.\"retryCount\" < $1"
    "  AND (x.\"createdAt\" < e.\"createdAt\""
    "   OR x.\"createdAt\" = e.\"createdAt\" AND (own.event_id IS NULL OR x.id < e.id)))";

static const char several_strict_order_sql[] =
    "AND own.event_id IS NULL AND NOT EXISTS (SELECT FROM apapacho_jobs.outbox_waiting r"
    "  WHERE r.aggregate_type = e.\"aggregateType\" AND r.aggregate_id = e.\"aggregateId\" AND r.endpoint = p.name"
    "  AND r.failed_at IS NULL)";

/* Those of this publisher's share, where that is not the whole. */
static const char share_sql[] =
    "AND (pg_catalog.hashtextextended(e.\"aggregateType\" || '/' || e.\"aggregateId\", 0) & $5) = ANY ($4)";

int
outbox_plan_by_index(void)
{
    static const char *const unwanted[] = {"enable_seqscan",   "enable_bitmapscan", "enable_sort", "enable_hashjoin",
                                           "enable_mergejoin", "enable_material",   "jit"};
    int level = NewGUCNestLevel();

    for (int i = 0; i < lengthof(unwanted); i++)
        (void)set_config_option(unwanted[i], "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
    return level;
}

/* Whether an error says that a text cannot be had in the wire's form, and nothing about the server. */
static bool
is_about_text(int sqlstate)
{
    return sqlstate == ERRCODE_PROGRAM_LIMIT_EXCEEDED || sqlstate == ERRCODE_UNTRANSLATABLE_CHARACTER ||
           sqlstate == ERRCODE_CHARACTER_NOT_IN_REPERTOIRE;
}

/* The text in UTF-8; the same pointer when it is that already. NULL when it cannot be had. */
static const char *
to_utf8(const char *text)
{
    MemoryContext context = CurrentMemoryContext;
    const char *volatile result = NULL;
    size_t length = strlen(text);

    if (GetDatabaseEncoding() == PG_UTF8)
        return text;
    if (GetDatabaseEncoding() == PG_SQL_ASCII)
        return pg_verify_mbstr(PG_UTF8, text, length, true) ? text : NULL;
    PG_TRY();
    {
        result = pg_server_to_any(text, length, PG_UTF8);
    }
    PG_CATCH();
    {
        if (!is_about_text(geterrcode()))
            PG_RE_THROW();
        MemoryContextSwitchTo(context);
        FlushErrorState();
    }
    PG_END_TRY();
    return result;
}

/* 2025-12-27T18:00:00.000Z, as the backend's Date.toISOString() writes it; NULL for infinity and the like. */
static char *
iso_time(Timestamp time)
{
    struct pg_tm tm;
    fsec_t fraction;

    if (TIMESTAMP_NOT_FINITE(time) || timestamp2tm(time, NULL, &tm, &fraction, NULL, NULL) != 0)
        return NULL;
    return psprintf("%04d-%02d-%02dT%02d:%02d:%02d.%03dZ", tm.tm_year, tm.tm_mon, tm.tm_mday, tm.tm_hour, tm.tm_min,
                    tm.tm_sec, (int)(fraction / 1000));
}

/* A version 00 traceparent as W3C's Trace Context has it: 00-32 hex digits-16 hex digits-2 hex digits. */
static bool
is_traceparent(const char *text, int length)
{
    static const char shape[] = "00-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx-xxxxxxxxxxxxxxxx-xx";

    if (length != (int)strlen(shape))
        return false;
    for (int i = 0; i < length; i++) {
        if (shape[i] == 'x' ? strchr("0123456789abcdef", text[i]) == NULL || text[i] == '\0' : text[i] != shape[i])
            return false;
    }
    return true;
}

/* What the payload's member `traceparent` says; NULL: nothing of use. */
static char *
find_traceparent(const Jsonb *payload)
{
    JsonbValue buffer;
    JsonbValue *value;

    if (!JB_ROOT_IS_OBJECT(payload))
        return NULL;
    value =
        getKeyJsonValueFromContainer((JsonbContainer *)&payload->root, "traceparent", strlen("traceparent"), &buffer);
    if (value == NULL || value->type != jbvString || !is_traceparent(value->val.string.val, value->val.string.len))
        return NULL;
    return pnstrdup(value->val.string.val, value->val.string.len);
}

/*
 * The payload's text, in the current context; NULL when it is longer than any text can be. One such event must not stop
 * all others. PostgreSQL leaves a copy of each of the payload's strings behind: all but the text is in `scratch`.
 */
static char *
payload_text(HeapTuple row, TupleDesc columns, MemoryContext scratch, const char **traceparent)
{
    MemoryContext context = CurrentMemoryContext;
    StringInfoData text;
    volatile bool fits = true;
    Jsonb *payload;
    bool is_null;
    Datum value = SPI_getbinval(row, columns, COL_PAYLOAD, &is_null);

    if (is_null)
        return pstrdup("null");
    MemoryContextReset(scratch);
    MemoryContextSwitchTo(scratch);
    payload = DatumGetJsonbP(value);
    MemoryContextSwitchTo(context);
    *traceparent = find_traceparent(payload);
    initStringInfo(&text);
    MemoryContextSwitchTo(scratch);
    /* whatever fails from here on is computation: there is nothing to clean up */
    PG_TRY();
    {
        (void)JsonbToCString(&text, &payload->root, VARSIZE(payload));
    }
    PG_CATCH();
    {
        if (!is_about_text(geterrcode()))
            PG_RE_THROW();
        FlushErrorState();
        fits = false;
    }
    PG_END_TRY();
    MemoryContextSwitchTo(context);
    MemoryContextReset(scratch);
    if (fits)
        return text.data;
    pfree(text.data);
    return NULL;
}

static char *
column_text(HeapTuple row, TupleDesc columns, int column)
{
    char *text = SPI_getvalue(row, columns, column);

    return text != NULL ? text : pstrdup("");
}

/* The elements of an array of the row, of a type that is passed by value; NULL where it is null. */
static Datum *
column_elements(HeapTuple row, TupleDesc columns, int column, Oid type, int *count)
{
    bool is_null;
    Datum value = SPI_getbinval(row, columns, column, &is_null);
    Datum *elements;
    bool *nulls;

    *count = 0;
    if (is_null)
        return NULL;
    deconstruct_array(DatumGetArrayTypeP(value), type, type == BOOLOID ? 1 : 4, true,
                      type == BOOLOID ? TYPALIGN_CHAR : TYPALIGN_INT, &elements, &nulls, count);
    pfree(nulls);
    return elements;
}

/* An event with its targets, in the current context. */
static OutboxEvent *
make_event(HeapTuple row, TupleDesc columns, bool simple)
{
    OutboxEvent *event;
    Datum *endpoints = NULL;
    int count = 1;

    if (!simple)
        endpoints = column_elements(row, columns, COL_ENDPOINTS, INT4OID, &count);
    event = palloc0(offsetof(OutboxEvent, targets) + sizeof(OutboxTarget) * count);
    event->target_count = count;
    for (int i = 0; i < count; i++)
        event->targets[i] = (OutboxTarget){.event = event,
                                           .endpoint = simple ? 0 : DatumGetInt32(endpoints[i]),
                                           .state = OUTBOX_CLAIMED,
                                           .retry_after_s = -1};
    if (endpoints != NULL)
        pfree(endpoints);
    return event;
}

/* How far the event is at each of its endpoints. */
static void
read_targets(OutboxEvent *event, HeapTuple row, TupleDesc columns)
{
    bool is_null;
    int count;
    Datum *due = column_elements(row, columns, COL_DUE, BOOLOID, &count);
    Datum *attempts = column_elements(row, columns, COL_ATTEMPTS, INT4OID, &count);
    Datum *rows = column_elements(row, columns, COL_ROWS, BOOLOID, &count);

    event->has_failed = DatumGetBool(SPI_getbinval(row, columns, COL_HAS_FAILED, &is_null));
    for (int i = 0; i < count; i++) {
        event->targets[i].state = DatumGetBool(due[i]) ? OUTBOX_CLAIMED : OUTBOX_LAGGING;
        event->targets[i].attempts = DatumGetInt32(attempts[i]);
        event->targets[i].has_row = DatumGetBool(rows[i]);
    }
    if (count == 0)
        return;
    pfree(due);
    pfree(attempts);
    pfree(rows);
}

/* Copies a row into the current context. */
static OutboxEvent *
read_event(char *id, HeapTuple row, TupleDesc columns, const OutboxHand *hand)
{
    bool simple = hand->endpoints->is_simple;
    OutboxEvent *event = make_event(row, columns, simple);
    bool is_null;
    MessageFields *message = &event->message;
    char *payload = payload_text(row, columns, hand->scratch, &event->traceparent);

    event->id = id;
    event->aggregate_type = column_text(row, columns, COL_AGGREGATE_TYPE);
    event->aggregate_id = column_text(row, columns, COL_AGGREGATE_ID);
    event->type = column_text(row, columns, COL_TYPE);
    event->aggregate = outbox_hash_aggregate(event->aggregate_type, event->aggregate_id);
    event->created_at = DatumGetTimestamp(SPI_getbinval(row, columns, COL_CREATED_AT, &is_null));
    event->retry_count = DatumGetInt32(SPI_getbinval(row, columns, COL_RETRY_COUNT, &is_null));
    event->place = *(ItemPointer)DatumGetPointer(SPI_getbinval(row, columns, COL_PLACE, &is_null));
    event->has_rows = DatumGetBool(SPI_getbinval(row, columns, COL_HAS_ROWS, &is_null));
    if (simple) {
        event->targets[0].attempts = event->retry_count;
        event->targets[0].has_row = event->has_rows;
    } else
        read_targets(event, row, columns);

    message->id = to_utf8(event->id);
    message->type = to_utf8(event->type);
    message->aggregate_type = to_utf8(event->aggregate_type);
    message->aggregate_id = to_utf8(event->aggregate_id);
    message->payload = payload != NULL ? to_utf8(payload) : NULL;
    message->occurred_at = iso_time(event->created_at);
    if (message->id == NULL || message->type == NULL || message->aggregate_type == NULL ||
        message->aggregate_id == NULL || message->payload == NULL)
        event->problem =
            payload == NULL ? "the event's payload is too long" : "the event's text cannot be converted to UTF-8";
    event->bytes = (payload != NULL ? strlen(payload) : 0) + strlen(event->id) + strlen(event->aggregate_type) +
                   strlen(event->aggregate_id) + strlen(event->type);
    if (payload != NULL && message->payload != payload)
        pfree(payload);
    return event;
}

/* What a claim has found, in the order in which it is to go out. */
typedef struct Found {
    OutboxEvent **events;
    int count;
    size_t bytes;
    bool more;            /* it ended before there was nothing else */
    bool outdated;        /* an event is left to an endpoint of which the simple claim knows nothing */
    TransactionId writer; /* of the last one of these rows */
    XLogRecPtr flush_to;  /* what has to be on disk before they go out, lest a crash undoes them */
} Found;

/* Whether the row's entry in outbox_retry is another endpoint's. */
static bool
is_of_others(HeapTuple row, TupleDesc columns)
{
    char *endpoint = SPI_getvalue(row, columns, COL_ROW_ENDPOINT);
    bool others = endpoint != NULL && strcmp(endpoint, OUTBOX_DEFAULT_ENDPOINT) != 0;

    if (endpoint != NULL)
        pfree(endpoint);
    return others;
}

/* Notes up to where the WAL has to be on disk for the row to stay. */
static void
note_writer(Found *found, HeapTuple row, TupleDesc columns)
{
    bool is_null;
    TransactionId writer = DatumGetTransactionId(SPI_getbinval(row, columns, COL_WRITER, &is_null));

    if (writer == found->writer)
        return;
    found->writer = writer;
    found->flush_to = Max(found->flush_to, xact_unflushed_commit(writer));
}

/* What the rows of outbox_retry that are in memory say of an event: false: it is not to be had. */
static bool
may_go(const Waiting *waiting, const OutboxHand *hand, const char *id, HeapTuple row, TupleDesc columns,
       WaitingState *state)
{
    char *type;
    char *aggregate;
    bool is_null;
    bool is_held_up;

    *state = waiting_state(waiting, id);
    if (*state == WAITING_LATER)
        return false;
    if (!hand->ordered)
        return true;
    type = column_text(row, columns, COL_AGGREGATE_TYPE);
    aggregate = column_text(row, columns, COL_AGGREGATE_ID);
    is_held_up = waiting_is_before(waiting, type, aggregate,
                                   DatumGetTimestamp(SPI_getbinval(row, columns, COL_CREATED_AT, &is_null)),
                                   *state == WAITING_NOT ? NULL : id);
    pfree(type);
    pfree(aggregate);
    return !is_held_up;
}

/* Reads the cursor, up to limit + TIE_ROWS events; what is in hand is left out, and what `waiting` (unless it is NULL)
 * holds up. */
static void
read_events(Found *found, const OutboxHand *hand, Portal cursor, int limit, const Waiting *waiting)
{
    bool simple = hand->endpoints->is_simple;

    while (!found->more) {
        SPITupleTable *table;
        MemoryContext before;

        SPI_cursor_fetch(cursor, true, FETCH_ROWS);
        table = SPI_tuptable;
        if (SPI_processed == 0)
            break;
        before = MemoryContextSwitchTo(hand->context);
        for (uint64 i = 0; i < SPI_processed && !found->more; i++) {
            char *id = column_text(table->vals[i], table->tupdesc, COL_ID);
            WaitingState state = WAITING_NOT;
            OutboxEvent *event;

            if (hand_has(hand, id) ||
                (waiting != NULL && !may_go(waiting, hand, id, table->vals[i], table->tupdesc, &state))) {
                pfree(id);
                continue;
            }
            if (simple && (state == WAITING_FOR_OTHERS || is_of_others(table->vals[i], table->tupdesc))) {
                found->outdated = found->more = true;
                pfree(id);
                break;
            }
            event = read_event(id, table->vals[i], table->tupdesc, hand);
            if (state == WAITING_DUE)
                event->has_rows = event->targets[0].has_row = true;
            note_writer(found, table->vals[i], table->tupdesc);
            found->events[found->count++] = event;
            found->bytes += event->bytes;
            found->more = hand->bytes + found->bytes >= OUTBOX_HAND_BYTES || found->count >= limit + TIE_ROWS ||
                          (found->count > limit && event->created_at != found->events[limit - 1]->created_at);
        }
        MemoryContextSwitchTo(before);
        SPI_freetuptable(table);
        CHECK_FOR_INTERRUPTS();
    }
}

static bool
has_time_ordered_id(const OutboxEvent *event)
{
    return strlen(event->id) == 36 && event->id[14] == '7' && event->id[8] == '-' && event->id[23] == '-';
}

static int
compare_ids(const void *left, const void *right)
{
    return strcmp((*(OutboxEvent *const *)left)->id, (*(OutboxEvent *const *)right)->id);
}

/* Among events of one millisecond: those with time-ordered ids share the places that they have in the order of their
 * ids. */
static void
settle_ties(Found *found)
{
    OutboxEvent **events = found->events;
    OutboxEvent **sorted = palloc(sizeof(OutboxEvent *) * (found->count + 1));
    int *places = palloc(sizeof(int) * (found->count + 1));
    int end;

    for (int start = 0; start < found->count; start = end) {
        int ordered = 0;

        for (end = start; end < found->count && events[end]->created_at == events[start]->created_at; end++) {
            if (has_time_ordered_id(events[end])) {
                places[ordered] = end;
                sorted[ordered++] = events[end];
            }
        }
        qsort(sorted, ordered, sizeof(OutboxEvent *), compare_ids);
        for (int i = 0; i < ordered; i++)
            events[places[i]] = sorted[i];
    }
    pfree(sorted);
    pfree(places);
}

/* The pages of outbox_retry. It has no rows for whoever took a snapshot before it was found to have no pages. */
static BlockNumber
retry_pages(void)
{
    Oid table = get_relname_relid("outbox_retry", get_namespace_oid("apapacho_jobs", false));
    Relation relation = table_open(table, AccessShareLock);
    BlockNumber pages = RelationGetNumberOfBlocks(relation);

    table_close(relation, NoLock);
    return pages;
}

/* The statement of a claim: of all events or of those from some time on, of all slots or of some. */
static char *
claim_text(const OutboxHand *hand, bool retries, bool from_start, bool whole)
{
    char *table = user_table_name(TABLE_OUTBOX_EVENT);
    bool simple = hand->endpoints->is_simple;
    const char *order = "";

    if (simple && !retries)
        return psprintf(untried_sql, table, whole ? "" : share_sql);
    if (hand->ordered && from_start)
        order = psprintf(simple ? order_sql : several_order_sql, table);
    else if (hand->ordered)
        order = simple ? strict_order_sql : several_strict_order_sql;
    return psprintf(simple ? claim_sql : several_sql, table, whole ? "" : share_sql, order);
}

/* $6 to $8 of the statement for several endpoints. */
static void
endpoint_arguments(const OutboxHand *hand, Datum *values)
{
    const EndpointSet *set = hand->endpoints;
    Datum names[OUTBOX_MOST_ENDPOINTS];
    Datum rooms[OUTBOX_MOST_ENDPOINTS];
    Datum types[OUTBOX_MOST_ENDPOINTS];
    bool nulls[OUTBOX_MOST_ENDPOINTS];
    int lower = 1;

    for (int i = 0; i < set->count; i++) {
        names[i] = CStringGetTextDatum(set->all[i]->name);
        rooms[i] = BoolGetDatum(hand->queues[i].room > 0);
        nulls[i] = set->all[i]->types == NULL;
        types[i] = nulls[i] ? (Datum)0 : CStringGetTextDatum(set->all[i]->types);
    }
    values[0] = PointerGetDatum(construct_array(names, set->count, TEXTOID, -1, false, TYPALIGN_INT));
    values[1] = PointerGetDatum(construct_array(rooms, set->count, BOOLOID, 1, true, TYPALIGN_CHAR));
    values[2] = PointerGetDatum(
        construct_md_array(types, nulls, 1, (int *)&set->count, &lower, TEXTOID, -1, false, TYPALIGN_INT));
}

/* Reads what is to be had into `found`. */
static void
find_events(Found *found, OutboxHand *hand, int limit, Timestamp from)
{
    Oid types[] = {INT4OID, INT4OID, TIMESTAMPOID, INT4ARRAYOID, INT8OID, TEXTARRAYOID, BOOLARRAYOID, TEXTARRAYOID};
    Datum values[] = {Int32GetDatum(setting_outbox_max_retries),
                      Int32GetDatum(limit + TIE_ROWS + hand->count),
                      TimestampGetDatum(from),
                      (Datum)0,
                      Int64GetDatum(OUTBOX_SLOTS - 1),
                      (Datum)0,
                      (Datum)0,
                      (Datum)0};
    char nulls[lengthof(types) + 1] = "        ";
    bool whole = share_is_whole();
    bool from_start = from == DT_NOBEGIN;
    BlockNumber pages = retry_pages();
    Waiting *waiting = NULL;
    Portal cursor = NULL;
    RunAs saved;
    int level;

    run_as(&saved, user_table_check(TABLE_OUTBOX_EVENT));
    values[3] = share_slots();
    if (!hand->endpoints->is_simple)
        endpoint_arguments(hand, &values[5]);
    level = outbox_plan_by_index();
    while (cursor == NULL) {
        if (hand->endpoints->is_simple && from_start && pages > 0 && pages <= WAITING_MOST_PAGES) {
            waiting = waiting_read(user_table_name(TABLE_OUTBOX_EVENT));
            nulls[1] = 'n'; /* it is not the statement that tells which of them count */
        }
        cursor = SPI_cursor_open_with_args(NULL, claim_text(hand, pages > 0 && waiting == NULL, from_start, whole),
                                           hand->endpoints->is_simple ? 5 : lengthof(types), types, values, nulls, true,
                                           CURSOR_OPT_NO_SCROLL);
        if (pages == 0 && retry_pages() > 0) {
            SPI_cursor_close(cursor); /* the first ones, just now */
            cursor = NULL;
            pages = retry_pages();
        }
    }
    read_events(found, hand, cursor, limit, waiting);
    SPI_cursor_close(cursor);
    XLogFlush(found->flush_to);
    AtEOXact_GUC(true, level);
    run_as_end(&saved);
}

OutboxClaim
outbox_claim(OutboxHand *hand, int limit, Timestamp from)
{
    MemoryContext before = CurrentMemoryContext;
    Found found = {.events = MemoryContextAlloc(hand->context, sizeof(OutboxEvent *) * (limit + TIE_ROWS))};
    OutboxClaim claim = {0};

    Assert(hand->finished_count == 0);
    xact_begin("apapacho_jobs: claiming outbox events");
    find_events(&found, hand, limit, from);
    /* after it: whoever has added an endpoint before an event finds that event there too */
    claim.outdated = !endpoints_refresh(hand->endpoints, &claim.is_usable_again);
    xact_commit();

    MemoryContextSwitchTo(hand->context);
    claim.outdated = claim.outdated || found.outdated;
    settle_ties(&found);
    claim.more = found.more || found.count >= limit;
    claim.seen = !claim.more ? DT_NOEND : found.events[Min(found.count, limit) - 1]->created_at;
    for (int i = 0; i < hand->endpoints->count; i++) {
        if (!endpoint_is_usable(hand->endpoints->all[i]))
            hand->queues[i].room = 0;
    }
    for (int i = 0; i < found.count; i++) {
        if (i < limit && !claim.outdated)
            claim.count += hand_add(hand, found.events[i]);
        else
            outbox_event_free(found.events[i]);
    }
    pfree(found.events);
    MemoryContextSwitchTo(before);
    return claim;
}
