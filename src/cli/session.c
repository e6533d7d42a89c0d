/*
 * Connections and statements. Runs in whatever thread owns the Session; keeps nothing between calls but what is in it.
 */
#include "session.h"

#include <stdlib.h>
#include <string.h>

/* A trailing line break is no part of a message. */
static void
set_text(Text *text, const char *value)
{
    size_t length = value != NULL ? strlen(value) : 0;

    text_free(text);
    while (length > 0 && value[length - 1] == '\n')
        length--;
    text_add_bytes(text, value != NULL ? value : "", length);
}

void
failure_free(Failure *failure)
{
    text_free(&failure->message);
    text_free(&failure->detail);
    text_free(&failure->hint);
}

static void
fail_by_connection(Failure *failure, const PGconn *connection)
{
    const char *message = connection != NULL ? PQerrorMessage(connection) : "out of memory";

    *failure = (Failure){.code = EXIT_NO_CONNECTION, .needs_password = PQconnectionNeedsPassword(connection) == 1};
    set_text(&failure->message, *message != '\0' ? message : "the connection was lost");
}

static void
fail_by_result(Failure *failure, const PGconn *connection, const PGresult *result)
{
    const char *sqlstate = PQresultErrorField(result, PG_DIAG_SQLSTATE);
    const char *primary = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);

    *failure = (Failure){.code = PQstatus(connection) == CONNECTION_OK ? EXIT_FAILED : EXIT_NO_CONNECTION};
    if (sqlstate != NULL)
        strncpy(failure->sqlstate, sqlstate, sizeof failure->sqlstate - 1);
    set_text(&failure->message, primary != NULL ? primary : PQresultErrorMessage(result));
    set_text(&failure->detail, PQresultErrorField(result, PG_DIAG_MESSAGE_DETAIL));
    set_text(&failure->hint, PQresultErrorField(result, PG_DIAG_MESSAGE_HINT));
}

/* ---- Statements ---- */

static char *
with_schema(const Session *session, const char *sql)
{
    static const char placeholder[] = "@extschema@";
    const char *rest = sql;
    Text text = {0};

    for (const char *found; (found = strstr(rest, placeholder)) != NULL; rest = found + sizeof placeholder - 1) {
        text_add_bytes(&text, rest, (size_t)(found - rest));
        text_add(&text, session->schema);
    }
    text_add(&text, rest);
    return text.data;
}

/*
 * The settings and the statement in one transaction, without waiting in between (libpq's pipeline mode): they are gone
 * when it ends, and a pooler cannot put anything between them.
 */
static bool
send_with_settings(Session *session, const char *sql, int count, const char *const *values)
{
    static const char settings[] = "SELECT pg_catalog.set_config('search_path', '', true),"
                                   " pg_catalog.set_config('datestyle', 'ISO', true)";
    static const char settings_in_utc[] = "SELECT pg_catalog.set_config('search_path', '', true),"
                                          " pg_catalog.set_config('datestyle', 'ISO', true),"
                                          " pg_catalog.set_config('timezone', 'UTC', true)";
    PGconn *connection = session->connection;

    session->settling = true;
    return PQenterPipelineMode(connection) == 1 &&
           PQsendQueryParams(connection, session->in_utc ? settings_in_utc : settings, 0, NULL, NULL, NULL, NULL, 0) ==
               1 &&
           PQsendQueryParams(connection, sql, count, NULL, values, NULL, NULL, 0) == 1 &&
           PQpipelineSync(connection) == 1;
}

bool
session_send(Session *session, const char *sql, int count, const char *const *values, Failure *failure)
{
    char *text = with_schema(session, sql);
    bool sent = session->borrowed
                    ? send_with_settings(session, text, count, values)
                    : PQsendQueryParams(session->connection, text, count, NULL, values, NULL, NULL, 0) == 1;

    free(text);
    if (!sent)
        fail_by_connection(failure, session->connection);
    return sent;
}

/* Takes one more of the results of the statement's settings; NULL is their end. */
static void
take_settings(Session *session, PGresult *result)
{
    if (result == NULL)
        session->settling = false;
    else if (PQresultStatus(result) == PGRES_TUPLES_OK || session->refused != NULL)
        PQclear(result);
    else
        session->refused = result;
}

bool
session_is_busy(Session *session)
{
    while (PQisBusy(session->connection) == 0) {
        if (!session->settling)
            return false;
        take_settings(session, PQgetResult(session->connection));
    }
    return true;
}

/* Waits for all that is still to come, so that the connection is idle again; the first result of the statement, or of
 * its settings where these were an error. */
static PGresult *
take_results(Session *session)
{
    PGconn *connection = session->connection;
    bool pipeline = PQpipelineStatus(connection) != PQ_PIPELINE_OFF;
    PGresult *first = NULL;
    PGresult *next;

    /* On a broken connection the end of the pipeline never comes: its results do, and then NULL after NULL. */
    for (int ends = 0; ends < (pipeline ? 3 : 1);) {
        next = PQgetResult(connection);
        if (pipeline && PQresultStatus(next) == PGRES_PIPELINE_SYNC) {
            PQclear(next);
            break;
        }
        ends += next == NULL;
        /* A connection that is being ended gives the reason first, then that it is no more. */
        if (session->settling)
            take_settings(session, next);
        else if (first == NULL)
            first = next;
        else
            PQclear(next);
    }
    if (pipeline)
        PQexitPipelineMode(connection);
    if (session->refused != NULL) {
        PQclear(first);
        first = session->refused;
        session->refused = NULL;
    }
    session->settling = false;
    return first;
}

bool
session_take(Session *session, PGresult **result, Failure *failure)
{
    PGresult *first = take_results(session);
    ExecStatusType status = PQresultStatus(first);

    if (status == PGRES_TUPLES_OK || status == PGRES_COMMAND_OK) {
        *result = first;
        return true;
    }
    if (first != NULL)
        fail_by_result(failure, session->connection, first);
    else
        fail_by_connection(failure, session->connection);
    PQclear(first);
    *result = NULL;
    return false;
}

bool
session_query(Session *session, const char *sql, int count, const char *const *values, PGresult **result,
              Failure *failure)
{
    *result = NULL;
    return session_send(session, sql, count, values, failure) && session_take(session, result, failure);
}

/* ---- Connecting ---- */

/* Where the extension's functions are. */
static bool
find_extension(Session *session, Failure *failure)
{
    static const char sql[] = "SELECT pg_catalog.quote_ident(n.nspname) FROM pg_catalog.pg_extension AS e"
                              " JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) e.extnamespace"
                              " WHERE e.extname OPERATOR(pg_catalog.=) 'apapacho_jobs'";
    PGresult *result;

    if (!session_query(session, sql, 0, NULL, &result, failure))
        return false;
    if (PQntuples(result) == 1) {
        free(session->schema);
        session->schema = copy_string(PQgetvalue(result, 0, 0));
        PQclear(result);
        return true;
    }
    PQclear(result);
    *failure = (Failure){.code = EXIT_FAILED, .sqlstate = "42704"};
    text_format(&failure->message, "the extension apapacho_jobs is not installed in database \"%s\"",
                PQdb(session->connection));
    text_add(&failure->hint, "Connect to the database that has it, or execute CREATE EXTENSION apapacho_jobs there.");
    return false;
}

/* Of a session that is ours alone. */
static bool
set_session(Session *session, Failure *failure)
{
    PGresult *result;
    bool done = session_query(session,
                              "SELECT pg_catalog.set_config('search_path', '', false),"
                              " pg_catalog.set_config('datestyle', 'ISO', false)",
                              0, NULL, &result, failure);

    PQclear(result);
    return done;
}

bool
session_open(Session *session, const ConnInfo *info, Failure *failure)
{
    const char *keywords[CONNINFO_MAX + 3];
    const char *values[CONNINFO_MAX + 3];

    /* First, so that whatever follows outweighs it. */
    keywords[0] = "fallback_application_name";
    values[0] = PROGRAM_NAME;
    memcpy(keywords + 1, info->keywords, sizeof *keywords * (size_t)info->count);
    memcpy(values + 1, info->values, sizeof *values * (size_t)info->count);
    keywords[info->count + 1] = "client_encoding";
    values[info->count + 1] = "UTF8";
    keywords[info->count + 2] = NULL;
    values[info->count + 2] = NULL;
    session->schema = copy_string("public");
    session->connection = PQconnectdbParams(keywords, values, 0);
    if (PQstatus(session->connection) != CONNECTION_OK)
        fail_by_connection(failure, session->connection);
    else if ((session->borrowed || set_session(session, failure)) && find_extension(session, failure))
        return true;
    session_close(session);
    return false;
}

void
session_close(Session *session)
{
    if (session->connection != NULL)
        PQfinish(session->connection);
    PQclear(session->refused);
    free(session->schema);
    *session = (Session){0};
}
