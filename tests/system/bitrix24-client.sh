#!/usr/bin/env bash
# A Bitrix24 client that nobody here wrote: tests/system/bitrix24-client.sh [BINARY], by default target/release/refreshd.
#
# On loopback: a portal with its authorization server, where a refresh token works once and the access token before is
# dead the moment a new one is issued, and PyPI's `fast_bitrix24`, which lists, calls and sends batches without a pause.
# It knows nothing but the portal's token file. Proved are that
#   - `refreshd authorize` brings the first grant, and a code older than 30 seconds is explained;
#   - across three renewals no call fails for good, and no reader meets an expired token;
#   - the client never sees a refresh token, and the portal nothing that a correct client would not send.
#
# About a minute. Installs python3 if it is not there, and the client for itself. Exit code: 0, 1 (something failed), 77
# (cannot run here).
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=tests/system/lib.sh
source tests/system/lib.sh

readonly fast_bitrix24=1.8.14

# The whole rig is bounded, not only each step.
if [[ -z ${REFRESHD_RIG_BOUNDED-} ]]; then
    REFRESHD_RIG_BOUNDED=1 exec timeout --kill-after=30 300 "$0" "$@"
fi

binary=$(realpath -m "${1:-target/release/refreshd}")
work='' checks=''

# Other rigs may be installing at the same time.
install() {
    local as_root=() try
    ((EUID == 0)) || as_root=(sudo -n)
    for try in 1 2 3 4 5; do
        "${as_root[@]}" apt-get update -qq \
            && DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get -o DPkg::Lock::Timeout=60 install -y -qq \
                --no-install-recommends "$@" >/dev/null && return
        sleep "$try"
    done
    return 1
}

install_client() {
    command -v python3 || install python3 python3-venv || return
    python3 -m venv "$work/venv" || { rm -rf "$work/venv"; install python3-venv; python3 -m venv "$work/venv"; } || return
    "$work/venv/bin/pip" install --quiet --disable-pip-version-check "fast_bitrix24==$fast_bitrix24"
} >"$work/pip.log" 2>&1

# Ends what this script has started, and nothing else.
clean_up() {
    local status=$?
    trap - EXIT INT TERM
    if [[ -n $checks ]]; then
        kill -TERM "$checks" 2>/dev/null || true
        wait "$checks" 2>/dev/null || true
    fi
    if [[ -n $work ]]; then rm -rf --one-file-system "$work"; fi
    exit "$status"
}

[[ -x $binary ]] || give_up "no executable at $binary; build it first, or name it" 66
work=$(mktemp -d)
trap clean_up EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

install_client || give_up "fast_bitrix24 cannot be installed: $(tail -n 3 "$work/pip.log")" 77

# A program of its own, so that a signal to this script is heard while it runs.
python3 -B tests/system/bitrix24-client.checks.py "$binary" "$work" &
checks=$!
status=0
wait "$checks" || status=$?
checks=''
exit "$status"
