#!/usr/bin/env bash
# Installs and builds what the dev cluster is made of: Debian packages, Go programs from their modules, images made by hand.
# Idempotent; everything built lies in the cache, keyed by what it was built from, and .cache here points to it.
set -euo pipefail
cd "$(dirname "$0")"
: "${HIGHWATER_CACHE:=${XDG_CACHE_HOME:-$HOME/.cache}/highwater}"
: "${POSTGRES_MAJOR:=15}"
source image.sh
components="$HIGHWATER_CACHE/components"
mkdir -p "$components"

say() { printf '%-22s %s\n' "$1" "$2"; }

packages() {
  local missing=()
  for package in ca-certificates gcc libc6-dev runc btrfs-progs nftables conntrack mmdebstrap iproute2 lz4 openssh-client openssl musl-tools "postgresql-$POSTGRES_MAJOR" util-linux zstd; do
    dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  say packages "installing ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  # Debian would start a server of its own; only the programs are wanted.
  mkdir -p /etc/postgresql-common
  [ -e /etc/postgresql-common/createcluster.conf ] || echo 'create_main_cluster = false' > /etc/postgresql-common/createcluster.conf
  apt-get install -y -qq --no-install-recommends "${missing[@]}" > /dev/null
}

key() { cat "$@" | sha256sum | cut -c1-12; }

# finished DIR: the marker that a component is whole; a build that was cut off begins anew.
finished() { [ -e "$1/.finished" ]; }

# component NAME LDFLAGS PACKAGE...: builds Go programs from modules/NAME.
component() {
  local name=$1 ldflags=$2
  shift 2
  local directory
  directory="$components/$name-$(key "modules/$name/go.mod" "modules/$name/go.sum" <(echo "$ldflags $*"))"
  if ! finished "$directory"; then
    local begin=$SECONDS
    say "$name" "building"
    rm -rf "$directory"
    mkdir -p "$directory/bin"
    (cd "modules/$name" && CGO_ENABLED=0 GOFLAGS=-mod=readonly \
      go build -trimpath -ldflags "-s -w $ldflags" -o "$directory/bin/" "$@")
    if [ "$name" = external-snapshotter ]; then
      local module
      module=$(cd modules/$name && GOFLAGS=-mod=readonly go list -m -f '{{.Dir}}' github.com/kubernetes-csi/external-snapshotter/client/v8)
      mkdir -p "$directory/crds"
      cp -r --no-preserve=mode "$module/config/crd/." "$directory/crds/"
    fi
    [ "$name" != etcd ] || mv "$directory"/bin/* "$directory/bin/etcd"
    touch "$directory/.finished"
    say "$name" "built in $((SECONDS - begin)) s"
  fi
  built+=("$directory")
  latest=$directory
}

pause_image() {
  local directory work
  directory="$components/pause-$(key images/pause/pause.c <(echo "$image_format"))"
  if ! finished "$directory"; then
    rm -rf "$directory"
    mkdir -p "$directory/images" "$directory/root"
    musl-gcc -static -Os -s -o "$directory/root/pause" images/pause/pause.c
    layer "$directory/root" "$directory/layer.tar"
    docker_archive "$directory/images/pause.tar" localhost/pause:1 '["/pause"]' '[]' "$directory/layer.tar"
    touch "$directory/.finished"
  fi
  built+=("$directory")
}

# One program from a component, alone in an image.
program_image() {
  local name=$1 binary=$2 directory
  directory="$components/image-$name-$(key "$binary" <(echo "$image_format"))"
  if ! finished "$directory"; then
    rm -rf "$directory"
    mkdir -p "$directory/images" "$directory/root/tmp"
    chmod 1777 "$directory/root/tmp"
    cp "$binary" "$directory/root/$name"
    layer "$directory/root" "$directory/layer.tar"
    docker_archive "$directory/images/$name.tar" "localhost/$name:1" "[\"/$name\"]" '[]' "$directory/layer.tar"
    rm -rf "$directory/root" "$directory/layer.tar"
    touch "$directory/.finished"
  fi
  built+=("$directory")
}

# Debian's PostgreSQL with uid and gid 999, as the official image has them, and our entry point on top.
postgres_image() {
  local base directory
  base=$(postgres_base "$POSTGRES_MAJOR")
  if ! finished "$base"; then
    local begin=$SECONDS
    say "postgres:$POSTGRES_MAJOR" "building the image"
    rm -rf "$base"
    mkdir -p "$base"
    mmdebstrap --quiet --variant=minbase --include="postgresql-$POSTGRES_MAJOR,postgresql-contrib" \
      --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
      --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/lib/postgresql/*/lib/bitcode/*' \
      --aptopt='Apt::Install-Recommends "false"' \
      --customize-hook='chroot "$1" groupmod -g 999 postgres && chroot "$1" usermod -u 999 -g 999 postgres' \
      --customize-hook='chroot "$1" chown -R 999:999 /var/lib/postgresql /var/run/postgresql /var/log/postgresql' \
      --customize-hook='rm -rf "$1"/var/lib/postgresql/*/main "$1"/var/cache/apt/* "$1"/var/lib/apt/lists/*' \
      bookworm "$base/layer.tar" > "$base/log" 2>&1 || { tail -20 "$base/log" >&2; return 1; }
    touch "$base/.finished"
    say "postgres:$POSTGRES_MAJOR" "built in $((SECONDS - begin)) s"
  fi
  directory="$components/postgres-$POSTGRES_MAJOR-$(key images/postgres/entrypoint.sh <(echo "$image_format"))"
  if ! finished "$directory"; then
    rm -rf "$directory"
    mkdir -p "$directory/images"
    postgres_entrypoint "$directory/root"
    layer "$directory/root" "$directory/layer.tar"
    postgres_archive "$directory/images/postgres-$POSTGRES_MAJOR.tar" "$POSTGRES_MAJOR" "$base/layer.tar" "$directory/layer.tar"
    touch "$directory/.finished"
  fi
  built+=("$directory")
}

built=()
packages
kubernetes=v1.36.3
component kubernetes "-X k8s.io/component-base/version.gitVersion=$kubernetes -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36 -X k8s.io/component-base/version.gitTreeState=clean -X k8s.io/client-go/pkg/version.gitVersion=$kubernetes" \
  k8s.io/kubernetes/cmd/{kube-apiserver,kube-controller-manager,kube-scheduler,kubelet,kube-proxy,kubectl}
component containerd "" github.com/containerd/containerd/v2/cmd/{containerd,containerd-shim-runc-v2,ctr}
component etcd "" go.etcd.io/etcd/server/v3
component cni "" github.com/containernetworking/plugins/plugins/{main/bridge,main/loopback,ipam/host-local}
component external-snapshotter "" github.com/kubernetes-csi/external-snapshotter/v8/cmd/{snapshot-controller,csi-snapshotter}
component external-provisioner "" github.com/kubernetes-csi/external-provisioner/v6/cmd/csi-provisioner
component versitygw "" github.com/versity/versitygw/cmd/versitygw
program_image versitygw "$latest/bin/versitygw"
component csi-sanity "" github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity
# Reads what the archive encrypts, in tests.
component age "" filippo.io/age/cmd/{age,age-keygen}
# Pushes images to a registry of the user; tests run it as a registry as well.
component crane "" github.com/google/go-containerregistry/cmd/crane
pause_image
postgres_image

toolchain="$HIGHWATER_CACHE/devcluster-$(printf '%s\n' "${built[@]}" | sha256sum | cut -c1-12)"
mkdir -p "$toolchain"/{bin,images}
for directory in "${built[@]}"; do
  for kind in bin images; do
    [ ! -d "$directory/$kind" ] || ln -sfn "$directory/$kind"/* "$toolchain/$kind/"
  done
  [ ! -d "$directory/crds" ] || ln -sfn "$directory/crds" "$toolchain/crds"
done
ln -sfn "$toolchain" .cache
