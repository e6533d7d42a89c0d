/*
 * Statements that take long, with a line on the terminal that says how far they are.
 */
#ifndef APAPACHO_CLI_PROGRESS_H
#define APAPACHO_CLI_PROGRESS_H

#include "client.h"

/*
 * client_query for a statement that runs a job. Where stderr is a terminal, a line there tells the time and, from a
 * second connection, what apapacho_job_status() says of the job; it is wiped in the end.
 */
ExitCode progress_query(Session *session, const char *job, const char *sql, int count, const char *const *values,
                        PGresult **result);

#endif
