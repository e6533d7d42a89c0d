# apapacho-jobs serve: /metrics. The numbers are the tables'; the format is what Prometheus reads (promtool check metrics, where there is
# one); labels stay few; what a role may not see is missing and named; the dashboard and the alerts use nothing that is not there.
use strict;
use warnings;

use lib 'test/tap/lib';
use Apapacho;
use IPC::Run ();
use Outbox;
use PostgreSQL::Test::Utils qw(slurp_file);
use Serve;
use Test::More;

my $port_file = PostgreSQL::Test::Utils::tempdir_short() . '/port';
my $receiver = Apapacho->start_receiver('--quiet', '--answer', '503*2,200', '--port-file', $port_file);
my $node = Apapacho->create('main', start => 0, settings => {
    'apapacho_jobs.outbox_publisher_type' => 'webhook', 'apapacho_jobs.outbox_wake_on_commit' => 'off', 'apapacho_jobs.outbox_retry_schedule' => '1d',
    'apapacho_jobs.payout_cron' => '0 2 1 1 0' });
start_with_receiver($node, $port_file);
$node->safe_psql('postgres', slurp_file('test/demo/seed.sql'));
my $serve = start_serve({ node => $node });

# A history with a bit of everything: two deliveries fail, then the rest goes out.
$node->ask(q{SELECT apapacho_outbox_set_endpoint('other', 'http://127.0.0.1:1/', event_types => '{Nothing}'); SELECT apapacho_outbox_pause('other')});
emit($node, map { "Order/$_/OrderPaid" } 1 .. 2);
process($node);
emit($node, map { "Order/$_/OrderPaid" } 3 .. 9);
process($node);
$node->run_job('payout');
$node->ask(q{SELECT apapacho_payout_mark_failed(id, 'closed') FROM "Payout" WHERE "creatorId" = 'bruno'; UPDATE "Payout" SET "nextRetryAt" = now() - interval '1 hour' WHERE status = 'PENDING';
    SELECT apapacho_payout_mark_sent(id, 'transfer') FROM "Payout" WHERE "creatorId" = 'ana'});
$node->ask(q{SELECT apapacho_schedule_job(E'quo"te\\\\ back', '0 5 1 1 *', 'SELECT 1/0')});
$node->error_of(q{SELECT apapacho_run_job(E'quo"te\\\\ back')});

my $answer = curl($serve, 'GET /metrics', key => undef);
my $metrics = samples($serve);
my $prefix = 'apapacho_jobs_';

# Samples of a metric by one label's value; those that have another label besides.
sub by_label {
    my ($name, $label, $with) = @_;
    return { map { /^\Q$prefix$name\E\{(?:.*,)?\Q$label\E="((?:[^"\\]|\\.)*)"/ ? ($1 => $metrics->{$_}) : () } grep { !defined $with || index($_, $with) > 0 } keys %{$metrics} };
}

# Rows "key|value" of a query.
sub rows {
    my ($sql) = @_;
    return { map { split(/\|/, $_, 2) } split(/\n/, $node->ask($sql)) };
}

subtest 'the numbers are the tables\'' => sub {
    is($metrics->{"${prefix}up"}, 1, 'up');
    is_deeply([grep { !$metrics->{$_} } grep { /collector_success/ } keys %{$metrics}], [], 'every collector');
    is_deeply(by_label('payouts', 'status'), rows(q{SELECT s, count(p.id) FROM unnest(enum_range(NULL::"PayoutStatus")) AS s LEFT JOIN "Payout" AS p ON p.status = s GROUP BY s}),
        'payouts by status') or diag(explain(by_label('payouts', 'status')));
    is($metrics->{"${prefix}payout_retries_due"}, 1, 'a retry that is due');
    is($metrics->{"${prefix}outbox_$_->[0]_events"}, $node->ask(qq{SELECT count(*) FROM "OutboxEvent" WHERE "publishedAt" IS NULL AND $_->[1]}), $_->[0])
        for ['pending', '"retryCount" < 10'], ['retrying', '"retryCount" BETWEEN 1 AND 9'], ['failed', '"retryCount" >= 10'];
    cmp_ok($metrics->{"${prefix}outbox_pending_events"}, '>', 0, 'some');
    my $age = $node->ask(q{SELECT extract(epoch FROM (now() AT TIME ZONE 'UTC') - min("createdAt")) FROM "OutboxEvent" WHERE "publishedAt" IS NULL});
    ok($metrics->{"${prefix}outbox_oldest_pending_age_seconds"} > 0 && $metrics->{"${prefix}outbox_oldest_pending_age_seconds"} <= $age, 'the oldest one\'s age');
    my $outcomes = by_label('outbox_attempts_total', 'outcome', 'endpoint="default"');
    is_deeply($outcomes, rows(q{SELECT outcome, attempts FROM apapacho_jobs.outbox_outcomes('default')}), 'attempts by outcome');
    is("$outcomes->{http_status} $outcomes->{delivered}", '2 7', 'two have failed');
    is_deeply(by_label('history_runs', 'job')->{'quo\\"te\\\\ back'}, $node->ask(q{SELECT count(*) FROM apapacho_jobs.run WHERE job LIKE 'quo%'}), 'a name that needs escapes');
    my @history = map { "$prefix" . qq(history_runs{job="outbox",status="$_"}) } qw(succeeded);
    is($metrics->{$history[0]}, $node->ask(q{SELECT count(*) FROM apapacho_jobs.run WHERE job = 'outbox' AND status = 'succeeded'}), 'runs of a job');
    is($metrics->{"$prefix" . 'job_last_run_status{job="payout",status="succeeded"}'}, 1, 'its last status');
    is($metrics->{"$prefix" . 'job_last_run_status{job="quo\\"te\\\\ back",status="failed"}'}, 1, 'of one that failed');
    is(by_label('job_last_success_timestamp_seconds', 'job')->{payout}, $node->ask(q{SELECT extract(epoch FROM max(finished_at)) FROM apapacho_jobs.run WHERE job = 'payout'}), 'when');
    is(by_label('job_last_run_duration_seconds', 'job')->{payout}, $node->ask(q{SELECT extract(epoch FROM finished_at - started_at) FROM apapacho_jobs.run WHERE job = 'payout'}), 'how long');
    is_deeply(by_label('job_next_run_timestamp_seconds', 'job'), rows(q{SELECT name, extract(epoch FROM next_run) FROM apapacho_job_status() WHERE next_run IS NOT NULL AND name NOT LIKE 'quo%'
        UNION ALL SELECT E'quo\\\\"te\\\\\\\\ back', extract(epoch FROM next_run) FROM apapacho_job_status() WHERE name LIKE 'quo%'}), 'the next times');
    is_deeply(by_label('processes', 'kind'), { launcher => 1, scheduler => 1, worker => 0, publisher => 0 }, 'processes') or diag(explain(by_label('processes', 'kind')));
    is_deeply(by_label('outbox_endpoint_up', 'endpoint'), { default => 1, other => 0 }, 'endpoints');
    is(by_label('outbox_endpoint_paused', 'endpoint')->{other}, 1, 'one that is paused');
    is_deeply([grep { $_ != 0 } values %{ by_label('outbox_attempts_total', 'outcome', 'endpoint="other"') }], [], 'and has sent nothing');
    is($metrics->{"${prefix}enabled"}, 1, 'enabled');
};

subtest 'the histogram' => sub {
    my $buckets = by_label('outbox_delivery_duration_seconds_bucket', 'le', 'endpoint="default"');
    my @bounds = sort { $a <=> $b } grep { $_ ne '+Inf' } keys %{$buckets};
    my %in = %{ rows(q{SELECT coalesce((up_to_ms / 1000)::text, '+Inf'), attempts FROM apapacho_jobs.outbox_latency('default')}) };
    my $sum = 0;

    for my $bound (@bounds, '+Inf') {
        $sum += $in{$bound};
        is($buckets->{$bound}, $sum, "up to $bound s");
    }
    is($sum, 9, 'nine attempts');
    is($metrics->{"${prefix}outbox_delivery_duration_seconds_count{endpoint=\"default\"}"}, 9, 'their number');
    my $mean = $node->ask('SELECT mean_ms FROM apapacho_jobs.outbox_counters(\'default\')');
    cmp_ok(abs($metrics->{"${prefix}outbox_delivery_duration_seconds_sum{endpoint=\"default\"}"} - 9 * $mean / 1000), '<', 1e-6, 'their time');
};

subtest 'the format' => sub {
    my (%type, %help, $family);

    like($answer->{headers}, qr{^Content-Type: text/plain; version=0\.0\.4; charset=utf-8\r}m, 'type');
    for my $line (split(/\n/, $answer->{body})) {
        if ($line =~ /^# HELP (\w+) \S/) { ok(!$help{$1}++, "$1 comes once"); $family = $1; }
        elsif ($line =~ /^# TYPE (\w+) (gauge|counter|histogram)$/) { is($1, $family, 'its type'); $type{$1} = $2; }
        elsif ($line !~ /^\Q$family\E(?:_bucket|_sum|_count)?(?:\{\w+="(?:[^"\\\n]|\\["\\n])*"(?:,\w+="(?:[^"\\\n]|\\["\\n])*")*\})? [-+.\deE]+$/) { fail("a sample of $family: $line"); }
    }
    is_deeply([grep { ($type{$_} eq 'counter') != /_total$/ } keys %type], [], 'counters end in _total, and nothing else');
    my %seen;
    is_deeply([grep { $seen{ s/ \S+$//r }++ } grep { !/^#/ } split(/\n/, $answer->{body})], [], 'no sample comes twice');
    SKIP: {
        skip 'promtool (Debian: prometheus) is not there', 3 unless grep { -x "$_/promtool" } split(/:/, $ENV{PATH});
        my $run = sub { my ($input, @command) = @_; my $output = ''; IPC::Run::run(\@command, '<', \$input, '>', \$output, '2>&1'); return ($? >> 8) . $output; };
        is($run->($answer->{body}, 'promtool', 'check', 'metrics'), '0', 'promtool check metrics');
        like($run->('', 'promtool', 'check', 'rules', 'contrib/monitoring/apapacho_jobs.rules.yml'), qr/^0.*SUCCESS: \d+ rules found/s, 'promtool check rules');
        like($run->('', 'promtool', 'test', 'rules', 'test/monitoring/alerts_test.yml'), qr/^0.*SUCCESS/s, 'promtool test rules');
    }

    # What the dashboard and the alerts ask for, and the documentation names.
    my %there = map { $_ => 1 } map { $type{$_} eq 'histogram' ? ("${_}_bucket", "${_}_sum", "${_}_count") : $_ } keys %type;
    for my $file ('grafana_dashboard.json', 'apapacho_jobs.rules.yml') {
        my $text = slurp_file("contrib/monitoring/$file");
        my @used = $text =~ /\b(apapacho_jobs_\w+)(?=[^\w.])/g;
        cmp_ok(scalar(@used), '>', 10, "$file uses metrics");
        is_deeply([grep { !$there{$_} } @used], [], "$file: all of them are there");
    }
    ok(eval { JSON::PP::decode_json(slurp_file('contrib/monitoring/grafana_dashboard.json')) }, 'the dashboard is JSON');
    my $documentation = slurp_file('contrib/monitoring/README.md');
    is_deeply([grep { my $name = s/^apapacho_jobs_//r; $documentation !~ /`\Q$name\E`/ && $documentation !~ /`\.\.\.\Q@{[$name =~ s,^job_last_run,,r]}\E`/ } keys %type], [],
        'every metric is documented');
};

subtest 'labels stay few' => sub {
    $node->ask(q{SELECT apapacho_schedule_job('job ' || n, '0 5 1 1 *', 'SELECT 1') FROM generate_series(1, 300) AS n});
    is(scalar(grep { /^apapacho_jobs_job_scheduled\{/ } keys %{ samples($serve) }), 200, 'of 305 jobs');
    curl($serve, "GET /nothing/$_") for 1 .. 3;
    curl($serve, "POST /api/admin/jobs/run/nothing$_") for 1 .. 3;
    my %requests = map { /^apapacho_jobs_serve_requests_total\{(.*)\}/ ? ($1 => 1) : () } keys %{ samples($serve) };
    is_deeply([sort keys %requests], ['route="/api/admin/jobs/run/:jobName",code="404"', 'route="/metrics",code="200"', 'route="other",code="404"'],
        'requests by route, not by path') or diag(explain(\%requests));
};

subtest 'roles' => sub {
    $node->ask('CREATE ROLE metrics LOGIN IN ROLE pg_monitor');
    my $monitor = start_serve({ node => $node, role => 'metrics' });
    my $failed = sub { join(' ', sort map { /collector="(\w+)"/ } grep { /collector_success/ && !$_[0]{$_} } keys %{ $_[0] }) };
    my $seen = samples($monitor);
    is($failed->($seen), 'payouts retries', 'pg_monitor sees all but the payouts');
    is_deeply([grep { /_payouts\{/ } keys %{$seen}], [], 'which are missing');
    is($seen->{"${prefix}outbox_pending_events"}, $metrics->{"${prefix}outbox_pending_events"}, 'the others are there');
    $node->ask('GRANT SELECT ON "Payout" TO metrics');
    is($failed->(samples($monitor)), '', 'with what the documentation says');
    stop_serve($monitor);

    # What is hidden without an error would be zeros, and an alert.
    $node->ask('CREATE ROLE bare LOGIN; GRANT EXECUTE ON FUNCTION apapacho_job_status TO bare');
    my $bare = start_serve({ node => $node, role => 'bare' });
    $seen = samples($bare);
    is($failed->($seen), 'deliveries endpoints history latency outbox payouts processes retries', 'a role that may see the jobs alone');
    is_deeply([grep { /^apapacho_jobs_(?:processes|history_runs)/ } keys %{$seen}], [], 'no wrong numbers');
    is($seen->{"${prefix}job_scheduled{job=\"payout\"}"}, 1, 'and these');
    stop_serve($bare);
    $node->ask('DROP TABLE "LedgerEntry", "PayoutItem", "Payout" CASCADE');
    is($failed->(samples($serve)), '', 'a backend without payouts is none that fails');
};

stop_serve($serve);
$node->stop;
done_testing();
