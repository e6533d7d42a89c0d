-- The reference of the payout bench: the same payouts, items, events and ledger entries by plain set-based SQL, in one transaction of a few
-- statements, without guards, batches, locks, isolation of errors or history. Run on a copy of the data.
\set ON_ERROR_STOP on
SET synchronous_commit = on;
SET work_mem = '256MB';

BEGIN;
CREATE TEMPORARY TABLE eligible AS
SELECT t."id", t."creatorId", t."grossAmount", t."platformFeeAmount", t."creatorPayableAmount", t."occurredAt"
FROM "Transaction" t JOIN "Creator" c ON c."id" = t."creatorId"
WHERE t."status" = 'SUCCEEDED' AND c."status" = 'ACTIVE' AND t."occurredAt" <= (now() AT TIME ZONE 'UTC') - interval '7 days'
  AND NOT EXISTS (SELECT FROM "PayoutItem" i WHERE i."transactionId" = t."id");

CREATE TEMPORARY TABLE paid AS
SELECT gen_random_uuid()::text AS id, gen_random_uuid()::text AS event, "creatorId", min("occurredAt") AS start, sum("grossAmount") AS gross,
       sum("platformFeeAmount") AS fee, sum("creatorPayableAmount") AS amount, jsonb_agg("id") AS ids
FROM eligible GROUP BY "creatorId" HAVING sum("creatorPayableAmount") >= 20000;

INSERT INTO "Payout" ("id", "creatorId", "periodStart", "periodEnd", "grossTotal", "platformFeeTotal", "payoutAmount", "updatedAt")
SELECT id, "creatorId", start, now(), gross, fee, amount, now() FROM paid;

INSERT INTO "PayoutItem" ("id", "payoutId", "transactionId", "amount")
SELECT gen_random_uuid()::text, p.id, e."id", e."creatorPayableAmount" FROM eligible e JOIN paid p USING ("creatorId");

INSERT INTO "OutboxEvent" ("id", "aggregateType", "aggregateId", "eventType", "payload")
SELECT event, 'Payout', id, 'PayoutCalculated',
       jsonb_build_object('eventId', event, 'eventType', 'PayoutCalculated', 'payout',
                          jsonb_build_object('id', id, 'creatorId', "creatorId", 'grossTotal', gross, 'payoutAmount', amount),
                          'includedTransactionIds', ids)
FROM paid;

INSERT INTO "LedgerEntry" ("id", "payoutId", "accountId", "creatorId", "debit", "credit", "description")
SELECT gen_random_uuid()::text, p.id, a."id", p."creatorId", CASE a."code" WHEN 'CREATOR_PAYABLE' THEN p.amount ELSE 0 END,
       CASE a."code" WHEN 'PAYOUT_PENDING' THEN p.amount ELSE 0 END, 'payout calculated'
FROM paid p JOIN "LedgerAccount" a ON a."code" IN ('CREATOR_PAYABLE', 'PAYOUT_PENDING');
COMMIT;
