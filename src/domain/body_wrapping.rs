//! What lies around a reply in one text: marks, prefixes against inclusion as a script, comments, a call (JSONP), a form.

use serde_json::{Map, Value};
use url::form_urlencoded;

use super::lenient::is_blank;
use super::quirks::says_nothing;
use super::token_object::is_wrapped;

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

/// What nobody sees at the ends of a text, in UTF-8: the byte order mark, once more as Latin-1 that was encoded again, spaces
/// without a width or a break.
const MARKS: [&[u8]; 5] = [
    b"\xef\xbb\xbf",
    b"\xc3\xaf\xc2\xbb\xc2\xbf",
    b"\xe2\x80\x8b",
    b"\xe2\x81\xa0",
    b"\xc2\xa0",
];

/// A text without the white space, NUL and marks at its ends.
pub(super) fn trimmed(mut text: &[u8]) -> &[u8] {
    loop {
        let before = text.len();
        for mark in MARKS {
            text = text.strip_prefix(mark).unwrap_or(text);
            text = text.strip_suffix(mark).unwrap_or(text);
        }
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
pub(super) fn is_end(rest: &[u8]) -> bool {
    rest.iter().all(|byte| is_blank(*byte) || *byte == b';')
}

/// A text without a prefix against inclusion as a script, or without the comment that it is in.
pub(super) fn without_prefix(text: &[u8]) -> &[u8] {
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
    let after_comment = || {
        let end = text
            .strip_prefix(b"/*")?
            .windows(2)
            .position(|sign| sign == b"*/")?;
        let rest = trimmed(&text[end + 4..]);
        rest.starts_with(b"{").then_some(rest)
    };
    in_comment()
        .map(trimmed)
        .or_else(after_comment)
        .unwrap_or(text)
}

/// What follows a bracket, or the name of a function and a bracket, that a text begins with.
pub(super) fn opened(text: &[u8]) -> Option<&[u8]> {
    let rest = match text {
        [b'[', rest @ ..] => rest,
        _ => {
            let open = text.iter().take(256).position(|byte| *byte == b'(')?;
            let name = std::str::from_utf8(&text[..open]).ok()?.trim();
            (name.is_empty() || is_function(name)).then(|| &text[open + 1..])?
        }
    };
    Some(trimmed(rest))
}

fn is_function(name: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '$' | '.' | '[' | ']');
    !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit()) && name.chars().all(is_part)
}

/// The argument of a text that is one call of a function: JSONP.
pub(super) fn call(text: &[u8]) -> Option<&[u8]> {
    let open = text.iter().position(|byte| *byte == b'(')?;
    let (name, rest) = (&text[..open], text[open + 1..].trim_ascii_end());
    let inside = rest
        .strip_suffix(b";")
        .unwrap_or(rest)
        .trim_ascii_end()
        .strip_suffix(b")")?;
    let name = std::str::from_utf8(name)
        .ok()
        .filter(|name| name.len() < 256)?;
    // `typeof name === 'function' && name(…)`
    let name = name.rsplit("&&").next().unwrap_or(name).trim();
    is_function(name).then_some(inside)
}

/// A text that is nothing but a form (`application/x-www-form-urlencoded`), also with another sign than `&` between its
/// fields.
pub(super) fn form(text: &[u8]) -> Option<Map<String, Value>> {
    let is_part =
        |byte: &u8| byte.is_ascii_alphanumeric() || b"=&%+-_.~*!,:;/@$'()[]|".contains(byte);
    if !text.iter().all(is_part) {
        return None;
    }
    let text = std::str::from_utf8(text).ok()?.replace("&amp;", "&");
    let is_whole = |map: &Map<String, Value>| {
        !map.values()
            .any(|value| value.as_str().is_some_and(is_wrapped))
    };
    let usual = fields(&text, '&')?;
    if is_whole(&usual) {
        return Some(usual);
    }
    [';', ',', '|', '/']
        .into_iter()
        .find_map(|sign| fields(&text, sign).filter(is_whole))
        .or(Some(usual))
}

fn fields(text: &str, sign: char) -> Option<Map<String, Value>> {
    let mut map = Map::new();
    for pair in text.split(sign).filter(|pair| !pair.is_empty()) {
        let (name, value) = form_urlencoded::parse(pair.as_bytes())
            .next()
            .filter(|_| pair.contains('='))?;
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
