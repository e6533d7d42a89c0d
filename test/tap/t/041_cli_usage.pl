# apapacho-jobs at its edges: help and wrong usage, where the server is (DATABASE_URL as the ORM writes it, PG*, password files and
# prompts), no connection, connections that are lost, Ctrl-C, a terminal; and cron expressions without a server.
use strict;
use warnings;

use lib 'test/tap/lib';
use Apapacho;
use Cli;
use PostgreSQL::Test::Utils qw(append_to_file slurp_file);
use Test::More;

my $node = Apapacho->create('main', tables => 'own', settings => { 'apapacho_jobs.outbox_wake_on_commit' => 'off' });
my $server = { node => $node };
my ($host, $port, $user) = ($node->host, $node->port, scalar getpwuid($<));
my $directory = PostgreSQL::Test::Utils::tempdir();
my @commands = ('run', 'status', 'runs', 'cron next', 'outbox start', 'outbox run', 'outbox stats', 'outbox cleanup', 'outbox retry-failed', 'outbox events',
    'payout preview', 'payout eligibility', 'payout reconcile', 'listen', 'serve');

subtest 'help' => sub {
    my $help = cli_ok({}, '--help');

    for my $command (@commands) {
        like($help, qr/^  $command /m, "the help has $command");
        my $own = cli_ok({}, split(/ /, $command), '--help');
        like($own, qr/^apapacho-jobs $command: .+\.\n\nUsage:\n  apapacho-jobs $command \[OPTION\]\.\.\..*\n(?:\n.+(?:\n.+)*\n)?\nOptions:\n/, 'its own');
        cmp_ok((sort { $b <=> $a } map { length } split(/\n/, $own))[0], '<=', 120, 'fits a terminal');
    }
    is(cli_ok({}, 'help'), $help, 'help is a command too');
    is(cli_ok({}, 'help', split(/ /, $_)), cli_ok({}, split(/ /, $_), '--help'), "help $_") for @commands, 'outbox';
    is(cli_ok({}, '--help', 'run'), cli_ok({}, 'run', '--help'), '--help before a command');
    cli_fails({}, 2, qr/error: unknown command "paint"/, 'help', 'paint');
    like(cli_ok({}, 'outbox', '--help'), qr/^Usage:\n  apapacho-jobs outbox COMMAND.*\n\nCommands:\n(?:  outbox .*\n){5}/, 'of a group');
    is(cli_ok({}, 'run', '-?'), cli_ok({}, 'run', '--help'), '-?');
    is(cli_ok({}, 'run', 'a', 'b', 'c', '--help'), cli_ok({}, 'run', '--help'), 'whatever the arguments');
    like(cli_ok({}, '--version'), qr/^apapacho-jobs \(apapacho_jobs\) \d+\.\d+\n\z/, 'the version');
    is(cli_ok({}, '-V'), cli_ok({}, '--version'), '-V');
    my $full = cli({ program => ['bash', '-c', 'apapacho-jobs --help >/dev/full'] });
    is($full->{code}, 1, 'a full disk is a failure');
    like($full->{err}, qr/error: could not write the output/, 'and is told');
    for my $command ('--help', 'status --watch') {
        my $closed = cli({ %{$server}, program => ['bash', '-c', 'exec 3> >(true); wait $!; apapacho-jobs "$@" >&3; echo $? >&2', 'bash'] }, split(/ /, $command));
        is($closed->{err}, "141\n", "$command: where nobody reads any more it ends as others do");
    }
};

subtest 'wrong usage' => sub {
    my $alone = cli({});

    is("$alone->{code} $alone->{out}", '2 ', 'no command');
    is($alone->{err}, cli_ok({}, '--help'), 'is answered with the help');
    cli_fails({}, 2, qr/^apapacho-jobs: error: unknown command "paint"\napapacho-jobs: hint: Try "apapacho-jobs --help" for more information\.$/, 'paint');
    cli_fails({}, 2, qr/error: unknown command "outbox paint"/, 'outbox', 'paint');
    cli_fails({}, 2, qr/error: unrecognized option "--paint"/, '--paint', 'status');
    cli_fails({}, 2, qr/error: unrecognized option "--paint=red"\n.*Try "apapacho-jobs status --help"/, 'status', '--paint=red');
    cli_fails({}, 2, qr/error: unrecognized option "-x"/, 'status', '-x');
    cli_fails({}, 2, qr/error: option --limit needs a value/, 'runs', '--limit');
    cli_fails({}, 2, qr/error: option -n needs a value/, 'runs', '-n');
    cli_fails({}, 2, qr/error: unrecognized option "--watch=1"/, 'status', '--watch=1');
    cli_fails({}, 2, qr/error: unrecognized option "--port"/, 'cron', 'next', '@daily', '--port', '1');
    cli_fails({}, 2, qr/error: too many arguments, the first of them is "--x"/, 'status', '--', '--x');
    cli_fails({}, 2, qr/error: option --port before the command is of no use to "listen"\n.*Try "apapacho-jobs listen --help"/, '-p', '5000', 'listen');
    cli_fails({}, 2, qr/error: option --dbname before the command is of no use to "cron next"/, '-d', 'x', 'cron', 'next', '@daily');
    cli_fails({}, 2, qr/error: option --json before the command is of no use to "serve"/, '--json', 'serve');
};

subtest 'options before and after the command, as in psql' => sub {
    my @before = ('-h', $host, '-p', $port, '-U', $user, '-d', 'postgres');
    my $none = { environment => { PGHOST => '/nowhere' } };

    like(cli_ok($none, @before, 'outbox', 'stats'), qr/^total +0$/m, 'before');
    like(cli_ok($none, 'outbox', 'stats', @before), qr/^total +0$/m, 'after');
    like(cli_ok($none, '--json', "--host=$host", 'outbox', 'stats', "--port=$port", "--username=$user", '--dbname=postgres'), qr/^\{"total": 0/, 'both');
    like(cli_ok($none, 'outbox', 'stats', '-d', "host=$host port=$port user=$user dbname=postgres"), qr/^total/, 'a connection string');
    like(cli_ok($none, 'outbox', 'stats', '-d', "postgresql:///postgres?host=$host&port=$port&user=$user"), qr/^total/, 'a URL');
};

subtest 'DATABASE_URL' => sub {
    my $with = sub { return { environment => { DATABASE_URL => $_[0], PGHOST => '/nowhere' } } };
    my $url = "postgresql://$user\@localhost:$port/postgres?host=$host";

    like(cli_ok($with->($url), 'outbox', 'stats'), qr/^total/, 'outweighs PG*');
    like(cli_ok($with->($url =~ s/^postgresql/postgres/r), 'outbox', 'stats'), qr/^total/, 'postgres://');
    like(cli_ok($with->("$url&schema=public&connection_limit=5&pool_timeout=2&pgbouncer=true&socket_timeout=3&statement_cache_size=0"), 'outbox', 'stats'),
        qr/^total/, 'parameters of Prisma that libpq does not know');
    my $warned = cli($with->("$url&schema=Tienda%20Sur"), 'outbox', 'stats');
    is($warned->{code}, 0, 'another schema than the server works on');
    like($warned->{err}, qr/^apapacho-jobs: warning: the URL names schema "Tienda Sur", but the server works on the tables in schema "public"\n/, 'is told');
    cli_fails($with->('postgresql://nowhere.invalid/x'), 3, qr/error: /, '-d', "host=/none", 'outbox', 'stats');
    like(cli_ok($with->('postgresql:///x?host=/none'), '-d', $url, 'outbox', 'stats'), qr/^total/, 'is outweighed by -d');
    like(cli_ok({ %{$server}, environment => { DATABASE_URL => '' } }, 'outbox', 'stats'), qr/^total/, 'empty: as if it were not there');

    my %bad = (
        'mysql://root:s3cret@localhost/x' => qr{DATABASE_URL must begin with postgresql:// or postgres://},
        's3cret' => qr{DATABASE_URL must begin with},
        "$url&color=s3cret" => qr/the URL has an unknown parameter "color"/,
        "postgresql://u:s3cret\@localhost:54x32/x" => qr/invalid connection string in DATABASE_URL: the port is no number/,
        'postgresql://u:12/s3cret@localhost/x' => qr{the URL has a \@ behind the host; a / in a password is written %2F},
        'postgresql://u:12?s3cret@localhost/x' => qr/the URL has an unknown parameter; a \? in a password is written %3F/,
        'postgresql://u:s3cret%zz@localhost/x' => qr/invalid connection string in DATABASE_URL: invalid percent-encoded token/,
        'postgresql://u:s3cret@[::1/x' => qr/invalid connection string in DATABASE_URL: /,
        'postgresql://u:s3cret@localhost/x?sslidentity=a' => qr/unknown parameter "sslidentity"/);
    for my $bad (sort keys %bad) {
        my $result = cli($with->($bad), 'outbox', 'stats');
        is("$result->{code} $result->{out}", '2 ', 'refused');
        like($result->{err}, $bad{$bad}, 'says why');
        unlike($result->{err}, qr/s3cret/, 'and no secret');
    }
};

subtest 'no connection: exit status 3' => sub {
    cli_fails({}, 3, qr{^apapacho-jobs: error: connection to server on socket "/nowhere/}, '-h', '/nowhere', 'status');
    cli_fails({}, 3, qr/connection to server at "127.0.0.1", port 1 failed: Connection refused/, '-h', '127.0.0.1', '-p', '1', 'run', 'payout');
    cli_fails($server, 3, qr/FATAL:  database "nix" does not exist/, '-d', 'nix', 'run', 'payout');
    cli_fails($server, 3, qr/FATAL:  role "nix" does not exist/, '-U', 'nix', 'run', 'payout');
    cli_fails($server, 3, qr/error: invalid port number: "x"|invalid integer value "x"/, '-p', 'x', 'run', 'payout');
    cli_fails($server, 1, qr/error: the extension apapacho_jobs is not installed in database "template1"\n.*hint: .*CREATE EXTENSION apapacho_jobs/,
        '-d', 'template1', 'status');
};

subtest 'passwords: variable, file, prompt' => sub {
    $node->ask(q{CREATE ROLE operations LOGIN PASSWORD 'p4ss:word'; GRANT EXECUTE ON FUNCTION apapacho_outbox_stats TO operations});
    my $hba = slurp_file($node->data_dir . '/pg_hba.conf');
    unlink($node->data_dir . '/pg_hba.conf');
    $node->append_conf('pg_hba.conf', "local all operations scram-sha-256\n$hba");
    $node->reload;
    my @as = ('outbox', 'stats', '-U', 'operations');
    $node->wait_until(sub { cli($server, @as, '-w')->{code} == 3 }, 'a password is needed');

    cli_fails($server, 3, qr/fe_sendauth: no password supplied/, @as, '-w');
    my $wrong = cli_fails({ %{$server}, environment => { PGPASSWORD => 'wr0ng' } }, 3, qr/password authentication failed for user "operations"/, @as);
    unlike($wrong->{err}, qr/wr0ng/, 'the password is not told');
    like(cli_ok({ %{$server}, environment => { PGPASSWORD => 'p4ss:word' } }, @as), qr/^total/, 'PGPASSWORD');
    append_to_file("$directory/pgpass", "*:*:*:operations:p4ss\\:word\n");
    chmod(0600, "$directory/pgpass");
    like(cli_ok({ %{$server}, environment => { PGPASSFILE => "$directory/pgpass" } }, @as, '-w'), qr/^total/, 'a password file');
    like(cli_ok({ environment => { DATABASE_URL => "postgresql://operations:p4ss%3Aword\@localhost:$port/postgres?host=$host" } }, 'outbox', 'stats'),
        qr/^total/, 'in DATABASE_URL');

    my $terminal = start_cli({ %{$server}, types => 1, program => ['script', '-qec'] }, "apapacho-jobs @as", '/dev/null');
    $terminal->wait_for_output(qr/Password: /);
    $terminal->type("p4ss:word\n");
    my $typed = $terminal->finish;
    is($typed->{code}, 0, 'typed on a terminal');
    like($typed->{out}, qr/total/, 'is taken');
    unlike($typed->{out}, qr/p4ss/, 'and not shown');
};

subtest 'what jobs and triggers raise cannot steer the terminal' => sub {
    $node->ask(q{SELECT apapacho_schedule_job('loud', '0 5 1 1 *',
        $job$DO $$BEGIN RAISE EXCEPTION USING MESSAGE = E'\033[31mred\u009b1m\r\nnext\tline', DETAIL = E'\033[5mñ\u202e'; END$$$job$)});
    cli_fails($server, 1, qr/^apapacho-jobs: error: \?\[31mred\?1m\?\n    next\tline\napapacho-jobs: detail: \?\[5mñ\?$/m, 'run', 'loud');
    $node->ask(q{CREATE FUNCTION warn() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE WARNING E'\033[31mbeware'; RAISE NOTICE 'hush'; RETURN NEW; END$$;
        CREATE TRIGGER warn BEFORE UPDATE ON "OutboxEvent" FOR EACH ROW EXECUTE FUNCTION warn();
        INSERT INTO "OutboxEvent" (id, "aggregateType", "aggregateId", "eventType", payload, "retryCount") VALUES ('w', 'A', '1', 'T', '{}', 10)});
    my $warned = cli($server, 'outbox', 'retry-failed');
    is("$warned->{code} $warned->{out}$warned->{err}", "0 1 failed events are pending again\napapacho-jobs: warning: ?[31mbeware\n", 'a warning');
    $node->ask('DELETE FROM "OutboxEvent"; DROP FUNCTION warn() CASCADE');
    cli_fails({}, 1, qr/\n    0 0 \* \* \?\[31m\n/, 'cron', 'next', "0 0 * * \e[31m");
};

subtest 'Ctrl-C ends the wait, not the run' => sub {
    my $lock = $node->hold('Payout');
    my $program = start_cli($server, 'run', 'payout');
    $node->wait_for_blocked_worker('payout');
    $program->signal('INT');
    my $result = $program->finish;

    is("$result->{code} $result->{out}", '130 ', 'exit status 130');
    like($result->{err}, qr/^apapacho-jobs: error: canceling statement due to user request\n.*hint: A run that has begun goes on in the server/s, 'says so');
    $node->wait_for_blocked_worker('payout');

    $program = start_cli($server, 'run', 'payout');
    $node->wait_for(q{SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = 'apapacho-jobs' AND state = 'active'}, 'another waits');
    $node->ask(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'apapacho-jobs'});
    $result = $program->finish;
    is("$result->{code} $result->{out}", '3 ', 'a connection that is lost: exit status 3');
    like($result->{err}, qr/error: terminating connection due to administrator command$/, 'says why');
    $node->let_go($lock);
    $node->wait_for_run(q{job = 'payout' AND status = 'succeeded'});
};

# A server that does not even answer the request to cancel: the postmaster stands still.
subtest 'a second Ctrl-C ends it at once' => sub {
    my $lock = $node->hold('Payout');
    my $program = start_cli($server, 'run', 'payout');
    my ($postmaster) = slurp_file($node->data_dir . '/postmaster.pid') =~ /^(\d+)/;
    my $caught = sub { slurp_file("/proc/$_[0]/status") =~ /^SigCgt:\s+([0-9a-f]+)$/m && hex(substr($1, -4)) & 1 << (2 - 1) };

    $node->wait_for_blocked_worker('payout');
    my ($id) = map { $_->{KIDS}[0]{PID} } $program->{run};
    $node->wait_until(sub { $caught->($id) }, 'it waits');
    kill('STOP', $postmaster);
    $program->signal('INT');
    my $waited = eval { $node->wait_until(sub { !$caught->($id) }, 'the first one is taken'); 1 };
    my $running = kill(0, $id);
    $program->signal('INT');
    my $result = eval { $program->finish };
    kill('CONT', $postmaster);
    ok($waited && $running, 'the first one waits for the server');
    is($result->{code}, 130, 'the second one does not');
    $node->let_go($lock);
    $node->wait_for_run(q{job = 'payout' AND status = 'succeeded'});
};

subtest 'on a terminal: colours and progress' => sub {
    my $terminal = { %{$server}, environment => { TERM => 'xterm' }, program => ['script', '-qec'] };
    my $table = cli($terminal, 'apapacho-jobs runs', '/dev/null');

    like($table->{out}, qr/\e\[1mrun\e\[0m.*\e\[32msucceeded\e\[0m/s, 'colours');
    unlike(cli({ %{$terminal}, environment => { TERM => 'xterm', NO_COLOR => '1' } }, 'apapacho-jobs runs', '/dev/null')->{out}, qr/\e/, 'NO_COLOR');

    my $lock = $node->hold('Payout');
    my $program = start_cli($terminal, 'apapacho-jobs run payout', '/dev/null');
    $program->wait_for_output(qr/\r\e\[K\e\[2mpayout.*, \d+ s/);
    $node->let_go($lock);
    my $result = $program->finish;
    is($result->{code}, 0, 'done');
    like($result->{out}, qr/\r\e\[K\[Job:Payout\] Completado - Creados: 0, Omitidos: 0, Errores: 0\r?\n\z/, 'the line of progress is wiped');
};

subtest 'a server that restarts under status --watch' => sub {
    my $watch = start_cli($server, 'status', '--watch', '--interval=1');
    $watch->wait_for_output(qr/Schedules are on/);
    $node->restart;
    my $seen = length $watch->output;
    $node->wait_until(sub { substr($watch->output, $seen) =~ /Schedules are on/ }, 'it goes on with the new one');
    like($watch->errors, qr/^apapacho-jobs: error: .*\n(?:    .*\n)*apapacho-jobs: warning: lost the connection; trying again/, 'and has said so');
    $watch->signal('TERM');
    is($watch->finish->{code}, 0, 'ends well');
};

subtest 'cron next: the same as the server says' => sub {
    my @zones = ('UTC', 'America/Santiago', 'Europe/Berlin', 'Australia/Lord_Howe', 'Asia/Kathmandu');
    my @expressions = ('* * * * *', '30 2 * * *', '*/20 1-3 * * 0', '0 9 LW * *', '30 15 10 2 4 *', '0 0 29 2 *', '0 12 * * 5#2', '@monthly');
    my $from = '2026-03-28 12:34:56';

    for my $zone (@zones) {
        my $expected = $node->ask(join(' UNION ALL ', map {
            "SELECT string_agg(extract(epoch FROM t)::bigint::text, ' ' ORDER BY t) FROM apapacho_cron_next('$_', timestamp '$from' AT TIME ZONE '$zone', 12, '$zone') AS t"
        } @expressions));
        my @found = map {
            my $answer = JSON::PP::decode_json(cli({}, 'cron', 'next', $_, '-z', $zone, '-n', 12, '-f', $from, '--json')->{out});
            join(' ', map { epoch($_) } @{ $answer->{next} });
        } @expressions;
        is(join("\n", @found), $expected, $zone);
    }
    my $people = cli_ok({}, 'cron', 'next', '0 2 * * 0', '--zone', 'America/Santiago', '--from', '2026-04-04', '-n', '2', '-l', 'es');
    is($people, "0 2 * * 0: a las 02:00 los domingos (America/Santiago)\n  2026-04-05 02:00:00-04\n  2026-04-12 02:00:00-04\n", 'for people, in Spanish');
    is(cli_ok({}, 'cron', 'next', '@daily', '-z', 'UTC', '-n', 1, '-f', '0009-12-31'), "\@daily: at 00:00 every day (UTC)\n  0010-01-01 00:00:00+00\n", 'a year of few digits');
    is(cli_ok({}, 'cron', 'next', '@reboot', '-z', 'UTC'), "\@reboot: once, when the server starts (UTC)\n", 'no time at all');
    is(cli_ok({ environment => { TZ => 'Asia/Kathmandu' } }, 'cron', 'next', '@daily', '-f', '2026-01-01', '-n1'),
        "\@daily: at 00:00 every day (Asia/Kathmandu)\n  2026-01-02 00:00:00+05:45\n", 'the local zone');
    cli_fails({}, 1, qr/^apapacho-jobs: error: invalid cron expression: minute field: value 61 is out of range 0-59\n    61 \* \* \* \*\n    \^\n\z/,
        'cron', 'next', '61 * * * *');
    cli_fails({}, 1, qr/\n    0 2 \* \* 9\n            \^\n\z/, 'cron', 'next', '0 2 * * 9');
    cli_fails({}, 2, qr/error: unknown time zone "$_"/, 'cron', 'next', '@daily', '--zone', $_) for 'Mars/Olympus', '../etc/passwd', 'zone.tab', '';
    cli_fails({}, 2, qr/--from must be a time such as/, 'cron', 'next', '@daily', '--from', $_) for '2026-02-30', 'noon', '2026-01-01 25:00', '';
    cli_fails({}, 2, qr/--language must be en or es/, 'cron', 'next', '@daily', '--language', 'fr');
    cli_fails({}, 2, qr/--count must be a number from 1 to 1000/, 'cron', 'next', '@daily', '-n', '1001');
    cli_fails({}, 2, qr/too many arguments/, 'cron', 'next', qw(0 2 * * 0));
};

# "2026-03-28T12:34:56+05:45" in seconds since 1970.
sub epoch {
    my ($text) = @_;
    my ($time, $sign, $hours, $minutes) = $text =~ /^(.*?)(?:Z|([+-])(\d\d):(\d\d))$/ or die "no time: $text\n";
    require Time::Piece;
    my $offset = defined $sign ? ($hours * 3600 + $minutes * 60) * ($sign eq '-' ? -1 : 1) : 0;
    return Time::Piece->strptime($time, '%Y-%m-%dT%H:%M:%S')->epoch - $offset;
}

$node->stop;
done_testing();
