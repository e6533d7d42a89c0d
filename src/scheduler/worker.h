/*
 * worker.h: the process of a run.
 */
#ifndef APAPACHO_WORKER_H
#define APAPACHO_WORKER_H

#include "postgres.h"

#include "server/compat.h"

/* Background worker's entry point; the argument is the run's slot, bgw_extra its sequence. */
PGDLLEXPORT void apapacho_worker_main(Datum argument);

#endif
