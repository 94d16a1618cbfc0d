#!/usr/bin/env bash
# The whole daemon in simulated time: tests/system/simulation.sh [--full] [SEEDS [FIRST]], by default 8 seeds from 1.
#
# A seed is three days of twenty portals; with --full each comes with thirty days of fifty portals as well, and the first
# one with three days of two hundred. Every fault in `src/daemon/tests/plan.rs` occurs: responses of every class, lost
# responses, outages, crashes, disks, backups, clocks, reloads, operators. A failure prints its seed and the command that
# replays it.
#
# Afterwards the program is broken on purpose (tests/mutants), and the seed kept for each mutant must find it. All
# mutants are in one program, built in a copy of the tree; `REFRESHD_MUTANT` chooses one.
#
# Needs git, Rust and a C compiler. Exit code: 0, or 1 (a check failed).
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=tests/system/lib.sh
source tests/system/lib.sh

full=''
if [[ ${1-} == --full ]]; then full=1; shift; fi
readonly seeds=${1:-8} first=${2:-1}

# A time limit for the whole rig, not only for each step.
if [[ -z ${REFRESHD_RIG_BOUNDED-} ]]; then
    REFRESHD_RIG_BOUNDED=1 exec timeout --kill-after=30 $((1500 + seeds * (full ? 900 : 60))) "$0" ${full:+--full} "$@"
fi

work=$(mktemp -d) passed=0 failed=0
trap 'rm -rf "$work"' EXIT

# Optimised a little: builds fast on top of what `cargo test` has built, and runs fast enough.
export CARGO_PROFILE_DEV_OPT_LEVEL=1

# program DIRECTORY: builds the tests there and prints the program's path.
program() {
    (cd "$1" && cargo test --lib --no-run --message-format=json 2>"$work/build.log") \
        | grep -o '"executable":"[^"]*/deps/refreshd-[^"]*"' | tail -1 | cut -d'"' -f4 || true
}

# simulate PROGRAM ASKED [MUTANT]
simulate() {
    REFRESHD_SIMULATE=$2 REFRESHD_MUTANT=${3-} RUST_BACKTRACE=0 "$1" daemon::tests::simulation --exact --nocapture
}
export -f simulate

printf -- '--- %d seeds of 3 days and 20 portals%s\n' "$seeds" "${full:+, as many of 30 days and 50, and 3 days of 200}"
simulator=$(program .)
[[ -n $simulator ]] || { cat "$work/build.log"; exit 1; }
cases() {
    if [[ -n $full ]]; then
        seq -f 'seed=%.0f days=30 portals=50' "$first" $((first + seeds - 1))
        echo "seed=$first days=3 portals=200"
    fi
    seq -f 'seed=%.0f days=3 portals=20' "$first" $((first + seeds - 1))
}
# Two at a time.
if cases | xargs -P 2 -I {} bash -c 'simulate "$0" "{}" >"$1/{}" 2>&1 || { cat "$1/{}"; exit 1; }' "$simulator" "$work"; then
    pass "nothing was lost"
else
    fail "a seed found something"
fi
# The events of all seeds, added up.
sed -n 's/^seed [0-9]*: Tally { \(.*\) }/\1/p' "$work"/seed=* | sed 's/, /\n/g' \
    | awk -F ': ' '{ sum[$1] += $2 } END { for (what in sum) printf "      %10d %s\n", sum[what], what }' | sort -k 2

printf -- '\n--- broken on purpose\n'
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
mkdir "$work/tree"
cp -r Cargo.toml Cargo.lock .cargo README.md src crates config deploy docs fuzz tests benches "$work/tree"
for root in src crates/token-client/src; do cat tests/mutants/switch.txt >>"$work/tree/$root/lib.rs"; done
for mutant in tests/mutants/*.patch; do
    git -C "$work/tree" apply "$PWD/$mutant" || fail "$mutant does not apply"
done
broken=$(program "$work/tree")
[[ -n $broken ]] || { cat "$work/build.log"; fail "the mutants do not build"; exit 1; }

# of MUTANT FIELD: a field of the mutant's file.
of() { sed -n "s/^$2: //p" "tests/mutants/$1.patch"; }
export broken work
for mutant in tests/mutants/*.patch; do
    name=$(basename "$mutant" .patch)
    echo "$name $(of "$name" seed)"
done | xargs -P 2 -L 1 bash -c '
    simulate "$broken" "seed=$1 days=2 portals=10" "$0" >"$work/$0" 2>&1; echo $? >"$work/$0.status"'
for mutant in tests/mutants/*.patch; do
    name=$(basename "$mutant" .patch) seed=$(of "$(basename "$mutant" .patch)" seed)
    if (($(<"$work/$name.status") == 0)); then
        fail "$name: seed $seed does not find it"
    elif grep -q "$(of "$name" 'caught as')" "$work/$name"; then
        pass "$name: $(grep -m1 "^seed $seed: " "$work/$name" | cut -c1-160)"
    else
        tail -20 "$work/$name"
        fail "$name: seed $seed ended in another way"
    fi
done

echo "$passed passed, $failed failed"
((failed == 0))
