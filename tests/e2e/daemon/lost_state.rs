//! A start without the state: traces outside it say that there were grants, and nothing spent is sent.

use std::fs;
use std::time::Duration;

use refreshd_fake_server::{Reuse, Rules};

use crate::common::{EVERY, Rig, SOON, always, eventually, is_step};

pub const FILES: [&str; 3] = ["state.db", "state.db-wal", "state.db-shm"];

/// Three portals of which two have been renewed, at a server that ends a grant when a spent token comes again.
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

/// Takes the state away, and gives back what it was.
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
    let sent = rig.sandbox.total_requests();
    let published = ["acme", "globex"].map(|portal| rig.token_json(portal));
    let daemon = rig.start();
    let said = daemon.events(|event| is_step(event, "old-state"));
    assert_eq!(said.len(), 1, "one word for all: {said:?}");
    assert_eq!(said[0]["severity"], "critical");
    let reason = said[0]["reason"].as_str().unwrap_or_default();
    assert!(
        reason.contains("2 of its portals") && reason.contains("acme") && reason.contains("globex"),
        "{reason}"
    );
    assert!(
        said[0]["action"]
            .as_str()
            .unwrap_or_default()
            .contains("is the state's volume mounted?"),
        "{said:?}"
    );
    always(
        "nothing is sent, and readers keep what they have",
        Duration::from_secs(6),
        || {
            rig.sandbox.total_requests() == sent
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
fn nothing_is_sent_and_with_the_right_state_everything_goes_on() {
    let rig = renewed();
    let state = without_state(&rig);
    holds(&rig);
    // Once more: the empty state is not taken for good because it is there now.
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
fn check_says_before_a_start_that_the_state_is_lost() {
    let rig = renewed();
    let state = without_state(&rig);
    for _ in 0..2 {
        let ran = rig.run(["check"]);
        // The daemon starts with it.
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert!(
            ran.stderr
                .contains("nothing will be sent for 2 portals: acme, globex.")
                && !ran.stderr.contains("no problems;"),
            "{ran:?}"
        );
        // Once more with the empty state that a start leaves.
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
fn a_record_that_is_a_link_at_a_first_start_is_told_in_one_word() {
    let mut rig = Rig::new(["acme"]);
    rig.grant("acme");
    std::os::unix::fs::symlink("elsewhere", rig.path("state.db.generations")).unwrap();
    let daemon = rig.start();
    let said = daemon.events(|event| event["message"].to_string().contains(".generations"));
    assert!(
        said.len() == 1
            && is_step(&said[0], "old-state")
            && said[0].to_string().contains("it is a symbolic link"),
        "{said:?}"
    );
    daemon.stop();
    assert_eq!(rig.requests("acme"), 0);
}

#[test]
fn the_files_of_readers_alone_are_a_trace_and_so_is_the_record_alone() {
    let rig = renewed();
    without_state(&rig);
    fs::remove_file(rig.path("state.db.generations")).unwrap();
    holds(&rig);
    without_state(&rig);
    fs::remove_dir_all(rig.path("tokens")).unwrap();
    let sent = rig.sandbox.total_requests();
    let daemon = rig.start();
    always("nothing is sent", Duration::from_secs(4), || {
        rig.sandbox.total_requests() == sent
    });
    assert_eq!(rig.get_json("/v1/portals/acme")["phase"], "old-state");
    daemon.stop();
}

#[test]
fn it_is_not_ready_once_the_tokens_of_readers_have_expired() {
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
fn a_token_file_of_any_form_is_a_trace() {
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
    let sent = rig.sandbox.total_requests();
    let daemon = rig.start();
    always(
        "nothing is sent, and readers keep what they have",
        Duration::from_secs(4),
        || {
            rig.sandbox.total_requests() == sent
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

/// The record is there and says nothing, and there is no other trace.
#[track_caller]
fn nothing_is_sent_without_the_record(spoil: impl FnOnce(&Rig)) {
    let rig = renewed();
    without_state(&rig);
    fs::remove_dir_all(rig.path("tokens")).expect("token files");
    spoil(&rig);
    let sent = rig.sandbox.total_requests();
    let daemon = rig.start();
    let said = daemon.wait_for("it is told", |event| is_step(event, "old-state"));
    let reason = said["reason"].as_str().unwrap_or_default();
    assert!(
        said["severity"] == "critical"
            && reason.contains("2 of its portals")
            && reason.contains("state.db.generations is damaged"),
        "{said}"
    );
    always("nothing is sent", Duration::from_secs(6), || {
        rig.sandbox.total_requests() == sent
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
fn a_record_of_garbage_is_a_trace() {
    nothing_is_sent_without_the_record(|rig| {
        rig.secret_bytes(RECORD, b"\x00\xffgarbage\n");
    });
}

#[test]
fn a_record_that_is_empty_is_a_trace() {
    nothing_is_sent_without_the_record(|rig| rig.secret(RECORD, ""));
}

#[test]
fn a_pipe_in_place_of_the_record_is_a_trace() {
    nothing_is_sent_without_the_record(|rig| {
        fs::remove_file(rig.path(RECORD)).unwrap();
        let made = std::process::Command::new("mkfifo")
            .arg(rig.path(RECORD))
            .status();
        assert!(made.unwrap().success());
    });
}

#[test]
fn a_directory_in_place_of_the_record_is_a_trace() {
    nothing_is_sent_without_the_record(|rig| {
        fs::remove_file(rig.path(RECORD)).unwrap();
        fs::create_dir(rig.path(RECORD)).unwrap();
    });
}

#[test]
fn a_link_in_place_of_the_record_is_a_trace() {
    nothing_is_sent_without_the_record(|rig| {
        let text = fs::read(rig.path(RECORD)).unwrap();
        fs::remove_file(rig.path(RECORD)).unwrap();
        rig.secret_bytes("elsewhere", &text);
        std::os::unix::fs::symlink("elsewhere", rig.path(RECORD)).unwrap();
    });
}

#[test]
fn where_token_files_say_nothing_the_record_still_does() {
    let rig = renewed();
    without_state(&rig);
    for portal in ["acme", "globex"] {
        rig.secret(&format!("tokens/{portal}/token"), "");
        fs::remove_file(rig.token_path(portal, "token.json")).unwrap();
    }
    let sent = rig.sandbox.total_requests();
    let daemon = rig.start();
    always("nothing is sent", Duration::from_secs(4), || {
        rig.sandbox.total_requests() == sent
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
fn a_portal_that_the_configuration_does_not_name_for_a_while_keeps_its_trace() {
    let mut rig = renewed();
    without_state(&rig);
    fs::remove_dir_all(rig.path("tokens")).unwrap();
    let globex = rig.config.portal("globex").clone();
    rig.config.remove("globex");
    rig.start().stop();
    rig.config.portals.push(globex);
    without_state(&rig);
    let sent = rig.sandbox.total_requests();
    let daemon = rig.start();
    always("nothing is sent", Duration::from_secs(4), || {
        rig.sandbox.total_requests() == sent
    });
    assert_eq!(rig.get_json("/v1/portals/globex")["phase"], "old-state");
    daemon.stop();
    rig.no_violations();
}

#[test]
fn a_refused_import_leaves_the_files_of_readers() {
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
fn a_person_who_hands_over_a_grant_or_forgets_ends_it() {
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
    // What was left in its file was spent long ago.
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
fn without_a_daemon_nothing_is_sent_either() {
    let rig = renewed();
    without_state(&rig);
    let sent = rig.sandbox.total_requests();
    rig.write_config();
    let ran = rig.run(["status"]);
    assert!(
        ran.code == Some(1) && ran.stdout.contains("old-state"),
        "{ran:?}"
    );
    assert_eq!(rig.sandbox.total_requests(), sent);
    assert!(rig.has_working_token("acme"));
    rig.no_violations();
}

#[test]
fn the_record_keeps_a_portal_that_neither_state_nor_configuration_knows_for_a_while() {
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
    // The state is lost, and at that start the portal is not configured.
    without_state(&rig);
    let portal = rig.config.portal("globex").clone();
    rig.config.remove("globex");
    rig.start().stop();
    // An old backup comes back, and the portal; the files of readers are gone.
    without_state(&rig);
    for (file, bytes) in old {
        rig.secret_bytes(file, &bytes);
    }
    fs::remove_dir_all(rig.path("tokens")).unwrap();
    rig.config.portals.push(portal);
    let sent = rig.sandbox.total_requests();
    let daemon = rig.start();
    always("nothing is sent", Duration::from_secs(4), || {
        rig.sandbox.total_requests() == sent
    });
    assert_eq!(rig.get_json("/v1/portals/globex")["phase"], "old-state");
    daemon.stop();
    rig.no_violations();
}

#[test]
fn a_right_state_that_comes_back_under_the_daemon_is_not_to_be_removed() {
    let rig = renewed();
    let state = without_state(&rig);
    let daemon = rig.start();
    daemon.wait_for("the word", |event| is_step(event, "old-state"));
    for (file, bytes) in &state {
        rig.secret_bytes(file, bytes);
    }
    let told = daemon.wait_for("that it is another", |event| {
        is_step(event, "state-displaced")
    });
    let reason = told["reason"].as_str().unwrap_or_default();
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
