#!/usr/bin/env bash
# Renewals killed at every system call, and failing disks: tests/system/crash.sh [--whole] [BINARY], by default
# target/release/refreshd.
#
# strace kills the real binary before its Nth system call, for growing N until the renewal ends first, and lets the Nth
# write, flush, rename or truncation fail with EIO and ENOSPC. After each fault the next start must find the newest pair in
# the state, renew it once more, and report the fault. `tests/crash` judges, with a fake server that accepts each refresh
# token once (strict) or repeats a lost response (with grace).
#
# Without --whole it hits every call that reaches the disk or the server, and a sample of the others: two to three
# minutes. With it all of them: about ten.
#
# Needs strace (installs it), cargo, and the permission to trace. Exit code: 0, 1 (something was lost, or a promise
# broken), 77 (cannot run here).
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=tests/system/lib.sh
source tests/system/lib.sh

whole='' limit=480
if [[ ${1-} == --whole ]]; then whole=1 limit=3600; shift; fi
if [[ -z ${REFRESHD_RIG_BOUNDED-} ]]; then
    REFRESHD_RIG_BOUNDED=1 exec timeout --kill-after=30 $limit "$0" ${whole:+--whole} "$@"
fi

binary=$(realpath -m "${1:-target/release/refreshd}")

install_strace() {
    command -v strace >/dev/null && return
    local as_root=()
    ((EUID == 0)) || as_root=(sudo -n)
    "${as_root[@]}" apt-get update -qq \
        && DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq --no-install-recommends strace \
            >/dev/null || true
    command -v strace >/dev/null || give_up "strace is not installed and cannot be" 77
}

[[ -x $binary ]] || give_up "no executable at $binary; build it first, or name it" 66
install_strace
strace -o /dev/null -e trace=none true 2>/dev/null || give_up "tracing is not allowed here" 77
(($(strace -f -o /dev/null -e inject=getpid:error=EIO true >/dev/null 2>&1; echo $?) == 0)) \
    || give_up "strace does not inject faults here" 77

log=$(mktemp)
trap 'rm -f "$log"' EXIT
cargo test --quiet --test crash --no-run
status=0
REFRESHD_BINARY=$binary ${whole:+env REFRESHD_CRASH_WHOLE=1} \
    cargo test --quiet --test crash -- --ignored --nocapture >"$log" 2>&1 || status=$?

printf '\n%-72s %6s  %s\n' "fault" "tried" "lost"
sed -n 's/^.*TABLE \(.*\) | \(.*\) | \(.*\)$/\1\t\2\t\3/p' "$log" | sort \
    | awk -F '\t' '{ printf "%-72s %6d  %s\n", $1, $2, $3; tried += $2; lost += $3 }
        END { printf "%-72s %6d  %d\n", "all of them", tried, lost }'
if ((status)); then
    printf '\n--- broken promises\n'
    grep -v TABLE "$log" | cut -c1-2000
    printf '\nFAIL  tests/system/crash.sh, %d s\n' "$SECONDS"
    exit 1
fi
printf '\nPASS  nothing was lost, and the log explains it; %d s\n' "$SECONDS"
