//! Queue of undelivered alerts of one channel: in order, with its own back-off, without stale alerts.
//!
//! Must not send, nor measure time: it returns the next alert, and is given the result of its delivery.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::Duration;

use super::channel::Delivery;
use super::message::{Event, Message};
use refreshd_time::Timestamp;

/// First and longest delay after a failed delivery; it doubles with each failure.
const RETRY_AFTER: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));
/// A channel that has failed for this long is a finding itself.
const BROKEN_AFTER: Duration = Duration::from_secs(120);
/// Older alerts are dropped.
const MAX_AGE: Duration = Duration::from_secs(24 * 3600);
/// Alerts of a resolved incident that began earlier than this are dropped.
const RESOLVED_MAX_AGE: Duration = Duration::from_secs(900);

/// An undelivered alert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueuedAlert {
    /// Number; increases with each alert.
    pub id: i64,
    /// Channel.
    pub channel: String,
    /// True if it is the first message of this incident to the channel.
    pub first: bool,
    /// Message.
    pub message: Message,
}

/// Undelivered alerts of one channel.
#[derive(Debug, Default)]
pub struct AlertQueue {
    queued_alerts: VecDeque<QueuedAlert>,
    failures: u32,
    failing: Option<Failing>,
    next_at: Timestamp,
    tried_at: Timestamp,
}

/// State of a channel whose deliveries fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failing {
    /// First failure.
    pub since: Timestamp,
    /// Latest reason.
    pub why: String,
}

/// Effect of a delivery on the queue.
#[derive(Debug, PartialEq, Eq)]
pub enum DeliveryEnd {
    /// The alert with this number was delivered or dropped: delete it.
    Done(i64),
    /// The alert is retried at this time.
    RetryAt(Timestamp),
}

impl AlertQueue {
    /// Queues an alert, unless it is queued already, as after a reload.
    pub fn push(&mut self, queued_alert: QueuedAlert) {
        if self
            .queued_alerts
            .back()
            .is_none_or(|last| last.id < queued_alert.id)
        {
            self.queued_alerts.push_back(queued_alert);
        }
    }

    /// Returns whether this alert is queued.
    #[must_use]
    pub fn has(&self, id: i64) -> bool {
        self.queued_alerts
            .iter()
            .any(|queued_alert| queued_alert.id == id)
    }

    /// Number of queued alerts.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queued_alerts.len()
    }

    /// Returns whether no alert is queued.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queued_alerts.is_empty()
    }

    /// Time of the oldest queued alert.
    #[must_use]
    pub fn oldest(&self) -> Option<Timestamp> {
        self.queued_alerts
            .iter()
            .map(|queued_alert| queued_alert.message.at)
            .min()
    }

    /// Alert to deliver now, if one is due.
    #[must_use]
    pub fn next(&self, now: Timestamp) -> Option<&QueuedAlert> {
        self.queued_alerts
            .front()
            .filter(|_| self.next_at(now) <= now)
    }

    /// Earliest time of the next attempt.
    #[must_use]
    pub fn next_at(&self, now: Timestamp) -> Timestamp {
        // An attempt in the future was recorded by a clock that was set back since.
        if self.tried_at > now {
            now
        } else {
            self.next_at
        }
    }

    /// Removes stale alerts and returns them.
    pub fn remove_stale(&mut self, now: Timestamp) -> Vec<QueuedAlert> {
        let mut stories: BTreeMap<String, Vec<&QueuedAlert>> = BTreeMap::new();
        for queued_alert in &self.queued_alerts {
            stories
                .entry(queued_alert.message.key.clone())
                .or_default()
                .push(queued_alert);
        }
        let stale: HashSet<i64> = stories
            .values()
            .flat_map(|alerts| stale(alerts, now))
            .collect();
        if stale.is_empty() {
            return Vec::new();
        }
        let (out, queued_alerts) = std::mem::take(&mut self.queued_alerts)
            .into_iter()
            .partition(|queued_alert| stale.contains(&queued_alert.id));
        self.queued_alerts = queued_alerts;
        let out: VecDeque<QueuedAlert> = out;
        // If the opening was dropped, the oldest alert that is left becomes the first message.
        for opening in out.iter().filter(|queued_alert| queued_alert.first) {
            let next = self
                .queued_alerts
                .iter_mut()
                .find(|queued_alert| queued_alert.message.key == opening.message.key);
            if let Some(next) = next.filter(|next| next.message.event != Event::Resolved) {
                next.first = true;
            }
        }
        out.into()
    }

    /// Applies the result of delivering the first alert.
    pub fn record_result(&mut self, delivery: &Delivery, now: Timestamp) -> Option<DeliveryEnd> {
        self.record_health(delivery, now);
        if let Delivery::Failed { .. } = delivery {
            return (!self.is_empty()).then_some(DeliveryEnd::RetryAt(self.next_at));
        }
        self.queued_alerts
            .pop_front()
            .map(|queued_alert| DeliveryEnd::Done(queued_alert.id))
    }

    /// Records the health of the receiver after a request without an alert: a resend or a ping.
    pub fn record_health(&mut self, delivery: &Delivery, now: Timestamp) {
        self.tried_at = now;
        match delivery {
            // A rejection shows that the receiver is reachable.
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

    /// Restores that deliveries were failing before the restart.
    pub fn restore_failing(&mut self, since: Timestamp) {
        let why = "deliveries failed before refreshd was restarted".to_owned();
        self.failing.get_or_insert(Failing { since, why });
    }

    /// Failure state; `None` while deliveries succeed.
    #[must_use]
    pub const fn failing(&self) -> Option<&Failing> {
        self.failing.as_ref()
    }

    /// Failure state, if it has lasted too long.
    #[must_use]
    pub fn broken(&self, now: Timestamp) -> Option<&Failing> {
        self.failing
            .as_ref()
            .filter(|failing| now.since(failing.since) >= BROKEN_AFTER)
    }

    /// When a lasting failure becomes a finding.
    #[must_use]
    pub fn breaks_at(&self) -> Option<Timestamp> {
        self.failing
            .as_ref()
            .map(|failing| failing.since + BROKEN_AFTER)
    }

    /// Skips the back-off, as after a change of the configuration.
    pub fn retry_now(&mut self) {
        self.next_at = self.tried_at;
    }
}

/// Stale alerts among those of one incident. Alerts of a resolved incident are kept or dropped as a whole: a recipient
/// must not see an opening without its resolution.
fn stale(alerts: &[&QueuedAlert], now: Timestamp) -> Vec<i64> {
    let age = |queued_alert: &QueuedAlert| now.since(queued_alert.message.at);
    let mut out = Vec::new();
    for episode in
        alerts.split_inclusive(|queued_alert| queued_alert.message.event == Event::Resolved)
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
            // A repetition is obsolete as soon as another alert follows it.
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
