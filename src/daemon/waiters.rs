//! Who waits for the outcome of a renewal, or of a candidate's proof.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};

use tokio::sync::oneshot;

use refreshd_token_client::provider::Class;
use refreshd_token_client::token::Generation;

/// How a renewal ended, for whoever asked for it.
#[derive(Debug, Clone)]
pub struct RenewalReport {
    /// `None`: renewed.
    pub failure: Option<(Class, String)>,
    /// The generation in force.
    pub generation: Generation,
    /// The generation whose refresh token was sent.
    pub sent: Generation,
    /// Whether an import or `forget` came first, so that this outcome does not count.
    pub set_aside: bool,
}

/// Who waits for the outcome of what: of a portal's renewal, or of a candidate's proof.
pub struct Waiters<K, T>(Mutex<HashMap<K, Vec<oneshot::Sender<T>>>>);

impl<K, T> Default for Waiters<K, T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Clone + Eq + Hash, T: Clone> Waiters<K, T> {
    /// Waits for the next outcome. Take this before it is asked for.
    #[must_use]
    pub fn wait_for(&self, what: &K) -> oneshot::Receiver<T> {
        let (sender, receiver) = oneshot::channel();
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = waiting.entry(what.clone()).or_default();
        queue.retain(|waiter| !waiter.is_closed());
        queue.push(sender);
        receiver
    }

    /// Tells all who wait for it.
    pub fn tell(&self, what: &K, report: &T) {
        let waiting = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(what);
        for waiter in waiting.into_iter().flatten() {
            // Whoever asked may have gone.
            let _ = waiter.send(report.clone());
        }
    }

    /// Tells all who wait for one of these.
    pub fn tell_each(&self, is_meant: impl Fn(&K) -> bool, report: &T) {
        let keys: Vec<K> = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .keys()
            .filter(|key| is_meant(key))
            .cloned()
            .collect();
        keys.iter().for_each(|key| self.tell(key, report));
    }

    /// Forgets those who gave up.
    pub fn tidy(&self) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|_, queue| {
            queue.retain(|waiter| !waiter.is_closed());
            !queue.is_empty()
        });
    }
}
