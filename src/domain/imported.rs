//! Converts imported grants to the fields of a token response: JSON or a form, nested or not, in any known spelling,
//! including saved events, install forms and the stores of SDKs.
//!
//! Must not decide whether a grant is valid, and must not quote a value.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

use super::import_error::{ImportError, reject_error_reply};
use refreshd_secrets::mask::mask;
use refreshd_token_client::host::plain_host;
use refreshd_token_client::import_token;
use refreshd_token_client::provider::Profile;
use refreshd_token_client::quirks::first;

/// Maximum nesting of a token object.
const MAX_DEPTH: usize = 4;

/// Known keys, in lower case and without `_` and `-`, and their names in a token response (RFC 6749 section 5.1).
const SPELLINGS: &[(&str, &str)] = &[
    ("refreshtoken", REFRESH),
    ("refreshid", REFRESH),
    ("accesstoken", ACCESS),
    ("authid", ACCESS),
    ("expiresin", "expires_in"),
    ("authexpires", "expires_in"),
    ("expires", "expires"),
    ("expiresat", "expires"),
    ("tokentype", "token_type"),
    ("clientid", "client_id"),
    ("crestclientid", "client_id"),
];
const REFRESH: &str = "refresh_token";
const ACCESS: &str = "access_token";
/// Keys of an access token if their value is a text: Google's `token.json` and Bitrix24's Python SDK.
const ACCESS_WHERE_TEXT: [&str; 2] = ["token", "authtoken"];
/// Keys of the portal's own host or address, case-sensitive.
const HOSTS: [&str; 3] = ["domain_url", "DOMAIN", "domainUrl"];
/// The event with the grant in `data`; its `auth` is of the user who installed the app.
const GRANT_IN_DATA: &str = "ONAPPUSERREADY";

/// A token object.
#[derive(Debug)]
pub struct ImportedFields {
    /// With the keys of a token response.
    pub body: Map<String, Value>,
    /// The portal's host, if it is named besides the endpoint.
    pub host: Option<String>,
}

/// Parses a text as JSON or a form; `None` if it is neither.
///
/// # Errors
/// [`ImportError`]: it is JSON or a form, but not a grant.
pub fn read(text: &str, profile: &Profile) -> Result<Option<ImportedFields>, ImportError> {
    let text = without_fence(text);
    let unquoted = text
        .strip_prefix('\'')
        .and_then(|text| text.strip_suffix('\''))
        .map(str::trim);
    let text = unquoted
        .filter(|text| text.starts_with(['{', '[']))
        .unwrap_or(text);
    if text.starts_with(['{', '[']) && !import_token::is_filler(text) {
        return match (json(text), lines(text)?) {
            (Err(_), Some(body)) => of_object(&body, profile).map(Some),
            (value, _) => of_value(&value?, profile).map(Some),
        };
    }
    // JSON inside a JSON text.
    if let Ok(Value::String(inner)) = serde_json::from_str::<Value>(text)
        && inner.trim_start().starts_with('{')
    {
        return of_value(&json(inner.trim())?, profile).map(Some);
    }
    if let Some(body) = after_headers(text) {
        return read(body, profile);
    }
    let encoded = || {
        address_query(text)
            .or_else(|| serialized(text))
            .or_else(|| in_base64(text))
    };
    if let Some(body) = encoded() {
        return of_object(&body, profile).map(Some);
    }
    match form(text) {
        Some(body) if known_keys(&body, "", 0).next().is_some() => {
            of_object(&body, profile).map(Some)
        }
        _ => lines(text)?
            .map(|body| of_object(&body, profile))
            .transpose(),
    }
}

/// Content of a fenced code block in Markdown.
fn without_fence(text: &str) -> &str {
    let inside = || {
        let (mark, rest) = text.strip_prefix("```")?.split_once('\n')?;
        let is_language = mark.trim().bytes().all(|byte| byte.is_ascii_alphanumeric());
        rest.trim_end().strip_suffix("```").filter(|_| is_language)
    };
    inside().map_or(text, str::trim)
}

/// Query of an address with a grant: this is how a Bitrix24 portal opens an app.
fn address_query(text: &str) -> Option<Map<String, Value>> {
    let is_address = text.contains("://") && !text.contains(char::is_whitespace);
    let (_, query) = text.split_once(['?', '#']).filter(|_| is_address)?;
    form(query).filter(|body| known_keys(body, "", 0).next().is_some())
}

/// Texts of an array in the format of PHP's `serialize()`, if a refresh token is among them.
fn serialized(text: &str) -> Option<Map<String, Value>> {
    let mut rest = text.strip_prefix("a:")?.split_once(":{")?.1;
    let mut body = Map::new();
    while let Some(at) = rest.find("s:") {
        let Some((name, after)) = take_serialized(&rest[at..]) else {
            // Not the start of a text.
            rest = &rest[at + 2..];
            continue;
        };
        rest = after;
        // The value may be a number or a list instead.
        if meaning(name).is_some()
            && let Some((value, after)) = take_serialized(rest)
        {
            body.insert(name.to_owned(), Value::from(value));
            rest = after;
        }
    }
    refresh_of(&body).is_some().then_some(body)
}

/// Splits `s:LENGTH:"TEXT";` off the front: the text, and the rest.
fn take_serialized(rest: &str) -> Option<(&str, &str)> {
    let (length, after) = rest.strip_prefix("s:")?.split_once(":\"")?;
    let (inside, after) = after.split_at_checked(length.parse().ok()?)?;
    Some((inside, after.strip_prefix("\";")?))
}

/// A Base64-encoded object with a refresh token.
fn in_base64(text: &str) -> Option<Map<String, Value>> {
    let word = text.trim_end_matches('=');
    let bytes = STANDARD_NO_PAD
        .decode(word)
        .or_else(|_| URL_SAFE_NO_PAD.decode(word))
        .ok()?;
    let body: Map<_, _> = serde_json::from_slice(&bytes).ok()?;
    refresh_of(&body).is_some().then_some(body)
}

/// Body of a response that was saved with its headers (`curl -i`).
fn after_headers(text: &str) -> Option<&str> {
    let rest = text.strip_prefix("HTTP/")?;
    let (_, body) = rest
        .split_once("\r\n\r\n")
        .or_else(|| rest.split_once("\n\n"))?;
    Some(body.trim()).filter(|body| !body.is_empty())
}

/// Lines of `NAME=value`, `name: value` or PHP's `[name] => value`, if a refresh token is among them.
fn lines(text: &str) -> Result<Option<Map<String, Value>>, ImportError> {
    let around: &[char] = &[' ', '\t', ',', ';', '&', '\'', '"', '[', ']'];
    let mut body = Map::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let line = line.trim().trim_start_matches("export ");
        let Some((name, value)) = line
            .split_once("=>")
            .or_else(|| line.split_once('='))
            .or_else(|| line.split_once(": "))
        else {
            continue;
        };
        // Comments are allowed, as in environment files.
        let value = value.split_once(" #").map_or(value, |(value, _)| value);
        // PHP's `var_dump` puts the value on the next line, with its type.
        let below = value.trim().is_empty() && line.ends_with("=>");
        let value = if below {
            lines.next().map_or("", text_of_dump)
        } else {
            value
        };
        let (name, value) = (name.trim_matches(around), value.trim_matches(around));
        // `BITRIX_REFRESH_TOKEN`
        let name = if meaning(name).is_none() && plain(name).ends_with("refreshtoken") {
            REFRESH
        } else {
            name
        };
        if name.is_empty() || value.is_empty() || name.contains(char::is_whitespace) {
            continue;
        }
        let before = body.insert(name.to_owned(), Value::from(value));
        if before.is_some_and(|before| meaning(name) == Some(REFRESH) && before != value) {
            return Err(ImportError::Several);
        }
    }
    // A single line is a labelled value and has an error message of its own.
    let holds = body.len() > 1 && refresh_of(&body).is_some();
    // JSON after a name, as in `rclone.conf`.
    let in_value = || {
        texts(&body)
            .iter()
            .any(|(_, inner)| refresh_of(inner).is_some())
    };
    Ok((holds || in_value()).then_some(body))
}

/// The text of `string(4) "5bad"`; nothing for other types.
fn text_of_dump(line: &str) -> &str {
    let inside = || {
        let (_, text) = line.trim().strip_prefix("string(")?.split_once(") \"")?;
        text.strip_suffix('"')
    };
    inside().unwrap_or_default()
}

/// JSON, also in single quotes (`oint twitter --auth`).
fn json(text: &str) -> Result<Value, ImportError> {
    let parsed = serde_json::from_str(text);
    let single = || {
        serde_json::from_str(&text.replace('\'', "\""))
            .ok()
            .filter(|_| !text.contains('"'))
    };
    parsed.or_else(|error| {
        single().ok_or(ImportError::NotJson {
            line: error.line(),
            column: error.column(),
        })
    })
}

/// `a=b&c[d]=e` as an object; `None` unless it has at least two fields.
fn form(text: &str) -> Option<Map<String, Value>> {
    let text = text.strip_prefix('?').unwrap_or(text).replace("&amp;", "&");
    let first = text.split('&').next()?;
    let is_form = text.contains('&') && first.contains('=') && !first.contains("://");
    if !is_form || text.contains(char::is_whitespace) {
        return None;
    }
    let mut body = Map::new();
    for (name, value) in url::form_urlencoded::parse(text.as_bytes()) {
        add_field(&mut body, &name, Value::String(value.into_owned()));
    }
    Some(body)
}

/// Adds a field of a form; `auth[refresh_token]` is a field of `auth`.
fn add_field(body: &mut Map<String, Value>, name: &str, value: Value) {
    match name.strip_suffix(']').and_then(|name| name.split_once('[')) {
        Some((outer, inner)) if !inner.contains('[') => {
            let nested = body
                .entry(outer)
                .or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(nested) = nested {
                nested.insert(inner.to_owned(), value);
            }
        }
        _ => drop(body.insert(name.to_owned(), value)),
    }
}

/// A form that a program stored as JSON: names such as `auth[refresh_token]` or `auth.refresh_token`, values that may be
/// lists of one. `None` for any other object.
fn stored_form(body: &Map<String, Value>) -> Option<Map<String, Value>> {
    let is_nested = |name: &str| name.ends_with(']') && name.contains('[') || is_dotted(name);
    let is_scalar = |value: &Value| !value.is_object() && !value.is_array();
    let is_form = body.keys().any(|name| is_nested(name)) || body.values().any(Value::is_array);
    if !is_form {
        return None;
    }
    let mut form = Map::new();
    for (name, value) in body {
        let value = match value {
            Value::Array(list) => match list.as_slice() {
                [one] if is_scalar(one) => one,
                _ => return None,
            },
            value => Some(value).filter(|value| is_scalar(value))?,
        };
        let name = match name.split_once('.').filter(|_| is_dotted(name)) {
            Some((outer, inner)) => format!("{outer}[{inner}]"),
            None => name.clone(),
        };
        add_field(&mut form, &name, value.clone());
    }
    Some(form)
}

/// `auth.refresh_token`
fn is_dotted(name: &str) -> bool {
    let is_name = |part: &str| {
        part.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    name.split_once('.').is_some_and(|(outer, inner)| {
        is_name(outer) && is_name(inner) && !outer.is_empty() && meaning(inner).is_some()
    })
}

fn of_value(value: &Value, profile: &Profile) -> Result<ImportedFields, ImportError> {
    match value {
        Value::Object(body) => match stored_form(body) {
            Some(form) => of_object(&form, profile),
            None => of_object(body, profile),
        },
        Value::Array(list) => match list.as_slice() {
            [Value::Object(body)] => of_object(body, profile),
            _ => Err(ImportError::NotAToken(
                "it is a list; import a single grant",
            )),
        },
        _ => Err(ImportError::NotAToken(
            "it is JSON, but no object with a refresh_token in it",
        )),
    }
}

/// The grant of an object.
///
/// # Errors
/// [`ImportError`]: there is none, or several.
pub fn of_object(
    body: &Map<String, Value>,
    profile: &Profile,
) -> Result<ImportedFields, ImportError> {
    reject_error_reply(body)?;
    // The path of the profile.
    if first(&profile.reply.refresh_token, body).is_some_and(is_there) {
        return Ok(imported_fields(body, &[], profile));
    }
    let event = body
        .get("event")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if event.eq_ignore_ascii_case(GRANT_IN_DATA)
        && let Some(Value::Object(data)) = body.get("data")
        && refresh_of(data).is_some()
    {
        return Ok(imported_fields(data, &[body], profile));
    }
    let mut found = Vec::new();
    search(body, &mut Vec::new(), &mut found);
    // Some stores keep an object as a text, and request logs keep a form as one.
    let texts = texts(body);
    for (_, inner) in &texts {
        search(inner, &mut vec![body], &mut found);
    }
    let Some((grant, around)) = found.first() else {
        return match with_standard_names(body, MAX_DEPTH) {
            Some(usual) => of_object(&usual, profile),
            None => Err(missing(body, &texts)),
        };
    };
    let token = refresh_of(grant);
    if found.iter().any(|(other, _)| refresh_of(other) != token) {
        return Err(ImportError::Several);
    }
    Ok(imported_fields(grant, around, profile))
}

/// An object with a store's own key names for a pair: `access` and `refresh`, `at` and `rt`, and the entries of MSAL's
/// cache. `None` if there are none.
fn with_standard_names(body: &Map<String, Value>, levels: usize) -> Option<Map<String, Value>> {
    const PAIRS: [(&str, &str); 2] = [("access", "refresh"), ("at", "rt")];
    let text = |name: &str| {
        body.get(name)
            .filter(|value| value.is_string() && is_there(value))
    };
    let pair = PAIRS
        .into_iter()
        .find_map(|(access, refresh)| Some((text(access), text(refresh)?)))
        .filter(|(access, _)| access.is_some());
    let is_entry = text("credential_type")
        .and_then(Value::as_str)
        .is_some_and(|kind| kind.eq_ignore_ascii_case("RefreshToken"));
    let entry = || Some((None, text("secret").filter(|_| is_entry)?));
    if let Some((access, refresh)) = pair.or_else(entry) {
        let mut usual = body.clone();
        usual.insert(REFRESH.to_owned(), refresh.clone());
        access.map(|access| usual.insert(ACCESS.to_owned(), access.clone()));
        return Some(usual);
    }
    let mut usual = body.clone();
    let mut found = false;
    for inner in usual.values_mut().filter_map(Value::as_object_mut) {
        let levels = levels.checked_sub(1)?;
        if let Some(renamed) = with_standard_names(inner, levels) {
            *inner = renamed;
            found = true;
        }
    }
    found.then_some(usual)
}

type Around<'b> = Vec<&'b Map<String, Value>>;

/// All objects with a refresh token, outermost first, each with its ancestors.
fn search<'b>(
    body: &'b Map<String, Value>,
    around: &mut Around<'b>,
    found: &mut Vec<(&'b Map<String, Value>, Around<'b>)>,
) {
    if refresh_of(body).is_some() {
        found.push((body, around.clone()));
        return;
    }
    if around.len() >= MAX_DEPTH {
        return;
    }
    around.push(body);
    for value in body.values() {
        match value {
            Value::Object(inner) => search(inner, around, found),
            Value::Array(list) => {
                for inner in list.iter().filter_map(Value::as_object) {
                    search(inner, around, found);
                }
            }
            _ => {}
        }
    }
    around.pop();
}

fn texts(body: &Map<String, Value>) -> Vec<(String, Map<String, Value>)> {
    let parse = |(key, value): (&String, &Value)| {
        let text = value.as_str()?.trim();
        let inner = if text.starts_with('{') {
            serde_json::from_str(text).ok()?
        } else {
            form(text)?
        };
        Some((key.clone(), inner))
    };
    body.iter().filter_map(parse).collect()
}

/// The refresh token's value, if not empty.
fn refresh_of(body: &Map<String, Value>) -> Option<&Value> {
    body.iter()
        .find(|(key, value)| meaning(key) == Some(REFRESH) && is_there(value))
        .map(|(_, value)| value)
}

fn is_there(value: &Value) -> bool {
    match value {
        Value::String(text) => !text.trim().is_empty(),
        Value::Number(number) => number.is_u64(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => false,
    }
}

fn plain(key: &str) -> String {
    key.chars()
        .filter(|c| !"_-".contains(*c))
        .collect::<String>()
        .to_ascii_lowercase()
}

fn meaning(key: &str) -> Option<&'static str> {
    let key = plain(key);
    SPELLINGS
        .iter()
        .find(|(spelling, _)| *spelling == key)
        .map(|(_, name)| *name)
}

/// The object with the keys of a token response and of the profile, some from its ancestors.
fn imported_fields(
    grant: &Map<String, Value>,
    around: &[&Map<String, Value>],
    profile: &Profile,
) -> ImportedFields {
    let mut body = grant.clone();
    let mut add = |name: &str, value: &Value| {
        if !body.get(name).is_some_and(is_there) && is_there(value) {
            body.insert(name.to_owned(), value.clone());
        }
    };
    for (key, value) in grant {
        if let Some(name) = meaning(key) {
            add(name, value);
        } else if ACCESS_WHERE_TEXT.contains(&plain(key).as_str()) && value.is_string() {
            add(ACCESS, value);
        }
    }
    let own = [
        &profile.identity_field,
        &profile.endpoint_field,
        &profile.server_field,
    ];
    let names: Vec<&str> = own
        .into_iter()
        .flatten()
        .chain(&profile.fields)
        .map(String::as_str)
        .collect();
    for object in std::iter::once(grant).chain(around.iter().rev().copied()) {
        // `DOMAIN` is the portal's host, `domain` the authorization server's.
        for (key, value) in object
            .iter()
            .filter(|(key, _)| !HOSTS.contains(&key.as_str()))
        {
            if let Some(name) = names.iter().find(|name| plain(name) == plain(key)) {
                add(name, value);
            } else if meaning(key) == Some("client_id") {
                add("client_id", value);
            }
        }
    }
    let everywhere = std::iter::once(grant).chain(around.iter().copied());
    let host = everywhere
        .flat_map(|object| HOSTS.iter().filter_map(|name| object.get(*name)?.as_str()))
        .find_map(plain_host);
    ImportedFields { body, host }
}

/// Known keys at any depth, as spelled in the input.
fn known_keys<'b>(
    body: &'b Map<String, Value>,
    path: &str,
    depth: usize,
) -> Box<dyn Iterator<Item = String> + 'b> {
    let path = path.to_owned();
    Box::new(body.iter().flat_map(
        move |(key, value)| -> Box<dyn Iterator<Item = String> + 'b> {
            let here = format!("{path}{key}");
            match value {
                Value::Object(inner) if depth < MAX_DEPTH => {
                    known_keys(inner, &format!("{here}."), depth + 1)
                }
                _ if matches!(meaning(key), Some(REFRESH | ACCESS)) => {
                    Box::new(std::iter::once(here))
                }
                _ => Box::new(std::iter::empty()),
            }
        },
    ))
}

/// Names the missing key, in the spelling of the keys that are present.
fn missing(body: &Map<String, Value>, texts: &[(String, Map<String, Value>)]) -> ImportError {
    let nested = texts
        .iter()
        .flat_map(|(key, inner)| known_keys(inner, &format!("{key}."), 1));
    let keys: Vec<String> = known_keys(body, "", 0).chain(nested).collect();
    let last = |key: &str| meaning(key.rsplit('.').next().unwrap_or(key));
    // A store may use tokens as keys.
    let shown = |key: &str| {
        let parts = key.split('.').map(|part| {
            mask(part, &[])
                .chars()
                .filter(char::is_ascii_graphic)
                .collect()
        });
        parts
            .collect::<Vec<String>>()
            .join(".")
            .chars()
            .take(60)
            .collect::<String>()
    };
    if let Some(empty) = keys.iter().find(|key| last(key) == Some(REFRESH)) {
        return ImportError::EmptyRefreshToken(shown(empty));
    }
    match keys.first() {
        None => ImportError::NoRefreshToken {
            has: None,
            wanted: REFRESH.to_owned(),
        },
        Some(key) => {
            let (path, name) = key
                .rsplit_once('.')
                .map_or(("", key.as_str()), |(path, name)| (path, name));
            let wanted = match name {
                "AUTH_ID" => "REFRESH_ID",
                "accessToken" => "refreshToken",
                _ => REFRESH,
            };
            let wanted = if path.is_empty() {
                wanted.to_owned()
            } else {
                format!("{}.{wanted}", shown(path))
            };
            ImportError::NoRefreshToken {
                has: Some(shown(key)),
                wanted,
            }
        }
    }
}
