//! Strictness of the fake server. Must not hold state: a change of the rules applies from the next request on.

use std::time::Duration;

use refreshd_token_client::provider::Method;

/// Rules of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Lifetime of an access token.
    pub token_lifetime: Duration,
    /// Effect of a spent refresh token that is presented again.
    pub reuse: Reuse,
    /// Required HTTP method of token requests.
    pub method: Method,
    /// Lifetime of an authorization code.
    pub code_lifetime: Duration,
    /// Delay of every reply, after the request was processed.
    pub delay: Duration,
    /// True if a renewal revokes the previous access token.
    pub old_access_dies: bool,
}

impl Default for Rules {
    /// Bitrix24: an hour, strict single use, POST, codes of 30 s.
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

/// Effect of a spent refresh token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// `invalid_grant`; the latest token of the grant stays valid.
    Strict,
    /// `invalid_grant`, and every token of the grant is revoked (RFC 9700 section 4.14.2).
    RevokeFamily,
    /// For this long after it was spent, the same new pair again, whose access token is a new one if less than a second
    /// of its lifetime is left; then as [`Reuse::Strict`].
    Grace(Duration),
}
