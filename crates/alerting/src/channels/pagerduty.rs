//! PagerDuty's Events API, version 2. Must not change the key of an incident: PagerDuty correlates events by it.

use serde_json::{Value, json};

use super::http_sender::{ChannelResponse, HttpSender, address};
use super::sender::Sender;
use super::text_limits::{details, fit, utf16};
use crate::Severity;
use crate::channel::Delivery;
use crate::message::{Event, Message};
use refreshd_secrets::ChannelSecret;

/// Maximum length of a summary, in characters.
const MAX_SUMMARY: usize = 1024;
/// Maximum size of an event, in bytes.
const MAX_EVENT_BYTES: usize = 512 * 1024;
/// Maximum length of a text in the details.
const MAX_DETAIL: usize = 8 * 1024;

pub(super) async fn send(
    wire: &HttpSender,
    url: &ChannelSecret,
    routing_key: &ChannelSecret,
    message: &Message,
    sender: Sender<'_>,
) -> Delivery {
    let mut delivery = Delivery::Rejected("no event to send".to_owned());
    for event in events(message, routing_key, sender) {
        let url = match address(url) {
            Ok(url) => url,
            Err(failed) => return failed,
        };
        delivery = match wire
            .post_json(url, Some(routing_key), &event, sender.now)
            .await
        {
            Ok(answer) => judge(answer),
            Err(failed) => failed,
        };
        if !matches!(delivery, Delivery::Delivered(_)) {
            break;
        }
    }
    delivery
}

/// Status 400 is an event that will never be accepted, or an unknown routing key, which an operator can correct. All
/// others are retried, as the documentation demands.
fn judge(answer: ChannelResponse) -> Delivery {
    match answer.status {
        200..300 => answer.delivered(),
        400 if !answer.body.to_ascii_lowercase().contains("routing") => answer.rejected(),
        _ => answer.failed(),
    }
}

/// One event. A test has two, a trigger and its resolution, so that no incident stays open.
fn events(message: &Message, routing_key: &ChannelSecret, sender: Sender<'_>) -> Vec<Value> {
    let key = message.dedup_key(sender.instance);
    let plain = |action: &str| json!({ "routing_key": routing_key.expose(), "event_action": action, "dedup_key": key });
    match message.event {
        Event::Opened | Event::Raised | Event::Repeated => {
            vec![trigger(message, &plain("trigger"), sender)]
        }
        Event::Acknowledged => vec![plain("acknowledge")],
        Event::Resolved => vec![plain("resolve")],
        Event::Test => vec![
            trigger(message, &plain("trigger"), sender),
            plain("resolve"),
        ],
    }
}

fn trigger(message: &Message, plain: &Value, sender: Sender<'_>) -> Value {
    let mut shown = message.portals.len();
    loop {
        let event = with_portals(message, plain.clone(), shown, sender);
        if shown == 0 || event.to_string().len() <= MAX_EVENT_BYTES {
            return event;
        }
        shown /= 2;
    }
}

fn with_portals(message: &Message, mut event: Value, shown: usize, sender: Sender<'_>) -> Value {
    let portals = message.portals.iter().take(shown).cloned().collect();
    let short = |text: &str| fit(text, MAX_DETAIL, utf16);
    let message = Message {
        portals,
        reason: short(&message.reason),
        action: message.action.as_deref().map(short),
        ..message.clone()
    };
    let severity = match message.severity {
        Severity::Notice => "info",
        Severity::Warning => "warning",
        Severity::Error => "error",
        Severity::Critical => "critical",
    };
    let (class, component) = message.subject.label().unwrap_or(("daemon", "refreshd"));
    if let Some(event) = event.as_object_mut() {
        event.insert(
            "payload".to_owned(),
            json!({
                "summary": fit(&message.title(), MAX_SUMMARY, utf16),
                "source": sender.instance,
                "severity": severity,
                "timestamp": message.at.to_string(),
                "component": component,
                "group": "refreshd",
                "class": class,
                "custom_details": details(&message, sender),
            }),
        );
        event.insert("client".to_owned(), "refreshd".into());
        if let Some(url) = sender.url {
            event.insert("client_url".to_owned(), url.into());
            event.insert(
                "links".to_owned(),
                json!([{ "href": url, "text": "refreshd's status page" }]),
            );
        }
    }
    event
}

#[cfg(test)]
mod tests {
    use super::super::samples::{SENDER, huge, message, resolved};
    use strum::VariantArray as _;

    use super::*;

    fn of(message: &Message) -> Vec<Value> {
        events(message, &ChannelSecret::new("k").unwrap(), SENDER)
    }

    #[test]
    fn an_event_is_as_documented() {
        let url = "https://refreshd.example.org/?a=1&b=2";
        let expected = json!([{
            "routing_key": "k",
            "event_action": "trigger",
            "dedup_key": "refreshd/host-1/portal/acme",
            "client": "refreshd",
            "client_url": url,
            "links": [{ "href": url, "text": "refreshd's status page" }],
            "payload": {
                "summary": "[critical] acme: the grant is dead: <invalid_grant> & more",
                "source": "host-1",
                "severity": "critical",
                "timestamp": "2026-11-20T16:00:00Z",
                "component": "acme",
                "group": "refreshd",
                "class": "portal",
                "custom_details": details(&message(), SENDER),
            },
        }]);
        assert_eq!(Value::from(of(&message())), expected);
    }

    #[test]
    fn each_event_has_its_action_and_all_have_one_key() {
        for (event, actions) in [
            (Event::Opened, vec!["trigger"]),
            (Event::Repeated, vec!["trigger"]),
            (Event::Acknowledged, vec!["acknowledge"]),
            (Event::Resolved, vec!["resolve"]),
            (Event::Test, vec!["trigger", "resolve"]),
        ] {
            let events = of(&Message {
                event,
                ..resolved()
            });
            assert_eq!(
                events
                    .iter()
                    .map(|event| &event["event_action"])
                    .collect::<Vec<_>>(),
                actions
            );
            assert!(
                events
                    .iter()
                    .all(|event| event["dedup_key"] == "refreshd/host-1/portal/acme")
            );
        }
        let of = |severity| {
            of(&Message {
                severity,
                ..message()
            })[0]["payload"]["severity"]
                .clone()
        };
        assert_eq!(
            Severity::VARIANTS
                .iter()
                .copied()
                .map(of)
                .collect::<Vec<_>>(),
            ["info", "warning", "error", "critical"]
        );
    }

    #[test]
    fn nothing_is_too_long() {
        let event = &of(&huge())[0];
        assert!(
            event["payload"]["summary"]
                .as_str()
                .unwrap()
                .encode_utf16()
                .count()
                <= 1024
        );
        assert!(event["dedup_key"].as_str().unwrap().len() <= 255);
        assert!(event.to_string().len() <= 512 * 1024);
        let details = &event["payload"]["custom_details"];
        assert!(
            details["portals"].as_array().unwrap().len() > 1000,
            "as many as there is room for"
        );
        assert_eq!(details["count"], 200_000);
    }

    #[test]
    fn only_400_is_for_ever_unless_it_is_about_the_key() {
        let answer = |status| ChannelResponse {
            status,
            body: String::new(),
            shown: String::new(),
            retry_after: None,
        };
        let key = ChannelResponse {
            body: r#"{"errors":["Invalid routing key"]}"#.to_owned(),
            ..answer(400)
        };
        assert!(matches!(judge(key), Delivery::Failed { .. }));
        assert!(matches!(judge(answer(202)), Delivery::Delivered(_)));
        assert!(matches!(judge(answer(400)), Delivery::Rejected(_)));
        for status in [403, 413, 429, 500, 503] {
            assert!(
                matches!(judge(answer(status)), Delivery::Failed { .. }),
                "{status}"
            );
        }
    }
}
