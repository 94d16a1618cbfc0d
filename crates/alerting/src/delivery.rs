//! One channel: takes the alerts out of its outbox, one after the other, until each is delivered or out of date.
//!
//! At least once: an alert leaves the outbox when the receiver has it, so one that was under way in a crash is delivered
//! again. Must not decide what is said.

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

/// Alertmanager forgets a firing alert that is not sent again.
const RESEND: Duration = Duration::from_secs(60);
/// After a start it hears sooner, whatever time was lost before; but what that start mends at once is not fired again.
const RESEND_FIRST: Duration = Duration::from_secs(10);
/// And hears of a resolved one for so long.
const RESEND_RESOLVED: Duration = Duration::from_secs(300);
/// What is under way when the daemon stops may take so long.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);

/// Serves a channel until `stop`, or until the configuration does not name it any more. Returns its name.
pub async fn serve<H: AlertingHost>(host: Arc<H>, name: String, stop: CancellationToken) -> String {
    {
        let mut work = std::pin::pin!(deliver_all(&*host, &name, &stop));
        tokio::select! {
            biased;
            () = &mut work => {}
            // What the receiver is taking just now need not be sent to it again after the next start.
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
        let out = outbox.queue().tidy(now);
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
    let ended = outbox.queue().ended(&delivery, host.clock().now());
    count(host, name, &delivery);
    let (key, event) = (message.key.as_str(), message.event.as_str());
    match &delivery {
        Delivery::Delivered(answer) => {
            tracing::info!(
                channel = name,
                key,
                event,
                answer,
                "{name} was told: {}",
                message.title()
            );
        }
        Delivery::Rejected(why) => {
            tracing::error!(
                channel = name,
                key,
                event,
                why,
                "{name} refuses a message, it is not sent again: {why}"
            );
        }
        Delivery::Failed { why, .. } => {
            tracing::warn!(
                channel = name,
                key,
                event,
                why,
                "{name} could not be told, it is tried again: {why}"
            );
        }
    }
    match ended {
        Some(DeliveryEnd::Done(id)) => forget(host, vec![id]).await,
        Some(DeliveryEnd::Again(_)) | None => {}
    }
    // It may be broken, or well again.
    host.outboxes().wake.notify_one();
}

/// Sends Alertmanager again what is firing, and what is over since a few minutes.
async fn resend(host: &impl AlertingHost, channel: &Channel, outbox: &Outbox) {
    let now = host.clock().now();
    let board = host.outboxes().board();
    let messages: Vec<Message> = board
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
    outbox.queue().noted(&delivery, host.clock().now());
    count(host, &channel.name, &delivery);
    if let Delivery::Failed { why, .. } | Delivery::Rejected(why) = &delivery {
        tracing::warn!(
            channel = channel.name,
            why,
            "{} could not be told again what is firing: {why}",
            channel.name
        );
        host.outboxes().wake.notify_one();
    }
}

fn is_resent(incident: &Incident, channel: &str, now: Timestamp) -> bool {
    incident.heard.contains(channel)
        && match incident.stage {
            Stage::Open | Stage::Acknowledged => incident.spoken,
            Stage::Over { at } => {
                incident.latest.event == Event::Resolved && now.since(at) < RESEND_RESOLVED
            }
            // It has been told that this is over.
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
            "{name} was not told in time, and is not told any more: {}",
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

/// Takes alerts out of the state; if it refuses, with what is kept next.
async fn forget(host: &impl AlertingHost, done: Vec<i64>) {
    let keep = AlertChanges {
        done: done.clone(),
        ..AlertChanges::default()
    };
    if host.store(keep).await.is_err() {
        host.outboxes().done(done);
    }
}
