/*
 * Progress of a run, for people who wait for it. Runs in the main thread; its second connection reads only, and a
 * failure of that one is nobody's concern.
 */
#include "progress.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "message.h"
#include "printable.h"

/* Before this nothing is shown: most runs are over by then. */
#define QUIET_MS 1000
#define INTERVAL_MS 500

typedef struct Watch {
    const char *job;
    const Session *main;
    Session session; /* connection NULL: not open */
    bool tried;
    long started;
    bool shown;
} Watch;

static long
now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* What the server knows of the run: "1200 creators"; "" while it knows nothing. */
static void
add_progress(Watch *watch, Text *text)
{
    const char *values[] = {watch->job};
    Failure failure;
    PGresult *result;

    if (watch->session.connection == NULL)
        return;
    if (!session_query(&watch->session,
                       "SELECT CASE WHEN NOT executing THEN 'waits for its turn' ELSE concat_ws(' ', progress->>'done',"
                       " 'of ' || (progress->>'total'), progress->>'message') END"
                       " FROM @extschema@.apapacho_job_status() WHERE $1 IN (name, long_name)",
                       1, values, &result, &failure)) {
        failure_free(&failure);
        session_close(&watch->session);
        return;
    }
    if (PQntuples(result) == 1 && *PQgetvalue(result, 0, 0) != '\0') {
        text_add(text, ": ");
        text_add_printable(text, PQgetvalue(result, 0, 0));
    }
    PQclear(result);
}

static void
show(Watch *watch)
{
    long elapsed = now_ms() - watch->started;
    Text text = {0};

    if (elapsed < QUIET_MS)
        return;
    if (!watch->tried)
        client_open_second(&watch->session, watch->main);
    watch->tried = true;
    add_progress(watch, &text);
    fprintf(stderr, "\r\033[K%s%s%s, %ld s%s", colour(stderr, COLOUR_DIM), watch->job, text_of(&text), elapsed / 1000,
            colour(stderr, COLOUR_PLAIN));
    fflush(stderr);
    watch->shown = true;
    text_free(&text);
}

/* Waits for the connection's answer for so long at most; false: the connection is broken. */
static bool
wait_for_answer(PGconn *connection, int milliseconds)
{
    struct pollfd socket = {.fd = PQsocket(connection), .events = POLLIN};

    if (poll(&socket, 1, milliseconds) < 0 && errno != EINTR)
        return false;
    return socket.revents == 0 || PQconsumeInput(connection) == 1;
}

ExitCode
progress_query(Session *session, const char *job, const char *sql, int count, const char *const *values,
               PGresult **result)
{
    Watch watch = {.job = job, .main = session, .started = now_ms()};
    bool on_terminal = isatty(STDERR_FILENO) && *colour(stderr, COLOUR_PLAIN) != '\0';
    Failure failure;
    bool done;

    if (!on_terminal)
        return client_query(session, sql, count, values, result);
    if (!session_send(session, sql, count, values, &failure))
        return client_fail(&failure);
    while (session_is_busy(session)) {
        if (!wait_for_answer(session->connection, INTERVAL_MS))
            break;
        if (session_is_busy(session))
            show(&watch);
    }
    done = session_take(session, result, &failure);
    if (watch.shown)
        fputs("\r\033[K", stderr);
    session_close(&watch.session);
    return done ? EXIT_DONE : client_fail(&failure);
}
