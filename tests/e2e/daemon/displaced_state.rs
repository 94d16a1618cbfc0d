//! The state's files are removed, moved or replaced under a running daemon: it reports that, starts no request and loses nothing.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::common::{Daemon, EVERY, Rig, SOON, always, eventually, is_step, message_contains};

/// Two portals that have been renewed.
fn renewed() -> (Rig, Daemon) {
    let mut rig = Rig::new(["acme", "globex"]);
    for portal in ["acme", "globex"] {
        rig.grant(portal);
    }
    let daemon = rig.start();
    for portal in ["acme", "globex"] {
        rig.wait_for_generation(portal, 2);
    }
    (rig, daemon)
}

/// Waits for a step of the daemon itself.
#[track_caller]
fn step(daemon: &Daemon, step: &str) -> Value {
    daemon.wait_for(step, |event| is_step(event, step))
}

#[expect(
    clippy::disallowed_methods,
    reason = "simulates another process that changes the files"
)]
fn rename(from: PathBuf, to: PathBuf) {
    fs::rename(from, to).expect("one file system");
}

fn remove(rig: &Rig, files: &[&str]) {
    for file in files {
        fs::remove_file(rig.path(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    }
}

/// Asserts that the state under its own name is the daemon's, and that a restart continues from there.
#[track_caller]
fn nothing_is_lost(rig: &Rig, daemon: Daemon) {
    for portal in ["acme", "globex"] {
        rig.wait_for_renewals(portal, 1);
    }
    daemon.stop();
    let before = ["acme", "globex"].map(|portal| rig.generation(portal));
    let daemon = rig.start();
    assert!(
        daemon
            .events(|event| is_step(event, "old-state"))
            .is_empty(),
        "a grant is missing"
    );
    for (portal, before) in ["acme", "globex"].into_iter().zip(before) {
        rig.wait_for_generation(portal, before + 1);
        assert!(rig.has_working_token(portal), "{portal}");
    }
    daemon.stop();
    assert!(
        !rig.path("state.db.rescued").exists(),
        "nothing is left beside"
    );
    rig.no_violations();
}

/// Removes these files: the removal is reported, and they are written again.
#[track_caller]
fn is_written_back(files: &[&str]) {
    let (rig, daemon) = renewed();
    remove(&rig, files);
    let event = step(&daemon, "state-displaced");
    assert_eq!(event["severity"], "critical", "{event}");
    assert!(
        event["reason"]
            .as_str()
            .is_some_and(|reason| reason.contains("was removed")),
        "{event}"
    );
    assert!(
        rig.http("/readyz").1.contains("was removed"),
        "{:?}",
        rig.http("/readyz")
    );
    step(&daemon, "state-written-back");
    eventually("ready again", SOON, || rig.http("/readyz").0 == 200);
    nothing_is_lost(&rig, daemon);
}

#[test]
fn removed_database_is_reported_and_rewritten() {
    is_written_back(&["state.db"]);
}

#[test]
fn removed_wal_is_reported_and_rewritten() {
    is_written_back(&["state.db-wal"]);
}

#[test]
fn removed_state_directory_files_are_rewritten() {
    is_written_back(&["state.db", "state.db-wal", "state.db.generations"]);
}

/// Damages the record of generations: the damage is reported, and the record is complete again without a renewal.
#[track_caller]
fn record_comes_back(what: &str, spoil: impl FnOnce(&Rig)) {
    let (rig, daemon) = renewed();
    spoil(&rig);
    daemon.wait_for("the report", |event| {
        event["level"] == "WARN"
            && message_contains(event, &format!("was {what} by another program"))
    });
    let text = fs::read_to_string(rig.path("state.db.generations")).expect("the record");
    for portal in ["acme", "globex"] {
        let newest = text
            .lines()
            .filter_map(|line| line.strip_prefix(portal)?.trim().parse::<u64>().ok())
            .next_back();
        assert!(newest.is_some_and(|newest| newest >= 2), "{text}");
    }
    // The next generation is recorded where a start reads it.
    let before = rig.generation("acme");
    rig.wait_for_generation("acme", before + 1);
    let next = format!("acme {}", before + 1);
    eventually("the next one is recorded", SOON, || {
        fs::read_to_string(rig.path("state.db.generations"))
            .is_ok_and(|text| text.lines().any(|line| line == next))
    });
    nothing_is_lost(&rig, daemon);
}

#[test]
fn removed_record_of_generations_is_rewritten() {
    record_comes_back("removed", |rig| remove(rig, &["state.db.generations"]));
}

#[test]
fn replaced_record_of_generations_is_rewritten() {
    record_comes_back("replaced", |rig| {
        rig.secret("state.db.generations", "acme 1\n");
    });
}

#[test]
fn truncated_record_of_generations_is_rewritten() {
    record_comes_back("cut off", |rig| {
        fs::OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(rig.path("state.db.generations"))
            .unwrap();
    });
}

#[test]
fn empty_file_in_place_of_the_state_is_not_a_state() {
    let (rig, daemon) = renewed();
    remove(&rig, &["state.db"]);
    rig.secret("empty", "");
    rename(rig.path("empty"), rig.path("state.db"));
    step(&daemon, "state-written-back");
    eventually("ready again", SOON, || rig.http("/readyz").0 == 200);
    nothing_is_lost(&rig, daemon);
}

#[test]
fn state_removed_just_before_shutdown_is_rewritten() {
    let (rig, daemon) = renewed();
    remove(&rig, &["state.db", "state.db-wal"]);
    daemon.stop();
    let daemon = rig.start();
    assert!(
        daemon
            .events(|event| is_step(event, "old-state"))
            .is_empty(),
        "a grant is missing"
    );
    nothing_is_lost(&rig, daemon);
}

/// Asserts that nothing is claimed or accepted, and that the page says what to do.
#[track_caller]
fn is_halted(rig: &Rig, daemon: &Daemon, words: &str) {
    step(daemon, "state-displaced");
    let (code, text) = rig.http("/readyz");
    assert!(code == 503 && text.contains(words), "{code} {text}");
    // A request sent before the replacement was detected.
    eventually("nothing under way", SOON, || {
        rig.http("/metrics")
            .1
            .contains("refreshd_claims_in_doubt 0")
    });
    let sent = rig.server.total_requests();
    always("nothing is sent", EVERY + EVERY / 2, || {
        rig.server.total_requests() == sent
    });
    let ran = rig.import("acme", &rig.install("acme"));
    assert!(
        ran.code == Some(69) && ran.stderr.contains(words),
        "{ran:?}"
    );
    assert_eq!(rig.http("/livez").0, 200);
}

#[test]
fn older_state_in_its_place_is_never_overwritten() {
    let (rig, daemon) = renewed();
    daemon.stop();
    let older = fs::read(rig.path("state.db")).expect("a state");
    let daemon = rig.start();
    for portal in ["acme", "globex"] {
        rig.wait_for_generation(portal, 3);
    }
    rig.secret_bytes("older", &older);
    rename(rig.path("older"), rig.path("state.db"));
    is_halted(&rig, &daemon, "replaced by another file");
    assert_eq!(fs::read(rig.path("state.db")).expect("a state"), older);
    // The foreign file is removed again.
    remove(&rig, &["state.db"]);
    step(&daemon, "state-written-back");
    nothing_is_lost(&rig, daemon);
}

#[test]
fn returned_state_is_used_after_a_restart() {
    let (rig, daemon) = renewed();
    daemon.stop();
    let missing = fs::read(rig.path("state.db")).expect("a state");
    remove(&rig, &["state.db"]);
    let daemon = rig.start();
    step(&daemon, "old-state");
    rig.secret_bytes("missing", &missing);
    rename(rig.path("missing"), rig.path("state.db"));
    let event = step(&daemon, "state-displaced");
    assert!(
        event["reason"].as_str().is_some_and(
            |reason| reason.contains("Restart refreshd") && reason.contains("remove nothing")
        ),
        "{event}"
    );
    daemon.stop();
    assert_eq!(fs::read(rig.path("state.db")).expect("a state"), missing);
    assert!(!rig.path("state.db.rescued").exists());
    let daemon = rig.start();
    nothing_is_lost(&rig, daemon);
}

#[test]
fn pairs_survive_the_daemon_beside_an_older_state() {
    let (rig, daemon) = renewed();
    daemon.stop();
    let older = fs::read(rig.path("state.db")).expect("a state");
    let daemon = rig.start();
    for portal in ["acme", "globex"] {
        rig.wait_for_generation(portal, 3);
    }
    rig.secret_bytes("older", &older);
    rename(rig.path("older"), rig.path("state.db"));
    step(&daemon, "state-displaced");
    daemon.stop();
    let daemon = rig.start();
    let event = step(&daemon, "old-state");
    assert_eq!(event["severity"], "critical");
    daemon.stop();
    remove(&rig, &["state.db", "state.db-wal"]);
    rename(rig.path("state.db.rescued"), rig.path("state.db"));
    let daemon = rig.start();
    nothing_is_lost(&rig, daemon);
}

#[test]
fn directory_in_place_of_the_state_and_moved_state_reported() {
    let (rig, daemon) = renewed();
    rename(rig.path("state.db"), rig.path("aside.db"));
    is_halted(&rig, &daemon, "aside.db now: move it back");
    rename(rig.path("aside.db"), rig.path("state.db"));
    daemon.wait_for("the end of it", |event| {
        event["reason"]
            .as_str()
            .is_some_and(|reason| reason.contains("in its place again"))
    });
    remove(&rig, &["state.db"]);
    fs::create_dir(rig.path("state.db")).expect("a directory");
    eventually("the report", SOON, || {
        daemon
            .events(|event: &Value| is_step(event, "state-displaced"))
            .len()
            >= 2
    });
    assert!(
        rig.http("/readyz").1.contains("replaced by a directory"),
        "{:?}",
        rig.http("/readyz")
    );
    fs::remove_dir(rig.path("state.db")).expect("it is empty");
    step(&daemon, "state-written-back");
    nothing_is_lost(&rig, daemon);
}
