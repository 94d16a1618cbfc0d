//! A start without the state: traces outside it prove that there were grants, and no spent token is sent.

use std::fs;
use std::time::Duration;

use refreshd_fake_server::{Reuse, Rules};

use crate::common::{EVERY, Rig, SOON, always, eventually, is_step};

pub const FILES: [&str; 3] = ["state.db", "state.db-wal", "state.db-shm"];

/// Three portals, two of them renewed, at a server that ends a grant when a spent token is sent again.
pub fn renewed() -> Rig {
    let reuse = Reuse::RevokeFamily;
    let rules = Rules {
        token_lifetime: Duration::from_secs(60),
        reuse,
        ..Rules::default()
    };
    let mut rig = Rig::with_rules(["acme", "globex", "hooli"], rules);
    rig.config.app().renew_every = EVERY;
    for portal in ["acme", "globex"] {
        rig.grant(portal);
    }
    let daemon = rig.start();
    for portal in ["acme", "globex"] {
        rig.wait_for_generation(portal, 3);
    }
    daemon.stop();
    rig
}

/// Removes the state and returns its files.
pub fn without_state(rig: &Rig) -> Vec<(&'static str, Vec<u8>)> {
    let kept = FILES
        .iter()
        .filter_map(|file| Some((*file, fs::read(rig.path(file)).ok()?)))
        .collect();
    for file in FILES {
        let _ = fs::remove_file(rig.path(file));
    }
    kept
}

#[track_caller]
fn holds(rig: &Rig) {
    let sent = rig.server.total_requests();
    let published = ["acme", "globex"].map(|portal| rig.token_json(portal));
    let daemon = rig.start();
    let events = daemon.events(|event| is_step(event, "old-state"));
    assert_eq!(events.len(), 1, "one event for all: {events:?}");
    assert_eq!(events[0]["severity"], "critical");
    let reason = events[0]["reason"].as_str().unwrap_or_default();
    assert!(
        reason.contains("2 of its portals") && reason.contains("acme") && reason.contains("globex"),
        "{reason}"
    );
    assert!(
        events[0]["action"]
            .as_str()
            .unwrap_or_default()
            .contains("is the state's volume mounted?"),
        "{events:?}"
    );
    always(
        "nothing is sent, and published tokens stay",
        Duration::from_secs(6),
        || {
            rig.server.total_requests() == sent
                && ["acme", "globex"].map(|portal| rig.token_json(portal)) == published
                && rig.has_working_token("acme")
        },
    );
    let status = rig.get_json("/v1/portals/acme");
    assert_eq!(status["phase"], "old-state", "{status}");
    assert!(
        status["action"]
            .as_str()
            .unwrap_or_default()
            .contains("is the state's volume mounted?"),
        "{status}"
    );
    assert_eq!(
        rig.get_json("/v1/portals/hooli")["phase"],
        "awaiting-authorization",
        "it never had one"
    );
    assert!((rig.metric("refreshd_portals{phase=\"old-state\"}") - 2.0).abs() < 0.1);
    assert!((rig.metric("refreshd_portals{phase=\"awaiting-authorization\"}") - 1.0).abs() < 0.1);
    let ran = rig.run(["renew", "acme"]);
    assert!(
        ran.code == Some(75) && ran.stderr.contains("volume"),
        "{ran:?}"
    );
    daemon.stop();
}

#[test]
fn lost_state_sends_nothing_until_it_is_restored() {
    let rig = renewed();
    let state = without_state(&rig);
    holds(&rig);
    // A second start: the empty state created by the first is not accepted either.
    holds(&rig);
    without_state(&rig);
    for (file, bytes) in state {
        rig.secret_bytes(file, &bytes);
    }
    let daemon = rig.start();
    for portal in ["acme", "globex"] {
        rig.wait_for_renewals(portal, 1);
        rig.wait_for_phase(portal, "fresh");
    }
    daemon.stop();
    rig.no_violations();
}

#[test]
fn check_reports_a_lost_state() {
    let rig = renewed();
    let state = without_state(&rig);
    for _ in 0..2 {
        let ran = rig.run(["check"]);
        // The daemon would start.
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert!(
            ran.stderr
                .contains("nothing will be sent for 2 portals: acme, globex.")
                && !ran.stderr.contains("no problems;"),
            "{ran:?}"
        );
        // And once more with the empty state that a start leaves.
        rig.start().stop();
    }
    without_state(&rig);
    for (file, bytes) in state {
        rig.secret_bytes(file, &bytes);
    }
    let ran = rig.run(["check"]);
    assert!(
        ran.code == Some(0)
            && ran.stderr.contains("no problems;")
            && !ran.stderr.contains("nothing will be sent"),
        "{ran:?}"
    );
}

#[test]
fn linked_record_at_first_start_is_one_error() {
    let mut rig = Rig::new(["acme"]);
    rig.grant("acme");
    std::os::unix::fs::symlink("elsewhere", rig.path("state.db.generations")).unwrap();
    let daemon = rig.start();
    let events = daemon.events(|event| event["message"].to_string().contains(".generations"));
    assert!(
        events.len() == 1
            && is_step(&events[0], "old-state")
            && events[0].to_string().contains("it is a symbolic link"),
        "{events:?}"
    );
    daemon.stop();
    assert_eq!(rig.requests("acme"), 0);
}

#[test]
fn token_files_alone_or_record_alone_are_a_trace() {
    let rig = renewed();
    without_state(&rig);
    fs::remove_file(rig.path("state.db.generations")).unwrap();
    holds(&rig);
    without_state(&rig);
    fs::remove_dir_all(rig.path("tokens")).unwrap();
    let sent = rig.server.total_requests();
    let daemon = rig.start();
    always("nothing is sent", Duration::from_secs(4), || {
        rig.server.total_requests() == sent
    });
    assert_eq!(rig.get_json("/v1/portals/acme")["phase"], "old-state");
    daemon.stop();
}

#[test]
fn not_ready_once_published_tokens_expired() {
    let mut rig = Rig::with_rules(
        ["acme"],
        Rules {
            token_lifetime: Duration::from_secs(12),
            ..Rules::default()
        },
    );
    rig.grant("acme");
    let daemon = rig.start();
    rig.wait_for_generation("acme", 2);
    daemon.stop();
    without_state(&rig);
    let daemon = rig.start();
    assert!(rig.has_working_token("acme"));
    assert_eq!(rig.http("/readyz").0, 200, "readers have a good token");
    assert!(rig.metric("refreshd_portals_overdue") < 0.5);
    eventually("it is not ready", SOON, || {
        let (code, why) = rig.http("/readyz");
        code == 503 && why.contains("1 portal is overdue")
    });
    assert!((rig.metric("refreshd_portals_overdue") - 1.0).abs() < 0.1);
    assert_eq!(rig.import("acme", &rig.install("acme")).code, Some(0));
    eventually("ready again", SOON, || rig.http("/readyz").0 == 200);
    daemon.stop();
    rig.no_violations();
}

#[test]
fn any_token_file_format_is_a_trace() {
    let mut rig = renewed();
    without_state(&rig);
    fs::remove_file(rig.path("state.db.generations")).unwrap();
    for portal in ["acme", "globex"] {
        fs::remove_file(rig.token_path(portal, "token.json")).unwrap();
    }
    for portal in &mut rig.config.portals {
        portal.more = "formats = [\"raw\"]\n".to_owned();
    }
    let token = fs::read(rig.token_path("acme", "token")).unwrap();
    let sent = rig.server.total_requests();
    let daemon = rig.start();
    always(
        "nothing is sent, and published tokens stay",
        Duration::from_secs(4),
        || {
            rig.server.total_requests() == sent
                && fs::read(rig.token_path("acme", "token")).is_ok_and(|now| now == token)
        },
    );
    assert_eq!(rig.get_json("/v1/portals/acme")["phase"], "old-state");
    assert_eq!(
        rig.get_json("/v1/portals/hooli")["phase"],
        "awaiting-authorization",
        "it never had one"
    );
    daemon.stop();
    rig.no_violations();
}

/// The record exists without content, and there is no other trace.
#[track_caller]
fn nothing_is_sent_without_the_record(spoil: impl FnOnce(&Rig)) {
    let rig = renewed();
    without_state(&rig);
    fs::remove_dir_all(rig.path("tokens")).expect("token files");
    spoil(&rig);
    let sent = rig.server.total_requests();
    let daemon = rig.start();
    let event = daemon.wait_for("the report", |event| is_step(event, "old-state"));
    let reason = event["reason"].as_str().unwrap_or_default();
    assert!(
        event["severity"] == "critical"
            && reason.contains("2 of its portals")
            && reason.contains("state.db.generations is damaged"),
        "{event}"
    );
    always("nothing is sent", Duration::from_secs(6), || {
        rig.server.total_requests() == sent
    });
    for portal in ["acme", "globex"] {
        assert_eq!(
            rig.get_json(&format!("/v1/portals/{portal}"))["phase"],
            "old-state"
        );
    }
    assert_eq!(
        rig.get_json("/v1/portals/hooli")["phase"],
        "awaiting-authorization",
        "it has no first token"
    );
    daemon.stop();
    rig.no_violations();
}

pub const RECORD: &str = "state.db.generations";

#[test]
fn garbage_record_is_a_trace() {
    nothing_is_sent_without_the_record(|rig| {
        rig.secret_bytes(RECORD, b"\x00\xffgarbage\n");
    });
}

#[test]
fn empty_record_is_a_trace() {
    nothing_is_sent_without_the_record(|rig| rig.secret(RECORD, ""));
}

#[test]
fn pipe_in_place_of_the_record_is_a_trace() {
    nothing_is_sent_without_the_record(|rig| {
        fs::remove_file(rig.path(RECORD)).unwrap();
        let made = std::process::Command::new("mkfifo")
            .arg(rig.path(RECORD))
            .status();
        assert!(made.unwrap().success());
    });
}

#[test]
fn directory_in_place_of_the_record_is_a_trace() {
    nothing_is_sent_without_the_record(|rig| {
        fs::remove_file(rig.path(RECORD)).unwrap();
        fs::create_dir(rig.path(RECORD)).unwrap();
    });
}

#[test]
fn link_in_place_of_the_record_is_a_trace() {
    nothing_is_sent_without_the_record(|rig| {
        let text = fs::read(rig.path(RECORD)).unwrap();
        fs::remove_file(rig.path(RECORD)).unwrap();
        rig.secret_bytes("elsewhere", &text);
        std::os::unix::fs::symlink("elsewhere", rig.path(RECORD)).unwrap();
    });
}

#[test]
fn record_is_a_trace_where_token_files_are_not() {
    let rig = renewed();
    without_state(&rig);
    for portal in ["acme", "globex"] {
        rig.secret(&format!("tokens/{portal}/token"), "");
        fs::remove_file(rig.token_path(portal, "token.json")).unwrap();
    }
    let sent = rig.server.total_requests();
    let daemon = rig.start();
    always("nothing is sent", Duration::from_secs(4), || {
        rig.server.total_requests() == sent
    });
    for portal in ["acme", "globex"] {
        assert_eq!(
            rig.get_json(&format!("/v1/portals/{portal}"))["phase"],
            "old-state"
        );
    }
    daemon.stop();
    rig.no_violations();
}

#[test]
fn unconfigured_portal_keeps_its_trace() {
    let mut rig = renewed();
    without_state(&rig);
    fs::remove_dir_all(rig.path("tokens")).unwrap();
    let globex = rig.config.portal("globex").clone();
    rig.config.remove("globex");
    rig.start().stop();
    rig.config.portals.push(globex);
    without_state(&rig);
    let sent = rig.server.total_requests();
    let daemon = rig.start();
    always("nothing is sent", Duration::from_secs(4), || {
        rig.server.total_requests() == sent
    });
    assert_eq!(rig.get_json("/v1/portals/globex")["phase"], "old-state");
    daemon.stop();
    rig.no_violations();
}

#[test]
fn refused_import_leaves_the_token_files() {
    let rig = renewed();
    without_state(&rig);
    let daemon = rig.start();
    let before = rig.token_json("acme");
    let ran = rig.import("acme", "5bad2d67006e9f06006b12e400000001");
    assert_eq!(ran.code, Some(65), "{ran:?}");
    assert_eq!(rig.get_json("/v1/portals/acme")["phase"], "old-state");
    assert!(before.is_some() && rig.token_json("acme") == before && rig.has_working_token("acme"));
    daemon.stop();
}

#[test]
fn import_or_forget_ends_the_lost_state() {
    let mut rig = renewed();
    without_state(&rig);
    let daemon = rig.start();
    let before = rig.generation("acme");
    assert_eq!(rig.import("acme", &rig.install("acme")).code, Some(0));
    rig.wait_for_phase("acme", "fresh");
    assert_eq!(rig.generation("acme"), before + 1, "the count goes on");
    assert!(
        daemon.events(|event| is_step(event, "resolved")).is_empty(),
        "one is left"
    );
    assert_eq!(rig.run(["forget", "globex", "--yes"]).code, Some(0));
    assert_eq!(rig.token_json("globex"), None);
    daemon.wait_for("it is over", |event| is_step(event, "resolved"));
    // The token in its file was spent long ago.
    assert_eq!(
        rig.get_json("/v1/portals/globex")["phase"],
        "awaiting-authorization"
    );
    daemon.stop();
    let daemon = rig.start();
    assert!(
        daemon
            .events(|event| is_step(event, "old-state"))
            .is_empty()
    );
    always("nothing is sent for it", Duration::from_secs(2), || {
        rig.get_json("/v1/portals/globex")["phase"] == "awaiting-authorization"
    });
    rig.grant("globex");
    rig.wait_for_phase("globex", "fresh");
    daemon.stop();
    rig.no_violations();
}

#[test]
fn without_a_daemon_nothing_is_sent() {
    let rig = renewed();
    without_state(&rig);
    let sent = rig.server.total_requests();
    rig.write_config();
    let ran = rig.run(["status"]);
    assert!(
        ran.code == Some(1) && ran.stdout.contains("old-state"),
        "{ran:?}"
    );
    assert_eq!(rig.server.total_requests(), sent);
    assert!(rig.has_working_token("acme"));
    rig.no_violations();
}

#[test]
fn record_keeps_an_unknown_portal_for_a_while() {
    let mut rig = renewed();
    let daemon = rig.start();
    let old: Vec<_> = FILES
        .iter()
        .filter_map(|file| Some((*file, fs::read(rig.path(file)).ok()?)))
        .collect();
    for portal in ["acme", "globex"] {
        rig.wait_for_renewals(portal, 2);
    }
    daemon.stop();
    // The state is lost, and the portal is not configured at that start.
    without_state(&rig);
    let portal = rig.config.portal("globex").clone();
    rig.config.remove("globex");
    rig.start().stop();
    // An old backup and the portal return; the token files are gone.
    without_state(&rig);
    for (file, bytes) in old {
        rig.secret_bytes(file, &bytes);
    }
    fs::remove_dir_all(rig.path("tokens")).unwrap();
    rig.config.portals.push(portal);
    let sent = rig.server.total_requests();
    let daemon = rig.start();
    always("nothing is sent", Duration::from_secs(4), || {
        rig.server.total_requests() == sent
    });
    assert_eq!(rig.get_json("/v1/portals/globex")["phase"], "old-state");
    daemon.stop();
    rig.no_violations();
}

#[test]
fn state_restored_under_the_daemon_is_not_to_be_removed() {
    let rig = renewed();
    let state = without_state(&rig);
    let daemon = rig.start();
    daemon.wait_for("the word", |event| is_step(event, "old-state"));
    for (file, bytes) in &state {
        rig.secret_bytes(file, bytes);
    }
    let event = daemon.wait_for("the report of another state", |event| {
        is_step(event, "state-displaced")
    });
    let reason = event["reason"].as_str().unwrap_or_default();
    assert!(
        reason.contains("the right state seems to be back")
            && reason.contains("Restart refreshd")
            && !reason.contains("remove what"),
        "{reason}"
    );
    eventually("not ready, and why", SOON, || {
        let (code, text) = rig.http("/readyz");
        code == 503 && text.contains("seems to be back")
    });
    daemon.stop();
    assert!(
        !rig.path("state.db.rescued").exists(),
        "there is nothing to rescue"
    );
    let daemon = rig.start();
    for portal in ["acme", "globex"] {
        rig.wait_for_renewals(portal, 1);
        rig.wait_for_phase(portal, "fresh");
    }
    daemon.stop();
    rig.no_violations();
}
