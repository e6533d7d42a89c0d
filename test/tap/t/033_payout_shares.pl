# 033_payout_shares.pl: a calculation that several processes share, and that is cut off or loses a helper: in the end everybody has been
# looked at, and nobody is paid twice.
use strict;
use warnings;

use Apapacho;
use PostgreSQL::Test::Utils;
use Test::More;

my $creators = 200;
my $node = Apapacho->create('main', tables => 'own', settings => {
    'apapacho_jobs.payout_workers' => 3,
    'apapacho_jobs.payout_batch_size' => 5 });
$node->wait_for_scheduler;

sub start_over {
    $node->ask(qq{TRUNCATE "OutboxEvent", "PayoutItem", "Payout", "Transaction", "Creator", "LedgerEntry" CASCADE;
        INSERT INTO "Creator" (id, "userId", "updatedAt") SELECT 'c' || n, 'u' || n, '2025-01-01' FROM generate_series(1001, 1000 + $creators) AS n;
        INSERT INTO "Transaction" (id, "creatorId", "fanUserId", "productType", "grossAmount", "appliedFeeScheduleId", "appliedPlatformFeeBps",
            "platformFeeAmount", "creatorPayableAmount", "occurredAt", provider, "providerPaymentId", "providerEventId")
        SELECT c.id || k, c.id, 'fan', 'TIP', 15000, (SELECT id FROM "FeeSchedule"), 0, 0, 15000, '2025-01-02', 'p', 'p', c.id || k
        FROM "Creator" AS c, generate_series(1, 2) AS k});
    return;
}

# Everybody is paid once, by one run or several, and no difference is left.
sub check_all {
    my ($what) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    is($node->ask(q{SELECT count(*), count(DISTINCT "creatorId"), sum("payoutAmount"), (SELECT count(*) FROM "PayoutItem") FROM "Payout"}),
        join('|', $creators, $creators, 30_000 * $creators, 2 * $creators), "$what: everybody is paid once");
    is($node->ask('SELECT kind, detail FROM apapacho_payout_reconcile()'), '', "$what: no difference");
    is($node->ask('SELECT count(*) FROM apapacho_jobs.payout_share'), '0', "$what: no share is left");
    return;
}

# Locks a creator's transaction, so that whoever comes to it waits.
sub gate {
    my ($transaction) = @_;
    my $session = $node->background_psql('postgres', on_error_stop => 0);
    $session->query_safe(qq{BEGIN; SELECT FROM "Transaction" WHERE id = '$transaction' FOR UPDATE});
    return $session;
}

$node->ask('SELECT apapacho_payout_install_guards()');

subtest 'three processes' => sub {
    start_over();
    my @gates = map { gate($_) } qw(c11001 c12001);
    my $run = $node->begin_statement(q{SELECT apapacho_run_job('payout')});
    $node->wait_for(q{SELECT count(DISTINCT l.pid) >= 1 FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
        WHERE NOT l.granted AND a.backend_type LIKE 'apapacho_jobs %'}, 'somebody waits for a transaction');
    is($node->ask('SELECT count(*) FROM apapacho_jobs.payout_share'), '2', 'two shares beside the own one');
    $node->let_go($_) for @gates;
    like(($run->finish)[0], qr/"created": $creators/, 'all of them');
    check_all('three processes');
};

subtest 'a helper that is ended: the worker does its share' => sub {
    start_over();
    my $gate = gate('c12001');      # of the last creator
    my $run = $node->begin_statement(q{SELECT apapacho_run_job('payout')});
    $node->wait_for(q{SELECT count(*) = 1 FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
        WHERE NOT l.granted AND a.backend_type = 'apapacho_jobs payout helper'}, 'a helper waits');
    $node->ask(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'apapacho_jobs payout helper'});
    $node->wait_for_blocked_worker('payout');
    $node->let_go($gate);
    like(($run->finish)[0], qr/"status": "succeeded", "created": $creators,/, 'it succeeds');
    check_all('a helper that is ended');
};

subtest 'the worker is cancelled: its helpers end, the next run goes on' => sub {
    start_over();
    my $gate = gate('c12001');
    my $run = $node->begin_statement(q{SELECT apapacho_run_job('payout')});
    $node->wait_for(q{SELECT count(*) = 1 FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
        WHERE NOT l.granted AND a.backend_type = 'apapacho_jobs payout helper'}, 'a helper waits');
    $node->ask(q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE backend_type = 'apapacho_jobs worker'});
    like(($run->finish)[1], qr/ERROR:  57014/, 'cancelled');
    $node->wait_for(q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'apapacho_jobs payout helper'}, 'no helper is left');
    $node->let_go($gate);
    is($node->run_job('payout')->{status}, 'succeeded', 'the next run');
    check_all('cancelled');
};

subtest 'switched off while it runs: the next run still looks at everybody' => sub {
    start_over();
    my $gate = gate('c12001');
    $node->reconfigure('apapacho_jobs.payout_cron' => '1 seconds');
    $node->wait_for(q{SELECT count(*) = 1 FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
        WHERE NOT l.granted AND a.backend_type = 'apapacho_jobs payout helper'}, 'a helper waits');
    $node->reconfigure('apapacho_jobs.enabled' => 'off', 'apapacho_jobs.payout_cron' => '');
    $node->wait_for(q{SELECT count(*) > 0 FROM apapacho_jobs.run WHERE job = 'payout' AND status = 'interrupted'}, 'it is interrupted');
    is($node->ask('SELECT full_at IS NULL FROM apapacho_jobs.payout_state'), 't', 'not everybody has been looked at');
    $node->let_go($gate);
    is($node->run_job('payout')->{status}, 'succeeded', 'a run by hand');
    check_all('switched off');
};

$node->stop;
done_testing();
