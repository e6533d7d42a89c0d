# 023_left_over.pl: what is left of runs that were taken and not begun when the server stops, and who hears of those that were cut off;
# intervals when the clock is set back; a schedule that never fires.
#
# The schedulers' clock is moved by apapacho_jobs.debug_clock_offset.
use strict;
use warnings;

use Apapacho;
use Jobs;
use Test::More;

my $node = Apapacho->create('main', settings => { max_worker_processes => 30 });
create_roles($node);
$node->ask('CREATE TABLE t.gate (); GRANT SELECT ON t.gate TO PUBLIC');
$node->wait_for_scheduler;

# Jobs that are due once an hour: the last time was ten minutes ago, and the next ones are called 1, 2 ... here.
my $base = $node->ask(q{SELECT date_trunc('minute', now() - interval '10 min')});
my $minute = $node->ask("SELECT extract(minute FROM '$base'::timestamptz)");
my %policies = (skip => {}, once => {}, window => { misfire => 'all', misfire_window => '1 h' },
    all => { misfire => 'all', misfire_window => '1 day' });
my @jobs = sort keys %policies;

sub hours { my ($hours) = @_; return $hours * 3600 + 1200 }

# Waits for a notification on the channel that a listener has heard.
sub wait_for_notification {
    my ($listener, $pattern) = @_;
    my $heard = '';
    $node->wait_until(sub { $heard .= $listener->query_safe('SELECT 1'); return $heard =~ $pattern; }, "notified: $pattern");
    return;
}

subtest 'runs in the queue when the server stops, for ten hours' => sub {
    schedule($node, $_, "SELECT FROM t.gate; INSERT INTO t.seen VALUES ('$_', 'x')", schedule => "$minute * * * *", overlap => 'queue')
        for @jobs;
    $node->wait_for('SELECT count(*) = 4 FROM apapacho_job_status() WHERE next_run IS NOT NULL', 'they are due');
    my $gate = session_of($node);
    $gate->query_safe('BEGIN; LOCK TABLE t.gate');
    $node->reconfigure('apapacho_jobs.debug_clock_offset' => hours(1) - 600);
    wait_for_status($node, $_, 'running') for @jobs;
    $node->reconfigure('apapacho_jobs.debug_clock_offset' => hours(2) - 600);
    wait_for_status($node, $_, 'queued') for @jobs;
    is($node->ask(q{SELECT count(DISTINCT scheduled_for), min(scheduled_for) = '} . $base . q{'::timestamptz + interval '2 h'
        FROM apapacho_jobs.run WHERE status = 'queued'}), '1|t', 'one run of each is in the queue, behind one at work');
    for my $job (@jobs) {
        my %policy = (misfire => $job, %{ $policies{$job} });
        my $policy = join(', ', map { "$_ => '$policy{$_}'" } sort keys %policy);
        $node->ask("SELECT apapacho_alter_job('$job', $policy)", role => 'ana');
    }
    $node->stop('immediate');
    $node->configure('apapacho_jobs.debug_clock_offset' => hours(12) - 600);
    $node->start;
    $node->wait_for("SELECT bool_and(settled_until >= '$base'::timestamptz + interval '12 h') FROM apapacho_jobs.job_state JOIN apapacho_jobs.job ON id = job_id
        WHERE NOT builtin", 'all that was missed is dealt with');
    $node->wait_for('SELECT count(*) = 0 FROM apapacho_jobs.run WHERE finished_at IS NULL', 'all runs have ended');

    my %ledger = map { $_ => $node->ask("SELECT string_agg(concat_ws(' ', extract(epoch FROM scheduled_for - '$base')::int / 3600, slots, status), ', '
        ORDER BY scheduled_for) FROM apapacho_jobs.slot WHERE job = '$_'") } @jobs;
    is_deeply(\%ledger, {
        skip => '1 1 crashed, 2 1 missed, 3 10 missed',
        once => '1 1 crashed, 2 1 coalesced, 3 9 coalesced, 12 1 succeeded',
        window => '1 1 crashed, 2 1 missed, 3 9 missed, 12 1 succeeded',
        all => join(', ', '1 1 crashed', map { "$_ 1 succeeded" } 2 .. 12) }, 'go by the policy on misfires too');
    is(seen($node, $_), join("\n", ('x') x { skip => 0, once => 1, window => 1, all => 11 }->{$_}), "$_: what has been done") for @jobs;
    unschedule_all($node);
    $node->reconfigure('apapacho_jobs.debug_clock_offset' => 0);
};

subtest 'a run that a crash has cut off, and one that found no worker, are told on the channel' => sub {
    schedule($node, 'cut off', 'SELECT pg_sleep(600)');
    my $id = wait_for_status($node, 'cut off', 'running');
    $node->stop('immediate');
    $node->configure('apapacho_jobs.enabled' => 'off', 'apapacho_jobs.max_workers' => 1);
    $node->start;
    my $listener = session_of($node);
    $listener->query_safe('LISTEN apapacho_jobs');
    $node->reconfigure('apapacho_jobs.enabled' => 'on');
    is(outcome($node, 'status', 'cut off'), 'crashed', 'the run');
    wait_for_notification($listener, qr/"job": "cut off", "runId": $id, "status": "crashed", "sqlstate": "XX000", "attempt": 1, "final": true/);

    schedule($node, 'hog', 'SELECT pg_sleep(600)');
    wait_for_status($node, 'hog', 'running');
    schedule($node, 'waits', 'SELECT', schedule => '* * * * * *');
    wait_for_notification($listener, qr/"job": "waits", "runId": \d+, "status": "no_worker", "sqlstate": "53400", "attempt": 1, "final": true/);
    $listener->quit;
    unschedule_all($node);
};

subtest 'an interval goes on from the new time when the clock is set back by more than it is long' => sub {
    my $clock = q{(clock_timestamp() + current_setting('apapacho_jobs.debug_clock_offset')::interval)};

    $node->ask('SELECT pg_cancel_backend(pid) FROM apapacho_jobs.run WHERE finished_at IS NULL AND pid IS NOT NULL');
    schedule($node, 'hourly', 'SELECT', schedule => '@every 1h');
    $node->wait_for(q{SELECT next_run IS NOT NULL FROM apapacho_job_status() WHERE name = 'hourly'}, 'it is due');
    $node->reconfigure('apapacho_jobs.debug_clock_offset' => 3605);
    is(outcome($node, 'status', 'hourly'), 'succeeded', 'it runs after an hour');
    $node->reconfigure('apapacho_jobs.debug_clock_offset' => -1800);
    $node->wait_for("SELECT next_run <= $clock + interval '1 h' FROM apapacho_job_status() WHERE name = 'hourly'",
        'the next one is not more than an hour away');
    is($node->ask(q{SELECT pass FROM apapacho_jobs.job_state WHERE job_id = (SELECT id FROM apapacho_jobs.job WHERE name = 'hourly')}), '1',
        'its time has begun anew');
    is($node->ask(q{SELECT count(*) FROM apapacho_jobs.run WHERE job = 'hourly'}), '1', 'nothing runs again');
};

subtest 'a built-in job whose schedule never fires in the zone that is set' => sub {
    my $position = $node->log_position;

    # the last Sunday of March from two to three, when Berlin has no such time
    $node->reconfigure('apapacho_jobs.debug_clock_offset' => 0, 'apapacho_jobs.retry_cron' => '*/30 2 * 3 sunL');
    $node->wait_for(q{SELECT running AND next_run IS NOT NULL FROM apapacho_job_status() WHERE name = 'retry'}, 'in UTC it does');
    $node->reconfigure('apapacho_jobs.timezone' => 'Europe/Berlin');
    $node->wait_for_log(qr/WARNING: .*job "retry" is not scheduled: its schedule "[^"]+" never fires in time zone "Europe\/Berlin"/, $position);
    $node->wait_for(q{SELECT NOT running AND next_run IS NULL FROM apapacho_job_status() WHERE name = 'retry'}, 'is not scheduled');
    is($node->ask(q{SELECT running FROM apapacho_job_status() WHERE name = 'hourly'}), 't', 'others are');
};

$node->stop;
done_testing();
