//! The values of a profile's keys about the form of requests and replies.
//!
//! Must not let a profile change parts that are not its own: a header that HTTP itself needs, or a secret field for readers.

use std::collections::BTreeMap;

use toml::Value;

use reqwest::header::{HeaderName, HeaderValue};

use super::super::problem::{did_you_mean, shown};
use super::super::source::Diagnostics;
use super::super::table::Table;
use refreshd_token_client::quirks::{JsonPath, ReplyFields};
use refreshd_token_client::reply::SECRET_FIELDS;

/// A key of `[…reply]`: where a reply has one thing.
struct ReplyField {
    name: &'static str,
    of: fn(&ReplyFields) -> &Vec<JsonPath>,
    of_mut: fn(&mut ReplyFields) -> &mut Vec<JsonPath>,
}

macro_rules! reply_field {
    ($name:ident) => {
        ReplyField {
            name: stringify!($name),
            of: |reply| &reply.$name,
            of_mut: |reply| &mut reply.$name,
        }
    };
}

const FIELDS: [ReplyField; 10] = [
    reply_field!(access_token),
    reply_field!(refresh_token),
    reply_field!(token_type),
    reply_field!(scope),
    reply_field!(expires_in),
    reply_field!(expires_at),
    reply_field!(refresh_expires_in),
    reply_field!(refresh_expires_at),
    reply_field!(error),
    reply_field!(error_description),
];
/// The further key of `[…reply]`: which values mean that the request succeeded.
const SUCCESS: &str = "success";
/// The parameters that `parameter_names` may give other names.
pub(super) const NAMES: [&str; 12] = [
    "grant_type",
    "client_id",
    "client_secret",
    "refresh_token",
    "code",
    "code_verifier",
    "code_challenge",
    "redirect_uri",
    "response_type",
    "scope",
    "state",
    "device_code",
];
/// The headers that are the request's own.
const NOT_OURS: [&str; 6] = [
    "authorization",
    "content-type",
    "content-length",
    "host",
    "connection",
    "transfer-encoding",
];

/// Reads `[…reply]` and overrides the present values.
pub(super) fn read_reply(table: Table<'_>, reply: &mut ReplyFields, report: &mut Diagnostics) {
    let mut known: Vec<&str> = FIELDS.iter().map(|field| field.name).collect();
    known.push(SUCCESS);
    table.only(report, &[&known]);
    for field in &FIELDS {
        if let Some(given) = table.texts(report, field.name, true) {
            *(field.of_mut)(reply) = given.iter().map(|text| JsonPath::new(text.value)).collect();
        }
    }
    if let Some(given) = table.table(report, SUCCESS, "reply.success") {
        reply.success = values(given, report);
    }
}

/// The whole of it as a value.
pub(super) fn reply_value(reply: &ReplyFields) -> Value {
    let places = |field: &ReplyField| {
        let places: Vec<_> = (field.of)(reply)
            .iter()
            .map(|place| Value::from(place.dotted()))
            .collect();
        (field.name.to_owned(), places.into())
    };
    let success =
        (!reply.success.is_empty()).then(|| (SUCCESS.to_owned(), values_value(&reply.success)));
    Value::Table(FIELDS.iter().map(places).chain(success).collect())
}

/// Places of a reply and the values that are wanted there.
pub(super) fn values(table: Table<'_>, report: &mut Diagnostics) -> Vec<(JsonPath, Vec<String>)> {
    let read = |key: super::super::table::TextValue<'_>| {
        let wanted = table.texts(report, key.value, true)?;
        Some((
            JsonPath::new(key.value),
            wanted.iter().map(|text| text.value.to_owned()).collect(),
        ))
    };
    table.keys().filter_map(read).collect()
}

pub(super) fn check_headers(headers: Table<'_>, report: &mut Diagnostics) {
    for key in headers.keys() {
        if HeaderName::from_bytes(key.value.as_bytes()).is_err() {
            report.problem(
                key.place,
                format!("{} is no name of a header", shown(key.value)),
            );
        } else if NOT_OURS.contains(&key.value.to_ascii_lowercase().as_str()) {
            let hint = did_you_mean(key.value, ["Accept", "User-Agent"]);
            report.problem(
                key.place,
                format!("`headers` must not set {}{hint}", shown(key.value)),
            );
        }
        if let Some(value) = headers.text_as(report, key.value, "a string in quotes")
            && HeaderValue::from_str(value.value).is_err()
        {
            report.problem(
                value.place,
                "the value of a header must be one line without control characters",
            );
        }
    }
}

/// Every key with its string, which may be empty.
pub(super) fn texts(table: Table<'_>, report: &mut Diagnostics) -> BTreeMap<String, String> {
    let read = |key: super::super::table::TextValue<'_>| {
        let text = table.text_as(report, key.value, "a string in quotes")?;
        Some((key.value.to_owned(), text.value.to_owned()))
    };
    table.keys().filter_map(read).collect()
}

/// Returns whether the last part of a field's place is a secret's name.
pub(super) fn is_secret(field: &str) -> bool {
    field
        .rsplit('.')
        .next()
        .is_some_and(|last| SECRET_FIELDS.contains(&last))
}

/// A list of strings; `None` if it is empty.
pub(super) fn strings(list: &[String]) -> Option<Value> {
    let values: Vec<_> = list.iter().map(|text| Value::from(text.as_str())).collect();
    (!values.is_empty()).then(|| values.into())
}

/// A table of strings; `None` if it is empty.
pub(super) fn texts_value(map: &BTreeMap<String, String>) -> Option<Value> {
    let pairs = map
        .iter()
        .map(|(name, value)| (name.clone(), Value::from(value.as_str())));
    (!map.is_empty()).then(|| Value::Table(pairs.collect()))
}

/// Places of a reply and the values that are wanted there.
pub(super) fn values_value(pairs: &[(JsonPath, Vec<String>)]) -> Value {
    let list = |values: &[String]| {
        let values: Vec<_> = values
            .iter()
            .map(|text| Value::from(text.as_str()))
            .collect();
        Value::from(values)
    };
    let pairs = pairs
        .iter()
        .map(|(place, values)| (place.dotted(), list(values)));
    Value::Table(pairs.collect())
}
