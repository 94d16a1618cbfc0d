//! The dead man's switch: pinged while every portal is fresh, told at once when an incident is open, and not pinged
//! otherwise, as while a renewal is retried, so that whoever listens notices by the silence what lasts.
//!
//! Must not ping for a daemon that cannot know: a state that cannot be read is no good news.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::daemon::alerts::bounded_delivery::{count, limited};
use crate::daemon::context::Context;
use crate::domain::channel::{Channel, Delivery, HeartbeatState};
use crate::domain::escalation::Severity;
use crate::domain::incidents::Incident;
use crate::domain::incidents::finding::is_refresh_end;
use crate::domain::portal::Kind;

/// Says once how things are, and waits until it is time again, or until something is wrong that was not.
pub async fn beat(shared: &Context, channel: &Channel, every: Duration, stop: &CancellationToken) {
    let pulse = heartbeat_state(shared).await;
    let ill = matches!(pulse, Some(HeartbeatState::Ill(_)));
    if let Some(pulse) = pulse {
        send(shared, channel, pulse).await;
    }
    let mut board = shared.outboxes.watch();
    let began = shared.clock.tick();
    loop {
        let left = every.saturating_sub(shared.clock.elapsed(began));
        if left.is_zero()
            || !shared
                .config()
                .channels
                .iter()
                .any(|known| known.name == channel.name)
        {
            return;
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            changed = board.changed() => {
                if changed.is_err() || loudest(shared).is_some() != ill {
                    return;
                }
            }
            () = shared.clock.sleep(left) => {}
        }
    }
}

async fn send(shared: &Context, channel: &Channel, pulse: HeartbeatState) {
    let delivery = limited(shared, channel, shared.notifier().beat(channel, pulse)).await;
    shared
        .outboxes
        .outbox(&channel.name)
        .queue()
        .noted(&delivery, shared.clock.now());
    count(shared, &channel.name, &delivery);
    if let Delivery::Failed { why, .. } | Delivery::Rejected(why) = &delivery {
        let name = &channel.name;
        tracing::warn!(channel = name, why, "{name} could not be pinged: {why}");
        shared.outboxes.wake.notify_one();
    }
}

/// How things are; `None` if neither good nor bad enough to be said.
async fn heartbeat_state(shared: &Context) -> Option<HeartbeatState> {
    if let Some(title) = loudest(shared) {
        return Some(HeartbeatState::Ill(title));
    }
    let census = shared.state.census(shared.clock.now()).await.ok()?;
    let concerned = census.total() - census.of(Kind::Unconfigured);
    (census.of(Kind::Fresh) == concerned && census.overdue == 0 && shared.health.is_live())
        .then_some(HeartbeatState::Well)
}

/// The loudest open incident that somebody should look at.
fn loudest(shared: &Context) -> Option<String> {
    let board = shared.outboxes.board();
    // A refresh token that ends in a month is no reason to be taken for dead until then.
    let is_ill = |incident: &&Incident| {
        let least = if is_refresh_end(&incident.key) {
            Severity::Critical
        } else {
            Severity::Warning
        };
        incident.is_open() && incident.severity() >= least
    };
    let open = board.iter().filter(is_ill);
    open.max_by_key(|incident| incident.severity())
        .map(|incident| {
            let mut message = incident.latest.clone();
            message.severity = incident.severity();
            message.title()
        })
}
