//! Read-only commands without a daemon: an in-memory copy of the state, as a start would see it.
//!
//! Must not create, lock or change anything, nor renew: a daemon that starts at the same moment is not hindered.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::core::notifier_of;
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
use crate::daemon::startup::metadata_discovery::complete_from_cache;
use crate::daemon::startup::recovery;
use crate::daemon::startup::rollback;
use refreshd_time::clock::Clock;
use refreshd_token_client::authorization_server::AuthorizationServer;

/// Time limit of attempts to copy a state that changes.
const WAIT_LIMIT: Duration = Duration::from_secs(5);
/// Delay between these attempts.
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// An in-memory copy of the state.
pub struct ReadOnlyState {
    shared: Arc<Context>,
    worker: JoinSet<()>,
}

impl ReadOnlyState {
    /// Copies the state. A daemon that has locked it is an error that names it.
    ///
    /// # Errors
    /// [`RunError`].
    pub async fn at(mut config: Config) -> Result<Self, RunError> {
        let clock = Clock::system();
        let server =
            AuthorizationServer::new(Arc::clone(&config.network)).map_err(RunError::Tls)?;
        let notifier = notifier_of(&config)?;
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
        complete_from_cache(&mut config, &state).await;
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
            has_orphaned_traces: false,
        };
        let shared = Arc::new(Context::new(parts, Metrics::new(&[]), Arc::new(config)));
        recovery::recover_unlogged(&shared).await?;
        Ok(Self { shared, worker })
    }

    /// Context that reads from the copy.
    #[must_use]
    pub fn shared(&self) -> &Arc<Context> {
        &self.shared
    }

    /// Drops the copy.
    pub async fn close(self) {
        let Self { shared, mut worker } = self;
        drop(shared);
        while worker.join_next().await.is_some() {}
    }
}
