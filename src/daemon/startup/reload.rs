//! Puts a new configuration in force, or keeps the old one and reports why. Must not affect a renewal under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::adapters::log::LogHandle;
use crate::adapters::state::{StateError, Unnamed};
use crate::adapters::systemd;
use crate::config::{
    Config, ConfigErrors, ConfigFinding, FindingSeverity, Loaded, PendingRestart, pending_restart,
    restart_values,
};
use crate::daemon::configured::{app_fingerprints, configured_portals};
use crate::daemon::context::Context;
use crate::daemon::startup::bootstrap;
use crate::daemon::startup::changes::{self, Listed, Reloaded};
use crate::daemon::startup::incomplete;
use crate::daemon::startup::metadata_discovery::discover;
use crate::daemon::startup::rollback;
use crate::daemon::startup::token_space::token_space_shortage;
use crate::daemon::status_line::{OLD_CONFIGURATION, status_line};
use crate::domain::error_chain::error_chain;
use tokio::task::JoinSet;

/// Time limit of reading: a million portals take seconds.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// Interval of the check, while reading, whether the daemon is to stop.
const STOP_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Function that reads the configuration.
pub type ReadConfig = Arc<dyn Fn() -> Result<Loaded, ConfigErrors> + Send + Sync>;

/// Why the old configuration stays in force.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The files have problems.
    #[error(transparent)]
    Configuration(#[from] ConfigErrors),
    /// The configuration may not be all there.
    #[error("{0}")]
    Incomplete(String),
    /// An earlier reload still reads.
    #[error("its files are still being read since an earlier reload; does their disk hang?")]
    Busy,
    /// The files were not read within this number of seconds.
    #[error("its files were not read within {0} s; does their disk hang?")]
    NotRead(u64),
    /// The daemon stops.
    #[error("refreshd is stopping")]
    Stopping,
    /// An error of the state.
    #[error(transparent)]
    State(#[from] StateError),
    /// The reader ended by a bug.
    #[error("it could not be read, by a bug; see the log")]
    Bug,
}

/// Reloads the configuration.
pub struct Reloader {
    read: Arc<dyn Fn() -> Result<Loaded, ConfigErrors> + Send + Sync>,
    /// Set while the configuration is read: a reader that hangs on its disk is not joined by others.
    reading: Arc<AtomicBool>,
    /// Whether the configuration is read on the caller's thread.
    inline: bool,
    log: LogHandle,
    one_at_a_time: tokio::sync::Mutex<()>,
}

impl Reloader {
    /// A reloader that reads the same files as before.
    #[must_use]
    pub fn new(read: ReadConfig, log: LogHandle) -> Self {
        Self {
            read,
            reading: Arc::default(),
            inline: false,
            log,
            one_at_a_time: tokio::sync::Mutex::new(()),
        }
    }

    /// A reloader that reads on the caller's thread: for a simulation, where the order of steps must not depend on threads.
    #[cfg(test)]
    pub(crate) fn inline(read: ReadConfig, log: LogHandle) -> Self {
        Self {
            inline: true,
            ..Self::new(read, log)
        }
    }

    /// Reads the configuration, checks it and puts it in force. The old one stays if the new one has any problem.
    ///
    /// # Errors
    /// [`ReloadError`], as it was logged.
    pub async fn reload(&self, shared: &Context) -> Result<Reloaded, ReloadError> {
        let _turn = self.one_at_a_time.lock().await;
        systemd::reloading();
        let done = self.try_reload(shared).await;
        shared.metrics.reloaded(done.is_ok());
        shared.health.old_configuration(done.is_err());
        if let Err(problems) = &done {
            let problems = error_chain(problems);
            tracing::error!(%problems, "the configuration was not reloaded; the old one stays in force");
        }
        let status = status_line(shared).await;
        systemd::ready(&status.unwrap_or_else(|_| match &done {
            Ok(_) => "reloaded".to_owned(),
            Err(_) => format!("refreshd runs{OLD_CONFIGURATION}"),
        }));
        done
    }

    async fn try_reload(&self, shared: &Context) -> Result<Reloaded, ReloadError> {
        let Loaded {
            mut config,
            warnings,
            damaged,
            ..
        } = self.read_files(shared).await?;
        for warning in &warnings {
            tracing::warn!("{warning}");
        }
        for damaged in &damaged {
            tracing::error!("{damaged}");
        }
        let found = |severity| move |problem| ConfigFinding::at(severity, problem);
        let mut findings: Vec<_> = damaged
            .iter()
            .map(found(FindingSeverity::Error))
            .chain(warnings.iter().map(found(FindingSeverity::Warning)))
            .collect();
        let before = shared.config();
        let restart = keep_what_needs_a_restart(&before, &mut config);
        let apps_changed = changes::apps(&before, &config);
        let ladder_changed = before.ladder != config.ladder;
        let undiscovered = discover(
            &mut config,
            &shared.state,
            shared.any_server(),
            shared.clock,
        )
        .await;
        let missing = incomplete::missing_in(&config, &shared.state).await?;
        if let Some(shortage) = token_space_shortage(&config) {
            tracing::warn!("{shortage}");
            findings.push(ConfigFinding::of_machine(
                FindingSeverity::Warning,
                shortage,
            ));
        }
        let listed = Listed::now(&shared.state, &before).await;
        let portals = configured_portals(&mut config);
        let apps = app_fingerprints(&config);
        let count = portals.len();
        let now = shared.clock.now();
        let unnamed = match &missing {
            Some(_) => Unnamed::Refused,
            None => Unnamed::Go,
        };
        let done = shared
            .state
            .reconcile_with(portals, apps, unnamed, now)
            .await
            .map_err(|error| match (&error, &missing) {
                (StateError::Unnamed { living }, Some(missing)) => {
                    ReloadError::Incomplete(incomplete::refusal(missing, living))
                }
                _ => ReloadError::State(error),
            })?;
        if let Err(error) = rollback::check_new_portals(shared, &config).await {
            // Each first token is checked again before it is sent.
            tracing::error!(error = %error_chain(&error), "it is not known whether new portals had a grant before");
        }
        let found = (missing.as_ref(), config.includes.as_slice());
        if let Err(error) = incomplete::apply(&shared.state, &shared.conditions, found, now).await {
            tracing::error!(error = %error_chain(&error), "what was included is not noted");
        }
        let [added, changed, dropped] =
            changes::portals(&listed, &Listed::now(&shared.state, &config).await, &done);
        let source = config.source.clone();
        let providers: Vec<_> = config
            .apps
            .values()
            .map(|app| app.profile.name.clone())
            .collect();
        shared.metrics.init_providers(&providers);
        shared
            .metrics
            .init_channels(config.channels.iter().map(|channel| channel.name.as_str()));
        shared.metrics.init_installs(config.installing());
        self.log.set_level(&config.log.level);
        shared.set_config(Arc::new(config));
        shared.set_undiscovered(undiscovered);
        if ladder_changed && let Err(error) = shared.state.reschedule_escalations(true).await {
            tracing::error!(error = %error_chain(&error), "the new escalation steps hold from each portal's next renewal on");
        }
        let failing = shared.publisher.sweep().await;
        shared.health.unpublished(failing);
        bootstrap::read_files(shared).await;
        shared.due.notify_one();
        shared.escalation_wake.notify_one();
        shared.outboxes.retry_now();
        tracing::info!(
            portals = count,
            added = done.added,
            changed = done.changed,
            dropped = done.dropped,
            "the configuration was reloaded"
        );
        Ok(Reloaded {
            config: source,
            portals: count,
            added,
            changed,
            dropped,
            apps: apps_changed,
            restart,
            findings,
        })
    }
}

impl Reloader {
    /// Reads on a blocking thread: the files may lie on a disk that hangs.
    async fn read_files(&self, shared: &Context) -> Result<Loaded, ReloadError> {
        if self.inline {
            return Ok((self.read)()?);
        }
        let Some(busy) = Busy::begin(&self.reading) else {
            return Err(ReloadError::Busy);
        };
        let read = Arc::clone(&self.read);
        let mut reading = JoinSet::new();
        reading.spawn_blocking(move || {
            let _busy = busy;
            read()
        });
        let began = shared.clock.tick();
        loop {
            match shared
                .clock
                .within(STOP_CHECK_INTERVAL, reading.join_next())
                .await
            {
                Some(Some(Ok(read))) => return Ok(read?),
                Some(_) => return Err(ReloadError::Bug),
                None if shared.health.is_stopping() => return Err(ReloadError::Stopping),
                None if shared.clock.elapsed(began) >= READ_TIMEOUT => {
                    return Err(ReloadError::NotRead(READ_TIMEOUT.as_secs()));
                }
                None => {}
            }
        }
    }
}

/// Guard that is set while the files are read, and reset however that ends.
struct Busy(Arc<AtomicBool>);

impl Busy {
    /// `None` if another reload reads.
    fn begin(reading: &Arc<AtomicBool>) -> Option<Self> {
        let was_free = !reading.swap(true, Ordering::Relaxed);
        was_free.then(|| Self(Arc::clone(reading)))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Paths and listeners are opened once. A change of them is logged, not applied in part.
fn keep_what_needs_a_restart(before: &Config, new: &mut Config) -> Vec<PendingRestart> {
    let pending = pending_restart(&restart_values(before), new);
    for key in &pending {
        tracing::warn!("{key}");
    }
    new.paths = before.paths.clone();
    let listen = |config: &Config| config.http.as_ref().map(|http| http.listen);
    if listen(before) != listen(new) {
        new.http = before.http.clone();
    }
    let listen = |config: &Config| config.install.as_ref().map(|install| install.listen);
    if listen(before) != listen(new) {
        new.install = before.install.clone();
    }
    new.log.format = before.log.format;
    pending
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_reads_at_a_time_and_however_it_ends_another_may_read() {
        let reading = Arc::default();
        let first = Busy::begin(&reading);
        assert!(first.is_some() && Busy::begin(&reading).is_none());
        drop(first);
        let busy = Busy::begin(&reading);
        let reader = std::panic::AssertUnwindSafe(move || {
            let _busy = busy;
            panic!("the reader has a bug");
        });
        assert!(std::panic::catch_unwind(reader).is_err());
        assert!(Busy::begin(&reading).is_some());
    }
}
