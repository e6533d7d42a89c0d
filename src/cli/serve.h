/*
 * Internal to the command `serve`, the HTTP routes: what its files share.
 *
 * Processes and threads. One process: the main thread waits for signals and closes connections that are too slow; one
 * thread of libmicrohttpd's has all connections; a few workers (serve_pool.c) each have a connection to PostgreSQL and
 * do what takes time, while the HTTP connection is suspended. A Request belongs to libmicrohttpd's thread, and to a
 * worker from pool_push until it is handed back; who has it, and nobody else, writes it.
 */
#ifndef APAPACHO_CLI_SERVE_H
#define APAPACHO_CLI_SERVE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <microhttpd.h>

#include "serve_database.h"
#include "serve_key.h"
#include "serve_parameters.h"
#include "serve_peers.h"
#include "serve_route.h"
#include "serve_uri.h"
#include "text.h"

#define SERVE_MAX_BODY_BYTES (16 * 1024) /* of a request */
#define SERVE_MAX_WORKERS 64

/* The statuses that we answer with, for the counts. */
#define SERVE_STATUSES                                                                                                 \
    {                                                                                                                  \
        200, 202, 400, 401, 404, 405, 409, 413, 415, 500, 502, 503, 504                                                \
    }
#define SERVE_STATUS_COUNT 13

typedef struct Serve Serve;

/* What is to be sent; body is empty until it is known. */
typedef struct Answer {
    unsigned int status;
    const char *type; /* Content-Type; NULL: JSON */
    Text body;
    int retry_after;   /* seconds; 0: no such header */
    const char *allow; /* of a 405 */
    bool close;        /* the connection, for what follows on it may be no request */
} Answer;

typedef struct Request {
    struct MHD_Connection *connection;
    Peer *peer;
    Uri uri;
    bool uri_valid;
    bool begun;       /* its head is complete, and counted in Serve.active */
    bool handed_over; /* to the pool: when we see it again there is an answer */
    bool wrong_type;  /* it says that its body is something else than JSON */
    bool too_large;
    size_t thrown_away; /* bytes of a body that is too large */
    char method[16];    /* for the log: a known one, or "-" */
    char *path;         /* for the log, without the query; malloc'ed */
    Route route;        /* ROUTE_NONE until it is known */
    ParameterValue parameters[ROUTE_MAX_PARAMETERS];
    Text body;
    Answer answer;
    int64_t began_ms;
    struct Request *next; /* in a queue of the pool */
} Request;

/* A lane of the pool: requests that wait for a worker. */
typedef struct Lane {
    Request *first;
    Request *last;
    int length;
    int ready_fd; /* a semaphore: how many wait */
} Lane;

typedef struct Worker {
    Serve *serve;
    int number;
    bool started;
    pthread_t thread;
    Link link; /* to the database */
} Worker;

struct Serve {
    AdminKey key;
    Peers peers;
    Database database;
    bool access_log;
    int query_seconds; /* for a statement of a route that only reads */
    struct MHD_Daemon *daemon;
    pthread_t http_thread; /* the daemon's, while http_runs */
    bool http_runs;
    atomic_bool http_ends;
    int http_wake_fd;     /* written for that thread to look round; -1: not open */
    atomic_bool stopping; /* no further requests are taken on a connection */
    atomic_bool hurry;    /* what waits is not begun any more */
    atomic_int active;    /* requests whose head is complete and that have not been answered in full */
    int done_fd;          /* written when stopping and `active` has become 0 */
    atomic_ulong answered[ROUTE_COUNT][SERVE_STATUS_COUNT];
    int64_t started_at; /* seconds since 1970 */

    /* serve_pool.c; the lock is for both lanes. */
    pthread_mutex_t lock;
    Lane lanes[LANE_COUNT];
    Worker workers[SERVE_MAX_WORKERS];
    int worker_count;
    int stop_fd; /* readable once the workers are to end */
};

/* serve_http.c: takes the listening socket over until serve_http_stop(); false: it could not start. */
bool serve_http_start(Serve *serve, int socket);

/* Has a request that was handed over answered; from any thread. */
void serve_http_resume(Serve *serve, struct MHD_Connection *connection);

/* Ends all connections; nothing may be in the pool any more. Also when it could not start. */
void serve_http_stop(Serve *serve);

/* serve_check.c: decides from the head of a request; true: there is an answer already. */
bool serve_check_head(Serve *serve, Request *request, const char *method);
/* Reads the body into the parameters; true: there is an answer already. */
bool serve_check_body(Request *request);

/* serve_answer.c: any thread that has the request. */
void answer_with(Request *request, unsigned int status);
/* {"error": "..."}, in Spanish, from a format. */
void answer_error(Request *request, unsigned int status, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* libmicrohttpd's thread only; the answer is used up. */
enum MHD_Result answer_send(Serve *serve, Request *request);

/* serve_pool.c */
bool pool_start(Serve *serve, int workers);
/* Hands a suspended request to a worker; false: too many wait already, and the caller keeps it. */
bool pool_push(Serve *serve, Lane *lane, Request *request);
/* Ends the workers; what is queued is answered first. */
void pool_stop(Serve *serve);

/* serve_actions.c: answers a request of a lane in a worker, or one without a lane in libmicrohttpd's thread. */
void act_in_worker(Worker *worker, Request *request);
void act_at_once(Request *request);

/* serve_failure.c: the answer to a statement that failed; frees the failure. */
void answer_failure(Request *request, LinkOutcome outcome, Database *database, Failure *failure);

/* metrics.c: the answer to /metrics, in a worker. */
void metrics_answer(Worker *worker, Request *request);

/* serve_log.c: a line for a request that has ended. */
void log_request(const Request *request, bool complete);

/* Milliseconds of a clock that does not jump. */
int64_t monotonic_ms(void);

#endif
