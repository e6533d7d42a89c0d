-- The user's tables: apapacho_create_tables() lays them out as the backend's ORM does, and adopts those that exist.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS apapacho_jobs;

-- As they stand in a live database
\getenv directory PG_ABS_SRCDIR
\set file :directory '/test/fixtures/backend_tables.sql'
CREATE SCHEMA backend;
SET search_path = backend;
\set ECHO none
\i :file
\set ECHO all
RESET search_path;

CREATE SCHEMA own;
SET apapacho_jobs.schema = 'own';
SELECT * FROM apapacho_create_tables();
SELECT "standardPlatformFeeBps", "vipPlatformFeeBps", "holdDays", "minPayoutClp", "payoutFrequency" FROM own."FeeSchedule";
SELECT code, type FROM own."LedgerAccount" ORDER BY code COLLATE "C";

-- The two layouts, a line for each column, constraint, index and label; what is in one only.
CREATE FUNCTION layout(schema text) RETURNS TABLE (kind text, definition text)
    LANGUAGE sql SET search_path = pg_catalog
    AS $$
        WITH tables AS (SELECT oid, relname FROM pg_class WHERE relnamespace = to_regnamespace(schema) AND relkind = 'r'),
        parts AS (
            SELECT 'column', format('%s %s %s %s not null %s default %s collation %s generated %s identity %s', relname, attnum, attname,
                format_type(atttypid, atttypmod), attnotnull, pg_get_expr(adbin, adrelid), attcollation, attgenerated, attidentity)
            FROM tables JOIN pg_attribute ON attrelid = tables.oid AND attnum > 0 AND NOT attisdropped
                LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
            UNION ALL
            SELECT 'constraint', format('%s %s %s', relname, conname, pg_get_constraintdef(pg_constraint.oid))
            FROM tables JOIN pg_constraint ON conrelid = tables.oid
            UNION ALL
            SELECT 'index', pg_get_indexdef(indexrelid) FROM tables JOIN pg_index ON indrelid = tables.oid
            UNION ALL
            SELECT 'trigger', format('%s %s', relname, tgtype) FROM tables JOIN pg_trigger ON tgrelid = tables.oid
                JOIN pg_proc ON pg_proc.oid = tgfoid AND pronamespace <> 'apapacho_jobs'::regnamespace -- guards come and go with the extension
            UNION ALL
            SELECT 'label', format('%s %s %s', typname, enumsortorder, enumlabel)
            FROM pg_type JOIN pg_enum ON enumtypid = pg_type.oid WHERE typnamespace = to_regnamespace(schema))
        SELECT part, replace(text, schema || '.', '') FROM parts AS p (part, text)
    $$;
SELECT kind, count(*) > 20 AS many FROM layout('backend') GROUP BY kind ORDER BY kind COLLATE "C";
SELECT * FROM (SELECT * FROM layout('backend') EXCEPT ALL SELECT * FROM layout('own')) AS only_backend;
SELECT * FROM (SELECT * FROM layout('own') EXCEPT ALL SELECT * FROM layout('backend')) AS only_own;

-- Nothing of it is the extension's: DROP EXTENSION would leave it.
SELECT count(*) FROM pg_depend
WHERE deptype = 'e' AND refclassid = 'pg_extension'::regclass AND classid = 'pg_class'::regclass
    AND objid IN (SELECT oid FROM pg_class WHERE relnamespace = 'own'::regnamespace);

-- Again: nothing to do, and no second default row
SELECT count(*), bool_or(created) FROM apapacho_create_tables();
SELECT count(*) FROM own."FeeSchedule";

-- Those that exist are adopted as they are, with what is in them.
SET apapacho_jobs.schema = 'backend';
INSERT INTO backend."OutboxEvent" (id, "aggregateType", "aggregateId", "eventType", payload)
VALUES ('e1', 'Payout', 'p1', 'PayoutSent', '{}');
SELECT count(*), bool_or(created) FROM apapacho_create_tables();
SELECT count(*) FROM backend."OutboxEvent";
SELECT count(*) FROM backend."FeeSchedule";
SELECT count(*) FROM backend."LedgerAccount";

-- Some exist
CREATE SCHEMA incomplete;
SET apapacho_jobs.schema = 'incomplete';
CREATE TABLE incomplete."FeeSchedule" (LIKE backend."FeeSchedule" INCLUDING ALL);
SELECT * FROM apapacho_create_tables() WHERE NOT created;
SELECT count(*) FROM incomplete."FeeSchedule";

-- A schema whose name wants quotes
CREATE SCHEMA "Odd ""Schema";
SET apapacho_jobs.schema = 'Odd "Schema';
SELECT count(*) FROM apapacho_create_tables() WHERE created;
SELECT apapacho_jobs.check_user_tables();

-- What is missing is named, with the way out.
\set SHOW_CONTEXT never
SET apapacho_jobs.schema = 'nowhere';
SELECT * FROM apapacho_create_tables();
SELECT apapacho_jobs.check_user_tables();
SET apapacho_jobs.schema = 'own';
SELECT apapacho_jobs.check_user_tables();

BEGIN;
ALTER TABLE own."Payout" RENAME COLUMN "nextRetryAt" TO "next_retry_at";
SELECT apapacho_jobs.check_user_tables();
ROLLBACK;

BEGIN;
DROP TABLE own."OutboxEvent";
SELECT apapacho_jobs.check_user_tables();
ROLLBACK;

BEGIN;
ALTER TABLE own."OutboxEvent" RENAME TO "Events";
CREATE VIEW own."OutboxEvent" AS SELECT * FROM own."Events";
SELECT apapacho_jobs.check_user_tables();
ROLLBACK;

-- Adopting cannot mend what lacks a column.
BEGIN;
ALTER TABLE own."OutboxEvent" DROP COLUMN "lastError";
SELECT count(*) FROM apapacho_create_tables();
ROLLBACK;

DROP FUNCTION layout(text);
DROP SCHEMA backend, own, incomplete, "Odd ""Schema" CASCADE;
