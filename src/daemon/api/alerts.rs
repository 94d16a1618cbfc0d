//! Routes of alerts: list, silence, acknowledge, test.
//!
//! Must not decide: `alert_views` does.

use std::time::Duration;

use axum::extract::rejection::StringRejection;
use axum::extract::{Path as UrlPath, State as Extract};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use serde::Deserialize;
use serde_json::json;

use crate::daemon::alerts::alert_views;
use crate::daemon::alerts::test_channels::test_channels;
use crate::daemon::api::control::Control;
use crate::daemon::api::error::{ApiError, ErrorCode};
use crate::daemon::api::peer::Peer;
use crate::daemon::grants::error::OperationError;

/// A longer silence is taken for a mistake.
const MAX_SILENCE: Duration = Duration::from_secs(30 * 86_400);

/// Routes of alerts.
pub(crate) fn routes() -> Router<Control> {
    Router::new()
        .route("/v1/alerts", get(show))
        .route("/v1/alerts/acknowledge", post(acknowledge))
        .route("/v1/alerts/test", post(test))
        .route(
            "/v1/portals/{portal}/silence",
            post(silence).delete(end_silence),
        )
        .route("/v1/silence", post(silence_all).delete(end_silence_of_all))
}

async fn show(Extract(control): Extract<Control>) -> Result<Response, ApiError> {
    let report = alert_views::report(control.shared())
        .await
        .map_err(OperationError::from)?;
    Ok(Json(report).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Silence {
    /// A duration such as `2h`.
    r#for: String,
}

/// The body as text, whatever its content type: curl sends a form's.
type Body = Result<String, StringRejection>;

fn parse<T: serde::de::DeserializeOwned>(body: Body) -> Result<T, ApiError> {
    let body = body.map_err(|rejection| ApiError::bad_request(rejection.body_text()))?;
    serde_json::from_str(&body)
        .map_err(|error| ApiError::bad_request(format!("the body is not as expected: {error}")))
}

fn span(body: Body) -> Result<Duration, ApiError> {
    let Silence { r#for: text } = parse(body)?;
    let span = humantime::parse_duration(text.trim()).map_err(|error| {
        ApiError::bad_request(format!("`for` is no duration such as 2h: {error}"))
    })?;
    if span.is_zero() || span > MAX_SILENCE {
        return Err(ApiError::bad_request(
            "`for` must be more than nothing and at most 30 days",
        ));
    }
    Ok(span)
}

async fn silence(
    Extract(control): Extract<Control>,
    Extension(peer): Extension<Peer>,
    UrlPath(portal): UrlPath<String>,
    body: Body,
) -> Result<Response, ApiError> {
    change(&control, peer, portal, Some(span(body)?)).await
}

async fn end_silence(
    Extract(control): Extract<Control>,
    Extension(peer): Extension<Peer>,
    UrlPath(portal): UrlPath<String>,
) -> Result<Response, ApiError> {
    change(&control, peer, portal, None).await
}

async fn silence_all(
    Extract(control): Extract<Control>,
    Extension(peer): Extension<Peer>,
    body: Body,
) -> Result<Response, ApiError> {
    change(
        &control,
        peer,
        alert_views::EVERYTHING.to_owned(),
        Some(span(body)?),
    )
    .await
}

async fn end_silence_of_all(
    Extract(control): Extract<Control>,
    Extension(peer): Extension<Peer>,
) -> Result<Response, ApiError> {
    change(&control, peer, alert_views::EVERYTHING.to_owned(), None).await
}

async fn change(
    control: &Control,
    peer: Peer,
    portal: String,
    span: Option<Duration>,
) -> Result<Response, ApiError> {
    control.may_change(peer)?;
    let until = alert_views::silence(control.shared(), &portal, span).await?;
    Ok(Json(json!({"portal": portal, "until": until})).into_response())
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Test {
    /// Default: every channel.
    channel: Option<String>,
}

/// The caller waits for the result. Disconnecting cancels the test, and ends the program that was started for it.
async fn test(
    Extract(control): Extract<Control>,
    Extension(peer): Extension<Peer>,
    body: Body,
) -> Result<Response, ApiError> {
    control.may_change(peer)?;
    let Test { channel } = match body {
        Ok(empty) if empty.trim().is_empty() => Test::default(),
        body => parse(body)?,
    };
    let shared = control.shared();
    let (config, now) = (shared.config(), shared.clock.now());
    let tests = test_channels(
        &shared.notifier(),
        &config.channels,
        channel.as_deref(),
        now,
    )
    .await;
    let tests = tests.map_err(|unknown| ApiError::new(ErrorCode::UnknownChannel, unknown))?;
    Ok(Json(json!({ "tests": tests })).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Acknowledge {
    /// An incident's key, or a portal's name.
    incident: String,
}

async fn acknowledge(
    Extract(control): Extract<Control>,
    Extension(peer): Extension<Peer>,
    body: Body,
) -> Result<Response, ApiError> {
    control.may_change(peer)?;
    let Acknowledge { incident } = parse(body)?;
    match alert_views::acknowledge(control.shared(), &incident).await {
        0 => {
            let message = format!(
                "no incident is open that is named so, nor one of such a portal: {incident}"
            );
            Err(ApiError::new(ErrorCode::UnknownIncident, message))
        }
        count => Ok(Json(json!({"incident": incident, "acknowledged": count})).into_response()),
    }
}
