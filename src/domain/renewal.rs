//! The renewal's state machine: the next status of a grant from the outcome of a request.
//!
//! Must not send, store or publish: `daemon::scheduler` does, in the order claim, send, record, publish.

use std::time::Duration;

use super::backoff::{MAX_RETRY_AFTER, MIN_WAIT, wait, wait_after_unknown, wait_at_least};
use super::client::ClientAnswer;
use super::identity::is_same;
use super::name::PortalName;
use super::portal::{Grant, GrantStatus, Phase};
use super::schedule::{
    before_end, planned, renew_at, unchanged_retry_at, wait_after_expired_arrival,
};
use refreshd_secrets::RefreshToken;
use refreshd_secrets::mask::short;
use refreshd_time::{Timestamp, share_of};
use refreshd_token_client::problem::{AskedToWait, Problem};
use refreshd_token_client::provider::{Class, Profile, Replay, host_of};
use refreshd_token_client::quirks::NotBefore;
use refreshd_token_client::refresh_end::{self, RenewalTimes};
use refreshd_token_client::renew_every::{RenewEvery, before_an_end, spacing};
use refreshd_token_client::reply::{GrantedTokens, Refusal, Verdict};
use refreshd_token_client::token::{Access, Credential, Tokens, Validity};
use refreshd_token_client::token_life::TokenLife;

/// Waits between probes of a refused client, one portal for all.
const CLIENT_RETRY: (Duration, Duration) = (Duration::from_secs(300), Duration::from_secs(3600));
/// Polling intervals of a blocked grant: for the first day, and afterwards.
const BLOCKED_POLL: (Duration, Duration) = (Duration::from_secs(3600), Duration::from_secs(86_400));
/// Polls of a blocked grant before the longer interval.
const BLOCKED_FAST_POLLS: u32 = 24;
/// Lifetime of a token if nothing is known about it.
const ASSUMED_LIFETIME: Duration = Duration::from_secs(3600);
/// Wait if a server answers `too_early` after the time that it named.
const TOO_EARLY_RETRY_AFTER: Duration = Duration::from_secs(30);
/// Problem of a token that was expired on arrival.
const EXPIRED_ON_ARRIVAL: &str = "the server reports that its new token has expired already";
/// Hint for [`EXPIRED_ON_ARRIVAL`].
const EXPIRED_ON_ARRIVAL_HINT: &str = "compare the clocks of the authorization server and of this machine, and the life of tokens that the \
    server is set to; if it means by that word that its tokens do not end, see `reply` and `assumed_lifetime` of the provider";
/// A late replay happens at this remaining share of the lifetime.
const LATE_REPLAY_SHARE: f64 = 0.1;
/// If `Retry-After` exceeds the token's expiry, there is one more attempt at this share of the lifetime.
const LAST_ATTEMPT_SHARE: f64 = 0.92;
/// First attempts after a grant was found dead, since the server may have been wrong. Then hourly for a day, and daily for
/// a week.
const EARLY_DEAD_RETRIES: [Duration; 2] = [Duration::from_secs(30), Duration::from_secs(330)];
/// Later intervals, and how long each applies, counted from when the grant was found dead.
const LATE_DEAD_RETRIES: [(Duration, Duration); 2] = [
    (Duration::from_secs(3600), Duration::from_secs(86_400)),
    (Duration::from_secs(86_400), Duration::from_secs(8 * 86_400)),
];
/// Jitter of [`LATE_DEAD_RETRIES`], so that portals do not ask together.
const DEAD_RETRY_JITTER: f64 = 0.1;

/// Outcome of a token request.
#[derive(Debug)]
pub enum Attempt {
    /// Not sent.
    NotSent(String),
    /// Sent, without a complete response.
    InDoubt(String),
    /// A complete response.
    Answered(Verdict),
}

impl Attempt {
    /// The failure of the request itself; the grant's status may name another.
    #[must_use]
    pub fn failure(&self) -> Option<(Class, String)> {
        match self {
            Self::NotSent(why) => Some((Class::NotSent, why.clone())),
            Self::InDoubt(why) => Some((Class::InDoubt, why.clone())),
            Self::Answered(Verdict::Refused(Refusal { problem, .. })) => {
                Some((problem.class, problem.text()))
            }
            Self::Answered(Verdict::Granted(_)) => None,
        }
    }

    /// Evidence about the app's client.
    #[must_use]
    pub const fn client_answer(&self) -> Option<ClientAnswer> {
        match self {
            Self::NotSent(_) | Self::InDoubt(_) => None,
            Self::Answered(Verdict::Granted(_)) => Some(ClientAnswer::Works),
            Self::Answered(Verdict::Refused(Refusal {
                problem, assumed, ..
            })) => match problem.class {
                Class::ClientRejected => Some(ClientAnswer::Refused),
                Class::NeedsAuthorization | Class::Blocked | Class::Gone if !*assumed => {
                    Some(ClientAnswer::GrantRefused)
                }
                _ => None,
            },
        }
    }

    /// Returns whether the server refused the app's client.
    #[must_use]
    pub fn is_client_refused(&self) -> bool {
        self.client_answer() == Some(ClientAnswer::Refused)
    }

    /// Returns whether the server rejected the grant as dead.
    #[must_use]
    pub fn is_dead_grant(&self) -> bool {
        self.failure()
            .is_some_and(|(class, _)| class == Class::NeedsAuthorization)
    }

    /// Replaces the profile's hint.
    pub fn set_hint(&mut self, remedy: &str) {
        if let Self::Answered(Verdict::Refused(refusal)) = self {
            refusal.problem.remedy = Some(remedy.to_owned());
        }
    }

    /// The problem of a `too_early` response: it leaves the grant unchanged, and is not a renewal.
    #[must_use]
    pub fn too_early(&self) -> Option<&Problem> {
        match self {
            Self::Answered(Verdict::Refused(refusal))
                if refusal.problem.class == Class::TooEarly =>
            {
                Some(&refusal.problem)
            }
            Self::Answered(_) | Self::NotSent(_) | Self::InDoubt(_) => None,
        }
    }
}

/// Rules for the renewals of a grant.
#[derive(Clone, Copy, Debug)]
pub struct RenewalRules<'a> {
    /// The provider's profile with the app's overrides.
    pub profile: &'a Profile,
    /// The portal's own renewal age, or the profile's.
    pub every: RenewEvery,
}

/// Inputs for the wait after a failure.
#[derive(Clone, Copy)]
struct RetryPolicy {
    /// `None` if a request without an outcome cannot have spent anything.
    replay: Option<Replay>,
    grace: Option<Duration>,
    earliest: NotBefore,
    lifetime: Duration,
    /// Whether a spent refresh token may be sent again without revoking a valid grant.
    reuse_is_harmless: bool,
}

impl RetryPolicy {
    fn of(profile: &Profile, lifetime: Option<Duration>) -> Self {
        Self {
            replay: (!profile.replay_is_harmless()).then_some(profile.replay),
            grace: profile.grace,
            earliest: profile.earliest,
            // The lifetime of a token that was expired on arrival does not count.
            lifetime: lifetime
                .filter(|life| !life.is_zero())
                .unwrap_or(profile.assumed_lifetime),
            reuse_is_harmless: profile.replay == Replay::Now || profile.replay_is_harmless(),
        }
    }
}

/// Times of an attempt.
#[derive(Clone, Copy, Debug)]
pub struct AttemptTimes {
    /// Sending of the request; the new token's lifetime counts from here.
    pub sent_at: Timestamp,
    /// Arrival of the outcome.
    pub now: Timestamp,
}

/// The outcome to record.
#[derive(Debug)]
pub enum Transition {
    /// A new pair: record it, then publish.
    Renewed(Box<Renewed>),
    /// The pair is unchanged.
    Kept(GrantStatus),
    /// The server issued another owner's pair: store it as superseded, publish nothing.
    Foreign {
        /// Status of the grant.
        status: GrantStatus,
        /// The issued pair.
        granted: Box<GrantedTokens>,
    },
}

/// A successful renewal.
#[derive(Debug, Clone)]
pub struct Renewed {
    /// The new pair.
    pub tokens: Tokens,
    /// Fresh, with the next renewal; or retrying, if the token was expired on arrival.
    pub status: GrantStatus,
    /// Identity of the owner.
    pub identity: Option<String>,
    /// Token endpoint of the next renewal, if the server named another one. `None` leaves it to the state: a configuration
    /// change may have moved it during this renewal.
    pub token_url: Option<String>,
    /// The previous address of the API, if it has changed: the portal was renamed.
    pub renamed_from: Option<String>,
}

/// Status of a grant that was imported, or read from a file or an install event: renewed at once, which verifies it.
#[must_use]
pub fn imported_status(
    portal: &PortalName,
    access: Option<&Access>,
    every: RenewEvery,
    now: Timestamp,
) -> GrantStatus {
    let renew_at =
        access.map(|access| renew_at(every, portal, access.issued_at, access.lifetime()));
    GrantStatus {
        phase: Phase::Fresh,
        renew_at: Some(renew_at.unwrap_or(now).min(now)),
        next_attempt_at: Some(now),
    }
}

/// Status of a grant that was just issued by the server.
#[must_use]
pub fn granted_status(
    portal: &PortalName,
    tokens: &Tokens,
    every: RenewEvery,
    now: Timestamp,
) -> GrantStatus {
    let Some(access) = &tokens.access else {
        return imported_status(portal, None, every, now);
    };
    if access.lifetime().is_zero() {
        return expired_status(&Phase::Fresh, Duration::ZERO, now);
    }
    let renew_at = planned(every, portal, tokens);
    GrantStatus {
        phase: Phase::Fresh,
        renew_at,
        next_attempt_at: renew_at,
    }
}

/// Status of a grant whose new token was expired on arrival: renewed again soon, and escalated.
fn expired_status(before: &Phase, assumed: Duration, now: Timestamp) -> GrantStatus {
    let (attempt, since) = match before {
        Phase::Retrying { attempt, since, .. } => (attempt.saturating_add(1), *since),
        _ => (1, now),
    };
    let problem = Problem {
        remedy: Some(EXPIRED_ON_ARRIVAL_HINT.to_owned()),
        ..Problem::new(Class::Unknown, EXPIRED_ON_ARRIVAL.to_owned())
    };
    let at = Some(now + wait_after_expired_arrival(attempt, assumed));
    GrantStatus {
        phase: Phase::Retrying {
            attempt,
            since,
            problem,
        },
        renew_at: at,
        next_attempt_at: at,
    }
}

/// Applies the outcome of a request to a grant. `jitter` is in [0, 1).
#[must_use]
pub fn apply_outcome(
    portal: &PortalName,
    grant: &Grant,
    rules: RenewalRules<'_>,
    attempt: Attempt,
    times: AttemptTimes,
    jitter: f64,
) -> Transition {
    let refusal = match attempt {
        Attempt::Answered(Verdict::Granted(granted)) => {
            return accept(portal, grant, rules, granted, times);
        }
        Attempt::Answered(Verdict::Refused(refusal)) => refusal,
        Attempt::NotSent(detail) => no_answer(Class::NotSent, detail),
        Attempt::InDoubt(detail) => no_answer(Class::InDoubt, detail),
    };
    let terms = RetryPolicy::of(
        rules.profile,
        grant.tokens.access.as_ref().map(Access::lifetime),
    );
    Transition::Kept(after_refusal(grant, terms, refusal, times, jitter))
}

/// Status of a grant with an open claim of a process that has ended. Without a profile (the configuration no longer names its
/// app) the careful replay applies.
#[must_use]
pub fn interrupted_status(
    grant: &Grant,
    profile: Option<&Profile>,
    claimed_at: Timestamp,
    now: Timestamp,
) -> GrantStatus {
    let detail = format!("refreshd ended at or after {claimed_at} while a renewal was under way");
    let lifetime = grant.tokens.access.as_ref().map(Access::lifetime);
    let careful = || RetryPolicy {
        replay: Some(Replay::Late),
        grace: None,
        earliest: NotBefore::Any,
        lifetime: lifetime.unwrap_or(ASSUMED_LIFETIME),
        reuse_is_harmless: false,
    };
    let terms = profile.map_or_else(careful, |profile| RetryPolicy::of(profile, lifetime));
    let times = AttemptTimes {
        sent_at: claimed_at.min(now),
        now,
    };
    after_refusal(grant, terms, no_answer(Class::InDoubt, detail), times, 0.0)
}

fn no_answer(class: Class, detail: String) -> Refusal {
    Refusal {
        problem: Problem::new(class, detail),
        retry_after: None,
        assumed: false,
    }
}

/// Earliest issue of a pair: within a server's grace a replay returns the pair of the lost response, with its original
/// lifetime, part of which has passed.
fn issued_at(phase: &Phase, grace: Option<Duration>, sent_at: Timestamp) -> Timestamp {
    match (phase, grace) {
        (Phase::InDoubt { since, .. }, Some(grace)) => (*since).max(sent_at - grace).min(sent_at),
        _ => sent_at,
    }
}

fn accept(
    portal: &PortalName,
    grant: &Grant,
    rules: RenewalRules<'_>,
    granted: Box<GrantedTokens>,
    times: AttemptTimes,
) -> Transition {
    if let (Some(known), Some(got)) = (&grant.identity, &granted.identity)
        && !is_same(known, got)
    {
        let field = rules
            .profile
            .identity_field
            .as_deref()
            .unwrap_or("identity");
        let (got, known) = (short(got), short(known));
        let detail =
            format!("the server answered for another portal: {field} is {got}, expected {known}");
        let problem = Problem::new(Class::NeedsAuthorization, detail);
        let phase = Phase::NeedsAuthorization {
            since: times.now,
            problem,
            while_in_doubt: false,
        };
        let status = GrantStatus {
            phase,
            renew_at: grant.status.renew_at,
            next_attempt_at: None,
        };
        return Transition::Foreign { status, granted };
    }
    let notice = granted.notice();
    let GrantedTokens {
        access,
        refresh,
        odd_refresh: _,
        token_type,
        lives,
        identity,
        server,
        details,
    } = *granted;
    let details = details.with(
        &grant.tokens.details,
        &rules.profile.request.redirect_fields,
    );
    let asked = RenewalTimes {
        before_at: grant.renewed_at,
        sent_at: times.sent_at,
        soonest: before_an_end(lives.span()),
    };
    let end = grant.tokens.validity.refresh;
    let validity = Validity {
        refresh: refresh_end::after(end, &lives.refresh, refresh.is_some(), asked),
        notice,
    };
    let access = Access {
        issued_at: issued_at(&grant.status.phase, rules.profile.grace, times.sent_at),
        expires_at: times.sent_at,
        token: access,
        token_type,
    };
    let ended = lives.access == TokenLife::Ended;
    let (access, renew_at) =
        valid_access(portal, grant, rules.every, (access, lives.span()), times);
    let status = match renew_at.filter(|_| !ended) {
        None => expired_status(&grant.status.phase, lives.assumed, times.now),
        Some(at) => {
            let life = (times.sent_at, access.lifetime());
            let at = validity
                .refresh
                .map_or(at, |end| before_end(at, rules.every, portal, &end, life));
            GrantStatus {
                phase: Phase::Fresh,
                renew_at: Some(at),
                next_attempt_at: Some(at),
            }
        }
    };
    let was_at = grant.tokens.details.endpoint.clone();
    let renamed_from = was_at.filter(|old| details.endpoint.as_ref().is_some_and(|new| new != old));
    let token_url = server
        .and_then(|server| {
            rules
                .profile
                .renewal_url_on_host_of(&server)
                .map(str::to_owned)
        })
        .filter(|url| *url != grant.token_url);
    Transition::Renewed(Box::new(Renewed {
        tokens: Tokens {
            access: Some(access),
            credential: next_credential(&grant.tokens.credential, refresh),
            details,
            validity,
        },
        status,
        identity: identity.or_else(|| grant.identity.clone()),
        token_url,
        renamed_from,
    }))
}

/// The new access token with its expiry, and its renewal time; `None` if it has expired. The expiry of an unchanged token
/// never increases.
fn valid_access(
    portal: &PortalName,
    grant: &Grant,
    every: RenewEvery,
    (access, life): (Access, Duration),
    times: AttemptTimes,
) -> (Access, Option<Timestamp>) {
    let expires_at = access.issued_at + life;
    let same = grant
        .tokens
        .access
        .as_ref()
        .filter(|old| old.token.is(&access.token));
    let Some(old) = same else {
        let renew_at = renew_at(every, portal, access.issued_at, life);
        return (
            Access {
                expires_at,
                ..access
            },
            Some(renew_at),
        );
    };
    let expires_at = expires_at.min(old.expires_at);
    if expires_at <= times.sent_at {
        return (
            Access {
                issued_at: times.sent_at,
                expires_at,
                ..access
            },
            None,
        );
    }
    let issued_at = access.issued_at.min(old.issued_at);
    let again_at = unchanged_retry_at(every, portal, (issued_at, expires_at), times.sent_at);
    (
        Access {
            issued_at,
            expires_at,
            ..access
        },
        Some(again_at),
    )
}

/// RFC 6749 section 6: without a new refresh token the old one stays valid. Tokens of the client's own credentials are
/// renewed with those credentials.
fn next_credential(before: &Credential, refresh: Option<RefreshToken>) -> Credential {
    match (before, refresh) {
        (Credential::Refresh(_), Some(new)) => Credential::Refresh(new),
        (Credential::Refresh(_) | Credential::Client, _) => before.clone(),
    }
}

/// Next attempt for a grant that was found dead at `since`; `None`: no more attempts.
fn next_dead_retry_at(since: Timestamp, now: Timestamp, jitter: f64) -> Option<Timestamp> {
    let soon = EARLY_DEAD_RETRIES
        .into_iter()
        .map(|after| since + after)
        .find(|at| *at > now + MIN_WAIT);
    let dead_for = now.since(since);
    let seldom = || {
        let (wait, _) = LATE_DEAD_RETRIES
            .into_iter()
            .find(|(_, until)| dead_for < *until)?;
        Some(now + wait.mul_f64(1.0 + DEAD_RETRY_JITTER * jitter.clamp(0.0, 1.0)))
    };
    // Jitter: portals that died together do not ask together.
    soon.map(|at| {
        at + at
            .until(now)
            .mul_f64(DEAD_RETRY_JITTER * jitter.clamp(0.0, 1.0))
    })
    .or_else(seldom)
}

/// A `Retry-After` beyond the access token's expiry; `None` if it is within.
fn retry_after_beyond_expiry(
    grant: &Grant,
    asked: Option<Duration>,
    own: Duration,
    now: Timestamp,
) -> Option<AskedToWait> {
    let asked = asked
        .map(|asked| asked.min(MAX_RETRY_AFTER))
        .filter(|asked| *asked > own)?;
    let token_ends = grant.tokens.access.as_ref()?.expires_at;
    let until = now + asked;
    (token_ends > now && until > token_ends).then(|| AskedToWait {
        by: host_of(&grant.token_url)
            .unwrap_or("the authorization server")
            .to_owned(),
        until,
        token_ends,
    })
}

/// Shortly before the token's expiry; `None` if that has passed.
fn shortly_before_expiry(grant: &Grant, now: Timestamp) -> Option<Timestamp> {
    let access = grant.tokens.access.as_ref()?;
    let planned = access.issued_at + share_of(access.lifetime(), LAST_ATTEMPT_SHARE);
    (planned > now + MIN_WAIT).then_some(planned)
}

/// The one attempt before the token's expiry, if `Retry-After` is longer; `None` if it was made.
fn last_attempt_at(grant: &Grant, now: Timestamp) -> Option<Timestamp> {
    if let Some(planned) = shortly_before_expiry(grant, now) {
        return Some(planned);
    }
    let access = grant.tokens.access.as_ref()?;
    let made = grant
        .status
        .phase
        .problem()
        .is_some_and(|problem| problem.asked_to_wait.is_some());
    (!made).then(|| (now + access.expires_at.until(now) / 2).max(now + MIN_WAIT))
}

fn after_refusal(
    grant: &Grant,
    terms: RetryPolicy,
    refusal: Refusal,
    times: AttemptTimes,
    jitter: f64,
) -> GrantStatus {
    let Refusal {
        mut problem,
        retry_after,
        assumed: _,
    } = refusal;
    let AttemptTimes { sent_at, now } = times;
    let RetryPolicy {
        replay,
        grace,
        earliest,
        lifetime,
        reuse_is_harmless,
    } = terms;
    if problem.class == Class::InDoubt && replay.is_none() {
        problem.class = Class::Transient;
    }
    let class = problem.class;
    let before = &grant.status.phase;
    let was_in_doubt = matches!(before, Phase::InDoubt { .. });
    let since = before.since().unwrap_or(now);
    let attempt = before.attempt().saturating_add(1);
    let renew_at = grant.status.renew_at;
    let stopped = |phase| GrantStatus {
        phase,
        renew_at,
        next_attempt_at: None,
    };
    let access = grant.tokens.access.as_ref();
    let expires_at = access.map(|access| access.expires_at);
    let expired = expires_at.is_some_and(|at| at <= now);
    let back_off = match class {
        Class::Unknown => wait_after_unknown(attempt, lifetime, expired, jitter),
        _ => wait(attempt, lifetime, expired, jitter),
    };
    problem.asked_to_wait = retry_after_beyond_expiry(grant, retry_after, back_off, now)
        .filter(|_| class != Class::TooEarly);
    let last = last_attempt_at(grant, now).filter(|_| problem.asked_to_wait.is_some());
    let again = |phase, wait: Duration| {
        let at = now + wait_at_least(wait, retry_after);
        GrantStatus {
            phase,
            renew_at,
            next_attempt_at: Some(last.map_or(at, |last| at.min(last))),
        }
    };
    if let Phase::NeedsAuthorization {
        since,
        problem: earlier,
        while_in_doubt,
    } = before
        && !matches!(class, Class::NeedsAuthorization | Class::Gone)
    {
        // A repeated attempt without information about the grant leaves it dead.
        let lost = class == Class::InDoubt;
        let phase = Phase::NeedsAuthorization {
            since: *since,
            problem: earlier.clone(),
            while_in_doubt: *while_in_doubt || lost,
        };
        // A lost response may have contained a pair, and a server's grace is short.
        let at = if lost && !while_in_doubt {
            Some(now + MIN_WAIT)
        } else {
            next_dead_retry_at(*since, now, jitter)
        };
        let at = at.map(|at| at.max(now + retry_after.unwrap_or_default().min(MAX_RETRY_AFTER)));
        return GrantStatus {
            phase,
            renew_at,
            next_attempt_at: at.filter(|_| reuse_is_harmless),
        };
    }

    match class {
        Class::NeedsAuthorization => {
            // After a manual attempt the flag stays: a lost response may have spent the token.
            let doubtful = matches!(
                before,
                Phase::NeedsAuthorization {
                    while_in_doubt: true,
                    ..
                }
            );
            let while_in_doubt = was_in_doubt || doubtful;
            let was_dead = matches!(before, Phase::NeedsAuthorization { .. });
            let since = if was_dead { since } else { now };
            // A rolled-back state holds a spent token: the server would see it once more.
            let spent = matches!(before, Phase::OldState { .. });
            let asks = reuse_is_harmless && !spent;
            let at = next_dead_retry_at(since, now, jitter).filter(|_| asks);
            let at =
                at.map(|at| at.max(now + retry_after.unwrap_or_default().min(MAX_RETRY_AFTER)));
            let phase = Phase::NeedsAuthorization {
                since,
                problem,
                while_in_doubt,
            };
            GrantStatus {
                phase,
                renew_at,
                next_attempt_at: at,
            }
        }
        Class::Gone => stopped(Phase::Gone {
            since: now,
            problem,
        }),
        Class::InDoubt if !was_in_doubt => {
            let wait = match replay {
                None | Some(Replay::Now) => MIN_WAIT,
                Some(Replay::Late) => {
                    let late = expires_at.map_or(MIN_WAIT, |at| {
                        (at - share_of(lifetime, LATE_REPLAY_SHARE)).until(now)
                    });
                    late.min(grace.map_or(late, |grace| grace / 2))
                        .max(MIN_WAIT)
                }
            };
            again(
                Phase::InDoubt {
                    attempt: 1,
                    since: sent_at,
                    problem,
                },
                wait,
            )
        }
        // A grant stays in doubt until the server accepts or rejects the grant itself.
        _ if was_in_doubt => {
            let wait = slow_wait(class, attempt, lifetime).unwrap_or(back_off);
            again(
                Phase::InDoubt {
                    attempt,
                    since,
                    problem,
                },
                wait,
            )
        }
        Class::TooEarly => {
            let at = match (earliest, grant.tokens.access.as_ref()) {
                (NotBefore::Age(age), Some(access)) => Some(access.issued_at + age),
                (NotBefore::Any | NotBefore::Expiry | NotBefore::Age(_), _) => expires_at,
            };
            // No later, however long the lifetime is: consumers wait for the token.
            let again_after = back_off.max(spacing(lifetime).min(TOO_EARLY_RETRY_AFTER));
            let wait = at
                .filter(|at| *at > now)
                .map_or(again_after, |at| at.until(now));
            again(before.clone(), wait)
        }
        Class::ClientRejected | Class::Blocked => {
            let same = before
                .problem()
                .is_some_and(|problem| problem.class == class);
            let (attempt, since) = if same { (attempt, since) } else { (1, now) };
            let wait = slow_wait(class, attempt, lifetime).unwrap_or(back_off);
            // If only this portal is refused, other portals' attempts do not help: one more attempt before the expiry.
            let wait = match shortly_before_expiry(grant, now)
                .filter(|_| class == Class::ClientRejected)
            {
                Some(at) if now + wait >= at => at.until(now),
                _ => wait,
            };
            if class == Class::Blocked {
                again(
                    Phase::Blocked {
                        attempt,
                        since,
                        problem,
                    },
                    wait,
                )
            } else {
                again(
                    Phase::ClientRejected {
                        attempt,
                        since,
                        problem,
                    },
                    wait,
                )
            }
        }
        Class::NotSent | Class::Transient | Class::Unknown | Class::InDoubt => again(
            Phase::Retrying {
                attempt,
                since,
                problem,
            },
            back_off,
        ),
    }
}

/// Wait if frequent attempts would not help. Tokens with a lifetime below an hour are retried more often.
fn slow_wait(class: Class, attempt: u32, lifetime: Duration) -> Option<Duration> {
    match class {
        Class::ClientRejected => {
            let (first, last) = CLIENT_RETRY;
            let (first, last) = (
                first.min(lifetime / 3).max(MIN_WAIT),
                last.min(lifetime).max(MIN_WAIT),
            );
            Some(
                first
                    .saturating_mul(1 << attempt.saturating_sub(1).min(8))
                    .min(last),
            )
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
