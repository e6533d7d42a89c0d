# 019_consumer_library.pl: what we deliver is verified by the libraries that receivers use, npm's standardwebhooks and svix.
#
# Skipped as a whole where there is no Node, no npm, or no registry. CONSUMER_SEED is the seed of the random payloads (by the clock),
# CONSUMER_BODIES their number (160).
use strict;
use warnings;

use Apapacho;
use Consumer;
use List::Util qw(max min);
use MIME::Base64 qw(encode_base64);
use Outbox;
use PostgreSQL::Test::Utils;
use RandomJson;
use Recorder;
use Test::More;

my @libraries = qw(standardwebhooks svix);    # this svix has a standardwebhooks of its own, 1.0.0
my ($consumer, $reason) = Consumer->install('standardwebhooks@1.1.1', 'svix@1.99.1');
plan(skip_all => $reason) unless $consumer;

my $seed = $ENV{CONSUMER_SEED} // int(time());
my $bodies = $ENV{CONSUMER_BODIES} // 160;
diag("CONSUMER_SEED=$seed CONSUMER_BODIES=$bodies");

my ($first, $second, $another, $binary) = map { 'whsec_' . encode_base64($_ x 4, '') } qw(first... second.. another.),
    "\x00\xff\x80\x0a\x0d\xfe?>";

my $recorder = Recorder->start;
my $node = Apapacho->create('main', tables => 'own', settings => {
    'apapacho_jobs.outbox_publisher_type' => 'webhook',
    'apapacho_jobs.outbox_wake_on_commit' => 'off',
    'apapacho_jobs.outbox_webhook_url' => $recorder->url });

# The one request that an event brings with these settings.
sub deliver {
    my (%settings) = @_;
    apply($node, map { ("apapacho_jobs.outbox_$_" => $settings{$_}) } keys %settings);
    $node->ask(q{SELECT apapacho_outbox_emit('Pedido', 'p-1', 'PagoRecibido', '{"año": "ñ → 😀", "monto": 100.50}')});
    is(process($node)->{processed}, 1, 'delivered');
    my @requests = $recorder->take;
    is(scalar(@requests), 1, 'one request');
    return $requests[0];
}

# A copy of a request with another body or other headers.
sub altered {
    my ($request, %changes) = @_;
    my $body = delete $changes{body} // $request->{body};
    return { body => $body, headers => { %{ $request->{headers} }, %changes } };
}

# What must not be verified although the request is: name => [question, what is said of it].
sub forgeries {
    my ($request, $secret) = @_;
    my ($id, $timestamp) = @{ $request->{headers} }{qw(webhook-id webhook-timestamp)};
    my $body = $request->{body};
    my $position = int(rand length $body);
    my $no_match = qr/^WebhookVerificationError: No matching signature found$/;
    my $too_old = qr/^WebhookVerificationError: Message timestamp too old$/;

    substr($body, $position, 1) ^= "\x01";
    return (
        "its body changed at $position" => [{ request => altered($request, body => $body), secret => $secret }, $no_match],
        'a body that is longer' => [{ request => altered($request, body => "$request->{body} "), secret => $secret }, $no_match],
        'its timestamp changed' => [{ request => altered($request, 'webhook-timestamp' => $timestamp + 1), secret => $secret }, $no_match],
        'an old timestamp' => [{ request => altered($request, 'webhook-timestamp' => $timestamp - 3600), secret => $secret }, $too_old],
        'an hour later' => [{ request => $request, secret => $secret, later => 3600 }, $too_old],
        'another id' => [{ request => altered($request, 'webhook-id' => "${id}0"), secret => $secret }, $no_match],
        'another secret' => [{ request => $request, secret => $another }, $no_match]);
}

# Both libraries verify a request with each of these secrets, and none of its forgeries.
sub check_request {
    my ($request, @secrets) = @_;

    for my $library (@libraries) {
        my @answers = $consumer->verify(map { { request => $request, library => $library, %{$_} } } @secrets);
        is($answers[$_]{error}, undef, "$library verifies it with the secret $_") for 0 .. $#secrets;
        my %forgeries = forgeries($request, $secrets[0]{secret});
        my @names = sort keys %forgeries;
        @answers = $consumer->verify(map { { library => $library, options => $secrets[0]{options}, %{ $forgeries{$_}[0] } } } @names);
        like($answers[$_]{error} // 'verified', $forgeries{ $names[$_] }[1], "$library: not $names[$_]") for 0 .. $#names;
    }
    return;
}

subtest 'a secret' => sub {
    for my $secret ($first, $binary) {
        check_request(deliver(webhook_secret => $secret), { secret => $secret });
    }
    my $raw = 'un secreto cualquiera, "así" \\ no más';
    (my $written = $raw) =~ s/\\/\\\\/g;
    check_request(deliver(webhook_secret => $written), { secret => $raw, options => { format => 'raw' } });
};

subtest 'secrets that are rotated' => sub {
    my $request = deliver(webhook_secret => $second, webhook_secret_previous => $first);
    check_request($request, { secret => $second }, { secret => $first });
    check_request($request, { secret => $first }, { secret => $second });

    $request = deliver(webhook_secret_previous_until => '2020-01-01 00:00:00+00');
    my @answers = $consumer->verify(map { { request => $request, secret => $_ } } $second, $first);
    is($answers[0]{error}, undef, 'the previous one is over: verified with the new one');
    like($answers[1]{error} // 'verified', qr/No matching signature/, 'and not with it');

    $request = deliver(webhook_secret => '', webhook_secret_previous => '', webhook_secret_previous_until => '');
    my ($answer) = $consumer->verify({ request => $request, secret => $first });
    like($answer->{error} // 'verified', qr/Missing required headers/, 'without a secret nothing is');
};

subtest 'CloudEvents' => sub {
    check_request(deliver(webhook_secret => $first, cloudevents_source => '/apapacho'), { secret => $first });
    apply($node, 'apapacho_jobs.outbox_cloudevents_source' => '');
};

# Loads rows of bytes into a new table, in columns of type text.
sub load {
    my ($table, $columns, @rows) = @_;
    my $file = $node->basedir . "/$table.copy";

    append_to_file($file, join('', map { join("\t", map { encode_base64($_, '') } @{$_}) . "\n" } @rows));
    $node->ask(qq{CREATE TABLE $table (} . join(', ', map { "$_ text" } @{$columns}) . qq{); COPY $table FROM '$file'; UPDATE $table SET }
            . join(', ', map { "$_ = convert_from(decode($_, 'base64'), 'UTF8')" } @{$columns}));
    unlink($file);
    return;
}

# Rows of (number, event id, event type, aggregate id, payload, whether all its numbers are exact in a double).
sub random_events {
    my @events;
    my %sizes = (0 => 1, 1 => 1, 3 => 2_000_000);

    srand($seed);
    for my $number (0 .. $bodies - 1) {
        my $exact = $number % 2;
        my $size = $sizes{$number} // int(exp(rand log(300_000)));
        my $payload = $number % 40 == 39 ? random_nested(10 + rand 1500) : random_json($size, $exact);
        push @events, [$number, "fuzz-$number-" . ($number % 3 ? '' : random_text(20)), random_text(20), random_text(20), $payload, $exact];
    }
    return @events;
}

# A payload without its strings.
sub tokens_of {
    my ($request) = @_;
    my $text = payload_of($request);

    $text =~ s/\\.//g;
    $text =~ s/"[^"]*"//g;
    return $text;
}

subtest 'payloads by random numbers' => sub {
    my @events = random_events();
    apply($node, 'apapacho_jobs.outbox_webhook_secret' => $second, 'apapacho_jobs.outbox_webhook_secret_previous' => $first);
    load('sent', [qw(number id type aggregate payload exact)], @events);
    $node->ask(q{INSERT INTO "OutboxEvent" (id, "aggregateType", "aggregateId", "eventType", payload)
        SELECT id, 'Fuzz', aggregate, type, payload::jsonb FROM sent});
    is_deeply(process($node), { status => 'succeeded', processed => $bodies, failed => 0, errors => [] }, 'all are published');
    my %requests = map { ($_->{headers}{'webhook-id'} =~ /^fuzz-(\d+)-/)[0] => $_ } $recorder->take;
    is_deeply([sort { $a <=> $b } keys %requests], [0 .. $bodies - 1], 'all arrive');
    my @requests = @requests{ 0 .. $bodies - 1 };
    my @sizes = map { length payload_of($_) } @requests;
    diag(sprintf('payloads of %d to %d bytes', min(@sizes), max(@sizes)));

    my @parsed;
    for my $case ([standardwebhooks => $second], [standardwebhooks => $first], [svix => $second]) {
        @parsed = $consumer->verify(map { { request => $_, library => $case->[0], secret => $case->[1] } } @requests);
        is_deeply([map { defined $parsed[$_]{error} ? "$_: $parsed[$_]{error}" : () } 0 .. $#parsed], [], "$case->[0] verifies them all");
    }
    my @small = grep { $sizes[$_] < 20_000 } 0 .. $#requests;
    my (@forgeries, @wrong);
    for my $number (@small) {
        my %forgeries = forgeries($requests[$number], $second);
        push @forgeries, map { [$number, $_, @{ $forgeries{$_} }] } sort keys %forgeries;
    }
    my @answers = $consumer->verify(map { $_->[2] } @forgeries);
    for my $i (0 .. $#forgeries) {
        my ($number, $name, undef, $expected) = @{ $forgeries[$i] };
        push @wrong, "$number, $name: " . ($answers[$i]{error} // 'verified') unless ($answers[$i]{error} // '') =~ $expected;
    }
    cmp_ok(scalar(@forgeries), '>', 3 * $bodies, 'forgeries');
    is_deeply(\@wrong, [], 'none of which is verified');

    my @loose = grep { tokens_of($requests[$_]) =~ /[^-\w.,:\[\]{}]/ } 0 .. $#requests;
    is_deeply(\@loose, [], 'nothing stands between the tokens of a payload');
    load('received', [qw(number payload json)], map { [$_, payload_of($requests[$_]), $parsed[$_]{json} // '{}'] } 0 .. $#requests);
    is($node->ask(q{SELECT s.number FROM sent AS s JOIN received AS r USING (number) WHERE s.payload::jsonb <> r.payload::jsonb
        OR s.payload::jsonb::text <> r.payload::jsonb::text}), '', 'they are what was sent, number by number, digit by digit');
    is($node->ask(q{SELECT s.number FROM sent AS s JOIN (SELECT number, json::jsonb AS j FROM received) AS r USING (number)
        WHERE (s.id, s.type, s.aggregate) IS DISTINCT FROM (j->>'id', j->>'type', j->>'aggregateId')
            OR (s.exact = '1' AND s.payload::jsonb IS DISTINCT FROM j->'payload')}), '', 'the receiver parses the event that was sent');
};

$node->stop;
done_testing();
