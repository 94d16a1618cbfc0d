//! The keys of a profile for people: as TOML with comments, and as a table in Markdown.

use std::fmt::Write as _;

use super::keys::{KEYS, ProviderKey};

/// The column at which a comment begins.
const COMMENT: usize = 34;

/// A table `[providers.NAME]` with an example of each key beside `token_url`, with its meaning.
pub(in crate::config) fn annotated_toml(name: &str) -> String {
    let mut out = format!("[providers.{name}]\n");
    for key in KEYS.iter().filter(|key| !needs_issuer(key)) {
        for line in key.preface.iter().flat_map(|preface| preface.lines()) {
            let _ = writeln!(out, "# {line}");
        }
        let value = format!("{} = {}", key.name, key.example);
        // A preface describes it at length.
        let _ = if key.name == "reply" {
            writeln!(out, "{value}")
        } else {
            writeln!(
                out,
                "{value:<width$}# {}",
                key.meaning,
                width = COMMENT.max(value.len() + 1)
            )
        };
    }
    out
}

/// A row for each key.
pub(in crate::config) fn markdown() -> String {
    let mut out = String::from("| key | example | meaning |\n|---|---|---|\n");
    for key in &KEYS {
        let ProviderKey {
            name,
            example,
            meaning,
            ..
        } = key;
        let example = example.replace('|', "\\|");
        let _ = writeln!(out, "| `{name}` | `{example}` | {meaning} |");
    }
    out
}

/// Returns whether a key belongs to an issuer's example, or to separate tables.
fn needs_issuer(key: &ProviderKey) -> bool {
    matches!(key.name, "issuer" | "allowed_hosts" | "errors")
}
