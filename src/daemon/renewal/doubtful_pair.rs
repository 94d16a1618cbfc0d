//! A pair in doubt: of a stored success beside which something denies that it is one. Once the token that was sent is
//! refused as spent, it is a candidate, and the authorization server says what it is.
//!
//! Must not use one that is not proved, nor offer one a second time.

use crate::adapters::state::{NewGrant, Offer, Offered, StateError};
use crate::config::App;
use crate::daemon::context::Context;
use crate::domain::candidate::Origin;
use crate::domain::error_chain::error_chain;
use crate::domain::import::from_granted;
use crate::domain::name::PortalName;
use crate::domain::portal::Grant;
use crate::domain::renewal::imported_status;
use refreshd_secrets::RefreshToken;
use refreshd_time::Timestamp;
use refreshd_token_client::renew_every::RenewEvery;
use refreshd_token_client::reply::GrantedTokens;

/// Reason for which a grant stays in doubt meanwhile.
pub(crate) const BEING_PROVED: &str = "the server refused the token that was sent again; the pair that it sent before, in a reply that could not be \
     believed, is tried";

/// Offers the first of these pairs that was not offered before. Whether a candidate is to be proved now, so that the grant
/// is not dead yet.
pub(crate) async fn offer(
    shared: &Context,
    (name, grant): (&PortalName, &Grant),
    app: &App,
    every: RenewEvery,
    pairs: Vec<(Box<GrantedTokens>, Timestamp)>,
) -> bool {
    for (granted, at) in pairs {
        match offer_one(shared, (name, grant), app, every, (granted, at)).await {
            Ok(Some(Offered::Stored)) => {
                tracing::warn!(
                    portal = %name,
                    "{name}: the server refused the token that was sent again; a reply that is kept holds a pair and \
                     something that denies it: the pair is tried"
                );
                return true;
            }
            // Another candidate comes first; this one is offered again after it.
            Ok(Some(Offered::Known | Offered::Busy | Offered::Waiting(_))) => return true,
            Ok(
                Some(Offered::Same | Offered::HeldBy(_) | Offered::Spent | Offered::Unknown) | None,
            ) => {}
            // The reply stays stored: it is offered at the next attempt.
            Err(error) => {
                tracing::error!(portal = %name, error = %error_chain(&error), "{name}: the pair of a kept reply cannot be stored");
                return true;
            }
        }
    }
    false
}

/// `None`: it was refused before.
async fn offer_one(
    shared: &Context,
    (name, grant): (&PortalName, &Grant),
    app: &App,
    every: RenewEvery,
    (granted, at): (Box<GrantedTokens>, Timestamp),
) -> Result<Option<Offered>, StateError> {
    let now = shared.clock.now();
    let Some(imported) = from_granted(*granted, at.min(now)) else {
        return Ok(None);
    };
    let refresh = imported.tokens.credential.refresh();
    let Some(fingerprint) = refresh.map(RefreshToken::fingerprint) else {
        return Ok(None);
    };
    if shared.state.was_refused(name.clone(), fingerprint).await? {
        return Ok(None);
    }
    let token_url = imported
        .server
        .and_then(|server| {
            app.profile
                .renewal_url_on_host_of(&server)
                .map(str::to_owned)
        })
        .unwrap_or_else(|| grant.token_url.clone());
    let status = imported_status(name, imported.tokens.access.as_ref(), every, now);
    let grant = NewGrant {
        portal: name.clone(),
        tokens: imported.tokens,
        identity: imported.identity.or_else(|| grant.identity.clone()),
        bound_to: grant.bound_to,
        token_url,
        status,
        proven: None,
        now,
    };
    let offer = Offer {
        grant,
        origin: Origin::KeptReply,
        replaces: false,
        event: None,
    };
    shared.state.offer(offer).await.map(Some)
}
