//! What a person decides about newcomers: a verified install of another user takes the place of the grant that a portal has,
//! once it has proved itself, or is refused.
//!
//! Must not touch the grant that is there: an accepted newcomer is a candidate, and `candidates` proves it.

use serde::{Deserialize, Serialize};

use crate::adapters::state::OpenDispute;
use crate::daemon::context::Context;
use crate::daemon::grants::driver::Driver;
use crate::daemon::grants::error::OperationError;
use crate::daemon::grants::import::{ImportOutcome, proof, store_candidate};
use crate::daemon::grants::lookup::find;
use crate::domain::candidate::Origin;
use crate::domain::dispute::Dispute;
use crate::domain::import::ImportedGrant;
use crate::domain::install::EventKind;
use crate::domain::portal::Portal;
use refreshd_token_client::token::{Credential, Tokens, Validity};

/// A newcomer as commands show it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DisputeView {
    /// The portal.
    pub portal: String,
    /// The app.
    pub app: String,
    /// The newcomer's user id.
    pub user: String,
    /// The user id of the grant that is kept.
    pub holder: Option<String>,
    /// `installed` or `opened`.
    pub occasion: String,
    /// Whether the newcomer is an administrator, says the portal; null: it did not say.
    pub administrator: Option<bool>,
    /// The same of the user whose grant is kept.
    pub holder_administrator: Option<bool>,
    /// When it came first.
    pub since: String,
    /// It was accepted, and its grant is being proved.
    pub accepted: bool,
    /// What happened.
    pub reason: String,
}

impl DisputeView {
    fn of(newcomer: &Dispute) -> Self {
        let occasion = match newcomer.occasion {
            EventKind::Opened => "opened",
            EventKind::Installed | EventKind::SystemUser => "installed",
        };
        Self {
            portal: newcomer.portal.to_string(),
            app: newcomer.app.clone(),
            user: newcomer.user.clone(),
            holder: newcomer.holder.clone(),
            occasion: occasion.to_owned(),
            administrator: newcomer.is_admin,
            holder_administrator: newcomer.holder_is_admin,
            since: newcomer.since.to_string(),
            accepted: newcomer.is_accepted,
            reason: newcomer.reason(),
        }
    }
}

/// The newcomers that wait for a decision.
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

/// The newcomer of a portal; with `user`, that user's only.
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

/// Has the newcomer's grant prove itself and take the place of the one that is there, with the proof of its installation.
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
    let OpenDispute {
        newcomer,
        member_id,
        refresh,
        details,
        server,
    } = waiting(shared, &portal, user).await?;
    let now = shared.clock.now();
    // First of all: the outcome of its proof may come after a crash.
    if !shared
        .state
        .accept_claimant(portal.name.clone(), newcomer.user.clone(), now)
        .await?
    {
        let reason = "it was decided about meanwhile; see: refreshd install list".to_owned();
        return Err(OperationError::NotNow {
            portal: portal.name,
            reason,
        });
    }
    let fingerprint = Some(refresh.fingerprint());
    let credential = Credential::Refresh(refresh);
    let tokens = Tokens {
        access: None,
        credential,
        details,
        validity: Validity::default(),
    };
    let intake = ImportedGrant {
        tokens,
        identity: Some(member_id),
        server,
        client_id: None,
        host: None,
    };
    store_candidate(shared, &portal, intake, Origin::Install, true).await?;
    shared.conditions.changed.notify_one();
    tracing::info!(
        portal = %portal.name,
        "{}: a person has accepted the install of user {}, in the place of user {}'s",
        portal.name, newcomer.user, newcomer.holder.as_deref().unwrap_or("unknown")
    );
    proof(shared, &portal, fingerprint, by).await
}

/// Drops the newcomer; no further install of that user is told of.
///
/// # Errors
/// [`OperationError`]; nothing is changed then.
pub async fn refuse(
    shared: &Context,
    name: &str,
    user: Option<&str>,
) -> Result<DisputeView, OperationError> {
    let portal = find(shared, name).await?;
    let newcomer = waiting(shared, &portal, user).await?.newcomer;
    if newcomer.is_accepted && portal.candidate.is_some() {
        let reason = "it was accepted and is being proved; see: refreshd status".to_owned();
        return Err(OperationError::NotNow {
            portal: portal.name,
            reason,
        });
    }
    let now = shared.clock.now();
    shared
        .state
        .refuse_claimant(portal.name.clone(), newcomer.user.clone(), now)
        .await?;
    shared.conditions.changed.notify_one();
    tracing::info!(
        portal = %portal.name,
        "{}: a person has refused the install of user {}; the grant stays as it is", portal.name, newcomer.user
    );
    Ok(DisputeView::of(&newcomer))
}
