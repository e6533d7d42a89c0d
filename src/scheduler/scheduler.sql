-- Runs: a row for every run of a job, and for the scheduled times (slots) that had none. Not dumped: while a dump is being restored
-- the new database's own runs are already written here.
CREATE SEQUENCE apapacho_jobs.run_id_seq;
CREATE TABLE apapacho_jobs.run (
    id bigint NOT NULL PRIMARY KEY,
    job text NOT NULL,
    trigger text NOT NULL CHECK (trigger IN ('schedule', 'manual', 'recovery', 'retry', 'work')),
    requested_by text,
    scheduled_for timestamptz NOT NULL,
    started_at timestamptz,
    finished_at timestamptz,
    status text NOT NULL CHECK (status IN ('queued', 'running', 'succeeded', 'failed', 'timed_out', 'cancelled', 'interrupted',
                                           'crashed', 'skipped', 'missed', 'coalesced', 'paused', 'no_worker')),
    result jsonb,
    error text,
    sqlstate text,
    arguments jsonb,
    pid integer,
    job_id bigint NOT NULL,
    owner regrole NOT NULL,
    attempt integer NOT NULL DEFAULT 1,
    pass integer NOT NULL DEFAULT 0,
    scheduled_until timestamptz NOT NULL,
    slots bigint NOT NULL DEFAULT 1,
    retry_at timestamptz
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
ALTER SEQUENCE apapacho_jobs.run_id_seq OWNED BY apapacho_jobs.run.id;
CREATE INDEX run_job_id_idx ON apapacho_jobs.run (job_id, id DESC);
CREATE INDEX run_owner_idx ON apapacho_jobs.run ((owner::oid), id DESC);
CREATE INDEX run_failed_idx ON apapacho_jobs.run ((owner::oid), id DESC) WHERE status IN ('failed', 'timed_out', 'interrupted', 'crashed', 'no_worker');
CREATE INDEX run_finished_idx ON apapacho_jobs.run (finished_at) WHERE status IN ('succeeded', 'cancelled', 'skipped', 'missed', 'coalesced', 'paused');
CREATE UNIQUE INDEX run_slot_idx ON apapacho_jobs.run (job_id, pass, scheduled_for, attempt) WHERE trigger NOT IN ('manual', 'work');
CREATE INDEX run_active_idx ON apapacho_jobs.run (id) WHERE status IN ('queued', 'running');
CREATE INDEX run_retry_idx ON apapacho_jobs.run (retry_at) WHERE retry_at IS NOT NULL;
COMMENT ON TABLE apapacho_jobs.run IS 'history: a row for every run of a job, and for the scheduled times (slots) that had none';
COMMENT ON COLUMN apapacho_jobs.run.trigger IS
    'schedule; manual (apapacho_run_job); work: a commit has brought outbox events, or some have come due for another attempt; recovery: goes on with a run that a crash or a shutdown cut off; retry: another attempt after a failure';
COMMENT ON COLUMN apapacho_jobs.run.requested_by IS 'role that ran the job by hand';
COMMENT ON COLUMN apapacho_jobs.run.status IS
    'queued (taken, not begun); running; succeeded; failed (the job raised an error); timed_out; cancelled (apapacho_cancel_run, pg_cancel_backend); '
    'interrupted (shutdown, pg_terminate_backend, enabled = off); crashed (the process ended without reporting). Slots without a run: '
    'skipped (the previous run was at work); missed (nobody was there, and the policy is not to make up for it); coalesced (the run of a later slot stands '
    'for it); paused; no_worker (no background worker was free until the next slot)';
COMMENT ON COLUMN apapacho_jobs.run.result IS 'the job''s figures; of a command: its last tag, rows and number of statements';
COMMENT ON COLUMN apapacho_jobs.run.attempt IS 'the slot''s first, second ... attempt';
COMMENT ON COLUMN apapacho_jobs.run.pass IS 'how often the clock had been set back so far that times came again';
COMMENT ON COLUMN apapacho_jobs.run.scheduled_until IS 'the last slot of the row; later than scheduled_for where one row tells of several slots';
COMMENT ON COLUMN apapacho_jobs.run.slots IS 'number of slots from scheduled_for to scheduled_until';
COMMENT ON COLUMN apapacho_jobs.run.retry_at IS 'when it is tried again; null when it is not, or has been';

-- Each sees the runs of his own jobs; members of pg_monitor see them all.
ALTER TABLE apapacho_jobs.run ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON apapacho_jobs.run FOR SELECT
    USING (pg_catalog.pg_has_role(owner, 'USAGE') OR pg_catalog.pg_has_role('pg_monitor', 'USAGE'));
GRANT SELECT ON apapacho_jobs.run TO PUBLIC;

-- Written by the scheduler alone; made anew when it is missing. Not dumped: a restored database has missed nothing.
CREATE TABLE apapacho_jobs.job_state (
    job_id bigint NOT NULL PRIMARY KEY,
    schedule text NOT NULL,
    time_zone text NOT NULL,
    settled_until timestamptz NOT NULL,
    pass integer NOT NULL DEFAULT 0,
    off_since timestamptz
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
COMMENT ON TABLE apapacho_jobs.job_state IS 'how far each job is in time: every slot up to settled_until is in the history or on its way';
COMMENT ON COLUMN apapacho_jobs.job_state.schedule IS 'the expression that is in force';
COMMENT ON COLUMN apapacho_jobs.job_state.pass IS 'how often the clock has been set back so far that times come again';
COMMENT ON COLUMN apapacho_jobs.job_state.off_since IS 'the schedules have been switched off since then';

CREATE FUNCTION apapacho_jobs.prune_history(batch integer) RETURNS bigint
    LANGUAGE sql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    -- the table's statistics are old where it grows fast
    SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
    AS $$
        WITH RECURSIVE settings AS (
            SELECT nullif(current_setting('apapacho_jobs.history_days')::integer, 0) AS days,
                nullif(current_setting('apapacho_jobs.history_failed_days')::integer, 0) AS failed_days,
                coalesce(nullif(current_setting('apapacho_jobs.history_rows')::bigint, 0), 9223372036854775807) AS rows
        ), owners (owner) AS (
            SELECT min(r.owner::oid) FROM apapacho_jobs.run AS r
            UNION ALL
            SELECT (SELECT min(r.owner::oid) FROM apapacho_jobs.run AS r WHERE r.owner::oid > o.owner) FROM owners AS o WHERE o.owner IS NOT NULL
        ), bounds AS (
            SELECT o.owner,
                (SELECT r.id FROM apapacho_jobs.run AS r WHERE r.owner::oid = o.owner ORDER BY r.id DESC OFFSET rows LIMIT 1) AS last_id,
                (SELECT r.id FROM apapacho_jobs.run AS r WHERE r.owner::oid = o.owner AND r.status IN ('failed', 'timed_out', 'interrupted', 'crashed', 'no_worker')
                 ORDER BY r.id DESC OFFSET rows LIMIT 1) AS last_failed_id
            FROM settings, owners AS o
            WHERE o.owner IS NOT NULL
        ), old (id) AS (
            -- Along indexes, from the bounds on: what is kept is not looked at. Each part ends when it has found enough, however much there is.
            (SELECT r.id FROM settings, apapacho_jobs.run AS r
            WHERE r.finished_at < now() - make_interval(days => days) AND r.status IN ('succeeded', 'cancelled', 'skipped', 'missed', 'coalesced', 'paused')
                AND r.retry_at IS NULL AND (r.started_at IS NULL OR EXISTS (
                    SELECT FROM apapacho_jobs.run AS later WHERE later.job_id = r.job_id AND later.id > r.id AND later.started_at IS NOT NULL))
            LIMIT batch)
            UNION
            SELECT f.id FROM settings, owners AS o CROSS JOIN LATERAL (
                SELECT r.id FROM apapacho_jobs.run AS r
                WHERE r.owner::oid = o.owner AND r.status IN ('failed', 'timed_out', 'interrupted', 'crashed', 'no_worker')
                    AND r.finished_at < now() - make_interval(days => failed_days)
                    AND r.retry_at IS NULL AND (r.started_at IS NULL OR EXISTS (
                    SELECT FROM apapacho_jobs.run AS later WHERE later.job_id = r.job_id AND later.id > r.id AND later.started_at IS NOT NULL))
                ORDER BY r.id LIMIT batch) AS f
            UNION
            SELECT f.id FROM bounds AS b CROSS JOIN LATERAL (
                SELECT r.id FROM apapacho_jobs.run AS r
                WHERE r.owner::oid = b.owner AND r.id <= b.last_id AND r.status IN ('succeeded', 'cancelled', 'skipped', 'missed', 'coalesced', 'paused')
                    AND r.retry_at IS NULL AND (r.started_at IS NULL OR EXISTS (
                    SELECT FROM apapacho_jobs.run AS later WHERE later.job_id = r.job_id AND later.id > r.id AND later.started_at IS NOT NULL))
                ORDER BY r.id LIMIT batch) AS f
            UNION
            SELECT f.id FROM bounds AS b CROSS JOIN LATERAL (
                SELECT r.id FROM apapacho_jobs.run AS r
                WHERE r.owner::oid = b.owner AND r.id <= b.last_failed_id AND r.status IN ('failed', 'timed_out', 'interrupted', 'crashed', 'no_worker')
                    AND r.retry_at IS NULL AND (r.started_at IS NULL OR EXISTS (
                    SELECT FROM apapacho_jobs.run AS later WHERE later.job_id = r.job_id AND later.id > r.id AND later.started_at IS NOT NULL))
                ORDER BY r.id LIMIT batch) AS f
            LIMIT batch
        ), deleted AS (
            DELETE FROM apapacho_jobs.run AS r USING old WHERE r.id = old.id RETURNING 1
        )
        SELECT count(*) FROM deleted
    $$;
COMMENT ON FUNCTION apapacho_jobs.prune_history(integer) IS
    'deletes what apapacho_jobs.history_days, history_failed_days and history_rows (of each owner) do not keep, at most so many rows; each job''s last run stays';
REVOKE EXECUTE ON FUNCTION apapacho_jobs.prune_history(integer) FROM PUBLIC;

CREATE FUNCTION apapacho_jobs.run_job(job text, wait boolean, arguments jsonb) RETURNS jsonb
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'apapacho_run_job';
COMMENT ON FUNCTION apapacho_jobs.run_job(text, boolean, jsonb) IS 'runs a job with arguments; what the public functions stand on';
REVOKE EXECUTE ON FUNCTION apapacho_jobs.run_job(text, boolean, jsonb) FROM PUBLIC;

CREATE FUNCTION apapacho_jobs.job_activity(
    job_id bigint, OUT ready boolean, OUT executing boolean, OUT run_id bigint, OUT queued integer, OUT progress jsonb)
    RETURNS record
    LANGUAGE c VOLATILE PARALLEL RESTRICTED
    AS 'MODULE_PATHNAME', 'apapacho_job_activity';
COMMENT ON FUNCTION apapacho_jobs.job_activity(bigint) IS
    'whether the scheduler of this database is at work (ready), and what it has of a job: the run at work, its progress, runs that are queued';
REVOKE EXECUTE ON FUNCTION apapacho_jobs.job_activity(bigint) FROM PUBLIC;

CREATE FUNCTION apapacho_jobs.next_slots(schedule text, time_zone text, settled_until timestamptz, count integer)
    RETURNS SETOF timestamptz
    LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED ROWS 5
    AS 'MODULE_PATHNAME', 'apapacho_next_slots';
COMMENT ON FUNCTION apapacho_jobs.next_slots(text, text, timestamptz, integer) IS
    'the next scheduled times from now on of a job of which those up to settled_until are dealt with';
REVOKE EXECUTE ON FUNCTION apapacho_jobs.next_slots(text, text, timestamptz, integer) FROM PUBLIC;

CREATE FUNCTION @extschema@.apapacho_report_progress(done bigint, total bigint DEFAULT NULL, message text DEFAULT NULL) RETURNS void
    LANGUAGE c VOLATILE PARALLEL RESTRICTED
    AS 'MODULE_PATHNAME', 'apapacho_report_progress';
COMMENT ON FUNCTION @extschema@.apapacho_report_progress(bigint, bigint, text) IS
    'called by a job''s command: how far the run is, shown by apapacho_job_status(); elsewhere it does nothing';

CREATE FUNCTION @extschema@.apapacho_run_job(job text, wait boolean DEFAULT true) RETURNS jsonb
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'apapacho_run_job';
COMMENT ON FUNCTION @extschema@.apapacho_run_job(text, boolean) IS
    'runs a job now, in a background worker, and waits for it (or not); returns {"runId", "job", "status", and the job''s figures}';
REVOKE EXECUTE ON FUNCTION @extschema@.apapacho_run_job(text, boolean) FROM PUBLIC;

-- What the status functions and views stand on; the commands of jobs are not in it.
CREATE VIEW apapacho_jobs.job_overview AS
    SELECT j.id, j.name, j.long_name, j.owner, j.builtin, j.paused,
        CASE WHEN NOT j.builtin THEN j.schedule
            WHEN a.ready THEN coalesce(s.schedule, '')
            ELSE pg_catalog.current_setting('apapacho_jobs.' || j.name || '_cron') END AS cron,
        s.time_zone, s.settled_until,
        a.ready AND NOT j.paused AND s.schedule IS NOT NULL AND (j.builtin OR s.schedule = j.schedule) AS running,
        a.executing, a.run_id, a.queued, a.progress
    FROM apapacho_jobs.job AS j
        LEFT JOIN apapacho_jobs.job_state AS s ON s.job_id = j.id
        CROSS JOIN LATERAL apapacho_jobs.job_activity(j.id) AS a;
COMMENT ON VIEW apapacho_jobs.job_overview IS 'the jobs and what their scheduler has in force';

CREATE FUNCTION @extschema@.apapacho_job_status(
    OUT name text, OUT long_name text, OUT cron text, OUT running boolean, OUT executing boolean, OUT next_run timestamptz,
    OUT last_run_id bigint, OUT last_trigger text, OUT last_run timestamptz, OUT last_finished timestamptz, OUT last_status text,
    OUT last_result jsonb, OUT last_error text, OUT job_id bigint, OUT owner text, OUT paused boolean, OUT time_zone text,
    OUT next_runs timestamptz[], OUT last_lateness interval, OUT run_id bigint, OUT queued integer, OUT progress jsonb)
    RETURNS SETOF record
    LANGUAGE sql VOLATILE PARALLEL RESTRICTED SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT j.name, coalesce(j.long_name, j.name), j.cron, j.running, j.executing, n.slots[1],
               r.id, r.trigger, r.started_at, r.finished_at, r.status, r.result, r.error,
               j.id, j.owner::text, j.paused, j.time_zone, n.slots,
               CASE WHEN r.trigger = 'schedule' THEN r.started_at - r.scheduled_for END, j.run_id, j.queued, j.progress
        FROM apapacho_jobs.job_overview AS j
            LEFT JOIN LATERAL (
                SELECT array_agg(slot ORDER BY slot) AS slots
                FROM apapacho_jobs.next_slots(j.cron, j.time_zone, j.settled_until, 5) AS slot
                WHERE j.running) AS n ON true
            LEFT JOIN LATERAL (
                SELECT h.id, h.trigger, h.scheduled_for, h.started_at, h.finished_at, h.status, h.result, h.error
                FROM apapacho_jobs.run AS h
                WHERE h.job_id = j.id AND h.started_at IS NOT NULL
                ORDER BY h.id DESC LIMIT 1) AS r ON true
        ORDER BY j.id
    $$;
COMMENT ON FUNCTION @extschema@.apapacho_job_status() IS
    'a row per job: its schedule, whether it is scheduled (running) and at work (executing, progress), its next five times and its latest run with its lateness';
REVOKE EXECUTE ON FUNCTION @extschema@.apapacho_job_status() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.apapacho_job_status() TO pg_monitor;

-- Views for people; each sees his own jobs (row security of the tables).
CREATE VIEW apapacho_jobs.history WITH (security_invoker = true) AS
    SELECT r.id, r.job, r.owner, r.trigger, r.attempt, r.status, r.scheduled_for, r.scheduled_until, r.slots, r.started_at, r.finished_at,
        CASE WHEN r.trigger = 'schedule' THEN r.started_at - r.scheduled_for END AS lateness,
        r.finished_at - r.started_at AS duration, r.result, r.error, r.sqlstate, r.retry_at, r.requested_by
    FROM apapacho_jobs.run AS r;
COMMENT ON VIEW apapacho_jobs.history IS 'the runs with their lateness and duration; order by id';
CREATE VIEW apapacho_jobs.slot WITH (security_invoker = true) AS
    SELECT DISTINCT ON (r.job_id, r.pass, r.scheduled_for)
        r.job_id, r.job, r.pass, r.scheduled_for, r.scheduled_until, r.slots, r.status, r.attempt, r.id AS run_id
    FROM apapacho_jobs.run AS r
    WHERE r.trigger NOT IN ('manual', 'work')
    ORDER BY r.job_id, r.pass, r.scheduled_for, r.attempt DESC;
COMMENT ON VIEW apapacho_jobs.slot IS
    'the ledger of scheduled times: how each ended (or stands) after its last attempt; a row with slots > 1 tells of several in a row';
GRANT SELECT ON apapacho_jobs.history, apapacho_jobs.slot TO PUBLIC;

CREATE FUNCTION apapacho_jobs.upcoming_slots(job_id bigint) RETURNS SETOF timestamptz
    LANGUAGE sql VOLATILE PARALLEL RESTRICTED SECURITY DEFINER ROWS 5
    SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT slot
        FROM apapacho_jobs.job_overview AS j
            CROSS JOIN LATERAL apapacho_jobs.next_slots(j.cron, j.time_zone, j.settled_until, 5) AS slot
        WHERE j.id = job_id AND j.running
            -- the caller's role: the current one is the owner's in here
            AND pg_has_role(CASE current_setting('role') WHEN 'none' THEN session_user::text ELSE current_setting('role') END, j.owner, 'USAGE')
    $$;
COMMENT ON FUNCTION apapacho_jobs.upcoming_slots(bigint) IS 'the next five scheduled times of a job; what the view upcoming stands on';
CREATE VIEW apapacho_jobs.upcoming WITH (security_invoker = true) AS
    SELECT j.id AS job_id, j.name AS job, j.owner, slot AS scheduled_for
    FROM apapacho_jobs.job AS j CROSS JOIN LATERAL apapacho_jobs.upcoming_slots(j.id) AS slot;
COMMENT ON VIEW apapacho_jobs.upcoming IS 'the next five scheduled times of each job';
GRANT SELECT ON apapacho_jobs.upcoming TO PUBLIC;

CREATE FUNCTION apapacho_jobs.own_activity(job_id bigint, OUT executing boolean, OUT run_id bigint, OUT queued integer, OUT progress jsonb)
    RETURNS SETOF record
    LANGUAGE sql VOLATILE PARALLEL RESTRICTED SECURITY DEFINER ROWS 1
    SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT a.executing, a.run_id, a.queued, a.progress
        FROM apapacho_jobs.job AS j CROSS JOIN LATERAL apapacho_jobs.job_activity(j.id) AS a
        WHERE j.id = job_id
            AND pg_has_role(CASE current_setting('role') WHEN 'none' THEN session_user::text ELSE current_setting('role') END, j.owner, 'USAGE')
    $$;
COMMENT ON FUNCTION apapacho_jobs.own_activity(bigint) IS 'what is on its way of a job of the caller''s; what the view activity stands on';
CREATE VIEW apapacho_jobs.activity WITH (security_invoker = true) AS
    SELECT j.id AS job_id, j.name AS job, j.owner, a.executing, a.run_id, a.queued, a.progress
    FROM apapacho_jobs.job AS j CROSS JOIN LATERAL apapacho_jobs.own_activity(j.id) AS a;
COMMENT ON VIEW apapacho_jobs.activity IS
    'what is on its way of each job: whether it is at work (executing), which run, its progress, how many runs are queued';
GRANT SELECT ON apapacho_jobs.activity TO PUBLIC;

-- The document keeps the seed's order of keys, which json can and jsonb cannot.
CREATE FUNCTION @extschema@.apapacho_scheduler_status_json() RETURNS json
    LANGUAGE sql VOLATILE PARALLEL RESTRICTED SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT json_build_object(
            'enabled', current_setting('apapacho_jobs.enabled')::boolean,
            'jobs', (SELECT json_agg(json_build_object('name', s.long_name, 'cron', s.cron, 'running', s.running,
                                                       'executing', s.executing, 'nextRun', s.next_run)
                                     ORDER BY s.job_id)
                     FROM @extschema@.apapacho_job_status() AS s))
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

