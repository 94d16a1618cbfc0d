//! Record of a claimed renewal, as the state stores it, and what the state answers.
//!
//! Must not store anything: `adapters::state` does.

use super::client::ClientDecision;
use super::kept_reply::UnreadableReply;
use super::name::PortalName;
use super::portal::{ClaimId, GrantStatus};
use super::refresh_warning;
use super::renewal::Renewed;
use refreshd_secrets::Fingerprint;
use refreshd_time::Timestamp;
use refreshd_token_client::reply::GrantedTokens;
use refreshd_token_client::token::Generation;

/// Record of a claimed renewal.
#[derive(Debug)]
pub struct RenewalRecord {
    /// The portal.
    pub portal: PortalName,
    /// Its app.
    pub app: String,
    /// The claim that is ended, and when it was made. That moment moves with the stored times; every time in here is
    /// of the same clock as this one and moves by as much.
    pub claim: (ClaimId, Timestamp),
    /// The outcome.
    pub outcome: RecordOutcome,
    /// Escalation steps notified of, this outcome's included.
    pub notified: Vec<String>,
    /// Steps notified of while the request was under way that stay notified.
    pub keep_notified: KeepNotified,
    /// Time of the next evaluation of the escalation steps.
    pub evaluate_at: Option<Timestamp>,
    /// When it is recorded.
    pub now: Timestamp,
    /// Refusal or acceptance of the app's client, if the reply shows it.
    pub client: ClientVerdict,
    /// The reply to a renewal that brought no refresh token where each one before did: it is kept.
    pub without_refresh: Option<Box<UnreadableReply>>,
    /// The kind of the request, should it have bought a pair: see `refreshd_token_client::request`.
    pub bought_by: Option<Fingerprint>,
}

/// Steps that stay notified though the escalator notified of them while a request was under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepNotified {
    /// Every one: the outcome ends none.
    All,
    /// Those ahead of the refresh token's end, which a new pair has not moved.
    RefreshEnd,
    /// None: the outcome ends them.
    None,
}

impl KeepNotified {
    /// Returns whether a step stays notified.
    #[must_use]
    pub fn keeps(self, step: &str) -> bool {
        match self {
            Self::All => true,
            Self::RefreshEnd => refresh_warning::is_step(step),
            Self::None => false,
        }
    }
}

/// Verdict of a reply on the app's client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientVerdict {
    /// Nothing.
    Unknown,
    /// It was accepted.
    Accepted,
    /// The grant was refused: only another portal can show whether the client would have been.
    GrantRefused,
    /// It was refused; try one portal again then.
    Refused(Timestamp),
}

/// The outcome part of a record.
#[derive(Debug)]
pub enum RecordOutcome {
    /// A new pair.
    Renewed(Box<Renewed>),
    /// The pair stays.
    Kept(GrantStatus),
    /// The pair stays, and a reply came that could not be read: it is kept.
    Unread(GrantStatus, Box<UnreadableReply>),
    /// A pair of another owner came.
    Foreign(GrantStatus, Box<GrantedTokens>),
}

/// Result of recording.
#[derive(Debug, PartialEq, Eq)]
pub enum Recorded {
    /// It is durable. `client_changed`: the app's client became refused, or accepted again, just now.
    Done {
        /// The grant's generation now.
        generation: Generation,
        /// The app's status flipped.
        client_changed: bool,
        /// Attribution of the client's refusal, if there was one.
        ruling: Option<ClientDecision>,
        /// Steps notified of until then, also while the request was under way.
        told_before: Vec<String>,
    },
    /// An import, authorization or `forget` came first: the reply is kept aside and not used.
    Superseded,
}
