# apapacho-jobs serve, with AddressSanitizer and UBSan, and HTTP that means it no good: what is no request, too large, too slow, too many.
# Whatever came, it goes on answering.
use strict;
use warnings;
use utf8;

use lib 'test/tap/lib';
use Apapacho;
use IPC::Run ();
use PostgreSQL::Test::Utils ();
use Serve;
use Test::More;
use Time::HiRes qw(time usleep);

$SIG{PIPE} = 'IGNORE';
my $node = Apapacho->create('main', tables => 'own');
my $serve = start_serve({ node => $node });
my @key = ('X-Admin-Key' => $serve->{key});
my @json = ('Content-Type' => 'application/json');
my $cleanup = 'POST /api/admin/outbox/cleanup';

sub still_answers {
    my ($name) = @_;
    my $answer = curl($serve, 'GET /api/jobs/status', key => undef);

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    is($answer->{status}, 200, "$name: it answers") or diag(explain($answer));
    return;
}

# Waits for the end of something, and says what it was.
sub until_true {
    my ($code, $name) = @_;
    my $deadline = time() + $PostgreSQL::Test::Utils::timeout_default;
    my $result;

    until ($result = $code->()) {
        die "timed out waiting for: $name\n" if time() > $deadline;
        usleep(50_000);
    }
    return $result;
}

subtest 'what is no request' => sub {
    my %requests = (
        'nothing' => '',
        'bytes' => join('', map { chr($_ * 7 % 256) } 1 .. 65536),
        'zeros' => "\0" x 100_000,
        'a line of its own' => "hello\r\n\r\n",
        'TLS' => "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" . 'x' x 507,
        'HTTP/2' => "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        'another version' => "GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
        'no version' => "GET /healthz\r\n\r\n",
        'no host' => "GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n",
        'a long method' => 'G' x 100_000 . " / HTTP/1.1\r\n\r\n",
        'a long path' => 'GET /' . 'a' x 100_000 . " HTTP/1.1\r\nHost: localhost\r\n\r\n",
        'raw UTF-8' => request_of("GET /a\xc3\xb1o"),
        'an absolute URL' => request_of('GET http://localhost/healthz'),
        'a star' => request_of('OPTIONS *'),
        'CONNECT' => request_of('CONNECT localhost:22'),
        'a header without an end' => "GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " . 'a' x 100_000,
        'a large header' => request_of('GET /healthz', X => 'a' x 100_000),
        'many headers' => "GET /healthz HTTP/1.1\r\nHost: localhost\r\n" . join('', map { "X-$_: $_\r\n" } 1 .. 5000) . "\r\n",
        'a header without a colon' => "GET /healthz HTTP/1.1\r\nHost: localhost\r\nX\r\nConnection: close\r\n\r\n",
        'a NUL in a header' => request_of('GET /healthz', X => "a\0b"),
        'a folded header' => "GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: a\r\n b\r\nConnection: close\r\n\r\n");
    for my $name (sort keys %requests) {
        my $answer = answer_to($serve, $requests{$name}, 1);
        cmp_ok($answer->{status}, '<', 506, "$name: $answer->{status}");
        unlike($answer->{body}, qr/\Q$serve->{key}\E/, 'and no secret');
    }
    is(answer_to($serve, $requests{$_})->{status}, 400, "$_: refused") for 'raw UTF-8', 'an absolute URL', 'a star', 'CONNECT';
    still_answers('what is no request');
};

subtest 'bodies' => sub {
    my $head = sub { request_of($cleanup, @key, @json, @_) };
    my $chunk = sprintf("%x\r\n%s\r\n", 50_000, ' ' x 50_000);
    my %requests = (
        'large' => [$head->('Content-Length' => 16385) . ' ' x 16385, 413],
        'said to be large' => [$head->('Content-Length' => '99999999999'), 413],
        'the largest' => [$head->('Content-Length' => 16384) . ' ' x 16384, 200],
        'large, in chunks' => [$head->('Transfer-Encoding' => 'chunked') . $chunk . "0\r\n\r\n", 413],
        'without an end' => [$head->('Transfer-Encoding' => 'chunked') . $chunk x 100, 0],
        'a wrong chunk' => [$head->('Transfer-Encoding' => 'chunked') . "zz\r\n", undef],
        'a negative length' => [$head->('Content-Length' => '-1'), undef],
        'a length of 2^70' => [$head->('Content-Length' => 2 ** 70), undef],
        'two lengths' => ["$cleanup HTTP/1.1\r\nHost: localhost\r\nX-Admin-Key: $serve->{key}\r\nContent-Length: 2\r\nContent-Length: 99999\r\n"
                . "Connection: close\r\n\r\n{}", undef],
        'without a key' => [request_of($cleanup, @json, 'Content-Length' => 16384) . ' ' x 100, 401]);
    for my $name (sort keys %requests) {
        my ($bytes, $status) = @{ $requests{$name} };
        my $answer = answer_to($serve, $bytes, !defined $status);
        if (defined $status) { is($answer->{status}, $status, "$name: $status") or diag($answer->{body}); }
        else { ok($answer->{status} == 0 || $answer->{status} >= 400, "$name: refused") or diag(explain($answer)); }
    }
    # A length beside chunks is how requests are smuggled past a proxy: what follows must not be taken for a request of its own.
    my $smuggled = answer_to($serve, "$cleanup HTTP/1.1\r\nHost: localhost\r\nX-Admin-Key: $serve->{key}\r\nContent-Type: application/json\r\n"
            . "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    is($smuggled->{status}, 400, 'a length beside chunks');
    unlike($smuggled->{body}, qr/HTTP/, 'and nothing after it');
    like(answer_to($serve, request_of($cleanup, @key, 'Transfer-Encoding' => 'gzip, chunked') . "0\r\n\r\n")->{status}, qr/^(400|501)$/, 'another coding'); # 501: libmicrohttpd 1.0
    still_answers('bodies');
};

# Small changes of good requests; the seed is told, so that a failure can be repeated.
subtest 'changed requests' => sub {
    my $seed = $ENV{SERVE_SEED} // time() ^ $$;
    my @good = (request_of("$cleanup?days=30", @key), request_of($cleanup, @key, @json, 'Content-Length' => 11) . '{"days": 9}',
        request_of('GET /api/admin/outbox/events?status=failed&limit=3', @key), request_of('POST /api/admin/jobs/run/a%C3%B1o?wait=false', @key));
    my %status;

    note("SERVE_SEED=" . int($seed));
    srand(int($seed));
    for my $round (1 .. 400) {
        my $bytes = $good[rand @good];
        for (0 .. rand 4) {
            my $place = int(rand length $bytes);
            my $how = int(rand 4);
            if ($how == 0) { substr($bytes, $place, 1) = chr(int(rand 256)); }
            elsif ($how == 1) { substr($bytes, $place, 1 + rand 10) = ''; }
            elsif ($how == 2) { substr($bytes, $place, 0) = substr($bytes, int(rand length $bytes), 20); }
            else { substr($bytes, $place, 0) = ('%00', '%', "\r\n", '"', '{', '&', '/', "\xff", '0' x 30)[int(rand 9)]; }
        }
        my $socket = connect_to($serve) or die "connect: $!";
        syswrite($socket, $bytes);
        shutdown($socket, 1) if rand() < 0.5;
        my $got = '';
        if (rand() < 0.8) {
            my $ready = '';
            vec($ready, fileno($socket), 1) = 1;
            sysread($socket, $got, 4096) if select($ready, undef, undef, 0.02);
        }
        $status{ $got =~ m{^HTTP/1.1 (\d+)} ? $1 : 'none' }++;
        close($socket);
    }
    ok($status{400} || $status{200}, join(', ', map { "$_: $status{$_}" } sort keys %status));
    still_answers('changed requests');
};
is(curl($serve, 'GET /healthz')->{status}, 200, 'alive');
stop_serve($serve);

# Each of these sends something again and again: a limit of silence would never end it.
subtest 'too slow' => sub {
    my $slow = start_serve({ node => $node }, '--timeout', '1');
    my $before = samples($slow);
    my %senders = (
        'a request line' => ['GET /healthz', 'x'],
        'headers' => [substr(request_of('GET /healthz'), 0, -2), "X: y\r\n"],
        'a body' => [request_of($cleanup, @key, @json, 'Content-Length' => 10_000), ' '],
        'a chunk of 2^64' => [request_of($cleanup, @key, @json, 'Transfer-Encoding' => 'chunked') . "ffffffffffffffff\r\n", ' '],
        'chunks' => [request_of($cleanup, @key, @json, 'Transfer-Encoding' => 'chunked'), "1\r\n \r\n"],
        'requests whose answers are not read' => [request_of('GET /openapi.json') =~ s/Connection: close\r\n//r x 2000, '']);
    for my $name (sort keys %senders) {
        my $socket = connect_to($slow);
        my ($first, $again) = @{ $senders{$name} };
        $socket->blocking(0);
        my $rest = $first;
        until_true(sub {
            my $sent = syswrite($socket, $rest);
            return 1 if !defined $sent && !$!{EAGAIN};
            substr($rest, 0, $sent // 0) = '';
            $rest = $again eq '' ? $rest : $again if $rest eq '';
            return 0;
        }, "$name: the connection is ended");
        pass("$name: the connection is ended");
        is(curl($slow, 'GET /healthz')->{status}, 200, "$name: it answers");
    }
    my $silent = connect_to($slow);
    ok(until_true(sub { my $ready = ''; vec($ready, fileno($silent), 1) = 1; return select($ready, undef, undef, 0) }, 'the silent one'), 'silence');
    is(sysread($silent, my $nothing, 10), 0, 'is ended too');
    cmp_ok(sample($slow, 'serve_clients_ended_total'), '>=', 5, 'they are counted');
    stop_serve($slow);
};

# Some loops of libmicrohttpd take one of these numbers for a sign that there is more to come, and wait for that.
subtest 'many at one moment' => sub {
    my $crowded = start_serve({ node => $node });
    for my $count (64, 127, 128, 129, 256) {
        my @sockets = map { connect_to($crowded) } 1 .. $count;
        my @left = @sockets;

        # all are known to it, and idle, before it stands still
        until_true(sub { sample($crowded, 'serve_clients') > $count }, "$count are connected");
        $crowded->signal('STOP');
        syswrite($_, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n") for @sockets;
        $crowded->signal('CONT');
        until_true(sub {
            my $ready = '';
            vec($ready, fileno($_), 1) = 1 for @left;
            select($ready, undef, undef, 0.1);
            @left = grep { !vec($ready, fileno($_), 1) } @left;
            return !@left;
        }, "$count answers");
        my @answers = map { sysread($_, my $text, 4096); $text } @sockets;
        is(scalar(grep { m{^HTTP/1.1 200 } } @answers), $count, "$count requests at one moment are answered");
    }
    stop_serve($crowded);
};

# Ten thousand, or as many as the system lets us have: half of them silent, half in the middle of a request.
subtest 'too many' => sub {
    chomp(my $hard = `bash -c 'ulimit -Hn'`);
    my $count = $hard eq 'unlimited' || $hard > 10_200 ? 10_000 : $hard - 200;
    my $many = start_serve({ node => $node }, '--timeout', '600'); # room is made by ending the oldest, not by time
    my ($input, $output, $error) = ('', '', '');
    my $flood = IPC::Run::start(['bash', '-c', 'ulimit -n "$(ulimit -Hn)"; exec "$@"', 'bash', $^X, '-MIO::Socket::INET', '-e', <<'CODE', $many->{port}, $count],
        my ($port, $count) = @ARGV;
        my @sockets;
        $SIG{PIPE} = 'IGNORE';
        for my $i (1 .. $count) {
            my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port, Proto => 'tcp') or die "after $i: $!\n";
            syswrite($socket, "POST /api/admin/jobs/run/payout HTTP/1.1\r\nHost: localhost\r\nX-Slow: ") if $i % 2;
            push @sockets, $socket;
        }
        $| = 1;
        print scalar(@sockets), " open\n";
        <STDIN>;
CODE
        '<', \$input, '>', \$output, '2>', \$error);
    my ($during, $answered) = (0, 0);
    until_true(sub {
        $during++;
        $answered++ if curl($many, 'GET /healthz')->{status} == 200;
        $flood->pump_nb;
        die "the flood broke off: $error\n" if $error ne '';
        return $output =~ /open/;
    }, 'all are connected');
    is("$answered of $during", "$during of $during", 'it answers while they come');
    is($output, "$count open\n", "$count connections");
    is(curl($many, 'GET /api/jobs/status')->{status}, 200, 'it answers while they are there');
    my $metrics = samples($many);
    cmp_ok($metrics->{apapacho_jobs_serve_clients}, '<=', 4096, 'it keeps no more than it may');
    cmp_ok($metrics->{apapacho_jobs_serve_clients_ended_total}, '>=', $count - 4096, 'the oldest made room');
    $flood->kill_kill(grace => 5);
    until_true(sub { sample($many, 'serve_clients') < 10 }, 'they are gone');
    is(curl($many, 'GET /api/jobs/status')->{status}, 200, 'it answers when they are gone');
    stop_serve($many);
};

$node->stop;
done_testing();
