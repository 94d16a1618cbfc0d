//! Replies that could not be read, over the control socket.
//!
//! Must not put a byte of one into JSON; the bytes themselves go to root and the daemon's own user only.

use std::sync::Arc;

use axum::extract::{Path as UrlPath, State as Extract};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use serde_json::{Value, json};

use crate::daemon::api::Control;
use crate::daemon::api::peer::{ApiError, Peer};
use crate::daemon::context::Context;
use crate::daemon::grants::error::OperationError;
use crate::daemon::grants::kept_replies;
use crate::daemon::grants::operations;
use crate::domain::token::Generation;

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
    peer.may_change()?;
    let (shared, name) = (Arc::clone(&control.shared), portal.clone());
    let discarded = control
        .change(async move { Ok(kept_replies::discard(&shared, &name).await?) })
        .await?;
    Ok(axum::Json(json!({"portal": portal, "discarded": discarded})).into_response())
}

/// What a recovery comes to, in JSON: over the socket, and from `recover --json`.
///
/// # Errors
/// As `find`.
pub async fn recovered(
    shared: &Context,
    portal: &str,
    generation: Generation,
) -> Result<Value, OperationError> {
    let view = operations::view(shared, portal).await?;
    Ok(
        json!({"portal": portal, "outcome": "recovered", "generation": generation.0, "status": view}),
    )
}
