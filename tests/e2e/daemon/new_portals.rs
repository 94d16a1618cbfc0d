//! Portals without a grant: a first token is sent only for new portals, whenever they are added.

use std::fs;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::common::{Portal, Rig, SOON, always, domain, eventually, is_step, message_contains};
use crate::daemon::lost_state::{FILES, RECORD, renewed, without_state};

#[test]
fn reload_checks_new_portals_as_a_start_does() {
    let mut rig = renewed();
    without_state(&rig);
    // One portal is known by its token files only, the other by the record only.
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
    let (sent, published) = (rig.server.total_requests(), rig.token_json("acme"));
    rig.config.portals = all;
    rig.config.portals.push(Portal::new("initech", "crm"));
    rig.grant("initech");
    rig.write_config();
    daemon.sighup();
    let event = daemon.wait_for("the report", |event| {
        is_step(event, "old-state") && reason_contains(event, "initech")
    });
    assert!(
        event["severity"] == "critical"
            && reason_contains(&event, "2 of its portals")
            && reason_contains(&event, "acme, globex")
            && reason_contains(&event, "the first token of 1 of its portals is not sent"),
        "{event}"
    );
    always(
        "nothing is sent, and published tokens stay",
        Duration::from_secs(6),
        || rig.server.total_requests() == sent && rig.token_json("acme") == published,
    );
    for portal in ["acme", "globex", "initech"] {
        assert_eq!(
            rig.get_json(&format!("/v1/portals/{portal}"))["phase"],
            "old-state"
        );
    }
    // The operator confirms that it is new.
    import_its_file(&rig, "initech");
    // No portal is in doubt any more, so further ones are accepted.
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

fn reason_contains(event: &Value, text: &str) -> bool {
    event["reason"]
        .as_str()
        .is_some_and(|reason| reason.contains(text))
}

/// Executes the action that the status suggests for a portal held beside a lost state.
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

/// Renames a portal in the configuration, with its first token.
fn rename(rig: &mut Rig, from: &str, to: &str) {
    let token = fs::read_to_string(rig.path(format!("{from}.refresh"))).expect("a first token");
    rig.secret(&format!("{to}.refresh"), &token);
    rig.config.remove(from);
    let mut portal = Portal::new(to, "crm");
    portal.refresh_token_file = true;
    rig.config.portals.push(portal);
}

/// Asserts that a start without the state sends nothing and reports `held`, and that the grants are alive once the state is
/// back.
#[track_caller]
fn holds_until_the_state_is_back(mut rig: Rig, held: &str, change: impl FnOnce(&mut Rig)) {
    let state = without_state(&rig);
    let before = rig.config.clone();
    change(&mut rig);
    let sent = rig.server.total_requests();
    for _ in 0..2 {
        let daemon = rig.start();
        let event = daemon.wait_for("the report", |event| is_step(event, "old-state"));
        assert!(
            event["severity"] == "critical"
                && reason_contains(&event, "the first token of 1 of its portals is not sent")
                && reason_contains(&event, held),
            "{event}"
        );
        always("nothing is sent", Duration::from_secs(4), || {
            rig.server.total_requests() == sent
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
fn renamed_portal_without_state_does_not_send_a_spent_token() {
    holds_until_the_state_is_back(renewed(), "acme-crm", |rig| {
        rename(rig, "acme", "acme-crm");
    });
}

#[test]
fn added_portal_without_state_waits_for_the_operator() {
    holds_until_the_state_is_back(renewed(), "initech", |rig| {
        rig.config.portals.push(Portal::new("initech", "crm"));
        rig.grant("initech");
    });
}

#[test]
fn traces_of_other_portals_count_though_all_were_renamed() {
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
fn first_token_beside_a_restored_backup_waits() {
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
    let own = |rig: &Rig| rig.server.requests(&domain("initech"));
    let before = own(&rig);
    let daemon = rig.start();
    daemon.wait_for("the report", |event| {
        is_step(event, "old-state") && reason_contains(event, "initech")
    });
    always("it is not sent", Duration::from_secs(4), || {
        own(&rig) == before
    });
    import_its_file(&rig, "initech");
    // While a grant is in the old state, a portal added by a reload waits, too.
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
fn damaged_record_beside_a_live_state_blocks_no_new_portal() {
    for damaged in ["", "garbage\n"] {
        let mut rig = renewed();
        rig.secret(RECORD, damaged);
        rig.config.portals.push(Portal::new("initech", "crm"));
        rig.grant("initech");
        let daemon = rig.start();
        rig.wait_for_phase("initech", "fresh");
        daemon.wait_for("the report of the damage", |event| {
            message_contains(event, "state.db.generations is damaged")
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
fn files_without_a_token_are_no_traces_and_are_replaced() {
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
