//! What is wrong now, as one incident tells it. Must not decide whether it is told.

use std::time::Duration;

use super::finding::ReachedStep;
use crate::Severity;
use crate::message::{Event, Message, MessageSubject};
use refreshd_time::Timestamp;

/// What is wrong now, as one incident tells it: of one trouble, or of several that are grouped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageContext {
    /// The incident's.
    pub key: String,
    /// What it is about.
    pub subject: MessageSubject,
    /// The steps that were reached, by any of the troubles.
    pub reached: Vec<ReachedStep>,
    /// What happened.
    pub reason: String,
    /// What to do.
    pub action: String,
    /// When it began.
    pub since: Timestamp,
    /// When the soonest token ends.
    pub expires_at: Option<Timestamp>,
    /// The portals, the soonest to expire first.
    pub portals: Vec<String>,
    /// How many portals there are.
    pub count: u64,
    /// Whether they are too few to be grouped anew.
    pub few: bool,
    /// How long the tokens live.
    pub lifetime: Duration,
}

impl MessageContext {
    /// What is said of it.
    pub(super) fn message(&self, event: Event, severity: Severity, now: Timestamp) -> Message {
        Message {
            key: self.key.clone(),
            event,
            severity,
            levels: Vec::new(),
            subject: self.subject.clone(),
            reason: self.reason.clone(),
            action: Some(self.action.clone()),
            since: self.since,
            at: now,
            expires_at: self.expires_at,
            portals: self.portals.clone(),
            count: self.count,
            number: 1,
        }
    }
}
