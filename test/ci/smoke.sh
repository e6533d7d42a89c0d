#!/usr/bin/env bash
# smoke.sh PACKAGE.deb...: the packages of `make deb` on a fresh Debian: they install, work, and go. Run as root, in a root directory of
# its own (.ci/run), with a mirror for what they depend on. The last line is the counts.
set -euo pipefail
packages=("$@")
passed=0
failed=0

check() {
    local what=$1
    shift
    if "$@"; then
        passed=$((passed + 1))
        printf '  ok      %s\n' "$what"
    else
        failed=$((failed + 1))
        printf '  FAILED  %s\n' "$what"
    fi
}

matches() { [[ $1 =~ $2 ]] || { printf '          found: %s\n          wanted: %s\n' "$1" "$2" >&2; return 1; }; }
as_postgres() { runuser -u postgres -- env -C / "$@"; }
nothing_left() { ! compgen -G '/usr/lib/systemd/system/apapacho*' >/dev/null && [[ ! -e /usr/bin/apapacho-jobs && ! -e /etc/apapacho-jobs ]]; }

export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
apt-get update -qq
check 'they install, with what they depend on' apt-get install -y -qq -o Dpkg::Use-Pty=0 --no-install-recommends "${packages[@]}"
major=$(basename /usr/lib/postgresql/*/)
pg_lsclusters -h | grep -q main || pg_createcluster "$major" main
echo "shared_preload_libraries = 'apapacho_jobs'" >>"/etc/postgresql/$major/main/postgresql.conf"
check 'the server starts with it' pg_ctlcluster "$major" main restart
trap 'pg_ctlcluster "$major" main stop -m fast || true' EXIT
check 'the extension is created' as_postgres psql -Xqc 'CREATE EXTENSION apapacho_jobs' -c 'SELECT FROM apapacho_create_tables()'
check 'an event is emitted' as_postgres psql -Xqc "SELECT FROM apapacho_outbox_emit('Order', '1', 'OrderPaid', '{}')"
check 'the program runs jobs' matches "$(as_postgres apapacho-jobs run payout)" '^\[Job:Payout\] Completado - Creados: 0, Omitidos: 0, Errores: 0$'
check 'and shows them' matches "$(as_postgres apapacho-jobs runs --job payout)" 'payout +manual +succeeded'
for _ in {1..300}; do
    stats=$(as_postgres apapacho-jobs outbox stats --json)
    [[ $stats != *'"published": 2'* ]] || break
    sleep 0.2
done
# The payout run has added one.
check 'events are published when they are committed' matches "$stats" '"published": 2'
check 'its units are where systemd looks' test -e /usr/lib/systemd/system/apapacho-jobs@.service
check 'both say whose they are' test -s /usr/share/doc/apapacho-jobs/copyright -a -s "/usr/share/doc/postgresql-$major-apapacho-jobs/copyright"
check 'its settings are for root only' matches "$(stat -c '%a %U' /etc/apapacho-jobs/environment)" '^600 root$'
check 'it can be removed' apt-get purge -y -qq -o Dpkg::Use-Pty=0 apapacho-jobs
check 'and nothing is left' nothing_left
printf '%d passed, %d failed, 0 skipped\n' "$passed" "$failed"
((failed == 0))
