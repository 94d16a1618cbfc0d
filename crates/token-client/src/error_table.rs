//! What a refusal means: the classes, and the rows of a provider's ordered table that name them.
//!
//! Must not decide what happens next: that is `renewal`.

use serde_json::{Map, Value};

use super::quirks::{JsonPath, is_value};

/// What a failed token request means, and so what happens next.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// The request did not leave this machine.
    NotSent,
    /// The server cannot answer now.
    Transient,
    /// The request left and its outcome is not known.
    InDoubt,
    /// The server refuses the client, not the grant.
    ClientRejected,
    /// The grant is alive, but somebody must pay or allow something first.
    Blocked,
    /// The grant is dead.
    NeedsAuthorization,
    /// The app was removed from the portal.
    Gone,
    /// The server renews only later.
    TooEarly,
    /// None of these.
    Unknown,
}

impl Class {
    /// Every class, for metrics that start at zero.
    pub const ALL: [Self; 9] = [
        Self::NotSent,
        Self::Transient,
        Self::InDoubt,
        Self::ClientRejected,
        Self::Blocked,
        Self::NeedsAuthorization,
        Self::Gone,
        Self::TooEarly,
        Self::Unknown,
    ];

    /// As written in profiles, logs and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotSent => "not-sent",
            Self::Transient => "transient",
            Self::InDoubt => "in-doubt",
            Self::ClientRejected => "client-rejected",
            Self::Blocked => "blocked",
            Self::NeedsAuthorization => "needs-authorization",
            Self::Gone => "gone",
            Self::TooEarly => "too-early",
            Self::Unknown => "unknown",
        }
    }

    /// The class of that name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.as_str() == text)
    }
}

/// One row of a profile's error table. The first row whose given parts all match decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorRule {
    /// HTTP statuses; empty matches any.
    pub status: Vec<u16>,
    /// `error` codes, compared without case; empty matches any reply.
    pub error: Vec<String>,
    /// A part of `error_description`, compared without case; empty matches any.
    pub description: String,
    /// Places of the reply, each of which must hold one of its values.
    pub also: Vec<(JsonPath, Vec<String>)>,
    /// What it means.
    pub class: Class,
    /// The same in a sentence for an operator.
    pub meaning: Option<String>,
    /// What mends it, with names left open for the caller to fill in.
    pub remedy: Option<String>,
}

impl ErrorRule {
    /// Whether this row is about this reply; `body` is `None` where it is no JSON object.
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
