/*
 * outbox.h: the outbox room's jobs, for the table of jobs in server/entry.c. What else the room offers are SQL
 * functions (outbox.sql).
 */
#ifndef APAPACHO_OUTBOX_H
#define APAPACHO_OUTBOX_H

#include "server/job.h"

/*
 * The job `outbox`: publishes the events that are due, batch after batch, until there are none. Argument batchSize: at
 * most that many events in all. Result: {"processed": n, "failed": n, "errors": [the first three]}. At most one run at
 * a time in a database (the scheduler sees to it); nothing is locked while events are being sent. At least once: a run
 * that dies has its unrecorded events sent again by the next one, with the same ids.
 */
char *outbox_publish_run(JobRun *run);

/* From _PG_init at preload: from then on commits that add events wake a publisher. */
void outbox_watch_commits(void);

/* Whether commits of this process, a publisher, wake nobody. */
void outbox_ignore_own_commits(bool ignore);

/* The transaction makes events due: a publisher is woken when it commits, also one that waits for a failed receiver. */
void outbox_wake_at_commit(void);

/*
 * The job `cleanup`: deletes events that were published more than `days` (argument, default 30) days ago, what is left
 * over of their retries, and old runs of the history. Result: {"deleted": n}, the events.
 */
char *outbox_cleanup_run(JobRun *run);

#endif
