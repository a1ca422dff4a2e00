#!/usr/bin/env bash
# The suite of the secret stores on the servers that take minutes to build, and what was tested against what.
#   stores.sh build [LIMIT]    builds OpenBao, unless it is there (some minutes the first time); fails after LIMIT, such as 20m
#   stores.sh built            whether it is there, by the exit code
#   stores.sh test [MAJOR]     builds it, and runs the suite on one PostgreSQL (18, or the version named)
#   stores.sh summary          says which store is tested against which server on this machine
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

OPENBAO_VERSION=2.4.0
bao=${POSTERN_TEST_OPENBAO:-$HOME/.cache/postern/openbao/bao}

is_built() { [ "$("$bao" version 2>/dev/null)" = "OpenBao v$OPENBAO_VERSION" ]; }

# build [LIMIT]
build() {
  local limit=${1:-0} status=0
  ! is_built || return 0
  command -v go >/dev/null || fail "there is no Go toolchain, which OpenBao is built with" "install Go 1.24 or newer (https://go.dev/dl)"
  say "building OpenBao $OPENBAO_VERSION (some minutes, once)"
  mkdir -p "$(dirname "$bao")"
  (cd tests/openbao && CGO_ENABLED=0 timeout --kill-after 10 "$limit" go build -trimpath -o "$bao.new" \
    -ldflags "-s -w -X github.com/openbao/openbao/version.fullVersion=$OPENBAO_VERSION" .) || status=$?
  case $status in
    0) mv "$bao.new" "$bao" ;;
    124 | 137) fail "OpenBao was not built within $limit" "run scripts/stores.sh build; what was compiled is kept" ;;
    *) fail "OpenBao does not build" "see the compiler's or the module proxy's words above" ;;
  esac
}

summary() {
  local moto="not tried on this machine (scripts/setup.sh test)" openbao="not tried on this machine (make test-stores)"
  ! have_aws || moto="moto $(sed -n 's/^moto.*==//p' "$AWS_REQUIREMENTS"), an imitation"
  ! is_built || openbao=$("$bao" version)
  say "secret stores: aws: $moto; hashicorp_vault: $openbao"
  say "secret stores: AWS itself and HashiCorp's own Vault are not tried on this machine"
}

case ${1:-} in
  build) build "${2:-}" ;;
  built) is_built ;;
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
  *) fail "usage: stores.sh build [LIMIT]|built|test [MAJOR]|summary" ;;
esac
