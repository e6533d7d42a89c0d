# apapacho-jobs over TLS: verify-full with an authority of the test's own, by PG*, by DATABASE_URL and in Prisma's words; what cannot be
# verified is refused with a reason and exit status 3; client certificates; serve.
use strict;
use warnings;

use lib 'test/tap/lib';
use Apapacho;
use Cli;
use PostgreSQL::Test::Utils qw(append_to_file slurp_file);
use Serve;
use Test::More;

plan skip_all => 'openssl (of the Debian package) is not there' unless grep { -x "$_/openssl" } split(/:/, $ENV{PATH});
plan skip_all => 'PostgreSQL was built without TLS' unless qx($ENV{PG_CONFIG} --configure) =~ /--with-(?:openssl|ssl=openssl)/;

my $directory = PostgreSQL::Test::Utils::tempdir();
my $user = getpwuid($<);

sub openssl {
    my (@arguments) = @_;
    system("openssl @arguments >>'$directory/openssl.log' 2>&1 </dev/null") == 0 or die "openssl @arguments:\n" . slurp_file("$directory/openssl.log");
    return;
}

sub make_authority {
    my ($name) = @_;
    append_to_file("$directory/$name.conf", "[req]\ndistinguished_name = dn\nx509_extensions = authority\n[dn]\n[authority]\nbasicConstraints = critical, CA:TRUE\n");
    openssl("req -x509 -config '$directory/$name.conf' -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj '/CN=$name'",
        "-keyout '$directory/$name.key' -out '$directory/$name.crt'");
    return "$directory/$name.crt";
}

sub make_certificate {
    my ($authority, $name, $extension) = @_;

    append_to_file("$directory/$name.ext", "$extension\n");
    openssl("req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj '/CN=$name' -keyout '$directory/$name.key' -out '$directory/$name.csr'");
    openssl("x509 -req -in '$directory/$name.csr' -CA '$directory/$authority.crt' -CAkey '$directory/$authority.key' -CAcreateserial -days 30",
        "-extfile '$directory/$name.ext' -out '$directory/$name.crt'");
    chmod(0600, "$directory/$name.key");
    return;
}

my $authority = make_authority('authority');
my $stranger = make_authority('stranger');
make_certificate('authority', 'localhost', 'subjectAltName = DNS:localhost');
make_certificate('authority', 'operations', 'extendedKeyUsage = clientAuth');
make_certificate('stranger', 'impostor', 'extendedKeyUsage = clientAuth');

my $node = Apapacho->create('main', start => 0, extension => 0, settings => {
    listen_addresses => 'localhost', ssl => 'on', ssl_cert_file => "$directory/localhost.crt", ssl_key_file => "$directory/localhost.key", ssl_ca_file => $authority,
    'apapacho_jobs.outbox_wake_on_commit' => 'off' });
unlink($node->data_dir . '/pg_hba.conf');
$node->append_conf('pg_hba.conf', "local all all trust\nhostssl all operations all cert\nhostssl all all all trust\nhostnossl all all all reject");
$node->start;
$node->ask('CREATE EXTENSION apapacho_jobs; SELECT apapacho_create_tables(); CREATE ROLE operations LOGIN; GRANT EXECUTE ON FUNCTION apapacho_outbox_stats TO operations');
my $port = $node->port;
my @stats = ('outbox', 'stats');

sub by_variables {
    my (%variables) = @_;
    return { environment => { PGHOST => 'localhost', PGPORT => $port, PGDATABASE => 'postgres', PGUSER => $user, %variables } };
}

sub by_url {
    my ($parameters, $host) = @_;
    return { environment => { DATABASE_URL => "postgresql://$user:s3cret\@" . ($host // 'localhost') . ":$port/postgres?$parameters" } };
}

my $no_chain = qr/^apapacho-jobs: error: connection to server at "localhost".* failed: SSL error: certificate verify failed$/;

subtest 'what is verified works' => sub {
    like(cli_ok(by_variables(PGSSLMODE => 'verify-full', PGSSLROOTCERT => $authority), @stats), qr/^total +0$/m, 'by PG*');
    like(cli_ok(by_url("sslmode=verify-full&sslrootcert=$authority"), @stats), qr/^total +0$/m, 'by DATABASE_URL');
    like(cli_ok(by_url("schema=public&sslaccept=strict&sslcert=$authority&sslmode=require"), @stats), qr/^total +0$/m, 'in Prisma\'s words');
    like(cli_ok(by_url('sslmode=require'), @stats), qr/^total +0$/m, 'where nobody asks to verify');
    is(cli_ok(by_url("sslmode=verify-full&sslrootcert=$authority"), 'run', 'retry'), "[Job:Retry] 0 payouts pendientes de reintento\n", 'a run');
};

subtest 'what is not, is refused' => sub {
    cli_fails(by_variables(PGSSLMODE => 'verify-full', PGSSLROOTCERT => $stranger), 3, $no_chain, 'run', 'payout');
    cli_fails(by_url("sslmode=verify-full&sslrootcert=$stranger"), 3, $no_chain, @stats);
    cli_fails(by_url("sslmode=verify-ca&sslrootcert=$stranger"), 3, $no_chain, @stats);
    cli_fails(by_url("sslaccept=strict&sslcert=$stranger&sslmode=prefer"), 3, $no_chain, @stats);
    cli_fails(by_url('sslaccept=strict'), 3, qr/root certificate file ".*" does not exist/, @stats);
    cli_fails(by_url("sslmode=verify-full&sslrootcert=$directory/none"), 3, qr{root certificate file "\Q$directory\E/none" does not exist}, @stats);
    cli_fails(by_url("sslmode=verify-full&sslrootcert=$authority", '127.0.0.1'), 3, qr/server certificate for "localhost" .*does not match host name "127\.0\.0\.1"/, @stats);
    my $plain = cli_fails(by_url('sslmode=disable'), 3, qr/pg_hba\.conf rejects connection .* no encryption/, @stats);
    unlike($plain->{err}, qr/s3cret/, 'the password is not told');
    is($node->ask('SELECT count(*) FROM apapacho_jobs.run WHERE job = \'payout\''), '0', 'nothing has run');
};

subtest 'client certificates' => sub {
    my $as = sub { my ($name) = @_; return by_variables(PGUSER => 'operations', PGSSLMODE => 'verify-full', PGSSLROOTCERT => $authority,
            $name ? (PGSSLCERT => "$directory/$name.crt", PGSSLKEY => "$directory/$name.key") : ()); };

    like(cli_ok($as->('operations'), @stats, '-w'), qr/^total +0$/m, 'one that is right');
    cli_fails($as->(undef), 3, qr/connection requires a valid client certificate/, @stats, '-w');
    cli_fails($as->('impostor'), 3, qr/error: connection to server at "localhost"/, @stats, '-w');
    chmod(0644, "$directory/operations.key");
    cli_fails($as->('operations'), 3, qr/private key file ".*operations\.key" has group or world access/, @stats, '-w');
};

subtest 'serve' => sub {
    my $serve = start_serve(by_url("sslmode=verify-full&sslrootcert=$authority"));

    is(curl($serve, 'GET /readyz')->{status}, 200, 'ready');
    is($node->ask(q{SELECT string_agg(DISTINCT s.ssl::text, ' ') FROM pg_stat_ssl AS s JOIN pg_stat_activity AS a USING (pid) WHERE a.application_name = 'apapacho-jobs'}), 'true', 'over TLS');
    stop_serve($serve);

    my $deceived = start_serve(by_url("sslmode=verify-full&sslrootcert=$stranger"));
    $node->wait_until(sub { $deceived->errors =~ /trying again/ }, 'it has tried');
    is(curl($deceived, 'GET /readyz')->{status}, 503, 'not ready with another authority');
    my $said = stop_serve($deceived)->{err};
    like($said, qr/^apapacho-jobs: warning: could not connect to PostgreSQL, trying again in \d\.\d s: .*certificate verify failed$/m, 'says why');
    unlike($said, qr/s3cret/, 'and no secret');
};

$node->stop;
done_testing();
