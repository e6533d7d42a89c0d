/*
 * database_events.h: notices, in every backend, what concerns the schedulers: extensions and databases that come and
 * go.
 */
#ifndef APAPACHO_DATABASE_EVENTS_H
#define APAPACHO_DATABASE_EVENTS_H

/* Installs the hooks; from _PG_init at preload. */
void database_events_init(void);

#endif
