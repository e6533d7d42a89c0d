-- What a creator has earned and been paid (src/payout/statement.c).

CREATE FUNCTION @extschema@.apapacho_payout_statement(creator_id text, since timestamp DEFAULT NULL, until timestamp DEFAULT NULL)
    RETURNS TABLE (at timestamp, kind text, id text, payout_id text, status text, amount numeric, balance numeric, description text)
    LANGUAGE c STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'apapacho_payout_statement';
REVOKE EXECUTE ON FUNCTION @extschema@.apapacho_payout_statement(text, timestamp, timestamp) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.apapacho_payout_statement(text, timestamp, timestamp) IS
    'a creator''s account, from and up to a time (UTC): opening balance, transactions, adjustments, payouts, closing balance: what is still owed';
