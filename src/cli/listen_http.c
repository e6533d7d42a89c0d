/*
 * The HTTP side of `listen`: collects a delivery's body, has it judged, and answers as told. Runs in libmicrohttpd's
 * threads. A request's body belongs to its Request, which libmicrohttpd hands back in request_completed.
 */
#include "listen.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define MAX_BODY_BYTES (64 * 1024 * 1024) /* of one delivery */
#define MAX_CONNECTIONS 4096
#define MAX_THREADS 512
#define IDLE_SECONDS 120 /* until an idle connection is closed */

typedef struct Request {
    Text body;
    bool too_large;
} Request;

static enum MHD_Result
answer_with(const Listen *listen, struct MHD_Connection *connection, unsigned int status, const char *type,
            const char *body, size_t length)
{
    struct MHD_Response *response = MHD_create_response_from_buffer(length, (void *)body, MHD_RESPMEM_MUST_COPY);
    enum MHD_Result result;

    if (response == NULL)
        return MHD_NO;
    if (type != NULL && *type != '\0')
        MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
    if (status == MHD_HTTP_METHOD_NOT_ALLOWED)
        MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, MHD_HTTP_METHOD_POST);
    if (listen->retry_after != NULL && status >= 300)
        MHD_add_response_header(response, MHD_HTTP_HEADER_RETRY_AFTER, listen->retry_after);
    result = MHD_queue_response(connection, status, response);
    MHD_destroy_response(response);
    return result;
}

static int
socket_of(struct MHD_Connection *connection)
{
    const union MHD_ConnectionInfo *information =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);

    return information != NULL ? (int)information->connect_fd : -1;
}

/* Waits so long (-1: for ever), but no longer than the program runs and the sender waits. */
static void
wait_with(const Listen *listen, struct MHD_Connection *connection, long milliseconds)
{
    struct pollfd events[] = {{.fd = listen->stop_fd, .events = POLLIN},
                              {.fd = socket_of(connection), .events = POLLRDHUP}};

    while (poll(events, 2, (int)milliseconds) < 0 && errno == EINTR)
        continue;
}

/* Dissolving the association makes Linux send a reset at once. */
static void
reset(struct MHD_Connection *connection)
{
    struct sockaddr nowhere = {.sa_family = AF_UNSPEC};

    connect(socket_of(connection), &nowhere, sizeof nowhere);
}

static enum MHD_Result
answer_as_told(Listen *listen, const Delivery *delivery)
{
    Answer answer = listen_answer(listen, atomic_fetch_add(&listen->good, 1) + 1);
    char text[16];

    switch (answer.kind) {
    case ANSWER_RESET:
        listen_report(listen, delivery, "reset");
        reset(delivery->connection);
        return MHD_NO;
    case ANSWER_HANG:
        listen_report(listen, delivery, "nothing");
        wait_with(listen, delivery->connection, -1);
        return MHD_NO;
    default:
        snprintf(text, sizeof text, "%u", answer.status);
        listen_report(listen, delivery, text);
        return answer_with(listen, delivery->connection, answer.status, NULL, "", 0);
    }
}

static enum MHD_Result
answer_by_forwarding(Listen *listen, const Delivery *delivery)
{
    ForwardAnswer answer;
    enum MHD_Result result;
    char text[16];

    atomic_fetch_add(&listen->good, 1);
    listen_forward(listen, delivery, &answer);
    snprintf(text, sizeof text, "%u", answer.status);
    listen_report(listen, delivery, text);
    result = answer_with(listen, delivery->connection, answer.status, text_of(&answer.content_type),
                         text_of(&answer.body), answer.body.length);
    text_free(&answer.content_type);
    text_free(&answer.body);
    return result;
}

static enum MHD_Result
handle_delivery(Listen *listen, struct MHD_Connection *connection, const Request *request)
{
    Delivery delivery = {.connection = connection,
                         .body = text_of(&request->body),
                         .length = request->body.length,
                         .too_large = request->too_large};

    if (listen->delay_ms > 0)
        wait_with(listen, connection, listen->delay_ms);
    if (request->too_large) {
        atomic_fetch_add(&listen->refused, 1);
        delivery.length = 0;
        listen_report(listen, &delivery, "413");
        return answer_with(listen, connection, MHD_HTTP_CONTENT_TOO_LARGE, NULL, "", 0);
    }
    listen_judge(listen, &delivery);
    if (!delivery.accepted) {
        atomic_fetch_add(&listen->refused, 1);
        listen_report(listen, &delivery, "401");
        return answer_with(listen, connection, MHD_HTTP_UNAUTHORIZED, NULL, "", 0);
    }
    return listen->forward != NULL ? answer_by_forwarding(listen, &delivery) : answer_as_told(listen, &delivery);
}

/* MHD's access handler: called for the headers, for each piece of the body, and at the end. */
static enum MHD_Result
handle(void *context, struct MHD_Connection *connection, const char *url, const char *method, const char *version,
       const char *data, size_t *data_size, void **request_state)
{
    Listen *listen = context;
    Request *request = *request_state;

    (void)url;
    (void)version;
    if (request == NULL) {
        *request_state = request = calloc(1, sizeof *request);
        return request != NULL ? MHD_YES : MHD_NO;
    }
    if (*data_size > 0) {
        request->too_large = request->too_large || *data_size > MAX_BODY_BYTES - request->body.length;
        if (!request->too_large)
            text_add_bytes(&request->body, data, *data_size);
        *data_size = 0;
        return MHD_YES;
    }
    if (strcmp(method, MHD_HTTP_METHOD_POST) != 0)
        return answer_with(listen, connection, MHD_HTTP_METHOD_NOT_ALLOWED, NULL, "", 0);
    return handle_delivery(listen, connection, request);
}

static void
request_completed(void *context, struct MHD_Connection *connection, void **request_state,
                  enum MHD_RequestTerminationCode how)
{
    Request *request = *request_state;

    (void)context;
    (void)connection;
    (void)how;
    if (request != NULL)
        text_free(&request->body);
    free(request);
    *request_state = NULL;
}

struct MHD_Daemon *
listen_start(Listen *listen, int socket)
{
    bool threads = listen_can_wait(listen);
    /* not epoll: libmicrohttpd's loop waits for more when exactly 128 connections are ready at a time */
    unsigned int flags =
        threads ? MHD_USE_THREAD_PER_CONNECTION | MHD_USE_INTERNAL_POLLING_THREAD : MHD_USE_POLL_INTERNAL_THREAD;

    return MHD_start_daemon(flags, 0, NULL, NULL, handle, listen, MHD_OPTION_LISTEN_SOCKET, socket,
                            MHD_OPTION_NOTIFY_COMPLETED, request_completed, NULL, MHD_OPTION_CONNECTION_TIMEOUT,
                            (unsigned int)IDLE_SECONDS, MHD_OPTION_CONNECTION_LIMIT,
                            (unsigned int)(threads ? MAX_THREADS : MAX_CONNECTIONS), MHD_OPTION_END);
}
