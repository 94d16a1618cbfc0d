//! The arguments that every command has.

use std::path::PathBuf;

use clap::Args;

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub(super) struct Common {
    /// The configuration file.
    #[arg(long, short, global = true, value_name = "FILE", default_value = crate::config::DEFAULT_PATH, env = "REFRESHD_CONFIG")]
    pub(super) config: PathBuf,
    /// The control socket of the daemon to talk to, instead of the configuration's.
    #[arg(long, global = true, value_name = "PATH", env = "REFRESHD_SOCKET")]
    pub(super) socket: Option<PathBuf>,
}
