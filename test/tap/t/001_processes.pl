# 001_processes.pl: the launcher, a scheduler for each served database, and how they come, go and come back.
use strict;
use warnings;

use Apapacho;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $hourly = { map { ("apapacho_jobs.${_}_cron" => '0 0 1 1 *') } qw(outbox payout cleanup retry) };
my $node = Apapacho->create('main', settings => $hourly);

# The pids of other processes than these, when they are there.
sub wait_for_new_pid {
    my ($kind, $database, @old) = @_;
    my $old = join(', ', 0, @old);
    my $of_database = defined $database ? "AND datname = '$database'" : '';

    $node->wait_for("SELECT count(*) = 1 FROM pg_stat_activity
        WHERE backend_type = 'apapacho_jobs $kind' $of_database AND pid NOT IN ($old)", "a new $kind");
    return;
}

subtest 'launcher, schedulers and workers are told apart in pg_stat_activity' => sub {
    $node->wait_for_scheduler;
    is($node->ask(q{SELECT string_agg(backend_type || ' ' || coalesce(datname, '-'), ', ' ORDER BY backend_type)
            FROM pg_stat_activity WHERE backend_type LIKE 'apapacho_jobs%'}),
        'apapacho_jobs launcher -, apapacho_jobs scheduler postgres', 'one launcher, one scheduler');
    is($node->ask(q{SELECT string_agg(DISTINCT application_name, ', ' ORDER BY application_name)
            FROM pg_stat_activity WHERE backend_type LIKE 'apapacho_jobs%'}),
        'apapacho_jobs launcher, apapacho_jobs scheduler', 'their application names say the same');

    $node->load_tables('fixture');
    my $session = $node->hold('OutboxEvent');
    $node->run_job('outbox', wait => 0);
    $node->wait_for_blocked_worker('outbox');
    is($node->ask(q{SELECT application_name || ' in ' || datname FROM pg_stat_activity
            WHERE backend_type = 'apapacho_jobs worker'}),
        'apapacho_jobs worker: outboxPublisher in postgres', 'the worker names its job');
    $node->let_go($session);
    $node->wait_for(q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'apapacho_jobs worker'},
        'the worker is gone when the run is over');
};

subtest 'a launcher or scheduler that is terminated comes back' => sub {
    my ($launcher) = $node->pids('launcher');
    my ($scheduler) = $node->pids('scheduler');
    my $started = time();

    $node->ask("SELECT pg_terminate_backend($launcher)");
    wait_for_new_pid('launcher', undef, $launcher);
    diag(sprintf('launcher back after %.1f s', time() - $started));
    is_deeply([$node->pids('scheduler')], [$scheduler], 'the scheduler went on without it');

    $started = time();
    $node->ask("SELECT pg_terminate_backend($scheduler)");
    wait_for_new_pid('scheduler', 'postgres', $scheduler);
    diag(sprintf('scheduler back after %.1f s', time() - $started));
    $node->wait_for_scheduler;
};

subtest 'after the crash of a scheduler the server recovers and it is back' => sub {
    my ($scheduler) = $node->pids('scheduler');

    $node->kill_hard($scheduler);
    wait_for_new_pid('scheduler', 'postgres', $scheduler);
    $node->wait_for_scheduler;
    is(scalar($node->pids('launcher')), 1, 'one launcher');
};

subtest 'enabled = off sends the schedulers away, on brings them back' => sub {
    my ($launcher) = $node->pids('launcher');

    $node->ask('ALTER SYSTEM SET apapacho_jobs.enabled = off');
    $node->reload;
    $node->wait_for_no_scheduler;
    is($node->ask('SELECT bool_or(running) FROM apapacho_job_status()'), 'f', 'no job is scheduled');
    is($node->run_job('outbox')->{status}, 'succeeded', 'jobs can be run by hand');
    is_deeply([$node->pids('scheduler')], [], 'which brings no scheduler');

    my $started = time();
    $node->ask('ALTER SYSTEM RESET apapacho_jobs.enabled');
    $node->reload;
    $node->wait_for_scheduler;
    diag(sprintf('scheduler back %.1f s after enabled = on', time() - $started));
    is($node->ask('SELECT bool_and(running) FROM apapacho_job_status()'), 't', 'every job is scheduled');
    is_deeply([$node->pids('launcher')], [$launcher], 'the launcher stayed');
};

subtest 'a database without the extension is no error, and is served once it has it' => sub {
    my $position = $node->log_position;

    $node->ask('CREATE DATABASE plain');
    $node->create_database('second');
    $node->wait_for_scheduler('second');
    is_deeply([$node->pids('scheduler', 'plain')], [], 'no scheduler without the extension');
    unlike($node->log_since($position), qr/WARNING|ERROR|FATAL/, 'nothing is complained of');

    $node->install('plain');
    $node->wait_for_scheduler('plain');
    is(scalar($node->pids('scheduler')), 3, 'three databases are served at once');
};

subtest 'CREATE EXTENSION that is rolled back changes nothing' => sub {
    $node->ask('CREATE DATABASE rolled_back');
    $node->ask('BEGIN; CREATE EXTENSION apapacho_jobs; ROLLBACK', database => 'rolled_back');
    $node->ask('CREATE EXTENSION apapacho_jobs', database => 'rolled_back');
    $node->wait_for_scheduler('rolled_back');
    $node->ask('BEGIN; DROP EXTENSION apapacho_jobs; ROLLBACK', database => 'rolled_back');
    is($node->ask(q{SELECT bool_and(running) FROM apapacho_job_status()}, database => 'rolled_back'), 't',
        'DROP EXTENSION that is rolled back too');
    $node->ask('DROP DATABASE rolled_back');
};

subtest 'DROP EXTENSION: its scheduler leaves, the others stay' => sub {
    my $position = $node->log_position;

    $node->ask('DROP EXTENSION apapacho_jobs', database => 'plain');
    $node->wait_for_no_scheduler('plain');
    is(scalar($node->pids('scheduler')), 2, 'the others stay');
    unlike($node->log_since($position), qr/WARNING|ERROR|FATAL/, 'nothing is complained of');

    $node->install('plain');
    $node->wait_for_scheduler('plain');
};

subtest 'only the databases named are served, by reload' => sub {
    my ($second) = $node->pids('scheduler', 'second');

    $node->reconfigure('apapacho_jobs.databases' => 'second, no_such_database');
    $node->wait_for_no_scheduler('postgres');
    $node->wait_for_no_scheduler('plain');
    is_deeply([$node->pids('scheduler')], [$second], 'the one that is named stays');
    is($node->ask('SELECT bool_or(running) FROM apapacho_job_status()'), 'f', 'nothing is scheduled in the others');

    $node->reconfigure('apapacho_jobs.databases' => 'plain');
    $node->wait_for_no_scheduler('second');
    $node->wait_for_scheduler('plain');

    my $position = $node->log_position;
    $node->reconfigure('apapacho_jobs.databases' => 'a b,,');
    $node->wait_for_log(qr/invalid value for parameter "apapacho_jobs.databases"/, $position);

    $node->reconfigure('apapacho_jobs.databases' => '*');
    $node->wait_for_scheduler($_) for qw(postgres second plain);
};

subtest 'fast shutdown with workers at work is quick' => sub {
    $node->load_tables('fixture', 'second');
    my @sessions = ($node->hold('OutboxEvent'), $node->hold('Payout'), $node->hold('Payout', 'second'));
    $node->run_job('outbox', wait => 0);
    $node->run_job('payout', wait => 0);
    $node->run_job('payout', wait => 0, database => 'second');
    $node->wait_for_blocked_worker('outbox');
    $node->wait_for_blocked_worker('payout');
    $node->wait_for_blocked_worker('payout', 'second');

    my $started = time();
    $node->stop('fast');
    my $seconds = time() - $started;
    diag(sprintf('fast shutdown took %.1f s', $seconds));
    cmp_ok($seconds, '<', 10, 'within 10 s, generously');
    $node->let_go($_) for @sessions;
};

# Of the worker slots, PostgreSQL's own logical replication launcher would take one.
my $scarce = Apapacho->create('scarce', start => 0,
    settings => { max_worker_processes => 1, max_logical_replication_workers => 0, %$hourly });

subtest 'no worker slot for a scheduler: one warning, and no haste' => sub {
    $scarce->start;
    $scarce->install;
    $scarce->wait_for_log(qr/WARNING: .*no background worker is free for the scheduler of a database/);
    my $looked = q{SELECT extract(epoch FROM state_change) FROM pg_stat_activity WHERE backend_type = 'apapacho_jobs launcher'};
    my @looks = $scarce->ask($looked);
    for (1 .. 2) {
        push @looks, $scarce->wait_until(sub { my $at = $scarce->ask($looked); $at ne $looks[-1] && $at; },
            'the launcher tries again');
    }
    cmp_ok($looks[-1] - $looks[0], '>', 1, 'it waits between its tries');
    my @warnings = $scarce->log_since(0) =~ /no background worker is free for the scheduler/g;
    is(scalar(@warnings), 1, 'it warns once');
};

subtest 'no worker slot for a run: a clear error' => sub {
    my $error = $scarce->error_of(q{SELECT apapacho_run_job('outbox')});

    like($error, qr/ERROR:  53400: job "outbox" cannot be run: no background worker is free/, 'message and code');
    like($error, qr/HINT:  Increase max_worker_processes\./, 'hint');
    is($scarce->ask(q{SELECT count(*) FROM apapacho_job_status() WHERE executing}), '0', 'nothing is left behind');
};

subtest 'no worker slot for a scheduled run: it is in the history' => sub {
    $scarce->stop;
    $scarce->configure(max_worker_processes => 2, 'apapacho_jobs.outbox_cron' => '1 seconds');
    my $position = $scarce->log_position;
    $scarce->start;
    $scarce->wait_for(q{SELECT count(*) >= 3 FROM apapacho_jobs.run WHERE job = 'outbox' AND status = 'no_worker'},
        'runs that found no worker');
    my $error = 'no background worker was free';
    is($scarce->ask(qq{SELECT count(*) FROM apapacho_jobs.run
            WHERE status = 'no_worker' AND (error <> '$error' OR started_at IS NOT NULL)}), '0', 'with the reason');
    is($scarce->ask(q{SELECT count(*) - count(DISTINCT scheduled_for) FROM apapacho_jobs.run WHERE status = 'no_worker'}), '0',
        'each time once');
    my $log = $scarce->log_since($position);
    my @warnings = $log =~ /WARNING: .*job "outbox" is due, but no background worker is free/g;
    cmp_ok(scalar(@warnings), '>=', 1, 'the log says so');
    cmp_ok(scalar(@warnings), '<=', $scarce->ask(q{SELECT count(*) + 1 FROM apapacho_jobs.run WHERE status = 'no_worker'}),
        'once for each at most');
    $scarce->stop;
};

done_testing();
