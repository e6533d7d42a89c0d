/*
 * The command `outbox start`: a publisher on this machine, which shares the work with all others of the database.
 *
 * One thread, a loop of named steps: a call tells the server what came of requests and brings the next ones, while the
 * engines send. SIGTERM or SIGINT: nothing new is begun, what is on its way ends and is recorded. Without an answer of
 * the server's nothing new is begun either, and when the connection is lost what is on its way is cut off, since the
 * server gives it to another publisher then.
 */
#include "start.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "client.h"
#include "commands.h"
#include "message.h"
#include "options.h"

/* How long a call may wait for events. */
#define IDLE_WAIT_MS 1000

/* While requests are on their way and there is room for others, it is asked so often. */
#define BUSY_LOOK_MS 50

/* Outcomes are told when there are so many, or after so long, or when an endpoint has nothing to do. */
#define TELL_COUNT 100
#define TELL_MS 10

/* It calls at the latest after so long; the server ends the session of a program that does not (start_channel.c). */
#define HEARTBEAT_MS 5000

/* A call that is answered so much later than it should be, or that comes so much later: nothing new is begun. */
#define FENCE_MS 3000

/* A line of the log when there has been nothing to do for so long, or after so long. */
#define QUIET_MS 1000
#define LOG_MS 60000

#define FIRST_PAUSE_MS 250
#define LONGEST_PAUSE_MS 10000
#define LONGEST_REFUSED_MS 60000

/* A connection that was good for so long ends the series of failures before it. */
#define STEADY_MS 60000

typedef struct Start {
    Overrides overrides;
    ConnInfo info;
    Channel channel;
    Sender sender;
    ExchangeWriter call;
    bool more;         /* the server has more to send at once */
    bool reopens;      /* the publisher is to be opened anew once nothing is on its way */
    bool at_rest;      /* the server has recorded all that was begun */
    int64_t called_ms; /* when it was called last */
    int64_t delivered; /* since the publisher was opened, as the server counts */
    int64_t failed;
    int64_t logged_delivered;
    int64_t logged_failed;
    int64_t logged_ms; /* when a line was due last */
    int64_t active_ms; /* when there was something to do last */
    int failures;      /* to connect, and of connections that were no good for long */
    int64_t connected_ms;
    Failure failure;
    ExitCode code; /* of the end, when it is one */
} Start;

/* How a time with a connection ends. */
typedef enum Outcome { ENDED, LOST } Outcome;

static volatile sig_atomic_t signals; /* SIGTERM and SIGINT so far */
static sigset_t signals_before;       /* the mask in which they come */
static volatile sig_atomic_t at_ease; /* nothing is on its way: a signal ends the program at once */

int64_t
start_clock_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void
count_signal(int signal_number)
{
    (void)signal_number;
    signals++;
    if (at_ease)
        _exit(EXIT_DONE);
}

/* They come while the program waits, and to no thread of an engine's. */
static void
catch_signals(void)
{
    struct sigaction action = {.sa_handler = count_signal};
    sigset_t stops;

    sigemptyset(&action.sa_mask);
    sigemptyset(&stops);
    sigaddset(&stops, SIGINT);
    sigaddset(&stops, SIGTERM);
    sigprocmask(SIG_BLOCK, &stops, &signals_before);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

static void
wait_for(struct pollfd *descriptors, int count, long timeout_ms)
{
    struct timespec limit = {timeout_ms / 1000, timeout_ms % 1000 * 1000000};

    (void)ppoll(descriptors, (nfds_t)count, &limit, &signals_before);
}

/* Around what waits for the server, with nothing on its way and all output written. */
static void
be_at_ease(bool ease)
{
    sigset_t stops;

    sigemptyset(&stops);
    sigaddset(&stops, SIGINT);
    sigaddset(&stops, SIGTERM);
    at_ease = ease;
    sigprocmask(ease ? SIG_UNBLOCK : SIG_BLOCK, &stops, NULL);
}

static bool
open_channel(Start *start, PGresult **opened)
{
    bool open;

    be_at_ease(true);
    open = channel_open(&start->channel, &start->overrides, opened, &start->failure);
    be_at_ease(false);
    return open;
}

/* ---- The log ---- */

/* What has been done since the last line, if anything. */
static void
log_line(Start *start)
{
    int64_t delivered = start->delivered - start->logged_delivered;
    int64_t failed = start->failed - start->logged_failed;

    start->logged_ms = start_clock_ms();
    if (delivered == 0 && failed == 0)
        return;
    printf("[Job:Outbox] Procesados: %lld, Fallidos: %lld\n", (long long)delivered, (long long)failed);
    fflush(stdout);
    start->logged_delivered = start->delivered;
    start->logged_failed = start->failed;
    sender_warn_again(&start->sender);
}

static void
log_in_between(Start *start)
{
    int64_t now = start_clock_ms();

    if (sender_in_flight(&start->sender) > 0 || sender_queued(&start->sender) > 0)
        start->active_ms = now;
    if (now - start->logged_ms >= LOG_MS || (now - start->active_ms >= QUIET_MS && start->at_rest))
        log_line(start);
}

/* The counts of a publisher that is no more are logged. */
static void
forget_counts(Start *start)
{
    log_line(start);
    start->delivered = start->failed = start->logged_delivered = start->logged_failed = 0;
}

/* ---- Calls ---- */

static bool
is_ending(const Start *start)
{
    return signals > 0 || start->reopens;
}

/* Whether there is something to tell or to ask now. */
static bool
is_call_due(const Start *start)
{
    const Sender *sender = &start->sender;
    int64_t now = start_clock_ms();

    if (now - start->called_ms >= HEARTBEAT_MS)
        return true;
    if (is_ending(start) && sender->outcome_count == 0)
        return !start->at_rest && sender_in_flight(sender) == 0 && now - start->called_ms >= TELL_MS;
    if (sender->outcome_count >= TELL_COUNT || (sender->outcome_count > 0 && now - sender->outcomes_since >= TELL_MS))
        return true;
    if (!sender_is_hungry(sender))
        return false;
    return sender->outcome_count > 0 || start->more || sender_in_flight(sender) == 0 ||
           now - start->called_ms >= BUSY_LOOK_MS;
}

static bool
call_server(Start *start)
{
    Sender *sender = &start->sender;
    ExchangeWriter *call = &start->call;
    bool idle = sender_in_flight(sender) == 0 && sender_queued(sender) == 0 && !is_ending(start);
    long wait_ms = idle ? IDLE_WAIT_MS : 0;

    exchange_reset(call);
    exchange_put_number(call, signals > 0 ? EXCHANGE_DRAIN : 0);
    exchange_put_number(call, wait_ms);
    exchange_put_number(call, sender->count);
    for (int i = 0; i < sender->count; i++)
        exchange_put_number(call, is_ending(start) ? 0 : sender_wants(sender, i));
    exchange_put_number(call, sender->outcome_count);
    exchange_append(call, &sender->outcomes);
    start->called_ms = start_clock_ms();
    if (call->failed) {
        message_error("out of memory");
        abort();
    }
    if (!channel_send(&start->channel, call, wait_ms, &start->failure))
        return false;
    sender_outcomes_sent(sender);
    return true;
}

/* Takes the server's answer, if it has come. */
static bool
take_answer(Start *start)
{
    StepAnswer answer;
    bool readable;

    if (!channel_take(&start->channel, &answer, &start->failure))
        return false;
    if (answer.result == NULL)
        return true;
    start->more = (answer.flags & EXCHANGE_MORE) != 0;
    start->reopens = start->reopens || (answer.flags & EXCHANGE_REOPEN) != 0;
    start->at_rest = answer.at_rest;
    start->delivered = answer.delivered;
    start->failed = answer.failed;
    readable = sender_take(&start->sender, &answer.requests, answer.count);
    PQclear(answer.result);
    if (!readable) {
        start->failure = (Failure){.code = EXIT_FAILED};
        text_add(&start->failure.message, "the server's answer cannot be read");
    }
    return readable;
}

/* ---- The loop ---- */

/* The server may think us dead: it does not answer as it should, or this program has stood still. */
static bool
is_fenced(const Start *start)
{
    const Channel *channel = &start->channel;
    int64_t silence = start_clock_ms() - start->called_ms;

    return silence > (channel->pending ? channel->wait_ms : HEARTBEAT_MS) + FENCE_MS;
}

static void
wait_for_something(Start *start)
{
    struct pollfd descriptors[START_MOST_ENDPOINTS + 1];
    long timeout_ms = start->channel.pending ? IDLE_WAIT_MS : BUSY_LOOK_MS;
    int count;

    if (!start->channel.pending && start->sender.outcome_count > 0)
        timeout_ms = TELL_MS;
    count = sender_poll(&start->sender, descriptors, &timeout_ms);
    descriptors[count++] = (struct pollfd){.fd = PQsocket(start->channel.session.connection),
                                           .events = (short)(start->channel.is_full ? POLLIN | POLLOUT : POLLIN)};
    wait_for(descriptors, count, timeout_ms);
}

/* Whether nothing is on its way any more, and the server knows and has recorded everything. An answer that is still to
 * come can only bring requests, which are not begun when it is the end. */
static bool
is_over(const Start *start)
{
    return is_ending(start) && (signals > 0 || !start->channel.pending) && start->at_rest &&
           sender_in_flight(&start->sender) == 0 && sender_queued(&start->sender) == 0 &&
           start->sender.outcome_count == 0;
}

static bool
open_sender(Start *start, PGresult *opened)
{
    bool ready =
        sender_open(&start->sender, &start->overrides, PQgetvalue(opened, 0, 0), (size_t)PQgetlength(opened, 0, 0));

    PQclear(opened);
    start->more = true;
    start->reopens = false;
    start->at_rest = true;
    start->called_ms = start_clock_ms();
    start->active_ms = start->logged_ms = start_clock_ms();
    if (!ready)
        start->code = EXIT_FAILED;
    return ready;
}

/* Settings or endpoints have changed. False: the program is to end, or *failure says why. */
static bool
open_again(Start *start)
{
    PGresult *opened;
    bool open;

    forget_counts(start);
    sender_close(&start->sender);
    be_at_ease(true);
    open = channel_reopen(&start->channel, &start->overrides, &opened, &start->failure);
    be_at_ease(false);
    return open && open_sender(start, opened);
}

/* Publishes until the end, or until the connection or the server's publisher is no more. */
static Outcome
publish(Start *start)
{
    while (signals < 2) {
        if (is_over(start)) {
            if (signals > 0)
                return ENDED;
            if (!open_again(start))
                return start->code == EXIT_DONE ? LOST : ENDED;
        }
        sender_pace(&start->sender);
        if (is_ending(start))
            sender_return_queued(&start->sender);
        else if (!is_fenced(start))
            sender_submit(&start->sender);
        if (!start->channel.pending && is_call_due(start) && !call_server(start))
            return LOST;
        wait_for_something(start);
        if (!take_answer(start))
            return LOST;
        sender_run(&start->sender);
        log_in_between(start);
    }
    start->code = EXIT_INTERRUPTED;
    return ENDED;
}

/* ---- Connecting ---- */

/* Doubled with each failure, and shortened by up to a quarter at random: several programs do not come at once. */
static long
pause_after(int failures, ExitCode code)
{
    long longest = code == EXIT_NO_CONNECTION ? LONGEST_PAUSE_MS : LONGEST_REFUSED_MS;
    long pause = failures < 9 ? FIRST_PAUSE_MS << (failures - 1) : longest;

    if (pause > longest)
        pause = longest;
    return pause - random() % (pause / 4);
}

static void
pause_for(long pause_ms)
{
    int64_t until = start_clock_ms() + pause_ms;

    for (long left; signals == 0 && (left = (long)(until - start_clock_ms())) > 0;)
        wait_for(NULL, 0, left);
}

static void
tell_trouble(const Start *start, bool connected, long pause_ms)
{
    const Failure *failure = &start->failure;

    message_warning("%s, trying again in %.1f s: %s",
                    failure->code != EXIT_NO_CONNECTION ? "the server has refused a publisher's call"
                    : connected                         ? "the connection is lost"
                                                        : "could not connect to PostgreSQL",
                    (double)pause_ms / 1000, text_of(&failure->message));
    if (failure->detail.length > 0)
        message_detail("%s", text_of(&failure->detail));
    if (failure->hint.length > 0)
        message_hint("%s", text_of(&failure->hint));
}

/* Connects, again and again. False: the program is to end. */
static bool
connect_again(Start *start)
{
    int64_t since = start_clock_ms();
    bool connected = true;
    PGresult *opened;

    if (since - start->connected_ms >= STEADY_MS)
        start->failures = 0;
    while (signals == 0) {
        long pause_ms = pause_after(++start->failures, start->failure.code);

        tell_trouble(start, connected, pause_ms);
        failure_free(&start->failure);
        start->failure = (Failure){0};
        connected = false;
        pause_for(pause_ms);
        if (signals > 0 || !open_channel(start, &opened))
            continue;
        start->connected_ms = start_clock_ms();
        message_warning("connected to PostgreSQL again after %.1f s", (double)(start->connected_ms - since) / 1000);
        return open_sender(start, opened);
    }
    return false;
}

static bool
connect_first(Start *start)
{
    PGresult *opened;

    if (!open_channel(start, &opened)) {
        start->code = client_fail(&start->failure);
        return false;
    }
    start->connected_ms = start_clock_ms();
    if (!open_sender(start, opened))
        return false;
    if (start->sender.console)
        printf("Publishing the outbox of database \"%s\" to the console\n", PQdb(start->channel.session.connection));
    else
        printf("Publishing the outbox of database \"%s\" to %d endpoint%s\n", PQdb(start->channel.session.connection),
               start->sender.count, start->sender.count == 1 ? "" : "s");
    fflush(stdout);
    return true;
}

/* Where the server is. False: said why. */
static bool
read_connection(const CommandLine *line, ConnInfo *info)
{
    ConnOptions options = {
        .dbname = option_text(line, "dbname"),
        .host = option_text(line, "host"),
        .port = option_text(line, "port"),
        .username = option_text(line, "username"),
        .never_prompts = true,
    };
    Text reason = {0};
    bool known = conninfo_read(&options, info, &reason);

    if (!known)
        message_error("%s", text_of(&reason));
    text_free(&reason);
    if (known)
        channel_set_defaults(info);
    return known;
}

ExitCode
command_outbox_start(const CommandLine *line)
{
    Start start = {.code = EXIT_DONE};
    bool ready = overrides_read(&start.overrides) && read_connection(line, &start.info);

    if (!ready)
        start.code = EXIT_USAGE;
    start.channel.info = &start.info;
    srandom((unsigned)getpid() ^ (unsigned)time(NULL));
    catch_signals();
    ready = ready && connect_first(&start);
    while (ready && publish(&start) == LOST) {
        sender_close(&start.sender);
        channel_close(&start.channel);
        forget_counts(&start);
        ready = connect_again(&start);
    }
    log_line(&start);
    sender_close(&start.sender);
    channel_close(&start.channel);
    failure_free(&start.failure);
    exchange_free(&start.call);
    conninfo_free(&start.info);
    overrides_free(&start.overrides);
    return start.code;
}
