//! Why a text is no grant.

use serde_json::{Map, Value};

use refreshd_secrets::mask::mask;
use refreshd_token_client::body_decoding::MAX_BODY_BYTES;
use refreshd_token_client::quirks::means_no_error;
use refreshd_token_client::reply::SECRET_FIELDS;

/// Longest text read as a grant, in bytes: a whole reply, as it may be kept.
pub const MAX_LENGTH: usize = MAX_BODY_BYTES;

/// Why a text is no grant. Never quotes a value of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    /// Nothing there.
    #[error("there is nothing in it")]
    Empty,
    /// Over [`MAX_LENGTH`].
    #[error("it is longer than {MAX_LENGTH} bytes")]
    TooLong,
    /// Starts like JSON and is not.
    #[error("it begins like JSON but is none (line {line}, column {column})")]
    NotJson {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
    },
    /// Neither an object nor a word that could be a token: what it is instead.
    #[error("{0}")]
    NotAToken(&'static str),
    /// Its refresh token cannot be one: what it is instead.
    #[error("its refresh_token is none: {0}")]
    NotARefreshToken(&'static str),
    /// An error reply was saved instead of a token reply.
    #[error("it is an error reply of the authorization server ({0}), not a token")]
    ErrorReply(String),
    /// No refresh token: nothing to keep fresh.
    #[error(
        "it has {}no {wanted}, and without one there is nothing to renew with",
        has.as_ref().map(|has| format!("{has} but ")).unwrap_or_default()
    )]
    NoRefreshToken {
        /// A key of a grant that is there.
        has: Option<String>,
        /// The key that is missing.
        wanted: String,
    },
    /// The key is there and nothing in it.
    #[error("its {0} is empty, and without a refresh token there is nothing to renew with")]
    EmptyRefreshToken(String),
    /// Two grants in one text.
    #[error("it has several refresh tokens that differ; hand over the one grant that is meant")]
    Several,
}

/// Refuses an error reply that was saved instead of a token reply.
pub(super) fn is_no_error(body: &Map<String, Value>) -> Result<(), ImportError> {
    let error = body
        .get("error")
        .filter(|error| !means_no_error(error))
        .and_then(Value::as_str);
    let Some(code) = error.filter(|code| {
        !["ok", "success"]
            .iter()
            .any(|word| word.eq_ignore_ascii_case(code))
    }) else {
        return Ok(());
    };
    let secrets: Vec<_> = SECRET_FIELDS
        .iter()
        .filter_map(|field| body.get(*field)?.as_str())
        .collect();
    Err(ImportError::ErrorReply(mask(code, &secrets)))
}
