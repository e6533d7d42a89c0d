/*
 * Rows of a query as a table for people.
 */
#ifndef APAPACHO_CLI_TABLE_H
#define APAPACHO_CLI_TABLE_H

#include <libpq-fe.h>
#include <stdio.h>

#include "printable.h"
#include "text.h"

/*
 * Adds the rows as an aligned table for `stream`: headings from the columns' names ("lastError" is "last error"),
 * numbers to the right, what is not printable as "?", one line for each row, cells of 60 columns at most. A cell that
 * is the name of a status has that status's colour. Without rows: the heading alone.
 */
void table_add(Text *text, const PGresult *result, FILE *stream);

/* Adds a key of JSON or a column's name as words: "lastError" is "last error". */
void table_add_heading(Text *text, const char *name);

#endif
