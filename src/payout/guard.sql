-- What keeps payouts right whoever writes the tables: claims, the state machine's log, the guards on the user's tables (src/payout/guard.c).
-- These tables are written by the guards and by runs, as the owner of "Payout", whom apapacho_payout_install_guards() grants that.

-- Every payout looks up and adds each of its transactions here, so their ids are compared as bytes. Whatever compares them with ids of the
-- user's says which collation is meant: else none of the user's indexes serves.
CREATE TABLE apapacho_jobs.payout_claim (
    transaction_id text COLLATE "C" NOT NULL,
    payout_id text NOT NULL,
    CONSTRAINT transaction_in_one_live_payout PRIMARY KEY (transaction_id)
);
COMMENT ON TABLE apapacho_jobs.payout_claim IS
    'the payout that a transaction is in, for each that a live payout (or one that failed and is to be tried again) has an item for: no transaction is in two';

CREATE TABLE apapacho_jobs.payout_transition (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    payout_id text NOT NULL,
    from_status text NOT NULL,
    to_status text NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    changed_by text NOT NULL DEFAULT session_user,
    reference text,
    event text
);
CREATE INDEX payout_transition_payout_idx ON apapacho_jobs.payout_transition (payout_id, id);
COMMENT ON TABLE apapacho_jobs.payout_transition IS 'each change of a payout''s status, and each failure, whoever made it';
COMMENT ON COLUMN apapacho_jobs.payout_transition.changed_by IS 'the role that had logged in';
COMMENT ON COLUMN apapacho_jobs.payout_transition.reference IS 'the "providerTransferId" at that time';

CREATE TABLE apapacho_jobs.payout_report (
    payout_id text NOT NULL,
    reference text NOT NULL,
    outcome text NOT NULL CHECK (outcome IN ('SENT', 'FAILED')),
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (payout_id, reference, outcome)
);
COMMENT ON COLUMN apapacho_jobs.payout_transition.event IS 'the event that went with it; null: it was none of our functions';
COMMENT ON TABLE apapacho_jobs.payout_report IS
    'what has been reported of a payout''s transfers, by the provider''s reference: a report that comes again changes nothing';

-- One row once guards have been installed.
CREATE TABLE apapacho_jobs.payout_state (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    installed_at timestamptz NOT NULL,
    full_at timestamptz,
    rules text
);
COMMENT ON TABLE apapacho_jobs.payout_state IS 'since when payouts are guarded, and from where a run can go on';
COMMENT ON COLUMN apapacho_jobs.payout_state.installed_at IS 'payouts that were made before are not in the ledger';
COMMENT ON COLUMN apapacho_jobs.payout_state.full_at IS 'when a run last looked at every creator; null: the next one does';
COMMENT ON COLUMN apapacho_jobs.payout_state.rules IS 'the rules that the reasons in payout_reason were found by';

-- Of a dump: what runs had noted for each other (payout_dirty) did not come with it.
CREATE FUNCTION apapacho_jobs.payout_state_restored() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$ BEGIN NEW.full_at := NULL; RETURN NEW; END $$;
REVOKE EXECUTE ON FUNCTION apapacho_jobs.payout_state_restored() FROM PUBLIC;
COMMENT ON FUNCTION apapacho_jobs.payout_state_restored() IS 'in a restored database the next run looks at every creator';
CREATE TRIGGER payout_state_restored BEFORE INSERT ON apapacho_jobs.payout_state
    FOR EACH ROW EXECUTE FUNCTION apapacho_jobs.payout_state_restored();

CREATE TABLE apapacho_jobs.payout_dirty (
    creator_id text NOT NULL,
    since timestamp NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000);
COMMENT ON TABLE apapacho_jobs.payout_dirty IS
    'creators whose transactions ("occurredAt" >= since) or payouts have changed since a run last took these rows';

CREATE TABLE apapacho_jobs.payout_todo (
    creator_id text PRIMARY KEY,
    since timestamp NOT NULL
);
COMMENT ON TABLE apapacho_jobs.payout_todo IS 'the creators that a run has yet to look at; what a crash leaves here is taken up by the next run';

SELECT pg_catalog.pg_extension_config_dump('apapacho_jobs.payout_claim', '');
SELECT pg_catalog.pg_extension_config_dump('apapacho_jobs.payout_transition', '');
SELECT pg_catalog.pg_extension_config_dump('apapacho_jobs.payout_transition_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('apapacho_jobs.payout_report', '');
SELECT pg_catalog.pg_extension_config_dump('apapacho_jobs.payout_state', '');

CREATE FUNCTION apapacho_jobs.guard_items() RETURNS trigger
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'apapacho_guard_items';
COMMENT ON FUNCTION apapacho_jobs.guard_items() IS 'keeps a transaction from being in two live payouts';
CREATE FUNCTION apapacho_jobs.guard_payouts() RETURNS trigger
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'apapacho_guard_payouts';
COMMENT ON FUNCTION apapacho_jobs.guard_payouts() IS 'what goes with new and deleted payouts; keeps those that are SENT';
CREATE FUNCTION apapacho_jobs.guard_payout_change() RETURNS trigger
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'apapacho_guard_payout_change';
COMMENT ON FUNCTION apapacho_jobs.guard_payout_change() IS 'the state machine of payouts, and what goes with a change';
CREATE FUNCTION apapacho_jobs.guard_truncate() RETURNS trigger
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'apapacho_guard_truncate';
COMMENT ON FUNCTION apapacho_jobs.guard_truncate() IS 'keeps payouts that are SENT from being truncated';
CREATE FUNCTION apapacho_jobs.guard_discovery() RETURNS trigger
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'apapacho_guard_discovery';
COMMENT ON FUNCTION apapacho_jobs.guard_discovery() IS 'remembers whom the next run has to look at';
REVOKE EXECUTE ON FUNCTION apapacho_jobs.guard_items(), apapacho_jobs.guard_payouts(), apapacho_jobs.guard_payout_change(),
    apapacho_jobs.guard_truncate(), apapacho_jobs.guard_discovery() FROM PUBLIC;

CREATE FUNCTION @extschema@.apapacho_payout_install_guards()
    RETURNS TABLE (problem text, transaction_id text, payout_id text)
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'apapacho_payout_install_guards';
REVOKE EXECUTE ON FUNCTION @extschema@.apapacho_payout_install_guards() FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.apapacho_payout_install_guards() IS
    'creates or repairs the triggers that guard payouts, rebuilds what they go by from the tables, and returns what contradicts itself there';

-- For apapacho_create_tables(), whose caller owns the tables; does nothing for others.
CREATE FUNCTION apapacho_jobs.install_missing_guards() RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'apapacho_install_missing_guards';
COMMENT ON FUNCTION apapacho_jobs.install_missing_guards() IS
    'installs the guards of payouts where they are missing, if the caller owns the tables; whether it did';
