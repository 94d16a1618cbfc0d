//! Tests of channels, with or without a running daemon. Must not print, and must not know HTTP.

use futures_util::stream::{self, StreamExt as _};
use serde::{Deserialize, Serialize};

use crate::channel::{Channel, Delivery};
use crate::channels::Notifier;
use crate::message::Message;
use refreshd_time::Timestamp;

/// Number of concurrent tests.
const CONCURRENCY: usize = 8;

/// Result of a channel test. Fields are only ever added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestResult {
    /// Name of the channel.
    pub channel: String,
    /// Kind of the channel.
    pub kind: String,
    /// `delivered`, `rejected` or `failed`.
    pub result: String,
    /// Response of the receiver, or the error.
    pub answer: String,
}

impl TestResult {
    /// Returns whether the receiver accepted the message.
    #[must_use]
    pub fn is_delivered(&self) -> bool {
        self.result == "delivered"
    }
}

/// No channel has this name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("no channel is named {name}")]
pub struct UnknownChannel {
    /// The unknown name.
    pub name: String,
}

/// Sends a test message to one channel, or to all, and waits for the results.
///
/// # Errors
/// [`UnknownChannel`].
pub async fn test(
    notifier: &Notifier,
    channels: &[Channel],
    only: Option<&str>,
    now: Timestamp,
) -> Result<Vec<TestResult>, UnknownChannel> {
    let chosen = channels
        .iter()
        .filter(|channel| only.is_none_or(|only| channel.name == only));
    let chosen: Vec<_> = chosen.cloned().collect();
    if let (Some(name), true) = (only, chosen.is_empty()) {
        return Err(UnknownChannel {
            name: name.to_owned(),
        });
    }
    let tests = chosen
        .into_iter()
        .map(|channel| test_one(notifier.clone(), channel, now));
    Ok(stream::iter(tests).buffered(CONCURRENCY).collect().await)
}

async fn test_one(notifier: Notifier, channel: Channel, now: Timestamp) -> TestResult {
    let delivery = notifier
        .deliver(&channel, &Message::test(now, &channel.name), now)
        .await;
    let (result, answer) = match delivery {
        Delivery::Delivered(answer) => ("delivered", answer),
        Delivery::Rejected(why) => ("rejected", why),
        Delivery::Failed { why, .. } => ("failed", why),
    };
    let (kind, channel) = (channel.kind.as_str().to_owned(), channel.name);
    TestResult {
        channel,
        kind,
        result: result.to_owned(),
        answer,
    }
}
