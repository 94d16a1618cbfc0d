//! What runs with a daemon and without: the state, the publisher, the way to servers. Opened here, in this order.
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
use crate::daemon::alerts::{Conditions, ReadBy};
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
use crate::daemon::startup::rollback;
use refreshd_alerting::channels::Notifier;
use refreshd_time::clock::Clock;
use refreshd_token_client::authorization_server::AuthorizationServer;

/// How long a command that holds the state is waited for: it may wait for a server's answer.
const BRIEF_HOLDER: Duration = Duration::from_secs(15);
/// How long any other holder is waited for.
const UNKNOWN_HOLDER: Duration = Duration::from_millis(500);
/// The wait before the lock is tried again.
const LOCK_AGAIN: Duration = Duration::from_millis(50);

/// What is outside: the machine's own, or a simulation's.
pub(crate) struct Backends {
    pub(crate) clock: Clock,
    pub(crate) server: AuthorizationServer,
    /// `None`: made as the configuration says.
    pub(crate) notifier: Option<Notifier>,
    pub(crate) hands: Executor,
    pub(crate) carry: Carry,
}

/// Who does what blocks: reading and writing the state and the token files.
pub(crate) enum Executor {
    /// A thread for each.
    Threads,
    /// Tasks, on a disk that is not the machine's: all of the daemon is one thread then, and takes the same steps in
    /// the same order every time.
    #[cfg_attr(not(test), expect(dead_code, reason = "the simulation's"))]
    Tasks(Arc<dyn Disk>),
}

impl Backends {
    /// This machine.
    pub(crate) fn machine() -> Result<Self, RunError> {
        // A limit of the file size is to be an error, as a full disk is, and not an end in the middle of a renewal.
        let file_size = SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw());
        drop(signal(file_size).map_err(RunError::Signals)?);
        let server = AuthorizationServer::new().map_err(RunError::Tls)?;
        let carry = Carry::of_process();
        Ok(Self {
            clock: Clock::system(),
            server,
            notifier: None,
            hands: Executor::Threads,
            carry,
        })
    }
}

/// The parts that run with a daemon and without: state, publisher, the way to servers.
pub(crate) struct Core {
    pub(crate) shared: Arc<Context>,
    workers: JoinSet<()>,
    /// Threads whose calls may hang: not waited for at the end.
    _hands: JoinSet<()>,
}

impl Core {
    /// Opens the state for as long as this process lives, and brings it in line with the configuration.
    pub(crate) async fn start(config: Config, world: Backends) -> Result<Self, RunError> {
        Self::start_as(Tenure::Lasting, config, world).await
    }

    /// The same for a while.
    pub(crate) async fn start_as(
        tenure: Tenure,
        mut config: Config,
        world: Backends,
    ) -> Result<Self, RunError> {
        let Backends {
            clock,
            server,
            notifier,
            hands,
            carry,
        } = world;
        // A command that works without a daemon is not what a service manager starts again.
        let carry = if tenure == Tenure::Lasting {
            carry
        } else {
            Carry::nowhere()
        };
        let notifier = match notifier {
            Some(notifier) => notifier,
            None => Notifier::new(&config.alerts.instance, config.alerts.url.as_deref())
                .map_err(RunError::Tls)?,
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
        let noticed = Arc::clone(&conditions);
        state.on_damage(move |error| noticed.reads(ReadBy::Others, Err(error)));
        let mut workers = JoinSet::new();
        hands.keep_state(&mut workers, writer, reader);
        let undiscovered = discover(&mut config, &state, &server, clock).await;
        let missing = incomplete::missing_in(&config, &state).await?;
        let portals = configured_portals(&mut config);
        let unnamed = match &missing {
            Some(_) => Unnamed::Kept,
            None => Unnamed::Go,
        };
        state
            .reconcile_with(portals, app_fingerprints(&config), unnamed, clock.now())
            .await?;
        let found = (missing.as_ref(), config.includes.as_slice());
        incomplete::settle(&state, &conditions, found, clock.now()).await?;
        let generations =
            rollback::quarantine_rolled_back(&state, &files, &config, &conditions, clock.now())
                .await?;
        let mut hands_of_publisher = JoinSet::new();
        let (files, generations) =
            hands.touch_files(&mut hands_of_publisher, files, generations, clock);
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
        };
        let shared = Arc::new(Context::new(parts, metrics, Arc::new(config)));
        shared.set_undiscovered(undiscovered);
        hands.publish(&mut workers, publishing, provider_names(&shared));
        recovery::follow_clock(&shared).await?;
        inherited::take_back(&shared).await?;
        recovery::recover(&shared).await?;
        candidates::recover(&shared).await?;
        inherited::store(&shared).await;
        shared.state.reschedule_escalations(false).await?;
        Ok(Self {
            shared,
            workers,
            _hands: hands_of_publisher,
        })
    }

    /// Closes the state: what was asked of it is done first.
    pub(crate) async fn close(self) {
        let Self {
            shared,
            mut workers,
            _hands,
        } = self;
        drop(shared);
        while workers.join_next().await.is_some() {}
    }
}

/// Whose directories are used.
fn trusted(config: &Config, tenure: Tenure) -> Trust {
    let trust = Trust::by_configuration(&config.source);
    match tenure {
        Tenure::Brief if rustix::process::geteuid().is_root() => {
            trust.and_owner_of(&config.paths.state)
        }
        Tenure::Brief | Tenure::Lasting => trust,
    }
}

/// Takes the state's lock. A command that has it is done in a moment, and is waited for. So is, for much less, whoever has
/// not said yet who it is, or only looks whether it is free.
async fn wait_for_lock(
    path: &Path,
    tenure: Tenure,
    trust: &Trust,
    clock: Clock,
) -> Result<Lock, StateError> {
    let began = clock.tick();
    loop {
        let patience = match lock_as(path, tenure, trust) {
            Err(StateError::Locked { is_brief: true, .. }) => BRIEF_HOLDER,
            Err(StateError::Locked {
                is_brief: false, ..
            }) => UNKNOWN_HOLDER,
            taken => return taken,
        };
        if clock.elapsed(began) >= patience {
            return lock_as(path, tenure, trust);
        }
        clock.sleep(LOCK_AGAIN).await;
    }
}

impl Executor {
    fn keep_state(&self, workers: &mut JoinSet<()>, writer: WriterThread, reader: ReaderThread) {
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

    /// Whoever touches the token files and the record of generations.
    fn touch_files(
        &self,
        hands: &mut JoinSet<()>,
        files: TokenFiles,
        generations: Generations,
        clock: Clock,
    ) -> (FileWriters, GenerationNotes) {
        match self {
            Self::Threads => {
                let (files, writers) = FileWriters::with_threads(files);
                for writer in writers {
                    hands.spawn_blocking(move || writer.run());
                }
                let (notes, thread) = GenerationNotes::with_thread(generations, clock);
                hands.spawn_blocking(move || thread.run());
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

/// Names the provider of an app by the configuration in force. Holds nothing that keeps the daemon's parts alive.
fn provider_names(shared: &Arc<Context>) -> impl Fn(&str) -> String + Send + Sync + 'static {
    let shared = Arc::downgrade(shared);
    move |app| {
        let config = shared.upgrade().map(|shared| shared.config());
        let app = config.as_ref().and_then(|config| config.apps.get(app));
        app.map(|app| app.profile.name.clone()).unwrap_or_default()
    }
}
