/*
 * The commands, a function for each; main.c's table says what they are. Each is called once, with a command line that
 * has been checked against its description, and returns how the program is to end, after having said why.
 */
#ifndef APAPACHO_CLI_COMMANDS_H
#define APAPACHO_CLI_COMMANDS_H

#include "cli.h"

ExitCode command_run(const CommandLine *line);    /* run.c */
ExitCode command_status(const CommandLine *line); /* status.c */

extern const Option run_options[];
extern const Option status_options[];

#endif
