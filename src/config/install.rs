//! `[install]`, the listener for install events, and `[apps.NAME.install]`, the rule of an app.
//!
//! Must not know a provider: the profile states whether installs are supported.

use std::collections::{BTreeMap, HashMap};

use axum::http::HeaderName;

use super::configuration::{App, InstallListener};
use super::problem::did_you_mean;
use super::source::{Diagnostics, SourceLocation};
use super::table::{Table, TextValue};
use super::values::{check_age, choice, formats, renew_every, url_path};
use crate::domain::install::{InstallRule, NameRule, NameTemplateError, PLACEHOLDERS, Users};
use crate::domain::settings::RenewSetting;
use refreshd_token_client::provider::Profile;

/// The keys of `[install]`.
pub(super) const LISTENER_KEYS: [&str; 4] = ["listen", "rate", "source_rate", "source_header"];
/// The keys of `[apps.NAME.install]`.
pub(super) const KEYS: [&str; 5] = ["name", "users", "formats", "renew_every", "path"];

/// Default naming rule.
const DEFAULT_NAMES: &str = "{domain}";
/// The same if each user is a portal.
const DEFAULT_NAMES_PER_USER: &str = "{domain}-{user_id}";

/// Reads `[install]`.
pub(super) fn listener(root: Table<'_>, report: &mut Diagnostics) -> Option<InstallListener> {
    let table = root.table(report, "install", "install")?;
    table.only(report, &[&LISTENER_KEYS]);
    let rate = table.number(report, "rate", 10_000.0).unwrap_or(50.0);
    let source_rate = table
        .number(report, "source_rate", 10_000.0)
        .unwrap_or(25.0);
    let source_header = table.text(report, "source_header").and_then(|text| {
        let name = text.value.parse::<HeaderName>().ok();
        if name.is_none() {
            report.problem(
                text.place,
                "`source_header` must be a header's name such as \"X-Real-IP\"",
            );
        }
        name.map(|name| name.as_str().to_owned())
    });
    let listen = table.required(report, "listen")?;
    let Ok(listen) = listen.value.parse() else {
        report.problem(
            listen.place,
            "`listen` must be an IP address and a port such as \"127.0.0.1:9472\"",
        );
        return None;
    };
    Some(InstallListener {
        listen,
        rate,
        source_rate,
        source_header,
    })
}

/// Reads `[apps.NAME.install]`.
pub(super) fn rule(
    app: Table<'_>,
    profile: Option<&Profile>,
    report: &mut Diagnostics,
) -> Option<InstallRule> {
    let table = app.table(report, "install", "[install]")?;
    table.only(report, &[&KEYS]);
    if let (Some(profile), Some(place)) = (profile, app.place_of("install"))
        && profile.install.check.is_none()
    {
        report.problem(
            place,
            "`install` needs a provider that returns a token's owner (`install_check`)",
        );
    }
    if let (Some(true), Some(place)) = (profile.map(Profile::is_at_domain), app.place_of("install"))
    {
        report.problem(
            place,
            "`install` needs endpoints that are the provider's own: a portal must not choose them",
        );
    }
    let users = choice(table, report, "users").unwrap_or(Users::Installer);
    let names = match table.text(report, "name") {
        Some(text) => naming(text, users, report),
        None => NameRule::parse(if users == Users::Each {
            DEFAULT_NAMES_PER_USER
        } else {
            DEFAULT_NAMES
        })
        .ok(),
    };
    let every = renew_every(table, report);
    if let (Some(every), Some(profile)) = (every, profile) {
        check_age(table, every, profile.assumed_lifetime, report);
    }
    let path = match table.text(report, "path") {
        Some(text) => url_path("path", text, report),
        None => Some(format!("/install/{}", app.name().value)),
    };
    let formats = formats(table, report);
    Some(InstallRule {
        path: path?,
        names: names?,
        users,
        formats,
        renew_every: every.map(RenewSetting::from),
    })
}

fn naming(text: TextValue<'_>, users: Users, report: &mut Diagnostics) -> Option<NameRule> {
    let gaps = PLACEHOLDERS.map(|gap| format!("{{{gap}}}")).join(", ");
    match NameRule::parse(text.value) {
        Ok(names) if users == Users::Each && !names.has("user_id") => {
            report.problem(
                text.place,
                "`name` must hold {user_id} where each user is a portal",
            );
        }
        Ok(names) => return Some(names),
        Err(NameTemplateError::Gap(gap)) => {
            let hint = did_you_mean(&gap, PLACEHOLDERS);
            report.problem(
                text.place,
                format!(
                    "`name` holds a name in braces that nothing fills in{hint} (there are {gaps})"
                ),
            );
        }
        Err(flaw) => report.problem(text.place, format!("`name` {flaw} (there are {gaps})")),
    }
    None
}

/// Checks that every app has a path and names of its own, and that no setting is without effect.
pub(super) fn check(
    root: Table<'_>,
    tables: &[Table<'_>],
    apps: &BTreeMap<String, App>,
    report: &mut Diagnostics,
) {
    let installs: Vec<_> = tables
        .iter()
        .filter_map(|table| Some((table.name(), table.place_of("install")?)))
        .collect();
    match (root.place_of("install"), installs.is_empty()) {
        (Some(place), true) => {
            report.warning(
                place,
                "no app has an install rule: write [apps.NAME.install] for one",
            );
        }
        (None, false) => {
            for (_, place) in &installs {
                report.warning(
                    *place,
                    "`install` does nothing without [install] in the main file",
                );
            }
        }
        _ => {}
    }
    let mut paths: HashMap<&str, SourceLocation<'_>> = HashMap::new();
    let mut names: HashMap<String, SourceLocation<'_>> = HashMap::new();
    for (app, place) in &installs {
        let Some(rule) = apps.get(app.value).and_then(|app| app.install.as_ref()) else {
            continue;
        };
        if let Some(first) = paths.insert(&rule.path, *place) {
            report.problem(
                *place,
                format!("the `path` of this `install` is also that of the one at {first}"),
            );
        }
        if let Some(first) = names.insert(rule.names.of_app(app.value), *place) {
            let message = format!(
                "portals are named as by the `install` at {first}: where both apps are, the second one's portal is \
                 named by its member_id; put {{app}} into `name`"
            );
            report.warning(*place, message);
        }
    }
}
