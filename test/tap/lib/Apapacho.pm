# Apapacho.pm: a server with the extension preloaded, for the TAP tests: what PostgreSQL::Test::Cluster has, and what tests of jobs need.
#
# Runs in the test's process, which owns every server and program that it starts: they are stopped when the test ends, also when it
# dies. Nothing here sleeps for a result: every wait polls for a state and dies, saying which, after PG_TEST_TIMEOUT_DEFAULT seconds.
package Apapacho;

use strict;
use warnings;

use parent 'PostgreSQL::Test::Cluster';

use Carp;
use File::Basename qw(dirname);
use IPC::Run ();
use JSON::PP ();
use PostgreSQL::Test::Utils ();
use Test::More;
use Time::HiRes qw(time usleep);

=pod

=head1 NAME

Apapacho - a server with the extension, for tests

=head1 SYNOPSIS

  use Apapacho;
  use Test::More;

  my $node = Apapacho->create('main', tables => 'fixture', settings => { 'apapacho_jobs.outbox_cron' => '1 seconds' });
  my $answer = $node->run_job('payout');                  # {runId => 1, status => 'succeeded', ...}
  like($node->error_of(q{SELECT apapacho_run_job('x')}), qr/42704: unknown job "x"/);
  $node->stop;
  done_testing();

All methods of PostgreSQL::Test::Cluster work too (safe_psql, background_psql, poll_query_until, wait_for_log, backup ...). Where a
method takes C<database>, the default is C<postgres>.

=head1 SERVERS

=over

=item Apapacho->create($name, %options)

A new server. Options, all of them optional:

  settings     {name => value}: lines of postgresql.conf, values unquoted. The schedules are empty (no scheduled run gets between a
               test's steps) unless they are given here; undef leaves a setting out, as in: 'apapacho_jobs.outbox_cron' => undef
  environment  {NAME => value}: environment variables of the postmaster, at each start
  preload      0: the library is not preloaded
  extension    0: no CREATE EXTENSION in the database postgres
  tables       'fixture': the backend's tables as its ORM lays them out; 'own': by apapacho_create_tables(). Default: none
  streaming    1: standbys can be made of it (backup, init_from_backup)
  start        0: only initialised

=cut

my @crons = map { "apapacho_jobs.${_}_cron" } qw(outbox payout cleanup retry);

sub create {
    my ($class, $name, %options) = @_;
    my $self = $class->new($name);
    my $preload = $options{preload} // 1;
    my %settings = (
        restart_after_crash => 'on',
        log_line_prefix => '%m [%p] %b %q%a ',
        timezone => 'UTC',
        autovacuum => 'off',
        max_connections => 30,
        $preload ? (shared_preload_libraries => 'apapacho_jobs', map { $_ => '' } @crons) : (),
        %{ $options{settings} // {} });

    $self->init($options{streaming} ? (allows_streaming => 1) : ());
    $self->configure(%settings);
    $self->{apapacho_environment} = $options{environment} // {};
    return $self if defined $options{start} && !$options{start};
    $self->start;
    $self->install if $preload && ($options{extension} // 1);
    $self->load_tables($options{tables}) if $options{tables};
    return $self;
}

=item $node->start(...), $node->restart

As PostgreSQL::Test::Cluster's, with the C<environment> that the server was created with.

=cut

sub start {
    my ($self, @arguments) = @_;
    local %ENV = (%ENV, %{ $self->{apapacho_environment} // {} });
    return $self->SUPER::start(@arguments);
}

sub restart {
    my ($self, @arguments) = @_;
    local %ENV = (%ENV, %{ $self->{apapacho_environment} // {} });
    return $self->SUPER::restart(@arguments);
}

=item $node->configure(%settings)

Appends to postgresql.conf; later lines win. Values are unquoted; undef is left out.

=item $node->reconfigure(%settings)

The same, and reloads. Processes take that up when they get round to it: poll for the effect.

=cut

sub configure {
    my ($self, %settings) = @_;
    my $lines = '';

    for my $setting (sort keys %settings) {
        my $value = $settings{$setting};
        next unless defined $value;
        $value =~ s/'/''/g;
        $lines .= "$setting = '$value'\n";
    }
    $self->append_conf('postgresql.conf', $lines);
    return;
}

sub reconfigure {
    my ($self, %settings) = @_;
    $self->configure(%settings);
    $self->reload;
    return;
}

=item $node->install($database), $node->create_database($name)

CREATE EXTENSION in a database; a new database with the extension.

=item $node->load_tables($kind, $database)

The backend's tables in a database: C<fixture> or C<own>, see create().

=cut

sub install {
    my ($self, $database) = @_;
    $self->safe_psql($database // 'postgres', 'CREATE EXTENSION apapacho_jobs');
    return;
}

sub create_database {
    my ($self, $name) = @_;
    $self->safe_psql('postgres', "CREATE DATABASE $name");
    $self->install($name);
    return;
}

sub load_tables {
    my ($self, $kind, $database) = @_;
    my $file = dirname(__FILE__) . '/../../fixtures/backend_tables.sql';

    if ($kind eq 'own') {
        $self->safe_psql($database // 'postgres', 'SELECT FROM apapacho_create_tables()');
    } elsif ($kind eq 'fixture') {
        $self->safe_psql($database // 'postgres', PostgreSQL::Test::Utils::slurp_file($file));
    } else {
        croak "no such kind of tables: $kind";
    }
    return;
}

=back

=head1 STATEMENTS

=over

=item $node->run_job($job, %options)

Runs a job and waits for it; the answer as a hash. Options: C<database>, C<wait> (0: does not wait), C<role>. Dies when it fails.

=item $node->error_of($sql, %options)

What a statement says on stderr, verbosely: C<ERROR:  42704: unknown job ...>; empty when it succeeds. Options: C<database>, C<role>.
This and the next die when the statement takes longer than PG_TEST_TIMEOUT_DEFAULT seconds.

=item $node->ask($sql, %options)

Its result, as safe_psql. Options: C<database>, C<role>.

=cut

sub _parameters {
    my (%options) = @_;
    my @parameters = ('-v', 'VERBOSITY=verbose');
    push @parameters, '-U', $options{role} if defined $options{role};
    return \@parameters;
}

sub ask {
    my ($self, $sql, %options) = @_;
    return $self->safe_psql($options{database} // 'postgres', $sql, extra_params => _parameters(%options),
        timeout => $PostgreSQL::Test::Utils::timeout_default);
}

sub error_of {
    my ($self, $sql, %options) = @_;
    my ($output, $error);

    $self->psql($options{database} // 'postgres', $sql, stdout => \$output, stderr => \$error,
        extra_params => _parameters(%options), timeout => $PostgreSQL::Test::Utils::timeout_default);
    return $error;
}

sub run_job {
    my ($self, $job, %options) = @_;
    my $wait = $options{wait} // 1 ? 'true' : 'false';
    return JSON::PP::decode_json($self->ask("SELECT apapacho_run_job('$job', wait => $wait)", %options));
}

=item $node->begin_statement($sql, %options)

Starts a statement in a session of its own and returns at once. Options: C<database>, C<role>, C<name> (its application_name).
On what it returns:

  my ($output, $error) = $statement->finish;      # waits for its end

=cut

sub begin_statement {
    my ($self, $sql, %options) = @_;
    my $statement = bless { output => '', error => '' }, 'Apapacho::Statement';
    my $connection = $self->connstr($options{database} // 'postgres');
    my @command = ($self->installed_command('psql'), '-XAtq', @{ _parameters(%options) });
    local %ENV = $self->_get_env();

    $connection .= " application_name='$options{name}'" if defined $options{name};
    $statement->{run} = IPC::Run::start([@command, '-d', $connection, '-c', $sql], '<', \undef,
        '>', \$statement->{output}, '2>', \$statement->{error},
        IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default, exception => "statement timed out: $sql"));
    return $statement;
}

sub Apapacho::Statement::finish {
    my ($statement) = @_;

    $statement->{run}->finish;
    chomp($statement->{output}, $statement->{error});
    return ($statement->{output}, $statement->{error});
}

=item $node->hold($table, $database)

Locks a table ("OutboxEvent", "Payout" ...) against everybody, so that a job which needs it stays at work. Returns the session
(a PostgreSQL::Test::BackgroundPsql) within its transaction.

=item $node->let_go($session)

Ends that, or any other background session.

=cut

sub hold {
    my ($self, $table, $database) = @_;
    my $session = $self->background_psql($database // 'postgres', on_error_stop => 0,
        timeout => 2 * $PostgreSQL::Test::Utils::timeout_default);

    $session->query_safe(qq{BEGIN; LOCK TABLE "$table" IN ACCESS EXCLUSIVE MODE});
    return $session;
}

sub let_go {
    my ($self, $session) = @_;
    $session->quit;
    return;
}

=back

=head1 WAITING

Each dies, naming what it waited for, when the time is over; each is a test of the name given, or of a default one, when it succeeds.

=over

=item $node->wait_for($sql, $what, $database)

Until the query returns true.

=item $node->wait_until($code, $what)

Until the code returns something true, which is returned.

=item $node->wait_for_scheduler($database), $node->wait_for_no_scheduler($database)

Until the database is served (the schedules are in force), or is not.

=item $node->wait_for_run($condition, $database)

Until there is a run for which the condition on apapacho_jobs.run holds, e.g. C<"job = 'outbox' AND status = 'succeeded'">; returns
the id of the latest one.

=item $node->wait_for_blocked_worker($job, $database)

Until the job's worker waits for a lock (see hold()); returns its pid.

=cut

sub wait_until {
    my ($self, $code, $what) = @_;
    my $deadline = time() + $PostgreSQL::Test::Utils::timeout_default;
    my $result;

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    until ($result = $code->()) {
        croak "timed out waiting for: $what" if time() > $deadline;
        usleep(50_000);
    }
    pass($what);
    return $result;
}

sub wait_for {
    my ($self, $sql, $what, $database) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $deadline = time() + $PostgreSQL::Test::Utils::timeout_default;
    my $holds;

    # A server that is crashing can break the pipe to psql, which PostgreSQL::Test's helper dies of.
    until (eval { $holds = $self->poll_query_until($database // 'postgres', $sql); 1 }) {
        croak $@ if $@ !~ /Broken pipe/ || time() > $deadline;
    }
    $holds or croak "timed out waiting for: $what";
    pass($what);
    return;
}

sub wait_for_scheduler {
    my ($self, $database) = @_;
    $database //= 'postgres';

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return $self->wait_for(q{SELECT bool_and(ready) FROM (SELECT current_setting('apapacho_jobs.' || s.name || '_cron') = ''
        OR (s.running AND s.next_run IS NOT NULL) AS ready FROM apapacho_job_status() AS s WHERE s.job_id <= 4
        UNION ALL SELECT count(*) = 1 FROM pg_stat_activity
        WHERE backend_type = 'apapacho_jobs scheduler' AND datname = current_database()) AS r},
        "database $database is served", $database);
}

sub wait_for_no_scheduler {
    my ($self, $database) = @_;
    $database //= 'postgres';

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return $self->wait_for(qq{SELECT count(*) = 0 FROM pg_stat_activity
        WHERE backend_type = 'apapacho_jobs scheduler' AND datname = '$database'}, "database $database is not served");
}

sub wait_for_run {
    my ($self, $condition, $database) = @_;
    $database //= 'postgres';

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    $self->wait_for("SELECT count(*) > 0 FROM apapacho_jobs.run WHERE $condition", "a run: $condition", $database);
    return $self->safe_psql($database, "SELECT max(id) FROM apapacho_jobs.run WHERE $condition");
}

sub wait_for_blocked_worker {
    my ($self, $job, $database) = @_;
    $database //= 'postgres';
    my $worker = qq{FROM pg_stat_activity AS a JOIN pg_locks AS l ON l.pid = a.pid AND NOT l.granted
        JOIN apapacho_jobs.run AS r ON r.pid = a.pid AND r.status = 'running' AND r.job = '$job'
        WHERE a.backend_type = 'apapacho_jobs worker' AND a.datname = current_database()};

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    $self->wait_for("SELECT count(DISTINCT a.pid) = 1 $worker", "the worker of job $job waits for a lock", $database);
    return $self->safe_psql($database, "SELECT DISTINCT a.pid $worker");
}

=back

=head1 PROCESSES AND LOG

=over

=item $node->pids($kind, $database)

The processes of a kind (C<launcher>, C<scheduler>, C<worker>), those of one database if it is given.

=item $node->kill_hard($pid, ...)

kill -9 of processes of the server (of which one at least is still there), and waits until the server has begun anew and takes
connections.

=item $node->log_position, $node->log_since($position)

Where the server's log ends now, and what it says from there on.

=cut

sub pids {
    my ($self, $kind, $database) = @_;
    my $sql = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'apapacho_jobs $kind'";

    $sql .= " AND datname = '$database'" if defined $database;
    return split(/\n/, $self->safe_psql('postgres', "$sql ORDER BY pid"));
}

sub kill_hard {
    my ($self, @pids) = @_;
    my $position = $self->log_position;

    kill('KILL', @pids) >= 1 or croak "no process @pids: $!";
    $self->wait_for_log(qr/all server processes terminated; reinitializing/, $position);
    $self->wait_for('SELECT true', 'the server is back');
    return;
}

sub log_position {
    my ($self) = @_;
    return -s $self->logfile;
}

sub log_since {
    my ($self, $position) = @_;
    return PostgreSQL::Test::Utils::slurp_file($self->logfile, $position);
}

=back

=head1 PROGRAM

=over

=item Apapacho->start_receiver(@arguments)

Starts C<apapacho-jobs listen>, on a free port, with these arguments. On what it returns: C<output> (what it has printed so far, stdout
and stderr), C<wait_for_output(qr/../)> (the text matched, or its first group) and C<stop>. It is stopped with the test in any case.

=cut

my @receivers;

sub start_receiver {
    my ($class, @arguments) = @_;
    my $receiver = bless { output => '' }, 'Apapacho::Receiver';

    $receiver->{run} = IPC::Run::start([qw(apapacho-jobs listen --port 0), @arguments], '<', \undef, '>', \$receiver->{output},
        '2>', \$receiver->{output});
    push @receivers, $receiver;
    return $receiver;
}

sub Apapacho::Receiver::output {
    my ($receiver) = @_;
    $receiver->{run}->pump_nb if $receiver->{run};
    return $receiver->{output};
}

sub Apapacho::Receiver::wait_for_output {
    my ($receiver, $pattern) = @_;
    my $deadline = time() + $PostgreSQL::Test::Utils::timeout_default;

    until ($receiver->output =~ $pattern) {
        croak "timed out waiting for the receiver to print $pattern; it printed:\n$receiver->{output}" if time() > $deadline;
        usleep(20_000);
    }
    return $1 // $&;
}

sub Apapacho::Receiver::stop {
    my ($receiver) = @_;
    my $run = delete $receiver->{run} or return;

    $run->signal('TERM') if $run->pumpable;
    $run->kill_kill(grace => 5);
    return;
}

=back

=head1 CRASHES

=over

=item $node->kill_postmaster

kill -9 of the postmaster; waits until its processes have noticed and ended by themselves, and starts the server again.

=cut

sub kill_postmaster {
    my ($self) = @_;
    my @pids = ($self->{_pid}, split(/\n/, $self->ask('SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()')));

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    $self->kill9;
    $self->wait_until(sub { !grep { kill(0, $_) } @pids }, 'all processes of the server have ended');
    $self->start;
    return;
}

=back

=cut

END {
    my $status = $?;
    $_->stop for @receivers;
    $? = $status;
}

1;
