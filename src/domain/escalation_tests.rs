//! The escalation steps over a token lifetime of one hour.

use std::sync::LazyLock;

use super::super::name::PortalName;
use super::super::portal::{GrantStatus, binding};
use super::*;
use refreshd_secrets::{AccessToken, RefreshToken};
use refreshd_token_client::problem::Problem;
use refreshd_token_client::refresh_end::{Motion, RefreshEnd};
use refreshd_token_client::token::{Access, Credential, Details, Generation, Tokens, Validity};

fn at(minutes: i64) -> Timestamp {
    Timestamp::from_secs(1_795_000_000 + minutes * 60)
}

fn acme() -> HintContext<'static> {
    static ACME: LazyLock<PortalName> = LazyLock::new(|| PortalName::parse("acme").unwrap());
    HintContext {
        portal: &ACME,
        domain: Some("acme.bitrix24.com"),
        app: "crm",
    }
}

/// Issued at minute 0, due at 20, ends at 60: overdue at 32, late at 48, expiring at 54.
fn grant(phase: Phase) -> Grant {
    Grant {
        generation: Generation(1),
        tokens: Tokens {
            access: Some(Access {
                token: AccessToken::new("a").unwrap(),
                token_type: "Bearer".into(),
                issued_at: at(0),
                expires_at: at(60),
            }),
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
        token_url: String::new(),
        identity: None,
        notified: Vec::new(),
        claim: None,
        tried_at: None,
    }
}

fn retrying(class: Class) -> Phase {
    let problem = Problem {
        code: Some("CODE".into()),
        ..Problem::new(class, "words".into())
    };
    Phase::Retrying {
        attempt: 3,
        since: at(20),
        problem,
    }
}

#[test]
fn each_step_is_said_once_at_its_share_of_life() {
    let ladder = default_steps();
    let mut grant = grant(retrying(Class::Transient));
    let mut notices = Vec::new();
    for minute in 20..70 {
        let evaluation = evaluate(&ladder, acme(), &grant, at(minute));
        if let Some(notice) = evaluation.notice {
            notices.push((minute, notice.step, notice.severity));
        }
        grant.notified = evaluation.notified;
    }
    assert_eq!(
        notices,
        [
            (20, "failed".to_owned(), Severity::Notice),
            (32, "overdue".to_owned(), Severity::Warning),
            (48, "late".to_owned(), Severity::Error),
            (54, "expiring".to_owned(), Severity::Critical),
            (60, "expired".to_owned(), Severity::Critical),
        ]
    );
    let resolved = resolved(&grant.notified, Some(at(20)), at(70)).unwrap();
    assert_eq!(resolved.reason, "the token is fresh again after 50m");
}

#[test]
fn the_next_step_is_named_so_that_nobody_has_to_poll() {
    let fresh = evaluate(&default_steps(), acme(), &grant(Phase::Fresh), at(1));
    assert_eq!((fresh.notice, fresh.next), (None, Some(at(32))));
}

#[test]
fn after_a_long_absence_only_the_loudest_is_said() {
    let evaluation = evaluate(&default_steps(), acme(), &grant(Phase::Fresh), at(100));
    assert_eq!(evaluation.notice.unwrap().step, "expired");
    assert_eq!(
        evaluation.notified,
        ["overdue", "late", "expiring", "expired"]
    );
}

#[test]
fn what_only_a_person_can_mend_is_critical_at_once_with_the_command_to_type() {
    let problem = Problem {
        code: Some("invalid_grant".into()),
        ..Problem::new(Class::NeedsAuthorization, String::new())
    };
    let dead = Phase::NeedsAuthorization {
        since: at(20),
        problem,
        while_in_doubt: true,
    };
    let notice = evaluate(&default_steps(), acme(), &grant(dead), at(20))
        .notice
        .unwrap();
    assert_eq!(
        (notice.severity, notice.remaining),
        (Severity::Critical, Some(Duration::from_secs(2400)))
    );
    assert!(
        notice.reason.contains("rejected while in doubt"),
        "{}",
        notice.reason
    );
    assert!(
        notice.action.contains("refreshd authorize acme"),
        "{}",
        notice.action
    );
}

#[test]
fn what_the_provider_says_of_a_code_comes_before_what_its_class_says() {
    let problem = |remedy: Option<&str>| Problem {
        remedy: remedy.map(str::to_owned),
        ..Problem::new(Class::Blocked, "the licence has lapsed".into())
    };
    let blocked = |problem| {
        grant(Phase::Blocked {
            attempt: 1,
            since: at(20),
            problem,
        })
    };
    let notice_of = |grant: &Grant| {
        evaluate(&default_steps(), acme(), grant, at(20))
            .notice
            .unwrap()
    };
    let notice = notice_of(&blocked(problem(Some(
        "pay for {app} at https://{domain}/pay, then: refreshd renew {portal}",
    ))));
    assert_eq!(
        notice.action,
        "pay for crm at https://acme.bitrix24.com/pay, then: refreshd renew acme"
    );
    assert_eq!(
        notice.reason,
        "the portal is blocked: the licence has lapsed"
    );
    assert_eq!(
        notice_of(&blocked(problem(None))).action,
        "lift what the reason names, then: refreshd renew acme"
    );
    // A deferred replay has its own time limit, whatever the code.
    let doubt = Phase::InDoubt {
        attempt: 1,
        since: at(20),
        problem: problem(Some("wait")),
    };
    let mut doubt = grant(doubt);
    doubt.status.next_attempt_at = Some(at(50));
    assert!(
        notice_of(&doubt).action.contains("within 30m"),
        "{}",
        notice_of(&doubt).action
    );
    doubt.status.next_attempt_at = Some(at(20));
    assert_eq!(notice_of(&doubt).action, "wait");
}

#[test]
fn an_unknown_answer_is_a_warning_at_once() {
    let notice = evaluate(
        &default_steps(),
        acme(),
        &grant(retrying(Class::Unknown)),
        at(20),
    )
    .notice
    .unwrap();
    assert_eq!(notice.severity, Severity::Warning);
}

#[test]
fn a_late_renewal_age_is_no_failure() {
    let mut late = grant(Phase::Fresh);
    late.status.renew_at = Some(at(52));
    let ladder = default_steps();
    assert_eq!(
        evaluate(&ladder, acme(), &late, at(52)).notice,
        None,
        "12 % left, but only just due"
    );
    assert_eq!(
        evaluate(&ladder, acme(), &late, at(55))
            .notice
            .unwrap()
            .severity,
        Severity::Critical
    );
}

#[test]
fn a_grant_that_never_had_a_token_is_not_silent() {
    let mut bare = grant(retrying(Class::Transient));
    bare.tokens.access = None;
    let evaluation = evaluate(&default_steps(), acme(), &bare, at(20));
    assert_eq!(evaluation.notice.unwrap().step, "failed");
    assert_eq!(evaluation.next, Some(at(25)), "critical after five minutes");
}

#[test]
fn nothing_told_means_nothing_to_resolve() {
    assert_eq!(resolved(&[], None, at(0)), None);
}

#[test]
fn a_renewal_that_is_possible_only_after_the_expiry_is_not_overdue_when_it_is_due() {
    let mut late = grant(Phase::Fresh);
    late.status.renew_at = Some(at(60) + Duration::from_secs(20));
    let overdue = overdue_at(&late, OVERDUE_SHARE).unwrap();
    assert_eq!(
        overdue.since(at(60)),
        Duration::from_secs(20 + 90),
        "30 % of five minutes"
    );
    assert_eq!(
        evaluate(&default_steps(), acme(), &late, at(61)).notice,
        None
    );
    // Steps and counters agree.
    let evaluation = evaluate(&default_steps(), acme(), &late, at(61)).next;
    assert_eq!(evaluation, Some(overdue));
}

#[test]
fn a_token_that_had_ended_when_it_came_is_a_warning_first_and_no_token_after_five_minutes() {
    let mut ended = grant(retrying(Class::Unknown));
    let access = ended.tokens.access.as_mut().unwrap();
    (access.issued_at, access.expires_at) = (at(20), at(20));
    let evaluated = |grant: &Grant, now| evaluate(&default_steps(), acme(), grant, now);
    let first = evaluated(&ended, at(20)).notice.unwrap();
    assert_eq!(
        (first.step.as_str(), first.severity),
        ("failed", Severity::Warning)
    );
    // Each renewal brings another expired token; none of them restarts the time.
    ended.notified = vec!["failed".into()];
    for (minutes, step) in [(23, "overdue"), (25, "expired")] {
        let access = ended.tokens.access.as_mut().unwrap();
        (access.issued_at, access.expires_at) = (at(minutes), at(minutes));
        ended.status.renew_at = Some(at(minutes - 2));
        let evaluation = evaluated(&ended, at(minutes));
        assert_eq!(
            evaluation.notice.map(|notice| notice.step).as_deref(),
            Some(step),
            "at {minutes}"
        );
        ended.notified = evaluation.notified;
    }
}

#[test]
fn a_refresh_token_that_no_renewal_prolongs_is_told_in_steps_that_a_renewal_does_not_end() {
    let mut grant = grant(Phase::Fresh);
    let end = RefreshEnd {
        at: at(40),
        since: at(0),
        motion: Motion::Fixed,
    };
    grant.tokens.validity.refresh = Some(end);
    grant.status.renew_at = Some(at(50));
    let mut notices = Vec::new();
    for minute in 0..40 {
        let evaluation = evaluate(&default_steps(), acme(), &grant, at(minute));
        notices.extend(
            evaluation
                .notice
                .map(|notice| (minute, notice.step, notice.severity)),
        );
        grant.notified = evaluation.notified;
        // A successful renewal.
        grant.notified = still_notified(&grant, at(minute));
    }
    let step = |minute, step: &str, severity| (minute, step.to_owned(), severity);
    assert_eq!(
        notices,
        [
            step(27, "refresh-month", Severity::Warning),
            step(36, "refresh-week", Severity::Error),
            step(39, "refresh-day", Severity::Critical)
        ]
    );
    assert_eq!(
        resolved(&grant.notified, None, at(39)),
        None,
        "which no renewal resolves"
    );
    let moved = RefreshEnd {
        at: at(80),
        since: at(39),
        motion: Motion::Moves,
    };
    grant.tokens.validity.refresh = Some(moved);
    assert_eq!(still_notified(&grant, at(39)), Vec::<String>::new());
}
