#!/usr/bin/env bash
# The daemon under a wall clock that jumps: tests/system/clock.sh [BINARY], by default target/release/refreshd.
#
# libfaketime moves the wall clock of the daemon only and leaves its monotonic clock unchanged, as setting a machine's clock
# does. The fake authorization server and this script keep the real time, and the first digits of every access token hold
# its expiry by the server's clock. A reader polls the token files all the while and must never meet a token that has
# expired at the server.
#
# Needs Debian's faketime (installs it) and a dynamically linked binary. The machine's own clock is never touched.
# Exit code: 0, 1 (a check failed), 77 (cannot run here).
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=tests/system/lib.sh
source tests/system/lib.sh

# A time limit for the whole rig, not only for each step.
if [[ -z ${REFRESHD_RIG_BOUNDED-} ]]; then
    REFRESHD_RIG_BOUNDED=1 exec timeout --kill-after=30 300 "$0" "$@"
fi

readonly lifetime=20 renew_every=8 portals=(portal-1 portal-2)
# A renewal is due within `renew_every`; the rest is for a busy machine.
readonly patience=15
readonly hours=7200 year=31536000

binary=$(realpath -m "${1:-target/release/refreshd}")
work='' sandbox='' daemon='' reader='' offset=0

# --- helpers --------------------------------------------------------------------------------------------------------

# --- processes ------------------------------------------------------------------------------------------------------

faketime_library() { compgen -G '/usr/lib/*/faketime/libfaketimeMT.so.1' | head -n 1; }

install_tools() {
    [[ -n $(faketime_library) ]] && return
    local as_root=()
    ((EUID == 0)) || as_root=(sudo -n)
    "${as_root[@]}" apt-get update -qq \
        && DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq --no-install-recommends faketime \
            >/dev/null || true
    [[ -n $(faketime_library) ]] || give_up "faketime is not installed and cannot be" 77
}

# set_clock SECONDS: sets how far the daemon's clock is ahead of the real time from now on. The file is replaced in one
# step, since the daemon reads it with every request for the time.
set_clock() {
    offset=$1
    printf '%+d\n' "$offset" >"$work/offset.new"
    mv "$work/offset.new" "$work/offset"
}

start_sandbox() {
    "$binary" sandbox --listen "127.0.0.1:$sandbox_port" --portals "${#portals[@]}" --lifetime "${lifetime}s" \
        --dir "$work/sandbox" >"$work/sandbox.log" 2>&1 &
    sandbox=$!
    within 10 test -s "$work/sandbox/${portals[-1]}.refresh" || {
        cat "$work/sandbox.log" >&2
        give_up "the fake server did not start"
    }
}

settings() {
    cat <<END
state = "$work/state.db"
token_dir = "$work/tokens"
control_socket = "$work/control.sock"

[log]
format = "text"

[http]
listen = "127.0.0.1:$http_port"

[apps.sandbox]
provider = "bitrix24"
client_id = "local.sandbox"
client_secret_file = "$work/sandbox/client.secret"
token_url = "http://127.0.0.1:$sandbox_port/oauth/token/"
renew_every = "${renew_every}s"
assumed_lifetime = "${lifetime}s"
END
    local portal
    for portal in "${portals[@]}"; do
        cat <<END

[portals.$portal]
app = "sandbox"
refresh_token_file = "$work/sandbox/$portal.refresh"
formats = ["json", "raw"]
END
    done
}

start_daemon() {
    "${with_fake_clock[@]}" "$binary" run --config "$work/refreshd.toml" >>"$work/daemon.log" 2>&1 &
    daemon=$!
    within 20 metrics || { cat "$work/daemon.log" >&2; give_up "the daemon did not start"; }
}

stop() { kill -TERM "$1" && wait "$1"; }

# Polls every token file a few times a second, and records violations.
read_tokens() {
    local portal token reads=0
    while sleep 0.2; do
        for portal in "${portals[@]}"; do
            token=$(<"$work/tokens/$portal/token") || token=''
            if [[ -z $token ]]; then
                echo "$portal: no token" >>"$work/unusable"
            elif (($(ends_at "$token") <= EPOCHSECONDS)); then
                echo "$portal: ended $((EPOCHSECONDS - $(ends_at "$token"))) s ago" >>"$work/unusable"
            fi
            reads=$((reads + 1))
        done
        echo "$reads" >"$work/reads"
    done
}

# Ends the processes that this script started, and no others.
clean_up() {
    local status=$? pid
    trap - EXIT INT TERM
    for pid in $reader $daemon $sandbox; do
        kill -CONT "$pid" 2>/dev/null || true
        kill -KILL "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    # A killed process leaves libfaketime's shared memory behind.
    if [[ -n $daemon ]]; then rm -f "/dev/shm/faketime_shm_$daemon" "/dev/shm/sem.faketime_sem_$daemon"; fi
    if [[ -n $work ]]; then rm -rf --one-file-system "$work"; fi
    exit "$status"
}

# --- inspection -----------------------------------------------------------------------------------------------------

# Expiry of an access token by the server's clock: its first eight digits, least significant byte first.
ends_at() { echo $((16#${1:6:2}${1:4:2}${1:2:2}${1:0:2})); }

# field PORTAL NAME: a number of token.json.
field() { grep -o "\"$2\": *-\?[0-9]*" "$work/tokens/$1/token.json" | grep -o '[0-9-]*$'; }
generation() { field "$1" generation; }

# by_fake_clock PORTAL: by token.json and the daemon's own time, the token expires within a life from now.
by_fake_clock() {
    local left=$(($(field "$1" expires_at_unix) - EPOCHSECONDS - offset))
    # Both times are whole seconds.
    ((left >= -1 && left <= lifetime + 1)) || { note "$1: token.json log_contains $left s to go"; return 1; }
}
all_by_fake_clock() { local portal; for portal in "${portals[@]}"; do by_fake_clock "$portal" || return; done; }

# A GET in pure bash.
metrics() {
    timeout 5 bash -c "exec 3<>/dev/tcp/127.0.0.1/$http_port
        printf 'GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' >&3; cat <&3" | tr -d '\r'
}
# Every outcome counts: each is one request that was sent, or was about to be.
requests() { metrics | awk '/^refreshd_renewals_total/ { sum += $NF } END { print sum + 0 }'; }
failures() { metrics | awk '/^refreshd_renewals_total/ && !/result="renewed"/ { sum += $NF } END { print sum + 0 }'; }
skew() { metrics | awk '/^refreshd_clock_skew_seconds/ { print int($NF) }'; }
# The server's Date has whole seconds, and the response takes its time.
skew_is() { local skew; skew=$(skew); [[ -n $skew ]] && ((skew >= $1 - 3 && skew <= $1 + 3)); }

# The log from here on.
mark() { logged=$(wc -l <"$work/daemon.log"); }
log_contains() { tail -n "+$((logged + 1))" "$work/daemon.log" | grep --quiet --fixed-strings -- "$1"; }
silent() { ! log_contains "$1"; }

remember_generations() { local portal; for portal in "${portals[@]}"; do before[$portal]=$(generation "$portal"); done; }
# renewed_since N: every portal has been renewed so many times since.
renewed_since() {
    local portal
    for portal in "${portals[@]}"; do (($(generation "$portal") >= before[$portal] + $1)) || return; done
}
declare -A before=()

# at_most N: so many requests for each portal since `counted`.
at_most() {
    local sent
    sent=$(($(requests) - counted))
    note "$sent requests for ${#portals[@]} portals"
    ((sent <= $1 * ${#portals[@]}))
}

# --- checks ---------------------------------------------------------------------------------------------------------

starts() {
    heading "start"
    check "each portal has a token" within 10 renewed_since 1
    eventually "$patience" "each is renewed" renewed_since 2
    check "the stored times are the daemon's" all_by_fake_clock
    check "no clock skew is measured" skew_is 0
    check "nothing is logged about a clock" silent clock
}

follows_a_step_back() {
    heading "two hours back"
    mark
    remember_generations
    counted=$(requests)
    set_clock -$hours
    eventually "$patience" "the log reports it" log_contains "the wall clock was set back"
    eventually 2 "the stored times follow" all_by_fake_clock
    eventually "$patience" "renewals go on" renewed_since 1
    check "the stored times are the daemon's" all_by_fake_clock
    check "the metric shows the server two hours ahead" skew_is $hours
    check "the log warns of it" log_contains "the authorization server's clock differs"
    eventually "$patience" "renewals keep on" renewed_since 2
    # Two are planned; the step may bring one forward.
    check "at their pace" at_most 3
}

follows_a_step_ahead() {
    heading "a year ahead"
    # Longer than the least time between two renewals, a tenth of the life: the time that the machine slept is unknown.
    sleep 3
    mark
    remember_generations
    counted=$(requests)
    set_clock $year
    eventually "$patience" "the log reports it" log_contains "the wall clock jumped ahead"
    eventually 3 "every portal is renewed, since the time that the machine slept is unknown" renewed_since 1
    check "the stored times are the daemon's" all_by_fake_clock
    check "the metric shows the server a year behind" skew_is -$year
    check "the log warns of it" log_contains "the authorization server's clock differs"
    sleep 3
    check "without a storm" at_most 2
    eventually "$patience" "renewals go on" renewed_since 2
}

# A pair whose request was sent before the step and whose response came after it must not be dated a year ahead.
follows_a_step_back_with_a_request_under_way() {
    heading "back again, while a request is under way"
    local portal=${portals[0]} command
    # As above, or the command would be refused.
    sleep 3
    mark
    remember_generations
    counted=$(requests)
    kill -STOP "$sandbox"
    "$binary" renew "$portal" --config "$work/refreshd.toml" >"$work/renew.log" 2>&1 &
    command=$!
    sleep 1
    set_clock 0
    # Wakes the loop that checks the clock.
    kill -HUP "$daemon"
    eventually "$patience" "the log reports it" log_contains "the wall clock was set back"
    kill -CONT "$sandbox"
    wait "$command" || { note "refreshd renew: $(<"$work/renew.log")"; fail "the renewal ends well"; }
    eventually 2 "the stored times follow, those of the reply too" all_by_fake_clock
    eventually "$patience" "renewals go on" renewed_since 2
    check "without a storm" at_most 3
    check "the metric shows no clock skew any more" skew_is 0
}

follows_a_step_back_while_stopped() {
    heading "two hours back, while it is stopped"
    remember_generations
    mark
    check "it stops" stop "$daemon"
    set_clock -$hours
    start_daemon
    check "the log reports it" log_contains "the wall clock was set back while refreshd did not run"
    eventually 5 "every portal is renewed, since the ages are not known" renewed_since 1
    check "the stored times are the daemon's" all_by_fake_clock
    check "the daemon stops" stop "$daemon"
    daemon=''
}

ends_well() {
    heading "all the while"
    note "$(<"$work/reads") looks at the token files"
    check "the reader has looked" test "$(<"$work/reads")" -gt 100
    check "no reader met a token that had ended at the server" test ! -e "$work/unusable"
    if [[ -e $work/unusable ]]; then sort "$work/unusable" | uniq -c | head -n 5; fi
    check "no renewal failed" test "$1" == 0
    stop "$sandbox" || true
    sandbox=''
    check "no alarm was logged" not grep --quiet 'severity="\(warning\|error\|critical\)"' "$work/daemon.log"
    check "the server saw nothing that a correct client would not send" not grep violation "$work/sandbox.log"
}

# --- main -----------------------------------------------------------------------------------------------------------

[[ -x $binary ]] || give_up "no executable at $binary; build it first, or name it" 66
ldd "$binary" >/dev/null 2>&1 || give_up "$binary is linked statically: its clock cannot be moved" 77
work=$(mktemp -d)
trap clean_up EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

install_tools
with_fake_clock=(env LD_PRELOAD="$(faketime_library)" FAKETIME_TIMESTAMP_FILE="$work/offset" FAKETIME_NO_CACHE=1
    FAKETIME_DONT_FAKE_MONOTONIC=1 NO_FAKE_STAT=1)
sandbox_port=$(free_port) http_port=$(free_port)
set_clock -$year
moved=$("${with_fake_clock[@]}" date +%s)
((moved < EPOCHSECONDS - year / 2)) || give_up "faketime does not move a clock here" 77
set_clock 0
start_sandbox
(umask 077 && settings >"$work/refreshd.toml")
for portal in "${portals[@]}"; do before[$portal]=0; done
logged=0
start_daemon

starts
read_tokens &
reader=$!
follows_a_step_back
follows_a_step_ahead
follows_a_step_back_with_a_request_under_way
failed_renewals=$(failures)
follows_a_step_back_while_stopped
kill "$reader" && wait "$reader" 2>/dev/null || true
reader=''
ends_well "$failed_renewals"

if ((failed)); then
    heading "the daemon's last log lines"
    tail -n 60 "$work/daemon.log"
fi
printf '\ntests/system/clock.sh: %d passed, %d failed, %d s\n' "$passed" "$failed" "$SECONDS"
((failed == 0))
