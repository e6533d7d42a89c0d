-- Payouts: what creators are due, and what becomes of it (src/payout). The tables are the user's; the jobs are in C only.

CREATE FUNCTION @extschema@.apapacho_payout_eligibility(creator_id text)
    RETURNS jsonb
    LANGUAGE c STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'apapacho_payout_eligibility';
REVOKE EXECUTE ON FUNCTION @extschema@.apapacho_payout_eligibility(text) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.apapacho_payout_eligibility(text) IS
    'whether a creator would be paid now, the reason if not, and the totals of the eligible transactions';

CREATE FUNCTION @extschema@.apapacho_payout_preview()
    RETURNS TABLE (creator_id text, payable boolean, reason text, transactions bigint, amount bigint, held_amount bigint,
                   next_release_at timestamp)
    LANGUAGE c STABLE STRICT PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'apapacho_payout_preview';
REVOKE EXECUTE ON FUNCTION @extschema@.apapacho_payout_preview() FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.apapacho_payout_preview() IS
    'what the job payout would do now: a row for each creator with unpaid transactions; writes nothing';

CREATE FUNCTION @extschema@.apapacho_payout_create(creator_id text)
    RETURNS jsonb
    LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'apapacho_payout_create';
REVOKE EXECUTE ON FUNCTION @extschema@.apapacho_payout_create(text) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.apapacho_payout_create(text) IS
    'creates the payout of one creator in the caller''s transaction, if there is one to create; else gives the reason';

CREATE FUNCTION @extschema@.apapacho_payout_mark_sent(payout_id text, provider_transfer_id text)
    RETURNS jsonb
    LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'apapacho_payout_mark_sent';
REVOKE EXECUTE ON FUNCTION @extschema@.apapacho_payout_mark_sent(text, text) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.apapacho_payout_mark_sent(text, text) IS
    'records that a payout was transferred, with the event PayoutSent; returns the payout''s new state';

CREATE FUNCTION @extschema@.apapacho_payout_mark_failed(payout_id text, reason text)
    RETURNS jsonb
    LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'apapacho_payout_mark_failed';
REVOKE EXECUTE ON FUNCTION @extschema@.apapacho_payout_mark_failed(text, text) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.apapacho_payout_mark_failed(text, text) IS
    'records that a payout''s transfer failed, with the event PayoutFailed: to be tried again in 24 hours, or FAILED the third time';

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
