/*
 * The commands, a function for each; main.c's table says what they are. Each is called once, with a command line that
 * has been checked against its description, and returns how the program is to end, after having said why.
 */
#ifndef APAPACHO_CLI_COMMANDS_H
#define APAPACHO_CLI_COMMANDS_H

#include "cli.h"

ExitCode command_run(const CommandLine *line);                 /* run.c */
ExitCode command_status(const CommandLine *line);              /* status.c */
ExitCode command_runs(const CommandLine *line);                /* runs.c */
ExitCode command_cron_next(const CommandLine *line);           /* cron.c */
ExitCode command_outbox_start(const CommandLine *line);        /* start.c */
ExitCode command_outbox_run(const CommandLine *line);          /* outbox.c */
ExitCode command_outbox_stats(const CommandLine *line);        /* outbox.c */
ExitCode command_outbox_cleanup(const CommandLine *line);      /* outbox.c */
ExitCode command_outbox_retry_failed(const CommandLine *line); /* outbox.c */
ExitCode command_outbox_events(const CommandLine *line);       /* outbox.c */
ExitCode command_payout_preview(const CommandLine *line);      /* payout.c */
ExitCode command_payout_eligibility(const CommandLine *line);  /* payout.c */
ExitCode command_payout_reconcile(const CommandLine *line);    /* payout.c */
ExitCode command_listen(const CommandLine *line);              /* listen.c */
ExitCode command_serve(const CommandLine *line);               /* serve.c */

extern const Option run_options[];
extern const Option status_options[];
extern const Option runs_options[];
extern const Option cron_next_options[];
extern const Option outbox_run_options[];
extern const Option outbox_events_options[];
extern const Option payout_reconcile_options[];
extern const Option listen_options[];
extern const Option serve_options[];

#endif
