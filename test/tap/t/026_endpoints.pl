# 026_endpoints.pl: several endpoints: which events each gets, and that each fails, retries and stops by itself.
use strict;
use warnings;

use Apapacho;
use Digest::SHA qw(hmac_sha256);
use MIME::Base64 qw(encode_base64);
use Outbox;
use PostgreSQL::Test::Utils;
use Recorder;
use Test::More;

# The last test's size: ENDPOINTS_EVENTS=100000 ENDPOINTS_AGGREGATES=1000 ENDPOINTS_KILLS=20 is that of the promise.
my $events = $ENV{ENDPOINTS_EVENTS} // 1500;
my $aggregates = $ENV{ENDPOINTS_AGGREGATES} // 40;
my $kills = $ENV{ENDPOINTS_KILLS} // 4;

my $main = Recorder->start;
my $billing = Recorder->start;
my $node = Apapacho->create('main', tables => 'own', settings => {
    'apapacho_jobs.outbox_cron' => '0 0 1 1 *',
    'apapacho_jobs.outbox_wake_on_commit' => 'off',
    'apapacho_jobs.outbox_publisher_type' => 'webhook',
    'apapacho_jobs.outbox_webhook_url' => $main->url,
    'apapacho_jobs.outbox_webhook_secret' => 'main secret',
    'apapacho_jobs.outbox_allowed_addresses' => '127.0.0.0/8' });

$node->wait_for_scheduler;

# Adds or replaces the endpoint "billing"; further arguments as SQL.
sub set_billing {
    my (@arguments) = @_;
    my $url = $billing->url;
    return $node->ask("SELECT apapacho_outbox_set_endpoint(" . join(', ', "'billing'", "'$url'", @arguments) . ')');
}

# The rows of an event in outbox_retry.
sub rows_of {
    my ($id) = @_;
    return $node->ask("SELECT endpoint, attempts, next_attempt_at = '-infinity', failed_at IS NOT NULL FROM apapacho_jobs.outbox_retry
        WHERE event_id = '$id' ORDER BY 1");
}

sub published {
    my ($id) = @_;
    return event($node, $id, '"publishedAt" IS NOT NULL');
}

# [processed, failed] of a run by hand.
sub publish {
    my $answer = process($node);
    return [@{$answer}{qw(processed failed)}];
}

sub signed_with {
    my ($request, $secret) = @_;
    my $headers = $request->{headers};
    my $content = join('.', @{$headers}{qw(webhook-id webhook-timestamp)}, $request->{body});
    return $headers->{'webhook-signature'} eq 'v1,' . encode_base64(hmac_sha256($content, $secret), '');
}

subtest 'an endpoint of its own: types, secret, headers' => sub {
    set_billing(q{secret => 'billing secret', event_types => ARRAY['Payout*', 'Order.paid'], headers => '{"Authorization": "Bearer x", "X-Tenant": "7"}'});
    my ($both, $dot, $main_only) = emit($node, 'A/1/PayoutSent', 'A/2/Order.paid', 'A/3/Orderxpaid');
    is_deeply(publish(), [3, 0], 'all are published');
    my @main = $main->take;
    my @billing = $billing->take;
    is(join(' ', sort map { $_->{headers}{'x-event-type'} } @main), 'Order.paid Orderxpaid PayoutSent', 'the default one gets all');
    is(join(' ', sort map { $_->{headers}{'x-event-type'} } @billing), 'Order.paid PayoutSent', 'the other one what its types say');
    ok(signed_with($main[0], 'main secret') && !signed_with($main[0], 'billing secret'), 'signed with one secret');
    ok(signed_with($billing[0], 'billing secret'), 'and with its own');
    is($billing[0]{headers}{authorization} . $billing[0]{headers}{'x-tenant'}, 'Bearer x7', 'with its headers');
    is($main[0]{headers}{authorization}, undef, 'which nobody else gets');
    is($node->ask('SELECT count(*) FROM apapacho_jobs.outbox_retry'), '0', 'one UPDATE for each, and no other row');
};

subtest 'published when all have it; each fails and retries by itself' => sub {
    $billing->answer(PayoutSent => 503);
    my ($first, $second) = emit($node, 'B/1/PayoutSent', 'B/1/PayoutPaid');
    is_deeply(publish(), [0, 1], 'one attempt fails');
    is(types_of([$main->take]), 'PayoutSent PayoutPaid', 'the default one has both');
    is(types_of([$billing->take]), 'PayoutSent', 'the other one was tried with the first');
    is(published($first) . published($second), 'ff', 'neither is published');
    is(rows_of($first), 'billing|1|f|f', 'the first is tried again there');
    is(rows_of($second), 'billing|0|t|f', 'the second has not been tried there');
    is(event($node, $first, '"retryCount", "lastError"'), '1|billing: HTTP 503 Told: told to answer 503', 'counted, with the name');
    is(event($node, $second, '"retryCount", "lastError" IS NULL'), '0|t', 'the second has not failed');
    is_deeply(publish(), [0, 0], 'nothing is due');
    is(scalar($main->take) . scalar($billing->take), '00', 'nothing is sent');

    my ($third) = emit($node, 'B/1/PayoutSeen');
    is_deeply(publish(), [0, 0], 'a later one of the aggregate');
    is(types_of([$main->take]), 'PayoutSeen', 'goes where nothing is in its way');
    is(scalar($billing->take), 0, 'and waits where something is');
    is(rows_of($third), 'billing|0|t|f', 'it is noted');

    $billing->answer(PayoutSent => 200);
    due_now($node);
    is_deeply(publish(), [3, 0], 'all are published');
    is(types_of([$billing->take]), 'PayoutSent PayoutPaid PayoutSeen', 'in their order');
    is(scalar($main->take), 0, 'the default one gets nothing twice');
    is($node->ask('SELECT count(*) FROM apapacho_jobs.outbox_retry'), '0', 'no row is left');
    is(event($node, $first, '"lastError" IS NULL'), 't', 'nor an error');
    is($node->ask("SELECT endpoint, attempt, http_status FROM apapacho_jobs.outbox_attempt WHERE event_id = '$first'"), 'billing|1|503', 'the log of attempts has it');
};

subtest 'failed for good at one of them' => sub {
    apply($node, 'apapacho_jobs.outbox_max_retries' => 2);
    $billing->answer(PayoutSent => 500);
    my ($id) = emit($node, 'C/1/PayoutSent');
    is_deeply(publish(), [0, 1], 'it fails');
    due_now($node);
    is_deeply(publish(), [0, 1], 'and again');
    is(rows_of($id), 'billing|2|f|t', 'its row says so');
    is(event($node, $id, '"publishedAt" IS NULL, "retryCount"'), 't|2', 'the event counts as failed');
    my ($next) = emit($node, 'C/1/PayoutSeen');
    is_deeply(publish(), [1, 0], 'which holds up nobody');
    $node->ask('UPDATE apapacho_jobs.outbox_attempt SET at = now()');
    $node->run_job('cleanup');
    is(rows_of($id), 'billing|2|f|t', 'cleanup leaves its row');
    is(types_of([$main->take]) . '; ' . types_of([$billing->take]), 'PayoutSent PayoutSeen; PayoutSent PayoutSent PayoutSeen', 'sent');
    $billing->answer(PayoutSent => 200);
    is($node->ask('SELECT apapacho_outbox_retry_failed()'), '1', 'pending again');
    is_deeply(publish(), [1, 0], 'published');
    is(types_of([$billing->take]), 'PayoutSent', 'the one that lacked it gets it');
    is(scalar($main->take), 0, 'the other one does not get it twice');
    apply($node, 'apapacho_jobs.outbox_max_retries' => 10);
};

subtest 'paused, stopped, failing: one of them' => sub {
    $node->ask(q{SELECT apapacho_outbox_pause('billing')});
    my @ids = emit($node, 'D/1/PayoutA', 'D/1/PayoutB', 'D/2/Other');
    is_deeply(publish(), [1, 0], 'paused: what it is not to have is published');
    my $types = types_of([$main->take]);
    is(join(' ', sort split(/ /, $types)), 'Other PayoutA PayoutB', 'the default one has all');
    like($types, qr/PayoutA.*PayoutB/, 'those of an aggregate in their order');
    is($node->ask(q{SELECT endpoint, state, waiting FROM apapacho_jobs.outbox_status ORDER BY endpoint}), "billing|paused|2\ndefault|ok|0", 'the view says what waits where');
    like($node->error_of(q{SELECT apapacho_outbox_pause('nobody')}), qr/ERROR:  42704: endpoint "nobody" does not exist.*HINT:  The endpoints are billing, default/s, 'a name that is none');
    $node->ask(q{SELECT apapacho_outbox_resume('billing')});
    is_deeply(publish(), [2, 0], 'resumed');
    is(types_of([$billing->take]), 'PayoutA PayoutB', 'in their order');

    $billing->answer(PayoutGone => 410);
    my ($gone) = emit($node, 'D/3/PayoutGone');
    is_deeply(publish(), [0, 0], '410 is no failure of the event');
    is($node->ask(q{SELECT endpoint, state FROM apapacho_jobs.outbox_status ORDER BY endpoint}), "billing|stopped\ndefault|ok", 'it stops that endpoint');
    emit($node, 'D/4/Other');
    is_deeply(publish(), [1, 0], 'the other one goes on');
    $billing->answer(PayoutGone => 200);
    $node->ask(q{SELECT apapacho_outbox_resume('billing')});
    is_deeply(publish(), [1, 0], 'resumed');
    $billing->take;
    $main->take;

    $billing->answer(PayoutDown => 503);
    emit($node, map { "E/$_/PayoutDown" } 1 .. 40);
    my $position = $node->log_position;
    my $answer = process($node);
    like($node->log_since($position), qr/WARNING: .*the webhook receiver "billing" failed 20 times in a row/, 'its breaker opens');
    is(scalar($main->take), 40, 'the default one has all');
    my $tried = scalar($billing->take);
    cmp_ok($tried, '<', 41, 'it is left alone');
    is($node->ask(q{SELECT state FROM apapacho_jobs.outbox_status WHERE endpoint = 'billing'}), 'failing', 'the view says so');
    is($node->ask(q{SELECT sum(attempts) FILTER (WHERE outcome = 'http_status') > 19 FROM apapacho_jobs.outbox_outcome WHERE endpoint = 'billing'}), 't', 'and why');
    emit($node, 'E/1/Other', 'E/50/PayoutDown');
    $answer = process($node);
    is_deeply([@{$answer}{qw(processed failed)}], [1, 1], 'a run by hand goes on with the one and probes the other');
    is(scalar($billing->take), 1, 'with one event');
    $billing->answer(PayoutDown => 200);
    due_now($node);
    is_deeply(publish(), [41, 0], 'when it is back it gets all');
    is($node->ask('SELECT count(*) FROM apapacho_jobs.outbox_retry'), '0', 'no row is left');
    $_->take for $main, $billing;
};

subtest 'a slow one, and one with a rate, hold up nobody' => sub {
    set_billing(q{secret => 'billing secret', event_types => ARRAY['Payout*'], concurrency => 2, timeout => '60 s'});
    $billing->answer(PayoutSlow => 'hang');
    emit($node, map { "F/$_/PayoutSlow" } 1 .. 30);
    my $run = $node->run_job('outbox', wait => 0)->{runId};
    $main->wait_for(30);
    is(scalar($billing->wait_for(2)), 2, 'no more than two at a time');
    $node->wait_for(q{SELECT in_flight = 2 FROM apapacho_jobs.outbox_status WHERE endpoint = 'billing'}, 'the view shows them');
    $billing->answer(PayoutSlow => 200);
    $node->wait_for_run("id = $run AND result->>'processed' = '30'");
    $billing->take;

    set_billing(q{event_types => ARRAY['Payout*'], rate_limit => 20});
    emit($node, map { "G/$_/PayoutRate" } 1 .. 25);
    is_deeply(publish(), [25, 0], 'all are published');
    my @requests = sort { $a->{time} <=> $b->{time} } $billing->take;
    cmp_ok($requests[-1]{time} - $requests[0]{time}, '>', 1, 'at that rate');
    is($requests[0]{headers}{'webhook-signature'}, undef, 'without a secret, without a signature');
    my @main = sort { $a->{time} <=> $b->{time} } $main->take;
    cmp_ok($main[-1]{time}, '<', $requests[-1]{time}, 'the other one has its events before');
};

subtest 'secrets are rotated, endpoints removed and added while events wait' => sub {
    set_billing(q{secret => 'first secret'});
    is($node->ask(q{SELECT apapacho_outbox_rotate_secret('billing', 'second secret')}), 't', 'rotated');
    emit($node, 'H/1/One');
    publish();
    my ($request) = $billing->take;
    is(scalar(split(/ /, $request->{headers}{'webhook-signature'})), 2, 'two signatures for a while');
    $node->ask(q{UPDATE apapacho_jobs.outbox_endpoint SET previous_secret_until = now() WHERE name = 'billing'});
    emit($node, 'H/1/Two');
    publish();
    ($request) = $billing->take;
    ok(signed_with($request, 'second secret'), 'then one');
    $main->take;

    $billing->answer(Waits => 503);
    my ($id) = emit($node, 'H/2/Waits');
    is_deeply(publish(), [0, 1], 'it fails there');
    is($node->ask(q{SELECT apapacho_outbox_remove_endpoint('billing'), apapacho_outbox_remove_endpoint('billing')}), 't|f', 'removed');
    is_deeply(publish(), [1, 0], 'what waited for it alone is published');
    is(scalar($main->take), 1, 'and not sent to others again');
    is($node->ask('SELECT count(*) FROM apapacho_jobs.outbox_retry'), '0', 'no row is left');
    $billing->answer(Waits => 200);
    $billing->take;

    is($node->ask("SELECT apapacho_outbox_redeliver('$id', 'default')"), 't', 'sent again to one');
    is_deeply(publish(), [1, 0], 'published again');
    is(scalar($main->take), 1, 'that one has it');
    set_billing();
    is($node->ask("SELECT apapacho_outbox_redeliver('$id', 'billing')"), 't', 'to another one');
    is_deeply(publish(), [1, 0], 'published again');
    is(scalar($main->take) . scalar($billing->take), '01', 'that one has it');
    is($node->ask(q{SELECT apapacho_outbox_redeliver_since(now() - interval '1 hour', 'Waits')}), '1', 'to all');
    is_deeply(publish(), [1, 0], 'published again');
    is(scalar($main->take) . scalar($billing->take), '11', 'both have it');

    # a publisher that waits for commits sees a new endpoint before the first event that is committed after it
    apply($node, 'apapacho_jobs.outbox_wake_on_commit' => 'on');
    emit($node, 'H/3/Before');
    $main->wait_for(1);
    for my $round (1 .. 5) {
        $node->ask(q{SELECT apapacho_outbox_remove_endpoint('billing')});
        set_billing();
        my ($after) = emit($node, "H/$round/After");
        $node->wait_for(qq{SELECT "publishedAt" IS NOT NULL FROM "OutboxEvent" WHERE id = '$after'}, 'it is published');
        is(scalar(grep { $_->{headers}{'webhook-id'} eq $after } $billing->take), 1, 'the new one has it');
    }
    apply($node, 'apapacho_jobs.outbox_wake_on_commit' => 'off');
    $main->take;
};

subtest 'without the default one; filters on it; nobody wants it' => sub {
    apply($node, 'apapacho_jobs.outbox_webhook_url' => '');
    set_billing(q{event_types => ARRAY['Payout*']});
    my ($nobody, $one) = emit($node, 'I/1/Other', 'I/1/PayoutX');
    is_deeply(publish(), [2, 0], 'what nobody is to have is published');
    is(types_of([$billing->take]), 'PayoutX', 'the other one is sent');
    apply($node, 'apapacho_jobs.outbox_webhook_url' => $main->url);
    $node->ask(q{SELECT apapacho_outbox_set_endpoint('default', NULL, event_types => ARRAY['Other'])});
    emit($node, 'I/2/Other', 'I/2/PayoutX');
    is_deeply(publish(), [2, 0], 'both are published');
    is(types_of([$main->take]) . ' ' . types_of([$billing->take]), 'Other PayoutX', 'each has its own');
    $node->ask(q{SELECT apapacho_outbox_set_endpoint('default', NULL)});
};

subtest 'what an endpoint may not be' => sub {
    my $error = sub { return $node->error_of("SELECT apapacho_outbox_set_endpoint($_[0])") };
    like($error->(q{'x', 'ftp://example.org/'}), qr/ERROR:  22023: the URL of the endpoint "x" cannot be used.*DETAIL:/s, 'a URL');
    unlike($error->(q{'x', 'ftp://user:password@example.org/'}), qr/DETAIL:.*password/, 'whose credentials are not told');
    like($error->(q{'x', NULL}), qr/must have a URL/, 'none');
    like($error->(q{'default', 'http://example.org/'}), qr/the URL of the endpoint "default" is a setting.*HINT/s, 'the default one');
    like($error->(q{'x', 'http://example.org/', secret => 'whsec_%%%'}), qr/the secret of the endpoint "x" cannot be used/, 'a secret');
    like($error->(q{'x', 'http://example.org/', headers => '{"a b": "c"}'}), qr/"a b" is not the name of an HTTP header/, 'a header');
    like($error->(q{'x', 'http://example.org/', headers => '{"Webhook-Id": "c"}'}), qr/the header "Webhook-Id" is not an endpoint's own/, 'one of ours');
    like($error->(qq{'x', 'http://example.org/', headers => '{"a": "b\\r\\nc"}'}), qr/the value of the header "a" cannot be used/, 'a line end');
    like($error->(q{'x', 'http://example.org/', event_types => '{}'}), qr/ERROR:  23514/, 'no types');
    like($error->(q{'x', 'http://example.org/', concurrency => 0}), qr/ERROR:  23514/, 'a limit');
    like($node->error_of(q{DELETE FROM apapacho_jobs.outbox_endpoint}), qr/the endpoint "default" cannot be removed/, 'the default one stays');
    like($node->error_of(q{UPDATE apapacho_jobs.outbox_endpoint SET name = 'other' WHERE name = 'billing'}), qr/cannot be renamed/, 'and names');

    $node->ask('CREATE ROLE keeper LOGIN; CREATE ROLE monitor LOGIN IN ROLE pg_monitor;
        GRANT USAGE ON SCHEMA apapacho_jobs TO keeper; GRANT SELECT, INSERT, UPDATE, DELETE ON apapacho_jobs.outbox_endpoint TO keeper');
    like($node->error_of(q{SELECT apapacho_outbox_set_endpoint('x', 'http://example.org/')}, role => 'monitor'), qr/42501/, 'not by everybody');
    like($node->error_of(q{SELECT secret FROM apapacho_jobs.outbox_endpoint}, role => 'monitor'), qr/42501/, 'secrets are not for monitoring');
    like($node->error_of(q{SELECT url FROM apapacho_jobs.outbox_endpoint}, role => 'monitor'), qr/42501/, 'nor URLs');
    is($node->ask(q{SELECT count(*) FROM apapacho_jobs.outbox_status}, role => 'monitor'), '2', 'the state is');
    like($node->error_of(q{INSERT INTO apapacho_jobs.outbox_endpoint (name, url, secret_file) VALUES ('x', 'http://example.org/', '/etc/passwd')}, role => 'keeper'),
        qr/ERROR:  42501: permission denied to set column "secret_file"/, 'files of the server are not for whoever may change endpoints');
    is($node->error_of(q{INSERT INTO apapacho_jobs.outbox_endpoint (name, url) VALUES ('x', 'http://example.org/')}, role => 'keeper'), '', 'all else is');
    $node->ask(q{SELECT apapacho_outbox_remove_endpoint('x')});
};

subtest 'what is wrong with one of them, and addresses that are not for it' => sub {
    $node->ask(q{UPDATE apapacho_jobs.outbox_endpoint SET secret_file = '/nonexistent/secret' WHERE name = 'billing'});
    my ($id) = emit($node, 'J/1/PayoutX');
    my $answer = process($node);
    is_deeply([@{$answer}{qw(processed failed)}], [0, 0], 'a secret that cannot be read');
    like($answer->{errors}[0], qr/billing: could not open the webhook secret's file/, 'the answer says so');
    is(scalar($main->take), 1, 'the other one has the event');
    like($node->ask(q{SELECT last_error FROM apapacho_jobs.outbox_status WHERE endpoint = 'billing'}), qr/could not open/, 'so does the view');
    set_billing();
    $node->ask(q{SELECT apapacho_outbox_resume('billing')});
    is_deeply(publish(), [1, 0], 'mended');
    $billing->take;

    apply($node, 'apapacho_jobs.outbox_allowed_addresses' => '');
    ($id) = emit($node, 'J/2/PayoutX');
    is_deeply(publish(), [0, 1], 'an endpoint cannot point at the server by naming it');
    is(scalar($billing->take), 0, 'nothing is sent there');
    like(event($node, $id, '"lastError"'), qr/billing: .*not allowed/, 'which the event says');
    is(scalar($main->take), 1, "the administrator's own setting can");
    apply($node, 'apapacho_jobs.outbox_allowed_addresses' => '127.0.0.0/8');
    due_now($node);
    is_deeply(publish(), [1, 0], 'allowed');
    $billing->take;
};

subtest 'endpoints are dumped, the default one is made anew' => sub {
    my $file = $node->basedir . '/dump.sql';
    $node->command_ok(['pg_dump', '--file', $file, $node->connstr('postgres')], 'pg_dump');
    $node->ask('CREATE DATABASE restored');
    $node->command_ok(['psql', '-X', '-q', '-o', $node->basedir . '/restore.out', '-v', 'ON_ERROR_STOP=1', '-f', $file,
        $node->connstr('restored')], 'psql, without an error');
    is($node->ask('SELECT name, url IS NOT NULL FROM apapacho_jobs.outbox_endpoint ORDER BY 1', database => 'restored'), "billing|t\ndefault|f", 'both are there');
    $node->ask('DROP DATABASE restored');
};

# Orders, with failures by chance and kills: each endpoint gets each event of an aggregate first in order, and all of them.
subtest 'order at each of them, under failures and kills' => sub {
    set_billing(q{event_types => ARRAY['*'], concurrency => 8});
    $_->answer('*' => 'flaky') for $main, $billing;
    apply($node, 'apapacho_jobs.outbox_wake_on_commit' => 'on', 'apapacho_jobs.outbox_retry_schedule' => '50 ms', 'apapacho_jobs.outbox_max_retries' => 1000,
        'apapacho_jobs.outbox_workers' => 2, 'apapacho_jobs.outbox_batch_size' => 20); # most claims begin where another has ended
    $node->ask('TRUNCATE "OutboxEvent"');
    $_->take for $main, $billing;
    for my $batch (0 .. $kills) {
        $node->ask(sprintf(q{INSERT INTO "OutboxEvent" (id, "aggregateType", "aggregateId", "eventType", payload, "createdAt")
            SELECT gen_random_uuid(), 'Agg', (n %% %d)::text, lpad(n::text, 7, '0'), '{}', localtimestamp(3) - interval '1 day' + n * interval '1 ms'
            FROM generate_series(%d, %d) n}, $aggregates, $events * $batch / ($kills + 1) + 1, $events * ($batch + 1) / ($kills + 1)));
        my ($pid) = $node->pids('worker');
        $node->kill_hard($pid) if $batch < $kills && $pid;
    }
    $node->wait_for(q{SELECT count(*) FILTER (WHERE "publishedAt" IS NULL) = 0 FROM "OutboxEvent"}, 'all are published');
    is($node->ask('SELECT count(*) FROM "OutboxEvent"'), $events, 'all are there');
    for my $name (qw(main billing)) {
        my $recorder = $name eq 'main' ? $main : $billing;
        my (%seen, %last, @wrong);
        for my $request (sort { $a->{time} <=> $b->{time} } $recorder->take) {
            my ($type) = $request->{headers}{'x-event-type'};
            my ($aggregate) = $request->{body} =~ /"aggregateId":"(\d+)"/;
            push @wrong, "$aggregate: $type after $last{$aggregate}" if !$seen{$type}++ && $type lt ($last{$aggregate} // '');
            $last{$aggregate} = $type if $type gt ($last{$aggregate} // '');
        }
        is(scalar(keys %seen), $events, "$name: nothing is lost");
        is_deeply(\@wrong, [], "$name: nothing overtakes");
    }
};

$node->stop;
done_testing();
