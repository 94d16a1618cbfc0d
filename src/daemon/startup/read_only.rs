//! What commands that only look do where no daemon runs: the state's copy in memory, as a start would see it.
//!
//! Must not create, lock or change anything, nor renew: a start of the daemon at the same moment goes on unhindered.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::adapters::directory::Trust;
use crate::adapters::metrics::Metrics;
use crate::adapters::state::{SnapshotOutcome, State, StateError, take_snapshot};
use crate::adapters::token_files::TokenFiles;
use crate::config::Config;
use crate::daemon::alerts::Conditions;
use crate::daemon::configured::{app_fingerprints, configured_portals};
use crate::daemon::context::{Context, ContextParts};
use crate::daemon::error::RunError;
use crate::daemon::renewal::carry::Carry;
use crate::daemon::renewal::publisher::Publisher;
use crate::daemon::startup::metadata_discovery::recall;
use crate::daemon::startup::recovery;
use crate::daemon::startup::rollback;
use refreshd_alerting::channels::Notifier;
use refreshd_time::clock::Clock;
use refreshd_token_client::authorization_server::AuthorizationServer;

/// A state that changes is looked at again for so long.
const WAIT_LIMIT: Duration = Duration::from_secs(5);
/// The wait before that.
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// The state without a daemon, to look at.
pub struct ReadOnlyState {
    shared: Arc<Context>,
    worker: JoinSet<()>,
}

impl ReadOnlyState {
    /// Looks at the state. A daemon that has it is an error that names it.
    ///
    /// # Errors
    /// [`RunError`].
    pub async fn at(mut config: Config) -> Result<Self, RunError> {
        let clock = Clock::system();
        let server = AuthorizationServer::new().map_err(RunError::Tls)?;
        let notifier = Notifier::new(&config.alerts.instance, config.alerts.url.as_deref())
            .map_err(RunError::Tls)?;
        let began = clock.tick();
        let path = config.paths.state.clone();
        let copy = loop {
            match take_snapshot(&path)? {
                SnapshotOutcome::Whole(copy) => break copy,
                SnapshotOutcome::Changing if clock.elapsed(began) < WAIT_LIMIT => {
                    clock.sleep(RETRY_AFTER).await;
                }
                SnapshotOutcome::Changing => return Err(StateError::Changing { path }.into()),
            }
        };
        let (state, reader) = State::of_copy(copy);
        let mut worker = JoinSet::new();
        worker.spawn_blocking(move || reader.run());
        recall(&mut config, &state).await;
        let portals = configured_portals(&mut config);
        state
            .reconcile(portals, app_fingerprints(&config), clock.now())
            .await?;
        let trust = Trust::by_configuration(&config.source).and_owner_of(&config.paths.state);
        let files = TokenFiles::new(&config.paths.token_dir, trust);
        rollback::quarantine_in_snapshot(&state, &files, &config, clock.now()).await?;
        let parts = ContextParts {
            clock,
            state,
            server,
            carry: Carry::nowhere(),
            notifier,
            publisher: Publisher::none(),
            conditions: Arc::new(Conditions::default()),
        };
        let shared = Arc::new(Context::new(parts, Metrics::new(&[]), Arc::new(config)));
        recovery::recover_in_silence(&shared).await?;
        Ok(Self { shared, worker })
    }

    /// What reads the copy.
    #[must_use]
    pub fn shared(&self) -> &Arc<Context> {
        &self.shared
    }

    /// Lets go of the copy.
    pub async fn close(self) {
        let Self { shared, mut worker } = self;
        drop(shared);
        while worker.join_next().await.is_some() {}
    }
}
