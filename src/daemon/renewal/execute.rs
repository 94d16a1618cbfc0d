//! One claimed renewal from sending to publishing: send, apply, record, publish, then notify. In this order only.
//!
//! Must never be cancelled once it runs: not by a reload, not by SIGTERM. A pair that cannot be written is kept in memory,
//! retried, and reported as critical until it is stored.

use std::sync::Arc;
use std::time::Duration;

use crate::adapters::state::{CarriedPair, Unsaved};
use crate::config::{App, Config};
use crate::daemon::alerts::escalation_log::{EscalationSubject, log_escalation};
use crate::daemon::context::Context;
use crate::daemon::log_limits::RenewalLine;
use crate::daemon::renewal::carry::{Slot, UnsavedCopy};
use crate::daemon::renewal::client_secret;
use crate::daemon::renewal::doubtful_pair;
use crate::daemon::renewal::persist::until_durable;
use crate::daemon::renewal::publisher::KnownState;
use crate::daemon::renewal::unreadable_reply::{self, KeptPair};
use crate::daemon::waiters::RenewalReport;
use crate::domain::candidate::Origin;
use crate::domain::client::ClientAnswer;
use crate::domain::conclusion::{
    ClaimedRenewal, Conclusion, Effect, News, RenewalOutcome, client_notice, conclude,
};
use crate::domain::dispute;
use crate::domain::escalation::EscalationNotice;
use crate::domain::identity::{self, ClaimedIdentity, compare};
use crate::domain::kept_reply::{ReplyTo, SentToken, UnreadableReply};
use crate::domain::name::PortalName;
use crate::domain::portal::{ClaimId, Grant, GrantStatus, Phase, Portal};
use crate::domain::record::{ClientVerdict, RecordOutcome, Recorded, RenewalRecord};
use crate::domain::renewal::{Attempt, AttemptTimes, RenewalRules, Transition, apply_outcome};
use crate::domain::rotations::Rotations;
use crate::domain::settings::Settings;
use refreshd_secrets::Fingerprint;
use refreshd_time::{Timestamp, skew};
use refreshd_token_client::authorization_server::TokenResponse;
use refreshd_token_client::problem::Problem;
use refreshd_token_client::provider::{Class, Profile, at_domain, host_of};
use refreshd_token_client::quirks::Rotation;
use refreshd_token_client::renew_every::RenewEvery;
use refreshd_token_client::reply::{ErrorContext, PresentedCredential, Verdict};
use refreshd_token_client::request::RequestKind;
use refreshd_token_client::token::Generation;

/// Maximum difference of a server's clock in seconds.
const SKEW_LIMIT: f64 = 30.0;
/// Interval in which a grant looks for the outcome of its kept pair.
const KEPT_PAIR_WAIT: Duration = Duration::from_secs(30);

/// A portal under a claim.
pub struct ClaimedGrant {
    pub(crate) name: PortalName,
    pub(crate) settings: Settings,
    pub(crate) grant: Grant,
    pub(crate) claim: (ClaimId, Timestamp),
    /// Fingerprint of the kind of request that obtained its pair.
    bought_by: Option<Fingerprint>,
    /// Whether its app's client is rejected, for all portals or for this one.
    pub(crate) client_refused: bool,
    /// Whether the pair of a stored response waits for its proof: the grant's own token is spent.
    awaits_kept_pair: bool,
}

impl ClaimedGrant {
    /// Converts a claimed portal; `None` if it has no claim.
    #[must_use]
    pub fn from(portal: Portal) -> Option<Self> {
        let Portal {
            name,
            settings,
            grant,
            bought_by,
            client_refused,
            candidate,
            ..
        } = portal;
        let grant = grant?;
        let claim = grant.claim?;
        let problem = grant.status.phase.problem();
        let client_refused = client_refused.is_some()
            || problem.is_some_and(|problem| problem.class == Class::ClientRejected);
        Some(Self {
            name,
            settings: settings?,
            grant,
            claim,
            bought_by,
            client_refused,
            awaits_kept_pair: candidate
                .is_some_and(|candidate| candidate.origin == Origin::KeptReply),
        })
    }

    /// Token endpoint of the request.
    #[must_use]
    pub fn token_url(&self) -> &str {
        &self.grant.token_url
    }
}

/// Performs a claimed renewal. Returns when the portal is due next.
pub async fn exchange(shared: Arc<Context>, mut claimed: ClaimedGrant) -> Option<Timestamp> {
    let mut config = shared.config();
    if claimed.client_refused
        && let Some(app) = config.apps.get(&claimed.settings.app)
        && let Some(newer) =
            client_secret::newer(&shared, &app.name, app.client_secret.as_ref()).await
    {
        config = newer;
    }
    let started = shared.clock.tick();
    let Some(app) = usable_app(&config, &claimed) else {
        let why = "its client or server changed in the configuration";
        return release(&shared, &config, claimed, why).await;
    };
    if claimed.awaits_kept_pair {
        let why = "the pair of a kept reply is being tried; the token before it is spent";
        claimed.grant.status.next_attempt_at = Some(shared.clock.now() + KEPT_PAIR_WAIT);
        return release(&shared, &config, claimed, why).await;
    }
    let profile = Arc::clone(&app.profile);
    let result = send_renewal(&shared, &config, app, &claimed).await;
    let AttemptResult {
        mut attempt,
        mut unread,
        mut sent_at,
        now,
        skew,
        kind,
        rotations,
    } = result;
    let every = claimed
        .settings
        .renew_every
        .map_or(profile.renew_every, RenewEvery::from);
    let mut offers_pair = false;
    let mut is_contested = false;
    if attempt.is_dead_grant() {
        match unreadable_reply::pair_of_kept_reply(&shared, &claimed.name, &claimed.grant, app)
            .await
        {
            KeptPair::Nothing => {}
            KeptPair::Unread => attempt.set_hint(unreadable_reply::HINT_DEAD),
            KeptPair::Doubtful(pairs) => {
                offers_pair = doubtful_pair::offer(
                    &shared,
                    (&claimed.name, &claimed.grant),
                    app,
                    every,
                    pairs,
                )
                .await;
                if offers_pair {
                    attempt = Attempt::InDoubt(doubtful_pair::BEING_PROVED.to_owned());
                } else {
                    attempt.set_hint(unreadable_reply::HINT_DEAD);
                }
            }
            KeptPair::Pair(granted, at) => {
                tracing::warn!(
                    portal = %claimed.name,
                    "{}: the server refused the token that was sent again; the pair that it sent before, with a status \
                     that is no success, is used",
                    claimed.name
                );
                (attempt, unread, sent_at) =
                    (Attempt::Answered(Verdict::Granted(granted)), None, at);
            }
        }
        if attempt.is_dead_grant()
            && let Ok(Some(waiting)) = shared.state.dispute_of(claimed.name.clone()).await
        {
            // It is offered once the death is recorded; until then the grant counts as alive.
            is_contested = waiting.newcomer.replaces_dead();
            attempt.set_hint(if is_contested {
                dispute::HINT_TRIED
            } else {
                dispute::HINT_WAITS
            });
        }
    } else if unread.is_some() {
        attempt.set_hint(unreadable_reply::HINT_IN_DOUBT);
    }
    let took = shared.clock.elapsed(started);
    let rules = RenewalRules {
        profile: &profile,
        every,
    };
    let (failure, client_answer) = (attempt.failure(), attempt.client_answer());
    let bought_by = rotations
        .after(has_rotated(&claimed.grant, &attempt))
        .marked(&kind);
    let without_refresh = unread
        .as_ref()
        .is_some_and(|unread| matches!(unread.answers, ReplyTo::WithoutRefresh(_)));
    let transition = match (foreign_host(&claimed, &profile, &attempt), attempt) {
        (Some(detail), Attempt::Answered(Verdict::Granted(granted))) => {
            let problem = Problem::new(Class::NeedsAuthorization, detail);
            let phase = Phase::NeedsAuthorization {
                since: now,
                problem,
                while_in_doubt: false,
            };
            let renew_at = claimed.grant.status.renew_at;
            Transition::Foreign {
                status: GrantStatus {
                    phase,
                    renew_at,
                    next_attempt_at: None,
                },
                granted,
            }
        }
        (_, attempt) => {
            let times = AttemptTimes { sent_at, now };
            apply_outcome(
                &claimed.name,
                &claimed.grant,
                rules,
                attempt,
                times,
                shared.clock.random_fraction(),
            )
        }
    };
    let planned = claimed.grant.status.renew_at;
    let outcome = RenewalOutcome {
        transition,
        unread,
        client_answer,
        bought_by: Some(bought_by),
    };
    let context = (now, Slot::default());
    let mut ended = finish(&shared, &config, claimed, outcome, context).await;
    if offers_pair || is_contested {
        // Recorded first: the candidate takes the place of a grant that no request is under way for.
        shared.candidates.notify_one();
    }
    // The outcome of the request may leave the grant's status unchanged: after `too_early`, and if the grant is dead
    // already.
    if let Some((class, detail)) = failure.filter(|(class, _)| ended.class != Some(*class)) {
        let stays = class == Class::TooEarly || ended.class == Some(Class::NeedsAuthorization);
        if stays && !ended.report.set_aside {
            (ended.class, ended.detail) = (Some(class), Some(detail.clone()));
            ended.report.failure = Some((class, detail));
        }
    }
    shared.metrics.renewal(&profile.name, ended.class, took);
    if let (None, Some(planned), false) = (ended.class, planned, ended.report.set_aside) {
        shared.metrics.lateness(shared.clock.now().since(planned));
    }
    if let Some((server, seconds)) = host_of(ended.url.as_str()).zip(skew) {
        let before = shared.metrics.skew(server, seconds);
        // Once for each change, not at every renewal.
        if seconds.abs() > SKEW_LIMIT && (seconds - before).abs() > SKEW_LIMIT {
            tracing::warn!(
                server,
                skew_seconds = seconds,
                "the authorization server's clock differs from this machine's"
            );
        }
    }
    ended.log(&shared, took);
    if without_refresh && ended.class.is_none() && !ended.report.set_aside {
        let portal = &ended.portal;
        tracing::warn!(
            %portal,
            "{portal}: the server renewed the access token and gave no refresh token that can be read, as it did before each \
             time; the last one is used on, and the reply is kept: refreshd recover {portal}"
        );
    }
    shared.waiters.notify(&ended.portal, &ended.report);
    ended.next
}

/// Records the pair of a renewal that an earlier process could not store. Returns when the portal is due next.
pub(crate) async fn carried(
    shared: &Context,
    claimed: ClaimedGrant,
    pair: CarriedPair,
    slot: Slot,
) -> Option<Timestamp> {
    let CarriedPair {
        app: _,
        claim,
        renewed,
        bought_by,
        now,
    } = pair;
    let (config, took) = (shared.config(), shared.clock.now().since(now));
    // The times of the pair are of the clock of its own claim.
    let claimed = ClaimedGrant { claim, ..claimed };
    let outcome = RenewalOutcome {
        transition: Transition::Renewed(renewed),
        unread: None,
        client_answer: Some(ClientAnswer::Works),
        bought_by,
    };
    let ended = finish(shared, &config, claimed, outcome, (now, slot)).await;
    let portal = &ended.portal;
    if !ended.report.set_aside {
        tracing::info!(%portal, "{portal}: the pair that the service manager has kept since the last process is in the state now");
    }
    ended.log(shared, took);
    shared.waiters.notify(portal, &ended.report);
    ended.next
}

/// The app, if the grant is still bound to it and the profile still lists the grant's server.
pub(crate) fn usable_app<'c>(config: &'c Config, claimed: &ClaimedGrant) -> Option<&'c App> {
    let app = config.apps.get(&claimed.settings.app)?;
    let domain = claimed.settings.domain.as_deref();
    let bound = app.binding(domain) == claimed.grant.bound_to;
    let listed = app
        .profile
        .renewal_urls()
        .any(|url| at_domain(url, domain) == claimed.grant.token_url);
    (bound && listed).then_some(app)
}

/// Result of one request.
pub(crate) struct AttemptResult {
    pub(crate) attempt: Attempt,
    /// Response to be stored, since it could not be parsed.
    pub(crate) unread: Option<Box<UnreadableReply>>,
    pub(crate) sent_at: Timestamp,
    pub(crate) now: Timestamp,
    skew: Option<f64>,
    /// Kind of the request, if it obtained a pair.
    kind: Fingerprint,
    /// What the renewals before this one did to the refresh token.
    rotations: Rotations,
}

/// Sends the request and parses the response. Repeats it if the client was rejected and its secret has been replaced
/// meanwhile: a rejected client has spent nothing.
pub(crate) async fn send_renewal(
    shared: &Context,
    config: &Config,
    app: &App,
    claimed: &ClaimedGrant,
) -> AttemptResult {
    let result = send_once(shared, config, app, claimed).await;
    if result.attempt.is_client_refused()
        && let Some(newer) =
            client_secret::newer(shared, &app.name, app.client_secret.as_ref()).await
        && let Some(changed) = usable_app(&newer, claimed)
    {
        return send_once(shared, &newer, changed, claimed).await;
    }
    result
}

async fn send_once(
    shared: &Context,
    config: &Config,
    app: &App,
    claimed: &ClaimedGrant,
) -> AttemptResult {
    let sent_at = shared.clock.now();
    let started = shared.clock.tick();
    let answer = send(shared, config, app, claimed, sent_at).await;
    let took = shared.clock.elapsed(started);
    let skew = skew_of(&answer, sent_at, shared.clock.now());
    // A clock that was set back meanwhile must not put the outcome before the claim; see `RenewalRecord::claim`.
    let now = shared.clock.now().max(sent_at + took);
    let Grant {
        tokens,
        token_url,
        generation,
        ..
    } = &claimed.grant;
    let builder = app.request_builder(Some(&claimed.settings), &tokens.details.fields, "");
    let kind = |buys| builder.kind_of_renewal(token_url, &tokens.credential, buys);
    let rotations = Rotations::read(claimed.bought_by.as_ref(), &kind(*generation));
    let (attempt, unread) = judge(
        answer,
        app,
        &claimed.grant,
        rotations,
        AttemptTimes { sent_at, now },
    );
    AttemptResult {
        attempt,
        unread,
        sent_at,
        now,
        skew,
        kind: kind(Generation(generation.0.saturating_add(1))),
        rotations: rotations.unwrap_or(Rotations::Unknown),
    }
}

async fn send(
    shared: &Context,
    config: &Config,
    app: &App,
    claimed: &ClaimedGrant,
    now: Timestamp,
) -> TokenResponse {
    let Grant {
        tokens, token_url, ..
    } = &claimed.grant;
    let needs_random = app.profile.request.renewal_needs_random();
    let random = if needs_random {
        shared.clock.random_token()
    } else {
        String::new()
    };
    let builder = app.request_builder(Some(&claimed.settings), &tokens.details.fields, &random);
    let request = builder.request(token_url, RequestKind::Renewal(&tokens.credential));
    shared
        .server(app)
        .exchange(&request, config.renewal.timeout, now)
        .await
}

/// Secrets to mask in texts of the server.
pub(crate) fn secrets_of<'a>(grant: &'a Grant, app: &'a App) -> Vec<&'a str> {
    let mut secrets: Vec<_> = grant
        .tokens
        .credential
        .refresh()
        .iter()
        .map(|token| token.expose())
        .collect();
    secrets.extend(
        grant
            .tokens
            .access
            .as_ref()
            .map(|access| access.token.expose()),
    );
    secrets.extend(app.client_secret.as_ref().map(|secret| secret.expose()));
    secrets
}

/// Result of the request, and the response to be stored if no pair could be parsed.
fn judge(
    answer: TokenResponse,
    app: &App,
    grant: &Grant,
    rotations: Option<Rotations>,
    times: AttemptTimes,
) -> (Attempt, Option<Box<UnreadableReply>>) {
    let (reply, cut) = match answer {
        TokenResponse::NotSent(why) => return (Attempt::NotSent(why), None),
        TokenResponse::InDoubt(why) => return (Attempt::InDoubt(why), None),
        TokenResponse::Cut(reply, why) => (reply, Some(why)),
        TokenResponse::Whole(reply) => (reply, None),
    };
    let secrets = secrets_of(grant, app);
    let location = reply.location.as_deref();
    let context = ErrorContext {
        spent: PresentedCredential::Renewal,
        sent_to: &grant.token_url,
        location,
        worked_before: rotations.is_some(),
    };
    let (verdict, unread) =
        unreadable_reply::judge(&reply, &app.profile, &secrets, times.now, context);
    let attempt = match (verdict, cut) {
        // A complete token object is a response, even if the connection broke after it.
        (verdict @ Verdict::Granted(_), _) | (verdict, None) => Attempt::Answered(verdict),
        (Verdict::Refused(_), Some(why)) => Attempt::InDoubt(why),
    };
    let sent = SentToken::of(grant);
    let answers = if unread {
        Some(ReplyTo::Renewal(sent))
    } else {
        lacks_refresh(&attempt, app, rotations).then(|| {
            let generation = Generation(sent.generation.0.saturating_add(1));
            ReplyTo::WithoutRefresh(SentToken { generation, ..sent })
        })
    };
    let unread =
        answers.map(|answers| Box::new(unreadable_reply::of(reply, answers, times.sent_at)));
    (attempt, unread)
}

/// Whether a renewal brought no readable refresh token though each one before did: the new one may stand in the reply under
/// a name that is not known, and the one that was sent may be spent.
fn lacks_refresh(attempt: &Attempt, app: &App, rotations: Option<Rotations>) -> bool {
    let Attempt::Answered(Verdict::Granted(granted)) = attempt else {
        return false;
    };
    granted.refresh.is_none()
        && rotations == Some(Rotations::Always)
        && app.profile.rotation == Rotation::Always
}

/// Whether the pair that came has another refresh token than the one that was sent.
fn has_rotated(grant: &Grant, attempt: &Attempt) -> bool {
    let Attempt::Answered(Verdict::Granted(granted)) = attempt else {
        return false;
    };
    let sent = grant.tokens.credential.refresh();
    granted
        .refresh
        .as_ref()
        .zip(sent)
        .is_some_and(|(new, sent)| new.fingerprint() != sent.fingerprint())
}

/// Problem if the first response, which reveals the owner of the grant, names another host than the configured one, and the
/// grant was not known to belong there: then it is another portal's.
fn foreign_host(claimed: &ClaimedGrant, profile: &Profile, attempt: &Attempt) -> Option<String> {
    let ClaimedGrant {
        name,
        settings,
        grant,
        ..
    } = claimed;
    let Attempt::Answered(Verdict::Granted(granted)) = attempt else {
        return None;
    };
    let comparable = profile.endpoint_field.is_some() && !profile.is_at_domain();
    let domain = settings.domain.as_deref().filter(|_| comparable);
    let known = identity::ExpectedIdentity {
        domain,
        ..identity::ExpectedIdentity::default()
    };
    let before = grant.tokens.details.endpoint.as_deref().and_then(host_of);
    let was_there = compare(
        name.as_str(),
        known,
        ClaimedIdentity {
            host: before,
            identity: None,
        },
    )
    .is_err();
    if grant.identity.is_some() || was_there {
        return None;
    }
    let host = granted.details.endpoint.as_deref().and_then(host_of);
    let said = ClaimedIdentity {
        identity: granted.identity.as_deref(),
        host,
    };
    let another = compare(name.as_str(), known, said).err()?;
    Some(format!(
        "the server answered for another portal: {another}; if that is meant, write whose grant it is (`member_id`), or \
         another `domain`, into the configuration"
    ))
}

fn skew_of(answer: &TokenResponse, sent_at: Timestamp, now: Timestamp) -> Option<f64> {
    match answer {
        TokenResponse::Whole(reply) | TokenResponse::Cut(reply, _) => {
            reply.date.map(|date| skew(date, sent_at, now) as f64)
        }
        TokenResponse::NotSent(_) | TokenResponse::InDoubt(_) => None,
    }
}

/// A finished renewal.
struct FinishedRenewal {
    portal: PortalName,
    url: String,
    class: Option<Class>,
    detail: Option<String>,
    expires_at: Option<Timestamp>,
    next: Option<Timestamp>,
    news: News,
    report: RenewalReport,
}

impl FinishedRenewal {
    /// Logs one event for each renewal, with its documented fields.
    fn log(&self, shared: &Context, took: Duration) {
        let Self {
            portal,
            url: _,
            class,
            detail,
            expires_at,
            next,
            news,
            report,
        } = self;
        if report.set_aside {
            let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
            let outcome = class.map_or("renewed", Class::as_str);
            tracing::warn!(
                %portal, outcome, took_ms,
                "{portal}: a late reply was set aside: the grant was replaced or forgotten while the request was under way"
            );
            return;
        }
        let line = RenewalLine {
            portal,
            class: *class,
            detail: detail.as_deref(),
            generation: report.generation,
            expires_at: *expires_at,
            next: *next,
            took,
            news: *news,
        };
        shared.log_limits.renewal(&line, shared.clock.now());
    }
}

/// Records, publishes and logs the outcome of a claimed renewal. `slot` is the copy of the pair at the service manager.
async fn finish(
    shared: &Context,
    config: &Config,
    claimed: ClaimedGrant,
    outcome: RenewalOutcome,
    (now, slot): (Timestamp, Slot),
) -> FinishedRenewal {
    let ClaimedGrant {
        name,
        settings,
        grant,
        claim,
        bought_by: _,
        client_refused: _,
        awaits_kept_pair: _,
    } = claimed;
    let sent = SentToken::of(&grant);
    let (sent_generation, url) = (grant.generation, grant.token_url.clone());
    let claimed = ClaimedRenewal {
        name: name.clone(),
        settings: settings.clone(),
        grant,
        claim,
    };
    let (record, conclusion) = conclude(claimed, outcome, &config.ladder, now);
    let recorded = record_until_durable(shared, Arc::new(record), sent, slot).await;
    for effect in conclusion.effects(&recorded) {
        carry_out(shared, &settings, &conclusion, effect).await;
    }
    let (generation, set_aside) = match recorded {
        Recorded::Done { generation, .. } => (generation, false),
        Recorded::Superseded => (sent_generation, true),
    };
    let news = conclusion.news(sent_generation);
    let Conclusion { grant, problem, .. } = conclusion;
    let failure = problem.map(|problem| (problem.class, problem.text()));
    FinishedRenewal {
        portal: name,
        url,
        class: failure.as_ref().map(|(class, _)| *class),
        detail: failure.as_ref().map(|(_, detail)| detail.clone()),
        expires_at: grant.tokens.access.as_ref().map(|access| access.expires_at),
        next: grant.status.next_attempt_at,
        news,
        report: RenewalReport {
            failure,
            generation,
            sent: sent_generation,
            set_aside,
        },
    }
}

/// Carries out one effect of a stored record.
async fn carry_out(shared: &Context, settings: &Settings, conclusion: &Conclusion, effect: Effect) {
    let (name, tokens) = (conclusion.portal(), &conclusion.grant.tokens);
    let publish = async |newest| {
        let failing = shared.publisher.publish_knowing(name, newest).await;
        shared.health.unpublished(failing);
    };
    match effect {
        Effect::WakeScheduler => shared.due.notify_one(),
        Effect::Publish(generation) => {
            publish(KnownState::pair(Some(settings), generation, tokens)).await;
        }
        Effect::Unpublish => publish(KnownState::NoGrant).await,
        Effect::LogPortal(notice) => {
            shared
                .log_limits
                .escalation(name, &notice, shared.clock.now());
        }
        Effect::LogApp(notice) => log_escalation(EscalationSubject::App(&settings.app), &notice),
        Effect::WarnTokens(notice) => {
            tracing::warn!(portal = %name, notice, "{name}: {notice}");
        }
        Effect::WarnRenamed { from } => {
            tracing::warn!(portal = %name, from, to = tokens.details.endpoint, "{name}: the portal was renamed");
        }
        Effect::WakeEscalator => shared.escalation_wake.notify_one(),
        Effect::WakeAlerter => shared.outboxes.wake.notify_one(),
    }
}

/// Retries until the record is durable. Until then the pair exists only in memory, which is reported as critical.
async fn record_until_durable(
    shared: &Context,
    record: Arc<RenewalRecord>,
    sent: SentToken,
    slot: Slot,
) -> Recorded {
    let copy = match &record.outcome {
        RecordOutcome::Renewed(renewed) => Some(Unsaved::Renewal(&record, renewed, sent)),
        RecordOutcome::Unread(_, reply) => Some(Unsaved::Reply(&record.portal, reply)),
        RecordOutcome::Kept(_) | RecordOutcome::Foreign(..) => None,
    };
    let copy = copy.map(|unsaved| UnsavedCopy { unsaved, slot });
    until_durable(shared, &record.portal, copy, || {
        shared.state.record(Arc::clone(&record))
    })
    .await
}

/// Logs one escalation for the app instead of one for each of its portals.
pub(crate) fn announce_client(app: &str, notice: Option<&EscalationNotice>, client: ClientVerdict) {
    if let Some(notice) = client_notice(app, notice, client) {
        log_escalation(EscalationSubject::App(app), &notice);
    }
}

/// Ends a claim without a renewal, for the given reason; a due portal is due again a second later.
pub async fn release(
    shared: &Context,
    config: &Config,
    claimed: ClaimedGrant,
    why: &str,
) -> Option<Timestamp> {
    let portal = claimed.name.clone();
    tracing::info!(%portal, "{portal}: not renewed: {why}");
    let status = claimed.grant.status.clone();
    let now = shared.clock.now();
    let next_attempt_at = status
        .next_attempt_at
        .map(|at| at.max(now + Duration::from_secs(1)));
    let unchanged = GrantStatus {
        next_attempt_at,
        ..status
    };
    let outcome = RenewalOutcome {
        transition: Transition::Kept(unchanged),
        unread: None,
        client_answer: None,
        bought_by: None,
    };
    let ended = finish(shared, config, claimed, outcome, (now, Slot::default())).await;
    shared.waiters.notify(&ended.portal, &ended.report);
    ended.next
}
