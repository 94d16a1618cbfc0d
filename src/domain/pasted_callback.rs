//! Cleans up a pasted callback: an address with a code, copied from a browser, a terminal or a message, possibly wrapped,
//! quoted and encoded.
//!
//! Must not be applied to the query of a browser: that is exact.

use serde_json::Value;
use url::form_urlencoded::byte_serialize;

/// Maximum input length, in bytes.
const MAX_LENGTH: usize = 16 * 1024;
/// Parameters that identify a callback.
const CALLBACK_KEYS: [&str; 2] = ["code=", "error="];
/// The same, encoded once more.
const ENCODED_CALLBACK_KEYS: [&str; 4] = ["code%3D", "code%3d", "error%3D", "error%3d"];
/// Delimiters around an address that never occur in one.
const QUOTES: &str = "\"'`<>“”„‘’‚«»";
/// Invisible characters that editors and messengers insert.
const INVISIBLE: [char; 14] = [
    '\u{feff}', '\u{200b}', '\u{200c}', '\u{200d}', '\u{200e}', '\u{200f}', '\u{2060}', '\u{ad}',
    '\u{202a}', '\u{202b}', '\u{202c}', '\u{202d}', '\u{202e}', '\u{61c}',
];

/// Parameters of a callback (RFC 6749 section 4.1.2, OpenID Connect, providers' extensions), as copied one per line.
const NAMES: [&str; 14] = [
    "code",
    "state",
    "scope",
    "error",
    "error_description",
    "error_uri",
    "iss",
    "session_state",
    "authuser",
    "prompt",
    "hd",
    "domain",
    "member_id",
    "server_domain",
];
/// Maximum number of nested percent-encodings.
const MAX_ENCODED: usize = 3;

/// The pasted content.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Pasted {
    /// Parameters, and their context.
    Parameters {
        /// `code=…&state=…`.
        query: String,
        /// Whether they were part of an address.
        of_address: bool,
    },
    /// An address without parameters.
    Address,
    /// A single word.
    Word(String),
}

/// Returns whether a text begins a callback, so that the next pasted text may continue it.
#[must_use]
pub fn starts_callback(text: &str) -> bool {
    let labelled = || {
        text.lines()
            .any(|line| labelled(line.trim()).is_some_and(|(name, _)| name == "code"))
    };
    CALLBACK_KEYS
        .iter()
        .chain(&ENCODED_CALLBACK_KEYS)
        .any(|key| text.contains(key))
        || labelled()
}

/// Extracts the callback; `None` if there is none.
pub(super) fn find(text: &str) -> Option<Pasted> {
    let text = plain(text)?;
    if let Some(query) = in_json(&text).or_else(|| in_lines(&text)) {
        return Some(Pasted::Parameters {
            query,
            of_address: false,
        });
    }
    let mut piece = piece(&text)?;
    let has_callback_key = |piece: &str| CALLBACK_KEYS.iter().any(|key| piece.contains(key));
    for _ in 0..MAX_ENCODED {
        if let Some(inner) = inner_address(&piece).filter(|_| !has_callback_key(&piece)) {
            piece = inner;
            continue;
        }
        let is_address = piece.get(..4).is_some_and(|start| start == "http");
        if !has_callback_key(&piece)
            && (starts_callback(&piece) || (is_address && piece.contains('%')))
        {
            piece = decoded(&piece)?;
        }
    }
    if !has_callback_key(&piece) {
        let word = decode_nested(&piece);
        return Some(if word.contains("://") {
            Pasted::Address
        } else {
            Pasted::Word(without_trailing(&word).to_owned())
        });
    }
    let (address, fragment) = piece.split_once('#').unwrap_or((&piece, ""));
    let parameters = |part: &str| {
        part.split_once('?')
            .map_or(part, |(_, query)| query)
            .to_owned()
    };
    // Also from the fragment (OAuth 2.0 Multiple Response Types, section 2.1).
    let part = if has_callback_key(address) {
        address
    } else {
        fragment
    };
    let of_address = piece.contains("://") || piece.contains('?') || part == fragment;
    Some(Pasted::Parameters {
        query: parameters(part),
        of_address,
    })
}

/// The callback inside another address, as mail programs rewrite links: `https://x/?url=https%3A…`.
fn inner_address(piece: &str) -> Option<String> {
    let (_, query) = piece.split_once('?')?;
    let values = query.split('&').filter_map(|pair| pair.split_once('='));
    let mut inner = values.filter_map(|(_, value)| decoded(value));
    inner.find(|inner| inner.starts_with("http") && starts_callback(inner))
}

/// `code: X` or `code=X`, with a known name.
fn labelled(line: &str) -> Option<(&'static str, &str)> {
    let line = line.trim_start_matches(['-', '*', ' ']);
    let (name, value) = line.split_once(": ").or_else(|| line.split_once('='))?;
    let name = name.trim().trim_matches(['"', '\'']);
    let known = NAMES
        .into_iter()
        .find(|known| known.eq_ignore_ascii_case(name))?;
    let value = value.trim().trim_end_matches([',', '&']);
    Some((known, value.trim_matches(['"', '\''])))
}

/// Parameters on one line each, including the code.
fn in_lines(text: &str) -> Option<String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let fields: Vec<_> = lines.map(labelled).collect::<Option<_>>()?;
    let alone = fields.len() == 1 && !text.contains(": ");
    let has_code = fields
        .iter()
        .any(|(name, value)| *name == "code" && !value.is_empty());
    if alone || !has_code || fields.iter().any(|(_, value)| value.contains('&')) {
        return None;
    }
    Some(query_of(fields.into_iter()))
}

/// A query from values that are literal or percent-encoded.
fn query_of<'t>(fields: impl Iterator<Item = (&'t str, &'t str)>) -> String {
    let field = |(name, value): (&str, &str)| {
        let encoded = decoded(value).is_some_and(|decoded| decoded != value);
        let value = if encoded {
            value.to_owned()
        } else {
            byte_serialize(value.as_bytes()).collect()
        };
        format!("{name}={value}")
    };
    fields.map(field).collect::<Vec<_>>().join("&")
}

/// Parameters as JSON: `{"code":"…","state":"…"}`.
fn in_json(text: &str) -> Option<String> {
    let Value::Object(object) = serde_json::from_str(text).ok()? else {
        return None;
    };
    object.get("code")?.as_str()?;
    let texts = object.iter().filter_map(|(name, value)| {
        let name = NAMES.into_iter().find(|known| known == name)?;
        Some((name, value.as_str()?))
    });
    Some(query_of(texts))
}

/// A code without trailing parameters or fragment.
fn without_trailing(word: &str) -> &str {
    let word = word.strip_suffix("#_=_").unwrap_or(word);
    let end = word.match_indices('&').find(|(at, _)| {
        let rest = &word[at + 1..];
        NAMES.iter().any(|name| {
            rest.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with('='))
        })
    });
    end.map_or(word, |(at, _)| &word[..at])
}

/// Removes the quote prefix that mail programs put before each line.
fn without_quote_prefix(text: &str) -> Option<String> {
    let lines = || text.lines().filter(|line| !line.trim().is_empty());
    let quoted = lines().count() > 0 && lines().all(|line| line.trim_start().starts_with('>'));
    quoted.then(|| {
        let bare = lines().map(|line| line.trim_start().trim_start_matches(['>', ' ']));
        bare.collect::<Vec<_>>().join("\n")
    })
}

/// Decodes quoted-printable mail (RFC 2045 section 6.7), if it is that without doubt.
fn unquoted_printable(text: &str) -> Option<String> {
    CALLBACK_KEYS
        .iter()
        .any(|key| text.contains(&format!("{key}3D")))
        .then(|| {
            text.replace("=\r\n", "")
                .replace("=\n", "")
                .replace("=26", "&")
                .replace("=3D", "=")
        })
}

/// Removes invisible characters and unescapes `&` and `=`.
fn plain(text: &str) -> Option<String> {
    if text.len() > MAX_LENGTH {
        return None;
    }
    let text = text
        .replace("\u{1b}[200~", "")
        .replace("\u{1b}[201~", "")
        .replace(INVISIBLE, "");
    if text.contains(|c: char| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) {
        return None;
    }
    let text = without_quote_prefix(&text).unwrap_or(text);
    let text = unquoted_printable(&text).unwrap_or(text);
    let mut plain = text.replace("\\\r\n", "").replace("\\\n", "");
    for (quoted, meant) in [
        // Escaped twice.
        ("&amp;amp;", "&"),
        ("&amp;", "&"),
        ("&#38;", "&"),
        ("&#x26;", "&"),
        ("&#61;", "="),
        ("\\u0026", "&"),
        ("\\u003d", "="),
        ("\\&", "&"),
        ("\\=", "="),
        ("\\?", "?"),
        ("\\/", "/"),
    ] {
        plain = plain.replace(quoted, meant);
    }
    Some(plain.trim().to_owned()).filter(|plain| !plain.is_empty())
}

/// The address, the parameters or the word, without surrounding text, from several lines if needed.
fn piece(text: &str) -> Option<String> {
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    if lines.iter().all(|line| !line.contains(char::is_whitespace)) {
        return bare(&lines.concat());
    }
    // Within prose: the word with the code, and the lines that can only be its continuation.
    let (at, line) = lines
        .iter()
        .enumerate()
        .find(|(_, line)| starts_callback(line))?;
    let word = line.split_whitespace().find(|word| starts_callback(word))?;
    let mut whole = word.to_owned();
    if line.ends_with(word) {
        let is_rest = |line: &&&str| {
            !line.contains(char::is_whitespace)
                && line.contains(|c: char| c.is_ascii_digit() || "=&%_-".contains(c))
        };
        whole.extend(lines[at + 1..].iter().take_while(is_rest).copied());
    }
    bare(whole.trim_end_matches(['.', ',', ';', ':', '!']))
}

/// Removes quotes and brackets.
fn bare(text: &str) -> Option<String> {
    let parts = || {
        text.split(|c| QUOTES.contains(c))
            .filter(|part| !part.is_empty())
    };
    let mut part = parts()
        .find(|part| starts_callback(part))
        .or_else(|| parts().max_by_key(|part| part.len()))?;
    for (open, close) in [('(', ')'), ('[', ']'), ('{', '}')] {
        let inner = part.strip_prefix(open);
        part = inner.map_or(part, |inner| inner.strip_suffix(close).unwrap_or(inner));
    }
    let part = part.trim_end_matches([',', ';']);
    // A trailing full stop. A JWT without a signature ends with one itself.
    let is_jwt = !part.contains("://") && part.matches('.').count() == 2;
    let part = part.strip_suffix('.').filter(|_| !is_jwt).unwrap_or(part);
    Some(part.to_owned()).filter(|part| !part.is_empty())
}

/// Decodes nested percent-encodings of a value that passed through several addresses. A code itself never contains a
/// percent sign and two hexadecimal digits.
pub(super) fn decode_nested(text: &str) -> String {
    let mut text = text.to_owned();
    for _ in 0..2 {
        match decoded(&text) {
            Some(decoded) if decoded != text => text = decoded,
            _ => break,
        }
    }
    text
}

/// Decodes percent-encoding once (RFC 3986 section 2.1); a plus sign is literal. `None` if the result is not UTF-8.
fn decoded(text: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let [first, after @ ..] = rest {
        let digit = |at: usize| {
            after
                .get(at)
                .and_then(|byte| char::from(*byte).to_digit(16))
        };
        match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push(u8::try_from(high * 16 + low).ok()?);
                rest = &after[2..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUERY: &str = "code=c1&state=s1&x=1";

    #[test]
    fn an_address_is_found_however_it_was_copied() {
        for text in [
            "https://app.example/cb?code=c1&state=s1&x=1",
            "https://app.example/cb?code=c1&amp;state=s1&#38;x=1",
            "\"https://app.example/cb?code=c1&state=s1&x=1\"",
            "'https://app.example/cb?code=c1&state=s1&x=1',",
            "<https://app.example/cb?code=c1&state=s1&x=1>",
            "“https://app.example/cb?code=c1&state=s1&x=1”",
            "(https://app.example/cb?code=c1&state=s1&x=1)",
            "<a href=\"https://app.example/cb?code=c1&amp;state=s1&amp;x=1\">here</a>",
            "https://app.example/cb\\?code\\=c1\\&state\\=s1\\&x\\=1",
            "https:\\/\\/app.example\\/cb?code=c1\\u0026state=s1\\u0026x=1",
            "https://app.example/cb?co\nde=c1&sta\r\n  te=s1&x=1\n",
            "\u{feff}https://app.example/\u{200b}cb?code=c1&state=s1&x=1",
            "\u{1b}[200~https://app.example/cb?code=c1&state=s1&x=1\u{1b}[201~",
            "It went to https://app.example/cb?code=c1&state=s1&x=1.",
            "It went to:\n  https://app.example/cb?code=c1&sta\n  te=s1&x=1\nand that was it",
            "https%3A%2F%2Fapp.example%2Fcb%3Fcode%3Dc1%26state%3Ds1%26x%3D1",
            "https://app.example/cb#code=c1&state=s1&x=1",
            "https://app.example/cb#/route?code=c1&state=s1&x=1",
            "https://app.example/cb?code=c1&state=s1&x=1#_=_",
            "https%253A%252F%252Fapp.example%252Fcb%253Fcode%253Dc1%2526state%253Ds1%2526x%253D1",
            "https://app.example/cb?code=c1&amp;amp;state=s1&amp;amp;x=1",
            "https://app.example/cb?code=3Dc1&sta=\nte=3Ds1&x=3D1",
            "> https://app.example/cb?code=c1&sta\n> te=s1&x=1\n",
            "https://app.example/cb?code=c1&sta\\\nte=s1&x=1",
            "https://app.example/cb?code=c1&state=s1&x=1.",
            "https://eur01.safelinks.protection.outlook.com/?url=https%3A%2F%2Fapp.example%2Fcb%3Fcode%3Dc1%26state%3Ds1%26x%3D1&data=05%7C02%7C&sdata=a%2Bb%3D&reserved=0",
            "https://eur01.safelinks.protection.outlook.com/?url=https%3A%2F%2Fapp.example%2Fcb%3Fcode%3Dc1%26state%3Ds1%26x%3D1&amp;data=05%7C02%7C&amp;reserved=0.",
            "https://x.example/l?u=https%3A%2F%2Feur01.safelinks.protection.outlook.com%2F%3Furl%3Dhttps%253A%252F%252Fapp.example%252Fcb%253Fcode%253Dc1%2526state%253Ds1%2526x%253D1%26data%3D05",
        ] {
            let expected = Pasted::Parameters {
                query: QUERY.to_owned(),
                of_address: true,
            };
            assert_eq!(find(text), Some(expected), "{text}");
        }
        for text in [
            QUERY,
            " code=c1&amp;state=s1&x=1\n",
            "`code=c1&state=s1&x=1`",
        ] {
            let expected = Pasted::Parameters {
                query: QUERY.to_owned(),
                of_address: false,
            };
            assert_eq!(find(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn parameters_on_lines_of_their_own_are_not_run_together() {
        for text in [
            "code=4/0Axyz\nstate=s1",
            "code=4%2F0Axyz\nstate=s1\n",
            "code=4/0Axyz&\nstate=s1&\n",
            "code: 4/0Axyz\nstate: s1",
            "- code: 4/0Axyz\n- state: s1",
            r#"{"code":"4/0Axyz","state":"s1"}"#,
            "{\n  \"code\": \"4/0Axyz\",\n  \"state\": \"s1\"\n}\n",
        ] {
            let expected = Pasted::Parameters {
                query: "code=4%2F0Axyz&state=s1".to_owned(),
                of_address: false,
            };
            assert_eq!(find(text), Some(expected), "{text}");
        }
        let expected = Pasted::Parameters {
            query: "code=4%2F0Axyz".to_owned(),
            of_address: false,
        };
        assert_eq!(find("code: 4/0Axyz"), Some(expected));
        let kept = "code=c1\nstate=Y\nscope=a b";
        assert!(
            matches!(find(kept), Some(Pasted::Parameters { query, .. }) if query == "code=c1&state=Y&scope=a+b")
        );
    }

    #[test]
    fn a_code_is_found_however_it_was_copied() {
        for text in [
            "4/0Axyz",
            "4%2F0Axyz",
            "4%252F0Axyz",
            "\"4/0Axyz\"",
            "'4%2F0Axyz'",
            "<4/0Axyz>",
            " 4/0A\n  xyz \r\n",
            "\u{feff}4/0Axyz\u{200b}",
            "4/0Axyz.",
            "\"4/0Axyz.\"",
        ] {
            assert_eq!(
                find(text),
                Some(Pasted::Word("4/0Axyz".to_owned())),
                "{text}"
            );
        }
        for text in [
            "4/0Axyz&state=abc",
            "4/0Axyz#_=_",
            "4%2F0Axyz&scope=a&authuser=0",
        ] {
            assert_eq!(
                find(text),
                Some(Pasted::Word("4/0Axyz".to_owned())),
                "{text}"
            );
        }
        assert_eq!(find("a&b=c"), Some(Pasted::Word("a&b=c".to_owned())));
        assert_eq!(find("a+b%zz%4"), Some(Pasted::Word("a+b%zz%4".to_owned())));
        assert_eq!(
            find("https://app.example/cb?state=s1"),
            Some(Pasted::Address)
        );
        for nothing in [
            "",
            "two words",
            "a\0b",
            "\u{1b}[2J",
            "\"\"",
            &"x".repeat(20_000),
        ] {
            assert_eq!(find(nothing), None, "{nothing}");
        }
    }
}
