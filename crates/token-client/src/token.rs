//! A pair of tokens and what came with it. Must not know how it is stored or published.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use super::lifetime::{LIFETIME_RANGE, believable};
use super::refresh_end::RefreshEnd;
use refreshd_secrets::{AccessToken, RefreshToken};
use refreshd_time::Timestamp;

/// Counts the pairs of a portal: one up with each renewal or import, never back.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl Generation {
    /// The one after this.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl std::fmt::Display for Generation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// An access token and how long it lives.
#[derive(Clone, Debug)]
pub struct Access {
    /// The token itself.
    pub token: AccessToken,
    /// As the server named it, with the usual capital: `Bearer`.
    pub token_type: String,
    /// When the request that brought it was sent: the life is counted from before the server's own count.
    pub issued_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
}

impl Access {
    /// Its whole life.
    #[must_use]
    pub fn lifetime(&self) -> Duration {
        self.expires_at.since(self.issued_at)
    }
}

/// What else a reply said that readers need. Holds no secret.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Details {
    /// The granted scope; empty if the server did not say.
    pub scope: Vec<String>,
    /// Where the API is (Bitrix24: `client_endpoint`).
    pub endpoint: Option<String>,
    /// The profile's further fields, as received.
    pub fields: BTreeMap<String, serde_json::Value>,
}

impl Details {
    /// With what a reply does not say again, as it was before: the scope (RFC 6749 section 5.1), the API's address, and the
    /// fields that only the redirect of the authorization said.
    #[must_use]
    pub fn with(mut self, before: &Self, redirect_fields: &[String]) -> Self {
        if self.scope.is_empty() {
            self.scope.clone_from(&before.scope);
        }
        if self.endpoint.is_none() {
            self.endpoint.clone_from(&before.endpoint);
        }
        for field in redirect_fields {
            if let Some(value) = before.fields.get(field) {
                self.fields
                    .entry(field.clone())
                    .or_insert_with(|| value.clone());
            }
        }
        self
    }
}

/// What buys the next access token.
#[derive(Clone, Debug)]
pub enum Credential {
    /// A refresh token (RFC 6749 section 6).
    Refresh(RefreshToken),
    /// The client's own id and secret (RFC 6749 section 4.4).
    Client,
}

impl Credential {
    /// The refresh token, if it is one.
    #[must_use]
    pub const fn refresh(&self) -> Option<&RefreshToken> {
        match self {
            Self::Refresh(token) => Some(token),
            Self::Client => None,
        }
    }
}

/// One grant's tokens. A grant that was imported as a bare refresh token has no access token yet.
#[derive(Clone, Debug)]
pub struct Tokens {
    /// What readers use.
    pub access: Option<Access>,
    /// What buys the next pair.
    pub credential: Credential,
    /// What else the server said.
    pub details: Details,
    /// What it said of how long they are good for, besides the access token's end.
    pub validity: Validity,
}

/// What is known of a grant's lives besides the access token's end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Validity {
    /// The refresh token's own end; `None`: it has none, or the server does not say.
    pub refresh: Option<RefreshEnd>,
    /// What the newest reply said of lives and could not be read, in words for people.
    pub notice: Option<String>,
}
