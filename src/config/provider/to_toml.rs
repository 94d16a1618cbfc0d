//! A profile written out as a table of `[providers.NAME]`, to be looked at or to begin one's own with.
//!
//! Must be complete: parsing it yields the same profile.

use std::fmt::Write as _;

use toml::Value;

use super::keys::KEYS;
use super::wire_format::{strings, values_value};
use refreshd_token_client::error_table::ErrorRule;
use refreshd_token_client::provider::Profile;

/// The table, errors included.
pub(in crate::config) fn written(profile: &Profile) -> String {
    let mut out = TomlLines(format!("[providers.{}]\n", profile.name));
    for key in &KEYS {
        out.value(key.name, key.value_of(profile));
    }
    for rule in &profile.errors {
        out.rule(&profile.name, rule);
    }
    out.0
}

struct TomlLines(String);

impl TomlLines {
    fn value(&mut self, key: &str, value: Option<Value>) {
        if let Some(value) = value {
            // Writing to a string cannot fail.
            let _ = writeln!(self.0, "{key} = {value}");
        }
    }

    fn rule(&mut self, provider: &str, rule: &ErrorRule) {
        let ErrorRule {
            status,
            error,
            description,
            also,
            class,
            meaning,
            remedy,
        } = rule;
        let text = |text: &Option<String>| text.as_deref().map(Value::from);
        let status: Vec<_> = status
            .iter()
            .map(|status| Value::from(i64::from(*status)))
            .collect();
        let _ = writeln!(self.0, "\n[[providers.{provider}.errors]]");
        self.value("status", (!status.is_empty()).then(|| status.into()));
        self.value("error", strings(error));
        let description = (!description.is_empty()).then(|| description.as_str().into());
        self.value("description", description);
        self.value("match", (!also.is_empty()).then(|| values_value(also)));
        self.value("class", Some(class.as_str().into()));
        self.value("meaning", text(meaning));
        self.value("remedy", text(remedy));
    }
}
