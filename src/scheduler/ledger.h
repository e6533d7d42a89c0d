/*
 * ledger.h: what a scheduler has to write into the history but cannot just now, because the table is locked.
 *
 * Jobs do not wait for that: which slots are taken is in apapacho_jobs.job_state already, the rows follow. They are
 * kept in the scheduler's memory, and would be lost with it.
 */
#ifndef APAPACHO_LEDGER_H
#define APAPACHO_LEDGER_H

#include "postgres.h"

#include "scheduler/history.h"

/* Keeps a copy of the row to be written. */
void ledger_add(const RunRecord *record);

/*
 * Writes what is kept. Returns when to try again; 0: nothing is kept. The table is left alone for some seconds after a
 * lock was found on it (ledger_is_blocked). A transaction of its own.
 */
TimestampTz ledger_flush(TimestampTz now);

/* history_notify() for a row that has been written; failing to is reported only. */
void ledger_notify(const RunRecord *record);

bool ledger_is_empty(void);
bool ledger_is_blocked(TimestampTz now);

/* The table was found locked. */
void ledger_note_blocked(TimestampTz now);

/* Rows written since the last call: how fast the history grows. */
int ledger_take_written(void);
void ledger_count_written(int rows);

#endif
