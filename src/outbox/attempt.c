/*
 * attempt.c: keeps and writes the attempts to deliver events. In a publisher.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "outbox/attempt.h"
#include "server/counters.h"
#include "server/delivery_settings.h"
#include "server/xact.h"

#define COLUMNS 17

/* A time that is kept fills so many buckets. */
#define BUCKETS_KEPT 5
#define LONGEST_BUCKET_DAYS 3650 /* where everything is kept */

struct OutboxAttempt {
    TimestampTz at; /* when it ended */
    long http_status;
    DeliveryErrorClass error_class;
    bool reused_connection;
    DeliveryTimings timings;
    char *peer;
    char *response;
};

/* By DeliveryErrorClass */
static const char *const class_names[] = {NULL,       "resolve",     "connect",   "tls",   "timeout",
                                          "protocol", "http_status", "too_large", "other", "blocked"};

StaticAssertDecl(lengthof(class_names) == COUNTER_CLASSES, "classes are counted");

static const char insert_sql[] =
    "INSERT INTO apapacho_jobs.outbox_attempt (at, event_id, event_type, endpoint, attempt, delivered, http_status,"
    " error_class, error, lookup_ms, connect_ms, tls_ms, first_byte_ms, total_ms, peer, response, bucket)"
    " VALUES ($1, $2, $3, $16, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $17)";

void
attempt_note(OutboxHand *hand, OutboxTarget *target, const DeliveryResult *result)
{
    MemoryContext before;
    OutboxAttempt *attempt;

    if (setting_outbox_log_attempts == LOG_ATTEMPTS_NONE ||
        (result->delivered && setting_outbox_log_attempts == LOG_ATTEMPTS_FAILURES))
        return;
    before = MemoryContextSwitchTo(hand->context);
    attempt = target->attempt = palloc(sizeof(OutboxAttempt));
    *attempt = (OutboxAttempt){.at = GetCurrentTimestamp(),
                               .http_status = result->http_status,
                               .error_class = result->error_class,
                               .reused_connection = result->reused_connection,
                               .timings = result->timings,
                               .peer = pstrdup(result->peer),
                               .response = pstrdup(result->excerpt)};
    MemoryContextSwitchTo(before);
}

void
attempt_free(OutboxAttempt *attempt)
{
    if (attempt == NULL)
        return;
    pfree(attempt->peer);
    pfree(attempt->response);
    pfree(attempt);
}

const char *
attempt_class_name(int error_class)
{
    return class_names[error_class];
}

int
attempt_bucket_days(void)
{
    if (setting_outbox_attempts_days == 0)
        return LONGEST_BUCKET_DAYS;
    return (setting_outbox_attempts_days + BUCKETS_KEPT - 1) / BUCKETS_KEPT;
}

int
attempt_bucket(TimestampTz at)
{
    return (int)(Max(at, 0) / USECS_PER_DAY / attempt_bucket_days() % ATTEMPT_BUCKETS);
}

static Datum
text_or_null(const char *text, char *null)
{
    *null = text == NULL || text[0] == '\0' ? 'n' : ' ';
    return *null == 'n' ? (Datum)0 : CStringGetTextDatum(text);
}

/* Milliseconds; null where the phase did not happen. */
static Datum
milliseconds(int64 microseconds, char *null)
{
    *null = microseconds == 0 ? 'n' : ' ';
    return Float8GetDatum((double)microseconds / 1000);
}

static void
write_attempt(const OutboxHand *hand, const OutboxTarget *target)
{
    static SPIPlanPtr plan = NULL;
    static Oid types[COLUMNS] = {TIMESTAMPTZOID, TEXTOID, TEXTOID,   INT4OID,   BOOLOID,   INT4OID,
                                 TEXTOID,        TEXTOID, FLOAT8OID, FLOAT8OID, FLOAT8OID, FLOAT8OID,
                                 FLOAT8OID,      TEXTOID, TEXTOID,   TEXTOID,   INT2OID};
    const OutboxEvent *event = target->event;
    const OutboxAttempt *attempt = target->attempt;
    const DeliveryTimings *timings = &attempt->timings;
    Datum values[COLUMNS];
    char nulls[COLUMNS + 1];

    memset(nulls, ' ', sizeof(nulls) - 1);
    nulls[COLUMNS] = '\0';
    values[0] = TimestampTzGetDatum(attempt->at);
    values[1] = CStringGetTextDatum(event->id);
    values[2] = CStringGetTextDatum(event->type);
    values[3] = Int32GetDatum(target->attempts + 1);
    values[4] = BoolGetDatum(target->state == OUTBOX_DELIVERED);
    values[5] = Int32GetDatum((int32)attempt->http_status);
    nulls[5] = attempt->http_status == 0 ? 'n' : ' ';
    values[6] = text_or_null(class_names[attempt->error_class], &nulls[6]);
    values[7] = text_or_null(target->state == OUTBOX_FAILED ? target->error : NULL, &nulls[7]);
    values[8] = milliseconds(timings->lookup_us, &nulls[8]);
    values[9] = milliseconds(timings->connect_us, &nulls[9]);
    values[10] = milliseconds(timings->tls_us, &nulls[10]);
    values[11] = milliseconds(timings->first_byte_us, &nulls[11]);
    values[12] = milliseconds(timings->total_us, &nulls[12]);
    values[13] = text_or_null(attempt->peer, &nulls[13]);
    values[14] = text_or_null(attempt->response, &nulls[14]);
    values[15] = CStringGetTextDatum(hand->endpoints->all[target->endpoint]->name);
    values[16] = Int16GetDatum((int16)attempt_bucket(attempt->at));
    (void)spi_run_kept(&plan, insert_sql, COLUMNS, types, values, nulls);
}

void
attempt_record(const OutboxHand *hand)
{
    for (int i = 0; i < hand->finished_count; i++) {
        const OutboxEvent *event = hand->finished[i];

        for (int j = 0; j < event->target_count; j++) {
            if (event->targets[j].attempt != NULL)
                write_attempt(hand, &event->targets[j]);
        }
    }
}
