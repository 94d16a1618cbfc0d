//! Lenient JSON parser: tolerates damage that does not matter.
//!
//! It tolerates invalid UTF-8, control characters and unknown escapes in strings, numbers outside every type, trailing
//! commas, comments (`//`, `/* */`), any depth and any number of values, and the single quotes and words of a printed
//! Python dictionary. Must not accept an unclosed value, and must not use unbounded memory.

use serde_json::{Map, Number, Value};

use super::quirks::means_no_error;

/// Containers below this level are only checked for matching brackets, and parsed as null.
const MAX_DEPTH: usize = 64;
/// After this many values the remaining containers are parsed as null, which bounds memory.
const MAX_VALUES: usize = 20_000;
/// Replaces undecodable parts of a string. No token contains it (RFC 6749 appendix A.12).
pub const DAMAGE: char = '\u{fffd}';

/// Name of a member that marks an object whose end is missing; see [`closed_up`].
pub(super) const UNCLOSED: &str = "refreshd: its end is missing";
/// Maximum number of containers around the end of a truncated text.
const MAX_UNCLOSED: usize = 16;

/// A truncated object as far as its members are complete, with an end for each container: objects that had none get a
/// member [`UNCLOSED`]. `None` for any other text.
pub(super) fn closed_up(text: &[u8]) -> Option<Vec<u8>> {
    if text.first() != Some(&b'{') {
        return None;
    }
    let mut open: Vec<u8> = Vec::new();
    // End of the last complete member, and the number of containers around it.
    let mut last = None;
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        match byte {
            b'{' => open.push(b'}'),
            b'[' => open.push(b']'),
            b'"' | b'\'' => {
                let length = string_length(&text[at..]);
                let Some(length) = length else { break };
                at += length;
                continue;
            }
            b'}' | b']' => {
                if open.pop() != Some(*byte) || open.is_empty() {
                    return None;
                }
                last = Some((at + 1, open.len()));
            }
            b',' => last = Some((at, open.len())),
            _ => {}
        }
        if open.len() > MAX_UNCLOSED {
            return None;
        }
        at += 1;
    }
    let (end, depth) = last?;
    let mut closed = text[..end].to_vec();
    for end in open[..depth].iter().rev() {
        if *end == b'}' {
            closed.extend_from_slice(format!(",\"{UNCLOSED}\":1").as_bytes());
        }
        closed.push(*end);
    }
    Some(closed)
}

/// Length of a string, with its quotes.
fn string_length(text: &[u8]) -> Option<usize> {
    let quote = *text.first()?;
    let mut at = 1;
    loop {
        match *text.get(at)? {
            byte if byte == quote => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// A value and its end.
#[derive(Debug)]
pub struct Parsed {
    /// The value.
    pub value: Value,
    /// Index after its last byte.
    pub end: usize,
    /// True if containers were left out because there were too many values.
    pub shortened: bool,
    /// Text of the comments in it, a line each: they may deny what the value states.
    pub comments: String,
}

/// Parses the value at the beginning of `bytes`, after white space. Numbers of members named in `exact` become strings
/// with their original digits. `Err` means that there is no complete value; it holds the number of bytes read.
pub fn parse(bytes: &[u8], exact: &[&str]) -> Result<Parsed, usize> {
    let mut parser = Parser {
        bytes,
        at: 0,
        exact,
        left: MAX_VALUES,
        shortened: false,
        comments: String::new(),
    };
    match parser.value(0, false) {
        Some(value) => Ok(Parsed {
            value,
            end: parser.at,
            shortened: parser.shortened,
            comments: parser.comments,
        }),
        None => Err(parser.at),
    }
}

/// Returns whether two names differ in case, `_` and `-` at most.
fn is_spelled_as(name: &str, other: &str) -> bool {
    let letters = |name| {
        str::chars(name)
            .filter(|c| !matches!(c, '_' | '-'))
            .map(|c| c.to_ascii_lowercase())
    };
    letters(name).eq(letters(other))
}

/// Length of the comment at the beginning of a text, with its signs; `None` if there is none, or if it does not end.
pub(super) fn comment(text: &[u8]) -> Option<usize> {
    let (inside, length) = match text {
        [b'/', b'/', inside @ ..] => (
            inside,
            inside
                .iter()
                .position(|byte| matches!(byte, b'\n' | b'\r'))?,
        ),
        [b'/', b'*', inside @ ..] => (
            inside,
            inside.windows(2).position(|signs| signs == b"*/")? + 2,
        ),
        _ => return None,
    };
    Some(text.len() - inside.len() + length)
}

/// White space of JSON, and control characters that some servers add.
pub const fn is_blank(byte: u8) -> bool {
    byte <= b' '
}

struct Parser<'a> {
    bytes: &'a [u8],
    at: usize,
    exact: &'a [&'a str],
    left: usize,
    shortened: bool,
    comments: String,
}

impl Parser<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// Next byte that is neither blank nor in a comment.
    fn next(&mut self) -> Option<u8> {
        loop {
            while self.peek().is_some_and(is_blank) {
                self.at += 1;
            }
            let byte = self.peek()?;
            if byte != b'/' {
                return Some(byte);
            }
            let rest = self.bytes.get(self.at..)?;
            let Some(length) = comment(rest) else {
                // The rest was searched for the end of a comment: it counts as read.
                if matches!(rest, [_, b'/' | b'*', ..]) {
                    self.at = self.bytes.len();
                    return None;
                }
                return Some(byte);
            };
            self.comments.push('\n');
            self.comments
                .push_str(&String::from_utf8_lossy(&rest[2..length]));
            self.at += length;
        }
    }

    fn take(&mut self, wanted: u8) -> Option<()> {
        (self.next()? == wanted).then(|| self.at += 1)
    }

    fn value(&mut self, level: usize, exact: bool) -> Option<Value> {
        self.left = self.left.saturating_sub(1);
        match self.next()? {
            b'{' | b'[' if level >= MAX_DEPTH || (level > 0 && self.left == 0) => {
                self.shortened |= self.left == 0;
                self.skip().map(|()| Value::Null)
            }
            b'{' => self.object(level).map(Value::Object),
            b'[' => self.array(level).map(Value::Array),
            b'"' | b'\'' => self.string().map(Value::String),
            _ => self.word().or_else(|| self.number(exact)),
        }
    }

    fn object(&mut self, level: usize) -> Option<Map<String, Value>> {
        self.at += 1;
        let mut map = Map::new();
        loop {
            if self.next()? == b'}' {
                self.at += 1;
                return Some(map);
            }
            if !matches!(self.next()?, b'"' | b'\'') {
                return None;
            }
            let name = self.string()?;
            self.take(b':')?;
            let exact = self.exact.iter().any(|exact| is_spelled_as(exact, &name));
            let value = self.member(level + 1, exact)?;
            add(&mut map, name, value);
            self.comma(b'}')?;
        }
    }

    /// Value of a member. One that is no JSON, such as `nan`, `0,02`, `TRUE` or nothing, does not matter, unless the member
    /// is named in `exact`: a token may not be cut out of a text.
    fn member(&mut self, level: usize, exact: bool) -> Option<Value> {
        let start = self.at;
        let first = self.next()?;
        if matches!(first, b'{' | b'[' | b'"' | b'\'') {
            return self.value(level, exact);
        }
        let value = self.value(level, exact);
        if value.is_some() && self.ends_member()? {
            return value;
        }
        self.at = start;
        self.next()?;
        let text = self.odd_scalar()?;
        let value = match text.to_ascii_lowercase().as_str() {
            "" | "-" | "null" | "nil" | "none" | "nan" | "-nan" | "inf" | "-inf" | "+inf" => {
                Value::Null
            }
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            _ => Value::String(text),
        };
        (!exact || value.is_null()).then_some(value)
    }

    /// Returns whether the end of the object or the name of another member follows; `None` at the end of the text, which
    /// counts as read.
    fn ends_member(&mut self) -> Option<bool> {
        let (start, comments) = (self.at, self.comments.len());
        let ends = match self.next()? {
            b'}' => true,
            b',' => {
                self.at += 1;
                matches!(self.next()?, b'"' | b'\'' | b'}')
            }
            _ => false,
        };
        self.at = start;
        self.comments.truncate(comments);
        Some(ends)
    }

    /// A short text without quotes, up to the end of the object or the name of the next member.
    fn odd_scalar(&mut self) -> Option<String> {
        const MAX_LENGTH: usize = 40;
        let start = self.at;
        while !self.ends_member()? {
            let byte = self.peek()?;
            let is_part = byte.is_ascii_alphanumeric() || b" +-_.,#%".contains(&byte);
            if !is_part || self.at - start >= MAX_LENGTH {
                return None;
            }
            self.at += 1;
        }
        let text = std::str::from_utf8(&self.bytes[start..self.at]).ok()?;
        Some(text.trim().to_owned())
    }

    fn array(&mut self, level: usize) -> Option<Vec<Value>> {
        self.at += 1;
        let mut list = Vec::new();
        loop {
            if self.next()? == b']' {
                self.at += 1;
                return Some(list);
            }
            let value = self.value(level + 1, false)?;
            if self.left > 0 {
                list.push(value);
            } else {
                self.shortened = true;
            }
            self.comma(b']')?;
        }
    }

    /// Accepts a comma, unless the end follows.
    fn comma(&mut self, end: u8) -> Option<()> {
        if self.next()? == end {
            Some(())
        } else {
            self.take(b',')
        }
    }

    /// Skips a container without parsing it: its strings and brackets must be closed.
    fn skip(&mut self) -> Option<()> {
        let mut open = Vec::new();
        loop {
            match self.next()? {
                b'{' => open.push(b'}'),
                b'[' => open.push(b']'),
                b'"' | b'\'' => {
                    self.skip_string()?;
                    continue;
                }
                end @ (b'}' | b']') if open.pop() != Some(end) => return None,
                _ => {}
            }
            self.at += 1;
            if open.is_empty() {
                return Some(());
            }
        }
    }

    fn skip_string(&mut self) -> Option<()> {
        let quote = self.peek()?;
        self.at += 1;
        loop {
            match self.peek()? {
                byte if byte == quote => break,
                b'\\' => self.at += 2,
                _ => self.at += 1,
            }
        }
        self.at += 1;
        Some(())
    }

    fn string(&mut self) -> Option<String> {
        let from = self.at + 1;
        self.skip_string()?;
        let inside = self.bytes.get(from..self.at - 1)?;
        Some(if inside.contains(&b'\\') {
            unescaped(inside)
        } else {
            String::from_utf8_lossy(inside).into_owned()
        })
    }

    fn word(&mut self) -> Option<Value> {
        const WORDS: [(&str, Value); 10] = [
            ("true", Value::Bool(true)),
            ("false", Value::Bool(false)),
            ("null", Value::Null),
            ("True", Value::Bool(true)),
            ("False", Value::Bool(false)),
            ("None", Value::Null),
            ("undefined", Value::Null),
            ("NaN", Value::Null),
            ("Infinity", Value::Null),
            ("-Infinity", Value::Null),
        ];
        let rest = self.bytes.get(self.at..)?;
        let (word, value) = WORDS
            .into_iter()
            .find(|(word, _)| rest.starts_with(word.as_bytes()))?;
        if rest.get(word.len()).is_some_and(u8::is_ascii_alphanumeric) {
            return None;
        }
        self.at += word.len();
        Some(value)
    }

    fn number(&mut self, exact: bool) -> Option<Value> {
        let rest = self.bytes.get(self.at..)?;
        let is_part =
            |byte: &u8| byte.is_ascii_digit() || matches!(byte, b'+' | b'-' | b'.' | b'e' | b'E');
        let length = rest
            .iter()
            .position(|byte| !is_part(byte))
            .unwrap_or(rest.len());
        let raw = std::str::from_utf8(&rest[..length])
            .ok()
            .filter(|raw| raw.contains(|c: char| c.is_ascii_digit()))?;
        self.at += length;
        let number = serde_json::from_str::<Number>(raw).ok().filter(|_| !exact);
        // Digits that exceed a 64-bit integer stay as text.
        let whole = raw
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'-');
        Some(
            match number.filter(|number| !whole || number.is_u64() || number.is_i64()) {
                Some(number) => Value::Number(number),
                None => Value::String(raw.to_owned()),
            },
        )
    }
}

/// Adds a member. For duplicate names the last one wins, as in other parsers, unless it is empty. Two different tokens
/// with one name are ambiguous: both are kept in a list.
pub(super) fn add(map: &mut Map<String, Value>, name: String, value: Value) {
    let is_token = |name: &str| {
        let end = name.len().saturating_sub("token".len());
        name.get(end..)
            .is_some_and(|end| end.eq_ignore_ascii_case("token"))
    };
    match map.get_mut(&name) {
        None => drop(map.insert(name, value)),
        Some(_) if means_no_error(&value) => {}
        Some(known) if is_token(&name) && !means_no_error(known) && *known != value => {
            *known = Value::Array(vec![known.take(), value]);
        }
        Some(known) => *known = value,
    }
}

/// Text of a string; undecodable escapes and invalid UTF-8 become [`DAMAGE`].
fn unescaped(inside: &[u8]) -> String {
    let mut text = Vec::with_capacity(inside.len());
    let mut at = 0;
    let push =
        |text: &mut Vec<u8>, c: char| text.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    while let Some(&byte) = inside.get(at) {
        at += 1;
        if byte != b'\\' {
            text.push(byte);
            continue;
        }
        let escape = inside.get(at).copied().unwrap_or_default();
        at += 1;
        let c = match escape {
            b'"' | b'\'' | b'\\' | b'/' => char::from(escape),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let (c, length) = code_point(&inside[at.min(inside.len())..]);
                at += length;
                c
            }
            _ => DAMAGE,
        };
        push(&mut text, c);
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// Character after `\u`, and the length of its escape: four digits, or a surrogate pair.
fn code_point(rest: &[u8]) -> (char, usize) {
    let four = |from: usize| {
        let digits = std::str::from_utf8(rest.get(from..from + 4)?).ok()?;
        digits
            .bytes()
            .all(|byte| byte.is_ascii_hexdigit())
            .then(|| u32::from_str_radix(digits, 16).ok())?
    };
    match four(0) {
        Some(high @ 0xd800..=0xdbff) if rest.get(4..6) == Some(b"\\u") => match four(6) {
            Some(low @ 0xdc00..=0xdfff) => {
                let c = 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
                (char::from_u32(c).unwrap_or(DAMAGE), 10)
            }
            _ => (DAMAGE, 4),
        },
        Some(unit) => (char::from_u32(unit).unwrap_or(DAMAGE), 4),
        None => (DAMAGE, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn read(text: &[u8]) -> Value {
        let parsed =
            parse(text, &["token"]).unwrap_or_else(|at| panic!("no value, read up to {at}"));
        assert_eq!(parsed.end, text.len());
        parsed.value
    }

    #[test]
    fn damage_is_forgiven_where_it_does_not_matter() {
        for (text, expected) in [
            (&b"{\"a\":\"x\xffy\"}"[..], json!({"a": "x\u{fffd}y"})),
            (b"{\"a\":\"x\ny\0\"}", json!({"a": "x\ny\0"})),
            (
                br#"{"a":"\x\ud800 \ud83d\ude00 \u00e9\/"}"#,
                json!({"a": "\u{fffd}\u{fffd} 😀 é/"}),
            ),
            (
                br#"{"a":1e999,"b":-1.5,"c":007,"d":NaN}"#,
                json!({"a": "1e999", "b": -1.5, "c": "007", "d": null}),
            ),
            (
                br#"{"a":123456789012345678901234567890}"#,
                json!({"a": "123456789012345678901234567890"}),
            ),
            (
                br#"{"token":4711,"b":{"token":1.50},"c":4711}"#,
                json!({"token": "4711", "b": {"token": "1.50"}, "c": 4711}),
            ),
            (
                br#"{"a":[1,2,],"b":true,}"#,
                json!({"a": [1, 2], "b": true}),
            ),
            (
                br#"{"a":nan,"b":-inf,"c":0,02,"d":1 000,"e":TRUE,"f":,"g":0x1F, "h":1.#IND , "i":- ,"token":}"#,
                json!({"a": null, "b": null, "c": "0,02", "d": "1 000", "e": true, "f": null, "g": "0x1F",
                    "h": "1.#IND", "i": null, "token": null}),
            ),
            (
                br#"{"a":1_0,"b":on,"c":1L,"d":FALSE,"e":[1],"f":NULL}"#,
                json!({"a": "1_0", "b": "on", "c": "1L", "d": false, "e": [1], "f": null}),
            ),
            (br#"{"a":1,"a":2,"a":null}"#, json!({"a": 2})),
            (
                b"{/*x*/\"a\"/*\"*/:// }\n\"//b\",/**/\"c\":[/*]*/1/***/,//\r2]//\n}",
                json!({"a": "//b", "c": [1, 2]}),
            ),
        ] {
            assert_eq!(read(text), expected, "{}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn what_is_not_closed_is_no_value() {
        for text in [
            "{",
            "[",
            "\"a",
            "\"a\\",
            r#"{"a":1"#,
            r#"{"a":"b}"#,
            r#"{"a":[1}"#,
            "{a:1}",
            "{/*}",
            "{\"a\":1//}",
            "{\"a\":1/}",
            r#"{"a" 1}"#,
            r#"{"a":<b>}"#,
            r#"{"a":a text that is longer than any value that a number may be}"#,
            r#"{"a":nan"#,
            r#"{"a":nan,"#,
            r#"{"a":nan/*"#,
            "tru",
            "-",
            "",
        ] {
            assert!(parse(text.as_bytes(), &[]).is_err(), "{text}");
        }
        let deep = "[".repeat(1 << 20);
        assert_eq!(parse(deep.as_bytes(), &[]).unwrap_err(), 1 << 20);
        assert!(parse(("[".repeat(100) + &"}".repeat(100)).as_bytes(), &[]).is_err());
    }

    #[test]
    fn a_token_is_not_cut_out_of_an_odd_value() {
        for text in [r#"{"token":a1}"#, r#"{"token":1 000}"#, r#"{"token":0x1F}"#] {
            assert!(parse(text.as_bytes(), &["token"]).is_err(), "{text}");
        }
    }

    #[test]
    fn depth_and_number_of_values_are_bounded() {
        let deep = format!(
            r#"{{"x":{}{},"token":"a"}}"#,
            "[".repeat(300_000),
            "]".repeat(300_000)
        );
        assert_eq!(read(deep.as_bytes())["token"], "a");
        let many = format!(
            r#"{{"x":[{}0],"y":{{"token":"b"}},"token":"a"}}"#,
            r#"{"a":0},"#.repeat(100_000)
        );
        let parsed = parse(many.as_bytes(), &[]).unwrap();
        assert!(parsed.shortened && parsed.value["token"] == "a" && parsed.value["y"].is_null());
        assert!(parsed.value["x"].as_array().unwrap().len() <= MAX_VALUES);
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>()
                .prop_filter("JSON has no others", |float| float.is_finite())
                .prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 64, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map(any::<String>(), inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_json_is_read_as_any_other_reader_reads_it(value in any_json()) {
            let text = value.to_string();
            prop_assert_eq!(read(text.as_bytes()), serde_json::from_str::<Value>(&text).unwrap());
            let pretty = serde_json::to_string_pretty(&value).unwrap();
            prop_assert_eq!(read(pretty.as_bytes()), serde_json::from_str::<Value>(&pretty).unwrap());
        }

        #[test]
        fn no_bytes_break_it(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(parsed) = parse(&bytes, &["a"]) {
                prop_assert!(parsed.end <= bytes.len());
            }
        }
    }
}
