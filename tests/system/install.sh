#!/usr/bin/env bash
# Install events through a real proxy: tests/system/install.sh [BINARY], by default target/release/refreshd.
#
# nginx terminates TLS with deploy/nginx/refreshd-install.conf, of which only addresses, names and files are changed. Behind
# it are refreshd and a fake server that verifies tokens. Forms, events and forgeries are posted; then a thousand portals
# install the app within a minute. Prints the time until all were stored and kept fresh.
#
# Installs Debian's nginx-light, openssl, curl and jq if they are not there; nginx runs as a process of this rig.
# Exit code: 0, 1 (a check failed), 66 (no such binary), 77 (cannot run here).
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=tests/system/lib.sh
source tests/system/lib.sh

# A time limit for the whole rig, not only for each step.
if [[ -z ${REFRESHD_RIG_BOUNDED-} ]]; then
    REFRESHD_RIG_BOUNDED=1 exec timeout --kill-after=30 400 "$0" "$@"
fi

readonly many=1000 name=refreshd.example.org proof=51856fefc120afa4b628cc82d3935cce

binary=$(realpath -m "${1:-target/release/refreshd}")
work='' sandbox='' daemon='' nginx=''

# --- helpers --------------------------------------------------------------------------------------------------------

# --- processes ------------------------------------------------------------------------------------------------------

has_tools() { command -v nginx && command -v openssl && command -v curl && command -v jq; } >/dev/null

install_tools() {
    PATH=$PATH:/usr/sbin
    has_tools && return
    local as_root=()
    ((EUID == 0)) || as_root=(sudo -n)
    # A package must not start a service of its own: this rig's nginx is the only one.
    "${as_root[@]}" apt-get update -qq \
        && DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 "${as_root[@]}" apt-get install -y -qq --no-install-recommends \
            nginx-light openssl curl jq >"$work/apt.log" 2>&1 || true
    has_tools || give_up "nginx, openssl, curl or jq is not installed and cannot be" 77
}

settings() {
    cat <<END
state = "$work/state.db"
token_dir = "$work/tokens"
control_socket = "$work/control.sock"
log = { format = "text" }
http = { listen = "127.0.0.1:$http_port" }
install = { listen = "127.0.0.1:$install_port", source_header = "X-Real-IP" }

[apps.crm]
provider = "bitrix24"
client_id = "local.sandbox"
client_secret_file = "$work/sandbox/client.secret"
token_url = "http://127.0.0.1:$sandbox_port/oauth/token/"

[apps.crm.install]
END
}

# An authority of its own, and a certificate for the proxy signed by it.
make_certificate() {
    (cd "$work" && umask 077 && {
        openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj "/CN=authority of this rig" \
            -keyout authority.key -out authority.pem
        openssl req -newkey rsa:2048 -nodes -subj "/CN=$name" -keyout privkey.pem -out request.pem
        openssl x509 -req -in request.pem -CA authority.pem -CAkey authority.key -CAcreateserial -days 2 \
            -extfile <(printf 'subjectAltName=DNS:%s' "$name") -out fullchain.pem
    }) >"$work/openssl.log" 2>&1 || { cat "$work/openssl.log" >&2; give_up "no certificate could be made"; }
}

# The shipped file, with this rig's addresses and files.
proxy() {
    sed -e "s|127.0.0.1:9472|127.0.0.1:$install_port|; s|listen 443 ssl|listen 127.0.0.1:$tls_port ssl|" \
        -e '/listen \[::\]/d' -e "s|/etc/ssl/refreshd/|$work/|; s|/var/log/nginx/|$work/|" \
        deploy/nginx/refreshd-install.conf >"$work/refreshd-install.conf"
    cat <<END
daemon off;
pid $work/nginx.pid;
error_log $work/nginx.error.log;
$( ((EUID)) || echo "user root;" )
events { worker_connections 1024; }
http {
    client_body_temp_path $work/body;
    proxy_temp_path $work/proxy;
    fastcgi_temp_path $work/fastcgi;
    uwsgi_temp_path $work/uwsgi;
    scgi_temp_path $work/scgi;
    include $work/refreshd-install.conf;
}
END
}

start_nginx() {
    make_certificate
    proxy >"$work/nginx.conf"
    nginx -t -c "$work/nginx.conf" -e "$work/nginx.error.log" >"$work/nginx.log" 2>&1 \
        || { cat "$work/nginx.log" >&2; give_up "nginx does not take its configuration"; }
    pass "nginx takes the shipped file ($(nginx -v 2>&1 | sed 's/.*: //'))"
    nginx -c "$work/nginx.conf" -e "$work/nginx.error.log" >"$work/nginx.log" 2>&1 &
    nginx=$!
    within 10 test -s "$work/nginx.pid" || give_up "nginx does not start: $(<"$work/nginx.log")"
}

start_sandbox() {
    "$binary" sandbox --listen "127.0.0.1:$sandbox_port" --portals 0 --installs "$((many + 20))" --lifetime 1h \
        --dir "$work/sandbox" >"$work/sandbox.log" 2>&1 &
    sandbox=$!
    within 20 test -s "$work/sandbox/installs.jsonl" || give_up "the fake server did not start"
}

start_daemon() {
    (umask 077 && settings >"$work/refreshd.toml")
    "$binary" run --config "$work/refreshd.toml" >"$work/daemon.log" 2>&1 &
    daemon=$!
    within 20 grep --quiet 'is ready' "$work/daemon.log" || { cat "$work/daemon.log" >&2; give_up "refreshd did not start"; }
}

# end SIGNAL PROCESS: its exit code.
end() { local status=0; kill -s "$1" "$2" 2>/dev/null || true; wait "$2" 2>/dev/null || status=$?; return "$status"; }

# Ends the processes that this script started, and no others.
clean_up() {
    local status=$? pid
    trap - EXIT INT TERM
    for pid in $nginx $daemon $sandbox; do
        kill -TERM "$pid" 2>/dev/null || true
        within 10 gone "$pid" || kill -KILL "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    if [[ -n $work ]]; then rm -rf --one-file-system "$work"; fi
    exit "$status"
}

# --- requests of portals --------------------------------------------------------------------------------------------

grant() { sed -n "$1p" "$work/sandbox/installs.jsonl"; }

# form NUMBER: a browser's form of that portal, form-encoded.
form() {
    grant "$1" | jq --raw-output '{AUTH_ID: .access_token, AUTH_EXPIRES: "3600", REFRESH_ID: .refresh_token,
        SERVER_ENDPOINT: .server_endpoint, member_id, status: "L", PLACEMENT: "DEFAULT"}
        | to_entries | map("\(.key)=\(.value | @uri)") | join("&")'
}

# event NAME NUMBER TS: an event of that portal; an uninstallation has no tokens.
event() {
    grant "$2" | jq --raw-output --arg event "$1" --arg ts "$3" --arg proof "$proof" '
        [["event", $event], ["data[VERSION]", "1"], ["ts", $ts], ["auth[application_token]", $proof]]
        + (to_entries | map(select(.key | IN("member_id", "client_endpoint", "server_endpoint")
              or ($event != "ONAPPUNINSTALL" and IN("access_token", "refresh_token", "expires", "user_id")))
            | ["auth[\(.key)]", (.value | tostring)]))
        | map(map(@uri) | join("=")) | join("&")'
}

# post QUERY, with the form on standard input: the status.
post() {
    curl --silent --show-error --noproxy '*' --max-time 20 --cacert "$work/authority.pem" --output "$work/answer" \
        --dump-header "$work/headers" --write-out '%{http_code}' --connect-to "$name:443:127.0.0.1:$tls_port" \
        --data-binary @- "https://$name/install/crm$1"
}
posts() { local expected=$1; shift; [[ $(post "$@") == "$expected" ]]; }

# --- inspection -----------------------------------------------------------------------------------------------------

metrics() { curl --silent --show-error --noproxy '*' --max-time 5 "http://127.0.0.1:$http_port/metrics"; }
metric() { metrics | awk -v name="$1" '$1 == name { print $2 }'; }
installs() { metric "refreshd_installs_total{app=\"crm\",result=\"$1\"}"; }
installs_are() { [[ $(installs "$1") == "$2" ]]; }
renewed() { metric 'refreshd_renewals_total{provider="bitrix24",result="renewed"}'; }
renewed_are() { [[ $(renewed) == "$1" ]]; }
phase_of() { "$binary" status "$1" --json --config "$work/refreshd.toml" | jq --raw-output '.portals[0].phase'; }
is_phase() { [[ $(phase_of "$1") == "$2" ]]; }

# --- checks ---------------------------------------------------------------------------------------------------------

comes_through() {
    heading "valid requests"
    check "a browser's form is taken" posts 200 '?DOMAIN=install-1.bitrix24.com&PROTOCOL=1&APP_SID=dd8c' < <(form 1)
    check "its page finishes the installation" grep --quiet 'BX24.installFinish();' "$work/answer"
    check "and may be framed by that portal" grep --quiet --ignore-case \
        '^content-security-policy: .*frame-ancestors https://install-1.bitrix24.com ' "$work/headers"
    eventually 10 "the portal is stored" installs_are stored 1
    eventually 10 "its token files are there" test -s "$work/tokens/install-1.bitrix24.com/token.json"
    local now
    now=$(date +%s)
    check "an installation event is taken" posts 200 '' < <(event ONAPPINSTALL 2 $((now - 10)))
    eventually 10 "and stored" installs_are stored 2
    check "a removal is taken" posts 200 '' < <(event ONAPPUNINSTALL 2 $((now - 5)))
    eventually 10 "and counted" installs_are uninstalled 1
    # The fake server still has the app installed, which decides.
    check "the portal stays" is_phase install-2.bitrix24.com fresh
    check "its token files do" test -e "$work/tokens/install-2.bitrix24.com/token.json"
}

is_kept_out() {
    heading "forged requests"
    local forged before
    forged=$(form 3 | sed "s/member_id=[^&]*/member_id=$(grant 4 | jq --raw-output .member_id)/")
    check "the token of another portal is answered like any other" posts 200 '' <<<"$forged"
    eventually 10 "and refused" installs_are forged 1
    check "an unknown token is, whatever domain comes with it" posts 200 '?DOMAIN=127.0.0.1' \
        < <(form 3 | sed "s/AUTH_ID=[^&]*/AUTH_ID=$(printf 'a%.0s' {1..70})/")
    eventually 10 "refused too" installs_are forged 2
    check "the removal once more" posts 200 '' < <(event ONAPPUNINSTALL 2 $(($(date +%s) - 60)))
    eventually 10 "is a replay" installs_are replayed 1
    check "garbage is 400" posts 400 '' < <(head -c 2000 /dev/urandom | base64 --wrap=0)
    check "140 KB are 413" posts 413 '' < <(head -c 140000 /dev/zero | tr '\0' x)
    before=$(installs malformed)
    check "nothing else is served" test \
        "$(curl --silent --noproxy '*' --cacert "$work/authority.pem" --output /dev/null --write-out '%{http_code}' \
            --connect-to "$name:443:127.0.0.1:$tls_port" "https://$name/metrics")" = 404
    check "it is refreshd that was not asked" test "$(installs malformed)" = "$before"
}

a_thousand() {
    heading "$many portals"
    local number began stored
    # One after the other, within the proxy's limit for one sender.
    for ((number = 11; number < 11 + many; number++)); do
        form "$number" >"$work/forms/$number"
    done
    for ((number = 11; number < 11 + many; number++)); do
        printf 'url = "https://%s/install/crm?DOMAIN=install-%s.bitrix24.com&PROTOCOL=1"\ndata-binary = "@%s/forms/%s"\n' \
            "$name" "$number" "$work" "$number"
        printf 'output = "/dev/null"\nwrite-out = "%%{http_code}\\n"\nconnect-to = "%s:443:127.0.0.1:%s"\n' "$name" "$tls_port"
        printf 'cacert = "%s/authority.pem"\nnoproxy = "*"\nnext\n' "$work"
    done >"$work/many.curl"
    began=$(date +%s%N)
    curl --silent --show-error --rate 25/s --config "$work/many.curl" >"$work/statuses" 2>"$work/curl.log" || true
    note "posted in $(since "$began") s"
    check "all $many are answered with 200" test "$(grep --count '^200$' "$work/statuses")" = "$many"
    eventually 60 "all are stored" installs_are stored "$((many + 2))"
    stored=$(since "$began")
    eventually 60 "each was renewed once, which proves its grant" renewed_are "$((many + 2))"
    note "stored $stored s, kept fresh $(since "$began") s after the first was posted"
    check "it was within a minute" test "${stored%.*}" -lt 60
    check "all are fresh" test "$(metric 'refreshd_portals{phase="fresh"}')" = "$((many + 2))"
    check "each has its token file" test \
        "$(find "$work/tokens" -name token.json | wc -l)" = "$((many + 2))"
    note "refreshd has $(awk '/^VmRSS/ { print int($2 / 1024) }' "/proc/$daemon/status") MB"
}
since() { awk -v from="$1" -v to="$(date +%s%N)" 'BEGIN { printf "%.1f", (to - from) / 1e9 }'; }

leaks_nothing() {
    heading "secrets"
    check "refreshd stops in good order" end TERM "$daemon"
    daemon=''
    check "the server saw nothing that a correct client would not send" not grep --quiet violation "$work/sandbox.log"
    jq --raw-output '.access_token, .refresh_token' "$work/sandbox/installs.jsonl" | cut -c33-50 >"$work/secrets"
    echo "${proof:8:16}" >>"$work/secrets"
    check "no token is in a log of nginx or of refreshd" not grep --quiet --fixed-strings --file "$work/secrets" \
        "$work/refreshd-install.log" "$work/refreshd-install.error.log" "$work/nginx.error.log" "$work/nginx.log" "$work/daemon.log"
    check "no query is in the access log" not grep --quiet 'DOMAIN\|APP_SID' "$work/refreshd-install.log"
    check "no form was written to a file" test -z "$(find "$work/body" "$work/proxy" -type f 2>/dev/null)"
}

# --- main -----------------------------------------------------------------------------------------------------------

[[ -x $binary ]] || give_up "no executable at $binary; build it first, or name it" 66
work=$(mktemp -d)
trap clean_up EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

install_tools
mkdir "$work/forms"
sandbox_port=$(free_port) http_port=$(free_port) install_port=$(free_port) tls_port=$(free_port)
start_sandbox
start_daemon
start_nginx
comes_through
is_kept_out
a_thousand
leaks_nothing

if ((failed)); then
    heading "last log lines"
    tail -n 20 "$work/daemon.log" "$work/nginx.log" "$work/refreshd-install.error.log" "$work/curl.log" 2>/dev/null | cut -c1-400
fi
printf '\ntests/system/install.sh: %d passed, %d failed, %d s\n' "$passed" "$failed" "$SECONDS"
((failed == 0))
