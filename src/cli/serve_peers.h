/*
 * The open HTTP connections, and how long each may be waited for.
 *
 * Shared by libmicrohttpd's thread, which reports what happens on them, and the main thread, which ends those that are
 * too slow. A connection is ended by shutting its socket down: libmicrohttpd then sees its end and closes it.
 */
#ifndef APAPACHO_CLI_SERVE_PEERS_H
#define APAPACHO_CLI_SERVE_PEERS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

/* One connection; every field is guarded by the lock of Peers but the first two, which do not change. */
typedef struct Peer {
    int handle;
    char address[48];
    bool waited_for; /* it is in the list: we wait for its next request, or for it to take an answer */
    bool answered;   /* of these the latter */
    int64_t since_ms;
    struct Peer *previous;
    struct Peer *next;
} Peer;

typedef struct Peers {
    pthread_mutex_t lock;
    Peer *oldest; /* of those waited for, in the order of since_ms */
    Peer *newest;
    int open;        /* connections in all */
    int limit;       /* the most that there may be */
    long timeout_ms; /* for a whole request, and for taking an answer */
    unsigned long ended;
} Peers;

void peers_init(Peers *peers, int limit, long timeout_ms);

/* A new connection. Where few are left, those waited for the longest make room: whoever floods us ends his own. */
Peer *peers_open(Peers *peers, int handle);
/* Its time begins anew: a request begins or was answered (false), or the answer is being sent (true). */
void peers_wait(Peers *peers, Peer *peer, bool answered);
/* It waits for us. */
void peers_serve(Peers *peers, Peer *peer);
/* It has been closed, or is about to be. Frees it. */
void peers_close(Peers *peers, Peer *peer);

/* Ends all that have no complete request with us. */
void peers_end_idle(Peers *peers);

/* Ends those whose time is over; returns in how many milliseconds the next one's will be. */
long peers_sweep(Peers *peers);

/* Figures for the metrics. */
void peers_count(Peers *peers, int *open, unsigned long *ended);

#endif
