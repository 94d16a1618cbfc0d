//! Current facts of one incident, from one finding or a group. Must not decide whether anything is sent.

use std::time::Duration;

use super::finding::ReachedStep;
use crate::Severity;
use crate::message::{Event, Message, MessageSubject};
use refreshd_time::Timestamp;

/// Current facts of one incident, from one finding or a group of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageContext {
    /// Key of the incident.
    pub key: String,
    /// Subject of the incident.
    pub subject: MessageSubject,
    /// Escalation steps that any of the findings reached.
    pub reached: Vec<ReachedStep>,
    /// Cause.
    pub reason: String,
    /// Required action.
    pub action: String,
    /// Beginning.
    pub since: Timestamp,
    /// Earliest expiry among the tokens.
    pub expires_at: Option<Timestamp>,
    /// Portals, earliest expiry first.
    pub portals: Vec<String>,
    /// Number of portals.
    pub count: u64,
    /// True if the portals are too few for a new group.
    pub few: bool,
    /// Lifetime of the tokens.
    pub lifetime: Duration,
}

impl MessageContext {
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
