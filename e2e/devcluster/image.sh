# Sourced by what makes images by hand.
# Raised when images are made differently from the same content.
image_format=3

# The layer with Debian's PostgreSQL lies here.
postgres_base() { echo "$HIGHWATER_CACHE/components/postgres-base-$1-2"; }

# docker_archive TAR NAME ENTRYPOINT_JSON ENV_JSON LAYER...: an image as `ctr images import` takes it; config_more is added to
# its config.
docker_archive() {
  local tar=$1 name=$2 entrypoint=$3 env=$4 work ids=() layers=() number=0
  shift 4
  work=$(mktemp -d "$HIGHWATER_CACHE/image.XXXXXX")
  for layer in "$@"; do
    ln "$layer" "$work/$number.tar" 2>/dev/null || cp "$layer" "$work/$number.tar"
    ids+=("\"sha256:$(sha256sum "$layer" | cut -d' ' -f1)\"")
    layers+=("\"$number.tar\"")
    number=$((number + 1))
  done
  local IFS=,
  cat > "$work/config.json" <<JSON
{"architecture":"amd64","os":"linux","config":{"Entrypoint":$entrypoint,"Env":$env${config_more:-}},"rootfs":{"type":"layers","diff_ids":[${ids[*]}]}}
JSON
  echo "[{\"Config\":\"config.json\",\"RepoTags\":[\"$name\"],\"Layers\":[${layers[*]}]}]" > "$work/manifest.json"
  (cd "$work" && tar -cf "$tar.new" -- manifest.json config.json *.tar)
  mv "$tar.new" "$tar"
  rm -rf "$work"
}

layer() { tar -C "$1" --numeric-owner --sort=name --mtime=@0 -cf "$2" .; }

# postgres_entrypoint ROOT: our entry point, and the folders that mmdebstrap leaves out of /run; both are open to all, as in
# the official image.
postgres_entrypoint() {
  mkdir -p "$1/usr/local/bin" "$1/run/postgresql" "$1/var/lib/postgresql/data"
  cp images/postgres/entrypoint.sh "$1/usr/local/bin/"
  chmod 3777 "$1/run/postgresql"
  chmod 1777 "$1/var/lib/postgresql/data"
  chown -R 999:999 "$1"/{run,var/lib}/postgresql
}

# postgres_archive TAR MAJOR LAYER...: the image of PostgreSQL as `ctr images import` takes it. SIGINT: a fast shutdown; SIGTERM
# would wait for every client to leave.
postgres_archive() {
  local tar=$1 major=$2
  shift 2
  config_more=',"Cmd":["postgres"],"StopSignal":"SIGINT"' docker_archive "$tar" "localhost/postgres:$major" \
    '["/usr/local/bin/entrypoint.sh"]' \
    "[\"PATH=/usr/lib/postgresql/$major/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin\",\"PGDATA=/var/lib/postgresql/data\",\"PG_MAJOR=$major\"]" \
    "$@"
}
