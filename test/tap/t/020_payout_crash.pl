# 020_payout_crash.pl: creators are paid while the worker, the scheduler, the postmaster and the whole server are stopped and killed.
#
# What each creator is due is computed here from the tables, before the first run, and held against payouts, items and events in
# the end. Gates keep runs from coming further than the test wants: prepared transactions that lock a creator's transactions.
use strict;
use warnings;

use Apapacho;
use Carp;
use File::Basename qw(dirname);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $creators = 3000;
my $minimum = 20_000;
my $patience = 30;      # seconds in which a run must be taken up, on a busy machine
my $node = Apapacho->create('main', tables => 'fixture', settings => {
    max_prepared_transactions => 10,
    'apapacho_jobs.payout_batch_size' => 20 });
my $kills = 0;
my %plan;

# The bench's data; nothing is close to the end of the hold, some is in payouts already, refunded, or in another currency. Each payout
# takes a moment, so that a run lasts long enough to be hit.
sub load_data {
    my $file = dirname(__FILE__) . '/../../bench/payout_data.sql';

    $node->ask("\\set creators $creators\n\\set per_creator 8\n" . slurp_file($file));
    $node->ask(q{
        UPDATE "Transaction" SET "occurredAt" = "occurredAt" - interval '4 hours'
            WHERE "occurredAt" > (now() AT TIME ZONE 'UTC') - interval '7 days 2 hours'
            AND "occurredAt" < (now() AT TIME ZONE 'UTC') - interval '7 days' + interval '2 hours';
        UPDATE "Transaction" SET status = 'REFUNDED' WHERE hashtext(id) % 29 = 0;
        UPDATE "Transaction" SET currency = 'USD' WHERE hashtext(id) % 31 = 0;
        INSERT INTO "Payout" (id, "creatorId", "periodStart", "periodEnd", status, "updatedAt")
            SELECT 'old-' || s.status || '-' || c.id, c.id, '2025-01-01', '2025-01-01', s.status, '2025-01-01'
            FROM "Creator" AS c, unnest(enum_range(NULL::"PayoutStatus")) WITH ORDINALITY AS s (status, n)
            WHERE abs(hashtext(c.id)) % 7 IN (n, 6);
        INSERT INTO "PayoutItem" (id, "payoutId", "transactionId", amount)
            SELECT p.id || t.id, p.id, t.id, t."creatorPayableAmount" FROM "Payout" AS p JOIN "Transaction" AS t USING ("creatorId")
            WHERE abs(hashtext(t.id || p.status::text)) % 8 = 0 AND t.status = 'SUCCEEDED';
        CREATE FUNCTION take_a_moment() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_catalog.pg_sleep(0.001); RETURN NULL; END $$;
        CREATE TRIGGER take_a_moment AFTER INSERT ON "Payout" FOR EACH ROW EXECUTE FUNCTION take_a_moment();
        CHECKPOINT});
    return;
}

# What everybody is due, in plain Perl: {creator => [payoutAmount, grossTotal, platformFeeTotal, periodStart, transactions ...]}.
sub compute_plan {
    my $cutoff = $node->ask(q{SELECT (now() AT TIME ZONE 'UTC') - interval '7 days'});
    my %active = map { $_ => 1 } split(/\n/, $node->ask(q{SELECT id FROM "Creator" WHERE status = 'ACTIVE'}));
    my %taken = map { $_ => 1 } split(/\n/, $node->ask(q{SELECT i."transactionId" FROM "PayoutItem" AS i
        JOIN "Payout" AS p ON p.id = i."payoutId" WHERE p.status NOT IN ('FAILED', 'CANCELLED')}));
    my %until = map { split(/\|/, $_) } split(/\n/, $node->ask(q{SELECT "creatorId", max("periodEnd") FROM "Payout"
        WHERE status NOT IN ('FAILED', 'CANCELLED') AND id LIKE 'old-%' GROUP BY 1}));
    my %due;

    for my $row (split(/\n/, $node->ask(q{SELECT id, "creatorId", status, currency, "occurredAt", "grossAmount", "platformFeeAmount",
            "creatorPayableAmount" FROM "Transaction" ORDER BY "occurredAt", id}))) {
        my ($id, $creator, $status, $currency, $at, $gross, $fee, $amount) = split(/\|/, $row);
        next if $status ne 'SUCCEEDED' || $currency ne 'CLP' || $taken{$id} || !$active{$creator} || $at gt $cutoff;
        my $due = $due{$creator} //= [0, 0, 0, $until{$creator} // $at];
        $due->[0] += $amount;
        $due->[1] += $gross;
        $due->[2] += $fee;
        push @{$due}, $id;
    }
    delete $due{$_} for grep { $due{$_}[0] < $minimum } keys %due;
    $due{$_} = join(' ', @{ $due{$_} }[0 .. 3], sort @{ $due{$_} }[4 .. $#{ $due{$_} }]) for keys %due;
    return %due;
}

sub payouts { return $node->ask(q{SELECT count(*) FROM "Payout" WHERE status = 'CALCULATED' AND id NOT LIKE 'old-%'}); }

# Until so many are paid. Looks from within the server: what is to be hit is over soon.
sub wait_for_payouts {
    my ($count) = @_;

    $node->ask(qq{DO \$\$ BEGIN
        FOR attempt IN 1 .. 200 * $PostgreSQL::Test::Utils::timeout_default LOOP
            IF (SELECT count(*) FROM "Payout" WHERE status = 'CALCULATED' AND id NOT LIKE 'old-%') >= $count THEN RETURN; END IF;
            PERFORM pg_sleep(0.005);
        END LOOP;
        RAISE EXCEPTION 'timed out waiting for $count payouts';
    END \$\$});
    return;
}

# Locks the transactions of those who come a little after so many percent of the payouts.
sub shut_gates {
    my @creators = sort keys %plan;

    $node->ask(join("\n", map { sprintf(q{BEGIN; SELECT FROM "Transaction" WHERE "creatorId" = '%s' FOR UPDATE; PREPARE TRANSACTION '%d';},
            $creators[@creators * ($_ + 12) / 100], $_) } @_));
    return;
}

my %crash = (
    'kill -9 of the worker' => sub { $node->kill_hard($_[0]); },
    'kill -9 of worker and scheduler' => sub { $node->kill_hard(@_[0, 1]); },
    'kill -9 of the postmaster' => sub { $node->kill_postmaster; },
    'immediate shutdown' => sub { $node->stop('immediate'); $node->start; },
    'fast shutdown' => sub { $node->stop('fast'); $node->start; },
    # an interrupted run is taken up by the next scheduler
    'pg_terminate_backend of worker, then scheduler' => sub {
        my ($worker, $scheduler) = @_;
        $node->ask("SELECT pg_terminate_backend($worker)");
        $node->wait_for("SELECT count(*) = 0 FROM apapacho_jobs.run WHERE status = 'running'", 'the run has ended');
        $node->ask("SELECT pg_terminate_backend($scheduler)");
    });

# Payouts that are not whole: their items, amounts or events do not fit. There must never be one that others can see.
sub broken {
    return $node->ask(q{SELECT count(*) FROM "Payout" AS p WHERE id NOT LIKE 'old-%' AND (
        "payoutAmount" IS DISTINCT FROM (SELECT sum(amount) FROM "PayoutItem" AS i WHERE i."payoutId" = p.id)
        OR 1 <> (SELECT count(*) FROM "OutboxEvent" AS e WHERE e."aggregateType" = 'Payout' AND e."aggregateId" = p.id
                 AND e."eventType" = 'PayoutCalculated'))});
}

# Lets the run that is at work come so far, ends it as told, and sees that it is taken up when it should be.
sub crash {
    my ($percent, $what, $status, $taken_up) = @_;

    subtest "$what at $percent %" => sub {
        my $total = keys %plan;
        my $run = $node->wait_for_run("status = 'running' AND pid IN (SELECT pid FROM pg_stat_activity)");
        my ($worker) = $node->pids('worker');
        my ($scheduler) = $node->pids('scheduler');
        wait_for_payouts(int($total * $percent / 100));
        my $at = time();
        $crash{$what}->($worker, $scheduler);
        $kills++;
        $node->ask("ROLLBACK PREPARED '$percent'");
        my $paid = payouts();
        cmp_ok($paid, '<', $total, 'not all were paid');
        is(broken(), '0', 'every payout that is there is whole');
        $node->wait_for("SELECT status = '$status' FROM apapacho_jobs.run WHERE id = $run", "the run is $status");
        if ($taken_up) {
            my $next = $node->wait_for_run("id > $run AND trigger = 'recovery' AND status IN ('running', 'succeeded')");
            my $seconds = $node->ask("SELECT round(extract(epoch FROM min(started_at)) - $at, 1) FROM apapacho_jobs.run
                WHERE id > $run AND trigger = 'recovery'");
            diag("$what: $paid of $total were paid; taken up $seconds s after it");
            cmp_ok($seconds, '<', $patience, 'taken up soon');
        }
    };
    return;
}

# Payouts, items and events against the plan.
sub compare {
    my ($name) = @_;
    my (%paid, %announced, @twice);

    for my $row (split(/\n/, $node->ask(q{SELECT p."creatorId", p."payoutAmount", p."grossTotal", p."platformFeeTotal", p."periodStart",
            string_agg(i."transactionId", ' ' ORDER BY i."transactionId" COLLATE "C") FROM "Payout" AS p
            JOIN "PayoutItem" AS i ON i."payoutId" = p.id WHERE p.status = 'CALCULATED' AND p.id NOT LIKE 'old-%' GROUP BY p.id}))) {
        my ($creator, @rest) = split(/\|/, $row);
        push @twice, $creator if exists $paid{$creator};
        $paid{$creator} = join(' ', @rest);
    }
    for my $row (split(/\n/, $node->ask(q{SELECT payload #>> '{payout,creatorId}', payload #>> '{payout,payoutAmount}',
            payload #>> '{payout,grossTotal}', payload #>> '{payout,platformFeeTotal}', (payload #>> '{payout,periodStart}')::timestamp,
            (SELECT string_agg(t, ' ' ORDER BY t COLLATE "C") FROM jsonb_array_elements_text(payload -> 'includedTransactionIds') AS t)
            FROM "OutboxEvent" AS e JOIN "Payout" AS p ON p.id = e."aggregateId" AND p.status = 'CALCULATED'
            WHERE e."eventType" = 'PayoutCalculated' AND payload ->> 'eventId' = e.id AND payload #>> '{payout,id}' = p.id
            AND payload #>> '{payout,creatorId}' = p."creatorId"}))) {
        my ($creator, @rest) = split(/\|/, $row);
        $announced{$creator} .= join(' ', @rest);
    }
    cmp_ok(scalar(keys %plan), '>', $creators / 2, "$name: most creators are due something");
    is_deeply(\@twice, [], "$name: nobody is paid twice");
    # by hand, for a difference of thousands is not to be printed
    my @wrong = grep { ($plan{$_} // '') ne ($paid{$_} // '') } sort keys %{ { %plan, %paid } };
    is("@wrong[0 .. ($#wrong > 2 ? 2 : $#wrong)]", '', "$name: everybody is paid exactly what they are due");
    @wrong = grep { ($plan{$_} // '') ne ($announced{$_} // '') } sort keys %{ { %plan, %announced } };
    is("@wrong[0 .. ($#wrong > 2 ? 2 : $#wrong)]", '', "$name: and each has one PayoutCalculated that says so");
    is($node->ask(q{SELECT count(*) FROM (SELECT FROM "PayoutItem" AS i JOIN "Payout" AS p ON p.id = i."payoutId"
        WHERE p.status IN ('CALCULATED', 'PENDING', 'SENT')
        GROUP BY i."transactionId" HAVING count(*) > 1 AND bool_or(p.id NOT LIKE 'old-%')) AS d}),
        '0', "$name: nothing that is paid is in another payout too");
    is($node->ask(q{SELECT count(*) FROM "OutboxEvent" AS e WHERE "aggregateType" = 'Payout'
        AND NOT EXISTS (SELECT FROM "Payout" AS p WHERE p.id = e."aggregateId")}), '0', "$name: no event without its payout");
    is(broken(), '0', "$name: every payout is whole");
    return;
}

load_data();
$node->wait_for_scheduler;
%plan = compute_plan();

subtest 'runs by hand' => sub {
    shut_gates(10, 25, 40, 60, 80);
    $node->run_job('payout', wait => 0);
    crash(10, 'kill -9 of the worker', 'crashed', 1);
    crash(25, 'fast shutdown', 'interrupted', 1);
    crash(40, 'immediate shutdown', 'crashed', 0);      # of a recovery: once is enough
    $node->run_job('payout', wait => 0);
    crash(60, 'kill -9 of the postmaster', 'crashed', 1);
    crash(80, 'pg_terminate_backend of worker, then scheduler', 'interrupted', 1);
    my $id = $node->wait_for_run("status = 'succeeded'");
    is($node->ask("SELECT result->>'errors' FROM apapacho_jobs.run WHERE id = $id"), '0', 'no errors');
    is($node->ask(qq{SELECT count(*) FROM "OutboxEvent" WHERE "eventType" = 'PayoutCalculationJobCompleted'}), '1',
        'only the run that came to its end has announced that');
    compare('by hand');
};

subtest 'under a schedule, all that was paid once more' => sub {
    $node->ask(q{UPDATE "Payout" SET status = 'CANCELLED' WHERE status = 'CALCULATED' AND id NOT LIKE 'old-%'});
    is_deeply({ compute_plan() }, { %plan }, 'what was paid is due again');
    shut_gates(20, 45, 70);
    $node->reconfigure('apapacho_jobs.payout_cron' => '1 seconds');
    crash(20, 'kill -9 of the postmaster', 'crashed', 1);
    crash(45, 'kill -9 of worker and scheduler', 'crashed', 0);
    crash(70, 'immediate shutdown', 'crashed', 0);
    $node->wait_for_run("status = 'succeeded' AND id > (SELECT max(id) FROM apapacho_jobs.run WHERE status = 'crashed')");
    $node->reconfigure('apapacho_jobs.payout_cron' => '');
    $node->wait_for(q{SELECT NOT running AND NOT executing FROM apapacho_job_status() WHERE name = 'payout'}, 'the schedule ends');
    compare('under a schedule');
};

is($kills, 8, 'eight times cut off');
$node->stop;
done_testing();
