# 010_publishing.pl: what is published, when, and what it looks like to the receiver, byte for byte.
#
# The signatures are made again by Perl's own HMAC. Receivers that fail are the subject of 013_failing_receivers.pl.
use strict;
use warnings;

use Apapacho;
use Digest::SHA qw(hmac_sha256 hmac_sha256_hex);
use JSON::PP ();
use MIME::Base64 qw(decode_base64 encode_base64);
use Outbox;
use PostgreSQL::Test::Utils;
use Recorder;
use Test::More;
use Time::HiRes qw(time);

my $recorder = Recorder->start;
my $node = Apapacho->create('main', tables => 'own', settings => {
    timezone => 'America/Santiago',
    'apapacho_jobs.outbox_publisher_type' => 'webhook',
    'apapacho_jobs.outbox_wake_on_commit' => 'off',
    'apapacho_jobs.outbox_webhook_url' => $recorder->url });

# An event with an id, a payload and a time of its own.
sub insert_event {
    my ($id, $type, $payload, $created_at) = @_;
    $node->ask(qq{INSERT INTO "OutboxEvent" (id, "aggregateType", "aggregateId", "eventType", payload, "createdAt")
        VALUES (\$t\$$id\$t\$, 'Pedido', 'p-1', \$t\$$type\$t\$, \$t\$$payload\$t\$, '$created_at')});
    return;
}

# The one request that publishing brings.
sub publish_one {
    is_deeply(process($node), { status => 'succeeded', processed => 1, failed => 0, errors => [] }, 'published');
    my @requests = $recorder->take;
    is(scalar(@requests), 1, 'one request');
    return $requests[0];
}

# Compares a request's signatures with those by Perl.
sub check_signatures {
    my ($request, $secret, $name) = @_;
    my $headers = $request->{headers};
    my $key = $secret =~ /^whsec_(.*)/s ? decode_base64($1) : $secret;
    my $signed = join('.', @{$headers}{qw(webhook-id webhook-timestamp)}, $request->{body});

    is($headers->{'webhook-signature'}, 'v1,' . encode_base64(hmac_sha256($signed, $key), ''), "webhook-signature: $name");
    is($headers->{'x-webhook-signature'}, hmac_sha256_hex(payload_of($request), $secret), "X-Webhook-Signature: $name");
    return;
}

subtest 'by schedule: what is committed, and nothing that is rolled back' => sub {
    $node->wait_for_scheduler;
    my $open = $node->background_psql('postgres', on_error_stop => 0);
    $open->query_safe(q{BEGIN; SELECT apapacho_outbox_emit('Open', '1', 'Committed')});
    $node->ask(q{BEGIN; SELECT apapacho_outbox_emit('Undone', '1', 'RolledBack'); ROLLBACK});
    $node->ask(q{BEGIN; SELECT apapacho_outbox_emit('Kept', '1', 'First'); SAVEPOINT a;
        SELECT apapacho_outbox_emit('Kept', '1', 'RolledBack'); ROLLBACK TO a; SELECT apapacho_outbox_emit('Kept', '1', 'Second'); COMMIT});
    $node->reconfigure('apapacho_jobs.outbox_cron' => '1 seconds');
    my @requests = $recorder->wait_for(2);
    my $run = $node->wait_for_run("job = 'outbox' AND result->>'processed' = '2'");

    is($node->ask("SELECT trigger || ' ' || status FROM apapacho_jobs.run WHERE id = $run"), 'schedule succeeded', 'by the schedule');
    is(types_of(\@requests), 'First Second', 'the committed ones, in order');
    $node->wait_for_run("job = 'outbox' AND status = 'succeeded' AND id > $run");
    is(scalar($recorder->take), 0, 'the next run sends nothing');
    $open->query_safe('COMMIT');
    @requests = $recorder->wait_for(1);
    is(types_of(\@requests), 'Committed', 'an event goes out once its transaction is committed');
    $node->wait_for(q{SELECT count(*) = 3 FROM "OutboxEvent" WHERE "publishedAt" IS NOT NULL}, 'all are published');
    $open->quit;

    apply($node, 'apapacho_jobs.outbox_cron' => '');
    $node->wait_for(q{SELECT NOT running AND NOT executing FROM apapacho_job_status() WHERE name = 'outbox'}, 'no schedule any more');
    $recorder->take;
};

subtest 'by hand: the row, the history, the log line' => sub {
    my $position = $node->log_position;
    my @ids = emit($node, 'Order/1/Created', 'Order/1/Paid', 'Order/2/Created');

    is_deeply(process($node), { status => 'succeeded', processed => 3, failed => 0, errors => [] }, 'the answer');
    my @requests = $recorder->take;
    is_deeply([sort map { $_->{headers}{'webhook-id'} } @requests], [sort @ids], 'the events');
    like(types_of([grep { $_->{body} =~ /"aggregateId":"1"/ } @requests]), qr/^Created Paid$/, 'in order');
    is(event($node, $ids[0], q{"retryCount", "lastError" IS NULL, "publishedAt" - (now() AT TIME ZONE 'UTC')
        BETWEEN interval '-1 minute' AND interval '0'}), '0|t|t', 'published now, in UTC');
    like($node->log_since($position), qr/LOG:  \[Job:Outbox\] Procesados: 3, Fallidos: 0$/m, 'the log line');

    $position = $node->log_position;
    is($node->run_job('outboxPublisher')->{processed}, 0, 'again: nothing to do');
    unlike($node->log_since($position), qr/\[Job:Outbox\]/, 'which is not worth a line');
    is(scalar($recorder->take), 0, 'and no request');
};

subtest 'the request as specified' => sub {
    my $payload = q({ "monto" : 12345678901234567890.000100, "b": [1, 2.50, -0.0, 1e3, 1e-7, true, null, {}, []],
        "año": "ñ → 😀", "texto": "a  : , \"b\" \\\\ / \b\f\n\r\t \u0001 \u007f <&'>", "n": {"z": 1, "a": "1 , 2"} });
    my $compact = q({"b":[1,2.50,0.0,1000,0.0000001,true,null,{},[]],"n":{"a":"1 , 2","z":1},"año":"ñ → 😀",)
        . q("monto":12345678901234567890.000100,"texto":"a  : , \"b\" \\\\ / \b\f\n\r\t \u0001 ) . "\x7f" . q( <&'>"});

    insert_event('evt-1', 'PagoRecibido', $payload, '2025-12-27 18:00:00.007');
    my $request = publish_one();
    is($request->{line}, 'POST /hook?a=1 HTTP/1.1', 'request line');
    is(payload_of($request), $compact, 'the payload is compact, its texts and numbers as they were');
    is($request->{body}, qq({"id":"evt-1","type":"PagoRecibido","aggregateType":"Pedido","aggregateId":"p-1","payload":$compact,)
        . q("occurredAt":"2025-12-27T18:00:00.007Z"}), 'the body, byte for byte');
    my %headers = %{ $request->{headers} };
    my $timestamp = delete $headers{'webhook-timestamp'};
    like($timestamp, qr/^\d+$/, 'webhook-timestamp in seconds');
    cmp_ok(abs($timestamp - $request->{time}), '<', 30, 'of now');
    like(delete $headers{'user-agent'}, qr{^apapacho_jobs/\d}, 'User-Agent');
    is_deeply(\%headers, { host => "127.0.0.1:$recorder->{port}", accept => '*/*', 'content-type' => 'application/json',
        'content-length' => length($request->{body}), 'webhook-id' => 'evt-1', 'x-event-id' => 'evt-1',
        'x-event-type' => 'PagoRecibido', 'x-aggregate-type' => 'Pedido' }, 'the headers; without a secret no signatures');
    is(scalar(@{ $request->{head} }), scalar(keys %{ $request->{headers} }), 'none of them twice');
    is_deeply([grep { /^(Content-Type|X-Event-Type|X-Aggregate-Type|X-Event-Id|webhook-(id|timestamp)):/ } @{ $request->{head} }],
        [grep { /^(content-type|x-event|x-agg|webhook)/i } @{ $request->{head} }], 'spelled as documented');
};

subtest 'payloads of every kind' => sub {
    my %compact = ('{}' => '{}', '[]' => '[]', 'null' => 'null', '"a b"' => '"a b"', ' 12.30 ' => '12.30', 'false' => 'false',
        '[ 1 , [ 2 ] ]' => '[1,[2]]', '"\" , \\\\"' => '"\" , \\\\"');
    my @payloads = sort keys %compact;

    insert_event("kind-$_", 'Kind', $payloads[$_], '2025-01-01 00:00:00') for 0 .. $#payloads;
    my $large = '["' . 'x' x 3_000_000 . 'ñ"]';
    insert_event('kind-large', 'Kind', $large, '2025-01-01 00:00:00');
    is(process($node)->{processed}, scalar(@payloads) + 1, 'published');
    my %sent = map { $_->{headers}{'webhook-id'} => payload_of($_) } $recorder->take;
    is(delete $sent{'kind-large'} eq $large, 1, 'a payload of 3 MB');
    is_deeply(\%sent, { map { ("kind-$_" => $compact{ $payloads[$_] }) } 0 .. $#payloads }, 'the others');
};

subtest 'texts that headers cannot hold' => sub {
    insert_event('id con ñ %', "Línea\nX-Evil: 1 ", '{}', '2024-02-29 23:59:59');
    my $request = publish_one();
    is($request->{headers}{'x-event-type'}, 'L%C3%ADnea%0AX-Evil: 1%20', 'percent-encoded in the header');
    is($request->{headers}{'webhook-id'}, 'id con %C3%B1 %', 'the id too');
    is($request->{headers}{'x-evil'}, undef, 'no header is smuggled in');
    is($request->{body}, q({"id":"id con ñ %","type":"Línea\nX-Evil: 1 ","aggregateType":"Pedido","aggregateId":"p-1",)
        . q("payload":{},"occurredAt":"2024-02-29T23:59:59.000Z"}), 'as they are in the body');

    insert_event('evt-long', 'T' x 5000, '{}', '2024-01-01');
    is_deeply(process($node), { status => 'succeeded', processed => 0, failed => 1,
            errors => [q{evt-long: the event's id or type is too long for a header}] }, 'too long: failed');
    is(event($node, 'evt-long', q{"retryCount", "lastError"}), q{10|the event's id or type is too long for a header}, 'for good');
    is(scalar($recorder->take), 0, 'nothing is sent');
};

subtest 'signatures' => sub {
    my $file = PostgreSQL::Test::Utils::tempdir() . '/secret';
    my $setting = 'apapacho_jobs.outbox_webhook_secret';
    my %secrets = ('raw' => 'un secreto cualquiera', 'raw, not ASCII' => q{contraseña "ñ" \\ 'q'},
        'whsec_' => 'whsec_' . encode_base64('0123456789abcdefghijklmn', ''),
        'whsec_ of any bytes' => 'whsec_' . encode_base64(join('', map { chr } 0 .. 63), ''),
        'long' => 'l' x 1000);
    my $payload = q({"monto": 100.50, "año": "ñ \" \\\\ \u0001", "z": [1, 2]});
    my $number = 0;

    for my $name (sort keys %secrets) {
        (my $written = $secrets{$name}) =~ s/\\/\\\\/g;
        apply($node, $setting => $written);
        insert_event('sig-' . ++$number, 'Signed', $payload, '2025-01-01');
        check_signatures(publish_one(), $secrets{$name}, $name);
    }
    insert_event('id con ñ', 'Signed', $payload, '2025-01-01');
    check_signatures(publish_one(), $secrets{'whsec_ of any bytes'}, 'an id that is percent-encoded');

    PostgreSQL::Test::Utils::append_to_file($file, "$secrets{'whsec_'}\n");
    apply($node, "${setting}_file" => $file);
    insert_event('sig-both', 'Signed', $payload, '2025-01-01');
    check_signatures(publish_one(), $secrets{'whsec_ of any bytes'}, 'the secret outweighs the file');
    apply($node, $setting => '');
    insert_event('sig-file', 'Signed', $payload, '2025-01-01');
    check_signatures(publish_one(), $secrets{'whsec_'}, 'from a file');

    my $id = (emit($node, 'Signed/1/Waiting'))[0];
    apply($node, "${setting}_file" => "$file.none");
    like($node->error_of('SELECT apapacho_outbox_process()'),
        qr/ERROR:  58P01: could not open the webhook secret's file "\Q$file\E.none": .*\nHINT:  /, 'a file that is not there');
    is(event($node, $id, '"publishedAt" IS NULL, "retryCount"'), 't|0', 'is not an attempt');
    apply($node, "${setting}_file" => '');
    is(publish_one()->{headers}{'webhook-signature'}, undef, 'no secret, no signature');
};

subtest 'publisher console: a line for each event' => sub {
    my @ids = emit($node, 'Order/7/OrderPaid', 'Order/8/OrderPaid');
    insert_event('evt\n' . "\n", "Línea\nLOG:  x", '{"clave": "no va al log"}', '2025-01-01');
    my $position = $node->log_position;

    apply($node, 'apapacho_jobs.outbox_publisher_type' => 'console');
    is_deeply(process($node), { status => 'succeeded', processed => 3, failed => 0, errors => [] }, 'published');
    my $log = $node->log_since($position);
    like($log, qr{LOG:  \[Outbox\] OrderPaid Order/7 id=$ids[0]$}m, 'the line');
    like($log, qr{LOG:  \[Outbox\] L%C3%ADnea%0ALOG:  x Pedido/p-1 id=evt\\n%0A$}m, 'one line, whatever the texts');
    unlike($log, qr/no va al log/, 'no payload in the log');
    like($log, qr/LOG:  \[Job:Outbox\] Procesados: 3, Fallidos: 0$/m, 'the sum');
    is($node->ask(q{SELECT count(*) FROM "OutboxEvent" WHERE "publishedAt" IS NULL AND "retryCount" < 10}), '0', 'they are published');
    is(scalar($recorder->take), 0, 'nothing is sent');
};

subtest 'publisher webhook without a URL: a clear error' => sub {
    my ($id) = emit($node, 'Order/9/OrderPaid');
    apply($node, 'apapacho_jobs.outbox_publisher_type' => 'webhook', 'apapacho_jobs.outbox_webhook_url' => '');
    my $error = $node->error_of(q{SELECT apapacho_run_job('outbox')});

    like($error, qr/ERROR:  22023: the outbox publisher is "webhook", but there is no webhook URL/, 'message and code');
    like($error, qr/HINT:  Set apapacho_jobs\.outbox_webhook_url, or apapacho_jobs\.outbox_publisher_type to "console"\./, 'hint');
    is($node->ask('SELECT status, sqlstate, error FROM apapacho_jobs.run ORDER BY id DESC LIMIT 1'),
        qq{failed|22023|the outbox publisher is "webhook", but there is no webhook URL\nHINT:  Set apapacho_jobs.outbox_webhook_url, }
            . 'or apapacho_jobs.outbox_publisher_type to "console".', 'the history');
    is(event($node, $id, '"publishedAt" IS NULL, "retryCount", "lastError" IS NULL'), 't|0|t', 'the event waits');
    apply($node, 'apapacho_jobs.outbox_webhook_url' => $recorder->url);
    publish_one();
};

subtest 'batchSize' => sub {
    my @ids = emit($node, map { "Batch/$_/Created" } 1 .. 7);

    like($node->error_of("SELECT apapacho_outbox_process($_)"), qr/ERROR:  22023: the batch size must be at least 1, not $_/, "not $_")
        for 0, -1;
    is(process($node, 2)->{processed}, 2, 'two of seven');
    is_deeply([sort map { $_->{headers}{'webhook-id'} } $recorder->take], [@ids[0, 1]], 'the oldest');
    apply($node, 'apapacho_jobs.outbox_batch_size' => 2);
    is(process($node, 3)->{processed}, 3, 'more than are claimed at once');
    is(process($node, 'NULL')->{processed}, 2, 'all that are left');
    is(scalar($recorder->take), 5, 'five requests');
    apply($node, 'apapacho_jobs.outbox_batch_size' => 1000);
};

subtest 'one aggregate in order, also within a millisecond and over batches' => sub {
    $node->ask(q{INSERT INTO "OutboxEvent" (id, "aggregateType", "aggregateId", "eventType", payload, "createdAt")
        SELECT apapacho_jobs.uuid_v7(), 'Chain', (g % 3)::text, g::text, '{}', timestamp '2025-01-01' + (g / 40) * interval '1 ms'
        FROM generate_series(1, 300) AS g});
    apply($node, 'apapacho_jobs.outbox_batch_size' => 7);
    is(process($node)->{processed}, 300, 'published');
    my @requests = $recorder->take;
    for my $aggregate (0 .. 2) {
        my @numbers = map { $_->{headers}{'x-event-type'} } grep { $_->{body} =~ /"aggregateId":"$aggregate"/ } @requests;
        is_deeply(\@numbers, [grep { $_ % 3 == $aggregate } 1 .. 300], "aggregate $aggregate");
    }
    cmp_ok((sort { $b <=> $a } map { $_->{connection} } @requests)[0] - (sort { $a <=> $b } map { $_->{connection} } @requests)[0], '<',
        30, 'connections are used again');
    apply($node, 'apapacho_jobs.outbox_batch_size' => 1000);
};

subtest q{the backend's tables as they are, in a schema of their own} => sub {
    $node->create_database('prisma');
    $node->ask('CREATE SCHEMA "Tienda Sur"; ALTER DATABASE prisma SET search_path = "Tienda Sur", public; ' .
        q{ALTER DATABASE prisma SET apapacho_jobs.schema = 'Tienda Sur'}, database => 'prisma');
    $node->load_tables('fixture', 'prisma');
    is($node->ask(q{SELECT string_agg(schemaname, ',') FROM pg_tables WHERE tablename = 'OutboxEvent'}, database => 'prisma'),
        'Tienda Sur', 'the tables are there');
    my $id = $node->ask(q{SELECT apapacho_outbox_emit('Order', '1', 'OrderPaid', '{"a": 1}')}, database => 'prisma');
    my $answer = $node->run_job('outbox', database => 'prisma');
    is_deeply([@{$answer}{qw(status processed failed)}], ['succeeded', 1, 0], 'published');
    my ($request) = $recorder->take;
    is($request->{headers}{'x-event-id'}, $id, 'the event');
    like(event($node, $id, '"publishedAt" IS NOT NULL, payload', 'prisma'), qr/^t\|\{"a": 1\}$/, 'is marked in its table');
    is($node->ask(q{SELECT apapacho_outbox_stats()->>'published' || (SELECT "eventType" FROM apapacho_outbox_events('published'))},
        database => 'prisma'), '1OrderPaid', 'the functions see it');
};

$node->stop;
done_testing();
