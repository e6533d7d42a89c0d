# shellcheck shell=bash
# scheduling.sh: how late jobs start, and what scheduling costs, beside Debian's pg_cron. Sourced by bench.sh, which says how to run it.
#
# Three servers with the same configuration, ours and pg_cron's: pg_cron once with its jobs in background workers, once over
# connections (its default); the better one is the reference. In turn each has a minute in which 1, 10 or 200 jobs are due, while the
# others have none. A job's command writes down the time at which it is executed; when the last has ended each says in its history.
#
# What the goals are is said in the text; whether they are met is left to the reader: the machine may be busy with other things, of
# which the bare timer and the load average are the measure.
# shellcheck disable=SC2154 # what is not set here is set by bench.sh

read -r -a loads <<<"${LOADS:-1 10 200}"
seconds=${SECONDS_MEASURED:-60} idle_seconds=${IDLE_SECONDS:-60} runs=${RUNS:-20000} history_rows=${HISTORY_ROWS:-5000}
at_once=20                # jobs of a user's at work at once, as both are told
settle=10                 # seconds after the minute until it is looked what has become of it: looking is work too
enough=20                 # seconds before the minute by which the jobs must be in force
schedulers=()             # the servers
references=()             # those that are pg_cron's
timer=                    # process of the bare timer

declare -A titles=([ours]=ours [cron_workers]="pg_cron, background workers" [cron_connections]="pg_cron, connections")
declare -A extensions=([ours]=apapacho_jobs [cron_workers]=pg_cron [cron_connections]=pg_cron)

on() { psql -XqAt -v ON_ERROR_STOP=1 -h "$work/$1" -U postgres "${@:2}"; }
sleep_until() { sleep "$(awk -v until="$1" -v now="$(now)" 'BEGIN { print (until > now ? until - now : 0) }')"; }
# row WHAT FIGURES WHOSE
row() { printf '  %-26s %-46s %s\n' "$1:" "$2" "$3"; }
busy() { row "load average" "$(cut -d ' ' -f 1-3 /proc/loadavg)" "the machine"; }

# Of the numbers in a file, one a line: the median; median (lowest - highest); median, 99th percentile and greatest.
middle() { sort -g "$1" | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }
figures() { sort -g "$1" | awk '{ v[NR] = $1 } END { printf "%.2f (%.2f - %.2f)", v[int((NR + 1) / 2)], v[1], v[NR] }'; }
spread() {
    sort -g "$1" | awk '{ v[NR] = $1 } END {
        printf "median %.2f, p99 %.2f, max %.2f of %d", v[int((NR + 1) / 2)], v[int((NR * 99 + 99) / 100)], v[NR], NR }'
}

start_scheduling_server() {
    local name=$1
    shift
    mkdir -p "$work/$name"
    initdb -D "$work/$name/data" -U postgres -A trust -E UTF8 --no-sync >"$work/$name/initdb.log"
    {
        cat <<CONF
listen_addresses = ''
unix_socket_directories = '$work/$name'
shared_preload_libraries = '${extensions[$name]}'
fsync = on
synchronous_commit = on
max_worker_processes = 40
max_connections = 100
max_wal_size = 4GB
checkpoint_timeout = 1h
autovacuum_naptime = 10min
CONF
        printf '%s\n' "$@"
    } >>"$work/$name/data/postgresql.conf"
    pg_ctl start -w -s -D "$work/$name/data" -l "$work/$name/log" </dev/null
    schedulers+=("$name")
    on "$name" -c "CREATE EXTENSION ${extensions[$name]}" -c "CREATE TABLE lateness (at timestamptz NOT NULL)"
}

start_scheduling_servers() {
    start_scheduling_server ours "apapacho_jobs.max_workers = $at_once" "apapacho_jobs.outbox_cron = ''" "apapacho_jobs.payout_cron = ''" \
        "apapacho_jobs.cleanup_cron = ''" "apapacho_jobs.retry_cron = ''"
    if [[ ! -e $("$PG_CONFIG" --sharedir)/extension/pg_cron.control ]]; then
        say "  pg_cron is not installed (test/setup.sh bench does it): ours alone"
        return
    fi
    start_scheduling_server cron_workers "cron.use_background_workers = on" "cron.max_running_jobs = $at_once"
    start_scheduling_server cron_connections "cron.host = '$work/cron_connections'" "cron.max_running_jobs = $at_once"
    references=(cron_workers cron_connections)
}

stop_scheduling_servers() {
    local name
    [[ -z $timer ]] || kill "$timer" 2>/dev/null || true
    for name in "${schedulers[@]}"; do
        pg_ctl stop -s -m immediate -D "$work/$name/data" 2>/dev/null || true
    done
    schedulers=()
}

# schedule SERVER COUNT EXPRESSION
schedule() {
    local function=cron.schedule
    [[ $1 != ours ]] || function=apapacho_schedule_job
    on "$1" -c "SELECT count($function('job ' || n, '$3', 'INSERT INTO lateness VALUES (clock_timestamp())')) FROM generate_series(1, $2) AS n" \
        >"$work/schedule.log"
}

unschedule() {
    local query="SELECT count(cron.unschedule(jobid)) FROM cron.job"
    [[ $1 != ours ]] || query="SELECT count(apapacho_unschedule_job(name)) FROM apapacho_jobs.job WHERE NOT builtin"
    on "$1" -c "$query" >"$work/schedule.log"
}

# The next minute (seconds since 1970) for which there is time enough to schedule something.
coming_minute() {
    local seconds
    seconds=$(date +%s)
    ((seconds % 60 <= 60 - enough)) || sleep_until $(((seconds / 60 + 1) * 60 + 1))
    printf '%d' $(((($(date +%s)) / 60 + 1) * 60))
}

has_rows() { [[ $(on "$1" -c "SELECT count(*) FROM lateness") == "$2" ]]; }

# a_minute SERVER COUNT: COUNT jobs are due at the same minute. Notes of it, in milliseconds after the minute, one line each: all starts, the
# median and the last of them, and when the last job had ended.
a_minute() {
    local minute ended="SELECT max(end_time) FROM cron.job_run_details WHERE start_time" file=$work/$1.$2
    [[ $1 != ours ]] || ended="SELECT max(finished_at) FROM apapacho_jobs.run WHERE started_at"
    minute=$(coming_minute)
    schedule "$1" "$2" '* * * * *'
    sleep_until $((minute + settle))
    wait_for 40 "the $2 jobs of ${titles[$1]}" has_rows "$1" "$2"
    unschedule "$1"
    on "$1" -c "SELECT extract(epoch FROM at - to_timestamp($minute)) * 1000 FROM lateness ORDER BY 1" >"$work/starts"
    cat "$work/starts" >>"$file.all"
    middle "$work/starts" >>"$file.median"
    tail -n 1 "$work/starts" >>"$file.last"
    on "$1" -c "SELECT extract(epoch FROM ($ended >= to_timestamp($minute - 1)) - to_timestamp($minute)) * 1000" >>"$file.ended"
    on "$1" -c "TRUNCATE lateness"
}

# Whoever does something for the first time is slower: a minute for all at once, which does not count.
warm_up() {
    local name minute
    minute=$(coming_minute)
    for name in "${schedulers[@]}"; do
        schedule "$name" 10 '* * * * *'
    done
    sleep_until $((minute + settle))
    for name in "${schedulers[@]}"; do
        wait_for 40 "the first jobs of ${titles[$name]}" has_rows "$name" 10
        unschedule "$name"
        on "$name" -c "TRUNCATE lateness"
    done
}

start_timer() {
    "$work/timer" 1000000 >"$work/timer.ms" &
    timer=$!
}

stop_timer() {
    kill "$timer"
    wait "$timer" 2>/dev/null || true
    timer=
    row "late, of all seconds" "$(spread "$work/timer.ms")" "a bare timer"
}

# best FIGURE: the reference whose median is the lower one, as "NAME MEDIAN"
best() {
    local name
    for name in "${references[@]}"; do
        printf '%s %s\n' "$name" "$(middle "$work/$name.$1")"
    done | sort -g -k 2 | head -n 1
}

# compare WHAT FIGURE: a line for each server of what $work/SERVER.FIGURE holds, one number a round; then the ratio.
compare() {
    local name reference
    for name in "${schedulers[@]}"; do
        row "$1" "$(figures "$work/$name.$2")" "${titles[$name]}"
    done
    ((${#references[@]} > 0)) || return 0
    read -r name reference < <(best "$2")
    row "ours / pg_cron" "$(ratio "$(middle "$work/ours.$2")" "$reference")" "(${titles[$name]})"
}

declare -A goals=([1]="; goal: median at most 2 ms" [10]="; goal: p99 at most 25 ms"
    [200]="; goal: all started within 500 ms, and in less than half of pg_cron's time")

bench_load() {
    local load=$1 round name
    ((load > 1)) || start_timer
    for ((round = 1; round <= rounds; round++)); do
        for name in "${schedulers[@]}"; do
            a_minute "$name" "$load"
        done
    done
    say "${bold}$load due at once$plain, ms after the minute, $rounds rounds${goals[$load]:-}"
    compare "started, median" "$load.median"
    if ((load > 1)); then
        compare "last started" "$load.last"
        compare "last ended" "$load.ended"
    fi
    for name in "${schedulers[@]}"; do
        row "started, of all rounds" "$(spread "$work/$name.$load.all")" "${titles[$name]}"
    done
    ((load > 1)) || stop_timer
    busy
}

# process SERVER TYPE: its process id
process() { on "$1" -c "SELECT pid FROM pg_stat_activity WHERE backend_type = '$2'"; }
switches() { awk '/^voluntary_ctxt_switches/ { print $2 }' "/proc/$1/status"; }
private_kb() { awk '/^RssAnon/ { print $2 }' "/proc/$1/status"; }

bench_idle() {
    local name type entry pids=() before=()
    local processes=("ours:apapacho_jobs launcher" "ours:apapacho_jobs scheduler")
    for name in "${references[@]}"; do
        processes+=("$name:pg_cron launcher")
    done
    for name in "${schedulers[@]}"; do
        schedule "$name" 10 '0 0 29 2 *'
    done
    for entry in "${processes[@]}"; do
        pids+=("$(process "${entry%%:*}" "${entry#*:}")")
    done
    sleep 5 # taking up the new jobs is no idleness
    for entry in "${!pids[@]}"; do
        before+=("$(switches "${pids[entry]}")")
    done
    sleep "$idle_seconds"
    say "${bold}Idle$plain: wake-ups a minute, with 10 jobs of which none is due; goal: at most 2"
    for entry in "${!pids[@]}"; do
        type=${processes[entry]#*:} name=${processes[entry]%%:*}
        row "$type" "$(awk -v n=$(($(switches "${pids[entry]}") - before[entry])) -v s="$idle_seconds" 'BEGIN { printf "%.1f", n * 60 / s }')" \
            "${titles[$name]}"
    done
    for name in "${schedulers[@]}"; do
        unschedule "$name"
    done
}

# A job every second, which pg_cron does not have before 1.5, and never by the clock.
bench_seconds() {
    local from slots counted
    say "${bold}Every second$plain: one job of ours, $seconds seconds"
    from=$(($(date +%s) + 3))
    start_timer
    schedule ours 1 '* * * * * *'
    sleep_until $((from + seconds))
    unschedule ours
    sleep 1
    slots="job_id = (SELECT max(job_id) FROM apapacho_jobs.run WHERE job = 'job 1') AND trigger = 'schedule'"
    counted=$(on ours -c "SELECT count(*) FILTER (WHERE status = 'succeeded') || ' succeeded, ' || count(DISTINCT scheduled_for) ||
            ' different ones in the history'
        FROM apapacho_jobs.run WHERE $slots AND scheduled_for >= to_timestamp($from) AND scheduled_for < to_timestamp($((from + seconds)))")
    row "of $seconds slots" "$counted" ours
    # one run is after the other, so the n-th row is of the n-th run
    on ours -c "WITH row AS (SELECT at, row_number() OVER (ORDER BY at) AS n FROM lateness),
            run AS (SELECT scheduled_for, row_number() OVER (ORDER BY scheduled_for) AS n
                    FROM apapacho_jobs.run WHERE $slots AND status = 'succeeded')
        SELECT extract(epoch FROM row.at - run.scheduled_for) * 1000 FROM row JOIN run USING (n)" >"$work/seconds.ms"
    row "started, ms after" "$(spread "$work/seconds.ms")" ours
    on ours -c "TRUNCATE lateness"
    stop_timer
    busy
}

# Rows of the history and private memory of ours, sampled while a run is on.
watch_history() {
    local rows most=0
    while [[ -e $work/running ]]; do
        sleep 1
        rows=$(on ours -c "SELECT count(*) FROM apapacho_jobs.run" 2>/dev/null || printf 0)
        ((rows <= most)) || most=$rows
        printf '%d' "$most" >"$work/most"
    done
}

runs_by_hand() {
    pgbench -h "$work/ours" -U postgres -n -c 16 -j 2 -t $(($1 / 16)) -f "$work/by_hand.sql" postgres >"$work/pgbench.log" 2>&1 \
        || die "pgbench: $(tail -n 3 "$work/pgbench.log")"
}

memory_of_ours() {
    printf 'launcher %d kB, scheduler %d kB' "$(private_kb "$(process ours 'apapacho_jobs launcher')")" \
        "$(private_kb "$(process ours 'apapacho_jobs scheduler')")"
}

# It is pruned every thousand rows or so.
history_is_pruned() { (($(on ours -c "SELECT count(*) FROM apapacho_jobs.run") <= history_rows + 1500)); }

# As many runs as possible: more sessions than there may be workers, so that a worker goes on with what is queued.
bench_history() {
    local watcher from before
    say "${bold}History$plain: $runs runs by hand, apapacho_jobs.history_rows = $history_rows; goal: the rows stay near that," \
        "the launcher grows by less than 1024 kB"
    on ours -c "ALTER SYSTEM SET apapacho_jobs.max_workers = 4" -c "ALTER SYSTEM SET apapacho_jobs.history_rows = $history_rows" \
        -c "ALTER SYSTEM SET synchronous_commit = off" -c "SELECT pg_reload_conf()" >"$work/settings.log"
    on ours -c "SELECT apapacho_schedule_job('by hand ' || n, '0 0 29 2 *', 'SELECT 1') FROM generate_series(0, 15) AS n" >"$work/schedule.log"
    printf "SELECT apapacho_run_job('by hand ' || :client_id);\n" >"$work/by_hand.sql"
    runs_by_hand 1600
    before=$(memory_of_ours)
    : >"$work/running"
    watch_history &
    watcher=$!
    from=$(now)
    runs_by_hand "$runs"
    row "runs a second" "$(awk -v n="$runs" -v a="$from" -v b="$(now)" 'BEGIN { printf "%.0f", n / (b - a) }')" ours
    (wait_for 10 "the history to be pruned" history_is_pruned) || true
    rm -f "$work/running"
    wait "$watcher"
    row "rows" "at most $(<"$work/most"), at the end $(on ours -c "SELECT count(*) FROM apapacho_jobs.run")" ours
    row "memory after 1,600 runs" "$before" ours
    row "memory at the end" "$(memory_of_ours)" "ours"
}

bench_scheduling() {
    local load
    say "${bold}Scheduling$plain: $rounds rounds of a minute for each of ${loads[*]} jobs and each server; median (range) of the rounds"
    gcc -O2 -Wall -o "$work/timer" "$here/timer.c"
    start_scheduling_servers
    busy
    warm_up
    for load in "${loads[@]}"; do
        bench_load "$load"
    done
    bench_idle
    bench_seconds
    bench_history
    stop_scheduling_servers
}
