/*
 * A time zone by its name, from the system's zone database, for src/lib/cron.
 */
#ifndef APAPACHO_CLI_ZONE_H
#define APAPACHO_CLI_ZONE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "lib/cron/cron.h"
#include "text.h"

/*
 * Makes the zone of that name ("America/Santiago") the process's, and *zone its offsets; NULL: the local one. False:
 * there is none of that name.
 */
bool zone_use(const char *name, CronZone *zone);

/* Adds an instant (seconds since 1970 UTC) in that zone: "2026-11-29 02:00:00-03"; iso: "2026-11-29T02:00:00-03:00", in
 * UTC with Z. */
void zone_add_time(Text *text, int64_t instant, bool iso);

/* The zone's name: the one given, else what the system says of the local one. */
const char *zone_name(const char *name);

#endif
