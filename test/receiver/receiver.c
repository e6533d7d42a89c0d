/*
 * A webhook receiver for the demo, the tests and the benches: verifies both signatures of every delivery the way a
 * customer's service would, says what came, and answers as it was told.
 *
 * A program of its own on 127.0.0.1, never part of the server. libmicrohttpd's threads run the handlers; all that they
 * share is in one Receiver that main owns: its settings do not change while the daemon runs, its counters are atomic. A
 * request's body belongs to its Request, which libmicrohttpd hands back in request_completed.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <microhttpd.h>

#include "body.h"
#include "signature.h"

#define TIMESTAMP_TOLERANCE 300           /* seconds */
#define MAX_BODY_BYTES (64 * 1024 * 1024) /* of one delivery */
#define MAX_CONNECTIONS 4096

typedef struct Receiver {
    SigningKeys keys;
    int port;
    int log_fd; /* -1: none */
    unsigned int status;
    long fail_first;
    long delay_ms;
    bool quiet;
    atomic_long requests;
    atomic_long accepted; /* answered with the wanted status, 2xx or not */
    atomic_long failed;   /* answered 500 because of --fail-first */
    atomic_long refused;  /* signature wrong, or no event at all */
} Receiver;

typedef struct Request {
    char *body;
    size_t length;
    size_t capacity;
    bool too_large;
} Request;

/* ---- One delivery ---- */

static bool
append_body(Request *request, const char *data, size_t count)
{
    size_t capacity = request->capacity > 0 ? request->capacity : 1024;
    char *grown;

    if (count > MAX_BODY_BYTES - request->length)
        return false;
    while (capacity < request->length + count)
        capacity *= 2;
    if (capacity != request->capacity) {
        grown = realloc(request->body, capacity);
        if (grown == NULL)
            return false;
        request->body = grown;
        request->capacity = capacity;
    }
    memcpy(request->body + request->length, data, count);
    request->length += count;
    return true;
}

static const char *
header_of(struct MHD_Connection *connection, const char *name)
{
    const char *value = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, name);

    return value != NULL ? value : "";
}

/* The line for people. */
static void
print_event(const Receiver *receiver, const EventBody *event, SignatureVerdict standard, bool legacy_ok,
            unsigned int status)
{
    bool valid = standard == SIGNATURE_VALID && legacy_ok;
    const char *verdict = "both signatures valid";
    char answer[32] = "";

    if (receiver->quiet)
        return;
    if (standard != SIGNATURE_VALID && !legacy_ok)
        verdict = "both signatures INVALID";
    else if (standard == SIGNATURE_BAD_TIMESTAMP)
        verdict = "standard signature INVALID (timestamp)";
    else if (standard == SIGNATURE_INVALID)
        verdict = "standard signature INVALID";
    else if (!legacy_ok)
        verdict = "legacy signature INVALID";
    if (valid && status != MHD_HTTP_OK)
        snprintf(answer, sizeof answer, "  answered %u", status);
    printf("%s %.*s  %.*s/%.*s  evt %.*s  %s%s\n", valid ? "✔" : "✘", (int)event->type.length, event->type.data,
           (int)event->aggregate_type.length, event->aggregate_type.data, (int)event->aggregate_id.length,
           event->aggregate_id.data, (int)event->id.length, event->id.data, verdict, answer);
}

/* The line for programs, in one write so that a reader never sees half of it. */
static void
log_event(const Receiver *receiver, const EventBody *event, bool standard_ok, bool legacy_ok, unsigned int status)
{
    const Slice fields[] = {event->id, event->type, event->aggregate_type, event->aggregate_id};
    char *line = NULL;
    size_t size = 32;
    size_t length = 0;

    if (receiver->log_fd < 0)
        return;
    for (int i = 0; i < 4; i++)
        size += fields[i].length + 1;
    line = malloc(size);
    if (line == NULL)
        return;
    for (int i = 0; i < 4; i++) {
        memcpy(line + length, fields[i].data, fields[i].length);
        length += fields[i].length;
        line[length++] = '\t';
    }
    length += (size_t)snprintf(line + length, size - length, "%d\t%d\t%u\n", standard_ok, legacy_ok, status);
    if (write(receiver->log_fd, line, length) != (ssize_t)length)
        fprintf(stderr, "receiver: could not write the log: %s\n", strerror(errno));
    free(line);
}

/* Verifies a complete delivery, reports it, and gives the status to answer. ordinal: 1 for the first. */
static unsigned int
judge(Receiver *receiver, struct MHD_Connection *connection, const Request *request, long ordinal)
{
    SignatureVerdict standard;
    EventBody event;
    bool legacy_ok;
    unsigned int status = receiver->status;

    if (!event_body_parse(request->body, request->length, &event)) {
        atomic_fetch_add(&receiver->refused, 1);
        fprintf(stderr, "receiver: the body is not an event\n");
        return MHD_HTTP_BAD_REQUEST;
    }
    standard = signature_standard_verify(
        &receiver->keys, header_of(connection, "webhook-id"), header_of(connection, "webhook-timestamp"), request->body,
        request->length, header_of(connection, "webhook-signature"), (int64_t)time(NULL), TIMESTAMP_TOLERANCE);
    legacy_ok = signature_legacy_verify(&receiver->keys, event.payload.data, event.payload.length,
                                        header_of(connection, "X-Webhook-Signature")) == SIGNATURE_VALID;
    if (standard != SIGNATURE_VALID || !legacy_ok) {
        status = MHD_HTTP_UNAUTHORIZED;
        atomic_fetch_add(&receiver->refused, 1);
    } else if (ordinal <= receiver->fail_first) {
        status = MHD_HTTP_INTERNAL_SERVER_ERROR;
        atomic_fetch_add(&receiver->failed, 1);
    } else {
        atomic_fetch_add(&receiver->accepted, 1);
    }
    print_event(receiver, &event, standard, legacy_ok, status);
    log_event(receiver, &event, standard == SIGNATURE_VALID, legacy_ok, status);
    return status;
}

static enum MHD_Result
answer(struct MHD_Connection *connection, unsigned int status)
{
    static char empty[] = "";
    struct MHD_Response *response = MHD_create_response_from_buffer(0, empty, MHD_RESPMEM_PERSISTENT);
    enum MHD_Result result;

    if (response == NULL)
        return MHD_NO;
    result = MHD_queue_response(connection, status, response);
    MHD_destroy_response(response);
    return result;
}

static void
wait_ms(long milliseconds)
{
    struct timespec rest = {milliseconds / 1000, milliseconds % 1000 * 1000000};

    while (clock_nanosleep(CLOCK_MONOTONIC, 0, &rest, &rest) == EINTR)
        continue;
}

/* MHD's access handler: called for the headers, for each piece of the body, and at the end. */
static enum MHD_Result
handle(void *context, struct MHD_Connection *connection, const char *url, const char *method, const char *version,
       const char *data, size_t *data_size, void **request_state)
{
    Receiver *receiver = context;
    Request *request = *request_state;
    long ordinal;

    (void)url;
    (void)version;
    if (request == NULL) {
        *request_state = request = calloc(1, sizeof *request);
        return request != NULL ? MHD_YES : MHD_NO;
    }
    if (*data_size > 0) {
        request->too_large = request->too_large || !append_body(request, data, *data_size);
        *data_size = 0;
        return MHD_YES;
    }
    if (strcmp(method, "POST") != 0)
        return answer(connection, MHD_HTTP_METHOD_NOT_ALLOWED);
    ordinal = atomic_fetch_add(&receiver->requests, 1) + 1;
    if (receiver->delay_ms > 0)
        wait_ms(receiver->delay_ms);
    if (request->too_large) {
        atomic_fetch_add(&receiver->refused, 1);
        return answer(connection, MHD_HTTP_CONTENT_TOO_LARGE);
    }
    return answer(connection, judge(receiver, connection, request, ordinal));
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
        free(request->body);
    free(request);
    *request_state = NULL;
}

/* ---- The program ---- */

static struct MHD_Daemon *
start_daemon(Receiver *receiver)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_port = htons((uint16_t)receiver->port),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    /* A delay occupies its thread, so then every connection has one of its own. */
    unsigned int flags = receiver->delay_ms > 0 ? MHD_USE_THREAD_PER_CONNECTION | MHD_USE_INTERNAL_POLLING_THREAD
                                                : MHD_USE_EPOLL_INTERNAL_THREAD;

    return MHD_start_daemon(flags | MHD_USE_ERROR_LOG, 0, NULL, NULL, handle, receiver, MHD_OPTION_SOCK_ADDR, &address,
                            MHD_OPTION_NOTIFY_COMPLETED, request_completed, NULL, MHD_OPTION_CONNECTION_LIMIT,
                            (unsigned int)(receiver->delay_ms > 0 ? 512 : MAX_CONNECTIONS), MHD_OPTION_END);
}

/* Writes the port so that a reader sees all of it or no file. */
static bool
write_port_file(const char *path, int port)
{
    size_t size = strlen(path) + sizeof ".new";
    char *fresh = malloc(size);
    FILE *file = NULL;
    bool ok = fresh != NULL;

    if (ok) {
        snprintf(fresh, size, "%s.new", path);
        file = fopen(fresh, "w");
        ok = file != NULL && fprintf(file, "%d\n", port) > 0;
        if (file != NULL)
            ok = fclose(file) == 0 && ok;
        ok = ok && rename(fresh, path) == 0;
    }
    if (!ok)
        fprintf(stderr, "receiver: could not write \"%s\": %s\n", path, strerror(errno));
    free(fresh);
    return ok;
}

/* A number of an option, or the end of the program. */
static long
number(const char *option, const char *text, long lowest, long highest)
{
    char *end;
    long value;

    errno = 0;
    value = strtol(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || value < lowest || value > highest) {
        fprintf(stderr, "receiver: --%s must be a number from %ld to %ld\n", option, lowest, highest);
        exit(2);
    }
    return value;
}

static void
usage(void)
{
    fprintf(stderr, "usage: receiver --secret SECRET [--port PORT] [--port-file FILE] [--log FILE] [--status CODE]\n"
                    "                [--fail-first COUNT] [--delay-ms MS] [--quiet]\n");
    exit(2);
}

static void
read_options(int argc, char **argv, Receiver *receiver, const char **port_file)
{
    static const struct option options[] = {
        {"port", required_argument, NULL, 'p'},
        {"secret", required_argument, NULL, 's'},
        {"port-file", required_argument, NULL, 'f'},
        {"log", required_argument, NULL, 'l'},
        {"status", required_argument, NULL, 'c'},
        {"fail-first", required_argument, NULL, 'n'},
        {"delay-ms", required_argument, NULL, 'd'},
        {"quiet", no_argument, NULL, 'q'},
        {NULL, 0, NULL, 0},
    };
    const char *secret = NULL;
    char error[256];
    int index = 0;

    for (int option; (option = getopt_long(argc, argv, "", options, &index)) != -1;) {
        if (option == 'p')
            receiver->port = (int)number("port", optarg, 0, 65535);
        else if (option == 's')
            secret = optarg;
        else if (option == 'f')
            *port_file = optarg;
        else if (option == 'l')
            receiver->log_fd = open(optarg, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
        else if (option == 'c')
            receiver->status = (unsigned int)number("status", optarg, 200, 599);
        else if (option == 'n')
            receiver->fail_first = number("fail-first", optarg, 0, 1000000000);
        else if (option == 'd')
            receiver->delay_ms = number("delay-ms", optarg, 0, 600000);
        else if (option == 'q')
            receiver->quiet = true;
        else
            usage();
        if (option == 'l' && receiver->log_fd < 0) {
            fprintf(stderr, "receiver: could not open \"%s\": %s\n", optarg, strerror(errno));
            exit(1);
        }
    }
    if (secret == NULL || optind != argc)
        usage();
    if (!signing_keys_init(&receiver->keys, secret, error, sizeof error)) {
        fprintf(stderr, "receiver: %s\n", error);
        exit(1);
    }
}

int
main(int argc, char **argv)
{
    Receiver receiver = {.log_fd = -1, .status = MHD_HTTP_OK};
    const char *port_file = NULL;
    struct MHD_Daemon *daemon;
    const union MHD_DaemonInfo *information;
    sigset_t stop;
    int signal_number;

    read_options(argc, argv, &receiver, &port_file);
    setvbuf(stdout, NULL, _IOLBF, 0);
    /* Blocked before any thread starts; only sigwait below sees them. */
    sigemptyset(&stop);
    sigaddset(&stop, SIGTERM);
    sigaddset(&stop, SIGINT);
    pthread_sigmask(SIG_BLOCK, &stop, NULL);
    signal(SIGPIPE, SIG_IGN);
    daemon = start_daemon(&receiver);
    if (daemon == NULL) {
        fprintf(stderr, "receiver: could not listen on 127.0.0.1 port %d\n", receiver.port);
        return 1;
    }
    information = MHD_get_daemon_info(daemon, MHD_DAEMON_INFO_BIND_PORT);
    if (information == NULL || (port_file != NULL && !write_port_file(port_file, information->port))) {
        MHD_stop_daemon(daemon);
        return 1;
    }
    if (!receiver.quiet)
        printf("receiver: listening on 127.0.0.1 port %d\n", (int)information->port);
    sigwait(&stop, &signal_number);
    MHD_stop_daemon(daemon);
    printf("receiver: %ld requests: %ld answered %u, %ld answered 500 on demand, %ld refused\n",
           atomic_load(&receiver.requests), atomic_load(&receiver.accepted), receiver.status,
           atomic_load(&receiver.failed), atomic_load(&receiver.refused));
    signing_keys_wipe(&receiver.keys);
    if (receiver.log_fd >= 0)
        close(receiver.log_fd);
    return 0;
}
