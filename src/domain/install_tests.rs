//! Naming of installed portals, and which grant is kept.

use super::*;
use refreshd_token_client::problem::Problem;
use refreshd_token_client::provider::Class;

fn owner(host: &str) -> TokenOwner {
    TokenOwner {
        member_id: "a223".into(),
        user_id: "67".into(),
        host: host.into(),
        endpoint: format!("https://{host}/rest/"),
        status: None,
    }
}

fn names(rule: &str, host: &str, users: Users) -> Vec<String> {
    let rule = NameRule::parse(rule).unwrap();
    rule.names("crm", &owner(host), users)
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn a_rule_names_portals_and_ids_stand_in_where_it_cannot() {
    assert_eq!(
        names("{domain}", "acme.bitrix24.com", Users::Installer),
        ["acme.bitrix24.com", "a223", "a223-crm"]
    );
    assert_eq!(
        names("{app}-{user_id}.{member_id}", "x", Users::Each)[0],
        "crm-67.a223"
    );
    assert_eq!(
        names("{domain}", "acme.example:8443", Users::Installer),
        ["a223", "a223-crm"]
    );
    assert_eq!(
        names("{domain}", &"x".repeat(150), Users::Each),
        ["a223-67", "a223-67-crm"]
    );
}

#[test]
fn a_rule_that_cannot_work_is_refused() {
    for (rule, flaw) in [
        ("{domain", NameTemplateError::Brace),
        ("domain}", NameTemplateError::Brace),
        ("{host}", NameTemplateError::Gap("host".into())),
        ("{user_id}", NameTemplateError::Same),
        ("b24", NameTemplateError::Same),
        ("{domain}/x", NameTemplateError::Unsafe('/')),
    ] {
        assert_eq!(NameRule::parse(rule).unwrap_err(), flaw, "{rule}");
    }
}

const INSTALLER: &str = "1";
const EMPLOYEE: &str = "67";

fn held(phase: Option<&Phase>) -> CurrentGrant<'_> {
    CurrentGrant {
        phase,
        listed: false,
        user: Some(INSTALLER),
        installer: Some(INSTALLER),
        proof: OwnershipProof::Proven,
    }
}

fn problem() -> Problem {
    Problem::new(Class::NeedsAuthorization, String::new())
}

#[test]
fn an_employee_never_replaces_the_installers_grant() {
    let since = Timestamp::default();
    let dead = Phase::NeedsAuthorization {
        since,
        problem: problem(),
        while_in_doubt: false,
    };
    let retrying = Phase::Retrying {
        attempt: 1,
        since,
        problem: problem(),
    };
    for phase in [&Phase::Fresh, &retrying, &dead] {
        assert_eq!(
            decide(EventKind::Opened, held(Some(phase)), EMPLOYEE),
            InstallDecision::OtherUser,
            "{phase:?}"
        );
    }
    let unknown = CurrentGrant {
        user: None,
        ..held(Some(&retrying))
    };
    assert_eq!(
        decide(EventKind::Opened, unknown, EMPLOYEE),
        InstallDecision::OtherUser
    );
    let gone = Phase::Gone {
        since,
        problem: problem(),
    };
    for phase in [None, Some(&gone)] {
        assert_eq!(
            decide(EventKind::Opened, held(phase), EMPLOYEE),
            InstallDecision::Take,
            "{phase:?}"
        );
    }
}

#[test]
fn the_same_user_replaces_what_is_not_fresh() {
    let since = Timestamp::default();
    let retrying = Phase::Retrying {
        attempt: 1,
        since,
        problem: problem(),
    };
    assert_eq!(
        decide(EventKind::Opened, held(Some(&Phase::Fresh)), INSTALLER),
        InstallDecision::FreshAlready
    );
    assert_eq!(
        decide(EventKind::Opened, held(Some(&retrying)), INSTALLER),
        InstallDecision::Take
    );
    let listed = CurrentGrant {
        listed: true,
        user: None,
        ..held(Some(&Phase::Fresh))
    };
    for occasion in [EventKind::Opened, EventKind::SystemUser] {
        assert_eq!(
            decide(occasion, listed, INSTALLER),
            InstallDecision::FreshAlready,
            "{occasion:?}"
        );
    }
}

#[test]
fn a_new_installation_replaces_a_grant_that_looks_fresh_where_it_is_the_users_or_proven() {
    for listed in [true, false] {
        for (user, proof, expected) in [
            (
                Some(INSTALLER),
                OwnershipProof::Other,
                InstallDecision::Take,
            ),
            (
                Some(INSTALLER),
                OwnershipProof::Unknown,
                InstallDecision::Take,
            ),
            (
                Some(EMPLOYEE),
                OwnershipProof::Proven,
                InstallDecision::Take,
            ),
            (None, OwnershipProof::Proven, InstallDecision::Take),
            (
                None,
                OwnershipProof::Unknown,
                InstallDecision::OtherInstallation,
            ),
            (
                Some(EMPLOYEE),
                OwnershipProof::Unknown,
                InstallDecision::OtherInstallation,
            ),
            (
                Some(EMPLOYEE),
                OwnershipProof::Other,
                InstallDecision::OtherInstallation,
            ),
        ] {
            let held = CurrentGrant {
                listed,
                user,
                proof,
                ..held(Some(&Phase::Fresh))
            };
            assert_eq!(
                decide(EventKind::Installed, held, INSTALLER),
                expected,
                "{listed} {user:?} {proof:?}"
            );
        }
    }
}

#[test]
fn the_apps_own_user_keeps_the_grant_while_it_lives() {
    let since = Timestamp::default();
    let held = |phase| CurrentGrant {
        user: Some("512"),
        ..held(Some(phase))
    };
    assert_eq!(
        decide(
            EventKind::SystemUser,
            self::held(Some(&Phase::Fresh)),
            "512"
        ),
        InstallDecision::Take
    );
    assert_eq!(
        decide(EventKind::Opened, held(&Phase::Fresh), INSTALLER),
        InstallDecision::OtherUser
    );
    let dead = Phase::NeedsAuthorization {
        since,
        problem: problem(),
        while_in_doubt: false,
    };
    assert_eq!(
        decide(EventKind::Opened, held(&dead), INSTALLER),
        InstallDecision::Take
    );
    assert_eq!(
        decide(EventKind::Opened, held(&dead), EMPLOYEE),
        InstallDecision::OtherUser
    );
}

#[test]
fn an_event_without_proof_replaces_only_what_is_the_users_own_or_left() {
    let since = Timestamp::default();
    let dead = Phase::NeedsAuthorization {
        since,
        problem: problem(),
        while_in_doubt: false,
    };
    let other = |phase| CurrentGrant {
        proof: OwnershipProof::Other,
        ..held(phase)
    };
    let unknown = |phase| CurrentGrant {
        proof: OwnershipProof::Unknown,
        ..held(phase)
    };
    let fresh = Some(&Phase::Fresh);
    assert_eq!(
        decide(EventKind::Installed, held(fresh), EMPLOYEE),
        InstallDecision::Take
    );
    assert_eq!(
        decide(EventKind::Installed, other(fresh), EMPLOYEE),
        InstallDecision::OtherInstallation
    );
    assert_eq!(
        decide(EventKind::Installed, other(fresh), INSTALLER),
        InstallDecision::Take
    );
    // A new installation has another application token, and the old grant no longer works.
    let blocked = Phase::Blocked {
        attempt: 1,
        since,
        problem: problem(),
    };
    for phase in [&dead, &blocked] {
        assert_eq!(
            decide(EventKind::Installed, other(Some(phase)), EMPLOYEE),
            InstallDecision::Take,
            "{phase:?}"
        );
        assert_eq!(
            decide(EventKind::SystemUser, other(Some(phase)), "512"),
            InstallDecision::OtherInstallation
        );
    }
    let retrying = Phase::Retrying {
        attempt: 1,
        since,
        problem: problem(),
    };
    assert_eq!(
        decide(EventKind::Installed, other(Some(&retrying)), EMPLOYEE),
        InstallDecision::OtherInstallation
    );
    for occasion in [EventKind::Installed, EventKind::SystemUser] {
        assert_eq!(
            decide(occasion, unknown(fresh), EMPLOYEE),
            InstallDecision::OtherInstallation,
            "{occasion:?}"
        );
        assert_eq!(
            decide(occasion, unknown(Some(&dead)), EMPLOYEE),
            InstallDecision::Take,
            "{occasion:?}"
        );
        assert_eq!(
            decide(occasion, unknown(None), EMPLOYEE),
            InstallDecision::Take,
            "{occasion:?}"
        );
    }
    assert_eq!(
        decide(EventKind::SystemUser, other(None), "512"),
        InstallDecision::OtherInstallation
    );
}

#[test]
fn an_event_of_another_day_is_stale_and_one_from_ahead_is_about_now() {
    let now = Timestamp::from_secs(1_800_000_000);
    for (offset, stale) in [
        (0, false),
        (-80_000, false),
        (-90_000, true),
        (60, false),
        (7200, false),
        (900_000, false),
    ] {
        assert_eq!(is_stale(now.shifted(offset * 1000), now), stale, "{offset}");
    }
    for (offset, expected) in [(-80_000, None), (20, None), (10_800, Some(10_800))] {
        let ahead = ahead(now.shifted(offset * 1000), now);
        assert_eq!(ahead.map(|ahead| ahead.as_secs()), expected, "{offset}");
    }
}
