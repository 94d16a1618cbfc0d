//! Detects a configuration that may be incomplete, as when the volume of its files is not mounted: no valid token file is
//! removed for omitted portals.
//!
//! Must not keep the daemon from starting: the portals that it names are renewed.

use crate::adapters::state::{State, StateError};
use crate::config::Config;
use crate::daemon::alerts::{Condition, Conditions};
use crate::daemon::context::Context;
use crate::domain::completeness::{Included, IncludedBefore, Missing, missing};
use crate::domain::error_chain::error_chain;
use crate::domain::name::{PortalName, some};
use refreshd_time::Timestamp;

/// Missing parts of a configuration, if any. To be called before its portals are moved into the state.
///
/// # Errors
/// [`StateError`].
pub async fn missing_in(config: &Config, state: &State) -> Result<Option<Missing>, StateError> {
    let before = state.included().await?;
    Ok(missing(
        config.names_portals(),
        &config.includes,
        before.as_ref(),
    ))
}

/// Runs after the state was reconciled with a configuration: reports the portals whose token files are kept, or that there
/// are none, and records the included files.
///
/// # Errors
/// [`StateError`]: a read failed. A failed write is logged: on a full disk everything else goes on.
pub async fn apply(
    state: &State,
    conditions: &Conditions,
    (missing, includes): (Option<&Missing>, &[Included]),
    now: Timestamp,
) -> Result<(), StateError> {
    if let Some(missing) = missing {
        let kept = state.kept_portals().await?;
        if !kept.is_empty() {
            conditions.begin(Condition::Incomplete, reason(missing, &kept));
            return Ok(());
        }
    }
    let found: IncludedBefore = includes
        .iter()
        .map(|include| (include.pattern.clone(), include.has_files))
        .collect();
    if state.included().await?.as_ref() != Some(&found)
        && let Err(error) = state.note_included(found, now).await
    {
        tracing::warn!(error = %error_chain(&error), "a configuration that is not all there may not be noticed: what is included cannot be noted");
    }
    conditions.end_any(
        Condition::Incomplete,
        "the configuration names what it named before, or what it leaves out is meant to go",
    );
    Ok(())
}

/// Ends the condition once the state has no grant any more that the configuration leaves out.
pub async fn tend(shared: &Context) {
    if shared.conditions.is_active(Condition::Incomplete)
        && shared
            .state
            .kept_portals()
            .await
            .is_ok_and(|kept| kept.is_empty())
    {
        shared.conditions.end(
            Condition::Incomplete,
            "every portal that was not named is forgotten",
        );
    }
}

/// Reason why a new configuration is rejected.
#[must_use]
pub fn refusal(missing: &Missing, living: &[PortalName]) -> String {
    format!(
        "{missing}, and it leaves out {} portals whose grants are alive ({}); is its volume mounted, are its files whole? Where \
         they are to go, refreshd forget PORTAL, or take the pattern out of `include`",
        living.len(),
        some(living).join(", ")
    )
}

fn reason(missing: &Missing, kept: &[PortalName]) -> String {
    format!(
        "the configuration may not be all there: {missing}, and it leaves out {} portals whose grants are alive; they are not \
         renewed, their token files stay as they are: {}",
        kept.len(),
        some(kept).join(", ")
    )
}
