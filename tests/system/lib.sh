# What the scripts of tests/system share. Sourced by them, from the root of the repository; it is not run by itself.
# shellcheck shell=bash disable=SC2034 # `passed` and `failed` are read by the scripts

passed=0 failed=0

pass() { echo "PASS  $1"; passed=$((passed + 1)); }
fail() { echo "FAIL  $1"; failed=$((failed + 1)); }
note() { echo "      $1"; }
heading() { printf '\n--- %s\n' "$1"; }
# give_up WHY [STATUS]: 77 is for what cannot run on this machine.
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

# Another port at each call, of those that nobody listens on.
free_port() {
    local port
    while :; do
        port=$((20000 + RANDOM % 10000))
        (: <>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
    done
}

# install_packages PACKAGE...: of Debian; silent. Whether the tools are there afterwards is the caller's to see.
install_packages() {
    local as_root=()
    ((EUID == 0)) || as_root=(sudo -n)
    "${as_root[@]}" apt-get update -qq \
        && DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq --no-install-recommends "$@" \
            >/dev/null || true
}
