//! Any text as the configuration, and any other as a file that it includes.
//!
//! An input is the main file; what follows a line [`NEXT`] is `more.toml` beside it.

use std::path::Path;

use refreshd::config::{ConfigError, Environment, Loaded, load};
use toml::de::{DeTable, DeValue};

use super::{file, folder, is_a_line};

/// Stands for any secret. It is looked for in all that is shown.
const SECRET: &str = "Hunter2Hunter2";
/// Ends the main file.
const NEXT: &str = "#more.toml\n";

/// The file of a secret, which may be included by mistake.
const TOKEN: &str = "of a file";

/// Keys whose values are names, hosts or paths, and may be shown.
const SHOWN: [&str; 7] = [
    "provider", "app", "formats", "notify", "domain", "include", "body",
];
/// Keys that hold a secret itself.
const SECRETS: [&str; 6] = [
    "client_secret",
    "url",
    "bot_token",
    "routing_key",
    "password",
    "authorization",
];

/// Checks the properties.
pub fn holds(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (main, more) = text.split_once(NEXT).unwrap_or((&text, ""));
    if leads_away(main) || leads_away(more) {
        return;
    }
    let folder = folder();
    let path = file(
        folder.path(),
        "main.toml",
        if more.is_empty() {
            data
        } else {
            main.as_bytes()
        },
    );
    file(folder.path(), "more.toml", more.as_bytes());
    file(folder.path(), "a.secret", TOKEN.as_bytes());
    let credentials = folder.path().display().to_string();
    let environment = Environment::of([
        ("SECRET", "s3cr3t"),
        ("CREDENTIALS_DIRECTORY", credentials.as_str()),
    ]);

    let done = load(&path, &environment);
    let again = load(&path, &environment);
    assert_eq!(
        format!("{done:?}"),
        format!("{again:?}"),
        "the same files, another meaning"
    );
    let places = [main, more].map(places);
    match done {
        Ok(Loaded {
            config,
            warnings,
            damaged,
            ..
        }) => {
            problems(&warnings, folder.path(), [main, more], &places);
            problems(&damaged, folder.path(), [main, more], &places);
            if places.iter().flatten().all(|place| *place == Place::Secret) {
                assert!(!format!("{config:?}").contains(SECRET), "shown: {config:?}");
            }
        }
        Err(found) => {
            assert!(!found.0.is_empty());
            problems(&found.0, folder.path(), [main, more], &places);
        }
    }
}

fn problems(problems: &[ConfigError], folder: &Path, texts: [&str; 2], places: &[Vec<Place>; 2]) {
    let shown = places.iter().flatten().any(|place| *place == Place::Shown);
    for problem in problems {
        let ConfigError {
            file,
            line,
            column,
            message,
        } = problem;
        is_a_line(message);
        assert!(shown || !message.contains(SECRET), "shown: {problem}");
        assert!(!message.contains(TOKEN), "shown: {problem}");
        let text = match file.strip_prefix(folder).ok().and_then(Path::to_str) {
            Some("main.toml") => texts[0],
            Some("more.toml") => texts[1],
            Some("a.secret") => TOKEN,
            _ => panic!("a problem of no file: {problem}"),
        };
        let found = text.split('\n').nth(line - 1);
        let width = found.map_or(0, |line| line.chars().count());
        assert!(
            found.is_some() && (1..=width + 1).contains(column),
            "outside of the file: {problem}"
        );
    }
}

/// Returns whether a file is included, or named for a secret, that is outside the directory: some files never end.
fn leads_away(text: &str) -> bool {
    let (tree, _) = DeTable::parse_recoverable(text);
    let away =
        |path: &str| path.starts_with('/') || path.contains("..") || path.matches('*').count() > 3;
    let mut leads = false;
    each(tree.get_ref(), &mut |key, value, _| {
        leads |= (key == "include" || key.ends_with("_file") || key.ends_with("_credential"))
            && away(value);
    });
    leads
}

/// Place of the secret in a text.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    /// The value of a secret.
    Secret,
    /// A value that may be shown.
    Shown,
    /// Any other place.
    Elsewhere,
}

/// Places of the secret in the checked part of a file: all before the line of the first syntax error.
fn places(text: &str) -> Vec<Place> {
    let (tree, errors) = DeTable::parse_recoverable(text);
    let first = errors
        .iter()
        .map(|error| error.span().map_or(0, |span| span.start))
        .min();
    let judged = first.map_or(text.len(), |first| {
        text[..first].rfind('\n').map_or(0, |at| at + 1)
    });
    let mut places = Vec::new();
    each(tree.get_ref(), &mut |key, value, end| {
        if end <= judged && key.contains(SECRET) {
            places.push(Place::Shown);
        }
        if value.contains(SECRET) {
            let path = key.ends_with("_file") && value.contains(['/', '.']);
            places.push(match () {
                () if end > judged => Place::Elsewhere,
                () if SHOWN.contains(&key) || path => Place::Shown,
                () if SECRETS.contains(&key) => Place::Secret,
                () => Place::Elsewhere,
            });
        }
    });
    if text.matches(SECRET).count() > places.len() {
        // In a comment, an escape or a number.
        places.push(Place::Elsewhere);
    }
    places
}

/// Each key with each string in it, and where that ends. A table's own key comes with an empty one.
fn each(table: &DeTable<'_>, seen: &mut dyn FnMut(&str, &str, usize)) {
    for (key, value) in table {
        seen(key.get_ref(), "", key.span().end);
        strings(key.get_ref(), value, seen);
    }
}

fn strings(key: &str, value: &toml::Spanned<DeValue<'_>>, seen: &mut dyn FnMut(&str, &str, usize)) {
    match value.get_ref() {
        DeValue::String(text) => seen(key, text, value.span().end),
        DeValue::Array(values) => values.iter().for_each(|value| strings(key, value, seen)),
        // The address in here is for people.
        DeValue::Table(table) if key == "alerts" => {
            each(table, &mut |_, text, end| seen(key, text, end));
        }
        DeValue::Table(table) => each(table, seen),
        _ => {}
    }
}
