//! Alert receivers that check requests as strictly as the real services document: an unknown or missing field, a wrong
//! type or a text that is too long is refused as they would, and recorded as a complaint.
//!
//! Each is a path: `/webhook/…`, `/alertmanager`, `/pagerduty`, `/slack/…`, `/bot…`, `/push`, `/beat/…`. Must not know how
//! the program builds its requests.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use refreshd_time::clock::Clock;
use serde_json::{Map, Value, json};

use super::Rig;

/// Secrets that a receiver must not repeat. They identify the right one.
pub const TOKEN: &str = "123456:ABC-secretOfTheBot";
pub const ROUTING_KEY: &str = "0123456789abcdef0123456789abcdef";
pub const AUTHORIZATION: &str = "Bearer secretOfTheWebhook1";

/// A received request.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub body: String,
    pub authorization: String,
    pub content_type: String,
}

impl Seen {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }
}

/// Behaviour for requests from now on.
#[derive(Clone, Debug)]
pub enum Behaviour {
    /// The real service's response.
    Check,
    /// This response, with headers.
    Respond(u16, Vec<(&'static str, String)>, String),
    /// The real service's response, after a delay.
    Slow(Duration),
    /// No response.
    Hang,
}

#[derive(Clone)]
pub struct Receivers {
    pub address: SocketAddr,
    shared: Arc<Mutex<Book>>,
}

struct Book {
    seen: Vec<Seen>,
    complaints: Vec<String>,
    play: Behaviour,
}

impl Receivers {
    /// Listens on the rig's runtime.
    pub fn listen(rig: &Rig) -> Self {
        let listener = rig
            .runtime
            .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
            .expect("a free port");
        let address = listener.local_addr().expect("its address");
        let book = Book {
            seen: Vec::new(),
            complaints: Vec::new(),
            play: Behaviour::Check,
        };
        let shared = Arc::new(Mutex::new(book));
        let routes = Router::new()
            .fallback(answer)
            .with_state(Arc::clone(&shared));
        rig.runtime
            .spawn(async move { axum::serve(listener, routes).await });
        Self { address, shared }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn play(&self, play: Behaviour) {
        self.shared.lock().expect("no thread has panicked").play = play;
    }

    /// Every request so far with this path prefix.
    pub fn seen(&self, path: &str) -> Vec<Seen> {
        let book = self.shared.lock().expect("no thread has panicked");
        book.seen
            .iter()
            .filter(|seen| seen.path.starts_with(path))
            .cloned()
            .collect()
    }

    /// Asserts that no receiver got a request that the real service would refuse.
    #[track_caller]
    pub fn no_complaints(&self) {
        assert_eq!(
            self.shared
                .lock()
                .expect("no thread has panicked")
                .complaints,
            Vec::<String>::new()
        );
    }
}

async fn answer(
    State(book): State<Arc<Mutex<Book>>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let header = |name: &str| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_owned()
    };
    let seen = Seen {
        method: method.to_string(),
        path: uri.path().to_owned(),
        body: String::from_utf8_lossy(&body).into_owned(),
        authorization: header("authorization"),
        content_type: header("content-type"),
    };
    let play = {
        let mut book = book.lock().expect("no thread has panicked");
        book.seen.push(seen.clone());
        book.play.clone()
    };
    if let Behaviour::Slow(by) = play {
        Clock::system().sleep(by).await;
    }
    match play {
        Behaviour::Hang => std::future::pending().await,
        Behaviour::Respond(status, headers, body) => {
            let mut response =
                (StatusCode::from_u16(status).expect("a status"), body).into_response();
            for (name, value) in headers {
                response
                    .headers_mut()
                    .insert(name, value.parse().expect("a header"));
            }
            response
        }
        Behaviour::Check | Behaviour::Slow(_) => {
            let (status, body, complaint) = check(&seen);
            if let Some(complaint) = complaint {
                book.lock()
                    .expect("no thread has panicked")
                    .complaints
                    .push(format!("{}: {complaint}: {}", seen.path, seen.body));
            }
            (StatusCode::from_u16(status).expect("a status"), body).into_response()
        }
    }
}

type Checked = Result<(), String>;
/// Result of a check, the response if it passes, and the response if not.
type Judged = (Checked, (u16, Value), fn(&str) -> (u16, Value));

/// Status, body, and the defect of the request, unless it is a wrong secret only.
fn check(seen: &Seen) -> (u16, String, Option<String>) {
    let json = seen.json();
    let path = seen.path.as_str();
    let (checked, good, refusal): Judged = match path {
        "/pagerduty" if json["routing_key"] != ROUTING_KEY => {
            return (
                400,
                json!({"status": "invalid event", "errors": ["invalid routing key"]}).to_string(),
                None,
            );
        }
        "/pagerduty" => (
            pagerduty(&json),
            (
                202,
                json!({"status": "success", "message": "Event processed"}),
            ),
            |why| (400, json!({"status": "invalid event", "errors": [why]})),
        ),
        _ if path.starts_with("/slack/") && path != "/slack/T0/B0/secretOfTheHook" => {
            return (404, "no_service".into(), None);
        }
        _ if path.starts_with("/slack/") => (slack(&json), (200, Value::Null), |_| {
            (400, json!("invalid_payload"))
        }),
        _ if path.starts_with("/bot") && path != format!("/bot{TOKEN}/sendMessage") => {
            return (
                401,
                json!({"ok": false, "error_code": 401, "description": "Unauthorized"}).to_string(),
                None,
            );
        }
        _ if path.starts_with("/bot") => (
            telegram(&json),
            (200, json!({"ok": true, "result": {"message_id": 1}})),
            |why| {
                (
                    400,
                    json!({"ok": false, "error_code": 400, "description": format!("Bad Request: {why}")}),
                )
            },
        ),
        "/webhook/secretOfThePath1" if seen.authorization != AUTHORIZATION => {
            return (401, format!("who is {}?", seen.authorization), None);
        }
        "/webhook/secretOfThePath1" => {
            (webhook(&json), (200, Value::Null), |why| (422, json!(why)))
        }
        "/alertmanager/api/v2/alerts" => (alertmanager(&json), (200, Value::Null), |why| {
            (400, json!(why))
        }),
        "/push" => (Ok(()), (200, json!({"id": 1})), |why| (400, json!(why))),
        "/beat/secret-of-the-beat-1" => (
            is(seen.method == "GET" && seen.body.is_empty(), "a GET"),
            (200, json!("OK")),
            |why| (400, json!(why)),
        ),
        "/beat/secret-of-the-beat-1/fail" => (
            is(seen.method == "POST" && !seen.body.is_empty(), "a POST"),
            (200, json!("OK")),
            |why| (400, json!(why)),
        ),
        _ => return (404, format!("nothing at {path}"), None),
    };
    let checked = checked.and_then(|()| {
        let is_json = seen.content_type == "application/json"
            || path.starts_with("/beat/")
            || path == "/push";
        is(is_json, "application/json")
    });
    let text = |value: Value| match value {
        Value::Null if path.starts_with("/slack/") => "ok".to_owned(),
        Value::Null => String::new(),
        Value::String(text) => text,
        other => other.to_string(),
    };
    match checked {
        Ok(()) => (good.0, text(good.1), None),
        Err(why) => {
            let (status, body) = refusal(&why);
            (status, text(body), Some(why))
        }
    }
}

fn is(holds: bool, what: &str) -> Checked {
    if holds {
        Ok(())
    } else {
        Err(format!("is not {what}"))
    }
}

/// An object with all of the required fields, perhaps some of the optional ones, and no others.
fn fields<'v>(
    value: &'v Value,
    required: &[&str],
    optional: &[&str],
) -> Result<&'v Map<String, Value>, String> {
    let map = value.as_object().ok_or("is no object")?;
    for name in required {
        is(map.contains_key(*name), &format!("complete: {name}"))?;
    }
    for name in map.keys() {
        is(
            required.contains(&name.as_str()) || optional.contains(&name.as_str()),
            &format!("a known field: {name}"),
        )?;
    }
    Ok(map)
}

/// A text of so many UTF-16 code units at least and at most.
fn text(value: &Value, lengths: std::ops::RangeInclusive<usize>) -> Checked {
    let length = value
        .as_str()
        .ok_or_else(|| format!("is no text: {value}"))?
        .encode_utf16()
        .count();
    is(
        lengths.contains(&length),
        &format!("{lengths:?} characters: {length}"),
    )
}

fn time(value: &Value) -> Result<std::time::SystemTime, String> {
    let text = value.as_str().ok_or("is no time")?;
    humantime::parse_rfc3339(text).map_err(|error| format!("is no time: {text}: {error}"))
}

fn address(value: &Value) -> Checked {
    let text = value.as_str().ok_or("is no address")?;
    is(reqwest::Url::parse(text).is_ok(), "an address")
}

fn texts(value: &Value) -> Checked {
    let map = value.as_object().ok_or("is no object")?;
    map.values().try_for_each(|value| text(value, 0..=100_000))
}

/// https://developer.pagerduty.com/docs/send-alert-event
fn pagerduty(event: &Value) -> Checked {
    let of_trigger: &[&str] = &["payload", "client", "client_url", "links", "images"];
    let map = fields(
        event,
        &["routing_key", "event_action"],
        &[of_trigger, &["dedup_key"]].concat(),
    )?;
    is(event.to_string().len() <= 512 * 1024, "at most 512 KB")?;
    text(&event["routing_key"], 32..=32)?;
    text(&event["dedup_key"], 1..=255)?;
    match event["event_action"].as_str() {
        Some("acknowledge" | "resolve") => {
            return fields(event, &["routing_key", "event_action", "dedup_key"], &[]).map(drop);
        }
        other => is(other == Some("trigger"), "an action")?,
    }
    let optional = ["timestamp", "component", "group", "class", "custom_details"];
    let payload = fields(
        &event["payload"],
        &["summary", "source", "severity"],
        &optional,
    )?;
    text(&payload["summary"], 1..=1024)?;
    text(&payload["source"], 1..=1024)?;
    is(
        ["critical", "error", "warning", "info"]
            .contains(&payload["severity"].as_str().unwrap_or("")),
        "a severity",
    )?;
    time(&payload["timestamp"])?;
    is(
        payload["custom_details"].is_object(),
        "an object of details",
    )?;
    for link in map
        .get("links")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        address(&fields(link, &["href"], &["text"])?["href"])?;
    }
    map.get("client_url").map_or(Ok(()), address)
}

/// https://api.slack.com/reference/block-kit/blocks
fn slack(message: &Value) -> Checked {
    let message = fields(message, &["text", "blocks"], &[])?;
    text(&message["text"], 1..=40_000)?;
    let blocks = message["blocks"].as_array().ok_or("blocks are no list")?;
    is((1..=50).contains(&blocks.len()), "1 to 50 blocks")?;
    for block in blocks {
        match block["type"].as_str() {
            Some("header") => {
                let header = fields(
                    fields(block, &["type", "text"], &[]).map(|block| &block["text"])?,
                    &["type", "text"],
                    &["emoji"],
                )?;
                is(header["type"] == "plain_text", "plain_text")?;
                text(&header["text"], 1..=150)?;
            }
            Some("section") => mrkdwn(&fields(block, &["type", "text"], &[])?["text"])?,
            Some("context") => {
                let elements = fields(block, &["type", "elements"], &[])?["elements"]
                    .as_array()
                    .ok_or("no elements")?;
                is((1..=10).contains(&elements.len()), "1 to 10 elements")?;
                elements.iter().try_for_each(mrkdwn)?;
            }
            other => return Err(format!("an unknown block: {other:?}")),
        }
    }
    Ok(())
}

fn mrkdwn(object: &Value) -> Checked {
    let object = fields(object, &["type", "text"], &["verbatim"])?;
    is(object["type"] == "mrkdwn", "mrkdwn")?;
    text(&object["text"], 1..=3000)
}

/// https://core.telegram.org/bots/api#sendmessage
fn telegram(message: &Value) -> Checked {
    let optional = ["parse_mode", "link_preview_options", "disable_notification"];
    let message = fields(message, &["chat_id", "text"], &optional)?;
    is(
        message["chat_id"].is_string() || message["chat_id"].is_i64(),
        "a chat",
    )?;
    text(&message["text"], 1..=4096)?;
    is(message["parse_mode"] == "HTML", "HTML")?;
    // Tags are closed, and there is no other tag or entity.
    let mut rest = message["text"].as_str().unwrap_or_default().to_owned();
    for tag in ["<b>", "</b>", "</a>", "&amp;", "&lt;", "&gt;"] {
        rest = rest.replace(tag, "");
    }
    while let Some(start) = rest.find("<a href=\"") {
        let end = rest[start..].find("\">").ok_or("can't parse entities")?;
        rest.replace_range(start..start + end + 2, "");
    }
    is(!rest.contains(['<', '>', '&']), "HTML that can be parsed")
}

/// https://prometheus.io/docs/alerting/latest/configuration/#webhook_config
fn webhook(body: &Value) -> Checked {
    let required = [
        "version",
        "groupKey",
        "truncatedAlerts",
        "status",
        "receiver",
        "groupLabels",
        "commonLabels",
        "commonAnnotations",
        "externalURL",
        "alerts",
    ];
    let body = fields(body, &required, &[])?;
    is(
        body["version"] == "4" && body["truncatedAlerts"].is_u64(),
        "version 4",
    )?;
    ["groupKey", "receiver"]
        .iter()
        .try_for_each(|name| text(&body[*name], 1..=1000))?;
    text(&body["externalURL"], 0..=2000)?;
    ["groupLabels", "commonLabels", "commonAnnotations"]
        .iter()
        .try_for_each(|name| texts(&body[*name]))?;
    let status = |value: &Value| is(value == "firing" || value == "resolved", "a status");
    status(&body["status"])?;
    let alerts = body["alerts"]
        .as_array()
        .filter(|alerts| !alerts.is_empty())
        .ok_or("no alerts")?;
    for alert in alerts {
        let required = [
            "status",
            "labels",
            "annotations",
            "startsAt",
            "endsAt",
            "generatorURL",
            "fingerprint",
        ];
        let alert = fields(alert, &required, &[])?;
        status(&alert["status"])?;
        texts(&alert["labels"])?;
        texts(&alert["annotations"])?;
        time(&alert["startsAt"])?;
        let never = alert["endsAt"] == "0001-01-01T00:00:00Z";
        is(
            never == (alert["status"] == "firing"),
            "an end that fits its status",
        )?;
        if !never {
            is(
                time(&alert["endsAt"])? >= time(&alert["startsAt"])?,
                "an end after the beginning",
            )?;
        }
        text(&alert["generatorURL"], 0..=2000)?;
        let fingerprint = alert["fingerprint"].as_str().unwrap_or_default();
        is(
            fingerprint.len() == 16 && fingerprint.chars().all(|c| c.is_ascii_hexdigit()),
            "a fingerprint",
        )?;
    }
    Ok(())
}

/// https://github.com/prometheus/alertmanager/blob/main/api/v2/openapi.yaml
fn alertmanager(alerts: &Value) -> Checked {
    let alerts = alerts
        .as_array()
        .filter(|alerts| !alerts.is_empty())
        .ok_or("is no list")?;
    for alert in alerts {
        let alert = fields(
            alert,
            &["labels"],
            &["annotations", "startsAt", "endsAt", "generatorURL"],
        )?;
        texts(&alert["labels"])?;
        let names = alert["labels"].as_object().into_iter().flat_map(Map::keys);
        let is_label = |name: &String| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        is(
            names.clone().next().is_some() && names.clone().all(is_label),
            "a label",
        )?;
        is(
            alert["labels"]
                .as_object()
                .is_some_and(|labels| labels.values().all(|value| value != "")),
            "a label that is kept",
        )?;
        alert.get("annotations").map_or(Ok(()), texts)?;
        is(
            time(&alert["endsAt"])? >= time(&alert["startsAt"])?,
            "an end after the beginning",
        )?;
        alert.get("generatorURL").map_or(Ok(()), address)?;
    }
    Ok(())
}
