//! The validated configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::secrets::SecretSource;
use crate::domain::budget::Limits;
use crate::domain::completeness::Included;
use crate::domain::escalation::Step;
use crate::domain::install::{InstallContext, InstallRule};
use crate::domain::log_format::LogFormat;
use crate::domain::name::PortalName;
use crate::domain::portal::binding;
use crate::domain::settings::Settings;
use refreshd_alerting::channel::Channel;
use refreshd_http::Network;
use refreshd_secrets::{ClientSecret, Fingerprint};
use refreshd_token_client::provider::{DOMAIN, Profile, at_domain};
use refreshd_token_client::request::RequestBuilder;

/// A configuration without problems.
#[derive(Debug, Clone)]
pub struct Config {
    /// The main file.
    pub source: PathBuf,
    /// The patterns of `include`, and whether they match files.
    pub includes: Vec<Included>,
    /// Paths.
    pub paths: Paths,
    /// Log settings.
    pub log: LogConfig,
    /// Listener for metrics, health and the status page, if configured.
    pub http: Option<HttpConfig>,
    /// Listener for install events, if configured.
    pub install: Option<InstallListener>,
    /// Renewal settings.
    pub renewal: RenewalConfig,
    /// How servers are reached that have no settings of their own.
    pub network: Arc<Network>,
    /// Settings common to all alerts.
    pub alerts: AlertsConfig,
    /// The configured providers, and the built-in ones that an app uses.
    pub profiles: BTreeMap<String, Arc<Profile>>,
    /// The OAuth clients by name. A portal with its own client has one named `portal NAME`.
    pub apps: BTreeMap<String, App>,
    /// The portals, ordered by name. The daemon moves them into the state and keeps none.
    pub portals: Vec<PortalConfig>,
    /// The escalation steps in force.
    pub ladder: Vec<Step>,
    /// The alert channels, ordered by name.
    pub channels: Vec<Channel>,
}

impl Config {
    /// The apps with an install rule.
    pub fn installing(&self) -> impl Iterator<Item = &str> {
        self.apps
            .values()
            .filter(|app| app.install.is_some())
            .map(|app| app.name.as_str())
    }

    /// Reads the certificate authorities of each network, so that no request waits for their disk. An error is reported again
    /// by the first request.
    pub fn prepare_tls(&self) {
        let of_apps = self.apps.values().map(|app| &app.network);
        let of_channels = self.channels.iter().map(|channel| &channel.network);
        for network in of_apps.chain(of_channels).chain([&self.network]) {
            let _ = network.tls();
        }
    }

    /// Returns whether it has a portal, or an app with an install rule. Must be called before the portals are moved.
    #[must_use]
    pub fn names_portals(&self) -> bool {
        !self.portals.is_empty() || self.installing().next().is_some()
    }
}

/// Paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// The SQLite database.
    pub state: PathBuf,
    /// The directory of the token files.
    pub token_dir: PathBuf,
    /// The control socket.
    pub control_socket: PathBuf,
}

/// Log settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// A level, or directives as in `RUST_LOG`.
    pub level: String,
    /// Output format.
    pub format: LogFormat,
}

/// The listener for metrics, health and the status page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpConfig {
    /// Listening address.
    pub listen: SocketAddr,
    /// Allowed `Host` names, besides addresses, `localhost` and this machine's own name.
    pub hosts: Vec<String>,
    /// Maximum number of portals with metrics series of their own.
    pub per_portal_metrics_limit: usize,
}

/// The listener for install events. The apps have the paths.
#[derive(Debug, Clone, PartialEq)]
pub struct InstallListener {
    /// Listening address.
    pub listen: SocketAddr,
    /// Maximum install events per second.
    pub rate: f64,
    /// The same per sender.
    pub source_rate: f64,
    /// Header in which a proxy names the sender, if any.
    pub source_header: Option<String>,
}

/// Renewal settings.
#[derive(Debug, Clone, PartialEq)]
pub struct RenewalConfig {
    /// Limits per authorization server.
    pub limits: Limits,
    /// Timeout of a token request.
    pub timeout: Duration,
}

/// Settings common to all alerts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlertsConfig {
    /// Identifies this refreshd in every message and key. Default: the host name.
    pub instance: String,
    /// Public address of the status page.
    pub url: Option<String>,
    /// Number of incidents with one cause that are grouped into one.
    pub group_threshold: u64,
    /// Interval of test notifications to every channel, if any.
    pub self_test: Option<Duration>,
}

/// An OAuth client at a provider.
#[derive(Debug, Clone)]
pub struct App {
    /// Its name.
    pub name: String,
    /// The provider's profile with this app's overrides; apps without overrides share the provider's.
    pub profile: Arc<Profile>,
    /// Client identifier (RFC 6749 section 2.2).
    pub client_id: String,
    /// `None` for a public client.
    pub client_secret: Option<ClientSecret>,
    /// Source of the secret, if it can be read again.
    pub secret_source: Option<SecretSource>,
    /// Default redirect URI of its portals.
    pub redirect_uri: Option<String>,
    /// Default scope of its portals.
    pub scope: Vec<String>,
    /// The hosts of its portals, if the provider's endpoints are there; else empty.
    pub domains: BTreeSet<String>,
    /// How its servers are reached.
    pub network: Arc<Network>,
    /// Rule for portals that install it; `None`: their install events are not accepted.
    pub install: Option<InstallRule>,
}

impl App {
    /// The grants that this client may use, for a portal with this host.
    #[must_use]
    pub fn binding(&self, domain: Option<&str>) -> Fingerprint {
        binding(&self.profile.authority(domain), &self.client_id)
    }

    /// All endpoints of its renewals.
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

    /// Request builder of this client for a portal.
    #[must_use]
    pub fn request_builder<'a>(
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

    /// Install settings for the state, if it has an install rule.
    #[must_use]
    pub fn install_context(&self) -> Option<InstallContext> {
        let (app, profile) = (self.name.clone(), Arc::clone(&self.profile));
        let terms = |rule: &InstallRule| InstallContext {
            app,
            rule: rule.clone(),
            profile,
            binding: self.binding(None),
        };
        self.install.as_ref().map(terms)
    }
}

/// A configured portal.
#[derive(Debug, Clone)]
pub struct PortalConfig {
    /// Its name.
    pub name: PortalName,
    /// Settings, stored in the state.
    pub settings: Settings,
    /// Selects the authorization server of a provider with several.
    pub region: Option<String>,
}

impl PortalConfig {
    /// Endpoint of its renewals; empty until the metadata of its authorization server is loaded.
    #[must_use]
    pub fn renewal_url(&self, app: &App) -> String {
        app.profile
            .renewal_url_for(self.region.as_deref(), self.settings.domain.as_deref())
    }
}
