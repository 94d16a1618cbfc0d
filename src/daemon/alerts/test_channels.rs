//! Tests of channels, with a daemon and without. Must not print, and must not know HTTP.

use refreshd_alerting::channel::Channel;
use refreshd_alerting::channel_test::{TestResult, UnknownChannel, test};
use refreshd_alerting::channels::Notifier;
use refreshd_time::Timestamp;

use crate::domain::similar::hint;

/// Sends a test message to one channel, or to all, and waits for the results.
///
/// # Errors
/// No channel has that name: a sentence with the nearest name.
pub async fn test_channels(
    notifier: &Notifier,
    channels: &[Channel],
    only: Option<&str>,
    now: Timestamp,
) -> Result<Vec<TestResult>, String> {
    let names = || channels.iter().map(|channel| channel.name.as_str());
    let tested = test(notifier, channels, only, now).await;
    tested.map_err(|unknown| {
        let UnknownChannel { name } = &unknown;
        format!("{unknown}{}", hint(name, names()))
    })
}
