# harness.pl JOBS DIRECTORY -I LIBRARY... TEST.pl...: runs TAP tests of test/tap/t, JOBS at once, as prove would, and counts them.
#
# Run by test/check.sh. Writes "passed failed skipped" to DIRECTORY/counts. A file that dies, has a bad plan or exits with an error without
# a failed test counts as one failure; one that takes more than TAP_MINUTES (ten) is ended in a way that lets it stop its servers. Prints
# the end of the logs of each file that failed.
use strict;
use warnings;

use TAP::Harness;

my ($jobs, $directory, @arguments) = @ARGV;
my (@libraries, @tests);
while (defined(my $argument = shift @arguments)) {
    if ($argument eq '-I') { push @libraries, shift @arguments; }
    else { push @tests, "test/tap/t/$argument"; }
}

# The last lines of a file.
sub tail {
    my ($file, $count) = @_;
    open(my $in, '<', $file) or return '';
    my @lines = <$in>;
    splice(@lines, 0, @lines - $count) if @lines > $count;
    return join('', @lines);
}

my $seconds = 60 * ($ENV{TAP_MINUTES} // 10);
my @program = (qw(timeout --foreground --kill-after=30), $seconds, $^X, map { "-I$_" } @libraries);
my $harness = TAP::Harness->new({ jobs => $jobs, exec => \@program, timer => 1, failures => 1, color => 0 });
my $results = $harness->runtests(@tests);

my ($passed, $failed, $skipped) = (0, 0, 0);
for my $test ($results->descriptions) {
    my ($parser) = $results->parsers($test);
    my $bad = $parser->failed;
    $bad ||= 1 if $parser->has_problems;
    my $skips = $parser->skipped;
    $failed += $bad;
    $passed += $parser->passed - $skips;
    $skipped += $skips || (defined $parser->skip_all ? 1 : 0);
    next unless $bad;

    my ($name) = $test =~ m{([^/]+)\.pl$};
    for my $log (glob "$directory/tmp_check/log/regress_log_$name $directory/tmp_check/log/${name}_*.log") {
        print "\n--- end of $log\n", tail($log, 60);
    }
}

open(my $counts, '>', "$directory/counts") or die "counts: $!";
print $counts "$passed $failed $skipped\n";
close $counts or die "counts: $!";
exit($failed ? 1 : 0);
