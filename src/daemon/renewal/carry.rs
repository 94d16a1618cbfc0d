//! What the state refuses is given to the service manager, which keeps it for the next process (`FDSTORE`, sd_notify(3)).
//!
//! Must not let go of a copy before what it holds is durable or void.

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

/// What a kept reply is called in a sentence.
pub(crate) const UNREADABLE_REPLY: &str = "a reply that could not be read";
/// How the names of what is ours begin in the service manager's store.
pub(crate) const PREFIX: &str = "pair-";

/// Where the service manager has a copy.
#[derive(Debug, Default)]
pub(crate) enum Slot {
    /// It has none.
    #[default]
    Empty,
    /// It has none, and why not was said.
    Refused,
    /// It has one, under this name.
    At(String),
}

/// What is held until it is durable.
pub(crate) struct Held<'h> {
    /// The same for the next process.
    pub(crate) unsaved: Unsaved<'h>,
    /// Where the service manager has a copy.
    pub(crate) slot: Slot,
}

impl Held<'_> {
    /// What it is, in a sentence.
    pub(crate) const fn what(&self) -> &'static str {
        match self.unsaved {
            Unsaved::Reply(..) => UNREADABLE_REPLY,
            _ => "a new pair",
        }
    }

    /// What is said once it is durable.
    pub(crate) const fn stored(&self) -> &'static str {
        match self.unsaved {
            Unsaved::Reply(..) => "the reply is on disk now",
            _ => "the new pair is on disk now",
        }
    }
}

/// The copies that the service manager has.
pub struct Carry {
    keeps: FdStore,
    copies: AtomicUsize,
    inherited: usize,
    found: Mutex<Vec<Found>>,
}

/// What was found and is not stored yet.
pub(crate) struct Found {
    pub(crate) slot: Slot,
    pub(crate) carried: Carried,
    pub(crate) how: How,
}

/// How it is to be stored.
pub(crate) enum How {
    /// A renewal's pair, under its claim or to be put aside.
    Renewal(Option<Box<Portal>>),
    /// A candidate's pair.
    Candidate(Option<Box<Candidate>>),
    /// Anything else.
    AsItIs,
}

impl Carry {
    /// Nobody keeps anything.
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

    /// How many descriptors the service manager has handed over.
    pub(crate) const fn inherited(&self) -> usize {
        self.inherited
    }

    /// Gives a copy to the service manager, unless it has one. What cannot be given now may be later.
    pub(crate) fn keep(&self, held: &mut Held<'_>, portal: &PortalName, clock: Clock) {
        let Held { unsaved, slot } = held;
        let has_room = match self.keeps {
            FdStore::Nothing => false,
            FdStore::Unknown => true,
            FdStore::UpTo(most) => self.copies.load(Ordering::Relaxed) < most,
        };
        if matches!(slot, Slot::At(_)) || !has_room {
            return;
        }
        // A name of its own for each: who removes a name removes all that bear it.
        let name = format!("{PREFIX}{portal}-{}", clock.random_token());
        let bytes = unsaved.encode();
        let kept = sealed::seal("refreshd-unsaved", bytes.expose())
            .and_then(|sealed| systemd::store(&name, sealed.as_fd()));
        match kept {
            Ok(()) => {
                self.copies.fetch_add(1, Ordering::Relaxed);
                *slot = Slot::At(name);
            }
            // It is tried again with the next write.
            Err(_) if matches!(slot, Slot::Refused) => {}
            Err(error) => {
                *slot = Slot::Refused;
                tracing::warn!(%portal, %error, "{portal}: the service manager cannot be given a copy of what is not on disk: {error}");
            }
        }
    }

    /// The copy is not needed any more.
    pub(crate) fn release(&self, slot: Slot) {
        let Slot::At(name) = slot else { return };
        self.copies.fetch_sub(1, Ordering::Relaxed);
        remove(&name);
    }

    /// Notes how many copies the service manager has handed over: it has them still.
    pub(crate) fn set_copies(&self, copies: usize) {
        self.copies.store(copies, Ordering::Relaxed);
    }

    /// How many copies the service manager was given.
    pub(crate) fn copies(&self) -> usize {
        self.copies.load(Ordering::Relaxed)
    }

    /// Says that something is not on disk, and whether a restart loses it.
    pub(crate) fn announce(
        &self,
        held: &Held<'_>,
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

    /// Whether a portal's claim is one whose pair is here: it has not lost its owner.
    pub(crate) fn has_claim(&self, portal: &PortalName, claim: ClaimId) -> bool {
        self.found
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .any(|Found { carried, .. }| {
                let its = match &carried.load {
                    Load::Renewal(pair, _) | Load::Candidate(pair) => Some(pair.claim.0),
                    Load::Grant(..) | Load::Reply(_) | Load::Aside(..) => None,
                };
                carried.portal == *portal && its == Some(claim)
            })
    }

    pub(crate) fn add(&self, found: Found) {
        self.found
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(found);
    }

    pub(crate) fn take(&self) -> Vec<Found> {
        std::mem::take(&mut *self.found.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn remove(name: &str) {
    if let Err(error) = systemd::unstore(name) {
        // The next start finds that it is stored.
        tracing::warn!(name, %error, "the service manager cannot be told that it need not keep {name}: {error}");
    }
}
