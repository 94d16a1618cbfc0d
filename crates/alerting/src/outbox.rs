//! What waits for a channel: in order, with its own back-off, and without what is out of date.
//!
//! Must not send, nor know how long a delivery takes: it says what comes next, and is told what became of it.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::Duration;

use super::channel::Delivery;
use super::message::{Event, Message};
use refreshd_time::Timestamp;

/// First and longest wait after a failed delivery; each is twice the one before.
const RETRY_AFTER: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));
/// A channel that delivers nothing for so long is a problem itself.
const PATIENCE: Duration = Duration::from_secs(120);
/// Nobody is told of what is so old.
const MAX_AGE: Duration = Duration::from_secs(24 * 3600);
/// Nobody is woken for what is over and began longer ago than this.
const RESOLVED_MAX_AGE: Duration = Duration::from_secs(900);

/// A message on its way to a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueuedAlert {
    /// Its number; later alerts have higher ones.
    pub id: i64,
    /// The channel.
    pub channel: String,
    /// Whether the channel hears of this incident for the first time.
    pub first: bool,
    /// What is said.
    pub message: Message,
}

/// What waits for one channel.
#[derive(Debug, Default)]
pub struct AlertQueue {
    queued_alerts: VecDeque<QueuedAlert>,
    failures: u32,
    failing: Option<Failing>,
    next_at: Timestamp,
    tried_at: Timestamp,
}

/// A channel that delivers nothing at present.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failing {
    /// Since when.
    pub since: Timestamp,
    /// Why, most recently.
    pub why: String,
}

/// What a queue comes to after a delivery.
#[derive(Debug, PartialEq, Eq)]
pub enum DeliveryEnd {
    /// The alert of this number is done with, delivered or not: forget it.
    Done(i64),
    /// It is tried again then.
    Again(Timestamp),
}

impl AlertQueue {
    /// Puts an alert in line. One that was in line before, as after a reload, is not doubled.
    pub fn push(&mut self, queued_alert: QueuedAlert) {
        if self
            .queued_alerts
            .back()
            .is_none_or(|last| last.id < queued_alert.id)
        {
            self.queued_alerts.push_back(queued_alert);
        }
    }

    /// Whether this alert waits, or is under way.
    #[must_use]
    pub fn has(&self, id: i64) -> bool {
        self.queued_alerts
            .iter()
            .any(|queued_alert| queued_alert.id == id)
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queued_alerts.len()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queued_alerts.is_empty()
    }

    /// When the oldest was written.
    #[must_use]
    pub fn oldest(&self) -> Option<Timestamp> {
        self.queued_alerts
            .iter()
            .map(|queued_alert| queued_alert.message.at)
            .min()
    }

    /// What is to be delivered now, if it is time.
    #[must_use]
    pub fn next(&self, now: Timestamp) -> Option<&QueuedAlert> {
        self.queued_alerts
            .front()
            .filter(|_| self.next_at(now) <= now)
    }

    /// When the next delivery may be tried.
    #[must_use]
    pub fn next_at(&self, now: Timestamp) -> Timestamp {
        // What was tried in the future was tried by a clock that has been set back since.
        if self.tried_at > now {
            now
        } else {
            self.next_at
        }
    }

    /// Takes out what is out of date.
    pub fn tidy(&mut self, now: Timestamp) -> Vec<QueuedAlert> {
        let mut stories: BTreeMap<String, Vec<&QueuedAlert>> = BTreeMap::new();
        for queued_alert in &self.queued_alerts {
            stories
                .entry(queued_alert.message.key.clone())
                .or_default()
                .push(queued_alert);
        }
        let stale: HashSet<i64> = stories
            .values()
            .flat_map(|story| stale(story, now))
            .collect();
        if stale.is_empty() {
            return Vec::new();
        }
        let (out, queued_alerts) = std::mem::take(&mut self.queued_alerts)
            .into_iter()
            .partition(|queued_alert| stale.contains(&queued_alert.id));
        self.queued_alerts = queued_alerts;
        let out: VecDeque<QueuedAlert> = out;
        // Whoever has not heard the beginning begins with what is left.
        for begun in out.iter().filter(|queued_alert| queued_alert.first) {
            let next = self
                .queued_alerts
                .iter_mut()
                .find(|queued_alert| queued_alert.message.key == begun.message.key);
            if let Some(next) = next.filter(|next| next.message.event != Event::Resolved) {
                next.first = true;
            }
        }
        out.into()
    }

    /// Notes what became of the first alert.
    pub fn ended(&mut self, delivery: &Delivery, now: Timestamp) -> Option<DeliveryEnd> {
        self.noted(delivery, now);
        if let Delivery::Failed { .. } = delivery {
            return (!self.is_empty()).then_some(DeliveryEnd::Again(self.next_at));
        }
        self.queued_alerts
            .pop_front()
            .map(|queued_alert| DeliveryEnd::Done(queued_alert.id))
    }

    /// Notes how the receiver is, without an alert: a repetition of what it was told, or a ping.
    pub fn noted(&mut self, delivery: &Delivery, now: Timestamp) {
        self.tried_at = now;
        match delivery {
            // What is refused is refused by somebody who is there.
            Delivery::Delivered(_) | Delivery::Rejected(_) => {
                (self.failures, self.failing, self.next_at) = (0, None, now);
            }
            Delivery::Failed { why, retry_after } => {
                let wait = RETRY_AFTER
                    .0
                    .saturating_mul(1 << self.failures.min(10))
                    .min(RETRY_AFTER.1);
                self.failures = self.failures.saturating_add(1);
                self.next_at = now + wait.max(retry_after.unwrap_or_default()).min(MAX_AGE);
                let since = self
                    .failing
                    .take()
                    .map_or(now, |failing| failing.since.min(now));
                self.failing = Some(Failing {
                    since,
                    why: why.clone(),
                });
            }
        }
    }

    /// The channel was known not to deliver when refreshd ended, and nobody has seen it deliver since.
    pub fn was_failing(&mut self, since: Timestamp) {
        let why = "it did not deliver before refreshd was restarted".to_owned();
        self.failing.get_or_insert(Failing { since, why });
    }

    /// Since when and why it delivers nothing, if it does not.
    #[must_use]
    pub const fn failing(&self) -> Option<&Failing> {
        self.failing.as_ref()
    }

    /// The same, if that is for too long.
    #[must_use]
    pub fn broken(&self, now: Timestamp) -> Option<&Failing> {
        self.failing
            .as_ref()
            .filter(|failing| now.since(failing.since) >= PATIENCE)
    }

    /// When it will have been failing for too long, if it goes on.
    #[must_use]
    pub fn breaks_at(&self) -> Option<Timestamp> {
        self.failing
            .as_ref()
            .map(|failing| failing.since + PATIENCE)
    }

    /// Tries at once, as after the configuration changed.
    pub fn hurry(&mut self) {
        self.next_at = self.tried_at;
    }
}

/// What of an incident's alerts is out of date. An incident that is over is told as a whole or not at all: nobody must
/// hear that something began and never that it ended.
fn stale(story: &[&QueuedAlert], now: Timestamp) -> Vec<i64> {
    let age = |queued_alert: &QueuedAlert| now.since(queued_alert.message.at);
    let mut out = Vec::new();
    for episode in
        story.split_inclusive(|queued_alert| queued_alert.message.event == Event::Resolved)
    {
        let [first, ..] = episode else { continue };
        let over = episode
            .last()
            .is_some_and(|last| last.message.event == Event::Resolved);
        if over
            && first.first
            && first.message.event != Event::Resolved
            && age(first) >= RESOLVED_MAX_AGE
        {
            out.extend(episode.iter().map(|queued_alert| queued_alert.id));
            continue;
        }
        let oldest = if over { RESOLVED_MAX_AGE } else { MAX_AGE };
        for (at, queued_alert) in episode.iter().enumerate() {
            // A repetition says nothing that what comes after it does not say.
            let overtaken = queued_alert.message.event == Event::Repeated && at + 1 < episode.len();
            let heard_of = !(over && first.first);
            let old = queued_alert.message.event != Event::Resolved
                && heard_of
                && age(queued_alert) >= oldest;
            if overtaken || old {
                out.push(queued_alert.id);
            }
        }
    }
    out
}

#[cfg(test)]
#[path = "outbox_tests.rs"]
mod tests;
