//! The dead man's switch: pinged while every portal is fresh, told at once when an incident is open, and not pinged
//! otherwise, as while a renewal is retried, so that whoever listens notices by the silence what lasts.
//!
//! Must not ping for a daemon that cannot know: a state that cannot be read is no good news.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::bounded_delivery::{count, limited};
use crate::channel::{Channel, Delivery, HeartbeatState};
use crate::host::AlertingHost;
use crate::incidents::Incident;

/// Says once how things are, and waits until it is time again, or until something is wrong that was not.
pub async fn beat(
    host: &impl AlertingHost,
    channel: &Channel,
    every: Duration,
    stop: &CancellationToken,
) {
    let pulse = heartbeat_state(host).await;
    let ill = matches!(pulse, Some(HeartbeatState::Ill(_)));
    if let Some(pulse) = pulse {
        send(host, channel, pulse).await;
    }
    let mut board = host.outboxes().watch();
    let began = host.clock().tick();
    loop {
        let left = every.saturating_sub(host.clock().elapsed(began));
        if left.is_zero() || host.channel(&channel.name).is_none() {
            return;
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            changed = board.changed() => {
                if changed.is_err() || loudest(host).is_some() != ill {
                    return;
                }
            }
            () = host.clock().sleep(left) => {}
        }
    }
}

async fn send(host: &impl AlertingHost, channel: &Channel, pulse: HeartbeatState) {
    let delivery = limited(host, channel, host.notifier().beat(channel, pulse)).await;
    host.outboxes()
        .outbox(&channel.name)
        .queue()
        .noted(&delivery, host.clock().now());
    count(host, &channel.name, &delivery);
    if let Delivery::Failed { why, .. } | Delivery::Rejected(why) = &delivery {
        let name = &channel.name;
        tracing::warn!(channel = name, why, "{name} could not be pinged: {why}");
        host.outboxes().wake.notify_one();
    }
}

/// How things are; `None` if neither good nor bad enough to be said.
async fn heartbeat_state(host: &impl AlertingHost) -> Option<HeartbeatState> {
    if let Some(title) = loudest(host) {
        return Some(HeartbeatState::Ill(title));
    }
    host.is_well().await.then_some(HeartbeatState::Well)
}

/// The loudest open incident that somebody should look at.
fn loudest(host: &impl AlertingHost) -> Option<String> {
    let board = host.outboxes().board();
    let is_ill = |incident: &&Incident| incident.is_open() && host.fails_heartbeat(incident);
    let open = board.iter().filter(is_ill);
    open.max_by_key(|incident| incident.severity())
        .map(|incident| {
            let mut message = incident.latest.clone();
            message.severity = incident.severity();
            message.title()
        })
}
