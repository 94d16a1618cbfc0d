//! Any HTTP server: the body that Alertmanager sends to webhooks (version 4), or the channel's template.
//!
//! An incident is one alert from its first message to its last: the fingerprint does not change with the severity, so
//! that a receiver does not see a resolution when it becomes worse. Must not invent a field: receivers are strict.

use reqwest::Method;
use serde_json::{Map, Value, json};

use super::alertmanager::{annotations, labels};
use super::http_sender::{ChannelRequest, HttpSender, address};
use super::sender::Sender;
use crate::channel::Delivery;
use crate::message::{Event, Message};
use crate::template::Template;
use refreshd_secrets::{ChannelSecret, Fingerprint};

/// Go's zero time, which Alertmanager writes for "not yet".
const ZERO_TIME: &str = "0001-01-01T00:00:00Z";

pub(super) struct To<'a> {
    pub(super) channel: &'a str,
    pub(super) url: &'a ChannelSecret,
    pub(super) authorization: Option<&'a ChannelSecret>,
}

pub(super) async fn send(
    wire: &HttpSender,
    to: To<'_>,
    template: Option<&Template>,
    message: &Message,
    sender: Sender<'_>,
) -> Delivery {
    let Some(template) = template else {
        let delivery = post(
            wire,
            &to,
            "application/json",
            body(to.channel, message, true, sender).to_string(),
            sender,
        )
        .await;
        // A receiver with its own list of alerts would keep the test open, and take the next one for a repetition.
        if message.event == Event::Test && matches!(delivery, Delivery::Delivered(_)) {
            let end = body(to.channel, message, false, sender).to_string();
            return post(wire, &to, "application/json", end, sender).await;
        }
        return delivery;
    };
    match template.render(message, sender.instance, sender.url, sender.now) {
        Ok(body) => post(wire, &to, template.content_type(), body, sender).await,
        Err(fault) => Delivery::Rejected(format!(
            "the channel's template cannot render the message: {fault}"
        )),
    }
}

async fn post(
    wire: &HttpSender,
    to: &To<'_>,
    content_type: &str,
    body: String,
    sender: Sender<'_>,
) -> Delivery {
    let url = match address(to.url) {
        Ok(url) => url,
        Err(failed) => return failed,
    };
    let (method, authorization, body) = (Method::POST, to.authorization, body.into_bytes());
    match wire
        .send(
            ChannelRequest {
                method,
                url,
                authorization,
                content_type,
                body,
                secret: None,
            },
            sender.now,
        )
        .await
    {
        Ok(answer) => answer.usual(),
        Err(failed) => failed,
    }
}

/// Body of version 4. A test fires and resolves; for other messages `fires` is their state.
fn body(channel: &str, message: &Message, fires: bool, sender: Sender<'_>) -> Value {
    let firing = message.event != Event::Resolved && fires;
    let status = if firing { "firing" } else { "resolved" };
    let labels = labels(message, message.severity, sender);
    let annotations = annotations(message, sender);
    let key = message.dedup_key(sender.instance);
    let group: Map<_, _> = labels
        .iter()
        .filter(|(name, _)| *name != "severity")
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let url = sender.url.unwrap_or_default();
    let ends = if firing {
        ZERO_TIME.to_owned()
    } else {
        message.at.max(message.since).to_string()
    };
    json!({
        "version": "4",
        "groupKey": key,
        "truncatedAlerts": 0,
        "status": status,
        "receiver": channel,
        "groupLabels": group,
        "commonLabels": labels,
        "commonAnnotations": annotations,
        "externalURL": url,
        "alerts": [{
            "status": status,
            "labels": labels,
            "annotations": annotations,
            "startsAt": message.since.to_string(),
            "endsAt": ends,
            "generatorURL": url,
            "fingerprint": fingerprint(&key),
        }],
    })
}

/// Sixteen hex digits, as in Alertmanager.
fn fingerprint(key: &str) -> String {
    Fingerprint::of(key.as_bytes())
        .bytes()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::samples::{SENDER, huge, message, resolved};
    use super::*;

    #[test]
    fn the_body_is_that_of_version_4() {
        let labels = json!({
            "alertname": "RefreshdIncident", "incident": "portal/acme", "instance": "host-1",
            "severity": "critical", "portal": "acme",
        });
        let annotations = json!({
            "summary": "[critical] acme: the grant is dead: <invalid_grant> & more",
            "description": message().lines(SENDER.now).join("\n"),
            "action": "refreshd import acme",
            "portals": "acme",
        });
        let url = "https://refreshd.example.org/?a=1&b=2";
        let expected = json!({
            "version": "4",
            "groupKey": "refreshd/host-1/portal/acme",
            "truncatedAlerts": 0,
            "status": "firing",
            "receiver": "ops",
            "groupLabels": {
                "alertname": "RefreshdIncident", "incident": "portal/acme", "instance": "host-1", "portal": "acme",
            },
            "commonLabels": labels,
            "commonAnnotations": annotations,
            "externalURL": url,
            "alerts": [{
                "status": "firing", "labels": labels, "annotations": annotations,
                "startsAt": "2026-11-20T15:50:00Z", "endsAt": "0001-01-01T00:00:00Z",
                "generatorURL": url, "fingerprint": fingerprint("refreshd/host-1/portal/acme"),
            }],
        });
        assert_eq!(body("ops", &message(), true, SENDER), expected);
    }

    #[test]
    fn the_end_is_that_of_the_same_alert() {
        let (first, last) = (
            body("ops", &message(), true, SENDER),
            body("ops", &resolved(), true, SENDER),
        );
        assert_eq!(
            (&last["status"], &last["alerts"][0]["status"]),
            (&"resolved".into(), &"resolved".into())
        );
        assert_eq!(last["alerts"][0]["endsAt"], "2026-11-20T16:00:00Z");
        for same in ["groupKey", "groupLabels"] {
            assert_eq!(first[same], last[same]);
        }
        let fingerprint = first["alerts"][0]["fingerprint"].as_str().unwrap();
        assert_eq!(
            (fingerprint, fingerprint.len()),
            (last["alerts"][0]["fingerprint"].as_str().unwrap(), 16)
        );
        assert!(
            last["commonAnnotations"].get("action").is_none(),
            "nothing is left to do"
        );
        assert_eq!(
            body("ops", &message(), false, SENDER)["status"],
            "resolved",
            "the end of a test"
        );
        assert!(
            body("ops", &huge(), true, SENDER)["groupKey"]
                .as_str()
                .unwrap()
                .len()
                <= 255
        );
    }
}
