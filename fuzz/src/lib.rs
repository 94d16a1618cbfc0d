//! Properties that hold for any input, one function for each target. Each panics if a property is violated.
//!
//! Used by the fuzzing targets beside this folder and by `tests/corpus.rs`, which replays their findings. Must not
//! depend on the fuzzer.

pub mod config;
pub mod control;
pub mod files;
pub mod intake;
pub mod notice;
pub mod reply;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use refreshd::config::{Environment, load};
use refreshd_token_client::provider::Profile;
use refreshd_token_client::token::Details;
use serde_json::Value;
use tempfile::TempDir;

/// The built-in profiles, as the configuration makes them.
fn profiles() -> &'static [Arc<Profile>] {
    static PROFILES: OnceLock<Vec<Arc<Profile>>> = OnceLock::new();
    PROFILES.get_or_init(|| {
        let text = "[apps.b]\nprovider = 'bitrix24'\nclient_id = 'b'\nclient_secret = 's'\n\
                    [apps.x]\nprovider = 'x'\nclient_id = 'x'\nclient_secret = 's'\n";
        let folder = folder();
        let file = file(folder.path(), "main.toml", text.as_bytes());
        let loaded =
            load(&file, &Environment::of([("", ""); 0])).expect("the profiles are in order");
        loaded
            .config
            .apps
            .into_values()
            .map(|app| app.profile)
            .collect()
    })
}

/// A folder of its own.
fn folder() -> TempDir {
    tempfile::Builder::new()
        .prefix("refreshd-fuzz-")
        .tempdir()
        .expect("a folder can be made")
}

/// A shorter text is no token, and may stand anywhere.
const SHORTEST_TOKEN: usize = 16;

/// Writes a file that others cannot read.
#[expect(
    clippy::disallowed_methods,
    reason = "a file that is not read meanwhile need not be written atomically"
)]
fn file(folder: &Path, name: &str, contents: &[u8]) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, contents).expect("a file can be written");
    std::fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("its mode can be set");
    path
}

/// Panics if a visible text contains any of these.
#[track_caller]
fn is_silent_about(secrets: &[&str], shown: &str) {
    for secret in secrets {
        assert!(!shown.contains(secret), "{secret} is shown: {shown}");
    }
}

/// All texts in the details of a grant, a line each.
fn words(details: &Details) -> String {
    fn collect(value: &Value, words: &mut Vec<String>) {
        match value {
            Value::String(text) => words.push(text.clone()),
            Value::Array(values) => values.iter().for_each(|value| collect(value, words)),
            Value::Object(map) => map.iter().for_each(|(key, value)| {
                words.push(key.clone());
                collect(value, words);
            }),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
    let Details {
        scope,
        endpoint,
        fields,
    } = details;
    let mut words: Vec<_> = scope.iter().chain(endpoint).cloned().collect();
    fields.values().for_each(|value| collect(value, &mut words));
    words.join("\n")
}

/// Panics unless the state, and readers of `token.json`, can parse the data written for them.
#[track_caller]
fn can_be_read_again(details: &Details) {
    let stored = serde_json::json!({ "fields": details.fields }).to_string();
    let read: Value = serde_json::from_str(&stored).expect("what was written can be read");
    assert!(
        files::same(&read["fields"], &serde_json::json!(details.fields)),
        "{stored} is read as {read}"
    );
}

/// Panics unless a text fits into a line of a log.
#[track_caller]
fn is_a_line(shown: &str) {
    assert!(
        !shown.contains(char::is_control),
        "control characters: {shown:?}"
    );
    assert!(
        shown.chars().count() <= 1200,
        "{} characters: {shown}",
        shown.chars().count()
    );
}
