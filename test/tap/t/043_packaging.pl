# What apapacho-jobs is shipped with: the manual page and the completion agree with the program's help, the units with systemd and the
# jobs' schedules, and `make deb` makes packages, always the same, that hold what they should and run. Their installation on a fresh
# Debian is a part of .ci/run (test/ci/smoke.sh).
use strict;
use warnings;

use lib 'test/tap/lib';
use Apapacho;
use Cli;
use PostgreSQL::Test::Utils qw(slurp_file);
use Test::More;

my $help = cli_ok({}, '--help');
my ($list) = $help =~ /^Commands:\n(.*?)\n\n/ms;
my @commands = sort(map { /^  ([a-z-]+(?: [a-z-]+)?) / ? $1 : () } split(/\n/, $list));

# A command that must succeed; its output.
sub run_program {
    my (@command) = @_;
    my $result = cli({ program => \@command });

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    is($result->{code}, 0, substr("@command", 0, 60) =~ s/\n.*//sr . ': succeeds') or diag("$result->{out}$result->{err}");
    return $result->{out};
}

sub has { my ($program) = @_; return grep { -x "$_/$program" } split(/:/, $ENV{PATH}); }

subtest 'the manual page has all that the help has' => sub {
    my $page = run_program(qw(env MANWIDTH=200 LC_ALL=C.UTF-8 man --warnings=w -E UTF-8 -l packaging/apapacho-jobs.1));
    my ($version) = cli_ok({}, '--version') =~ /(\S+)$/;
    my $source = slurp_file('packaging/apapacho-jobs.1') =~ s/\\f[BRI]//gr =~ s/\\-/-/gr;

    like($page, qr/apapacho_jobs \Q$version\E /, 'the version');
    cmp_ok(scalar(@commands), '>=', 13, 'commands');
    for my $command (@commands) {
        my ($own) = $source =~ /^\.TP\n\Q$command\E(?: [^\n]*)?\n(.*?)(?=^\.TP\n[a-z]|^\.S[HS])/ms;
        ok(defined $own, "the manual has $command") or next;
        my $text = cli_ok({}, split(/ /, $command), '--help');
        my ($listed) = $text =~ /^Options:\n(.*)/ms;
        like($source, qr/^\Q$_\E\b/m, "and $_ of it") for $listed =~ /^  (-[^ ?], --[a-z-]+)/mg;
        for my $option (grep { $help !~ /^  (?:-., |    )\Q$_\E[ =]/m || $command eq 'listen' } $listed =~ /^  (?:-\S, |    )(--[a-z-]+)/mg) {
            like($option =~ /^--(?:json|help)$/ ? $page : $own, qr/\Q$option\E\b/, "and $option of it");
        }
    }
    like($page, qr/^ +(?:-., )?\Q$_\E\b/m, "and $_") for $help =~ /^  -\S, (--[a-z-]+)/mg;
};

subtest 'completion' => sub {
    my $complete = sub {
        my (@words) = @_;
        return join(' ', split(/\n/, run_program('bash', '-c', 'set -e; . packaging/apapacho-jobs.bash
            COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)); _apapacho_jobs; [ ${#COMPREPLY[@]} -eq 0 ] || printf "%s\n" "${COMPREPLY[@]}"', 'bash', 'apapacho-jobs', @words)));
    };
    my %first = map { (split(/ /, $_))[0] => 1 } @commands;
    my $outbox = join(' ', map { /^outbox (.*)/ ? $1 : () } @commands);

    is($complete->(''), join(' ', sort keys %first), 'commands');
    is($complete->('st'), 'status', 'that begin so');
    is($complete->('outbox', ''), $outbox, 'of a group');
    is($complete->('-d', 'x', '--json', 'payout', 'pre'), 'preview', 'after options');
    is($complete->('run', 'pay'), 'payout', 'jobs');
    is($complete->('outbox', 'events', ''), 'all failed pending published', 'statuses of events');
    is($complete->('runs', '--status', '=', 'ti'), 'timed_out', 'statuses of runs');
    is($complete->('outbox', 'run', '--b'), '--batch-size', 'options of a command');
    is($complete->('status', ''), '', 'nothing where there is nothing');
    for my $command (@commands) {
        my ($listed) = cli_ok({}, split(/ /, $command), '--help') =~ /^Options:\n(.*)/ms;
        is($complete->(split(/ /, $command), '--'), join(' ', sort($listed =~ /^  (?:-\S, |    )(--[a-z-]+)/mg)), "$command: its options, all and no others");
    }
    like($complete->('listen', '--secret-file', 'packaging/apap'), qr{packaging/apapacho-jobs\.bash}, 'files');
};

subtest 'systemd units' => sub {
    my %cron = (outbox => '* * * * *', payout => '0 2 * * 0', cleanup => '0 3 * * *', retry => '0 * * * *');

    for my $file (glob('packaging/systemd/*.service')) {
        my ($command, @arguments) = split(/ /, slurp_file($file) =~ /^ExecStart=(.*)$/m ? $1 : '');
        is($command, '/usr/bin/apapacho-jobs', "$file runs the program");
        @arguments = grep { $_ ne '%i' } @arguments;
        my ($name) = grep { join(' ', @arguments, '') =~ /^\Q$_\E / } @commands;
        ok($name, "a command that there is: $name") and is(cli({}, @arguments, '--help')->{code}, 0, 'with options that it has');
    }
    is(join(' ', map { m{/apapacho-jobs-(.*)\.timer} } glob('packaging/systemd/*.timer')), join(' ', sort keys %cron), 'a timer for each job');
    for my $job (sort keys %cron) {
        my $unit = slurp_file("packaging/systemd/apapacho-jobs-$job.timer");
        like($unit, qr/^Unit=apapacho-jobs\@$job\.service$/m, "$job: its service");
      SKIP: {
            skip 'systemd-analyze is not installed', 2 unless has('systemd-analyze');
            my ($calendar) = $unit =~ /^OnCalendar=(.*)$/m;
            my @found = run_program('env', 'TZ=UTC', 'systemd-analyze', 'calendar', '--iterations=5', $calendar)
                =~ /^ *(?:Next elapse|Iteration? #\d+|Iter\. #\d+): \S+ (\S+ \S+) UTC$/mg;
            my $expected = JSON::PP::decode_json(cli({}, qw(cron next --json -n 5 -z UTC), $cron{$job})->{out});
            my %expected = map { $_ => 1 } @{ $expected->{next} };
            # The first may have passed in between.
            is(join(' ', map { $expected{$_} ? 'same' : $_ } map { s/ /T/r . 'Z' } @found[1 .. 3]), 'same same same', "$job: the times of its cron expression");
        }
    }
  SKIP: {
        skip 'systemd-analyze is not installed', 1 unless has('systemd-analyze');
        my $directory = PostgreSQL::Test::Utils::tempdir();
        system("make -s install-program PG_CONFIG=$ENV{PG_CONFIG} DESTDIR= PROGRAM_PREFIX=$directory >$directory/log 2>&1") == 0
            or die 'make install-program: ' . slurp_file("$directory/log");
        my $result = cli({ program => ['bash', '-c', 'cd "$1/lib/systemd/system" && for unit in *.timer; do systemd-analyze verify --man=no --recursive-errors=no "./$unit" 2>&1; done', 'bash', $directory] });
        unlike($result->{out}, qr/apapacho/, 'systemd has nothing to say against them') or diag($result->{out});
        is(run_program("$directory/bin/apapacho-jobs", '--version'), cli_ok({}, '--version'), 'install-program installs the program');
    }
};

subtest 'make deb' => sub {
    my $directory = PostgreSQL::Test::Utils::tempdir();
    my ($version) = slurp_file('apapacho_jobs.control') =~ /^default_version = '(.*)'$/m;
    my ($major) = qx($ENV{PG_CONFIG} --version) =~ /^PostgreSQL (\d+)/;
    my $make = sub {
        run_program('make', '-s', 'deb', "PG_CONFIG=$ENV{PG_CONFIG}");
        return join('', map { (split(/ /, qx(sha256sum '$_')))[0] . " $_\n" } glob('build/deb/*.deb'));
    };
    my $first = $make->();

    is($make->(), $first, 'twice the same');
    my ($program, $extension) = $first =~ m{ (build/deb/apapacho-jobs_\Q$version\E-1_\w+\.deb)\n.* (build/deb/postgresql-$major-apapacho-jobs_\Q$version\E-1_\w+\.deb)\n\z}
        or BAIL_OUT("no packages: $first");
    run_program('dpkg-deb', '-x', $program, "$directory/program");
    run_program('dpkg-deb', '-x', $extension, "$directory/extension");
    run_program('dpkg-deb', '-e', $program, "$directory/control");

    my @files = sort map { s{^\Q$directory/\E}{}r } split(/\n/, qx(find '$directory/program' '$directory/extension' -type f));
    my ($lib, $share) = map { chomp; s{^/}{}r } qx($ENV{PG_CONFIG} --pkglibdir), qx($ENV{PG_CONFIG} --sharedir);
    is(join("\n", @files), join("\n", sort map({ "extension/$_" } "$lib/apapacho_jobs.so", "$share/extension/apapacho_jobs--$version.sql",
                "$share/extension/apapacho_jobs.control", map { "usr/share/doc/postgresql-$major-apapacho-jobs/$_" } qw(README.md changelog.gz copyright)),
            map({ "program/$_" } 'etc/apapacho-jobs/environment', 'usr/bin/apapacho-jobs', 'usr/share/man/man1/apapacho-jobs.1.gz',
                'usr/share/bash-completion/completions/apapacho-jobs', (map { "usr/share/doc/apapacho-jobs/$_" } qw(README.md changelog.gz copyright)),
                map { s{^packaging/systemd/}{usr/lib/systemd/system/}r } glob('packaging/systemd/*.service packaging/systemd/*.timer'))), 'what is in them');
    my @copyrights = map { slurp_file($_) } glob("$directory/*/usr/share/doc/*/copyright");
    is("$copyrights[0]", "$copyrights[1]", 'both have the same copyright file');
    # It says that there is no licence: whoever adds one changes it.
    like($copyrights[0], qr/states no licence/, 'which says what the repository says');
    is_deeply([glob('LICEN[CS]E* COPYING* COPYRIGHT*')], [], 'as long as it has none');
    is(sprintf('%o', (stat("$directory/program/etc/apapacho-jobs/environment"))[2] & 07777), '600', 'a file for passwords is for root only');
    like(slurp_file("$directory/control/control"), qr/^Depends: (?=.*\blibpq5\b)(?=.*\blibcurl).*\blibmicrohttpd/m, 'they depend on what they need');
    is(run_program("$directory/program/usr/bin/apapacho-jobs", '--version'), "apapacho-jobs (apapacho_jobs) $version\n", 'the program runs');
    for my $script (qw(postinst prerm postrm)) {
        is(cli({ program => ["$directory/control/$script"] }, $script eq 'postinst' ? 'configure' : 'remove')->{code}, 0, "$script, where there is no systemd")
            unless -d '/run/systemd/system';
    }
};

done_testing();
