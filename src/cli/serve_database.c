/*
 * Connecting, connecting again, statements with a deadline. Runs in the workers.
 *
 * While the server is away one worker at a time tries, with growing pauses; the others answer at once that it is away.
 */
#include "serve_database.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "message.h"
#include "serve.h"

#define FIRST_PAUSE_MS 250
#define LONGEST_PAUSE_MS 30000
#define CANCEL_SECONDS 10 /* for the server to answer a cancel request */

void
database_init(Database *database, ConnInfo *info, int hurry_fd)
{
    /* What the caller has not set: a server that is gone without a word is noticed in a minute. */
    static const char *const defaults[][2] = {
        {"connect_timeout", "5"},  {"keepalives_idle", "30"},     {"keepalives_interval", "10"},
        {"keepalives_count", "3"}, {"tcp_user_timeout", "60000"},
    };

    *database = (Database){.info = *info, .hurry_fd = hurry_fd, .up = true};
    *info = (ConnInfo){0};
    pthread_mutex_init(&database->lock, NULL);
    for (size_t i = 0; i < sizeof defaults / sizeof *defaults; i++) {
        bool given = strcmp(defaults[i][0], "connect_timeout") == 0 && getenv("PGCONNECT_TIMEOUT") != NULL;

        for (int k = 0; k < database->info.count; k++)
            given = given || strcmp(database->info.keywords[k], defaults[i][0]) == 0;
        if (!given)
            conninfo_set(&database->info, defaults[i][0], defaults[i][1]);
    }
}

void
database_free(Database *database)
{
    conninfo_free(&database->info);
    pthread_mutex_destroy(&database->lock);
}

long
database_wait_ms(Database *database)
{
    long wait = -1;

    pthread_mutex_lock(&database->lock);
    if (!database->up) {
        int64_t left = database->next_ms - monotonic_ms();

        /* Whoever tries just now has its own deadline. */
        wait = database->trying ? 1000 : left > 0 ? (long)left : 0;
    }
    pthread_mutex_unlock(&database->lock);
    return wait;
}

int
database_retry_after(Database *database)
{
    long wait = database_wait_ms(database);

    return wait <= 1000 ? 1 : (int)((wait + 999) / 1000);
}

/* Whether this worker may try. */
static bool
begin_attempt(Database *database)
{
    bool may;

    pthread_mutex_lock(&database->lock);
    may = database->up || (!database->trying && monotonic_ms() >= database->next_ms);
    if (may && !database->up)
        database->trying = true;
    pthread_mutex_unlock(&database->lock);
    return may;
}

/* The server is away; the lock is held. */
static void
note_away(Database *database)
{
    if (!database->up)
        return;
    database->up = false;
    database->failures = 0;
    database->next_ms = database->down_ms = monotonic_ms();
    database->outage++;
}

/* Doubled with each failure, and shortened by up to a quarter at random: several programs do not come at once. */
static long
pause_after(int failures)
{
    long pause = failures < 8 ? FIRST_PAUSE_MS << (failures - 1) : LONGEST_PAUSE_MS;

    if (pause > LONGEST_PAUSE_MS)
        pause = LONGEST_PAUSE_MS;
    return pause - random() % (pause / 4);
}

static void
end_attempt(Link *link, bool opened, Failure *failure)
{
    Database *database = link->database;
    int64_t away_ms = -1;
    long pause = 0;

    pthread_mutex_lock(&database->lock);
    if (opened) {
        if (!database->up)
            away_ms = monotonic_ms() - database->down_ms;
        database->up = true;
    } else {
        note_away(database);
        pause = pause_after(++database->failures);
        database->next_ms = monotonic_ms() + pause;
    }
    database->trying = false;
    link->outage = database->outage;
    pthread_mutex_unlock(&database->lock);
    if (away_ms >= 0)
        message_warning("connected to PostgreSQL again after %.1f s", (double)away_ms / 1000);
    if (!opened) {
        message_warning("could not connect to PostgreSQL, trying again in %.1f s: %s", (double)pause / 1000,
                        text_of(&failure->message));
        failure_free(failure);
    }
}

/* Notices are the server's log's affair: of ours they would make a copy of what users' jobs say. */
static void
ignore_notice(void *context, const PGresult *notice)
{
    (void)context;
    (void)notice;
}

static bool
open_session(Link *link, Failure *failure)
{
    link->session = (Session){.borrowed = true, .in_utc = true};
    if (!session_open(&link->session, &link->database->info, failure))
        return false;
    PQsetNoticeReceiver(link->session.connection, ignore_notice, NULL);
    return true;
}

bool
link_open(Link *link)
{
    Failure failure;
    bool opened;

    if (link->session.connection != NULL)
        return true;
    if (!begin_attempt(link->database))
        return false;
    opened = open_session(link, &failure);
    end_attempt(link, opened, &failure);
    return opened;
}

void
link_close(Link *link)
{
    if (link->session.connection != NULL)
        session_close(&link->session);
}

/* The connection is dead. The first who notices says so, unless the server has come back since. */
static void
lose(Link *link, const char *reason)
{
    Database *database = link->database;
    bool first;

    atomic_fetch_add(&database->lost, 1);
    pthread_mutex_lock(&database->lock);
    first = database->up && link->outage == database->outage;
    if (first)
        note_away(database);
    pthread_mutex_unlock(&database->lock);
    if (first)
        message_warning("lost the connection to PostgreSQL: %s", reason);
    link_close(link);
}

bool
link_check(Link *link)
{
    PGconn *connection = link->session.connection;

    /* PQisBusy takes in what has come; nothing is asked for, so there is nothing to wait for. */
    if (PQconsumeInput(connection) == 1 && PQisBusy(connection) == 0 && PQstatus(connection) == CONNECTION_OK)
        return true;
    lose(link, PQerrorMessage(link->session.connection));
    return false;
}

/* ---- Statements ---- */

static void
cancel(PGconn *connection)
{
    PGcancel *request = PQgetCancel(connection);
    char error[256];

    if (request != NULL)
        PQcancel(request, error, sizeof error);
    PQfreeCancel(request);
}

/* What is waited for beside the server's answer: LINK_DONE while nothing of it has come. */
static LinkOutcome
why_cancel(const struct pollfd *events, int64_t deadline_ms)
{
    if ((events[1].revents & POLLIN) != 0)
        return LINK_STOPPED;
    if (events[2].revents != 0)
        return LINK_LEFT;
    return deadline_ms > 0 && monotonic_ms() >= deadline_ms ? LINK_TOO_LONG : LINK_DONE;
}

/* Waits until the answer is complete; LINK_LOST when it never will be. */
static LinkOutcome
await(Link *link, int deadline_seconds, int peer_handle)
{
    PGconn *connection = link->session.connection;
    int64_t deadline_ms = deadline_seconds > 0 ? monotonic_ms() + deadline_seconds * 1000 : 0;
    LinkOutcome outcome = LINK_DONE;

    while (session_is_busy(&link->session)) {
        struct pollfd events[] = {{.fd = PQsocket(connection), .events = POLLIN},
                                  {.fd = link->database->hurry_fd, .events = POLLIN},
                                  {.fd = peer_handle, .events = POLLRDHUP}};
        int64_t left = deadline_ms > 0 ? deadline_ms - monotonic_ms() : -1;

        if (poll(events, outcome == LINK_DONE ? 3 : 1,
                 deadline_ms == 0 ? -1
                 : left > 0       ? (int)left
                                  : 0) < 0 &&
            errno != EINTR)
            return LINK_LOST;
        if (events[0].revents != 0 && PQconsumeInput(connection) == 0)
            return LINK_LOST;
        if (outcome == LINK_DONE) {
            outcome = why_cancel(events, deadline_ms);
            if (outcome != LINK_DONE && session_is_busy(&link->session)) {
                cancel(connection);
                deadline_ms = monotonic_ms() + CANCEL_SECONDS * 1000;
            }
        } else if (monotonic_ms() >= deadline_ms) {
            return LINK_LOST;
        }
    }
    return outcome;
}

/* Nothing is begun for whoever has left while he was queued. */
static bool
has_left(int peer_handle)
{
    struct pollfd event = {.fd = peer_handle, .events = POLLRDHUP};

    return peer_handle >= 0 && poll(&event, 1, 0) > 0;
}

LinkOutcome
link_query(Link *link, const char *sql, int count, const char *const *values, int deadline_seconds, int peer_handle,
           PGresult **result, Failure *failure)
{
    LinkOutcome outcome = LINK_LOST;

    *result = NULL;
    *failure = (Failure){0};
    if (has_left(peer_handle))
        return LINK_LEFT;
    if (!link_open(link))
        return LINK_ABSENT;
    if (session_send(&link->session, sql, count, values, failure)) {
        outcome = await(link, deadline_seconds, peer_handle);
        /* A statement may have ended well before it could be cancelled. */
        if (outcome != LINK_LOST && session_take(&link->session, result, failure))
            return LINK_DONE;
    }
    if (outcome == LINK_LOST || failure->code == EXIT_NO_CONNECTION) {
        lose(link, failure->message.length > 0 ? text_of(&failure->message) : PQerrorMessage(link->session.connection));
        return outcome == LINK_DONE ? LINK_LOST : outcome;
    }
    return outcome == LINK_DONE ? LINK_FAILED : outcome;
}
