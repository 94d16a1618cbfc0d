//! Stores pairs that the service manager has kept since the last process, before anything is sent for their portals.
//!
//! Must not remove a copy before its content is durable or obsolete. Must not send.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

use crate::adapters::sealed;
use crate::adapters::state::{
    Candidate, Carried, CarriedPair, CopyDamage, Load, RecoverOutcome, StateError, Unsaved,
};
use crate::adapters::systemd::{self, Inherited};
use crate::daemon::context::Context;
use crate::daemon::renewal::candidates::{self, FinishedCandidate};
use crate::daemon::renewal::carry::{Carry, FoundCopy, PREFIX, Slot, StoreMethod, UnsavedCopy};
use crate::daemon::renewal::execute::{self, ClaimedGrant};
use crate::daemon::renewal::persist::until_durable;
use crate::daemon::renewal::publisher::KnownState;
use crate::domain::candidate::{CandidateVerdict, Origin, TokenPair};
use crate::domain::carried::{CopyDecision, fate};
use crate::domain::error_chain::error_chain;
use crate::domain::kept_reply::SentToken;
use crate::domain::name::PortalName;
use crate::domain::portal::{ClaimId, Portal};
use crate::domain::record::{ClientVerdict, KeepNotified, RecordOutcome, Recorded, RenewalRecord};
use refreshd_secrets::{RefreshToken, ReplyBody};
use refreshd_time::Timestamp;

/// Receives the copies of the last process from the service manager, and compares them with the state. Nothing is stored
/// yet; the claims of the pairs found stay valid.
///
/// # Errors
/// [`StateError`]; the service manager still has all copies.
pub async fn restore(shared: &Context) -> Result<(), StateError> {
    if shared.carry.inherited() == 0 {
        return Ok(());
    }
    let inherited = match systemd::inherited() {
        Ok(inherited) => inherited,
        Err(error) => {
            tracing::warn!(%error, "what the service manager passed cannot be used: {error}");
            return Ok(());
        }
    };
    shared.carry.set_copies(inherited.len());
    let decode = |inherited| decode(&shared.carry, inherited);
    let mut all: Vec<_> = inherited.into_iter().filter_map(decode).collect();
    // Of two pairs for one token the newer one is used.
    all.sort_by_key(|(_, carried)| Reverse(received_at(carried)));
    let mut orphans: Vec<_> = shared
        .state
        .orphan_candidates()
        .await?
        .into_iter()
        .map(Some)
        .collect();
    let mut claimed = BTreeSet::new();
    for (slot, carried) in all {
        let how = match &carried.load {
            Load::Renewal(pair, sent) => {
                match judge(shared, &carried.portal, pair, *sent, &mut claimed).await? {
                    Judgement::Store(portal) => StoreMethod::Renewal(portal),
                    Judgement::Leave => continue,
                    Judgement::Void => {
                        shared.carry.release(slot);
                        continue;
                    }
                }
            }
            Load::Candidate(pair) => {
                let is_its = |orphan: &&mut Option<Candidate>| {
                    orphan.as_ref().is_some_and(|orphan| {
                        is_under(&orphan.portal, &carried.portal, pair.claim.0)
                    })
                };
                StoreMethod::Candidate(
                    orphans
                        .iter_mut()
                        .find(is_its)
                        .and_then(Option::take)
                        .map(Box::new),
                )
            }
            Load::Grant(..) | Load::Reply(_) | Load::Aside(..) => StoreMethod::AsItIs,
        };
        shared.carry.add(FoundCopy { slot, carried, how });
    }
    Ok(())
}

fn is_under(portal: &Portal, name: &PortalName, claim: ClaimId) -> bool {
    let its = portal.grant.as_ref().and_then(|grant| grant.claim);
    portal.name == *name && its.is_some_and(|(id, _)| id == claim)
}

/// Decodes a descriptor. Descriptors that are not this program's are removed.
fn decode(carry: &Carry, Inherited { name, file }: Inherited) -> Option<(Slot, Carried)> {
    let read = |file| sealed::read(file).map_err(|error| error_chain(&error));
    let bytes = match file.map_err(|error| error.to_string()).and_then(read) {
        Ok(bytes) if name.starts_with(PREFIX) => ReplyBody::new(bytes),
        Ok(_) => return refuse(carry, name, "its name is none of refreshd's"),
        Err(why) => return refuse(carry, name, &why),
    };
    match Carried::decode(bytes.expose()) {
        Ok(carried) => Some((Slot::At(name), carried)),
        Err(error @ CopyDamage::Format(_)) => {
            tracing::error!(
                name,
                "the service manager has kept {name}, and {error}; it is left there: start the version that wrote it, or authorize \
                 the portal again"
            );
            None
        }
        Err(error) => refuse(carry, name, &error.to_string()),
    }
}

fn refuse(carry: &Carry, name: String, why: &str) -> Option<(Slot, Carried)> {
    tracing::warn!(
        name,
        "a descriptor that the service manager passed is not used and not kept: {name}: {why}"
    );
    carry.release(Slot::At(name));
    None
}

fn received_at(carried: &Carried) -> Timestamp {
    match &carried.load {
        Load::Renewal(pair, _) | Load::Candidate(pair) => pair.now,
        Load::Grant(grant, _) => grant.now,
        Load::Reply(reply) => reply.at,
        Load::Aside(_, at) => *at,
    }
}

/// Decision about a renewal's pair.
enum Judgement {
    /// Store it under this portal's claim, or as a superseded pair if there is none.
    Store(Option<Box<Portal>>),
    /// Leave it at the service manager.
    Leave,
    /// Drop it: it is obsolete.
    Void,
}

async fn judge(
    shared: &Context,
    name: &PortalName,
    pair: &CarriedPair,
    sent: SentToken,
    claimed: &mut BTreeSet<PortalName>,
) -> Result<Judgement, StateError> {
    let mut portal = shared.state.portal(name.clone()).await?.map(Box::new);
    let grant = portal.as_ref().and_then(|portal| portal.grant.as_ref());
    let lost = portal
        .as_ref()
        .is_some_and(|portal| portal.lost.is_some() || portal.unreadable.is_some());
    let refresh = pair
        .renewed
        .tokens
        .credential
        .refresh()
        .map(RefreshToken::fingerprint);
    let generation = sent.generation;
    Ok(match fate(grant, lost, (pair.claim.0, sent), refresh) {
        CopyDecision::Record | CopyDecision::ClaimAgain if claimed.contains(name) => {
            Judgement::Store(None)
        }
        CopyDecision::Record => {
            claimed.insert(name.clone());
            Judgement::Store(portal)
        }
        CopyDecision::ClaimAgain => {
            shared.state.claim_again(name.clone(), pair.claim).await?;
            if let Some(grant) = portal.as_mut().and_then(|portal| portal.grant.as_mut()) {
                grant.claim = Some(pair.claim);
            }
            claimed.insert(name.clone());
            Judgement::Store(portal)
        }
        CopyDecision::Known => {
            tracing::info!(portal = %name, "{name}: the pair that the service manager has kept is in the state already");
            Judgement::Void
        }
        CopyDecision::Wait => {
            tracing::error!(
                portal = %name, %generation,
                "{name}: the service manager has kept the pair that follows generation {generation}, and the state is older or \
                 not understood; the pair stays where it is: put the right state back and start refreshd again, or stop it and drop the pair: \
                 systemctl clean --what=fdstore refreshd"
            );
            Judgement::Leave
        }
        CopyDecision::Aside => {
            tracing::warn!(
                portal = %name, %generation,
                "{name}: the pair that the service manager has kept follows generation {generation}; the grant was replaced or \
                 forgotten since, and the pair is put aside"
            );
            Judgement::Store(None)
        }
    })
}

/// Stores copies that need no claim, after the orphaned claims are resolved. If the state cannot store one now, it is
/// retried later.
pub async fn store(shared: &Context) {
    for found in shared.carry.take() {
        if matches!(found.how, StoreMethod::AsItIs)
            && let Ok(became) = attempt(shared, &found.carried).await
        {
            log_stored(&found.carried.portal, became);
            shared.carry.release(found.slot);
        } else {
            shared.carry.add(found);
        }
    }
}

/// Copies that are not stored yet: each is to be passed to [`store_one`].
pub(crate) fn unstored(shared: &Context) -> Vec<FoundCopy> {
    shared.carry.take()
}

/// Stores one copy, with retries until it is durable. Returns when its portal is due next.
pub(crate) async fn store_one(shared: Arc<Context>, found: FoundCopy) -> Option<Timestamp> {
    let FoundCopy { slot, carried, how } = found;
    match (carried, how) {
        (
            Carried {
                portal: name,
                load: Load::Renewal(pair, sent),
            },
            StoreMethod::Renewal(portal),
        ) => {
            let notified = portal
                .as_ref()
                .and_then(|portal| portal.grant.as_ref())
                .map(|grant| grant.notified.clone());
            match portal.and_then(|portal| ClaimedGrant::from(*portal)) {
                Some(claimed) => execute::carried(&shared, claimed, pair, slot).await,
                None => {
                    record(
                        &shared,
                        (name, sent),
                        pair,
                        notified.unwrap_or_default(),
                        slot,
                    )
                    .await;
                    None
                }
            }
        }
        (
            Carried {
                portal: name,
                load: Load::Candidate(pair),
            },
            StoreMethod::Candidate(candidate),
        ) => {
            let CarriedPair {
                app,
                claim,
                renewed,
                bought_by: _,
                now,
            } = pair;
            let living = shared.state.portal(name.clone()).await.ok().flatten();
            let origin = candidate
                .as_ref()
                .map_or(Origin::Import, |candidate| candidate.origin);
            let grant = candidate.and_then(|candidate| candidate.portal.grant);
            let imported = grant
                .as_ref()
                .and_then(|grant| grant.tokens.credential.refresh());
            let fingerprint = imported.map(RefreshToken::fingerprint);
            let took = shared.clock.now().since(now);
            let verdict = CandidateVerdict::Proved(renewed);
            candidates::finish(
                &shared,
                FinishedCandidate {
                    name,
                    app,
                    claim,
                    fingerprint,
                },
                origin,
                living.as_ref(),
                verdict,
                (now, took),
                slot,
            )
            .await;
            None
        }
        (carried, _) => {
            let unsaved = match &carried.load {
                Load::Reply(reply) => Unsaved::Reply(&carried.portal, reply),
                Load::Grant(grant, sent) => Unsaved::Grant(grant, *sent),
                Load::Aside(pair, at) => Unsaved::Aside(&carried.portal, pair, *at),
                // Handled above.
                Load::Renewal(..) | Load::Candidate(_) => return None,
            };
            let held = UnsavedCopy { unsaved, slot };
            let became = until_durable(&shared, &carried.portal, Some(held), || {
                attempt(&shared, &carried)
            })
            .await;
            log_stored(&carried.portal, became);
            None
        }
    }
}

/// Records a pair whose portal is not configured any more, or whose claim is gone.
async fn record(
    shared: &Context,
    (portal, sent): (PortalName, SentToken),
    pair: CarriedPair,
    notified: Vec<String>,
    slot: Slot,
) {
    let CarriedPair {
        app,
        claim,
        renewed,
        bought_by,
        now,
    } = pair;
    let record = Arc::new(RenewalRecord {
        portal,
        app,
        claim,
        outcome: RecordOutcome::Renewed(renewed),
        notified,
        keep_notified: KeepNotified::All,
        evaluate_at: None,
        now,
        client: ClientVerdict::Unknown,
        without_refresh: None,
        bought_by,
    });
    let RecordOutcome::Renewed(renewed) = &record.outcome else {
        return;
    };
    let held = UnsavedCopy {
        unsaved: Unsaved::Renewal(&record, renewed, sent),
        slot,
    };
    let write = || shared.state.record(Arc::clone(&record));
    let recorded = until_durable(shared, &record.portal, Some(held), write).await;
    log_stored(
        &record.portal,
        if recorded == Recorded::Superseded {
            PUT_ASIDE
        } else {
            "is in the state now"
        },
    );
}

const PUT_ASIDE: &str = "was put aside: the portal has another grant, or none, by now";

fn log_stored(portal: &PortalName, became: &str) {
    tracing::info!(%portal, "{portal}: what the service manager has kept {became}");
}

/// Tries to store a copy that needs no claim; returns a description of the outcome.
async fn attempt(shared: &Context, carried: &Carried) -> Result<&'static str, StateError> {
    let Carried { portal: name, load } = carried;
    match load {
        Load::Reply(reply) => {
            shared
                .state
                .keep_reply(name.clone(), Arc::clone(reply))
                .await?;
            Ok("is a reply that could not be read: it is in the state now")
        }
        Load::Aside(pair, at) => {
            shared
                .state
                .put_pair_aside(name.clone(), Arc::clone(pair), "foreign", *at)
                .await?;
            Ok("is in the state now: a pair that is put aside")
        }
        Load::Grant(grant, sent) => {
            let fingerprint = grant
                .tokens
                .credential
                .refresh()
                .map(RefreshToken::fingerprint);
            let portal = shared.state.portal(name.clone()).await?;
            let now = portal.as_ref().and_then(|portal| portal.grant.as_ref());
            if fingerprint.is_some()
                && now.is_some_and(|now| SentToken::of(now).token == fingerprint)
            {
                return Ok("is in the state already");
            }
            if let RecoverOutcome::Stored(generation) = shared
                .state
                .recover((**grant).clone(), *sent, false)
                .await?
            {
                let settings = portal.as_ref().and_then(|portal| portal.settings.as_ref());
                let newest = KnownState::pair(settings, generation, &grant.tokens);
                let failing = shared.publisher.publish_knowing(name, newest).await;
                shared.health.unpublished(failing);
                shared.due.notify_one();
                shared.escalation_wake.notify_one();
                return Ok("is the portal's grant now");
            }
            let access = grant
                .tokens
                .access
                .as_ref()
                .map(|access| access.token.clone());
            let refresh = grant.tokens.credential.refresh().cloned();
            let pair = TokenPair {
                access,
                refresh,
                identity: grant.identity.clone(),
            };
            shared
                .state
                .put_pair_aside(name.clone(), Arc::new(pair), "late", grant.now)
                .await?;
            Ok(PUT_ASIDE)
        }
        // These have a claim.
        Load::Renewal(..) | Load::Candidate(_) => Ok(PUT_ASIDE),
    }
}
