//! A pair of tokens with its metadata. Must not know how it is stored or published.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use super::lifetime::{LIFETIME_RANGE, believable};
use super::refresh_end::RefreshEnd;
use refreshd_secrets::{AccessToken, RefreshToken};
use refreshd_time::Timestamp;

/// Counts the pairs of a portal: incremented by each renewal or import, never decreased.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl Generation {
    /// The next generation.
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

/// An access token and its lifetime.
#[derive(Clone, Debug)]
pub struct Access {
    /// The token.
    pub token: AccessToken,
    /// Token type as the server names it, with the usual capital: `Bearer`.
    pub token_type: String,
    /// Sending time of the request: the lifetime is counted from before the server's own count.
    pub issued_at: Timestamp,
    /// Expiry.
    pub expires_at: Timestamp,
}

impl Access {
    /// Lifetime in total.
    #[must_use]
    pub fn lifetime(&self) -> Duration {
        self.expires_at.since(self.issued_at)
    }
}

/// Further parts of a reply that readers need. Contains no secret.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Details {
    /// Granted scope; empty if the server does not report it.
    pub scope: Vec<String>,
    /// Address of the API (Bitrix24: `client_endpoint`).
    pub endpoint: Option<String>,
    /// Further fields of the profile, as received.
    pub fields: BTreeMap<String, serde_json::Value>,
}

impl Details {
    /// Completes the details of a reply with those of the pair before: the scope (RFC 6749 section 5.1), the API's
    /// address, and the fields that only the authorization's redirect contains.
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

/// Credential for the next access token.
#[derive(Clone, Debug)]
pub enum Credential {
    /// A refresh token (RFC 6749 section 6).
    Refresh(RefreshToken),
    /// The client's own id and secret (RFC 6749 section 4.4).
    Client,
}

impl Credential {
    /// Refresh token, if it is one.
    #[must_use]
    pub const fn refresh(&self) -> Option<&RefreshToken> {
        match self {
            Self::Refresh(token) => Some(token),
            Self::Client => None,
        }
    }
}

/// Tokens of one grant. A grant that was imported as a bare refresh token has no access token yet.
#[derive(Clone, Debug)]
pub struct Tokens {
    /// Access token for readers.
    pub access: Option<Access>,
    /// Credential for the next pair.
    pub credential: Credential,
    /// Further parts of the reply.
    pub details: Details,
    /// Validity besides the access token's expiry.
    pub validity: Validity,
}

/// Validity of a grant besides the access token's expiry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Validity {
    /// Expiry of the refresh token; `None`: it has none, or the server does not report it.
    pub refresh: Option<RefreshEnd>,
    /// Unparsable lifetime in the latest reply, in words for people.
    pub notice: Option<String>,
}
