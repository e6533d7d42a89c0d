# apapacho-jobs listen: what a developer points the webhook at. It verifies what the server sends (v1, v1a, the older signature, rotated
# secrets, CloudEvents), refuses what is not right, answers as told (statuses in turn, resets, silence, delays), and forwards.
use strict;
use warnings;

use lib 'test/tap/lib';
use Apapacho;
use Cli;
use Digest::SHA qw(hmac_sha256_base64 hmac_sha256_hex);
use HTTP::Tiny;
use IO::Socket::INET;
use MIME::Base64 ();
use Outbox;
use PostgreSQL::Test::Utils qw(append_to_file slurp_file);
use Test::More;

my $node = Apapacho->create('main', tables => 'own', settings => { 'apapacho_jobs.outbox_wake_on_commit' => 'off',
    'apapacho_jobs.outbox_publisher_type' => 'webhook', 'apapacho_jobs.outbox_webhook_url' => 'http://127.0.0.1:1/', 'apapacho_jobs.outbox_retry_schedule' => '1ms' });
my $http = HTTP::Tiny->new(keep_alive => 0, timeout => $PostgreSQL::Test::Utils::timeout_default);
my $secret = 'whsec_' . 'MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw';
my $key = MIME::Base64::decode_base64('MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw');
my ($seed, $public) = ('whsk_nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=', 'whpk_11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo='); # RFC 8032, test 1

# A listener on a free port; its URL is $listener->{url}.
sub listen_with {
    my (@arguments) = @_;
    my $listener = start_cli({}, 'listen', '--port', 0, @arguments);

    $listener->{url} = $listener->wait_for_output(qr{^listening on (http://127\.0\.0\.1:\d+/)});
    return $listener;
}

# Ends it; what it has printed of deliveries, without the time of day.
sub end {
    my ($listener, $signal) = @_;
    $listener->signal($signal // 'TERM');
    my $result = $listener->finish;

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    is("$result->{code} $result->{err}", '0 ', 'ends well');
    return $result->{out} =~ s/^(✔|✘) \d\d:\d\d:\d\d/$1/mgr;
}

# A delivery made here, signed by the standard's own rule; headers may be changed.
sub post {
    my ($listener, $body, %headers) = @_;
    my $time = delete $headers{time} // time;
    my %signed = ('content-type' => 'application/json', 'webhook-id' => 'msg_1', 'webhook-timestamp' => $time,
        'webhook-signature' => 'v1,' . hmac_sha256_base64("msg_1.$time.$body", $key) . '=');

    return $http->request('POST', $listener->{url}, { content => $body, headers => { %signed, %headers } })->{status};
}

subtest 'what the server sends is verified and shown' => sub {
    my $listener = listen_with('--secret', $secret);

    apply($node, 'apapacho_jobs.outbox_webhook_url' => $listener->{url}, 'apapacho_jobs.outbox_webhook_secret' => $secret);
    my $id = $node->ask(q{SELECT apapacho_outbox_emit('Pedido', 'p-7', 'PedidoPagado', '{"monto": 19990, "nota": "Año\u001b[31m", "filas": [{"n": 1}, []]}')});
    is(process($node)->{processed}, 1, 'published');
    is(end($listener), <<"END", 'what it shows');
listening on $listener->{url}
✔ PedidoPagado  Pedido/p-7  evt $id  both signatures valid  answered 200
    {
      "nota": "Año\\u001b[31m",
      "filas": [
        {
          "n": 1
        },
        []
      ],
      "monto": 19990
    }
1 deliveries, 0 refused
END
};

subtest 'secrets: from a file, the environment, rotated, Ed25519; CloudEvents' => sub {
    my $file = PostgreSQL::Test::Utils::tempdir() . '/secret';
    append_to_file($file, "$secret\n");
    my %listeners = (
        file => ['--secret-file', $file], raw => ['--secret', 'tu_secret'], private => ['--secret', $seed], public => ['--public-key', $public]);
    my %server = (file => $secret, raw => 'tu_secret', private => $seed, public => $seed);
    my %verdict = (file => 'both signatures valid', raw => 'both signatures valid', private => 'standard signature valid', public => 'standard signature valid');

    for my $kind (sort keys %listeners) {
        my $listener = listen_with('--brief', @{ $listeners{$kind} });
        apply($node, 'apapacho_jobs.outbox_webhook_url' => $listener->{url}, 'apapacho_jobs.outbox_webhook_secret' => $server{$kind});
        my ($id) = emit($node, 'Order/7/OrderPaid');
        is(process($node)->{processed}, 1, "$kind: published");
        like(end($listener), qr/^✔ OrderPaid  Order\/7  evt $id  $verdict{$kind}  answered 200$/m, "$kind: verified");
    }

    my $listener = start_cli({ environment => { OUTBOX_WEBHOOK_SECRET => $secret } }, 'listen', '--port', 0, '--brief');
    my $url = $listener->wait_for_output(qr{^listening on (http://\S+/)\n});
    apply($node, 'apapacho_jobs.outbox_webhook_url' => $url, 'apapacho_jobs.outbox_webhook_secret' => 'whsec_bmV3', 'apapacho_jobs.outbox_webhook_secret_previous' => $secret);
    emit($node, 'Order/8/OrderPaid');
    process($node);
    like(end($listener), qr/^✘ OrderPaid  Order\/8  evt \S+  legacy signature INVALID  answered 401$/m, 'rotated: the older form has the new secret only');
    $listener = listen_with('--brief', '--secret', 'whsec_bmV3');
    apply($node, 'apapacho_jobs.outbox_webhook_url' => $listener->{url}, 'apapacho_jobs.outbox_cloudevents_source' => 'https://apapacho.example');
    $node->ask('SELECT apapacho_outbox_retry_failed()'); # on a slow machine all of its attempts have been made
    is(process($node)->{processed}, 1, 'again, as a CloudEvent');
    like(end($listener), qr/^✔ OrderPaid  Order Order\/8  evt \S+  both signatures valid  answered 200$/m, 'verified');
    apply($node, 'apapacho_jobs.outbox_cloudevents_source' => '', 'apapacho_jobs.outbox_webhook_secret_previous' => '', 'apapacho_jobs.outbox_webhook_secret' => $secret);
};

subtest 'what is not right is refused' => sub {
    my $log = PostgreSQL::Test::Utils::tempdir() . '/log';
    my $listener = listen_with('--brief', '--secret', $secret, '--tolerance', 100, '--log', $log);
    my $event = '{"id":"e1","type":"T","aggregateType":"A","aggregateId":"1","payload":{"a":1},"occurredAt":"2026-01-01T00:00:00.000Z"}';
    my $legacy = hmac_sha256_hex('{"a":1}', $secret);

    is(post($listener, $event), 200, 'the standard signature alone');
    is(post($listener, $event, 'x-webhook-signature' => $legacy), 200, 'both');
    is(post($listener, $event, 'webhook-signature' => "v1,AAAA v1," . 'B' x 43 . '='), 401, 'wrong ones');
    is(post($listener, $event, 'x-webhook-signature' => $legacy =~ tr/0-9a-f/1-9a-f0/r), 401, 'the older one wrong');
    is(post($listener, $event, 'webhook-id' => 'msg_2'), 401, 'made for another id');
    is(post($listener, $event, time => time - 101), 401, 'too old');
    is(post($listener, $event, time => time + 130), 401, 'from the future');
    is(post($listener, $event, 'webhook-timestamp' => 'now'), 401, 'no time');
    my %unsigned = ('content-type' => 'application/json');
    is($http->request('POST', $listener->{url}, { content => $event, headers => \%unsigned })->{status}, 401, 'none');
    is($http->request('POST', $listener->{url}, { content => $event, headers => { %unsigned, 'x-webhook-signature' => $legacy } })->{status}, 200,
        'the older one alone, as the backend sent it');
    is(post($listener, 'anything'), 200, 'another body, signed');
    is(post($listener, "\e[31m\xff\xc2\x9b{\"\0"), 200, 'a hostile one');
    my $get = $http->get($listener->{url});
    is("$get->{status} $get->{headers}{allow}", '405 POST', 'GET');
    my $out = end($listener, 'INT');
    unlike($out, qr/\e|\xc2\x9b/, 'nothing steers the terminal');
    is($out =~ s/^listening.*\n//r, <<'END', 'all is shown');
✔ T  A/1  evt e1  standard signature valid  answered 200
✔ T  A/1  evt e1  both signatures valid  answered 200
✘ T  A/1  evt e1  standard signature INVALID  answered 401
✘ T  A/1  evt e1  legacy signature INVALID  answered 401
✘ T  A/1  evt e1  standard signature INVALID  answered 401
✘ T  A/1  evt e1  standard signature INVALID (timestamp)  answered 401
✘ T  A/1  evt e1  standard signature INVALID (timestamp)  answered 401
✘ T  A/1  evt e1  standard signature INVALID (timestamp)  answered 401
✘ T  A/1  evt e1  NOT SIGNED  answered 401
✔ T  A/1  evt e1  legacy signature valid  answered 200
✔ 8 bytes of application/json  evt msg_1  standard signature valid  answered 200
✔ 11 bytes of application/json  evt msg_1  standard signature valid  answered 200
12 deliveries, 7 refused
END
    is(join(' ', map { (split(/\t/, $_))[4, 5, 6] } split(/\n/, slurp_file($log)))  =~ s/\n//gr,
        '1 0 200 1 1 200 0 0 401 1 0 401 0 0 401 0 0 401 0 0 401 0 0 401 0 0 401 0 1 200 1 0 200 1 0 200', 'the log for programs');
};

subtest 'without a secret; as JSON; quiet' => sub {
    my $listener = start_cli({}, 'listen', '--port', 0, '--brief');
    $listener->{url} = $listener->wait_for_output(qr{^listening on (http://\S+/), without a secret: signatures are not checked\n});
    is($http->request('POST', $listener->{url}, { content => '{}', headers => { 'content-type' => 'text/x' } })->{status}, 200, 'anything is taken');
    is(qx(head -c 68000000 /dev/zero | curl -s --noproxy '*' -o /dev/null -w '%{http_code}' -H 'Content-Type: text/y' --data-binary \@- '$listener->{url}'), '413', 'but not any size');
    my $shown = end($listener);
    like($shown, qr/^✔ 2 bytes of text\/x  signatures not checked  answered 200$/m, 'and shown as such');
    like($shown, qr/^✘ too many bytes of text\/y  TOO LARGE  answered 413$/m, 'as what was too large');

    my $port_file = PostgreSQL::Test::Utils::tempdir() . '/port';
    $listener = start_cli({}, 'listen', '--port', 0, '--json', '--secret', $secret, '--port-file', $port_file);
    $node->wait_until(sub { -s $port_file }, 'it listens');
    $listener->{url} = 'http://127.0.0.1:' . (slurp_file($port_file) =~ s/\n//r) . '/';
    is(post($listener, "{\"a\": \"\xff\n\"}", 'x-event-type' => "T\"x"), 200, 'a delivery');
    $listener->signal('TERM');
    my @lines = split(/\n/, $listener->finish->{out});
    is(scalar(@lines), 1, 'one line');
    my $line = JSON::PP->new->utf8->decode($lines[0]);
    is_deeply([@{$line}{qw(id type aggregateType verdict accepted answered)}], ['msg_1', 'T"x', undef, 'standard signature valid', JSON::PP::true, '200'], 'its members');
    is($line->{body}, "{\"a\": \"\x{fffd}\n\"}", 'the body, broken UTF-8 replaced');

    unlink($port_file);
    $listener = start_cli({}, 'listen', '--port', 0, '--quiet', '--port-file', $port_file);
    $node->wait_until(sub { -s $port_file }, 'it listens');
    $http->request('POST', 'http://127.0.0.1:' . (slurp_file($port_file) =~ s/\n//r) . '/', { content => 'x' });
    is(end($listener), "1 deliveries, 0 refused\n", 'quiet');
};

subtest 'answers in turn: the server retries until it is well' => sub {
    my $listener = listen_with('--brief', '--secret', $secret, '--answer', '503*2,reset,429,204', '--retry-after', '0');
    apply($node, 'apapacho_jobs.outbox_webhook_url' => $listener->{url});
    my ($id) = emit($node, 'Order/9/OrderPaid');
    my $rounds = 0;

    until ((my $answer = process($node))->{processed} || $rounds++ > 20) { due_now($node) }
    is(event($node, $id, '"publishedAt" IS NOT NULL'), 't', 'published in the end');
    is(join(' ', end($listener) =~ /answered (\S+)$/mg), '503 503 reset 429 204', 'each answer once');
    like($node->ask(q{SELECT string_agg(coalesce(http_status::text, error_class), ' ' ORDER BY at) FROM apapacho_jobs.outbox_attempt}),
        qr/503 503 (?:connect |protocol )?429$/, 'as the server has seen it');
};

subtest 'silence and delays: the server gives up; the program ends at once' => sub {
    my $listener = listen_with('--brief', '--answer', 'hang');
    apply($node, 'apapacho_jobs.outbox_webhook_url' => $listener->{url}, 'apapacho_jobs.outbox_webhook_secret' => '', 'apapacho_jobs.outbox_timeout' => '300ms');
    my ($id) = emit($node, 'Order/10/OrderPaid');
    cmp_ok(process($node)->{failed}, '>=', 1, 'silence');
    like(event($node, $id, '"lastError"'), qr/time/i, 'is a timeout');
    my $socket = IO::Socket::INET->new(PeerAddr => $listener->{url} =~ s{^http://|/$}{}gr) or die "connect: $!\n";
    print $socket "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx";
    $listener->wait_for_output(qr/x-www|no type/);
    like(end($listener), qr/answered nothing$/m, 'it ends, though somebody waits');
    is(sysread($socket, my $answer, 1), 0, 'who gets nothing');

    $listener = listen_with('--brief', '--delay-ms', 600000);
    $socket = IO::Socket::INET->new(PeerAddr => $listener->{url} =~ s{^http://|/$}{}gr) or die "connect: $!\n";
    print $socket "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx";
    $socket->flush;
    my $delayed = listen_with('--brief', '--delay-ms', 300);
    is($http->post($delayed->{url})->{status}, 200, 'a delay is waited for');
    end($delayed);
    end($listener);
    apply($node, 'apapacho_jobs.outbox_timeout' => '15s');
};

subtest 'forwarding: the application answers' => sub {
    my $application = listen_with('--brief', '--secret', $secret, '--answer', '202,500,200');
    my $listener = listen_with('--brief', '--secret', $secret, '--forward', "$application->{url}webhooks?x=1");
    my $event = '{"id":"e1","type":"T","aggregateType":"A","aggregateId":"1","payload":{"a":1},"occurredAt":"2026-01-01T00:00:00.000Z"}';

    is(post($listener, $event, 'x-webhook-signature' => hmac_sha256_hex('{"a":1}', $secret)), 202, 'its status');
    is(post($listener, $event), 500, 'also a bad one');
    is(post($listener, $event, 'webhook-id' => 'other'), 401, 'what is not right is not handed on');
    like(end($application), qr/both signatures valid  answered 202\n✔ T  A\/1  evt e1  standard signature valid  answered 500\n2 deliveries, 0 refused/,
        'it gets body and headers as they were');
    is(post($listener, $event), 502, 'an application that is not there');
    $listener->signal('TERM');
    my $result = $listener->finish;
    like($result->{err}, qr{^apapacho-jobs: warning: could not forward to http://127.0.0.1:\d+/webhooks\?x=1: .*\bconnect\b}, 'is told');
};

subtest 'bad input' => sub {
    my $taken = listen_with('--brief');
    my ($port) = $taken->{url} =~ /:(\d+)/;

    cli_fails({}, 1, qr/error: could not listen on 127.0.0.1 port $port: Address already in use/, 'listen', '--port', $port);
    cli_fails({}, 1, qr/error: could not listen on "nowhere.invalid": /, 'listen', '--host', 'nowhere.invalid');
    cli_fails({}, 2, qr/--port must be a number from 0 to 65535/, 'listen', '--port', '70000');
    cli_fails({}, 2, qr/--answer must be status codes from 200 to 599, reset or hang, .* not "\Q$_\E"/, 'listen', '--answer', $_)
        for '', '99', '600', '200,', 'reset*0', '200*', 'hangs', '200;500';
    cli_fails({}, 2, qr/with --forward, the URL gives the answers/, 'listen', '--forward', 'http://127.0.0.1:1/', '--answer', '200');
    cli_fails({}, 2, qr/--forward: the URL must begin with http/, 'listen', '--forward', 'ftp://127.0.0.1/');
    cli_fails({}, 2, qr/give one of --secret-file, --secret and --public-key/, 'listen', '--secret', 'a', '--public-key', $public);
    my $bad = cli_fails({}, 2, qr/base64/, 'listen', '--secret', 'whsec_s3cret!');
    unlike($bad->{err}, qr/s3cret/, 'the secret is not told');
    cli_fails({}, 2, qr/error: /, 'listen', '--public-key', 'whpk_short');
    cli_fails({}, 2, qr{could not read the secret's file "/nowhere"}, 'listen', '--secret-file', '/nowhere');
    cli_fails({}, 1, qr{could not open "/nowhere/log"}, 'listen', '--port', 0, '--log', '/nowhere/log');
    my $unwritable = cli({}, 'listen', '--port', 0, '--port-file', '/nowhere/port');
    is($unwritable->{code}, 1, 'a port file that cannot be written');
    end($taken);
};

$node->stop;
done_testing();
