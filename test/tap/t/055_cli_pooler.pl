# apapacho-jobs behind PgBouncer in transaction mode, where DATABASE_URL of a Prisma backend often leads: commands and serve work, and
# leave nothing in the server's session, which is the backend's in the next moment.
use strict;
use warnings;

use lib 'test/tap/lib';
use Apapacho;
use Cli;
use PostgreSQL::Test::Utils qw(append_to_file slurp_file);
use Serve;
use Test::More;

my ($pgbouncer) = grep { -x } map { "$_/pgbouncer" } split(/:/, $ENV{PATH}), '/usr/sbin';
plan skip_all => 'pgbouncer (of the Debian package) is not there' unless defined $pgbouncer;

my $node = Apapacho->create('main', tables => 'own', settings => { 'apapacho_jobs.outbox_wake_on_commit' => 'off' });
my $directory = PostgreSQL::Test::Utils::tempdir_short();
my $port = PostgreSQL::Test::Cluster::get_free_port();
my $user = getpwuid($<);

# One connection to the server for all: whoever comes next has the session of whoever came before.
append_to_file("$directory/pgbouncer.ini", <<"END");
[databases]
postgres = host=@{[$node->host]} port=@{[$node->port]} dbname=postgres user=$user
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = $port
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 1
logfile = $directory/log
END
my $pooler = start_cli({ program => [$pgbouncer] }, "$directory/pgbouncer.ini");
my $url = "postgresql://$user\@127.0.0.1:$port/postgres";
my $behind = { environment => { DATABASE_URL => "$url?pgbouncer=true&connection_limit=1" } };

# What the backend finds, in the same session of the server.
sub backend {
    my ($sql) = @_;
    my ($out, $error) = ('', '');

    IPC::Run::run(['psql', '-XAtqc', $sql, $url], '<', \undef, '>', \$out, '2>', \$error) or return $error;
    chomp $out;
    return $out;
}

$node->wait_until(sub { backend('SELECT 1') eq '1' }, 'pgbouncer answers');
my $settings = q{SELECT string_agg(name || '=' || setting, ' ' ORDER BY name) FROM pg_settings WHERE source = 'session' OR name IN ('search_path', 'TimeZone', 'DateStyle')};
my $process = backend('SELECT pg_backend_pid()');
my $before = backend($settings);
like($before, qr/search_path="\$user", public/, 'the settings of the backend');

subtest 'commands' => sub {
    backend(q{SELECT apapacho_outbox_emit('Order', '1', 'OrderPaid', '{}')});
    is(cli_json($behind, 'outbox', 'stats')->{pending}, 1, 'stats');
    is(backend($settings), $before, 'nothing is left in the session');
    is(cli_ok($behind, 'outbox', 'run'), "[Job:Outbox] Procesados: 1, Fallidos: 0\n", 'a run');
    like(cli_ok($behind, 'status'), qr/^outbox /m, 'status');
    my $run = cli_json($behind, 'runs', '-n', 1)->[0];
    is($run->{finishedAt}, $node->ask(qq{SELECT (to_json(finished_at AT TIME ZONE 'UTC') #>> '{}') || 'Z' FROM apapacho_jobs.run WHERE id = $run->{runId}}), 'times in UTC');
    cli_fails($behind, 1, qr/^apapacho-jobs: error: unknown job "nix"$/m, 'run', 'nix');
    is(backend($settings), $before, 'nothing is left after an error either');
    is(backend('SELECT count(*) FROM "Payout"'), '0', 'the backend finds its tables');
};

subtest 'serve' => sub {
    my $serve = start_serve($behind);

    is(curl($serve, 'GET /readyz')->{status}, 200, 'ready');
    is(curl($serve, 'POST /api/admin/jobs/run/retry')->{json}{pending}, 0, 'a run');
    is(curl($serve, 'POST /api/admin/jobs/run/nix')->{status}, 404, 'an error');
    is(sample($serve, 'up'), 1, 'metrics');
    is(backend($settings), $before, 'nothing is left in the session');
    stop_serve($serve);
};

is(backend('SELECT pg_backend_pid()'), $process, 'it was the same session of the server all the time');
$pooler->signal('INT');
$pooler->finish;
$node->stop;
done_testing();
