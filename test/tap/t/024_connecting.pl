# 024_connecting.pl: a run whose worker is still connecting: it is cancelled, or its process is terminated.
#
# Whoever connects reads pg_db_role_setting. While that is locked workers wait on their way, and so does every new session: what is done
# meanwhile is done by the session that holds the lock.
use strict;
use warnings;

use Apapacho;
use Jobs;
use Test::More;

my $node = Apapacho->create('main', settings => { max_worker_processes => 30 });
create_roles($node);
my $session = session_of($node);

# Has the job run by hand, and waits until its worker waits; the run's id and the worker's.
sub begin_run {
    my ($job) = @_;
    my $waiting = q{SELECT min(pid) FROM pg_locks WHERE relation = 'pg_db_role_setting'::regclass AND NOT granted};
    my $worker;

    $session->query_safe('BEGIN; LOCK TABLE pg_db_role_setting IN ACCESS EXCLUSIVE MODE');
    my $id = $session->query_safe("SELECT apapacho_run_job('$job', wait => false)->>'runId'");
    $node->wait_until(sub { return $worker = $session->query_safe($waiting); }, 'its worker is connecting');
    return ($id, $worker);
}

sub end_of {
    my ($id, $job) = @_;
    $node->wait_for("SELECT finished_at IS NOT NULL FROM apapacho_jobs.run WHERE id = $id", 'the run has ended');
    return $node->ask("SELECT status, sqlstate, error FROM apapacho_jobs.run WHERE id = $id");
}

schedule($node, 'job', q{INSERT INTO t.seen VALUES ('job', 'x')}, schedule => '@yearly', role => 'postgres');
$node->wait_for(q{SELECT next_run IS NOT NULL FROM apapacho_job_status() WHERE name = 'job'}, 'the job is there');

subtest 'it is cancelled' => sub {
    my ($id) = begin_run('job');
    is($session->query_safe("SELECT apapacho_cancel_run($id)"), 't', 'apapacho_cancel_run');
    $session->query_safe('COMMIT');
    is(end_of($id), 'cancelled|57014|the run was cancelled before it began', 'the history');
    is(seen($node, 'job'), '', 'it has done nothing');
};

subtest 'its process is terminated' => sub {
    my ($id, $worker) = begin_run('job');
    is($session->query_safe("SELECT pg_terminate_backend($worker)"), 't', 'pg_terminate_backend');
    $session->query_safe('COMMIT');
    like(end_of($id), qr/^interrupted\|/, 'the history');
    is(seen($node, 'job'), '', 'it has done nothing');
    is($node->run_job('job')->{status}, 'succeeded', 'the next one runs');
};

$session->quit;
$node->stop;
done_testing();
