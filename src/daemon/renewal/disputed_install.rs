//! Installs that wait at portals whose grant turned out to be dead. When one came the grant was taken for alive, so a
//! person was asked; over a dead grant an installation that the authorization server has verified needs no decision.
//!
//! Must not touch a portal's grant: the install is a candidate, as if a person had accepted it.

use crate::adapters::state::OpenDispute;
use crate::daemon::context::Context;
use crate::daemon::grants::candidate_offer::offer_claimant;
use crate::daemon::grants::lookup::find;
use crate::domain::error_chain::error_chain;
use crate::domain::portal::{Kind, Portal};

/// Offers each of them as its portal's candidate.
pub(crate) async fn offer_over_dead(shared: &Context) {
    // If the state cannot be read now, the next round looks again.
    let waiting = shared.state.open_disputes().await.unwrap_or_default();
    for dispute in waiting {
        if dispute.is_accepted || !dispute.replaces_dead() {
            continue;
        }
        let Ok(portal) = find(shared, dispute.portal.as_str()).await else {
            continue;
        };
        if portal.kind() == Kind::NeedsAuthorization
            && portal.candidate.is_none()
            && let Ok(Some(waiting)) = shared.state.dispute_of(portal.name.clone()).await
        {
            offer(shared, &portal, waiting).await;
        }
    }
}

async fn offer(shared: &Context, portal: &Portal, waiting: OpenDispute) {
    let (name, user) = (&portal.name, waiting.newcomer.user.clone());
    match offer_claimant(shared, portal, waiting).await {
        Ok(_) => {
            tracing::warn!(
                portal = %name, user,
                "{name}: its grant is dead; the install of user {user}, which waited for a decision, is tried in its place"
            );
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
