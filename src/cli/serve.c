/*
 * The command `serve`: the seed's routes over HTTP, health, metrics. The main thread reads the options, starts the
 * daemon and the workers, ends connections that are too slow, and waits for SIGINT or SIGTERM, which all threads block.
 */
#include "serve.h"

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "bind.h"
#include "commands.h"
#include "message.h"
#include "options.h"

#define FEWEST_CONNECTIONS 16
#define OTHER_HANDLES 64 /* descriptors beside connections and workers */
#define CANCEL_MS 15000  /* for statements that were cancelled, in the end */

const Option serve_options[] = {
    {"listen", 'l', OPTION_TEXT, "ADDRESS", "address to listen on (127.0.0.1)", 0, 0},
    {"listen-port", 'P', OPTION_NUMBER, "PORT", "port to listen on (PORT, else 3001); 0: any that is free", 0, 65535},
    {"admin-key-file", 'k', OPTION_TEXT, "FILE", "file with the key of the admin routes (ADMIN_KEY, ADMIN_KEY_FILE)", 0,
     0},
    {"no-admin-key", 0, OPTION_FLAG, NULL, "admin routes without a key, on a loopback address only", 0, 0},
    {"connections", 'c', OPTION_NUMBER, "COUNT", "connections to PostgreSQL (4)", 1, SERVE_MAX_WORKERS},
    {"max-clients", 'm', OPTION_NUMBER, "COUNT", "open HTTP connections at once (4096)", FEWEST_CONNECTIONS, 1000000},
    {"timeout", 't', OPTION_NUMBER, "SECONDS", "for a client to send a request, and to take the answer (15)", 1, 3600},
    {"query-timeout", 'q', OPTION_NUMBER, "SECONDS", "for PostgreSQL to answer a route that only reads (8)", 1, 3600},
    {"grace", 'g', OPTION_NUMBER, "SECONDS", "for requests at work when it is stopped (30)", 0, 86400},
    {"access-log", 0, OPTION_FLAG, NULL, "a line on stdout for each request, without query, headers and body", 0, 0},
    {"port-file", 0, OPTION_TEXT, "FILE", "write the port there once it listens", 0, 0},
    {0},
};

/* ---- Before it starts ---- */

static bool
read_key(const CommandLine *line, Serve *serve)
{
    bool open = option_flag(line, "no-admin-key");
    bool found;

    if (!admin_key_read(&serve->key, option_text(line, "admin-key-file"), &found))
        return false;
    if (found && open) {
        message_error("there is an admin key: leave out --no-admin-key");
        return false;
    }
    if (!found && !open) {
        message_error("there is no admin key");
        message_hint("Set ADMIN_KEY, or name a file with --admin-key-file. For development on this machine alone there "
                     "is --no-admin-key.");
    }
    return found || open;
}

static bool
read_connection(const CommandLine *line, Serve *serve, int hurry_fd)
{
    ConnOptions options = {
        .dbname = option_text(line, "dbname"),
        .host = option_text(line, "host"),
        .port = option_text(line, "port"),
        .username = option_text(line, "username"),
        .never_prompts = true,
    };
    Text reason = {0};
    ConnInfo info;
    bool ok = conninfo_read(&options, &info, &reason);

    if (ok)
        database_init(&serve->database, &info, hurry_fd);
    else
        message_error("%s", text_of(&reason));
    text_free(&reason);
    conninfo_free(&info);
    return ok;
}

/* --listen-port, else PORT as Node.js programs have it; -1: that is no port, and said so. */
static int
read_port(const CommandLine *line)
{
    const char *variable = getenv("PORT");
    char *end;
    long port;

    if (option_text(line, "listen-port") != NULL || variable == NULL || *variable == '\0')
        return (int)option_number(line, "listen-port", 3001);
    port = strtol(variable, &end, 10);
    if (*end == '\0' && port >= 0 && port <= 65535)
        return (int)port;
    message_error("PORT must be a number from 0 to 65535, not \"%s\"", variable);
    return -1;
}

static bool
is_loopback(int handle)
{
    struct sockaddr_storage address = {0};
    socklen_t length = sizeof address;

    if (getsockname(handle, (struct sockaddr *)&address, &length) != 0)
        return false;
    if (address.ss_family == AF_INET)
        return ntohl(((struct sockaddr_in *)&address)->sin_addr.s_addr) >> 24 == 127;
    return address.ss_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&((struct sockaddr_in6 *)&address)->sin6_addr);
}

/* As many descriptors as there can be connections; where the system allows fewer there can be fewer. */
static int
reserve_handles(long clients, long workers)
{
    rlim_t wanted = (rlim_t)(clients + workers + OTHER_HANDLES);
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return (int)clients;
    if (limit.rlim_cur < wanted) {
        limit.rlim_cur = limit.rlim_max < wanted ? limit.rlim_max : wanted;
        setrlimit(RLIMIT_NOFILE, &limit);
        getrlimit(RLIMIT_NOFILE, &limit);
    }
    if (limit.rlim_cur >= wanted)
        return (int)clients;
    clients = (long)limit.rlim_cur - workers - OTHER_HANDLES;
    message_warning("the system allows %ld open files: at most %ld clients at once", (long)limit.rlim_cur,
                    clients > FEWEST_CONNECTIONS ? clients : FEWEST_CONNECTIONS);
    return clients > FEWEST_CONNECTIONS ? (int)clients : FEWEST_CONNECTIONS;
}

/* ---- At work ---- */

/* Waits for a signal (true) or, where it is not -1, for done_fd or until the deadline (false); in the meantime ends
 * connections that are too slow. */
static bool
wait_for_signal(Serve *serve, int signal_fd, int done_fd, int64_t deadline_ms)
{
    struct pollfd events[] = {{.fd = signal_fd, .events = POLLIN}, {.fd = done_fd, .events = POLLIN}};
    struct signalfd_siginfo signal;

    for (;;) {
        long wait = peers_sweep(&serve->peers);
        int64_t left = deadline_ms - monotonic_ms();

        if (deadline_ms > 0 && left <= 0)
            return false;
        if (poll(events, 2, (int)(deadline_ms > 0 && left < wait ? left : wait)) <= 0)
            continue;
        if (events[0].revents != 0)
            return read(signal_fd, &signal, sizeof signal) > 0;
        if (events[1].revents != 0)
            return false;
    }
}

/* Lets requests at work end; a second signal, or the end of the grace, cancels what they wait for. */
static void
finish_requests(Serve *serve, int signal_fd, long grace_ms)
{
    if (atomic_load(&serve->active) > 0 &&
        (wait_for_signal(serve, signal_fd, serve->done_fd, monotonic_ms() + grace_ms + 1) ||
         atomic_load(&serve->active) > 0)) {
        message_warning("%d requests had not ended and are cancelled", atomic_load(&serve->active));
        atomic_store(&serve->hurry, true);
        eventfd_write(serve->database.hurry_fd, 1);
        wait_for_signal(serve, signal_fd, serve->done_fd, monotonic_ms() + CANCEL_MS);
    }
}

static ExitCode
serve_until_signal(Serve *serve, const CommandLine *line, int socket, int port, int signal_fd)
{
    const char *host = option_text(line, "listen") != NULL ? option_text(line, "listen") : "127.0.0.1";
    const char *port_file = option_text(line, "port-file");
    bool ready = pool_start(serve, (int)option_number(line, "connections", 4)) && serve_http_start(serve, socket) &&
                 (port_file == NULL || bind_write_port(port_file, port));

    if (ready) {
        printf("listening on http://%s%s%s:%d/%s\n", strchr(host, ':') != NULL ? "[" : "", host,
               strchr(host, ':') != NULL ? "]" : "", port,
               serve->key.required ? "" : ", admin routes without a key for this machine");
        fflush(stdout);
        wait_for_signal(serve, signal_fd, -1, 0);
        atomic_store(&serve->stopping, true);
        MHD_quiesce_daemon(serve->daemon);
        shutdown(socket, SHUT_RDWR); /* whoever connects now is refused, and not left waiting */
        peers_end_idle(&serve->peers);
        finish_requests(serve, signal_fd, option_number(line, "grace", 30) * 1000);
    }
    atomic_store(&serve->hurry, true);
    pool_stop(serve);
    serve_http_stop(serve);
    if (ready)
        puts("stopped");
    return ready ? EXIT_DONE : EXIT_FAILED;
}

static ExitCode
listen_and_serve(Serve *serve, const CommandLine *line, int port)
{
    const char *host = option_text(line, "listen") != NULL ? option_text(line, "listen") : "127.0.0.1";
    ExitCode code = EXIT_FAILED;
    int signal_fd;
    sigset_t stops;
    int socket = bind_socket(host, port, &port);

    if (socket < 0)
        return EXIT_FAILED;
    if (!serve->key.required && !is_loopback(socket)) {
        message_error("without an admin key it listens on a loopback address only, and \"%s\" is none", host);
        close(socket);
        return usage_hint(line->command);
    }
    sigemptyset(&stops);
    sigaddset(&stops, SIGTERM);
    sigaddset(&stops, SIGINT);
    pthread_sigmask(SIG_BLOCK, &stops, NULL);
    signal_fd = signalfd(-1, &stops, SFD_CLOEXEC);
    if (signal_fd < 0)
        message_error("could not start: %s", strerror(errno));
    else
        code = serve_until_signal(serve, line, socket, port, signal_fd);
    close(signal_fd);
    close(socket);
    return code;
}

ExitCode
command_serve(const CommandLine *line)
{
    long workers = option_number(line, "connections", 4);
    Serve *serve = allocate(sizeof *serve);
    ExitCode code = EXIT_USAGE;
    int hurry_fd = eventfd(0, EFD_CLOEXEC);
    int port;

    serve->done_fd = eventfd(0, EFD_CLOEXEC);
    serve->http_wake_fd = -1;
    serve->access_log = option_flag(line, "access-log");
    serve->query_seconds = (int)option_number(line, "query-timeout", 8);
    serve->started_at = time(NULL);
    srandom((unsigned)getpid() ^ (unsigned)serve->started_at);
    port = read_port(line);
    if (hurry_fd < 0 || serve->done_fd < 0) {
        message_error("could not start: %s", strerror(errno));
        code = EXIT_FAILED;
    } else if (port < 0 || !read_key(line, serve)) {
        usage_hint(line->command);
    } else if (read_connection(line, serve, hurry_fd)) {
        peers_init(&serve->peers, reserve_handles(option_number(line, "max-clients", 4096), workers),
                   option_number(line, "timeout", 15) * 1000);
        code = listen_and_serve(serve, line, port);
        database_free(&serve->database);
    }
    close(serve->done_fd);
    close(hurry_fd);
    explicit_bzero(&serve->key, sizeof serve->key);
    free(serve);
    return code;
}
