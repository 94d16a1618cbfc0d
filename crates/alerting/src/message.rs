//! What people are told of an incident, once, in words: the same for every channel.
//!
//! Must not hold a secret, nor know a channel: how a receiver wants it is `adapters::channels`' affair. Times are kept as
//! moments, since a message may be delivered long after it was written.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Severity;
use refreshd_time::{Timestamp, human};

/// What an incident is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MessageSubject {
    /// One portal.
    Portal(String),
    /// An app, and with it its portals.
    App(String),
    /// An authorization server, by its host.
    Server(String),
    /// A channel that does not deliver.
    Channel(String),
    /// This daemon itself.
    Daemon,
}

impl MessageSubject {
    /// Its kind and its name, for labels; the daemon has no name.
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

/// Why a message is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// An incident is told for the first time.
    Opened,
    /// It has become worse, or something else must be done now.
    Raised,
    /// It is still there.
    Repeated,
    /// Somebody has taken it on.
    Acknowledged,
    /// It is over.
    Resolved,
    /// Nothing happened: somebody wants to know whether messages arrive.
    Test,
}

impl Event {
    /// As written in messages for programs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Raised => "raised",
            Self::Repeated => "repeated",
            Self::Acknowledged => "acknowledged",
            Self::Resolved => "resolved",
            Self::Test => "test",
        }
    }
}

/// One message about one incident.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Names the incident, the same from its first message to its last, after a restart and a new installation:
    /// `portal/acme`. Not yet unique among machines; see [`Message::dedup_key`].
    pub key: String,
    /// Why it is sent.
    pub event: Event,
    /// How loud the incident is now; of a resolved one, how loud it was.
    pub severity: Severity,
    /// Each severity that was told, in the order of time, and since when; the last is in force.
    pub levels: Vec<(Severity, Timestamp)>,
    /// What it is about.
    pub subject: MessageSubject,
    /// What happened.
    pub reason: String,
    /// What a person must do, and what does it; `None` if nothing.
    pub action: Option<String>,
    /// When it began.
    pub since: Timestamp,
    /// When this was written.
    pub at: Timestamp,
    /// When the (soonest) access token concerned ends; `None` if no token is concerned, or there never was one.
    pub expires_at: Option<Timestamp>,
    /// The portals concerned, the soonest to expire first, as many as a message has room for.
    pub portals: Vec<String>,
    /// How many portals are concerned.
    pub count: u64,
    /// Counts the messages of this incident, from 1.
    pub number: u32,
}

impl Message {
    /// A test of a channel.
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

    /// Whether the incident is over, or was none.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        matches!(self.event, Event::Resolved | Event::Test)
    }

    /// Names the incident among those of all machines. Deterministic; at most 255 bytes, as PagerDuty wants it.
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

    /// Whom it concerns, in a few words: `acme`, `app crm`, `12 portals at oauth.bitrix.info`.
    #[must_use]
    pub fn whom(&self) -> String {
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

    /// One line: how loud, whom, what.
    #[must_use]
    pub fn title(&self) -> String {
        let how = match self.event {
            Event::Resolved => "resolved",
            Event::Test => "test",
            Event::Acknowledged => "acknowledged",
            Event::Opened | Event::Raised | Event::Repeated => self.severity.as_str(),
        };
        format!("[{how}] {}: {}", self.whom(), self.reason)
    }

    /// Since when, and for how long now.
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

    /// How long readers still have a token that works; `None` where that is beside the point.
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

    /// The portals by name, where there are several: `acme, globex and 180 more`.
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

    /// All of it below the title, a line each: since when, how long the token works, which portals, what to do.
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
        // A receiver that was down hears the past; it must be able to tell.
        let late = now.since(self.at);
        if late >= LATE {
            lines.push(format!(
                "(Written {} ago; it could not be delivered before.)",
                human(late)
            ));
        }
        lines
    }

    /// The whole of it as plain text.
    #[must_use]
    pub fn text(&self, now: Timestamp) -> String {
        let mut lines = vec![self.title()];
        lines.extend(self.lines(now));
        lines.join("\n")
    }
}

/// A key that is longer is cut, and its digest stands for the rest.
const MAX_KEY: usize = 255;
/// A message that is delivered this long after it was written says so.
const LATE: Duration = Duration::from_secs(120);

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
