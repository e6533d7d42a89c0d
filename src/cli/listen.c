/*
 * The command `listen`: a receiver of webhooks for development, like those that payment providers ship. It verifies the
 * signatures as a customer's service would, shows what comes, and answers as it was told.
 *
 * The main thread reads the options, starts the daemon, and waits for SIGINT or SIGTERM, which all threads block.
 */
#include "listen.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <curl/curl.h>

#include "bind.h"
#include "commands.h"
#include "lib/delivery/url.h"
#include "message.h"
#include "options.h"

const Option listen_options[] = {
    {"port", 'p', OPTION_NUMBER, "PORT", "port to listen on (4000); 0: any that is free", 0, 65535},
    {"host", 'h', OPTION_TEXT, "ADDRESS", "address to listen on (127.0.0.1)", 0, 0},
    {"secret-file", 's', OPTION_TEXT, "FILE", "file with the secret (OUTBOX_WEBHOOK_SECRET_FILE)", 0, 0},
    {"secret", 0, OPTION_TEXT, "SECRET", "the secret itself, which others can see (OUTBOX_WEBHOOK_SECRET)", 0, 0},
    {"public-key", 'k', OPTION_TEXT, "KEY", "whpk_... that verifies Ed25519 signatures (v1a)", 0, 0},
    {"tolerance", 't', OPTION_NUMBER, "SECONDS", "how old or early a signature may be (300)", 1, 1000000000},
    {"answer", 'a', OPTION_TEXT, "LIST", "answers in turn, the last for all others: 503*3,reset,hang,200", 0, 0},
    {"retry-after", 0, OPTION_NUMBER, "SECONDS", "send this header with answers that are not 2xx", 0, 1000000000},
    {"delay-ms", 'd', OPTION_NUMBER, "MS", "wait before each answer", 0, 600000},
    {"forward", 'f', OPTION_TEXT, "URL", "hand deliveries on, and answer what the URL answers", 0, 0},
    {"brief", 'b', OPTION_FLAG, NULL, "a line for each delivery, without its payload", 0, 0},
    {"quiet", 'q', OPTION_FLAG, NULL, "print nothing of deliveries", 0, 0},
    {"log", 0, OPTION_TEXT, "FILE", "append lines of id, type, aggregate, both verdicts (1 valid), answer", 0, 0},
    {"port-file", 0, OPTION_TEXT, "FILE", "write the port there once it listens", 0, 0},
    {0},
};

/* The first line of a file, malloc'ed; NULL: it cannot be read, and said so. */
static char *
read_secret(const char *path)
{
    FILE *file = fopen(path, "r");
    char line[SIGNATURE_SECRET_MAX + 3] = "";

    if (file == NULL || (fgets(line, sizeof line, file) == NULL && ferror(file))) {
        message_error("could not read the secret's file \"%s\": %s", path, strerror(errno));
        if (file != NULL)
            fclose(file);
        return NULL;
    }
    fclose(file);
    line[strcspn(line, "\r\n")] = '\0';
    return copy_string(line);
}

/* From the options, else from the environment; without any, signatures are not checked. */
static bool
read_keys(const CommandLine *line, Listen *listen)
{
    const char *public_key = option_text(line, "public-key");
    const char *secret = option_text(line, "secret");
    const char *file = option_text(line, "secret-file");
    char *from_file = NULL;
    char error[256];

    if ((public_key != NULL) + (secret != NULL) + (file != NULL) > 1) {
        message_error("give one of --secret-file, --secret and --public-key");
        return false;
    }
    if (public_key == NULL && secret == NULL && file == NULL) {
        secret = getenv("OUTBOX_WEBHOOK_SECRET");
        file = secret == NULL || *secret == '\0' ? getenv("OUTBOX_WEBHOOK_SECRET_FILE") : NULL;
    }
    if (file != NULL && *file != '\0') {
        secret = from_file = read_secret(file);
        if (secret == NULL)
            return false;
    }
    if (public_key != NULL)
        listen->has_keys = signing_keys_init_public(&listen->keys, public_key, error, sizeof error);
    else if (secret != NULL && (*secret != '\0' || from_file != NULL || option_text(line, "secret") != NULL))
        listen->has_keys = signing_keys_init(&listen->keys, secret, error, sizeof error);
    else
        return true;
    if (from_file != NULL)
        explicit_bzero(from_file, strlen(from_file));
    free(from_file);
    if (!listen->has_keys)
        message_error("%s", error);
    return listen->has_keys;
}

static bool
read_behaviour(const CommandLine *line, Listen *listen)
{
    const char *answers = option_text(line, "answer");
    char error[256];

    listen->delay_ms = option_number(line, "delay-ms", 0);
    listen->retry_after = option_text(line, "retry-after");
    listen->tolerance = option_number(line, "tolerance", 300);
    listen->forward = option_text(line, "forward");
    listen->output = option_flag(line, "json")    ? OUTPUT_JSON
                     : option_flag(line, "quiet") ? OUTPUT_NONE
                     : option_flag(line, "brief") ? OUTPUT_LINES
                                                  : OUTPUT_BODIES;
    if (listen->forward != NULL && answers != NULL) {
        message_error("with --forward, the URL gives the answers: leave out --answer");
        return false;
    }
    if (listen->forward != NULL && !delivery_url_check(listen->forward, error, sizeof error)) {
        message_error("--forward: %s", error);
        return false;
    }
    return answers == NULL || listen_read_answers(listen, answers);
}

static bool
open_log(const CommandLine *line, Listen *listen)
{
    const char *path = option_text(line, "log");

    if (path == NULL)
        return true;
    listen->log_fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (listen->log_fd < 0)
        message_error("could not open \"%s\": %s", path, strerror(errno));
    return listen->log_fd >= 0;
}

static void
say_hello(const Listen *listen, const char *host, int port)
{
    if (listen->output == OUTPUT_JSON || listen->output == OUTPUT_NONE)
        return;
    printf("listening on http://%s%s%s:%d/%s\n", strchr(host, ':') != NULL ? "[" : "", host,
           strchr(host, ':') != NULL ? "]" : "", port,
           listen->has_keys ? "" : ", without a secret: signatures are not checked");
    fflush(stdout);
}

/* Serves until a signal comes, which every thread has blocked. */
static ExitCode
serve(Listen *listen, const CommandLine *line, const sigset_t *stops)
{
    const char *host = option_text(line, "host") != NULL ? option_text(line, "host") : "127.0.0.1";
    const char *port_file = option_text(line, "port-file");
    int port = 0;
    int handle = bind_socket(host, (int)option_number(line, "port", 4000), &port);
    struct MHD_Daemon *daemon;
    int signal_number;

    if (handle < 0)
        return EXIT_FAILED;
    daemon = listen_start(listen, handle);
    if (daemon == NULL) {
        message_error("could not start the HTTP server");
        close(handle);
        return EXIT_FAILED;
    }
    if (port_file == NULL || bind_write_port(port_file, port)) {
        say_hello(listen, host, port);
        sigwait(stops, &signal_number);
    } else {
        port = 0;
    }
    atomic_store(&listen->stopping, true);
    eventfd_write(listen->stop_fd, 1);
    MHD_stop_daemon(daemon);
    if (port == 0)
        return EXIT_FAILED;
    if (listen->output != OUTPUT_JSON)
        printf("%ld deliveries, %ld refused\n", atomic_load(&listen->good) + atomic_load(&listen->refused),
               atomic_load(&listen->refused));
    return EXIT_DONE;
}

ExitCode
command_listen(const CommandLine *line)
{
    Listen listen = {.log_fd = -1, .stop_fd = -1};
    ExitCode code = EXIT_FAILED;
    sigset_t stops;

    if (!read_behaviour(line, &listen) || !read_keys(line, &listen))
        return usage_hint(line->command);
    sigemptyset(&stops);
    sigaddset(&stops, SIGTERM);
    sigaddset(&stops, SIGINT);
    pthread_sigmask(SIG_BLOCK, &stops, NULL);
    listen.stop_fd = eventfd(0, EFD_CLOEXEC);
    if (listen.stop_fd < 0 || curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
        message_error("could not start: %s", strerror(errno));
    else if (open_log(line, &listen))
        code = serve(&listen, line, &stops);
    if (listen.log_fd >= 0)
        close(listen.log_fd);
    if (listen.stop_fd >= 0)
        close(listen.stop_fd);
    signing_keys_wipe(&listen.keys);
    curl_global_cleanup();
    return code;
}
