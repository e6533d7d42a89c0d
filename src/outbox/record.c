/*
 * record.c: writes down what became of events that were sent.
 *
 * Runs in the worker of the job `outbox`, in a short transaction of its own. The user's table is written as its owner,
 * one UPDATE for all that were delivered and one for all that failed; the retries' table as ourselves. An event that
 * somebody else has published or deleted meanwhile is no error.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/pg_prng.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "lib/delivery/retry.h"
#include "outbox/attempt.h"
#include "outbox/hand.h"
#include "server/delivery_settings.h"
#include "server/settings.h"
#include "server/user_tables.h"
#include "server/xact.h"

/* How long the last record of a run that is being cancelled may wait for a lock: nothing may hold up a shutdown. */
#define LAST_LOCK_TIMEOUT "500ms"

/* For a record that runs into deadlocks with other sessions. */
#define CONFLICT_ATTEMPTS 3

/* An event whose outcome cannot be written waits as if it had failed so often (and once more). */
#define REFUSED_ATTEMPTS 2

/*
 * By the row's place, which is cheaper than by its id; the id, kept from the planner's sight, makes sure that it is not
 * another row by now. Kept from it too is what all pending rows have in common, or old statistics would have it walk
 * over all of them.
 */
static const char delivered_sql[] =
    "UPDATE %s AS e SET \"publishedAt\" = (pg_catalog.statement_timestamp() AT TIME ZONE 'UTC')::timestamp(3),"
    " \"lastError\" = NULL"
    " WHERE e.ctid = ANY ($1) AND e.id || '' = ANY ($2) AND pg_catalog.num_nulls(e.\"publishedAt\") = 1";

/* For the rows that have moved since. */
static const char delivered_by_id_sql[] =
    "UPDATE %s AS e SET \"publishedAt\" = (pg_catalog.statement_timestamp() AT TIME ZONE 'UTC')::timestamp(3),"
    " \"lastError\" = NULL WHERE e.id = ANY ($1) AND pg_catalog.num_nulls(e.\"publishedAt\") = 1";

/* What has failed for good counts as many attempts as make it so ($4). */
static const char failed_sql[] =
    "UPDATE %s AS e SET \"retryCount\" = CASE WHEN done.count IS NULL THEN GREATEST(e.\"retryCount\", $4)"
    " ELSE done.count END, \"lastError\" = COALESCE(done.error, e.\"lastError\")"
    " FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3))"
    " AS done (id, count, error)"
    " WHERE e.id = done.id AND pg_catalog.num_nulls(e.\"publishedAt\") = 1";

static const char retry_sql[] =
    "INSERT INTO apapacho_jobs.outbox_retry AS r (event_id, aggregate_type, aggregate_id, attempts, next_attempt_at,"
    " endpoint, failed_at)"
    " SELECT f.id, f.type, f.aggregate, f.attempts, f.next, f.endpoint,"
    " CASE WHEN f.next OPERATOR(pg_catalog.=) 'infinity' THEN pg_catalog.statement_timestamp() END"
    " FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3),"
    " pg_catalog.unnest($4), pg_catalog.unnest($5), pg_catalog.unnest($6))"
    " AS f (id, type, aggregate, attempts, next, endpoint)"
    " ON CONFLICT (event_id, endpoint) DO UPDATE SET attempts = excluded.attempts,"
    " next_attempt_at = excluded.next_attempt_at, failed_at = excluded.failed_at";

static const char no_retry_sql[] = "DELETE FROM apapacho_jobs.outbox_retry WHERE event_id = ANY ($1)";

/* The same for events that other endpoints are still to have. */
static const char no_endpoint_retry_sql[] =
    "DELETE FROM apapacho_jobs.outbox_retry AS r USING ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2))"
    " AS done (id, endpoint) WHERE r.event_id = done.id AND r.endpoint = done.endpoint";

/* A column of values for unnest(). */
typedef struct Column {
    Datum *values;
    int count;
} Column;

static Column
column_create(int size)
{
    return (Column){palloc(sizeof(Datum) * size), 0};
}

static void
column_add(Column *column, Datum value)
{
    column->values[column->count++] = value;
}

static Datum
column_array(const Column *column, Oid type)
{
    int16 length;
    bool by_value;
    char align;

    switch (type) {
    case TEXTOID:
        length = -1, by_value = false, align = TYPALIGN_INT;
        break;
    case TIDOID:
        length = sizeof(ItemPointerData), by_value = false, align = TYPALIGN_SHORT;
        break;
    case BOOLOID:
        length = 1, by_value = true, align = TYPALIGN_CHAR;
        break;
    case INT4OID:
        length = 4, by_value = true, align = TYPALIGN_INT;
        break;
    default: /* TIMESTAMPTZOID */
        length = 8, by_value = FLOAT8PASSBYVAL, align = TYPALIGN_DOUBLE;
        break;
    }
    return PointerGetDatum(construct_array(column->values, column->count, type, length, by_value, align));
}

static bool
is_published(const OutboxEvent *event)
{
    return !outbox_event_is_left(event) && !outbox_event_has_failed(event);
}

/* Whether a row is to say that the event has failed at the endpoint for good; where there is no other, the event says
 * so. */
static bool
is_row_for_failure(const OutboxHand *hand, const OutboxTarget *target)
{
    return !hand->endpoints->is_simple && target->state == OUTBOX_FAILED && target->is_final;
}

/* Returns whether every row was there to be marked. */
static bool
record_delivered(const char *table, const OutboxHand *hand)
{
    Column places = column_create(hand->finished_count);
    Column ids = column_create(hand->finished_count);
    Oid types[] = {TIDARRAYOID, TEXTARRAYOID};
    Datum values[2];
    uint64 marked;

    for (int i = 0; i < hand->finished_count; i++) {
        OutboxEvent *event = hand->finished[i];

        if (!is_published(event))
            continue;
        column_add(&places, PointerGetDatum(&event->place));
        column_add(&ids, CStringGetTextDatum(event->id));
    }
    if (ids.count == 0)
        return true;
    values[0] = column_array(&places, TIDOID);
    values[1] = column_array(&ids, TEXTOID);
    marked = spi_run(psprintf(delivered_sql, table), 2, types, values, NULL, false, 0);
    if (marked < (uint64)ids.count)
        marked += spi_run(psprintf(delivered_by_id_sql, table), 1, &types[1], &values[1], NULL, false, 0);
    return marked >= (uint64)ids.count;
}

/* What failed at an event's endpoints just now, the last of it; NULL: nothing. */
static const OutboxTarget *
failed_target(const OutboxEvent *event)
{
    const OutboxTarget *failed = NULL;

    for (int i = 0; i < event->target_count; i++) {
        if (event->targets[i].state == OUTBOX_FAILED)
            failed = &event->targets[i];
    }
    return failed;
}

/* The most attempts that have failed at an endpoint which is still to have the event. */
static int
most_attempts(const OutboxEvent *event)
{
    int most = 0;

    for (int i = 0; i < event->target_count; i++) {
        const OutboxTarget *target = &event->targets[i];

        if (target->state == OUTBOX_LAGGING || (target->state == OUTBOX_FAILED && !target->is_final))
            most = Max(most, target->attempts + (target->state == OUTBOX_FAILED));
    }
    return most;
}

/* The error as the event's row has it: with the endpoint's name where that is not the default one. */
static Datum
error_text(const OutboxHand *hand, const OutboxTarget *target)
{
    const char *name = hand->endpoints->all[target->endpoint]->name;

    if (strcmp(name, OUTBOX_DEFAULT_ENDPOINT) == 0)
        return CStringGetTextDatum(target->error);
    return CStringGetTextDatum(psprintf("%s: %s", outbox_printable(name), target->error));
}

/* Events of which an attempt has failed, or that have failed for good. Returns whether every row was there. */
static bool
record_failed(const char *table, const OutboxHand *hand)
{
    Column ids = column_create(hand->finished_count);
    Datum *counts = palloc(sizeof(Datum) * hand->finished_count);
    Datum *errors = palloc(sizeof(Datum) * hand->finished_count);
    bool *no_counts = palloc(sizeof(bool) * hand->finished_count);
    bool *no_errors = palloc(sizeof(bool) * hand->finished_count);
    Oid types[] = {TEXTARRAYOID, INT4ARRAYOID, TEXTARRAYOID, INT4OID};
    Datum values[4];
    int lower = 1;

    for (int i = 0; i < hand->finished_count; i++) {
        OutboxEvent *event = hand->finished[i];
        const OutboxTarget *failed = failed_target(event);

        if (is_published(event) || (failed == NULL && outbox_event_is_left(event)))
            continue;
        no_counts[ids.count] = !outbox_event_is_left(event);
        counts[ids.count] = Int32GetDatum(most_attempts(event));
        no_errors[ids.count] = failed == NULL;
        errors[ids.count] = failed == NULL ? (Datum)0 : error_text(hand, failed);
        column_add(&ids, CStringGetTextDatum(event->id));
    }
    if (ids.count == 0)
        return true;
    values[0] = column_array(&ids, TEXTOID);
    values[1] = PointerGetDatum(
        construct_md_array(counts, no_counts, 1, &ids.count, &lower, INT4OID, sizeof(int32), true, TYPALIGN_INT));
    values[2] =
        PointerGetDatum(construct_md_array(errors, no_errors, 1, &ids.count, &lower, TEXTOID, -1, false, TYPALIGN_INT));
    values[3] = Int32GetDatum(setting_outbox_max_retries);
    return spi_run(psprintf(failed_sql, table), 4, types, values, NULL, false, 0) >= (uint64)ids.count;
}

/* Until the next attempt: by the schedule, but not before the receiver wants it. */
static int64
retry_delay_ms(const OutboxTarget *target, int attempts)
{
    int64 delay =
        delivery_retry_schedule_delay_ms(setting_retry_schedule, attempts, pg_prng_uint32(&pg_global_prng_state));

    return Max(delay, INT64CONST(1000) * Min(target->retry_after_s, setting_outbox_retry_after_max));
}

/* When a target is due again; DT_NOBEGIN: as soon as it can be sent, DT_NOEND: never. */
static TimestampTz
next_attempt_at(const OutboxTarget *target, TimestampTz now)
{
    if (target->state == OUTBOX_LAGGING)
        return DT_NOBEGIN;
    if (target->is_final)
        return DT_NOEND;
    return now + INT64CONST(1000) * retry_delay_ms(target, target->attempts + 1);
}

/* Whether the target is to have a row that it has not got, or another one. */
static bool
is_row_to_be_written(const OutboxHand *hand, const OutboxTarget *target)
{
    if (target->state == OUTBOX_FAILED)
        return !target->is_final || is_row_for_failure(hand, target);
    return target->state == OUTBOX_LAGGING && !target->has_row;
}

/* When events are due again at the endpoints where they failed, or that were left out. */
static void
record_retries(const OutboxHand *hand)
{
    TimestampTz now = GetCurrentStatementStartTimestamp();
    Oid types[] = {TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, INT4ARRAYOID, TIMESTAMPTZARRAYOID, TEXTARRAYOID};
    Oid elements[] = {TEXTOID, TEXTOID, TEXTOID, INT4OID, TIMESTAMPTZOID, TEXTOID};
    Column columns[lengthof(types)];
    Datum values[lengthof(types)];
    int most = hand->finished_count * hand->endpoints->count;

    for (int i = 0; i < lengthof(types); i++)
        columns[i] = column_create(most);
    for (int i = 0; i < most; i++) {
        OutboxEvent *event = hand->finished[i / hand->endpoints->count];
        int number = i % hand->endpoints->count;
        const OutboxTarget *target = &event->targets[number];

        if (number >= event->target_count || !is_row_to_be_written(hand, target))
            continue;
        column_add(&columns[0], CStringGetTextDatum(event->id));
        column_add(&columns[1], CStringGetTextDatum(event->aggregate_type));
        column_add(&columns[2], CStringGetTextDatum(event->aggregate_id));
        column_add(&columns[3], Int32GetDatum(target->attempts + (target->state == OUTBOX_FAILED)));
        column_add(&columns[4], TimestampTzGetDatum(next_attempt_at(target, now)));
        column_add(&columns[5], CStringGetTextDatum(hand->endpoints->all[target->endpoint]->name));
    }
    if (columns[0].count == 0)
        return;
    for (int i = 0; i < lengthof(types); i++)
        values[i] = column_array(&columns[i], elements[i]);
    (void)spi_run(retry_sql, lengthof(types), types, values, NULL, false, 0);
}

/* Events that waited and are done with, at all of their endpoints or, in `endpoints`, at some. */
static void
list_done(const OutboxHand *hand, Column *events, Column *partly, Column *endpoints)
{
    for (int i = 0; i < hand->finished_count; i++) {
        OutboxEvent *event = hand->finished[i];

        if (!event->has_rows)
            continue;
        if (is_published(event) || (hand->endpoints->is_simple && !outbox_event_is_left(event))) {
            column_add(events, CStringGetTextDatum(event->id));
            continue;
        }
        for (int j = 0; j < event->target_count; j++) {
            const OutboxTarget *target = &event->targets[j];

            if (target->state != OUTBOX_DELIVERED || !target->has_row)
                continue;
            column_add(partly, CStringGetTextDatum(event->id));
            column_add(endpoints, CStringGetTextDatum(hand->endpoints->all[target->endpoint]->name));
        }
    }
}

static void
forget_retries(const OutboxHand *hand)
{
    int most = hand->finished_count * hand->endpoints->count;
    Column events = column_create(hand->finished_count);
    Column partly = column_create(most);
    Column endpoints = column_create(most);
    Oid types[] = {TEXTARRAYOID, TEXTARRAYOID};
    Datum values[2];
    int level;

    list_done(hand, &events, &partly, &endpoints);
    if (events.count == 0 && partly.count == 0)
        return;
    level = outbox_plan_by_index();
    if (events.count > 0) {
        values[0] = column_array(&events, TEXTOID);
        (void)spi_run(no_retry_sql, 1, types, values, NULL, false, 0);
    }
    if (partly.count > 0) {
        values[0] = column_array(&partly, TEXTOID);
        values[1] = column_array(&endpoints, TEXTOID);
        (void)spi_run(no_endpoint_retry_sql, 2, types, values, NULL, false, 0);
    }
    AtEOXact_GUC(true, level);
}

/* The transaction; the hand is as it was when it fails. */
static void
write_outcomes(OutboxHand *hand, const char *lock_timeout)
{
    const char *table;
    bool all_marked;
    RunAs saved;
    Oid owner;

    xact_begin("apapacho_jobs: recording published outbox events");
    if (lock_timeout != NULL)
        (void)set_config_option("lock_timeout", lock_timeout, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0,
                                false);
    owner = user_table_check(TABLE_OUTBOX_EVENT);
    table = user_table_name(TABLE_OUTBOX_EVENT);
    run_as(&saved, owner);
    all_marked = record_delivered(table, hand);
    all_marked = record_failed(table, hand) && all_marked;
    run_as_end(&saved);
    record_retries(hand);
    forget_retries(hand);
    attempt_record(hand);
    xact_commit();
    hand_drop_finished(hand, all_marked);
}

/* Puts an event whose outcome the table refuses off, so that it is not sent again at once and for ever. */
static void
put_off(OutboxHand *hand)
{
    OutboxEvent *event = hand->finished[0];

    hand_note_unrecorded(hand, event, "its outcome could not be recorded");
    for (int i = 0; i < event->target_count; i++)
        event->targets[i].attempts = Max(event->targets[i].attempts, REFUSED_ATTEMPTS);
    if (event->target_count == 0)
        hand->sent_again = true; /* there is nothing that could wait: the run is to stop */
    xact_begin("apapacho_jobs: putting an outbox event off");
    record_retries(hand);
    xact_commit();
    hand_drop_finished(hand, true); /* the retry keeps it from being sent again at once */
}

/* Writes the noted outcomes; the error, in the caller's memory, with its transaction undone; NULL when there was none.
 */
static ErrorData *
attempt_to_write(OutboxHand *hand)
{
    MemoryContext caller = CurrentMemoryContext;
    ErrorData *volatile error = NULL;

    PG_TRY();
    {
        write_outcomes(hand, NULL);
    }
    PG_CATCH();
    {
        MemoryContextSwitchTo(caller);
        error = CopyErrorData();
        FlushErrorState();
        xact_abort();
        MemoryContextSwitchTo(caller);
    }
    PG_END_TRY();
    return error;
}

/* Whether an error may be due to one event: what a trigger or a constraint of the user's makes of it. */
static bool
is_about_an_event(int sqlstate)
{
    int class = ERRCODE_TO_CATEGORY(sqlstate);

    return class == ERRCODE_TO_CATEGORY(ERRCODE_DATA_EXCEPTION) ||
           class == ERRCODE_TO_CATEGORY(ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION) ||
           class == ERRCODE_TO_CATEGORY(ERRCODE_TRIGGERED_ACTION_EXCEPTION) ||
           class == ERRCODE_TO_CATEGORY(ERRCODE_PLPGSQL_ERROR) ||
           class == ERRCODE_TO_CATEGORY(ERRCODE_PROGRAM_LIMIT_EXCEEDED);
}

void
outbox_record(OutboxHand *hand)
{
    OutboxEvent **finished = hand->finished;
    int count = hand->finished_count;
    ErrorData *error = NULL;

    if (count == 0)
        return;
    for (int attempt = 1; attempt <= CONFLICT_ATTEMPTS; attempt++) {
        error = attempt_to_write(hand);
        if (error == NULL)
            return;
        if (error->sqlerrcode == ERRCODE_QUERY_CANCELED) {
            write_outcomes(hand, LAST_LOCK_TIMEOUT);
            ReThrowError(error);
        }
        if (error->sqlerrcode != ERRCODE_T_R_DEADLOCK_DETECTED &&
            error->sqlerrcode != ERRCODE_T_R_SERIALIZATION_FAILURE)
            break;
        if (attempt < CONFLICT_ATTEMPTS)
            FreeErrorData(error);
    }
    if (!is_about_an_event(error->sqlerrcode))
        ReThrowError(error);
    if (count == 1) {
        ereport(WARNING, (errcode(error->sqlerrcode),
                          errmsg("the outcome of outbox event \"%s\" could not be recorded: %s",
                                 outbox_printable(finished[0]->id), error->message),
                          errhint("The event will be sent again.")));
        FreeErrorData(error);
        put_off(hand);
        return;
    }
    FreeErrorData(error);
    hand->finished_count = count / 2;
    outbox_record(hand);
    hand->finished = finished + count / 2;
    hand->finished_count = count - count / 2;
    outbox_record(hand);
    hand->finished = finished;
}

void
outbox_check_interrupts(OutboxHand *hand)
{
    if (QueryCancelPending && hand->finished_count > 0) {
        QueryCancelPending = false;
        write_outcomes(hand, LAST_LOCK_TIMEOUT);
        QueryCancelPending = true;
        InterruptPending = true;
    }
    CHECK_FOR_INTERRUPTS();
}
