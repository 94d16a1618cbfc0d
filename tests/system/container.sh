# A Debian in a container, with systemd booted and without a network, for the rigs that install refreshd as a service.
# Sourced after lib.sh by scripts that run as root, have a directory $work, and call `power_off` at their end.
# shellcheck shell=bash disable=SC2034 # `tokens` is read by the scripts

nspawn='' leader=''
readonly sandbox_address=127.0.0.1:9480

# inside COMMAND...: runs it as root in the container.
inside() {
    timeout 60 nsenter --target "$leader" --all --root --wd -- \
        env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 "$@" </dev/null
}

install_container_tools() {
    command -v systemd-nspawn >/dev/null && command -v mmdebstrap >/dev/null && return
    install_packages systemd-container mmdebstrap
}

# The release of this machine, since a binary is linked against the libc of its build machine.
suite() {
    if [[ -n ${REFRESHD_RIG_SUITE-} ]]; then echo "$REFRESHD_RIG_SUITE"; return; fi
    # shellcheck source=/dev/null
    (. /etc/os-release && [[ ${ID-} == debian && -n ${VERSION_CODENAME-} ]] && echo "$VERSION_CODENAME") \
        || echo bookworm
}

# debian_tree SUITE: prints the path of the Debian tree, which is created if missing. The container never writes into it.
debian_tree() {
    local cache tree
    cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/refreshd-rigs
    tree=$cache/$1-1
    if [[ ! -d $tree ]]; then
        mkdir -p "$cache"
        echo "      making a Debian tree ($1), once" >&2
        timeout 600 mmdebstrap --quiet --variant=minbase \
            --include=systemd,systemd-sysv,dbus,procps,ca-certificates,libbpf1 "$1" "$work/tree" >&2
        # Two runs at once: the second uses the tree of the first.
        mv -T "$work/tree" "$tree" 2>/dev/null || [[ -d $tree ]]
    fi
    echo "$tree"
}

# boot TREE DIRECTORY: the directory is /pkg inside.
boot() {
    # `bpf`: a BPF program enforces SocketBindDeny= (in Debian 13; Debian 12's systemd is built without it).
    SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 systemd-nspawn --quiet --register=no --keep-unit --volatile=overlay \
        -D "$1" --machine="refreshd-rig-$$" --boot --console=pipe --bind-ro="$2:/pkg" \
        --private-network --system-call-filter=bpf --capability=CAP_BPF \
        </dev/null >"$work/console" 2>&1 &
    nspawn=$!
    within 30 find_leader || { cat "$work/console" >&2; give_up "the container did not start"; }
    within 60 booted || { cat "$work/console" >&2; give_up "the container did not boot"; }
}

# The container's first process: the child of systemd-nspawn that is called systemd.
find_leader() {
    local child
    for child in $(cat "/proc/$nspawn/task/$nspawn/children"); do
        [[ $(cat "/proc/$child/comm") == systemd ]] && leader=$child && return
    done
    return 1
}

booted() { [[ $(inside systemctl is-system-running || true) =~ ^(running|degraded)$ ]]; }

# Ends the container that this script has started, if there is one.
power_off() {
    if [[ -n $leader ]]; then kill -s SIGRTMIN+4 "$leader" 2>/dev/null || true; fi
    if [[ -n $nspawn ]]; then
        within 15 gone "$nspawn" || { kill -KILL "$leader" "$nspawn" 2>/dev/null || true; }
        wait "$nspawn" 2>/dev/null || true
    fi
    nspawn='' leader=''
}

# --- the fake authorization server ------------------------------------------------------------------------------

# start_sandbox PORTALS LIFETIME: as a separate unit without sandboxing; its secret and refresh tokens are in /tmp/sandbox.
start_sandbox() {
    local portal
    inside systemd-run --quiet --unit=sandbox /usr/bin/refreshd sandbox --listen "$sandbox_address" \
        --portals "$1" --lifetime "${2}s" --dir /tmp/sandbox
    for portal in $(seq "$1"); do
        within 20 inside test -s /tmp/sandbox/client.secret -a -s "/tmp/sandbox/portal-$portal.refresh" || {
            inside journalctl --no-pager -u sandbox >&2 || true
            give_up "the fake server did not start"
        }
    done
}

# A connection of it with unread data.
under_way() {
    local port
    port=$(printf '%04X' "${sandbox_address#*:}")
    inside awk -v port=":$port" '$4 == "01" && index($2, port) && $5 !~ /:00000000$/ { found = 1 } END { exit !found }' /proc/net/tcp
}

# --- the daemon -----------------------------------------------------------------------------------------------------

property() { inside systemctl show --property "$1" --value refreshd.service; }
is() { [[ $(property "$1") == "$2" ]]; }
main_pid() { property MainPID; }
active() { is ActiveState active; }
active_as_other_than() { local pid; pid=$(main_pid); active && [[ $pid != 0 && $pid != "$1" ]]; }
# The pairs of which systemd has a copy.
keeps() { [[ $(property NFileDescriptorStore) =~ ^$1$ ]]; }

tokens=/run/refreshd/tokens
has_token() { inside test -s "$tokens/$1/token"; }
owned() { local found; found=$(inside stat --format='%a %U:%G' "$1"); [[ $found == "$2" ]] || { note "$1 is $found"; return 1; }; }
generation() { inside grep -o '"generation": *[0-9]*' "$tokens/$1/token.json" | grep -o '[0-9]*$'; }
renewed_since() { (($(generation "$1") > $2)); }

journal() { inside journalctl --quiet --no-pager --output=json --unit=refreshd.service "$@"; }
logged_since() { [[ $(journal --since="$1") == *"$2"* ]]; }
now() { inside date '+%Y-%m-%d %H:%M:%S'; }
systemd_version() { inside systemctl --version | sed -n '1s/^systemd \([0-9]*\).*/\1/p'; }
