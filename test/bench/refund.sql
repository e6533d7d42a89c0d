-- A refund of a transaction of payout_data.sql, for pgbench with -D creators=... -D most=... (of each creator).
\set n random(1, :creators)
\set k random(1, :most)
UPDATE "Transaction" SET "status" = 'REFUNDED' WHERE "id" = md5('transaction ' || :n || ' ' || :k)::uuid::text AND "status" = 'SUCCEEDED';
