/*
 * apapacho-jobs: the companion program of the extension apapacho_jobs, for running and watching its jobs from a command
 * line, a crontab or another machine. A client over libpq: whatever changes anything happens in the server.
 *
 * main reads the command line by the table below and calls the command.
 */
#include <locale.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "commands.h"
#include "message.h"
#include "options.h"

const Command commands[] = {
    {"run", "<job>", "run a job now and wait for it",
     "<job> is outbox, payout, cleanup or retry, a long name such as payoutCalculation, or a job of your own.\n"
     "The run happens in the server, is in its history like any other, and never overlaps a scheduled one.\n"
     "Ctrl-C ends the wait; a run that has begun goes on.",
     run_options, COMMAND_CONNECTS | COMMAND_JSON, 1, 1, command_run},
    {"status", "", "show the jobs: schedule, next and last run, what is at work",
     "With --json: the document {\"enabled\", \"jobs\": [{\"name\", \"cron\", \"running\", ...}]}.", status_options,
     COMMAND_CONNECTS | COMMAND_JSON, 0, 0, command_status},
    {"runs", "", "show the history of runs, the newest first",
     "A status is queued, running, succeeded, failed, timed_out, cancelled, interrupted or crashed; or, of a "
     "scheduled\n"
     "time without a run, skipped, missed, coalesced, paused or no_worker.",
     runs_options, COMMAND_CONNECTS | COMMAND_JSON, 0, 0, command_runs},
    {"cron next", "<expression>", "say what a cron expression means, and when it fires next",
     "Needs no server. Quote the expression: '0 2 * * 0'.", cron_next_options, COMMAND_JSON, 1, 1, command_cron_next},
    {"outbox start", "", "publish events from this machine, until SIGTERM or Ctrl-C",
     "Any number of these, on any machines, share the work with each other and with the server's own publisher.\n"
     "Settings and endpoints are the server's; OUTBOX_PUBLISHER_TYPE, OUTBOX_WEBHOOK_URL, OUTBOX_WEBHOOK_SECRET,\n"
     "OUTBOX_BATCH_SIZE and OUTBOX_MAX_RETRIES in the environment outweigh them here. A signal lets requests on their\n"
     "way end, a second one cuts them off.",
     NULL, COMMAND_CONNECTS, 0, 0, command_outbox_start},
    {"outbox run", "", "publish the events that are due, and end", NULL, outbox_run_options,
     COMMAND_CONNECTS | COMMAND_JSON, 0, 0, command_outbox_run},
    {"outbox stats", "", "count the events: pending, published, failed", NULL, NULL, COMMAND_CONNECTS | COMMAND_JSON, 0,
     0, command_outbox_stats},
    {"outbox cleanup", "[days]", "delete events that were published longer ago (30 days)", NULL, NULL,
     COMMAND_CONNECTS | COMMAND_JSON, 0, 1, command_outbox_cleanup},
    {"outbox retry-failed", "", "make failed events pending again", "What waits for a retry becomes due at once.", NULL,
     COMMAND_CONNECTS | COMMAND_JSON, 0, 0, command_outbox_retry_failed},
    {"outbox events", "[status]", "list events: pending, published, failed or all",
     "The newest first, without their payloads.", outbox_events_options, COMMAND_CONNECTS | COMMAND_JSON, 0, 1,
     command_outbox_events},
    {"payout preview", "", "show what the payout job would do now", "Amounts are in CLP. Nothing is written.", NULL,
     COMMAND_CONNECTS | COMMAND_JSON, 0, 0, command_payout_preview},
    {"payout eligibility", "<creator>", "show whether a creator would be paid now, and why", "Amounts are in CLP.",
     NULL, COMMAND_CONNECTS | COMMAND_JSON, 1, 1, command_payout_eligibility},
    {"payout reconcile", "", "list every difference between payouts, transactions and ledger",
     "Exit status 1 when there is one.", payout_reconcile_options, COMMAND_CONNECTS | COMMAND_JSON, 0, 0,
     command_payout_reconcile},
    {"listen", "", "receive webhooks for development: verify, show, answer as told",
     "Needs no server. Set apapacho_jobs.outbox_webhook_url to the address that it prints. Every signature that a "
     "delivery\n"
     "has must be right, and one must be there, or it is answered 401; without a secret they are not checked.\n"
     "Ctrl-C ends it.",
     listen_options, COMMAND_JSON, 0, 0, command_listen},
    {"serve", "", "serve the jobs over HTTP: status, runs, the outbox, metrics",
     "Routes: GET / lists them, GET /openapi.json describes them. /api/admin takes the header X-Admin-Key.\n"
     "It starts without the database too, and connects as soon as that is there. SIGTERM or Ctrl-C lets requests at\n"
     "work end, a second one cancels them.",
     serve_options, COMMAND_CONNECTS, 0, 0, command_serve},
    {0},
};

/* The command that the words at argv[*index] name, with *index moved past them; NULL: none, and *code is how to end. */
static const Command *
find_command(int argc, char **argv, int *index, ExitCode *code)
{
    const char *word = argv[*index];
    const Command *command = command_find(word);
    char name[64];

    *code = EXIT_USAGE;
    if (command == NULL && command_is_group(word)) {
        const char *second = *index + 1 < argc ? argv[*index + 1] : NULL;

        if (second == NULL || strcmp(second, "--help") == 0 || strcmp(second, "-?") == 0) {
            help_group(second != NULL ? stdout : stderr, word);
            *code = second != NULL ? EXIT_DONE : EXIT_USAGE;
            return NULL;
        }
        snprintf(name, sizeof name, "%s %s", word, second);
        command = command_find(name);
        word = name;
        *index += 1;
    }
    *index += 1;
    if (command == NULL) {
        message_error("unknown command \"%s\"", word);
        usage_hint(NULL);
    }
    return command;
}

/* `help`, `help outbox`, `help outbox run` */
static ExitCode
show_help(int argc, char **argv, int index)
{
    const Command *command;
    ExitCode code;

    if (index == argc || *argv[index] == '-') {
        help_program(stdout);
        return EXIT_DONE;
    }
    if (index + 1 == argc && command_is_group(argv[index])) {
        help_group(stdout, argv[index]);
        return EXIT_DONE;
    }
    command = find_command(argc, argv, &index, &code);
    if (command == NULL)
        return code;
    help_command(stdout, command);
    return EXIT_DONE;
}

/* What was printed must have arrived: a full disk is a failure. Where nobody reads any more (`| head`), the end is the
 * usual one. */
static ExitCode
finish_output(ExitCode code)
{
    struct pollfd reader = {.fd = STDOUT_FILENO};

    if (fflush(stdout) == 0 && !ferror(stdout))
        return code;
    if (poll(&reader, 1, 0) == 1 && (reader.revents & POLLERR) != 0) {
        signal(SIGPIPE, SIG_DFL);
        raise(SIGPIPE);
    }
    message_error("could not write the output");
    return code == EXIT_DONE ? EXIT_FAILED : code;
}

static ExitCode
run_program(int argc, char **argv)
{
    CommandLine line = {0};
    ExitCode code;
    int index = 1;

    if (argc == 2 && (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0)) {
        printf("%s (apapacho_jobs) %s\n", PROGRAM_NAME, APAPACHO_VERSION);
        return EXIT_DONE;
    }
    if (!options_read(&line, argc, argv, &index))
        return EXIT_USAGE;
    if (index < argc && strcmp(argv[index], "help") == 0)
        return show_help(argc, argv, index + 1);
    if (line.common[COMMON_OPTION_COUNT - 1] != NULL) /* --help */
        return show_help(argc, argv, index);
    if (index == argc) {
        help_program(stderr);
        return EXIT_USAGE;
    }
    line.command = find_command(argc, argv, &index, &code);
    if (line.command == NULL)
        return code;
    if (!options_read(&line, argc, argv, &index))
        return EXIT_USAGE;
    if (option_flag(&line, "help")) {
        help_command(stdout, line.command);
        return EXIT_DONE;
    }
    return line.command->run(&line);
}

int
main(int argc, char **argv)
{
    /* All texts are UTF-8, also where a crontab has no locale. */
    setlocale(LC_CTYPE, "");
    if (MB_CUR_MAX == 1)
        setlocale(LC_CTYPE, "C.UTF-8");
    signal(SIGPIPE, SIG_IGN);
    return (int)finish_output(run_program(argc, argv));
}
