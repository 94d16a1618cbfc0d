//! What went wrong with a token request: the class, the server's code and words, what mends it.

use serde::{Deserialize, Serialize};

use crate::error_table::Class;
use refreshd_time::Timestamp;

/// What went wrong last, in words fit for a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What it means.
    pub class: Class,
    /// The server's `error` code, if it gave one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// A sentence: the profile's meaning of the code, or the server's own words, masked.
    pub detail: String,
    /// What mends it, by the profile, with names left open: the caller fills them in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// The server's own words, masked, where `detail` is not made of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub said: Option<String>,
    /// The page that the server names for this error (RFC 6749 section 5.2): an http or https URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_uri: Option<String>,
    /// The server wants to be left alone until after the access token's end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_to_wait: Option<AskedToWait>,
    /// The refused client works for so many other portals of the app: the refusal is this portal's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub works_for: Option<u64>,
}

/// A server's wish (`Retry-After`) that goes beyond the end of the access token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskedToWait {
    /// The authorization server's host.
    pub by: String,
    /// Until when.
    pub until: Timestamp,
    /// When the access token ends.
    pub token_ends: Timestamp,
}

impl Problem {
    /// One that no row of a profile is about.
    #[must_use]
    pub const fn new(class: Class, detail: String) -> Self {
        Self {
            class,
            code: None,
            detail,
            remedy: None,
            said: None,
            error_uri: None,
            asked_to_wait: None,
            works_for: None,
        }
    }

    /// The code, what it means, and what the server said besides, as far as there is any of it.
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

    /// What the server said besides the code, as far as it said anything.
    #[must_use]
    pub fn more(&self) -> Option<String> {
        let said = self
            .said
            .as_ref()
            .map(|said| format!("the server says: {said}"));
        let uri = self.error_uri.as_ref().map(|uri| format!("see {uri}"));
        let wait = self.asked_to_wait.as_ref().map(|AskedToWait { by, until, token_ends }| {
            format!(
                "{by} asks to wait until {until} (Retry-After), which is after the token's end at {token_ends}"
            )
        });
        let parts: Vec<_> = [said, uri, wait].into_iter().flatten().collect();
        (!parts.is_empty()).then(|| parts.join("; "))
    }
}
