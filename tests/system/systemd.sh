#!/usr/bin/env bash
# The shipped unit under a real systemd: tests/system/systemd.sh [BINARY], by default target/release/refreshd.
#
# Boots Debian in a container without a network, installs the binary, the unit, its user and its directories as a
# package would, starts the binary's own fake authorization server inside, and examines the daemon as an operator does:
# systemctl, journalctl, the token files, the metrics.
#
# Needs root. Installs what it uses; the Debian tree (210 MB) is made once and kept in ~/.cache/refreshd-rigs.
# REFRESHD_RIG_SUITE chooses another Debian release. Exit code: 0, 1 (a check failed), 77 (cannot run here).
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=tests/system/lib.sh
source tests/system/lib.sh
# shellcheck source=tests/system/container.sh
source tests/system/container.sh

# A time limit for the whole rig, not only for each step.
if [[ -z ${REFRESHD_RIG_BOUNDED-} ]]; then
    REFRESHD_RIG_BOUNDED=1 exec timeout --kill-after=30 900 "$0" "$@"
fi

readonly metrics_port=9470 lifetime=20
# Longer than a token's life here, so that a renewal must fall into it.
readonly patience=40

binary=${1:-target/release/refreshd}
work=''

# Ends the processes that this script started, and no others.
clean_up() {
    local status=$?
    trap - EXIT INT TERM
    power_off
    if [[ -n $work ]]; then rm -rf --one-file-system "$work"; fi
    exit "$status"
}

# --- installed files ------------------------------------------------------------------------------------------------

# settings PORTAL...: a configuration that keeps these portals fresh.
settings() {
    cat <<END
[http]
listen = "127.0.0.1:$metrics_port"

[apps.sandbox]
provider = "bitrix24"
client_id = "local.sandbox"
client_secret_file = "/etc/refreshd/client.secret"
token_url = "http://$sandbox_address/oauth/token/"
END
    local portal
    for portal in "$@"; do
        cat <<END

[portals.$portal]
app = "sandbox"
renew_every = "50%"
refresh_token_file = "/etc/refreshd/$portal.refresh"
formats = ["json", "raw"]
END
    done
}

pack() {
    mkdir "$work/package"
    cp "$binary" "$work/package/refreshd"
    cp -r deploy/refreshd.service deploy/refreshd.service.d deploy/refreshd-failed@.service \
        deploy/refreshd.sysusers.conf deploy/refreshd.tmpfiles.conf "$work/package"
    settings portal-1 >"$work/package/one.toml"
    settings portal-1 portal-2 >"$work/package/two.toml"
    { settings portal-1 portal-2; printf '\n[channels.script]\nkind = "command"\ncommand = ["/usr/local/bin/alert"]\n'; } \
        >"$work/package/command.toml"
    # The unit decides what the program may see and do: it only prints that it was started, and by which user.
    printf '#!/bin/sh\nread -r line\necho "received $REFRESHD_EVENT of $REFRESHD_CHANNEL as $(id -un)"\n' >"$work/package/alert"
    printf '[http]\nlistne = "127.0.0.1:%s"\n' "$metrics_port" >"$work/package/broken.toml"
    # A consumer that reads portal-2 through its own group; see refreshd.tmpfiles.conf.
    echo 'd /run/refreshd/tokens/portal-2 2750 refreshd www-data - -' >"$work/package/consumer.conf"
}

install_package() {
    inside bash -euo pipefail -c '
        install -m 0755 /pkg/refreshd /usr/bin/refreshd
        install -m 0644 /pkg/refreshd.service /pkg/refreshd-failed@.service /usr/lib/systemd/system/
        version=$(systemctl --version | sed -n "1s/^systemd \([0-9]*\).*/\1/p")
        if ((version >= 254)); then cp -r /pkg/refreshd.service.d /usr/lib/systemd/system/; fi
        install -D -m 0644 /pkg/refreshd.sysusers.conf /usr/lib/sysusers.d/refreshd.conf
        install -D -m 0644 /pkg/refreshd.tmpfiles.conf /usr/lib/tmpfiles.d/refreshd.conf
        install -D -m 0644 /pkg/consumer.conf /etc/tmpfiles.d/refreshd-consumers.conf
        systemd-sysusers refreshd.conf 2>/dev/null
        systemd-tmpfiles --create refreshd.conf refreshd-consumers.conf
        systemctl daemon-reload'
}

hand_over_grants() {
    inside bash -euc 'cd /tmp/sandbox
        install -o refreshd -g refreshd -m 0600 client.secret portal-1.refresh portal-2.refresh /etc/refreshd/'
}

# configure FILE: puts one of the configurations of `pack` in force for the next start or reload.
configure() { inside install -o root -g refreshd -m 0640 "/pkg/$1" /etc/refreshd/refreshd.toml; }

# --- inspection -----------------------------------------------------------------------------------------------------

has_status_text() { [[ -n $(property StatusText) ]]; }

# A GET in pure bash; `-` ends the reading when the server closes.
metric() {
    inside timeout 5 bash -c "exec 3<>/dev/tcp/127.0.0.1/$metrics_port
        printf 'GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' >&3; cat <&3" \
        | tr -d '\r' | grep "^refreshd_$1 " | cut -d' ' -f2
}
metric_is() { [[ $(metric "$1") =~ ^$2(\.0)?$ ]]; }

# Entries that the daemon itself sent in the journal's protocol. Entries from standard output have no priority of their own.
own_entries() { journal _TRANSPORT=journal _COMM=refreshd "$@"; }
failure_report() { inside journalctl --quiet --no-pager --output=cat --identifier=refreshd-failed --priority=crit; }

# The known secrets: the client's, the first refresh tokens, and the present access tokens.
no_secret_in_journal() {
    inside bash -euo pipefail -c '
        for file in /tmp/sandbox/client.secret /tmp/sandbox/*.refresh /run/refreshd/tokens/*/token; do
            cat "$file"
            echo
        done | sed "/^$/d" >/tmp/secrets
        test -s /tmp/secrets
        journalctl --no-pager --output=json --all >/tmp/journal
        grep --quiet renew /tmp/journal
        ! grep --quiet --fixed-strings --file=/tmp/secrets /tmp/journal'
}

# --- checks ---------------------------------------------------------------------------------------------------------

starts() {
    heading "start"
    configure one.toml
    check "systemctl start returns once the daemon is ready" inside systemctl start refreshd.service
    check "the unit is active" active
    eventually 20 "portal-1 has a token" has_token portal-1
    check "portal-1's token is 0640 and refreshd's" owned "$tokens/portal-1/token" '640 refreshd:refreshd'
    check "the runtime directory lets consumers through" owned "$tokens" '751 refreshd:refreshd'
    check "the state is the daemon's alone" owned /var/lib/refreshd '700 refreshd:refreshd'
    eventually 20 "systemctl shows a status text" has_status_text
    note "StatusText=$(property StatusText)"
    eventually 10 "the metrics are served" metric_is config_last_reload_successful 1
}

reloads() {
    heading "reload"
    local pid
    pid=$(main_pid)
    configure two.toml
    check "systemctl reload succeeds" inside systemctl reload refreshd.service
    eventually 20 "the portal that the new configuration brings has a token" has_token portal-2
    check "its file has the consumer's group" owned "$tokens/portal-2/token" '640 refreshd:www-data'
    check "the consumer reads it" inside setpriv --reuid=www-data --regid=www-data --clear-groups \
        test -r "$tokens/portal-2/token"
    check "the process is the same" is MainPID "$pid"
}

survives_a_broken_reload() {
    heading "reload with a broken configuration"
    local pid generation since
    pid=$(main_pid)
    since=$(now)
    sleep 1
    configure broken.toml
    check "systemctl reload fails" not inside systemctl reload refreshd.service
    check "the metrics report it" metric_is config_last_reload_successful 0
    check "the command's message is in the journal as an error" said_as_error "$since" 'in the configuration; nothing was changed'
    check "and the place" said_as_error "$since" 'refreshd.toml:2:1: unknown key `listne`'
    check "systemctl status reports that the old configuration is in force" has_old_configuration
    check "the log reports it, as a warning or worse" test -n "$(own_entries --priority=warning --since="$since")"
    check "the process is the same, and active" is MainPID "$pid"
    generation=$(generation portal-2 || echo 0)
    eventually $patience "the old configuration is in force: portal-2 is renewed" renewed_since portal-2 "$generation"
    check "systemctl status still reports it" has_old_configuration
    configure two.toml
    check "systemctl reload with a mended configuration succeeds" inside systemctl reload refreshd.service
    check "the metrics report it" metric_is config_last_reload_successful 1
    check "systemctl status no longer reports it" not has_old_configuration
}
has_old_configuration() { [[ $(property StatusText) == *'the old configuration is in force'* ]]; }
said_as_error() { [[ $(journal --priority=err --since="$1") == *"$2"* ]]; }

survives_sigkill() {
    heading "SIGKILL"
    local pid generation
    pid=$(main_pid)
    generation=$(generation portal-1 || echo 0)
    inside kill -KILL "$pid" || true
    check "the token stays where readers look for it" has_token portal-1
    eventually 20 "systemd starts it again" active_as_other_than "$pid"
    eventually $patience "the grant lives on: portal-1 is renewed" renewed_since portal-1 "$generation"
    check "refreshd-failed@ is silent about problems that resolve by themselves" test -z "$(failure_report)"
}

# A limit of the file size simulates the full disk: memory files fit, and no commit of SQLite does.
carries_a_pair_over() {
    heading "a pair that no disk takes, and SIGKILL"
    local pid generation since
    pid=$(main_pid)
    since=$(now)
    generation=$(generation portal-1 || echo 0)
    inside systemctl kill --kill-whom=main --signal=STOP sandbox.service
    eventually $patience "a request is under way" under_way
    inside prlimit --pid "$pid" --fsize=4096:
    limited REFRESHD_RIG=1 LimitFSIZE=4096:infinity
    inside systemctl kill --kill-whom=main --signal=CONT sandbox.service
    eventually 10 "the pair is in memory alone" metric_is tokens_unsaved '[12]'
    eventually 5 "systemd has a copy" keeps '[12]'
    check "the log reports it" logged_since "$since" 'the service manager'
    inside kill -KILL "$pid" || true
    eventually 20 "systemd starts it again" active_as_other_than "$pid"
    eventually 10 "the next process has the pair, and the disk takes nothing yet" metric_is tokens_unsaved '[12]'
    check "systemd has its copy still" keeps '[12]'
    check "no reader has seen it" not renewed_since portal-1 "$generation"
    pid=$(main_pid)
    inside rm -f /etc/systemd/system/refreshd.service.d/91-large.conf
    inside systemctl daemon-reload
    if (($(systemd_version) >= 254)); then
        note "and stopped before it is started again"
        # systemd forgets a stopped unit that nothing wants, with its stored descriptors.
        inside systemctl enable --quiet refreshd.service
        inside bash -c "kill -KILL $pid; systemctl stop refreshd.service"
        check "a stop leaves the copy" keeps '[12]'
        check "systemctl start succeeds" inside systemctl start refreshd.service
    else
        note "and started again by hand"
        check "systemctl restart succeeds" inside bash -c "kill -KILL $pid; systemctl restart refreshd.service"
    fi
    eventually 20 "with a disk it starts again" active_as_other_than "$pid"
    eventually 10 "no pair is in memory alone" metric_is tokens_unsaved 0
    eventually 5 "systemd has no copy any more" keeps 0
    check "the log reports its origin" logged_since "$since" 'kept since the last process is in the state now'
    eventually 5 "portal-1 is renewed with it" renewed_since portal-1 "$generation"
    generation=$(generation portal-1 || echo 0)
    eventually $patience "the grant lives on: portal-1 is renewed" renewed_since portal-1 "$generation"
    check "no grant was reported dead meanwhile" not logged_since "$since" 'needs-authorization'
}

stops() {
    heading "stop"
    check "systemctl stop succeeds" inside systemctl stop refreshd.service
    check "its result is success" is Result success
    check "its exit code is 0" is ExecMainStatus 0
    check "portal-1's token stays" has_token portal-1
    check "portal-2's token stays" has_token portal-2
}

refuses_a_broken_configuration() {
    heading "start with a broken configuration"
    local since
    since=$(now)
    sleep 1
    configure broken.toml
    inside systemctl reset-failed refreshd.service 2>/dev/null || true
    check "systemctl start fails" not inside systemctl start refreshd.service
    check "the exit code is 78" is ExecMainStatus 78
    check "the journal has the problem as an error" said_as_error "$since" 'unknown key `listne`'
    # Longer than RestartSec=.
    sleep 4
    check "the unit has failed" is ActiveState failed
    check "it is not restarted" is NRestarts 0
    eventually 10 "refreshd-failed@ reports it as critical" failure_reported
    note "$(failure_report)"
    configure two.toml
    check "it starts with a mended configuration" inside systemctl start refreshd.service
}
not() { ! "$@" 2>/dev/null; }
failure_reported() { [[ $(failure_report) == *'has failed'* ]]; }

survives_a_hang() {
    heading "watchdog"
    local pid generation
    inside bash -euc 'mkdir -p /etc/systemd/system/refreshd.service.d
        printf "[Service]\nWatchdogSec=5s\n" >/etc/systemd/system/refreshd.service.d/90-rig.conf
        systemctl daemon-reload
        systemctl restart refreshd.service'
    pid=$(main_pid)
    # The daemon pings while it is healthy.
    sleep 8
    check "a healthy daemon outlives WatchdogSec=5s" is MainPID "$pid"
    generation=$(generation portal-1 || echo 0)
    inside kill -STOP "$pid" || true
    eventually 20 "a stopped one is killed and started again" active_as_other_than "$pid"
    check "the watchdog did it" watchdog_fired
    eventually $patience "the grant lives on: portal-1 is renewed" renewed_since portal-1 "$generation"
}
watchdog_fired() { [[ $(journal) == *'Watchdog timeout'* ]]; }

# On a machine with 60 processors the runtime's default is 60 workers, which together with the other threads is beyond
# TasksMax=80. The number of threads must not follow the machine. LimitNPROC= is the same limit for machines whose
# containers have no `pids` controller, where systemd accepts TasksMax= and nothing enforces it.
starts_on_a_large_machine() {
    heading "60 processors under the unit's TasksMax"
    local generation threads
    limited TOKIO_WORKER_THREADS=60 LimitNPROC=64
    check "the unit's TasksMax holds" is TasksMax 80
    check "it starts and is ready" inside systemctl restart refreshd.service
    threads=$(inside awk '$1 == "Threads:" { print $2 }' "/proc/$(main_pid)/status")
    check "it has at most 22 threads ($threads)" test "$threads" -le 22
    generation=$(generation portal-1 || echo 0)
    eventually $patience "portal-1 is renewed" renewed_since portal-1 "$generation"
    check "it obeys SIGTERM" inside timeout 20 systemctl stop refreshd.service
    check "its result is success" is Result success
    check "its exit code is 0" is ExecMainStatus 0
}

# One thread too few is a clear error, never a daemon that looks ready.
refuses_too_few_threads() {
    heading "too few threads"
    local since
    since=$(now)
    limited TOKIO_WORKER_THREADS=60 TasksMax=12 LimitNPROC=12 Restart=no
    sleep 1
    check "systemctl start fails" not inside timeout 30 systemctl start refreshd.service
    check "the exit code is 69" eventually_exit_code_69
    check "the log names the limit to raise" logged_since "$since" 'raise TasksMax='
    check "it obeys systemctl stop" inside timeout 20 systemctl stop refreshd.service
    inside rm -f /etc/systemd/system/refreshd.service.d/91-large.conf
    inside systemctl daemon-reload
    inside systemctl reset-failed refreshd.service 2>/dev/null || true
    check "with its threads it starts again" inside systemctl start refreshd.service
}
# limited VARIABLE=VALUE KEY=VALUE...: a drop-in with this environment and these settings.
limited() {
    inside bash -euc 'mkdir -p /etc/systemd/system/refreshd.service.d
        printf "%s\n" "[Service]" "Environment=$1" "${@:2}" >/etc/systemd/system/refreshd.service.d/91-large.conf
        systemctl daemon-reload' limited "$@"
}
eventually_exit_code_69() { within 15 is ExecMainStatus 69; }

starts_programs() {
    heading "a program as a channel"
    configure command.toml
    inside install -m 0755 /pkg/alert /usr/local/bin/alert
    check "systemctl reload succeeds" inside systemctl reload refreshd.service
    check "the unit as shipped lets it not be started" not inside refreshd alert test script
    check "and the command names the necessary drop-in" names_drop_in
    inside bash -euc '
        install -D -m 0644 /pkg/refreshd.service.d/20-command-channel.conf.example \
            /etc/systemd/system/refreshd.service.d/20-command-channel.conf
        sed -i "s|^ExecPaths=.*|& -/usr/bin/id -/usr/bin/dash|" \
            /etc/systemd/system/refreshd.service.d/20-command-channel.conf
        systemctl daemon-reload
        systemctl restart refreshd.service'
    check "with it, the program is run" inside refreshd alert test script
    check "its output is in the journal: it runs as refreshd" ran_as_refreshd
}
names_drop_in() { [[ $(inside refreshd alert test script 2>&1 || true) == *20-command-channel.conf* ]]; }
ran_as_refreshd() { [[ $(journal) == *'received test of script as refreshd'* ]]; }

logs() {
    heading "journal"
    check "renewals are logged with a priority of their own" test -n "$(own_entries --priority=info)"
    check "not everything has the same priority" several_priorities
    check "no secret is in the journal" no_secret_in_journal
}
several_priorities() { (($(own_entries | grep -o '"PRIORITY":"[0-7]"' | sort -u | wc -l) > 1)); }

# --- main -----------------------------------------------------------------------------------------------------------

((EUID == 0)) || give_up "needs root: a container is booted" 77
[[ -x $binary ]] || give_up "no executable at $binary; build it first, or name it" 66
work=$(mktemp -d)
trap clean_up EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

heading "container"
install_container_tools
tree=$(debian_tree "$(suite)")
pack
boot "$tree" "$work/package"
note "$(inside systemctl --version | sed -n 1p), booted in ${SECONDS} s"
install_package
start_sandbox 2 "$lifetime"
hand_over_grants

starts
if active; then
    reloads
    survives_a_broken_reload
    survives_sigkill
    carries_a_pair_over
    stops
    refuses_a_broken_configuration
    survives_a_hang
    starts_on_a_large_machine
    refuses_too_few_threads
    starts_programs
    logs
else
    note "it does not run: the other checks are skipped"
fi

if ((failed)); then
    heading "the daemon's last log lines"
    inside journalctl --no-pager --lines=60 --unit=refreshd.service || true
fi
printf '\ntests/system/systemd.sh: %d passed, %d failed, %d s\n' "$passed" "$failed" "$SECONDS"
((failed == 0))
