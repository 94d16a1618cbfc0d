//! One delivery with a time limit, counted in metrics.

use std::time::Duration;

use crate::channel::{Channel, Delivery};
use crate::host::{AlertingHost, DeliveryResult};

/// A delivery that exceeds its own time limit is aborted after this extra time.
const GRACE: Duration = Duration::from_secs(5);

/// A receiver that hangs must not block its channel for good.
pub async fn limited(
    host: &impl AlertingHost,
    channel: &Channel,
    delivery: impl Future<Output = Delivery>,
) -> Delivery {
    let limit = channel.timeout + GRACE;
    let late = || Delivery::Failed {
        why: format!(
            "it took longer than {}",
            humantime::format_duration(channel.timeout)
        ),
        retry_after: None,
    };
    host.clock()
        .within(limit, delivery)
        .await
        .unwrap_or_else(late)
}

pub fn count(host: &impl AlertingHost, channel: &str, delivery: &Delivery) {
    let result = match delivery {
        Delivery::Delivered(_) => DeliveryResult::Delivered,
        Delivery::Rejected(_) => DeliveryResult::Rejected,
        Delivery::Failed { .. } => DeliveryResult::Failed,
    };
    host.count(channel, result);
}
