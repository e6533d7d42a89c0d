-- Runs of the calculation and why creators were not paid by them (src/payout/calculation.c, reasons.c).

CREATE TABLE apapacho_jobs.payout_run (
    id text COLLATE "C" PRIMARY KEY,
    job_run_id bigint,
    at timestamp NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    cutoff timestamp NOT NULL,
    fee_schedule_id text NOT NULL,
    hold_days integer NOT NULL,
    min_payout bigint NOT NULL,
    frequency text NOT NULL,
    period_start timestamp NOT NULL,
    period_end timestamp NOT NULL,
    time_zone text NOT NULL,
    forced boolean NOT NULL,
    complete boolean NOT NULL,
    created bigint NOT NULL DEFAULT 0,
    skipped bigint NOT NULL DEFAULT 0,
    errors bigint NOT NULL DEFAULT 0
);
COMMENT ON TABLE apapacho_jobs.payout_run IS 'runs of the job payout (and payouts made one by one) with the rules that were frozen for them';
COMMENT ON COLUMN apapacho_jobs.payout_run.id IS 'a time-ordered uuid: the member "payoutRun" of the job''s result';
COMMENT ON COLUMN apapacho_jobs.payout_run.at IS 'UTC: the time of the run, the end of the period of its payouts';
COMMENT ON COLUMN apapacho_jobs.payout_run.cutoff IS 'UTC: a transaction that occurred later is still held';
COMMENT ON COLUMN apapacho_jobs.payout_run.period_start IS 'UTC: creators who have been paid since then are not due, unless the run is forced';
COMMENT ON COLUMN apapacho_jobs.payout_run.period_end IS 'UTC: when the next period begins';
COMMENT ON COLUMN apapacho_jobs.payout_run.complete IS 'whether every creator was looked at, and not only those for whom something had changed';

-- What a run leaves to its helpers (src/payout/shares.c); empty when none is at work.
CREATE TABLE apapacho_jobs.payout_share (
    part integer PRIMARY KEY,
    run_id text NOT NULL,
    after_id text,
    until_id text,
    looked_at bigint NOT NULL DEFAULT 0,
    errors bigint NOT NULL DEFAULT 0,
    done boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE apapacho_jobs.payout_share IS 'the ranges of creators that helpers of the run at work pay, and how far they are';

CREATE TABLE apapacho_jobs.payout_origin (
    payout_id text PRIMARY KEY,
    run_id text COLLATE "C" NOT NULL
);
CREATE INDEX payout_origin_run_idx ON apapacho_jobs.payout_origin (run_id);
COMMENT ON TABLE apapacho_jobs.payout_origin IS 'the run that made a payout; the backend''s own payouts are not here';

-- A row holds from one run to another: runs write only what has changed.
CREATE TABLE apapacho_jobs.payout_reason (
    creator_id text NOT NULL,
    from_run text COLLATE "C" NOT NULL,
    until_run text COLLATE "C",
    paid boolean NOT NULL,
    reason text NOT NULL,
    transactions bigint NOT NULL,
    amount numeric NOT NULL,
    held bigint NOT NULL,
    held_amount numeric NOT NULL,
    adjustments numeric NOT NULL,
    next_at timestamp,
    look_at timestamp,
    since timestamp NOT NULL,
    sqlstate text,
    message text
);
CREATE UNIQUE INDEX payout_reason_creator_idx ON apapacho_jobs.payout_reason (creator_id) WHERE until_run IS NULL;
CREATE INDEX payout_reason_look_idx ON apapacho_jobs.payout_reason (look_at) WHERE until_run IS NULL;
CREATE INDEX payout_reason_until_idx ON apapacho_jobs.payout_reason (until_run) WHERE until_run IS NOT NULL;
COMMENT ON TABLE apapacho_jobs.payout_reason IS 'why creators with something unpaid are not paid it; see the view payout_not_paid';
COMMENT ON COLUMN apapacho_jobs.payout_reason.from_run IS 'the run that found it';
COMMENT ON COLUMN apapacho_jobs.payout_reason.until_run IS 'the run that found something else; null: it still holds';
COMMENT ON COLUMN apapacho_jobs.payout_reason.paid IS 'the run from_run did pay the creator, and this is about what was left';
COMMENT ON COLUMN apapacho_jobs.payout_reason.reason IS
    'HOLD, BELOW_MINIMUM, SUSPENDED, NOT_VERIFIED, NEGATIVE_BALANCE, NOT_DUE, CURRENCY or ERROR';
COMMENT ON COLUMN apapacho_jobs.payout_reason.next_at IS 'UTC: when that may be another; null: when something happens';
COMMENT ON COLUMN apapacho_jobs.payout_reason.look_at IS 'UTC: when a run looks at the creator again by itself';
COMMENT ON COLUMN apapacho_jobs.payout_reason.since IS 'no unpaid transaction of the creator occurred before then';

CREATE VIEW apapacho_jobs.payout_not_paid AS
    SELECT r.id AS run_id, n.creator_id, n.reason, n.transactions, n.amount, n.held, n.held_amount, n.adjustments, n.next_at, n.sqlstate, n.message
    FROM apapacho_jobs.payout_run AS r
        JOIN apapacho_jobs.payout_reason AS n ON n.from_run <= r.id AND (n.until_run IS NULL OR n.until_run > r.id)
    WHERE NOT (n.paid AND n.from_run = r.id);
COMMENT ON VIEW apapacho_jobs.payout_not_paid IS 'for each run the creators with something unpaid that it did not pay, and why';

SELECT pg_catalog.pg_extension_config_dump('apapacho_jobs.payout_run', '');
SELECT pg_catalog.pg_extension_config_dump('apapacho_jobs.payout_origin', '');

CREATE FUNCTION apapacho_jobs.payout_period(frequency text, at timestamp, time_zone text, OUT period_start timestamp, OUT period_end timestamp)
    RETURNS record
    LANGUAGE sql STABLE STRICT PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT b.first AT TIME ZONE time_zone AT TIME ZONE 'UTC', (b.first + b.length) AT TIME ZONE time_zone AT TIME ZONE 'UTC'
        FROM (SELECT at AT TIME ZONE 'UTC' AT TIME ZONE time_zone AS local) AS l
            CROSS JOIN LATERAL (
                SELECT CASE frequency WHEN 'MONTHLY' THEN date_trunc('month', l.local)
                           WHEN 'BIWEEKLY' THEN date_bin('14 days', l.local, '2024-01-01') ELSE date_trunc('week', l.local) END AS first,
                       CASE frequency WHEN 'MONTHLY' THEN interval '1 month' WHEN 'BIWEEKLY' THEN interval '14 days'
                           ELSE interval '7 days' END AS length) AS b
    $$;
COMMENT ON FUNCTION apapacho_jobs.payout_period(text, timestamp, text) IS
    'the period (from, up to but not including; UTC) that a time (UTC) is in: weeks from Monday, pairs of weeks counted from Monday 2024-01-01, or months, from midnight to midnight in the time zone';
