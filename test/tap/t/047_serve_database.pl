# apapacho-jobs serve and its database: restarts, broken connections, runs that are waited for, callers who leave, deadlines, the end by
# SIGTERM. With AddressSanitizer and UBSan.
use strict;
use warnings;
use utf8;

use lib 'test/tap/lib';
use Apapacho;
use IPC::Run ();
use Serve;
use Test::More;

my $node = Apapacho->create('main', tables => 'own');
my $serve = start_serve({ node => $node }, '--query-timeout', '6', '--timeout', '600', '--grace', '600');
my $waits = q{FROM pg_stat_activity WHERE application_name = 'apapacho-jobs' AND state = 'active' AND query LIKE '%apapacho_run_job(%'};
my $run = 'POST /api/admin/jobs/run/payout';

sub open_connections {
    return $node->ask(q{SELECT count(*) FROM pg_stat_activity WHERE application_name = 'apapacho-jobs'});
}

# curl in the background: its answer is in {text} after finish.
sub begin_curl {
    my ($serve, $method, $path) = @_;
    my $request = { text => '' };

    $request->{run} = IPC::Run::start(['curl', '-sS', '-X', $method, '-H', "X-Admin-Key: $serve->{key}", '-w', ' %{http_code}', '-m', 300,
        "http://127.0.0.1:$serve->{port}$path"], '<', \undef, '>', \$request->{text}, '2>', \$request->{text});
    return $request;
}

sub wait_for_errors {
    my ($program, $pattern, $what) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return $node->wait_until(sub { $program->errors =~ $pattern }, $what);
}

subtest 'a restart of the server' => sub {
    is(curl($serve, 'GET /readyz')->{status}, 200, 'ready');
    cmp_ok(open_connections(), '<=', 4, 'no more connections than it may have');
    $node->stop('fast');
    wait_for_errors($serve, qr/^apapacho-jobs: warning: lost the connection to PostgreSQL: /m, 'it says so before anybody asks');
    wait_for_errors($serve, qr/(?:warning: could not connect to PostgreSQL, trying again in \d+\.\d s: .*?){3}/s, 'it tries, and says so');
    my $answer = curl($serve, 'GET /api/jobs/status');
    is("$answer->{status} $answer->{json}{error}", '503 Sin conexión con la base de datos', 'what is asked meanwhile');
    like($answer->{headers}, qr/^Retry-After: [1-9]\d*\r/m, 'when to ask again');
    is(curl($serve, $run)->{status}, 503, 'runs too');
    is(curl($serve, 'GET /readyz')->{status}, 503, 'not ready');
    is(curl($serve, 'GET /healthz')->{status}, 200, 'but alive');
    my $metrics = samples($serve);
    is("$metrics->{apapacho_jobs_up} " . $metrics->{'apapacho_jobs_collector_success{collector="jobs"}'}, '0 0', 'metrics');
    cmp_ok($metrics->{apapacho_jobs_serve_database_connections_lost_total}, '>=', 1, 'what was lost is counted');
    $node->start;
    wait_for_errors($serve, qr/^apapacho-jobs: warning: connected to PostgreSQL again after \d+\.\d s$/m, 'it comes back by itself');
    is(curl($serve, 'GET /readyz')->{status}, 200, 'ready');
    is(curl($serve, 'GET /api/jobs/status')->{status}, 200, 'and answers');
    my @pauses = $serve->errors =~ /trying again in (\d+\.\d) s/g;
    cmp_ok($pauses[-1], '>', $pauses[0], "with growing pauses: @pauses");
    is(() = $serve->errors =~ /lost the connection/g, 1, 'the loss is told once');
};

subtest 'connections that break off' => sub {
    my $lost = sample($serve, 'serve_database_connections_lost_total');
    $node->ask(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'apapacho-jobs'});
    $node->wait_until(sub { sample($serve, 'serve_database_connections_lost_total') > $lost }, 'it notices');
    $node->wait_until(sub { curl($serve, 'GET /api/jobs/status')->{status} == 200 }, 'and has another one');

    my $lock = $node->hold('Payout');
    my $waiting = begin_curl($serve, split(/ /, $run));
    $node->wait_for("SELECT count(*) = 1 $waits", 'a run is waited for');
    my ($id) = $node->ask(q{SELECT id FROM apapacho_jobs.run WHERE status = 'running'});
    $node->ask("SELECT pg_terminate_backend(pid) $waits");
    $waiting->{run}->finish;
    is($waiting->{text}, qq({"error": "Se perdió la conexión con la base de datos: no se sabe si la operación terminó"}\n 502), 'it says what it does not know')
        if utf8::decode($waiting->{text});
    $node->let_go($lock);
    $node->wait_for_run("id = $id AND status = 'succeeded'");
    is(curl($serve, 'POST /api/admin/jobs/run/retry')->{status}, 200, 'the next one is fine');
};

subtest 'runs that are waited for leave the others alone' => sub {
    my $lock = $node->hold('Payout');
    my @waiting = map { begin_curl($serve, split(/ /, $run)) } 1 .. 6;

    $node->wait_for("SELECT count(*) = 3 $waits", 'three are waited for, the others queue');
    is(curl($serve, 'GET /api/jobs/status')->{status}, 200, 'the status');
    is(sample($serve, 'job_executing{job="payout"}'), 1, 'metrics');
    is(open_connections(), 4, 'no more connections than it may have');
    $waiting[$_]{run}->kill_kill for 0 .. 5;
    $node->wait_for("SELECT count(*) = 0 $waits", 'callers who have left are not waited for');
    $node->let_go($lock);
    is(curl($serve, $run)->{status}, 200, 'the next one is fine');
};

subtest 'more than can wait' => sub {
    my $lock = $node->hold('Payout');
    my $first = begin_curl($serve, split(/ /, $run));
    $node->wait_for("SELECT count(*) = 1 $waits", 'one is waited for');
    my @sockets = map { my $socket = connect_to($serve); syswrite($socket, request_of($run, 'X-Admin-Key' => $serve->{key})); $socket } 1 .. 300;
    my $busy = $node->wait_until(sub { sample($serve, 'serve_requests_total{route="/api/admin/jobs/run/:jobName",code="503"}') }, 'some are refused');
    my $answer = curl($serve, $run);
    is("$answer->{status} $answer->{json}{error}", '503 Demasiadas peticiones en espera', 'too many wait');
    is(curl($serve, 'GET /api/jobs/status')->{status}, 200, 'the status');
    close($_) for @sockets;
    $node->let_go($lock);
    $first->{run}->finish;
    like($first->{text}, qr/"Completado - .* 200\z/s, 'the first one has its answer');
    is(curl($serve, 'POST /api/admin/jobs/run/retry')->{status}, 200, 'the next one is fine');
};

subtest 'a statement that takes too long' => sub {
    my $hasty = start_serve({ node => $node }, '--query-timeout', '4', '--connections', '1');
    my $lock = $node->hold('OutboxEvent');
    my $answer = curl($hasty, 'GET /api/admin/outbox/stats');
    is("$answer->{status} $answer->{json}{error}", '504 La base de datos no respondió a tiempo', 'it is cancelled');
    my $metrics = samples($hasty);
    is("$metrics->{apapacho_jobs_up} " . join(' ', map { $metrics->{"apapacho_jobs_collector_success{collector=\"$_\"}"} } qw(jobs outbox)), '1 1 0',
        'metrics without those that could not be read');
    $node->let_go($lock);
    is(curl($hasty, 'GET /api/admin/outbox/stats')->{status}, 200, 'the next one is fine');
    stop_serve($hasty);
};

# The limit of time is for clients, not for runs: while one is waited for, two connections that say nothing are ended, one after the other.
subtest 'a run that takes longer than a client may' => sub {
    my $brief = start_serve({ node => $node }, '--timeout', '1');
    my $lock = $node->hold('Payout');
    my $waiting = begin_curl($brief, split(/ /, $run));

    $node->wait_for("SELECT count(*) = 1 $waits", 'a run is waited for');
    for my $number (1, 2) {
        my $silent = connect_to($brief);
        $node->wait_until(sub { my $ready = ''; vec($ready, fileno($silent), 1) = 1; return select($ready, undef, undef, 0) }, "silence $number is ended");
    }
    $node->let_go($lock);
    $waiting->{run}->finish;
    like($waiting->{text}, qr/"Completado - .* 200\z/s, 'the answer comes');
    stop_serve($brief);
};

subtest 'SIGTERM waits for what is at work' => sub {
    my $lock = $node->hold('Payout');
    my $waiting = begin_curl($serve, split(/ /, $run));

    $node->wait_for("SELECT count(*) = 1 $waits", 'a run is waited for');
    my $half = connect_to($serve);
    syswrite($half, "$run HTTP/1.1\r\nHost: localhost\r\nX-Admin-Key: $serve->{key}\r\nContent-Length: 10\r\n\r\n{");
    $serve->signal('TERM');
    $node->wait_until(sub { !connect_to($serve) }, 'nobody else is let in');
    $node->wait_until(sub { my $ready = ''; vec($ready, fileno($half), 1) = 1; return select($ready, undef, undef, 0) }, 'half a request is not waited for');
    $node->let_go($lock);
    $waiting->{run}->finish;
    like($waiting->{text}, qr/"Completado - .* 200\z/s, 'the answer comes');
    my $ended = $serve->finish;
    is("$ended->{code} " . ($ended->{out} =~ /\nstopped\n\z/ ? 'stopped' : ''), '0 stopped', 'it ends well');
    unlike($ended->{err}, qr/Sanitizer|runtime error|cancelled/, 'and cancels nothing');
};

for my $case (['a second signal', 0, 600], ['the end of the grace', 1, 0]) {
    my ($name, $alone, $grace) = @{$case};
    subtest "$name cancels what is waited for" => sub {
        my $ending = start_serve({ node => $node }, '--grace', $grace);
        my $lock = $node->hold('Payout');
        my @waiting = map { begin_curl($ending, split(/ /, $run)) } 1 .. 4;

        $node->wait_for("SELECT count(*) = 3 $waits", 'runs are waited for');
        $node->wait_until(sub { sample($ending, 'serve_clients') == 5 }, 'another one queues');
        $ending->signal('TERM');
        if (!$alone) {
            $node->wait_until(sub { !connect_to($ending) }, 'nobody else is let in');
            $ending->signal('TERM');
        }
        $_->{run}->finish for @waiting;
        my $answers = join('', map { $_->{text} } @waiting);
        utf8::decode($answers);
        is(() = $answers =~ /El servicio se está deteniendo; un job que ya empezó sigue en la base de datos"\}\n 503/g, 4, 'each is told') or diag($answers);
        my $ended = $ending->finish;
        is($ended->{code}, 0, 'it ends well');
        like($ended->{err}, qr/^apapacho-jobs: warning: 4 requests had not ended and are cancelled$/m, 'and says so');
        unlike($ended->{err}, qr/Sanitizer|runtime error/, 'sanitizers have nothing to say');
        $node->let_go($lock);
        $node->wait_for(q{SELECT count(*) = 0 FROM apapacho_jobs.run WHERE status IN ('queued', 'running')}, 'the runs go on in the server');
    };
}

$node->stop;
done_testing();
