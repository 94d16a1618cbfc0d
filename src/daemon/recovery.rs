//! What a start makes good: a clock that was set back meanwhile, and claims of a process that is gone.
//!
//! Must not send anything: what it makes due is the renewer's.

use std::sync::Arc;

use super::announce::{Subject, announce};
use super::shared::Shared;
use crate::adapters::clock::CLOCK_STEP_MILLIS;
use crate::adapters::state::{RecordAs, RecordOutcome, Rejection, StateError, ToldMeanwhile};
use crate::domain::escalation::climb;
use crate::domain::remedy::About;
use crate::domain::renewal::recovered;

/// The clock may have been set back while nobody watched it.
///
/// # Errors
/// [`StateError`].
pub async fn follow_clock(shared: &Shared) -> Result<(), StateError> {
    if let Some(step) = shared.state.follow_clock(shared.clock.now(), CLOCK_STEP_MILLIS).await? {
        tracing::warn!(
            step_seconds = step / 1000,
            "the wall clock was set back while refreshd did not run; stored times are moved, every token is renewed"
        );
    }
    Ok(())
}

/// Claims of a process that is gone have no known outcome: they are replayed, and everybody may know.
///
/// # Errors
/// [`StateError`].
pub async fn recover(shared: &Shared) -> Result<(), StateError> {
    settle_orphans(shared, true).await
}

/// The same, for whoever only looks: nothing is told, since nothing is done about it.
///
/// # Errors
/// [`StateError`].
pub async fn recover_in_silence(shared: &Shared) -> Result<(), StateError> {
    settle_orphans(shared, false).await
}

async fn settle_orphans(shared: &Shared, aloud: bool) -> Result<(), StateError> {
    let config = shared.config();
    let now = shared.clock.now();
    for portal in shared.state.orphans().await? {
        let (name, settings) = (portal.name.clone(), portal.settings.clone());
        let about = About::of(&name, portal.settings.as_ref());
        let Some(mut grant) = portal.grant else { continue };
        let Some(claim) = grant.claim else { continue };
        let (id, claimed_at) = claim;
        if shared.carry.has_claim(&name, id) {
            continue;
        }
        let app = settings.map(|settings| settings.app).unwrap_or_default();
        let profile = config.apps.get(&app).map(|app| &*app.profile);
        grant.standing = recovered(&grant, profile, claimed_at, now);
        let ladder = climb(&config.ladder, about, &grant, now);
        let record = RecordAs {
            portal: name.clone(),
            app,
            claim,
            outcome: RecordOutcome::Kept(grant.standing.clone()),
            told: ladder.told,
            told_meanwhile: ToldMeanwhile::All,
            climb_at: ladder.next,
            now,
            client: Rejection::Unknown,
            bought_by: None,
        };
        shared.state.record(Arc::new(record)).await?;
        if !aloud {
            continue;
        }
        tracing::warn!(
            portal = %name, generation = grant.generation.0, %claimed_at,
            "{name}: a renewal was under way when refreshd ended; the same refresh token is sent again"
        );
        if let Some(said) = ladder.announce {
            announce(Subject::Portal(&name), &said);
        }
    }
    Ok(())
}
