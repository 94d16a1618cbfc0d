//! Makes a server's own words fit to be logged: no control characters, no long texts, nothing that looks like a token.
//!
//! Must not be the only guard: secrets that are known are removed by value as well.

use serde_json::Value;

/// Longest text kept, in characters.
const LONGEST: usize = 200;
/// A run of token characters this long that holds a digit is taken for a token.
const TOKEN_RUN: usize = 20;
/// A shorter secret may be a part of ordinary words, which an error can do without.
const SHORTEST_SECRET: usize = 4;
/// A shorter secret may be a part of a name or an address, which readers cannot do without.
const SHORTEST_TOKEN: usize = 16;

/// Masks `text`: every one of `secrets` it contains, anything that looks like a token, and control characters.
#[must_use]
pub fn mask(text: &str, secrets: &[&str]) -> String {
    // Before secrets are looked for: one with a space in it must not come out of one with a line feed.
    let text = without(&text.replace(char::is_control, " "), secrets, SHORTEST_SECRET);
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
    short(out.trim())
}

/// The beginning of a text, as much as a message has room for.
#[must_use]
pub fn short(text: &str) -> String {
    text.chars().take(LONGEST).collect::<String>().trim_end().to_owned()
}

/// A name or an address as it is, without `tokens` and control characters, which none has.
#[must_use]
pub fn clean(text: &str, tokens: &[&str]) -> String {
    without(&text.replace(char::is_control, ""), tokens, SHORTEST_TOKEN)
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
    fn names_and_addresses_stay_what_they_are_without_tokens() {
        let token = "5bad2d67006e9f06006b12e4";
        assert_eq!(clean("https://test.example/\n", &["test", token]), "https://test.example/");
        assert_eq!(clean(&format!("a {token}"), &[token]), "a …");
        let value = serde_json::json!({"a": [token, 1], token: null});
        assert_eq!(clean_value(&value, &[token]), serde_json::json!({"a": ["…", 1], "…": null}));
    }
}
