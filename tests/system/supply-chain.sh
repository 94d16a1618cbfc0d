#!/usr/bin/env bash
# The content of the binary and its known advisories: tests/system/supply-chain.sh [BINARY], by default target/release/refreshd.
#
# deploy/advisories and deploy/sbom are run on inputs that must fail, and the binary is searched for the paths of this
# machine and for the list of its crates. Needs no network. Exit code: 0, 1 (a check failed).
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
# shellcheck source=tests/system/lib.sh
source tests/system/lib.sh

binary=${1:-target/release/refreshd}
[[ -x $binary ]] || { echo "tests/system/supply-chain.sh: no executable at $binary; build it with deploy/build, or name it" >&2; exit 66; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# check WHAT COMMAND...: prints the output if it fails.
check() {
    local what=$1
    shift
    if "$@" >"$work/output" 2>&1; then pass "$what"; else fail "$what"; sed 's/^/      /' "$work/output" | head -20; fi
}

# lock NAME VERSION...: a Cargo.lock of these crates.
lock() {
    while (($#)); do
        printf '[[package]]\nname = "%s"\nversion = "%s"\nsource = "registry+https://github.com/rust-lang/crates.io-index"\n\n' \
            "$1" "$2"
        shift 2
    done
}

# judged STATUS TEXT NAME VERSION...: the result of deploy/advisories for such a Cargo.lock.
judged() {
    local status=$1 text=$2 found=0
    shift 2
    lock "$@" >"$work/Cargo.lock"
    deploy/advisories "$work/Cargo.lock" >"$work/verdict" 2>&1 || found=$?
    cat "$work/verdict"
    [[ $found == "$status" ]] && grep -qF "$text" "$work/verdict"
}

echo "--- advisories"
check "Cargo.lock has no known vulnerability" deploy/advisories
# rustls: RUSTSEC-2024-0336, patched in 0.23.5 and later, 0.22.4 up to 0.23, 0.21.11 up to 0.22.
check "a vulnerable version fails and is named" judged 1 'rustls 0.23.4: RUSTSEC-2024-0336' rustls 0.23.4
check "so does one between two patched ranges" judged 1 'RUSTSEC-2024-0336' rustls 0.22.3
check "the lower end of a patched range is safe of it" judged 0 '0 failed' hyper 1.12.0 bytes 1.11.1
check "a patched older line is safe" judged 0 '0 failed' tokio 1.53.0
check "the version before a patch is not: unsound counts" judged 1 'tokio 1.44.1: RUSTSEC-2025-0023 (unsound)' tokio 1.44.1
check "a pre-release of the patched version is not patched" judged 1 'RUSTSEC-2025-0023' tokio 1.44.2-rc.1
check "one of two versions of a crate is enough" judged 1 'tokio 1.44.1' tokio 1.53.0 tokio 1.44.1
check "a crate that was not looked up fails" judged 1 'no-such-crate 1.0.0 is new' no-such-crate 1.0.0

# a database of one repository, as rustsec/advisory-db is
database() {
    mkdir -p "$work/db/crates/tokio" && git -C "$work/db" init -q || return
    printf '```toml\n[advisory]\nid = "RUSTSEC-2099-0001"\npackage = "tokio"\n\n[versions]\npatched = ["^2.1"]\nunaffected = ["< 1.0"]\n```\n\n# A sentence\n' \
        >"$work/db/crates/tokio/RUSTSEC-2099-0001.md"
    printf '```toml\n[advisory]\nid = "RUSTSEC-2099-0002"\npackage = "tokio"\nwithdrawn = "2099-01-01"\n\n[versions]\npatched = []\n```\n' \
        >"$work/db/crates/tokio/RUSTSEC-2099-0002.md"
    git -C "$work/db" add . \
        && git -C "$work/db" -c user.name=rig -c user.email=rig@localhost -c commit.gpgsign=false \
            commit -q --date=2001-01-01T00:00:00Z -m advisories || return
    # A copy of the program with its own snapshot.
    mkdir -p "$work/copy/deploy" && cp deploy/advisories "$work/copy/deploy" && cp Cargo.lock "$work/copy" || return
}
updates() {
    GIT_COMMITTER_DATE=2001-01-01T00:00:00Z database && "$work/copy/deploy/advisories" update "$work/db" || return
    cat "$work/copy/deploy/advisories.toml"
    grep -qF 'RUSTSEC-2099-0001' "$work/copy/deploy/advisories.toml" \
        && ! grep -q 'RUSTSEC-2099-0002\|sentence' "$work/copy/deploy/advisories.toml"
}
old() {
    lock tokio "$1" >"$work/Cargo.lock"
    local status=0
    "$work/copy/deploy/advisories" "$work/Cargo.lock" >"$work/verdict" || status=$?
    cat "$work/verdict"
    [[ $status == "$2" ]] && grep -q '^WARN  the advisories are [0-9]* days old' "$work/verdict"
}
export GIT_COMMITTER_DATE=2001-01-01T00:00:00Z
check "update takes identifiers, no sentence and nothing withdrawn" updates
check "an old snapshot is a warning" old 2.1.7 0
check "and still finds what it knows" old 1.0.0 1
check "^2.1 does not hold 3.0" old 3.0.0 1
check "nor what was never affected" old 0.9.0 0
unset GIT_COMMITTER_DATE

echo "--- bill of materials"
check "it is made from Cargo.lock" bash -c 'deploy/sbom >"$0"' "$work/sbom.json"
check "it has names, versions, licences, checksums and package URLs" deploy/sbom check "$work/sbom.json"
check "it is the same again" bash -c 'deploy/sbom | cmp - "$0"' "$work/sbom.json"
# spoiled WHAT PYTHON: the document with this done to it as `b` must be refused.
spoiled() {
    check "refused: $1" bash -c 'python3 -c "import json,sys
b=json.load(open(sys.argv[1])); c=b[\"components\"]
$1
json.dump(b,open(sys.argv[2],\"w\"))" "$0/sbom.json" "$0/spoiled.json" && ! deploy/sbom check "$0/spoiled.json"' "$work" "$2"
}
spoiled "a crate is missing" 'c.pop(5)'
spoiled "a crate has another version" 'c[5]["version"] = "0.0.1"'
spoiled "a crate has no licence" 'del c[5]["licenses"]'
spoiled "a crate has another checksum" 'c[5]["hashes"][0]["content"] = "00"'
spoiled "a crate has no package URL" 'del c[5]["purl"]'
spoiled "the C library of a crate is missing" 'b["components"] = [it for it in c if it["name"] != "sqlite"]'
spoiled "a crate is listed without a dependent" 'b["dependencies"] = []'

echo "--- binary"
# no_path PATH: at least as a directory, since /root is a word elsewhere, too.
no_path() { ! grep -aoE "$(sed 's/[][\.*^$+?(){}|]/\\&/g' <<<"${1%/}")/[[:print:]]{0,60}" "$binary"; }
check "no path of the checkout" no_path "$PWD"
check "no path of the home directory" no_path "${HOME:-/root}"
check "no path of cargo" no_path "${CARGO_HOME:-${HOME:-/root}/.cargo}"

# Every crate of the bill of materials is in .dep-v0. It may hold more: it is made from `cargo metadata`, which includes
# features that only tests enable. All of it is in Cargo.lock.
crates() {
    objcopy --dump-section .dep-v0="$work/dep" "$binary" /dev/null 2>/dev/null && [[ -s $work/dep ]] \
        || { echo "there is no section .dep-v0: it was built without cargo-auditable"; return 1; }
    python3 - "$work" <<'END'
import json, sys, tomllib, zlib
work = sys.argv[1]
inside = json.loads(zlib.decompress(open(f"{work}/dep", "rb").read()))["packages"]
inside = {(it["name"], it["version"]) for it in inside}
bom = json.load(open(f"{work}/sbom.json"))
parts = [bom["metadata"]["component"], *bom["components"]]
listed = {(it["name"], it["version"]) for it in parts if it["purl"].startswith("pkg:cargo/")}
locked = {(it["name"], it["version"]) for it in tomllib.load(open("Cargo.lock", "rb"))["package"]}
print(f"{len(inside)} in the binary, {len(listed)} listed")
print(f"not in the binary: {sorted(listed - inside)}; not in Cargo.lock: {sorted(inside - locked)}")
sys.exit(0 if listed <= inside <= locked else 1)
END
}
if cargo auditable --version >/dev/null 2>&1; then
    check "every crate of the bill of materials is in .dep-v0" crates
else
    echo "skip  the section .dep-v0: cargo-auditable is not installed"
fi

printf '\ntests/system/supply-chain.sh: %d passed, %d failed\n' "$passed" "$failed"
((failed == 0))
