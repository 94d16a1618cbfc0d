//! From what is wrong to what people hear: the alerter looks, `domain::incident` decides, the state keeps it, and a task
//! for each channel delivers it.
//!
//! Level-triggered: every look sees all that is wrong, so nothing is forgotten over a crash, and what was told is kept
//! with what is to be told in one transaction, so nothing is told twice. Where the state cannot be written, people are
//! told all the same, from memory. Must not touch renewals, nor make one wait.

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

/// What happens together is looked at together: a look waits until nothing new has come for so long, and no longer than
/// the second.
const COALESCE: (Duration, Duration) = (Duration::from_millis(1_500), Duration::from_secs(5));
/// While the state cannot be read, it is tried this often.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// After a look nothing is looked at for so many times the time it took, up to a limit.
const MIN_INTERVAL: u32 = 9;
const MAX_INTERVAL: Duration = Duration::from_secs(10);
/// Between two looks.
const MIN_WAIT: Duration = Duration::from_millis(500);

/// Looks, decides and hands over, until `stop`.
pub async fn run<H: AlertingHost>(host: Arc<H>, stop: CancellationToken) {
    let Some(mut alerter) = Alerter::begin(host, &stop).await else {
        return;
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = alerter.serve(&stop) => {}
    }
    // Each ends by itself, soon. What it could not deliver is in the outbox, and is delivered after the next start.
    while alerter.channels.join_next().await.is_some() {}
}

struct Alerter<H> {
    host: Arc<H>,
    orders: mpsc::Receiver<AlertCommand>,
    incidents: Incidents,
    next_id: i64,
    /// What the state has refused so far.
    unkept: AlertChanges,
    channels: JoinSet<String>,
    served: BTreeSet<String>,
}

impl<H: AlertingHost> Alerter<H> {
    /// Takes up what was told before. `None` if it is to stop.
    async fn begin(host: Arc<H>, stop: &CancellationToken) -> Option<Self> {
        let kept = loop {
            match host.load().await {
                Ok(kept) => break kept,
                Err(error) => {
                    tracing::error!(error, "cannot read what people were told; trying again");
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
                "some of what people were told cannot be understood; they may be told again"
            );
        }
        let orders = host.outboxes().take_orders()?;
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
                    .was_failing(incident.latest.since);
            }
        }
        let mut alerter = Self {
            host,
            orders,
            incidents,
            next_id,
            unkept: AlertChanges::default(),
            channels: JoinSet::new(),
            served: BTreeSet::new(),
        };
        alerter.store_and_queue(queued_alerts).await;
        alerter.show();
        Some(alerter)
    }

    async fn serve(&mut self, stop: &CancellationToken) {
        let host = Arc::clone(&self.host);
        loop {
            self.serve_channels(stop);
            let began = host.clock().tick();
            let looked = self.look().await;
            // Where a hundred thousand portals fail, looking at them must not cost what renewing them needs.
            host.clock()
                .sleep((host.clock().elapsed(began) * MIN_INTERVAL).min(MAX_INTERVAL))
                .await;
            let wait = match looked {
                Ok(next) => next.map_or(MAX_SLEEP, |next| next.until(host.clock().now())),
                Err(error) => {
                    tracing::error!(error, "cannot look for incidents; trying again");
                    RETRY_AFTER
                }
            };
            tokio::select! {
                biased;
                order = self.orders.recv() => match order {
                    Some(order) => self.carry_out(order).await,
                    None => return,
                },
                () = host.changed() => self.wait_for_quiet().await,
                () = host.clock().sleep(wait.max(MIN_WAIT)) => {}
            }
        }
    }

    /// Waits until nothing new comes for a moment: two hundred portals that fail together are one message.
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

    /// A task for each channel that the configuration names; one whose channel is gone ends by itself.
    fn serve_channels(&mut self, stop: &CancellationToken) {
        while let Some(ended) = self.channels.try_join_next() {
            match ended {
                Ok(name) => drop(self.served.remove(&name)),
                // It is in `served` for good: a channel whose delivery panics is not served again and again.
                Err(error) => {
                    tracing::error!(%error, "a channel ended by a bug; it delivers nothing until a restart");
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

    /// Looks at all that is wrong, and does what is to be done about it. When to look again.
    async fn look(&mut self) -> Result<Option<Timestamp>, String> {
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
            tellings,
            next,
        } = decision;
        let due = host.self_tests_due(now).await;
        let tests = due
            .into_iter()
            .map(|channel| self.queue_one(channel.clone(), true, Message::test(now, &channel)));
        let tests = tests.collect();
        self.adopt(changed, forgotten, tellings, tests).await;
        if let Some(error) = failure {
            return Err(error);
        }
        let breaks = host.outboxes().next_break(now);
        Ok([next, silent_until, breaks].into_iter().flatten().min())
    }

    /// Keeps what was decided, and then lets it be told.
    async fn adopt(
        &mut self,
        changed: Vec<Incident>,
        forgotten: Vec<String>,
        tellings: Vec<Notification>,
        tests: Vec<QueuedAlert>,
    ) {
        let mut queued_alerts = tests;
        for telling in tellings {
            self.log(&telling.message);
            queued_alerts.extend(self.queue_all(telling));
        }
        for incident in &changed {
            self.incidents
                .insert(incident.key.clone(), incident.clone());
        }
        for key in &forgotten {
            self.incidents.remove(key);
        }
        // The newest of each incident replaces what could not be kept before.
        let unkept = std::mem::take(&mut self.unkept);
        let AlertChanges {
            incidents,
            forgotten: gone,
            queued_alerts: waiting,
            done,
        } = unkept;
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
                // What was delivered while it was written must not be there after a restart.
                Ok(()) => {
                    let late = waiting.iter().filter(|queued_alert| !waits(queued_alert));
                    outboxes.done(late.map(|queued_alert| queued_alert.id));
                }
                Err(error) => {
                    // People must hear of it all the same, of a full disk above all; after a crash they may hear it twice.
                    if !queued_alerts.is_empty() {
                        tracing::warn!(error, "what people are told now is not on disk");
                    }
                    self.unkept = keep;
                }
            }
        }
        self.store_and_queue(queued_alerts).await;
        if !changed.is_empty() || !self.unkept.is_empty() {
            self.show();
        }
    }

    fn queue_all(&mut self, telling: Notification) -> Vec<QueuedAlert> {
        let Notification { message, to } = telling;
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

    /// Gives alerts to their channels; those of a channel that is not there any more are done with.
    async fn store_and_queue(&mut self, queued_alerts: Vec<QueuedAlert>) {
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

    /// Shows everybody what is open.
    fn show(&self) {
        self.host
            .outboxes()
            .show(self.incidents.values().cloned().collect());
    }

    async fn carry_out(&mut self, order: AlertCommand) {
        let AlertCommand::Acknowledge(subject, answer) = order;
        let now = self.host.clock().now();
        let of_portal = format!("portal/{subject}");
        let meant = |key: &str| {
            key == subject || key == of_portal || key.starts_with(&format!("{of_portal}/"))
        };
        let (mut changed, mut tellings, mut count) = (Vec::new(), Vec::new(), 0);
        for incident in self
            .incidents
            .values()
            .filter(|incident| incident.is_open() && meant(&incident.key))
        {
            let mut incident = incident.clone();
            count += 1;
            tellings.extend(incident.acknowledge(now));
            changed.push(incident);
        }
        self.adopt(changed, Vec::new(), tellings, Vec::new()).await;
        // Whoever asked may have gone.
        let _ = answer.send(count);
    }

    /// The log has heard of portals from whoever noticed; of channels it hears here.
    fn log(&self, message: &Message) {
        if let message::MessageSubject::Channel(name) = &message.subject {
            self.host.log_channel(name, message);
        }
    }
}
