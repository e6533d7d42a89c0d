-- The data set of the payout bench: creators with paid-for transactions, of which about one in eight is still held.
-- Deterministic but for the time of day, so that two programs can be measured on equal data.
--
--   psql -v creators=100000 -v per_creator=20 -f payout_data.sql        into empty tables (spec section 4), current search_path
--
-- Of 100 creators 1 is suspended, 1 waits for verification and `small` (5) stay below the minimum, with `per_small` (per_creator)
-- transactions each; the others are paid. creators=1000000 per_creator=11 small=20 per_small=6: 10,000,000 transactions, of which
-- 7,800,000 in 780,000 payouts.
-- Transactions are inserted in the order of time, as they would have come in, not creator by creator.

\set ON_ERROR_STOP on
\if :{?creators}
\else
    \set creators 100000
\endif
\if :{?per_creator}
\else
    \set per_creator 20
\endif
\if :{?small}
\else
    \set small 5
\endif
\if :{?per_small}
\else
    \set per_small :per_creator
\endif

SET TimeZone = 'UTC';
SET synchronous_commit = off;
SET maintenance_work_mem = '512MB';
SET work_mem = '256MB';
SET session_replication_role = replica; -- the foreign keys hold as it is

BEGIN;

-- Indexes other than the primary key are made afterwards, as they stood: that takes a fraction of the time.
CREATE TEMPORARY TABLE made_again AS
SELECT i.indexrelid::regclass::text AS name, pg_get_indexdef(i.indexrelid) AS made
FROM pg_index i WHERE i.indrelid = '"Transaction"'::regclass AND NOT i.indisprimary;
SELECT 'DROP INDEX ' || name FROM made_again \gexec

INSERT INTO "FeeSchedule" ("id", "effectiveFrom", "description")
SELECT md5('fee schedule')::uuid::text, '2020-01-01', 'bench'
WHERE NOT EXISTS (SELECT FROM "FeeSchedule");

INSERT INTO "Creator" ("id", "userId", "status", "updatedAt")
SELECT md5('creator ' || n)::uuid::text, md5('user ' || n)::uuid::text,
       (CASE n % 100 WHEN 98 THEN 'SUSPENDED' WHEN 99 THEN 'PENDING_VERIFICATION' ELSE 'ACTIVE' END)::"CreatorStatus",
       now()
FROM generate_series(1, :creators) AS n;

-- Time runs from 57 days ago to now; amounts from 4000 to 13999 CLP, or from 100 to 199 for those below the minimum.
INSERT INTO "Transaction" ("id", "creatorId", "fanUserId", "productType", "grossAmount", "appliedFeeScheduleId",
                           "appliedPlatformFeeBps", "platformFeeAmount", "creatorPayableAmount", "occurredAt", "provider",
                           "providerPaymentId", "providerEventId", "createdAt")
SELECT md5('transaction ' || t.n || ' ' || t.k)::uuid::text, md5('creator ' || t.n)::uuid::text,
       md5('fan ' || t.k)::uuid::text, (ARRAY['SUBSCRIPTION', 'PPV', 'TIP'])[1 + t.k % 3]::"ProductType",
       t.gross, (SELECT "id" FROM "FeeSchedule" ORDER BY "effectiveFrom" DESC LIMIT 1),
       1000, t.gross / 10, t.gross - t.gross / 10, t.at, 'bench',
       'pay-' || t.n || '-' || t.k, 'event-' || t.n || '-' || t.k, t.at
FROM (SELECT n, k,
             CASE WHEN n % 100 BETWEEN 98 - :small AND 97 THEN 100 + (n * 31 + k * 17) % 100
                  ELSE 4000 + (n::bigint * 7919 + k * 104729) % 10000 END AS gross,
             (now() - interval '57 days' * ((k - 0.5) / :per_creator) - interval '1 second' * (n % 86400))::timestamp(3) AS at
      FROM generate_series(1, :per_creator) AS k, generate_series(1, :creators) AS n
      WHERE n % 100 NOT BETWEEN 98 - :small AND 97 OR k <= :per_small) AS t
ORDER BY t.at;

SELECT made FROM made_again \gexec
COMMIT;

ANALYZE "Creator", "Transaction", "FeeSchedule";
