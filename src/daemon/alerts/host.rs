//! Implements the alerter's host with the daemon's state, configuration, log and metrics.
//!
//! Must not decide about notifications: `refreshd_alerting::incidents` does.

use refreshd_alerting::channel::Channel;
use refreshd_alerting::channels::Notifier;
use refreshd_alerting::incidents::reconcile::Incidents;
use refreshd_alerting::incidents::{AlertRules, Incident};
use refreshd_alerting::message::Message;
use refreshd_alerting::{
    AlertChanges, AlertingHost, Collected, DeliveryResult, Outboxes, Severity, StoredAlerts,
};
use refreshd_time::Timestamp;
use refreshd_time::clock::Clock;

use crate::config::Config;
use crate::daemon::alerts::collect::collect;
use crate::daemon::alerts::escalation_log::{EscalationSubject, log_escalation};
use crate::daemon::context::Context;
use crate::domain::error_chain::error_chain;
use crate::domain::escalation::EscalationNotice;
use crate::domain::finding::is_refresh_end;
use crate::domain::portal::Kind;

/// Mark in the state: time of the last test of the channels.
const SELF_TEST: &str = "self-test";

impl AlertingHost for Context {
    fn clock(&self) -> &Clock {
        &self.clock
    }

    fn channels(&self) -> Vec<Channel> {
        self.config().channels.clone()
    }

    fn group_threshold(&self) -> usize {
        usize::try_from(self.config().alerts.group_threshold).unwrap_or(usize::MAX)
    }

    fn notifier(&self) -> Notifier {
        Self::notifier(self)
    }

    fn outboxes(&self) -> &Outboxes {
        &self.outboxes
    }

    async fn changed(&self) {
        tokio::select! {
            () = self.outboxes.wake.notified() => {}
            () = self.conditions.changed.notified() => {}
        }
    }

    async fn load(&self) -> Result<StoredAlerts, String> {
        self.state
            .alerts()
            .await
            .map_err(|error| error_chain(&error))
    }

    async fn store(&self, changes: AlertChanges) -> Result<(), String> {
        let stored = self.state.store_alerts(changes).await;
        stored.map_err(|error| error_chain(&error))
    }

    async fn collect(&self, incidents: &Incidents, rules: &AlertRules) -> Collected {
        collect(self, &self.config(), incidents, rules).await
    }

    async fn self_tests_due(&self, now: Timestamp) -> Vec<String> {
        self_tests_due(self, &self.config(), now).await
    }

    async fn is_well(&self) -> bool {
        let Ok(census) = self.state.census(self.clock.now()).await else {
            return false;
        };
        let concerned = census.total() - census.of(Kind::Unconfigured);
        census.of(Kind::Fresh) == concerned && census.overdue == 0 && self.health.is_live()
    }

    fn fails_heartbeat(&self, incident: &Incident) -> bool {
        // A refresh token that ends in a month must not make the heartbeat fail until then.
        let least = if is_refresh_end(&incident.key) {
            Severity::Critical
        } else {
            Severity::Warning
        };
        incident.severity() >= least
    }

    fn count(&self, channel: &str, result: DeliveryResult) {
        self.metrics.delivery(channel, result);
    }

    fn log_channel(&self, channel: &str, message: &Message) {
        let step = if message.is_over() {
            "resolved"
        } else {
            "channel"
        };
        let notice = EscalationNotice {
            step: step.to_owned(),
            severity: message.severity,
            reason: message.reason.clone(),
            action: message.action.clone().unwrap_or_else(|| "none".to_owned()),
            remaining: None,
        };
        log_escalation(EscalationSubject::Channel(channel), &notice);
    }
}

/// Channels that are due for the periodic self-test, if it is configured.
async fn self_tests_due(shared: &Context, config: &Config, now: Timestamp) -> Vec<String> {
    let Some(every) = config.alerts.self_test else {
        return Vec::new();
    };
    match shared.state.marked(SELF_TEST).await {
        Ok(Some(last)) if last <= now && now.since(last) < every => return Vec::new(),
        Ok(_) => {}
        Err(_) => return Vec::new(),
    }
    // Marked first: without the mark the test would be repeated at each collection.
    if shared.state.mark(SELF_TEST, now).await.is_err() {
        return Vec::new();
    }
    tracing::info!("testing every alert channel, because of [alerts] self_test");
    shared.incident_channels()
}
