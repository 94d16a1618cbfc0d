//! What fuzzing has found, and what people wrote by hand for it, on the toolchain of the program: each input of
//! `fuzz/corpus` holds what `fuzz/src` says. New inputs come from `tests/system/fuzz.sh`.
//!
//! An input that fails names its file. Must not look for new inputs.

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
fn no_reply_does_harm() {
    replay("reply", fuzz::reply::holds);
}

#[test]
fn nothing_handed_over_does_harm() {
    replay("intake", fuzz::intake::holds);
}

#[test]
fn no_notice_of_an_install_does_harm() {
    replay("notice", fuzz::notice::holds);
}

#[test]
fn every_form_of_the_token_files_says_the_same() {
    replay("files", fuzz::files::holds);
}

#[test]
fn no_configuration_does_harm() {
    replay("config", fuzz::config::holds);
}

#[test]
fn no_request_to_the_control_socket_does_harm() {
    let daemon = fuzz::control::Daemon::start();
    replay("control", |input| daemon.holds(input));
}
