# 038_payout_corruption.pl: what a superuser does to the tables behind the guards' backs, apapacho_payout_reconcile() finds, each of it.
#
# Each corruption is made and looked for in a transaction that is rolled back, with all triggers disabled while it is made.
use strict;
use warnings;

use Apapacho;
use PayoutWorld;
use Test::More;

my $node = Apapacho->create('main', tables => 'fixture', settings => { 'apapacho_jobs.payout_batch_size' => 2 });
my $world = PayoutWorld->new($node);

sub ask { return $world->ask(@_); }

sub sell {
    my (%amounts) = @_;
    for my $id (sort keys %amounts) {
        my ($creator) = $id =~ /^(\w+)-/;
        ask(qq{INSERT INTO "Transaction" (id, "creatorId", "fanUserId", "productType", "grossAmount", "appliedFeeScheduleId", "appliedPlatformFeeBps",
            "platformFeeAmount", "creatorPayableAmount", "occurredAt", provider, "providerPaymentId", "providerEventId")
            VALUES ('$id', '$creator', 'fan', 'TIP', $amounts{$id} + 10, 'first', 0, 10, $amounts{$id}, (now() AT TIME ZONE 'UTC') - interval '9 days',
            'test', 'payment', '$id')});
    }
    return;
}

sub pay { return ask('SELECT apapacho_payout_run(forced => true)'); }

sub payout { my ($creator, $status) = @_; return ask(qq{SELECT id FROM "Payout" WHERE "creatorId" = '$creator' AND status = '$status'}); }

# Creators each with something else, all of it right: ana's is calculated; eva's sent; ida's sent, one item refunded since, which her next payout
# carries; lea's sent and charged back, which nothing carries yet; mia's failed once and waits; noa's cancelled.
$world->set_up;
ask(q{INSERT INTO "FeeSchedule" (id, "effectiveFrom") VALUES ('first', '2020-01-01')});
ask(qq{INSERT INTO "Creator" (id, "userId", "updatedAt") VALUES } . join(', ', map { "('$_', '$_', now())" } qw(ana eva ida lea mia noa)));
$node->wait_for_scheduler;
sell(map { ("$_-1" => 30_000, "$_-2" => 40_000) } qw(ana eva ida lea mia noa));
pay();
ask(qq{SELECT apapacho_payout_mark_sent(id, 'transfer ' || id) FROM "Payout" WHERE "creatorId" IN ('eva', 'ida', 'lea')});
ask(qq{SELECT apapacho_payout_mark_failed('@{[payout('mia', 'CALCULATED')]}', 'no', 'first')});
ask(qq{SELECT apapacho_payout_mark_cancelled('@{[payout('noa', 'CALCULATED')]}', 'why')});
ask(q{UPDATE "Creator" SET status = 'SUSPENDED' WHERE id = 'noa'});
ask(q{UPDATE "Transaction" SET status = 'REFUNDED' WHERE id = 'ida-1'; UPDATE "Transaction" SET status = 'CHARGEDBACK' WHERE id = 'lea-1'});
sell('ida-3' => 90_000);
pay();

my %id = (ana => payout('ana', 'CALCULATED'), eva => payout('eva', 'SENT'), ida => payout('ida', 'SENT'), ida2 => payout('ida', 'CALCULATED'),
    lea => payout('lea', 'SENT'), mia => payout('mia', 'PENDING'), noa => payout('noa', 'CANCELLED'));
is(scalar(grep { /^[0-9a-f-]{36}$/ } values %id), 7, 'the payouts are there');
is(ask('SELECT creator_id, amount, payout_id IS NOT NULL FROM apapacho_jobs.payout_adjustment ORDER BY 1'), "ida|-30000|t\nlea|-30000|f", 'and the adjustments');
is(ask('SELECT * FROM apapacho_payout_reconcile()'), '', 'all is right');
is(join("\n", $world->contradictions), '', 'also by the count of others');

# {name} in what follows: a payout's id.
my $adjustment = sub { my ($creator) = @_; return "(SELECT id FROM apapacho_jobs.payout_adjustment WHERE creator_id = '$creator')"; };
my $account = sub { my ($code) = @_; return qq{(SELECT id FROM "LedgerAccount" WHERE code = '$code')}; };

# What is done, and whom or what the finding names: payout, transaction or creator.
my @corruptions = (
    ['an item in two live payouts', q{INSERT INTO "PayoutItem" (id, "payoutId", "transactionId", amount) VALUES ('x', '{ana}', 'eva-1', 30000);
        UPDATE "Payout" SET "payoutAmount" = "payoutAmount" + 30000, "grossTotal" = "grossTotal" + 30010, "platformFeeTotal" = "platformFeeTotal" + 10 WHERE id = '{ana}'}, 'eva-1'],
    ['a claim is gone', q{DELETE FROM apapacho_jobs.payout_claim WHERE transaction_id = 'ana-1'}, 'ana-1'],
    ['a claim for another payout', q{UPDATE apapacho_jobs.payout_claim SET payout_id = '{ana}' WHERE transaction_id = 'eva-1'}, 'eva-1'],
    ['a claim of a transaction that is in no payout', q{INSERT INTO apapacho_jobs.payout_claim VALUES ('noa-1', '{noa}')}, 'noa-1'],
    ['an amount is a peso too much', q{UPDATE "Payout" SET "payoutAmount" = "payoutAmount" + 1 WHERE id = '{eva}'}, '{eva}'],
    ['an adjustment that there is not', q{UPDATE "Payout" SET "payoutAmount" = "payoutAmount" + 1, "adjustmentsTotal" = 1 WHERE id = '{ana}'}, '{ana}'],
    ['an amount of nothing', q{UPDATE "Payout" SET "payoutAmount" = 0, "adjustmentsTotal" = -70000 WHERE id = '{ana}'}, '{ana}'],
    ['an item of another amount, and the total with it', q{UPDATE "PayoutItem" SET amount = amount + 1 WHERE "transactionId" = 'eva-1';
        UPDATE "Payout" SET "payoutAmount" = "payoutAmount" + 1 WHERE id = '{eva}'}, 'eva-1'],
    ['an item is gone', q{DELETE FROM "PayoutItem" WHERE "transactionId" = 'eva-1'}, '{eva}'],
    ['an item is gone, and its claim and amounts', q{DELETE FROM "PayoutItem" WHERE "transactionId" = 'eva-1'; DELETE FROM apapacho_jobs.payout_claim WHERE transaction_id = 'eva-1';
        UPDATE "Payout" SET "payoutAmount" = 40000, "grossTotal" = 40010, "platformFeeTotal" = 10 WHERE id = '{eva}'}, '{eva}'],
    ['an item of another creator', q{UPDATE "PayoutItem" SET "payoutId" = '{ana}' WHERE "transactionId" = 'noa-1'}, '{ana}'],
    ['an item of a payout that there is not', q{UPDATE "PayoutItem" SET "payoutId" = 'nowhere' WHERE "transactionId" = 'eva-1'}, '{eva}'],
    ['a payout is another creator\'s', q{UPDATE "Payout" SET "creatorId" = 'ana' WHERE id = '{eva}'}, '{eva}'],
    ['a payout is gone, with its items', q{DELETE FROM "PayoutItem" WHERE "payoutId" = '{eva}'; DELETE FROM "Payout" WHERE id = '{eva}'}, '{eva}'],
    ['a payout is gone, and its items and claims', q{DELETE FROM apapacho_jobs.payout_claim WHERE payout_id = '{eva}'; DELETE FROM "PayoutItem" WHERE "payoutId" = '{eva}';
        DELETE FROM "Payout" WHERE id = '{eva}'}, '{eva}'],
    ['another gross total', q{UPDATE "Payout" SET "grossTotal" = "grossTotal" + 1 WHERE id = '{eva}'}, '{eva}'],
    ['another total of fees', q{UPDATE "Payout" SET "platformFeeTotal" = "platformFeeTotal" - 1 WHERE id = '{eva}'}, '{eva}'],
    ['what was sent is calculated', q{UPDATE "Payout" SET status = 'CALCULATED', "sentAt" = NULL WHERE id = '{eva}'}, '{eva}'],
    ['what was calculated is sent', q{UPDATE "Payout" SET status = 'SENT', "sentAt" = now() WHERE id = '{ana}'}, '{ana}'],
    ['what was cancelled is sent', q{UPDATE "Payout" SET status = 'SENT', "sentAt" = now() WHERE id = '{noa}'}, '{noa}'],
    ['what was sent is cancelled, and its claims are gone', q{UPDATE "Payout" SET status = 'CANCELLED' WHERE id = '{eva}'; DELETE FROM apapacho_jobs.payout_claim WHERE payout_id = '{eva}'}, '{eva}'],
    ['sent at no time', q{UPDATE "Payout" SET "sentAt" = NULL WHERE id = '{eva}'}, '{eva}'],
    ['more failures than there can be', q{UPDATE "Payout" SET "retryCount" = 3 WHERE id = '{mia}'}, '{mia}'],
    ['a period that overlaps', q{UPDATE "Payout" SET "periodStart" = "periodStart" - interval '1 day' WHERE id = '{ida2}'}, '{ida2}'],
    ['a period that ends before it begins', q{UPDATE "Payout" SET "periodStart" = "periodEnd" + interval '1 day' WHERE id = '{ana}'}, '{ana}'],
    ['another currency of a payout', q{UPDATE "Payout" SET currency = 'USD' WHERE id = '{ana}'}, '{ana}'],
    ['another currency of a transaction', q{UPDATE "Transaction" SET currency = 'USD' WHERE id = 'eva-1'}, 'eva-1'],
    ['another amount of a transaction', q{UPDATE "Transaction" SET "creatorPayableAmount" = "creatorPayableAmount" + 1 WHERE id = 'eva-1'}, 'eva-1'],
    ['a transaction is another creator\'s', q{UPDATE "Transaction" SET "creatorId" = 'ana' WHERE id = 'eva-1'}, 'eva-1'],
    ['a refund that nobody has adjusted', q{UPDATE "Transaction" SET status = 'REFUNDED' WHERE id = 'eva-1'}, 'eva-1'],
    ['a chargeback that was won after all', q{UPDATE "Transaction" SET status = 'SUCCEEDED' WHERE id = 'lea-1'}, 'lea-1'],
    ['an adjustment is gone', "DELETE FROM apapacho_jobs.payout_adjustment WHERE creator_id = 'lea'", 'lea-1'],
    ['an adjustment that was carried is gone', "DELETE FROM apapacho_jobs.payout_adjustment_item WHERE payout_id = '{ida2}'; DELETE FROM apapacho_jobs.payout_adjustment WHERE creator_id = 'ida'", '{ida2}'],
    ['an adjustment of another amount', "UPDATE apapacho_jobs.payout_adjustment SET amount = -29999 WHERE creator_id = 'lea'", 'lea-1'],
    ['a reversal adjusted twice', q{INSERT INTO apapacho_jobs.payout_adjustment (id, creator_id, transaction_id, number, kind, amount) VALUES ('x', 'lea', 'lea-1', 2, 'CHARGEBACK', -30000)}, 'lea-1'],
    ['an adjustment is another creator\'s', "UPDATE apapacho_jobs.payout_adjustment SET creator_id = 'ana' WHERE creator_id = 'ida'", '{ida2}'],
    ['an open adjustment is another creator\'s', "UPDATE apapacho_jobs.payout_adjustment SET creator_id = 'ana' WHERE creator_id = 'lea'", 'lea-1'],
    ['an adjustment in two payouts', "INSERT INTO apapacho_jobs.payout_adjustment_item VALUES ('{ana}', " . $adjustment->('ida') . ')', '{ana}'],
    ['an adjustment held by a payout that does not carry it', "UPDATE apapacho_jobs.payout_adjustment SET payout_id = '{ana}' WHERE creator_id = 'lea'", '{ana}'],
    ['an adjustment that is carried and open', "UPDATE apapacho_jobs.payout_adjustment SET payout_id = NULL WHERE creator_id = 'ida'", '{ida2}'],
    ['one entry of a pair is gone', qq{DELETE FROM "LedgerEntry" WHERE "payoutId" = '{eva}' AND debit > 0 AND "accountId" = } . $account->('CREATOR_PAYABLE'), '{eva}'],
    ['a pair of entries is gone', q{DELETE FROM "LedgerEntry" WHERE "payoutId" = '{eva}' AND description = 'payout sent'}, '{eva}'],
    ['all entries of a payout are gone', q{DELETE FROM "LedgerEntry" WHERE "payoutId" = '{ana}'}, '{ana}'],
    ['entries twice', q{INSERT INTO "LedgerEntry" (id, "payoutId", "accountId", "creatorId", debit, credit, description)
        SELECT 'again ' || id, "payoutId", "accountId", "creatorId", debit, credit, description FROM "LedgerEntry" WHERE "payoutId" = '{eva}' AND description = 'payout sent'}, '{eva}'],
    ['entries of another amount', q{UPDATE "LedgerEntry" SET debit = debit + sign(debit), credit = credit + sign(credit) WHERE "payoutId" = '{ana}'}, '{ana}'],
    ['an entry in another account', qq{UPDATE "LedgerEntry" SET "accountId" = @{[$account->('PLATFORM_REVENUE')]} WHERE "payoutId" = '{ana}' AND credit > 0}, '{ana}'],
    ['entries of another creator', q{UPDATE "LedgerEntry" SET "creatorId" = 'ana' WHERE "payoutId" = '{eva}'}, '{eva}'],
    ['entries of another payout', q{UPDATE "LedgerEntry" SET "payoutId" = '{ana}' WHERE "payoutId" = '{eva}' AND description = 'payout sent'}, '{eva}'],
    ['the entries of an adjustment are gone', q{DELETE FROM "LedgerEntry" WHERE "transactionId" = 'lea-1'}, 'lea-1'],
    ['the entries of an adjustment twice', q{INSERT INTO "LedgerEntry" (id, "transactionId", "accountId", "creatorId", debit, credit, description)
        SELECT 'again ' || id, "transactionId", "accountId", "creatorId", debit, credit, description FROM "LedgerEntry" WHERE "transactionId" = 'lea-1'}, 'lea-1'],
    ['entries for a payout that there is not', qq{INSERT INTO "LedgerEntry" (id, "payoutId", "accountId", "creatorId", debit, description) VALUES
        ('x', 'nowhere', @{[$account->('PAYOUT_PENDING')]}, 'ana', 5, 'payout sent')}, 'nowhere'],
    ['an event is gone', q{DELETE FROM "OutboxEvent" WHERE "aggregateId" = '{ana}'}, '{ana}'],
    ['an event twice', q{INSERT INTO "OutboxEvent" (id, "aggregateType", "aggregateId", "eventType", payload) SELECT 'again', "aggregateType", "aggregateId", "eventType", payload
        FROM "OutboxEvent" WHERE "aggregateId" = '{ana}'}, '{ana}'],
    ['an event that says it was sent is gone', q{DELETE FROM "OutboxEvent" WHERE "aggregateId" = '{eva}' AND "eventType" = 'PayoutSent'}, '{eva}'],
    ['an event that says it was sent, of what was not', q{INSERT INTO "OutboxEvent" (id, "aggregateType", "aggregateId", "eventType", payload)
        VALUES ('x', 'Payout', '{ana}', 'PayoutSent', '{}')}, '{ana}'],
    ['an event of another amount', q{UPDATE "OutboxEvent" SET payload = jsonb_set(payload, '{payout,payoutAmount}', '1') WHERE "aggregateId" = '{ana}'}, '{ana}'],
);

# Executes SQL with the triggers of the user's tables off, the foreign keys' too.
my @tables = map { qq{"$_"} } qw(Payout PayoutItem Transaction LedgerEntry OutboxEvent Creator);
my $triggers_off = join('; ', map { "ALTER TABLE $_ DISABLE TRIGGER ALL" } @tables);
my $triggers_on = join('; ', map { "ALTER TABLE $_ ENABLE TRIGGER ALL" } @tables) . q{; DO $$ DECLARE t record; BEGIN
    FOR t IN SELECT tgrelid::regclass AS name, tgname FROM pg_trigger WHERE tgname LIKE 'apapacho%' AND NOT tgisinternal LOOP
        EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', t.name, t.tgname);
    END LOOP; END $$};

cmp_ok(scalar @corruptions, '>=', 20, scalar(@corruptions) . ' kinds of corruption');
for my $corruption (@corruptions) {
    my ($what, $sql, $named) = map { my $text = $_; $text =~ s/\{(\w+)\}/$id{$1} \/\/ "{$1}"/ge; $text } @{$corruption};
    my $found = $world->try("BEGIN; $triggers_off; $sql; $triggers_on;
        SELECT 'found', * FROM apapacho_payout_reconcile(); ROLLBACK");
    like("$found->{text}\n$found->{error}", qr/^found\|.*\Q$named\E/m, $what);
    is($found->{state}, '', "$what: made") if $found->{state} ne '';
}
is(ask('SELECT * FROM apapacho_payout_reconcile()'), '', 'all is right in the end');

$node->stop;
done_testing();
