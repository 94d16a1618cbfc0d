//! JSON of outcomes: for the socket, and for `--json` of the commands.

use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::daemon::context::Context;
use crate::daemon::grants::error::OperationError;
use crate::daemon::grants::import::ImportOutcome;
use crate::daemon::grants::operations::{self, RenewalResult};
use crate::daemon::grants::portal_view::PortalView;
use crate::domain::candidate::ImportResult;
use refreshd_token_client::token::Generation;

/// Outcome of `renew`.
#[must_use]
pub fn outcome_json(renewal: &RenewalResult, view: &PortalView, reply: Option<&Value>) -> Value {
    let (outcome, detail) = match renewal {
        RenewalResult::FreshAlready { not_before } => (
            "fresh-already",
            Some(format!("not again before {not_before}")),
        ),
        RenewalResult::Ended(report) => match &report.failure {
            None if report.set_aside => ("set-aside", None),
            None => ("renewed", None),
            Some((class, detail)) => (class.as_str(), Some(detail.clone())),
        },
    };
    json!({"portal": view.portal, "outcome": outcome, "detail": detail, "reply": reply, "status": view})
}

pub(crate) const fn status_of(imported: &ImportOutcome) -> StatusCode {
    match imported.proof {
        ImportResult::Imported | ImportResult::Superseded => StatusCode::OK,
        ImportResult::Refused { .. } => StatusCode::CONFLICT,
        ImportResult::Waits { .. } => StatusCode::ACCEPTED,
    }
}

/// Outcome of `import`.
#[must_use]
pub fn imported_json(imported: &ImportOutcome, view: &PortalView) -> Value {
    let ImportOutcome {
        proof,
        generation,
        had_grant,
    } = imported;
    let (outcome, detail, again_at) = match proof {
        ImportResult::Imported => ("renewed", None, None),
        ImportResult::Refused { why, .. } => ("refused", Some(why), None),
        ImportResult::Waits {
            problem,
            next_attempt_at,
        } => ("pending", Some(problem), *next_attempt_at),
        ImportResult::Superseded => ("superseded", None, None),
    };
    json!({
        "portal": view.portal, "outcome": outcome, "generation": generation.0, "detail": detail,
        "again_at": again_at.map(|at| at.to_string()), "kept": *had_grant && !matches!(proof, ImportResult::Imported),
        "identity": view.identity, "endpoint": view.endpoint, "status": view,
    })
}

/// Outcome of an authorization.
///
/// # Errors
/// As `find`.
pub async fn authorized(
    shared: &Context,
    portal: &str,
    generation: Generation,
) -> Result<Value, OperationError> {
    let (view, reply) = operations::outcome(shared, portal).await?;
    Ok(json!({
        "portal": portal, "outcome": "authorized", "generation": generation.0, "reply": reply, "status": view,
    }))
}

/// Outcome of a recovery.
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
