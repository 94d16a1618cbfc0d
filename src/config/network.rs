//! `[network]`, and the same keys of apps and channels: how their servers are reached.
//!
//! Must not show the address of a proxy, which may hold a user and a password.

use std::env::VarError;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use reqwest::header::HeaderValue;
use secrecy::ExposeSecret as _;

use super::environment::Environment;
use super::problem::did_you_mean;
use super::regular_file::{self, FileReadError};
use super::secrets::{FoundSecret, PROXY, named_file};
use super::source::{Diagnostics, FileUse};
use super::table::Table;
use refreshd_http::{Authorities, DirectHosts, Network, NetworkSettings, Proxy, direct_host};

/// Connects directly.
const NONE: &str = "none";
/// Uses the proxy of the environment.
const ENVIRONMENT: &str = "environment";
/// Variables with a proxy, in order of precedence.
const PROXY_VARIABLES: [&str; 4] = ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"];
/// Variables with the hosts that are connected to directly.
const NO_PROXY_VARIABLES: [&str; 2] = ["no_proxy", "NO_PROXY"];
/// Maximum size of a bundle of certificates: those of a system have 250 KiB.
const MAX_BUNDLE_BYTES: u64 = 4 << 20;
/// Maximum length of a user agent.
const MAX_USER_AGENT: usize = 256;

/// Key that apps and channels have besides those of the proxy.
pub(super) const CA_FILE: &str = "ca_file";

/// The networks of a configuration. Equal ones are one.
pub(super) struct Networks {
    global: Arc<Network>,
    made: Vec<Arc<Network>>,
}

impl Networks {
    /// Reads `[network]`.
    pub(super) fn read(
        root: Table<'_>,
        environment: &Environment,
        report: &mut Diagnostics,
    ) -> Self {
        let table = root.table(report, "network", "network");
        let global = match table {
            Some(table) => global(table, environment, report),
            None => NetworkSettings::default(),
        };
        let given = table.is_some_and(|table| PROXY.all.iter().any(|key| table.has(key)));
        if let (Some((name, _)), false) = (of_environment(environment), given) {
            report.warning(
                table.unwrap_or(root).place,
                format!(
                    "{name} is set in the environment and not used: write `proxy = \"{ENVIRONMENT}\"` in [network] to use \
                     it, or `proxy = \"{NONE}\"` to suppress this warning"
                ),
            );
        }
        Self {
            global: Arc::new(global.into()),
            made: Vec::new(),
        }
    }

    /// The network of `[network]`.
    pub(super) fn global(&self) -> Arc<Network> {
        Arc::clone(&self.global)
    }

    /// The network of an app or a channel, whose own keys override `[network]`.
    pub(super) fn of(
        &mut self,
        table: Table<'_>,
        environment: &Environment,
        report: &mut Diagnostics,
    ) -> Arc<Network> {
        let global = self.global.settings();
        let proxy = match setting(table, environment, report) {
            None => global.proxy.clone(),
            Some(Setting::Direct) => None,
            Some(Setting::Proxy(proxy)) => Some(proxy),
            Some(Setting::Environment) => {
                let (key, place) = PROXY.given(table);
                report.problem(
                    place,
                    format!("`{key} = \"{ENVIRONMENT}\"` belongs in [network]"),
                );
                None
            }
        };
        let authorities = authorities(table, environment, report);
        let own = NetworkSettings {
            proxy,
            direct: Arc::clone(&global.direct),
            authorities: authorities.unwrap_or_else(|| global.authorities.clone()),
            user_agent: global.user_agent.clone(),
        };
        let mut known = std::iter::once(&self.global).chain(&self.made);
        if let Some(known) = known.find(|known| *known.settings() == own) {
            return Arc::clone(known);
        }
        let network = Arc::new(Network::from(own));
        self.made.push(Arc::clone(&network));
        network
    }
}

/// Value of a proxy's keys.
enum Setting {
    Direct,
    Environment,
    Proxy(Arc<Proxy>),
}

fn global(
    table: Table<'_>,
    environment: &Environment,
    report: &mut Diagnostics,
) -> NetworkSettings {
    table.only(report, &[&PROXY.all, &[CA_FILE, "no_proxy", "user_agent"]]);
    let mut direct = no_proxy(table, report);
    let proxy = match setting(table, environment, report) {
        None | Some(Setting::Direct) => None,
        Some(Setting::Proxy(proxy)) => Some(proxy),
        Some(Setting::Environment) => {
            direct.extend(no_proxy_of_environment(table, environment, report));
            proxy_of_environment(table, environment, report)
        }
    };
    let usual = NetworkSettings::default();
    NetworkSettings {
        proxy,
        direct: Arc::new(DirectHosts::new(direct)),
        authorities: authorities(table, environment, report).unwrap_or_default(),
        user_agent: user_agent(table, report).unwrap_or(usual.user_agent),
    }
}

/// `None` if there is no such key, or if it is not usable, which is reported.
fn setting(
    table: Table<'_>,
    environment: &Environment,
    report: &mut Diagnostics,
) -> Option<Setting> {
    let secret = match PROXY.read(table, environment, report) {
        FoundSecret::Nothing | FoundSecret::Faulty => return None,
        FoundSecret::Secret(secret) => secret,
    };
    let text = secret.expose_secret().trim();
    if text == NONE {
        return Some(Setting::Direct);
    }
    if text == ENVIRONMENT {
        return Some(Setting::Environment);
    }
    match Proxy::parse(text) {
        Ok(proxy) => Some(Setting::Proxy(Arc::new(proxy))),
        Err(error) => {
            let (key, place) = PROXY.given(table);
            let hint = if text.contains([':', '/']) {
                String::new()
            } else {
                did_you_mean(text, [NONE, ENVIRONMENT])
            };
            report.problem(place, format!("the address in `{key}` {error}{hint}"));
            None
        }
    }
}

/// The first variable with a proxy, and its value; empty if it is not UTF-8.
fn of_environment(environment: &Environment) -> Option<(&'static str, String)> {
    variable(environment, &PROXY_VARIABLES)
}

fn variable(environment: &Environment, names: &[&'static str]) -> Option<(&'static str, String)> {
    names
        .iter()
        .find_map(|name| match environment.variable(name) {
            Ok(value) if value.trim().is_empty() => None,
            Ok(value) => Some((*name, value)),
            Err(VarError::NotPresent) => None,
            Err(VarError::NotUnicode(_)) => Some((*name, String::new())),
        })
}

fn proxy_of_environment(
    table: Table<'_>,
    environment: &Environment,
    report: &mut Diagnostics,
) -> Option<Arc<Proxy>> {
    let (_, place) = PROXY.given(table);
    let Some((name, value)) = of_environment(environment) else {
        report.warning(
            place,
            format!(
                "`proxy = \"{ENVIRONMENT}\"`, and the environment names no proxy ({}): connections are direct",
                PROXY_VARIABLES.join(", ")
            ),
        );
        return None;
    };
    // Other programs accept a host with a port.
    let value = value.trim();
    let address = if value.contains("://") {
        value.to_owned()
    } else {
        format!("http://{value}")
    };
    match Proxy::parse(&address) {
        Ok(proxy) => Some(Arc::new(proxy)),
        Err(error) => {
            report.problem(place, format!("the address in the variable {name} {error}"));
            None
        }
    }
}

fn no_proxy(table: Table<'_>, report: &mut Diagnostics) -> Vec<String> {
    let mut hosts = Vec::new();
    for text in table.texts(report, "no_proxy", true).unwrap_or_default() {
        match direct_host(text.value) {
            Ok(host) => hosts.push(host),
            Err(error) => report.problem(text.place, format!("`no_proxy` {error}")),
        }
    }
    hosts
}

/// Omits invalid entries with a warning: other programs ignore them.
fn no_proxy_of_environment(
    table: Table<'_>,
    environment: &Environment,
    report: &mut Diagnostics,
) -> Vec<String> {
    let Some((name, value)) = variable(environment, &NO_PROXY_VARIABLES) else {
        return Vec::new();
    };
    let mut hosts = Vec::new();
    for entry in value
        .split(',')
        .map(str::trim)
        .filter(|entry| !entry.is_empty())
    {
        match direct_host(entry) {
            Ok(host) => hosts.push(host),
            Err(error) => {
                let (_, place) = PROXY.given(table);
                let message = format!("an entry of the variable {name} is not used: it {error}");
                report.warning(place, message);
            }
        }
    }
    hosts
}

fn authorities(
    table: Table<'_>,
    environment: &Environment,
    report: &mut Diagnostics,
) -> Option<Authorities> {
    let text = table.text(report, CA_FILE)?;
    let named = named_file(table, text);
    report.uses(text.place, FileUse::Authorities, &named.path);
    let named_problem = |reason: &str| format!("`{CA_FILE}`: {} {reason}", named.name);
    let (pem, about) = match regular_file::read(&named.path, MAX_BUNDLE_BYTES) {
        Ok(read) => read,
        Err(why) => {
            let kind = match &why {
                FileReadError::Refused(error) => Some(error.kind()),
                FileReadError::NotRegular | FileReadError::TooLarge(_) => None,
            };
            let is_denied = kind == Some(ErrorKind::PermissionDenied);
            let is_missing = is_denied || kind == Some(ErrorKind::NotFound);
            let hint = if is_denied {
                "; the user that the daemon runs as must be able to read it"
            } else {
                ""
            };
            let message = named_problem(&format!("{}{hint}", why.reason()));
            // No secret, but a file of the machine that the daemon runs on.
            if is_missing && environment.lists_missing() {
                report.unchecked(text.place, message);
            } else {
                report.problem(text.place, message);
            }
            return None;
        }
    };
    match Authorities::from_pem(&pem) {
        Ok(authorities) => {
            let mode = about.permissions().mode() & 0o7777;
            if mode & 0o002 != 0 {
                let message = format!(
                    "`{CA_FILE}`: every user can write {} (mode {mode:04o}), and so read what is sent: chmod o-w it",
                    named.name
                );
                report.warning(text.place, message);
            }
            Some(authorities)
        }
        Err(error) => {
            report.problem(text.place, named_problem(&error.to_string()));
            None
        }
    }
}

fn user_agent(table: Table<'_>, report: &mut Diagnostics) -> Option<HeaderValue> {
    let text = table.text(report, "user_agent")?;
    let value = text.value.trim();
    let printable = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
    let fits = value.len() <= MAX_USER_AGENT && value.bytes().all(printable);
    let header = HeaderValue::from_str(value).ok().filter(|_| fits);
    if header.is_none() {
        let message =
            format!("`user_agent` must be printable ASCII of at most {MAX_USER_AGENT} characters");
        report.problem(text.place, message);
    }
    header
}
