/*
 * The sockets of an engine, in one epoll set. Internal to src/lib/delivery.
 *
 * curl says for each transfer anew that a socket is to be watched, and that it is not any more. What it says of a
 * connection that stays open is noted, and the set left as it is: that saves two system calls for each request.
 */
#ifndef APAPACHO_DELIVERY_SOCKETS_H
#define APAPACHO_DELIVERY_SOCKETS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/epoll.h>

typedef struct SocketSet {
    int epoll_fd;         /* -1: not open */
    unsigned char *state; /* by descriptor */
    int size;
} SocketSet;

/* Opens an empty set; false with one line in error. */
bool sockets_open(SocketSet *set, char *error, size_t error_size);

/* Frees the set; the sockets stay open. */
void sockets_close(SocketSet *set);

/* A new socket for a connection. From now on until sockets_forget() nobody else closes it. */
void sockets_own(SocketSet *set, int fd);

/* The socket is about to be closed. */
void sockets_forget(SocketSet *set, int fd);

/* Watches a socket for EPOLLIN, EPOLLOUT, both, or (0) not any more. False: the system does not allow it. */
bool sockets_watch(SocketSet *set, int fd, unsigned events);

/* What is ready now of what is watched, `most` at the most; does not wait. Returns how many were read, of which those
 * left in `events`, *count, are to be acted on. */
int sockets_ready(SocketSet *set, struct epoll_event *events, int most, int *count);

#endif
