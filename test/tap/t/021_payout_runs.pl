# 021_payout_runs.pl: payouts on the backend's tables as they are in a user's database: in a schema of their own, owned by an
# ordinary role, with triggers and constraints, refunds and fee schedules that change, and money that is large.
use strict;
use warnings;

use Apapacho;
use File::Basename qw(dirname);
use JSON::PP ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $schema = 'Tienda "Sur"';
my $quoted = '"Tienda ""Sur"""';
my $node = Apapacho->create('main', settings => {
    'apapacho_jobs.schema' => $schema,
    'apapacho_jobs.payout_batch_size' => 50 });
my $hour = 3600;
my $day = 24 * $hour;

# A statement of the shop's: not a superuser, in its schema.
sub shop {
    my ($sql) = @_;
    return $node->ask("SET search_path = $quoted, public; $sql", role => 'shop');
}

sub set_up {
    $node->ask(qq{CREATE ROLE shop LOGIN; CREATE ROLE clerk LOGIN;
        CREATE SCHEMA $quoted AUTHORIZATION shop;
        GRANT EXECUTE ON FUNCTION apapacho_run_job(text, boolean), apapacho_payout_create(text, boolean), apapacho_payout_eligibility(text),
            apapacho_payout_mark_sent(text, text), apapacho_payout_mark_failed(text, text, text, boolean), apapacho_payout_pending_retry() TO clerk});
    shop(slurp_file(dirname(__FILE__) . '/../../fixtures/backend_tables.sql'));
    shop(q{CREATE FUNCTION utc_now() RETURNS timestamp LANGUAGE sql AS $$ SELECT clock_timestamp() AT TIME ZONE 'UTC' $$});
    $node->wait_for_scheduler;
    return;
}

# Empty tables, and the schedule of before.
sub start_over {
    shop(q{ALTER TABLE "Payout" DISABLE TRIGGER USER; ALTER TABLE "PayoutItem" DISABLE TRIGGER USER;
        TRUNCATE "OutboxEvent", "PayoutItem", "Payout", "Transaction", "Creator", "FeeSchedule" CASCADE;
        INSERT INTO "FeeSchedule" (id, "effectiveFrom") VALUES ('first', '2020-01-01')});
    $node->ask('SELECT apapacho_payout_install_guards()');
    return;
}

sub creators {
    my ($status, @ids) = @_;
    shop(sprintf(q{INSERT INTO "Creator" (id, "userId", status, "updatedAt") VALUES %s},
            join(', ', map { "('$_', 'user of $_', '$status', utc_now())" } @ids)));
    return;
}

# Transactions: [creator, id, creatorPayableAmount, seconds ago].
sub sell {
    shop(join("\n", map { sprintf(q{INSERT INTO "Transaction" (id, "creatorId", "fanUserId", "productType", "grossAmount",
            "appliedFeeScheduleId", "appliedPlatformFeeBps", "platformFeeAmount", "creatorPayableAmount", "occurredAt", provider,
            "providerPaymentId", "providerEventId") VALUES ('%2$s', '%1$s', 'fan', 'PPV', %3$s, 'first', 0, 0, %3$s,
            utc_now() - make_interval(secs => %4$s), 'test', 'payment', '%2$s');}, @{$_}) } @_));
    return;
}

# What is paid: creator, amount and transactions of each live payout, in the order of creators.
sub paid {
    return shop(q{SELECT p."creatorId" || ' ' || p."payoutAmount" || ': ' || string_agg(i."transactionId", ' ' ORDER BY i."transactionId")
        FROM "Payout" AS p JOIN "PayoutItem" AS i ON i."payoutId" = p.id WHERE p.status IN ('CALCULATED', 'PENDING', 'SENT')
        GROUP BY p.id ORDER BY p."creatorId", p.id});
}

sub run_payout { return figures($node->run_job('payout')); }

sub figures {
    my ($answer) = @_;
    return join(' ', map { $answer->{$_} } qw(created skipped errors));
}

sub mark {
    my ($what, $payout, $detail) = @_;
    return JSON::PP::decode_json($node->ask("SELECT apapacho_payout_mark_$what('$payout', '$detail')", role => 'clerk'));
}

set_up();

subtest 'from calculation to transfer, by a role that was granted the functions' => sub {
    start_over();
    creators('ACTIVE', 'ana');
    sell(['ana', 'a1', 30_000, 10 * $day]);
    shop(q{CREATE TABLE seen (role name, superuser boolean);
        CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO "Tienda ""Sur""".seen SELECT rolname, rolsuper FROM pg_roles WHERE rolname = current_user;
            RETURN NEW; END $$;
        CREATE TRIGGER see BEFORE INSERT OR UPDATE ON "Payout" FOR EACH ROW EXECUTE FUNCTION see();
        CREATE TRIGGER see BEFORE INSERT ON "PayoutItem" FOR EACH ROW EXECUTE FUNCTION see();
        CREATE TRIGGER see BEFORE INSERT ON "OutboxEvent" FOR EACH ROW EXECUTE FUNCTION see()});

    is(figures($node->run_job('payout', role => 'clerk')), '1 0 0', 'calculated');
    my $payout = shop('SELECT id FROM "Payout"');
    for my $failure (1 .. 2) {
        my $state = mark('failed', $payout, "failure $failure");
        is("@{$state}{qw(status retryCount failureReason)}", "PENDING $failure failure $failure", "failed: $failure");
        is($node->run_job('retry', role => 'clerk')->{requested}, 0, 'not due yet');
        shop(q{UPDATE "Payout" SET "nextRetryAt" = "nextRetryAt" - interval '1 day'});
        is($node->ask('SELECT id, retry_count FROM apapacho_payout_pending_retry()', role => 'clerk'), "$payout|$failure", 'due');
        is($node->run_job('retry', role => 'clerk')->{requested}, 1, 'requested');
        is($node->run_job('retry', role => 'clerk')->{requested}, 0, 'once');
    }
    is(run_payout(), '0 0 0', 'what is pending is not paid again');
    is(mark('failed', $payout, 'failure 3')->{status}, 'FAILED', 'the third failure is final');
    like($node->error_of("SELECT apapacho_payout_mark_sent('$payout', 'T0')", role => 'clerk'), qr/ERROR:  55000: .* is FAILED/, 'and it is');

    is(run_payout(), '1 0 0', 'what it held is paid by another');
    my $second = shop(qq{SELECT id FROM "Payout" WHERE id <> '$payout'});
    is(mark('sent', $second, 'T1')->{status}, 'SENT', 'sent');
    is(run_payout(), '0 0 0', 'and paid for good');
    is(shop(q{SELECT string_agg("eventType", ' ' ORDER BY id) FROM "OutboxEvent" WHERE "aggregateType" = 'Payout'}),
        'PayoutCalculated PayoutFailed PayoutRetryRequested PayoutFailed PayoutRetryRequested PayoutFailed PayoutCalculated PayoutSent',
        'each step is an event');
    is(shop(q{SELECT DISTINCT role, superuser FROM seen}), 'shop|f', "triggers have the owner's rights, never more");
    shop('DROP FUNCTION see() CASCADE; DROP TABLE seen');
};

subtest "the seed's audit query" => sub {
    my $audit = q{SELECT * FROM "OutboxEvent"
WHERE "eventType" = 'PayoutCalculationJobCompleted'
ORDER BY "createdAt" DESC;};
    my @rows = split(/\n/, shop($audit));

    is(scalar(@rows), 4, 'a row for each run');
    like($rows[0], qr/^[-0-9a-f]{36}\|System\|payout-calculation-job\|PayoutCalculationJobCompleted\|\{.*"result": \{"errors": 0, "created": 0, "skipped": 0\}/,
        'the latest first');
    like($rows[-1], qr/"created": 1/, 'the first last');
};

subtest 'a hundred creators of two thousand cannot be paid' => sub {
    start_over();
    shop(q{INSERT INTO "Creator" (id, "userId", "updatedAt")
            SELECT CASE WHEN n % 20 = 7 THEN (ARRAY['trigger', 'check', 'overflow', 'deferred', 'event'])[1 + n / 20 % 5] || n
                ELSE md5(n::text) || (ARRAY['', ' ñandú', '''quoted''', '"quoted"', E'\\\\\n'])[1 + n % 5] END,
            n::text, utc_now() FROM generate_series(1, 2000) AS n;
        INSERT INTO "Transaction" (id, "creatorId", "fanUserId", "productType", "grossAmount", "appliedFeeScheduleId",
                "appliedPlatformFeeBps", "platformFeeAmount", "creatorPayableAmount", "occurredAt", provider, "providerPaymentId", "providerEventId")
            SELECT c.id || k, c.id, 'fan', 'TIP', a.amount, 'first', 0, 0, a.amount, utc_now() - interval '8 days', 'test', 'p', c.id || k
            FROM "Creator" AS c CROSS JOIN generate_series(1, 3) AS k CROSS JOIN LATERAL
                (SELECT CASE WHEN c.id LIKE 'overflow%' THEN 9223372036854775807 ELSE 10000 + k END AS amount) AS a;
        ALTER TABLE "Payout" ADD CONSTRAINT no_check CHECK ("creatorId" NOT LIKE 'check%');
        CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            CASE TG_ARGV[0]
                WHEN 'trigger' THEN RAISE EXCEPTION 'no payout for %', NEW."creatorId" USING ERRCODE = 'ZX001';
                WHEN 'deferred' THEN RAISE EXCEPTION 'no item %', NEW."transactionId";
                WHEN 'event' THEN PERFORM 1 / 0;
            END CASE; RETURN NEW; END $$;
        CREATE TRIGGER no BEFORE INSERT ON "Payout" FOR EACH ROW WHEN (NEW."creatorId" LIKE 'trigger%') EXECUTE FUNCTION no('trigger');
        CREATE CONSTRAINT TRIGGER no AFTER INSERT ON "PayoutItem" DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
            WHEN (NEW."transactionId" LIKE 'deferred%') EXECUTE FUNCTION no('deferred');
        CREATE TRIGGER no AFTER INSERT ON "OutboxEvent" FOR EACH ROW
            WHEN (NEW.payload #>> '{payout,creatorId}' LIKE 'event%') EXECUTE FUNCTION no('event')});
    my $position = $node->log_position;
    my $began = time();

    is(run_payout(), '1900 0 100', 'the figures');
    diag(sprintf('100 errors in %.1f s', time() - $began));
    is(shop(q{SELECT count(*), count(DISTINCT "creatorId"), sum("payoutAmount"), count(*) FILTER (WHERE "creatorId" ~ '^(tri|che|ove|def|eve)')
        FROM "Payout"}), '1900|1900|' . 1900 * 30_006 . '|0', 'all others are paid');
    is(shop(q{SELECT (SELECT count(*) FROM "PayoutItem"), (SELECT count(*) FROM "OutboxEvent" WHERE "aggregateType" = 'Payout')}),
        '5700|1900', 'nothing is left of the failed');
    my %warned;
    my $log = $node->log_since($position);
    $warned{$1}++ while $log =~ /WARNING:  could not calculate the payout of creator "([^"]+)"/g;
    my %failing = map { $_ => 1 } split(/\n/, shop(q{SELECT id FROM "Creator" WHERE id ~ '^(trigger|check|overflow|deferred|event)\d'}));
    is_deeply(\%warned, \%failing, 'the log names each of them once');

    shop(q{ALTER TABLE "Payout" DROP CONSTRAINT no_check; DROP FUNCTION no() CASCADE; UPDATE "Transaction" SET "creatorPayableAmount" = 10000,
        "grossAmount" = 10000 WHERE id LIKE 'overflow%'});
    is(run_payout(), '100 0 0', 'they are paid when the cause is gone');
};

subtest 'errors that are nobody\'s in particular end the run, what is paid stays' => sub {
    start_over();
    creators('ACTIVE', map { sprintf('c%03d', $_) } 1 .. 120);
    sell(map { my $id = sprintf('c%03d', $_); [$id, "t$id", 20_000, 8 * $day] } 1 .. 120);
    shop(q{CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'disk full' USING ERRCODE = 'disk_full'; END $$;
        CREATE TRIGGER no BEFORE INSERT ON "Payout" FOR EACH ROW WHEN (NEW."creatorId" = 'c060') EXECUTE FUNCTION no()});
    like($node->error_of(q{SELECT apapacho_run_job('payout')}), qr/ERROR:  53100: disk full/, 'the error');
    is(shop('SELECT count(*) FROM "Payout"'), '50', 'the first batch is paid');
    shop('DROP FUNCTION no() CASCADE');
    is(run_payout(), '70 0 0', 'a further run goes on from there');
};

subtest 'two calculations never run at once' => sub {
    start_over();
    creators('ACTIVE', 'ana', 'eva');
    sell(['ana', 'a1', 30_000, 10 * $day], ['eva', 'e1', 30_000, 10 * $day]);
    my $buyer = $node->background_psql('postgres', on_error_stop => 0);
    $buyer->query_safe(qq{BEGIN; SELECT id FROM $quoted."Transaction" WHERE id = 'e1' FOR UPDATE});

    my @runs = map { $node->run_job('payout', wait => 0)->{runId} } 1 .. 3;
    $node->wait_for_blocked_worker('payout');
    my $waiting = $node->begin_statement(q{SELECT apapacho_run_job('payoutCalculation')});
    is($node->ask(q{SELECT string_agg(status, ' ') FROM apapacho_jobs.run WHERE status IN ('running', 'queued')}), 'running', 'one is at work');
    like($node->error_of(q{SELECT apapacho_payout_create('ana')}), qr/ERROR:  55006: another payout calculation is running/,
        'nor does one in a session');
    $node->let_go($buyer);
    is(figures(JSON::PP::decode_json(($waiting->finish)[0])), '0 0 0', 'the next has nothing left to do');
    is(paid(), "ana 30000: a1\neva 30000: e1", 'both are paid once');
    is($node->ask(q{SELECT count(*) FROM apapacho_jobs.run AS a JOIN apapacho_jobs.run AS b ON b.id > a.id
        WHERE a.job = 'payout' AND b.job = 'payout' AND tstzrange(a.started_at, a.finished_at) && tstzrange(b.started_at, b.finished_at)}), '0',
        'no two runs overlap');
    cmp_ok($runs[1], '>', $runs[0], 'the second was queued');
    is($runs[2], $runs[1], 'and the third joined it');
};

for my $end (qw(COMMIT ROLLBACK)) {
    subtest "a payout that a session is creating: the run waits for its $end" => sub {
        start_over();
        creators('ACTIVE', 'ana', 'eva');
        sell(['ana', 'a1', 30_000, 10 * $day], ['eva', 'e1', 30_000, 10 * $day]);
        my $session = $node->background_psql('postgres', on_error_stop => 0);
        $session->query_safe(q{BEGIN; SELECT apapacho_payout_create('ana') ->> 'success'});
        my $run = $node->begin_statement(q{SELECT apapacho_run_job('payout')});
        $node->wait_for_blocked_worker('payout');
        $session->query_safe($end);
        is(figures(JSON::PP::decode_json(($run->finish)[0])), $end eq 'COMMIT' ? '1 0 0' : '2 0 0', 'the figures');
        is(paid(), "ana 30000: a1\neva 30000: e1", 'both are paid once');
        $node->let_go($session);
    };

    subtest "a refund that is being made: the run waits for its $end" => sub {
        start_over();
        creators('ACTIVE', 'ana', 'eva', 'ida');
        sell(['ana', 'a1', 30_000, 10 * $day], ['ana', 'a2', 25_000, 9 * $day], ['eva', 'e1', 19_999, 10 * $day],
            ['eva', 'e2', 1, 9 * $day], ['ida', 'i1', 20_000, 10 * $day]);
        my $session = $node->background_psql('postgres', on_error_stop => 0);
        $session->query_safe(qq{BEGIN; UPDATE $quoted."Transaction" SET status = 'REFUNDED' WHERE id IN ('a1', 'e2')});
        my $run = $node->begin_statement(q{SELECT apapacho_run_job('payout')});
        $node->wait_for_blocked_worker('payout');
        is(paid(), '', 'nobody is paid before');
        $session->query_safe($end);
        is(figures(JSON::PP::decode_json(($run->finish)[0])), $end eq 'COMMIT' ? '2 1 0' : '3 0 0', 'the figures');
        is(paid(), $end eq 'COMMIT' ? "ana 25000: a2\nida 20000: i1" : "ana 55000: a1 a2\neva 20000: e1 e2\nida 20000: i1",
            'what is refunded is not paid');
        is(shop(q{SELECT count(*) FROM "Payout" AS p JOIN "OutboxEvent" AS e ON e."aggregateId" = p.id
            WHERE (e.payload #>> '{payout,payoutAmount}')::bigint = p."payoutAmount" AND p."grossTotal" = p."payoutAmount"}),
            $end eq 'COMMIT' ? '2' : '3', 'totals and events say the same');
        is(run_payout(), $end eq 'COMMIT' ? '0 1 0' : '0 0 0', 'nothing more is due');
        $node->let_go($session);
    };
}

subtest 'tables that are not as they should be' => sub {
    start_over();
    creators('ACTIVE', 'ana');
    sell(['ana', 'a1', 30_000, 10 * $day]);
    for my $column ('Payout.periodEnd', 'PayoutItem.amount', 'Transaction.occurredAt', 'Creator.status', 'FeeSchedule.holdDays') {
        my ($table, $name) = split(/\./, $column);
        shop(qq{ALTER TABLE "$table" RENAME COLUMN "$name" TO "Missing"});
        my $error = $node->error_of(q{SELECT apapacho_run_job('payout')});
        like($error, qr/ERROR:  42703: column "$name" of table \Q$quoted."$table"\E does not exist\n.*HINT:  The table must have the columns/s, $column);
        is($node->ask(q{SELECT job, status, sqlstate, error LIKE '%does not exist%HINT:%' FROM apapacho_jobs.run ORDER BY id DESC LIMIT 1}),
            'payout|failed|42703|t', 'the history');
        like($node->error_of(q{SELECT apapacho_payout_create('ana')}), qr/ERROR:  42703: column "$name"/, 'a session is told the same');
        is($node->run_job($_)->{status}, 'succeeded', "$_ goes on") for qw(outbox cleanup);
        shop(qq{ALTER TABLE "$table" RENAME COLUMN "Missing" TO "$name"});
    }
    $node->ask(qq{ALTER TABLE $quoted."Transaction" OWNER TO postgres});
    like($node->error_of(q{SELECT apapacho_run_job('payout')}), qr/ERROR:  42501: permission denied for table Transaction/,
        'a table that the owner of "Payout" may not use');
    $node->ask(qq{ALTER TABLE $quoted."Transaction" OWNER TO shop});
    is(run_payout(), '1 0 0', 'and all is well again');
};

subtest 'the fee schedule in force' => sub {
    start_over();
    creators('ACTIVE', 'ana', 'eva');
    sell(['ana', 'a1', 30_000, 3 * $day], ['eva', 'e1', 30_000, 8 * $day]);
    my $schedule = q{INSERT INTO "FeeSchedule" (id, "effectiveFrom", "holdDays", "minPayoutClp")};

    shop(qq{$schedule VALUES ('tomorrow', utc_now() + interval '1 day', 0, 1), ('before', '2019-01-01', 0, 1),
        ('dear', utc_now() - interval '1 hour', 7, 30001)});
    is(run_payout(), '0 2 0', 'the newest that has begun: too little for its minimum');
    is($node->ask(q{SELECT string_agg(creator_id || ' ' || reason, ', ' ORDER BY 1) FROM apapacho_payout_preview()}), 'ana HOLD, eva BELOW_MINIMUM', 'the reasons');
    shop(qq{$schedule VALUES ('cheaper', utc_now() - interval '1 minute', 7, 30000)});
    is(run_payout(), '1 1 0', 'exactly its minimum');
    shop(qq{$schedule VALUES ('shorter', utc_now() - interval '1 second', 2, 100)});
    is(run_payout(), '1 0 0', 'a shorter hold');
    is(shop(q{SELECT string_agg(payload #>> '{payout,creatorId}' || ' ' || (payload -> 'config'), '; ' ORDER BY id) FROM "OutboxEvent"
        WHERE "aggregateType" = 'Payout'}), 'eva {"holdDays": 7, "minPayoutClp": 30000}; ana {"holdDays": 2, "minPayoutClp": 100}',
        'each payout says by which');
};

subtest 'days of the hold are calendar days' => sub {
    start_over();
    # So many days back that the zone's clock has been changed in between, and not just then.
    my $zone = 'America/Santiago';
    my $days = $node->ask(qq{SET TimeZone = '$zone'; SELECT n FROM generate_series(2, 366) AS n
        WHERE extract(timezone FROM now() - make_interval(days => n - 1)) <> extract(timezone FROM now())
        AND extract(timezone FROM now() - make_interval(days => n + 1)) <> extract(timezone FROM now()) ORDER BY n LIMIT 1});
    my $cutoff = $node->ask(qq{SET TimeZone = '$zone'; SELECT extract(epoch FROM now() - (now() - interval '$days days'))::int});
    is(abs($cutoff - $days * $day), $hour, "$days days are an hour more or less");
    shop(qq{INSERT INTO "FeeSchedule" (id, "effectiveFrom", "holdDays", "minPayoutClp") VALUES ('zone', utc_now(), $days, 1)});
    creators('ACTIVE', 'held', 'released');
    sell(['released', 'r1', 100, $cutoff + 60], ['held', 'h1', 100, $cutoff - 1200]);

    $node->reconfigure('apapacho_jobs.timezone' => $zone);
    $node->wait_for(qq{SELECT current_setting('apapacho_jobs.timezone') = '$zone'}, 'the zone is set');
    is($node->ask(qq{SET TimeZone = '$zone'; SELECT ((apapacho_payout_eligibility('held') ->> 'nextReleaseAt')::timestamptz -
        ((SELECT "occurredAt" FROM $quoted."Transaction" WHERE id = 'h1') AT TIME ZONE 'UTC' + interval '$days days')) = interval '0'}), 't',
        'the time of release');
    is(run_payout(), '1 1 0', 'the run goes by the same');
    is(paid(), 'released 100: r1', 'one is released');
    $node->reconfigure('apapacho_jobs.timezone' => 'UTC');
    $node->wait_for(q{SELECT current_setting('apapacho_jobs.timezone') = 'UTC'}, 'the zone is reset');
    is($node->ask(q{SELECT creator_id, payable FROM apapacho_payout_preview()}), $cutoff < $days * $day ? 'held|f' : 'held|t',
        'in UTC these are other days');
};

subtest 'creators who are suspended or not verified yet' => sub {
    start_over();
    creators('SUSPENDED', 'sam');
    creators('PENDING_VERIFICATION', 'pia');
    sell(map { (["$_", "$_-1", 15_000, 20 * $day], ["$_", "$_-2", 15_000, 8 * $day]) } qw(sam pia));
    is(run_payout(), '0 2 0', 'they are skipped');
    like($node->ask(q{SELECT apapacho_payout_create('sam')}), qr/"success": false, .*"reasonCode": "SUSPENDED"/, 'nor paid by hand');
    shop(q{UPDATE "Creator" SET status = 'ACTIVE' WHERE id = 'sam'});
    sell(['sam', 'sam-3', 15_000, 8 * $day]);
    is(run_payout(), '1 1 0', 'one is active again');
    is(paid(), 'sam 45000: sam-1 sam-2 sam-3', 'and is paid what has accrued');
};

subtest 'amounts that a JavaScript number cannot hold' => sub {
    start_over();
    creators('ACTIVE', 'big', 'max');
    sell(['big', 'b1', '9007199254740992', 8 * $day], ['big', 'b2', 1, 8 * $day], ['max', 'm1', '9223372036854775806', 8 * $day], ['max', 'm2', 1, 8 * $day]);
    is(run_payout(), '2 0 0', 'paid');
    is(paid(), "big 9007199254740993: b1 b2\nmax 9223372036854775807: m1 m2", 'to the peso');
    is(shop(q{SELECT string_agg(payload #>> '{payout,payoutAmount}' || ' ' || (payload #>> '{payout,grossTotal}'), ', ' ORDER BY "aggregateId")
        FROM "OutboxEvent" WHERE "aggregateType" = 'Payout'}),
        '9007199254740993 9007199254740993, 9223372036854775807 9223372036854775807', 'also in the event');
    is($node->ask(q{SELECT string_agg(apapacho_payout_mark_failed(id, 'x') ->> 'payoutAmount', ' ' ORDER BY id) FROM } . "$quoted.\"Payout\""),
        '9007199254740993 9223372036854775807', 'in the state');
    is(shop(q{SELECT string_agg(payload ->> 'amount', ' ' ORDER BY "aggregateId") FROM "OutboxEvent" WHERE "eventType" = 'PayoutFailed'}),
        '9007199254740993 9223372036854775807', 'and in what follows');
};

$node->stop;
done_testing();
