# shellcheck shell=bash
# roots.sh: fresh root directories of Debian releases, for .ci/run. Sourced, with test/lib.sh; needs root and mmdebstrap.
#
# Roots are made from the mirror that this machine's apt is set up with, and kept in APAPACHO_ROOTS (/var/tmp/apapacho-roots):
#   SUITE.tar    a minimal system with git and make, as mmdebstrap has made it; there only when complete
#   SUITE/       unpacked, with what test/setup.sh has installed since; SUITE.ready says that unpacking was completed
# A function that cannot do its work because of the surroundings says why and returns 77, which .ci/run counts as skipped.

roots=${APAPACHO_ROOTS:-/var/tmp/apapacho-roots}
cannot=77

# The release that this machine runs.
here() { (. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}"); }

# The mirror of that release, from apt's own view of its sources.
mirror() {
    # shellcheck disable=SC2016
    apt-get indextargets --format '$(RELEASE) $(COMPONENT) $(SITE)' 'Created-By: Packages' 2>/dev/null \
        | awk -v codename="$(here)" '$1 == codename && $2 == "main" { print $3; exit }'
}

# What that release's root has besides, as this machine: security fixes and other updates, a line each for sources.list.
updates() {
    # shellcheck disable=SC2016
    apt-get indextargets --format '$(RELEASE) $(COMPONENT) $(SITE)' 'Created-By: Packages' 2>/dev/null \
        | awk -v codename="$(here)" '($1 == codename "-security" || $1 == codename "-updates") && $2 == "main" { print "deb", $3, $1, $2 }' \
        | sort -u
}

# What apt must know besides to reach the mirror from within a root: proxies and certificates of this machine.
apt_surroundings() {
    apt-config dump --format '%f "%v"%n' Acquire::http Acquire::https | grep -iE '::(proxy|verify|ca)' | grep -v '""' \
        | sed 's/^/--aptopt=/' || true
}

# All keys of Debian's archive that this machine has, and those that a newer release's root has brought.
keyrings() {
    local file
    for file in /usr/share/keyrings/debian-archive-keyring.gpg "$roots"/*/usr/share/keyrings/debian-archive-keyring.gpg; do
        [[ ! -r $file ]] || printf '%s\n' "--keyring=$file"
    done
}

# base SUITE: makes SUITE.tar unless it is there.
base() {
    local suite=$1 site log options more=() result=0
    [[ ! -s $roots/$suite.tar ]] || return 0
    [[ $(id -u) == 0 ]] || {
        say "roots are made by root only"
        return "$cannot"
    }
    mkdir -p "$roots"
    site=$(mirror)
    [[ -n $site ]] || apt-get update --quiet >"$roots/update.log" 2>&1 || true
    site=$(mirror)
    [[ -n $site ]] || {
        say "apt knows no mirror of this release"
        return "$cannot"
    }
    log=$roots/$suite.log
    mapfile -t options < <(
        keyrings
        apt_surroundings
    )
    options+=(--variant=apt --include=git --include=make)
    [[ $site != https:* ]] || options+=(--include=ca-certificates)
    [[ $suite != "$(here)" ]] || mapfile -t more < <(updates)
    mmdebstrap "${options[@]}" "$suite" "$roots/$suite.new.tar" "$site" "${more[@]}" >"$log" 2>&1 </dev/null || result=$?
    if ((result != 0)) && grep -q 'is expired' "$log"; then
        # A mirror that is no longer synchronized: its signatures still hold, only their date is past.
        say "the mirror's $suite is past its date; used all the same, signatures verified"
        result=0
        mmdebstrap "${options[@]}" --aptopt='Acquire::Check-Valid-Until "false"' "$suite" "$roots/$suite.new.tar" "$site" "${more[@]}" \
            >"$log" 2>&1 </dev/null || result=$?
    fi
    if ((result != 0)); then
        rm -f "$roots/$suite.new.tar"
        say "the mirror gives no usable $suite: $(grep '^E:' "$log" | head -n 1)"
        return "$cannot"
    fi
    mv "$roots/$suite.new.tar" "$roots/$suite.tar"
}

unpack() {
    mkdir -p "$2"
    tar -C "$2" -xf "$roots/$1.tar" --numeric-owner
}

# kept_root SUITE: the unpacked root that is used again and again.
kept_root() {
    local suite=$1
    base "$suite" || return
    if [[ ! -e $roots/$suite.ready || $roots/$suite.tar -nt $roots/$suite.ready ]]; then
        rm -rf "${roots:?}/$suite"
        unpack "$suite" "$roots/$suite"
        touch "$roots/$suite.ready"
    fi
}

# in_root DIRECTORY COMMAND...: in namespaces of its own, so that its mounts and processes are gone when it ends, however it ends.
in_root() {
    cp -L /etc/resolv.conf /etc/hosts "$1/etc/"
    # The inner shell is the first process in there and reaps what daemons leave.
    # shellcheck disable=SC2016
    unshare --mount --pid --ipc --fork --kill-child bash -c '
        set -euo pipefail
        root=$1
        shift
        mount -t proc proc "$root/proc"
        mount --rbind /dev "$root/dev"
        mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
        status=0
        chroot "$root" env -i HOME=/root LANG=C.UTF-8 CI=true PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
            "$@" || status=$?
        exit "$status"' in_root "$@"
}

# clone_into ROOT REPOSITORY: a clone as /root/apapacho_jobs, as a newcomer would have it; of uncommitted changes a copy as they stand.
clone_into() {
    local to=$1/root/apapacho_jobs top=$2
    rm -rf "$to"
    if [[ -z $(git -c safe.directory="$top" -C "$top" status --porcelain 2>/dev/null || printf unknown) ]] \
        && git -c safe.directory="$top" clone --quiet --no-hardlinks "$top" "$to"; then
        return
    fi
    say "(not all is committed: a copy instead of a clone)"
    mkdir -p "$to"
    tar -C "$top" -cf - --exclude=./.git --exclude=./build --exclude='*.o' --exclude='*.so' . | tar -C "$to" -xf - --no-same-owner
}
