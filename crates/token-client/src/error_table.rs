//! Error classes, and the rows of a provider's ordered error table.
//!
//! Must not decide what happens next: the renewal does.

use serde_json::{Map, Value};

use super::quirks::{JsonPath, is_value};

/// Class of a failed token request. It decides what happens next.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    serde::Serialize,
    serde::Deserialize,
    strum::IntoStaticStr,
    strum::EnumString,
    strum::VariantArray,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Class {
    /// The request did not leave this machine.
    NotSent,
    /// The server is unavailable at present.
    Transient,
    /// The request was sent and its outcome is unknown.
    InDoubt,
    /// The server rejects the client, not the grant.
    ClientRejected,
    /// The grant is valid, but a payment or a permission is missing.
    Blocked,
    /// The grant is dead.
    NeedsAuthorization,
    /// The app was removed from the portal.
    Gone,
    /// The server refuses to renew before a later time.
    TooEarly,
    /// None of these.
    Unknown,
}

impl Class {
    /// Name in profiles, logs and JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// One row of a profile's error table. The first row whose given conditions all match applies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorRule {
    /// HTTP statuses; empty matches any.
    pub status: Vec<u16>,
    /// `error` codes, case-insensitive; empty matches any reply.
    pub error: Vec<String>,
    /// Part of `error_description`, case-insensitive; empty matches any.
    pub description: String,
    /// Further members of the reply, each of which must have one of these values.
    pub also: Vec<(JsonPath, Vec<String>)>,
    /// Resulting class.
    pub class: Class,
    /// Meaning, as a sentence for an operator.
    pub meaning: Option<String>,
    /// Remedy; the caller fills in the placeholders.
    pub remedy: Option<String>,
}

impl ErrorRule {
    /// Returns whether this row matches a reply; `body` is `None` if it is not a JSON object.
    #[must_use]
    pub fn matches(
        &self,
        status: u16,
        error: &str,
        description: &str,
        body: Option<&Map<String, Value>>,
    ) -> bool {
        let holds = |(place, wanted): &(JsonPath, Vec<String>)| {
            body.and_then(|body| place.find(body))
                .is_some_and(|value| wanted.iter().any(|wanted| is_value(value, wanted)))
        };
        (self.status.is_empty() || self.status.contains(&status))
            && (self.error.is_empty()
                || self
                    .error
                    .iter()
                    .any(|code| code.eq_ignore_ascii_case(error)))
            && description
                .to_lowercase()
                .contains(&self.description.to_lowercase())
            && self.also.iter().all(holds)
    }
}
