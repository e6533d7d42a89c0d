-- Payouts on tables whose triggers and policies get in the way: nobody is paid twice, and one error stops none of the others.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS apapacho_jobs;
SELECT count(*) >= 0 AS tables_are_there FROM (SELECT apapacho_create_tables()) t;
TRUNCATE "OutboxEvent", "PayoutItem", "Payout", "Transaction", "Creator" CASCADE;
RESET client_min_messages;

INSERT INTO "Creator" (id, "userId", "updatedAt") SELECT 'c' || n, 'u' || n, '2025-01-01' FROM generate_series(1, 9) n;
INSERT INTO "Transaction" (id, "creatorId", "fanUserId", "productType", "grossAmount", "appliedFeeScheduleId", "appliedPlatformFeeBps",
                           "platformFeeAmount", "creatorPayableAmount", "occurredAt", provider, "providerPaymentId", "providerEventId")
    SELECT 't' || n, 'c' || n, 'fan', 'TIP', 50000, (SELECT id FROM "FeeSchedule" LIMIT 1), 1000, 5000, 45000, '2025-01-01', 'test',
           'p' || n, 'e' || n
    FROM generate_series(1, 9) n;
CREATE FUNCTION figures(jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT $1 - '{runId,payoutRun}'::text[] $$;
CREATE FUNCTION clear() RETURNS void LANGUAGE sql AS $$ DELETE FROM "PayoutItem"; DELETE FROM "Payout"; DELETE FROM "OutboxEvent" $$;

-- a trigger that keeps a row from being written: the payout is undone with it
CREATE FUNCTION suppress() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN CASE WHEN NEW::text ~ ',t5,|""c5""' THEN NULL ELSE NEW END; END $$;
CREATE TRIGGER suppress BEFORE INSERT ON "PayoutItem" FOR EACH ROW EXECUTE FUNCTION suppress();
SELECT figures(apapacho_run_job('payout'));
SELECT count(*), count(*) FILTER (WHERE "creatorId" = 'c5') AS of_c5 FROM "Payout";
DROP TRIGGER suppress ON "PayoutItem";
SELECT clear();
CREATE TRIGGER suppress BEFORE INSERT ON "OutboxEvent" FOR EACH ROW EXECUTE FUNCTION suppress();
SELECT figures(apapacho_run_job('payout'));
SELECT count(*), count(*) FILTER (WHERE "creatorId" = 'c5') AS of_c5 FROM "Payout";
DROP TRIGGER suppress ON "OutboxEvent";
SELECT clear();

-- an error in a trigger's own code, for one creator: it is that creator's; in a statement trigger: it is everybody's
CREATE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_LEVEL = 'STATEMENT' OR NEW."creatorId" = 'c3' THEN PERFORM no_such_function(); END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER broken BEFORE INSERT ON "Payout" FOR EACH ROW EXECUTE FUNCTION broken();
SELECT figures(apapacho_run_job('payout'));
SELECT string_agg("creatorId", ' ' ORDER BY "creatorId") FROM "Payout";
DROP TRIGGER broken ON "Payout";
SELECT clear();
CREATE TRIGGER broken BEFORE INSERT ON "Payout" FOR EACH STATEMENT EXECUTE FUNCTION broken();
SELECT apapacho_run_job('payout');
SELECT count(*) FROM "Payout";
DROP TRIGGER broken ON "Payout";

-- all of them fail by one and the same error: no more is tried than it takes to know that each does
CREATE SEQUENCE tried;
CREATE FUNCTION count_tries() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM nextval('public.tried'); RETURN NULL; END $$;
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_ARGV[0] = '42883' THEN PERFORM no_such_function(); ELSE RAISE unique_violation; END IF;
END $$;
CREATE TRIGGER count_tries BEFORE INSERT ON "Payout" FOR EACH STATEMENT EXECUTE FUNCTION count_tries();
CREATE TRIGGER refuse BEFORE INSERT ON "Payout" FOR EACH ROW EXECUTE FUNCTION refuse('42883');
SELECT figures(apapacho_run_job('payout'));
SELECT last_value AS tried FROM tried;
DROP TRIGGER refuse ON "Payout";
CREATE TRIGGER refuse BEFORE INSERT ON "Payout" FOR EACH ROW EXECUTE FUNCTION refuse('23505');
ALTER SEQUENCE tried RESTART;
SELECT figures(apapacho_run_job('payout'));
SELECT last_value AS tried FROM tried;
DROP TRIGGER refuse ON "Payout";
DROP TRIGGER count_tries ON "Payout";
SELECT sqlstate, count(*) FROM apapacho_jobs.payout_not_paid WHERE run_id = (SELECT max(id) FROM apapacho_jobs.payout_run) GROUP BY 1;

-- row security that hides what is paid already: an error, not another payout
ALTER TABLE "PayoutItem" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE ROLE regress_payout_owner;
SELECT tableowner AS owner FROM pg_tables WHERE tablename = 'Payout' \gset
ALTER TABLE "Payout" OWNER TO regress_payout_owner;
ALTER TABLE "PayoutItem" OWNER TO regress_payout_owner;
GRANT SELECT, UPDATE ON "Transaction", "Creator" TO regress_payout_owner;
GRANT SELECT ON "FeeSchedule" TO regress_payout_owner;
GRANT INSERT ON "OutboxEvent" TO regress_payout_owner;
GRANT SELECT, INSERT ON "LedgerAccount", "LedgerEntry" TO regress_payout_owner;
SELECT apapacho_payout_create('c1');
SELECT * FROM apapacho_payout_install_guards();
ALTER TABLE "PayoutItem" NO FORCE ROW LEVEL SECURITY;
SELECT * FROM apapacho_payout_install_guards();
ALTER TABLE "PayoutItem" FORCE ROW LEVEL SECURITY;
SELECT apapacho_payout_create('c1');
SELECT apapacho_run_job('payout');
SELECT count(*) FROM "Payout";
ALTER TABLE "Payout" OWNER TO :"owner";
ALTER TABLE "PayoutItem" OWNER TO :"owner";
ALTER TABLE "PayoutItem" DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY;
DROP OWNED BY regress_payout_owner;
SELECT * FROM apapacho_payout_install_guards();
DROP ROLE regress_payout_owner;

-- retries: one payout that cannot be taken up, one whose update is suppressed
SELECT figures(apapacho_run_job('payout'));
UPDATE "Payout" SET status = 'PENDING', "retryCount" = 1, "nextRetryAt" = '2025-01-01';
DELETE FROM "OutboxEvent";
CREATE FUNCTION in_the_way() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW."creatorId" = 'c2' THEN RAISE EXCEPTION 'not this one'; END IF;
    RETURN CASE WHEN NEW."creatorId" = 'c4' THEN NULL ELSE NEW END;
END $$;
CREATE TRIGGER in_the_way BEFORE UPDATE ON "Payout" FOR EACH ROW EXECUTE FUNCTION in_the_way();
SELECT figures(apapacho_run_job('retry'));
SELECT figures(apapacho_run_job('retry'));
SELECT string_agg(payload ->> 'creatorId', ' ' ORDER BY payload ->> 'creatorId') FROM "OutboxEvent";
DROP TRIGGER in_the_way ON "Payout";
SELECT figures(apapacho_run_job('retry'));

SET client_min_messages = warning;
TRUNCATE "OutboxEvent", "PayoutItem", "Payout", "Transaction", "Creator" CASCADE;
DROP FUNCTION figures(jsonb), clear(), suppress(), broken(), in_the_way(), count_tries(), refuse();
DROP SEQUENCE tried;
