//! Tests of channels: whether what is sent arrives, with a daemon and without. Must not print, and must not know HTTP.

use futures_util::stream::{self, StreamExt as _};
use serde::{Deserialize, Serialize};

use crate::channel::{Channel, Delivery};
use crate::channels::Notifier;
use crate::message::Message;
use refreshd_time::Timestamp;

/// Channels tested at a time.
const AT_ONCE: usize = 8;

/// How the test of a channel ended. Fields are only ever added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestResult {
    /// The channel.
    pub channel: String,
    /// What is at its other end.
    pub kind: String,
    /// `delivered`, `rejected` or `failed`.
    pub result: String,
    /// What the receiver answered, or why it did not.
    pub answer: String,
}

impl TestResult {
    /// Whether it arrived.
    #[must_use]
    pub fn is_delivered(&self) -> bool {
        self.result == "delivered"
    }
}

/// No channel has that name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("no channel is named {name}{}", suggestion.as_ref().map(|other| format!("; did you mean {other}?")).unwrap_or_default())]
pub struct UnknownChannel {
    name: String,
    suggestion: Option<String>,
}

/// Sends a test to a channel, or to every one, and waits for the answers.
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
            suggestion: nearest(name, channels),
        });
    }
    let trials = chosen
        .into_iter()
        .map(|channel| test_one(notifier.clone(), channel, now));
    Ok(stream::iter(trials).buffered(AT_ONCE).collect().await)
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

fn nearest(name: &str, channels: &[Channel]) -> Option<String> {
    let likeness = |channel: &Channel| strsim::jaro_winkler(name, &channel.name);
    let nearest = channels
        .iter()
        .max_by(|one, other| likeness(one).total_cmp(&likeness(other)))?;
    (likeness(nearest) > 0.8).then(|| nearest.name.clone())
}
