//! An incomplete configuration, as with an unmounted volume: no token file in use is removed because of it. Portals that are
//! removed from a file that exists are removed.

use std::fs;
use std::time::Duration;

use rusqlite::Connection;

use crate::common::{Daemon, Rig, SOON, always, eventually, is_step, message_contains};

const PORTALS: [&str; 2] = ["acme", "globex"];
const STEP: &str = "configuration-incomplete";
const KEPT: &str = "the configuration was not reloaded";
const DONE: &str = "the configuration was reloaded";

/// Two renewed portals, each in a file of its own.
fn included() -> (Rig, Daemon) {
    let mut rig = Rig::new(PORTALS);
    rig.grant_all();
    rig.config.include = vec!["portals.d/*.toml".to_owned()];
    put_back(&rig);
    rig.config.portals.clear();
    let daemon = rig.start();
    for portal in PORTALS {
        rig.wait_for_generation(portal, 2);
    }
    (rig, daemon)
}

/// Writes the portals' files.
fn put_back(rig: &Rig) {
    fs::create_dir_all(rig.path("portals.d")).expect("a directory");
    for name in PORTALS {
        let portal = format!(
            "[portals.{name}]\napp = \"crm\"\ndomain = \"{name}.bitrix24.com\"\nrefresh_token_file = \"{}\"\n",
            rig.path(format!("{name}.refresh")).display()
        );
        rig.secret(&format!("portals.d/{name}.toml"), &portal);
    }
}

#[track_caller]
fn reload(daemon: &Daemon, word: &str) -> serde_json::Value {
    let mark = daemon.mark();
    daemon.sighup();
    daemon.wait_after(mark, SOON, word, |event| message_contains(event, word))
}

fn have_tokens(rig: &Rig) -> bool {
    PORTALS
        .iter()
        .all(|portal| rig.token_json(portal).is_some())
}

#[track_caller]
fn goes_on(rig: &Rig) {
    for portal in PORTALS {
        rig.wait_for_renewals(portal, 1);
    }
    assert!(PORTALS.iter().all(|portal| rig.has_working_token(portal)));
}

/// Starts with the configuration: it is reported, and nothing is removed.
#[track_caller]
fn is_kept_at_a_start(rig: &Rig, why: &str) {
    let daemon = rig.start();
    let event = daemon.wait_for(STEP, |event| is_step(event, STEP));
    assert_eq!(event["severity"], "critical", "{event}");
    let reason = event["reason"].as_str().unwrap_or_default();
    assert!(
        reason.contains(why) && reason.contains("2 portals") && reason.contains("acme, globex"),
        "{reason}"
    );
    assert!(
        event["action"]
            .as_str()
            .is_some_and(|action| action.contains("refreshd forget")),
        "{event}"
    );
    let (code, ready) = rig.http("/readyz");
    assert!(code == 503 && ready.contains(why), "{code} {ready}");
    always("nothing goes", Duration::from_secs(6), || have_tokens(rig));
    daemon.stop();
    assert!(have_tokens(rig));
}

#[test]
fn empty_configuration_is_not_loaded() {
    let mut rig = Rig::new(PORTALS);
    rig.grant_all();
    let daemon = rig.start_renewed();
    rig.secret("refreshd.toml", "");
    let refused = reload(&daemon, KEPT);
    let problems = refused["problems"].as_str().unwrap_or_default();
    assert!(
        problems.contains("it names no portal at all") && problems.contains("acme, globex"),
        "{problems}"
    );
    goes_on(&rig);
    // A portal that is removed from an existing file is removed on purpose.
    rig.config.remove("globex");
    rig.write_config();
    reload(&daemon, DONE);
    eventually("its files go", SOON, || rig.token_json("globex").is_none());
    daemon.stop();
    rig.no_violations();
}

#[test]
fn start_without_portals_removes_nothing() {
    let mut rig = Rig::new(PORTALS);
    rig.grant_all();
    let daemon = rig.start_renewed();
    daemon.stop();
    let whole = std::mem::take(&mut rig.config.portals);
    is_kept_at_a_start(&rig, "it names no portal at all");
    // A second start: the portals were known before.
    is_kept_at_a_start(&rig, "it names no portal at all");
    let daemon = rig.start();
    rig.config.portals = whole;
    rig.write_config();
    reload(&daemon, DONE);
    daemon.wait_for("it is over", |event| is_step(event, "resolved"));
    goes_on(&rig);
    assert_eq!(rig.http("/readyz").0, 200);
    daemon.stop();
    rig.no_violations();
}

#[test]
fn forgotten_portal_is_not_remembered() {
    let mut rig = Rig::new(PORTALS);
    rig.grant_all();
    let daemon = rig.start_renewed();
    daemon.stop();
    rig.config.portals.clear();
    let daemon = rig.start();
    for portal in PORTALS {
        assert_eq!(rig.run(["forget", portal, "--yes"]).code, Some(0));
        assert_eq!(rig.token_json(portal), None);
    }
    daemon.wait_for("it is over", |event| is_step(event, "resolved"));
    daemon.stop();
    let daemon = rig.start();
    assert!(daemon.events(|event| is_step(event, STEP)).is_empty());
    assert_eq!(rig.http("/readyz").0, 200);
    daemon.stop();
}

#[test]
fn unmounted_portal_directory_removes_nothing() {
    let (mut rig, daemon) = included();
    fs::remove_dir_all(rig.path("portals.d")).unwrap();
    let refused = reload(&daemon, KEPT);
    assert!(
        refused["problems"]
            .as_str()
            .is_some_and(|problems| problems.contains("portals.d/*.toml")),
        "{refused}"
    );
    goes_on(&rig);
    daemon.stop();
    is_kept_at_a_start(&rig, "no file is there for include");
    // A mount point is an empty directory.
    fs::create_dir_all(rig.path("portals.d")).unwrap();
    is_kept_at_a_start(&rig, "no file is there for include");
    put_back(&rig);
    let daemon = rig.start();
    goes_on(&rig);
    assert!(daemon.events(|event| is_step(event, STEP)).is_empty());
    // All of them are removed on purpose: with the pattern, and another portal is left.
    fs::remove_dir_all(rig.path("portals.d")).unwrap();
    rig.config.include.clear();
    rig.config.portals = vec![crate::common::Portal::new("hooli", "crm")];
    rig.write_config();
    reload(&daemon, DONE);
    eventually("their files go", SOON, || {
        PORTALS
            .iter()
            .all(|portal| rig.token_json(portal).is_none())
    });
    daemon.stop();
    rig.no_violations();
}

#[test]
fn pattern_without_files_does_not_block_removal() {
    let mut rig = Rig::new(PORTALS);
    rig.config.include = vec!["portals.d/*.toml".to_owned()];
    rig.grant_all();
    let daemon = rig.start_renewed();
    rig.config.remove("globex");
    rig.write_config();
    reload(&daemon, DONE);
    eventually("its files go", SOON, || rig.token_json("globex").is_none());
    daemon.stop();
    let daemon = rig.start();
    assert!(daemon.events(|event| is_step(event, STEP)).is_empty());
    daemon.stop();
}

/// Changes the state to that of a version that did not record included files.
fn forget_what_was_included(rig: &Rig) {
    let state = Connection::open(rig.path("state.db")).expect("a state");
    let marks = "DELETE FROM mark WHERE name LIKE 'included%'";
    assert!(state.execute(marks, []).expect("a table") > 0);
}

#[test]
fn first_start_after_an_upgrade_removes_nothing() {
    let (mut rig, daemon) = included();
    daemon.stop();
    rig.config.portals = vec![crate::common::Portal::new("hooli", "crm")];
    // An unmounted volume: its mount point exists and is empty.
    fs::remove_dir_all(rig.path("portals.d")).unwrap();
    fs::create_dir(rig.path("portals.d")).unwrap();
    forget_what_was_included(&rig);
    is_kept_at_a_start(&rig, "no file is there for include");
    // A mistyped pattern.
    fs::remove_dir(rig.path("portals.d")).unwrap();
    fs::create_dir(rig.path("other.d")).unwrap();
    rig.secret(
        "other.d/hooli.toml",
        "[portals.hooli]\napp = \"crm\"\ndomain = \"hooli.bitrix24.com\"\n",
    );
    rig.config.portals.clear();
    rig.config.include = vec!["other.d/*.toml".to_owned()];
    is_kept_at_a_start(&rig, "is not known to find what was included before");
    put_back(&rig);
    rig.config.include = vec!["portals.d/*.toml".to_owned()];
    let daemon = rig.start();
    goes_on(&rig);
    assert!(daemon.events(|event| is_step(event, STEP)).is_empty());
    daemon.stop();
    rig.no_violations();
}

#[test]
fn mistyped_pattern_removes_nothing() {
    let (mut rig, daemon) = included();
    rig.config.include = vec!["portal.d/*.toml".to_owned()];
    rig.config.portals = vec![crate::common::Portal::new("hooli", "crm")];
    rig.write_config();
    let refused = reload(&daemon, KEPT);
    assert!(
        refused["problems"]
            .as_str()
            .is_some_and(|problems| problems.contains("portal.d/*.toml")),
        "{refused}"
    );
    goes_on(&rig);
    daemon.stop();
    is_kept_at_a_start(&rig, "no file is there for include");
}
