# 037_payout_poison.pl: a hundred creators whom something of the user's keeps from being paid, among a thousand; dumps that are restored; an
# extension that is dropped and leaves the tables as they were.
use strict;
use warnings;

use Apapacho;
use JSON::PP ();
use PayoutWorld;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $node = Apapacho->create('main', extension => 0, tables => 'fixture', settings => { 'apapacho_jobs.payout_batch_size' => 37 });
my $world = PayoutWorld->new($node);
my $creators = 1000;

sub ask { return $world->ask(@_); }

sub schema_of {
    my ($database) = @_;
    my ($output, $errors) = run_command(['pg_dump', '--schema-only', '--no-comments', $node->connstr($database // 'postgres')]);
    is($errors, '', 'the schema is dumped');
    $output =~ s/^\\(?:un)?restrict .*\n//mg;
    return $output;
}

sub tables_of {
    my ($database) = @_;
    return $node->ask(q{SELECT md5(string_agg(t::text, '|' ORDER BY t::text)) FROM (
        } . join(' UNION ALL ', map { qq{SELECT '$_', x::text FROM "$_" AS x} }
            qw(Creator FeeSchedule Transaction Payout PayoutItem LedgerAccount LedgerEntry OutboxEvent Chargeback)) . ') AS t', database => $database);
}

my $schema = schema_of();
ask('CREATE EXTENSION apapacho_jobs');
$world->set_up;
$node->wait_for_scheduler;

# What keeps them, and what is to be said of it: [how many, SQLSTATE, message].
my %poison = (
    trigger => [20, 'P0001', qr/^not this one$/],
    condition => [15, 'ZZ001', qr/^a condition of our own$/],
    item => [20, '23514', qr/"PayoutItem".*violates check constraint "no_thirteen"/],
    event => [15, '22012', qr/^division by zero$/],
    deferred => [10, 'P0002', qr/^too late$/],
    skipped => [10, '09000|23503', qr/./],
    overflow => [10, '22003', qr/./]);

subtest 'a hundred among a thousand' => sub {
    my @names = map { my $kind = $_; ($kind) x $poison{$kind}[0] } sort keys %poison;
    my $total = @names;
    is($total, 100, 'a hundred are poisoned');
    ask(qq{INSERT INTO "FeeSchedule" (id, "effectiveFrom") VALUES ('first', '2020-01-01');
        CREATE TABLE poisoned (creator text PRIMARY KEY, kind text NOT NULL);
        INSERT INTO "Creator" (id, "userId", "updatedAt") SELECT md5(n::text), n, now() FROM generate_series(1, $creators) AS n;
        INSERT INTO poisoned SELECT id, kind FROM (SELECT id, row_number() OVER (ORDER BY id DESC) AS n FROM "Creator" WHERE id < '8') AS c
            JOIN unnest('{@{[join(',', @names)]}}'::text[]) WITH ORDINALITY AS p (kind, n) USING (n);
        INSERT INTO "Transaction" (id, "creatorId", "fanUserId", "productType", "grossAmount", "appliedFeeScheduleId", "appliedPlatformFeeBps",
            "platformFeeAmount", "creatorPayableAmount", "occurredAt", provider, "providerPaymentId", "providerEventId")
        SELECT c.id || n, c.id, 'fan', 'TIP', a, 'first', 0, 0, a, (now() AT TIME ZONE 'UTC') - interval '9 days', 'test', 'payment', c.id || n
        FROM "Creator" AS c LEFT JOIN poisoned AS p ON p.creator = c.id, generate_series(1, 3) AS n,
            LATERAL (SELECT CASE WHEN p.kind = 'item' AND n = 2 THEN 13013 WHEN p.kind = 'overflow' THEN 9000000000000000000 ELSE 15000 + n END AS a) AS a;
        CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS \$\$
        DECLARE whom text := CASE TG_TABLE_NAME WHEN 'Payout' THEN to_jsonb(NEW) ->> 'creatorId' ELSE to_jsonb(NEW) #>> '{payload,payout,creatorId}' END;
            kind text := (SELECT p.kind FROM public.poisoned AS p WHERE p.creator = whom);
        BEGIN
            IF kind = 'trigger' AND TG_NAME = 'poison' THEN RAISE EXCEPTION 'not this one'; END IF;
            IF kind = 'condition' AND TG_NAME = 'poison' THEN RAISE EXCEPTION 'a condition of our own' USING ERRCODE = 'ZZ001'; END IF;
            IF kind = 'event' AND TG_TABLE_NAME = 'OutboxEvent' THEN PERFORM 1 / 0; END IF;
            IF kind = 'deferred' AND TG_NAME = 'poison_late' THEN RAISE EXCEPTION 'too late' USING ERRCODE = 'no_data_found'; END IF;
            IF kind = 'skipped' AND TG_NAME = 'poison' THEN RETURN NULL; END IF;
            RETURN NEW;
        END \$\$;
        CREATE TRIGGER poison BEFORE INSERT ON "Payout" FOR EACH ROW EXECUTE FUNCTION poison();
        CREATE TRIGGER poison_event BEFORE INSERT ON "OutboxEvent" FOR EACH ROW EXECUTE FUNCTION poison();
        CREATE CONSTRAINT TRIGGER poison_late AFTER INSERT ON "Payout" DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION poison();
        ALTER TABLE "PayoutItem" ADD CONSTRAINT no_thirteen CHECK (amount <> 13013)});
    is(ask('SELECT count(*) FROM poisoned'), 100, 'they are among the others');

    my $errors = 100;
    for my $attempt (1, 2) {
        my $figures = JSON::PP::decode_json(ask('SELECT apapacho_payout_run()'));
        is("$figures->{created} $figures->{skipped} $figures->{errors}", ($attempt == 1 ? $creators - 100 : 0) . " 0 100", "run $attempt: the figures")
            or diag(JSON::PP->new->canonical->encode($figures));
        my %found;
        for my $line (split(/\n/, ask("SELECT kind, reason, sqlstate, replace(message, E'\\n', ' ') FROM apapacho_jobs.payout_not_paid
                LEFT JOIN poisoned ON creator = creator_id WHERE run_id = '$figures->{payoutRun}'"))) {
            my ($kind, $reason, $state, $message) = split(/\|/, $line, 4);
            my $expected = $poison{$kind} // ['', '', qr/^$/];
            my $is_right = $reason eq 'ERROR' && $state =~ /^(?:$expected->[1])$/ && $message =~ $expected->[2];
            $found{ $is_right ? $kind : "$kind $reason $state $message" }++;
        }
        is_deeply(\%found, { map { $_ => $poison{$_}[0] } keys %poison }, "run $attempt: each with its reason and SQLSTATE")
            or diag(JSON::PP->new->canonical->encode(\%found));
        is(ask(q{SELECT count(*), sum("payoutAmount"), count(DISTINCT "creatorId"), count(*) FILTER (WHERE creator IS NOT NULL)
            FROM "Payout" LEFT JOIN poisoned ON creator = "creatorId" WHERE status = 'CALCULATED'}),
            join('|', $creators - 100, ($creators - 100) * 45_006, $creators - 100, 0), "run $attempt: all others are paid, once");
        is(join("\n", $world->contradictions), '', 'nothing of the others is left behind');
        is(ask(q{SELECT count(*) FROM "OutboxEvent" WHERE "aggregateType" = 'Payout'}), $creators - 100, 'nor in the outbox');
    }
    is(ask('SELECT kind, detail FROM apapacho_payout_reconcile()'), '', 'nothing to reconcile');

    # once they are no longer kept from it they are paid
    ask(q{DROP TRIGGER poison ON "Payout"; DROP TRIGGER poison_late ON "Payout"; DROP TRIGGER poison_event ON "OutboxEvent"; ALTER TABLE "PayoutItem" DROP CONSTRAINT no_thirteen});
    my $figures = JSON::PP::decode_json(ask('SELECT apapacho_payout_run()'));
    is("$figures->{created} $figures->{skipped} $figures->{errors}", '90 0 10', 'the same creators when they are let');
    ask(q{UPDATE "Transaction" SET "creatorPayableAmount" = 20000, "grossAmount" = 20000 WHERE "creatorPayableAmount" > 1000000});
    $figures = JSON::PP::decode_json(ask('SELECT apapacho_payout_run()'));
    is("$figures->{created} $figures->{skipped} $figures->{errors}", '10 0 0', 'and all of them in the end');
    ask('DROP FUNCTION poison; DROP TABLE poisoned');
};

# Payouts in all states, adjustments that are carried and that are open.
sub make_history {
    ask(q{SELECT apapacho_payout_mark_sent(id, 'transfer ' || id) FROM "Payout" WHERE "creatorId" < '4';
        SELECT apapacho_payout_mark_failed(id, 'no', 'a report') FROM "Payout" WHERE "creatorId" > '4' AND "creatorId" < '5';
        SELECT apapacho_payout_mark_cancelled(id, 'why') FROM "Payout" WHERE "creatorId" > '5' AND "creatorId" < '51';
        UPDATE "Transaction" SET status = 'REFUNDED' WHERE id LIKE '1%1';
        UPDATE "Transaction" SET status = 'CHARGEDBACK' WHERE id LIKE '2%2';
        INSERT INTO "Transaction" (id, "creatorId", "fanUserId", "productType", "grossAmount", "appliedFeeScheduleId", "appliedPlatformFeeBps",
            "platformFeeAmount", "creatorPayableAmount", "occurredAt", provider, "providerPaymentId", "providerEventId")
        SELECT c.id || 'more', c.id, 'fan', 'TIP', 60000, 'first', 0, 0, 60000, (now() AT TIME ZONE 'UTC') - interval '8 days', 'test', 'payment', c.id || 'more'
        FROM "Creator" AS c WHERE id < '18';
        SELECT apapacho_payout_adjust(id, 777, 'for its trouble') FROM "Creator" WHERE id LIKE '3%';
        SELECT apapacho_payout_run(forced => true);
        UPDATE "Transaction" SET status = 'REFUNDED' WHERE id LIKE '2%3'});
    return;
}

subtest 'dump and restore' => sub {
    my @ways = (
        ['plain', sub {
            my ($database) = @_;
            my $file = $node->basedir . '/dump.sql';
            $node->command_ok(['pg_dump', '--file', $file, $node->connstr('postgres')], 'pg_dump');
            $node->command_ok(['psql', '-X', '-q', '-o', $node->basedir . '/restore.out', '-v', 'ON_ERROR_STOP=1', '-f', $file, $node->connstr($database)], 'psql');
        }],
        ['custom', sub {
            my ($database) = @_;
            my $file = $node->basedir . '/dump.custom';
            $node->command_ok(['pg_dump', '--format=custom', '--file', $file, $node->connstr('postgres')], 'pg_dump');
            $node->command_ok(['pg_restore', '--exit-on-error', '--jobs=2', '-d', $node->connstr($database), $file], 'pg_restore');
        }]);

    is(ask(q{SELECT string_agg(conname, ' ') FROM pg_constraint WHERE contype = 'f' AND connamespace = 'apapacho_jobs'::regnamespace}), '',
        'no order in which the tables of the extension must be loaded: pg_restore --jobs knows none');
    make_history();
    my $facts = $world->facts;
    cmp_ok(ask('SELECT count(*) FROM apapacho_jobs.payout_adjustment WHERE payout_id IS NULL'), '>', 10, 'there are open adjustments');
    cmp_ok(ask('SELECT count(*) FROM apapacho_jobs.payout_adjustment WHERE payout_id IS NOT NULL'), '>', 10, 'and some that are carried');
    my %paid;
    for my $way (@ways) {
        my ($database, $restore) = @{$way};
        ask("CREATE DATABASE $database");
        $restore->($database);
        my $restored = PayoutWorld->new($node, database => $database);
        is(join("\n", PayoutWorld::compare($database, $facts, $restored->facts)), '', "$database: all is there");
        is(join("\n", $restored->contradictions), '', "$database: nothing contradicts itself");
        is($restored->ask(q{SELECT kind, detail FROM apapacho_payout_reconcile() WHERE kind NOT IN ('REVERSAL', 'REVERSED_ITEM')}), '', "$database: nothing to reconcile");
        is($restored->ask(q{SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'apapacho%' AND tgenabled = 'A'}),
            ask(q{SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'apapacho%' AND NOT tgisinternal}), "$database: the guards are there");
        is($restored->try(q{INSERT INTO "PayoutItem" (id, "payoutId", "transactionId", amount) SELECT 'x', p.id, i."transactionId", 1 FROM "PayoutItem" AS i, "Payout" AS p
            WHERE p.status = 'CALCULATED' AND i."payoutId" = (SELECT id FROM "Payout" WHERE status = 'SENT' LIMIT 1) LIMIT 1})->{state}, '23505', "$database: they keep from double pay");
        is($restored->try(q{DELETE FROM "Payout" WHERE status = 'SENT'})->{state}, '55000', "$database: and from deleting what was sent");
        $node->wait_for_scheduler($database);
        $restored->ask('SELECT apapacho_payout_run(forced => true)');
        $paid{$database} = $restored->ask(q{SELECT "creatorId", status, "payoutAmount", "adjustmentsTotal" FROM "Payout" ORDER BY 1, 2, 3})
            . $restored->ask('SELECT * FROM apapacho_jobs.payout_balance ORDER BY 1' =~ s/\*/creator_id, balance/r);
        is($restored->ask('SELECT kind, detail FROM apapacho_payout_reconcile()'), '', "$database: nothing to reconcile after a run");
        $restored->{session}->close;
    }
    ask('SELECT apapacho_payout_run(forced => true)');
    $paid{postgres} = ask(q{SELECT "creatorId", status, "payoutAmount", "adjustmentsTotal" FROM "Payout" ORDER BY 1, 2, 3})
        . ask('SELECT creator_id, balance FROM apapacho_jobs.payout_balance ORDER BY 1');
    is(join("\n", PayoutWorld::compare($_, $paid{postgres}, $paid{$_})), '', "$_: the next run pays the same") for qw(plain custom);
};

subtest 'DROP EXTENSION' => sub {
    my $tables = tables_of();
    cmp_ok(ask('SELECT count(*) FROM "Payout"'), '>', 1000, 'there is something to lose');
    $world->{session}->close;
    $node->ask('DROP EXTENSION apapacho_jobs');
    is(tables_of(), $tables, q{the user's rows are what they were});
    is(schema_of(), $schema, 'and so is the schema');
    is($node->error_of(q{DELETE FROM "PayoutItem"; DELETE FROM "Payout"}), '', 'nothing guards them');
    # and back: what is there is guarded again
    $node->ask('CREATE EXTENSION apapacho_jobs');
    is($node->ask(q{SELECT count(*) > 0 FROM pg_trigger WHERE tgname LIKE 'apapacho%'}), 't', 'installed again, with guards');
};

$node->stop;
done_testing();
