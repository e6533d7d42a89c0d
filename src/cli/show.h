/*
 * A query's answer as most commands print it: a table for people, with --json an array of objects; or a document.
 */
#ifndef APAPACHO_CLI_SHOW_H
#define APAPACHO_CLI_SHOW_H

#include "client.h"

/*
 * Prints the rows of a query, or `otherwise` where there are none. *rows, which may be NULL, is their number. On
 * anything but EXIT_DONE the reason has been told.
 */
ExitCode show_rows(Session *session, const CommandLine *line, const char *sql, int count, const char *const *values,
                   const char *otherwise, int *rows);

/* Prints the one jsonb (or json) of a query: as it is with --json, else a line for each member. */
ExitCode show_document(Session *session, const CommandLine *line, const char *sql, int count,
                       const char *const *values);

#endif
