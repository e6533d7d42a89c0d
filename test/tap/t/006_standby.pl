# 006_standby.pl: a standby runs nothing until it is promoted; then it does, and goes on with what was cut off.
use strict;
use warnings;

use Apapacho;
use Test::More;
use Time::HiRes qw(time);

my %settings = ('apapacho_jobs.retry_cron' => '1 seconds', max_prepared_transactions => 5);
my $primary = Apapacho->create('primary', streaming => 1, tables => 'fixture', settings => \%settings);
$primary->backup('backup');
my $standby = Apapacho->new('standby');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->start;
my $ours = q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'apapacho_jobs%'};

subtest 'a standby runs nothing' => sub {
    my $id = $primary->wait_for_run("job = 'retry' AND trigger = 'schedule' AND status = 'succeeded'");

    $primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert'));
    is($standby->ask("SELECT status FROM apapacho_jobs.run WHERE id = $id"), 'succeeded', q{the primary's history is there});
    is($standby->ask($ours), '0', 'no process of ours');
    is($standby->ask('SELECT bool_or(running) FROM apapacho_job_status()'), 'f', 'nothing is scheduled');
    is($standby->ask(q{SELECT apapacho_scheduler_status()->'jobs'->0->>'running'}), 'false', 'as the status document says');
    like($standby->error_of(q{SELECT apapacho_run_job('retry')}),
        qr/ERROR:  25006: cannot execute apapacho_run_job\(\) during recovery/, 'a run by hand is refused');
};

subtest 'after its promotion it runs jobs, and goes on with what was cut off' => sub {
    $primary->ask(q{BEGIN; LOCK TABLE "OutboxEvent"; PREPARE TRANSACTION 'hold'});
    my $id = $primary->run_job('outbox', wait => 0)->{runId};
    $primary->wait_for_blocked_worker('outbox');
    $primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert'));
    is($standby->ask($ours), '0', 'still no process of ours');
    $primary->stop('immediate');

    my $started = time();
    $standby->promote;
    $standby->wait_for_scheduler;
    diag(sprintf('served %.1f s after the promotion', time() - $started));
    $standby->wait_for("SELECT status = 'crashed' FROM apapacho_jobs.run WHERE id = $id", 'the run that was cut off');
    my $again = $standby->wait_for_run("id > $id AND job = 'outbox' AND trigger = 'recovery' AND status = 'running'");
    $standby->ask(q{ROLLBACK PREPARED 'hold'});
    $standby->wait_for("SELECT status = 'succeeded' FROM apapacho_jobs.run WHERE id = $again", 'is taken up');
    $standby->wait_for_run("id > $again AND job = 'retry' AND trigger = 'schedule' AND status = 'succeeded'");
    is($standby->run_job('outbox')->{status}, 'succeeded', 'runs by hand too');
};

subtest 'a synchronous standby that does not answer holds up no shutdown' => sub {
    # The history does not wait for it long, but the job's own commit does.
    $standby->ask(q{INSERT INTO "OutboxEvent" (id, "aggregateType", "aggregateId", "eventType", payload) VALUES ('e', 'A', '1', 'T', '{}')});
    $standby->reconfigure(synchronous_standby_names => 'nobody', 'apapacho_jobs.outbox_cron' => '1 seconds');
    $standby->wait_for(q{SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type = 'apapacho_jobs worker' AND wait_event = 'SyncRep'},
        'a run waits for the standby');
    my $started = time();
    $standby->stop('fast');
    diag(sprintf('fast shutdown took %.1f s', time() - $started));
    ok(!$standby->{_pid}, 'the server has stopped');
};

done_testing();
