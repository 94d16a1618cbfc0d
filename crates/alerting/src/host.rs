//! Port of the alerter: the interface to the program that uses it, and the types that they exchange.

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
    /// Clock.
    fn clock(&self) -> &Clock;

    /// Channels of the current configuration.
    fn channels(&self) -> Vec<Channel>;

    /// Channel with this name.
    fn channel(&self, name: &str) -> Option<Channel> {
        self.channels()
            .into_iter()
            .find(|channel| channel.name == name)
    }

    /// Names of the channels that receive incidents: all but heartbeats.
    fn incident_channels(&self) -> Vec<String> {
        self.channels()
            .into_iter()
            .filter(|channel| channel.kind.receives_incidents())
            .map(|channel| channel.name)
            .collect()
    }

    /// Number of findings with one cause that become one incident.
    fn group_threshold(&self) -> usize;

    /// Client for the channels.
    fn notifier(&self) -> Notifier;

    /// Outboxes of the channels, and the open incidents.
    fn outboxes(&self) -> &Outboxes;

    /// Waits until a finding may have appeared or disappeared.
    fn changed(&self) -> impl Future<Output = ()> + Send;

    /// Loads the stored data.
    fn load(&self) -> impl Future<Output = Result<StoredAlerts, String>> + Send;

    /// Stores changes durably, all or none. Alerts are sent after that.
    fn store(&self, changes: AlertChanges) -> impl Future<Output = Result<(), String>> + Send;

    /// Collects the current findings, and decides with a [`crate::incidents::Reconciler`].
    fn collect(
        &self,
        incidents: &Incidents,
        rules: &AlertRules,
    ) -> impl Future<Output = Collected> + Send;

    /// Channels whose periodic test is due.
    fn self_tests_due(&self, now: Timestamp) -> impl Future<Output = Vec<String>> + Send;

    /// Returns whether everything is known to be healthy, so that a heartbeat may report it.
    fn is_well(&self) -> impl Future<Output = bool> + Send;

    /// Returns whether an open incident makes the heartbeat report a failure.
    fn fails_heartbeat(&self, incident: &Incident) -> bool;

    /// Counts the result of a delivery.
    fn count(&self, channel: &str, result: DeliveryResult);

    /// Logs that deliveries to a channel fail, or succeed again.
    fn log_channel(&self, channel: &str, message: &Message);
}

/// Result of one collection of findings.
pub struct Collected {
    /// Decision on the incidents.
    pub decision: Reconciled,
    /// End of the silence that ends first.
    pub silent_until: Option<Timestamp>,
    /// Reason why the state could not be read. No incident is resolved then.
    pub failure: Option<String>,
}

/// Stored alerts, for a start.
#[derive(Debug, Default)]
pub struct StoredAlerts {
    /// All incidents, including resolved ones that may flap.
    pub incidents: Vec<Incident>,
    /// Undelivered alerts, in order.
    pub queued_alerts: Vec<QueuedAlert>,
    /// Rows that could not be parsed.
    pub unreadable: usize,
}

/// Changes to store, all or none.
#[derive(Debug, Default, Clone)]
pub struct AlertChanges {
    /// New or changed incidents.
    pub incidents: Vec<Incident>,
    /// Keys of incidents to delete.
    pub forgotten: Vec<String>,
    /// Alerts to deliver.
    pub queued_alerts: Vec<QueuedAlert>,
    /// Alerts that were delivered or dropped.
    pub done: Vec<i64>,
}

impl AlertChanges {
    /// Returns whether there is nothing to write.
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

/// Result of an attempt to deliver an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, strum::VariantArray)]
#[strum(serialize_all = "kebab-case")]
pub enum DeliveryResult {
    /// The receiver accepted it.
    Delivered,
    /// It is retried.
    Failed,
    /// The receiver rejected it for good.
    Rejected,
    /// It was out of date before it could be delivered.
    Expired,
}

impl DeliveryResult {
    /// Name in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}
