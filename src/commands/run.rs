//! `refreshd run`: the daemon in the foreground. Validates first: an invalid configuration is exit 78 and no restart.

use std::panic::resume_unwind;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::common::Common;
use super::connect::{cannot_run, in_configuration};
use super::exit::{CommandError, Exit};
use crate::adapters::log;
use crate::config::{self, ConfigErrors, Environment, Loaded};
use crate::daemon;
use crate::domain::error_chain::error_chain;

pub(super) const HELP: &str = "\
Examples:
  refreshd run
  refreshd run --config refreshd.toml

SIGHUP reloads the configuration. SIGTERM finishes the requests that were sent, and stops.

Exit codes: 0 stopped, 64 usage, 69 the state is in use or cannot be opened, 77 no permission, 78 configuration.";

pub(super) async fn run(common: &Common) -> Result<Exit, CommandError> {
    let read = {
        let path = common.config.clone();
        move || {
            let loaded = config::load(&path, &Environment::of_process())?;
            loaded.config.prepare_tls();
            Ok(loaded)
        }
    };
    // The log format is part of the configuration, so configuration errors go to standard error.
    let Loaded {
        config,
        warnings,
        damaged,
        ..
    } = on_temporary_thread(read.clone())?
        .map_err(|problems| CommandError::new(Exit::Configuration, in_configuration(&problems)))?;
    let (handle, writer) = log::start(config.log.format, &config.log.level)
        .map_err(|error| CommandError::new(Exit::Configuration, error_chain(&error)))?;
    std::thread::Builder::new()
        .name("log".to_owned())
        .spawn(|| writer.run())
        .map_err(|error| no_thread("log's", &error))?;
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    for damaged in &damaged {
        tracing::error!("{damaged}");
    }
    match Box::pin(daemon::run(
        config,
        Arc::new(read),
        handle,
        CancellationToken::new(),
    ))
    .await
    {
        Ok(()) => Ok(Exit::Done),
        Err(error) => {
            tracing::error!(error = %error_chain(&error), "refreshd ends");
            Err(cannot_run(&error))
        }
    }
}

/// Loads on a temporary thread: when a thread ends, the allocator returns the memory of a large configuration, which the main
/// thread never does.
fn on_temporary_thread(
    read: impl Fn() -> Result<Loaded, ConfigErrors> + Send + 'static,
) -> Result<Result<Loaded, ConfigErrors>, CommandError> {
    let reader = std::thread::Builder::new()
        .name("configuration".to_owned())
        .spawn(read);
    let reader = reader.map_err(|error| no_thread("configuration's", &error))?;
    Ok(reader.join().unwrap_or_else(|panic| resume_unwind(panic)))
}

fn no_thread(whose: &str, error: &std::io::Error) -> CommandError {
    let why = format!(
        "cannot start: the {whose} thread could not be made ({error}); raise TasksMax= or ulimit -u"
    );
    CommandError::new(Exit::Unavailable, why)
}
