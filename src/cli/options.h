/*
 * The command line: options that all commands share, those of one, and the help on both.
 *
 * Used by main, before anything else is done; the texts are argv's own.
 */
#ifndef APAPACHO_CLI_OPTIONS_H
#define APAPACHO_CLI_OPTIONS_H

#include <stdbool.h>
#include <stdio.h>

#include "cli.h"

/* The number of options in common_options, without the end of the list. */
#define COMMON_OPTION_COUNT 7

extern const Option common_options[];

struct CommandLine {
    const Command *command; /* NULL until it is known */
    const char *arguments[COMMAND_MAX_ARGUMENTS];
    int argument_count;
    const char *common[COMMON_OPTION_COUNT];  /* values; "" for a flag; NULL: not given */
    const char *options[COMMAND_MAX_OPTIONS]; /* the command's own, in its order */
};

/*
 * Reads options from argv[*index] on. Before a command is known (line->command is NULL) it reads the common ones up to
 * the first word that is none; otherwise all there is, and the arguments. False: wrong, and said so.
 */
bool options_read(CommandLine *line, int argc, char **argv, int *index);

/* The value of an option, of the command's own or a common one; NULL: not given. Asking for one that does not exist is
 * a bug and aborts. */
const char *option_text(const CommandLine *line, const char *name);
bool option_flag(const CommandLine *line, const char *name);
long option_number(const CommandLine *line, const char *name, long otherwise);

/* A whole number that is an argument, `what` in the message; false: it is not one, and said so. */
bool argument_number(const CommandLine *line, int argument, const char *what, long lowest, long highest, long *number);

/* The command with that name; NULL: none. */
const Command *command_find(const char *name);

/* Whether "outbox" is the first word of commands. */
bool command_is_group(const char *name);

void help_program(FILE *out);
void help_group(FILE *out, const char *group);
void help_command(FILE *out, const Command *command);

/* "Try ..." after an error of usage; command may be NULL. Returns EXIT_USAGE. */
ExitCode usage_hint(const Command *command);

#endif
