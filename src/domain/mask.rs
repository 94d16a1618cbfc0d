//! Makes a server's own words fit to be logged: no control characters, no long texts, nothing that looks like a token.
//!
//! Must not be the only guard: secrets that are known are removed by value as well.

/// Longest text kept, in characters.
const LONGEST: usize = 200;
/// A run of token characters this long that holds a digit is taken for a token.
const TOKEN_RUN: usize = 20;

/// Masks `text`: every one of `secrets` it contains, anything that looks like a token, and control characters.
#[must_use]
pub fn mask(text: &str, secrets: &[&str]) -> String {
    let mut text = text.to_owned();
    for secret in secrets.iter().filter(|secret| secret.len() >= 4) {
        text = text.replace(secret, "…");
    }
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
    let cleaned: String = out.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST).collect();
    cleaned.trim().to_owned()
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
    }
}
