//! A configuration of the rig, as values that print themselves as TOML. Paths are relative to the rig's directory.

use std::fmt;
use std::time::Duration;

use super::{EVERY, domain};

/// Content of `refreshd.toml`.
#[derive(Clone, Debug)]
pub struct Config {
    /// `include`.
    pub include: Vec<String>,
    /// The metrics listener.
    pub http: String,
    /// `[http] hosts`.
    pub http_hosts: Vec<String>,
    /// `[log] level`.
    pub level: &'static str,
    /// `[renewal] timeout`.
    pub timeout: Duration,
    /// `[renewal] rate`, if it is not the default.
    pub rate: Option<f64>,
    /// The first is `crm`, the client that the fake server knows.
    pub apps: Vec<App>,
    pub portals: Vec<Portal>,
    /// TOML that is appended unchanged: escalation steps, invalid lines.
    pub more: String,
}

/// `[apps.NAME]`.
#[derive(Clone, Debug)]
pub struct App {
    pub name: String,
    pub client_id: String,
    /// A file in the rig's directory.
    pub secret_file: String,
    pub token_url: String,
    pub assumed_lifetime: Duration,
    pub renew_every: Duration,
    /// Further lines of the table.
    pub more: String,
}

/// `[portals.NAME]`.
#[derive(Clone, Debug)]
pub struct Portal {
    pub name: String,
    pub app: String,
    /// Whether `NAME.refresh` in the rig's directory holds its first refresh token.
    pub refresh_token_file: bool,
    /// Further lines of the table.
    pub more: String,
}

impl Config {
    pub fn new(http: String, app: App) -> Self {
        let (apps, timeout) = (vec![app], Duration::from_secs(30));
        Self {
            include: Vec::new(),
            http,
            http_hosts: Vec::new(),
            level: "info,refreshd::renewal=debug",
            timeout,
            rate: None,
            apps,
            portals: Vec::new(),
            more: String::new(),
        }
    }

    /// The app `crm`.
    pub fn app(&mut self) -> &mut App {
        &mut self.apps[0]
    }

    /// The portal of this name, which must be there.
    pub fn portal(&mut self, name: &str) -> &mut Portal {
        let portal = self.portals.iter_mut().find(|portal| portal.name == name);
        portal.unwrap_or_else(|| panic!("the configuration has no portal {name}"))
    }

    /// Removes a portal.
    pub fn remove(&mut self, name: &str) {
        self.portals.retain(|portal| portal.name != name);
    }
}

impl App {
    /// A Bitrix24 client; its secret is in `NAME.secret`.
    pub fn new(name: &str, client_id: &str, token_url: &str, life: Duration) -> Self {
        Self {
            name: name.to_owned(),
            client_id: client_id.to_owned(),
            secret_file: format!("{name}.secret"),
            token_url: token_url.to_owned(),
            assumed_lifetime: life,
            renew_every: EVERY.min(life * 2 / 5),
            more: String::new(),
        }
    }
}

impl Portal {
    pub fn new(name: &str, app: &str) -> Self {
        let (name, app) = (name.to_owned(), app.to_owned());
        Self {
            name,
            app,
            refresh_token_file: false,
            more: String::new(),
        }
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            include,
            http,
            http_hosts,
            level,
            timeout,
            rate,
            apps,
            portals,
            more,
        } = self;
        writeln!(
            f,
            "state = \"state.db\"\ntoken_dir = \"tokens\"\ncontrol_socket = \"control.sock\""
        )?;
        if !include.is_empty() {
            writeln!(f, "include = {include:?}")?;
        }
        writeln!(
            f,
            "[log]\nlevel = \"{level}\"\nformat = \"json\"\n[http]\nlisten = \"{http}\"\nallowed_hosts = {http_hosts:?}"
        )?;
        writeln!(f, "[renewal]\ntimeout = \"{}ms\"", timeout.as_millis())?;
        if let Some(rate) = rate {
            writeln!(f, "rate = {rate}")?;
        }
        apps.iter().try_for_each(|app| write!(f, "{app}"))?;
        portals
            .iter()
            .try_for_each(|portal| write!(f, "{portal}"))?;
        writeln!(f, "{more}")
    }
}

impl fmt::Display for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            client_id,
            secret_file,
            token_url,
            assumed_lifetime,
            renew_every,
            more,
        } = self;
        writeln!(
            f,
            "[apps.{name}]\nprovider = \"bitrix24\"\nclient_id = \"{client_id}\""
        )?;
        writeln!(
            f,
            "client_secret_file = \"{secret_file}\"\ntoken_url = \"{token_url}\""
        )?;
        let (life, every) = (assumed_lifetime.as_millis(), renew_every.as_millis());
        writeln!(
            f,
            "assumed_lifetime = \"{life}ms\"\nrenew_every = \"{every}ms\"\n{more}"
        )
    }
}

impl fmt::Display for Portal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            app,
            refresh_token_file,
            more,
        } = self;
        writeln!(
            f,
            "[portals.{name}]\napp = \"{app}\"\ndomain = \"{}\"",
            domain(name)
        )?;
        if *refresh_token_file {
            writeln!(f, "refresh_token_file = \"{name}.refresh\"")?;
        }
        writeln!(f, "{more}")
    }
}
