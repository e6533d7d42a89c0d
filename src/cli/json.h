/*
 * Writing JSON: texts, and the rows of a query. Pure functions on the caller's Text.
 */
#ifndef APAPACHO_CLI_JSON_H
#define APAPACHO_CLI_JSON_H

#include <libpq-fe.h>

#include "text.h"

/* Adds a string with its quotes, escaped; UTF-8 is passed on, bytes that are none become U+FFFD. */
void json_add_string(Text *text, const char *string);

/*
 * Adds a value of a result as JSON: null, booleans, numbers, json and jsonb as they are; timestamps in ISO 8601
 * (`timestamp` in UTC with Z, as the backend's tables have them); all else as a string.
 */
void json_add_value(Text *text, const PGresult *result, int row, int column);

/* Adds a row as an object whose keys are the columns' names; all rows as an array of these. */
void json_add_row(Text *text, const PGresult *result, int row);
void json_add_rows(Text *text, const PGresult *result);

#endif
