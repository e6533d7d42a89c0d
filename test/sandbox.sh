#!/usr/bin/env bash
# sandbox.sh COMMAND [ARGUMENT...]: builds the extension and runs a command of test/ beside a PostgreSQL of its own.
#
# Installs what is missing, then in a new directory: copies the sources, makes a private copy of the installed PostgreSQL, builds the
# extension, installs it into that copy, and runs COMMAND there. Nothing is installed into the system and nothing is written into the
# clone. PostgreSQL refuses to run as root, so root works as the user APAPACHO_USER (postgres) from the copying on.
#
# In the end, and when interrupted, whatever still runs from the directory is stopped and the directory is removed. It is kept, and
# named, when COMMAND fails or with KEEP=1. With APAPACHO_WORK=DIRECTORY that directory is used and kept: the next run builds only
# what has changed.
#
# COMMAND finds in its environment
#   PATH             the private PostgreSQL's programs and apapacho-jobs first
#   PG_CONFIG        that of the PostgreSQL which the extension was built with
#   APAPACHO_BUILD   directory for what is built and written by the tests (test/programs.mk)
#   APAPACHO_PGXS    PostgreSQL's directory with pg_regress and the modules PostgreSQL::Test below
#   TMPDIR           a directory of short name for sockets and data
#   npm_config_*     npm's registry, where there is npm: another user in another home would not know of it
# and of the caller's environment only what is listed in `passed_on` below.
set -euo pipefail
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=test/lib.sh
. "$top/test/lib.sh"
(($# > 0)) || die "usage: test/sandbox.sh COMMAND [ARGUMENT...]"

passed_on=(CC COPT CI KEEP NO_COLOR TERM JOBS SUITE TEST PROVE_JOBS PG_TEST_TIMEOUT_DEFAULT TAP_MINUTES LEDGER_ROUNDS LEDGER_SEED LEDGER_SLOTS
    CRON_REFERENCE_COUNT CRON_REFERENCE_SEED START_EVENTS PUBLISHERS_EVENTS PUBLISHERS_KILLS ENDPOINTS_EVENTS ENDPOINTS_AGGREGATES
    ENDPOINTS_KILLS WAITING_SEED PAYOUT_SEED PAYOUT_SECONDS PAYOUT_CREATORS PAYOUT_ROUNDS PAYOUT_KILLS)

# A variable of make's command line reaches us in the environment; make's own must not reach the make that we call.
unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES

work=
group=          # the process group of the command, its leader's id
interrupted=no

# Processes whose program lies in the work directory: our servers, receivers, tests. One id a line.
left_running() {
    local entry program
    for entry in /proc/[0-9]*; do
        program=$(readlink "$entry/exe" 2>/dev/null) || continue
        [[ $program != "$work"/* ]] || printf '%s\n' "${entry#/proc/}"
    done
}

nothing_left() { [[ -z $(left_running) ]]; }
group_ended() { ! kill -0 -- "-$group" 2>/dev/null; }

# Asks first, so that the command can end what it started in its own way; then insists. To a postmaster SIGQUIT is the immediate
# shutdown, which takes its children with it.
stop_all() {
    local signal ids
    if [[ -n $group ]] && kill -TERM -- "-$group" 2>/dev/null; then
        (wait_for 20 "the command to end" group_ended) || kill -KILL -- "-$group" 2>/dev/null || true
    fi
    for signal in QUIT KILL; do
        mapfile -t ids < <(left_running)
        ((${#ids[@]} > 0)) || return 0
        kill "-$signal" "${ids[@]}" 2>/dev/null || true
        (wait_for 10 "what was left running to end" nothing_left) && return
    done
}

finish() {
    local status=$?
    trap '' INT TERM HUP
    [[ -n $work ]] || exit "$status"
    stop_all || true
    if [[ -n ${APAPACHO_WORK:-} ]]; then
        say "${dim}Work directory: $work$plain"
    elif [[ -n ${KEEP:-} ]] || { ((status != 0)) && [[ $interrupted == no ]]; }; then
        say "Kept for a look: $work"
    else
        rm -rf "$work"
    fi
    exit "$status"
}

interrupt() {
    interrupted=yes
    exit 130
}

make_work_directory() {
    if [[ -n ${APAPACHO_WORK:-} ]]; then
        mkdir -p "$APAPACHO_WORK"
        work=$(cd "$APAPACHO_WORK" && pwd -P)
    else
        work=$(mktemp -d "${TMPDIR:-/tmp}/apapacho.XXXXXX")
        work=$(cd "$work" && pwd -P)
    fi
    mkdir -p "$work/source" "$work/tmp" "$work/home"
    # Modification times are kept, so that make can tell what has changed in a directory used before.
    tar -C "$top" -cf - --exclude=./.git --exclude=./build --exclude=./tmp_check --exclude=./results --exclude=./output_iso \
        --exclude='./apapacho_jobs--*.sql' --exclude=./apapacho-jobs --exclude=./src/cli/serve_openapi.c --exclude='*.o' --exclude='*.so' --exclude='*.bc' . \
        | tar -C "$work/source" -xf - --no-same-owner
    [[ -z $user ]] || chown -R "$user:" "$work"
}

# The registry that npm is set up with for the caller, as variables of npm's.
npm_settings() {
    local name value
    command -v npm >/dev/null || return 0
    (cd / && npm config get registry cafile 2>/dev/null </dev/null) | while IFS='=' read -r name value; do
        [[ $name != @(registry|cafile) || $value == @(|null|undefined) ]] || printf 'npm_config_%s=%s\n' "$name" "$value"
    done
}

# The environment and the user that COMMAND runs with; as_user COMMAND... replaces the shell.
as_user() {
    local drop=() variables=() name
    if [[ -n $user ]]; then
        drop=(setpriv --reuid "$user" --regid "$(id -g "$user")" --clear-groups)
    fi
    for name in "${passed_on[@]}"; do
        [[ -z ${!name+set} ]] || variables+=("$name=${!name}")
    done
    variables+=("${npm_variables[@]}")
    cd "$work/source"
    exec "${drop[@]}" env -i --default-signal=INT,QUIT "${variables[@]}" LANG=C.UTF-8 HOME="$work/home" TMPDIR="$work/tmp" \
        PATH="$work/server$bindir:/usr/local/bin:/usr/bin:/bin" PG_CONFIG="$pg_config" \
        APAPACHO_BUILD="$work/source/build" APAPACHO_PGXS="$pgxs" "$@"
}

# In the background and waited for, so that a signal is taken at once; in a session of its own, so that all of it can be stopped.
run() {
    (as_user setsid "$@") &
    group=$!
    wait "$group"
}

bash "$top/test/setup.sh" check
pg_config=$(find_pg_config)
[[ -n $pg_config ]] || die "no pg_config found: set PG_CONFIG to that of a PostgreSQL $oldest_postgres or later, with its headers"
bindir=$("$pg_config" --bindir)
pgxs=$(cd "$(dirname "$("$pg_config" --pgxs)")/../.." && pwd)

user=
if [[ $(id -u) == 0 ]]; then
    user=${APAPACHO_USER:-$(id -un postgres 2>/dev/null || printf nobody)}
fi

mapfile -t npm_variables < <(npm_settings)

trap finish EXIT
trap interrupt INT TERM HUP
make_work_directory
run bash test/build.sh "$work/server"
run "$@"
