# PayoutModel.pm: the rules of payouts once more, as naively as can be: one creator at a time, in plain Perl, in memory.
#
# Written from the specification and src/payout/README.md, not from the code that it is held against (PayoutWorld.pm does that). Knows
# nothing of the database. Times are milliseconds since 1970, amounts whole CLP. What a method expects the database to answer
# is its result: '' or the SQLSTATE.
package PayoutModel;

use strict;
use warnings;

use List::Util qw(sum0 max min);
use POSIX ();
use Time::Local qw(timegm);

my $day = 86_400;
my %amount_of = (PAYABLE => 'CREATOR_PAYABLE', PENDING => 'PAYOUT_PENDING', CASH => 'CASH_PROCESSOR_CLEARING',
    REFUND => 'REFUND_EXPENSE', CHARGEBACK => 'CHARGEBACK_LOSS');

# Which status may follow which, by anybody's hand.
my %may_follow = (
    CALCULATED => { map { $_ => 1 } qw(CALCULATED PENDING SENT FAILED CANCELLED) },
    PENDING => { map { $_ => 1 } qw(PENDING SENT FAILED CANCELLED) },
    SENT => { SENT => 1 },
    FAILED => { map { $_ => 1 } qw(FAILED PENDING CANCELLED) },
    CANCELLED => { CANCELLED => 1 });

sub new {
    my ($class, %options) = @_;
    return bless { zone => 'UTC', creators => {}, transactions => {}, payouts => {}, adjustments => [], schedules => {}, events => {},
        ledger => {}, %options }, $class;
}

# ---- calendar

# Seconds that a zone's clocks are ahead of UTC.
sub offset {
    my ($zone, $seconds) = @_;
    local $ENV{TZ} = $zone;

    POSIX::tzset();
    my @parts = localtime($seconds);
    return timegm(@parts[0 .. 4], $parts[5] + 1900) - $seconds;
}

# The moment (seconds) at which a zone's clocks show a time (seconds, as if it were UTC). A time that they skip counts from before the
# change, so midnight becomes the first moment of its day; of one that they show twice the second.
sub at_wall {
    my ($zone, $wall) = @_;
    my ($before, $after) = map { offset($zone, $wall + $_) } (-$day, $day);
    my @fits = grep { $_ + offset($zone, $_) == $wall } map { $wall - $_ } ($before, $after);

    return @fits ? max(@fits) : $wall - $before;
}

sub wall {
    my ($zone, $seconds) = @_;
    return $seconds + offset($zone, $seconds);
}

# So many calendar days later (milliseconds).
sub add_days {
    my ($zone, $at, $days) = @_;
    my $seconds = POSIX::floor($at / 1000);
    return 1000 * at_wall($zone, wall($zone, $seconds) + $days * $day) + $at - 1000 * $seconds;
}

# The period that a moment is in: from, to (milliseconds).
sub period {
    my ($zone, $frequency, $at) = @_;
    my $today = POSIX::floor(wall($zone, POSIX::floor($at / 1000)) / $day);
    my ($from, $to);

    if ($frequency eq 'MONTHLY') {
        my @parts = gmtime($today * $day);
        my ($month, $year) = ($parts[4], $parts[5] + 1900);
        $from = timegm(0, 0, 0, 1, $month, $year) / $day;
        $to = timegm(0, 0, 0, 1, ($month + 1) % 12, $month == 11 ? $year + 1 : $year) / $day;
    } else {
        my $length = $frequency eq 'BIWEEKLY' ? 14 : 7;
        my $monday = timegm(0, 0, 0, 1, 0, 2024) / $day;
        $from = $monday + $length * POSIX::floor(($today - $monday) / $length);
        $to = $from + $length;
    }
    return map { 1000 * at_wall($zone, $_ * $day) } ($from, $to);
}

# ---- what there is

sub schedule {
    my ($self) = @_;
    my ($newest) = sort { $b->{from} <=> $a->{from} || $b->{id} cmp $a->{id} }
        grep { $_->{from} <= $self->{now} } values %{ $self->{schedules} };
    return $newest;
}

sub holds {
    my ($payout) = @_;
    return 1 if $payout->{status} =~ /^(?:CALCULATED|PENDING|SENT)$/;
    return $payout->{status} eq 'FAILED' && defined $payout->{next_retry} && $payout->{retries} < 3 ? 1 : 0;
}

sub in_flight {
    my ($payout) = @_;
    return $payout->{status} eq 'PENDING' && !defined $payout->{next_retry} ? 1 : 0;
}

sub can_be_recalled {
    my ($payout) = @_;
    return holds($payout) && $payout->{status} ne 'SENT' && !in_flight($payout) ? 1 : 0;
}

sub level {
    my ($payout) = @_;
    return !holds($payout) ? 'none' : $payout->{status} eq 'SENT' ? 'sent' : 'held';
}

sub payouts_of {
    my ($self, $creator) = @_;
    return sort { $a->{id} cmp $b->{id} } grep { $_->{creator} eq $creator } values %{ $self->{payouts} };
}

# The payout that holds a transaction.
sub holder {
    my ($self, $transaction) = @_;
    my ($holder) = grep { holds($_) && exists $_->{items}{$transaction} } values %{ $self->{payouts} };
    return $holder;
}

sub adjustments_of {
    my ($self, $creator) = @_;
    return grep { $_->{creator} eq $creator } @{ $self->{adjustments} };
}

# ---- what changes

sub post {
    my ($self, $for, $debit, $credit, $amount) = @_;
    return if $amount <= 0;
    $self->{ledger}{"$for $amount_of{$debit}"} += $amount;
    $self->{ledger}{"$for $amount_of{$credit}"} -= $amount;
    return;
}

sub emit {
    my ($self, $payout, $type) = @_;
    $self->{events}{"$payout->{id} $type"}++;
    return;
}

# The ledger follows a payout from one level to another.
sub _post_change {
    my ($self, $payout, $from, $to) = @_;
    my $for = "payout $payout->{id}";

    $self->post($for, qw(PAYABLE PENDING), $payout->{amount}) if $from eq 'none' && $to ne 'none';
    $self->post($for, qw(PENDING CASH), $payout->{amount}) if $from ne 'sent' && $to eq 'sent';
    $self->post($for, qw(PENDING PAYABLE), $payout->{amount}) if $from eq 'held' && $to eq 'none';
    return;
}

# Anybody's change of a payout: status, next_retry (undef: null), retries ...
sub change {
    my ($self, $payout, %new) = @_;
    my %before = %{$payout};
    my $after = { %before, %new };

    return '55000' unless $may_follow{ $before{status} }{ $after->{status} };
    if (!holds(\%before) && holds($after)) {
        return '23505' if grep { $self->holder($_) } keys %{ $payout->{items} };
        return '55000' if grep { defined $_->{payout} && $_->{payout} ne $payout->{id} } @{ $payout->{adjustments} };
        $_->{payout} = $payout->{id} for @{ $payout->{adjustments} };
    } elsif (holds(\%before) && !holds($after)) {
        $_->{payout} = undef for @{ $payout->{adjustments} };
    }
    %{$payout} = %{$after};
    push @{ $payout->{transitions} }, "$before{status}>$payout->{status}" if $before{status} ne $payout->{status};
    $self->_post_change($payout, level(\%before), level($payout));
    return '';
}

# A new payout: id, creator, items {transaction => amount}, adjustments [..] and the columns. Whether anything is held already is the
# caller's question.
sub add_payout {
    my ($self, %payout) = @_;
    my $payout = { retries => 0, next_retry => undef, transfer => undef, reason => undef, adjustments => [], transitions => [], reports => {}, %payout };

    $self->{payouts}{ $payout->{id} } = $payout;
    if (holds($payout)) { $_->{payout} = $payout->{id} for @{ $payout->{adjustments} }; }
    $self->_post_change($payout, 'none', level($payout));
    return $payout;
}

sub delete_payout {
    my ($self, $payout) = @_;

    return '55000' if $payout->{status} eq 'SENT';
    if (holds($payout)) { $_->{payout} = undef for @{ $payout->{adjustments} }; }
    delete $self->{payouts}{ $payout->{id} };
    delete $self->{ledger}{$_} for grep { /^payout \Q$payout->{id}\E / } keys %{ $self->{ledger} };
    return '';
}

sub adjust {
    my ($self, %adjustment) = @_;
    my $amount = $adjustment{amount};
    my $for = defined $adjustment{transaction} ? "transaction $adjustment{transaction}" : "creator $adjustment{creator}";
    my $other = $adjustment{is_chargeback} ? 'CHARGEBACK' : 'REFUND';

    push @{ $self->{adjustments} }, { payout => undef, %adjustment };
    $self->post($for, $amount < 0 ? ('PAYABLE', $other) : ($other, 'PAYABLE'), abs $amount);
    return;
}

# ---- reports

sub mark_sent {
    my ($self, $payout, $transfer) = @_;

    return $payout->{transfer} eq $transfer ? '' : '55000' if $payout->{status} eq 'SENT';
    return '55000' unless $payout->{status} =~ /^(?:CALCULATED|PENDING)$/;
    $self->change($payout, status => 'SENT', transfer => $transfer, next_retry => undef);
    $self->emit($payout, 'PayoutSent');
    return '';
}

sub mark_failed {
    my ($self, $payout, $reason, $reference, $terminal) = @_;

    return '' if defined $reference && $payout->{reports}{$reference};
    return '55000' unless $payout->{status} =~ /^(?:CALCULATED|PENDING)$/;
    my $retries = $payout->{retries} + 1;
    my $ends = $terminal || $retries >= 3;
    $self->change($payout, status => $ends ? 'FAILED' : 'PENDING', retries => $retries, reason => $reason,
        next_retry => $ends ? undef : $self->{now} + 1000 * $day);
    $payout->{reports}{$reference} = 1 if defined $reference;
    $self->emit($payout, 'PayoutFailed');
    return '';
}

sub mark_cancelled {
    my ($self, $payout, $reason) = @_;

    return $payout->{reason} eq $reason ? '' : '55000' if $payout->{status} eq 'CANCELLED';
    return '55000' unless $payout->{status} =~ /^(?:CALCULATED|PENDING)$/;
    $self->change($payout, status => 'CANCELLED', reason => $reason, next_retry => undef);
    $self->emit($payout, 'PayoutCancelled');
    return '';
}

# The job retry; how many it takes up.
sub retry {
    my ($self) = @_;
    my @due = grep { $_->{status} eq 'PENDING' && defined $_->{next_retry} && $_->{next_retry} <= $self->{now} } values %{ $self->{payouts} };

    for my $payout (@due) {
        $payout->{next_retry} = undef;
        $self->emit($payout, 'PayoutRetryRequested');
    }
    return scalar @due;
}

# ---- the calculation

# Reversals of what is in a creator's payouts.
sub sweep {
    my ($self, $creator) = @_;
    my $transactions = $self->{transactions};

    for my $payout ($self->payouts_of($creator)) {
        next unless can_be_recalled($payout) && grep { $transactions->{$_}{status} ne 'SUCCEEDED' } keys %{ $payout->{items} };
        $self->change($payout, status => 'CANCELLED', reason => 'reversed transaction', next_retry => undef);
        $self->emit($payout, 'PayoutCancelled');
    }
    for my $id (sort grep { $transactions->{$_}{creator} eq $creator } keys %{$transactions}) {
        my $status = $transactions->{$id}{status};
        my $holder = $self->holder($id);
        my @so_far = grep { ($_->{transaction} // '') eq $id } @{ $self->{adjustments} };
        my $net = sum0(map { $_->{amount} } @so_far);
        my $target = 0;

        if ($holder && $status eq 'DISPUTED') { $target = $net; }
        elsif ($holder && $status =~ /^(?:REFUNDED|CHARGEDBACK)$/) { $target = -$holder->{items}{$id}; }
        next if $target == $net;
        my ($taken) = grep { $_->{amount} < 0 } reverse @so_far;
        my $kind = $target > $net ? 'REINSTATED' : $status eq 'CHARGEDBACK' ? 'CHARGEBACK' : 'REFUND';
        $self->adjust(creator => $creator, transaction => $id, amount => $target - $net, kind => $kind,
            is_chargeback => $kind eq 'REINSTATED' ? $taken && $taken->{kind} eq 'CHARGEBACK' : $kind eq 'CHARGEBACK');
    }
    return;
}

# What a creator would get now, once the sweep is through; undef when there is nothing to say. reason undef: is paid.
sub decide {
    my ($self, $creator, $forced) = @_;
    my $schedule = $self->schedule;
    my $cutoff = add_days($self->{zone}, $self->{now}, -$schedule->{hold});
    my ($period_start, $period_end) = period($self->{zone}, $schedule->{frequency}, $self->{now});
    my (%held_by);

    for my $payout (grep { holds($_) } $self->payouts_of($creator)) { $held_by{$_} = 1 for keys %{ $payout->{items} }; }
    my @unpaid = grep { $_->{creator} eq $creator && $_->{status} eq 'SUCCEEDED' && !$held_by{ $_->{id} } } values %{ $self->{transactions} };
    my @eligible = sort { $a->{id} cmp $b->{id} } grep { $_->{currency} eq 'CLP' && $_->{at} <= $cutoff } @unpaid;
    my @held = grep { $_->{currency} eq 'CLP' && $_->{at} > $cutoff } @unpaid;
    my @open = grep { !defined $_->{payout} } $self->adjustments_of($creator);
    my $adjustments = sum0(map { $_->{amount} } @open);
    return undef unless @unpaid || $adjustments;

    my $amount = sum0(map { $_->{amount} } @eligible);
    my $total = $amount + $adjustments;
    my $status = $self->{creators}{$creator};
    my $release = @held ? add_days($self->{zone}, min(map { $_->{at} } @held), $schedule->{hold}) : undef;
    my @ends = map { $_->{period_end} } grep { holds($_) } $self->payouts_of($creator);
    my $last_end = @ends ? max(@ends) : undef;
    my ($reason, $next) = (undef, undef);

    if ($status eq 'SUSPENDED') { ($reason, $next) = ('SUSPENDED', 'any'); }
    elsif ($status ne 'ACTIVE') { ($reason, $next) = ('NOT_VERIFIED', 'any'); }
    elsif ($total < 0) { ($reason, $next) = ('NEGATIVE_BALANCE', $release); }
    elsif (!@eligible && !$adjustments) { ($reason, $next) = @held ? ('HOLD', $release) : ('CURRENCY', undef); }
    elsif ($total < $schedule->{minimum} || $total <= 0) { ($reason, $next) = ('BELOW_MINIMUM', $release); }
    elsif (!$forced && defined $last_end && $last_end >= $period_start) { ($reason, $next) = ('NOT_DUE', $period_end); }

    return {
        creator => $creator, reason => $reason, next => $next, amount => $amount, adjustments => $adjustments, total => $total,
        transactions => scalar @eligible, held_amount => sum0(map { $_->{amount} } @held), release => $release,
        items => { map { $_->{id} => $_->{amount} } @eligible }, open => \@open, gross => sum0(map { $_->{gross} } @eligible),
        fee => sum0(map { $_->{fee} } @eligible),
        period_start => $last_end // (@eligible ? min(map { $_->{at} } @eligible) : undef) };
}

# One creator: sweep, decide, pay. `name` gives the new payout its id, by the creator's. The decision.
sub pay {
    my ($self, $creator, $forced, $name) = @_;

    $self->sweep($creator);
    my $decision = $self->decide($creator, $forced);
    return $decision if !$decision || defined $decision->{reason};
    my $payout = $self->add_payout(id => $name->($creator), creator => $creator, status => 'CALCULATED', items => $decision->{items},
        adjustments => $decision->{open}, amount => $decision->{total}, gross => $decision->{gross}, fee => $decision->{fee},
        adjustments_total => $decision->{adjustments}, period_start => $decision->{period_start} // $self->{now},
        period_end => $self->{now}, ours => 1);
    $self->emit($payout, 'PayoutCalculated');
    return $decision;
}

# All of them: {creator => decision}.
sub run {
    my ($self, $forced, $name) = @_;
    my %decisions = map { $_ => $self->pay($_, $forced, $name) } sort keys %{ $self->{creators} };

    return { map { $_ => $decisions{$_} } grep { $decisions{$_} } keys %decisions };
}

1;
