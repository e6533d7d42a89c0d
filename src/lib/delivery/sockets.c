/*
 * The epoll set of an engine, and what is known of each socket. Runs in the engine's thread.
 */
#include "sockets.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A socket's state: what the set has of it, what is wanted of it, and whether we know when it is closed. */
#define IN 1U
#define OUT 2U
#define BOTH (IN | OUT)
#define WANTED_SHIFT 2
#define OWN 16U

_Static_assert(EPOLLIN == 1 && EPOLLOUT == 4, "of epoll's bits two are kept");

static unsigned
bits(unsigned events)
{
    return ((events & EPOLLIN) != 0 ? IN : 0) | ((events & EPOLLOUT) != 0 ? OUT : 0);
}

bool
sockets_open(SocketSet *set, char *error, size_t error_size)
{
    *set = (SocketSet){.epoll_fd = epoll_create1(EPOLL_CLOEXEC)};
    if (set->epoll_fd < 0)
        snprintf(error, error_size, "could not create an epoll descriptor: %s", strerror(errno));
    return set->epoll_fd >= 0;
}

void
sockets_close(SocketSet *set)
{
    if (set->epoll_fd >= 0)
        close(set->epoll_fd);
    free(set->state);
    *set = (SocketSet){.epoll_fd = -1};
}

/* Makes room for the state of a descriptor; false: there is no memory. */
static bool
make_room(SocketSet *set, int fd)
{
    unsigned char *state;
    int size = (fd | 63) + 1;

    if (fd < set->size)
        return true;
    state = realloc(set->state, (size_t)size);
    if (state == NULL)
        return false;
    memset(state + set->size, 0, (size_t)(size - set->size));
    set->state = state;
    set->size = size;
    return true;
}

void
sockets_own(SocketSet *set, int fd)
{
    if (fd >= 0 && make_room(set, fd))
        set->state[fd] = OWN;
}

void
sockets_forget(SocketSet *set, int fd)
{
    if (fd >= 0 && fd < set->size)
        set->state[fd] = 0; /* closed, it leaves the epoll set by itself */
}

/* Has the set watch the socket for these, whatever it did before. */
static bool
change(SocketSet *set, int fd, unsigned events)
{
    struct epoll_event event = {.events = events, .data.fd = fd};
    int operation = (set->state[fd] & BOTH) != 0 ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;

    if (epoll_ctl(set->epoll_fd, operation, fd, &event) == 0)
        return true;
    if (errno != EEXIST && errno != ENOENT)
        return false;
    operation = operation == EPOLL_CTL_MOD ? EPOLL_CTL_ADD : EPOLL_CTL_MOD; /* another socket had its number */
    return epoll_ctl(set->epoll_fd, operation, fd, &event) == 0;
}

/* It may be closed already, and is out of the set then. */
static void
take_out(SocketSet *set, int fd)
{
    struct epoll_event event = {.data.fd = fd};

    epoll_ctl(set->epoll_fd, EPOLL_CTL_DEL, fd, &event);
    set->state[fd] &= OWN;
}

bool
sockets_watch(SocketSet *set, int fd, unsigned events)
{
    unsigned wanted = bits(events);
    unsigned own;

    if (!make_room(set, fd))
        return false;
    own = set->state[fd] & OWN;
    if (wanted == 0 && own == 0) {
        take_out(set, fd);
        return true;
    }
    if (wanted != 0 && (own == 0 || (set->state[fd] & BOTH) != wanted)) {
        if (!change(set, fd, events))
            return false;
        set->state[fd] = (unsigned char)(own | wanted);
    }
    set->state[fd] = (unsigned char)(own | (set->state[fd] & BOTH) | wanted << WANTED_SHIFT);
    return true;
}

int
sockets_ready(SocketSet *set, struct epoll_event *events, int most, int *count)
{
    int ready = epoll_wait(set->epoll_fd, events, most, 0);

    *count = 0;
    for (int i = 0; i < ready; i++) {
        int fd = events[i].data.fd;

        if (fd < set->size && (set->state[fd] >> WANTED_SHIFT & BOTH) == 0)
            take_out(set, fd); /* the other side has closed a connection that is not in use */
        else
            events[(*count)++] = events[i];
    }
    return ready;
}
