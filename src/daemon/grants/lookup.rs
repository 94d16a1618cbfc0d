//! Lookup of the portal that a command names, or of the nearest name, and of the portal's app.

use crate::config::{App, Config};
use crate::daemon::context::Context;
use crate::daemon::grants::error::OperationError;
use crate::daemon::grants::portal_view::action_for;
use crate::domain::name::PortalName;
use crate::domain::portal::Portal;
use crate::domain::similar::distance;

/// Finds a portal in the state. The error contains the nearest existing name.
///
/// # Errors
/// [`OperationError::UnknownPortal`], [`OperationError::State`].
pub async fn find(shared: &Context, name: &str) -> Result<Portal, OperationError> {
    if let Ok(name) = PortalName::parse(name)
        && let Some(portal) = shared.state.portal(name).await?
    {
        return Ok(portal);
    }
    Err(OperationError::UnknownPortal {
        name: name.to_owned(),
        suggestion: nearest(shared, name).await,
    })
}

async fn nearest(shared: &Context, wanted: &str) -> Option<String> {
    let mut best: Option<(usize, String)> = None;
    let mut pages = shared.state.portals();
    while let Some(page) = pages.next().await.ok()? {
        for portal in &page.portals {
            let name = portal.name.as_str();
            if let Some(distance) = distance(wanted, name)
                && best.as_ref().is_none_or(|(least, _)| distance < *least)
            {
                best = Some((distance, name.to_owned()));
            }
        }
    }
    best.map(|(_, name)| name)
}

pub(crate) fn app_of<'c>(config: &'c Config, portal: &Portal) -> Result<&'c App, OperationError> {
    let app = portal
        .settings
        .as_ref()
        .and_then(|settings| config.apps.get(&settings.app));
    app.ok_or_else(|| no_grant(portal))
}

pub(crate) fn no_grant(portal: &Portal) -> OperationError {
    let kind = portal.kind();
    OperationError::NoGrant {
        portal: portal.name.clone(),
        kind,
        action: action_for(portal),
    }
}
