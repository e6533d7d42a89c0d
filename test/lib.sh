# shellcheck shell=bash
# lib.sh: what the scripts of test/ share. Sourced, never run; needs bash and nothing that test/setup.sh installs.

say() { printf '%s\n' "$*"; }
warn() { printf '%s\n' "$*" >&2; }
die() {
    warn "$*"
    exit 1
}

# Colours on a terminal only (https://no-color.org).
if [[ -t 1 && -z ${NO_COLOR:-} && ${TERM:-dumb} != dumb ]]; then
    bold=$'\e[1m' dim=$'\e[2m' red=$'\e[31m' green=$'\e[32m' plain=$'\e[0m'
else
    bold='' dim='' red='' green='' plain=''
fi
export bold dim red green plain

# The oldest major version of PostgreSQL that the extension supports.
oldest_postgres=15

# wait_for SECONDS WHAT COMMAND...: runs COMMAND again and again until it succeeds; dies, naming WHAT, when the time is over.
wait_for() {
    local deadline=$((SECONDS + $1)) what=$2
    shift 2
    until "$@"; do
        ((SECONDS < deadline)) || die "gave up waiting for $what"
        sleep 0.1
    done
}

# The newest major version installed with both a server and PGXS, or nothing.
installed_postgres() {
    local directory major newest=
    for directory in /usr/lib/postgresql/*/; do
        major=$(basename "$directory")
        [[ $major =~ ^[0-9]+$ ]] || continue
        [[ -x $directory/bin/postgres && -e $directory/lib/pgxs/src/makefiles/pgxs.mk ]] || continue
        if ((major >= oldest_postgres && major > ${newest:-0})); then
            newest=$major
        fi
    done
    printf '%s' "$newest"
}

# The major version that this Debian's package "postgresql" stands for, or nothing before apt has its lists.
packaged_postgres() {
    { apt-cache depends postgresql 2>/dev/null || true; } | sed -n 's/^ *Depends: postgresql-\([0-9][0-9]*\)$/\1/p' | sed -n 1p
}

# The pg_config to build with: the one asked for by PG_CONFIG, that of version PG_MAJOR, else of the newest installed. May print nothing.
find_pg_config() {
    local major=${PG_MAJOR:-}
    if [[ -n ${PG_CONFIG:-} ]]; then
        command -v "$PG_CONFIG" || true
        return
    fi
    [[ -n $major ]] || major=$(installed_postgres)
    if [[ -n $major && -x /usr/lib/postgresql/$major/bin/pg_config ]]; then
        printf '%s' "/usr/lib/postgresql/$major/bin/pg_config"
    elif [[ ! -e /etc/debian_version ]]; then
        command -v pg_config || true
    fi
}
