//! Who is called what, and whose grant is kept.

use super::super::portal::Problem;
use super::super::provider::Class;
use super::*;

fn owner(host: &str) -> Owner {
    Owner {
        member_id: "a223".into(),
        user_id: "67".into(),
        host: host.into(),
        endpoint: format!("https://{host}/rest/"),
        status: None,
    }
}

fn names(rule: &str, host: &str, users: Users) -> Vec<String> {
    let rule = NameRule::parse(rule).unwrap();
    rule.names("crm", &owner(host), users).iter().map(ToString::to_string).collect()
}

#[test]
fn a_rule_names_portals_and_ids_stand_in_where_it_cannot() {
    assert_eq!(
        names("{domain}", "acme.bitrix24.com", Users::Installer),
        ["acme.bitrix24.com", "a223", "a223-crm"]
    );
    assert_eq!(names("{app}-{user_id}.{member_id}", "x", Users::Each)[0], "crm-67.a223");
    assert_eq!(names("{domain}", "acme.example:8443", Users::Installer), ["a223", "a223-crm"]);
    assert_eq!(names("{domain}", &"x".repeat(150), Users::Each), ["a223-67", "a223-67-crm"]);
}

#[test]
fn a_rule_that_cannot_work_is_refused() {
    for (rule, flaw) in [
        ("{domain", NameFlaw::Brace),
        ("domain}", NameFlaw::Brace),
        ("{host}", NameFlaw::Gap("host".into())),
        ("{user_id}", NameFlaw::Same),
        ("b24", NameFlaw::Same),
        ("{domain}/x", NameFlaw::Unsafe('/')),
    ] {
        assert_eq!(NameRule::parse(rule).unwrap_err(), flaw, "{rule}");
    }
}

const INSTALLER: &str = "1";
const EMPLOYEE: &str = "67";

fn held(phase: Option<&Phase>) -> Held<'_> {
    Held { phase, listed: false, user: Some(INSTALLER), installer: Some(INSTALLER), proof: Proof::Proven }
}

fn problem() -> Problem {
    Problem::new(Class::NeedsAuthorization, String::new())
}

#[test]
fn an_employee_never_replaces_the_installers_grant() {
    let since = Timestamp::default();
    let dead = Phase::NeedsAuthorization { since, problem: problem(), while_in_doubt: false };
    let retrying = Phase::Retrying { attempt: 1, since, problem: problem() };
    for phase in [&Phase::Fresh, &retrying, &dead] {
        assert_eq!(decide(Occasion::Opened, held(Some(phase)), EMPLOYEE), Decision::OtherUser, "{phase:?}");
    }
    let unknown = Held { user: None, ..held(Some(&retrying)) };
    assert_eq!(decide(Occasion::Opened, unknown, EMPLOYEE), Decision::OtherUser);
    let gone = Phase::Gone { since, problem: problem() };
    for phase in [None, Some(&gone)] {
        assert_eq!(decide(Occasion::Opened, held(phase), EMPLOYEE), Decision::Take, "{phase:?}");
    }
}

#[test]
fn the_same_user_replaces_what_is_not_fresh() {
    let since = Timestamp::default();
    let retrying = Phase::Retrying { attempt: 1, since, problem: problem() };
    assert_eq!(decide(Occasion::Opened, held(Some(&Phase::Fresh)), INSTALLER), Decision::FreshAlready);
    assert_eq!(decide(Occasion::Opened, held(Some(&retrying)), INSTALLER), Decision::Take);
    let listed = Held { listed: true, user: None, ..held(Some(&Phase::Fresh)) };
    for occasion in [Occasion::Opened, Occasion::Installed, Occasion::SystemUser] {
        assert_eq!(decide(occasion, listed, INSTALLER), Decision::FreshAlready, "{occasion:?}");
    }
}

#[test]
fn the_apps_own_user_keeps_the_grant_while_it_lives() {
    let since = Timestamp::default();
    let held = |phase| Held { user: Some("512"), ..held(Some(phase)) };
    assert_eq!(decide(Occasion::SystemUser, self::held(Some(&Phase::Fresh)), "512"), Decision::Take);
    assert_eq!(decide(Occasion::Opened, held(&Phase::Fresh), INSTALLER), Decision::OtherUser);
    let dead = Phase::NeedsAuthorization { since, problem: problem(), while_in_doubt: false };
    assert_eq!(decide(Occasion::Opened, held(&dead), INSTALLER), Decision::Take);
    assert_eq!(decide(Occasion::Opened, held(&dead), EMPLOYEE), Decision::OtherUser);
}

#[test]
fn an_event_without_proof_replaces_only_what_is_the_users_own_or_left() {
    let since = Timestamp::default();
    let dead = Phase::NeedsAuthorization { since, problem: problem(), while_in_doubt: false };
    let other = |phase| Held { proof: Proof::Other, ..held(phase) };
    let unknown = |phase| Held { proof: Proof::Unknown, ..held(phase) };
    let fresh = Some(&Phase::Fresh);
    assert_eq!(decide(Occasion::Installed, held(fresh), EMPLOYEE), Decision::Take);
    assert_eq!(decide(Occasion::Installed, other(fresh), EMPLOYEE), Decision::OtherInstallation);
    assert_eq!(decide(Occasion::Installed, other(fresh), INSTALLER), Decision::Take);
    // Whoever installs the app anew brings another application token, and the old grant is of no use any more.
    let blocked = Phase::Blocked { attempt: 1, since, problem: problem() };
    for phase in [&dead, &blocked] {
        assert_eq!(decide(Occasion::Installed, other(Some(phase)), EMPLOYEE), Decision::Take, "{phase:?}");
        assert_eq!(decide(Occasion::SystemUser, other(Some(phase)), "512"), Decision::OtherInstallation);
    }
    let retrying = Phase::Retrying { attempt: 1, since, problem: problem() };
    assert_eq!(decide(Occasion::Installed, other(Some(&retrying)), EMPLOYEE), Decision::OtherInstallation);
    for occasion in [Occasion::Installed, Occasion::SystemUser] {
        assert_eq!(decide(occasion, unknown(fresh), EMPLOYEE), Decision::OtherInstallation, "{occasion:?}");
        assert_eq!(decide(occasion, unknown(Some(&dead)), EMPLOYEE), Decision::Take, "{occasion:?}");
        assert_eq!(decide(occasion, unknown(None), EMPLOYEE), Decision::Take, "{occasion:?}");
    }
    assert_eq!(decide(Occasion::SystemUser, other(None), "512"), Decision::OtherInstallation);
}

#[test]
fn an_event_of_another_day_is_stale_and_one_from_ahead_is_about_now() {
    let now = Timestamp::from_secs(1_800_000_000);
    for (offset, stale) in
        [(0, false), (-80_000, false), (-90_000, true), (60, false), (7200, false), (900_000, false)]
    {
        assert_eq!(is_stale(now.shifted(offset * 1000), now), stale, "{offset}");
    }
    for (offset, said) in [(-80_000, None), (20, None), (10_800, Some(10_800))] {
        let ahead = ahead(now.shifted(offset * 1000), now);
        assert_eq!(ahead.map(|ahead| ahead.as_secs()), said, "{offset}");
    }
}
