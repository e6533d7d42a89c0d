# PayoutWorld.pm: a database with payouts beside PayoutModel's idea of it: reads all of it, holds one against the other, and says what
# contradicts itself in the database alone.
#
# In the test's own process; statements go through a session (Session.pm) of a superuser's.
package PayoutWorld;

use strict;
use warnings;

use JSON::PP ();
use List::Util qw(max sum0);
use PayoutModel;
use PostgreSQL::Test::Utils ();
use Session;
use Time::HiRes qw(time);

my @accounts = qw(CASH_PROCESSOR_CLEARING CREATOR_PAYABLE PLATFORM_REVENUE PROCESSOR_FEE_EXPENSE CHARGEBACK_LOSS PAYOUT_PENDING REFUND_EXPENSE);
my $tolerance = 15 * 60_000;    # milliseconds between what we took for now and what the database did

# The backend's tables with a ledger in a node's database. Options: zone (of apapacho_jobs.timezone), database (postgres).
sub new {
    my ($class, $node, %options) = @_;
    my $self = bless { node => $node, zone => $options{zone} // 'UTC', session => Session->new($node, name => 'world', database => $options{database}) }, $class;

    $self->{model} = PayoutModel->new(zone => $self->{zone});
    return $self;
}

# Everything that matters, as text: for the same of two databases.
sub facts {
    my ($self) = @_;
    $self->learn;
    my $facts = _facts($self->{model});
    return join("\n", map { "$_: $facts->{$_}" } sort keys %{$facts});
}

sub ask { my ($self, $sql) = @_; return $self->{session}->ask($sql); }
sub try { my ($self, $sql) = @_; return $self->{session}->try($sql); }

# Accounts of the ledger, and the guards.
sub set_up {
    my ($self) = @_;

    $self->ask(qq{INSERT INTO "LedgerAccount" (id, code, name, type) VALUES } . join(', ', map { "('$_', '$_', '$_', 'ANY')" } @accounts));
    $self->ask('SELECT count(*) FROM apapacho_payout_install_guards()');
    return;
}

# Moves the payouts' clock (apapacho_jobs.debug_clock_offset) to these milliseconds, for this session and those that begin later.
sub set_clock {
    my ($self, $ms) = @_;
    my $offset = int($ms / 1000) - int(time());
    my $deadline = time() + $PostgreSQL::Test::Utils::timeout_default;

    $self->ask("ALTER SYSTEM SET apapacho_jobs.debug_clock_offset = $offset; SELECT pg_reload_conf()");
    # a session takes that up between statements
    until ($self->ask("SELECT extract(epoch FROM current_setting('apapacho_jobs.debug_clock_offset')::interval) = $offset") eq 't') {
        die "the clock is not set\n" if time() > $deadline;
    }
    $self->{model}{now} = $ms;
    return;
}

# Whether payouts go by that clock. Leaves it as the time of day.
sub clock_can_be_moved {
    my ($self) = @_;
    my $later = 1000 * (int(time()) + 400 * 86_400);

    $self->set_clock($later);
    my $moved = $self->ask(q{BEGIN; INSERT INTO "Creator" (id, "userId", "updatedAt") VALUES ('clock', 'clock', now());
        INSERT INTO "Transaction" (id, "creatorId", "fanUserId", "productType", "grossAmount", "appliedFeeScheduleId", "appliedPlatformFeeBps",
            "platformFeeAmount", "creatorPayableAmount", "occurredAt", provider, "providerPaymentId", "providerEventId")
        SELECT 'clock', 'clock', 'fan', 'TIP', 10000000, id, 0, 0, 10000000, (now() AT TIME ZONE 'UTC') + interval '200 days', 'test', 'payment', 'clock'
            FROM "FeeSchedule" LIMIT 1;
        SELECT apapacho_payout_eligibility('clock') ->> 'canCreatePayout'; ROLLBACK});
    $self->set_clock(1000 * int(time()));
    return $moved eq 'true';
}

# ---- what is in the database

# A statement that returns a line for each row, its fields separated by tabs.
sub _lines {
    my ($kind, $from, @columns) = @_;
    return "SELECT array_to_string(ARRAY['$kind', " . join(', ', map { "($_)::text" } @columns) . "], E'\\t', '-') $from";
}

sub _ms { my ($column) = @_; return "round(extract(epoch FROM $column) * 1000)::bigint"; }

my @reading = (
    _lines('creator', 'FROM "Creator"', 'id', 'status'),
    _lines('schedule', 'FROM "FeeSchedule"', 'id', _ms('"effectiveFrom"'), '"holdDays"', '"minPayoutClp"', '"payoutFrequency"'),
    _lines('transaction', 'FROM "Transaction"', 'id', '"creatorId"', 'status', 'currency', _ms('"occurredAt"'), '"creatorPayableAmount"',
        '"grossAmount"', '"platformFeeAmount"'),
    _lines('payout', 'FROM "Payout" AS p LEFT JOIN apapacho_jobs.payout_origin AS o ON o.payout_id = p.id LEFT JOIN apapacho_jobs.payout_run AS r ON r.id = o.run_id',
        'p.id', '"creatorId"', 'status', _ms('"periodStart"'), _ms('"periodEnd"'), '"grossTotal"', '"platformFeeTotal"', '"adjustmentsTotal"',
        '"payoutAmount"', '"retryCount"', _ms('"nextRetryAt"'), '"providerTransferId"', '"failureReason"', 'r.min_payout'),
    _lines('item', 'FROM "PayoutItem"', '"payoutId"', '"transactionId"', 'amount'),
    _lines('claim', 'FROM apapacho_jobs.payout_claim', 'transaction_id', 'payout_id'),
    _lines('adjustment', 'FROM (SELECT * FROM apapacho_jobs.payout_adjustment ORDER BY transaction_id, number, id) AS a', 'id', 'creator_id',
        'transaction_id', 'kind', 'amount', 'payout_id'),
    _lines('carried', 'FROM apapacho_jobs.payout_adjustment_item', 'payout_id', 'adjustment_id'),
    _lines('ledger', 'FROM "LedgerEntry" AS e JOIN "LedgerAccount" AS a ON a.id = e."accountId" GROUP BY "payoutId", "transactionId", "creatorId", code',
        '"payoutId"', '"transactionId"', '"creatorId"', 'code', 'sum(debit)', 'sum(credit)'),
    _lines('event', q{FROM "OutboxEvent" WHERE "aggregateType" = 'Payout' GROUP BY "aggregateId", "eventType"}, '"aggregateId"', '"eventType"', 'count(*)'),
    _lines('transition', 'FROM (SELECT * FROM apapacho_jobs.payout_transition ORDER BY id) AS t', 'payout_id', 'from_status', 'to_status'),
    _lines('report', 'FROM apapacho_jobs.payout_report', 'payout_id', 'reference', 'outcome'));

# All of it, as of one moment: {kind => [[fields] ...]}; null is undef.
sub load {
    my ($self, $session) = @_;
    my %rows = map { /^SELECT array_to_string\(ARRAY\['(\w+)'/ ? ($1 => []) : () } @reading;

    for my $line (split(/\n/, ($session // $self->{session})->ask(join(' UNION ALL ', map { "($_)" } @reading)))) {
        my ($kind, @fields) = map { $_ eq '-' ? undef : $_ } split(/\t/, $line, -1);
        push @{ $rows{$kind} }, \@fields;
    }
    return \%rows;
}

# The model begins anew with what is in the database.
sub learn {
    my ($self, $rows) = @_;
    my $model = PayoutModel->new(zone => $self->{zone}, now => $self->{model}{now});
    $rows //= $self->load;

    $model->{creators}{ $_->[0] } = $_->[1] for @{ $rows->{creator} };
    $model->{schedules}{ $_->[0] } = { id => $_->[0], from => $_->[1], hold => $_->[2], minimum => $_->[3], frequency => $_->[4] }
        for @{ $rows->{schedule} };
    for my $row (@{ $rows->{transaction} }) {
        @{ $model->{transactions}{ $row->[0] } }{qw(id creator status currency at amount gross fee)} = @{$row};
    }
    for my $row (@{ $rows->{payout} }) {
        my $payout = $model->{payouts}{ $row->[0] } = { items => {}, adjustments => [], transitions => [], reports => {} };
        @{$payout}{qw(id creator status period_start period_end gross fee adjustments_total amount retries next_retry transfer reason)} = @{$row};
        $payout->{ours} = defined $row->[13];
    }
    $model->{payouts}{ $_->[0] }{items}{ $_->[1] } = $_->[2] for @{ $rows->{item} };
    my %adjustment;
    for my $row (@{ $rows->{adjustment} }) {
        my %new;
        @new{qw(id creator transaction kind amount payout)} = @{$row};
        $adjustment{ $row->[0] } = \%new;
        push @{ $model->{adjustments} }, \%new;
    }
    push @{ $model->{payouts}{ $_->[0] }{adjustments} }, $adjustment{ $_->[1] } for @{ $rows->{carried} };
    $model->{ledger}{ _ledger_key($_) } += $_->[4] - $_->[5] for @{ $rows->{ledger} };
    $model->{events}{"$_->[0] $_->[1]"} = $_->[2] for @{ $rows->{event} };
    for my $row (@{ $rows->{transition} }) {
        my $payout = $model->{payouts}{ $row->[0] } or next;
        # what was reported and left the status as it was is there too
        push @{ $payout->{transitions} }, "$row->[1]>$row->[2]" if $row->[1] ne $row->[2];
    }
    for my $row (@{ $rows->{report} }) {
        my $payout = $model->{payouts}{ $row->[0] } or next;
        $payout->{reports}{ $row->[1] } = 1 if $row->[2] eq 'FAILED';
    }
    $self->{model} = $model;
    return;
}

sub _ledger_key {
    my ($row) = @_;
    my ($payout, $transaction, $creator, $code) = @{$row};
    return (defined $payout ? "payout $payout" : defined $transaction ? "transaction $transaction" : 'creator ' . ($creator // 'none')) . " $code";
}

# ---- the one against the other

sub _facts_of_payout {
    my ($payout) = @_;
    my @facts = ($payout->{creator}, $payout->{status}, $payout->{amount}, "failures $payout->{retries}",
        defined $payout->{next_retry} ? 'retried' : 'not retried', $payout->{transfer} // '-', $payout->{reason} // '-',
        'items ' . join(',', map { "$_=$payout->{items}{$_}" } sort keys %{ $payout->{items} }),
        'adjustments ' . join(',', sort { $a <=> $b } map { $_->{amount} } @{ $payout->{adjustments} }));

    push @facts, map { "$_ $payout->{$_}" } qw(gross fee adjustments_total period_start period_end) if $payout->{ours};
    return join(' ', @facts);
}

# A model as {fact => value}.
sub _facts {
    my ($model) = @_;
    my %facts;

    $facts{"creator $_"} = $model->{creators}{$_} for keys %{ $model->{creators} };
    $facts{"transaction $_->{id}"} = "$_->{creator} $_->{status} $_->{amount}" for values %{ $model->{transactions} };
    for my $payout (values %{ $model->{payouts} }) {
        $facts{"payout $payout->{id}"} = _facts_of_payout($payout);
        $facts{"transitions $payout->{id}"} = join(' ', @{ $payout->{transitions} });
    }
    $facts{ join(' ', 'adjustment', $_->{creator}, $_->{transaction} // 'by hand', $_->{kind}, $_->{amount}, $_->{payout} // 'open') }++
        for @{ $model->{adjustments} };
    $facts{"ledger $_"} = $model->{ledger}{$_} for grep { $model->{ledger}{$_} != 0 } keys %{ $model->{ledger} };
    $facts{"event $_"} = $model->{events}{$_} for keys %{ $model->{events} };
    return \%facts;
}

# Where the database is not as the model says: lines, '' if nowhere. The model takes over the times that it cannot know.
sub differences {
    my ($self) = @_;
    my $mine = $self->{model};
    my $rows = $self->load;
    my $there = PayoutWorld->new($self->{node}, zone => $self->{zone});
    my @lines;

    $there->learn($rows);
    for my $payout (values %{ $mine->{payouts} }) {
        my $other = $there->{model}{payouts}{ $payout->{id} } or next;
        for my $time (qw(period_start period_end next_retry)) {
            my ($expected, $found) = ($payout->{$time}, $other->{$time});
            $payout->{$time} = $found if defined $expected && defined $found && abs($expected - $found) < $tolerance;
        }
    }
    my ($ours, $theirs) = (_facts($mine), _facts($there->{model}));
    for my $fact (sort keys %{ { %{$ours}, %{$theirs} } }) {
        my ($expected, $found) = ($ours->{$fact} // 'nothing', $theirs->{$fact} // 'nothing');
        push @lines, "$fact: expected $expected, found $found" if $expected ne $found;
    }
    return join("\n", @lines, $self->contradictions($rows));
}

# ---- the database alone

# What contradicts itself, whatever has happened before: lines.
sub contradictions {
    my ($self, $rows) = @_;
    my @lines;
    my $say = sub { my ($format, @values) = @_; push @lines, sprintf($format, @values) };
    my $world = PayoutWorld->new($self->{node}, zone => $self->{zone});

    $rows //= $self->load;
    $world->learn($rows);
    my $model = $world->{model};
    my (%live, %claims, %held_adjustment);

    # one live payout for each transaction; the claims say the same
    for my $payout (values %{ $model->{payouts} }) {
        next unless PayoutModel::holds($payout);
        push @{ $live{$_} }, $payout->{id} for keys %{ $payout->{items} };
        push @{ $held_adjustment{ $_->{id} } }, $payout->{id} for @{ $payout->{adjustments} };
    }
    $claims{ $_->[0] } = $_->[1] for @{ $rows->{claim} };
    for my $id (sort keys %{ { %live, %claims } }) {
        my @payouts = @{ $live{$id} // [] };
        $say->('transaction %s is in %d live payouts: %s', $id, scalar @payouts, "@payouts") if @payouts > 1;
        $say->('transaction %s is claimed for %s and in %s', $id, $claims{$id} // 'none', "@payouts") if ($claims{$id} // '') ne "@payouts";
    }

    # amounts
    for my $payout (sort { $a->{id} cmp $b->{id} } values %{ $model->{payouts} }) {
        my $id = $payout->{id};
        my $items = sum0(values %{ $payout->{items} });
        my $adjustments = sum0(map { $_->{amount} } @{ $payout->{adjustments} });
        my @transactions = map { $model->{transactions}{$_} } keys %{ $payout->{items} };
        $say->('payout %s: amount %s, items %s, adjustments %s', $id, $payout->{amount}, $items, $adjustments)
            if $payout->{amount} != $items + $adjustments || $payout->{adjustments_total} != $adjustments;
        $say->('payout %s has a transaction of another creator', $id) if grep { $_->{creator} ne $payout->{creator} } @transactions;
        $say->('payout %s has an adjustment of another creator', $id) if grep { $_->{creator} ne $payout->{creator} } @{ $payout->{adjustments} };
        next unless $payout->{ours};
        $say->('payout %s: totals', $id) if $payout->{gross} != sum0(map { $_->{gross} } @transactions)
            || $payout->{fee} != sum0(map { $_->{fee} } @transactions);
        $say->('payout %s: an item is not the transaction', $id) if grep { $payout->{items}{ $_->{id} } != $_->{amount} } @transactions;
        $say->('payout %s: period', $id) if $payout->{period_start} > $payout->{period_end};
    }
    for my $row (@{ $rows->{payout} }) {
        $say->('payout %s is below the minimum of its run: %s', @{$row}[0, 8]) if defined $row->[13] && ($row->[8] < $row->[13] || $row->[8] <= 0);
    }

    # adjustments
    my %net;
    for my $adjustment (@{ $model->{adjustments} }) {
        my @payouts = @{ $held_adjustment{ $adjustment->{id} } // [] };
        $say->('adjustment %s is held by %s and in %s', $adjustment->{id}, $adjustment->{payout} // 'none', "@payouts")
            if ($adjustment->{payout} // '') ne "@payouts";
        $net{ $adjustment->{transaction} } += $adjustment->{amount} if defined $adjustment->{transaction};
    }
    for my $id (sort keys %net) {
        my %once = map { -($_->{items}{$id} // 0) => 1 } values %{ $model->{payouts} };
        $say->('transaction %s is adjusted by %s', $id, $net{$id}) unless $net{$id} == 0 || $once{ $net{$id} };
    }
    push @lines, _contradictions_of_ledger($model, $rows), _contradictions_of_events($model);
    return @lines;
}

# debit = credit overall; what is in it for a payout goes by what it is now.
sub _contradictions_of_ledger {
    my ($model, $rows) = @_;
    my ($debit, $credit) = map { my $column = $_; sum0(map { $_->[$column] } @{ $rows->{ledger} }) } (4, 5);
    my %expected;
    my @lines;

    return if !@{ $rows->{ledger} } && !%{ $model->{payouts} };
    push @lines, "ledger: debit $debit, credit $credit" if $debit != $credit;
    for my $payout (grep { $_->{amount} > 0 && PayoutModel::holds($_) } values %{ $model->{payouts} }) {
        $expected{"payout $payout->{id} CREATOR_PAYABLE"} = $payout->{amount};
        $expected{"payout $payout->{id} " . ($payout->{status} eq 'SENT' ? 'CASH_PROCESSOR_CLEARING' : 'PAYOUT_PENDING')} = -$payout->{amount};
    }
    for my $adjustment (@{ $model->{adjustments} }) {
        my $for = defined $adjustment->{transaction} ? "transaction $adjustment->{transaction}" : "creator $adjustment->{creator}";
        $expected{"$for CREATOR_PAYABLE"} -= $adjustment->{amount};
    }
    for my $key (sort keys %{ { %expected, %{ $model->{ledger} } } }) {
        next if $key =~ /(?:REFUND_EXPENSE|CHARGEBACK_LOSS)$/;
        my ($expected, $found) = ($expected{$key} // 0, $model->{ledger}{$key} // 0);
        push @lines, "ledger $key: $found instead of $expected" if $expected != $found;
    }
    return @lines;
}

# One event for each change that was not made by hand; those have "by hand" as their transfer or reason.
sub _contradictions_of_events {
    my ($model) = @_;
    my @lines;

    for my $payout (sort { $a->{id} cmp $b->{id} } values %{ $model->{payouts} }) {
        my %expected = (
            PayoutCalculated => $payout->{ours} ? 1 : 0,
            PayoutSent => $payout->{status} eq 'SENT' && ($payout->{transfer} // '') ne 'by hand' ? 1 : 0,
            PayoutCancelled => $payout->{status} eq 'CANCELLED' && ($payout->{reason} // '') ne 'by hand' ? 1 : 0,
            PayoutFailed => $payout->{retries});
        for my $type (sort keys %expected) {
            my $found = $model->{events}{"$payout->{id} $type"} // 0;
            push @lines, "payout $payout->{id}: $found $type instead of $expected{$type}" if $found != $expected{$type};
        }
    }
    return @lines;
}

# ---- runs

# Reasons and figures, a line each, from decisions of the model.
sub _lines_of_decisions {
    my ($decisions, $preview) = @_;
    my @lines;

    for my $creator (sort keys %{$decisions}) {
        my $decision = $decisions->{$creator};
        my $is_paid = !defined $decision->{reason};
        next if $is_paid && !$preview;
        my $next = $is_paid || ($decision->{next} // '') eq 'any' ? 'any' : $decision->{next} // 'none';
        push @lines, join(' ', $creator, $decision->{reason} // 'paid', @{$decision}{qw(transactions amount held_amount adjustments)},
            $is_paid ? $decision->{total} : (), $next);
    }
    return join("\n", @lines);
}

sub _lines_of_rows {
    my ($text) = @_;
    my @lines;

    for my $row (split(/\n/, $text)) {
        my ($creator, $reason, $transactions, $amount, $held_amount, $adjustments, $total, $next) = split(/\|/, $row, -1);
        my $is_paid = $reason eq '';
        $next = 'any' if $is_paid || $reason =~ /^(?:SUSPENDED|NOT_VERIFIED)$/;
        push @lines, join(' ', $creator, $is_paid ? 'paid' : $reason, $transactions, $amount, $held_amount, $adjustments,
            $is_paid ? $total : (), $next eq '' ? 'none' : $next);
    }
    return join("\n", sort @lines);
}

sub preview {
    my ($self, $forced) = @_;
    return _lines_of_rows($self->ask("SELECT creator_id, reason, transactions, amount, held_amount, adjustments, payout_amount, " . _ms('next_at')
            . ' FROM apapacho_payout_preview(' . ($forced ? 'true' : 'false') . ')'));
}

# Those whom a run (the latest) did not pay.
sub not_paid {
    my ($self, $run) = @_;
    my $which = defined $run ? "run_id = '$run'" : 'run_id = (SELECT max(id) FROM apapacho_jobs.payout_run WHERE finished_at IS NOT NULL)';
    return _lines_of_rows($self->ask("SELECT creator_id, reason, transactions, amount, held_amount, adjustments, '', " . _ms('next_at')
            . " FROM apapacho_jobs.payout_not_paid WHERE $which"));
}

# The model follows a run that has made these payouts {creator => id}: its decisions.
sub follow {
    my ($self, $forced, $new) = @_;
    return $self->{model}->run($forced, sub { my ($creator) = @_; return $new->{$creator} // "missing, of $creator" });
}

# What payouts there are that the model does not know: {creator => id}; several of one creator: the ids, joined.
sub unknown_payouts {
    my ($self) = @_;
    my %new;

    for my $line (split(/\n/, $self->ask(q{SELECT "creatorId", id FROM "Payout" ORDER BY id}))) {
        my ($creator, $id) = split(/\|/, $line);
        next if $self->{model}{payouts}{$id};
        $new{$creator} = defined $new{$creator} ? "$new{$creator},$id" : $id;
    }
    return \%new;
}

# A run, its preview before, and what both should have said: lines of differences, '' if there are none. `result` gets the job's figures.
sub run {
    my ($self, $forced, $result) = @_;
    my $argument = $forced ? 'true' : 'false';
    my $preview = $self->preview($forced);
    my $figures = JSON::PP::decode_json($self->ask("SELECT apapacho_payout_run(forced => $argument)"));
    my $decisions = $self->follow($forced, $self->unknown_payouts);
    my $paid = grep { !defined $_->{reason} } values %{$decisions};
    my @lines;

    push @lines, compare('preview', _lines_of_decisions($decisions, 1), $preview);
    push @lines, compare('reasons', _lines_of_decisions($decisions, 0), $self->not_paid($figures->{payoutRun}));
    push @lines, "figures: created $figures->{created} of $paid, errors $figures->{errors}" if $figures->{created} != $paid || $figures->{errors} != 0;
    my $differences = $self->differences;
    push @lines, $differences if $differences ne '';
    %{$result} = (%{$figures}, decisions => $decisions) if $result;
    return join("\n", @lines);
}

# Lines that are in one text only.
sub compare {
    my ($what, $expected, $found) = @_;
    my %expected = map { $_ => 1 } split(/\n/, $expected);
    my %found = map { $_ => 1 } split(/\n/, $found);

    return ((map { "$what: expected $_" } grep { !$found{$_} } sort keys %expected),
        (map { "$what: found $_" } grep { !$expected{$_} } sort keys %found));
}

1;
