# 025_waiting.pl: of events that wait for a retry, or stand behind one of their aggregate that does, which go out and in which order:
# held against a model, where outbox_retry is small enough for a claim to read it whole, and where it is asked row by row.
#
# WAITING_SEED makes it the same again.
use strict;
use warnings;

use Apapacho;
use Outbox;
use Recorder;
use Test::More;
use Time::HiRes qw(time);

my $seed = $ENV{WAITING_SEED} // int(time() * 1000) % 1_000_000;
my $recorder = Recorder->start;
my $node = Apapacho->create('main', tables => 'own', settings => {
    'apapacho_jobs.outbox_cron' => '',
    'apapacho_jobs.outbox_wake_on_commit' => 'off',
    'apapacho_jobs.outbox_publisher_type' => 'webhook',
    'apapacho_jobs.outbox_max_retries' => 5,
    'apapacho_jobs.outbox_batch_size' => 20,
    'apapacho_jobs.outbox_webhook_url' => $recorder->url });

diag("WAITING_SEED=$seed");
srand($seed);
$node->wait_for_scheduler;

# Events of ten aggregates, a few of one millisecond. Some have been tried: their time has come, or not; or they failed for good.
sub make_events {
    my ($round) = @_;
    my (@events, @rows, @retries);

    for my $n (1 .. 300) {
        my $event = { id => sprintf('%d-%04d', $round, int(rand 10_000)), aggregate => int(rand 10), at => int(rand 200), retries => 0 };
        my $dice = rand();
        next if grep { $_->{id} eq $event->{id} } @events;
        if ($dice < 0.12) { @{$event}{qw(retries waits)} = (1, $dice < 0.04 ? 'later' : 'due'); }
        elsif ($dice < 0.14) { @{$event}{qw(retries waits)} = (5, 'later'); }
        push @events, $event;
        push @rows, "('$event->{id}', 'Waiting', '$event->{aggregate}', 'Waiting', '{}', timestamp '2026-01-01' + $event->{at} * interval '1 ms', $event->{retries})";
        push @retries, "('$event->{id}', 'Waiting', '$event->{aggregate}', 1, now() + interval '" . ($event->{waits} eq 'due' ? -1 : 1) . " day')" if $event->{waits};
    }
    $node->ask('INSERT INTO "OutboxEvent" (id, "aggregateType", "aggregateId", "eventType", payload, "createdAt", "retryCount") VALUES ' . join(', ', @rows)
        . '; INSERT INTO apapacho_jobs.outbox_retry (event_id, aggregate_type, aggregate_id, attempts, next_attempt_at) VALUES ' . join(', ', @retries));
    return @events;
}

sub is_before {
    my ($one, $other) = @_;
    return $one->{at} < $other->{at} || ($one->{at} == $other->{at} && (!$other->{waits} || $one->{id} lt $other->{id}));
}

# Those that are tried now: pending, not waiting, and behind none of their aggregate that still waits.
sub expected {
    my (@events) = @_;
    my @pending = grep { $_->{retries} < 5 } @events;
    my @later = grep { ($_->{waits} // '') eq 'later' } @pending;

    return grep {
        my $event = $_;
        ($event->{waits} // '') ne 'later'
            && !grep { $_->{aggregate} == $event->{aggregate} && is_before($_, $event) } @later
    } @pending;
}

my $round = 0;
for my $way ('read at once', 'asked row by row') {
    subtest "outbox_retry, $way" => sub {
        if ($way ne 'read at once') {
            # of events that are gone
            $node->ask(q{INSERT INTO apapacho_jobs.outbox_retry (event_id, aggregate_type, aggregate_id, attempts, next_attempt_at)
                SELECT 'gone ' || repeat('x', 100) || n, 'Waiting', 'gone' || n, 1, now() + interval '1 day' FROM generate_series(1, 15000) AS n});
            cmp_ok($node->ask(q{SELECT pg_relation_size('apapacho_jobs.outbox_retry') / current_setting('block_size')::int}), '>', 256, 'it is large');
        }
        for (1 .. 5) {
            my %event = map { $_->{id} => $_ } make_events(++$round);
            $node->run_job('outbox');
            my @sent = map { $_->{headers}{'webhook-id'} } $recorder->take;
            is(join(' ', sort @sent), join(' ', sort map { $_->{id} } expected(values %event)), 'what is due goes out, and nothing else');
            my (%last, @wrong);
            for my $event (map { $event{$_} } @sent) {
                my $last = $last{ $event->{aggregate} };
                push @wrong, "$last->{id} $event->{id}" if $last && $last->{at} > $event->{at};
                $last{ $event->{aggregate} } = $event;
            }
            is(join(', ', @wrong), '', 'in the order of their aggregate');
            $node->ask(q{TRUNCATE "OutboxEvent"; DELETE FROM apapacho_jobs.outbox_retry WHERE event_id NOT LIKE 'gone%'});
        }
    };
}

$node->stop;
$recorder->stop;
done_testing();
