//! Removes wrappings of a reply in a text: byte order marks, prefixes against script inclusion, comments, a call
//! (JSONP), a form.

use serde_json::{Map, Value};
use url::form_urlencoded;

use super::lenient::{add, comment, is_blank, parse};

/// Prefixes of some servers against script inclusion; without white space, longest first.
const PREFIXES: [&str; 12] = [
    "throw1;<don'tbeevil'>",
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

/// Invisible characters at the ends of a text, in UTF-8: the byte order mark, the same encoded twice (via Latin-1),
/// zero-width and no-break spaces.
const INVISIBLE: [&[u8]; 7] = [
    b"\xef\xbb\xbf",
    b"\xc3\xaf\xc2\xbb\xc2\xbf",
    b"\xe2\x80\x8b",
    b"\xe2\x81\xa0",
    b"\xc2\xa0",
    b"\xe2\x80\xa8",
    b"\xe2\x80\xa9",
];

/// Trims white space, NUL and byte order marks.
pub(super) fn trimmed(mut text: &[u8]) -> &[u8] {
    loop {
        let before = text.len();
        for mark in INVISIBLE {
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

/// Returns whether only white space, NUL, semicolons, commas and comments are left.
pub(super) fn is_end(mut rest: &[u8]) -> bool {
    loop {
        while let [b'\0'..=b' ' | b';' | b',', after @ ..] = rest {
            rest = after;
        }
        // The last line need not end.
        rest = match comment(rest) {
            Some(length) => &rest[length..],
            None => return rest.is_empty() || rest.starts_with(b"//"),
        };
    }
}

/// Removes a prefix against script inclusion, or a comment around the text.
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
    let in_comment = || text.strip_prefix(b"/*")?.strip_suffix(b"*/").map(trimmed);
    let after_comments = || {
        let mut rest = text;
        while let Some(length) = comment(rest) {
            rest = trimmed(&rest[length..]);
        }
        (rest.len() < text.len() && rest.starts_with(b"{")).then_some(rest)
    };
    // A string in it may hold the sign of its end.
    let is_value = |rest: &&[u8]| parse(rest, &[]).is_ok_and(|parsed| is_end(&rest[parsed.end..]));
    after_comments()
        .filter(is_value)
        .or_else(in_comment)
        .or_else(after_comments)
        .unwrap_or(text)
}

/// Data of a text that is a stream (HTML, "Server-sent events") of one event.
pub(super) fn event_data(text: &[u8]) -> Option<Vec<u8>> {
    const OTHER_FIELDS: [&[u8]; 4] = [b":", b"event:", b"id:", b"retry:"];
    let lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let mut data: Option<Vec<u8>> = None;
    for line in lines.filter(|line| !line.is_empty()) {
        if let Some(part) = line.strip_prefix(b"data:") {
            let data = data.get_or_insert_default();
            data.extend_from_slice(part);
            data.push(b'\n');
        } else if !OTHER_FIELDS.iter().any(|other| line.starts_with(other)) {
            return None;
        }
    }
    data
}

/// Value of a text that is one assignment (`var token = R;`, `token=R`) or that follows the word `OK`.
pub(super) fn assigned(text: &[u8]) -> Option<&[u8]> {
    let open = text.iter().take(256).position(|byte| *byte == b'{')?;
    let (before, value) = text.split_at(open);
    let before = std::str::from_utf8(before).ok()?.trim();
    if before.eq_ignore_ascii_case("ok") {
        return Some(value);
    }
    let name = before.strip_suffix('=')?.trim();
    let name = ["var ", "let ", "const "]
        .iter()
        .find_map(|word| name.strip_prefix(word))
        .unwrap_or(name);
    is_function(name.trim()).then_some(value)
}

/// Removes a Python warning before a reply: the line with its name, and the line of source code.
pub(super) fn without_warnings(text: &[u8]) -> &[u8] {
    let mut rest = text;
    loop {
        let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
            return rest;
        };
        let line = String::from_utf8_lossy(&rest[..end]);
        let is_warning = line.split_once("Warning: ").is_some_and(|(before, _)| {
            let words: Vec<_> = before.split_whitespace().collect();
            matches!(words[..], [place, kind] if place.ends_with(':') && place.matches(':').count() == 2
                && kind.bytes().all(|byte| byte.is_ascii_alphabetic()))
        });
        if !is_warning {
            return rest;
        }
        rest = &rest[end + 1..];
        if rest.starts_with(b"  ")
            && let Some(end) = rest.iter().position(|byte| *byte == b'\n')
        {
            rest = &rest[end + 1..];
        }
    }
}

/// Text after an opening bracket, or after a function name and a bracket, at the beginning.
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

/// Argument of a text that is one function call: JSONP.
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

/// Parses a text that is a form (`application/x-www-form-urlencoded`), also with another separator than `&`.
pub(super) fn form(text: &[u8]) -> Option<Map<String, Value>> {
    let is_part =
        |byte: &u8| byte.is_ascii_alphanumeric() || b"=&%+-_.~*!,:;/@$'()[]|".contains(byte);
    let text = match text {
        [b'?' | b'#', rest @ ..] => rest,
        _ => text,
    };
    // One field per line.
    let lines: Vec<_> = text
        .split(|byte| *byte == b'\n')
        .map(<[u8]>::trim_ascii)
        .filter(|line| !line.is_empty())
        .collect();
    if lines.len() > 1
        && lines
            .iter()
            .all(|line| line.contains(&b'=') && !line.contains(&b'&'))
    {
        return form(&lines.join(&b'&'));
    }
    if !text.iter().all(is_part) {
        return None;
    }
    let text = std::str::from_utf8(text).ok()?.replace("&amp;", "&");
    // The form was encoded as a whole.
    if !text.contains(['=', '&']) && text.to_ascii_lowercase().contains("%3d") {
        let decoded: String = form_urlencoded::parse(text.as_bytes())
            .next()?
            .0
            .into_owned();
        return decoded
            .contains('=')
            .then(|| form(decoded.as_bytes()))
            .flatten();
    }
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
        // `token[access_token]`, PHP's notation for nested fields.
        let nested = name
            .strip_suffix(']')
            .and_then(|name| name.split_once('['))
            .filter(|(outer, inner)| {
                !outer.is_empty() && !inner.is_empty() && !inner.contains('[')
            });
        let (map, name) = match nested {
            None => (&mut map, &*name),
            Some((outer, inner)) => {
                let object = map
                    .entry(outer)
                    .or_insert_with(|| Value::Object(Map::new()));
                (object.as_object_mut()?, inner)
            }
        };
        add(map, name.to_owned(), value);
    }
    (!map.is_empty()).then_some(map)
}

/// Returns whether a text is not a token but a reply itself, a form or JSON with a token in it. The refresh token in it
/// must not reach readers of the token files.
pub(super) fn is_wrapped(text: &str) -> bool {
    const TOKEN_NAMES: [&str; 4] = [
        "access_token",
        "refresh_token",
        "accesstoken",
        "refreshtoken",
    ];
    let text = text.to_ascii_lowercase();
    let is_name = |rest: &str| {
        let rest = rest.trim_start_matches(['"', '\'', '\\', ' ']);
        rest.starts_with(['=', ':'])
            || rest.starts_with("%3d")
            || rest.starts_with("%3a")
            || rest.starts_with("%22")
    };
    TOKEN_NAMES.iter().any(|name| {
        text.match_indices(name)
            .any(|(at, _)| is_name(&text[at + name.len()..]))
    })
}
