//! Incidents: one problem each, of a portal, an app, an authorization server or the daemon, with its lifecycle.
//!
//! Level-triggered. [`finding`] describes present problems, [`reconcile`] groups findings by cause, and
//! [`Incident::update`] and [`Incident::close`] decide on notifications. After a crash or a restart, the next
//! collection therefore finds problems that were not notified yet, and notifies them once. Must not read a clock, nor send.

pub mod finding;
mod message_context;
pub mod reconcile;

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::message::{Event, Message};
use crate::Severity;
pub use finding::{Finding, GroupKey, ReachedStep};
pub use message_context::MessageContext;
pub use reconcile::{AlertRules, Reconciled, Reconciler};
use refreshd_time::Timestamp;

/// Delay before the first repetition, and its maximum; it doubles with each repetition.
const REPEAT: (Duration, Duration) = (Duration::from_secs(3600), Duration::from_secs(24 * 3600));
/// A problem that returns within this many token lifetimes after its end is the same incident, flapping.
const FLAP_LIVES: u32 = 2;
/// A flapping incident is notified once it has lasted for this fraction of a token lifetime; the time doubles with each
/// flap.
const FLAP_HOLD: u32 = 6;
/// Tolerated clock correction.
const CLOCKS_DIFFER: Duration = Duration::from_secs(60);
/// Upper limits of both, for long-lived tokens.
const MAX_FLAP_WINDOW: Duration = Duration::from_secs(24 * 3600);
const MAX_HOLD: Duration = Duration::from_secs(3600);

/// One problem, from its first sign until the time in which it may flap is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incident {
    /// Identifier; see [`Message::key`].
    pub key: String,
    /// Stage of the lifecycle.
    pub stage: Stage,
    /// Escalation steps that need no further notification: notified, or not worth one.
    #[serde(rename = "told")]
    pub handled_steps: BTreeSet<String>,
    /// Severities reached, and when.
    pub levels: Vec<(Severity, Timestamp)>,
    /// Channels that were notified. They receive the resolution too.
    #[serde(rename = "heard")]
    pub notified_channels: BTreeSet<String>,
    /// True if any channel was notified since the incident opened or reopened.
    #[serde(rename = "spoken")]
    pub is_notified: bool,
    /// Highest severity notified, including before it reopened.
    pub worst: Severity,
    /// Latest message.
    pub latest: Message,
    /// Repetitions since the last news.
    pub repeats: u32,
    /// Number of times that the incident reopened.
    pub flaps: u32,
    /// Since when the group has so few portals that each could be an incident of its own.
    pub few_since: Option<Timestamp>,
    /// Lifetime of the affected tokens: the unit for the incident's intervals.
    pub lifetime: Duration,
}

/// Stage of an incident's lifecycle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Open, and notified as far as its steps demand.
    Open,
    /// An operator acknowledged it: it is not repeated.
    Acknowledged,
    /// It reopened soon after a resolution that was notified. It is notified if it lasts until then.
    Back {
        /// No notification before this time, unless the severity exceeds the worst so far.
        hold_until: Timestamp,
    },
    /// Resolved; kept for some time to detect flapping.
    Over {
        /// When it was resolved.
        at: Timestamp,
    },
}

/// A message and the channels that receive it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// The message.
    pub message: Message,
    /// Receiving channels. `true` marks the first message of this incident to the channel.
    pub to: Vec<(String, bool)>,
}

impl Incident {
    /// An incident that was not notified yet.
    #[must_use]
    pub fn new(view: &MessageContext, now: Timestamp) -> Self {
        Self {
            key: view.key.clone(),
            stage: Stage::Open,
            handled_steps: BTreeSet::new(),
            levels: Vec::new(),
            notified_channels: BTreeSet::new(),
            is_notified: false,
            worst: Severity::Notice,
            latest: view.message(Event::Opened, Severity::Notice, now),
            repeats: 0,
            flaps: 0,
            few_since: None,
            lifetime: view.lifetime,
        }
    }

    /// Returns whether the incident is not resolved.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        !matches!(self.stage, Stage::Over { .. })
    }

    /// Current severity, or the last one.
    #[must_use]
    pub fn severity(&self) -> Severity {
        self.levels
            .last()
            .map_or(Severity::Notice, |(severity, _)| *severity)
    }

    /// Applies the current facts of a problem that exists. Returns the notification that is due, for those of
    /// `channels` that its steps name.
    pub fn update(
        &mut self,
        view: &MessageContext,
        channels: &[String],
        now: Timestamp,
    ) -> Option<Notification> {
        self.clamp_to(now);
        self.lifetime = view.lifetime;
        self.few_since = view.few.then(|| self.few_since.unwrap_or(now).min(now));
        if let Stage::Over { at } = self.stage {
            self.reopen(at, view, now);
        }
        let new: Vec<_> = view
            .reached
            .iter()
            .filter(|step| !self.handled_steps.contains(&step.id))
            .cloned()
            .collect();
        let loudest = new.iter().map(|step| step.severity).max();
        if let Stage::Back { hold_until } = self.stage {
            if now < hold_until && loudest.is_none_or(|loudest| loudest <= self.worst) {
                return None;
            }
            self.stage = Stage::Open;
        }
        // Steps below the current severity are not news.
        if let Some(loudest) = loudest.filter(|loudest| *loudest >= self.severity()) {
            let event = if self.is_notified {
                Event::Raised
            } else {
                Event::Opened
            };
            let to = recipients(&new, channels);
            self.merge(&new, loudest, now);
            if to.is_empty() {
                self.latest = self.compose(view, event, now);
                return None;
            }
            self.stage = Stage::Open;
            self.repeats = 0;
            return self.notify(view, event, to, now);
        }
        self.handled_steps
            .extend(new.into_iter().map(|step| step.id));
        if self.repeats_at(view.count).is_some_and(|at| at <= now) {
            self.repeats += 1;
            return self.notify(view, Event::Repeated, self.notified_channels.clone(), now);
        }
        None
    }

    /// Resolves the incident, with the reason for the resolution.
    pub fn close(&mut self, reason: &str, now: Timestamp) -> Option<Notification> {
        self.clamp_to(now);
        if !self.is_open() {
            return None;
        }
        self.stage = Stage::Over { at: now };
        self.repeats = 0;
        // Channels that were never notified, or were notified of a resolution already, get no other one.
        if !std::mem::take(&mut self.is_notified) {
            return None;
        }
        let message = Message {
            reason: reason.to_owned(),
            ..self.latest.clone()
        };
        self.notification(
            Message {
                event: Event::Resolved,
                at: now,
                ..message
            },
            self.notified_channels.clone(),
        )
    }

    /// Acknowledges the incident: no repetitions until it gets worse.
    pub fn acknowledge(&mut self, now: Timestamp) -> Option<Notification> {
        if !matches!(self.stage, Stage::Open) || !self.is_notified {
            return None;
        }
        self.stage = Stage::Acknowledged;
        let message = Message {
            event: Event::Acknowledged,
            at: now,
            ..self.latest.clone()
        };
        self.notification(message, self.notified_channels.clone())
    }

    /// When the few portals that are left become incidents of their own. Until then, the end of the outage may reach
    /// them too.
    #[must_use]
    pub fn splits_at(&self) -> Option<Timestamp> {
        self.few_since
            .map(|since| since + (self.lifetime / FLAP_HOLD).min(MAX_HOLD))
    }

    /// Next time at which a notification may be due although nothing changes.
    #[must_use]
    pub fn next(&self) -> Option<Timestamp> {
        let at = match self.stage {
            Stage::Open => self.repeats_at(self.latest.count),
            Stage::Back { hold_until } => Some(hold_until),
            Stage::Acknowledged | Stage::Over { .. } => None,
        };
        [at, self.splits_at()].into_iter().flatten().min()
    }

    /// Returns whether its return would be a new incident.
    #[must_use]
    pub fn is_past(&self, now: Timestamp) -> bool {
        matches!(self.stage, Stage::Over { at } if !self.is_recent(at, now))
    }

    /// Reopens a resolved incident. Only what recipients remember is kept: who was notified, the worst severity, the
    /// flaps.
    fn reopen(&mut self, ended: Timestamp, view: &MessageContext, now: Timestamp) {
        let (worst, flaps) = (self.worst, self.flaps.saturating_add(1));
        // Without a notification there is nothing to hold back.
        if self.notified_channels.is_empty() || !self.is_recent(ended, now) {
            *self = Self::new(view, now);
            return;
        }
        let hold = (self.lifetime / FLAP_HOLD).saturating_mul(1 << (flaps - 1).min(10));
        let stage = Stage::Back {
            hold_until: now + hold.min(MAX_HOLD),
        };
        let (notified_channels, number) = (
            std::mem::take(&mut self.notified_channels),
            self.latest.number,
        );
        *self = Self {
            stage,
            notified_channels,
            worst,
            flaps,
            ..Self::new(view, now)
        };
        self.latest.number = number;
    }

    /// Returns whether the end is recent enough for the incident to be flapping. An end in the future was recorded by a clock
    /// that was set back since; its age is unknown, and a duplicate notification is better than a missing one.
    fn is_recent(&self, ended: Timestamp, now: Timestamp) -> bool {
        let window = self
            .lifetime
            .saturating_mul(FLAP_LIVES)
            .min(MAX_FLAP_WINDOW);
        ended <= now + CLOCKS_DIFFER && now < ended + window
    }

    fn merge(&mut self, new: &[ReachedStep], loudest: Severity, now: Timestamp) {
        self.handled_steps
            .extend(new.iter().map(|step| step.id.clone()));
        if self.levels.is_empty() || loudest > self.severity() {
            self.levels.push((loudest, now));
        }
    }

    /// Only notified incidents are repeated.
    fn repeats_at(&self, count: u64) -> Option<Timestamp> {
        if !matches!(self.stage, Stage::Open)
            || self.notified_channels.is_empty()
            || self.severity() < Severity::Warning
        {
            return None;
        }
        // More portals than in the latest message are news, but not urgent: the back-off starts again.
        let repeats = if count > self.latest.count {
            0
        } else {
            self.repeats
        };
        Some(self.latest.at + REPEAT.0.saturating_mul(1 << repeats.min(10)).min(REPEAT.1))
    }

    fn notify(
        &mut self,
        view: &MessageContext,
        event: Event,
        to: BTreeSet<String>,
        now: Timestamp,
    ) -> Option<Notification> {
        let message = self.compose(view, event, now);
        self.notification(message, to)
    }

    fn compose(&self, view: &MessageContext, event: Event, now: Timestamp) -> Message {
        let mut message = view.message(event, self.severity(), now);
        message.levels.clone_from(&self.levels);
        message.number = self.latest.number;
        if self.flaps > 0 {
            let times = if self.flaps == 1 {
                "once".to_owned()
            } else {
                format!("{} times", self.flaps)
            };
            message
                .reason
                .push_str(&format!(" (it has come back {times})"));
        }
        message
    }

    fn notification(&mut self, mut message: Message, to: BTreeSet<String>) -> Option<Notification> {
        if to.is_empty() {
            return None;
        }
        if !self.notified_channels.is_empty() {
            message.number = self.latest.number.saturating_add(1);
        }
        self.latest = message.clone();
        self.is_notified |= message.event != Event::Resolved;
        self.worst = self.worst.max(message.severity);
        let to: Vec<_> = to
            .into_iter()
            .map(|name| (name.clone(), self.notified_channels.insert(name)))
            .collect();
        Some(Notification { message, to })
    }

    /// After the clock was set back, times in the future would suppress notifications for as long as the step.
    fn clamp_to(&mut self, now: Timestamp) {
        self.latest.at = self.latest.at.min(now);
        self.latest.since = self.latest.since.min(now);
        for (_, at) in &mut self.levels {
            *at = (*at).min(now);
        }
        match &mut self.stage {
            Stage::Back { hold_until } => *hold_until = (*hold_until).min(now + MAX_HOLD),
            Stage::Open | Stage::Acknowledged | Stage::Over { .. } => {}
        }
    }
}

/// Channels to notify of these steps. A step without a list goes to every channel, from `warning` on.
fn recipients(steps: &[ReachedStep], channels: &[String]) -> BTreeSet<String> {
    let to = |step: &ReachedStep| match &step.notify {
        Some(names) => names.clone(),
        None if step.severity >= Severity::Warning => channels.to_vec(),
        None => Vec::new(),
    };
    steps
        .iter()
        .flat_map(to)
        .filter(|name| channels.contains(name))
        .collect()
}

#[cfg(test)]
mod tests;
