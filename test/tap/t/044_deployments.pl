# The deployments of README.md, by its own commands: schedules in the server; enabled = off and a crontab, whose lines are run as cron
# runs them, by a role that may do nothing else; an outside scheduler that calls again and again, from several places at once.
use strict;
use warnings;

use lib 'test/tap/lib';
use Apapacho;
use Cli;
use Outbox;
use PostgreSQL::Test::Utils qw(slurp_file);
use Test::More;

my $node = Apapacho->create('main', tables => 'own', settings => { 'apapacho_jobs.outbox_cron' => '* * * * *' });
my ($section) = slurp_file('README.md') =~ /^## Deployments\n(.*?)^## /ms;
my ($role) = $section =~ /```sql\n(.*?)```/s;
my ($crontab) = $section =~ /```\n(# crontab -e\n.*?)```/s;
my %line = map { /^(\S+(?: \S+){4}) (apapacho-jobs .* (\S+))$/ ? ($3 => { schedule => $1, command => $2 }) : () } split(/\n/, $crontab);
my $url = 'postgresql://jobs:s3cret@localhost:' . $node->port . '/postgres?host=' . $node->host;
my $home = PostgreSQL::Test::Utils::tempdir();
my ($directory) = grep { -x "$_/apapacho-jobs" } split(/:/, $ENV{PATH});

# A line of the crontab, as cron runs it: by sh, with hardly any environment, no locale, no terminal.
sub start_by_cron {
    my ($name) = @_;
    return start_cli({ program => ['env', '-i', "HOME=$home", 'SHELL=/bin/sh', "PATH=$directory:/usr/bin:/bin", "DATABASE_URL=$url", '/bin/sh', '-c'] },
        $line{$name}{command});
}

sub by_cron {
    my ($name) = @_;
    my $result = start_by_cron($name)->finish;
    return "$result->{code} $result->{out}$result->{err}";
}

$node->safe_psql('postgres', slurp_file('test/demo/seed.sql'));
$node->ask('DROP TRIGGER require_verified_account ON "Payout"');

subtest '1: all in the server' => sub {
    $node->wait_for_scheduler;
    my ($id) = emit($node, 'Order/1/OrderPaid');

    $node->wait_for(qq{SELECT "publishedAt" IS NOT NULL FROM "OutboxEvent" WHERE id = '$id'}, 'an event goes out by itself');
    $node->reconfigure('apapacho_jobs.payout_cron' => '1 seconds');
    $node->wait_for_run(q{job = 'payout' AND trigger = 'schedule' AND status = 'succeeded'});
    is($node->ask('SELECT count(*) FROM "Payout"'), '5', 'payouts are calculated by schedule');
};

subtest '2: enabled = off and a crontab' => sub {
    $node->reconfigure('apapacho_jobs.enabled' => 'off', 'apapacho_jobs.payout_cron' => '');
    $node->wait_for(q{SELECT NOT bool_or(running OR executing) FROM apapacho_job_status()}, 'nothing is scheduled any more');
    is(join('; ', map { "$_ $line{$_}{schedule}" } sort keys %line), 'cleanup 0 3 * * *; payout 0 2 * * 0; retry 0 * * * *; run * * * * *',
        'the README has the schedules of the seed');
    $node->safe_psql('postgres', $role =~ s/'\.\.\.'/'s3cret'/r);
    my $runs = $node->ask('SELECT count(*) FROM apapacho_jobs.run');
    $node->ask(q{INSERT INTO "Transaction" (id, "creatorId", "fanUserId", "productType", "grossAmount", "appliedFeeScheduleId", "appliedPlatformFeeBps",
            "platformFeeAmount", "creatorPayableAmount", "occurredAt", provider, "providerPaymentId", "providerEventId")
        SELECT 'new-' || g, 'ana', 'fan', 'TIP', 50000, (SELECT id FROM "FeeSchedule"), 1000, 5000, 45000, now() AT TIME ZONE 'UTC' - interval '9 days',
            'webpay', 'p-new-' || g, 'e-new-' || g FROM generate_series(1, 3) AS g});
    emit($node, 'Order/2/OrderPaid');
    $node->ask(q{UPDATE "OutboxEvent" SET "publishedAt" = "publishedAt" - interval '31 days' WHERE "aggregateId" = '1'});

    is(by_cron('payout'), "0 [Job:Payout] Completado - Creados: 1, Omitidos: 3, Errores: 0\n", 'payout');
    like(by_cron('run'), qr/^0 \[Job:Outbox\] Procesados: \d+, Fallidos: 0\n\z/, 'outbox');
    is($node->ask('SELECT count(*) FROM "OutboxEvent" WHERE "publishedAt" IS NULL'), '0', 'all is published');
    is(by_cron('cleanup'), "0 [Job:Cleanup] Limpiados 1 eventos\n", 'cleanup');
    is(by_cron('retry'), "0 [Job:Retry] 0 payouts pendientes de reintento\n", 'retry');
    is($node->ask('SELECT count(*) FROM apapacho_jobs.run') - $runs, 4, 'four runs, and none by itself');
    is($node->ask('SELECT string_agg(DISTINCT requested_by, \',\') FROM apapacho_jobs.run WHERE trigger = \'manual\''), 'jobs', 'by that role');
    cli_fails({ environment => { DATABASE_URL => $url } }, 1, qr/permission denied/, @{$_}) for ['payout', 'preview'], ['outbox', 'retry-failed'], ['status'];
};

subtest 'two crontabs at once: runs never overlap' => sub {
    my $lock = $node->hold('Payout');
    my $after = $node->ask('SELECT max(id) FROM apapacho_jobs.run');
    my @calls = map { start_by_cron('payout') } 1 .. 4;

    $node->wait_for_blocked_worker('payout');
    $node->wait_for(q{SELECT count(*) = 4 FROM pg_stat_activity WHERE usename = 'jobs' AND state = 'active'}, 'all have called');
    $node->let_go($lock);
    is(join('', map { my $result = $_->finish; "$result->{code} $result->{out}$result->{err}" } @calls),
        "0 [Job:Payout] Completado - Creados: 0, Omitidos: 3, Errores: 0\n" x 4, 'each is answered');
    is($node->ask(qq{SELECT count(*) FROM apapacho_jobs.run AS a JOIN apapacho_jobs.run AS b ON b.id > a.id AND b.started_at < a.finished_at
        WHERE a.id > $after AND a.job = 'payout' AND b.job = 'payout'}), '0', 'one after the other');
};

subtest '3: an outside scheduler that calls again after a failure' => sub {
    $node->ask(q{DELETE FROM "PayoutItem"; DELETE FROM "Payout"});
    $node->stop;
    my $down = start_by_cron('payout')->finish;
    is("$down->{code} $down->{out}", '3 ', 'the server is down: exit status 3');
    $node->start;
    my $answer;
    $node->wait_until(sub { ($answer = by_cron('payout')) =~ /^0/ }, 'called again until it is done');
    like($answer, qr/^0 \[Job:Payout\] Completado - Creados: 5, Omitidos: 2, Errores: 0$/, 'now');
    is(by_cron('payout'), "0 [Job:Payout] Completado - Creados: 0, Omitidos: 3, Errores: 0\n", 'once more pays nobody twice');
    my $by_function = JSON::PP::decode_json($node->ask(q{SELECT apapacho_run_job('payout')}, role => 'jobs'));
    is("$by_function->{status} $by_function->{created}", 'succeeded 0', 'nor by the function');
};

$node->stop;
done_testing();
