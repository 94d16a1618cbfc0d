//! Escalation: which steps a grant has reached, by the remaining share of its lifetime, and what an operator must do.
//!
//! Must not notify: it returns the notice, and the steps that are notified so far.

use std::time::Duration;

use super::hint::{HintContext, hint};
use super::portal::{Grant, Phase};
use super::refresh_warning;
use crate::domain::refresh_warning::STEPS;
pub use refreshd_alerting::Severity;
use refreshd_time::{Timestamp, human, share_of};
use refreshd_token_client::provider::Class;
use refreshd_token_client::refresh_end::RefreshEnd;

/// A grant without an access token, or whose new token was expired on arrival, counts as expired this long after its first
/// failure.
const NO_TOKEN_GRACE: Duration = Duration::from_secs(300);

/// Grace for a renewal that is planned after the expiry.
const LATE_GRACE: (Duration, Duration) = (Duration::from_secs(300), Duration::from_secs(3600));

/// A replay that waits for longer, or for a tenth of the token's lifetime, counts as deferred: an operator has that time.
const MIN_RETRY_DELAY: Duration = Duration::from_secs(60);

/// Default for "overdue" wherever no configured step applies: this share of the window between due and the deadline has
/// passed.
pub const OVERDUE_SHARE: f64 = 0.3;

/// A part of a token's lifetime.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Threshold {
    /// A share of the lifetime, in (0, 1).
    Share(f64),
    /// A fixed duration.
    Span(Duration),
}

/// Condition of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Trigger {
    /// The first failed renewal.
    Failed,
    /// This share of the window between due and expiry has passed.
    Overdue(f64),
    /// Less than this remains.
    Remaining(Threshold),
    /// The access token has expired.
    Expired,
    /// Only a person can resolve it.
    NeedsPerson,
}

/// An escalation step.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Name in the configuration, unique among the steps; identifies the step once it is notified.
    pub key: String,
    /// Condition.
    pub when: Trigger,
    /// Severity.
    pub severity: Severity,
    /// Channels to notify; `None`: every channel, from `warning` on.
    pub notify: Option<Vec<String>>,
}

/// Default steps, in force if the configuration has no `[[escalation.step]]`.
#[must_use]
pub fn default_steps() -> Vec<Step> {
    let step = |key: &str, when, severity| Step {
        key: key.to_owned(),
        when,
        severity,
        notify: None,
    };
    vec![
        step("failed", Trigger::Failed, Severity::Notice),
        step(
            "overdue",
            Trigger::Overdue(OVERDUE_SHARE),
            Severity::Warning,
        ),
        step(
            "late",
            Trigger::Remaining(Threshold::Share(0.2)),
            Severity::Error,
        ),
        step(
            "expiring",
            Trigger::Remaining(Threshold::Share(0.1)),
            Severity::Critical,
        ),
        step("expired", Trigger::Expired, Severity::Critical),
        step("person", Trigger::NeedsPerson, Severity::Critical),
    ]
}

/// A notice, published once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EscalationNotice {
    /// Name of the step.
    pub step: String,
    /// Severity.
    pub severity: Severity,
    /// Description of the failure.
    pub reason: String,
    /// Task of the operator.
    pub action: String,
    /// Remaining lifetime of the access token; `None` if there is none.
    pub remaining: Option<Duration>,
}

/// Result of an evaluation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evaluation {
    /// Notice to publish now.
    pub notice: Option<EscalationNotice>,
    /// Names of all steps notified so far, including this one.
    pub notified: Vec<String>,
    /// Time of the next step if nothing changes.
    pub next: Option<Timestamp>,
}

/// Evaluates the steps up to `now`. Of several steps reached at once only the most severe is published. A grant that needs a
/// person is published once, with the remaining lifetime; steps of time add nothing to it.
#[must_use]
pub fn evaluate(
    ladder: &[Step],
    about: HintContext<'_>,
    grant: &Grant,
    now: Timestamp,
) -> Evaluation {
    let mut notified = grant.notified.clone();
    let mut next = None;
    let person = grant.status.phase.escalates_to_person()
        && ladder.iter().any(|step| step.when == Trigger::NeedsPerson);
    let mut loudest: Option<(&Step, Severity)> = None;
    for step in ladder {
        if notified.contains(&step.key) {
            continue;
        }
        match reached_at(step.when, grant, now) {
            Some(at) if at <= now => {
                notified.push(step.key.clone());
                let severity = severity_of(step, grant, now);
                let news = !person || step.when == Trigger::NeedsPerson;
                if news && loudest.is_none_or(|(_, loudest)| severity >= loudest) {
                    loudest = Some((step, severity));
                }
            }
            Some(at) => next = Some(next.map_or(at, |next: Timestamp| next.min(at))),
            None => {}
        }
    }
    let notice = loudest.map(|(step, severity)| EscalationNotice {
        step: step.key.clone(),
        severity,
        reason: reason(grant, now),
        action: action_now(about.at(grant), grant, now),
        remaining: remaining(grant, now),
    });
    let (ahead, at) = evaluate_refresh_end(about, grant, &mut notified, now);
    let next = [next, at].into_iter().flatten().min();
    let notice = match (notice, ahead) {
        (Some(notice), Some(ahead)) if ahead.severity > notice.severity => Some(ahead),
        (notice, ahead) => notice.or(ahead),
    };
    Evaluation {
        notice,
        notified,
        next,
    }
}

/// Evaluates the warnings before the refresh token's own end, and the time of the next one. Adds them to the notified
/// steps.
fn evaluate_refresh_end(
    about: HintContext<'_>,
    grant: &Grant,
    notified: &mut Vec<String>,
    now: Timestamp,
) -> (Option<EscalationNotice>, Option<Timestamp>) {
    let Some(end) = refresh_end_of(grant) else {
        return (None, None);
    };
    let (mut loudest, mut next) = (None, None::<Timestamp>);
    for step in STEPS
        .iter()
        .filter(|step| !notified.iter().any(|notified| notified == step.key))
        .collect::<Vec<_>>()
    {
        match refresh_warning::reached_at(end, step) {
            Some(at) if at <= now => {
                notified.push(step.key.to_owned());
                loudest = Some(step);
            }
            at => next = [next, at].into_iter().flatten().min(),
        }
    }
    let notice = loudest.map(|step| EscalationNotice {
        step: step.key.to_owned(),
        severity: step.severity,
        reason: refresh_warning::reason(end, now),
        action: refresh_warning::action(end, about.portal.as_str()),
        remaining: remaining(grant, now),
    });
    (notice, next)
}

/// The refresh token's own end, if relevant: not of a dead grant, nor of a client that needs no refresh token.
#[must_use]
pub fn refresh_end_of(grant: &Grant) -> Option<&RefreshEnd> {
    if grant.status.phase.is_dead() {
        return None;
    }
    grant.tokens.credential.refresh()?;
    grant.tokens.validity.refresh.as_ref()
}

/// The notified warnings about the refresh token's end that still apply: a renewal does not end them.
#[must_use]
pub fn still_notified(grant: &Grant, now: Timestamp) -> Vec<String> {
    let Some(end) = refresh_end_of(grant) else {
        return Vec::new();
    };
    let holds = |step: &&refresh_warning::RefreshEndStep| {
        refresh_warning::reached_at(end, step).is_some_and(|at| at <= now)
    };
    let notified = |step: &&refresh_warning::RefreshEndStep| {
        grant.notified.iter().any(|notified| notified == step.key)
    };
    STEPS
        .iter()
        .filter(holds)
        .filter(notified)
        .map(|step| step.key.to_owned())
        .collect()
}

/// The steps to notify again, since the operator's task has changed; they no longer count as notified.
pub fn reset_notified(
    notified: &mut Vec<String>,
    ladder: &[Step],
    before: &Phase,
    now: &Phase,
) -> Vec<String> {
    let another =
        before.escalates_to_person() && now.escalates_to_person() && before.kind() != now.kind();
    let of_person = |key: &mut String| {
        ladder
            .iter()
            .any(|step| step.key == *key && step.when == Trigger::NeedsPerson)
    };
    if another {
        notified.extract_if(.., of_person).collect()
    } else {
        Vec::new()
    }
}

/// The notice that a grant with notified steps is fresh again.
#[must_use]
pub fn resolved(
    notified: &[String],
    since: Option<Timestamp>,
    now: Timestamp,
) -> Option<EscalationNotice> {
    if notified.iter().all(|step| refresh_warning::is_step(step)) {
        return None;
    }
    let lasted = since
        .map(|since| format!(" after {}", human(now.since(since))))
        .unwrap_or_default();
    Some(EscalationNotice {
        step: "resolved".to_owned(),
        severity: Severity::Notice,
        reason: format!("the token is fresh again{lasted}"),
        action: "none".to_owned(),
        remaining: None,
    })
}

/// Remaining lifetime of the access token.
#[must_use]
pub fn remaining(grant: &Grant, now: Timestamp) -> Option<Duration> {
    grant
        .tokens
        .access
        .as_ref()
        .map(|access| access.expires_at.until(now))
}

/// Inputs that decide when a token is overdue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Planned time of the renewal.
    pub due: Timestamp,
    /// Issue of the token.
    pub issued_at: Timestamp,
    /// Expiry of the token.
    pub expires_at: Timestamp,
    /// The refresh token's own end.
    pub refresh_ends_at: Option<Timestamp>,
    /// Since when the grant is not fresh.
    pub since: Option<Timestamp>,
}

impl Window {
    /// The window of a grant; `None` without an access token or a planned renewal.
    #[must_use]
    pub fn of(grant: &Grant) -> Option<Self> {
        let access = grant.tokens.access.as_ref()?;
        Some(Self {
            due: grant.status.renew_at?,
            issued_at: access.issued_at,
            expires_at: access.expires_at,
            refresh_ends_at: grant.tokens.validity.refresh.map(|end| end.at),
            since: grant.status.phase.since(),
        })
    }

    /// Deadline for a new token: the expiry of the present one, or the refresh token's own end if that is earlier. If a
    /// renewal is possible only after that: a hundredth of a lifetime later, five minutes to an hour. For tokens that were
    /// expired on arrival: five minutes after the first of them.
    #[must_use]
    pub fn deadline(&self) -> Timestamp {
        let lifetime = self.expires_at.since(self.issued_at);
        let deadline = if lifetime.is_zero() {
            self.since.unwrap_or(self.issued_at) + NO_TOKEN_GRACE
        } else if self.due > self.expires_at {
            let (least, most) = LATE_GRACE;
            self.due + (lifetime / 100).clamp(least, most)
        } else {
            self.expires_at
        };
        // An expiry before the renewal is due does not bound the remaining time.
        let end = self.refresh_ends_at.filter(|end| *end > self.due);
        end.map_or(deadline, |end| deadline.min(end)).max(self.due)
    }

    /// Time at which this share of the window between due and deadline has passed.
    #[must_use]
    pub fn overdue_at(&self, share: f64) -> Timestamp {
        self.due + share_of(self.deadline().since(self.due), share)
    }
}

/// Time at which a token counts as overdue; `None` if it never does.
#[must_use]
pub fn overdue_at(grant: &Grant, share: f64) -> Option<Timestamp> {
    Window::of(grant).map(|window| window.overdue_at(share))
}

/// Deadline for a new token.
fn deadline(grant: &Grant) -> Option<Timestamp> {
    let access = grant.tokens.access.as_ref()?;
    Some(Window::of(grant).map_or(access.expires_at, |window| window.deadline()))
}

pub(super) fn reached_at(when: Trigger, grant: &Grant, now: Timestamp) -> Option<Timestamp> {
    let access = grant.tokens.access.as_ref();
    let since = grant.status.phase.since();
    match when {
        Trigger::Failed => since,
        Trigger::NeedsPerson if grant.status.phase.escalates_to_person() => since.or(Some(now)),
        Trigger::NeedsPerson => None,
        Trigger::Overdue(share) => overdue_at(grant, share),
        Trigger::Remaining(part) => {
            let access = access?;
            let left = match part {
                Threshold::Share(share) => share_of(access.lifetime(), share),
                Threshold::Span(span) => span,
            };
            // A late renewal age is not a failure: the step waits until the renewal is overdue as well.
            overdue_at(grant, OVERDUE_SHARE)
                .map(|overdue| (deadline(grant).unwrap_or(access.expires_at) - left).max(overdue))
        }
        Trigger::Expired => match access {
            Some(access) => Some(deadline(grant).unwrap_or(access.expires_at)),
            // There never was an access token; after this time that is as bad as an expired one.
            None => since.map(|since| since + NO_TOKEN_GRACE),
        },
    }
}

/// An unknown response, and a grant in doubt with a deferred replay, are at least a warning.
pub(super) fn severity_of(step: &Step, grant: &Grant, now: Timestamp) -> Severity {
    let unknown = grant
        .status
        .phase
        .problem()
        .is_some_and(|problem| problem.class == Class::Unknown);
    let put_off = retry_delay(grant, now).is_some();
    // The server's `Retry-After` exceeds the token's lifetime: only a person can do something about it.
    let must_wait = grant
        .status
        .phase
        .problem()
        .is_some_and(|problem| problem.asked_to_wait.is_some());
    if step.when == Trigger::Failed && (unknown || put_off || must_wait) {
        step.severity.max(Severity::Warning)
    } else {
        step.severity
    }
}

/// Deferral of the replay of a grant in doubt; `None` if it is immediate.
fn retry_delay(grant: &Grant, now: Timestamp) -> Option<Duration> {
    let Phase::InDoubt { attempt: 1, .. } = grant.status.phase else {
        return None;
    };
    let least = grant
        .tokens
        .access
        .as_ref()
        .map_or(MIN_RETRY_DELAY, |access| {
            (access.lifetime() / 10).min(MIN_RETRY_DELAY)
        });
    grant
        .status
        .next_attempt_at
        .map(|at| at.until(now))
        .filter(|wait| *wait > least)
}

pub(super) fn reason(grant: &Grant, now: Timestamp) -> String {
    match &grant.status.phase {
        Phase::Fresh if grant.claim.is_some() => {
            "the renewal is overdue, and its request is under way".to_owned()
        }
        Phase::Fresh => "the renewal is overdue and has not been tried".to_owned(),
        Phase::Retrying {
            attempt: 1,
            since: _,
            problem,
        } => {
            format!(
                "a renewal failed ({}): {}",
                problem.class.as_str(),
                problem.text()
            )
        }
        Phase::Retrying {
            attempt,
            since,
            problem,
        } => {
            let lasts = human(now.since(*since));
            let class = problem.class.as_str();
            format!(
                "{attempt} renewals in a row failed in {lasts}, the last ({class}): {}",
                problem.text()
            )
        }
        Phase::InDoubt { problem, .. } => {
            format!("a renewal has no known outcome: {}", problem.text())
        }
        Phase::ClientRejected { problem, .. } => {
            let only_here = match problem.works_for {
                Some(1) => " for this portal only (it works for 1 other)".to_owned(),
                Some(others) => format!(" for this portal only (it works for {others} others)"),
                None => String::new(),
            };
            format!(
                "the authorization server refuses the app's client{only_here}: {}",
                problem.text()
            )
        }
        Phase::Blocked { problem, .. } => format!("the portal is blocked: {}", problem.text()),
        Phase::NeedsAuthorization {
            problem,
            while_in_doubt: true,
            ..
        } => {
            format!(
                "the grant was rejected while in doubt (a reply was lost before, or could not be read): {}",
                problem.text()
            )
        }
        Phase::NeedsAuthorization { problem, .. } => {
            format!("the grant is dead: {}", problem.text())
        }
        Phase::Gone { problem, .. } => {
            format!(
                "the app is not installed on the portal any more: {}",
                problem.text()
            )
        }
        Phase::OldState { problem, .. } => {
            format!(
                "the state is old, its refresh token is probably spent and is not sent: {}",
                problem.text()
            )
        }
    }
}

/// Task of the operator for a grant now.
#[must_use]
pub fn action_now(about: HintContext<'_>, grant: &Grant, now: Timestamp) -> String {
    match retry_delay(grant, now) {
        Some(wait) => format!(
            "authorize the app again: refreshd authorize {}, within {}; then the same token is sent once more, and a \
             server that revokes on reuse may end the grant",
            about.portal,
            human(wait)
        ),
        None => {
            let action = action(about, &grant.status.phase);
            match (&grant.status.phase, grant.status.next_attempt_at) {
                (Phase::NeedsAuthorization { .. }, Some(at)) => {
                    format!("{action}; the server is asked again by itself at {at}")
                }
                _ => action,
            }
        }
    }
}

/// As [`action_now`], for a text that is shown long after: without the time of the next attempt, which passes.
#[must_use]
pub fn lasting_action(about: HintContext<'_>, grant: &Grant, now: Timestamp) -> String {
    match (&grant.status.phase, grant.status.next_attempt_at) {
        (phase @ Phase::NeedsAuthorization { .. }, Some(_))
            if retry_delay(grant, now).is_none() =>
        {
            let action = action(about, phase);
            format!("{action}; the server is asked again by itself at times")
        }
        _ => action_now(about, grant, now),
    }
}

/// Task of the operator in a phase.
#[must_use]
pub fn action(about: HintContext<'_>, phase: &Phase) -> String {
    match phase {
        Phase::Fresh => "look at refreshd's log, and at what this machine is short of: processor, disk, file descriptors".to_owned(),
        Phase::Retrying { problem, .. }
        | Phase::InDoubt { problem, .. }
        | Phase::ClientRejected { problem, .. }
        | Phase::Blocked { problem, .. }
        | Phase::NeedsAuthorization { problem, .. }
        | Phase::Gone { problem, .. } => hint(problem, about),
        Phase::OldState { .. } => format!(
            "put the newest state back, or authorize the app again: refreshd authorize {portal}; to try the old token \
             all the same, which ends the grant at a server that revokes on reuse: refreshd renew {portal}",
            portal = about.portal
        ),
    }
}

#[cfg(test)]
#[path = "escalation_tests.rs"]
mod tests;
