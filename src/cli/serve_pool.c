/*
 * The workers of `serve`: threads with a connection to PostgreSQL each, which do the requests that take time. Worker 0
 * takes only what is quick, so that runs that are waited for never hold up the status or the metrics; it connects
 * before anybody asks, and again when the server is back.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "message.h"
#include "serve.h"

#define LANE_MOST 256 /* requests that may wait in a lane */

bool
pool_push(Serve *serve, Lane *lane, Request *request)
{
    bool room;

    pthread_mutex_lock(&serve->lock);
    room = lane->length < LANE_MOST;
    if (room) {
        request->next = NULL;
        *(lane->last != NULL ? &lane->last->next : &lane->first) = request;
        lane->last = request;
        lane->length++;
    }
    pthread_mutex_unlock(&serve->lock);
    if (room)
        eventfd_write(lane->ready_fd, 1);
    return room;
}

/* The next request of a lane whose semaphore says that there is one; NULL: another worker was faster. */
static Request *
take(Serve *serve, Lane *lane)
{
    Request *request;
    eventfd_t one;

    if (eventfd_read(lane->ready_fd, &one) != 0)
        return NULL;
    pthread_mutex_lock(&serve->lock);
    request = lane->first;
    lane->first = request->next;
    if (lane->first == NULL)
        lane->last = NULL;
    lane->length--;
    pthread_mutex_unlock(&serve->lock);
    return request;
}

/* How long worker 0 may sleep: until it is time to look for the server again. */
static int
sleep_ms(const Worker *worker)
{
    return worker->number == 0 && worker->link.session.connection == NULL ? (int)database_wait_ms(worker->link.database)
                                                                          : -1;
}

/* The next request, in the meantime looking after the connection; NULL: the worker is to end. */
static Request *
next_request(Worker *worker, int stop_fd)
{
    Serve *serve = worker->serve;
    bool takes_slow = worker->number > 0 || serve->worker_count == 1;

    for (;;) {
        PGconn *connection = worker->link.session.connection;
        struct pollfd events[] = {
            {.fd = serve->lanes[LANE_QUICK].ready_fd, .events = POLLIN},
            {.fd = takes_slow ? serve->lanes[LANE_SLOW].ready_fd : -1, .events = POLLIN},
            {.fd = connection != NULL ? PQsocket(connection) : -1, .events = POLLIN},
            {.fd = stop_fd, .events = POLLIN},
        };
        Request *request = NULL;

        if (poll(events, 4, sleep_ms(worker)) < 0) {
            if (errno != EINTR)
                message_error("could not wait for requests: %s", strerror(errno));
            continue;
        }
        if (events[2].revents != 0)
            link_check(&worker->link);
        for (int i = 0; i < LANE_COUNT && request == NULL; i++) {
            if ((events[i].revents & POLLIN) != 0)
                request = take(serve, &serve->lanes[i]);
        }
        if (request != NULL)
            return request;
        if (events[3].revents != 0 && (events[0].revents | events[1].revents) == 0)
            return NULL;
        if (worker->number == 0 && sleep_ms(worker) == 0)
            link_open(&worker->link);
    }
}

static void *
work(void *argument)
{
    Worker *worker = argument;
    Serve *serve = worker->serve;
    Request *request;

    if (worker->number == 0)
        link_open(&worker->link);
    while ((request = next_request(worker, serve->stop_fd)) != NULL) {
        act_in_worker(worker, request);
        serve_http_resume(serve, request->connection);
    }
    link_close(&worker->link);
    return NULL;
}

bool
pool_start(Serve *serve, int workers)
{
    int error = 0;

    pthread_mutex_init(&serve->lock, NULL);
    serve->stop_fd = eventfd(0, EFD_CLOEXEC);
    for (int i = 0; i < LANE_COUNT; i++)
        serve->lanes[i] = (Lane){.ready_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK | EFD_SEMAPHORE)};
    if (serve->stop_fd < 0 || serve->lanes[LANE_QUICK].ready_fd < 0 || serve->lanes[LANE_SLOW].ready_fd < 0) {
        message_error("could not start: %s", strerror(errno));
        return false;
    }
    serve->worker_count = workers;
    for (int i = 0; i < workers && error == 0; i++) {
        Worker *worker = &serve->workers[i];

        *worker = (Worker){.serve = serve, .number = i, .link = {.database = &serve->database}};
        error = pthread_create(&worker->thread, NULL, work, worker);
        worker->started = error == 0;
    }
    if (error != 0)
        message_error("could not start a thread: %s", strerror(error));
    return error == 0;
}

void
pool_stop(Serve *serve)
{
    eventfd_write(serve->stop_fd, 1);
    for (int i = 0; i < serve->worker_count; i++) {
        if (serve->workers[i].started)
            pthread_join(serve->workers[i].thread, NULL);
    }
    close(serve->stop_fd);
    for (int i = 0; i < LANE_COUNT; i++)
        close(serve->lanes[i].ready_fd);
}
