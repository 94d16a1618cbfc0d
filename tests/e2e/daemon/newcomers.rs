//! Portals without a grant: a first token is sent for those that are new, and for no other, whenever they come.

use std::fs;
use std::process::Command;
use std::time::Duration;

use crate::common::{Portal, Rig, SOON, always, is_step, says};
use crate::daemon::lost_state::{RECORD, renewed, without_state};

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
    rig.wait_for_phase("initech", "fresh");
    let said = daemon.wait_for("it is told", |event| is_step(event, "old-state"));
    let reason = said["reason"].as_str().unwrap_or_default();
    assert!(
        said["severity"] == "critical"
            && reason.contains("2 of its portals")
            && reason.contains("acme, globex"),
        "{said}"
    );
    let own = || rig.sandbox.requests(&crate::common::domain("initech"));
    always(
        "nothing else is sent, and readers keep what they have",
        Duration::from_secs(6),
        || rig.sandbox.total_requests() == sent + own() && rig.token_json("acme") == published,
    );
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
        crate::common::eventually("readers have it", SOON, || rig.has_working_token(portal));
    }
    daemon.stop();
    rig.no_violations();
}
