//! Offers a grant as a portal's candidate: stored beside the present one, which it replaces once it is proved.
//!
//! Must not send anything: `candidates` does.

use crate::adapters::state::{Offer, Offered, OpenDispute};
use crate::daemon::context::Context;
use crate::daemon::grants::error::OperationError;
use crate::daemon::grants::lookup::app_of;
use crate::daemon::grants::store::{
    check_identity, check_not_held, held_by_error, new_grant, spent_error,
};
use crate::domain::candidate::{ImportResult, Origin, replace_hint};
use crate::domain::identity::ExpectedIdentity;
use crate::domain::import::ImportedGrant;
use crate::domain::name::PortalName;
use crate::domain::portal::Portal;
use refreshd_secrets::{Fingerprint, RefreshToken};
use refreshd_token_client::token::{Credential, Tokens, Validity};

/// Stores a candidate, after its claimed identity was compared with the portal's.
///
/// # Errors
/// [`OperationError`]; nothing is stored then.
pub(crate) async fn store_candidate(
    shared: &Context,
    portal: &Portal,
    imported: ImportedGrant,
    origin: Origin,
    replace: bool,
) -> Result<Offered, OperationError> {
    let config = shared.config();
    let app = app_of(&config, portal)?;
    let name = &portal.name;
    let known = ExpectedIdentity::of(portal, &app.profile);
    let known = if replace { known.pinned_only() } else { known };
    check_not_held(shared, name, &imported).await?;
    check_identity(portal, known, &imported, &|another| {
        format!("; {}", replace_hint(another, name.as_str()))
    })?;
    let fingerprint = imported
        .tokens
        .credential
        .refresh()
        .map(RefreshToken::fingerprint);
    let grant = new_grant(portal, app, imported, false, shared.clock.now())?;
    let offered = shared
        .state
        .offer(Offer {
            grant,
            origin,
            replaces: replace,
            event: None,
        })
        .await?;
    match &offered {
        Offered::Stored => {
            if portal.candidate.is_some() {
                let others = |(of, which): &(PortalName, Option<Fingerprint>)| {
                    of == name && *which != fingerprint
                };
                shared
                    .proofs
                    .notify_matching(others, &ImportResult::Superseded);
                tracing::warn!(
                    portal = %name,
                    "{name}: an earlier candidate grant was not verified yet and is dropped for this one"
                );
            }
            tracing::info!(
                portal = %name, origin = origin.as_str(),
                "{name}: a candidate grant is stored; it replaces the present grant once it is verified"
            );
        }
        Offered::Known | Offered::Same => {}
        Offered::Busy => {
            let reason =
                "another candidate grant is being verified; try again in a moment".to_owned();
            return Err(OperationError::NotNow {
                portal: name.clone(),
                reason,
            });
        }
        Offered::Waiting(since) => {
            let reason = format!(
                "another candidate grant was received at {since} and is not verified yet; nothing was accepted. See: refreshd status \
                 {name}. To drop that one for this one: refreshd import {name} --replace"
            );
            return Err(OperationError::NotNow {
                portal: name.clone(),
                reason,
            });
        }
        Offered::HeldBy(other) => return Err(held_by_error(name, other)),
        Offered::Spent => return Err(spent_error(name)),
        Offered::Unknown => {
            return Err(OperationError::UnknownPortal {
                name: name.to_string(),
                suggestion: None,
            });
        }
    }
    Ok(offered)
}

/// Offers the grant of a disputed install as the portal's candidate; returns the fingerprint of its refresh token.
///
/// # Errors
/// [`OperationError`]; it waits on then.
pub(crate) async fn offer_claimant(
    shared: &Context,
    portal: &Portal,
    waiting: OpenDispute,
) -> Result<Fingerprint, OperationError> {
    let OpenDispute {
        newcomer: dispute,
        member_id,
        refresh,
        details,
        server,
    } = waiting;
    let now = shared.clock.now();
    // First, since the outcome of its verification may be recorded after a crash.
    if !shared
        .state
        .accept_claimant(portal.name.clone(), dispute.user.clone(), now)
        .await?
    {
        let reason = "it was decided about meanwhile; see: refreshd install list".to_owned();
        return Err(OperationError::NotNow {
            portal: portal.name.clone(),
            reason,
        });
    }
    let fingerprint = refresh.fingerprint();
    let credential = Credential::Refresh(refresh);
    let tokens = Tokens {
        access: None,
        credential,
        details,
        validity: Validity::default(),
    };
    let imported = ImportedGrant {
        tokens,
        identity: Some(member_id),
        server,
        client_id: None,
        host: None,
    };
    store_candidate(shared, portal, imported, Origin::Install, true).await?;
    shared.conditions.changed.notify_one();
    Ok(fingerprint)
}
