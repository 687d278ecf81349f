#!/usr/bin/env bash
# Installs the programs that `make bench-wal` and `make bench-restore` measure beside Highwater: pgBackRest, WAL-RUS, barman; those
# that are named, or all. Idempotent; they lie in the cache, each in a folder named by its version. Prints NAME=PATH lines for
# scripts/bench to read. Tests never run it.
set -euo pipefail
cd "$(dirname "$0")"
: "${HIGHWATER_CACHE:=${XDG_CACHE_HOME:-$HOME/.cache}/highwater}"
components="$HIGHWATER_CACHE/components"
mkdir -p "$components"

PGBACKREST=2.60
WAL_RUS=0.4.1
BARMAN=3.19.1

say() { printf '%-22s %s\n' "$1" "$2" >&2; }

# finished DIR: the marker that a component is whole; a build that was cut off begins anew.
finished() { [ -e "$1/.finished" ]; }

packages() {
  local missing=()
  for package in "$@"; do
    dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  say packages "installing ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq >&2
  apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
}

# PostgreSQL calls pgBackRest in recovery, but does not run as root, and root's cache is closed to all others: for root, a copy
# of program and libraries lies where all may read it. `directory` is where it lies then.
place() {
  local open=/usr/local/lib/highwater new
  [ "$(id -u)" = 0 ] || return 0
  new="$open/new.$$"
  open="$open/${directory##*/}"
  if ! finished "$open"; then
    packages patchelf
    rm -rf "$open" "$new"
    mkdir -p "$new/bin" "$new/root/usr/lib"
    cp "$directory/bin/pgbackrest" "$new/bin/"
    cp -a "$directory/root/usr/lib/x86_64-linux-gnu" "$new/root/usr/lib/"
    libraries "$new" "$open"
    chmod -R a+rX "$new"
    touch "$new/.finished"
    mv "$new" "$open"
  fi
  directory=$open
}

# libraries DIRECTORY FINAL: tells the program in DIRECTORY where its loader and libraries will be, so that it starts as fast as
# an installed one.
libraries() {
  local library="$2/root/usr/lib/x86_64-linux-gnu"
  patchelf --set-interpreter "$library/ld-linux-x86-64.so.2" --force-rpath --set-rpath "$library" "$1/bin/pgbackrest"
}

# Debian's stable releases have older ones, so this is unstable's, with its own C library beside it. No maintainer script
# runs; signatures are checked, but not their age, as a mirror may lag.
pgbackrest() {
  local directory="$components/pgbackrest-$PGBACKREST" root version
  if ! finished "$directory"; then
    packages mmdebstrap patchelf
    say pgbackrest "installing $PGBACKREST"
    rm -rf "$directory"
    mkdir -p "$directory/bin"
    root="$directory/root"
    mmdebstrap --quiet --variant=extract --include=pgbackrest --aptopt='Apt::Install-Recommends "false"' \
      --aptopt='Acquire::Check-Valid-Until "false"' --dpkgopt='path-exclude=/usr/share/*' sid "$root" > "$directory/log" 2>&1 || { tail -20 "$directory/log" >&2; return 1; }
    cp "$root/usr/bin/pgbackrest" "$directory/bin/pgbackrest"
    libraries "$directory" "$directory"
    version=$("$directory/bin/pgbackrest" version)
    case "$version" in
      *" $PGBACKREST" | *" $PGBACKREST."*) ;;
      *) echo "failed to install pgBackRest $PGBACKREST: unstable has $version now: set PGBACKREST in $0" >&2; return 1 ;;
    esac
    touch "$directory/.finished"
  fi
  place
  echo "pgbackrest=$directory/bin/pgbackrest"
}

# Without --locked: its lock file names a version that was withdrawn.
wal_rus() {
  local directory="$components/wal-rus-$WAL_RUS"
  if ! finished "$directory"; then
    say wal-rus "building $WAL_RUS"
    rm -rf "$directory"
    mkdir -p "$directory"
    env -u CARGO_BUILD_TARGET -u CARGO_INCREMENTAL CARGO_TARGET_DIR="$directory/target" \
      cargo install --quiet --root "$directory" --version "$WAL_RUS" wal-rus >&2
    rm -rf "$directory/target"
    touch "$directory/.finished"
  fi
  echo "walrus=$directory/bin/walrus"
}

barman() {
  local directory="$components/barman-$BARMAN"
  if ! finished "$directory"; then
    packages python3-venv
    say barman "installing $BARMAN"
    rm -rf "$directory"
    python3 -m venv "$directory"
    "$directory/bin/pip" install --quiet --disable-pip-version-check "barman[cloud,zstandard,lz4]==$BARMAN" boto3 >&2
    touch "$directory/.finished"
  fi
  echo "barman=$directory/bin"
}

# Those that are named, or all.
[ $# -gt 0 ] || set -- pgbackrest wal_rus barman
for peer in "$@"; do "$peer"; done
