-- Jobs: a row for each, the built-in ones too (src/scheduler/jobs.c, job_table.c). Changed by the functions below alone.

-- Raises the error that tells what is wrong rather than return false.
CREATE FUNCTION apapacho_jobs.cron_is_valid(expression text) RETURNS boolean
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'apapacho_cron_is_valid';
COMMENT ON FUNCTION apapacho_jobs.cron_is_valid(text) IS
    'true for a cron expression; for anything else the error that names field and position';
REVOKE EXECUTE ON FUNCTION apapacho_jobs.cron_is_valid(text) FROM PUBLIC;

-- The built-in jobs have the first ids.
CREATE SEQUENCE apapacho_jobs.job_id_seq MINVALUE 101;
CREATE TABLE apapacho_jobs.job (
    id bigint NOT NULL DEFAULT nextval('apapacho_jobs.job_id_seq') PRIMARY KEY,
    name text COLLATE "C" NOT NULL UNIQUE
        CHECK (octet_length(name) BETWEEN 1 AND 63 AND name !~ '^ | $|[\u0001-\u001f\u007f]'),
    long_name text COLLATE "C" UNIQUE,
    builtin boolean NOT NULL DEFAULT false CONSTRAINT job_builtin_id_check CHECK (builtin = (id <= 100)),
    paused boolean NOT NULL DEFAULT false,
    owner regrole NOT NULL,
    run_as regrole NOT NULL,
    schedule text COLLATE "C" CHECK (octet_length(schedule) <= 255 AND apapacho_jobs.cron_is_valid(schedule)),
    command text CHECK (octet_length(command) BETWEEN 1 AND 1048576),
    database text COLLATE "C" CHECK (database <> ''),
    time_zone text COLLATE "C" CHECK (time_zone <> ''),
    timeout interval CHECK (timeout BETWEEN '1 millisecond' AND '24 days'),
    retries integer NOT NULL DEFAULT 0 CHECK (retries BETWEEN 0 AND 100),
    retry_delay interval NOT NULL DEFAULT '10 seconds' CHECK (retry_delay BETWEEN '0' AND '24 days'),
    retry_delay_max interval NOT NULL DEFAULT '1 hour' CHECK (retry_delay_max BETWEEN '0' AND '24 days'),
    overlap text COLLATE "C" NOT NULL DEFAULT 'skip' CHECK (overlap IN ('skip', 'queue')),
    misfire text COLLATE "C" NOT NULL DEFAULT 'once' CHECK (misfire IN ('skip', 'once', 'all')),
    misfire_window interval NOT NULL DEFAULT '1 hour' CHECK (misfire_window BETWEEN '0' AND '366 days'),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT job_builtin_check CHECK (CASE WHEN builtin THEN schedule IS NULL AND command IS NULL AND database IS NULL
                                             ELSE schedule IS NOT NULL AND command IS NOT NULL AND long_name IS NULL END),
    CONSTRAINT job_retry_delays_check CHECK (retry_delay_max >= retry_delay)
);
ALTER SEQUENCE apapacho_jobs.job_id_seq OWNED BY apapacho_jobs.job.id;
COMMENT ON TABLE apapacho_jobs.job IS
    'the jobs; each sees those that he owns; changed by apapacho_schedule_job, apapacho_alter_job and the like alone';
COMMENT ON COLUMN apapacho_jobs.job.id IS 'number of the job; built-in jobs have those up to 100';
COMMENT ON COLUMN apapacho_jobs.job.name IS 'name, 1 to 63 bytes';
COMMENT ON COLUMN apapacho_jobs.job.long_name IS 'the built-in jobs'' other name';
COMMENT ON COLUMN apapacho_jobs.job.builtin IS 'whether the job is one of the extension''s own';
COMMENT ON COLUMN apapacho_jobs.job.paused IS 'whether the schedule is out of force until apapacho_resume_job';
COMMENT ON COLUMN apapacho_jobs.job.owner IS 'role whose members see and change the job';
COMMENT ON COLUMN apapacho_jobs.job.run_as IS 'role that the command is executed by; built-in jobs run as the extension';
COMMENT ON COLUMN apapacho_jobs.job.schedule IS 'cron expression; null: the built-in job''s setting, such as apapacho_jobs.payout_cron';
COMMENT ON COLUMN apapacho_jobs.job.command IS 'SQL statements; null: a built-in job';
COMMENT ON COLUMN apapacho_jobs.job.database IS 'database in which the command is executed; null: this one';
COMMENT ON COLUMN apapacho_jobs.job.time_zone IS 'zone of the schedule; null: apapacho_jobs.timezone';
COMMENT ON COLUMN apapacho_jobs.job.timeout IS 'time after which a run is cancelled; null: none';
COMMENT ON COLUMN apapacho_jobs.job.retries IS 'further attempts after a failure';
COMMENT ON COLUMN apapacho_jobs.job.retry_delay IS 'wait before the first of them; doubled for each further one, with jitter';
COMMENT ON COLUMN apapacho_jobs.job.retry_delay_max IS 'longest such wait';
COMMENT ON COLUMN apapacho_jobs.job.overlap IS
    'what becomes of a scheduled time while a run is at work: skip (recorded as skipped) or queue (one run waits)';
COMMENT ON COLUMN apapacho_jobs.job.misfire IS
    'what becomes of scheduled times that nobody was there for: skip, once (one run for all), or all (those within misfire_window)';
COMMENT ON COLUMN apapacho_jobs.job.misfire_window IS 'how late a run may be made up for';
COMMENT ON COLUMN apapacho_jobs.job.created_at IS 'when the job was first scheduled';
COMMENT ON COLUMN apapacho_jobs.job.updated_at IS 'when it was last changed';

ALTER TABLE apapacho_jobs.job ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON apapacho_jobs.job FOR SELECT USING (pg_catalog.pg_has_role(owner, 'USAGE'));
COMMENT ON POLICY own ON apapacho_jobs.job IS 'each sees the jobs of the roles that he is a member of';
GRANT SELECT ON apapacho_jobs.job TO PUBLIC;
GRANT SELECT ON SEQUENCE apapacho_jobs.job_id_seq TO PUBLIC; -- for pg_dump --enable-row-security

-- A restored database has the users' jobs again. Not those of roles that have been dropped: they are numbers by then, which are
-- other roles' somewhere else.
SELECT pg_catalog.pg_extension_config_dump('apapacho_jobs.job',
    'WHERE NOT builtin AND owner IN (SELECT oid FROM pg_catalog.pg_roles) AND run_as IN (SELECT oid FROM pg_catalog.pg_roles)');
SELECT pg_catalog.pg_extension_config_dump('apapacho_jobs.job_id_seq', '');

-- In the order of src/server/job.h.
INSERT INTO apapacho_jobs.job (id, name, long_name, builtin, owner, run_as)
SELECT b.id, b.name, b.long_name, true, r.oid, r.oid
FROM (VALUES (1, 'outbox', 'outboxPublisher'), (2, 'payout', 'payoutCalculation'), (3, 'cleanup', 'outboxCleanup'),
             (4, 'retry', 'payoutRetry')) AS b (id, name, long_name)
    JOIN pg_catalog.pg_roles AS r ON r.rolname = current_user;

CREATE FUNCTION apapacho_jobs.job_changed() RETURNS trigger
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'apapacho_job_changed';
COMMENT ON FUNCTION apapacho_jobs.job_changed() IS 'makes the scheduler look at the jobs anew when the transaction commits';
REVOKE EXECUTE ON FUNCTION apapacho_jobs.job_changed() FROM PUBLIC;
CREATE TRIGGER job_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON apapacho_jobs.job
    FOR EACH STATEMENT EXECUTE FUNCTION apapacho_jobs.job_changed();
COMMENT ON TRIGGER job_changed ON apapacho_jobs.job IS 'makes a change take effect at once';
ALTER TABLE apapacho_jobs.job ENABLE ALWAYS TRIGGER job_changed;

CREATE FUNCTION @extschema@.apapacho_schedule_job(
    name text, schedule text, command text, database text DEFAULT NULL, run_as text DEFAULT NULL, time_zone text DEFAULT NULL,
    timeout interval DEFAULT NULL, retries integer DEFAULT 0, retry_delay interval DEFAULT '10 seconds',
    retry_delay_max interval DEFAULT '1 hour', overlap text DEFAULT 'skip', misfire text DEFAULT 'once',
    misfire_window interval DEFAULT '1 hour')
    RETURNS bigint
    LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'apapacho_schedule_job';
COMMENT ON FUNCTION @extschema@.apapacho_schedule_job(text, text, text, text, text, text, interval, integer, interval, interval, text, text,
    interval) IS 'makes a job of the caller''s that executes a command by a cron schedule, or replaces the one of that name; returns its id';
REVOKE EXECUTE ON FUNCTION @extschema@.apapacho_schedule_job(text, text, text, text, text, text, interval, integer, interval, interval,
    text, text, interval) FROM PUBLIC;

CREATE FUNCTION @extschema@.apapacho_alter_job(
    name text, schedule text DEFAULT NULL, command text DEFAULT NULL, database text DEFAULT NULL, run_as text DEFAULT NULL,
    time_zone text DEFAULT NULL, timeout interval DEFAULT NULL, retries integer DEFAULT NULL, retry_delay interval DEFAULT NULL,
    retry_delay_max interval DEFAULT NULL, overlap text DEFAULT NULL, misfire text DEFAULT NULL,
    misfire_window interval DEFAULT NULL, owner text DEFAULT NULL, new_name text DEFAULT NULL)
    RETURNS void
    LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'apapacho_alter_job';
COMMENT ON FUNCTION @extschema@.apapacho_alter_job(text, text, text, text, text, text, interval, integer, interval, interval, text, text,
    interval, text, text) IS
    'changes what is given of a job, from its next run on; '''' means no database or time zone of its own, and 0 no timeout';
REVOKE EXECUTE ON FUNCTION @extschema@.apapacho_alter_job(text, text, text, text, text, text, interval, integer, interval, interval, text,
    text, interval, text, text) FROM PUBLIC;

CREATE FUNCTION @extschema@.apapacho_pause_job(name text) RETURNS boolean
    LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'apapacho_pause_job';
COMMENT ON FUNCTION @extschema@.apapacho_pause_job(text) IS
    'puts a job''s schedule out of force, a run at work is left to end; returns whether it was in force';
REVOKE EXECUTE ON FUNCTION @extschema@.apapacho_pause_job(text) FROM PUBLIC;

CREATE FUNCTION @extschema@.apapacho_resume_job(name text) RETURNS boolean
    LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'apapacho_resume_job';
COMMENT ON FUNCTION @extschema@.apapacho_resume_job(text) IS 'puts a paused job''s schedule in force again; returns whether it was paused';
REVOKE EXECUTE ON FUNCTION @extschema@.apapacho_resume_job(text) FROM PUBLIC;

CREATE FUNCTION @extschema@.apapacho_unschedule_job(name text) RETURNS boolean
    LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'apapacho_unschedule_job';
COMMENT ON FUNCTION @extschema@.apapacho_unschedule_job(text) IS
    'deletes a job, a run at work is left to end; returns whether there was one of that name';
REVOKE EXECUTE ON FUNCTION @extschema@.apapacho_unschedule_job(text) FROM PUBLIC;

CREATE FUNCTION @extschema@.apapacho_cancel_run(run_id bigint) RETURNS boolean
    LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'apapacho_cancel_run';
COMMENT ON FUNCTION @extschema@.apapacho_cancel_run(bigint) IS
    'ends a run that is queued or at work as cancelled; returns whether it was either';
REVOKE EXECUTE ON FUNCTION @extschema@.apapacho_cancel_run(bigint) FROM PUBLIC;

CREATE FUNCTION @extschema@.apapacho_cron_next(expression text, "from" timestamptz DEFAULT now(), count integer DEFAULT 5,
                                               time_zone text DEFAULT NULL)
    RETURNS SETOF timestamptz
    LANGUAGE c STABLE CALLED ON NULL INPUT PARALLEL SAFE ROWS 5
    AS 'MODULE_PATHNAME', 'apapacho_cron_next';
COMMENT ON FUNCTION @extschema@.apapacho_cron_next(text, timestamptz, integer, text) IS
    'the times after "from" at which a cron expression fires, in a time zone (null: the one of the schedules)';

CREATE FUNCTION @extschema@.apapacho_cron_describe(expression text, language text DEFAULT 'en') RETURNS text
    LANGUAGE c IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'apapacho_cron_describe';
COMMENT ON FUNCTION @extschema@.apapacho_cron_describe(text, text) IS 'a cron expression in words, English (en) or Spanish (es)';

