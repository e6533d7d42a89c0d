# shellcheck shell=bash
# outbox.sh: what publishing webhooks costs. Sourced by bench.sh, which says how to run it and has the server.
#
# publishing: deliveries per second beside what the receiver takes from others in the same run: wrk, a bare libcurl program with an HMAC on
# each body, the same one at a time. A round is one of each, in turn, so that a busy machine is busy for all of them.
#
# outbox_costs: LATENCY_SECONDS=20 of 100 events/s (from the insertion of a row, its commit included, to the receiver), what a producer
# pays for waking publishers (PRODUCER_SECONDS=5 each), and the rate for BACKLOG=20000 events beside the plain one with STUCK=100000 events
# that wait for another of their aggregate, with an old snapshot during HELD_SECONDS=60 of 300 events/s, with PUBLISHED=1000000 old rows. COSTS takes some of
# "latency cleanup producers published held stuck".
#
# publishers_elsewhere: EVENTS drained by 1, 2 and 4 of `apapacho-jobs outbox start` on this machine, from the commit that brings them, beside
# one publisher in the server, and the processor time that each event takes.
# shellcheck disable=SC2154 # what is not set here is set by bench.sh

latency_seconds=${LATENCY_SECONDS:-20} producer_seconds=${PRODUCER_SECONDS:-5} backlog=${BACKLOG:-20000} stuck=${STUCK:-100000}
held_seconds=${HELD_SECONDS:-60} published=${PUBLISHED:-1000000} costs=${COSTS:-latency cleanup producers published held stuck}
nginx_workers=${NGINX_WORKERS:-2} nginx=
url=

# In the outbox's database.
ox() { sql -d outbox "$@"; }
set_outbox() {
    ox -c "ALTER SYSTEM SET apapacho_jobs.outbox_$1 = '$2'" -c "SELECT pg_reload_conf()" -c "SELECT pg_sleep(0.2)" >"$work/set.log"
}
line() { printf '  %-52s %s\n' "$1:" "$2"; }

run_nginx() {
    "$nginx" -p "$work/nginx" -c "$work/nginx/conf" 2>"$work/nginx/out" &
    # shellcheck disable=SC2034  # bench.sh ends it
    receiver=$!
}

# start_receiver ["LOG FORMAT" [HTTP [LOCATION]]]: what else is to be in these blocks of nginx' configuration
start_receiver() {
    local port
    nginx=$(PATH=$PATH:/usr/sbin command -v nginx || true)
    if [[ -n $nginx ]]; then
        mkdir -p "$work/nginx"
        port=$((10000 + $$ % 20000)) # below those that connections are given
        cat >"$work/nginx/conf" <<CONF
daemon off; pid $work/nginx/pid; error_log $work/nginx/log; worker_processes $nginx_workers;
events { worker_connections 2048; }
http { log_format times '\$msec \$http_x_event_id \$request_length'; ${2:-} access_log ${1:-off}; keepalive_requests 100000000;
client_body_temp_path $work/nginx/b; proxy_temp_path $work/nginx/p; fastcgi_temp_path $work/nginx/f;
uwsgi_temp_path $work/nginx/u; scgi_temp_path $work/nginx/s;
server { listen 127.0.0.1:$port; location / { ${3:-return 204;} } } }
CONF
        run_nginx
        say "  receiver: nginx"
    else
        apapacho-jobs listen --port 0 --port-file "$work/port" --secret bench --quiet >"$work/receiver.log" 2>&1 &
        # shellcheck disable=SC2034  # bench.sh ends it
        receiver=$!
        wait_for 20 "the receiver's port" test -s "$work/port"
        port=$(cat "$work/port")
        say "  receiver: apapacho-jobs listen, which verifies every signature"
    fi
    url=http://127.0.0.1:$port/hook
    wait_for 20 "the receiver" bash -c "exec 3<>/dev/tcp/127.0.0.1/$port" 2>/dev/null
}

# A database with the backend's table as it is, whose events go to the receiver when the job is run.
create_outbox() {
    sql -c "DROP DATABASE IF EXISTS outbox" 2>"$work/drop.log" -c "CREATE DATABASE outbox"
    ox -c "CREATE EXTENSION apapacho_jobs" -c "SELECT apapacho_create_tables()" >"$work/tables.log"
    set_outbox wake_on_commit off
    set_outbox publisher_type webhook
    set_outbox webhook_url "$url"
    set_outbox webhook_secret bench
    set_outbox concurrency "$in_flight"
}

# insert COUNT AGGREGATE [PUBLISHED_AT]: events of 500 bytes on the wire, as of a thousand a second until now (ONE_TIME=yes: all of one time,
# as those of one transaction are); AGGREGATE and PUBLISHED_AT are expressions of n.
insert() {
    local created_at="localtimestamp - ($1 - n) * interval '1 ms'"
    [[ -z ${ONE_TIME:-} ]] || created_at=localtimestamp
    ox -c "INSERT INTO \"OutboxEvent\" (\"id\", \"aggregateType\", \"aggregateId\", \"eventType\", \"payload\", \"createdAt\", \"publishedAt\")
        SELECT gen_random_uuid()::text, 'Bench', $2, 'BenchEvent', jsonb_build_object('n', n, 'text', repeat('x', 300)),
            ${created_at}, ${3:-NULL}
        FROM generate_series(1, $1) n"
}

# tidy: what the measurements are not to pay for.
tidy() { ox -c "VACUUM ANALYZE \"OutboxEvent\"" -c "CHECKPOINT"; }

# deliver COUNT: has that many events published, and prints how many a second. Others may be left, which wait.
deliver() {
    local from seconds before after query="SELECT count(*) FROM \"OutboxEvent\" WHERE \"publishedAt\" IS NOT NULL"
    before=$(ox -c "$query")
    from=$(now)
    ox -c "SELECT apapacho_run_job('outbox')" >"$work/run.log"
    seconds=$(awk -v a="$from" -v b="$(now)" 'BEGIN { print b - a }')
    after=$(ox -c "$query")
    ((after - before == $1)) || die "$((after - before)) events were published, not $1: $(cat "$work/run.log")"
    awk -v n="$1" -v s="$seconds" 'BEGIN { print n / s }'
}

# a_round: fills an empty table and publishes it.
a_round() {
    ox -c "TRUNCATE \"OutboxEvent\""
    insert "$events" n::text
    tidy
    deliver "$events"
}

# What wrk posts a second, for five seconds.
wrk_rate() {
    cat >"$work/post.lua" <<'LUA'
wrk.method, wrk.body = "POST", string.rep("x", 500)
wrk.headers["Content-Type"] = "application/json"
LUA
    wrk -t 1 -c "$in_flight" -d 5 -s "$work/post.lua" "$url" | awk '/^Requests\/sec/ { print $2 }'
}

# marked_rate POSTS: that many a second one at a time when each event is marked in a transaction of its own, as the Node original does.
marked_rate() {
    local marks
    ox -c "TRUNCATE \"OutboxEvent\""
    insert 20000 n::text
    ox -c "UPDATE \"OutboxEvent\" SET id = payload->>'n'" -c "VACUUM ANALYZE \"OutboxEvent\""
    cat >"$work/mark.sql" <<'SQL'
\set n random(1, 20000)
UPDATE "OutboxEvent" SET "publishedAt" = localtimestamp, "lastError" = NULL WHERE id = (:n)::text;
SQL
    marks=$(pgbench -n -c 1 -T 3 -f "$work/mark.sql" -h "$work" -U postgres outbox 2>"$work/pgbench.log" | awk '/^tps/ { print $3 }')
    awk -v p="$1" -v m="$marks" 'BEGIN { print 1 / (1 / p + 1 / m) }'
}

# An index of the pending rows alone instead of the backend's three over all rows, which Prisma's migrations would put back; the key stays.
index_pending_rows() {
    local each
    indexes=()
    while read -r each; do
        indexes+=(-c "$each")
    done < <(ox -c "SELECT indexdef FROM pg_indexes WHERE tablename = 'OutboxEvent' AND indexname NOT LIKE '%_pkey'")
    ox -c "DROP INDEX $(ox -c "SELECT string_agg(quote_ident(indexname), ', ') FROM pg_indexes
        WHERE tablename = 'OutboxEvent' AND indexname NOT LIKE '%_pkey'")"
    ox -c "CREATE INDEX pending ON \"OutboxEvent\" (\"publishedAt\", \"createdAt\") WHERE \"publishedAt\" IS NULL"
}

index_all_rows() { ox -c "DROP INDEX pending" "${indexes[@]}"; }

bench_publishing() {
    local wrk=() bare=() single=() marked=() ours=() index=() two=() round from
    start_server
    say "${bold}Publishing$plain: $events events with bodies of about 500 bytes, $in_flight in flight"
    gcc -O2 -Wall -Wno-deprecated-declarations -o "$work/load" "$here/load.c" -lcurl -lcrypto
    start_receiver
    create_outbox
    for ((round = 1; round <= rounds; round++)); do
        set_outbox workers 1
        ours+=("$(a_round)")
        bare+=("$("$work/load" "$url" "$events" "$in_flight" 500)")
        index_pending_rows
        index+=("$(a_round)")
        index_all_rows
        single+=("$("$work/load" "$url" $((events / 20)) 1 500)")
        marked+=("$(marked_rate "${single[-1]}")")
        set_outbox workers 2
        two+=("$(a_round)")
        ! command -v wrk >/dev/null || wrk+=("$(wrk_rate)")
        say "  round $round: bare libcurl ${bare[-1]}, ours ${ours[-1]}, with our index ${index[-1]}, two publishers ${two[-1]};" \
            "load average $(cut -d ' ' -f 1 /proc/loadavg)"
    done
    [[ ${#wrk[@]} == 0 ]] || line "wrk, posts/s" "$(summary "${wrk[@]}")"
    line "bare libcurl multi and HMAC, posts/s" "$(summary "${bare[@]}")"
    line "bare libcurl, one at a time, posts/s" "$(summary "${single[@]}")"
    line "the same, and each marked in a transaction, events/s" "$(summary "${marked[@]}")"
    line "one publisher, the table's own indexes, events/s" "$(summary "${ours[@]}")"
    line "one publisher, an index of pending rows, events/s" "$(summary "${index[@]}")"
    line "two publishers, the table's own indexes, events/s" "$(summary "${two[@]}")"
    from=$(median "${bare[@]}")
    line "beside bare libcurl: one, with index, two" "$(ratio "$(median "${ours[@]}")" "$from"), $(ratio "$(median "${index[@]}")" \
        "$from"), $(ratio "$(median "${two[@]}")" "$from")"
    line "one publisher / one at a time, marked" "$(ratio "$(median "${ours[@]}")" "$(median "${marked[@]}")")"
    line "two publishers / one" "$(ratio "$(median "${two[@]}")" "$(median "${ours[@]}")")"
}

# produce SECONDS PGBENCH_ARGUMENT...: events in transactions of their own; prints how many a second.
produce() {
    cat >"$work/produce.sql" <<'SQL'
INSERT INTO "OutboxEvent" (id, "aggregateType", "aggregateId", "eventType", payload, "createdAt")
    VALUES (gen_random_uuid(), 'Bench', gen_random_uuid(), 'Produced', '{"text": "x"}', clock_timestamp() AT TIME ZONE 'UTC');
SQL
    pgbench -n -T "$1" -f "$work/produce.sql" -h "$work" -U postgres "${@:2}" outbox 2>"$work/pgbench.log" \
        | awk '/^tps/ { print $3 }'
}

nothing_pending() { [[ $(ox -c "SELECT count(*) FROM \"OutboxEvent\" WHERE \"publishedAt\" IS NULL") == 0 ]]; }

# Publishers are woken from here on.
wake_on_commit() {
    set_outbox cron '0 0 1 1 *'
    set_outbox wake_on_commit on
}

no_wake_on_commit() {
    set_outbox wake_on_commit off
    set_outbox cron ''
    wait_for 20 "the publisher's end" no_publisher
}

no_publisher() { [[ $(ox -c "SELECT executing FROM apapacho_job_status() WHERE name = 'outbox'") == f ]]; }

# latency LABEL SECONDS: 100 events/s for so long, and how long each takes to the receiver; the table is as it is.
latency() {
    : >"$work/nginx/times"
    wake_on_commit
    produce "$2" -c 4 -R 100 >"$work/produced"
    wait_for 20 "the last event" nothing_pending
    no_wake_on_commit
    sleep 1
    ox -c "SELECT id, extract(epoch FROM \"createdAt\") FROM \"OutboxEvent\" WHERE \"eventType\" = 'Produced'" -F ' ' >"$work/inserted"
    awk 'NR == FNR { at[$1] = $2; next } ($2 in at) && !seen[$2]++ { print 1000 * ($1 - at[$2]) }' "$work/inserted" "$work/nginx/times" \
        >"$work/latencies"
    line "$1, ms" "$(spread "$work/latencies")"
}

measure_latency() {
    if [[ ! -s $work/nginx/conf ]]; then
        line "latency" "not measured: there is no nginx"
        return
    fi
    ox -c "TRUNCATE \"OutboxEvent\""
    latency "insertion to receiver at 100/s" "$latency_seconds"
}

# The job `cleanup` deletes all old rows while events come and go.
measure_cleanup() {
    local from cleanup
    ox -c "TRUNCATE \"OutboxEvent\""
    insert "$published" n::text "localtimestamp - interval '40 days'"
    tidy
    (
        from=$(now)
        ox -c "SELECT apapacho_outbox_cleanup(30)" >"$work/cleanup.log"
        awk -v n="$published" -v a="$from" -v b="$(now)" 'BEGIN { printf "%.0f rows/s, %.0f s", n / (b - a), b - a }' >"$work/cleanup"
    ) &
    cleanup=$!
    latency "the same while $published old rows are deleted" "$latency_seconds"
    wait "$cleanup"
    line "cleanup" "$(cat "$work/cleanup"): $(cut -c 1-120 "$work/cleanup.log")"
}

measure_producers() {
    local clients round way rates
    ox -c "SELECT apapacho_outbox_pause()" >"$work/pause.log"
    for clients in 1 8 32; do
        : >"$work/producer.on" && : >"$work/producer.off"
        for ((round = 1; round <= rounds; round++)); do
            for way in $( ((round % 2)) && printf 'off on' || printf 'on off'); do
                ox -c "TRUNCATE \"OutboxEvent\"" -c "CHECKPOINT"
                if [[ $way == on ]]; then wake_on_commit; else no_wake_on_commit; fi
                produce "$producer_seconds" -c "$clients" -j 2 >>"$work/producer.$way"
            done
        done
        rates="on $(figures "$work/producer.on"), off $(figures "$work/producer.off")"
        line "$clients producers, waking on / off, events/s" \
            "$rates: $(ratio "$(middle "$work/producer.on")" "$(middle "$work/producer.off")")"
    done
    no_wake_on_commit
    ox -c "TRUNCATE \"OutboxEvent\"" -c "SELECT apapacho_outbox_resume()" >"$work/pause.log"
}

# The rate with nothing in the way: the table is empty but for the backlog.
plain_rate() {
    ox -c "TRUNCATE \"OutboxEvent\"" -c "TRUNCATE apapacho_jobs.outbox_retry"
    insert "$backlog" n::text
    tidy
    deliver "$backlog"
}

rate_beside_stuck() {
    ox -c "TRUNCATE \"OutboxEvent\""
    insert "$stuck" "'stuck'"
    ox -c "INSERT INTO apapacho_jobs.outbox_retry SELECT id, 'Bench', 'stuck', 1, now() + interval '1 day'
        FROM \"OutboxEvent\" ORDER BY \"createdAt\", ctid LIMIT 1"
    sleep 6 # what is stuck has been so for a while
    insert "$backlog" n::text
    tidy
    deliver "$backlog"
    ox -c "TRUNCATE apapacho_jobs.outbox_retry"
}

# An old snapshot from the beginning of a time in which events come and go, until its end.
rate_with_old_snapshot() {
    local holder
    ox -c "TRUNCATE \"OutboxEvent\"" # before it, or it would see nothing at all
    tidy
    ox -c "SET application_name = 'bench holder'" -c "BEGIN ISOLATION LEVEL REPEATABLE READ" -c "SELECT count(*) FROM \"OutboxEvent\"" \
        -c "SELECT pg_sleep(3600)" >"$work/holder.log" 2>&1 &
    holder=$!
    wake_on_commit
    produce "$held_seconds" -c 4 -R 300 >"$work/produced"
    wait_for 60 "the last event" nothing_pending
    no_wake_on_commit
    insert "$backlog" n::text
    tidy
    deliver "$backlog"
    ox -c "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'bench holder'" >"$work/terminate.log"
    wait "$holder" || true
}

rate_with_old_rows() {
    ox -c "TRUNCATE \"OutboxEvent\""
    insert "$published" n::text "localtimestamp - interval '1 hour'"
    insert "$backlog" n::text
    tidy
    deliver "$backlog"
}

# wants PART: whether it is one of those asked for.
wants() { [[ " $costs " == *" $1 "* ]]; }

# beside WHAT RATE: the rate, and as a ratio to the plain one.
beside() { line "$1" "$2 events/s, $(ratio "$2" "$plain_before")"; }

bench_outbox_costs() {
    local plain_before rate
    start_server
    say "${bold}The outbox's costs$plain"
    start_receiver "$work/nginx/times times"
    create_outbox
    ! wants latency || measure_latency
    ! wants cleanup || measure_cleanup
    ! wants producers || measure_producers
    plain_before=$(plain_rate)
    line "$backlog events, nothing in the way" "$plain_before events/s"
    if wants published; then
        rate=$(rate_with_old_rows)
        beside "$published published rows in the table" "$rate"
    fi
    if wants held; then
        rate=$(rate_with_old_snapshot)
        beside "an old snapshot, since $((held_seconds * 300)) events" "$rate"
    fi
    if wants stuck; then
        rate=$(rate_beside_stuck)
        beside "$stuck events stuck behind one that failed" "$rate"
    fi
    line "$backlog events, nothing in the way, again" "$(plain_rate) events/s"
    line "load average" "$(cut -d ' ' -f 1-3 /proc/loadavg)"
}

# cpu_of PID...: CPU seconds so far, threads included.
cpu_of() {
    local pid ticks=0 own
    for pid in "$@"; do
        own=$(awk '{ print $14 + $15 }' "/proc/$pid/stat" 2>/dev/null || true)
        ticks=$((ticks + ${own:-0}))
    done
    awk -v t="$ticks" -v hz="$(getconf CLK_TCK)" 'BEGIN { print t / hz }'
}

# elsewhere_round COUNT: prints the rate, and the CPU time of the programs, of their backends and of the receiver, microseconds an event.
# COUNT 0: the publisher in the server, whose worker counts as a backend.
elsewhere_round() {
    local programs=() backends=() receivers from seconds cpu=()
    ox -c "TRUNCATE \"OutboxEvent\""
    tidy
    for ((i = 1; i <= $1; i++)); do
        apapacho-jobs outbox start --host "$work" --username postgres --dbname outbox >"$work/start.$i" 2>&1 &
        programs+=($!)
        wait_for 20 "a publisher" grep -qs Publishing "$work/start.$i"
    done
    mapfile -t backends < <(ox -c "SELECT pid FROM pg_stat_activity WHERE application_name = 'apapacho-jobs'")
    mapfile -t receivers < <(pgrep -P "$receiver" || echo "$receiver")
    cpu=("$(cpu_of "${programs[@]}")" "$(cpu_of "${backends[@]}")" "$(cpu_of "${receivers[@]}")")
    insert "$events" n::text
    from=$(now)
    until nothing_pending; do sleep 0.1; done
    seconds=$(awk -v a="$from" -v b="$(now)" 'BEGIN { print b - a }')
    # it waits for more events
    (($1 > 0)) || mapfile -t backends < <(ox -c "SELECT pid FROM pg_stat_activity WHERE backend_type = 'apapacho_jobs worker'")
    awk -v n="$events" -v s="$seconds" 'BEGIN { printf "%.1f", n / s }'
    awk -v n="$events" -v a="$(cpu_of "${programs[@]}")" -v b="$(cpu_of "${backends[@]}")" -v c="$(cpu_of "${receivers[@]}")" \
        -v a0="${cpu[0]}" -v b0="${cpu[1]}" -v c0="${cpu[2]}" \
        'BEGIN { printf " %.1f %.1f %.1f\n", (a - a0) / n * 1e6, (b - b0) / n * 1e6, (c - c0) / n * 1e6 }'
    ((${#programs[@]} == 0)) || kill "${programs[@]}"
    wait "${programs[@]}"
}

# Whether the server itself publishes.
publish_in_server() {
    sql -c "ALTER SYSTEM SET apapacho_jobs.enabled = '$1'" -c "SELECT pg_reload_conf()" >"$work/set.log"
    wait_for 30 "schedulers" bash -c "[[ \$(psql -XqAt -h '$work' -U postgres -d outbox -c \"SELECT count(*) FROM pg_stat_activity
        WHERE backend_type = 'apapacho_jobs scheduler' AND datname = 'outbox'\") == $2 ]]"
}

bench_publishers_elsewhere() {
    local rate=() busy=() count round one server
    local -A elsewhere=()
    start_server
    say "${bold}Publishers elsewhere$plain: $events events with bodies of about 500 bytes, $in_flight in flight for each publisher, $(nproc) processors"
    start_receiver
    create_outbox
    for ((round = 1; round <= rounds; round++)); do
        wake_on_commit
        publish_in_server on 1
        for count in 0 1 2 4; do
            read -r -a rate < <(elsewhere_round "$count")
            elsewhere[$count]+=" ${rate[0]}"
            busy[count]="${rate[*]:1}"
            ((count > 0)) || publish_in_server off 0
        done
        say "  round $round: in the server, 1, 2, 4 elsewhere: ${elsewhere[0]##* } ${elsewhere[1]##* } ${elsewhere[2]##* } ${elsewhere[4]##* };" \
            "load average $(cut -d ' ' -f 1 /proc/loadavg)"
    done
    for count in 0 1 2 4; do
        read -r -a rate <<<"${elsewhere[$count]}"
        ((count != 0)) || server=$(median "${rate[@]}")
        ((count > 1)) || one=$(median "${rate[@]}")
        line "$( ((count == 0)) && printf 'in the server' || printf '%s elsewhere' "$count"), events/s" "$(summary "${rate[@]}"), \
$(ratio "$(median "${rate[@]}")" "$server") of the server's, $(ratio "$(median "${rate[@]}")" "$one") of one"
        line "  CPU us an event: programs, backends, receiver" "${busy[count]} (last round)"
    done
}
