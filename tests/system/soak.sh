#!/usr/bin/env bash
# A daemon whose surroundings stall, vanish and attack: tests/system/soak.sh [SECONDS] [BINARY], by default 600 seconds and
# target/release/refreshd.
#
# Three daemons with 67 portals each, at a strict server, one with grace and one that revokes on reuse, go through rounds
# of a suspended process, an unread log, no descriptors, a missing state, clients that take every connection, and forged
# installs. No grant may be lost, every token must work after each disturbance, SIGTERM must work, memory must stay under
# 80 MB.
#
# Needs cargo. Exit code: 0, 1 (something was lost, or a promise broken), 66 (no such binary).
set -euo pipefail
cd "$(dirname "$0")/../.."

seconds=600
if [[ ${1-} =~ ^[0-9]+$ ]]; then seconds=$1; shift; fi
if [[ -z ${REFRESHD_RIG_BOUNDED-} ]]; then
    REFRESHD_RIG_BOUNDED=1 exec timeout --kill-after=30 $((seconds + 900)) "$0" "$seconds" "$@"
fi

binary=$(realpath -m "${1:-target/release/refreshd}")
[[ -x $binary ]] || { echo "tests/system/soak.sh: no executable at $binary; build it first, or name it" >&2; exit 66; }

log=$(mktemp)
trap 'rm -f "$log"' EXIT
cargo test --quiet --test soak --no-run
status=0
REFRESHD_BINARY=$binary REFRESHD_SOAK_SECONDS=$seconds \
    cargo test --quiet --test soak -- --ignored --nocapture >"$log" 2>&1 || status=$?
sed -n 's/^.*SOAKED /      /p' "$log"
if ((status)); then
    cut -c1-2000 "$log" | tail -80
    echo "FAIL  tests/system/soak.sh, $SECONDS s"
    exit 1
fi
echo "PASS  no grant was lost; $SECONDS s"
