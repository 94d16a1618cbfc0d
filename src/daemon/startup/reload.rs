//! Puts a new configuration in force, or keeps the old one and reports why. Must not affect a renewal under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::adapters::log::LogHandle;
use crate::adapters::state::{StateError, Unnamed};
use crate::adapters::systemd;
use crate::config::{Config, ConfigErrors, Loaded};
use crate::daemon::configured::{app_fingerprints, configured_portals};
use crate::daemon::context::Context;
use crate::daemon::startup::bootstrap;
use crate::daemon::startup::incomplete;
use crate::daemon::startup::metadata_discovery::discover;
use crate::daemon::startup::rollback;
use crate::domain::error_chain::error_chain;
use tokio::task::JoinSet;

/// Time limit of reading: a million portals take seconds.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// Interval of the check, while reading, whether the daemon is to stop.
const STOP_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Function that reads the configuration.
pub type ReadConfig = Arc<dyn Fn() -> Result<Loaded, ConfigErrors> + Send + Sync>;

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
    /// Every problem, one per line, as it was logged.
    pub async fn reload(&self, shared: &Context) -> Result<(), String> {
        let _turn = self.one_at_a_time.lock().await;
        systemd::reloading();
        let done = self.try_reload(shared).await;
        shared.metrics.reloaded(done.is_ok());
        match &done {
            Ok(()) => systemd::ready("reloaded"),
            Err(problems) => {
                tracing::error!(%problems, "the configuration was not reloaded; the old one stays in force");
                systemd::ready(
                    "the last reload failed, the old configuration is in force; see the log",
                );
            }
        }
        done
    }

    async fn try_reload(&self, shared: &Context) -> Result<(), String> {
        let Loaded {
            mut config,
            warnings,
            damaged,
        } = self.read_files(shared).await?;
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        for damaged in damaged {
            tracing::error!("{damaged}");
        }
        let before = shared.config();
        keep_what_needs_a_restart(&before, &mut config);
        let ladder_changed = before.ladder != config.ladder;
        let undiscovered = discover(&mut config, &shared.state, &shared.server, shared.clock).await;
        let missing = incomplete::missing_in(&config, &shared.state)
            .await
            .map_err(|error| error_chain(&error))?;
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
                    incomplete::refusal(missing, living)
                }
                _ => error_chain(&error),
            })?;
        if let Err(error) = rollback::check_new_portals(shared, &config).await {
            // Each first token is checked again before it is sent.
            tracing::error!(error = %error_chain(&error), "it is not known whether new portals had a grant before");
        }
        let found = (missing.as_ref(), config.includes.as_slice());
        if let Err(error) = incomplete::apply(&shared.state, &shared.conditions, found, now).await {
            tracing::error!(error = %error_chain(&error), "what was included is not noted");
        }
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
        Ok(())
    }
}

impl Reloader {
    /// Reads on a blocking thread: the files may lie on a disk that hangs.
    async fn read_files(&self, shared: &Context) -> Result<Loaded, String> {
        if self.inline {
            return (self.read)().map_err(|problems| problems.to_string());
        }
        let Some(busy) = Busy::begin(&self.reading) else {
            return Err(
                "its files are still being read since an earlier reload; does their disk hang?"
                    .to_owned(),
            );
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
                Some(Some(Ok(read))) => return read.map_err(|problems| problems.to_string()),
                Some(_) => return Err("it could not be read, by a bug; see the log".to_owned()),
                None if shared.health.is_stopping() => {
                    return Err("refreshd is stopping".to_owned());
                }
                None if shared.clock.elapsed(began) >= READ_TIMEOUT => {
                    let seconds = READ_TIMEOUT.as_secs();
                    return Err(format!(
                        "its files were not read within {seconds} s; does their disk hang?"
                    ));
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
fn keep_what_needs_a_restart(before: &Config, new: &mut Config) {
    if before.paths != new.paths {
        tracing::warn!(
            "state, token_dir and control_socket change only with a restart; the old ones stay in force"
        );
        new.paths = before.paths.clone();
    }
    let listen = |config: &Config| config.http.as_ref().map(|http| http.listen);
    if listen(before) != listen(new) {
        tracing::warn!("[http] listen changes only with a restart; the old one stays in force");
        new.http = before.http.clone();
    }
    let listen = |config: &Config| config.install.as_ref().map(|install| install.listen);
    if listen(before) != listen(new) {
        tracing::warn!("[install] listen changes only with a restart; the old one stays in force");
        new.install = before.install.clone();
    }
    if before.log.format != new.log.format {
        tracing::warn!("[log] format changes only with a restart");
    }
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
