//! Errors of operations that commands request.

use crate::adapters::state::StateError;
use crate::domain::authorization::AnswerError;
use crate::domain::import::ImportError;
use crate::domain::name::PortalName;
use crate::domain::portal::Kind;

/// Error of an operation. `Display` is for an operator.
#[derive(Debug, thiserror::Error)]
pub enum OperationError {
    /// The configuration does not name the portal.
    #[error("no portal is named {name}{}", suggestion.as_ref().map(|other| format!("; did you mean {other}?")).unwrap_or_default())]
    UnknownPortal {
        /// The requested name.
        name: String,
        /// The nearest existing name.
        suggestion: Option<String>,
    },
    /// The portal has no usable grant.
    #[error("{portal} has no usable grant ({}): {action}", kind.as_str())]
    NoGrant {
        /// The portal.
        portal: PortalName,
        /// Its present phase.
        kind: Kind,
        /// Recommended action.
        action: String,
    },
    /// The token must be renewed first, and this is a copy of the state.
    #[error("{portal}: its token must be renewed first")]
    NeedsRenewal {
        /// The portal.
        portal: PortalName,
    },
    /// A temporary failure; retry later.
    #[error("{portal}: {reason}")]
    NotNow {
        /// The portal.
        portal: PortalName,
        /// The cause.
        reason: String,
    },
    /// The grant was rejected.
    #[error("{portal}: not accepted: {reason}")]
    Refused {
        /// The portal.
        portal: PortalName,
        /// The cause.
        reason: String,
    },
    /// The portal cannot be authorized in a browser.
    #[error("{portal} is not authorized in a browser: {reason}")]
    NoAuthorization {
        /// The portal.
        portal: PortalName,
        /// The cause.
        reason: String,
    },
    /// The provider does not support the operation.
    #[error("{portal}: {reason}")]
    NotThere {
        /// The portal.
        portal: PortalName,
        /// The missing feature.
        reason: String,
    },
    /// The redirect of the browser is no authorization response.
    #[error("{portal}: not authorized")]
    NotAnAnswer {
        /// The portal.
        portal: PortalName,
        /// The cause.
        source: AnswerError,
    },
    /// The authorization server rejected the code.
    #[error("{portal}: not authorized: {reason}")]
    CodeRefused {
        /// The portal.
        portal: PortalName,
        /// The server's error.
        reason: String,
    },
    /// The text is not a grant.
    #[error("{portal}: not accepted")]
    NotAGrant {
        /// The portal.
        portal: PortalName,
        /// The cause.
        source: ImportError,
    },
    /// The state has no such item.
    #[error("{portal}: {what}")]
    NothingKept {
        /// The portal.
        portal: PortalName,
        /// The missing item.
        what: String,
    },
    /// An error of the state.
    #[error("the state could not be used")]
    State(#[from] StateError),
}
