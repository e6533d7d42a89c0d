-- Batches of the payout calculation: a transaction of a run has no more than so many items, but for those of one creator.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS apapacho_jobs;
SELECT count(*) >= 0 AS tables_are_there FROM (SELECT apapacho_create_tables()) t;
TRUNCATE "OutboxEvent", "PayoutItem", "Payout", "Transaction", "Creator" CASCADE;
RESET client_min_messages;

-- of 2600 transactions each two creators are paid in a transaction, the third is left for the next; one with 6000 is paid alone
CREATE TABLE many (creator text, number int);
INSERT INTO many VALUES ('a1', 2600), ('a2', 2600), ('a3', 2600), ('a4', 2600), ('b', 6000), ('c1', 10), ('c2', 10), ('d', 10);
INSERT INTO "Creator" (id, "userId", status, "updatedAt")
    SELECT creator, creator, (CASE WHEN creator = 'd' THEN 'SUSPENDED' ELSE 'ACTIVE' END)::"CreatorStatus", now() FROM many;
CREATE FUNCTION sell(prefix text) RETURNS void LANGUAGE sql AS $$
    INSERT INTO "Transaction" (id, "creatorId", "fanUserId", "productType", "grossAmount", "appliedFeeScheduleId", "appliedPlatformFeeBps",
                               "platformFeeAmount", "creatorPayableAmount", "occurredAt", provider, "providerPaymentId", "providerEventId")
    SELECT prefix || creator || n, creator, 'fan', 'TIP', 5000, (SELECT id FROM "FeeSchedule" LIMIT 1), 0, 0, 5000,
           now() AT TIME ZONE 'UTC' - interval '20 days', 'test', 'p', prefix || creator || n
    FROM many, generate_series(1, number) AS n
$$;
SELECT sell('first');
CREATE FUNCTION run(OUT created int, OUT skipped int, OUT errors int, OUT complete boolean) LANGUAGE plpgsql AS $$
DECLARE
    answer jsonb := apapacho_payout_run(forced => true);
BEGIN
    SELECT r.created, r.skipped, r.errors, r.complete INTO created, skipped, errors, complete FROM apapacho_jobs.payout_run r
    WHERE r.id = answer ->> 'payoutRun';
END $$;
CREATE VIEW transactions AS
    SELECT string_agg("creatorId", ' ' ORDER BY "creatorId") AS creators, sum(items) AS items FROM (
        SELECT p.xmin::text AS transaction, p.id, p."creatorId", (SELECT count(*) FROM "PayoutItem" i WHERE i."payoutId" = p.id) AS items
        FROM "Payout" p JOIN apapacho_jobs.payout_origin o ON o.payout_id = p.id
        WHERE o.run_id = (SELECT max(id) FROM apapacho_jobs.payout_run)) AS p
    GROUP BY transaction ORDER BY 1;
SELECT * FROM run();
SELECT * FROM transactions;
SELECT creator_id, reason, transactions FROM apapacho_jobs.payout_reason WHERE until_run IS NULL ORDER BY 1;

-- those for whom something has changed
SELECT sell('second');
SELECT * FROM run();
SELECT * FROM transactions;
SELECT count(*) AS left_to_do FROM apapacho_jobs.payout_todo;
SELECT * FROM run();
SELECT * FROM apapacho_payout_reconcile();

-- many of a kind: a transaction has about as many of them as it may, and hardly any is tried and left for the next one
INSERT INTO many SELECT 'e' || to_char(n, 'FM0000'), 20 FROM generate_series(1, 1500) AS n;
DELETE FROM many WHERE creator < 'e';
INSERT INTO "Creator" (id, "userId", status, "updatedAt") SELECT creator, creator, 'ACTIVE', now() FROM many;
SELECT sell('third');
SELECT * FROM run();
SELECT cardinality(string_to_array(creators, ' ')) AS creators, items FROM transactions;

SET client_min_messages = warning;
TRUNCATE "OutboxEvent", "PayoutItem", "Payout", "Transaction", "Creator" CASCADE;
DROP VIEW transactions;
DROP FUNCTION run(), sell(text);
DROP TABLE many;
