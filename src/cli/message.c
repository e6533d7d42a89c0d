/*
 * Messages on stderr and colours. Any thread of the program; a message is one write.
 */
#include "message.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"
#include "printable.h"
#include "text.h"

const char *
colour(FILE *stream, Colour which)
{
    static const char *const sequences[] = {"\033[0m", "\033[1m", "\033[2m", "\033[31m", "\033[32m", "\033[33m"};
    const char *terminal = getenv("TERM");
    const char *refused = getenv("NO_COLOR");

    if ((refused != NULL && *refused != '\0') || terminal == NULL || strcmp(terminal, "dumb") == 0 ||
        !isatty(fileno(stream)))
        return "";
    return sequences[which];
}

/* Adds one line, which `*rest` moves behind; tabs stay, and nothing in it can steer the terminal: the server's messages
 * repeat what users' functions have raised. */
static void
add_line(Text *message, char **rest)
{
    for (char *piece = *rest, end = '\t'; end == '\t'; piece = *rest) {
        char *behind = piece + strcspn(piece, "\t\n");

        end = *behind;
        *behind = '\0';
        text_add_printable(message, piece);
        text_add(message, end == '\t' ? "\t" : "\n");
        *rest = end == '\0' ? behind : behind + 1;
    }
}

/* Lines after the first are indented, so that they are seen to belong to it. */
static void
say(const char *kind, Colour tint, const char *format, va_list arguments)
{
    Text body = {0};
    Text message = {0};
    char *rest;

    text_format_list(&body, format, arguments);
    while (body.length > 0 && body.data[body.length - 1] == '\n')
        body.data[--body.length] = '\0';
    text_format(&message, "%s: %s%s:%s ", PROGRAM_NAME, colour(stderr, tint), kind, colour(stderr, COLOUR_PLAIN));
    rest = body.data;
    add_line(&message, &rest);
    while (*rest != '\0') {
        text_add(&message, "    ");
        add_line(&message, &rest);
    }
    fflush(stdout);
    fwrite(message.data, 1, message.length, stderr);
    fflush(stderr);
    text_free(&message);
    text_free(&body);
}

#define DEFINE_MESSAGE(name, kind, tint)                                                                               \
    void name(const char *format, ...)                                                                                 \
    {                                                                                                                  \
        va_list arguments;                                                                                             \
                                                                                                                       \
        va_start(arguments, format);                                                                                   \
        say(kind, tint, format, arguments);                                                                            \
        va_end(arguments);                                                                                             \
    }

DEFINE_MESSAGE(message_error, "error", COLOUR_RED)
DEFINE_MESSAGE(message_warning, "warning", COLOUR_YELLOW)
DEFINE_MESSAGE(message_detail, "detail", COLOUR_BOLD)
DEFINE_MESSAGE(message_hint, "hint", COLOUR_BOLD)
