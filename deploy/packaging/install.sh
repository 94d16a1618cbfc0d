#!/bin/sh
# Installs refreshd from this directory of the tarball: ./install.sh [install|remove|purge], as root.
#
#   install  installs or upgrades the files, the account and the directories, in the places of the .deb and the .rpm
#   remove   stops the daemon and removes the files; configuration and state stay
#   purge    the same, and the state, the token files and the account
set -eu
umask 022
cd "$(dirname "$0")"

manifest=/usr/lib/refreshd/files

give_up() { echo "install.sh: $1" >&2; exit "${2:-1}"; }

# A package manager's files must not be changed.
owned_by_a_package() {
    { command -v dpkg-query && dpkg-query -S /usr/bin/refreshd; } >/dev/null 2>&1 \
        || { command -v rpm && rpm -qf /usr/bin/refreshd; } >/dev/null 2>&1
}

remove() {
    [ -f $manifest ] || give_up "refreshd was not installed by this script" 66
    /usr/lib/refreshd/setup remove
    # Longest first, so that a directory is empty when it is removed.
    sort -r $manifest | while read -r path; do
        if [ -d "/$path" ]; then rmdir "/$path" 2>/dev/null || true; else rm -f "/$path"; fi
    done
    if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
}

action=${1:-install}
[ "$(id -u)" = 0 ] || give_up "must be run as root" 77
if owned_by_a_package; then give_up "a package of this machine has /usr/bin/refreshd: use it, or remove it first" 73; fi
case $action in
    install)
        command -v systemd-sysusers >/dev/null || give_up "needs systemd 252 or later" 69
        step=installed
        if [ -f $manifest ]; then step=upgraded; fi
        # Created directories are removed later, too: those of this installation and of earlier ones.
        made=$(cd root && find . -mindepth 1 -type d -printf '%P\n' | while read -r path; do
            { [ -f $manifest ] && grep -Fx "$path" $manifest; } || { [ -d "/$path" ] || { mkdir "/$path" && echo "$path"; }; }
        done)
        # Each file is written beside and renamed: the running daemon keeps its own.
        (cd root && find . ! -type d -printf '%P\n') | while read -r path; do
            cp -p --no-preserve=ownership "root/$path" "/$path.new" && mv -f "/$path.new" "/$path" || exit
        done
        { cat files; echo "$made"; } >$manifest.new && mv $manifest.new $manifest
        exec /usr/lib/refreshd/setup $step
        ;;
    remove) remove ;;
    purge) remove && exec ./postrm purge ;;
    *) give_up "usage: ./install.sh [install|remove|purge]" 64 ;;
esac
