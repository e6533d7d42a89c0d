# shellcheck shell=bash
# soak.sh: whether anything grows when the outbox is at work for long. Sourced by bench.sh, which says how to run it; stands on outbox.sh.
#
# SOAK_SECONDS=3600 of SOAK_RATE=500 events/s of 1,000 aggregates to nginx, which answers one in fifty with 503, is gone for 20 s of every four
# minutes and hangs for 10 s of the same. Published events are deleted each minute. A line every SOAK_SAMPLE=60 seconds: private memory and
# descriptors of the launcher, the scheduler and the publisher, sizes of tables with their indexes, what waits. In the end: how the second half's
# means stand to the first's, whose first tenth is left out, and whether every event has been acknowledged.
# shellcheck disable=SC2154 # what is not set here is set by bench.sh or outbox.sh

soak_seconds=${SOAK_SECONDS:-3600} soak_rate=${SOAK_RATE:-500} soak_sample=${SOAK_SAMPLE:-60}

# What nginx answers, and a log of it.
soaking_receiver() {
    start_receiver "$work/nginx/answers answers" \
        "split_clients \"\$request_id\" \$bad { 2% 1; * 0; } log_format answers '\$status \$http_x_event_id';" \
        "if (\$bad) { return 503; } return 204;"
}

# kb_and_descriptors BACKEND_TYPE: private memory in kB and the open descriptors of such a process.
kb_and_descriptors() {
    local pid kb descriptors
    pid=$(ox -c "SELECT pid FROM pg_stat_activity WHERE backend_type = 'apapacho_jobs $1' AND coalesce(datname, 'outbox') = 'outbox' LIMIT 1")
    kb=$(awk '/^RssAnon/ { print $2 }' "/proc/${pid:-none}/status" 2>/dev/null || true)
    descriptors=$({ find "/proc/${pid:-none}/fd" -mindepth 1 2>/dev/null || true; } | wc -l)
    printf '%s %s ' "${kb:--}" "$( ((descriptors > 0)) && printf '%s' "$descriptors" || printf '-')"
}

sample() {
    {
        printf '%s ' "$(($(date +%s) - soak_from))"
        kb_and_descriptors launcher
        kb_and_descriptors scheduler
        kb_and_descriptors worker
        ox -F ' ' -c "SELECT pg_total_relation_size('\"OutboxEvent\"') / 1024, pg_total_relation_size('apapacho_jobs.outbox_retry') / 1024,
            pg_total_relation_size('apapacho_jobs.run') / 1024, (SELECT count(*) FROM \"OutboxEvent\" WHERE \"publishedAt\" IS NULL),
            (SELECT state FROM apapacho_jobs.outbox_status LIMIT 1)"
    } >>"$work/samples"
    tail -n 1 "$work/samples"
}

# The receiver's faults, by the second of each four minutes.
do_harm() {
    case $(($1 % 240)) in
        60) kill -QUIT "$receiver" && { wait "$receiver" || true; } ;; # told otherwise it may answer what it does not log
        80) run_nginx ;;
        160) pkill -STOP -P "$receiver" ;;
        170) pkill -CONT -P "$receiver" ;;
    esac
}

# What has happened to each column from the first half to the second.
compare_halves() {
    awk -v most="$soak_seconds" 'BEGIN { split("launcher_kB launcher_fds scheduler_kB scheduler_fds publisher_kB publisher_fds OutboxEvent_kB outbox_retry_kB run_kB", names, " ") }
        $1 < most / 10 { next }
        { half = $1 < most * 0.55; for (i = 2; i <= 10; i++) if ($i != "-") { n[i, half]++; sum[i, half] += $i } }
        END { for (i = 2; i <= 10; i++) if (n[i, 1] && n[i, 0])
            printf "  %-20s %10.0f then %10.0f: %.2f\n", names[i - 1], sum[i, 1] / n[i, 1], sum[i, 0] / n[i, 0], sum[i, 0] / n[i, 0] * n[i, 1] / sum[i, 1] }' "$work/samples"
}

# What waits for a retry does not wait for its time.
nothing_pending_at_once() {
    nothing_pending || ! ox -c "SELECT apapacho_outbox_resume()" -c "SELECT apapacho_outbox_retry_failed()" >>"$work/retry.log"
}

bench_soak() {
    local soak_from producer second=0 emitted
    start_server
    sql -c "ALTER SYSTEM SET autovacuum_naptime = '15s'" -c "SELECT pg_reload_conf()" >"$work/set.log"
    say "${bold}Soak$plain: $soak_rate events/s for $soak_seconds s; seconds; kB and descriptors of launcher, scheduler, publisher; kB of OutboxEvent, outbox_retry, run; pending; state"
    soaking_receiver
    [[ -n $nginx ]] || die "there is no nginx, whose log says what has arrived: test/setup.sh bench"
    create_outbox
    set_outbox timeout 5s
    set_outbox retry_schedule '5s, 5s, 10s' # what follows in an aggregate waits as long
    ox -c "CREATE SEQUENCE soak_id" -c "ALTER TABLE \"OutboxEvent\" ALTER id SET DEFAULT nextval('soak_id')::text"
    cat >"$work/soak.sql" <<'SQL'
\set aggregate random(1, 1000)
INSERT INTO "OutboxEvent" ("aggregateType", "aggregateId", "eventType", payload)
    VALUES ('Soak', :aggregate, 'SoakEvent', jsonb_build_object('text', repeat('x', 300)));
SQL
    wake_on_commit
    pgbench -n -c 4 -T "$soak_seconds" -R "$soak_rate" -f "$work/soak.sql" -h "$work" -U postgres outbox >"$work/pgbench.log" 2>&1 &
    producer=$!
    soak_from=$(date +%s)
    while kill -0 "$producer" 2>/dev/null; do
        do_harm "$second"
        ((second % soak_sample != 0)) || sample
        ((second % 60 != 30)) || ox -c "SELECT apapacho_outbox_cleanup(0)" >"$work/cleanup.log" &
        while (($(date +%s) - soak_from <= second)); do sleep 0.1; done
        second=$((second + 1))
    done
    wait "$producer" || die "the producer failed: $(cat "$work/pgbench.log")"
    wait_for 300 "the last event" nothing_pending_at_once
    compare_halves
    emitted=$(ox -c "SELECT last_value FROM soak_id")
    awk -v n="$emitted" '$1 == 204 { if (seen[$2]++) again++ } $1 != 204 { bad++ } END { for (i = 1; i <= n; i++) lost += !(i in seen)
        printf "  %d events, %d lost, %d acknowledged again, %d answered 503 or worse\n", n, lost, again, bad }' "$work/nginx/answers"
    line "attempts logged, kB" "$(ox -c "SELECT count(*) || ', ' || (SELECT (sum(pg_total_relation_size(inhrelid)) / 1024)::bigint FROM pg_inherits
        WHERE inhparent = 'apapacho_jobs.outbox_attempt'::regclass) FROM apapacho_jobs.outbox_attempt")"
}
