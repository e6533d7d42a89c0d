/*
 * launcher.h: the process that keeps a scheduler running for each served database.
 */
#ifndef APAPACHO_LAUNCHER_H
#define APAPACHO_LAUNCHER_H

#include "postgres.h"

#include "server/compat.h"

/* Registers the launcher with the postmaster; from _PG_init at preload. */
void launcher_register(void);

PGDLLEXPORT void apapacho_launcher_main(Datum argument);

#endif
