#!/usr/bin/env bash
# A stuck daemon and its detection: tests/system/health.sh [BINARY], by default target/release/refreshd.
#
# A disk that does not respond blocks the scheduler: strace delays one flush of the state by 90 seconds. `/livez` must
# report it after a minute, systemd's watchdog must get no ping meanwhile, and both must recover afterwards, with no grant
# lost. A socket that records messages replaces systemd, so the stuck daemon is not killed.
#
# Then the tests of tests/e2e/daemon/hung.rs, which need strace as well: calls on token files and on the record of generations
# that hang.
#
# Needs cargo. Installs Debian's strace, socat and curl if they are not there. Exit code: 0, 1 (a check failed), 77 (cannot run here).
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=tests/system/lib.sh
source tests/system/lib.sh

# A time limit for the whole rig, not only for each step.
if [[ -z ${REFRESHD_RIG_BOUNDED-} ]]; then
    REFRESHD_RIG_BOUNDED=1 exec timeout --kill-after=30 600 "$0" "$@"
fi

# A token outlives the whole rig, and no renewal is due by itself.
readonly lifetime=900 stuck=90 ping=10

binary=$(realpath -m "${1:-target/release/refreshd}")
work='' sandbox='' daemon='' listener='' tracer=''

# --- helpers --------------------------------------------------------------------------------------------------------

# --- processes ------------------------------------------------------------------------------------------------------

has_tools() { command -v strace && command -v socat && command -v curl; } >/dev/null

install_tools() {
    has_tools && return
    local as_root=()
    ((EUID == 0)) || as_root=(sudo -n)
    "${as_root[@]}" apt-get update -qq \
        && DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq --no-install-recommends \
            strace socat curl >/dev/null || true
    has_tools || give_up "strace, socat or curl is not installed and cannot be" 77
}

settings() {
    cat <<END
state = "$work/state.db"
token_dir = "$work/tokens"
control_socket = "$work/control.sock"
log = { format = "text" }
http = { listen = "127.0.0.1:$http_port" }

[apps.sandbox]
provider = "bitrix24"
client_id = "local.sandbox"
client_secret_file = "$work/sandbox/client.secret"
token_url = "http://127.0.0.1:$sandbox_port/oauth/token/"
renew_every = "50%"
assumed_lifetime = "${lifetime}s"

[portals.portal-1]
app = "sandbox"
refresh_token_file = "$work/sandbox/portal-1.refresh"

[portals.portal-2]
app = "sandbox"
END
}

start_sandbox() {
    "$binary" sandbox --listen "127.0.0.1:$sandbox_port" --portals 2 --lifetime "${lifetime}s" \
        --dir "$work/sandbox" >"$work/sandbox.log" 2>&1 &
    sandbox=$!
    within 10 test -s "$work/sandbox/portal-2.refresh" || give_up "the fake server did not start"
}

# The messages to systemd, one after the other.
start_listener() {
    socat -u "UNIX-RECV:$work/notify.sock" "CREATE:$work/notifications" 2>"$work/socat.log" &
    listener=$!
    within 10 test -S "$work/notify.sock" || give_up "socat does not listen: $(<"$work/socat.log")"
}

start_daemon() {
    (umask 077 && settings >"$work/refreshd.toml")
    NOTIFY_SOCKET=$work/notify.sock WATCHDOG_USEC=$((2 * ping * 1000000)) \
        "$binary" run --config "$work/refreshd.toml" >"$work/daemon.log" 2>&1 &
    daemon=$!
    within 20 generation_of portal-1 2 || { cat "$work/daemon.log" >&2; give_up "the daemon did not start"; }
}

# The next flush of the state takes this long; all others are not delayed.
delay_flush() {
    strace -f -o "$work/trace" -p "$daemon" -P "$work/state.db-wal" -e trace=fdatasync \
        -e inject=fdatasync:delay_exit="${stuck}000000":when=1 2>"$work/strace.log" &
    tracer=$!
    within 10 grep --quiet attached "$work/strace.log" || give_up "strace does not attach: $(<"$work/strace.log")" 77
}

# end SIGNAL PROCESS: its exit code.
end() { local status=0; kill -s "$1" "$2" 2>/dev/null || true; wait "$2" 2>/dev/null || status=$?; return "$status"; }

# Ends the processes that this script started, and no others.
clean_up() {
    local status=$? pid
    trap - EXIT INT TERM
    for pid in $tracer $daemon $sandbox $listener; do
        kill -TERM "$pid" 2>/dev/null || true
        within 10 gone "$pid" || kill -KILL "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    if [[ -n $work ]]; then rm -rf --one-file-system "$work"; fi
    exit "$status"
}

# --- inspection -----------------------------------------------------------------------------------------------------

get() { curl --silent --show-error --noproxy '*' --max-time 5 "$@"; }
answer() { get --output "$work/answer" --write-out '%{http_code}' "http://127.0.0.1:$http_port$1"; }
answers() { [[ $(answer "$1") == "$2" ]]; }
pings() { grep -o 'WATCHDOG=1' "$work/notifications" | wc -l; }
more_pings_than() { (($(pings) > $1)); }
# generation_of PORTAL NUMBER: the token of this generation is published.
generation_of() { grep --quiet "\"generation\": *$2\b" "$work/tokens/$1/token.json"; }

# --- checks ---------------------------------------------------------------------------------------------------------

is_well() {
    heading "well"
    check "/livez is 200" answers /livez 200
    check "/readyz is 200" answers /readyz 200
    local before
    before=$(pings)
    eventually $((ping + 5)) "the watchdog is fed" more_pings_than "$before"
}

is_stuck() {
    heading "a flush of the state that takes $stuck s"
    delay_flush
    local began=$SECONDS before
    # An imported grant is stored at once.
    "$binary" import portal-2 "$work/sandbox/portal-2.refresh" --config "$work/refreshd.toml" >"$work/import.log" 2>&1 &
    local command=$!
    # The loop notices it in its next round only.
    sleep $((ping + 2))
    before=$(pings)
    sleep $((began + 50 - SECONDS))
    check "/livez is 200 before a minute is over" answers /livez 200
    eventually $((20 + ping)) "/livez is 503 then" answers /livez 503
    note "after $((SECONDS - began)) s: $(<"$work/answer")"
    check "it gives the reason" grep --quiet 'no progress in the last minute' "$work/answer"
    check "the watchdog has got no ping since" test "$(pings)" = "$before"
    check "/metrics still answers" answers /metrics 200
    check "nothing was sent for a grant that is not durable" not grep --quiet 'portal-2: renewed' "$work/daemon.log"

    heading "well again"
    eventually 30 "/livez is 200" answers /livez 200
    note "after $((SECONDS - began)) s"
    check "one flush was delayed" test "$(grep -c DELAYED "$work/trace")" = 1
    eventually $((ping + 5)) "the watchdog is fed" more_pings_than "$before"
    end TERM "$tracer" || true
    tracer=''
    wait "$command" || note "the command did not wait for it: $(tail -n 1 "$work/import.log")"
    eventually 5 "the delayed grant is imported and renewed" generation_of portal-2 2
    eventually 5 "/readyz is 200" answers /readyz 200
    check "no grant was lost" not grep --quiet 'needs-authorization\|in-doubt' "$work/daemon.log"
    check "it stops in good order" end TERM "$daemon"
    check "the server saw nothing that a correct client would not send" not grep --quiet violation "$work/sandbox.log"
}

# --- main -----------------------------------------------------------------------------------------------------------

[[ -x $binary ]] || give_up "no executable at $binary; build it first, or name it" 66
work=$(mktemp -d)
trap clean_up EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

install_tools
sandbox_port=$(free_port) http_port=$(free_port)
start_sandbox
start_listener
start_daemon
is_well
is_stuck

heading "calls on token files that hang"
check "they block the work that needs them, and nothing else" cargo test --quiet --test e2e hung:: -- --ignored

if ((failed)); then
    heading "last log lines"
    tail -n 20 "$work/daemon.log" "$work/import.log" "$work/trace" | cut -c1-400
fi
printf '\ntests/system/health.sh: %d passed, %d failed, %d s\n' "$passed" "$failed" "$SECONDS"
((failed == 0))
