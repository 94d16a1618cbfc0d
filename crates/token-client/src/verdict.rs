//! A reply of a token endpoint, and what it comes to.

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
    /// `Retry-After`, if it could be read.
    pub retry_after: Option<Duration>,
    /// When it came: an end that is an instant is a life from here.
    pub now: Timestamp,
    /// The body.
    pub body: &'a [u8],
    /// Whether that is all of it. Of one that broke off only what ends by its own signs is read: an object, but no form, whose
    /// last value may be cut.
    pub whole: bool,
}

/// A new pair, as the server gave it.
#[derive(Clone, Debug)]
pub struct GrantedTokens {
    /// The new access token.
    pub access: AccessToken,
    /// The new refresh token; `None` means that the old one stays in force (RFC 6749 section 6).
    pub refresh: Option<RefreshToken>,
    /// What stood in its place and is none, as `true` or a lifetime; nothing else is known of it.
    pub odd_refresh: Option<String>,
    /// `Bearer` unless the server says something else.
    pub token_type: String,
    /// What the reply says of how long its tokens live.
    pub lives: TokenLives,
    /// Whose grant it is, if the profile has a field for it.
    pub identity: Option<String>,
    /// The authorization server for the next renewal, as the reply named it. Not yet checked against the allow-list.
    pub server: Option<String>,
    /// What readers need besides.
    pub details: Details,
}

impl GrantedTokens {
    /// What people should know of the parts of the reply that could not be read.
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
    /// What it means, in words.
    pub problem: Problem,
    /// When the server wants to be asked again.
    pub retry_after: Option<Duration>,
    /// Whether its class is assumed: the server did not say in so many words that the grant is dead.
    pub assumed: bool,
}

/// What a whole reply says.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// A success whose body has an access token and no error.
    Granted(Box<GrantedTokens>),
    /// Anything else.
    Refused(Refusal),
}
