# 050_start_shared.pl: several publishers that are not in the server, and one that is: they share the work, and take over from each other
# when one is killed, stopped or cut off. START_EVENTS=200000 is the size of the promise.
use strict;
use warnings;

use Apapacho;
use Cli;
use Outbox;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $events = $ENV{START_EVENTS} // 20_000;
my $secret = 'whsec_YXBhcGFjaG8gc2hhcmUgdGVzdA==';
my $directory = PostgreSQL::Test::Utils::tempdir();
my $log = "$directory/log";
my $receiver = Apapacho->start_receiver('--secret', $secret, '--port-file', "$directory/port", '--log', $log, '--quiet');
my $slots = "locktype = 'advisory' AND classid = 1634758007";
my $concurrency = 32; # four times that: `listen` hung when 128 connections were ready at a time
my $emitted = 0;
my $repeated = 0;

# What the receiver may see again of a publisher that was cut off: what was on its way, and what the server had not been told yet.
my $in_flight = 2 * $concurrency + 100;

my $node = Apapacho->create('main', tables => 'own', start => 0, settings => {
    'apapacho_jobs.enabled' => 'off',
    'apapacho_jobs.outbox_publisher_type' => 'webhook',
    'apapacho_jobs.outbox_webhook_secret' => $secret,
    'apapacho_jobs.outbox_concurrency' => $concurrency,
    'apapacho_jobs.outbox_cron' => '0 0 1 1 *',
    log_statement => 'none' });

$node->wait_until(sub { -s "$directory/port" }, 'the receiver listens');
chomp(my $port = slurp_file("$directory/port"));
$node->configure('apapacho_jobs.outbox_webhook_url' => "http://127.0.0.1:$port/");
$node->start;
$node->install;
$node->load_tables('own');

sub start_publishers {
    my ($count) = @_;
    my @programs = map { start_cli({ node => $node }, qw(outbox start)) } 1 .. $count;
    $_->wait_for_output(qr/Publishing the outbox/) for @programs;
    return @programs;
}

sub wait_for_shares {
    my ($count, $what) = @_;
    my $least = int(64 / $count);
    return $node->wait_for("SELECT count(*) = $count AND min(n) >= $least AND sum(n) = 64 FROM (SELECT pid, count(*) AS n FROM pg_locks WHERE $slots GROUP BY pid) AS s",
        $what);
}

sub emit_numbered {
    my ($count, $aggregates) = @_;
    $node->ask("SELECT count(apapacho_outbox_emit('Share', (g % $aggregates)::text, lpad(g::text, 8, '0'), jsonb_build_object('n', g)))
        FROM generate_series($emitted + 1, $emitted + $count) AS g");
    $emitted += $count;
    return;
}

sub deliveries { return -e $log ? slurp_file($log) =~ tr/\n// : 0 }

sub wait_for_deliveries {
    my ($count, $what) = @_;
    return $node->wait_until(sub { deliveries() >= $count }, $what);
}

# Everything is published; what the receiver got is right, with no more repeated than is allowed.
sub check_arrivals {
    my ($allowed, $what) = @_;

    $node->wait_for(q{SELECT count(*) = 0 FROM "OutboxEvent" WHERE "publishedAt" IS NULL}, "$what: all are published");
    my %found = arrivals($node, $log);
    is_deeply([@found{qw(events lost wrong unknown out_of_order)}], [$emitted, [], [], [], []], "$what: nothing lost, wrong, unknown or out of order");
    cmp_ok($found{repeated} - $repeated, '<=', $allowed, "$what: no more than $allowed deliveries repeated");
    diag("$what: " . ($found{repeated} - $repeated) . ' deliveries repeated');
    $repeated = $found{repeated};
    return;
}

sub processed {
    my ($result) = @_;
    my $sum = 0;
    $sum += $1 while $result->{out} =~ /Procesados: (\d+)/g;
    return $sum;
}

subtest 'four drain a backlog, one of them is killed' => sub {
    my @programs = start_publishers(4);
    wait_for_shares(4, 'each has a quarter of the slots');
    my $pids = $node->ask(q{SELECT string_agg(pid::text, ',') FROM pg_stat_activity WHERE application_name = 'apapacho-jobs'});
    emit_numbered($events, 500);
    wait_for_deliveries($events / 5, 'a fifth is delivered');
    my $killed_at = time();
    $programs[1]->signal('KILL');
    is($programs[1]->finish->{code}, 137, 'one is killed');
    wait_for_shares(3, 'the others have its slots');
    diag(sprintf('%.2f s after the kill', time() - $killed_at));
    cmp_ok(time() - $killed_at, '<', 30, 'soon');
    my $before = deliveries();
    $programs[2]->signal('TERM');
    my $stopped = $programs[2]->finish;
    is("$stopped->{code} $stopped->{err}", '0 ', 'one is stopped in the middle');
    check_arrivals($in_flight, 'after a kill');
    my $published = processed($stopped);
    for my $program (@programs[0, 3]) {
        $program->signal('TERM');
        my $result = $program->finish;
        is("$result->{code} $result->{err}", '0 ', 'another is stopped at the end');
        cmp_ok(processed($result), '>', 0, 'it had its part');
        $published += processed($result);
    }
    cmp_ok($published, '<=', $events, "what they have logged is no more than there was");
    $node->wait_for("SELECT count(*) = 0 FROM pg_locks WHERE $slots", 'nothing is held in the end');
};

subtest 'beside the publisher in the server' => sub {
    my ($program) = start_publishers(1);
    wait_for_shares(1, 'it has all');
    apply($node, 'apapacho_jobs.enabled' => 'on', 'apapacho_jobs.outbox_workers' => 2);
    $node->wait_for_scheduler;
    $node->wait_for(q{SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = 'apapacho-jobs'}, 'it is there');
    emit_numbered($events / 2, 300);
    $node->wait_for("SELECT count(DISTINCT pid) >= 2 FROM pg_locks WHERE $slots", 'both take part');
    check_arrivals(0, 'both');
    my $run = $node->wait_for_run(q{job = 'outbox' AND status = 'succeeded' AND (result->>'processed')::int > 0});
    apply($node, 'apapacho_jobs.enabled' => 'off');
    $node->wait_for_no_scheduler;
    wait_for_shares(1, 'what the server had is its again');
    emit_numbered(100, 10);
    check_arrivals(0, 'alone again');
    $program->signal('TERM');
    my $result = $program->finish;
    is("$result->{code} $result->{err}", '0 ', 'it ends');
    cmp_ok(processed($result), '>', 100, 'it had its part');
};

subtest 'PostgreSQL is restarted under them' => sub {
    my @programs = start_publishers(2);
    emit_numbered($events / 2, 300);
    wait_for_deliveries(deliveries() + $events / 10, 'they are at work');
    $node->restart;
    wait_for_shares(2, 'they are back');
    check_arrivals(2 * $in_flight, 'after a restart');
    for my $program (@programs) {
        $program->signal('TERM');
        my $result = $program->finish;
        is($result->{code}, 0, 'ends');
        like($result->{err}, qr/warning: the connection is lost, trying again in.*connected to PostgreSQL again after/s, 'and has said what happened');
    }
};

$receiver->stop;
$node->stop;
done_testing();
