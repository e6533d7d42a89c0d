/*
 * The connection of a command at work. Runs in the main thread; a signal handler cancels its statement.
 */
#include "client.h"

#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "message.h"

#define UNDEFINED_FUNCTION "42883"

/* Written in the main thread before the handler is set; the handler reads it only. */
static PGcancel *volatile cancel;
static volatile sig_atomic_t interrupted;

static void
handle_interrupt(int signal_number)
{
    char error[256];

    (void)signal_number;
    interrupted = 1;
    if (cancel != NULL)
        PQcancel(cancel, error, sizeof error);
}

/* The second signal ends the program at once, for the server may not answer any more. */
static void
cancel_on_signals(PGconn *connection)
{
    struct sigaction action = {.sa_handler = handle_interrupt, .sa_flags = (int)SA_RESETHAND | SA_NODEFER};
    PGcancel *before = cancel;

    cancel = NULL;
    PQfreeCancel(before);
    cancel = PQgetCancel(connection);
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

bool
client_interrupted(void)
{
    return interrupted != 0;
}

/* The signals are let in only while it waits, so that none comes between the look and the wait. */
void
client_pause(long seconds)
{
    struct timespec limit = {seconds, 0};
    sigset_t stops;
    sigset_t before;

    sigemptyset(&stops);
    sigaddset(&stops, SIGINT);
    sigaddset(&stops, SIGTERM);
    sigprocmask(SIG_BLOCK, &stops, &before);
    if (!interrupted)
        ppoll(NULL, 0, &limit, &before);
    sigprocmask(SIG_SETMASK, &before, NULL);
}

ExitCode
client_fail(Failure *failure)
{
    ExitCode code = interrupted && failure->code == EXIT_FAILED ? EXIT_INTERRUPTED : failure->code;

    message_error("%s", text_of(&failure->message));
    if (failure->detail.length > 0)
        message_detail("%s", text_of(&failure->detail));
    if (strcmp(failure->sqlstate, UNDEFINED_FUNCTION) == 0)
        message_hint(
            "The extension in this database is older than this program: ALTER EXTENSION apapacho_jobs UPDATE.");
    else if (failure->hint.length > 0)
        message_hint("%s", text_of(&failure->hint));
    failure_free(failure);
    return code;
}

/* Asks on the terminal; false: there is none, or nothing was typed. */
static bool
ask_password(Text *password)
{
    FILE *terminal = fopen("/dev/tty", "r+");
    struct termios before;
    struct termios silent;
    char line[1024] = "";

    if (terminal == NULL)
        return false;
    if (tcgetattr(fileno(terminal), &before) != 0) {
        fclose(terminal);
        return false;
    }
    silent = before;
    silent.c_lflag &= ~(tcflag_t)ECHO;
    /* First, so that nothing typed after the prompt is thrown away or shown. */
    tcsetattr(fileno(terminal), TCSAFLUSH, &silent);
    fputs("Password: ", terminal);
    fflush(terminal);
    if (fgets(line, sizeof line, terminal) != NULL)
        text_add_bytes(password, line, strcspn(line, "\n"));
    tcsetattr(fileno(terminal), TCSAFLUSH, &before);
    fputc('\n', terminal);
    fclose(terminal);
    explicit_bzero(line, sizeof line);
    return password->length > 0;
}

/* Prisma's ?schema= is where the backend has its tables; the server has a setting for that. */
static void
check_schema(Session *session, const char *schema)
{
    const char *values[] = {schema};
    Failure failure;
    PGresult *result;

    if (!session_query(session,
                       "SELECT pg_catalog.current_setting('apapacho_jobs.schema', true),"
                       " pg_catalog.current_setting('apapacho_jobs.schema', true) IS DISTINCT FROM $1",
                       1, values, &result, &failure)) {
        failure_free(&failure);
        return;
    }
    if (strcmp(PQgetvalue(result, 0, 1), "t") == 0 && !PQgetisnull(result, 0, 0)) {
        message_warning("the URL names schema \"%s\", but the server works on the tables in schema \"%s\"", schema,
                        PQgetvalue(result, 0, 0));
        message_hint("That is the setting apapacho_jobs.schema of the database.");
    }
    PQclear(result);
}

/* Users' triggers can warn too; what is less than a warning is not told. */
static void
tell_notice(void *context, const PGresult *notice)
{
    const char *severity = PQresultErrorField(notice, PG_DIAG_SEVERITY_NONLOCALIZED);
    const char *message = PQresultErrorField(notice, PG_DIAG_MESSAGE_PRIMARY);

    (void)context;
    if (severity != NULL && strcmp(severity, "WARNING") == 0 && message != NULL)
        message_warning("%s", message);
}

/* For --json times are in UTC, wherever the program runs. */
static bool
open_session(Session *session, const ConnInfo *info, bool in_utc, Failure *failure)
{
    *session = (Session){.borrowed = true, .in_utc = in_utc};
    if (!session_open(session, info, failure))
        return false;
    PQsetNoticeReceiver(session->connection, tell_notice, NULL);
    return true;
}

ExitCode
client_open(Session *session, const CommandLine *line)
{
    ConnOptions options = {
        .dbname = option_text(line, "dbname"),
        .host = option_text(line, "host"),
        .port = option_text(line, "port"),
        .username = option_text(line, "username"),
        .never_prompts = option_flag(line, "no-password"),
    };
    Text reason = {0};
    Text password = {0};
    bool in_utc = option_flag(line, "json");
    Failure failure;
    ConnInfo info;
    bool opened;

    *session = (Session){0};
    if (!conninfo_read(&options, &info, &reason)) {
        message_error("%s", text_of(&reason));
        text_free(&reason);
        conninfo_free(&info);
        return EXIT_USAGE;
    }
    opened = open_session(session, &info, in_utc, &failure);
    if (!opened && failure.needs_password && !info.never_prompts && ask_password(&password)) {
        failure_free(&failure);
        conninfo_set(&info, "password", text_of(&password));
        explicit_bzero(password.data, password.length);
        opened = open_session(session, &info, in_utc, &failure);
    }
    text_free(&password);
    if (opened && info.schema != NULL)
        check_schema(session, info.schema);
    conninfo_free(&info);
    if (!opened)
        return client_fail(&failure);
    cancel_on_signals(session->connection);
    return EXIT_DONE;
}

bool
client_open_second(Session *session, const Session *first)
{
    PQconninfoOption *known = PQconninfo(first->connection);
    ConnInfo info = {0};
    Failure failure;
    bool opened;

    for (PQconninfoOption *option = known; option != NULL && option->keyword != NULL; option++) {
        if (option->val != NULL && *option->val != '\0')
            conninfo_set(&info, option->keyword, option->val);
    }
    PQconninfoFree(known);
    opened = open_session(session, &info, first->in_utc, &failure);
    if (!opened)
        failure_free(&failure);
    conninfo_free(&info);
    return opened;
}

ExitCode
client_query(Session *session, const char *sql, int count, const char *const *values, PGresult **result)
{
    Failure failure;

    *result = NULL;
    if (interrupted)
        return EXIT_INTERRUPTED;
    return session_query(session, sql, count, values, result, &failure) ? EXIT_DONE : client_fail(&failure);
}
