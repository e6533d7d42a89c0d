/*
 * UTF-8 as PostgreSQL takes it (RFC 3629). Pure.
 */
#ifndef APAPACHO_CLI_UTF8_H
#define APAPACHO_CLI_UTF8_H

#include <stdbool.h>
#include <stddef.h>

/* The length of the well-formed sequence at the beginning of a NUL-terminated text that is not empty; 0: there is none.
 */
size_t utf8_sequence_length(const char *text);

/* Whether a text is well-formed. */
bool utf8_is_valid(const char *text);

#endif
