//! What the handlers of the API need, whoever calls them: a daemon's socket, or a command in its own process.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit, oneshot};
use tokio::task::JoinSet;

use crate::daemon::api::error::{ApiError, ErrorCode};
use crate::daemon::api::peer::Peer;
use crate::daemon::context::Context;
use crate::daemon::grants::driver::Driver;
use crate::daemon::startup::reload::Reloader;

/// Listings under way at a time, for others than root and the daemon's own user.
const LISTING: usize = 8;
/// How long one of them waits for its turn.
const TURN: Duration = Duration::from_secs(10);

/// What the handlers need.
#[derive(Clone)]
pub struct Control {
    pub(crate) shared: Arc<Context>,
    /// `None` where no daemon runs.
    pub(crate) reloader: Option<Arc<Reloader>>,
    /// Who carries renewals out.
    pub(crate) driver: Driver,
    changes: Arc<Mutex<JoinSet<()>>>,
    /// Three quarters of the places may wait for renewals at a time; the others are kept for reading.
    waiting: Arc<Semaphore>,
    listing: Arc<Semaphore>,
}

impl Control {
    /// For this daemon, whose socket has so many places.
    #[must_use]
    pub fn of_daemon(shared: Arc<Context>, reloader: Arc<Reloader>, places: usize) -> Self {
        Self {
            reloader: Some(reloader),
            waiting: Arc::new(Semaphore::new(places * 3 / 4)),
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
            listing: Arc::new(Semaphore::new(LISTING)),
        }
    }

    pub(crate) fn shared(&self) -> &Context {
        &self.shared
    }

    /// Whether this caller may change something here.
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

    /// The right to wait for a renewal. Root, and the daemon's own user, always have it.
    pub(crate) fn wait(&self, peer: Peer) -> Result<Option<SemaphorePermit<'_>>, ApiError> {
        if peer.may_change().is_ok() {
            return Ok(None);
        }
        self.waiting
            .try_acquire()
            .map(Some)
            .map_err(|_| ApiError::busy("its callers wait for renewals"))
    }

    /// The right to be sent a listing, which holds memory until it is taken. Who may always, as for [`Self::wait`].
    pub(crate) async fn turn(&self, peer: Peer) -> Result<Option<OwnedSemaphorePermit>, ApiError> {
        if peer.may_change().is_ok() {
            return Ok(None);
        }
        let turn = self
            .shared
            .clock
            .within(TURN, Arc::clone(&self.listing).acquire_owned())
            .await;
        turn.and_then(Result::ok)
            .map(Some)
            .ok_or_else(|| ApiError::busy("other listings are under way"))
    }

    /// Carries a change out to its end, though whoever asked for it may go away meanwhile.
    pub(crate) async fn change<T: Send + 'static>(
        &self,
        change: impl Future<Output = Result<T, ApiError>> + Send + 'static,
    ) -> Result<T, ApiError> {
        let (done, wait) = oneshot::channel();
        {
            let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
            while changes.try_join_next().is_some() {}
            changes.spawn(async move {
                // Whoever asked may have gone.
                let _ = done.send(change.await);
            });
        }
        let broken = || ApiError::new(ErrorCode::Bug, "the change ended by a bug; see the log");
        wait.await.unwrap_or_else(|_| Err(broken()))
    }
}
