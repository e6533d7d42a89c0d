# Cli.pm: running apapacho-jobs in TAP tests: exit status, output, signals.
#
# Functions in the test's own process. The program finds a server by PG* variables alone, unless a test says otherwise; it has no
# terminal and no DATABASE_URL of the caller's.
package Cli;

use strict;
use warnings;

use Exporter qw(import);
use Carp;
use IPC::Run ();
use JSON::PP ();
use PostgreSQL::Test::Utils ();
use Test::More;
use Time::HiRes qw(time usleep);

our @EXPORT = qw(cli cli_ok cli_json cli_fails start_cli);

# Runs it to its end: { code, out, err }. Options, a hash: node (its server), role, environment ({NAME => value or undef}), program
# (what to run instead, a list), types (1: see type()).
sub cli {
    my ($options, @arguments) = @_;
    return start_cli($options, @arguments)->finish;
}

# Starts it: $program->output, ->errors (so far), ->wait_for_output(qr//), ->signal('INT'), ->finish. It is ended with the test.
my @running;

sub start_cli {
    my ($options, @arguments) = @_;
    my $program = bless { in => '', out => '', err => '', name => join(' ', 'apapacho-jobs', @arguments) }, 'Cli::Program';
    my %environment = %{ $options->{environment} // {} };
    local %ENV = %ENV;

    delete @ENV{ grep { /^PG(?!_)/ || /^OUTBOX_/ || $_ eq 'DATABASE_URL' } keys %ENV };
    if (my $node = $options->{node}) {
        @ENV{qw(PGHOST PGPORT PGDATABASE PGUSER)} = ($node->host, $node->port, 'postgres', $options->{role} // scalar(getpwuid($<)));
    }
    for my $name (keys %environment) {
        if (defined $environment{$name}) { $ENV{$name} = $environment{$name}; }
        else { delete $ENV{$name}; }
    }
    $program->{run} = IPC::Run::start([@{ $options->{program} // ['apapacho-jobs'] }, @arguments], '<', $options->{types} ? \$program->{in} : \undef,
        '>', \$program->{out}, '2>', \$program->{err},
        IPC::Run::timeout(2 * $PostgreSQL::Test::Utils::timeout_default, exception => "timed out: $program->{name}"));
    push @running, $program;
    return $program;
}

# Succeeds, with nothing on stderr; what it has printed.
sub cli_ok {
    my ($options, @arguments) = @_;
    my $result = cli($options, @arguments);

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    is("$result->{code} $result->{err}", '0 ', "@arguments: succeeds");
    return $result->{out};
}

# The same with --json, and what that says.
sub cli_json {
    my ($options, @arguments) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $document = eval { JSON::PP->new->utf8->allow_nonref->decode(cli_ok($options, @arguments, '--json')) };
    ok(defined $document, "@arguments --json: is JSON") or diag($@);
    return $document;
}

# Ends with this status and an error that matches, and prints nothing on stdout.
sub cli_fails {
    my ($options, $code, $pattern, @arguments) = @_;
    my $result = cli($options, @arguments);

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    is("$result->{code} $result->{out}", "$code ", "@arguments: exit status $code, nothing on stdout");
    like($result->{err}, $pattern, "@arguments: says why");
    return $result;
}

package Cli::Program;

sub output { $_[0]{run}->pump_nb if $_[0]{run} && $_[0]{run}->pumpable; return $_[0]{out}; }
sub errors { $_[0]{run}->pump_nb if $_[0]{run} && $_[0]{run}->pumpable; return $_[0]{err}; }

# Waits until stdout has this; what was matched, or its first group.
sub wait_for_output {
    my ($program, $pattern) = @_;
    my $deadline = Time::HiRes::time() + $PostgreSQL::Test::Utils::timeout_default;

    while (Time::HiRes::time() < $deadline) {
        return $1 // $& if $program->output =~ $pattern;
        Time::HiRes::usleep(20_000);
    }
    Carp::croak("timed out waiting for $pattern from $program->{name}; it said:\n$program->{out}$program->{err}");
}

# Types a text, on the terminal of a program that was started with types => 1 below script(1).
sub type {
    my ($program, $text) = @_;
    $program->{in} .= $text;
    $program->{run}->pump_nb;
    return;
}

sub signal {
    my ($program, $name) = @_;
    $program->{run}->signal($name);
    return;
}

# The end of it; a death by signal N is the code 128 + N, as a shell has it.
sub finish {
    my ($program) = @_;
    my $run = delete $program->{run};

    eval { $run->finish; 1 } or do { my $error = $@; $run->kill_kill(grace => 2); die $error; };
    my $status = $run->full_result(0);
    return { code => $status & 127 ? 128 + ($status & 127) : $status >> 8, out => $program->{out}, err => $program->{err} };
}

END {
    my $status = $?;
    for my $program (grep { $_->{run} } @running) {
        $program->{run}->kill_kill(grace => 2);
    }
    $? = $status;
}

1;
