/*
 * The commands `outbox ...`: the outbox by hand, as the seed's outboxWorker does it. Each is a call of an SQL function;
 * publishing and deleting happen in the server's worker. Runs in the main thread.
 */
#include <stdio.h>
#include <string.h>

#include "client.h"
#include "commands.h"
#include "joblog.h"
#include "message.h"
#include "progress.h"
#include "show.h"

const Option outbox_run_options[] = {
    {"batch-size", 'n', OPTION_NUMBER, "COUNT", "at most so many events (all that are due)", 1, 2147483647},
    {0},
};

const Option outbox_events_options[] = {
    {"limit", 'n', OPTION_NUMBER, "COUNT", "at most so many (50)", 1, 1000000},
    {"offset", 'o', OPTION_NUMBER, "COUNT", "leave out the first so many (0)", 0, 2147483647},
    {0},
};

/* A function that runs a job, and its answer as a line of the job's log. */
static ExitCode
run_by(const CommandLine *line, const char *job, const char *sql, const char *argument)
{
    PGresult *result;
    Session session;
    ExitCode code = client_open(&session, line);

    if (code == EXIT_DONE)
        code = progress_query(&session, job, sql, 1, &argument, &result);
    if (code == EXIT_DONE) {
        code = joblog_print(&session, PQgetvalue(result, 0, 0), option_flag(line, "json"));
        PQclear(result);
    }
    session_close(&session);
    return code;
}

ExitCode
command_outbox_run(const CommandLine *line)
{
    return run_by(line, "outbox", "SELECT @extschema@.apapacho_outbox_process($1)", option_text(line, "batch-size"));
}

ExitCode
command_outbox_cleanup(const CommandLine *line)
{
    const char *days = line->argument_count > 0 ? line->arguments[0] : "30";
    long number;

    if (line->argument_count > 0 && !argument_number(line, 0, "the number of days", 0, 36500, &number))
        return EXIT_USAGE;
    return run_by(line, "cleanup", "SELECT @extschema@.apapacho_outbox_cleanup($1)", days);
}

ExitCode
command_outbox_stats(const CommandLine *line)
{
    Session session;
    ExitCode code = client_open(&session, line);

    if (code == EXIT_DONE)
        code = show_document(&session, line, "SELECT @extschema@.apapacho_outbox_stats()", 0, NULL);
    session_close(&session);
    return code;
}

ExitCode
command_outbox_retry_failed(const CommandLine *line)
{
    PGresult *result;
    Session session;
    ExitCode code = client_open(&session, line);

    if (code == EXIT_DONE)
        code = client_query(&session, "SELECT @extschema@.apapacho_outbox_retry_failed()", 0, NULL, &result);
    if (code == EXIT_DONE) {
        if (option_flag(line, "json"))
            printf("{\"retried\": %s}\n", PQgetvalue(result, 0, 0));
        else
            printf("%s failed events are pending again\n", PQgetvalue(result, 0, 0));
        PQclear(result);
    }
    session_close(&session);
    return code;
}

ExitCode
command_outbox_events(const CommandLine *line)
{
    const char *status = line->argument_count > 0 ? line->arguments[0] : "pending";
    const char *limit = option_text(line, "limit");
    const char *offset = option_text(line, "offset");
    const char *values[] = {status, limit != NULL ? limit : "50", offset != NULL ? offset : "0"};
    Session session;
    ExitCode code;

    if (strcmp(status, "pending") != 0 && strcmp(status, "published") != 0 && strcmp(status, "failed") != 0 &&
        strcmp(status, "all") != 0) {
        message_error("unknown status \"%s\": there are pending, published, failed and all", status);
        return usage_hint(line->command);
    }
    code = client_open(&session, line);
    if (code == EXIT_DONE)
        code = show_rows(
            &session, line,
            "SELECT id, \"aggregateType\", \"aggregateId\", \"eventType\", \"retryCount\", \"lastError\","
            " \"createdAt\" AT TIME ZONE 'UTC' AS \"createdAt\", \"publishedAt\" AT TIME ZONE 'UTC' AS \"publishedAt\""
            " FROM @extschema@.apapacho_outbox_events($1, $2, $3)",
            3, values, "No events.", NULL);
    session_close(&session);
    return code;
}
