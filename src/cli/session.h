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
} Session;

/*
 * Connects, with search_path empty as PostgreSQL's own programs do, and finds the extension. application_name is
 * PROGRAM_NAME unless the environment or the URL has one.
 * False: *failure says why, and nothing is left open.
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

/* The two halves of session_query, for callers that do something else in between: wait until PQisBusy says no. */
bool session_send(Session *session, const char *sql, int count, const char *const *values, Failure *failure);
bool session_take(Session *session, PGresult **result, Failure *failure);

void failure_free(Failure *failure);

#endif
