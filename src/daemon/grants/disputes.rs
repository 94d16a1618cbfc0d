//! Disputed installs: an operator accepts a verified install of another user, whose grant replaces the portal's after it
//! was proved, or refuses it.
//!
//! Must not touch the present grant: an accepted grant is a candidate, and `candidates` proves it.

use serde::{Deserialize, Serialize};

use crate::adapters::state::OpenDispute;
use crate::daemon::context::Context;
use crate::daemon::grants::candidate_offer::offer_claimant;
use crate::daemon::grants::driver::Driver;
use crate::daemon::grants::error::OperationError;
use crate::daemon::grants::import::{ImportOutcome, proof};
use crate::daemon::grants::lookup::find;
use crate::domain::dispute::Dispute;
use crate::domain::install::EventKind;
use crate::domain::portal::Portal;

/// A disputed install as commands show it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DisputeView {
    /// Name of the portal.
    pub portal: String,
    /// Name of the app.
    pub app: String,
    /// User id of the install.
    pub user: String,
    /// User id of the present grant.
    pub holder: Option<String>,
    /// `installed` or `opened`.
    pub occasion: String,
    /// Whether that user is an administrator, according to the portal; null: unknown.
    pub administrator: Option<bool>,
    /// The same for the user of the present grant.
    pub holder_administrator: Option<bool>,
    /// Time of the first event.
    pub since: String,
    /// Whether it was accepted, and its grant is being proved.
    pub accepted: bool,
    /// Description for a person.
    pub reason: String,
}

impl DisputeView {
    fn of(dispute: &Dispute) -> Self {
        let occasion = match dispute.occasion {
            EventKind::Opened => "opened",
            EventKind::Installed | EventKind::SystemUser => "installed",
        };
        Self {
            portal: dispute.portal.to_string(),
            app: dispute.app.clone(),
            user: dispute.user.clone(),
            holder: dispute.holder.clone(),
            occasion: occasion.to_owned(),
            administrator: dispute.is_admin,
            holder_administrator: dispute.holder_is_admin,
            since: dispute.since.to_string(),
            accepted: dispute.is_accepted,
            reason: dispute.reason(),
        }
    }
}

/// Disputes that await a decision.
///
/// # Errors
/// [`OperationError::State`].
pub async fn list(shared: &Context) -> Result<Vec<DisputeView>, OperationError> {
    Ok(shared
        .state
        .open_disputes()
        .await?
        .iter()
        .map(DisputeView::of)
        .collect())
}

/// The dispute of a portal; with `user`, that user's only.
async fn waiting(
    shared: &Context,
    portal: &Portal,
    user: Option<&str>,
) -> Result<OpenDispute, OperationError> {
    let name = &portal.name;
    let Some(waiting) = shared.state.dispute_of(name.clone()).await? else {
        let what = "no install of another user waits for a decision".to_owned();
        return Err(OperationError::NothingKept {
            portal: name.clone(),
            what,
        });
    };
    let found = &waiting.newcomer.user;
    match user.filter(|user| user != found) {
        None => Ok(waiting),
        Some(user) => {
            let reason = format!(
                "user {found} waits for a decision now, not user {user}; see: refreshd install list"
            );
            Err(OperationError::NotNow {
                portal: name.clone(),
                reason,
            })
        }
    }
}

/// Accepts a disputed install: its grant becomes a candidate that replaces the present one once it is proved.
///
/// # Errors
/// [`OperationError`]; nothing is changed then.
pub async fn accept(
    shared: &Context,
    name: &str,
    user: Option<&str>,
    by: &Driver,
) -> Result<ImportOutcome, OperationError> {
    let portal = find(shared, name).await?;
    let waiting = waiting(shared, &portal, user).await?;
    let dispute = waiting.newcomer.clone();
    let fingerprint = Some(offer_claimant(shared, &portal, waiting).await?);
    tracing::info!(
        portal = %portal.name,
        "{}: a person has accepted the install of user {}, in the place of user {}'s",
        portal.name, dispute.user, dispute.holder.as_deref().unwrap_or("unknown")
    );
    proof(shared, &portal, fingerprint, by).await
}

/// Refuses a disputed install; further installs of that user are not reported.
///
/// # Errors
/// [`OperationError`]; nothing is changed then.
pub async fn refuse(
    shared: &Context,
    name: &str,
    user: Option<&str>,
) -> Result<DisputeView, OperationError> {
    let portal = find(shared, name).await?;
    let dispute = waiting(shared, &portal, user).await?.newcomer;
    if dispute.is_accepted && portal.candidate.is_some() {
        let reason = "it was accepted and is being proved; see: refreshd status".to_owned();
        return Err(OperationError::NotNow {
            portal: portal.name,
            reason,
        });
    }
    let now = shared.clock.now();
    shared
        .state
        .refuse_claimant(portal.name.clone(), dispute.user.clone(), now)
        .await?;
    shared.conditions.changed.notify_one();
    tracing::info!(
        portal = %portal.name,
        "{}: a person has refused the install of user {}; the grant stays as it is", portal.name, dispute.user
    );
    Ok(DisputeView::of(&dispute))
}
