-- A creator's account: opening balance, transactions, adjustments, payouts, closing balance.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS apapacho_jobs;
CREATE SCHEMA account;
SET apapacho_jobs.schema = 'account';
SELECT count(*) > 0 AS tables_are_there FROM apapacho_create_tables();
SET search_path = account, public;
INSERT INTO "Creator" (id, "userId", "updatedAt") VALUES ('ana', 'user of ana', now()), ('new', 'user of new', now());
CREATE FUNCTION sell(id text, day date, amount bigint, status text DEFAULT 'SUCCEEDED', currency text DEFAULT 'CLP') RETURNS void LANGUAGE sql AS $$
    INSERT INTO "Transaction" (id, "creatorId", "fanUserId", "productType", "grossAmount", "appliedFeeScheduleId", "appliedPlatformFeeBps",
                               "platformFeeAmount", "creatorPayableAmount", "occurredAt", provider, "providerPaymentId", "providerEventId", status, currency)
        VALUES (id, 'ana', 'fan', 'TIP', amount, (SELECT id FROM "FeeSchedule"), 0, 0, amount, day, 'test', 'payment', 'event ' || id,
                status::"TransactionStatus", currency)
$$;
CREATE FUNCTION pay(id text, day date, items text[], status text, adjustments bigint DEFAULT 0) RETURNS void LANGUAGE sql AS $$
    INSERT INTO "Payout" (id, "creatorId", "periodStart", "periodEnd", "adjustmentsTotal", "payoutAmount", status, "sentAt", "createdAt", "updatedAt",
                          "providerTransferId", "failureReason")
        SELECT pay.id, 'ana', day, day, adjustments, sum(t."creatorPayableAmount") + adjustments, pay.status::"PayoutStatus",
               CASE pay.status WHEN 'SENT' THEN day + time '12:00' END, day, day, CASE pay.status WHEN 'SENT' THEN 'T-' || pay.id END,
               CASE pay.status WHEN 'CANCELLED' THEN 'wrong account' END
        FROM "Transaction" t WHERE t.id = ANY (items);
    INSERT INTO "PayoutItem" (id, "payoutId", "transactionId", amount) SELECT pay.id || t.id, pay.id, t.id, t."creatorPayableAmount" FROM "Transaction" t WHERE t.id = ANY (items);
$$;
SELECT sell('st-1', '2025-01-02', 30000), sell('st-2', '2025-01-03', 25000), sell('st-3', '2025-01-10', 40000), sell('st-4', '2025-01-11', 15000, 'REFUNDED'),
       sell('st-5', '2025-01-12', 500, currency => 'USD'), sell('st-6', '2025-01-20', 60000, 'DISPUTED'), sell('st-7', '2025-02-01', 10000)
\g (format=unaligned tuples_only=on) /dev/null
SELECT pay('sp-0', '2025-01-04', '{st-1}', 'CANCELLED'), pay('sp-1', '2025-01-05', '{st-1,st-2}', 'SENT'), pay('sp-2', '2025-01-15', '{st-3}', 'CALCULATED', -25000)
\g (format=unaligned tuples_only=on) /dev/null
-- a refund after the payout, which the next one carries
UPDATE "Transaction" SET status = 'REFUNDED' WHERE id = 'st-2';
INSERT INTO apapacho_jobs.payout_adjustment (id, creator_id, transaction_id, kind, amount, origin_payout_id, payout_id, created_at)
    VALUES ('sa-1', 'ana', 'st-2', 'REFUND', -25000, 'sp-1', 'sp-2', '2025-01-08 00:00Z');
SELECT * FROM apapacho_payout_statement('ana');
SELECT at, kind, id, amount, balance FROM apapacho_payout_statement('ana', '2025-01-05 12:00', '2025-01-20');
SELECT at, kind, id, amount, balance FROM apapacho_payout_statement('ana', '2030-01-01');
SELECT * FROM apapacho_payout_statement('new');

-- sent; what the backend adjusted by itself; what is owed is what is unpaid and what is on its way
UPDATE "Payout" SET status = 'SENT', "sentAt" = '2025-01-25', "providerTransferId" = 'T-2' WHERE id = 'sp-2';
SELECT pay('sp-3', '2025-02-05', '{st-7}', 'SENT', 500)
\g (format=unaligned tuples_only=on) /dev/null
SELECT at, kind, id, payout_id, status, amount, balance, description FROM apapacho_payout_statement('ana', '2025-01-20');
SELECT balance = (SELECT sum("creatorPayableAmount") FROM "Transaction" WHERE id = 'st-6') AS owed_is_unpaid FROM apapacho_payout_statement('ana')
    WHERE kind = 'CLOSING';
SELECT apapacho_payout_statement('nobody');
SELECT apapacho_payout_statement(NULL);
CREATE ROLE regress_statement_clerk;
SET ROLE regress_statement_clerk;
SELECT apapacho_payout_statement('ana');
RESET ROLE;
GRANT EXECUTE ON FUNCTION apapacho_payout_statement TO regress_statement_clerk;
SET ROLE regress_statement_clerk;
SELECT count(*) FROM public.apapacho_payout_statement('ana');
RESET ROLE;

DROP OWNED BY regress_statement_clerk;
DROP ROLE regress_statement_clerk;
DELETE FROM apapacho_jobs.payout_adjustment WHERE id = 'sa-1';
DROP SCHEMA account CASCADE;
