/*
 * What may be shown on a terminal, of texts that come from elsewhere.
 */
#ifndef APAPACHO_CLI_PRINTABLE_H
#define APAPACHO_CLI_PRINTABLE_H

#include <stdbool.h>

#include "text.h"

/* The first character of a text that is not empty: its bytes, and its columns on a terminal; false: not to be shown. */
bool printable_next(const char *string, size_t *bytes, int *width);

/* Adds a text for a terminal: control characters (of C0 and C1) and broken UTF-8 as "?", so that no data can steer it.
 */
void text_add_printable(Text *text, const char *string);

#endif
