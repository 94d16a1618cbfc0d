//! Proves candidates: claims those that are due, exchanges each with its authorization server, and replaces the portal's
//! grant with it or removes it.
//!
//! Must never cancel an exchange that has begun: not by a reload, not by SIGTERM. Must not touch a portal's grant before
//! the proof is durable.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::adapters::state::{
    Candidate, CandidateOutcome, CandidateRecorded, RecordCandidate, StateError, Unsaved,
};
use crate::daemon::alerts::escalation_log::{EscalationSubject, log_escalation};
use crate::daemon::context::Context;
use crate::daemon::renewal::carry::{Slot, UnsavedCopy};
use crate::daemon::renewal::disputed_install;
use crate::daemon::renewal::execute::{
    AttemptResult, ClaimedGrant, announce_client, send_renewal, usable_app,
};
use crate::daemon::renewal::persist::until_durable;
use crate::daemon::renewal::publisher::KnownState;
use crate::daemon::renewal::state_health;
use crate::daemon::renewal::unreadable_reply;
use crate::domain::candidate::{
    self, CandidateVerdict, ImportResult, Origin, TokenPair, superseded_hint,
};
use crate::domain::error_chain::error_chain;
use crate::domain::escalation::{EscalationNotice, resolved};
use crate::domain::identity::{ClaimedIdentity, ExpectedIdentity, compare};
use crate::domain::kept_reply::ReplyTo;
use crate::domain::name::PortalName;
use crate::domain::portal::{ClaimId, GrantStatus, Phase, Portal};
use crate::domain::record::ClientVerdict;
use crate::domain::renewal::{
    AttemptTimes, RenewalRules, Renewed, apply_outcome, interrupted_status,
};
use crate::domain::token_owner::user_id;
use refreshd_alerting::Severity;
use refreshd_secrets::mask::short;
use refreshd_secrets::{Fingerprint, RefreshToken};
use refreshd_time::Timestamp;
use refreshd_time::clock::MAX_SLEEP;
use refreshd_token_client::problem::Problem;
use refreshd_token_client::provider::{Class, Profile, host_of};
use refreshd_token_client::renew_every::RenewEvery;
use refreshd_token_client::token::Generation;

/// Maximum number of concurrent exchanges of one app, about: a server that hangs must not delay other apps' candidates.
const MAX_OF_APP: usize = 8;
/// Maximum number of all.
const MAX_CONCURRENT: usize = 64;
/// Delay before a failed access to the state is retried.
const STATE_RETRY_AFTER: Duration = Duration::from_secs(2);
/// Delay before a candidate is retried that the configuration keeps from being sent.
const UNUSABLE_RETRY_AFTER: Duration = Duration::from_secs(300);

/// Proves candidates until `stop`, then waits for the exchanges that were begun.
pub async fn run(shared: Arc<Context>, stop: CancellationToken) {
    let mut exchanges = JoinSet::new();
    // Each exchange holds one more reference until it ends, in whatever way.
    let mut of_apps: BTreeMap<String, Arc<()>> = BTreeMap::new();
    loop {
        while let Some(done) = exchanges.try_join_next() {
            end(done);
        }
        of_apps.retain(|_, exchanges| Arc::strong_count(exchanges) > 1);
        disputed_install::offer_over_dead(&shared).await;
        let now = shared.clock.now();
        let free = MAX_CONCURRENT.saturating_sub(exchanges.len());
        let busy = of_apps
            .iter()
            .filter(|(_, exchanges)| Arc::strong_count(exchanges) > MAX_OF_APP)
            .map(|(app, _)| app.clone())
            .collect();
        // Queried first, so that nothing is written if nothing is due.
        let wake_at = match shared.state.next_candidate().await {
            Ok(Some(at)) if at <= now && free > 0 => {
                match shared
                    .state
                    .claim_candidates(now, free.min(MAX_OF_APP), busy)
                    .await
                {
                    Ok(claimed) => {
                        let wait = if claimed.is_empty() {
                            STATE_RETRY_AFTER
                        } else {
                            Duration::ZERO
                        };
                        for candidate in claimed {
                            let settings = candidate.portal.settings.as_ref();
                            let app = settings
                                .map(|settings| settings.app.clone())
                                .unwrap_or_default();
                            let counted = Arc::clone(of_apps.entry(app).or_default());
                            let shared = Arc::clone(&shared);
                            exchanges.spawn(async move {
                                prove(shared, candidate).await;
                                drop(counted);
                            });
                        }
                        now + wait
                    }
                    Err(error) => {
                        state_health::write_failed(&shared, &error);
                        now + STATE_RETRY_AFTER
                    }
                }
            }
            Ok(Some(at)) if at > now => at,
            // The end of an exchange frees a slot, and wakes this loop.
            Ok(_) => now + MAX_SLEEP,
            Err(error) => {
                tracing::error!(error = %error_chain(&error), "cannot look for candidates");
                now + STATE_RETRY_AFTER
            }
        };
        let sleep = wake_at.until(shared.clock.now()).min(MAX_SLEEP);
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            () = shared.candidates.notified() => {}
            Some(done) = exchanges.join_next(), if !exchanges.is_empty() => end(done),
            () = shared.clock.sleep(sleep) => {}
        }
    }
    while let Some(done) = exchanges.join_next().await {
        end(done);
    }
}

fn end(done: Result<(), tokio::task::JoinError>) {
    if let Err(error) = done {
        // The claim stays: the candidate is in doubt, and the next start sends it again.
        tracing::error!(%error, "a candidate's exchange ended by a bug; it is in doubt until refreshd restarts");
    }
}

/// Performs a claimed candidate's exchange, and notifies the callers of the outcome.
pub async fn prove(shared: Arc<Context>, candidate: Candidate) {
    let Candidate {
        mut portal,
        origin,
        replaces,
        user,
    } = candidate;
    let config = shared.config();
    // The present grant: its owner cannot change while the candidate is stored.
    let living = shared
        .state
        .portal(portal.name.clone())
        .await
        .ok()
        .flatten();
    let fallback = portal.config_url.take();
    // Results of the present grant's requests apply to the candidate's: they are of one kind.
    if let (Some(of), Some(candidate)) = (&living, &mut portal.grant) {
        portal.bought_by = of.bought_by;
        candidate.generation = of
            .grant
            .as_ref()
            .map(|grant| grant.generation)
            .unwrap_or_default();
    }
    let Some(mut claimed) = ClaimedGrant::from(portal) else {
        return;
    };
    if usable_app(&config, &claimed).is_none()
        && let Some(url) = fallback
    {
        // The provider's profile no longer lists the candidate's server.
        claimed.grant.token_url = url;
    }
    let now = shared.clock.now();
    let (Some(app), Some(living)) = (usable_app(&config, &claimed), living) else {
        let problem = Problem::new(
            Class::NotSent,
            "its client or server changed in the configuration".to_owned(),
        );
        let phase = Phase::Retrying {
            attempt: 1,
            since: now,
            problem,
        };
        let status = GrantStatus {
            phase,
            renew_at: None,
            next_attempt_at: Some(now + UNUSABLE_RETRY_AFTER),
        };
        return finish(
            &shared,
            FinishedCandidate::of(claimed),
            origin,
            None,
            CandidateVerdict::Waits(status),
            (now, Duration::ZERO),
            Slot::default(),
        )
        .await;
    };
    let started = shared.clock.tick();
    let profile = Arc::clone(&app.profile);
    let asked = send_renewal(&shared, &config, app, &claimed).await;
    let AttemptResult {
        attempt,
        unread,
        sent_at,
        now,
        ..
    } = asked;
    let took = shared.clock.elapsed(started);
    // An unparsable response is stored before anything else: it may contain the pair.
    if let Some(mut unread) = unread
        && let ReplyTo::Renewal(sent) = &mut unread.answers
    {
        // Without the portal's generation: its renewals are unrelated to this token.
        sent.generation = Generation::default();
        unreadable_reply::keep(&shared, &claimed.name, *unread).await;
    }
    let every = claimed
        .settings
        .renew_every
        .map_or(profile.renew_every, RenewEvery::from);
    let rules = RenewalRules {
        profile: &profile,
        every,
    };
    let times = AttemptTimes { sent_at, now };
    let transition = apply_outcome(
        &claimed.name,
        &claimed.grant,
        rules,
        attempt,
        times,
        shared.clock.random_fraction(),
    );
    let verdict = match candidate::judge(transition) {
        CandidateVerdict::Proved(renewed) => {
            compared(&living, &profile, (replaces, user.as_deref()), renewed)
        }
        verdict => verdict,
    };
    let slot = Slot::default();
    finish(
        &shared,
        FinishedCandidate::of(claimed),
        origin,
        Some(&living),
        verdict,
        (now, took),
        slot,
    )
    .await;
}

/// Checks that the pair belongs to the portal before it replaces the portal's grant, and to the user whose install event
/// brought it: an event may have one user's access token and another's refresh token.
fn compared(
    living: &Portal,
    profile: &Profile,
    (replaces, user): (bool, Option<&str>),
    renewed: Box<Renewed>,
) -> CandidateVerdict {
    if let Some(user) = user
        && let Some(got) = renewed
            .tokens
            .details
            .fields
            .get("user_id")
            .and_then(user_id)
        && got != user
    {
        let (got, user) = (short(&got), short(user));
        return CandidateVerdict::Another {
            why: format!("its refresh token is of user {got}, and its access token of user {user}"),
            pair: TokenPair::from(*renewed),
        };
    }
    let known = ExpectedIdentity::of(living, profile);
    let known = if replaces { known.pinned_only() } else { known };
    let host = renewed.tokens.details.endpoint.as_deref().and_then(host_of);
    let said = ClaimedIdentity {
        identity: renewed.identity.as_deref(),
        host,
    };
    match compare(living.name.as_str(), known, said) {
        Ok(()) => CandidateVerdict::Proved(renewed),
        Err(another) => CandidateVerdict::Another {
            why: another.to_string(),
            pair: TokenPair::from(*renewed),
        },
    }
}

/// A candidate whose exchange has ended.
pub(crate) struct FinishedCandidate {
    pub(crate) name: PortalName,
    pub(crate) app: String,
    pub(crate) claim: (ClaimId, Timestamp),
    /// Fingerprint of the imported refresh token.
    pub(crate) fingerprint: Option<Fingerprint>,
}

impl FinishedCandidate {
    fn of(claimed: ClaimedGrant) -> Self {
        let ClaimedGrant {
            name,
            settings,
            grant,
            claim,
            ..
        } = claimed;
        let fingerprint = grant
            .tokens
            .credential
            .refresh()
            .map(RefreshToken::fingerprint);
        Self {
            name,
            app: settings.app,
            claim,
            fingerprint,
        }
    }
}

/// Records, publishes and logs the outcome of a candidate.
pub(crate) async fn finish(
    shared: &Context,
    FinishedCandidate {
        name,
        app,
        claim,
        fingerprint,
    }: FinishedCandidate,
    origin: Origin,
    living: Option<&Portal>,
    verdict: CandidateVerdict,
    (now, took): (Timestamp, Duration),
    slot: Slot,
) {
    let (outcome, proof) = match verdict {
        CandidateVerdict::Proved(renewed) => {
            (CandidateOutcome::Proved(renewed), ImportResult::Imported)
        }
        CandidateVerdict::Refused {
            problem,
            while_in_doubt,
        } => {
            let after = if while_in_doubt {
                ", after a reply was lost that may have been the renewal"
            } else {
                ""
            };
            let why = format!(
                "the authorization server refuses it{after}: {}",
                problem.text()
            );
            let refused = ImportResult::Refused {
                why,
                while_in_doubt,
            };
            (CandidateOutcome::Refused, refused)
        }
        CandidateVerdict::Another { why, pair } => {
            let why = format!("{why}; {}", superseded_hint(name.as_str()));
            let refused = ImportResult::Refused {
                why,
                while_in_doubt: false,
            };
            (CandidateOutcome::Another(pair), refused)
        }
        CandidateVerdict::Waits(status) => {
            let problem = status
                .phase
                .problem()
                .map(Problem::text)
                .unwrap_or_default();
            let proof = ImportResult::Waits {
                problem,
                next_attempt_at: status.next_attempt_at,
            };
            (CandidateOutcome::Waits(status), proof)
        }
    };
    let key = (name.clone(), fingerprint);
    let record = Arc::new(RecordCandidate {
        portal: name.clone(),
        app: app.clone(),
        claim,
        outcome,
        now,
    });
    let held = Unsaved::of_candidate(&record).map(|unsaved| UnsavedCopy { unsaved, slot });
    let recorded = until_durable(shared, &name, held, || {
        shared.state.record_candidate(Arc::clone(&record))
    })
    .await;
    let proof = match recorded {
        CandidateRecorded::Superseded => ImportResult::Superseded,
        CandidateRecorded::Kept | CandidateRecorded::Promoted { .. } => proof,
    };
    match (&recorded, &proof) {
        (
            CandidateRecorded::Promoted {
                generation,
                client_changed,
            },
            _,
        ) => {
            let newest = match (&record.outcome, living) {
                (CandidateOutcome::Proved(renewed), Some(living)) => {
                    KnownState::pair(living.settings.as_ref(), *generation, &renewed.tokens)
                }
                _ => KnownState::Nothing,
            };
            let failing = shared.publisher.publish_knowing(&name, newest).await;
            shared.health.unpublished(failing);
            let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
            tracing::info!(
                portal = %name, generation = generation.0, outcome = "renewed", took_ms, origin = origin.as_str(),
                "{name}: renewed: a candidate grant is verified and replaces the one before"
            );
            if *client_changed {
                announce_client(&app, None, ClientVerdict::Accepted);
            }
            let before = living.and_then(|living| living.grant.as_ref());
            if let Some(notice) =
                before.and_then(|grant| resolved(&grant.notified, grant.status.phase.since(), now))
            {
                log_escalation(EscalationSubject::Portal(&name), &notice);
            }
            let file =
                living.and_then(|living| living.settings.as_ref()?.refresh_token_file.as_deref());
            if let Some(file) = file.filter(|_| origin == Origin::File) {
                log_file_spent(&name, file);
            }
            shared.due.notify_one();
            shared.escalation_wake.notify_one();
            shared.outboxes.wake.notify_one();
        }
        // Whoever waits for the proof of an install event reports it, at a bounded rate.
        (_, ImportResult::Refused { .. })
            if origin == Origin::Install && shared.proofs.is_awaited(&key) => {}
        (_, ImportResult::Refused { why, .. }) => {
            log_escalation(EscalationSubject::Portal(&name), &refused(origin, why));
        }
        (
            _,
            ImportResult::Waits {
                problem,
                next_attempt_at,
            },
        ) => {
            let next = next_attempt_at.map(tracing::field::display);
            tracing::warn!(
                portal = %name, origin = origin.as_str(), next,
                "{name}: a candidate grant cannot be verified now, the one before goes on: {problem}"
            );
        }
        (CandidateRecorded::Superseded, _) => {
            tracing::warn!(
                portal = %name,
                "{name}: a late reply was set aside: the candidate was replaced or forgotten while its request was under way"
            );
        }
        (CandidateRecorded::Kept, _) => {}
    }
    shared.candidates.notify_one();
    shared.proofs.notify(&key, &proof);
}

fn refused(origin: Origin, why: &str) -> EscalationNotice {
    let what = match origin {
        Origin::KeptReply => "the pair of a kept reply".to_owned(),
        Origin::Import | Origin::File | Origin::Install => {
            format!("a candidate grant ({})", origin.as_str())
        }
    };
    EscalationNotice {
        step: "candidate-refused".to_owned(),
        severity: Severity::Warning,
        reason: format!("{what} is not taken, and the one before stays as it is: {why}"),
        action: "none".to_owned(),
        remaining: None,
    }
}

/// Candidates of a process that ended have no known outcome: they are sent again.
///
/// # Errors
/// [`StateError`].
pub async fn recover(shared: &Context) -> Result<(), StateError> {
    let config = shared.config();
    let now = shared.clock.now();
    for candidate in shared.state.orphan_candidates().await? {
        let Portal {
            name,
            settings,
            grant,
            ..
        } = candidate.portal;
        let Some(grant) = grant else { continue };
        let Some(claim) = grant.claim else { continue };
        if shared.carry.has_claim(&name, claim.0) {
            continue;
        }
        let app = settings.map(|settings| settings.app).unwrap_or_default();
        let profile = config.apps.get(&app).map(|app| &*app.profile);
        let status = interrupted_status(&grant, profile, claim.1, now);
        let again_at = status.next_attempt_at.map(tracing::field::display);
        tracing::warn!(
            portal = %name, again_at,
            "{name}: a candidate grant was being verified when refreshd ended; it is sent again"
        );
        let outcome = CandidateOutcome::Waits(status);
        let record = RecordCandidate {
            portal: name.clone(),
            app,
            claim,
            outcome,
            now,
        };
        shared.state.record_candidate(Arc::new(record)).await?;
    }
    Ok(())
}

/// Logs once that a file is obsolete: its token works once.
pub fn log_file_spent(portal: &PortalName, file: &Path) {
    let file = file.display();
    tracing::info!(
        %portal, %file,
        "{portal}: its refresh_token_file was accepted; delete {file}, since what is in it works once and is spent from now on"
    );
}
