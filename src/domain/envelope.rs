//! Finds the one JSON object that a reply is, however it is wrapped. Whether that object is a pair or a refusal is for
//! `reply` to say.
//!
//! It takes off packing (gzip, zlib, deflate), encodings (UTF-8 with a BOM, UTF-16), prefixes against inclusion as a script,
//! JSONP, lists of one, strings of JSON, and outer objects; it reads forms, and finds an object between notices and markup.
//! Must not take a token out of a sentence, an attribute or a script, nor out of an object that is not closed, nor choose
//! between two different ones. Work and memory are bounded for any body.

use std::borrow::Cow;
use std::io::Read;

use flate2::bufread::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use serde_json::{Map, Value};
use url::form_urlencoded;

use super::dialect::{Place, first, says_nothing};
use super::lenient::{DAMAGE, is_blank, parse};
use super::markup;
use super::provider::Profile;
use super::reply::error_of;

/// Longest body that is read, packed or not, in bytes.
pub const LARGEST: usize = 1 << 20;
/// How many wrappings of one sort may lie around a reply.
const LAYERS: usize = 3;
/// How many outer objects and lists may lie around a token object.
const LEVELS: usize = 4;
/// How many objects are looked at for a token.
const MOST_OBJECTS: usize = 5000;

/// An object with more members is no token object in another spelling.
const MOST_RENAMED: usize = 100;

/// What some servers put before a reply so that no page can include it as a script; without white space, longest first.
const PREFIXES: [&str; 11] = [
    "throw1;<dontbeevil>",
    "&&&START&&&",
    "/*-secure-",
    "while(true);",
    "while(1);",
    "for(;;);",
    ")]}',",
    ")]}'",
    "{}&&",
    "/**/",
    "data:",
];

/// The object of a reply: the token object, if there is exactly one; else the outermost object, which may be a refusal.
/// `None`: there is no such object, or there are several.
#[must_use]
pub fn open(body: &[u8], profile: &Profile) -> Option<Map<String, Value>> {
    let reader = Reader { profile, exact: exact(profile) };
    let body = &body[..body.len().min(LARGEST)];
    let mut unpacked = Cow::Borrowed(body);
    for _ in 0..LAYERS {
        let Some(inside) = unpack(&unpacked) else { break };
        unpacked = Cow::Owned(inside);
    }
    let found = reader.text(&decode(&unpacked));
    // Deflate without a header is recognised by nothing but its contents.
    let binary = || body.iter().any(|byte| !byte.is_ascii_graphic() && !byte.is_ascii_whitespace());
    found.or_else(|| binary().then(|| reader.text(&decode(&inflated(DeflateDecoder::new(body)))))?)
}

/// Whether there is nothing in a body that anybody could read.
#[must_use]
pub fn is_empty(body: &[u8]) -> bool {
    body.iter().copied().all(is_blank)
}

/// A token as it can stand in a reply; `None` for a value that cannot be one.
pub(super) fn token(value: &Value) -> Option<Cow<'_, str>> {
    let text = match value {
        Value::String(text) => Cow::Borrowed(text.trim()),
        Value::Number(number) => Cow::Owned(number.to_string()),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => return None,
    };
    let damaged = |c: char| c.is_control() || c == DAMAGE;
    (!text.is_empty() && !text.contains(damaged)).then_some(text)
}

/// The names of members that hold a token.
fn exact(profile: &Profile) -> Vec<&str> {
    let form = &profile.reply;
    form.access_token.iter().chain(&form.refresh_token).map(Place::last).collect()
}

struct Reader<'a> {
    profile: &'a Profile,
    exact: Vec<&'a str>,
}

/// What a JSON value holds.
enum Found {
    Token(Map<String, Value>),
    /// No token, or an error: the outermost object.
    Other(Map<String, Value>),
    Nothing,
}

/// Whether a member speaks about a request or an example, and so holds no reply.
fn is_example(name: &str) -> bool {
    const EXAMPLES: [&str; 9] =
        ["example", "examples", "sample", "expected", "got", "given", "input", "echo", "request"];
    EXAMPLES.iter().any(|word| word.eq_ignore_ascii_case(name))
}

impl Reader<'_> {
    fn text(&self, text: &[u8]) -> Option<Map<String, Value>> {
        match self.document(text, LAYERS) {
            Some((value, shortened)) => match self.inside(value, shortened) {
                Found::Token(map) | Found::Other(map) => Some(map),
                Found::Nothing => None,
            },
            None => self.embedded(without_prefix(trimmed(text))).or_else(|| self.escaped(text)),
        }
    }

    /// A whole reply that was escaped for a page of HTML.
    fn escaped(&self, text: &[u8]) -> Option<Map<String, Value>> {
        let text = std::str::from_utf8(trimmed(text)).ok().filter(|text| text.starts_with(['{', '[']))?;
        let plain = ["&quot;", "&#34;", "&#x22;"]
            .iter()
            .fold(text.to_owned(), |text, quote| text.replace(quote, "\""));
        if plain == text || text.contains('"') {
            return None;
        }
        let plain =
            plain.replace("&#39;", "'").replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
        let (value, shortened) = self.document(plain.as_bytes(), 0)?;
        match self.inside(value, shortened) {
            Found::Token(map) | Found::Other(map) => Some(map),
            Found::Nothing => None,
        }
    }

    /// The value that a text is as a whole, and whether parts of it were left out.
    fn document(&self, text: &[u8], layers: usize) -> Option<(Value, bool)> {
        let text = without_prefix(trimmed(text));
        let (value, shortened) = match text.first()? {
            b'{' | b'[' | b'"' => {
                let parsed = parse(text, &self.exact).ok()?;
                is_end(&text[parsed.end..]).then_some((parsed.value, parsed.shortened))?
            }
            _ => match call(text).filter(|_| layers > 0) {
                Some(argument) => self.document(argument, layers - 1)?,
                None => (Value::Object(form(text)?), false),
            },
        };
        match value {
            Value::String(text) if layers > 0 => self.document(text.as_bytes(), layers - 1),
            Value::String(_) => None,
            value => Some((value, shortened)),
        }
    }

    /// The token object that a value is or holds.
    fn inside(&self, mut value: Value, shortened: bool) -> Found {
        for _ in 0..LEVELS {
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
        if let Value::Object(map) = &value
            && (self.holds_token(map) || error_of(map, self.profile).is_some())
        {
            let is_token = error_of(map, self.profile).is_none();
            // What says in another way that the request failed is neither taken nor believed. Where the profile says
            // what success is, that alone counts.
            if is_token && self.profile.reply.success.is_empty() && self.fails(map, true) {
                return Found::Nothing;
            }
            let Value::Object(map) = value else { return Found::Nothing };
            return if is_token { Found::Token(map) } else { Found::Other(map) };
        }
        let mut search = Search { found: Vec::new(), spoilt: shortened, left: MOST_OBJECTS };
        self.search(&value, None, LEVELS, &mut search);
        match (search, value) {
            (Search { mut found, spoilt: false, .. }, _) if found.len() == 1 => Found::Token(found.remove(0)),
            (_, Value::Object(map)) => Found::Other(map),
            _ => Found::Nothing,
        }
    }

    /// Looks for token objects below a value. What a token object does not say itself is taken from the plain members of
    /// the objects around it.
    fn search(&self, value: &Value, outer: Option<&Outer<'_>>, levels: usize, search: &mut Search) {
        if search.spoilt {
            return;
        }
        match value {
            Value::Object(map) => {
                let renamed = self.renamed(map);
                let map = renamed.as_ref().unwrap_or(map);
                search.spoilt = search.left == 0 || self.fails(map, false);
                search.left = search.left.saturating_sub(1);
                let around = Outer { map, outer };
                if self.holds_token(map) {
                    let merged = around.merged();
                    if !search.found.contains(&merged) {
                        search.spoilt |= !search.found.is_empty();
                        search.found.push(merged);
                    }
                } else if levels > 0 {
                    (map.iter().filter(|(name, _)| !is_example(name)))
                        .for_each(|(_, value)| self.search(value, Some(&around), levels - 1, search));
                }
            }
            Value::Array(list) if levels > 0 => {
                list.iter().for_each(|value| self.search(value, outer, levels - 1, search));
            }
            Value::String(text) if levels > 0 && text.trim_start().starts_with(['{', '[']) => {
                if let Some((value, shortened)) = self.document(text.as_bytes(), 0) {
                    search.spoilt |= shortened;
                    self.search(&value, outer, levels - 1, search);
                }
            }
            _ => {}
        }
    }

    /// An object whose members have a profile's names in another spelling (`accessToken`, `Access_Token`) under the names
    /// of the profile; `None` where that makes no difference, or two members would get one name.
    fn renamed(&self, map: &Map<String, Value>) -> Option<Map<String, Value>> {
        if self.holds_token(map) || map.len() > MOST_RENAMED {
            return None;
        }
        let form = &self.profile.reply;
        let known: Vec<&str> = [
            &form.access_token,
            &form.refresh_token,
            &form.expires_in,
            &form.expires_at,
            &form.refresh_expires_in,
            &form.refresh_expires_at,
        ]
        .into_iter()
        .flatten()
        .map(Place::last)
        .chain(["token_type", "scope", "error", "error_description"])
        .collect();
        let plain =
            |name: &str| name.chars().filter(|c| !"_-".contains(*c)).collect::<String>().to_ascii_lowercase();
        let mut renamed = Map::new();
        for (name, value) in map {
            let spelt = plain(name);
            let known = known.iter().find(|known| plain(known) == spelt).copied();
            if renamed.insert(known.unwrap_or(name).to_owned(), value.clone()).is_some() {
                return None;
            }
        }
        self.holds_token(&renamed).then_some(renamed)
    }

    fn holds_token(&self, map: &Map<String, Value>) -> bool {
        first(&self.profile.reply.access_token, map).and_then(token).is_some()
    }

    /// Whether an object says in any usual way that the request failed. Beside a token a sentence alone says nothing.
    fn fails(&self, map: &Map<String, Value>, beside: bool) -> bool {
        const ERRORS: [&str; 9] = [
            "error",
            "errors",
            "errorcode",
            "errcode",
            "err",
            "errordescription",
            "errormessage",
            "fault",
            "exception",
        ];
        const FAILED: [&str; 8] =
            ["error", "fail", "failed", "failure", "denied", "refused", "rejected", "unauthorized"];
        let is_status = |value: &Value| {
            let number = value.as_i64().or_else(|| value.as_str().and_then(|text| text.trim().parse().ok()));
            number.is_some_and(|number| {
                number < 0 || (400..600).contains(&number) || (40_000..60_000).contains(&number)
            })
        };
        let is_no = |value: &Value| match value {
            Value::Bool(yes) => !yes,
            Value::Number(number) => number.as_f64() == Some(0.0),
            Value::String(text) => ["false", "0", "no"].iter().any(|no| no.eq_ignore_ascii_case(text.trim())),
            _ => false,
        };
        // Beside a code that says zero, as of Bitrix24's and Chinese providers.
        let succeeds = |value: &Value| {
            let word =
                value.as_str().unwrap_or_default().trim().trim_end_matches(['.', '!']).to_ascii_lowercase();
            ["ok", "success", "successful", "succeeded", "no error", "none"].contains(&word.as_str())
        };
        error_of(map, self.profile).is_some()
            || map.iter().any(|(name, value)| {
                let name: String =
                    name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase();
                let failed = || {
                    value
                        .as_str()
                        .is_some_and(|text| FAILED.iter().any(|word| word.eq_ignore_ascii_case(text.trim())))
                };
                match name.as_str() {
                    "success" | "ok" | "succeeded" | "issuccess" => is_no(value),
                    "haserror" | "iserror" => !says_nothing(value),
                    "result" => is_status(value) || failed() || value == &Value::Bool(false),
                    "status" | "statuscode" | "code" | "outcome" => is_status(value) || failed(),
                    "errordescription" | "errormessage" if beside => false,
                    "errormessage" | "errordescription" | "errors" | "error" | "err" if succeeds(value) => {
                        false
                    }
                    name => ERRORS.contains(&name) && !says_nothing(value),
                }
            })
    }

    /// The object that stands alone between notices and markup.
    fn embedded(&self, text: &[u8]) -> Option<Map<String, Value>> {
        let page = markup::scan(text, &self.exact)?;
        // Values alone, one after the other.
        let bare = page.bare;
        let (mut tokens, mut others) = (Vec::new(), Vec::new());
        for piece in page.pieces {
            let (same, map) = match self.inside(piece.value, piece.shortened) {
                Found::Token(map) => (&mut tokens, map),
                Found::Other(map) if self.fails(&map, false) => (&mut others, map),
                Found::Other(_) | Found::Nothing => continue,
            };
            if !same.iter().any(|(known, _)| *known == map) {
                same.push((map, piece.alone));
            }
            if tokens.len() + others.len() > 1 {
                return None;
            }
        }
        let (map, alone) = tokens.pop().or_else(|| others.pop())?;
        (alone || bare).then_some(map)
    }
}

struct Search {
    found: Vec<Map<String, Value>>,
    /// Whether something on the way says that it is no pair, or could not be looked at, or there are two.
    spoilt: bool,
    /// How many objects may still be looked at.
    left: usize,
}

/// An object, and those around it.
struct Outer<'a> {
    map: &'a Map<String, Value>,
    outer: Option<&'a Outer<'a>>,
}

impl Outer<'_> {
    fn merged(&self) -> Map<String, Value> {
        let mut merged = self.map.clone();
        let mut next = self.outer;
        while let Some(Outer { map, outer }) = next {
            for (name, value) in map.iter().filter(|(_, value)| !value.is_object() && !value.is_array()) {
                if !merged.contains_key(name) {
                    merged.insert(name.clone(), value.clone());
                }
            }
            next = *outer;
        }
        merged
    }
}

/// A text without the white space, NUL and marks at its ends.
fn trimmed(mut text: &[u8]) -> &[u8] {
    loop {
        let before = text.len();
        text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        while let [first, rest @ ..] = text
            && is_blank(*first)
        {
            text = rest;
        }
        while let [rest @ .., last] = text
            && is_blank(*last)
        {
            text = rest;
        }
        if text.len() == before {
            return text;
        }
    }
}

/// Whether nothing but white space, NUL and semicolons is left.
fn is_end(rest: &[u8]) -> bool {
    rest.iter().all(|byte| is_blank(*byte) || *byte == b';')
}

/// A text without a prefix against inclusion as a script, or without the comment that it is in.
fn without_prefix(text: &[u8]) -> &[u8] {
    let after = |prefix: &str| {
        let mut wanted = prefix.bytes().peekable();
        let mut at = 0;
        while let Some(byte) = wanted.peek() {
            match text.get(at)? {
                found if found == byte => drop(wanted.next()),
                found if is_blank(*found) => {}
                _ => return None,
            }
            at += 1;
        }
        Some(trimmed(&text[at..]))
    };
    if let Some(rest) = PREFIXES.into_iter().find_map(after) {
        return rest.strip_suffix(b"*/").map_or(rest, trimmed);
    }
    let in_comment = || text.strip_prefix(b"/*")?.strip_suffix(b"*/");
    in_comment().map_or(text, trimmed)
}

/// The argument of a text that is one call of a function: JSONP.
fn call(text: &[u8]) -> Option<&[u8]> {
    let open = text.iter().position(|byte| *byte == b'(')?;
    let (name, rest) = (&text[..open], text[open + 1..].trim_ascii_end());
    let inside = rest.strip_suffix(b";").unwrap_or(rest).trim_ascii_end().strip_suffix(b")")?;
    let name = std::str::from_utf8(name).ok().filter(|name| name.len() < 256)?;
    // `typeof name === 'function' && name(…)`
    let name = name.rsplit("&&").next().unwrap_or(name).trim();
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '$' | '.' | '[' | ']');
    (!name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit()) && name.chars().all(is_name))
        .then_some(inside)
}

/// A text that is nothing but a form (`application/x-www-form-urlencoded`).
fn form(text: &[u8]) -> Option<Map<String, Value>> {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"=&%+-_.~*!,:;/@$'()[]|".contains(byte);
    if !text.iter().all(is_part) {
        return None;
    }
    let mut map = Map::new();
    for pair in text.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
        let (name, value) = form_urlencoded::parse(pair).next().filter(|_| pair.contains(&b'='))?;
        let value = Value::from(value.into_owned());
        if name.is_empty() {
            return None;
        }
        if !map.contains_key(&*name) || !says_nothing(&value) {
            map.insert(name.into_owned(), value);
        }
    }
    (!map.is_empty()).then_some(map)
}

/// What is packed with a header that says so; `None` if nothing is, or nothing comes of it.
fn unpack(bytes: &[u8]) -> Option<Vec<u8>> {
    let inside = match bytes {
        [0x1f, 0x8b, 8, ..] => inflated(MultiGzDecoder::new(bytes)),
        // RFC 1950 section 2.2: deflate, with a check of the first two bytes.
        [method, flags, ..]
            if method & 0xf == 8 && (u16::from(*method) << 8 | u16::from(*flags)) % 31 == 0 =>
        {
            inflated(ZlibDecoder::new(bytes))
        }
        _ => return None,
    };
    (!inside.is_empty()).then_some(inside)
}

/// What comes out before the end or a fault, up to [`LARGEST`] bytes.
fn inflated(mut packed: impl Read) -> Vec<u8> {
    let (mut out, mut piece) = (Vec::new(), [0; 4096]);
    while let Ok(length @ 1..) = packed.read(&mut piece) {
        out.extend_from_slice(&piece[..length]);
        if out.len() >= LARGEST {
            out.truncate(LARGEST);
            break;
        }
    }
    out
}

/// The text as UTF-8, as far as it can be told: UTF-16 is known by its mark, or since every other byte of its ASCII is
/// zero; UTF-32 since three of four are.
#[must_use]
pub fn decode(bytes: &[u8]) -> Cow<'_, [u8]> {
    let wide = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let units = bytes.as_chunks().0.iter().map(|pair: &[u8; 2]| unit(*pair));
        Cow::Owned(char::decode_utf16(units).map(|c| c.unwrap_or(DAMAGE)).collect::<String>().into_bytes())
    };
    let ascii = |zeros: usize| {
        let start = &bytes[..bytes.len().min(32)];
        start.len() >= 4 && start.iter().enumerate().all(|(index, byte)| (index % 2 == zeros) == (*byte == 0))
    };
    // The first character is the mark, which is no ASCII.
    let quads = |used: &[usize]| {
        let start = &bytes[..bytes.len().min(64)];
        let after_mark = start.iter().enumerate().skip(4);
        start.len() >= 12
            && after_mark.clone().all(|(index, byte)| used.contains(&(index % 4)) == (*byte != 0))
    };
    let long = |unit: fn([u8; 4]) -> u32| {
        let units = bytes.as_chunks().0.iter().map(|quad: &[u8; 4]| unit(*quad));
        let text: String = units.map(|unit| char::from_u32(unit).unwrap_or(DAMAGE)).collect();
        Cow::Owned(text.into_bytes())
    };
    match bytes {
        _ if quads(&[0]) => long(u32::from_le_bytes),
        _ if quads(&[3]) => long(u32::from_be_bytes),
        [0xff, 0xfe, rest @ ..] => wide(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => wide(rest, u16::from_be_bytes),
        _ if ascii(1) => wide(bytes, u16::from_le_bytes),
        _ if ascii(0) => wide(bytes, u16::from_be_bytes),
        _ => Cow::Borrowed(bytes),
    }
}

#[cfg(test)]
#[path = "envelope_tests.rs"]
mod tests;
