# 036_payout_kills.pl: the calculation is killed at random moments, by kill -9 of its worker, of other processes and of the postmaster: what is
# there after each kill is whole, and the runs that follow end in the same payouts as one that nothing disturbs.
#
# What that is lib/PayoutModel.pm computes beforehand. PAYOUT_KILLS is how many there are (12), PAYOUT_SEED repeats their moments.
use strict;
use warnings;

use Apapacho;
use List::Util qw(min);
use PayoutWorld;
use Session;
use Test::More;
use Time::HiRes qw(time usleep);

my $seed = $ENV{PAYOUT_SEED} // int(time() * 1000) % 1_000_000;
my $kills = $ENV{PAYOUT_KILLS} // 12;
my $creators = 300;
my $node = Apapacho->create('main', tables => 'fixture', settings => { 'apapacho_jobs.payout_batch_size' => 7 });
my $world = PayoutWorld->new($node);

note("PAYOUT_SEED=$seed");
srand($seed);

# Creators with sales of all kinds, and payouts that were sent before some of it was taken back. Each new payout takes a moment.
sub load_data {
    $world->ask(qq{
        INSERT INTO "FeeSchedule" (id, "effectiveFrom") VALUES ('first', '2020-01-01');
        INSERT INTO "Creator" (id, "userId", status, "updatedAt") SELECT 'c' || lpad(n::text, 4, '0'), n,
            (CASE WHEN n % 17 = 0 THEN 'SUSPENDED' ELSE 'ACTIVE' END)::"CreatorStatus", now() FROM generate_series(1, $creators) AS n;
        INSERT INTO "Transaction" (id, "creatorId", "fanUserId", "productType", currency, "grossAmount", "appliedFeeScheduleId",
            "appliedPlatformFeeBps", "platformFeeAmount", "creatorPayableAmount", status, "occurredAt", provider, "providerPaymentId", "providerEventId")
        SELECT c.id || '-' || n, c.id, 'fan', 'TIP', CASE WHEN n = 6 THEN 'USD' ELSE 'CLP' END, 11 * a, 'first', 1000, a, 10 * a,
            (CASE WHEN n = 5 THEN 'REFUNDED' ELSE 'SUCCEEDED' END)::"TransactionStatus",
            date_trunc('day', now() AT TIME ZONE 'UTC') - make_interval(days => CASE n WHEN 7 THEN 1 ELSE 9 + n::int END), 'test', 'payment', c.id || n
        FROM "Creator" AS c, generate_series(1, 7) AS n, LATERAL (SELECT 500 + abs(hashint8(n::bigint * hashtext(c.id))::bigint) % 3000 AS a) AS a;
        INSERT INTO "Payout" (id, "creatorId", "periodStart", "periodEnd", "grossTotal", "platformFeeTotal", "payoutAmount", status,
            "providerTransferId", "sentAt", "updatedAt")
            SELECT 'old ' || id, "creatorId", '2025-01-01', '2025-01-08', "grossAmount", "platformFeeAmount", "creatorPayableAmount", 'SENT',
                'by hand', now(), now() FROM "Transaction" WHERE id LIKE '%-1' OR id LIKE '%3-2';
        INSERT INTO "PayoutItem" (id, "payoutId", "transactionId", amount)
            SELECT 'old ' || id, 'old ' || id, id, "creatorPayableAmount" FROM "Transaction" WHERE id LIKE '%-1' OR id LIKE '%3-2';
        UPDATE "Transaction" SET status = 'CHARGEDBACK' WHERE id LIKE '%3-2' OR id LIKE '%4-1';
        CREATE FUNCTION take_a_moment() RETURNS trigger LANGUAGE plpgsql AS \$\$ BEGIN PERFORM pg_sleep(0.01); RETURN NULL; END \$\$;
        CREATE TRIGGER take_a_moment AFTER INSERT ON "Payout" FOR EACH ROW EXECUTE FUNCTION take_a_moment();
        CHECKPOINT});
    return;
}

# Payouts of ours that hold something: a line each.
sub lines_of {
    my ($model) = @_;
    return join("\n", sort map { my $payout = $_;
            join(' ', map({ $payout->{$_} } qw(creator amount gross fee adjustments_total)), map({ "$_=$payout->{items}{$_}" } sort keys %{ $payout->{items} }),
                'and', sort { $a <=> $b } map { $_->{amount} } @{ $payout->{adjustments} }) }
        grep { $_->{ours} && PayoutModel::holds($_) } values %{ $model->{payouts} });
}

sub is_at_work {
    return $world->ask(q{SELECT count(*) FROM apapacho_jobs.run AS r JOIN pg_stat_activity AS a USING (pid) WHERE r.job = 'payout' AND r.status = 'running'});
}

# The database's idea, by lines_of.
sub found {
    $world->learn;
    return lines_of($world->{model});
}

my %kill = (
    worker => sub { my ($pid) = $node->pids('worker'); return $pid && kill('KILL', $pid); },
    scheduler => sub { my ($pid) = $node->pids('scheduler'); return $pid && kill('KILL', $pid); },
    checkpointer => sub { return kill('KILL', $world->ask(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'})); },
    postmaster => sub { $node->kill_postmaster; return 0; },
    immediate => sub { $node->stop('immediate'); $node->start; return 0; });
my @kinds = (('worker') x 6, qw(scheduler checkpointer postmaster immediate));

# Kills something while the calculation is at work; whether that was so.
sub kill_once {
    my ($number) = @_;
    my $kind = $kinds[rand @kinds];
    my $position = $node->log_position;

    # how far the run comes is left to chance
    usleep(rand(250_000));
    my $was_at_work = is_at_work();
    if ($kill{$kind}->()) {
        $node->wait_for_log(qr/all server processes terminated; reinitializing/, $position);
    }
    $world->{session}->close;
    $node->wait_for('SELECT true', "kill $number, of $kind");
    return $was_at_work;
}

$world->set_up;
load_data();
$world->{model}{now} = 1000 * time();
$world->learn;
$world->follow(0, {});
my $expected = lines_of($world->{model});
my @expected = split(/\n/, $expected);
cmp_ok(scalar @expected, '>', $creators / 2, 'most are due something');
cmp_ok(scalar(grep { /and -/ } @expected), '>', 10, 'some less than they have sold');

my ($killed, $at_work, $rounds, $partly) = (0, 0, 0, 0);
while ($killed < $kills) {
    $rounds++;
    my @broken;
    for (1 .. min($kills - $killed, 6)) {
        $node->wait_for(q{SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type = 'apapacho_jobs scheduler'}, 'there is a scheduler');
        $world->ask('SELECT apapacho_payout_run(wait => false)') unless is_at_work();
        $at_work++ if kill_once(++$killed);
        push @broken, $world->contradictions;
        my $paid = () = found() =~ /^c/mg;
        $partly++ if $paid > 0 && $paid < @expected;
        last if $paid >= @expected;
    }
    is(join("\n", @broken), '', "round $rounds: what is there is whole after each kill");
    $node->wait_for_scheduler;
    my $figures = JSON::PP::decode_json($world->ask('SELECT apapacho_payout_run()'));
    is($figures->{errors}, 0, 'no errors');
    is(join("\n", PayoutWorld::compare('payouts', $expected, found())), '', "round $rounds: the same payouts as without a kill");
    is(join("\n", $world->contradictions), '', 'nothing contradicts itself');
    is($world->ask('SELECT kind, detail FROM apapacho_payout_reconcile()'), '', 'nothing to reconcile');
    # the same once more; what was adjusted before stays so
    $world->ask(q{UPDATE "Payout" SET status = 'CANCELLED', "failureReason" = 'by hand' WHERE status = 'CALCULATED';
        DELETE FROM "Payout" WHERE status = 'CANCELLED'}) if $killed < $kills;
}
cmp_ok($at_work, '>', $kills / 2, "$killed kills, $at_work of them while the calculation was at work");
cmp_ok($partly, '>', 0, "$partly of them after some had been paid and before all were");
$node->stop;
done_testing();
