# 028_http2.pl: the publisher over HTTP/2: few connections, the same order, nothing lost where the receiver goes away, refuses or breaks off.
# The receiver is Node's (test/tap/consumer/http2.mjs).
use strict;
use warnings;

use Apapacho;
use File::Basename qw(dirname);
use File::Spec ();
use IPC::Run ();
use Outbox;
use PostgreSQL::Test::Utils;
use Recorder;
use Test::More;

for my $program (qw(node openssl)) {
    plan(skip_all => "$program is not installed") unless grep { -x "$_/$program" } File::Spec->path;
}

my $recorder = Recorder->start;
my $directory = PostgreSQL::Test::Utils::tempdir();
my ($input, $output, $errors) = ('', '', '');
IPC::Run::run([qw(openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1), '-keyout', "$directory/key.pem", '-out',
    "$directory/cert.pem"], '<', \undef, '>', \$output, '2>', \$errors) or die "openssl failed: $errors\n";
($output, $errors) = ('', '');
my $receiver = IPC::Run::start(['node', dirname(__FILE__) . '/../consumer/http2.mjs', $directory], '<', \$input, '>', \$output, '2>', \$errors,
    IPC::Run::timeout(4 * $PostgreSQL::Test::Utils::timeout_default));
END { local $?; $receiver->kill_kill(grace => 2) if $receiver; }

my $node = Apapacho->create('main', tables => 'own', settings => {
    'apapacho_jobs.outbox_cron' => '0 0 1 1 *',
    'apapacho_jobs.outbox_wake_on_commit' => 'off',
    'apapacho_jobs.outbox_publisher_type' => 'webhook',
    'apapacho_jobs.outbox_webhook_url' => $recorder->url,
    'apapacho_jobs.outbox_retry_schedule' => '100 ms',
    'apapacho_jobs.outbox_max_retries' => 50,
    'apapacho_jobs.outbox_timeout' => '20 s',
    'apapacho_jobs.outbox_http2' => 'on',
    'apapacho_jobs.outbox_allowed_addresses' => '127.0.0.0/8' });

$node->wait_for_scheduler;
$node->wait_until(sub { -s "$directory/port" }, 'the receiver listens');
chomp(my $port = slurp_file("$directory/port"));

sub set_endpoint {
    $node->ask("SELECT apapacho_outbox_set_endpoint('h2', 'https://localhost:$port/hook', secret => 'h2 secret', concurrency => 50);
        UPDATE apapacho_jobs.outbox_endpoint SET ca_file = '$directory/cert.pem' WHERE name = 'h2'");
    return;
}

# What the receiver has had since the last time: { version, connection, id, aggregate, type } each.
my $taken = 0;

sub received {
    my @lines = -e "$directory/requests" ? split(/\n/, slurp_file("$directory/requests")) : ();
    my @new = @lines[$taken .. $#lines];
    $taken = @lines;
    return map { my %request; @request{qw(version connection id aggregate type)} = split(/\t/); \%request } @new;
}

# Publishes until nothing is pending; what the receiver had.
sub publish_all {
    $node->wait_until(sub {
        due_now($node);
        process($node);
        return $node->ask(q{SELECT count(*) = 0 FROM "OutboxEvent" WHERE "publishedAt" IS NULL}) eq 't';
    }, 'all are published');
    return received();
}

# Arrivals that came after a later one of their aggregate.
sub disorder {
    my (%last, @wrong);
    for my $request (@_) {
        push @wrong, "$request->{aggregate}/$request->{type}" if $request->{type} lt ($last{ $request->{aggregate} } // '');
        $last{ $request->{aggregate} } = $request->{type};
    }
    return @wrong;
}

sub distinct { my %seen; $seen{$_}++ for @_; return scalar(keys %seen); }

set_endpoint();

subtest 'many streams over few connections' => sub {
    my @ids = emit($node, map { my $n = $_; map { sprintf('A%d/1/N%03d', $_, $n) } 1 .. 30 } 1 .. 20);
    my @requests = publish_all();
    is(scalar(@requests), 600, 'each once');
    is(distinct(map { $_->{id} } @requests), 600, 'all of them');
    is(join(' ', sort map { $_->{version} } grep { $_->{version} ne '2.0' } @requests), '', 'over HTTP/2');
    cmp_ok(distinct(map { $_->{connection} } @requests), '<', 8, 'over few connections');
    is(distinct(map { $_->{aggregate} } @requests), 30, 'of all aggregates');
    is(join(' ', disorder(@requests)), '', 'in order');
    is($node->ask(q{SELECT sum(attempts) FROM apapacho_jobs.outbox_outcome WHERE endpoint = 'h2' AND outcome <> 'delivered'}), '0', 'no attempt failed');
};

subtest "receivers' whims" => sub {
    my @types = sort qw(Early Goaway Refused Broken Plain);
    my @ids = emit($node, map { my $n = $_; map { "W$n/1/$_" } @types } 1 .. 40);
    my @requests = publish_all();
    my %count;
    $count{ $_->{id} }++ for @requests;
    is(scalar(grep { $count{$_} } @ids), 200, 'none is lost');
    is(join(' ', disorder(@requests)), '', 'those of an aggregate come in order, again and again');
    my %repeated;
    $repeated{ $_->{type} }++ for grep { $count{ $_->{id} } > 1 } @requests;
    cmp_ok($repeated{Refused} // 0, '>=', 40, 'what was refused came again');
    cmp_ok($repeated{Broken} // 0, '>=', 40, 'so did what broke off');
    is($node->ask(q{SELECT count(*) FROM "OutboxEvent" WHERE "publishedAt" IS NULL OR "retryCount" >= 50}), '0', 'none has failed for good');
    is($node->ask('SELECT count(*) FROM apapacho_jobs.outbox_retry'), '0', 'nothing waits');
};

subtest 'off: HTTP/1.1' => sub {
    apply($node, 'apapacho_jobs.outbox_http2' => 'off');
    emit($node, map { "O/$_/Off" } 1 .. 20);
    is(join(' ', sort { $a cmp $b } map { $_->{version} } publish_all()), join(' ', ('1.1') x 20), 'nothing else is offered');
};

$node->stop;
$receiver->kill_kill(grace => 2);
undef $receiver;
done_testing();
