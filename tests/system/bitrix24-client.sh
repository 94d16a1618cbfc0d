#!/usr/bin/env bash
# A third-party Bitrix24 client: tests/system/bitrix24-client.sh [BINARY], by default target/release/refreshd.
#
# On loopback: a portal with its authorization server, where a refresh token works once and a new access token ends the
# previous one at once, and PyPI's `fast_bitrix24`, which lists, calls and sends batches without a pause. It knows only the
# portal's token file. It checks that
#   - `refreshd authorize` brings the first grant, and a code older than 30 seconds is explained;
#   - across three renewals no call fails for good, and no reader meets an expired token;
#   - the client never sees a refresh token, and the portal never gets a request that a correct client would not send.
#
# About a minute. Installs python3 if it is not there, and the client for itself. Exit code: 0, 1 (a check failed), 77
# (cannot run here).
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=tests/system/lib.sh
source tests/system/lib.sh

readonly fast_bitrix24=1.8.14

# A time limit for the whole rig, not only for each step.
if [[ -z ${REFRESHD_RIG_BOUNDED-} ]]; then
    REFRESHD_RIG_BOUNDED=1 exec timeout --kill-after=30 300 "$0" "$@"
fi

binary=$(realpath -m "${1:-target/release/refreshd}")
work=''

[[ -x $binary ]] || give_up "no executable at $binary; build it first, or name it" 66
work=$(mktemp -d)
trap end_checks EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

install_python "fast_bitrix24==$fast_bitrix24" || give_up "fast_bitrix24 cannot be installed: $(tail -n 3 "$work/pip.log")" 77

run_checks tests/system/bitrix24-client.checks.py
