//! Token introspection (RFC 7662), and revocation of grants (RFC 7009).
//!
//! Must not revoke what a renewal is about to replace: it waits for a renewal under way.

use crate::config::App;
use crate::daemon::context::Context;
use crate::daemon::grants::error::OperationError;
use crate::daemon::grants::lookup::{app_of, find, no_grant};
use crate::daemon::renewal::execute::{ClaimedGrant, release, secrets_of};
use crate::domain::portal::{Grant, Portal};
use refreshd_token_client::authorization_server::TokenResponse;
use refreshd_token_client::introspection::{self, Introspection};
use refreshd_token_client::provider::at_domain;
use refreshd_token_client::request::{RequestKind, Token};

/// Introspection of a portal's access token.
///
/// # Errors
/// [`OperationError`].
pub async fn introspect(shared: &Context, name: &str) -> Result<Introspection, OperationError> {
    let config = shared.config();
    let mut portal = find(shared, name).await?;
    loop {
        let app = app_of(&config, &portal)?;
        let url = app.profile.introspect_url.as_deref();
        let url = url.ok_or_else(|| {
            unsupported(
                &portal,
                "does not support token introspection (no `introspect_url`)",
            )
        })?;
        let access = own(&portal, app)?.and_then(|grant| grant.tokens.access.as_ref());
        let access = access.ok_or_else(|| no_grant(&portal))?;
        let (status, body) = request(
            shared,
            app,
            &portal,
            url,
            RequestKind::Introspection(&access.token),
        )
        .await?;
        let result = introspection::read(status, &body, &secrets(&portal, app));
        let result = result.map_err(|reason| not_now(&portal, reason))?;
        if result.active {
            return Ok(result);
        }
        // Some providers invalidate a token as soon as a renewal returns the next: that one is introspected then.
        let now = after_renewal(shared, name, config.renewal.timeout).await?;
        let generation = |portal: &Portal| portal.grant.as_ref().map(|grant| grant.generation);
        if generation(&now) == generation(&portal) {
            return Ok(result);
        }
        portal = now;
    }
}

/// Revokes a portal's grant at the server; false if there is none.
///
/// # Errors
/// [`OperationError`]; the grant is unchanged then, as far as the server reports.
pub async fn revoke(shared: &Context, name: &str) -> Result<bool, OperationError> {
    let config = shared.config();
    let portal = after_renewal(shared, name, config.renewal.timeout).await?;
    let app = app_of(&config, &portal)?;
    let url = app.profile.revoke_url.as_deref();
    let url = url.ok_or_else(|| unsupported(&portal, "does not support token revocation (no `revoke_url`): end the grant there, as by removing the app; to forget it here leave out --revoke"))?;
    let Some(token) = own(&portal, app)?.and_then(token) else {
        return Ok(false);
    };
    // A renewal would return a pair that is not revoked. A grant that may not be renewed cannot be claimed, and needs no
    // claim.
    let claimed = shared
        .state
        .claim_one(portal.name.clone(), shared.clock.now())
        .await?;
    let revoked = match request(shared, app, &portal, url, RequestKind::Revocation(token)).await {
        Ok((status, body)) => {
            let result = introspection::revoked(status, &body, &secrets(&portal, app));
            result.map_err(|reason| not_now(&portal, reason))
        }
        Err(error) => Err(error),
    };
    if let Err(error) = revoked {
        if let Some(claimed) = claimed.and_then(ClaimedGrant::from) {
            release(
                shared,
                &config,
                claimed,
                "it was to be revoked, and was not",
            )
            .await;
            shared.due.notify_one();
        }
        return Err(error);
    }
    tracing::info!(portal = %portal.name, "{}: the grant was revoked at the authorization server", portal.name);
    Ok(true)
}

/// The grant, if it is bound to the configured client and server: no other may see its tokens.
fn own<'p>(portal: &'p Portal, app: &App) -> Result<Option<&'p Grant>, OperationError> {
    let domain = portal
        .settings
        .as_ref()
        .and_then(|settings| settings.domain.as_deref());
    match &portal.grant {
        Some(grant) if grant.bound_to != app.binding(domain) => Err(no_grant(portal)),
        grant => Ok(grant.as_ref()),
    }
}

/// Secrets to mask in texts of the server.
fn secrets<'a>(portal: &'a Portal, app: &'a App) -> Vec<&'a str> {
    portal
        .grant
        .as_ref()
        .map(|grant| secrets_of(grant, app))
        .unwrap_or_default()
}

fn token(grant: &Grant) -> Option<Token<'_>> {
    let access = || {
        grant
            .tokens
            .access
            .as_ref()
            .map(|access| Token::Access(&access.token))
    };
    grant
        .tokens
        .credential
        .refresh()
        .map(Token::Refresh)
        .or_else(access)
}

/// The portal after the end of a renewal under way.
async fn after_renewal(
    shared: &Context,
    name: &str,
    timeout: std::time::Duration,
) -> Result<Portal, OperationError> {
    let portal = find(shared, name).await?;
    let ended = shared.waiters.wait_for(&portal.name);
    let portal = find(shared, name).await?;
    let is_claimed = |portal: &Portal| {
        portal
            .grant
            .as_ref()
            .is_some_and(|grant| grant.claim.is_some())
    };
    if !is_claimed(&portal) {
        return Ok(portal);
    }
    let _ = shared.clock.within(timeout, ended).await;
    let portal = find(shared, name).await?;
    if is_claimed(&portal) {
        return Err(not_now(
            &portal,
            "a renewal of it is still under way; try again".to_owned(),
        ));
    }
    Ok(portal)
}

async fn request(
    shared: &Context,
    app: &App,
    portal: &Portal,
    url: &str,
    purpose: RequestKind<'_>,
) -> Result<(u16, Vec<u8>), OperationError> {
    let fields = std::collections::BTreeMap::new();
    let builder = app.request_builder(portal.settings.as_ref(), &fields, "");
    let token_request = builder.request(&at_domain(url, builder.domain), purpose);
    match shared
        .server(app)
        .exchange(
            &token_request,
            shared.config().renewal.timeout,
            shared.clock.now(),
        )
        .await
    {
        TokenResponse::Whole(whole) => Ok((whole.status, whole.body)),
        TokenResponse::NotSent(why) | TokenResponse::InDoubt(why) | TokenResponse::Cut(_, why) => {
            Err(not_now(portal, why))
        }
    }
}

fn unsupported(portal: &Portal, what: &str) -> OperationError {
    let reason = format!("its provider {what}");
    OperationError::NotThere {
        portal: portal.name.clone(),
        reason,
    }
}

fn not_now(portal: &Portal, reason: String) -> OperationError {
    OperationError::NotNow {
        portal: portal.name.clone(),
        reason,
    }
}
