# 029_memory.pl: what the processes keep does not grow with what they have done: events delivered, failed, retried, runs of jobs.
use strict;
use warnings;

use Apapacho;
use Cli;
use Outbox;
use PostgreSQL::Test::Utils;
use Recorder;
use Test::More;

my $events = 1000;
my $rounds = 5;
my $recorder = Recorder->start;
my $node = Apapacho->create('main', tables => 'own', settings => {
    'apapacho_jobs.outbox_cron' => '0 0 1 1 *',
    'apapacho_jobs.outbox_publisher_type' => 'webhook',
    'apapacho_jobs.outbox_webhook_url' => $recorder->url,
    'apapacho_jobs.outbox_webhook_secret' => 'secret',
    'apapacho_jobs.outbox_retry_schedule' => '100 ms',
    'apapacho_jobs.outbox_max_retries' => 50 });

# Private memory in kB, and descriptors, of a process.
sub kept {
    my ($pid) = @_;
    my ($kb) = slurp_file("/proc/$pid/status") =~ /^RssAnon:\s*(\d+)/m;
    my $descriptors = () = glob("/proc/$pid/fd/*");

    return { kb => $kb, descriptors => $descriptors };
}

# Many events with payloads of 4 kB, in strings of several places; one in ten is refused, and tried again.
sub publish {
    $node->ask(qq{SELECT count(apapacho_outbox_emit('A', (g % 100)::text, 'Event',
        jsonb_build_object('n', g, 'text', repeat('x', 2000), 'list', jsonb_build_array(repeat('y', 1000), repeat('z', 1000)))))
        FROM generate_series(1, $events) AS g});
    $node->wait_for(q{SELECT count(*) = 0 FROM "OutboxEvent" WHERE "publishedAt" IS NULL}, 'all are published');
    $recorder->take;
    return;
}

sub is_flat {
    my ($what, $before, $after, $growth) = @_;

    diag("$what: $before->{kb} kB and $before->{descriptors} descriptors, then $after->{kb} and $after->{descriptors}");
    cmp_ok($after->{kb}, '<', $before->{kb} + $growth, "$what: memory");
    cmp_ok($after->{descriptors}, '<=', $before->{descriptors} + 8, "$what: descriptors");
    return;
}

$recorder->answer('*' => 'flaky');
$node->wait_for_scheduler;

subtest 'a publisher that goes on and on' => sub {
    publish() for 1 .. 3;
    my ($publisher) = $node->pids('worker');
    my $before = kept($publisher);
    publish() for 1 .. $rounds;
    is_deeply([$node->pids('worker')], [$publisher], 'it is the same one');
    # the payloads came to 20 MB
    is_flat('publisher', $before, kept($publisher), 4096);
};

subtest 'launcher and scheduler' => sub {
    my @pids = ($node->pids('launcher'), $node->pids('scheduler'));
    my $run = sub { $node->ask(join(';', ("SELECT apapacho_run_job('cleanup')") x 100)) };
    $run->();
    my @before = map { kept($_) } @pids;
    $run->() for 1 .. 5;
    is_deeply([$node->pids('launcher'), $node->pids('scheduler')], \@pids, 'they are the same');
    is_flat((qw(launcher scheduler))[$_], $before[$_], kept($pids[$_]), 1024) for 0 .. 1;
};

subtest 'a publisher that is not in the server' => sub {
    my $file = PostgreSQL::Test::Utils::tempdir() . '/start';
    apply($node, 'apapacho_jobs.enabled' => 'off');
    $node->wait_for_no_scheduler;
    # what it says of failures is more than a pipe takes
    my $program = start_cli({ node => $node, program => ['sh', '-c', "echo \$\$ >$file.pid; exec apapacho-jobs \"\$@\" >$file.log 2>&1", 'sh'] },
        qw(outbox start));
    $node->wait_until(sub { -s "$file.log" }, 'it has started');
    chomp(my $pid = slurp_file("$file.pid"));
    my $backends = sub { return $node->ask(q{SELECT string_agg(pid::text, ' ') FROM pg_stat_activity WHERE application_name = 'apapacho-jobs'}) };
    publish() for 1 .. 3;
    my $backend = $backends->();
    my @before = map { kept($_) } $pid, $backend;
    publish() for 1 .. $rounds;
    is($backends->(), $backend, 'its backend is the same one');
    is_flat((qw(program backend))[$_], $before[$_], kept(($pid, $backend)[$_]), 4096) for 0 .. 1;
    $program->signal('TERM');
    is($program->finish->{code}, 0, 'SIGTERM ends it');
};

$node->stop;
done_testing();
