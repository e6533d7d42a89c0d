#!/usr/bin/env bash
# bench.sh [publishing] [payouts] [outbox_costs] [publishers_elsewhere] [soak] [scheduling]: what these cost, beside a reference measured in the same run; the first two
# when none is named, since scheduling takes half an hour and outbox_costs five minutes.
# Run it as: test/sandbox.sh bash test/bench/bench.sh, with settings as: test/sandbox.sh env ROUNDS=5 bash test/bench/bench.sh payouts
#
# CREATORS=100000 PER_CREATOR=20 SMALL=5 PER_SMALL=20 (payouts, see payout_data.sql), EVENTS=50000 IN_FLIGHT=64 (publishing), ROUNDS=3 (of each; the median and the range are
# printed), SHARED_BUFFERS=512MB. Payouts also measures how long refunds wait, of REFUNDS=20 a second (0: does not) beside one more run.
# Ten million transactions take an hour and 40 GB: CREATORS=1000000 PER_CREATOR=11 SMALL=20 PER_SMALL=6 SHARED_BUFFERS=4GB. The receiver is nginx answering 204 where it is installed, else the tests' receiver; wrk posts to it too where that is
# installed (`test/setup.sh bench` installs both). Prints ratios; decides nothing. What outbox_costs takes is said in outbox.sh, what soak does in soak.sh.
#
# Scheduling: beside pg_cron, which `test/setup.sh bench` installs. A round is a minute for each server and each of LOADS="1 10 200" jobs
# due at once. Then IDLE_SECONDS=60 of idleness, a job every second for SECONDS_MEASURED=60, and RUNS=20000 runs by hand with
# HISTORY_ROWS=5000.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=test/lib.sh
. "$here/../lib.sh"
# shellcheck source=test/bench/scheduling.sh
. "$here/scheduling.sh"
# shellcheck source=test/bench/outbox.sh
. "$here/outbox.sh"
# shellcheck source=test/bench/soak.sh
. "$here/soak.sh"
[[ -n ${APAPACHO_BUILD:-} ]] || die "Run this as: test/sandbox.sh test/bench/bench.sh"
creators=${CREATORS:-100000} per_creator=${PER_CREATOR:-20} events=${EVENTS:-50000} in_flight=${IN_FLIGHT:-64} rounds=${ROUNDS:-3}
small=${SMALL:-5} per_small=${PER_SMALL:-$per_creator} refunds=${REFUNDS:-20}
work=$TMPDIR/bench
receiver=

finish() {
    [[ -z $receiver ]] || kill "$receiver" 2>/dev/null || true
    [[ ! -e $work/data ]] || pg_ctl stop -s -m immediate -D "$work/data" 2>/dev/null || true
    stop_scheduling_servers
}
trap finish EXIT

sql() { psql -XqAt -v ON_ERROR_STOP=1 -h "$work" -U postgres "$@"; }
now() { date +%s.%N; }
ratio() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.2f", a / b }'; }

# summary VALUE...: median (lowest - highest)
summary() {
    printf '%s\n' "$@" | sort -g | awk '{ v[NR] = $1 } END { printf "%.1f (%.1f - %.1f)", v[int((NR + 1) / 2)], v[1], v[NR] }'
}
median() { printf '%s\n' "$@" | sort -g | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }

# The server of publishing and payouts.
start_server() {
    [[ ! -e $work/data ]] || return 0
    initdb -D "$work/data" -U postgres -A trust -E UTF8 >"$work/initdb.log"
    cat >>"$work/data/postgresql.conf" <<CONF
listen_addresses = ''
unix_socket_directories = '$work'
shared_preload_libraries = 'apapacho_jobs'
apapacho_jobs.outbox_cron = ''
apapacho_jobs.payout_cron = ''
shared_buffers = ${SHARED_BUFFERS:-512MB}
max_wal_size = 8GB
checkpoint_timeout = 30min
autovacuum_naptime = 10min
CONF
    pg_ctl start -w -s -D "$work/data" -l "$work/log" </dev/null
}

# Peak private memory of the worker and its helpers together, in MB, sampled every second while a run is on.
watch_memory() {
    local peak=0 total pid kb
    mkfifo "$work/never" 2>/dev/null || true
    while [[ -e $work/running ]]; do
        read -r -t 1 <>"$work/never" || true
        total=0
        for pid in $(sql -d "$1" -c "SELECT pid FROM pg_stat_activity WHERE backend_type IN ('apapacho_jobs worker', 'apapacho_jobs payout helper')
            AND datname = current_database()"); do
            kb=$(awk '/^RssAnon/ { print $2 }' "/proc/$pid/status" 2>/dev/null || true)
            total=$((total + ${kb:-0}))
        done
        ((total <= peak)) || peak=$total
    done
    printf '%d' $((peak / 1024)) >"$work/peak"
}

# Ticks of CPU time, user and system, of all processes of the server that have ended: sessions, workers, helpers.
ticks() { awk '{ print $16 + $17 }' "/proc/$(head -n 1 "$work/data/postmaster.pid")/stat"; }

# measured NAME COMMAND...: its seconds are added to NAME_wall, the CPU seconds of what has begun and ended on the server to NAME_cpu.
measured() {
    local name=$1 from before
    local -n measured_wall="${1}_wall" measured_cpu="${1}_cpu"
    shift
    before=$(ticks)
    from=$(now)
    "$@" >>"$work/timed.log"
    measured_wall+=("$(awk -v a="$from" -v b="$(now)" 'BEGIN { print b - a }')")
    (wait_for 60 "the sessions of $name to end" no_client_left) || true
    measured_cpu+=("$(awk -v a="$before" -v b="$(ticks)" -v hz="$(getconf CLK_TCK)" 'BEGIN { print (b - a) / hz }')")
}

# None is left that the postmaster has yet to count, also none that is still ending.
no_client_left() {
    # shellcheck disable=SC2009 # pgrep does not tell which have ended
    ! ps -o args= --ppid "$(head -n 1 "$work/data/postmaster.pid")" \
        | grep -qE '^\[|postgres: postgres |apapacho_jobs (worker|payout helper)'
}

bench_payouts() {
    local ours_wall=() ours_cpu=() again_wall=() again_cpu=() reference_wall=() reference_cpu=() round watcher
    start_server
    sql -c "CREATE DATABASE data"
    sql -d data -c "CREATE EXTENSION apapacho_jobs" -c "SELECT apapacho_create_tables()" >"$work/tables.log"
    without_guards data
    sql -d data -v creators="$creators" -v per_creator="$per_creator" -v small="$small" -v per_small="$per_small" -f "$here/payout_data.sql"
    sql -d data -c "SELECT apapacho_payout_install_guards()"
    sql -d data -c "VACUUM ANALYZE"
    say "${bold}Payouts$plain: $creators creators, $(sql -d data -c 'SELECT count(*) FROM "Transaction"') transactions"
    for ((round = 1; round <= rounds; round++)); do
        copy_data reference
        without_guards reference
        measured reference sql -d reference -f "$here/payout_reference.sql"
        copy_data ours
        : >"$work/running"
        watch_memory ours &
        watcher=$!
        measured ours sql -d ours -c "SELECT apapacho_run_job('payout')"
        rm -f "$work/running"
        wait "$watcher"
        measured again sql -d ours -c "SELECT apapacho_run_job('payout')"
        same_payouts
        say "  round $round: $(sql -d ours -c 'SELECT count(*) || $$ payouts, $$ || (SELECT count(*) FROM "PayoutItem") || $$ items$$ FROM "Payout"')"
        sql -c "DROP DATABASE ours" -c "DROP DATABASE reference"
    done
    say "  ours, seconds:                 $(summary "${ours_wall[@]}"), CPU $(summary "${ours_cpu[@]}"), private memory of its processes at most $(cat "$work/peak") MB"
    say "  plain set-based SQL, seconds:  $(summary "${reference_wall[@]}"), CPU $(summary "${reference_cpu[@]}")"
    say "  a run that has nothing to do:  $(summary "${again_wall[@]}"), CPU $(summary "${again_cpu[@]}")"
    say "  reference / ours:              $(ratio "$(median "${reference_wall[@]}")" "$(median "${ours_wall[@]}")"), CPU $(ratio "$(median "${reference_cpu[@]}")" "$(median "${ours_cpu[@]}")")"
    ((refunds == 0)) || bench_refunds
    sql -c "DROP DATABASE data"
}

copy_data() { sql -c "CREATE DATABASE $1 TEMPLATE data STRATEGY file_copy" -c "CHECKPOINT"; }

# How long refunds of random transactions take while a run is on, and that all of them are accounted for in the end.
bench_refunds() {
    local client problems
    copy_data ours
    pgbench -h "$work" -U postgres -n -c 1 -R "$refunds" -T 86400 -D creators="$creators" -D most="$((per_small < per_creator ? per_small : per_creator))" \
        -l --log-prefix="$work/refunds" -f "$here/refund.sql" ours >"$work/pgbench.log" 2>&1 &
    client=$!
    sql -d ours -c "SELECT apapacho_run_job('payout')" >>"$work/timed.log"
    kill "$client"
    wait "$client" 2>/dev/null || true
    # client, number, microseconds with what it was late by, ..., microseconds that it was late by
    awk '{ print ($3 - $7) / 1000 }' "$work"/refunds.* | sort -n | awk '{ v[NR] = $1 }
        END { printf "  a refund meanwhile, ms:        median %.1f, p99 %.0f, longest %.0f (%d of them)\n", v[int((NR + 1) / 2)], v[int(NR * 0.99 + 0.5)], v[NR], NR }'
    sql -d ours -c "SELECT apapacho_run_job('payout')" >>"$work/timed.log"
    problems=$(sql -d ours -c "SELECT count(*) FROM apapacho_payout_reconcile()")
    [[ $problems == 0 ]] || die "$problems differences after the refunds"
    sql -c "DROP DATABASE ours"
}

# Our triggers are no part of the reference.
without_guards() {
    local table

    for table in Creator Transaction Payout PayoutItem; do
        sql -d "$1" -c "ALTER TABLE \"$table\" DISABLE TRIGGER USER"
    done
}

# Both must have come to the same payouts, to the peso.
same_payouts() {
    local query
    query='SELECT count(*), sum("payoutAmount"), (SELECT count(*) FROM "PayoutItem"),
        (SELECT count(*) FROM "LedgerEntry"), (SELECT sum(debit) FROM "LedgerEntry") FROM "Payout"'
    [[ $(sql -d ours -c "$query") == "$(sql -d reference -c "$query")" ]] || die "the payouts differ from the reference's"
}

(($# > 0)) || set -- publishing payouts
rm -rf "$work"
mkdir -p "$work"
for bench in "$@"; do
    "bench_$bench"
done
