# 009_job_rules.pl: the rules of users' jobs: failures and further attempts, timeouts, cancellation, overlap, changes meanwhile.
use strict;
use warnings;

use Apapacho;
use Jobs;
use JSON::PP ();
use Test::More;
use Time::HiRes qw(time);

my $node = Apapacho->create('main', settings => { max_worker_processes => 40, 'apapacho_jobs.max_workers' => 20 });
create_roles($node);
$node->ask('CREATE SEQUENCE t.tries; GRANT USAGE ON SEQUENCE t.tries TO ana');
$node->wait_for_scheduler;
my $keys = session_of($node);
my $listener = session_of($node);
$listener->query_safe('LISTEN apapacho_jobs; LISTEN alarms');

# Waits until the payloads received so far on a channel match; returns them, a line each.
my %received = (apapacho_jobs => '', alarms => '');

sub notifications {
    my ($channel, $pattern) = @_;
    $node->wait_until(sub {
        my $output = $listener->query_safe('SELECT 1');
        $received{$1} .= "$2\n" while $output =~ /Asynchronous notification "(\w+)" with payload "(.*)" received/g;
        return $received{$channel} =~ $pattern;
    }, "a notification on $channel: $pattern");
    return $received{$channel};
}

# Of the scheduled times of a job that are in the history: how many there are, and whether all of them are, one second apart.
sub slots_of {
    my ($job) = @_;
    return $node->ask(qq{SELECT sum(slots), sum(slots) = extract(epoch FROM max(scheduled_until) - min(scheduled_for)) + 1,
        count(DISTINCT pass) FROM apapacho_jobs.slot WHERE job = '$job'});
}

# These take their time: the last subtest is on them. No cancellation ends their command.
my $stubborn = 'DO $$ BEGIN LOOP BEGIN PERFORM pg_sleep(0.1); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END $$';
schedule($node, "stubborn $_", $stubborn, $_ eq 'timeout' ? (timeout => '200 ms') : ()) for qw(timeout cancel stop);

subtest 'a failure: recorded, and tried again after growing delays' => sub {
    schedule($node, 'fails', q{SELECT 'the number is ' || 1/0}, retries => 3, retry_delay => '200 ms', retry_delay_max => '1 s');
    schedule($node, 'second try', q{SELECT 1/(nextval('t.tries') - 1)}, retries => 5, retry_delay => '1 ms');
    schedule($node, 'superseded', 'SELECT 1/0', schedule => '* * * * * *', retries => 3, retry_delay => '1 h');
    schedule($node, 'capped', q{
        SELECT apapacho_alter_job('capped', retry_delay => '23 days 23 h', retry_delay_max => '24 days');
        COMMIT;
        SELECT 1/0}, retries => 9, retry_delay => '1 ms', retry_delay_max => '1 ms');
    schedule($node, 'several', q{INSERT INTO t.seen VALUES ('several', 'one'); INSERT INTO t.seen VALUES ('several', 1/0)});

    outcome($node, 'status', 'fails', 4);
    is(run_rows($node, 'status, trigger, attempt, sqlstate, error, retry_at IS NULL', 'fails'), join("\n",
            map { "failed $_ 22012 division by zero t" } 'schedule 1', 'retry 2', 'retry 3', 'retry 4'), 'each attempt is in the history');
    is($node->ask(q{SELECT count(*) FROM apapacho_jobs.run AS a JOIN apapacho_jobs.run AS b USING (job_id, scheduled_for)
            WHERE a.job = 'fails' AND b.attempt = a.attempt + 1
                AND b.started_at - a.finished_at >= interval '100 ms' * 2 ^ (a.attempt - 1)}), '3',
        'all for the same time, after delays that grow');
    is($node->ask(q{SELECT status, attempt FROM apapacho_jobs.slot WHERE job = 'fails'}), 'failed|4', 'the slot has failed once');

    is(outcome($node, 'status, attempt', 'second try', 2), 'succeeded|2', 'one that succeeds at the second attempt');
    is($node->ask(q{SELECT status, attempt FROM apapacho_jobs.slot WHERE job = 'second try'}), 'succeeded|2', 'and so its slot');

    my $pending = q{FROM apapacho_jobs.run WHERE job = 'superseded' AND retry_at IS NOT NULL};
    outcome($node, 'status', 'superseded', 3);
    $node->wait_for("SELECT count(*) = 1 $pending", 'a failure is to be tried again in an hour');
    $node->wait_for("SELECT count(*) = 0 $pending AND id < (SELECT max(id) FROM apapacho_jobs.run WHERE job = 'superseded' AND finished_at
        IS NOT NULL)", 'but for the latest, a new time supersedes that');
    is($node->ask(q{SELECT max(attempt) FROM apapacho_jobs.run WHERE job = 'superseded'}), '1', 'so there is no other attempt');
    $node->ask(q{SELECT apapacho_unschedule_job('superseded')}, role => 'ana');

    outcome($node, 'status', 'capped', 2);
    is(run_row($node, q{attempt, retry_at - finished_at BETWEEN '12 days' AND '24 days'}, 'capped'), '2|t', 'delays have a limit');
    is(outcome($node, 'status, sqlstate', 'several'), 'failed|22012', 'one of several statements fails');
    is(seen($node, 'several'), '', 'and all are undone');
};

subtest 'failures are told on a channel' => sub {
    my $told = notifications('apapacho_jobs', qr/"fails".*"final": true/);
    my @payloads = map { JSON::PP::decode_json($_) } grep { /"fails"/ } split(/\n/, $told);
    is_deeply([map { join(' ', @$_{qw(job status sqlstate attempt)}) . ($_->{final} ? ' final' : '') } @payloads],
        [map { "fails failed 22012 $_" } 1, 2, 3, '4 final'], 'each attempt');
    is($payloads[3]->{runId}, run_row($node, 'id', 'fails'), 'which run');
    unlike($told, qr/division|number/, 'without the text of the error');

    $node->reconfigure('apapacho_jobs.notify_channel' => 'alarms');
    schedule($node, 'alarm', 'SELECT 1/0', schedule => '* * * * * *');
    notifications('alarms', qr/"alarm"/);
    unlike($received{alarms}, qr/"fails"/, 'another channel');
    $node->reconfigure('apapacho_jobs.notify_channel' => '');
    $node->wait_for(q{SELECT current_setting('apapacho_jobs.notify_channel') = ''}, 'no channel');
    schedule($node, 'silent', 'SELECT 1/0');
    is(outcome($node, 'status', 'silent'), 'failed', 'a failure');
    $node->ask("NOTIFY $_, 'the end'") for qw(apapacho_jobs alarms);
    unlike(notifications($_, qr/the end/), qr/"silent"/, "is not told on $_") for qw(apapacho_jobs alarms);
    $node->ask(q{SELECT apapacho_unschedule_job('alarm')});
};

subtest 'timeout and cancellation' => sub {
    my $sleep = q{INSERT INTO t.seen VALUES ('late', 'late'); SELECT pg_sleep(600)};
    schedule($node, 'timeout', $sleep, timeout => '300 ms', retries => 1, retry_delay => '1 h');
    schedule($node, 'cancelled', $sleep, retries => 1, retry_delay => '1 h');
    schedule($node, 'queued', $sleep, schedule => '* * * * * *', overlap => 'queue');
    schedule($node, 'own timeout', q{SET statement_timeout = '300 ms'; SELECT pg_sleep(600)}, retries => 1, retry_delay => '1 h');

    is(outcome($node, 'status, sqlstate, error, retry_at IS NOT NULL', 'timeout'),
        q{timed_out|57014|the run took longer than the job's timeout of 300 ms|t}, 'a timeout');
    is(outcome($node, 'status, sqlstate, error, retry_at IS NOT NULL', 'own timeout'),
        'failed|57014|canceling statement due to statement timeout|t', 'the timeout of a statement is a failure');

    my $id = wait_for_status($node, 'cancelled', 'running');
    like($node->error_of("SELECT apapacho_cancel_run($id)", role => 'ben'), qr/ERROR:  42704: unknown run $id/, 'others cannot cancel');
    is(run_row($node, 'status', 'cancelled'), 'running', 'it goes on');
    is($node->ask("SELECT apapacho_cancel_run($id)", role => 'ana'), 't', 'the owner can');
    is(outcome($node, 'status, sqlstate, retry_at IS NULL', 'cancelled'), 'cancelled|57014|t', 'the history');
    is($node->ask("SELECT apapacho_cancel_run($id)", role => 'ana'), 'f', 'once');

    $id = wait_for_status($node, 'queued', 'queued');
    my $running = wait_for_status($node, 'queued', 'running');
    is($node->ask(q{SELECT apapacho_pause_job('queued')}, role => 'ana'), 't', 'no more of them');
    is($node->ask("SELECT apapacho_cancel_run($id)", role => 'ana'), 't', 'one that is queued');
    $node->wait_for("SELECT status = 'cancelled' FROM apapacho_jobs.run WHERE id = $id", 'is cancelled');
    is($node->ask("SELECT started_at IS NULL, error FROM apapacho_jobs.run WHERE id = $id"),
        't|the run was cancelled before it began', 'before it began');
    is($node->ask("SELECT status FROM apapacho_jobs.run WHERE id = $running"), 'running', 'the one at work goes on');
    is($node->ask("SELECT apapacho_cancel_run($running)", role => 'ana'), 't', 'until it is cancelled too');
    $node->wait_for("SELECT status = 'cancelled' FROM apapacho_jobs.run WHERE id = $running", 'is cancelled');
    is(seen($node, 'late'), '', 'nothing is left of what they did');
};

subtest 'statements that are no ordinary transaction' => sub {
    $node->ask(q{
        CREATE TABLE t.big AS SELECT generate_series(1, 10) AS i;
        CREATE PROCEDURE t.commits() LANGUAGE plpgsql AS
            $$ BEGIN INSERT INTO t.seen VALUES ('commits', 'kept'); COMMIT; INSERT INTO t.seen VALUES ('commits', 1/0); END $$;
        ALTER TABLE t.big OWNER TO ana});
    schedule($node, 'vacuum', 'VACUUM t.big');
    schedule($node, 'commits', 'CALL t.commits()');
    is(outcome($node, q{status, result->>'command'}, 'vacuum'), 'succeeded|VACUUM', 'VACUUM');
    $node->wait_for(q{SELECT pg_stat_get_last_vacuum_time('t.big'::regclass) IS NOT NULL}, 'has been done');
    is(outcome($node, 'status, sqlstate', 'commits'), 'failed|22012', 'a procedure that commits, and fails after that');
    is(seen($node, 'commits'), 'kept', 'what it has committed stays');
};

subtest 'overlap: skipped, or one queued; and what the status tells of it' => sub {
    my %every = (schedule => '* * * * * *');
    my $work = q{SELECT apapacho_report_progress(3, 10, 'a "third"'); SELECT pg_advisory_xact_lock_shared(1)};
    $keys->query_safe('SELECT pg_advisory_lock(1)');
    schedule($node, 'skips', $work, %every);
    schedule($node, 'queues', $work, %every, overlap => 'queue');
    wait_for_status($node, 'queues', 'queued');
    $node->wait_for(qq{SELECT count(*) FILTER (WHERE job = 'skips') >= 3 AND count(*) FILTER (WHERE job = 'queues') >= 1
        FROM apapacho_jobs.run WHERE status = 'skipped'}, 'times that overlap are skipped');
    is($node->ask(q{SELECT string_agg(DISTINCT concat_ws(': ', job, error, started_at IS NULL), E'\n') FROM apapacho_jobs.run
            WHERE status = 'skipped' AND job IN ('skips', 'queues')}),
        "queues: another run of the job was queued already: t\nskips: the job's previous run was still at work: t", 'why');
    is($node->ask(q{SELECT count(*) FROM apapacho_jobs.run WHERE status = 'queued' AND job = 'queues'}), '1', 'one is queued');

    is($node->ask(q{SELECT s.name, s.running, s.executing, s.run_id = r.id, s.queued, s.owner, s.paused, s.cron, s.progress,
                s.last_lateness BETWEEN '0' AND '1 min', cardinality(s.next_runs), s.next_run = s.next_runs[1],
                s.next_runs[5] - s.next_runs[1]
            FROM apapacho_job_status() AS s JOIN apapacho_jobs.run AS r ON r.job_id = s.job_id AND r.status = 'running'
            WHERE s.name IN ('skips', 'queues') ORDER BY s.name}),
        join("\n", map { qq/$_|ana|f|* * * * * *|{"done": 3, "total": 10, "message": "a \\"third\\""}|t|5|t|00:00:04/ }
            'queues|t|t|t|1', 'skips|t|t|t|0'), 'the status');
    my $activity = q{SELECT a.job, a.owner, a.executing, a.run_id = r.id, a.queued, a.progress FROM apapacho_jobs.activity AS a
        JOIN apapacho_jobs.run AS r ON r.job_id = a.job_id AND r.status = 'running' WHERE a.job IN ('skips', 'queues') ORDER BY a.job};
    is($node->ask($activity, role => 'ana'), join("\n", map { qq/$_|{"done": 3, "total": 10, "message": "a \\"third\\""}/ }
            'queues|ana|t|t|1', 'skips|ana|t|t|0'), 'what their owner sees');
    is($node->ask(q{SELECT count(*) FROM apapacho_jobs.activity}, role => 'ben'), '0', 'and another role does not');
    my @names = map { $_->{name} } @{ JSON::PP::decode_json($node->ask('SELECT apapacho_scheduler_status()'))->{jobs} };
    is_deeply([@names[0 .. 3]], [qw(outboxPublisher payoutCalculation outboxCleanup payoutRetry)], 'the status document: the four first');
    is_deeply([grep { /^(skips|queues)$/ } @names[4 .. $#names]], [qw(skips queues)], 'then the others');

    $keys->query_safe('SELECT pg_advisory_unlock(1)');
    $node->wait_for("SELECT count(*) >= 2 FROM apapacho_jobs.run WHERE job = '$_' AND status = 'succeeded'", "$_ goes on")
        for qw(skips queues);
    is($node->ask(q{SELECT count(*) FROM apapacho_jobs.run AS a JOIN apapacho_jobs.run AS b USING (job_id)
            WHERE job_id > 100 AND b.id > a.id AND a.started_at < a.finished_at AND b.started_at < b.finished_at
                AND tstzrange(a.started_at, a.finished_at) && tstzrange(b.started_at, b.finished_at)}),
        '0', 'never two at once');
    $node->ask(q{SELECT apapacho_pause_job('skips'), apapacho_pause_job('queues')});
    $node->wait_for(q{SELECT count(*) = 2 FROM apapacho_job_status() WHERE paused AND NOT executing AND progress IS NULL
        AND queued = 0 AND next_runs IS NULL AND name IN ('skips', 'queues')}, 'the status afterwards');
    like(slots_of($_), qr/^\d+\|t\|1$/, "$_: every time is accounted for, once") for qw(skips queues);
};

subtest 'a change takes effect at once' => sub {
    my $trace = sub { my ($job, $what) = @_; return "INSERT INTO t.seen VALUES ('$job', '$what')" };
    schedule($node, 'paused', $trace->('paused', 'x'), schedule => '* * * * * *');
    schedule($node, 'altered', $trace->('altered', 'before'), schedule => '@yearly');
    $keys->query_safe('SELECT pg_advisory_lock(2)');
    schedule($node, 'unscheduled', 'SELECT pg_advisory_xact_lock(2); ' . $trace->('unscheduled', 'done'), schedule => '* * * * * *');
    $node->wait_for(q{SELECT executing FROM apapacho_job_status() WHERE name = 'unscheduled'}, 'it is at work');
    my $running = wait_for_status($node, 'unscheduled', 'running');
    is($node->ask(q{SELECT apapacho_unschedule_job('unscheduled')}, role => 'ana'), 't', 'a job at work is unscheduled');
    outcome($node, 'status', 'paused');
    $node->ask(q{SELECT apapacho_pause_job('paused')}, role => 'ana');
    my $paused_at = $node->ask('SELECT clock_timestamp()');
    $node->ask(q{SELECT apapacho_alter_job('altered', schedule => t.soon(), command => $$INSERT INTO t.seen VALUES ('altered', 'after')$$)},
        role => 'ana');

    is(outcome($node, 'status', 'altered'), 'succeeded', 'altered: it runs by the new schedule');
    is(seen($node, 'altered'), 'after', 'the new command');
    is($node->ask(qq{SELECT count(*) FROM apapacho_jobs.run WHERE job = 'paused' AND status <> 'cancelled'
            AND scheduled_for > '$paused_at'}), '0', 'paused: no run from then on');
    is($node->ask(q{SELECT apapacho_resume_job('paused')}, role => 'ana'), 't', 'resumed');
    my $paused = $node->wait_for_run(q{job = 'paused' AND status = 'paused'});
    $node->wait_for_run("job = 'paused' AND status = 'succeeded' AND id > $paused");
    like(slots_of('paused'), qr/^\d+\|t\|1$/, 'the times between are recorded as paused');
    is($node->ask(q{SELECT apapacho_pause_job('paused')}, role => 'ana'), 't', 'and again');

    is($node->ask("SELECT status FROM apapacho_jobs.run WHERE id = $running"), 'running', 'unscheduled: the run at work goes on');
    $keys->query_safe('SELECT pg_advisory_unlock(2)');
    $node->wait_for("SELECT status = 'succeeded' FROM apapacho_jobs.run WHERE id = $running", 'to its end');
    is($node->ask(q{SELECT count(*) FROM apapacho_job_status() WHERE name = 'unscheduled'}), '0', 'the job is gone');
    is($node->ask("SELECT count(*) FROM apapacho_jobs.run WHERE job = 'unscheduled' AND scheduled_for > '$paused_at'", role => 'ana'), '0',
        'and has had no other run, as its owner still sees');
};

# Changes a job that is due every second in the moment when the run of a slot is taken, but not due yet; returns that slot. Should the
# machine have been too busy for the scheduler to hear of it in time, it is done once more.
sub change_before_slot {
    my ($command, $change) = @_;
    for (1 .. 20) {
        schedule($node, 'edge', $command, schedule => '* * * * * *');
        $node->ask(qq{DO \$\$
            DECLARE
                slot timestamptz;
            BEGIN
                WHILE slot IS NULL LOOP
                    PERFORM pg_sleep(0.01);
                    SELECT max(scheduled_for) INTO slot FROM apapacho_jobs.run WHERE job = 'edge' AND status IN ('queued', 'running')
                        AND scheduled_for > clock_timestamp() + interval '100 ms';
                END LOOP;
                PERFORM apapacho_alter_job('edge', $change);
                COMMIT;
                INSERT INTO t.seen SELECT 'slot', slot WHERE clock_timestamp() < slot - interval '30 ms';
            END \$\$});
        my $slot = $node->ask(q{DELETE FROM t.seen WHERE job = 'slot' RETURNING what});
        return $slot if $slot;
    }
    die "the machine is too busy\n";
}

subtest 'also in the moment before a scheduled time' => sub {
    my $trace = sub { my ($what) = @_; return "INSERT INTO t.seen VALUES ('edge', '$what')" };
    my $slot = change_before_slot($trace->('first'), q{schedule => '@yearly'});
    $node->wait_for("SELECT status = 'cancelled' FROM apapacho_jobs.run WHERE job = 'edge' AND scheduled_for = '$slot'",
        'a run that the new schedule does not have is called off');
    is($node->ask("SELECT count(*) FROM t.seen WHERE job = 'edge' AND at >= '$slot'"), '0', 'and does nothing');

    my $next = "FROM apapacho_jobs.slot WHERE job = 'edge' AND status = 'succeeded' AND scheduled_for";
    $slot = change_before_slot($trace->('second'), q{schedule => '*/1 * * * * *'});
    $node->wait_for("SELECT count(*) > 0 $next > '$slot'", 'a new schedule that has the same time');
    is($node->ask("SELECT count(*) $next = '$slot'"), '1', 'has its run');

    $slot = change_before_slot($trace->('third'), 'command => $c$' . $trace->('fourth') . '$c$');
    $node->wait_for("SELECT count(*) > 0 $next > '$slot'", 'a new command');
    is($node->ask("SELECT DISTINCT what FROM t.seen WHERE job = 'edge' AND at >= '$slot'"), 'fourth', 'is the one that is executed');
    $node->ask(q{SELECT apapacho_unschedule_job('edge')});
};

subtest 'a command that catches cancellations is ended nevertheless' => sub {
    like(outcome($node, 'status, sqlstate, error', 'stubborn timeout'), qr/^timed_out\|57014\|the run took longer than the job's timeout/,
        'by its timeout');
    my $id = wait_for_status($node, 'stubborn cancel', 'running');
    my $pid = run_row($node, 'pid', 'stubborn cancel');
    is($node->ask("SELECT apapacho_cancel_run($id)", role => 'ana'), 't', 'a cancellation');
    is($node->ask("SELECT pg_terminate_backend($pid)", role => 'ana'), 't', 'and pg_terminate_backend by its owner');
    like(outcome($node, 'status', 'stubborn cancel'), qr/^(cancelled|interrupted)$/, 'end it');
    $node->wait_until(sub { !kill(0, $pid) }, 'its process is gone');

    wait_for_status($node, 'stubborn stop', 'running');
    my $began = time();
    $_->quit for $listener, $keys;
    $node->stop('fast');
    cmp_ok(time() - $began, '<', 15, 'nor does it hold up a shutdown for long');
    $node->start;
    $node->wait_for(q{SELECT status IN ('interrupted', 'crashed') FROM apapacho_jobs.run WHERE job = 'stubborn stop'}, 'recorded');
};

$node->stop;
done_testing();
