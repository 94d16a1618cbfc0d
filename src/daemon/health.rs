//! Whether the daemon is well: what `/livez`, `/readyz` and the heartbeat ask.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use refreshd_time::clock::{Clock, Tick};

/// Live means that the scheduler made progress in this time.
const LIVE: Duration = Duration::from_secs(60);

/// Writable means that the state took something in about this time; the loop goes round at least twice a minute.
const RECENT_WRITE: Duration = Duration::from_secs(45);

/// Whether the daemon is well. Everything here can be ill.
pub struct Health {
    clock: Clock,
    progress: Mutex<Tick>,
    written: Mutex<Tick>,
    unwritable: AtomicBool,
    unpublished: AtomicU64,
    stopping: AtomicBool,
}

impl Health {
    /// Well, as at a start.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self {
            clock,
            progress: Mutex::new(clock.tick()),
            written: Mutex::new(clock.tick()),
            unwritable: AtomicBool::new(false),
            unpublished: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
        }
    }

    /// The scheduler went round once more.
    pub fn progress(&self) {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = self.clock.tick();
    }

    /// Whether the scheduler went round within the last minute.
    #[must_use]
    pub fn is_live(&self) -> bool {
        let progress = *self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        self.clock.elapsed(progress) < LIVE
    }

    /// Notes whether the state could be written; true if that changed.
    pub fn state_writable(&self, writable: bool) -> bool {
        if writable {
            *self.written.lock().unwrap_or_else(PoisonError::into_inner) = self.clock.tick();
        }
        self.unwritable.swap(!writable, Ordering::Relaxed) == writable
    }

    /// Whether the last write to the state went well.
    #[must_use]
    pub fn is_state_writable(&self) -> bool {
        !self.unwritable.load(Ordering::Relaxed)
    }

    /// Whether it must be seen that the state can be written: it could not, or nothing was written for a while.
    #[must_use]
    pub fn is_state_unproven(&self) -> bool {
        let written = *self.written.lock().unwrap_or_else(PoisonError::into_inner);
        !self.is_state_writable() || self.clock.elapsed(written) >= RECENT_WRITE
    }

    /// Notes how many portals' files could not be written.
    pub fn unpublished(&self, portals: u64) {
        self.unpublished.store(portals, Ordering::Relaxed);
    }

    /// How many portals' files could not be written.
    #[must_use]
    pub fn count_unpublished(&self) -> u64 {
        self.unpublished.load(Ordering::Relaxed)
    }

    /// Notes that the daemon is about to end.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Whether it is about to end.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }
}
