# 008_jobs.pl: users' jobs at work: whom they run as, what a hostile command cannot do, databases and roles that are not there.
use strict;
use warnings;

use Apapacho;
use Jobs;
use Test::More;

# One worker at first: runs of one role queue up for it.
my $node = Apapacho->create('main', settings => {
    max_worker_processes => 40, max_prepared_transactions => 2, 'apapacho_jobs.max_workers' => 1 });
create_roles($node);
$node->wait_for_scheduler;

# A command that tries statements one after the other and leaves how each ended: an error's SQLSTATE, or who it has become.
sub attempts {
    my ($job, @statements) = @_;
    my $list = join(', ', map { "\$s\$$_\$s\$" } @statements);
    return qq{DO \$do\$
        DECLARE
            statement text;
            outcome text;
        BEGIN
            FOREACH statement IN ARRAY ARRAY[$list] LOOP
                BEGIN
                    EXECUTE statement;
                    outcome := concat_ws(' ', session_user, current_user, current_setting('is_superuser'));
                EXCEPTION WHEN OTHERS THEN
                    outcome := SQLSTATE;
                END;
                INSERT INTO t.seen VALUES ('$job', statement || ': ' || outcome);
            END LOOP;
        END \$do\$};
}

sub outcomes_of {
    my ($job) = @_;
    return [map { /: ([\w ]+)$/ } split(/\n/, seen($node, $job))];
}

subtest 'nothing of a run is left for the next one in the same worker' => sub {
    my $keys = session_of($node);
    $node->ask('CREATE ROLE team ROLE ana');
    $keys->query_safe('SELECT pg_advisory_lock(1)');
    schedule($node, 'leaves', q{
        CREATE TEMP TABLE kept (i int);
        CREATE FUNCTION pg_temp.kept() RETURNS int LANGUAGE sql AS 'SELECT 1';
        SET work_mem = '77MB';
        SET search_path = nowhere;
        SET custom.kept = 'kept';
        PREPARE kept AS SELECT 1;
        DECLARE kept CURSOR WITH HOLD FOR SELECT 1;
        SELECT pg_advisory_lock(4711);
        SELECT pg_advisory_xact_lock(1);
        COMMIT;
        SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY, ISOLATION LEVEL SERIALIZABLE;
        SET ROLE team;
        COMMIT;
        SELECT 1/0});
    wait_for_status($node, 'leaves', 'running');
    schedule($node, 'finds', q{INSERT INTO t.seen SELECT 'finds', concat_ws(' ', to_regclass('pg_temp.kept'), to_regproc('pg_temp.kept'),
        current_setting('work_mem'), current_setting('search_path'), current_setting('custom.kept', true),
        (SELECT count(*) FROM pg_prepared_statements), (SELECT count(*) FROM pg_cursors WHERE name = 'kept'),
        (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711),
        current_setting('transaction_read_only'), current_setting('transaction_isolation'), current_user)});
    schedule($node, 'listens', 'LISTEN something');
    wait_for_status($node, $_, 'queued') for qw(finds listens);
    $keys->query_safe('SELECT pg_advisory_unlock(1)');

    is(outcome($node, 'status, sqlstate', 'leaves'), 'failed|22012', 'a run leaves what a session can, and fails');
    is(outcome($node, 'status', 'finds'), 'succeeded', 'the next one');
    is(seen($node, 'finds'), '4MB "$user", public  0 0 0 off read committed ana', 'finds nothing of it');
    is(outcome($node, 'status, sqlstate', 'listens'), 'failed|0A000', 'LISTEN is refused');
    is($node->ask('SELECT count(DISTINCT pid) FROM apapacho_jobs.run'), '1', 'in one worker');
    $keys->quit;
    $node->reconfigure('apapacho_jobs.max_workers' => 20);
};

subtest 'a job runs as its role, with the settings of that' => sub {
    $node->ask(q{
        ALTER ROLE ana SET search_path = t, public;
        ALTER ROLE ana SET statement_timeout = '17s';
        ALTER ROLE ana IN DATABASE postgres SET work_mem = '3MB'});
    schedule($node, 'who', q{
        INSERT INTO seen SELECT 'who', concat_ws(' ', session_user, current_user, current_setting('is_superuser'),
            current_setting('statement_timeout'), current_setting('work_mem'), current_database());
        SELECT generate_series(1, 7)});
    schedule($node, 'become', attempts('become', 'SET SESSION AUTHORIZATION postgres', 'SET ROLE postgres', 'SET LOCAL ROLE ben',
        q{SELECT set_config('role', 'postgres', false)}, q{SELECT set_config('session_authorization', 'postgres', false)},
        'ALTER ROLE ana SUPERUSER', 'GRANT pg_write_server_files TO ana', 'SET session_replication_role = replica',
        q{SELECT pg_read_file('PG_VERSION')}, q{COPY t.seen FROM PROGRAM 'true'},
        q{CREATE FUNCTION t.c() RETURNS void LANGUAGE c AS 'nothing'}, 'RESET SESSION AUTHORIZATION', 'RESET ROLE',
        'SET SESSION AUTHORIZATION DEFAULT'));

    is(outcome($node, q{status, trigger, attempt, owner, result, error IS NULL AND sqlstate IS NULL,
            scheduled_for <= started_at AND started_at <= finished_at}, 'who'),
        'succeeded|schedule|1|ana|{"rows": 8, "command": "SELECT 7", "statements": 2}|t|t', 'the history');
    is(seen($node, 'who'), 'ana ana off 17s 3MB postgres', 'role and settings');
    is(outcome($node, 'status', 'become'), 'succeeded', 'one that tries to become somebody else');
    is_deeply(outcomes_of('become'), [('42501') x 11, ('ana ana off') x 3], 'cannot') or diag(seen($node, 'become'));
};

subtest 'owners see their jobs, others do not' => sub {
    for my $view (qw(job run history slot)) {
        my $name = $view eq 'job' ? 'name' : 'job';
        is($node->ask("SELECT DISTINCT $name FROM apapacho_jobs.$view WHERE $name = 'who'", role => 'ana'), 'who', "$view: the owner");
        is($node->ask("SELECT count(*) FROM apapacho_jobs.$view", role => 'ben'), '0', "$view: another role");
    }
    is($node->ask(q{SELECT count(*), count(DISTINCT scheduled_for), min(scheduled_for) > now() FROM apapacho_jobs.upcoming
            WHERE job = 'who'}, role => 'ana'), '5|5|t', 'upcoming: the owner');
    is($node->ask('SELECT count(*) FROM apapacho_jobs.upcoming', role => 'ben'), '0', 'upcoming: another role');
    is($node->ask(q{SELECT result->>'rows', lateness < '1 min', duration < '1 min' FROM apapacho_jobs.history WHERE job = 'who'},
        role => 'ana'), '8|t|t', 'history: the figures');
};

# What mallory's commands do to their session.
my %sets = (
    read_only => 'SET default_transaction_read_only = on',
    isolation => 'SET default_transaction_isolation = serializable; SET default_transaction_deferrable = on',
    path => 'SET search_path = hostile, pg_catalog',
    temp => q{
        CREATE TEMP TABLE run (LIKE apapacho_jobs.run);
        CREATE DOMAIN pg_temp.jsonb AS pg_catalog.jsonb CHECK (hostile.spy('domain'));
        CREATE DOMAIN pg_temp.regrole AS pg_catalog.regrole CHECK (hostile.spy('domain'));
        CREATE FUNCTION pg_temp.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS
            $$ SELECT pg_catalog.clock_timestamp() FROM hostile.spy('temp') $$;
        SET search_path = pg_temp, pg_catalog},
    locks => 'SET lock_timeout = 1; SET statement_timeout = 0; SET row_security = on; SET synchronous_commit = off',
    security => 'SET row_security = off; SET ROLE gang',
    reading => q{SET DateStyle = 'SQL, DMY'; SET TimeZone = 'Asia/Kathmandu'; SET transform_null_equals = on; SET array_nulls = off;
        SET standard_conforming_strings = off; SET IntervalStyle = sql_standard; SET client_encoding = 'LATIN1'},
    parallel => q{SELECT set_config(name, 'on', false) FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query');
        SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0},
    discard => 'COMMIT; DISCARD PLANS; DEALLOCATE ALL; CLOSE ALL; UNLISTEN *',
    prepared => q{BEGIN; INSERT INTO t.seen VALUES ('prepared'); PREPARE TRANSACTION 'NAME'});

subtest 'what a command does to its session neither spoils the history nor gets it rights' => sub {
    $node->ask(q{
        CREATE ROLE mallory LOGIN;
        CREATE ROLE eve LOGIN;
        CREATE ROLE gang ROLE mallory, eve;
        CREATE SCHEMA hostile AUTHORIZATION mallory;
        SET ROLE mallory;
        GRANT ALL ON SCHEMA hostile TO gang;
        CREATE TABLE hostile.seen (what text, who text);
        CREATE TABLE hostile.run (LIKE apapacho_jobs.run);
        CREATE TABLE hostile.job (LIKE apapacho_jobs.job);
        GRANT ALL ON ALL TABLES IN SCHEMA hostile TO gang;
        CREATE FUNCTION hostile.spy(what text) RETURNS boolean LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO hostile.seen VALUES (what, session_user || ' ' || current_user);
            BEGIN
                ALTER ROLE mallory SUPERUSER;
            EXCEPTION WHEN OTHERS THEN
                NULL;
            END;
            RETURN true;
        EXCEPTION WHEN OTHERS THEN
            RETURN true;
        END $$;
        CREATE FUNCTION hostile.equal(a bigint, b bigint) RETURNS boolean LANGUAGE sql AS
            $$ SELECT hostile.spy('operator') AND a OPERATOR(pg_catalog.=) b $$;
        CREATE FUNCTION hostile.equal(a text, b text) RETURNS boolean LANGUAGE sql AS
            $$ SELECT hostile.spy('operator') AND a OPERATOR(pg_catalog.=) b $$;
        CREATE OPERATOR hostile.= (FUNCTION = hostile.equal, LEFTARG = bigint, RIGHTARG = bigint);
        CREATE OPERATOR hostile.= (FUNCTION = hostile.equal, LEFTARG = text, RIGHTARG = text);
        CREATE FUNCTION hostile.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS
            $$ SELECT pg_catalog.clock_timestamp() FROM hostile.spy('function') $$;
        CREATE DOMAIN hostile.jsonb AS pg_catalog.jsonb CHECK (hostile.spy('domain'))});
    $node->ask('SET search_path = hostile, pg_catalog; SELECT 1::bigint = 1::bigint');
    is($node->ask('SELECT seen.*, rolsuper FROM hostile.seen, pg_roles WHERE rolname OPERATOR(pg_catalog.=) $$mallory$$'),
        'operator|postgres postgres|t', 'the spy is awake');
    $node->ask('TRUNCATE hostile.seen; ALTER ROLE mallory NOSUPERUSER');
    for my $setting ('default_transaction_read_only = on', 'default_transaction_isolation = serializable', 'lock_timeout = 1',
        'search_path = hostile, pg_catalog', 'row_security = off', q{DateStyle = 'SQL, DMY'}, 'transform_null_equals = on',
        'standard_conforming_strings = off', 'min_parallel_table_scan_size = 0', 'parallel_setup_cost = 0', 'role = gang') {
        $node->ask("ALTER ROLE eve SET $setting");
    }

    my %as = (role => 'postgres', run_as => 'mallory');
    for my $name (sort keys %sets) {
        schedule($node, $name, $sets{$name} =~ s/NAME/one/r, %as);
        schedule($node, "$name fails", $sets{$name} =~ s/NAME/two/r . '; COMMIT; SELECT 1/0', %as);
    }
    schedule($node, 'role', 'SELECT 1', %as, run_as => 'eve');
    schedule($node, 'role fails', 'SELECT 1/0', %as, run_as => 'eve');
    for my $name ('role', sort keys %sets) {
        is(outcome($node, q{status, error IS NULL, result->>'statements' > '0', scheduled_for <= started_at, started_at <= finished_at,
                now() - finished_at < '1 hour'}, $name), 'succeeded|t|t|t|t|t', "$name: recorded");
        is(outcome($node, q{status, sqlstate, error, scheduled_for <= started_at, started_at <= finished_at}, "$name fails"),
            'failed|22012|division by zero|t|t', "$name: its failure too");
    }
    is($node->ask(q{SELECT * FROM hostile.seen WHERE who !~ '^(mallory|eve) (mallory|eve|gang)$'}), '', 'nothing ran as somebody else');
    is($node->ask(q{SELECT count(*) FROM pg_roles WHERE rolsuper}), '1', 'nobody has become a superuser');
    is($node->ask('SELECT (SELECT count(*) FROM hostile.run) + (SELECT count(*) FROM hostile.job)'), '0', 'no row went astray');
    $node->ask($_) for q{ROLLBACK PREPARED 'one'}, q{ROLLBACK PREPARED 'two'};
};

subtest 'nothing can be put onto the tables of the extension' => sub {
    my @denied = map { my $table = "apapacho_jobs.$_"; (
        "CREATE TRIGGER x BEFORE INSERT OR UPDATE ON $table EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "CREATE RULE x AS ON UPDATE TO $table DO ALSO NOTIFY x", "CREATE POLICY x ON $table", "CREATE INDEX ON $table ((1))",
        "ALTER TABLE $table DISABLE ROW LEVEL SECURITY", "ALTER TABLE $table OWNER TO ana", "CREATE TABLE ana.x () INHERITS ($table)",
        "CREATE STATISTICS ana.x ON (1), (2) FROM $table", "INSERT INTO $table DEFAULT VALUES", "DELETE FROM $table", "TRUNCATE $table",
        "LOCK TABLE $table IN SHARE MODE", "SELECT FROM $table FOR UPDATE", "COMMENT ON TABLE $table IS 'x'") } qw(run job job_state);
    push @denied, 'UPDATE apapacho_jobs.run SET error = NULL', 'UPDATE apapacho_jobs.job SET command = NULL',
        'UPDATE apapacho_jobs.job_state SET pass = 1', 'CREATE TABLE ana.x (id bigint REFERENCES apapacho_jobs.run)',
        'CREATE TABLE apapacho_jobs.x ()', 'CREATE EVENT TRIGGER x ON ddl_command_end EXECUTE FUNCTION t.soon()',
        'SELECT * FROM apapacho_jobs.job_state', q{SELECT nextval('apapacho_jobs.run_id_seq')},
        q{SELECT setval('apapacho_jobs.job_id_seq', 200)}, 'SELECT apapacho_jobs.prune_history(1)',
        q{SET apapacho_jobs.notify_channel = 'x'}, 'SET log_statement = none';
    my @settings = (q{SET apapacho_jobs.enabled = off}, q{SET apapacho_jobs.max_workers = 1}, 'SET apapacho_jobs.nothing = 1');

    $node->ask('CREATE SCHEMA ana AUTHORIZATION ana');
    schedule($node, 'forbidden', attempts('forbidden', @denied, @settings));
    is(outcome($node, 'status', 'forbidden'), 'succeeded', 'a command tries');
    is_deeply(outcomes_of('forbidden'), [('42501') x @denied, '55P02', '55P02', '42602'], 'and is refused all of it')
        or diag(seen($node, 'forbidden'));
};

subtest 'a job in another database, which knows nothing of the extension' => sub {
    $node->ask("CREATE DATABASE $_") for qw(other away);
    create_traces($node, $_) for qw(other away);
    $node->ask('REVOKE CONNECT ON DATABASE away FROM PUBLIC; GRANT CONNECT ON DATABASE away TO ben');
    schedule($node, 'other', q{
        INSERT INTO t.seen SELECT 'other', concat_ws(' ', current_database(), session_user, current_setting('is_superuser'));
        SELECT generate_series(1, 5)}, database => 'other');
    schedule($node, 'other fails', q{INSERT INTO t.seen VALUES ('other', 'failed'); SELECT 1/0}, database => 'other',
        retries => 1, retry_delay => '1 ms');
    schedule($node, 'other timeout', 'SELECT pg_sleep(600)', database => 'other', timeout => '300 ms');
    schedule($node, 'away', q{INSERT INTO t.seen SELECT 'away', current_database()}, database => 'away', role => 'ben');
    $node->ask(q{SELECT apapacho_schedule_job('long', t.soon(), database => 'other',
        command => format('INSERT INTO t.seen SELECT ''long'', length(%L)', repeat('x', 150000)))}, role => 'ana');

    is(outcome($node, q{status, result, error IS NULL, started_at >= scheduled_for AND finished_at >= started_at, owner}, 'other'),
        'succeeded|{"rows": 6, "command": "SELECT 5", "statements": 2}|t|t|ana', 'is recorded here');
    is(seen($node, 'other', 'other'), 'other ana off', 'runs there');
    is(seen($node, 'other'), '', 'and not here');
    is(outcome($node, 'status, attempt, sqlstate, error', 'other fails', 2), 'failed|2|22012|division by zero', 'a failure');
    is(outcome($node, 'status, sqlstate', 'other timeout'), 'timed_out|57014', 'a timeout');
    is(outcome($node, 'status', 'long'), 'succeeded', 'a long command');
    is(seen($node, 'long', 'other'), '150000', 'is all there');
    is(outcome($node, 'status', 'away'), 'succeeded', 'a database with few friends');
    is(seen($node, 'away', 'away'), 'away', 'of whom its role is one');
};

subtest 'roles and databases that are gone: a clear failure each time, and the scheduler lives' => sub {
    my ($scheduler) = $node->pids('scheduler', 'postgres');
    my %every = (schedule => '* * * * * *');
    $node->ask('CREATE ROLE gone LOGIN; CREATE ROLE mute LOGIN; CREATE ROLE poor LOGIN; CREATE DATABASE gone');
    schedule($node, 'gone role', 'SELECT 1', %every, role => 'postgres', run_as => 'gone');
    schedule($node, 'mute role', 'SELECT 1', %every, role => 'postgres', run_as => 'mute');
    schedule($node, 'gone database', 'SELECT 1', %every, database => 'gone');
    schedule($node, 'closed database', 'SELECT 1', %every, role => 'ben', database => 'away');
    schedule($node, 'steady', 'SELECT 1', %every);
    $node->ask('GRANT EXECUTE ON FUNCTION apapacho_schedule_job TO poor; GRANT team TO poor; ALTER ROLE team LOGIN');
    schedule($node, 'poor owner', 'SELECT 1', %every, role => 'poor', run_as => 'team');
    $node->ask($_) for 'REVOKE EXECUTE ON FUNCTION apapacho_schedule_job FROM poor', 'DROP ROLE gone', 'ALTER ROLE mute NOLOGIN',
        'REVOKE team FROM poor', 'REVOKE CONNECT ON DATABASE away FROM ben', 'DROP DATABASE gone';
    my $since = $node->ask(q{SELECT clock_timestamp() + '500 ms'}); # runs are taken a little ahead of their time

    my %errors = (
        'gone role' => 'the role that job "gone role" runs as has been dropped',
        'mute role' => 'role "mute" is not permitted to log in',
        'poor owner' => 'the owner "poor" of job "poor owner" is not permitted to become role "team"',
        'gone database' => 'database "gone" does not exist',
        'closed database' => 'role "ben" has no CONNECT privilege on database "away"');
    for my $job (sort keys %errors) {
        my $failed = "job = '$job' AND status = 'failed' AND scheduled_for > '$since'";
        $node->wait_for("SELECT count(*) >= 2 FROM apapacho_jobs.run WHERE $failed", "$job: two failures");
        is($node->ask("SELECT DISTINCT error, sqlstate IS NOT NULL FROM apapacho_jobs.run WHERE $failed"), "$errors{$job}|t", "$job: why");
    }
    is(outcome($node, 'owner, status', 'steady', 2), 'ana|succeeded', 'other jobs run');
    is(($node->pids('scheduler', 'postgres'))[0], $scheduler, 'the scheduler is the same');
};

$node->stop;
done_testing();
