/*
 * The command `status`: the jobs at a glance, once or again and again. Runs in the main thread; reads only.
 */
#include <stdio.h>
#include <string.h>

#include "client.h"
#include "commands.h"
#include "message.h"
#include "table.h"

const Option status_options[] = {
    {"watch", 0, OPTION_FLAG, NULL, "show it again and again until Ctrl-C", 0, 0},
    {"interval", 'i', OPTION_NUMBER, "SECONDS", "how often, with --watch (2)", 1, 86400},
    {0},
};

static const char table_sql[] =
    "SELECT name AS \"job\", cron, CASE WHEN paused THEN 'paused' WHEN running THEN 'yes' ELSE 'no' END AS "
    "\"scheduled\","
    " CASE WHEN executing THEN concat_ws(' ', 'run', run_id, progress->>'done', 'of ' || (progress->>'total'), "
    "progress->>'message')"
    " ELSE '-' END || CASE WHEN queued > 0 THEN ', ' || queued || ' queued' ELSE '' END AS \"atWork\","
    " date_trunc('second', next_run) AS \"nextRun\", date_trunc('second', last_run) AS \"lastRun\","
    " last_status AS \"lastStatus\","
    " CASE WHEN last_error IS NOT NULL THEN last_error ELSE last_result::text END AS \"lastResult\""
    " FROM @extschema@.apapacho_job_status()";

static ExitCode
print_json(Session *session)
{
    PGresult *result;
    ExitCode code = client_query(session, "SELECT @extschema@.apapacho_scheduler_status_json()", 0, NULL, &result);

    if (code == EXIT_DONE) {
        puts(PQgetvalue(result, 0, 0));
        fflush(stdout);
        PQclear(result);
    }
    return code;
}

static ExitCode
print_table(Session *session, bool again)
{
    Text text = {0};
    PGresult *result;
    PGresult *enabled = NULL;
    ExitCode code = client_query(session,
                                 "SELECT current_setting('apapacho_jobs.enabled', true),"
                                 " date_trunc('second', clock_timestamp())",
                                 0, NULL, &enabled);

    if (code == EXIT_DONE)
        code = client_query(session, table_sql, 0, NULL, &result);
    if (code == EXIT_DONE) {
        /* The whole picture in one write, so that it does not flicker. */
        if (again)
            text_add(&text, *colour(stdout, COLOUR_PLAIN) != '\0' ? "\033[H\033[J" : "\n");
        text_format(&text, "Schedules are %s in database \"%s\" (%s).\n\n",
                    strcmp(PQgetvalue(enabled, 0, 0), "on") == 0 ? "on" : "off", PQdb(session->connection),
                    PQgetvalue(enabled, 0, 1));
        table_add(&text, result, stdout);
        fputs(text.data, stdout);
        fflush(stdout);
        text_free(&text);
        PQclear(result);
    }
    PQclear(enabled);
    return code;
}

/* The server may restart under a watch. Waits for it, longer and longer, until a connection is there or a signal. */
static ExitCode
reconnect(Session *session, const CommandLine *line)
{
    ExitCode code = EXIT_NO_CONNECTION;

    session_close(session);
    for (long pause = 1; code == EXIT_NO_CONNECTION && !client_interrupted(); pause = pause < 30 ? pause * 2 : 30) {
        message_warning("lost the connection; trying again in %ld s", pause);
        client_pause(pause);
        if (!client_interrupted())
            code = client_open(session, line);
    }
    return code;
}

ExitCode
command_status(const CommandLine *line)
{
    bool watch = option_flag(line, "watch");
    bool again = false;
    Session session;
    ExitCode code = client_open(&session, line);

    while (code == EXIT_DONE && !client_interrupted()) {
        code = option_flag(line, "json") ? print_json(&session) : print_table(&session, again);
        if (!watch || ferror(stdout))
            break;
        again = true;
        if (code == EXIT_NO_CONNECTION)
            code = reconnect(&session, line);
        else if (code == EXIT_DONE)
            client_pause(option_number(line, "interval", 2));
    }
    session_close(&session);
    return watch && client_interrupted() ? EXIT_DONE : code;
}
