#!/usr/bin/env bash
# The container image, run with a read-only root as another user: tests/system/image.sh [BINARY]. BINARY, by default
# target/release/refreshd, is the fake authorization server; the image has a statically linked one, which is built if it is missing.
#
# Needs root (for runc), buildah, runc, musl-gcc and a Python (installs them), cargo, and rustup's target
# x86_64-unknown-linux-musl (adds it). Exit code: 0, 1 (something is not as promised), 66 (no such binary), 77 (cannot run here).
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=tests/system/lib.sh
source tests/system/lib.sh

if [[ -z ${REFRESHD_RIG_BOUNDED-} ]]; then
    REFRESHD_RIG_BOUNDED=1 exec timeout --kill-after=30 2400 "$0" "$@"
fi

binary=$(realpath -m "${1:-target/release/refreshd}")
readonly triple=x86_64-unknown-linux-musl user=4242 name=refreshd-image-$$
static=${REFRESHD_STATIC_BINARY:-target/$triple/release/refreshd}
work=$(mktemp -d) server='' running=''
clean_up() {
    if [[ -n $running ]]; then runc delete --force "$name" 2>/dev/null || true; fi
    if [[ -n $server ]]; then kill "$server" 2>/dev/null || true; fi
    rm -rf "$work"
}
trap clean_up EXIT

[[ -x $binary ]] || give_up "no executable at $binary; build it first, or name it" 66
((EUID == 0)) || give_up "needs root" 77
[[ $(uname -m) == x86_64 ]] || give_up "only on x86_64" 77
for tool in buildah runc jq musl-gcc; do
    command -v $tool >/dev/null || install_packages buildah runc jq musl-tools || give_up "$tool cannot be installed" 77
done

# --- the image ------------------------------------------------------------------------------------------------------

heading "image"
if [[ ! -x $static ]]; then
    note "building the static binary"
    rustup target add $triple >/dev/null 2>&1 || give_up "no target $triple" 77
    deploy/build --target $triple >"$work/build.log" 2>&1 || { tail -20 "$work/build.log"; give_up "the static binary does not build"; }
fi
check "a binary that needs a libc is refused" not deploy/container/build --binary "$binary" --into "$work/none.tar" 2>/dev/null
# Without a network.
check "deploy/container/build makes it without a network" \
    unshare --net deploy/container/build --binary "$static" --into "$work/image.tar" --tag refreshd:test
unshare --net deploy/container/build --binary "$static" --into "$work/again.tar" --tag refreshd:test >/dev/null
((failed == 0)) || give_up "there is no image"
unpack() { mkdir "$work/$1" && tar -xf "$work/$1.tar" -C "$work/$1"; }
unpack image && unpack again
# Its description names the container that it was made in, which is another each time.
essence() { jq '[.config, .rootfs]' "$work/$1/$(jq --raw-output '.[0].Config' "$work/$1/manifest.json")"; }
check "once more it is the same" cmp --quiet <(essence image) <(essence again)
note "$(stat --format=%s "$work/image.tar") bytes"
described() { jq --exit-status "$1" "$work/image/$(jq --raw-output '.[0].Config' "$work/image/manifest.json")" >/dev/null; }
check "it starts as a user without rights" described '.config.User == "65532:65532"'
check "it asks the daemon for its health" described '.config.Healthcheck.Test == ["CMD", "/usr/bin/refreshd", "health", "--live"]'
check "it runs the daemon" described '.config.Entrypoint == ["/usr/bin/refreshd"] and .config.Cmd == ["run"]'
mkdir "$work/rootfs"
for layer in $(jq --raw-output '.[0].Layers[]' "$work/image/manifest.json"); do tar -xf "$work/image/$layer" -C "$work/rootfs"; done
check "there is no shell, nor anything else to run" \
    test "$(find "$work/rootfs" -type f -perm /111 -printf '%P\n')" == usr/bin/refreshd
check "the state's directory is the daemon's alone" test "$(stat --format='%a %u' "$work/rootfs/var/lib/refreshd")" == "700 65532"

# --- in a container -------------------------------------------------------------------------------------------------

heading "container"
port=$(free_port)
mkdir "$work"/{server,state,tokens,etc}
"$binary" sandbox --listen "127.0.0.1:$port" --portals 1 --lifetime 20s --dir "$work/server" >"$work/server.log" 2>&1 &
server=$!
within 10 test -s "$work/server/portal-1.refresh" || give_up "the fake server does not start"
cp "$work/server/client.secret" "$work/server/portal-1.refresh" "$work/etc"
cat >"$work/etc/refreshd.toml" <<END
state = "/var/lib/refreshd/state.db"
token_dir = "/run/refreshd"
control_socket = "/var/lib/refreshd/control.sock"
[apps.crm]
provider = "bitrix24"
client_id = "local.sandbox"
client_secret_file = "/etc/refreshd/client.secret"
token_url = "http://127.0.0.1:$port/oauth/token/"
[portals.acme]
app = "crm"
domain = "portal-1.bitrix24.com"
renew_every = "4s"
refresh_token_file = "/etc/refreshd/portal-1.refresh"
END
chown -R root:$user "$work/etc" && chmod 750 "$work/etc" && chmod 640 "$work"/etc/*
chown $user:$user "$work/state" "$work/tokens" && chmod 700 "$work/state" && chmod 751 "$work/tokens"
chmod 711 "$work"
# The network of this machine, since the fake server listens on its loopback.
runc spec --bundle "$work" >/dev/null
jq --arg work "$work" --argjson user $user '
    def bind($from; $to; $mode): {destination: $to, type: "bind", source: ($work + "/" + $from), options: ["bind", $mode, "nosuid", "nodev"]};
    .process.terminal = false | .process.args = ["/usr/bin/refreshd", "run"] | .process.user = {uid: $user, gid: $user}
    | .process.capabilities = {} | .process.noNewPrivileges = true
    | .root = {path: "rootfs", readonly: true} | .hostname = "image"
    | .linux.namespaces |= map(select(.type != "network"))
    | .mounts += [bind("etc"; "/etc/refreshd"; "ro"), bind("state"; "/var/lib/refreshd"; "rw"), bind("tokens"; "/run/refreshd"; "rw")]
' "$work/config.json" >"$work/config.new" && mv "$work/config.new" "$work/config.json"

start() {
    runc run --detach --bundle "$work" --pid-file "$work/pid" "$name" >"$work/container.log" 2>&1 </dev/null \
        || { cat "$work/container.log"; give_up "runc does not start the container" 77; }
    running=1
}
in_container() { timeout 20 runc exec "$name" /usr/bin/refreshd "$@"; }
generation() { jq .generation "$work/tokens/acme/token.json" 2>/dev/null || echo 0; }
at_least() { (($(generation) >= $1)); }
ends() { runc delete --force "$name" 2>/dev/null; running=''; }

start
eventually 20 "a token is there" test -s "$work/tokens/acme/token"
if ((failed > 0)); then cat "$work/container.log"; fi
eventually 20 "it is renewed" at_least 3
check "its health is good" in_container health
check "the health check of the image succeeds" in_container health --live
check "the portal is fresh" in_container status acme
check "nothing of it is root's" test -z "$(find "$work/state" "$work/tokens" -not -user $user)"
before=$(generation)
runc kill "$name" TERM
eventually 20 "SIGTERM ends it" gone "$(cat "$work/pid")"
ends
start
eventually 20 "the next container goes on with the same state" at_least $((before + 1))
runc kill "$name" KILL
within 10 gone "$(cat "$work/pid")" || true
ends
start
eventually 20 "and the next after a kill" at_least $((before + 3))
runc kill "$name" TERM
within 20 gone "$(cat "$work/pid")" || true
ends
check "its log says that every renewal is recorded" grep --quiet "every renewal that was sent is recorded" "$work/container.log"

# --- compose and Kubernetes -----------------------------------------------------------------------------------------

heading "compose and Kubernetes"
if install_python kubernetes-validate pyyaml; then
    check "the manifest is valid" "$work/venv/bin/kubernetes-validate" --strict --quiet deploy/container/kubernetes.yaml
    "$work/venv/bin/python" - >"$work/pod.toml" <<'END'
import yaml
documents = list(yaml.safe_load_all(open("deploy/container/kubernetes.yaml")))
print(next(d for d in documents if d["kind"] == "ConfigMap")["data"]["refreshd.toml"].replace("/run/secrets/refreshd/crm", "SECRET"))
END
    printf 'secret-of-the-example' >"$work/secret" && chmod 600 "$work/secret"
    sed -i "s|SECRET|$work/secret|" "$work/pod.toml"
    check "its configuration has no problem" "$binary" check --config "$work/pod.toml"
    check "compose and Kubernetes run it alike" "$work/venv/bin/python" - <<'END'
import yaml
compose = yaml.safe_load(open("deploy/container/compose.yaml"))["services"]["refreshd"]
pod = next(d for d in yaml.safe_load_all(open("deploy/container/kubernetes.yaml")) if d["kind"] == "Deployment")["spec"]["template"]["spec"]
container = pod["containers"][0]
version = next(line.split('"')[1] for line in open("Cargo.toml") if line.startswith("version = "))
assert compose["image"] == container["image"] == f"refreshd:{version}", (compose["image"], container["image"], version)
assert compose["read_only"] and container["securityContext"]["readOnlyRootFilesystem"]
assert compose["cap_drop"] == container["securityContext"]["capabilities"]["drop"] == ["ALL"]
assert compose["stop_grace_period"] == f'{pod["terminationGracePeriodSeconds"]}s'
END
else
    fail "kubernetes-validate cannot be installed: $(tail -1 "$work/pip.log")"
fi

heading "$passed passed, $failed failed"
((failed == 0))
