# 031_payout_reversals.pl: refunds and chargebacks before, while and after a payout is on its way, also when no trigger tells of them; what
# is owed is carried until it is paid off; preview says what the next run does; the ledger follows, and nothing differs in the end.
use strict;
use warnings;

use Apapacho;
use JSON::PP ();
use Test::More;

my $node = Apapacho->create('main', tables => 'own');
$node->wait_for_scheduler;
$node->ask('SELECT apapacho_payout_install_guards()');

sub sell {
    my ($creator, %sales) = @_;
    $node->ask(qq{INSERT INTO "Creator" (id, "userId", "updatedAt") VALUES ('$creator', 'u-$creator', '2025-01-01') ON CONFLICT DO NOTHING});
    for my $id (sort keys %sales) {
        $node->ask(qq{INSERT INTO "Transaction" (id, "creatorId", "fanUserId", "productType", "grossAmount", "appliedFeeScheduleId",
                "appliedPlatformFeeBps", "platformFeeAmount", "creatorPayableAmount", "occurredAt", provider, "providerPaymentId", "providerEventId")
            SELECT '$id', '$creator', 'fan', 'TIP', $sales{$id}, id, 0, 0, $sales{$id}, '2025-01-02', 'p', 'p', 'e-$id' FROM "FeeSchedule"});
    }
    return;
}

sub set { my ($status, @ids) = @_; $node->ask(qq{UPDATE "Transaction" SET status = '$status' WHERE id = ANY (string_to_array('@ids', ' '))}); return; }

# What a run would do, and then did: both must say the same, and nothing may differ afterwards.
my $number = 0;
sub run {
    my (%options) = @_;
    my $who = q{SELECT creator_id, payable, reason, adjustments, payout_amount FROM apapacho_payout_preview(true) ORDER BY 1};
    my $preview = $node->ask($who);
    my $position = $node->ask('SELECT coalesce(max(id), \'\') FROM "Payout"');
    my $answer = JSON::PP::decode_json($node->ask('SELECT apapacho_payout_run(forced => true)'));
    my $did = $node->ask(qq{SELECT "creatorId", 't', '', "adjustmentsTotal", "payoutAmount" FROM "Payout" WHERE id > '$position' UNION ALL
        SELECT creator_id, 'f', reason, adjustments, NULL FROM apapacho_jobs.payout_not_paid WHERE run_id = '$answer->{payoutRun}' ORDER BY 1});

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    $number++;
    is($did, $preview, "run $number does what was previewed");
    is($node->ask('SELECT * FROM apapacho_payout_reconcile()'), '', "run $number leaves no difference");
    is(JSON::PP::decode_json($node->ask('SELECT apapacho_payout_run(forced => true)'))->{created}, 0, "after run $number nothing is left to do")
        unless $options{once};
    return $answer;
}

sub payout { my ($creator) = @_; return $node->ask(qq{SELECT id FROM "Payout" WHERE "creatorId" = '$creator' AND status NOT IN ('CANCELLED', 'FAILED') ORDER BY id DESC LIMIT 1}); }
sub payouts { my ($creator) = @_; return $node->ask(qq{SELECT status, "adjustmentsTotal", "payoutAmount" FROM "Payout" WHERE "creatorId" = '$creator' ORDER BY id}); }
sub adjustments { my ($creator) = @_; return $node->ask(qq{SELECT kind, amount, payout_id IS NOT NULL FROM apapacho_jobs.payout_adjustment WHERE creator_id = '$creator' ORDER BY id}); }
sub reason { my ($creator) = @_; return $node->ask(qq{SELECT reason, adjustments FROM apapacho_payout_preview() WHERE creator_id = '$creator'}); }
sub sent { my ($payout) = @_; $node->ask("SELECT apapacho_payout_mark_sent('$payout', 'T-$payout')"); return; }

subtest 'before it is sent: recalled and calculated anew, or not at all' => sub {
    sell('before', b1 => 30_000, b2 => 25_000, b3 => 10_000);
    run();
    set('REFUNDED', 'b1');
    run();
    is(payouts('before'), "CANCELLED|0|65000\nCALCULATED|0|35000", 'without what was refunded');
    set('DISPUTED', 'b2');
    run();
    is(payouts('before'), "CANCELLED|0|65000\nCANCELLED|0|35000", 'too little is left');
    is(reason('before'), 'BELOW_MINIMUM|0', 'which is the reason');
    set('SUCCEEDED', 'b2');
    run();
    is(payouts('before'), "CANCELLED|0|65000\nCANCELLED|0|35000\nCALCULATED|0|35000", 'a dispute that was won');
    is(adjustments('before'), '', 'nothing of this is an adjustment');
    is($node->ask(q{SELECT string_agg("eventType", ' ' ORDER BY e.id) FROM "OutboxEvent" AS e JOIN "Payout" AS p ON p.id = "aggregateId"
        WHERE "creatorId" = 'before'}), 'PayoutCalculated PayoutCancelled PayoutCalculated PayoutCancelled PayoutCalculated', 'each step is an event');
};

subtest 'after it was sent: taken off what comes next, once' => sub {
    sell('after', a1 => 30_000, a2 => 25_000);
    run();
    sent(payout('after'));
    set('CHARGEDBACK', 'a1');
    run();
    is(adjustments('after'), 'CHARGEBACK|-30000|f', 'owed');
    is(reason('after'), 'NEGATIVE_BALANCE|-30000', 'and stated');
    is($node->ask(q{SELECT balance FROM apapacho_jobs.payout_balance WHERE creator_id = 'after'}), '-30000', 'as a balance too');
    sell('after', a3 => 20_000);
    run();
    is(reason('after'), 'NEGATIVE_BALANCE|-30000', 'not paid off yet: nothing of it is lost');
    sell('after', a4 => 29_999);
    run();
    is(reason('after'), 'BELOW_MINIMUM|-30000', 'a peso below the minimum');
    sell('after', a5 => 1);
    run();
    is(payouts('after'), "SENT|0|55000\nCALCULATED|-30000|20000", 'paid off');
    is(adjustments('after'), 'CHARGEBACK|-30000|t', 'carried');
    set('SUCCEEDED', 'a1');
    run();
    is(adjustments('after'), "CHARGEBACK|-30000|t\nREINSTATED|30000|t", 'a chargeback that was won comes back');
    is(payouts('after'), "SENT|0|55000\nCALCULATED|-30000|20000\nCALCULATED|30000|30000", 'as a payout without any transaction');
    set('REFUNDED', 'a1', 'a2');
    run();
    is(adjustments('after'), "CHARGEBACK|-30000|t\nREINSTATED|30000|t\nREFUND|-30000|f\nREFUND|-25000|f", 'each reversal by itself');
};

subtest 'a payout that carries adjustments is cancelled: they are carried by the next' => sub {
    sell('carried', c1 => 30_000);
    run();
    sent(payout('carried'));
    set('REFUNDED', 'c1');
    sell('carried', c2 => 60_000);
    run();
    is(payouts('carried'), "SENT|0|30000\nCALCULATED|-30000|30000", 'carried');
    $node->ask(sprintf(q{SELECT apapacho_payout_mark_cancelled('%s', 'wrong account')}, payout('carried')));
    is(adjustments('carried'), 'REFUND|-30000|f', 'open again, in the same commit');
    run();
    is(payouts('carried'), "SENT|0|30000\nCANCELLED|-30000|30000\nCALCULATED|-30000|30000", 'and carried again');
    my $payout = payout('carried');
    $node->ask("SELECT apapacho_payout_mark_failed('$payout', 'closed', NULL, true)");
    run();
    like(payouts('carried'), qr/FAILED\|-30000\|30000\nCALCULATED\|-30000\|30000$/, 'also when it has failed for good');
    like($node->error_of(qq{UPDATE "Payout" SET status = 'PENDING' WHERE id = '$payout'}), qr/ERROR:  23505/, 'the failed one cannot come back beside it');
};

subtest 'in flight: nobody knows whether it is paid' => sub {
    sell('flight', f1 => 30_000, f2 => 40_000);
    run();
    my $payout = payout('flight');
    $node->ask(qq{UPDATE "Payout" SET status = 'PENDING' WHERE id = '$payout'});
    set('REFUNDED', 'f1');
    run();
    is(payouts('flight'), 'PENDING|0|70000', 'it is left alone');
    is(adjustments('flight'), 'REFUND|-30000|f', 'what was refunded is owed');
    $node->ask("SELECT apapacho_payout_mark_failed('$payout', 'no such account')");
    run();
    is(payouts('flight'), "CANCELLED|0|70000\nCALCULATED|0|40000", 'it has failed: recalled and calculated anew');
    is(adjustments('flight'), "REFUND|-30000|t\nREINSTATED|30000|t", 'nothing is owed any more');
};

subtest 'what no trigger has told is found by a complete run' => sub {
    sell('missed', m1 => 30_000, m2 => 5_000);
    run();
    sent(payout('missed'));
    $node->ask(q{ALTER TABLE "Transaction" DISABLE TRIGGER USER});
    set('CHARGEDBACK', 'm1');
    $node->ask('SELECT apapacho_payout_install_guards()');
    run();
    is(adjustments('missed'), 'CHARGEBACK|-30000|f', 'as owed');
    $node->ask(q{ALTER TABLE "Transaction" DISABLE TRIGGER USER});
    set('SUCCEEDED', 'm1');
    run();
    is(adjustments('missed'), "CHARGEBACK|-30000|f\nREINSTATED|30000|f", 'runs without those triggers look at everybody');
    is($node->ask(q{SELECT bool_and(complete) FROM (SELECT complete FROM apapacho_jobs.payout_run ORDER BY id DESC LIMIT 2) AS r}), 't', 'always');
    $node->ask('SELECT apapacho_payout_install_guards()');
};

subtest 'by hand' => sub {
    sell('hand', h1 => 30_000);
    like($node->error_of(q{SELECT apapacho_payout_adjust('nobody', 1, 'x')}), qr/ERROR:  P0002/, 'nobody');
    like($node->error_of(qq{SELECT apapacho_payout_adjust('hand', $_, 'x')}), qr/ERROR:  22023/, "amount $_") for 0, 'NULL';
    $node->ask(q{SELECT apapacho_payout_adjust('hand', -5000, 'advance')});
    run();
    is(payouts('hand'), 'CALCULATED|-5000|25000', 'an advance is taken off');
};

subtest 'accounts' => sub {
    is($node->ask(q{SELECT a.code, sum(debit) - sum(credit) FROM "LedgerEntry" AS e JOIN "LedgerAccount" AS a ON a.id = "accountId"
        GROUP BY 1 HAVING sum(debit) <> sum(credit) ORDER BY 1}),
        $node->ask(q{SELECT * FROM (SELECT 'CASH_PROCESSOR_CLEARING', -sum("payoutAmount") FROM "Payout" WHERE status = 'SENT' UNION ALL
            SELECT 'CREATOR_PAYABLE', sum("payoutAmount") - (SELECT sum(amount) FROM apapacho_jobs.payout_adjustment) FROM "Payout"
                WHERE status NOT IN ('CANCELLED', 'FAILED') UNION ALL
            SELECT 'PAYOUT_PENDING', -sum("payoutAmount") FROM "Payout" WHERE status NOT IN ('CANCELLED', 'FAILED', 'SENT') UNION ALL
            SELECT 'REFUND_EXPENSE', sum(amount) FROM apapacho_jobs.payout_adjustment) AS x ORDER BY 1}), 'say what payouts and adjustments say');
    is($node->ask(q{SELECT sum(debit) = sum(credit) FROM "LedgerEntry"}), 't', 'debit = credit');
    is($node->ask(q{SELECT count(*) FROM (SELECT FROM "LedgerEntry" GROUP BY "payoutId" HAVING sum(debit) <> sum(credit)) AS x}), '0', 'for each payout');
};

$node->stop;
done_testing();
