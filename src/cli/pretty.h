/*
 * JSON laid out for people.
 */
#ifndef APAPACHO_CLI_PRETTY_H
#define APAPACHO_CLI_PRETTY_H

#include <stddef.h>

#include "text.h"

/* The most lines that pretty_add lays out; the rest is counted. */
#define PRETTY_MAX_LINES 60

/*
 * Adds JSON with a member to a line, each line after `margin`. What is no JSON comes out as it is, only in lines;
 * nothing in it can steer a terminal.
 */
void pretty_add(Text *text, const char *json, size_t length, const char *margin);

#endif
