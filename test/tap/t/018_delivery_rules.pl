# 018_delivery_rules.pl: retries by schedule and Retry-After, the log of attempts, addresses, secrets that are rotated, CloudEvents,
# traceparent, and what a slow receiver must not hold up.
use strict;
use warnings;

use Apapacho;
use Digest::SHA qw(hmac_sha256);
use JSON::PP ();
use MIME::Base64 qw(encode_base64);
use Outbox;
use PostgreSQL::Test::Utils;
use Recorder;
use Test::More;
use Time::HiRes qw(time);

my $recorder = Recorder->start;
my $node = Apapacho->create('main', tables => 'own', settings => {
    'apapacho_jobs.outbox_cron' => '0 0 1 1 *',
    'apapacho_jobs.outbox_publisher_type' => 'webhook',
    'apapacho_jobs.outbox_webhook_url' => $recorder->url });
my $pending = q{SELECT count(*) = 0 FROM "OutboxEvent" WHERE "publishedAt" IS NULL};

sub attempts {
    my ($id, $columns) = @_;
    return $node->ask("SELECT $columns FROM (SELECT * FROM apapacho_jobs.outbox_attempt WHERE event_id = '$id' ORDER BY at) AS a");
}

sub error_of_setting {
    my ($name, $value) = @_;
    return $node->error_of("ALTER SYSTEM SET apapacho_jobs.$name = '$value'");
}

$node->wait_for_scheduler;

subtest 'the schedule of retries: an event is tried again when it is due, without a run by schedule' => sub {
    apply($node, 'apapacho_jobs.outbox_retry_schedule' => '300 ms, 600 ms, 1 h');
    $recorder->answer(Refused => 503);
    my ($id, $next) = emit($node, 'A/1/Refused', 'A/1/Next');
    my @requests = $recorder->wait_for(3);
    is(types_of(\@requests), 'Refused Refused Refused', 'it is tried three times, and the next one waits');
    my @gaps = map { $requests[$_]{time} - $requests[ $_ - 1 ]{time} } 1, 2;
    diag(sprintf('after %.2f s and %.2f s', @gaps));
    cmp_ok($gaps[0], '>=', 0.3, 'after the first delay');
    cmp_ok($gaps[1], '>=', 0.6, 'and the second');
    $node->wait_for(qq{SELECT "retryCount" = 3 FROM "OutboxEvent" WHERE id = '$id'}, 'the third failure is recorded');
    is($node->ask("SELECT next_attempt_at - now() > interval '59 min' FROM apapacho_jobs.outbox_retry WHERE event_id = '$id'"), 't', 'then later');

    is(attempts($id, 'attempt, delivered, http_status, error_class, error, peer IS NOT NULL, total_ms > 0, first_byte_ms > 0, response'),
        join("\n", map { "$_|f|503|http_status|HTTP 503 Told: told to answer 503|t|t|t|told to answer 503" } 1 .. 3), 'the log of attempts');
    $recorder->answer(Refused => 200);
    $node->ask('SELECT apapacho_outbox_retry_failed()');
    is(types_of([$recorder->wait_for(2)]), 'Refused Next', 'asked for by hand, it goes out at once');
    $node->wait_for($pending, 'recorded');
    is(attempts($id, 'count(*)'), '3', 'what was delivered is not in the log');
    apply($node, 'apapacho_jobs.outbox_log_attempts' => 'all');
    my ($logged) = emit($node, 'A/1/Logged');
    $recorder->wait_for(1);
    $node->wait_for("SELECT count(*) = 1 FROM apapacho_jobs.outbox_attempt WHERE event_id = '$logged' AND delivered AND http_status = 200",
        'unless that is wanted');
    apply($node, 'apapacho_jobs.outbox_log_attempts' => 'none');
    $recorder->answer(Refused => 503);
    my ($unlogged) = emit($node, 'A/2/Refused');
    $recorder->wait_for(2);
    is(attempts($unlogged, 'count(*)'), '0', 'or nothing');
    $recorder->answer(Refused => 200);
    $node->ask('SELECT apapacho_outbox_retry_failed()');
    $node->wait_for($pending, 'recorded');
    $recorder->take;

    $node->ask(q{UPDATE apapacho_jobs.outbox_attempt SET at = at - interval '37 days' WHERE NOT delivered});
    $node->run_job('cleanup');
    is($node->ask('SELECT count(*), bool_and(delivered) FROM apapacho_jobs.outbox_attempt'), '1|t', 'cleanup deletes old ones');
    my $filled = q{SELECT count(*) FROM apapacho_jobs.outbox_attempt WHERE bucket = };
    is($node->ask(q{SELECT count(DISTINCT bucket), min(bucket) = (max(at)::date - '2000-01-01') / 6 % 8 FROM apapacho_jobs.outbox_attempt}), '1|t', 'they are in the bucket of their day');
    my $bucket = $node->ask('SELECT (max(bucket) + 1) % 8 FROM apapacho_jobs.outbox_attempt');
    $node->ask("INSERT INTO apapacho_jobs.outbox_attempt (at, event_id, event_type, endpoint, attempt, delivered, bucket)
        SELECT now() - interval '31 days' - n * interval '1 minute', 'e' || n, 'Old', 'default', 1, false, $bucket FROM generate_series(1, 100) n");
    my $file = $node->ask("SELECT pg_relation_filenode('apapacho_jobs.outbox_attempt_$bucket')");
    my $reader = $node->background_psql('postgres');
    $reader->query_safe("BEGIN; SELECT count(*) FROM apapacho_jobs.outbox_attempt_$bucket");
    $node->run_job('cleanup');
    is($node->ask("$filled $bucket"), '100', 'a bucket that somebody reads stays until the next time');
    $reader->query_safe('COMMIT');
    $reader->quit;
    $node->run_job('cleanup');
    is($node->ask("$filled $bucket"), '0', 'then it is emptied');
    isnt($node->ask("SELECT pg_relation_filenode('apapacho_jobs.outbox_attempt_$bucket')"), $file, 'as a whole');
    apply($node, 'apapacho_jobs.outbox_log_attempts' => 'failures');
    like(error_of_setting('outbox_retry_schedule', '5 s, soon'), qr/DETAIL: .*6/, 'a schedule that is none: where');
    like(error_of_setting('outbox_retry_schedule', ''), qr/ERROR: .*invalid value/, 'an empty one');
};

subtest 'a receiver that asks to be left alone: not earlier, and not for ever' => sub {
    apply($node, 'apapacho_jobs.outbox_retry_schedule' => '1 s');
    $recorder->answer(Later => 'later');
    my $due_in = sub {
        my ($id) = @_;
        $node->wait_for("SELECT count(*) = 1 FROM apapacho_jobs.outbox_retry WHERE event_id = '$id'", 'it fails');
        return $node->ask("SELECT round(extract(epoch FROM next_attempt_at - now())) FROM apapacho_jobs.outbox_retry WHERE event_id = '$id'");
    };
    my ($first) = emit($node, 'L/1/Later');
    my $seconds = $due_in->($first);
    cmp_ok($seconds, '>', 7100, 'after the two hours of its Retry-After');
    cmp_ok($seconds, '<=', 7200, 'and then');
    apply($node, 'apapacho_jobs.outbox_retry_after_max' => '10 min');
    my ($second) = emit($node, 'L/2/Later');
    $seconds = $due_in->($second);
    cmp_ok($seconds, '>', 500, 'no longer than it is allowed to ask for ...');
    cmp_ok($seconds, '<=', 600, '... which is ten minutes');
    $recorder->answer(Later => 200);
    $node->ask('SELECT apapacho_outbox_retry_failed()');
    $node->wait_for($pending, 'both are sent');
    $recorder->take;
};

subtest 'client errors for good, where that is wanted' => sub {
    $recorder->answer(Bad => 422, Busy => 429);
    apply($node, 'apapacho_jobs.outbox_fail_on_client_error' => 'on');
    my ($bad, $busy) = emit($node, 'C/1/Bad', 'C/2/Busy');
    $recorder->wait_for(2);
    $node->wait_for(qq{SELECT "retryCount" = 10 FROM "OutboxEvent" WHERE id = '$bad'}, '422: failed for good');
    $node->wait_for(qq{SELECT "retryCount" > 0 FROM "OutboxEvent" WHERE id = '$busy'}, '429: tried again');
    is(event($node, $busy, '"retryCount" < 10'), 't', 'and again');
    $recorder->answer(Bad => 200, Busy => 200);
    apply($node, 'apapacho_jobs.outbox_fail_on_client_error' => 'off');
    $node->ask('SELECT apapacho_outbox_retry_failed()');
    $node->wait_for($pending, 'both are sent');
    $recorder->take;
};

subtest 'addresses' => sub {
    my ($port) = $recorder->url =~ /:(\d+)/;
    like(error_of_setting('outbox_allowed_addresses', '10.0.0.0/33'), qr/DETAIL: .*prefix length/, 'a list that is none');
    # a name that leads to loopback, as a rebinding one would: every name below localhost does
    apply($node, 'apapacho_jobs.outbox_webhook_url' => "http://sub.localhost:$port/hook");
    my ($id) = emit($node, 'B/1/Blocked');
    $node->wait_for(qq{SELECT "retryCount" >= 1 FROM "OutboxEvent" WHERE id = '$id'}, 'it fails');
    like(event($node, $id, '"lastError"'), qr/not allowed: it is (a|the) loopback address/, 'the reason');
    is(attempts($id, 'DISTINCT error_class'), 'blocked', 'its class');
    is(scalar($recorder->take), 0, 'no connection was made');
    apply($node, 'apapacho_jobs.outbox_allowed_addresses' => '127.0.0.0/8, ::1');
    $node->ask('SELECT apapacho_outbox_retry_failed()');
    is(types_of([$recorder->wait_for(1)]), 'Blocked', 'what the administrator allows is allowed');
    apply($node, 'apapacho_jobs.outbox_allowed_addresses' => '', 'apapacho_jobs.outbox_webhook_url' => "http://localhost:$port/hook");
    emit($node, 'B/2/Local');
    is(types_of([$recorder->wait_for(1)]), 'Local', 'so is localhost, where the URL says so');
    apply($node, 'apapacho_jobs.outbox_webhook_url' => "http://169.254.169.254/");
    my ($metadata) = emit($node, 'B/3/Metadata');
    $node->wait_for(qq{SELECT "retryCount" >= 1 FROM "OutboxEvent" WHERE id = '$metadata'}, 'metadata');
    like(event($node, $metadata, '"lastError"'), qr/link-local/, 'never by itself');
    apply($node, 'apapacho_jobs.outbox_webhook_url' => $recorder->url);
    $node->ask('SELECT apapacho_outbox_retry_failed()');
    $node->wait_for($pending, 'sent');
    $recorder->take;
};

subtest 'secrets that are rotated' => sub {
    my $verify = sub {
        my ($request, @secrets) = @_;
        my $headers = $request->{headers};
        my $signed = join('.', @{$headers}{qw(webhook-id webhook-timestamp)}, $request->{body});
        return is($headers->{'webhook-signature'}, join(' ', map { 'v1,' . encode_base64(hmac_sha256($signed, $_), '') } @secrets), "signed by @secrets");
    };
    apply($node, 'apapacho_jobs.outbox_webhook_secret' => 'new secret', 'apapacho_jobs.outbox_webhook_secret_previous' => 'old secret');
    emit($node, 'S/1/Both');
    $verify->($recorder->wait_for(1), 'new secret', 'old secret');
    is($node->ask('SHOW apapacho_jobs.outbox_webhook_secret_previous'), '********', 'it is not shown');
    apply($node, 'apapacho_jobs.outbox_webhook_secret_previous_until' => '2020-01-01 00:00:00+00');
    emit($node, 'S/1/New');
    $verify->($recorder->wait_for(1), 'new secret');
    apply($node, 'apapacho_jobs.outbox_webhook_secret_previous_until' => '2120-01-01 00:00:00+00');
    emit($node, 'S/1/Both');
    $verify->($recorder->wait_for(1), 'new secret', 'old secret');
    like(error_of_setting('outbox_webhook_secret_previous_until', 'tomorrowish'), qr/ERROR: .*invalid value/, 'a time that is none');
    apply($node, 'apapacho_jobs.outbox_webhook_secret_previous' => '',
        'apapacho_jobs.outbox_webhook_secret' => 'whsk_' . encode_base64("\x01" x 32, ''));
    emit($node, 'S/1/Asymmetric');
    my ($request) = $recorder->wait_for(1);
    like($request->{headers}{'webhook-signature'}, qr/^v1a,[A-Za-z0-9+\/]{86}==$/, 'an Ed25519 key');
    is($request->{headers}{'x-webhook-signature'}, undef, 'without the older signature');
    apply($node, 'apapacho_jobs.outbox_webhook_secret' => '');
};

subtest 'traceparent and CloudEvents' => sub {
    my $trace = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01';
    my $emit = sub { return $node->ask(qq{SELECT apapacho_outbox_emit('Pedido', 'p 1', 'Año', '$_[0]')}) };
    $emit->(qq({"traceparent": "$trace", "n": 1}));
    my ($request) = $recorder->wait_for(1);
    is($request->{headers}{traceparent}, $trace, 'traceparent is passed on');
    $emit->(qq({"traceparent": "$trace\\r\\nEvil: 1"}));
    ($request) = $recorder->wait_for(1);
    is($request->{headers}{traceparent}, undef, 'nothing but one that is valid');

    apply($node, 'apapacho_jobs.outbox_cloudevents_source' => '/apapacho/outbox', 'apapacho_jobs.outbox_webhook_secret' => 'cloud');
    my $id = $emit->('{"n": 12345678901234567890}');
    ($request) = $recorder->wait_for(1);
    my %headers = %{ $request->{headers} };
    is($request->{body}, '{"n":12345678901234567890}', 'the body is the payload alone');
    is_deeply([@headers{qw(ce-specversion ce-id ce-source ce-type ce-subject content-type)}],
        ['1.0', $id, '/apapacho/outbox', 'A%C3%B1o', 'Pedido/p%201', 'application/json'], 'the headers');
    like($headers{'ce-time'}, qr/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/, 'its time');
    is($headers{'webhook-signature'}, 'v1,' . encode_base64(hmac_sha256(join('.', @headers{qw(webhook-id webhook-timestamp)}, $request->{body}), 'cloud'), ''),
        'signed');
    apply($node, 'apapacho_jobs.outbox_cloudevents_source' => '', 'apapacho_jobs.outbox_webhook_secret' => '');
};

subtest 'without an order' => sub {
    apply($node, 'apapacho_jobs.outbox_order' => 'none', 'apapacho_jobs.outbox_retry_schedule' => '1 h');
    $recorder->answer(Refused => 503);
    emit($node, 'N/1/Refused', 'N/1/Second', 'N/1/Third');
    my %types = map { $_->{headers}{'x-event-type'} => 1 } $recorder->wait_for(3);
    is(join(' ', sort keys %types), 'Refused Second Third', 'an event waits for no other');
    emit($node, 'N/1/Fourth');
    is(types_of([$recorder->wait_for(1)]), 'Fourth', 'nor for one that waits for another attempt');
    $recorder->answer(Refused => 200);
    apply($node, 'apapacho_jobs.outbox_order' => 'aggregate');
    $node->ask('SELECT apapacho_outbox_retry_failed()');
    $recorder->wait_for(1);
    $node->wait_for($pending, 'all are sent');
};

subtest 'a table that does not take the mark: nothing is sent for ever' => sub {
    $recorder->answer(Bad => 422);
    apply($node, 'apapacho_jobs.outbox_fail_on_client_error' => 'on');
    $node->ask(q{CREATE FUNCTION suppress() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
        CREATE TRIGGER suppress BEFORE UPDATE ON "OutboxEvent" FOR EACH ROW EXECUTE FUNCTION suppress()});
    for my $type (qw(Bad Good)) {
        my $position = $node->log_position;
        emit($node, "Suppressed/$type/$type");
        $node->wait_until(sub { $node->log_since($position) =~ /could not be marked as such/ }, "$type: the log says so");
        cmp_ok(scalar($recorder->take), '<=', 3, "$type: after a few requests");
        $node->ask(q{DELETE FROM "OutboxEvent" WHERE "publishedAt" IS NULL});
        $node->ask('SELECT apapacho_outbox_retry_failed()');
    }
    $node->ask('DROP TRIGGER suppress ON "OutboxEvent"');
    apply($node, 'apapacho_jobs.outbox_fail_on_client_error' => 'off');
    process($node);
    $recorder->take;
};

subtest 'a limit to the rate' => sub {
    $node->wait_for($pending, 'all are sent');
    $recorder->take;
    apply($node, 'apapacho_jobs.outbox_rate_limit' => 20);
    emit($node, map { "Rate/$_/Rate" } 1 .. 15);
    my @requests = $recorder->wait_for(15);
    my $took = $requests[-1]{time} - $requests[0]{time};
    diag(sprintf('15 events at 20 a second took %.2f s', $took));
    cmp_ok($took, '>=', 13 / 20, 'it is kept');
    cmp_ok($took, '<', 5, 'and used');
    apply($node, 'apapacho_jobs.outbox_rate_limit' => 0);
};

# An event whose answer does not come; the code is run meanwhile.
sub while_one_hangs {
    my ($code) = @_;

    $recorder->answer(Hangs => 'hang');
    my ($id) = emit($node, "H/hangs/Hangs");
    $recorder->wait_for(1);
    $code->();
    is(event($node, $id, '"publishedAt" IS NULL, "retryCount"'), 't|0', 'it still hangs');
    $recorder->answer(Hangs => 200);
    $node->wait_for($pending, 'all are sent');
    $recorder->take;
    return;
}

subtest 'what one event that hangs does not hold up' => sub {
    apply($node, 'apapacho_jobs.outbox_timeout' => '120 s');
    while_one_hangs(sub {
        $node->ask(q{SELECT apapacho_outbox_emit('Big', g::text, 'Big', jsonb_build_object('x', repeat('x', 1000000))) FROM generate_series(1, 40) AS g});
        emit($node, 'Small/1/Small');
        is(scalar(() = $recorder->wait_for(41)), 41, 'forty megabytes, and what comes after them');
    });
    while_one_hangs(sub {
        my $long = 'x' x 5000;
        $node->ask(qq{BEGIN; SELECT apapacho_outbox_emit('F', '1', '$long'); SELECT apapacho_outbox_emit('F', '1', 'Follower'); COMMIT});
        is(types_of([$recorder->wait_for(1)]), 'Follower', 'the follower of one that has failed for good');
        $node->ask(q{UPDATE "OutboxEvent" SET "publishedAt" = now() WHERE "retryCount" >= 10});
    });
    while_one_hangs(sub {
        my $position = $node->log_position;
        $recorder->answer(Deleted => 'hang');
        my ($id) = emit($node, 'D/1/Deleted');
        $recorder->wait_for(1);
        $node->ask(qq{DELETE FROM "OutboxEvent" WHERE id = '$id'});
        $recorder->answer(Deleted => 200);
        emit($node, 'D/2/After');
        is(types_of([$recorder->wait_for(1)]), 'After', 'nor does one that is deleted on its way');
        unlike($node->log_since($position), qr/could not be marked/, 'without a warning');
    });
    apply($node, 'apapacho_jobs.outbox_timeout' => '3 s', 'apapacho_jobs.outbox_retry_schedule' => '1 h');
    $recorder->answer(Hangs => 'hang');
    emit($node, "H/hangs/Hangs");
    $recorder->wait_for(1);
    my $started = time();
    is(process($node)->{status}, 'succeeded', 'a run by hand');
    cmp_ok(time() - $started, '<', 8, 'begins when what is on its way has its answer or is given up');
    $recorder->answer(Hangs => 200);
    $node->ask('SELECT apapacho_outbox_retry_failed()');
    $node->wait_for($pending, 'all are sent');
    $recorder->take;
};

subtest 'settings that change are in force for what is sent from then on' => sub {
    $recorder->answer(Slow => 'hang');
    emit($node, 'R/1/Slow');
    $recorder->wait_for(1);
    apply($node, 'apapacho_jobs.outbox_webhook_secret' => 'changed');
    emit($node, 'R/2/First');
    $recorder->answer(Slow => 200);
    my ($request) = grep { $_->{headers}{'x-event-type'} eq 'First' } $recorder->wait_for(1);
    ok($request->{headers}{'webhook-signature'}, 'a secret');
    apply($node, 'apapacho_jobs.outbox_webhook_secret' => '');
};

subtest 'a part of the events by hand, a run that fails, a publisher that is cancelled while it waits: nothing is left lying' => sub {
    $node->ask(q{SELECT apapacho_pause_job('outbox')});
    emit($node, map { "P/$_/E$_" } 1 .. 5);
    is(process($node, 1)->{processed}, 1, 'one');
    $node->ask(q{SELECT apapacho_resume_job('outbox')});
    is(scalar(() = $recorder->wait_for(5)), 5, 'the others follow');
    my $run = $node->wait_for_run(q{job = 'outbox' AND trigger = 'work' AND status = 'running'});
    $node->wait_for(q{SELECT NOT executing FROM apapacho_job_status() WHERE name = 'outbox'}, 'it waits');
    $node->ask("SELECT apapacho_cancel_run($run)");
    $node->wait_for_run("id = $run AND status = 'succeeded'");
    emit($node, 'P/6/AfterCancel');
    is(types_of([$recorder->wait_for(1)]), 'AfterCancel', 'after a cancellation');
};

subtest 'many events that wait for another one of their aggregate are not walked over for each claim' => sub {
    my $stuck = 20_000;
    my $fetched = q{SELECT idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'OutboxEvent'};
    # nor where a transaction is open that began before them
    my $held = $node->background_psql('postgres');
    $held->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1');
    my $began = $node->ask(q{SELECT xact_start FROM pg_stat_activity WHERE state = 'idle in transaction'});
    $node->wait_for($pending, 'all are sent');
    apply($node, 'apapacho_jobs.outbox_batch_size' => 100);
    $node->ask(qq{BEGIN;
        INSERT INTO "OutboxEvent" (id, "aggregateType", "aggregateId", "eventType", payload, "createdAt")
            SELECT 'stuck ' || lpad(g::text, 8, '0'), 'Stuck', '1', 'Stuck', '{}', ('$began'::timestamptz AT TIME ZONE 'UTC') + g / 100 * interval '1 ms'
            FROM generate_series(1, $stuck) AS g;
        INSERT INTO apapacho_jobs.outbox_retry VALUES ('stuck 00000001', 'Stuck', '1', 1, now() + interval '1 hour');
        COMMIT});
    $node->wait_for(q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'apapacho_jobs worker' AND state = 'active'}, 'it is seen');
    $node->wait_for("SELECT clock_timestamp() > '$began'::timestamptz + interval '6 s'", 'clocks that differ do not matter any more');
    $recorder->take;
    my $before = $node->ask($fetched);
    $node->ask(q{INSERT INTO "OutboxEvent" (id, "aggregateType", "aggregateId", "eventType", payload)
        SELECT 'other ' || g, 'Other', g::text, 'Other', '{}' FROM generate_series(1, 3000) AS g});
    $recorder->wait_for(3000);
    # nothing else may read the table meanwhile
    $node->wait_for(q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'apapacho_jobs worker'}, 'the publisher has ended');
    my $rows = $node->ask($fetched) - $before;
    diag(sprintf('%d rows were fetched for 30 claims with %d events that wait', $rows, $stuck));
    cmp_ok($rows, '<', 12 * $stuck, 'most claims begin further on');
    $before = $node->ask($fetched);
    for my $n (1 .. 60) {
        emit($node, "Single/$n/Single");
        $recorder->wait_for(1);
    }
    $node->wait_for(q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'apapacho_jobs worker'}, 'the publisher has ended');
    $rows = $node->ask($fetched) - $before;
    diag(sprintf('%d rows were fetched for 60 events that came one by one', $rows));
    cmp_ok($rows, '<', 20 * $stuck, 'nor are all looked at after each that comes alone');
    $held->query_safe('COMMIT');
    $held->quit;

    # what is committed late keeps its place, and so does what was passed over
    my $late = $node->background_psql('postgres');
    $late->query_safe(q{BEGIN; SELECT apapacho_outbox_emit('Late', '1', 'First')});
    $node->ask(q{SELECT count(apapacho_outbox_emit('Other', g::text, 'Other')) FROM generate_series(1, 500) AS g});
    $recorder->wait_for(500);
    $late->query_safe('COMMIT');
    $late->quit;
    emit($node, 'Late/1/Second');
    is(types_of([$recorder->wait_for(2)]), 'First Second', 'an event that is committed late comes first');
    $node->ask(q{DELETE FROM "OutboxEvent" WHERE "aggregateType" = 'Stuck' AND id > 'stuck 00000010'});
    $node->ask('SELECT apapacho_outbox_retry_failed()');
    is(scalar(() = $recorder->wait_for(10)), 10, 'what has waited goes out in the end');
    $node->wait_for($pending, 'all are sent');
    apply($node, 'apapacho_jobs.outbox_batch_size' => 1000);
};

subtest 'sent once more' => sub {
    $node->wait_for($pending, 'all are sent');
    $recorder->take;
    my $since = $node->ask('SELECT clock_timestamp()');
    my @ids = emit($node, 'Again/1/PayoutSent', 'Again/2/PayoutFailed', 'Again/3/Payout_Sent', 'Again/4/Other');
    $recorder->wait_for(4);
    $node->wait_for($pending, 'all are sent');
    is($node->ask("SELECT apapacho_outbox_redeliver('$ids[0]')"), 't', 'one');
    my ($request) = $recorder->wait_for(1);
    is($request->{headers}{'webhook-id'}, $ids[0], 'with the same id');
    $node->wait_for($pending, 'it is sent');
    is($node->ask(q{SELECT apapacho_outbox_redeliver('none'), apapacho_outbox_redeliver(NULL)}), 'f|f', 'one that there is not');
    is($node->ask("SELECT apapacho_outbox_redeliver_since('$since', 'Payout_*')"), '1', 'by a pattern: * alone has a meaning');
    is(types_of([$recorder->wait_for(1)]), 'Payout_Sent', 'the one');
    $node->wait_for($pending, 'it is sent');
    is($node->ask("SELECT apapacho_outbox_redeliver_since('$since', 'Payout*', rate => 4)"), '3', 'by a pattern and at a rate');
    my @requests = $recorder->wait_for(3);
    cmp_ok($requests[2]{time} - $requests[0]{time}, '>=', 0.45, 'four a second');
    cmp_ok($requests[2]{time} - $requests[0]{time}, '<', 5, 'and not much slower');
    $node->wait_for($pending, 'they are sent');
    is($node->ask("SELECT apapacho_outbox_redeliver_since('$since', most => 2), apapacho_outbox_redeliver_since(now() + interval '1 day')"), '2|0', 'at most so many');
    $recorder->wait_for(2);
    $node->wait_for($pending, 'they are sent');
    like($node->error_of("SELECT apapacho_outbox_redeliver_since('$since', rate => 0)"), qr/22023: the rate must be more than 0/, 'a bad rate');
    like($node->error_of("SELECT apapacho_outbox_redeliver_since('$since', most => 0)"), qr/22023: .*at least 1/, 'a bad number');
};

subtest 'faults can be named from the views alone' => sub {
    my $status = sub { return $node->ask("SELECT $_[0] FROM apapacho_jobs.outbox_status") };
    my $outcomes = sub {
        return { map { split(/\|/) } split(/\n/, $node->ask('SELECT outcome, attempts FROM apapacho_jobs.outbox_outcomes()')) };
    };
    my $before = $outcomes->();
    is($status->('endpoint, state, pending, retrying, failed, oldest_pending IS NULL, in_flight'), 'default|ok|0|0|0|t|0', 'all is well');
    cmp_ok($status->('delivered'), '>', 50, 'what has been delivered');
    cmp_ok($status->('reused_connections'), '>', 20, 'connections that were used again');
    is($status->('attempts - delivered = failures, mean_ms > 0, counted_since < now()'), 't|t|t', 'counts');
    is($node->ask('SELECT (SELECT sum(attempts) FROM apapacho_jobs.outbox_latency()) = attempts FROM apapacho_jobs.outbox_status'), 't',
        'each attempt is in one bucket');

    apply($node, 'apapacho_jobs.outbox_retry_schedule' => '1 h', 'apapacho_jobs.outbox_timeout' => 1500);
    my %faults = (hang => 'timeout', reset => 'protocol', close => 'protocol', garbage => 'protocol');
    $recorder->answer((map { $_ => $_ } keys %faults), Refused => 500);
    my @ids = emit($node, (map { "Fault/$_/$_" } sort keys %faults), 'Fault/6/Refused');
    $node->wait_for('SELECT in_flight > 0 FROM apapacho_jobs.outbox_status', 'what hangs is in flight');
    $node->wait_for('SELECT retrying = 5 FROM apapacho_jobs.outbox_status', 'all fail');
    my $after = $outcomes->();
    is($after->{timeout} - $before->{timeout}, 1, 'a receiver that hangs');
    is($after->{protocol} - $before->{protocol}, 3, 'three that break off or talk nonsense');
    is($after->{http_status} - $before->{http_status}, 1, 'one that refuses');
    is($status->(q{pending, oldest_pending_age > '0', next_attempt_at > now()}), '5|t|t', 'the backlog, its age, and when it is tried again');
    $node->ask('SELECT apapacho_outbox_pause()');
    is($status->('state, state_since < now()'), 'paused|t', 'paused');
    $node->ask('SELECT apapacho_outbox_resume()');
    $node->ask('CREATE ROLE monitor LOGIN; GRANT pg_monitor TO monitor');
    is($node->ask('SELECT state FROM apapacho_jobs.outbox_status', role => 'monitor'), 'ok', 'pg_monitor sees it');
    like($node->error_of('SELECT * FROM apapacho_jobs.outbox_attempt', role => 'monitor'), qr/permission denied/, 'but no answers of receivers');
};

$node->stop;
done_testing();
