# 025_not_on_disk.pl: a transaction with synchronous_commit off can be seen before it is on disk; its events go out only when a crash
# cannot undo it any more.
use strict;
use warnings;

use Apapacho;
use Outbox;
use Recorder;
use Test::More;

my $recorder = Recorder->start;
# nothing else writes WAL to disk for ten seconds
my $node = Apapacho->create('main', tables => 'own', settings => {
    'wal_writer_delay' => '10s',
    'apapacho_jobs.outbox_cron' => '0 0 1 1 *',
    'apapacho_jobs.outbox_publisher_type' => 'webhook',
    'apapacho_jobs.outbox_webhook_url' => $recorder->url });

for my $round (1 .. 3) {
    # a publisher that is up, waits for commits, and has nothing else to write down
    $node->wait_for_scheduler;
    emit($node, "First/$round/First");
    $recorder->wait_for(1);
    $node->wait_for(q{SELECT apapacho_outbox_stats()->>'pending' = '0'}, 'the first one is published');

    $recorder->answer(Hang => 'hang');
    my $id = $node->ask("SET synchronous_commit = off; SELECT apapacho_outbox_emit('Late', '$round', 'Hang')");
    my ($request) = $recorder->wait_for(1);
    $node->stop('immediate');
    is($request->{headers}{'webhook-id'}, $id, 'it has gone out');
    $recorder->answer(Hang => 200);
    $node->start;
    is($node->ask(qq{SELECT count(*) FROM "OutboxEvent" WHERE id = '$id'}), '1', 'and is there after the crash');
    $recorder->wait_for(1);
    $node->wait_for(q{SELECT apapacho_outbox_stats()->>'pending' = '0'}, 'it is sent once more, and published');
}

$node->stop;
$recorder->stop;
done_testing();
