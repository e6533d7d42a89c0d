# 014_slot_ledger.pl: every slot of every job ends as exactly one thing, whatever happens to the server, its clock and those who ask.
#
# What the scheduler says in its ledger (apapacho_jobs.slot) is held against slots that are computed here, and against the rows that
# the commands themselves have left behind. LEDGER_ROUNDS is the number of crashes, stops and changes (12), LEDGER_SEED the seed of
# the random numbers that choose them, LEDGER_SLOTS how many seconds in a row an undisturbed server has runs for (30).
use strict;
use warnings;

use Apapacho;
use JSON::PP ();
use Ledger;
use List::Util qw(shuffle);
use Test::More;
use Time::HiRes qw(time);

my $rounds = $ENV{LEDGER_ROUNDS} // 12;
my $seed = $ENV{LEDGER_SEED} // int(time());
my $slots = $ENV{LEDGER_SLOTS} // 30;
my $workers = { max_worker_processes => 20 };
my $clock = clock();

srand($seed);
diag("LEDGER_ROUNDS=$rounds LEDGER_SEED=$seed");

# Two jobs that are due every second, of a server that nobody disturbs; looked at in the end.
my $steady = Apapacho->create('steady', settings => $workers);
make_ticks($steady);
schedule($steady, 'field', '* * * * * *', tick('field'));
schedule($steady, 'interval', '1 seconds', tick('interval'));

my $node = Apapacho->create('main', settings => $workers);
my $offset = 0;     # of the clock of $node
my %step = (six => 1, interval => 1, even => 2, minute => 60, fixed => 3600, queue => 1, failing => 3, all => 1, skip => 1,
    paused => 1, elsewhere => 2);
my @altered;        # the job `altered`: [seconds, from, to], to be filled in
my $altered_step;
my $altered_since;

# Until the scheduler has dealt with all slots of a job that is due every second up to `time` (SQL).
sub wait_for_settled {
    my ($time) = @_;
    my $deadline = time() + $PostgreSQL::Test::Utils::timeout_default;

    $node->poll_query_until('postgres', "SELECT settled_until >= $time FROM apapacho_jobs.job_state JOIN apapacho_jobs.job ON id = job_id
        WHERE name = 'six'") or die "timed out waiting for the slots up to $time\n";
    return;
}

sub now_there { return q{'} . $node->ask("SELECT $clock") . q{'::timestamptz}; }

sub wait_for_pid {
    my ($sql) = @_;
    my $pid;
    my $deadline = time() + $PostgreSQL::Test::Utils::timeout_default;

    until ($pid = $node->ask($sql)) {
        die "timed out waiting for a process\n" if time() > $deadline;
    }
    return $pid;
}

sub process { return wait_for_pid("SELECT pid FROM pg_stat_activity WHERE backend_type = 'apapacho_jobs $_[0]' AND state IS NOT NULL LIMIT 1"); }

# One that is not about to end.
sub busy_worker {
    return wait_for_pid(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'apapacho_jobs worker' AND wait_event = 'PgSleep'
        AND query_start > clock_timestamp() - interval '0.8 s' LIMIT 1});
}

sub set_enabled {
    my ($enabled) = @_;
    $node->reconfigure('apapacho_jobs.enabled' => $enabled);
    $node->poll_query_until('postgres', q{SELECT count(*) = } . ($enabled eq 'on' ? 1 : 0) . q{ FROM pg_stat_activity
        WHERE backend_type = 'apapacho_jobs scheduler' AND datname = 'postgres'}) or die "timed out waiting for the scheduler\n";
    return;
}

# The time between what was in force before and what is from then on, in which slots of either may be in the ledger.
sub alter {
    my $step = (grep { $_ != $altered_step } 1, 2, 3, 5)[int(rand(3))];

    wait_for_settled($clock);
    my $before = now_there();
    $node->ask("SELECT apapacho_alter_job('altered', schedule => '*/$step * * * * *')");
    $node->poll_query_until('postgres', "SELECT s.schedule = j.schedule FROM apapacho_jobs.job_state AS s
        JOIN apapacho_jobs.job AS j ON j.id = s.job_id WHERE j.name = 'altered'") or die "timed out waiting for the new schedule\n";
    my $after = now_there();
    push @altered, every($altered_step, "$altered_since + interval '1 us'", $before), 
        # a run is taken a quarter of a second before its time
        every($altered_step, $before, "$after + interval '0.3 s'", 1), every($step, $before, $after, 1);
    ($altered_step, $altered_since) = ($step, $after);
    $node->poll_query_until('postgres', "SELECT s.settled_until > $after FROM apapacho_jobs.job_state AS s
        JOIN apapacho_jobs.job AS j ON j.id = s.job_id WHERE j.name = 'altered'") or die "timed out waiting for its slots\n";
    return;
}

my %event = (
    'kill -9 of the postmaster' => sub { $node->kill_postmaster; },
    'kill -9 of a worker' => sub { $node->kill_hard(busy_worker()); },
    'kill -9 of the scheduler' => sub { $node->kill_hard(process('scheduler')); },
    'kill -9 of the launcher' => sub { $node->kill_hard(process('launcher')); },
    'fast shutdown' => sub { $node->stop('fast'); $node->start; },
    'immediate shutdown' => sub { $node->stop('immediate'); $node->start; },
    'smart shutdown' => sub { $node->stop('smart'); $node->start; },
    'a minute of downtime' => sub {
        $node->stop((qw(fast immediate))[int(rand(2))]);
        $offset += 30 + int(rand(45));
        $node->configure('apapacho_jobs.debug_clock_offset' => $offset);
        $node->start;
    },
    'termination of the scheduler' => sub { $node->ask('SELECT pg_terminate_backend(' . process('scheduler') . ')'); },
    'termination of a worker' => sub { $node->ask('SELECT pg_terminate_backend(' . busy_worker() . ')'); },
    'schedules switched off and on' => sub { set_enabled('off'); set_enabled('on'); },
    'another schedule' => \&alter,
    'a pause' => sub {
        $node->ask(q{SELECT apapacho_pause_job('paused')});
        wait_for_settled(now_there() . ' + ' . int(rand(2)) . q{ * interval '1 s'});
        $node->ask(q{SELECT apapacho_resume_job('paused')});
    },
);

subtest "after $rounds rounds of crashes, stops and changes" => sub {
    my @deck;
    my %rounds;

    $node->ask('CREATE DATABASE other');
    make_ticks($node, $_) for qw(postgres other);
    my $minute = $node->ask(q{SELECT extract(minute FROM clock_timestamp() + interval '61 s')});
    schedule($node, six => '* * * * * *', tick('six'));
    schedule($node, interval => '1 seconds', tick('interval'));
    schedule($node, even => '*/2 * * * * *', tick('even'));
    schedule($node, minute => '* * * * *', tick('minute'));
    schedule($node, fixed => "$minute * * * *", tick('fixed'));
    schedule($node, queue => '* * * * * *', tick('queue', 'SELECT pg_sleep(1.3)'), overlap => 'queue');
    schedule($node, failing => '*/3 * * * * *', tick('failing', 'SELECT 1 / 0'), retries => 2, retry_delay => '0.2 s');
    schedule($node, all => '* * * * * *', tick('all'), misfire => 'all');
    schedule($node, skip => '* * * * * *', tick('skip'), misfire => 'skip');
    schedule($node, paused => '* * * * * *', tick('paused'));
    schedule($node, elsewhere => '*/2 * * * * *', tick('elsewhere'), database => 'other');
    schedule($node, altered => '*/2 * * * * *', tick('altered'));
    my $scheduled = now_there();
    wait_for_settled("$scheduled + interval '2 s'");
    my $soon = "$scheduled + interval '1 s'";
    ($altered_step, $altered_since) = (2, $soon);
    push @altered, every(2, "$scheduled - interval '2 s'", $altered_since, 1);

    my $started = time();
    for my $round (1 .. $rounds) {
        @deck = shuffle(sort keys %event) unless @deck;
        my $event = shift @deck;
        $rounds{$event}++;
        note(sprintf('%3d. %s at %.1f s', $round, $event, time() - $started));
        $event{$event}->();
        # sometimes the next one comes at once, sometimes a bit later
        wait_for_settled(now_there() . sprintf(q{ + %.1f * interval '1 s'}, rand(2.5))) if rand() < 0.7;
    }
    diag(sprintf('%d rounds in %.0f s: %s', $rounds, time() - $started, join(', ', map { "$_ $rounds{$_}" } sort keys %rounds)));

    wait_for_settled("$clock");
    $node->wait_for("SELECT bool_and(s.settled_until > $clock - interval '4 s') FROM apapacho_jobs.job_state AS s
        JOIN apapacho_jobs.job AS j ON j.id = s.job_id WHERE j.name NOT IN ('minute', 'fixed')", 'every job is up to date');
    $node->ask('SELECT apapacho_pause_job(name) FROM apapacho_jobs.job');
    my $end = now_there();
    $node->wait_for(q{SELECT count(*) = 0 FROM apapacho_jobs.run WHERE status IN ('queued', 'running')}, 'nothing stays queued or at work');
    $node->wait_for(q{SELECT NOT bool_or(executing) FROM apapacho_job_status()}, 'nor in memory');
    $node->wait_for(q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'apapacho_jobs worker'}, 'no worker is left');

    for my $job (sort keys %step, 'altered') {
        my $settled = $node->ask("SELECT s.settled_until FROM apapacho_jobs.job_state AS s
            JOIN apapacho_jobs.job AS j ON j.id = s.job_id WHERE j.name = '$job'");
        # it may or may not have been in force at the first second
        my $first = $node->ask("SELECT coalesce(least(min(scheduled_for), $soon), $soon) FROM apapacho_jobs.slot WHERE job = '$job'");
        my $slots = $job eq 'altered' ? join(' UNION ALL ', @altered, every($altered_step, "$altered_since + interval '1 us'", "'$settled'"))
            : $job eq 'fixed' ? "SELECT slot, true AS must FROM generate_series(date_trunc('hour', timestamptz '$first')
                + interval '$minute min', '$settled', interval '1 hour') AS slot WHERE slot >= '$first'"
            : every($step{$job}, "'$first'::timestamptz", "'$settled'");
        is(problems_of_slots($node, $job, $slots), '', "job $job: every slot once");
        is($node->ask("SELECT '$settled' > $end - interval '5 s' - $step{$job} * interval '1 s'"), 't', 'to the end') if $step{$job};
    }
    my $others = $node->ask(q{SELECT string_agg(format('(%L, %s, %L, %L)', job, pid, at, clock), ',') FROM ticks}, database => 'other');
    $node->ask("INSERT INTO ticks SELECT job, pid, at::timestamptz, clock::timestamptz FROM (VALUES $others) AS t (job, pid, at, clock)");
    is(problems_of_runs($node), '', 'each run has done what its status says');
    is($node->ask(q{SELECT string_agg(DISTINCT job || ': ' || status, ', ') FROM apapacho_jobs.run
            WHERE status IN ('missed', 'coalesced', 'no_worker') AND job = 'all' OR status = 'coalesced' AND job = 'skip'
                OR status = 'missed' AND job NOT IN ('all', 'skip')}), '', 'what was not met in time went by the policy of its job');
    is($node->ask(q{SELECT string_agg(format('run %s for %s at %s', r.id, r.scheduled_for, t.clock), ', ')
            FROM apapacho_jobs.run AS r JOIN ticks AS t ON t.job = r.job AND t.pid = r.pid AND t.at BETWEEN r.started_at AND r.finished_at
            WHERE r.job = 'skip' AND t.clock > r.scheduled_for + interval '12.5 s'}), '', 'none so late where it is to skip them');
    is($node->ask(q{SELECT string_agg(DISTINCT attempt::text, ',') FROM apapacho_jobs.run WHERE job = 'failing' AND attempt > 3}), '',
        'no more attempts than are allowed');
    is($node->ask(q{SELECT count(*) FROM apapacho_jobs.run WHERE pass <> 0}), '0', 'the clock was never set back');
    diag('runs: ' . $node->ask(q{SELECT string_agg(format('%s %s', status, n), ', ' ORDER BY status)
        FROM (SELECT status, count(*) AS n FROM apapacho_jobs.run GROUP BY status) AS s}));
    diag('runs: ' . $node->ask(q{SELECT string_agg(format('%s %s %s', job, status, n), ', ' ORDER BY job, status)
        FROM (SELECT job, status, count(*) AS n FROM apapacho_jobs.run GROUP BY job, status) AS s}));
    diag("R\n" . $node->ask(q{SELECT id, job, trigger, attempt, scheduled_for::time, started_at::time, finished_at::time, status, pid, error FROM apapacho_jobs.run ORDER BY id})) if $ENV{DUMP};
    is($node->ask("SELECT count(*) FROM apapacho_jobs.run WHERE status = 'interrupted' AND started_at = finished_at"), '0',
        'none was cut off before it had begun');
    $node->stop;
};

my $clocked = Apapacho->create('clocked', settings => { %{$workers}, max_connections => 80 });
make_ticks($clocked);

subtest 'fifty sessions run a job at once, while its schedule does too: one after the other, one in the queue at most' => sub {
    # the second of two at once finds the lock taken and fails
    my $command = q{INSERT INTO ticks (job) VALUES ('alone'); DO $do$ BEGIN
        IF NOT pg_try_advisory_xact_lock(1) THEN RAISE 'there is another run'; END IF;
        PERFORM FROM gate;
    END $do$; SELECT pg_sleep(0.05 * random())};
    $clocked->ask('CREATE TABLE gate (); CREATE TABLE deepest (queued integer)');
    # looks all the time, until it is told to end; each look sees what has changed meanwhile
    my $id = schedule($clocked, 'alone', '* * * * * *', $command, overlap => 'queue');
    my $watch = $clocked->begin_statement(q{DO $$
        DECLARE
            deepest integer := 0;
        BEGIN
            LOOP
                FOR i IN 1 .. 500 LOOP
                    deepest := greatest(deepest, (SELECT queued FROM apapacho_jobs.job_activity(} . $id . q{)));
                END LOOP;
                EXIT WHEN NOT pg_try_advisory_lock_shared(2);
                PERFORM pg_advisory_unlock_shared(2);
                COMMIT;
            END LOOP;
            INSERT INTO deepest VALUES (deepest);
        END $$});
    $clocked->wait_for_run(q{job = 'alone' AND status = 'succeeded'});
    my $gate = $clocked->hold('gate');
    my $at_work = $clocked->wait_for_run(q{job = 'alone' AND trigger = 'schedule' AND status = 'running'});
    my @statements = map { $clocked->begin_statement(q{SELECT apapacho_run_job('alone')->>'runId'}, name => 'by hand') } 1 .. 50;
    $clocked->wait_for(q{SELECT count(*) = 50 FROM pg_stat_activity WHERE application_name = 'by hand' AND wait_event_type = 'Extension'},
        'fifty wait');
    is($clocked->ask(q{SELECT queued FROM apapacho_job_status() WHERE name = 'alone'}), '1', 'one run is in the queue');
    $clocked->let_go($gate);
    my %ids;
    for my $statement (@statements) {
        my ($id, $error) = $statement->finish;
        $ids{$id}++;
        is($error, '', 'no error') if $error ne '';
    }
    is(scalar(keys %ids), 1, 'it was the run of all fifty');
    cmp_ok((keys %ids)[0], '>', $at_work, 'after the one that was at work');

    $clocked->pgbench('-n -c 12 -j 2 -T 4', 0, [qr/number of failed transactions: 0 /], [qr/^$/],
        'twelve sessions run it, again and again', { '014_alone' => qq{\\sleep 20 ms\nSELECT apapacho_run_job('alone')} });
    my $end = $clocked->background_psql('postgres');
    $end->query_safe('SELECT pg_advisory_lock(2)');
    is(($watch->finish)[1], '', 'whoever watched the queue has done so to the end');
    $end->quit;
    is($clocked->ask('SELECT queued FROM deepest'), '1', 'never was more than one queued');
    $clocked->ask(q{SELECT apapacho_pause_job('alone')});
    $clocked->wait_for(q{SELECT NOT executing AND queued = 0 FROM apapacho_job_status() WHERE name = 'alone'}, 'nothing is left over');
    is($clocked->ask(q{SELECT string_agg(DISTINCT status, ', ' ORDER BY status) FROM apapacho_jobs.run
            WHERE job = 'alone' AND status NOT IN ('skipped', 'cancelled')}), 'succeeded', 'no two at once: none found another');
    is($clocked->ask(q{SELECT count(*) FROM apapacho_jobs.run AS a JOIN apapacho_jobs.run AS b ON a.job_id = b.job_id AND a.id < b.id
            WHERE a.started_at IS NOT NULL AND b.started_at IS NOT NULL AND tstzrange(a.started_at, a.finished_at) && tstzrange(b.started_at, b.finished_at)}), '0', 'as the history says');
    diag('fifty and more: ' . $clocked->ask(q{SELECT string_agg(format('%s %s %s', trigger, status, n), ', ' ORDER BY trigger, status)
        FROM (SELECT trigger, status, count(*) AS n FROM apapacho_jobs.run WHERE job = 'alone' GROUP BY trigger, status) AS s}));
};

$node = $clocked;

# Moves the clock to this many seconds from now, and waits until a job that is due every second has run by the new time.
sub set_clock {
    my ($seconds) = @_;
    my $set = time();

    $clocked->reconfigure('apapacho_jobs.debug_clock_offset' => $seconds);
    $clocked->poll_query_until('postgres', "SELECT count(*) > 0 FROM ticks WHERE job = 'second' AND at >= to_timestamp($set)
        AND abs(extract(epoch FROM clock - at) - $seconds) < 0.5") or die "timed out waiting for a run by the new time\n";
    my $took = $clocked->ask("SELECT min(extract(epoch FROM at)) - $set FROM ticks WHERE job = 'second' AND at >= to_timestamp($set)
        AND abs(extract(epoch FROM clock - at) - $seconds) < 0.5");
    return $took;
}

subtest 'the clock is set, to and fro' => sub {
    my @steps = (3600, 0, 30, 0, -3600, 0, -30, 0, 30, -30, 3600, -3600, 0);
    my @took;

    $clocked->ask(q{SELECT apapacho_unschedule_job('alone'); TRUNCATE ticks});
    schedule($clocked, second => '* * * * * *', tick('second'));
    schedule($clocked, minute => '* * * * *', tick('minute'), misfire => 'all', misfire_window => '2 hours');
    schedule($clocked, hour => '0 * * * *', tick('hour'), misfire => 'skip');
    $clocked->wait_for_run(q{job = 'second' AND status = 'succeeded'});
    push @took, set_clock($_) for @steps;
    diag('the first run by the new time came after ' . join(', ', map { sprintf('%.2f', $_) } @took) . ' s');
    my @late = grep { $_ > 2.5 } @took;
    is("@late", '', 'runs go on about a second after the clock was set');

    # a last step on which nothing comes due but what is behind
    $clocked->ask('SELECT apapacho_pause_job(name) FROM apapacho_jobs.job');
    $clocked->wait_for(q{SELECT count(*) = 0 FROM apapacho_jobs.run WHERE status IN ('queued', 'running')}, 'nothing stays queued or at work');
    for my $job (qw(second minute hour)) {
        my $seconds = { second => 1, minute => 60, hour => 3600 }->{$job};
        my $passes = $clocked->ask("SELECT pass FROM apapacho_jobs.job_state AS s JOIN apapacho_jobs.job AS j ON j.id = s.job_id WHERE name = '$job'");
        for my $pass (0 .. $passes) {
            my ($first, $last) = split(/\|/, $clocked->ask("SELECT min(scheduled_for), max(scheduled_until) FROM apapacho_jobs.slot
                WHERE job = '$job' AND pass = $pass"));
            next unless $first;
            is(problems_of_slots($clocked, $job, every($seconds, "'$first'::timestamptz", "'$last'"), pass => $pass), '',
                "job $job: every slot of pass $pass once");
        }
        diag("job $job: " . ($passes + 1) . ' passes');
    }
    is(problems_of_runs($clocked), '', 'each run has done what its status says');
};

subtest 'the history keeps what it is to keep, and not more' => sub {
    my $runs = sub { return $clocked->ask("SELECT coalesce(string_agg(format('%s %s', job, n), ', ' ORDER BY job), '')
        FROM (SELECT job, count(*) AS n FROM apapacho_jobs.run WHERE $_[0] GROUP BY job) AS r"); };
    my $insert = sub {
        my ($job, $status, $age, $count) = @_;
        $clocked->ask("INSERT INTO apapacho_jobs.run (id, job, trigger, scheduled_for, scheduled_until, started_at, finished_at, status, job_id, owner)
            SELECT nextval('apapacho_jobs.run_id_seq'), '$job', 'manual', t, t, t, t, '$status', id, owner
            FROM apapacho_jobs.job, generate_series(1, $count), (SELECT now() - interval '$age days' AS t) AS a WHERE name = '$job'");
    };

    $clocked->reconfigure('apapacho_jobs.debug_clock_offset' => 0);
    $clocked->ask('SELECT apapacho_unschedule_job(name) FROM apapacho_jobs.job WHERE NOT builtin; DELETE FROM apapacho_jobs.run');
    schedule($clocked, $_ => '0 0 1 1 *', 'SELECT') for qw(once aged);
    schedule($clocked, once_failed => '0 0 1 1 *', 'SELECT 1 / 0');
    schedule($clocked, retried => '* * * * * *', 'SELECT 1 / 0', retries => 1, retry_delay => '1 day', retry_delay_max => '1 day');
    my $pending = $clocked->wait_for_run(q{job = 'retried' AND retry_at IS NOT NULL});
    $clocked->ask(q{SELECT apapacho_alter_job('retried', schedule => '0 0 1 1 *')});
    $clocked->run_job($_, wait => 0) for qw(once once_failed retried);
    $clocked->wait_for_run("job = '$_' AND trigger = 'manual' AND finished_at IS NOT NULL") for qw(once once_failed retried);
    $pending = $clocked->ask(q{SELECT id FROM apapacho_jobs.run WHERE job = 'retried' AND retry_at IS NOT NULL});

    # by age: a scheduler looks when it starts
    $insert->('aged', @{$_}, 10) for [succeeded => 91], [failed => 366], [cancelled => 91], [succeeded => 89], [timed_out => 364];
    $insert->('once', 'succeeded', 1, 1);
    my ($scheduler) = $clocked->pids('scheduler');
    $clocked->ask("SELECT pg_terminate_backend($scheduler)");
    $clocked->wait_for(q{SELECT count(*) = 20 FROM apapacho_jobs.run WHERE job = 'aged'}, 'what is too old goes');
    is($clocked->ask(q{SELECT string_agg(DISTINCT status, ', ' ORDER BY status) FROM apapacho_jobs.run WHERE job = 'aged'}),
        'succeeded, timed_out', 'failures stay longer');

    # by number: two hundred jobs, of which each misses a time again and again
    my $rows = 300;
    my $kept = 2 * $rows + 4;
    my ($most, $written) = (0, 0);
    my $first = $clocked->ask('SELECT last_value FROM apapacho_jobs.run_id_seq');
    $insert->('aged', 'crashed', 1, 2 * $rows);
    $clocked->reconfigure('apapacho_jobs.history_rows' => $rows);
    $clocked->ask(q{SELECT count(apapacho_schedule_job('many' || g, '30 * * * * *', 'SELECT', misfire => 'skip')) FROM generate_series(1, 200) AS g});
    $clocked->wait_for(q{SELECT count(*) = 200 FROM apapacho_jobs.job_state JOIN apapacho_jobs.job ON id = job_id WHERE name LIKE 'many%'},
        'two hundred jobs are scheduled');
    for my $jump (1 .. 16) {
        my $seconds = $clocked->ask("SELECT $jump * 120 + 105 - floor(extract(second FROM clock_timestamp()))");
        $clocked->reconfigure('apapacho_jobs.debug_clock_offset' => $seconds);
        $clocked->wait_for("SELECT bool_and(settled_until > clock_timestamp() + interval '$seconds s' - interval '1 min')
            FROM apapacho_jobs.job_state JOIN apapacho_jobs.job ON id = job_id WHERE name LIKE 'many%'", "the clock is $seconds s ahead");
        my $count = $clocked->ask('SELECT count(*) FROM apapacho_jobs.run');
        $most = $count if $count > $most;
    }
    $written = $clocked->ask('SELECT last_value FROM apapacho_jobs.run_id_seq') - $first;
    diag("$written rows written, $most at most at once, with apapacho_jobs.history_rows = $rows");
    cmp_ok($written, '>', 3200, 'thousands of rows were written');
    cmp_ok($most, '<=', $kept + 1000 + 200, 'never were there many more than are to be kept and what is written between two looks');
    $clocked->ask("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'apapacho_jobs scheduler'");
    $clocked->wait_for("SELECT count(*) <= $kept FROM apapacho_jobs.run", 'in the end what is to be kept');
    is($runs->(q{job NOT LIKE 'many%'}), "aged $rows, once 1, once_failed 1, retried 2",
        'so many failures, and the last run of each job; further what is to be tried again');
    is($clocked->ask("SELECT retry_at IS NOT NULL FROM apapacho_jobs.run WHERE id = $pending"), 't', 'still');
};

subtest 'what is pruned costs the same, however much there is' => sub {
    # pages that are looked at for a hundred rows
    my $pages = sub {
        $clocked->ask(qq{INSERT INTO apapacho_jobs.run (id, job, trigger, scheduled_for, scheduled_until, started_at, finished_at, status, job_id, owner)
            SELECT nextval('apapacho_jobs.run_id_seq'), 'aged', 'manual', t, t, t, t, 'succeeded', id, owner
            FROM apapacho_jobs.job, generate_series(1, $_[0]), (SELECT now() AS t) AS a WHERE name = 'aged'});
        my ($plan) = @{ JSON::PP::decode_json($clocked->ask('EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT apapacho_jobs.prune_history(100)')) };
        return $plan->{Plan}{'Shared Hit Blocks'} + $plan->{Plan}{'Shared Read Blocks'};
    };

    $clocked->reconfigure('apapacho_jobs.enabled' => 'off');
    $clocked->wait_for_no_scheduler;
    $pages->(2000);    # whatever is looked up for the first time
    my $few = $pages->(2000);
    my $many = $pages->(60000);
    diag("$few pages, and $many with 60,000 rows more");
    cmp_ok($many, '<', 2 * $few, 'a hundred rows are deleted without a look at the others');
};

subtest 'meanwhile, on a server that nobody disturbed: a run each second' => sub {
    # a minute each: no wait lasts longer than it may
    for (my $count = $slots % 60; $count <= $slots; $count += 60) {
        $steady->wait_for("SELECT count(*) > $count FROM apapacho_jobs.slot WHERE job = 'field'", "$count slots and more");
    }
    $steady->ask(q{SELECT apapacho_pause_job(name) FROM apapacho_jobs.job});
    $steady->wait_for(q{SELECT count(*) = 0 FROM apapacho_jobs.run WHERE status IN ('queued', 'running')}, 'nothing stays queued or at work');
    for my $job (qw(field interval)) {
        my ($first, $last) = split(/\|/, $steady->ask("SELECT min(scheduled_for), max(scheduled_for) FROM apapacho_jobs.slot WHERE job = '$job'"));
        is(problems_of_slots($steady, $job, every(1, "'$first'::timestamptz", "'$last'")), '', "job $job: every slot once");
        # the last one may have been called off by the pause
        is($steady->ask("SELECT string_agg(format('%s at %s', status, scheduled_for), ', ') FROM apapacho_jobs.run
            WHERE job = '$job' AND status <> 'succeeded' AND scheduled_for < '$last'"), '', 'and ran');
        is($steady->ask("SELECT string_agg(format('%s at %s', started_at - scheduled_for, scheduled_for), ', ') FROM apapacho_jobs.run
            WHERE job = '$job' AND started_at NOT BETWEEN scheduled_for AND scheduled_for + interval '1 s' AND status = 'succeeded'"), '',
            'none too early or more than a second late');
        diag("job $job: " . $steady->ask("SELECT format('%s runs, late by %s ms in the median, %s ms at most', count(*),
            round(1000 * percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM started_at - scheduled_for))::numeric, 1),
            round(1000 * max(extract(epoch FROM started_at - scheduled_for)), 1))
            FROM apapacho_jobs.run WHERE job = '$job' AND status = 'succeeded'"));
    }
    is(problems_of_runs($steady), '', 'each run has done what its status says');
};

$steady->stop;
$clocked->stop;
done_testing();
