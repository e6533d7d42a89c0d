/*
 * A small HTTP/1.1 server on 127.0.0.1 with all the bad habits that a webhook's receiver can have; the request's path
 * says which one. For the delivery engine's unit tests only, included by one file of each.
 *
 * Threads of the test's process: one accepts, one more per connection. A Loopback belongs to whoever started it;
 * loopback_stop ends all its threads, also those that wait for a client. Counters are atomic.
 */
#ifndef APAPACHO_LOOPBACK_SERVER_H
#define APAPACHO_LOOPBACK_SERVER_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <openssl/ssl.h>

#define LOOPBACK_MAX_CONNECTIONS 1024

typedef struct Loopback Loopback;

typedef struct LoopbackConnection {
    Loopback *server;
    int fd;
    SSL *tls; /* NULL: plain */
    pthread_t thread;
    char request[65536]; /* the latest request, NUL-terminated */
    size_t length;       /* what is in the buffer */
} LoopbackConnection;

struct Loopback {
    int listener;
    int port;
    SSL_CTX *tls; /* NULL: plain */
    pthread_t thread;
    atomic_bool stopping;
    atomic_int connections; /* accepted so far; also how many of `all` are used */
    atomic_int requests;    /* complete ones */
    pthread_mutex_t lock;   /* guards last_request */
    char last_request[65536];
    LoopbackConnection *all[LOOPBACK_MAX_CONNECTIONS];
};

static bool
loopback_write(LoopbackConnection *connection, const char *bytes, size_t count)
{
    while (count > 0) {
        ssize_t done = connection->tls != NULL ? SSL_write(connection->tls, bytes, (int)count)
                                               : send(connection->fd, bytes, count, MSG_NOSIGNAL);

        if (done <= 0)
            return false;
        bytes += done;
        count -= (size_t)done;
    }
    return true;
}

static bool
loopback_say(LoopbackConnection *connection, const char *text)
{
    return loopback_write(connection, text, strlen(text));
}

/* Waits until the client is gone, the server stops, or the time is over. True: the time is over. */
static bool
loopback_pause(LoopbackConnection *connection, int milliseconds)
{
    struct pollfd client = {connection->fd, POLLRDHUP, 0};

    return poll(&client, 1, milliseconds) == 0 && !atomic_load(&connection->server->stopping);
}

/* Reads one request with its Content-Length; false when the client is gone. */
static bool
loopback_read(LoopbackConnection *connection)
{
    connection->length = 0;
    for (;;) {
        size_t room = sizeof connection->request - 1 - connection->length;
        char *place = connection->request + connection->length;
        ssize_t count = connection->tls != NULL ? SSL_read(connection->tls, place, (int)room)
                                                : recv(connection->fd, place, room, 0);
        const char *end;
        const char *announced;

        if (count <= 0)
            return false;
        connection->length += (size_t)count;
        connection->request[connection->length] = '\0';
        end = strstr(connection->request, "\r\n\r\n");
        announced = strcasestr(connection->request, "\r\nContent-Length:");
        if (end != NULL && announced != NULL &&
            connection->length >= (size_t)(end + 4 - connection->request) + strtoul(announced + 17, NULL, 10))
            return true;
        if (end != NULL && strncmp(connection->request, "POST /early", 11) == 0)
            return true;
    }
}

/* Answers by the path. False: the connection is to be closed. */
static bool
loopback_answer(LoopbackConnection *connection)
{
    const char *path = connection->request + strlen("POST ");
    char block[1024];

#define PATH_IS(text) (strncmp(path, text " ", sizeof text) == 0)
    memset(block, 'x', sizeof block);
    if (PATH_IS("/200"))
        return loopback_say(connection, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    if (PATH_IS("/204"))
        return loopback_say(connection, "HTTP/1.1 204 No Content\r\n\r\n");
    if (PATH_IS("/leave")) /* says that the connection stays open, and closes it */
        return loopback_say(connection, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") && false;
    if (PATH_IS("/500"))
        return loopback_say(connection, "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 23\r\n\r\n"
                                        "no\r\n \x01 luck \xc3\xb1\x1b[31m !\n\n");
    if (strncmp(path, "/status/", 8) == 0) {
        snprintf(block, sizeof block, "HTTP/1.1 %.3s Whatever\r\nContent-Length: 0\r\n\r\n", path + 8);
        return loopback_say(connection, block);
    }
    if (strncmp(path, "/retry/", 7) == 0) { /* with this Retry-After; '_' stands for a blank */
        char value[512];

        snprintf(value, sizeof value, "%.*s", (int)strcspn(path + 7, " "), path + 7);
        for (char *c = value; *c != '\0'; c++)
            *c = *c == '_' ? ' ' : *c;
        snprintf(block, sizeof block,
                 "HTTP/1.1 503 Later\r\nretry-AFTER: %s\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n", value);
        return loopback_say(connection, block);
    }
    if (PATH_IS("/hints")) /* a Retry-After that is not the final answer's */
        return loopback_say(connection, "HTTP/1.1 103 Early Hints\r\nRetry-After: 9\r\n\r\n"
                                        "HTTP/1.1 503 Oh\r\nRetry-After: 4\r\nContent-Length: 0\r\n\r\n");
    if (PATH_IS("/page") || PATH_IS("/page500")) {
        for (int i = 0; i < 1000; i++)
            block[i] = (char)('a' + i % 26);
        block[1000] = '\0';
        return loopback_say(connection, PATH_IS("/page") ? "HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n"
                                                         : "HTTP/1.1 500 Oh\r\nContent-Length: 2000\r\n\r\n") &&
               loopback_say(connection, block) && loopback_say(connection, block);
    }
    if (PATH_IS("/redirect")) {
        snprintf(block, sizeof block,
                 "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:%d/200\r\nContent-Length: 0\r\n\r\n",
                 connection->server->port);
        return loopback_say(connection, block);
    }
    if (PATH_IS("/garbage"))
        return loopback_say(connection, "\x16\x03\x01 this is not HTTP\r\n\r\n") && false;
    if (PATH_IS("/silence")) /* closes without a word */
        return false;
    if (PATH_IS("/reset")) {
        setsockopt(connection->fd, SOL_SOCKET, SO_LINGER, &(struct linger){1, 0}, sizeof(struct linger));
        return false;
    }
    if (PATH_IS("/broken")) /* less than announced */
        return loopback_say(connection, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort") && false;
    if (PATH_IS("/hang"))
        return loopback_pause(connection, 30000) && false;
    if (PATH_IS("/drip")) {
        bool open = loopback_say(connection, "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n");

        while (open && loopback_pause(connection, 20))
            open = loopback_say(connection, ".");
        return false;
    }
    if (PATH_IS("/huge") || PATH_IS("/huge500")) {
        bool open = loopback_say(connection, PATH_IS("/huge") ? "HTTP/1.1 200 OK\r\n\r\n" : "HTTP/1.1 500 Oh\r\n\r\n");

        while (open && !atomic_load(&connection->server->stopping))
            open = loopback_write(connection, block, sizeof block);
        return false;
    }
    if (PATH_IS("/headers")) {
        bool open = loopback_say(connection, "HTTP/1.1 200 OK\r\n");

        while (open && !atomic_load(&connection->server->stopping))
            open = loopback_say(connection, "X-More: and more and more and more\r\n");
        return false;
    }
    if (PATH_IS("/line")) { /* one header line without an end */
        bool open = loopback_say(connection, "HTTP/1.1 200 OK\r\nX-Long: ");

        while (open && !atomic_load(&connection->server->stopping))
            open = loopback_write(connection, block, sizeof block);
        return false;
    }
    if (PATH_IS("/continue")) { /* provisional answers for ever */
        bool open = true;

        while (open && !atomic_load(&connection->server->stopping))
            open = loopback_say(connection, "HTTP/1.1 100 Continue\r\n\r\n");
        return false;
    }
    if (PATH_IS("/early")) /* answers before the body was read, and closes */
        return loopback_say(connection, "HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n") &&
               loopback_pause(connection, 30000) && false;
#undef PATH_IS
    return loopback_say(connection, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
}

static void *
loopback_serve(void *context)
{
    LoopbackConnection *connection = context;
    Loopback *server = connection->server;
    bool open = connection->tls == NULL || SSL_accept(connection->tls) == 1;

    while (open && loopback_read(connection)) {
        atomic_fetch_add(&server->requests, 1);
        pthread_mutex_lock(&server->lock);
        memcpy(server->last_request, connection->request, connection->length + 1);
        pthread_mutex_unlock(&server->lock);
        open = loopback_answer(connection);
    }
    SSL_free(connection->tls);
    /* Only the half: the number must stay ours until loopback_stop has joined this thread. */
    if (strncmp(connection->request, "POST /reset", 11) == 0)
        connect(connection->fd, &(struct sockaddr){.sa_family = AF_UNSPEC}, sizeof(struct sockaddr));
    else
        shutdown(connection->fd, SHUT_RDWR);
    return NULL;
}

static void *
loopback_accept(void *context)
{
    Loopback *server = context;
    sigset_t broken_pipe;

    /* OpenSSL writes without MSG_NOSIGNAL. The connections' threads inherit this; the engine's thread must not need it.
     */
    sigemptyset(&broken_pipe);
    sigaddset(&broken_pipe, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &broken_pipe, NULL);
    for (;;) {
        int fd = accept(server->listener, NULL, NULL);
        int index = atomic_load(&server->connections);
        LoopbackConnection *connection;

        if (fd < 0)
            return NULL;
        connection = index < LOOPBACK_MAX_CONNECTIONS ? calloc(1, sizeof *connection) : NULL;
        if (connection == NULL) {
            close(fd);
            continue;
        }
        connection->server = server;
        connection->fd = fd;
        if (server->tls != NULL) {
            connection->tls = SSL_new(server->tls);
            SSL_set_fd(connection->tls, fd);
        }
        server->all[index] = connection;
        atomic_store(&server->connections, index + 1); /* first: who has its answer may count */
        pthread_create(&connection->thread, NULL, loopback_serve, connection);
    }
}

/* Starts a server on a free port; with tls, an SSL_CTX that has a certificate (it stays the caller's). */
static void
loopback_start(Loopback *server, SSL_CTX *tls)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;

    memset(server, 0, sizeof *server);
    pthread_mutex_init(&server->lock, NULL);
    server->tls = tls;
    server->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (server->listener < 0 || bind(server->listener, (struct sockaddr *)&address, sizeof address) != 0 ||
        listen(server->listener, 1024) != 0 ||
        getsockname(server->listener, (struct sockaddr *)&address, &length) != 0 ||
        pthread_create(&server->thread, NULL, loopback_accept, server) != 0) {
        perror("loopback server");
        exit(1);
    }
    server->port = ntohs(address.sin_port);
}

static void
loopback_stop(Loopback *server)
{
    atomic_store(&server->stopping, true);
    shutdown(server->listener, SHUT_RDWR);
    pthread_join(server->thread, NULL);
    close(server->listener);
    for (int i = 0; i < atomic_load(&server->connections); i++) {
        shutdown(server->all[i]->fd, SHUT_RDWR);
        pthread_join(server->all[i]->thread, NULL);
        close(server->all[i]->fd);
        free(server->all[i]);
    }
    pthread_mutex_destroy(&server->lock);
}

#endif
