//! Something that is wrong now, in the terms of incidents. Must not decide what is told of it.

use std::time::Duration;

use crate::message::MessageSubject;
use crate::severity::Severity;
use refreshd_time::Timestamp;

/// The measure of time where no token is concerned.
pub const DEFAULT_LIFETIME: Duration = Duration::from_secs(3600);

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The incident it is by itself.
    pub key: String,
    /// What that is about.
    pub subject: MessageSubject,
    /// What it is grouped into, with others like it.
    pub group: Option<GroupKey>,
    /// The steps it has reached; none: there is nothing to tell of it now, and it is not over.
    pub reached: Vec<ReachedStep>,
    /// What happened.
    pub reason: String,
    /// What to do.
    pub action: String,
    /// What to do where it is one of many; `PORTAL` stands for each.
    pub action_for_all: String,
    /// When it began.
    pub since: Timestamp,
    /// When the token ends.
    pub expires_at: Option<Timestamp>,
    /// How long the token lives.
    pub lifetime: Duration,
    /// The portal concerned, if it is one's.
    pub portal: Option<String>,
    /// Folded, it is no incident of its own any more: what that said of the portal alone is not so.
    pub is_of_group: bool,
}

/// What troubles have in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupKey {
    /// The incident that they are together.
    pub key: String,
    /// What that is about.
    pub subject: MessageSubject,
    /// Whether they are one however few they are: what is wrong is not the portals'.
    pub always: bool,
}

/// A step that was reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReachedStep {
    /// Names it within an incident: the step's key, and for what only a person can mend its kind too, since something
    /// else is to be done then.
    pub id: String,
    /// How loud.
    pub severity: Severity,
    /// The channels that hear of it; `None`: all, from warning up.
    pub notify: Option<Vec<String>>,
}

impl Finding {
    /// One about a portal, or about the daemon itself, with nothing in it yet.
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
