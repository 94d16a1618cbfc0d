//! Text of a notification about an incident. It is the same for every channel.
//!
//! Must not hold a secret, nor know a channel: formats of receivers belong to [`crate::channels`]. Times are stored as
//! instants, since a message may be delivered long after it was written.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Severity;
use refreshd_time::{Timestamp, human};

/// Subject of an incident.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MessageSubject {
    /// One portal.
    Portal(String),
    /// An app, with all its portals.
    App(String),
    /// An authorization server, by host.
    Server(String),
    /// A channel whose deliveries fail.
    Channel(String),
    /// This daemon.
    Daemon,
}

impl MessageSubject {
    /// Kind and name, for labels. The daemon has no name.
    #[must_use]
    pub fn label(&self) -> Option<(&'static str, &str)> {
        match self {
            Self::Portal(name) => Some(("portal", name)),
            Self::App(name) => Some(("app", name)),
            Self::Server(name) => Some(("server", name)),
            Self::Channel(name) => Some(("channel", name)),
            Self::Daemon => None,
        }
    }
}

/// Reason for sending a message.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    Deserialize,
    strum::IntoStaticStr,
    strum::VariantArray,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Event {
    /// First notification of an incident.
    Opened,
    /// The severity rose, or the required action changed.
    Raised,
    /// The incident is still open.
    Repeated,
    /// An operator acknowledged the incident.
    Acknowledged,
    /// The incident ended.
    Resolved,
    /// Test of a channel, without an incident.
    Test,
}

impl Event {
    /// Name in messages for programs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// One message about one incident.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Identifies the incident from its first message to its last, across restarts and reinstallations: `portal/acme`.
    /// Not unique among machines; see [`Message::dedup_key`].
    pub key: String,
    /// Reason for sending.
    pub event: Event,
    /// Current severity of the incident; the last one, if it is resolved.
    pub severity: Severity,
    /// Severities that were notified and when each began, oldest first. The last one is in force.
    pub levels: Vec<(Severity, Timestamp)>,
    /// Subject of the incident.
    pub subject: MessageSubject,
    /// Cause.
    pub reason: String,
    /// Action that an operator must take, with the command for it; `None` if there is none.
    pub action: Option<String>,
    /// Beginning of the incident.
    pub since: Timestamp,
    /// Time of writing.
    pub at: Timestamp,
    /// Earliest expiry among the affected access tokens; `None` if there is no such token.
    pub expires_at: Option<Timestamp>,
    /// Affected portals, earliest expiry first, at most as many as fit into a message.
    pub portals: Vec<String>,
    /// Number of affected portals.
    pub count: u64,
    /// Number of this message within the incident, from 1.
    pub number: u32,
}

impl Message {
    /// Test message for a channel.
    #[must_use]
    pub fn test(now: Timestamp, channel: &str) -> Self {
        Self {
            key: format!("test/{channel}"),
            event: Event::Test,
            severity: Severity::Notice,
            levels: vec![(Severity::Notice, now)],
            subject: MessageSubject::Channel(channel.to_owned()),
            reason: "this is a test: alerts of refreshd arrive here".to_owned(),
            action: None,
            since: now,
            at: now,
            expires_at: None,
            portals: Vec::new(),
            count: 0,
            number: 1,
        }
    }

    /// Returns whether the incident is resolved, or the message is a test.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        matches!(self.event, Event::Resolved | Event::Test)
    }

    /// Identifies the incident among those of all machines. Deterministic, at most 255 bytes (PagerDuty's limit).
    #[must_use]
    pub fn dedup_key(&self, instance: &str) -> String {
        let whole = format!("refreshd/{instance}/{}", self.key);
        if whole.len() <= MAX_KEY {
            return whole;
        }
        let start: String = whole
            .chars()
            .take_while(char::is_ascii)
            .take(MAX_KEY - 9)
            .collect();
        format!(
            "{start}~{}",
            refreshd_secrets::Fingerprint::of(whole.as_bytes())
        )
    }

    /// Short name of the affected subject: `acme`, `app crm`, `12 portals at oauth.bitrix.info`.
    #[must_use]
    pub fn affected(&self) -> String {
        let many = (self.count > 1).then(|| format!("{} portals", self.count));
        match (&self.subject, many) {
            (MessageSubject::Portal(name), _) => name.clone(),
            (MessageSubject::App(name), Some(many)) => format!("{many} of app {name}"),
            (MessageSubject::App(name), None) => format!("app {name}"),
            (MessageSubject::Server(host), Some(many)) => format!("{many} at {host}"),
            (MessageSubject::Server(host), None) => host.clone(),
            (MessageSubject::Channel(name), _) => format!("channel {name}"),
            (MessageSubject::Daemon, Some(many)) => many,
            (MessageSubject::Daemon, None) => "refreshd".to_owned(),
        }
    }

    /// One line: severity, subject, cause.
    #[must_use]
    pub fn title(&self) -> String {
        let how = match self.event {
            Event::Resolved => "resolved",
            Event::Test => "test",
            Event::Acknowledged => "acknowledged",
            Event::Opened | Event::Raised | Event::Repeated => self.severity.as_str(),
        };
        format!("[{how}] {}: {}", self.affected(), self.reason)
    }

    /// Beginning and duration so far.
    #[must_use]
    pub fn lasting(&self, now: Timestamp) -> String {
        let until = if self.event == Event::Resolved {
            self.at
        } else {
            now
        };
        let word = if self.event == Event::Resolved {
            "It lasted"
        } else {
            "Since"
        };
        let lasts = human(until.since(self.since));
        if self.event == Event::Resolved {
            format!("{word} {lasts}, from {} to {}.", self.since, self.at)
        } else {
            format!("{word} {} ({lasts}).", self.since)
        }
    }

    /// Remaining validity of the published token; `None` if it does not matter for this incident.
    #[must_use]
    pub fn validity(&self, now: Timestamp) -> Option<String> {
        if self.is_over() || self.count == 0 {
            return None;
        }
        let which = if self.count > 1 {
            "The first token"
        } else {
            "The current token"
        };
        Some(match self.expires_at {
            None => "No token works now.".to_owned(),
            Some(at) if at <= now && self.count > 1 => {
                format!(
                    "Tokens have expired, the first {} ago.",
                    human(now.since(at))
                )
            }
            Some(at) if at <= now => format!("The token expired {} ago.", human(now.since(at))),
            Some(at) => format!(
                "{which} works for {} more, until {at}.",
                human(at.until(now))
            ),
        })
    }

    /// Names of the portals, if there are several: `acme, globex and 180 more`.
    #[must_use]
    pub fn names(&self) -> Option<String> {
        if self.count < 2 {
            return None;
        }
        let named = self.portals.join(", ");
        let more = self.count.saturating_sub(self.portals.len() as u64);
        Some(if more > 0 {
            format!("{named} and {more} more (refreshd status)")
        } else {
            named
        })
    }

    /// Lines below the title: duration, token validity, portals, action.
    #[must_use]
    pub fn lines(&self, now: Timestamp) -> Vec<String> {
        let mut lines = Vec::new();
        if self.event != Event::Test {
            lines.push(self.lasting(now));
        }
        lines.extend(self.validity(now));
        lines.extend(self.names().map(|names| format!("Portals: {names}")));
        if let Some(action) = self.action.as_ref().filter(|_| !self.is_over()) {
            lines.push(format!("To do: {action}"));
        }
        // A receiver that was down gets old messages, and must be able to recognise them.
        let late = now.since(self.at);
        if late >= LATE_AFTER {
            lines.push(format!(
                "(Written {} ago; it could not be delivered before.)",
                human(late)
            ));
        }
        lines
    }

    /// Title and lines as plain text.
    #[must_use]
    pub fn text(&self, now: Timestamp) -> String {
        let mut lines = vec![self.title()];
        lines.extend(self.lines(now));
        lines.join("\n")
    }
}

/// Longer keys are truncated, with their digest appended.
const MAX_KEY: usize = 255;
/// A message that is delivered later than this states the delay.
const LATE_AFTER: Duration = Duration::from_secs(120);

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
