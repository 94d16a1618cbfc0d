# Functions shared by the scripts of tests/system, which source it from the root of the repository. Not run by itself.
# shellcheck shell=bash disable=SC2034 # `passed` and `failed` are read by the scripts

passed=0 failed=0

pass() { echo "PASS  $1"; passed=$((passed + 1)); }
fail() { echo "FAIL  $1"; failed=$((failed + 1)); }
note() { echo "      $1"; }
heading() { printf '\n--- %s\n' "$1"; }
# give_up WHY [STATUS]: 77 if this machine cannot run the script.
give_up() { echo "tests/system/$(basename "$0"): $1" >&2; exit "${2:-1}"; }

# check WHAT COMMAND...: passes if the command succeeds now.
check() { local what=$1; shift; if "$@"; then pass "$what"; else fail "$what"; fi; }

# eventually SECONDS WHAT COMMAND...: passes if the command succeeds within the time.
eventually() {
    local seconds=$1 what=$2
    shift 2
    if within "$seconds" "$@"; then pass "$what"; else fail "$what (not within $seconds s)"; fi
}

# within SECONDS COMMAND...
within() {
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < end)) || return 1
        sleep 0.2
    done
}

not() { ! "$@"; }

# gone PID: the process has ended, or is a zombie.
gone() { [[ ! -d /proc/$1 || $(awk '{ print $3 }' "/proc/$1/stat") == Z ]]; }

# Another port at each call, on which nothing listens.
free_port() {
    local port
    while :; do
        port=$((20000 + RANDOM % 10000))
        (: <>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
    done
}

# install_packages PACKAGE...: of Debian. Other rigs may be installing at the same time.
install_packages() {
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

# install_python PACKAGE...: of PyPI, into $work/venv. Its output goes to $work/pip.log.
install_python() {
    command -v python3 || install_packages python3 python3-venv || return
    python3 -m venv "$work/venv" \
        || { rm -rf "$work/venv"; install_packages python3-venv; python3 -m venv "$work/venv"; } || return
    "$work/venv/bin/pip" install --quiet --disable-pip-version-check "$@"
} >"$work/pip.log" 2>&1

# run_checks PROGRAM: runs the checks of a rig that are written in Python, and exits with their status. It is a separate
# process, so that the script handles signals while it runs.
run_checks() {
    local status=0
    python3 -B "$1" "$binary" "$work" &
    checks=$!
    wait "$checks" || status=$?
    checks=''
    exit "$status"
}

# end_checks: for `trap`. Ends the checks that were started, and no other process, and removes $work.
checks=''
end_checks() {
    local status=$?
    trap - EXIT INT TERM
    if [[ -n $checks ]]; then
        kill -TERM "$checks" 2>/dev/null || true
        wait "$checks" 2>/dev/null || true
    fi
    if [[ -n $work ]]; then rm -rf --one-file-system "$work"; fi
    exit "$status"
}
