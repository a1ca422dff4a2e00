# Shared by the scripts beside it: where things are, which versions, how errors look. Sourced, never run.
# shellcheck shell=bash

# The servers the end-to-end tests run against, and where PostgreSQL's binaries come from when the system has none.
# shellcheck disable=SC2034  # read by the scripts that source this file
PG_MAJORS=(14 15 16 17 18)
declare -A PG_PACKAGE=(
  [14]=14.23.0-beta.17 [15]=15.18.0-beta.17 [16]=16.14.0-beta.17 [17]=17.10.0-beta.17 [18]=18.4.0-beta.17
)

say() { printf '%s\n' "$*"; }

# fail WHAT HOW-TO-MEND
fail() {
  printf '%s: %s\n' "${0##*/}" "$1" >&2
  [ $# -lt 2 ] || printf '  to mend it: %s\n' "$2" >&2
  exit 1
}

# Root's home is closed to other users and PostgreSQL refuses to run as root, so root caches where anyone can read.
cache_dir() {
  if [ -n "${POSTERN_CACHE:-}" ]; then
    say "$POSTERN_CACHE"
  elif [ "$(id -u)" = 0 ]; then
    say /var/cache/postern
  else
    say "${XDG_CACHE_HOME:-$HOME/.cache}/postern"
  fi
}

# The directory of PostgreSQL's binaries for a major version; nothing and status 1 when there is none.
pg_bin() {
  local dir
  for dir in "$(cache_dir)/postgres/$1/bin" "/usr/lib/postgresql/$1/bin"; do
    if [ -x "$dir/postgres" ] && [ -x "$dir/initdb" ]; then
      say "$dir"
      return 0
    fi
  done
  return 1
}

# What the tests of AWS need: a Python of their own, and the list of what is in it. `stamp` is written last.
# shellcheck disable=SC2034  # read by the scripts that source this file
AWS_REQUIREMENTS=$(dirname "${BASH_SOURCE[0]}")/../tests/fixtures/aws/requirements.txt
have_aws() { cmp --silent "$AWS_REQUIREMENTS" "$(cache_dir)/aws/stamp"; }

# Whether the system's packages of the servers are there, PostgreSQL in any version that is supported.
have_rabbitmq() { [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] && command -v epmd >/dev/null; }
have_postgres() {
  local major
  for major in "${PG_MAJORS[@]}"; do
    ! pg_bin "$major" >/dev/null || return 0
  done
  return 1
}

# as_root COMMAND…
as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo -- "$@"
  else
    fail "'$1' needs root, and there is no sudo" "run this as root, or install sudo"
  fi
}
