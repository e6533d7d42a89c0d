/*
 * The list of connections that are waited for. libmicrohttpd's own timeout is one of silence: a sender of one byte a
 * second would stay for ever, so the time of a whole request is limited here.
 */
#include "serve_peers.h"

#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "serve.h"

#define FEWEST_MS 50 /* between two sweeps */

int64_t
monotonic_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

void
peers_init(Peers *peers, int limit, long timeout_ms)
{
    *peers = (Peers){.limit = limit, .timeout_ms = timeout_ms};
    pthread_mutex_init(&peers->lock, NULL);
}

/* These are called with the lock held. */

static void
take_out(Peers *peers, Peer *peer)
{
    if (!peer->waited_for)
        return;
    *(peer->previous != NULL ? &peer->previous->next : &peers->oldest) = peer->next;
    *(peer->next != NULL ? &peer->next->previous : &peers->newest) = peer->previous;
    peer->waited_for = false;
}

static void
put_in(Peers *peers, Peer *peer)
{
    peer->since_ms = monotonic_ms();
    peer->waited_for = true;
    peer->next = NULL;
    peer->previous = peers->newest;
    *(peers->newest != NULL ? &peers->newest->next : &peers->oldest) = peer;
    peers->newest = peer;
}

static void
end(Peers *peers, Peer *peer)
{
    take_out(peers, peer);
    shutdown(peer->handle, SHUT_RDWR);
    peers->ended++;
}

Peer *
peers_open(Peers *peers, int handle)
{
    Peer *peer = allocate(sizeof *peer);
    struct sockaddr_storage address;
    socklen_t length = sizeof address;

    peer->handle = handle;
    if (getpeername(handle, (struct sockaddr *)&address, &length) != 0 ||
        getnameinfo((struct sockaddr *)&address, length, peer->address, sizeof peer->address, NULL, 0,
                    NI_NUMERICHOST) != 0)
        strcpy(peer->address, "-");
    pthread_mutex_lock(&peers->lock);
    peers->open++;
    if (peers->open > peers->limit - peers->limit / 4 && peers->oldest != NULL)
        end(peers, peers->oldest);
    put_in(peers, peer);
    pthread_mutex_unlock(&peers->lock);
    return peer;
}

void
peers_wait(Peers *peers, Peer *peer, bool answered)
{
    pthread_mutex_lock(&peers->lock);
    take_out(peers, peer);
    peer->answered = answered;
    put_in(peers, peer);
    pthread_mutex_unlock(&peers->lock);
}

void
peers_serve(Peers *peers, Peer *peer)
{
    pthread_mutex_lock(&peers->lock);
    take_out(peers, peer);
    pthread_mutex_unlock(&peers->lock);
}

void
peers_close(Peers *peers, Peer *peer)
{
    pthread_mutex_lock(&peers->lock);
    take_out(peers, peer);
    peers->open--;
    pthread_mutex_unlock(&peers->lock);
    free(peer);
}

void
peers_end_idle(Peers *peers)
{
    pthread_mutex_lock(&peers->lock);
    for (Peer *peer = peers->oldest, *next; peer != NULL; peer = next) {
        next = peer->next;
        if (!peer->answered)
            end(peers, peer);
    }
    pthread_mutex_unlock(&peers->lock);
}

long
peers_sweep(Peers *peers)
{
    int64_t now = monotonic_ms();
    int64_t left = peers->timeout_ms;

    pthread_mutex_lock(&peers->lock);
    while (peers->oldest != NULL && now - peers->oldest->since_ms >= peers->timeout_ms)
        end(peers, peers->oldest);
    if (peers->oldest != NULL)
        left = peers->oldest->since_ms + peers->timeout_ms - now;
    pthread_mutex_unlock(&peers->lock);
    return left > FEWEST_MS ? (long)left : FEWEST_MS;
}

void
peers_count(Peers *peers, int *open, unsigned long *ended)
{
    pthread_mutex_lock(&peers->lock);
    *open = peers->open;
    *ended = peers->ended;
    pthread_mutex_unlock(&peers->lock);
}
