//! Error response of the API: `{"error": {"code": …, "message": …}}`.
//!
//! [`ErrorCode`] is the one table: it determines the HTTP status here, and the exit code of a command in `commands::exit`.

use axum::extract::rejection::{BytesRejection, QueryRejection, StringRejection};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::config::ConfigFinding;
use crate::daemon::grants::error::OperationError;
use crate::domain::error_chain::error_chain;

/// Machine-readable code of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorCode {
    /// The request is malformed.
    BadRequest,
    /// There is no such path.
    NotFound,
    /// The path does not have that method.
    MethodNotAllowed,
    /// The caller has no permission.
    NotPermitted,
    /// Too many requests of this kind are under way.
    Busy,
    /// The configuration names no such portal.
    UnknownPortal,
    /// No such incident is open.
    UnknownIncident,
    /// No such channel is configured.
    UnknownChannel,
    /// No such item is stored.
    NothingKept,
    /// The portal has no usable grant.
    NoGrant,
    /// The token must be renewed, and this is a copy of the state.
    NeedsRenewal,
    /// A temporary failure; retry later.
    NotNow,
    /// The grant was rejected.
    Refused,
    /// The text is not a grant.
    NotAGrant,
    /// This portal has no authorization in a browser.
    NoAuthorization,
    /// The provider does not support this.
    NotThere,
    /// The redirect of the browser is no authorization response.
    NotAnAnswer,
    /// The authorization server rejected the code.
    CodeRefused,
    /// The configuration has problems.
    Configuration,
    /// The state could not be used.
    State,
    /// A bug.
    Bug,
    /// A code of another version.
    #[serde(other)]
    Unknown,
}

impl ErrorCode {
    /// HTTP status of the code.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            Self::BadRequest | Self::NotAGrant | Self::NotAnAnswer => StatusCode::BAD_REQUEST,
            Self::NotFound
            | Self::UnknownPortal
            | Self::UnknownIncident
            | Self::UnknownChannel
            | Self::NothingKept => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::NotPermitted => StatusCode::FORBIDDEN,
            Self::NoGrant
            | Self::NeedsRenewal
            | Self::Refused
            | Self::NoAuthorization
            | Self::NotThere
            | Self::CodeRefused => StatusCode::CONFLICT,
            Self::Configuration => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Busy | Self::NotNow | Self::State => StatusCode::SERVICE_UNAVAILABLE,
            Self::Bug | Self::Unknown => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// An error response.
pub(crate) struct ApiError {
    code: ErrorCode,
    status: StatusCode,
    message: String,
    /// The problems of a configuration, each with its place.
    findings: Vec<ConfigFinding>,
}

impl ApiError {
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            status: code.status(),
            message: message.into(),
            findings: Vec::new(),
        }
    }

    /// With the problems of a configuration.
    pub(crate) fn with_findings(self, findings: Vec<ConfigFinding>) -> Self {
        Self { findings, ..self }
    }

    /// The request is malformed.
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::BadRequest, message)
    }

    /// Too many requests of this kind are under way.
    pub(crate) fn busy(what: &str) -> Self {
        let message = format!("the daemon is busy: {what}; try again in a moment");
        Self::new(ErrorCode::Busy, message)
    }

    /// A body that could not be read: too long, or incomplete.
    pub(crate) fn of_bytes(code: ErrorCode, rejection: &BytesRejection) -> Self {
        Self {
            code,
            status: rejection.status(),
            message: rejection.body_text(),
            findings: Vec::new(),
        }
    }

    /// A body that could not be read as text.
    pub(crate) fn of_body(code: ErrorCode, rejection: &StringRejection) -> Self {
        Self {
            code,
            status: rejection.status(),
            message: rejection.body_text(),
            findings: Vec::new(),
        }
    }
}

impl From<QueryRejection> for ApiError {
    fn from(rejection: QueryRejection) -> Self {
        Self::bad_request(rejection.body_text())
    }
}

impl From<OperationError> for ApiError {
    fn from(error: OperationError) -> Self {
        let code = match &error {
            OperationError::UnknownPortal { .. } => ErrorCode::UnknownPortal,
            OperationError::NoGrant { .. } => ErrorCode::NoGrant,
            OperationError::NeedsRenewal { .. } => ErrorCode::NeedsRenewal,
            OperationError::NotNow { .. } => ErrorCode::NotNow,
            OperationError::Refused { .. } => ErrorCode::Refused,
            OperationError::NotAGrant { .. } => ErrorCode::NotAGrant,
            OperationError::NoAuthorization { .. } => ErrorCode::NoAuthorization,
            OperationError::NotThere { .. } => ErrorCode::NotThere,
            OperationError::NotAnAnswer { .. } => ErrorCode::NotAnAnswer,
            OperationError::CodeRefused { .. } => ErrorCode::CodeRefused,
            OperationError::NothingKept { .. } => ErrorCode::NothingKept,
            OperationError::State(_) => ErrorCode::State,
        };
        Self::new(code, error_chain(&error))
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let Self {
            code,
            status,
            message,
            findings,
        } = self;
        let mut body = json!({"error": {"code": code, "message": message}});
        if !findings.is_empty() {
            body["error"]["findings"] = json!(findings);
        }
        (status, axum::Json(body)).into_response()
    }
}
