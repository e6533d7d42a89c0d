-- Payouts: preview, eligibility, the run, its errors; what becomes of a payout; retries; who may do it.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS apapacho_jobs;
SELECT count(*) >= 0 AS tables_are_there FROM (SELECT apapacho_create_tables()) t;
TRUNCATE "OutboxEvent", "PayoutItem", "Payout", "Transaction", "Creator" CASCADE;
RESET client_min_messages;
SELECT format('ALTER DATABASE %I SET apapacho_jobs.payout_batch_size = 3', current_database()) AS small_batches,
       format('ALTER DATABASE %I RESET apapacho_jobs.payout_batch_size', current_database()) AS reset
\gset
CREATE FUNCTION figures(jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT $1 - '{runId,payoutRun}'::text[] $$;
CREATE FUNCTION utc_now() RETURNS timestamp(3) LANGUAGE sql AS $$ SELECT date_trunc('milliseconds', now() AT TIME ZONE 'UTC') $$;

-- sell(creator, number, days ago, amount of each): transactions called creator-number, an hour apart, the first the oldest
CREATE FUNCTION sell(creator text, numbers int4range, days int, amount bigint, status text DEFAULT 'SUCCEEDED', currency text DEFAULT 'CLP')
    RETURNS void LANGUAGE sql AS $$
    INSERT INTO "Transaction" (id, "creatorId", "fanUserId", "productType", currency, "grossAmount", "appliedFeeScheduleId",
                               "appliedPlatformFeeBps", "platformFeeAmount", "creatorPayableAmount", status, "occurredAt", provider,
                               "providerPaymentId", "providerEventId")
    SELECT creator || '-' || n, creator, 'fan', 'TIP', currency, amount, (SELECT id FROM "FeeSchedule" LIMIT 1), 1000, amount / 10,
           amount - amount / 10, status::"TransactionStatus", utc_now() - make_interval(days => days, hours => -n), 'test', 'payment',
           'event-' || creator || '-' || n
    FROM generate_series(lower(numbers), upper(numbers) - 1) n
$$;
INSERT INTO "Creator" (id, "userId", status, "updatedAt")
    SELECT name, 'user of ' || name,
           (CASE name WHEN 'suspended' THEN 'SUSPENDED' WHEN 'unverified' THEN 'PENDING_VERIFICATION' ELSE 'ACTIVE' END)::"CreatorStatus",
           utc_now()
    FROM unnest('{dollars,exact,held,idle,low,lower,mixed,overflow,paid,refunded,suspended,unverified}'::text[]) name;
SELECT sell('dollars', '[1,2]', 20, 100000, currency => 'USD'), sell('exact', '[1,2)', 20, 22222), sell('held', '[1,3]', 6, 50000),
       sell('low', '[1,2]', 20, 5000), sell('lower', '[1,2)', 20, 22221), sell('mixed', '[1,2]', 20, 30000),
       sell('mixed', '[3,3]', 2, 30000), sell('overflow', '[1,3]', 20, 9000000000000000000), sell('paid', '[1,3]', 30, 40000),
       sell('refunded', '[1,2]', 20, 50000, 'REFUNDED'), sell('suspended', '[1,2]', 20, 50000), sell('unverified', '[1,2]', 20, 50000)
\g (format=unaligned tuples_only=on) /dev/null

-- looking writes nothing
SELECT creator_id, payable, reason, transactions, amount, held_amount,
       next_release_at - utc_now() BETWEEN '0' AND '7 days' AS released_within_a_week
    FROM apapacho_payout_preview();
SELECT jsonb_pretty(apapacho_payout_eligibility('paid'));
SELECT jsonb_pretty(apapacho_payout_eligibility('low'));
SELECT c.id, e ->> 'canCreatePayout' AS payable, e ->> 'reasonCode' AS code, e ->> 'reason' AS reason, e -> 'pendingHoldCount' AS held
    FROM "Creator" c, apapacho_payout_eligibility(c.id) e ORDER BY c.id;
SELECT apapacho_payout_eligibility('nobody');
SELECT apapacho_payout_eligibility(NULL);
SELECT apapacho_payout_eligibility('');
SELECT (SELECT count(*) FROM "Payout") AS payouts, (SELECT count(*) FROM "OutboxEvent") AS events;

-- the run: batches of three, one creator of which fails
:small_batches;
SELECT figures(apapacho_run_job('payout'));
SELECT "creatorId", currency, "grossTotal", "platformFeeTotal", "adjustmentsTotal", "payoutAmount", status, "retryCount",
       "periodStart" = (SELECT min("occurredAt") FROM "Transaction" t WHERE t."creatorId" = p."creatorId") AS from_oldest,
       "periodEnd" BETWEEN utc_now() - interval '1 minute' AND utc_now() + interval '1 minute' AS until_now,
       "createdAt" = "updatedAt" AS same_times
    FROM "Payout" p ORDER BY 1;
SELECT p."creatorId", i."transactionId", i.amount FROM "PayoutItem" i JOIN "Payout" p ON p.id = i."payoutId" ORDER BY 1, 2;
SELECT jsonb_pretty(replace(replace(replace(replace(e.payload::text, e.id, 'EVENT'), p.id, 'PAYOUT'), e.payload ->> 'occurredAt', 'NOW'),
                            e.payload #>> '{payout,periodEnd}', 'END')::jsonb #- '{payout,periodStart}') AS payload
    FROM "OutboxEvent" e JOIN "Payout" p ON p.id = e."aggregateId" WHERE p."creatorId" = 'paid' AND e."eventType" = 'PayoutCalculated';
SELECT "aggregateType", "eventType", count(*), bool_and(payload ->> 'eventId' = id) AS own_id,
       bool_and(payload ->> 'occurredAt' ~ '^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$') AS iso
    FROM "OutboxEvent" GROUP BY 1, 2 ORDER BY 1, 2;
SELECT "aggregateId", payload - 'eventId' - 'occurredAt' AS payload FROM "OutboxEvent" WHERE "eventType" = 'PayoutCalculationJobCompleted';

-- again: nothing new; then what was held becomes due, and joins nothing that is paid
SELECT figures(apapacho_run_job('payout'));
SELECT creator_id, reason, transactions, amount, held_amount FROM apapacho_payout_preview();
UPDATE "Transaction" SET "occurredAt" = "occurredAt" - interval '7 days' WHERE "creatorId" IN ('held', 'mixed');
UPDATE "Transaction" SET status = 'CHARGEDBACK' WHERE "creatorId" = 'overflow';
SELECT figures(apapacho_run_job('payout'));
SELECT creator_id, next_at > utc_now() AND next_at <= utc_now() + interval '7 days' AS within_a_week FROM apapacho_payout_preview() WHERE reason = 'NOT_DUE';
SELECT figures(apapacho_payout_run(forced => true));
SELECT p."creatorId", p."payoutAmount", array_agg(i."transactionId" ORDER BY 1) FROM "Payout" p JOIN "PayoutItem" i ON i."payoutId" = p.id
    WHERE p."creatorId" IN ('held', 'mixed') GROUP BY p.id ORDER BY p.id;

-- a trigger's exception stops one creator, not the others; a missing table stops the run
DELETE FROM "OutboxEvent";
DELETE FROM "Payout";
CREATE FUNCTION no_mixed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW."creatorId" = 'mixed' THEN RAISE EXCEPTION 'mixed is not paid'; END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER no_mixed BEFORE INSERT ON "Payout" FOR EACH ROW EXECUTE FUNCTION no_mixed();
SELECT figures(apapacho_run_job('payout'));
SELECT "creatorId" FROM "Payout" ORDER BY 1;
SELECT apapacho_payout_create('mixed');
DROP TRIGGER no_mixed ON "Payout";
ALTER TABLE "PayoutItem" RENAME TO "PayoutItemX";
SELECT apapacho_run_job('payout');
SELECT apapacho_payout_preview();
ALTER TABLE "PayoutItemX" RENAME TO "PayoutItem";
UPDATE "FeeSchedule" SET "effectiveFrom" = utc_now() + interval '1 day';
SELECT apapacho_run_job('payout');
SELECT apapacho_payout_create('mixed');
UPDATE "FeeSchedule" SET "effectiveFrom" = '2020-01-01';

-- one by one
SELECT apapacho_payout_create('mixed') - 'payoutId' AS created;
UPDATE "Payout" SET id = 'first' WHERE "creatorId" = 'mixed' RETURNING "payoutAmount";
SELECT apapacho_payout_create('mixed');
SELECT apapacho_payout_create('low');
SELECT apapacho_payout_create('nobody');
SELECT apapacho_payout_create(NULL);
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT apapacho_payout_create('low');
ROLLBACK;

-- what becomes of it: cancelled frees the transactions for another payout
CREATE FUNCTION short(jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT $1 - '{payoutId,creatorId,payoutAmount,nextRetryAt,sentAt,failedAt}'::text[] $$;
SELECT short(apapacho_payout_mark_cancelled('first', 'wrong account'));
SELECT apapacho_payout_mark_sent('first', 'T1');
SELECT apapacho_payout_mark_failed('first', 'late');
SELECT apapacho_payout_mark_cancelled('first', 'again');
SELECT apapacho_payout_create('mixed') ->> 'success' AS created;
UPDATE "Payout" SET id = 'second' WHERE "creatorId" = 'mixed' AND id <> 'first' RETURNING "payoutAmount";
SELECT short(apapacho_payout_mark_sent('second', 'T1'));
SELECT short(apapacho_payout_mark_sent('second', 'T1')) AS repeated;
SELECT apapacho_payout_mark_sent('second', 'T2');
SELECT apapacho_payout_create('mixed') -> 'reasonCode' AS reason;
SELECT "sentAt" = "updatedAt" AS same_times, "providerTransferId" FROM "Payout" WHERE id = 'second';
SELECT "eventType", payload - '{eventId,occurredAt,payoutId,sentAt}'::text[] AS payload, payload ->> 'eventId' = id AS own_id
    FROM "OutboxEvent" WHERE "eventType" NOT LIKE 'PayoutCalcul%' ORDER BY id;
SELECT apapacho_payout_mark_sent('none', 'T1');
SELECT apapacho_payout_mark_sent(NULL, 'T1');
SELECT apapacho_payout_mark_failed('second', '');

-- failed: twice again, then for good
TRUNCATE "OutboxEvent";
UPDATE "Payout" SET id = 'third' WHERE "creatorId" = 'held';
SELECT short(apapacho_payout_mark_failed('third', 'account closed'));
SELECT "nextRetryAt" - "failedAt" = interval '24 hours' AS in_a_day FROM "Payout" WHERE id = 'third';
SELECT figures(apapacho_run_job('retry'));
UPDATE "Payout" SET "nextRetryAt" = utc_now() WHERE id = 'third';
SELECT creator_id, payout_amount, retry_count, next_retry_at <= utc_now() AS due FROM apapacho_payout_pending_retry();
SELECT figures(apapacho_run_job('retry'));
SELECT figures(apapacho_run_job('retry'));
SELECT status, "nextRetryAt" FROM "Payout" WHERE id = 'third';
SELECT short(apapacho_payout_mark_failed('third', 'account closed'));
SELECT short(apapacho_payout_mark_failed('third', 'account closed'));
SELECT apapacho_payout_mark_failed('third', 'account closed');
SELECT "eventType", "aggregateId" = 'third' AS of_payout, payload ->> 'nextRetryAt' IS NOT NULL AS again,
       payload - '{eventId,occurredAt,payoutId,nextRetryAt}'::text[] AS payload
    FROM "OutboxEvent" ORDER BY id;
SELECT apapacho_payout_eligibility('held') -> 'canCreatePayout' AS free_again;

-- an ordinary role can do nothing; one that was granted the functions needs no more than that
CREATE ROLE regress_payout_clerk;
SET ROLE regress_payout_clerk;
SELECT apapacho_payout_preview();
SELECT apapacho_payout_create('held');
SELECT apapacho_payout_mark_sent('none', 'T1');
RESET ROLE;
GRANT EXECUTE ON FUNCTION apapacho_payout_preview(boolean), apapacho_payout_create(text, boolean), apapacho_payout_mark_sent(text, text)
    TO regress_payout_clerk;
SET ROLE regress_payout_clerk;
SELECT count(*) FROM apapacho_payout_preview();
SELECT apapacho_payout_create('held') ->> 'payoutId' AS held \gset
SELECT apapacho_payout_mark_sent(:'held', 'T3') ->> 'status' AS status;
SELECT current_user, count(*) FROM "Payout";
RESET ROLE;
REVOKE EXECUTE ON FUNCTION apapacho_payout_preview(boolean), apapacho_payout_create(text, boolean), apapacho_payout_mark_sent(text, text)
    FROM regress_payout_clerk;
DROP ROLE regress_payout_clerk;

:reset;
SET client_min_messages = warning;
TRUNCATE "Payout" CASCADE;
ALTER TABLE "Payout" DISABLE TRIGGER USER;
ALTER TABLE "PayoutItem" DISABLE TRIGGER USER;
TRUNCATE "OutboxEvent", "PayoutItem", "Payout", "Transaction", "Creator" CASCADE;
SELECT * FROM apapacho_payout_install_guards();
DROP FUNCTION figures(jsonb), utc_now(), sell(text, int4range, int, bigint, text, text), short(jsonb), no_mixed();
