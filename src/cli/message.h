/*
 * What the program says on stderr, in the style of PostgreSQL's own programs ("apapacho-jobs: error: ..."), and its
 * colours.
 *
 * Any thread may call these: a message is written in one piece.
 */
#ifndef APAPACHO_CLI_MESSAGE_H
#define APAPACHO_CLI_MESSAGE_H

#include <stdio.h>

typedef enum Colour {
    COLOUR_PLAIN,
    COLOUR_BOLD,
    COLOUR_DIM,
    COLOUR_RED,
    COLOUR_GREEN,
    COLOUR_YELLOW,
} Colour;

/* The escape sequence, or "" where the stream is no terminal, or NO_COLOR (https://no-color.org) or TERM say so. */
const char *colour(FILE *stream, Colour which);

/* Each is one message or, with several lines, further lines below it. */
void message_error(const char *format, ...) __attribute__((format(printf, 1, 2)));
void message_warning(const char *format, ...) __attribute__((format(printf, 1, 2)));
void message_detail(const char *format, ...) __attribute__((format(printf, 1, 2)));
void message_hint(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
