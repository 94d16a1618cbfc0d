//! Recovery at a start: from a clock that was set back meanwhile, and from claims of a process that ended.
//!
//! Must not send anything: it only makes renewals due.

use std::sync::Arc;

use crate::adapters::state::{
    ClientVerdict, KeepNotified, RecordOutcome, RenewalRecord, StateError,
};
use crate::daemon::alerts::escalation_log::{EscalationSubject, log_escalation};
use crate::daemon::context::Context;
use crate::domain::escalation::evaluate;
use crate::domain::hint::HintContext;
use crate::domain::renewal::interrupted_status;
use refreshd_time::clock::CLOCK_STEP_MILLIS;

/// Adjusts stored times if the clock was set back while refreshd did not run.
///
/// # Errors
/// [`StateError`].
pub async fn follow_clock(shared: &Context) -> Result<(), StateError> {
    if let Some(step) = shared
        .state
        .adjust_clock(shared.clock.now(), CLOCK_STEP_MILLIS)
        .await?
    {
        tracing::warn!(
            step_seconds = step / 1000,
            "the wall clock was set back while refreshd did not run; stored times are moved, every token is renewed"
        );
    }
    Ok(())
}

/// Claims of a process that ended have no known outcome: their requests are replayed, and the log says so.
///
/// # Errors
/// [`StateError`].
pub async fn recover(shared: &Context) -> Result<(), StateError> {
    resolve_orphans(shared, true).await
}

/// As [`recover`], for read-only commands: nothing is logged, since nothing is done about it.
///
/// # Errors
/// [`StateError`].
pub async fn recover_unlogged(shared: &Context) -> Result<(), StateError> {
    resolve_orphans(shared, false).await
}

async fn resolve_orphans(shared: &Context, log: bool) -> Result<(), StateError> {
    let config = shared.config();
    let now = shared.clock.now();
    for portal in shared.state.orphans().await? {
        let (name, settings) = (portal.name.clone(), portal.settings.clone());
        let about = HintContext::of(&name, portal.settings.as_ref());
        let Some(mut grant) = portal.grant else {
            continue;
        };
        let Some(claim) = grant.claim else { continue };
        let (id, claimed_at) = claim;
        if shared.carry.has_claim(&name, id) {
            continue;
        }
        let app = settings.map(|settings| settings.app).unwrap_or_default();
        let profile = config.apps.get(&app).map(|app| &*app.profile);
        grant.standing = interrupted_status(&grant, profile, claimed_at, now);
        let ladder = evaluate(&config.ladder, about, &grant, now);
        let record = RenewalRecord {
            portal: name.clone(),
            app,
            claim,
            outcome: RecordOutcome::Kept(grant.standing.clone()),
            told: ladder.notified,
            told_meanwhile: KeepNotified::All,
            climb_at: ladder.next,
            now,
            client: ClientVerdict::Unknown,
            bought_by: None,
        };
        shared.state.record(Arc::new(record)).await?;
        if !log {
            continue;
        }
        tracing::warn!(
            portal = %name, generation = grant.generation.0, %claimed_at,
            "{name}: a renewal was under way when refreshd ended; the same refresh token is sent again"
        );
        if let Some(notice) = ladder.announce {
            log_escalation(EscalationSubject::Portal(&name), &notice);
        }
    }
    Ok(())
}
