-- The extension's own schema: its tables and internal functions. The public functions are in the extension's schema.
DO $$
BEGIN
    IF '@extschema@' <> 'apapacho_jobs' THEN
        CREATE SCHEMA apapacho_jobs;
    END IF;
END
$$;
COMMENT ON SCHEMA apapacho_jobs IS 'tables and internal functions of the extension apapacho_jobs';
GRANT USAGE ON SCHEMA apapacho_jobs TO PUBLIC;

CREATE FUNCTION apapacho_jobs.uuid_v7() RETURNS text
    LANGUAGE c VOLATILE STRICT PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'apapacho_uuid_v7';
CREATE FUNCTION apapacho_jobs.in_worker() RETURNS boolean
    LANGUAGE c STABLE PARALLEL RESTRICTED
    AS 'MODULE_PATHNAME', 'apapacho_in_worker';
COMMENT ON FUNCTION apapacho_jobs.in_worker() IS
    'whether the statement is one of a worker''s; guards the views through which workers read our tables as the owner of the user''s';

COMMENT ON FUNCTION apapacho_jobs.uuid_v7() IS
    'a new time-ordered uuid (RFC 9562, version 7) as text, as the ids of the backend''s tables are written';

