//! Events of installations: what they begin, what they replace, and what they end.

use crate::common::installs::{PROOF, event_of, removal_of, with};
use crate::common::{Rig, SOON, domain, eventually};
use crate::install::{ACME, installing};

fn user_of(rig: &Rig) -> String {
    rig.token_json(ACME)
        .map(|json| json["fields"]["user_id"].to_string())
        .unwrap_or_default()
}

/// Waits until readers have the token of this user.
#[track_caller]
fn wait_for_user(rig: &Rig, user: &str) {
    eventually(&format!("the token of user {user}"), SOON, || {
        user_of(rig) == user
    });
}

#[test]
fn an_installation_event_brings_the_installers_grant() {
    let rig = installing("");
    let daemon = rig.start();
    rig.open("acme", &rig.grant_of("acme", 1));
    rig.wait_for_installs("stored", 1.0);
    rig.wait_for_generation(ACME, 2);
    // Nothing proves yet that another user's event is one of the portal's: a person decides.
    rig.post(
        "",
        &event_of("ONAPPINSTALL", "auth", &rig.grant_of("acme", 5)),
    );
    rig.wait_for_installs("other-user", 1.0);
    // The installer's own brings the proof, and from then on another installer's counts.
    for (count, user) in [(1_u32, 1), (2, 5)] {
        let event = event_of("ONAPPINSTALL", "auth", &rig.grant_of("acme", user));
        assert_eq!(rig.post("", &event).0, 200);
        rig.wait_for_installs("resumed", f64::from(count));
        wait_for_user(&rig, &user.to_string());
        // What takes a living grant's place has proved itself, and is as good as renewed. The same event once more is none.
        rig.wait_for_generation(ACME, 2 + u64::from(count));
        assert_eq!(rig.post("", &event).0, 200);
        rig.wait_for_installs("replayed", f64::from(count));
    }
    assert_eq!(rig.generation(ACME), 4);
    daemon.stop();
    rig.no_violations();
}

#[test]
fn the_apps_own_user_takes_the_grant_over_and_keeps_it() {
    let rig = installing("");
    let daemon = rig.start();
    rig.post(
        "",
        &event_of("ONAPPINSTALL", "auth", &rig.grant_of("acme", 1)),
    );
    rig.wait_for_installs("stored", 1.0);
    let event = with(
        event_of("ONAPPUSERREADY", "data", &rig.grant_of("acme", 512)),
        "auth[user_id]",
        "1",
    );
    assert_eq!(rig.post("", &event).0, 200);
    rig.wait_for_installs("resumed", 1.0);
    wait_for_user(&rig, "512");
    for (count, user) in [(1.0, 1), (2.0, 67)] {
        rig.open("acme", &rig.grant_of("acme", user));
        rig.wait_for_installs("other-user", count);
    }
    assert_eq!(user_of(&rig), "512");
    daemon.stop();
    rig.no_violations();
}

#[test]
fn a_removal_ends_the_grant_and_a_new_installation_begins_it_again() {
    let rig = installing("");
    let daemon = rig.start();
    let grant = rig.grant_of("acme", 1);
    let base = crate::common::now_millis();
    rig.post(
        "",
        &with(
            event_of("ONAPPINSTALL", "auth", &grant),
            "ts",
            &at(base, -20),
        ),
    );
    rig.wait_for_installs("stored", 1.0);
    rig.wait_for_generation(ACME, 2);
    rig.sandbox.uninstall(&domain("acme"));
    let removal_at = |seconds| with(removal_of(&grant, PROOF, 0), "ts", &at(base, seconds));
    let removal = removal_at(-10);
    assert_eq!(rig.post("", &removal).0, 200);
    rig.wait_for_installs("uninstalled", 1.0);
    rig.wait_for_phase(ACME, "gone");
    eventually("its token files are removed", SOON, || {
        !rig.token_path(ACME, "token").exists()
    });
    let step = daemon.wait_for_step(ACME, "person");
    assert_eq!(step["severity"], "critical");
    let sent = rig.requests("acme");

    // An employee of the portal cannot open what is not installed; whoever installs it again can.
    rig.post(
        "",
        &with(
            event_of("ONAPPINSTALL", "auth", &rig.grant_of("acme", 2)),
            "ts",
            &at(base, -5),
        ),
    );
    rig.wait_for_installs("resumed", 1.0);
    wait_for_user(&rig, "2");
    rig.wait_for_phase(ACME, "fresh");
    assert!(rig.requests("acme") > sent);

    // The removal once more, and one that was sent before the new installation.
    for (count, removal) in [(1.0, removal), (2.0, removal_at(-7))] {
        assert_eq!(rig.post("", &removal).0, 200);
        rig.wait_for_installs("replayed", count);
    }
    assert_eq!(rig.wait_for_phase(ACME, "fresh")["portal"], ACME);
    daemon.stop();
}

/// Seconds of Unix time, so many after `base`: events are compared with each other, however slow the machine is.
fn at(base: i64, seconds: i64) -> String {
    (base / 1000 + seconds).to_string()
}

#[test]
fn a_portal_that_removed_the_app_comes_back_by_being_opened() {
    let mut rig = Rig::new([]);
    rig.take_installs("", "");
    let daemon = rig.start();
    rig.open("acme", &rig.grant_of("acme", 1));
    rig.wait_for_generation(ACME, 2);
    // No event of it comes: the next renewal finds out.
    rig.sandbox.uninstall(&domain("acme"));
    daemon.wait_for_outcome(ACME, "gone");
    rig.open("acme", &rig.grant_of("acme", 3));
    rig.wait_for_installs("resumed", 1.0);
    wait_for_user(&rig, "3");
    daemon.stop();
    rig.no_violations();
}

#[test]
fn other_events_are_ignored_and_counted() {
    let rig = installing("");
    let daemon = rig.start();
    let event = with(
        removal_of(&rig.grant_of("acme", 1), PROOF, 0),
        "event",
        "ONAPPUPDATE",
    );
    assert_eq!(rig.post("", &event).0, 200);
    rig.wait_for_installs("ignored", 1.0);
    assert_eq!(rig.sandbox.questions(), 0);
    daemon.stop();
}
