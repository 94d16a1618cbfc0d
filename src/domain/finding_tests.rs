//! Findings about a portal, and the causes that portals share.

use super::*;
use crate::domain::escalation::default_steps;
use crate::domain::portal::{GrantStatus, binding};
use crate::domain::settings::Settings;
use refreshd_secrets::{AccessToken, RefreshToken};
use refreshd_token_client::problem::Problem;
use refreshd_token_client::token::{Credential, Details, Generation, Tokens, Validity};

/// Issued at minute 0, due at 20, ends at 60.
fn at(minutes: i64) -> Timestamp {
    Timestamp::from_secs(1_795_000_000 + minutes * 60)
}

fn problem(class: Class) -> Problem {
    Problem::new(class, "words".to_owned())
}

fn retrying(class: Class) -> Phase {
    Phase::Retrying {
        attempt: 3,
        since: at(20),
        problem: problem(class),
    }
}

fn dead() -> Phase {
    Phase::NeedsAuthorization {
        since: at(20),
        problem: problem(Class::NeedsAuthorization),
        while_in_doubt: false,
    }
}

fn portal(app: &str, phase: Phase, notified: &[&str]) -> Portal {
    let access = Access {
        token: AccessToken::new("a").unwrap(),
        token_type: "Bearer".into(),
        issued_at: at(0),
        expires_at: at(60),
    };
    let grant = Grant {
        generation: Generation(1),
        tokens: Tokens {
            access: Some(access),
            credential: Credential::Refresh(RefreshToken::new("r").unwrap()),
            details: Details::default(),
            validity: Validity::default(),
        },
        status: GrantStatus {
            phase,
            renew_at: Some(at(20)),
            next_attempt_at: Some(at(20)),
        },
        renewed_at: at(0),
        bound_to: binding("a", "b"),
        token_url: "https://oauth.example/token/".into(),
        identity: None,
        notified: notified.iter().map(|step| (*step).to_owned()).collect(),
        claim: None,
        tried_at: None,
    };
    let settings: Settings =
        serde_json::from_value(serde_json::json!({"app": app, "formats": ["json"]})).unwrap();
    Portal {
        name: PortalName::parse("acme").unwrap(),
        settings: Some(settings),
        binding: Some(binding("a", "b")),
        config_url: None,
        grant: Some(grant),
        unreadable: None,
        bought_by: None,
        client_refused: None,
        lost: None,
        candidate: None,
    }
}

fn inspect(portal: &Portal, refused: &[&str], minute: i64) -> Option<Finding> {
    let refused = refused
        .iter()
        .map(|app| ((*app).to_owned(), at(0)))
        .collect();
    let ladder = default_steps();
    of_portal(
        portal,
        FindingContext {
            ladder: &ladder,
            refused: &refused,
            now: at(minute),
        },
    )
}

fn steps(finding: &Finding) -> Vec<&str> {
    finding
        .reached
        .iter()
        .map(|step| step.id.as_str())
        .collect()
}

fn group_of(finding: &Finding) -> (&str, bool) {
    finding
        .group
        .as_ref()
        .map_or(("", false), |group| (group.key.as_str(), group.always))
}

#[test]
fn what_was_told_and_is_so_are_the_steps_that_count() {
    let finding = inspect(
        &portal("crm", retrying(Class::Transient), &["failed", "overdue"]),
        &[],
        33,
    )
    .unwrap();
    assert_eq!(
        (finding.key.as_str(), steps(&finding)),
        ("portal/acme", vec!["failed", "overdue"])
    );
    assert_eq!((finding.since, finding.expires_at), (at(20), Some(at(60))));
    assert_eq!(inspect(&portal("crm", Phase::Fresh, &[]), &[], 33), None);
    assert_eq!(
        inspect(
            &portal("crm", Phase::Fresh, &["of another ladder"]),
            &[],
            33
        ),
        None
    );
}

/// An incident shows the text of its newest message, which may be days old.
#[test]
fn of_a_dead_grant_no_time_is_told_that_will_have_passed() {
    let mut portal = portal("crm", dead(), &["person"]);
    let next = at(70);
    portal.grant.as_mut().unwrap().status.next_attempt_at = Some(next);
    let action = inspect(&portal, &[], 61).unwrap().action;
    assert!(
        action.contains("asked again by itself") && !action.contains(&next.to_string()),
        "{action}"
    );
}

#[test]
fn what_only_a_person_can_mend_is_that_alone_and_says_what() {
    let finding = inspect(
        &portal("crm", dead(), &["failed", "person", "overdue", "expired"]),
        &[],
        61,
    )
    .unwrap();
    assert_eq!(steps(&finding), ["person@needs-authorization"]);
    assert!(
        finding.action.contains("refreshd authorize acme"),
        "{}",
        finding.action
    );
    assert!(
        finding.action_for_all.contains("refreshd authorize PORTAL"),
        "{}",
        finding.action_for_all
    );
}

/// An imported grant resolves nothing before its first renewal, and brings no new finding.
#[test]
fn a_grant_that_was_handed_over_is_no_news_and_not_the_end() {
    let notified = ["failed", "person", "overdue", "late", "expiring", "expired"];
    let mut fresh = portal("crm", Phase::Fresh, &notified);
    fresh.grant.as_mut().unwrap().status.renew_at = Some(at(5));
    let finding = inspect(&fresh, &[], 5).unwrap();
    assert_eq!(
        (finding.key.as_str(), steps(&finding)),
        ("portal/acme", Vec::new())
    );
}

#[test]
fn troubles_are_folded_with_those_that_have_their_cause() {
    let group = |phase, refused: &[&str]| {
        let finding = inspect(
            &portal("crm", phase, &["failed", "person", "overdue"]),
            refused,
            40,
        )
        .unwrap();
        let (key, always) = group_of(&finding);
        (key.to_owned(), always)
    };
    let rejected = || Phase::ClientRejected {
        attempt: 1,
        since: at(20),
        problem: problem(Class::ClientRejected),
    };
    let is = |key: &str, always| (key.to_owned(), always);
    let own = Phase::ClientRejected {
        attempt: 1,
        since: at(20),
        problem: Problem {
            works_for: Some(1),
            ..problem(Class::ClientRejected)
        },
    };
    assert_eq!(
        group(own, &[]),
        is("app/crm/client-rejected", false),
        "another portal succeeds"
    );
    assert_eq!(
        group(rejected(), &[]),
        is("app/crm", true),
        "none does, as far as is known"
    );
    assert_eq!(
        group(retrying(Class::Transient), &[]),
        is("server/oauth.example", false)
    );
    assert_eq!(group(dead(), &[]), is("app/crm/needs-authorization", false));
    assert_eq!(group(rejected(), &["crm"]), is("app/crm", true));
    assert_eq!(
        group(Phase::Fresh, &["crm"]),
        is("app/crm", true),
        "it waits for the app"
    );
    assert_eq!(
        group(dead(), &["crm"]),
        is("app/crm/needs-authorization", false),
        "that is its own"
    );
    assert_eq!(
        group(Phase::Fresh, &[]),
        is("daemon/overdue", false),
        "no portal has tried it"
    );
}

#[test]
fn a_client_of_ones_own_is_shared_with_nobody() {
    let own = format!("{OWN_APP}acme");
    let finding = inspect(&portal(&own, dead(), &["failed", "person"]), &[], 40).unwrap();
    assert_eq!(finding.group, None);
}

#[test]
fn a_changed_client_and_a_row_that_cannot_be_read_say_so() {
    let mut changed = portal("crm", Phase::Fresh, &["overdue"]);
    changed.binding = Some(binding("another", "b"));
    let finding = inspect(&changed, &[], 40).unwrap();
    assert!(
        finding.reason.contains("changed in the configuration"),
        "{}",
        finding.reason
    );
    let mut unreadable = portal("crm", Phase::Fresh, &[]);
    unreadable.unreadable = Some("problem");
    let finding = inspect(&unreadable, &[], 40).unwrap();
    assert_eq!(
        (finding.key.as_str(), group_of(&finding)),
        ("portal/acme/unreadable", ("daemon/unreadable", false))
    );
    let mut dropped = portal("crm", dead(), &["failed", "person"]);
    dropped.settings = None;
    assert_eq!(inspect(&dropped, &[], 40), None);
}
