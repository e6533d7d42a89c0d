/*
 * publisher.h: a publisher at work, for the parts that it is made of, and what a helper does.
 */
#ifndef APAPACHO_OUTBOX_PUBLISHER_H
#define APAPACHO_OUTBOX_PUBLISHER_H

#include "postgres.h"

#include "utils/timestamp.h"

#include "outbox/endpoint.h"
#include "outbox/hand.h"
#include "server/job.h"
#include "server/settings.h"

typedef struct Publisher {
    const JobRun *run;
    PublisherType type;
    OutboxHand *hand;
    double endpoints_at; /* when the endpoints' state was looked at last, by publisher_clock_ms() */
    int64 left;          /* events that may still be claimed */
    bool stopped;        /* nothing else is to be begun */
    int seat;            /* which slots are its, with its helpers (server/seats.h) */
    bool is_remote;      /* a program elsewhere does the sending (remote.c) */
    int part;            /* of the seat's slots: number part of parts; the helpers have the others */
    int parts;
    uint64 own_slots;               /* that it should have, as of the last claim */
    double share_until;             /* so long it waits for others to let go of some of them, by publisher_clock_ms() */
    bool (*has_room)(int endpoint); /* whether a request could be sent there at once */
    bool wants_help;                /* there is a lot to do: helpers are to be started when nothing is in hand */
    TimestampTz retry_at;           /* when the first event that waits is to be tried again; 0: none */
    TimestampTz claimed_at;         /* when it last looked at all events */
    int64 helped_at;       /* how many had been claimed when helpers were started, or there was nothing else, last */
    double next_help_at;   /* helpers are not started before */
    bool exhausted;        /* the last claim found less than it might have */
    double recorded_at;    /* when outcomes were recorded last, by publisher_clock_ms() */
    OpenTransactions open; /* at the last claim, while claims skip */
    Timestamp position;    /* events up to there need not be looked at again for now; DT_NOBEGIN: they do */
    double whole_claim_at; /* when all was looked at last, by publisher_clock_ms(), */
    double whole_claim_ms; /* and how long that took */
    bool skips;            /* others begin at the position: it passed over many events, or left many */
    bool has_passed_over;  /* the last claim has not looked at all */
    double next_claim_at;  /* not before, unless there is nothing else to do */
} Publisher;

/* Milliseconds of a clock that only goes forward. */
double publisher_clock_ms(void);

/* Writes down the outcomes that are noted; the current memory context is the run's then. */
void publisher_record(Publisher *publisher);

/* Does that from time to time, or when there are many. */
void publisher_record_in_between(Publisher *publisher);

/*
 * Publishes what is due of a part of the slots of the run's seat until a claim finds nothing. Adds to the totals, also
 * when it ends with an ERROR.
 */
void publisher_help(const JobRun *run, int seat, int part, int parts, int64 *delivered, int64 *failed);

#endif
