/*
 * What the commands of apapacho-jobs share: how a command describes itself, what it is given, and how the program
 * ends.
 *
 * Runs in the companion program, in its main thread. A CommandLine and all that it points to belong to main and live
 * until the program ends.
 */
#ifndef APAPACHO_CLI_CLI_H
#define APAPACHO_CLI_CLI_H

#include <stdbool.h>

#define PROGRAM_NAME "apapacho-jobs"

/* How the program ends. A part of the contract with scripts: see the manual page. */
typedef enum ExitCode {
    EXIT_DONE = 0,
    EXIT_FAILED = 1,        /* the server, or what was asked for, said no */
    EXIT_USAGE = 2,         /* the command line or the environment is wrong; nothing was done */
    EXIT_NO_CONNECTION = 3, /* the server cannot be reached, or the connection was lost */
    EXIT_INTERRUPTED = 130, /* by SIGINT, where that is not the usual end of the command */
} ExitCode;

typedef enum OptionKind {
    OPTION_FLAG,
    OPTION_TEXT,
    OPTION_NUMBER, /* a whole number from lowest to highest */
} OptionKind;

/* An option of a command; a list of them ends with name NULL. */
typedef struct Option {
    const char *name; /* without the dashes */
    char letter;      /* its short form; 0: none */
    OptionKind kind;
    const char *placeholder; /* of its value, for the help, e.g. "COUNT" */
    const char *help;        /* a line */
    long lowest;
    long highest;
} Option;

/* What a command is given besides its arguments. */
typedef enum CommandTraits {
    COMMAND_CONNECTS = 1, /* has the options that say where the server is */
    COMMAND_JSON = 2,     /* has --json */
} CommandTraits;

typedef struct CommandLine CommandLine;

typedef struct Command {
    const char *name;      /* one word, or two: "outbox run" */
    const char *arguments; /* for the help, e.g. "<job>"; "" for none */
    const char *summary;   /* a line without a period */
    const char *help;      /* what else there is to say, with its own line breaks; NULL: nothing */
    const Option *options; /* its own; NULL: none */
    int traits;            /* of CommandTraits */
    int least_arguments;
    int most_arguments;
    ExitCode (*run)(const CommandLine *line);
} Command;

/* The most options that a command may have of its own, and the most arguments. */
#define COMMAND_MAX_OPTIONS 24
#define COMMAND_MAX_ARGUMENTS 8

/* Every command; ends with name NULL. In main.c. */
extern const Command commands[];

#endif
