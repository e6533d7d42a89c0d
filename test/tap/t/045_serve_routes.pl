# apapacho-jobs serve: the seed's routes with curl: their shapes, Spanish messages, the key, parameters, errors; the OpenAPI document
# and the routes are the same; what it refuses to start with; its access log.
use strict;
use warnings;
use utf8;

use lib 'test/tap/lib';
use Apapacho;
use Cli;
use Outbox;
use PostgreSQL::Test::Utils qw(slurp_file);
use Serve;
use Test::More;

my $node = Apapacho->create('main', tables => 'own', settings => {
    'apapacho_jobs.outbox_wake_on_commit' => 'off',
    'apapacho_jobs.outbox_cron' => '* * 1 1 *', 'apapacho_jobs.payout_cron' => '0 2 1 1 0', 'apapacho_jobs.cleanup_cron' => '0 3 1 1 *' });
$node->wait_for_scheduler;
$node->safe_psql('postgres', slurp_file('test/demo/seed.sql'));
my $serve = start_serve({ node => $node }, '--access-log');

# One answer as the table of routes promises it.
sub is_answer {
    my ($answer, $status, $name) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    is($answer->{status}, $status, "$name: $status") or diag($answer->{body}, $answer->{error} // '');
    like($answer->{headers}, qr{^Content-Type: application/json; charset=utf-8\r\n.*^Cache-Control: no-store\r\n}sm, "$name: JSON, not to be kept");
    return $answer->{json};
}

sub is_error {
    my ($answer, $status, $pattern, $name) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $json = is_answer($answer, $status, $name);
    like($json->{error} // '', $pattern, "$name: says why");
    return $json;
}

subtest 'GET /api/jobs/status: the seed\'s document' => sub {
    my $answer = curl($serve, 'GET /api/jobs/status', key => undef);
    my $json = is_answer($answer, 200, 'status');

    is_deeply([@{ $json->{jobs} }[0, 1]]->[0]{$_}, { name => 'outboxPublisher', cron => '* * 1 1 *', running => JSON::PP::true }->{$_}, $_)
        for qw(name cron running);
    is_deeply([map { $_->{name} } @{ $json->{jobs} }], [qw(outboxPublisher payoutCalculation outboxCleanup payoutRetry)], 'the jobs');
    is($json->{enabled}, JSON::PP::true, 'enabled');
    is($json->{jobs}[3]{running}, JSON::PP::false, 'a job without a schedule');
    like($answer->{body}, qr/^\{"enabled" : true, "jobs" : \[\{"name" : "outboxPublisher", "cron" : "\* \* 1 1 \*", "running" : true, /,
        'keys in the seed\'s order');
};

subtest 'POST /api/admin/jobs/run/:jobName' => sub {
    my $payout = is_answer(curl($serve, 'POST /api/admin/jobs/run/payout'), 200, 'payout');
    is_deeply([@{$payout}{qw(message job status created skipped errors)}],
        ['Completado - Creados: 4, Omitidos: 2, Errores: 1', 'payout', 'succeeded', 4, 2, 1], 'the message is the seed\'s log line') or diag explain $payout;
    is($node->ask(qq{SELECT job || ' ' || status FROM apapacho_jobs.run WHERE id = $payout->{runId}}), 'payout succeeded', 'the run is in the history');
    is($node->ask('SELECT count(*) FROM "Payout"'), '4', 'the payouts are there');

    my $outbox = is_answer(curl($serve, 'POST /api/admin/jobs/run/outboxPublisher'), 200, 'outbox, by its long name');
    is_deeply([@{$outbox}{qw(message processed failed)}], ['Procesados: 5, Fallidos: 0', 5, 0], 'its figures');
    $node->ask(q{UPDATE "OutboxEvent" SET "publishedAt" = "publishedAt" - interval '31 days' WHERE "eventType" = 'PayoutCalculated'});
    is(is_answer(curl($serve, 'POST /api/admin/jobs/run/cleanup'), 200, 'cleanup')->{message}, 'Limpiados 4 eventos', 'its message');
    $node->ask(q{SELECT apapacho_payout_mark_failed(id, 'closed') FROM "Payout" WHERE "creatorId" = 'bruno'});
    $node->ask(q{UPDATE "Payout" SET "nextRetryAt" = "nextRetryAt" - interval '25 hours'});
    is(is_answer(curl($serve, 'POST /api/admin/jobs/run/retry', body => '{}'), 200, 'retry')->{message}, '1 payouts pendientes de reintento', 'its message');

    $node->ask(q{SELECT apapacho_schedule_job(E'a\u00f1o/1 %', '0 5 1 1 *', 'SELECT 1'); SELECT apapacho_schedule_job('bad', '0 5 1 1 *', 'SELECT 1/0')});
    is(is_answer(curl($serve, 'POST /api/admin/jobs/run/a%C3%B1o%2F1%20%25'), 200, 'a job of the user')->{job}, "a\x{f1}o/1 %", 'its name');
    my $failed = is_error(curl($serve, 'POST /api/admin/jobs/run/bad'), 500, qr/^El job falló$/, 'a job that fails');
    is_deeply([@{$failed}{qw(detail code)}], ['division by zero', '22012'], 'the server\'s message');
    is_error(curl($serve, 'POST /api/admin/jobs/run/payuot'), 404, qr/^Job desconocido\. Jobs disponibles: outbox, payout, cleanup, retry$/, 'unknown job');
    is_error(curl($serve, 'POST /api/admin/jobs/run/' . 'x' x 300), 404, qr/^Job desconocido/, 'a long name');
    is_error(curl($serve, 'POST /api/admin/jobs/run/'), 404, qr/^Ruta no encontrada$/, 'no job');

    my $lock = $node->hold('Payout');
    my $begun = is_answer(curl($serve, 'POST /api/admin/jobs/run/payout?wait=false'), 202, 'without waiting');
    is($begun->{message}, 'Job payout en curso', 'it has begun');
    $node->wait_for_blocked_worker('payout');
    is_answer(curl($serve, 'POST /api/admin/jobs/run/payout', body => '{"wait": false}'), 202, 'the same in the body');
    $node->let_go($lock);
    $node->wait_for_run("id = $begun->{runId} AND status = 'succeeded'");
};

subtest '/api/admin/outbox/*' => sub {
    my @ids = emit($node, map { "Order/$_/OrderPaid" } 1 .. 7);

    curl($serve, 'POST /api/admin/outbox/process');
    @ids = emit($node, map { "Order/$_/OrderPaid" } 1 .. 7);
    my $stats = is_answer(curl($serve, 'GET /api/admin/outbox/stats'), 200, 'stats');
    my $expected = JSON::PP::decode_json($node->ask('SELECT apapacho_outbox_stats()'));
    delete $_->{oldestPendingSeconds} for $stats, $expected;
    is_deeply($stats, $expected, 'stats are the server\'s');
    is($stats->{pending}, 7, 'pending');

    my $events = is_answer(curl($serve, 'GET /api/admin/outbox/events?status=pending&limit=3&offset=1'), 200, 'events')->{events};
    is_deeply([map { $_->{id} } @{$events}], [reverse @ids[3 .. 5]], 'the newest first, a page of them');
    is_deeply([sort keys %{ $events->[0] }], [sort qw(id aggregateType aggregateId eventType retryCount lastError createdAt publishedAt)], 'their members');
    is($events->[0]{createdAt}, $node->ask(qq{SELECT replace("createdAt"::text, ' ', 'T') || 'Z' FROM "OutboxEvent" WHERE id = '$ids[5]'}), 'times in UTC');
    is(scalar(@{ curl($serve, 'GET /api/admin/outbox/events')->{json}{events} }), 7, 'pending ones unless it says otherwise');

    is(is_answer(curl($serve, 'POST /api/admin/outbox/process?batchSize=3'), 200, 'process')->{message}, 'Procesados: 3, Fallidos: 0', 'three');
    is(is_answer(curl($serve, 'POST /api/admin/outbox/process', body => ' {"batchSize":2}'), 200, 'process')->{processed}, 2, 'two');
    is(is_answer(curl($serve, 'POST /api/admin/outbox/process'), 200, 'process')->{processed}, 2, 'the rest');

    $node->ask(qq{UPDATE "OutboxEvent" SET "publishedAt" = NULL, "retryCount" = 10, "lastError" = 'bad' WHERE id IN ('$ids[0]', '$ids[1]')});
    is(scalar(@{ curl($serve, 'GET /api/admin/outbox/events?status=failed')->{json}{events} }), 2, 'failed ones');
    is_deeply(is_answer(curl($serve, 'POST /api/admin/outbox/retry-failed'), 200, 'retry-failed'),
        { message => '2 eventos pendientes de nuevo', retried => 2 }, 'retry-failed');
    is($node->ask(q{SELECT apapacho_outbox_stats() ->> 'pending'}), '2', 'they are');

    $node->ask(qq{UPDATE "OutboxEvent" SET "publishedAt" = now() - interval '10 days' WHERE id IN ('$ids[3]', '$ids[4]')});
    is(is_answer(curl($serve, 'POST /api/admin/outbox/cleanup'), 200, 'cleanup')->{deleted}, 0, 'thirty days when it does not say');
    is(is_answer(curl($serve, 'POST /api/admin/outbox/cleanup', body => '{"days": 9}'), 200, 'cleanup')->{message}, 'Limpiados 2 eventos', 'nine days');
    is($node->ask(qq{SELECT count(*) FROM "OutboxEvent" WHERE id IN ('$ids[3]', '$ids[4]')}), '0', 'they are gone');
};

subtest 'bad parameters do nothing' => sub {
    my $runs = $node->ask('SELECT max(id) FROM apapacho_jobs.run');
    my @bodies = ('{"day": 1}' => qr/^Parámetro desconocido: "day"$/, '{"days": "1"}' => qr/^El parámetro "days" debe ser un número entero entre 0 y 36500$/,
        '{"days": 1.5}' => qr/debe ser/, '{"days": -1}' => qr/debe ser/, '{"days": 36501}' => qr/debe ser/, '{"days": 99999999999999999999}' => qr/debe ser/,
        '{"days": 1, "days": 2}' => qr/^El parámetro "days" está repetido$/, '{"days": 1' => qr/^El cuerpo no es JSON válido$/, '{"days": 1} x' => qr/JSON válido/,
        '[1]' => qr/^El cuerpo debe ser un objeto JSON$/, '{"days": {"a": 1}}' => qr/debe ser/, '{"days": true}' => qr/debe ser/,
        "{\"\xff\": 1}" => qr/^Parámetro desconocido: "\.\.\."$/, "{\"da\0ys\": 1}" => qr/JSON válido/, 'x' => qr/objeto JSON/);
    while (my ($body, $pattern) = splice(@bodies, 0, 2)) {
        my $bytes = request_of('POST /api/admin/outbox/cleanup', 'X-Admin-Key' => $serve->{key}, 'Content-Type' => 'application/json',
            'Content-Length' => length $body) . $body;
        is_error(answer_to($serve, $bytes), 400, $pattern, "body $body");
    }
    for my $query ('days=x', 'days=', 'days=1&days=2', 'dias=1', 'days=1;', 'days=%31%', 'days=1&x', '=', 'days=+1') {
        is_error(curl($serve, "POST /api/admin/outbox/cleanup?$query"), 400, qr/./, "query $query");
    }
    is_error(curl($serve, 'POST /api/admin/outbox/cleanup?days=1', body => '{"days": 1}'), 400, qr/repetido/, 'in both');
    is_error(curl($serve, 'GET /api/admin/outbox/events?status=new'), 400, qr/^El parámetro "status" debe ser uno de: pending published failed all$/, 'status');
    is_error(curl($serve, 'POST /api/admin/outbox/process?batchSize=0'), 400, qr/entre 1 y 2147483647/, 'batchSize');
    is_error(curl($serve, 'POST /api/admin/jobs/run/cleanup?wait=no'), 400, qr/true o false/, 'wait');
    is_error(curl($serve, 'POST /api/admin/outbox/cleanup', body => 'days=1', type => 'application/x-www-form-urlencoded'), 415, qr/application\/json/, 'a form');
    is_error(curl($serve, 'GET /api/jobs/status?x=1'), 400, qr/Parámetro desconocido: "x"/, 'where there are none');
    is_answer(curl($serve, 'POST /api/admin/outbox/cleanup', body => '{"days": null}', type => 'application/json; charset=utf-8'), 200, 'null is none');
    is($node->ask('SELECT max(id) FROM apapacho_jobs.run') - $runs, 1, 'but for the last, nothing has run');
};

subtest 'the key' => sub {
    my @wrong = map { curl($serve, 'POST /api/admin/jobs/run/payout', key => $_) } undef, 'x', $serve->{key} . 'x', substr($serve->{key}, 1), 'y' x 2000;
    my $runs = $node->ask('SELECT count(*) FROM apapacho_jobs.run');

    push @wrong, curl($serve, 'POST /api/admin/jobs/run/payout', arguments => ['-H', 'X-Admin-Key: other']);
    push @wrong, curl($serve, $_, key => undef) for 'GET /api/admin', 'GET /api/admin/nothing', 'DELETE /api/admin/outbox/stats', 'GET /api/%61dmin/outbox/stats',
        'GET /api/admin/outbox/stats?key=' . $serve->{key};
    $_->{headers} =~ s/^Date: [^\r]*\r\n//m for @wrong;
    is($_->{status} . $_->{headers} . $_->{body}, $wrong[0]{status} . $wrong[0]{headers} . $wrong[0]{body}, 'all the same answer') for @wrong;
    is_error($wrong[0], 401, qr/^No autorizado: falta la cabecera X-Admin-Key o no es válida$/, 'no key');
    like($wrong[0]{headers}, qr/^WWW-Authenticate: X-Admin-Key\r/m, 'what it wants');
    is($node->ask('SELECT count(*) FROM apapacho_jobs.run'), $runs, 'nothing has run');
    is_error(curl($serve, 'GET /api/admin/nothing'), 404, qr/Ruta no encontrada/, 'with it');
};

subtest 'methods and paths' => sub {
    for my $path ('/api/admin/jobs/run/payout', '/api/admin/outbox/stats', '/api/jobs/status', '/metrics') {
        my $post = $path =~ /run/;
        for my $method ('PUT', 'DELETE', 'PATCH', 'OPTIONS', 'TRACE', 'BREW', $post ? ('GET', 'HEAD') : 'POST') {
            my $answer = curl($serve, "$method $path");
            is($answer->{status}, 405, "$method $path");
            like($answer->{headers}, $post ? qr/^Allow: POST\r/m : qr/^Allow: GET, HEAD\r/m, 'what is allowed');
        }
    }
    my $head = curl($serve, 'HEAD /api/jobs/status');
    is("$head->{status} $head->{body}", '200 ', 'HEAD');
    for my $path ('/api/jobs/status/', '/api/jobs//status', '//api/jobs/status', '/api/jobs/../jobs/status', '/api/jobs/status%2f', '/API/jobs/status',
        '/../../etc/passwd', '/%2e%2e/%2e%2e/etc/passwd', '/api', '/' . 'a/' x 6) {
        is_error(curl($serve, "GET $path", key => undef), 404, qr/^Ruta no encontrada$/, $path);
    }
    for my $path ('/api/jobs/status%00', '/%zz', '/%', '/a%0d%0aSet-Cookie:x', '/%ff', '/' . 'a/' x 40, '/api/jobs\\status', '/?' . 'a&' x 20) {
        my $answer = curl($serve, "GET $path", key => undef);
        if ($path =~ /%(00|zz|)$/ && $answer->{headers} !~ /^Content-Type: application\/json/m) {
            is($answer->{status}, 400, "$path: refused by libmicrohttpd 1.0 itself");
            next;
        }
        is_error($answer, 400, qr/^La URL no es válida$/, $path);
    }
};

subtest 'GET / and /openapi.json say the same' => sub {
    my $index = is_answer(curl($serve, 'GET /', key => undef), 200, 'index');
    my $document = is_answer(curl($serve, 'GET /openapi.json', key => undef), 200, 'document');
    my (%served, %described);

    is_deeply($document, JSON::PP::decode_json(slurp_file('src/cli/openapi.json')), 'the one of the repository');
    for my $route (@{ $index->{routes} }) {
        (my $path = $route->{path}) =~ s/:(\w+)/{$1}/g;
        $served{lc($route->{method}) . " $path"} = join(' ', $route->{admin} ? 'admin' : 'open', @{ $route->{parameters} });
    }
    for my $path (keys %{ $document->{paths} }) {
        for my $method (keys %{ $document->{paths}{$path} }) {
            my $operation = $document->{paths}{$path}{$method};
            my @parameters = map { $_->{name} } grep { $_->{in} eq 'query' } @{ $operation->{parameters} // [] };
            $described{"$method $path"} = join(' ', $operation->{security} ? 'admin' : 'open', @parameters);
            my $body = $operation->{requestBody}{content}{'application/json'}{schema}{properties};
            is_deeply([sort keys %{$body}], [sort @parameters], "$method $path: the same in the body") if $body;
        }
    }
    is_deeply(\%described, \%served, 'routes, keys, parameters');
    my %references = map { $_ => 1 } slurp_file('src/cli/openapi.json') =~ m{"#/components/(\w+/\w+)"}g;
    my %there = map { my $kind = $_; map { ("$kind/$_" => 1) } keys %{ $document->{components}{$kind} } } qw(schemas responses);
    is_deeply(\%references, \%there, 'what it refers to is there, and nothing else');
};

subtest 'a role without rights; no database' => sub {
    $node->ask('CREATE ROLE nobody LOGIN');
    my $poor = start_serve({ node => $node, role => 'nobody' });
    is_error(curl($poor, 'POST /api/admin/jobs/run/payout'), 500, qr/^El rol de PostgreSQL de este servicio no tiene los permisos necesarios$/, 'run');
    my $error = is_error(curl($poor, 'GET /api/jobs/status'), 500, qr/no tiene los permisos/, 'status');
    is_deeply([keys %{$error}], ['error'], 'no detail on a public route');
    like(stop_serve($poor)->{err}, qr{warning: /api/jobs/status: permission denied}, 'the operator is told');

    my $alone = start_serve({ environment => { PGHOST => '/nowhere', PGPASSWORD => 'hush' } });
    is_answer(curl($alone, 'GET /healthz', key => undef), 200, 'health');
    my $away = curl($alone, 'GET /readyz', key => undef);
    is_error($away, 503, qr/^Sin conexión con la base de datos$/, 'readiness');
    like($away->{headers}, qr/^Retry-After: \d+\r/m, 'when to ask again');
    is(sample($alone, 'up'), 0, 'metrics say so');
    like(stop_serve($alone)->{err}, qr/^apapacho-jobs: warning: could not connect to PostgreSQL, trying again in 0\.\d s: /, 'it says so');
};

subtest 'what it does not start with' => sub {
    my $directory = PostgreSQL::Test::Utils::tempdir();
    my @refused = (
        [{}, qr/error: there is no admin key\n.*hint: Set ADMIN_KEY/],
        [{ ADMIN_KEY => '' }, qr/there is no admin key/],
        [{ ADMIN_KEY => 'x' x 20 }, qr/leave out --no-admin-key/, '--no-admin-key'],
        [{}, qr/listens on a loopback address only, and "0\.0\.0\.0" is none/, '--no-admin-key', '--listen', '0.0.0.0', '--listen-port', '0'],
        [{ ADMIN_KEY => "clave\xc3\xb1" }, qr/must be printable ASCII/],
        [{ ADMIN_KEY_FILE => "$directory/none" }, qr/could not read the admin key's file/],
        [{ ADMIN_KEY => 'x' x 20, PORT => 'http' }, qr/PORT must be a number from 0 to 65535, not "http"/],
        [{ ADMIN_KEY => 'x' x 20, DATABASE_URL => 'mysql://root:hush@db/x' }, qr/DATABASE_URL must begin with postgresql/],
        [{ ADMIN_KEY => 'x' x 20 }, qr/--connections must be a number from 1 to 64/, '--connections', '0']);
    for my $case (@refused) {
        my ($environment, $pattern, @arguments) = @{$case};
        my $result = cli({ environment => { ADMIN_KEY => undef, ADMIN_KEY_FILE => undef, PORT => undef, %{$environment} } }, 'serve', @arguments);
        is("$result->{code} $result->{out}", '2 ', 'refused');
        like($result->{err}, $pattern, 'says why');
        unlike($result->{err}, qr/hush|xxxx|clave/, 'and no secret');
    }
};

subtest 'a key in a file; no key on loopback' => sub {
    my $directory = PostgreSQL::Test::Utils::tempdir();
    PostgreSQL::Test::Utils::append_to_file("$directory/key", "secreta-secreta-secreta\n");
    my $file = start_serve({ node => $node, key => undef, environment => { ADMIN_KEY_FILE => "$directory/key" } });
    is_answer(curl($file, 'GET /api/admin/outbox/stats', key => 'secreta-secreta-secreta'), 200, 'with the key');
    is_error(curl($file, 'GET /api/admin/outbox/stats', key => 'secreta'), 401, qr/No autorizado/, 'with another');
    stop_serve($file);

    my $open = start_serve({ node => $node, key => undef }, '--no-admin-key');
    is_answer(curl($open, 'GET /api/admin/outbox/stats'), 200, 'from this machine');
    is_error(curl($open, 'GET /api/admin/outbox/stats', arguments => ['-H', 'Host: evil.example']), 401, qr/solo se pueden llamar desde este equipo/,
        'by a name that another machine can give away');
    is_error(curl($open, 'GET /api/admin/outbox/stats', arguments => ['-H', 'Origin: http://evil.example']), 401, qr/desde este equipo/, 'by a page');
    stop_serve($open);
};

my $environment = do { local (@ARGV, $/) = "/proc/" . $serve->{run}{KIDS}[0]{PID} . '/environ'; <> };
unlike($environment, qr/\Q$serve->{key}\E/, 'the key is not in the environment any more');
curl($serve, 'GET /%1b%5b31m?secret=hush');
my $ended = stop_serve($serve);
like($ended->{out}, qr{^\d{4}-\d\d-\d\dT[\d:.]+Z 127\.0\.0\.1 POST /api/admin/jobs/run/payout 200 \d+ ms$}m, 'the access log');
like($ended->{out}, qr{^\S+ 127\.0\.0\.1 GET /%1b%5b31m 400 \d+ ms$}mi, 'a path as it came'); # newer curls write capitals
unlike($ended->{out} . $ended->{err}, qr/\Q$serve->{key}\E|hush|batchSize/, 'neither key nor query nor body');
like($ended->{out}, qr{^listening on http://127\.0\.0\.1:\d+/\n.*^stopped\n\z}ms, 'begin and end');

$node->stop;
done_testing();
