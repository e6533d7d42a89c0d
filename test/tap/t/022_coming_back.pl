# 022_coming_back.pl: schedulers come back: those that were terminated, again and again; and when a background worker becomes free at last,
# also where the clock has been set meanwhile.
use strict;
use warnings;

use Apapacho;
use Ledger;
use Test::More;
use Time::HiRes qw(time);

my $node = Apapacho->create('main', settings => { max_worker_processes => 20 });
make_ticks($node);
schedule($node, 'beat', '* * * * * *', tick('beat'));

subtest 'a scheduler that is terminated again and again' => sub {
    $node->wait_for(q{SELECT count(*) > 0 FROM ticks}, 'jobs run');
    my $began = time();

    for (1 .. 6) {
        my ($pid) = $node->pids('scheduler');
        $node->ask("SELECT pg_terminate_backend($pid)");
        $node->wait_for("SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'apapacho_jobs scheduler' AND pid <> $pid",
            'another one takes over');
    }
    diag(sprintf('six times in %.1f s', time() - $began));
    # one that fails is waited with, a second and then twice as long each time: 63 s for six
    cmp_ok(time() - $began, '<', 30, 'comes back at once each time');

    my $until = $node->ask('SELECT clock_timestamp()');
    $node->wait_for("SELECT count(*) > 0 FROM apapacho_jobs.run WHERE job = 'beat' AND scheduled_for > '$until' AND status = 'succeeded'",
        'the job goes on');
    $node->ask(q{SELECT apapacho_pause_job('beat')});
    $node->wait_for(q{SELECT count(*) = 0 FROM apapacho_jobs.run WHERE status IN ('queued', 'running')}, 'nothing stays queued or at work');
    my ($first, $last) = split(/\|/, $node->ask(q{SELECT min(scheduled_for), max(scheduled_until) FROM apapacho_jobs.slot WHERE job = 'beat'}));
    is(problems_of_slots($node, 'beat', every(1, "'$first'::timestamptz", "'$last'")), '', 'every slot once');
    is(problems_of_runs($node), '', 'each run has done what its status says');
    $node->stop;
};

# The launcher, and one scheduler.
my $scarce = Apapacho->create('scarce', settings => { max_worker_processes => 2, max_logical_replication_workers => 0 });

# Sets the clock, and waits until the launcher has looked at it.
sub set_clock {
    my ($seconds) = @_;
    my $before = $scarce->ask('SELECT clock_timestamp()');

    $scarce->reconfigure('apapacho_jobs.debug_clock_offset' => $seconds);
    $scarce->wait_for("SELECT state_change > '$before' FROM pg_stat_activity WHERE backend_type = 'apapacho_jobs launcher'",
        "the clock is $seconds s ahead");
    return;
}

subtest 'one for which no worker was free' => sub {
    $scarce->wait_for_scheduler;
    my $position = $scarce->log_position;
    $scarce->create_database('second');
    $scarce->wait_for_log(qr/WARNING: .*no background worker is free for the scheduler of a database/, $position);
    set_clock(120 * $_) for 1 .. 8;    # it is tried each time
    set_clock(0);
    is_deeply([$scarce->pids('scheduler', 'second')], [], 'there is still none');

    my $freed = time();
    $scarce->ask('DROP EXTENSION apapacho_jobs');
    $scarce->wait_for_scheduler('second');
    diag(sprintf('there after %.1f s', time() - $freed));
    # waits that grow would have come to a minute
    cmp_ok(time() - $freed, '<', 30, 'comes soon after one has become free, also after the clock was set back');
    $scarce->stop;
};

done_testing();
