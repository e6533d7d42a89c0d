# 017_publishers.pl: several publishers share the work: no event with two of them, none lost when one of them is killed, and the
# order of each aggregate's events.
use strict;
use warnings;

use Apapacho;
use IPC::Run ();
use Outbox;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $secret = 'whsec_YXBhcGFjaG8gY3Jhc2ggdGVzdA==';
my $directory = PostgreSQL::Test::Utils::tempdir();
my $log = "$directory/log";
my $receiver = Apapacho->start_receiver('--secret', $secret, '--port-file', "$directory/port", '--log', $log, '--delay-ms', 4, '--quiet');
my $class = 1634758007;
my $concurrency = 16;
my $emitted = 0;
my $repeated = 0;

my $node = Apapacho->create('main', tables => 'own', start => 0, settings => {
    max_worker_processes => 20,
    'apapacho_jobs.outbox_publisher_type' => 'webhook',
    'apapacho_jobs.outbox_webhook_secret' => $secret,
    'apapacho_jobs.outbox_concurrency' => $concurrency,
    'apapacho_jobs.outbox_workers' => 3,
    'apapacho_jobs.outbox_batch_size' => 200,
    'apapacho_jobs.outbox_cron' => '0 0 1 1 *' });

start_with_receiver($node, "$directory/port");

sub emit_numbered {
    my ($count, $aggregates) = @_;

    $node->ask("SELECT count(apapacho_outbox_emit('Share', (g % $aggregates)::text, lpad(g::text, 8, '0'), '{}'))
        FROM generate_series($emitted + 1, $emitted + $count) AS g");
    $emitted += $count;
    return;
}

sub wait_for_publishers {
    my ($count) = @_;
    $node->wait_for("SELECT count(*) >= $count FROM pg_stat_activity WHERE backend_type = 'apapacho_jobs publisher'", "$count helpers are at work");
    return;
}

sub deliveries { return -e $log ? slurp_file($log) =~ tr/\n// : 0 }

# Everything is published; what the receiver got is right, with no more repeated than is allowed.
sub check_arrivals {
    my ($allowed, $what) = @_;

    $node->wait_for(q{SELECT count(*) = 0 FROM "OutboxEvent" WHERE "publishedAt" IS NULL}, 'all are published');
    my %found = arrivals($node, $log);
    is_deeply([@found{qw(lost wrong unknown out_of_order)}], [[], [], [], []], "$what: nothing lost, wrong, unknown or out of order");
    cmp_ok($found{repeated} - $repeated, '<=', $allowed, "no more than $allowed deliveries repeated");
    diag("$what: " . ($found{repeated} - $repeated) . ' deliveries repeated');
    $repeated = $found{repeated};
    return;
}

# Nobody is at work, and nobody waits for work.
sub wait_for_rest {
    $node->wait_for(q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type IN ('apapacho_jobs worker', 'apapacho_jobs publisher')},
        'no publisher is left');
    return;
}

subtest 'three publishers' => sub {
    emit_numbered(6000, 300);
    wait_for_publishers(2);
    cmp_ok($node->ask("SELECT count(DISTINCT pid) FROM pg_locks WHERE locktype = 'advisory' AND classid = $class"), '>=', 2, 'they hold slots');
    is($node->ask("SELECT count(*) - count(DISTINCT objid) FROM pg_locks WHERE locktype = 'advisory' AND classid = $class"), '0', 'each its own');
    check_arrivals(0, 'undisturbed');
    my $run = $node->wait_for_run(q{job = 'outbox' AND status = 'running'});
    $node->wait_for(q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'apapacho_jobs publisher'}, 'the helpers have ended');
    $node->reconfigure('apapacho_jobs.outbox_concurrency' => $concurrency + 1);
    $node->wait_for_run("id = $run AND result->>'processed' = '6000' AND result->>'failed' = '0'");
    ok(1, 'the run counts what its helpers have done');
    is($node->ask("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"), '0', 'no slot is held');
    is($node->ask(q{SELECT sum("retryCount") FROM "OutboxEvent"}), '0', 'nothing failed');
};

subtest 'another run is asked for, or publishing is paused: what is on its way is waited for' => sub {
    for my $what ('SELECT apapacho_outbox_process(1)', 'SELECT apapacho_outbox_pause()') {
        emit_numbered(10000, 300);
        wait_for_publishers(2);
        $node->ask($what);
        $node->wait_for(q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'apapacho_jobs publisher'}, 'the helpers have ended')
            if $what =~ /pause/;
        $node->ask('SELECT apapacho_outbox_resume()');
        check_arrivals(0, $what);
    }
};

for my $signal (qw(terminate kill)) {
    subtest "a helper is lost: $signal" => sub {
        emit_numbered(10000, 300);
        wait_for_publishers(2);
        $node->wait_until(sub { deliveries() > $emitted - 9500 }, 'they are at it');
        my $pid = $node->ask(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'apapacho_jobs publisher' LIMIT 1});
        my $started = time();
        if ($signal eq 'kill') {
            $node->kill_hard($pid);
        } else {
            $node->ask("SELECT pg_terminate_backend($pid)");
        }
        my $before = deliveries();
        $node->wait_until(sub { deliveries() > $before + 2 * $concurrency }, 'it goes on');
        diag(sprintf('it went on after %.1f s', time() - $started));
        # of each publisher: 200 answers that are not recorded yet, and what was on its way
        check_arrivals($signal eq 'kill' ? 3 * (200 + 2 * $concurrency) : 2 * $concurrency, $signal);
    };
}

subtest 'slots that another session holds are left alone' => sub {
    wait_for_rest();
    my $session = $node->background_psql('postgres');
    $session->query_safe('SELECT apapacho_jobs.lock_outbox_slots(1, 2)');
    $node->ask('CREATE ROLE nobody LOGIN');
    like($node->error_of('SELECT apapacho_jobs.lock_outbox_slots(0, 2)', role => 'nobody'), qr/permission denied/, 'nobody but publishers may');
    like($node->error_of('SELECT apapacho_jobs.lock_outbox_slots(2, 2)'), qr/22023: there is no part 2 of 2/, 'a part that there is not');
    my $other = $node->background_psql('postgres', extra_params => ['-U', 'nobody']);
    $other->query_safe("SELECT count(pg_advisory_lock($class, slot)) FROM generate_series(0, 63) AS slot");
    emit_numbered(600, 300);
    my $left = q{SELECT count(*) FROM "OutboxEvent" WHERE "publishedAt" IS NULL AND %s
        hashtextextended("aggregateType" || '/' || "aggregateId", 0) & 1 = 1};
    $node->wait_for('SELECT (' . sprintf($left, 'NOT') . ') = 0', 'the others are published');
    cmp_ok($node->ask(sprintf($left, '')), '>', 100, 'theirs are not');
    $session->quit;
    $other->quit;
    is($node->ask(q{SELECT apapacho_outbox_process()->>'status'}), 'succeeded', 'until they let go');
    check_arrivals(0, 'shared');
};

subtest 'a shutdown with helpers at work' => sub {
    wait_for_rest();
    emit_numbered(15000, 300);
    wait_for_publishers(2);
    my $started = time();
    $node->stop('fast');
    cmp_ok(time() - $started, '<', 5, 'is fast');
    diag(sprintf('it took %.1f s', time() - $started));
    $node->start;
    check_arrivals(3 * 2 * $concurrency, 'shutdown');
};

my $kills = $ENV{PUBLISHERS_KILLS} // 4;
my $events = $ENV{PUBLISHERS_EVENTS} // 4000;

# Eight writers, each with aggregates of its own; some transactions are rolled back, some to a savepoint. Until they are ended.
sub start_writers {
    my ($script) = @_;
    return IPC::Run::start(['pgbench', '-n', '-c', 8, '-j', 2, '-T', 3600, '-f', $script, '-h', $node->host, '-p', $node->port, 'postgres'],
        '>', \my $output, '2>', \my $errors);
}

subtest "eight writers, publishers and the server killed $kills times" => sub {
    my $script = $node->basedir . '/write.sql';
    my @victims = ('the run', 'a helper', 'the postmaster');
    wait_for_rest();
    $node->ask("CREATE SEQUENCE numbers START $emitted");
    append_to_file($script, <<'SQL');
\set aggregate random(1, 100)
\set fate random(1, 10)
\sleep 4 ms
BEGIN;
SELECT apapacho_outbox_emit('Writer', (:client_id * 1000 + :aggregate)::text, lpad(nextval('numbers')::text, 8, '0'), '{}');
\if :fate = 1
ROLLBACK;
\elif :fate <= 3
SAVEPOINT s;
SELECT apapacho_outbox_emit('Writer', (:client_id * 1000 + :aggregate)::text, 'Undone', '{}');
ROLLBACK TO s;
COMMIT;
\else
COMMIT;
\endif
SQL
    my $first = $node->ask('SELECT count(*) FROM "OutboxEvent"');
    my $writers = start_writers($script);
    for my $kill (1 .. $kills) {
        my $goal = $first + $events * $kill / $kills;
        $node->wait_for(qq{SELECT count(*) >= $goal FROM "OutboxEvent"}, "$goal events");
        my $victim = $victims[int(rand(@victims))];
        my $type = $victim eq 'a helper' ? 'publisher' : 'worker';
        my $pid = $node->ask("SELECT pid FROM pg_stat_activity WHERE backend_type = 'apapacho_jobs $type' LIMIT 1");
        my $killed_at = time();
        if ($pid && $victim ne 'the postmaster') {
            $node->kill_hard($pid);
        } else {
            $node->kill_postmaster;
            $victim = 'the postmaster';
        }
        # they have lost their connections
        $writers->kill_kill(grace => 1);
        $writers = start_writers($script);
        my $before = deliveries();
        $node->wait_until(sub { deliveries() > $before }, 'it goes on');
        diag(sprintf('kill -9 of %s: the next delivery came after %.1f s', $victim, time() - $killed_at));
    }
    $writers->kill_kill(grace => 1);
    is($node->ask(q{SELECT count(*) FROM "OutboxEvent" WHERE "eventType" = 'Undone'}), '0', 'nothing that was rolled back is there');
    check_arrivals($kills * 3 * (200 + 2 * $concurrency), 'killed');
    diag($node->ask(q{SELECT count(*) || ' events' FROM "OutboxEvent" WHERE "aggregateType" = 'Writer'}));
};

$node->stop;
$receiver->stop;
done_testing();
