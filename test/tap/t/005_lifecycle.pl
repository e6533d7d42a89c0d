# 005_lifecycle.pl: extensions and databases that are created, dropped, renamed, copied and restored while the workers run.
use strict;
use warnings;

use Apapacho;
use PostgreSQL::Test::Utils;
use Test::More;

my %yearly = map { ("apapacho_jobs.${_}_cron" => '0 0 1 1 *') } qw(outbox payout cleanup retry);
my $node = Apapacho->create('main', tables => 'own', settings => { %yearly, max_prepared_transactions => 5 });
$node->wait_for_scheduler;

# The rows of every table of the backend's, and their layout, as one text.
sub user_tables {
    my ($database) = @_;
    return $node->ask(q{SELECT string_agg(c.relname || ':' || (xpath('/row/n/text()', query_to_xml(
            format('SELECT count(*) AS n FROM %s', c.oid::regclass), false, true, '')))[1]::text || ':' ||
            (SELECT count(*) FROM pg_index AS i WHERE i.indrelid = c.oid), ' ' ORDER BY c.relname)
        FROM pg_class AS c WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace}, database => $database);
}

subtest 'not preloaded: a clear error and the line to add' => sub {
    my $other = Apapacho->create('bare', preload => 0);
    my $error = $other->error_of('CREATE EXTENSION apapacho_jobs');

    like($error, qr/ERROR:  55000: apapacho_jobs must be loaded via shared_preload_libraries/, 'the error');
    like($error, qr/HINT:  .*restart the server: shared_preload_libraries = 'apapacho_jobs'$/m, 'the line');
    $other->configure(shared_preload_libraries => 'auto_explain');
    $other->restart;
    like($other->error_of('CREATE EXTENSION apapacho_jobs'), qr/shared_preload_libraries = 'auto_explain, apapacho_jobs'$/m,
        'the line keeps what is there');
    $other->configure(shared_preload_libraries => 'auto_explain, apapacho_jobs');
    $other->restart;
    $other->install;
    $other->wait_for_scheduler;

    $other->configure(shared_preload_libraries => '');
    $other->restart;
    like($other->error_of(q{SELECT apapacho_run_job('outbox')}), qr/ERROR:  55000: apapacho_jobs must be loaded via/,
        'the functions say the same when it is taken out later');
    is($other->error_of('DROP EXTENSION apapacho_jobs'), '', 'it can be dropped all the same');
    $other->stop;
};

subtest q{DROP EXTENSION leaves the user's tables} => sub {
    my $before = user_tables('postgres');

    like($before, qr/FeeSchedule:1:2 LedgerAccount:7:2 .*OutboxEvent:0:4/, 'there are some');
    $node->ask('DROP EXTENSION apapacho_jobs');
    is(user_tables('postgres'), $before, 'they are as they were');
    is($node->ask(q{SELECT count(*) FROM pg_namespace WHERE nspname = 'apapacho_jobs'}), '0', 'its own schema is gone');
    $node->install;
    $node->wait_for_scheduler;
    is($node->run_job('outbox')->{status}, 'succeeded', 'created again, it works on them');
};

subtest 'DROP EXTENSION with a run at work' => sub {
    my $session = $node->hold('OutboxEvent');
    $node->run_job('outbox', wait => 0);
    my $worker = $node->wait_for_blocked_worker('outbox');

    $node->ask(q{SET statement_timeout = '20s'; DROP EXTENSION apapacho_jobs});
    $node->wait_for_no_scheduler;
    $node->let_go($session);
    $node->wait_for("SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $worker", 'the worker ends');
    $node->install;
    $node->wait_for_scheduler;
    is($node->run_job('outbox')->{status}, 'succeeded', 'created again, it works');
};

subtest 'the extension in a schema of its own' => sub {
    my %schemas = (jobs => 'jobs', odd => '"Odd Schema"', same => 'apapacho_jobs');

    for my $name (sort keys %schemas) {
        my $schema = $schemas{$name};
        $node->ask("CREATE DATABASE $name");
        $node->ask("CREATE SCHEMA $schema; CREATE EXTENSION apapacho_jobs SCHEMA $schema", database => $name);
        $node->wait_for("SELECT bool_and(running) FROM $schema.apapacho_job_status()", "served in schema $schema", $name);
        is($node->ask("SELECT count(*) FROM $schema.apapacho_create_tables() WHERE created", database => $name) > 0, 1, 'tables');
        is($node->ask("SELECT $schema.apapacho_run_job('outbox')->>'status'", database => $name), 'succeeded', 'a run');
        is($node->ask("SELECT $schema.apapacho_scheduler_status()->>'enabled'", database => $name), 'true', 'the status');
        is($node->ask(q{SELECT count(*) FROM pg_proc WHERE pronamespace = 'public'::regnamespace}, database => $name), '0',
            'nothing in public');
        $node->ask("DROP DATABASE $name");
    }
};

subtest 'DROP DATABASE of a served database, without FORCE' => sub {
    $node->create_database('victim');
    $node->load_tables('fixture', 'victim');
    $node->wait_for_scheduler('victim');
    my ($main) = $node->pids('scheduler', 'postgres');
    is($node->error_of('DROP DATABASE victim'), '', 'it can be dropped');
    is_deeply([$node->pids('scheduler')], [$main], 'the other scheduler was not disturbed');

    $node->create_database('victim');
    $node->load_tables('fixture', 'victim');
    $node->ask(q{BEGIN; LOCK TABLE "OutboxEvent"; PREPARE TRANSACTION 'victim'}, database => 'victim');
    $node->run_job('outbox', wait => 0, database => 'victim');
    $node->wait_for_blocked_worker('outbox', 'victim');
    like($node->error_of('DROP DATABASE victim'), qr/ERROR:  55006: .*\nDETAIL:  There is 1 prepared transaction using the database/,
        'a run at work is ended, only the prepared transaction is in the way');
    $node->wait_for_scheduler('victim');
    my $id = $node->wait_for_run("status = 'interrupted'", 'victim');
    $node->wait_for_run("id > $id AND trigger = 'recovery' AND status = 'running'", 'victim');
    $node->ask(q{ROLLBACK PREPARED 'victim'}, database => 'victim');
    is($node->error_of('DROP DATABASE victim'), '', 'then it can be dropped');
};

subtest 'DROP DATABASE that fails disturbs nothing for long' => sub {
    $node->create_database('kept');
    $node->wait_for_scheduler('kept');
    my ($scheduler) = $node->pids('scheduler', 'kept');
    $node->ask('CREATE ROLE stranger LOGIN CREATEDB');
    like($node->error_of('DROP DATABASE kept', role => 'stranger'), qr/ERROR:  42501: must be owner of database kept/,
        'a stranger cannot');
    like($node->error_of('ALTER DATABASE kept RENAME TO taken', role => 'stranger'), qr/ERROR:  42501/, 'nor rename it');
    is_deeply([$node->pids('scheduler', 'kept')], [$scheduler], 'nor send the scheduler away');

    my $session = $node->background_psql('kept');
    like($node->error_of('DROP DATABASE kept'), qr/ERROR:  55006: .*\nDETAIL:  There is 1 other session using the database/,
        'somebody is connected');
    $node->wait_for_scheduler('kept');
    $node->let_go($session);
    like($node->error_of('BEGIN; DROP DATABASE kept'), qr/ERROR:  25001/, 'within a transaction');
    $node->wait_for_scheduler('kept');
    is($node->error_of('DROP DATABASE kept WITH (FORCE)'), '', 'with FORCE');
};

subtest 'a served database is renamed and copied' => sub {
    $node->create_database('before');
    $node->load_tables('fixture', 'before');
    $node->wait_for_scheduler('before');
    $node->run_job('outbox', database => 'before');
    is($node->error_of('ALTER DATABASE before RENAME TO after'), '', 'it can be renamed');
    $node->wait_for_scheduler('after');

    my $session = $node->background_psql('postgres');
    $session->query_safe('BEGIN; ALTER DATABASE after RENAME TO later');
    $node->wait_for_no_scheduler('after');
    $session->query_safe('ROLLBACK');
    $node->let_go($session);
    $node->wait_for_scheduler('after');

    is($node->error_of('CREATE DATABASE copy TEMPLATE after'), '', 'it can be copied');
    $node->wait_for_scheduler('after');
    $node->wait_for_scheduler('copy');
    is($node->ask(q{SELECT count(*) FROM apapacho_jobs.run WHERE status = 'succeeded' AND trigger <> 'work'}, database => 'copy'), '1',
        'with its history');
    is($node->run_job('outbox', database => 'copy')->{status}, 'succeeded', 'the copy works');
    $node->ask($_) for 'DROP DATABASE copy', 'DROP DATABASE after';
};

subtest 'databases made from a template that has the extension' => sub {
    $node->install('template1');
    is_deeply([$node->pids('scheduler', 'template1')], [], 'a template is not served');
    $node->ask('CREATE DATABASE born');
    $node->wait_for_scheduler('born');
    $node->ask('DROP DATABASE born');
    $node->ask('DROP EXTENSION apapacho_jobs', database => 'template1');
};

subtest 'pg_dump | psql into a new database, with runs while it is being restored' => sub {
    my $file = $node->basedir . '/dump.sql';
    $node->run_job('retry') for 1 .. 3;
    $node->ask(q{INSERT INTO "OutboxEvent" (id, "aggregateType", "aggregateId", "eventType", payload)
        SELECT 'e' || i, 'Payout', 'p', 'PayoutSent', '{}' FROM generate_series(1, 5) AS i});
    my $tables = user_tables('postgres');

    $node->command_ok(['pg_dump', '--file', $file, $node->connstr('postgres')], 'pg_dump');
    $node->ask('CREATE DATABASE restored');
    $node->reconfigure('apapacho_jobs.retry_cron' => '1 seconds');
    $node->wait_for(q{SELECT cron = '1 seconds' FROM apapacho_job_status() WHERE name = 'retry'}, 'a busy schedule');
    $node->command_ok(['psql', '-X', '-q', '-o', $node->basedir . '/restore.out', '-v', 'ON_ERROR_STOP=1', '-f', $file,
        $node->connstr('restored')], 'psql, without an error');
    $node->wait_for_scheduler('restored');
    is(user_tables('restored'), $tables, q{the user's tables});
    $node->wait_for_run("job = 'retry' AND trigger = 'schedule' AND status = 'succeeded'", 'restored');
    is($node->run_job('outbox', database => 'restored')->{status}, 'succeeded', 'jobs can be run by hand');
};

$node->stop;
done_testing();
