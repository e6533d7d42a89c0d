# 034_payout_model.pl: random histories of sales, reversals, reports, runs and hands of others, each step held against a naive model.
#
# lib/PayoutModel.pm has the rules, lib/PayoutWorld.pm compares. Alone, every step is predicted exactly. In bursts of sessions at once, and in
# crashes, nothing is predicted, but nothing may contradict itself, and the run after it is predicted again. The clock is moved by
# apapacho_jobs.debug_clock_offset. PAYOUT_SEED repeats a history, PAYOUT_SECONDS is how long new steps are begun (15),
# PAYOUT_CREATORS how many there are (24):  test/sandbox.sh env PAYOUT_SEED=7 PAYOUT_SECONDS=600 SUITE=tap TEST=034 test/check.sh
use strict;
use warnings;

use Apapacho;
use PayoutWorld;
use Session;
use Test::More;
use Time::HiRes qw(time);
use Time::Local qw(timegm);

my $seed = $ENV{PAYOUT_SEED} // int(time() * 1000) % 1_000_000;
my $seconds = $ENV{PAYOUT_SECONDS} // 15;
my $creators = $ENV{PAYOUT_CREATORS} // 24;
my $zone = 'America/Santiago';
my ($hour, $day) = (3_600_000, 86_400_000);
my $node = Apapacho->create('main', tables => 'fixture', settings => {
    max_connections => 40, 'apapacho_jobs.timezone' => $zone, 'apapacho_jobs.payout_batch_size' => 5 });
my $world = PayoutWorld->new($node, zone => $zone);
my @others = map { Session->new($node, name => "other $_") } 1 .. 6;
my ($transactions, $hand, @history, %done) = (0, 0);

note("PAYOUT_SEED=$seed");
srand($seed);

sub one_of { return $_[int rand @_]; }
sub quote { my ($text) = @_; $text =~ s/'/''/g; return "'$text'"; }
sub stamp { my ($ms) = @_; return "(to_timestamp($ms / 1000.0) AT TIME ZONE 'UTC')::timestamp(3)"; }
sub model { return $world->{model}; }
sub creator { return one_of(sort keys %{ model()->{creators} }); }

sub payout {
    my ($pattern) = @_;
    my @payouts = sort { $a->{creator} cmp $b->{creator} || $a->{id} cmp $b->{id} }
        grep { $_->{status} =~ $pattern } values %{ model()->{payouts} };
    # those that carry adjustments are rare and of interest
    my @adjusted = grep { @{ $_->{adjustments} } } @payouts;
    return one_of(@adjusted && rand() < 0.5 ? @adjusted : @payouts);
}

sub remember { my ($step) = @_; $step =~ s/\(id, "creatorId".*?VALUES/.../s; push @history, $step; return; }

# All is over, with what led there, unless there is nothing to say.
sub check {
    my ($what, $lines) = @_;

    $done{checks}++;
    return if $lines eq '';
    fail("$what, PAYOUT_SEED=$seed");
    diag("$lines\nafter\n  " . join("\n  ", @history > 40 ? @history[-40 .. -1] : @history));
    die "the history has gone wrong\n";
}

# ---- steps: each does something to the database and the model; returns what they disagree about

# A statement that should answer with this SQLSTATE.
sub expect {
    my ($state, $sql) = @_;
    my $result = $world->try($sql);

    remember("$sql -> $result->{state}");
    return $result->{state} eq $state ? '' : "expected state '$state', got '$result->{state}': $sql\n$result->{error}";
}

sub sale {
    my ($creator) = @_;
    my $amount = one_of(1, 19_999, 20_000, map { 1000 + int rand 80_000 } 1 .. 4);
    my $fee = int($amount / 10);
    my $id = sprintf('t%05d', ++$transactions);
    # half an hour off the full hours that the clock is moved by: no run is so slow that it is not clear what is released
    my $at = int(model()->{now} / 1000) * 1000 - $hour * (1 + int rand 24 * one_of(1, 7, 20)) + 60_000 * (28 + int rand 3);
    my %sale = (id => $id, creator => $creator, status => rand() < 0.95 ? 'SUCCEEDED' : one_of(qw(REFUNDED CHARGEDBACK DISPUTED)),
        currency => rand() < 0.95 ? 'CLP' : 'USD', at => $at, amount => $amount, gross => $amount + $fee, fee => $fee);

    return (\%sale, sprintf(q{INSERT INTO "Transaction" (id, "creatorId", "fanUserId", "productType", currency, "grossAmount", "appliedFeeScheduleId",
        "appliedPlatformFeeBps", "platformFeeAmount", "creatorPayableAmount", status, "occurredAt", provider, "providerPaymentId", "providerEventId")
        VALUES ('%s', '%s', 'fan', 'TIP', '%s', %d, 'first', 1000, %d, %d, '%s', %s, 'test', 'payment', '%s')},
        $id, $creator, $sale{currency}, $sale{gross}, $fee, $amount, $sale{status}, stamp($at), $id));
}

sub status_change {
    my ($from, @to) = @_;
    my @ids = grep { model()->{transactions}{$_}{status} =~ $from } sort keys %{ model()->{transactions} };
    # those in payouts are of interest
    my @held = grep { model()->holder($_) } @ids;
    my @sent = grep { model()->holder($_)->{status} eq 'SENT' } @held;
    my @adjusted = grep { model()->{transactions}{$_} && model()->{transactions}{$_}{status} =~ $from }
        map { $_->{transaction} // () } @{ model()->{adjustments} };
    my $id = one_of(@adjusted && rand() < 0.4 ? @adjusted : @sent && rand() < 0.5 ? @sent : @held && rand() < 0.7 ? @held : @ids) // return;
    return ($id, one_of(@to));
}

# A payout as the backend's own calculation would make it, of anything.
sub backend_payout {
    my ($creator) = @_;
    my @own = grep { $_->{creator} eq $creator && $_->{status} eq 'SUCCEEDED' && $_->{currency} eq 'CLP' }
        map { model()->{transactions}{$_} } sort keys %{ model()->{transactions} };
    my @items = grep { rand() < 0.3 } @own;
    my $id = sprintf('by hand %04d', ++$hand);
    my $status = one_of(qw(CALCULATED CALCULATED PENDING SENT FAILED));
    my $end = model()->{now};

    return unless @items;
    my ($amount, $gross, $fee) = (0, 0, 0);
    for my $item (@items) { $amount += $item->{amount}; $gross += $item->{gross}; $fee += $item->{fee}; }
    my %payout = (id => $id, creator => $creator, status => $status, amount => $amount, gross => $gross, fee => $fee, adjustments_total => 0,
        period_start => $end - $day, period_end => $end, items => { map { $_->{id} => $_->{amount} } @items },
        transfer => $status eq 'SENT' ? 'by hand' : undef, reason => $status eq 'FAILED' ? 'by hand' : undef);
    my $sql = sprintf(q{INSERT INTO "Payout" (id, "creatorId", "periodStart", "periodEnd", "grossTotal", "platformFeeTotal", "payoutAmount", status,
        "providerTransferId", "failureReason", "sentAt", "updatedAt") VALUES ('%s', '%s', %s, %s, %d, %d, %d, '%s', %s, %s, %s, now());
        INSERT INTO "PayoutItem" (id, "payoutId", "transactionId", amount) VALUES %s},
        $id, $creator, stamp($end - $day), stamp($end), $gross, $fee, $amount, $status, map({ defined $_ ? quote($_) : 'NULL' } @payout{qw(transfer reason)}),
        $status eq 'SENT' ? 'now()' : 'NULL',
        join(', ', map { "('$id $_->{id}', '$id', '$_->{id}', $_->{amount})" } @items));
    return (\%payout, $sql);
}

my %steps = (
    sale => [30, sub {
        my ($sale, $sql) = sale(creator());
        model()->{transactions}{ $sale->{id} } = $sale;
        return expect('', $sql);
    }],
    reversal => [12, sub {
        my ($id, $status) = status_change(qr/./, qw(REFUNDED CHARGEDBACK DISPUTED)) or return '';
        model()->{transactions}{$id}{status} = $status;
        return expect('', qq{UPDATE "Transaction" SET status = '$status' WHERE id = '$id'});
    }],
    won => [6, sub {
        my ($id, $status) = status_change(qr/CHARGEDBACK|DISPUTED|REFUNDED/, 'SUCCEEDED') or return '';
        model()->{transactions}{$id}{status} = $status;
        return expect('', qq{UPDATE "Transaction" SET status = '$status' WHERE id = '$id'});
    }],
    sent => [10, sub {
        my $payout = payout(rand() < 0.85 ? qr/CALCULATED|PENDING/ : qr/./) or return '';
        my $transfer = rand() < 0.8 ? "transfer of $payout->{id}" : 'another transfer';
        return expect(model()->mark_sent($payout, $transfer), "SELECT apapacho_payout_mark_sent('$payout->{id}', '$transfer')");
    }],
    all_sent => [2, sub {
        my $answer = '';
        for my $payout (sort { $a->{id} cmp $b->{id} } values %{ model()->{payouts} }) {
            next unless $payout->{status} eq 'CALCULATED' && $answer eq '' && rand() < 0.7;
            my $transfer = "transfer of $payout->{id}";
            $answer = expect(model()->mark_sent($payout, $transfer), "SELECT apapacho_payout_mark_sent('$payout->{id}', '$transfer')");
        }
        return $answer;
    }],
    failed => [8, sub {
        my $payout = payout(one_of(qr/CALCULATED|PENDING/, qr/PENDING/, rand() < 0.3 ? qr/SENT|CANCELLED/ : qr/PENDING/)) or return '';
        # also one that has been reported before
        my $reference = rand() < 0.4 ? undef : one_of(sort(keys %{ $payout->{reports} }), 'report ' . int rand 3);
        my $terminal = rand() < 0.3;
        return expect(model()->mark_failed($payout, 'no', $reference, $terminal), sprintf('SELECT apapacho_payout_mark_failed(%s, %s, %s, %s)',
                quote($payout->{id}), "'no'", defined $reference ? quote($reference) : 'NULL', $terminal ? 'true' : 'false'));
    }],
    cancelled => [5, sub {
        my $payout = payout(rand() < 0.85 ? qr/CALCULATED|PENDING/ : qr/SENT|CANCELLED/) or return '';
        my $reason = one_of('why', 'why not');
        return expect(model()->mark_cancelled($payout, $reason), "SELECT apapacho_payout_mark_cancelled('$payout->{id}', '$reason')");
    }],
    change_by_hand => [8, sub {
        my $payout = payout(qr/./) or return '';
        my $status = one_of(qw(CALCULATED PENDING SENT FAILED CANCELLED));
        my %new = (status => $status, next_retry => undef);
        my $set = '"nextRetryAt" = NULL';
        if ($status eq 'FAILED' && $payout->{retries} < 3 && rand() < 0.4) {
            $new{next_retry} = model()->{now} + $day;
            $set = '"nextRetryAt" = ' . stamp($new{next_retry});
        }
        if ($status eq $payout->{status}) { return ''; }
        if ($status eq 'SENT') { $new{transfer} = "by hand"; $set .= q{, "providerTransferId" = 'by hand', "sentAt" = now()}; }
        elsif ($status =~ /FAILED|CANCELLED/) { $new{reason} = 'by hand'; $set .= q{, "failureReason" = 'by hand'}; }
        return expect(model()->change($payout, %new), qq{UPDATE "Payout" SET status = '$status', $set WHERE id = '$payout->{id}'});
    }],
    backend => [8, sub {
        my ($payout, $sql) = backend_payout(creator()) or return '';
        $payout or return '';
        my $held = PayoutModel::holds({ next_retry => undef, retries => 0, %{$payout} }) && grep { model()->holder($_) } keys %{ $payout->{items} };
        model()->add_payout(%{$payout}) unless $held;
        return expect($held ? '23505' : '', "BEGIN; $sql; COMMIT");
    }],
    delete => [3, sub {
        my $payout = payout(qr/./) or return '';
        return expect(model()->delete_payout($payout), qq{DELETE FROM "Payout" WHERE id = '$payout->{id}'});
    }],
    creator => [4, sub {
        my $creator = creator();
        my $status = one_of(qw(ACTIVE ACTIVE ACTIVE SUSPENDED PENDING_VERIFICATION));
        model()->{creators}{$creator} = $status;
        return expect('', qq{UPDATE "Creator" SET status = '$status' WHERE id = '$creator'});
    }],
    adjust => [2, sub {
        my $creator = creator();
        my $amount = one_of(-30_000, -5, 7, 25_000);
        model()->adjust(creator => $creator, amount => $amount, kind => 'MANUAL');
        return expect('', "SELECT apapacho_payout_adjust('$creator', $amount, 'by hand')");
    }],
    retry => [3, sub {
        my $due = model()->retry;
        push @history, 'retry';
        my $figures = $node->run_job('retry');
        return $figures->{requested} == $due ? '' : "retry: $due are due, " . JSON::PP->new->canonical->encode($figures);
    }],
    schedule => [1, sub {
        my %schedule = (id => sprintf('s%05d', scalar keys %{ model()->{schedules} }), from => model()->{now} - $hour, hold => one_of(0, 3, 7, 7, 14),
            minimum => one_of(0, 1, 20_000, 20_000, 50_000), frequency => one_of(qw(WEEKLY BIWEEKLY MONTHLY)));
        model()->{schedules}{ $schedule{id} } = \%schedule;
        return expect('', sprintf(q{INSERT INTO "FeeSchedule" (id, "effectiveFrom", "holdDays", "minPayoutClp", "payoutFrequency") VALUES ('%s', %s, %d, %d, '%s')},
            $schedule{id}, stamp($schedule{from}), @schedule{qw(hold minimum frequency)}));
    }],
    time => [4, sub {
        my $now = model()->{now} + $hour * one_of(1, 25, 24 * 3, 24 * 7, 24 * 16);
        push @history, 'the clock at ' . gmtime($now / 1000);
        $world->set_clock($now);
        return '';
    }],
    one => [4, sub {
        my $creator = creator();
        my $forced = rand() < 0.3;
        my $answer = expect('', sprintf('SELECT apapacho_payout_create(%s, %s)', quote($creator), $forced ? 'true' : 'false'));
        my $new = $world->unknown_payouts;
        model()->pay($creator, $forced, sub { return $new->{ $_[0] } // 'missing' });
        return $answer;
    }],
    run => [7, sub {
        my $forced = rand() < 0.3;
        push @history, $forced ? 'forced run' : 'run';
        my $answer = $world->run($forced, \my %result);
        $done{payouts} += $result{created} // 0;
        $done{$_->{reason} // 'paid'}++ for values %{ $result{decisions} // {} };
        return $answer if $answer ne '' || rand() > 0.3;
        push @history, 'the same run again';
        $answer = $world->run($forced, \%result);
        return $answer ne '' ? $answer : $result{created} ? 'the run again has made payouts' : '';
    }],
);

my @lots = map { my $name = $_; ($name) x $steps{$name}[0] } sort keys %steps;

sub step {
    my ($name) = @_;
    $name //= one_of(@lots);
    $done{steps}++;
    my $answer = $steps{$name}[1]->();
    $answer = $world->differences if $answer eq '';
    check("step $done{steps}, $name", $answer);
    return;
}

# ---- bursts and crashes

# A statement for a burst, by what was so before it.
sub burst_statement {
    my $creator = creator();
    my $id = (payout(qr/./) // { id => 'none' })->{id};
    my $level = one_of('READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE');
    my $kind = one_of(qw(sale sale change backend backend run create sent failed cancelled by_hand delete));

    if ($kind eq 'sale') { my ($sale, $sql) = sale($creator); return $sql; }
    if ($kind eq 'change') {
        my ($transaction, $status) = status_change(qr/./, qw(SUCCEEDED REFUNDED CHARGEDBACK DISPUTED)) or return 'SELECT 1';
        return qq{BEGIN ISOLATION LEVEL $level; UPDATE "Transaction" SET status = '$status' WHERE id = '$transaction'; COMMIT};
    }
    if ($kind eq 'backend') {
        my ($payout, $sql) = backend_payout($creator);
        return $payout ? "BEGIN ISOLATION LEVEL $level; $sql; COMMIT" : 'SELECT 1';
    }
    return 'SELECT apapacho_payout_run(forced => ' . one_of(qw(true false)) . ')' if $kind eq 'run';
    return "BEGIN ISOLATION LEVEL $level; SELECT apapacho_payout_create('$creator', true); COMMIT" if $kind eq 'create';
    return "SELECT apapacho_payout_mark_sent('$id', 'transfer of $id')" if $kind eq 'sent';
    return "SELECT apapacho_payout_mark_failed('$id', 'no')" if $kind eq 'failed';
    return "SELECT apapacho_payout_mark_cancelled('$id', 'why')" if $kind eq 'cancelled';
    return qq{DELETE FROM "Payout" WHERE id = '$id'} if $kind eq 'delete';
    my $status = one_of(qw(PENDING SENT FAILED CANCELLED));
    return qq{UPDATE "Payout" SET status = '$status', "sentAt" = now(), "providerTransferId" = 'by hand', "failureReason" = 'by hand' WHERE id = '$id' AND status <> '$status'};
}

# What a loser of a race may be told: unique violation, foreign key (a payout that has gone), serialization, deadlock, not in that state, busy, not there.
my %may_be = map { $_ => 1 } '', qw(23505 23503 40001 40P01 55000 55006 P0002);

sub burst {
    my ($rounds, $crash) = @_;
    my @unexpected;

    push @history, $crash ? "burst and $crash" : 'burst';
    for my $round (1 .. $rounds) {
        my @statements = map { burst_statement() } @others;
        $statements[0] = 'SELECT apapacho_payout_run(forced => true)' if $crash && $round == $rounds;
        $others[$_]->begin($statements[$_]) for 0 .. $#others;
        crash($crash) if $crash && $round == $rounds;
        for my $number (0 .. $#others) {
            my $result = $others[$number]->end;
            $done{"state $result->{state}"}++;
            remember("$statements[$number] -> $result->{state}");
            next if $may_be{ $result->{state} } || ($crash && $round == $rounds);
            next if $result->{state} eq '0A000' && $statements[$number] =~ /(?:REPEATABLE READ|SERIALIZABLE); SELECT apapacho_payout_create/;
            push @unexpected, "$statements[$number]: $result->{state} $result->{error}";
        }
    }
    check('what sessions were told', join("\n", @unexpected));
    if ($crash) { $_->close for $world->{session}, @others; }
    $node->wait_for(q{SELECT COALESCE((SELECT status = 'succeeded' FROM apapacho_jobs.run WHERE job = 'payout' ORDER BY id DESC LIMIT 1), true)},
        'the calculation has been taken up again') if $crash;
    check('after a burst', join("\n", $world->contradictions));
    $world->learn;
    step('run');
    return;
}

sub crash {
    my ($how) = @_;

    # at any moment of the run
    select(undef, undef, undef, rand(0.15)) if $how;
    if ($how eq 'kill -9') {
        my ($victim) = ($node->pids('worker'), $node->pids('scheduler'));
        $node->kill_hard($victim);
    } else {
        $node->stop('immediate');
        $node->start;
    }
    return;
}

# ---- the history

$world->set_up;
$world->ask(q{INSERT INTO "FeeSchedule" (id, "effectiveFrom") VALUES ('first', '2020-01-01')});
$world->ask(sprintf(q{INSERT INTO "Creator" (id, "userId", "updatedAt") SELECT 'c' || lpad(n::text, 3, '0'), n, now() FROM generate_series(1, %d) AS n}, $creators));
if ($world->clock_can_be_moved) {
    $world->set_clock(1000 * timegm(0, 1, 10, 4, 2, 2027));
} else {
    diag('the clock of payouts cannot be moved: time stands still');
    $steps{time}[1] = sub { return ''; };
}
$node->wait_for_scheduler;
$world->learn;
step('sale') for 1 .. 2 * $creators;
for (1 .. 3 * $creators) { my ($sale, $sql) = sale(creator()); $world->ask($sql); }
$world->learn;
step('run');

# A refund that is disputed again stays adjusted while another one is dealt with: chance hardly ever comes to that.
sub disputed_refund {
    my ($sent) = sort { $a->{id} cmp $b->{id} } grep { $_->{status} eq 'SENT' && keys %{ $_->{items} } > 1
            && model()->{creators}{ $_->{creator} } eq 'ACTIVE' } values %{ model()->{payouts} };
    my ($first, $second) = sort keys %{ $sent->{items} };

    for my $change ([$first, 'REFUNDED'], [$first, 'DISPUTED'], [$second, 'CHARGEDBACK'], [$first, 'SUCCEEDED']) {
        my ($id, $status) = @{$change};
        model()->{transactions}{$id}{status} = $status;
        check("$id is $status", expect('', qq{UPDATE "Transaction" SET status = '$status' WHERE id = '$id'}));
        # the second comes before the next run
        step('run') unless $status eq 'DISPUTED';
    }
    return;
}

step('all_sent') for 1 .. 3;
disputed_refund();

my $until = time() + $seconds;
my $turn = 0;
while (time() < $until) {
    step() for 1 .. 25;
    burst(4);
    burst(2, $turn % 2 ? 'immediate shutdown' : 'kill -9') if $turn++ % 2 == 0;
}

# in the end all that is due is paid and nothing differs
step('time');
step('run');
# the hand's payouts have whatever period they like
is($world->ask(q{SELECT * FROM apapacho_payout_reconcile() AS r WHERE NOT (kind = 'PERIOD' AND EXISTS (
    SELECT FROM "Payout" AS p WHERE p."creatorId" = r.creator_id AND p.id LIKE 'by hand%')) LIMIT 5}), '', 'nothing to reconcile');
cmp_ok($done{payouts}, '>', 0, 'payouts were made');
note(scalar(@{ model()->{adjustments} }) . ' adjustments, ' . scalar(grep { @{ $_->{adjustments} } } values %{ model()->{payouts} }) . ' payouts with some');
pass("$done{steps} steps, $done{checks} checks, PAYOUT_SEED=$seed");
note(join(', ', map { "$_: $done{$_}" } sort keys %done));
$node->stop;
done_testing();
