# Outbox.pm: what the TAP tests of the outbox share: emitting events, publishing them, looking at what became of them.
#
# Functions on a node of Apapacho's, in the test's own process.
package Outbox;

use strict;
use warnings;

use Exporter qw(import);
use JSON::PP ();
use PostgreSQL::Test::Utils qw(slurp_file);

our @EXPORT = qw(apply arrivals emit process event payload_of types_of due_now start_with_receiver);

my $applied = 0;

# Reloads with these settings and waits until whatever is started from now on has them: the postmaster, which starts it, has.
sub apply {
    my ($node, %settings) = @_;

    $applied++;
    $node->reconfigure(%settings, 'test.applied' => $applied);
    $node->poll_query_until('postgres', "SELECT current_setting('test.applied', true) = '$applied'")
        or die "timed out waiting for a reload\n";
    return;
}

# Starts a node that was created with start => 0, with the extension and the outbox's table, to post to the receiver that writes its port
# into this file.
sub start_with_receiver {
    my ($node, $port_file) = @_;

    $node->wait_until(sub { -s $port_file }, 'the receiver listens');
    chomp(my $port = slurp_file($port_file));
    $node->configure('apapacho_jobs.outbox_webhook_url' => "http://127.0.0.1:$port/");
    $node->start;
    $node->install;
    $node->load_tables('own');
    $node->wait_for_scheduler;
    return;
}

# Events in one transaction, each "aggregateType/aggregateId/eventType", with the payload {}. Returns their ids.
sub emit {
    my ($node, @events) = @_;
    my @calls = map { sprintf("SELECT apapacho_outbox_emit('%s', '%s', '%s');", split(m{/}, $_)) } @events;

    return split(/\n/, $node->ask(join("\n", 'BEGIN;', @calls, 'COMMIT')));
}

# apapacho_outbox_process: its answer as a hash, without what differs from run to run.
sub process {
    my ($node, $batch_size) = @_;
    my $answer = JSON::PP::decode_json($node->ask('SELECT apapacho_outbox_process(' . ($batch_size // '') . ')'));

    delete $answer->{$_} for qw(runId job);
    return $answer;
}

# Columns of an event.
sub event {
    my ($node, $id, $columns, $database) = @_;
    return $node->ask(qq{SELECT $columns FROM "OutboxEvent" WHERE id = '$id'}, database => $database);
}

# The payload's bytes in a recorded request's body.
sub payload_of {
    my ($request) = @_;
    return $request->{body} =~ /"payload":(.*),"occurredAt":"[^"]*"\}\z/s ? $1 : undef;
}

# What the receiver's log says of the events in the table, whose types are sequence numbers: {events, repeated} and what is not as it
# should be: {lost}, {wrong} (signatures), {unknown} (never committed), {out_of_order} (first arrivals, in each aggregate).
sub arrivals {
    my ($node, $log) = @_;
    my %sequence = map { split(/\|/) } split(/\n/, $node->ask(q{SELECT id, "eventType" FROM "OutboxEvent"}));
    my (%arrived, %last);
    my $lines = 0;
    my %found = (events => scalar(keys %sequence), lost => [], wrong => [], unknown => [], out_of_order => []);

    for my $line (split(/\n/, slurp_file($log))) {
        my ($id, $type, $aggregate_type, $aggregate_id, @verdict) = split(/\t/, $line);
        $lines++;
        push @{ $found{wrong} }, $line unless "@verdict" eq '1 1 200';
        push @{ $found{unknown} }, $line unless ($sequence{$id} // '') eq $type;
        next if $arrived{$id}++;
        push @{ $found{out_of_order} }, $line if $type le ($last{$aggregate_id} // '');
        $last{$aggregate_id} = $type;
    }
    $found{lost} = [grep { !$arrived{$_} } sort keys %sequence];
    $found{repeated} = $lines - keys %arrived;
    return %found;
}

# The event types of recorded requests in their order; those of one aggregate type when it is given.
sub types_of {
    my ($requests, $aggregate_type) = @_;
    return join(' ', map { $_->{headers}{'x-event-type'} }
        grep { !defined $aggregate_type || $_->{headers}{'x-aggregate-type'} eq $aggregate_type } @{$requests});
}

# Makes every retry due.
sub due_now {
    my ($node) = @_;
    $node->ask('UPDATE apapacho_jobs.outbox_retry SET next_attempt_at = now()');
    return;
}

1;
