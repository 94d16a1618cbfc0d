//! Sanitises external text before it is shown, logged, stored or published: removes control characters, invisible
//! characters, long texts, known secrets in any encoding, and anything that looks like a token. The only implementation
//! of masking and cleaning.
//!
//! Must be applied to every external text, even if it was harmless so far: its sender controls the content.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::ops::Range;

use serde_json::Value;
use url::{Host, Url};

use super::hidden::is_hidden;
use super::secret_matcher::{PART, SecretMatcher, token_runs};

/// Maximum length of a text, in characters.
const MAX_LENGTH: usize = 200;
/// Maximum length of a server's error description, in characters.
const MAX_DESCRIPTION: usize = 300;
/// Maximum length of an API's address, in bytes.
const MAX_ENDPOINT: usize = 2048;
/// Maximum number of bytes scanned where only the beginning of a text is shown.
const MAX_SCANNED: usize = 8192;
/// A run of token characters of this length with a digit in it is masked as a token.
const TOKEN_RUN: usize = 20;
/// Minimum length of a secret to mask in an error. Shorter ones occur in ordinary words, but an error is still readable
/// then.
const MIN_SECRET: usize = 4;
/// Minimum length of a secret to remove from a name or an address. Shorter ones could be parts of them, and readers
/// need those.
const MIN_TOKEN: usize = 16;
/// Length of a run of letters and digits that counts as part of a secret in a name or an address. Half of a shorter
/// secret is not enough: some tokens begin with their user's name.
const PART_OF_TOKEN: Range<usize> = 16..32;

/// Masks in `text` every part of `secrets` in any encoding, anything that looks like a token, and unprintable
/// characters. The result is one line of up to 200 characters.
#[must_use]
pub fn mask(text: &str, secrets: &[&str]) -> String {
    cut(&masked(text, secrets, &[]), MAX_LENGTH)
}

/// As [`mask`], for the response to a request whose address is secret. The secrets in `whole` are masked as a whole
/// only: an address contains ordinary words.
#[must_use]
pub fn mask_answer(text: &str, secrets: &[&str], whole: &[&str]) -> String {
    cut(&masked(text, secrets, whole), MAX_LENGTH)
}

/// As [`mask`], for a server's error description: up to 300 characters, blanks collapsed; `None` if nothing is left.
#[must_use]
pub fn server_text(text: &str, secrets: &[&str]) -> Option<String> {
    let text = masked(text, secrets, &[]);
    let folded: Vec<_> = text.split_whitespace().collect();
    let folded = cut(&folded.join(" "), MAX_DESCRIPTION);
    (!folded.is_empty()).then_some(folded)
}

/// A link from a server for people: http or https, without user information. `None` if it contains a secret, looks as
/// if it did, or is too long.
#[must_use]
pub fn link(text: &str, secrets: &[&str]) -> Option<String> {
    let url = address(text)?;
    let shown = url.as_str();
    (shown.len() <= MAX_DESCRIPTION && masked(shown, secrets, &[]) == shown)
        .then(|| shown.to_owned())
}

/// An API address from a server for readers: https, or http to this machine, without user information, in canonical
/// form. `None` if it is anything else, or contains one of `tokens` or a part of one.
#[must_use]
pub fn endpoint(text: &str, tokens: &[&str]) -> Option<String> {
    Cleaner::of(tokens).endpoint(text)
}

/// An address to open in a browser: as [`endpoint`], up to 2048 characters.
#[must_use]
pub fn page(text: &str) -> Option<String> {
    endpoint(text, &[])
}

/// Returns whether a host always means the local machine: `localhost`, or a loopback or unspecified address.
#[must_use]
pub fn is_loopback<S: AsRef<str>>(host: &Host<S>) -> bool {
    match host {
        Host::Domain(domain) => {
            let domain = domain.as_ref();
            domain == "localhost" || domain.ends_with(".localhost")
        }
        Host::Ipv4(ip) => ip.is_loopback() || ip.is_unspecified(),
        Host::Ipv6(ip) => {
            let mapped = ip
                .to_ipv4_mapped()
                .is_some_and(|ip| ip.is_loopback() || ip.is_unspecified());
            ip.is_loopback() || ip.is_unspecified() || mapped
        }
    }
}

/// An http or https address without user information and without unprintable characters.
fn address(text: &str) -> Option<Url> {
    let text = text.trim();
    // The parser drops line feeds and tabs, but a text with them was not meant as an address.
    if text.contains(|c: char| c.is_control() || c.is_whitespace() || is_hidden(c)) {
        return None;
    }
    let url = Url::parse(text).ok()?;
    let plain = matches!(url.scheme(), "http" | "https")
        && url.username().is_empty()
        && url.password().is_none()
        && url.host_str().is_some_and(|host| !host.is_empty());
    plain.then_some(url)
}

fn masked(text: &str, secrets: &[&str], whole: &[&str]) -> String {
    let text = &text[..text.floor_char_boundary(MAX_SCANNED)];
    // Before the search for secrets: removing a line feed or an invisible character must not produce a secret
    // afterwards.
    let text = visible(text, " ");
    let long = |secret: &&str| secret.len() >= MIN_SECRET;
    let mut places = SecretMatcher::of(secrets.iter().copied().filter(long), |_| PART).find(&text);
    places
        .extend(SecretMatcher::of(whole.iter().copied().filter(long), |length| length).find(&text));
    places.extend(token_runs(&text, TOKEN_RUN));
    without_secrets(&text, places).trim().to_owned()
}

/// Removes invisible characters; `control` replaces each control character and line separator.
fn visible(text: &str, control: &str) -> String {
    text.replace(is_hidden, "").replace(
        |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}'),
        control,
    )
}

/// A text as one line without unprintable characters, for a log or a terminal.
#[must_use]
pub fn line(text: &str) -> String {
    visible(text, " ")
}

/// Removes invisible characters; control characters stay.
#[must_use]
pub fn seen(text: &str) -> Cow<'_, str> {
    if text.contains(is_hidden) {
        text.replace(is_hidden, "").into()
    } else {
        text.into()
    }
}

/// The beginning of a text as one line, as long as a message permits.
#[must_use]
pub fn short(text: &str) -> String {
    cut(&visible(text, " "), MAX_LENGTH)
}

fn cut(text: &str, longest: usize) -> String {
    text.chars()
        .take(longest)
        .collect::<String>()
        .trim_end()
        .to_owned()
}

/// A name without `tokens` and long parts of them, control characters and invisible characters.
#[must_use]
pub fn clean(text: &str, tokens: &[&str]) -> String {
    Cleaner::of(tokens).clean(text)
}

/// Removes tokens from the fields of a reply. The search is prepared once for all fields, and only if it is needed.
pub struct Cleaner<'t> {
    tokens: &'t [&'t str],
    halves: OnceCell<SecretMatcher>,
    parts: OnceCell<SecretMatcher>,
}

impl<'t> Cleaner<'t> {
    /// A cleaner for these tokens.
    #[must_use]
    pub const fn of(tokens: &'t [&'t str]) -> Self {
        Self {
            tokens,
            halves: OnceCell::new(),
            parts: OnceCell::new(),
        }
    }

    fn matcher(&self, part: fn(usize) -> usize) -> SecretMatcher {
        SecretMatcher::of(
            self.tokens
                .iter()
                .copied()
                .filter(|token| token.len() >= MIN_TOKEN),
            part,
        )
    }

    /// As [`clean`].
    #[must_use]
    pub fn clean(&self, text: &str) -> String {
        let text = visible(text, "");
        let half = |length: usize| (length / 2).clamp(PART_OF_TOKEN.start, PART_OF_TOKEN.end);
        let places = self.halves.get_or_init(|| self.matcher(half)).find(&text);
        without_secrets(&text, places)
    }

    /// `value` with each string cleaned as by [`clean`].
    #[must_use]
    pub fn clean_value(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.clean(text)),
            Value::Array(values) => values.iter().map(|value| self.clean_value(value)).collect(),
            Value::Object(map) => map
                .iter()
                .map(|(key, value)| (self.clean(key), self.clean_value(value)))
                .collect(),
            Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
        }
    }

    /// As [`endpoint`].
    #[must_use]
    pub fn endpoint(&self, text: &str) -> Option<String> {
        let text = text.trim();
        let url = address(text)?;
        let secure = url.scheme() == "https" || url.host().is_some_and(|host| is_loopback(&host));
        let canonical = url.as_str();
        // Readers append a path, which would double a trailing slash.
        let bare = url.path() == "/"
            && !text.ends_with('/')
            && url.query().is_none()
            && url.fragment().is_none();
        let canonical = canonical
            .strip_suffix('/')
            .filter(|_| bare)
            .unwrap_or(canonical);
        let holds_token = || {
            let matcher = self
                .parts
                .get_or_init(|| self.matcher(|_| PART_OF_TOKEN.start));
            !matcher.find(text).is_empty()
                || (canonical != text && !matcher.find(canonical).is_empty())
        };
        (secure && canonical.len() <= MAX_ENDPOINT && !holds_token()).then(|| canonical.to_owned())
    }
}

/// Replaces each of these ranges with a mark.
fn without_secrets(text: &str, mut places: Vec<Range<usize>>) -> String {
    places.sort_by_key(|place| place.start);
    let (mut out, mut at) = (String::new(), 0);
    for place in places {
        if place.start >= at {
            out.push_str(&text[at..place.start]);
            out.push('…');
        }
        at = at.max(place.end);
    }
    out.push_str(&text[at..]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_secrets_and_token_shapes_are_masked_and_words_stay() {
        let masked = mask(
            "token 5bad2d67006e9f06006b12e4 is spent\nby hunter2",
            &["hunter2"],
        );
        assert_eq!(masked, "token … is spent by …");
        assert_eq!(
            mask("Unable to get application by token", &[]),
            "Unable to get application by token"
        );
        assert_eq!(mask(&"x ".repeat(500), &[]).chars().count(), 199);
        assert_eq!(mask("it was two\nwords", &["two words"]), "it was …");
    }

    #[test]
    fn what_nobody_sees_is_taken_out_before_secrets_are_looked_for() {
        assert_eq!(mask("by hun\u{200b}ter2", &["hunter2"]), "by …");
        assert_eq!(
            mask("a\u{202e}b\u{2066}c\u{feff}d\u{ad}e\u{2028}f", &[]),
            "abcde f"
        );
        assert_eq!(clean("ac\u{200d}me", &[]), "acme");
    }

    #[test]
    fn what_a_server_says_is_one_line_of_300_characters() {
        assert_eq!(
            server_text(" a \r\n\t b\u{0} ", &[]).as_deref(),
            Some("a b")
        );
        assert_eq!(server_text("\u{200b}\n", &[]), None);
        assert_eq!(
            server_text(&"é".repeat(500), &[]).unwrap().chars().count(),
            300
        );
        assert_eq!(
            server_text("of hunter2", &["hunter2"]).as_deref(),
            Some("of …")
        );
    }

    #[test]
    fn only_a_plain_address_is_a_link() {
        let good = "https://login.example/error?code=50173";
        assert_eq!(link(good, &[]).as_deref(), Some(good));
        for bad in [
            "javascript:alert(1)",
            "/docs",
            "https://user:pw@x.example/",
            "https://x.example/?t=hunter2",
            "https://x.example/%68unter2",
            "https://x.example/5bad2d67006e9f06006b12e4",
            "",
        ] {
            assert_eq!(link(bad, &["hunter2"]), None, "{bad}");
        }
    }

    #[test]
    fn names_and_addresses_stay_what_they_are_without_tokens() {
        let token = "5bad2d67006e9f06006b12e4";
        assert_eq!(
            clean("https://test.example/\n", &["test", token]),
            "https://test.example/"
        );
        assert_eq!(clean(&format!("a {token}"), &[token]), "a …");
        let value = serde_json::json!({"a": [token, 1], token: null, "b\n": "\u{202e}c\u{1b}[2J"});
        let cleaned = serde_json::json!({"a": ["…", 1], "…": null, "b": "c[2J"});
        assert_eq!(Cleaner::of(&[token]).clean_value(&value), cleaned);
        let user = "1445678901234567890";
        let token = format!("{user}-AbCdEfGhIjKlMnOpQrStUvWxYz0123456789AbCd");
        assert_eq!(
            clean(user, &[&token]),
            user,
            "some tokens begin with the name of their user"
        );
        assert_eq!(clean(&token[..40], &[&token]), "…");
    }

    #[test]
    fn a_secret_is_masked_in_any_dress_and_in_parts() {
        let secret = "rt/aBcDeFg1+hIjKlMn2=oPq";
        let masked = |text: &str| mask(text, &[secret]);
        assert_eq!(
            masked("cannot parse: refresh_token=rt%2FaBcDeFg1%2BhIj… (cut)"),
            "cannot parse: …… (cut)"
        );
        assert_eq!(
            masked("rt\\/aBcDeFg1\\u002bhIjKlMn2 is spent"),
            "… is spent"
        );
        assert_eq!(
            masked("Basic Y2lkOnJ0L2FCY0RlRmcxK2hJaktsTW4yPW9QcQ== is wrong"),
            "Basic … is wrong"
        );
        assert_eq!(masked("began with aBcDeFg1"), "began with …");
        assert_eq!(
            masked("a refresh token is spent"),
            "a refresh token is spent"
        );
        assert_eq!(
            mask("unknown: 5bad2d67%2F006e%2D9f06006b", &[]),
            "unknown: …",
            "an unknown token"
        );
    }

    #[test]
    fn a_secret_in_numbers_or_between_markup_is_masked_and_the_rest_stays() {
        let secret = "s3cRet-0f-crm+x";
        let numbers = |write: fn(u8) -> String, between: &str| {
            let all: Vec<_> = secret.bytes().map(write).collect();
            all.join(between)
        };
        let masked = |text: &str| mask(text, &[secret]);
        assert_eq!(
            masked(&format!(
                "client 42: [{}] is wrong",
                numbers(|byte| byte.to_string(), ",")
            )),
            "client 42: […] is wrong"
        );
        assert_eq!(
            masked(&format!(
                "got {} for it",
                numbers(|byte| format!("{byte:02x}"), ":")
            )),
            "got … for it"
        );
        assert_eq!(
            masked("s3cR<wbr>et-0f<!-- > -->-crm+x is wrong"),
            "… is wrong"
        );
        // Other text stays.
        for text in [
            "192.168.1.1 answered 200 in 12 ms, 115 of 116",
            "a <b>bad</b> request of 2026-11-30 09:17:23",
            "be 00 11 22 33 44 55 66 77 88 99 aa bb cc",
            "if a < b and c > d",
        ] {
            assert_eq!(masked(text), text);
        }
        assert_eq!(
            mask("pin 49, 50, 51, 52 or 12 34", &["1234"]),
            "pin … or 12 34",
            "a short one"
        );
    }

    #[test]
    fn an_endpoint_is_https_or_nothing() {
        for (given, kept) in [
            (
                "https://acme.example/rest/",
                Some("https://acme.example/rest/"),
            ),
            ("https://acme.example", Some("https://acme.example")),
            (
                " https://ACME.example:443/rest ",
                Some("https://acme.example/rest"),
            ),
            (
                "https://портал.рф/rest/",
                Some("https://xn--80awhdgm.xn--p1ai/rest/"),
            ),
            (
                "http://127.0.0.1:8080/rest/",
                Some("http://127.0.0.1:8080/rest/"),
            ),
            ("http://localhost/rest/", Some("http://localhost/rest/")),
            ("http://acme.example/rest/", None),
            ("javascript://acme/%0aalert(1)", None),
            ("file:///etc/passwd", None),
            ("//acme.example/", None),
            ("acme.example", None),
            ("https://user:pw@acme.example/", None),
            ("https://acme.example/\n", Some("https://acme.example/")),
            ("https://ac\nme.example/", None),
            ("https://acme.example/\u{1b}[2J", None),
            ("https://acme.example/\u{202e}x", None),
            ("https://acme.example/?auth=5bad2d67006e9f06006b12e4", None),
            ("https://acme.example/%35bad2d67006e9f06006b12e4", None),
            ("https://acme.example/5bad2d67006e9f06", None),
            ("https://5bad2d67006e9f06006b12e4.acme.example/", None),
            ("", None),
        ] {
            assert_eq!(
                endpoint(given, &["5bad2d67006e9f06006b12e4"]).as_deref(),
                kept,
                "{given}"
            );
        }
        assert_eq!(
            endpoint(&format!("https://a/{}", "x".repeat(3000)), &[]),
            None
        );
    }
}
