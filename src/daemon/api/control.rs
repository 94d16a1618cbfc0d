//! Shared data of the API's handlers, for a daemon's socket and for a command in its own process.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit, oneshot};
use tokio::task::JoinSet;

use crate::daemon::api::error::{ApiError, ErrorCode};
use crate::daemon::api::peer::Peer;
use crate::daemon::context::Context;
use crate::daemon::grants::driver::Driver;
use crate::daemon::startup::reload::Reloader;

/// Limit of concurrent listings, for callers other than root and the daemon's own user.
const MAX_LISTINGS: usize = 8;
/// Timeout of the wait for a listing.
const LISTING_TIMEOUT: Duration = Duration::from_secs(10);

/// Shared data of the API's handlers.
#[derive(Clone)]
pub struct Control {
    pub(crate) shared: Arc<Context>,
    /// `None` where no daemon runs.
    pub(crate) reloader: Option<Arc<Reloader>>,
    /// Executor of renewals.
    pub(crate) driver: Driver,
    changes: Arc<Mutex<JoinSet<()>>>,
    /// Three quarters of the connections may wait for renewals at a time; the others are reserved for reading.
    waiting: Arc<Semaphore>,
    listing: Arc<Semaphore>,
}

impl Control {
    /// For this daemon, whose socket has `max_connections`.
    #[must_use]
    pub fn of_daemon(
        shared: Arc<Context>,
        reloader: Arc<Reloader>,
        max_connections: usize,
    ) -> Self {
        Self {
            reloader: Some(reloader),
            waiting: Arc::new(Semaphore::new(max_connections * 3 / 4)),
            ..Self::without_daemon(shared, Driver::Daemon)
        }
    }

    /// For this process alone.
    #[must_use]
    pub fn without_daemon(shared: Arc<Context>, driver: Driver) -> Self {
        Self {
            shared,
            reloader: None,
            driver,
            changes: Arc::default(),
            waiting: Arc::new(Semaphore::new(1)),
            listing: Arc::new(Semaphore::new(MAX_LISTINGS)),
        }
    }

    pub(crate) fn shared(&self) -> &Context {
        &self.shared
    }

    /// Checks that this caller may change something here.
    pub(crate) fn may_change(&self, peer: Peer) -> Result<(), ApiError> {
        peer.may_change()?;
        match self.driver {
            Driver::Daemon | Driver::Inline(_) => Ok(()),
            Driver::ReadOnly => Err(ApiError::new(
                ErrorCode::NotPermitted,
                "this is a copy of the state",
            )),
        }
    }

    /// Waits for the changes that are under way.
    pub(crate) async fn finish_changes(&self) {
        let mut changes =
            std::mem::take(&mut *self.changes.lock().unwrap_or_else(PoisonError::into_inner));
        while changes.join_next().await.is_some() {}
    }

    /// Permit to wait for a renewal. Root and the daemon's own user need none.
    pub(crate) fn wait(&self, peer: Peer) -> Result<Option<SemaphorePermit<'_>>, ApiError> {
        if peer.may_change().is_ok() {
            return Ok(None);
        }
        self.waiting
            .try_acquire()
            .map(Some)
            .map_err(|_| ApiError::busy("its callers wait for renewals"))
    }

    /// Permit for a listing, which occupies memory until the client has read it. Root and the daemon's own user need none.
    pub(crate) async fn turn(&self, peer: Peer) -> Result<Option<OwnedSemaphorePermit>, ApiError> {
        if peer.may_change().is_ok() {
            return Ok(None);
        }
        let turn = self
            .shared
            .clock
            .within(LISTING_TIMEOUT, Arc::clone(&self.listing).acquire_owned())
            .await;
        turn.and_then(Result::ok)
            .map(Some)
            .ok_or_else(|| ApiError::busy("other listings are under way"))
    }

    /// Runs a change to completion, even if the caller disconnects.
    pub(crate) async fn change<T: Send + 'static>(
        &self,
        change: impl Future<Output = Result<T, ApiError>> + Send + 'static,
    ) -> Result<T, ApiError> {
        let (done, wait) = oneshot::channel();
        {
            let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
            while changes.try_join_next().is_some() {}
            changes.spawn(async move {
                // The caller may have disconnected.
                let _ = done.send(change.await);
            });
        }
        let broken = || ApiError::new(ErrorCode::Bug, "the change ended by a bug; see the log");
        wait.await.unwrap_or_else(|_| Err(broken()))
    }
}
