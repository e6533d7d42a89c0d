/*
 * publisher.h: what a helper does.
 */
#ifndef APAPACHO_OUTBOX_PUBLISHER_H
#define APAPACHO_OUTBOX_PUBLISHER_H

#include "server/job.h"

/*
 * Publishes what is due of a part of the slots until a claim finds nothing. Adds to the totals, also when it ends with
 * an ERROR.
 */
void publisher_help(const JobRun *run, int part, int parts, int64 *delivered, int64 *failed);

#endif
