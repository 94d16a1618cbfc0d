//! Cause of a failed token request: class, error code, description, remedy.

use serde::{Deserialize, Serialize};

use crate::error_table::Class;
use refreshd_time::Timestamp;

/// Cause of the last failure, in texts that are safe to log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Class of the error.
    pub class: Class,
    /// `error` code of the server, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Description: the profile's meaning of the code, or the server's own words, masked.
    pub detail: String,
    /// Remedy from the profile; the caller fills in the placeholders.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// The server's own words, masked, if `detail` does not consist of them.
    #[serde(rename = "said", default, skip_serializing_if = "Option::is_none")]
    pub server_text: Option<String>,
    /// Link to a page about the error (RFC 6749 section 5.2): an http or https URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_uri: Option<String>,
    /// The server's `Retry-After` exceeds the lifetime of the access token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_to_wait: Option<AskedToWait>,
    /// Number of other portals of the app for which the rejected client works: the rejection is specific to this
    /// portal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub works_for: Option<u64>,
}

/// A `Retry-After` beyond the end of the access token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskedToWait {
    /// Host of the authorization server.
    pub by: String,
    /// Time from `Retry-After`.
    pub until: Timestamp,
    /// Expiry of the access token.
    pub token_ends: Timestamp,
}

impl Problem {
    /// A problem without a row in the profile.
    #[must_use]
    pub const fn new(class: Class, detail: String) -> Self {
        Self {
            class,
            code: None,
            detail,
            remedy: None,
            server_text: None,
            error_uri: None,
            asked_to_wait: None,
            works_for: None,
        }
    }

    /// Code, meaning, and the server's description, as far as they exist.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = match (&self.code, self.detail.as_str()) {
            (Some(code), "") => code.clone(),
            (Some(code), detail) => format!("{code}: {detail}"),
            (None, detail) => detail.to_owned(),
        };
        if let Some(more) = self.more() {
            text.push_str(&format!(" ({more})"));
        }
        text
    }

    /// The server's description besides the code, if there is any.
    #[must_use]
    pub fn more(&self) -> Option<String> {
        let server_text = self
            .server_text
            .as_ref()
            .map(|text| format!("the server says: {text}"));
        let uri = self.error_uri.as_ref().map(|uri| format!("see {uri}"));
        let wait = self.asked_to_wait.as_ref().map(|AskedToWait { by, until, token_ends }| {
            format!(
                "{by} asks to wait until {until} (Retry-After), which is after the token's end at {token_ends}"
            )
        });
        let parts: Vec<_> = [server_text, uri, wait].into_iter().flatten().collect();
        (!parts.is_empty()).then(|| parts.join("; "))
    }
}
