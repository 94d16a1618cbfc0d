//! What the alerter needs of the program that uses it, and what both exchange.

use crate::channel::Channel;
use crate::channels::Notifier;
use crate::incidents::reconcile::Incidents;
use crate::incidents::{AlertRules, Incident, Reconciled};
use crate::message::Message;
use crate::outbox::QueuedAlert;
use crate::outboxes::Outboxes;
use refreshd_time::Timestamp;
use refreshd_time::clock::Clock;

/// The program that uses the alerter. Errors are sentences for the log.
pub trait AlertingHost: Send + Sync + 'static {
    /// The clock.
    fn clock(&self) -> &Clock;

    /// The channels by the configuration in force.
    fn channels(&self) -> Vec<Channel>;

    /// One of them.
    fn channel(&self, name: &str) -> Option<Channel> {
        self.channels()
            .into_iter()
            .find(|channel| channel.name == name)
    }

    /// The names of those that hear of incidents: all but heartbeats.
    fn incident_channels(&self) -> Vec<String> {
        self.channels()
            .into_iter()
            .filter(|channel| channel.kind.hears_incidents())
            .map(|channel| channel.name)
            .collect()
    }

    /// From how many findings with one cause on these are one incident.
    fn group_threshold(&self) -> usize;

    /// The way to the channels.
    fn notifier(&self) -> Notifier;

    /// What waits for each channel, and what is open.
    fn outboxes(&self) -> &Outboxes;

    /// Waits until something may be wrong, or over.
    fn changed(&self) -> impl Future<Output = ()> + Send;

    /// What was stored before.
    fn load(&self) -> impl Future<Output = Result<StoredAlerts, String>> + Send;

    /// Stores changes durably, all or none. An alert is sent after that.
    fn store(&self, changes: AlertChanges) -> impl Future<Output = Result<(), String>> + Send;

    /// Finds everything that is wrong now, and decides with a [`crate::incidents::Reconciler`].
    fn collect(
        &self,
        incidents: &Incidents,
        rules: &AlertRules,
    ) -> impl Future<Output = Collected> + Send;

    /// The channels that are to be tested now.
    fn self_tests_due(&self, now: Timestamp) -> impl Future<Output = Vec<String>> + Send;

    /// Whether all is known to be well, so that a heartbeat may say so.
    fn is_well(&self) -> impl Future<Output = bool> + Send;

    /// Whether an open incident makes the heartbeat report a failure.
    fn fails_heartbeat(&self, incident: &Incident) -> bool;

    /// Counts how a delivery ended.
    fn count(&self, channel: &str, result: DeliveryResult);

    /// Logs that a channel does not deliver, or does again.
    fn log_channel(&self, channel: &str, message: &Message);
}

/// What one collection of findings came to.
pub struct Collected {
    /// What is to be done.
    pub decision: Reconciled,
    /// When the next silence ends.
    pub silent_until: Option<Timestamp>,
    /// Why the state could not be read; nothing is taken for over then.
    pub failure: Option<String>,
}

/// What the state knows of alerts, for a start.
#[derive(Debug, Default)]
pub struct StoredAlerts {
    /// All incidents, also those that are over and may come back.
    pub incidents: Vec<Incident>,
    /// What waits, in order.
    pub queued_alerts: Vec<QueuedAlert>,
    /// Rows that could not be understood.
    pub unreadable: usize,
}

/// What changes, all of it or nothing.
#[derive(Debug, Default, Clone)]
pub struct AlertChanges {
    /// Incidents, new or changed.
    pub incidents: Vec<Incident>,
    /// Incidents that are long over, by their keys.
    pub forgotten: Vec<String>,
    /// What waits from now on.
    pub queued_alerts: Vec<QueuedAlert>,
    /// Alerts that are done with.
    pub done: Vec<i64>,
}

impl AlertChanges {
    /// Whether there is anything to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Self {
            incidents,
            forgotten,
            queued_alerts,
            done,
        } = self;
        incidents.is_empty() && forgotten.is_empty() && queued_alerts.is_empty() && done.is_empty()
    }
}

/// How one attempt to deliver an alert ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryResult {
    /// The receiver has it.
    Delivered,
    /// It is tried again.
    Failed,
    /// The receiver does not want it.
    Rejected,
    /// It was out of date before it could be delivered.
    Expired,
}

impl DeliveryResult {
    /// Every result.
    pub const ALL: [Self; 4] = [Self::Delivered, Self::Failed, Self::Rejected, Self::Expired];

    /// As written in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Failed => "failed",
            Self::Rejected => "rejected",
            Self::Expired => "expired",
        }
    }
}
