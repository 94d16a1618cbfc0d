//! The configuration: TOML in, meaning out, every problem at once.
//!
//! `document` reads TOML with positions and collects problems, `table` gives typed values; `include` finds
//! the files; `general`, `provider`, `portals`, `install`, `alerts`, `channels` (with `receivers`, `mail` and `body`) and
//! `escalation` know the keys; `secrets` and `values` what stands behind them. This file is what the program works with. Must not show a source line or a secret's value,
//! nor start anything.

mod alerts;
mod body;
mod channels;
mod document;
mod environment;
mod escalation;
mod general;
mod include;
mod install;
mod load;
mod mail;
mod portals;
mod problem;
mod provider;
mod receivers;
mod secrets;
mod table;
#[cfg(test)]
mod tests;
mod values;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::domain::budget::Limits;
use crate::domain::channel::Channel;
use crate::domain::escalation::Step;
use crate::domain::install::{InstallRule, InstallTerms};
use crate::domain::name::PortalName;
use crate::domain::portal::binding;
use crate::domain::provider::Profile;
use crate::domain::secret::{ClientSecret, Fingerprint};
use crate::domain::settings::Settings;

pub use self::environment::Environment;
pub use self::load::{Loaded, load, load_paths};
pub use self::problem::{Problem, Problems};

/// Where the configuration lies if nobody says.
pub const DEFAULT_PATH: &str = "/etc/refreshd/refreshd.toml";

/// A configuration without problems.
#[derive(Debug)]
pub struct Config {
    /// The main file.
    pub source: PathBuf,
    /// Where things lie.
    pub paths: Paths,
    /// What is logged, and how.
    pub log: Log,
    /// Where metrics, health and the status page are served; `None`: nowhere.
    pub http: Option<Http>,
    /// Where portals tell of installed apps; `None`: nowhere.
    pub install: Option<InstallListener>,
    /// How renewals are sent.
    pub renewal: Renewal,
    /// What all alerts have in common.
    pub alerts: Alerts,
    /// The OAuth clients by name. A portal with a client of its own has one named `portal NAME`.
    pub apps: BTreeMap<String, App>,
    /// The portals, in the order of their names. The daemon moves them into the state and keeps none.
    pub portals: Vec<PortalConfig>,
    /// The escalation steps in force.
    pub ladder: Vec<Step>,
    /// The alert channels, in the order of their names.
    pub channels: Vec<Channel>,
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
pub struct Log {
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
pub struct Http {
    /// Its address.
    pub listen: SocketAddr,
    /// Series per portal are exported up to this many portals.
    pub portal_series: usize,
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
pub struct Renewal {
    /// What each authorization server gets.
    pub limits: Limits,
    /// How long one token request may take.
    pub timeout: Duration,
}

/// What all alerts have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alerts {
    /// Names this refreshd among others, in every message and key: the host's name unless the configuration says another.
    pub instance: String,
    /// Where people can open the status page.
    pub url: Option<String>,
    /// So many incidents of one cause become one.
    pub fold: u64,
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
    /// What becomes of portals that install it; `None`: they are not taken in.
    pub install: Option<InstallRule>,
}

impl App {
    /// Which grants this client may spend.
    #[must_use]
    pub fn binding(&self) -> Fingerprint {
        binding(&self.profile.authority(), &self.client_id)
    }

    /// What the state needs to know to keep its installs, if they are taken in.
    #[must_use]
    pub fn install_terms(&self) -> Option<InstallTerms> {
        let (app, profile) = (self.name.clone(), Arc::clone(&self.profile));
        let terms =
            |rule: &InstallRule| InstallTerms { app, rule: rule.clone(), profile, binding: self.binding() };
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
    /// The token endpoint for its region.
    pub token_url: String,
    /// Which grants may be spent for it.
    pub binding: Fingerprint,
}
