//! Stored responses: a response with a pair, or possibly with one, that could not be parsed, and when it may still be used.
//!
//! Must not parse it: `reply` does.

use super::portal::Grant;
use refreshd_secrets::{Fingerprint, RefreshToken, ReplyBody};
use refreshd_time::Timestamp;
use refreshd_token_client::token::Generation;

/// An unparsed response.
#[derive(Debug)]
pub struct UnreadableReply {
    /// Time of the request; lifetimes in the response count from here.
    pub at: Timestamp,
    /// The request that it answers.
    pub answers: ReplyTo,
    /// The HTTP status.
    pub status: u16,
    /// `Content-Type`, if there was one.
    pub content_type: Option<String>,
    /// `Content-Encoding`, if there was one.
    pub content_encoding: Option<String>,
    /// Whether the body is complete.
    pub whole: bool,
    /// The body, at most [`refreshd_token_client::body_decoding::MAX_BODY_BYTES`] bytes. A secret.
    pub body: ReplyBody,
}

impl UnreadableReply {
    /// Returns whether its status is a success.
    #[must_use]
    pub const fn is_success(&self) -> bool {
        matches!(self.status, 200..=299)
    }
}

/// The request that a response answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyTo {
    /// The renewal of this grant.
    Renewal(SentToken),
    /// A successful renewal of this grant without a readable new refresh token, though each one before brought one. The
    /// grant is the one after it.
    WithoutRefresh(SentToken),
    /// An authorization. It may replace the grant that the portal has when it is stored.
    Authorization,
}

/// The grant at the time of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SentToken {
    /// Its generation; 0 without a grant.
    pub generation: Generation,
    /// The refresh token that was sent; `None` for the client's own credentials, and without a grant.
    pub token: Option<Fingerprint>,
}

impl SentToken {
    /// Of a grant.
    #[must_use]
    pub fn of(grant: &Grant) -> Self {
        let token = grant
            .tokens
            .credential
            .refresh()
            .map(RefreshToken::fingerprint);
        Self {
            generation: grant.generation,
            token,
        }
    }
}

/// A stored response.
#[derive(Debug)]
pub struct KeptReply {
    /// Identifier in the state.
    pub id: i64,
    /// The response.
    pub reply: UnreadableReply,
    /// The grant that it replaces, if the portal still has this one.
    pub sent: SentToken,
}

/// Number of stored responses of a portal, and the time of the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptCount {
    /// At least 1.
    pub count: u64,
    /// Time of the newest one's request.
    pub newest: Timestamp,
}
