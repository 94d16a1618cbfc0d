//! Delivery task of one channel: delivers the alerts of its outbox in order, until each is delivered or stale.
//!
//! At least once: an alert leaves the outbox after the receiver accepted it, so a crash during a delivery repeats it.
//! Must not change messages.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::bounded_delivery::{count, limited};
use crate::channel::{Channel, ChannelConfig, Delivery};
use crate::heartbeat;
use crate::host::{AlertChanges, AlertingHost, DeliveryResult};
use crate::incidents::{Incident, Stage};
use crate::message::{Event, Message};
use crate::outbox::{DeliveryEnd, QueuedAlert};
use crate::outboxes::Outbox;
use refreshd_time::Timestamp;
use refreshd_time::clock::MAX_SLEEP;

/// Interval for resending firing alerts to Alertmanager, which resolves those that are not resent.
const RESEND: Duration = Duration::from_secs(60);
/// Delay of the first resend after a start: short, as the downtime counts, but long enough for problems that the start
/// ends.
const RESEND_FIRST: Duration = Duration::from_secs(10);
/// Duration of resending resolved alerts.
const RESEND_RESOLVED: Duration = Duration::from_secs(300);
/// Time limit for deliveries in progress when the daemon stops.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);

/// Serves a channel until `stop`, or until it is removed from the configuration. Returns its name.
pub async fn serve<H: AlertingHost>(host: Arc<H>, name: String, stop: CancellationToken) -> String {
    {
        let mut work = std::pin::pin!(deliver_all(&*host, &name, &stop));
        tokio::select! {
            biased;
            () = &mut work => {}
            // Finishing a delivery in progress avoids a duplicate after the next start.
            () = stop.cancelled() => drop(host.clock().within(SHUTDOWN_GRACE, work).await),
        }
    }
    name
}

async fn deliver_all(host: &impl AlertingHost, name: &str, stop: &CancellationToken) {
    let outbox = host.outboxes().outbox(name);
    let (mut resent, mut resend_after) = (host.clock().tick(), RESEND_FIRST);
    while !stop.is_cancelled() {
        let Some(channel) = host.channel(name) else {
            return;
        };
        let channel = &channel;
        if let ChannelConfig::Heartbeat { every, .. } = &channel.kind {
            heartbeat::beat(host, channel, *every, stop).await;
            continue;
        }
        let now = host.clock().now();
        let out = outbox.queue().remove_stale(now);
        drop_expired(host, name, out).await;
        let next = outbox.queue().next(now).cloned();
        if let Some(queued_alert) = next {
            deliver(host, channel, &outbox, &queued_alert).await;
            continue;
        }
        let resends = matches!(channel.kind, ChannelConfig::Alertmanager { .. });
        if resends && host.clock().elapsed(resent) >= resend_after {
            (resent, resend_after) = (host.clock().tick(), RESEND);
            resend(host, channel, &outbox).await;
            continue;
        }
        let queue_at = {
            let queue = outbox.queue();
            (!queue.is_empty()).then(|| queue.next_at(now))
        };
        let wait = queue_at
            .map_or(MAX_SLEEP, |at| at.until(now))
            .max(Duration::from_millis(100));
        let wait = if resends {
            wait.min(resend_after.saturating_sub(host.clock().elapsed(resent)))
        } else {
            wait
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = outbox.filled.notified() => {}
            () = host.clock().sleep(wait) => {}
        }
    }
}

async fn deliver(
    host: &impl AlertingHost,
    channel: &Channel,
    outbox: &Outbox,
    queued_alert: &QueuedAlert,
) {
    let name = &channel.name;
    let message = &queued_alert.message;
    let delivery = limited(
        host,
        channel,
        host.notifier()
            .deliver(channel, message, host.clock().now()),
    )
    .await;
    let ended = outbox.queue().record_result(&delivery, host.clock().now());
    count(host, name, &delivery);
    let (key, event) = (message.key.as_str(), message.event.as_str());
    match &delivery {
        Delivery::Delivered(answer) => {
            tracing::info!(
                channel = name,
                key,
                event,
                answer,
                "{name} accepted the message: {}",
                message.title()
            );
        }
        Delivery::Rejected(why) => {
            tracing::error!(
                channel = name,
                key,
                event,
                why,
                "{name} rejected a message, which is not retried: {why}"
            );
        }
        Delivery::Failed { why, .. } => {
            tracing::warn!(
                channel = name,
                key,
                event,
                why,
                "delivery to {name} failed, it is retried: {why}"
            );
        }
    }
    match ended {
        Some(DeliveryEnd::Done(id)) => forget(host, vec![id]).await,
        Some(DeliveryEnd::RetryAt(_)) | None => {}
    }
    // The channel may have become a finding, or recovered.
    host.outboxes().wake.notify_one();
}

/// Resends firing and recently resolved alerts to Alertmanager.
async fn resend(host: &impl AlertingHost, channel: &Channel, outbox: &Outbox) {
    let now = host.clock().now();
    let snapshot = host.outboxes().snapshot();
    let messages: Vec<Message> = snapshot
        .iter()
        .filter(|incident| is_resent(incident, &channel.name, now))
        .map(|i| i.latest.clone())
        .collect();
    if messages.is_empty() {
        return;
    }
    let delivery = limited(
        host,
        channel,
        host.notifier().resend(channel, &messages, now),
    )
    .await;
    outbox.queue().record_health(&delivery, host.clock().now());
    count(host, &channel.name, &delivery);
    if let Delivery::Failed { why, .. } | Delivery::Rejected(why) = &delivery {
        tracing::warn!(
            channel = channel.name,
            why,
            "{} could not be resent the firing alerts: {why}",
            channel.name
        );
        host.outboxes().wake.notify_one();
    }
}

fn is_resent(incident: &Incident, channel: &str, now: Timestamp) -> bool {
    incident.notified_channels.contains(channel)
        && match incident.stage {
            Stage::Open | Stage::Acknowledged => incident.is_notified,
            Stage::Over { at } => {
                incident.latest.event == Event::Resolved && now.since(at) < RESEND_RESOLVED
            }
            // Its resolution was notified.
            Stage::Back { .. } => false,
        }
}

async fn drop_expired(host: &impl AlertingHost, name: &str, queued_alerts: Vec<QueuedAlert>) {
    for queued_alert in &queued_alerts {
        let (key, event) = (
            queued_alert.message.key.as_str(),
            queued_alert.message.event.as_str(),
        );
        host.count(name, DeliveryResult::Expired);
        tracing::warn!(
            channel = name,
            key,
            event,
            "{name}: dropped an alert that expired before it could be delivered: {}",
            queued_alert.message.title()
        );
    }
    if !queued_alerts.is_empty() {
        forget(
            host,
            queued_alerts
                .iter()
                .map(|queued_alert| queued_alert.id)
                .collect(),
        )
        .await;
    }
}

/// Deletes alerts from the state. If that fails, they are deleted with the next change.
async fn forget(host: &impl AlertingHost, done: Vec<i64>) {
    let keep = AlertChanges {
        done: done.clone(),
        ..AlertChanges::default()
    };
    if host.store(keep).await.is_err() {
        host.outboxes().done(done);
    }
}
