//! Apps and portals.
//!
//! Must not keep a refresh token: it only checks that its file can be used.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::configuration::{App, PortalConfig};
use super::damage::{Alphabet, damage};
use super::environment::Environment;
use super::install;
use super::network::{CA_FILE, Networks};
use super::problem::{did_you_mean, shown};
use super::provider::{self, Profiles, apply};
use super::secrets::{CLIENT_SECRET, FoundSecret, PROXY, first_token_file};
use super::source::{Diagnostics, SourceLocation};
use super::table::Table;
use super::values::{check_age, formats, host, plain_name, renew_every, url};
use crate::domain::name::PortalName;
use crate::domain::settings::{OWN_APP, RenewSetting, Settings};
use refreshd_secrets::ClientSecret;
use refreshd_token_client::host::region_of;
use refreshd_token_client::provider::{ClientAuthentication, Profile};

/// Keys of a client, of an app or a portal.
const CLIENT_KEYS: [&str; 2] = ["provider", "client_id"];
/// Keys of an authorization, of an app or a portal.
const AUTHORIZATION_KEYS: [&str; 2] = ["redirect_uri", "scope"];
/// Keys of a portal besides those of its client.
const PORTAL_KEYS: [&str; 9] = [
    "app",
    "domain",
    "scope",
    "renew_every",
    "refresh_token_file",
    "formats",
    "region",
    "member_id",
    "redirect_uri",
];
/// The apps by name; `None` for an invalid one, so that a reference to it is no second problem.
struct Apps<'d>(
    BTreeMap<String, Option<App>>,
    BTreeMap<&'d str, SourceLocation<'d>>,
);

/// Reads both sections.
pub(super) fn read(
    (apps, portals): (&[Table<'_>], &[Table<'_>]),
    profiles: &Profiles,
    (environment, networks): (&Environment, &mut Networks),
    report: &mut Diagnostics,
) -> (BTreeMap<String, App>, Vec<PortalConfig>) {
    let mut known = Apps(BTreeMap::new(), BTreeMap::new());
    for table in apps {
        let name = table.name();
        table.only(
            report,
            &[
                &CLIENT_KEYS,
                &AUTHORIZATION_KEYS,
                &CLIENT_SECRET.all,
                &PROXY.all,
                &provider::KEY_NAMES,
                &["install", CA_FILE],
            ],
        );
        let surroundings = (environment, &mut *networks);
        let mut client = client(
            *table,
            name.value.to_owned(),
            profiles,
            surroundings,
            report,
        );
        let install = install::rule(
            *table,
            client.as_ref().map(|client| &*client.profile),
            report,
        );
        if let Some(client) = &mut client {
            client.install = install;
        }
        if plain_name(report, "the app", name) {
            known.0.insert(name.value.to_owned(), client);
            if !table.has("install") {
                known.1.insert(name.value, table.place);
            }
        }
    }
    let mut configured = Vec::with_capacity(portals.len());
    let mut lower = HashMap::with_capacity(portals.len());
    for table in portals {
        let name = table.name();
        if let Some(first) = lower.insert(name.value.to_lowercase(), name.place) {
            let message = format!(
                "the name {} differs only by case from the one at {first}",
                shown(name.value)
            );
            report.problem(name.place, message);
        }
        if let Some(portal) = portal(
            *table,
            &mut known,
            profiles,
            (environment, &mut *networks),
            report,
        ) {
            configured.push(portal);
        }
    }
    for (name, place) in &known.1 {
        report.warning(*place, format!("no portal uses the app {}", shown(name)));
    }
    configured.sort_by(|one, other| one.name.cmp(&other.name));
    let apps = known
        .0
        .into_iter()
        .filter_map(|(name, app)| Some((name, app?)))
        .collect();
    (apps, configured)
}

/// Reads a client: provider, id, secret and overrides.
fn client(
    table: Table<'_>,
    name: String,
    profiles: &Profiles,
    (environment, networks): (&Environment, &mut Networks),
    report: &mut Diagnostics,
) -> Option<App> {
    let network = networks.of(table, environment, report);
    let provider = table.required(report, "provider");
    let client_id = table.required(report, "client_id");
    let known = provider.and_then(|provider| {
        let known = profiles.get(provider.value);
        if known.is_none() {
            let hint = did_you_mean(provider.value, profiles.keys().map(String::as_str));
            report.unresolved(
                provider.place,
                format!("unknown provider {}{hint}", shown(provider.value)),
            );
        }
        known.and_then(Option::as_ref)
    });
    let Some(mut profile) = known.cloned() else {
        CLIENT_SECRET.read(table, environment, report);
        return None;
    };
    // Thousands of portals with a client of their own must not have a profile each.
    if provider::KEY_NAMES.iter().any(|key| table.has(key)) {
        apply(table, Arc::make_mut(&mut profile), report);
    }
    let public = profile.client_authentication == ClientAuthentication::None;
    let secret = if public {
        CLIENT_SECRET.read(table, environment, report)
    } else {
        CLIENT_SECRET.require(table, environment, report)
    };
    let id = client_id.as_ref().map(|id| id.value);
    if let (FoundSecret::Secret(secret), Some(id)) = (&secret, id) {
        let secret: &str = secrecy::ExposeSecret::expose_secret(secret);
        let what = match secret.trim().strip_prefix(id) {
            Some("") => Some("is the client_id once more"),
            Some(rest) if rest.starts_with(':') => Some(
                "begins with the client_id and a colon: write what stands behind the colon alone",
            ),
            _ => None,
        };
        if let Some(what) = what {
            let (key, place) = CLIENT_SECRET.given(table);
            report.damaged(place, format!("`{key}`: the secret {what}"));
        }
    }
    if let Some(id) = &client_id
        && let Some(what) = client_id_damage(id.value)
    {
        report.damaged(id.place, format!("`client_id` {what}"));
    }
    let client_secret = match secret {
        FoundSecret::Secret(secret) => Some(ClientSecret::new(
            secrecy::ExposeSecret::expose_secret(&secret),
        )?),
        FoundSecret::Nothing => None,
        FoundSecret::Faulty => return None,
    };
    if public && client_secret.is_some() {
        report.warning(
            table.place,
            "the client secret is not sent with `client_authentication = \"none\"`",
        );
    }
    // For a portal with a client of its own they are the portal's.
    let (redirect_uri, scope) = if name.starts_with(OWN_APP) {
        (None, Vec::new())
    } else {
        authorization(table, report)
    };
    Some(App {
        name,
        profile,
        client_id: client_id?.value.to_owned(),
        client_secret,
        secret_source: CLIENT_SECRET.source(table, environment),
        network,
        redirect_uri,
        scope,
        domains: BTreeSet::new(),
        install: None,
    })
}

/// What is damaged about a client identifier, after its name.
#[must_use]
pub fn client_id_damage(id: &str) -> Option<String> {
    if id.trim() != id {
        return Some("has white space around it, which would be sent with it".to_owned());
    }
    damage(id, Alphabet::Any).map(|found| found.what.replace("secret", "client_id"))
}

fn portal<'d>(
    table: Table<'d>,
    apps: &mut Apps<'_>,
    profiles: &Profiles,
    (environment, networks): (&Environment, &mut Networks),
    report: &mut Diagnostics,
) -> Option<PortalConfig> {
    table.only(
        report,
        &[
            &PORTAL_KEYS,
            &CLIENT_KEYS,
            &CLIENT_SECRET.all,
            &PROXY.all,
            &provider::KEY_NAMES,
            &[CA_FILE],
        ],
    );
    let name = match PortalName::parse(table.name().value) {
        Ok(name) => Some(name),
        Err(error) => {
            report.problem(
                table.place,
                format!("the portal needs another name: {error}"),
            );
            None
        }
    };
    let app = app_of(table, apps, profiles, (environment, networks), report);
    let client = app
        .as_ref()
        .and_then(|app| apps.0.get_mut(app))
        .and_then(Option::as_mut);
    let own = own(
        table,
        client.as_ref().map(|client| &*client.profile),
        environment,
        report,
    );
    let client = client?;
    if client.profile.is_at_domain() {
        match &own.settings.domain {
            Some(domain) => drop(client.domains.insert(domain.clone())),
            None => report.missing(
                table.place,
                format!("`domain` is missing {table}: the provider's endpoints are on the portal's own host"),
            ),
        }
    }
    Some(PortalConfig {
        name: name?,
        region: own.region,
        settings: Settings {
            app: app?,
            ..own.settings
        },
    })
}

/// Name of the portal's app. A portal's own client becomes an app.
fn app_of(
    table: Table<'_>,
    apps: &mut Apps<'_>,
    profiles: &Profiles,
    surroundings: (&Environment, &mut Networks),
    report: &mut Diagnostics,
) -> Option<String> {
    let of_client = |key: &str| {
        key != "renew_every"
            && (CLIENT_KEYS.contains(&key)
                || CLIENT_SECRET.all.contains(&key)
                || PROXY.all.contains(&key)
                || key == CA_FILE
                || provider::KEY_NAMES.contains(&key))
    };
    if !table.has("app") {
        if !table.has("provider") {
            let message = format!(
                "`app` is missing {table}: name an app, or write `provider`, `client_id` and a secret"
            );
            report.missing(table.place, message);
            return None;
        }
        let name = format!("{OWN_APP}{}", table.name().value);
        let client = client(table, name.clone(), profiles, surroundings, report);
        apps.0.insert(name.clone(), client);
        return Some(name);
    }
    for key in table.keys().filter(|key| of_client(key.value)) {
        report.problem(
            key.place,
            format!(
                "`{}` and `app` exclude each other {table}; write it on the app",
                key.value
            ),
        );
    }
    let app = table.text(report, "app")?;
    // A portal's own client cannot be used by others; its name has a space, which no configured one has.
    if !app.value.contains(' ') && apps.0.contains_key(app.value) {
        apps.1.remove(app.value);
        return Some(app.value.to_owned());
    }
    let names = apps
        .0
        .keys()
        .map(String::as_str)
        .filter(|name| !name.contains(' '));
    let hint = did_you_mean(app.value, names);
    report.unresolved(app.place, format!("unknown app {}{hint}", shown(app.value)));
    None
}

/// Settings of a portal itself.
struct Own {
    settings: Settings,
    region: Option<String>,
}

fn own(
    table: Table<'_>,
    profile: Option<&Profile>,
    environment: &Environment,
    report: &mut Diagnostics,
) -> Own {
    let domain = table
        .text(report, "domain")
        .and_then(|text| host(report, "domain", text));
    let domain = domain.or_else(|| {
        profile?
            .default_domain
            .clone()
            .filter(|_| !table.has("domain"))
    });
    let region = table.text(report, "region").and_then(|text| {
        let plain = text
            .value
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '-');
        if !plain {
            report.problem(text.place, "`region` must be a word such as \"ru\"");
        }
        plain.then(|| text.value.to_lowercase())
    });
    let region = region.or_else(|| region_of(domain.as_deref()?).map(str::to_owned));
    // With its own client the key was already read and checked as the profile's.
    let every = if table.has("app") {
        renew_every(table, report)
    } else {
        None
    };
    if let (Some(every), Some(profile)) = (every, profile) {
        check_age(table, every, profile.assumed_lifetime, report);
    }
    let identity = table.text(report, "member_id").map(|text| {
        if profile.is_some_and(|profile| profile.identity_field.is_none()) {
            report.problem(
                text.place,
                "`member_id` cannot be checked: the provider has no `identity` field",
            );
        }
        text.value.to_owned()
    });
    let (redirect_uri, scope) = authorization(table, report);
    let refresh_token_file = table
        .text(report, "refresh_token_file")
        .and_then(|text| first_token_file(table, "refresh_token_file", text, environment, report));
    let settings = Settings {
        app: String::new(),
        domain,
        renew_every: every.map(RenewSetting::from),
        formats: formats(table, report),
        identity,
        redirect_uri,
        scope,
        refresh_token_file,
    };
    Own { settings, region }
}

/// Keys of an authorization: redirect URI and scope.
fn authorization(table: Table<'_>, report: &mut Diagnostics) -> (Option<String>, Vec<String>) {
    // Authorization servers compare it byte by byte, so it stays as written.
    let redirect_uri = table
        .text(report, "redirect_uri")
        .filter(|text| url(report, "redirect_uri", *text, false).is_some())
        .map(|text| text.value.to_owned());
    let scope = table.texts(report, "scope", false).unwrap_or_default();
    (
        redirect_uri,
        scope.iter().map(|text| text.value.to_owned()).collect(),
    )
}
