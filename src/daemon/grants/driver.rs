//! Executor of renewals that a command requests: the loops of a running daemon, or this process where none runs.

use std::sync::Arc;

use tokio::sync::Mutex;
use tokio::task::JoinSet;

use crate::adapters::state::StateError;
use crate::daemon::context::Context;
use crate::daemon::renewal::candidates;
use crate::daemon::renewal::execute::{ClaimedGrant, exchange};
use crate::domain::name::PortalName;

/// Executor of a renewal.
#[derive(Clone)]
pub enum Driver {
    /// The loops of this daemon.
    Daemon,
    /// This process, which has locked the state.
    Inline(Arc<InlineDriver>),
    /// None: this is a copy of the state.
    ReadOnly,
}

/// Runs each requested exchange in a task, which a cancelled caller does not cancel.
pub struct InlineDriver {
    shared: Arc<Context>,
    exchanges: Mutex<JoinSet<()>>,
}

impl InlineDriver {
    /// Creates a driver for this state.
    #[must_use]
    pub fn new(shared: Arc<Context>) -> Self {
        Self {
            shared,
            exchanges: Mutex::default(),
        }
    }

    /// Claims a portal's grant and renews it, if it is due.
    ///
    /// # Errors
    /// [`StateError`]; nothing was sent then.
    pub async fn renew(&self, portal: &PortalName) -> Result<(), StateError> {
        let shared = &self.shared;
        let claimed = shared
            .state
            .claim_one(portal.clone(), shared.clock.now())
            .await?;
        if let Some(claimed) = claimed.and_then(ClaimedGrant::from) {
            let shared = Arc::clone(shared);
            self.exchanges.lock().await.spawn(async move {
                exchange(shared, claimed).await;
            });
        }
        Ok(())
    }

    /// Claims a portal's candidate and proves it; renews the portal's grant if there is no candidate.
    ///
    /// # Errors
    /// [`StateError`]; nothing was sent then.
    pub async fn prove(&self, portal: &PortalName) -> Result<(), StateError> {
        let shared = &self.shared;
        let claimed = shared
            .state
            .claim_candidate(portal.clone(), shared.clock.now())
            .await?;
        let Some(candidate) = claimed else {
            return self.renew(portal).await;
        };
        let proving = candidates::prove(Arc::clone(shared), candidate);
        self.exchanges.lock().await.spawn(proving);
        Ok(())
    }

    /// Waits for every exchange that was begun.
    pub async fn finish(&self) {
        let mut exchanges = std::mem::take(&mut *self.exchanges.lock().await);
        while exchanges.join_next().await.is_some() {}
    }
}
