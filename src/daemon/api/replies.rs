//! Routes of stored responses that could not be parsed.
//!
//! Must not put a byte of one into JSON; the bytes themselves go to root and the daemon's own user only.

use std::sync::Arc;

use axum::extract::{Path as UrlPath, State as Extract};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use serde_json::json;

use crate::daemon::api::control::Control;
use crate::daemon::api::error::ApiError;
use crate::daemon::api::outcomes::recovered;
use crate::daemon::api::peer::Peer;
use crate::daemon::grants::kept_replies;

pub(crate) fn routes() -> Router<Control> {
    Router::new()
        .route("/v1/portals/{portal}/replies", get(list).delete(discard))
        .route("/v1/portals/{portal}/replies/{number}", get(show))
        .route("/v1/portals/{portal}/replies/recover", post(recover))
}

async fn list(
    Extract(control): Extract<Control>,
    UrlPath(portal): UrlPath<String>,
) -> Result<Response, ApiError> {
    let replies = kept_replies::list(&control.shared, &portal).await?;
    Ok(axum::Json(json!({"portal": portal, "replies": replies})).into_response())
}

async fn show(
    Extract(control): Extract<Control>,
    Extension(peer): Extension<Peer>,
    UrlPath((portal, number)): UrlPath<(String, usize)>,
) -> Result<Response, ApiError> {
    // A secret: only for callers that may change something, though nothing is changed.
    peer.may_change()?;
    let body = kept_replies::body(&control.shared, &portal, number).await?;
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    Ok((headers, body.expose().to_vec()).into_response())
}

async fn recover(
    Extract(control): Extract<Control>,
    Extension(peer): Extension<Peer>,
    UrlPath(portal): UrlPath<String>,
) -> Result<Response, ApiError> {
    peer.may_change()?;
    // If nothing can be recovered, a copy of the state suffices to report the reason.
    kept_replies::recoverable(&control.shared, &portal).await?;
    control.may_change(peer)?;
    let shared = Arc::clone(&control.shared);
    let change = async move {
        let generation = kept_replies::recover(&shared, &portal).await?;
        Ok(recovered(&shared, &portal, generation).await?)
    };
    Ok(axum::Json(control.change(change).await?).into_response())
}

async fn discard(
    Extract(control): Extract<Control>,
    Extension(peer): Extension<Peer>,
    UrlPath(portal): UrlPath<String>,
) -> Result<Response, ApiError> {
    control.may_change(peer)?;
    let (shared, name) = (Arc::clone(&control.shared), portal.clone());
    let discarded = control
        .change(async move { Ok(kept_replies::discard(&shared, &name).await?) })
        .await?;
    Ok(axum::Json(json!({"portal": portal, "discarded": discarded})).into_response())
}
