#!/usr/bin/env bash
# demo.sh: the extension at work, from CREATE EXTENSION to signed webhooks. Run it by `make demo`.
#
# Starts a PostgreSQL of its own (Unix socket only) and `apapacho-jobs listen`, runs the jobs and shows what they do, then looks
# whether all of it was right: the exit status tells. test/sandbox.sh stops and removes everything afterwards.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=test/lib.sh
. "$here/../lib.sh"
[[ -n ${APAPACHO_BUILD:-} ]] || die "Run this as: test/sandbox.sh test/demo/demo.sh (or make demo)"

demo=$TMPDIR/demo
server_log=$demo/server.log
receiver_log=$demo/receiver.log         # what it prints
events_log=$demo/events.log             # id, type, aggregate type, aggregate id, two signatures (1: valid), status answered
secret=whsec_$(head -c 32 /dev/urandom | base64 -w 0)
receiver=
mkdir -p "$demo"
: >"$server_log"
: >"$events_log"
export PGHOST=$demo PGUSER=postgres PGDATABASE=apapacho PGOPTIONS='-c client_min_messages=warning'

stop() {
    trap '' INT TERM HUP
    [[ -z $receiver ]] || kill -TERM "$receiver" 2>/dev/null || true
    [[ ! -e $demo/data/postmaster.pid ]] || pg_ctl stop -s -D "$demo/data" -m fast || true
}
trap stop EXIT
trap 'exit 130' INT TERM HUP

title() { printf '\n%s== %s ==%s\n\n' "$bold" "$*" "$plain"; }

# show SQL: the statement as a user would type it, and what it answers.
show() {
    printf '%s=> %s%s\n' "$dim" "$1" "$plain"
    psql -X -q -v ON_ERROR_STOP=1 -P footer=off -P null=- -c "$1"
}

# show_value SQL: the same for one value, which may be too wide for a table.
show_value() {
    printf '%s=> %s%s\n' "$dim" "$1" "$plain"
    value "$1"
    say
}

value() { psql -X -q -A -t -v ON_ERROR_STOP=1 -c "$1"; }

# New lines of the server's log that a job has written (its own line and what went wrong), and of the receiver.
job_lines_shown=0
show_job_lines() {
    local lines
    mapfile -t lines < <(grep -oE '(\[Job:[A-Za-z]+\]|WARNING:).*' "$server_log" || true)
    ((${#lines[@]} == job_lines_shown)) || printf "${dim}server log:${plain} %s\n" "${lines[@]:$job_lines_shown}"
    job_lines_shown=${#lines[@]}
}

receiver_lines_shown=0
show_received() {
    local lines
    mapfile -t lines < <(grep -E '^(✔|✘)' "$receiver_log" || true)
    ((${#lines[@]} == receiver_lines_shown)) || printf '%s\n' "${lines[@]:$receiver_lines_shown}"
    receiver_lines_shown=${#lines[@]}
}

start_server() {
    initdb -D "$demo/data" -U postgres -A trust -E UTF8 --no-sync >"$demo/initdb.log"
    cat >>"$demo/data/postgresql.conf" <<CONF
listen_addresses = ''
unix_socket_directories = '$demo'
fsync = off
timezone = 'America/Santiago'
shared_preload_libraries = 'apapacho_jobs'
CONF
    pg_ctl start -w -s -D "$demo/data" -l "$server_log" </dev/null || {
        tail -n 30 "$server_log" >&2
        die "the server did not start"
    }
    # Not on the minute, so that the demo's own runs find what they are to show; the schedules are put back in the end.
    PGDATABASE=postgres value "ALTER SYSTEM SET apapacho_jobs.outbox_cron = ''"
    PGDATABASE=postgres value "ALTER SYSTEM SET apapacho_jobs.retry_cron = ''"
    PGDATABASE=postgres value "SELECT pg_reload_conf()" >"$demo/reload.log"
    PGDATABASE=postgres value 'CREATE DATABASE apapacho'
}

start_receiver() {
    apapacho-jobs listen --brief --port 0 --port-file "$demo/port" --secret "$secret" --log "$events_log" >"$receiver_log" 2>&1 &
    receiver=$!
    wait_for 30 "the receiver's port" test -s "$demo/port"
}

events_received() { (($(wc -l <"$events_log") >= $1)); }
is_setting() { [[ $(value "SHOW $1") == "$2" ]]; }
all_scheduled() { [[ $(value 'SELECT count(*) FROM apapacho_job_status() WHERE running') == 4 ]]; }

# ---- What is verified in the end ----

checks_passed=0
checks_failed=0

check() {
    local what=$1
    shift
    if "$@"; then
        checks_passed=$((checks_passed + 1))
        say "  ${green}ok${plain}      $what"
    else
        checks_failed=$((checks_failed + 1))
        say "  ${red}FAILED${plain}  $what"
    fi
}

same() { [[ $1 == "$2" ]] || { warn "          found: $1, expected: $2"; return 1; }; }
delivered() { awk -F'\t' -v type="$1" '$2 == type && $7 == 200' "$events_log" | wc -l; }
invalid() { awk -F'\t' '$5 != 1 || $6 != 1' "$events_log" | wc -l; }
logged() { grep -qF -- "$1" "$server_log"; }

# ---- The demo ----

title "A server, the extension, the tables"
start_server
show 'CREATE EXTENSION apapacho_jobs'
show 'SELECT * FROM apapacho_create_tables()'
psql -X -q -v ON_ERROR_STOP=1 -1 -f "$here/seed.sql"

title "Before: what the creators have sold"
show 'SELECT "creatorId", status, count(*) AS transactions, sum("creatorPayableAmount") AS payable,
       count(*) FILTER (WHERE "occurredAt" > now() AT TIME ZONE '\''UTC'\'' - interval '\''7 days'\'') AS held
FROM "Transaction" GROUP BY "creatorId", status ORDER BY "creatorId"'

title "A receiver of webhooks"
start_receiver
say "${dim}receiver: 127.0.0.1, port $(<"$demo/port"), verifies both signatures with OpenSSL$plain"
say
url="http://127.0.0.1:$(<"$demo/port")/webhooks"
show "ALTER SYSTEM SET apapacho_jobs.outbox_publisher_type = 'webhook'"
show "ALTER SYSTEM SET apapacho_jobs.outbox_webhook_url = '$url'"
say "${dim}=> ALTER SYSTEM SET apapacho_jobs.outbox_webhook_secret = 'whsec_...'$plain"
value "ALTER SYSTEM SET apapacho_jobs.outbox_webhook_secret = '$secret'"
show 'SELECT pg_reload_conf()'
wait_for 30 "the reload" is_setting apapacho_jobs.outbox_webhook_url "$url"

title "The payout job"
show_value "SELECT apapacho_run_job('payout')"
show_job_lines
say
show 'SELECT "creatorId", status, "grossTotal", "platformFeeTotal", "payoutAmount",
       (SELECT count(*) FROM "PayoutItem" AS i WHERE i."payoutId" = p.id) AS items
FROM "Payout" AS p ORDER BY "creatorId"'

title "The outbox job"
show_value "SELECT apapacho_run_job('outbox')"
show_job_lines
say
say "${dim}receiver:$plain"
wait_for 30 "the events" events_received 5
show_received

title "One transfer arrives, one fails and is due for a retry"
sent=$(value "SELECT id FROM \"Payout\" WHERE \"creatorId\" = 'ana'")
bad=$(value "SELECT id FROM \"Payout\" WHERE \"creatorId\" = 'bruno'")
show_value "SELECT apapacho_payout_mark_sent('$sent', 'transfer-0001')"
show_value "SELECT apapacho_payout_mark_failed('$bad', 'account closed')"
say "${dim}(a day goes by)$plain"
value "UPDATE \"Payout\" SET \"nextRetryAt\" = \"nextRetryAt\" - interval '25 hours' WHERE id = '$bad'"
show_value "SELECT apapacho_run_job('retry')"
show_job_lines
say
show_value "SELECT apapacho_run_job('outbox')"
show_job_lines
say
say "${dim}receiver:$plain"
wait_for 30 "the events" events_received 8
show_received

title "The cleanup job"
value "UPDATE \"OutboxEvent\" SET \"publishedAt\" = \"publishedAt\" - interval '31 days' WHERE \"eventType\" = 'PayoutSent'"
show_value "SELECT apapacho_run_job('cleanup')"
show_job_lines

title "The status, with the schedules back in force"
value 'ALTER SYSTEM RESET apapacho_jobs.outbox_cron'
value 'ALTER SYSTEM RESET apapacho_jobs.retry_cron'
value 'SELECT pg_reload_conf()' >"$demo/reload.log"
wait_for 30 "the schedules" all_scheduled
show 'SELECT "aggregateType", "aggregateId", payload -> '\''result'\'' AS result FROM "OutboxEvent"
WHERE "eventType" = '\''PayoutCalculationJobCompleted'\'' ORDER BY "createdAt" DESC'
show 'SELECT "creatorId", status, "retryCount", "failureReason", "providerTransferId" FROM "Payout" ORDER BY "creatorId"'
show 'SELECT name, cron, running, executing, next_run, last_status, last_result FROM apapacho_job_status()'
show_value 'SELECT apapacho_scheduler_status_json()' | sed 's/\[{/[\n    {/; s/}, {/},\n    {/g; s/}\]/}\n ]/'

title "What you saw"
check "four creators were paid, each once" same "$(value "SELECT string_agg(\"creatorId\", ' ' ORDER BY \"creatorId\") FROM \"Payout\"")" \
    "ana bruno carla gabriela"
check "two held or below the minimum were left out, one that failed stopped nobody" \
    logged '[Job:Payout] Completado - Creados: 4, Omitidos: 2, Errores: 1'
check "held transactions were not paid" same "$(value "SELECT sum(\"payoutAmount\") FROM \"Payout\" WHERE \"creatorId\" = 'carla'")" 40473
for expected in PayoutCalculated:4 PayoutCalculationJobCompleted:1 PayoutSent:1 PayoutFailed:1 PayoutRetryRequested:1; do
    check "delivered: ${expected%:*}, ${expected#*:}" same "$(delivered "${expected%:*}")" "${expected#*:}"
done
check "both signatures of every delivery were valid" same "$(invalid)" 0
check "each event came once" same "$(cut -f 1 "$events_log" | sort | uniq -d | wc -l)" 0
check "the outbox job logged both its runs" logged '[Job:Outbox] Procesados: 5, Fallidos: 0'
check "the retry job took up the failed payout" logged '[Job:Retry] 1 payouts pendientes de reintento'
check "the cleanup job deleted the old event" logged '[Job:Cleanup] Limpiados 1 eventos'
check "nothing was left in the outbox" same "$(value 'SELECT count(*) FROM "OutboxEvent" WHERE "publishedAt" IS NULL')" 0
say
say "$checks_passed passed, $checks_failed failed, 0 skipped"
((checks_failed == 0))
