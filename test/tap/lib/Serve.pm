# Serve.pm: `apapacho-jobs serve` in TAP tests, built with AddressSanitizer and UBSan, and requests to it with curl or byte by byte.
#
# Functions in the test's own process. The program ends with the test; stop_serve looks that it ended well and that the sanitizers had
# nothing to say.
package Serve;

use strict;
use warnings;

use Exporter qw(import);
use Carp;
use Cli;
use Fcntl qw(:flock);
use IO::Socket::INET ();
use IPC::Run ();
use JSON::PP ();
use PostgreSQL::Test::Utils ();
use Test::More;
use Time::HiRes qw(time usleep);

our @EXPORT = qw(sanitized_program start_serve stop_serve curl request_of answer_to connect_to sample samples);
our $KEY = 'una-clave-de-prueba-0123456789';

# Builds the program if need be; another test may be doing so at the same time.
sub sanitized_program {
    my $build = $ENV{APAPACHO_BUILD} or croak 'APAPACHO_BUILD is not set';

    open(my $lock, '>', "$build/program.lock") or croak "program.lock: $!";
    flock($lock, LOCK_EX) or croak "flock: $!";
    system("make -s -j 2 -f test/programs.mk program >'$build/program.log' 2>&1 </dev/null") == 0
        or croak "could not build the program:\n" . PostgreSQL::Test::Utils::slurp_file("$build/program.log");
    close($lock);
    return "$build/apapacho-jobs";
}

# Starts it and waits until it listens. Options: those of Cli's, key (undef: no ADMIN_KEY), plain (1: without sanitizers). On what it
# returns, beside what Cli has: {port}, {key}.
sub start_serve {
    my ($options, @arguments) = @_;
    my $port_file = PostgreSQL::Test::Utils::tempdir_short() . '/port';
    my $key = exists $options->{key} ? $options->{key} : $KEY;
    my %environment = (ASAN_OPTIONS => 'exitcode=99', ADMIN_KEY => $key, PORT => undef, %{ $options->{environment} // {} });
    my $serve = start_cli({ %{$options}, environment => \%environment, program => [$options->{plain} ? 'apapacho-jobs' : sanitized_program()] },
        'serve', '--listen-port', '0', '--port-file', $port_file, @arguments);
    my $deadline = time() + $PostgreSQL::Test::Utils::timeout_default;

    until (-s $port_file) {
        my $said = $serve->output . $serve->errors;
        croak "serve does not listen; it said: $said" if time() > $deadline || !$serve->{run}->pumpable;
        usleep(20_000);
    }
    chomp($serve->{port} = PostgreSQL::Test::Utils::slurp_file($port_file));
    $serve->{key} = $key;
    return $serve;
}

# SIGTERM, and its end; a test.
sub stop_serve {
    my ($serve) = @_;

    $serve->signal('TERM') if $serve->{run};
    my $result = $serve->finish;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    is($result->{code}, 0, 'serve ends well') or diag("$result->{out}$result->{err}");
    unlike($result->{err}, qr/Sanitizer|runtime error/, 'sanitizers have nothing to say');
    return $result;
}

# A request with curl: curl($serve, 'POST /path', @options) with the key, unless an option says key => undef or another one. Options:
# key, body, type (application/json), arguments (a list for curl). Returns {status, headers, body, json (undef: it is none)}.
sub curl {
    my ($serve, $what, %options) = @_;
    my ($method, $path) = split(/ /, $what, 2);
    my $key = exists $options{key} ? $options{key} : $serve->{key};
    my @command = ('curl', '-sS', '-g', '--path-as-is', '--noproxy', '*', '-i', '-m', $PostgreSQL::Test::Utils::timeout_default);
    my ($out, $error) = ('', '');

    push @command, $method eq 'HEAD' ? '-I' : ('-X', $method);
    push @command, '-H', "X-Admin-Key: $key" if defined $key;
    push @command, '-H', 'Content-Type: ' . ($options{type} // 'application/json'), '--data-binary', $options{body} if defined $options{body};
    push @command, @{ $options{arguments} // [] }, "http://127.0.0.1:$serve->{port}$path";
    IPC::Run::run(\@command, '<', \undef, '>', \$out, '2>', \$error) or return { status => 0, headers => '', body => '', error => $error };
    return _read_answer($out);
}

sub _read_answer {
    my ($text) = @_;

    $text =~ s{^HTTP/1\.[01] 100 .*?\r\n\r\n}{}s;
    my ($status, $headers, $body) = $text =~ m{^HTTP/1\.[01] (\d+)[^\r\n]*\r\n(.*?)\r\n\r\n(.*)\z}s or return { status => 0, headers => '', body => $text };
    return { status => $status, headers => "$headers\r\n", body => $body, json => scalar(eval { JSON::PP->new->utf8->allow_nonref->decode($body) }) };
}

sub connect_to {
    my ($serve) = @_;
    return IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $serve->{port}, Proto => 'tcp', Timeout => 60);
}

# The bytes of a request.
sub request_of {
    my ($line, %headers) = @_;
    return join("\r\n", "$line HTTP/1.1", 'Host: localhost', (map { "$_: $headers{$_}" } sort keys %headers), 'Connection: close', '', '');
}

# Sends these bytes and reads until the end: the answer as curl's; status 0 when none came. Dies when it takes too long. With `complete`
# it says that nothing more will come, which ends a wait for it (and one for a run).
sub answer_to {
    my ($serve, $bytes, $complete) = @_;
    my $socket = connect_to($serve) or croak "could not connect: $!";
    my $text = '';

    local $SIG{PIPE} = 'IGNORE';
    local $SIG{ALRM} = sub { croak 'no answer' };
    alarm($PostgreSQL::Test::Utils::timeout_default);
    for (my $sent = 0; $sent < length $bytes;) {
        $sent += syswrite($socket, $bytes, 65536, $sent) // last;
    }
    shutdown($socket, 1) if $complete;
    while (sysread($socket, my $piece, 65536)) { $text .= $piece; }
    alarm(0);
    return _read_answer($text);
}

# What /metrics says: {name{labels} => value}, as they stand.
sub samples {
    my ($serve) = @_;
    my $answer = curl($serve, 'GET /metrics', key => undef);

    croak "metrics: $answer->{status} $answer->{body}" unless $answer->{status} == 200;
    return { map { /^([^#]\S*(?:\{.*\})?) (\S+)$/ ? ($1 => $2) : () } split(/\n/, $answer->{body}) };
}

# One of them, without the prefix: sample($serve, 'outbox_pending_events').
sub sample {
    my ($serve, $name) = @_;
    return samples($serve)->{"apapacho_jobs_$name"};
}

1;
