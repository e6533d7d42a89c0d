/*
 * What a run has done, as the line that the job itself logs (spec section 7).
 */
#ifndef APAPACHO_CLI_JOBLOG_H
#define APAPACHO_CLI_JOBLOG_H

#include "session.h"

/*
 * Prints the line of a run's answer (the jsonb of apapacho_run_job and the like) on stdout, or the answer itself for
 * json, and what is to be known besides (deliveries and creators that failed) as warnings. The server takes the answer
 * apart. On anything but EXIT_DONE the reason has been told.
 */
ExitCode joblog_print(Session *session, const char *answer, bool json);

#endif
