//! What runs with a daemon and without: the state, the publisher, the way to servers. Opened here, in this order.
//!
//! Must not renew anything: the loop, or a command, does.

use std::sync::Arc;

use tokio::task::JoinSet;

use super::RunError;
use super::old_state;
use super::publisher::publisher;
use super::recovery;
use super::shared::{Shared, app_fingerprints, take_portals};
use crate::adapters::authorization_server::AuthorizationServer;
use crate::adapters::clock::Clock;
use crate::adapters::metrics::Metrics;
use crate::adapters::state::{State, View, lock};
use crate::adapters::token_files::TokenFiles;
use crate::config::Config;

/// The parts that run with a daemon and without: state, publisher, the way to servers.
pub(super) struct Core {
    pub(super) shared: Arc<Shared>,
    workers: JoinSet<&'static str>,
}

impl Core {
    /// Opens the state and brings it in line with the configuration.
    pub(super) async fn start(mut config: Config, clock: Clock) -> Result<Self, RunError> {
        let server = AuthorizationServer::new().map_err(RunError::Tls)?;
        let lock = lock(&config.paths.state)?;
        let (state, writer, reader) = State::open(&config.paths.state, lock)?;
        let view = View::open(&config.paths.state)?;
        let mut workers = JoinSet::new();
        workers.spawn_blocking(move || {
            writer.run();
            "the state's writer"
        });
        workers.spawn_blocking(move || {
            reader.run();
            "the state's reader"
        });
        let portals = take_portals(&mut config);
        state.reconcile(portals, app_fingerprints(&config), clock.now()).await?;
        let providers: Vec<_> = config.apps.values().map(|app| app.profile.name.clone()).collect();
        let files = TokenFiles::new(&config.paths.token_dir);
        let generations = old_state::look(&state, &files, &config.paths.state, clock.now()).await?;
        let config = Arc::new(config);
        let (publisher, thread) = publisher(view, files, generations);
        let shared = Shared::new(clock, state, server, publisher, Metrics::new(&providers), config);
        let shared = Arc::new(shared);
        let names = Arc::downgrade(&shared);
        workers.spawn_blocking(move || {
            thread.run(&|app| {
                let config = names.upgrade().map(|shared| shared.config());
                config
                    .and_then(|config| config.apps.get(app).map(|app| app.profile.name.clone()))
                    .unwrap_or_default()
            });
            "the publisher"
        });
        recovery::follow_clock(&shared).await?;
        recovery::recover(&shared).await?;
        shared.state.recheck_ladder(false).await?;
        Ok(Self { shared, workers })
    }

    /// Closes the state: what was asked of it is done first.
    pub(super) async fn close(self) {
        let Self { shared, mut workers } = self;
        drop(shared);
        while workers.join_next().await.is_some() {}
    }
}
