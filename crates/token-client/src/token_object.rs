//! Finds the one JSON object of a reply in any wrapping. `reply` decides whether that object is a pair or a refusal.
//!
//! It removes compression (gzip, zlib, deflate), encodings (UTF-8 with a BOM, UTF-16), prefixes against script
//! inclusion, JSONP, lists of one, strings of JSON, and outer objects; it parses forms, and finds an object between
//! notices and markup. Must not take a token from a sentence, an attribute or a script, nor from an unclosed object,
//! nor choose between two different ones. Work and memory are bounded for any body.

use std::borrow::Cow;
use std::cell::OnceCell;

use serde_json::{Map, Value};

use super::body_decoding::{MAX_BODY_BYTES, Unpacked, decode, raw_deflate, unpack};
use super::body_wrapping::{
    assigned, call, event_data, form, is_end, is_wrapped, opened, trimmed, without_prefix,
    without_warnings,
};
use super::error_reply::STANDARD_CODES;
use super::import_token::{is_error_word, is_missing_value, is_shortened};
use super::lenient::{DAMAGE, UNCLOSED, closed_up, is_blank, parse};
use super::markup;
use super::provider::Profile;
use super::quirks::JsonPath;
use super::reply_error::error_of;
use super::surroundings::{
    TextScope, is_about_the_request, is_refused_by_members, is_refused_by_text, is_something_else,
};
use refreshd_time::date::instant;

/// Maximum number of nested wrappings of one kind.
const MAX_LAYERS: usize = 3;
/// Maximum number of outer objects and lists around a token object.
const MAX_LEVELS: usize = 4;
/// Maximum number of objects that are searched for a token.
const MAX_OBJECTS: usize = 5000;

/// Names of objects around a token object that a truncated reply may have: there is one pair in them.
const ENVELOPES: [&str; 10] = [
    "result", "data", "response", "payload", "body", "content", "auth", "token", "tokens", "oauth",
];

/// Maximum number of members of a token object whose names are spelled differently.
const MAX_RENAMED: usize = 100;

/// The object of a reply: the token object, if there is exactly one; otherwise the outermost object, which may be a
/// refusal. `None`: there is no such object, or there are several. `whole` states whether the body is complete: only
/// then a form is parsed.
#[must_use]
pub fn open(body: &[u8], whole: bool, profile: &Profile) -> Option<Map<String, Value>> {
    open_by(body, whole, |plain| open_plain(plain, profile))
}

/// As [`open()`], for a body that holds one token object although something beside or around it denies that it is a pair,
/// in words that are no error code. Only the authorization server can decide.
#[must_use]
pub fn open_doubtful(body: &[u8], whole: bool, profile: &Profile) -> Option<Map<String, Value>> {
    open_by(body, whole, |plain| {
        let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
        let mut words = plain.text.split(|byte| !is_part(byte));
        let is_code =
            |word: &[u8]| std::str::from_utf8(word).is_ok_and(|word| is_error_code(word, profile));
        let reader = EnvelopeReader {
            judges: false,
            ..EnvelopeReader::of(profile)
        };
        let object = reader.text(&plain.text, plain.whole)?;
        (!words.any(is_code) && reader.holds_token(&object)).then_some(object)
    })
}

fn open_by(
    body: &[u8],
    whole: bool,
    open: impl Fn(&Plain<'_>) -> Option<Map<String, Value>>,
) -> Option<Map<String, Value>> {
    let whole = whole && body.len() <= MAX_BODY_BYTES;
    let body = &body[..body.len().min(MAX_BODY_BYTES)];
    let plain = plain_text(body);
    let plain = Plain {
        whole: plain.whole && (whole || plain.unpacked),
        ..plain
    };
    open(&plain).or_else(|| open(&deflated_text(body)?))
}

/// A decompressed body in UTF-8, as far as its encoding is known.
pub struct Plain<'a> {
    /// Text.
    pub text: Cow<'a, [u8]>,
    /// False if the compressed data is truncated.
    whole: bool,
    unpacked: bool,
}

/// Removes compression and encoding.
pub fn plain_text(body: &[u8]) -> Plain<'_> {
    let mut unpacked: Option<Unpacked> = None;
    for _ in 0..MAX_LAYERS {
        let outer = unpacked.as_ref().map_or(body, |outer| &outer.bytes);
        let Some(inside) = unpack(outer) else { break };
        unpacked = Some(inside);
    }
    match unpacked {
        None => Plain {
            text: decode(body),
            whole: true,
            unpacked: false,
        },
        Some(Unpacked { bytes, ended }) => Plain {
            text: Cow::Owned(decode(&bytes).into_owned()),
            whole: ended,
            unpacked: true,
        },
    }
}

/// Text of a body that is deflate without a header, which is recognised by its content only; `None` for a text.
#[must_use]
pub fn deflated_text(body: &[u8]) -> Option<Plain<'static>> {
    let is_text = |byte: &u8| byte.is_ascii_graphic() || byte.is_ascii_whitespace();
    if body.iter().all(is_text) {
        return None;
    }
    let Unpacked { bytes, ended } = raw_deflate(body);
    Some(Plain {
        text: Cow::Owned(decode(&bytes).into_owned()),
        whole: ended,
        unpacked: true,
    })
}

/// As [`open()`], for a decompressed body.
pub fn open_plain(plain: &Plain<'_>, profile: &Profile) -> Option<Map<String, Value>> {
    EnvelopeReader::of(profile).text(&plain.text, plain.whole)
}

/// Returns whether a body has no visible content.
#[must_use]
pub fn is_empty(body: &[u8]) -> bool {
    body.iter().copied().all(is_blank)
}

/// A token in the value of a member; `None` if the value cannot be one.
///
/// Error words and sentences are no tokens: readers would get an invalid token in place of a valid one.
pub fn token<'v>(value: &'v Value, profile: &Profile) -> Option<Cow<'v, str>> {
    let text = match value {
        Value::String(text) => Cow::Borrowed(text.trim_matches(is_unseen)),
        // Any other has lost digits.
        Value::Number(number) if number.is_u64() => Cow::Owned(number.to_string()),
        Value::Array(list) if matches!(list.as_slice(), [Value::String(_)]) => {
            return token(list.first()?, profile);
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            return None;
        }
    };
    let damaged = |c: char| c.is_control() || c == DAMAGE;
    let is_none = is_missing_value(&text)
        || text.contains(damaged)
        || is_wrapped(&text)
        || text.contains(char::is_whitespace)
        || text.starts_with('<')
        || is_shortened(&text)
        || is_error_word(text.trim_end_matches('.'))
        || is_template(&text)
        || is_error_code(&text, profile)
        || is_lifetime(&text)
        || SCHEMA_WORDS.contains(&text.to_ascii_lowercase().as_str());
    (!is_none).then_some(text)
}

/// Values of a schema in place of a token: its type, or its presence.
const SCHEMA_WORDS: [&str; 10] = [
    "required", "optional", "string", "str", "text", "varchar", "integer", "int", "number",
    "boolean",
];
/// Values in place of a refresh token that stays in force. Without `_` and `-`.
const NO_NEW_TOKEN: [&str; 12] = [
    "unchanged",
    "notchanged",
    "same",
    "no",
    "yes",
    "keep",
    "kept",
    "existing",
    "current",
    "static",
    "notrotated",
    "reusable",
];

/// Returns whether a text is an error code of the profile or of the standards.
fn is_error_code(text: &str, profile: &Profile) -> bool {
    let mut codes = profile.errors.iter().flat_map(|rule| &rule.error);
    let is_word = text.bytes().any(|byte| byte.is_ascii_alphabetic());
    is_word
        && (codes.any(|code| code.eq_ignore_ascii_case(text))
            || STANDARD_CODES.contains(&text.to_ascii_lowercase().as_str()))
}

/// Returns whether a text may be JSON or a form.
fn may_hold_reply(text: &str) -> bool {
    text.trim_start().starts_with(['{', '[']) || is_wrapped(text)
}

/// Returns whether a text is a placeholder of a template or a document, an address, or a structure as text.
fn is_template(text: &str) -> bool {
    const NAMES: [&str; 4] = [
        "accesstoken",
        "refreshtoken",
        "youraccesstoken",
        "yourrefreshtoken",
    ];
    text.starts_with(['{', '[', '$', '%'])
        || text.contains("://")
        || NAMES.contains(&plain(text).as_str())
}

/// `2026-12-30`, optionally with a time after it.
fn is_day(text: &str) -> bool {
    text.as_bytes().first_chunk().is_some_and(|day: &[u8; 10]| {
        let is_mark = |at: usize| at == 4 || at == 7;
        day.iter().enumerate().all(|(at, byte)| {
            if is_mark(at) {
                *byte == b'-'
            } else {
                byte.is_ascii_digit()
            }
        })
    })
}

/// Maximum number of digits of a lifetime, or of a time in milliseconds.
const MAX_LIFETIME_DIGITS: usize = 15;

/// Objects whose member with a refresh token's name is something else: a link, a lifetime, a word, a capability, or the
/// token of another account.
const FOREIGN_OBJECTS: [&str; 32] = [
    "links",
    "link",
    "urls",
    "endpoints",
    "meta",
    "metadata",
    "user",
    "users",
    "owner",
    "identity",
    "identities",
    "account",
    "accounts",
    "profile",
    "scope",
    "scopes",
    "ttl",
    "expires",
    "lifetime",
    "lifetimes",
    "policy",
    "policies",
    "grants",
    "supported",
    "params",
    "parameters",
    "request",
    "config",
    "settings",
    "features",
    "permissions",
    "status",
];

/// Returns whether a value means that there is no token: `null`, `false`, `""`, `0`, `"undefined"`, `"********"`.
fn is_none(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(yes) => !yes,
        Value::Number(number) => number.as_f64().is_some_and(|number| number <= 0.0),
        Value::String(text) => is_missing_value(text.trim_matches(is_unseen)),
        Value::Array(_) | Value::Object(_) => false,
    }
}

/// The first of these places with a token, or with an unparsable value.
pub fn first_token<'v>(places: &[JsonPath], body: &'v Map<String, Value>) -> Option<&'v Value> {
    places
        .iter()
        .filter_map(|place| place.find(body))
        .find(|value| !is_none(value))
}

/// As [`first_token`], for a refresh token: values for none, such as `true`, a lifetime or a date, are skipped.
pub(super) fn first_refresh<'v>(
    places: &[JsonPath],
    body: &'v Map<String, Value>,
) -> Option<&'v Value> {
    let found = places.iter().filter_map(|place| place.find(body));
    let mut tokens = found.filter(|value| !is_none(value) && !is_no_new_token(value));
    tokens.next()
}

/// Value in a refresh token's place that is not a token, for people.
pub(super) fn odd_refresh(places: &[JsonPath], body: &Map<String, Value>) -> Option<String> {
    let mut found = places.iter().filter_map(|place| place.find(body));
    let odd = found.find(|value| !is_none(value) && is_no_new_token(value))?;
    Some(odd.as_str().map_or_else(|| odd.to_string(), str::to_owned))
}

/// Returns whether a value in a refresh token's place means that there is no new one, or describes the one before: a
/// word such as `unchanged`, `true`, a date, a lifetime. A failure and a sentence do not.
#[must_use]
pub fn is_no_new_token(value: &Value) -> bool {
    match value {
        Value::Bool(_) => true,
        Value::Number(number) => is_lifetime(&number.to_string()),
        Value::String(text) => {
            let text = text.trim_matches(is_unseen);
            let word = plain(text);
            NO_NEW_TOKEN.contains(&word.as_str())
                || SCHEMA_WORDS.contains(&word.as_str())
                || is_lifetime(text)
                || is_day(text)
                || instant(text).is_some()
        }
        Value::Null | Value::Array(_) | Value::Object(_) => false,
    }
}

/// Returns whether digits are probably a lifetime in whole minutes, such as `3600`, rather than a token.
fn is_lifetime(text: &str) -> bool {
    const MAX_LENGTH: usize = 9;
    text.len() <= MAX_LENGTH
        && !text.starts_with('0')
        && text
            .parse()
            .is_ok_and(|secs: u32| secs > 0 && secs.is_multiple_of(60))
}

/// White space, and zero-width characters that editors and templates leave at the ends of a text.
fn is_unseen(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{200b}'..='\u{200d}' | '\u{2060}' | '\u{feff}')
}

/// A name without punctuation and case.
fn plain(name: &str) -> String {
    name.chars()
        .filter(|c| !"_-".contains(*c) && !is_unseen(*c))
        .collect::<String>()
        .to_ascii_lowercase()
}

/// Names of members with a token.
fn exact(profile: &Profile) -> Vec<&str> {
    let form = &profile.reply;
    form.access_token
        .iter()
        .chain(&form.refresh_token)
        .map(JsonPath::last)
        .collect()
}

struct EnvelopeReader<'a> {
    profile: &'a Profile,
    exact: Vec<&'a str>,
    /// Whether a failure that is stated beside or around a token object counts.
    judges: bool,
}

/// Content of a JSON value.
enum FoundToken {
    Token(Map<String, Value>),
    /// No token, or an error: the outermost object.
    Other(Map<String, Value>),
    Nothing,
}

impl FoundToken {
    /// The object, unless the surrounding words deny that it is a pair.
    fn unless_refused(
        self,
        reader: &EnvelopeReader<'_>,
        text: &[u8],
    ) -> Option<Map<String, Value>> {
        match self {
            Self::Token(map) => (!reader.is_refused_around(text)).then_some(map),
            Self::Other(map) => Some(map),
            Self::Nothing => None,
        }
    }
}

impl<'a> EnvelopeReader<'a> {
    fn of(profile: &'a Profile) -> Self {
        Self {
            profile,
            exact: exact(profile),
            judges: true,
        }
    }

    fn text(&self, text: &[u8], whole: bool) -> Option<Map<String, Value>> {
        let all = text;
        let data = event_data(trimmed(text));
        let text = data.as_deref().unwrap_or(text);
        let document = self.document(text, MAX_LAYERS, whole);
        match document.or_else(|| self.unclosed(text)) {
            Some((value, shortened)) => self.inside(value, shortened).unless_refused(self, all),
            None => self
                .embedded(without_warnings(without_prefix(trimmed(text))))
                .unless_refused(self, without_warnings(trimmed(all)))
                .or_else(|| self.escaped(text))
                .or_else(|| self.escaped_page(text))
                .or_else(|| self.cut(text))
                .or_else(|| self.form_in_page(text).filter(|_| whole)),
        }
    }

    /// The complete token object, with its own refresh token, in a truncated reply: `{"result":R,"time":{"st`. Only below
    /// names of an envelope: the rest of any other object may hold another pair.
    fn cut(&self, text: &[u8]) -> Option<Map<String, Value>> {
        let text = without_prefix(trimmed(text));
        let closed = closed_up(text)?;
        let parsed = parse(&closed, &self.exact).ok()?;
        let mut inner = &parsed.value;
        for _ in 0..MAX_LEVELS {
            let Value::Object(map) = inner else { break };
            if self.holds_token(map) {
                break;
            }
            let mut below = map.iter().filter(|(name, value)| {
                value.is_object() && ENVELOPES.contains(&plain(name).as_str())
            });
            inner = below.next()?.1;
            if below.next().is_some() {
                return None;
            }
        }
        let own = inner.as_object().filter(|map| {
            self.holds_token(map)
                && !map.contains_key(UNCLOSED)
                && first_refresh(&self.profile.reply.refresh_token, map).is_some()
        })?;
        let access = first_token(&self.profile.reply.access_token, own)?.clone();
        match self.inside(parsed.value, parsed.shortened) {
            FoundToken::Token(map)
                if first_token(&self.profile.reply.access_token, &map) == Some(&access) =>
            {
                FoundToken::Token(map).unless_refused(self, text)
            }
            _ => None,
        }
    }

    /// A form that is the only text of a page, apart from notices of the server's program.
    fn form_in_page(&self, text: &[u8]) -> Option<Map<String, Value>> {
        let text = std::str::from_utf8(trimmed(text)).ok()?;
        let lines = markup::text_lines(text)?;
        let mut lines = lines
            .iter()
            .map(|line| markup::without_notices(line))
            .map(|line| line.trim().to_owned())
            .filter(|line| !line.is_empty() && !markup::is_notice(line));
        let line = lines.next()?;
        if lines.next().is_some() || line.contains(' ') {
            return None;
        }
        let map = form(line.as_bytes())?;
        let has_both = self.holds_token(&map)
            && first_refresh(&self.profile.reply.refresh_token, &map).is_some();
        let found = has_both.then(|| self.inside(Value::Object(map), false))?;
        found.unless_refused(self, text.as_bytes())
    }

    /// Returns whether the words around the JSON of a text deny that it is a pair.
    fn is_refused_around(&self, text: &[u8]) -> bool {
        let counts = if self.judges {
            TextScope::All
        } else {
            TextScope::Names
        };
        is_refused_by_text(text, &self.exact, counts)
    }

    /// The complete object in an unclosed wrapping, or in brackets alone: `[R`, `cb(R`, `(R)`, a truncated JSON string.
    fn unclosed(&self, text: &[u8]) -> Option<(Value, bool)> {
        let text = without_prefix(trimmed(text));
        if text.starts_with(b"\"") {
            let closed = [text, b"\""].concat();
            let parsed = parse(&closed, &self.exact).ok()?;
            return match parsed.value {
                Value::String(inner)
                    if parsed.end == closed.len() && !self.is_refused_around(inner.as_bytes()) =>
                {
                    self.document(inner.as_bytes(), MAX_LAYERS - 1, false)
                }
                _ => None,
            };
        }
        let mut inside = text;
        for _ in 0..=MAX_LAYERS {
            let Some(rest) = opened(inside) else { break };
            inside = rest;
        }
        if inside.len() == text.len() || !inside.starts_with(b"{") {
            return None;
        }
        let parsed = parse(inside, &self.exact).ok()?;
        let closes = |byte: &u8| is_blank(*byte) || b")];".contains(byte);
        let rest = &inside[parsed.end..];
        rest.iter()
            .all(closes)
            .then_some((parsed.value, parsed.shortened))
    }

    /// A complete reply that was escaped for an HTML page.
    fn escaped(&self, text: &[u8]) -> Option<Map<String, Value>> {
        let text = std::str::from_utf8(trimmed(text))
            .ok()
            .filter(|text| text.starts_with(['{', '[']))?;
        let plain = ["&quot;", "&#34;", "&#x22;"]
            .iter()
            .fold(text.to_owned(), |text, quote| text.replace(quote, "\""));
        if plain == text || text.contains('"') {
            return None;
        }
        let plain = plain
            .replace("&#39;", "'")
            .replace("&lt;", "<")
            .replace("&gt;", ">")
            .replace("&amp;", "&");
        let (value, shortened) = self.document(plain.as_bytes(), 0, false)?;
        self.inside(value, shortened)
            .unless_refused(self, plain.as_bytes())
    }

    /// A reply whose quotes were escaped in a page of HTML or XML. Rejected if anything else was escaped: its original
    /// form is uncertain.
    fn escaped_page(&self, text: &[u8]) -> Option<Map<String, Value>> {
        let text = trimmed(text);
        let has = |sign: &[u8]| text.windows(sign.len()).any(|part| part == sign);
        if !text.starts_with(b"<") || !has(b"&quot;") || has(b"&amp;") || has(b"&lt;") {
            return None;
        }
        let plain = markup::with_quotes(text);
        self.embedded(&plain).unless_refused(self, &plain)
    }

    /// The value of a whole text, and whether parts of it were left out. `whole` states whether the text is complete,
    /// which a form does not show.
    fn document(&self, text: &[u8], layers: usize, whole: bool) -> Option<(Value, bool)> {
        let text = without_prefix(trimmed(text));
        let (value, shortened) = match text.first()? {
            b'{' | b'[' | b'"' | b'\'' => {
                let parsed = parse(text, &self.exact).ok()?;
                is_end(&text[parsed.end..]).then_some((parsed.value, parsed.shortened))?
            }
            _ => match call(text).or_else(|| assigned(text)).filter(|_| layers > 0) {
                Some(argument) => self.document(argument, layers - 1, true)?,
                None => (Value::Object(form(text).filter(|_| whole)?), false),
            },
        };
        match value {
            Value::String(text) if layers > 0 && !self.is_refused_around(text.as_bytes()) => {
                self.document(text.as_bytes(), layers - 1, true)
            }
            Value::String(_) => None,
            value => Some((value, shortened)),
        }
    }

    /// The token object that a value is or contains.
    fn inside(&self, mut value: Value, shortened: bool) -> FoundToken {
        for _ in 0..MAX_LEVELS {
            value = match value {
                Value::Array(mut list) if list.len() == 1 => list.remove(0),
                other => other,
            };
        }
        if let Value::Object(map) = &mut value
            && let Some(renamed) = self.renamed(map)
        {
            *map = renamed;
        }
        // If the profile defines success, only that definition counts.
        let judged = |map: &Map<String, Value>| {
            self.profile.reply.success.is_empty() && self.is_refusal(map)
        };
        let states_error =
            |map: &Map<String, Value>| self.judges && error_of(map, self.profile).is_some();
        if let Value::Object(map) = &value
            && (self.holds_token(map) || states_error(map))
        {
            if states_error(map) {
                return FoundToken::Other(map.clone());
            }
            // An object that reports a failure in another way is neither used nor trusted.
            if judged(map) {
                return FoundToken::Nothing;
            }
            return self.completed(map.clone(), &value);
        }
        let mut search = Search {
            found: Vec::new(),
            rejected: shortened,
            left: MAX_OBJECTS,
        };
        self.search(&value, None, MAX_LEVELS, &mut search);
        match (search, value) {
            (
                Search {
                    mut found,
                    rejected: false,
                    ..
                },
                value,
            ) if found.len() == 1 => self.completed(found.remove(0), &value),
            (_, Value::Object(map)) => FoundToken::Other(map),
            _ => FoundToken::Nothing,
        }
    }

    /// Returns whether an object, or its content, reports a failure.
    fn is_refusal(&self, map: &Map<String, Value>) -> bool {
        let mut left = MAX_OBJECTS;
        self.judges && self.is_refused_object(map, false, MAX_LEVELS, &mut left)
    }

    /// Completes a token object without a refresh token by the one elsewhere in its reply: the old one is spent.
    /// `FoundToken::Nothing` if there are several, or if that is uncertain.
    fn completed(&self, mut map: Map<String, Value>, root: &Value) -> FoundToken {
        let form = &self.profile.reply;
        if first_refresh(&form.refresh_token, &map).is_some() {
            return FoundToken::Token(map);
        }
        let own = first_token(&form.access_token, &map).cloned();
        let (mut found, mut left) = (Vec::new(), MAX_OBJECTS);
        self.refresh_tokens(root, own.as_ref(), MAX_LEVELS, &mut left, &mut found);
        match (found.as_slice(), form.refresh_token.first()) {
            _ if left == 0 => return FoundToken::Nothing,
            ([], _) => {}
            ([one], Some(place)) => {
                map.insert(place.last().to_owned(), (*one).clone());
                if first_refresh(&form.refresh_token, &map) != Some(one) {
                    return FoundToken::Nothing;
                }
            }
            _ => return FoundToken::Nothing,
        }
        FoundToken::Token(map)
    }

    /// Returns whether a value apart from an access token may be a token: not a word, a date or a lifetime.
    fn may_be_token(&self, value: &Value) -> bool {
        value
            .as_str()
            .filter(|text| text.bytes().any(|byte| byte.is_ascii_digit()))
            .filter(|text| {
                text.len() > MAX_LIFETIME_DIGITS || !text.bytes().all(|byte| byte.is_ascii_digit())
            })
            .filter(|text| instant(text).is_none() && !is_day(text))
            .is_some_and(|_| token(value, self.profile).is_some())
    }

    /// Distinct refresh tokens in a value, except for those beside another access token.
    fn refresh_tokens<'v>(
        &self,
        value: &'v Value,
        own: Option<&Value>,
        levels: usize,
        left: &mut usize,
        found: &mut Vec<&'v Value>,
    ) {
        match value {
            Value::Object(map) => {
                *left = left.saturating_sub(1);
                let form = &self.profile.reply;
                let beside = first_token(&form.access_token, map);
                if *left == 0 || (beside.is_some() && beside != own) {
                    return;
                }
                for (name, value) in map.iter().filter(|(name, _)| !is_something_else(name)) {
                    let is_named = form
                        .refresh_token
                        .iter()
                        .any(|place| plain(place.last()) == plain(name));
                    let is_other = FOREIGN_OBJECTS.contains(&plain(name).as_str());
                    if is_named && !is_none(value) && !value.is_object() && !value.is_array() {
                        if self.may_be_token(value) && !found.contains(&value) {
                            found.push(value);
                        }
                    } else if levels > 0 && !is_other {
                        self.refresh_tokens(value, own, levels - 1, left, found);
                    }
                }
            }
            Value::Array(list) if levels > 0 => {
                list.iter()
                    .for_each(|value| self.refresh_tokens(value, own, levels - 1, left, found));
            }
            _ => {}
        }
    }

    /// Searches for token objects below a value. Missing members of a token object are taken from the scalar members of
    /// the objects around it.
    fn search(
        &self,
        value: &Value,
        outer: Option<&OuterFields<'_>>,
        levels: usize,
        search: &mut Search,
    ) {
        if search.rejected {
            return;
        }
        match value {
            Value::Object(map) => {
                let renamed = self.renamed(map);
                let map = renamed.as_ref().unwrap_or(map);
                search.rejected = search.left == 0 || self.has_bad_token(map);
                search.left = search.left.saturating_sub(1);
                let around = OuterFields {
                    map,
                    outer,
                    refused: OnceCell::new(),
                };
                if self.holds_token(map) {
                    search.rejected |= around.is_refused(self);
                    let merged = around.merged();
                    if !search.found.contains(&merged) {
                        search.rejected |= !search.found.is_empty();
                        search.found.push(merged);
                    }
                } else if levels > 0 {
                    (map.iter().filter(|(name, _)| !is_something_else(name))).for_each(
                        |(_, value)| {
                            self.search(value, Some(&around), levels - 1, search);
                        },
                    );
                }
            }
            Value::Array(list) if levels > 0 => {
                let before = search.found.len();
                list.iter()
                    .for_each(|value| self.search(value, outer, levels - 1, search));
                // Elements beside the pair.
                search.rejected |= search.found.len() > before
                    && (list.iter().filter_map(Value::as_object)).any(|map| self.is_refusal(map));
            }
            Value::String(text) if levels > 0 && may_hold_reply(text) => {
                if let Some((value, shortened)) = self.document(text.as_bytes(), 0, true) {
                    search.rejected |= shortened;
                    self.search(&value, outer, levels - 1, search);
                }
            }
            _ => {}
        }
    }

    /// Renames members that are spelled differently (`accessToken`, `Access_Token`) to the profile's names; `None` if
    /// nothing changes, or two members would get one name.
    fn renamed(&self, map: &Map<String, Value>) -> Option<Map<String, Value>> {
        if map.len() > MAX_RENAMED {
            return None;
        }
        let form = &self.profile.reply;
        let lasts =
            |places: &'_ [JsonPath]| places.iter().map(|place| place.last().to_owned()).collect();
        let mut meanings: Vec<Vec<String>> = [
            &form.access_token,
            &form.refresh_token,
            &form.expires_in,
            &form.expires_at,
            &form.refresh_expires_in,
            &form.refresh_expires_at,
        ]
        .into_iter()
        .map(|places| lasts(places))
        .collect();
        meanings.extend(["token_type", "scope"].map(|name| vec![name.to_owned()]));
        let holds_token = self.holds_token(map);
        if !holds_token {
            meanings.extend(["error", "error_description"].map(|name| vec![name.to_owned()]));
        }
        let is_there = |names: &Vec<String>| {
            names
                .iter()
                .any(|name| map.get(name).is_some_and(|value| !is_none(value)))
        };
        meanings.retain(|names| !names.is_empty() && !is_there(names));
        if meanings.is_empty() {
            return None;
        }
        let spelt: Vec<(String, &String, &Value)> = (map.iter())
            .filter(|(_, value)| !is_none(value))
            .map(|(name, value)| (plain(name), name, value))
            .collect();
        let mut renamed = None;
        for names in meanings {
            let is_meant = |spelt: &str| names.iter().any(|name| plain(name) == spelt);
            let mut meant = spelt.iter().filter(|(spelt, ..)| is_meant(spelt));
            let Some((_, name, value)) = meant.next() else {
                continue;
            };
            if meant.any(|(_, _, other)| other != value) {
                return None;
            }
            let renamed = renamed.get_or_insert_with(|| map.clone());
            renamed.remove(*name);
            renamed.insert(names[0].clone(), (*value).clone());
        }
        renamed.filter(|renamed| self.holds_token(renamed))
    }

    fn holds_token(&self, map: &Map<String, Value>) -> bool {
        first_token(&self.profile.reply.access_token, map)
            .and_then(|value| token(value, self.profile))
            .is_some()
    }

    /// Returns whether an object has a text that is not a token in its access token's place: objects below do not
    /// belong to it.
    fn has_bad_token(&self, map: &Map<String, Value>) -> bool {
        first_token(&self.profile.reply.access_token, map).is_some_and(|value| {
            let is_bad = match value {
                Value::String(text) => !is_wrapped(text),
                // Two values with one name.
                Value::Array(list) => list.iter().any(Value::is_string),
                _ => false,
            };
            is_bad && token(value, self.profile).is_none()
        })
    }

    /// Returns whether any part of a value reports a failure: its members, nested objects and lists, and JSON in its
    /// texts. In a value `beside` the token, free text is ignored.
    fn is_refused(&self, value: &Value, beside: bool, levels: usize, left: &mut usize) -> bool {
        match value {
            Value::Object(map) => self.is_refused_object(map, beside, levels, left),
            Value::Array(list) => {
                levels > 0
                    && (list.iter()).any(|value| self.is_refused(value, beside, levels - 1, left))
            }
            Value::String(text) if levels > 0 && may_hold_reply(text) => self
                .document(text.as_bytes(), 0, true)
                .is_some_and(|(value, _)| self.is_refused(&value, beside, levels - 1, left)),
            _ => false,
        }
    }

    fn is_refused_object(
        &self,
        map: &Map<String, Value>,
        beside: bool,
        levels: usize,
        left: &mut usize,
    ) -> bool {
        *left = left.saturating_sub(1);
        let is_code = |text: &str| is_error_code(text, self.profile);
        let beside_token = beside || self.holds_token(map);
        *left == 0
            || error_of(map, self.profile).is_some()
            || is_refused_by_members(map, beside, is_code)
            || levels > 0
                && (map.iter())
                    .filter(|(name, _)| is_about_the_request(name))
                    .any(|(_, value)| self.is_refused(value, beside_token, levels - 1, left))
    }

    /// The object that stands alone between notices and markup.
    fn embedded(&self, text: &[u8]) -> FoundToken {
        let Some(page) = markup::scan(text, &self.exact) else {
            return FoundToken::Nothing;
        };
        // Consecutive values without text.
        let bare = page.bare;
        let (mut tokens, mut others) = (Vec::new(), Vec::new());
        for piece in page.pieces {
            let (same, map) = match self.inside(piece.value, piece.shortened) {
                FoundToken::Token(map) => (&mut tokens, map),
                // A line of a log may have a context that is about something else.
                FoundToken::Other(map)
                    if self.judges && error_of(&map, self.profile).is_some()
                        || (piece.alone || bare) && self.is_refusal(&map) =>
                {
                    (&mut others, map)
                }
                FoundToken::Other(_) | FoundToken::Nothing => continue,
            };
            if !same.iter().any(|(known, _)| *known == map) {
                same.push((map, piece.alone));
            }
            if tokens.len() + others.len() > 1 {
                return FoundToken::Nothing;
            }
        }
        match (tokens.pop(), others.pop()) {
            (Some((map, alone)), _) if alone || bare => FoundToken::Token(map),
            (None, Some((map, alone))) if alone || bare => FoundToken::Other(map),
            _ => FoundToken::Nothing,
        }
    }
}

struct Search {
    found: Vec<Map<String, Value>>,
    /// True if an outer object denies that it is a pair or exceeds the limits, or if there are two.
    rejected: bool,
    /// Remaining number of objects to search.
    left: usize,
}

/// An object and the objects around it.
struct OuterFields<'a> {
    map: &'a Map<String, Value>,
    outer: Option<&'a OuterFields<'a>>,
    /// Whether this object or one around it reports a failure.
    refused: OnceCell<bool>,
}

impl OuterFields<'_> {
    fn is_refused(&self, reader: &EnvelopeReader<'_>) -> bool {
        *self.refused.get_or_init(|| {
            reader.is_refusal(self.map) || self.outer.is_some_and(|outer| outer.is_refused(reader))
        })
    }

    fn merged(&self) -> Map<String, Value> {
        let mut merged = self.map.clone();
        let mut next = self.outer;
        while let Some(OuterFields { map, outer, .. }) = next {
            for (name, value) in map.iter().filter(|(name, value)| {
                !value.is_object() && !value.is_array() && *name != UNCLOSED
            }) {
                if !merged.contains_key(name) {
                    merged.insert(name.clone(), value.clone());
                }
            }
            next = *outer;
        }
        merged
    }
}

#[cfg(test)]
#[path = "token_object_tests.rs"]
mod tests;
