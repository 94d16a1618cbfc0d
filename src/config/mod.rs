//! Reads the configuration: TOML files to validated types, every problem at once.
//!
//! `source` parses TOML with positions and collects problems, `table` returns typed values; `include` finds the files;
//! `general`, `network`, `provider`, `portals`, `install`, `alerts`, `channels` (with `receivers`, `mail` and `webhook_template`) and
//! `escalation` know the keys; `secrets` and `values` parse their values. `configuration` has the resulting types. Must not
//! show a source line or a secret's value, nor start anything.

mod alerts;
mod channels;
mod configuration;
mod damage;
mod demand;
mod environment;
mod escalation;
mod general;
mod include;
mod install;
mod load;
mod mail;
mod network;
mod portals;
mod problem;
mod provider;
mod receivers;
mod regular_file;
mod renamed;
mod restart;
mod secrets;
mod source;
mod table;
#[cfg(test)]
mod tests;
mod values;
mod webhook_template;

use refreshd_token_client::provider::Profile;

pub use self::configuration::{
    AlertsConfig, App, Config, HttpConfig, InstallListener, LogConfig, Paths, PortalConfig,
    RenewalConfig,
};
pub use self::environment::{CredentialSource, Environment};
pub use self::load::{Loaded, built_in_profile, load, load_paths, load_text};
pub use self::problem::{ConfigError, ConfigErrors, ConfigFinding, FindingSeverity};
pub use self::restart::{PendingRestart, RestartValue, pending_restart, restart_values};
pub use self::secrets::{ReloadedSecret, SecretSource, client_secret_damage};
pub use self::source::{FileUse, UsedFile};
pub use self::values::is_loopback_host;

pub use self::portals::client_id_damage;

/// The names of the built-in providers.
pub fn built_in_providers() -> impl Iterator<Item = &'static str> {
    provider::built_in()
}

/// A profile as a table of `[providers.NAME]`.
#[must_use]
pub fn profile_as_toml(profile: &Profile) -> String {
    provider::written(profile)
}

/// The keys of a profile as a table `[providers.NAME]` of examples with comments.
#[must_use]
pub fn annotated_provider(name: &str) -> String {
    provider::annotated_toml(name)
}

/// The keys of a profile as a table in Markdown.
#[must_use]
pub fn provider_keys_markdown() -> String {
    provider::markdown()
}

/// Default path of the configuration.
pub const DEFAULT_PATH: &str = "/etc/refreshd/refreshd.toml";
