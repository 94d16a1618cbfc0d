//! A state that went back, as a restored backup does, is detected before a spent token is sent; everyday events are not taken
//! for that.

use std::fs;
use std::path::Path;
use std::time::Duration;

use refreshd_fake_server::{Reuse, Rules};
use rusqlite::Connection;
use rusqlite::config::DbConfig;

use crate::common::{Daemon, EVERY, LIFE, Rig, SOON, always, domain, eventually, is_step};

/// A server that ends a grant when a spent token is sent again.
fn revoking() -> Rules {
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

/// A rig whose state went back to generation 2 while stopped; generation 3 was published.
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

fn rollback_reports(daemon: &Daemon) -> usize {
    daemon.events(|event| is_step(event, "old-state")).len()
}

/// Traces of the time after the backup: the record beside the state, token.json, any token file.
#[track_caller]
fn is_detected_by(notes: bool, json: bool, files: bool) {
    let rig = gone_back(revoking());
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
    let event = daemon.wait_for("the report about the state", |event| {
        is_step(event, "old-state")
    });
    assert_eq!(event["severity"], "critical");
    assert!(
        event["reason"]
            .as_str()
            .unwrap_or_default()
            .contains("acme"),
        "{event}"
    );
    let event = daemon.wait_for_step("acme", "person");
    assert_eq!(event["severity"], "critical");
    let action = event["action"].as_str().unwrap_or_default();
    assert!(
        action.contains("refreshd authorize acme") && action.contains("refreshd renew acme"),
        "{event}"
    );
    if !json {
        // No published token is known.
        let (code, why) = rig.http("/readyz");
        assert!(code == 503 && why.contains("1 portal is overdue"), "{why}");
        assert_eq!(rig.get_json("/v1/portals/acme")["overdue"], true);
    }
    let waits = |rig: &Rig| {
        rig.requests("acme") == sent
            && rig.token_json("acme") == published
            && (!files || rig.has_working_token("acme"))
    };
    // It is due as soon as it is restored.
    always(
        "nothing is sent, the newest token stays published",
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
        "which skips the held portal and names it: {ran:?}"
    );
    assert!(
        ran.stderr
            .contains("acme: not renewed, nothing was sent (old-state)"),
        "{ran:?}"
    );
    assert!((rig.metric("refreshd_portals{phase=\"old-state\"}") - 1.0).abs() < 0.1);
    // A restart changes nothing.
    daemon.stop();
    let daemon = rig.start();
    assert!(rig.get_json("/v1/portals/acme")["phase"] == "old-state" && waits(&rig));
    assert_eq!(rollback_reports(&daemon), 0, "it is known");

    assert_eq!(rig.import("acme", &rig.install("acme")).code, Some(0));
    rig.wait_for_generation("acme", 5);
    rig.wait_for_phase("acme", "fresh");
    daemon.wait_for_step("acme", "resolved");
    assert!(rig.has_working_token("acme"));
    daemon.stop();
    let daemon = rig.start();
    rig.wait_for_renewals("acme", 1);
    assert_eq!(rollback_reports(&daemon), 0);
    rig.no_violations();
}

#[test]
fn restored_state_is_detected_and_sends_no_spent_token() {
    is_detected_by(true, true, true);
}

#[test]
fn detected_by_the_token_file_alone() {
    is_detected_by(false, true, true);
}

#[test]
fn detected_by_the_record_though_files_lack_generations() {
    is_detected_by(true, false, true);
}

#[test]
fn detected_by_the_record_alone_as_after_a_reboot() {
    is_detected_by(true, false, false);
}

#[test]
fn operator_can_try_the_old_token() {
    let grace = Reuse::Grace(Duration::from_secs(600));
    let rig = gone_back(Rules {
        reuse: grace,
        ..revoking()
    });
    let daemon = rig.start();
    daemon.wait_for_step("acme", "person");
    rig.server.allow_replay(&domain("acme"));
    let ran = rig.run(["renew", "acme"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(rig.generation("acme"), 4, "after the newest that there was");
    daemon.wait_for_step("acme", "resolved");
    rig.wait_for_renewals("acme", 1);
    rig.no_violations();

    let rig = gone_back(revoking());
    let _daemon = rig.start();
    rig.server.allow_replay(&domain("acme"));
    let ran = rig.run(["renew", "acme"]);
    assert!(
        ran.code == Some(1) && ran.stderr.contains("refreshd authorize acme"),
        "{ran:?}"
    );
    rig.wait_for_phase("acme", "needs-authorization");
    rig.no_violations();
}

#[test]
fn detected_without_a_daemon() {
    let rig = gone_back(revoking());
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
    let event = daemon.wait_for_step("acme", "person");
    assert_eq!(
        event["severity"], "critical",
        "the command could not log it: {event}"
    );
    rig.no_violations();
}

#[test]
fn everyday_events_are_not_taken_for_a_restored_state() {
    let mut rig = Rig::with_lifetime(["acme", "globex"], LIFE);
    rig.grant("acme");
    let calm = |rig: &Rig| {
        let daemon = rig.start();
        assert_eq!(rollback_reports(&daemon), 0);
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
    // Forgotten and imported again.
    let daemon = calm(&rig);
    assert_eq!(rig.run(["forget", "acme", "--yes"]).code, Some(0));
    assert_eq!(rig.import("acme", &rig.install("acme")).code, Some(0));
    rig.wait_for_phase("acme", "fresh");
    daemon.kill9();
    // Removed, forgotten and added again: its count restarts.
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
    // A state that is given up, with all its traces, as in `lost_state`: the operator confirms it.
    remove_state(&rig);
    rig.config.portal("acme").refresh_token_file = false;
    let daemon = rig.start();
    assert_eq!(rollback_reports(&daemon), 1);
    assert_eq!(rig.import("acme", &rig.install("acme")).code, Some(0));
    rig.wait_for_phase("acme", "fresh");
    daemon.kill9();
    // The record is removed, damaged or not writable.
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
fn newer_state_and_its_wal_are_left_untouched() {
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
    let sent = rig.server.total_requests();
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
    assert_eq!(rig.server.total_requests(), sent);
    rig.no_violations();
}
