/*
 * database_events.h: notices, in every backend, what concerns the schedulers: extensions and databases that come and
 * go.
 */
#ifndef APAPACHO_DATABASE_EVENTS_H
#define APAPACHO_DATABASE_EVENTS_H

/* Installs the hooks; from _PG_init at preload. */
void database_events_init(void);

/* Rows of apapacho_jobs.job have changed: the scheduler of this database learns of it when the transaction commits. */
void database_events_jobs_changed(void);

#endif
