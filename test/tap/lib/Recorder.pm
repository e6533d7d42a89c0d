# Recorder.pm: an HTTP server on loopback that keeps every request as it came, byte for byte, and answers as it is told.
#
# A process of its own, forked by the test. It ends with the test in any case: at stop, at the test's END, or when the pipe to
# the test breaks. What it received is in a file, a line for each request, written before the answer is.
package Recorder;

use strict;
use warnings;

use Carp;
use IO::Select ();
use IO::Socket::INET ();
use JSON::PP ();
use MIME::Base64 qw(decode_base64 encode_base64);
use POSIX ();
use PostgreSQL::Test::Utils ();
use Socket qw(SOL_SOCKET SO_LINGER);
use Time::HiRes qw(time usleep);

=pod

=head1 SYNOPSIS

  my $recorder = Recorder->start;         # before anything else is started: the fork inherits what is open
  $recorder->url;                         # http://127.0.0.1:PORT/hook?a=1
  $recorder->answer(OrderPaid => 503);    # events of this type from now on; all others: that of *, or 200
  my @requests = $recorder->take;         # those since the last time

A request: C<line> (POST /hook HTTP/1.1), C<head> (its header lines as they came), C<headers> ({lower-case name => value}),
C<body>, C<connection> (which one it came on: 1, 2, ...), C<time>.

=head1 ANSWERS

A status; C<redirect> (302 to another path of ours); C<later> (503 with Retry-After: 7200); C<flaky> (503 to one in ten, by chance, else 200); C<hang> (none until the answer for the type is changed, then that);
C<reset> (TCP reset), C<close> (end without an answer), C<garbage> (not HTTP), C<partial> (200, and breaks off in the body).

=cut

my @running;

sub start {
    my ($class) = @_;
    my $directory = PostgreSQL::Test::Utils::tempdir_short();
    my $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 512, Proto => 'tcp', ReuseAddr => 1)
        or croak "could not listen: $!";
    my $self = bless { directory => $directory, port => $listener->sockport, offset => 0, answers => {} }, $class;

    $self->answer;
    pipe(my $child_end, $self->{parent_end}) or croak "pipe: $!";
    $self->{pid} = fork() // croak "fork: $!";
    if ($self->{pid} == 0) {
        close $_->{parent_end} for $self, grep { $_->{pid} } @running; # others' too, or they would not end
        open(STDOUT, '>', '/dev/null');
        $SIG{PIPE} = 'IGNORE';
        $SIG{$_} = 'DEFAULT' for qw(INT TERM ALRM);
        eval { _serve($directory, $listener, $child_end); 1 } or print STDERR "recorder: $@";
        POSIX::_exit(0);
    }
    push @running, $self;
    return $self;
}

sub stop {
    my ($self) = @_;
    my $pid = delete $self->{pid} or return;

    close $self->{parent_end};
    waitpid($pid, 0);
    return;
}

sub url {
    my ($self) = @_;
    return "http://127.0.0.1:$self->{port}/hook?a=1";
}

sub answer {
    my ($self, %answers) = @_;
    my $file = "$self->{directory}/answers";

    $self->{answers} = { %{ $self->{answers} }, %answers };
    PostgreSQL::Test::Utils::append_to_file("$file.new", JSON::PP::encode_json($self->{answers}));
    rename("$file.new", $file) or croak "rename: $!";
    return;
}

sub take {
    my ($self) = @_;
    my @requests;

    open(my $in, '<', "$self->{directory}/requests") or return;
    seek($in, $self->{offset}, 0);
    while (my $line = <$in>) {
        last unless $line =~ /\n\z/;
        $self->{offset} += length($line);
        push @requests, _request($line);
    }
    close $in;
    return @requests;
}

# Waits for that many requests, and takes them.
sub wait_for {
    my ($self, $count) = @_;
    my $deadline = time() + $PostgreSQL::Test::Utils::timeout_default;
    my @requests;

    until (@requests >= $count) {
        push @requests, $self->take;
        croak "timed out waiting for $count requests; there are " . @requests if time() > $deadline;
        usleep(20_000) if @requests < $count;
    }
    return @requests;
}

sub _request {
    my ($record) = @_;
    my ($time, $connection, $head, $body) = split(/\t/, $record, -1);
    my $request = { time => $time, connection => $connection, body => decode_base64($body) };
    my ($line, @head) = split(/\r\n/, decode_base64($head));

    $request->{line} = $line;
    $request->{head} = \@head;
    $request->{headers} = { map { /^([^:]*):[ \t]*(.*?)[ \t]*$/ ? (lc $1 => $2) : (lc $_ => undef) } @head };
    return $request;
}

# ---- The server's process ----

sub _serve {
    my ($directory, $listener, $parent) = @_;
    my $select = IO::Select->new($listener, $parent);
    my %connections;
    my $count = 0;

    open(my $record, '>>', "$directory/requests") or die "requests: $!\n";
    while (1) {
        for my $socket ($select->can_read(0.05)) {
            return if $socket == $parent;
            if ($socket == $listener) {
                my $new = $listener->accept or next;
                $select->add($new);
                $connections{$new} = { socket => $new, number => ++$count, input => '' };
                next;
            }
            my $connection = $connections{$socket};
            if (!sysread($socket, $connection->{input}, 65536, length $connection->{input})) {
                $connection->{over} = 1;
            } else {
                _take_requests($connection, $record);
            }
        }
        my $answers = JSON::PP::decode_json(PostgreSQL::Test::Utils::slurp_file("$directory/answers"));
        for my $connection (values %connections) {
            _answer($connection, $answers) if @{ $connection->{waiting} // [] };
            next unless $connection->{over};
            $select->remove($connection->{socket});
            delete $connections{ $connection->{socket} };
            close $connection->{socket};
        }
    }
    return;
}

sub _take_requests {
    my ($connection, $record) = @_;

    while ($connection->{input} =~ /\r\n\r\n/) {
        my ($head, $body) = (substr($connection->{input}, 0, $-[0]), $+[0]);
        my ($length) = $head =~ /^content-length:\s*(\d+)/im;
        return if length($connection->{input}) < $body + ($length // 0);

        my $line = join("\t", time(), $connection->{number}, encode_base64($head, ''),
            encode_base64(substr($connection->{input}, $body, $length // 0), '')) . "\n";
        substr($connection->{input}, 0, $body + ($length // 0), '');
        syswrite($record, $line) == length($line) or die "requests: $!\n";
        push @{ $connection->{waiting} }, $head =~ /^x-event-type:\s*(.*?)\s*$/im ? $1 : '';
    }
    return;
}

sub _answer {
    my ($connection, $answers) = @_;
    my %broken = (close => '', reset => '', garbage => "\0\1\2 this is not HTTP\r\n\r\n",
        partial => "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly");

    while (@{ $connection->{waiting} }) {
        my $answer = $answers->{ $connection->{waiting}[0] } // $answers->{'*'} // 200;
        return if $answer eq 'hang';
        shift @{ $connection->{waiting} };
        if (exists $broken{$answer}) {
            setsockopt($connection->{socket}, SOL_SOCKET, SO_LINGER, pack('ii', 1, 0)) if $answer eq 'reset';
            syswrite($connection->{socket}, $broken{$answer});
            $connection->{over} = 1;
            $connection->{waiting} = [];
        } else {
            my $header = { redirect => "Location: /elsewhere\r\n", later => "Retry-After: 7200\r\n" }->{$answer} // '';
            my $status = { redirect => 302, later => 503, flaky => rand() < 0.1 ? 503 : 200 }->{$answer} // $answer;
            my $text = $status < 300 ? '' : "told to\nanswer $status";
            syswrite($connection->{socket}, "HTTP/1.1 $status Told\r\n${header}Content-Length: " . length($text) . "\r\n\r\n$text");
        }
    }
    return;
}

END {
    my $status = $?;
    $_->stop for @running;
    $? = $status;
}

1;
