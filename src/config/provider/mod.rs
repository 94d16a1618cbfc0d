//! Profiles: the built-in ones, those of the configuration, and the overrides of an app.
//!
//! `keys` puts a table's keys over a profile, `wire_format` those about requests and replies, `rows` reads error tables. Must
//! not know a provider by name: the built-in profiles are TOML with the keys of `[providers.NAME]`.

mod error_rules;
mod keys;
mod to_toml;
mod wire_format;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use super::problem::shown;
use super::source::{ConfigSource, Diagnostics};
use super::table::Table;
use super::values::plain_name;
use error_rules::rows;
mod reference;
pub(super) use keys::{KEY_NAMES, apply};
pub(super) use reference::{annotated_toml, markdown};
use refreshd_token_client::provider::Profile;
pub(super) use to_toml::written;

/// The compiled-in profiles by name.
const BUILT_IN: [(&str, &str); 19] = [
    (
        "amocrm",
        include_str!("../../../config/providers/amocrm.toml"),
    ),
    (
        "atlassian",
        include_str!("../../../config/providers/atlassian.toml"),
    ),
    (
        "avito",
        include_str!("../../../config/providers/avito.toml"),
    ),
    (
        "bitrix24",
        include_str!("../../../config/providers/bitrix24.toml"),
    ),
    (
        "dropbox",
        include_str!("../../../config/providers/dropbox.toml"),
    ),
    (
        "github",
        include_str!("../../../config/providers/github.toml"),
    ),
    (
        "gitlab",
        include_str!("../../../config/providers/gitlab.toml"),
    ),
    (
        "google",
        include_str!("../../../config/providers/google.toml"),
    ),
    ("hh", include_str!("../../../config/providers/hh.toml")),
    (
        "hubspot",
        include_str!("../../../config/providers/hubspot.toml"),
    ),
    (
        "microsoft",
        include_str!("../../../config/providers/microsoft.toml"),
    ),
    (
        "quickbooks",
        include_str!("../../../config/providers/quickbooks.toml"),
    ),
    (
        "salesforce",
        include_str!("../../../config/providers/salesforce.toml"),
    ),
    (
        "slack",
        include_str!("../../../config/providers/slack.toml"),
    ),
    ("vk", include_str!("../../../config/providers/vk.toml")),
    ("x", include_str!("../../../config/providers/x.toml")),
    ("xero", include_str!("../../../config/providers/xero.toml")),
    (
        "yandex",
        include_str!("../../../config/providers/yandex.toml"),
    ),
    ("zoho", include_str!("../../../config/providers/zoho.toml")),
];

/// The names of the compiled-in profiles.
pub(super) fn built_in() -> impl Iterator<Item = &'static str> {
    BUILT_IN.into_iter().map(|(name, _)| name)
}

/// The error table below every profile.
const COMMON: &str = include_str!("../../../config/providers/common.toml");

/// Profiles by name, shared by the apps that override nothing; `None` for one that nothing names, and for one with
/// problems, so that a reference to it is no second problem.
pub(super) type Profiles = BTreeMap<String, Option<Arc<Profile>>>;

/// The built-in profiles and those of `[providers.NAME]`. Of the built-in ones only those in `used` are read: to read
/// them all would be felt at each start.
pub(super) fn profiles(
    own: &[Table<'_>],
    used: &BTreeSet<&str>,
    report: &mut Diagnostics,
) -> Profiles {
    let base = with_embedded("common", COMMON, report, |table, report| {
        table.only(report, &[&["errors"]]);
        let mut base = Profile::blank();
        base.errors = rows(table, report);
        base
    });
    let mut profiles = Profiles::new();
    for (name, text) in BUILT_IN {
        let profile = used.contains(name).then(|| {
            with_embedded(name, text, report, |table, report| {
                table.only(report, &[&KEY_NAMES]);
                complete(table, &base, name, report)
            })
        });
        profiles.insert(name.to_owned(), profile.flatten().map(Arc::new));
    }
    for table in own {
        let name = table.name();
        table.only(report, &[&KEY_NAMES]);
        let profile = complete(*table, &base, name.value, report);
        if BUILT_IN.iter().any(|(built_in, _)| *built_in == name.value) {
            let name = shown(name.value);
            report.problem(
                table.place,
                format!("the provider {name} is built in; override its keys on the app instead"),
            );
        } else if plain_name(report, "the provider", name) {
            profiles.insert(name.value.to_owned(), profile.map(Arc::new));
        }
    }
    profiles
}

fn with_embedded<T>(
    name: &str,
    text: &str,
    report: &mut Diagnostics,
    read: impl FnOnce(Table<'_>, &mut Diagnostics) -> T,
) -> T {
    let source = ConfigSource::embedded(Path::new(&format!("config/providers/{name}.toml")), text);
    let tree = source.parse(report);
    read(Table::root(&source, &tree), report)
}

/// A complete profile: one with the places of its tokens.
fn complete(
    table: Table<'_>,
    base: &Profile,
    name: &str,
    report: &mut Diagnostics,
) -> Option<Profile> {
    let mut profile = Profile {
        name: name.to_owned(),
        ..base.clone()
    };
    apply(table, &mut profile, report);
    if !table.has("token_url") && !table.has("issuer") {
        report.missing(table.place, format!("`token_url` is missing {table}"));
    }
    (!profile.token_url.is_empty() || profile.issuer.is_some()).then_some(profile)
}
