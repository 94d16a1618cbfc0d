//! Components shared by the daemon and by commands: the state, the publisher, the HTTP client of authorization servers.
//! Opened here, in this order.
//!
//! Must not renew anything: the loop, or a command, does.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use crate::adapters::directory::Trust;
use crate::adapters::generations::Generations;
use crate::adapters::metrics::Metrics;
use crate::adapters::state::{
    Disk, Lock, ReadConnection, ReaderThread, State, StateError, Tenure, Unnamed, WriterThread,
    close_to_others, lock_as,
};
use crate::adapters::token_files::TokenFiles;
use crate::config::Config;
use crate::daemon::alerts::{Conditions, StateReader};
use crate::daemon::configured::{app_fingerprints, configured_portals};
use crate::daemon::context::{Context, ContextParts};
use crate::daemon::error::RunError;
use crate::daemon::renewal::candidates;
use crate::daemon::renewal::carry::Carry;
use crate::daemon::renewal::file_failures::FileFailures;
use crate::daemon::renewal::file_writers::FileWriters;
use crate::daemon::renewal::generation_notes::GenerationNotes;
use crate::daemon::renewal::inherited;
use crate::daemon::renewal::publisher::{PublisherThread, publisher};
use crate::daemon::startup::incomplete;
use crate::daemon::startup::metadata_discovery::discover;
use crate::daemon::startup::recovery;
use crate::daemon::startup::rollback::{self, Traces};
use crate::daemon::startup::token_space::token_space_shortage;
use refreshd_alerting::channels::Notifier;
use refreshd_time::clock::Clock;
use refreshd_token_client::authorization_server::AuthorizationServer;

/// Timeout for the lock while a command holds it: the command may await a server's response.
const COMMAND_LOCK_TIMEOUT: Duration = Duration::from_secs(15);
/// Timeout for the lock while any other process holds it.
const UNKNOWN_LOCK_TIMEOUT: Duration = Duration::from_millis(500);
/// Interval of attempts to lock.
const LOCK_RETRY_AFTER: Duration = Duration::from_millis(50);

/// External dependencies: the machine's own, or a simulation's.
pub(crate) struct Backends {
    pub(crate) clock: Clock,
    pub(crate) server: AuthorizationServer,
    /// `None`: created from the configuration.
    pub(crate) notifier: Option<Notifier>,
    pub(crate) executor: Executor,
    pub(crate) carry: Carry,
}

/// Executor of blocking work: reading and writing the state and the token files.
pub(crate) enum Executor {
    /// A thread for each.
    Threads,
    /// Tasks, on a simulated disk: all of the daemon runs in one thread then, and takes the same steps in the same order
    /// every time.
    #[cfg_attr(not(test), expect(dead_code, reason = "the simulation's"))]
    Tasks(Arc<dyn Disk>),
}

impl Backends {
    /// This machine.
    pub(crate) fn machine(config: &Config) -> Result<Self, RunError> {
        // Makes exceeding the limit of the file size an error, like a full disk, instead of a fatal signal in the middle of
        // a renewal.
        let file_size = SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw());
        drop(signal(file_size).map_err(RunError::Signals)?);
        let server =
            AuthorizationServer::new(Arc::clone(&config.network)).map_err(RunError::Tls)?;
        let carry = Carry::of_process();
        Ok(Self {
            clock: Clock::system(),
            server,
            notifier: None,
            executor: Executor::Threads,
            carry,
        })
    }
}

/// Components shared by the daemon and by commands: state, publisher, HTTP client.
pub(crate) struct Core {
    pub(crate) shared: Arc<Context>,
    workers: JoinSet<()>,
    /// Threads whose calls may hang: not joined at the end.
    _publisher_threads: JoinSet<()>,
}

impl Core {
    /// Opens the state for the lifetime of this process, and reconciles it with the configuration.
    pub(crate) async fn start(config: Config, backends: Backends) -> Result<Self, RunError> {
        Self::start_as(Tenure::Lasting, config, backends).await
    }

    /// As [`Self::start`], for the given tenure.
    pub(crate) async fn start_as(
        tenure: Tenure,
        mut config: Config,
        backends: Backends,
    ) -> Result<Self, RunError> {
        let Backends {
            clock,
            server,
            notifier,
            executor,
            carry,
        } = backends;
        // A service manager does not restart a command that works without a daemon.
        let carry = if tenure == Tenure::Lasting {
            carry
        } else {
            Carry::nowhere()
        };
        let notifier = match notifier {
            Some(notifier) => notifier,
            None => notifier_of(&config)?,
        };
        let trust = trusted(&config, tenure);
        let files = TokenFiles::new(&config.paths.token_dir, trust.clone());
        files.check().map_err(RunError::TokenDirectory)?;
        let lock = wait_for_lock(&config.paths.state, tenure, &trust, clock).await?;
        for (file, mode) in close_to_others(&config.paths.state, &lock) {
            tracing::warn!(
                "{} was open to other users (mode {mode:04o}), who may have copied refresh tokens; now it is its owner's alone",
                file.display()
            );
        }
        let (state, writer, reader) = State::open(&config.paths.state, lock)?;
        let view = ReadConnection::open(&config.paths.state)?.of(&state);
        let conditions = Arc::new(Conditions::default());
        let on_damage = Arc::clone(&conditions);
        state.on_damage(move |error| on_damage.reads(StateReader::Others, Err(error)));
        let mut workers = JoinSet::new();
        executor.start_state(&mut workers, writer, reader);
        let undiscovered = discover(&mut config, &state, &server, clock).await;
        let missing = incomplete::missing_in(&config, &state).await?;
        if let (Tenure::Lasting, Some(shortage)) = (tenure, token_space_shortage(&config)) {
            tracing::warn!("{shortage}");
        }
        let portals = configured_portals(&mut config);
        let unnamed = match &missing {
            Some(_) => Unnamed::Kept,
            None => Unnamed::Go,
        };
        state
            .reconcile_with(portals, app_fingerprints(&config), unnamed, clock.now())
            .await?;
        let found = (missing.as_ref(), config.includes.as_slice());
        incomplete::apply(&state, &conditions, found, clock.now()).await?;
        let Traces {
            generations,
            has_orphans,
        } = rollback::quarantine_rolled_back(&state, &files, &config, &conditions, clock.now())
            .await?;
        for (portal, foreign) in files.foreign() {
            if state.portal(portal.clone()).await?.is_some() {
                tracing::warn!(%portal, "{foreign}");
            }
        }
        let mut publisher_threads = JoinSet::new();
        let (files, generations) =
            executor.start_file_writers(&mut publisher_threads, files, generations, clock);
        let (publisher, publishing) = {
            let unpublished = FileFailures::new(clock, Arc::clone(&conditions));
            publisher(
                view,
                files,
                generations,
                unpublished,
                Arc::clone(&conditions),
            )
        };
        let providers: Vec<_> = config
            .apps
            .values()
            .map(|app| app.profile.name.clone())
            .collect();
        let metrics = Metrics::new(&providers);
        metrics.init_channels(config.channels.iter().map(|channel| channel.name.as_str()));
        metrics.init_installs(config.installing());
        let parts = ContextParts {
            clock,
            state,
            server,
            notifier,
            publisher,
            carry,
            conditions,
            has_orphaned_traces: has_orphans,
        };
        let shared = Arc::new(Context::new(parts, metrics, Arc::new(config)));
        shared.set_undiscovered(undiscovered);
        executor.publish(&mut workers, publishing, provider_names(&shared));
        recovery::follow_clock(&shared).await?;
        inherited::restore(&shared).await?;
        recovery::recover(&shared).await?;
        candidates::recover(&shared).await?;
        inherited::store(&shared).await;
        shared.state.reschedule_escalations(false).await?;
        Ok(Self {
            shared,
            workers,
            _publisher_threads: publisher_threads,
        })
    }

    /// Closes the state after the pending requests are done.
    pub(crate) async fn close(self) {
        let Self {
            shared,
            mut workers,
            _publisher_threads,
        } = self;
        drop(shared);
        while workers.join_next().await.is_some() {}
    }
}

/// Client of the channels of a configuration.
pub(super) fn notifier_of(config: &Config) -> Result<Notifier, RunError> {
    let (alerts, network) = (&config.alerts, Arc::clone(&config.network));
    Notifier::new(&alerts.instance, alerts.url.as_deref(), network).map_err(RunError::Tls)
}

/// Users whose directories are trusted.
fn trusted(config: &Config, tenure: Tenure) -> Trust {
    let trust = Trust::by_configuration(&config.source);
    match tenure {
        Tenure::Brief if rustix::process::geteuid().is_root() => {
            trust.and_owner_of(&config.paths.state)
        }
        Tenure::Brief | Tenure::Lasting => trust,
    }
}

/// Locks the state. A command holds the lock only briefly, so it is awaited. A holder that has not identified itself yet,
/// or only tests the lock, is awaited for much less.
async fn wait_for_lock(
    path: &Path,
    tenure: Tenure,
    trust: &Trust,
    clock: Clock,
) -> Result<Lock, StateError> {
    let began = clock.tick();
    loop {
        let timeout = match lock_as(path, tenure, trust) {
            Err(StateError::Locked { is_brief: true, .. }) => COMMAND_LOCK_TIMEOUT,
            Err(StateError::Locked {
                is_brief: false, ..
            }) => UNKNOWN_LOCK_TIMEOUT,
            taken => return taken,
        };
        if clock.elapsed(began) >= timeout {
            return lock_as(path, tenure, trust);
        }
        clock.sleep(LOCK_RETRY_AFTER).await;
    }
}

impl Executor {
    fn start_state(&self, workers: &mut JoinSet<()>, writer: WriterThread, reader: ReaderThread) {
        match self {
            Self::Threads => {
                workers.spawn_blocking(move || writer.run());
                workers.spawn_blocking(move || reader.run());
            }
            Self::Tasks(disk) => {
                workers.spawn(writer.serve(Arc::clone(disk)));
                workers.spawn(reader.serve());
            }
        }
    }

    /// Starts the writers of the token files and of the record of generations.
    fn start_file_writers(
        &self,
        threads: &mut JoinSet<()>,
        files: TokenFiles,
        generations: Generations,
        clock: Clock,
    ) -> (FileWriters, GenerationNotes) {
        match self {
            Self::Threads => {
                let (files, writers) = FileWriters::with_threads(files);
                for writer in writers {
                    threads.spawn_blocking(move || writer.run());
                }
                let (notes, thread) = GenerationNotes::with_thread(generations, clock);
                threads.spawn_blocking(move || thread.run());
                (files, notes)
            }
            Self::Tasks(_) => (
                FileWriters::in_place(files),
                GenerationNotes::in_place(generations, clock),
            ),
        }
    }

    fn publish(
        self,
        workers: &mut JoinSet<()>,
        publishing: PublisherThread,
        provider_of: impl Fn(&str) -> String + Send + Sync + 'static,
    ) {
        match self {
            Self::Threads => {
                workers.spawn_blocking(move || publishing.run(&provider_of));
            }
            Self::Tasks(disk) => {
                workers.spawn(async move { publishing.serve(&provider_of, disk).await });
            }
        }
    }
}

/// Function that returns the provider of an app in the present configuration. Keeps no component of the daemon alive.
fn provider_names(shared: &Arc<Context>) -> impl Fn(&str) -> String + Send + Sync + 'static {
    let shared = Arc::downgrade(shared);
    move |app| {
        let config = shared.upgrade().map(|shared| shared.config());
        let app = config.as_ref().and_then(|config| config.apps.get(app));
        app.map(|app| app.profile.name.clone()).unwrap_or_default()
    }
}
