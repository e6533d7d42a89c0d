-- What the command of a job may be, and what becomes of it: each is run by hand, in a worker whose session is the job's role.
SET client_min_messages = warning;
SET statement_timeout = '60s';
\set SHOW_CONTEXT never
DROP EXTENSION IF EXISTS apapacho_jobs;
CREATE EXTENSION apapacho_jobs;
CREATE ROLE regress_commands_app LOGIN;
CREATE ROLE regress_commands_other;
CREATE SCHEMA commands AUTHORIZATION regress_commands_app;
GRANT EXECUTE ON FUNCTION
    apapacho_schedule_job(text, text, text, text, text, text, interval, integer, interval, interval, text, text, interval),
    apapacho_run_job(text, boolean) TO regress_commands_app;
SELECT apapacho_schedule_job('command', '0 0 1 1 *', 'SELECT', run_as => 'regress_commands_app') > 0 AS id;
SELECT apapacho_alter_job('command', owner => 'regress_commands_app');

-- Runs one command after the other, each in a run of its own; tells how each ended and what was in the table then, and empties that.
CREATE TABLE commands.t (i int);
ALTER TABLE commands.t OWNER TO regress_commands_app;
CREATE PROCEDURE commands.run(commands text[]) LANGUAGE plpgsql AS $$
DECLARE
    this text;
    answer jsonb;
    state text;
    message text;
    rest text;
BEGIN
    FOREACH this IN ARRAY commands LOOP
        UPDATE apapacho_jobs.job SET command = this WHERE name = 'command';
        COMMIT;
        state := '';
        BEGIN
            answer := apapacho_run_job('command');
            message := format('%s: %s statement(s), %s row(s)', answer->>'command', answer->>'statements', answer->>'rows');
        EXCEPTION WHEN OTHERS OR query_canceled THEN
            GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT;
        END;
        SELECT ', table ' || array_agg(i ORDER BY i)::text INTO rest FROM commands.t;
        RAISE INFO E'%\n    %', this, concat_ws(' ', nullif(state, ''), message || coalesce(rest, ''));
        TRUNCATE commands.t;
        COMMIT;
    END LOOP;
END
$$;
SET search_path = commands, public;

-- Whom it runs as, and that it cannot become anybody else
CALL run(ARRAY[
    $$DO 'BEGIN RAISE EXCEPTION ''% % %'', session_user, current_user, pg_has_role(''regress_commands_other'', ''MEMBER''); END'$$,
    $$SET ROLE regress_commands_other$$,
    $$SET SESSION AUTHORIZATION regress_commands_other$$,
    $$RESET SESSION AUTHORIZATION; RESET ROLE; DO 'BEGIN RAISE EXCEPTION ''% %'', session_user, current_user; END'$$,
    $$SET SESSION AUTHORIZATION regress_commands_app; DO 'BEGIN RAISE EXCEPTION ''% %'', session_user, current_user; END'$$,
    $$CREATE ROLE regress_commands_new$$,
    $$SELECT pg_read_file('PG_VERSION')$$,
    $$DO 'BEGIN IF apapacho_jobs.in_worker() THEN RAISE EXCEPTION ''taken for ours''; END IF; END'$$]);

-- One statement: also what no transaction block allows
CREATE PROCEDURE commands.committing() LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO commands.t VALUES (1);
    COMMIT;
    INSERT INTO commands.t VALUES (2);
    ROLLBACK;
    INSERT INTO commands.t VALUES (3);
END
$$;
CALL run(ARRAY[
    'SELECT 1 UNION ALL SELECT 2',
    'INSERT INTO commands.t VALUES (1), (2)',
    'INSERT INTO commands.t VALUES (1) RETURNING i',
    'WITH a AS (INSERT INTO commands.t VALUES (1) RETURNING i) SELECT * FROM a, generate_series(1, 3)',
    'VACUUM commands.t',
    'VACUUM FULL commands.t',
    'CALL commands.committing()',
    'ANALYZE commands.t',
    'EXPLAIN ANALYZE INSERT INTO commands.t VALUES (1)',
    'CREATE TABLE commands.made AS SELECT generate_series(1, 1000) AS i',
    'TABLE commands.made',
    'DROP TABLE commands.made',
    'SHOW search_path',
    'NOTIFY something',
    ';; SELECT 1 ;; -- and no more',
    'INSERT INTO commands.t SELECT 1/0']);

-- Several: one transaction, unless they say otherwise
CALL run(ARRAY[
    'INSERT INTO commands.t VALUES (1); INSERT INTO commands.t SELECT count(*) + 10 FROM commands.t',
    'INSERT INTO commands.t VALUES (1); INSERT INTO commands.t SELECT 1/0; INSERT INTO commands.t VALUES (2)',
    'BEGIN; INSERT INTO commands.t VALUES (1); COMMIT; INSERT INTO commands.t VALUES (2); SELECT 1/0',
    'INSERT INTO commands.t VALUES (1); COMMIT; INSERT INTO commands.t VALUES (2); SELECT 1/0',
    'INSERT INTO commands.t VALUES (1); ROLLBACK; INSERT INTO commands.t VALUES (2)',
    'BEGIN; INSERT INTO commands.t VALUES (1); SAVEPOINT a; INSERT INTO commands.t VALUES (2); ROLLBACK TO a; COMMIT AND CHAIN; '
        'INSERT INTO commands.t VALUES (3); COMMIT',
    'INSERT INTO commands.t VALUES (1); VACUUM commands.t',
    'INSERT INTO commands.t VALUES (9); CALL commands.committing()',
    'COMMIT',
    'ROLLBACK',
    'SELECT 1; SELEC 2']);

-- A transaction that is left open is rolled back, and an error; and nothing of it is left for the next run.
CALL run(ARRAY[
    'BEGIN; INSERT INTO commands.t VALUES (1)',
    'BEGIN',
    'BEGIN; INSERT INTO commands.t VALUES (1); COMMIT AND CHAIN; INSERT INTO commands.t VALUES (2)',
    'BEGIN; INSERT INTO commands.t VALUES (1); SAVEPOINT a; SELECT 1/0',
    'BEGIN; INSERT INTO commands.t VALUES (1); SELECT 1/0; ROLLBACK',
    'SELECT 1',
    'CREATE TABLE commands.late (i int REFERENCES commands.late DEFERRABLE INITIALLY DEFERRED, PRIMARY KEY (i)); ALTER TABLE commands.late '
        'ADD j int REFERENCES commands.late DEFERRABLE INITIALLY DEFERRED; INSERT INTO commands.late VALUES (1, 2)',
    'SELECT 1']);

-- There is no client to talk with.
CALL run(ARRAY[
    'COPY commands.t FROM STDIN',
    'COPY commands.t TO STDOUT',
    'INSERT INTO commands.t VALUES (1); COPY commands.t TO STDOUT',
    'COPY (SELECT 1) TO STDOUT WITH (FORMAT csv)',
    $$DO 'BEGIN EXECUTE ''COPY commands.t TO STDOUT''; END'$$,
    'LISTEN something',
    '-- nothing',
    'DECLARE c CURSOR WITH HOLD FOR SELECT generate_series(1, 3); FETCH ALL c']);

CALL run(ARRAY['DISCARD ALL', 'SELECT 1; DISCARD ALL']);

-- What the session keeps, ends with the run, also where the same process does the next one.
CREATE PROCEDURE commands.wait_for(condition text) LANGUAGE plpgsql AS $$
DECLARE
    deadline timestamptz := clock_timestamp() + interval '30 seconds';
    holds boolean := false;
BEGIN
    WHILE NOT holds LOOP
        IF clock_timestamp() > deadline THEN
            RAISE EXCEPTION 'timed out: %', condition;
        END IF;
        EXECUTE 'SELECT ' || condition INTO holds;
        PERFORM pg_sleep(0.01);
        COMMIT;
    END LOOP;
END
$$;
SELECT apapacho_alter_job('command', command => $$
    CREATE TEMP TABLE found AS SELECT format('%s %s %s %s %s %s', to_regclass('pg_temp.kept'), current_setting('work_mem'),
        current_setting('application_name') = 'kept', (SELECT count(*) FROM pg_prepared_statements),
        (SELECT count(*) FROM pg_cursors WHERE name = 'kept'), (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711)) AS what;
    CREATE TEMP TABLE kept (i int);
    SET work_mem = '77MB';
    SET application_name = 'kept';
    PREPARE kept AS SELECT 1;
    DECLARE kept CURSOR WITH HOLD FOR SELECT 1;
    SELECT pg_advisory_lock(4711), pg_advisory_xact_lock(4712);
    COMMIT;
    DO 'BEGIN RAISE EXCEPTION ''found: %'', (SELECT what FROM found); END' $$);
SELECT pg_advisory_lock(4712);
SELECT apapacho_run_job('command', wait => false)->>'status' AS status;
SELECT apapacho_run_job('command', wait => false)->>'status' AS status;
SELECT pg_advisory_unlock(4712);
CALL commands.wait_for($$(SELECT count(*) = 2 FROM apapacho_jobs.run WHERE error LIKE 'found:%')$$);
SELECT error, count(*) AS runs, count(DISTINCT pid) AS processes FROM apapacho_jobs.run WHERE error LIKE 'found:%' GROUP BY error;

-- The role's settings are in force, and statements' timeouts.
ALTER ROLE regress_commands_app SET statement_timeout = '500ms';
ALTER ROLE regress_commands_app SET search_path = commands;
ALTER ROLE regress_commands_app SET default_transaction_isolation = 'serializable';
CALL run(ARRAY[
    'SELECT pg_sleep(30)',
    'INSERT INTO t VALUES (1); SELECT pg_sleep(30)',
    'SET statement_timeout = 0; SELECT pg_sleep(0.6)',
    'SELECT pg_sleep(0.3); SELECT pg_sleep(0.3); INSERT INTO t VALUES (1)',
    'CALL committing()',
    $$DO 'BEGIN RAISE EXCEPTION ''% %'', current_setting(''transaction_isolation''), current_setting(''transaction_read_only''); END'$$]);
ALTER ROLE regress_commands_app RESET ALL;
ALTER ROLE regress_commands_app SET default_transaction_read_only = on;
CALL run(ARRAY['INSERT INTO commands.t VALUES (1)', 'SELECT 1']);
ALTER ROLE regress_commands_app RESET ALL;

-- Cancelled; and very many statements, of which one is in memory at a time
CALL run(ARRAY[
    'INSERT INTO commands.t VALUES (1); SELECT pg_cancel_backend(pg_backend_pid()), pg_sleep(30)',
    $$DO 'BEGIN PERFORM pg_cancel_backend(pg_backend_pid()), pg_sleep(30); EXCEPTION WHEN query_canceled THEN INSERT INTO commands.t VALUES (1); END'$$]);
GRANT pg_read_all_stats TO regress_commands_app;
SELECT apapacho_alter_job('command', command => repeat('SELECT 1;', 110000) ||
    $$SELECT 1 / (count(*) = 1)::int FROM pg_backend_memory_contexts WHERE name = 'apapacho_jobs statement'$$);
SELECT answer->>'statements' AS statements, answer->>'rows' AS rows FROM apapacho_run_job('command') AS answer;

-- CREATE INDEX CONCURRENTLY waits for the transactions that there are, so the one that runs the job by hand must not wait for it.
SELECT apapacho_alter_job('command', command => 'CREATE INDEX CONCURRENTLY made ON commands.t (i)');
SELECT apapacho_run_job('command', wait => false)->>'status' AS status;

RESET search_path;
CALL commands.wait_for($$(SELECT count(*) = 1 FROM apapacho_jobs.run WHERE result->>'command' = 'CREATE INDEX')$$);
SELECT indisvalid FROM pg_index WHERE indexrelid = 'commands.made'::regclass;

DROP EXTENSION apapacho_jobs;
CREATE EXTENSION apapacho_jobs;
DROP SCHEMA commands CASCADE;
DROP ROLE regress_commands_app, regress_commands_other;
