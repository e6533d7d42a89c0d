# 004_security.pl: what an ordinary role cannot do, what a role that was granted the functions can, and that jobs run nobody's code as a
# superuser: not the triggers, defaults, constraints, indexes and casts of the tables that they work on.
use strict;
use warnings;

use Apapacho;
use Test::More;

my $node = Apapacho->create('main', settings => {
    'apapacho_jobs.outbox_webhook_url' => 'https://user:hunter2@example.com/',
    'apapacho_jobs.outbox_webhook_secret' => 'TopSecret' });

$node->ask(q{
    CREATE ROLE ordinary LOGIN;
    CREATE ROLE operator LOGIN;
    CREATE ROLE watcher LOGIN IN ROLE pg_monitor;
    CREATE ROLE app LOGIN;
    GRANT CREATE ON SCHEMA public TO app;
    GRANT CREATE ON DATABASE postgres TO app;
    GRANT EXECUTE ON FUNCTION apapacho_create_tables() TO app});
$node->ask('SELECT FROM apapacho_create_tables()', role => 'app');
$node->wait_for_scheduler;

# The extension's functions for which a condition holds.
sub functions {
    my ($condition) = @_;
    return $node->ask(qq{SELECT string_agg(p.oid::regprocedure::text, ', ' ORDER BY p.oid::regprocedure::text COLLATE "C")
        FROM pg_proc AS p JOIN pg_depend AS d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
        JOIN pg_extension AS e ON e.oid = d.refobjid AND e.extname = 'apapacho_jobs' WHERE $condition});
}

subtest 'an ordinary role can execute next to nothing' => sub {
    is(functions(q{has_function_privilege('ordinary', p.oid, 'EXECUTE')}),
        'apapacho_cron_describe(text,text), apapacho_cron_next(text,timestamp with time zone,integer,text), ' .
        'apapacho_jobs.check_user_tables(), apapacho_jobs.in_worker(), apapacho_jobs.install_missing_guards(), apapacho_jobs.own_activity(bigint), ' .
        'apapacho_jobs.payout_period(text,timestamp without time zone,text), apapacho_jobs.table_definitions(), ' .
        'apapacho_jobs.upcoming_slots(bigint), apapacho_jobs.uuid_v7(), apapacho_report_progress(bigint,bigint,text)',
        'what is left to everybody: to look whether the tables are there, whether this is a worker, when something is due or what is at work, and to make an id');
    my $calls = $node->ask(q{SELECT string_agg('SELECT * FROM ' || p.oid::regproc || '(' ||
            array_to_string(array_fill('NULL'::text, ARRAY[p.pronargs::int]), ', ') || ')', E'\n')
        FROM pg_proc AS p WHERE p.proname LIKE 'apapacho%' AND p.pronamespace = 'public'::regnamespace
            AND p.proname NOT IN ('apapacho_cron_describe', 'apapacho_cron_next', 'apapacho_report_progress',
                'apapacho_rut_normalize')}); # that one is not called at all with a null; see above
    for my $call (split(/\n/, $calls)) {
        like($node->error_of($call, role => 'ordinary'), qr/ERROR:  42501: permission denied for function/, "refused: $call");
    }
};

subtest 'nor reach the extension\'s tables' => sub {
    my $tables = $node->ask(q{SELECT string_agg(oid::regclass::text, ' ') FROM pg_class
        WHERE relnamespace = 'apapacho_jobs'::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'S') AND relname <> 'outbox_waiting'});

    $node->ask(q{INSERT INTO apapacho_jobs.outbox_retry VALUES ('e', 'A', 'a', 1, now())});
    is($node->ask('SELECT * FROM apapacho_jobs.outbox_waiting', role => 'ordinary'), '', 'the view that is for workers is empty');
    $node->ask('TRUNCATE apapacho_jobs.outbox_retry');
    $node->run_job('outbox');
    for my $table (map { "apapacho_jobs.$_" } qw(job run history slot upcoming activity)) {
        is($node->ask("SELECT * FROM $table", role => 'ordinary'), '', "$table shows the jobs of others to nobody");
        $tables =~ s/\b$table\b//;
    }
    $tables =~ s/\bapapacho_jobs.job_id_seq\b//; # may be read, for pg_dump; says no more than how many jobs there were
    isnt($node->ask('SELECT count(*) FROM apapacho_jobs.run'), '0', 'though there are some');
    for my $table (split(' ', $tables)) {
        like($node->error_of("SELECT * FROM $table", role => 'ordinary'), qr/ERROR:  42501: permission denied/, $table);
    }
    like($node->error_of('CREATE TABLE apapacho_jobs.mine ()', role => 'ordinary'), qr/ERROR:  42501: permission denied for schema/,
        'nor create anything beside them');
};

subtest 'the view that workers read is empty for everybody else' => sub {
    $node->ask(q{INSERT INTO apapacho_jobs.outbox_retry VALUES ('e', 'Payout', 'secret aggregate', 1, now())});
    is($node->ask('SELECT * FROM apapacho_jobs.outbox_waiting', role => 'ordinary'), '', 'no rows');
    unlike($node->error_of(q{
            CREATE FUNCTION pg_temp.leak(text) RETURNS boolean COST 0.0000001 LANGUAGE plpgsql AS $$
            BEGIN
                RAISE WARNING 'seen: %', $1;
                RETURN true;
            END $$;
            SELECT * FROM apapacho_jobs.outbox_waiting WHERE pg_temp.leak(aggregate_id)}, role => 'ordinary'),
        qr/seen: secret aggregate/, 'nor does a function that is called first see them');
    $node->ask('DELETE FROM apapacho_jobs.outbox_retry');
};

subtest 'nor see URL and secret, nor set anything' => sub {
    for my $setting (qw(outbox_webhook_url outbox_webhook_secret outbox_webhook_secret_file)) {
        like($node->error_of("SHOW apapacho_jobs.$setting", role => 'ordinary'), qr/ERROR:  42501/, "SHOW $setting");
    }
    for my $view ('pg_settings', 'pg_stat_activity') {
        unlike($node->ask("SELECT * FROM $view", role => 'ordinary'), qr/TopSecret|hunter2/, $view);
    }
    my $settable = $node->ask(q{SELECT string_agg(name, ' ') FROM pg_settings WHERE name LIKE 'apapacho\_jobs.%' AND context = 'user'});
    is($settable, '', 'no setting is for everybody to set');
    like($node->error_of(q{SET apapacho_jobs.schema = 'mine'}, role => 'ordinary'), qr/ERROR:  42501: permission denied to set/,
        'not even for itself');
};

subtest 'a role that was granted the functions works without being a superuser' => sub {
    $node->ask(q{GRANT EXECUTE ON FUNCTION apapacho_run_job(text, boolean), apapacho_job_status(), apapacho_outbox_stats(),
        apapacho_outbox_process(integer), apapacho_outbox_events(text, integer, integer), apapacho_outbox_retry_failed(),
        apapacho_payout_preview(boolean), apapacho_outbox_emit(text, text, text, jsonb) TO operator});
    for my $job (qw(outbox payout cleanup retry)) {
        my $answer = $node->run_job($job, role => 'operator');
        is($answer->{status}, 'succeeded', "job $job");
        is($node->ask("SELECT requested_by FROM apapacho_jobs.run WHERE id = $answer->{runId}"), 'operator', 'the history says who');
    }
    for my $call ('apapacho_job_status()', 'apapacho_outbox_stats()', 'apapacho_outbox_process(10)', 'apapacho_outbox_events()',
        'apapacho_outbox_retry_failed()', 'apapacho_payout_preview()') {
        is($node->error_of("SELECT * FROM $call", role => 'operator'), '', $call);
    }
    like($node->error_of('SELECT * FROM "OutboxEvent"', role => 'operator'), qr/ERROR:  42501/, q{not on the user's tables});
    like($node->error_of(q{SELECT apapacho_outbox_emit('A', 'a', 'E', '{}')}, role => 'operator'), qr/ERROR:  42501/,
        'emit needs INSERT on the table');
    $node->ask('GRANT INSERT ON "OutboxEvent" TO operator', role => 'app');
    is($node->error_of(q{SELECT apapacho_outbox_emit('A', 'a', 'E', '{}')}, role => 'operator'), '', 'and works with it');
};

subtest 'pg_monitor sees how the jobs stand, and runs none' => sub {
    for my $call ('apapacho_job_status()', 'apapacho_scheduler_status()') {
        is($node->error_of("SELECT * FROM $call", role => 'watcher'), '', $call);
    }
    like($node->error_of(q{SELECT apapacho_run_job('outbox')}, role => 'watcher'), qr/ERROR:  42501/, 'apapacho_run_job');
};

# Code of the tables' owner that tells whom it runs as, and tries to become somebody else.
my $spy = q{
    CREATE SCHEMA spy;
    CREATE TABLE spy.seen (place text, who text, became text);
    CREATE FUNCTION spy.attempt(command text) RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        EXECUTE command;
    EXCEPTION WHEN OTHERS THEN
        NULL;
    END $$;
    CREATE FUNCTION spy.look(place text) RETURNS void LANGUAGE plpgsql AS $$
    DECLARE
        who text := current_user;
    BEGIN
        PERFORM spy.attempt('ALTER ROLE app SUPERUSER'), spy.attempt('RESET ROLE'), spy.attempt('SET ROLE NONE'),
            spy.attempt('RESET SESSION AUTHORIZATION'), spy.attempt(format('SET SESSION AUTHORIZATION %I', session_user));
        INSERT INTO spy.seen VALUES (place, who, current_user);
    END $$;
    CREATE FUNCTION spy.fixed(place text) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM spy.look(place);
        RETURN true;
    END $$;
    CREATE FUNCTION spy.trigger() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM spy.look(TG_NAME || ' on ' || TG_TABLE_NAME);
        RETURN coalesce(NEW, OLD);
    END $$};

my $traps = '';

# On each of these tables: every kind of trigger, and functions that a mere look at the table may run.
my @tables = qw(OutboxEvent Payout PayoutItem Transaction Creator FeeSchedule);
for my $table (@tables) {
    $traps .= qq{;
    CREATE TRIGGER before BEFORE INSERT OR UPDATE OR DELETE ON "$table" FOR EACH ROW EXECUTE FUNCTION spy.trigger();
    CREATE TRIGGER statement AFTER INSERT OR UPDATE OR DELETE ON "$table" EXECUTE FUNCTION spy.trigger();
    CREATE CONSTRAINT TRIGGER deferred AFTER INSERT OR UPDATE OR DELETE ON "$table" INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION spy.trigger();
    ALTER TABLE "$table" ADD CHECK (spy.fixed('check on $table')), ADD CHECK (id <> 'x' OR spy.fixed('second check on $table')),
        ADD COLUMN extra boolean DEFAULT spy.fixed('default on $table');
    CREATE INDEX ON "$table" (id) WHERE spy.fixed('index on $table');
    CREATE INDEX ON "$table" ((spy.fixed('expression on $table' || id)));
    ANALYZE "$table"};
}

# One of each for the jobs to do.
my $work = q{
    INSERT INTO "Creator" (id, "userId", "updatedAt") VALUES ('c1', 'u1', now()), ('c2', 'u2', now());
    INSERT INTO "Transaction" (id, "creatorId", "fanUserId", "productType", "grossAmount", "appliedFeeScheduleId",
            "appliedPlatformFeeBps", "platformFeeAmount", "creatorPayableAmount", "occurredAt", provider, "providerPaymentId",
            "providerEventId")
        SELECT 't' || i, 'c' || i % 2 + 1, 'f', 'TIP', 50000, (SELECT id FROM "FeeSchedule" LIMIT 1), 1000, 5000, 45000,
            now() - interval '30 days', 'p', 'pp' || i, 'pe' || i FROM generate_series(1, 4) AS i;
    INSERT INTO "Payout" (id, "creatorId", "periodStart", "periodEnd", "payoutAmount", status, "retryCount", "nextRetryAt", "updatedAt")
        VALUES ('p1', 'c1', '2025-01-01', '2025-01-08', 30000, 'PENDING', 1, now() - interval '1 day', now()),
            ('p2', 'c1', '2025-01-01', '2025-01-08', 30000, 'CALCULATED', 0, NULL, now()),
            ('p3', 'c1', '2025-01-01', '2025-01-08', 30000, 'CALCULATED', 0, NULL, now());
    INSERT INTO "OutboxEvent" (id, "aggregateType", "aggregateId", "eventType", payload, "createdAt", "publishedAt")
        VALUES ('e1', 'Payout', 'p1', 'PayoutSent', '{}', now(), NULL), ('e2', 'Payout', 'p2', 'PayoutSent', '{}',
            now() - interval '90 days', now() - interval '90 days')};

# Fails if any of the owner's code has run as somebody else.
sub check_spies {
    my ($during, $expected) = @_;

    is($node->ask('SELECT DISTINCT who, became FROM spy.seen'), 'app|app', "$during: all of it ran as the tables' owner")
        or diag($node->ask(q{SELECT DISTINCT * FROM spy.seen WHERE who <> 'app' OR became <> 'app'}));
    is($node->ask(q{SELECT rolsuper FROM pg_roles WHERE rolname = 'app'}), 'f', "$during: who is no superuser");
    my $places = $node->ask('SELECT string_agg(DISTINCT place, E\'\n\') FROM spy.seen');
    like($places, qr/^$_$/m, "$during: seen by $_") for @$expected;
    $node->ask('TRUNCATE spy.seen; ALTER ROLE app NOSUPERUSER');
    return;
}

subtest q{jobs run the code of the tables' owner as that owner} => sub {
    $node->ask($spy . $traps, role => 'app');
    $node->ask($work, role => 'app');
    $node->ask('TRUNCATE spy.seen');
    $node->reconfigure('apapacho_jobs.outbox_publisher_type' => 'console');

    is($node->run_job('payout')->{created}, 2, 'payouts are created');
    check_spies('payout', ['before on Payout', 'deferred on Payout', 'deferred on PayoutItem', 'statement on OutboxEvent',
        'check on Payout']);
    is($node->run_job('retry')->{status}, 'succeeded', 'a payout is retried');
    check_spies('retry', ['before on Payout', 'deferred on Payout', 'deferred on OutboxEvent']);
    cmp_ok($node->run_job('outbox')->{processed}, '>=', 1, 'events are published');
    check_spies('outbox', ['before on OutboxEvent', 'deferred on OutboxEvent']);
    is($node->run_job('cleanup')->{deleted}, 1, 'an event is deleted');
    check_spies('cleanup', ['before on OutboxEvent', 'deferred on OutboxEvent']);
};

subtest 'so do the functions, whoever calls them' => sub {
    for my $call (q{apapacho_payout_preview()}, q{apapacho_payout_eligibility('c1')}, q{apapacho_payout_create('c1')},
        q{apapacho_payout_mark_sent('p2', 'transfer')}, q{apapacho_payout_mark_failed('p3', 'no account')},
        q{apapacho_payout_mark_cancelled('p3', 'closed')}, q{apapacho_payout_pending_retry()}, q{apapacho_outbox_stats()},
        q{apapacho_outbox_events('all')}, q{apapacho_outbox_retry_failed()}) {
        is($node->error_of("BEGIN; SET CONSTRAINTS ALL IMMEDIATE; SELECT * FROM $call; COMMIT"), '', $call);
    }
    check_spies('functions', ['before on Payout', 'statement on OutboxEvent']);
};

# A database with the spy, and nothing that ran as somebody else when a job has been run in it.
sub create_spied_database {
    my ($name, $sql, $grants) = @_;

    $node->create_database($name);
    $node->ask($grants, database => $name) if $grants;
    $node->ask("GRANT CREATE ON SCHEMA public TO app; GRANT CREATE ON DATABASE $name TO app;
        GRANT EXECUTE ON FUNCTION apapacho_create_tables() TO app", database => $name);
    $node->ask("$spy; $sql; TRUNCATE spy.seen", role => 'app', database => $name);
    return;
}

sub check_nobody_else {
    my ($database) = @_;

    is($node->ask(q{SELECT string_agg(DISTINCT seen::text, ' ') FROM spy.seen WHERE who <> 'app' OR became <> 'app'},
        database => $database), '', 'nothing ran as somebody else');
    is($node->ask(q{SELECT rolsuper FROM pg_roles WHERE rolname = 'app'}), 'f', 'the owner is no superuser');
    $node->ask('ALTER ROLE app NOSUPERUSER');
    return;
}

subtest 'a trigger cannot put itself off to a time when somebody else commits' => sub {
    create_spied_database('later', q{
        SELECT FROM apapacho_create_tables();
        INSERT INTO "OutboxEvent" (id, "aggregateType", "aggregateId", "eventType", payload) VALUES ('e1', 'A', 'a', 'E', '{}');
        CREATE TABLE spy.later (id int);
        CREATE FUNCTION spy.put_off() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            PERFORM spy.look(TG_NAME || ' on ' || TG_TABLE_NAME);
            IF (SELECT count(*) < 3 FROM spy.later) THEN
                SET CONSTRAINTS spy.put_off DEFERRED;
                INSERT INTO spy.later VALUES (1);
            END IF;
            RETURN NULL;
        END $$;
        CREATE CONSTRAINT TRIGGER put_off AFTER INSERT ON spy.later INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION spy.put_off();
        CREATE CONSTRAINT TRIGGER first AFTER UPDATE ON "OutboxEvent" INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION spy.put_off()});
    $node->error_of(q{SELECT apapacho_run_job('outbox')}, database => 'later');
    check_nobody_else('later');
};

subtest 'a trigger may call our functions: inside of a job they leave its transaction alone' => sub {
    create_spied_database('nested', q{
        SELECT FROM apapacho_create_tables();
        INSERT INTO "OutboxEvent" (id, "aggregateType", "aggregateId", "eventType", payload) VALUES ('e1', 'A', 'a', 'E', '{}');
        CREATE FUNCTION spy.call() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            PERFORM spy.look('call'), public.apapacho_outbox_stats();
            PERFORM FROM public.apapacho_outbox_events('all');
            RETURN NULL;
        END $$;
        CREATE CONSTRAINT TRIGGER later AFTER UPDATE ON "OutboxEvent" INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION spy.trigger();
        CREATE TRIGGER call AFTER UPDATE ON "OutboxEvent" EXECUTE FUNCTION spy.call()},
        q{GRANT EXECUTE ON FUNCTION apapacho_outbox_stats(), apapacho_outbox_events(text, integer, integer) TO app});
    is($node->error_of(q{SELECT apapacho_run_job('outbox')}, database => 'nested'), '', 'the job succeeds');
    is($node->ask(q{SELECT string_agg(DISTINCT place, ' ' ORDER BY place) FROM spy.seen}, database => 'nested'),
        'call later on OutboxEvent', 'both triggers have run');
    check_nobody_else('nested');
};

subtest 'nor can the types of the columns bring code in, or crash the server' => sub {
    create_spied_database('types', q{
        CREATE TYPE spy.id AS ENUM ('e1', 'e2');
        CREATE FUNCTION spy.as_text(spy.id) RETURNS text LANGUAGE plpgsql AS $$
        BEGIN
            PERFORM spy.look('cast');
            RETURN 'e1';
        END $$;
        CREATE CAST (spy.id AS text) WITH FUNCTION spy.as_text AS IMPLICIT;
        CREATE TABLE "OutboxEvent" (id spy.id PRIMARY KEY, "aggregateType" spy.id, "aggregateId" spy.id, "eventType" spy.id,
            payload jsonb, "createdAt" timestamp(3) DEFAULT now(), "publishedAt" timestamp(3), "retryCount" int DEFAULT 0,
            "lastError" text);
        INSERT INTO "OutboxEvent" (id, "aggregateType", "aggregateId", "eventType", payload) VALUES ('e1', 'e1', 'e1', 'e1', '{}')});
    my $position = $node->log_position;
    $node->error_of("SELECT apapacho_run_job('$_')", database => 'types') for qw(outbox cleanup);
    $node->error_of('SELECT apapacho_outbox_stats()', database => 'types');
    $node->psql('types', q{SELECT id FROM apapacho_outbox_events('all')}, stdout => \my $output, stderr => \my $error);
    ok($output eq 'e1' || $error =~ /ERROR: /, 'events are shown as they are, or not at all')
        or diag($output, $error);
    unlike($node->log_since($position), qr/terminated by signal/, 'nor crash the server');
    $node->wait_for('SELECT true', 'it takes connections');
    check_nobody_else('types');
};

$node->stop;
done_testing();
