//! Alertmanager's API, version 2: labels are the identity of an alert, and an alert that is not resent resolves itself.
//!
//! The severity is a label, so a change of severity is another alert; the same request ends the one before. Must not
//! keep state: the caller lists the firing alerts.

use reqwest::Method;
use serde_json::{Map, Value, json};

use super::http_sender::{ChannelRequest, HttpSender, address, below};
use super::sender::{HOLDS, Sender};
use crate::Severity;
use crate::channel::Delivery;
use crate::message::{Event, Message};
use refreshd_secrets::ChannelSecret;
use refreshd_time::Timestamp;

/// Path of the alerts.
const PATH: &str = "/api/v2/alerts";

pub(super) async fn send(
    wire: &HttpSender,
    url: &ChannelSecret,
    authorization: Option<&ChannelSecret>,
    messages: &[Message],
    sender: Sender<'_>,
) -> Delivery {
    let alerts: Vec<_> = messages
        .iter()
        .flat_map(|message| alerts(message, sender))
        .collect();
    if alerts.is_empty() {
        return Delivery::Delivered("nothing is firing".to_owned());
    }
    let url = match address(url) {
        Ok(url) if url.path().trim_end_matches('/').ends_with(PATH) => url,
        Ok(url) => below(url, PATH),
        Err(failed) => return failed,
    };
    let body = Value::from(alerts).to_string().into_bytes();
    let (method, content_type, secret) = (Method::POST, "application/json", None);
    let request = ChannelRequest {
        method,
        url,
        authorization,
        content_type,
        body,
        secret,
    };
    match wire.send(request, sender.now).await {
        Ok(answer) => answer.usual(),
        Err(failed) => failed,
    }
}

/// Labels of an incident: constant over its lifetime, except for the severity.
pub(super) fn labels(
    message: &Message,
    severity: Severity,
    sender: Sender<'_>,
) -> Map<String, Value> {
    let mut labels = Map::new();
    let mut label = |name: &str, value: &str| labels.insert(name.to_owned(), value.into());
    label("alertname", "RefreshdIncident");
    label("incident", &message.key);
    label("instance", sender.instance);
    label("severity", severity.as_str());
    if let Some((subject, name)) = message.subject.label() {
        label(subject, name);
    }
    labels
}

/// Annotations of an incident.
pub(super) fn annotations(message: &Message, sender: Sender<'_>) -> Map<String, Value> {
    let mut annotations = Map::new();
    let mut annotation =
        |name: &str, value: String| annotations.insert(name.to_owned(), value.into());
    annotation("summary", message.title());
    annotation("description", message.lines(sender.now).join("\n"));
    if let Some(action) = message.action.as_ref().filter(|_| !message.is_over()) {
        annotation("action", action.clone());
    }
    if !message.portals.is_empty() {
        annotation(
            "portals",
            message
                .names()
                .unwrap_or_else(|| message.portals.join(", ")),
        );
    }
    annotations
}

/// Alert of the severity in force, and the ended alerts of the severities before it.
fn alerts(message: &Message, sender: Sender<'_>) -> Vec<Value> {
    let now = sender.now;
    let over = message.event == Event::Resolved;
    let since = message
        .levels
        .iter()
        .rev()
        .find(|(severity, _)| *severity == message.severity);
    let since = since.map_or(message.since, |(_, since)| *since);
    let ends = if over { message.at } else { now + HOLDS };
    let mut alerts = vec![alert(message, message.severity, (since, ends), sender)];
    // A severity ended when the next one began.
    let nexts = message.levels.iter().skip(1).map(|(_, since)| *since);
    let mut ended: Vec<(Severity, Timestamp, Timestamp)> = Vec::new();
    for ((severity, since), next) in message.levels.iter().zip(nexts) {
        ended.retain(|(known, ..)| known != severity);
        ended.push((*severity, *since, next));
    }
    let ended = ended
        .into_iter()
        .filter(|(severity, ..)| *severity != message.severity);
    alerts.extend(
        ended.map(|(severity, since, next)| {
            alert(message, severity, (since, next.min(now)), sender)
        }),
    );
    alerts
}

fn alert(
    message: &Message,
    severity: Severity,
    (since, ends): (Timestamp, Timestamp),
    sender: Sender<'_>,
) -> Value {
    let mut alert = json!({
        "labels": labels(message, severity, sender),
        "annotations": annotations(message, sender),
        "startsAt": since.to_string(),
        // Alertmanager rejects a whole request if one alert ends before it begins.
        "endsAt": ends.max(since).to_string(),
    });
    if let (Some(url), Some(alert)) = (sender.url, alert.as_object_mut()) {
        alert.insert("generatorURL".to_owned(), url.into());
    }
    alert
}

#[cfg(test)]
mod tests {
    use super::super::samples::{SENDER, at, message, resolved};
    use super::*;

    /// Severity, beginning and end of each alert.
    fn short(alerts: &[Value]) -> Vec<[String; 3]> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let short = |alert: &Value| {
            [
                &alert["labels"]["severity"],
                &alert["startsAt"],
                &alert["endsAt"],
            ]
            .map(text)
        };
        alerts.iter().map(short).collect()
    }

    #[test]
    fn an_alert_says_who_what_and_until_when() {
        let opened = Message {
            event: Event::Opened,
            levels: vec![(Severity::Critical, at(0))],
            ..message()
        };
        let expected = json!([{
            "labels": {
                "alertname": "RefreshdIncident", "incident": "portal/acme", "instance": "host-1",
                "severity": "critical", "portal": "acme",
            },
            "annotations": {
                "summary": "[critical] acme: the grant is dead: <invalid_grant> & more",
                "description": opened.lines(SENDER.now).join("\n"),
                "action": "refreshd import acme",
                "portals": "acme",
            },
            "startsAt": "2026-11-20T16:00:00Z",
            "endsAt": "2026-11-20T16:06:00Z",
            "generatorURL": "https://refreshd.example.org/?a=1&b=2",
        }]);
        assert_eq!(Value::from(alerts(&opened, SENDER)), expected);
        let bare = alerts(
            &opened,
            Sender {
                url: None,
                ..SENDER
            },
        );
        assert!(
            bare[0].get("generatorURL").is_none(),
            "an empty one would be no address"
        );
    }

    #[test]
    fn what_was_in_force_before_ends_with_the_raise() {
        assert_eq!(
            short(&alerts(&message(), SENDER)),
            [
                ["critical", "2026-11-20T16:00:00Z", "2026-11-20T16:06:00Z"],
                ["warning", "2026-11-20T15:50:00Z", "2026-11-20T16:00:00Z"],
            ]
        );
        // Alternating severities: each is one alert, and the one in force is not ended.
        let levels = [
            (Severity::Warning, -9),
            (Severity::Error, -6),
            (Severity::Warning, -3),
            (Severity::Error, 0),
        ];
        let levels = levels
            .map(|(severity, minute)| (severity, at(minute)))
            .to_vec();
        let fro = Message {
            levels,
            severity: Severity::Error,
            ..message()
        };
        assert_eq!(
            short(&alerts(&fro, SENDER)),
            [
                ["error", "2026-11-20T16:00:00Z", "2026-11-20T16:06:00Z"],
                ["warning", "2026-11-20T15:57:00Z", "2026-11-20T16:00:00Z"],
            ]
        );
    }

    #[test]
    fn the_end_ends_all_of_them_and_no_end_is_before_its_beginning() {
        assert_eq!(
            short(&alerts(&resolved(), SENDER)),
            [
                ["critical", "2026-11-20T16:00:00Z", "2026-11-20T16:00:00Z"],
                ["warning", "2026-11-20T15:50:00Z", "2026-11-20T16:00:00Z"],
            ]
        );
        // The clock was set back.
        let before = Sender {
            now: at(-60),
            ..SENDER
        };
        for alert in alerts(&message(), before) {
            assert!(
                alert["endsAt"].as_str() >= alert["startsAt"].as_str(),
                "{alert}"
            );
        }
        assert_eq!(
            alerts(
                &Message {
                    levels: Vec::new(),
                    ..message()
                },
                SENDER
            )
            .len(),
            1
        );
    }
}
