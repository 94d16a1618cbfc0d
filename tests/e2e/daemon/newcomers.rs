//! Portals without a grant: a first token is sent for those that are new, and for no other, whenever they come.

use std::fs;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::common::{Portal, Rig, SOON, always, domain, eventually, is_step, says};
use crate::daemon::lost_state::{FILES, RECORD, renewed, without_state};

#[test]
fn a_reload_judges_the_portals_that_it_brings_as_a_start_does() {
    let mut rig = renewed();
    without_state(&rig);
    // One is known by its token files alone, the other by the record alone.
    let record = fs::read_to_string(rig.path(RECORD)).unwrap();
    let of_globex = |line: &&str| line.starts_with("globex ");
    let record: String = record
        .lines()
        .filter(of_globex)
        .map(|line| format!("{line}\n"))
        .collect();
    rig.secret(RECORD, &record);
    fs::remove_dir_all(rig.path("tokens/globex")).unwrap();
    let all = rig.config.portals.clone();
    rig.config.remove("acme");
    rig.config.remove("globex");
    let daemon = rig.start();
    assert!(
        daemon
            .events(|event| is_step(event, "old-state"))
            .is_empty()
    );
    let (sent, published) = (rig.sandbox.total_requests(), rig.token_json("acme"));
    rig.config.portals = all;
    rig.config.portals.push(Portal::new("initech", "crm"));
    rig.grant("initech");
    rig.write_config();
    daemon.sighup();
    let said = daemon.wait_for("it is told", |event| {
        is_step(event, "old-state") && says_reason(event, "initech")
    });
    assert!(
        said["severity"] == "critical"
            && says_reason(&said, "2 of its portals")
            && says_reason(&said, "acme, globex")
            && says_reason(&said, "the first token of 1 of its portals is not sent"),
        "{said}"
    );
    always(
        "nothing is sent, and readers keep what they have",
        Duration::from_secs(6),
        || rig.sandbox.total_requests() == sent && rig.token_json("acme") == published,
    );
    for portal in ["acme", "globex", "initech"] {
        assert_eq!(
            rig.get_json(&format!("/v1/portals/{portal}"))["phase"],
            "old-state"
        );
    }
    // A person says that it is new.
    import_its_file(&rig, "initech");
    // Nobody is in doubt any more, and others may come.
    for portal in ["acme", "globex"] {
        assert_eq!(rig.import(portal, &rig.install(portal)).code, Some(0));
    }
    daemon.wait_for("it is over", |event| is_step(event, "resolved"));
    rig.config.portals.push(Portal::new("umbrella", "crm"));
    rig.grant("umbrella");
    rig.write_config();
    daemon.sighup();
    rig.wait_for_phase("umbrella", "fresh");
    daemon.stop();
    rig.no_violations();
}

fn says_reason(event: &Value, text: &str) -> bool {
    event["reason"]
        .as_str()
        .is_some_and(|reason| reason.contains(text))
}

/// Does what the status of a portal says that is held beside a lost state.
#[track_caller]
fn import_its_file(rig: &Rig, portal: &str) {
    let status = rig.get_json(&format!("/v1/portals/{portal}"));
    let action = status["action"].as_str().unwrap_or_default();
    let file = format!("{portal}.refresh");
    let path = rig.path(&file).display().to_string();
    assert!(
        action.contains("volume") && action.contains(&format!("refreshd import {portal} {path}")),
        "{status}"
    );
    let ran = rig.run(["import", portal, &path]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    rig.wait_for_phase(portal, "fresh");
}

/// Names a portal anew in the configuration; its first token goes with it.
fn rename(rig: &mut Rig, from: &str, to: &str) {
    let token = fs::read_to_string(rig.path(format!("{from}.refresh"))).expect("a first token");
    rig.secret(&format!("{to}.refresh"), &token);
    rig.config.remove(from);
    let mut portal = Portal::new(to, "crm");
    portal.refresh_token_file = true;
    rig.config.portals.push(portal);
}

/// Nothing is sent by a start without the state, `held` is told of, and with the state back the grants live.
#[track_caller]
fn holds_until_the_state_is_back(mut rig: Rig, held: &str, change: impl FnOnce(&mut Rig)) {
    let state = without_state(&rig);
    let before = rig.config.clone();
    change(&mut rig);
    let sent = rig.sandbox.total_requests();
    for _ in 0..2 {
        let daemon = rig.start();
        let said = daemon.wait_for("it is told", |event| is_step(event, "old-state"));
        assert!(
            said["severity"] == "critical"
                && says_reason(&said, "the first token of 1 of its portals is not sent")
                && says_reason(&said, held),
            "{said}"
        );
        always("nothing is sent", Duration::from_secs(4), || {
            rig.sandbox.total_requests() == sent
        });
        let status = rig.get_json(&format!("/v1/portals/{held}"));
        assert_eq!(status["phase"], "old-state", "{status}");
        daemon.stop();
    }
    for file in FILES {
        let _ = fs::remove_file(rig.path(file));
    }
    for (file, bytes) in state {
        rig.secret_bytes(file, &bytes);
    }
    rig.config.portals = before.portals;
    let daemon = rig.start();
    for portal in ["acme", "globex"] {
        rig.wait_for_renewals(portal, 1);
        rig.wait_for_phase(portal, "fresh");
    }
    daemon.stop();
    rig.no_violations();
}

#[test]
fn a_portal_renamed_at_a_start_without_the_state_is_not_sent_its_spent_token() {
    holds_until_the_state_is_back(renewed(), "acme-crm", |rig| {
        rename(rig, "acme", "acme-crm");
    });
}

#[test]
fn a_portal_added_at_a_start_without_the_state_waits_for_a_person() {
    holds_until_the_state_is_back(renewed(), "initech", |rig| {
        rig.config.portals.push(Portal::new("initech", "crm"));
        rig.grant("initech");
    });
}

#[test]
fn where_every_portal_was_renamed_or_left_out_the_traces_of_the_others_still_count() {
    for gone in [RECORD, "tokens"] {
        holds_until_the_state_is_back(renewed(), "acme-crm", |rig| {
            rename(rig, "acme", "acme-crm");
            rig.config.remove("globex");
            let gone = rig.path(gone);
            let removed = fs::remove_file(&gone).or_else(|_| fs::remove_dir_all(&gone));
            removed.expect("a trace");
        });
    }
}

#[test]
fn a_first_token_beside_a_restored_backup_waits_for_a_person() {
    let mut rig = renewed();
    let daemon = rig.start();
    let old: Vec<_> = FILES
        .iter()
        .filter_map(|file| Some((*file, fs::read(rig.path(file)).ok()?)))
        .collect();
    rig.wait_for_renewals("acme", 2);
    daemon.stop();
    without_state(&rig);
    for (file, bytes) in &old {
        rig.secret_bytes(file, bytes);
    }
    rig.config.portals.push(Portal::new("initech", "crm"));
    rig.grant("initech");
    let own = |rig: &Rig| rig.sandbox.requests(&domain("initech"));
    let before = own(&rig);
    let daemon = rig.start();
    daemon.wait_for("it is told", |event| {
        is_step(event, "old-state") && says_reason(event, "initech")
    });
    always("it is not sent", Duration::from_secs(4), || {
        own(&rig) == before
    });
    import_its_file(&rig, "initech");
    // As long as a grant is old: one that a reload brings.
    rig.config.portals.push(Portal::new("umbrella", "crm"));
    rig.grant("umbrella");
    rig.write_config();
    daemon.sighup();
    rig.wait_for_phase("umbrella", "old-state");
    for portal in ["acme", "globex"] {
        if rig.get_json(&format!("/v1/portals/{portal}"))["phase"] == "old-state" {
            assert_eq!(rig.import(portal, &rig.install(portal)).code, Some(0));
        }
    }
    assert_eq!(rig.run(["forget", "umbrella", "--yes"]).code, Some(0));
    eventually("it is new now", SOON, || {
        rig.get_json("/v1/portals/umbrella")["phase"] == "fresh"
    });
    daemon.stop();
    rig.no_violations();
}

#[test]
fn a_damaged_record_beside_a_living_state_keeps_no_new_portal_from_its_start() {
    for damaged in ["", "garbage\n"] {
        let mut rig = renewed();
        rig.secret(RECORD, damaged);
        rig.config.portals.push(Portal::new("initech", "crm"));
        rig.grant("initech");
        let daemon = rig.start();
        rig.wait_for_phase("initech", "fresh");
        daemon.wait_for("the damage is told", |event| {
            says(event, "state.db.generations is damaged")
        });
        assert!(
            daemon
                .events(|event| is_step(event, "old-state"))
                .is_empty()
        );
        let record = fs::read_to_string(rig.path(RECORD)).unwrap();
        for portal in ["acme ", "globex "] {
            assert!(
                record.lines().any(|line| line.starts_with(portal)),
                "{record}"
            );
        }
        daemon.stop();
        rig.no_violations();
    }
}

#[test]
fn files_without_a_token_in_them_are_no_traces_and_are_replaced() {
    let names = ["acme", "globex", "hooli"];
    let mut rig = Rig::new(names);
    for portal in names {
        rig.grant(portal);
        fs::create_dir_all(rig.path("tokens").join(portal)).unwrap();
    }
    for form in ["token", "token.json", "header", "env"] {
        rig.secret(&format!("tokens/acme/{form}"), "");
    }
    let made = Command::new("mkfifo")
        .arg(rig.token_path("globex", "token.json"))
        .status();
    assert!(made.unwrap().success());
    rig.secret("tokens/hooli/token.json", "{\"access_token\": \"\"}");
    rig.secret_bytes("tokens/hooli/token", &[0; 40]);
    let daemon = rig.start();
    for portal in names {
        rig.wait_for_phase(portal, "fresh");
        eventually("readers have it", SOON, || rig.has_working_token(portal));
    }
    daemon.stop();
    rig.no_violations();
}
