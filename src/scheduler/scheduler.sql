-- Runs: a row for every run of a job, written by the run's worker. Not dumped: while a dump is being restored the new database's own
-- runs are already written here.
CREATE SEQUENCE apapacho_jobs.run_id_seq;
CREATE TABLE apapacho_jobs.run (
    id bigint NOT NULL PRIMARY KEY,
    job text NOT NULL,
    trigger text NOT NULL CHECK (trigger IN ('schedule', 'manual', 'recovery')),
    requested_by text,
    scheduled_for timestamptz NOT NULL,
    started_at timestamptz,
    finished_at timestamptz,
    status text NOT NULL CHECK (status IN ('running', 'succeeded', 'failed', 'cancelled', 'interrupted', 'crashed',
                                           'skipped', 'no_worker')),
    result jsonb,
    error text,
    sqlstate text,
    arguments jsonb,
    pid integer
);
ALTER SEQUENCE apapacho_jobs.run_id_seq OWNED BY apapacho_jobs.run.id;
CREATE INDEX run_job_id_idx ON apapacho_jobs.run (job, id DESC);
CREATE INDEX run_finished_at_idx ON apapacho_jobs.run (finished_at);
CREATE INDEX run_running_idx ON apapacho_jobs.run (id) WHERE status = 'running';
COMMENT ON TABLE apapacho_jobs.run IS 'history: a row for every run of a job';
COMMENT ON COLUMN apapacho_jobs.run.trigger IS
    'schedule, manual (apapacho_run_job), or recovery: goes on with a run that a crash or a shutdown cut off';
COMMENT ON COLUMN apapacho_jobs.run.requested_by IS 'role that ran the job by hand';
COMMENT ON COLUMN apapacho_jobs.run.status IS
    'running; succeeded; failed (the job raised an error); cancelled (pg_cancel_backend); interrupted (shutdown, pg_terminate_backend, enabled = off); '
    'crashed (the process ended without reporting); skipped (the previous run was still at work); no_worker (no background worker was free)';
COMMENT ON COLUMN apapacho_jobs.run.result IS 'the job''s figures';

CREATE FUNCTION apapacho_jobs.run_job(job text, wait boolean, arguments jsonb) RETURNS jsonb
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'apapacho_run_job';
COMMENT ON FUNCTION apapacho_jobs.run_job(text, boolean, jsonb) IS 'runs a job with arguments; what the public functions stand on';
REVOKE EXECUTE ON FUNCTION apapacho_jobs.run_job(text, boolean, jsonb) FROM PUBLIC;

CREATE FUNCTION apapacho_jobs.schedules(
    OUT name text, OUT long_name text, OUT cron text, OUT running boolean, OUT executing boolean, OUT next_run timestamptz,
    OUT run_id bigint)
    RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL RESTRICTED
    AS 'MODULE_PATHNAME', 'apapacho_schedules';
COMMENT ON FUNCTION apapacho_jobs.schedules() IS 'the jobs'' schedules as the scheduler of this database has them in force';
REVOKE EXECUTE ON FUNCTION apapacho_jobs.schedules() FROM PUBLIC;

CREATE FUNCTION @extschema@.apapacho_run_job(job text, wait boolean DEFAULT true) RETURNS jsonb
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'apapacho_run_job';
COMMENT ON FUNCTION @extschema@.apapacho_run_job(text, boolean) IS
    'runs a job now, in a background worker, and waits for it (or not); returns {"runId", "job", "status", and the job''s figures}';
REVOKE EXECUTE ON FUNCTION @extschema@.apapacho_run_job(text, boolean) FROM PUBLIC;

CREATE FUNCTION @extschema@.apapacho_job_status(
    OUT name text, OUT long_name text, OUT cron text, OUT running boolean, OUT executing boolean, OUT next_run timestamptz,
    OUT last_run_id bigint, OUT last_trigger text, OUT last_run timestamptz, OUT last_finished timestamptz, OUT last_status text,
    OUT last_result jsonb, OUT last_error text)
    RETURNS SETOF record
    LANGUAGE sql VOLATILE PARALLEL RESTRICTED SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT s.name, s.long_name, s.cron, s.running, s.executing, s.next_run,
               r.id, r.trigger, r.started_at, r.finished_at, r.status, r.result, r.error
        FROM apapacho_jobs.schedules() WITH ORDINALITY AS s
            (name, long_name, cron, running, executing, next_run, run_id, position)
            LEFT JOIN LATERAL (
                SELECT h.id, h.trigger, h.started_at, h.finished_at, h.status, h.result, h.error
                FROM apapacho_jobs.run AS h
                WHERE h.job = s.name AND h.started_at IS NOT NULL
                ORDER BY h.id DESC LIMIT 1) AS r ON true
        ORDER BY s.position
    $$;
COMMENT ON FUNCTION @extschema@.apapacho_job_status() IS
    'a row per job: its schedule, whether it is scheduled (running) and at work (executing), its next and its latest run';
REVOKE EXECUTE ON FUNCTION @extschema@.apapacho_job_status() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.apapacho_job_status() TO pg_monitor;

-- The document keeps the seed's order of keys, which json can and jsonb cannot.
CREATE FUNCTION @extschema@.apapacho_scheduler_status_json() RETURNS json
    LANGUAGE sql VOLATILE PARALLEL RESTRICTED SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT json_build_object(
            'enabled', current_setting('apapacho_jobs.enabled')::boolean,
            'jobs', (SELECT json_agg(json_build_object('name', s.long_name, 'cron', s.cron, 'running', s.running,
                                                       'executing', s.executing, 'nextRun', s.next_run)
                                     ORDER BY s.position)
                     FROM apapacho_jobs.schedules() WITH ORDINALITY AS s
                         (name, long_name, cron, running, executing, next_run, run_id, position)))
    $$;
COMMENT ON FUNCTION @extschema@.apapacho_scheduler_status_json() IS
    'the status document {"enabled", "jobs": [{"name", "cron", "running", ...}]} with its keys in this order';
REVOKE EXECUTE ON FUNCTION @extschema@.apapacho_scheduler_status_json() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.apapacho_scheduler_status_json() TO pg_monitor;

CREATE FUNCTION @extschema@.apapacho_scheduler_status() RETURNS jsonb
    LANGUAGE sql VOLATILE PARALLEL RESTRICTED SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$ SELECT @extschema@.apapacho_scheduler_status_json()::jsonb $$;
COMMENT ON FUNCTION @extschema@.apapacho_scheduler_status() IS
    'the status document {"enabled", "jobs": [{"name", "cron", "running", ...}]}, jobs in the order of their documentation';
REVOKE EXECUTE ON FUNCTION @extschema@.apapacho_scheduler_status() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.apapacho_scheduler_status() TO pg_monitor;

