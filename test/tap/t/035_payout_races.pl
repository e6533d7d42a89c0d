# 035_payout_races.pl: sixteen sessions at once that run the calculation, pay as the backend does, sell, refund, report and cancel, at each
# isolation level: nothing is paid twice, and in the end everything has been paid, to the peso.
#
# PAYOUT_ROUNDS is how many statements each session executes (30), PAYOUT_SEED makes their kinds the same.
use strict;
use warnings;

use Apapacho;
use List::Util qw(sum0);
use PayoutWorld;
use Session;
use Test::More;
use Time::HiRes qw(time);

my $seed = $ENV{PAYOUT_SEED} // int(time() * 1000) % 1_000_000;
my $rounds = $ENV{PAYOUT_ROUNDS} // 30;
my ($sessions, $creators) = (16, 12);
my $node = Apapacho->create('main', tables => 'fixture', settings => { max_connections => 60, 'apapacho_jobs.payout_batch_size' => 3 });
my $world = PayoutWorld->new($node);

note("PAYOUT_SEED=$seed");
srand($seed);

# What the sessions do. A calculation as the backend's is, which looks first and then writes what it has seen; the rest picks its victim by chance.
my $functions = q{
    CREATE SEQUENCE numbers;
    CREATE FUNCTION a_payout() RETURNS text LANGUAGE sql AS $$ SELECT id FROM "Payout" ORDER BY random() LIMIT 1 $$;
    CREATE FUNCTION backend_pays(creator text) RETURNS text LANGUAGE plpgsql AS $$
    DECLARE
        ids text[];
        payout text := 'backend ' || nextval('numbers');
    BEGIN
        SELECT array_agg(t.id) INTO ids FROM "Transaction" AS t WHERE t."creatorId" = creator AND t.status = 'SUCCEEDED' AND NOT EXISTS (
            SELECT FROM "PayoutItem" AS i JOIN "Payout" AS p ON p.id = i."payoutId"
            WHERE i."transactionId" = t.id AND p.status IN ('CALCULATED', 'PENDING', 'SENT'));
        PERFORM pg_sleep(0.002);
        INSERT INTO "Payout" (id, "creatorId", "periodStart", "periodEnd", "grossTotal", "platformFeeTotal", "payoutAmount", "updatedAt")
            SELECT payout, creator, now(), now(), sum("grossAmount"), sum("platformFeeAmount"), sum("creatorPayableAmount"), now()
            FROM "Transaction" AS t WHERE t.id = ANY (ids) HAVING count(*) > 0;
        INSERT INTO "PayoutItem" (id, "payoutId", "transactionId", amount)
            SELECT payout || t.id, payout, t.id, "creatorPayableAmount" FROM "Transaction" AS t WHERE t.id = ANY (ids);
        RETURN payout;
    END $$;
    CREATE FUNCTION sell(creator text) RETURNS void LANGUAGE sql AS $$
        INSERT INTO "Transaction" (id, "creatorId", "fanUserId", "productType", "grossAmount", "appliedFeeScheduleId", "appliedPlatformFeeBps",
            "platformFeeAmount", "creatorPayableAmount", "occurredAt", provider, "providerPaymentId", "providerEventId")
        SELECT 't' || n, creator, 'fan', 'TIP', 1000 + n, 'first', 0, 7, 993 + n, (now() AT TIME ZONE 'UTC') - interval '1 hour', 'test', 'payment', n
        FROM nextval('numbers') AS n $$};

my @kinds = (
    'SELECT apapacho_payout_run(forced => true)', 'SELECT apapacho_payout_run()',
    map({ sub { "SELECT apapacho_payout_create('$_[0]', true)" } } 1 .. 3),
    map({ sub { "SELECT backend_pays('$_[0]')" } } 1 .. 8),
    map({ sub { "SELECT sell('$_[0]')" } } 1 .. 6),
    map({ 'UPDATE "Transaction" SET status = CASE WHEN random() < 0.5 THEN \'REFUNDED\' ELSE \'SUCCEEDED\' END::"TransactionStatus"'
        . ' WHERE id = (SELECT id FROM "Transaction" ORDER BY random() LIMIT 1)' } 1 .. 3),
    q{SELECT apapacho_payout_mark_sent(p, 'transfer of ' || p) FROM a_payout() AS p WHERE p IS NOT NULL},
    q{SELECT apapacho_payout_mark_failed(p, 'no', NULL, random() < 0.5) FROM a_payout() AS p WHERE p IS NOT NULL},
    map({ q{SELECT apapacho_payout_mark_cancelled(p, 'why') FROM a_payout() AS p WHERE p IS NOT NULL} } 1 .. 2),
    q{UPDATE "Payout" SET status = 'PENDING' WHERE id = (SELECT a_payout()) AND status = 'FAILED'});

# What a loser may be told: unique violation, foreign key, serialization, deadlock, not in that state, busy, gone, not at this level.
my %may_be = map { $_ => 1 } qw(23505 23503 40001 40P01 55000 55006 P0002 0A000);

$world->set_up;
$world->ask(q{INSERT INTO "FeeSchedule" (id, "effectiveFrom", "holdDays", "minPayoutClp") VALUES ('first', '2020-01-01', 0, 1)});
$world->ask(qq{INSERT INTO "Creator" (id, "userId", "updatedAt") SELECT 'c' || n, n, now() FROM generate_series(1, $creators) AS n});
$world->ask("$functions; SELECT sell('c' || 1 + n % $creators) FROM generate_series(1, 10 * $creators) AS n");
$node->wait_for_scheduler;

for my $level ('read committed', 'repeatable read', 'serializable') {
    subtest $level => sub {
        my @sessions = map { Session->new($node, name => "racer $_", setup => "SET default_transaction_isolation = '$level'") } 1 .. $sessions;
        my (%told, @unexpected);

        for my $session (@sessions) {
            $session->begin(join(";\n", map { my $kind = $kinds[rand @kinds]; ref $kind ? $kind->('c' . int(1 + rand $creators)) : $kind } 1 .. $rounds));
        }
        for my $session (@sessions) {
            my $result = $session->end;
            $told{$_}++ for $result->{error} =~ /^ERROR:  (\w+):/mg;
            push @unexpected, grep { /^ERROR:  (\w+):/ && !$may_be{$1} } split(/\n/, $result->{error});
            push @unexpected, $result->{error} if $result->{state} eq 'lost';
            $session->close;
        }
        note(join(', ', map { "$_: $told{$_}" } sort keys %told));
        is(join("\n", @unexpected), '', 'losers of races are told so');
        is(join("\n", $world->contradictions), '', 'nothing contradicts itself');

        # all that has been sold and not taken back is paid by now, once
        $node->ask('SELECT apapacho_payout_run(forced => true)');
        $world->{model}{now} = 1000 * time();
        $world->learn;
        my $model = $world->{model};
        my @wrong;
        for my $creator (sort keys %{ $model->{creators} }) {
            my $sold = sum0(map { $_->{amount} } grep { $_->{creator} eq $creator && $_->{status} eq 'SUCCEEDED' } values %{ $model->{transactions} });
            my $paid = sum0(map { $_->{amount} } grep { PayoutModel::holds($_) } $model->payouts_of($creator));
            my $open = sum0(map { $_->{amount} } grep { !defined $_->{payout} } $model->adjustments_of($creator));
            my $decision = $model->decide($creator, 1);
            # who owes more than is due to him is not paid
            my $left = $decision ? $decision->{amount} : 0;
            push @wrong, "$creator: sold $sold, paid $paid, balance $open, unpaid $left" if $sold != $paid + $open + $left || ($left && $left + $open > 0);
        }
        is(join("\n", @wrong), '', 'all is paid, to the peso');
        is(join("\n", $world->contradictions), '', 'nothing contradicts itself after that');
        is($node->ask('SELECT apapacho_payout_run(forced => true) ->> \'created\''), '0', 'nothing is left to pay');
        # periods overlap where a payout that had failed is taken up again by hand
        is($node->ask(q{SELECT kind, detail FROM apapacho_payout_reconcile() WHERE kind <> 'PERIOD'}), '', 'nothing to reconcile');
    };
}

cmp_ok($node->ask(q{SELECT count(*) FROM "Payout" WHERE id LIKE 'backend%'}), '>', 20, 'the backend has paid');
cmp_ok($node->ask('SELECT count(*) FROM apapacho_jobs.payout_origin'), '>', 20, 'and so have we');
$node->stop;
done_testing();
