# Ledger.pm: holds what the scheduler says of a job's times (slots) against times computed without it, and against what the
# commands themselves have left behind.
#
# Functions on a node of Apapacho's, in the test's own process. A command that leaves something behind is tick(): each time that it
# is committed there is one more row in the table ticks, with the job's name, the process and the time.
package Ledger;

use strict;
use warnings;

use Exporter qw(import);

our @EXPORT = qw(make_ticks tick schedule every problems_of_slots problems_of_runs clock);

# The schedulers' clock, in SQL.
sub clock { return q{(clock_timestamp() + current_setting('apapacho_jobs.debug_clock_offset')::interval)}; }

sub make_ticks {
    my ($node, $database) = @_;
    my $clock = clock();

    $node->ask("CREATE TABLE ticks (job text NOT NULL, pid integer NOT NULL DEFAULT pg_backend_pid(),
        at timestamptz NOT NULL DEFAULT clock_timestamp(), clock timestamptz NOT NULL DEFAULT $clock)", database => $database);
    return;
}

# A command for the job of that name; what follows happens in the same transaction.
sub tick {
    my ($job, $then) = @_;
    return "INSERT INTO ticks (job) VALUES ('$job')" . (defined $then ? "; $then" : '');
}

# apapacho_schedule_job() with further arguments by name.
sub schedule {
    my ($node, $name, $schedule, $command, %options) = @_;
    my $database = delete $options{in};
    my $further = join('', map { ", $_ => '$options{$_}'" } sort keys %options);

    $command =~ s/'/''/g;
    return $node->ask("SELECT apapacho_schedule_job('$name', '$schedule', '$command'$further)", database => $database);
}

# Slots for problems_of_slots(): every so many seconds, those from one time to another (SQL). `may`: those may be missing.
sub every {
    my ($seconds, $from, $to, $may) = @_;
    my $must = $may ? 'false' : 'true';

    return "SELECT slot, $must AS must FROM generate_series(to_timestamp(ceil(extract(epoch FROM $from) / $seconds) * $seconds),
        $to, interval '$seconds s') AS slot";
}

# Where the ledger of a job's pass does not have each of the slots exactly once, or says something of them that is not
# documented or not the end; '' if all is well.
sub problems_of_slots {
    my ($node, $job, $slots, %options) = @_;
    my $pass = $options{pass} // 0;

    return $node->ask("
        WITH computed AS (
            SELECT slot, bool_or(must) AS must FROM ($slots) AS c GROUP BY slot
        ), entry AS (
            SELECT * FROM apapacho_jobs.slot WHERE job = '$job' AND pass = $pass
        ), told AS (
            SELECT e.run_id, e.scheduled_for, e.slots, e.status, c.slot, c.must
            FROM entry AS e LEFT JOIN computed AS c ON c.slot BETWEEN e.scheduled_for AND e.scheduled_until
        ), problem AS (
            SELECT format('%s is missing', slot) AS what FROM computed AS c
            WHERE must AND NOT EXISTS (SELECT FROM told AS t WHERE t.slot = c.slot)
            UNION ALL
            SELECT format('%s is told of by the runs %s', slot, string_agg(run_id::text, ', ')) FROM told
            WHERE slot IS NOT NULL GROUP BY slot HAVING count(*) > 1
            UNION ALL
            SELECT format('run %s tells of %s slots from %s on, where there are %s', run_id, slots, scheduled_for, count(slot)) FROM told
            GROUP BY run_id, slots, scheduled_for HAVING count(slot) <> slots
            UNION ALL
            SELECT DISTINCT format('run %s for %s is %s', run_id, scheduled_for, status) FROM told
            WHERE must AND status NOT IN ('succeeded', 'failed', 'timed_out', 'cancelled', 'interrupted', 'crashed',
                'skipped', 'missed', 'coalesced', 'paused', 'no_worker')
        )
        SELECT string_agg(what, E'\\n' ORDER BY what) FROM (SELECT what FROM problem ORDER BY what LIMIT 20) AS p",
        database => $options{database});
}

# Where the rows in ticks are not what the history says: one of each run that succeeded, at most one of each that was cut off, none
# of the others, and none that belongs to no run; '' if all is well.
sub problems_of_runs {
    my ($node, %options) = @_;

    return $node->ask("
        WITH found AS (
            SELECT r.id, t.ctid AS tick, r.job, r.status
            FROM apapacho_jobs.run AS r JOIN ticks AS t ON t.job = r.job AND (r.pid IS NULL OR r.pid = t.pid)
                AND (r.pid IS NOT NULL AND t.at BETWEEN r.started_at AND r.finished_at
                    -- one in another database that crashed has not told when it began: only when it was to
                    OR r.pid IS NULL AND t.at BETWEEN r.started_at - interval '50 ms' AND r.finished_at
                        AND NOT EXISTS (SELECT FROM apapacho_jobs.run AS o WHERE o.job = t.job AND o.pid = t.pid
                            AND t.at BETWEEN o.started_at AND o.finished_at))
        ), counted AS (
            SELECT r.id, r.job, r.status, count(f.id)
            FROM apapacho_jobs.run AS r LEFT JOIN found AS f ON f.id = r.id
            WHERE r.job IN (SELECT job FROM ticks)
            GROUP BY r.id
        ), problem AS (
            SELECT format('run %s of %s is %s and left %s rows behind', id, job, status, count) AS what FROM counted
            WHERE count <> 1 AND status = 'succeeded' OR count > 1
                OR count > 0 AND status NOT IN ('succeeded', 'crashed', 'interrupted', 'cancelled', 'timed_out')
            UNION ALL
            SELECT format('a row of %s at %s is that of %s runs', t.job, t.at, (SELECT count(*) FROM found AS f WHERE f.tick = t.ctid))
            FROM ticks AS t WHERE (SELECT count(*) FROM found AS f WHERE f.tick = t.ctid) <> 1
        )
        SELECT string_agg(what, E'\\n' ORDER BY what) FROM (SELECT what FROM problem ORDER BY what LIMIT 20) AS p",
        database => $options{database});
}

1;
