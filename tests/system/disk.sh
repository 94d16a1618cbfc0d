#!/usr/bin/env bash
# The daemon on a full disk: tests/system/disk.sh [BINARY], by default target/release/refreshd.
#
# Small file systems (tmpfs, ext4 and, if their tools are available, XFS and Btrfs) are mounted in a mount namespace of
# this script and filled to the last byte, by a process that writes whenever there is space. The fake server is strict: a
# spent refresh token whose successor was not stored is a dead grant. It checks that
#   - a renewal claimed before the disk was full is recorded on the full disk, and renewals go on there, also after a
#     SIGKILL and after a stop and a start;
#   - without space for new pairs nothing is sent, and the log log_contains what to do;
#   - a pair that the disk refuses is held, counted, notified, and waited for by SIGTERM, within a limit.
# Btrfs writes nothing in place: its results are printed without a verdict.
#
# Needs root (mounts) and strace (installs it). Exit code: 0, 1 (a check failed), 77 (cannot run here).
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=tests/system/lib.sh
source tests/system/lib.sh

if [[ -z ${REFRESHD_RIG_BOUNDED-} ]]; then
    ((EUID == 0)) && unshare --mount true 2>/dev/null || { echo "tests/system/disk.sh: may not mount here" >&2; exit 77; }
    REFRESHD_RIG_BOUNDED=1 exec timeout --kill-after=30 420 unshare --mount --propagation private "$0" "$@"
fi

readonly lifetime=20 renew_every=6 portals=40
readonly patience=40

binary=$(realpath -m "${1:-target/release/refreshd}")
work='' disk='' sandbox='' daemon='' filler='' tracer='' judged=1

# --- helpers --------------------------------------------------------------------------------------------------------

fail() {
    if ((judged)); then echo "FAIL  $1"; failed=$((failed + 1)); else echo "      not so here: $1"; fi
}

# within SECONDS COMMAND...
within() {
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < end)) || return 1
        sleep 0.1
    done
}

# --- processes ------------------------------------------------------------------------------------------------------

install() {
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$1" >/dev/null 2>&1 \
        || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$1"; } \
            >/dev/null 2>&1 || true
}

# has TOOL PACKAGE: is available, or is installed now.
has() { command -v "$1" >/dev/null || install "$2"; command -v "$1" >/dev/null; }

# mounted KIND: a fresh, small file system on $disk; false if this machine has none of that kind.
mounted() {
    disk=$work/$1
    mkdir -p "$disk"
    case $1 in
        tmpfs) mount -t tmpfs -o size=24m tmpfs "$disk"; return ;;
        # mkfs uses the smaller block for small disks, the larger one for others.
        ext4-1k) image 32 && mkfs.ext4 -q -b 1024 "$disk.img" ;;
        ext4-4k) image 32 && mkfs.ext4 -q -b 4096 "$disk.img" ;;
        xfs) has mkfs.xfs xfsprogs && image 320 && mkfs.xfs -q "$disk.img" ;;
        btrfs) has mkfs.btrfs btrfs-progs && image 128 && mkfs.btrfs -q "$disk.img" >/dev/null 2>&1 ;;
    esac && mount -o loop "$disk.img" "$disk" 2>"$work/mount.log"
}
image() { truncate -s "$1M" "$disk.img"; }
# The filler's last child may still be running.
unmount() { within 10 umount "$disk" && rm -f "$disk.img"; }

# start_sandbox PORTALS
start_sandbox() {
    rm -rf "$work/sandbox" "$work/tokens"
    sandbox_port=$(free_port) http_port=$(free_port) count=$1
    "$binary" sandbox --listen "127.0.0.1:$sandbox_port" --portals "$1" --lifetime "${lifetime}s" \
        --dir "$work/sandbox" >"$work/sandbox.log" 2>&1 &
    sandbox=$!
    within 10 test -s "$work/sandbox/portal-$1.refresh" || give_up "the fake server did not start"
    (umask 077 && settings "$1" >"$work/refreshd.toml")
    : >"$work/daemon.log"
}

settings() {
    cat <<END
state = "$disk/state.db"
token_dir = "$work/tokens"
control_socket = "$work/control.sock"
log = { format = "text" }
http = { listen = "127.0.0.1:$http_port" }
renewal = { timeout = "10s" }

[apps.sandbox]
provider = "bitrix24"
client_id = "local.sandbox"
client_secret_file = "$work/sandbox/client.secret"
token_url = "http://127.0.0.1:$sandbox_port/oauth/token/"
renew_every = "${renew_every}s"
assumed_lifetime = "${lifetime}s"
END
    local portal
    for ((portal = 1; portal <= $1; portal++)); do
        printf '\n[portals.portal-%d]\napp = "sandbox"\nrefresh_token_file = "%s"\n' \
            "$portal" "$work/sandbox/portal-$portal.refresh"
    done
}

launch() {
    mark
    "$binary" run --config "$work/refreshd.toml" >>"$work/daemon.log" 2>&1 &
    daemon=$!
}
start_daemon() { launch; within 20 log_contains "is ready" || { cat "$work/daemon.log" >&2; fail "the daemon starts"; return 1; }; }

# end SIGNAL PROCESS: its exit code.
end() { local status=0; kill -s "$1" "$2" 2>/dev/null || true; wait "$2" 2>/dev/null || status=$?; return "$status"; }
stop() { end TERM "$daemon"; }

# Fills the disk, and any space that becomes free from then on.
fill() {
    cat /dev/zero >"$disk/fill" 2>/dev/null || true
    # Large writes, and small ones for the remainder.
    while :; do
        cat /dev/zero >>"$disk/fill" || true
        dd if=/dev/zero bs=512 >>"$disk/fill" || true
    done 2>/dev/null &
    filler=$!
    within 10 is_full || true
}
empty() {
    if [[ -n $filler ]]; then end KILL "$filler" || true; filler=''; fi
    rm -f "$disk/fill"
}

# Ends the processes that this script started, and no others. The mounts end with the namespace, the loop devices with them.
clean_up() {
    local status=$? pid
    trap - EXIT INT TERM
    for pid in $tracer $filler $daemon $sandbox; do
        kill -CONT "$pid" 2>/dev/null || true
        kill -KILL "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    if [[ -n $work ]]; then
        umount --all-targets --lazy "$work"/*/ 2>/dev/null || true
        rm -rf --one-file-system "$work"
    fi
    exit "$status"
}

# --- inspection -----------------------------------------------------------------------------------------------------

mark() { logged=$(wc -l <"$work/daemon.log"); }
log_contains() { tail -n "+$((logged + 1))" "$work/daemon.log" | grep --quiet -- "$1"; }
metrics() {
    timeout 5 bash -c "exec 3<>/dev/tcp/127.0.0.1/$http_port
        printf 'GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' >&3; cat <&3" | tr -d '\r'
}
unsaved() { metrics | awk '/^refreshd_tokens_unsaved / { print int($NF) }'; }
unsaved_is() { [[ $(unsaved) == "$1" ]]; }
outcomes() { metrics | awk '/^refreshd_renewals_total/ { sum += $NF } END { print sum + 0 }'; }

generation() { grep -o '"generation": *[0-9]*' "$work/tokens/portal-$1/token.json" 2>/dev/null | grep -o '[0-9]*$' || echo 0; }
remember() { local portal; for ((portal = 1; portal <= count; portal++)); do before[portal]=$(generation "$portal"); done; }
declare -a before=()
renewed() {
    local portal
    for ((portal = 1; portal <= count; portal++)); do (($(generation "$portal") > before[portal])) || return; done
}
# Pending requests: connections with unread data at the server, which is suspended.
under_way() {
    local port
    port=$(printf '%04X' "$sandbox_port")
    (($(awk -v port=":$port" '$2 ~ port "$" && $4 == "01" && $5 !~ /:00000000$/' /proc/net/tcp | wc -l) >= count))
}
is_full() { ! { dd if=/dev/zero bs=4096 count=1 of="$disk/probe" 2>/dev/null && rm -f "$disk/probe"; }; }
sees_violation() { grep violation "$work/sandbox.log" | grep -v 'renewed twice within a tenth'; }
no_grant_was_lost() { not grep --quiet 'rejected while in doubt\|needs-authorization' "$work/daemon.log"; }

# --- checks ---------------------------------------------------------------------------------------------------------

fills_up_between_claim_and_record() {
    heading "$1: full between claim and record"
    start_sandbox $portals
    remember
    start_daemon || return 0
    within $patience renewed || { fail "each portal has a token"; return 0; }
    remember
    sleep 2.2 # no grant is renewed twice in a tenth of its life
    kill -STOP "$sandbox"
    "$binary" renew --all --config "$work/refreshd.toml" >"$work/renew.log" 2>&1 &
    local command=$!
    within 10 under_way || note "not every request was under way"
    note "$(cd "$disk" && ls -s --block-size=1K state.db state.db-wal | awk '{ printf "%s KB %s  ", $1, $2 }')"
    fill
    eventually 5 "the disk is full" is_full
    mark
    kill -CONT "$sandbox"
    eventually $patience "all $portals pairs are recorded and published" renewed
    wait "$command" || fail "refreshd renew --all failed: $(tail -n 3 "$work/renew.log")"
    check "none was unsaved at any time" not log_contains "not on disk"
    eventually 5 "the disk is still full" is_full
    end KILL "$daemon" || true
    remember
    if start_daemon; then pass "it starts after a SIGKILL on the full disk"; fi
    eventually $patience "renewals go on there" renewed
    check "no grant was lost" no_grant_was_lost
    empty
    check "it stops" stop
    fill
    remember
    if start_daemon; then pass "after a stop it starts on a full disk"; fi
    eventually $patience "and renews" renewed
    check "no grant was lost" no_grant_was_lost
    empty
    stop || true
    end TERM "$sandbox" || true
    # The server was suspended for a while: its last renewals are younger by its clock than by the daemon's.
    check "the server saw nothing that a correct client would not send" not sees_violation
    unmount
}

sends_nothing_without_room() {
    heading "$1: no room for new pairs"
    start_sandbox 3
    remember
    start_daemon || return 0
    within $patience renewed || fail "each portal has a token"
    stop || true
    # As after a restore of the database alone: its log, with the reserved space, is missing.
    rm -f "$disk/state.db-wal"
    fill
    start_daemon || return 0
    pass "it starts without a byte left"
    eventually 10 "the log reports that nothing is sent" log_contains "so nothing is sent: the disk has no room for new pairs"
    check "and what to do" log_contains "To do: free space"
    remember
    sleep 3 # longer than it waits before it tries the disk again
    check "nothing is sent" test "$(outcomes)" = 0
    empty
    eventually $patience "once there is room each is renewed" renewed
    eventually 5 "and the log reports it" log_contains "the state is written again"
    check "no grant was lost" no_grant_was_lost
    check "it stops" stop
    end TERM "$sandbox" || true
    unmount
}

# refuse: from now on the disk refuses every write of the daemon's state, whatever space there is; `accept` ends it.
refuse() {
    # The log of the last one contains "attached" too.
    rm -f "$work/strace.log"
    strace -f -o /dev/null -p "$daemon" -e trace=pwrite64 -e inject=pwrite64:error=ENOSPC 2>"$work/strace.log" &
    tracer=$!
    within 10 grep --quiet attached "$work/strace.log" || give_up "strace does not attach: $(<"$work/strace.log")" 77
}
accept() { end TERM "$tracer" || true; tracer=''; }

# begin_a_renewal: a request is pending, and the disk refuses every write.
begin_a_renewal() {
    start_sandbox 1
    remember
    start_daemon || return 1
    within $patience renewed || { fail "the portal has a token"; return 1; }
    sleep 2.2
    remember
    kill -STOP "$sandbox"
    "$binary" renew portal-1 --config "$work/refreshd.toml" >"$work/renew.log" 2>&1 &
    within 10 under_way || fail "a request is under way"
    refuse
    mark
    kill -CONT "$sandbox"
    eventually 10 "the metric counts the pair" unsaved_is 1
    check "it is critical, with the action" log_contains "a new pair is not on disk, it is held in memory.*do not stop or kill refreshd; free space"
    check "an unstored token is not published" not renewed
}

holds_a_refused_pair() {
    heading "$1: a pair that no disk takes"
    begin_a_renewal || return 0
    kill -TERM "$daemon"
    sleep 3
    check "SIGTERM waits for it" not gone "$daemon"
    accept
    local status=0
    wait "$daemon" || status=$?
    check "once there is room it stops in good order" test "$status" = 0
    check "the pair is on disk" log_contains "the new pair is on disk now"
    check "and published" renewed
    remember
    start_daemon
    eventually $patience "the grant lives on" renewed
    check "no grant was lost" no_grant_was_lost
    stop || true
    end TERM "$sandbox" || true
    rm -f "$disk"/*

    heading "$1: a pair that no disk takes until the end"
    begin_a_renewal || return 0
    local began=$SECONDS status=0
    kill -TERM "$daemon"
    wait "$daemon" || status=$?
    tracer=''
    note "it waited $((SECONDS - began)) s"
    check "SIGTERM waits for the request's time limit and 50 s" test $((SECONDS - began)) -ge 55 -a $((SECONDS - began)) -le 70
    check "the end is no good one (69)" test "$status" = 69
    check "the log reports what could not be done" log_contains "could not stop in time.*unsaved=1"
    start_daemon || return 0
    eventually $patience "the next start reports what happened" log_contains "a renewal was under way when refreshd ended"
    eventually $patience "and that the server does not know the token any more" log_contains "rejected while in doubt"
    stop || true
    end TERM "$sandbox" || true
    unmount
}

# --- main -----------------------------------------------------------------------------------------------------------

[[ -x $binary ]] || give_up "no executable at $binary; build it first, or name it" 66
has strace strace || give_up "strace is not installed and cannot be" 77
work=$(mktemp -d)
trap clean_up EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

for kind in ${REFRESHD_RIG_DISKS:-tmpfs ext4-1k ext4-4k xfs btrfs}; do
    mounted "$kind" || { heading "$kind"; note "not looked at: it cannot be mounted here"; continue; }
    judged=1
    [[ $kind != btrfs ]] || judged=0
    fills_up_between_claim_and_record "$kind"
done
judged=1
for kind in tmpfs ext4-1k; do
    if mounted "$kind"; then sends_nothing_without_room "$kind"; fi
done
mounted tmpfs
holds_a_refused_pair tmpfs

if ((failed)); then
    heading "the daemon's last log lines"
    tail -n 30 "$work/daemon.log" | cut -c1-400
fi
printf '\ntests/system/disk.sh: %d passed, %d failed, %d s\n' "$passed" "$failed" "$SECONDS"
((failed == 0))
