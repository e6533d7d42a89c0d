# Session.pm: sessions of psql that stay, for tests with many statements and many sessions at once.
#
# Functions of a node of Apapacho's, in the test's own process. A statement is begun and its end waited for separately, so that many
# sessions can be at work at once; one that a crash of the server has cut off says so and connects anew with the next statement.
package Session;

use strict;
use warnings;

use Carp;
use IO::Select ();
use IPC::Open3 qw(open3);
use PostgreSQL::Test::Utils ();
use Symbol qw(gensym);
use Time::HiRes qw(time);

# A session in the database postgres. Options: database, name (its application_name), setup (SQL for each connection), patience (seconds).
sub new {
    my ($class, $node, %options) = @_;
    return bless { node => $node, marks => 0, patience => 2 * $PostgreSQL::Test::Utils::timeout_default, %options }, $class;
}

sub _connect {
    my ($self) = @_;
    my $node = $self->{node};
    my $connection = $node->connstr($self->{database} // 'postgres') . " application_name='" . ($self->{name} // 'test') . "'";
    local %ENV = $node->_get_env();

    $self->{error} = gensym();
    $self->{process} = open3($self->{in}, $self->{out}, $self->{error}, $node->installed_command('psql'), qw(-XAtq -v VERBOSITY=verbose),
        '-d', $connection);
    $self->{$_}->blocking(0) for qw(out error);
    if (defined $self->{setup}) {
        my $result = $self->begin($self->{setup})->end;
        croak "setting a session up: $result->{error}" if $result->{error};
    }
    return;
}

# Begins a statement or several; returns the session.
sub begin {
    my ($self, $sql) = @_;

    $self->_connect unless $self->{process};
    $self->{marks}++;
    @{$self}{qw(text errors statement)} = ('', '', $sql);
    local $SIG{PIPE} = 'IGNORE';
    # psql that has lost the server is found to have ended when its end is waited for
    print { $self->{in} } "$sql;\n\\echo end of $self->{marks}\n\\warn end of $self->{marks}\n";
    $self->{in}->flush;
    return $self;
}

# Waits for the end. Returns { text => what was returned, state => SQLSTATE of the first error ('' if there is none, 'lost' if the
# connection was), error => stderr }.
sub end {
    my ($self) = @_;
    my $deadline = time() + $self->{patience};
    my $mark = "end of $self->{marks}\n";
    my $select = IO::Select->new($self->{out}, $self->{error});

    until ($self->{text} =~ /^\Q$mark\E\z/m && $self->{errors} =~ /^\Q$mark\E\z/m) {
        croak "a session waited too long for: $self->{statement}" if time() > $deadline;
        for my $handle ($select->can_read(1)) {
            my $member = $handle == $self->{out} ? 'text' : 'errors';
            my $count = sysread($handle, $self->{$member}, 65536, length $self->{$member});
            $select->remove($handle) if defined $count && $count == 0;
        }
        if (!$select->handles) {
            $self->close;
            return { text => '', state => 'lost', error => $self->{errors} };
        }
    }
    $self->{$_} =~ s/^\Q$mark\E\z//m for qw(text errors);
    chomp($self->{text});
    return { text => $self->{text}, error => $self->{errors}, state => $self->{errors} =~ /^(?:ERROR|FATAL|PANIC):  (\w{5}):/m ? $1 : '' };
}

# Begins and waits; dies of errors in the one, returns what end() does in the other.
sub ask {
    my ($self, $sql) = @_;
    my $result = $self->begin($sql)->end;

    croak "$sql: $result->{state} $result->{error}" if $result->{state} ne '';
    return $result->{text};
}

sub try {
    my ($self, $sql) = @_;
    return $self->begin($sql)->end;
}

sub close {
    my ($self) = @_;
    my $process = delete $self->{process} or return;

    close $self->{in};
    waitpid($process, 0);
    close $self->{$_} for qw(out error);
    return;
}

1;
