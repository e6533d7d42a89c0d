/*
 * payout.h: the payout room's jobs, for the table of jobs in server/entry.c. What else the room offers are SQL
 * functions (payout.sql).
 */
#ifndef APAPACHO_PAYOUT_H
#define APAPACHO_PAYOUT_H

#include "server/job.h"

/*
 * The job `payout`: pays every creator whose released transactions reach the minimum (spec section 5), in batches of
 * apapacho_jobs.payout_batch_size creators, each a transaction of its own. Result: {"created": n, "skipped": n,
 * "errors": n}, creators all three. Waits for whoever else is calculating in this database. A creator whose payout
 * fails is logged and counted; an error that is nobody's in particular ends the run. What is committed stays, and a
 * further run goes on from there.
 */
char *payout_calculate_run(JobRun *run);

/*
 * The job `retry`: emits PayoutRetryRequested for each PENDING payout whose "nextRetryAt" has come, once. Result:
 * {"pending": n, "requested": n}: those that were due, and those taken up; others were locked by somebody at that
 * moment.
 */
char *payout_retry_run(JobRun *run);

#endif
