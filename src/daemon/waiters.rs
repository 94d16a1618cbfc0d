//! Callers that await the outcome of a renewal, or of a candidate.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};

use tokio::sync::oneshot;

use refreshd_token_client::provider::Class;
use refreshd_token_client::token::Generation;

/// Outcome of a renewal, for its caller.
#[derive(Debug, Clone)]
pub struct RenewalReport {
    /// `None`: renewed.
    pub failure: Option<(Class, String)>,
    /// The generation in force.
    pub generation: Generation,
    /// The generation whose refresh token was sent.
    pub sent: Generation,
    /// Whether the outcome was superseded by an import or by `forget`, so that it does not count.
    pub set_aside: bool,
}

/// Callers that await an outcome, by a portal or by a candidate.
pub struct Waiters<K, T>(Mutex<HashMap<K, Vec<oneshot::Sender<T>>>>);

impl<K, T> Default for Waiters<K, T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Clone + Eq + Hash, T: Clone> Waiters<K, T> {
    /// Waits for the next outcome. To be called before the renewal is requested.
    #[must_use]
    pub fn wait_for(&self, what: &K) -> oneshot::Receiver<T> {
        let (sender, receiver) = oneshot::channel();
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = waiting.entry(what.clone()).or_default();
        queue.retain(|waiter| !waiter.is_closed());
        queue.push(sender);
        receiver
    }

    /// Returns whether a caller awaits this outcome.
    #[must_use]
    pub fn is_awaited(&self, what: &K) -> bool {
        let waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = waiting.get(what);
        queue.is_some_and(|queue| queue.iter().any(|waiter| !waiter.is_closed()))
    }

    /// Notifies all callers that await this outcome.
    pub fn notify(&self, what: &K, report: &T) {
        let waiting = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(what);
        for waiter in waiting.into_iter().flatten() {
            // The caller may have disconnected.
            let _ = waiter.send(report.clone());
        }
    }

    /// Notifies all callers that await one of these outcomes.
    pub fn notify_matching(&self, is_meant: impl Fn(&K) -> bool, report: &T) {
        let keys: Vec<K> = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .keys()
            .filter(|key| is_meant(key))
            .cloned()
            .collect();
        keys.iter().for_each(|key| self.notify(key, report));
    }

    /// Removes callers that have disconnected.
    pub fn tidy(&self) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|_, queue| {
            queue.retain(|waiter| !waiter.is_closed());
            !queue.is_empty()
        });
    }
}
