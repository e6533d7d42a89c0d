# 011_outbox_crash.pl: events are published while the worker, the postmaster and the whole server are killed, again and again.
#
# In the end the receiver's own log is held against the table: nothing lost, nothing that was rolled back, nothing out of order. The
# receiver takes a moment for each delivery, so that publishing lasts long enough to be hit.
use strict;
use warnings;

use Apapacho;
use Carp;
use IPC::Run ();
use Outbox;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $secret = 'whsec_YXBhcGFjaG8gY3Jhc2ggdGVzdA==';
my $concurrency = 16;
my $aggregates = 100;
my $directory = PostgreSQL::Test::Utils::tempdir();
my $log = "$directory/log";
my $receiver = Apapacho->start_receiver('--secret', $secret, '--port-file', "$directory/port", '--log', $log, '--delay-ms', 5, '--quiet');
my $node = Apapacho->create('main', tables => 'own', start => 0, settings => {
    'apapacho_jobs.outbox_publisher_type' => 'webhook',
    'apapacho_jobs.outbox_webhook_secret' => $secret,
    'apapacho_jobs.outbox_concurrency' => $concurrency,
    'apapacho_jobs.outbox_batch_size' => 500,
    'apapacho_jobs.outbox_wake_on_commit' => 'off',
    'apapacho_jobs.outbox_cron' => '0 0 1 1 *' });
my $emitted = 0;
my $kills = 0;
my $cut_off = 0;
my $killed_at;

start_with_receiver($node, "$directory/port");

sub deliveries {
    return -e $log ? slurp_file($log) =~ tr/\n// : 0;
}

# Polls without a rest to speak of: what is to be hit is over soon.
sub wait_for_deliveries {
    my ($count) = @_;
    my $deadline = time() + $PostgreSQL::Test::Utils::timeout_default;
    my $wanted = deliveries() + $count;

    until (deliveries() >= $wanted) {
        croak "timed out waiting for $count deliveries" if time() > $deadline;
        usleep(5_000);
    }
    return;
}

# Events in one transaction, some of them rolled back to a savepoint; others in one that is rolled back.
sub emit_many {
    my ($count) = @_;
    my $events = sub {
        my ($type, $rows) = @_;
        return "SELECT count(apapacho_outbox_emit('Crash', (g % $aggregates)::text, $type, jsonb_build_object('n', g)))
            FROM generate_series($emitted + 1, $emitted + $rows) AS g;";
    };

    $node->ask('BEGIN;' . $events->(q{'Undone'}, 100) . 'ROLLBACK; BEGIN;' . $events->(q{lpad(g::text, 8, '0')}, $count)
        . 'SAVEPOINT s;' . $events->(q{'Undone'}, 100) . 'ROLLBACK TO s; COMMIT');
    $emitted += $count;
    return;
}

# A producer at work: an event a transaction, every tenth rolled back, until the server is gone. It commits what it can.
sub produce {
    my ($count) = @_;
    my $producer = $node->begin_statement("DO \$\$ BEGIN
        FOR g IN $emitted + 1 .. $emitted + $count LOOP
            PERFORM apapacho_outbox_emit('Crash', (g % $aggregates)::text, lpad(g::text, 8, '0'), '{}');
            COMMIT;
            IF g % 10 = 0 THEN
                PERFORM apapacho_outbox_emit('Crash', (g % $aggregates)::text, 'Undone', '{}');
                ROLLBACK;
            END IF;
        END LOOP;
        PERFORM apapacho_outbox_emit('Crash', '1', 'Undone', '{}');
        PERFORM pg_sleep(600);
    END \$\$");
    $emitted += $count;
    return $producer;
}

# A transaction with events that is open when the server goes.
sub leave_open {
    return $node->begin_statement(q{BEGIN; SELECT apapacho_outbox_emit('Crash', '1', 'Undone') FROM generate_series(1, 50); SELECT pg_sleep(600)});
}

# Every process notices by itself that the postmaster is gone; only then can a new one start.
sub kill_postmaster {
    my @pids = ($node->{_pid}, split(/\n/, $node->ask('SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()')));

    $node->kill9;
    $node->wait_until(sub { !grep { kill(0, $_) } @pids }, 'all of its processes have ended');
    $node->start;
    return;
}

# Under a schedule the worker may just have ended; the scheduler is always there.
my %crash = (
    'immediate shutdown' => sub { $node->stop('immediate'); $node->start; },
    'kill -9 of the postmaster' => sub { kill_postmaster(); },
    'kill -9 of the worker' => sub { $node->kill_hard($_[0]); },
    'kill -9 of worker and scheduler' => sub {
        my ($scheduler) = $node->pids('scheduler');
        $node->kill_hard($node->pids('worker'), $scheduler);
    },
);

sub all_published {
    my ($what) = @_;

    $node->wait_for(q{SELECT apapacho_outbox_stats()->>'pending' = '0'}, 'by itself, everything is published');
    diag("$what: the next run began " . $node->ask("SELECT round(extract(epoch FROM min(started_at)) - $killed_at, 1)
        FROM apapacho_jobs.run WHERE started_at > to_timestamp($killed_at)") . ' s after it');
    return;
}

sub crash {
    my ($what, $pid) = @_;

    $killed_at = time();
    $crash{$what}->($pid);
    $kills++;
    my $pending = $node->ask(q{SELECT count(*) FROM "OutboxEvent" WHERE "publishedAt" IS NULL});
    $cut_off++ if $pending > 0;
    diag("$what: $pending events were still pending");
    return $pending;
}

for my $what (grep { !/scheduler/ } sort keys %crash) {
    subtest "$what in a run by hand: a recovery run goes on" => sub {
        emit_many(2500);
        my $open = leave_open();
        my $run = $node->run_job('outbox', wait => 0)->{runId};
        wait_for_deliveries(300);
        my ($pid) = $node->pids('worker');
        my $pending = crash($what, $pid);
        all_published($what);
        if ($pending > 0) {
            $node->wait_for_run("id > $run AND job = 'outbox' AND trigger = 'recovery' AND status = 'succeeded'");
            is($node->ask("SELECT status, trigger, sqlstate FROM apapacho_jobs.run WHERE id = $run"), 'crashed|manual|XX000',
                'the run that was cut off is in the history as such');
        }
        $open->finish;
    };
}

$node->reconfigure('apapacho_jobs.outbox_cron' => '1 seconds');
$node->wait_for_scheduler;

for my $what (grep { !/the worker/ } sort keys %crash) {
    subtest "$what under a schedule, twice, with a producer at work" => sub {
        my @producers = produce(2000);
        wait_for_deliveries(300);
        crash($what);
        push @producers, produce(1500);
        wait_for_deliveries(100);
        crash($what);
        all_published($what);
        $_->finish for @producers;
    };
}

subtest 'what the receiver got' => sub {
    my %found = arrivals($node, $log);

    diag(sprintf('%d events, %d kills, %d deliveries repeated: %.0f a kill', $found{events}, $kills, $found{repeated}, $found{repeated} / $kills));
    cmp_ok($found{events}, '>=', 7500, 'there were thousands of events');
    cmp_ok($cut_off, '>=', 5, 'most kills came in the middle');
    is_deeply($found{lost}, [], 'every committed event arrived');
    is_deeply($found{wrong}, [], 'with both signatures valid');
    is_deeply($found{unknown}, [], 'none that was rolled back');
    is_deeply($found{out_of_order}, [], 'first arrivals are in order in every aggregate');
    # 200 answers that are not recorded yet, what comes in at once with the last of them, and what is on its way then.
    cmp_ok($found{repeated}, '<=', $kills * (200 + 2 * $concurrency), 'no more repeated than a kill can leave unrecorded');
    is($node->ask(q{SELECT count(*) FILTER (WHERE "publishedAt" IS NULL), sum("retryCount"), count("lastError") FROM "OutboxEvent"}),
        '0|0|0', 'all are published, and no crash counts as a failure');
    is($node->ask(q{SELECT count(*) FROM "OutboxEvent" WHERE "eventType" = 'Undone'}), '0', 'the undone are not in the table');
};

$node->stop;
$receiver->stop;
done_testing();
