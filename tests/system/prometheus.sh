#!/usr/bin/env bash
# The metrics, read by a real Prometheus: tests/system/prometheus.sh [BINARY], by default target/release/refreshd.
#
# Starts the fake authorization server and the daemon, lets `promtool` lint the live page, then lets Debian's Prometheus
# scrape it for a few seconds with the shipped alerting rules, and queries Prometheus for the result. All of it on
# loopback. deploy/prometheus/check tests when each rule fires.
#
# Installs Debian's prometheus if it is not there. Exit code: 0, 1 (a check failed), 77 (cannot run here).
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=tests/system/lib.sh
source tests/system/lib.sh

# A time limit for the whole rig, not only for each step.
if [[ -z ${REFRESHD_RIG_BOUNDED-} ]]; then
    REFRESHD_RIG_BOUNDED=1 exec timeout --kill-after=30 300 "$0" "$@"
fi

readonly lifetime=20 portals=(portal-1 portal-2)

binary=$(realpath -m "${1:-target/release/refreshd}")
work='' sandbox='' daemon='' prometheus=''

# --- helpers --------------------------------------------------------------------------------------------------------

# --- processes ------------------------------------------------------------------------------------------------------

has_tools() { command -v prometheus && command -v promtool && command -v curl && command -v jq; } >/dev/null

install_tools() {
    has_tools && return
    local as_root=()
    ((EUID == 0)) || as_root=(sudo -n)
    "${as_root[@]}" apt-get update -qq \
        && DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq --no-install-recommends \
            prometheus curl jq >/dev/null || true
    has_tools || give_up "prometheus, curl or jq is not installed and cannot be" 77
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

[channels.ops]
kind = "command"
command = ["/bin/true"]

[apps.sandbox]
provider = "bitrix24"
client_id = "local.sandbox"
client_secret_file = "$work/sandbox/client.secret"
token_url = "http://127.0.0.1:$sandbox_port/oauth/token/"
renew_every = "4s"
assumed_lifetime = "${lifetime}s"
END
    local portal
    for portal in "${portals[@]}"; do
        cat <<END

[portals.$portal]
app = "sandbox"
refresh_token_file = "$work/sandbox/$portal.refresh"
END
    done
}

scraping() {
    cat <<END
global:
  scrape_interval: 1s
  scrape_timeout: 1s
  evaluation_interval: 1s
rule_files:
  - $PWD/deploy/prometheus/refreshd.rules.yaml
scrape_configs:
  - job_name: refreshd
    static_configs:
      - targets: ["127.0.0.1:$http_port"]
END
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

start_daemon() {
    (umask 077 && settings >"$work/refreshd.toml")
    "$binary" run --config "$work/refreshd.toml" >"$work/daemon.log" 2>&1 &
    daemon=$!
    within 20 test -s "$work/tokens/${portals[-1]}/token.json" || {
        cat "$work/daemon.log" >&2
        give_up "the daemon did not start"
    }
}

start_prometheus() {
    scraping >"$work/prometheus.yml"
    # Ignore a proxy of the environment for loopback.
    env -u http_proxy -u HTTP_PROXY prometheus --config.file="$work/prometheus.yml" \
        --storage.tsdb.path="$work/series" --web.listen-address="127.0.0.1:$prometheus_port" \
        >"$work/prometheus.log" 2>&1 &
    prometheus=$!
    within 20 ask /-/ready || { cat "$work/prometheus.log" >&2; give_up "Prometheus did not start"; }
}

# Ends the processes that this script started, and no others.
clean_up() {
    local status=$? pid
    trap - EXIT INT TERM
    for pid in $prometheus $daemon $sandbox; do
        kill -TERM "$pid" 2>/dev/null || true
        within 10 gone "$pid" || kill -KILL "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    if [[ -n $work ]]; then rm -rf --one-file-system "$work"; fi
    exit "$status"
}

# --- inspection -----------------------------------------------------------------------------------------------------

get() { curl --silent --show-error --fail --noproxy '*' --max-time 5 "$@"; }
ask() { get "http://127.0.0.1:$prometheus_port$1" "${@:2}"; }

# value EXPRESSION: its present value; one line for each series.
value() { ask /api/v1/query --get --data-urlencode "query=$1" | jq -r '.data.result[].value[1]'; }
# series EXPRESSION LABEL: the values of a label of each series.
series() { ask /api/v1/query --get --data-urlencode "query=$1" | jq -r ".data.result[].metric[\"$2\"]" | sort; }
# holds EXPRESSION: it has a result.
holds() { [[ -n $(value "$1") ]]; }
target() { ask /api/v1/targets | jq -er ".data.activeTargets[0] | $1"; }
# rules FILTER: the state of each alerting rule.
rules() { ask /api/v1/rules | jq -r ".data.groups[].rules[] | $1"; }
type_of() { ask /api/v1/metadata | jq -er ".data[\"$1\"][0].type"; }

# --- checks ---------------------------------------------------------------------------------------------------------

lints() {
    heading "promtool"
    local page=$work/page head=$work/head lint=$work/lint
    get --dump-header "$head" --output "$page" --header 'Accept: application/openmetrics-text' \
        "http://127.0.0.1:$http_port/metrics"
    check "the page is declared as OpenMetrics 1.0.0" \
        grep --quiet --ignore-case '^content-type: application/openmetrics-text; version=1.0.0; charset=utf-8' "$head"
    check "it ends as OpenMetrics must" test "$(tail -n 1 "$page")" == '# EOF'
    get --dump-header "$head" --output "$page.text" "http://127.0.0.1:$http_port/metrics"
    check "the default is the text format 0.0.4" \
        grep --quiet --ignore-case '^content-type: text/plain; version=0.0.4; charset=utf-8' "$head"
    if promtool check metrics <"$page.text" >"$lint" 2>&1; then
        pass "promtool reports no problem of the metrics"
    else
        fail "promtool reports no problem of the metrics"
        cat "$lint"
    fi
}

scrapes() {
    heading "Prometheus"
    note "$(prometheus --version 2>&1 | sed -n 1p)"
    eventually 15 "the target is up" holds 'up{job="refreshd"} == 1'
    eventually 15 "it has been scraped five times" holds 'count_over_time(up{job="refreshd"}[1m]) >= 5'
    check "never in vain" holds 'min_over_time(up{job="refreshd"}[1m]) == 1'
    check "Prometheus reports no error of the target" test "$(target .lastError)" == ''
    check "nor a warning in its log" not grep --extended-regexp 'level=(warn|error)' "$work/prometheus.log"
    local expected
    expected=$(printf '%s\n' "${portals[@]}")
    for metric in token_expiry_timestamp_seconds token_renewal_due_timestamp_seconds token_issued_timestamp_seconds; do
        check "refreshd_$metric is there for each portal" test "$(series "refreshd_$metric" portal)" == "$expected"
    done
    check "no token has ended" not holds 'refreshd_token_expiry_timestamp_seconds <= time()'
    check "renewals are counted" holds 'refreshd_renewals_total{result="renewed"} > 0'
    eventually 15 "and rise" holds 'increase(refreshd_renewals_total{result="renewed"}[30s]) > 0'
    check "no renewal has failed" not holds 'refreshd_renewals_total{result!="renewed"} > 0'
    check "the duration is a histogram" \
        holds 'histogram_quantile(0.9, sum by (le) (refreshd_renewal_duration_seconds_bucket)) > 0'
    check "the portals are counted by phase" holds "refreshd_portals{phase=\"fresh\"} == ${#portals[@]}"
    check "the version is there" holds 'refreshd_build_info{version!=""} == 1'
    check "refreshd_renewals_total is known as a counter" knows refreshd_renewals counter
    check "refreshd_portals is known as a gauge" knows refreshd_portals gauge
    check "refreshd_renewal_duration_seconds is known as a histogram" knows refreshd_renewal_duration_seconds histogram
}

watches() {
    heading "the shipped alerting rules"
    eventually 15 "each has been evaluated" all_evaluated
    check "none with an error" none_of_rules 'select(.health != "ok") | "\(.name): \(.lastError)"'
    check "each metric that they ask for is there" has_metrics_of_rules
    check "a healthy daemon raises none of them" none_of_rules 'select(.state != "inactive") | "\(.name): \(.state)"'
}
all_evaluated() { [[ $(rules .health | sort -u) =~ ^(ok|err) ]] && ! rules .health | grep -qx unknown; }
# none_of_rules FILTER: prints the rules that pass the filter; succeeds if there are none.
none_of_rules() {
    local left
    left=$(rules "$1") || return 1
    [[ -z $left ]] || { note "$left"; return 1; }
}
has_metrics_of_rules() {
    local metric missing=0
    while read -r metric; do
        # Some have no value until a server reports one: the end of a refresh token.
        holds "$metric" || [[ -n $(type_of "$metric") ]] || { note "there is no $metric"; missing=1; }
    done < <(rules '.query | scan("refreshd_[a-z_]+")' | sort -u)
    ((missing == 0))
}
# OpenMetrics names a counter's family without its suffix, and so does Prometheus.
knows() { local type; type=$(type_of "$1"); [[ $type == "$2" ]] || { note "$1 is ${type:-unknown}"; return 1; }; }

# --- main -----------------------------------------------------------------------------------------------------------

[[ -x $binary ]] || give_up "no executable at $binary; build it first, or name it" 66
work=$(mktemp -d)
trap clean_up EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

install_tools
sandbox_port=$(free_port) http_port=$(free_port) prometheus_port=$(free_port)
start_sandbox
start_daemon
lints
start_prometheus
scrapes
watches

if ((failed)); then
    heading "last log lines"
    tail -n 20 "$work/daemon.log" "$work/prometheus.log"
fi
printf '\ntests/system/prometheus.sh: %d passed, %d failed, %d s\n' "$passed" "$failed" "$SECONDS"
((failed == 0))
