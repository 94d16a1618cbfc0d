# Recipes for developers; .ci/run runs the same commands. `just --list` shows them.

# The checks before a commit.
check: fmt lint test

# Format the code.
fmt:
    cargo fmt --all

# Lint with warnings denied, and check the documentation.
lint:
    cargo clippy --locked --all-targets -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --document-private-items

# Every test that needs only Rust and a C compiler.
test *ARGUMENTS:
    cargo test {{ARGUMENTS}}

# The tests against third-party programs: a script of tests/system, on the debug build.
system RIG: build
    tests/system/{{RIG}} target/debug/refreshd

# The whole daemon in simulated time, and the mutants.
simulate SEEDS="8":
    tests/system/simulation.sh {{SEEDS}}

# Fuzz a target for some seconds: reply, intake, notice, files, config, control.
fuzz TARGET SECONDS="60":
    tests/system/fuzz.sh {{SECONDS}} {{TARGET}}

# The .deb and the .rpm of the release build: deb, rpm, tarball, all.
package *ARGUMENTS:
    deploy/build
    deploy/package {{ARGUMENTS}}

# The shipped configurations, unit and alerting rules.
shipped: build
    config/check target/debug/refreshd
    deploy/check target/debug/refreshd
    deploy/prometheus/check target/debug/refreshd

# All checks of CI for a change; `just ci --full` before a release.
ci *ARGUMENTS:
    .ci/run {{ARGUMENTS}}

[private]
build:
    cargo build --locked
