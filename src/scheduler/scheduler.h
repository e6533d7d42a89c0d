/*
 * scheduler.h: the process that starts the jobs of one database when they are due.
 */
#ifndef APAPACHO_SCHEDULER_H
#define APAPACHO_SCHEDULER_H

#include "postgres.h"

#include "server/compat.h"

/* Background worker's entry point; the argument is the scheduler's slot, bgw_extra the database. */
PGDLLEXPORT void apapacho_scheduler_main(Datum argument);

#endif
