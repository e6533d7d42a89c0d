/*
 * The connection of `outbox start`: a session that is a publisher, and its calls, one at a time.
 */
#include "start.h"

#include <stdlib.h>
#include <string.h>

#include "message.h"

#define BYTEA_OID 17

static const char step_sql[] = "CALL apapacho_jobs.publisher_step($1, NULL)";

static const char open_sql[] = "CALL apapacho_jobs.publisher_open($1::integer, $2::text, $3::boolean, $4::boolean, "
                               "$5::integer, $6::integer, NULL)";

/*
 * A call takes as long as it takes. The server lets go of the slots of a machine that has vanished within some ten
 * seconds, which is some seconds after this side has given up (channel_set_defaults), and of those of a program that
 * stands still after half a minute.
 */
static const char settings_sql[] =
    "SELECT pg_catalog.set_config(s.name, v.value, false) FROM (VALUES ('statement_timeout', '0'), ('lock_timeout', "
    "'0'),"
    " ('transaction_timeout', '0'), ('idle_session_timeout', '30000'), ('tcp_keepalives_idle', '3'),"
    " ('tcp_keepalives_interval', '2'), ('tcp_keepalives_count', '3'), ('tcp_user_timeout', '10000')) AS v (name, "
    "value)"
    " JOIN pg_catalog.pg_settings AS s ON s.name OPERATOR(pg_catalog.=) v.name";

void
channel_set_defaults(ConnInfo *info)
{
    static const char *const defaults[][2] = {
        {"connect_timeout", "5"},  {"keepalives_idle", "2"},     {"keepalives_interval", "2"},
        {"keepalives_count", "2"}, {"tcp_user_timeout", "6000"},
    };

    for (size_t i = 0; i < sizeof defaults / sizeof *defaults; i++) {
        bool given = strcmp(defaults[i][0], "connect_timeout") == 0 && getenv("PGCONNECT_TIMEOUT") != NULL;

        for (int k = 0; k < info->count; k++)
            given = given || strcmp(info->keywords[k], defaults[i][0]) == 0;
        if (!given)
            conninfo_set(info, defaults[i][0], defaults[i][1]);
    }
}

/* What the server's publisher warns of: receivers that are not there, outcomes that cannot be recorded. */
static void
tell_notice(void *context, const PGresult *notice)
{
    const char *severity = PQresultErrorField(notice, PG_DIAG_SEVERITY_NONLOCALIZED);
    const char *message = PQresultErrorField(notice, PG_DIAG_MESSAGE_PRIMARY);
    const char *hint = PQresultErrorField(notice, PG_DIAG_MESSAGE_HINT);

    (void)context;
    if (severity == NULL || strcmp(severity, "WARNING") != 0 || message == NULL)
        return;
    message_warning("%s", message);
    if (hint != NULL)
        message_hint("%s", hint);
}

static void
fail(Failure *failure, const char *message)
{
    *failure = (Failure){.code = EXIT_FAILED};
    text_add(&failure->message, message);
}

static void
fail_by_connection(Failure *failure, const PGconn *connection)
{
    const char *message = PQerrorMessage(connection);

    fail(failure, *message != '\0' ? message : "the connection was lost");
    failure->code = EXIT_NO_CONNECTION;
}

bool
channel_reopen(Channel *channel, const Overrides *overrides, PGresult **result, Failure *failure)
{
    char version[16];
    const char *values[] = {version,
                            overrides->publisher_type,
                            overrides->url != NULL ? "true" : "false",
                            overrides->has_secret ? "true" : "false",
                            overrides->batch_size,
                            overrides->max_retries};
    bool sent;

    snprintf(version, sizeof version, "%d", EXCHANGE_VERSION);
    /* the answer is binary, or it would be twice as long */
    sent = PQsendQueryParams(channel->session.connection, open_sql, 6, NULL, values, NULL, NULL, 1) == 1;
    if (!session_take(&channel->session, result, failure))
        return false;
    if (sent && PQntuples(*result) == 1 && PQfformat(*result, 0) == 1)
        return true;
    PQclear(*result);
    *result = NULL;
    fail(failure, "the server's answer cannot be read");
    return false;
}

/* What the session needs before it becomes a publisher. */
static bool
prepare(Channel *channel, Failure *failure)
{
    static const Oid types[] = {BYTEA_OID};
    PGresult *result;

    if (!session_query(&channel->session, settings_sql, 0, NULL, &result, failure))
        return false;
    PQclear(result);
    (void)PQsendPrepare(channel->session.connection, "step", step_sql, 1, types);
    if (!session_take(&channel->session, &result, failure))
        return false;
    PQclear(result);
    return true;
}

bool
channel_open(Channel *channel, const Overrides *overrides, PGresult **result, Failure *failure)
{
    channel->pending = false;
    if (!session_open(&channel->session, channel->info, failure))
        return false;
    PQsetNoticeReceiver(channel->session.connection, tell_notice, NULL);
    if (prepare(channel, failure) && channel_reopen(channel, overrides, result, failure) &&
        PQsetnonblocking(channel->session.connection, 1) == 0)
        return true;
    session_close(&channel->session);
    return false;
}

bool
channel_send(Channel *channel, const ExchangeWriter *call, long wait_ms, Failure *failure)
{
    PGconn *connection = channel->session.connection;
    const char *values[] = {call->data};
    const int lengths[] = {(int)call->length};
    const int formats[] = {1};

    if (PQsendQueryPrepared(connection, "step", 1, values, lengths, formats, 1) != 1) {
        fail_by_connection(failure, connection);
        return false;
    }
    channel->pending = true;
    channel->wait_ms = wait_ms;
    return true;
}

/* Takes the answer apart. */
static bool
read_answer(StepAnswer *answer, Failure *failure)
{
    ExchangeReader *reader = &answer->requests;
    PGresult *result = answer->result;

    if (PQntuples(result) == 1 && PQnfields(result) == 1 && PQfformat(result, 0) == 1) {
        *reader = (ExchangeReader){.at = PQgetvalue(result, 0, 0), .left = (size_t)PQgetlength(result, 0, 0)};
        answer->flags = exchange_get_number(reader, 0, EXCHANGE_REOPEN | EXCHANGE_MORE);
        answer->at_rest = exchange_get_number(reader, 0, 1) == 1;
        answer->delivered = exchange_get_number(reader, 0, INT64_MAX);
        answer->failed = exchange_get_number(reader, 0, INT64_MAX);
        answer->count = exchange_get_number(reader, 0, INT32_MAX);
        if (!reader->failed)
            return true;
    }
    PQclear(result);
    answer->result = NULL;
    fail(failure, "the server's answer cannot be read");
    return false;
}

bool
channel_take(Channel *channel, StepAnswer *answer, Failure *failure)
{
    PGconn *connection = channel->session.connection;

    int unsent;

    *answer = (StepAnswer){0};
    unsent = PQconsumeInput(connection) == 1 ? PQflush(connection) : -1;
    channel->is_full = unsent > 0;
    if (unsent < 0) {
        /* the server may have said why before it went */
        if (!channel->pending || session_take(&channel->session, &answer->result, failure))
            fail_by_connection(failure, connection);
        PQclear(answer->result);
        answer->result = NULL;
        return false;
    }
    if (!channel->pending || PQisBusy(connection))
        return true;
    channel->pending = false;
    return session_take(&channel->session, &answer->result, failure) && read_answer(answer, failure);
}

void
channel_close(Channel *channel)
{
    session_close(&channel->session);
    channel->pending = false;
}
