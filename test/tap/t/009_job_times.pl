# 009_job_times.pl: users' jobs and time: restarts, crashes, times that nobody was there for, clock changes, dump and restore.
#
# The schedulers' clock is moved by apapacho_jobs.debug_clock_offset.
use strict;
use warnings;

use Apapacho;
use Jobs;
use Test::More;

my $node = Apapacho->create('main', settings => { max_worker_processes => 30 });
create_roles($node);
$node->wait_for_scheduler;

# Waits until a job that is due every second has had two more runs.
sub wait_for_ticks {
    my ($database) = @_;
    my $ended = q{FROM apapacho_jobs.run WHERE job = 'tick' AND status = 'succeeded'};
    my $count = 2 + $node->ask("SELECT count(*) $ended", database => $database);
    $node->wait_for("SELECT count(*) >= $count $ended", 'the scheduler is at work', $database);
    return;
}

sub trace { return "INSERT INTO t.seen VALUES ('$_[0]', 'x')" }

subtest '@reboot: once for each start of the server' => sub {
    schedule($node, 'boot', trace('boot'), schedule => '@reboot');
    schedule($node, 'tick', 'SELECT 1', schedule => '* * * * * *');
    wait_for_ticks();
    is(seen($node, 'boot'), '', 'not before the next start');
    $node->restart;
    is(outcome($node, 'status, scheduled_for = pg_postmaster_start_time()', 'boot'), 'succeeded|t', 'after a start');
    is($node->ask(q{SELECT running, next_runs IS NULL FROM apapacho_job_status() WHERE name = 'boot'}), 't|t', 'the status');

    my ($scheduler) = $node->pids('scheduler');
    $node->ask(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type ~ 'apapacho_jobs (launcher|scheduler)'});
    $node->wait_until(sub { my @pids = $node->pids('scheduler'); @pids == 1 && $pids[0] != $scheduler }, 'another scheduler');
    wait_for_ticks();
    is(seen($node, 'boot'), 'x', 'not when launcher and scheduler are started anew');
};

subtest 'nor after a crash; a run that is cut off by that is tried again if it has further attempts' => sub {
    schedule($node, 'again', 'SELECT pg_sleep(600)', retries => 1, retry_delay => '1 h');
    schedule($node, 'no more', 'SELECT pg_sleep(600)');
    $node->wait_for(q{SELECT count(*) = 2 FROM apapacho_job_status() WHERE executing AND name IN ('again', 'no more')}, 'two runs');
    $node->kill_hard(run_row($node, 'pid', 'again'));

    is(outcome($node, 'status, sqlstate, attempt', $_), 'crashed|XX000|1', "$_: crashed") for 'again', 'no more';
    my $id = $node->wait_for_run(q{job = 'again' AND trigger = 'retry' AND attempt = 2 AND status = 'running'});
    wait_for_ticks();
    is(run_rows($node, 'attempt', 'no more'), '1', 'the one without is left alone');
    is(seen($node, 'boot'), 'x', 'and @reboot does not run');
    is($node->ask("SELECT apapacho_cancel_run($id)", role => 'ana'), 't', 'the second attempt can be cancelled');
    $node->restart;
    is(outcome($node, 'status, scheduled_for = pg_postmaster_start_time()', 'boot', 2), 'succeeded|t', 'but after the next start');
    unschedule_all($node);
};

# Jobs that are due once an hour: the last time was ten minutes ago, and the next ones are called 1, 2 ... here.
my $base = $node->ask(q{SELECT date_trunc('minute', now() - interval '10 min')});
my $minute = $node->ask("SELECT extract(minute FROM '$base'::timestamptz)");
my %policies = (skip => {}, once => {}, all => { misfire_window => '1 day' }, window => { misfire => 'all', misfire_window => '1 h' });

# Waits until all before this time is settled for the jobs, and this is their next one.
sub wait_for_next {
    my ($number, $pass, @jobs) = @_;
    my $names = join(', ', map { "'$_'" } @jobs);
    my $count = @jobs;
    my $next = "'$base'::timestamptz + interval '$number h'";

    $node->wait_for("SELECT count(*) = $count FROM apapacho_job_status() JOIN apapacho_jobs.job_state USING (job_id)
        WHERE pass = $pass AND settled_until >= $next - interval '1 h' AND settled_until < $next AND next_run = $next AND name IN ($names)",
        "@jobs: number $number is next");
    return;
}

# Waits until everything up to the third time from there on is settled; how each ended, as "number slots status" of each row.
sub ledger {
    my ($from, $pass, @jobs) = @_;
    my $names = join(', ', map { "'$_'" } @jobs);
    my %ledger;

    wait_for_next($from + 3, $pass, @jobs);
    $node->wait_for("SELECT count(*) = 0 FROM apapacho_jobs.run WHERE job IN ($names) AND finished_at IS NULL", 'all runs have ended');
    for my $job (@jobs) {
        $ledger{$job} = $node->ask("SELECT string_agg(concat_ws(' ', extract(epoch FROM scheduled_for - '$base')::int / 3600, slots,
                status), ', ' ORDER BY scheduled_for)
            FROM apapacho_jobs.slot
            WHERE job = '$job' AND pass = $pass AND scheduled_for >= '$base'::timestamptz + interval '$from h'");
    }
    return \%ledger;
}

sub hours { my ($hours) = @_; return $hours * 3600 + 1200 }

my @jobs = sort keys %policies;
subtest 'times that nobody was there for' => sub {
    schedule($node, $_, trace($_), schedule => "$minute * * * *", misfire => $_, %{ $policies{$_} }) for @jobs;
    wait_for_next(1, 0, @jobs);
    $node->stop;
    $node->configure('apapacho_jobs.debug_clock_offset' => hours(3));
    $node->start;
    is_deeply(ledger(1, 0, @jobs), { skip => '1 3 missed', once => '1 2 coalesced, 3 1 succeeded',
        all => '1 1 succeeded, 2 1 succeeded, 3 1 succeeded', window => '1 2 missed, 3 1 succeeded' }, 'while the server was stopped');

    $node->reconfigure('apapacho_jobs.debug_clock_offset' => hours(6));
    is_deeply(ledger(4, 0, @jobs), { skip => '4 3 missed', once => '4 2 coalesced, 6 1 succeeded',
        all => '4 1 succeeded, 5 1 succeeded, 6 1 succeeded', window => '4 2 missed, 6 1 succeeded' }, 'when the clock is set forward');
    is($node->ask(q{SELECT count(DISTINCT scheduled_for), array_agg(scheduled_for ORDER BY started_at) = array_agg(scheduled_for
            ORDER BY scheduled_for) FROM apapacho_jobs.run WHERE job = 'all'}), '6|t', 'all of them run in order');
    is(seen($node, $_), join("\n", ('x') x { skip => 0, once => 2, all => 6, window => 2 }->{$_}), "$_: what has been done") for @jobs;
};

subtest 'the clock is set back: what has run does not run again, and the jobs do not stand still' => sub {
    schedule($node, 'tick', 'SELECT 1', schedule => '* * * * * *');
    wait_for_ticks();
    $node->reconfigure('apapacho_jobs.debug_clock_offset' => 0);
    $node->wait_for_run(q{job = 'tick' AND pass = 1 AND status = 'succeeded' AND scheduled_for < now()});
    wait_for_next(1, 1, @jobs);
    is($node->ask(q{SELECT count(*) FROM apapacho_jobs.run WHERE pass > 0 AND job <> 'tick'}), '0', 'nothing runs again');
    $node->ask(q{SELECT apapacho_unschedule_job('tick')});
};

subtest 'times when the schedules are off, or a job is paused' => sub {
    $node->reconfigure('apapacho_jobs.enabled' => 'off');
    $node->wait_for_no_scheduler;
    $node->reconfigure('apapacho_jobs.enabled' => 'on', 'apapacho_jobs.debug_clock_offset' => hours(3));
    is_deeply(ledger(1, 1, @jobs), { map { $_ => '1 3 paused' } @jobs }, 'are recorded as such');

    # no scheduler could write down that they are
    $node->stop('immediate');
    $node->configure('apapacho_jobs.enabled' => 'off');
    $node->start;
    $node->reconfigure('apapacho_jobs.enabled' => 'on', 'apapacho_jobs.debug_clock_offset' => hours(6));
    is_deeply(ledger(4, 1, @jobs), { map { $_ => '4 3 paused' } @jobs }, 'also when they were switched off while the server was stopped');

    $node->ask("SELECT apapacho_pause_job('$_')", role => 'ana') for qw(once all);
    $node->wait_for(q{SELECT count(*) = 2 FROM apapacho_job_status() WHERE NOT running AND name IN ('once', 'all')}, 'paused');
    $node->reconfigure('apapacho_jobs.debug_clock_offset' => hours(9));
    is_deeply(ledger(7, 1, qw(skip window)), { skip => '7 3 missed', window => '7 2 missed, 9 1 succeeded' }, 'others are as ever');
    $node->ask("SELECT apapacho_resume_job('$_')", role => 'ana') for qw(once all);
    is_deeply(ledger(7, 1, qw(once all)), { once => '7 3 paused', all => '7 3 paused' }, 'paused ones too');

    $node->reconfigure('apapacho_jobs.debug_clock_offset' => hours(12));
    is_deeply(ledger(10, 1, @jobs), { skip => '10 3 missed', once => '10 2 coalesced, 12 1 succeeded',
        all => '10 1 succeeded, 11 1 succeeded, 12 1 succeeded', window => '10 2 missed, 12 1 succeeded' }, 'then it goes on');
    unschedule_all($node);
};

# Sets the clock and waits until that is known; then until jobs have run for a time, by name; and that no others have.
sub set_clock_to {
    my ($time) = @_;
    set_clock($node, "'$time'::timestamptz");
    $node->wait_for("SELECT abs(extract(epoch FROM now() + current_setting('apapacho_jobs.debug_clock_offset')::interval - '$time')) < 60",
        "it is $time");
    return;
}

sub runs_at {
    my ($time, @jobs) = @_;
    set_clock_to($time);
    my $slot = substr($time, 0, 16) . ':00Z';
    $node->wait_for("SELECT count(*) = 1 FROM apapacho_jobs.run WHERE job = '$_' AND scheduled_for = '$slot' AND status = 'succeeded'",
        "$_ runs at $slot") for @jobs;
    is($node->ask("SELECT string_agg(job, ' ' ORDER BY job) FROM apapacho_jobs.run WHERE scheduled_for = '$slot'"), join(' ', sort @jobs),
        "these alone run at $slot");
    return;
}

subtest 'time zones of their own, on the days when the clock is changed' => sub {
    my %santiago = (time_zone => 'America/Santiago');
    my $next_runs = sub {
        my ($name) = @_;
        return $node->ask("SELECT array_to_string(next_runs[1:2], ' ') FROM apapacho_job_status() WHERE name = '$name'");
    };

    # On 2024-09-08 Santiago's clock went from 00:00 to 01:00, at 04:00Z.
    set_clock_to('2024-09-08 03:40:00Z');
    schedule($node, 'gap', trace('gap'), schedule => '30 0 * * *', %santiago);
    schedule($node, 'later', trace('later'), schedule => '30 1 * * *', %santiago);
    schedule($node, 'half', trace('half'), schedule => '*/30 * * * *', %santiago);
    schedule($node, 'berlin', trace('berlin'), schedule => '0 6 * * *', time_zone => 'Europe/Berlin');
    $node->wait_for('SELECT count(*) = 4 FROM apapacho_job_status() WHERE next_run IS NOT NULL', 'they are due');
    is($next_runs->('gap'), '2024-09-08 04:00:00+00 2024-09-09 03:30:00+00', 'a time in the gap');
    runs_at('2024-09-08 04:00:01Z', qw(gap half berlin));
    runs_at('2024-09-08 04:30:01Z', qw(later half));
    is($next_runs->('gap'), '2024-09-09 03:30:00+00 2024-09-10 03:30:00+00', 'once');

    # On 2024-04-06 it went from 24:00 to 23:00, at 03:00Z.
    unschedule_all($node);
    set_clock_to('2024-04-07 02:20:00Z');
    schedule($node, 'twice', trace('twice'), schedule => '30 23 * * *', %santiago);
    schedule($node, 'half', trace('half'), schedule => '*/30 * * * *', %santiago);
    $node->wait_for('SELECT count(*) = 2 FROM apapacho_job_status() WHERE next_run IS NOT NULL', 'they are due');
    runs_at('2024-04-07 02:30:01Z', qw(twice half));
    runs_at('2024-04-07 03:00:01Z', qw(half));
    runs_at('2024-04-07 03:30:01Z', qw(half));
    is($next_runs->('twice'), '2024-04-08 03:30:00+00 2024-04-09 03:30:00+00', 'a time that comes twice: once');
    unschedule_all($node);
    $node->reconfigure('apapacho_jobs.debug_clock_offset' => 0);
};

subtest 'pg_dump and restore' => sub {
    my $file = $node->basedir . '/dump.sql';
    my $jobs = q{SELECT string_agg(j::text, E'\n' ORDER BY id) FROM apapacho_jobs.job AS j WHERE NOT builtin};
    schedule($node, 'tick', 'SELECT 1', schedule => '@every 1s', role => 'ben');
    schedule($node, 'hourly', trace('hourly'), schedule => "$minute * * * *", overlap => 'queue', timeout => '90 s', retries => 2);
    schedule($node, 'sleeping', trace('sleeping'), schedule => '@every 2s', time_zone => 'Europe/Berlin');
    $node->ask(q{SELECT apapacho_pause_job('sleeping')}, role => 'ana');
    wait_for_ticks();

    $node->command_ok(['pg_dump', '--file', $file, $node->connstr('postgres')], 'pg_dump');
    $node->ask('CREATE DATABASE restored');
    $node->reconfigure('apapacho_jobs.debug_clock_offset' => hours(3));
    $node->command_ok(['psql', '-X', '-q', '-o', $node->basedir . '/restore.out', '-v', 'ON_ERROR_STOP=1', '-f', $file,
        $node->connstr('restored')], 'psql, without an error');
    is($node->ask($jobs, database => 'restored'), $node->ask($jobs), 'the jobs are there again');
    wait_for_ticks('restored');
    is($node->ask(q{SELECT next_run FROM apapacho_job_status() WHERE name = 'hourly'}, database => 'restored'),
        $node->ask("SELECT '$base'::timestamptz + interval '4 h'"), 'they go on from now');
    is($node->ask(q{SELECT string_agg(DISTINCT concat_ws(' ', job, owner), ', ') FROM apapacho_jobs.run
            WHERE status <> 'running' AND status <> 'queued'}, database => 'restored'), 'tick ben', 'nothing is counted as missed');
    is($node->ask(q{SELECT DISTINCT status FROM apapacho_jobs.run WHERE finished_at IS NOT NULL}, database => 'restored'), 'succeeded',
        'not even a time of those');
    is($node->ask(q{SELECT apapacho_schedule_job('new', '@yearly', 'SELECT 1') > max(id) FROM apapacho_jobs.job}, database => 'restored'),
        't', 'new jobs have new numbers');
};

$node->stop;
done_testing();
