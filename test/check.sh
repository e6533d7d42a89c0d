#!/usr/bin/env bash
# check.sh: runs the test suites and adds up their results. Run it by `make check`, or by hand as test/sandbox.sh test/check.sh.
#
# SUITE="unit tap" runs only those suites, TEST="crash outbox" only the tests whose name holds one of these words; PROVE_JOBS is the
# number of TAP tests at once (2). The last line of the output is `N passed, N failed, N skipped` over all suites; the exit status
# tells whether all was well. A suite that breaks without a count is a failure, never a pass.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=test/lib.sh
. "$here/lib.sh"
[[ -n ${APAPACHO_BUILD:-} ]] || die "Run this as: test/sandbox.sh test/check.sh (or make check)"

suites=(unit regress isolation tap)
declare -A passed failed skipped seconds

# Counts for the suite at work.
count() {
    passed[$suite]=$((${passed[$suite]} + $1))
    failed[$suite]=$((${failed[$suite]} + $2))
    skipped[$suite]=$((${skipped[$suite]} + $3))
}

# selected NAME: whether TEST asks for this test.
selected() {
    local word
    [[ -n ${TEST:-} ]] || return 0
    for word in $TEST; do
        [[ $1 != *"$word"* ]] || return 0
    done
    return 1
}

# names_of SUFFIX FILE...: the names of the tests in these files that are asked for.
names_of() {
    local suffix=$1 file
    shift
    for file in "$@"; do
        file=$(basename "$file" "$suffix")
        if [[ $file != \** ]] && selected "$file"; then
            printf '%s\n' "$file"
        fi
    done
}

run_unit() {
    local name log line result
    if ! make -s -j "${JOBS:-2}" -f test/programs.mk unit >"$APAPACHO_BUILD/unit.log" 2>&1; then
        cat "$APAPACHO_BUILD/unit.log"
        count 0 1 0
        return
    fi
    for name in $(names_of .c test/unit/*_test.c); do
        log=$APAPACHO_BUILD/unit/$name.log
        result=0
        timeout 600 "$APAPACHO_BUILD/unit/$name" >"$log" 2>&1 || result=$?
        line=$(tail -n 1 "$log")
        if [[ $line =~ ([0-9]+)\ passed,\ ([0-9]+)\ failed ]]; then
            count "${BASH_REMATCH[1]}" "${BASH_REMATCH[2]}" 0
            ((result == 0 || BASH_REMATCH[2] > 0)) || count 0 1 0
        else
            line="broke off with exit status $result"
            count 0 1 0
        fi
        say "$name: $line"
        ((result == 0)) || tail -n 60 "$log"
    done
}

# with_server DIRECTORY COMMAND...: a server with the extension preloaded and test/regress.conf, for as long as COMMAND runs.
with_server() {
    local directory=$1 result=0
    shift
    rm -rf "$directory"
    mkdir -p "$directory"
    initdb -D "$directory/data" -U postgres -A trust -E UTF8 --no-sync >"$directory/initdb.log"
    {
        cat test/regress.conf
        printf "listen_addresses = ''\nunix_socket_directories = '%s'\nfsync = off\n" "$directory"
    } >>"$directory/data/postgresql.conf"
    if pg_ctl start -w -s -D "$directory/data" -l "$directory/server.log" </dev/null; then
        "$@" || result=$?
        pg_ctl stop -w -s -D "$directory/data" -m fast || result=1
    else
        tail -n 40 "$directory/server.log"
        result=1
    fi
    return "$result"
}

# count_regress LOG EXPECTED RESULT: counts what pg_regress reports, in the form of PostgreSQL 15 or the TAP of 16 and later.
count_regress() {
    local ok bad
    ok=$(grep -cE '^(test .*|  .*)\.\.\. ok( |$)|^ok [0-9]+' "$1" || true)
    bad=$(($2 - ok))
    ((bad > 0 || $3 == 0)) || bad=1
    count "$ok" "$bad" 0
    ((bad == 0)) || head -c 40000 "$(dirname "$1")/regression.diffs" 2>/dev/null || true
}

# regress PROGRAM DIRECTORY OPTION... -- NAME...: runs pg_regress or its sister for isolation tests; results go to DIRECTORY.
regress() {
    local program=$1 directory=$2 options=() result=0
    shift 2
    while [[ $1 != -- ]]; do
        options+=("$1")
        shift
    done
    shift
    mkdir -p "$directory"
    with_server "$TMPDIR/$suite" "$program" --host="$TMPDIR/$suite" --port=5432 --user=postgres --outputdir="$directory" \
        "${options[@]}" "$@" >"$directory/log" 2>&1 || result=$?
    grep -E '\.\.\. |^(not )?ok ' "$directory/log" || cat "$directory/log"
    count_regress "$directory/log" $# "$result"
    if ((result != 0)); then
        say "${dim}The end of the server's log:$plain"
        tail -n 30 "$TMPDIR/$suite/server.log" 2>/dev/null || true
    fi
}

run_regress() {
    local names
    mapfile -t names < <(names_of .sql sql/*.sql)
    ((${#names[@]} == 0)) || regress "$APAPACHO_PGXS/src/test/regress/pg_regress" "$APAPACHO_BUILD/regress" \
        --inputdir=. --bindir="$(dirname "$(command -v psql)")" --dlpath="$APAPACHO_BUILD" --dbname=contrib_regression -- "${names[@]}"
}

run_isolation() {
    local names
    mapfile -t names < <(names_of .spec test/isolation/specs/*.spec)
    ((${#names[@]} == 0)) || regress "$APAPACHO_PGXS/src/test/isolation/pg_isolation_regress" "$APAPACHO_BUILD/isolation" \
        --inputdir=test/isolation --bindir="$(dirname "$(command -v psql)")" --dbname=isolation_regression \
        --load-extension=apapacho_jobs -- "${names[@]}"
}

run_tap() {
    local names results=$APAPACHO_BUILD/tap result=0 ok bad skip
    mapfile -t names < <(names_of .pl test/tap/t/*.pl)
    ((${#names[@]} > 0)) || return 0
    rm -rf "$results"
    mkdir -p "$results/tmp_check/log" "$results/ports"
    # What PGXS's own targets for TAP tests set, for PostgreSQL 15 (TESTDIR) and later.
    TESTDIR=$results TESTDATADIR=$results/tmp_check TESTLOGDIR=$results/tmp_check/log PG_TEST_PORT_DIR=$results/ports \
        top_builddir=$results PGPORT=65432 PG_REGRESS=$APAPACHO_PGXS/src/test/regress/pg_regress \
        perl test/tap/harness.pl "${PROVE_JOBS:-2}" "$results" -I "$APAPACHO_PGXS/src/test/perl" -I test/tap/lib \
        "${names[@]/%/.pl}" || result=$?
    if [[ -s $results/counts ]]; then
        read -r ok bad skip <"$results/counts"
        ((result == 0 || bad > 0)) || bad=1
        count "$ok" "$bad" "$skip"
    else
        count 0 1 0
    fi
}

for suite in ${SUITE:-${suites[@]}}; do
    [[ " ${suites[*]} " == *" $suite "* ]] || die "unknown suite \"$suite\"; there are: ${suites[*]}"
    passed[$suite]=0 failed[$suite]=0 skipped[$suite]=0
    started=$SECONDS
    say
    say "${bold}== $suite$plain"
    "run_$suite"
    seconds[$suite]=$((SECONDS - started))
done

say
all_passed=0 all_failed=0 all_skipped=0
for suite in ${SUITE:-${suites[@]}}; do
    printf '%-10s %6d passed %6d failed %6d skipped %6d s\n' \
        "$suite" "${passed[$suite]}" "${failed[$suite]}" "${skipped[$suite]}" "${seconds[$suite]}"
    all_passed=$((all_passed + ${passed[$suite]}))
    all_failed=$((all_failed + ${failed[$suite]}))
    all_skipped=$((all_skipped + ${skipped[$suite]}))
done
if ((all_passed + all_failed == 0)); then
    warn "No test was run."
    all_failed=1
fi
# The line is the last one also after what test/sandbox.sh says; the totals of a failed run must not be lost above it.
say "$all_passed passed, $all_failed failed, $all_skipped skipped"
((all_failed == 0))
