-- Payment files: what a bank is told to pay (src/payout/export.c, export_file.c). A file is kept as it was handed out, byte for byte. These
-- tables have bank data in them and belong to the extension's owner alone; the functions read and write them as that.

CREATE TABLE apapacho_jobs.payout_file (
    id text COLLATE "C" PRIMARY KEY,
    format text NOT NULL,
    number bigint NOT NULL,
    run_id text,
    status text NOT NULL DEFAULT 'LIVE' CHECK (status IN ('LIVE', 'CANCELLED')),
    name text NOT NULL,
    pay_date date NOT NULL,
    encoding text NOT NULL,
    payments bigint NOT NULL DEFAULT 0,
    total numeric NOT NULL DEFAULT 0,
    hash_total numeric NOT NULL DEFAULT 0,
    left_out bigint NOT NULL DEFAULT 0,
    content bytea NOT NULL DEFAULT '',
    sha256 text,
    created_at timestamptz NOT NULL DEFAULT now(),
    created_in xid8 NOT NULL DEFAULT pg_current_xact_id(),
    created_by text NOT NULL DEFAULT session_user,
    cancelled_at timestamptz,
    cancelled_by text,
    cancel_reason text,
    UNIQUE (format, number)
);
CREATE INDEX payout_file_run_idx ON apapacho_jobs.payout_file (run_id);
COMMENT ON TABLE apapacho_jobs.payout_file IS 'payment files, with their content';
COMMENT ON COLUMN apapacho_jobs.payout_file.number IS 'counts the files of a format, without gaps';
COMMENT ON COLUMN apapacho_jobs.payout_file.run_id IS 'the run whose payouts it pays; null: whatever was ready';
COMMENT ON COLUMN apapacho_jobs.payout_file.total IS 'CLP';
COMMENT ON COLUMN apapacho_jobs.payout_file.hash_total IS 'the sum of the account numbers, its last 15 digits: changes when one is tampered with';
COMMENT ON COLUMN apapacho_jobs.payout_file.left_out IS 'payouts that could not be paid: see payout_file_left_out';
COMMENT ON COLUMN apapacho_jobs.payout_file.created_in IS 'the transaction: until it has committed nobody gets the content';

-- No foreign keys to it: pg_restore --jobs loads the tables of an extension in any order.
CREATE TABLE apapacho_jobs.payout_file_item (
    file_id text COLLATE "C" NOT NULL,
    line integer NOT NULL,
    payout_id text NOT NULL,
    creator_id text NOT NULL,
    amount bigint NOT NULL CHECK (amount > 0),
    account_id text NOT NULL,
    attempt integer NOT NULL,
    live boolean NOT NULL DEFAULT true,
    PRIMARY KEY (file_id, line)
);
CREATE UNIQUE INDEX payout_in_one_live_file ON apapacho_jobs.payout_file_item (payout_id) WHERE live;
CREATE INDEX payout_file_item_payout_idx ON apapacho_jobs.payout_file_item (payout_id);
COMMENT ON TABLE apapacho_jobs.payout_file_item IS 'the payouts in a payment file';
COMMENT ON COLUMN apapacho_jobs.payout_file_item.account_id IS 'the row of "CreatorBankAccount" that it was paid to';
COMMENT ON COLUMN apapacho_jobs.payout_file_item.attempt IS '"retryCount" at that time: once the payout has a higher one this transfer has failed';
COMMENT ON COLUMN apapacho_jobs.payout_file_item.live IS 'a payout is in one live file at most; false: the file was cancelled, or the transfer failed and came again';

CREATE TABLE apapacho_jobs.payout_file_left_out (
    file_id text COLLATE "C" NOT NULL,
    payout_id text NOT NULL,
    creator_id text NOT NULL,
    amount bigint NOT NULL,
    reason text NOT NULL,
    detail text NOT NULL,
    PRIMARY KEY (file_id, payout_id)
);
COMMENT ON TABLE apapacho_jobs.payout_file_left_out IS 'payouts that a payment file would have paid, and why it does not';

SELECT pg_catalog.pg_extension_config_dump('apapacho_jobs.payout_file', '');
SELECT pg_catalog.pg_extension_config_dump('apapacho_jobs.payout_file_item', '');
SELECT pg_catalog.pg_extension_config_dump('apapacho_jobs.payout_file_left_out', '');

-- The files' lock, up to the end of the transaction; the ids of the run's payouts; nothing when the run has files already and needs no more.
-- For an export of whatever is ready (run_id null) the ids are the caller's to find: an empty array.
CREATE FUNCTION apapacho_jobs.payout_file_begin(run_id text, format text, supplement boolean)
    RETURNS text[]
    LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    LOCK TABLE apapacho_jobs.payout_file IN SHARE ROW EXCLUSIVE MODE;
    LOCK TABLE apapacho_jobs.payout_format, apapacho_jobs.payout_format_column, apapacho_jobs.payout_format_code IN SHARE MODE;
    PERFORM apapacho_jobs.payout_format_require(format);
    IF run_id IS NULL THEN
        RETURN '{}'::text[];
    END IF;
    IF NOT supplement AND EXISTS (SELECT FROM apapacho_jobs.payout_file AS f
            WHERE f.run_id = payout_file_begin.run_id AND f.format = payout_file_begin.format AND f.status = 'LIVE') THEN
        RETURN NULL;
    END IF;
    RETURN apapacho_jobs.payout_file_payouts(run_id);
END
$$;
REVOKE EXECUTE ON FUNCTION apapacho_jobs.payout_file_begin(text, text, boolean) FROM PUBLIC;
COMMENT ON FUNCTION apapacho_jobs.payout_file_begin(text, text, boolean) IS 'the payouts that an export is about; null: those of the run are in files already';

CREATE FUNCTION apapacho_jobs.payout_file_payouts(run_id text) RETURNS text[]
    LANGUAGE plpgsql STABLE STRICT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM apapacho_jobs.payout_run AS r WHERE r.id = run_id) THEN
        RAISE EXCEPTION 'run "%" of the payout calculation does not exist', run_id
            USING ERRCODE = 'no_data_found', HINT = 'Runs are rows of apapacho_jobs.payout_run: the member "payoutRun" of what apapacho_run_job(''payout'') returns.';
    END IF;
    RETURN ARRAY(SELECT o.payout_id FROM apapacho_jobs.payout_origin AS o WHERE o.run_id = payout_file_payouts.run_id ORDER BY o.payout_id COLLATE "C");
END
$$;
REVOKE EXECUTE ON FUNCTION apapacho_jobs.payout_file_payouts(text) FROM PUBLIC;
COMMENT ON FUNCTION apapacho_jobs.payout_file_payouts(text) IS 'the payouts that a run has made';

-- An empty file, to be filled by payout_file_add() and finished by payout_file_close().
CREATE FUNCTION apapacho_jobs.payout_file_open(id text, run_id text, format text, pay_date date) RETURNS integer
    LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    layout apapacho_jobs.payout_format := apapacho_jobs.payout_format_require(format);
    next_number bigint;
BEGIN
    SELECT coalesce(max(f.number), 0) + 1 INTO next_number FROM apapacho_jobs.payout_file AS f WHERE f.format = layout.name;
    INSERT INTO apapacho_jobs.payout_file (id, format, number, run_id, name, pay_date, encoding)
        VALUES (id, layout.name, next_number, run_id,
                replace(replace(replace(layout.file_name, '{format}', layout.name), '{date}', to_char(pay_date, 'YYYYMMDD')),
                        '{number}', next_number::text), pay_date, layout.encoding);
    RETURN layout.max_payments;
END
$$;
REVOKE EXECUTE ON FUNCTION apapacho_jobs.payout_file_open(text, text, text, date) FROM PUBLIC;
COMMENT ON FUNCTION apapacho_jobs.payout_file_open(text, text, text, date) IS 'begins a payment file; returns how many payments it may have';

-- What the columns of every line can have in them.
CREATE FUNCTION apapacho_jobs.payout_file_context(file apapacho_jobs.payout_file) RETURNS jsonb
    LANGUAGE sql STABLE STRICT PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT jsonb_build_object('format', file.format, 'file_number', file.number, 'file_id', file.id, 'run', file.run_id,
            'pay_date', file.pay_date, 'created_at', file.created_at AT TIME ZONE apapacho_jobs.payout_file_zone())
    $$;
REVOKE EXECUTE ON FUNCTION apapacho_jobs.payout_file_context(apapacho_jobs.payout_file) FROM PUBLIC;
COMMENT ON FUNCTION apapacho_jobs.payout_file_context(apapacho_jobs.payout_file) IS 'values for the columns of a payment file';

CREATE FUNCTION apapacho_jobs.payout_file_zone() RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $$ SELECT coalesce(nullif(current_setting('apapacho_jobs.timezone', true), ''), current_setting('TimeZone')) $$;
REVOKE EXECUTE ON FUNCTION apapacho_jobs.payout_file_zone() FROM PUBLIC;
COMMENT ON FUNCTION apapacho_jobs.payout_file_zone() IS 'the time zone of dates in payment files';

CREATE FUNCTION apapacho_jobs.payout_file_date(pay_date date) RETURNS date
    LANGUAGE plpgsql STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    today date := (now() AT TIME ZONE apapacho_jobs.payout_file_zone())::date;
BEGIN
    IF pay_date < today OR pay_date = 'infinity' THEN
        RAISE EXCEPTION 'payments cannot be made on %', pay_date
            USING ERRCODE = 'invalid_parameter_value', DETAIL = format('Today is %s in time zone %s.', today, apapacho_jobs.payout_file_zone());
    END IF;
    RETURN coalesce(pay_date, today);
END
$$;
REVOKE EXECUTE ON FUNCTION apapacho_jobs.payout_file_date(date) FROM PUBLIC;
COMMENT ON FUNCTION apapacho_jobs.payout_file_date(date) IS 'the day on which a file is to be paid: today, if none is given';

-- Why a payout cannot go into a file, before its account is looked at; null: it can. `held_by`: the live file that it is in; `known`: it has
-- been in a file of ours.
CREATE FUNCTION apapacho_jobs.payout_file_objection(payout jsonb, held_by text, known boolean, OUT reason text, OUT detail text)
    LANGUAGE plpgsql IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    status text := payout ->> 'status';
BEGIN
    IF status IN ('SENT', 'CANCELLED') OR (status = 'FAILED' AND (payout ->> 'next' IS NULL OR (payout ->> 'retries')::integer >= 3)) THEN
        reason := status;
        detail := CASE status WHEN 'SENT' THEN 'It has been paid.' WHEN 'CANCELLED' THEN 'It was cancelled.' ELSE 'Its transfer failed.' END;
    ELSIF held_by IS NOT NULL THEN
        reason := 'IN_FILE';
        detail := format('It is in file %s.', held_by);
    ELSIF payout ->> 'next' IS NOT NULL THEN
        reason := 'WAITING_RETRY';
        detail := format('Its transfer failed; it is taken up again at %s UTC, by the job retry.', payout ->> 'next');
    ELSIF status <> 'CALCULATED' AND (payout ->> 'retries')::integer = 0 AND NOT known THEN
        reason := 'IN_FLIGHT';
        detail := format('It is %s, and no file has it: somebody else may be transferring it.', status);
    ELSIF payout ->> 'currency' <> 'CLP' THEN
        reason := 'CURRENCY';
        detail := format('It is in %s.', payout ->> 'currency');
    ELSIF (payout ->> 'amount')::bigint <= 0 THEN
        reason := 'AMOUNT';
        detail := format('Its amount is %s.', payout ->> 'amount');
    ELSIF (payout ->> 'amount')::numeric <> (payout ->> 'items')::numeric + (payout ->> 'adjustments')::numeric THEN
        reason := 'MISMATCH';
        detail := format('Its amount is %s, but its items are %s and its adjustments %s.', payout ->> 'amount', payout ->> 'items',
                         payout ->> 'adjustments');
    ELSIF (payout ->> 'reversed')::bigint > 0 THEN
        reason := 'REVERSED';
        detail := format('%s of its transactions are refunded, charged back or in dispute: %s', payout ->> 'reversed', CASE status
            WHEN 'CALCULATED' THEN 'the next calculation cancels it and pays the others.'
            ELSE 'cancel it with apapacho_payout_mark_cancelled(), if it has not been transferred.' END);
    ELSIF payout ->> 'creator_status' IS DISTINCT FROM 'ACTIVE' THEN
        reason := CASE payout ->> 'creator_status' WHEN 'SUSPENDED' THEN 'SUSPENDED' ELSE 'NOT_VERIFIED' END;
        detail := format('The creator is %s.', coalesce(payout ->> 'creator_status', 'missing'));
    END IF;
END
$$;
REVOKE EXECUTE ON FUNCTION apapacho_jobs.payout_file_objection(jsonb, text, boolean) FROM PUBLIC;
COMMENT ON FUNCTION apapacho_jobs.payout_file_objection(jsonb, text, boolean) IS 'why a payout cannot go into a payment file, as far as it is about the payout itself';

-- The same for the creator's account: {accounts, defaults, usable, account {...}}; null: there is none.
CREATE FUNCTION apapacho_jobs.payout_file_account_objection(holder jsonb, OUT reason text, OUT detail text)
    LANGUAGE plpgsql IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    account jsonb := holder -> 'account';
BEGIN
    IF holder IS NULL THEN
        reason := 'NO_ACCOUNT';
        detail := 'The creator has no bank account.';
    ELSIF (holder ->> 'defaults')::bigint = 0 THEN
        reason := 'NO_DEFAULT_ACCOUNT';
        detail := 'None of the creator''s bank accounts is the default one.';
    ELSIF (holder ->> 'usable')::bigint = 0 THEN
        reason := 'ACCOUNT_NOT_VERIFIED';
        detail := 'The creator''s bank account has not been verified.';
    ELSIF (holder ->> 'usable')::bigint > 1 THEN
        reason := 'SEVERAL_ACCOUNTS';
        detail := format('%s of the creator''s bank accounts are the default one.', holder ->> 'usable');
    ELSIF account ->> 'rut' IS NULL THEN
        reason := 'INVALID_RUT';
        detail := format('The RUT of the holder of account %s is not valid: its check digit or form is wrong.', account ->> 'id');
    ELSIF account ->> 'account_number' !~ '^[0-9]*[1-9][0-9]*$' THEN
        reason := 'INVALID_ACCOUNT_NUMBER';
        detail := format('The number of account %s has other characters than digits.', account ->> 'id');
    END IF;
END
$$;
REVOKE EXECUTE ON FUNCTION apapacho_jobs.payout_file_account_objection(jsonb) FROM PUBLIC;
COMMENT ON FUNCTION apapacho_jobs.payout_file_account_objection(jsonb) IS 'why a payment cannot be made to a creator''s bank account';

-- Each of the payouts with the line that a file would have for it, or the reason why it would not. payouts and accounts: arrays, as export.c
-- reads them from the user's tables. Lines are counted from first_line.
CREATE FUNCTION apapacho_jobs.payout_file_judge(format text, context jsonb, first_line integer, payouts jsonb, accounts jsonb)
    RETURNS TABLE (payout_id text, creator_id text, amount bigint, status text, attempt integer, account_id text, account_number text,
                   reason text, detail text, line integer, record text)
    LANGUAGE plpgsql STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    layout apapacho_jobs.payout_format := apapacho_jobs.payout_format_require(format);
    columns apapacho_jobs.payout_format_column[] := ARRAY(SELECT c FROM apapacho_jobs.payout_format_column AS c
        WHERE c.format = layout.name AND c.section = 'payment' ORDER BY c.position);
    zone text := apapacho_jobs.payout_file_zone();
    next_line integer := first_line;
    held_by text;
    known boolean;
    holder jsonb;
    account jsonb;
    made record;
    candidate record;
BEGIN
    FOR candidate IN
        SELECT p.payout, a.holder
        FROM jsonb_array_elements(payouts) AS p (payout)
            LEFT JOIN jsonb_array_elements(accounts) AS a (holder) ON a.holder ->> 'creator' = p.payout ->> 'creator'
        ORDER BY p.payout ->> 'id' COLLATE "C"
    LOOP
        payout_id := candidate.payout ->> 'id';
        creator_id := candidate.payout ->> 'creator';
        amount := (candidate.payout ->> 'amount')::bigint;
        status := candidate.payout ->> 'status';
        attempt := (candidate.payout ->> 'retries')::integer;
        account_id := candidate.holder #>> '{account,id}';
        line := NULL;
        record := NULL;
        SELECT min(i.file_id) FILTER (WHERE i.live AND i.attempt >= payout_file_judge.attempt), count(*) > 0 INTO held_by, known
            FROM apapacho_jobs.payout_file_item AS i WHERE i.payout_id = candidate.payout ->> 'id';
        SELECT o.reason, o.detail INTO reason, detail FROM apapacho_jobs.payout_file_objection(candidate.payout, held_by, known) AS o;
        IF reason IS NULL THEN
            holder := candidate.holder;
            account := holder -> 'account' || jsonb_build_object(
                'rut', @extschema@.apapacho_rut_normalize(holder #>> '{account,rut}'),
                'account_number', translate(holder #>> '{account,account_number}', ' .-', ''));
            account_number := account ->> 'account_number';
            SELECT o.reason, o.detail INTO reason, detail
                FROM apapacho_jobs.payout_file_account_objection(holder || jsonb_build_object('account', account)) AS o;
        END IF;
        IF reason IS NULL THEN
            made := apapacho_jobs.payout_file_record(layout, columns, context || account || jsonb_build_object(
                'line', next_line, 'payout_id', payout_id, 'creator_id', creator_id, 'amount', amount,
                'rut_number', split_part(account ->> 'rut', '-', 1), 'rut_digit', split_part(account ->> 'rut', '-', 2),
                'period_start', (candidate.payout ->> 'from')::timestamp AT TIME ZONE 'UTC' AT TIME ZONE zone,
                'period_end', (candidate.payout ->> 'until')::timestamp AT TIME ZONE 'UTC' AT TIME ZONE zone));
            reason := made.problem;
            IF reason IS NULL THEN
                line := next_line;
                record := made.record;
                next_line := next_line + 1;
            ELSE
                detail := CASE reason
                    WHEN 'UNKNOWN_CODE' THEN format('Format %s has no code for the %s of account %s.', layout.name, made.problem_field, account_id)
                    WHEN 'FIELD_TOO_LONG' THEN format('%s is longer than format %s has room for.', made.problem_field, layout.name)
                    WHEN 'NOT_ENCODABLE' THEN format('%s has characters that format %s does not have.', made.problem_field, layout.name)
                    WHEN 'INVALID_NAME' THEN format('%s of account %s is empty, or nothing that a file could have.', made.problem_field, account_id)
                    ELSE format('%s has a control character, or begins like a formula.', made.problem_field) END;
            END IF;
        END IF;
        RETURN NEXT;
    END LOOP;
END
$$;
REVOKE EXECUTE ON FUNCTION apapacho_jobs.payout_file_judge(text, jsonb, integer, jsonb, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION apapacho_jobs.payout_file_judge(text, jsonb, integer, jsonb, jsonb) IS 'which payouts can go into a payment file, and why not';

-- Puts those of the payouts into a file that can go there. submitted: those of them that were CALCULATED; what was final is not counted as left out.
CREATE FUNCTION apapacho_jobs.payout_file_add(id text, payouts jsonb, accounts jsonb, OUT submitted text[], OUT taken integer, OUT left_out integer)
    LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    file apapacho_jobs.payout_file;
    layout apapacho_jobs.payout_format;
    judged record;
    line_end text;
    added text[] := '{}';
    sum numeric := 0;
    hash numeric := 0;
BEGIN
    SELECT f.* INTO STRICT file FROM apapacho_jobs.payout_file AS f WHERE f.id = payout_file_add.id;
    layout := apapacho_jobs.payout_format_require(file.format);
    line_end := CASE layout.line_end WHEN 'crlf' THEN E'\r\n' ELSE E'\n' END;
    submitted := '{}';
    taken := 0;
    left_out := 0;
    UPDATE apapacho_jobs.payout_file_item AS i SET live = false
        FROM jsonb_array_elements(payouts) AS p (payout)
        WHERE i.live AND i.payout_id = p.payout ->> 'id' AND i.attempt < (p.payout ->> 'retries')::integer;
    FOR judged IN SELECT j.* FROM apapacho_jobs.payout_file_judge(file.format, apapacho_jobs.payout_file_context(file),
            file.payments::integer + 1, payouts, accounts) AS j LOOP
        IF judged.reason IS NULL THEN
            INSERT INTO apapacho_jobs.payout_file_item (file_id, line, payout_id, creator_id, amount, account_id, attempt)
                VALUES (file.id, judged.line, judged.payout_id, judged.creator_id, judged.amount, judged.account_id, judged.attempt);
            IF judged.status = 'CALCULATED' THEN
                submitted := submitted || judged.payout_id;
            END IF;
            added := added || judged.record;
            taken := taken + 1;
            sum := sum + judged.amount;
            hash := hash + judged.account_number::numeric;
        ELSIF judged.reason NOT IN ('SENT', 'CANCELLED', 'FAILED', 'IN_FILE') THEN
            INSERT INTO apapacho_jobs.payout_file_left_out (file_id, payout_id, creator_id, amount, reason, detail)
                VALUES (file.id, judged.payout_id, judged.creator_id, judged.amount, judged.reason, judged.detail);
            left_out := left_out + 1;
        END IF;
    END LOOP;
    UPDATE apapacho_jobs.payout_file AS f
        SET payments = f.payments + taken, total = f.total + sum, hash_total = (f.hash_total + hash) % 1000000000000000,
            left_out = f.left_out + payout_file_add.left_out,
            content = f.content || convert_to(array_to_string(added, line_end) || CASE WHEN taken > 0 THEN line_end ELSE '' END, f.encoding)
        WHERE f.id = file.id;
END
$$;
REVOKE EXECUTE ON FUNCTION apapacho_jobs.payout_file_add(text, jsonb, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION apapacho_jobs.payout_file_add(text, jsonb, jsonb) IS 'puts payouts into a payment file that is being made';

-- Header, trailer, file's sum. A file without payments is not made: false; what was left out is told with the one before it, if there is one.
CREATE FUNCTION apapacho_jobs.payout_file_close(id text, before text) RETURNS boolean
    LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    file apapacho_jobs.payout_file;
    layout apapacho_jobs.payout_format;
    line_end text;
    context jsonb;
    columns apapacho_jobs.payout_format_column[];
    made record;
    part text;
    lines bigint;
BEGIN
    SELECT f.* INTO STRICT file FROM apapacho_jobs.payout_file AS f WHERE f.id = payout_file_close.id;
    IF file.payments = 0 THEN
        IF before IS NULL THEN
            DELETE FROM apapacho_jobs.payout_file_left_out AS l WHERE l.file_id = file.id;
        ELSE
            UPDATE apapacho_jobs.payout_file_left_out AS l SET file_id = before WHERE l.file_id = file.id;
            UPDATE apapacho_jobs.payout_file AS f SET left_out = f.left_out + file.left_out WHERE f.id = before;
        END IF;
        DELETE FROM apapacho_jobs.payout_file AS f WHERE f.id = file.id;
        RETURN false;
    END IF;
    layout := apapacho_jobs.payout_format_require(file.format);
    line_end := CASE layout.line_end WHEN 'crlf' THEN E'\r\n' ELSE E'\n' END;
    lines := file.payments + layout.titles::integer + (SELECT count(DISTINCT c.section) FROM apapacho_jobs.payout_format_column AS c
        WHERE c.format = layout.name AND c.section IN ('header', 'trailer'));
    context := apapacho_jobs.payout_file_context(file) ||
        jsonb_build_object('payments', file.payments, 'total', file.total, 'hash_total', file.hash_total, 'lines', lines);
    IF layout.titles THEN
        SELECT string_agg(CASE WHEN layout.quoting = 'always' OR position(layout.separator IN c.title) > 0 OR position('"' IN c.title) > 0
                THEN '"' || replace(c.title, '"', '""') || '"' ELSE c.title END, layout.separator ORDER BY c.position)
            INTO part FROM apapacho_jobs.payout_format_column AS c WHERE c.format = layout.name AND c.section = 'payment';
        file.content := convert_to(part || line_end, file.encoding) || file.content;
    END IF;
    FOREACH part IN ARRAY ARRAY['header', 'trailer'] LOOP
        columns := ARRAY(SELECT c FROM apapacho_jobs.payout_format_column AS c
            WHERE c.format = layout.name AND c.section = part ORDER BY c.position);
        CONTINUE WHEN columns = '{}';
        made := apapacho_jobs.payout_file_record(layout, columns, context);
        IF made.problem IS NOT NULL THEN
            RAISE EXCEPTION 'the % of a file of format "%" cannot be made', part, layout.name
                USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = format('%s: %s', made.problem_field, made.problem);
        END IF;
        file.content := CASE part WHEN 'header' THEN convert_to(made.record || line_end, file.encoding) || file.content
            ELSE file.content || convert_to(made.record || line_end, file.encoding) END;
    END LOOP;
    IF NOT layout.last_line_end THEN
        file.content := substr(file.content, 1, length(file.content) - length(line_end));
    END IF;
    UPDATE apapacho_jobs.payout_file AS f SET content = file.content, sha256 = encode(sha256(file.content), 'hex') WHERE f.id = file.id;
    RETURN true;
END
$$;
REVOKE EXECUTE ON FUNCTION apapacho_jobs.payout_file_close(text, text) FROM PUBLIC;
COMMENT ON FUNCTION apapacho_jobs.payout_file_close(text, text) IS 'finishes a payment file that is being made; one without payments is dropped';

-- Files as they are shown. What a transaction has made it cannot read: if it were rolled back after the bytes have left, the payouts would be paid again.
CREATE FUNCTION apapacho_jobs.payout_file_rows(ids text[])
    RETURNS TABLE (file_id text, file_name text, number bigint, status text, pay_date date, payments bigint, total numeric, hash_total text, sha256 text,
                   left_out bigint, encoding text, created_at timestamptz, content bytea)
    LANGUAGE sql STABLE STRICT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT f.id, f.name, f.number, f.status, f.pay_date, f.payments, f.total, lpad(f.hash_total::text, 15, '0'), f.sha256,
               f.left_out, f.encoding, f.created_at,
               CASE WHEN f.created_in = pg_current_xact_id_if_assigned() AND f.created_at = now() THEN NULL ELSE f.content END
        FROM apapacho_jobs.payout_file AS f WHERE f.id = ANY (ids) ORDER BY f.format, f.number
    $$;
REVOKE EXECUTE ON FUNCTION apapacho_jobs.payout_file_rows(text[]) FROM PUBLIC;
COMMENT ON FUNCTION apapacho_jobs.payout_file_rows(text[]) IS 'payment files as the functions return them';

CREATE FUNCTION @extschema@.apapacho_payout_export(run text, format text, supplement boolean DEFAULT false, pay_on date DEFAULT NULL)
    RETURNS TABLE (file_id text, file_name text, number bigint, status text, pay_date date, payments bigint, total numeric, hash_total text, sha256 text,
                   left_out bigint, encoding text, created_at timestamptz, content bytea)
    LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'apapacho_payout_export';
REVOKE EXECUTE ON FUNCTION @extschema@.apapacho_payout_export(text, text, boolean, date) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.apapacho_payout_export(text, text, boolean, date) IS
    'payment files of a run''s payouts (run null: of whatever is ready), which become PENDING; again: the same files. Content is for transactions after the one that made it';

CREATE FUNCTION @extschema@.apapacho_payout_export_check(run text, format text)
    RETURNS TABLE (payout_id text, creator_id text, amount bigint, ready boolean, reason text, detail text)
    LANGUAGE c STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'apapacho_payout_export_check';
REVOKE EXECUTE ON FUNCTION @extschema@.apapacho_payout_export_check(text, text) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.apapacho_payout_export_check(text, text) IS
    'for each payout of a run (run null: that is not final) whether a payment file would have it now, and why not; writes nothing';

CREATE FUNCTION @extschema@.apapacho_payout_file(file text)
    RETURNS TABLE (file_id text, file_name text, number bigint, status text, pay_date date, payments bigint, total numeric, hash_total text, sha256 text,
                   left_out bigint, encoding text, created_at timestamptz, content bytea)
    LANGUAGE c STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'apapacho_payout_file';
REVOKE EXECUTE ON FUNCTION @extschema@.apapacho_payout_file(text) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.apapacho_payout_file(text) IS 'a payment file as it was made, also one that was cancelled';

CREATE FUNCTION @extschema@.apapacho_payout_file_cancel(file text, reason text) RETURNS jsonb
    LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'apapacho_payout_file_cancel';
REVOKE EXECUTE ON FUNCTION @extschema@.apapacho_payout_file_cancel(text, text) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.apapacho_payout_file_cancel(text, text) IS
    'cancels a payment file that no bank has got: its payouts can go into another one';

CREATE FUNCTION @extschema@.apapacho_payout_file_mark_sent(file text, reference text) RETURNS jsonb
    LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'apapacho_payout_file_mark_sent';
REVOKE EXECUTE ON FUNCTION @extschema@.apapacho_payout_file_mark_sent(text, text) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.apapacho_payout_file_mark_sent(text, text) IS
    'the bank has paid a file: marks its payouts as sent that are on their way, with REFERENCE/LINE as their transfer ids';

CREATE VIEW apapacho_jobs.payout_files AS
    SELECT f.id, f.format, f.number, f.run_id, f.status, f.name, f.pay_date, f.payments, f.total, f.hash_total, f.left_out, f.sha256,
           f.created_at, f.created_by, f.cancelled_at, f.cancelled_by, f.cancel_reason
    FROM apapacho_jobs.payout_file AS f;
COMMENT ON VIEW apapacho_jobs.payout_files IS 'payment files without their content: there is no bank data in it';
