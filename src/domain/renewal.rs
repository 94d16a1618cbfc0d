//! The renewal's state machine: from a grant and what became of one request, to where the grant stands then.
//!
//! Must not send, store or publish: `daemon::scheduler` does, in the order claim, send, record, publish.

use std::time::Duration;

use super::backoff::{FLOOR, LONGEST_RETRY_AFTER, wait, wait_after_unknown, wait_at_least};
use super::client::ClientAnswer;
use super::identity::is_same;
use super::name::PortalName;
use super::portal::{Grant, GrantStatus, Phase};
use super::schedule::{ask_again_at, before_end, planned, renew_at, wait_for_a_life};
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

/// A refused client is tried again after this time at first, with one portal for all.
const CLIENT_RETRY: (Duration, Duration) = (Duration::from_secs(300), Duration::from_secs(3600));
/// A blocked grant is polled this often for a day, and then daily.
const BLOCKED_POLL: (Duration, Duration) = (Duration::from_secs(3600), Duration::from_secs(86_400));
/// Polls of a blocked grant before it is polled daily.
const BLOCKED_FAST_POLLS: u32 = 24;
/// The life of a token of which nobody knows anything.
const ASSUMED_LIFETIME: Duration = Duration::from_secs(3600);
/// A server that is asked after that moment and still wants it later is asked again after this time.
const TOO_EARLY_AGAIN: Duration = Duration::from_secs(30);
/// What is wrong with a token that had ended when it came.
const ENDED: &str = "the server says its new token has ended already";
/// And what mends it.
const ENDED_REMEDY: &str = "compare the clocks of the authorization server and of this machine, and the life of tokens that the \
    server is set to; if it means by that word that its tokens do not end, see `reply` and `assumed_lifetime` of the provider";
/// A late replay happens when this share of the life is left.
const LATE_REPLAY_SHARE: f64 = 0.1;
/// A server that wants to be left alone beyond the token's end is asked once more when this share of the life is over.
const LAST_TRY_SHARE: f64 = 0.92;
/// A dead grant is asked about again so long after it was found dead, since the server may have been ill; then hourly for
/// a day, and daily for a week.
const ASK_AGAIN: [Duration; 2] = [Duration::from_secs(30), Duration::from_secs(330)];
/// The waits from then on, and how long each is in force, counted from when the grant was found dead.
const ASK_SELDOM: [(Duration, Duration); 2] = [
    (Duration::from_secs(3600), Duration::from_secs(86_400)),
    (Duration::from_secs(86_400), Duration::from_secs(8 * 86_400)),
];
/// The waits of [`ASK_SELDOM`] are longer by up to this share, so that portals do not ask together.
const ASK_SPREAD: f64 = 0.1;

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

impl Attempt {
    /// What went wrong, by itself: where a grant stands may say something else.
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

    /// What it says of the app's client.
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

    /// Whether the server refused the app's client.
    #[must_use]
    pub fn is_client_refused(&self) -> bool {
        self.client_answer() == Some(ClientAnswer::Refused)
    }

    /// Whether the server said that the grant is dead.
    #[must_use]
    pub fn is_dead_grant(&self) -> bool {
        self.failure()
            .is_some_and(|(class, _)| class == Class::NeedsAuthorization)
    }

    /// Says what to do about a refusal, in the place of what the profile says.
    pub fn set_hint(&mut self, remedy: &str) {
        if let Self::Answered(Verdict::Refused(refusal)) = self {
            refusal.problem.remedy = Some(remedy.to_owned());
        }
    }

    /// What the server says who renews only later: that leaves the grant as it stood, and is no renewal.
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

/// What a grant is renewed by.
#[derive(Clone, Copy, Debug)]
pub struct RenewalRules<'a> {
    /// The provider's profile with the app's overrides.
    pub profile: &'a Profile,
    /// The portal's own renewal age, or the profile's.
    pub every: RenewEvery,
}

/// What decides about waits after a failure.
#[derive(Clone, Copy)]
struct RetryPolicy {
    /// `None` where a request without an outcome has lost nothing.
    replay: Option<Replay>,
    grace: Option<Duration>,
    earliest: NotBefore,
    lifetime: Duration,
    /// Whether a spent refresh token may be sent again without ending anything that is alive.
    reuse_is_harmless: bool,
}

impl RetryPolicy {
    fn of(profile: &Profile, lifetime: Option<Duration>) -> Self {
        Self {
            replay: (!profile.replay_is_harmless()).then_some(profile.replay),
            grace: profile.grace,
            earliest: profile.earliest,
            // One that had ended when it came is no measure.
            lifetime: lifetime
                .filter(|life| !life.is_zero())
                .unwrap_or(profile.assumed_lifetime),
            reuse_is_harmless: profile.replay == Replay::Now || profile.replay_is_harmless(),
        }
    }
}

/// When the request left, and now.
#[derive(Clone, Copy, Debug)]
pub struct AttemptTimes {
    /// The life of a new token is counted from here.
    pub sent_at: Timestamp,
    /// When the outcome was known.
    pub now: Timestamp,
}

/// What is to be recorded.
#[derive(Debug)]
pub enum Transition {
    /// A new pair: record it, then publish.
    Renewed(Box<Renewed>),
    /// The pair stays as it is.
    Kept(GrantStatus),
    /// The server handed out somebody else's pair: keep it aside, publish nothing.
    Foreign {
        /// Where the grant stands now.
        standing: GrantStatus,
        /// What came instead.
        granted: Box<GrantedTokens>,
    },
}

/// A renewal that went well.
#[derive(Debug, Clone)]
pub struct Renewed {
    /// The new pair.
    pub tokens: Tokens,
    /// Fresh, with the next renewal; or retrying, if the token had ended when it came.
    pub standing: GrantStatus,
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

/// Where a grant stands that was had from the server itself a moment ago.
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

/// Where a grant stands whose new token had ended when it came: it is asked for again as soon as may be, and people are told.
fn expired_status(before: &Phase, assumed: Duration, now: Timestamp) -> GrantStatus {
    let (attempt, since) = match before {
        Phase::Retrying { attempt, since, .. } => (attempt.saturating_add(1), *since),
        _ => (1, now),
    };
    let problem = Problem {
        remedy: Some(ENDED_REMEDY.to_owned()),
        ..Problem::new(Class::Unknown, ENDED.to_owned())
    };
    let at = Some(now + wait_for_a_life(attempt, assumed));
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

/// Decides what a request's outcome makes of a grant. `jitter` is in [0, 1).
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

/// Where a grant stands whose claim was found without an outcome: the process that made it is gone. Without a profile
/// (the configuration does not name its app now) the replay is the careful one.
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

/// When a pair may have been issued: in a server's grace a replay gets the very pair whose reply was lost, with its whole
/// life written on it, of which a part is over.
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
        let standing = GrantStatus {
            phase,
            renew_at: grant.standing.renew_at,
            next_attempt_at: None,
        };
        return Transition::Foreign { standing, granted };
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
        issued_at: issued_at(&grant.standing.phase, rules.profile.grace, times.sent_at),
        expires_at: times.sent_at,
        token: access,
        token_type,
    };
    let ended = lives.access == TokenLife::Ended;
    let (access, renew_at) = live(portal, grant, rules.every, (access, lives.span()), times);
    let standing = match renew_at.filter(|_| !ended) {
        None => expired_status(&grant.standing.phase, lives.assumed, times.now),
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
        standing,
        identity: identity.or_else(|| grant.identity.clone()),
        token_url,
        renamed_from,
    }))
}

/// The new access token with its end, and when to renew it; `None` if it has ended. The same token again never lives
/// longer than it was said to before.
fn live(
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
    let again_at = ask_again_at(every, portal, (issued_at, expires_at), times.sent_at);
    (
        Access {
            issued_at,
            expires_at,
            ..access
        },
        Some(again_at),
    )
}

/// RFC 6749 section 6: without a new refresh token the old one stays. What the client's own credentials buy goes on being
/// bought by them.
fn next_credential(before: &Credential, refresh: Option<RefreshToken>) -> Credential {
    match (before, refresh) {
        (Credential::Refresh(_), Some(new)) => Credential::Refresh(new),
        (Credential::Refresh(_) | Credential::Client, _) => before.clone(),
    }
}

/// When a grant that was found dead at `since` is asked about next; `None`: not any more.
fn asked_again_at(since: Timestamp, now: Timestamp, jitter: f64) -> Option<Timestamp> {
    let soon = ASK_AGAIN
        .into_iter()
        .map(|after| since + after)
        .find(|at| *at > now + FLOOR);
    let dead_for = now.since(since);
    let seldom = || {
        let (wait, _) = ASK_SELDOM
            .into_iter()
            .find(|(_, until)| dead_for < *until)?;
        Some(now + wait.mul_f64(1.0 + ASK_SPREAD * jitter.clamp(0.0, 1.0)))
    };
    // A little later each: portals that died together do not ask together.
    soon.map(|at| at + at.until(now).mul_f64(ASK_SPREAD * jitter.clamp(0.0, 1.0)))
        .or_else(seldom)
}

/// A wait that a server asked for beyond the access token's end: `None` if it does not go so far.
fn asked_beyond(
    grant: &Grant,
    asked: Option<Duration>,
    own: Duration,
    now: Timestamp,
) -> Option<AskedToWait> {
    let asked = asked
        .map(|asked| asked.min(LONGEST_RETRY_AFTER))
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

/// The moment shortly before the token's end, unless it has passed.
fn before_the_end(grant: &Grant, now: Timestamp) -> Option<Timestamp> {
    let access = grant.tokens.access.as_ref()?;
    let planned = access.issued_at + share_of(access.lifetime(), LAST_TRY_SHARE);
    (planned > now + FLOOR).then_some(planned)
}

/// The one try before the token's end, where a server wants to be left alone for longer: `None` if it was made.
fn last_try(grant: &Grant, now: Timestamp) -> Option<Timestamp> {
    if let Some(planned) = before_the_end(grant, now) {
        return Some(planned);
    }
    let access = grant.tokens.access.as_ref()?;
    let made = grant
        .standing
        .phase
        .problem()
        .is_some_and(|problem| problem.asked_to_wait.is_some());
    (!made).then(|| (now + access.expires_at.until(now) / 2).max(now + FLOOR))
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
    let before = &grant.standing.phase;
    let was_in_doubt = matches!(before, Phase::InDoubt { .. });
    let since = before.since().unwrap_or(now);
    let attempt = before.attempt().saturating_add(1);
    let renew_at = grant.standing.renew_at;
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
    problem.asked_to_wait =
        asked_beyond(grant, retry_after, back_off, now).filter(|_| class != Class::TooEarly);
    let last = last_try(grant, now).filter(|_| problem.asked_to_wait.is_some());
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
        problem: said,
        while_in_doubt,
    } = before
        && !matches!(class, Class::NeedsAuthorization | Class::Gone)
    {
        // Asked again, it answered with no word on the grant, which is as dead as before.
        let lost = class == Class::InDoubt;
        let phase = Phase::NeedsAuthorization {
            since: *since,
            problem: said.clone(),
            while_in_doubt: *while_in_doubt || lost,
        };
        // A reply that was lost may have held a pair, and a server's grace is short.
        let at = if lost && !while_in_doubt {
            Some(now + FLOOR)
        } else {
            asked_again_at(*since, now, jitter)
        };
        let at =
            at.map(|at| at.max(now + retry_after.unwrap_or_default().min(LONGEST_RETRY_AFTER)));
        return GrantStatus {
            phase,
            renew_at,
            next_attempt_at: at.filter(|_| reuse_is_harmless),
        };
    }

    match class {
        Class::NeedsAuthorization => {
            // Asked again by hand, it stays what it was: our own lost reply may have spent the token.
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
            // A state that went back holds a token that is spent: the server would see it once more.
            let spent = matches!(before, Phase::OldState { .. });
            let asks = reuse_is_harmless && !spent;
            let at = asked_again_at(since, now, jitter).filter(|_| asks);
            let at =
                at.map(|at| at.max(now + retry_after.unwrap_or_default().min(LONGEST_RETRY_AFTER)));
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
                None | Some(Replay::Now) => FLOOR,
                Some(Replay::Late) => {
                    let late = expires_at.map_or(FLOOR, |at| {
                        (at - share_of(lifetime, LATE_REPLAY_SHARE)).until(now)
                    });
                    late.min(grace.map_or(late, |grace| grace / 2)).max(FLOOR)
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
        // Once in doubt, a grant stays so until the server has said yes or no to the grant itself.
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
            // Not a moment later, however long a life is: readers wait for it.
            let again_after = back_off.max(spacing(lifetime).min(TOO_EARLY_AGAIN));
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
            // Where it is refused for this portal only, nobody else's try helps it: one more before readers are without.
            let wait = match before_the_end(grant, now).filter(|_| class == Class::ClientRejected) {
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

/// The wait where asking often would not help. A token that lives shorter than an hour is asked for more often.
fn slow_wait(class: Class, attempt: u32, lifetime: Duration) -> Option<Duration> {
    match class {
        Class::ClientRejected => {
            let (first, last) = CLIENT_RETRY;
            let (first, last) = (
                first.min(lifetime / 3).max(FLOOR),
                last.min(lifetime).max(FLOOR),
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
