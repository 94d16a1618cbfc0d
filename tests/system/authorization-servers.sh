#!/usr/bin/env bash
# Third-party authorization servers: tests/system/authorization-servers.sh [BINARY], by default
# target/release/refreshd.
#
# On loopback: npm's `oidc-provider`, which revokes the whole family when a spent refresh token is sent again, and PyPI's
# `django-oauth-toolkit` with a grace period, in which it repeats the pair. In front of each, a proxy can lose a response
# after the server has carried out the request. It checks with the real daemon and its token files
#   - obtaining grants: discovery of both kinds, the code grant with PKCE by browser, by pasting and by import, with all
#     ways to authenticate a client, client credentials, the device grant; forged and refused requests;
#   - renewals: every token that a reader finds is the newest, and its server accepts it;
#   - responses lost in six ways: with a grace period the same family continues without a user; without one the log reports
#     it ("rejected while in doubt"), and `refreshd authorize` resumes the portal;
#   - an issuer that is unreachable when the daemon starts, for the first time and later;
#   - `refreshd introspect`, and `refreshd forget --revoke`, verified at the server;
#   - that no output, log or page holds a token, a code or a secret.
#
# About a minute and a half. Installs nodejs, npm and python3 if they are not there, and the two servers for itself. Exit
# code: 0, 1 (a check failed), 77 (cannot run here).
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=tests/system/lib.sh
source tests/system/lib.sh

readonly oidc_provider=8.8.1 django=5.2.19 django_oauth_toolkit=3.4.1

# A time limit for the whole rig, not only for each step.
if [[ -z ${REFRESHD_RIG_BOUNDED-} ]]; then
    REFRESHD_RIG_BOUNDED=1 exec timeout --kill-after=30 400 "$0" "$@"
fi

binary=$(realpath -m "${1:-target/release/refreshd}")
work=''

has_tools() { command -v node && command -v npm && command -v python3; } >/dev/null

install_tools() {
    has_tools || install_packages nodejs npm python3 python3-venv || true
    has_tools || give_up "nodejs, npm or python3 cannot be installed" 77
}

# The package runs no install script.
install_oidc() {
    npm install --prefix "$work/npm" --silent --no-audit --no-fund --ignore-scripts --no-package-lock \
        "oidc-provider@$oidc_provider" >"$work/npm.log" 2>&1
}

[[ -x $binary ]] || give_up "no executable at $binary; build it first, or name it" 66
work=$(mktemp -d)
trap end_checks EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

install_tools
install_oidc &
oidc=$!
install_python "Django==$django" "django-oauth-toolkit==$django_oauth_toolkit" \
    || give_up "django-oauth-toolkit cannot be installed: $(tail -n 3 "$work/pip.log")" 77
wait "$oidc" || give_up "oidc-provider cannot be installed: $(tail -n 3 "$work/npm.log")" 77

run_checks tests/system/authorization-servers.checks.py
