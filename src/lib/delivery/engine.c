/*
 * Drives many transfers at once: libcurl's multi interface with its sockets in an epoll set of our own.
 *
 * Runs in one thread of the process that created the engine. All memory is malloc'ed and belongs to the engine; a
 * Transfer sits in the array `transfers` for the engine's whole life, and on exactly one of three lists: free, active
 * (in the multi handle; oldest first, which is also the order of the deadlines, as all have the same total timeout), or
 * finished (result not taken yet).
 *
 * The total deadline is kept here and not by CURLOPT_TIMEOUT_MS: curl does not count the time that a transfer waits for
 * a connection. libcurl's resolver starts threads; they must never run the host process's signal handlers, so every
 * call that may start one is made with all signals blocked (a thread inherits the mask).
 */
#include "engine.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "sockets.h"
#include "transfer.h"

#define EVENTS_PER_CALL 64

/* Rounds of socket or timer work in one run, so that one engine cannot hold up its caller for ever. */
#define ROUNDS_PER_RUN 16

typedef struct TransferList {
    Transfer *head;
    Transfer *tail;
} TransferList;

struct DeliveryEngine {
    DeliveryOptions options;
    char *user_agent; /* what options points to */
    char *ca_file;
    char *client_cert;
    char *client_key;
    AddressPolicy addresses;
    CURLM *multi; /* NULL after a failure of libcurl, until the next submission */
    SocketSet sockets;
    int64_t timer_us; /* when curl wants to be called, monotonic; -1: not */
    int in_flight;    /* transfers that are active or finished */
    Transfer *transfers;
    TransferList idle;
    TransferList active;
    TransferList finished;
};

static int64_t
now_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

/* ---- Lists ---- */

static void
list_append(TransferList *list, Transfer *transfer)
{
    transfer->previous = list->tail;
    transfer->next = NULL;
    if (list->tail != NULL)
        list->tail->next = transfer;
    else
        list->head = transfer;
    list->tail = transfer;
}

static void
list_prepend(TransferList *list, Transfer *transfer)
{
    transfer->previous = NULL;
    transfer->next = list->head;
    if (list->head != NULL)
        list->head->previous = transfer;
    else
        list->tail = transfer;
    list->head = transfer;
}

static void
list_remove(TransferList *list, Transfer *transfer)
{
    *(transfer->previous != NULL ? &transfer->previous->next : &list->head) = transfer->next;
    *(transfer->next != NULL ? &transfer->next->previous : &list->tail) = transfer->previous;
}

/* CURLMOPT_QUICK_EXIT, by its number: headers that do not have it may meet a library that does. */
#define MULTI_QUICK_EXIT ((CURLMoption)21)

/* ---- What curl asks of us ---- */

/* CURLMOPT_SOCKETFUNCTION: has the set as curl wants it. */
static int
watch_socket(CURL *easy, curl_socket_t socket, int what, void *context, void *known)
{
    DeliveryEngine *engine = context;
    unsigned events = 0;

    (void)easy;
    (void)known;
    if (what == CURL_POLL_IN || what == CURL_POLL_INOUT)
        events |= EPOLLIN;
    if (what == CURL_POLL_OUT || what == CURL_POLL_INOUT)
        events |= EPOLLOUT;
    /* If not: curl gives all transfers up; recover() clears away. */
    return sockets_watch(&engine->sockets, socket, events) ? 0 : -1;
}

/* CURLMOPT_TIMERFUNCTION: notes when curl wants to be called. Must not call curl itself. */
static int
set_timer(CURLM *multi, long timeout_ms, void *context)
{
    DeliveryEngine *engine = context;

    (void)multi;
    engine->timer_us = timeout_ms < 0 ? -1 : now_us() + (int64_t)timeout_ms * 1000;
    return 0;
}

/* ---- Life ---- */

/* Makes the multi handle if there is none. */
static bool
open_multi(DeliveryEngine *engine, char *error, size_t error_size)
{
    long limit = engine->options.max_in_flight;
    CURLM *multi = engine->multi != NULL ? engine->multi : curl_multi_init();

    if (multi == engine->multi && multi != NULL)
        return true;
    engine->timer_us = -1;
    if (multi == NULL || curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, watch_socket) != CURLM_OK ||
        curl_multi_setopt(multi, CURLMOPT_SOCKETDATA, engine) != CURLM_OK ||
        curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, set_timer) != CURLM_OK ||
        curl_multi_setopt(multi, CURLMOPT_TIMERDATA, engine) != CURLM_OK ||
        curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, limit) != CURLM_OK ||
        curl_multi_setopt(multi, CURLMOPT_MAX_HOST_CONNECTIONS, limit) != CURLM_OK) {
        snprintf(error, error_size, "libcurl could not set up its multi handle");
        curl_multi_cleanup(multi);
        return false;
    }
    /* Unknown to libraries before the one that looks names up in a pool of threads (8.22 has it), and not needed there.
     */
    (void)curl_multi_setopt(multi, MULTI_QUICK_EXIT, 1L);
    engine->multi = multi;
    return true;
}

static bool
options_are_sound(const DeliveryOptions *options, char *error, size_t error_size)
{
    if (options->max_in_flight < 1 || options->max_in_flight > DELIVERY_MAX_IN_FLIGHT)
        snprintf(error, error_size, "max_in_flight must be between 1 and %d", DELIVERY_MAX_IN_FLIGHT);
    else if (options->connect_timeout_ms < 1 || options->total_timeout_ms < 1)
        snprintf(error, error_size, "timeouts must be at least 1 ms");
    else if (options->excerpt_bytes > DELIVERY_EXCERPT_MAX)
        snprintf(error, error_size, "excerpt_bytes must be at most %d", DELIVERY_EXCERPT_MAX);
    else
        return true;
    return false;
}

/* A copy of a text that may be NULL; *ok becomes false when memory runs out. */
static char *
copy_text(const char *text, bool *ok)
{
    char *copy = text != NULL ? strdup(text) : NULL;

    if (text != NULL && copy == NULL)
        *ok = false;
    return copy;
}

/* Fills a zeroed engine; what was made is the engine's, also on failure. */
static bool
set_up(DeliveryEngine *engine, const DeliveryOptions *options, char *error, size_t error_size)
{
    bool ok = true;

    engine->options = *options;
    engine->options.user_agent = engine->user_agent = copy_text(options->user_agent, &ok);
    engine->options.ca_file = engine->ca_file = copy_text(options->ca_file, &ok);
    engine->options.client_cert = engine->client_cert = copy_text(options->client_cert, &ok);
    engine->options.client_key = engine->client_key = copy_text(options->client_key, &ok);
    if (options->addresses != NULL) {
        engine->addresses = *options->addresses;
        engine->options.addresses = &engine->addresses;
    }
    engine->transfers = calloc((size_t)options->max_in_flight, sizeof(Transfer));
    if (!ok || engine->transfers == NULL) {
        snprintf(error, error_size, "out of memory");
        return false;
    }
    for (int i = 0; i < options->max_in_flight; i++)
        list_append(&engine->idle, &engine->transfers[i]);
    /* A first handle now, so that an option that this libcurl refuses is reported here. */
    return sockets_open(&engine->sockets, error, error_size) && open_multi(engine, error, error_size) &&
           transfer_open(engine->idle.head, &engine->options, &engine->sockets, error, error_size);
}

DeliveryEngine *
delivery_engine_create(const DeliveryOptions *options, char *error, size_t error_size)
{
    DeliveryEngine *engine;

    if (!options_are_sound(options, error, error_size))
        return NULL;
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) {
        snprintf(error, error_size, "libcurl could not be initialised");
        return NULL;
    }
    engine = calloc(1, sizeof *engine);
    if (engine == NULL) {
        snprintf(error, error_size, "out of memory");
        curl_global_cleanup();
        return NULL;
    }
    engine->sockets.epoll_fd = -1;
    if (!set_up(engine, options, error, error_size)) {
        delivery_engine_destroy(engine);
        return NULL;
    }
    return engine;
}

void
delivery_engine_destroy(DeliveryEngine *engine)
{
    if (engine == NULL)
        return;
    for (Transfer *transfer = engine->active.head; transfer != NULL; transfer = transfer->next)
        curl_multi_remove_handle(engine->multi, transfer->easy);
    for (int i = 0; engine->transfers != NULL && i < engine->options.max_in_flight; i++)
        transfer_close(&engine->transfers[i]);
    curl_multi_cleanup(engine->multi);
    sockets_close(&engine->sockets); /* curl had to tell it which it closes */
    free(engine->transfers);
    free(engine->user_agent);
    free(engine->ca_file);
    free(engine->client_cert);
    free(engine->client_key);
    free(engine);
    curl_global_cleanup();
}

/* ---- Submitting and running ---- */

bool
delivery_engine_submit(DeliveryEngine *engine, DeliveryRequest *request, char *error, size_t error_size)
{
    Transfer *transfer = engine->idle.head;
    char *body = request->body;
    CURLMcode code;

    if (transfer == NULL) {
        snprintf(error, error_size, "%d requests are in flight already", engine->in_flight);
        return false;
    }
    if (!open_multi(engine, error, error_size) ||
        (transfer->easy == NULL && !transfer_open(transfer, &engine->options, &engine->sockets, error, error_size)) ||
        !transfer_prepare(transfer, request, error, error_size))
        return false;
    code = curl_multi_add_handle(engine->multi, transfer->easy); /* only sets the timer; no thread starts here */
    if (code != CURLM_OK) {
        snprintf(error, error_size, "libcurl does not take the request: %s", curl_multi_strerror(code));
        transfer->body = NULL;
        request->body = body;
        transfer_close(transfer);
        return false;
    }
    transfer->started_us = now_us();
    transfer->deadline_us = transfer->started_us + (int64_t)engine->options.total_timeout_ms * 1000;
    list_remove(&engine->idle, transfer);
    list_append(&engine->active, transfer);
    engine->in_flight++;
    return true;
}

/* Takes a transfer out of the multi handle, which reads the request's memory until then, with its result. */
static void
finish(DeliveryEngine *engine, Transfer *transfer, CURLcode code)
{
    curl_multi_remove_handle(engine->multi, transfer->easy);
    transfer_finish(transfer, code, now_us());
    list_remove(&engine->active, transfer);
    list_append(&engine->finished, transfer);
}

/* After a failure of the multi handle itself: all its transfers fail, and the next submission makes a new one. */
static void
recover(DeliveryEngine *engine, CURLMcode code)
{
    char reason[128];

    snprintf(reason, sizeof reason, "libcurl failed: %s", curl_multi_strerror(code));
    while (engine->active.head != NULL) {
        Transfer *transfer = engine->active.head;

        curl_multi_remove_handle(engine->multi, transfer->easy);
        transfer_give_up(transfer, reason, now_us());
        list_remove(&engine->active, transfer);
        list_append(&engine->finished, transfer);
    }
    curl_multi_cleanup(engine->multi);
    engine->multi = NULL;
    engine->timer_us = -1;
}

static CURLMcode
run_sockets(DeliveryEngine *engine)
{
    struct epoll_event events[EVENTS_PER_CALL];
    CURLMcode code = CURLM_OK;
    int running;
    int read = EVENTS_PER_CALL;
    int count;

    for (int round = 0; round < ROUNDS_PER_RUN && read == EVENTS_PER_CALL; round++) {
        read = sockets_ready(&engine->sockets, events, EVENTS_PER_CALL, &count);
        for (int i = 0; i < count && code == CURLM_OK; i++) {
            int what = 0;

            if (events[i].events & EPOLLIN)
                what |= CURL_CSELECT_IN;
            if (events[i].events & EPOLLOUT)
                what |= CURL_CSELECT_OUT;
            if (events[i].events & (EPOLLERR | EPOLLHUP))
                what |= CURL_CSELECT_ERR | CURL_CSELECT_IN; /* reading tells which error it is */
            code = curl_multi_socket_action(engine->multi, events[i].data.fd, what, &running);
        }
    }
    return code;
}

static CURLMcode
run_timer(DeliveryEngine *engine)
{
    CURLMcode code = CURLM_OK;
    int running;

    for (int round = 0; round < ROUNDS_PER_RUN && code == CURLM_OK; round++) {
        if (engine->timer_us < 0 || engine->timer_us > now_us())
            break;
        engine->timer_us = -1; /* curl sets it anew if it wants to */
        code = curl_multi_socket_action(engine->multi, CURL_SOCKET_TIMEOUT, 0, &running);
    }
    return code;
}

/* Takes what curl has finished out of the multi handle. */
static void
collect_finished(DeliveryEngine *engine)
{
    CURLMsg *message;
    int left;

    while ((message = curl_multi_info_read(engine->multi, &left)) != NULL) {
        CURL *easy = message->easy_handle;
        CURLcode code = message->data.result;
        Transfer *transfer = NULL;

        if (message->msg != CURLMSG_DONE || curl_easy_getinfo(easy, CURLINFO_PRIVATE, &transfer) != CURLE_OK)
            continue;
        finish(engine, transfer, code);
    }
}

/* Ends what is past its deadline. */
static void
expire(DeliveryEngine *engine)
{
    int64_t now = now_us();

    while (engine->active.head != NULL && engine->active.head->deadline_us <= now)
        finish(engine, engine->active.head, CURLE_OPERATION_TIMEDOUT);
}

void
delivery_engine_run(DeliveryEngine *engine)
{
    sigset_t all;
    sigset_t before;
    CURLMcode code;

    if (engine->multi == NULL)
        return;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    code = run_sockets(engine);
    if (code == CURLM_OK)
        code = run_timer(engine);
    if (code == CURLM_OK) {
        collect_finished(engine);
        expire(engine);
    } else {
        recover(engine, code);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* ---- What the caller asks ---- */

int
delivery_engine_fd(const DeliveryEngine *engine)
{
    return engine->sockets.epoll_fd;
}

long
delivery_engine_timeout_ms(DeliveryEngine *engine)
{
    int64_t due = engine->timer_us;
    int64_t now;

    if (engine->finished.head != NULL)
        return 0;
    if (engine->active.head != NULL && (due < 0 || engine->active.head->deadline_us < due))
        due = engine->active.head->deadline_us;
    if (due < 0)
        return -1;
    now = now_us();
    return due > now ? (long)((due - now + 999) / 1000) : 0;
}

bool
delivery_engine_next_result(DeliveryEngine *engine, DeliveryResult *result)
{
    Transfer *transfer = engine->finished.head;

    if (transfer == NULL)
        return false;
    *result = transfer->result;
    list_remove(&engine->finished, transfer);
    list_prepend(&engine->idle, transfer); /* the warmest handle first */
    engine->in_flight--;
    return true;
}

int
delivery_engine_in_flight(const DeliveryEngine *engine)
{
    return engine->in_flight;
}
