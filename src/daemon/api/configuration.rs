//! Routes of the configuration: reload it, and show what only a restart changes.
//!
//! Must not decide: the reloader does. Only root and the daemon's own user may reload.

use std::sync::Arc;

use axum::extract::State as Extract;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use serde_json::{Value, json};

use crate::config::{ConfigFinding, FindingSeverity, restart_values};
use crate::daemon::api::control::Control;
use crate::daemon::api::error::{ApiError, ErrorCode};
use crate::daemon::api::peer::Peer;
use crate::daemon::startup::reload::ReloadError;
use crate::domain::error_chain::error_chain;

pub(crate) fn routes() -> Router<Control> {
    Router::new()
        .route("/v1/configuration", get(show))
        .route("/v1/reload", post(reload))
}

/// The file of the daemon, and the values that a reload does not change.
async fn show(Extract(control): Extract<Control>) -> Response {
    let config = control.shared.config();
    Json(json!({
        "config": config.source,
        "restart_values": restart_values(&config),
        "old_configuration": control.shared.health.has_old_configuration(),
    }))
    .into_response()
}

async fn reload(
    Extract(control): Extract<Control>,
    Extension(peer): Extension<Peer>,
) -> Result<Response, ApiError> {
    control.may_change(peer)?;
    let Some(reloader) = control.reloader.clone() else {
        return Err(ApiError::new(ErrorCode::NotNow, "no daemon runs"));
    };
    let shared = Arc::clone(&control.shared);
    let reload = async move { reloader.reload(&shared).await.map_err(ApiError::from) };
    let done = control.change(reload).await?;
    let mut reply = json!(done);
    if let Value::Object(reply) = &mut reply {
        reply.insert("reloaded".to_owned(), true.into());
    }
    Ok(Json(reply).into_response())
}

impl From<ReloadError> for ApiError {
    fn from(error: ReloadError) -> Self {
        let code = match &error {
            ReloadError::Configuration(_) | ReloadError::Incomplete(_) => ErrorCode::Configuration,
            ReloadError::Busy | ReloadError::NotRead(_) | ReloadError::Stopping => {
                ErrorCode::NotNow
            }
            ReloadError::State(_) => ErrorCode::State,
            ReloadError::Bug => ErrorCode::Bug,
        };
        let findings = match &error {
            ReloadError::Configuration(problems) => {
                let found = |problem| ConfigFinding::at(FindingSeverity::Error, problem);
                problems.0.iter().map(found).collect()
            }
            _ => Vec::new(),
        };
        Self::new(code, error_chain(&error)).with_findings(findings)
    }
}
