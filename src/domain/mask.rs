//! Makes a server's own words fit to be logged: no control characters, no long texts, nothing that looks like a token.
//!
//! Must not be the only guard: secrets that are known are removed by value as well.

use serde_json::Value;
use url::form_urlencoded;

/// Longest text kept, in characters.
const LONGEST: usize = 200;
/// Longest text kept of what a server says of a refusal, in characters.
const LONGEST_SAID: usize = 300;
/// A run of token characters this long that holds a digit is taken for a token.
const TOKEN_RUN: usize = 20;
/// A shorter secret may be a part of ordinary words, which an error can do without.
const SHORTEST_SECRET: usize = 4;
/// A shorter secret may be a part of a name or an address, which readers cannot do without.
const SHORTEST_TOKEN: usize = 16;

/// Masks `text`: every one of `secrets` it contains, anything that looks like a token, and control characters.
#[must_use]
pub fn mask(text: &str, secrets: &[&str]) -> String {
    short(&masked(text, secrets))
}

/// As [`mask`], for the sentence that a server gives with a refusal: up to 300 characters, blanks folded; `None` if
/// nothing is left.
#[must_use]
pub fn said(text: &str, secrets: &[&str]) -> Option<String> {
    let text = masked(text, secrets);
    let folded: Vec<_> = text.split_whitespace().collect();
    let folded: String = folded.join(" ").chars().take(LONGEST_SAID).collect();
    (!folded.trim().is_empty()).then(|| folded.trim_end().to_owned())
}

/// An address that a server names for people: http or https, without user information, and `None` where it holds a
/// secret, looks as if, or is too long to be shown.
#[must_use]
pub fn link(text: &str, secrets: &[&str]) -> Option<String> {
    let url = url::Url::parse(text.trim()).ok()?;
    let plain = matches!(url.scheme(), "http" | "https")
        && url.username().is_empty()
        && url.password().is_none()
        && url.host_str().is_some_and(|host| !host.is_empty());
    let shown = url.as_str();
    // A secret is one in any spelling.
    let spelt_out = form_urlencoded::parse(shown.as_bytes()).any(|(name, value)| {
        secrets
            .iter()
            .filter(|secret| !secret.is_empty())
            .any(|secret| name.contains(secret) || value.contains(secret))
    });
    (plain && !spelt_out && shown.len() <= LONGEST_SAID && masked(shown, secrets) == shown)
        .then(|| shown.to_owned())
}

fn masked(text: &str, secrets: &[&str]) -> String {
    // Before secrets are looked for: one with a space in it must not come out of one with a line feed, nor out of one
    // with characters in it that nobody sees.
    let text = without(&visible(text, " "), secrets, SHORTEST_SECRET);
    let mut out = String::new();
    for word in text.split_inclusive(|c: char| !is_token_char(c)) {
        let run = word.trim_end_matches(|c: char| !is_token_char(c));
        if run.chars().count() >= TOKEN_RUN && run.chars().any(|c| c.is_ascii_digit()) {
            out.push('…');
            out.push_str(&word[run.len()..]);
        } else {
            out.push_str(word);
        }
    }
    out.trim().to_owned()
}

/// The text without characters that nobody sees; `control` stands for each control character and line separator.
fn visible(text: &str, control: &str) -> String {
    text.replace(is_hidden, "")
        .replace(|c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}'), control)
}

/// Characters that show nothing and change what is shown around them: Unicode's category Cf (marks and overrides of the
/// writing direction, zero-width characters, the soft hyphen, tags), fillers and variation selectors.
const fn is_hidden(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{115f}' | '\u{1160}'
        | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}'
        | '\u{fff0}'..='\u{fffb}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// The beginning of a text, as much as a message has room for.
#[must_use]
pub fn short(text: &str) -> String {
    text.chars().take(LONGEST).collect::<String>().trim_end().to_owned()
}

/// A name or an address as it is, without `tokens`, control characters and characters that nobody sees.
#[must_use]
pub fn clean(text: &str, tokens: &[&str]) -> String {
    without(&visible(text, ""), tokens, SHORTEST_TOKEN)
}

/// `value` as it is, without `tokens` in any string.
#[must_use]
pub fn clean_value(value: &Value, tokens: &[&str]) -> Value {
    let clean = |text: &str| without(text, tokens, SHORTEST_TOKEN);
    match value {
        Value::String(text) => Value::String(clean(text)),
        Value::Array(values) => values.iter().map(|value| clean_value(value, tokens)).collect(),
        Value::Object(map) => {
            map.iter().map(|(key, value)| (clean(key), clean_value(value, tokens))).collect()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}

fn without(text: &str, secrets: &[&str], shortest: usize) -> String {
    let mut text = text.to_owned();
    for secret in secrets.iter().filter(|secret| secret.len() >= shortest) {
        text = text.replace(secret, "…");
    }
    text
}

fn is_token_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-_~+/=".contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_secrets_and_token_shapes_are_masked_and_words_stay() {
        let masked = mask("token 5bad2d67006e9f06006b12e4 is spent\nby hunter2", &["hunter2"]);
        assert_eq!(masked, "token … is spent by …");
        assert_eq!(mask("Unable to get application by token", &[]), "Unable to get application by token");
        assert_eq!(mask(&"x ".repeat(500), &[]).chars().count(), 199);
        assert_eq!(mask("it was two\nwords", &["two words"]), "it was …");
    }

    #[test]
    fn what_nobody_sees_is_taken_out_before_secrets_are_looked_for() {
        assert_eq!(mask("by hun\u{200b}ter2", &["hunter2"]), "by …");
        assert_eq!(mask("a\u{202e}b\u{2066}c\u{feff}d\u{ad}e\u{2028}f", &[]), "abcde f");
        assert_eq!(clean("ac\u{200d}me", &[]), "acme");
    }

    #[test]
    fn what_a_server_says_is_one_line_of_300_characters() {
        assert_eq!(said(" a \r\n\t b\u{0} ", &[]).as_deref(), Some("a b"));
        assert_eq!(said("\u{200b}\n", &[]), None);
        assert_eq!(said(&"é".repeat(500), &[]).unwrap().chars().count(), 300);
        assert_eq!(said("of hunter2", &["hunter2"]).as_deref(), Some("of …"));
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
        assert_eq!(clean("https://test.example/\n", &["test", token]), "https://test.example/");
        assert_eq!(clean(&format!("a {token}"), &[token]), "a …");
        let value = serde_json::json!({"a": [token, 1], token: null});
        assert_eq!(clean_value(&value, &[token]), serde_json::json!({"a": ["…", 1], "…": null}));
    }
}
