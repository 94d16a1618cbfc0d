//! Error in a reply, whatever its status: RFC 6749 section 5.2, and the profile's places.

use serde_json::{Map, Value};

use super::error_reply::standard_code;
use super::provider::Profile;
use super::quirks::{JsonPath, first, is_value, means_no_error};

/// Error code of a reply and its description. Bitrix24 and others send `error` as a word, REST v3 as an object `{code,
/// message}`; many send it with a value that means that there is none.
pub fn error_of(body: &Map<String, Value>, profile: &Profile) -> Option<(String, String)> {
    let form = &profile.reply;
    let text = |value: Option<&Value>| value.map(sentences).unwrap_or_default();
    let description = || text(first(&form.error_description, body));
    let outcome = |(place, good): &(JsonPath, Vec<String>)| {
        let value = place.find(body).filter(|value| !value.is_null())?;
        Some((value, good.iter().any(|good| is_value(value, good))))
    };
    let mut outcomes = form.success.iter().filter_map(outcome).peekable();
    let error = if outcomes.peek().is_some() {
        outcomes.find(|(_, good)| !good).map(|(value, _)| value)
    } else {
        let places = form.error.iter().filter_map(|place| place.find(body));
        places.into_iter().find(|value| !means_no_error(value))
    };
    match error? {
        Value::String(code) => Some((code.clone(), description())),
        Value::Object(error) => {
            let code = standard_code_below(error).map(str::to_owned);
            Some((
                code.unwrap_or_else(|| text(error.get("code"))),
                text(error.get("message")),
            ))
        }
        other => Some((other.to_string(), description())),
    }
}

/// Text of a description: some servers send a list of sentences, or an object with one for each field.
fn sentences(value: &Value) -> String {
    let joined = |values: &mut dyn Iterator<Item = &Value>| {
        let texts = values.filter_map(Value::as_str);
        let texts = texts.map(str::trim).filter(|text| !text.is_empty());
        texts.collect::<Vec<_>>().join("; ")
    };
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Array(list) => joined(&mut list.iter()),
        Value::Object(map) => joined(&mut map.values().flat_map(|value| match value {
            Value::Array(list) => list.iter().collect(),
            value => vec![value],
        })),
        Value::Null | Value::Bool(_) => String::new(),
    }
}

/// Number of objects around a code under another name.
const ERROR_LEVELS: usize = 3;

/// A code of RFC 6749 that is the whole value of a member named as codes are, in this object or one below.
pub fn standard_code_below(body: &Map<String, Value>) -> Option<&'static str> {
    below(body, ERROR_LEVELS)
}

fn below(body: &Map<String, Value>, levels: usize) -> Option<&'static str> {
    const NAMES: [&str; 9] = [
        "error", "code", "type", "name", "reason", "status", "result", "key", "id",
    ];
    let is_code_name = |name: &str| {
        let name = name.to_ascii_lowercase();
        NAMES.iter().any(|known| name.ends_with(known))
    };
    let here = body.iter().find_map(|(name, value)| match value {
        Value::String(text) if is_code_name(name) => standard_code(text),
        _ => None,
    });
    here.or_else(|| {
        let levels = levels.checked_sub(1)?;
        body.values().find_map(|value| match value {
            Value::Object(inner) => below(inner, levels),
            Value::Array(list) => list
                .iter()
                .filter_map(Value::as_object)
                .find_map(|inner| below(inner, levels)),
            _ => None,
        })
    })
}
