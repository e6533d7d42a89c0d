/*
 * The HTTP side of `serve`: libmicrohttpd's loop and its callbacks, all in one thread of ours. What takes time is
 * handed to the pool while the connection is suspended; when it is resumed the handler is called once more and sends
 * the answer.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "message.h"
#include "serve.h"

/* Of a connection's buffer, which holds the request line and the headers: more is answered 414 or 431. */
#define HEAD_BYTES (16 * 1024)
/* What is read and thrown away of a body that is too large before the connection is closed. */
#define THROWN_AWAY_BYTES (1024 * 1024)
/* So often the daemon looks round when nothing happens. */
#define LONGEST_WAIT_MS 60000

static Peer *
peer_of(struct MHD_Connection *connection)
{
    const union MHD_ConnectionInfo *information =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);

    return information != NULL ? information->socket_context : NULL;
}

/* A connection has been made, or ends. */
static void
connection_changed(void *context, struct MHD_Connection *connection, void **socket_context,
                   enum MHD_ConnectionNotificationCode how)
{
    Serve *serve = context;

    if (how == MHD_CONNECTION_NOTIFY_STARTED) {
        const union MHD_ConnectionInfo *information =
            MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);

        *socket_context = peers_open(&serve->peers, (int)information->connect_fd);
    } else if (*socket_context != NULL) {
        peers_close(&serve->peers, *socket_context);
        *socket_context = NULL;
    }
}

/* The request line has come: what it says, before libmicrohttpd decodes it. */
static void *
request_begins(void *context, const char *target, struct MHD_Connection *connection)
{
    Serve *serve = context;
    Request *request = allocate(sizeof *request);
    size_t path = strcspn(target, "?");

    request->connection = connection;
    request->peer = peer_of(connection);
    request->route = ROUTE_NONE;
    request->began_ms = monotonic_ms();
    request->uri_valid = uri_parse(target, &request->uri);
    if (serve->access_log) {
        request->path = allocate(path + 1);
        memcpy(request->path, target, path);
    }
    peers_wait(&serve->peers, request->peer, false);
    return request;
}

/* The head is complete. */
static enum MHD_Result
take_head(Serve *serve, Request *request, const char *method)
{
    static const char *const known[] = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"};

    request->begun = true;
    atomic_fetch_add(&serve->active, 1);
    strcpy(request->method, "-");
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(method, known[i]) == 0)
            strcpy(request->method, known[i]);
    }
    return serve_check_head(serve, request, method) ? answer_send(serve, request) : MHD_YES;
}

static enum MHD_Result
take_body(Request *request, const char *data, size_t *size)
{
    if (*size > SERVE_MAX_BODY_BYTES - request->body.length)
        request->too_large = true;
    request->thrown_away += request->too_large ? *size : 0;
    if (!request->too_large)
        text_add_bytes(&request->body, data, *size);
    *size = 0;
    return request->thrown_away > THROWN_AWAY_BYTES ? MHD_NO : MHD_YES;
}

static enum MHD_Result
take_request(Serve *serve, Request *request)
{
    RouteLane lane = route_describe(request->route)->lane;

    if (serve_check_body(request))
        return answer_send(serve, request);
    if (lane == LANE_NONE) {
        act_at_once(request);
        return answer_send(serve, request);
    }
    peers_serve(&serve->peers, request->peer);
    request->handed_over = true;
    MHD_suspend_connection(request->connection);
    if (!pool_push(serve, &serve->lanes[lane], request)) {
        answer_error(request, MHD_HTTP_SERVICE_UNAVAILABLE, "Demasiadas peticiones en espera");
        request->answer.retry_after = 1;
        MHD_resume_connection(request->connection);
    }
    return MHD_YES;
}

/* MHD's access handler: called for the head, for each piece of the body, at its end, and when resumed. */
static enum MHD_Result
handle(void *context, struct MHD_Connection *connection, const char *url, const char *method, const char *version,
       const char *data, size_t *data_size, void **request_state)
{
    Serve *serve = context;
    Request *request = *request_state;

    (void)connection;
    (void)url;
    (void)version;
    if (!request->begun)
        return take_head(serve, request, method);
    if (*data_size > 0)
        return take_body(request, data, data_size);
    return request->handed_over ? answer_send(serve, request) : take_request(serve, request);
}

static void
request_completed(void *context, struct MHD_Connection *connection, void **request_state,
                  enum MHD_RequestTerminationCode how)
{
    Serve *serve = context;
    Request *request = *request_state;

    (void)connection;
    if (request == NULL)
        return;
    *request_state = NULL;
    if (request->begun) {
        if (serve->access_log)
            log_request(request, how == MHD_REQUEST_TERMINATED_COMPLETED_OK);
        peers_wait(&serve->peers, request->peer, false);
        if (atomic_fetch_sub(&serve->active, 1) == 1 && atomic_load(&serve->stopping))
            eventfd_write(serve->done_fd, 1);
    }
    uri_free(&request->uri);
    text_free(&request->body);
    text_free(&request->answer.body);
    free(request->path);
    free(request);
}

/*
 * libmicrohttpd's own loop over epoll waits for more to happen when exactly 128 connections are ready at a time, with
 * all of them unanswered; MHD_run() never waits. Nor does it learn by itself of connections that others resume.
 */
static void *
run_daemon(void *context)
{
    Serve *serve = context;
    const union MHD_DaemonInfo *information = MHD_get_daemon_info(serve->daemon, MHD_DAEMON_INFO_EPOLL_FD);
    struct pollfd events[] = {{.fd = information->epoll_fd, .events = POLLIN},
                              {.fd = serve->http_wake_fd, .events = POLLIN}};

    while (!atomic_load(&serve->http_ends)) {
        MHD_UNSIGNED_LONG_LONG timeout = LONGEST_WAIT_MS;
        eventfd_t wakes;

        if (MHD_get_timeout(serve->daemon, &timeout) != MHD_YES || timeout > LONGEST_WAIT_MS)
            timeout = LONGEST_WAIT_MS;
        if (poll(events, 2, (int)timeout) > 0 && events[1].revents != 0)
            eventfd_read(serve->http_wake_fd, &wakes);
        MHD_run(serve->daemon);
    }
    return NULL;
}

void
serve_http_resume(Serve *serve, struct MHD_Connection *connection)
{
    MHD_resume_connection(connection);
    eventfd_write(serve->http_wake_fd, 1);
}

bool
serve_http_start(Serve *serve, int socket)
{
    unsigned int silence = (unsigned int)(serve->peers.timeout_ms / 1000) + 1;
    int failed;

    serve->http_wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    serve->daemon = MHD_start_daemon(MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL, handle, serve,
                                     MHD_OPTION_LISTEN_SOCKET, socket, MHD_OPTION_NOTIFY_COMPLETED, request_completed,
                                     serve, MHD_OPTION_NOTIFY_CONNECTION, connection_changed, serve,
                                     MHD_OPTION_URI_LOG_CALLBACK, request_begins, serve, MHD_OPTION_CONNECTION_LIMIT,
                                     (unsigned int)serve->peers.limit, MHD_OPTION_CONNECTION_TIMEOUT, silence,
                                     MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)HEAD_BYTES, MHD_OPTION_END);
    failed = serve->http_wake_fd < 0 || serve->daemon == NULL
                 ? errno
                 : pthread_create(&serve->http_thread, NULL, run_daemon, serve);
    serve->http_runs = serve->daemon != NULL && serve->http_wake_fd >= 0 && failed == 0;
    if (!serve->http_runs)
        message_error("could not start the HTTP server: %s", strerror(failed));
    return serve->http_runs;
}

void
serve_http_stop(Serve *serve)
{
    if (serve->http_runs) {
        atomic_store(&serve->http_ends, true);
        eventfd_write(serve->http_wake_fd, 1);
        pthread_join(serve->http_thread, NULL);
    }
    serve->http_runs = false;
    if (serve->daemon != NULL)
        MHD_stop_daemon(serve->daemon);
    serve->daemon = NULL;
    if (serve->http_wake_fd >= 0)
        close(serve->http_wake_fd);
}
