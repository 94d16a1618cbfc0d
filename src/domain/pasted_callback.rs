//! What a person copies out of a browser, a terminal or a message: the address with its code, wrapped, quoted and encoded
//! as it may be by then.
//!
//! Must not be used on what a browser sends by itself: that is exact, and read as it is.

/// Read at most, in bytes.
const MAX_LENGTH: usize = 16 * 1024;
/// What an answer has.
const SIGNS: [&str; 2] = ["code=", "error="];
/// The same, encoded once more.
const ENCODED_SIGNS: [&str; 4] = ["code%3D", "code%3d", "error%3D", "error%3d"];
/// Characters that stand around an address, and in none.
const QUOTES: &str = "\"'`<>“”„‘’‚«»";
/// What editors and messengers put between characters, unseen.
const UNSEEN: [char; 14] = [
    '\u{feff}', '\u{200b}', '\u{200c}', '\u{200d}', '\u{200e}', '\u{200f}', '\u{2060}', '\u{ad}',
    '\u{202a}', '\u{202b}', '\u{202c}', '\u{202d}', '\u{202e}', '\u{61c}',
];

/// What was pasted.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Pasted {
    /// Parameters as in an address, and whether they stood in one.
    Parameters {
        /// `code=…&state=…`.
        query: String,
        /// They stood in an address.
        of_address: bool,
    },
    /// An address without any.
    Address,
    /// A word.
    Word(String),
}

/// Whether a text has the beginning of an answer in it, so that what is pasted next may be its rest.
#[must_use]
pub fn begins_an_answer(text: &str) -> bool {
    SIGNS
        .iter()
        .chain(&ENCODED_SIGNS)
        .any(|sign| text.contains(sign))
}

/// Finds it; `None` if there is nothing like it.
pub(super) fn find(text: &str) -> Option<Pasted> {
    let text = plain(text)?;
    let mut piece = piece(&text)?;
    for _ in 0..2 {
        if !SIGNS.iter().any(|sign| piece.contains(sign)) && begins_an_answer(&piece) {
            piece = decoded(&piece)?;
        }
    }
    if !begins_an_answer(&piece) {
        return Some(if piece.contains("://") {
            Pasted::Address
        } else {
            Pasted::Word(decoded_to_the_end(&piece))
        });
    }
    let (address, fragment) = piece.split_once('#').unwrap_or((&piece, ""));
    let parameters = |part: &str| {
        part.split_once('?')
            .map_or(part, |(_, query)| query)
            .to_owned()
    };
    let has_sign = |part: &str| SIGNS.iter().any(|sign| part.contains(sign));
    // After the number sign as well (OAuth 2.0 Multiple Response Types, section 2.1).
    let part = if has_sign(address) { address } else { fragment };
    let of_address = piece.contains("://") || piece.contains('?') || part == fragment;
    Some(Pasted::Parameters {
        query: parameters(part),
        of_address,
    })
}

/// Without what is not seen, and with `&` and `=` as they were before a page or a shell quoted them.
fn plain(text: &str) -> Option<String> {
    if text.len() > MAX_LENGTH {
        return None;
    }
    let text = text
        .replace("\u{1b}[200~", "")
        .replace("\u{1b}[201~", "")
        .replace(UNSEEN, "");
    if text.contains(|c: char| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) {
        return None;
    }
    let mut plain = text;
    for (quoted, meant) in [
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

/// The address, the parameters or the word, out of what stands around it and over how many lines it goes.
fn piece(text: &str) -> Option<String> {
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    if lines.iter().all(|line| !line.contains(char::is_whitespace)) {
        return bare(&lines.concat());
    }
    // In the midst of other words: the word that has it, and the lines that can only be its rest.
    let (at, line) = lines
        .iter()
        .enumerate()
        .find(|(_, line)| begins_an_answer(line))?;
    let word = line
        .split_whitespace()
        .find(|word| begins_an_answer(word))?;
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

/// Out of quotes and brackets.
fn bare(text: &str) -> Option<String> {
    let parts = || {
        text.split(|c| QUOTES.contains(c))
            .filter(|part| !part.is_empty())
    };
    let mut part = parts()
        .find(|part| begins_an_answer(part))
        .or_else(|| parts().max_by_key(|part| part.len()))?;
    for (open, close) in [('(', ')'), ('[', ']'), ('{', '}')] {
        let inner = part.strip_prefix(open);
        part = inner.map_or(part, |inner| inner.strip_suffix(close).unwrap_or(inner));
    }
    Some(part.trim_end_matches([',', ';']).to_owned()).filter(|part| !part.is_empty())
}

/// Percent-encoding taken away as often as it was put on: a value that came through more than one address. No code has a
/// percent sign and two hexadecimal digits of its own.
pub(super) fn decoded_to_the_end(text: &str) -> String {
    let mut text = text.to_owned();
    for _ in 0..2 {
        match decoded(&text) {
            Some(decoded) if decoded != text => text = decoded,
            _ => break,
        }
    }
    text
}

/// Percent-encoding taken away once (RFC 3986 section 2.1); a plus sign stays one. `None` if it is not UTF-8 then.
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
        ] {
            assert_eq!(
                find(text),
                Some(Pasted::Word("4/0Axyz".to_owned())),
                "{text}"
            );
        }
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
