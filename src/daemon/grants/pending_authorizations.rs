//! Authorizations that were begun and not finished.

use std::sync::{Mutex, PoisonError};

use crate::domain::authorization::{AuthorizationFlow, PendingAuthorization};
use crate::domain::portal::Portal;
use refreshd_time::Timestamp;

/// Authorizations that can be open at a time, of all portals: the oldest goes.
const MOST: usize = 1000;

/// Authorizations that were begun and not finished. They do not outlive the process.
#[derive(Default)]
pub struct Authorizations(Mutex<Vec<PendingAuthorization>>);

impl Authorizations {
    /// Adds one; where too many are open the oldest goes.
    pub(crate) fn add(&self, pending: PendingAuthorization) {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|other| other.is_open(pending.begun_at));
        if open.len() >= MOST {
            open.remove(0);
        }
        open.push(pending);
    }

    /// Whether this state is that of an authorization of the portal which is open.
    pub(crate) fn has(&self, portal: &Portal, state: &str, now: Timestamp) -> bool {
        let open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.iter()
            .any(|pending| pending.is(&portal.name, state, now))
    }

    /// Takes the authorization with this state, or a portal's newest; it can be finished once.
    pub(crate) fn take(
        &self,
        portal: &Portal,
        state: Option<&str>,
        now: Timestamp,
    ) -> Option<PendingAuthorization> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let index = match state {
            Some(state) => open
                .iter()
                .position(|pending| pending.is(&portal.name, state, now))?,
            None => open.iter().rposition(|pending| {
                pending.portal == portal.name
                    && pending.is_open(now)
                    && matches!(pending.flow, AuthorizationFlow::Redirect { .. })
            })?,
        };
        Some(open.remove(index))
    }
}
