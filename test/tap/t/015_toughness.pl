# 015_toughness.pl: what goes wrong around a job or around us: nothing wedges, and other jobs go on in time.
#
# On the server main a job `beat` writes a row each second; most subtests end with a look at how it fared meanwhile. A server of its own
# is idle all the time: how often our processes woke up there is looked at in the end.
use strict;
use warnings;

use Apapacho;
use Ledger;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $timeout = $PostgreSQL::Test::Utils::timeout_default;

sub set_context_switches {
    my ($node, $counts) = @_;
    for my $kind (qw(launcher scheduler)) {
        my ($pid) = $node->pids($kind);
        my ($count) = slurp_file("/proc/$pid/status") =~ /^voluntary_ctxt_switches:\s+(\d+)/m;
        $counts->{"$kind $pid"} = $count;
    }
    return;
}

my $idle = Apapacho->create('idle', settings => { 'apapacho_jobs.payout_cron' => '0 0 1 1 *' });
my (%switches_before, %switches_after);
$idle->wait_for_scheduler;
schedule($idle, 'yearly', '0 0 1 1 *', 'SELECT');
$idle->wait_for(q{SELECT next_run IS NOT NULL FROM apapacho_job_status() WHERE name = 'yearly'}, 'the idle server has its jobs');
set_context_switches($idle, \%switches_before);
my $idle_since = time();

my $node = Apapacho->create('main', settings => { max_worker_processes => 30 });
make_ticks($node);
schedule($node, 'beat', '* * * * * *', tick('beat'));
$node->create_database('second');
make_ticks($node, 'second');
schedule($node, 'beat', '* * * * * *', tick('beat'), in => 'second');

sub now_there {
    my ($database) = @_;
    return q{'} . $node->ask('SELECT clock_timestamp()', database => $database) . q{'::timestamptz};
}

# From the next second on.
sub next_second { return q{'} . $node->ask(q{SELECT date_trunc('second', clock_timestamp()) + interval '1 s'}) . q{'::timestamptz}; }

# The slots of the job `beat` from a time to another: each once. Those before and after are not looked at.
sub problems_of_beat {
    my ($since, $until, $database) = @_;
    my $slots = join(' UNION ALL ', every(1, $since, $until), every(1, "$since - interval '1 hour'", "$since - interval '1 us'", 1),
        every(1, "$until + interval '1 us'", "$until + interval '1 min'", 1));

    return problems_of_slots($node, 'beat', $slots, database => $database);
}

# How it fared from a time until now: each second it ran, late by a second at most.
sub goes_on {
    my ($since, $database) = @_;
    $database //= 'postgres';
    my $until = q{'} . $node->ask("SELECT greatest(date_trunc('second', clock_timestamp()), $since)") . q{'::timestamptz};
    my $those = "FROM apapacho_jobs.run WHERE job = 'beat' AND scheduled_for BETWEEN $since AND $until";

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    $node->wait_for("SELECT count(*) > 0 $those AND scheduled_for = $until AND finished_at IS NOT NULL", 'the other job goes on', $database);
    is(problems_of_beat($since, $until, $database), '', 'each second once');
    is($node->ask("SELECT string_agg(format('%s %s late by %s (%s)', scheduled_for, status, started_at - scheduled_for, error), E'\\n')
        $those AND (status <> 'succeeded' OR started_at > scheduled_for + interval '1 s')", database => $database), '',
        'all well, at most a second late');
    diag('the other job: ' . $node->ask("SELECT format('%s runs, late by %s ms at most', count(*),
        round(1000 * max(extract(epoch FROM started_at - scheduled_for)))) $those", database => $database));
    return;
}

sub drop_job { return $node->ask("SELECT apapacho_unschedule_job('$_[0]')", database => $_[1]); }

sub our_processes { return join(' ', map { $node->pids($_) } qw(launcher scheduler)); }

# Waits for so many lines like that in the log.
sub wait_for_lines {
    my ($server, $pattern, $count, $position) = @_;
    $server->wait_until(sub { my @lines = $server->log_since($position) =~ /$pattern/g; @lines >= $count; }, "$count times in the log: $pattern");
    return;
}

subtest 'what a job needs is dropped: its role, the table of its command' => sub {
    my $since = next_second();

    $node->ask('CREATE ROLE short_lived LOGIN; CREATE TABLE needed (n integer)');
    schedule($node, 'orphan', '* * * * * *', 'SELECT current_user', run_as => 'short_lived');
    schedule($node, 'needy', '* * * * * *', 'INSERT INTO needed VALUES (1)');
    $node->wait_for_run("job = '$_' AND status = 'succeeded'") for qw(orphan needy);
    $node->ask('DROP ROLE short_lived; DROP TABLE needed');
    my ($orphan, $needy) = map { $node->wait_for_run("job = '$_' AND status = 'failed'") } qw(orphan needy);
    like($node->ask("SELECT error FROM apapacho_jobs.run WHERE id = $orphan"), qr/role/, 'the runs fail, the reason is a role');
    is($node->ask("SELECT sqlstate, error FROM apapacho_jobs.run WHERE id = $needy"), '42P01|relation "needed" does not exist', 'or a table');
    $node->ask('CREATE TABLE needed (n integer)');
    $node->wait_for_run("job = 'needy' AND status = 'succeeded' AND id > $needy");
    $node->wait_for_run("job = 'orphan' AND status = 'failed' AND id > $orphan");
    is($node->ask(q{SELECT count(*) FROM apapacho_job_status() WHERE name = 'orphan'}), '1', 'the job without a role is still in the status');
    is(drop_job($_), 't', 'and can be unscheduled') for qw(orphan needy);
    goes_on($since);
};

subtest 'the history is locked' => sub {
    my $since = next_second();
    my $processes = our_processes();

    # the sequence counts the attempts, which leave nothing else behind
    $node->ask('CREATE SEQUENCE attempts');
    schedule($node, 'wrong', '*/2 * * * * *', q{SELECT nextval('attempts') / 0}, retries => 1, retry_delay => '0.1 s');
    $node->wait_for_run(q{job = 'wrong' AND status = 'failed'});
    my $session = $node->background_psql('postgres', on_error_stop => 0);
    $session->query_safe('BEGIN; LOCK TABLE apapacho_jobs.run');
    my $locked = next_second();
    $node->wait_for("SELECT count(*) >= 5 FROM ticks WHERE job = 'beat' AND at > $locked", 'the other job goes on for seconds');
    $node->let_go($session);
    goes_on($since);
    # just when a run is taken, for a moment
    $node->ask(q{BEGIN; SELECT pg_sleep(1.6 - extract(epoch FROM clock_timestamp() - date_trunc('second', clock_timestamp())));
        LOCK TABLE apapacho_jobs.run; SELECT pg_sleep(0.8); COMMIT}) for 1 .. 2;
    goes_on($since);
    is(our_processes(), $processes, 'by the same processes');
    my $dropped = now_there();
    drop_job('wrong');
    $node->wait_for(q{SELECT count(*) = 0 FROM apapacho_jobs.run WHERE job = 'wrong' AND status IN ('queued', 'running')}, 'all has been written down');
    # what it finds in the history is all that the next scheduler knows
    my ($scheduler) = $node->pids('scheduler', 'postgres');
    $node->ask("SELECT pg_terminate_backend($scheduler)");
    $node->wait_for("SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'apapacho_jobs scheduler' AND datname = 'postgres' AND pid <> $scheduler",
        'another scheduler takes over');
    goes_on(next_second());
    my ($first, $last) = split(/\|/, $node->ask(q{SELECT min(scheduled_for), max(scheduled_for) FROM apapacho_jobs.slot WHERE job = 'wrong'}));
    is(problems_of_slots($node, 'wrong', every(2, "'$first'::timestamptz", "'$last'")), '', 'a job that fails: every slot once');
    is($node->ask("SELECT string_agg(DISTINCT format('%s %s', status, sqlstate), ', ') FROM apapacho_jobs.run
            WHERE job = 'wrong' AND status <> 'skipped' AND scheduled_for < '$last' AND finished_at < $dropped"), 'failed 22012', 'with what it failed of');
    is($node->ask(q{SELECT (SELECT last_value FROM attempts) - count(*) FROM apapacho_jobs.run WHERE job = 'wrong' AND sqlstate = '22012'}), '0',
        'every attempt is in the history');
    is($node->ask(q{SELECT max(attempt) FROM apapacho_jobs.run WHERE job = 'wrong'}), '2', 'and there were no more than are allowed');
    is(problems_of_runs($node), '', 'each run has done what its status says');
};

subtest 'the table job_state is locked' => sub {
    my $since = next_second();
    my $processes = our_processes();
    my $position = $node->log_position;
    my $session = $node->background_psql('postgres', on_error_stop => 0);

    $session->query_safe('BEGIN; LOCK TABLE apapacho_jobs.job_state');
    wait_for_lines($node, 'canceling statement due to lock timeout', 3, $position);
    my $until = next_second();
    $node->let_go($session);
    my $released = time();
    $node->wait_for("SELECT count(*) > 0 FROM ticks WHERE job = 'beat' AND at > to_timestamp($released)", 'then the job goes on');
    diag(sprintf('%.1f s after it was released', $node->ask("SELECT min(extract(epoch FROM at)) FROM ticks
        WHERE job = 'beat' AND at > to_timestamp($released)") - $released));
    is(our_processes(), $processes, 'by the same processes');
    goes_on("$until + interval '2 s'");
    is(problems_of_beat($since, $until), '', 'every slot once');
    is(problems_of_runs($node), '', 'each run has done what its status says');
    is($node->ask("SELECT string_agg(DISTINCT status, ', ') FROM apapacho_jobs.run WHERE job = 'beat' AND status NOT IN ('succeeded', 'skipped')
        AND scheduled_for BETWEEN $since AND $until"), '', 'some ran later');
    goes_on($since, 'second');
};

subtest 'the table job is locked' => sub {
    my $processes = our_processes();
    my $position = $node->log_position;
    my $session = $node->background_psql('postgres', on_error_stop => 0);

    $session->query_safe('BEGIN; LOCK TABLE apapacho_jobs.job');
    my $locked = next_second();
    $node->reload;      # after which the scheduler reads it
    wait_for_lines($node, 'canceling statement due to lock timeout', 1, $position);
    $node->wait_for("SELECT count(*) >= 3 FROM ticks WHERE job = 'beat' AND at > $locked", 'the jobs of other databases go on', 'second');
    $node->let_go($session);
    my $until = next_second();
    $node->wait_for("SELECT count(*) > 0 FROM ticks WHERE job = 'beat' AND at > $until", 'those that could not read their command go on after it');
    is(our_processes(), $processes, 'by the same processes');
    $node->ask(q{SELECT apapacho_alter_job('beat', command => command || '; SELECT 1') FROM apapacho_jobs.job WHERE name = 'beat'});
    $node->wait_for(q{SELECT count(*) > 0 FROM apapacho_jobs.run WHERE job = 'beat' AND result->>'statements' = '2'}, 'a change is in force');
    goes_on("$until + interval '2 s'");
};

subtest 'VACUUM FULL of our tables at work' => sub {
    my $since = next_second();

    # for longer than a run is on its way, whenever that may be
    my $vacuumed = 0;
    until ($node->ask("SELECT clock_timestamp() > $since + interval '2 s'") eq 't') {
        $node->ask("VACUUM FULL apapacho_jobs.$_") for qw(run job_state job);
        $vacuumed++;
    }
    diag("$vacuumed times");
    goes_on($since);
};

subtest 'launcher, schedulers and workers are terminated' => sub {
    my $since = next_second();
    my ($launcher) = $node->pids('launcher');
    my ($scheduler) = $node->pids('scheduler', 'second');

    schedule($node, 'endless', '* * * * * *', 'SELECT pg_sleep(600)');
    my $id = $node->wait_for_run(q{job = 'endless' AND status = 'running'});
    $node->wait_for(q{SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'}, 'a run is at work');
    drop_job('endless');
    my $terminated = time();
    $node->ask("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid IN ($launcher, $scheduler) OR wait_event = 'PgSleep'");
    $node->wait_for("SELECT status = 'interrupted' FROM apapacho_jobs.run WHERE id = $id", 'the run has been interrupted');
    $node->wait_for("SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'apapacho_jobs launcher' AND pid <> $launcher", 'there is a launcher');
    my $back = $node->ask("SELECT extract(epoch FROM backend_start) FROM pg_stat_activity WHERE backend_type = 'apapacho_jobs launcher'") - $terminated;
    diag(sprintf('launcher back after %.1f s', $back));
    cmp_ok($back, '<=', 2, 'within two seconds');
    goes_on($since);
    my $until = next_second();
    $node->wait_for("SELECT count(*) > 0 FROM ticks WHERE at > $until", 'the job of the other database goes on', 'second');
    is($node->ask("SELECT string_agg(format('%s %s', scheduled_for, status), ', ') FROM apapacho_jobs.run WHERE scheduled_for BETWEEN $since AND $until
        AND status NOT IN ('succeeded', 'skipped')", database => 'second'), '', 'where no run is lost');
};

subtest 'settings of a database or role reach its scheduler at once' => sub {
    my $since = next_second();
    my $of_retry = q{FROM apapacho_job_status() WHERE name = 'retry'};

    for my $whose ('DATABASE postgres', 'ROLE ' . $node->ask('SELECT current_user')) {
        my $set = time();
        $node->ask("ALTER $whose SET apapacho_jobs.retry_cron = '0 0 1 1 *'");
        $node->wait_for("SELECT cron = '0 0 1 1 *' AND running AND next_run IS NOT NULL $of_retry", "ALTER $whose SET");
        diag(sprintf('ALTER %s SET: in force after %.1f s', $whose, time() - $set));
        $node->ask("ALTER $whose RESET apapacho_jobs.retry_cron");
        $node->wait_for("SELECT NOT running $of_retry", "ALTER $whose RESET");
    }
    goes_on($since);
};

subtest 'DROP EXTENSION with runs at work and queued, and CREATE EXTENSION' => sub {
    my $since = next_second();
    my $position = $node->log_position;
    my $in = sub { return $node->ask($_[0], database => 'dropped') };

    $node->create_database('dropped');
    $in->('CREATE TABLE gate (); CREATE TABLE passed (text text)');
    my $schedule = sub { return schedule($node, 'gated', '* * * * * *', "INSERT INTO passed SELECT '$_[0]' FROM (SELECT count(*) FROM gate) AS g",
            overlap => 'queue', in => 'dropped'); };
    $schedule->('old');
    $node->wait_for_run(q{job = 'gated' AND status = 'succeeded'}, 'dropped');
    my $gate = $node->hold('gate', 'dropped');
    $node->wait_for_run(q{job = 'gated' AND status = 'queued'}, 'dropped');
    $node->wait_for_blocked_worker('gated', 'dropped');
    my $dropped = time();
    $in->('DROP EXTENSION apapacho_jobs');
    diag(sprintf('DROP EXTENSION took %.1f s', time() - $dropped));
    $node->wait_for_no_scheduler('dropped');
    $in->('CREATE EXTENSION apapacho_jobs');
    $node->wait_for_scheduler('dropped');
    my $created = $schedule->('new');
    $node->wait_for(q{SELECT count(*) >= 2 FROM apapacho_jobs.run WHERE job = 'gated'}, 'the new one has its runs', 'dropped');
    my $old = $in->(q{SELECT count(*) FROM passed WHERE text = 'old'});
    $node->let_go($gate);
    $node->wait_for(q{SELECT count(*) >= 2 FROM passed WHERE text = 'new'}, 'which do something', 'dropped');
    cmp_ok($in->(q{SELECT count(*) FROM passed WHERE text = 'old'}) - $old, '<=', 1, 'of the old runs the one that was at work has ended at most');
    $in->(q{SELECT apapacho_pause_job('gated')});
    $node->wait_for(q{SELECT count(*) = 0 FROM apapacho_jobs.run WHERE status IN ('queued', 'running')}, 'nothing stays queued or at work', 'dropped');
    is($in->(q{SELECT (SELECT count(*) FROM apapacho_jobs.run WHERE status = 'succeeded') - (SELECT count(*) FROM passed WHERE text = 'new')}), '0',
        'each run of the new one has done what its status says');
    my ($first, $last) = split(/\|/, $in->(q{SELECT min(scheduled_for), max(scheduled_until) FROM apapacho_jobs.slot WHERE job = 'gated'}));
    is(problems_of_slots($node, 'gated', every(1, "'$first'::timestamptz", "'$last'"), database => 'dropped'), '', 'every slot once');
    is($in->(q{SELECT count(*) FROM apapacho_job_status() WHERE executing OR queued > 0}), '0', 'nothing is left in memory');
    unlike($node->log_since($position), qr/PANIC|was terminated by signal/, 'no process died of it');
    goes_on($since);
};

subtest 'DROP DATABASE with runs at work' => sub {
    my $since = next_second();

    $node->create_database('gone');
    schedule($node, 'own', '* * * * * *', 'SELECT pg_sleep(600)', overlap => 'queue', in => 'gone');
    schedule($node, 'visitor', '* * * * * *', 'SELECT pg_sleep(600)', database => 'gone');
    $node->wait_for(q{SELECT count(*) = 2 FROM pg_stat_activity WHERE datname = 'gone' AND wait_event = 'PgSleep'}, 'two runs are at work in it');
    $node->wait_for_run(q{job = 'own' AND status = 'queued'}, 'gone');
    my $id = $node->wait_for_run(q{job = 'visitor' AND status = 'running'});
    my $dropped = time();
    $node->ask('DROP DATABASE gone');
    diag(sprintf('DROP DATABASE took %.1f s', time() - $dropped));
    $node->wait_for("SELECT status = 'interrupted' FROM apapacho_jobs.run WHERE id = $id", 'the run of a job from elsewhere was interrupted');
    $id = $node->wait_for_run(q{job = 'visitor' AND status = 'failed'});
    like($node->ask("SELECT error FROM apapacho_jobs.run WHERE id = $id"), qr/database "gone" does not exist/, 'its next ones fail');
    drop_job('visitor');
    goes_on($since);
};

subtest 'the server crashes while a run is being taken' => sub {
    my $since = next_second();
    my $lock = $node->begin_statement('BEGIN; LOCK TABLE apapacho_jobs.job_state; SELECT pg_sleep(600)');
    my $waiting = q{SELECT min(a.pid) FROM pg_stat_activity AS a JOIN pg_locks AS l ON l.pid = a.pid AND NOT l.granted
        WHERE a.backend_type = 'apapacho_jobs scheduler' AND a.datname = 'postgres'};
    my ($scheduler, $deadline) = (undef, time() + $timeout);
    until ($scheduler = $node->ask($waiting)) { die "timed out waiting for the scheduler to wait\n" if time() > $deadline; }
    $node->kill_hard($scheduler);
    $lock->finish;
    my $until = next_second();
    $node->wait_for("SELECT count(*) > 0 FROM apapacho_jobs.run WHERE job = 'beat' AND scheduled_for = $until AND finished_at IS NOT NULL", 'the job goes on');
    is(problems_of_beat($since, $until), '', 'every slot once');
    is(problems_of_runs($node), '', 'each run has done what its status says');
};

$node->stop;

my $few = Apapacho->create('few', streaming => 1, settings => { 'apapacho_jobs.max_workers' => 2, max_worker_processes => 20 });

subtest 'more jobs are due at once than may be at work' => sub {
    my $at = $few->ask(q{SELECT date_trunc('second', clock_timestamp() + interval '3 s')});
    my $second = $few->ask("SELECT extract(second FROM '$at'::timestamptz)::integer");

    schedule($few, "job$_", "$second * * * * *", 'SELECT pg_sleep(0.2)') for 1 .. 6;
    $few->wait_for("SELECT count(*) = 6 FROM apapacho_jobs.run WHERE scheduled_for = '$at' AND status = 'succeeded'", 'all six have run');
    is($few->ask("SELECT max(at_once) FROM (SELECT (SELECT count(*) FROM apapacho_jobs.run AS o WHERE o.started_at <= r.started_at AND o.finished_at > r.started_at)
        AS at_once FROM apapacho_jobs.run AS r) AS m"), '2', 'two at a time');
    diag('the last one began ' . $few->ask("SELECT round(max(extract(epoch FROM started_at - scheduled_for)), 2) FROM apapacho_jobs.run") . ' s after its time');
    $few->ask('SELECT apapacho_unschedule_job(name) FROM apapacho_jobs.job WHERE NOT builtin');
};

subtest 'a synchronous standby does not answer' => sub {
    make_ticks($few);
    schedule($few, 'reader', '* * * * * *', 'SELECT');
    schedule($few, 'writer', '* * * * * *', tick('writer'));
    $few->wait_for_run(q{job = 'writer' AND status = 'succeeded'});
    my ($scheduler) = $few->pids('scheduler');
    $few->reconfigure(synchronous_standby_names => 'nobody');
    $few->wait_for(q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'apapacho_jobs worker' AND wait_event = 'SyncRep' AND query LIKE '%writer%'},
        q{a command's commit waits, as it should});
    my $session = $few->begin_statement(q{INSERT INTO ticks VALUES ('session')}, name => 'session');
    $few->wait_for(q{SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = 'session' AND wait_event = 'SyncRep'}, q{so does a session's});
    my $since = q{'} . $few->ask('SELECT clock_timestamp()') . q{'::timestamptz};
    my $on_time = sub {
        $few->wait_for("SELECT count(*) >= $_[0] FROM apapacho_jobs.run WHERE job = 'reader' AND status = 'succeeded' AND scheduled_for > $since",
            'a job that writes nothing goes on');
        diag('reader: ' . $few->ask("SELECT format('%s times, late by %s ms at most', count(*), round(1000 * max(extract(epoch FROM started_at - scheduled_for))))
            FROM apapacho_jobs.run WHERE job = 'reader' AND scheduled_for > $since AND started_at IS NOT NULL"));
        is($few->ask("SELECT string_agg(format('%s %s late by %s', scheduled_for, status, started_at - scheduled_for), ', ') FROM apapacho_jobs.run
            WHERE job = 'reader' AND scheduled_for > $since AND finished_at IS NOT NULL AND (status <> 'succeeded' OR started_at > scheduled_for + interval '1 s')"), '',
            'at most a second late');
    };
    $on_time->(4);
    is(join(' ', $few->pids('scheduler')), $scheduler, 'by the same scheduler');

    my $id = $few->ask(q{SELECT max(id) FROM apapacho_jobs.run WHERE job = 'writer' AND status = 'running'});
    my $terminated = time();
    $few->ask(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'apapacho_jobs scheduler' OR
        backend_type = 'apapacho_jobs worker' AND wait_event = 'SyncRep' AND query LIKE '%writer%'});
    $few->wait_for("SELECT finished_at IS NOT NULL FROM apapacho_jobs.run WHERE id = $id", 'a command that waits can be terminated');
    $few->wait_for("SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'apapacho_jobs scheduler' AND pid <> $scheduler", 'so can the scheduler');
    diag(sprintf('both after %.1f s', time() - $terminated));
    $since = q{'} . $few->ask('SELECT clock_timestamp()') . q{'::timestamptz};
    $few->wait_for("SELECT count(*) >= 2 FROM apapacho_jobs.run WHERE job = 'reader' AND status = 'succeeded' AND scheduled_for > $since", 'and all goes on');
    my $stopped = time();
    $few->stop('fast');
    diag(sprintf('fast shutdown took %.1f s', time() - $stopped));
    cmp_ok(time() - $stopped, '<', 10, 'fast shutdown is fast');
    $session->finish;
};

my $scarce = Apapacho->create('scarce', settings => { max_worker_processes => 3, max_logical_replication_workers => 0 });

subtest 'no background worker is free' => sub {
    $scarce->ask('CREATE ROLE somebody LOGIN; CREATE TABLE gate ()');
    make_ticks($scarce);
    schedule($scarce, 'hog', '0 0 1 1 *', 'SELECT FROM gate');
    my $gate = $scarce->hold('gate');
    my $hog = $scarce->run_job('hog', wait => 0)->{runId};
    $scarce->wait_for_blocked_worker('hog');
    my $position = $scarce->log_position;
    my (%before, %after);
    set_context_switches($scarce, \%before);
    my $since = time();
    schedule($scarce, 'waiting', '*/2 * * * * *', 'SELECT', run_as => 'somebody');
    $scarce->wait_for(q{SELECT count(*) >= 2 FROM apapacho_jobs.run WHERE job = 'waiting' AND status = 'no_worker'}, 'times at which none was free');
    $scarce->wait_for_run(q{job = 'waiting' AND status = 'queued'});
    set_context_switches($scarce, \%after);
    my ($launcher) = grep { /launcher/ } keys %before;
    my ($scheduler) = grep { /scheduler/ } keys %before;
    my $seconds = time() - $since;
    diag(sprintf('in %.0f s the launcher was switched to %d times, the scheduler %d times', $seconds, map { $after{$_} - $before{$_} } $launcher, $scheduler));
    cmp_ok($after{$launcher} - $before{$launcher}, '<=', 3, 'the launcher does not spin');
    cmp_ok($after{$scheduler} - $before{$scheduler}, '<=', 40 * $seconds, 'nor does the scheduler');
    my @warnings = $scarce->log_since($position) =~ /WARNING: .*job "waiting" is due, but no background worker is free/g;
    is(scalar(@warnings), 1, 'it warned once');
    is($scarce->ask(q{SELECT count(*) FROM apapacho_jobs.run WHERE job = 'waiting' AND status = 'no_worker' AND (started_at IS NOT NULL OR error IS NULL)}), '0',
        'the history says why');
    $scarce->let_go($gate);
    my $id = $scarce->wait_for_run(q{job = 'waiting' AND status = 'succeeded'});
    my $after = $scarce->ask("SELECT extract(epoch FROM min(w.started_at) - h.finished_at) FROM apapacho_jobs.run AS h, apapacho_jobs.run AS w
        WHERE h.id = $hog AND w.job = 'waiting' AND w.started_at > h.finished_at GROUP BY h.finished_at");
    diag(sprintf('a worker that became free was used after %.2f s', $after));
    cmp_ok($after, '<=', 1, 'one that becomes free is used within a second');
};

$scarce->stop;

my $primary = Apapacho->create('primary', streaming => 1, settings => { max_worker_processes => 20 });
make_ticks($primary);
$primary->backup('backup');
my $standby = Apapacho->new('standby');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->start;

subtest 'a standby is promoted' => sub {
    my %step = (once => 1, all => 1, skip => 1, even => 2);
    my $missed = 60;

    $primary->reconfigure(synchronous_standby_names => '*');
    $primary->wait_for(q{SELECT sync_state = 'sync' FROM pg_stat_replication}, 'the standby is synchronous');
    schedule($primary, $_, $step{$_} == 1 ? '* * * * * *' : "*/$step{$_} * * * * *", tick($_), misfire => $_ eq 'even' ? 'once' : $_) for sort keys %step;
    my $scheduled = q{'} . $primary->ask(q{SELECT clock_timestamp() + interval '2 s'}) . q{'::timestamptz};
    $primary->wait_for(q{SELECT count(*) >= 3 FROM ticks WHERE job = 'once'}, 'the primary runs jobs');
    $primary->stop('immediate');
    my $stopped = time();

    # as if it took a minute
    $standby->reconfigure('apapacho_jobs.debug_clock_offset' => $missed);
    my $promoted = time();
    $standby->promote;
    my $ended = time();
    $standby->wait_for("SELECT count(*) > 0 FROM ticks WHERE at > to_timestamp($promoted)", 'jobs run');
    my $ran = $standby->ask("SELECT extract(epoch FROM min(at)) FROM ticks WHERE at > to_timestamp($promoted)");
    diag(sprintf('pg_promote took %.2f s, the first job ran after %.2f s', $ended - $promoted, $ran - $promoted));
    cmp_ok($ran - $ended, '<=', 2, 'the first within two seconds');
    my $caught_up = q{'} . $standby->ask('SELECT ' . clock()) . q{'::timestamptz};
    $standby->wait_for("SELECT bool_and(settled_until >= $caught_up) FROM apapacho_jobs.job_state", 'all that was missed is dealt with');
    $standby->ask('SELECT apapacho_pause_job(name) FROM apapacho_jobs.job');
    $standby->wait_for(q{SELECT count(*) = 0 FROM apapacho_jobs.run WHERE status IN ('queued', 'running')}, 'nothing stays queued or at work');
    for my $job (sort keys %step) {
        my ($first, $last) = split(/\|/, $standby->ask("SELECT least(min(scheduled_for), $scheduled), max(scheduled_until) FROM apapacho_jobs.slot WHERE job = '$job'"));
        is(problems_of_slots($standby, $job, every($step{$job}, "'$first'::timestamptz", "'$last'")), '', "job $job: every slot once");
    }
    is(problems_of_runs($standby), '', 'each run has done what its status says');
    my $in_between = sub { return $standby->ask("SELECT string_agg(DISTINCT status, ', ' ORDER BY status) FROM apapacho_jobs.run
        WHERE job = '$_[0]' AND scheduled_for < to_timestamp($stopped + $missed - 20) AND scheduled_until > to_timestamp($stopped + 5)"); };
    is($in_between->('once'), 'coalesced', 'one run for all that was missed');
    is($in_between->('skip'), 'missed', 'none where it is to skip them');
    is($in_between->('all'), 'succeeded', 'each where all are to be made up for');

    # what the old primary had done: a slot that it ran and the standby did not know of would be there twice
    $primary->configure('apapacho_jobs.enabled' => 'off', synchronous_standby_names => '');
    $primary->start;
    my %runs;
    for my $server ($primary, $standby) {
        for my $line (split(/\n/, $server->ask(q{SELECT r.job, r.scheduled_for, t.pid, t.at FROM apapacho_jobs.run AS r
            JOIN ticks AS t ON t.job = r.job AND t.pid = r.pid AND t.at BETWEEN r.started_at AND coalesce(r.finished_at, 'infinity')}))) {
            my ($job, $slot, @tick) = split(/\|/, $line);
            $runs{"$job $slot"}{"@tick"}++;
        }
    }
    is_deeply([grep { keys %{ $runs{$_} } > 1 } sort keys %runs], [], 'no slot was run by both');
    $primary->stop;
    $standby->stop;
};

subtest 'an idle server is left alone' => sub {
    my $seconds = time() - $idle_since;

    set_context_switches($idle, \%switches_after);
    is_deeply([sort keys %switches_after], [sort keys %switches_before], 'the processes are the same');
    for my $process (sort keys %switches_before) {
        my $count = $switches_after{$process} - $switches_before{$process};
        diag(sprintf('%s was switched to %d times in %.0f s', $process, $count, $seconds));
        cmp_ok($count, '<=', 2 * (1 + $seconds / 60), 'two wake-ups a minute at most');
    }
    $idle->stop;
};

done_testing();
