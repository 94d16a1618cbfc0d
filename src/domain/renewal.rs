//! The renewal's state machine: from a grant and what became of one request, to where the grant stands then.
//!
//! Must not send, store or publish: `daemon::renewer` does, in the order claim, send, record, publish.

use std::time::Duration;

use super::backoff::{FLOOR, wait, wait_at_least};
use super::mask::short;
use super::name::PortalName;
use super::portal::{Grant, Phase, Problem, Standing};
use super::provider::{Class, Profile, Replay};
use super::reply::{Granted, Refusal, Verdict};
use super::schedule::{RenewEvery, renew_at, spacing};
use super::time::{Timestamp, share_of};
use super::token::{Access, Tokens};

/// A refused client is tried again after this time at first, with one portal for all.
const CLIENT_RETRY: (Duration, Duration) = (Duration::from_secs(300), Duration::from_secs(3600));
/// A blocked grant is polled this often for a day, and then daily.
const BLOCKED_POLL: (Duration, Duration) = (Duration::from_secs(3600), Duration::from_secs(86_400));
/// Polls of a blocked grant before it is polled daily.
const BLOCKED_FAST_POLLS: u32 = 24;
/// The life of a token of which nobody knows anything.
const ASSUMED_LIFETIME: Duration = Duration::from_secs(3600);
/// An operator may try a failing grant again after this time.
const RETRY_BY_HAND: Duration = Duration::from_secs(5);
/// A late replay happens when this share of the life is left.
const LATE_REPLAY_SHARE: f64 = 0.1;

/// What became of one token request.
#[derive(Debug)]
pub enum Attempt {
    /// It did not leave this machine.
    NotSent(String),
    /// It left, and no whole reply came back.
    InDoubt(String),
    /// A whole reply came back.
    Answered(Verdict),
}

/// What a grant is renewed by.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// The provider's profile with the app's overrides.
    pub profile: &'a Profile,
    /// The portal's own renewal age, or the profile's.
    pub every: RenewEvery,
}

/// What decides about waits after a failure.
#[derive(Clone, Copy)]
struct Terms {
    replay: Replay,
    lifetime: Duration,
}

/// When the request left, and now.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// The life of a new token is counted from here.
    pub sent_at: Timestamp,
    /// When the outcome was known.
    pub now: Timestamp,
}

/// What is to be recorded.
#[derive(Debug)]
pub enum Settled {
    /// A new pair: record it, then publish.
    Renewed(Box<Renewed>),
    /// The pair stays as it is.
    Kept(Standing),
    /// The server handed out somebody else's pair: keep it aside, publish nothing.
    Foreign {
        /// Where the grant stands now.
        standing: Standing,
        /// What came instead.
        granted: Box<Granted>,
    },
}

/// A renewal that went well.
#[derive(Debug, Clone)]
pub struct Renewed {
    /// The new pair.
    pub tokens: Tokens,
    /// Fresh, with the next renewal.
    pub standing: Standing,
    /// Whose grant it is, now known.
    pub identity: Option<String>,
    /// Where the next renewal goes, if the server named another place. `None` leaves the choice to the state, where a
    /// changed configuration may have moved it while this renewal was under way.
    pub token_url: Option<String>,
    /// The API's address before, if it has changed: the portal was renamed.
    pub renamed_from: Option<String>,
}

/// Where a grant stands when its first tokens come in, by import, file or authorization: renewed at once, which
/// proves that it lives.
#[must_use]
pub fn taken_in(portal: &PortalName, access: Option<&Access>, every: RenewEvery, now: Timestamp) -> Standing {
    let renew_at = access.map(|access| renew_at(every, portal, access.issued_at, access.lifetime()));
    Standing { phase: Phase::Fresh, renew_at: Some(renew_at.unwrap_or(now).min(now)), act_at: Some(now) }
}

/// Decides what a request's outcome makes of a grant. `jitter` is in [0, 1).
#[must_use]
pub fn settle(
    portal: &PortalName,
    grant: &Grant,
    rules: Rules<'_>,
    attempt: Attempt,
    times: Times,
    jitter: f64,
) -> Settled {
    let refusal = match attempt {
        Attempt::Answered(Verdict::Granted(granted)) => return accept(portal, grant, rules, granted, times),
        Attempt::Answered(Verdict::Refused(refusal)) => refusal,
        Attempt::NotSent(detail) => no_answer(Class::NotSent, detail),
        Attempt::InDoubt(detail) => no_answer(Class::InDoubt, detail),
    };
    let lifetime = grant.tokens.access.as_ref().map_or(rules.profile.assumed_lifetime, Access::lifetime);
    let terms = Terms { replay: rules.profile.replay, lifetime };
    Settled::Kept(refused(grant, terms, refusal, times.now, jitter))
}

/// Where a grant stands whose claim was found without an outcome: the process that made it is gone. Without a profile
/// (the configuration does not name its app now) the replay is the careful one.
#[must_use]
pub fn recovered(
    grant: &Grant,
    profile: Option<&Profile>,
    claimed_at: Timestamp,
    now: Timestamp,
) -> Standing {
    let detail = format!("refreshd ended at or after {claimed_at} while a renewal was under way");
    let lifetime = grant.tokens.access.as_ref().map(Access::lifetime);
    let (replay, assumed) = profile
        .map_or((Replay::Late, ASSUMED_LIFETIME), |profile| (profile.replay, profile.assumed_lifetime));
    let terms = Terms { replay, lifetime: lifetime.unwrap_or(assumed) };
    refused(grant, terms, no_answer(Class::InDoubt, detail), now, 0.0)
}

/// What an operator's `renew` comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByHand {
    /// It is carried out from this moment on: now, or a few seconds after the last try.
    From(Timestamp),
    /// It was renewed less than a tenth of its life ago and is left alone until then.
    FreshUntil(Timestamp),
}

/// Decides about an operator's `renew`, so that no loop of commands becomes a storm.
#[must_use]
pub fn by_hand(grant: &Grant, now: Timestamp) -> ByHand {
    // One that was taken in and not tried yet is due, however young its token is. A try ahead of now is of another clock.
    let Some(tried_at) = grant.tried_at.filter(|tried_at| *tried_at <= now) else { return ByHand::From(now) };
    let access = grant.tokens.access.as_ref();
    let pause = access.map_or(RETRY_BY_HAND, |access| spacing(access.lifetime()).min(RETRY_BY_HAND));
    match (&grant.standing.phase, access) {
        (Phase::Fresh, Some(access)) if now < access.issued_at + spacing(access.lifetime()) => {
            ByHand::FreshUntil(access.issued_at + spacing(access.lifetime()))
        }
        _ => ByHand::From(now.max(tried_at + pause)),
    }
}

fn no_answer(class: Class, detail: String) -> Refusal {
    Refusal { problem: Problem::new(class, detail), retry_after: None }
}

fn accept(
    portal: &PortalName,
    grant: &Grant,
    rules: Rules<'_>,
    granted: Box<Granted>,
    times: Times,
) -> Settled {
    if let (Some(known), Some(got)) = (&grant.identity, &granted.identity)
        && known != got
    {
        let field = rules.profile.identity_field.as_deref().unwrap_or("identity");
        let (got, known) = (short(got), short(known));
        let detail = format!("the server answered for another portal: {field} is {got}, expected {known}");
        let problem = Problem::new(Class::NeedsAuthorization, detail);
        let phase = Phase::NeedsAuthorization { since: times.now, problem, while_in_doubt: false };
        let standing = Standing { phase, renew_at: grant.standing.renew_at, act_at: None };
        return Settled::Foreign { standing, granted };
    }
    let Granted { access, refresh, token_type, lifetime, identity, server, details } = *granted;
    let renew_at = renew_at(rules.every, portal, times.sent_at, lifetime);
    let was_at = grant.tokens.details.endpoint.clone();
    let renamed_from = was_at.filter(|old| details.endpoint.as_ref().is_some_and(|new| new != old));
    let token_url = server
        .and_then(|server| rules.profile.token_url_on_host_of(&server).map(str::to_owned))
        .filter(|url| *url != grant.token_url);
    Settled::Renewed(Box::new(Renewed {
        tokens: Tokens {
            access: Some(Access {
                token: access,
                token_type,
                issued_at: times.sent_at,
                expires_at: times.sent_at + lifetime,
            }),
            refresh: refresh.unwrap_or_else(|| grant.tokens.refresh.clone()),
            details,
        },
        standing: Standing { phase: Phase::Fresh, renew_at: Some(renew_at), act_at: Some(renew_at) },
        identity: identity.or_else(|| grant.identity.clone()),
        token_url,
        renamed_from,
    }))
}

fn refused(grant: &Grant, terms: Terms, refusal: Refusal, now: Timestamp, jitter: f64) -> Standing {
    let Refusal { problem, retry_after } = refusal;
    let class = problem.class;
    let before = &grant.standing.phase;
    let was_in_doubt = matches!(before, Phase::InDoubt { .. });
    let since = before.since().unwrap_or(now);
    let attempt = before.attempt().saturating_add(1);
    let renew_at = grant.standing.renew_at;
    let stopped = |phase| Standing { phase, renew_at, act_at: None };
    let again = |phase, wait: Duration| Standing {
        phase,
        renew_at,
        act_at: Some(now + wait_at_least(wait, retry_after)),
    };
    let Terms { replay, lifetime } = terms;
    let expires_at = grant.tokens.access.as_ref().map(|access| access.expires_at);
    let expired = expires_at.is_some_and(|at| at <= now);
    let back_off = wait(attempt, lifetime, expired, jitter);

    match class {
        Class::NeedsAuthorization => {
            // Asked again by hand, it stays what it was: our own lost reply may have spent the token.
            let doubtful = matches!(before, Phase::NeedsAuthorization { while_in_doubt: true, .. });
            let while_in_doubt = was_in_doubt || doubtful;
            stopped(Phase::NeedsAuthorization { since: now, problem, while_in_doubt })
        }
        Class::Gone => stopped(Phase::Gone { since: now, problem }),
        Class::InDoubt if !was_in_doubt => {
            let wait = match replay {
                Replay::Now => FLOOR,
                Replay::Late => expires_at
                    .map_or(FLOOR, |at| (at - share_of(lifetime, LATE_REPLAY_SHARE)).until(now).max(FLOOR)),
            };
            again(Phase::InDoubt { attempt: 1, since: now, problem }, wait)
        }
        // Once in doubt, a grant stays so until the server has said yes or no to the grant itself.
        _ if was_in_doubt => {
            let wait = slow_wait(class, attempt).unwrap_or(back_off);
            again(Phase::InDoubt { attempt, since, problem }, wait)
        }
        Class::TooEarly => {
            let wait = expires_at.map_or(back_off, |at| at.until(now)).max(spacing(lifetime));
            again(before.clone(), wait)
        }
        Class::ClientRejected | Class::Blocked => {
            let same = before.problem().is_some_and(|problem| problem.class == class);
            let (attempt, since) = if same { (attempt, since) } else { (1, now) };
            let wait = slow_wait(class, attempt).unwrap_or(back_off);
            if class == Class::Blocked {
                again(Phase::Blocked { attempt, since, problem }, wait)
            } else {
                again(Phase::ClientRejected { attempt, since, problem }, wait)
            }
        }
        Class::NotSent | Class::Transient | Class::Unknown | Class::InDoubt => {
            again(Phase::Retrying { attempt, since, problem }, back_off)
        }
    }
}

/// The wait where asking often would not help.
fn slow_wait(class: Class, attempt: u32) -> Option<Duration> {
    match class {
        Class::ClientRejected => {
            let (first, last) = CLIENT_RETRY;
            Some(first.saturating_mul(1 << attempt.saturating_sub(1).min(8)).min(last))
        }
        Class::Blocked if attempt <= BLOCKED_FAST_POLLS => Some(BLOCKED_POLL.0),
        Class::Blocked => Some(BLOCKED_POLL.1),
        Class::NotSent
        | Class::Transient
        | Class::InDoubt
        | Class::NeedsAuthorization
        | Class::Gone
        | Class::TooEarly
        | Class::Unknown => None,
    }
}

#[cfg(test)]
#[path = "renewal_tests.rs"]
mod tests;
