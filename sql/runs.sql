-- Runs by hand and the status functions, as SQL sees them.
SET client_min_messages = warning;
\set SHOW_CONTEXT never
DROP EXTENSION IF EXISTS apapacho_jobs;
CREATE EXTENSION apapacho_jobs;
CREATE SCHEMA runs;
SET apapacho_jobs.schema = 'runs';
DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET apapacho_jobs.schema = runs', current_database()); END $$;

-- Until a condition holds, or half a minute is over
CREATE PROCEDURE runs.wait_for(condition text) LANGUAGE plpgsql AS $$
DECLARE
    deadline timestamptz := clock_timestamp() + interval '30 seconds';
    holds boolean := false;
BEGIN
    WHILE NOT holds LOOP
        IF clock_timestamp() > deadline THEN
            RAISE EXCEPTION 'timed out: %', condition;
        END IF;
        EXECUTE 'SELECT ' || condition INTO holds;
        PERFORM pg_stat_clear_snapshot(), pg_sleep(0.01);
        COMMIT;
    END LOOP;
END
$$;
CALL runs.wait_for('(SELECT bool_and(running) FROM apapacho_job_status())');

-- What there is, and who may call it
SELECT p.oid::regprocedure AS function, p.provolatile AS volatile, p.prosecdef AS definer, p.proparallel AS parallel,
    p.prolang = (SELECT oid FROM pg_language WHERE lanname = 'c') OR 'search_path=pg_catalog, pg_temp' = ANY (p.proconfig) AS pinned,
    obj_description(p.oid, 'pg_proc') IS NOT NULL AS commented,
    has_function_privilege('pg_monitor', p.oid, 'EXECUTE') AS monitor
FROM pg_proc AS p
WHERE p.proname LIKE 'apapacho\_%job%' OR p.proname LIKE 'apapacho\_scheduler%' OR p.oid::regproc::text IN ('apapacho_jobs.run_job', 'apapacho_jobs.job_activity', 'apapacho_jobs.next_slots', 'apapacho_jobs.upcoming_slots',
    'apapacho_jobs.own_activity', 'apapacho_jobs.prune_history')
ORDER BY p.oid::regprocedure::text COLLATE "C";

-- Every object has a comment.
SELECT pg_describe_object(d.classid, d.objid, 0)
FROM pg_depend AS d
WHERE d.deptype = 'e' AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'apapacho_jobs')
    AND d.classid IN ('pg_proc'::regclass, 'pg_namespace'::regclass, 'pg_class'::regclass)
    AND d.objid NOT IN (SELECT oid FROM pg_class WHERE relkind IN ('i', 'S'))
    AND obj_description(d.objid, (SELECT relname FROM pg_class WHERE oid = d.classid)) IS NULL;

-- Before there are tables: the error says what to do, and is in the history.
SELECT apapacho_run_job('outbox');
SELECT job, trigger, status, sqlstate, error FROM apapacho_jobs.run ORDER BY id DESC LIMIT 1;

SELECT count(*) FROM apapacho_create_tables() WHERE created;

-- The answers; a run id is a number that grows.
SELECT job, answer - 'runId' - 'payoutRun' AS answer, jsonb_typeof(answer->'runId') AS run_id
FROM unnest(ARRAY['outbox', 'payout', 'cleanup', 'retry']) AS j (job), apapacho_run_job(job) AS answer;
SELECT apapacho_run_job('payoutCalculation')->>'job' AS job;
SELECT apapacho_run_job('payout', wait => false) - 'runId' AS answer;
CALL runs.wait_for($$NOT (SELECT bool_or(executing) FROM apapacho_job_status())$$);
SELECT job, trigger, status, requested_by = current_user AS by_us, scheduled_for <= started_at AND started_at <= finished_at AS times,
    result - 'payoutRun' AS result, error
FROM apapacho_jobs.run WHERE status = 'succeeded' ORDER BY id;

-- Errors
SELECT apapacho_run_job('payouts');
SELECT apapacho_run_job('');
SELECT apapacho_run_job(NULL);

-- The status
SELECT name, long_name, cron, running, executing, next_run > now() AS next_run, last_trigger, last_status, last_result - 'payoutRun' AS last_result, last_error,
    last_run <= last_finished AS times
FROM apapacho_job_status();

-- The status document: the seed's keys in the seed's order, more may follow.
SELECT key FROM json_object_keys(apapacho_scheduler_status_json()) AS key;
SELECT string_agg(key, ', ') FROM json_object_keys(apapacho_scheduler_status_json()->'jobs'->0) AS key;
SELECT apapacho_scheduler_status()->'enabled' AS enabled, job->>'name' AS name, job->>'cron' AS cron, job->>'running' AS running
FROM jsonb_array_elements(apapacho_scheduler_status()->'jobs') AS job;

-- A run works within a transaction of the caller's too, but is none of it.
BEGIN;
SELECT apapacho_run_job('retry')->>'status' AS status;
ROLLBACK;
SELECT job, status FROM apapacho_jobs.run ORDER BY id DESC LIMIT 1;

DO $$ BEGIN EXECUTE format('ALTER DATABASE %I RESET apapacho_jobs.schema', current_database()); END $$;
DROP SCHEMA runs CASCADE;
