#!/usr/bin/env bash
# Everything that is tested: unit tests of all crates, then the end-to-end tests against each PostgreSQL version.
# `test.sh 15 18` runs the end-to-end tests against these versions only.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

versions=("${@:-${PG_MAJORS[@]}}")
target=${CARGO_TARGET_DIR:-target}
# Tests mostly wait for servers, so there are more of them than cores.
threads=${POSTERN_TEST_THREADS:-4}
[ "${CI:-}" != true ] || export CARGO_INCREMENTAL=0

scripts/setup.sh test

say "building"
cargo build --locked -p postern --features fault-points
cargo build --locked -p postern-tests --bins --tests

say "unit tests"
cargo test --locked --workspace --exclude postern-tests --features postern/fault-points

summary=()
failed=0
log=$(mktemp)
rights=$(mktemp -d)
export POSTERN_TEST_RIGHTS=$rights
trap 'rm -rf "$log" "$rights"' EXIT
for major in "${versions[@]}"; do
  bin=$(pg_bin "$major") || fail "PostgreSQL $major is not there after the set-up" "run scripts/setup.sh test and look at what it says"
  full=$("$bin/postgres" --version | grep -oE '[0-9]+\.[0-9]+' | head -n 1)
  say "end-to-end tests against PostgreSQL $full"
  # Secret stores know nothing of PostgreSQL's version: one is enough. `make test-stores` builds OpenBao, which takes
  # minutes; the last lines say whether it was here.
  skip=()
  if [ "$major" != "${versions[-1]}" ]; then
    skip=(--skip stores::)
  elif ! scripts/stores.sh built; then
    skip=(--skip stores::vault)
  fi
  status=0
  POSTERN_TEST_PG=$major "$target/debug/postern-services" -- \
    cargo test --locked -p postern-tests --test e2e -- --test-threads "$threads" "${skip[@]}" 2>&1 | tee "$log" || status=$?
  # libtest: "test result: ok. 12 passed; 0 failed; 0 ignored; …"
  result=$(grep -E '^test result: ' "$log" | tail -n 1 || true)
  passed=$(sed -nE 's/.* ([0-9]+) passed;.*/\1/p' <<<"$result")
  broken=$(sed -nE 's/.* ([0-9]+) failed;.*/\1/p' <<<"$result")
  summary+=("PostgreSQL $major ($full): ${passed:-0} end-to-end tests passed, ${broken:-unknown} failed")
  if [ "$status" != 0 ] || [ "${passed:-0}" = 0 ] || [ "${broken:-1}" != 0 ]; then
    failed=1
  fi
done

# platform, version, right, item, statement: one line for all versions on which the same was printed.
if compgen -G "$rights/*.tsv" >/dev/null; then
  say "rights that were taken away, found by postern check, and given back by what it printed"
  cat "$rights"/*.tsv | awk -F '\t' '
    { key = $1 " | " $3; line = substr($5, 1, 150); if (length($5) > 150) line = line "…"
      if (!((key, line) in on)) order[++n] = key SUBSEP line
      on[key, line] = on[key, line] " " $2 }
    END { for (i = 1; i <= n; i++) { split(order[i], part, SUBSEP); printf "%s |%s | %s\n", part[1], on[order[i]], part[2] } }' | sort -s -t '|' -k 1,1
fi

printf '\n'
printf '%s\n' "${summary[@]}"
scripts/stores.sh summary
exit "$failed"
