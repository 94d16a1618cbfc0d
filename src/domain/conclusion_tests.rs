//! Effects of a renewal, by its outcome and by what the state answered.

use super::super::escalation::default_steps;
use super::super::portal::{GrantStatus, binding};
use super::super::renewal::Renewed;
use super::*;
use refreshd_secrets::{AccessToken, RefreshToken};
use refreshd_token_client::error_table::Class;
use refreshd_token_client::token::{Access, Credential, Details, Tokens, Validity};

fn at(minutes: i64) -> Timestamp {
    Timestamp::from_secs(1_795_000_000 + minutes * 60)
}

fn tokens(issued: i64) -> Tokens {
    Tokens {
        access: Some(Access {
            token: AccessToken::new("a").unwrap(),
            token_type: "Bearer".into(),
            issued_at: at(issued),
            expires_at: at(issued + 60),
        }),
        credential: Credential::Refresh(RefreshToken::new("r").unwrap()),
        details: Details::default(),
        validity: Validity::default(),
    }
}

fn status(phase: Phase, next: i64) -> GrantStatus {
    GrantStatus {
        phase,
        renew_at: Some(at(25)),
        next_attempt_at: Some(at(next)),
    }
}

fn problem(class: Class) -> Problem {
    Problem {
        code: Some("CODE".into()),
        ..Problem::new(class, "words".into())
    }
}

fn retrying(class: Class) -> Phase {
    Phase::Retrying {
        attempt: 1,
        since: at(25),
        problem: problem(class),
    }
}

fn claimed(phase: Phase) -> ClaimedRenewal {
    ClaimedRenewal {
        name: PortalName::parse("acme").unwrap(),
        settings: Settings {
            app: "crm".into(),
            domain: None,
            renew_every: None,
            formats: Vec::new(),
            identity: None,
            scope: Vec::new(),
            redirect_uri: None,
            refresh_token_file: None,
        },
        grant: Grant {
            generation: Generation(7),
            tokens: tokens(0),
            status: status(phase, 25),
            renewed_at: at(0),
            bound_to: binding("a", "b"),
            token_url: String::new(),
            identity: None,
            notified: Vec::new(),
            claim: None,
            tried_at: None,
        },
        claim: (ClaimId(1), at(25)),
    }
}

fn outcome(transition: Transition, client_answer: Option<ClientAnswer>) -> RenewalOutcome {
    RenewalOutcome {
        transition,
        unread: None,
        client_answer,
        bought_by: None,
    }
}

fn renewed() -> RenewalOutcome {
    let renewed = Renewed {
        tokens: tokens(26),
        status: status(Phase::Fresh, 51),
        identity: None,
        token_url: None,
        renamed_from: None,
    };
    outcome(
        Transition::Renewed(Box::new(renewed)),
        Some(ClientAnswer::Works),
    )
}

fn done(told_before: &[&str]) -> Recorded {
    Recorded::Done {
        generation: Generation(8),
        client_changed: false,
        ruling: None,
        told_before: told_before.iter().map(|&step| step.to_owned()).collect(),
    }
}

fn concluded(before: Phase, outcome: RenewalOutcome, minute: i64) -> (RenewalRecord, Conclusion) {
    conclude(claimed(before), outcome, &default_steps(), at(minute))
}

fn steps(effects: &[Effect]) -> Vec<&str> {
    fn step(effect: &Effect) -> &str {
        match effect {
            Effect::LogPortal(notice) | Effect::LogApp(notice) => notice.step.as_str(),
            Effect::Publish(_) => "publish",
            Effect::Unpublish => "unpublish",
            Effect::WakeScheduler => "wake-scheduler",
            Effect::WakeEscalator => "wake-escalator",
            Effect::WakeAlerter => "wake-alerter",
            Effect::WarnTokens(_) => "warn-tokens",
            Effect::WarnRenamed { .. } => "warn-renamed",
        }
    }
    effects.iter().map(step).collect()
}

#[test]
fn a_usual_renewal_is_published_and_logs_nothing() {
    let (record, conclusion) = concluded(Phase::Fresh, renewed(), 26);
    assert_eq!(record.client, ClientVerdict::Accepted);
    assert_eq!(
        conclusion.effects(&done(&[])),
        [Effect::Publish(Generation(8)), Effect::WakeEscalator]
    );
}

#[test]
fn nothing_follows_where_another_grant_came_first() {
    let (_, conclusion) = concluded(Phase::Fresh, renewed(), 26);
    assert_eq!(conclusion.effects(&Recorded::Superseded), []);
}

#[test]
fn a_renewal_after_a_failure_is_published_before_its_end_is_logged() {
    let (record, conclusion) = concluded(retrying(Class::Transient), renewed(), 50);
    assert_eq!(record.keep_notified, KeepNotified::RefreshEnd);
    let effects = conclusion.effects(&done(&["failed", "overdue"]));
    assert_eq!(
        steps(&effects),
        ["publish", "resolved", "wake-escalator", "wake-alerter"]
    );
}

#[test]
fn a_step_that_the_escalator_logged_meanwhile_is_not_logged_again() {
    let kept = || {
        let phase = Phase::NeedsAuthorization {
            since: at(26),
            problem: problem(Class::NeedsAuthorization),
            while_in_doubt: false,
        };
        outcome(Transition::Kept(status(phase, 27)), None)
    };
    let (record, conclusion) = concluded(Phase::Fresh, kept(), 26);
    assert!(record.notified.contains(&"person".to_owned()), "{record:?}");
    assert_eq!(
        steps(&conclusion.effects(&done(&[]))),
        ["person", "wake-escalator", "wake-alerter"]
    );
    assert_eq!(
        steps(&conclusion.effects(&done(&["person"]))),
        ["wake-escalator", "wake-alerter"]
    );
}

#[test]
fn a_refused_client_is_logged_once_for_the_app_and_another_portal_is_tried() {
    let refused = || {
        let phase = Phase::ClientRejected {
            attempt: 1,
            since: at(26),
            problem: problem(Class::ClientRejected),
        };
        outcome(
            Transition::Kept(status(phase, 30)),
            Some(ClientAnswer::Refused),
        )
    };
    let (record, conclusion) = concluded(Phase::Fresh, refused(), 26);
    assert_eq!(record.client, ClientVerdict::Refused(at(30)));
    assert!(record.notified.is_empty(), "deferred: {record:?}");
    assert_eq!(record.evaluate_at, Some(at(26)));
    let recorded = |client_changed, ruling| Recorded::Done {
        generation: Generation(7),
        client_changed,
        ruling: Some(ruling),
        told_before: Vec::new(),
    };
    let effects = conclusion.effects(&recorded(false, ClientDecision::AskAnother));
    assert_eq!(
        steps(&effects),
        ["wake-scheduler", "wake-escalator", "wake-alerter"]
    );
    let effects = conclusion.effects(&recorded(true, ClientDecision::TheClient));
    assert!(
        matches!(&effects[..], [Effect::LogApp(notice), Effect::WakeEscalator, Effect::WakeAlerter] if notice.step == "person"),
        "{effects:?}"
    );
}

#[test]
fn the_files_of_a_portal_that_is_gone_are_removed() {
    let phase = Phase::Gone {
        since: at(26),
        problem: problem(Class::Gone),
    };
    let gone = outcome(Transition::Kept(status(phase, 26)), None);
    let (_, conclusion) = concluded(Phase::Fresh, gone, 26);
    assert_eq!(steps(&conclusion.effects(&done(&[])))[0], "unpublish");
}

#[test]
fn an_interrupted_request_is_in_doubt() {
    let mut claimed = claimed(Phase::Fresh);
    let about = (claimed.name.clone(), Some(&claimed.settings));
    let (record, _) = conclude_interrupted(
        about,
        &mut claimed.grant,
        (ClaimId(3), at(25)),
        None,
        &default_steps(),
        at(27),
    );
    assert!(
        matches!(
            &record.outcome,
            RecordOutcome::Kept(GrantStatus {
                phase: Phase::InDoubt { .. },
                ..
            })
        ),
        "{record:?}"
    );
    assert_eq!((record.claim.0, record.app.as_str()), (ClaimId(3), "crm"));
}
