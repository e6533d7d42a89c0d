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
COMMENT ON FUNCTION apapacho_jobs.uuid_v7() IS
    'a new time-ordered uuid (RFC 9562, version 7) as text, as the ids of the backend''s tables are written';

