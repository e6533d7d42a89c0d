# 003_settings.pl: the seed's environment variables as defaults, postgresql.conf over them, reloads, and what must never be shown.
use strict;
use warnings;

use Apapacho;
use PostgreSQL::Test::Utils;
use Test::More;

my @crons = map { "apapacho_jobs.${_}_cron" } qw(outbox payout cleanup retry);
my %no_crons = map { $_ => undef } @crons;

# The values of the seed's .env as some container runtimes pass them on: everything behind the equals sign.
my %seed_environment = (
    ENABLE_JOBS => 'true',
    OUTBOX_CRON => '"* * * * *"         # Cada minuto',
    PAYOUT_CRON => '"0 2 * * 0"         # Domingos 2am',
    CLEANUP_CRON => '"0 3 * * *"        # Diario 3am',
    RETRY_CRON => '"0 * * * *"          # Cada hora',
    OUTBOX_PUBLISHER_TYPE => q{console   # 'console' | 'webhook'},
    OUTBOX_WEBHOOK_URL => '             # URL si type=webhook',
    OUTBOX_WEBHOOK_SECRET => '          # Secret para firmar eventos');

my $node = Apapacho->create('main', start => 0, environment => \%seed_environment,
    settings => { %no_crons, log_statement => 'none' });

sub show {
    my ($name, %options) = @_;
    return $node->ask("SHOW apapacho_jobs.$name", %options);
}

# The jobs' schedules as they are in force.
sub crons { return $node->ask(q{SELECT string_agg(name || ': ' || cron, ', ') FROM apapacho_job_status()}); }

sub wait_for_cron {
    my ($job, $cron) = @_;
    $node->wait_for("SELECT cron = '$cron' FROM apapacho_job_status() WHERE name = '$job'", "job $job is scheduled $cron");
    return;
}

subtest q{the seed's environment block as it stands} => sub {
    $node->start;
    $node->install;
    $node->wait_for_scheduler;
    is(show('enabled'), 'on', 'enabled');
    is(crons(), 'outbox: * * * * *, payout: 0 2 * * 0, cleanup: 0 3 * * *, retry: 0 * * * *', 'the schedules');
    is(show('outbox_publisher_type'), 'console', 'publisher');
    is(show('outbox_webhook_url'), '', 'no URL');
    is(show('outbox_webhook_secret'), '', 'no secret');
    is(show('outbox_batch_size') > 0 && show('outbox_max_retries'), '10', 'numbers');
    $node->stop;
};

subtest 'other values of the environment' => sub {
    $node->{apapacho_environment} = {
        ENABLE_JOBS => q{'false'},
        OUTBOX_CRON => '*/5 * * * *',
        PAYOUT_CRON => q{'0 9 * * 1-5' # Lunes a viernes},
        CLEANUP_CRON => '',
        RETRY_CRON => '@hourly # cada hora',
        OUTBOX_PUBLISHER_TYPE => 'Webhook',
        OUTBOX_WEBHOOK_URL => '"https://example.com/hooks?a=b#c"  # mine',
        OUTBOX_WEBHOOK_SECRET => 'tu_secret',
        OUTBOX_BATCH_SIZE => '25',
        OUTBOX_MAX_RETRIES => '"7"  # siete' };
    $node->start;
    is(show('enabled'), 'off', 'enabled');
    is_deeply([$node->pids('scheduler')], [], 'nothing is scheduled');
    is(crons(), 'outbox: */5 * * * *, payout: 0 9 * * 1-5, cleanup: , retry: @hourly', 'the schedules');
    is(show('outbox_publisher_type'), 'webhook', 'publisher');
    is(show('outbox_webhook_url'), 'https://example.com/hooks?a=b#c', 'URL');
    is(show('outbox_webhook_secret'), '********', 'a secret, not shown');
    is(show('outbox_batch_size') . ' ' . show('outbox_max_retries'), '25 7', 'numbers');
};

subtest 'postgresql.conf and ALTER SYSTEM outweigh the environment, without a restart' => sub {
    $node->reconfigure('apapacho_jobs.enabled' => 'on', 'apapacho_jobs.outbox_cron' => '*/2 * * * *');
    $node->wait_for_scheduler;
    wait_for_cron('outbox', '*/2 * * * *');
    $node->ask(q{ALTER SYSTEM SET apapacho_jobs.outbox_cron = '*/3 * * * *'});
    $node->reload;
    wait_for_cron('outbox', '*/3 * * * *');
    $node->ask('ALTER SYSTEM RESET apapacho_jobs.outbox_cron');
    $node->reload;
    wait_for_cron('outbox', '*/2 * * * *');
    $node->stop;
};

subtest 'a bad value in the environment keeps the server from starting, and says which' => sub {
    my $secret = 'whsec_not*base64*at*all';
    my $url = 'ftp://user:hunter2@example.com/';
    my @bad = (
        [OUTBOX_CRON => '"* * * *"', qr/OUTBOX_CRON holds an invalid cron expression: "\* \* \* \*"/],
        [RETRY_CRON => '61 * * * *', qr/RETRY_CRON .*\n.*DETAIL:  At position 1: minute field: value 61 is out of range 0-59/],
        [ENABLE_JOBS => 'maybe', qr/ENABLE_JOBS has the value "maybe", which is not a boolean/],
        [OUTBOX_BATCH_SIZE => '0', qr/OUTBOX_BATCH_SIZE has the value "0", which is not a whole number from 1 to 10000/],
        [OUTBOX_MAX_RETRIES => 'ten', qr/OUTBOX_MAX_RETRIES has the value "ten"/],
        [OUTBOX_PUBLISHER_TYPE => 'kafka', qr/OUTBOX_PUBLISHER_TYPE has the value "kafka".*\n.*HINT:  The types are console and webhook/],
        [OUTBOX_WEBHOOK_URL => $url, qr/OUTBOX_WEBHOOK_URL is not a usable URL/],
        [OUTBOX_WEBHOOK_SECRET => $secret, qr/OUTBOX_WEBHOOK_SECRET is not a usable secret/]);

    for my $case (@bad) {
        my ($name, $value, $expected) = @$case;
        my $position = $node->log_position;
        $node->{apapacho_environment} = { $name => $value };
        ok(!$node->start(fail_ok => 1), "$name: the server does not start");
        my $log = $node->log_since($position);
        like($log, qr/FATAL:  environment variable $expected/, "$name: named");
        unlike($log, qr/hunter2|example\.com|not\*base64/, "$name: no secret and no URL");
    }
};

subtest 'empty variables are as good as none' => sub {
    $node->{apapacho_environment} = { map { $_ => '' } qw(ENABLE_JOBS OUTBOX_PUBLISHER_TYPE OUTBOX_WEBHOOK_URL
        OUTBOX_WEBHOOK_SECRET OUTBOX_BATCH_SIZE OUTBOX_MAX_RETRIES) };
    $node->start;
    $node->wait_for_scheduler;
    is(show('enabled') . ' ' . show('outbox_publisher_type') . ' ' . show('outbox_max_retries'), 'on console 10', 'defaults');
};

subtest 'a bad cron expression in a reload is refused, the old schedule stays' => sub {
    my $before = crons();
    my $position = $node->log_position;

    $node->reconfigure('apapacho_jobs.payout_cron' => '0 25 * * 0', 'apapacho_jobs.retry_cron' => '*/10 * * * *');
    wait_for_cron('retry', '*/10 * * * *');
    my $log = $node->log_since($position);
    like($log, qr/invalid value for parameter "apapacho_jobs.payout_cron": "0 25 \* \* 0"/, 'the log says which');
    like($log, qr/DETAIL:  At position 3: hour field: value 25 is out of range 0-23\./, 'field and position');
    is(crons(), $before =~ s/retry: .*/retry: *\/10 * * * */r, 'only the good one is in force');
    is($node->ask(q{SELECT running AND next_run > now() FROM apapacho_job_status() WHERE name = 'payout'}), 't',
        'the old schedule goes on');

    like($node->error_of(q{ALTER SYSTEM SET apapacho_jobs.payout_cron = '0 0 2 * * 0 *'}),
        qr/ERROR:  22023: invalid value for parameter "apapacho_jobs.payout_cron".*\nDETAIL:  At position 13:/,
        'ALTER SYSTEM refuses it beforehand');
    $node->reconfigure('apapacho_jobs.payout_cron' => '0 2 * * 0');
};

subtest 'an empty cron expression disables that one job' => sub {
    $node->reconfigure('apapacho_jobs.cleanup_cron' => '');
    $node->wait_for(q{SELECT string_agg(name, ',') FILTER (WHERE NOT running) = 'cleanup'
        AND bool_and(running = (next_run IS NOT NULL)) FROM apapacho_job_status()}, 'cleanup is not scheduled, the others are');
    $node->reconfigure('apapacho_jobs.cleanup_cron' => '0 3 * * *');
    $node->wait_for(q{SELECT running AND next_run IS NOT NULL FROM apapacho_job_status() WHERE name = 'cleanup'}, 'it is again');
};

subtest 'the time zone moves the next run' => sub {
    my $local = q{SELECT to_char(next_run AT TIME ZONE '%s', 'Dy HH24:MI') = 'Sun 02:00' FROM apapacho_job_status()
        WHERE name = 'payout'};

    $node->wait_for(sprintf($local, 'UTC'), q{the server's TimeZone by default});
    $node->reconfigure('apapacho_jobs.timezone' => 'Pacific/Auckland');
    $node->wait_for(sprintf($local, 'Pacific/Auckland'), 'apapacho_jobs.timezone');
    $node->reconfigure('apapacho_jobs.timezone' => '', timezone => 'America/Santiago');
    $node->wait_for(sprintf($local, 'America/Santiago'), 'TimeZone changed');
    my $position = $node->log_position;
    $node->reconfigure('apapacho_jobs.timezone' => 'Mars/Olympus');
    $node->wait_for_log(qr/invalid value for parameter "apapacho_jobs.timezone": "Mars\/Olympus"/, $position);
    $node->reconfigure('apapacho_jobs.timezone' => '', timezone => 'UTC');
    $node->wait_for(sprintf($local, 'UTC'), 'and back');
};

subtest 'a database can have settings of its own' => sub {
    $node->create_database('second');
    $node->ask(q{ALTER DATABASE second SET apapacho_jobs.outbox_cron = '*/9 * * * *'});
    $node->ask(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE backend_type = 'apapacho_jobs scheduler' AND datname = 'second'});
    $node->wait_for(q{SELECT cron = '*/9 * * * *' FROM apapacho_job_status() WHERE name = 'outbox' AND running}, 'it is in force',
        'second');
    isnt($node->ask(q{SELECT cron FROM apapacho_job_status() WHERE name = 'outbox'}), '*/9 * * * *', 'there only');
};

subtest 'the secret is never shown' => sub {
    my ($first, $second, $bad) = ('firstTopSecret', 'whsec_c2Vjb25kVG9wU2VjcmV0', 'whsec_third*TopSecret');
    my $position = $node->log_position;
    my $name = 'apapacho_jobs.outbox_webhook_secret';

    $node->ask('CREATE ROLE reader LOGIN IN ROLE pg_read_all_settings');
    $node->ask('CREATE ROLE nobody LOGIN');
    $node->reconfigure($name => $first);
    $node->wait_for("SELECT current_setting('$name') = '********'", 'SHOW tells that there is one');
    for my $statement ("SHOW $name", "SELECT current_setting('$name')") {
        like($node->error_of($statement, role => 'nobody'), qr/ERROR:  42501: (must be superuser|permission denied)/,
            "refused to an ordinary role: $statement");
        is($node->ask($statement, role => 'reader'), '********', "masked for a reader of all settings: $statement");
    }
    is($node->ask("SELECT count(*) FROM pg_settings WHERE name = '$name' AND (setting <> '' AND setting <> '********'
            OR reset_val <> '' OR boot_val <> '')"), '0', 'not in pg_settings');
    unlike($node->ask('SHOW ALL'), qr/TopSecret/, 'not in SHOW ALL');

    $node->reconfigure($name => $second);
    $node->reconfigure($name => $bad, 'apapacho_jobs.outbox_cron' => '*/4 * * * *');
    wait_for_cron('outbox', '*/4 * * * *');
    my $log = $node->log_since($position);
    like($log, qr/invalid value for parameter "$name"/, 'a malformed one is refused');
    unlike($log, qr/\Q$_\E/, 'not in the log') for ($first, $second, $bad);
    is($node->ask("SHOW $name"), '********', 'the one before stays');

    my $error = $node->error_of("ALTER SYSTEM SET $name = '$bad'");
    like($error, qr/ERROR:  22023: invalid value for parameter "$name"/, 'ALTER SYSTEM refuses it');
    unlike($error, qr/third/, 'without repeating it');
    like($node->error_of("SET $name = 'x'"), qr/ERROR:  55P02:/, 'not to be SET in a session');
    like($node->error_of("ALTER DATABASE postgres SET $name = 'x'"), qr/ERROR:  55P02:/,
        'nor stored where everybody can read it');
    $node->ask("ALTER SYSTEM SET $name = 'tu_secret'");
    $node->reload;
    $node->ask("ALTER SYSTEM RESET $name");
    $node->reconfigure($name => '', 'apapacho_jobs.outbox_cron' => '');
    $node->wait_for("SELECT current_setting('$name') = ''", 'it can be taken away');
};

subtest 'the secret in a file' => sub {
    my $file = $node->basedir . '/secret';
    my $name = 'apapacho_jobs.outbox_webhook_secret_file';
    my $position = $node->log_position;
    my @bad = (['whsec_file*TopSecret', qr/ERROR: .*secret/i], ['', qr/ERROR:  F0000: .*secret" is empty or not text/],
        ['x' x 5000, qr/ERROR:  F0000: .*secret" has more than 4096 bytes/]);

    $node->load_tables('fixture');
    $node->ask(q{INSERT INTO "OutboxEvent" (id, "aggregateType", "aggregateId", "eventType", payload)
        VALUES ('e1', 'Payout', 'p1', 'PayoutSent', '{}')});
    $node->reconfigure('apapacho_jobs.outbox_publisher_type' => 'webhook', $name => $file,
        'apapacho_jobs.outbox_webhook_url' => 'http://127.0.0.1:1/');
    $node->wait_for("SELECT current_setting('$name') = '$file' AND current_setting('apapacho_jobs.outbox_webhook_url') <> ''",
        'the settings are in force');
    like($node->error_of(q{SELECT apapacho_run_job('outbox')}), qr/ERROR:  58P01: could not open .*\Q$file\E".*\nHINT:  Check $name/,
        'a file that is missing is named');
    for my $case (@bad) {
        my ($contents, $expected) = @$case;
        open(my $out, '>', $file) or die "$file: $!";
        print $out $contents;
        close($out);
        my $error = $node->error_of(q{SELECT apapacho_run_job('outbox')});
        like($error, $expected, 'a bad one is an error');
        unlike($error, qr/TopSecret|xxxx/, 'that does not tell what is in it');
    }
    open(my $out, '>', $file) or die "$file: $!";
    print $out "fileTopSecret\n";
    close($out);
    is($node->run_job('outbox')->{failed}, 1, 'with a good one the event is sent, in vain');
    unlike($node->log_since($position), qr/TopSecret/, 'the log shows nothing of it');
    is($node->ask(q{SELECT count(*) FROM apapacho_jobs.run AS r WHERE r::text LIKE '%TopSecret%'}), '0', 'nor does the history');
    like($node->error_of("SHOW $name", role => 'nobody'), qr/ERROR:  42501/, 'nor can an ordinary role see where it is');
    $node->reconfigure('apapacho_jobs.outbox_publisher_type' => 'console', $name => '', 'apapacho_jobs.outbox_webhook_url' => '');
    $node->wait_for("SELECT current_setting('$name') = ''", 'it can be taken away');
};

subtest 'a URL may hold credentials: it is not shown to ordinary roles, and not repeated' => sub {
    my $name = 'apapacho_jobs.outbox_webhook_url';
    my $position = $node->log_position;

    $node->reconfigure($name => 'gopher://user:hunter2@example.com/', 'apapacho_jobs.outbox_cron' => '*/6 * * * *');
    wait_for_cron('outbox', '*/6 * * * *');
    my $log = $node->log_since($position);
    like($log, qr/invalid value for parameter "$name"/, 'a bad one is refused');
    unlike($log, qr/hunter2/, 'without repeating it');
    $node->reconfigure($name => 'https://user:hunter2@example.com/', 'apapacho_jobs.outbox_cron' => '');
    $node->wait_for("SELECT current_setting('$name') LIKE '%hunter2%'", 'a good one is in force');
    unlike($node->log_since($position), qr/hunter2/, 'the log does not show it either');
    like($node->error_of("SHOW $name", role => 'nobody'), qr/ERROR:  42501/, 'nor can an ordinary role see it');
};

$node->stop;
done_testing();
