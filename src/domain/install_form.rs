//! Converts install events in other formats to a form: JSON, multipart, text, with a byte order mark. Forms are
//! parsed, stored and parsed again after a restart.
//!
//! Must not decide whether it is an install event, nor quote it: it contains tokens.

use serde_json::{Map, Value};
use url::form_urlencoded::Serializer;

/// Maximum nesting of JSON; events have two levels.
const MAX_DEPTH: usize = 4;

/// The body as a form; `None` if it cannot be converted.
#[must_use]
pub fn as_form(content_type: &str, body: &[u8]) -> Option<Vec<u8>> {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let (kind, parameters) = content_type.split_once(';').unwrap_or((content_type, ""));
    let kind = kind.trim().to_ascii_lowercase();
    if kind == "application/x-www-form-urlencoded" && !is_json(body) {
        return Some(body.to_vec());
    }
    let form = if kind == "multipart/form-data" {
        from_multipart(boundary(parameters)?, body)
    } else if is_json(body) {
        from_json(body)?
    } else {
        body.trim_ascii().to_vec()
    };
    let is_notice = url::form_urlencoded::parse(&form)
        .any(|(name, _)| matches!(name.as_ref(), "event" | "AUTH_ID" | "REFRESH_ID"));
    is_notice.then_some(form)
}

fn is_json(body: &[u8]) -> bool {
    body.trim_ascii_start().starts_with(b"{")
}

fn from_json(body: &[u8]) -> Option<Vec<u8>> {
    let body: Map<String, Value> = serde_json::from_slice(body).ok()?;
    let mut form = Serializer::new(String::new());
    for (name, value) in &body {
        add(&mut form, name, value, MAX_DEPTH);
    }
    Some(form.finish().into_bytes())
}

/// Nested names in PHP's notation: `auth[access_token]`.
fn add(form: &mut Serializer<'_, String>, name: &str, value: &Value, levels: usize) {
    match value {
        Value::Null => {}
        Value::String(text) => {
            form.append_pair(name, text);
        }
        Value::Bool(_) | Value::Number(_) => {
            form.append_pair(name, &value.to_string());
        }
        Value::Array(values) if levels > 0 => {
            for (at, value) in values.iter().enumerate() {
                add(form, &format!("{name}[{at}]"), value, levels - 1);
            }
        }
        Value::Object(map) if levels > 0 => {
            for (key, value) in map {
                add(form, &format!("{name}[{key}]"), value, levels - 1);
            }
        }
        Value::Array(_) | Value::Object(_) => {}
    }
}

/// RFC 2046 section 5.1.1: the delimiter between the parts.
fn boundary(parameters: &str) -> Option<&str> {
    let (_, rest) = parameters
        .split(';')
        .filter_map(|one| one.split_once('='))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("boundary"))?;
    let boundary = rest.trim().trim_matches('"');
    (1..=70).contains(&boundary.len()).then_some(boundary)
}

/// RFC 7578: each part has a name in its header. Parts without one are skipped.
fn from_multipart(boundary: &str, body: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(body);
    let mut form = Serializer::new(String::new());
    for part in text.split(&format!("--{boundary}")).skip(1) {
        let part = part
            .strip_prefix("\r\n")
            .or_else(|| part.strip_prefix('\n'));
        let Some(part) = part else {
            // The closing delimiter: `--`.
            break;
        };
        let Some((head, value)) = part
            .split_once("\r\n\r\n")
            .or_else(|| part.split_once("\n\n"))
        else {
            continue;
        };
        let value = value
            .strip_suffix("\r\n")
            .or_else(|| value.strip_suffix('\n'))
            .unwrap_or(value);
        if let Some(name) = name_of(head) {
            form.append_pair(name, value);
        }
    }
    form.finish().into_bytes()
}

fn name_of(head: &str) -> Option<&str> {
    let line = head.lines().find(|line| {
        line.split_once(':')
            .is_some_and(|(name, _)| name.trim().eq_ignore_ascii_case("content-disposition"))
    })?;
    line.split(';').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        (name.trim().eq_ignore_ascii_case("name")).then(|| value.trim().trim_matches('"'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORM: &str = "application/x-www-form-urlencoded";

    fn pairs(content_type: &str, body: &str) -> Option<Vec<(String, String)>> {
        let form = as_form(content_type, body.as_bytes())?;
        let mut pairs: Vec<_> = url::form_urlencoded::parse(&form).into_owned().collect();
        pairs.sort();
        Some(pairs)
    }

    #[test]
    fn every_dress_is_the_same_form() {
        let plain = "event=ONAPPINSTALL&ts=17&auth%5Baccess_token%5D=a+b%26c";
        let json = r#"{"event":"ONAPPINSTALL","ts":17,"auth":{"access_token":"a b&c","no":null}}"#;
        let multipart = "--XX\r\nContent-Disposition: form-data; name=\"event\"\r\n\r\nONAPPINSTALL\r\n--XX\r\n\
            content-disposition: form-data; name=\"ts\"\r\n\r\n17\r\n--XX\r\n\
            Content-Disposition: form-data; name=\"auth[access_token]\"\r\nContent-Type: text/plain\r\n\r\na b&c\r\n--XX--\r\n";
        let expected = pairs(FORM, plain);
        assert_eq!(expected.as_ref().map(Vec::len), Some(3));
        for (content_type, body) in [
            (FORM, format!("\u{feff}{plain}")),
            ("text/plain", plain.to_owned()),
            ("", format!("{plain}\r\n")),
            ("application/json", json.to_owned()),
            (
                "application/json; charset=utf-8",
                format!("\u{feff} {json}"),
            ),
            (FORM, json.to_owned()),
            ("multipart/form-data; boundary=XX", multipart.to_owned()),
            (
                "multipart/form-data; charset=utf-8; boundary=\"XX\"",
                multipart.replace("\r\n", "\n"),
            ),
        ] {
            assert_eq!(
                pairs(content_type, &body),
                expected,
                "{content_type} {body}"
            );
        }
    }

    #[test]
    fn what_is_no_notice_is_no_form() {
        for (content_type, body) in [
            ("application/json", "{}"),
            ("application/json", r#"{"event""#),
            ("application/json", r#"["event"]"#),
            ("text/plain", "hello"),
            ("text/html", "<html>"),
            ("multipart/form-data", "--XX"),
            ("multipart/form-data; boundary=XX", "--XX--"),
            ("multipart/form-data; boundary=XX", "--XX\r\nevent"),
        ] {
            assert_eq!(pairs(content_type, body), None, "{content_type} {body}");
        }
        let deep = format!("{}1{}", r#"{"a":"#.repeat(90), "}".repeat(90));
        assert_eq!(pairs("application/json", &deep), None, "not looked into");
    }
}
