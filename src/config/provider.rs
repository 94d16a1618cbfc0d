//! Profiles: the built-in ones, those of the configuration, and the overrides of an app.
//!
//! Must not know a provider by name: the built-in profiles are TOML with the keys of `[providers.NAME]`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::document::{Report, Source};
use super::problem::{did_you_mean, shown};
use super::table::{Table, Text};
use super::values::{choice, duration, plain_name, renew_every, url};
use crate::domain::provider::{
    Class, ClientAuthentication, ErrorRule, InstallDialect, Method, Profile, Replay,
};
use crate::domain::remedy::{COMMANDS, Flaw, GAPS, flaw};
use crate::domain::reply::SECRET_FIELDS;
use crate::domain::schedule::RenewEvery;
use crate::domain::token::LIFETIME_RANGE;

/// The keys of a profile, and of its overrides on an app.
pub(super) const KEYS: [&str; 18] = [
    "token_url",
    "token_url_by_region",
    "authorize_url",
    "method",
    "client_authentication",
    "renew_every",
    "assumed_lifetime",
    "replay",
    "scope_separator",
    "identity",
    "endpoint",
    "server",
    "fields",
    "errors",
    "issuer",
    "install_check",
    "install_script",
    "install_run",
];

/// The compiled-in profiles by name.
const BUILT_IN: [(&str, &str); 2] = [
    ("bitrix24", include_str!("../../config/providers/bitrix24.toml")),
    ("x", include_str!("../../config/providers/x.toml")),
];

/// The error table below every profile.
const COMMON: &str = include_str!("../../config/providers/common.toml");

/// Profiles by name, shared by the apps that override nothing; `None` for one with problems, so that a reference to it
/// is no second problem.
pub(super) type Profiles = BTreeMap<String, Option<Arc<Profile>>>;

/// The built-in profiles and those of `[providers.NAME]`.
pub(super) fn profiles(own: &[Table<'_>], report: &mut Report) -> Profiles {
    let base = with_embedded("common", COMMON, report, |table, report| {
        table.only(report, &[&["errors"]]);
        let mut base = blank();
        base.errors = rows(table, report);
        base
    });
    let mut profiles = Profiles::new();
    for (name, text) in BUILT_IN {
        let profile = with_embedded(name, text, report, |table, report| {
            table.only(report, &[&KEYS]);
            complete(table, &base, name, report)
        });
        profiles.insert(name.to_owned(), profile.map(Arc::new));
    }
    for table in own {
        let name = table.name();
        table.only(report, &[&KEYS]);
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
    report: &mut Report,
    read: impl FnOnce(Table<'_>, &mut Report) -> T,
) -> T {
    let source = Source::embedded(Path::new(&format!("config/providers/{name}.toml")), text);
    let tree = source.parse(report);
    read(source.root(&tree), report)
}

/// What a profile is before its keys are read.
fn blank() -> Profile {
    Profile {
        name: String::new(),
        token_url: String::new(),
        token_url_by_region: BTreeMap::new(),
        authorize_url: None,
        method: Method::Post,
        client_authentication: ClientAuthentication::Basic,
        renew_every: RenewEvery::Share(0.67),
        assumed_lifetime: Duration::from_secs(3600),
        replay: Replay::Now,
        scope_separator: " ".to_owned(),
        identity_field: None,
        endpoint_field: None,
        server_field: None,
        fields: Vec::new(),
        install: InstallDialect::default(),
        errors: Vec::new(),
    }
}

/// A whole profile: one that says where its tokens are.
fn complete(table: Table<'_>, base: &Profile, name: &str, report: &mut Report) -> Option<Profile> {
    let mut profile = Profile { name: name.to_owned(), ..base.clone() };
    apply(table, &mut profile, report);
    if !table.has("token_url") && !table.has("issuer") {
        report.missing(table.place, format!("`token_url` is missing {table}"));
    }
    (!profile.token_url.is_empty()).then_some(profile)
}

/// Puts the keys of a table over a profile. Its error rows come before those that were there.
pub(super) fn apply(table: Table<'_>, profile: &mut Profile, report: &mut Report) {
    if let Some(place) = table.place_of("issuer") {
        report.problem(place, "discovery by `issuer` is not supported by this version; write `token_url`");
    }
    endpoints(table, profile, report);
    let methods = [("post", Method::Post), ("get", Method::Get)];
    set(&mut profile.method, choice(table, report, "method", &methods));
    let ways = [
        ("none", ClientAuthentication::None),
        ("basic", ClientAuthentication::Basic),
        ("body", ClientAuthentication::Body),
        ("basic-with-body", ClientAuthentication::BasicWithBody),
    ];
    set(&mut profile.client_authentication, choice(table, report, "client_authentication", &ways));
    set(
        &mut profile.replay,
        choice(table, report, "replay", &[("now", Replay::Now), ("late", Replay::Late)]),
    );
    let lifetime = duration(table, report, "assumed_lifetime", "1h", LIFETIME_RANGE);
    let every = renew_every(table, report);
    set(&mut profile.assumed_lifetime, lifetime);
    set(&mut profile.renew_every, every);
    if lifetime.is_some() || every.is_some() {
        check_age(table, profile.renew_every, profile.assumed_lifetime, report);
    }
    set(
        &mut profile.scope_separator,
        table.text_as(report, "scope_separator", "a string in quotes").map(|text| text.value.to_owned()),
    );
    for (key, field) in [
        ("identity", &mut profile.identity_field),
        ("endpoint", &mut profile.endpoint_field),
        ("server", &mut profile.server_field),
    ] {
        set(field, table.text(report, key).map(|text| Some(text.value.to_owned())));
    }
    if let Some(fields) = table.texts(report, "fields", false) {
        for field in fields.iter().filter(|field| SECRET_FIELDS.contains(&field.value)) {
            report.problem(field.place, "`fields` names a field that is never handed to readers");
        }
        profile.fields = fields.iter().map(|field| field.value.to_owned()).collect();
    }
    super::install::dialect(table, &mut profile.install, report);
    if table.has("errors") {
        let mut errors = rows(table, report);
        errors.append(&mut profile.errors);
        profile.errors = errors;
    }
}

fn endpoints(table: Table<'_>, profile: &mut Profile, report: &mut Report) {
    if let Some(text) = table.text(report, "token_url") {
        // Whoever names one endpoint means it for every region.
        profile.token_url_by_region.clear();
        set(&mut profile.token_url, url(report, "token_url", text, false));
    }
    if let Some(text) = table.text(report, "authorize_url") {
        set(&mut profile.authorize_url, url(report, "authorize_url", text, true).map(Some));
    }
    let Some(regions) = table.table(report, "token_url_by_region", "token_url_by_region") else { return };
    profile.token_url_by_region.clear();
    for region in regions.keys() {
        let address = regions.text(report, region.value);
        if let Some(address) = address.and_then(|text| url(report, "token_url_by_region", text, false)) {
            profile.token_url_by_region.insert(region.value.to_lowercase(), address);
        }
    }
}

/// Reports a renewal age that leaves less than a tenth of the life.
pub(super) fn check_age(table: Table<'_>, every: RenewEvery, lifetime: Duration, report: &mut Report) {
    if !every.fits(lifetime) {
        let place = table.place_of("renew_every").or_else(|| table.place_of("assumed_lifetime"));
        let life = humantime::format_duration(lifetime);
        let age = match every {
            RenewEvery::Age(age) => humantime::format_duration(age).to_string(),
            RenewEvery::Share(share) => format!("{}%", (share * 100.0).round()),
        };
        let message =
            format!("`renew_every` of {age} is beyond 90 % of the lifetime, {life} (`assumed_lifetime`)");
        report.problem(place.unwrap_or(table.place), message);
    }
}

fn set<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}

/// The rows of `[[errors]]`.
fn rows(table: Table<'_>, report: &mut Report) -> Vec<ErrorRule> {
    let rows = table.list_of_tables(report, "errors", "[[errors]]");
    rows.into_iter().filter_map(|row| rule(row, report)).collect()
}

fn rule(row: Table<'_>, report: &mut Report) -> Option<ErrorRule> {
    row.only(report, &[&["status", "error", "description", "class", "meaning", "remedy"]]);
    if !["status", "error", "description"].into_iter().any(|key| row.has(key)) {
        report.missing(
            row.place,
            "a row of [[errors]] must have `status`, `error` or `description`: it would match every reply",
        );
    }
    let status = row.integers(report, "status", 100..=599).unwrap_or_default();
    let error = row.texts(report, "error", true).unwrap_or_default();
    let description = row.text(report, "description").map(|text| text.value.to_owned());
    let meaning = row.text(report, "meaning").map(|text| text.value.to_owned());
    let remedy = row.text(report, "remedy").filter(|text| is_fit(*text, report));
    row.required(report, "class")?;
    let class = choice(row, report, "class", &Class::ALL.map(|class| (class.as_str(), class)))?;
    Some(ErrorRule {
        status: status.into_iter().filter_map(|status| u16::try_from(status).ok()).collect(),
        error: error.iter().map(|code| code.value.to_owned()).collect(),
        description: description.unwrap_or_default(),
        class,
        meaning,
        remedy: remedy.map(|text| text.value.to_owned()),
    })
}

/// Whether what a person is told to do can be filled in and done.
fn is_fit(remedy: Text<'_>, report: &mut Report) -> bool {
    let gaps = GAPS.map(|gap| format!("{{{gap}}}")).join(", ");
    let message = match flaw(remedy.value) {
        None => return true,
        Some(Flaw::Control) => "`remedy` must be one line without control characters".to_owned(),
        Some(Flaw::Brace) => format!("`remedy` has a brace without its other half (there are {gaps})"),
        Some(Flaw::Gap(name)) => {
            let (hint, name) = (did_you_mean(name, GAPS), shown(&format!("{{{name}}}")));
            format!("`remedy` holds {name}, which nothing fills in{hint} (there are {gaps})")
        }
        Some(Flaw::Command(word)) => {
            let (hint, word) = (did_you_mean(word, COMMANDS), shown(word));
            let commands = COMMANDS.join(", ");
            format!(
                "`remedy` names refreshd's command {word}, which does not exist{hint} (there are {commands})"
            )
        }
    };
    report.problem(remedy.place, message);
    false
}
