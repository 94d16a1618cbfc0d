//! The alerter: collects findings, lets [`crate::incidents`] decide, persists the decision, and runs a delivery task
//! for each channel.
//!
//! Level-triggered: every collection sees all findings, so a crash loses none. The notified steps and the queued alerts
//! are stored in one transaction, so no notification is duplicated. If the state cannot be written, alerts are
//! delivered from memory. Must not touch renewals, nor delay one.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::delivery;
use crate::host::{AlertChanges, AlertingHost, Collected, StoredAlerts};
use crate::incidents::reconcile::Incidents;
use crate::incidents::{AlertRules, Incident, Notification, Reconciled};
use crate::message::{self, Message};
use crate::outbox::QueuedAlert;
use crate::outboxes::AlertCommand;
use refreshd_time::Timestamp;
use refreshd_time::clock::MAX_SLEEP;

/// Simultaneous events are collected together: a collection waits until no event came for the first time, at most for
/// the second.
const COALESCE: (Duration, Duration) = (Duration::from_millis(1_500), Duration::from_secs(5));
/// Delay between attempts to read the state.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// Pause after a collection, as a multiple of its duration, up to a limit.
const MIN_INTERVAL: u32 = 9;
const MAX_INTERVAL: Duration = Duration::from_secs(10);
/// Minimum interval between two collections.
const MIN_WAIT: Duration = Duration::from_millis(500);

/// Collects, decides and queues until `stop`.
pub async fn run<H: AlertingHost>(host: Arc<H>, stop: CancellationToken) {
    let Some(mut alerter) = Alerter::start(host, &stop).await else {
        return;
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = alerter.serve(&stop) => {}
    }
    // Each task ends by itself. Undelivered alerts stay in the outbox and are delivered after the next start.
    while alerter.channels.join_next().await.is_some() {}
}

struct Alerter<H> {
    host: Arc<H>,
    commands: mpsc::Receiver<AlertCommand>,
    incidents: Incidents,
    next_id: i64,
    /// Changes that the state could not store so far.
    unsaved: AlertChanges,
    channels: JoinSet<String>,
    served: BTreeSet<String>,
}

impl<H: AlertingHost> Alerter<H> {
    /// Loads the stored alerts. `None` if it was stopped.
    async fn start(host: Arc<H>, stop: &CancellationToken) -> Option<Self> {
        let kept = loop {
            match host.load().await {
                Ok(kept) => break kept,
                Err(error) => {
                    tracing::error!(
                        error,
                        "cannot read the stored incidents and alerts; trying again"
                    );
                }
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return None,
                () = host.clock().sleep(RETRY_AFTER) => {}
            }
        };
        let StoredAlerts {
            incidents,
            queued_alerts,
            unreadable,
        } = kept;
        if unreadable > 0 {
            tracing::warn!(
                rows = unreadable,
                "some stored incidents or alerts cannot be parsed; their notifications may be repeated"
            );
        }
        let commands = host.outboxes().take_commands()?;
        let next_id = queued_alerts
            .last()
            .map_or(0, |queued_alert| queued_alert.id)
            + 1;
        let incidents: Incidents = incidents
            .into_iter()
            .map(|incident| (incident.key.clone(), incident))
            .collect();
        for incident in incidents.values().filter(|incident| incident.is_open()) {
            if let message::MessageSubject::Channel(name) = &incident.latest.subject {
                host.outboxes()
                    .outbox(name)
                    .queue()
                    .restore_failing(incident.latest.since);
            }
        }
        let mut alerter = Self {
            host,
            commands,
            incidents,
            next_id,
            unsaved: AlertChanges::default(),
            channels: JoinSet::new(),
            served: BTreeSet::new(),
        };
        alerter.enqueue(queued_alerts).await;
        alerter.publish();
        Some(alerter)
    }

    async fn serve(&mut self, stop: &CancellationToken) {
        let host = Arc::clone(&self.host);
        loop {
            self.serve_channels(stop);
            let began = host.clock().tick();
            let reconciled = self.reconcile().await;
            // With a hundred thousand failing portals, collections must not use the time that renewals need.
            host.clock()
                .sleep((host.clock().elapsed(began) * MIN_INTERVAL).min(MAX_INTERVAL))
                .await;
            let wait = match reconciled {
                Ok(next) => next.map_or(MAX_SLEEP, |next| next.until(host.clock().now())),
                Err(error) => {
                    tracing::error!(error, "cannot collect findings; trying again");
                    RETRY_AFTER
                }
            };
            tokio::select! {
                biased;
                command = self.commands.recv() => match command {
                    Some(command) => self.execute(command).await,
                    None => return,
                },
                () = host.changed() => self.wait_for_quiet().await,
                () = host.clock().sleep(wait.max(MIN_WAIT)) => {}
            }
        }
    }

    /// Waits for a burst of events to end: two hundred portals that fail together are one message.
    async fn wait_for_quiet(&self) {
        let host = &self.host;
        let began = host.clock().tick();
        while host.clock().elapsed(began) < COALESCE.1 {
            tokio::select! {
                biased;
                () = host.changed() => {}
                () = host.clock().sleep(COALESCE.0) => return,
            }
        }
    }

    /// Starts a task for each channel of the configuration. A task ends by itself when its channel is removed.
    fn serve_channels(&mut self, stop: &CancellationToken) {
        while let Some(ended) = self.channels.try_join_next() {
            match ended {
                Ok(name) => drop(self.served.remove(&name)),
                // It stays in `served`: a task that panicked is not restarted again and again.
                Err(error) => {
                    tracing::error!(%error, "a channel task ended by a bug; it delivers nothing until a restart");
                }
            }
        }
        for channel in self.host.channels() {
            if self.served.insert(channel.name.clone()) {
                let task =
                    delivery::serve(Arc::clone(&self.host), channel.name.clone(), stop.clone());
                self.channels.spawn(task);
            }
        }
    }

    /// Collects and applies the decision. Returns the time of the next collection.
    async fn reconcile(&mut self) -> Result<Option<Timestamp>, String> {
        let host = Arc::clone(&self.host);
        let now = host.clock().now();
        let rules = AlertRules {
            group_threshold: host.group_threshold(),
            channels: host.incident_channels(),
            now,
        };
        let Collected {
            decision,
            silent_until,
            failure,
        } = host.collect(&self.incidents, &rules).await;
        let Reconciled {
            changed,
            forgotten,
            notifications,
            next,
        } = decision;
        let due = host.self_tests_due(now).await;
        let tests = due
            .into_iter()
            .map(|channel| self.queue_one(channel.clone(), true, Message::test(now, &channel)));
        let tests = tests.collect();
        self.apply(changed, forgotten, notifications, tests).await;
        if let Some(error) = failure {
            return Err(error);
        }
        let breaks = host.outboxes().next_break(now);
        Ok([next, silent_until, breaks].into_iter().flatten().min())
    }

    /// Persists the decision, then queues its alerts.
    async fn apply(
        &mut self,
        changed: Vec<Incident>,
        forgotten: Vec<String>,
        notifications: Vec<Notification>,
        tests: Vec<QueuedAlert>,
    ) {
        let mut queued_alerts = tests;
        for notification in notifications {
            self.log(&notification.message);
            queued_alerts.extend(self.queue_all(notification));
        }
        for incident in &changed {
            self.incidents
                .insert(incident.key.clone(), incident.clone());
        }
        for key in &forgotten {
            self.incidents.remove(key);
        }
        // The newest version of an incident replaces one that could not be stored.
        let unsaved = std::mem::take(&mut self.unsaved);
        let AlertChanges {
            incidents,
            forgotten: gone,
            queued_alerts: waiting,
            done,
        } = unsaved;
        let outboxes = &self.host.outboxes();
        let waits = |queued_alert: &QueuedAlert| {
            outboxes
                .outbox(&queued_alert.channel)
                .queue()
                .has(queued_alert.id)
        };
        let newer = |old: &Incident| changed.iter().all(|new| new.key != old.key);
        let mut keep = AlertChanges {
            incidents: incidents
                .into_iter()
                .filter(newer)
                .chain(changed.iter().cloned())
                .collect(),
            forgotten: gone.into_iter().chain(forgotten).collect(),
            queued_alerts: waiting
                .iter()
                .filter(|queued_alert| waits(queued_alert))
                .chain(&queued_alerts)
                .cloned()
                .collect(),
            done,
        };
        keep.incidents
            .retain(|incident| self.incidents.contains_key(&incident.key));
        keep.done.extend(outboxes.take_done());
        if !keep.is_empty() {
            match self.host.store(keep.clone()).await {
                // An alert that was delivered meanwhile must not be sent again after a restart.
                Ok(()) => {
                    let late = waiting.iter().filter(|queued_alert| !waits(queued_alert));
                    outboxes.done(late.map(|queued_alert| queued_alert.id));
                }
                Err(error) => {
                    // They are delivered all the same, above all for a full disk; a crash may duplicate them.
                    if !queued_alerts.is_empty() {
                        tracing::warn!(
                            error,
                            "cannot store new alerts; they are delivered from memory"
                        );
                    }
                    self.unsaved = keep;
                }
            }
        }
        self.enqueue(queued_alerts).await;
        if !changed.is_empty() || !self.unsaved.is_empty() {
            self.publish();
        }
    }

    fn queue_all(&mut self, notification: Notification) -> Vec<QueuedAlert> {
        let Notification { message, to } = notification;
        let channels = self.host.channels();
        let known = |name: &str| channels.iter().any(|channel| channel.name == name);
        let mut queued_alerts = Vec::new();
        for (channel, first) in to.into_iter().filter(|(name, _)| known(name)) {
            queued_alerts.push(self.queue_one(channel, first, message.clone()));
        }
        queued_alerts
    }

    fn queue_one(&mut self, channel: String, first: bool, message: Message) -> QueuedAlert {
        let id = self.next_id;
        self.next_id += 1;
        QueuedAlert {
            id,
            channel,
            first,
            message,
        }
    }

    /// Queues alerts for their channels. Alerts of removed channels are dropped.
    async fn enqueue(&mut self, queued_alerts: Vec<QueuedAlert>) {
        let channels = self.host.channels();
        let mut done = Vec::new();
        for queued_alert in queued_alerts {
            if channels
                .iter()
                .any(|channel| channel.name == queued_alert.channel)
            {
                self.host
                    .outboxes()
                    .outbox(&queued_alert.channel)
                    .put(queued_alert);
            } else {
                done.push(queued_alert.id);
            }
        }
        self.host.outboxes().done(done);
    }

    /// Publishes the open incidents.
    fn publish(&self) {
        self.host
            .outboxes()
            .publish(self.incidents.values().cloned().collect());
    }

    async fn execute(&mut self, command: AlertCommand) {
        let AlertCommand::Acknowledge(subject, answer) = command;
        let now = self.host.clock().now();
        let portal_key = format!("portal/{subject}");
        let matches = |key: &str| {
            key == subject || key == portal_key || key.starts_with(&format!("{portal_key}/"))
        };
        let (mut changed, mut notifications, mut count) = (Vec::new(), Vec::new(), 0);
        for incident in self
            .incidents
            .values()
            .filter(|incident| incident.is_open() && matches(&incident.key))
        {
            let mut incident = incident.clone();
            count += 1;
            notifications.extend(incident.acknowledge(now));
            changed.push(incident);
        }
        self.apply(changed, Vec::new(), notifications, Vec::new())
            .await;
        // The requester may be gone.
        let _ = answer.send(count);
    }

    /// Findings of portals are logged where they occur, those of channels here.
    fn log(&self, message: &Message) {
        if let message::MessageSubject::Channel(name) = &message.subject {
            self.host.log_channel(name, message);
        }
    }
}
