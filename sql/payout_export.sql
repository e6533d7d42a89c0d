-- Payment files: who is in them, who is not and why; their layouts; the same again; cancelled, paid, tried again; who may do it.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS apapacho_jobs;
CREATE SCHEMA pay;
SET apapacho_jobs.schema = 'pay';
SELECT count(*) > 0 AS tables_are_there FROM apapacho_create_tables();
SET search_path = pay, public;

-- check digits
SELECT rut, apapacho_rut_normalize(rut) FROM unnest(ARRAY['60.803.000-K', '60803000k', '97.004.000-5', ' 97030000-7 ', '60.805.000-0', '97036000-K',
    '6-K', '0012345678-5', '123456785', '12.345.678-4', '12345678-K', '1234.5678-5', '12.345.6785', '1.2.3-4', '0-0', '-5', '5', '', 'K-K',
    '12345678-5; DROP', '1234567890-1', E'12345678-5\n', NULL]) AS rut;

-- a creator with a payout of one item; NULL: no account
CREATE FUNCTION creator(name text, amount bigint, status text DEFAULT 'CALCULATED', rut text DEFAULT '12.345.678-5', number text DEFAULT '00-123 456',
                        holder text DEFAULT 'Ana Soto', bank text DEFAULT '012', type text DEFAULT 'CORRIENTE')
    RETURNS void LANGUAGE sql BEGIN ATOMIC
    INSERT INTO "Creator" (id, "userId", "updatedAt") VALUES (name, 'user of ' || name, now());
    INSERT INTO "Transaction" (id, "creatorId", "fanUserId", "productType", "grossAmount", "appliedFeeScheduleId", "appliedPlatformFeeBps",
                               "platformFeeAmount", "creatorPayableAmount", "occurredAt", provider, "providerPaymentId", "providerEventId")
        VALUES ('export t ' || name, name, 'fan', 'TIP', amount + 100, (SELECT id FROM "FeeSchedule"), 1000, 100, amount, '2025-01-01', 'test',
                'payment', 'event ' || name);
    INSERT INTO "Payout" (id, "creatorId", "periodStart", "periodEnd", "grossTotal", "platformFeeTotal", "payoutAmount", status, "updatedAt")
        VALUES ('p-' || name, name, '2025-01-01 03:00', '2025-02-01 03:00', amount + 100, 100, amount, status::"PayoutStatus", now());
    INSERT INTO "PayoutItem" (id, "payoutId", "transactionId", amount) VALUES ('i-' || name, 'p-' || name, 'export t ' || name, amount);
    INSERT INTO "CreatorBankAccount" (id, "creatorId", "bankCode", "bankName", "accountType", "accountNumber", "accountHolderName",
                                      "accountHolderRut", "isVerified", "updatedAt")
        SELECT 'a-' || name, name, bank, 'Banco de Prueba', type, number, holder, rut, true, now() WHERE rut IS NOT NULL;
    INSERT INTO apapacho_jobs.payout_origin (payout_id, run_id) VALUES ('p-' || name, 'run-1');
END;
INSERT INTO apapacho_jobs.payout_run (id, at, cutoff, fee_schedule_id, hold_days, min_payout, frequency, period_start, period_end, time_zone, forced, complete)
    VALUES ('run-1', now(), now(), 'f', 7, 20000, 'WEEKLY', now(), now(), 'UTC', false, true),
           ('run-2', now(), now(), 'f', 7, 20000, 'WEEKLY', now(), now(), 'UTC', false, true);
SELECT creator('good', 52000), creator('accents', 30000, holder => E'José  "Pepe" Ñandú; e\tHijos', rut => '60803000-k'),
       creator('formula', 25000, holder => '=cmd|'' /C calc''!A0', number => '9999999999999999'), creator('minus', 21000, holder => '-+@ Luz'),
       creator('no-account', 20001, rut => NULL), creator('no-default', 20002), creator('unverified', 20003), creator('several', 20004),
       creator('deleted', 20005), creator('bad-rut', 20006, rut => '12.345.678-9'), creator('bad-number', 20007, number => '12A4'),
       creator('zeros', 20008, number => '000'), creator('suspended', 20009), creator('pending', 20010), creator('dollars', 20011),
       creator('nothing', 0), creator('mismatch', 20012), creator('refunded', 20013), creator('disputed', 20014), creator('retry', 20015, 'PENDING'),
       creator('in-flight', 20016, 'PENDING'), creator('sent', 20017, 'SENT'), creator('cancelled', 20018, 'CANCELLED'),
       creator('failed', 20019, 'FAILED'), creator('nameless', 20020, holder => E' \t'), creator('=creator', 20021), creator('two', 20022),
       creator('long', 20023, number => repeat('7', 60))
\g (format=unaligned tuples_only=on) /dev/null
UPDATE "CreatorBankAccount" SET "isDefault" = false WHERE "creatorId" = 'no-default';
UPDATE "CreatorBankAccount" SET "isVerified" = false WHERE "creatorId" = 'unverified';
UPDATE "CreatorBankAccount" SET "deletedAt" = now() WHERE "creatorId" = 'deleted';
-- a second verified default one; one that is to be verified yet does not get in the way
INSERT INTO "CreatorBankAccount" (id, "creatorId", "bankCode", "bankName", "accountType", "accountNumber", "accountHolderName", "accountHolderRut",
                                  "isVerified", "updatedAt")
    SELECT 'a2-' || c.id, c.id, '016', 'Otro', 'VISTA', '77', 'Eva', '6-K', c.id = 'several', now() FROM "Creator" c WHERE c.id IN ('several', 'two');
UPDATE "Creator" SET status = 'SUSPENDED' WHERE id = 'suspended';
UPDATE "Creator" SET status = 'PENDING_VERIFICATION' WHERE id = 'pending';
UPDATE "Payout" SET currency = 'USD' WHERE id = 'p-dollars';
UPDATE "Payout" SET "payoutAmount" = 20112 WHERE id = 'p-mismatch';
UPDATE "Payout" SET "retryCount" = 1, "nextRetryAt" = '2099-01-01' WHERE id = 'p-retry';
UPDATE "Transaction" SET status = 'REFUNDED' WHERE "creatorId" = 'refunded';
UPDATE "Transaction" SET status = 'DISPUTED' WHERE "creatorId" = 'disputed';
DELETE FROM "OutboxEvent";

-- looking writes nothing
SELECT payout_id, amount, reason, detail FROM apapacho_payout_export_check('run-1', 'csv') WHERE NOT ready;
SELECT payout_id, creator_id, amount FROM apapacho_payout_export_check('run-1', 'csv') WHERE ready;
SELECT count(*) FROM apapacho_payout_export_check(NULL, 'csv');
SELECT * FROM apapacho_payout_export_check('run-2', 'csv');
SELECT (SELECT count(*) FROM "OutboxEvent") AS events, (SELECT count(*) FROM "Payout" WHERE status = 'CALCULATED') AS calculated,
       (SELECT count(*) FROM apapacho_jobs.payout_file) AS files;

-- a file; nobody gets its content before it is committed; then always the same, whatever has changed since
BEGIN;
CREATE TEMP TABLE made AS SELECT * FROM apapacho_payout_export('run-1', 'csv', pay_on => '2099-03-04');
SELECT file_name, number, status, pay_date, payments, total, hash_total, left_out, encoding, content IS NULL AS no_content FROM made;
SELECT content IS NULL AS no_content FROM apapacho_payout_file((SELECT file_id FROM made));
SELECT content IS NULL AS no_content FROM apapacho_payout_export('run-1', 'csv');
ROLLBACK;
SELECT count(*) AS files FROM apapacho_jobs.payout_file;
SELECT status, count(*) FROM "Payout" GROUP BY 1 ORDER BY 1;
CREATE TEMP TABLE made AS SELECT * FROM apapacho_payout_export('run-1', 'csv', pay_on => '2099-03-04');
SELECT file_name, number, status, pay_date, payments, total, hash_total, left_out, encoding FROM made;
SELECT status, count(*) FROM "Payout" GROUP BY 1 ORDER BY 1;
SELECT "aggregateType", "eventType", payload - '{eventId,occurredAt,fileId}'::text[] AS payload, payload ->> 'eventId' = id AS own_id,
       payload ->> 'fileId' = (SELECT file_id FROM made) AS in_file, payload ->> 'occurredAt' ~ '^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$' AS iso
    FROM "OutboxEvent" ORDER BY "aggregateId";
SELECT line, payout_id, creator_id, amount, account_id, attempt, live FROM apapacho_jobs.payout_file_item ORDER BY line;
SELECT payout_id, amount, reason FROM apapacho_jobs.payout_file_left_out ORDER BY payout_id COLLATE "C";
UPDATE "CreatorBankAccount" SET "accountNumber" = '666', "accountHolderName" = 'Somebody Else'
    WHERE "creatorId" IN ('good', 'accents', 'formula', 'minus', 'two');
UPDATE "Payout" SET "payoutAmount" = 1 WHERE id = 'p-good';
SELECT file_id = (SELECT file_id FROM made) AS same_file, sha256 = (SELECT sha256 FROM made) AND sha256 = encode(sha256(content), 'hex') AS same_content,
       replace(convert_from(content, 'UTF8'), E'\r\n', E'$\n') AS content
    FROM apapacho_payout_export('run-1', 'csv', pay_on => '2099-05-05') \gx
SELECT f.content = e.content AS same FROM apapacho_payout_file((SELECT file_id FROM made)) f, apapacho_payout_export('run-1', 'csv') e;
UPDATE "Payout" SET "payoutAmount" = 52000 WHERE id = 'p-good';

-- in one live file only, whatever the format; nothing left to be paid by another file
SELECT payout_id, reason, detail ~ 'It is in file [0-9a-f-]{36}\.' AS names_it FROM apapacho_payout_export_check('run-1', 'csv-control')
    WHERE reason = 'IN_FILE' ORDER BY 1;
INSERT INTO apapacho_jobs.payout_file_item (file_id, line, payout_id, creator_id, amount, account_id, attempt)
    SELECT file_id, 99, 'p-good', 'good', 1, 'a', 0 FROM made;

-- what was wrong is mended: a second file of the run; again: nothing more; both are shown
UPDATE "CreatorBankAccount" SET "isDefault" = true, "accountNumber" = '0042' WHERE "creatorId" = 'no-default';
UPDATE "CreatorBankAccount" SET "accountHolderRut" = '97.036.000-k' WHERE "creatorId" = 'bad-rut';
SELECT count(*) FROM apapacho_payout_export('run-1', 'csv');
SELECT file_name, number, payments, total, left_out FROM apapacho_payout_export('run-1', 'csv', supplement => true, pay_on => '2099-03-04');
SELECT number FROM apapacho_payout_export('run-1', 'csv', supplement => true);
\set VERBOSITY sqlstate
SELECT number, payments, content IS NOT NULL AS committed FROM apapacho_payout_export('run-1', 'csv');

-- cancelled: its payouts go into another file, of another layout; not when one has been paid
SELECT file_id AS first FROM made \gset
SELECT apapacho_payout_file_cancel(:'first', 'the bank was down') - 'fileId' AS cancelled;
SELECT apapacho_payout_file_cancel(:'first', 'the bank was down') - 'fileId' AS again;
SELECT apapacho_payout_file_cancel(:'first', 'other') - 'fileId' AS again;
SELECT status, sha256 = (SELECT sha256 FROM made) AS same, content IS NOT NULL AS kept FROM apapacho_payout_file(:'first');
SELECT payout_id, status FROM apapacho_payout_export_check('run-1', 'csv-control') c JOIN "Payout" p ON p.id = c.payout_id WHERE ready;
UPDATE "CreatorBankAccount" a SET "accountNumber" = '12345', "accountHolderName" = E'J\u00f3se  N\u0303and\u00fa; \u20ac'
    FROM "Creator" c WHERE c.id = a."creatorId" AND c.id IN ('good', 'accents');
CREATE TEMP TABLE control AS SELECT * FROM apapacho_payout_export('run-1', 'csv-control', pay_on => '2099-03-05');
SELECT c.number, c.payments, c.total, c.hash_total, replace(convert_from(f.content, 'UTF8'), E'\r\n', E'$\n') AS content
    FROM control c, apapacho_payout_file(c.file_id) f \gx
SELECT count(*) AS events FROM "OutboxEvent";
SELECT file_id AS second FROM control \gset
SELECT apapacho_payout_mark_failed('p-minus', 'account closed') ->> 'status' AS status;
SELECT apapacho_payout_file_mark_sent(:'second', 'BANK-77') - 'fileId' AS sent;
SELECT apapacho_payout_file_mark_sent(:'second', 'BANK-77') - 'fileId' AS again;
SELECT id, status, "providerTransferId" FROM "Payout" WHERE "providerTransferId" IS NOT NULL ORDER BY id COLLATE "C";
SELECT apapacho_payout_file_cancel(:'second', 'too late');
SELECT apapacho_payout_file_mark_sent(:'first', 'BANK-76');

-- a failed transfer waits for its retry, and then goes into another file while the one that it failed in lives on
SELECT payout_id, reason FROM apapacho_payout_export_check(NULL, 'csv') WHERE payout_id = 'p-minus';
UPDATE "Payout" SET "nextRetryAt" = NULL WHERE id IN ('p-minus', 'p-retry');
SELECT payout_id, amount FROM apapacho_payout_export_check(NULL, 'csv') WHERE ready;
CREATE TEMP TABLE retried AS SELECT * FROM apapacho_payout_export(NULL, 'fixed', pay_on => '2099-03-06');
SELECT replace(translate(convert_from(f.content, 'LATIN1'), ' ', '_'), E'\r\n', E'$\n') AS content FROM retried r, apapacho_payout_file(r.file_id) f
\g (format=unaligned tuples_only=on)
SELECT DISTINCT length(line) FROM retried r, apapacho_payout_file(r.file_id) f, string_to_table(convert_from(f.content, 'LATIN1'), E'\r\n') line ORDER BY 1;
SELECT i.payout_id, f.format, i.attempt, i.live FROM apapacho_jobs.payout_file_item i JOIN apapacho_jobs.payout_file f ON f.id = i.file_id
    WHERE i.payout_id = 'p-minus' ORDER BY i.attempt, f.format;
SELECT * FROM apapacho_payout_export(NULL, 'fixed');

-- who reads a file again is warned when it is not to be sent any more
SELECT file_id AS third FROM retried \gset
SELECT apapacho_payout_mark_cancelled('p-retry', 'fraud') ->> 'status' AS status;
\set VERBOSITY terse
SELECT payments FROM apapacho_payout_file(:'third');
SELECT apapacho_payout_file_cancel(:'third', 'fraud') ->> 'released' AS released;
SELECT payments FROM apapacho_payout_file(:'third');
\set VERBOSITY sqlstate

-- formats of one's own: codes, widths, several files, what cannot be used
SELECT apapacho_jobs.payout_format_copy('csv', 'mine');
UPDATE apapacho_jobs.payout_format SET separator = ',', quoting = 'always', formulas = 'quote', line_end = 'lf', last_line_end = false, max_payments = 2,
    encoding = 'LATIN1', file_name = 'mine-{number}.csv' WHERE name = 'mine';
UPDATE apapacho_jobs.payout_format_column SET mapped = true WHERE format = 'mine' AND source IN ('bank_code', 'account_type');
UPDATE apapacho_jobs.payout_format_column SET width = 12 WHERE format = 'mine' AND source = 'holder_name';
UPDATE apapacho_jobs.payout_format_column SET width = 50 WHERE format = 'mine' AND source = 'account_number';
INSERT INTO apapacho_jobs.payout_format_code VALUES ('mine', 'bank_code', '012', 'BECH'), ('mine', 'account_type', 'CORRIENTE', '01');
DELETE FROM apapacho_jobs.payout_origin WHERE run_id = 'run-1';
SELECT creator('m1', 31000, holder => '=1+1'), creator('m2', 32000, holder => E'Jos\u00e9 "el" Largo y Tendido'), creator('m3', 33000, holder => E'\u20acuro \U0001F600 Ana'),
       creator('m4', 34000, bank => '999'), creator('m5', 35000, type => 'NUEVA'), creator('m6', 36000), creator('m7', 37000, number => repeat('1', 51)),
       creator(E'm\u00e98', 38000), creator(E'm9\u20ac', 39000)
\g (format=unaligned tuples_only=on) /dev/null
SELECT payout_id, reason, detail FROM apapacho_payout_export_check('run-1', 'mine') WHERE NOT ready;
\set VERBOSITY terse
SELECT number, payments, total, left_out FROM apapacho_payout_export('run-1', 'mine', pay_on => '2099-03-07');
SELECT file_name, replace(convert_from(content, 'LATIN1'), E'\n', E'$\n') AS content FROM apapacho_payout_export('run-1', 'mine')
\g (format=unaligned tuples_only=on)
SELECT creator('n1', 40000), creator('n2', 41000), creator('n3', 42000, rut => NULL)
\g (format=unaligned tuples_only=on) /dev/null
SELECT number, payments, left_out FROM apapacho_payout_export('run-1', 'mine', supplement => true) WHERE number > 3;
SELECT f.number, l.payout_id, l.reason FROM apapacho_jobs.payout_file_left_out l JOIN apapacho_jobs.payout_file f ON f.id = l.file_id
    WHERE f.format = 'mine' ORDER BY 1, l.payout_id COLLATE "C";
INSERT INTO apapacho_jobs.payout_format (name, layout) VALUES ('empty', 'csv'), ('narrow', 'fixed'), ('odd', 'csv');
INSERT INTO apapacho_jobs.payout_format_column (format, section, position, source) VALUES ('narrow', 'payment', 1, 'amount'), ('narrow', 'payment', 2, 'account_number');
UPDATE apapacho_jobs.payout_format SET encoding = 'KLINGON' WHERE name = 'odd';
\set VERBOSITY default
SELECT apapacho_payout_export_check('run-1', 'empty');
SELECT apapacho_payout_export('run-1', 'narrow');
SELECT apapacho_payout_export('run-1', 'odd');
SELECT apapacho_payout_export('run-1', 'none');
INSERT INTO apapacho_jobs.payout_format_column (format, section, position, source) VALUES ('empty', 'payment', 1, 'total');
INSERT INTO apapacho_jobs.payout_format_column (format, section, position, source) VALUES ('empty', 'trailer', 1, 'account_number');
UPDATE apapacho_jobs.payout_format SET separator = ',' WHERE name = 'csv';
DELETE FROM apapacho_jobs.payout_format_column WHERE format = 'fixed' AND position = 1;

-- errors
SELECT apapacho_payout_export('run-9', 'csv');
SELECT apapacho_payout_export('run-1', NULL);
SELECT apapacho_payout_export('', 'csv');
\set VERBOSITY terse
SELECT apapacho_payout_export('run-1', 'csv', pay_on => '2020-01-01');
\set VERBOSITY default
SELECT apapacho_payout_file('nothing');
SELECT apapacho_payout_file_cancel('nothing', 'reason');
SELECT apapacho_payout_file_cancel('nothing', '');
SELECT apapacho_payout_file_mark_sent(NULL, 'reference');
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT apapacho_payout_export('run-1', 'csv');
ROLLBACK;
ALTER TABLE "CreatorBankAccount" ALTER "isDefault" DROP DEFAULT, ALTER "isDefault" TYPE text;
SELECT apapacho_payout_export_check('run-1', 'csv');
ALTER TABLE "CreatorBankAccount" RENAME "accountHolderRut" TO rut;
SELECT apapacho_payout_export_check('run-1', 'csv');
ALTER TABLE "CreatorBankAccount" RENAME TO "Elsewhere";
SELECT apapacho_payout_export('run-1', 'csv');
CREATE VIEW "CreatorBankAccount" AS SELECT * FROM "Elsewhere";
SELECT apapacho_payout_export('run-1', 'csv');

-- nobody else reads bank data
CREATE ROLE regress_export_clerk;
SET ROLE regress_export_clerk;
SELECT apapacho_payout_export('run-1', 'csv');
SELECT apapacho_payout_export_check('run-1', 'csv');
SELECT apapacho_payout_file('nothing');
SELECT apapacho_payout_file_cancel('nothing', 'reason');
SELECT apapacho_payout_file_mark_sent('nothing', 'reference');
SELECT apapacho_rut_normalize('6-K');
SELECT count(*) FROM apapacho_jobs.payout_file;
SELECT count(*) FROM apapacho_jobs.payout_file_item;
SELECT count(*) FROM apapacho_jobs.payout_files;
RESET ROLE;
GRANT EXECUTE ON FUNCTION apapacho_payout_file TO regress_export_clerk;
SET ROLE regress_export_clerk;
SELECT file_name, content IS NOT NULL AS has_content FROM public.apapacho_payout_file(:'first');
RESET ROLE;

SET client_min_messages = warning;
DROP OWNED BY regress_export_clerk;
DROP ROLE regress_export_clerk;
DELETE FROM apapacho_jobs.payout_file_item;
DELETE FROM apapacho_jobs.payout_file_left_out;
DELETE FROM apapacho_jobs.payout_file;
DELETE FROM apapacho_jobs.payout_format WHERE name IN ('mine', 'empty', 'narrow', 'odd');
DELETE FROM apapacho_jobs.payout_origin WHERE run_id LIKE 'run-%';
DELETE FROM apapacho_jobs.payout_run WHERE id LIKE 'run-%';
DROP SCHEMA pay CASCADE;
