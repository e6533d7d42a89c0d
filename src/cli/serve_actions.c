/*
 * What the routes do: a statement each, whose answer is JSON already or rows that become it. Runs in the workers.
 */
#include <string.h>
#include <unistd.h>

#include "json.h"
#include "serve.h"
#include "serve_openapi.h"

/* The figures of a run as the jobs' log lines put them, and beside them the answer itself. */
#define WITH_MESSAGE(call)                                                                                             \
    "SELECT jsonb_build_object('message', CASE"                                                                        \
    " WHEN a->>'job' = 'outbox' AND a ? 'processed' THEN format('Procesados: %s, Fallidos: %s', a->>'processed',"      \
    "  a->>'failed')"                                                                                                  \
    " WHEN a->>'job' = 'payout' AND a ? 'created' THEN format('Completado - Creados: %s, Omitidos: %s, Errores: %s',"  \
    "  a->>'created', a->>'skipped', a->>'errors')"                                                                    \
    " WHEN a->>'job' = 'cleanup' AND a ? 'deleted' THEN format('Limpiados %s eventos', a->>'deleted')"                 \
    " WHEN a->>'job' = 'retry' AND a ? 'pending' THEN format('%s payouts pendientes de reintento', a->>'pending')"     \
    " WHEN a->>'status' = 'succeeded' THEN format('Job %s completado', a->>'job')"                                     \
    " ELSE format('Job %s en curso', a->>'job') END) || a FROM (SELECT " call " AS a OFFSET 0) AS s"

static const char *const statements[ROUTE_COUNT] = {
    [ROUTE_READY] = "SELECT json_build_object('status', 'ready')",
    [ROUTE_STATUS] = "SELECT @extschema@.apapacho_scheduler_status_json()",
    [ROUTE_RUN] = WITH_MESSAGE("@extschema@.apapacho_run_job($1, coalesce($2::boolean, true))"),
    [ROUTE_PROCESS] = WITH_MESSAGE("@extschema@.apapacho_outbox_process($1)"),
    [ROUTE_STATS] = "SELECT @extschema@.apapacho_outbox_stats()",
    [ROUTE_CLEANUP] = WITH_MESSAGE("@extschema@.apapacho_outbox_cleanup(coalesce($1::integer, 30))"),
    [ROUTE_RETRY_FAILED] =
        "SELECT json_build_object('message', format('%s eventos pendientes de nuevo', r), 'retried', r)"
        " FROM (SELECT @extschema@.apapacho_outbox_retry_failed() AS r OFFSET 0) AS s",
    [ROUTE_EVENTS] = "SELECT id, \"aggregateType\", \"aggregateId\", \"eventType\", \"retryCount\", \"lastError\","
                     " \"createdAt\", \"publishedAt\" FROM @extschema@.apapacho_outbox_events(coalesce($1, 'pending'),"
                     " coalesce($2::integer, 50), coalesce($3::integer, 0))",
};

/* The statement's parameters: of a run the job's name, then what the request has given. */
static int
values_of(const Request *request, const char **values)
{
    const Parameter *parameters = route_describe(request->route)->parameters;
    int count = 0;

    if (request->route == ROUTE_RUN)
        values[count++] = request->uri.segments[request->uri.segment_count - 1];
    for (int i = 0; parameters != NULL && parameters[i].name != NULL; i++)
        values[count++] = request->parameters[i].text[0] != '\0' ? request->parameters[i].text : NULL;
    return count;
}

static void
answer_result(Request *request, const PGresult *result)
{
    bool waits = strcmp(request->parameters[0].text, "false") != 0;

    answer_with(request, request->route == ROUTE_RUN && !waits ? MHD_HTTP_ACCEPTED : MHD_HTTP_OK);
    if (request->route == ROUTE_EVENTS) {
        text_add(&request->answer.body, "{\"events\": ");
        json_add_rows(&request->answer.body, result);
        text_add(&request->answer.body, "}");
    } else {
        text_add(&request->answer.body, PQgetvalue(result, 0, 0));
    }
}

void
act_in_worker(Worker *worker, Request *request)
{
    bool quick = route_describe(request->route)->lane == LANE_QUICK;
    const char *values[ROUTE_MAX_PARAMETERS + 1];
    int count = values_of(request, values);
    LinkOutcome outcome = LINK_STOPPED;
    PGresult *result = NULL;
    Failure failure = {0};

    if (!atomic_load(&worker->serve->hurry)) {
        if (request->route == ROUTE_METRICS) {
            metrics_answer(worker, request);
            return;
        }
        outcome = link_query(&worker->link, statements[request->route], count, values,
                             quick ? worker->serve->query_seconds : 0, request->peer->handle, &result, &failure);
    }
    if (outcome == LINK_DONE)
        answer_result(request, result);
    else
        answer_failure(request, outcome, &worker->serve->database, &failure);
    PQclear(result);
}

void
act_at_once(Request *request)
{
    answer_with(request, MHD_HTTP_OK);
    if (request->route == ROUTE_OPENAPI) {
        text_add(&request->answer.body, openapi_document);
    } else if (request->route == ROUTE_HEALTH) {
        text_add(&request->answer.body, "{\"status\": \"ok\"}");
    } else {
        text_format(&request->answer.body,
                    "{\"name\": \"%s\", \"version\": \"%s\", \"openapi\": \"%s\",\n \"routes\": ", PROGRAM_NAME,
                    APAPACHO_VERSION, route_describe(ROUTE_OPENAPI)->path);
        routes_add(&request->answer.body);
        text_add(&request->answer.body, "}");
    }
}
