//! Why an operation that a command asks for was not done.

use crate::adapters::state::StateError;
use crate::domain::authorization::AnswerError;
use crate::domain::import::ImportError;
use crate::domain::name::PortalName;
use crate::domain::portal::Kind;

/// Why an operation was not done. `Display` is for an operator.
#[derive(Debug, thiserror::Error)]
pub enum OperationError {
    /// The configuration does not name it.
    #[error("no portal is named {name}{}", suggestion.as_ref().map(|other| format!("; did you mean {other}?")).unwrap_or_default())]
    UnknownPortal {
        /// What was asked for.
        name: String,
        /// The nearest name there is.
        suggestion: Option<String>,
    },
    /// There is no grant to use.
    #[error("{portal} has no usable grant ({}): {action}", kind.as_str())]
    NoGrant {
        /// The portal.
        portal: PortalName,
        /// What it has instead.
        kind: Kind,
        /// What to do.
        action: String,
    },
    /// Its token must be renewed first, and this is a copy of the state.
    #[error("{portal}: its token must be renewed first")]
    NeedsRenewal {
        /// The portal.
        portal: PortalName,
    },
    /// It did not work now; it may later.
    #[error("{portal}: {reason}")]
    NotNow {
        /// The portal.
        portal: PortalName,
        /// Why not.
        reason: String,
    },
    /// The grant was refused.
    #[error("{portal}: not taken in: {reason}")]
    Refused {
        /// The portal.
        portal: PortalName,
        /// Why not.
        reason: String,
    },
    /// Nobody can authorize it.
    #[error("{portal} is not authorized in a browser: {reason}")]
    NoAuthorization {
        /// The portal.
        portal: PortalName,
        /// Why not.
        reason: String,
    },
    /// Its provider does not do this.
    #[error("{portal}: {reason}")]
    NotThere {
        /// The portal.
        portal: PortalName,
        /// What is missing.
        reason: String,
    },
    /// What came back from the browser is no answer.
    #[error("{portal}: not authorized")]
    NotAnAnswer {
        /// The portal.
        portal: PortalName,
        /// Why not.
        source: AnswerError,
    },
    /// The authorization server refused.
    #[error("{portal}: not authorized: {reason}")]
    CodeRefused {
        /// The portal.
        portal: PortalName,
        /// What it said.
        reason: String,
    },
    /// The text was no grant.
    #[error("{portal}: not taken in")]
    NotAGrant {
        /// The portal.
        portal: PortalName,
        /// Why not.
        source: ImportError,
    },
    /// The state has no such reply.
    #[error("{portal}: {what}")]
    NothingKept {
        /// The portal.
        portal: PortalName,
        /// What is not there.
        what: String,
    },
    /// The state said no.
    #[error("the state could not be used")]
    State(#[from] StateError),
}
