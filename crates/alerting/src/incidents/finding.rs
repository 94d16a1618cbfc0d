//! A finding: something that is wrong now. Must not decide on notifications.

use std::time::Duration;

use crate::message::MessageSubject;
use crate::severity::Severity;
use refreshd_time::Timestamp;

/// Unit for intervals where no token is affected.
pub const DEFAULT_LIFETIME: Duration = Duration::from_secs(3600);

/// Something that is wrong now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Key of its incident when it is not grouped.
    pub key: String,
    /// Subject of that incident.
    pub subject: MessageSubject,
    /// Group that it may join.
    pub group: Option<GroupKey>,
    /// Escalation steps reached. Empty: no notification is due, but the problem is not over.
    pub reached: Vec<ReachedStep>,
    /// Cause.
    pub reason: String,
    /// Required action.
    pub action: String,
    /// Required action when grouped; `PORTAL` stands for each portal.
    pub action_for_all: String,
    /// Beginning.
    pub since: Timestamp,
    /// Expiry of the token.
    pub expires_at: Option<Timestamp>,
    /// Lifetime of the token.
    pub lifetime: Duration,
    /// Affected portal, if it is a portal's.
    pub portal: Option<String>,
    /// In a group it is no incident of its own: its own incident was wrong to blame the portal alone, and is closed.
    pub is_of_group: bool,
}

/// Common cause of findings.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupKey {
    /// Key of the group's incident.
    pub key: String,
    /// Subject of that incident.
    pub subject: MessageSubject,
    /// One finding is enough for the group: the cause is not the portal's.
    pub always: bool,
}

/// An escalation step that was reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReachedStep {
    /// Identifies the step within an incident: the step's key, plus its kind for problems that need manual action,
    /// since another kind needs another action.
    pub id: String,
    /// Severity.
    pub severity: Severity,
    /// Channels to notify; `None`: all, from `warning` on.
    pub notify: Option<Vec<String>>,
}

impl Finding {
    /// An empty finding about a portal, or about the daemon.
    #[must_use]
    pub fn blank(portal: Option<&str>, now: Timestamp) -> Self {
        Self {
            key: String::new(),
            subject: portal.map_or(MessageSubject::Daemon, |portal| {
                MessageSubject::Portal(portal.to_owned())
            }),
            group: None,
            reached: Vec::new(),
            reason: String::new(),
            action: String::new(),
            action_for_all: String::new(),
            since: now,
            expires_at: None,
            lifetime: DEFAULT_LIFETIME,
            portal: portal.map(str::to_owned),
            is_of_group: false,
        }
    }
}
