# 002_runs.pl: runs by hand and by schedule: their history, who waits for whom, and how they end when something goes wrong.
#
# A job is held at work by a lock on the table that it needs, in another session or, over a restart, in a prepared transaction.
use strict;
use warnings;

use Apapacho;
use JSON::PP ();
use Test::More;

my $node = Apapacho->create('main', tables => 'fixture', settings => { max_prepared_transactions => 5,
    'apapacho_jobs.outbox_wake_on_commit' => 'off' });
$node->wait_for_scheduler;

# A column or more of a run.
sub run_row {
    my ($columns, $id) = @_;
    return $node->ask("SELECT $columns FROM apapacho_jobs.run WHERE id = $id");
}

sub wait_for_status {
    my ($id, $status) = @_;
    $node->wait_for("SELECT status = '$status' FROM apapacho_jobs.run WHERE id = $id", "run $id: $status");
    return;
}

# Statements by that name wait for a run.
sub wait_for_waiting {
    my ($count, $name) = @_;
    $node->wait_for("SELECT count(*) = $count FROM pg_stat_activity
        WHERE application_name = '$name' AND state = 'active' AND wait_event_type = 'Extension'", "$count waiting as $name");
    return;
}

sub answer_of {
    my ($statement) = @_;
    my ($output, $error) = $statement->finish;
    is($error, '', 'no error');
    return JSON::PP::decode_json($output || '{}');
}

sub last_run { return $node->ask('SELECT coalesce(max(id), 0) FROM apapacho_jobs.run'); }

# Locks a table over crashes and restarts.
sub hold_for_good {
    my ($table) = @_;
    $node->ask(qq{BEGIN; LOCK TABLE "$table"; PREPARE TRANSACTION 'hold'});
    return;
}

subtest 'a run by hand is answered with its figures and recorded' => sub {
    my $answer = $node->run_job('outbox');
    my %figures = map { $_ => $answer->{$_} } qw(job status processed failed);

    is_deeply(\%figures, { job => 'outbox', status => 'succeeded', processed => 0, failed => 0 }, 'the answer');
    is(run_row(q{job, trigger, status, requested_by = current_user, started_at <= finished_at, result->>'processed',
            error IS NULL, sqlstate IS NULL, arguments IS NULL}, $answer->{runId}),
        'outbox|manual|succeeded|t|t|0|t|t|t', 'the history');
    is($node->ask(q{SELECT name, executing, last_run_id, last_trigger, last_status, last_result->>'processed'
            FROM apapacho_job_status() WHERE name = 'outbox'}), "outbox|f|$answer->{runId}|manual|succeeded|0", 'the status');
};

subtest 'jobs go by both names' => sub {
    my %names = (outbox => 'outboxPublisher', cleanup => 'outboxCleanup', retry => 'payoutRetry');
    for my $name (sort keys %names) {
        is($node->run_job($names{$name})->{job}, $name, "$names{$name} is $name");
    }
};

subtest 'bad calls are clear errors' => sub {
    my $error = $node->error_of(q{SELECT apapacho_run_job('Outbox')});

    like($error, qr/ERROR:  42704: unknown job "Outbox"/, 'unknown job');
    like($error, qr/HINT:  The jobs are outbox \(outboxPublisher\), payout \(payoutCalculation\), cleanup \(outboxCleanup\), retry \(payoutRetry\)\./,
        'which there are');
    like($node->error_of('SELECT apapacho_run_job(NULL)'), qr/ERROR:  22004: the job's name must not be null/, 'null');
};

subtest 'without waiting the answer comes at once' => sub {
    my $session = $node->hold('OutboxEvent');
    my $answer = $node->run_job('outbox', wait => 0);

    is($answer->{status}, 'started', 'status');
    $node->wait_for_blocked_worker('outbox');
    is(run_row('status', $answer->{runId}), 'running', 'the run is at work by the id that was answered');
    is($node->ask(q{SELECT string_agg(name, ',') FROM apapacho_job_status() WHERE executing}), 'outbox', 'the status tells');
    $node->let_go($session);
    wait_for_status($answer->{runId}, 'succeeded');
};

subtest 'a second run is queued behind the first, and others join it' => sub {
    my $session = $node->hold('Payout');
    my $first = $node->begin_statement(q{SELECT apapacho_run_job('retry')}, name => 'first');
    $node->wait_for_blocked_worker('retry');
    my @others = map { $node->begin_statement(q{SELECT apapacho_run_job('payoutRetry')}, name => 'others') } 1 .. 3;
    wait_for_waiting(3, 'others');
    my $queued = $node->run_job('retry', wait => 0);

    is($queued->{status}, 'queued', 'status of one that does not wait');
    is($node->ask(q{SELECT count(*) FROM apapacho_jobs.run WHERE status = 'running'}), '1', 'one is at work');
    is($node->run_job('outbox')->{status}, 'succeeded', 'another job is not held up');
    $node->let_go($session);

    my $id = answer_of($first)->{runId};
    my @ids = map { answer_of($_)->{runId} } @others;
    is_deeply([@ids], [($queued->{runId}) x 3], 'one run for all the others');
    cmp_ok($id, '<', $ids[0], 'after the first');
    is($node->ask("SELECT a.finished_at <= b.started_at FROM apapacho_jobs.run a, apapacho_jobs.run b
            WHERE a.id = $id AND b.id = $ids[0]"), 't', 'which had ended');
};

subtest 'runs of a job never overlap' => sub {
    my $before = last_run();

    $node->pgbench('-n -c 8 -j 2 -t 10', 0, [qr/number of transactions actually processed: 80\/80/], [qr/^$/],
        'eight sessions run jobs', { '002_overlap' => q{SELECT apapacho_run_job('outbox')} });
    is($node->ask("SELECT count(*) FROM apapacho_jobs.run a, apapacho_jobs.run b WHERE a.id > $before AND b.id > a.id
            AND a.job = b.job AND tstzrange(a.started_at, a.finished_at) && tstzrange(b.started_at, b.finished_at)"),
        '0', 'no two at once');
    is($node->ask("SELECT string_agg(DISTINCT status, ',') FROM apapacho_jobs.run WHERE id > $before"), 'succeeded', 'all well');
};

subtest 'cancelling the waiting statement leaves the run alone' => sub {
    my $session = $node->hold('OutboxEvent');
    my $statement = $node->begin_statement(q{SELECT apapacho_run_job('outbox')}, name => 'cancelled');
    my $ended = $node->begin_statement(q{SELECT apapacho_run_job('outbox')}, name => 'terminated');
    $node->wait_for_blocked_worker('outbox');
    wait_for_waiting(1, 'cancelled');
    wait_for_waiting(1, 'terminated');
    my $id = $node->wait_for_run("status = 'running'");

    $node->ask(q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE application_name = 'cancelled'});
    like(($statement->finish)[1], qr/ERROR:  57014: canceling statement due to user request/, 'the statement is cancelled');
    $node->ask(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'terminated'});
    like(($ended->finish)[1], qr/FATAL:  57P01/, 'a session is terminated');
    like($node->error_of(q{SET statement_timeout = '100ms'; SELECT apapacho_run_job('outbox')}),
        qr/ERROR:  57014: canceling statement due to statement timeout/, 'a statement runs into its timeout');
    is(run_row('status', $id), 'running', 'the run goes on');
    $node->let_go($session);
    wait_for_status($id, 'succeeded');
    $node->wait_for(q{SELECT NOT executing FROM apapacho_job_status() WHERE name = 'outbox'}, 'nothing is left queued');
    is($node->run_job('outbox')->{status}, 'succeeded', 'the next run is as ever');
};

subtest 'a caller that holds the lock its run needs gets an error' => sub {
    my $error = $node->error_of(q{BEGIN; LOCK TABLE "OutboxEvent"; SELECT apapacho_run_job('outbox')});

    like($error, qr/ERROR:  40P01: the run waits for a lock that this transaction holds/, 'as a deadlock');
    like($error, qr/HINT:  Commit first, or run the job without waiting/, 'with the way out');
    $node->wait_for(q{SELECT status = 'succeeded' FROM apapacho_jobs.run ORDER BY id DESC LIMIT 1}, 'the run goes on');
};

subtest 'so does one whose run is queued behind a run that needs the lock' => sub {
    my $session = $node->hold('OutboxEvent');
    my $other = $node->begin_statement(q{SELECT apapacho_run_job('outbox')}, name => 'other');
    $node->wait_for_blocked_worker('outbox');
    $session->query(q{SET statement_timeout = '20s'; SELECT apapacho_run_job('outbox')});

    like($session->{stderr}, qr/the run waits for a lock that this transaction holds/, 'as a deadlock');
    $node->let_go($session);
    is(answer_of($other)->{status}, 'succeeded', 'the run goes on');
};

subtest 'jobs switched off during a scheduled run: it ends early, and is taken up when they are on again' => sub {
    $node->ask(q{SELECT apapacho_outbox_emit('A', 'a', 'E')});
    my $before = $node->ask('SELECT coalesce(max(id), 0) FROM apapacho_jobs.run');
    my $session = $node->hold('OutboxEvent');
    $node->reconfigure('apapacho_jobs.outbox_cron' => '1 seconds');
    $node->wait_for_blocked_worker('outbox');
    $node->reconfigure('apapacho_jobs.outbox_cron' => '', 'apapacho_jobs.enabled' => 'off');
    $node->wait_for(q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'apapacho_jobs scheduler'}, 'no scheduler is left');
    $node->let_go($session);
    my $id = $node->wait_for_run("id > $before AND status = 'interrupted'");
    is(run_row('trigger, error', $id), 'schedule|the jobs were switched off during the run', 'the history says why');
    $node->reconfigure('apapacho_jobs.enabled' => 'on');
    ok($node->wait_for_run("id > $id AND trigger = 'recovery' AND status = 'succeeded'"), 'the run goes on');
};

subtest 'a scheduled run is skipped and recorded while one is at work' => sub {
    my $session = $node->hold('OutboxEvent');
    my $id = $node->run_job('outbox', wait => 0)->{runId};
    $node->wait_for_blocked_worker('outbox');
    $node->reconfigure('apapacho_jobs.outbox_cron' => '1 seconds');
    $node->wait_for("SELECT count(*) >= 2 FROM apapacho_jobs.run WHERE id > $id AND status = 'skipped'", 'two are skipped');

    is($node->ask("SELECT DISTINCT job, trigger, requested_by IS NULL, started_at IS NULL, finished_at IS NOT NULL, error
            FROM apapacho_jobs.run WHERE id > $id"), q{outbox|schedule|t|t|t|the job's previous run was still at work},
        'the history says so');
    is($node->ask("SELECT count(*) - count(DISTINCT scheduled_for) FROM apapacho_jobs.run WHERE id > $id"), '0', 'each once');
    is($node->ask(q{SELECT last_run_id, last_status FROM apapacho_job_status() WHERE name = 'outbox'}), "$id|running",
        'the status shows the run at work');
    $node->let_go($session);
    my $scheduled = $node->wait_for_run("id > $id AND trigger = 'schedule' AND status = 'succeeded'");
    is(run_row('requested_by IS NULL, scheduled_for <= started_at', $scheduled), 't|t', 'then scheduled runs take place');
    $node->reconfigure('apapacho_jobs.outbox_cron' => '');
    $node->wait_for(q{SELECT NOT running AND NOT executing FROM apapacho_job_status() WHERE name = 'outbox'}, 'the schedule ends');
};

subtest 'pg_cancel_backend of the worker' => sub {
    my $session = $node->hold('OutboxEvent');
    my $statement = $node->begin_statement(q{SELECT apapacho_run_job('outbox')});
    my $worker = $node->wait_for_blocked_worker('outbox');
    my $id = last_run();

    $node->ask("SELECT pg_cancel_backend($worker)");
    like(($statement->finish)[1], qr/ERROR:  57014: canceling statement due to user request/, 'who waits is told');
    is(run_row('status, sqlstate, error', $id), 'cancelled|57014|canceling statement due to user request', 'the history');
    $node->let_go($session);
};

subtest 'pg_terminate_backend of the worker' => sub {
    my $session = $node->hold('OutboxEvent');
    my $statement = $node->begin_statement(q{SELECT apapacho_run_job('outbox')});
    my $worker = $node->wait_for_blocked_worker('outbox');
    my $id = last_run();
    my $queued = $node->run_job('outbox', wait => 0)->{runId};

    $node->ask("SELECT pg_terminate_backend($worker)");
    like(($statement->finish)[1], qr/ERROR:  \w{5}: the run was cut off by/, 'who waits is told');
    is(run_row('status', $id), 'interrupted', 'the history');
    like(run_row('error', $id), qr/cut off by a shutdown of the server or an administrator's command/, 'why');
    my $other = $node->wait_for_blocked_worker('outbox');
    isnt($other, $worker, 'the queued run has a worker of its own');
    $node->let_go($session);
    wait_for_status($queued, 'succeeded');
};

subtest 'a worker that is killed: crashed, and taken up again' => sub {
    my $session = $node->hold('OutboxEvent');
    my $statement = $node->begin_statement(q{SELECT apapacho_run_job('outbox')});
    my $worker = $node->wait_for_blocked_worker('outbox');
    my $id = last_run();

    $node->kill_hard($worker);
    $statement->finish;
    $node->let_go($session);
    wait_for_status($id, 'crashed');
    is(run_row('sqlstate, finished_at IS NOT NULL, result IS NULL', $id), 'XX000|t|t', 'the history');
    like(run_row('error', $id), qr/the server crashed, or the process was killed/, 'why');
    my $again = $node->wait_for_run("id > $id AND trigger = 'recovery' AND status = 'succeeded'");
    is($node->ask("SELECT a.scheduled_for = b.scheduled_for FROM apapacho_jobs.run a, apapacho_jobs.run b
            WHERE a.id = $id AND b.id = $again"), 't', 'taken up for the same time');
};

subtest 'a run that crashes again while it is taken up is left alone' => sub {
    hold_for_good('Payout');
    my $id = $node->run_job('retry', wait => 0)->{runId};
    $node->kill_hard($node->wait_for_blocked_worker('retry'));
    my $again = $node->wait_for_run("id > $id AND trigger = 'recovery' AND status = 'running'");
    $node->kill_hard($node->wait_for_blocked_worker('retry'));
    wait_for_status($again, 'crashed');

    $node->reconfigure('apapacho_jobs.outbox_cron' => '1 seconds');
    $node->wait_for("SELECT count(*) >= 2 FROM apapacho_jobs.run WHERE id > $again AND job = 'outbox'", 'the scheduler goes on');
    $node->reconfigure('apapacho_jobs.outbox_cron' => '');
    is($node->ask("SELECT count(*) FROM apapacho_jobs.run WHERE id > $again AND job = 'retry'"), '0', 'no third try');
    $node->ask(q{ROLLBACK PREPARED 'hold'});
};

subtest 'immediate shutdown during a run: crashed, and taken up again' => sub {
    hold_for_good('OutboxEvent');
    my $id = $node->run_job('outbox', wait => 0)->{runId};
    $node->wait_for_blocked_worker('outbox');
    $node->stop('immediate');
    $node->start;
    wait_for_status($id, 'crashed');
    $node->wait_for_run("id > $id AND trigger = 'recovery' AND status = 'running'");
    $node->ask(q{ROLLBACK PREPARED 'hold'});
    $node->wait_for_run("id > $id AND trigger = 'recovery' AND status = 'succeeded'");
};

subtest 'fast shutdown during a run: interrupted, and taken up again at the next start' => sub {
    hold_for_good('OutboxEvent');
    my $id = $node->run_job('outbox', wait => 0)->{runId};
    $node->wait_for_blocked_worker('outbox');
    $node->stop('fast');
    $node->start;
    is(run_row('status', $id), 'interrupted', 'the history');
    my $again = $node->wait_for_run("id > $id AND trigger = 'recovery' AND status = 'running'");
    $node->stop('fast');
    $node->start;
    is(run_row('status', $again), 'interrupted', 'a second time');
    $node->wait_for_run("id > $again AND trigger = 'recovery' AND status = 'running'");
    $node->ask(q{ROLLBACK PREPARED 'hold'});
    $node->wait_for_run("id > $again AND trigger = 'recovery' AND status = 'succeeded'");
};

subtest 'kill -9 of the postmaster during a run' => sub {
    hold_for_good('OutboxEvent');
    my $id = $node->run_job('outbox', wait => 0)->{runId};
    my @pids = ($node->wait_for_blocked_worker('outbox'), $node->pids('scheduler'), $node->pids('launcher'));
    $node->kill9;
    $node->wait_until(sub { !grep { kill(0, $_) } @pids }, 'launcher, scheduler and worker end with the postmaster');
    $node->start;
    $node->ask(q{ROLLBACK PREPARED 'hold'});
    wait_for_status($id, 'crashed');
    $node->wait_for_run("id > $id AND trigger = 'recovery' AND status = 'succeeded'");
};

subtest 'a failing job is recorded with its reason, the others go on' => sub {
    $node->ask('ALTER TABLE "Payout" RENAME TO "PayoutGone"');
    my $error = $node->error_of(q{SELECT apapacho_run_job('retry')});

    like($error, qr/ERROR:  42P01: table public\."Payout" does not exist/, 'who waits gets the error');
    like($error, qr/HINT:  Run SELECT apapacho_create_tables\(\)/, 'with the hint');
    like($error, qr/CONTEXT:  run \d+ of job "retry" \(failed\)/, 'and the run');
    my $id = last_run();
    is(run_row('job, status, sqlstate', $id), 'retry|failed|42P01', 'the history');
    like(run_row('error', $id), qr/^table public\."Payout" does not exist\nHINT:  Run SELECT/, 'with the hint');

    my $position = $node->log_position;
    $node->reconfigure('apapacho_jobs.retry_cron' => '1 seconds', 'apapacho_jobs.outbox_cron' => '1 seconds');
    $node->wait_for("SELECT count(*) FILTER (WHERE job = 'retry' AND status = 'failed') >= 2
        AND count(*) FILTER (WHERE job = 'outbox' AND status = 'succeeded') >= 2 FROM apapacho_jobs.run WHERE id > $id",
        'scheduled runs fail and others succeed');
    like($node->log_since($position), qr/LOG: .*job "retry" failed: table public\."Payout" does not exist/, 'the log');
    $node->reconfigure('apapacho_jobs.retry_cron' => '', 'apapacho_jobs.outbox_cron' => '');
    $node->ask('ALTER TABLE "PayoutGone" RENAME TO "Payout"');
};

$node->stop;
done_testing();
