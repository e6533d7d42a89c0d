# 032_payout_states.pl: every change of a payout's status, by whoever makes it; reports that come late or again; failures beyond the
# third; unknown outcomes; each with its event, its entries and a row of the log.
use strict;
use warnings;

use Apapacho;
use JSON::PP ();
use Test::More;

my $node = Apapacho->create('main', tables => 'own');
$node->wait_for_scheduler;
$node->ask(q{SELECT apapacho_payout_install_guards();
    INSERT INTO "Creator" (id, "userId", "updatedAt") VALUES ('ana', 'u', '2025-01-01')});

# A payout of one transaction, by a run.
my $count = 0;
sub payout {
    my $id = 't' . ++$count;
    $node->ask(qq{INSERT INTO "Transaction" (id, "creatorId", "fanUserId", "productType", "grossAmount", "appliedFeeScheduleId",
            "appliedPlatformFeeBps", "platformFeeAmount", "creatorPayableAmount", "occurredAt", provider, "providerPaymentId", "providerEventId")
        SELECT '$id', 'ana', 'fan', 'TIP', 30000, id, 0, 0, 30000, '2025-01-02', 'p', 'p', 'e-$id' FROM "FeeSchedule"});
    return JSON::PP::decode_json($node->ask(q{SELECT apapacho_payout_create('ana', true)}))->{payoutId};
}

sub mark {
    my ($what, $payout, @arguments) = @_;
    my $list = join(', ', map { defined ? /^(true|NULL)$/ ? $_ : "'$_'" : 'NULL' } $payout, @arguments);
    return JSON::PP::decode_json($node->ask("SELECT apapacho_payout_mark_$what($list)"));
}

sub events { my ($payout) = @_; return $node->ask(qq{SELECT string_agg("eventType", ' ' ORDER BY id) FROM "OutboxEvent" WHERE "aggregateId" = '$payout'}); }
sub changes { my ($payout) = @_; return $node->ask(qq{SELECT string_agg(from_status || '>' || to_status, ' ' ORDER BY id) FROM apapacho_jobs.payout_transition WHERE payout_id = '$payout'}); }
sub claimed { my ($payout) = @_; return $node->ask(qq{SELECT count(*) FROM apapacho_jobs.payout_claim WHERE payout_id = '$payout'}); }
sub ledger {
    my ($payout) = @_;
    return $node->ask(qq{SELECT string_agg(a.code || ' ' || debit || ' ' || credit, ', ' ORDER BY e.id) FROM "LedgerEntry" AS e
        JOIN "LedgerAccount" AS a ON a.id = "accountId" WHERE "payoutId" = '$payout'});
}

my $calculated = 'CREATOR_PAYABLE 30000 0, PAYOUT_PENDING 0 30000';
my $sent = 'PAYOUT_PENDING 30000 0, CASH_PROCESSOR_CLEARING 0 30000';
my $reversed = 'PAYOUT_PENDING 30000 0, CREATOR_PAYABLE 0 30000';

subtest 'any status after any other, by a plain UPDATE' => sub {
    my %way = (CALCULATED => [], PENDING => ['PENDING'], SENT => ['SENT'], FAILED => ['FAILED'], CANCELLED => ['CANCELLED']);
    my %allowed = map { $_ => 1 } qw(CALCULATED-PENDING CALCULATED-SENT CALCULATED-FAILED CALCULATED-CANCELLED PENDING-SENT PENDING-FAILED
        PENDING-CANCELLED FAILED-PENDING FAILED-CANCELLED);
    my %held = map { $_ => 1 } qw(CALCULATED PENDING SENT);

    for my $from (sort keys %way) {
        for my $to (sort keys %way) {
            my $payout = payout();
            $node->ask(qq{UPDATE "Payout" SET status = '$_' WHERE id = '$payout'}) for @{ $way{$from} };
            my $before = ledger($payout);
            my $error = $node->error_of(qq{UPDATE "Payout" SET status = '$to' WHERE id = '$payout'});
            my $may = $allowed{"$from-$to"} || $from eq $to;
            my $now = $may ? $to : $from;

            like($error, $may ? qr/^$/ : qr/ERROR:  55000: payout "$payout" is $from and cannot become $to/, "$from to $to: " . ($may ? 'may be' : 'refused'));
            is($node->ask(qq{SELECT status FROM "Payout" WHERE id = '$payout'}), $now, "$from to $to: is $now");
            is(claimed($payout), $held{$now} ? 1 : 0, "$from to $to: holds its transaction, or not");
            my $expected = $before;
            $expected .= ", $sent" if $now eq 'SENT' && $from ne 'SENT';
            $expected .= ", $reversed" if !$held{$now} && $held{$from};
            $expected .= ", $calculated" if $held{$now} && !$held{$from};
            is(ledger($payout), $expected, "$from to $to: the ledger");
            $node->ask(qq{UPDATE "Payout" SET status = 'CANCELLED' WHERE id = '$payout'}) unless $now eq 'SENT' || $now eq 'CANCELLED';
            $node->ask(qq{UPDATE "Transaction" SET status = 'REFUNDED' WHERE id = 't$count'}) unless $now eq 'SENT';
        }
    }
    is($node->ask(q{SELECT kind, count(*) FROM apapacho_payout_reconcile() WHERE kind <> 'SENT_WITHOUT_TIME' GROUP BY 1}), '', 'nothing differs');
};

subtest 'sent' => sub {
    my $payout = payout();
    is(mark('sent', $payout, 'T1')->{status}, 'SENT', 'sent');
    is(mark('sent', $payout, 'T1')->{status}, 'SENT', 'reported again: nothing changes');
    like($node->error_of("SELECT apapacho_payout_mark_sent('$payout', 'T2')"), qr/ERROR:  55000/, 'another transfer');
    like($node->error_of("SELECT apapacho_payout_mark_$_('$payout', 'late')"), qr/ERROR:  55000/, "$_ is too late") for qw(failed cancelled);
    is(events($payout), 'PayoutCalculated PayoutSent', 'one event');
    is(changes($payout), 'CALCULATED>SENT', 'one change');
    is(ledger($payout), "$calculated, $sent", 'the ledger');
};

subtest 'failed, again and again' => sub {
    my $payout = payout();
    is(mark('failed', $payout, 'closed', 'A1')->{retryCount}, 1, 'first');
    for my $time (1 .. 2) {
        my $state = mark('failed', $payout, 'closed', 'A1');
        is("$state->{status} $state->{retryCount}", 'PENDING 1', 'the same attempt, reported again');
    }
    is(mark('failed', $payout, 'closed', 'A2')->{retryCount}, 2, 'second');
    is(mark('failed', $payout, 'closed', 'A1')->{retryCount}, 2, 'the first, late');
    is(claimed($payout), 1, 'it keeps what it holds');
    is(mark('failed', $payout, 'closed', 'A3')->{status}, 'FAILED', 'the third is the last');
    is(claimed($payout), 0, 'and releases it');
    is(mark('failed', $payout, 'closed', 'A3')->{status}, 'FAILED', 'reported again: nothing changes');
    like($node->error_of("SELECT apapacho_payout_mark_failed('$payout', 'closed', 'A4')"), qr/ERROR:  55000/, 'there is no fourth');
    like($node->error_of("SELECT apapacho_payout_mark_sent('$payout', 'A3')"), qr/ERROR:  55000/, 'nor can it be sent');
    is(events($payout), 'PayoutCalculated PayoutFailed PayoutFailed PayoutFailed', 'an event for each failure');
    is(changes($payout), 'CALCULATED>PENDING PENDING>PENDING PENDING>FAILED', 'and a change');
    is(ledger($payout), "$calculated, $reversed", 'the ledger');
    $node->ask(qq{UPDATE "Payout" SET status = 'PENDING' WHERE id = '$payout'});
    is($node->ask(q{SELECT detail FROM apapacho_payout_reconcile() WHERE kind = 'RETRY_COUNT'}), '', 'taken up by somebody: that is written down, and no difference');
    is(mark('failed', $payout, 'closed', 'A5')->{status}, 'FAILED', 'taken up by somebody: any further failure is the last');
    is(ledger($payout), "$calculated, $reversed, $calculated, $reversed", 'the ledger goes with it');
};

subtest 'failed for good at once' => sub {
    $node->ask(q{UPDATE "Transaction" SET status = 'REFUNDED' WHERE status = 'SUCCEEDED' AND id NOT IN (SELECT transaction_id FROM apapacho_jobs.payout_claim)});
    my $payout = payout();
    my $state = mark('failed', $payout, 'no such person', undef, 'true');
    is("$state->{status} $state->{retryCount}", 'FAILED 1', 'terminal');
    is($state->{nextRetryAt}, undef, 'not tried again');
    is(claimed($payout), 0, 'it holds nothing');
};

subtest 'cancelled' => sub {
    $node->ask(q{UPDATE "Transaction" SET status = 'REFUNDED' WHERE status = 'SUCCEEDED' AND id NOT IN (SELECT transaction_id FROM apapacho_jobs.payout_claim)});
    my $payout = payout();
    is(mark('cancelled', $payout, 'wrong')->{status}, 'CANCELLED', 'cancelled');
    is(mark('cancelled', $payout, 'wrong')->{status}, 'CANCELLED', 'reported again: nothing changes');
    like($node->error_of("SELECT apapacho_payout_mark_cancelled('$payout', 'other')"), qr/ERROR:  55000/, 'for another reason');
    like($node->error_of("SELECT apapacho_payout_mark_$_('$payout', 'late')"), qr/ERROR:  55000/, "$_ is too late") for qw(failed sent);
    is(events($payout), 'PayoutCalculated PayoutCancelled', 'one event');
    is(ledger($payout), "$calculated, $reversed", 'the ledger');
};

subtest 'an unknown outcome pays nothing again by itself' => sub {
    my $payout = payout();
    mark('failed', $payout, 'timeout');
    $node->ask(qq{UPDATE "Payout" SET "nextRetryAt" = '2025-01-01' WHERE id = '$payout'});
    is($node->run_job('retry')->{requested}, 1, 'asked for once');
    for my $time (1 .. 3) {
        is($node->run_job('retry')->{requested}, 0, 'not again');
        is(JSON::PP::decode_json($node->ask('SELECT apapacho_payout_run(forced => true)'))->{created}, 0, 'nor paid anew');
    }
    is($node->ask(qq{SELECT status, "nextRetryAt" IS NULL FROM "Payout" WHERE id = '$payout'}), 'PENDING|t', 'it waits for a report');
    is(mark('sent', $payout, 'T9')->{status}, 'SENT', 'which comes');
    is(events($payout), 'PayoutCalculated PayoutFailed PayoutRetryRequested PayoutSent', 'each step is an event');
};

is($node->ask(q{SELECT kind, detail FROM apapacho_payout_reconcile() WHERE kind <> 'SENT_WITHOUT_TIME'}), '', 'nothing differs in the end');
is($node->ask(q{SELECT count(*) FROM (SELECT FROM "LedgerEntry" GROUP BY "payoutId" HAVING sum(debit) <> sum(credit)) AS x}), '0', 'debit = credit for each payout');

$node->stop;
done_testing();
