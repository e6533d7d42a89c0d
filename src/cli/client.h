/*
 * The connection of a command that a person or a script has called: opened by its options, cancelled by Ctrl-C, and
 * errors told on stderr. For the main thread; serve's threads use session.h.
 */
#ifndef APAPACHO_CLI_CLIENT_H
#define APAPACHO_CLI_CLIENT_H

#include "cli.h"
#include "options.h"
#include "session.h"

/* Connects by the command's options. On anything but EXIT_DONE the reason has been told. */
ExitCode client_open(Session *session, const CommandLine *line);

/* A further connection like the first, for whoever can do without: false when there is none, and nothing is said. */
bool client_open_second(Session *session, const Session *first);

/* session_query; on failure tells why, and gives how the program is to end. */
ExitCode client_query(Session *session, const char *sql, int count, const char *const *values, PGresult **result);

/* Tells a failure, frees it, and gives how the program is to end. */
ExitCode client_fail(Failure *failure);

/* Whether SIGINT or SIGTERM has come since client_open; a statement at work has been asked to cancel then. */
bool client_interrupted(void);

/* Waits so many seconds, or until client_interrupted(). */
void client_pause(long seconds);

#endif
