//! Routes of authorizations: begin, answer with the browser's redirect, poll for a device.
//!
//! Must not decide: `authorize` does.

use std::sync::Arc;

use axum::extract::rejection::StringRejection;
use axum::extract::{Path as UrlPath, State as Extract};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Extension, Router};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::config::is_loopback_host;
use crate::daemon::api::control::Control;
use crate::daemon::api::error::{ApiError, ErrorCode};
use crate::daemon::api::outcomes::authorized;
use crate::daemon::api::peer::Peer;
use crate::daemon::grants::authorize::{self, Polled};

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct BeginRequest {
    /// URI on which the caller listens for the redirect; used if the configuration sets none.
    redirect_uri: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AnswerRequest {
    /// The URI that the browser was redirected to, or the bare code.
    answer: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PollRequest {
    state: String,
}

pub(crate) fn routes() -> Router<Control> {
    Router::new()
        .route("/v1/portals/{portal}/authorization", post(begin))
        .route("/v1/portals/{portal}/authorization/answer", post(answer))
        .route("/v1/portals/{portal}/authorization/poll", post(poll))
}

async fn begin(
    Extract(control): Extract<Control>,
    Extension(peer): Extension<Peer>,
    UrlPath(portal): UrlPath<String>,
    body: Result<String, StringRejection>,
) -> Result<Response, ApiError> {
    control.may_change(peer)?;
    let BeginRequest { redirect_uri } = parse(body)?;
    if redirect_uri.as_deref().is_some_and(|uri| !is_loopback(uri)) {
        let message =
            "redirect_uri must be http on this machine; write any other into the configuration";
        return Err(ApiError::bad_request(message));
    }
    let begun = authorize::begin(control.shared(), &portal, redirect_uri).await?;
    Ok(axum::Json(begun).into_response())
}

async fn answer(
    Extract(control): Extract<Control>,
    Extension(peer): Extension<Peer>,
    UrlPath(portal): UrlPath<String>,
    body: Result<String, StringRejection>,
) -> Result<Response, ApiError> {
    control.may_change(peer)?;
    let AnswerRequest { answer } = parse(body)?;
    let shared = Arc::clone(&control.shared);
    // The code can be used once: a disconnecting caller must not cancel the exchange.
    let change = async move {
        let generation = authorize::answer(&shared, &portal, &answer).await?;
        Ok(authorized(&shared, &portal, generation).await?)
    };
    Ok(axum::Json(control.change(change).await?).into_response())
}

async fn poll(
    Extract(control): Extract<Control>,
    Extension(peer): Extension<Peer>,
    UrlPath(portal): UrlPath<String>,
    body: Result<String, StringRejection>,
) -> Result<Response, ApiError> {
    control.may_change(peer)?;
    let PollRequest { state } = parse(body)?;
    let shared = Arc::clone(&control.shared);
    let change = async move {
        match authorize::poll(&shared, &portal, &state).await? {
            Polled::Pending(again_in) => {
                Ok(json!({"portal": portal, "outcome": "pending", "again_in": again_in.as_secs()}))
            }
            Polled::Authorized(generation) => Ok(authorized(&shared, &portal, generation).await?),
        }
    };
    Ok(axum::Json(control.change(change).await?).into_response())
}

fn parse<T: DeserializeOwned>(body: Result<String, StringRejection>) -> Result<T, ApiError> {
    let body = body.map_err(|rejection| ApiError::of_body(ErrorCode::BadRequest, &rejection))?;
    let body = if body.trim().is_empty() { "{}" } else { &body };
    // serde_json's own message may quote the body.
    serde_json::from_str(body).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        let message = format!(
            "the body is not the JSON that is expected here (line {line}, column {column})"
        );
        ApiError::bad_request(message)
    })
}

fn is_loopback(uri: &str) -> bool {
    let Ok(url) = url::Url::parse(uri) else {
        return false;
    };
    let loopback = url.host_str().is_some_and(is_loopback_host);
    loopback && url.scheme() == "http" && url.username().is_empty()
}
