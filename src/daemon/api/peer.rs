//! Who is at the other end of the control socket, what they may do, and how they are told that something was not done.
//!
//! Must not know any route.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tokio::net::UnixStream;

use crate::daemon::grants::error::OperationError;
use crate::daemon::http::server::PeerExtensions;
use crate::domain::error_chain::error_chain;

/// Who is at the other end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    uid: Option<u32>,
}

impl Peer {
    fn of(stream: &UnixStream) -> Self {
        Self {
            uid: stream.peer_cred().ok().map(|credentials| credentials.uid()),
        }
    }

    pub(crate) fn peer_extensions(stream: &UnixStream) -> PeerExtensions {
        let mut introduction = PeerExtensions::new();
        introduction.insert(Self::of(stream));
        introduction
    }

    /// Places are kept for who may change something.
    pub(crate) fn is_important(stream: &UnixStream) -> bool {
        Self::of(stream).may_change().is_ok()
    }

    /// Root, or the user this daemon runs as.
    pub(crate) fn may_change(self) -> Result<(), ApiError> {
        let own = rustix::process::geteuid().as_raw();
        if self.uid.is_some_and(|uid| uid == 0 || uid == own) {
            return Ok(());
        }
        let message = "only root and refreshd's own user may do this; try it with sudo";
        Err(ApiError::new(
            StatusCode::FORBIDDEN,
            "not-permitted",
            message,
        ))
    }
}

/// Told to whoever finds every place taken.
pub(crate) fn busy() -> Response {
    let message =
        "the daemon is busy: every place of its control socket is taken; try again in a moment";
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message).into_response()
}

/// A refusal as JSON: `{"error": {"code": …, "message": …}}`.
pub(crate) struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
        }
    }

    /// Too many do that now.
    pub(crate) fn busy(what: &str) -> Self {
        let message = format!("the daemon is busy: {what}; try again in a moment");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let Self {
            status,
            code,
            message,
        } = self;
        (
            status,
            axum::Json(json!({"error": {"code": code, "message": message}})),
        )
            .into_response()
    }
}

impl From<OperationError> for ApiError {
    fn from(error: OperationError) -> Self {
        let (status, code) = match &error {
            OperationError::UnknownPortal { .. } => (StatusCode::NOT_FOUND, "unknown-portal"),
            OperationError::NoGrant { .. } => (StatusCode::CONFLICT, "no-grant"),
            OperationError::NotNow { .. } => (StatusCode::SERVICE_UNAVAILABLE, "not-now"),
            OperationError::Refused { .. } => (StatusCode::CONFLICT, "refused"),
            OperationError::NotAGrant { .. } => (StatusCode::BAD_REQUEST, "not-a-grant"),
            OperationError::NoAuthorization { .. } => (StatusCode::CONFLICT, "no-authorization"),
            OperationError::NotThere { .. } => (StatusCode::CONFLICT, "not-there"),
            OperationError::NotAnAnswer { .. } => (StatusCode::BAD_REQUEST, "not-an-answer"),
            OperationError::CodeRefused { .. } => (StatusCode::CONFLICT, "code-refused"),
            OperationError::NothingKept { .. } => (StatusCode::NOT_FOUND, "nothing-kept"),
            OperationError::State(_) => (StatusCode::SERVICE_UNAVAILABLE, "state"),
        };
        Self::new(status, code, error_chain(&error))
    }
}
