/*
 * seats.h: the publishers that are alive in each database, and how they divide the slots of aggregates
 * (outbox/share.h) among themselves: a run of the outbox with its helpers, and sessions of publishers on other
 * machines.
 *
 * A seat says which slots a publisher should have; whether it has them, its locks say. Nobody depends on this for
 * anything but that the work is divided. Whenever a publisher comes or goes the slots are divided anew, evenly by
 * weight, with as few as possible changing hands, and every publisher of the database is woken.
 */
#ifndef APAPACHO_SEATS_H
#define APAPACHO_SEATS_H

#include "postgres.h"

#define NO_SEAT (-1)

/* A bit for each slot. */
#define ALL_SLOTS PG_UINT64_MAX

/*
 * Takes a seat in the connected database for a publisher of so many parts; NO_SEAT when there is none. It is left when
 * the process ends at the latest, after its locks are free. One for each process.
 */
int seat_take(int weight);
void seat_leave(void);

/* Of how many parts the publisher in this process's seat is. Nothing without a seat. */
void seat_set_weight(int weight);

/* The slots that a seat is to have; all without one. */
uint64 seat_slots(int seat);

/* The weight of all seats of the connected database but this one. */
int seats_others(int seat);

/* Whether the connected database has publishers at all. Takes no lock. */
bool seats_any(void);

/* Events have been committed in the connected database: its publishers are told. Never fails, takes no lock. */
void seats_note_events(void);

/* Whether that has come since it was taken last. */
bool seat_has_events(int seat);
bool seat_take_events(int seat);

#endif
