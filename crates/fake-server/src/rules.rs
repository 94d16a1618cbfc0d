//! How strict the stand-in server is. Must not hold state: a change of the rules applies from the next request on.

use std::time::Duration;

use refreshd_token_client::provider::Method;

/// The server's rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Life of an access token.
    pub token_lifetime: Duration,
    /// What happens to a refresh token that was spent and comes again.
    pub reuse: Reuse,
    /// How token requests must arrive.
    pub method: Method,
    /// Life of an authorization code.
    pub code_lifetime: Duration,
    /// Added to every reply, after the request was processed.
    pub delay: Duration,
    /// Whether the access token of before dies with a renewal.
    pub old_access_dies: bool,
}

impl Default for Rules {
    /// Bitrix24's: an hour, strict single use, POST, codes of 30 s.
    fn default() -> Self {
        Self {
            token_lifetime: Duration::from_secs(3600),
            reuse: Reuse::Strict,
            method: Method::Post,
            code_lifetime: Duration::from_secs(30),
            delay: Duration::ZERO,
            old_access_dies: false,
        }
    }
}

/// What a spent refresh token gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// `invalid_grant`; the newest token of the grant goes on working.
    Strict,
    /// `invalid_grant`, and every token of the grant dies (RFC 9700 section 4.14.2).
    RevokeFamily,
    /// For this long after it was spent, the same new pair again, whose access token is a new one if less than a second of
    /// its own is left; then as [`Reuse::Strict`].
    Grace(Duration),
}
