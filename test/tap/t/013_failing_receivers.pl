# 013_failing_receivers.pl: receivers that refuse, redirect, hang, break off or are not there: what is counted, what waits, what goes on.
use strict;
use warnings;

use Apapacho;
use IO::Socket::INET ();
use Outbox;
use Recorder;
use Test::More;
use Time::HiRes qw(time);

my $recorder = Recorder->start;
my $node = Apapacho->create('main', tables => 'own', settings => {
    timezone => 'America/Santiago',
    'apapacho_jobs.outbox_publisher_type' => 'webhook',
    'apapacho_jobs.outbox_wake_on_commit' => 'off',
    'apapacho_jobs.outbox_webhook_url' => $recorder->url,
    'apapacho_jobs.outbox_max_retries' => 4 });

my $unsent = q{"publishedAt" IS NULL};

# How often an event was tried, as its row in outbox_retry says.
sub retry_of {
    my ($id) = @_;
    return $node->ask("SELECT attempts FROM apapacho_jobs.outbox_retry WHERE event_id = '$id'");
}

# That the event is due so many seconds, and up to as many more, after the latest run has tried it.
sub check_retry {
    my ($id, $attempts, $seconds) = @_;

    is(retry_of($id), $attempts, "attempts: $attempts");
    is($node->ask("SELECT next_attempt_at - started_at >= interval '$seconds s', next_attempt_at - finished_at <= 2 * interval '$seconds s'
        FROM apapacho_jobs.run, apapacho_jobs.outbox_retry WHERE event_id = '$id' ORDER BY id DESC LIMIT 1"), 't|t',
        "due after $seconds s and up to as many more");
    return;
}

# apapacho_outbox_stats' figures, after comparing them with the table.
sub stats {
    my $from_table = $node->ask(q{SELECT count(*) || '|' || count(*) FILTER (WHERE "publishedAt" IS NULL AND "retryCount" < 4) || '|' ||
            count("publishedAt") || '|' || count(*) FILTER (WHERE "publishedAt" IS NULL AND "retryCount" >= 4) || '|' ||
            count(*) FILTER (WHERE "publishedAt" IS NULL AND "retryCount" BETWEEN 1 AND 3) FROM "OutboxEvent"});
    my $figures = $node->ask(q{SELECT concat_ws('|', s->>'total', s->>'pending', s->>'published', s->>'failed', s->>'retrying')
        FROM apapacho_outbox_stats() AS s});

    is($figures, $from_table, 'apapacho_outbox_stats agrees with the table');
    return $figures;
}

subtest 'an aggregate waits for its failed event, the others go on' => sub {
    my @ids = emit($node, 'Order/1/Created', 'Payout/1/Sent', 'Order/1/Refused', 'Order/1/Shipped', 'Payout/1/Paid', 'Order/1/Closed',
        'Order/2/Created');
    $recorder->answer(Refused => 503);
    my $answer = process($node);
    my @requests = $recorder->take;

    is_deeply($answer, { status => 'succeeded', processed => 4, failed => 1,
            errors => ["$ids[2]: HTTP 503 Told: told to answer 503"] }, 'the answer');
    is(types_of([grep { $_->{body} =~ /"aggregateType":"Order","aggregateId":"1"/ } @requests]), 'Created Refused', 'up to the failed one');
    is(types_of(\@requests, 'Payout'), 'Sent Paid', 'another aggregate is not held up');
    is(scalar(@requests), 5, 'nor is a third');
    is(event($node, $ids[2], qq{$unsent, "retryCount", "lastError"}), 't|1|HTTP 503 Told: told to answer 503', 'it is counted in its row');
    is(event($node, $ids[3], qq{$unsent, "retryCount", "lastError" IS NULL}), 't|0|t', 'its successor was not tried');
    check_retry($ids[2], 1, 5);
    is(stats(), '7|3|4|0|1', 'pending and retrying');

    emit($node, 'Order/1/Late', 'Payout/1/Late');
    $node->ask(q{UPDATE apapacho_jobs.outbox_retry SET next_attempt_at = now() + interval '1 hour'});
    is(process($node)->{processed}, 1, 'while it waits ...');
    @requests = $recorder->take;
    is(types_of(\@requests) . $requests[0]{headers}{'x-aggregate-type'}, 'LatePayout', '... new events of its aggregate wait too');

    due_now($node);
    is_deeply([@{ process($node) }{qw(processed failed)}], [0, 1], 'it fails again');
    check_retry($ids[2], 2, 300);
    due_now($node);
    $recorder->answer(Refused => 200);
    is(process($node)->{processed}, 4, 'then it is delivered');
    is(types_of([$recorder->take]), 'Refused Refused Shipped Closed Late', 'and the others after it, in order');
    is(event($node, $ids[2], '"publishedAt" IS NOT NULL, "retryCount", "lastError" IS NULL'), 't|2|t', 'its row');
    is($node->ask('SELECT count(*) FROM apapacho_jobs.outbox_retry'), '0', 'no retry is left over');
};

subtest 'events of one millisecond keep their order over a failure' => sub {
    # As the backend writes them: ids that tell nothing. A failure moves the row behind the others in the table and in the index.
    $node->ask(q{INSERT INTO "OutboxEvent" (id, "aggregateType", "aggregateId", "eventType", payload, "createdAt")
        SELECT id, 'Tie', '1', CASE id WHEN 'm' THEN 'Refused' ELSE id END, '{}', '2025-01-01'
        FROM unnest(ARRAY['z', 'm', 'a', 'q']) WITH ORDINALITY AS i (id, n) ORDER BY n});
    $recorder->answer(Refused => 503);
    is_deeply([@{ process($node) }{qw(processed failed)}], [1, 1], 'the second one fails');
    $node->ask('VACUUM "OutboxEvent"');
    due_now($node);
    process($node);
    due_now($node);
    $recorder->answer(Refused => 200);
    is(process($node)->{processed}, 3, 'then it is delivered');
    is(types_of([$recorder->take]), 'z Refused Refused Refused a q', 'as they were inserted');
    $node->ask(q{DELETE FROM "OutboxEvent" WHERE "aggregateType" = 'Tie'});
};

subtest 'the maximum of attempts: failed for good, until it is retried by hand' => sub {
    my ($id, $next) = emit($node, 'Order/3/Hopeless', 'Order/3/Next');
    $recorder->answer(Hopeless => 500);
    for my $attempt (1 .. 4) {
        is(event($node, $next, $unsent), 't', "the next one waits before attempt $attempt");
        process($node);
        due_now($node);
    }
    is(event($node, $id, qq{$unsent, "retryCount", "lastError"}), 't|4|HTTP 500 Told: told to answer 500', 'failed at the maximum');
    is(retry_of($id), '', 'it is not due again');
    is(types_of([$recorder->take]), 'Hopeless Hopeless Hopeless Hopeless Next', 'the next one goes out then');
    is(process($node)->{failed}, 0, 'it is not tried again');
    is(stats(), '11|0|10|1|0', 'counted as failed');
    is($node->ask(q{SELECT id, "aggregateType", "aggregateId", "eventType", "retryCount", "lastError", "publishedAt" IS NULL
        FROM apapacho_outbox_events('failed')}), "$id|Order|3|Hopeless|4|HTTP 500 Told: told to answer 500|t", 'listed as failed');
    is($node->ask(q{SELECT array_agg(id ORDER BY n) = (SELECT array_agg(id ORDER BY "createdAt" DESC, id DESC) FROM "OutboxEvent")
        FROM apapacho_outbox_events('all', NULL) WITH ORDINALITY AS e(id, a, b, c, d, f, g, h, n)}), 't', 'all are listed, the newest first');
    is($node->ask(q{SELECT string_agg(id, ',') = (SELECT string_agg(id, ',') FROM (SELECT id FROM "OutboxEvent"
            WHERE "publishedAt" IS NOT NULL ORDER BY "createdAt" DESC, id DESC LIMIT 3 OFFSET 2) AS t)
        FROM apapacho_outbox_events('published', 3, 2)}), 't', 'limit and offset');

    is($node->ask('SELECT apapacho_outbox_retry_failed()'), '1', 'one is pending again');
    is(event($node, $id, '"retryCount", "lastError" IS NULL'), '0|t', 'with all its attempts before it');
    is(stats(), '11|1|10|0|0', 'counted as pending');
    is($node->ask('SELECT apapacho_outbox_retry_failed()'), '0', 'none is left');
    $recorder->answer(Hopeless => 202);
    is(process($node)->{processed}, 1, 'it is delivered');
    $recorder->take;
};

subtest 'redirects' => sub {
    $recorder->answer(Moved => 'redirect');
    my ($moved) = emit($node, 'Order/5/Moved');
    is_deeply([@{ process($node) }{qw(processed failed)}], [0, 1], 'one fails');
    my @requests = $recorder->take;
    is(event($node, $moved, qq{$unsent, "retryCount", "lastError" ~ '^HTTP 302 '}), 't|1|t', 'a redirect is a failure');
    is(scalar(grep { $_->{line} !~ m{^POST /hook\?a=1 } } @requests), 0, 'and is not followed');
    is(scalar(@requests), 1, 'one request');
    $recorder->answer(Moved => 200);
    due_now($node);
    process($node);
    $recorder->take;
};

# What the endpoint's row says.
sub endpoint { return $node->ask("SELECT $_[0] FROM apapacho_jobs.outbox_endpoint WHERE name = 'default'") }

subtest '410 Gone stops the endpoint, until it is resumed' => sub {
    $recorder->answer(Gone => 410);
    my ($gone, $next) = emit($node, 'Order/4/Gone', 'Order/4/Next');
    my $position = $node->log_position;
    is_deeply([@{ process($node) }{qw(processed failed errors)}], [0, 0, ['HTTP 410 Told: told to answer 410']], 'which says nothing about the event');
    like($node->log_since($position), qr/WARNING: .*gone for good.*HTTP 410.*\n.*HINT: .*apapacho_outbox_resume\(\)/, 'the log says so');
    is(endpoint('stopped_at IS NOT NULL, last_error'), 't|HTTP 410 Told: told to answer 410', 'so does its row');
    is(event($node, $gone, qq{$unsent, "retryCount"}), 't|0', 'the event is kept as it was');
    emit($node, 'Order/6/Created');
    due_now($node);
    my $answer = process($node);
    is_deeply([@{$answer}{qw(processed failed)}], [0, 0], 'nothing else is sent');
    like($answer->{errors}[0], qr/has said that it is gone; apapacho_outbox_resume\(\)/, 'the answer says why');
    is(types_of([$recorder->take]), 'Gone', 'one request in all');
    $recorder->answer(Gone => 200);
    is($node->ask('SELECT apapacho_outbox_resume()'), 't', 'resumed');
    is($node->ask('SELECT apapacho_outbox_resume()'), 'f', 'once');
    is(process($node)->{processed}, 3, 'all are sent');
    is(join(' ', grep { $_ ne 'Created' } split(/ /, types_of([$recorder->take]))), 'Gone Next', 'in their order');
};

subtest 'paused' => sub {
    is($node->ask('SELECT apapacho_outbox_pause(), apapacho_outbox_pause()'), 't|f', 'paused once');
    emit($node, 'Order/7/Created');
    my $answer = process($node);
    is($answer->{processed}, 0, 'nothing is sent');
    like($answer->{errors}[0], qr/paused, until apapacho_outbox_resume\(\)/, 'the answer says why');
    is($node->ask('SELECT apapacho_outbox_resume()'), 't', 'resumed');
    is(process($node)->{processed}, 1, 'it is sent');

    # in the middle of a run
    $recorder->answer(Slow => 'hang');
    apply($node, 'apapacho_jobs.outbox_concurrency' => 1);
    emit($node, map { "Pause/$_/Slow" } 1 .. 3);
    $recorder->take;
    my $run = $node->run_job('outbox', wait => 0)->{runId};
    $recorder->wait_for(1);
    $node->ask('SELECT apapacho_outbox_pause()');
    # it looks every second
    $node->wait_for("SELECT query_start > (SELECT paused_at FROM apapacho_jobs.outbox_endpoint) AND query ~ 'whether events may be sent'
        FROM pg_stat_activity WHERE backend_type = 'apapacho_jobs worker'", 'it has seen that');
    $recorder->answer(Slow => 200);
    $node->wait_for_run("id = $run AND result->>'processed' = '1'");
    is(scalar($recorder->take), 0, 'what was on its way is waited for, nothing else is sent');
    apply($node, 'apapacho_jobs.outbox_concurrency' => 64);
    $node->ask('SELECT apapacho_outbox_resume()');
    is(process($node)->{processed}, 2, 'the others follow');
    $recorder->take;
};

subtest 'receivers that hang, break off or talk nonsense' => sub {
    my %errors = (hang => qr/^timed out after \d+ ms while waiting for the answer$/, reset => qr/reset/i, close => qr/empty reply/i,
        garbage => qr/HTTP|protocol/i, partial => qr/\S/);
    my @kinds = sort keys %errors;

    apply($node, 'apapacho_jobs.outbox_timeout' => 1500);
    $recorder->answer(map { $_ => $_ } @kinds);
    my @ids = emit($node, (map { ("Bad$_/1/$_", "Good/$_/Created") } @kinds), map { "Good/$_/Paid" } @kinds);
    my $started = time();
    my $answer = process($node);
    diag(sprintf('a run with a hung receiver took %.1f s', time() - $started));
    is_deeply([@{$answer}{qw(status processed failed)}, scalar(@{ $answer->{errors} })], ['succeeded', 10, 5, 3],
        'the good ones are delivered, the bad ones fail; three are named');
    for my $index (0 .. $#kinds) {
        my $kind = $kinds[$index];
        my $error = event($node, $ids[2 * $index], '"lastError"');
        like($error, $errors{$kind}, "$kind: $error");
        unlike($error, qr/[^ -~]/, "$kind: printable");
        is(event($node, $ids[2 * $index], qq{$unsent, "retryCount"}), 't|1', "$kind: counted");
    }
    my %requests;
    $requests{ $_->{headers}{'x-event-type'} }++ for $recorder->take;
    is_deeply(\%requests, { (map { $_ => 1 } @kinds), Created => 5, Paid => 5 }, 'each is sent once');

    $recorder->answer(map { $_ => 200 } @kinds);
    due_now($node);
    is_deeply([@{ process($node) }{qw(processed failed)}], [5, 0], 'all are delivered later');
    $recorder->take;
    apply($node, 'apapacho_jobs.outbox_timeout' => '15s');
};

subtest 'a receiver that is not there costs a probe, not the backlog' => sub {
    my @ids = emit($node, map { "Down/$_/Created" } 1 .. 200);
    my $closed = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 1) or die "listen: $!";
    my $port = $closed->sockport;
    my $tried = q{SELECT count(*) FROM "OutboxEvent" WHERE "aggregateType" = 'Down' AND "retryCount" > 0};
    close $closed;
    apply($node, 'apapacho_jobs.outbox_concurrency' => 8, 'apapacho_jobs.outbox_webhook_url' => "http://user:pass\@127.0.0.1:$port/");
    my $position = $node->log_position;
    my $answer = process($node);
    is_deeply([@{$answer}{qw(status processed)}], ['succeeded', 0], 'the run');
    cmp_ok($answer->{failed}, '>=', 20, 'after twenty failures ...');
    cmp_ok($answer->{failed}, '<', 40, '... and what was on its way it is left alone');
    like($node->log_since($position), qr/WARNING: .*failed 20 times in a row.*connection refused/, 'the log says so');
    is($node->ask(q{SELECT DISTINCT "retryCount", "lastError" FROM "OutboxEvent" WHERE "retryCount" > 0 AND "aggregateType" = 'Down'}),
        '1|connection refused', 'the reason');
    is($node->ask(q{SELECT count(*) FROM apapacho_jobs.outbox_retry}), $answer->{failed}, 'they are due later');
    is(endpoint(q{open_since IS NOT NULL, probe_at - now() BETWEEN interval '3 s' AND interval '5.6 s', failed_probes, last_error}),
        't|t|0|connection refused', 'its row says so');

    my $before = $node->ask($tried);
    is_deeply([@{ process($node) }{qw(processed failed)}], [0, 1], 'a run by hand probes with one event');
    is($node->ask($tried), $before + 1, 'another one');
    is(endpoint(q{failed_probes, probe_at - now() BETWEEN interval '8 s' AND interval '11.1 s'}), '1|t', 'the next one is later');

    # by schedule it is left alone
    $node->reconfigure('apapacho_jobs.outbox_cron' => '1 seconds');
    my $id = $node->wait_for_run(q{job = 'outbox' AND trigger = 'schedule' AND status = 'succeeded'});
    is($node->ask("SELECT result->>'failed' FROM apapacho_jobs.run WHERE id = $id"), '0', 'a run by schedule does not');
    $node->reconfigure('apapacho_jobs.outbox_cron' => '0 0 1 1 *');
    $node->wait_for(q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'apapacho_jobs worker'}, 'none is at work');

    apply($node, 'apapacho_jobs.outbox_concurrency' => 64, 'apapacho_jobs.outbox_webhook_url' => $recorder->url);
    due_now($node);
    $position = $node->log_position;
    is(process($node)->{processed}, 200, 'when it is back, all are delivered');
    like($node->log_since($position), qr/LOG: .*receiver is back/, 'the log says so');
    is(endpoint('open_since IS NULL, failed_probes'), 't|0', 'its row too');
    is(scalar($recorder->take), 200, 'once each');
};

subtest 'nothing is held while the network is waited for' => sub {
    $recorder->answer(Slow => 'hang');
    apply($node, 'apapacho_jobs.outbox_timeout' => '120s');
    my @ids = emit($node, 'Held/1/Slow', 'Held/1/Next', 'Held/2/Created');
    my $run = $node->run_job('outbox', wait => 0)->{runId};
    $recorder->wait_for(2);
    $node->wait_for(qq{SELECT "publishedAt" IS NOT NULL FROM "OutboxEvent" WHERE id = '$ids[2]'}, 'the others are recorded meanwhile');
    my $worker = $node->ask("SELECT pid FROM apapacho_jobs.run WHERE id = $run AND status = 'running'");
    # Between its records, that is.
    $node->wait_for("SELECT backend_xid IS NULL AND backend_xmin IS NULL AND xact_start IS NULL AND wait_event_type = 'Extension'
        FROM pg_stat_activity WHERE pid = $worker", 'the worker has no transaction and no snapshot');
    for (1 .. 5) {
        is($node->ask("SELECT backend_xid IS NULL, backend_xmin IS NULL, xact_start IS NULL FROM pg_stat_activity WHERE pid = $worker"),
            't|t|t', 'and stays so');
    }
    is($node->ask("SELECT count(*) FROM pg_locks WHERE pid = $worker AND locktype NOT IN ('virtualxid', 'advisory')"), '0',
        'no lock but those of its slots');
    is($node->error_of(q{BEGIN; LOCK TABLE "OutboxEvent" IN ACCESS EXCLUSIVE MODE NOWAIT}), '', 'the table is free');
    is(event($node, $ids[0], qq{$unsent, "retryCount"}), 't|0', 'the event waits for its answer');

    my $started = time();
    $node->ask("SELECT pg_cancel_backend($worker)");
    $node->wait_for_run("id = $run AND status = 'cancelled'");
    diag(sprintf('cancelled after %.1f s', time() - $started));
    cmp_ok(time() - $started, '<', 30, 'the run can be cancelled meanwhile');
    is(event($node, $ids[0], qq{$unsent, "retryCount", "lastError" IS NULL}), 't|0|t', 'which is not an attempt');

    $recorder->answer(Slow => 200);
    is(process($node)->{processed}, 2, 'the next run sends it, and its successor');
    my @requests = $recorder->take;
    is(types_of(\@requests), 'Slow Next', 'in order');
    is($requests[0]{headers}{'webhook-id'}, $ids[0], 'with the same id');
};

subtest 'what was delivered is recorded by a run that is cancelled or shut down' => sub {
    my %ends = (cancelled => 'pg_cancel_backend', interrupted => 'pg_terminate_backend');

    for my $status (sort keys %ends) {
        $recorder->answer(Slow => 'hang');
        my @ids = emit($node, (map { "Quick/$_/Created" } 1 .. 30), 'Held/3/Slow');
        my $run = $node->run_job('outbox', wait => 0)->{runId};
        $recorder->wait_for(31);
        my $worker = $node->ask("SELECT pid FROM apapacho_jobs.run WHERE id = $run");
        $node->ask("SELECT $ends{$status}($worker)");
        $node->wait_for_run("id = $run AND status = '$status'");
        my $sent = $node->ask(q{SELECT count(*) FROM "OutboxEvent" WHERE "aggregateType" = 'Quick' AND "publishedAt" IS NULL});
        diag("$status: the answers to $sent of 30 events had not been read"); # mostly 0, but the worker may be that slow
        is(event($node, $ids[30], qq{$unsent, "retryCount"}), 't|0', "$status: the one in flight is pending");
        $recorder->answer(Slow => 200);
        is(process($node)->{processed}, 1 + $sent, "$status: it is sent by the next run");
        $recorder->take;
    }
};

$node->stop;
done_testing();
