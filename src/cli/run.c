/*
 * The command `run`: a job, now, with its log line on stdout as the seed's scheduler prints it. Runs in the main
 * thread.
 */
#include <stdio.h>
#include <string.h>

#include "client.h"
#include "commands.h"
#include "joblog.h"
#include "message.h"
#include "progress.h"

const Option run_options[] = {
    {"no-wait", 'n', OPTION_FLAG, NULL, "return as soon as the run is queued", 0, 0},
    {0},
};

ExitCode
command_run(const CommandLine *line)
{
    const char *values[] = {line->arguments[0], option_flag(line, "no-wait") ? "false" : "true"};
    PGresult *result;
    Session session;
    ExitCode code = client_open(&session, line);

    if (code != EXIT_DONE)
        return code;
    code =
        progress_query(&session, line->arguments[0], "SELECT @extschema@.apapacho_run_job($1, $2)", 2, values, &result);
    if (code == EXIT_DONE) {
        code = joblog_print(&session, PQgetvalue(result, 0, 0), option_flag(line, "json"));
        PQclear(result);
    }
    if (code == EXIT_INTERRUPTED)
        message_hint("A run that has begun goes on in the server; apapacho_cancel_run() ends it.");
    session_close(&session);
    return code;
}
