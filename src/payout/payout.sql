-- Payouts: what creators are due, and what becomes of it (src/payout). The tables are the user's; the jobs are in C only.

CREATE FUNCTION @extschema@.apapacho_payout_eligibility(creator_id text)
    RETURNS jsonb
    LANGUAGE c STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'apapacho_payout_eligibility';
REVOKE EXECUTE ON FUNCTION @extschema@.apapacho_payout_eligibility(text) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.apapacho_payout_eligibility(text) IS
    'whether a creator would be paid now, the reason if not, and the totals of the eligible transactions';

CREATE FUNCTION @extschema@.apapacho_payout_preview(forced boolean DEFAULT false)
    RETURNS TABLE (creator_id text, payable boolean, reason text, transactions bigint, amount bigint, held_amount bigint,
                   next_release_at timestamp, adjustments bigint, payout_amount bigint, next_at timestamp)
    LANGUAGE c STABLE STRICT PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'apapacho_payout_preview';
REVOKE EXECUTE ON FUNCTION @extschema@.apapacho_payout_preview(boolean) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.apapacho_payout_preview(boolean) IS
    'what the job payout would do now: a row for each creator with unpaid transactions or a balance; writes nothing';

CREATE FUNCTION @extschema@.apapacho_payout_create(creator_id text, forced boolean DEFAULT false)
    RETURNS jsonb
    LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'apapacho_payout_create';
REVOKE EXECUTE ON FUNCTION @extschema@.apapacho_payout_create(text, boolean) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.apapacho_payout_create(text, boolean) IS
    'creates the payout of one creator in the caller''s transaction, if there is one to create; else gives the reason';

CREATE FUNCTION @extschema@.apapacho_payout_run(forced boolean DEFAULT false, wait boolean DEFAULT true)
    RETURNS jsonb
    LANGUAGE sql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT apapacho_jobs.run_job('payout', wait, CASE WHEN forced THEN '{"forced": 1}'::pg_catalog.jsonb END)
    $$;
REVOKE EXECUTE ON FUNCTION @extschema@.apapacho_payout_run(boolean, boolean) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.apapacho_payout_run(boolean, boolean) IS
    'runs the job payout; forced: also those who have been paid in this period already are due';

CREATE FUNCTION @extschema@.apapacho_payout_mark_sent(payout_id text, provider_transfer_id text)
    RETURNS jsonb
    LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'apapacho_payout_mark_sent';
REVOKE EXECUTE ON FUNCTION @extschema@.apapacho_payout_mark_sent(text, text) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.apapacho_payout_mark_sent(text, text) IS
    'records that a payout was transferred, with the event PayoutSent; returns the payout''s new state';

CREATE FUNCTION @extschema@.apapacho_payout_mark_failed(payout_id text, reason text, reference text DEFAULT NULL,
        terminal boolean DEFAULT false)
    RETURNS jsonb
    LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'apapacho_payout_mark_failed';
REVOKE EXECUTE ON FUNCTION @extschema@.apapacho_payout_mark_failed(text, text, text, boolean) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.apapacho_payout_mark_failed(text, text, text, boolean) IS
    'records that a payout''s transfer failed, with the event PayoutFailed: to be tried again in 24 hours, or FAILED the third time or when it is terminal; a report with a reference that has come already changes nothing';

CREATE FUNCTION @extschema@.apapacho_payout_mark_cancelled(payout_id text, reason text)
    RETURNS jsonb
    LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'apapacho_payout_mark_cancelled';
REVOKE EXECUTE ON FUNCTION @extschema@.apapacho_payout_mark_cancelled(text, text) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.apapacho_payout_mark_cancelled(text, text) IS
    'cancels a payout that was not transferred, with the event PayoutCancelled: its transactions are unpaid again';

CREATE FUNCTION @extschema@.apapacho_payout_pending_retry()
    RETURNS TABLE (id text, creator_id text, payout_amount bigint, retry_count integer, next_retry_at timestamp)
    LANGUAGE c STABLE STRICT PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'apapacho_payout_pending_retry';
REVOKE EXECUTE ON FUNCTION @extschema@.apapacho_payout_pending_retry() FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.apapacho_payout_pending_retry() IS
    'the payouts that the job retry would take up now, the longest due first';

CREATE FUNCTION @extschema@.apapacho_payout_reconcile(events_since timestamptz DEFAULT NULL)
    RETURNS TABLE (kind text, creator_id text, payout_id text, transaction_id text, detail text)
    LANGUAGE c STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'apapacho_payout_reconcile';
REVOKE EXECUTE ON FUNCTION @extschema@.apapacho_payout_reconcile(timestamptz) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.apapacho_payout_reconcile(timestamptz) IS
    'every difference between transactions, payouts, items, claims, adjustments, ledger and events; events are looked for of payouts made since then (null: of the last 30 days, for old events are cleaned up)';

CREATE FUNCTION @extschema@.apapacho_payout_adjust(creator_id text, amount bigint, description text)
    RETURNS text
    LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'apapacho_payout_adjust';
REVOKE EXECUTE ON FUNCTION @extschema@.apapacho_payout_adjust(text, bigint, text) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.apapacho_payout_adjust(text, bigint, text) IS
    'adds an adjustment by hand: the creator''s next payout is so much more, or less; returns its id';

-- Where the backend's tables are there already.
DO $$
BEGIN
    PERFORM apapacho_jobs.install_missing_guards();
EXCEPTION WHEN undefined_table OR undefined_column OR datatype_mismatch OR wrong_object_type THEN
    RAISE WARNING 'payouts are not guarded: %', SQLERRM USING HINT = 'Run SELECT * FROM apapacho_payout_install_guards() when that is mended.';
END
$$;
