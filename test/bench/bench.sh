#!/usr/bin/env bash
# bench.sh [publishing] [payouts] [outbox_costs] [publishers_elsewhere] [scheduling]: what these cost, beside a reference measured in the same run; the first two
# when none is named, since scheduling takes half an hour and outbox_costs five minutes.
# Run it as: test/sandbox.sh bash test/bench/bench.sh, with settings as: test/sandbox.sh env ROUNDS=5 bash test/bench/bench.sh payouts
#
# CREATORS=100000 PER_CREATOR=20 (payouts), EVENTS=50000 IN_FLIGHT=64 (publishing), ROUNDS=3 (of each; the median and the range are
# printed). The receiver is nginx answering 204 where it is installed, else the tests' receiver; wrk posts to it too where that is
# installed (`test/setup.sh bench` installs both). Prints ratios; decides nothing. What outbox_costs takes is said in outbox.sh.
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
[[ -n ${APAPACHO_BUILD:-} ]] || die "Run this as: test/sandbox.sh test/bench/bench.sh"
creators=${CREATORS:-100000} per_creator=${PER_CREATOR:-20} events=${EVENTS:-50000} in_flight=${IN_FLIGHT:-64} rounds=${ROUNDS:-3}
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
# timed COMMAND...: seconds it takes; what it prints goes to the log
timed() {
    local from
    from=$(now)
    "$@" >>"$work/timed.log"
    awk -v a="$from" -v b="$(now)" 'BEGIN { print b - a }'
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
shared_buffers = 512MB
max_wal_size = 8GB
checkpoint_timeout = 30min
autovacuum_naptime = 10min
CONF
    pg_ctl start -w -s -D "$work/data" -l "$work/log" </dev/null
}

# Peak private memory of the worker and its helpers together, in MB, and the CPU seconds of all, sampled every second while a run is on.
watch_processes() {
    local peak=0 total pid kb ticks
    local -A cpu=()
    mkfifo "$work/never" 2>/dev/null || true
    while [[ -e $work/running ]]; do
        read -r -t 1 <>"$work/never" || true
        total=0
        for pid in $(sql -d "$1" -c "SELECT pid FROM pg_stat_activity WHERE backend_type IN ('apapacho_jobs worker', 'apapacho_jobs payout helper')
            AND datname = current_database()"); do
            kb=$(awk '/^RssAnon/ { print $2 }' "/proc/$pid/status" 2>/dev/null || true)
            total=$((total + ${kb:-0}))
            ticks=$(awk '{ print $14 + $15 }' "/proc/$pid/stat" 2>/dev/null || true)
            [[ -z $ticks ]] || cpu[$pid]=$ticks
        done
        ((total <= peak)) || peak=$total
    done
    printf '%d' $((peak / 1024)) >"$work/peak"
    total=0
    for ticks in "${cpu[@]}"; do total=$((total + ticks)); done
    awk -v t="$total" -v hz="$(getconf CLK_TCK)" 'BEGIN { printf "%.1f", t / hz }' >"$work/cpu"
}

bench_payouts() {
    local ours=() again=() reference=() round from watcher
    start_server
    say "${bold}Payouts$plain: $creators creators, $((creators * per_creator)) transactions"
    sql -c "CREATE DATABASE data"
    sql -d data -c "CREATE EXTENSION apapacho_jobs" -c "SELECT apapacho_create_tables()" >"$work/tables.log"
    sql -d data -v creators="$creators" -v per_creator="$per_creator" -f "$here/payout_data.sql"
    sql -d data -c "VACUUM ANALYZE"
    for ((round = 1; round <= rounds; round++)); do
        sql -c "CREATE DATABASE reference TEMPLATE data" -c "CHECKPOINT"
        without_guards reference
        from=$(now)
        sql -d reference -f "$here/payout_reference.sql" \
            -c "SELECT (string_to_array(pg_read_file('/proc/self/stat'), ' '))[14:15]" >"$work/reference_cpu"
        reference+=("$(awk -v a="$from" -v b="$(now)" 'BEGIN { print b - a }')")
        sql -c "CREATE DATABASE ours TEMPLATE data" -c "CHECKPOINT"
        : >"$work/running"
        watch_processes ours &
        watcher=$!
        from=$(now)
        say "  round $round: $(sql -d ours -c "SELECT apapacho_run_job('payout')")"
        ours+=("$(awk -v a="$from" -v b="$(now)" 'BEGIN { print b - a }')")
        again+=("$(timed sql -d ours -c "SELECT apapacho_run_job('payout')")")
        rm -f "$work/running"
        wait "$watcher"
        same_payouts
        sql -c "DROP DATABASE ours" -c "DROP DATABASE reference"
    done
    say "  ours, seconds:                 $(summary "${ours[@]}"), private memory of its processes at most $(cat "$work/peak") MB, CPU seconds $(cat "$work/cpu") (last round)"
    say "  plain set-based SQL, seconds:  $(summary "${reference[@]}"), CPU seconds $(tr -d '{}' <"$work/reference_cpu" | awk -F, -v hz="$(getconf CLK_TCK)" '{ printf "%.1f", ($1 + $2) / hz }')"
    say "  a run that has nothing to do:  $(summary "${again[@]}")"
    say "  ours / reference:              $(ratio "$(median "${ours[@]}")" "$(median "${reference[@]}")")"
    sql -c "DROP DATABASE data"
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
