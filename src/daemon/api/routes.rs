//! Every route of the API.

use axum::Router;
use axum::extract::DefaultBodyLimit;

use crate::daemon::api::control::Control;
use crate::daemon::api::error::{ApiError, ErrorCode};
use crate::daemon::api::{alerts, authorization, installs, portals, replies};
use crate::domain::import;

/// The longest body of a request.
pub(crate) const MAX_BODY_BYTES: usize = 64 * 1024;
/// The same where a grant is handed over: one more than one may have, so that it is the reader of grants who says that one is
/// too long.
pub(crate) const MAX_GRANT_BYTES: usize = import::MAX_LENGTH + 1;

/// All of them, for whoever calls.
pub(crate) fn routes(control: Control) -> Router {
    Router::new()
        .merge(portals::routes())
        .merge(alerts::routes())
        .merge(authorization::routes())
        .merge(replies::routes())
        .merge(installs::routes())
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
