-- The outbox: emit, publish, fail, retry, look, clean up. Nothing listens where the webhooks of this test go.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS apapacho_jobs;
SELECT count(*) >= 0 AS tables_are_there FROM (SELECT apapacho_create_tables()) t;
TRUNCATE "OutboxEvent";
RESET client_min_messages;
SELECT format('ALTER DATABASE %I SET apapacho_jobs.outbox_publisher_type = %L', current_database(), 'console') AS console,
       format('ALTER DATABASE %I SET apapacho_jobs.outbox_publisher_type = %L', current_database(), 'webhook') AS webhook,
       format('ALTER DATABASE %I SET apapacho_jobs.outbox_webhook_url = %L', current_database(), 'http://127.0.0.1:9/') AS url,
       format('ALTER DATABASE %I RESET apapacho_jobs.outbox_webhook_url', current_database()) AS no_url,
       format('ALTER DATABASE %I RESET ALL', current_database()) AS reset
\gset
CREATE FUNCTION figures(jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT $1 - 'runId' $$;

-- emit: a part of the caller's transaction; ids and times in order
BEGIN;
SELECT apapacho_outbox_emit('Order', '1', 'OrderCreated', '{"total": 1}') AS first \gset
SELECT apapacho_outbox_emit('Order', '1', 'OrderPaid') AS second \gset
COMMIT;
BEGIN;
SELECT apapacho_outbox_emit('Order', '2', 'OrderCreated') IS NOT NULL AS emitted;
ROLLBACK;
SELECT :'first' < :'second' AS in_order, length(:'first') AS length;
SELECT "aggregateType", "aggregateId", "eventType", payload, "publishedAt", "retryCount", "lastError",
       "createdAt" BETWEEN (now() AT TIME ZONE 'UTC') - interval '1 minute' AND (clock_timestamp() AT TIME ZONE 'UTC') AS just_now
    FROM "OutboxEvent" ORDER BY id;
SELECT apapacho_outbox_emit(NULL, '1', 'x');
SELECT apapacho_outbox_emit('Order', '', 'x');
SELECT apapacho_outbox_emit('Order', '1', '');
SELECT apapacho_outbox_emit('Order', '1', 'x', NULL);

-- publish
:console;
SELECT apapacho_outbox_stats() - 'oldestPendingAt' - 'oldestPendingSeconds' AS stats;
SELECT figures(apapacho_outbox_process(1));
SELECT "eventType", "publishedAt" IS NOT NULL AS published FROM "OutboxEvent" ORDER BY id;
SELECT figures(apapacho_outbox_process());
SELECT figures(apapacho_outbox_process());
SELECT apapacho_outbox_stats() AS stats;
SELECT apapacho_outbox_process(0);

-- a webhook needs a URL
:webhook;
SELECT apapacho_outbox_process();

-- nobody listens: the first event of the aggregate fails, and its successor waits for it
:url;
TRUNCATE "OutboxEvent";
SELECT apapacho_outbox_emit('Order', '1', 'OrderCreated') AS first \gset
SELECT apapacho_outbox_emit('Order', '1', 'OrderPaid') AS second \gset
SELECT replace(figures(apapacho_outbox_process())::text, :'first', 'FIRST') AS figures;
SELECT "eventType", "retryCount", "lastError", "publishedAt" FROM "OutboxEvent" ORDER BY id;
SELECT event_id = :'first' AS is_first, aggregate_type, aggregate_id, attempts,
       next_attempt_at BETWEEN now() AND now() + interval '10 seconds' AS in_seconds FROM apapacho_jobs.outbox_retry;
:console;
UPDATE apapacho_jobs.outbox_retry SET next_attempt_at = now() + interval '1 hour';
SELECT figures(apapacho_outbox_process());
UPDATE apapacho_jobs.outbox_retry SET next_attempt_at = now();
SELECT figures(apapacho_outbox_process());
SELECT "eventType", "retryCount", "lastError", "publishedAt" IS NOT NULL AS published FROM "OutboxEvent" ORDER BY "publishedAt", id;
SELECT count(*) FROM apapacho_jobs.outbox_retry;

-- the last attempt; then it no longer holds up its aggregate, and can be brought back
:webhook;
TRUNCATE "OutboxEvent";
INSERT INTO "OutboxEvent" (id, "aggregateType", "aggregateId", "eventType", payload, "retryCount", "createdAt")
    VALUES ('a', 'Order', '1', 'OrderCreated', '{}', 9, '2025-01-01'), ('b', 'Order', '1', 'OrderPaid', '{}', 0, '2025-01-02');
INSERT INTO apapacho_jobs.outbox_retry VALUES ('a', 'Order', '1', 9, now());
SELECT figures(apapacho_outbox_process());
SELECT * FROM apapacho_outbox_events('failed');
SELECT event_id, attempts FROM apapacho_jobs.outbox_retry;
SELECT apapacho_outbox_stats() - 'oldestPendingSeconds' AS stats;
SELECT apapacho_outbox_retry_failed();
SELECT apapacho_outbox_retry_failed();
SELECT id, "retryCount", "lastError" FROM apapacho_outbox_events() ORDER BY id;
-- ... and what only waits is due at once
TRUNCATE "OutboxEvent";
INSERT INTO "OutboxEvent" (id, "aggregateType", "aggregateId", "eventType", payload) VALUES ('waits', 'W', '1', 'x', '{}');
SELECT figures(apapacho_outbox_process()) - 'errors' AS fails;
SELECT figures(apapacho_outbox_process()) AS waits;
SELECT apapacho_outbox_retry_failed();
SELECT figures(apapacho_outbox_process()) - 'errors' AS fails_again;
SELECT id, "retryCount" FROM apapacho_outbox_events();

-- an outcome that a trigger refuses: that event is put off, the others are done with
:console;
TRUNCATE "OutboxEvent";
DELETE FROM apapacho_jobs.outbox_retry;
INSERT INTO "OutboxEvent" (id, "aggregateType", "aggregateId", "eventType", payload)
    SELECT 'r' || n, 'R', n::text, 'x', '{}' FROM generate_series(1, 11) n;
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.id = 'r7' THEN RAISE EXCEPTION 'not this one'; END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER refuse BEFORE UPDATE ON "OutboxEvent" FOR EACH ROW EXECUTE FUNCTION refuse();
SELECT figures(apapacho_outbox_process()) AS figures;
SELECT string_agg(id, ' ') FROM "OutboxEvent" WHERE "publishedAt" IS NULL;
SELECT figures(apapacho_outbox_process()) AS put_off;
DROP TRIGGER refuse ON "OutboxEvent";
DROP FUNCTION refuse();
SELECT apapacho_outbox_retry_failed();
SELECT figures(apapacho_outbox_process()) AS figures;
:webhook;

-- texts that no header may carry
TRUNCATE "OutboxEvent";
INSERT INTO "OutboxEvent" (id, "aggregateType", "aggregateId", "eventType", payload) VALUES ('long', '', '', repeat('x', 5000), '{}');
SELECT figures(apapacho_outbox_process());
SELECT id, "retryCount", "lastError" FROM apapacho_outbox_events('failed');

-- look
TRUNCATE "OutboxEvent";
INSERT INTO "OutboxEvent" (id, "aggregateType", "aggregateId", "eventType", payload, "createdAt", "publishedAt", "retryCount", "lastError")
    SELECT 'e' || i, 'Order', i::text, 'T', '{}', timestamp '2025-01-01' + i * interval '1 day',
        CASE WHEN i > 5 THEN timestamp '2025-02-01' + i * interval '1 day' END, CASE WHEN i < 3 THEN 10 ELSE 0 END,
        CASE WHEN i < 3 THEN 'HTTP 500' END
    FROM generate_series(1, 8) i;
SELECT * FROM apapacho_outbox_events();
SELECT id FROM apapacho_outbox_events('published');
SELECT id FROM apapacho_outbox_events('failed');
SELECT id FROM apapacho_outbox_events('all', 3, 2);
SELECT count(*) FROM apapacho_outbox_events('all', NULL, NULL);
SELECT * FROM apapacho_outbox_events('sent');
SELECT * FROM apapacho_outbox_events(NULL);
SELECT * FROM apapacho_outbox_events('all', -1);
SELECT * FROM apapacho_outbox_events('all', 1, -1);

-- clean up
INSERT INTO apapacho_jobs.outbox_retry VALUES ('gone', 'Order', '1', 1, now()), ('e4', 'Order', '4', 1, now());
SELECT figures(apapacho_outbox_cleanup(36500));
SELECT figures(apapacho_outbox_cleanup());
SELECT id FROM apapacho_outbox_events('all');
SELECT event_id FROM apapacho_jobs.outbox_retry;
SELECT apapacho_outbox_cleanup(-1);

-- a role that was granted the functions needs nothing else; emit inserts as its caller
CREATE ROLE regress_outbox_clerk;
GRANT EXECUTE ON FUNCTION apapacho_outbox_stats(), apapacho_outbox_events(text, integer, integer), apapacho_outbox_retry_failed(),
    apapacho_outbox_process(integer), apapacho_outbox_cleanup(integer), apapacho_outbox_emit(text, text, text, jsonb)
    TO regress_outbox_clerk;
:console;
SET ROLE regress_outbox_clerk;
SELECT apapacho_outbox_retry_failed();
SELECT figures(apapacho_outbox_process());
SELECT figures(apapacho_outbox_cleanup(0));
SELECT apapacho_outbox_stats();
SELECT * FROM apapacho_outbox_events();
SELECT apapacho_outbox_emit('Order', '1', 'x');
SELECT * FROM "OutboxEvent";
SELECT * FROM apapacho_jobs.outbox_retry;
RESET ROLE;
GRANT INSERT ON "OutboxEvent" TO regress_outbox_clerk;
SET ROLE regress_outbox_clerk;
SELECT length(apapacho_outbox_emit('Order', '1', 'x'));
RESET ROLE;
REVOKE ALL ON "OutboxEvent" FROM regress_outbox_clerk;
DROP OWNED BY regress_outbox_clerk;
CREATE ROLE regress_outbox_nobody;
SET ROLE regress_outbox_nobody;
SELECT apapacho_outbox_stats();
SELECT apapacho_outbox_emit('Order', '1', 'x');
SELECT apapacho_outbox_process();
RESET ROLE;

-- the user's triggers run as the owner of the table, never as the worker
CREATE ROLE regress_outbox_owner;
CREATE SCHEMA regress_outbox AUTHORIZATION regress_outbox_owner;
SET ROLE regress_outbox_owner;
CREATE TABLE regress_outbox.log (who text);
CREATE FUNCTION regress_outbox.note() RETURNS trigger LANGUAGE plpgsql
    AS $$ BEGIN INSERT INTO regress_outbox.log VALUES (current_user || ' ' || TG_OP); RETURN NULL; END $$;
RESET ROLE;
CREATE TABLE regress_outbox."OutboxEvent" (LIKE "OutboxEvent" INCLUDING ALL);
ALTER TABLE regress_outbox."OutboxEvent" OWNER TO regress_outbox_owner;
SET ROLE regress_outbox_owner;
CREATE TRIGGER note AFTER UPDATE OR DELETE ON regress_outbox."OutboxEvent" FOR EACH ROW EXECUTE FUNCTION regress_outbox.note();
CREATE CONSTRAINT TRIGGER later AFTER UPDATE OR DELETE ON regress_outbox."OutboxEvent" DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION regress_outbox.note();
RESET ROLE;
\set ECHO errors
SELECT format('ALTER DATABASE %I SET apapacho_jobs.schema = %L', current_database(), 'regress_outbox') \gexec
\set ECHO all
SET apapacho_jobs.schema = 'regress_outbox';
SELECT length(apapacho_outbox_emit('Order', '1', 'x'));
SELECT figures(apapacho_outbox_process());
SELECT figures(apapacho_outbox_cleanup(0));
SELECT * FROM regress_outbox.log;
DROP TABLE regress_outbox."OutboxEvent";
SELECT apapacho_outbox_emit('Order', '1', 'x');
SELECT apapacho_outbox_process();
SELECT apapacho_outbox_stats();
RESET apapacho_jobs.schema;

:reset;
TRUNCATE "OutboxEvent";
SET client_min_messages = warning;
DROP SCHEMA regress_outbox CASCADE;
DROP ROLE regress_outbox_clerk, regress_outbox_nobody, regress_outbox_owner;
DROP FUNCTION figures(jsonb);
