-- Jobs of the user's own, as SQL sees them: made, changed, refused, seen and not seen. None of them comes due here.
SET client_min_messages = warning;
\set SHOW_CONTEXT never
DROP EXTENSION IF EXISTS apapacho_jobs;
CREATE EXTENSION apapacho_jobs;
CREATE ROLE regress_jobs_ana LOGIN;
CREATE ROLE regress_jobs_ben LOGIN;
CREATE ROLE regress_jobs_cleo LOGIN;
CREATE ROLE regress_jobs_team ROLE regress_jobs_ana, regress_jobs_ben;
CREATE ROLE regress_jobs_app LOGIN ROLE regress_jobs_ana;
CREATE ROLE regress_jobs_gone LOGIN;

-- What an attempt is refused with; "done" when it is not.
CREATE SCHEMA jobs;
GRANT USAGE ON SCHEMA jobs TO PUBLIC;
CREATE FUNCTION jobs.try(call text, OUT state text, OUT message text, OUT detail text, OUT hint text) LANGUAGE plpgsql AS $$
BEGIN
    state := 'done';
    EXECUTE CASE WHEN call LIKE 'apapacho%' THEN 'SELECT ' || call ELSE call END;
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
END
$$;
CREATE VIEW jobs.own WITH (security_invoker = false) AS
    SELECT id, name, owner, run_as, schedule, command, database, time_zone, timeout, retries, retry_delay, retry_delay_max, overlap,
        misfire, misfire_window, paused
    FROM apapacho_jobs.job WHERE NOT builtin;

-- What there is, and who may call it
SELECT p.oid::regprocedure AS function, p.provolatile AS volatile, p.proisstrict AS strict, p.prosecdef AS definer, p.proparallel AS parallel,
    has_function_privilege('regress_jobs_cleo', p.oid, 'EXECUTE') AS everybody
FROM pg_proc AS p
WHERE p.proname ~ '^apapacho_((schedule|alter|pause|resume|unschedule)_job|cancel_run|cron_.*)$'
    OR p.oid::regproc::text IN ('apapacho_jobs.job_changed', 'apapacho_jobs.cron_is_valid')
ORDER BY p.oid::regprocedure::text COLLATE "C";
SELECT attname AS uncommented FROM pg_attribute
WHERE attrelid = 'apapacho_jobs.job'::regclass AND attnum > 0 AND col_description(attrelid, attnum) IS NULL;

-- The built-in jobs are rows of the same kind.
SELECT id, name, long_name, owner = current_user::regrole AS ours, run_as = owner AS as_ours, schedule, command, database, time_zone, timeout,
    retries, overlap, misfire, paused
FROM apapacho_jobs.job WHERE builtin ORDER BY id;

GRANT EXECUTE ON FUNCTION
    apapacho_schedule_job(text, text, text, text, text, text, interval, integer, interval, interval, text, text, interval),
    apapacho_alter_job(text, text, text, text, text, text, interval, integer, interval, interval, text, text, interval, text, text),
    apapacho_pause_job(text), apapacho_resume_job(text), apapacho_unschedule_job(text), apapacho_cancel_run(bigint)
    TO regress_jobs_ana, regress_jobs_ben, regress_jobs_gone;

-- A job, with the defaults; and with everything
SET ROLE regress_jobs_ana;
SELECT apapacho_schedule_job('nightly', '0 2 * * *', 'SELECT 1');
SELECT apapacho_schedule_job('everything', '*/5 9-17 * * mon-fri', 'SELECT 1; SELECT 2', database => 'template1', run_as => 'regress_jobs_app',
    time_zone => 'America/Santiago', timeout => '90 s', retries => 3, retry_delay => '1 min', retry_delay_max => '2 days', overlap => 'queue',
    misfire => 'all', misfire_window => '36 h');
RESET ROLE;
SELECT * FROM jobs.own ORDER BY id \gx
SELECT name, created_at = updated_at AS new, updated_at <= now() AS times FROM apapacho_jobs.job WHERE NOT builtin ORDER BY id;

-- Replaced by name: the same job, all else as given or the default, still paused if it was
SELECT apapacho_pause_job('everything');
SET ROLE regress_jobs_ana;
SELECT apapacho_schedule_job('everything', '@hourly', 'SELECT 3');
RESET ROLE;
SELECT * FROM jobs.own WHERE name = 'everything' \gx
SELECT name, created_at < updated_at AS changed FROM apapacho_jobs.job WHERE NOT builtin ORDER BY id;

-- Nulls are the defaults, and the own database is not kept by name.
SELECT apapacho_schedule_job('nulls', '@daily', 'SELECT 1', current_database(), NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL) > 0 AS id;
SELECT apapacho_alter_job('nulls', database => 'template1');
SELECT apapacho_alter_job('nulls', database => current_database());
SELECT * FROM jobs.own WHERE name = 'nulls' \gx
SELECT apapacho_unschedule_job('nulls');

-- Altered: what is given alone; empty and 0 are none
SELECT apapacho_alter_job('nightly', schedule => '0 3 * * *', time_zone => 'Europe/Berlin', timeout => '1 ms', retries => 100,
    database => 'template1', new_name => 'every night');
SELECT apapacho_alter_job('every night', command => 'SELECT ''é''', run_as => 'regress_jobs_app', overlap => 'queue', misfire => 'skip',
    misfire_window => '0', retry_delay => '0', retry_delay_max => '0');
SELECT * FROM jobs.own WHERE name = 'every night' \gx
SELECT apapacho_alter_job('every night', time_zone => '', timeout => '0', database => '');
SELECT apapacho_alter_job('every night');
SELECT * FROM jobs.own WHERE name = 'every night' \gx
SELECT apapacho_alter_job('every night', new_name => 'every night');
SELECT apapacho_alter_job('every night', new_name => 'nightly', run_as => 'regress_jobs_ana');

-- Paused and resumed, by either name; the answer says whether that changed anything.
SELECT apapacho_pause_job('nightly'), apapacho_pause_job('nightly');
SELECT apapacho_resume_job('nightly'), apapacho_resume_job('nightly');
SELECT apapacho_pause_job('payoutCalculation');
SELECT name, paused FROM apapacho_jobs.job WHERE paused ORDER BY id;
SELECT apapacho_resume_job('payout'), apapacho_resume_job('everything');

-- A built-in job's rules and zone can be changed; what it does and when cannot.
SELECT apapacho_alter_job('cleanup', time_zone => 'Asia/Tokyo', timeout => '1 hour', retries => 2, misfire => 'skip', owner => 'regress_jobs_team');
SELECT owner, run_as = current_user::regrole AS as_ours, time_zone, timeout, retries, misfire FROM apapacho_jobs.job WHERE name = 'cleanup';
SELECT apapacho_alter_job('cleanup', time_zone => '', timeout => '0', retries => 0, misfire => 'once', owner => current_user);
SELECT t.* FROM unnest(ARRAY[
    $$apapacho_alter_job('payout', schedule => '@daily')$$,
    $$apapacho_alter_job('payoutCalculation', command => 'SELECT 1')$$,
    $$apapacho_alter_job('payout', database => 'template1')$$,
    $$apapacho_alter_job('payout', run_as => 'regress_jobs_app')$$,
    $$apapacho_alter_job('payout', new_name => 'pay')$$,
    $$apapacho_schedule_job('payout', '@daily', 'SELECT 1')$$,
    $$apapacho_schedule_job('payoutCalculation', '@daily', 'SELECT 1')$$,
    $$apapacho_alter_job('nightly', new_name => 'payoutCalculation')$$,
    $$apapacho_alter_job('nightly', new_name => 'everything')$$,
    $$apapacho_unschedule_job('outboxCleanup')$$]) AS call, jobs.try(call) AS t;

-- Refused: names
SELECT t.* FROM unnest(ARRAY[NULL, '', ' a', 'a ', E'a\nb', E'a\u007f', repeat('x', 64), repeat('é', 32)]) AS name,
    jobs.try(format($$apapacho_schedule_job(%L, '@daily', 'SELECT 1')$$, name)) AS t;
SELECT * FROM jobs.try($$apapacho_alter_job('nightly', new_name => '')$$);
SELECT apapacho_unschedule_job(name) FROM unnest(ARRAY[repeat('x', 63), repeat('é', 31), 'with "quotes" and ''apostrophes'' \', '%s']) AS name,
    apapacho_schedule_job(name, '@daily', 'SELECT 1');

-- Refused, without using up an id: schedules, with field and position
SELECT last_value AS last_id FROM apapacho_jobs.job_id_seq \gset
SELECT t.* FROM unnest(ARRAY[NULL, '', 'daily', '* * * *', '60 * * * *', '0 0 31 2 *', '* * * * * * *', repeat('0,', 130) || '0 * * * *']) AS schedule,
    jobs.try(format($$apapacho_schedule_job('bad', %L, 'SELECT 1')$$, schedule)) AS t;
SELECT * FROM jobs.try($$apapacho_alter_job('nightly', schedule => '')$$);
-- and those of which the job's clock jumps over each time: the last Sunday of March from two to three, in Berlin
SELECT t.* FROM unnest(ARRAY[$$apapacho_schedule_job('bad', '*/30 2 * 3 sunL', 'SELECT 1', time_zone => 'Europe/Berlin')$$,
    $$apapacho_alter_job('nightly', schedule => '*/30 2 * 3 sunL', time_zone => 'Europe/Berlin')$$,
    $$apapacho_cron_next('*/30 2 * 3 sunL', time_zone => 'Europe/Berlin')$$,
    $$apapacho_cron_next('30 2 * 3 sunL', '2026-01-01', 1, 'Europe/Berlin')$$,
    $$apapacho_cron_next('*/30 2 * 3 sunL', '2026-01-01', 1, 'America/Santiago')$$]) AS call, jobs.try(call) AS t;
BEGIN;
SELECT apapacho_alter_job('nightly', schedule => '*/30 2 * 3 sunL', time_zone => 'America/Santiago');
SELECT * FROM jobs.try($$apapacho_alter_job('nightly', time_zone => 'Europe/Berlin')$$);
ROLLBACK;

-- Refused: commands
SELECT t.* FROM unnest(ARRAY[NULL, '', ' ; ;', '-- nothing', 'SELEC 1', 'SELECT 1; SELECT (', 'COPY t FROM STDIN', 'SELECT 1; COPY t TO STDOUT',
        repeat('SELECT 1;', 120000)]) AS command,
    jobs.try(format($$apapacho_schedule_job('bad', '@daily', %L)$$, command)) AS t;
SELECT apapacho_schedule_job('bad', '@daily', 'SELEC 1');
SELECT * FROM jobs.try($$apapacho_alter_job('nightly', command => '')$$);

-- Refused: everything else
SELECT value AS argument, t.* FROM unnest(ARRAY[
        $$database => 'nowhere'$$, $$database => 'template0'$$, $$run_as => 'nobody at all'$$, $$run_as => ''$$, $$run_as => 'regress_jobs_team'$$,
        $$time_zone => 'Mars/Olympus'$$, $$timeout => '-1 s'$$, $$timeout => '999 us'$$, $$timeout => '25 days'$$, $$timeout => '1 mon'$$,
        $$timeout => '1 mon -30 days'$$, $$timeout => '178000000 years'$$, $$timeout => '2000000000 days'$$, $$retries => -1$$, $$retries => 101$$,
        $$retry_delay => '-1 s'$$, $$retry_delay => '2 h'$$, $$retry_delay => '25 days', retry_delay_max => '26 days'$$, $$retry_delay_max => '1 s'$$,
        $$overlap => 'both'$$, $$overlap => ''$$, $$misfire => 'Once'$$, $$misfire_window => '-1 us'$$, $$misfire_window => '367 days'$$]) AS value,
    jobs.try(format($$apapacho_schedule_job('bad', '@daily', 'SELECT 1', %s)$$, value)) AS t;
SELECT value AS argument, t.* FROM unnest(ARRAY[
        $$database => 'nowhere'$$, $$run_as => 'nobody at all'$$, $$owner => 'nobody at all'$$, $$owner => ''$$, $$time_zone => 'Mars/Olympus'$$,
        $$timeout => '-1 s'$$, $$retries => 101$$, $$retry_delay => '2 h'$$, $$retry_delay_max => '-1 s'$$, $$overlap => 'both'$$,
        $$misfire => 'never'$$, $$misfire_window => '367 days'$$]) AS value,
    jobs.try(format($$apapacho_alter_job('nightly', %s)$$, value)) AS t;
SELECT call, t.* FROM unnest(ARRAY[
    $$apapacho_alter_job(NULL)$$, $$apapacho_pause_job(NULL)$$, $$apapacho_resume_job(NULL)$$, $$apapacho_unschedule_job(NULL)$$,
    $$apapacho_cancel_run(NULL)$$]) AS call, jobs.try(call) AS t;
SELECT name FROM jobs.own ORDER BY id;
SELECT apapacho_schedule_job('next', '@daily', 'SELECT 1') - :last_id AS step;

-- Nothing is left of what is rolled back, nor done in a read-only transaction.
BEGIN;
SELECT apapacho_schedule_job('undone', '@daily', 'SELECT 1') > 0 AS id, apapacho_alter_job('next', schedule => '@weekly'), apapacho_pause_job('next'),
    apapacho_unschedule_job('nightly');
SELECT name, schedule, paused FROM jobs.own ORDER BY id;
ROLLBACK;
SELECT name, schedule, paused FROM jobs.own ORDER BY id;
BEGIN READ ONLY;
SELECT apapacho_schedule_job('next', '@daily', 'SELECT 1');
ROLLBACK;

-- Unknown jobs: the error names those that the caller knows. To unschedule them is no error.
SELECT apapacho_schedule_job('job ' || i, '@yearly', 'SELECT 1') > 0 AS id FROM generate_series(1, 20) AS i;
SELECT * FROM jobs.try($$apapacho_pause_job('nothing')$$);
SELECT count(*) FROM generate_series(1, 20) AS i WHERE apapacho_unschedule_job('job ' || i);
SET ROLE regress_jobs_ben;
SELECT call, t.* FROM unnest(ARRAY[
    $$apapacho_alter_job('nothing', retries => 1)$$, $$apapacho_pause_job('nothing')$$, $$apapacho_resume_job('')$$]) AS call, jobs.try(call) AS t;
SELECT apapacho_unschedule_job('nothing');

-- Somebody else's: not seen, not changed, not replaced
SELECT * FROM apapacho_jobs.job;
SELECT call, t.* FROM unnest(ARRAY[
    $$apapacho_schedule_job('nightly', '@daily', 'SELECT 1')$$, $$apapacho_alter_job('nightly', retries => 1)$$, $$apapacho_pause_job('nightly')$$,
    $$apapacho_resume_job('nightly')$$, $$apapacho_unschedule_job('nightly')$$, $$apapacho_pause_job('payout')$$,
    $$apapacho_alter_job('payout', time_zone => 'UTC')$$]) AS call, jobs.try(call) AS t;
SELECT apapacho_schedule_job('ben''s', '@daily', 'SELECT 1') > 0 AS id;
SELECT name, owner, run_as FROM apapacho_jobs.job;
RESET ROLE;
SET ROLE regress_jobs_ana;
SELECT name, owner, run_as FROM apapacho_jobs.job ORDER BY id;
-- nor is anything changed but by the functions
INSERT INTO apapacho_jobs.job (name, owner, run_as, schedule, command) VALUES ('mine', 'regress_jobs_ana', 'postgres', '@daily', 'SELECT 1');
UPDATE apapacho_jobs.job SET run_as = 10;
DELETE FROM apapacho_jobs.job;
TRUNCATE apapacho_jobs.job;
SELECT nextval('apapacho_jobs.job_id_seq');
RESET ROLE;
SET ROLE regress_jobs_cleo;
SELECT count(*) FROM apapacho_jobs.job;
SELECT call, t.* FROM unnest(ARRAY[
    $$apapacho_schedule_job('c', '@daily', 'SELECT 1')$$, $$apapacho_alter_job('c')$$, $$apapacho_pause_job('c')$$, $$apapacho_resume_job('c')$$,
    $$apapacho_unschedule_job('c')$$, $$apapacho_cancel_run(1)$$, $$apapacho_jobs.cron_is_valid('@daily')$$]) AS call, jobs.try(call) AS t;
RESET ROLE;

-- Nobody runs as a role that he is not.
SET ROLE regress_jobs_ben;
SELECT call, t.* FROM unnest(ARRAY[
    $$apapacho_schedule_job('b', '@daily', 'SELECT 1', run_as => 'regress_jobs_ana')$$,
    $$apapacho_schedule_job('b', '@daily', 'SELECT 1', run_as => 'regress_jobs_app')$$,
    format($$apapacho_schedule_job('b', '@daily', 'SELECT 1', run_as => %L)$$, session_user),
    $$apapacho_alter_job('ben''s', run_as => 'regress_jobs_ana')$$,
    $$apapacho_alter_job('ben''s', owner => 'regress_jobs_ana')$$,
    $$apapacho_alter_job('ben''s', owner => 'regress_jobs_cleo')$$,
    -- the team could not become him
    $$apapacho_alter_job('ben''s', owner => 'regress_jobs_team')$$]) AS call, jobs.try(call) AS t;
RESET ROLE;

-- A team's job: its members change it, but not what roles do that they are not.
GRANT regress_jobs_app TO regress_jobs_team;
SELECT apapacho_schedule_job('team''s', '@daily', 'SELECT 1', run_as => 'regress_jobs_app') > 0 AS id;
SELECT apapacho_alter_job('team''s', owner => 'regress_jobs_team');
GRANT regress_jobs_cleo TO regress_jobs_team;
SELECT apapacho_alter_job('team''s', run_as => 'regress_jobs_cleo', command => 'SELECT 2');
REVOKE regress_jobs_cleo FROM regress_jobs_team;
SET ROLE regress_jobs_ben;
SELECT name, owner, run_as FROM apapacho_jobs.job ORDER BY id;
SELECT call, t.* FROM unnest(ARRAY[
    $$apapacho_alter_job('team''s', command => 'SELECT current_user')$$,
    $$apapacho_alter_job('team''s', database => 'template1')$$,
    $$apapacho_alter_job('team''s', run_as => 'regress_jobs_cleo')$$,
    $$apapacho_alter_job('team''s', run_as => 'regress_jobs_ben')$$,
    $$apapacho_schedule_job('team''s', '@daily', 'SELECT 1')$$,
    $$apapacho_alter_job('team''s', schedule => '@weekly', retries => 1, time_zone => 'UTC')$$,
    $$apapacho_pause_job('team''s')$$,
    $$apapacho_alter_job('team''s', command => 'SELECT 3', run_as => 'regress_jobs_app')$$,
    $$apapacho_schedule_job('team''s', '@daily', 'SELECT 4', run_as => 'regress_jobs_app')$$]) AS call, jobs.try(call) AS t;
RESET ROLE;
SELECT name, owner, run_as, schedule, command, retries, paused FROM jobs.own WHERE name = 'team''s';
-- not even the superuser leaves a command of his in another role's hands
SELECT * FROM jobs.try($$apapacho_schedule_job('team''s', '@daily', 'ALTER ROLE regress_jobs_ben SUPERUSER')$$);
SELECT * FROM jobs.try($$apapacho_alter_job('team''s', run_as => session_user)$$);

-- A role that cannot log in, or connect
ALTER ROLE regress_jobs_ben NOLOGIN;
REVOKE CONNECT ON DATABASE template1 FROM PUBLIC;
SET ROLE regress_jobs_ben;
SELECT * FROM jobs.try($$apapacho_schedule_job('b', '@daily', 'SELECT 1')$$);
SELECT * FROM jobs.try($$apapacho_schedule_job('b', '@daily', 'SELECT 1', database => 'template1', run_as => 'regress_jobs_app')$$);
RESET ROLE;
GRANT CONNECT ON DATABASE template1 TO PUBLIC;
ALTER ROLE regress_jobs_ben LOGIN;

-- By a function of somebody else's the job is that one's.
CREATE FUNCTION jobs.definer() RETURNS bigint LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$ SELECT public.apapacho_schedule_job('definer''s', '@daily', 'SELECT 1') $$;
ALTER FUNCTION jobs.definer() OWNER TO regress_jobs_ana;
SET ROLE regress_jobs_cleo;
SELECT jobs.definer() > 0 AS id;
RESET ROLE;
SELECT owner, run_as FROM jobs.own WHERE name = 'definer''s';

-- Nor does a search_path lead astray.
CREATE SCHEMA trap;
CREATE FUNCTION trap.lower(text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped'; END $$;
CREATE FUNCTION trap.equal(text, text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped'; END $$;
CREATE OPERATOR trap.= (FUNCTION = trap.equal, LEFTARG = text, RIGHTARG = text);
CREATE FUNCTION trap.now() RETURNS timestamptz LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped'; END $$;
SET search_path = trap, pg_catalog, public;
SELECT apapacho_schedule_job('next', '@daily', 'SELECT 5') > 0 AS id;
SELECT apapacho_alter_job('next', database => '', time_zone => 'UTC', new_name => 'last');
SELECT apapacho_pause_job('last'), apapacho_resume_job('last'), apapacho_unschedule_job('last');
RESET search_path;
DROP SCHEMA trap CASCADE;

-- Roles that have been dropped: the job stays, nothing breaks, and a superuser can see to it.
SET ROLE regress_jobs_gone;
SELECT apapacho_schedule_job('orphan', '@daily', 'SELECT 1') > 0 AS id;
RESET ROLE;
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA public FROM regress_jobs_gone;
DROP ROLE regress_jobs_gone;
SELECT name, owner::text ~ '^\d+$' AS owner_is_gone, run_as::text ~ '^\d+$' AS role_is_gone FROM apapacho_jobs.job WHERE name = 'orphan';
SELECT apapacho_pause_job('orphan'), apapacho_resume_job('orphan');
SELECT call, t.* FROM unnest(ARRAY[
    $$apapacho_alter_job('orphan', command => 'SELECT 2')$$,
    $$apapacho_alter_job('orphan', owner => 'regress_jobs_ana')$$,
    $$apapacho_alter_job('orphan', retries => 1)$$]) AS call, jobs.try(call) AS t;
SET ROLE regress_jobs_ana;
SELECT * FROM jobs.try($$apapacho_pause_job('orphan')$$);
RESET ROLE;

-- A dump holds the users' jobs whose roles are there, and where their ids go on.
SELECT c.config::regclass AS dumped, c.condition FROM pg_extension AS e, unnest(e.extconfig, e.extcondition) AS c (config, condition)
WHERE e.extname = 'apapacho_jobs' AND c.config::regclass::text LIKE 'apapacho_jobs.job%' ORDER BY 1;
SELECT format('SELECT name FROM ONLY %s %s', c.config::regclass, c.condition) FROM pg_extension AS e, unnest(e.extconfig, e.extcondition) AS c (config, condition)
WHERE e.extname = 'apapacho_jobs' AND c.config = 'apapacho_jobs.job'::regclass \gexec

SELECT apapacho_alter_job('orphan', owner => 'regress_jobs_ana', run_as => 'regress_jobs_app');
SELECT owner, run_as FROM jobs.own WHERE name = 'orphan';

-- The table itself refuses what the functions would, from whoever may write it.
SELECT change, t.state, t.message, t.detail LIKE 'At position%' AS position FROM unnest(ARRAY[
        $$schedule = '60 * * * *'$$, $$schedule = NULL$$, $$command = ''$$, $$name = ' '$$, $$name = E'a\tb'$$, $$database = ''$$, $$time_zone = ''$$,
        $$timeout = '0'$$, $$retries = 101$$, $$retry_delay = '2 h'$$, $$overlap = 'both'$$, $$misfire = 'never'$$, $$builtin = true$$,
        $$long_name = 'x'$$]) AS change,
    jobs.try(format('UPDATE apapacho_jobs.job SET %s WHERE name = %L', change, 'orphan')) AS t;
BEGIN;
TRUNCATE apapacho_jobs.job;
SELECT count(*) FROM apapacho_job_status();
SELECT apapacho_pause_job('payout');
ROLLBACK;

-- Runs: one error for those that are not and those that are not one's own.
INSERT INTO apapacho_jobs.run (id, job, job_id, owner, trigger, scheduled_for, scheduled_until, started_at, finished_at, status)
    SELECT -1, name, id, owner, 'manual', now(), now(), now(), now(), 'succeeded' FROM apapacho_jobs.job WHERE name = 'ben''s';
SELECT apapacho_cancel_run(-1);
SELECT * FROM jobs.try('apapacho_cancel_run(-2)');
SET ROLE regress_jobs_ben;
SELECT apapacho_cancel_run(-1);
RESET ROLE;
SET ROLE regress_jobs_ana;
SELECT id, t.* FROM generate_series(-2, -1) AS id, jobs.try(format('apapacho_cancel_run(%s)', id)) AS t;
RESET ROLE;

-- Expressions previewed: in the zone of the schedules, or another one; by everybody
SET ROLE regress_jobs_cleo;
SELECT apapacho_cron_next('0 2 * * 0', '2025-03-05 12:00+00');
SELECT apapacho_cron_next('30 1 * * *', '2024-09-07 00:00-04', 3, 'America/Santiago') AT TIME ZONE 'America/Santiago' AS local;
SELECT apapacho_cron_next('30 2 * * *', '2025-03-29 00:00+01', 3, 'Europe/Berlin') AS fixed;
SELECT apapacho_cron_next('*/30 2 * * *', '2025-10-25 12:00+02', 5, 'Europe/Berlin') AS wildcard;
SELECT apapacho_cron_next('0 0 l * fri#2', '2025-01-01 00:00+00', 4), apapacho_cron_next('45 seconds', '2025-01-01 00:00:00.7+00', 4);
SELECT count(*), max(t) FROM apapacho_cron_next('@hourly', '2025-01-01 00:00+00', 10000) AS t;
SELECT count(*), min(t) > now() AS future FROM apapacho_cron_next('@daily') AS t;
SELECT count(*) FROM apapacho_cron_next('@daily', NULL, NULL, NULL);
SELECT count(*) FROM apapacho_cron_next('@reboot');
SELECT count(*) FROM apapacho_cron_next(NULL);
SELECT count(*) FROM apapacho_cron_next('@daily', '9999-12-30 00:00+00');
SELECT call, t.* FROM unnest(ARRAY[
    $$apapacho_cron_next('0 25 * * *')$$, $$apapacho_cron_next('@daily', 'infinity')$$, $$apapacho_cron_next('@daily', '-infinity')$$,
    $$apapacho_cron_next('@daily', count => 0)$$, $$apapacho_cron_next('@daily', count => 10001)$$,
    $$apapacho_cron_next('@daily', time_zone => 'Mars/Olympus')$$, $$apapacho_cron_next('@daily', time_zone => '')$$,
    $$apapacho_cron_describe('0 25 * * *')$$, $$apapacho_cron_describe('@daily', 'fr')$$, $$apapacho_cron_describe('')$$]) AS call, jobs.try(call) AS t;

-- and in words
SELECT expression, language, apapacho_cron_describe(expression, language)
FROM unnest(ARRAY['0 2 * * 0', '*/5 9-17 * * mon-fri', '0 0 L * *', '30 6 * * wed#1', '@every 90s', '@reboot']) AS expression,
    unnest(ARRAY['en', 'es']) AS language;
SELECT apapacho_cron_describe('@daily') = apapacho_cron_describe('@daily', NULL) AS english, apapacho_cron_describe(NULL) IS NULL AS nothing;
RESET ROLE;

-- Without the extension there is nothing to call, and nothing is left of it.
DROP EXTENSION apapacho_jobs CASCADE;
SELECT to_regclass('apapacho_jobs.job'), to_regproc('apapacho_schedule_job');
CREATE EXTENSION apapacho_jobs;
DROP SCHEMA jobs CASCADE;
DROP ROLE regress_jobs_ana, regress_jobs_ben, regress_jobs_cleo, regress_jobs_team, regress_jobs_app;
