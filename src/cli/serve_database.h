/*
 * PostgreSQL as the workers of `serve` have it: a connection for each, and together one opinion on whether the server
 * is there.
 *
 * A Database is shared by the workers; a Link belongs to one of them.
 */
#ifndef APAPACHO_CLI_SERVE_DATABASE_H
#define APAPACHO_CLI_SERVE_DATABASE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "conninfo.h"
#include "session.h"

typedef struct Database {
    ConnInfo info;
    int hurry_fd; /* readable once statements are to be cancelled and nothing is to be waited for */
    pthread_mutex_t lock;
    /* Guarded by the lock. */
    bool up;         /* the last that we know */
    bool trying;     /* a worker is connecting, to see whether it is there again */
    int failures;    /* attempts that have failed since it was up */
    int64_t next_ms; /* when the next one may be made */
    int64_t down_ms; /* since when it has not been there */
    unsigned outage; /* number of outages so far: links of an earlier one are dead */
    /* For the metrics. */
    atomic_ulong lost;
} Database;

typedef struct Link {
    Database *database;
    Session session; /* connection NULL: none */
    unsigned outage; /* in which it was opened */
} Link;

/* How a statement has ended. */
typedef enum LinkOutcome {
    LINK_DONE,
    LINK_FAILED,   /* the server said no: see the Failure */
    LINK_ABSENT,   /* there is no connection: nothing was done */
    LINK_LOST,     /* the connection broke off: nobody knows what was done */
    LINK_TOO_LONG, /* cancelled at its deadline */
    LINK_STOPPED,  /* cancelled since we are to end */
    LINK_LEFT,     /* cancelled since whoever had asked is gone */
} LinkOutcome;

/* Takes over info. */
void database_init(Database *database, ConnInfo *info, int hurry_fd);
void database_free(Database *database);

/* Milliseconds until an attempt to connect may be made: 0 now, -1 there is no need. */
long database_wait_ms(Database *database);
/* For Retry-After. */
int database_retry_after(Database *database);

/* Connects unless it is connected, or it is known to be of no use yet; says what has changed on stderr. */
bool link_open(Link *link);
void link_close(Link *link);

/* What has come on an idle connection: false, and said so, when it is lost. */
bool link_check(Link *link);

/*
 * Executes a statement, as session_query; deadline_seconds 0: none; peer_handle is the socket of whoever has asked, -1
 * for nobody: when he is gone the statement is cancelled. *result is to be freed by PQclear; *failure by failure_free
 * unless LINK_DONE.
 */
LinkOutcome link_query(Link *link, const char *sql, int count, const char *const *values, int deadline_seconds,
                       int peer_handle, PGresult **result, Failure *failure);

#endif
