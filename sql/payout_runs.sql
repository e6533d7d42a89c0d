-- Runs of the payout calculation: whom they look at, what is kept of them and for how long, periods.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS apapacho_jobs;
SELECT count(*) >= 0 AS tables_are_there FROM (SELECT apapacho_create_tables()) t;
TRUNCATE "OutboxEvent", "PayoutItem", "Payout", "Transaction", "Creator" CASCADE;
RESET client_min_messages;
DELETE FROM apapacho_jobs.payout_run;
CREATE FUNCTION sell(creator text, number int, days int, amount bigint) RETURNS void LANGUAGE sql AS $$
    INSERT INTO "Creator" (id, "userId", "updatedAt") VALUES (creator, 'u' || creator, now()) ON CONFLICT DO NOTHING;
    INSERT INTO "Transaction" (id, "creatorId", "fanUserId", "productType", "grossAmount", "appliedFeeScheduleId", "appliedPlatformFeeBps",
                               "platformFeeAmount", "creatorPayableAmount", "occurredAt", provider, "providerPaymentId", "providerEventId")
    SELECT creator || number, creator, 'fan', 'TIP', amount, (SELECT id FROM "FeeSchedule" LIMIT 1), 0, 0, amount,
           now() AT TIME ZONE 'UTC' - make_interval(days => days), 'test', 'p', creator || number
$$;
-- run(): its figures, and whether it looked at everybody
CREATE FUNCTION run(OUT created int, OUT skipped int, OUT complete boolean) LANGUAGE plpgsql AS $$
DECLARE
    answer jsonb := apapacho_payout_run();
BEGIN
    SELECT r.created, r.skipped, r.complete INTO created, skipped, complete FROM apapacho_jobs.payout_run r WHERE r.id = answer ->> 'payoutRun';
END $$;
CREATE VIEW latest AS SELECT n.* FROM apapacho_jobs.payout_not_paid n WHERE n.run_id = (SELECT max(id) FROM apapacho_jobs.payout_run);

SELECT sell('ana', 1, 20, 30000), sell('eva', 1, 20, 100), sell('ida', 1, 3, 50000), sell('pia', 1, 20, 5000)
\g (format=unaligned tuples_only=on) /dev/null
UPDATE "Creator" SET status = 'SUSPENDED' WHERE id = 'pia';
SELECT * FROM run();
SELECT creator_id, reason, transactions, amount, held, held_amount, next_at IS NOT NULL AS has_next_date FROM latest ORDER BY 1;

-- nothing has changed: nothing is written but the run, and all reasons still hold
SELECT count(*) AS rows FROM apapacho_jobs.payout_reason \gset
SELECT * FROM run();
SELECT count(*) - :rows AS new_rows FROM apapacho_jobs.payout_reason;
SELECT creator_id, reason FROM latest ORDER BY 1;

-- only those for whom something has changed are looked at
SELECT sell('eva', 2, 20, 1000), sell('ida', 2, 1, 1) \g (format=unaligned tuples_only=on) /dev/null
SELECT DISTINCT creator_id FROM apapacho_jobs.payout_dirty ORDER BY 1;
SELECT * FROM run();
SELECT creator_id, reason, amount, held_amount FROM latest ORDER BY 1;
SELECT count(*) FROM apapacho_jobs.payout_dirty;
UPDATE "Transaction" SET "occurredAt" = "occurredAt" - interval '30 days' WHERE id = 'ida1';
UPDATE "Creator" SET status = 'ACTIVE' WHERE id = 'pia';
UPDATE "Transaction" SET metadata = '{"seen": true}';
SELECT DISTINCT creator_id FROM apapacho_jobs.payout_dirty ORDER BY 1;
SELECT * FROM run();
SELECT creator_id, reason, amount FROM latest ORDER BY 1;

-- the release of what was held needs no change
UPDATE apapacho_jobs.payout_reason SET look_at = now() AT TIME ZONE 'UTC' WHERE creator_id = 'ida' AND until_run IS NULL;
SELECT * FROM run();

-- other rules: everybody
UPDATE "FeeSchedule" SET "minPayoutClp" = 1000;
SELECT * FROM run();
SELECT * FROM run();
SELECT creator_id, reason, amount FROM latest ORDER BY 1;
UPDATE "FeeSchedule" SET "minPayoutClp" = 20000;

-- what was found by earlier runs can still be looked up
SELECT row_number() OVER (ORDER BY r.id) AS run, r.created, string_agg(n.creator_id || ' ' || n.reason, ', ' ORDER BY n.creator_id) AS not_paid
    FROM apapacho_jobs.payout_run r LEFT JOIN apapacho_jobs.payout_not_paid n ON n.run_id = r.id GROUP BY r.id, r.created ORDER BY r.id;

-- and is forgotten with the history
UPDATE apapacho_jobs.payout_run SET started_at = started_at - interval '91 days' WHERE id < (SELECT max(id) FROM apapacho_jobs.payout_run);
SELECT * FROM run();
SELECT count(*) FILTER (WHERE until_run IS NOT NULL) > 0 AS some_past, count(*) FILTER (WHERE until_run IS NULL) AS present FROM apapacho_jobs.payout_reason
    WHERE from_run < (SELECT max(id) FROM apapacho_jobs.payout_run);

-- periods: no gap, no overlap, whatever the clocks do
SELECT zone, frequency, count(*) AS periods, bool_and(period_start = before) AS tile, max(period_end - period_start) AS longest, min(period_end - period_start) AS shortest
    FROM (SELECT z.zone, f.frequency, p.*, lag(p.period_end, 1, p.period_start) OVER (PARTITION BY z.zone, f.frequency ORDER BY p.period_start) AS before
          FROM (VALUES ('America/Santiago'), ('UTC'), ('Pacific/Apia')) z (zone), (VALUES ('WEEKLY'), ('BIWEEKLY'), ('MONTHLY')) f (frequency)
              CROSS JOIN LATERAL (SELECT DISTINCT p.* FROM generate_series('2024-01-01'::timestamp, '2036-01-01', '6 hours') t,
                                      apapacho_jobs.payout_period(f.frequency, t, z.zone) p) p) x
    GROUP BY 1, 2 ORDER BY 1, 2;
-- midnight does not exist on that Sunday in Santiago, so the period from Monday on is an hour short
SELECT * FROM apapacho_jobs.payout_period('WEEKLY', '2024-09-08 03:59:59', 'America/Santiago');
SELECT * FROM apapacho_jobs.payout_period('MONTHLY', '2024-09-01 03:59:59', 'America/Santiago');

SET client_min_messages = warning;
TRUNCATE "OutboxEvent", "PayoutItem", "Payout", "Transaction", "Creator" CASCADE;
DROP VIEW latest;
DROP FUNCTION run();
DROP FUNCTION sell(text, int, int, bigint);
