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

static const char failed_sql[] =
    "UPDATE %s AS e SET \"retryCount\" = CASE WHEN done.final THEN GREATEST(e.\"retryCount\", $4)"
    " ELSE e.\"retryCount\" + 1 END, \"lastError\" = done.error"
    " FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3))"
    " AS done (id, final, error)"
    " WHERE e.id = done.id AND pg_catalog.num_nulls(e.\"publishedAt\") = 1";

static const char retry_sql[] =
    "INSERT INTO apapacho_jobs.outbox_retry AS r (event_id, aggregate_type, aggregate_id, attempts, next_attempt_at)"
    " SELECT * FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3),"
    " pg_catalog.unnest($4), pg_catalog.unnest($5)) AS f"
    " ON CONFLICT (event_id) DO UPDATE SET attempts = excluded.attempts, next_attempt_at = excluded.next_attempt_at";

static const char no_retry_sql[] = "DELETE FROM apapacho_jobs.outbox_retry WHERE event_id = ANY ($1)";

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

        if (event->state != OUTBOX_DELIVERED)
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

/* The same. */
static bool
record_failed(const char *table, const OutboxHand *hand)
{
    Column ids = column_create(hand->finished_count);
    Column finals = column_create(hand->finished_count);
    Column errors = column_create(hand->finished_count);
    Oid types[] = {TEXTARRAYOID, BOOLARRAYOID, TEXTARRAYOID, INT4OID};
    Datum values[4];

    for (int i = 0; i < hand->finished_count; i++) {
        OutboxEvent *event = hand->finished[i];

        if (event->state != OUTBOX_FAILED)
            continue;
        column_add(&ids, CStringGetTextDatum(event->id));
        column_add(&finals, BoolGetDatum(event->is_final));
        column_add(&errors, CStringGetTextDatum(event->error));
    }
    if (ids.count == 0)
        return true;
    values[0] = column_array(&ids, TEXTOID);
    values[1] = column_array(&finals, BOOLOID);
    values[2] = column_array(&errors, TEXTOID);
    values[3] = Int32GetDatum(setting_outbox_max_retries);
    return spi_run(psprintf(failed_sql, table), 4, types, values, NULL, false, 0) >= (uint64)ids.count;
}

/* Until the next attempt: by the schedule, but not before the receiver wants it. */
static int64
retry_delay_ms(const OutboxEvent *event, int attempts)
{
    int64 delay =
        delivery_retry_schedule_delay_ms(setting_retry_schedule, attempts, pg_prng_uint32(&pg_global_prng_state));

    return Max(delay, INT64CONST(1000) * Min(event->retry_after_s, setting_outbox_retry_after_max));
}

/* When the events that failed are due again. */
static void
record_retries(const OutboxHand *hand)
{
    TimestampTz now = GetCurrentStatementStartTimestamp();
    Oid types[] = {TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, INT4ARRAYOID, TIMESTAMPTZARRAYOID};
    Oid elements[] = {TEXTOID, TEXTOID, TEXTOID, INT4OID, TIMESTAMPTZOID};
    Column columns[lengthof(types)];
    Datum values[lengthof(types)];

    for (int i = 0; i < lengthof(types); i++)
        columns[i] = column_create(hand->finished_count);
    for (int i = 0; i < hand->finished_count; i++) {
        OutboxEvent *event = hand->finished[i];
        int attempts = event->retry_count + 1;

        if (event->state != OUTBOX_FAILED || event->is_final)
            continue;
        column_add(&columns[0], CStringGetTextDatum(event->id));
        column_add(&columns[1], CStringGetTextDatum(event->aggregate_type));
        column_add(&columns[2], CStringGetTextDatum(event->aggregate_id));
        column_add(&columns[3], Int32GetDatum(attempts));
        column_add(&columns[4], TimestampTzGetDatum(now + INT64CONST(1000) * retry_delay_ms(event, attempts)));
    }
    if (columns[0].count == 0)
        return;
    for (int i = 0; i < lengthof(types); i++)
        values[i] = column_array(&columns[i], elements[i]);
    (void)spi_run(retry_sql, lengthof(types), types, values, NULL, false, 0);
}

/* Events that waited for a retry and are done with, one way or the other. */
static void
forget_retries(const OutboxHand *hand)
{
    Column ids = column_create(hand->finished_count);
    Oid type = TEXTARRAYOID;
    Datum value;
    int level;

    for (int i = 0; i < hand->finished_count; i++) {
        OutboxEvent *event = hand->finished[i];

        if (event->has_retry_row && (event->state == OUTBOX_DELIVERED || event->is_final))
            column_add(&ids, CStringGetTextDatum(event->id));
    }
    if (ids.count == 0)
        return;
    value = column_array(&ids, TEXTOID);
    level = outbox_plan_by_index();
    (void)spi_run(no_retry_sql, 1, &type, &value, NULL, false, 0);
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
    event->retry_count = Max(event->retry_count, REFUSED_ATTEMPTS);
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
