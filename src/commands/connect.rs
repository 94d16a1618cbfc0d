//! Connects to the API: of the running daemon over its socket, or in this process if no daemon runs.
//!
//! Must not start a daemon, nor fall back to the state when a daemon is there but refuses.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use tokio::net::UnixStream;

use super::client::Client;
use super::common::Common;
use super::exit::{CommandError, Exit};
use super::terminal;
use crate::adapters::directory::{Trust, parent};
use crate::adapters::log;
use crate::adapters::state::StateError;
use crate::config::{self, Config, Environment, Loaded, Paths};
use crate::daemon::{BindError, InProcess, RunError, has_first_grants};
use crate::domain::error_chain::error_chain;

/// Connects to the daemon, or opens the state.
pub(super) async fn connect(common: &Common) -> Result<Client, CommandError> {
    match daemon_or_configuration(common).await? {
        Reached::Daemon(client) => Ok(client),
        Reached::Configuration(config) => open(*config).await,
    }
}

/// As [`connect`], for commands that need an existing state: none is created.
pub(super) async fn connect_to_state(common: &Common) -> Result<Client, CommandError> {
    connect_if(common, Exit::NoInput, |_| false).await
}

/// As [`connect`], for commands that need a grant: no state is created if the configuration brings none.
pub(super) async fn connect_to_grants(common: &Common) -> Result<Client, CommandError> {
    connect_if(common, Exit::TryAgain, has_first_grants).await
}

/// Connects to the daemon, or reads the state: nothing is locked, created or changed.
pub(super) async fn connect_to_read(common: &Common) -> Result<Client, CommandError> {
    match daemon_or_configuration(common).await? {
        Reached::Daemon(client) => Ok(client),
        Reached::Configuration(config) => read_state(common, config).await,
    }
}

/// As [`connect_to_read`], for commands that need an existing state.
pub(super) async fn connect_to_read_state(common: &Common) -> Result<Client, CommandError> {
    match daemon_or_configuration(common).await? {
        Reached::Daemon(client) => Ok(client),
        Reached::Configuration(config) if config.paths.state.exists() => {
            read_state(common, config).await
        }
        Reached::Configuration(config) => Err(no_state(&config, Exit::NoInput)),
    }
}

async fn read_state(common: &Common, config: Box<Config>) -> Result<Client, CommandError> {
    let _ = log::start_for_command("warn");
    let socket = config.paths.control_socket.clone();
    match InProcess::open_read_only(*config).await {
        Ok(api) => Ok(Client::in_process(api)),
        // A daemon was about to start.
        Err(error) => match daemon(common).await? {
            Some(client) => Ok(client),
            None => Err(cannot_open(&error, &socket)),
        },
    }
}

/// As [`connect`], but a state is created only if the configuration allows it.
async fn connect_if(
    common: &Common,
    without: Exit,
    is_made: impl FnOnce(&Config) -> bool,
) -> Result<Client, CommandError> {
    let config = match daemon_or_configuration(common).await? {
        Reached::Daemon(client) => return Ok(client),
        Reached::Configuration(config) => config,
    };
    if !config.paths.state.exists() && !is_made(&config) {
        return Err(no_state(&config, without));
    }
    open(*config).await
}

fn no_state(config: &Config, exit: Exit) -> CommandError {
    let what = format!(
        "there is no state at {}: refreshd has not run with this configuration, and no grant was imported; for the first \
         grant: refreshd authorize PORTAL, or refreshd import PORTAL",
        config.paths.state.display()
    );
    CommandError::new(exit, what)
}

/// The API to use.
enum Reached {
    /// The running daemon's.
    Daemon(Client),
    /// This process's, with this configuration.
    Configuration(Box<Config>),
}

async fn daemon_or_configuration(common: &Common) -> Result<Reached, CommandError> {
    if let Some(client) = daemon(common).await? {
        return Ok(Reached::Daemon(client));
    }
    if let Some(socket) = &common.socket {
        return Err(no_listener(socket));
    }
    Ok(Reached::Configuration(Box::new(load(common)?)))
}

async fn open(config: Config) -> Result<Client, CommandError> {
    // A daemon would log these warnings; here the user must see them. The command works without a log as well.
    let _ = log::start_for_command("warn");
    let socket = config.paths.control_socket.clone();
    let api = InProcess::open(config)
        .await
        .map_err(|error| cannot_open(&error, &socket))?;
    Ok(Client::in_process(api))
}

fn no_listener(socket: &Path) -> CommandError {
    CommandError::new(
        Exit::Unavailable,
        format!("no daemon listens on {}", socket.display()),
    )
}

/// The running daemon, if there is one.
pub(super) async fn daemon(common: &Common) -> Result<Option<Client>, CommandError> {
    let paths = config::load_paths(&common.config);
    let Some(socket) = common
        .socket
        .as_ref()
        .or(paths.as_ref().map(|paths| &paths.control_socket))
    else {
        return Ok(None);
    };
    match UnixStream::connect(socket).await {
        Ok(connection) => {
            trust(common, paths.as_ref(), socket, &connection)?;
            let pid = connection.peer_cred().ok().and_then(|peer| peer.pid());
            Client::new(socket, pid).map(Some)
        }
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            let message = format!(
                "you may not use the control socket {}; try it with sudo",
                socket.display()
            );
            Err(CommandError::new(Exit::NoPermission, message))
        }
        Err(_) => Ok(None),
    }
}

/// The daemon of this configuration, though its file may name another control socket than the daemon has: that of the default
/// file also listens where the default is.
pub(super) async fn daemon_of_file(common: &Common) -> Result<Option<Client>, CommandError> {
    if let Some(client) = daemon(common).await? {
        return Ok(Some(client));
    }
    if common.socket.is_some() || common.config != Path::new(config::DEFAULT_PATH) {
        return Ok(None);
    }
    let there = Common {
        socket: Some(Paths::default().control_socket),
        ..common.clone()
    };
    daemon(&there).await
}

/// Why there is no daemon to ask: the state's lock shows one that listens elsewhere, or is starting or stopping.
pub(super) async fn no_daemon(common: &Common, config: Config) -> CommandError {
    let socket = match &common.socket {
        Some(socket) => return no_listener(socket),
        None => config.paths.control_socket.clone(),
    };
    match InProcess::open_read_only(config).await {
        Err(error @ RunError::State(StateError::Locked { .. })) => cannot_open(&error, &socket),
        opened => {
            if let Ok(copy) = opened {
                copy.close().await;
            }
            let message = format!(
                "no daemon runs: nobody listens on {}; start it with systemctl start refreshd, or refreshd run",
                socket.display()
            );
            CommandError::new(Exit::Unavailable, message)
        }
    }
}

/// Returns whether the listening process may receive a grant: it must belong to root, this user, or the owner of the configuration or
/// the state. The owner of the socket's directory proves nothing: it may be any user. It counts only for users who can read
/// no configuration and are not root.
fn trust(
    common: &Common,
    paths: Option<&Paths>,
    socket: &Path,
    connection: &UnixStream,
) -> Result<(), CommandError> {
    let Ok(listener) = connection.peer_cred().map(|peer| peer.uid()) else {
        return Ok(());
    };
    let known = Trust::by_configuration(&common.config);
    let known = match paths {
        Some(paths) => known.and_owner_of(&paths.state),
        None => known,
    };
    let is_blind = paths.is_none() && !rustix::process::geteuid().is_root();
    if known.holds(listener) || is_blind && is_private_to(listener, parent(socket)) {
        return Ok(());
    }
    let message = format!(
        "the process that listens on the control socket {} belongs to user {listener}, neither to root nor to the owner \
         of the configuration {} or of its state; nothing was sent to it: look who made that socket (ss -xlp), or name the \
         configuration of the daemon (--config)",
        socket.display(),
        common.config.display()
    );
    Err(CommandError::new(Exit::NoPermission, message))
}

/// Returns whether only root and this user can create a socket there.
fn is_private_to(user: u32, directory: &Path) -> bool {
    let found = std::fs::metadata(directory);
    found.is_ok_and(|found| found.permissions().mode() & 0o002 == 0 && found.uid() == user)
}

/// Loads the configuration, or reports all its problems.
pub(super) fn load(common: &Common) -> Result<Config, CommandError> {
    let Loaded {
        config,
        warnings,
        damaged,
        ..
    } = config::load(&common.config, &Environment::of_process())
        .map_err(|problems| CommandError::new(Exit::Configuration, in_configuration(&problems)))?;
    for warning in warnings.iter().chain(&damaged) {
        terminal::eprintln(&format!("{warning}"));
    }
    Ok(config)
}

/// The problems of a configuration, one a line.
pub(super) fn in_configuration(problems: &config::ConfigErrors) -> String {
    let count = problems.0.len();
    let noun = if count == 1 { "problem" } else { "problems" };
    format!("{count} {noun} in the configuration\n{problems}")
}

/// Error if the daemon or the state cannot be opened.
pub(super) fn cannot_run(error: &RunError) -> CommandError {
    let exit = match error {
        RunError::State(StateError::Locked { .. }) => Exit::Unavailable,
        RunError::State(
            StateError::Newer { .. }
            | StateError::NotOurs { .. }
            | StateError::Damaged { .. }
            | StateError::Directory(_)
            | StateError::Trap { .. },
        )
        | RunError::TokenDirectory(_)
        | RunError::Control(BindError::Directory(_)) => Exit::Configuration,
        RunError::State(StateError::Denied { .. }) => Exit::NoPermission,
        RunError::State(StateError::File { source, .. }) if is_denied(source) => Exit::NoPermission,
        RunError::State(_)
        | RunError::Tls(_)
        | RunError::Control(_)
        | RunError::Http(_)
        | RunError::Signals(_)
        | RunError::TaskEnded(_)
        | RunError::StopTimedOut(_) => Exit::Unavailable,
    };
    CommandError::new(exit, error_chain(error))
}

/// The same if there is no daemon at the control socket either.
fn cannot_open(error: &RunError, socket: &Path) -> CommandError {
    match error {
        RunError::State(StateError::Locked {
            path,
            holder: Some(pid),
            is_brief: false,
        }) => {
            let message = format!(
                "the state {} is in use by another refreshd (process {pid}), but nothing answers on the control socket {}: it is \
                 starting or stopping, its configuration names another socket (--socket PATH), or the socket was removed, and is \
                 made anew within seconds; try again in a moment",
                path.display(),
                socket.display()
            );
            CommandError::new(Exit::Unavailable, message)
        }
        _ => cannot_run(error),
    }
}

fn is_denied(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::PermissionDenied
}
