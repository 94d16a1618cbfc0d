//! Storage of imported and authorized grants, and their removal. With or without a running daemon.
//!
//! Must not publish a pair that is not durable, nor lose one that an authorization server has just issued.

use std::sync::Arc;

use crate::adapters::state::{NewGrant, StateError, StoreOutcome, Unsaved};
use crate::config::App;
use crate::daemon::alerts::Condition;
use crate::daemon::alerts::escalation_log::{EscalationSubject, log_escalation};
use crate::daemon::context::Context;
use crate::daemon::grants::error::OperationError;
use crate::daemon::grants::introspect;
use crate::daemon::grants::lookup::{app_of, find};
use crate::daemon::renewal::carry::{Slot, UnsavedCopy};
use crate::daemon::renewal::persist::until_durable;
use crate::daemon::renewal::publisher::KnownState;
use crate::domain::candidate::{TokenPair, superseded_hint};
use crate::domain::escalation::resolved;
use crate::domain::identity::{ClaimedIdentity, ExpectedIdentity, IdentityMismatch, compare};
use crate::domain::import::ImportedGrant;
use crate::domain::kept_reply::SentToken;
use crate::domain::name::PortalName;
use crate::domain::portal::Portal;
use crate::domain::renewal::{granted_status, imported_status};
use refreshd_time::Timestamp;
use refreshd_token_client::renew_every::RenewEvery;
use refreshd_token_client::token::Generation;

/// Origin of a grant, for the log.
#[derive(Debug, Clone, Copy)]
pub enum GrantSource {
    /// `refreshd import`.
    Import,
    /// `refresh_token_file`.
    File,
    /// `refreshd authorize`.
    Authorization,
    /// The client's own credentials.
    Client,
}

/// A grant to store, and its origin.
pub struct StoreRequest {
    /// The grant.
    pub imported: ImportedGrant,
    /// Its origin.
    pub source: GrantSource,
}

/// Stores a grant for a portal, publishes its tokens, and makes it due at once. For a grant that the authorization server
/// has just issued, and for portals that have no grant to lose: see `import` for others.
///
/// # Errors
/// [`OperationError`]; nothing is stored then.
pub async fn store_grant(
    shared: &Context,
    name: &PortalName,
    StoreRequest { imported, source }: StoreRequest,
) -> Result<Generation, OperationError> {
    let portal = find(shared, name.as_str()).await?;
    let config = shared.config();
    let app = app_of(&config, &portal)?;
    // A grant that the server has just issued need not be verified.
    let proven = matches!(source, GrantSource::Authorization);
    let known = ExpectedIdentity::of(&portal, &app.profile);
    // If nothing else states the owner, the authorizing user is the owner.
    let known = if proven {
        ExpectedIdentity {
            host: None,
            ..known
        }
    } else {
        known
    };
    check_not_held(shared, name, &imported).await?;
    let own = check_identity(&portal, known, &imported, &|another| {
        let advice = match another {
            IdentityMismatch::ThanLiving { .. } if !proven => {
                format!("; if you mean it, first: refreshd forget {name}")
            }
            IdentityMismatch::ThanLiving { .. } | IdentityMismatch::ThanPinned { .. } => String::new(),
            IdentityMismatch::ThanHost { .. } => {
                "; if it is meant, write whose grant it is (`member_id`), or another `domain`, into the \
                 configuration"
                    .to_owned()
            }
        };
        // A code works once: its tokens exist nowhere else.
        if proven {
            format!("{advice}; {}", superseded_hint(name.as_str()))
        } else {
            advice
        }
    });
    if let (Err(_), true) = (&own, proven) {
        let ImportedGrant {
            tokens, identity, ..
        } = &imported;
        let access = tokens.access.as_ref().map(|access| access.token.clone());
        let refresh = tokens.credential.refresh().cloned();
        let pair = Arc::new(TokenPair {
            access,
            refresh,
            identity: identity.clone(),
        });
        let now = shared.clock.now();
        let write = || {
            shared
                .state
                .put_pair_aside(name.clone(), Arc::clone(&pair), "foreign", now)
        };
        let unsaved = Unsaved::Aside(name, &pair, now);
        let held = UnsavedCopy {
            unsaved,
            slot: Slot::default(),
        };
        until_durable(shared, name, Some(held), write).await;
    }
    own?;
    let now = shared.clock.now();
    let before = portal
        .grant
        .as_ref()
        .map(|grant| (grant.notified.clone(), grant.status.phase.since()));
    let grant = new_grant(&portal, app, imported, proven, now)?;
    let tokens = grant.tokens.clone();
    let sent = portal.grant.as_ref().map_or(
        SentToken {
            generation: Generation(0),
            token: None,
        },
        SentToken::of,
    );
    match store(shared, grant, sent).await? {
        StoreOutcome::Stored(generation) => {
            tracing::info!(portal = %name, generation = generation.0, source = ?source, "{name}: a grant was stored");
            if let Some(notice) = &tokens.validity.notice {
                tracing::warn!(portal = %name, notice, "{name}: {notice}");
            }
            let newest = KnownState::pair(portal.settings.as_ref(), generation, &tokens);
            let failing = shared.publisher.publish_knowing(name, newest).await;
            shared.health.unpublished(failing);
            if let Some((notified, since)) = before.filter(|_| proven)
                && let Some(notice) = resolved(&notified, since, now)
            {
                log_escalation(EscalationSubject::Portal(name), &notice);
                shared.outboxes.wake.notify_one();
            }
            shared.due.notify_one();
            shared.escalation_wake.notify_one();
            Ok(generation)
        }
        StoreOutcome::HeldBy(other) => Err(held_by_error(name, &other)),
        StoreOutcome::Spent => Err(spent_error(name)),
        StoreOutcome::Unknown => Err(OperationError::UnknownPortal {
            name: name.to_string(),
            suggestion: None,
        }),
    }
}

/// Rejects a refresh token that another portal has or had.
pub(crate) async fn check_not_held(
    shared: &Context,
    name: &PortalName,
    imported: &ImportedGrant,
) -> Result<(), OperationError> {
    let Some(token) = imported.tokens.credential.refresh() else {
        return Ok(());
    };
    match shared
        .state
        .holder_of_refresh_token(token.fingerprint())
        .await?
    {
        Some(holder) if holder != name.as_str() => Err(held_by_error(name, &holder)),
        Some(_) | None => Ok(()),
    }
}

/// Rejects a grant that claims to be another portal's; `hint` describes how to import it nevertheless.
pub(crate) fn check_identity(
    portal: &Portal,
    known: ExpectedIdentity<'_>,
    imported: &ImportedGrant,
    hint: &dyn Fn(&IdentityMismatch) -> String,
) -> Result<(), OperationError> {
    let claimed = ClaimedIdentity {
        identity: imported.identity.as_deref(),
        host: imported.host.as_deref(),
    };
    compare(portal.name.as_str(), known, claimed).map_err(|another| OperationError::Refused {
        portal: portal.name.clone(),
        reason: format!("{another}{}", hint(&another)),
    })
}

/// Converts a grant for the state.
///
/// # Errors
/// [`OperationError::Refused`]: it belongs to another client.
pub(crate) fn new_grant(
    portal: &Portal,
    app: &App,
    imported: ImportedGrant,
    proven: bool,
    now: Timestamp,
) -> Result<NewGrant, OperationError> {
    let name = &portal.name;
    let settings = portal.settings.as_ref();
    let ImportedGrant {
        tokens,
        identity,
        server,
        client_id,
        host: _,
    } = imported;
    if client_id.is_some_and(|client_id| client_id != app.client_id) {
        let reason =
            "it belongs to another client than the app's; its refresh token would be refused";
        return Err(OperationError::Refused {
            portal: name.clone(),
            reason: reason.to_owned(),
        });
    }
    let pinned = settings.and_then(|settings| settings.identity.clone());
    let domain = settings.and_then(|settings| settings.domain.as_deref());
    let every = settings
        .and_then(|settings| settings.renew_every)
        .map_or(app.profile.renew_every, RenewEvery::from);
    let token_url = server
        .and_then(|server| {
            app.profile
                .renewal_url_on_host_of(&server)
                .map(str::to_owned)
        })
        .or_else(|| portal.config_url.clone())
        .unwrap_or_else(|| app.profile.renewal_url_for(None, domain));
    let status = match &tokens.access {
        Some(_) if proven => granted_status(name, &tokens, every, now),
        access => imported_status(name, access.as_ref(), every, now),
    };
    Ok(NewGrant {
        portal: name.clone(),
        identity: identity.or(pinned),
        bound_to: app.binding(domain),
        token_url,
        status,
        tokens,
        proven: proven.then(|| app.name.clone()),
        now,
    })
}

/// Error: the refresh token belongs to another portal.
pub(crate) fn held_by_error(name: &PortalName, other: &str) -> OperationError {
    let reason = format!(
        "the same refresh token belongs to {other}; two portals with one grant would kill it at the next rotation"
    );
    OperationError::Refused {
        portal: name.clone(),
        reason,
    }
}

/// Error: the refresh token belonged to the portal before.
pub(crate) fn spent_error(name: &PortalName) -> OperationError {
    let reason = format!(
        "this refresh token has been exchanged for a newer one, which {name} had in its place; nothing was sent; \
         if you mean it all the same, first: refreshd forget {name}"
    );
    OperationError::Refused {
        portal: name.clone(),
        reason,
    }
}

/// Outcome of `forget`.
#[derive(Debug)]
pub struct Forgotten {
    /// Whether there was a grant.
    pub had_grant: bool,
    /// Token files that could not be removed, and the reason.
    pub left: Option<String>,
}

/// Forgets a grant and removes its token files. With `revoke`, revokes it at the authorization server first.
///
/// # Errors
/// [`OperationError`]; nothing is forgotten then.
pub async fn forget(
    shared: &Context,
    name: &str,
    revoke: bool,
) -> Result<Forgotten, OperationError> {
    if revoke {
        introspect::revoke(shared, name).await?;
    }
    let portal = find(shared, name).await?;
    let had_grant = shared.state.forget(portal.name.clone()).await?;
    let failing = shared
        .publisher
        .publish_knowing(&portal.name, KnownState::NoGrant)
        .await;
    shared.health.unpublished(failing);
    let left = shared.conditions.reason(Condition::Unremoved(&portal.name));
    if had_grant {
        let name = &portal.name;
        // Remaining files are logged as a condition of their own.
        let files = left.as_ref().map_or(" and its token files removed", |_| "");
        tracing::info!(portal = %name, "{name}: the grant was forgotten{files}");
    }
    Ok(Forgotten { had_grant, left })
}

/// Stores a grant. A proven grant exists nowhere else: while the write fails, it is kept in memory, retried, and reported
/// as critical.
async fn store(
    shared: &Context,
    grant: NewGrant,
    sent: SentToken,
) -> Result<StoreOutcome, StateError> {
    if grant.proven.is_none() {
        return shared.state.store_grant(grant).await;
    }
    let held = UnsavedCopy {
        unsaved: Unsaved::Grant(&grant, sent),
        slot: Slot::default(),
    };
    let write = || shared.state.store_grant(grant.clone());
    Ok(until_durable(shared, &grant.portal, Some(held), write).await)
}
