//! Parses responses that an HTTP library rejects: a status line, header lines and a body whose framing violates RFC
//! 9112.
//!
//! A token in such a response is as valid as any other. Must not interpret the body. The result never counts as a
//! complete reply: callers use a pair in it, but no refusal.

/// A response, as far as it can be parsed.
#[derive(Debug, PartialEq, Eq)]
pub struct RawHttpResponse {
    /// The status code; `None` if there is no status line.
    pub status: Option<u16>,
    /// Header lines: name and value, both trimmed.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Length of the head, in bytes.
    pub head: usize,
    /// Body, with chunked encoding removed.
    pub body: Vec<u8>,
    /// End of the body by its framing.
    pub end: BodyEnd,
}

/// End of a body by its framing (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyEnd {
    /// Complete: the last chunk arrived, or as many bytes as announced.
    Reached,
    /// Truncated: fewer bytes arrived than announced.
    Missing,
    /// Unknown: there is no credible framing, and the body ends where the server closes the connection.
    Unknown,
}

/// Maximum number of header lines.
const MAX_HEADER_LINES: usize = 1024;
/// Maximum number of interim responses (1xx) before the final one.
const MAX_INTERIM: usize = 16;

/// Parses the bytes that a connection received since a request was sent.
#[must_use]
pub fn read(received: &[u8]) -> RawHttpResponse {
    let mut start = 0;
    for _ in 0..MAX_INTERIM {
        let reply = read_one(&received[start..]);
        match reply.status {
            Some(100..=199) if reply.head < received.len() - start => start += reply.head,
            _ => {
                return RawHttpResponse {
                    head: start + reply.head,
                    ..reply
                };
            }
        }
    }
    read_one(&received[start..])
}

fn read_one(received: &[u8]) -> RawHttpResponse {
    let blank = received
        .iter()
        .take_while(|byte| byte.is_ascii_whitespace())
        .count();
    if !received[blank..]
        .get(..4)
        .is_some_and(|name| name.eq_ignore_ascii_case(b"http"))
    {
        // HTTP/0.9, or not HTTP: all of it is the body.
        return RawHttpResponse {
            status: None,
            headers: Vec::new(),
            head: 0,
            body: received.to_vec(),
            end: BodyEnd::Unknown,
        };
    }
    let mut lines = HeaderLines {
        bytes: received,
        at: blank,
        end: line_end(received),
    };
    let status = lines.next().and_then(status_of);
    let mut headers: Vec<(String, Vec<u8>)> = Vec::new();
    let mut ended = false;
    for line in lines.by_ref().take(MAX_HEADER_LINES) {
        if line.is_empty() {
            ended = true;
            break;
        }
        if let Some(at) = line.iter().position(|&byte| byte == b':') {
            let name = String::from_utf8_lossy(&line[..at])
                .trim()
                .to_ascii_lowercase();
            headers.push((name, line[at + 1..].trim_ascii().to_vec()));
        }
    }
    let head = if ended { lines.at } else { received.len() };
    let rest = &received[head..];
    let chunked = headers.iter().any(|(name, value)| {
        name == "transfer-encoding"
            && value
                .to_ascii_lowercase()
                .windows(7)
                .any(|part| part == b"chunked")
    });
    let chunks = if chunked { unchunked(rest) } else { None };
    let (body, end) = match chunks {
        Some((body, true)) => (body, BodyEnd::Reached),
        Some((body, false)) => (body, BodyEnd::Missing),
        None => (rest.to_vec(), end_by_length(&headers, rest.len())),
    };
    RawHttpResponse {
        status,
        headers,
        head,
        body,
        end,
    }
}

/// End of a body of this length by the announced lengths. A smaller announced length is wrong, and ignored.
fn end_by_length(headers: &[(String, Vec<u8>)], length: usize) -> BodyEnd {
    let announced = || {
        let lengths = headers
            .iter()
            .filter(|(name, _)| name == "content-length")
            .flat_map(|(_, value)| value.split(|&byte| byte == b','));
        lengths.filter_map(|value| {
            let text = std::str::from_utf8(value.trim_ascii()).ok()?;
            text.parse::<usize>().ok()
        })
    };
    if announced().any(|announced| announced == length) {
        BodyEnd::Reached
    } else if announced().any(|announced| announced > length) {
        BodyEnd::Missing
    } else {
        BodyEnd::Unknown
    }
}

/// Line terminator of a response: LF, or CR if there is no LF.
fn line_end(received: &[u8]) -> u8 {
    if received.contains(&b'\n') {
        b'\n'
    } else {
        b'\r'
    }
}

/// Lines that end with LF or CRLF; or with CR alone.
struct HeaderLines<'a> {
    bytes: &'a [u8],
    at: usize,
    end: u8,
}

impl<'a> Iterator for HeaderLines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.bytes.get(self.at..).filter(|rest| !rest.is_empty())?;
        let length = rest.iter().position(|&byte| byte == self.end)?;
        self.at += length + 1;
        let line = &rest[..length];
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    }
}

/// The first three-digit number after the protocol's name: `HTTP/1.1 200 OK`, `HTTP 200`, `HTTP/1.1  200`.
fn status_of(line: &[u8]) -> Option<u16> {
    let text = String::from_utf8_lossy(line);
    let mut words = text
        .split(|sign: char| !sign.is_ascii_alphanumeric() && sign != '.' && sign != '/')
        .skip(1);
    let word =
        words.find(|word| word.len() == 3 && word.bytes().all(|byte| byte.is_ascii_digit()))?;
    word.parse()
        .ok()
        .filter(|status| (100..600).contains(status))
}

/// Decodes a chunked body, whose lines may end with LF alone. Returns the decoded bytes, and whether the last chunk
/// arrived; `None` if the body is not chunked.
fn unchunked(rest: &[u8]) -> Option<(Vec<u8>, bool)> {
    let mut body = Vec::new();
    let mut lines = HeaderLines {
        bytes: rest,
        at: 0,
        end: line_end(rest),
    };
    let mut first = true;
    while let Some(line) = lines.next() {
        if line.trim_ascii().is_empty() && !first {
            continue;
        }
        let size = line
            .split(|&byte| byte == b';')
            .next()
            .map(<[u8]>::trim_ascii)
            .and_then(size_of);
        let Some(size) = size else {
            // Not chunked, or no longer: the whole body is better than a part.
            return None;
        };
        first = false;
        if size == 0 {
            return Some((body, true));
        }
        let data = &rest[lines.at..];
        let data = &data[..size.min(data.len())];
        body.extend_from_slice(data);
        lines.at += data.len();
    }
    (!first).then_some((body, false))
}

fn size_of(text: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(text).ok()?;
    let digits = text.strip_prefix("0x").unwrap_or(text);
    (!digits.is_empty() && digits.len() <= 8).then(|| usize::from_str_radix(digits, 16).ok())?
}

/// Extends a body, of which an HTTP library took the first `taken` bytes, up to the next response on the same
/// connection. Complete JSON is not extended.
#[must_use]
pub fn without_next_answer(body: &[u8], taken: usize) -> &[u8] {
    let (whole, rest) = body.split_at(taken.min(body.len()));
    if serde_json::from_slice::<serde::de::IgnoredAny>(whole).is_ok() {
        return whole;
    }
    let next = rest
        .windows(9)
        .position(|part| part.starts_with(b"HTTP/1.") && part[8] == b' ');
    &body[..whole.len() + next.unwrap_or(rest.len())]
}

/// Returns whether a body may be longer than an HTTP library reports: it is empty, or begins as JSON and does not end
/// as such. A server that counts characters instead of bytes announces too short a length.
#[must_use]
pub fn may_have_more(body: &[u8]) -> bool {
    let body = body.trim_ascii();
    match (body.first(), body.last()) {
        (Some(b'{'), last) => last != Some(&b'}') || is_unfinished(body),
        (Some(b'['), last) => last != Some(&b']') || is_unfinished(body),
        (Some(_), _) => false,
        (None, _) => true,
    }
}

fn is_unfinished(body: &[u8]) -> bool {
    serde_json::from_slice::<serde::de::IgnoredAny>(body).is_err_and(|error| error.is_eof())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAIR: &str = r#"{"access_token":"a","refresh_token":"r"}"#;

    fn body(received: &str) -> (Option<u16>, String) {
        let reply = read(received.as_bytes());
        (reply.status, String::from_utf8(reply.body).unwrap())
    }

    #[test]
    fn a_head_that_breaks_the_rules_is_read() {
        for head in [
            "HTTP/1.1 200 OK\r\nContent-Length: abc\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 5\r\n\r\n",
            "HTTP 200\r\n\r\n",
            "HTTP/1.1 200\n\n",
            "HTTP/1.1\t200 O\0K\r\nno colon\r\n\r\n",
            "http/1.1  200  OK\r\nA: b\n\r\n",
            "\r\nHTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/9 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        ] {
            assert_eq!(
                body(&format!("{head}{PAIR}")),
                (Some(200), PAIR.to_owned()),
                "{head:?}"
            );
        }
        assert_eq!(body(PAIR), (None, PAIR.to_owned()));
        assert_eq!(body("HTTP/1.1 abc\r\n\r\nx"), (None, "x".to_owned()));
        assert_eq!(
            body("HTTP/1.1 503 Gone 200\r\n\r\nx"),
            (Some(503), "x".to_owned())
        );
        assert_eq!(body("HTTP/1.1 200 OK\r\nA: b"), (Some(200), String::new()));
        assert_eq!(body(""), (None, String::new()));
        assert_eq!(
            body("HTTP/1.1 200 OK\rA: b\r\r{}"),
            (Some(200), "{}".to_owned()),
            "CR alone"
        );
    }

    #[test]
    fn what_follows_a_whole_body_is_not_a_part_of_it() {
        let next = "HTTP/1.1 400 Bad Request\r\n\r\n<html>";
        for (taken, rest, whole) in [
            (PAIR, next, PAIR),
            (PAIR, "garbage", PAIR),
            ("access_token=a", next, "access_token=a"),
            ("access_token=a", "&b=c", "access_token=a&b=c"),
            (&PAIR[..20], &PAIR[20..], PAIR),
            (
                &PAIR[..20],
                &format!("{}\r\n{next}", &PAIR[20..]),
                &format!("{PAIR}\r\n"),
            ),
        ] {
            let all = format!("{taken}{rest}");
            let kept = without_next_answer(all.as_bytes(), taken.len());
            assert_eq!(std::str::from_utf8(kept).unwrap(), whole, "{taken} {rest}");
        }
    }

    #[test]
    fn chunks_are_put_together_whatever_ends_their_lines() {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, Chunked\r\n\r\n";
        for (chunks, whole) in [
            ("5\nhello\n6\n world\n0\n\n", "hello world"),
            (
                "5;a=b\r\nhello\r\n006 \r\n world\r\n0\r\n\r\n",
                "hello world",
            ),
            ("5\r\nhello6\r\n world", "hello world"),
            ("0x5\r\nhello\r\n9\r\n wor", "hello wor"),
            ("5\r\nhello\r\nnone\r\n", "5\r\nhello\r\nnone\r\n"),
            ("0\r\n\r\n", ""),
            ("{}", "{}"),
            ("ffffffff\r\nx", "x"),
        ] {
            assert_eq!(body(&format!("{head}{chunks}")).1, whole, "{chunks:?}");
        }
    }

    #[test]
    fn a_body_that_ends_too_early_is_told() {
        for more in [
            "",
            "  ",
            "{",
            r#"{"a":"}"#,
            r#"[{"a":1}"#,
            "{\"a\":{}",
            "\n{\"a\":1",
        ] {
            assert!(may_have_more(more.as_bytes()), "{more}");
        }
        for whole in ["{}", " {\"a\":1}\n", "[1]", "a=b", "<html>", "{x}"] {
            assert!(!may_have_more(whole.as_bytes()), "{whole}");
        }
    }
}
