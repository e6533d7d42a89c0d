# 007_schedule.pl: jobs start by themselves, each time once; the schedulers' clock is moved by apapacho_jobs.debug_clock_offset.
use strict;
use warnings;

use Apapacho;
use Test::More;

# No runs but scheduled ones: a publisher that a reload stops would hand on the payout's event to one that no schedule asked for.
my $node = Apapacho->create('main', tables => 'own', settings => { 'apapacho_jobs.outbox_wake_on_commit' => 'off' });
$node->wait_for_scheduler;

# Moves the clock to this many seconds from now.
sub set_clock {
    my ($offset) = @_;
    $node->reconfigure('apapacho_jobs.debug_clock_offset' => $offset);
    return;
}

# Waits until the next run of a job satisfies a condition.
sub wait_for_next {
    my ($job, $condition) = @_;
    $node->wait_for("SELECT $condition FROM apapacho_job_status() WHERE name = '$job'", "next run of $job: $condition");
    return;
}

subtest 'the payout job starts by itself on a Sunday at two' => sub {
    my $sunday = $node->ask(q{SELECT date_trunc('week', now()) + '6 days 02:00'
        + CASE WHEN now() > date_trunc('week', now()) + '6 days 01:59' THEN interval '7 days' ELSE '0' END});

    $node->reconfigure('apapacho_jobs.payout_cron' => '0 2 * * 0');
    wait_for_next('payout', "next_run = '$sunday'");
    set_clock($node->ask("SELECT ceil(extract(epoch FROM '$sunday' - now()))::bigint - 2"));
    my $id = $node->wait_for_run("job = 'payout' AND status = 'succeeded'");
    is($node->ask("SELECT trigger, requested_by IS NULL, scheduled_for = '$sunday', result->>'errors'
            FROM apapacho_jobs.run WHERE id = $id"), 'schedule|t|t|0', 'the history');
    wait_for_next('payout', "next_run = '$sunday'::timestamptz + interval '7 days'");
    is($node->ask(q{SELECT count(*) FROM apapacho_jobs.run}), '1', 'once, and no other job');
};

subtest 'the clock is set back: what has been run does not come again, the schedule goes on from there' => sub {
    my $ran = $node->ask(q{SELECT max(scheduled_for) FROM apapacho_jobs.run WHERE job = 'payout'});

    set_clock(0);
    wait_for_next('payout', "next_run = '$ran'::timestamptz + interval '7 days'");
    $node->reconfigure('apapacho_jobs.payout_cron' => '', 'apapacho_jobs.outbox_cron' => '1 seconds');
    $node->wait_for_run(q{job = 'outbox' AND trigger = 'schedule' AND scheduled_for <= clock_timestamp()});
    set_clock(-7200);
    $node->wait_for_run(q{job = 'outbox' AND trigger = 'schedule' AND scheduled_for < clock_timestamp() - interval '1 hour'});
    set_clock(0);
    $node->wait_for(q{SELECT scheduled_for > now() - interval '10 minutes' FROM apapacho_jobs.run ORDER BY id DESC LIMIT 1},
        'and forward again');
};

subtest 'every second: each time once' => sub {
    my $since = $node->ask('SELECT max(id) FROM apapacho_jobs.run');

    $node->wait_for("SELECT count(*) >= 5 FROM apapacho_jobs.run WHERE id > $since AND status <> 'running'", 'five runs');
    is($node->ask("SELECT count(*) - count(DISTINCT scheduled_for) FROM apapacho_jobs.run WHERE id > $since"), '0', 'each once');
    is($node->ask("SELECT count(*) FROM apapacho_jobs.run WHERE id > $since AND started_at < scheduled_for"), '0', 'none too early');
    is($node->ask("SELECT string_agg(DISTINCT job || ' ' || trigger, ',') FROM apapacho_jobs.run WHERE id > $since"),
        'outbox schedule', 'all of them scheduled');
    $node->reconfigure('apapacho_jobs.outbox_cron' => '');
    $node->wait_for('SELECT NOT bool_or(running OR executing) FROM apapacho_job_status()', 'no more');
};

subtest 'times that pass unseen count as one' => sub {
    my $since = $node->ask('SELECT max(id) FROM apapacho_jobs.run');

    $node->reconfigure('apapacho_jobs.retry_cron' => '*/10 * * * *');
    wait_for_next('retry', 'next_run IS NOT NULL');
    my $next = $node->ask(q{SELECT next_run FROM apapacho_job_status() WHERE name = 'retry'});
    set_clock($node->ask("SELECT extract(epoch FROM '$next' - now())::bigint + 3605"));
    $node->wait_for_run("id > $since AND job = 'retry' AND status = 'succeeded'");
    wait_for_next('retry', "next_run > '$next'::timestamptz + interval '1 hour'");
    is($node->ask("SELECT string_agg(format('%s %s %s', status, slots, scheduled_for - '$next'), ',' ORDER BY scheduled_for)
            FROM apapacho_jobs.run WHERE id > $since"), 'coalesced 6 00:00:00,succeeded 1 01:00:00',
        'one run for seven times: the latest of them');
    set_clock(0);
    wait_for_next('retry', "next_run < now() + interval '11 minutes'");
};

subtest 'on the day that summer time begins' => sub {
    # Santiago: on 2024-09-08 the clock goes from 00:00 to 01:00.
    $node->reconfigure('apapacho_jobs.timezone' => 'America/Santiago', 'apapacho_jobs.retry_cron' => '',
        'apapacho_jobs.cleanup_cron' => '30 0 * * *',
        'apapacho_jobs.debug_clock_offset' => $node->ask(q{SELECT extract(epoch FROM '2024-09-08 03:59:58Z' - now())::bigint}));
    my $id = $node->wait_for_run(q{job = 'cleanup' AND scheduled_for BETWEEN '2024-09-08 04:00Z' AND '2024-09-08 04:01Z'});
    wait_for_next('cleanup', q{next_run = '2024-09-09 03:30Z'});
    is($node->ask("SELECT trigger FROM apapacho_jobs.run WHERE id = $id"), 'schedule', 'the time in the gap is made up for once');
};

$node->stop;
done_testing();
