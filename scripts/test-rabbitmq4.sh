#!/usr/bin/env bash
# The end-to-end tests on the RabbitMQ of Debian 13, which is a 4.x, against one PostgreSQL (18, or the version named).
# That RabbitMQ lives in a root of its own in the cache directory; nothing of it is installed on the system.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

major=${1:-18}
root=$(cache_dir)/debian-13
wrapper=$(cache_dir)/rabbitmq-server-debian-13
inside=/usr/lib/rabbitmq/bin/rabbitmq-server

scripts/setup.sh rabbitmq4

if [ ! -e "$root/.complete" ]; then
  say "making a Debian 13 with RabbitMQ in $root"
  as_root rm -rf "$root"
  mkdir -p "$(cache_dir)"
  log=$(mktemp)
  # Starts no service: debootstrap keeps them from it.
  as_root debootstrap --variant=minbase --include=rabbitmq-server trixie "$root" >"$log" 2>&1 || {
    tail -n 20 "$log" >&2
    fail "debootstrap could not make $root" "see its last lines above; often the network"
  }
  rm -f "$log"
  as_root rm -rf "$root/var/cache/apt/archives" "$root/var/lib/apt/lists"
  as_root touch "$root/.complete"
fi
[ -x "$root$inside" ] || fail "$root has no $inside" "delete $root and try again"

# Stands in for the start script. Each `exec` keeps the process, so what is started is what is signalled, and the mounts
# are in a namespace that ends with it. Without root the namespace is a user's own.
cat >"$wrapper" <<'WRAPPER'
#!/bin/sh
set -eu
root=ROOT
user=
[ "$(id -u)" = 0 ] || user=--map-root-user
# Where the node's data, log and process id are.
shared=$(dirname "$(dirname "$RABBITMQ_PID_FILE")")
export root shared
exec unshare $user --mount --propagation private /bin/sh -c '
  set -eu
  mount --rbind /proc "$root/proc"
  mount --rbind /dev "$root/dev"
  mkdir -p "$root$shared"
  mount --bind "$shared" "$root$shared"
  exec chroot "$root" INSIDE "$@"' rabbitmq-server "$@"
WRAPPER
sed -i "s|ROOT\$|$root|; s|INSIDE|$inside|" "$wrapper"
chmod 755 "$wrapper"

say "building"
cargo build --locked -p postern --features fault-points
cargo build --locked -p postern-tests --bins --tests

version=$(basename "$root"/usr/lib/rabbitmq/lib/rabbitmq_server-*)
say "end-to-end tests on RabbitMQ ${version##*-} against PostgreSQL $major"
POSTERN_TEST_PG=$major POSTERN_TEST_RABBITMQ_SERVER=$wrapper "${CARGO_TARGET_DIR:-target}/debug/postern-services" -- \
  cargo test --locked -p postern-tests --test e2e -- --test-threads "${POSTERN_TEST_THREADS:-4}"
