//! Installs of another user, over the control socket: which wait for a decision, and the decision.
//!
//! Must not decide, nor let anybody but root and the daemon's own user do so.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path as UrlPath, Query, State as Extract};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use serde::Deserialize;
use serde_json::json;

use crate::daemon::api::peer::{ApiError, Peer};
use crate::daemon::api::{Control, imported_json, status_of};
use crate::daemon::grants::disputes;
use crate::daemon::grants::operations::{self, Driver};

pub(crate) fn routes() -> Router<Control> {
    Router::new()
        .route("/v1/installs", get(list))
        .route("/v1/portals/{portal}/install/accept", post(accept))
        .route("/v1/portals/{portal}/install/refuse", post(refuse))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Of {
    /// Only if it is this user who waits.
    user: Option<String>,
}

type OfQuery = Result<Query<Of>, QueryRejection>;

fn user(query: OfQuery) -> Result<Option<String>, ApiError> {
    let bad = |rejection: QueryRejection| {
        ApiError::new(
            StatusCode::BAD_REQUEST,
            "bad-request",
            rejection.body_text(),
        )
    };
    query.map(|Query(Of { user })| user).map_err(bad)
}

async fn list(Extract(control): Extract<Control>) -> Result<Response, ApiError> {
    let waiting = disputes::list(&control.shared).await?;
    Ok(axum::Json(json!({ "waiting": waiting })).into_response())
}

async fn accept(
    Extract(control): Extract<Control>,
    Extension(peer): Extension<Peer>,
    UrlPath(portal): UrlPath<String>,
    query: OfQuery,
) -> Result<Response, ApiError> {
    peer.may_change()?;
    let user = user(query)?;
    let (shared, name) = (Arc::clone(&control.shared), portal.clone());
    let accept =
        async move { Ok(disputes::accept(&shared, &name, user.as_deref(), Driver::Daemon).await?) };
    let imported = control.change(accept).await?;
    let (view, _) = operations::outcome(&control.shared, &portal).await?;
    Ok((
        status_of(&imported),
        axum::Json(imported_json(&imported, &view)),
    )
        .into_response())
}

async fn refuse(
    Extract(control): Extract<Control>,
    Extension(peer): Extension<Peer>,
    UrlPath(portal): UrlPath<String>,
    query: OfQuery,
) -> Result<Response, ApiError> {
    peer.may_change()?;
    let user = user(query)?;
    let shared = Arc::clone(&control.shared);
    let refuse = async move { Ok(disputes::refuse(&shared, &portal, user.as_deref()).await?) };
    Ok(axum::Json(control.change(refuse).await?).into_response())
}
