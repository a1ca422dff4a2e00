#!/usr/bin/env bash
# The main job, told as a story on a RabbitMQ and a PostgreSQL of its own; see tests/src/bin/demo. They come from the
# system's packages, which are installed if they are missing, or from containers if a Docker engine runs instead.
# POSTERN_DEMO=packages or POSTERN_DEMO=docker decides otherwise.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

servers=${POSTERN_DEMO:-}
if [ -z "$servers" ]; then
  servers=packages
  if ! { have_rabbitmq && have_postgres; } && docker info >/dev/null 2>&1 && docker compose version >/dev/null 2>&1; then
    servers=docker
  fi
fi
case $servers in
  packages) scripts/setup.sh demo ;;
  docker) scripts/setup.sh build ;;
  *) fail "POSTERN_DEMO=$servers" "use packages or docker" ;;
esac

say "building (some minutes the first time)"
cargo build --locked -p postern -p postern-tests --bin postern --bin postern-demo
demo=${CARGO_TARGET_DIR:-target}/debug/postern-demo

if [ "$servers" = packages ]; then
  # 15 is what the other documents show; any supported version tells the same story.
  for major in 15 18 17 16 14; do
    if pg_bin "$major" >/dev/null; then
      POSTERN_TEST_PG=$major exec "$demo"
    fi
  done
  fail "no PostgreSQL from 14 to 18 is there after the set-up" "install the package postgresql of your distribution"
fi

# A port that nobody listens on.
free_port() {
  local port
  while port=$((RANDOM % 10000 + 20000)); do
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
  done
  say "$port"
}

AMQP_PORT=$(free_port)
MANAGEMENT_PORT=$(free_port)
POSTGRES_PORT=$(free_port)
CONNECTOR_PASSWORD=$(head -c 18 /dev/urandom | base64 | tr '+/' '-_')
export AMQP_PORT MANAGEMENT_PORT POSTGRES_PORT CONNECTOR_PASSWORD
compose() { docker compose --project-name "postern-demo-$$" --file deploy/compose.yaml "$@"; }
cleanup() { compose down --volumes --timeout 5 >/dev/null 2>&1 || say "containers may be left: docker compose ls" >&2; }
trap cleanup EXIT
# The demo ends tidily on these by itself; the shell stays for the containers.
trap : INT TERM HUP
compose up --detach --wait rabbitmq postgres
POSTERN_DEMO_AMQP_URL="amqp://guest:guest@127.0.0.1:$AMQP_PORT/%2f" POSTERN_DEMO_POSTGRES_PORT=$POSTGRES_PORT \
  POSTERN_DEMO_CONNECTOR_PASSWORD=$CONNECTOR_PASSWORD "$demo"
