# 039_payout_calendar.pl: periods and holds over every change of the clocks and every end of a month from 2024 to 2035 in America/Santiago,
# where midnight does not exist on the day in spring, held against the C library's idea of the zone (lib/PayoutModel.pm).
#
# The clock is moved by apapacho_jobs.debug_clock_offset.
use strict;
use warnings;

use Apapacho;
use PayoutModel;
use PayoutWorld;
use Test::More;
use Time::Local qw(timegm);

my $zone = 'America/Santiago';
my ($day, $hour) = (86_400, 3600);
my ($first, $last) = (timegm(0, 0, 0, 1, 0, 2024), timegm(0, 0, 0, 1, 0, 2036));
my $node = Apapacho->create('main', tables => 'fixture', settings => { 'apapacho_jobs.timezone' => $zone });
my $world = PayoutWorld->new($node, zone => $zone);

# Moments (seconds) at which the zone's clocks are changed.
sub clock_changes {
    my @changes;

    for (my $at = $first; $at < $last; $at += $hour) {
        push @changes, $at if PayoutModel::offset($zone, $at) != PayoutModel::offset($zone, $at - 1);
    }
    return @changes;
}

sub utc { my ($seconds) = @_; return "(to_timestamp($seconds) AT TIME ZONE 'UTC')"; }

# Lines that differ, the first few.
sub few { my @lines = @_; return join("\n", @lines > 5 ? @lines[0 .. 4] : @lines); }

my @changes = clock_changes();
my @month_ends = map { my $year = $_; map { timegm(0, 0, 0, 1, $_, $year) - $day } 0 .. 11 } 2024 .. 2035;
is(scalar @changes, 24, 'two changes a year');
is(scalar(grep { PayoutModel::offset($zone, $_) > PayoutModel::offset($zone, $_ - 1)
            && PayoutModel::wall($zone, $_) % $day == $hour && PayoutModel::wall($zone, $_ - 1) % $day == $day - 1 } @changes), 12,
    'midnight does not exist twelve times');

subtest 'periods tile' => sub {
    for my $frequency (qw(WEEKLY BIWEEKLY MONTHLY)) {
        # each hour of twelve years is in a period that begins where the one before ends
        is($world->ask(qq{
            SELECT at, a.period_start, a.period_end, a.last_end FROM (
                SELECT g.at, p.*, lag(p.period_start) OVER (ORDER BY g.at) AS last_start, lag(p.period_end) OVER (ORDER BY g.at) AS last_end
                FROM generate_series(timestamp '2023-12-25', '2036-01-10', interval '1 hour') AS g (at)
                    CROSS JOIN LATERAL apapacho_jobs.payout_period('$frequency', g.at, '$zone') AS p) AS a
            WHERE NOT (a.period_start <= a.at AND a.at < a.period_end)
                OR NOT (a.period_start = a.last_start AND a.period_end = a.last_end OR a.period_start = a.last_end) LIMIT 5}),
            '', "$frequency: without gap or overlap");

        # the last and the first moment of each day, and each clock change, in the period that Perl computes
        my @moments = sort { $a <=> $b } map { ($_ - 1, $_) } @changes, map { PayoutModel::at_wall($zone, $first + $_ * $day) } 0 .. ($last - $first) / $day;
        my %found = map { /^(-?\d+) (.*)/ } split(/\n/, $world->ask(qq{
            SELECT u.at || ' ' || extract(epoch FROM p.period_start)::bigint || ' ' || extract(epoch FROM p.period_end)::bigint
            FROM unnest('{@{[join(',', @moments)]}}'::bigint[]) AS u (at)
                CROSS JOIN LATERAL apapacho_jobs.payout_period('$frequency', @{[utc('u.at')]}, '$zone') AS p}));
        my %starts;
        my @wrong;
        for my $at (@moments) {
            my ($from, $to) = map { $_ / 1000 } PayoutModel::period($zone, $frequency, $at * 1000);
            push @wrong, gmtime($at) . ": expected $from $to, found " . ($found{$at} // 'nothing') if "$from $to" ne ($found{$at} // '');
            $starts{$from} = 1;
        }
        is(few(@wrong), '', "$frequency: as computed by hand");
        cmp_ok(scalar(keys %starts), '>', { WEEKLY => 620, BIWEEKLY => 310, MONTHLY => 143 }->{$frequency}, "$frequency: many periods");
    }
};

# One sale for each creator, at these moments.
sub sell {
    my (@moments) = @_;
    my @rows = map { "($_, $moments[$_])" } 0 .. $#moments;

    $world->ask(q{INSERT INTO "Creator" (id, "userId", "updatedAt") SELECT 'c' || n, n, now() FROM (VALUES } . join(', ', @rows) . q{) AS v (n, at)});
    $world->ask(q{INSERT INTO "Transaction" (id, "creatorId", "fanUserId", "productType", "grossAmount", "appliedFeeScheduleId",
        "appliedPlatformFeeBps", "platformFeeAmount", "creatorPayableAmount", "occurredAt", provider, "providerPaymentId", "providerEventId")
        SELECT 't' || n, 'c' || n, 'fan', 'TIP', 30000, 'first', 0, 0, 30000, } . utc('at') . q{, 'test', 'payment', n FROM (VALUES }
            . join(', ', @rows) . q{) AS v (n, at)});
    return;
}

my $hold = 7;
# times of day about which clocks disagree, on the days around each change and end of a month, and so long before them
my @moments = do {
    my %moments;
    for my $date (@month_ends, map { $day * int((PayoutModel::wall($zone, $_) + 2 * $hour) / $day) } @changes) {
        for my $days (-$hold - 1, -$hold, -1, 0, 1) {
            $moments{ PayoutModel::at_wall($zone, $date + $days * $day + $_) } = 1 for 0, $hour / 2, $hour, 12 * $hour, 23.5 * $hour, $day - 1;
        }
    }
    sort { $a <=> $b } keys %moments;
};
$world->ask(q{INSERT INTO "FeeSchedule" (id, "effectiveFrom", "holdDays", "minPayoutClp") VALUES ('first', '2000-01-01', 7, 20000)});
$world->ask('SELECT count(*) FROM apapacho_payout_install_guards()');
if (!$world->clock_can_be_moved) {
  SKIP: { skip('the clock of payouts cannot be moved', 3); }
    $node->stop;
    done_testing();
    exit;
}
sell(@moments);

subtest 'the end of the hold' => sub {
    $world->set_clock(1000 * ($moments[0] - $day));
    my %found = map { /^c(\d+)\|(.*)/ } split(/\n/, $world->ask(
            'SELECT creator_id, reason, extract(epoch FROM next_release_at)::bigint, extract(epoch FROM next_at)::bigint FROM apapacho_payout_preview()'));
    my @wrong;
    for my $number (0 .. $#moments) {
        my $release = PayoutModel::add_days($zone, $moments[$number] * 1000, $hold) / 1000;
        my $expected = "HOLD|$release|$release";
        push @wrong, gmtime($moments[$number]) . ": expected $expected, found " . ($found{$number} // 'nothing') if ($found{$number} // '') ne $expected;
    }
    is(few(@wrong), '', 'is so many days later by the calendar');
    cmp_ok(scalar(@moments), '>', 3000, 'on many days');
};

# At noon after each change the sales of noon so many days before are released, and not a minute before.
subtest 'what is released' => sub {
    my @wrong;

    for my $change (@changes) {
        my $noon = PayoutModel::at_wall($zone, $day * int((PayoutModel::wall($zone, $change) + 2 * $hour) / $day) + 12 * $hour);
        my $sold = PayoutModel::at_wall($zone, PayoutModel::wall($zone, $noon) - $hold * $day);
        my ($number) = grep { $moments[$_] == $sold } 0 .. $#moments;
        isnt($noon - $sold, $hold * $day, gmtime($change) . ': not so many times 24 hours');
        for my $case ([-60, 0], [60, 1]) {
            $world->set_clock(1000 * ($noon + $case->[0]));
            my $payable = $world->ask("SELECT payable::int FROM apapacho_payout_preview() WHERE creator_id = 'c$number'");
            my $says = $world->ask("SELECT (apapacho_payout_eligibility('c$number') ->> 'canCreatePayout')::boolean::int");
            push @wrong, gmtime($change) . " at $case->[0] s: preview $payable, eligibility $says" if $payable ne $case->[1] || $says ne $case->[1];
        }
    }
    is(few(@wrong), '', 'at the minute');
};

# Through a year, hour by hour around the ends of months and changes: who was paid is due again when the next period begins, not before.
subtest 'due again' => sub {
    $world->ask(q{INSERT INTO "Creator" (id, "userId", "updatedAt") VALUES ('ana', 'ana', now())});
    for my $frequency (qw(WEEKLY BIWEEKLY MONTHLY)) {
        my @wrong;
        $world->ask(qq{INSERT INTO "FeeSchedule" (id, "effectiveFrom", "holdDays", "minPayoutClp", "payoutFrequency")
            VALUES ('$frequency', } . utc($first - 400 * $day) . qq{, 0, 1, '$frequency')});
        for my $change (grep { $_ > $first + 365 * $day } @changes[2 .. 5]) {
            my ($from, $to) = map { $_ / 1000 } PayoutModel::period($zone, $frequency, 1000 * $change);
            my $number = 0;
            # paid at the period's first moment; the sale after that is due at the next one's
            for my $case ([$from, ''], [$to - 600, 'NOT_DUE'], [$to, '']) {
                my ($at, $expected) = @{$case};
                my $id = "$frequency $change " . ++$number;
                $world->ask(qq{INSERT INTO "Transaction" (id, "creatorId", "fanUserId", "productType", "grossAmount", "appliedFeeScheduleId",
                    "appliedPlatformFeeBps", "platformFeeAmount", "creatorPayableAmount", "occurredAt", provider, "providerPaymentId", "providerEventId")
                    VALUES ('$id', 'ana', 'fan', 'TIP', 5, 'first', 0, 0, 5, } . utc($at - $hour) . qq{, 'test', 'payment', '$id')});
                $world->set_clock(1000 * $at);
                my $answer = $world->ask(q{SELECT COALESCE(apapacho_payout_create('ana') ->> 'reasonCode', '')});
                push @wrong, "$frequency, " . gmtime($at) . ": expected '$expected', found '$answer'" if $answer ne $expected;
            }
        }
        is(few(@wrong), '', "$frequency: by the period, not by the days since");
        $world->ask(qq{UPDATE "FeeSchedule" SET "effectiveFrom" = "effectiveFrom" - interval '50 years' WHERE id = '$frequency'});
        $world->ask(q{UPDATE "Payout" SET status = 'CANCELLED' WHERE "creatorId" = 'ana'});
        $world->ask(q{UPDATE "Transaction" SET status = 'REFUNDED' WHERE "creatorId" = 'ana'});
    }
};

$node->stop;
done_testing();
