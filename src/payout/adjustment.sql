-- Money that goes into or out of later payouts (src/payout/sweep.c).

CREATE TABLE apapacho_jobs.payout_adjustment (
    id text PRIMARY KEY,
    creator_id text NOT NULL,
    transaction_id text,
    number integer NOT NULL DEFAULT 1,
    kind text NOT NULL CHECK (kind IN ('REFUND', 'CHARGEBACK', 'REINSTATED', 'MANUAL')),
    amount bigint NOT NULL CHECK (amount <> 0),
    origin_payout_id text,
    payout_id text,
    description text,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (transaction_id, number)
);
CREATE INDEX payout_adjustment_creator_idx ON apapacho_jobs.payout_adjustment (creator_id);
CREATE INDEX payout_adjustment_payout_idx ON apapacho_jobs.payout_adjustment (payout_id) WHERE payout_id IS NOT NULL;
COMMENT ON TABLE apapacho_jobs.payout_adjustment IS
    'what a creator''s next payout is more or less by: refunds and chargebacks of what had been paid, and what came back';
COMMENT ON COLUMN apapacho_jobs.payout_adjustment.number IS 'the transaction''s first, second ... adjustment: no two sweeps make the same one';
COMMENT ON COLUMN apapacho_jobs.payout_adjustment.kind IS
    'REFUND, CHARGEBACK (negative), REINSTATED (positive: it was won, or the payout was not paid after all), MANUAL';
COMMENT ON COLUMN apapacho_jobs.payout_adjustment.origin_payout_id IS 'the payout that had paid the transaction';
COMMENT ON COLUMN apapacho_jobs.payout_adjustment.payout_id IS 'the live payout that carries it; null: it is open, and a part of the creator''s balance';

-- As "PayoutItem" is to transactions: kept when the payout is cancelled. No foreign key: pg_restore --jobs loads the tables of an extension
-- in any order.
CREATE TABLE apapacho_jobs.payout_adjustment_item (
    payout_id text NOT NULL,
    adjustment_id text NOT NULL,
    PRIMARY KEY (payout_id, adjustment_id)
);
COMMENT ON TABLE apapacho_jobs.payout_adjustment_item IS 'the adjustments that make up "adjustmentsTotal" of a payout, also of one that was cancelled';

CREATE VIEW apapacho_jobs.payout_balance AS
    SELECT a.creator_id, sum(a.amount) AS balance, count(*) AS adjustments, min(a.created_at) AS since
    FROM apapacho_jobs.payout_adjustment AS a WHERE a.payout_id IS NULL GROUP BY a.creator_id;
COMMENT ON VIEW apapacho_jobs.payout_balance IS 'what creators owe (negative) or are owed beside their transactions: the adjustments that no payout has carried yet';

SELECT pg_catalog.pg_extension_config_dump('apapacho_jobs.payout_adjustment', '');
SELECT pg_catalog.pg_extension_config_dump('apapacho_jobs.payout_adjustment_item', '');
