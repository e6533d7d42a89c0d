#!/usr/bin/env bash
# build.sh DIRECTORY: builds the extension and its program, and installs both into a private copy of PostgreSQL.
#
# Run by test/sandbox.sh, in the copy of the sources. PostgreSQL finds its files relative to its own program, so a copy below
# DIRECTORY with the same layout is a complete installation: programs are copied, all else is symbolic links to the installed files.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=test/lib.sh
. "$here/lib.sh"
server=$1
log=$APAPACHO_BUILD/build.log
mkdir -p "$APAPACHO_BUILD"

copy_postgres() {
    local bindir pkglibdir sharedir
    bindir=$("$PG_CONFIG" --bindir)
    pkglibdir=$("$PG_CONFIG" --pkglibdir)
    sharedir=$("$PG_CONFIG" --sharedir)
    rm -rf "$server"
    mkdir -p "$server$bindir" "$server$pkglibdir" "$server$sharedir"
    cp -a "$bindir/." "$server$bindir"
    cp -as "$pkglibdir/." "$server$pkglibdir"
    cp -as "$sharedir/." "$server$sharedir"
    # An apapacho_jobs of the system is not the one under test.
    rm -rf "$server$pkglibdir"/apapacho_jobs* "$server$pkglibdir"/bitcode/apapacho_jobs* "$server$sharedir"/extension/apapacho_jobs* \
        "$server$bindir/apapacho-jobs"
}

logged() {
    if ! "$@" >>"$log" 2>&1 </dev/null; then
        tail -n 60 "$log" >&2
        die "${red}build failed$plain: $*"
    fi
}

: >"$log"
# What the caller asks for besides (CC, COPT) is in the environment; to make, only its command line outweighs a makefile.
arguments=(PG_CONFIG="$PG_CONFIG")
[[ -z ${CC:-} ]] || arguments+=(CC="$CC")
[[ -z ${COPT:-} ]] || arguments+=(COPT="$COPT")
say "${dim}Building with $("$PG_CONFIG" --version) ...$plain"
copy_postgres
logged make -j "${JOBS:-2}" "${arguments[@]}" all
logged make "${arguments[@]}" install DESTDIR="$server"
say "${dim}Built in $SECONDS s.$plain"
