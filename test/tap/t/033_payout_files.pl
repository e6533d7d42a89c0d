# 033_payout_files.pl: payment files made by many at once, against cancellations, rollbacks and a crash; whatever names there are; RUTs against
# another implementation; whom the SQL runs as; dumps; databases of other encodings.
use strict;
use warnings;
use utf8;

use Apapacho;
use Encode qw(decode encode);
use IPC::Run ();
use PostgreSQL::Test::Utils;
use Test::More;

my $node = Apapacho->create('main', tables => 'fixture');

# creator(name, amount, holder): with a payout of one item, and an account whose number is that of the name in digits.
my $creator = q{
    CREATE FUNCTION creator(name text, amount bigint, holder text DEFAULT 'Ana Soto', run text DEFAULT 'run-1') RETURNS void LANGUAGE sql AS $$
    INSERT INTO "Creator" (id, "userId", "updatedAt") VALUES (name, 'user of ' || name, now());
    INSERT INTO "Transaction" (id, "creatorId", "fanUserId", "productType", "grossAmount", "appliedFeeScheduleId", "appliedPlatformFeeBps",
                               "platformFeeAmount", "creatorPayableAmount", "occurredAt", provider, "providerPaymentId", "providerEventId")
        VALUES ('t-' || name, name, 'fan', 'TIP', amount, 'fees', 1000, 0, amount, '2025-01-01', 'test', 'payment', 'event ' || name);
    INSERT INTO "Payout" (id, "creatorId", "periodStart", "periodEnd", "grossTotal", "payoutAmount", "updatedAt")
        VALUES ('p-' || name, name, '2025-01-01', '2025-02-01', amount, amount, now());
    INSERT INTO "PayoutItem" (id, "payoutId", "transactionId", amount) VALUES ('i-' || name, 'p-' || name, 't-' || name, amount);
    INSERT INTO "CreatorBankAccount" (id, "creatorId", "bankCode", "bankName", "accountType", "accountNumber", "accountHolderName",
                                      "accountHolderRut", "isVerified", "updatedAt")
        VALUES ('a-' || name, name, '012', 'Banco de Prueba', 'VISTA', '9' || regexp_replace(name, '\D', '', 'g'), holder, '12.345.678-5', true, now());
    INSERT INTO apapacho_jobs.payout_origin (payout_id, run_id) VALUES ('p-' || name, run);
    $$;
    INSERT INTO "FeeSchedule" (id, "effectiveFrom") VALUES ('fees', '2020-01-01');
    INSERT INTO apapacho_jobs.payout_run (id, at, cutoff, fee_schedule_id, hold_days, min_payout, frequency, period_start, period_end, time_zone, forced, complete)
        SELECT 'run-' || n, now(), now(), 'fees', 7, 20000, 'WEEKLY', now(), now(), 'UTC', false, true FROM generate_series(1, 9) AS n;
};
$node->ask($creator);

sub content_of {
    my ($file, %options) = @_;
    return pack('H*', $node->ask("SELECT encode(content, 'hex') FROM apapacho_payout_file('$file')", %options));
}

# The records of a CSV file: RFC 4180 with semicolons.
sub parse_csv {
    my ($text) = @_;
    my @records;

    while ($text ne '') {
        my @fields;
        while (1) {
            $text =~ s/\A(?:"((?:[^"]|"")*)"|([^;"\r\n]*))(;|\r\n)// or die "no CSV: $text";
            my ($quoted, $plain, $end) = ($1, $2, $3);
            $quoted =~ s/""/"/g if defined $quoted;
            push @fields, $quoted // $plain;
            last if $end eq "\r\n";
        }
        push @records, \@fields;
    }
    return @records;
}

sub wait_for_lock {
    my ($name) = @_;
    return $node->wait_for("SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = '$name' AND wait_event_type = 'Lock'", "$name waits");
}

subtest 'check digits, against another implementation' => sub {
    my (%expected, $right, $wrong);

    srand(5);
    for my $number (map({ int(rand(10**(1 + $_ % 8))) + 1 } 1 .. 300), 1 .. 30) {
        my $weight = 1;
        my $rest = $number;
        my $s = 1;
        # the usual trick with a running sum modulo 11 that starts at 1: the digit is s - 1, and K where s is 0
        for (my $m = 0; $rest > 0; $rest = int($rest / 10)) {
            $s = ($s + ($rest % 10) * (9 - $m++ % 6)) % 11;
        }
        $expected{$number} = $s ? $s - 1 : 'K';
    }
    my $rows = $node->ask('SELECT n, d, apapacho_rut_normalize(n || d) FROM unnest(ARRAY[' . join(',', sort keys %expected)
        . q{]) AS n, unnest(string_to_array('0123456789K', NULL)) AS d});
    for my $row (split(/\n/, $rows)) {
        my ($number, $digit, $rut) = split(/\|/, $row, -1);
        if ($digit eq $expected{$number}) {
            $right++ if $rut eq "$number-$digit";
        } else {
            $wrong++ if $rut eq '';
        }
    }
    is($right, scalar keys %expected, 'the right digit is taken');
    is($wrong, 10 * keys %expected, 'no other one is');
};

subtest 'names of all kinds' => sub {
    my @pieces = ('=', '+', '-', '@', '"', ';', "'", "\t", "\r\n", "\n", ' ', 'ñ', "n\x{303}", '€', "\x{1F600}", 'A1', 'HYPERLINK(1)', ',', '|', "\x{FF1D}", "\x{1}", 'Zoë');
    my %holder;

    for my $n (1 .. 200) {
        my $name = 'Ok' . join('', map { $pieces[rand @pieces] } 1 .. 5);
        $name = join('', map { $pieces[rand @pieces] } 1 .. 4) . $name if $n % 2;
        $holder{"h$n"} = $name;
    }
    $node->ask(join(";\n", 'SET client_encoding = \'UTF8\'', map { my $name = encode('UTF-8', $holder{$_}); "SELECT creator('$_', 1000 + substr('$_', 2)::int, \$\$$name\$\$)" } sort keys %holder));
    for my $format ('csv', 'csv-control') {
        my $file = $node->ask("SELECT file_id FROM apapacho_payout_export('run-1', '$format', supplement => true)");
        my $bytes = content_of($file);
        my @records = parse_csv(decode('UTF-8', $bytes, Encode::FB_CROAK | Encode::LEAVE_SRC));
        my @payments = $format eq 'csv' ? @records[1 .. $#records] : @records[1 .. $#records - 1];
        my ($total, $hash) = (0, 0);
        my ($bad, $lost) = (0, 0);

        is(scalar @payments, 200, "$format: a record for each payment");
        for my $payment (@payments) {
            my ($payout, $name, $account, $amount) = @{$payment}[$format eq 'csv' ? (1, 4, 8, 9) : (9, 4, 7, 8)];
            my $n = substr($payout, 3);

            $total += $amount;
            $hash += $account;
            $bad++ if $name =~ /^[=+@\x{FF1D}-]|[\x00-\x1f]|^\s|\s$/ || ($format eq 'csv-control' && $name =~ /[^ -~]/);
            $lost++ if lc($name) !~ /ok/ || $account ne "9$n" || $amount != 1000 + $n;
        }
        is($bad, 0, "$format: no formula, control character or margin");
        is($lost, 0, "$format: accounts and amounts are right");
        is($node->ask("SELECT payments, total, hash_total::numeric, sha256 = encode(sha256(content), 'hex') FROM apapacho_payout_file('$file')"),
            join('|', 200, $total, $hash, 't'), "$format: the control totals");
        is_deeply($records[-1], ['T', 200, $total, $hash], 'trailer') if $format eq 'csv-control';
        $node->ask("SELECT apapacho_payout_file_cancel('$file', 'the next format')");
        is(content_of($file), $bytes, "$format: a cancelled file is what it was");
    }
    $node->ask(q{UPDATE "Payout" SET status = 'CANCELLED' WHERE id LIKE 'p-h%'});
};

subtest 'many at once' => sub {
    my (@exports, %seen);

    $node->ask(q{SELECT creator('m' || n, 10000 + n, run => 'run-' || 2 + n % 2) FROM generate_series(1, 1200) AS n});
    my $gate = $node->hold('Creator');
    for my $n (1 .. 12) {
        my $run = (q{'run-2'}, q{'run-3'}, 'NULL')[$n % 3];
        my $format = ('csv', 'csv-control', 'fixed')[$n / 3 % 3];
        push @exports, $node->begin_statement("SELECT file_id FROM apapacho_payout_export($run, '$format')", name => "export$n");
    }
    $node->wait_for(q{SELECT count(*) = 12 FROM pg_stat_activity WHERE application_name LIKE 'export%' AND wait_event_type = 'Lock'}, 'all wait');
    $node->let_go($gate);
    my $errors = '';
    for my $export (@exports) {
        my ($output, $error) = $export->finish;
        $errors .= "$error\n" if $error =~ /ERROR/ && $error !~ /no payout can be paid by a file/;
    }
    is($errors, '', 'nobody fails');
    is($node->ask(q{SELECT count(*), count(DISTINCT payout_id), sum(amount), count(DISTINCT p.status), min(p.status::text) FROM apapacho_jobs.payout_file_item AS i
        JOIN "Payout" AS p ON p.id = i.payout_id WHERE i.live AND payout_id LIKE 'p-m%'}),
        '1200|1200|12720600|1|PENDING', 'each payout is in one live file');
    is($node->ask(q{SELECT count(*), count(DISTINCT "aggregateId") FROM "OutboxEvent" WHERE "eventType" = 'PayoutSubmitted' AND "aggregateId" LIKE 'p-m%'}), '1200|1200',
        'and has one event');
    for my $row (split(/\n/, $node->ask(q{SELECT id, format, payments, total FROM apapacho_jobs.payout_files WHERE status = 'LIVE'}))) {
        my ($file, $format, $payments, $total) = split(/\|/, $row);
        my $text = content_of($file);
        my @found = $text =~ /(?<![a-z])p-m(\d+)/gi; # in fixed columns in capitals, and next to the amount

        $seen{$_}++ for @found;
        is(@found, $payments, "a file of format $format has its $payments payments");
    }
    is(scalar(grep { $_ == 1 } values %seen), 1200, 'each is in the content of one file');
    is($node->ask(q{SELECT count(*) FROM (SELECT format, number, row_number() OVER (PARTITION BY format ORDER BY number) AS n FROM apapacho_jobs.payout_file) AS f
        WHERE number <> n}), '0', 'files are numbered without gaps');
};

subtest 'against cancellations, refunds, rollbacks, a crash' => sub {
    $node->ask(q{SELECT creator('c' || n, 20000, run => 'run-4') FROM generate_series(1, 5) AS n});
    my $other = $node->background_psql('postgres', timeout => 2 * $PostgreSQL::Test::Utils::timeout_default);
    $other->query_safe(q{BEGIN; SELECT apapacho_payout_mark_cancelled('p-c1', 'changed my mind'); UPDATE "Payout" SET "payoutAmount" = 1 WHERE id = 'p-c2'});
    my $export = $node->begin_statement(q{SELECT payments, total, left_out FROM apapacho_payout_export('run-4', 'csv')}, name => 'export');
    wait_for_lock('export');
    $other->query_safe('COMMIT');
    my ($output, $error) = $export->finish;
    is($output, '3|60000|1', 'what changed while the export waited is left out');
    like($error, qr/WARNING: .*1 payouts were left out/, 'and told');
    is($node->ask(q{SELECT payout_id, reason FROM apapacho_jobs.payout_file_left_out WHERE payout_id LIKE 'p-c%'}), 'p-c2|MISMATCH', 'with the reason');

    $node->ask(q{SELECT creator('d' || n, 20000, run => 'run-5') FROM generate_series(1, 5) AS n});
    my $position = $node->ask(q{SELECT max(number) FROM apapacho_jobs.payout_file WHERE format = 'csv'});
    $other->query_safe(q{BEGIN; SELECT FROM apapacho_payout_export('run-5', 'csv')});
    $export = $node->begin_statement(q{SELECT number, payments FROM apapacho_payout_export('run-5', 'csv')}, name => 'export');
    wait_for_lock('export');
    $other->query_safe('ROLLBACK');
    ($output) = $export->finish;
    is($output, $position + 1 . '|5', 'a file that was rolled back never was');

    $node->ask(q{SELECT creator('e' || n, 20000, run => 'run-6') FROM generate_series(1, 5) AS n});
    my $pid = $other->query_safe('SELECT pg_backend_pid()');
    $other->query_safe(q{BEGIN; SELECT FROM apapacho_payout_export('run-6', 'csv')});
    $node->kill_hard($pid);
    $other->{run}->finish;
    is($node->ask(q{SELECT count(*) FROM "Payout" AS p LEFT JOIN apapacho_jobs.payout_file_item AS i ON i.payout_id = p.id WHERE p.id LIKE 'p-e%' AND p.status = 'CALCULATED'
        AND i.payout_id IS NULL}), '5', 'a crash before the commit leaves nothing');
    is($node->ask(q{SELECT number, payments FROM apapacho_payout_export('run-6', 'csv')}), $position + 2 . '|5', 'and the next export makes the file');
};

subtest 'as whom the SQL runs' => sub {
    $node->ask(q{
        CREATE ROLE tables_owner LOGIN; CREATE ROLE accounts_owner; CREATE ROLE treasurer LOGIN;
        GRANT USAGE, CREATE ON SCHEMA public TO tables_owner, accounts_owner;
        ALTER TABLE "Payout" OWNER TO tables_owner; ALTER TABLE "CreatorBankAccount" OWNER TO accounts_owner;
        ALTER TABLE "OutboxEvent" OWNER TO tables_owner; ALTER TABLE "PayoutItem" OWNER TO tables_owner; ALTER TABLE "Transaction" OWNER TO tables_owner;
        ALTER TABLE "Creator" OWNER TO tables_owner; ALTER TABLE "LedgerEntry" OWNER TO tables_owner; ALTER TABLE "LedgerAccount" OWNER TO tables_owner;
        GRANT SELECT ON "Creator" TO accounts_owner; GRANT REFERENCES ON "Creator" TO accounts_owner;
        GRANT EXECUTE ON FUNCTION apapacho_payout_export, apapacho_payout_export_check, apapacho_payout_file, apapacho_payout_file_cancel,
            apapacho_payout_file_mark_sent TO treasurer;
        CREATE TABLE trap (who text, what text); GRANT ALL ON trap TO PUBLIC;
        CREATE FUNCTION trap_update() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.trap VALUES (current_user, TG_TABLE_NAME); RETURN NEW; END $$;
        CREATE TRIGGER trap AFTER INSERT OR UPDATE ON "Payout" FOR EACH ROW EXECUTE FUNCTION trap_update();
        CREATE TRIGGER trap AFTER INSERT ON "OutboxEvent" FOR EACH ROW EXECUTE FUNCTION trap_update();
        CREATE FUNCTION trap_index(value text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
            IF current_user NOT IN ('accounts_owner', 'tables_owner', 'postgres') OR
                (current_user = 'postgres' AND current_setting('application_name') = 'trapped') THEN RAISE 'ran as %', current_user; END IF; RETURN value; END $$;
        CREATE INDEX trap1 ON "CreatorBankAccount" ((trap_index('run while planning')));
        CREATE INDEX trap2 ON "Payout" ((trap_index('run while planning')))});
    like($node->error_of(q{SELECT apapacho_payout_export('run-7', 'csv')}), qr/55000: payouts are not guarded/, 'no file without guards');
    $node->ask(q{SELECT FROM apapacho_payout_install_guards();
        SELECT creator('f' || n, 20000, run => 'run-7') FROM generate_series(1, 2) AS n;
        DELETE FROM trap});
    my $as = "SET application_name = 'trapped';";
    is($node->ask("$as SELECT count(*) FROM apapacho_payout_export_check('run-7', 'csv') WHERE ready", role => 'treasurer'), '2', 'a role with EXECUTE alone looks');
    my $file = $node->ask("$as SELECT file_id FROM apapacho_payout_export('run-7', 'csv')", role => 'treasurer');
    like(content_of($file, role => 'treasurer'), qr/;p-f1;.*;p-f2;/s, 'makes a file and reads it');
    $node->ask("$as SELECT apapacho_payout_file_mark_sent('$file', 'B')", role => 'treasurer');
    is($node->ask('SELECT DISTINCT who FROM trap'), 'tables_owner', 'triggers run as the owner of the table');
    is($node->ask(qq{SELECT status, count(*), string_agg("providerTransferId", ' ' ORDER BY id) FROM "Payout" WHERE id LIKE 'p-f%' GROUP BY 1}), 'SENT|2|B/1 B/2',
        'and reports it');
    like($node->error_of('SELECT content FROM apapacho_jobs.payout_file', role => 'treasurer'), qr/42501: permission denied/, 'the table is not his');
    like($node->error_of('SELECT content FROM apapacho_jobs.payout_file', role => 'tables_owner'), qr/42501: permission denied/, 'nor the owner of the payouts\'');

    $node->ask(q{CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
        SELECT creator('g1', 20000, run => 'run-8');
        CREATE TRIGGER swallow BEFORE UPDATE ON "Payout" FOR EACH ROW EXECUTE FUNCTION swallow()});
    like($node->error_of(q{SELECT apapacho_payout_export('run-8', 'csv')}), qr/09000: payouts could not be changed/, 'a trigger that swallows the change stops the file');
    is($node->ask(q{SELECT count(*) FROM apapacho_jobs.payout_file WHERE run_id = 'run-8'}), '0', 'there is none then');
    $node->ask('DROP TRIGGER swallow ON "Payout"');
};

subtest 'a dump has the files and the formats' => sub {
    $node->ask(q{SELECT apapacho_jobs.payout_format_copy('csv-control', 'mine'); INSERT INTO apapacho_jobs.payout_format_code VALUES ('mine', 'bank_code', '012', '12')});
    $node->safe_psql('postgres', 'CREATE DATABASE restored');
    my ($output, $error);
    IPC::Run::run([$node->installed_command('pg_dump'), '-d', $node->connstr('postgres')], '|',
        [$node->installed_command('psql'), '-Xq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('restored')], '>', \$output, '2>', \$error)
        or diag($error);
    my $all = q{SELECT f.*, (SELECT count(*) FROM apapacho_jobs.payout_file_item AS i WHERE i.file_id = f.id AND i.live) FROM apapacho_jobs.payout_file AS f ORDER BY id};
    is($node->ask($all, database => 'restored'), $node->ask($all), 'files and what is in them');
    is($node->ask(q{SELECT count(*) FROM apapacho_payout_export('run-5', 'csv') WHERE content IS NOT NULL}, database => 'restored'), '1', 'made again there: the same file');
    my $formats = q{SELECT to_jsonb(c) FROM apapacho_jobs.payout_format_column AS c ORDER BY 1};
    is($node->ask($formats, database => 'restored'), $node->ask($formats), 'formats');
    is($node->ask('SELECT code FROM apapacho_jobs.payout_format_code', database => 'restored'), '12', 'codes');
    my $parts = q{SELECT count(*) FROM (SELECT format FROM apapacho_jobs.payout_format_column UNION ALL SELECT format FROM apapacho_jobs.payout_format_code) AS p WHERE format = '%s'};
    $node->ask(q{UPDATE apapacho_jobs.payout_format SET name = 'ours' WHERE name = 'mine'}, database => 'restored');
    is($node->ask(sprintf($parts, 'ours'), database => 'restored'), $node->ask(sprintf($parts, 'mine')), 'columns and codes are renamed with a format');
    $node->ask(q{DELETE FROM apapacho_jobs.payout_format WHERE name = 'ours'}, database => 'restored');
    is($node->ask(sprintf($parts, 'ours'), database => 'restored'), '0', 'and deleted');
};

subtest 'databases of other encodings' => sub {
    for my $encoding ('LATIN1', 'SQL_ASCII') {
        my $database = lc($encoding);
        $node->safe_psql('postgres', "CREATE DATABASE $database TEMPLATE template0 ENCODING '$encoding' LC_COLLATE 'C' LC_CTYPE 'C'");
        $node->install($database);
        $node->load_tables('fixture', $database);
        $node->ask($creator, database => $database);
        my $holder = $encoding eq 'LATIN1' ? q{convert_from('\xc391616e64c3ba'::bytea, 'UTF8')} : q{'Nandu'};
        $node->ask("SELECT creator('x1', 20000, $holder)", database => $database);
        my $file = $node->ask(q{SELECT file_id FROM apapacho_payout_export('run-1', 'csv')}, database => $database);
        my $name = $encoding eq 'LATIN1' ? "\x{d1}and\x{fa}" : 'Nandu';
        like(decode('UTF-8', content_of($file, database => $database)), qr/;12345678-5;$name;012;/, "$encoding: a file in UTF8");
        $node->ask("SELECT apapacho_payout_file_cancel('$file', 'other format')", database => $database);
        $file = $node->ask(q{SELECT file_id FROM apapacho_payout_export('run-1', 'fixed')}, database => $database);
        like(content_of($file, database => $database), qr/123456785NANDU  .*\r\n/, "$encoding: without accents");
    }
};

$node->stop;
done_testing();
