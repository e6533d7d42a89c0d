/*
 * remote.h: the publisher of a session that a program elsewhere has opened (`apapacho-jobs outbox start`), for the
 * files that it is made of.
 */
#ifndef APAPACHO_OUTBOX_REMOTE_H
#define APAPACHO_OUTBOX_REMOTE_H

#include "fmgr.h"

#include "lib/delivery/exchange.h"
#include "outbox/publisher.h"
#include "outbox/receiver.h"
#include "server/job.h"

typedef struct RemotePublisher {
    MemoryContext context; /* NULL: none is open */
    MemoryContext scratch; /* reset at each call */
    JobRun run;
    Publisher publisher;
    bool broken;     /* an error has come in between: its slots are held until it is opened anew, nothing else */
    bool own_secret; /* the program signs what goes to the default endpoint by itself */
    char *source;    /* of CloudEvents; empty: none */
    int receiver_count;
    Receiver receivers[OUTBOX_MOST_ENDPOINTS]; /* by their numbers in the set; none for the console */
    int wants[OUTBOX_MOST_ENDPOINTS];          /* so many more requests the program would take in this call */
    int out[OUTBOX_MOST_ENDPOINTS];            /* so many are with it */
    int out_count;                             /* in all */
    HTAB *tickets;                             /* the targets of these, by the number that the program knows */
    int64 last_ticket;
    bool draining;           /* the program wants to end */
    TimestampTz settings_at; /* when the settings were loaded that it was opened with */
    double claimed_at;       /* when it last looked for events, by publisher_clock_ms() */
} RemotePublisher;

extern RemotePublisher remote;

/* What the procedures answer, and its value as their only OUT argument. */
extern ExchangeWriter remote_answer;
Datum remote_answer_value(FunctionCallInfo fcinfo);

/* An error has come: nothing is in hand any more. The slots stay until the program has heard of it. */
void remote_break(void);

/* Reads what a call says: how much is wanted, what came of earlier requests, which is noted. How long to wait, ms. */
int remote_read_call(ExchangeReader *call);

/* Whether another request could be handed out there now. */
bool remote_has_room(int endpoint);

/* Adds the requests that are ready and wanted to the answer; how many. */
int remote_hand_out(ExchangeWriter *answer);

#endif
