#!/usr/bin/env bash
# Fuzzes the parsers of untrusted input: tests/system/fuzz.sh [SECONDS [TARGET...]], by default 10 seconds for each target.
# tests/system/fuzz.sh keep [TARGET...] copies into fuzz/corpus what earlier runs found and adds coverage.
#
# libFuzzer, by cargo-fuzz, on the nightly toolchain and without sanitizers: the program has no unsafe code, so the fuzzer
# looks for panics, overflows and violated properties of fuzz/src. It begins with the corpus and the findings of earlier
# runs on this machine (target/fuzz/work).
#
# Needs a nightly toolchain and a C++ compiler (installs the latter). Exit code: 0, 1 (something was found), 77 (cannot
# run here).
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=tests/system/lib.sh
source tests/system/lib.sh

all=(reply intake notice files config control)
seconds=10 keep=''
if [[ ${1-} == keep ]]; then keep=yes; shift; elif [[ ${1-} =~ ^[0-9]+$ ]]; then seconds=$1; shift; fi
targets=("${@:-${all[@]}}")

# A time limit for the whole rig, not only for each step. KILL, since the daemon under test handles TERM itself.
if [[ -z ${REFRESHD_RIG_BOUNDED-} ]]; then
    export REFRESHD_RIG_BOUNDED=1
    arguments=("$seconds")
    [[ -z $keep ]] || arguments=(keep)
    exec timeout --signal=KILL $((1500 + ${#targets[@]} * (seconds + 180))) "$0" "${arguments[@]}" "${targets[@]}"
fi

readonly triple=x86_64-unknown-linux-gnu
readonly home=$PWD/target/fuzz corpus=fuzz/corpus
export CARGO_TARGET_DIR=$home

# Folders of the targets are removed with this one, however they end. In memory: there are thousands a second.
TMPDIR=$(mktemp -d -p /dev/shm 2>/dev/null || mktemp -d)
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT

tools() {
    [[ $(uname -m) == x86_64 ]] || give_up "only on x86_64" 77
    cargo +nightly --version >/dev/null 2>&1 || give_up "no nightly toolchain (rustup toolchain install nightly)" 77
    command -v c++ >/dev/null && return
    local as_root=()
    ((EUID == 0)) || as_root=(sudo -n)
    "${as_root[@]}" apt-get update -qq \
        && DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq --no-install-recommends g++ \
            >/dev/null || true
    command -v c++ >/dev/null || give_up "c++ is not installed and cannot be" 77
}

# Equivalent to `cargo fuzz build --sanitizer none`. With a named target, build scripts are left alone.
build() {
    local flag flags=(-Cpasses=sancov-module)
    for flag in level=4 inline-8bit-counters pc-table trace-compares; do
        flags+=("-Cllvm-args=-sanitizer-coverage-$flag")
    done
    flags+=(--cfg fuzzing)
    # For seconds of fuzzing, building dominates.
    if ((seconds < 60)) && [[ -z $keep ]]; then export CARGO_PROFILE_RELEASE_OPT_LEVEL=0; fi
    RUSTFLAGS="${flags[*]}" cargo +nightly build --quiet --locked --release --target "$triple" \
        --manifest-path fuzz/Cargo.toml
}

# run TARGET: prints its result in one line, or everything known about a failure.
run() {
    local target=$1 work=$home/work/$1 found=$home/found/$1 log=$home/$1.log status=0
    mkdir -p "$work" "$found"
    timeout --signal=KILL $((seconds + 170)) "$home/$triple/release/$target" "$work" "$corpus/$target" \
        -dict="fuzz/dictionaries/$target" -max_total_time="$seconds" -timeout=25 -rss_limit_mb=4096 \
        -artifact_prefix="$found/" -print_final_stats=1 -verbosity=1 >"$log" 2>&1 || status=$?
    local executions coverage
    executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    coverage=$(grep -oE 'cov: [0-9]+ ft: [0-9]+ corp: [0-9]+' "$log" | tail -n 1)
    if ((status == 0)); then
        echo "PASS  $target: ${executions:-?} executions in $seconds s, ${coverage:-no coverage}"
        return
    fi
    echo "FAIL  $target (exit code $status), after ${coverage:-nothing}"
    grep -vE '^(#[0-9]+|\s*(NEW|REDUCE|pulse))' "$log" | tail -n 40
    echo "      Mend it, then keep the input in $corpus/$target: tests/corpus.rs replays it ever after."
    return 1
}

take_over() {
    local target before after
    for target in "${targets[@]}"; do
        mkdir -p "$home/work/$target"
        before=$(find "$corpus/$target" -type f | wc -l)
        # Few inputs: each is replayed by every `cargo test`.
        "$home/$triple/release/$target" -merge=1 -use_counters=0 \
            "$corpus/$target" "$home/work/$target" >"$home/$target.log" 2>&1 || {
            tail -n 40 "$home/$target.log"
            give_up "$target cannot be merged"
        }
        after=$(find "$corpus/$target" -type f | wc -l)
        echo "$target: $before inputs before, $after after, $(du -sb "$corpus/$target" | cut -f 1) bytes"
    done
}

tools
echo "building; $(cargo +nightly --version)"
build
echo "built after $SECONDS s"
if [[ -n $keep ]]; then take_over; exit; fi

# As many at once as there are cores.
export -f run
export home corpus triple seconds
printf '%s\n' "${targets[@]}" | xargs -P "$(nproc)" -I{} bash -c 'run "$1"' _ {} || exit 1
