/*
 * Internal to the command `listen`, a receiver of webhooks for development: what its files share.
 *
 * One Listen belongs to command_listen; its settings do not change while the HTTP daemon runs, its counters are atomic.
 * libmicrohttpd's threads handle the deliveries: one thread for all, or one for each connection where an answer can
 * take long.
 */
#ifndef APAPACHO_CLI_LISTEN_H
#define APAPACHO_CLI_LISTEN_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include <microhttpd.h>

#include "lib/delivery/body.h"
#include "lib/delivery/signature.h"
#include "text.h"

/* The most parts that --answer may have. */
#define LISTEN_MAX_ANSWERS 64

typedef enum AnswerKind {
    ANSWER_STATUS,
    ANSWER_RESET, /* the connection is reset */
    ANSWER_HANG,  /* nothing, until the sender gives up */
} AnswerKind;

typedef struct Answer {
    AnswerKind kind;
    unsigned int status;
    long count; /* so many deliveries in a row; of the last one: all that follow */
} Answer;

typedef enum ListenOutput { OUTPUT_BODIES, OUTPUT_LINES, OUTPUT_JSON, OUTPUT_NONE } ListenOutput;

typedef struct Listen {
    SigningKeys keys;
    bool has_keys; /* false: signatures are not looked at */
    long tolerance;
    Answer answers[LISTEN_MAX_ANSWERS];
    int answer_count;
    const char *retry_after; /* seconds, for the answers that are not 2xx; NULL: no such header */
    long delay_ms;
    const char *forward; /* URL; NULL: none */
    ListenOutput output;
    int log_fd;  /* -1: none */
    int stop_fd; /* readable as soon as the program is to end */
    atomic_bool stopping;
    atomic_long good;    /* deliveries that were answered as told, or forwarded */
    atomic_long refused; /* signature wrong or missing, or too large */
} Listen;

/* What is known of a delivery; the texts are printable copies. */
typedef struct Delivery {
    struct MHD_Connection *connection;
    const char *body;
    size_t length;
    EventBody event; /* data NULL in what is not known */
    bool is_event;   /* the body is an event of ours */
    bool too_large;  /* and not wholly there: nothing else of it is known */
    bool standard_there;
    bool legacy_there;
    SignatureVerdict standard;
    bool legacy_ok;
    bool accepted;
} Delivery;

/* What an application has said to a forwarded delivery; to be freed by text_free, both. */
typedef struct ForwardAnswer {
    unsigned int status; /* 502: it could not be reached */
    Text content_type;
    Text body;
} ForwardAnswer;

/* listen_answer.c: "503*3,reset,200"; false: wrong, and said so. */
bool listen_read_answers(Listen *listen, const char *text);
/* The answer to the delivery with this number, from 1 on. */
Answer listen_answer(const Listen *listen, long ordinal);
/* Whether an answer can occupy its thread. */
bool listen_can_wait(const Listen *listen);

/* listen_judge.c: fills the delivery from connection, body and length: what it is, and whether its signatures are
 * right. */
void listen_judge(const Listen *listen, Delivery *delivery);

/* listen_report.c: tells a delivery on stdout and in the log; answer is e.g. "200" or "reset". */
void listen_report(const Listen *listen, const Delivery *delivery, const char *answer);

/* listen_forward.c */
void listen_forward(const Listen *listen, const Delivery *delivery, ForwardAnswer *answer);

/* listen_http.c: takes the listening socket over; NULL: it could not start. */
struct MHD_Daemon *listen_start(Listen *listen, int socket);

#endif
