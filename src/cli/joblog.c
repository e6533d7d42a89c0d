/*
 * Lines of jobs, in the words of the seed. Runs in the main thread.
 */
#include "joblog.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client.h"
#include "message.h"
#include "table.h"

enum { JOB, STATUS, RUN, PROCESSED, FAILED, CREATED, SKIPPED, ERRORS, DELETED, PENDING };

static const char fields_sql[] =
    "SELECT a->>'job', a->>'status', a->>'runId', a->>'processed', a->>'failed', a->>'created', a->>'skipped',"
    " CASE jsonb_typeof(a->'errors') WHEN 'number' THEN a->>'errors' END, a->>'deleted', a->>'pending'"
    " FROM (SELECT $1::jsonb AS a) AS s";

/* The line of a job that has ended; false: it is none of the built-in ones, or their figures are missing. */
static bool
print_line(const PGresult *fields)
{
    const char *job = PQgetvalue(fields, 0, JOB);

    if (strcmp(job, "outbox") == 0 && !PQgetisnull(fields, 0, PROCESSED))
        printf("[Job:Outbox] Procesados: %s, Fallidos: %s\n", PQgetvalue(fields, 0, PROCESSED),
               PQgetvalue(fields, 0, FAILED));
    else if (strcmp(job, "payout") == 0 && !PQgetisnull(fields, 0, CREATED))
        printf("[Job:Payout] Completado - Creados: %s, Omitidos: %s, Errores: %s\n", PQgetvalue(fields, 0, CREATED),
               PQgetvalue(fields, 0, SKIPPED), PQgetvalue(fields, 0, ERRORS));
    else if (strcmp(job, "cleanup") == 0 && !PQgetisnull(fields, 0, DELETED))
        printf("[Job:Cleanup] Limpiados %s eventos\n", PQgetvalue(fields, 0, DELETED));
    else if (strcmp(job, "retry") == 0 && !PQgetisnull(fields, 0, PENDING))
        printf("[Job:Retry] %s payouts pendientes de reintento\n", PQgetvalue(fields, 0, PENDING));
    else
        return false;
    return true;
}

/* The first errors of deliveries, as the answer has them. */
static ExitCode
warn_of_deliveries(Session *session, const char *answer)
{
    const char *values[] = {answer};
    PGresult *errors;
    ExitCode code = client_query(session, "SELECT jsonb_array_elements_text($1::jsonb->'errors')", 1, values, &errors);

    for (int row = 0; code == EXIT_DONE && row < PQntuples(errors); row++)
        message_warning("%s", PQgetvalue(errors, row, 0));
    PQclear(errors);
    return code;
}

/* Errors that the run has gone on after; the server's log has each. */
static void
warn_of_errors(const PGresult *fields)
{
    const char *job = PQgetvalue(fields, 0, JOB);
    const char *errors = PQgetvalue(fields, 0, ERRORS);

    if (strcmp(job, "payout") == 0 && *errors != '\0' && strcmp(errors, "0") != 0)
        message_warning("creators that could not be paid: %s; the server's log has the reasons", errors);
    if (strcmp(job, "retry") == 0 && *errors != '\0' && strcmp(errors, "0") != 0)
        message_warning("payouts that could not be taken up: %s; the server's log has the reasons", errors);
}

ExitCode
joblog_print(Session *session, const char *answer, bool json)
{
    const char *values[] = {answer};
    PGresult *fields;
    ExitCode code = client_query(session, fields_sql, 1, values, &fields);

    if (code != EXIT_DONE)
        return code;
    if (json) {
        puts(answer);
    } else if (!print_line(fields)) {
        Text name = {0};

        text_add_printable(&name, PQgetvalue(fields, 0, JOB));
        printf("%s: %s (run %s)\n", text_of(&name), PQgetvalue(fields, 0, STATUS), PQgetvalue(fields, 0, RUN));
        text_free(&name);
    }
    warn_of_errors(fields);
    if (strcmp(PQgetvalue(fields, 0, JOB), "outbox") == 0 && !PQgetisnull(fields, 0, PROCESSED))
        code = warn_of_deliveries(session, answer);
    PQclear(fields);
    return code;
}
