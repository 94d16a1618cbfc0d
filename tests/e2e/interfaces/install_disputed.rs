//! The first install event may be forged: the operator decides, and neither the sender's application token nor grant stays.

use std::time::Duration;

use refreshd_fake_server::{Fault, Rules};
use serde_json::{Value, json};

use crate::common::installs::{Form, Grant, PROOF, event_of, removal_of, text, with};
use crate::common::{CommandOutput, Daemon, Rig, SOON, always, eventually, message_contains};
use crate::interfaces::contains;
use crate::interfaces::install::installing;

const EMPLOYEE: u64 = 67;
const ADMINISTRATOR: u64 = 1;

/// Portals that report their administrators, named by their ids.
fn with_administrators(admins: &[u64]) -> Rig {
    let rig = installing("name = \"{member_id}\"");
    rig.server.serve_portals(admins);
    rig
}

fn seconds(offset: i64) -> String {
    (crate::common::now_millis() / 1000 + offset).to_string()
}

/// An install event that an employee forges around an own grant.
fn planted(grant: &Grant) -> Form {
    let event = with(
        event_of("ONAPPINSTALL", "auth", grant),
        "auth[application_token]",
        "planted",
    );
    with(event, "ts", &seconds(-60))
}

/// The portal's event of the true installation.
fn genuine(grant: &Grant) -> Form {
    event_of("ONAPPINSTALL", "auth", grant)
}

/// An employee's event comes first; returns the portal's name.
fn forged_first(rig: &Rig) -> String {
    let grant = rig.grant_of("acme", EMPLOYEE);
    rig.post("", &planted(&grant));
    rig.wait_for_installs("stored", 1.0);
    let name = text(&grant, "member_id");
    rig.wait_for_generation(&name, 2);
    name
}

/// The open incidents about installs.
fn incidents(rig: &Rig) -> Vec<Value> {
    let report = rig.get_json("/v1/alerts");
    let all = report["incidents"].as_array().cloned().unwrap_or_default();
    all.into_iter()
        .filter(|it| {
            it["key"]
                .as_str()
                .is_some_and(|key| key.ends_with("/install"))
        })
        .collect()
}

#[track_caller]
fn wait_for_incidents(rig: &Rig, count: usize) {
    eventually(&format!("{count} incidents"), SOON, || {
        incidents(rig).len() == count
    });
}

#[track_caller]
fn line(daemon: &Daemon, outcome: &str, reason: &str) {
    daemon.wait_for(&format!("the line of {outcome}: {reason}"), |event| {
        event["target"] == "refreshd::install"
            && event["outcome"] == outcome
            && message_contains(event, reason)
    });
}

fn user_of(rig: &Rig, portal: &str) -> Value {
    rig.token_json(portal)
        .map(|json| json["fields"]["user_id"].clone())
        .unwrap_or_default()
}

fn waiting(rig: &Rig) -> Value {
    json_of(&rig.run(["install", "list", "--json"]))["waiting"].clone()
}

#[track_caller]
fn json_of(ran: &CommandOutput) -> Value {
    serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{ran:?}"))
}

#[test]
fn operator_lets_the_true_installer_replace_the_first_sender() {
    let rig = with_administrators(&[ADMINISTRATOR]);
    let daemon = rig.start();
    let portal = forged_first(&rig);
    // An event that the authorization server does not verify raises no incident.
    let genuine_grant = rig.grant_of("acme", ADMINISTRATOR);
    for _ in 0..3 {
        rig.post(
            "",
            &with(
                genuine(&genuine_grant),
                "auth[access_token]",
                &"0".repeat(70),
            ),
        );
    }
    rig.wait_for_installs("forged", 3.0);
    assert_eq!((incidents(&rig), waiting(&rig)), (vec![], json!([])));
    // The genuine one raises one incident, however often it comes.
    for count in [1.0, 2.0] {
        rig.post("", &genuine(&genuine_grant));
        rig.wait_for_installs("other-user", count);
    }
    let event = daemon.wait_for_step(&portal, "disputed");
    let accept = format!("refreshd install accept {portal}");
    for part in ["user 1 (an administrator", "user 67 (no administrator"] {
        contains(event["reason"].as_str().unwrap(), &[part]);
    }
    contains(
        event["action"].as_str().unwrap(),
        &[&accept, &format!("refreshd install refuse {portal}")],
    );
    wait_for_incidents(&rig, 1);
    let open = incidents(&rig).remove(0);
    assert_eq!(
        (&open["severity"], &open["key"]),
        (
            &"critical".into(),
            &format!("portal/{portal}/install").into()
        )
    );
    contains(open["action"].as_str().unwrap(), &[&accept]);
    let steps = daemon.events(|event| event["step"] == "disputed").len();
    assert_eq!(steps, 1, "logged once");
    // Nothing is done automatically, least of all to the grant.
    assert_eq!(
        (rig.generation(&portal), user_of(&rig, &portal)),
        (2, json!(EMPLOYEE))
    );
    // An event of another employee does not displace the administrator's.
    rig.post(
        "",
        &with(
            genuine(&rig.grant_of("acme", 68)),
            "auth[application_token]",
            "a-third-one",
        ),
    );
    rig.wait_for_installs("other-user", 3.0);
    daemon.stop();

    // Hours later, and after a restart.
    let daemon = rig.start();
    wait_for_incidents(&rig, 1);
    let listed = rig.run(["install", "list", "--json"]);
    assert_eq!(listed.code, Some(1));
    let listed = json_of(&listed)["waiting"][0].clone();
    assert_eq!(
        (
            &listed["user"],
            &listed["holder"],
            &listed["administrator"],
            &listed["occasion"]
        ),
        (&"1".into(), &"67".into(), &true.into(), &"installed".into())
    );
    assert_eq!(
        rig.run(["install", "accept", &portal]).code,
        Some(64),
        "without a confirmation"
    );
    assert_eq!(
        rig.run(["install", "accept", &portal, "--user", "68", "--yes"])
            .code,
        Some(75)
    );
    let accepted = rig.run([
        "install", "accept", &portal, "--user", "1", "--yes", "--json",
    ]);
    assert_eq!(accepted.code, Some(0), "{accepted:?}");
    let accepted_json = json_of(&accepted);
    assert_eq!(
        (&accepted_json["outcome"], &accepted_json["generation"]),
        (&"renewed".into(), &3.into())
    );
    eventually("the administrator's token", SOON, || {
        user_of(&rig, &portal) == json!(ADMINISTRATOR)
    });
    wait_for_incidents(&rig, 0);
    assert_eq!(waiting(&rig), json!([]));
    // The employee's application token is replaced by the genuine one together with the grant.
    let requests = rig.requests("acme");
    rig.post(
        "",
        &removal_of(&rig.grant_of("acme", EMPLOYEE), "planted", 5),
    );
    line(
        &daemon,
        "forged",
        "its application token is not that of the installation",
    );
    assert_eq!(
        rig.requests("acme"),
        requests,
        "it was renewed a moment ago"
    );
    // The employee's events and visits are not reported any more: the employee is no administrator, and the owner is.
    rig.post(
        "",
        &with(
            genuine(&rig.grant_of("acme", EMPLOYEE)),
            "auth[application_token]",
            "planted",
        ),
    );
    line(
        &daemon,
        "forged",
        "its application token is not that of the installation of",
    );
    assert_eq!(
        (incidents(&rig), user_of(&rig, &portal)),
        (vec![], json!(ADMINISTRATOR))
    );
    rig.server.uninstall(&crate::common::domain("acme"));
    rig.post("", &removal_of(&genuine_grant, PROOF, 60));
    rig.wait_for_installs("uninstalled", 1.0);
    rig.wait_for_phase(&portal, "gone");
    let output = format!("{}{}{}", daemon.stderr(), accepted.stdout, accepted.stderr);
    for field in ["access_token", "refresh_token"] {
        assert!(
            !output.contains(&text(&genuine_grant, field)[32..42]),
            "{field} was shown"
        );
    }
    daemon.stop();
    rig.no_violations();
}

#[test]
fn administrator_after_an_employee_is_disputed() {
    let rig = with_administrators(&[ADMINISTRATOR, 2]);
    let daemon = rig.start();
    let portal = forged_first(&rig);
    rig.open("acme", &rig.grant_of("acme", 68));
    rig.wait_for_installs("other-user", 1.0);
    assert_eq!(waiting(&rig), json!([]), "an employee's visit is none");
    rig.open("acme", &rig.grant_of("acme", ADMINISTRATOR));
    rig.wait_for_installs("other-user", 2.0);
    wait_for_incidents(&rig, 1);
    assert_eq!(waiting(&rig)[0]["occasion"], "opened");
    daemon.stop();
    // Without a daemon, too.
    let accepted = rig.run(["install", "accept", &portal, "--yes"]);
    assert_eq!(accepted.code, Some(0), "{accepted:?}");
    contains(&accepted.stderr, &["imported and renewed (generation 3)"]);
    let nothing = rig.run(["install", "accept", &portal, "--yes"]);
    assert_eq!(nothing.code, Some(66));
    contains(
        &nothing.stderr,
        &["no install of another user waits for a decision"],
    );
    let daemon = rig.start();
    eventually("the administrator's token", SOON, || {
        user_of(&rig, &portal) == json!(ADMINISTRATOR)
    });
    // If an administrator's grant is in force, another administrator's visit is ignored.
    for (count, user) in [(1.0, 2), (2.0, EMPLOYEE)] {
        rig.open("acme", &rig.grant_of("acme", user));
        rig.wait_for_installs("other-user", count);
    }
    assert_eq!((incidents(&rig), waiting(&rig)), (vec![], json!([])));
    daemon.stop();
    rig.no_violations();
}

#[test]
fn refused_sender_is_not_reported_again() {
    let rig = with_administrators(&[]);
    let daemon = rig.start();
    let portal = forged_first(&rig);
    rig.post("", &genuine(&rig.grant_of("acme", 5)));
    wait_for_incidents(&rig, 1);
    let refused = rig.run(["install", "refuse", &portal, "--yes", "--json"]);
    assert_eq!(
        (refused.code, &json_of(&refused)["user"]),
        (Some(0), &"5".into())
    );
    wait_for_incidents(&rig, 0);
    rig.post("", &genuine(&rig.grant_of("acme", 5)));
    rig.wait_for_installs("other-user", 2.0);
    line(
        &daemon,
        "other-user",
        "a person has refused this user's installs before",
    );
    assert_eq!(waiting(&rig), json!([]));
    rig.post("", &genuine(&rig.grant_of("acme", 6)));
    rig.wait_for_installs("other-user", 3.0);
    wait_for_incidents(&rig, 1);
    daemon.stop();
    assert_eq!(
        rig.run(["install", "refuse", &portal, "--yes"]).code,
        Some(0),
        "without a daemon"
    );
    assert_eq!(waiting(&rig), json!([]));
    let daemon = rig.start();
    wait_for_incidents(&rig, 0);
    assert_eq!(rig.generation(&portal), 2);
    assert_eq!(user_of(&rig, &portal), json!(EMPLOYEE));
    daemon.stop();
}

#[test]
fn approved_grant_is_verified_before_it_replaces_a_live_one() {
    let rig = with_administrators(&[ADMINISTRATOR]);
    let daemon = rig.start();
    let portal = forged_first(&rig);
    rig.post("", &genuine(&rig.grant_of("acme", ADMINISTRATOR)));
    wait_for_incidents(&rig, 1);
    rig.fail(
        "acme",
        Fault::Refuse {
            status: 400,
            error: "invalid_grant".into(),
            description: String::new(),
        },
        1,
    );
    let refused = rig.run(["install", "accept", &portal, "--yes"]);
    assert_eq!(refused.code, Some(65), "{refused:?}");
    assert_eq!(
        (rig.generation(&portal), user_of(&rig, &portal)),
        (2, json!(EMPLOYEE))
    );
    wait_for_incidents(&rig, 0);
    // An unreachable server verifies nothing: the accepted grant waits, across a restart, and the previous one stays in force.
    rig.post("", &genuine(&rig.grant_of("acme", ADMINISTRATOR)));
    wait_for_incidents(&rig, 1);
    let away = Fault::Refuse {
        status: 500,
        error: "oops".into(),
        description: String::new(),
    };
    rig.fail("acme", away, u32::MAX);
    let pending = rig.run(["install", "accept", &portal, "--yes", "--json"]);
    assert_eq!(
        (pending.code, &json_of(&pending)["outcome"]),
        (Some(75), &"pending".into())
    );
    assert_eq!(
        rig.run(["install", "refuse", &portal, "--yes"]).code,
        Some(75)
    );
    wait_for_incidents(&rig, 0);
    assert_eq!(user_of(&rig, &portal), json!(EMPLOYEE));
    daemon.stop();
    rig.heal("acme");
    let daemon = rig.start();
    eventually("the administrator's token", SOON * 4, || {
        user_of(&rig, &portal) == json!(ADMINISTRATOR)
    });
    rig.post(
        "",
        &removal_of(&rig.grant_of("acme", EMPLOYEE), "planted", 5),
    );
    line(
        &daemon,
        "forged",
        "its application token is not that of the installation",
    );
    daemon.stop();
    rig.no_violations();
}

#[test]
fn unverified_uninstall_proof_ends_nothing() {
    let rules = Rules {
        token_lifetime: Duration::from_secs(60),
        ..Rules::default()
    };
    let mut rig = Rig::with_rules([], rules);
    rig.config.app().renew_every = Duration::from_secs(50);
    rig.take_installs("name = \"{member_id}\"", "");
    let daemon = rig.start();
    let portal = forged_first(&rig);
    let requests = rig.requests("acme");
    let grant = rig.grant_of("acme", EMPLOYEE);
    // One renewal, a tenth of a life later, disproves it, and there is no other within the hour.
    rig.post("", &removal_of(&grant, "planted", 0));
    rig.wait_for_installs("uninstalled", 1.0);
    line(&daemon, "uninstalled", "which shows whether it is true");
    rig.wait_for_generation(&portal, 3);
    rig.post("", &removal_of(&grant, "planted", 10));
    rig.wait_for_installs("uninstalled", 2.0);
    line(
        &daemon,
        "uninstalled",
        "a renewal was asked for in the last hour already",
    );
    always("fresh", Duration::from_millis(300), || {
        rig.get_json(&format!("/v1/portals/{portal}"))["phase"] == "fresh"
    });
    assert_eq!(
        (rig.requests("acme"), rig.generation(&portal)),
        (requests + 1, 3)
    );
    assert!(rig.has_working_token(&portal));
    // A new grant starts the hour again; if the uninstallation is true, the server reports it.
    rig.post(
        "",
        &with(planted(&rig.grant_of("acme", EMPLOYEE)), "ts", &seconds(11)),
    );
    rig.wait_for_installs("resumed", 1.0);
    rig.server.uninstall(&crate::common::domain("acme"));
    rig.post("", &removal_of(&grant, "planted", 20));
    rig.wait_for_installs("uninstalled", 3.0);
    rig.wait_for_phase(&portal, "gone");
    eventually("its token files are removed", SOON, || {
        !rig.token_path(&portal, "token").exists()
    });
    daemon.stop();
    rig.no_violations();
}

#[test]
fn configured_portal_that_waited_is_disputed_too() {
    let mut rig = crate::interfaces::calm(["acme"]);
    rig.take_installs("", "");
    let daemon = rig.start();
    rig.post("", &planted(&rig.grant_of("acme", EMPLOYEE)));
    rig.wait_for_installs("resumed", 1.0);
    rig.wait_for_generation("acme", 2);
    // The portal does not report its administrators, so an event needs a decision, and a visit does not.
    rig.open("acme", &rig.grant_of("acme", ADMINISTRATOR));
    rig.wait_for_installs("other-user", 1.0);
    assert_eq!(waiting(&rig), json!([]));
    rig.post("", &genuine(&rig.grant_of("acme", ADMINISTRATOR)));
    rig.wait_for_installs("other-user", 2.0);
    contains(
        daemon.wait_for_step("acme", "disputed")["reason"]
            .as_str()
            .unwrap(),
        &["did not say"],
    );
    let accepted = rig.run(["install", "accept", "acme", "--yes"]);
    assert_eq!(accepted.code, Some(0), "{accepted:?}");
    eventually("the administrator's token", SOON, || {
        user_of(&rig, "acme") == json!(ADMINISTRATOR)
    });
    daemon.stop();
    rig.no_violations();
}
