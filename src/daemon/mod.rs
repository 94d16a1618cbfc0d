//! The running daemon: assembles the parts, and is the only place that spawns tasks, into one `JoinSet`.
//!
//! A task that ends unexpectedly ends the daemon with a reason. Stopping is an argument. Must not print nor exit: the
//! commands do.

pub mod alerts;
mod api;
mod configured;
mod context;
mod error;
pub mod grants;
mod health;
mod http;
mod install;
mod log_limits;
mod readiness;
mod renewal;
mod startup;
mod status_line;
mod summary;
mod waiters;

use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

pub use api::error::ErrorCode;
pub use api::health::HealthView;
pub use api::in_process::InProcess;
pub use api::socket::BindError;
pub use error::RunError;
pub use grants::authorize::Begun;
pub use grants::kept_replies::KeptReplyView;
pub use http::browser_page::BrowserPage;
pub use http::callback::{Callback, CallbackRequest, CallbackResponse, has_state};
pub(crate) use http::descriptors::shortage as descriptor_shortage;
pub use http::listen::ListenError;
pub use startup::bootstrap::has_first_grants;
pub use startup::changes::{ChangedNames, Reloaded};
pub use startup::metadata_discovery::ask_issuers;
pub use startup::reload::ReadConfig;
pub use startup::token_space::token_space_shortage;
pub use waiters::RenewalReport;

use crate::adapters::directory::Trust;
use crate::adapters::log::LogHandle;
use crate::adapters::signals;
use crate::adapters::systemd;
use crate::config::Config;
use api::socket::{self, ControlSocket};
use context::Context;
use grants::kept_replies;
use http::{listen, status_listener};
use renewal::{candidates, client_secret, escalator, scheduler, state_health};
use startup::core::{Backends, Core};
use startup::reload::Reloader;
use startup::{bootstrap, incomplete, metadata_discovery, rollback};
use status_line::status_line;

/// Time limit of stopping, in addition to the timeout of one token request.
const STOP_GRACE: Duration = Duration::from_secs(50);
/// Interval of status updates to systemd while stopping.
const STOP_STEP: Duration = Duration::from_secs(1);
/// Interval of retries for files that could not be written, and of checks for files with first tokens.
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(5);

/// Runs until `stop`, SIGTERM or SIGINT. Requests that were sent are finished first.
///
/// # Errors
/// [`RunError`]: it did not start, a part of it ended, or it could not stop in time.
pub async fn run(
    config: Config,
    read: ReadConfig,
    log: LogHandle,
    stop: CancellationToken,
) -> Result<(), RunError> {
    let timeout = config.renewal.timeout;
    let (paths, own_paths) = (config.paths.clone(), config.paths.clone());
    let listen = config.http.as_ref().map(|http| http.listen);
    let installs = config.install.as_ref().map(|install| install.listen);
    let mut signals = DaemonSignals::listen().map_err(RunError::Signals)?;
    // In a task: otherwise a disk that hangs would block the signals. Nothing is sent before the loops run.
    let mut starting = JoinSet::new();
    let backends = Backends::machine(&config)?;
    // Before anything is opened: with very few descriptors, no later log message may be possible.
    if let Some(shortage) = descriptor_shortage(backends.carry.inherited()) {
        tracing::warn!("{shortage}");
    }
    let trust = Trust::by_configuration(&config.source);
    starting.spawn(async move {
        let core = Core::start(config, backends).await?;
        let socket = ControlSocket::bind(&paths.control_socket, &trust).await?;
        let listener = match listen {
            Some(address) => Some(listen::bind("http", address).await?),
            None => None,
        };
        let install_listener = match installs {
            Some(address) => Some(listen::bind("install", address).await?),
            None => None,
        };
        Ok::<_, RunError>((core, socket, listener, install_listener))
    });
    let started = tokio::select! {
        biased;
        () = signals.stop.asked() => {
            tracing::info!("stopped before it was ready; nothing was sent");
            return Ok(());
        }
        started = starting.join_next() => started,
    };
    let (core, socket, listener, install_listener) = match started {
        Some(Ok(started)) => started?,
        Some(Err(_)) | None => return Err(RunError::TaskEnded("the start")),
    };
    let shared = Arc::clone(&core.shared);
    let reloader = Arc::new(Reloader::new(read, log));
    let limit = timeout + STOP_GRACE;
    let mut tasks = {
        // Boxed: a large future that runs once.
        let mut begin = Box::pin(loops(&shared, &stop, HOUSEKEEPING_INTERVAL));
        let begun = tokio::select! {
            biased;
            () = signals.stop.asked() => {
                // Requests sent so far are finished; nothing else begins.
                stop.cancel();
                shared.clock.within(limit, &mut begin).await
            }
            tasks = &mut begin => Some(tasks),
        };
        begun.ok_or(RunError::StopTimedOut(limit))?
    };
    tasks.spawn(named(
        "the control socket",
        socket::run(
            Arc::clone(&shared),
            Arc::clone(&reloader),
            socket,
            stop.clone(),
        ),
    ));
    if let Some(listener) = install_listener {
        let run = install::run(Arc::clone(&shared), listener, stop.clone());
        tasks.spawn(named("the install listener", run));
    }
    let (mut watched, end) = (JoinSet::new(), CancellationToken::new());
    if let Some(listener) = listener {
        watched.spawn(named(
            "the metrics listener",
            status_listener::run(Arc::clone(&shared), listener, end.clone()),
        ));
    }
    let summary = status_line(&shared).await?;
    systemd::ready(&summary);
    tracing::info!(
        pid = std::process::id(),
        state = %own_paths.state.display(),
        token_dir = %own_paths.token_dir.display(),
        control_socket = %own_paths.control_socket.display(),
        http = listen.map(tracing::field::display),
        install = installs.map(tracing::field::display),
        "refreshd {} is ready: {summary}", env!("CARGO_PKG_VERSION")
    );

    let unexpected = supervise(
        (&mut tasks, &mut watched),
        signals,
        &reloader,
        &shared,
        &stop,
    )
    .await;
    shared.health.stop();
    stop.cancel();
    systemd::stopping("finishing what was sent");
    let drained = drain(&mut tasks, &shared, limit).await;
    let _ = shared
        .clock
        .within(STOP_STEP * 2, summary::log_due(&shared, true))
        .await;
    // The metrics stay available until all tasks have ended.
    end.cancel();
    let _ = shared
        .clock
        .within(STOP_STEP * 2, async {
            while watched.join_next().await.is_some() {}
        })
        .await;
    watched.shutdown().await;
    // The socket's file belongs to the holder of the lock; a leftover would only cost the next command a moment.
    socket::remove(&own_paths.control_socket);
    drop(reloader);
    drop(shared);
    if drained {
        core.close().await;
    }
    match unexpected {
        Some(task) => Err(RunError::TaskEnded(task)),
        None if !drained => Err(RunError::StopTimedOut(limit)),
        None => {
            tracing::info!("refreshd has stopped; every renewal that was sent is recorded");
            Ok(())
        }
    }
}

/// Starts the loops that renew, escalate and maintain, without the listeners.
async fn loops(
    shared: &Arc<Context>,
    stop: &CancellationToken,
    housekeeping_every: Duration,
) -> JoinSet<&'static str> {
    let failing = shared.publisher.sweep().await;
    shared.health.unpublished(failing);
    kept_replies::parse_again(shared).await;
    bootstrap::read_files(shared).await;
    let mut tasks = JoinSet::new();
    tasks.spawn(named(
        "the renewal loop",
        scheduler::run(Arc::clone(shared), stop.clone()),
    ));
    tasks.spawn(named(
        "the prover of candidates",
        candidates::run(Arc::clone(shared), stop.clone()),
    ));
    tasks.spawn(named(
        "the escalator",
        escalator::run(Arc::clone(shared), stop.clone()),
    ));
    tasks.spawn(named(
        "the alerter",
        refreshd_alerting::alerter::run(Arc::clone(shared), stop.clone()),
    ));
    let housekeeping = housekeeping(Arc::clone(shared), stop.clone(), housekeeping_every);
    tasks.spawn(named("the housekeeping", housekeeping));
    tasks
}

async fn named(name: &'static str, task: impl Future<Output = ()>) -> &'static str {
    task.await;
    name
}

/// Waits for a reason to stop; `Some` is a task that should not have ended.
async fn supervise(
    (tasks, watched): (&mut JoinSet<&'static str>, &mut JoinSet<&'static str>),
    mut signals: DaemonSignals,
    reloader: &Arc<Reloader>,
    shared: &Arc<Context>,
    stop: &CancellationToken,
) -> Option<&'static str> {
    // In tasks, since signals must not wait for a file or an issuer. A second reload waits for the first; a third would
    // find no more than the second, so it is not queued.
    let mut reloads = JoinSet::new();
    loop {
        tokio::select! {
            // In this order: a task that ended because of `stop` is expected.
            biased;
            () = stop.cancelled() => return None,
            () = signals.stop.asked() => return None,
            // The reloader logs every problem.
            _ = signals.hangup.recv(), if reloads.len() < 2 => {
                let (reloader, shared) = (Arc::clone(reloader), Arc::clone(shared));
                reloads.spawn(async move { drop(reloader.reload(&shared).await) });
            }
            Some(_) = reloads.join_next() => {}
            ended = tasks.join_next() => return Some(name_of_ended(ended)),
            ended = watched.join_next(), if !watched.is_empty() => return Some(name_of_ended(ended)),
        }
    }
}

fn name_of_ended(ended: Option<Result<&'static str, JoinError>>) -> &'static str {
    match ended {
        Some(Ok(name)) => name,
        Some(Err(error)) => {
            tracing::error!(%error, "a task panicked");
            "a task"
        }
        None => "every task",
    }
}

/// Waits for the tasks within a limit; reports the pending ones once a second.
async fn drain(tasks: &mut JoinSet<&'static str>, shared: &Context, limit: Duration) -> bool {
    let started = shared.clock.tick();
    while !tasks.is_empty() {
        let left = limit.saturating_sub(shared.clock.elapsed(started));
        if left.is_zero() {
            let unsaved = shared.metrics.unsaved();
            let copies = match shared.carry.copies() {
                0 => String::new(),
                copies => format!(
                    "; the service manager was given {copies} copies, and the next start stores those that it has kept"
                ),
            };
            tracing::error!(
                tasks = tasks.len(),
                unsaved,
                "could not stop in time; {unsaved} new pairs are not on disk and end with this process{copies}: for what is lost the \
                 next start sends the refresh tokens again, and names the portals that must be authorized if that fails"
            );
            return false;
        }
        systemd::still_stopping(STOP_STEP * 10);
        if shared.metrics.unsaved() > 0 {
            systemd::status("waiting for the disk: new pairs are not saved yet");
        }
        let _ = shared
            .clock
            .within(left.min(STOP_STEP), tasks.join_next())
            .await;
    }
    true
}

struct DaemonSignals {
    stop: StopSignals,
    hangup: Signal,
}

/// Signals that end the daemon, and those that must not.
struct StopSignals(signals::Signals);

impl DaemonSignals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            stop: StopSignals(signals::Signals::listen()?),
            hangup: signal(SignalKind::hangup())?,
        })
    }
}

impl StopSignals {
    /// Waits for a signal that asks for an end. Reports and ignores signals without a meaning.
    async fn asked(&mut self) {
        loop {
            let received = self.0.next().await;
            let name = &received.name;
            if received.stops {
                return tracing::info!(signal = name, "{name}: stopping");
            }
            tracing::warn!(
                signal = name,
                "{name} has no meaning for refreshd and is ignored; SIGHUP reloads, SIGTERM stops"
            );
        }
    }
}

/// Periodic work besides renewals.
async fn housekeeping(shared: Arc<Context>, stop: CancellationToken, every: Duration) {
    let mut asked = shared.clock.tick();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = shared.clock.sleep(every) => {}
        }
        state_health::watch(&shared).await;
        metadata_discovery::tend(&shared, &mut asked).await;
        let failing = shared.publisher.tend().await;
        shared.health.unpublished(failing);
        bootstrap::read_files(&shared).await;
        client_secret::tend(&shared).await;
        rollback::tend(&shared).await;
        incomplete::tend(&shared).await;
        shared.waiters.tidy();
        shared.proofs.tidy();
        summary::log_due(&shared, false).await;
        systemd::resend_pending();
        if systemd::has_notify_socket()
            && let Ok(summary) = status_line(&shared).await
        {
            systemd::status(&summary);
        }
    }
}

#[cfg(test)]
mod tests;
