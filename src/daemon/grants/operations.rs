//! Status, renewal and tokens, with or without a running daemon: the same code behind the control socket and the CLI.
//!
//! Must not print, and must not know HTTP or exit codes: an [`OperationError`] describes the problem in its own words.

use std::time::Duration;

use serde_json::Value;

use crate::adapters::state::RenewalRequest;
use crate::adapters::token_files::Published;
use crate::adapters::token_reply::token_reply;
use crate::daemon::context::Context;
use crate::daemon::grants::driver::Driver;
use crate::daemon::grants::error::OperationError;
use crate::daemon::grants::lookup::{app_of, find, no_grant};
use crate::daemon::grants::portal_view::{PortalView, views as views_of};
use crate::daemon::waiters::RenewalReport;
use crate::domain::portal::Portal;
use crate::domain::token_format::TokenFormat;
use refreshd_time::{Timestamp, human};

/// Limit of the wait for a renewal, in addition to the request's timeout.
const RENEWAL_GRACE: Duration = Duration::from_secs(10);

/// Result of `renew`.
#[derive(Debug)]
pub enum RenewalResult {
    /// A request was sent, with this outcome.
    Ended(RenewalReport),
    /// Nothing was sent: the token was renewed a moment ago.
    FreshAlready {
        /// Earliest time of the next renewal.
        not_before: Timestamp,
    },
}

/// Status of one portal.
///
/// # Errors
/// As [`find`].
pub async fn view(shared: &Context, name: &str) -> Result<PortalView, OperationError> {
    let portal = find(shared, name).await?;
    one_view(shared, &portal).await
}

async fn one_view(shared: &Context, portal: &Portal) -> Result<PortalView, OperationError> {
    let view = views_of(shared, std::slice::from_ref(portal)).await?.pop();
    Ok(view.unwrap_or_else(|| PortalView::of(portal, &shared.config(), shared.clock.now())))
}

/// Result of `renew`.
///
/// # Errors
/// As [`find`].
pub async fn outcome(
    shared: &Context,
    name: &str,
) -> Result<(PortalView, Option<Value>), OperationError> {
    let portal = find(shared, name).await?;
    let (config, now) = (shared.config(), shared.clock.now());
    let reply = portal.grant.as_ref().and_then(|grant| {
        let access = grant
            .tokens
            .access
            .as_ref()
            .filter(|access| access.expires_at > now)?;
        let app = app_of(&config, &portal).ok()?;
        Some(token_reply(
            access,
            &grant.tokens.details,
            &app.profile,
            now,
        ))
    });
    Ok((one_view(shared, &portal).await?, reply))
}

/// Requests a renewal and waits for its end. `by` executes it: the loop of a running daemon, or this process.
///
/// # Errors
/// [`OperationError`].
pub async fn renew(
    shared: &Context,
    name: &str,
    by: &Driver,
) -> Result<RenewalResult, OperationError> {
    let portal = find(shared, name).await?;
    let ended = shared.waiters.wait_for(&portal.name);
    let now = shared.clock.now();
    let mut from = now;
    match shared
        .state
        .request_renewal(portal.name.clone(), now)
        .await?
    {
        RenewalRequest::Due(at) => from = at,
        RenewalRequest::UnderWay => {}
        RenewalRequest::NotBefore(not_before) => {
            return Ok(RenewalResult::FreshAlready { not_before });
        }
        RenewalRequest::NoGrant | RenewalRequest::Unknown => return Err(no_grant(&portal)),
    }
    match by {
        Driver::Daemon => shared.due.notify_one(),
        Driver::Inline(driver) => {
            shared.clock.sleep_until(from).await;
            driver.renew(&portal.name).await?;
        }
        Driver::ReadOnly => {
            return Err(OperationError::NeedsRenewal {
                portal: portal.name,
            });
        }
    }
    let limit = from.until(now) + shared.config().renewal.timeout + RENEWAL_GRACE;
    match shared.clock.within(limit, ended).await {
        Some(Ok(report)) => Ok(RenewalResult::Ended(report)),
        Some(Err(_)) | None => Err(OperationError::NotNow {
            portal: portal.name,
            reason: format!(
                "the renewal has not ended after {}; it goes on by itself",
                human(limit)
            ),
        }),
    }
}

/// The access token in one format, with at least `min_valid` left; renews it first if necessary.
///
/// # Errors
/// [`OperationError`]; [`OperationError::NotNow`] if no token with that much time left can be obtained.
pub async fn token(
    shared: &Context,
    name: &str,
    min_valid: Duration,
    format: TokenFormat,
    by: &Driver,
) -> Result<String, OperationError> {
    let portal = find(shared, name).await?;
    if let Some(text) = render(shared, &portal, min_valid, format) {
        return Ok(text);
    }
    if matches!(by, Driver::ReadOnly) {
        return Err(OperationError::NeedsRenewal {
            portal: portal.name,
        });
    }
    // A reader's request must not repeat what only an operator can fix.
    if portal.kind().is_dead() {
        return Err(no_grant(&portal));
    }
    let ended = renew(shared, name, by).await?;
    let portal = find(shared, name).await?;
    // No token is valid for longer than its lifetime, so one that was just renewed is accepted.
    let min_valid = match &ended {
        RenewalResult::Ended(RenewalReport { failure: None, .. })
        | RenewalResult::FreshAlready { .. } => {
            let lifetime = portal
                .grant
                .as_ref()
                .and_then(|grant| grant.tokens.access.as_ref())
                .map(|a| a.lifetime());
            lifetime.map_or(min_valid, |lifetime| min_valid.min(lifetime.mul_f64(0.5)))
        }
        RenewalResult::Ended(_) => min_valid,
    };
    render(shared, &portal, min_valid, format).ok_or_else(|| {
        let reason = match ended {
            RenewalResult::Ended(RenewalReport {
                failure: Some((class, detail)),
                ..
            }) => {
                format!("the renewal failed ({}): {detail}", class.as_str())
            }
            RenewalResult::Ended(_) | RenewalResult::FreshAlready { .. } => {
                "the token has less time left than asked for".to_owned()
            }
        };
        OperationError::NotNow {
            portal: portal.name.clone(),
            reason,
        }
    })
}

fn render(
    shared: &Context,
    portal: &Portal,
    min_valid: Duration,
    format: TokenFormat,
) -> Option<String> {
    let settings = portal.settings.as_ref()?;
    let grant = portal.grant.as_ref()?;
    let access = grant.tokens.access.as_ref()?;
    if access.expires_at.until(shared.clock.now()) < min_valid.max(Duration::from_millis(1)) {
        return None;
    }
    let config = shared.config();
    let provider = config
        .apps
        .get(&settings.app)
        .map_or("", |app| app.profile.name.as_str());
    let details = &grant.tokens.details;
    let generation = grant.generation;
    Some(
        Published {
            portal: &portal.name,
            provider,
            access,
            generation,
            details,
        }
        .render(format),
    )
}
