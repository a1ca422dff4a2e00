#!/usr/bin/env bash
# The suite of the secret stores on the servers that take minutes to build, and what was tested against what.
#   stores.sh build            builds OpenBao, unless it is there (some minutes the first time)
#   stores.sh test [MAJOR]     builds it, and runs the suite on one PostgreSQL (18, or the version named)
#   stores.sh summary          says which store is tested against which server on this machine
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

OPENBAO_VERSION=2.4.0
bao=${POSTERN_TEST_OPENBAO:-$HOME/.cache/postern/openbao/bao}

build() {
  if [ "$("$bao" version 2>/dev/null)" = "OpenBao v$OPENBAO_VERSION" ]; then
    return 0
  fi
  command -v go >/dev/null || fail "there is no Go toolchain, which OpenBao is built with" "install Go 1.24 or newer (https://go.dev/dl)"
  say "building OpenBao $OPENBAO_VERSION (some minutes, once)"
  mkdir -p "$(dirname "$bao")"
  (cd tests/openbao && CGO_ENABLED=0 go build -trimpath -o "$bao.new" \
    -ldflags "-s -w -X github.com/openbao/openbao/version.fullVersion=$OPENBAO_VERSION" .) ||
    fail "OpenBao does not build" "see the compiler's or the module proxy's words above"
  mv "$bao.new" "$bao"
}

summary() {
  local moto="not tried on this machine (scripts/setup.sh test)" openbao="not tried on this machine (make test-stores)"
  ! have_aws || moto="moto $(sed -n 's/^moto.*==//p' "$AWS_REQUIREMENTS"), an imitation"
  [ ! -x "$bao" ] || openbao=$("$bao" version)
  say "secret stores: aws: $moto; hashicorp_vault: $openbao"
  say "secret stores: AWS itself and HashiCorp's own Vault are not tried on this machine"
}

case ${1:-} in
  build) build ;;
  summary) summary ;;
  test)
    build
    scripts/setup.sh test
    cargo build --locked -p postern --features fault-points
    cargo build --locked -p postern-tests --bins --tests
    POSTERN_TEST_OPENBAO=$bao POSTERN_TEST_PG=${2:-18} "${CARGO_TARGET_DIR:-target}/debug/postern-services" -- \
      cargo test --locked -p postern-tests --test e2e -- stores:: --test-threads "${POSTERN_TEST_THREADS:-4}"
    summary
    ;;
  *) fail "usage: stores.sh build|test [MAJOR]|summary" ;;
esac
