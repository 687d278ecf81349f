#!/bin/bash
# Shaped like the entry points that people run: as root it makes PGDATA and hands it to postgres, then drops to that user;
# an empty PGDATA gets an initdb with password authentication, and pg_hba.conf lets ordinary logins in from everywhere and
# replication from nowhere else.
set -euo pipefail
export PGDATA="${PGDATA:-/var/lib/postgresql/data}"
PATH="$(echo /usr/lib/postgresql/*/bin):$PATH"

# Options alone are the server's.
case "${1:-}" in
  "" | -*) set -- postgres "$@" ;;
esac
[ "$1" = postgres ] || exec "$@"

if [ "$(id -u)" = 0 ]; then
  mkdir -p "$PGDATA" /var/run/postgresql
  chown postgres:postgres /var/run/postgresql
  for directory in "$PGDATA" ${POSTGRES_INITDB_WALDIR:+"$POSTGRES_INITDB_WALDIR"} ${POSTGRES_TABLESPACES:-}; do
    mkdir -p "$directory"
    find "$directory" \! -user postgres -exec chown postgres:postgres '{}' +
  done
  chmod 700 "$PGDATA"
  exec setpriv --reuid=postgres --regid=postgres --init-groups -- "$0" "$@"
fi

if [ ! -s "$PGDATA/PG_VERSION" ]; then
  password="${POSTGRES_PASSWORD:-}"
  [ -z "${POSTGRES_PASSWORD_FILE:-}" ] || password="$(< "$POSTGRES_PASSWORD_FILE")"
  if [ -z "$password" ]; then
    echo "POSTGRES_PASSWORD or POSTGRES_PASSWORD_FILE must be set" >&2
    exit 1
  fi
  # shellcheck disable=SC2086 # the arguments are meant to be split
  initdb --username="${POSTGRES_USER:-postgres}" --pwfile=<(printf '%s\n' "$password") \
    --auth-local=trust --auth-host=scram-sha-256 --encoding=UTF8 --locale=C.UTF-8 \
    ${POSTGRES_INITDB_WALDIR:+--waldir="$POSTGRES_INITDB_WALDIR"} ${POSTGRES_INITDB_ARGS:-}
  printf '\nhost all all all scram-sha-256\n' >> "$PGDATA/pg_hba.conf"
  if [ -n "${POSTGRES_DB:-}" ] && [ "$POSTGRES_DB" != postgres ]; then
    pg_ctl -D "$PGDATA" -o "-c listen_addresses=''" -w start
    psql -v ON_ERROR_STOP=1 -U "${POSTGRES_USER:-postgres}" -d postgres -c "CREATE DATABASE \"$POSTGRES_DB\""
    pg_ctl -D "$PGDATA" -m fast -w stop
  fi
fi
unset POSTGRES_PASSWORD
exec "$@" -c listen_addresses='*'
