//! Finds a secret in a text in any encoding: percent, JSON, HTML, quoted-printable, base64 or hex, as a list of numbers, in
//! another case, with other punctuation, between tags and comments of markup, or in parts.
//!
//! Must not change a text: it returns the ranges of the secrets, and `mask` replaces them.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

use super::hidden::is_hidden;

/// Length of a run of letters and digits that counts as part of a secret. Shorter runs occur in ordinary words.
pub const PART: usize = 8;
/// Maximum number of nested encodings to decode.
const MAX_ROUNDS: usize = 5;
/// Maximum nesting of base64 to decode.
const MAX_DEPTH: usize = 2;
/// Minimum length of base64 that can contain a part: 8 bytes take 11 characters.
const MIN_BASE64: usize = 11;
/// Minimum length of hex that can contain a part.
const MIN_HEX: usize = 2 * PART;
/// Minimum number of bytes in a list of numbers: that of the shortest secret.
const MIN_LIST: usize = 4;
/// Maximum number of characters between two numbers of a list.
const MAX_GAP: usize = 8;
/// Maximum size of a text to decode, in bytes. Longer ones are never shown, and would take too long.
const MAX_ENCODED_BYTES: usize = 8192;

/// A decoded character and the bytes of the text that encode it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Unit {
    c: char,
    start: usize,
    end: usize,
}

/// Secrets to search for.
#[derive(Default)]
pub struct SecretMatcher {
    /// Hashes of runs of letters and digits by length of the run. A collision of 64-bit hashes masks a word too many.
    parts: BTreeMap<usize, HashSet<u64>>,
    /// Secrets with too few letters and digits, compared character by character.
    exact: Vec<Vec<char>>,
}

impl SecretMatcher {
    /// Prepares a search for these secrets. A secret with enough letters and digits is found by any run of
    /// `part(length)` of them.
    pub fn of<'s>(secrets: impl Iterator<Item = &'s str>, part: fn(usize) -> usize) -> Self {
        let mut matcher = Self::default();
        for secret in secrets {
            let written = units(secret);
            let decoded = decode(written.clone());
            for form in different([&written, &decoded]) {
                let normal = normal(form);
                if normal.len() < PART {
                    let exact: Vec<char> = spaced(form).into_iter().map(|unit| unit.c).collect();
                    if !exact.is_empty() {
                        matcher.exact.push(exact);
                    }
                } else {
                    let length = part(normal.len()).clamp(PART, normal.len());
                    let parts = matcher.parts.entry(length).or_default();
                    parts.extend(hashes(&normal, length));
                }
            }
        }
        matcher
    }

    /// Ranges of the secrets in a text, in bytes. They may overlap and are unordered.
    pub fn find(&self, text: &str) -> Vec<Range<usize>> {
        if self.parts.is_empty() && self.exact.is_empty() {
            return Vec::new();
        }
        self.search(text, 0)
    }

    fn search(&self, text: &str, depth: usize) -> Vec<Range<usize>> {
        let written = units(text);
        let decoded = decode(written.clone());
        let printable = quoted_printable(&decoded);
        let bare = without_markup(&decoded);
        let mut found = Vec::new();
        for form in different([&written, &decoded, &printable, &bare]) {
            self.find_parts(text, form, &mut found);
            self.find_exact(form, &mut found);
        }
        for form in different([&written, &decoded, &bare]) {
            for listed in number_lists(form) {
                self.find_parts(text, &listed, &mut found);
                self.find_exact(&listed, &mut found);
            }
        }
        if depth < MAX_DEPTH && text.len() <= MAX_ENCODED_BYTES {
            for form in different([&written, &decoded]) {
                self.find_packed(form, depth, &mut found);
            }
        }
        found
    }

    fn find_parts(&self, text: &str, form: &[Unit], found: &mut Vec<Range<usize>>) {
        let normal = normal(form);
        for (&length, parts) in &self.parts {
            let mut hits = Vec::<Range<usize>>::new();
            for (at, _) in hashes(&normal, length)
                .enumerate()
                .filter(|(_, hash)| parts.contains(hash))
            {
                match hits.last_mut() {
                    Some(last) if last.end > at => last.end = at + length,
                    _ => hits.push(at..at + length),
                }
            }
            found.extend(hits.iter().filter_map(|hit| {
                let (first, last) = (normal.get(hit.start)?, normal.get(hit.end - 1)?);
                Some(with_rest(text, first.start..last.end))
            }));
        }
    }

    fn find_exact(&self, form: &[Unit], found: &mut Vec<Range<usize>>) {
        let form = spaced(form);
        let chars: Vec<char> = form.iter().map(|unit| unit.c).collect();
        for needle in &self.exact {
            let hits = chars
                .windows(needle.len())
                .enumerate()
                .filter(|(_, window)| window == needle);
            found.extend(hits.filter_map(|(at, window)| {
                Some(form.get(at)?.start..form.get(at + window.len() - 1)?.end)
            }));
        }
    }

    /// Decodes base64 and hex and searches the result; a match covers the encoded text as a whole.
    fn find_packed(&self, form: &[Unit], depth: usize, found: &mut Vec<Range<usize>>) {
        let holds = |bytes: Vec<u8>| {
            !self
                .search(&String::from_utf8_lossy(&bytes), depth + 1)
                .is_empty()
        };
        let packed: [(usize, usize, u32, Digit); 2] =
            [(MIN_BASE64, 4, 6, base64_digit), (MIN_HEX, 2, 4, hex_digit)];
        for (shortest, alignments, bits, digit) in packed {
            for run in form
                .split(|unit| digit(unit.c).is_none())
                .filter(|run| run.len() >= shortest)
            {
                let (Some(first), Some(last)) = (run.first(), run.last()) else {
                    continue;
                };
                let digits: Vec<u32> = run.iter().filter_map(|unit| digit(unit.c)).collect();
                // The beginning is unknown: other characters of the same alphabet may precede it.
                if (0..alignments)
                    .any(|skipped| holds(unpack(digits.get(skipped..).unwrap_or_default(), bits)))
                {
                    found.push(first.start..last.end);
                }
            }
        }
    }
}

/// Runs of at least `shortest` token characters with a digit among them, percent-encoded or not.
pub fn token_runs(text: &str, shortest: usize) -> Vec<Range<usize>> {
    let is_token = |unit: &Unit| unit.c.is_ascii_alphanumeric() || "-_~+/=".contains(unit.c);
    let decoded = decode(units(text));
    let runs = decoded.split(|unit| !is_token(unit));
    let tokens =
        runs.filter(|run| run.len() >= shortest && run.iter().any(|unit| unit.c.is_ascii_digit()));
    tokens
        .filter_map(|run| Some(run.first()?.start..run.last()?.end))
        .collect()
}

/// Hashes of all runs of this length, computed as a rolling hash.
fn hashes(form: &[Unit], length: usize) -> impl Iterator<Item = u64> {
    const BASE: u64 = 0x9e37_79b9_7f4a_7c15;
    let leaving = (0..length).fold(1_u64, |power, _| power.wrapping_mul(BASE));
    let mut hash = 0_u64;
    form.iter().enumerate().filter_map(move |(at, unit)| {
        let left = at
            .checked_sub(length)
            .map_or(0, |at| u64::from(form[at].c).wrapping_mul(leaving));
        hash = hash
            .wrapping_mul(BASE)
            .wrapping_add(u64::from(unit.c))
            .wrapping_sub(left);
        (at + 1 >= length).then_some(hash)
    })
}

/// Skips forms that equal the one before.
fn different<const N: usize>(forms: [&Vec<Unit>; N]) -> impl Iterator<Item = &Vec<Unit>> {
    (0..N)
        .filter(move |at| *at == 0 || forms[*at] != forms[at - 1])
        .map(move |at| forms[at])
}

/// Value of a character in an encoding of bytes.
type Digit = fn(char) -> Option<u32>;

fn base64_digit(c: char) -> Option<u32> {
    let value = match c {
        'A'..='Z' => u32::from(c) - u32::from('A'),
        'a'..='z' => u32::from(c) - u32::from('a') + 26,
        '0'..='9' => u32::from(c) - u32::from('0') + 52,
        '+' | '-' => 62,
        '/' | '_' => 63,
        _ => return None,
    };
    Some(value)
}

fn hex_digit(c: char) -> Option<u32> {
    c.to_digit(16)
}

/// Bytes from digits of this many bits.
fn unpack(digits: &[u32], bits: u32) -> Vec<u8> {
    let (mut bytes, mut held, mut count) = (Vec::with_capacity(digits.len()), 0_u32, 0);
    for digit in digits {
        held = (held << bits | digit) & 0xffff;
        count += bits;
        if count >= 8 {
            count -= 8;
            bytes.push((held >> count & 0xff) as u8);
        }
    }
    bytes
}

/// Extends a range by the letters, digits and percent signs around it, which are likely the rest of the same secret.
fn with_rest(text: &str, place: Range<usize>) -> Range<usize> {
    let is_rest = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'%';
    let before = text.as_bytes()[..place.start]
        .iter()
        .rev()
        .take_while(|byte| is_rest(byte))
        .count();
    let after = text.as_bytes()[place.end..]
        .iter()
        .take_while(|byte| is_rest(byte))
        .count();
    place.start - before..place.end + after
}

fn units(text: &str) -> Vec<Unit> {
    text.char_indices()
        .map(|(start, c)| Unit {
            c,
            start,
            end: start + c.len_utf8(),
        })
        .collect()
}

/// Letters and digits only, in lower case.
fn normal(form: &[Unit]) -> Vec<Unit> {
    // Some invisible characters count as letters.
    let kept = form
        .iter()
        .filter(|unit| unit.c.is_alphanumeric() && !is_hidden(unit.c));
    kept.flat_map(|unit| unit.c.to_lowercase().map(|c| Unit { c, ..*unit }))
        .collect()
}

/// All characters; a plus sign is a blank, as in forms.
fn spaced(form: &[Unit]) -> Vec<Unit> {
    let blank = |c: char| {
        if c == '+' || c.is_whitespace() {
            ' '
        } else {
            c
        }
    };
    form.iter()
        .filter(|unit| !is_hidden(unit.c))
        .map(|unit| Unit {
            c: blank(unit.c),
            ..*unit
        })
        .collect()
}

/// Decodes percent-encoding and the escapes of JSON and HTML, repeatedly.
fn decode(mut form: Vec<Unit>) -> Vec<Unit> {
    for _ in 0..MAX_ROUNDS {
        let mut decoded = Vec::with_capacity(form.len());
        let mut rest = form.as_slice();
        while let Some(first) = rest.first() {
            let read = match first.c {
                '%' => percent_u(rest).or_else(|| octets(rest, '%')),
                '\\' => backslash(rest),
                '&' => entity(rest),
                _ => None,
            };
            match read {
                Some((units, after)) => {
                    decoded.extend(units);
                    rest = after;
                }
                None => {
                    decoded.push(*first);
                    rest = &rest[1..];
                }
            }
        }
        if decoded == form {
            break;
        }
        form = decoded;
    }
    form
}

/// Decodes quoted-printable (RFC 2045 section 6.7). Texts in other encodings may look like it.
fn quoted_printable(form: &[Unit]) -> Vec<Unit> {
    let (mut decoded, mut rest) = (Vec::with_capacity(form.len()), form);
    while let Some(first) = rest.first() {
        if let Some((units, after)) = octets(rest, '=') {
            decoded.extend(units);
            rest = after;
        } else {
            decoded.push(*first);
            rest = &rest[1..];
        }
    }
    decoded
}

/// Removes tags and comments of HTML, which a browser does not show.
fn without_markup(form: &[Unit]) -> Vec<Unit> {
    const COMMENT: [char; 4] = ['<', '!', '-', '-'];
    const COMMENT_END: [char; 3] = ['-', '-', '>'];
    let starts = |rest: &[Unit], with: &[char]| {
        rest.len() >= with.len() && rest.iter().zip(with).all(|(unit, c)| unit.c == *c)
    };
    let mut bare = Vec::with_capacity(form.len());
    // Once there is no further end, none is looked for again.
    let (mut rest, mut has_end, mut has_comment_end) = (form, true, true);
    while let Some(first) = rest.first() {
        let is_tag = first.c == '<'
            && rest
                .get(1)
                .is_some_and(|unit| unit.c.is_ascii_alphabetic() || "/!?".contains(unit.c));
        let mut taken = None;
        if is_tag && has_comment_end && starts(rest, &COMMENT) {
            taken = (COMMENT.len()..rest.len())
                .find(|at| starts(&rest[*at..], &COMMENT_END))
                .map(|at| at + COMMENT_END.len());
            has_comment_end = taken.is_some();
        }
        if is_tag && has_end && taken.is_none() {
            taken = rest.iter().position(|unit| unit.c == '>').map(|at| at + 1);
            has_end = taken.is_some();
        }
        match taken {
            Some(taken) => rest = &rest[taken..],
            None => {
                bare.push(*first);
                rest = &rest[1..];
            }
        }
    }
    bare
}

/// The bytes that lists of numbers stand for: decimal, also every second one (`{"0":115,"1":51}`), hexadecimal in groups, octal.
fn number_lists(form: &[Unit]) -> Vec<Vec<Unit>> {
    let numbers = listed(form, decimal);
    let second = |skipped| numbers.iter().skip(skipped).step_by(2).copied().collect();
    let (even, odd) = (second(0), second(1));
    let lists = [
        numbers,
        even,
        odd,
        listed(form, hexadecimal),
        listed(form, octal),
    ];
    lists
        .iter()
        .filter(|bytes| !bytes.is_empty())
        .map(|bytes| decoded_bytes(bytes))
        .collect()
}

/// A byte and its place.
type Byte = (u8, usize, usize);
/// Appends the bytes of a number; false if it is none.
type ReadNumber = fn(&[Unit], &mut Vec<Byte>) -> bool;

/// The bytes of all lists of enough numbers.
fn listed(form: &[Unit], read: ReadNumber) -> Vec<Byte> {
    let (mut all, mut list, mut gap) = (Vec::new(), Vec::new(), 0);
    let mut end_list = |list: &mut Vec<Byte>| {
        if list.len() >= MIN_LIST {
            all.extend_from_slice(list);
        }
        list.clear();
    };
    for word in form.chunk_by(|one, next| one.c.is_alphanumeric() == next.c.is_alphanumeric()) {
        if word.first().is_some_and(|unit| unit.c.is_alphanumeric()) {
            if gap > MAX_GAP {
                end_list(&mut list);
            }
            if !read(word, &mut list) {
                end_list(&mut list);
            }
        } else {
            gap = word.len();
        }
    }
    end_list(&mut list);
    all
}

fn push_number(digits: &[Unit], radix: u32, longest: usize, bytes: &mut Vec<Byte>) -> bool {
    let ([first, ..], [.., last]) = (digits, digits) else {
        return false;
    };
    if digits.len() > longest {
        return false;
    }
    let value = digits.iter().try_fold(0_u32, |sum, unit| {
        Some(sum * radix + unit.c.to_digit(radix)?)
    });
    let Some(value) = value else { return false };
    // A larger number may be an index between bytes; this byte does not occur in UTF-8.
    let byte = u8::try_from(value).unwrap_or(u8::MAX);
    bytes.push((byte, first.start, last.end));
    true
}

fn decimal(word: &[Unit], bytes: &mut Vec<Byte>) -> bool {
    push_number(word, 10, 4, bytes)
}

fn octal(word: &[Unit], bytes: &mut Vec<Byte>) -> bool {
    push_number(word, 8, 4, bytes)
}

/// One byte, or a group of them, with `0x` or `x` before it or not.
fn hexadecimal(word: &[Unit], bytes: &mut Vec<Byte>) -> bool {
    let digits = match word {
        [zero, x, digits @ ..] if zero.c == '0' && matches!(x.c, 'x' | 'X') => digits,
        [x, digits @ ..] if matches!(x.c, 'x' | 'X') => digits,
        digits => digits,
    };
    if digits.len() == 1 {
        return push_number(digits, 16, 1, bytes);
    }
    digits.len() % 2 == 0
        && digits.iter().all(|unit| unit.c.is_ascii_hexdigit())
        && digits.chunks(2).all(|pair| push_number(pair, 16, 2, bytes))
}

/// Bytes as UTF-8 where possible.
fn decoded_bytes(bytes: &[Byte]) -> Vec<Unit> {
    let text: Vec<u8> = bytes.iter().map(|(byte, ..)| *byte).collect();
    let (mut units, mut at) = (Vec::with_capacity(bytes.len()), 0);
    for chunk in text.utf8_chunks() {
        let invalid = chunk
            .invalid()
            .iter()
            .map(|_| (char::REPLACEMENT_CHARACTER, 1));
        let valid = chunk.valid().chars().map(|c| (c, c.len_utf8()));
        for (c, length) in valid.chain(invalid) {
            if let (Some((_, start, _)), Some((_, _, end))) =
                (bytes.get(at), bytes.get(at + length - 1))
            {
                units.push(Unit {
                    c,
                    start: *start,
                    end: *end,
                });
            }
            at += length;
        }
    }
    units
}

type Read<'f> = Option<(Vec<Unit>, &'f [Unit])>;

/// Hex bytes, each after this sign, decoded as UTF-8 where possible.
fn octets(form: &[Unit], sign: char) -> Read<'_> {
    let (mut bytes, mut rest) = (Vec::new(), form);
    while let [first, high, low, after @ ..] = rest
        && first.c == sign
        && let (Some(high), Some(digit)) = (high.c.to_digit(16), low.c.to_digit(16))
    {
        bytes.push(((high << 4 | digit) as u8, first.start, low.end));
        rest = after;
    }
    let units = decoded_bytes(&bytes);
    (!units.is_empty()).then_some((units, rest))
}

/// `%uXXXX`, as JavaScript's `escape` and IIS write it.
fn percent_u(form: &[Unit]) -> Read<'_> {
    let (first, kind) = (form.first()?, form.get(1)?);
    if !matches!(kind.c, 'u' | 'U') {
        return None;
    }
    let value = hex(form.get(2..6)?)?;
    let c = char::from_u32(value).unwrap_or(char::REPLACEMENT_CHARACTER);
    Some((
        vec![Unit {
            c,
            start: first.start,
            end: form.get(5)?.end,
        }],
        &form[6..],
    ))
}

/// A hex number; `None` if a character is not a digit.
fn hex(digits: &[Unit]) -> Option<u32> {
    digits
        .iter()
        .try_fold(0, |sum, unit| Some(sum * 16 + unit.c.to_digit(16)?))
}

/// `{XX}` of an escape `\u{XX}`: its value and length in characters.
fn braced(form: &[Unit]) -> Option<(u32, usize)> {
    const MAX_LENGTH: usize = 6;
    let [open, inner @ ..] = form else {
        return None;
    };
    if open.c != '{' {
        return None;
    }
    let digits = inner
        .iter()
        .take(MAX_LENGTH + 1)
        .position(|unit| unit.c == '}')
        .filter(|digits| *digits > 0)?;
    Some((hex(&inner[..digits])?, digits + 2))
}

/// An escape of JSON or of similar languages.
fn backslash(form: &[Unit]) -> Read<'_> {
    let (first, kind) = (form.first()?, form.get(1)?);
    let after = &form[2..];
    let number = |digits: usize| Some((hex(after.get(..digits)?)?, digits));
    let of_number = match kind.c {
        'u' => number(4).or_else(|| braced(after)),
        'x' => number(2),
        _ => None,
    };
    let (c, taken) = match of_number {
        // An unpaired surrogate is no character of any secret.
        Some((value, digits)) => (
            char::from_u32(value).unwrap_or(char::REPLACEMENT_CHARACTER),
            digits,
        ),
        None if matches!(kind.c, 'n' | 'r' | 't' | 'b' | 'f') => (' ', 0),
        None => (kind.c, 0),
    };
    let end = form.get(1 + taken)?.end;
    Some((
        vec![Unit {
            c,
            start: first.start,
            end,
        }],
        &form[2 + taken..],
    ))
}

/// An HTML character reference. An unknown name is no ASCII letter or digit.
fn entity(form: &[Unit]) -> Read<'_> {
    const MAX_LENGTH: usize = 32;
    let length = form
        .iter()
        .skip(1)
        .take(MAX_LENGTH)
        .take_while(|unit| unit.c.is_ascii_alphanumeric() || unit.c == '#')
        .count();
    let name: String = form.get(1..=length)?.iter().map(|unit| unit.c).collect();
    let c = match name.strip_prefix('#') {
        Some(number) => {
            let hex = number
                .strip_prefix(['x', 'X'])
                .map(|hex| u32::from_str_radix(hex, 16));
            char::from_u32(hex.unwrap_or_else(|| number.parse()).ok()?)?
        }
        None => match name.as_str() {
            "" => return None,
            "amp" | "AMP" => '&',
            "percnt" => '%',
            "bsol" => '\\',
            "num" => '#',
            "equals" => '=',
            "lt" | "LT" => '<',
            "gt" | "GT" => '>',
            "quot" | "QUOT" => '"',
            "apos" => '\'',
            "plus" => '+',
            "sol" => '/',
            "colon" => ':',
            "semi" => ';',
            "comma" => ',',
            "period" => '.',
            "excl" => '!',
            "quest" => '?',
            "dollar" => '$',
            "ast" => '*',
            "lpar" => '(',
            "rpar" => ')',
            "commat" => '@',
            "lsqb" | "lbrack" => '[',
            "rsqb" | "rbrack" => ']',
            "lcub" | "lbrace" => '{',
            "rcub" | "rbrace" => '}',
            "verbar" | "vert" => '|',
            "lowbar" => '_',
            "Hat" => '^',
            "grave" => '`',
            _ if form.get(1 + length).is_some_and(|unit| unit.c == ';') => ' ',
            // The name of a parameter after an ampersand.
            _ => return None,
        },
    };
    let ended = form.get(1 + length).is_some_and(|unit| unit.c == ';');
    let length = length + usize::from(ended);
    Some((
        vec![Unit {
            c,
            start: form.first()?.start,
            end: form.get(length)?.end,
        }],
        &form[length + 1..],
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "rt/aBcDeFg1+hIjKlMn2=oPq";

    fn holds(text: &str) -> bool {
        !SecretMatcher::of([SECRET].into_iter(), |_| PART)
            .find(text)
            .is_empty()
    }

    #[test]
    fn a_secret_is_found_in_any_dress() {
        use base64::Engine as _;
        use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
        let percent = "rt%2FaBcDeFg1%2BhIjKlMn2%3DoPq";
        let hex: String = SECRET.bytes().map(|byte| format!("{byte:02x}")).collect();
        let all_percent: String = SECRET.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let all_json: String = SECRET
            .bytes()
            .map(|byte| format!("\\u{byte:04x}"))
            .collect();
        let all_percent_u: String = SECRET.bytes().map(|byte| format!("%u{byte:04X}")).collect();
        let all_braced: String = SECRET
            .bytes()
            .map(|byte| format!("\\u{{{byte:x}}}"))
            .collect();
        let all_html: String = SECRET.bytes().map(|byte| format!("&#{byte};")).collect();
        let all_html_hex: String = SECRET.bytes().map(|byte| format!("&#x{byte:X};")).collect();
        let listed = |between: &str, write: fn(u8) -> String| {
            let all: Vec<_> = SECRET.bytes().map(write).collect();
            all.join(between)
        };
        let indexed: String = SECRET
            .bytes()
            .enumerate()
            .map(|(at, byte)| format!("\"{at}\":{byte},"))
            .collect();
        let groups: String = SECRET
            .as_bytes()
            .chunks(2)
            .map(|pair| format!("{:02x}{:02x} ", pair[0], pair.get(1).unwrap_or(&b'.')))
            .collect();
        for text in [
            SECRET,
            percent,
            &percent.replace('%', "%25"),
            &percent.replace('%', "%2525"),
            &percent.replace('%', "="),
            &percent.replace('%', "\\x"),
            &percent.to_lowercase(),
            &SECRET.to_uppercase(),
            "rt\\/aBcDeFg1+hIjKlMn2=oPq",
            "rt\\u002faBcDeFg1\\u002bhIjKlMn2=oPq",
            "rt&#x2F;aBcDeFg1&plus;hIjKlMn2&equals;oPq",
            "rt&amp;#47;aBcDeFg1&amp;#43;hIjKlMn2=oPq",
            &all_percent,
            &all_json,
            &all_html,
            &all_html_hex,
            &hex,
            &STANDARD.encode(SECRET),
            &STANDARD.encode(format!("my:client:{SECRET}")),
            &URL_SAFE_NO_PAD.encode(format!("c:{percent}")),
            &STANDARD.encode(STANDARD.encode(SECRET)),
            &format!("Basic/{}", STANDARD.encode(format!("cid:{SECRET}"))),
            &STANDARD.encode(SECRET).replace('=', "%3D"),
            "rt/a Bc De-Fg1",
            &all_percent_u,
            &all_braced,
            "rt%u002FaBcDeFg1%u002bhIjKlMn2%u003DoPq",
            "…eFg1+hIjK…",
            &listed(", ", |byte| byte.to_string()),
            &listed(" ", |byte| byte.to_string()),
            &listed(",\n      ", |byte| byte.to_string()),
            &listed(" ", |byte| format!("{byte:02x}")),
            &listed(":", |byte| format!("{byte:02X}")),
            &listed(", ", |byte| format!("0x{byte:x}")),
            &listed("", |byte| format!("\\x{byte:02x}")),
            &listed(" ", |byte| format!("\\x{byte:02x}")),
            &listed("", |byte| format!("\\{byte:03o}")),
            &indexed,
            &groups,
            &listed("<wbr>", |byte| char::from(byte).to_string()),
            &listed("\u{ad}", |byte| char::from(byte).to_string()),
            &listed("\u{3164}", |byte| char::from(byte).to_string()),
            &listed("&#8203;", |byte| char::from(byte).to_string()),
            &listed("&shy;", |byte| char::from(byte).to_string()),
            &listed("<!-- no > end -->", |byte| char::from(byte).to_string()),
            &listed("&lt;wbr&gt;", |byte| char::from(byte).to_string()),
            &listed("<span class=x>", |byte| format!("{byte:02x}")),
            &STANDARD.encode(listed(",", |byte| byte.to_string())),
            "<a href=\"?t=rt/aBcDeFg1+hIjKlMn2=oPq\">",
        ] {
            assert!(holds(text), "{text}");
        }
        for text in [
            "",
            "a refresh token",
            "rt/aBc",
            "grant_type=refresh_token&client_id=x",
            "%",
            "\\",
            "&",
            "&#;",
            "%2",
            "<",
            "<!--",
            "<!-->",
            "rt<wbr>aBc",
            "114, 116, 47, 97, 66, 99",
            "0x",
            "1,2,3,4,5,6,7,8,9,10,11,12",
        ] {
            assert!(!holds(text), "{text}");
        }
    }

    #[test]
    fn a_secret_of_few_letters_is_compared_character_by_character() {
        let matcher = SecretMatcher::of(["q/w+e:r&1"].into_iter(), |_| PART);
        for text in [
            "?t=q/w+e:r&1",
            "?t=q%2Fw%2Be%3Ar%261",
            "q\\/w+e:r&amp;1",
            "q/w e:r&1",
        ] {
            assert!(!matcher.find(text).is_empty(), "{text}");
        }
        assert!(matcher.find("qwer1").is_empty());
    }

    #[test]
    fn a_secret_of_symbols_is_found_in_html() {
        let matcher = SecretMatcher::of(["<\">(/+:;=)'"].into_iter(), |_| PART);
        for text in [
            "no &lt;&quot;&gt;(/+:;=)' here",
            "&lt;&#34;&gt;&lpar;&sol;&plus;&colon;&semi;&equals;&rpar;&apos;",
        ] {
            assert!(!matcher.find(text).is_empty(), "{text}");
        }
    }

    #[test]
    fn letters_of_any_script_are_compared_without_case() {
        let matcher = SecretMatcher::of(["пароль-длинный"].into_iter(), |_| PART);
        assert!(!matcher.find("ПАРОЛЬ-ДЛИННЫЙ").is_empty());
    }

    #[test]
    fn the_place_is_that_of_what_was_written() {
        let text = "é: rt%2FaBcDeFg1%2BhIjKlMn2%3DoPq, so";
        let places = SecretMatcher::of([SECRET].into_iter(), |_| PART).find(text);
        assert!(
            places
                .iter()
                .any(|place| &text[place.clone()] == "rt%2FaBcDeFg1%2BhIjKlMn2%3DoPq"),
            "{places:?}"
        );
    }
}
