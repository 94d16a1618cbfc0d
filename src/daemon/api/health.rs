//! Route of the daemon's health.

use axum::extract::State as Extract;
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};

use crate::daemon::api::control::Control;
use crate::daemon::readiness;

/// Health of the daemon.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HealthView {
    /// Whether the scheduler made progress within the last minute.
    pub live: bool,
    /// Whether there is no problem.
    pub ready: bool,
    /// Reasons why it is not ready.
    pub problems: Vec<String>,
}

/// Routes of health.
pub(crate) fn routes() -> Router<Control> {
    Router::new().route("/v1/health", get(show))
}

async fn show(Extract(control): Extract<Control>) -> Json<HealthView> {
    let shared = control.shared();
    let problems = readiness::problems(shared).await;
    Json(HealthView {
        live: shared.health.is_live(),
        ready: problems.is_empty(),
        problems,
    })
}
