//! Every route of the API.

use axum::Router;
use axum::extract::DefaultBodyLimit;

use crate::daemon::api::control::Control;
use crate::daemon::api::error::{ApiError, ErrorCode};
use crate::daemon::api::{
    alerts, authorization, configuration, health, installs, portals, replies,
};
use crate::domain::import;

/// Maximum length of a request's body.
pub(crate) const MAX_BODY_BYTES: usize = 64 * 1024;
/// Maximum length of the body of an import: one byte more than a grant may have, so that the parser of grants reports one
/// that is too long.
pub(crate) const MAX_GRANT_BYTES: usize = import::MAX_LENGTH + 1;

/// All routes.
pub(crate) fn routes(control: Control) -> Router {
    Router::new()
        .merge(portals::routes())
        .merge(alerts::routes())
        .merge(authorization::routes())
        .merge(replies::routes())
        .merge(installs::routes())
        .merge(health::routes())
        .merge(configuration::routes())
        .fallback(async || ApiError::new(ErrorCode::NotFound, "there is nothing here"))
        .method_not_allowed_fallback(async || {
            ApiError::new(
                ErrorCode::MethodNotAllowed,
                "this is not done with that method",
            )
        })
        .layer(DefaultBodyLimit::max(MAX_GRANT_BYTES))
        .with_state(control)
}
