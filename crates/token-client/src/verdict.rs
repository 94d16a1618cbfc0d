//! Input and result of parsing a token endpoint's reply.

use std::time::Duration;

use super::problem::Problem;
use super::token::Details;
use super::token_life::TokenLives;
use refreshd_secrets::{AccessToken, RefreshToken};
use refreshd_time::Timestamp;

/// A reply, as far as it arrived.
#[derive(Clone, Copy, Debug)]
pub struct TokenReply<'a> {
    /// The HTTP status.
    pub status: u16,
    /// Delay in `Retry-After`, if it could be parsed.
    pub retry_after: Option<Duration>,
    /// Time of arrival: the reference for expiries.
    pub now: Timestamp,
    /// The body.
    pub body: &'a [u8],
    /// True if the body is complete. Of a truncated one only self-delimiting content is parsed: an object, but not a
    /// form, whose last value may be truncated.
    pub whole: bool,
}

/// A new pair, as received.
#[derive(Clone, Debug)]
pub struct GrantedTokens {
    /// The new access token.
    pub access: AccessToken,
    /// The new refresh token; `None`: the old one stays in force (RFC 6749 section 6).
    pub refresh: Option<RefreshToken>,
    /// Value in the refresh token's place that is not a token, such as `true` or a lifetime.
    pub odd_refresh: Option<String>,
    /// `Bearer` unless the server sends another type.
    pub token_type: String,
    /// Lifetimes in the reply.
    pub lives: TokenLives,
    /// Owner of the grant, if the profile has a field for it.
    pub identity: Option<String>,
    /// The authorization server for the next renewal, as the reply named it. Not yet checked against the allow-list.
    pub server: Option<String>,
    /// Further parts of the reply for readers.
    pub details: Details,
}

impl GrantedTokens {
    /// Notice about the parts of the reply that could not be parsed.
    #[must_use]
    pub fn notice(&self) -> Option<String> {
        let refresh = self.odd_refresh.as_ref().map(|text| {
            format!(
                "the reply's refresh token is none (\"{text}\"); the one before stays in force: see `reply` of its provider"
            )
        });
        let notices: Vec<_> = self.lives.notice().into_iter().chain(refresh).collect();
        (!notices.is_empty()).then(|| notices.join("; "))
    }
}

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Class and description.
    pub problem: Problem,
    /// Delay that the server asked for.
    pub retry_after: Option<Duration>,
    /// True if the class is assumed: the server did not state explicitly that the grant is dead.
    pub assumed: bool,
}

/// Result of a complete reply.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// A success whose body has an access token and no error.
    Granted(Box<GrantedTokens>),
    /// Any other reply.
    Refused(Refusal),
}
