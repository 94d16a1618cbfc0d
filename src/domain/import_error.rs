//! Errors of the import parser.

use serde_json::{Map, Value};

use refreshd_secrets::mask::mask;
use refreshd_token_client::body_decoding::MAX_BODY_BYTES;
use refreshd_token_client::quirks::means_no_error;
use refreshd_token_client::reply::SECRET_FIELDS;

/// Maximum length of an imported text, in bytes: a whole stored response.
pub const MAX_LENGTH: usize = MAX_BODY_BYTES;

/// Why a text is not a grant. Never quotes a value of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    /// Empty input.
    #[error("there is nothing in it")]
    Empty,
    /// Over [`MAX_LENGTH`].
    #[error("it is longer than {MAX_LENGTH} bytes")]
    TooLong,
    /// Invalid JSON.
    #[error("it begins like JSON but is none (line {line}, column {column})")]
    NotJson {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
    },
    /// Neither an object nor a possible token; a description of the input.
    #[error("{0}")]
    NotAToken(&'static str),
    /// Not a possible refresh token; a description of the value.
    #[error("its refresh_token is none: {0}")]
    NotARefreshToken(&'static str),
    /// A saved error response.
    #[error("it is an error reply of the authorization server ({0}), not a token")]
    ErrorReply(String),
    /// No refresh token: there is nothing to renew with.
    #[error(
        "it has {}no {wanted}, and without one there is nothing to renew with",
        has.as_ref().map(|has| format!("{has} but ")).unwrap_or_default()
    )]
    NoRefreshToken {
        /// A key of a grant that is present.
        has: Option<String>,
        /// The missing key.
        wanted: String,
    },
    /// The key is present and its value is empty.
    #[error("its {0} is empty, and without a refresh token there is nothing to renew with")]
    EmptyRefreshToken(String),
    /// A stored response of the portal, in which no single pair can be found.
    #[error(
        "{cause}. It is a reply that refreshd keeps, and it stays: refreshd recover {portal} shows details, and parses it again once \
         the profile has the places of the tokens. If you see one pair in it, import that JSON object alone"
    )]
    KeptReply {
        /// The unreadable part.
        cause: Box<Self>,
        /// The portal.
        portal: String,
    },
    /// Several grants in one text.
    #[error("it has several refresh tokens that differ; import a single grant")]
    Several,
}

/// Rejects a saved error response.
pub(super) fn reject_error_reply(body: &Map<String, Value>) -> Result<(), ImportError> {
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
