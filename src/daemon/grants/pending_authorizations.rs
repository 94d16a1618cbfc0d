//! Pending authorizations.

use std::sync::{Mutex, PoisonError};

use crate::domain::authorization::{AuthorizationFlow, PendingAuthorization};
use crate::domain::portal::Portal;
use refreshd_time::Timestamp;

/// Maximum number of pending authorizations, of all portals: the oldest is dropped.
const MAX_PENDING: usize = 1000;

/// Authorizations that were begun and not completed. They do not outlive the process.
#[derive(Default)]
pub struct Authorizations(Mutex<Vec<PendingAuthorization>>);

impl Authorizations {
    /// Adds an authorization; if too many are pending, drops the oldest.
    pub(crate) fn add(&self, pending: PendingAuthorization) {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|other| other.is_open(pending.begun_at));
        if open.len() >= MAX_PENDING {
            open.remove(0);
        }
        open.push(pending);
    }

    /// Returns whether the portal has a pending authorization with this state.
    pub(crate) fn has(&self, portal: &Portal, state: &str, now: Timestamp) -> bool {
        let open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.iter()
            .any(|pending| pending.is(&portal.name, state, now))
    }

    /// Removes and returns the authorization with this state, or a portal's newest; it can be completed once.
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
