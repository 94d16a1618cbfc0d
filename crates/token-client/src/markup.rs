//! Finds JSON values between notices and markup, and whether each stands alone: at the start of a line or after a
//! notice of the server's language, with nothing after it on the line and no open element around it.
//!
//! Must not search attributes, comments, scripts and the like. Must not interpret a value: `token_object` does.

use serde_json::Value;

use super::lenient::{is_blank, parse};

/// Elements whose content is not text of the page.
const RAW: [&str; 10] = [
    "script", "style", "textarea", "title", "template", "noscript", "iframe", "xmp", "noembed",
    "noframes",
];
/// May occur anywhere in concatenated text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// End of a CDATA section.
const CDATA_END: &[u8] = b"]]>";
/// Elements without an end tag.
pub(super) const VOID: [&str; 13] = [
    "area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track",
    "wbr",
];
/// Names of notices that a server's program prints around a reply.
const NOTICES: [&str; 8] = [
    "notice",
    "warning",
    "deprecated",
    "strict standards",
    "fatal error",
    "parse error",
    "debug",
    "database error",
];
/// Elements of a page that documents replies.
const CODE_ELEMENTS: [&str; 18] = [
    "should be",
    "should look",
    "should have",
    "would be",
    "must be",
    "instead of",
    "example",
    "sample",
    "e.g.",
    "looks like",
    "such as",
    "documentation",
    "access_token",
    "refresh_token",
    "access token",
    "answers",
    "responds",
    "returns",
];
/// Maximum number of open elements, values of a page, and relevant characters of a line. They bound the work.
const MAX_OPEN: usize = 200;
const MAX_PIECES: usize = 1000;
const MAX_WORDS: usize = 300;
/// Maximum number of bytes parsed in total, as a multiple of the text's length: failed values are read again.
const MAX_STEPS: usize = 16;

/// A JSON object or list in a page.
pub(super) struct Piece {
    pub(super) value: Value,
    /// As [`super::lenient::Parsed::shortened`].
    pub(super) shortened: bool,
    /// True if it stands alone.
    pub(super) alone: bool,
}

/// Contents of a text.
pub(super) struct MarkupText {
    pub(super) pieces: Vec<Piece>,
    /// True if the text consists of values only: no text and no tag.
    pub(super) bare: bool,
}

/// Scans a text; `None` if that exceeds the work limit.
pub(super) fn scan(text: &[u8], exact: &[&str]) -> Option<MarkupText> {
    let mut scan = Scan {
        text,
        at: 0,
        open: Vec::new(),
        outside: String::new(),
        line: TextLine::default(),
        brackets: 0,
        fences: 0,
        ticks: 0,
        tags: false,
    };
    let is_xml = is_xml(text);
    let mut pieces: Vec<(Piece, usize)> = Vec::new();
    let mut patience = text.len().saturating_mul(MAX_STEPS);
    while let Some(byte) = text.get(scan.at).copied() {
        if byte == b'<' && scan.tag() {
            continue;
        }
        let unseen: [&[u8]; 2] = [BYTE_ORDER_MARK, CDATA_END];
        let unseen = &unseen[..if is_xml { 2 } else { 1 }];
        if let Some(mark) = unseen.iter().find(|mark| text[scan.at..].starts_with(mark)) {
            scan.at += mark.len();
            continue;
        }
        if matches!(byte, b'{' | b'[') {
            match parse(&text[scan.at..], exact) {
                Ok(parsed) => {
                    let before =
                        scan.brackets == 0 && scan.fences.is_multiple_of(2) && scan.line.is_fit();
                    let own = &text[scan.at..scan.at + parsed.end];
                    scan.at += parsed.end;
                    let rest = &text[scan.at..];
                    let is_repeated = repeats(own, rest);
                    let alone = before && (is_repeated || ends_line(rest));
                    if is_repeated {
                        scan.at = text.len();
                    }
                    let piece = Piece {
                        value: parsed.value,
                        shortened: parsed.shortened,
                        alone,
                    };
                    pieces.push((piece, scan.open.len()));
                    if pieces.len() > MAX_PIECES {
                        return None;
                    }
                    scan.line.text('}', scan.open.is_empty());
                    continue;
                }
                Err(read) => patience = patience.checked_sub(read)?,
            }
        }
        scan.character(byte);
    }
    let bare = !scan.tags
        && scan
            .outside
            .trim_matches(|c: char| c == '\0' || c.is_whitespace())
            .is_empty();
    let words = scan.outside.to_ascii_lowercase();
    // A notice may quote anything.
    let mut lines = words.lines().map(without_notices);
    let teaches = lines.any(|line| CODE_ELEMENTS.iter().any(|word| line.contains(word)));
    let silent = words.trim().is_empty();
    let fit = |(piece, depth): (Piece, usize)| Piece {
        alone: piece.alone && !teaches && (depth == 0 || silent),
        ..piece
    };
    Some(MarkupText {
        pieces: pieces.into_iter().map(fit).collect(),
        bare,
    })
}

fn is_xml(text: &[u8]) -> bool {
    text.trim_ascii_start().starts_with(b"<?xml")
}

/// Lines of text of a page: what is between tags and comments; `None` for a text without any, or with an element whose
/// content is no text of the page.
pub(super) fn text_lines(page: &str) -> Option<Vec<String>> {
    let (mut lines, mut rest, mut tags) = (vec![String::new()], page, 0);
    while let Some(at) = rest.find('<') {
        let (text, tag) = rest.split_at(at);
        push_lines(&mut lines, text);
        let name: String = tag[1..]
            .chars()
            .take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '/' | '!' | '?'))
            .collect();
        let length = if tag.starts_with("<!--") {
            tag.find("-->")? + 3
        } else if name.is_empty() || RAW.contains(&name.to_ascii_lowercase().as_str()) {
            return None;
        } else {
            1 + attributes(&tag.as_bytes()[1..])
        };
        // In a notice of PHP, elements are within the line.
        let is_block = !matches!(
            name.trim_matches('/').to_ascii_lowercase().as_str(),
            "b" | "i"
        );
        if is_block {
            lines.push(String::new());
        }
        rest = tag.get(length..)?;
        tags += 1;
        if tags > MAX_PIECES {
            return None;
        }
    }
    push_lines(&mut lines, rest);
    (tags > 0).then_some(lines)
}

/// Returns whether a line is a notice of the server's program.
pub(super) fn is_notice(line: &str) -> bool {
    let (name, _) = line.split_once(':').unwrap_or_default();
    NOTICES.contains(&name.trim_end().to_ascii_lowercase().as_str())
}

fn push_lines(lines: &mut Vec<String>, text: &str) {
    for (index, line) in text.split(['\n', '\r']).enumerate() {
        if index > 0 {
            lines.push(String::new());
        }
        if let Some(last) = lines.last_mut() {
            last.push_str(line);
        }
    }
}

/// Returns whether only markup follows on the line, or a word that the server's program printed: `0`, `null`, `"`.
fn ends_line(rest: &[u8]) -> bool {
    const MAX_WORD: usize = 16;
    let line = rest.split(|byte| matches!(byte, b'\n' | b'\r' | b'<'));
    let word = line.into_iter().next().unwrap_or(rest).trim_ascii();
    let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._\"{}[])".contains(byte);
    if word.len() <= MAX_WORD && word.iter().all(is_word) {
        return true;
    }
    match rest.iter().find(|byte| !matches!(byte, b' ' | b'\t')) {
        None => true,
        Some(byte) => {
            let after = rest.trim_ascii_start();
            is_blank(*byte) || matches!(byte, b'<' | b';') || after.starts_with(CDATA_END)
        }
    }
}

/// Returns whether a truncated copy of the value follows.
fn repeats(own: &[u8], rest: &[u8]) -> bool {
    let rest = rest.trim_ascii();
    !rest.is_empty() && own.starts_with(rest)
}

/// Length of the rest of a tag, including its `>`; quoted values may contain one.
pub(super) fn attributes(rest: &[u8]) -> usize {
    let mut quote = None;
    for (index, byte) in rest.iter().enumerate() {
        match (quote, byte) {
            (None, b'>') => return index + 1,
            (None, b'"' | b'\'') => quote = Some(*byte),
            (Some(open), byte) if open == *byte => quote = None,
            _ => {}
        }
    }
    rest.len()
}

/// A line without notices of the server's program: they are not about the token. They end with their place, those of a
/// database at the end of the line.
pub(super) fn without_notices(line: &str) -> String {
    let text = line.split_whitespace().collect::<Vec<_>>().join(" ");
    let (small, mut kept, mut at) = (text.to_ascii_lowercase(), String::new(), 0);
    for (colon, _) in text.match_indices(':') {
        let Some(before) = small.get(at..colon).map(str::trim_end) else {
            continue;
        };
        let Some(kind) = NOTICES.iter().find(|kind| before.ends_with(**kind)) else {
            continue;
        };
        let end = match place_end(&text[colon..]) {
            Some(end) => colon + end,
            None if *kind == "database error" => text.len(),
            None => break,
        };
        kept.push_str(&text[at..at + before.len() - kind.len()]);
        at = end;
    }
    kept + &text[at..]
}

/// End of the first place in a program: `in FILE on line 3`, `in FILE:3`.
fn place_end(text: &str) -> Option<usize> {
    let is_number = |text: &str| text.starts_with(|c: char| c.is_ascii_digit());
    let (mut at, mut before) = (0, ["", ""]);
    for word in text.split(' ') {
        at += word.len();
        let in_file = before[1] == "in"
            && word
                .rsplit_once(':')
                .is_some_and(|(_, line)| is_number(line));
        if in_file || before == ["on", "line"] && is_number(word) {
            return Some(at);
        }
        (at, before) = (at + 1, [before[1], word]);
    }
    None
}

/// Unescapes the quotes in a page's text, but not in its tags.
pub(super) fn with_quotes(page: &[u8]) -> Vec<u8> {
    const QUOTE: &[u8] = b"&quot;";
    let (mut plain, mut at) = (Vec::with_capacity(page.len()), 0);
    while let Some(byte) = page.get(at) {
        let length = match page[at + 1..].first() {
            Some(next)
                if *byte == b'<' && (next.is_ascii_alphabetic() || b"/!?".contains(next)) =>
            {
                1 + attributes(&page[at + 1..])
            }
            _ if page[at..].starts_with(QUOTE) => {
                plain.push(b'"');
                at += QUOTE.len();
                continue;
            }
            _ => 1,
        };
        plain.extend_from_slice(&page[at..at + length]);
        at += length;
    }
    plain
}

/// Text on a line before a value.
#[derive(Default)]
struct TextLine {
    /// Its beginning, without tags.
    words: String,
    /// True if a part of it is outside of all elements.
    bare: bool,
    /// Last non-blank character since the last tag, even on an earlier line.
    last: Option<char>,
}

impl TextLine {
    fn text(&mut self, c: char, bare: bool) {
        match c {
            '\n' | '\r' => {
                self.words.clear();
                self.bare = false;
            }
            c if c <= ' ' => self.push(' '),
            c => {
                self.push(c);
                self.bare |= bare;
                self.last = Some(c);
            }
        }
    }

    fn push(&mut self, c: char) {
        if self.words.len() < MAX_WORDS {
            self.words.push(c);
        }
    }

    /// Returns whether a value may follow: not after a sentence, an assignment or another value.
    fn is_fit(&self) -> bool {
        let leads = self.last.is_some_and(|c| {
            matches!(
                c,
                ':' | '=' | '(' | '[' | '{' | ',' | '"' | '\'' | '`' | '&' | '\\'
            )
        });
        let is_notice = || {
            let words = self.words.to_ascii_lowercase();
            NOTICES.iter().any(|notice| words.contains(notice))
        };
        // A number or a label that the server's program printed: `0`, `Response:`.
        let words = self.words.trim();
        let label = words.strip_suffix(':');
        let word = label.unwrap_or(words);
        let is_printed = !word.is_empty()
            && word
                .bytes()
                .all(|byte| byte.is_ascii_digit() || label.is_some() && byte.is_ascii_alphabetic());
        is_printed || !leads && (!self.bare || is_notice())
    }
}

struct Scan<'a> {
    text: &'a [u8],
    at: usize,
    /// Open elements.
    open: Vec<String>,
    /// Text outside of tags and values.
    outside: String,
    line: TextLine,
    /// Open brackets of the text.
    brackets: usize,
    /// Markers of Markdown code blocks, and the backticks or tildes of a possible one.
    fences: usize,
    ticks: usize,
    /// True if there was a tag or a comment.
    tags: bool,
}

impl Scan<'_> {
    fn character(&mut self, byte: u8) {
        self.at += 1;
        // Of non-ASCII characters only the presence matters.
        let c = if byte.is_ascii() {
            char::from(byte)
        } else {
            '·'
        };
        self.outside.push(c);
        self.line.text(c, self.open.is_empty());
        self.ticks = if matches!(c, '`' | '~') {
            self.ticks + 1
        } else {
            0
        };
        self.fences += usize::from(self.ticks == 3);
        // `unexpected '{'`: a bracket between quotes opens nothing.
        let is_mark = |byte: Option<&u8>| {
            byte.is_some_and(|byte| matches!(byte, b'"' | b'\'' | b'`' | 0x80..))
        };
        let before = self.at.checked_sub(2).and_then(|at| self.text.get(at));
        if is_mark(before) && is_mark(self.text.get(self.at)) {
            return;
        }
        match c {
            '{' | '[' | '(' => self.brackets += 1,
            '}' | ']' | ')' => self.brackets = self.brackets.saturating_sub(1),
            _ => {}
        }
    }

    /// Skips a tag or a comment, and the content of elements without text; false if there is none here.
    fn tag(&mut self) -> bool {
        let rest = &self.text[self.at + 1..];
        let end = |from: usize, mark: &[u8]| {
            let found = rest[from..]
                .windows(mark.len())
                .position(|window| window == mark);
            found.map_or(rest.len(), |at| from + at + mark.len())
        };
        // A comment in HTML, text in XML.
        if rest.starts_with(b"![CDATA[") && is_xml(self.text) {
            self.line.last = None;
            return self.go(b"![CDATA[".len());
        }
        let (closes, name) = match rest {
            [b'!', b'-', b'-', ..] => return self.go(end(3, b"-->")),
            [b'!' | b'?', ..] => return self.go(end(1, b">")),
            [b'/', name @ ..] => (true, name),
            name => (false, name),
        };
        let length = name
            .iter()
            .position(|byte| !byte.is_ascii_alphanumeric() && !b"-:_".contains(byte))
            .unwrap_or(name.len());
        if !name.first().is_some_and(u8::is_ascii_alphabetic) {
            return false;
        }
        let name = String::from_utf8_lossy(&name[..length]).to_ascii_lowercase();
        let end = usize::from(closes) + length + attributes(&rest[usize::from(closes) + length..]);
        let closed_itself = rest[..end].ends_with(b"/>");
        self.go(end);
        self.line.last = None;
        if closes {
            if let Some(at) = self.open.iter().rposition(|open| *open == name) {
                self.open.truncate(at);
            }
        } else if RAW.contains(&name.rsplit(':').next().unwrap_or(&name))
            && (!closed_itself || self.closes(&name))
        {
            // HTML has no self-closing elements: the following text may be a script.
            self.raw(&name);
        } else if !closed_itself && !VOID.contains(&name.as_str()) && self.open.len() < MAX_OPEN {
            self.open.push(name);
        }
        self.outside.push(' ');
        true
    }

    fn go(&mut self, by: usize) -> bool {
        self.tags = true;
        self.at = (self.at + 1 + by).min(self.text.len());
        true
    }

    /// Returns whether an end tag with this name follows.
    fn closes(&self, name: &str) -> bool {
        let ends = |window: &[u8]| {
            window[..2] == *b"</" && window[2..].eq_ignore_ascii_case(name.as_bytes())
        };
        self.text[self.at..].windows(name.len() + 2).any(ends)
    }

    /// Skips to the end tag of an element.
    fn raw(&mut self, name: &str) {
        let rest = &self.text[self.at..];
        let ends = |window: &[u8]| {
            window[..2] == *b"</" && window[2..].eq_ignore_ascii_case(name.as_bytes())
        };
        let end = rest.windows(name.len() + 2).position(ends);
        let after = end.map(|end| end + name.len() + 2);
        self.at += after.map_or(rest.len(), |after| after + attributes(&rest[after..]));
    }
}
