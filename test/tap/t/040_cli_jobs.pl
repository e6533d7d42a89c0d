# apapacho-jobs with a server: running jobs, looking at them, the outbox and the payouts by hand. The seed's commands as spec section 8
# translates them print the seed's lines; --json has the documented shapes, and the numbers are the tables'.
use strict;
use warnings;

use lib 'test/tap/lib';
use Apapacho;
use Cli;
use Outbox;
use PostgreSQL::Test::Utils qw(slurp_file);
use Test::More;

my $node = Apapacho->create('main', tables => 'own', settings => { timezone => 'America/Santiago', 'apapacho_jobs.outbox_wake_on_commit' => 'off' });
my $server = { node => $node };
my $time = qr/\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z/;

$node->wait_for_scheduler;
$node->safe_psql('postgres', slurp_file('test/demo/seed.sql'));

subtest 'run <job>: the lines of the seed' => sub {
    my $payout = cli($server, 'run', 'payout');

    is($payout->{code}, 0, 'done');
    is($payout->{out}, "[Job:Payout] Completado - Creados: 4, Omitidos: 2, Errores: 1\n", 'the line');
    like($payout->{err}, qr/^apapacho-jobs: warning: creators that could not be paid: 1; the server's log has the reasons$/, 'one could not be paid');
    is($node->ask('SELECT count(*) FROM "Payout"'), '4', 'the payouts are there');
    is(cli_ok($server, 'run', 'outboxPublisher'), "[Job:Outbox] Procesados: 5, Fallidos: 0\n", 'outbox, by its long name');
    $node->ask(q{UPDATE "OutboxEvent" SET "publishedAt" = "publishedAt" - interval '31 days' WHERE "eventType" = 'PayoutCalculated'});
    is(cli_ok($server, 'run', 'cleanup'), "[Job:Cleanup] Limpiados 4 eventos\n", 'cleanup');
    $node->ask(q{SELECT apapacho_payout_mark_failed(id, 'closed') FROM "Payout" WHERE "creatorId" = 'bruno'});
    $node->ask(q{UPDATE "Payout" SET "nextRetryAt" = "nextRetryAt" - interval '25 hours'});
    is(cli_ok($server, 'run', 'retry'), "[Job:Retry] 1 payouts pendientes de reintento\n", 'retry');
    is($node->ask(q{SELECT string_agg(job || ' ' || trigger || ' ' || status, ',' ORDER BY id) FROM apapacho_jobs.run}),
        'payout manual succeeded,outbox manual succeeded,cleanup manual succeeded,retry manual succeeded', 'each is a run in the history');
};

subtest 'run --json, --no-wait, jobs of the user' => sub {
    my $answer = cli_json($server, 'run', 'retry');

    is_deeply([@{$answer}{qw(job status pending requested errors)}], ['retry', 'succeeded', 0, 0, 0], 'the figures') or diag explain $answer;
    is($answer->{runId}, $node->ask('SELECT max(id) FROM apapacho_jobs.run'), 'the run');
    $node->ask(q{SELECT apapacho_schedule_job('hourly', '0 5 1 1 *', 'SELECT 1'); SELECT apapacho_schedule_job(E'x\u009b31m', '0 5 1 1 *', 'SELECT 1/0')});
    like(cli_ok($server, 'run', 'hourly'), qr/^hourly: succeeded \(run \d+\)\n\z/, 'a job of the user');
    cli_fails($server, 1, qr/^apapacho-jobs: error: division by zero$/m, 'run', "x\xc2\x9b31m");

    my $lock = $node->hold('Payout');
    my $begun = cli_json($server, 'run', 'payout', '--no-wait');
    ok($begun->{runId} > $answer->{runId} && $begun->{status} =~ /^(queued|started)$/, 'without waiting') or diag explain $begun;
    $node->wait_for_blocked_worker('payout');
    my $table = cli_ok($server, 'status');
    like($table, qr/^payout +\S.* run $begun->{runId} /m, 'status shows what is at work');
    $node->let_go($lock);
    $node->wait_for_run("id = $begun->{runId} AND status = 'succeeded'");
};

subtest 'run: bad input' => sub {
    cli_fails($server, 1, qr/^apapacho-jobs: error: unknown job "payuot"\napapacho-jobs: hint: The jobs are outbox \(outboxPublisher\)/, 'run', 'payuot');
    cli_fails($server, 1, qr/error: unknown job ""/, 'run', '');
    cli_fails($server, 2, qr/error: run needs an argument: <job>\n.*hint: Try "apapacho-jobs run --help"/, 'run');
    cli_fails($server, 2, qr/error: too many arguments, the first of them is "outbox"/, 'run', 'payout', 'outbox');
    $node->ask('CREATE ROLE nobody LOGIN');
    cli_fails({ %{$server}, role => 'nobody' }, 1, qr/error: permission denied for function apapacho_run_job/, 'run', 'payout');
};

subtest 'status' => sub {
    my $document = cli_json($server, 'status');
    my $table = cli_ok($server, 'status');

    is($document->{enabled}, JSON::PP::true, 'enabled');
    is_deeply([map { "$_->{name} $_->{cron}" } @{ $document->{jobs} }[0 .. 3]],
        ['outboxPublisher ', 'payoutCalculation ', 'outboxCleanup ', 'payoutRetry '], 'the jobs, their schedules empty in this test');
    like($table, qr/^Schedules are on in database "postgres" \(\d{4}-/, 'for people');
    like($table, qr/^job +cron +scheduled +at work +next run +last run +last status +last result$/m, 'headings');
    like($table, qr/^hourly +0 5 1 1 \* +yes +- +\d{4}-\S+ \S+ +\d{4}-\S+ \S+ +succeeded +\{.*\}$/m, 'a row');
    like($table, qr/^x\?31m /m, 'control characters of a name do not reach the terminal');
    unlike($table, qr/\e/, 'no colours where there is no terminal');
    $node->reconfigure('apapacho_jobs.enabled' => 'off');
    $node->wait_for(q{SELECT current_setting('apapacho_jobs.enabled') = 'off'}, 'the reload');
    is(cli_json($server, 'status')->{enabled}, JSON::PP::false, 'disabled');
    like(cli_ok($server, 'status'), qr/^Schedules are off /, 'for people');
    is(cli_ok($server, 'run', 'outbox'), "[Job:Outbox] Procesados: 3, Fallidos: 0\n", 'jobs run by hand all the same');
    $node->reconfigure('apapacho_jobs.enabled' => 'on');
    $node->wait_for_scheduler;
};

subtest 'status --watch until Ctrl-C' => sub {
    my $watch = start_cli($server, 'status', '--watch', '--interval', '1');

    $watch->wait_for_output(qr/(?:Schedules are on.*){3}/s);
    $watch->signal('INT');
    is($watch->finish->{code}, 0, 'ends well');
    cli_fails($server, 2, qr/--interval must be a number from 1 to 86400, not "0"/, 'status', '--watch', '--interval=0');
    cli_fails($server, 2, qr/too many arguments/, 'status', 'payout');
};

subtest 'runs' => sub {
    my $runs = cli_json($server, 'runs', '--limit', '1000');
    my @ids = split(/\n/, $node->ask('SELECT id FROM apapacho_jobs.run ORDER BY id DESC'));

    is_deeply([map { $_->{runId} } @{$runs}], \@ids, 'all of them, the newest first');
    my ($first) = grep { $_->{job} eq 'payout' } reverse @{$runs};
    is_deeply([@{$first}{qw(trigger attempt status error latenessSeconds)}, $first->{result}{created}], ['manual', 1, 'succeeded', undef, undef, 4],
        'a run');
    like("$first->{startedAt} $first->{finishedAt}", qr/^$time $time$/, 'times in UTC');
    is($first->{startedAt}, $node->ask(qq{SELECT (to_json(started_at AT TIME ZONE 'UTC') #>> '{}') || 'Z' FROM apapacho_jobs.run WHERE id = $first->{runId}}),
        'the table\'s');
    is_deeply([map { $_->{job} } @{ cli_json($server, 'runs', '--job', 'payoutRetry') }], ['retry', 'retry'], 'of a job, by its long name');
    my ($failed) = @{ cli_json($server, 'runs', '--status', 'failed') };
    is_deeply([@{$failed}{qw(status sqlstate error)}], ['failed', '22012', 'division by zero'], 'of a status');
    is(scalar(@{ cli_json($server, 'runs', '-n', '2') }), 2, 'at most two');
    like(cli_ok($server, 'runs', '-n1', '--job=cleanup'), qr/^run +job +trigger +status +started +seconds +late +result\n *\d+ +cleanup +manual +succeeded /,
        'for people');
    is(cli_ok($server, 'runs', '--job', 'hourly', '--status', 'crashed'), "No runs.\n", 'none');
    $node->ask('CREATE ROLE stranger LOGIN');
    my $hidden = cli({ %{$server}, role => 'stranger' }, 'runs');
    is("$hidden->{code} $hidden->{out}", "0 No runs.\n", 'none that a role may see');
    is($hidden->{err}, "apapacho-jobs: hint: Role \"stranger\" sees the runs of its own jobs; members of pg_monitor see them all.\n", 'which is told');
    is_deeply(cli_json($server, 'runs', '--job', 'hourly', '--status', 'crashed'), [], 'none, as JSON');
    cli_fails($server, 1, qr/error: unknown job "nix"/, 'runs', '--job', 'nix');
    cli_fails($server, 2, qr/error: unknown status "good"/, 'runs', '--status', 'good');
    cli_fails($server, 2, qr/--limit must be a number from 1 to 1000000, not "many"/, 'runs', '--limit', 'many');
};

subtest 'outbox: stats, events, run, retry-failed, cleanup' => sub {
    my @ids = emit($node, map { "Order/$_/OrderPaid" } 1 .. 7);

    my ($stats, $expected) = (cli_json($server, 'outbox', 'stats'), JSON::PP::decode_json($node->ask('SELECT apapacho_outbox_stats()')));
    ok(defined delete $_->{oldestPendingSeconds}, 'how old the oldest is') for $stats, $expected;
    is_deeply($stats, $expected, 'stats are the server\'s');
    like(cli_ok($server, 'outbox', 'stats'), qr/^pending +7$/m, 'for people');
    my $events = cli_json($server, 'outbox', 'events', 'pending', '--limit', '3', '--offset', '1');
    is_deeply([map { $_->{id} } @{$events}], [reverse @ids[3 .. 5]], 'events, the newest first, a page of them');
    is_deeply([sort keys %{ $events->[0] }], [sort qw(id aggregateType aggregateId eventType retryCount lastError createdAt publishedAt)],
        'their members');
    like($events->[0]{createdAt}, qr/^$time$/, 'in UTC');
    is($events->[0]{createdAt}, $node->ask(qq{SELECT replace("createdAt"::text, ' ', 'T') || 'Z' FROM "OutboxEvent" WHERE id = '$ids[5]'}), 'the table\'s');
    like(cli_ok($server, 'outbox', 'events'), qr/^id +aggregate type +aggregate id .*\n$ids[6] +Order +7 +OrderPaid +0 +- +\d{4}-/, 'for people');

    is(cli_ok($server, 'outbox', 'run', '--batch-size', '3'), "[Job:Outbox] Procesados: 3, Fallidos: 0\n", 'three');
    is(cli_ok($server, 'outbox', 'run'), "[Job:Outbox] Procesados: 4, Fallidos: 0\n", 'the rest');
    is(cli_ok($server, 'outbox', 'run'), "[Job:Outbox] Procesados: 0, Fallidos: 0\n", 'nothing');

    $node->ask(qq{UPDATE "OutboxEvent" SET "publishedAt" = NULL, "retryCount" = 10, "lastError" = E'bad \\x1b[31m' WHERE id IN ('$ids[0]', '$ids[1]')});
    like(cli_ok($server, 'outbox', 'events', 'failed'), qr/^$ids[1] .* 10 +bad \?\[31m +/m, 'failed ones; errors cannot steer a terminal');
    is(cli_ok($server, 'outbox', 'retry-failed'), "2 failed events are pending again\n", 'retry-failed');
    is($node->ask('SELECT apapacho_outbox_stats() ->> \'pending\''), '2', 'they are');
    is_deeply(cli_json($server, 'outbox', 'retry-failed'), { retried => 0 }, 'none any more');

    $node->ask(qq{UPDATE "OutboxEvent" SET "publishedAt" = now() - interval '10 days' WHERE id IN ('$ids[3]', '$ids[4]')});
    is(cli_ok($server, 'outbox', 'cleanup', '30'), "[Job:Cleanup] Limpiados 0 eventos\n", 'cleanup 30');
    is(cli_ok($server, 'outbox', 'cleanup'), "[Job:Cleanup] Limpiados 0 eventos\n", 'thirty days when it does not say');
    is(cli_json($server, 'outbox', 'cleanup', '9')->{deleted}, 2, 'cleanup 9');
    is($node->ask(qq{SELECT count(*) FROM "OutboxEvent" WHERE id IN ('$ids[3]', '$ids[4]')}), '0', 'they are gone');

    cli_fails($server, 2, qr/the number of days must be a number from 0 to 36500, not "x"/, 'outbox', 'cleanup', 'x');
    cli_fails($server, 2, qr/unrecognized option "-1"/, 'outbox', 'cleanup', '-1');
    cli_fails($server, 2, qr/unknown status "new": there are pending, published, failed and all/, 'outbox', 'events', 'new');
    cli_fails($server, 2, qr/--batch-size must be a number from 1 to/, 'outbox', 'run', '--batch-size=0');
    cli_fails($server, 2, qr/unknown command "outbox stat"/, 'outbox', 'stat');
    cli_fails($server, 2, qr/^Usage:\n  apapacho-jobs outbox COMMAND/, 'outbox');
    apply($node, 'apapacho_jobs.outbox_publisher_type' => 'webhook');
    cli_fails($server, 1, qr/error: the outbox publisher is "webhook", but there is no webhook URL\n.*hint: Set apapacho_jobs.outbox_webhook_url/, 'outbox', 'run');
    apply($node, 'apapacho_jobs.outbox_webhook_url' => 'http://127.0.0.1:1/');
    my $failed = cli($server, 'outbox', 'run');
    is("$failed->{code} $failed->{out}", "0 [Job:Outbox] Procesados: 0, Fallidos: 2\n", 'deliveries that fail');
    like($failed->{err}, qr/^apapacho-jobs: warning: .*\b$ids[0]\b.*connect/m, 'are told');
};

subtest 'payout: preview, eligibility, reconcile' => sub {
    my $preview = cli_json($server, 'payout', 'preview');
    my %reason = map { $_->{creatorId} => $_->{reason} // 'paid' } @{$preview};

    is_deeply(\%reason, { carla => 'HOLD', diego => 'HOLD', elena => 'BELOW_MINIMUM', hugo => 'paid' }, 'preview');
    is_deeply([map { $_->{amount} } grep { $_->{creatorId} eq 'hugo' } @{$preview}], [108000], 'an amount is a number');
    like(cli_ok($server, 'payout', 'preview'), qr/^creator id +payable +reason .*\n(?:.*\n)*elena +no +BELOW_MINIMUM +3 +13473 /, 'for people');
    is_deeply(cli_json($server, 'payout', 'eligibility', 'elena'), JSON::PP::decode_json($node->ask(q{SELECT apapacho_payout_eligibility('elena')})),
        'eligibility is the server\'s');
    like(cli_ok($server, 'payout', 'eligibility', 'elena'), qr/^reason code +BELOW_MINIMUM$/m, 'for people');
    cli_fails($server, 1, qr/error: /, 'payout', 'eligibility', 'nobody');
    cli_fails($server, 2, qr/payout eligibility needs an argument: <creator>/, 'payout', 'eligibility');

    # The events of the four payouts have been cleaned up above.
    my @tomorrow = ('--since', $node->ask(q{SELECT now() + interval '1 day'}));
    my $found = cli($server, 'payout', 'reconcile');
    is("$found->{code} $found->{err}", '1 ', 'differences: exit status 1');
    like($found->{out}, qr/^kind +creator id +payout id +transaction id +detail\n(?:EVENT_CALCULATED +\w+ +\S+ +- +0 events PayoutCalculated\n){4}\z/, 'for people');
    my @differences = @{ JSON::PP::decode_json(cli($server, 'payout', 'reconcile', '--json')->{out}) };
    is_deeply([sort map { "$_->{kind} $_->{creatorId}" } @differences], [map { "EVENT_CALCULATED $_" } qw(ana bruno carla gabriela)], 'as JSON');
    is(cli_ok($server, 'payout', 'reconcile', @tomorrow), "No differences.\n", 'events of later payouts only: nothing differs');
    is_deeply(cli_json($server, 'payout', 'reconcile', @tomorrow), [], 'as JSON');
    cli_fails($server, 1, qr/error: invalid input syntax for type timestamp with time zone: "noon-ish"/, 'payout', 'reconcile', '--since', 'noon-ish');
};

subtest 'the extension in a schema of its own, a search_path with traps' => sub {
    $node->safe_psql('postgres', 'CREATE DATABASE other');
    $node->ask(q{CREATE SCHEMA "Extra Ñ"; CREATE EXTENSION apapacho_jobs SCHEMA "Extra Ñ";
        CREATE SCHEMA trap;
        CREATE FUNCTION trap.apapacho_outbox_stats() RETURNS jsonb LANGUAGE sql AS $$ SELECT '{"total": 666}'::jsonb $$;
        }, database => 'other');
    $node->load_tables('fixture', 'other');
    $node->ask('ALTER DATABASE other SET search_path = trap, public', database => 'other');
    is(cli_json($server, 'outbox', 'stats', '-d', 'other')->{total}, 0, 'the extension\'s function is the one that is called');
    $node->ask(q{ALTER EXTENSION apapacho_jobs DROP FUNCTION "Extra Ñ".apapacho_outbox_retry_failed(); DROP FUNCTION "Extra Ñ".apapacho_outbox_retry_failed()}, database => 'other');
    cli_fails($server, 1, qr/error: function Extra Ñ.apapacho_outbox_retry_failed\(\) does not exist\n.*hint: The extension in this database is older than this program/,
        'outbox', 'retry-failed', '-d', 'other');
};

$node->stop;
done_testing();
