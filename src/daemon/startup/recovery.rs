//! Recovery at a start: from a clock that was set back meanwhile, and from claims of a process that ended.
//!
//! Must not send anything: it only makes renewals due.

use std::sync::Arc;

use crate::adapters::state::StateError;
use crate::daemon::context::Context;
use crate::domain::conclusion::conclude_interrupted;
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

/// Claims of a process that ended have no known outcome: their requests are replayed, which is logged.
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
        let (name, settings) = (portal.name, portal.settings);
        let Some(mut grant) = portal.grant else {
            continue;
        };
        let Some(claim) = grant.claim else { continue };
        let (id, claimed_at) = claim;
        if shared.carry.has_claim(&name, id) {
            continue;
        }
        let app = settings
            .as_ref()
            .and_then(|settings| config.apps.get(&settings.app));
        let profile = app.map(|app| &*app.profile);
        let about = (name.clone(), settings.as_ref());
        let (record, notice) =
            conclude_interrupted(about, &mut grant, claim, profile, &config.ladder, now);
        shared.state.record(Arc::new(record)).await?;
        if !log {
            continue;
        }
        tracing::warn!(
            portal = %name, generation = grant.generation.0, %claimed_at,
            "{name}: a renewal was under way when refreshd ended; the same refresh token is sent again"
        );
        if let Some(notice) = notice {
            shared.log_limits.escalation(&name, &notice, now);
        }
    }
    Ok(())
}
