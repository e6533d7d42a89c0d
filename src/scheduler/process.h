/*
 * process.h: what the launcher and the schedulers have in common as processes.
 */
#ifndef APAPACHO_PROCESS_H
#define APAPACHO_PROCESS_H

#include "postgres.h"

#include "utils/timestamp.h"

/* Installs the signal handlers and lets signals through. SIGTERM asks the process to end, at once also within a
 * transaction. */
void process_setup(void);

/* Whether the process has been asked to end. */
bool process_should_exit(void);

/* Takes up a configuration reload if there is one; true if there was. */
bool process_reload(void);

/* Sleeps until the latch is set, the system's clock is set, or `until` (by the clock of due.h) has come; a minute at
 * most. */
void process_sleep(TimestampTz now, TimestampTz until);

#endif
