//! Process lifetimes of one simulated daemon: it starts, receives commands, stops or is killed, and starts again from what
//! was durable.
//!
//! Must not judge the results: `invariants` does.

use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::adapters::log::LogHandle;
use crate::config::{self, Environment};
use crate::daemon::STOP_GRACE;
use crate::daemon::context::Context;
use crate::daemon::drain;
use crate::daemon::grants::driver::Driver;
use crate::daemon::grants::import;
use crate::daemon::grants::operations;
use crate::daemon::grants::store;
use crate::daemon::loops;
use crate::daemon::startup::core::{Core, Executor};
use crate::daemon::startup::reload::Reloader;
use crate::daemon::tests::receivers::SimulatedReceivers;
use crate::daemon::tests::world::{SimulatedNetwork, World};
use crate::domain::error_chain::error_chain;
use refreshd_alerting::channels::Notifier;
use refreshd_token_client::authorization_server::AuthorizationServer;

/// A longer interval than the real one, which would cost more than it would show.
const HOUSEKEEPING: Duration = Duration::from_secs(20);

/// A daemon that runs, or is starting.
pub struct Process {
    tasks: JoinSet<Result<(), String>>,
    commands: JoinSet<()>,
    shared: Arc<Mutex<Weak<Context>>>,
    stop: CancellationToken,
    reloader: Arc<Reloader>,
}

impl Process {
    /// Starts from the present configuration and state.
    pub fn begin(world: &Arc<World>, server: &AuthorizationServer) -> Self {
        let path = world.place.path().join("refreshd.toml");
        let read = move || config::load(&path, &Environment::default());
        let config = read();
        let (shared, stop) = (Arc::new(Mutex::new(Weak::new())), CancellationToken::new());
        let mut tasks = JoinSet::new();
        let notifier = Notifier::new("machine", None, Arc::default())
            .unwrap()
            .with_backend(Arc::new(SimulatedReceivers(Arc::clone(world))));
        let outside = crate::daemon::startup::core::Backends {
            clock: world.wall,
            server: server
                .clone()
                .with_transport(Arc::new(SimulatedNetwork(Arc::clone(world)))),
            notifier: Some(notifier),
            executor: Executor::Tasks(Arc::clone(world) as Arc<dyn crate::adapters::state::Disk>),
            carry: crate::daemon::renewal::carry::Carry::nowhere(),
        };
        let (place, end) = (Arc::clone(&shared), stop.clone());
        tasks.spawn(async move {
            let config = config.map_err(|problems| problems.to_string())?.config;
            let limit = config.renewal.timeout + STOP_GRACE;
            let core = Core::start(config, outside).await.map_err(|error| error_chain(&error))?;
            *place.lock().unwrap() = Arc::downgrade(&core.shared);
            let mut tasks = loops(&core.shared, &end, HOUSEKEEPING).await;
            tokio::select! {
                biased;
                () = end.cancelled() => {}
                ended = tasks.join_next() => return Err(format!("a task ended by itself: {ended:?}")),
            }
            let drained = drain(&mut tasks, &core.shared, limit).await;
            if !drained {
                return Err(STUCK.to_owned());
            }
            core.close().await;
            Ok(())
        });
        let reloader = Arc::new(Reloader::inline(Arc::new(read), LogHandle::none()));
        Self {
            tasks,
            commands: JoinSet::new(),
            shared,
            stop,
            reloader,
        }
    }

    /// Waits until the daemon ends by itself.
    pub async fn ended(&mut self) -> Result<(), String> {
        match self.tasks.join_next().await {
            Some(Ok(end)) => end,
            Some(Err(error)) => Err(error.to_string()),
            None => std::future::pending().await,
        }
    }

    /// SIGTERM. Callers that await a response are cancelled.
    pub fn stop(&mut self) {
        self.commands.abort_all();
        self.stop.cancel();
    }

    /// SIGKILL: no task runs any more when this returns.
    pub async fn kill(mut self) {
        self.commands.shutdown().await;
        self.tasks.shutdown().await;
        // The runtime drops nested tasks later; the parts they share are dropped last.
        for _ in 0..100_000 {
            if self.shared.lock().unwrap().strong_count() == 0 {
                return;
            }
            tokio::task::yield_now().await;
        }
        panic!("the daemon cannot be killed");
    }

    /// SIGHUP.
    pub fn reload(&mut self) {
        let reloader = Arc::clone(&self.reloader);
        // The log reports every problem.
        self.command(|shared| async move { drop(reloader.reload(&shared).await) });
    }

    /// `refreshd renew`.
    pub fn renew(&mut self, portal: String) {
        self.command(|shared| async move {
            drop(operations::renew(&shared, &portal, &Driver::Daemon).await);
        });
    }

    /// `refreshd import`.
    pub fn import(&mut self, portal: String, text: String) {
        self.command(|shared| async move {
            drop(import::import(&shared, &portal, text.as_bytes(), false, &Driver::Daemon).await);
        });
    }

    /// `refreshd forget`.
    pub fn forget(&mut self, portal: String) {
        self.command(|shared| async move { drop(store::forget(&shared, &portal, false).await) });
    }

    /// Runs a command of the control socket; there is no response while the daemon starts.
    fn command<F>(&mut self, work: impl FnOnce(Arc<Context>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        while self.commands.try_join_next().is_some() {}
        let Some(shared) = self.shared.lock().unwrap().upgrade() else {
            return;
        };
        self.commands.spawn(work(shared));
    }
}

/// Error of a daemon that did not stop in time after SIGTERM.
pub const STUCK: &str = "it did not stop in time";
