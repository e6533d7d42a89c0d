-- How payment files are laid out (each bank has its own idea), and the check of RUTs. A payment file is made by src/payout/export.c.

CREATE FUNCTION @extschema@.apapacho_rut_normalize(rut text) RETURNS text
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    plain text := upper(btrim(rut));
    number text;
    total integer := 0;
    digit text;
BEGIN
    IF plain !~ '^([0-9]{1,3}(\.[0-9]{3}){1,2}|0*[0-9]{1,9})-?[0-9K]$' THEN
        RETURN NULL;
    END IF;
    plain := translate(plain, '.-', '');
    number := ltrim(left(plain, -1), '0');
    IF number = '' THEN
        RETURN NULL;
    END IF;
    FOR place IN 1 .. length(number) LOOP
        total := total + substr(number, length(number) - place + 1, 1)::integer * (2 + (place - 1) % 6);
    END LOOP;
    digit := CASE 11 - total % 11 WHEN 11 THEN '0' WHEN 10 THEN 'K' ELSE (11 - total % 11)::text END;
    RETURN CASE WHEN right(plain, 1) = digit THEN number || '-' || digit END;
END
$$;
REVOKE EXECUTE ON FUNCTION @extschema@.apapacho_rut_normalize(text) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.apapacho_rut_normalize(text) IS
    'a RUT (12.345.678-5, 12345678-5 or 123456785) as 12345678-5; null when it is none or its check digit (modulo 11) is wrong';

CREATE TABLE apapacho_jobs.payout_format (
    name text PRIMARY KEY CHECK (name ~ '^[A-Za-z0-9_-]{1,40}$'),
    layout text NOT NULL CHECK (layout IN ('csv', 'fixed')),
    encoding text NOT NULL DEFAULT 'UTF8',
    characters text NOT NULL DEFAULT 'any' CHECK (characters IN ('any', 'ascii', 'upper_ascii')),
    separator text NOT NULL DEFAULT ';' CHECK (length(separator) = 1 AND separator !~ '[[:alnum:]"\r\n-]'),
    quoting text NOT NULL DEFAULT 'needed' CHECK (quoting IN ('needed', 'always')),
    formulas text NOT NULL DEFAULT 'strip' CHECK (formulas IN ('strip', 'quote')),
    line_end text NOT NULL DEFAULT 'crlf' CHECK (line_end IN ('crlf', 'lf')),
    last_line_end boolean NOT NULL DEFAULT true,
    titles boolean NOT NULL DEFAULT false,
    file_name text NOT NULL DEFAULT 'payouts_{format}_{date}_{number}.csv' CHECK (file_name ~ '^[A-Za-z0-9_.{}-]{1,200}$' AND
        file_name ~ '\{number\}'),
    max_payments integer NOT NULL DEFAULT 5000 CHECK (max_payments BETWEEN 1 AND 1000000),
    description text,
    CHECK (NOT (titles AND layout = 'fixed'))
);
COMMENT ON TABLE apapacho_jobs.payout_format IS
    'layouts of payment files, with their columns in payout_format_column; make your own from a built-in one with payout_format_copy()';
COMMENT ON COLUMN apapacho_jobs.payout_format.encoding IS 'of the file: UTF8, LATIN1, WIN1252 ...';
COMMENT ON COLUMN apapacho_jobs.payout_format.characters IS 'of names: any that the encoding has, without accents (ascii), or that in capitals';
COMMENT ON COLUMN apapacho_jobs.payout_format.formulas IS
    'names that a spreadsheet would take for a formula (they begin with =, +, - or @) lose these characters, or get an apostrophe before them';
COMMENT ON COLUMN apapacho_jobs.payout_format.titles IS 'whether the first line has the titles of the columns';
COMMENT ON COLUMN apapacho_jobs.payout_format.file_name IS 'with {format}, {date} (YYYYMMDD, when it is to be paid) and {number} in it';
COMMENT ON COLUMN apapacho_jobs.payout_format.max_payments IS 'in one file; an export makes as many files as it takes';

CREATE TABLE apapacho_jobs.payout_format_column (
    format text NOT NULL,
    section text NOT NULL CHECK (section IN ('header', 'payment', 'trailer')),
    position integer NOT NULL CHECK (position > 0),
    title text NOT NULL DEFAULT '',
    source text NOT NULL,
    literal text CHECK (literal !~ '[\r\n]'),
    pattern text,
    width integer CHECK (width BETWEEN 1 AND 1000),
    alignment text NOT NULL DEFAULT 'left' CHECK (alignment IN ('left', 'right')),
    padding text NOT NULL DEFAULT ' ' CHECK (length(padding) = 1 AND padding !~ '[\r\n]'),
    mapped boolean NOT NULL DEFAULT false,
    PRIMARY KEY (format, section, position),
    CHECK ((source = 'literal') = (literal IS NOT NULL)),
    CHECK (NOT mapped OR source IN ('bank_code', 'account_type')),
    CHECK (pattern IS NULL OR source IN ('pay_date', 'created_at', 'period_start', 'period_end')),
    CONSTRAINT source_is_known CHECK (source IN ('literal', 'format', 'file_number', 'file_id', 'run', 'pay_date', 'created_at') OR
        CASE section WHEN 'payment' THEN source IN ('line', 'payout_id', 'creator_id', 'amount', 'rut', 'rut_number', 'rut_digit',
            'holder_name', 'bank_code', 'bank_name', 'account_type', 'account_number', 'period_start', 'period_end')
        ELSE source IN ('payments', 'total', 'hash_total', 'lines') END)
);
COMMENT ON TABLE apapacho_jobs.payout_format_column IS
    'the columns of payment files: of each payment, and of a line before (header) and after them (trailer), where there are any';
COMMENT ON COLUMN apapacho_jobs.payout_format_column.source IS
    'where its value comes from; hash_total: the sum of the account numbers, its last 15 digits; lines: all of the file';
COMMENT ON COLUMN apapacho_jobs.payout_format_column.pattern IS 'of a date, for to_char(); YYYY-MM-DD if not given';
COMMENT ON COLUMN apapacho_jobs.payout_format_column.width IS
    'in characters; in a CSV file the most that there may be. Names are cut; a payment of which anything else is longer is left out';
COMMENT ON COLUMN apapacho_jobs.payout_format_column.mapped IS 'whether the value is to be replaced by the code in payout_format_code';

CREATE TABLE apapacho_jobs.payout_format_code (
    format text NOT NULL,
    source text NOT NULL CHECK (source IN ('bank_code', 'account_type')),
    value text NOT NULL,
    code text NOT NULL,
    PRIMARY KEY (format, source, value)
);
COMMENT ON TABLE apapacho_jobs.payout_format_code IS
    'what a bank calls the values of "CreatorBankAccount"."bankCode" and "accountType"; a payment with another value is left out';

-- No foreign keys: pg_restore --jobs loads the tables of an extension in any order.
CREATE FUNCTION apapacho_jobs.payout_format_follow() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        DELETE FROM apapacho_jobs.payout_format_column WHERE format = OLD.name;
        DELETE FROM apapacho_jobs.payout_format_code WHERE format = OLD.name;
    ELSE
        UPDATE apapacho_jobs.payout_format_column SET format = NEW.name WHERE format = OLD.name;
        UPDATE apapacho_jobs.payout_format_code SET format = NEW.name WHERE format = OLD.name;
    END IF;
    RETURN NULL;
END
$$;
REVOKE EXECUTE ON FUNCTION apapacho_jobs.payout_format_follow() FROM PUBLIC;
COMMENT ON FUNCTION apapacho_jobs.payout_format_follow() IS 'the columns and codes of a format are renamed and deleted with it';
CREATE TRIGGER payout_format_follow AFTER UPDATE OF name OR DELETE ON apapacho_jobs.payout_format
    FOR EACH ROW EXECUTE FUNCTION apapacho_jobs.payout_format_follow();

INSERT INTO apapacho_jobs.payout_format (name, layout, encoding, characters, titles, file_name, description) VALUES
    ('csv', 'csv', 'UTF8', 'any', true, 'payouts_{date}_{number}.csv', 'a line for each payment, with titles'),
    ('csv-control', 'csv', 'UTF8', 'upper_ascii', false, 'payouts_{date}_{number}.csv',
     'records H, D and T: header, a line for each payment, and a trailer with number, sum and hash total'),
    ('fixed', 'fixed', 'LATIN1', 'upper_ascii', false, 'payouts_{date}_{number}.txt',
     'the same in columns of fixed width: 200 characters in each record');
INSERT INTO apapacho_jobs.payout_format_column (format, section, position, title, source, literal, pattern, width, alignment, padding) VALUES
    ('csv', 'payment', 1, 'line', 'line', NULL, NULL, NULL, 'left', ' '),
    ('csv', 'payment', 2, 'payout_id', 'payout_id', NULL, NULL, NULL, 'left', ' '),
    ('csv', 'payment', 3, 'creator_id', 'creator_id', NULL, NULL, NULL, 'left', ' '),
    ('csv', 'payment', 4, 'rut', 'rut', NULL, NULL, NULL, 'left', ' '),
    ('csv', 'payment', 5, 'name', 'holder_name', NULL, NULL, 100, 'left', ' '),
    ('csv', 'payment', 6, 'bank_code', 'bank_code', NULL, NULL, NULL, 'left', ' '),
    ('csv', 'payment', 7, 'bank', 'bank_name', NULL, NULL, 60, 'left', ' '),
    ('csv', 'payment', 8, 'account_type', 'account_type', NULL, NULL, NULL, 'left', ' '),
    ('csv', 'payment', 9, 'account_number', 'account_number', NULL, NULL, 20, 'left', ' '),
    ('csv', 'payment', 10, 'amount', 'amount', NULL, NULL, NULL, 'left', ' '),
    ('csv', 'payment', 11, 'pay_date', 'pay_date', NULL, NULL, NULL, 'left', ' '),
    ('csv-control', 'header', 1, '', 'literal', 'H', NULL, NULL, 'left', ' '),
    ('csv-control', 'header', 2, '', 'file_number', NULL, NULL, NULL, 'left', ' '),
    ('csv-control', 'header', 3, '', 'pay_date', NULL, 'YYYYMMDD', NULL, 'left', ' '),
    ('csv-control', 'header', 4, '', 'payments', NULL, NULL, NULL, 'left', ' '),
    ('csv-control', 'header', 5, '', 'total', NULL, NULL, NULL, 'left', ' '),
    ('csv-control', 'payment', 1, '', 'literal', 'D', NULL, NULL, 'left', ' '),
    ('csv-control', 'payment', 2, '', 'line', NULL, NULL, NULL, 'left', ' '),
    ('csv-control', 'payment', 3, '', 'rut_number', NULL, NULL, NULL, 'left', ' '),
    ('csv-control', 'payment', 4, '', 'rut_digit', NULL, NULL, NULL, 'left', ' '),
    ('csv-control', 'payment', 5, '', 'holder_name', NULL, NULL, 60, 'left', ' '),
    ('csv-control', 'payment', 6, '', 'bank_code', NULL, NULL, NULL, 'left', ' '),
    ('csv-control', 'payment', 7, '', 'account_type', NULL, NULL, NULL, 'left', ' '),
    ('csv-control', 'payment', 8, '', 'account_number', NULL, NULL, 20, 'left', ' '),
    ('csv-control', 'payment', 9, '', 'amount', NULL, NULL, NULL, 'left', ' '),
    ('csv-control', 'payment', 10, '', 'payout_id', NULL, NULL, NULL, 'left', ' '),
    ('csv-control', 'trailer', 1, '', 'literal', 'T', NULL, NULL, 'left', ' '),
    ('csv-control', 'trailer', 2, '', 'payments', NULL, NULL, NULL, 'left', ' '),
    ('csv-control', 'trailer', 3, '', 'total', NULL, NULL, NULL, 'left', ' '),
    ('csv-control', 'trailer', 4, '', 'hash_total', NULL, NULL, NULL, 'left', ' '),
    ('fixed', 'header', 1, '', 'literal', 'H', NULL, 1, 'left', ' '),
    ('fixed', 'header', 2, '', 'file_number', NULL, NULL, 8, 'right', '0'),
    ('fixed', 'header', 3, '', 'pay_date', NULL, 'YYYYMMDD', 8, 'left', ' '),
    ('fixed', 'header', 4, '', 'payments', NULL, NULL, 8, 'right', '0'),
    ('fixed', 'header', 5, '', 'total', NULL, NULL, 18, 'right', '0'),
    ('fixed', 'header', 6, '', 'literal', '', NULL, 157, 'left', ' '),
    ('fixed', 'payment', 1, '', 'literal', 'D', NULL, 1, 'left', ' '),
    ('fixed', 'payment', 2, '', 'line', NULL, NULL, 8, 'right', '0'),
    ('fixed', 'payment', 3, '', 'rut_number', NULL, NULL, 9, 'right', '0'),
    ('fixed', 'payment', 4, '', 'rut_digit', NULL, NULL, 1, 'left', ' '),
    ('fixed', 'payment', 5, '', 'holder_name', NULL, NULL, 60, 'left', ' '),
    ('fixed', 'payment', 6, '', 'bank_code', NULL, NULL, 12, 'left', ' '),
    ('fixed', 'payment', 7, '', 'account_type', NULL, NULL, 20, 'left', ' '),
    ('fixed', 'payment', 8, '', 'account_number', NULL, NULL, 20, 'right', '0'),
    ('fixed', 'payment', 9, '', 'amount', NULL, NULL, 15, 'right', '0'),
    ('fixed', 'payment', 10, '', 'payout_id', NULL, NULL, 36, 'left', ' '),
    ('fixed', 'payment', 11, '', 'pay_date', NULL, 'YYYYMMDD', 8, 'left', ' '),
    ('fixed', 'payment', 12, '', 'literal', '', NULL, 10, 'left', ' '),
    ('fixed', 'trailer', 1, '', 'literal', 'T', NULL, 1, 'left', ' '),
    ('fixed', 'trailer', 2, '', 'payments', NULL, NULL, 8, 'right', '0'),
    ('fixed', 'trailer', 3, '', 'total', NULL, NULL, 18, 'right', '0'),
    ('fixed', 'trailer', 4, '', 'hash_total', NULL, NULL, 15, 'right', '0'),
    ('fixed', 'trailer', 5, '', 'lines', NULL, NULL, 8, 'right', '0'),
    ('fixed', 'trailer', 6, '', 'literal', '', NULL, 150, 'left', ' ');

SELECT pg_catalog.pg_extension_config_dump('apapacho_jobs.payout_format', 'WHERE name NOT IN (''csv'', ''csv-control'', ''fixed'')');
SELECT pg_catalog.pg_extension_config_dump('apapacho_jobs.payout_format_column', 'WHERE format NOT IN (''csv'', ''csv-control'', ''fixed'')');
SELECT pg_catalog.pg_extension_config_dump('apapacho_jobs.payout_format_code', 'WHERE format NOT IN (''csv'', ''csv-control'', ''fixed'')');

-- They come with the extension: a dump has not what is changed in them.
CREATE FUNCTION apapacho_jobs.keep_built_in_format() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    field text := CASE TG_TABLE_NAME WHEN 'payout_format' THEN 'name' ELSE 'format' END;
BEGIN
    IF to_jsonb(OLD) ->> field IN ('csv', 'csv-control', 'fixed') OR to_jsonb(NEW) ->> field IN ('csv', 'csv-control', 'fixed') THEN
        RAISE EXCEPTION 'format "%" is built in and cannot be changed', coalesce(to_jsonb(OLD) ->> field, to_jsonb(NEW) ->> field)
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Change a copy: SELECT apapacho_jobs.payout_format_copy(''csv'', ''mine'').';
    END IF;
    RETURN coalesce(NEW, OLD);
END
$$;
REVOKE EXECUTE ON FUNCTION apapacho_jobs.keep_built_in_format() FROM PUBLIC;
COMMENT ON FUNCTION apapacho_jobs.keep_built_in_format() IS 'keeps the formats of payment files that come with the extension as they are';
CREATE TRIGGER keep_built_in BEFORE INSERT OR UPDATE OR DELETE ON apapacho_jobs.payout_format
    FOR EACH ROW EXECUTE FUNCTION apapacho_jobs.keep_built_in_format();
CREATE TRIGGER keep_built_in BEFORE INSERT OR UPDATE OR DELETE ON apapacho_jobs.payout_format_column
    FOR EACH ROW EXECUTE FUNCTION apapacho_jobs.keep_built_in_format();
CREATE TRIGGER keep_built_in BEFORE INSERT OR UPDATE OR DELETE ON apapacho_jobs.payout_format_code
    FOR EACH ROW EXECUTE FUNCTION apapacho_jobs.keep_built_in_format();

CREATE FUNCTION apapacho_jobs.payout_format_copy(source text, target text) RETURNS void
    LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    copied apapacho_jobs.payout_format;
BEGIN
    SELECT f.* INTO copied FROM apapacho_jobs.payout_format AS f WHERE f.name = source;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'format "%" does not exist', source USING ERRCODE = 'undefined_object';
    END IF;
    copied.name := target;
    INSERT INTO apapacho_jobs.payout_format SELECT copied.*;
    INSERT INTO apapacho_jobs.payout_format_column
        SELECT target, c.section, c.position, c.title, c.source, c.literal, c.pattern, c.width, c.alignment, c.padding, c.mapped
        FROM apapacho_jobs.payout_format_column AS c WHERE c.format = payout_format_copy.source;
    INSERT INTO apapacho_jobs.payout_format_code SELECT target, c.source, c.value, c.code
        FROM apapacho_jobs.payout_format_code AS c WHERE c.format = payout_format_copy.source;
END
$$;
REVOKE EXECUTE ON FUNCTION apapacho_jobs.payout_format_copy(text, text) FROM PUBLIC;
COMMENT ON FUNCTION apapacho_jobs.payout_format_copy(text, text) IS 'makes a format of payment files like another one, to be changed';

CREATE FUNCTION apapacho_jobs.payout_format_require(format text) RETURNS apapacho_jobs.payout_format
    LANGUAGE plpgsql STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    layout apapacho_jobs.payout_format;
    problem text;
BEGIN
    SELECT f.* INTO layout FROM apapacho_jobs.payout_format AS f WHERE f.name = format;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'format "%" does not exist', format
            USING ERRCODE = 'undefined_object', DETAIL = 'Formats are rows of apapacho_jobs.payout_format: ' ||
                (SELECT string_agg(f.name, ', ' ORDER BY f.name COLLATE "C") FROM apapacho_jobs.payout_format AS f) || '.';
    END IF;
    SELECT p.problem INTO problem FROM (
        SELECT 1, format('encoding "%s" is not one that files can have.', layout.encoding)
            WHERE pg_char_to_encoding(layout.encoding) < 0 OR layout.encoding ILIKE 'sql_ascii'
        UNION ALL SELECT 2, format('A payment has no column with the source %s.', s.name)
            FROM unnest(ARRAY['account_number', 'amount']) AS s (name)
            WHERE NOT EXISTS (SELECT FROM apapacho_jobs.payout_format_column AS c
                WHERE c.format = layout.name AND c.section = 'payment' AND c.source = s.name)
        UNION ALL SELECT 3, format('Column %s of section %s has no width.', c.position, c.section)
            FROM apapacho_jobs.payout_format_column AS c WHERE c.format = layout.name AND c.width IS NULL AND layout.layout = 'fixed'
    ) AS p (rank, problem) ORDER BY p.rank, p.problem COLLATE "C" LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'format "%" cannot be used', layout.name USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = problem;
    END IF;
    RETURN layout;
END
$$;
REVOKE EXECUTE ON FUNCTION apapacho_jobs.payout_format_require(text) FROM PUBLIC;
COMMENT ON FUNCTION apapacho_jobs.payout_format_require(text) IS 'a format of payment files; an error when there is none, or it is not complete';

-- Text without accents. The letters are written as bytes, for databases of other encodings.
CREATE FUNCTION apapacho_jobs.payout_plain_text(value text) RETURNS text
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF value !~ '[^ -~]' THEN
        RETURN value;
    END IF;
    IF getdatabaseencoding() IN ('UTF8', 'LATIN1', 'LATIN9', 'WIN1252') THEN
        value := translate(value, convert_from(
            '\xc381c380c382c384c383c385c3a1c3a0c3a2c3a4c3a3c3a5c389c388c38ac38bc3a9c3a8c3aac3abc38dc38cc38ec38fc3adc3acc3aec3af'
            'c393c392c394c396c395c3b3c3b2c3b4c3b6c3b5c39ac399c39bc39cc3bac3b9c3bbc3bcc391c3b1c387c3a7c39dc3bdc3bf'::bytea, 'UTF8'),
            'AAAAAAaaaaaaEEEEeeeeIIIIiiiiOOOOOoooooUUUUuuuuNnCcYyy');
    END IF;
    RETURN regexp_replace(value, '[^ -~]', ' ', 'g');
END
$$;
REVOKE EXECUTE ON FUNCTION apapacho_jobs.payout_plain_text(text) FROM PUBLIC;
COMMENT ON FUNCTION apapacho_jobs.payout_plain_text(text) IS 'text in printable ASCII: accents are dropped, what is left is a blank';

CREATE FUNCTION apapacho_jobs.payout_encodable(value text, encoding text) RETURNS boolean
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF value ~ '[^ -~]' THEN
        PERFORM convert_to(value, encoding);
    END IF;
    RETURN true;
EXCEPTION WHEN untranslatable_character OR character_not_in_repertoire OR undefined_function THEN
    RETURN false;
END
$$;
REVOKE EXECUTE ON FUNCTION apapacho_jobs.payout_encodable(text, text) FROM PUBLIC;
COMMENT ON FUNCTION apapacho_jobs.payout_encodable(text, text) IS 'whether an encoding has all characters of a text';

-- A name as it can stand in a file: one line, in the format's characters, no formula. May be empty.
CREATE FUNCTION apapacho_jobs.payout_file_name_text(format apapacho_jobs.payout_format, value text) RETURNS text
    LANGUAGE plpgsql STABLE STRICT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF value ~ '[^ -~]' AND getdatabaseencoding() = 'UTF8' THEN
        value := normalize(value, NFC);
    END IF;
    value := btrim(regexp_replace(value, '[[:cntrl:][:space:]]+', ' ', 'g'));
    IF format.characters <> 'any' OR NOT apapacho_jobs.payout_encodable(value, format.encoding) THEN
        value := btrim(regexp_replace(apapacho_jobs.payout_plain_text(value), ' +', ' ', 'g'));
    END IF;
    IF format.characters = 'upper_ascii' THEN
        value := upper(value COLLATE "C");
    END IF;
    -- the wide forms of these characters too, which spreadsheets take for the same
    IF format.layout = 'csv' AND (value ~ '^[=+@-]' OR (getdatabaseencoding() = 'UTF8' AND ascii(value) IN (65291, 65293, 65309, 65312))) THEN
        IF format.formulas = 'quote' THEN
            value := '''' || value;
        ELSIF getdatabaseencoding() = 'UTF8' THEN
            value := ltrim(value, '=+-@ ' || chr(65291) || chr(65293) || chr(65309) || chr(65312));
        ELSE
            value := ltrim(value, '=+-@ ');
        END IF;
    END IF;
    RETURN value;
END
$$;
REVOKE EXECUTE ON FUNCTION apapacho_jobs.payout_file_name_text(apapacho_jobs.payout_format, text) FROM PUBLIC;
COMMENT ON FUNCTION apapacho_jobs.payout_file_name_text(apapacho_jobs.payout_format, text) IS 'a name as it can stand in a payment file';

-- One field. The problem is a reason code; names are made to fit, everything else must fit as it is.
CREATE FUNCTION apapacho_jobs.payout_file_field(format apapacho_jobs.payout_format, layout apapacho_jobs.payout_format_column, value text,
                                                OUT field text, OUT problem text)
    LANGUAGE plpgsql STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    value := coalesce(value, '');
    IF layout.source IN ('pay_date', 'created_at', 'period_start', 'period_end') THEN
        value := to_char(value::timestamp, coalesce(layout.pattern, 'YYYY-MM-DD'));
    ELSIF layout.source IN ('holder_name', 'bank_name') THEN
        value := apapacho_jobs.payout_file_name_text(format, value);
        IF layout.width IS NOT NULL THEN
            value := rtrim(left(value, layout.width));
        END IF;
        IF value IN ('', '''') THEN
            problem := 'INVALID_NAME';
        END IF;
    ELSIF value ~ '[[:cntrl:]]' OR (format.layout = 'csv' AND layout.source <> 'literal' AND value ~ '^[[:space:]]*[=+@-]') THEN
        problem := 'INVALID_VALUE';
    ELSIF value ~ '[^ -~]' AND (format.characters <> 'any' OR NOT apapacho_jobs.payout_encodable(value, format.encoding)) THEN
        problem := 'NOT_ENCODABLE';
    END IF;
    IF length(value) > layout.width THEN
        problem := coalesce(problem, 'FIELD_TOO_LONG');
    END IF;
    IF format.layout = 'fixed' THEN
        field := CASE layout.alignment WHEN 'left' THEN rpad(value, layout.width, layout.padding) ELSE lpad(value, layout.width, layout.padding) END;
    ELSIF format.quoting = 'always' OR position(format.separator IN value) > 0 OR position('"' IN value) > 0 OR value ~ '^\s|\s$' THEN
        field := '"' || replace(value, '"', '""') || '"';
    ELSE
        field := value;
    END IF;
END
$$;
REVOKE EXECUTE ON FUNCTION apapacho_jobs.payout_file_field(apapacho_jobs.payout_format, apapacho_jobs.payout_format_column, text) FROM PUBLIC;
COMMENT ON FUNCTION apapacho_jobs.payout_file_field(apapacho_jobs.payout_format, apapacho_jobs.payout_format_column, text) IS
    'a value as a field of a payment file, and what is wrong with it';

-- One line, from values by the names of their sources. The problem is that of the first field that has one.
CREATE FUNCTION apapacho_jobs.payout_file_record(format apapacho_jobs.payout_format, layout apapacho_jobs.payout_format_column[], "values" jsonb,
                                                 OUT record text, OUT problem text, OUT problem_field text)
    LANGUAGE plpgsql STABLE STRICT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    part apapacho_jobs.payout_format_column;
    value text;
    made record;
    fields text[] := '{}';
BEGIN
    FOREACH part IN ARRAY layout LOOP
        value := CASE part.source WHEN 'literal' THEN part.literal ELSE "values" ->> part.source END;
        IF part.mapped THEN
            SELECT c.code INTO value FROM apapacho_jobs.payout_format_code AS c
                WHERE c.format = part.format AND c.source = part.source AND c.value = "values" ->> part.source;
            IF NOT FOUND THEN
                problem := coalesce(problem, 'UNKNOWN_CODE');
                problem_field := coalesce(problem_field, part.source);
                CONTINUE;
            END IF;
        END IF;
        made := apapacho_jobs.payout_file_field(format, part, value);
        IF made.problem IS NOT NULL AND problem IS NULL THEN
            problem := made.problem;
            problem_field := part.source;
        END IF;
        fields := fields || made.field;
    END LOOP;
    record := array_to_string(fields, CASE format.layout WHEN 'csv' THEN format.separator ELSE '' END);
END
$$;
REVOKE EXECUTE ON FUNCTION apapacho_jobs.payout_file_record(apapacho_jobs.payout_format, apapacho_jobs.payout_format_column[], jsonb) FROM PUBLIC;
COMMENT ON FUNCTION apapacho_jobs.payout_file_record(apapacho_jobs.payout_format, apapacho_jobs.payout_format_column[], jsonb) IS
    'a line of a payment file, and what is wrong with it';
