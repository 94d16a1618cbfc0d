//! Dead man's switch: pings while every portal is fresh, and reports a failure as soon as an incident is open. In all
//! other cases, such as while a renewal is retried, it sends nothing, so that the receiver detects a lasting problem by
//! the missing ping.
//!
//! Must not ping while the state cannot be read: the health of the daemon is unknown then.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::bounded_delivery::{count, limited};
use crate::channel::{Channel, Delivery, HeartbeatState};
use crate::host::AlertingHost;
use crate::incidents::Incident;

/// Sends one beat, then waits for the next interval, or for a failure that was not reported yet.
pub async fn beat(
    host: &impl AlertingHost,
    channel: &Channel,
    every: Duration,
    stop: &CancellationToken,
) {
    let state = heartbeat_state(host).await;
    let failing = matches!(state, Some(HeartbeatState::Failing(_)));
    if let Some(state) = state {
        send(host, channel, state).await;
    }
    let mut snapshot = host.outboxes().watch();
    let began = host.clock().tick();
    loop {
        let left = every.saturating_sub(host.clock().elapsed(began));
        if left.is_zero() || host.channel(&channel.name).is_none() {
            return;
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            changed = snapshot.changed() => {
                if changed.is_err() || loudest(host).is_some() != failing {
                    return;
                }
            }
            () = host.clock().sleep(left) => {}
        }
    }
}

async fn send(host: &impl AlertingHost, channel: &Channel, state: HeartbeatState) {
    let delivery = limited(host, channel, host.notifier().beat(channel, state)).await;
    host.outboxes()
        .outbox(&channel.name)
        .queue()
        .record_health(&delivery, host.clock().now());
    count(host, &channel.name, &delivery);
    if let Delivery::Failed { why, .. } | Delivery::Rejected(why) = &delivery {
        let name = &channel.name;
        tracing::warn!(channel = name, why, "{name} could not be pinged: {why}");
        host.outboxes().wake.notify_one();
    }
}

/// State to report; `None` if it is neither healthy nor a failure.
async fn heartbeat_state(host: &impl AlertingHost) -> Option<HeartbeatState> {
    if let Some(title) = loudest(host) {
        return Some(HeartbeatState::Failing(title));
    }
    host.is_well().await.then_some(HeartbeatState::Healthy)
}

/// Title of the open incident with the highest severity among those that fail the heartbeat.
fn loudest(host: &impl AlertingHost) -> Option<String> {
    let snapshot = host.outboxes().snapshot();
    let is_ill = |incident: &&Incident| incident.is_open() && host.fails_heartbeat(incident);
    let open = snapshot.iter().filter(is_ill);
    open.max_by_key(|incident| incident.severity())
        .map(|incident| {
            let mut message = incident.latest.clone();
            message.severity = incident.severity();
            message.title()
        })
}
