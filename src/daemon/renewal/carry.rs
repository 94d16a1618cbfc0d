//! Copies of pairs that the state could not store, kept by the service manager for the next process (`FDSTORE`,
//! sd_notify(3)).
//!
//! Must not remove a copy before its content is durable or obsolete.

use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::adapters::sealed;
use crate::adapters::state::{Candidate, Carried, Load, StateError, Unsaved};
use crate::adapters::systemd::{self, FdStore};
use crate::daemon::alerts::{Condition, Conditions};
use crate::domain::error_chain::error_chain;
use crate::domain::name::PortalName;
use crate::domain::portal::{ClaimId, Portal};
use refreshd_time::clock::Clock;

/// Name of a stored response in log messages.
pub(crate) const UNREADABLE_REPLY: &str = "a reply that could not be read";
/// Prefix of this program's names in the service manager's store.
pub(crate) const PREFIX: &str = "pair-";

/// Location of the service manager's copy.
#[derive(Debug, Default)]
pub(crate) enum Slot {
    /// There is no copy.
    #[default]
    Empty,
    /// There is no copy, and the reason was logged.
    Refused,
    /// There is a copy, with this name.
    At(String),
}

/// Data kept in memory until it is durable.
pub(crate) struct UnsavedCopy<'h> {
    /// The data, in the form for the next process.
    pub(crate) unsaved: Unsaved<'h>,
    /// The service manager's copy.
    pub(crate) slot: Slot,
}

impl UnsavedCopy<'_> {
    /// Name of the data in log messages.
    pub(crate) const fn what(&self) -> &'static str {
        match self.unsaved {
            Unsaved::Reply(..) => UNREADABLE_REPLY,
            _ => "a new pair",
        }
    }

    /// Log message once it is durable.
    pub(crate) const fn stored(&self) -> &'static str {
        match self.unsaved {
            Unsaved::Reply(..) => "the reply is on disk now",
            _ => "the new pair is on disk now",
        }
    }
}

/// Copies at the service manager.
pub struct Carry {
    keeps: FdStore,
    copies: AtomicUsize,
    inherited: usize,
    found: Mutex<Vec<FoundCopy>>,
}

/// A copy that was found and is not stored yet.
pub(crate) struct FoundCopy {
    pub(crate) slot: Slot,
    pub(crate) carried: Carried,
    pub(crate) how: StoreMethod,
}

/// Method of storing a copy.
pub(crate) enum StoreMethod {
    /// A renewal's pair, recorded under its claim or stored as a superseded pair.
    Renewal(Option<Box<Portal>>),
    /// A candidate's pair.
    Candidate(Option<Box<Candidate>>),
    /// Anything else.
    AsItIs,
}

impl Carry {
    /// Without a service manager.
    #[must_use]
    pub const fn nowhere() -> Self {
        Self {
            keeps: FdStore::Nothing,
            copies: AtomicUsize::new(0),
            inherited: 0,
            found: Mutex::new(Vec::new()),
        }
    }

    /// This process's service manager.
    #[must_use]
    pub fn of_process() -> Self {
        let inherited = systemd::count_inherited();
        Self {
            keeps: systemd::fd_store(),
            inherited,
            ..Self::nowhere()
        }
    }

    /// Number of descriptors that the service manager has passed to this process.
    pub(crate) const fn inherited(&self) -> usize {
        self.inherited
    }

    /// Stores a copy at the service manager, unless there is one. A failure is retried with the next write.
    pub(crate) fn keep(&self, held: &mut UnsavedCopy<'_>, portal: &PortalName, clock: Clock) {
        let UnsavedCopy { unsaved, slot } = held;
        let has_room = match self.keeps {
            FdStore::Nothing => false,
            FdStore::Unknown => true,
            FdStore::UpTo(most) => self.copies.load(Ordering::Relaxed) < most,
        };
        if matches!(slot, Slot::At(_)) || !has_room {
            return;
        }
        // Each copy has a name of its own: removal by name removes all copies with that name.
        let name = format!("{PREFIX}{portal}-{}", clock.random_token());
        let bytes = unsaved.encode();
        let kept = sealed::seal("refreshd-unsaved", bytes.expose())
            .and_then(|sealed| systemd::store(&name, sealed.as_fd()));
        match kept {
            Ok(()) => {
                self.copies.fetch_add(1, Ordering::Relaxed);
                *slot = Slot::At(name);
            }
            // Retried with the next write.
            Err(_) if matches!(slot, Slot::Refused) => {}
            Err(error) => {
                *slot = Slot::Refused;
                tracing::warn!(%portal, %error, "{portal}: the service manager cannot be given a copy of what is not on disk: {error}");
            }
        }
    }

    /// Removes a copy that is not needed any more.
    pub(crate) fn release(&self, slot: Slot) {
        let Slot::At(name) = slot else { return };
        self.copies.fetch_sub(1, Ordering::Relaxed);
        remove(&name);
    }

    /// Records the number of copies that the service manager has passed to this process: it still has them.
    pub(crate) fn set_copies(&self, copies: usize) {
        self.copies.store(copies, Ordering::Relaxed);
    }

    /// Number of copies at the service manager.
    pub(crate) fn copies(&self) -> usize {
        self.copies.load(Ordering::Relaxed)
    }

    /// Reports that data is not on disk, and whether a restart loses it.
    pub(crate) fn announce(
        &self,
        held: &UnsavedCopy<'_>,
        portal: &PortalName,
        conditions: &Conditions,
        error: &StateError,
    ) {
        let (where_else, what) = match (&held.slot, self.keeps) {
            (Slot::Empty | Slot::Refused, _) | (_, FdStore::Nothing) => {
                ("", Condition::Unsaved(portal))
            }
            (Slot::At(_), FdStore::UpTo(_)) => (
                "; the service manager has a copy, which a crash or a restart does not lose",
                Condition::UnsavedButKept(portal),
            ),
            (Slot::At(_), FdStore::Unknown) => (
                "; the service manager was given a copy for the next start, and does not say whether it keeps it",
                Condition::Unsaved(portal),
            ),
        };
        let reason = format!(
            "{} is not on disk, it is held in memory{where_else}: {}",
            held.what(),
            error_chain(error)
        );
        conditions.begin(what, reason);
    }

    /// Whether the pair of a portal's claim was found: then the claim is not orphaned.
    pub(crate) fn has_claim(&self, portal: &PortalName, claim: ClaimId) -> bool {
        self.found
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .any(|FoundCopy { carried, .. }| {
                let claim_of_copy = match &carried.load {
                    Load::Renewal(pair, _) | Load::Candidate(pair) => Some(pair.claim.0),
                    Load::Grant(..) | Load::Reply(_) | Load::Aside(..) => None,
                };
                carried.portal == *portal && claim_of_copy == Some(claim)
            })
    }

    pub(crate) fn add(&self, found: FoundCopy) {
        self.found
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(found);
    }

    pub(crate) fn take(&self) -> Vec<FoundCopy> {
        std::mem::take(&mut *self.found.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn remove(name: &str) {
    if let Err(error) = systemd::unstore(name) {
        // The next start detects that it is stored already.
        tracing::warn!(name, %error, "the service manager cannot remove its copy {name}: {error}");
    }
}
