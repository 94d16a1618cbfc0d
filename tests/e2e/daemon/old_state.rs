//! A state that went back, as a restored backup does, is noticed before a spent token is sent; what never happens
//! without one is not taken for it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use refreshd_fake_server::{Reuse, Rules};
use rusqlite::Connection;
use rusqlite::config::DbConfig;

use crate::common::{Daemon, EVERY, LIFE, Rig, SOON, always, domain, eventually, is_step};

/// A server that ends a grant when a spent token comes again.
fn vengeful() -> Rules {
    Rules {
        token_lifetime: Duration::from_secs(60),
        reuse: Reuse::RevokeFamily,
        ..Rules::default()
    }
}

fn remove_state(rig: &Rig) {
    for file in ["state.db", "state.db-wal", "state.db-shm"] {
        let _ = fs::remove_file(rig.path(file));
    }
}

/// A rig that was stopped, and whose state then went back to generation 2; readers have had generation 3.
fn gone_back(rules: Rules) -> Rig {
    let mut rig = Rig::with_rules(["acme", "globex"], rules);
    rig.config.app().renew_every = EVERY;
    rig.grant("acme");
    let daemon = rig.start();
    rig.wait_for_generation("acme", 2);
    daemon.wait_for_outcome("acme", "renewed");
    daemon.stop();
    let backup = fs::read(rig.path("state.db")).expect("it was stopped");
    let daemon = rig.start();
    rig.wait_for_generation("acme", 3);
    daemon.stop();
    remove_state(&rig);
    rig.secret_bytes("state.db", &backup);
    rig
}

fn told_of_an_old_state(daemon: &Daemon) -> usize {
    daemon.events(|event| is_step(event, "old-state")).len()
}

/// What is left of the time after the backup: notes beside the state, token.json, any token file.
#[track_caller]
fn notices(notes: bool, json: bool, files: bool) {
    let rig = gone_back(vengeful());
    let sent = rig.requests("acme");
    if !notes {
        fs::remove_file(rig.path("state.db.generations")).expect("it was there");
    }
    if !json {
        fs::remove_file(rig.token_path("acme", "token.json")).expect("it was there");
    }
    if !files {
        fs::remove_dir_all(rig.path("tokens")).expect("it was there");
    }
    let published = rig.token_json("acme");
    let daemon = rig.start();
    let said = daemon.wait_for("a word about the state", |event| {
        is_step(event, "old-state")
    });
    assert_eq!(said["severity"], "critical");
    assert!(
        said["reason"].as_str().unwrap_or_default().contains("acme"),
        "{said}"
    );
    let told = daemon.wait_for_step("acme", "person");
    assert_eq!(told["severity"], "critical");
    let action = told["action"].as_str().unwrap_or_default();
    assert!(
        action.contains("refreshd authorize acme") && action.contains("refreshd renew acme"),
        "{told}"
    );
    if !json {
        // No token is known that readers have.
        let (code, why) = rig.http("/readyz");
        assert!(code == 503 && why.contains("1 portal is overdue"), "{why}");
        assert_eq!(rig.get_json("/v1/portals/acme")["overdue"], true);
    }
    let waits = |rig: &Rig| {
        rig.requests("acme") == sent
            && rig.token_json("acme") == published
            && (!files || rig.has_working_token("acme"))
    };
    // It was due the moment it was restored.
    always(
        "nothing is sent, readers keep the newest token",
        Duration::from_secs(3),
        || waits(&rig),
    );
    let ran = rig.run(["token", "acme", "--min-valid", "1s"]);
    assert_eq!(ran.code, Some(if json { 0 } else { 75 }), "{ran:?}");
    let ran = rig.run(["token", "acme", "--min-valid", "10h"]);
    assert!(
        ran.code == Some(75) && ran.stderr.contains("old-state"),
        "{ran:?}"
    );
    assert_eq!(rig.run(["status"]).code, Some(1));
    let ran = rig.run(["renew", "--all"]);
    assert_eq!(
        ran.code,
        Some(1),
        "which asks for none that is held, and names it: {ran:?}"
    );
    assert!(
        ran.stderr
            .contains("acme: not renewed, nothing was sent (old-state)"),
        "{ran:?}"
    );
    assert!((rig.metric("refreshd_portals{phase=\"old-state\"}") - 1.0).abs() < 0.1);
    // It stays so.
    daemon.stop();
    let daemon = rig.start();
    assert!(rig.get_json("/v1/portals/acme")["phase"] == "old-state" && waits(&rig));
    assert_eq!(told_of_an_old_state(&daemon), 0, "it is known");

    assert_eq!(rig.import("acme", &rig.install("acme")).code, Some(0));
    rig.wait_for_generation("acme", 5);
    rig.wait_for_phase("acme", "fresh");
    daemon.wait_for_step("acme", "resolved");
    assert!(rig.has_working_token("acme"));
    daemon.stop();
    let daemon = rig.start();
    rig.wait_for_renewals("acme", 1);
    assert_eq!(told_of_an_old_state(&daemon), 0);
    rig.no_violations();
}

#[test]
fn a_restored_state_is_noticed_and_its_spent_token_is_not_sent() {
    notices(true, true, true);
}

#[test]
fn it_is_noticed_by_the_token_file_alone() {
    notices(false, true, true);
}

#[test]
fn it_is_noticed_by_the_notes_beside_it_and_files_without_a_generation_are_left() {
    notices(true, false, true);
}

#[test]
fn it_is_noticed_by_the_notes_alone_as_after_a_restart_of_the_machine() {
    notices(true, false, false);
}

#[test]
fn an_operator_may_try_the_old_token_all_the_same() {
    let grace = Reuse::Grace(Duration::from_secs(600));
    let rig = gone_back(Rules {
        reuse: grace,
        ..vengeful()
    });
    let daemon = rig.start();
    daemon.wait_for_step("acme", "person");
    rig.sandbox.allow_replay(&domain("acme"));
    let ran = rig.run(["renew", "acme"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(rig.generation("acme"), 4, "after the newest that there was");
    daemon.wait_for_step("acme", "resolved");
    rig.wait_for_renewals("acme", 1);
    rig.no_violations();

    let rig = gone_back(vengeful());
    let _daemon = rig.start();
    rig.sandbox.allow_replay(&domain("acme"));
    let ran = rig.run(["renew", "acme"]);
    assert!(
        ran.code == Some(1) && ran.stderr.contains("refreshd authorize acme"),
        "{ran:?}"
    );
    rig.wait_for_phase("acme", "needs-authorization");
    rig.no_violations();
}

#[test]
fn without_a_daemon_it_is_noticed_too() {
    let rig = gone_back(vengeful());
    let sent = rig.requests("acme");
    rig.write_config();
    let ran = rig.run(["status"]);
    assert!(
        ran.code == Some(1) && ran.stdout.contains("old-state"),
        "{ran:?}"
    );
    assert_eq!(
        rig.run(["token", "acme", "--min-valid", "10h"]).code,
        Some(75)
    );
    assert_eq!((rig.requests("acme"), rig.generation("acme")), (sent, 3));
    let daemon = rig.start();
    let told = daemon.wait_for_step("acme", "person");
    assert_eq!(
        told["severity"], "critical",
        "the command had no way to say so: {told}"
    );
    rig.no_violations();
}

#[test]
fn what_happens_every_day_is_not_taken_for_a_restored_state() {
    let mut rig = Rig::with_lifetime(["acme", "globex"], LIFE);
    rig.grant("acme");
    let calm = |rig: &Rig| {
        let daemon = rig.start();
        assert_eq!(told_of_an_old_state(&daemon), 0);
        assert_ne!(rig.get_json("/v1/portals/acme")["phase"], "old-state");
        daemon
    };
    // Killed at any moment.
    for _ in 0..5 {
        let daemon = calm(&rig);
        let before = rig.generation("acme");
        let _ = rig.run(["renew", "acme"]);
        eventually("a renewal", SOON + EVERY, || {
            rig.generation("acme") > before
        });
        daemon.kill9();
    }
    // Forgotten, and given anew.
    let daemon = calm(&rig);
    assert_eq!(rig.run(["forget", "acme", "--yes"]).code, Some(0));
    assert_eq!(rig.import("acme", &rig.install("acme")).code, Some(0));
    rig.wait_for_phase("acme", "fresh");
    daemon.kill9();
    // Taken out, forgotten for good, and put in again: its count begins anew.
    let portal = rig.config.portal("acme").clone();
    rig.config.remove("acme");
    let daemon = rig.start();
    assert_eq!(rig.run(["forget", "acme", "--yes"]).code, Some(0));
    rig.config.portals.push(portal);
    rig.write_config();
    daemon.sighup();
    eventually("it is back", SOON, || {
        rig.control("GET", "/v1/portals/acme", "").0 == 200
    });
    assert_eq!(rig.import("acme", &rig.install("acme")).code, Some(0));
    eventually("its first pairs", SOON, || rig.generation("acme") == 2);
    daemon.kill9();
    let daemon = calm(&rig);
    rig.wait_for_renewals("acme", 1);
    daemon.kill9();
    // A state given up, with everything that it left outside, which `lost_state` is about: a person says so.
    remove_state(&rig);
    rig.config.portal("acme").refresh_token_file = false;
    let daemon = rig.start();
    assert_eq!(told_of_an_old_state(&daemon), 1);
    assert_eq!(rig.import("acme", &rig.install("acme")).code, Some(0));
    rig.wait_for_phase("acme", "fresh");
    daemon.kill9();
    // The record beside it given up, damaged, or not writable.
    rig.secret("state.db.generations", "acme 1\nacme\0\n\u{fffd}\nacme 2");
    let daemon = calm(&rig);
    daemon.wait_for("the damage", |event| {
        let damage = "state.db.generations is damaged (2 lines of it cannot be read)";
        event["message"]
            .as_str()
            .is_some_and(|text| text.contains(damage))
    });
    daemon.stop();
    let noted = fs::read_to_string(rig.path("state.db.generations")).unwrap();
    assert!(
        noted.contains("\nacme ") && !noted.contains(['\0', '\u{fffd}']),
        "{noted}"
    );
    fs::remove_file(rig.path("state.db.generations")).unwrap();
    fs::create_dir(rig.path("state.db.generations")).unwrap();
    let daemon = calm(&rig);
    rig.wait_for_renewals("acme", 1);
    daemon.stop();
    rig.no_violations();
}

#[test]
fn the_state_of_a_newer_version_is_left_untouched_with_its_log() {
    let mut rig = Rig::new(["acme"]);
    rig.grant("acme");
    let daemon = rig.start();
    daemon.wait_for_outcome("acme", "renewed");
    daemon.stop();
    let connection = Connection::open(rig.path("state.db")).unwrap();
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
        .unwrap();
    connection
        .execute_batch("ALTER TABLE portal ADD COLUMN later TEXT; PRAGMA user_version = 99")
        .unwrap();
    drop(connection);
    let bytes = |name: &str| fs::read(rig.path(Path::new(name))).unwrap();
    let before = [
        "state.db",
        "state.db-wal",
        "state.db.generations",
        "tokens/acme/token.json",
    ]
    .map(bytes);
    assert!(before[1].len() > 4096, "the version is in the log alone");
    let sent = rig.sandbox.total_requests();
    for command in [
        &["run"][..],
        &["status"],
        &["renew", "acme"],
        &["forget", "acme", "--yes"],
    ] {
        let ran = rig.run(command.iter().copied());
        assert!(
            ran.code == Some(78) && ran.stderr.contains("version 99"),
            "{command:?}: {ran:?}"
        );
        let after = [
            "state.db",
            "state.db-wal",
            "state.db.generations",
            "tokens/acme/token.json",
        ]
        .map(bytes);
        assert!(after == before, "{command:?} changed something");
    }
    assert_eq!(rig.sandbox.total_requests(), sent);
    rig.no_violations();
}
