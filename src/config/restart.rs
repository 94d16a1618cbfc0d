//! The keys that a reload does not change: paths and listeners are opened once, and the log has one format.
//!
//! Must not be about any other key: what is not listed here is in force after a reload.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::configuration::Config;

/// Value of a key that changes only with a restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartValue {
    /// The key, with its table.
    pub key: String,
    /// Its value.
    pub value: String,
}

/// A key whose new value waits for a restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingRestart {
    /// The key, with its table.
    pub key: String,
    /// The value of the running daemon.
    pub in_force: String,
    /// The value of the file.
    pub configured: String,
}

impl std::fmt::Display for PendingRestart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            key,
            in_force,
            configured,
        } = self;
        write!(
            f,
            "{key} needs a restart: the daemon uses {in_force}, the file has {configured}"
        )
    }
}

/// The keys that change only with a restart, each with its value.
#[must_use]
pub fn restart_values(config: &Config) -> Vec<RestartValue> {
    let address = |listen: Option<SocketAddr>| {
        listen.map_or_else(|| "none".to_owned(), |address| address.to_string())
    };
    let paths = &config.paths;
    let format: &str = config.log.format.into();
    [
        ("state", paths.state.display().to_string()),
        ("token_dir", paths.token_dir.display().to_string()),
        ("control_socket", paths.control_socket.display().to_string()),
        (
            "[http] listen",
            address(config.http.as_ref().map(|http| http.listen)),
        ),
        (
            "[install] listen",
            address(config.install.as_ref().map(|install| install.listen)),
        ),
        ("[log] format", format.to_owned()),
    ]
    .map(|(key, value)| RestartValue {
        key: key.to_owned(),
        value,
    })
    .into()
}

/// The keys of a configuration that wait for a restart of the daemon with these values.
#[must_use]
pub fn pending_restart(in_force: &[RestartValue], config: &Config) -> Vec<PendingRestart> {
    let configured = restart_values(config);
    let waits = |running: &RestartValue| {
        let new = configured.iter().find(|new| new.key == running.key)?;
        (new.value != running.value).then(|| PendingRestart {
            key: running.key.clone(),
            in_force: running.value.clone(),
            configured: new.value.clone(),
        })
    };
    in_force.iter().filter_map(waits).collect()
}
