#!/usr/bin/env bash
# Alerts to real receivers: tests/system/alerting.sh [BINARY], by default target/release/refreshd.
#
# On loopback: Debian's Prometheus and Alertmanager, a mail server (aiosmtpd, STARTTLS and a login), and receivers for a
# webhook, Slack, Telegram, PagerDuty, a heartbeat and a program, which validate every request strictly. One daemon has
# portals with every kind of failure. It checks that
#   - a dead grant is notified on every channel within 10 s, with all necessary information, once;
#   - an outage is notified step by step, in order, without repetition, and resolved once, although the daemon is stopped
#     and killed and a receiver is down in between; after a SIGKILL only a delivery in progress may be repeated;
#   - two hundred portals that fail together are one message and one resolution;
#   - Alertmanager always shows exactly the firing alerts, both of refreshd and of the rules for Prometheus;
#   - silences, acknowledgements, tests and the heartbeat work as documented;
#   - renewals are as fast while every receiver hangs;
#   - no receiver ever gets a secret.
# REFRESHD_RIG_RULES names other rules for Prometheus than the shipped ones.
#
# About 170 s, nearly all of it waiting for tokens to expire. Installs prometheus, prometheus-alertmanager, openssl,
# curl, jq and python3 if they are not there, and aiosmtpd for itself. Exit code: 0, 1 (a check failed), 77 (cannot
# run here).
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=tests/system/lib.sh
source tests/system/lib.sh

# A time limit for the whole rig, not only for each step.
if [[ -z ${REFRESHD_RIG_BOUNDED-} ]]; then
    REFRESHD_RIG_BOUNDED=1 exec timeout --kill-after=30 250 "$0" "$@"
fi

# Lifetime of the tokens of each fake server, and its number of portals.
declare -rA lifetime=([slow]=170s [minute]=60s [bulk]=60s [calm]=20s [held]=20s)
declare -rA portals=([slow]=2 [minute]=2 [bulk]=200 [calm]=240 [held]=240)
# The channels that are notified of incidents. Alertmanager is queried itself.
readonly channels=(hook mail pager push script slack telegram)
readonly instance=rig-host

binary=$(realpath -m "${1:-target/release/refreshd}")
work='' daemon='' installer=''
declare -a started=()
declare -A port=() secret=()

# --- helpers --------------------------------------------------------------------------------------------------------

heading() { printf '\n--- %s (%d s)\n' "$1" "$SECONDS"; }

# at SECOND: waits until so long after the start of the daemon.
at() { while ((SECONDS - began < $1)); do sleep 0.2; done; }

# --- processes ------------------------------------------------------------------------------------------------------

has_tools() {
    local tool
    for tool in prometheus prometheus-alertmanager amtool promtool openssl curl jq python3; do
        command -v "$tool" || return
    done
} >/dev/null

install() {
    local as_root=()
    ((EUID == 0)) || as_root=(sudo -n)
    "${as_root[@]}" apt-get update -qq \
        && DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

install_tools() {
    has_tools || install prometheus prometheus-alertmanager openssl curl jq python3 python3-venv || true
    has_tools || give_up "prometheus, prometheus-alertmanager, openssl, curl, jq or python3 cannot be installed" 77
    # It takes a while, in which others can start.
    install_mail &
    installer=$!
}

install_mail() {
    python3 -m venv "$work/venv" 2>/dev/null || { install python3-venv && python3 -m venv "$work/venv"; } \
        && "$work/venv/bin/pip" install --quiet --disable-pip-version-check aiosmtpd==1.4.6
}

# free_port NAME: a port on which nothing listens, and that no other part has.
free_port() {
    local number
    while :; do
        number=$((20000 + RANDOM % 10000))
        [[ " ${port[*]-} " == *" $number "* ]] && continue
        (: <>"/dev/tcp/127.0.0.1/$number") 2>/dev/null || { port[$1]=$number; return; }
    done
}

# start NAME COMMAND...: in the background, ended with the script.
start() {
    local name=$1
    shift
    # Ignore a proxy of the environment for loopback.
    env -u http_proxy -u HTTP_PROXY -u https_proxy -u HTTPS_PROXY "$@" >>"$work/$name.log" 2>&1 &
    started+=($!)
}

random() { openssl rand -hex "$1"; }

ports() {
    local name
    for name in token token_of_many receivers hook mail silent control alertmanager prometheus http calm_http \
        held_http "${!lifetime[@]}"; do
        free_port "$name"
    done
    for name in hook slack telegram push beat mail authorization; do secret[$name]=$name$(random 12); done
    secret[telegram]="123456:${secret[telegram]}" secret[authorization]="Bearer ${secret[authorization]}"
    secret[pager]=$(random 16)
}

# What the receivers must know, as JSON.
setup() {
    local name
    for name in "${!port[@]}"; do printf 'ports %s %s\n' "$name" "${port[$name]}"; done
    for name in "${!lifetime[@]}"; do printf 'servers %s %s\n' "$name" "${port[$name]}"; done
    for name in "${!secret[@]}"; do printf 'secrets %s %s\n' "$name" "${secret[$name]}"; done
}
as_json() {
    jq --raw-input --slurp --arg work "$work" '
        [splits("\n") | select(. != "") | capture("^(?<of>[^ ]+) (?<name>[^ ]+) (?<value>.*)")]
        | reduce .[] as $line ({}; .[$line.of][$line.name] =
            if $line.of == "secrets" then $line.value
            elif $line.of == "ports" then ($line.value | tonumber)
            else { port: ($line.value | tonumber), dir: "\($work)/\($line.name)" } end)'
}

start_servers() {
    local name
    for name in "${!lifetime[@]}"; do
        start "$name" "$binary" sandbox --listen "127.0.0.1:${port[$name]}" --portals "${portals[$name]}" \
            --lifetime "${lifetime[$name]}" --dir "$work/$name"
    done
    for name in "${!lifetime[@]}"; do
        within 20 test -s "$work/$name/portal-${portals[$name]}.refresh" \
            || give_up "a fake server did not start"
    done
}

start_outside() {
    openssl req -x509 -newkey rsa:2048 -nodes -keyout "$work/ca.key" -out "$work/ca.pem" -days 2 -subj "/CN=rig" \
        -addext basicConstraints=critical,CA:TRUE 2>/dev/null
    openssl req -newkey rsa:2048 -nodes -keyout "$work/mail.key" -out "$work/mail.csr" -subj "/CN=localhost" \
        2>/dev/null
    openssl x509 -req -in "$work/mail.csr" -CA "$work/ca.pem" -CAkey "$work/ca.key" -CAcreateserial -days 2 \
        -out "$work/mail.pem" -extfile <(echo "subjectAltName=DNS:localhost,IP:127.0.0.1") 2>/dev/null
    wait "$installer" || give_up "the mail server cannot be installed" 77
    setup | as_json >"$work/setup.json"
    start outside "$work/venv/bin/python3" -I tests/system/alerting.outside.py "$work"
    within 20 test -e "$work/outside.ready" || { cat "$work/outside.log" >&2; give_up "the receivers did not start"; }
}

start_monitoring() {
    cat >"$work/alertmanager.yml" <<END
global:
  resolve_timeout: 10s
route:
  receiver: hook
  group_by: ["..."]
  group_wait: 0s
  group_interval: 1s
  repeat_interval: 4h
receivers:
  - name: hook
    webhook_configs:
      - url: http://127.0.0.1:${port[receivers]}/from-alertmanager
        send_resolved: true
END
    amtool check-config "$work/alertmanager.yml" >"$work/amtool.log"
    start alertmanager prometheus-alertmanager --config.file="$work/alertmanager.yml" --storage.path="$work/am" \
        --web.listen-address="127.0.0.1:${port[alertmanager]}" --cluster.listen-address=
    rules=${REFRESHD_RIG_RULES:-deploy/prometheus/refreshd.rules.yaml}
    if [[ ! -e $rules ]]; then
        rules=$work/own.rules.yaml
        cat >"$rules" <<'END'
groups:
  - name: refreshd
    rules:
      - alert: RefreshdNeedsPerson
        expr: refreshd_portals{phase=~"needs-authorization|gone|blocked|client-rejected"} > 0
        labels: { severity: critical }
END
    fi
    cat >"$work/prometheus.yml" <<END
global: { scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s }
rule_files: ["$(realpath "$rules")"]
alerting:
  alertmanagers:
    - static_configs: [{ targets: ["127.0.0.1:${port[alertmanager]}"] }]
scrape_configs:
  - job_name: refreshd
    static_configs: [{ targets: ["127.0.0.1:${port[http]}"] }]
END
    start prometheus prometheus --config.file="$work/prometheus.yml" --storage.tsdb.path="$work/series" \
        --web.listen-address="127.0.0.1:${port[prometheus]}"
    within 20 get "http://127.0.0.1:${port[alertmanager]}/-/ready" || give_up "Alertmanager did not start"
    within 20 get "http://127.0.0.1:${port[prometheus]}/-/ready" || give_up "Prometheus did not start"
    note "$(prometheus --version 2>&1 | sed -n '1s/ (.*//p'), $(prometheus-alertmanager --version 2>&1 |
        sed -n '1s/ (.*//p'), rules of $(basename "$rules")"
}

# The program of the channel `script`: forwards its input and environment to the receivers, and prints a line.
write_script() {
    cat >"$work/script" <<END
#!/bin/sh
curl -sf --noproxy '*' --max-time 5 -H 'content-type: application/json' --data-binary @- -o /dev/null \\
    http://127.0.0.1:${port[receivers]}/script || exit 1
env | curl -sf --noproxy '*' --max-time 5 --data-binary @- http://127.0.0.1:${port[receivers]}/script-environment
echo "taken by script"
END
    chmod 700 "$work/script"
}

# app NAME SERVER ADDRESS RENEW_EVERY
app() {
    cat <<END
[apps.$1]
provider = "bitrix24"
client_id = "local.sandbox"
client_secret_file = "$work/$2/client.secret"
token_url = "http://127.0.0.1:$3/oauth/token/"
renew_every = "$4"
assumed_lifetime = "${lifetime[$2]}"
END
}
# portal NAME APP SERVER NUMBER
portal() {
    cat <<END
[portals.$1]
app = "$2"
domain = "portal-$4.bitrix24.com"
refresh_token_file = "$work/$3/portal-$4.refresh"
END
}
general() {
    cat <<END
state = "$work/$1.state/state.db"
token_dir = "$work/$1.tokens"
control_socket = "$work/$1.sock"
log = { format = "text" }
http = { listen = "127.0.0.1:$2" }
renewal = { rate = 1000 }
END
}

settings() {
    local number
    general main "${port[http]}"
    echo "alerts = { instance = \"$instance\", url = \"https://refreshd.example.org/?a=1&b=2\" }"
    # The path names the fake server for the token server.
    app slow slow "${port[token]}/slow" 17s
    app quick minute "${port[token]}/minute" 50%
    app many bulk "${port[token_of_many]}/bulk" 12s
    portal umbrella slow slow 1
    portal initech slow slow 2
    portal acme quick minute 1
    echo 'renew_every = "6s"'
    portal globex quick minute 2
    for ((number = 1; number <= portals[bulk]; number++)); do portal "bulk-$number" many bulk "$number"; done
    cat <<END
[channels.alertmanager]
kind = "alertmanager"
url = "http://127.0.0.1:${port[alertmanager]}"
[channels.beat]
kind = "heartbeat"
url = "http://127.0.0.1:${port[receivers]}/beat/${secret[beat]}"
every = "15s"
[channels.hook]
kind = "webhook"
url = "http://127.0.0.1:${port[hook]}/hook/${secret[hook]}"
authorization = "${secret[authorization]}"
[channels.mail]
kind = "email"
smtp = "localhost:${port[mail]}"
user = "refreshd"
password = "${secret[mail]}"
from = "refreshd <refreshd@example.org>"
to = ["ops@example.org", "Zoë <zoe@example.org>"]
[channels.pager]
kind = "pagerduty"
routing_key = "${secret[pager]}"
url = "http://127.0.0.1:${port[receivers]}/v2/enqueue"
[channels.push]
kind = "webhook"
url = "http://127.0.0.1:${port[receivers]}/push/${secret[push]}"
body = '''{"title": {{ title }}, "message": {{ lines|join("\n") }}, "urgent": {{ severity == "critical" }}}'''
[channels.script]
kind = "command"
command = ["$work/script"]
[channels.slack]
kind = "slack"
url = "http://127.0.0.1:${port[receivers]}/slack/T0AAAA/B0BBBB/${secret[slack]}"
[channels.telegram]
kind = "telegram"
bot_token = "${secret[telegram]}"
chat_id = -1001
url = "http://127.0.0.1:${port[receivers]}"
END
}

# The two daemons of the comparison: portals that renew all the time, and forty that fail, each notified separately.
comparison() {
    local number
    general "$1" "${port[$1_http]}"
    echo "alerts = { instance = \"$1\", group_threshold = 1000 }"
    # Directly, not through the token server, which would be measured instead.
    app well "$1" "${port[$1]}" 2s
    app ill "$1" "${port[token]}/$1" 2s
    for ((number = 1; number <= portals[$1]; number++)); do
        if ((number <= 40)); then
            portal "ill-$number" ill "$1" "$number"
        else
            portal "well-$number" well "$1" "$number"
        fi
    done
}
hanging_channels() {
    local silent=http://127.0.0.1:${port[silent]}
    cat <<END
[channels]
alertmanager = { kind = "alertmanager", url = "$silent" }
beat = { kind = "heartbeat", url = "$silent/beat", every = "15s" }
hook = { kind = "webhook", url = "$silent/hook" }
mail = { kind = "email", smtp = "127.0.0.1:${port[silent]}", from = "a@example.org", to = ["b@example.org"] }
pager = { kind = "pagerduty", routing_key = "${secret[pager]}", url = "$silent/v2/enqueue" }
script = { kind = "command", command = ["/bin/sleep", "600"] }
slack = { kind = "slack", url = "$silent/slack" }
telegram = { kind = "telegram", bot_token = "123456:ABC", chat_id = 1, url = "$silent" }
END
}

refreshd() { "$binary" "$@" --config "$work/main.toml"; }
# ask COMMAND...: its output is in $work/output, its exit code in `code`.
ask() { code=0; refreshd "$@" >"$work/output" 2>&1 || code=$?; }

start_daemon() {
    SSL_CERT_FILE="$work/ca.pem" "$binary" run --config "$work/main.toml" >>"$work/main.log" 2>&1 &
    daemon=$!
    within 20 log_contains "is ready" || { tail -n 20 "$work/main.log" >&2; give_up "the daemon did not start"; }
}
log_contains() { tail -n "+$((${logged:-0} + 1))" "$work/main.log" | grep --quiet -- "$1"; }
# end_daemon SIGNAL
end_daemon() {
    logged=$(wc -l <"$work/main.log")
    kill -s "$1" "$daemon"
    wait "$daemon" 2>/dev/null || true
    daemon=''
}

# Ends the processes that this script started, and no others.
clean_up() {
    local status=$? pid
    trap - EXIT INT TERM
    for pid in $daemon $installer "${started[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
    for pid in $daemon $installer "${started[@]}"; do
        within 8 gone "$pid" || kill -KILL "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    if [[ -n $work ]]; then rm -rf --one-file-system "$work"; fi
    exit "$status"
}

# --- inspection -----------------------------------------------------------------------------------------------------

get() { curl --silent --show-error --fail --noproxy '*' --max-time 5 "$@"; }
# control JSON: sets the behaviour of the servers and receivers from now on.
control() { get --output /dev/null --data "$1" "http://127.0.0.1:${port[control]}/"; }
# play PORTAL HOW: requests of a portal (`minute/portal-1`), or of all of a server (`bulk/*`), pass, or get 500 or 400.
play() { control "{\"play\": {\"$1\": \"$2\"}}"; }

# messages CHANNEL SUBJECT FILTER...: the messages to a channel about a subject, by a filter of jq.
messages() {
    jq -r --arg channel "$1" --arg subject "$2" "select(.channel == \$channel and .subject == \$subject) | $3" "$work/messages.jsonl"
}
# received CHANNEL SUBJECT: the severities of the messages in order: `warning error critical resolved`.
received() { messages "$1" "$2" .how | paste -sd ' '; }
# at_every_channel SUBJECT WHAT: every channel got exactly these messages.
at_every_channel() {
    local channel
    for channel in "${channels[@]}"; do [[ $(received "$channel" "$1") == "$2" ]] || return; done
}
# all_received SECONDS WHAT SUBJECT HOW
all_received() {
    local channel received
    if within "$1" at_every_channel "$3" "$4"; then pass "$2"; return; fi
    fail "$2 (not within $1 s)"
    for channel in "${channels[@]}"; do
        received=$(received "$channel" "$3")
        [[ $received == "$4" ]] || note "$channel received: ${received:-nothing}"
    done
}
# without_repetitions: messages without immediate repetitions, which `repetitions` counts.
without_repetitions() { messages "$1" "$2" '"\(.how)\t\(.title)"' | uniq | cut -f1 | paste -sd ' '; }
repetitions() { messages "$1" "$2" '"\(.how)\t\(.title)"' | uniq --repeated | wc -l; }

first_refusal() { jq -rs --arg portal "$1" 'map(select(.portal == $portal and .status >= 400))[0].at' "$work/requests.jsonl"; }
# delay CHANNEL SUBJECT SINCE: seconds until the first message.
delay() { messages "$1" "$2" .at | sed -n 1p | awk -v since="$3" '{ printf "%.1f", $1 - since }'; }

beats() { jq -r --arg how "$1" 'select(.channel == "beat" and .how == $how) | .at' "$work/messages.jsonl" | wc -l; }
beaten() { (($(beats "$1") >= $2)); }

# active FILTER: alerts that Alertmanager has now, by a filter of jq over the labels.
active() {
    amtool --alertmanager.url="http://127.0.0.1:${port[alertmanager]}" alert query --output=json \
        | jq -r ".[] | select(.status.state == \"active\") | .labels | $1"
}
active_is() { [[ $(active "select(.incident == \"$1\") | .severity" | sort | paste -sd ' ') == "$2" ]]; }
# noticed SUBJECT: the messages to Alertmanager's own webhook in order: `warning:firing warning:resolved`.
noticed() { messages from-alertmanager "$1" '"\(.severity):\(.status)"' | paste -sd ' '; }
# all_noticed_are GROUP WORDS: the same in any order, sorted.
all_noticed_are() { [[ $(noticed "$1" | tr ' ' '\n' | sort | paste -sd ' ') == "$2" ]]; }
noticed_is() { [[ $(noticed "$1") == "$2" ]]; }

outcomes() {
    get "http://127.0.0.1:$1/metrics" \
        | awk '/^refreshd_renewals_total.*result="renewed"/ { sum += $NF } END { print sum + 0 }'
}
prints() { grep --quiet --fixed-strings -- "$1" "$2" || { note "it printed: $(head -c 300 "$2")"; return 1; }; }

# new_grant SERVER NUMBER: a new token response, as a user would get it on the portal.
new_grant() {
    local server=http://127.0.0.1:${port[$1]} code
    code=$(get "$server/oauth/authorize/?client_id=local.sandbox&domain=portal-$2.bitrix24.com" |
        sed -n 's|.*<code>\(.*\)</code>.*|\1|p')
    get "$server/oauth/token/" --data grant_type=authorization_code --data client_id=local.sandbox \
        --data "client_secret=$(<"$work/$1/client.secret")" --data "code=$code" >"$work/grant.json"
    jq -r '.access_token, .refresh_token' "$work/grant.json" >>"$work/secrets"
}

# --- checks ---------------------------------------------------------------------------------------------------------

tests_every_channel() {
    heading "refreshd alert test"
    local channel
    ask alert test
    check "all take it: exit code 0" test $code = 0
    for channel in "alertmanager (alertmanager): delivered: status 200" "beat (heartbeat): delivered: status 200: OK" \
        "hook (webhook): delivered: status 200: taken by hook" "mail (email): delivered: 250 2.0.0 taken by mail" \
        "pager (pagerduty): delivered: status 202: {\"status\":\"success\"" \
        "push (webhook): delivered: status 200: taken by push" \
        "script (command): delivered: exit code 0: taken by script" "slack (slack): delivered: status 200: ok" \
        "telegram (telegram): delivered: status 200"; do
        check "it prints: $channel" prints "$channel" "$work/output"
    done
    control '{"answers": {"slack": [404, "no_service"], "mail": null}}'
    ask alert test slack
    check "one that is refused: exit code 69" test $code = 69
    check "it prints the receiver's answer" prints "slack (slack): failed: status 404: no_service" "$work/output"
    control '{"answers": {"slack": null}}'
    ask alert test slack
    check "and again it takes it: exit code 0" test $code = 0
    ask alert list
    check "nothing is open: exit code 0" test $code = 0
}

beats_while_all_is_well() {
    heading "heartbeat"
    # One was the test's.
    # Those of the start and of the test do not count.
    eventually $((20 - SECONDS + began)) "it is pinged while all is fresh" beaten ping $(($(beats ping) + 1))
    check "and no failure is sent" not beaten fail 1
}

silences() {
    heading "silence, and a heartbeat that stops"
    ask silence initech 2h
    check "refreshd silence initech 2h prints the end" prints "initech: notifications are suppressed until 20" "$work/output"
    play slow/portal-1 500
    play slow/portal-2 400
    eventually 25 "initech's grant is dead, and umbrella's server has an error" refused_both
    pings=$(beats ping)
    local end=$((SECONDS + 16))
    while ((SECONDS < end)); do sleep 0.2; done
    check "no channel is notified" at_every_channel portal/initech ""
    check "no ping came for a period, since not all is fresh" test "$(beats ping)" = "$pings"
    check "and no failure, since nothing was notified" not beaten fail 1
    ask alert list
    check "refreshd alert list shows the silence" prints "silenced: initech, until 20" "$work/output"
    play slow/portal-1 pass
    refreshd renew umbrella >/dev/null 2>&1 || true
    ask silence initech --end
    check "refreshd silence initech --end confirms it" prints "initech: not silenced any more" "$work/output"
    all_received 10 "every channel is notified now" portal/initech critical
    eventually 10 "the heartbeat fails at once" beaten fail 1
}

notifies_of_a_dead_grant() {
    heading "a dead grant"
    local channel since delays='' worst=0 delay text part missing=0
    play minute/portal-1 400
    within 12 refused minute/portal-1 || fail "acme is refused"
    since=$(first_refusal minute/portal-1)
    all_received 10 "every channel is notified once" portal/acme critical
    eventually 10 "Alertmanager has it" active_is portal/acme critical
    for channel in "${channels[@]}"; do
        delay=$(delay "$channel" portal/acme "$since")
        delays+=" $channel $delay"
        if awk -v a="$delay" -v b="$worst" 'BEGIN { exit !(a > b) }'; then worst=$delay; fi
    done
    note "seconds from the refusal to the message:$delays"
    check "within 10 s of the refusal" awk -v worst="$worst" 'BEGIN { exit !(worst > 0 && worst < 10) }'
    for channel in "${channels[@]}" alertmanager; do
        if [[ $channel == alertmanager ]]; then
            text=$(jq -rs 'map(.alerts[] | select(.labels.incident == "portal/acme"))[0].text' "$work/active.jsonl")
        else
            text=$(messages "$channel" portal/acme .text)
        fi
        for part in '\[critical] acme: the grant is dead' '^Since 20..-..-..T..:..:..' \
            'works for [0-9]*s more, until 20' \
            'To do: authorize the app quick on portal-1.bitrix24.com again: refreshd authorize acme'; do
            # The title of an alert is another field.
            [[ $channel == alertmanager && $part == *acme:* ]] && continue
            grep --quiet -- "$part" <<<"$text" || { missing=1; note "$channel lacks: $part"; }
        done
    done
    if ((missing)); then
        fail "each message has the portal, the start, the token's remaining life and the command"
    else
        pass "each message has the portal, the start, the token's remaining life and the command"
    fi
}
refused_both() { refused slow/portal-1 && refused slow/portal-2; }
refused() { [[ $(first_refusal "$1") != null ]]; }

stage() { jq -r --arg key "$1" '.incidents[] | select(.key == $key) | .stage' "$work/output"; }
acknowledges() {
    heading "acknowledge"
    ask alert acknowledge initech
    check "refreshd alert acknowledge initech confirms it" prints "initech: 1 incident is acknowledged" "$work/output"
    all_received 10 "every channel is notified" portal/initech "critical acknowledged"
    ask alert list --json
    check "refreshd alert list shows it" test "$(stage portal/initech)" = acknowledged
    check "and acme is not acknowledged" test "$(stage portal/acme)" = open
    play slow/portal-2 pass
    new_grant slow 2
    ask import initech "$work/grant.json"
    check "a new grant is accepted" test $code = 0
    all_received 10 "which ends it, once" portal/initech "critical acknowledged resolved"
}

groups() {
    heading "two hundred portals at once"
    local count
    many=server/127.0.0.1:${port[token_of_many]}
    within 50 at_every_channel "$many" warning || true
    all_received 1 "one message at every channel" "$many" warning
    count=$(messages slack "$many" .title)
    note "$(cut -c1-110 <<<"$count")…"
    check "it gives the number 200" grep --quiet '200 portals at 127.0.0.1' <<<"$count"
    play 'bulk/*' pass
    all_received 25 "and one resolution" "$many" "warning resolved"
    sleep 1
    check "no single portal is notified" not grep --quiet '"subject": "portal/bulk' "$work/messages.jsonl"
    check "Alertmanager has none of them" test -z \
        "$(active 'select(.incident // "" | test("bulk|server")) | .incident')"
    check "its webhook got the firing alert and the resolution" noticed_is "$many" "warning:firing warning:resolved"
}

escalates() {
    heading "an outage, step by step"
    local channel repetitions=0 received all
    within 45 at_every_channel portal/globex warning || true
    control '{"hook": false}'
    all_received 1 "warning: 30 % of the time between due and expiry has passed" portal/globex warning
    eventually 5 "Alertmanager has a warning" active_is portal/globex warning
    end_daemon TERM
    start_daemon
    note "the daemon was stopped and started, and the webhook's receiver is down"
    eventually 15 "error: a fifth is left, at every reachable channel" others_received "warning error"
    check "the webhook, which is down, got none" test "$(received hook portal/globex)" = warning
    eventually 5 "in Alertmanager the warning ended with it" active_is portal/globex error
    eventually 5 "which notified its webhook" noticed_is portal/globex "warning:firing error:firing warning:resolved"
    end_daemon KILL
    killed=$(date +%s)
    start_daemon
    note "the daemon was killed and started"
    control '{"hook": true}'
    within 20 critical_everywhere 1 || true
    check "critical: a tenth is left" critical_everywhere 1
    within 20 critical_everywhere 2 || true
    check "critical again: the token has expired" critical_everywhere 2
    eventually 5 "in Alertmanager it is critical alone" active_is portal/globex critical
    play minute/portal-2 pass
    note "the server works again"
    within 30 resolved_everywhere || true
    for channel in "${channels[@]}"; do
        received=$(without_repetitions "$channel" portal/globex)
        repetitions=$((repetitions + $(repetitions "$channel" portal/globex)))
        if [[ $received == "warning error critical critical resolved" ]]; then
            pass "$channel got the messages in order, and the resolution once"
        else
            fail "$channel received: $received"
        fi
    done
    note "repeated, which is allowed once after SIGKILL: $repetitions"
    check "at most one channel got a message twice" test "$repetitions" -le 1
    eventually 5 "Alertmanager has nothing of it" active_is portal/globex ""
    # Its webhook gets a resolution some seconds after Alertmanager stops showing the alert.
    eventually 20 "its webhook got each severity once, and each resolution" all_noticed_are portal/globex \
        "critical:firing critical:resolved error:firing error:resolved warning:firing warning:resolved"
}
others_received() {
    local channel
    for channel in "${channels[@]}"; do
        [[ $channel == hook || $(received "$channel" portal/globex) == "$1" ]] || return
    done
}
critical_everywhere() {
    local channel
    for channel in "${channels[@]}"; do
        (($(messages "$channel" portal/globex '"\(.how)\t\(.title)"' | uniq | grep -c ^critical) >= $1)) || return
    done
}
resolved_everywhere() {
    local channel
    for channel in "${channels[@]}"; do [[ $(received "$channel" portal/globex) == *resolved ]] || return; done
}

mails() {
    heading "mail"
    check "every mail came over TLS, from the user, to both" test "$(jq -rs 'map(select(.channel == "mail"))
        | all(.tls and .user == "refreshd" and .kind == "text/plain" and .automatic == "auto-generated"
        and .envelope == ["refreshd@example.org", "ops@example.org", "zoe@example.org"])' "$work/messages.jsonl")" = true
    check "the subject has the severity, the portal and the problem" grep --quiet '^\[critical\] acme: the grant is dead' \
        <<<"$(messages mail portal/acme .title)"
    check "the body has the sender and the status page" grep --quiet --fixed-strings \
        "refreshd on $instance" <<<"$(messages mail portal/acme .text)"
    local thread
    thread=$(messages mail portal/globex .headers.references | sed -n 1p)
    check "the mails of an incident are one thread" test \
        "$(messages mail portal/globex '.headers.references, .headers["in-reply-to"]' | sort -u)" = "$thread"
    check "the resolution is in it" test "$(messages mail portal/globex 'select(.how == "resolved") | .headers.references')" \
        = "$thread"
    check "another incident is another thread" test "$(messages mail portal/acme .headers.references)" != "$thread"
    check "no two have the same Message-ID, but repetitions" test \
        "$(jq -rs 'map(select(.channel == "mail") | [.headers["message-id"], .title]) | unique
        | (map(.[0]) | unique | length) == length' "$work/messages.jsonl")" = true
}

from_prometheus() {
    heading "Prometheus, its rules, Alertmanager, its webhook"
    eventually 15 "the target is up" prometheus_has 'up{job="refreshd"} == 1'
    eventually 10 "the rule fires in Alertmanager" fires_from_prometheus
    eventually 5 "which notified its webhook" noticed_firing RefreshdNeedsPerson
}
prometheus_has() {
    [[ -n $(get "http://127.0.0.1:${port[prometheus]}/api/v1/query" --get --data-urlencode "query=$1" |
        jq -r '.data.result[].value[1]') ]]
}
fires_from_prometheus() { active 'select(.alertname == "RefreshdNeedsPerson") | .phase' | grep -q needs-authorization; }
noticed_firing() { noticed "$1" | grep -q firing; }

compares() {
    heading "renewals while every receiver hangs"
    local name before=() after=()
    for name in calm held; do
        (umask 077 && { comparison $name; [[ $name == calm ]] || hanging_channels; } >"$work/$name.toml")
        mkdir -m 700 "$work/$name.state"
    done
    # Half of the failing ones are rejected, the others get an error.
    local number plays=''
    for name in calm held; do
        for ((number = 1; number <= 40; number++)); do
            plays+="\"$name/portal-$number\": \"$((400 + number % 2 * 100))\","
        done
    done
    control "{\"play\": {${plays%,}}}"
    local compared=()
    for name in calm held; do
        start "$name-daemon" "$binary" run --config "$work/$name.toml"
        compared+=($!)
    done
    for name in calm held; do
        within 20 test -s "$work/$name.tokens/well-${portals[$name]}/token.json" || fail "$name renews"
    done
    within 10 hangs || true
    check "every receiver hangs, and messages wait" hangs
    before=("$(outcomes "${port[calm_http]}")" "$(outcomes "${port[held_http]}")")
    sleep 20
    after=("$(outcomes "${port[calm_http]}")" "$(outcomes "${port[held_http]}")")
    local calm=$((after[0] - before[0])) held=$((after[1] - before[1]))
    note "renewals in 20 s: $calm without channels, $held with channels that hang: $(awk -v a=$held -v b=$calm \
        'BEGIN { printf "%.3f", a / b }')"
    check "the ratio is at least 0.9" awk -v a=$held -v b=$calm 'BEGIN { exit !(b > 500 && a / b >= 0.9) }'
    "$binary" alert list --config "$work/held.toml" --json >"$work/output" || true
    kill -TERM "${compared[@]}"
    note "waiting: $(jq -r '[.channels[] | "\(.channel) \(.waiting)"] | join(", ")' "$work/output")"
}
# Each of the seven channels for incidents has a connection or a program, and nothing is delivered.
hangs() {
    "$binary" alert list --config "$work/held.toml" --json >"$work/output" || true
    (($(cat "$work/silent" 2>/dev/null || echo 0) >= 6)) \
        && [[ $(jq '[.channels[] | select(.waiting > 5)] | length' "$work/output") == 7 ]]
}

ends() {
    heading "resolution"
    check "acme was notified once in all the time" at_every_channel portal/acme critical
    check "Alertmanager got the firing alert again, a minute later and soon after a start" sent_again
    check "it fired without a break, longer than Alertmanager's resolve_timeout" fired_all_the_time
    check "its webhook was notified once" noticed_is portal/acme critical:firing
    play minute/portal-1 pass
    new_grant minute 1
    ask import acme "$work/grant.json"
    check "a new grant is accepted" test $code = 0
    all_received 10 "which ends it, once" portal/acme "critical resolved"
    eventually 10 "in Alertmanager too" active_is portal/acme ""
    eventually 5 "and at its webhook" noticed_is portal/acme "critical:firing critical:resolved"
    eventually 15 "the rule of Prometheus is over" not fires_from_prometheus
    eventually 10 "and its resolution was sent" over_from_prometheus
    eventually 25 "all is fresh, and the heartbeat is pinged again" beaten ping $((pings + 1))
    ask alert list
    check "nothing is open" prints "no incident is open" "$work/output"
    end_daemon TERM
}
over_from_prometheus() { [[ $(noticed RefreshdNeedsPerson) == *critical:resolved ]]; }
# The end that Alertmanager knows of an alert moves with each repetition.
ends_of_acme() { jq -r '.alerts[] | select(.labels.incident == "portal/acme") | .ends' "$work/active.jsonl" | uniq; }
sent_again() {
    local last
    last=$(ends_of_acme | sed -n '$p')
    (($(ends_of_acme | wc -l) >= 3 && $(date -d "$last" +%s) - 300 >= killed))
}
fired_all_the_time() {
    jq -rs 'map(.at as $at | [.alerts[] | select(.labels.incident == "portal/acme" and .state == "active")] | length)
        | join("")' "$work/active.jsonl" | grep -qE '^0*1+$'
}

no_secret_is_sent() {
    heading "secrets"
    local name found=0
    {
        for name in "${!lifetime[@]}"; do cat "$work/$name/client.secret"; echo; done
        for name in "${secret[@]}"; do printf '%s\n' "${name#Bearer }" "${name#123456:}"; done
    } >>"$work/secrets"
    "$work/venv/bin/python3" - "$work" >>"$work/secrets" <<'END'
import pathlib, sqlite3, sys
for state in pathlib.Path(sys.argv[1]).glob("*.state/state.db"):
    if state.parent.name == "main.state":
        for row in sqlite3.connect(state).execute("SELECT refresh_token, access_token FROM portal"):
            print(*filter(None, row), sep="\n")
END
    sort -u "$work/secrets" | grep -E '.{12,}' >"$work/known"
    note "$(wc -l <"$work/known") secrets, $(stat -c %s "$work/messages.raw") bytes that receivers got"
    get "http://127.0.0.1:${port[prometheus]}/api/v1/series" --get \
        --data-urlencode 'match[]={job="refreshd"}' >"$work/series.json"
    for name in messages.raw series.json main.log; do
        if grep --fixed-strings --file="$work/known" --max-count=1 "$work/$name" | cut -c1-200 | grep -q .; then
            fail "no secret in $name"
            found=1
        fi
    done
    ((found)) || pass "no token, client secret or channel's secret in any message, series or log"
    check "the receivers got enough messages to search" test "$(stat -c %s "$work/messages.raw")" -gt 50000
}

no_receiver_complains() {
    if [[ -s $work/complaints.jsonl ]]; then
        fail "every receiver accepted every message"
        jq -r '"\(.channel): \(.why)"' "$work/complaints.jsonl" | sort | uniq -c | head
    else
        pass "every receiver accepted every message"
    fi
}

# --- main -----------------------------------------------------------------------------------------------------------

[[ -x $binary ]] || give_up "no executable at $binary; build it first, or name it" 66
work=$(mktemp -d)
trap clean_up EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

install_tools
ports
start_servers
start_monitoring
start_outside
write_script
mkdir -m 700 "$work/main.state"
(umask 077 && settings >"$work/main.toml")
start_daemon
began=$SECONDS
within 20 test -s "$work/main.tokens/bulk-${portals[bulk]}/token.json" || fail "every portal has a token"

tests_every_channel
beats_while_all_is_well
silences
play 'bulk/*' 500
notifies_of_a_dead_grant
acknowledges
from_prometheus
groups
# From now on it takes a while until globex is overdue.
ask renew globex
play minute/portal-2 500
compares
escalates
mails
ends
no_receiver_complains
no_secret_is_sent

if ((failed)); then
    heading "last log lines"
    grep -v ' bulk-' "$work/main.log" | tail -n 30 | cut -c1-300 || true
fi
printf '\ntests/system/alerting.sh: %d passed, %d failed, %d s\n' "$passed" "$failed" "$SECONDS"
((failed == 0))
