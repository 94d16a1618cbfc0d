//! The configuration as the program works with it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::secrets::SecretSource;
use crate::domain::budget::Limits;
use crate::domain::completeness::Included;
use crate::domain::escalation::Step;
use crate::domain::install::{InstallRule, InstallTerms};
use crate::domain::name::PortalName;
use crate::domain::portal::binding;
use crate::domain::settings::Settings;
use refreshd_alerting::channel::Channel;
use refreshd_secrets::{ClientSecret, Fingerprint};
use refreshd_token_client::provider::{DOMAIN, Profile, at_domain};
use refreshd_token_client::request::RequestBuilder;

/// A configuration without problems.
#[derive(Debug, Clone)]
pub struct Config {
    /// The main file.
    pub source: PathBuf,
    /// The patterns of `include`, and what they found.
    pub includes: Vec<Included>,
    /// Where things lie.
    pub paths: Paths,
    /// What is logged, and how.
    pub log: LogConfig,
    /// Where metrics, health and the status page are served; `None`: nowhere.
    pub http: Option<HttpConfig>,
    /// Where portals tell of installed apps; `None`: nowhere.
    pub install: Option<InstallListener>,
    /// How renewals are sent.
    pub renewal: RenewalConfig,
    /// What all alerts have in common.
    pub alerts: AlertsConfig,
    /// The providers of its own, and those built-in ones that an app names.
    pub profiles: BTreeMap<String, Arc<Profile>>,
    /// The OAuth clients by name. A portal with a client of its own has one named `portal NAME`.
    pub apps: BTreeMap<String, App>,
    /// The portals, in the order of their names. The daemon moves them into the state and keeps none.
    pub portals: Vec<PortalConfig>,
    /// The escalation steps in force.
    pub ladder: Vec<Step>,
    /// The alert channels, in the order of their names.
    pub channels: Vec<Channel>,
}

impl Config {
    /// The apps whose installs are taken in.
    pub fn installing(&self) -> impl Iterator<Item = &str> {
        self.apps
            .values()
            .filter(|app| app.install.is_some())
            .map(|app| app.name.as_str())
    }

    /// Whether it names a portal, or an app whose installs make some. To be asked before the portals are moved.
    #[must_use]
    pub fn names_portals(&self) -> bool {
        !self.portals.is_empty() || self.installing().next().is_some()
    }
}

/// Where things lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// The SQLite database.
    pub state: PathBuf,
    /// The directory of the token files.
    pub token_dir: PathBuf,
    /// The control socket.
    pub control_socket: PathBuf,
}

/// What is logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// A level, or directives as of `RUST_LOG`.
    pub level: String,
    /// In which form.
    pub format: LogFormat,
}

/// The forms of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// The journal under systemd, text elsewhere.
    Auto,
    /// Lines for people.
    Text,
    /// An object a line.
    Json,
    /// The journal's own protocol.
    Journald,
}

/// The listener for metrics, health and the status page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpConfig {
    /// Its address.
    pub listen: SocketAddr,
    /// Names that the `Host` of a request may have, besides addresses, `localhost` and this machine's own name.
    pub hosts: Vec<String>,
    /// Series per portal are exported up to this many portals.
    pub per_portal_metrics_limit: usize,
}

/// The listener that portals tell of installed apps. The paths are the apps' own.
#[derive(Debug, Clone, PartialEq)]
pub struct InstallListener {
    /// Its address.
    pub listen: SocketAddr,
    /// Notices taken in per second.
    pub rate: f64,
    /// The same of one sender.
    pub source_rate: f64,
    /// The header in which the proxy in front says who the sender is; `None`: it does not.
    pub source_header: Option<String>,
}

/// How renewals are sent.
#[derive(Debug, Clone, PartialEq)]
pub struct RenewalConfig {
    /// What each authorization server gets.
    pub limits: Limits,
    /// How long one token request may take.
    pub timeout: Duration,
}

/// What all alerts have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlertsConfig {
    /// Names this refreshd among others, in every message and key: the host's name unless the configuration says another.
    pub instance: String,
    /// Where people can open the status page.
    pub url: Option<String>,
    /// So many incidents of one cause become one.
    pub group_threshold: u64,
    /// How often every channel is sent a test; `None`: never.
    pub self_test: Option<Duration>,
}

/// An OAuth client at a provider.
#[derive(Debug, Clone)]
pub struct App {
    /// Its name.
    pub name: String,
    /// The provider's profile with this app's overrides; apps without any share the provider's.
    pub profile: Arc<Profile>,
    /// RFC 6749 section 2.2.
    pub client_id: String,
    /// `None` for a public client.
    pub client_secret: Option<ClientSecret>,
    /// Where the secret can be read again, if it may be another by then.
    pub secret_source: Option<SecretSource>,
    /// Where browsers are sent, for portals that say nothing else.
    pub redirect_uri: Option<String>,
    /// What its portals ask for, unless they say something else.
    pub scope: Vec<String>,
    /// The hosts of its portals, where the provider's endpoints are there; else none.
    pub domains: BTreeSet<String>,
    /// What becomes of portals that install it; `None`: they are not taken in.
    pub install: Option<InstallRule>,
}

impl App {
    /// Which grants this client may spend, for a portal of this host.
    #[must_use]
    pub fn binding(&self, domain: Option<&str>) -> Fingerprint {
        binding(&self.profile.authority(domain), &self.client_id)
    }

    /// Every endpoint that its renewals may go to.
    #[must_use]
    pub fn renewal_urls(&self) -> BTreeSet<String> {
        let at_each = |url: &str| -> Vec<String> {
            match url.contains(DOMAIN) {
                true => self
                    .domains
                    .iter()
                    .map(|domain| at_domain(url, Some(domain)))
                    .collect(),
                false => vec![url.to_owned()],
            }
        };
        self.profile.renewal_urls().flat_map(at_each).collect()
    }

    /// Asks in this client's name for a portal.
    #[must_use]
    pub fn asker<'a>(
        &'a self,
        settings: Option<&'a Settings>,
        fields: &'a BTreeMap<String, serde_json::Value>,
        random: &'a str,
    ) -> RequestBuilder<'a> {
        RequestBuilder {
            profile: &self.profile,
            client_id: &self.client_id,
            client_secret: self.client_secret.as_ref(),
            domain: settings.and_then(|settings| settings.domain.as_deref()),
            redirect_uri: settings
                .and_then(|settings| settings.redirect_uri.as_deref())
                .or(self.redirect_uri.as_deref()),
            scope: settings
                .map(|settings| settings.scope.as_slice())
                .filter(|scope| !scope.is_empty())
                .unwrap_or(&self.scope),
            fields,
            random,
        }
    }

    /// What the state needs to know to keep its installs, if they are taken in.
    #[must_use]
    pub fn install_terms(&self) -> Option<InstallTerms> {
        let (app, profile) = (self.name.clone(), Arc::clone(&self.profile));
        let terms = |rule: &InstallRule| InstallTerms {
            app,
            rule: rule.clone(),
            profile,
            binding: self.binding(None),
        };
        self.install.as_ref().map(terms)
    }
}

/// A portal of the configuration.
#[derive(Debug, Clone)]
pub struct PortalConfig {
    /// Its name.
    pub name: PortalName,
    /// What the state keeps of it.
    pub settings: Settings,
    /// Chooses the authorization server, where a provider has several.
    pub region: Option<String>,
}

impl PortalConfig {
    /// Where its renewals go; empty until the metadata of its authorization server is known.
    #[must_use]
    pub fn renewal_url(&self, app: &App) -> String {
        app.profile
            .renewal_url_for(self.region.as_deref(), self.settings.domain.as_deref())
    }
}
