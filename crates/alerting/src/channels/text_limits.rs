//! Fits texts into the limits of receivers, and escapes them for their markup. Must not know a receiver.

use serde_json::{Map, Value, json};

use super::sender::Sender;
use crate::message::Message;

/// Length in UTF-16 units, as most receivers count.
pub(super) const fn utf16(c: char) -> usize {
    c.len_utf16()
}

/// Length in UTF-16 units after escaping.
pub(super) const fn escaped(c: char) -> usize {
    match c {
        '&' => 5,
        '<' | '>' => 4,
        other => other.len_utf16(),
    }
}

/// The longest prefix within `limit`; a truncated one ends with a mark.
pub(super) fn fit(text: &str, limit: usize, cost: fn(char) -> usize) -> String {
    let mut spent = 0;
    // Position of the cut, with room for the mark.
    let mut cut = 0;
    for (at, c) in text.char_indices() {
        if spent < limit {
            cut = at;
        }
        spent += cost(c);
        if spent > limit {
            return format!("{}…", &text[..cut]);
        }
    }
    text.to_owned()
}

/// Escapes for the markups of Slack and Telegram.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// Joins lines: a header, a variable or an argument must not become two.
pub(super) fn line(text: &str) -> String {
    refreshd_secrets::mask::line(text)
}

/// All fields of a message, for programs.
pub(super) fn details(message: &Message, sender: Sender<'_>) -> Map<String, Value> {
    let (subject, name) = message.subject.label().unwrap_or(("daemon", ""));
    let details = json!({
        "instance": sender.instance,
        "url": sender.url,
        "key": message.dedup_key(sender.instance),
        "event": message.event.as_str(),
        "severity": message.severity.as_str(),
        "subject": subject,
        "name": name,
        "whom": message.affected(),
        "title": message.title(),
        "lines": message.lines(sender.now),
        "reason": message.reason,
        "action": message.action,
        "since": message.since.to_string(),
        "at": message.at.to_string(),
        "expires_at": message.expires_at.map(|at| at.to_string()),
        "portals": message.portals,
        "count": message.count,
        "number": message.number,
    });
    match details {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_between_characters_and_the_mark_fits_in() {
        assert_eq!(fit("short", 5, utf16), "short");
        assert_eq!(fit("longer", 5, utf16), "long…");
        assert_eq!(fit("", 0, utf16), "");
        // An emoji has two units and is not split.
        assert_eq!(fit("🦀🦀🦀", 5, utf16), "🦀🦀…");
        assert_eq!(fit("🦀🦀🦀", 4, utf16), "🦀…");
        for (text, cost) in [
            ("<&>".repeat(50), escaped as fn(char) -> usize),
            ("ÿ漢🦀".repeat(50), utf16),
        ] {
            for limit in 1..200 {
                let fitted = fit(&text, limit, cost);
                assert!(
                    fitted.chars().map(cost).sum::<usize>() <= limit,
                    "{limit}: {fitted}"
                );
                assert!(fitted.ends_with('…') || fitted == text);
            }
        }
    }
}
