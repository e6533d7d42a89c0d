# 030_payout_guards.pl: a transaction is in one live payout at most, whoever writes the tables and at every isolation level; guards that
# are gone stop the jobs, are repaired by the call that is named, and go with the extension; dumps carry what is money.
use strict;
use warnings;

use Apapacho;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = Apapacho->create('main', tables => 'fixture');

# The backend's way: a payout and its items, each by a statement of its own.
sub insert_payout {
    my ($id, $creator, @transactions) = @_;
    my $items = join('', map { qq{INSERT INTO "PayoutItem" (id, "payoutId", "transactionId", amount) VALUES ('$id-$_', '$id', '$_', 30000);} } @transactions);
    return qq{INSERT INTO "Payout" (id, "creatorId", "periodStart", "periodEnd", "payoutAmount", "updatedAt")
        VALUES ('$id', '$creator', '2025-01-01', '2025-01-08', 30000 * } . scalar(@transactions) . qq{, '2025-01-08');$items};
}

sub sell {
    my ($creator, @ids) = @_;
    $node->ask(qq{INSERT INTO "FeeSchedule" (id, "effectiveFrom") VALUES ('f', '2020-01-01') ON CONFLICT DO NOTHING;
        INSERT INTO "Creator" (id, "userId", "updatedAt") VALUES ('$creator', 'u-$creator', '2025-01-01') ON CONFLICT DO NOTHING;
        INSERT INTO "Transaction" (id, "creatorId", "fanUserId", "productType", "grossAmount", "appliedFeeScheduleId",
            "appliedPlatformFeeBps", "platformFeeAmount", "creatorPayableAmount", "occurredAt", provider, "providerPaymentId", "providerEventId")
        SELECT t, '$creator', 'fan', 'TIP', 30000, 'f', 0, 0, 30000, '2025-01-02', 'p', 'p', 'e-' || t
        FROM unnest(string_to_array('@ids', ' ')) AS t});
    return;
}

sub claims { return $node->ask(q{SELECT string_agg(transaction_id || '=' || payout_id, ' ' ORDER BY transaction_id) FROM apapacho_jobs.payout_claim}); }
sub differences { return $node->ask(q{SELECT kind, payout_id, transaction_id, detail FROM apapacho_payout_reconcile() ORDER BY 1, 2, 3}); }

sell('ana', map { "a$_" } 1 .. 9);
sell('eva', 'e1');
$node->wait_for_scheduler;
my $none = $node->error_of('SELECT * FROM apapacho_payout_preview()');
like($none, qr/ERROR:  55000: payouts are not guarded: .*HINT:  Run SELECT \* FROM apapacho_payout_install_guards\(\)/s,
    'before the first run there are no guards');
$node->ask(insert_payout('before', 'ana', 'a8', 'a9'));
$node->ask('SELECT apapacho_payout_install_guards()');
is(claims(), 'a8=before a9=before', 'what was there is claimed');

my $taken = qr/ERROR:  23505: .*transaction_in_one_live_payout/;
for my $level ('READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE') {
    subtest "$level: the second comes to nothing" => sub {
        my $begin = "BEGIN ISOLATION LEVEL $level; SELECT count(*) FROM \"Payout\"";
        my $first = $node->background_psql('postgres', on_error_stop => 0);
        $first->query_safe("$begin; " . insert_payout('one', 'ana', 'a1', 'a2'));
        my $second = $node->begin_statement("$begin; " . insert_payout('two', 'ana', 'a2', 'a3') . 'COMMIT');
        $node->wait_for(q{SELECT count(*) = 1 FROM pg_locks WHERE NOT granted}, 'it waits for the first');
        $first->query_safe('COMMIT');
        like(($second->finish)[1], $level eq 'SERIALIZABLE' ? qr/$taken|ERROR:  40001/ : $taken, 'and fails');
        is(claims(), 'a1=one a2=one a8=before a9=before', 'the first has both');

        $first->query_safe("$begin; " . q{UPDATE "Payout" SET status = 'CANCELLED' WHERE id = 'one'});
        $second = $node->begin_statement("$begin; " . insert_payout('two', 'ana', 'a2', 'a3') . 'COMMIT');
        $node->wait_for(q{SELECT count(*) = 1 FROM pg_locks WHERE NOT granted}, 'it waits for the cancellation');
        $first->query_safe('COMMIT');
        my $error = ($second->finish)[1];
        if ($level eq 'SERIALIZABLE' && $error =~ /ERROR:  40001/) { # as any such transaction, it may have to be done again
            $error = $node->error_of("$begin; " . insert_payout('two', 'ana', 'a2', 'a3') . 'COMMIT');
        }
        is($error, '', 'which frees them in the same commit');
        is(claims(), 'a2=two a3=two a8=before a9=before', 'claimed by the second');
        $node->let_go($first);
        $node->ask(q{DELETE FROM "Payout" WHERE id IN ('one', 'two')});
        is(claims(), 'a8=before a9=before', 'deleted with the payouts');
    };

    subtest "$level: an item that is added while its payout is being cancelled" => sub {
        my $begin = "BEGIN ISOLATION LEVEL $level; SELECT count(*) FROM \"Payout\"";
        my $item = q{INSERT INTO "PayoutItem" (id, "payoutId", "transactionId", amount) VALUES ('i', 'one', 'a4', 1)};
        $node->ask(insert_payout('one', 'ana', 'a1'));
        my $first = $node->background_psql('postgres', on_error_stop => 0);
        $first->query_safe("$begin; $item");
        my $second = $node->begin_statement(qq{$begin; UPDATE "Payout" SET status = 'CANCELLED' WHERE id = 'one'; COMMIT});
        $node->wait_for(q{SELECT count(*) = 1 FROM pg_locks WHERE NOT granted}, 'the cancellation waits');
        $first->query_safe('COMMIT');
        $second->finish;
        $node->ask(q{UPDATE "Payout" SET status = 'CANCELLED' WHERE id = 'one'});
        is(claims(), 'a8=before a9=before', 'nothing stays claimed by what is cancelled');
        $node->let_go($first);
        $node->ask(q{DELETE FROM "Payout" WHERE id = 'one'});

        $node->ask(insert_payout('one', 'ana', 'a1'));
        $first = $node->background_psql('postgres', on_error_stop => 0);
        $first->query_safe(qq{$begin; UPDATE "Payout" SET status = 'CANCELLED' WHERE id = 'one'});
        $second = $node->begin_statement("$begin; $item; COMMIT");
        $node->wait_for(q{SELECT count(*) = 1 FROM pg_locks WHERE NOT granted}, 'the item waits');
        $first->query_safe('COMMIT');
        $second->finish;
        is(claims(), 'a8=before a9=before', 'nor does it claim anything afterwards');
        $node->let_go($first);
        $node->ask(q{DELETE FROM "Payout" WHERE id = 'one'});
    };
}

subtest 'released and taken again' => sub {
    $node->ask(insert_payout('one', 'ana', 'a1'));
    $node->ask(q{UPDATE "Payout" SET status = 'FAILED', "retryCount" = 1, "nextRetryAt" = '2025-02-01' WHERE id = 'one'});
    is(claims(), 'a1=one a8=before a9=before', 'a failure that is to be tried again keeps its own');
    $node->ask(q{UPDATE "Payout" SET "nextRetryAt" = NULL WHERE id = 'one'});
    is(claims(), 'a8=before a9=before', 'a final one does not');
    $node->ask(q{UPDATE "Payout" SET status = 'PENDING' WHERE id = 'one'});
    is(claims(), 'a1=one a8=before a9=before', 'going back to a live status takes them again');
    $node->ask(q{UPDATE "Payout" SET status = 'FAILED' WHERE id = 'one';} . insert_payout('two', 'ana', 'a1'));
    like($node->error_of(q{UPDATE "Payout" SET status = 'PENDING' WHERE id = 'one'}), $taken, 'or fails where another has them');
    $node->ask(q{UPDATE "PayoutItem" SET "transactionId" = 'a2' WHERE id = 'two-a1'});
    is(claims(), 'a2=two a8=before a9=before', 'an item that is changed changes its claim');
    $node->ask(q{UPDATE "Payout" SET id = 'renamed' WHERE id = 'two'});
    is(claims(), 'a2=renamed a8=before a9=before', 'so does a payout that gets another id');
    $node->ask(q{DELETE FROM "PayoutItem" WHERE "payoutId" = 'renamed'; DELETE FROM "Payout" WHERE id IN ('one', 'renamed')});
    is(claims(), 'a8=before a9=before', 'items that are deleted release theirs');
};

subtest 'what was paid stays' => sub {
    my $refused = qr/ERROR:  55000/;
    $node->ask(insert_payout('sent', 'ana', 'a1') . q{UPDATE "Payout" SET status = 'SENT', "sentAt" = '2025-01-09' WHERE id = 'sent'});
    like($node->error_of($_), $refused, $_) for q{DELETE FROM "Payout" WHERE id = 'sent'}, q{DELETE FROM "PayoutItem" WHERE "payoutId" = 'sent'},
        q{UPDATE "PayoutItem" SET amount = 1 WHERE "payoutId" = 'sent'}, q{TRUNCATE "PayoutItem"}, q{TRUNCATE "Payout" CASCADE},
        map { qq{UPDATE "Payout" SET $_ WHERE id = 'sent'} } q{"payoutAmount" = 1}, q{"creatorId" = 'eva'}, q{id = 'other'},
        q{"adjustmentsTotal" = 1}, q{"periodEnd" = '2025-01-10'}, q{status = 'CANCELLED'}, q{status = 'FAILED'}, q{status = 'PENDING'};
    is($node->ask(q{SELECT status, "payoutAmount" FROM "Payout" WHERE id = 'sent'}), 'SENT|30000', 'as it was');
};

subtest 'the guards cannot be got around by the way that rows come in' => sub {
    like($node->error_of(q{SET session_replication_role = replica; } . insert_payout('two', 'ana', 'a1')), $taken, 'a replica');
    like($node->error_of(q{BEGIN; COPY "PayoutItem" (id, "payoutId", "transactionId", amount) FROM STDIN;
}. "x\tbefore\ta1\t1\n\\.\n"), $taken, 'COPY');
    is($node->error_of(q{INSERT INTO "PayoutItem" (id, "payoutId", "transactionId", amount) SELECT 'x', 'before', 'a1', 1 FROM generate_series(1, 0)}), '', 'no rows');
};

for my $damage (q{ALTER TABLE "Payout" DISABLE TRIGGER apapacho_payout_update}, q{ALTER TABLE "PayoutItem" DISABLE TRIGGER ALL},
    q{ALTER TABLE "PayoutItem" DISABLE TRIGGER ALL; ALTER TABLE "PayoutItem" ENABLE TRIGGER ALL},
    q{DROP TRIGGER apapacho_claim_insert ON "PayoutItem"}, q{ALTER TABLE "Payout" ENABLE TRIGGER apapacho_payout_insert}) {
    subtest $damage => sub {
        $node->ask($damage);
        my $refused = qr/ERROR:  55000: payouts are not guarded: trigger apapacho_\w+ on table public\."Payout(Item)?" is missing or is not enabled always/;
        for my $call ('apapacho_run_job(\'payout\')', 'apapacho_payout_create(\'ana\')', 'apapacho_payout_mark_sent(\'before\', \'T\')',
            'apapacho_payout_preview()', 'apapacho_payout_reconcile()') {
            like($node->error_of("SELECT $call"), qr/$refused.*HINT:  Run SELECT \* FROM apapacho_payout_install_guards\(\)/s, $call);
        }
        is($node->ask('SELECT * FROM apapacho_payout_install_guards()'), '', 'repaired');
        is($node->error_of('SELECT * FROM apapacho_payout_preview()'), '', 'and all is well');
    };
}

subtest 'what came in without guards is claimed and told by the repair' => sub {
    $node->ask(q{ALTER TABLE "PayoutItem" DISABLE TRIGGER USER;} . insert_payout('twice', 'ana', 'a1', 'a5') .
        insert_payout('thrice', 'ana', 'a5', 'a6'));
    is($node->ask('SELECT transaction_id, payout_id FROM apapacho_payout_install_guards()'), "a1|twice\na5|thrice", 'conflicts');
    is(claims(), 'a1=sent a5=twice a6=thrice a8=before a9=before', 'what was sent comes first, then the older');
    $node->ask(q{SELECT apapacho_payout_mark_cancelled('twice', 'is paid by others')});
    is(claims(), 'a1=sent a5=thrice a6=thrice a8=before a9=before', 'whoever else has it inherits it');
    $node->ask(q{DELETE FROM "Payout" WHERE id IN ('twice', 'thrice')});
    like($node->error_of('SELECT apapacho_payout_install_guards()', role => 'regress_nobody'), qr/./, 'nobody else may do that')
        if $node->ask('CREATE ROLE regress_nobody LOGIN; GRANT EXECUTE ON FUNCTION apapacho_payout_install_guards() TO regress_nobody') eq '';
};

subtest 'the claims are in all indexes of their table' => sub {
    # as there is a second one while REINDEX CONCURRENTLY is at work
    $node->ask('CREATE EXTENSION amcheck; CREATE UNIQUE INDEX more ON apapacho_jobs.payout_claim (transaction_id); CREATE INDEX most ON apapacho_jobs.payout_claim (payout_id, lower(transaction_id))');
    my $before = $node->ask('SELECT count(*) FROM apapacho_jobs.payout_claim');
    $node->ask('BEGIN; ' . insert_payout('indexed', 'ana', 'a3', 'a4') . 'COMMIT');
    is($node->ask('SELECT count(*) FROM apapacho_jobs.payout_claim'), $before + 2, 'two more');
    is($node->error_of(q{SELECT bt_index_check(indexrelid, true) FROM pg_index WHERE indrelid = 'apapacho_jobs.payout_claim'::regclass}), '', 'each in three indexes');
    $node->ask('DROP EXTENSION amcheck; DROP INDEX apapacho_jobs.more, apapacho_jobs.most');
    $node->ask(q{DELETE FROM "Payout" WHERE id = 'indexed'});
};

subtest 'dump and restore' => sub {
    $node->ask(q{UPDATE "Transaction" SET status = 'CHARGEDBACK' WHERE id = 'a1'});
    is($node->run_job('payout')->{created}, 2, 'what was charged back is taken off the next payout');
    my $state = q{SELECT 'claims', count(*), string_agg(transaction_id, ' ' ORDER BY transaction_id) FROM apapacho_jobs.payout_claim UNION ALL
        SELECT 'adjustments', sum(amount), string_agg(kind || ' ' || (payout_id IS NULL), ' ') FROM apapacho_jobs.payout_adjustment UNION ALL
        SELECT 'items', count(*), min(payout_id) FROM apapacho_jobs.payout_adjustment_item UNION ALL
        SELECT 'changes', count(*), max(to_status) FROM apapacho_jobs.payout_transition ORDER BY 1};
    my $before = $node->ask($state);
    like($before, qr/adjustments\|-30000\|CHARGEBACK false/, 'an adjustment is carried');
    my $file = PostgreSQL::Test::Utils::tempdir . '/dump.sql';
    $node->command_ok(['pg_dump', '--file', $file, $node->connstr('postgres')], 'pg_dump');
    $node->ask('CREATE DATABASE restored');
    $node->command_ok(['psql', '-X', '-v', 'ON_ERROR_STOP=1', '-f', $file, $node->connstr('restored')], 'psql');
    is($node->ask($state, database => 'restored'), $before, 'all of it is there');
    is($node->ask('SELECT kind, payout_id, detail FROM apapacho_payout_reconcile()', database => 'restored'),
        $node->ask('SELECT kind, payout_id, detail FROM apapacho_payout_reconcile()'), 'and as consistent as it was');
    like($node->error_of(insert_payout('there', 'ana', 'a8'), database => 'restored'), $taken, 'it is guarded');
    $node->wait_for_scheduler('restored');
    is($node->run_job('payout', database => 'restored')->{created}, 0, 'nobody is paid twice there');
};

subtest 'the extension goes, and the guards with it' => sub {
    my $payouts = $node->ask('SELECT count(*) FROM "Payout"');
    $node->ask('DROP EXTENSION apapacho_jobs');
    is($node->ask(q{SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'apapacho%'}), '0', 'without CASCADE');
    is($node->ask('SELECT count(*) FROM "Payout"'), $payouts, 'the tables stay');
    is($node->error_of(q{DELETE FROM "Payout" WHERE id = 'sent'}), '', 'and are free');
    $node->ask(insert_payout('later', 'ana', 'a8'));
    $node->ask('CREATE EXTENSION apapacho_jobs');
    like($node->error_of(insert_payout('three', 'ana', 'a8')), $taken, 'CREATE EXTENSION guards tables that are there');
    is($node->ask('SELECT transaction_id, payout_id FROM apapacho_payout_install_guards()'), 'a8|later', 'and what contradicts itself is told');
};

$node->stop;
done_testing();
