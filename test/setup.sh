#!/usr/bin/env bash
# setup.sh [check|ci|bench]: installs the Debian packages of test/packages.txt that are missing.
#
# Run first by every target that builds or tests; when nothing is missing it changes nothing and needs no network. With neither root
# nor a sudo that asks no password, it prints the command to run. On other systems it only looks whether the tools are there.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=test/lib.sh
. "$here/lib.sh"
purpose=${1:-check}

is_installed() {
    [[ $(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null) == installed ]]
}

# wanted_packages MAJOR: the list for our purpose; without MAJOR, what does not depend on PostgreSQL's version.
wanted_packages() {
    local package needed_for
    while read -r package needed_for _; do
        [[ -n $package && $package != \#* ]] || continue
        [[ $needed_for == check || $needed_for == "$purpose" ]] || continue
        if [[ $package == *@* ]]; then
            # With a pg_config of one's own choice, its server is one's own affair.
            [[ -z ${PG_CONFIG:-} && -n $1 ]] || continue
            package=${package//@/$1}
        fi
        printf '%s\n' "$package"
    done <"$here/packages.txt"
}

missing_packages() {
    local package
    wanted_packages "$1" | while read -r package; do
        is_installed "$package" || printf '%s\n' "$package"
    done
}

other_systems() {
    local tool absent=()
    for tool in gcc make perl prove "${PG_CONFIG:-pg_config}"; do
        command -v "$tool" >/dev/null || absent+=("$tool")
    done
    ((${#absent[@]} == 0)) && exit 0
    warn "Not found: ${absent[*]}"
    die "This is not Debian: install by hand what test/packages.txt lists, then run the same command again."
}

# Installing the server's package would create and start a cluster "main": not what one who runs our tests has asked for.
no_cluster=/etc/postgresql-common/createcluster.d/apapacho_jobs_setup.conf
no_cluster_written=no

clean_up() {
    rm -f "$log"
    [[ $no_cluster_written == no ]] || "${as_root[@]}" rm -f "$no_cluster"
}

install_packages() {
    local result=0
    if [[ $* == *postgresql-[0-9]* && ! -e $no_cluster ]]; then
        no_cluster_written=yes
        "${as_root[@]}" mkdir -p "$(dirname "$no_cluster")"
        printf 'create_main_cluster = false\n' | "${as_root[@]}" tee "$no_cluster" >/dev/null
    fi
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --no-install-recommends \
        -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold -o Dpkg::Use-Pty=0 "$@" >"$log" 2>&1 </dev/null \
        || result=$?
    if ((result != 0)); then
        tail -n 40 "$log" >&2
        die "apt-get install failed; the command was: apt-get install --no-install-recommends $*"
    fi
}

if [[ ! -e /etc/debian_version ]] || ! command -v apt-get >/dev/null; then
    other_systems
fi

major=${PG_MAJOR:-$(installed_postgres)}
[[ -n $major ]] || major=$(packaged_postgres)
mapfile -t missing < <(missing_packages "$major")
if ((${#missing[@]} == 0)) && [[ -n $major || -n ${PG_CONFIG:-} ]]; then
    exit 0
fi

if [[ $(id -u) == 0 ]]; then
    as_root=()
elif sudo -n true 2>/dev/null; then
    as_root=(sudo -n)
else
    [[ -n $major ]] || mapfile -t missing < <(missing_packages "$oldest_postgres")
    warn "Packages are missing, and installing them takes root. Run this, then the same command again:"
    warn
    die "    sudo apt-get update && sudo apt-get install --no-install-recommends ${missing[*]}"
fi

log=$(mktemp)
trap clean_up EXIT
say "Installing what is missing (once; some minutes on a new machine): ${missing[*]}"
"${as_root[@]}" apt-get update --quiet </dev/null >"$log" 2>&1 || warn "apt-get update: $(grep '^[EW]:' "$log" || true)"
if [[ -z $major ]]; then
    major=$(packaged_postgres)
    [[ -n $major || -n ${PG_CONFIG:-} ]] || die "apt offers no package postgresql: is a mirror configured?"
    if ((${major:-99} < oldest_postgres)); then
        die "This system's PostgreSQL is $major; $oldest_postgres or later is needed (PG_CONFIG=... make check for a build of your own)."
    fi
    mapfile -t missing < <(missing_packages "$major")
fi
install_packages "${missing[@]}"
say "Installed ${#missing[@]} packages."
