//! Runs the fuzzing corpus, found inputs and hand-written ones, with the toolchain of the program: each input of
//! `fuzz/corpus` must satisfy the checks in `fuzz/src`. New inputs come from `tests/system/fuzz.sh`.
//!
//! A failure names the input's file. Must not look for new inputs.

#[path = "../fuzz/src/lib.rs"]
mod fuzz;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

#[track_caller]
fn replay(target: &str, holds: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let mut inputs: Vec<_> = (fs::read_dir(&folder).expect("the corpus is there"))
        .map(|entry| entry.expect("the corpus can be read").path())
        .collect();
    inputs.sort();
    assert!(
        inputs.len() > 10,
        "the corpus of {target} has {} inputs",
        inputs.len()
    );
    let failed: Vec<_> = (inputs.iter())
        .filter(|path| {
            let input = fs::read(path).expect("an input can be read");
            catch_unwind(AssertUnwindSafe(|| holds(&input))).is_err()
        })
        .collect();
    assert!(failed.is_empty(), "does not hold for {failed:#?}");
}

#[test]
fn any_token_response_is_handled() {
    replay("reply", fuzz::reply::holds);
}

#[test]
fn any_import_input_is_handled() {
    replay("intake", fuzz::intake::holds);
}

#[test]
fn any_install_event_is_handled() {
    replay("notice", fuzz::notice::holds);
}

#[test]
fn all_token_file_formats_agree() {
    replay("files", fuzz::files::holds);
}

#[test]
fn any_configuration_is_handled() {
    replay("config", fuzz::config::holds);
}

#[test]
fn any_control_request_is_handled() {
    let daemon = fuzz::control::Daemon::start();
    replay("control", |input| daemon.holds(input));
}
