# 012_cleanup.pl: the job cleanup: which events, retries and runs it deletes, in which portions, and what stays.
use strict;
use warnings;

use Apapacho;
use Outbox;
use Test::More;

# A zone far from UTC: days are counted from the moment, whatever the clock on the wall shows.
my $node = Apapacho->create('main', tables => 'own', settings => { timezone => 'America/Santiago' });

# Events that were published, or created when $column is "createdAt", so long ago.
sub old_events {
    my ($type, $count, $age, $column) = @_;
    my $published = ($column // '') eq 'createdAt' ? 'NULL' : 't.at';
    $node->ask(qq{INSERT INTO "OutboxEvent" (id, "aggregateType", "aggregateId", "eventType", payload, "createdAt", "publishedAt")
        SELECT '$type-' || g, 'Old', g::text, '$type', '{}', t.at - interval '1 hour', $published
        FROM (SELECT (now() AT TIME ZONE 'UTC') - interval '$age' AS at) AS t, generate_series(1, $count) AS g});
    return;
}

# What is in the table, by event type.
sub events_left {
    return $node->ask(q{SELECT string_agg(t, ' ' ORDER BY t) FROM
        (SELECT "eventType" || ':' || count(*) AS t FROM "OutboxEvent" GROUP BY "eventType") AS e});
}

# A finished run of so many days ago. Returns its id.
sub old_run {
    my ($job, $days, $status) = @_;
    my $finished = $status eq 'running' ? 'NULL' : "now() - interval '$days days'";
    return $node->ask(qq{INSERT INTO apapacho_jobs.run (id, job, job_id, owner, trigger, scheduled_for, scheduled_until, started_at,
            finished_at, status)
        SELECT nextval('apapacho_jobs.run_id_seq'), j.name, j.id, j.owner, 'schedule', s, s, s, $finished, '$status'
        FROM apapacho_jobs.job AS j, (SELECT now() - interval '$days days' AS s) AS t WHERE j.name = '$job' RETURNING id});
}

subtest 'published events that are old enough, in bounded transactions' => sub {
    # What a producer's trigger would see: the portions and their transactions.
    $node->ask(q{CREATE TABLE portion (rows int, transaction xid8, role name);
        CREATE FUNCTION note_portion() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO public.portion SELECT count(*), pg_current_xact_id(), current_user FROM deleted HAVING count(*) > 0; RETURN NULL; END $$;
        CREATE TRIGGER note AFTER DELETE ON "OutboxEvent" REFERENCING OLD TABLE AS deleted
            FOR EACH STATEMENT EXECUTE FUNCTION note_portion();
        CREATE ROLE shop; GRANT ALL ON SCHEMA public TO shop; GRANT ALL ON portion TO shop; ALTER TABLE "OutboxEvent" OWNER TO shop});
    old_events('Ancient', 11_000, '400 days');
    old_events('Just', 500, '30 days 2 minutes');
    old_events('NotYet', 500, '29 days 23 hours 58 minutes');
    old_events('New', 10, '1 minute');
    old_events('Unpublished', 20, '400 days', 'createdAt');
    old_events('GivenUp', 30, '400 days', 'createdAt');
    $node->ask(q{UPDATE "OutboxEvent" SET "retryCount" = 10, "lastError" = 'HTTP 500' WHERE "eventType" = 'GivenUp'});
    my $position = $node->log_position;
    my $answer = $node->run_job('cleanup');

    is_deeply({ map { $_ => $answer->{$_} } qw(job status deleted) }, { job => 'cleanup', status => 'succeeded', deleted => 11_500 },
        'the answer');
    is(events_left(), 'GivenUp:30 New:10 NotYet:500 Unpublished:20', 'what stays: the younger ones and the unpublished ones');
    like($node->log_since($position), qr/LOG:  \[Job:Cleanup\] Limpiados 11500 eventos$/m, 'the log line');
    is($node->ask('SELECT sum(rows), count(*) > 2, count(*) = count(DISTINCT transaction), max(rows) <= 5000 FROM portion'),
        '11500|t|t|t', 'in several transactions, none of them large');
    diag('portions: ' . $node->ask(q{SELECT string_agg(rows::text, ', ') FROM portion}));
    is($node->ask('SELECT DISTINCT role FROM portion'), 'shop', q{the table's triggers run as its owner});
    is($node->run_job('outboxCleanup')->{deleted}, 0, 'again: nothing');
};

subtest 'many events of one moment' => sub {
    my $read = sub {
        $node->wait_for(q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'apapacho_jobs worker'}, 'no worker is left');
        return $node->ask(q{SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname = 'OutboxEvent_publishedAt_createdAt_idx'});
    };
    old_events('Moment', 12_000, '50 days');
    is($node->run_job('cleanup')->{deleted}, 12_000, 'all of them');
    old_events('Marked', 40_000, '50 days');
    $node->ask(q{UPDATE "OutboxEvent" SET "createdAt" = "createdAt" - split_part(id, '-', 2)::int * interval '1 ms' WHERE "eventType" = 'Marked';
        VACUUM "OutboxEvent"});
    my $before = $read->();
    is($node->run_job('cleanup')->{deleted}, 40_000, 'all of those that were created one after the other');
    my $walked = $read->() - $before;
    cmp_ok($walked, '<', 100_000, 'no batch walks over those before it'); # the caller waits, and its snapshot keeps the dead ones
    diag("$walked index entries were read for 40000 events");
};

subtest 'by hand, with a number of days' => sub {
    is($node->ask(q{SELECT apapacho_outbox_cleanup(29)->>'deleted'}), '500', 'days => 29');
    is($node->ask(q{SELECT apapacho_outbox_cleanup()->>'deleted'}), '0', '30 by default');
    is($node->ask(q{SELECT apapacho_outbox_cleanup(NULL)->>'deleted'}), '0', 'also for null');
    for my $days (-1, 36501) {
        like($node->error_of("SELECT apapacho_outbox_cleanup($days)"),
            qr/ERROR:  22023: the number of days must be between 0 and 36500, not $days/, "not $days");
    }
    is(events_left(), 'GivenUp:30 New:10 Unpublished:20', 'what is left');
    is($node->ask(q{SELECT apapacho_outbox_cleanup(0)->>'deleted'}), '10', 'days => 0: all that are published');
    is(events_left(), 'GivenUp:30 Unpublished:20', 'and no others');
};

subtest 'retries of events that need none' => sub {
    $node->ask(q{INSERT INTO apapacho_jobs.outbox_retry SELECT id, "aggregateType", "aggregateId", 1, now() + interval '1 day'
            FROM "OutboxEvent" WHERE "eventType" IN ('Unpublished', 'GivenUp');
        INSERT INTO apapacho_jobs.outbox_retry VALUES ('gone', 'Old', '1', 1, now() + interval '1 day')});
    $node->run_job('cleanup');
    is($node->ask(q{SELECT count(*), count(*) FILTER (WHERE event_id LIKE 'Unpublished-%') FROM apapacho_jobs.outbox_retry}), '20|20',
        'those of pending events stay, of failed or deleted ones go');
};

subtest 'the history' => sub {
    # Without a scheduler there is nobody who would correct the run that never ended.
    $node->ask('ALTER SYSTEM SET apapacho_jobs.enabled = off');
    $node->reload;
    $node->wait_for_no_scheduler;

    my %runs = (last_failed => old_run('payout', 300, 'failed'));
    $runs{$_->[0]} = old_run(@{$_}[1 .. 3]) for ['old', 'outbox', 91, 'succeeded'], ['crashed', 'outbox', 200, 'crashed'],
        ['open', 'outbox', 200, 'running'], ['young', 'outbox', 89, 'failed'], ['last_old', 'retry', 300, 'succeeded'];
    my $left = sub {
        my %names = reverse %runs;
        return join(' ', sort grep { defined } map { $names{$_} } split(/\n/, $node->ask('SELECT id FROM apapacho_jobs.run')));
    };

    apply($node, 'apapacho_jobs.history_days' => 0);
    $node->run_job('cleanup');
    is($left->(), 'crashed last_failed last_old old open young', 'history_days = 0 keeps all');
    apply($node, 'apapacho_jobs.history_days' => 90);
    $node->ask(q{INSERT INTO apapacho_jobs.run (id, job, job_id, owner, trigger, scheduled_for, scheduled_until, started_at, finished_at,
            status)
        SELECT nextval('apapacho_jobs.run_id_seq'), j.name, j.id, j.owner, 'schedule', now() - a, now() - a, now() - a, now() - a, 'succeeded'
        FROM apapacho_jobs.job AS j, (SELECT interval '100 days' - g * interval '1 minute' AS a FROM generate_series(1, 6000) AS g) AS t
        WHERE j.name = 'retry'});
    $runs{last_retry} = $node->ask(q{SELECT max(id) FROM apapacho_jobs.run WHERE job = 'retry'});
    $node->run_job('cleanup');
    is($left->(), 'crashed last_failed last_retry open young',
        '90 days: the older ones go, but for the failed ones, the last of each job and those that have not ended');
    is($node->ask(q{SELECT count(*) FROM apapacho_jobs.run WHERE job = 'retry'}), '1', 'also when there are thousands');
    apply($node, 'apapacho_jobs.history_failed_days' => 150);
    $node->run_job('cleanup');
    is($left->(), 'last_failed last_retry open young', 'failed ones have days of their own');
};

$node->stop;
done_testing();
