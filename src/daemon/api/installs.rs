//! Routes of disputed installs: list those that await a decision, and decide.
//!
//! Must not let anybody but root and the daemon's own user decide.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path as UrlPath, Query, State as Extract};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use serde::Deserialize;
use serde_json::json;

use crate::daemon::api::control::Control;
use crate::daemon::api::error::ApiError;
use crate::daemon::api::outcomes::{imported_json, status_of};
use crate::daemon::api::peer::Peer;
use crate::daemon::grants::disputes;
use crate::daemon::grants::operations;

pub(crate) fn routes() -> Router<Control> {
    Router::new()
        .route("/v1/installs", get(list))
        .route("/v1/portals/{portal}/install/accept", post(accept))
        .route("/v1/portals/{portal}/install/refuse", post(refuse))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Of {
    /// Decide only if the dispute is about this user.
    user: Option<String>,
}

type OfQuery = Result<Query<Of>, QueryRejection>;

fn user(query: OfQuery) -> Result<Option<String>, ApiError> {
    let Query(Of { user }) = query?;
    Ok(user)
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
    control.may_change(peer)?;
    let user = user(query)?;
    let (shared, driver) = (Arc::clone(&control.shared), control.driver.clone());
    let name = portal.clone();
    let accept =
        async move { Ok(disputes::accept(&shared, &name, user.as_deref(), &driver).await?) };
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
    control.may_change(peer)?;
    let user = user(query)?;
    let shared = Arc::clone(&control.shared);
    let refuse = async move { Ok(disputes::refuse(&shared, &portal, user.as_deref()).await?) };
    Ok(axum::Json(control.change(refuse).await?).into_response())
}
