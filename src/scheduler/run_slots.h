/*
 * run_slots.h: the runs in shared memory, for dispatch.c and dispatch_worker.c. All but run_release_command() are to be
 * called under shared->lock, exclusive where something changes.
 */
#ifndef APAPACHO_RUN_SLOTS_H
#define APAPACHO_RUN_SLOTS_H

#include "postgres.h"

#include "server/shared.h"

/* At work, or its worker on its way. */
bool run_is_active(const RunSlot *run);

/* The slot of a job's run that is at work (or, with `queued`, of the first one queued); -1: none. */
int run_find(Oid database, int64 job, bool queued);

/* The slot of a run that is queued or at work; -1: none. */
int run_find_id(Oid database, int64 id);

/* The run that has been queued longest of those that may start; -1: none. */
int run_find_startable(void);

/* The database's scheduler; NULL: none. */
SchedulerSlot *scheduler_find(Oid database);

/* A free slot, made into a queued run; -1: all are taken. What no scheduler writes down gives way. */
int run_allocate(const RunSpec *spec);

/* The one way to change a state; wakes who waits for the run. */
void run_set_state(RunSlot *run, RunState state);

/*
 * The run is over: keeps it for those who wait and, with `unrecorded`, for its scheduler, this one or the next, to
 * write down; else frees the slot. The text of its command is the caller's to release.
 */
void run_end(RunSlot *run, const RunOutcome *outcome, bool unrecorded);
void run_end_with_error(RunSlot *run, const char *status, int sqlstate, const char *message, bool unrecorded);

/* Workers that were asked for long ago and never came will not come any more. */
void run_reap_starting(void);

/* Lets go of the text of a command for another database; without shared->lock. */
void run_release_command(dsm_handle command);

#endif
