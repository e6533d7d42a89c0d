#!/usr/bin/env bash
# deb.sh: makes Debian packages of what has been built: postgresql-MAJOR-apapacho-jobs (the extension) and apapacho-jobs (the program,
# for that machine or any other). Run by `make deb`, which builds first; PG_CONFIG and MAKE are make's. Needs dpkg-dev, no network, no
# root. The packages are for the release of Debian, the architecture and the version of PostgreSQL that it runs on.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
umask 022

out=build/deb
pg_config=${PG_CONFIG:-pg_config}
major=$("$pg_config" --version | sed -n 's/^PostgreSQL \([0-9]*\).*/\1/p')
# What a minor release adds to the server a module that was built with it may use: it needs that one, or a later one.
minor=$("$pg_config" --version | sed -n 's/^PostgreSQL \([0-9]*\.[0-9]*\).*/\1/p')
version=$(sed -n "s/^default_version *= *'\(.*\)'/\1/p" apapacho_jobs.control)-1
architecture=$(dpkg --print-architecture)
# The same sources give the same packages.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || stat -c %Y CHANGELOG.md)}
export SOURCE_DATE_EPOCH

die() { printf '%s\n' "$*" >&2; exit 1; }
command -v dpkg-shlibdeps >/dev/null || die "dpkg-shlibdeps is not installed: apt-get install dpkg-dev"

# libraries DIRECTORY: the packages that its programs and modules need, as dpkg-shlibdeps finds them.
libraries() {
    local files
    mapfile -t files < <(find "$1" -type f \( -name '*.so' -o -path '*/bin/*' \))
    (cd "$out/work" && dpkg-shlibdeps -O --ignore-missing-info "${files[@]/#/$PWD/../../../}" 2>"$PWD/shlibdeps.log") \
        | sed -n 's/^shlibs:Depends=//p'
}

# package NAME DIRECTORY DEPENDS RECOMMENDS SUMMARY < description: makes the package of a directory.
package() {
    local name=$1 directory=$2 depends=$3 recommends=$4 summary=$5
    install -d "$directory/DEBIAN" "$directory/usr/share/doc/$name"
    install -m 644 README.md packaging/copyright "$directory/usr/share/doc/$name/"
    gzip -9n <CHANGELOG.md >"$directory/usr/share/doc/$name/changelog.gz"
    {
        printf 'Package: %s\nVersion: %s\nArchitecture: %s\n' "$name" "$version" "$architecture"
        printf 'Maintainer: %s\nSection: database\nPriority: optional\n' "${DEB_MAINTAINER:-apapacho_jobs <root@localhost>}"
        printf 'Installed-Size: %s\n' "$(du -sk --exclude=DEBIAN "$directory" | cut -f 1)"
        printf 'Depends: %s\n' "$depends"
        [[ -z $recommends ]] || printf 'Recommends: %s\n' "$recommends"
        printf 'Description: %s\n' "$summary"
        sed 's/^/ /'
    } >"$directory/DEBIAN/control"
    (cd "$directory" && find . -type f ! -path './DEBIAN/*' -printf '%P\0' | sort -z | xargs -0 md5sum >DEBIAN/md5sums)
    find "$directory" -newermt "@$SOURCE_DATE_EPOCH" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
    dpkg-deb --root-owner-group --build "$directory" "$out/${name}_${version}_${architecture}.deb" >"$out/work/dpkg-deb.log"
    printf '%s\n' "$out/${name}_${version}_${architecture}.deb"
}

extension() {
    local directory=$out/work/extension
    # The program has a package of its own.
    "${MAKE:-make}" -s install PG_CONFIG="$pg_config" DESTDIR="$PWD/$directory" >"$out/work/install.log"
    rm -rf "$directory$("$pg_config" --bindir)" "$directory$("$pg_config" --mandir)"
    find "$directory" -depth -type d -empty -delete
    find "$directory" -name '*.so' -exec strip --strip-unneeded {} +
    package "postgresql-$major-apapacho-jobs" "$directory" "postgresql-$major${minor:+ (>= $minor)}, $(libraries "$directory")" apapacho-jobs \
        'scheduled jobs, transactional outbox, webhooks, payouts for PostgreSQL' <<'TEXT'
A PostgreSQL extension that runs a business's scheduled jobs, its transactional
outbox, its signed webhooks and its creator payouts from inside the database.
.
It is at work once shared_preload_libraries names apapacho_jobs and a database
has executed CREATE EXTENSION apapacho_jobs.
TEXT
}

program() {
    local directory=$out/work/program
    "${MAKE:-make}" -s install-program PG_CONFIG="$pg_config" PROGRAM_PREFIX=/usr DESTDIR="$PWD/$directory" >"$out/work/install.log"
    strip --strip-unneeded "$directory/usr/bin/apapacho-jobs"
    gzip -9n "$directory/usr/share/man/man1/apapacho-jobs.1"
    install -d "$directory/DEBIAN" "$directory/etc/apapacho-jobs"
    # It can hold a password.
    install -m 600 packaging/systemd/environment "$directory/etc/apapacho-jobs/environment"
    printf '/etc/apapacho-jobs/environment\n' >"$directory/DEBIAN/conffiles"
    install -m 755 packaging/maintainer/postinst packaging/maintainer/prerm packaging/maintainer/postrm "$directory/DEBIAN"
    package apapacho-jobs "$directory" "$(libraries "$directory")" '' 'companion program of the PostgreSQL extension apapacho_jobs' <<'TEXT'
Runs and watches the jobs, the outbox and the payouts of apapacho_jobs from a
command line, a crontab or another machine; receives webhooks for development.
.
systemd timers for servers whose own schedules are off are included; none is
enabled by installing this.
TEXT
}

rm -rf "$out"
mkdir -p "$out/work/debian"
# dpkg-shlibdeps wants to be within a source package.
printf 'Source: apapacho-jobs\n\nPackage: apapacho-jobs\nArchitecture: any\n' >"$out/work/debian/control"
extension
program
rm -rf "$out/work"
