/*
 * A connection to a database that has the extension, and statements on it.
 *
 * A Session belongs to whoever opened it and to one thread at a time; several threads may each have their own. Nothing
 * here prints or ends the program: what went wrong is in a Failure.
 */
#ifndef APAPACHO_CLI_SESSION_H
#define APAPACHO_CLI_SESSION_H

#include <stdbool.h>

#include <libpq-fe.h>

#include "cli.h"
#include "conninfo.h"
#include "text.h"

/* What went wrong; to be freed by failure_free. */
typedef struct Failure {
    ExitCode code;       /* EXIT_FAILED: the server's error; EXIT_NO_CONNECTION; EXIT_USAGE: a wrong DATABASE_URL */
    char sqlstate[6];    /* "" where the server gave none */
    bool needs_password; /* the server wanted a password and there was none */
    Text message;
    Text detail;
    Text hint;
} Failure;

typedef struct Session {
    PGconn *connection;
    char *schema; /* of the extension's functions, as a quoted identifier */
    /*
     * Whoever opens it sets this before: what we connect to may be a pooler (PgBouncer), which hands the server's
     * session to somebody else after each transaction, so nothing is set in it: each statement brings its settings.
     * Otherwise they are the session's.
     */
    bool borrowed;
    bool in_utc; /* of a borrowed one: times are in UTC */
    /* Of the statement at work: */
    bool settling;     /* the answer to its settings has not been taken */
    PGresult *refused; /* which was an error */
} Session;

/*
 * Connects and finds the extension. search_path is empty for all statements, as in PostgreSQL's own programs.
 * application_name is PROGRAM_NAME unless the environment or the URL has one.
 * False: *failure says why, and nothing is left open; *session is as after session_close.
 */
bool session_open(Session *session, const ConnInfo *info, Failure *failure);
void session_close(Session *session);

/*
 * Executes a statement with text parameters (NULL: null) and fetches its rows as text; "@extschema@." in it stands for
 * the extension's schema. *result is to be freed by PQclear. False: *failure says why; with EXIT_NO_CONNECTION the
 * connection is lost.
 */
bool session_query(Session *session, const char *sql, int count, const char *const *values, PGresult **result,
                   Failure *failure);

/* The two halves of session_query, for callers that do something else in between: while session_is_busy, wait until the
 * socket can be read, and PQconsumeInput. */
bool session_send(Session *session, const char *sql, int count, const char *const *values, Failure *failure);
bool session_is_busy(Session *session);
bool session_take(Session *session, PGresult **result, Failure *failure);

void failure_free(Failure *failure);

#endif
