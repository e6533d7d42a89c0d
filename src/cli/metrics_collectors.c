/*
 * The metrics of the database: for each collector one statement, whose columns are labels and metrics. Each fails by
 * itself: a role that may not see one thing sees the others.
 *
 * Labels have few values: jobs and endpoints are cut off, outcomes, statuses and kinds are fixed. Events, creators and
 * payouts are never labels.
 */
#include "metrics_collectors.h"

#define MOST_JOBS "200"
#define SOME_ENDPOINTS                                                                                                 \
    "(SELECT e.name FROM apapacho_jobs.outbox_endpoint AS e ORDER BY e.name <> 'default', e.name LIMIT 100)"

/* An error, where row security or pg_stat_activity would hide rows and leave a wrong number: nobody else sees all. */
#define MONITORS_ONLY                                                                                                  \
    "CASE WHEN pg_has_role('pg_monitor', 'USAGE') THEN true"                                                           \
    " ELSE (current_user || ' is no member of pg_monitor')::boolean END"

/* ---- Jobs ---- */

static const char jobs_sql[] =
    "SELECT s.name AS job, s.last_status AS status,"
    " s.running::int AS job_scheduled, s.executing::int AS job_executing, s.queued AS job_queued_runs,"
    " extract(epoch FROM s.next_run) AS job_next_run_timestamp_seconds,"
    " extract(epoch FROM s.last_run) AS job_last_run_timestamp_seconds,"
    " extract(epoch FROM s.last_finished - s.last_run) AS job_last_run_duration_seconds,"
    " extract(epoch FROM s.last_lateness) AS job_last_run_lateness_seconds,"
    " CASE WHEN s.last_status IS NOT NULL THEN 1 END AS job_last_run_status,"
    " (SELECT extract(epoch FROM r.finished_at) FROM apapacho_jobs.run AS r"
    "  WHERE r.job_id = s.job_id AND r.status = 'succeeded' ORDER BY r.id DESC LIMIT 1)"
    "  AS job_last_success_timestamp_seconds"
    " FROM @extschema@.apapacho_job_status() AS s ORDER BY s.job_id LIMIT " MOST_JOBS;

static const Family jobs_families[] = {
    {"job_scheduled", METRIC_GAUGE, "job", "Whether the job's schedule is in force (1) or not (0)."},
    {"job_executing", METRIC_GAUGE, "job", "Whether a run of the job is at work."},
    {"job_queued_runs", METRIC_GAUGE, "job", "Runs of the job that wait for their turn."},
    {"job_next_run_timestamp_seconds", METRIC_GAUGE, "job", "The next scheduled time."},
    {"job_last_run_timestamp_seconds", METRIC_GAUGE, "job", "When the last run began."},
    {"job_last_run_duration_seconds", METRIC_GAUGE, "job", "How long the last run took; absent while it is at work."},
    {"job_last_run_lateness_seconds", METRIC_GAUGE, "job",
     "How long after its time the last run began, if it was scheduled."},
    {"job_last_run_status", METRIC_GAUGE, "job status", "1 for the status of the last run."},
    {"job_last_success_timestamp_seconds", METRIC_GAUGE, "job", "When the last run that succeeded ended."},
    {0},
};

static const char history_sql[] =
    "SELECT j.name AS job, r.status, count(*) AS history_runs FROM apapacho_jobs.run AS r"
    " JOIN (SELECT s.name, s.job_id FROM @extschema@.apapacho_job_status() AS s ORDER BY s.job_id LIMIT " MOST_JOBS
    ") AS j ON j.job_id = r.job_id WHERE " MONITORS_ONLY " GROUP BY 1, 2 ORDER BY 1, 2";

static const Family history_families[] = {
    {"history_runs", METRIC_GAUGE, "job status", "Runs in the history, which is pruned, by status."},
    {0},
};

/* ---- The outbox ---- */

static const char outbox_sql[] =
    "SELECT b.pending AS outbox_pending_events, b.retrying AS outbox_retrying_events, b.failed AS outbox_failed_events,"
    " GREATEST(0, coalesce(extract(epoch FROM clock_timestamp() - b.oldest_pending), 0))"
    "  AS outbox_oldest_pending_age_seconds,"
    " b.delivered_last_minute AS outbox_published_last_minute_events"
    " FROM apapacho_jobs.outbox_backlog() AS b";

static const Family outbox_families[] = {
    {"outbox_pending_events", METRIC_GAUGE, "", "Events that are to be published."},
    {"outbox_retrying_events", METRIC_GAUGE, "", "Of the pending events those that have failed and are retried."},
    {"outbox_failed_events", METRIC_GAUGE, "", "Events that have failed for good."},
    {"outbox_oldest_pending_age_seconds", METRIC_GAUGE, "", "How long the oldest pending event waits; 0 without one."},
    {"outbox_published_last_minute_events", METRIC_GAUGE, "", "Events published in the last minute."},
    {0},
};

static const char deliveries_sql[] = "SELECT o.endpoint, o.outcome, o.attempts AS outbox_attempts_total"
                                     " FROM apapacho_jobs.outbox_outcome AS o WHERE o.endpoint IN " SOME_ENDPOINTS;

static const Family deliveries_families[] = {
    {"outbox_attempts_total", METRIC_COUNTER, "endpoint outcome",
     "Attempts to deliver an event by how they ended, since the server started."},
    {0},
};

static const char latency_sql[] =
    "SELECT l.endpoint, coalesce((l.up_to_ms / 1000)::text, '+Inf') AS le,"
    " sum(l.attempts) OVER (PARTITION BY l.endpoint ORDER BY l.up_to_ms NULLS LAST)"
    "  AS outbox_delivery_duration_seconds_bucket,"
    " NULL::float8 AS outbox_delivery_duration_seconds_sum, NULL::numeric AS outbox_delivery_duration_seconds_count"
    " FROM apapacho_jobs.outbox_latency AS l WHERE l.endpoint IN " SOME_ENDPOINTS " UNION ALL"
    " SELECT e.name, NULL, NULL, coalesce(c.mean_ms * c.attempts / 1000, 0), t.attempts"
    " FROM apapacho_jobs.outbox_endpoint AS e CROSS JOIN LATERAL apapacho_jobs.outbox_counters(e.name) AS c"
    " CROSS JOIN LATERAL (SELECT sum(l.attempts) AS attempts FROM apapacho_jobs.outbox_latency(e.name) AS l) AS t"
    " WHERE c.attempts IS NOT NULL AND e.name IN " SOME_ENDPOINTS;

static const Family latency_families[] = {
    {"outbox_delivery_duration_seconds", METRIC_HISTOGRAM, "endpoint le",
     "How long attempts to deliver took, since the server started."},
    {0},
};

static const char endpoints_sql[] =
    "SELECT e.name AS endpoint, (e.paused_at IS NULL AND e.stopped_at IS NULL AND e.open_since IS NULL)::int"
    " AS outbox_endpoint_up, (e.paused_at IS NOT NULL)::int AS outbox_endpoint_paused,"
    " coalesce(c.in_flight, 0) AS outbox_endpoint_in_flight"
    " FROM apapacho_jobs.outbox_endpoint AS e LEFT JOIN LATERAL apapacho_jobs.outbox_counters(e.name) AS c ON true"
    " WHERE e.name IN " SOME_ENDPOINTS " ORDER BY e.name";

static const Family endpoints_families[] = {
    {"outbox_endpoint_up", METRIC_GAUGE, "endpoint",
     "Whether events are sent to the endpoint: 0 while it is paused, has said 410 Gone, or fails again and again."},
    {"outbox_endpoint_paused", METRIC_GAUGE, "endpoint", "Whether somebody has paused the endpoint."},
    {"outbox_endpoint_in_flight", METRIC_GAUGE, "endpoint", "Deliveries on their way to the endpoint."},
    {0},
};

/* ---- Payouts ---- */

static const char payouts_sql[] = "SELECT s.status, coalesce(p.payouts, 0) AS payouts"
                                  " FROM unnest(enum_range(NULL::@tables@.\"PayoutStatus\")) AS s (status)"
                                  " LEFT JOIN (SELECT status, count(*) AS payouts FROM @tables@.\"Payout\" GROUP BY "
                                  "status) AS p ON p.status = s.status"
                                  " ORDER BY s.status";

static const Family payouts_families[] = {
    {"payouts", METRIC_GAUGE, "status", "Payouts by status."},
    {0},
};

static const char retries_sql[] = "SELECT count(*) AS payout_retries_due FROM @tables@.\"Payout\""
                                  " WHERE status = 'PENDING' AND \"nextRetryAt\" <= now() AT TIME ZONE 'UTC'";

static const Family retries_families[] = {
    {"payout_retries_due", METRIC_GAUGE, "", "Payouts whose transfer has failed and whose retry is due."},
    {0},
};

/* ---- The server ---- */

static const char server_sql[] =
    "SELECT current_setting('apapacho_jobs.enabled')::boolean::int AS enabled,"
    " current_setting('server_version') AS server_version, e.extversion AS extension_version, 1 AS server_info"
    " FROM pg_extension AS e WHERE e.extname = 'apapacho_jobs'";

static const Family server_families[] = {
    {"enabled", METRIC_GAUGE, "", "Whether schedules are in force (apapacho_jobs.enabled)."},
    {"server_info", METRIC_GAUGE, "server_version extension_version", "1, with the versions as labels."},
    {0},
};

static const char processes_sql[] =
    "SELECT k.kind, count(a.pid) AS processes"
    " FROM unnest('{launcher,scheduler,worker,publisher}'::text[]) AS k (kind) LEFT JOIN pg_stat_activity AS a"
    " ON a.backend_type = 'apapacho_jobs ' || k.kind AND (a.datname IS NULL OR a.datname = current_database())"
    " WHERE " MONITORS_ONLY " GROUP BY k.kind ORDER BY k.kind";

static const Family processes_families[] = {
    {"processes", METRIC_GAUGE, "kind",
     "Background workers: the launcher, and the scheduler, workers and further publishers of this database."},
    {0},
};

/* First what waits for nobody; last what reads the backend's tables, which others may have locked. */
const Collector metrics_collectors[] = {
    {"server", server_sql, server_families},
    {"processes", processes_sql, processes_families},
    {"endpoints", endpoints_sql, endpoints_families},
    {"deliveries", deliveries_sql, deliveries_families},
    {"latency", latency_sql, latency_families},
    {"jobs", jobs_sql, jobs_families},
    {"history", history_sql, history_families},
    {"outbox", outbox_sql, outbox_families},
    {"retries", retries_sql, retries_families},
    {"payouts", payouts_sql, payouts_families},
    {0},
};
