# 050_start.pl: `apapacho-jobs outbox start` (with sanitizers), a publisher that is not in the server: what it sends, what becomes of it,
# whose settings it goes by, and who may run it.
use strict;
use warnings;

use Apapacho;
use Cli;
use Outbox;
use PostgreSQL::Test::Utils;
use Recorder;
use Serve qw(sanitized_program);
use Test::More;

my $secret = 'whsec_YXBhcGFjaG8gc3RhcnQgdGVzdA==';
my $directory = PostgreSQL::Test::Utils::tempdir();
my $log = "$directory/log";
my $other = Recorder->start;
my $own = Recorder->start;
my $receiver = Apapacho->start_receiver('--secret', $secret, '--port-file', "$directory/port", '--log', $log, '--quiet');

my $node = Apapacho->create('main', tables => 'own', start => 0, streaming => 1, settings => {
    'apapacho_jobs.enabled' => 'off',
    'apapacho_jobs.outbox_publisher_type' => 'webhook',
    'apapacho_jobs.outbox_webhook_secret' => $secret,
    'apapacho_jobs.outbox_allowed_addresses' => '127.0.0.0/8',
    'apapacho_jobs.outbox_retry_schedule' => '1h' });

$node->wait_until(sub { -s "$directory/port" }, 'the receiver listens');
chomp(my $port = slurp_file("$directory/port"));
$node->configure('apapacho_jobs.outbox_webhook_url' => "http://127.0.0.1:$port/");
$node->start;
$node->install;
$node->load_tables('own');

sub start_publisher {
    my (%environment) = @_;
    my $program = start_cli({ node => $node, environment => { ASAN_OPTIONS => 'exitcode=99', %environment }, program => [sanitized_program()] },
        qw(outbox start));
    $program->wait_for_output(qr/Publishing the outbox/);
    return $program;
}

sub all_published { return $node->wait_for(q{SELECT count(*) = 0 FROM "OutboxEvent" WHERE "publishedAt" IS NULL}, $_[0]) }

# Ends it as systemd does.
sub stop_publisher {
    my ($program, $what) = @_;
    $program->signal('TERM');
    my $result = $program->finish;
    is($result->{code}, 0, "$what: SIGTERM ends it with 0");
    return $result;
}

subtest 'events go out in their order, signed' => sub {
    $node->ask(q{SELECT count(apapacho_outbox_emit('Order', (g % 7)::text, lpad(g::text, 6, '0'), jsonb_build_object('n', g)))
        FROM generate_series(1, 500) AS g});
    my $program = start_publisher();
    all_published('all are published, with the jobs switched off');
    # one that is added while it waits
    $node->ask(q{SELECT apapacho_outbox_emit('Order', '1', '000501', '{"accent": "año"}')});
    all_published('one that is committed while it waits is published too');
    my %found = arrivals($node, $log);
    is_deeply([@found{qw(events repeated lost wrong unknown out_of_order)}], [501, 0, [], [], [], []],
        'each came once, in the order of its aggregate, with both signatures right');
    is($program->wait_for_output(qr/Procesados: 501, Fallidos: 0|(?s:Procesados: 500, Fallidos: 0\n.*Procesados: 1, Fallidos: 0)/) ne '', 1,
        'it logs what it has done, in the words of the seed');
    is($node->ask(q{SELECT sum(attempts) FROM apapacho_jobs.outbox_outcome WHERE outcome = 'delivered'}), 501, 'the server counts them');
    my $result = stop_publisher($program, 'at rest');
    is($result->{err}, '', 'nothing on stderr');
    $node->wait_for(q{SELECT count(*) = 0 FROM pg_locks WHERE locktype = 'advisory' AND classid = 1634758007}, 'its slots are free');
};

subtest 'failures wait for their retries, as in the server' => sub {
    $node->ask("SELECT apapacho_outbox_set_endpoint('other', '" . $other->url . "', 'other secret')");
    $other->answer('*' => 503);
    my $program = start_publisher();
    my ($first, $second) = emit($node, 'Retry/1/First', 'Retry/1/Second');
    $node->wait_for(qq{SELECT count(*) = 1 FROM apapacho_jobs.outbox_retry WHERE event_id = '$first' AND endpoint = 'other' AND attempts = 1
        AND next_attempt_at > now() + interval '30 minutes'}, 'an attempt that failed is recorded with the time of the next one');
    $node->wait_for(qq{SELECT count(*) = 1 FROM apapacho_jobs.outbox_retry WHERE event_id = '$second' AND endpoint = 'other' AND attempts = 0},
        'the next event of its aggregate waits for it there');
    is($node->ask(qq{SELECT error_class, http_status, delivered, peer <> '' FROM apapacho_jobs.outbox_attempt WHERE event_id = '$first'
        AND endpoint = 'other'}), 'http_status|503|f|t', 'the attempt is logged');
    is($node->ask(qq{SELECT "retryCount", "lastError" FROM "OutboxEvent" WHERE id = '$first'}) =~ /^1\|other: .*503/, 1, 'and in the event');
    $other->answer('*' => 200);
    due_now($node);
    all_published('both are published when the retry is due');
    is(types_of([$other->take]), 'First First Second', 'in their order');
    like(stop_publisher($program, 'after a failure')->{err}, qr/warning: event \Q$first\E was not delivered to "other": .*503/,
        'it tells the failure');
    $node->ask(q{DELETE FROM apapacho_jobs.outbox_endpoint WHERE name = 'other'});
};

subtest 'endpoints and settings that change are taken up' => sub {
    my $program = start_publisher();
    $node->ask("SELECT apapacho_outbox_set_endpoint('later', '" . $other->url . "')");
    my ($id) = emit($node, 'Change/1/ToBoth');
    all_published('an endpoint that was added gets the next event');
    is(types_of([$other->take]), 'ToBoth', 'once');
    $node->ask(q{DELETE FROM apapacho_jobs.outbox_endpoint WHERE name = 'later'});
    apply($node, 'apapacho_jobs.outbox_webhook_url' => $other->url);
    $node->wait_until(sub { emit($node, 'Change/1/Moved'); return scalar($other->take) }, 'a URL that was changed by a reload gets the next events');
    all_published('and so they are published');
    apply($node, 'apapacho_jobs.outbox_webhook_url' => "http://127.0.0.1:$port/");
    $node->ask('SELECT apapacho_outbox_pause()');
    ($id) = emit($node, 'Change/1/Paused');
    $node->wait_for(q{SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = 'apapacho-jobs' AND query LIKE '%waiting for events'},
        'a publisher that has looked waits');
    is(event($node, $id, '"publishedAt" IS NULL'), 't', 'nothing goes to a paused endpoint');
    $node->ask('SELECT apapacho_outbox_resume()');
    all_published('until it is resumed');
    is(stop_publisher($program, 'after changes')->{err}, '', 'nothing on stderr');
};

subtest 'the environment outweighs the settings, and its secrets stay where they are' => sub {
    my $position = $node->log_position;
    $node->ask(q{ALTER SYSTEM SET log_statement = 'all'; });
    $node->ask(q{ALTER SYSTEM SET log_min_duration_statement = 0});
    apply($node);
    my $url = $own->url =~ s{//}{//user:hush-hush\@}r;
    my $program = start_publisher(OUTBOX_WEBHOOK_URL => $url, OUTBOX_WEBHOOK_SECRET => 'own secret', OUTBOX_MAX_RETRIES => 1,
        OUTBOX_BATCH_SIZE => 7);
    my ($id) = emit($node, 'Own/1/Signed');
    all_published('it is published');
    my ($request) = $own->wait_for(1);
    my $verified = Apapacho->start_receiver('--secret', 'own secret', '--port-file', "$directory/own", '--brief');
    $node->wait_until(sub { -s "$directory/own" }, 'a receiver with that secret listens');
    chomp(my $own_port = slurp_file("$directory/own"));
    my @headers = map { ('-H', "$_: $request->{headers}{$_}") } grep { /^(?:webhook-|x-|content-type)/ } sort keys %{ $request->{headers} };
    is(PostgreSQL::Test::Utils::run_log(['curl', '-sf', '-o', '/dev/null', @headers, '--data-binary', $request->{body},
        "http://127.0.0.1:$own_port/"]), 1, 'signed with its own secret');
    $own->answer('*' => 500);
    my ($failing) = emit($node, 'Own/1/Fails');
    $node->wait_for(qq{SELECT "retryCount" >= 1 FROM "OutboxEvent" WHERE id = '$failing'}, 'its number of attempts counts');
    is($node->ask(qq{SELECT count(*) FROM apapacho_jobs.outbox_retry WHERE event_id = '$failing'}), 0, 'there is no other one');
    stop_publisher($program, 'with an environment');
    unlike($node->log_since($position), qr/own secret|hush-hush|b3duIHNlY3JldA/, 'neither is in the server\'s log');
    $node->ask('ALTER SYSTEM RESET ALL');
    apply($node);
    $node->ask(qq{DELETE FROM "OutboxEvent" WHERE id = '$failing'});

    $program = start_publisher(OUTBOX_PUBLISHER_TYPE => 'console');
    my ($line) = emit($node, 'Own/1/Printed');
    $program->wait_for_output(qr{^\[Outbox\] Printed Own/1 id=\Q$line\E$}m);
    all_published('the console prints events, which counts');
    stop_publisher($program, 'the console');
    for my $wrong ([OUTBOX_WEBHOOK_URL => 'ftp://x/'], [OUTBOX_BATCH_SIZE => '0'], [OUTBOX_MAX_RETRIES => 'ten'],
        [OUTBOX_PUBLISHER_TYPE => 'fax'], [OUTBOX_WEBHOOK_SECRET => 'whsec_?']) {
        cli_fails({ node => $node, environment => {@$wrong} }, 2, qr/environment variable $wrong->[0]/, qw(outbox start));
    }
};

subtest 'who may, and what is refused' => sub {
    $node->ask('CREATE ROLE nobody LOGIN; CREATE ROLE publisher LOGIN;');
    cli_fails({ node => $node, role => 'nobody' }, 1, qr/permission denied for procedure publisher_open/, qw(outbox start));
    $node->ask('GRANT EXECUTE ON PROCEDURE apapacho_jobs.publisher_open, apapacho_jobs.publisher_step TO publisher');
    my $program = start_cli({ node => $node, role => 'publisher', environment => { OUTBOX_MAX_RETRIES => 7, OUTBOX_BATCH_SIZE => 9 } }, qw(outbox start));
    emit($node, 'Role/1/Granted');
    all_published('a role with the rights to the two procedures publishes');
    stop_publisher($program, 'as that role');
    is($node->error_of('BEGIN; CALL apapacho_jobs.publisher_open(1, NULL, NULL, NULL, NULL, NULL, NULL)') =~ /25001.*transaction block/, 1,
        'not in a transaction block');
    like($node->error_of('DO $$ DECLARE a bytea; BEGIN CALL apapacho_jobs.publisher_open(1, NULL, NULL, NULL, NULL, NULL, a); END $$'),
        qr/25001/, 'not in a block of code');
    like($node->error_of(q{CALL apapacho_jobs.publisher_step('', NULL)}), qr/55000.*no publisher/, 'no step without a publisher');
    like($node->error_of('CALL apapacho_jobs.publisher_open(99, NULL, NULL, NULL, NULL, NULL, NULL)'), qr/0A000/, 'nor another version');
    is($node->ask('SELECT count(*) FROM apapacho_jobs.outbox_waiting'), 0, 'nobody sees what waits');
    cli_fails({ node => $node, environment => { PGDATABASE => 'template1' } }, 1, qr/not installed/, qw(outbox start));
    cli_fails({ node => $node, environment => { PGPORT => 1 } }, 3, qr/connection/, qw(outbox start));
};

subtest 'events that cannot be marked are not sent for ever' => sub {
    $other->take;
    $node->ask(q{CREATE FUNCTION suppress() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
        CREATE TRIGGER suppress BEFORE UPDATE ON "OutboxEvent" FOR EACH ROW EXECUTE FUNCTION suppress()});
    my $program = start_publisher(OUTBOX_WEBHOOK_URL => $other->url);
    my ($id) = emit($node, 'Mark/1/Suppressed');
    $node->wait_until(sub { $program->errors =~ /refused a publisher's call.*could not be marked.*hint: Check that no trigger/s }, 'it says so');
    $node->ask('DROP TRIGGER suppress ON "OutboxEvent"');
    all_published('it goes on by itself when that is mended');
    cmp_ok(scalar($other->take), '<=', 20, 'it did not come again and again');
    is(stop_publisher($program, 'after that')->{out} =~ /Procesados/, 1, 'it has logged what it did');
};

subtest 'a role, its session and its snapshots' => sub {
    my $program = start_cli({ node => $node, role => 'publisher' }, qw(outbox start));
    $program->wait_for_output(qr/Publishing/);
    $node->wait_for(q{SELECT count(*) = 1 FROM pg_stat_activity WHERE usename = 'publisher' AND query LIKE '%waiting for events'
        AND backend_xmin IS NULL AND xact_start IS NULL}, 'a publisher that waits has neither a snapshot nor a transaction');
    $node->ask(q{CREATE TABLE seen (who text, waiting bigint);
        CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO public.seen VALUES (current_user, (SELECT count(*) FROM apapacho_jobs.outbox_retry)); RETURN NEW; END $$;
        CREATE TRIGGER see BEFORE UPDATE ON "OutboxEvent" FOR EACH ROW EXECUTE FUNCTION see()});
    emit($node, 'Role/2/Seen');
    all_published('it is published');
    is($node->ask('SELECT DISTINCT who FROM seen'), scalar(getpwuid($<)), 'triggers of the table run as its owner, not as the publisher');
    $node->ask('DROP TRIGGER see ON "OutboxEvent"');
    # a session of a superuser's is cancelled and ended in the middle
    $node->ask(q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE usename = 'publisher'});
    $node->wait_until(sub { $program->errors =~ /refused a publisher's call.*canceling statement.*connected to PostgreSQL again/s }, 'a cancelled call is told, and it comes again');
    emit($node, 'Role/2/Again');
    all_published('and goes on');
    stop_publisher($program, 'as a role');
};

subtest 'a signal while it waits for the server' => sub {
    my $held = $node->hold('OutboxEvent');
    my $program = start_cli({ node => $node }, qw(outbox start));
    $node->wait_for(q{SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = 'apapacho-jobs' AND wait_event_type = 'Lock'}, 'it waits for a lock');
    stop_publisher($program, 'without an answer');
    $node->let_go($held);
};

subtest 'a standby does not publish' => sub {
    $node->backup('copy');
    my $standby = Apapacho->new('standby');
    $standby->init_from_backup($node, 'copy', has_streaming => 1);
    $standby->start;
    cli_fails({ node => $standby }, 1, qr/a standby cannot publish/, qw(outbox start));
    $standby->stop;
};

$node->stop;
done_testing();
