# Jobs.pm: what the TAP tests of users' jobs share: roles that may have jobs, scheduling them, looking at what became of their runs.
#
# Functions on a node of Apapacho's, in the test's own process. Two ordinary roles, ana and ben, may schedule jobs; jobs are ana's unless
# a test says otherwise. Commands leave their traces in t.seen.
package Jobs;

use strict;
use warnings;

use Exporter qw(import);
use PostgreSQL::Test::Utils ();
use Test::More;

our @EXPORT = qw(create_roles create_traces schedule outcome run_row run_rows wait_for_status seen set_clock unschedule_all session_of);

# Commands' traces, in a database; t.soon(): a schedule with one time, one to two seconds from now.
sub create_traces {
    my ($node, $database) = @_;
    $node->ask(q{
        CREATE SCHEMA t;
        CREATE TABLE t.seen (job text, what text, at timestamptz DEFAULT clock_timestamp());
        CREATE FUNCTION t.soon() RETURNS text LANGUAGE sql AS
            $$ SELECT to_char((clock_timestamp() + '2 s') AT TIME ZONE 'UTC', 'SS MI HH24 DD MM *') $$;
        GRANT USAGE ON SCHEMA t TO PUBLIC;
        GRANT SELECT, INSERT ON t.seen TO PUBLIC}, database => $database);
    return;
}

sub create_roles {
    my ($node) = @_;
    create_traces($node);
    $node->ask(q{
        CREATE ROLE ana LOGIN;
        CREATE ROLE ben LOGIN;
        GRANT EXECUTE ON FUNCTION apapacho_schedule_job, apapacho_alter_job, apapacho_pause_job, apapacho_resume_job,
            apapacho_unschedule_job, apapacho_cancel_run TO ana, ben});
    return;
}

# Schedules a job for once, soon, unless a schedule is given. Options: schedule, role (who schedules it: ana); all others are arguments.
sub schedule {
    my ($node, $name, $command, %options) = @_;
    my $role = delete $options{role} // 'ana';
    my $schedule = delete $options{schedule};
    my @arguments = ("name => '$name'", 'command => $job$' . $command . '$job$',
        'schedule => ' . (defined $schedule ? "'$schedule'" : 't.soon()'));

    push @arguments, "$_ => '$options{$_}'" for sort keys %options;
    return $node->ask('SELECT apapacho_schedule_job(' . join(', ', @arguments) . ')', role => $role);
}

sub unschedule_all {
    my ($node) = @_;
    $node->ask('SELECT apapacho_unschedule_job(name) FROM apapacho_jobs.job WHERE NOT builtin');
    return;
}

# Columns of a job's latest run; of all of them, in their order, a line each.
sub run_row {
    my ($node, $columns, $job) = @_;
    return $node->ask("SELECT $columns FROM apapacho_jobs.run WHERE job = '$job' ORDER BY id DESC LIMIT 1");
}

sub run_rows {
    my ($node, $columns, $job) = @_;
    return $node->ask("SELECT concat_ws(' ', $columns) FROM apapacho_jobs.run WHERE job = '$job' ORDER BY id");
}

# Waits until so many runs of a job have ended (one); columns of the latest of these.
sub outcome {
    my ($node, $columns, $job, $count) = @_;
    my $ended = "FROM apapacho_jobs.run WHERE job = '$job' AND finished_at IS NOT NULL";

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    $count //= 1;
    $node->wait_for("SELECT count(*) >= $count $ended", "job $job has run");
    return $node->ask("SELECT $columns $ended ORDER BY id DESC LIMIT 1");
}

# Waits until a run of the job has this status; the latest one's id.
sub wait_for_status {
    my ($node, $job, $status) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return $node->wait_for_run("job = '$job' AND status = '$status'");
}

# What the job's commands have left.
sub seen {
    my ($node, $job, $database) = @_;
    return $node->ask("SELECT what FROM t.seen WHERE job = '$job' ORDER BY at", database => $database);
}

# Sets the schedulers' clock to a time (an SQL expression); returns when new sessions know it.
sub set_clock {
    my ($node, $time) = @_;
    my $offset = $node->ask("SELECT ceil(extract(epoch FROM $time - clock_timestamp()))::bigint");

    $node->reconfigure('apapacho_jobs.debug_clock_offset' => $offset);
    return;
}

# A session of its own that outlives the waits of a test; to be ended by $session->quit.
sub session_of {
    my ($node) = @_;
    return $node->background_psql('postgres', timeout => 10 * $PostgreSQL::Test::Utils::timeout_default);
}

1;
