# Consumer.pm: verifies recorded webhooks with libraries of npm's, as those who receive them do.
#
# The libraries are installed into a temporary directory of the test, from the registry that npm is set up with on this machine; Node
# runs test/tap/consumer/verify.mjs for the time of one call. Nothing is left running.
package Consumer;

use strict;
use warnings;

use File::Basename qw(dirname);
use File::Spec ();
use IPC::Run ();
use JSON::PP ();
use MIME::Base64 qw(decode_base64 encode_base64);
use PostgreSQL::Test::Utils ();

# Seconds for npm to install, and for it to wait for an answer of the registry.
my ($install_limit, $answer_limit) = (60, 10);

# Installs packages ("name@version"). Returns (consumer, undef), or (undef, why it cannot be done here).
sub install {
    my ($class, @packages) = @_;
    my $directory = PostgreSQL::Test::Utils::tempdir();
    my $output = '';

    for my $program (qw(node npm)) {
        return (undef, "$program is not installed") unless grep { -x "$_/$program" } File::Spec->path;
    }
    # Without a package.json of its own npm would look for one in the directories above.
    PostgreSQL::Test::Utils::append_to_file("$directory/package.json", '{"private": true}');
    my @npm = (qw(npm install --no-save --no-package-lock --no-audit --no-fund --no-update-notifier --ignore-scripts --fetch-retries=0),
        '--fetch-timeout=' . 1000 * $answer_limit, '--prefix', $directory, @packages);
    return (bless({ directory => $directory }, $class), undef)
        if IPC::Run::run([qw(timeout --foreground --kill-after=5), $install_limit, @npm], '<', \undef, '>', \$output, '2>', \$output);
    return (undef, "npm cannot install @packages: no end within $install_limit s") if $? >> 8 == 124;
    my @reasons = $output =~ /^npm (?:ERR!|error) (code .*)$|, (reason: .*)$/mg;
    return (undef, "npm cannot install @packages: " . (join(', ', grep { defined } @reasons) || 'status ' . ($? >> 8)));
}

# Verifies requests of Recorder's: a list of { request, secret } and, where they are not the usual ones, library, options, later (see
# verify.mjs). Returns for each { json => what the library has parsed } or { error => its text }.
sub verify {
    my ($self, @questions) = @_;
    my $file = "$self->{directory}/questions." . ++$self->{calls};
    my $json = JSON::PP->new->canonical->ascii;    # the libraries take a raw secret's characters as bytes
    my $errors = '';

    open(my $out, '>', $file) or die "$file: $!\n";
    for my $question (@questions) {
        my %line = (library => 'standardwebhooks', %{$question});
        my $request = delete $line{request};
        print $out $json->encode({ %line, headers => $request->{headers}, body => encode_base64($request->{body}, '') }), "\n";
    }
    close $out or die "$file: $!\n";
    IPC::Run::run(['timeout', '--foreground', 4 * $PostgreSQL::Test::Utils::timeout_default,
            'node', dirname(__FILE__) . '/../consumer/verify.mjs', $self->{directory}], '<', $file, '>', "$file.answers", '2>', \$errors)
        or die "verify.mjs: $errors\n";

    my @answers = map { /^ok\t(.*)/ ? { json => decode_base64($1) } : /^error\t(.*)/ ? { error => $1 } : die "verify.mjs: $_\n" }
        split(/\n/, PostgreSQL::Test::Utils::slurp_file("$file.answers"));
    @answers == @questions or die sprintf("verify.mjs: %d answers to %d questions\n", scalar(@answers), scalar(@questions));
    unlink($file, "$file.answers");
    return @answers;
}

1;
