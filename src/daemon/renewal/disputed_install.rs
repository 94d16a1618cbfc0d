//! The install that waits at a portal whose grant turns out to be dead. When it came the grant was taken for alive, so a
//! person was asked; over a dead grant an installation that the authorization server has verified needs no decision.
//!
//! Must not touch the portal's grant: the install is a candidate, as if a person had accepted it.

use crate::adapters::state::OpenDispute;
use crate::daemon::context::Context;
use crate::daemon::grants::disputes::offer_claimant;
use crate::daemon::grants::lookup::find;
use crate::domain::error_chain::error_chain;
use crate::domain::name::PortalName;

/// Recommended action while it is tried.
pub(crate) const HINT_TRIED: &str = "nothing yet: the install of another user, which waited for a decision, is tried in its place; if it is not \
     taken, authorize the app again: refreshd authorize {portal}";
/// Recommended action where a person has to decide.
pub(crate) const HINT_WAITS: &str = "the install of another user waits for a decision and may take its place: refreshd install list, then refreshd \
     install accept {portal}; or authorize the app again: refreshd authorize {portal}";

/// The install that waits at a portal, if there is one.
pub(crate) async fn of(shared: &Context, name: &PortalName) -> Option<OpenDispute> {
    match shared.state.dispute_of(name.clone()).await {
        Ok(waiting) => waiting.filter(|waiting| !waiting.newcomer.is_accepted),
        // It waits on, and is looked for at the next attempt.
        Err(error) => {
            tracing::warn!(portal = %name, error = %error_chain(&error), "{name}: cannot look for an install that waits");
            None
        }
    }
}

/// Offers it as the portal's candidate.
pub(crate) async fn offer(shared: &Context, name: &PortalName, waiting: OpenDispute) {
    let user = waiting.newcomer.user.clone();
    let offered = match find(shared, name.as_str()).await {
        Ok(portal) => offer_claimant(shared, &portal, waiting).await,
        Err(error) => Err(error),
    };
    match offered {
        Ok(_) => {
            tracing::warn!(
                portal = %name, user,
                "{name}: its grant is dead; the install of user {user}, which waited for a decision, is tried in its place"
            );
            shared.candidates.notify_one();
        }
        // It waits on for a person.
        Err(error) => {
            tracing::warn!(
                portal = %name, user, error = %error_chain(&error),
                "{name}: the install of user {user} cannot be tried in the place of the dead grant"
            );
        }
    }
}
