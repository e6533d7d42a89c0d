/*
 * The answer to /metrics: what the collectors find in the database, and what this program has counted. Runs in a
 * worker. Without a database it is an answer all the same, which says so: up is 0.
 */
#include "metrics.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "message.h"
#include "metrics_collectors.h"
#include "serve.h"

#define UNDEFINED_TABLE "42P01"
#define UNDEFINED_OBJECT "42704"
#define INVALID_SCHEMA "3F000"

static const Family up = {"up", METRIC_GAUGE, "", "Whether the database answered."};
static const Family collector_success = {"collector_success", METRIC_GAUGE, "collector",
                                         "Whether the metrics of this collector could be read."};
static const Family build_info = {"build_info", METRIC_GAUGE, "version", "1, with the program's version as a label."};
static const Family start_time = {"serve_start_time_seconds", METRIC_GAUGE, "", "When this program started."};
static const Family requests = {"serve_requests_total", METRIC_COUNTER, "route code",
                                "HTTP requests answered, by route and status."};
static const Family clients = {"serve_clients", METRIC_GAUGE, "", "Open HTTP connections."};
static const Family ended = {"serve_clients_ended_total", METRIC_COUNTER, "",
                             "HTTP connections that were ended since they were too slow, or to make room."};
static const Family lost = {"serve_database_connections_lost_total", METRIC_COUNTER, "",
                            "Connections to PostgreSQL that broke off."};

/* ---- The database ---- */

static void
replace(Text *text, const char *sql, const char *placeholder, const char *by)
{
    for (const char *found; (found = strstr(sql, placeholder)) != NULL; sql = found + strlen(placeholder)) {
        text_add_bytes(text, sql, (size_t)(found - sql));
        text_add(text, by);
    }
    text_add(text, sql);
}

/* A backend's table that is not there is nothing that went wrong. */
static bool
is_absent(const Failure *failure)
{
    return strcmp(failure->sqlstate, UNDEFINED_TABLE) == 0 || strcmp(failure->sqlstate, UNDEFINED_OBJECT) == 0 ||
           strcmp(failure->sqlstate, INVALID_SCHEMA) == 0;
}

/*
 * Adds a collector's metrics; false: it has none since something is wrong. It may take half of the time that is left,
 * so that one that waits for a lock leaves some to the others, and all together are done before the scrape times out.
 */
static bool
collect(Worker *worker, const Collector *collector, const char *tables, int64_t deadline_ms, Text *text)
{
    PGresult *result = NULL;
    Failure failure = {0};
    Text sql = {0};
    bool good = false;

    if (tables != NULL && monotonic_ms() < deadline_ms) {
        int seconds = (int)((deadline_ms - monotonic_ms() + 999) / 2000);
        LinkOutcome outcome;

        replace(&sql, collector->sql, "@tables@", tables);
        outcome = link_query(&worker->link, text_of(&sql), 0, NULL, seconds > 0 ? seconds : 1, -1, &result, &failure);
        good = outcome == LINK_DONE || (outcome == LINK_FAILED && is_absent(&failure));
        text_free(&sql);
        failure_free(&failure);
    }
    for (const Family *family = collector->families; family->name != NULL; family++)
        metric_from_result(text, family, result);
    PQclear(result);
    return good;
}

/* The schema of the backend's tables, malloc'ed; NULL: the database does not answer. */
static char *
schema_of_tables(Worker *worker)
{
    PGresult *result;
    Failure failure;
    char *schema = NULL;

    if (link_query(&worker->link, "SELECT quote_ident(current_setting('apapacho_jobs.schema'))", 0, NULL,
                   worker->serve->query_seconds, -1, &result, &failure) == LINK_DONE)
        schema = copy_string(PQgetvalue(result, 0, 0));
    else
        failure_free(&failure);
    PQclear(result);
    return schema;
}

static void
add_database(Worker *worker, Text *text)
{
    int64_t deadline_ms = monotonic_ms() + worker->serve->query_seconds * 1000;
    char *tables = schema_of_tables(worker);
    Text successes = {0};

    metric_head(text, &up);
    metric_sample(text, &up, "", tables != NULL);
    for (const Collector *collector = metrics_collectors; collector->name != NULL; collector++) {
        char label[64];

        snprintf(label, sizeof label, "collector=\"%s\"", collector->name);
        metric_sample(&successes, &collector_success, label, collect(worker, collector, tables, deadline_ms, text));
    }
    metric_head(text, &collector_success);
    text_add(text, text_of(&successes));
    text_free(&successes);
    free(tables);
}

/* ---- This program ---- */

static void
add_requests(const Serve *serve, Text *text)
{
    static const unsigned int statuses[] = SERVE_STATUSES;

    metric_head(text, &requests);
    for (int route = 0; route < ROUTE_COUNT; route++) {
        for (int i = 0; i < SERVE_STATUS_COUNT; i++) {
            unsigned long count = atomic_load(&serve->answered[route][i]);
            char labels[96];

            snprintf(labels, sizeof labels, "route=\"%s\",code=\"%u\"", route_describe((Route)route)->path,
                     statuses[i]);
            if (count > 0)
                metric_sample(text, &requests, labels, (double)count);
        }
    }
}

static void
add_one(Text *text, const Family *family, const char *labels, double value)
{
    metric_head(text, family);
    metric_sample(text, family, labels, value);
}

static void
add_program(Serve *serve, Text *text)
{
    unsigned long clients_ended;
    int clients_open;

    peers_count(&serve->peers, &clients_open, &clients_ended);
    add_one(text, &build_info, "version=\"" APAPACHO_VERSION "\"", 1);
    add_one(text, &start_time, "", (double)serve->started_at);
    add_requests(serve, text);
    add_one(text, &clients, "", clients_open);
    add_one(text, &ended, "", (double)clients_ended);
    add_one(text, &lost, "", (double)atomic_load(&serve->database.lost));
}

void
metrics_answer(Worker *worker, Request *request)
{
    answer_with(request, MHD_HTTP_OK);
    request->answer.type = METRICS_CONTENT_TYPE;
    add_database(worker, &request->answer.body);
    add_program(worker->serve, &request->answer.body);
}
