# 027_outbox_limits.pl: many transfers that hang hold up no statement and no shutdown; a publisher that has no file descriptors left
# loses nothing.
use strict;
use warnings;

use Apapacho;
use Outbox;
use PostgreSQL::Test::Utils;
use Recorder;
use Test::More;
use Time::HiRes qw(time);

my $recorder = Recorder->start;
my $node = Apapacho->create('main', tables => 'own', settings => {
    'apapacho_jobs.outbox_cron' => '0 0 1 1 *',
    'apapacho_jobs.outbox_publisher_type' => 'webhook',
    'apapacho_jobs.outbox_webhook_url' => $recorder->url,
    'apapacho_jobs.outbox_concurrency' => 500,
    'apapacho_jobs.outbox_timeout' => '10 min',
    'apapacho_jobs.outbox_retry_schedule' => '200 ms' });
my $in_flight = q{SELECT coalesce(in_flight, 0) FROM apapacho_jobs.outbox_status};

# What hangs would hang for minutes: whatever comes back within these seconds has not waited for it.
my $soon = 30;

sub emit_hanging {
    my ($count) = @_;
    $node->ask("SELECT count(apapacho_outbox_emit('Hang', g::text, 'Hang')) FROM generate_series(1, $count) AS g");
    $node->wait_for("SELECT in_flight = $count FROM apapacho_jobs.outbox_status", "$count transfers hang");
    return;
}

sub is_soon {
    my ($what, $code) = @_;
    my $started = time();

    $code->();
    diag(sprintf('%s: %.2f s', $what, time() - $started));
    cmp_ok(time() - $started, '<', $soon, $what);
    return;
}

$node->wait_for_scheduler;
$recorder->answer(Hang => 'hang');

subtest 'a publisher without file descriptors' => sub {
    plan skip_all => 'prlimit is not installed' unless grep { -x "$_/prlimit" } split(/:/, $ENV{PATH});
    emit($node, 'A/1/First');
    $recorder->wait_for(1);
    my ($worker) = $node->pids('worker');
    my $open = () = glob("/proc/$worker/fd/*");
    $open = 20 if $open < 20; # that cannot be seen by everybody
    system('prlimit', "--pid=$worker", '--nofile=' . ($open + 10)) == 0 or die "prlimit failed\n";
    $node->ask(q{SELECT count(apapacho_outbox_emit('Many', g::text, 'Many')) FROM generate_series(1, 300) AS g});
    $node->wait_for(q{SELECT count(*) FILTER (WHERE "publishedAt" IS NULL) = 0 FROM "OutboxEvent"}, 'all are published in the end');
    my %seen;
    $seen{ $_->{headers}{'webhook-id'} }++ for $recorder->take;
    is(scalar(keys %seen), 300, 'and have all been received');
    is(scalar(grep { $_ > 1 } values %seen), 0, 'once each');
    cmp_ok($node->ask(q{SELECT count(*) FROM apapacho_jobs.outbox_attempt WHERE http_status IS NULL}), '>', 0, 'connections failed for want of descriptors')
        or diag("the worker had $open");
    $node->ask("SELECT pg_terminate_backend($worker)");
    $node->wait_for("SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $worker", 'that publisher has gone');
};

subtest 'statements do not wait for the network' => sub {
    emit_hanging(500);
    is_soon('VACUUM FULL', sub { $node->ask('VACUUM FULL "OutboxEvent"') });
    is_soon('VACUUM FULL of our own', sub { $node->ask("VACUUM FULL apapacho_jobs.$_") for qw(outbox_retry outbox_endpoint outbox_attempt) });
    is_soon('ALTER TABLE', sub { $node->ask('ALTER TABLE "OutboxEvent" SET (fillfactor = 90)') });
    is_soon('TRUNCATE', sub { $node->ask('TRUNCATE "OutboxEvent"') });
    is($node->ask($in_flight), '500', 'they hang all the while');
    is_soon('DROP EXTENSION', sub { $node->ask('DROP EXTENSION apapacho_jobs') });
    $node->wait_for(q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type LIKE 'apapacho_jobs %' AND datname = current_database()}, 'nobody is left');
    $node->install;
    $node->wait_for_scheduler;
};

subtest 'nor does a shutdown, or the end of the database' => sub {
    $node->create_database('doomed');
    $node->load_tables('own', 'doomed');
    $node->wait_for_scheduler('doomed');
    $node->ask(q{SELECT count(apapacho_outbox_emit('Hang', g::text, 'Hang')) FROM generate_series(1, 100) AS g}, database => 'doomed');
    $node->wait_for('SELECT in_flight = 100 FROM apapacho_jobs.outbox_status', '100 transfers hang', 'doomed');
    is_soon('DROP DATABASE', sub { $node->ask('DROP DATABASE doomed') });
    emit_hanging(500);
    is_soon('a fast shutdown', sub { $node->stop('fast') });
    $recorder->answer(Hang => 200);
    $node->start;
    $node->wait_for(q{SELECT count(*) FILTER (WHERE "publishedAt" IS NULL) = 0 FROM "OutboxEvent"}, 'all are published after it');
};

$node->stop;
done_testing();
