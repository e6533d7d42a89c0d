# 016_wake_on_commit.pl: a commit that adds events has them published at once, whatever way they were added; what else wants the
# job's worker meanwhile gets it.
use strict;
use warnings;

use Apapacho;
use JSON::PP ();
use List::Util qw(max);
use Outbox;
use PostgreSQL::Test::Utils;
use Recorder;
use Test::More;
use Time::HiRes qw(time);

my $recorder = Recorder->start;
my $node = Apapacho->create('main', tables => 'own', settings => {
    max_prepared_transactions => 5,
    'apapacho_jobs.outbox_cron' => '0 0 1 1 *',
    'apapacho_jobs.outbox_publisher_type' => 'webhook',
    'apapacho_jobs.outbox_webhook_url' => $recorder->url });
my $insert = q{INSERT INTO "OutboxEvent" (id, "aggregateType", "aggregateId", "eventType", payload)
    VALUES (gen_random_uuid(), 'A', gen_random_uuid(), '%s', '{}')};

sub insert { return sprintf($insert, $_[0]) }

sub idle_run {
    return $node->wait_for_run(q{job = 'outbox' AND trigger = 'work' AND status = 'running'});
}

# None waits for commits or will do so.
sub wait_for_no_publisher {
    $node->wait_for(q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'apapacho_jobs worker'}, 'no worker is left');
    return;
}

sub hold_endpoints {
    my $session = $node->background_psql('postgres', on_error_stop => 0, timeout => 2 * $PostgreSQL::Test::Utils::timeout_default);

    $session->query_safe('BEGIN; LOCK TABLE apapacho_jobs.outbox_endpoint IN ACCESS EXCLUSIVE MODE');
    return $session;
}

subtest 'whatever way events are added' => sub {
    my $file = $node->basedir . '/events.csv';
    append_to_file($file, "copied,A,1,Copied,{}\n");
    my @ways = (
        [One => insert('One')],
        [Cte => 'WITH e AS (' . insert('Cte') . ' RETURNING id) SELECT FROM e'],
        [Copied => qq{COPY "OutboxEvent" (id, "aggregateType", "aggregateId", "eventType", payload) FROM '$file' (FORMAT csv)}],
        [Emitted => q{SELECT apapacho_outbox_emit('A', '2', 'Emitted')}],
        [Block => 'DO $$ BEGIN ' . insert('Block') . '; EXCEPTION WHEN others THEN RAISE; END $$'],
        [Kept => 'BEGIN; SAVEPOINT a; ' . insert('Kept') . '; RELEASE a; SAVEPOINT b; ' . insert('Undone') . '; ROLLBACK TO b; COMMIT'],
    );
    $node->wait_for_scheduler;
    for my $way (@ways) {
        my ($type, $sql) = @{$way};
        $node->ask($sql);
        my @requests = $recorder->wait_for(1);
        is(types_of(\@requests), $type, $type);
    }
    my $run = idle_run();
    is($node->ask(q{SELECT count(*) FROM apapacho_jobs.run WHERE job = 'outbox' AND trigger = 'work' AND id > } . ($run - 1)), '1',
        'the run goes on with what comes soon');
    is($node->ask(q{SELECT executing, running FROM apapacho_job_status() WHERE name = 'outbox'}), 'f|t', 'which waits, and does not execute');
    $node->ask('BEGIN; ' . insert('Undone') . '; ROLLBACK');
    $node->ask('BEGIN; ' . insert('Prepared') . q{; PREPARE TRANSACTION 'p'});
    $node->ask(insert('Last'));
    my @requests = $recorder->wait_for(1);
    is(types_of(\@requests), 'Last', 'nothing that is rolled back or only prepared');
    $node->ask(q{COMMIT PREPARED 'p'});
    $node->ask(insert('Another'));
    @requests = $recorder->wait_for(2);
    is(join(' ', sort split(/ /, types_of(\@requests))), 'Another Prepared', 'what was prepared goes out with the next one, at the latest');
};

subtest 'a run by hand, one by schedule, or a shutdown does not wait for a publisher that waits' => sub {
    $node->ask(insert('Before'));
    $recorder->wait_for(1);
    my $run = idle_run();
    my $started = time();
    my $answer = process($node);
    cmp_ok(time() - $started, '<', 5, 'a run by hand');
    is($answer->{processed}, 0, 'there was nothing left for it');
    is($node->ask("SELECT status FROM apapacho_jobs.run WHERE id = $run"), 'succeeded', 'the other one ended well');

    $node->ask(insert('Again'));
    $recorder->wait_for(1);
    $run = idle_run();
    $node->reconfigure('apapacho_jobs.outbox_cron' => '5 seconds');
    ok($node->wait_for_run(q{job = 'outbox' AND trigger = 'schedule' AND status = 'succeeded'}), 'one by schedule');
    is($node->ask(q{SELECT count(*) FROM apapacho_jobs.run WHERE job = 'outbox' AND status = 'skipped'}), '0', 'none was skipped');
    $node->reconfigure('apapacho_jobs.outbox_cron' => '0 0 1 1 *');

    $node->ask(insert('Again'));
    $recorder->wait_for(1);
    $run = idle_run();
    $started = time();
    $node->stop('fast');
    cmp_ok(time() - $started, '<', 2, 'a fast shutdown');
    $node->start;
    is($node->ask("SELECT status FROM apapacho_jobs.run WHERE id = $run"), 'succeeded', 'it ended well then');
    $node->wait_for_scheduler;
};

subtest 'while a receiver keeps others waiting' => sub {
    $recorder->answer(Slow => 'hang');
    $node->ask(insert('Slow'));
    $recorder->wait_for(1);
    my $started = time();
    for my $n (1 .. 5) {
        $node->ask(insert('Quick'));
        my @requests = $recorder->wait_for(1);
        is(types_of(\@requests), 'Quick', "event $n is published");
    }
    cmp_ok(time() - $started, '<', 10, 'at once');
    $recorder->answer(Slow => 200);
    $node->wait_for(q{SELECT count(*) = 0 FROM "OutboxEvent" WHERE "publishedAt" IS NULL}, 'all are published');
    is(scalar($recorder->take), 0, 'once each');
};

subtest 'a publisher that has seen a pause sees the end of it' => sub {
    $node->ask(insert('Ahead'));
    $recorder->wait_for(1);
    idle_run();
    $node->ask('SELECT apapacho_outbox_pause()');
    my $since = $node->ask('SELECT clock_timestamp()');
    $node->ask(insert('Paused'));
    $node->wait_for(qq{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'apapacho_jobs worker' AND state = 'idle'
        AND state_change > '$since'}, 'it has looked for events');
    $node->ask('SELECT apapacho_outbox_resume()');
    my @requests = $recorder->wait_for(1);
    is(types_of(\@requests), 'Paused', 'and sends them then');
};

subtest 'the order of an aggregate, however it is committed' => sub {
    my $count = 200;
    $node->ask(qq{SELECT apapacho_outbox_emit('Order', '1', 'E$_')}) for 1 .. $count;
    my @requests = $recorder->wait_for($count);
    is(types_of(\@requests), join(' ', map { "E$_" } 1 .. $count), 'is kept');
};

subtest 'how long it takes' => sub {
    my $file = $node->basedir . '/insert.sql';
    append_to_file($file, insert('Timed') . ";\n");
    $node->command_ok(['pgbench', '-n', '-c', '4', '-R', '100', '-T', '5', '-f', $file, '-h', $node->host, '-p', $node->port, 'postgres'],
        'a hundred events a second');
    my $expected = $node->ask(q{SELECT count(*) FROM "OutboxEvent" WHERE "eventType" = 'Timed'});
    my @requests = $recorder->wait_for($expected);
    is(scalar(@requests), $expected, 'all arrive');
    my %committed = map { split(/\|/) } split(/\n/, $node->ask(q{SELECT id, extract(epoch FROM "createdAt") FROM "OutboxEvent" WHERE "eventType" = 'Timed'}));
    my @took = sort { $a <=> $b } map { 1000 * ($_->{time} - $committed{ $_->{headers}{'x-event-id'} }) } @requests;
    diag(sprintf('from the insertion to the receiver: median %.1f ms, p99 %.1f ms, at most %.1f ms', $took[@took / 2], $took[@took * 0.99], $took[-1]));
};

subtest 'not when it is switched off, or the job is paused; and not again and again when it cannot be done' => sub {
    $node->reconfigure('apapacho_jobs.outbox_wake_on_commit' => 'off');
    wait_for_no_publisher();
    $node->ask(insert('Off'));
    is(process($node)->{processed}, 1, 'off: the event was there for the run by hand');
    $node->reconfigure('apapacho_jobs.outbox_wake_on_commit' => 'on');
    $node->ask(q{SELECT apapacho_pause_job('outbox')});
    $node->ask(insert('Paused'));
    is(process($node)->{processed}, 1, 'paused: too');
    $node->ask(q{SELECT apapacho_resume_job('outbox')});
    $recorder->take;

    $node->reconfigure('apapacho_jobs.outbox_webhook_url' => '');
    my $last = $node->ask(q{SELECT max(id) FROM apapacho_jobs.run});
    $node->ask(insert('NoUrl'));
    ok($node->wait_for_run("id > $last AND trigger = 'work' AND status = 'failed'"), 'a run that fails');
    $node->ask(insert('NoUrl')) for 1 .. 20;
    is($node->ask("SELECT count(*) FROM apapacho_jobs.run WHERE id > $last AND trigger = 'work'"), '1', 'is not repeated for each commit');
    $node->reconfigure('apapacho_jobs.outbox_webhook_url' => $recorder->url);
    is(process($node)->{processed}, 21, 'nothing is lost');
};

subtest 'paused and resumed while the publisher waits for commits' => sub {
    $recorder->take;
    for my $round (1 .. 12) {
        $node->ask(insert('Before'));
        $recorder->wait_for(1) if $round % 3;
        $node->ask('SELECT apapacho_outbox_pause()');
        $node->ask(insert('Paused'));
        # it has looked, and found that it may not send it: the run waits, or has ended
        $node->wait_for(q{SELECT NOT executing FROM apapacho_job_status() WHERE name = 'outbox'}, 'it waits') if $round % 2;
        my $started = time();
        $node->ask('SELECT apapacho_outbox_resume()');
        $node->wait_for(q{SELECT count(*) = 0 FROM "OutboxEvent" WHERE "publishedAt" IS NULL}, 'it is sent');
        cmp_ok(time() - $started, '<', 30, sprintf('after %.1f s', time() - $started));
        $recorder->take;
    }
};

subtest 'DROP EXTENSION and DROP DATABASE beside a publisher that waits' => sub {
    $node->create_database('other');
    $node->load_tables('own', 'other');
    $node->wait_for_scheduler('other');
    $node->ask(insert('Other'), database => 'other');
    $recorder->take;
    my $started = time();
    $node->ask('DROP DATABASE other');
    cmp_ok(time() - $started, '<', 5, 'the database');
    $node->ask(insert('Dropped'));
    $recorder->wait_for(1);
    # A claim that is at work, and waits for one of the extension's tables: whoever drops it sees it out first.
    my $waits = q{SELECT count(*) > 0 FROM pg_locks WHERE relation = 'apapacho_jobs.outbox_endpoint'::regclass AND NOT granted};
    my $holder = hold_endpoints();
    $node->ask(insert('Beside'));
    $node->wait_for($waits, 'a claim waits');
    my $drop = $node->begin_statement('BEGIN; DROP EXTENSION apapacho_jobs; ROLLBACK', name => 'dropping');
    $node->wait_for(q{SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name = 'dropping' AND wait_event_type = 'Lock'}, 'DROP EXTENSION waits too');
    is($node->ask(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type IN ('apapacho_jobs worker', 'apapacho_jobs scheduler')}), '0', 'after it has gone');
    $node->let_go($holder);
    is(($drop->finish)[1], '', 'then it is done, and undone');
    $recorder->wait_for(1);

    # One of our own workers, which sees out nobody, has none of the tables before the claim has ended.
    $holder = hold_endpoints();
    $node->ask(insert('Under'));
    $node->wait_for($waits, 'a claim waits');
    $node->ask(q{SELECT apapacho_schedule_job('drop', '0 0 1 1 *', 'DROP EXTENSION apapacho_jobs')});
    $node->ask(q{SELECT apapacho_run_job('drop', wait => false)});
    my $dropping = q{FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid) WHERE a.query = 'DROP EXTENSION apapacho_jobs'};
    $node->wait_for("SELECT count(*) > 0 $dropping AND NOT l.granted", 'a job that drops the extension waits');
    is($node->ask("SELECT count(*) $dropping AND EXISTS (SELECT FROM pg_class AS c WHERE c.oid = l.relation AND c.relnamespace = 'apapacho_jobs'::regnamespace)"), '0',
        'with no table for which the claim might wait');
    $started = time();
    $node->let_go($holder);
    $node->wait_for(q{SELECT count(*) = 0 FROM pg_extension WHERE extname = 'apapacho_jobs'}, 'both go on');
    cmp_ok(time() - $started, '<', 20, 'soon');
    is($node->error_of(insert('Without')), '', 'the table goes on');
};

$node->stop;
done_testing();
