//! The first notice of an installation may be a stranger's: a person decides, and neither his proof nor his grant stays.

use std::time::Duration;

use refreshd_fake_server::{Fault, Rules};
use serde_json::{Value, json};

use crate::common::installs::{Form, Grant, PROOF, event_of, removal_of, text, with};
use crate::common::{Daemon, Ran, Rig, SOON, always, eventually, says};
use crate::interfaces::contains;
use crate::interfaces::install::installing;

const EMPLOYEE: u64 = 67;
const ADMINISTRATOR: u64 = 1;

/// Portals that say who is an administrator, called by their ids.
fn with_administrators(admins: &[u64]) -> Rig {
    let rig = installing("name = \"{member_id}\"");
    rig.sandbox.serve_portals(admins);
    rig
}

fn seconds(offset: i64) -> String {
    (crate::common::now_millis() / 1000 + offset).to_string()
}

/// The event of an installation that an employee makes up around his own grant.
fn planted(grant: &Grant) -> Form {
    let event = with(
        event_of("ONAPPINSTALL", "auth", grant),
        "auth[application_token]",
        "planted",
    );
    with(event, "ts", &seconds(-60))
}

/// What the portal sends of the true installation.
fn genuine(grant: &Grant) -> Form {
    event_of("ONAPPINSTALL", "auth", grant)
}

/// An employee's notice was first; the portal's name.
fn squat(rig: &Rig) -> String {
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
        event["target"] == "refreshd::install" && event["outcome"] == outcome && says(event, reason)
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
fn json_of(ran: &Ran) -> Value {
    serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{ran:?}"))
}

#[test]
fn the_true_installer_takes_the_place_of_the_first_ones_grant_and_proof_once_a_person_says_so() {
    let rig = with_administrators(&[ADMINISTRATOR]);
    let daemon = rig.start();
    let portal = squat(&rig);
    // What the authorization server does not vouch for is a matter for nobody.
    let true_one = rig.grant_of("acme", ADMINISTRATOR);
    for _ in 0..3 {
        rig.post(
            "",
            &with(genuine(&true_one), "auth[access_token]", &"0".repeat(70)),
        );
    }
    rig.wait_for_installs("forged", 3.0);
    assert_eq!((incidents(&rig), waiting(&rig)), (vec![], json!([])));
    // The true one raises one incident, however often it comes.
    for count in [1.0, 2.0] {
        rig.post("", &genuine(&true_one));
        rig.wait_for_installs("other-user", count);
    }
    let told = daemon.wait_for_step(&portal, "disputed");
    let accept = format!("refreshd install accept {portal}");
    for part in ["user 1 (an administrator", "user 67 (no administrator"] {
        contains(told["reason"].as_str().unwrap(), &[part]);
    }
    contains(
        told["action"].as_str().unwrap(),
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
    assert_eq!(steps, 1, "told once");
    // Nothing is done by itself, least of all to the grant.
    assert_eq!(
        (rig.generation(&portal), user_of(&rig, &portal)),
        (2, json!(EMPLOYEE))
    );
    // Neither is another employee a reason to forget the administrator.
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
        "nobody said that it is meant"
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
    // The first one's proof went with his grant, and the true one's came.
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
    // His events and visits are told of to nobody any more: he is none of the administrators, and the other is.
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
    rig.sandbox.uninstall(&crate::common::domain("acme"));
    rig.post("", &removal_of(&true_one, PROOF, 60));
    rig.wait_for_installs("uninstalled", 1.0);
    rig.wait_for_phase(&portal, "gone");
    let said = format!("{}{}{}", daemon.stderr(), accepted.stdout, accepted.stderr);
    for field in ["access_token", "refresh_token"] {
        assert!(
            !said.contains(&text(&true_one, field)[32..42]),
            "{field} was said"
        );
    }
    daemon.stop();
    rig.no_violations();
}

#[test]
fn a_visit_of_an_administrator_is_a_matter_for_a_person_where_an_employee_was_first() {
    let rig = with_administrators(&[ADMINISTRATOR, 2]);
    let daemon = rig.start();
    let portal = squat(&rig);
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
    // Where an administrator's grant is kept, another one's visit is none.
    for (count, user) in [(1.0, 2), (2.0, EMPLOYEE)] {
        rig.open("acme", &rig.grant_of("acme", user));
        rig.wait_for_installs("other-user", count);
    }
    assert_eq!((incidents(&rig), waiting(&rig)), (vec![], json!([])));
    daemon.stop();
    rig.no_violations();
}

#[test]
fn whoever_is_refused_is_not_told_of_again_and_others_are() {
    let rig = with_administrators(&[]);
    let daemon = rig.start();
    let portal = squat(&rig);
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
fn an_accepted_grant_proves_itself_before_it_takes_the_place_of_one_that_lives() {
    let rig = with_administrators(&[ADMINISTRATOR]);
    let daemon = rig.start();
    let portal = squat(&rig);
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
    // A server that is away proves nothing: the accepted grant waits, over a restart too, and the one before goes on.
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
fn a_removal_with_a_proof_that_a_stranger_may_have_chosen_ends_nothing_by_itself() {
    let rules = Rules {
        token_lifetime: Duration::from_secs(60),
        ..Rules::default()
    };
    let mut rig = Rig::with_rules([], rules);
    rig.config.app().renew_every = Duration::from_secs(50);
    rig.take_installs("name = \"{member_id}\"", "");
    let daemon = rig.start();
    let portal = squat(&rig);
    let requests = rig.requests("acme");
    let grant = rig.grant_of("acme", EMPLOYEE);
    // One renewal, a tenth of a life later, tells that it is not so, and there is not another one within the hour.
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
    // A new grant begins the hour anew; and where it is true, the server says so.
    rig.post(
        "",
        &with(planted(&rig.grant_of("acme", EMPLOYEE)), "ts", &seconds(11)),
    );
    rig.wait_for_installs("resumed", 1.0);
    rig.sandbox.uninstall(&crate::common::domain("acme"));
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
fn a_portal_of_the_configuration_that_waited_is_no_exception() {
    let mut rig = crate::interfaces::calm(["acme"]);
    rig.take_installs("", "");
    let daemon = rig.start();
    rig.post("", &planted(&rig.grant_of("acme", EMPLOYEE)));
    rig.wait_for_installs("resumed", 1.0);
    rig.wait_for_generation("acme", 2);
    // Nobody says who is an administrator there, so an event is a matter for a person, and a visit is not.
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
