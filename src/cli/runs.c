/*
 * The command `runs`: the history. Runs in the main thread; reads only, what the role may see.
 */
#include <stdio.h>
#include <string.h>

#include "client.h"
#include "commands.h"
#include "message.h"
#include "show.h"

const Option runs_options[] = {
    {"job", 'b', OPTION_TEXT, "JOB", "only those of this job", 0, 0},
    {"status", 's', OPTION_TEXT, "STATUS", "only those with this status", 0, 0},
    {"limit", 'n', OPTION_NUMBER, "COUNT", "at most so many (20)", 1, 1000000},
    {0},
};

#define CONDITIONS                                                                                                     \
    " FROM apapacho_jobs.history AS h"                                                                                 \
    " WHERE ($1::text IS NULL OR h.job = coalesce((SELECT j.name FROM apapacho_jobs.job AS j WHERE j.long_name = "     \
    "$1), $1))"                                                                                                        \
    " AND ($2::text IS NULL OR h.status = $2) ORDER BY h.id DESC LIMIT $3"

static const char table_sql[] = "SELECT h.id AS \"run\", h.job, h.trigger, h.status, date_trunc('second', "
                                "coalesce(h.started_at, h.scheduled_for)) AS \"started\","
                                " round(extract(epoch FROM h.duration)::numeric, 3) AS \"seconds\","
                                " round(extract(epoch FROM h.lateness)::numeric, 3) AS \"late\","
                                " coalesce(h.error, h.result::text) AS \"result\"" CONDITIONS;

static const char json_sql[] =
    "SELECT h.id AS \"runId\", h.job, h.owner::text, h.trigger, h.attempt, h.status, h.scheduled_for AS "
    "\"scheduledFor\","
    " h.started_at AS \"startedAt\", h.finished_at AS \"finishedAt\","
    " extract(epoch FROM h.lateness)::float8 AS \"latenessSeconds\", extract(epoch FROM h.duration)::float8 AS "
    "\"durationSeconds\","
    " h.result, h.error, h.sqlstate, h.retry_at AS \"retryAt\", h.requested_by AS \"requestedBy\"" CONDITIONS;

static bool
is_status(const char *text)
{
    static const char *const statuses[] = {"queued",    "running",     "succeeded", "failed",  "timed_out",
                                           "cancelled", "interrupted", "crashed",   "skipped", "missed",
                                           "coalesced", "paused",      "no_worker"};

    for (size_t i = 0; i < sizeof statuses / sizeof *statuses; i++) {
        if (strcmp(statuses[i], text) == 0)
            return true;
    }
    return false;
}

/* A name that is no job's, now or in the history, is rather a mistake than a job without runs. */
static ExitCode
check_job(Session *session, const char *job)
{
    const char *values[] = {job};
    PGresult *result;
    ExitCode code = client_query(session,
                                 "SELECT FROM apapacho_jobs.job AS j WHERE $1 IN (j.name, j.long_name)"
                                 " UNION ALL (SELECT FROM apapacho_jobs.run AS r WHERE r.job = $1 LIMIT 1)",
                                 1, values, &result);

    if (code == EXIT_DONE && PQntuples(result) == 0) {
        message_error("unknown job \"%s\"", job);
        message_hint("\"%s status\" lists the jobs.", PROGRAM_NAME);
        code = EXIT_FAILED;
    }
    PQclear(result);
    return code;
}

/* Row security hides others' runs without a word, which must not look as if there were none. */
static ExitCode
tell_hidden(Session *session)
{
    PGresult *result;
    ExitCode code =
        client_query(session, "SELECT current_user WHERE NOT pg_has_role('pg_monitor', 'USAGE')", 0, NULL, &result);

    if (code == EXIT_DONE && PQntuples(result) > 0)
        message_hint("Role \"%s\" sees the runs of its own jobs; members of pg_monitor see them all.",
                     PQgetvalue(result, 0, 0));
    PQclear(result);
    return code;
}

ExitCode
command_runs(const CommandLine *line)
{
    const char *limit = option_text(line, "limit");
    const char *values[] = {option_text(line, "job"), option_text(line, "status"), limit != NULL ? limit : "20"};
    Session session;
    int rows = 0;
    ExitCode code;

    if (values[1] != NULL && !is_status(values[1])) {
        message_error("unknown status \"%s\"", values[1]);
        return usage_hint(line->command);
    }
    code = client_open(&session, line);
    if (code == EXIT_DONE && values[0] != NULL)
        code = check_job(&session, values[0]);
    if (code == EXIT_DONE)
        code =
            show_rows(&session, line, option_flag(line, "json") ? json_sql : table_sql, 3, values, "No runs.", &rows);
    if (code == EXIT_DONE && rows == 0)
        code = tell_hidden(&session);
    session_close(&session);
    return code;
}
