//! Grants that come in and go: imported, authorized, forgotten. With or without a running daemon.
//!
//! Must not publish what is not durable, nor lose what an authorization server has just handed out.

use std::time::Duration;

use super::alerts::What;
use super::announce::{Subject, announce};
use super::operations::{OperationError, app_of, find};
use super::publisher::chain;
use super::shared::Shared;
use super::worth;
use super::writing;
use crate::adapters::state::{StateError, TakeIn, TakenIn};
use crate::domain::escalation::resolved;
use crate::domain::intake::Intake;
use crate::domain::name::PortalName;
use crate::domain::renewal::{just_granted, taken_in};
use crate::domain::schedule::RenewEvery;
use crate::domain::token::Generation;

/// The wait before a pair that only we have is stored again.
const STORE_AGAIN: Duration = Duration::from_secs(1);

/// Where a grant came from, for the log.
#[derive(Debug, Clone, Copy)]
pub enum Source {
    /// `refreshd import`.
    Import,
    /// `refresh_token_file`.
    File,
    /// `refreshd authorize`.
    Authorization,
    /// The client's own credentials.
    Client,
}

/// A grant, and where it came from.
pub struct TakeInAs {
    /// The grant.
    pub intake: Intake,
    /// How it came.
    pub source: Source,
}

/// Takes a grant in from its text.
///
/// # Errors
/// [`OperationError`].
pub async fn import(shared: &Shared, name: &str, text: &str) -> Result<Generation, OperationError> {
    let portal = find(shared, name).await?;
    let config = shared.config();
    let app = app_of(&config, &portal)?;
    let intake = crate::domain::intake::parse(text, &app.profile, shared.clock.now())
        .map_err(|source| OperationError::NotAGrant { portal: portal.name.clone(), source })?;
    take_in(shared, &portal.name, TakeInAs { intake, source: Source::Import }).await
}

/// Stores a grant, publishes what it brought, and makes it due at once.
///
/// # Errors
/// [`OperationError`]; nothing is stored then.
pub async fn take_in(
    shared: &Shared,
    name: &PortalName,
    TakeInAs { intake, source }: TakeInAs,
) -> Result<Generation, OperationError> {
    let portal = find(shared, name.as_str()).await?;
    let config = shared.config();
    let app = app_of(&config, &portal)?;
    let refuse = |reason| OperationError::Refused { portal: name.clone(), reason };
    let settings = portal.settings.as_ref();
    let Intake { tokens, identity, server, client_id } = intake;
    if client_id.is_some_and(|client_id| client_id != app.client_id) {
        let reason =
            "it says that it belongs to another client than the app's; its refresh token would be refused";
        return Err(refuse(reason.to_owned()));
    }
    let pinned = settings.and_then(|settings| settings.identity.as_ref());
    if let (Some(pinned), Some(identity)) = (pinned, &identity)
        && pinned != identity
    {
        return Err(refuse(format!("it is the grant of {identity}, the configuration expects {pinned}")));
    }
    let domain = settings.and_then(|settings| settings.domain.as_deref());
    let now = shared.clock.now();
    let every =
        settings.and_then(|settings| settings.renew_every).map_or(app.profile.renew_every, RenewEvery::from);
    let token_url = server
        .and_then(|server| app.profile.renewal_url_on_host_of(&server).map(str::to_owned))
        .or_else(|| portal.config_url.clone())
        .unwrap_or_else(|| app.profile.renewal_url_for(None, domain));
    // A grant that we had a moment ago from the server itself need not be proved.
    let proven = matches!(source, Source::Authorization);
    let standing = match &tokens.access {
        Some(_) if proven => just_granted(name, &tokens, every, now),
        access => taken_in(name, access.as_ref(), every, now),
    };
    let before = portal.grant.as_ref().map(|grant| (grant.told.clone(), grant.standing.phase.since()));
    let take = TakeIn {
        portal: name.clone(),
        identity: identity.or_else(|| pinned.cloned()),
        bound_to: app.binding(domain),
        token_url,
        standing,
        tokens,
        proven: proven.then(|| app.name.clone()),
        now,
    };
    let notice = take.tokens.validity.notice.clone();
    match store(shared, take).await? {
        TakenIn::Stored(generation) => {
            tracing::info!(portal = %name, generation = generation.0, source = ?source, "{name}: a grant was taken in");
            if let Some(notice) = notice {
                tracing::warn!(portal = %name, notice, "{name}: {notice}");
            }
            let failing = shared.publisher.publish(name).await;
            shared.health.unpublished(failing);
            if let Some((told, since)) = before.filter(|_| proven)
                && let Some(good) = resolved(&told, since, now)
            {
                announce(Subject::Portal(name), &good);
                shared.post.wake.notify_one();
            }
            shared.due.notify_one();
            shared.climb.notify_one();
            Ok(generation)
        }
        TakenIn::HeldBy(other) => Err(refuse(format!(
            "the same refresh token belongs to {other}; two portals with one grant would kill it at the next rotation"
        ))),
        TakenIn::Spent => Err(refuse(format!(
            "this refresh token was taken in before and has been exchanged for a newer one since, which stays in force; \
             if you mean it all the same, first: refreshd forget {name}"
        ))),
        TakenIn::Unknown => Err(OperationError::UnknownPortal { name: name.to_string(), suggestion: None }),
    }
}

/// Forgets a grant and removes its token files; false if there was none. With `revoke` it is given back to the
/// authorization server first.
///
/// # Errors
/// [`OperationError`]; nothing is forgotten then.
pub async fn forget(shared: &Shared, name: &str, revoke: bool) -> Result<bool, OperationError> {
    if revoke {
        worth::revoke(shared, name).await?;
    }
    let portal = find(shared, name).await?;
    let forgotten = shared.state.forget(portal.name.clone()).await?;
    let failing = shared.publisher.publish(&portal.name).await;
    shared.health.unpublished(failing);
    if forgotten {
        tracing::info!(portal = %portal.name, "{}: the grant was forgotten and its token files removed", portal.name);
    }
    Ok(forgotten)
}

/// Stores a grant. One that was proven is nowhere else: while the disk refuses it, it is held and everybody hears of it.
async fn store(shared: &Shared, take: TakeIn) -> Result<TakenIn, StateError> {
    let mut unsaved = false;
    loop {
        match shared.state.take_in(take.clone()).await {
            Ok(taken) => {
                if unsaved {
                    shared.metrics.unsaved_ends();
                    shared.conditions.end(What::Unsaved(&take.portal), "the new pair is on disk now");
                }
                return Ok(taken);
            }
            Err(error) if take.proven.is_none() => return Err(error),
            Err(error) => {
                writing::refused(shared, &error);
                if !unsaved {
                    unsaved = true;
                    shared.metrics.unsaved_begins();
                    let reason =
                        format!("a new pair is not on disk, it is held in memory: {}", chain(&error));
                    shared.conditions.begin(What::Unsaved(&take.portal), reason);
                }
            }
        }
        shared.clock.sleep(STORE_AGAIN).await;
    }
}
