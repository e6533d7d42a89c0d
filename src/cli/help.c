/*
 * The help, made from the commands' descriptions. Runs in main, instead of a command.
 */
#include "options.h"

#include <string.h>

static void
print_option(FILE *out, const Option *option)
{
    char left[64];

    snprintf(left, sizeof left, "%c%c%s--%s%s%s", option->letter != 0 ? '-' : ' ',
             option->letter != 0 ? option->letter : ' ', option->letter != 0 ? ", " : "  ", option->name,
             option->placeholder != NULL ? "=" : "", option->placeholder != NULL ? option->placeholder : "");
    fprintf(out, "  %-28s %s\n", left, option->help);
}

static void
print_command(FILE *out, const Command *command)
{
    char left[64];

    snprintf(left, sizeof left, "%s %s", command->name, command->arguments);
    fprintf(out, "  %-32s %s\n", left, command->summary);
}

void
help_program(FILE *out)
{
    fprintf(out,
            "%s runs and watches the scheduled jobs, the outbox and the payouts of apapacho_jobs.\n\n"
            "Usage:\n  %s [OPTION]... COMMAND [ARGUMENT]...\n\nCommands:\n",
            PROGRAM_NAME, PROGRAM_NAME);
    for (const Command *command = commands; command->name != NULL; command++)
        print_command(out, command);
    fprintf(out, "\nOptions:\n");
    for (int i = 0; i < COMMON_OPTION_COUNT; i++)
        print_option(out, &common_options[i]);
    fprintf(out, "  %-28s %s\n", "-V, --version", "show the version");
    fprintf(out,
            "\n\"%s COMMAND --help\" tells more about a command.\n"
            "Exit status: 0 done, 1 failed, 2 wrong usage, 3 no connection.\n",
            PROGRAM_NAME);
}

void
help_group(FILE *out, const char *group)
{
    size_t length = strlen(group);

    fprintf(out, "Usage:\n  %s %s COMMAND [OPTION]... [ARGUMENT]...\n\nCommands:\n", PROGRAM_NAME, group);
    for (const Command *command = commands; command->name != NULL; command++) {
        if (strncmp(command->name, group, length) == 0 && command->name[length] == ' ')
            print_command(out, command);
    }
    fprintf(out, "\n\"%s %s COMMAND --help\" tells more about a command.\n", PROGRAM_NAME, group);
}

void
help_command(FILE *out, const Command *command)
{
    fprintf(out, "%s %s: %s.\n\nUsage:\n  %s %s [OPTION]...%s%s\n", PROGRAM_NAME, command->name, command->summary,
            PROGRAM_NAME, command->name, *command->arguments != '\0' ? " " : "", command->arguments);
    if (command->help != NULL)
        fprintf(out, "\n%s\n", command->help);
    fprintf(out, "\nOptions:\n");
    for (const Option *option = command->options; option != NULL && option->name != NULL; option++)
        print_option(out, option);
    for (int i = 0; i < COMMON_OPTION_COUNT; i++) {
        const Option *option = &common_options[i];
        int trait = strcmp(option->name, "json") == 0 ? COMMAND_JSON : COMMAND_CONNECTS;

        if (strcmp(option->name, "help") == 0 || (command->traits & trait) != 0)
            print_option(out, option);
    }
}
