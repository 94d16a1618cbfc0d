//! One channel: takes the alerts out of its outbox, one after the other, until each is delivered or out of date.
//!
//! At least once: an alert leaves the outbox when the receiver has it, so one that was under way in a crash is delivered
//! again. Must not decide what is said.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::adapters::metrics::Delivered;
use crate::adapters::state::AlertChanges;
use crate::config::Config;
use crate::daemon::alerts::bounded_delivery::{count, limited};
use crate::daemon::alerts::heartbeat;
use crate::daemon::alerts::outboxes::Outbox;
use crate::daemon::context::Context;
use crate::domain::channel::{Channel, ChannelConfig, Delivery};
use crate::domain::incidents::{Incident, Stage};
use crate::domain::message::{Event, Message};
use crate::domain::outbox::{DeliveryEnd, QueuedAlert};
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
pub async fn serve(shared: Arc<Context>, name: String, stop: CancellationToken) -> String {
    {
        let mut work = std::pin::pin!(deliver_all(&shared, &name, &stop));
        tokio::select! {
            biased;
            () = &mut work => {}
            // What the receiver is taking just now need not be sent to it again after the next start.
            () = stop.cancelled() => drop(shared.clock.within(SHUTDOWN_GRACE, work).await),
        }
    }
    name
}

async fn deliver_all(shared: &Context, name: &str, stop: &CancellationToken) {
    let outbox = shared.outboxes.outbox(name);
    let (mut resent, mut resend_after) = (shared.clock.tick(), RESEND_FIRST);
    while !stop.is_cancelled() {
        let config = shared.config();
        let Some(channel) = channel_of(&config, name) else {
            return;
        };
        if let ChannelConfig::Heartbeat { every, .. } = &channel.kind {
            heartbeat::beat(shared, channel, *every, stop).await;
            continue;
        }
        let now = shared.clock.now();
        let out = outbox.queue().tidy(now);
        drop_expired(shared, name, out).await;
        let next = outbox.queue().next(now).cloned();
        if let Some(queued_alert) = next {
            deliver(shared, channel, &outbox, &queued_alert).await;
            continue;
        }
        let resends = matches!(channel.kind, ChannelConfig::Alertmanager { .. });
        if resends && shared.clock.elapsed(resent) >= resend_after {
            (resent, resend_after) = (shared.clock.tick(), RESEND);
            resend(shared, channel, &outbox).await;
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
            wait.min(resend_after.saturating_sub(shared.clock.elapsed(resent)))
        } else {
            wait
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = outbox.filled.notified() => {}
            () = shared.clock.sleep(wait) => {}
        }
    }
}

/// The channel as the configuration in force has it.
pub(crate) fn channel_of<'c>(config: &'c Config, name: &str) -> Option<&'c Channel> {
    config.channels.iter().find(|channel| channel.name == name)
}

async fn deliver(shared: &Context, channel: &Channel, outbox: &Outbox, queued_alert: &QueuedAlert) {
    let name = &channel.name;
    let message = &queued_alert.message;
    let delivery = limited(
        shared,
        channel,
        shared
            .notifier()
            .deliver(channel, message, shared.clock.now()),
    )
    .await;
    let ended = outbox.queue().ended(&delivery, shared.clock.now());
    count(shared, name, &delivery);
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
        Some(DeliveryEnd::Done(id)) => forget(shared, vec![id]).await,
        Some(DeliveryEnd::Again(_)) | None => {}
    }
    // It may be broken, or well again.
    shared.outboxes.wake.notify_one();
}

/// Sends Alertmanager again what is firing, and what is over since a few minutes.
async fn resend(shared: &Context, channel: &Channel, outbox: &Outbox) {
    let now = shared.clock.now();
    let board = shared.outboxes.board();
    let messages: Vec<Message> = board
        .iter()
        .filter(|incident| is_resent(incident, &channel.name, now))
        .map(|i| i.latest.clone())
        .collect();
    if messages.is_empty() {
        return;
    }
    let delivery = limited(
        shared,
        channel,
        shared.notifier().resend(channel, &messages, now),
    )
    .await;
    outbox.queue().noted(&delivery, shared.clock.now());
    count(shared, &channel.name, &delivery);
    if let Delivery::Failed { why, .. } | Delivery::Rejected(why) = &delivery {
        tracing::warn!(
            channel = channel.name,
            why,
            "{} could not be told again what is firing: {why}",
            channel.name
        );
        shared.outboxes.wake.notify_one();
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

async fn drop_expired(shared: &Context, name: &str, queued_alerts: Vec<QueuedAlert>) {
    for queued_alert in &queued_alerts {
        let (key, event) = (
            queued_alert.message.key.as_str(),
            queued_alert.message.event.as_str(),
        );
        shared.metrics.delivery(name, Delivered::Expired);
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
            shared,
            queued_alerts
                .iter()
                .map(|queued_alert| queued_alert.id)
                .collect(),
        )
        .await;
    }
}

/// Takes alerts out of the state; if it refuses, with what is kept next.
async fn forget(shared: &Context, done: Vec<i64>) {
    let keep = AlertChanges {
        done: done.clone(),
        ..AlertChanges::default()
    };
    if shared.state.store_alerts(keep).await.is_err() {
        shared.outboxes.done(done);
    }
}
