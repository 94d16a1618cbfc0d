//! A reply that holds, or may hold, a pair which could not be read: what is kept of it, and when it may still be used.
//!
//! Must not read it: `reply` does.

use super::portal::Grant;
use refreshd_secrets::{Fingerprint, RefreshToken, ReplyBody};
use refreshd_time::Timestamp;
use refreshd_token_client::token::Generation;

/// What is kept of a reply.
#[derive(Debug)]
pub struct UnreadableReply {
    /// When the request was sent; the lives in the reply count from here.
    pub at: Timestamp,
    /// What it answers.
    pub answers: ReplyTo,
    /// The HTTP status.
    pub status: u16,
    /// `Content-Type`, if there was one.
    pub content_type: Option<String>,
    /// `Content-Encoding`, if there was one.
    pub content_encoding: Option<String>,
    /// Whether all of the body arrived.
    pub whole: bool,
    /// The body, at most [`refreshd_token_client::body_decoding::MAX_BODY_BYTES`] bytes. A secret.
    pub body: ReplyBody,
}

impl UnreadableReply {
    /// Whether its status is a success.
    #[must_use]
    pub const fn is_success(&self) -> bool {
        matches!(self.status, 200..=299)
    }
}

/// What a reply answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyTo {
    /// The renewal of this grant.
    Renewal(SentToken),
    /// A person's authorization: the grant that the portal has at the moment of storing may be replaced by it.
    Authorization,
}

/// The grant at the moment of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SentToken {
    /// Counts its pairs; 0 without a grant.
    pub generation: Generation,
    /// The refresh token that was sent; `None` for the client's own credentials, and without a grant.
    pub token: Option<Fingerprint>,
}

impl SentToken {
    /// A grant as it is.
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

/// A reply that the state keeps.
#[derive(Debug)]
pub struct KeptReply {
    /// Names it in the state.
    pub id: i64,
    /// What was kept.
    pub reply: UnreadableReply,
    /// The grant that it replaces, if the portal has still this one.
    pub sent: SentToken,
}

/// How many replies of a portal are kept, and when the newest came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptCount {
    /// At least 1.
    pub count: u64,
    /// The newest one's request.
    pub newest: Timestamp,
}
