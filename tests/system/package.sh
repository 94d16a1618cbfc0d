#!/usr/bin/env bash
# The packages of an administrator: tests/system/package.sh [BINARY], by default target/release/refreshd.
#
# deploy/package makes a .deb of the binary, and another one of a higher version. On Debian 12 and on Debian 13, with systemd
# booted, the package is installed; ten lines of TOML and a refresh token are written, and `systemctl start` gives a fresh
# token. The package is upgraded during a pending renewal, the daemon is killed, the package is removed, installed again and
# purged, and only the administrator's files are left. Then it is installed over a manual installation. The .rpm has the
# same files with the same modes; the tarball is installed and removed.
#
# Needs root. Installs what it uses; the Debian trees (210 MB each) are made once and kept in ~/.cache/refreshd-rigs.
# REFRESHD_RIG_SUITES chooses other Debian releases. Exit code: 0, 1 (a check failed), 66 (no such binary), 77 (cannot
# run here).
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=tests/system/lib.sh
source tests/system/lib.sh
# shellcheck source=tests/system/container.sh
source tests/system/container.sh

# A time limit for the whole rig, not only for each step.
if [[ -z ${REFRESHD_RIG_BOUNDED-} ]]; then
    REFRESHD_RIG_BOUNDED=1 exec timeout --kill-after=30 1200 "$0" "$@"
fi

readonly lifetime=20 patience=40
# Version of the first release, and of a later one.
readonly first=0.1.0 later=99.0.0

binary=${1:-target/release/refreshd}
work='' upgrade=''

# Ends the processes that this script started, and no others.
clean_up() {
    local status=$?
    trap - EXIT INT TERM
    if [[ -n $upgrade ]]; then kill "$upgrade" 2>/dev/null || true; fi
    power_off
    if [[ -n $work ]]; then rm -rf --one-file-system "$work"; fi
    exit "$status"
}

# --- helpers --------------------------------------------------------------------------------------------------------

# printed TEXT: in the output of the last `run`.
printed() { grep --quiet --fixed-strings -- "$1" "$work/output"; }
# run COMMAND...: runs it inside and keeps its output. apt gives dpkg a terminal, whose lines end in CR LF.
run() {
    local status=0
    inside "$@" >"$work/printed" 2>&1 || status=$?
    tr -d '\r' <"$work/printed" >"$work/output"
    ((status == 0)) || sed 's/^/      /' "$work/output"
    return $status
}
# follow PATTERN: executes the remedy that the last `run` printed, from the start of the pattern on.
follow() {
    sed -nE "s#^(refreshd: |/etc/refreshd/).*($1.*)#\\2#p" "$work/output" >"$work/remedies"
    sed 's/^/      /' "$work/remedies"
    [[ -s $work/remedies ]] && inside bash -euc "$(<"$work/remedies")"
}

deb() { echo "/pkg/refreshd_$1_$architecture.deb"; }
install_deb() { run env DEBIAN_FRONTEND=noninteractive dpkg -i "$(deb "$1")"; }
installed_version() { inside dpkg-query --show --showformat='${Version}' refreshd; }
there() { inside test -e "$1"; }
enabled() { inside systemctl is-enabled --quiet refreshd.service; }
generation_now() { generation acme || echo 0; }
has_account() { inside id refreshd >/dev/null 2>&1; }

# --- packages -------------------------------------------------------------------------------------------------------

make_packages() {
    heading "packages"
    local into=$work/package
    export REFRESHD_PACKAGE_FAST=1
    command -v rpm2cpio >/dev/null && command -v cpio >/dev/null || install_packages rpm rpm2cpio cpio \
        || give_up "rpm2cpio and cpio cannot be installed" 77
    check "deploy/package makes a .deb" deploy/package deb --binary "$binary" --version "$first" --into "$into"
    check "deploy/package makes a .deb of a later version" deploy/package deb --binary "$binary" --version "$later" --into "$into"
    check "deploy/package makes an .rpm" deploy/package rpm --binary "$binary" --version "$first" --into "$into"
    check "deploy/package makes a tarball" deploy/package tarball --binary "$binary" --version "$first" --into "$into"
    architecture=$(dpkg --print-architecture)
    ((failed == 0)) || give_up "there is nothing to install"
    cp "$into/refreshd_${first}_$architecture.deb" "$work/once.deb"
    deploy/package deb --binary "$binary" --version "$first" --into "$into" >/dev/null
    check "once more it is the same, to the last byte" cmp --quiet "$work/once.deb" "$into/refreshd_${first}_$architecture.deb"
    # Relative to the systemd of Debian 12 and 13.
    mkdir "$into/tarball"
    tar -xzf "$into"/refreshd-"$first"-*.tar.gz --strip-components=1 --no-same-owner -C "$into/tarball"
}

# Modes, owners and paths in the package. Each distribution has its own place for zsh.
contents_of_deb() {
    dpkg-deb --contents "$1" | awk '{ sub(/^\./, "", $6); print $1, $2, $6 }' | grep -v '^d' \
        | sed 's|vendor-completions|site-functions|' | LC_ALL=C sort -k3
}
contents_of_rpm() {
    rpm -qp --queryformat '[%{FILEMODES:perms} %{FILEUSERNAME}/%{FILEGROUPNAME} %{FILENAMES}\n]' "$1" | grep -v '^d' | LC_ALL=C sort -k3
}

the_rpm_is_as_the_deb() {
    heading ".rpm"
    local deb=$work/package/refreshd_${first}_$architecture.deb rpm
    rpm=$(echo "$work"/package/*.rpm)
    contents_of_deb "$deb" >"$work/of-deb"
    contents_of_rpm "$rpm" >"$work/of-rpm"
    note "$(wc -l <"$work/of-deb") files"
    check "the same files with the same modes and owners are in both" diff "$work/of-deb" "$work/of-rpm"
    check "root owns all, and no other user may write" not grep -vE '^-(rwxr-xr-x|rw-r--r--) root/root ' "$work/of-rpm"
    mkdir "$work/of"
    (cd "$work/of" && mkdir deb rpm && rpm2cpio "$rpm" | cpio --quiet -idm -D rpm && dpkg-deb -x "$deb" deb)
    check "the contents are the same" same_contents
    gzip -dc "$work/of/deb/usr/share/doc/refreshd/sbom.cdx.json.gz" >"$work/sbom.json"
    check "the bill of materials is complete, and that of Cargo.lock" deploy/sbom check "$work/sbom.json"
    check "it needs systemd and the authorities' certificates" needs systemd ca-certificates
    check "its scripts call the same setup as the .deb's" test "$(rpm -qp --scripts "$rpm" | grep -c /usr/lib/refreshd/setup)" -ge 2
    check "an upgrade of systemd is noticed" grep --quiet 'setup drop-in' <(rpm -qp --triggers "$rpm")
}
same_contents() {
    mkdir -p "$work/of/deb/usr/share/zsh" && mv "$work"/of/deb/usr/share/zsh/{vendor-completions,site-functions}
    diff --recursive "$work/of/deb" "$work/of/rpm"
}
needs() { local name; for name; do rpm -qp --requires "$work"/package/*.rpm | grep -q "^$name" || return; done; }

# --- checks in each Debian ------------------------------------------------------------------------------------------

# Files on the disk without logs, caches, and the files of dpkg and systemd.
everything() {
    inside find /etc /usr /var /run /home /root /srv /opt -xdev \( -path /var/log -o -path /var/cache -o -path /var/lib/dpkg \
        -o -path /var/lib/apt -o -path /var/lib/systemd -o -path /var/tmp -o -path /run/systemd -o -path /run/log -o -path /run/udev \
        -o -path /run/user -o -path /usr/share/mime -o -name '.pwd.lock' -o -name '*-' \) -prune -o -print | LC_ALL=C sort
    inside cat /etc/passwd /etc/group
}

is_installed() {
    heading "$suite: installation"
    check "apt installs it without a network" run env DEBIAN_FRONTEND=noninteractive apt-get install -y "$(deb "$first")"
    check "it prints the next step" printed 'refreshd check --service && systemctl enable --now refreshd'
    check "nothing is started" not active
    check "nothing is enabled" not enabled
    check "the account is there" has_account
    check "/etc/refreshd is root's, and its files will be the daemon's to read" owned /etc/refreshd '2750 root:refreshd'
    check "the token directory is the daemon's" owned "$tokens" '751 refreshd:refreshd'
    check "the manual page is there" there /usr/share/man/man1/refreshd-alert-test.1.gz
    if (($(systemd_version) >= 254)); then
        check "systemd $(systemd_version) has the drop-in" is RestartMode direct
    else
        check "systemd $(systemd_version) has no drop-in" not there /usr/lib/systemd/system/refreshd.service.d/10-systemd-254.conf
    fi
    check "without a configuration it does not start" not inside systemctl start refreshd.service
    check "and the exit code is 78" is ExecMainStatus 78
    inside systemctl reset-failed refreshd.service
}

# As an administrator would, with the usual umask and without changing owners.
is_configured() {
    heading "$suite: ten lines and a refresh token"
    # A refresh token works once: one for each new installation.
    start_sandbox 3 "$lifetime"
    inside bash -euc 'umask 022
        cp /pkg/ten.toml /etc/refreshd/refreshd.toml
        install -m 640 /tmp/sandbox/client.secret /etc/refreshd/crm.secret
        install -m 640 /tmp/sandbox/portal-1.refresh /etc/refreshd/acme.refresh' || true
    check "the secret is the daemon's to read" owned /etc/refreshd/crm.secret '640 root:refreshd'
    check "refreshd check finds no problem" run refreshd check
    check "systemctl enable --now returns once it is ready" inside systemctl enable --quiet --now refreshd.service
    eventually 20 "there is a fresh token" has_token acme
    eventually $patience "it is renewed" renewed_since acme "$(generation_now)"
}
ten_lines() {
    cat <<END
[apps.crm]
provider = "bitrix24"
client_id = "local.sandbox"
client_secret_file = "/etc/refreshd/crm.secret"
token_url = "http://$sandbox_address/oauth/token/"

[portals.acme]
app = "crm"
renew_every = "50%"
refresh_token_file = "/etc/refreshd/acme.refresh"
END
}

is_upgraded() {
    heading "$suite: upgrade while a renewal is under way"
    local pid generation since status=0
    pid=$(main_pid)
    since=$(now)
    inside systemctl kill --kill-whom=main --signal=STOP sandbox.service
    eventually $patience "a request waits for its answer" under_way
    generation=$(generation_now)
    install_deb "$later" &
    upgrade=$!
    eventually 30 "the old daemon is asked to stop" is ActiveState deactivating
    check "it waits for the answer" is MainPID "$pid"
    check "and readers have their token" has_token acme
    inside systemctl kill --kill-whom=main --signal=CONT sandbox.service
    wait "$upgrade" || status=$?
    upgrade=''
    check "dpkg is content" test "$status" = 0
    check "it is the later version" test "$(installed_version)" = "$later"
    check "the daemon is another process" active_as_other_than "$pid"
    check "the renewal came to its end" renewed_since acme "$generation"
    check "nothing is in doubt" not logged_since "$since" 'doubt'
    eventually $patience "the grant lives on: it is renewed" renewed_since acme "$((generation + 1))"
    check "no grant was reported dead meanwhile" not logged_since "$since" 'needs-authorization'
}

# A later version may refuse a key that an older one accepted.
is_not_restarted_in_vain() {
    heading "$suite: upgrade that refuses the configuration"
    local pid
    pid=$(main_pid)
    inside bash -c 'printf "[htp]\n" >>/etc/refreshd/refreshd.toml'
    check "dpkg is content" install_deb "$later"
    check "the problem is named with its place" printed '/etc/refreshd/refreshd.toml:11'
    check "the action is printed" printed 'refreshd check --service && systemctl restart refreshd'
    check "the daemon that runs is left" is MainPID "$pid"
    check "and active" active
    inside sed -i '$d' /etc/refreshd/refreshd.toml
}

is_killed() {
    heading "$suite: SIGKILL"
    local pid generation
    pid=$(main_pid)
    generation=$(generation_now)
    inside kill -KILL "$pid" || true
    check "the token stays where readers look for it" has_token acme
    eventually 20 "systemd starts it again" active_as_other_than "$pid"
    eventually $patience "the grant lives on: it is renewed" renewed_since acme "$generation"
}

stays_stopped() {
    heading "$suite: upgrade of one that was stopped"
    inside systemctl stop refreshd.service
    check "dpkg is content" install_deb "$later"
    check "it is not started" not active
    check "it is enabled still" enabled
    check "no hint for a first installation is printed" not printed 'needs a configuration'
    check "it starts" inside systemctl start refreshd.service
}

# dpkg triggers the package when systemd's own files are replaced.
notices_systemd() {
    heading "$suite: another systemd"
    local link=/usr/lib/systemd/system/refreshd.service.d/10-systemd-254.conf
    inside rm -f "$link"
    inside dpkg-trigger --by-package=systemd --no-await /usr/lib/systemd/systemd
    check "dpkg runs what waits" inside dpkg --triggers-only --pending
    if (($(systemd_version) >= 254)); then
        check "the drop-in is there again" there "$link"
    else
        check "the drop-in stays away" not there "$link"
    fi
    check "the daemon runs on" active
}

# A limit of the file size simulates the full disk, as in systemd.sh.
is_not_removed_with_an_unsaved_pair() {
    heading "$suite: removal while a pair is in memory alone"
    local pid generation
    pid=$(main_pid)
    inside systemctl kill --kill-whom=main --signal=STOP sandbox.service
    eventually $patience "a request waits for its answer" under_way
    generation=$(generation_now)
    inside prlimit --pid "$pid" --fsize=4096:
    inside systemctl kill --kill-whom=main --signal=CONT sandbox.service
    eventually 10 "systemd has a copy of the pair" keeps 1
    check "apt does not remove it" not run env DEBIAN_FRONTEND=noninteractive apt-get remove -y refreshd
    check "it prints the reason" printed 'not removed: the disk refuses token pairs, which are in memory alone (1)'
    check "the daemon runs on" is MainPID "$pid"
    inside prlimit --pid "$pid" --fsize=unlimited:
    eventually $patience "with a disk the pair is saved" keeps 0
    eventually 10 "and published" renewed_since acme "$generation"
}

is_removed() {
    heading "$suite: removal"
    local generation
    generation=$(generation_now)
    check "apt removes it" run env DEBIAN_FRONTEND=noninteractive apt-get remove -y refreshd
    check "the daemon is stopped" not active
    check "its files are gone" not there /usr/bin/refreshd
    check "so are the files made from them" not there /usr/lib/systemd/system/refreshd.service.d
    check "the configuration stays" there /etc/refreshd/refreshd.toml
    check "the state stays" there /var/lib/refreshd/state.db
    check "readers have their token" has_token acme
    check "it is installed again" install_deb "$first"
    check "it starts" inside systemctl start refreshd.service
    eventually $patience "the grant lives on: it is renewed" renewed_since acme "$generation"
}

is_purged() {
    heading "$suite: purge"
    check "apt purges it, running as it is" run env DEBIAN_FRONTEND=noninteractive apt-get purge -y refreshd
    check "the state is gone" not there /var/lib/refreshd
    check "the token files are gone" not there /run/refreshd
    check "the administrator's files are there" inside test -s /etc/refreshd/refreshd.toml -a -s /etc/refreshd/crm.secret
    check "it prints that" printed '/etc/refreshd holds what you wrote and stays'
    # The account stays, since it may read these files.
    check "so is the account" has_account
    follow 'rm -r ' || true
    check "the printed command removes both" not has_account
    everything >"$work/after"
    check "nothing is left" diff "$work/before" "$work/after"
    install_deb "$first" || true
    check "of an installation that was never used" run env DEBIAN_FRONTEND=noninteractive dpkg --purge refreshd
    everything >"$work/after"
    check "nothing is left either" diff "$work/before" "$work/after"
}

# Every obstacle that a manual installation can leave.
replaces_a_manual_installation() {
    heading "$suite: over a manual installation"
    local pid
    inside bash -euc '
        install -m 755 /pkg/tarball/root/usr/bin/refreshd /usr/local/bin/refreshd
        sed "s|/usr/bin/refreshd|/usr/local/bin/refreshd|" /pkg/tarball/root/usr/lib/systemd/system/refreshd.service \
            >/etc/systemd/system/refreshd.service
        useradd --system --user-group --no-create-home refreshd
        install -d -m 777 -o nobody -g nogroup /etc/refreshd /etc/refreshd/portals.d
        { echo "include = [\"portals.d/*.toml\"]"; cat /pkg/ten.toml; } >/etc/refreshd/refreshd.toml
        install -m 600 -o refreshd /tmp/sandbox/client.secret /etc/refreshd/crm.secret
        install -m 600 -o refreshd /tmp/sandbox/portal-2.refresh /etc/refreshd/acme.refresh
        systemctl daemon-reload
        systemctl start refreshd.service' || note "the one made by hand does not start"
    eventually 20 "one that was made by hand runs" has_token acme
    pid=$(main_pid)
    # As root would leave them: this stops a newcomer's service.
    inside chown root:root /etc/refreshd/crm.secret /etc/refreshd/acme.refresh
    inside chmod 700 /etc/refreshd/portals.d
    check "the package is installed over it" install_deb "$first"
    check "/etc/refreshd has its owner and mode" owned /etc/refreshd '2750 root:refreshd'
    check "which is printed" printed '/etc/refreshd was nobody:nogroup 777 and is root:refreshd 2750 now'
    check "the unit that hides the package's is named" printed '/etc/systemd/system/refreshd.service takes the place of the package'
    check "and left" there /etc/systemd/system/refreshd.service
    check "the program that hides the package's is named" printed 'rm /usr/local/bin/refreshd'
    check "and left" there /usr/local/bin/refreshd
    check "a secret that the daemon cannot read is named" printed 'the user refreshd cannot read /etc/refreshd/crm.secret (root:root, mode 0600)'
    check "so is a directory" printed 'it cannot enter /etc/refreshd/portals.d'
    check "their owners are left" owned /etc/refreshd/crm.secret '600 root:root'
    check "the daemon that runs is left, since it would not start again" is MainPID "$pid"
    check "which is printed" printed 'the daemon is not restarted'
    check "the printed commands work" follow '(chgrp |rm /usr/local|rm /etc/systemd)'
    inside systemctl restart refreshd.service || true
    check "with every printed remedy, the package's unit runs" runs_the_packages_unit
    check "as another process" active_as_other_than "$pid"
    eventually $patience "the grant lives on: it is renewed" renewed_since acme "$(generation_now)"
    run env DEBIAN_FRONTEND=noninteractive dpkg --purge refreshd || true
    follow 'rm -r ' || true
}

runs_the_packages_unit() { [[ $(property FragmentPath) =~ ^(/usr)?/lib/systemd/system/refreshd.service$ ]]; }

# The same files without a package manager.
is_installed_from_the_tarball() {
    heading "$suite: tarball"
    check "install.sh installs it" run /pkg/tarball/install.sh
    check "it prints the next step" printed 'refreshd check --service && systemctl enable --now refreshd'
    inside bash -euc 'umask 022
        cp /pkg/ten.toml /etc/refreshd/refreshd.toml
        install -m 640 /tmp/sandbox/client.secret /etc/refreshd/crm.secret
        install -m 640 /tmp/sandbox/portal-3.refresh /etc/refreshd/acme.refresh' || true
    check "it starts" inside systemctl start refreshd.service
    eventually 20 "there is a fresh token" has_token acme
    local pid
    pid=$(main_pid)
    check "install.sh upgrades it" run /pkg/tarball/install.sh
    check "the daemon is another process" active_as_other_than "$pid"
    check "install.sh purges it" run /pkg/tarball/install.sh purge
    follow 'rm -r ' || true
    everything >"$work/after"
    check "nothing is left" diff "$work/before" "$work/after"
    install_deb "$first" || true
    check "it refuses to install over a package" not run /pkg/tarball/install.sh
}

# on SUITE
on() {
    suite=$1
    local tree glibc=2.36
    if [[ $suite != bookworm ]]; then glibc=2.41; fi
    if dpkg-deb --field "$work/package/refreshd_${first}_$architecture.deb" Depends | grep -oE 'libc6 \(>= [0-9.]+' \
        | { read -r _ _ needed && dpkg --compare-versions "$needed" gt "$glibc"; }; then
        note "$suite: this binary needs a later libc: skipped"
        return
    fi
    tree=$(debian_tree "$suite")
    boot "$tree" "$work/package"
    note "$suite: $(inside systemctl --version | sed -n 1p)"
    everything >"$work/before"
    is_installed
    is_configured
    if active; then
        is_upgraded
        is_not_restarted_in_vain
        is_killed
        stays_stopped
        notices_systemd
        is_not_removed_with_an_unsaved_pair
        is_removed
        is_purged
        replaces_a_manual_installation
        is_installed_from_the_tarball
    else
        note "it does not run: the other checks are skipped"
    fi
    if ((failed)); then
        heading "the daemon's last log lines"
        inside journalctl --no-pager --lines=60 --unit=refreshd.service || true
    fi
    power_off
}

# --- main -----------------------------------------------------------------------------------------------------------

((EUID == 0)) || give_up "needs root: a container is booted" 77
command -v dpkg-deb >/dev/null || give_up "needs Debian's own tools" 77
[[ -x $binary ]] || give_up "no executable at $binary; build it first, or name it" 66
work=$(mktemp -d)
trap clean_up EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

install_container_tools || give_up "systemd-container and mmdebstrap cannot be installed" 77
mkdir "$work/package"
ten_lines >"$work/package/ten.toml"
make_packages
the_rpm_is_as_the_deb
for each in ${REFRESHD_RIG_SUITES:-bookworm trixie}; do on "$each"; done

printf '\ntests/system/package.sh: %d passed, %d failed, %d s\n' "$passed" "$failed" "$SECONDS"
((failed == 0))
