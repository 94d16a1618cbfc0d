//! Alerts for the API and the commands: open incidents, silences, acknowledgements.
//!
//! Must not print, and must not know HTTP.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::adapters::state::StateError;
pub use crate::daemon::alerts::collect::EVERYTHING;
use crate::daemon::context::Context;
use crate::daemon::grants::error::OperationError;
use crate::daemon::grants::lookup::find;
use refreshd_alerting::AlertCommand;
use refreshd_alerting::Severity;
use refreshd_alerting::incidents::{Incident, Stage};
use refreshd_alerting::message::MessageSubject;

/// Alerts as `GET /v1/alerts` shows them. Fields are only ever added.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AlertsView {
    /// Open incidents, the loudest first.
    pub incidents: Vec<IncidentView>,
    /// Active silences.
    pub silences: Vec<SilenceView>,
    /// The channels.
    pub channels: Vec<ChannelView>,
}

/// An open incident.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IncidentView {
    /// Key of the incident.
    pub key: String,
    /// Present severity.
    pub severity: Severity,
    /// `open`, `acknowledged`, or `held`: the incident has come back, and is notified if it lasts.
    pub stage: String,
    /// Subject of the incident.
    pub subject: MessageSubject,
    /// Cause, as text for a person.
    pub reason: String,
    /// Recommended action of the operator.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub action: Option<String>,
    /// Beginning of the incident (RFC 3339).
    pub since: String,
    /// Time of the newest message about it (RFC 3339).
    #[serde(rename = "told_at")]
    pub notified_at: String,
    /// Portals concerned, at most as many as a message names.
    pub portals: Vec<String>,
    /// Number of portals concerned.
    pub count: u64,
    /// Channels that were notified.
    #[serde(rename = "told")]
    pub notified: Vec<String>,
}

/// A silence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SilenceView {
    /// Name of the portal; `*` is everything.
    pub portal: String,
    /// End of the silence (RFC 3339).
    pub until: String,
}

/// A channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelView {
    /// Name of the channel.
    pub channel: String,
    /// Kind of receiver.
    pub kind: String,
    /// Number of queued messages.
    pub waiting: usize,
    /// Time of the first failure in sequence (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub failing_since: Option<String>,
    /// Error of the newest failure.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub why: Option<String>,
}

impl IncidentView {
    fn of(incident: &Incident) -> Self {
        let latest = &incident.latest;
        let stage = match incident.stage {
            Stage::Open => "open",
            Stage::Acknowledged => "acknowledged",
            Stage::Back { .. } => "held",
            Stage::Over { .. } => "over",
        };
        Self {
            key: incident.key.clone(),
            severity: incident.severity(),
            stage: stage.to_owned(),
            subject: latest.subject.clone(),
            reason: latest.reason.clone(),
            action: latest.action.clone(),
            since: latest.since.to_string(),
            notified_at: latest.at.to_string(),
            portals: latest.portals.clone(),
            count: latest.count,
            notified: incident.notified_channels.iter().cloned().collect(),
        }
    }
}

/// Open incidents, the most severe first.
#[must_use]
pub fn open(shared: &Context) -> Vec<IncidentView> {
    let board = shared.outboxes.snapshot();
    let mut open: Vec<_> = board
        .iter()
        .filter(|incident| incident.is_open())
        .map(IncidentView::of)
        .collect();
    open.sort_by(|one, other| {
        other
            .severity
            .cmp(&one.severity)
            .then_with(|| one.since.cmp(&other.since))
    });
    open
}

/// Incidents, silences and channels.
///
/// # Errors
/// [`StateError`].
pub async fn report(shared: &Context) -> Result<AlertsView, StateError> {
    let now = shared.clock.now();
    let silences = shared.state.silences().await?;
    let silences = silences.into_iter().filter(|(_, until)| *until > now);
    let channel = |channel: &refreshd_alerting::channel::Channel| {
        let outbox = shared.outboxes.outbox(&channel.name);
        let queue = outbox.queue();
        ChannelView {
            channel: channel.name.clone(),
            kind: channel.kind.as_str().to_owned(),
            waiting: queue.len(),
            failing_since: queue.failing().map(|failing| failing.since.to_string()),
            why: queue.failing().map(|failing| failing.why.clone()),
        }
    };
    Ok(AlertsView {
        incidents: open(shared),
        silences: silences
            .map(|(portal, until)| SilenceView {
                portal,
                until: until.to_string(),
            })
            .collect(),
        channels: shared.config().channels.iter().map(channel).collect(),
    })
}

/// Suppresses notifications for a portal (or for everything: `*`) during `span`; without a span, ends its silence. Returns
/// the end of the silence.
///
/// # Errors
/// [`OperationError`].
pub async fn silence(
    shared: &Context,
    portal: &str,
    span: Option<Duration>,
) -> Result<Option<String>, OperationError> {
    let subject = if portal == EVERYTHING {
        EVERYTHING.to_owned()
    } else {
        find(shared, portal).await?.name.to_string()
    };
    let now = shared.clock.now();
    let until = span.map(|span| now + span);
    shared.state.silence(subject.clone(), until, now).await?;
    match until {
        Some(until) => tracing::info!(subject, %until, "alerts are silenced"),
        None => tracing::info!(subject, "alerts are not silenced any more"),
    }
    shared.outboxes.wake.notify_one();
    Ok(until.map(|until| until.to_string()))
}

/// Acknowledges an incident, by its key, or those of a portal. Returns how many were acknowledged.
pub async fn acknowledge(shared: &Context, subject: &str) -> usize {
    let (answer, count) = oneshot::channel();
    if shared
        .outboxes
        .commands()
        .send(AlertCommand::Acknowledge(subject.to_owned(), answer))
        .await
        .is_err()
    {
        return 0;
    }
    count.await.unwrap_or_default()
}
