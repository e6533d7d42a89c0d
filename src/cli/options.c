/*
 * Reads the command line by the commands' own descriptions, and makes the help from the same, so that they agree.
 * Runs in main before anything else.
 */
#include "options.h"

#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "message.h"
#include "text.h"

/* Without --help and --version, which main looks for itself. */
const Option common_options[COMMON_OPTION_COUNT + 1] = {
    {"dbname", 'd', OPTION_TEXT, "DBNAME", "database name, connection string or URL (default: DATABASE_URL, PG*)", 0,
     0},
    {"host", 'h', OPTION_TEXT, "HOSTNAME", "server's host or the directory of its socket", 0, 0},
    {"port", 'p', OPTION_TEXT, "PORT", "server's port", 0, 0},
    {"username", 'U', OPTION_TEXT, "USERNAME", "role to connect as", 0, 0},
    {"no-password", 'w', OPTION_FLAG, NULL, "never ask for a password", 0, 0},
    {"json", 'j', OPTION_FLAG, NULL, "print JSON rather than text for people", 0, 0},
    {"help", '?', OPTION_FLAG, NULL, "show this help", 0, 0},
    {NULL, 0, OPTION_FLAG, NULL, NULL, 0, 0},
};

/* Whether a command takes this common option. */
static bool
takes_common(const Command *command, const Option *option)
{
    if (command == NULL || strcmp(option->name, "help") == 0)
        return true;
    return (command->traits & (strcmp(option->name, "json") == 0 ? COMMAND_JSON : COMMAND_CONNECTS)) != 0;
}

const Command *
command_find(const char *name)
{
    for (const Command *command = commands; command->name != NULL; command++) {
        if (strcmp(command->name, name) == 0)
            return command;
    }
    return NULL;
}

bool
command_is_group(const char *name)
{
    size_t length = strlen(name);

    for (const Command *command = commands; command->name != NULL; command++) {
        if (strncmp(command->name, name, length) == 0 && command->name[length] == ' ')
            return true;
    }
    return false;
}

ExitCode
usage_hint(const Command *command)
{
    message_hint("Try \"%s%s%s --help\" for more information.", PROGRAM_NAME, command != NULL ? " " : "",
                 command != NULL ? command->name : "");
    return EXIT_USAGE;
}

static bool
read_number(const char *text, long lowest, long highest, long *number)
{
    char *end;

    errno = 0;
    *number = strtol(text, &end, 10);
    return errno == 0 && end != text && *end == '\0' && *number >= lowest && *number <= highest;
}

static bool
check_value(const CommandLine *line, const Option *option, const char *value)
{
    long number;

    if (option->kind != OPTION_NUMBER || read_number(value, option->lowest, option->highest, &number))
        return true;
    message_error("--%s must be a number from %ld to %ld, not \"%s\"", option->name, option->lowest, option->highest,
                  value);
    usage_hint(line->command);
    return false;
}

/* What getopt_long needs to know, made from our own descriptions; its values are the places in `known`. */
typedef struct Parser {
    struct option longs[COMMON_OPTION_COUNT + COMMAND_MAX_OPTIONS + 1];
    char letters[2 * (COMMON_OPTION_COUNT + COMMAND_MAX_OPTIONS) + 3];
    const Option *known[COMMON_OPTION_COUNT + COMMAND_MAX_OPTIONS];
    const char **values[COMMON_OPTION_COUNT + COMMAND_MAX_OPTIONS];
    int count;
} Parser;

static void
parser_add(Parser *parser, const Option *option, const char **value)
{
    size_t length = strlen(parser->letters);

    parser->longs[parser->count] = (struct option){
        option->name, option->kind == OPTION_FLAG ? no_argument : required_argument, NULL, 1000 + parser->count};
    /* "?" is what getopt_long says of unknown ones: see options_read. */
    if (option->letter != 0 && option->letter != '?') {
        parser->letters[length++] = option->letter;
        if (option->kind != OPTION_FLAG)
            parser->letters[length] = ':';
    }
    parser->known[parser->count] = option;
    parser->values[parser->count++] = value;
}

/* The command's own options come first: its letters outweigh the common ones. */
static void
parser_init(Parser *parser, CommandLine *line)
{
    const Command *command = line->command;

    *parser = (Parser){.letters = "+:"};
    if (command != NULL)
        strcpy(parser->letters, ":");
    for (int i = 0; command != NULL && command->options != NULL && command->options[i].name != NULL; i++)
        parser_add(parser, &command->options[i], &line->options[i]);
    for (int i = 0; i < COMMON_OPTION_COUNT; i++) {
        if (takes_common(command, &common_options[i]))
            parser_add(parser, &common_options[i], &line->common[i]);
    }
}

/* The option that getopt_long has found; -1: none of ours. */
static int
parser_find(const Parser *parser, int found)
{
    if (found >= 1000)
        return found - 1000;
    for (int i = 0; i < parser->count; i++) {
        if (found == parser->known[i]->letter)
            return i;
    }
    return -1;
}

static void
complain(const CommandLine *line, int found, const char *word)
{
    if (found == ':')
        message_error("option %s needs a value", word);
    else if (word[0] == '-' && word[1] != '-' && optopt != 0)
        message_error("unrecognized option \"-%c\"", optopt);
    else
        message_error("unrecognized option \"%s\"", word);
    usage_hint(line->command);
}

/* What stood before the command was read before it was known. */
static bool
check_common(const CommandLine *line)
{
    for (int i = 0; i < COMMON_OPTION_COUNT; i++) {
        if (line->common[i] == NULL || takes_common(line->command, &common_options[i]))
            continue;
        message_error("option --%s before the command is of no use to \"%s\"", common_options[i].name,
                      line->command->name);
        usage_hint(line->command);
        return false;
    }
    return true;
}

static bool
take_arguments(CommandLine *line, int argc, char **argv)
{
    const Command *command = line->command;

    line->argument_count = argc - optind;
    if (line->common[COMMON_OPTION_COUNT - 1] != NULL) /* --help: the arguments do not matter */
        return true;
    if (line->argument_count < command->least_arguments) {
        message_error("%s needs an argument: %s", command->name, command->arguments);
        usage_hint(command);
        return false;
    }
    if (line->argument_count > command->most_arguments) {
        message_error("too many arguments, the first of them is \"%s\"", argv[optind + command->most_arguments]);
        usage_hint(command);
        return false;
    }
    for (int i = 0; i < line->argument_count; i++)
        line->arguments[i] = argv[optind + i];
    return true;
}

bool
options_read(CommandLine *line, int argc, char **argv, int *index)
{
    Parser parser;
    int found;
    int which;

    parser_init(&parser, line);
    opterr = 0;
    /* getopt_long begins at element 1 of what it is given. */
    argc -= *index - 1;
    argv += *index - 1;
    optind = 0;
    while ((found = getopt_long(argc, argv, parser.letters, parser.longs, NULL)) != -1) {
        which = found != '?' || optopt == '?' ? parser_find(&parser, found) : -1;
        if (which < 0) {
            complain(line, found, argv[optind - 1]);
            return false;
        }
        if (optarg != NULL && !check_value(line, parser.known[which], optarg))
            return false;
        *parser.values[which] = optarg != NULL ? optarg : "";
        optopt = 0;
    }
    *index += optind - 1;
    return line->command == NULL || (check_common(line) && take_arguments(line, argc, argv));
}

const char *
option_text(const CommandLine *line, const char *name)
{
    for (int i = 0; line->command->options != NULL && line->command->options[i].name != NULL; i++) {
        if (strcmp(line->command->options[i].name, name) == 0)
            return line->options[i];
    }
    for (int i = 0; i < COMMON_OPTION_COUNT; i++) {
        if (strcmp(common_options[i].name, name) == 0)
            return line->common[i];
    }
    abort();
}

bool
option_flag(const CommandLine *line, const char *name)
{
    return option_text(line, name) != NULL;
}

long
option_number(const CommandLine *line, const char *name, long otherwise)
{
    const char *text = option_text(line, name);

    return text != NULL ? strtol(text, NULL, 10) : otherwise;
}

bool
argument_number(const CommandLine *line, int argument, const char *what, long lowest, long highest, long *number)
{
    if (read_number(line->arguments[argument], lowest, highest, number))
        return true;
    message_error("%s must be a number from %ld to %ld, not \"%s\"", what, lowest, highest, line->arguments[argument]);
    usage_hint(line->command);
    return false;
}
